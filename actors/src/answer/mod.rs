//! The feature answer of a key: how it is stored, and how it is read at a later moment.
//!
//! Pure. Stored is JSON that any client of the store can read: the values as of the key's last event. Where some of them change
//! with time alone (a count over the last five minutes), the answer ends with what is needed to say them again:
//! `"decaying":{"from","to","set","state"}`, the place of those values in the text, in bytes, a hash of the definitions, and
//! the part of the state they depend on, base64. The feature API puts today's values in that place.

pub mod cache;
mod chosen;
mod edited;
pub mod readers;

use base64::{Engine, prelude::BASE64_STANDARD_NO_PAD};
use bytes::Bytes;

use crate::{
    event::members,
    features::{FeatureSet, FeatureState, Picked},
    handler::{Features, StateError},
    key::Key,
    timestamp::Timestamp,
};

pub use self::chosen::Chosen;

const KEY: &[u8] = b"{\"key\":";
const FEATURES: &[u8] = b",\"features\":{";
const EVENT_TIME: &[u8] = b"},\"event_time\":\"";
const SEQ: &[u8] = b"\",\"seq\":";
const DECAYING: &[u8] = b",\"decaying\":";
const STATE: &[u8] = b",\"state\":\"";

/// What an answer says before the kept state.
struct Decaying<'a> {
    from: usize,
    to: usize,
    /// [`FeatureSet::split`] of the set it was written with; older answers do not say.
    set: &'a str,
}

impl<'a> Decaying<'a> {
    fn parse(text: &'a [u8]) -> Option<Self> {
        let (from, rest) = std::str::from_utf8(text).ok()?.strip_prefix("{\"from\":")?.split_once(",\"to\":")?;
        let (to, set) = rest.split_once(",\"set\":\"").unwrap_or((rest, "\""));
        Some(Self { from: from.parse().ok()?, to: to.parse().ok()?, set: set.strip_suffix('"')? })
    }
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
        let split = set.split();
        out.extend_from_slice(format!("{{\"from\":{from},\"to\":{to},\"set\":\"{split}\",\"state\":\"").as_bytes());
        let mut text = BASE64_STANDARD_NO_PAD.encode(&bytes);
        text.push_str("\"}");
        out.extend_from_slice(text.as_bytes());
    }
    out.push(b'}');
    out.into()
}

/// A stored answer as of `at`, with `as_of` at its end; `None` when it is none.
pub fn read(stored: &[u8], set: &FeatureSet, at: Timestamp) -> Option<Bytes> {
    let mut out = Vec::with_capacity(stored.len() + 64);
    Stored::parse(stored)?.write(&mut out, set, at, None)?;
    out.extend_from_slice(format!(",\"as_of\":\"{}\"}}", at.to_rfc3339()).as_bytes());
    Some(out.into())
}

/// What a stored answer says of itself, for those who pass it on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Published {
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
pub fn published(answer: &Bytes) -> Option<Published> {
    let stored = Stored::parse(answer)?;
    let partition = stored.before.strip_suffix(FEATURES)?;
    let digits = partition.iter().rposition(|b| !b.is_ascii_digit()).map_or(0, |at| at + 1);
    let partition = std::str::from_utf8(&partition[digits..]).ok()?.parse().ok()?;
    let text = match stored.state {
        Some(_) => [stored.before, stored.lasting, stored.changing, stored.behind, b"}"].concat().into(),
        None => answer.clone(),
    };
    Some(Published { partition, event_time: stored.event_time, seq: stored.seq, text })
}

/// A stored answer, taken apart without reading what it says.
#[derive(Clone, Copy, Debug)]
pub struct Stored<'a> {
    /// Event time of the key's newest event.
    pub event_time: Timestamp,
    /// The last sequence it consumed.
    pub seq: u64,
    /// Up to the brace before the features, included.
    before: &'a [u8],
    /// The features that stay as they are until the next event.
    lasting: &'a [u8],
    /// The others, as of that event; and what it takes to say them again.
    changing: &'a [u8],
    /// Base64.
    state: Option<&'a [u8]>,
    /// What it was written with, where anything is changing.
    split: &'a str,
    /// From the brace behind the features on, without what is the engine's business and the last brace.
    behind: &'a [u8],
}

