//! What goes to a feature backend, in which order, and what the store has to know of it.
//!
//! Pure; `forwarder` makes the calls. Answers that the store has taken wait here, newest per key, in bounded memory. Where
//! that does not suffice (a start that finds the backend behind, an outage that lasts, a backend that has lost writes), all
//! answers of the store are walked through and put again: a resync. The record of [`Progress`] says whether a start may do
//! without one. It is written before a resync begins and after a checkpoint of which nothing is outstanding; what was
//! published behind that checkpoint, a successor publishes again.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

use super::{Mark, Outcome, Progress, Put, Version};
use crate::{
    answer,
    key::{Key, KeyHash},
    ports::FeaturePage,
    timestamp::{SECOND, Timestamp},
};

/// Answers in one call, and their bytes, or one answer that passes that.
const CALL_ANSWERS_MAX: usize = 256;
const CALL_BYTES_MAX: usize = 1 << 20;
/// What an answer that waits costs beside its own bytes and those of its key.
const ENTRY_BYTES: u64 = 256;
/// A mark of another store that has not moved for this long belongs to nobody who is alive; whoever is moves it every 10 s.
pub const SILENCE: i64 = 30 * SECOND;

/// See the module.
pub struct Forward {
    partition: u32,
    epoch: u64,
    place: String,
    phase: Phase,
    /// What the store knows, and what it is to know.
    stored: Option<Progress>,
    due: Option<Progress>,
    /// The checkpoint that the partition started from.
    started_from: u64,
    /// The newest checkpoint, its cut, and the answers up to it that wait or are on their way.
    checkpoint: u64,
    cut: u64,
    owed: usize,
    /// The log ended here when the partition was claimed.
    log_last: u64,
    waiting: HashMap<Key, Waiting, KeyHash>,
    /// Keys of `waiting`, those that wait longest first.
    order: VecDeque<Key>,
    bytes: u64,
    bytes_max: u64,
    published: u64,
    generation: u64,
    /// The highest generation that was found on an answer.
    above: u64,
    /// The mark as the backend confirmed it, and as it was last asked to move it.
    mark: Option<Mark>,
    attempted: Option<Mark>,
    /// A mark of another store, and since when it is known not to move.
    other: Option<(Mark, Timestamp)>,
    call: Option<Call>,
    resync: Option<Resync>,
    /// The resync goes next, so that it and what is published have the same share.
    resync_is_next: bool,
    /// Answers are missing here: only a resync helps.
    is_lacking: bool,
    lacking_since: Option<Timestamp>,
    resyncs: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// The backend's mark is to be read.
    Asking,
    /// The store is to know that the backend is behind; then a resync begins.
    Announcing,
    /// Answers go out.
    Forwarding,
}

struct Waiting {
    seq: u64,
    number: u64,
    since: Timestamp,
    answer: Bytes,
}

/// One call of the backend: repeated as it is until it is answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Call {
    /// What is put.
    pub puts: Vec<Put>,
    /// The mark to follow.
    pub from: Option<Mark>,
    /// The mark to leave.
    pub to: Mark,
    /// Published, not read back from the store; and since when the first of them waits.
    published: bool,
    since: Timestamp,
}

#[derive(Default)]
struct Resync {
    after: Option<Bytes>,
    /// What had been published when the page was asked for: what it shows is at least as new.
    published: u64,
    ended: bool,
    /// Read, and not yet put.
    page: VecDeque<Put>,
    /// Published answers were dropped since it began: it is to begin again.
    again: bool,
}

/// What there is to do.
#[derive(PartialEq, Eq, Debug)]
pub enum Work {
    /// Read the mark, then [`Forward::begin`].
    Ask,
    /// Make this call, then [`Forward::put`] or [`Forward::moved`].
    Put(Call),
    /// Read the answers behind this place in the store, then [`Forward::read`].
    Read(Option<Bytes>),
    /// Nothing.
    Rest,
}

/// Where a partition stands when it starts.
pub struct Start {
    /// The partition.
    pub partition: u32,
    /// Its owner's epoch.
    pub epoch: u64,
    /// See [`crate::backend::FeatureBackend::place`].
    pub place: String,
    /// What the store knows of the backend.
    pub stored: Option<Progress>,
    /// The checkpoint that it starts from ...
    pub checkpoint: u64,
    /// ... and its cut.
    pub cut: u64,
    /// Where the log ends.
    pub log_last: u64,
    /// Bytes of answers that may wait.
    pub bytes_max: u64,
}

