//! The HTTP API of Segment, which RudderStack has too: one message, or a batch of them.
//!
//! Pure. How one message is written is in `segment_message`, what a batch says for all in `segment_batch`.

use std::borrow::Cow;

use keyloom_actors::event::fields::Kind;

use super::{
    Stamps,
    event_shape::{Decoded, Room},
    head::Head,
    members::{Given, Member, elements, get, members, parameters, place},
    not_the_protocol,
    segment_batch::Shared,
    segment_message, utf8,
};
use crate::front_door::refusal::Refusal;

/// What a path says of the messages in the body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    /// One message of this type.
    One(MessageType),
    /// Many, each with a type of its own.
    Batch,
}

/// The types of messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MessageType {
    /// Somebody did something.
    Track,
    /// Who somebody is.
    Identify,
    /// A page was seen.
    Page,
    /// A screen of an app was seen.
    Screen,
    /// Which group somebody belongs to.
    Group,
    /// Two ids are the same person.
    Alias,
}

impl MessageType {
    /// All types.
    pub const ALL: [Self; 6] = [Self::Track, Self::Identify, Self::Page, Self::Screen, Self::Group, Self::Alias];

    /// Its name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Track => "track",
            Self::Identify => "identify",
            Self::Page => "page",
            Self::Screen => "screen",
            Self::Group => "group",
            Self::Alias => "alias",
        }
    }

    /// The type with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name().eq_ignore_ascii_case(name))
    }
}

/// The messages of one request.
#[derive(Debug)]
pub struct Payload<'a> {
    body: &'a [u8],
    messages: Vec<&'a str>,
    /// What the path says of each.
    kind: Option<MessageType>,
    /// What a batch says for all of its messages, without the messages.
    shared: Vec<Member<'a>>,
    write_key: Option<Cow<'a, str>>,
}

/// Reads a body: one message, an object with a `batch`, or (as some browsers send) an array of messages.
pub fn read<'a>(call: Call, body: &'a [u8], head: &'a Head, events_max: usize) -> Result<Payload<'a>, Refusal> {
    let refuse = not_the_protocol("a message of Segment's HTTP API, or {\"batch\":[...]}");
    let text = utf8(body)?.trim_ascii();
    let mut payload = Payload { body, messages: Vec::new(), kind: None, shared: Vec::new(), write_key: None };
    if call == Call::Batch && text.starts_with('[') {
        payload.messages = elements(text, events_max).map_err(&refuse)?;
    } else {
        let mut found = members(text).map_err(&refuse)?;
        let batch = get(&found, "batch").filter(|given| given.kind() == Kind::Array).and_then(Given::json);
        let key = |key: &Given<'a>| (key.kind() == Kind::String).then(|| key.text()).flatten();
        payload.write_key = get(&found, "writeKey").and_then(key).filter(|key| !key.is_empty());
        match (call, batch) {
            (Call::Batch, None) => {
                return Err(Refusal::Malformed("expected {\"batch\":[...]}: there is no array batch".to_owned()));
            }
            (Call::Batch, Some(batch)) => {
                payload.messages = elements(batch, events_max).map_err(&refuse)?;
                found.retain(|member| member.name != "batch" && member.name != "writeKey");
                payload.shared = found;
            }
            (Call::One(kind), _) => {
                payload.messages.push(text);
                payload.kind = Some(kind);
            }
        }
    }
    if payload.write_key.is_none() {
        let query = parameters(&head.query).map_err(&refuse)?;
        payload.write_key = query.into_iter().find(|m| m.name == "writeKey").and_then(|m| m.value.text());
    }
    Ok(payload)
}

impl Payload<'_> {
    /// How many messages there are.
    pub fn events(&self) -> usize {
        self.messages.len()
    }

    /// The key that body or query names.
    pub fn write_key(&self) -> Option<&str> {
        self.write_key.as_deref()
    }

    /// Writes the messages as events.
    pub fn write(&self, stamps: &Stamps<'_>, room: Room<'_>) -> Result<Decoded, Refusal> {
        let mut decoded = Decoded::default();
        let shared = Shared::of(&self.shared);
        for message in &self.messages {
            decoded.event(place(self.body, message), room, |out| {
                segment_message::write(self.kind, message, &shared, stamps, out)
            })?;
        }
        Ok(decoded)
    }
}

#[cfg(test)]
#[path = "segment_tests.rs"]
mod tests;
