//! The protocols of trackers and of CloudEvents, decoded into events of one shape (`docs/EVENTS.md`).
//!
//! All pure: bytes, query and headers in, events out. A request is read in two steps, because who may send is decided between
//! them: [`read`] finds out what it holds and who it says it is from, [`Outline::write`] writes the events. Not here: HTTP
//! answers, see [`super::tracker_http`], and whether an event may enter the log, see [`super::accept`].

pub mod base64_text;
pub mod clock_skew;
pub mod cloudevents;
pub mod cookie;
pub mod event_shape;
pub mod head;
pub mod members;
pub mod segment;
mod segment_batch;
mod segment_message;
pub mod snowplow;
mod snowplow_event;
mod snowplow_parameters;

use std::{borrow::Cow, iter, ops::Range};

use keyloom_actors::timestamp::Timestamp;

pub use self::head::Head;
use self::{
    event_shape::{Decoded, Room},
    members::Unread,
};
use super::{refusal::Refusal, split::split};

/// What a client speaks. A closed set: these are metric labels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// Keyloom's own JSON.
    Json,
    /// Snowplow's tracker protocol.
    Snowplow,
    /// The HTTP API of Segment, which RudderStack has too.
    Segment,
    /// CloudEvents 1.0 over HTTP.
    CloudEvents,
    /// gRPC.
    Grpc,
}

impl Protocol {
    /// Its name in metrics and events.
    pub fn label(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Snowplow => "snowplow",
            Self::Segment => "segment",
            Self::CloudEvents => "cloudevents",
            Self::Grpc => "grpc",
        }
    }

    /// Whether a tracker speaks it: a program in somebody's browser that can do nothing about a rejected event, so that it
    /// is stored as a dead letter instead of being answered.
    pub fn is_tracker(self) -> bool {
        matches!(self, Self::Snowplow | Self::Segment)
    }
}

/// How a request is to be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Wire {
    /// Own format: an object, an array or lines.
    Json,
    /// Events that are cut already: where each is in the body.
    Cut(Vec<Range<usize>>),
    /// Snowplow's `payload_data` in the body.
    SnowplowBody,
    /// One Snowplow event in the query; the body given is that query.
    SnowplowQuery,
    /// A call of Segment's API.
    Segment(segment::Call),
    /// CloudEvents; headers and body say in which mode.
    CloudEvents,
}

impl Wire {
    /// What is spoken.
    pub fn protocol(&self) -> Protocol {
        match self {
            Self::Json => Protocol::Json,
            Self::Cut(_) => Protocol::Grpc,
            Self::SnowplowBody | Self::SnowplowQuery => Protocol::Snowplow,
            Self::Segment(_) => Protocol::Segment,
            Self::CloudEvents => Protocol::CloudEvents,
        }
    }
}

/// What the front door itself knows of a request, and adds to its events.
#[derive(Clone, Copy, Debug)]
pub struct Stamps<'a> {
    /// When it was received.
    pub now: Timestamp,
    /// Where it came from, as private as the source wants it.
    pub address: Option<&'a str>,
    /// The rest.
    pub head: &'a Head,
}

/// What is added to the event of a request with this index: only Snowplow's requests may hold those of several sources.
pub type StampsOf<'f, 's> = &'f dyn Fn(usize) -> Stamps<'s>;

/// A request's events, found but not decoded.
pub enum Outline<'a> {
    /// They are pieces of the body as they are.
    AsSent(Vec<Range<usize>>),
    /// See [`snowplow`].
    Snowplow(snowplow::Payload<'a>),
    /// See [`segment`].
    Segment(segment::Payload<'a>),
    /// See [`cloudevents`].
    CloudEvents(cloudevents::Payload<'a>),
}

/// Finds the events of a request, at most `events_max`. Refuses what is not the protocol.
pub fn read<'a>(wire: &Wire, body: &'a [u8], head: &'a Head, events_max: usize) -> Result<Outline<'a>, Refusal> {
    let outline = match wire {
        Wire::Json => {
            Outline::AsSent(split(body, events_max).map_err(|broken| Refusal::Malformed(broken.to_string()))?)
        }
        Wire::Cut(places) => Outline::AsSent(places.clone()),
        Wire::SnowplowBody => Outline::Snowplow(snowplow::read_body(body, head, events_max)?),
        Wire::SnowplowQuery => Outline::Snowplow(snowplow::read_query(body)?),
        Wire::Segment(call) => Outline::Segment(segment::read(*call, body, head, events_max)?),
        Wire::CloudEvents => Outline::CloudEvents(cloudevents::read(body, head, events_max)?),
    };
    match outline.events() {
        0 if !matches!(outline, Outline::CloudEvents(_)) => Err(Refusal::Empty), // CloudEvents allows an empty batch
        events if events > events_max => Err(Refusal::TooMany(events_max)),
        _ => Ok(outline),
    }
}

impl Outline<'_> {
    /// How many events there are.
    pub fn events(&self) -> usize {
        match self {
            Self::AsSent(places) => places.len(),
            Self::Snowplow(payload) => payload.events(),
            Self::Segment(payload) => payload.events(),
            Self::CloudEvents(payload) => payload.events(),
        }
    }

    /// The write key that the body or the query names.
    pub fn write_key(&self) -> Option<&str> {
        match self {
            Self::Segment(payload) => payload.write_key(),
            _ => None,
        }
    }

    /// The application that each event says it is of, in their order, where the protocol has no key; else none.
    pub fn app_ids(&self) -> Box<dyn Iterator<Item = Option<Cow<'_, str>>> + '_> {
        match self {
            Self::Snowplow(payload) => Box::new(payload.app_ids()),
            _ => Box::new(iter::empty()),
        }
    }

    /// Writes the events; `None` where they are pieces of the body already, see [`Outline::into_places`].
    pub fn write(&self, stamps: StampsOf<'_, '_>, room: Room<'_>) -> Result<Option<Decoded>, Refusal> {
        match self {
            Self::AsSent(_) => Ok(None),
            Self::Snowplow(payload) => payload.write(stamps, room).map(Some),
            Self::Segment(payload) => payload.write(&stamps(0), room).map(Some),
            Self::CloudEvents(payload) => payload.write(&stamps(0), room).map(Some),
        }
    }

    /// Where the events are that are pieces of the body.
    pub fn into_places(self) -> Vec<Range<usize>> {
        match self {
            Self::AsSent(places) => places,
            _ => Vec::new(),
        }
    }
}

/// The body as text.
fn utf8(body: &[u8]) -> Result<&str, Refusal> {
    let body = body.strip_prefix(super::split::BYTE_ORDER_MARK).unwrap_or(body);
    std::str::from_utf8(body).map_err(|_| Refusal::Malformed("the body is not valid UTF-8".to_owned()))
}

/// A request that is not the protocol: says what was expected.
fn not_the_protocol(expected: &str) -> impl Fn(Unread) -> Refusal + '_ {
    move |unread| match unread {
        Unread::TooMany(max) => Refusal::TooMany(max),
        Unread::Json(problem) => Refusal::Malformed(format!("expected {expected}: {problem}")),
    }
}

#[cfg(test)]
mod tests;
