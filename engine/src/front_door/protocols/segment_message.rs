//! One message of Segment's HTTP API, written in the shape of `docs/EVENTS.md`.
//!
//! Pure.

use std::borrow::Cow;

use keyloom_actors::{dead_letter::Reason, event::fields::Kind, timestamp::Timestamp};

use super::{
    Stamps, clock_skew,
    event_shape::EventWriter,
    members::{Given, Member, get, members},
    segment::MessageType,
    segment_batch::{Context, Shared, inside, object_text},
};
use crate::front_door::Rejection;

/// Digits of epoch milliseconds since 2001.
const EPOCH_MILLIS_DIGITS_MIN: usize = 13;

/// Writes `message`, whose type the path says or the message itself; `shared` is what its batch says for all. What is rejected is
/// so before anything of the batch is written.
pub(super) fn write<'m>(
    kind: Option<MessageType>,
    message: &'m str,
    shared: &'m Shared<'m>,
    stamps: &Stamps<'_>,
    out: &mut Vec<u8>,
) -> Result<(), Rejection> {
    let own = members(message)
        .map_err(|problem| Rejection::new(Reason::Parse, format!("not a message of Segment's HTTP API: {problem}")))?;
    let said = get(&own, "type").and_then(Given::text).and_then(|name| MessageType::from_name(&name));
    let Some(kind) = kind.or(said) else {
        let names = MessageType::ALL.map(MessageType::name).join(", ");
        return Err(Rejection::new(Reason::Schema, format!("type is none of {names}")));
    };
    let text = |name: &str| get(&own, name).and_then(Given::text).filter(|text| !text.is_empty());
    let event_name: Cow<'_, str> = match kind {
        MessageType::Track => text("event").ok_or_else(|| {
            Rejection::new(Reason::Schema, "a track message needs the name of what was done in event")
        })?,
        MessageType::Page => "page_view".into(),
        MessageType::Screen => "screen_view".into(),
        MessageType::Identify | MessageType::Group | MessageType::Alias => kind.name().into(),
    };
    let nested = Nested::of(&own, shared)?;
    let mut event = EventWriter::new(out);
    event.text("event", &event_name);
    event.text("message_type", kind.name());
    event.text("protocol", "segment");
    event.time("collector_tstamp", stamps.now);
    let times = Times::of(&own, shared.sent, stamps.now);
    times.write(&mut event);

    for Member { name, value } in &own {
        let is_taken = match name.as_ref() {
            "writeKey" => true, // a credential, not a part of the event
            "event" => kind == MessageType::Track,
            "type" => value.text().is_some_and(|text| text == kind.name()),
            "messageId" => event.given_id("event_id", value),
            "anonymousId" => event.given_id("domain_userid", value),
            "userId" => event.given_id("user_id", value),
            "groupId" => event.given_id("group_id", value),
            "previousId" => event.given_id("previous_id", value),
            "name" if kind == MessageType::Page => event.given_text("page_name", value),
            "name" if kind == MessageType::Screen => event.given_text("screen_name", value),
            "properties" => object(&mut event, "properties", value),
            "traits" => object(&mut event, "traits", value),
            "context" => value.kind() == Kind::Object, // written below, with what the batch adds
            "timestamp" | "originalTimestamp" | "sentAt" => times.took(name),
            _ => false,
        };
        if !is_taken {
            event.extra(name, value);
        }
    }
    shared.write_others(&own, times.took_shared_sent, &mut event);
    nested.write(kind, &own, stamps, &mut event);
    if let Some(id) = stamps.head.anonymous_id() {
        event.text("domain_userid", &id);
    }
    event.finish();
    Ok(())
}

fn object(event: &mut EventWriter<'_>, field: &'static str, value: &Given<'_>) -> bool {
    value.kind() == Kind::Object && value.json().is_some_and(|json| event.json(field, json))
}

/// What a message says in objects: its context and what is in it, and its properties.
struct Nested<'m> {
    context: Context<'m>,
    page: Cow<'m, [Member<'m>]>,
    library: Cow<'m, [Member<'m>]>,
    properties: Vec<Member<'m>>,
}

