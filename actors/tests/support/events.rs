//! Events to append: what they belong to, and what they make the handler do.

use std::collections::VecDeque;

use bytes::Bytes;
use keyloom_actors::{
    event::dedupe_id,
    ports::NewRecord,
    timestamp::{SECOND, Timestamp},
};

use super::random::Random;

/// Event times begin here: 2026-11-20.
pub const BEGIN: i64 = 1_795_176_000 * SECOND;
/// Events are stored from then on: later than nearly all of them happened.
pub const STORED: i64 = BEGIN + 3 * 3_600 * SECOND;
/// The hour of an event whose clock runs ahead.
const AHEAD: u64 = 13;

/// An event of `key` with event id `id`.
pub fn event(key: &str, id: u64) -> NewRecord {
    made(key, id, "", 0)
}

/// One that makes the handler do `what`: `panic`, `crash`, `reject`, `retry`, or one of these with a number of tries
/// after which it succeeds (`crash 2`), or `wait <milliseconds>`: retried once after that time, or `kill`: the process ends
/// (`kill 2`: only the first two times), or `sour`: the state that it leads to cannot be encoded, or `spoil`: the process that reads the key's state again ends, or
/// `hold`: it does not come back while [`super::handler::Counting::held`] is set, or `timer <name> <minutes>`: a timer is set,
/// `bad` to crash and `no` to be rejected when it fires, `again` to set itself; or `ask <name>`: the world outside is asked.
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

/// Rejected events that a sender remembers, to send them again.
const REJECTED_MAX: usize = 8;

/// Who sends any event at all: repeats, poison and garbage among them.
pub struct Sender {
    keys: u64,
    id: u64,
    rejected: VecDeque<NewRecord>,
}

impl Sender {
    /// Of events of so many keys.
    pub fn new(keys: u64) -> Self {
        Self { keys, id: 0, rejected: VecDeque::new() }
    }

    /// An event of some key, as [`doing`] makes it.
    pub fn doing(&mut self, random: &mut Random, what: &str) -> NewRecord {
        self.id += 1;
        doing(what, &format!("user-{}", random.range(0, self.keys)), self.id)
    }

    /// One that sets or cancels a timer of its key, or asks the world outside.
    pub fn wait_for_something(&mut self, random: &mut Random) -> NewRecord {
        self.id += 1;
        let timers = ["ok", "ok", "other", "again", "no", "bad"];
        let questions = ["a", "a", "b", "fails", "panics", "never", "reject", "crash"];
        let what = match random.range(0, 18) {
            0 => "cancel".to_owned(),
            1..9 => format!("timer {} {}", timers[random.range(0, 6) as usize], random.range(0, 150)),
            _ => format!("ask {}", questions[random.range(0, 8) as usize]),
        };
        made(
            &format!("user-{}", random.range(0, self.keys)),
            self.id,
            &what,
            [0, 1, 2, AHEAD][random.range(0, 4) as usize],
        )
    }

    /// Any event.
    pub fn send(&mut self, random: &mut Random) -> NewRecord {
        self.id += 1;
        let key = if random.one_in(3) { 0 } else { random.range(0, self.keys) };
        let (key, id) = (format!("user-{key}"), self.id);
        match random.range(0, 400) {
            0 => doing("panic", &key, id),
            1 => doing("crash 2", &key, id),
            2 => doing("retry 1", &key, id),
            3..8 => {
                let rejected = doing("reject", &key, id);
                self.rejected.truncate(REJECTED_MAX - 1);
                self.rejected.push_front(rejected.clone());
                rejected
            }
            8..10 => foreign(b"{not json"),
            10..12 => foreign(br#"{"event":"nobody's"}"#),
            12..24 => event(&key, id.saturating_sub(random.range(0, 10)).max(1)), // perhaps a repeat
            // A repeat for sure; what was rejected must be tried again.
            24..30 => self
                .rejected
                .get(random.range(0, REJECTED_MAX as u64) as usize)
                .cloned()
                .unwrap_or_else(|| event(&key, id)),
            30 => doing("sour", &key, id),
            31 => doing("sour 1", &key, id),
            _ => at_hour(random.range(0, 3), &key, id),
        }
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
