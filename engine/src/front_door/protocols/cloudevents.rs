//! CloudEvents 1.0 over HTTP: structured, binary, batched.
//!
//! Pure. Required attributes are checked; what an event is rejected for is answered by its index, as in the own format.

use std::borrow::Cow;

use keyloom_actors::{dead_letter::Reason, event::fields::Kind, timestamp::Timestamp};
use serde_json::value::RawValue;

use super::{
    Stamps, base64_text,
    event_shape::{Decoded, EventWriter, Room},
    head::Head,
    members::{Given, Member, elements, get, members, place},
    not_the_protocol, utf8,
};
use crate::front_door::{Rejection, refusal::Refusal};

const STRUCTURED: &str = "application/cloudevents+json";
const BATCH: &str = "application/cloudevents-batch+json";
/// What the headers of binary mode begin with.
const PREFIX: &str = "ce-";
const EXPECTED: &str = "a CloudEvent (application/cloudevents+json), a batch of them (application/cloudevents-batch+json), \
                        or data with the attributes in ce- headers";

/// The events of one request.
#[derive(Debug)]
pub struct Payload<'a> {
    body: &'a [u8],
    found: Found<'a>,
}

#[derive(Debug)]
enum Found<'a> {
    /// Each event's JSON object.
    Objects(Vec<&'a str>),
    /// The attributes of the one event whose data is the body.
    Attributes(Vec<Member<'a>>),
}

/// Whether a request says that it is a batch.
pub fn is_batch(head: &Head) -> bool {
    head.media_type().is_some_and(|media_type| media_type == BATCH)
}

/// Reads a request: the content type says whether it is one event, a batch or, with `ce-` headers, an event's data.
pub fn read<'a>(body: &'a [u8], head: &'a Head, events_max: usize) -> Result<Payload<'a>, Refusal> {
    let media_type = head.media_type().unwrap_or_default();
    let refuse = not_the_protocol(EXPECTED);
    let found = if is_batch(head) {
        Found::Objects(elements(utf8(body)?, events_max).map_err(refuse)?)
    } else if media_type == STRUCTURED {
        let text = utf8(body)?.trim_ascii();
        members(text).map_err(refuse)?;
        Found::Objects(vec![text])
    } else if head.headers.contains_key("ce-specversion") || head.headers.contains_key("ce-id") {
        Found::Attributes(attributes(head))
    } else {
        let found = if media_type.is_empty() { "no content type" } else { &media_type };
        return Err(Refusal::Malformed(format!("expected {EXPECTED}: found {found} without ce- headers")));
    };
    Ok(Payload { body, found })
}

/// The attributes in the headers of binary mode.
fn attributes(head: &Head) -> Vec<Member<'_>> {
    let mut attributes: Vec<Member<'_>> = Vec::new();
    for (name, value) in &head.headers {
        let Some(name) = name.as_str().strip_prefix(PREFIX) else { continue };
        let is_first = attributes.iter().all(|member| member.name != name);
        if let Some(text) = std::str::from_utf8(value.as_bytes()).ok().filter(|_| is_first) {
            let value = Given::Text(header_text(text));
            attributes.push(Member { name: Cow::Borrowed(name), value });
        }
    }
    let content_type = head.text(axum::http::header::CONTENT_TYPE).filter(|text| !text.is_empty());
    attributes.extend(
        content_type.map(|text| Member { name: "datacontenttype".into(), value: Given::Text(Cow::Borrowed(text)) }),
    );
    attributes
}

/// What the value of a header says, by 3.1.3.2 of the HTTP binding: a quoted string is unescaped first, percent encoding is
/// undone once behind that.
fn header_text(value: &str) -> Cow<'_, str> {
    match unquoted(value) {
        Some(text) => Cow::Owned(percent_decoded(&text).into_owned()),
        None => percent_decoded(value),
    }
}