impl Forward {
    /// Begins with a look at the backend.
    pub fn new(start: Start) -> Self {
        let Start { partition, epoch, place, stored, checkpoint, cut, log_last, bytes_max } = start;
        Self {
            partition,
            epoch,
            place,
            phase: Phase::Asking,
            stored,
            due: None,
            started_from: checkpoint,
            checkpoint,
            cut,
            owed: 0,
            log_last,
            waiting: HashMap::default(),
            order: VecDeque::new(),
            bytes: 0,
            bytes_max,
            published: 0,
            generation: 0,
            above: 0,
            mark: None,
            attempted: None,
            other: None,
            call: None,
            resync: None,
            resync_is_next: false,
            is_lacking: false,
            lacking_since: None,
            resyncs: 0,
        }
    }

    // ---- what the committer tells -------------------------------------------------------------------------------------

    /// The store has taken this answer.
    pub fn published(&mut self, key: &Key, seq: u64, answer: &Bytes, now: Timestamp) {
        self.published += 1;
        if self.is_lacking {
            return; // the resync that is to come reads it
        }
        let (number, answer) = (self.published, answer.clone());
        if let Some(held) = self.waiting.get_mut(key) {
            if seq < held.seq {
                return;
            }
            self.bytes = self.bytes - held.answer.len() as u64 + answer.len() as u64;
            self.owed -= usize::from(held.seq <= self.cut && seq > self.cut);
            *held = Waiting { seq, number, since: held.since, answer };
        } else {
            self.bytes += cost(key, &answer);
            self.owed += usize::from(seq <= self.cut);
            self.order.push_back(key.clone());
            self.waiting.insert(key.clone(), Waiting { seq, number, since: now, answer });
        }
        if self.bytes > self.bytes_max {
            self.overflow(now);
        }
    }

    /// Checkpoint `n` has committed, with this cut.
    pub fn checkpointed(&mut self, n: u64, cut: u64) {
        (self.checkpoint, self.cut) = (n, cut);
        let in_call = self.call.iter().filter(|call| call.published).flat_map(|call| &call.puts);
        let seqs = self.waiting.values().map(|w| w.seq).chain(in_call.map(|put| put.version.seq));
        self.owed = seqs.filter(|seq| *seq <= cut).count();
        self.complete();
    }

    /// What the store is to know, if it does not yet.
    pub fn due(&self) -> Option<&Progress> {
        self.due.as_ref()
    }

    /// The store knows this now.
    pub fn noted(&mut self, progress: Progress) {
        if self.due.as_ref() == Some(&progress) {
            self.due = None;
        }
        let announces = progress.complete.is_none() && progress.generation == self.generation;
        self.stored = Some(progress);
        if self.phase == Phase::Announcing && announces {
            self.start_resync();
        }
    }

    // ---- what the calls tell --------------------------------------------------------------------------------------------

    /// What to do now.
    pub fn work(&mut self) -> Work {
        match self.phase {
            Phase::Asking => return Work::Ask,
            Phase::Announcing => return Work::Rest,
            Phase::Forwarding => {}
        }
        loop {
            if let Some(call) = &self.call {
                return Work::Put(call.clone());
            }
            let is_turn_of_resync = self.resync_is_next && self.resync.is_some();
            if !is_turn_of_resync && !self.order.is_empty() {
                self.resync_is_next = true;
                self.call_published();
                continue;
            }
            let Some(resync) = &mut self.resync else { return Work::Rest };
            if !resync.page.is_empty() {
                self.resync_is_next = false;
                self.call_read();
            } else if !resync.ended {
                resync.published = self.published;
                return Work::Read(resync.after.clone());
            } else if resync.again {
                self.start_resync();
            } else {
                (self.resync, self.lacking_since) = (None, None);
                self.complete();
            }
        }
    }

    /// A call without answers, which shows whether the backend still has what it had.
    pub fn beat(&mut self, now: Timestamp) {
        if self.phase == Phase::Forwarding && self.call.is_none() {
            self.call(Vec::new(), true, now);
        }
    }