impl<'a> Stored<'a> {
    /// Takes `stored` apart; `None` when it is no answer.
    pub fn parse(stored: &'a [u8]) -> Option<Self> {
        let open = stored.strip_suffix(b"}")?;
        // The state is the longest part, and nothing that is looked for is in it.
        let (open, state) = match open.strip_suffix(b"\"}") {
            None => (open, None),
            Some(open) => {
                let state = memchr::memrchr(b'"', open)? + 1;
                (open[..state].strip_suffix(STATE)?, Some(&open[state..]))
            }
        };
        // The key may say anything at all, also what an answer says.
        let key_end = KEY.len() + members::string_end(open.strip_prefix(KEY)?)?;
        let from = key_end + memchr::memmem::find(&open[key_end..], FEATURES)? + FEATURES.len();
        // Features may say anything, too, but behind the last one nothing does that looks like this.
        let to = from + memchr::memmem::rfind(&open[from..], EVENT_TIME)?;
        let tail = open.get(to + EVENT_TIME.len()..)?;
        let time_end = memchr::memchr(b'"', tail)?;
        let event_time = Timestamp::parse(std::str::from_utf8(&tail[..time_end]).ok()?)?;
        let digits = tail[time_end..].strip_prefix(SEQ)?;
        let digits_end = digits.iter().position(|b| !b.is_ascii_digit()).unwrap_or(digits.len());
        let seq = std::str::from_utf8(&digits[..digits_end]).ok()?.parse().ok()?;
        let behind_end = open.len() - (digits.len() - digits_end);
        let (features, behind) = (&open[from..to], &open[to..behind_end]);
        let (before, changing, split) = (&open[..from], &[][..], "");
        let mut parts = Self { event_time, seq, before, lasting: features, changing, state, split, behind };
        match (open[behind_end..].strip_prefix(DECAYING), state) {
            (None, None) => {}
            (Some(decaying), Some(_)) => {
                let Decaying { from: changing, to: end, set } = Decaying::parse(decaying)?;
                if changing < from || changing > to || end != to {
                    return None;
                }
                (parts.lasting, parts.changing) = features.split_at(changing - from);
                parts.split = set;
            }
            _ => return None,
        }
        Some(parts)
    }

    /// Whether `set` splits features into lasting and changing ones as they stand here.
    fn is_split_by(&self, set: &FeatureSet) -> bool {
        if self.state.is_some() { self.split == set.split() } else { !set.decays() }
    }

    /// Appends the answer as of `at`, all but its last brace: with all features, or the `chosen` ones. What is chosen and
    /// not there is told at the end, as `missing`. `None` when the stored state makes no sense.
    pub fn write(
        &self,
        out: &mut Vec<u8>,
        set: &FeatureSet,
        at: Timestamp,
        mut chosen: Option<&mut Chosen>,
    ) -> Option<()> {
        out.extend_from_slice(self.before);
        let from = out.len();
        let written = self.write_features(out, set, at, chosen.as_deref_mut())?;
        let features = from..out.len();
        out.extend_from_slice(self.behind);
        if let Some(chosen) = chosen
            && written < chosen.len()
        {
            chosen.write_missing(out, features);
        }
        Some(())
    }

    /// Appends the features as of `at`, without the braces: all of them, or the `chosen` ones in the order they are stored
    /// in. Says how many of those there were.
    pub fn write_features(
        &self,
        out: &mut Vec<u8>,
        set: &FeatureSet,
        at: Timestamp,
        chosen: Option<&mut Chosen>,
    ) -> Option<usize> {
        if !self.is_split_by(set) {
            return self.write_edited(out, set, at, chosen.as_deref());
        }
        let from = out.len();
        let Some(chosen) = chosen else {
            out.extend_from_slice(self.lasting);
            return self.write_changing(out, from, set, at, None).map(|()| 0);
        };
        let lasting = chosen.cut(self.lasting, out);
        let changing = chosen.changing();
        if changing.is_empty() {
            return Some(lasting);
        }
        self.write_changing(out, from, set, at, Some(changing))?;
        Some(lasting + changing.len())
    }

    fn write_changing(
        &self,
        out: &mut Vec<u8>,
        from: usize,
        set: &FeatureSet,
        at: Timestamp,
        picked: Option<&Picked>,
    ) -> Option<()> {
        let Some(state) = self.state else { return Some(()) };
        let state = BASE64_STANDARD_NO_PAD.decode(state).ok()?;
        sound(set.write_kept(&state, at, picked, &mut features_behind(out, from)))
    }
}

