//! One event of Snowplow's tracker protocol, written in the shape of `docs/EVENTS.md`.
//!
//! Pure.

use std::collections::HashSet;

use axum::http::header;
use keyloom_actors::{dead_letter::Reason, event::fields::Kind, timestamp::Timestamp};

use super::{
    Stamps, base64_text, clock_skew,
    event_shape::{EventWriter, number},
    members::{Given, MEMBERS_MAX, Member, elements, get, members},
    snowplow_parameters::{Meaning, event, field, flag, overruled_by, size},
};
use crate::front_door::Rejection;

/// The schemas around self-describing events and contexts: the same for everybody, so they are not kept.
const UNSTRUCT_EVENT: &str = "iglu:com.snowplowanalytics.snowplow/unstruct_event/jsonschema/1-0-0";
const CONTEXTS: [&str; 2] = [
    "iglu:com.snowplowanalytics.snowplow/contexts/jsonschema/1-0-0",
    "iglu:com.snowplowanalytics.snowplow/contexts/jsonschema/1-0-1",
];
/// Contexts that say what has a field.
const WEB_PAGE: &str = "iglu:com.snowplowanalytics.snowplow/web_page/";
const CLIENT_SESSION: &str = "iglu:com.snowplowanalytics.snowplow/client_session/";
/// What trackers of phones send as the user of a session when they are to be anonymous.
const NOBODY: &str = "00000000-0000-0000-0000-000000000000";

/// The parameters in an event's object.
pub(super) fn object(json: &str) -> Result<Vec<Member<'_>>, Rejection> {
    members(json).map_err(|problem| Rejection::new(Reason::Parse, format!("not an object of parameters: {problem}")))
}

/// What the query of a request says for all of its events.
pub(super) struct Query<'q> {
    members: &'q [Member<'q>],
    names: HashSet<&'q str>,
}

impl<'q> Query<'q> {
    /// Of these parameters. Made once per request: every member of every event is looked up.
    pub(super) fn new(members: &'q [Member<'q>]) -> Self {
        Self { members, names: members.iter().map(|member| member.name.as_ref()).collect() }
    }
}

