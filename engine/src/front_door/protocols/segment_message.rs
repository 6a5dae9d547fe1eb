//! One message of Segment's HTTP API, written in the shape of `docs/EVENTS.md`.
//!
//! Pure.

use std::borrow::Cow;

use keyloom_actors::{dead_letter::Reason, event::fields::Kind, timestamp::Timestamp};

use super::{
    Stamps, clock_skew,
    event_shape::{EventWriter, write_text},
    members::{Given, Member, get, members},
    segment::MessageType,
};
use crate::front_door::Rejection;

/// Digits of epoch milliseconds since 2001.
const EPOCH_MILLIS_DIGITS_MIN: usize = 13;

/// Writes `message`, whose type the path says or the message itself; `shared` is what its batch says for all.
pub(super) fn write(
    kind: Option<MessageType>,
    message: &str,
    shared: &[Member<'_>],
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
    let mut event = EventWriter::new(out);
    event.text("event", &event_name);
    event.text("message_type", kind.name());
    event.text("protocol", "segment");
    event.time("collector_tstamp", stamps.now);
    let times = Times::of(&own, shared, stamps.now);
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
    for Member { name, value } in shared {
        let is_shared = match name.as_ref() {
            "sentAt" => times.took_shared_sent,
            "context" => value.kind() == Kind::Object,
            _ => false,
        };
        if !is_shared {
            let clashes = get(&own, name).is_some_and(|given| !given.is_null());
            event.extra(&if clashes { format!("batch.{name}") } else { name.to_string() }, value);
        }
    }
    context(&mut event, kind, &own, shared, stamps)?;
    if let Some(id) = stamps.head.anonymous_id() {
        event.text("domain_userid", &id);
    }
    event.finish();
    Ok(())
}

fn object(event: &mut EventWriter<'_>, field: &'static str, value: &Given<'_>) -> bool {
    value.kind() == Kind::Object && value.json().is_some_and(|json| event.json(field, json))
}

/// Writes the context, and the fields that are copied out of it and out of a page's properties.
fn context(
    event: &mut EventWriter<'_>,
    kind: MessageType,
    own: &[Member<'_>],
    shared: &[Member<'_>],
    stamps: &Stamps<'_>,
) -> Result<(), Rejection> {
    let read = |what: &[Member<'_>]| -> Option<String> {
        Some(get(what, "context")?.json().filter(|json| json.starts_with('{'))?.to_owned())
    };
    let whole = match (read(own), read(shared)) {
        (Some(own), Some(shared)) => merged(&own, &shared)?,
        (own, shared) => own.or(shared).unwrap_or_default(),
    };
    let parts = if whole.is_empty() { Vec::new() } else { inside("context", &whole)? };
    let child = |parts: &[Member<'_>], name: &str| get(parts, name).and_then(Given::json).map(str::to_owned);
    let part = |name: &str| child(&parts, name).filter(|json| json.starts_with('{')).unwrap_or_else(|| "{}".to_owned());
    let properties = get(own, "properties").and_then(Given::json).filter(|json| json.starts_with('{'));
    let properties = inside("properties", properties.unwrap_or("{}"))?;
    let (page, library) = (part("page"), part("library"));
    let (page, library) = (inside("context.page", &page)?, inside("context.library", &library)?);

    for (field, name) in [("page_url", "url"), ("page_title", "title"), ("page_referrer", "referrer")] {
        let of_page = get(&properties, name).filter(|_| kind == MessageType::Page);
        for given in of_page.into_iter().chain(get(&page, name)) {
            event.given_text(field, given);
        }
    }
    for (field, given) in [
        ("useragent", get(&parts, "userAgent")),
        ("br_lang", get(&parts, "locale")),
        ("os_timezone", get(&parts, "timezone")),
        ("session_id", get(&parts, "sessionId")),
        ("user_ipaddress", get(&parts, "ip")),
        ("name_tracker", get(&library, "name")),
        ("v_tracker", get(&library, "version")),
    ] {
        if let Some(given) = given {
            event.given_id(field, given);
        }
    }
    if matches!(kind, MessageType::Identify | MessageType::Group)
        && let Some(traits) = get(&parts, "traits")
    {
        object(event, "traits", traits);
    }
    let channel = get(own, "channel").and_then(Given::text);
    let library = get(&library, "name").and_then(Given::text);
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
    if !whole.is_empty() {
        event.json("context", &whole);
    }
    Ok(())
}

fn inside<'a>(name: &str, json: &'a str) -> Result<Vec<Member<'a>>, Rejection> {
    members(json).map_err(|problem| Rejection::new(Reason::Schema, format!("{name}: {problem}")))
}

/// A message's context with what its batch adds; what the message says counts.
fn merged(own: &str, shared: &str) -> Result<String, Rejection> {
    let (own, shared) = (inside("context", own)?, inside("context of the batch", shared)?);
    let mut out = Vec::new();
    let added = shared.iter().filter(|member| get(&own, &member.name).is_none());
    for Member { name, value } in own.iter().chain(added) {
        out.push(if out.is_empty() { b'{' } else { b',' });
        write_text(&mut out, name);
        out.push(b':');
        out.extend_from_slice(value.json().unwrap_or("null").as_bytes());
    }
    if out.is_empty() {
        out.push(b'{');
    }
    out.push(b'}');
    Ok(String::from_utf8(out).unwrap_or_default())
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
    fn of(own: &[Member<'_>], shared: &[Member<'_>], received: Timestamp) -> Self {
        let read = |from: &[Member<'_>], name: &str| {
            let given = get(from, name)?;
            let text = given.text()?;
            // A number is epoch milliseconds, and no date without dashes.
            let is_time = given.kind() == Kind::String || text.len() >= EPOCH_MILLIS_DIGITS_MIN;
            Timestamp::parse(&text).filter(|_| is_time)
        };
        let (original, timestamp) = (read(own, "originalTimestamp"), read(own, "timestamp"));
        let (own_sent, shared_sent) = (read(own, "sentAt"), read(shared, "sentAt"));
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