/// What a quoted string says (RFC 9110, 5.6.4); `None` where all of the value is not one.
fn unquoted(value: &str) -> Option<String> {
    let mut rest = value.strip_prefix('"')?.chars();
    let mut text = String::with_capacity(value.len());
    loop {
        match rest.next()? {
            '"' => return rest.next().is_none().then_some(text),
            '\\' => text.push(rest.next()?),
            plain => text.push(plain),
        }
    }
}

/// Undoes the percent encoding of header values. What is no text afterwards stays as it was sent.
fn percent_decoded(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let (bytes, mut out, mut at) = (text.as_bytes(), Vec::with_capacity(text.len()), 0);
    while let Some(byte) = bytes.get(at) {
        let digit = |at: usize| bytes.get(at).and_then(|b| char::from(*b).to_digit(16));
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8(out).map_or(Cow::Borrowed(text), Cow::Owned)
}

impl Payload<'_> {
    /// How many events there are.
    pub fn events(&self) -> usize {
        match &self.found {
            Found::Objects(objects) => objects.len(),
            Found::Attributes(_) => 1,
        }
    }

    /// Writes the events.
    pub fn write(&self, stamps: &Stamps<'_>, room: Room<'_>) -> Result<Decoded, Refusal> {
        let mut decoded = Decoded::default();
        match &self.found {
            Found::Objects(objects) => {
                for object in objects {
                    decoded.event(place(self.body, object), room, |out| {
                        let parts = members(object)
                            .map_err(|problem| Rejection::new(Reason::Parse, format!("not a CloudEvent: {problem}")))?;
                        write(&parts, None, stamps, out)
                    })?;
                }
            }
            Found::Attributes(parts) => {
                decoded.event(0..self.body.len(), room, |out| write(parts, Some(self.body), stamps, out))?;
            }
        }
        Ok(decoded)
    }
}

