//! What a partition says about itself while it runs: numbers that faces and metrics read without asking an actor.
//!
//! Written by the actors, once per batch or turn; read at any time.

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
};

use lru::LruCache;

use crate::{
    answer::readers::Readers,
    checkpoint::{counts::Counts, record::Counters},
    key::Key,
    table::outbox::OutboxEnd,
    timestamp::Timestamp,
};

/// See the module. All sequences are the log's.
#[derive(Debug, Default)]
pub struct Status {
    /// Events since this process claimed the partition, signed because a crashed session takes some back.
    applied: AtomicI64,
    duplicate: AtomicI64,
    dead: [AtomicI64; crate::dead_letter::Reason::ALL.len()],
    /// Counters of the checkpoint that this process started from; `None` while it has not read it.
    base: Mutex<Option<Counters>>,
    /// Last sequence handed to the shards.
    pub routed: AtomicU64,
    /// Cut of the last committed checkpoint; set by [`Status::committed`].
    pub cut: AtomicU64,
    /// Newest sequence known to be in the log.
    pub log_last: AtomicU64,
    /// All that the log had stored by then is routed; while nobody knows, the partition's first start. 0 before that.
    pub routed_stored: AtomicI64,
    /// Highest event time routed so far, in microseconds: the partition's clock.
    pub clock: AtomicI64,
    /// When the last checkpoint committed, or when it was last seen that nothing needs another one.
    pub checkpoint_at: AtomicI64,
    /// Keys lag behind the last checkpoint: it leaves events of theirs to a later one.
    pub lags: AtomicBool,
    /// Sessions in memory.
    pub sessions_live: AtomicI64,
    /// Bytes of evicted state waiting for a checkpoint.
    pub pool_bytes: AtomicI64,
    /// Sequences of events that wait to be read again: of keys that restart, or that are too hot for memory.
    pub parked: AtomicI64,
    /// Questions of keys to the world outside that wait for their answers.
    pub look_ups: AtomicI64,
    /// The oldest event that the last checkpoint does not cover although it is older than its cut, or covers without having
    /// published it; `u64::MAX` when there is none, 1 when it is not known yet.
    pub owed_from: AtomicU64,
    /// Bytes in flight between router and sessions or tables.
    pub in_flight_bytes: AtomicU64,
    /// The partition is claimed, read, and running.
    pub running: AtomicBool,
    /// Bytes of emitted rows that wait for a checkpoint.
    pub rows_bytes: AtomicI64,
    /// How far each table that follows the log is in the lake.
    tables: Mutex<BTreeMap<String, u64>>,
    /// The outboxes.
    outboxes: Mutex<BTreeMap<String, Outbox>>,
    /// Another engine has claimed the partition: nothing here may start again.
    pub fenced: AtomicBool,
    /// Events are tried carefully, see [`crate::careful`].
    pub careful: AtomicBool,
    /// Starts of a process that found no progress since the one before, this one included.
    pub starts: AtomicU64,
    /// Events of the log that were gone before they could be read.
    pub dropped: AtomicI64,
    /// Why the partition is not well, if it is not, by who says it.
    troubles: Mutex<[Option<String>; 3]>,
    /// Whether there is such a reason.
    troubled: AtomicBool,
    /// How often in a row the log did not say how far it goes; it is asked twice a second at most.
    pub log_misses: AtomicU64,
    /// Readers that wait for what they have written.
    pub readers: Readers,
    /// Restarts of sessions, of the keys that restarted last.
    restarts: Mutex<Restarts>,
}

/// Keys whose restarts are remembered, at most.
const RESTARTED_KEYS_MAX: usize = 1_000;

#[derive(Debug)]
struct Restarts(LruCache<Key, u64>);

impl Default for Restarts {
    fn default() -> Self {
        Self(LruCache::new(NonZeroUsize::new(RESTARTED_KEYS_MAX).unwrap_or(NonZeroUsize::MIN)))
    }
}

/// What a partition can be in trouble with: each is said, and taken back, by one actor alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// It does not start.
    Start,
    /// The store does not take writes.
    Store,
    /// The outbox is full.
    Outbox,
}

