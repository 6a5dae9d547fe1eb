//! Tests of what all protocols promise: nothing panics, nothing is lost, and no client takes an engine's name.

use axum::http::HeaderName;
use keyloom_actors::timestamp::Timestamp;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::{event_shape::DecodedEvent, *};
use crate::front_door::{Rejection, protocols::segment::Call, protocols::segment::MessageType};

/// 2026-11-20T12:00:00Z
pub(super) const NOON: Timestamp = Timestamp(1_795_176_000_000_000);
pub(super) const NOON_TEXT: &str = "2026-11-20T12:00:00.000000Z";

/// A head with these headers.
pub(super) fn head(headers: &[(&str, &str)]) -> Head {
    let mut head = Head::default();
    for (name, value) in headers {
        let name: HeaderName = name.parse().expect("a name");
        head.headers.append(name, value.parse().expect("a header"));
    }
    head
}

/// What a request becomes: an event, or why it is none.
pub(super) fn decode(wire: &Wire, body: &[u8], head: &Head) -> Result<Vec<Result<Value, Rejection>>, Refusal> {
    let outline = read(wire, body, head, 100)?;
    let stamps = Stamps { now: NOON, address: Some("192.0.2.7"), head };
    let decoded = outline.write(&|_| stamps, &mut |_| Ok(()))?.expect("written anew");
    assert_eq!(decoded.events.len(), outline.events());
    let event = |event: DecodedEvent| {
        assert!(event.sent.end <= body.len());
        event.place.map(|place| {
            let text = std::str::from_utf8(&decoded.text[place]).expect("text");
            serde_json::from_str::<Value>(text).unwrap_or_else(|error| panic!("{error}: {text}"))
        })
    };
    Ok(decoded.events.into_iter().map(event).collect())
}

/// The one event of a request.
pub(super) fn one(wire: &Wire, body: &Value, head: &Head) -> Value {
    let mut events = decode(wire, body.to_string().as_bytes(), head).expect("the protocol");
    assert_eq!(events.len(), 1);
    events.remove(0).expect("an event")
}

/// Every leaf of `value` but `null`, as text.
fn leaves(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Null => {}
        Value::Array(array) => array.iter().for_each(|v| leaves(v, found)),
        Value::Object(object) => object.values().for_each(|v| leaves(v, found)),
        Value::String(text) => found.push(text.clone()),
        other => found.push(other.to_string()),
    }
}

fn assert_found(sent: &Value, event: &Value) {
    let (mut said, mut kept) = (Vec::new(), Vec::new());
    leaves(sent, &mut said);
    leaves(event, &mut kept);
    for leaf in said.iter().filter(|leaf| !leaf.is_empty()) {
        assert!(kept.contains(leaf), "{leaf} of {sent} is not in {event}");
    }
    let object = event.as_object().expect("an object");
    assert!(object.keys().all(|name| !name.starts_with("keyloom.")), "{event}");
}

/// Any JSON, a few levels deep.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "[a-z0-9\"\\\\ü ]{0,6}|[ +.]?[0-9x]{1,3}[.]?[0-9]? ?".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("[a-z.\"ü]{0,5}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// An object whose names are those of a protocol, of the event shape, of the engine, or any.
fn members_like(names: &'static str) -> impl Strategy<Value = Map<String, Value>> {
    proptest::collection::btree_map(names, any_json(), 0..12).prop_map(|map| map.into_iter().collect())
}

