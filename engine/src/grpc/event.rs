//! From an event of gRPC to the event as JSON: its object, and the fields beside it for what the object lacks.
//!
//! Pure. Whether the event is good is for the front door to say; only text that is no JSON is found here, because events travel on
//! as one array.

use std::{borrow::Cow, collections::BTreeMap};

use keyloom_actors::{event::fields, timestamp::Timestamp};
use serde_json::value::RawValue;

use super::proto::Event;

/// Where the key of an event goes: the first field that the topology takes keys from, and the way inside of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyMember {
    name: String,
    inside: Vec<String>,
}

impl KeyMember {
    /// Of a path such as `domain_userid` or `user.id`.
    pub fn new(path: &str) -> Self {
        let mut parts = path.split('.').map(str::to_owned);
        let name = parts.next().unwrap_or_default();
        Self { name, inside: parts.collect() }
    }

    /// What stands there for `key`.
    fn value(&self, key: &str) -> String {
        let wrap = |value: String, name: &String| format!("{{{}:{value}}}", text(name));
        self.inside.iter().rev().fold(text(key), wrap)
    }
}

/// The event as JSON, or why it is none.
pub(super) fn to_json(event: &Event, key: Option<&KeyMember>) -> Result<String, String> {
    let json = if event.json.trim().is_empty() { "{}" } else { event.json.trim() };
    let added = added(event, key)?;
    if added.is_empty() {
        let checked: Result<&RawValue, _> = serde_json::from_str(json);
        return checked.map(|whole| whole.get().to_owned()).map_err(|error| no_json(&error));
    }
    let members: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_str(json).map_err(|error| no_json(&error))?;
    // As the front door has it: an empty text says as little as null.
    let has = |name: &str| members.get(name).is_some_and(|value| !matches!(value.get(), "null" | "\"\""));
    if let Some(key) = key.filter(|key| !event.key.is_empty() && !key.inside.is_empty() && has(&key.name)) {
        let inner = |object: &'_ str, name: &String| fields::member(object, name).map(str::to_owned);
        let object = members.get(key.name.as_str()).map(|value| value.get().to_owned());
        let found = key.inside.iter().try_fold(object.unwrap_or_default(), |object, name| inner(&object, name));
        if found.is_none() {
            let name = &key.name;
            return Err(format!(
                "schema: `key` has no place: {name} is there already, without {}",
                key.inside.join(".")
            ));
        }
    }
    let mut out = String::with_capacity(json.len() + 200);
    let mut put = |name: &str, value: &str| {
        out.push(if out.is_empty() { '{' } else { ',' });
        out.push_str(&text(name));
        out.push(':');
        out.push_str(value);
    };
    added.iter().filter(|(name, _)| !has(name)).for_each(|(name, value)| put(name, value));
    let replaced = |name: &str| added.iter().any(|(added, _)| *added == name) && !has(name);
    members.iter().filter(|(name, _)| !replaced(name)).for_each(|(name, value)| put(name, value.get()));
    out.push('}');
    Ok(out)
}

/// The fields beside the object, as members.
fn added<'a>(event: &Event, key: Option<&'a KeyMember>) -> Result<Vec<(&'a str, String)>, String> {
    let mut added = Vec::new();
    for (name, value) in [("event_id", &event.event_id), ("event", &event.event)] {
        if !value.is_empty() {
            added.push((name, text(value)));
        }
    }
    match key {
        _ if event.key.is_empty() => {}
        Some(key) => added.push((key.name.as_str(), key.value(&event.key))),
        None => return Err("schema: keys are not taken from events here, so `key` has no place".to_owned()),
    }
    for (name, time) in [("derived_tstamp", &event.event_time), ("collector_tstamp", &event.collector_time)] {
        if let Some(time) = time {
            let micros = time.seconds.checked_mul(1_000_000).and_then(|s| s.checked_add(i64::from(time.nanos) / 1_000));
            let micros = micros.ok_or_else(|| format!("schema: the time for {name} is out of range"))?;
            added.push((name, text(&Timestamp(micros).to_rfc3339())));
        }
    }
    Ok(added)
}

fn no_json(error: &serde_json::Error) -> String {
    format!("parse: not a JSON object: {error}")
}

fn text(value: &str) -> String {
    serde_json::to_string(value).expect("a string in memory serializes")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn event(json: &str) -> Event {
        Event { json: json.to_owned(), ..Event::default() }
    }

    fn stored(event: &Event, key: &str) -> Value {
        serde_json::from_str(&to_json(event, Some(&KeyMember::new(key))).expect("an event")).expect("JSON")
    }

    #[test]
    fn fields_stand_for_what_the_object_lacks() {
        let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 5_000 });
        let full = Event {
            event_id: "1".into(),
            key: "u \"x\"".into(),
            event: "page_view".into(),
            event_time: time(1_795_176_000),
            collector_time: time(1_795_176_001),
            json: String::new(),
        };
        let expected = json!({
            "event_id": "1", "event": "page_view", "user": {"id": {"own": "u \"x\""}},
            "derived_tstamp": "2026-11-20T12:00:00.000005Z", "collector_tstamp": "2026-11-20T12:00:01.000005Z",
        });
        assert_eq!(stored(&full, "user.id.own"), expected);
        for empty in ["null", "\"\""] {
            let json = format!(r#"{{"event_id":{empty},"domain_userid":{empty},"event":{empty},"n":1}}"#);
            let filled =
                stored(&Event { json, event_time: None, collector_time: None, ..full.clone() }, "domain_userid");
            let expected = json!({"event_id": "1", "domain_userid": "u \"x\"", "event": "page_view", "n": 1});
            assert_eq!(filled, expected, "{empty}");
        }
        let own = r#"{"event_id":"own","n":12345678901234567890,"domain_userid":null,"event":"x"}"#;
        let full = Event { json: own.to_owned(), ..full };
        let kept = to_json(&full, Some(&KeyMember::new("domain_userid"))).expect("an event");
        assert!(kept.contains(r#""n":12345678901234567890"#), "{kept}");
        let kept: Value = serde_json::from_str(&kept).expect("JSON");
        assert_eq!((&kept["event_id"], &kept["event"]), (&"own".into(), &"x".into()));
        assert_eq!(kept["domain_userid"], "u \"x\"");
    }

    #[test]
    fn what_is_no_json_is_said_here_and_the_rest_later() {
        for wrong in ["{", "nope", "{}{}", "{\"a\":1,}"] {
            assert!(to_json(&event(wrong), None).expect_err(wrong).starts_with("parse: "), "{wrong}");
        }
        for judged_later in ["[1]", "7", "\"x\"", " {\"a\": 1}\n", ""] {
            to_json(&event(judged_later), None).expect(judged_later);
        }
        let keyed = Event { key: "u".into(), ..event("[1]") };
        assert!(to_json(&keyed, Some(&KeyMember::new("k"))).is_err());
        assert!(to_json(&keyed, None).is_err());
        let late = Event { event_time: Some(prost_types::Timestamp { seconds: i64::MAX, nanos: 0 }), ..event("") };
        assert!(to_json(&late, None).expect_err("no such time").contains("derived_tstamp"));
    }

    proptest! {
        #[test]
        fn whatever_comes_out_is_json(json in "[{}\\[\\]\",:a1 ]{0,20}", id in "\\PC{0,4}", key in "\\PC{0,4}") {
            let event = Event { event_id: id, key, json, ..Event::default() };
            if let Ok(text) = to_json(&event, Some(&KeyMember::new("k"))) {
                let read: Result<Value, _> = serde_json::from_str(&text);
                prop_assert!(read.is_ok(), "{text}");
            }
        }
    }
}
