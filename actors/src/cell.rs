//! One session as its shard sees it: the queue, the live state, and its part in checkpoints and recoveries.
//!
//! Pure. The shard and the session actor share a cell; they run on the same thread, so its lock is never contended. A
//! cut is a sequence number: the first event behind it makes the cell encode its state before it is applied, so nothing
//! has to stop and nothing has to wait in the queue.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;

use crate::{
    counts::Counts,
    dead_letter::{DeadLetter, Reason},
    event::QueuedEvent,
    handler::{Fault, LogicFactory, StateError},
    key::Key,
    record::Tag,
    session_core::{Outcome, SessionCore},
    timestamp::Timestamp,
};

/// Events of one turn; after that other sessions of the worker get theirs. At about 0.5 µs each.
pub const TURN_EVENTS_MAX: usize = 1_024;

/// Where the state of a cell is.
pub enum Core {
    /// Not loaded yet, or lost in a crash.
    Absent,
    /// In memory.
    Live(Box<SessionCore>),
    /// Evicted, encoded, waiting for its checkpoint.
    Frozen(Bytes),
}

/// How one consumed event ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Applied or repeat.
    Done(Outcome),
    /// Given up.
    Dead(Reason),
}

/// The share of a cell in a checkpoint.
enum Share {
    /// None.
    None,
    /// Its state as of this sequence is wanted.
    Due(u64),
    /// Encoded as of the cut, not yet collected.
    Taken(Bytes),
}

/// Why an incarnation ended early.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The event it was trying.
    pub seq: u64,
    /// `error`, or `panic` when the handler said nothing.
    pub reason: Reason,
    /// In words.
    pub text: String,
    /// How long the handler asked to wait.
    pub retry_after: Option<std::time::Duration>,
}

/// See the module.
pub struct Cell {
    key: Key,
    inbox: VecDeque<QueuedEvent>,
    /// A wake-up is on its way, or a turn has not ended.
    pub awake: bool,
    /// Where the state is.
    pub core: Core,
    /// The version that the store holds for sure, and the one that a checkpoint is writing.
    committed: Option<(Tag, Bytes)>,
    in_flight: Option<(Tag, Bytes)>,
    share: Share,
    dirty: bool,
    /// Consumed since `committed`, in order; the first `counted` are in the shard's counts.
    history: Vec<(u64, End)>,
    counted: usize,
    attempts: BTreeMap<u64, u32>,
    condemned: BTreeMap<u64, (Reason, String)>,
    dead: Vec<DeadLetter>,
    trying: u64,
    failure: Option<Failure>,
    /// When the log stored the oldest event whose effect is not yet in a published feature.
    unpublished_since: Option<Timestamp>,
    /// The cell is in its shard's list of due answers.
    answer_listed: bool,
    /// Sequence of the newest published answer: nothing older may follow it.
    published: u64,
    frozen_answer: Option<(u64, Bytes)>,
}

/// What [`Cell::collect_share`] found.
pub enum Collected {
    /// The committed version, and the one as of the cut.
    Share(Option<(Tag, Bytes)>, Bytes),
    /// Events at or below the cut still wait.
    NotYet,
    /// It has no share any more.
    Nothing,
}

/// What a turn did, for the shard's books.
#[derive(Default)]
pub struct Turn {
    /// Ends of events at or below the cut of the checkpoint under way.
    pub counts: Counts,
    /// Ends of events behind it.
    pub counts_behind: Counts,
    /// Events given up.
    pub dead: Vec<DeadLetter>,
    /// The features became due for publication: the shard must list the cell.
    pub feature_due: bool,
    /// The queue is not empty.
    pub more: bool,
}

impl Cell {
    /// A cell without state.
    pub fn new(key: Key) -> Self {
        Self {
            key,
            inbox: VecDeque::new(),
            awake: false,
            core: Core::Absent,
            committed: None,
            in_flight: None,
            share: Share::None,
            dirty: false,
            history: Vec::new(),
            counted: 0,
            attempts: BTreeMap::new(),
            condemned: BTreeMap::new(),
            dead: Vec::new(),
            trying: 0,
            failure: None,
            unpublished_since: None,
            answer_listed: false,
            published: 0,
            frozen_answer: None,
        }
    }

    /// The key.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Queues an event; true when the session must be woken for it.
    pub fn push(&mut self, event: QueuedEvent) -> bool {
        self.inbox.push_back(event);
        !std::mem::replace(&mut self.awake, true)
    }

    /// Whether events wait.
    pub fn has_events(&self) -> bool {
        !self.inbox.is_empty()
    }