/// The outbox of one table.
#[derive(Clone, Copy, Debug, Default)]
struct Outbox {
    end: OutboxEnd,
    /// Bytes of the blocks that are in the lake.
    written: u64,
}

impl Status {
    /// Starts from a checkpoint; `owed_from` as in [`Status::committed`].
    pub fn start_from(&self, base: &Counters, cut: u64, owed_from: u64) {
        let mut held = lock(&self.base); // whoever sums up sees all of this or nothing
        for live in [&self.applied, &self.duplicate].into_iter().chain(&self.dead) {
            live.store(0, Ordering::Relaxed);
        }
        self.dropped.store(0, Ordering::Relaxed);
        self.sessions_live.store(0, Ordering::Relaxed);
        self.pool_bytes.store(0, Ordering::Relaxed);
        self.parked.store(0, Ordering::Relaxed);
        self.rows_bytes.store(0, Ordering::Relaxed);
        self.committed(cut, owed_from);
        self.routed.store(cut, Ordering::Relaxed);
        *held = Some(base.clone());
    }

    /// A checkpoint counts, and all that it publishes is published: up to `cut`, except what is owed or could not be
    /// published, from `owed_from` on.
    pub fn committed(&self, cut: u64, owed_from: u64) {
        // In this order, see `published`: who sees the cut must know what it leaves out.
        self.owed_from.store(owed_from, Ordering::Release);
        self.cut.store(cut, Ordering::Release);
    }

    /// Whether the last checkpoint covers all that was routed, and no key lags behind it.
    pub fn is_committed(&self) -> bool {
        let is_cut = self.routed.load(Ordering::Relaxed) <= self.cut.load(Ordering::Relaxed);
        is_cut && !self.lags.load(Ordering::Relaxed)
    }

    /// How long events have waited for a checkpoint, in seconds; 0 when none does.
    pub fn uncommitted_for(&self, now: Timestamp) -> f64 {
        let since = Timestamp(self.checkpoint_at.load(Ordering::Relaxed));
        if self.is_committed() || since.0 == 0 { 0.0 } else { now.seconds_since(since) }
    }

    /// Events ended.
    pub fn add(&self, counts: &Counts) {
        self.shift(counts, 1);
    }

    /// Their ends were taken back.
    pub fn take_back(&self, counts: &Counts) {
        self.shift(counts, -1);
    }

    fn shift(&self, counts: &Counts, sign: i64) {
        let live = [&self.applied, &self.duplicate].into_iter().chain(&self.dead);
        let numbers = [counts.applied, counts.duplicate].into_iter().chain(counts.dead);
        for (live, n) in live.zip(numbers).filter(|(_, n)| *n > 0) {
            live.fetch_add(sign * n as i64, Ordering::Relaxed);
        }
        if counts.dropped > 0 {
            self.dropped.fetch_add(sign * counts.dropped as i64, Ordering::Relaxed);
        }
    }

    /// Ends of all events since the log began, this process's so far included.
    pub fn counters(&self) -> Counters {
        self.known_counters().unwrap_or_default()
    }

    /// The same; `None` before the partition's first start in this process, when nobody has read what was counted earlier.
    pub fn known_counters(&self) -> Option<Counters> {
        let base = lock(&self.base);
        let read = |n: &AtomicI64| n.load(Ordering::Relaxed).max(0) as u64;
        let (applied, duplicate, dropped) = (read(&self.applied), read(&self.duplicate), read(&self.dropped));
        let mut counts = Counts { applied, duplicate, dropped, ..Counts::default() };
        counts.dead.iter_mut().zip(&self.dead).for_each(|(n, live)| *n = read(live));
        let mut counters = counts.to_counters();
        counters.add(base.as_ref()?);
        Some(counters)
    }

    /// A table that follows the log has everything up to `cursor` in the lake.
    pub fn set_table_cursor(&self, table: &str, cursor: u64) {
        lock(&self.tables).insert(table.to_owned(), cursor);
    }

    /// The lowest cursor of all tables that follow the log; `None` when there is no such table.
    pub fn tables_cursor(&self) -> Option<u64> {
        lock(&self.tables).values().copied().min()
    }

