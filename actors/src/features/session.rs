//! Sessions of a key in event time, and what is known of the newest one.
//!
//! Pure. A pause of at least the gap ends a session. An event older than the newest session's beginning by less than the
//! gap, and newer than the end of the session before, belongs to it and moves its beginning back. An event that belongs
//! to a session that is over changes no session: it is counted. Sessions are never put together.

use serde::{Deserialize, Serialize};

use super::{decimal::Decimal, definition::Function, scalar::Scalar, value::Value};
use crate::timestamp::SECOND;

/// Length of the slots in which engagement is counted, in microseconds: the heartbeat of page pings.
pub const HEARTBEAT: i64 = 10 * SECOND;
/// Most pieces of a session between which nothing happened; of more, the oldest are only remembered by their length, and a
/// late event in one of those counts anew.
pub const ENGAGED_RUNS_MAX: usize = 128;

/// The newest session.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Session {
    /// Its number, from 1; 0 before the first event.
    pub(super) index: u64,
    start: i64,
    end: i64,
    /// End of the session before.
    before: Option<i64>,
    events: u64,
    pages: u64,
    pings: u64,
    entry: Option<(i64, Scalar)>,
    exit: Option<(i64, Scalar)>,
    engaged: Engaged,
}

/// Slots of [`HEARTBEAT`] in which something happened.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Engaged {
    /// Slots of runs that were forgotten.
    forgotten: u64,
    /// First and last slot of each run, ascending, with a slot between them at least.
    runs: Vec<(i64, i64)>,
}

/// What a session wants to know of an event.
pub(super) struct Happened<'a> {
    pub(super) time: i64,
    pub(super) is_page: bool,
    pub(super) is_ping: bool,
    /// Canonical; only of a page view.
    pub(super) page: Option<&'a str>,
}

impl Session {
    /// Takes an event; `false` when it belongs to a session that is over.
    pub(super) fn take(&mut self, gap: i64, event: &Happened<'_>) -> bool {
        let time = event.time;
        if self.index == 0 || time.saturating_sub(self.end) >= gap {
            let before = (self.index > 0).then_some(self.end);
            *self = Self { index: self.index.saturating_add(1), start: time, end: time, before, ..Self::default() };
        } else if self.start.saturating_sub(time) >= gap || self.before.is_some_and(|end| time <= end) {
            return false;
        }
        self.start = self.start.min(time);
        self.end = self.end.max(time);
        self.events = self.events.saturating_add(1);
        self.pages = self.pages.saturating_add(event.is_page.into());
        self.pings = self.pings.saturating_add(event.is_ping.into());
        self.engaged.add(time.div_euclid(HEARTBEAT));
        if let Some(page) = event.page {
            if self.entry.as_ref().is_none_or(|(first, _)| time < *first) {
                self.entry = Some((time, page.into()));
            }
            if self.exit.as_ref().is_none_or(|(last, _)| time >= *last) {
                self.exit = Some((time, page.into()));
            }
        }
        true
    }

    /// The number of the session that lasts at `now`.
    pub(super) fn open(&self, gap: i64, now: i64) -> Option<u64> {
        (self.index > 0 && now.saturating_sub(self.end) < gap).then_some(self.index)
    }

    pub(super) fn value(&self, function: Function, gap: i64, now: i64) -> Value {
        let seconds = |micros: i64| Value::Decimal(Decimal { units: i128::from(micros), scale: 6 });
        let page = |page: &Option<(i64, Scalar)>| page.as_ref().map_or(Value::Null, |(_, p)| Value::Scalar(p.clone()));
        if self.index == 0 && !matches!(function, Function::SessionIndex | Function::SessionActive) {
            return Value::Null;
        }
        match function {
            Function::SessionIndex => Value::Count(self.index),
            Function::SessionActive => Value::Bool(self.open(gap, now).is_some()),
            Function::SessionDuration => seconds(self.end.saturating_sub(self.start)),
            Function::SessionEvents => Value::Count(self.events),
            Function::SessionPages => Value::Count(self.pages),
            Function::SessionEntryPage => page(&self.entry),
            Function::SessionExitPage => page(&self.exit),
            Function::SessionBounce => {
                // Nothing but page views and pings, and at most one view.
                Value::Bool(self.pages <= 1 && self.events == self.pages.saturating_add(self.pings))
            }
            Function::SessionEngaged => seconds(self.engaged.slots().saturating_mul(HEARTBEAT)),
            _ => Value::Null,
        }
    }

    pub(super) fn is_sound(&self) -> bool {
        let runs = &self.engaged.runs;
        self.start <= self.end
            && runs.len() <= ENGAGED_RUNS_MAX
            && runs.iter().all(|(first, last)| first <= last)
            && runs.is_sorted_by(|a, b| a.1 < b.0)
    }
}

impl Engaged {
    fn add(&mut self, slot: i64) {
        // The run that ends last at or before the slot's left neighbour, or holds the slot.
        let at = self.runs.partition_point(|(first, _)| *first <= slot);
        if at > 0 {
            let (_, last) = self.runs[at - 1];
            if slot <= last {
                return;
            }
            if slot == last.saturating_add(1) {
                self.runs[at - 1].1 = slot;
                self.join(at);
                return;
            }
        }
        if let Some(next) = self.runs.get_mut(at)
            && next.0 == slot.saturating_add(1)
        {
            next.0 = slot;
            return;
        }
        self.runs.insert(at, (slot, slot));
        if self.runs.len() > ENGAGED_RUNS_MAX {
            let (first, last) = self.runs.remove(0);
            self.forgotten = self.forgotten.saturating_add(length(first, last));
        }
    }

    /// Joins the run at `at` to the one before it if nothing is between them.
    fn join(&mut self, at: usize) {
        if let Some((first, last)) = self.runs.get(at).copied()
            && self.runs[at - 1].1.saturating_add(1) == first
        {
            self.runs[at - 1].1 = last;
            self.runs.remove(at);
        }
    }

    fn slots(&self) -> i64 {
        let runs = self.runs.iter().fold(0u64, |sum, (first, last)| sum.saturating_add(length(*first, *last)));
        i64::try_from(self.forgotten.saturating_add(runs)).unwrap_or(i64::MAX)
    }
}

fn length(first: i64, last: i64) -> u64 {
    last.abs_diff(first).saturating_add(1)
}