    /// Gives the cell its state from the store's committed version, or a new one. A version that cannot be read is
    /// returned as an error, and the cell stays without state.
    pub fn hydrate(&mut self, factory: &Arc<dyn LogicFactory>, stored: Option<(Tag, Bytes)>) -> Result<(), StateError> {
        let core = match &stored {
            Some((_, version)) => SessionCore::decode(factory, version)?,
            None => SessionCore::new(factory)?,
        };
        self.committed = stored;
        self.core = Core::Live(Box::new(core));
        Ok(())
    }

    /// Consumes queued events until the queue is empty, the turn is over, or an event fails. On an error the state is
    /// gone and the shard restarts the session from [`Cell::recover`]; a panic of the handler has the same effect.
    pub fn turn(&mut self, factory: &Arc<dyn LogicFactory>, cut: u64) -> Result<Turn, Failure> {
        let Core::Live(mut core) = std::mem::replace(&mut self.core, Core::Absent) else {
            return Ok(Turn { more: false, ..Turn::default() });
        };
        let mut left = TURN_EVENTS_MAX;
        while left > 0 {
            let Some(seq) = self.inbox.front().map(QueuedEvent::seq) else { break };
            left -= 1;
            if seq <= core.applied() {
                self.inbox.pop_front(); // re-read after a recovery, and already in the recovered state
                continue;
            }
            self.take_share(&core, factory, seq)?;
            self.trying = seq;
            let end = self.consume(&mut core, seq)?; // an event that fails, or panics, stays in the queue
            let stored = self.inbox.pop_front().map(|event| event.get().event().stored);
            self.history.push((seq, end));
            self.dirty = true;
            self.unpublished_since = self.unpublished_since.or(stored);
        }
        self.trying = 0;
        let counts = self.count(cut);
        let feature_due = self.unpublished_since.is_some() && !std::mem::replace(&mut self.answer_listed, true);
        self.core = Core::Live(core);
        let more = self.has_events();
        self.awake = more;
        Ok(Turn { counts: counts.0, counts_behind: counts.1, dead: std::mem::take(&mut self.dead), feature_due, more })
    }

    /// Runs the event at the front of the queue, which has sequence `seq`.
    fn consume(&mut self, core: &mut SessionCore, seq: u64) -> Result<End, Failure> {
        if let Some((reason, text)) = self.condemned.get(&seq).cloned() {
            return Ok(self.give_up(core, reason, text));
        }
        match core.apply(self.inbox[0].get()) {
            Ok(outcome) => Ok(End::Done(outcome)),
            Err(Fault::Reject(text)) => {
                *self.attempts.entry(seq).or_default() += 1;
                Ok(self.give_up(core, Reason::Reject, text))
            }
            Err(Fault::Crash(text)) => Err(self.fail(Failure { seq, reason: Reason::Error, text, retry_after: None })),
            Err(Fault::Retry(after)) => {
                let text = format!("the handler asked to try again after {after:?}");
                Err(self.fail(Failure { seq, reason: Reason::Error, text, retry_after: Some(after) }))
            }
        }
    }

    fn fail(&mut self, failure: Failure) -> Failure {
        self.failure = Some(failure.clone());
        failure
    }

    /// Gives up the event at the front of the queue.
    fn give_up(&mut self, core: &mut SessionCore, reason: Reason, error: String) -> End {
        let event = self.inbox[0].get().event();
        core.skip(event.seq);
        let attempts = self.attempts.get(&event.seq).copied().unwrap_or(0);
        self.dead.push(DeadLetter::of(event, reason, error, attempts));
        End::Dead(reason)
    }

    /// Counts what the history has gained since the last time: at or below `cut`, and behind it.
    fn count(&mut self, cut: u64) -> (Counts, Counts) {
        let (mut within, mut behind) = (Counts::default(), Counts::default());
        for (seq, end) in &self.history[self.counted..] {
            if *seq <= cut { within.add(*end, 1) } else { behind.add(*end, 1) }
        }
        self.counted = self.history.len();
        (within, behind)
    }

    // ---- checkpoints ----------------------------------------------------------------------------------------------------

    /// A barrier passed behind sequence `cut`: true when this cell has a share in the checkpoint.
    pub fn begin_share(&mut self, cut: u64) -> bool {
        let touched = self.dirty || self.has_events();
        if touched {
            self.share = Share::Due(cut);
        }
        touched
    }

    /// Encodes the share if the next event is behind the cut.
    fn take_share(&mut self, core: &SessionCore, factory: &Arc<dyn LogicFactory>, next: u64) -> Result<(), Failure> {
        if let Share::Due(cut) = self.share
            && next > cut
        {
            self.trying = next;
            let version = core
                .encode(factory)
                .map_err(|e| self.fail(Failure { seq: next, reason: Reason::Error, text: e.0, retry_after: None }))?;
            self.share = Share::Taken(version);
            self.dirty = false;
        }
        Ok(())
    }

