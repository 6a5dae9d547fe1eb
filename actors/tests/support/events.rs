//! Events to append: what they belong to, and what they make the handler do.

use bytes::Bytes;
use keyloom_actors::{
    event::dedupe_id,
    ports::NewRecord,
    timestamp::{SECOND, Timestamp},
};

/// Event times begin here: 2026-11-20.
pub const BEGIN: i64 = 1_795_176_000 * SECOND;

/// An event of `key` with event id `id`.
pub fn event(key: &str, id: u64) -> NewRecord {
    made(key, id, "", 0)
}

/// One that makes the handler do `what`: `panic`, `crash`, `reject`, `retry`, or one of these with a number of tries
/// after which it succeeds (`crash 2`), or `wait <milliseconds>`: retried once after that time.
pub fn doing(what: &str, key: &str, id: u64) -> NewRecord {
    made(key, id, what, 0)
}

/// One whose row belongs to hour `hour`.
pub fn at_hour(hour: u64, key: &str, id: u64) -> NewRecord {
    made(key, id, "", hour)
}

/// Anything at all, as a foreign writer might append it.
pub fn foreign(payload: &[u8]) -> NewRecord {
    NewRecord { key: Bytes::new(), dedupe_id: None, payload: Bytes::copy_from_slice(payload), scanned: None }
}

fn made(key: &str, id: u64, what: &str, hour: u64) -> NewRecord {
    let time = Timestamp(BEGIN + hour as i64 * 3_600 * SECOND).to_rfc3339();
    let payload = format!(
        r#"{{"domain_userid":"{key}","event_id":"{id}","event":"tick","collector_tstamp":"{time}","do":"{what}"}}"#
    );
    NewRecord {
        key: Bytes::copy_from_slice(key.as_bytes()),
        dedupe_id: Some(dedupe_id(key.as_bytes(), id.to_string().as_bytes())),
        payload: payload.into(),
        scanned: None,
    }
}