const WIRES: [Wire; 6] = [
    Wire::SnowplowBody,
    Wire::SnowplowQuery,
    Wire::Segment(Call::Batch),
    Wire::Segment(Call::One(MessageType::Track)),
    Wire::Segment(Call::One(MessageType::Page)),
    Wire::CloudEvents,
];

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(
        body in proptest::collection::vec(any::<u8>(), 0..200),
        query in "\\PC{0,40}",
        media in prop_oneof![Just("application/cloudevents+json"), Just("application/cloudevents-batch+json"), Just("text/plain")],
    ) {
        let mut head = head(&[("content-type", media), ("ce-id", "1")]);
        head.query = query;
        for wire in WIRES {
            let _either_way = decode(&wire, &body, &head);
        }
    }

    #[test]
    fn any_json_is_read_without_panic(value in any_json(), inner in any_json()) {
        let structured = head(&[("content-type", "application/cloudevents+json")]);
        for body in [value.clone(), json!({"data": [value]}), json!({"batch": [value, inner], "context": inner})] {
            for wire in WIRES {
                let _either_way = decode(&wire, body.to_string().as_bytes(), &structured);
            }
        }
    }

    #[test]
    fn nothing_of_a_snowplow_event_is_lost(
        members in members_like("(eid|aid|p|uid|duid|nuid|sid|url|page|refr|se_ca|tr_tt|ti_qu|vid|res|lang|event|extra|keyloom\\.tick|[a-z.\"ü]{1,5})"),
    ) {
        let mut members = members;
        members.retain(|name, _| !matches!(name.as_str(), "co" | "cx" | "tt"));
        members.insert("e".into(), "pv".into());
        let event = one(&Wire::SnowplowBody, &json!({"data": [members]}), &Head::default());
        members.remove("e");
        assert_found(&Value::Object(members), &event);
    }

    #[test]
    fn nothing_of_a_segment_message_is_lost(
        members in members_like("(messageId|userId|anonymousId|event|name|type|context|traits|properties|timestamp|sentAt|channel|extra|keyloom\\.tick|[a-z.\"ü]{1,5})"),
        shared in members_like("(context|integrations|sentAt|event|[a-z.\"ü]{1,5})"),
        kind in 0..MessageType::ALL.len(),
    ) {
        let kind = MessageType::ALL[kind];
        let mut members = members;
        members.insert("type".into(), kind.name().into());
        if kind == MessageType::Track {
            members.insert("event".into(), "Product Viewed".into());
        }
        let mut batch = shared.clone();
        batch.retain(|name, _| name != "batch" && name != "writeKey");
        batch.insert("batch".into(), json!([members]));
        let event = one(&Wire::Segment(Call::Batch), &Value::Object(batch), &Head::default());
        let mut shared = Value::Object(shared);
        if let (Some(own), Some(of_all)) = (members.get("context").and_then(Value::as_object), shared["context"].as_object_mut()) {
            of_all.retain(|name, _| !own.contains_key(name)); // what a message says counts
        }
        assert_found(&Value::Object(members), &event);
        assert_found(&shared, &event);
    }

    #[test]
    fn nothing_of_a_cloudevent_is_lost(members in members_like("(subject|data|data_base64|dataschema|event|extra|protocol|[a-z]{1,8})")) {
        let mut members = members;
        members.remove("time");
        for (name, value) in [("specversion", "1.0"), ("id", "7"), ("source", "/shop"), ("type", "order.placed")] {
            members.insert(name.into(), value.into());
        }
        let structured = head(&[("content-type", "application/cloudevents+json")]);
        let sent = Value::Object(members);
        assert_found(&sent, &one(&Wire::CloudEvents, &sent, &structured));
    }
}

#[test]
fn what_is_not_the_protocol_is_refused_whole() {
    let plain = head(&[("content-type", "application/json")]);
    let batch = head(&[("content-type", "application/cloudevents-batch+json")]);
    for (wire, body, head) in [
        (Wire::SnowplowBody, "", &plain),
        (Wire::SnowplowBody, "hello", &plain),
        (Wire::SnowplowBody, "[{\"e\":\"pv\"}]", &plain),
        (Wire::SnowplowBody, "{\"e\":\"pv\"}", &plain),
        (Wire::SnowplowBody, "{\"schema\":\"iglu:com.acme/other/jsonschema/1-0-0\",\"data\":[{\"e\":\"pv\"}]}", &plain),
        (Wire::SnowplowBody, "{\"data\":[]}", &plain),
        (Wire::SnowplowQuery, "", &plain),
        (Wire::Segment(Call::Batch), "{\"type\":\"track\"}", &plain),
        (Wire::Segment(Call::Batch), "{\"batch\":{}}", &plain),
        (Wire::Segment(Call::Batch), "{\"batch\":[]}", &plain),
        (Wire::Segment(Call::One(MessageType::Page)), "[]", &plain),
        (Wire::CloudEvents, "{\"id\":\"1\"}", &plain),
        (Wire::CloudEvents, "{\"id\":\"1\"}", &batch),
    ] {
        let refusal = decode(&wire, body.as_bytes(), head).expect_err(body);
        assert_eq!(refusal.code(), 400, "{wire:?} {body}: {refusal}");
    }
    assert_eq!(decode(&Wire::CloudEvents, b"[]", &batch), Ok(Vec::new()), "an empty batch is one");
    let flood = format!("{{\"batch\":[{}1]}}", "1,".repeat(100));
    assert_eq!(decode(&Wire::Segment(Call::Batch), flood.as_bytes(), &plain), Err(Refusal::TooMany(100)));
}

#[test]
fn what_is_said_once_for_all_events_cannot_fill_the_memory() {
    let body = format!(
        "{{\"context\":{{\"x\":\"{}\"}},\"batch\":[{}1]}}",
        "x".repeat(1_000),
        "{\"type\":\"page\"},".repeat(50)
    );
    let head = Head::default();
    let outline = read(&Wire::Segment(Call::Batch), body.as_bytes(), &head, 100).expect("a batch");
    let stamps = Stamps { now: NOON, address: None, head: &head };
    let mut total = 0;
    let written = outline.write(&|_| stamps, &mut |more| {
        total += more;
        if total > 20_000 { Err(Refusal::Busy) } else { Ok(()) }
    });
    assert_eq!(written.err(), Some(Refusal::Busy));
    assert!(total < 22_000, "it stops at the event that passes the limit");
}
