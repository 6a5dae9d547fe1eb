//! The feature answer of a key: how it is stored, and how it is read at a later moment.
//!
//! Pure. Stored is JSON that any client of the store can read: the values as of the key's last event. Where some of them change
//! with time alone (a count over the last five minutes), the answer ends with what is needed to say them again:
//! `"decaying":{"from","to","state"}`, the place of those values in the text, in bytes, and the part of the state they depend
//! on, base64. The feature API puts today's values in that place.

use base64::{Engine, prelude::BASE64_STANDARD_NO_PAD};
use bytes::Bytes;
use serde::Deserialize;

use crate::{
    features::{FeatureSet, FeatureState},
    handler::Features,
    key::Key,
    timestamp::Timestamp,
};

const DECAYING: &[u8] = b",\"decaying\":";

#[derive(Deserialize)]
struct Decaying<'a> {
    from: usize,
    to: usize,
    state: &'a str,
}

/// What an answer says beside features.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// The key.
    pub key: &'a Key,
    /// Its partition.
    pub partition: u32,
    /// Event time of its newest event.
    pub event_time: Timestamp,
    /// The last sequence it consumed.
    pub seq: u64,
}

/// The answer to store: the features that `handler` says, then the declared ones.
pub fn write(
    head: Head<'_>,
    handler: impl FnOnce(&mut Features<'_>),
    declared: Option<(&FeatureSet, &FeatureState)>,
) -> Bytes {
    let mut out = Vec::with_capacity(1024);
    out.extend_from_slice(b"{\"key\":");
    serde_json::to_writer(&mut out, head.key.as_str()).expect("a string in memory serializes");
    let Head { partition, event_time, seq, .. } = head;
    out.extend_from_slice(format!(",\"profile\":null,\"partition\":{partition},\"features\":{{").as_bytes());
    let mut features = Features::new(&mut out);
    handler(&mut features);
    let mut changing = None;
    if let Some((set, state)) = declared {
        state.write_lasting(set, &mut features);
        if set.decays() {
            let from = features.place();
            state.write_changing(set, event_time, &mut features);
            changing = Some((from, features.place()));
        }
    }
    out.extend_from_slice(format!("}},\"event_time\":\"{}\",\"seq\":{seq}", event_time.to_rfc3339()).as_bytes());
    if let (Some((from, to)), Some((set, state))) = (changing, declared) {
        let mut bytes = Vec::new();
        state.encode_decaying(set, &mut bytes);
        out.extend_from_slice(DECAYING);
        out.extend_from_slice(format!("{{\"from\":{from},\"to\":{to},\"state\":\"").as_bytes());
        let mut text = BASE64_STANDARD_NO_PAD.encode(&bytes);
        text.push_str("\"}");
        out.extend_from_slice(text.as_bytes());
    }
    out.push(b'}');
    out.into()
}

/// A stored answer as of `at`, with `as_of` at its end; `None` when it is none.
pub fn read(stored: &[u8], set: &FeatureSet, at: Timestamp) -> Option<Bytes> {
    let open = stored.strip_suffix(b"}")?;
    let mut out = Vec::with_capacity(stored.len() + 64);
    match decaying(open) {
        Some((rest, Decaying { from, to, state })) if from <= to && to <= rest.len() => {
            out.extend_from_slice(&rest[..from]);
            let mut features = Features::behind(&mut out);
            let state = BASE64_STANDARD_NO_PAD.decode(state).ok()?;
            if let Err(error) = set.write_decaying(&state, at, &mut features) {
                tracing::error!(error = error.0, "stored features cannot be brought up to date");
                return None;
            }
            out.extend_from_slice(&rest[to..]);
        }
        _ => out.extend_from_slice(open),
    }
    out.extend_from_slice(format!(",\"as_of\":\"{}\"}}", at.to_rfc3339()).as_bytes());
    Some(out.into())
}

/// What a stored answer says of itself, for those who pass it on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stored {
    /// The partition that its key belongs to.
    pub partition: u32,
    /// Event time of the newest event in it.
    pub event_time: Timestamp,
    /// The last sequence in it.
    pub seq: u64,
    /// The answer without what only the engine can use: the values are those of its event time.
    pub text: Bytes,
}