    /// A checkpoint says how far the outbox of `table` goes.
    pub fn set_outbox_end(&self, table: &str, end: OutboxEnd) {
        lock(&self.outboxes).entry(table.to_owned()).or_default().end = end;
    }

    /// This many bytes of blocks of the outbox of `table` are in the lake, of all that ever were.
    pub fn set_outbox_written(&self, table: &str, bytes: u64) {
        lock(&self.outboxes).entry(table.to_owned()).or_default().written = bytes;
    }

    /// The last block that counts in the outbox of `table`.
    pub fn outbox_last(&self, table: &str) -> u64 {
        lock(&self.outboxes).get(table).map_or(0, |outbox| outbox.end.last)
    }

    /// Bytes that wait in all outboxes.
    pub fn outbox_bytes(&self) -> u64 {
        lock(&self.outboxes).values().map(|outbox| outbox.end.bytes.saturating_sub(outbox.written)).sum()
    }

    /// The session of `key` starts again.
    pub fn session_restarts(&self, key: &Key) {
        *lock(&self.restarts).0.get_or_insert_mut(key.clone(), || 0) += 1;
    }

    /// How often the session of `key` has started again since the process began, as far as that is remembered.
    pub fn restarts_of(&self, key: &Key) -> u64 {
        lock(&self.restarts).0.peek(key).copied().unwrap_or(0)
    }

    /// Says what is wrong with `of`, or that nothing is.
    pub fn set_trouble(&self, of: Trouble, trouble: Option<String>) {
        let mut held = lock(&self.troubles);
        held[of as usize] = trouble;
        self.troubled.store(held.iter().any(Option::is_some), Ordering::Relaxed);
    }

    /// What is wrong; of several things, the first in the order of [`Trouble`].
    pub fn trouble(&self) -> Option<String> {
        lock(&self.troubles).iter().flatten().next().cloned()
    }

    /// Whether what is served of this partition may be older than it should be: it does not run, or its log or store do
    /// not answer.
    pub fn is_stale(&self) -> bool {
        !self.running.load(Ordering::Relaxed) || self.troubled.load(Ordering::Relaxed) || self.log_away()
    }

    /// Whether the log did not say how far it goes when it was last asked.
    pub fn log_away(&self) -> bool {
        self.log_misses.load(Ordering::Relaxed) > 0
    }

    /// What the log has beyond what was handed to sessions: events, and while there are such, seconds since there were none.
    pub fn lag(&self, now: Timestamp) -> (u64, f64) {
        let behind = self.log_last.load(Ordering::Relaxed).saturating_sub(self.routed.load(Ordering::Relaxed));
        let since = self.routed_stored();
        (behind, if behind > 0 && since.0 > 0 { now.seconds_since(since) } else { 0.0 })
    }

    /// Everything up to this sequence is published, whatever its key: a checkpoint publishes what it covers before its end,
    /// and says what it could not.
    /// A lower bound that costs two loads; for more, ask for a key with [`Readers::wait`]. What is read of a key **after** this
    /// shows it; what was read before may not.
    pub fn published(&self) -> u64 {
        // With what a later checkpoint owes, an older cut is still right; with what an earlier one owed, a newer cut is not.
        let cut = self.cut.load(Ordering::Acquire);
        cut.min(self.owed_from.load(Ordering::Acquire).saturating_sub(1))
    }

    /// All that the log had stored by then is routed.
    pub fn routed_stored(&self) -> Timestamp {
        Timestamp(self.routed_stored.load(Ordering::Relaxed))
    }
}

/// Locks, and goes on after a panic of another holder: what is inside is plain numbers and texts.
pub fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_stays_until_it_is_over_itself() {
        let status = Status::default();
        status.running.store(true, Ordering::Relaxed);
        let say = |of, text: Option<&str>| status.set_trouble(of, text.map(str::to_owned));
        say(Trouble::Outbox, Some("full"));
        say(Trouble::Store, Some("away"));
        assert_eq!(status.trouble().as_deref(), Some("away"));
        say(Trouble::Store, None);
        say(Trouble::Start, None);
        assert_eq!((status.trouble().as_deref(), status.is_stale()), (Some("full"), true));
        say(Trouble::Outbox, None);
        assert_eq!((status.trouble(), status.is_stale()), (None, false));
    }
}