/// Features behind those that were written from `from` on.
fn features_behind(out: &mut Vec<u8>, from: usize) -> Features<'_> {
    if out.len() > from { Features::behind(out) } else { Features::new(out) }
}

fn sound(written: Result<(), StateError>) -> Option<()> {
    written.inspect_err(|error| tracing::error!(error = error.0, "stored features cannot be brought up to date")).ok()
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

    pub(super) const AT: Timestamp = Timestamp(1_795_176_000_000_000);

    pub(super) fn set() -> FeatureSet {
        let all = Definition::new(Function::Count);
        let recent = Definition { window: Some(Window::Sliding(Duration::from_secs(300))), ..all.clone() };
        FeatureSet::compile(vec![("all".to_owned(), all), ("recent".to_owned(), recent)], Settings::default())
            .expect("sound definitions")
    }

    pub(super) fn state(set: &FeatureSet) -> FeatureState {
        let record = LogRecord {
            seq: 1,
            stored: AT,
            key: None,
            payload: Bytes::from_static(br#"{"domain_userid":"u","cart":"x","price":2.5}"#),
            scanned: None,
            envelope: None,
        };
        let batch = EventBatch::decode(0, vec![record], &KeyPaths::new(["domain_userid"]), None);
        let mut state = FeatureState::new(set);
        state.apply(set, batch.get(0));
        state
    }

    pub(super) fn stored(set: Option<(&FeatureSet, &FeatureState)>, handler: impl FnOnce(&mut Features<'_>)) -> Bytes {
        let key = Key::new("u \"1\"").expect("a key");
        write(Head { key: &key, partition: 3, event_time: AT, seq: 7 }, handler, set)
    }

    pub(super) fn json(bytes: &[u8]) -> serde_json::Value {
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
            let found = super::published(&answer).expect("an answer");
            assert_eq!((found.partition, found.event_time, found.seq), (3, AT, 7));
            let mut expected = json(&answer);
            expected.as_object_mut().expect("an object").remove("decaying");
            assert_eq!(json(&found.text), expected);
        }
        for other in ["", "{}", "null", "{\"seq\":1}", "[1]"] {
            assert_eq!(super::published(&Bytes::from(other)), None, "{other}");
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

    #[test]
    fn features_are_chosen_by_name_and_missing_ones_are_told() {
        let set = set();
        let handler = |features: &mut Features<'_>| {
            features.set("odd \"name\"", &serde_json::json!({"event_time": "},\"event_time\":\"", "all": [1]}));
            features.set("last", &"x,y");
        };
        let stored = stored(Some((&set, &state(&set))), handler);
        let later = Timestamp(AT.0 + 360 * SECOND);
        let ask = |names: &[&str]| {
            let mut chosen = Chosen::new(names.iter().copied(), &set);
            let mut out = Vec::new();
            Stored::parse(&stored).expect("an answer").write(&mut out, &set, later, Some(&mut chosen)).expect("sound");
            out.push(b'}');
            json(&out)
        };
        let whole = json(&read(&stored, &set, later).expect("an answer"))["features"].clone();
        for names in [&["recent"][..], &["all"], &["odd \"name\""], &["last", "recent", "all"], &[]] {
            let answer = ask(names);
            let expected: serde_json::Map<_, _> =
                names.iter().map(|name| ((*name).to_owned(), whole[*name].clone())).collect();
            assert_eq!(answer["features"], serde_json::Value::Object(expected), "{names:?}");
            assert_eq!((&answer["missing"], &answer["seq"]), (&serde_json::Value::Null, &7.into()));
        }
        let answer = ask(&["no", "last", "neither \"", "no"]);
        assert_eq!(answer["features"], serde_json::json!({"last": "x,y"}));
        assert_eq!(answer["missing"], serde_json::json!(["no", "neither \""]));
    }

    #[test]
    fn what_is_stored_is_taken_apart_and_nothing_else_is() {
        let stored = stored(None, |features| features.set("a", &1));
        let parts = Stored::parse(&stored).expect("an answer");
        assert_eq!((parts.event_time, parts.seq, parts.lasting), (AT, 7, &b"\"a\":1"[..]));
        for cut in 0..stored.len() {
            assert!(Stored::parse(&stored[..cut]).is_none(), "{cut}");
        }
        for other in ["{}", "null", r#"{"key":"k","features":{},"event_time":"no","seq":1}"#] {
            assert!(Stored::parse(other.as_bytes()).is_none(), "{other}");
        }
    }
}