    /// The backend's mark was read. An error when another engine puts there: ask again later.
    pub fn begin(&mut self, found: Option<Mark>, now: Timestamp) -> Result<(), String> {
        let known = self.stored.clone().filter(|stored| stored.place == self.place);
        let stored = self.stored.as_ref().map_or(0, |stored| stored.generation);
        let highest = stored.max(self.above).max(found.map_or(0, |mark| mark.generation));
        let next = (highest + 1).max(u64::try_from(now.0).unwrap_or(0));
        // With another ttl or prefix the same place counts as another one; the mark there is still ours.
        let is_foreign = |mark: &Mark| match &known {
            Some(known) => mark.generation > known.generation,
            None => mark.generation != stored,
        };
        let foreign = found.filter(is_foreign);
        if let Some(mark) = foreign {
            let since = self.other.filter(|(other, _)| *other == mark).map_or(now, |(_, since)| since);
            self.other = Some((mark, since));
            if now.0.saturating_sub(since.0) < SILENCE {
                return Err(format!(
                    "answers of another store are in {}: they are replaced if nobody puts there for {} s. If another engine \
                     does, give each its own `prefix` or table",
                    self.place,
                    SILENCE / SECOND
                ));
            }
        }
        self.mark = found;
        let Some(known) = known.filter(|known| foreign.is_none() && self.above <= known.generation) else {
            self.announce(next, now);
            return Ok(());
        };
        let of_this_life = self.attempted.filter(|mark| mark.generation == known.generation);
        if let Some(mark) = found.filter(|mark| mark.generation == known.generation) {
            let (epoch, count) = of_this_life.map_or((self.epoch, 0), |mark| (mark.epoch, mark.count));
            let is_ahead = (mark.epoch, mark.count) > (epoch, count);
            if is_ahead || (mark.epoch < self.epoch && mark.seq > self.log_last) {
                // The store or the log lost what the backend has seen: the same sequences mean other events now. (Or a
                // successor has claimed the partition; then the store does not take this either, and all of it ends.)
                self.announce(next, now);
                return Ok(());
            }
        }
        let is_complete = known.complete == Some(self.started_from) && found >= known.mark;
        if of_this_life.is_none() && !self.is_lacking && is_complete {
            (self.generation, self.phase) = (known.generation, Phase::Forwarding);
        } else {
            self.announce(known.generation, now);
        }
        Ok(())
    }

    /// What became of the call.
    pub fn put(&mut self, outcomes: &[Outcome], now: Timestamp) {
        let Some(mut call) = self.call.take() else { return };
        self.mark = Some(call.to);
        let mut outcomes = outcomes.iter();
        call.puts.retain(|put| {
            let outcome = outcomes.next();
            if let Some(Outcome::Older(version)) = outcome {
                self.above = self.above.max(version.generation);
            }
            let is_done = !matches!(outcome, None | Some(Outcome::Failed(_)));
            self.owed -= usize::from(is_done && call.published && put.version.seq <= self.cut);
            !is_done
        });
        if self.above > self.generation {
            return self.moved(now); // left by somebody whose mark is gone
        }
        if !call.puts.is_empty() {
            self.call(call.puts, call.published, call.since);
        }
        self.complete();
    }

    /// The backend has another mark than expected.
    pub fn moved(&mut self, now: Timestamp) {
        self.phase = Phase::Asking;
        self.lack(now);
    }

    /// A part of the store's answers, as [`Work::Read`] asked for.
    pub fn read(&mut self, page: FeaturePage) {
        let (partition, generation, epoch) = (self.partition, self.generation, self.epoch);
        let Some(resync) = &mut self.resync else { return };
        let number = resync.published;
        resync.page.extend(page.answers.into_iter().filter_map(|(key, answer)| {
            let stored = answer::published(&answer).filter(|stored| stored.partition == partition)?;
            let version = Version { generation, seq: stored.seq, epoch, number };
            Some(Put { key, version, event_time: stored.event_time, answer: stored.text })
        }));
        (resync.after, resync.ended) = (page.next.clone(), page.next.is_none());
    }

    // ---- numbers --------------------------------------------------------------------------------------------------------