impl<'m> Nested<'m> {
    fn of(own: &[Member<'m>], shared: &'m Shared<'m>) -> Result<Self, Rejection> {
        let context = Context::of(own, shared)?;
        let properties = inside("properties", object_text(own, "properties").unwrap_or("{}"))?;
        Ok(Self { page: context.page()?, library: context.library()?, context, properties })
    }

    /// Writes the context, and the fields that are copied out of it and out of a page's properties.
    fn write(&self, kind: MessageType, own: &[Member<'_>], stamps: &Stamps<'_>, event: &mut EventWriter<'_>) {
        let Self { context, page, library, properties } = self;
        for (field, name) in [("page_url", "url"), ("page_title", "title"), ("page_referrer", "referrer")] {
            let of_page = get(properties, name).filter(|_| kind == MessageType::Page);
            for given in of_page.into_iter().chain(get(page, name)) {
                event.given_text(field, given);
            }
        }
        for (field, given) in [
            ("useragent", context.get("userAgent")),
            ("br_lang", context.get("locale")),
            ("os_timezone", context.get("timezone")),
            ("session_id", context.get("sessionId")),
            ("user_ipaddress", context.get("ip")),
            ("name_tracker", get(library, "name")),
            ("v_tracker", get(library, "version")),
        ] {
            if let Some(given) = given {
                event.given_id(field, given);
            }
        }
        if matches!(kind, MessageType::Identify | MessageType::Group)
            && let Some(traits) = context.get("traits")
        {
            object(event, "traits", traits);
        }
        let channel = get(own, "channel").and_then(Given::text);
        let library = get(library, "name").and_then(Given::text);
        let platform = channel.as_deref().and_then(platform_of_channel);
        let platform = platform.or_else(|| platform_of_library(library.as_deref()?));
        if let Some(platform) = platform {
            event.text("platform", platform);
        }
        // The address of a server that sends for its users is none of theirs.
        if platform != Some("srv")
            && let Some(address) = stamps.address
        {
            event.text("user_ipaddress", address);
        }
        context.write(event);
    }
}

fn platform_of_channel(channel: &str) -> Option<&'static str> {
    match channel {
        "web" | "browser" | "client" => Some("web"),
        "mobile" => Some("mob"),
        "server" | "sources" => Some("srv"),
        _ => None,
    }
}

/// What the official libraries run on; others say it in their channel, or not at all.
fn platform_of_library(name: &str) -> Option<&'static str> {
    match name.trim_start_matches("@segment/") {
        "analytics.js" | "analytics-next" => Some("web"),
        "analytics-ios"
        | "analytics-swift"
        | "analytics-android"
        | "analytics-kotlin"
        | "analytics-react-native"
        | "analytics-flutter" => Some("mob"),
        "analytics-node" | "analytics-python" | "analytics-ruby" | "analytics-go" | "analytics-java"
        | "analytics-php" | "analytics-csharp" | "Analytics.NET" => Some("srv"),
        _ => None,
    }
}

/// The time that the member with this name says.
pub(super) fn time(from: &[Member<'_>], name: &str) -> Option<Timestamp> {
    let given = get(from, name)?;
    let text = given.text()?;
    // A number is epoch milliseconds, and no date without dashes.
    let is_time = given.kind() == Kind::String || text.len() >= EPOCH_MILLIS_DIGITS_MIN;
    Timestamp::parse(&text).filter(|_| is_time)
}

/// What a message says of its times.
#[derive(Default)]
struct Times {
    created: Option<Timestamp>,
    sent: Option<Timestamp>,
    derived: Option<Timestamp>,
    /// The members that have become a field.
    taken: Vec<&'static str>,
    took_shared_sent: bool,
}

impl Times {
    /// `originalTimestamp` is the device's; a `timestamp` beside it is right already, and alone it is the device's too.
    fn of(own: &[Member<'_>], shared_sent: Option<Timestamp>, received: Timestamp) -> Self {
        let (original, timestamp) = (time(own, "originalTimestamp"), time(own, "timestamp"));
        let own_sent = time(own, "sentAt");
        let mut times = Self { sent: own_sent.or(shared_sent), ..Self::default() };
        let taken = &mut times.taken;
        taken.extend(original.map(|_| "originalTimestamp"));
        taken.extend(timestamp.map(|_| "timestamp"));
        taken.extend(own_sent.map(|_| "sentAt"));
        times.took_shared_sent = own_sent.is_none() && shared_sent.is_some();
        times.created = original.or(timestamp);
        times.derived = match (original, timestamp, times.sent) {
            (Some(_), Some(timestamp), _) => Some(timestamp),
            (_, _, Some(sent)) => Some(clock_skew::derived(received, times.created, Some(sent))),
            (created, other, None) => created.or(other),
        };
        times
    }

    fn took(&self, name: &str) -> bool {
        self.taken.contains(&name)
    }

    fn write(&self, event: &mut EventWriter<'_>) {
        if let Some(created) = self.created {
            event.time("dvce_created_tstamp", created);
        }
        if let Some(sent) = self.sent {
            event.time("dvce_sent_tstamp", sent);
        }
        if let Some(derived) = self.derived {
            event.time("derived_tstamp", derived);
        }
    }
}
