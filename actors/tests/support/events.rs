//! Events to append: what they belong to, and what they make the handler do.

use bytes::Bytes;
use keyloom_actors::{
    event::dedupe_id,
    ports::NewRecord,
    timestamp::{SECOND, Timestamp},
};

use super::random::Random;

/// Event times begin here: 2026-11-20.
pub const BEGIN: i64 = 1_795_176_000 * SECOND;

/// An event of `key` with event id `id`.
pub fn event(key: &str, id: u64) -> NewRecord {
    made(key, id, "", 0)
}

/// One that makes the handler do `what`: `panic`, `crash`, `reject`, `retry`, or one of these with a number of tries
/// after which it succeeds (`crash 2`), or `wait <milliseconds>`: retried once after that time, or `kill`: the process ends
/// (`kill 2`: only the first two times), or `hold`: it does not come back while [`super::handler::Counting::held`] is set,
/// or `timer <name> <minutes>`: a timer is set, `bad` to crash and `no` to be rejected when it fires, `again` to set itself.
pub fn doing(what: &str, key: &str, id: u64) -> NewRecord {
    made(key, id, what, 0)
}

/// One that sets some timer of its key, or cancels one.
pub fn some_timer(random: &mut Random, key: &str, id: u64) -> NewRecord {
    let name = ["ok", "ok", "other", "again", "no", "bad"][random.range(0, 6) as usize];
    let what = if random.one_in(9) { "cancel".to_owned() } else { format!("timer {name} {}", random.range(0, 150)) };
    made(key, id, &what, random.range(0, 3))
}

/// One that asks the world outside.
pub fn some_question(random: &mut Random, key: &str, id: u64) -> NewRecord {
    let name = ["a", "a", "b", "fails", "panics", "never", "reject", "crash"][random.range(0, 8) as usize];
    made(key, id, &format!("ask {name}"), random.range(0, 3))
}

/// One whose row belongs to hour `hour`.
pub fn at_hour(hour: u64, key: &str, id: u64) -> NewRecord {
    made(key, id, "", hour)
}

/// Anything at all, as a foreign writer might append it.
pub fn foreign(payload: &[u8]) -> NewRecord {
    NewRecord { key: Bytes::new(), dedupe_id: None, payload: Bytes::copy_from_slice(payload), scanned: None }
}

/// Any event at all: repeats, poison and garbage among them. `id` counts.
pub fn some_event(random: &mut Random, keys: u64, id: &mut u64) -> NewRecord {
    *id += 1;
    let key = if random.one_in(3) { 0 } else { random.range(0, keys) };
    let key = format!("user-{key}");
    match random.range(0, 400) {
        0 => doing("panic", &key, *id),
        1 => doing("crash 2", &key, *id),
        2 => doing("retry 1", &key, *id),
        3..8 => doing("reject", &key, *id),
        8..10 => foreign(b"{not json"),
        10..12 => foreign(br#"{"event":"nobody's"}"#),
        12..30 => event(&key, id.saturating_sub(random.range(0, 10)).max(1)), // perhaps a repeat
        _ => at_hour(random.range(0, 3), &key, *id),
    }
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