/// Writes the event of these parameters; those of the query count before those of the event's object.
pub(super) fn write(
    query: &Query<'_>,
    own: &[Member<'_>],
    stamps: &Stamps<'_>,
    out: &mut Vec<u8>,
) -> Result<(), Rejection> {
    let find = |name: &str| get(query.members, name).or_else(|| get(own, name)).filter(|given| !given.is_null());
    let text = |name: &str| find(name).and_then(Given::text);
    let code = text("e").ok_or_else(|| schema("the parameter e is missing: it says what kind of event it is"))?;
    let Some(name) = event(&code) else {
        return Err(schema(format!("e={code} is no kind of event; known are pv, pp, ue, se, tr, ti")));
    };
    let mut event = EventWriter::new(out);
    event.text("event", name);
    event.text("protocol", "snowplow");
    event.time("collector_tstamp", stamps.now);
    let time = |name| text(name).and_then(|text| clock_skew::epoch_millis(&text));
    let derived = time("ttm").unwrap_or_else(|| clock_skew::derived(stamps.now, time("dtm"), time("stm")));
    event.time("derived_tstamp", derived);

    let is_anonymous = stamps.head.is_anonymous();
    let says = |name: &str| text(name).is_some_and(|text| !text.is_empty());
    let mut nested = Nested::default();
    let of_query = query.members.iter().map(|member| (member, false));
    let of_object = own.iter().map(|member| (member, query.names.contains(member.name.as_ref())));
    for (Member { name, value }, is_overruled) in of_query.chain(of_object) {
        // An anonymous event keeps neither address nor network id, whoever sent them.
        if is_anonymous && matches!(name.as_ref(), "ip" | "nuid" | "tnuid") {
            continue;
        }
        if is_overruled {
            event.extra(&format!("body.{name}"), value);
            continue;
        }
        let is_taken = match name.as_ref() {
            "e" => true,
            name if overruled_by(name).is_some_and(says) => false,
            "ue_pr" | "ue_px" if !nested.has_event() => nested.event(&mut event, name, value)?,
            "co" | "cx" => nested.contexts(&mut event, name, value)?,
            name => scalar(&mut event, name, value),
        };
        if !is_taken {
            event.extra(name, value);
        }
    }
    if name == "unstruct" && !nested.has_event() {
        return Err(schema("e=ue without ue_pr or ue_px: there is no self-describing event"));
    }
    nested.finish(&mut event);
    if let Some(useragent) = stamps.head.text(header::USER_AGENT) {
        event.text("useragent", useragent);
    }
    if let Some(referer) = stamps.head.text(header::REFERER) {
        event.text("page_url", referer);
    }
    if !is_anonymous {
        if let Some(address) = stamps.address {
            event.text("user_ipaddress", address);
        }
        if let Some(id) = &stamps.head.network_userid {
            event.text("network_userid", id);
        }
    }
    event.finish();
    Ok(())
}

fn schema(text: impl Into<String>) -> Rejection {
    Rejection::new(Reason::Schema, text)
}

/// Writes a parameter that is a single value; `false` when it has no field, does not say what the field means, or says it in
/// other letters than the field has: then it is to be kept as it is, too.
fn scalar(event: &mut EventWriter<'_>, name: &str, value: &Given<'_>) -> bool {
    let Some((field, meaning)) = field(name) else { return false };
    match meaning {
        Meaning::Text => event.given_text(field, value),
        Meaning::Id => event.given_id(field, value),
        _ => value.text().is_some_and(|text| converted(event, field, meaning, &text)),
    }
}

fn converted(event: &mut EventWriter<'_>, field: &'static str, meaning: Meaning, sent: &str) -> bool {
    let text = sent.trim();
    match meaning {
        Meaning::Text | Meaning::Id => event.text(field, sent),
        Meaning::Integer => text.parse::<i64>().is_ok_and(|number| {
            let number = number.to_string();
            event.json(field, &number) && number == sent
        }),
        Meaning::Number => number(text).is_some_and(|number| event.json(field, &number) && number == sent),
        Meaning::Flag => flag(text).is_some_and(|flag| event.json(field, if flag { "true" } else { "false" })),
        Meaning::Size(height_field) => size(text).is_some_and(|(width, height)| {
            let sizes = event.json(field, &width.to_string()) && event.json(height_field, &height.to_string());
            sizes && format!("{width}x{height}") == sent
        }),
        Meaning::Time => {
            let time: Option<Timestamp> = clock_skew::epoch_millis(text);
            time.is_some_and(|time| event.time(field, time))
        }
    }
}

/// What an event's self-describing parts have said so far.
#[derive(Default)]
struct Nested {
    event: Option<String>,
    contexts: Vec<String>,
    page_view_id: Option<String>,
    session: Option<ClientSession>,
}

/// What a tracker of phones says of its session, where others have parameters.
struct ClientSession {
    user: Option<String>,
    id: Option<String>,
    index: Option<String>,
}

impl Nested {
    fn has_event(&self) -> bool {
        self.event.is_some()
    }

    /// Takes a self-describing event.
    fn event(&mut self, event: &mut EventWriter<'_>, name: &str, value: &Given<'_>) -> Result<bool, Rejection> {
        let Some(json) = self_describing(name, value)? else { return Ok(false) };
        let envelope = parts(name, &json)?;
        let outer = get(&envelope, "schema").and_then(Given::text).unwrap_or_default();
        let inner = match get(&envelope, "data").filter(|_| outer.contains("/unstruct_event/")) {
            Some(data) => {
                keep_envelope(event, name, &envelope, &[UNSTRUCT_EVENT]);
                data.json().filter(|_| data.kind() == Kind::Object)
            }
            None => Some(json.as_str()), // sent without the envelope
        };
        let inner = inner.ok_or_else(|| schema(format!("{name} holds no self-describing event")))?;
        let described = parts(name, inner)?;
        let said = get(&described, "schema").and_then(Given::text).unwrap_or_default();
        let mut names = said.strip_prefix("iglu:").unwrap_or_default().split('/');
        for field in ["event_vendor", "event_name", "event_format", "event_version"] {
            if let Some(part) = names.next().filter(|part| !part.is_empty()) {
                event.text(field, part);
            }
        }
        self.event = Some(inner.to_owned());
        Ok(true)
    }

    /// Takes contexts.
    fn contexts(&mut self, event: &mut EventWriter<'_>, name: &str, value: &Given<'_>) -> Result<bool, Rejection> {
        let Some(json) = self_describing(name, value)? else { return Ok(false) };
        let bad = |problem| schema(format!("{name} holds no array of contexts: {problem}"));
        let array = if json.trim_start().starts_with('[') {
            json.as_str() // sent without the envelope
        } else {
            let envelope = parts(name, &json)?;
            keep_envelope(event, name, &envelope, &CONTEXTS);
            get(&envelope, "data").and_then(Given::json).unwrap_or_default()
        };
        for context in elements(array, MEMBERS_MAX).map_err(|problem| bad(problem.to_string()))? {
            self.context(context);
            self.contexts.push(context.to_owned());
        }
        Ok(true)
    }

    /// Reads what has a field out of a context.
    fn context(&mut self, context: &str) {
        let Ok(described) = members(context) else { return };
        let schema = get(&described, "schema").and_then(Given::text).unwrap_or_default();
        let (is_page, is_session) = (schema.starts_with(WEB_PAGE), schema.starts_with(CLIENT_SESSION));
        let data = get(&described, "data").and_then(Given::json).filter(|_| is_page || is_session);
        let Some(Ok(data)) = data.map(members) else { return };
        let id = |name| get(&data, name).and_then(Given::text).filter(|id| !id.is_empty()).map(|id| id.into_owned());
        if is_page && self.page_view_id.is_none() {
            self.page_view_id = id("id");
        } else if is_session && self.session.is_none() {
            let index = id("sessionIndex").filter(|index| index.parse::<i64>().is_ok());
            self.session =
                Some(ClientSession { user: id("userId").filter(|user| user != NOBODY), id: id("sessionId"), index });
        }
    }

    /// Writes it all.
    fn finish(self, event: &mut EventWriter<'_>) {
        if let Some(page_view_id) = &self.page_view_id {
            event.text("page_view_id", page_view_id);
        }
        if let Some(ClientSession { user, id, index }) = &self.session {
            user.as_ref().map(|user| event.text("domain_userid", user));
            id.as_ref().map(|id| event.text("session_id", id));
            index.as_ref().map(|index| event.json("session_index", index));
        }
        if let Some(json) = &self.event {
            event.json("unstruct_event", json);
        }
        if !self.contexts.is_empty() {
            event.json("contexts", &format!("[{}]", self.contexts.join(",")));
        }
    }
}

/// The JSON text of a parameter that holds one, in base64 where its name ends so; `None` when there is nothing in it.
fn self_describing(name: &str, value: &Given<'_>) -> Result<Option<String>, Rejection> {
    if matches!(value.kind(), Kind::Object | Kind::Array) {
        return Ok(value.json().map(str::to_owned)); // not what the protocol says, and clear all the same
    }
    let text = value.text().unwrap_or_default();
    if text.trim().is_empty() {
        return Ok(None);
    }
    if !name.ends_with('x') {
        return Ok(Some(text.into_owned()));
    }
    let decoded = base64_text::decode_text(&text);
    decoded.map(Some).ok_or_else(|| Rejection::new(Reason::Parse, format!("{name} is not base64 of a text")))
}

fn parts<'a>(name: &str, json: &'a str) -> Result<Vec<Member<'a>>, Rejection> {
    members(json).map_err(|problem| Rejection::new(Reason::Parse, format!("{name} is not a JSON object: {problem}")))
}

/// Keeps what an envelope says beside its data, but for the schemas that everybody sends.
fn keep_envelope(event: &mut EventWriter<'_>, name: &str, envelope: &[Member<'_>], common: &[&str]) {
    for Member { name: part, value } in envelope.iter().filter(|member| member.name != "data") {
        let is_common = part == "schema" && value.text().is_some_and(|schema| common.contains(&schema.as_ref()));
        if !is_common {
            event.extra(&format!("{name}.{part}"), value);
        }
    }
}