/// Writes one event; `data` is the body of binary mode.
fn write(parts: &[Member<'_>], data: Option<&[u8]>, stamps: &Stamps<'_>, out: &mut Vec<u8>) -> Result<(), Rejection> {
    let schema = |text: String| Rejection::new(Reason::Schema, text);
    for name in ["specversion", "id", "source", "type"] {
        let given = get(parts, name).filter(|given| given.kind() == Kind::String).and_then(Given::text);
        match given.as_deref() {
            None | Some("") => {
                return Err(schema(format!("the attribute {name} is missing; it must be a text that is not empty")));
            }
            Some(version) if name == "specversion" && version != "1.0" => {
                return Err(schema(format!("specversion is {version}; 1.0 is taken")));
            }
            Some(_) => {}
        }
    }
    let text = |name| get(parts, name).and_then(Given::text).unwrap_or_default();
    let event_id = identity(&text("source"), &text("id"));
    let time = match get(parts, "time").filter(|given| !given.is_null()) {
        None => None,
        Some(given) => {
            let time = given.text().filter(|text| text.contains('-')).and_then(|text| Timestamp::parse(&text));
            Some(time.ok_or_else(|| schema("time is no RFC 3339 time".to_owned()))?)
        }
    };
    let mut event = EventWriter::new(out);
    event.text("event_id", &event_id);
    event.text("protocol", "cloudevents");
    event.time("collector_tstamp", stamps.now);
    if let Some(time) = time {
        event.time("dvce_created_tstamp", time);
        event.time("derived_tstamp", time);
    }
    for Member { name, value } in parts {
        let is_taken = match name.as_ref() {
            "type" => event.given_text("event", value),
            "time" => time.is_some(),
            "specversion" => event.given_text("specversion", value),
            "source" => event.given_text("source", value),
            "subject" => event.given_text("subject", value),
            "datacontenttype" => event.given_text("datacontenttype", value),
            "dataschema" => event.given_text("dataschema", value),
            "data" if data.is_none() => value.json().is_some_and(|json| event.json("data", json)),
            "data_base64" if data.is_none() => event.given_text("data_base64", value),
            _ => false,
        };
        if !is_taken {
            event.extra(name, value);
        }
    }
    if let Some(bytes) = data.filter(|bytes| !bytes.is_empty()) {
        let media_type = get(parts, "datacontenttype").and_then(Given::text).unwrap_or_default();
        body(&mut event, &media_type, bytes)?;
    }
    event.finish();
    Ok(())
}

/// What a CloudEvent is known by: its producer gives out ids, so another producer may give out the same. No URI has a blank: the
/// first one is where the source ends.
fn identity(source: &str, id: &str) -> String {
    format!("{} {id}", source.replace(' ', "%20"))
}

/// The data of binary mode: JSON as it is, text as a text, all else in base64.
fn body(event: &mut EventWriter<'_>, media_type: &str, bytes: &[u8]) -> Result<(), Rejection> {
    let media_type = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_json = media_type == "application/json" || media_type == "text/json" || media_type.ends_with("+json");
    let json = || serde_json::from_slice::<&RawValue>(bytes);
    let text = std::str::from_utf8(bytes).ok();
    if is_json {
        let json =
            json().map_err(|error| Rejection::new(Reason::Parse, format!("the body is not {media_type}: {error}")))?;
        event.json("data", json.get());
    } else if let (true, Some(text)) = (media_type.starts_with("text/"), text) {
        event.text("data", text);
    } else if let (true, Ok(json)) = (media_type.is_empty(), json()) {
        event.json("data", json.get());
    } else {
        event.text("data_base64", &base64_text::encode(bytes));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{
        super::{
            Wire,
            tests::{NOON_TEXT, decode, head, one},
        },
        *,
    };

    fn sound() -> Value {
        json!({"specversion": "1.0", "id": "A234-1234-1234", "source": "/shop/orders", "type": "com.example.placed",
            "subject": "user-7", "time": "2026-11-20T11:59:31+00:00", "datacontenttype": "application/json",
            "data": {"user": {"id": "u7"}, "price": 12.50}, "partitionkey": "p", "event": "mine"})
    }

    fn reason(body: Value) -> String {
        let head = head(&[("content-type", STRUCTURED)]);
        let mut events = decode(&Wire::CloudEvents, body.to_string().as_bytes(), &head).expect("the protocol");
        events.remove(0).expect_err("rejected").to_string()
    }

    #[test]
    fn structured_and_batched_events_have_their_names_and_the_extensions_aside() {
        let expected = json!({"protocol": "cloudevents", "collector_tstamp": NOON_TEXT, "specversion": "1.0",
            "dvce_created_tstamp": "2026-11-20T11:59:31.000000Z", "derived_tstamp": "2026-11-20T11:59:31.000000Z",
            "event_id": "/shop/orders A234-1234-1234", "source": "/shop/orders", "event": "com.example.placed", "subject": "user-7",
            "datacontenttype": "application/json", "data": {"user": {"id": "u7"}, "price": 12.50},
            "extra": {"id": "A234-1234-1234", "partitionkey": "p", "event": "mine"}});
        let structured = head(&[("content-type", "application/cloudevents+json; charset=UTF-8")]);
        assert_eq!(one(&Wire::CloudEvents, &sound(), &structured), expected);
        let batch = head(&[("content-type", BATCH)]);
        let body = json!([sound(), {"id": "x"}, 1, {"specversion": "1.0", "id": "2", "source": "s", "type": "t", "data_base64": "AQI="}]);
        let events = decode(&Wire::CloudEvents, body.to_string().as_bytes(), &batch).expect("a batch");
        assert_eq!(events[0], Ok(expected));
        assert!(events[1].is_err() && events[2].is_err());
        assert_eq!(events[3].as_ref().map(|e| &e["data_base64"]), Ok(&json!("AQI=")));
    }

    #[test]
    fn binary_events_have_their_attributes_in_headers() {
        let binary = |content_type: &str, body: &[u8]| {
            let head = head(&[
                ("ce-specversion", "1.0"),
                ("ce-id", "1"),
                ("ce-source", "/a%20b%2"),
                ("ce-type", "placed"),
                ("ce-time", "2026-11-20T11:59:31Z"),
                ("ce-comexample", "Euro %E2%82%AC"),
                ("ce-data", "not the data"),
                ("content-type", content_type),
                ("x-other", "1"),
            ]);
            let mut events = decode(&Wire::CloudEvents, body, &head).expect("the protocol");
            events.remove(0)
        };
        let event = binary("application/json; charset=utf-8", b" {\"user\":{\"id\":\"u\"}}\n").expect("good");
        assert_eq!(event["data"], json!({"user": {"id": "u"}}));
        assert_eq!(
            (&event["source"], &event["event"], &event["event_id"]),
            (&json!("/a b%2"), &json!("placed"), &json!("/a%20b%2 1"))
        );
        assert_eq!(event["derived_tstamp"], "2026-11-20T11:59:31.000000Z");
        assert_eq!(event["extra"], json!({"id": "1", "comexample": "Euro €", "data": "not the data"}));
        assert_eq!(binary("text/plain", "grüß".as_bytes()).map(|e| e["data"].clone()), Ok(json!("grüß")));
        assert_eq!(binary("", b"\x01\x02").map(|e| e["data_base64"].clone()), Ok(json!("AQI=")));
        assert_eq!(binary("", b"[1]").map(|e| e["data"].clone()), Ok(json!([1])));
        assert_eq!(
            binary("application/octet-stream", b"\x01\x02").map(|e| e["data_base64"].clone()),
            Ok(json!("AQI="))
        );
        assert_eq!(binary("application/vnd.x+json", b"").map(|e| e.get("data").cloned()), Ok(None));
        let broken = binary("application/vnd.x+json", b"{").expect_err("broken").to_string();
        assert!(broken.starts_with("parse: the body is not application/vnd.x+json"), "{broken}");
    }

    #[test]
    fn an_event_is_known_by_its_source_and_its_id() {
        let all = [("a", "b c"), ("a b", "c"), ("a", "b"), ("b", "a"), ("a ", "b")];
        let ids: std::collections::BTreeSet<_> = all.iter().map(|(source, id)| identity(source, id)).collect();
        assert_eq!(ids.len(), all.len(), "{ids:?}");
    }

    #[test]
    fn header_values_may_be_quoted() {
        for (sent, said) in [
            (r#""a \"b\" c\\""#, r#"a "b" c\"#),
            (r#""Euro %E2%82%AC \%41""#, "Euro € A"),
            ("%22a%22", r#""a""#),
            (r#""%2522""#, "%22"),
            (r#""""#, ""),
            (r#""open"#, r#""open"#),
            (r#""open\""#, r#""open\""#),
            (r#""a" "b""#, r#""a" "b""#),
            (r#"a "b""#, r#"a "b""#),
            ("\"", "\""),
        ] {
            assert_eq!(header_text(sent), said, "{sent}");
        }
        let quoted = [("ce-specversion", "\"1.0\""), ("ce-id", "\"7\""), ("ce-source", "/s"), ("ce-type", "t")];
        let mut events = decode(&Wire::CloudEvents, b"", &head(&quoted)).expect("the protocol");
        assert_eq!(events.remove(0).map(|e| e["specversion"].clone()), Ok(json!("1.0")));
    }

    #[test]
    fn required_attributes_are_checked() {
        for name in ["id", "source", "type", "specversion"] {
            for bad in [json!(null), json!(""), json!(7)] {
                let mut event = sound();
                event[name] = bad;
                assert!(reason(event).starts_with(&format!("schema: the attribute {name} is missing")), "{name}");
            }
        }
        let with = |name: &str, value: &str| {
            let mut event = sound();
            event[name] = value.into();
            reason(event)
        };
        assert_eq!(with("specversion", "0.3"), "schema: specversion is 0.3; 1.0 is taken");
        assert_eq!(with("time", "yesterday"), "schema: time is no RFC 3339 time");
        assert_eq!(with("time", "1795176000000"), "schema: time is no RFC 3339 time");
    }
}