    /// The share for checkpoint `tag`.
    pub fn collect_share(&mut self, factory: &Arc<dyn LogicFactory>, tag: Tag) -> Result<Collected, StateError> {
        let version = match std::mem::replace(&mut self.share, Share::None) {
            Share::Taken(version) if self.trying == 0 => version,
            Share::Taken(version) => {
                self.share = Share::Taken(version); // the turn failed: first its shard books what is in the share
                return Ok(Collected::NotYet);
            }
            Share::Due(cut) => {
                let waits = self.inbox.front().is_some_and(|e| e.seq() <= cut);
                match &self.core {
                    Core::Live(core) if !waits => {
                        let version = core.encode(factory)?;
                        self.dirty = false;
                        version
                    }
                    Core::Frozen(version) if !waits => {
                        self.dirty = false;
                        version.clone()
                    }
                    _ => {
                        self.share = Share::Due(cut);
                        return Ok(Collected::NotYet);
                    }
                }
            }
            Share::None => return Ok(Collected::Nothing),
        };
        self.in_flight = Some((tag, version.clone()));
        Ok(Collected::Share(self.committed.clone(), version))
    }

    /// The checkpoint with this cut is acknowledged: what it wrote is now the committed version.
    pub fn acknowledge(&mut self, cut: u64) {
        if let Some(in_flight) = self.in_flight.take() {
            self.committed = Some(in_flight);
            let done = self.history.partition_point(|(seq, _)| *seq <= cut);
            self.history.drain(..done);
            self.counted -= done.min(self.counted);
            self.attempts = self.attempts.split_off(&(cut + 1));
            self.condemned = self.condemned.split_off(&(cut + 1));
        }
    }

    /// Whether the store lacks anything that only this cell has.
    pub fn is_clean(&self) -> bool {
        !self.dirty && self.in_flight.is_none() && matches!(self.share, Share::None) && self.unpublished_since.is_none()
    }

    // ---- eviction -------------------------------------------------------------------------------------------------------

    /// Whether the session is between turns with nothing to do.
    pub fn is_idle(&self) -> bool {
        !self.awake && self.inbox.is_empty() && matches!(self.core, Core::Live(_))
    }

    /// Replaces the live state by its encoding. Fails, changing nothing, when the state cannot be encoded.
    pub fn freeze(&mut self, factory: &Arc<dyn LogicFactory>, partition: u32) -> Result<(), StateError> {
        if let Core::Live(core) = &self.core {
            let version = core.encode(factory)?;
            if self.unpublished_since.is_some() {
                self.frozen_answer = core.answer(&self.key, partition).map(|answer| (core.applied(), answer));
                if self.frozen_answer.is_none() {
                    self.unpublished_since = None;
                }
            }
            self.core = Core::Frozen(version);
            self.inbox = VecDeque::new();
        }
        Ok(())
    }

    /// Brings a frozen state back.
    pub fn thaw(&mut self, factory: &Arc<dyn LogicFactory>) -> Result<(), StateError> {
        if let Core::Frozen(version) = &self.core {
            self.core = Core::Live(Box::new(SessionCore::decode(factory, version)?));
            self.frozen_answer = None;
        }
        Ok(())
    }

    /// Bytes held for this key while it is not resident.
    pub fn frozen_bytes(&self) -> usize {
        let versions = [&self.committed, &self.in_flight].into_iter().flatten().map(|(_, v)| v.len()).sum::<usize>();
        let core = if let Core::Frozen(version) = &self.core { version.len() } else { 0 };
        versions + core + self.history.len() * 16 + self.frozen_answer.as_ref().map_or(0, |a| a.1.len()) + 512
    }

    // ---- features -------------------------------------------------------------------------------------------------------

    /// The feature answer, if one is due and this incarnation has come at least as far as what was published before it
    /// (`floor`; `delivered`: everything up to it has reached the shard). Returns its sequence, and since when it was due.
    pub fn collect_answer(&mut self, partition: u32, floor: u64, delivered: u64) -> Option<(u64, Timestamp, Bytes)> {
        let caught_up = delivered >= floor && self.inbox.is_empty();
        let (applied, answer) = match &self.core {
            Core::Live(core) if (caught_up || core.applied() > floor) && core.applied() >= self.published => {
                self.unpublished_since?;
                let Some(answer) = core.answer(&self.key, partition) else {
                    self.unpublished_since = None; // its handler cannot say them; the last answer stays
                    return None;
                };
                (core.applied(), answer)
            }
            Core::Frozen(_) => self.frozen_answer.take()?,
            _ => return None,
        };
        self.published = applied;
        Some((applied, self.unpublished_since.take()?, answer))
    }