    /// Keys whose answers wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len() + self.call.as_ref().map_or(0, |call| call.puts.len())
    }

    /// Since when the oldest answer waits that the backend lacks.
    pub fn behind_since(&self) -> Option<Timestamp> {
        let first = self.order.front().and_then(|key| self.waiting.get(key)).map(|waiting| waiting.since);
        let called = self.call.as_ref().filter(|call| !call.puts.is_empty()).map(|call| call.since);
        first.into_iter().chain(called).chain(self.lacking_since).min()
    }

    /// Resyncs so far.
    pub fn resyncs(&self) -> u64 {
        self.resyncs
    }

    /// Whether the store knows that the backend has everything up to the newest checkpoint.
    pub fn is_complete(&self) -> bool {
        let known = self.stored.as_ref().and_then(|stored| stored.complete);
        self.phase == Phase::Forwarding && known == Some(self.checkpoint) && self.waiting() == 0
    }

    // ---- inside -----------------------------------------------------------------------------------------------------------

    fn overflow(&mut self, now: Timestamp) {
        match (self.phase, &mut self.resync) {
            (Phase::Forwarding, Some(resync)) => {
                resync.again = true;
                self.drop_waiting();
            }
            (Phase::Forwarding, None) => self.announce(self.generation, now),
            _ => self.lack(now),
        }
    }

    fn drop_waiting(&mut self) {
        (self.waiting, self.order, self.bytes) = Default::default();
        let call = self.call.as_ref().filter(|call| call.published).map_or(&[][..], |call| &call.puts[..]);
        self.owed = call.iter().filter(|put| put.version.seq <= self.cut).count();
    }

    /// Nothing less than a resync helps.
    fn lack(&mut self, now: Timestamp) {
        (self.call, self.resync, self.is_lacking) = (None, None, true);
        self.lacking_since.get_or_insert(now);
        self.drop_waiting();
    }

    fn announce(&mut self, generation: u64, now: Timestamp) {
        self.lack(now);
        (self.phase, self.generation, self.other) = (Phase::Announcing, generation, None);
        let progress = Progress { place: self.place.clone(), generation, complete: None, mark: None };
        if self.stored.as_ref() == Some(&progress) && self.due.is_none() {
            self.start_resync(); // what was due may be on its way to the store, and would say something else
        } else {
            self.due = Some(progress);
        }
    }

    /// From here on nothing that is published may be missed: then the first page is read.
    fn start_resync(&mut self) {
        (self.phase, self.is_lacking, self.resync) = (Phase::Forwarding, false, Some(Resync::default()));
        self.resyncs += 1;
    }

    fn complete(&mut self) {
        let is_settled = self.phase == Phase::Forwarding && self.resync.is_none() && self.owed == 0;
        let known = self.stored.as_ref().and_then(|stored| stored.complete);
        if is_settled && known != Some(self.checkpoint) {
            let (place, generation, complete) = (self.place.clone(), self.generation, Some(self.checkpoint));
            self.due = Some(Progress { place, generation, complete, mark: self.mark });
        }
    }

    fn call_published(&mut self) {
        let (mut puts, mut bytes, mut since) = (Vec::new(), 0, None);
        while puts.len() < CALL_ANSWERS_MAX
            && bytes < CALL_BYTES_MAX
            && let Some(key) = self.order.pop_front()
        {
            let Some(Waiting { seq, number, since: waits, answer }) = self.waiting.remove(&key) else { continue };
            self.bytes -= cost(&key, &answer);
            since.get_or_insert(waits);
            let Some(stored) = answer::published(&answer) else {
                self.owed -= usize::from(seq <= self.cut);
                continue; // not an answer of ours; there is none
            };
            bytes += stored.text.len();
            let version = Version { generation: self.generation, seq, epoch: self.epoch, number };
            puts.push(Put { key, version, event_time: stored.event_time, answer: stored.text });
        }
        if !puts.is_empty() {
            self.call(puts, true, since.unwrap_or_default());
        }
    }

    fn call_read(&mut self) {
        let Some(resync) = &mut self.resync else { return };
        let (mut puts, mut bytes) = (Vec::new(), 0);
        while puts.len() < CALL_ANSWERS_MAX
            && bytes < CALL_BYTES_MAX
            && let Some(put) = resync.page.pop_front()
        {
            bytes += put.answer.len();
            puts.push(put);
        }
        self.call(puts, false, self.lacking_since.unwrap_or_default());
    }

    fn call(&mut self, puts: Vec<Put>, published: bool, since: Timestamp) {
        let before = self.mark.filter(|mark| mark.generation == self.generation).map_or(0, |mark| mark.seq);
        let count = self.attempted.map_or(0, |mark| mark.count) + 1;
        let seq = puts.iter().map(|put| put.version.seq).fold(before, u64::max);
        let to = Mark { generation: self.generation, epoch: self.epoch, count, seq };
        self.attempted = Some(to);
        self.call = Some(Call { puts, from: self.mark, to, published, since });
    }
}

fn cost(key: &Key, answer: &Bytes) -> u64 {
    ENTRY_BYTES + key.as_str().len() as u64 + answer.len() as u64
}

#[cfg(test)]
#[path = "forward_tests.rs"]
mod tests;
