//! Declared features as a whole: what they answer, and what they refuse.

mod answers;
mod cases;
mod encoding;
mod fast_path;
mod naive;
mod oracle;
mod refusals;

use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::{
    event::{EventBatch, KeyPaths},
    handler::Features,
    ports::LogRecord,
    timestamp::Timestamp,
};

/// The functions of the newest session.
pub(super) const SESSION_FUNCTIONS: [&str; 9] = [
    "session_index",
    "session_active",
    "session_duration",
    "session_events",
    "session_pages",
    "session_entry_page",
    "session_exit_page",
    "session_bounce",
    "session_engaged",
];

/// 2026-11-20T00:00:00Z
pub(super) const DAY_BEGIN: i64 = 1_795_132_800_000_000;

/// Microseconds of seconds.
pub(super) const fn secs(n: i64) -> i64 {
    n * 1_000_000
}

/// A definition by its keys, as a topology has them.
pub(super) fn define(function: &str, of: &str, filter: &str, window: Option<Window>) -> Definition {
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let function = Function::of_name(function).expect("a function");
    Definition { of: text(of), filter: text(filter), window, ..Definition::new(function) }
}

pub(super) fn sliding(seconds: u64) -> Option<Window> {
    Some(Window::Sliding(Duration::from_secs(seconds)))
}

pub(super) fn compiled(definitions: Vec<(&str, Definition)>) -> FeatureSet {
    let definitions = definitions.into_iter().map(|(name, d)| (name.to_owned(), d)).collect();
    FeatureSet::compile(definitions, Settings::default()).expect("valid definitions")
}

/// Events of one key, decoded: times in microseconds, and what else they say.
pub(super) fn decode(events: &[(i64, String)]) -> EventBatch {
    let records = events.iter().enumerate().map(|(i, (time, rest))| {
        let comma = if rest.is_empty() { "" } else { "," };
        let text =
            format!(r#"{{"domain_userid":"u","collector_tstamp":"{}"{comma}{rest}}}"#, Timestamp(*time).to_rfc3339());
        let stored = Timestamp(DAY_BEGIN + secs(400 * 86_400));
        LogRecord { seq: i as u64 + 1, stored, key: None, payload: Bytes::from(text), scanned: None, envelope: None }
    });
    EventBatch::decode(0, records.collect(), &KeyPaths::new(["domain_userid"]), None)
}

/// Events by seconds since the beginning of the day.
pub(super) fn at_seconds(events: &[(i64, &str)]) -> EventBatch {
    decode(&events.iter().map(|(at, rest)| (DAY_BEGIN + secs(*at), (*rest).to_owned())).collect::<Vec<_>>())
}

pub(super) fn applied(set: &FeatureSet, batch: &EventBatch) -> FeatureState {
    let mut state = FeatureState::new(set);
    for event in batch.iter() {
        state.apply(set, event);
    }
    state
}

/// What is written as of so many seconds into the day.
pub(super) fn written(set: &FeatureSet, state: &FeatureState, at: i64) -> serde_json::Value {
    let mut out = b"{".to_vec();
    state.write(set, Timestamp(DAY_BEGIN + secs(at)), &mut Features::new(&mut out));
    out.push(b'}');
    serde_json::from_slice(&out).expect("features are JSON")
}

#[test]
fn a_set_can_be_shared() {
    fn shared<T: Send + Sync + 'static>() {}
    shared::<FeatureSet>();
    fn moves<T: Send + 'static>() {}
    moves::<FeatureState>();
}