    /// Whether an answer is due that [`Cell::collect_answer`] could not give yet.
    pub fn is_answer_due(&self) -> bool {
        self.unpublished_since.is_some()
    }

    /// The cell is, or is no longer, in its shard's list of due answers.
    pub fn set_listed(&mut self, listed: bool) {
        self.answer_listed = listed;
    }

    // ---- crashes --------------------------------------------------------------------------------------------------------

    /// After the session actor failed: what it was trying, and why. `None` when it was not trying anything.
    pub fn failure(&mut self, panic_text: impl FnOnce() -> String) -> Option<Failure> {
        self.core = Core::Absent;
        let failure = self.failure.take();
        let seq = std::mem::take(&mut self.trying);
        failure.or_else(|| {
            (seq > 0).then(|| Failure { seq, reason: Reason::Panic, text: panic_text(), retry_after: None })
        })
    }

    /// Counts a failed attempt of event `failure.seq`; after `attempts_max` of them it will be given up. Returns attempts.
    pub fn blame(&mut self, failure: &Failure, attempts_max: u32) -> u32 {
        let attempts = self.attempts.entry(failure.seq).or_default();
        *attempts += 1;
        if *attempts >= attempts_max {
            self.condemned.insert(failure.seq, (failure.reason, failure.text.clone()));
        }
        *attempts
    }

    /// Restores the newest state that is still there. What was consumed behind it is undone: its sequences are returned,
    /// to be read again before anything else, with the counts to take back.
    pub fn recover(&mut self, factory: &Arc<dyn LogicFactory>, cut: u64) -> Result<Recovery, StateError> {
        let newest = [&self.in_flight, &self.committed].into_iter().flatten().max_by_key(|(tag, _)| *tag);
        let taken = if let Share::Taken(version) = &self.share { Some(version) } else { None };
        let core = match taken.or(newest.map(|(_, version)| version)) {
            Some(version) => SessionCore::decode(factory, version)?,
            None => SessionCore::new(factory)?,
        };
        let applied = core.applied();
        let keep = self.history.partition_point(|(seq, _)| *seq <= applied);
        let (mut within, mut behind) = (Counts::default(), Counts::default());
        for (i, (seq, end)) in self.history.iter().enumerate().skip(keep) {
            if i < self.counted {
                if *seq <= cut { within.add(*end, 1) } else { behind.add(*end, 1) }
            }
        }
        let again = self.history.drain(keep..).map(|(seq, _)| seq).collect();
        self.counted = self.counted.min(keep);
        // What the failed turn had consumed and the recovered state contains was not reported yet.
        let dead = std::mem::take(&mut self.dead).into_iter().filter(|letter| letter.seq <= applied).collect();
        let unreported = self.count(cut);
        Ok(Recovery { core: Box::new(core), again, counts: within, counts_behind: behind, unreported, dead })
    }

    /// Goes on from a recovered state: the events read again come before the queue. Until then the cell has no state, so
    /// that neither a turn nor a checkpoint can pass over them.
    pub fn resume(&mut self, core: Box<SessionCore>, again: Vec<QueuedEvent>) {
        for event in again.into_iter().rev() {
            self.inbox.push_front(event);
        }
        self.answer_listed = false; // the shard's list may have passed over it meanwhile
        self.core = Core::Live(core);
    }

    /// Gives up everything that waits, without a state: the stored one cannot be read, and stays as it is. Returns the
    /// dead letters.
    pub fn abandon(&mut self, error: &str) -> Vec<DeadLetter> {
        self.core = Core::Absent;
        self.dirty = false;
        self.unpublished_since = None;
        if matches!(self.share, Share::Due(_)) {
            self.share = Share::None;
        }
        let letters = self.inbox.drain(..);
        let letters = letters.map(|event| DeadLetter::of(event.get().event(), Reason::Error, error.to_owned(), 0));
        letters.collect()
    }
}

/// What [`Cell::recover`] undid.
pub struct Recovery {
    /// The recovered state, for [`Cell::resume`].
    pub core: Box<SessionCore>,
    /// Sequences to read again.
    pub again: Vec<u64>,
    /// Counts to take back, at or below the cut.
    pub counts: Counts,
    /// Counts to take back, behind it.
    pub counts_behind: Counts,
    /// Counts to add, at or below the cut and behind it: of the turn that failed, before it did.
    pub unreported: (Counts, Counts),
    /// Its dead letters.
    pub dead: Vec<DeadLetter>,
}