/// Looks into a stored answer; `None` when it is none.
pub fn stored(answer: &Bytes) -> Option<Stored> {
    #[derive(Deserialize)]
    struct Facts<'a> {
        partition: u32,
        #[serde(borrow)]
        event_time: std::borrow::Cow<'a, str>,
        seq: u64,
    }
    let open = answer.strip_suffix(b"}")?;
    let text = match decaying(open) {
        Some((rest, _)) => [rest, b"}"].concat().into(),
        None => answer.clone(),
    };
    let Facts { partition, event_time, seq } = serde_json::from_slice(&text).ok()?;
    Some(Stored { partition, event_time: Timestamp::parse(&event_time)?, seq, text })
}

/// The last member of an answer if it is `decaying`, and everything before it.
fn decaying(open: &[u8]) -> Option<(&[u8], Decaying<'_>)> {
    let at = memchr::memmem::rfind(open, DECAYING)?;
    let (rest, tail) = open.split_at(at);
    // What a handler calls a feature of its own is not the last member, so it does not parse.
    Some((rest, serde_json::from_slice(&tail[DECAYING.len()..]).ok()?))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        event::{EventBatch, KeyPaths},
        features::{Definition, Function, Settings, Window},
        ports::LogRecord,
        timestamp::SECOND,
    };

    const AT: Timestamp = Timestamp(1_795_176_000_000_000);

    fn set() -> FeatureSet {
        let all = Definition::new(Function::Count);
        let recent = Definition { window: Some(Window::Sliding(Duration::from_secs(300))), ..all.clone() };
        FeatureSet::compile(vec![("all".to_owned(), all), ("recent".to_owned(), recent)], Settings::default())
            .expect("sound definitions")
    }

    fn state(set: &FeatureSet) -> FeatureState {
        let record = LogRecord {
            seq: 1,
            stored: AT,
            key: None,
            payload: Bytes::from_static(br#"{"domain_userid":"u"}"#),
            scanned: None,
        };
        let batch = EventBatch::decode(0, vec![record], &KeyPaths::new(["domain_userid"]), None);
        let mut state = FeatureState::new(set);
        state.apply(set, batch.get(0));
        state
    }

    fn stored(set: Option<(&FeatureSet, &FeatureState)>, handler: impl FnOnce(&mut Features<'_>)) -> Bytes {
        let key = Key::new("u \"1\"").expect("a key");
        write(Head { key: &key, partition: 3, event_time: AT, seq: 7 }, handler, set)
    }

    fn json(bytes: &[u8]) -> serde_json::Value {
        serde_json::from_slice(bytes).expect("JSON")
    }

    #[test]
    fn values_that_change_with_time_are_said_anew() {
        let set = set();
        let stored = stored(Some((&set, &state(&set))), |features| features.set("decaying", &1));
        assert_eq!(json(&stored)["features"]["recent"], 1);
        for (seconds, recent) in [(0, 1), (200, 1), (360, 0)] {
            let answer = json(&read(&stored, &set, Timestamp(AT.0 + seconds * SECOND)).expect("an answer"));
            let features = &answer["features"];
            assert_eq!(
                (&features["all"], &features["recent"], &features["decaying"]),
                (&1.into(), &recent.into(), &1.into())
            );
            assert_eq!((&answer["key"], &answer["seq"]), (&"u \"1\"".into(), &7.into()));
            assert!(answer["decaying"].is_null() && answer["as_of"].is_string());
        }
    }

    #[test]
    fn a_stored_answer_says_where_it_belongs_and_how_far_it_came() {
        let set = set();
        for declared in [Some((&set, &state(&set))), None] {
            let answer = stored(declared, |features| features.set("seq", &99));
            let found = super::stored(&answer).expect("an answer");
            assert_eq!((found.partition, found.event_time, found.seq), (3, AT, 7));
            let mut expected = json(&answer);
            expected.as_object_mut().expect("an object").remove("decaying");
            assert_eq!(json(&found.text), expected);
        }
        for other in ["", "{}", "null", "{\"seq\":1}", "[1]"] {
            assert_eq!(super::stored(&Bytes::from(other)), None, "{other}");
        }
    }

    #[test]
    fn without_declared_features_an_answer_only_gets_its_time() {
        let none = FeatureSet::default();
        for empty in [true, false] {
            let stored = stored(None, |features| {
                if !empty {
                    features.set("decaying", &serde_json::json!({"from": 1}))
                }
            });
            let mut expected = json(&stored);
            expected["as_of"] = AT.to_rfc3339().into();
            assert_eq!(json(&read(&stored, &none, AT).expect("an answer")), expected);
        }
        assert_eq!(read(b"", &none, AT), None);
    }
}
