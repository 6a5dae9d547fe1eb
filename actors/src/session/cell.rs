//! One session as its shard sees it: the queue, the live state, and its part in checkpoints and recoveries.
//!
//! Pure. The shard and the session actor share a cell; they run on the same thread, so its lock is never contended. A
//! cut is a sequence number: the first event behind it makes the cell encode its state before it is applied, so nothing
//! has to stop and nothing has to wait in the queue.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use compact_str::CompactString;

use super::step::{Firing, Outcome, SessionCore, SideCounts};
use crate::{
    checkpoint::{
        counts::Counts,
        record::{self, Tag, ValidVersion},
    },
    dead_letter::{DeadLetter, Reason},
    event::{Own, QueuedEvent},
    handler::{Fault, LogicFactory, StateError, look_ups::LookUp, row::EmittedRow},
    key::Key,
    timestamp::Timestamp,
};

/// Events of one turn; after that other sessions of the worker get theirs. At about 0.5 µs each.
pub const TURN_EVENTS_MAX: usize = 1_024;

/// What one key may hold up.
#[derive(Clone, Copy, Debug)]
pub struct KeyLimits {
    /// Events that wait in memory for one session. Beyond, only their sequences are kept, and they are read again when it is
    /// their turn: a very hot or slow key must not hold the batches that other keys' events came in.
    pub inbox_events_max: usize,
    /// How long a checkpoint waits for a key that does not come as far as the cut: one that waits to try again, or has a
    /// long way to go. Then it covers the key's last good state and records what the key still owes.
    pub lagging_after: Duration,
}

impl Default for KeyLimits {
    fn default() -> Self {
        Self { inbox_events_max: 16_384, lagging_after: Duration::from_secs(1) }
    }
}

/// Events read again at once for one session. Few, because they may be large.
pub const FETCH_EVENTS_MAX: usize = 128;
/// Sequences that a key may owe in a checkpoint, 8 bytes each in its state record; with more, the checkpoint waits.
pub const OWED_EVENTS_MAX: usize = 32_768;

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
    /// Gone from the log before it could be read again.
    Dropped,
}

/// What waits in a queue.
enum Waiting {
    Event(QueuedEvent),
    /// An event that the log no longer has.
    Gone(u64),
}

impl Waiting {
    fn seq(&self) -> u64 {
        match self {
            Self::Event(event) => event.seq(),
            Self::Gone(seq) => *seq,
        }
    }
}

/// What became of an event that was pushed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pushed {
    /// Queued; the session must be woken.
    Wake,
    /// Queued.
    Queued,
    /// Only its sequence was kept.
    Parked,
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
    /// It was not the event itself but a timer that was due before it.
    pub in_timer: bool,
    /// How long the handler asked to wait.
    pub retry_after: Option<Duration>,
}

/// Why an event is given up.
#[derive(Clone, Debug)]
struct Condemned {
    reason: Reason,
    text: String,
    /// It was the event itself that failed: the timers due before it fire all the same. Else they may be the culprits.
    spares_timers: bool,
}

/// See the module.
pub struct Cell {
    key: Key,
    inbox: VecDeque<Waiting>,
    /// Sequences behind the queue, in order, to be read again.
    parked: VecDeque<u64>,
    /// Number of the read under way, if one is: what an earlier one brings is not taken.
    fetching: Option<u64>,
    fetches: u64,
    /// Cut of the last checkpoint in which the key lagged: what it did after that share was taken belongs to a later one.
    lagged_at: Option<u64>,
    /// The checkpoint says that the key owes events, and its state, which says which, is still on its way.
    owes: bool,
    /// Failed, and not yet started again: everything is parked.
    recovering: bool,
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
    condemned: BTreeMap<u64, Condemned>,
    dead: Vec<DeadLetter>,
    /// Emitted and not yet in a checkpoint, in order of their sequences.
    rows: Vec<EmittedRow>,
    rows_bytes: i64,
    /// What the partition's numbers say of `rows_bytes`.
    rows_reported: i64,
    /// The live state cannot be stored, and why: its session begins again from the last one that was.
    spoiled: Option<String>,
    /// Up to this sequence it is found out behind each event whether the state can be stored, for one of them spoils it.
    probed_to: u64,
    trying: u64,
    firing: Firing,
    /// Questions that were asked, by the sequence and the name, as far as they are outstanding.
    asked: Vec<(u64, CompactString)>,
    /// When the first timer was due, as the partition was last told; `None`: it was told nothing.
    told_due: Option<Option<Timestamp>>,
    /// The same, as the store has it; `None` when what it has may be anything.
    stored_due: Option<Option<Timestamp>>,
    failure: Option<Failure>,
    /// The oldest event whose effect is not yet in a published feature, and when the log stored it.
    unpublished: Option<(u64, Timestamp)>,
    /// The cell is in its shard's list of due answers.
    answer_listed: bool,
    /// Sequence of the newest published answer: nothing older may follow it.
    published: u64,
    frozen_answer: Option<(u64, Bytes)>,
}

/// What [`Cell::collect_share`] found.
pub enum Collected {
    /// A share, whole or lagging.
    Share(CollectedShare),
    /// Events at or below the cut still wait.
    NotYet,
    /// So does its session, which has to fail first: see [`Cell::spoiled`].
    Spoiled,
    /// It has no share any more.
    Nothing,
}

/// What a cell gives to a checkpoint.
pub struct CollectedShare {
    /// The committed version.
    pub committed: Option<(Tag, Bytes)>,
    /// The one as of the cut; of a key that lags, its last good one, with what it owes.
    pub version: Bytes,
    /// The first sequence that it owes, if it lags.
    pub owed_from: Option<u64>,
    /// What was emitted on the way to `version`.
    pub rows: Vec<EmittedRow>,
    /// When the first timer is due, where the store does not know.
    pub first_timer: Option<Option<Timestamp>>,
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
    /// See [`Cell::rows_change`].
    pub rows_change: i64,
    /// What happened beside the events.
    pub beside: SideCounts,
    /// When the first timer is due now, where the partition does not know.
    pub first_timer: Option<Option<Timestamp>>,
    /// Questions that nobody has been asked yet.
    pub asks: Vec<LookUp>,
    /// The features became due for publication: the shard must list the cell.
    pub feature_due: bool,
    /// All of it belongs behind the cut under way, whatever the sequences say: the key lags in that checkpoint.
    pub is_behind: bool,
    /// The queue is not empty.
    pub more: bool,
    /// It is, and there are events to be read again.
    pub hungry: bool,
}

impl Cell {
    /// A cell without state.
    pub fn new(key: Key) -> Self {
        Self {
            key,
            inbox: VecDeque::new(),
            parked: VecDeque::new(),
            fetching: None,
            fetches: 0,
            lagged_at: None,
            owes: false,
            recovering: false,
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
            rows: Vec::new(),
            rows_bytes: 0,
            rows_reported: 0,
            spoiled: None,
            probed_to: 0,
            trying: 0,
            firing: Firing::default(),
            asked: Vec::new(),
            told_due: None,
            stored_due: Some(None),
            failure: None,
            unpublished: None,
            answer_listed: false,
            published: 0,
            frozen_answer: None,
        }
    }

    /// A cell of a key that the checkpoint left behind.
    pub fn owing(key: Key) -> Self {
        Self { owes: true, ..Self::new(key) }
    }

    /// The key.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Queues an event.
    pub fn push(&mut self, event: QueuedEvent, limits: &KeyLimits) -> Pushed {
        if self.recovering || !self.parked.is_empty() || self.inbox.len() >= limits.inbox_events_max {
            self.parked.push_back(event.seq());
            return Pushed::Parked;
        }
        self.inbox.push_back(Waiting::Event(event));
        if std::mem::replace(&mut self.awake, true) { Pushed::Queued } else { Pushed::Wake }
    }

    /// Whether events wait in the queue.
    pub fn has_events(&self) -> bool {
        !self.inbox.is_empty()
    }

    fn has_any(&self) -> bool {
        !self.inbox.is_empty() || !self.parked.is_empty()
    }

    /// The first sequence that waits: what is parked is behind the queue.
    fn next_waiting(&self) -> Option<u64> {
        self.inbox.front().map(Waiting::seq).or(self.parked.front().copied())
    }

    /// Sequences that wait to be read again.
    pub fn parked(&self) -> usize {
        self.parked.len()
    }

    // ---- reading again --------------------------------------------------------------------------------------------------

    /// The next sequences to read again, if the queue is empty and no read is under way; with the number of this read.
    pub fn fetch(&mut self) -> Option<(u64, Vec<u64>)> {
        if self.recovering || self.fetching.is_some() || self.has_events() || self.parked.is_empty() {
            return None;
        }
        self.fetches += 1;
        self.fetching = Some(self.fetches);
        Some((self.fetches, self.parked.iter().take(FETCH_EVENTS_MAX).copied().collect()))
    }

    /// Read `number` brought these events of the sequences it was for; what is missing is gone. True when the session must
    /// be woken.
    pub fn fetched(&mut self, number: u64, seqs: &[u64], events: Vec<QueuedEvent>) -> bool {
        if self.fetching != Some(number) {
            return false; // the session failed meanwhile; it reads again what it needs
        }
        self.fetching = None;
        self.parked.drain(..seqs.len());
        let mut events = events.into_iter().peekable();
        for seq in seqs {
            let found = events.next_if(|event| event.seq() == *seq);
            self.inbox.push_back(found.map_or(Waiting::Gone(*seq), Waiting::Event));
        }
        self.has_events() && !std::mem::replace(&mut self.awake, true)
    }

    /// Sequences up to `cut` that wait.
    fn owed(&self, cut: u64) -> Vec<u64> {
        let waiting = self.inbox.iter().map(Waiting::seq).chain(self.parked.iter().copied());
        waiting.take_while(|seq| *seq <= cut).collect()
    }

    /// Gives the cell its state from the store's committed version, or a new one. A version that cannot be read is
    /// returned as an error, and the cell stays without state.
    pub fn hydrate(&mut self, factory: &Arc<dyn LogicFactory>, found: ValidVersion) -> Result<(), StateError> {
        let ValidVersion { newest: stored, is_after_crash } = found;
        let core = match &stored {
            Some((_, version)) => {
                self.park_owed(version)?;
                SessionCore::decode(factory, version)?
            }
            None => SessionCore::new(factory)?,
        };
        self.owes = false;
        let due = core.waiting().timers.next_due();
        let in_store = stored.as_ref().and_then(|(_, version)| record::next_due_of(version));
        self.stored_due = (!is_after_crash).then_some(in_store);
        // The partition has read what the store says. Told again where that may be wrong.
        self.told_due = (!is_after_crash && due.is_none()).then_some(None);
        self.committed = stored;
        self.core = Core::Live(Box::new(core));
        Ok(())
    }

    /// What the key owes by `version` is to be read again, whether its state can be read or not. What a state says that no
    /// checkpoint names as owing any more has been given up since.
    pub fn park_owed(&mut self, version: &Bytes) -> Result<(), StateError> {
        if self.owes {
            let owed = record::decode_version(version).map_err(|e| StateError(e.to_string()))?.owed;
            self.owes = false;
            self.park_behind(owed);
        }
        Ok(())
    }

    /// The next sequences that a turn would try, in order, at most `max`.
    pub fn next_to_try(&mut self, max: usize) -> Vec<u64> {
        let Core::Live(core) = &self.core else { return Vec::new() };
        while self.inbox.front().is_some_and(|waiting| waiting.seq() <= core.applied()) {
            self.inbox.pop_front(); // as a turn does with what is already in a recovered state
        }
        self.inbox.iter().take(max).map(Waiting::seq).collect()
    }

    /// Does for nothing what will be asked of the state anyway, so that an event is still being tried when its effect on the
    /// state kills the process. An error if the state is spoiled: the session has to fail before it tries anything else.
    pub fn rehearse(&mut self, factory: &Arc<dyn LogicFactory>, partition: u32) -> Result<(), StateError> {
        if let Core::Live(core) = &self.core {
            drop(core.answer(&**factory, &self.key, partition)); // whether it works is told when it is asked for
            let rehearsed = core.rehearse(factory);
            self.spoiled = rehearsed.as_ref().err().map(|error| error.0.clone());
            return rehearsed;
        }
        Ok(())
    }

    /// Event `seq` is given up without being tried.
    pub fn condemn(&mut self, seq: u64, reason: Reason, text: String, attempts: u32) {
        self.condemned.insert(seq, Condemned { reason, text, spares_timers: false });
        self.attempts.insert(seq, attempts);
    }

    /// Consumes queued events until the queue is empty, the turn is over, or an event fails. On an error the state is
    /// gone and the shard restarts the session from [`Cell::recover`]; a panic of the handler has the same effect, and so has
    /// a state that is spoiled.
    pub fn turn(&mut self, factory: &Arc<dyn LogicFactory>, cut: u64) -> Result<Turn, Failure> {
        self.turn_of(factory, cut, TURN_EVENTS_MAX)
    }

    /// The same, over at most `events_max`.
    pub fn turn_of(&mut self, factory: &Arc<dyn LogicFactory>, cut: u64, events_max: usize) -> Result<Turn, Failure> {
        let Core::Live(mut core) = std::mem::replace(&mut self.core, Core::Absent) else {
            return Ok(Turn { more: false, ..Turn::default() });
        };
        if let Some(why) = &self.spoiled {
            return Err(spoiled_before(core.applied(), why));
        }
        let mut left = events_max;
        while left > 0 {
            let Some(seq) = self.inbox.front().map(Waiting::seq) else { break };
            left -= 1;
            if seq <= core.applied() {
                self.inbox.pop_front(); // re-read after a recovery, and already in the recovered state
                continue;
            }
            self.take_share(&core, factory, seq)?;
            self.trying = seq;
            let end = self.consume(&mut core, factory, seq)?; // an event that fails, or panics, stays in the queue
            if seq <= self.probed_to
                && let Err(error) = core.rehearse(factory)
            {
                return Err(self.fail_to_store(seq, end, &error));
            }
            let stored = match self.inbox.pop_front() {
                Some(Waiting::Event(event)) => Some(event.get().event().stored),
                Some(Waiting::Gone(_)) | None => None,
            };
            self.history.push((seq, end));
            self.dirty = true;
            self.unpublished = self.unpublished.or(stored.map(|stored| (seq, stored)));
        }
        self.trying = 0;
        let asks = self.new_look_ups(&core);
        let due = core.waiting().timers.next_due();
        let first_timer = (self.told_due != Some(due)).then_some(due);
        self.told_due = Some(due);
        let beside = std::mem::take(&mut self.firing.counts);
        let counts = self.count(cut);
        let feature_due = self.unpublished.is_some() && !std::mem::replace(&mut self.answer_listed, true);
        self.core = Core::Live(core);
        let more = self.has_events();
        self.awake = more;
        let hungry = !more && !self.parked.is_empty() && self.fetching.is_none();
        let dead = std::mem::take(&mut self.dead);
        let is_behind = self.lagged_at == Some(cut);
        let rows_change = self.rows_change();
        Ok(Turn {
            counts: counts.0,
            counts_behind: counts.1,
            dead,
            rows_change,
            beside,
            first_timer,
            asks,
            feature_due,
            is_behind,
            more,
            hungry,
        })
    }

    /// The questions that this cell has not yet handed out.
    fn new_look_ups(&mut self, core: &SessionCore) -> Vec<LookUp> {
        let look_ups = &core.waiting().look_ups;
        if look_ups.is_empty() && self.asked.is_empty() {
            return Vec::new();
        }
        let is = |look_up: &LookUp, (seq, name): &(u64, CompactString)| look_up.asked == *seq && look_up.name == *name;
        self.asked.retain(|asked| look_ups.iter().any(|look_up| is(look_up, asked)));
        let new = look_ups.iter().filter(|look_up| !self.asked.iter().any(|asked| is(look_up, asked)));
        let new: Vec<_> = new.cloned().collect();
        self.asked.extend(new.iter().map(|look_up| (look_up.asked, look_up.name.clone())));
        new
    }

    /// Runs the event at the front of the queue, which has sequence `seq`.
    fn consume(&mut self, core: &mut SessionCore, factory: &Arc<dyn LogicFactory>, seq: u64) -> Result<End, Failure> {
        let Some(Waiting::Event(event)) = self.inbox.front() else {
            core.skip(seq);
            return Ok(End::Dropped);
        };
        if event.get().event().own == Some(Own::Tick) {
            self.stored_due = None; // it came because somebody took a timer to be due; the next checkpoint says what is
        }
        let before = self.rows.len();
        let condemned = self.condemned.get(&seq).cloned();
        let result = match &condemned {
            None => core.apply(event.get(), &**factory, &mut self.rows, &mut self.firing).map(End::Done),
            Some(verdict) if verdict.spares_timers => {
                let fired = core.fire(event.get(), &**factory, &mut self.rows, &mut self.firing);
                fired.map(|()| End::Dead(verdict.reason))
            }
            Some(verdict) => {
                core.give_up_timers(event.get().event(), &mut self.firing);
                Ok(End::Dead(verdict.reason))
            }
        };
        if matches!(result, Ok(_) | Err(Fault::Reject(_))) {
            self.rows_bytes += bytes_of(&self.rows[before..]);
        }
        match result {
            Ok(End::Dead(reason)) => Ok(self.give_up(core, reason, condemned.map_or_else(String::new, |c| c.text))),
            Ok(end) => Ok(end),
            Err(Fault::Reject(text)) => {
                *self.attempts.entry(seq).or_default() += 1;
                Ok(self.give_up(core, Reason::Reject, text))
            }
            Err(Fault::Crash(text)) => Err(self.fail(seq, Reason::Error, text, None)),
            Err(Fault::Retry(after)) => {
                let text = format!("the handler asked to try again after {after:?}");
                Err(self.fail(seq, Reason::Error, text, Some(after)))
            }
        }
    }

    fn fail(&mut self, seq: u64, reason: Reason, text: String, retry_after: Option<Duration>) -> Failure {
        let failure = self.failed(seq, reason, text, retry_after);
        self.failure = Some(failure.clone());
        failure
    }

    /// Behind event `seq`, which was consumed, the state cannot be stored. If it was given up, it was a timer due before it.
    fn fail_to_store(&mut self, seq: u64, end: End, error: &StateError) -> Failure {
        let text = format!("the state that it leads to cannot be stored: {}", error.0);
        let failure = self.failed(seq, Reason::Error, text, None);
        let failure = Failure { in_timer: self.condemned.contains_key(&seq), ..failure };
        undo_attempt(&mut self.attempts, seq, end); // it counts as any other that fails
        self.failure = Some(failure.clone());
        failure
    }

    /// What failed, a timer if one was being tried.
    fn failed(&mut self, seq: u64, reason: Reason, text: String, retry_after: Option<Duration>) -> Failure {
        let timer = self.firing.trying.take();
        let text = if let Some(timer) = &timer { format!("timer {timer:?}: {text}") } else { text };
        Failure { seq, reason, text, in_timer: timer.is_some(), retry_after }
    }

    /// Gives up the event at the front of the queue.
    fn give_up(&mut self, core: &mut SessionCore, reason: Reason, error: String) -> End {
        let Some(Waiting::Event(event)) = self.inbox.front() else { return End::Dropped };
        core.give_up(event.get());
        let event = event.get().event();
        let attempts = self.attempts.get(&event.seq).copied().unwrap_or(0);
        self.dead.push(DeadLetter::of(event, reason, error, attempts));
        End::Dead(reason)
    }

    fn is_within(&self, seq: u64, cut: u64) -> bool {
        seq <= cut && self.lagged_at != Some(cut)
    }

    /// Counts what the history has gained since the last time: at or below `cut`, and behind it.
    fn count(&mut self, cut: u64) -> (Counts, Counts) {
        let (mut within, mut behind) = (Counts::default(), Counts::default());
        for (seq, end) in &self.history[self.counted..] {
            if self.is_within(*seq, cut) { within.add(*end, 1) } else { behind.add(*end, 1) }
        }
        self.counted = self.history.len();
        (within, behind)
    }

    // ---- checkpoints ----------------------------------------------------------------------------------------------------

    /// A barrier passed behind sequence `cut`: true when this cell has a share in the checkpoint.
    pub fn begin_share(&mut self, cut: u64) -> bool {
        self.lagged_at = None; // this checkpoint may have the same cut as the one that the key lagged in
        let touched = self.dirty || self.owes || self.has_any();
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
            let version = encode(core, factory, &mut self.spoiled).map_err(|error| {
                self.trying = 0; // nobody is to blame yet
                spoiled_before(core.applied(), &error.0)
            })?;
            self.share = Share::Taken(version);
            self.dirty = false;
        }
        Ok(())
    }

    /// The share for checkpoint `tag`.
    pub fn collect_share(&mut self, factory: &Arc<dyn LogicFactory>, tag: Tag) -> Collected {
        let version = match std::mem::replace(&mut self.share, Share::None) {
            Share::Taken(version) if self.trying == 0 => version,
            Share::Taken(version) => {
                self.share = Share::Taken(version); // the turn failed: first its shard books what is in the share
                return Collected::NotYet;
            }
            Share::Due(cut) => {
                let waits = self.next_waiting().is_some_and(|seq| seq <= cut);
                match &self.core {
                    Core::Live(core) if !waits => {
                        let Ok(version) = encode(core, factory, &mut self.spoiled) else {
                            self.share = Share::Due(cut);
                            return Collected::Spoiled;
                        };
                        self.dirty = false;
                        version
                    }
                    Core::Frozen(version) if !waits => {
                        self.dirty = false;
                        version.clone()
                    }
                    _ => {
                        self.share = Share::Due(cut);
                        return Collected::NotYet;
                    }
                }
            }
            Share::None => return Collected::Nothing,
        };
        Collected::Share(self.give(tag, version, None))
    }

    /// Gives `version` to checkpoint `tag`, with what was emitted on the way to it.
    fn give(&mut self, tag: Tag, version: Bytes, owed_from: Option<u64>) -> CollectedShare {
        self.in_flight = Some((tag, version.clone()));
        let applied = record::applied_of(&version);
        let count = self.rows.partition_point(|row| row.seq <= applied);
        let rows: Vec<_> = self.rows.drain(..count).collect();
        self.rows_bytes -= bytes_of(&rows);
        let due = record::next_due_of(&version);
        let first_timer = (self.stored_due != Some(due)).then_some(due);
        self.stored_due = Some(due);
        CollectedShare { committed: self.committed.clone(), version, owed_from, rows, first_timer }
    }

    /// The share of a key that does not come as far as the cut in time: its last good state, and what it still owes, which
    /// the checkpoint leaves to a later one; or not yet, when that is not possible either.
    pub fn collect_lagging(&mut self, factory: &Arc<dyn LogicFactory>, tag: Tag) -> Collected {
        let Share::Due(cut) = self.share else { return Collected::NotYet };
        let owed = self.owed(cut);
        let Some(first) = owed.first().copied().filter(|_| owed.len() <= OWED_EVENTS_MAX) else {
            return Collected::NotYet;
        };
        let version = match (&self.core, &self.committed) {
            (Core::Live(core), _) => match encode(core, factory, &mut self.spoiled) {
                Ok(version) => version,
                Err(_) => return Collected::Spoiled,
            },
            (Core::Absent, Some((_, version))) if self.recovering => version.clone(),
            (Core::Absent, None) if self.recovering => {
                match SessionCore::new(factory).and_then(|core| core.encode(factory)) {
                    Ok(version) => version,
                    Err(_) => return Collected::NotYet,
                }
            }
            _ => return Collected::NotYet, // its state is still on its way from the store
        };
        let Ok(version) = record::with_owed(&version, &owed) else { return Collected::NotYet }; // it was encoded here
        self.share = Share::None;
        self.lagged_at = Some(cut);
        self.dirty = true; // the next checkpoint tries again
        Collected::Share(self.give(tag, version, Some(first)))
    }

    /// The checkpoint under way is acknowledged: what it wrote is now the committed version.
    pub fn acknowledge(&mut self) {
        if let Some(in_flight) = self.in_flight.take() {
            let applied = record::applied_of(&in_flight.1);
            self.committed = Some(in_flight);
            let done = self.history.partition_point(|(seq, _)| *seq <= applied);
            self.history.drain(..done);
            self.counted -= done.min(self.counted);
            self.attempts = self.attempts.split_off(&(applied + 1));
            self.condemned = self.condemned.split_off(&(applied + 1));
        }
    }

    /// Whether the store lacks anything that only this cell has.
    pub fn is_clean(&self) -> bool {
        !self.dirty && self.in_flight.is_none() && matches!(self.share, Share::None) && self.unpublished.is_none()
    }

    // ---- eviction -------------------------------------------------------------------------------------------------------

    /// Whether the session is between turns with nothing to do.
    pub fn is_idle(&self) -> bool {
        !self.awake && !self.has_any() && matches!(self.core, Core::Live(_))
    }

    /// Replaces the live state by its encoding; false, and it is spoiled, where it has none.
    pub fn freeze(&mut self, factory: &Arc<dyn LogicFactory>, partition: u32) -> bool {
        if let Core::Live(core) = &self.core {
            let Ok(version) = encode(core, factory, &mut self.spoiled) else { return false };
            if self.unpublished.is_some() {
                self.frozen_answer =
                    core.answer(&**factory, &self.key, partition).map(|answer| (core.applied(), answer));
                if self.frozen_answer.is_none() {
                    self.unpublished = None;
                }
            }
            self.core = Core::Frozen(version);
            self.inbox = VecDeque::new();
        }
        true
    }

    /// Brings a frozen state back; false, and it is spoiled, where it cannot be read again.
    pub fn thaw(&mut self, factory: &Arc<dyn LogicFactory>) -> bool {
        if let Core::Frozen(version) = &self.core {
            match SessionCore::decode(factory, version) {
                Ok(core) => self.core = Core::Live(Box::new(core)),
                Err(error) => self.spoiled = Some(error.0),
            }
            self.frozen_answer = None;
        }
        self.spoiled.is_none()
    }

    /// The state cannot be stored, and why: some event since the last one that was has spoiled it. The session has to fail,
    /// and its events since then are tried again, one by one, until it is known which.
    pub fn spoiled(&self) -> Option<&str> {
        self.spoiled.as_deref()
    }

    /// Bytes held for this key while it is not resident.
    pub fn frozen_bytes(&self) -> usize {
        let versions = [&self.committed, &self.in_flight].into_iter().flatten().map(|(_, v)| v.len()).sum::<usize>();
        let core = if let Core::Frozen(version) = &self.core { version.len() } else { 0 };
        let answer = self.frozen_answer.as_ref().map_or(0, |a| a.1.len());
        versions + core + self.history.len() * 16 + answer + 512
    }

    /// By how many bytes the rows that wait for a checkpoint have changed since this was last asked.
    pub fn rows_change(&mut self) -> i64 {
        self.rows_bytes - std::mem::replace(&mut self.rows_reported, self.rows_bytes)
    }

    // ---- features -------------------------------------------------------------------------------------------------------

    /// The feature answer, if one is due and this incarnation has come at least as far as what was published before it
    /// (`floor`; `delivered`: everything up to it has reached the shard). Returns its sequence, and since when it was due. While
    /// the session waits for its restart, it is that of the state which it will go on from.
    pub fn collect_answer(
        &mut self,
        factory: &Arc<dyn LogicFactory>,
        partition: u32,
        floor: u64,
        delivered: u64,
    ) -> Option<(u64, Timestamp, Bytes)> {
        self.unpublished?;
        let caught_up = delivered >= floor && self.next_waiting().is_none_or(|next| next > floor);
        let may_show = |applied: u64| (caught_up || applied > floor) && applied >= self.published;
        let say = |core: &SessionCore| (core.applied(), core.answer(&**factory, &self.key, partition));
        let (applied, answer) = match &self.core {
            Core::Live(core) if may_show(core.applied()) => say(core),
            Core::Absent if self.recovering => {
                let version = self.newest_version().filter(|version| may_show(record::applied_of(version)))?;
                say(&SessionCore::decode(factory, version).ok()?)
            }
            Core::Frozen(_) => self.frozen_answer.take().map(|(applied, answer)| (applied, Some(answer)))?,
            _ => return None,
        };
        let Some(answer) = answer else {
            self.unpublished = None; // its handler cannot say them; the last answer stays
            return None;
        };
        self.published = applied;
        Some((applied, self.unpublished.take()?.1, answer))
    }

    /// Whether an answer is due that [`Cell::collect_answer`] could not give yet.
    pub fn is_answer_due(&self) -> bool {
        self.unpublished.is_some()
    }

    /// The first event that is in the state and may not be shown, if an answer is due.
    pub fn hidden_from(&self) -> Option<u64> {
        self.unpublished.map(|(first, _)| first.max(self.published + 1))
    }

    /// Whether everything of this key up to `seq` that the cell was given has been taken for publication.
    pub fn has_given(&self, seq: u64) -> bool {
        !self.owes && !self.is_answer_due() && self.next_waiting().is_none_or(|next| next > seq)
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
        failure.or_else(|| (seq > 0).then(|| self.failed(seq, Reason::Panic, panic_text(), None)))
    }

    /// Counts a failed attempt of event `failure.seq`; after `attempts_max` of them it will be given up. Returns attempts.
    pub fn blame(&mut self, failure: &Failure, attempts_max: u32) -> u32 {
        let attempts = self.attempts.entry(failure.seq).or_default();
        *attempts += 1;
        if *attempts >= attempts_max {
            let (reason, text) = (failure.reason, failure.text.clone());
            self.condemned.insert(failure.seq, Condemned { reason, text, spares_timers: !failure.in_timer });
        }
        *attempts
    }

    /// The newest state that is still there when the live one is lost; none for one that began with nothing.
    fn newest_version(&self) -> Option<&Bytes> {
        let newest = [&self.in_flight, &self.committed].into_iter().flatten().max_by_key(|(tag, _)| *tag);
        let taken = if let Share::Taken(version) = &self.share { Some(version) } else { None };
        taken.or(newest.map(|(_, version)| version))
    }

    /// Restores the newest state that is still there. What was consumed behind it is undone: its sequences are returned,
    /// to be read again before anything else, with the counts to take back. So they are when that state cannot be read, or
    /// not be stored either.
    pub fn recover(&mut self, factory: &Arc<dyn LogicFactory>, cut: u64) -> Recovery {
        self.core = Core::Absent;
        let was_spoiled = self.spoiled.take().is_some();
        if was_spoiled {
            self.probe_history();
        }
        let (applied, core) = loop {
            let (applied, core) = match self.newest_version() {
                Some(version) => (record::applied_of(version), SessionCore::decode(factory, version)),
                None => (0, SessionCore::new(factory)),
            };
            if core.is_err() && matches!(self.share, Share::Taken(_)) {
                // Nobody has it yet: one before it can be read.
                (self.share, self.dirty) = (Share::Due(cut), true);
                self.probe_history();
                continue;
            }
            let is_probed = was_spoiled || applied < self.probed_to;
            break (
                applied,
                core.and_then(|core| if is_probed { core.rehearse(factory).map(|()| core) } else { Ok(core) }),
            );
        };
        let keep = self.history.partition_point(|(seq, _)| *seq <= applied);
        let (mut within, mut behind) = (Counts::default(), Counts::default());
        for (i, (seq, end)) in self.history.iter().enumerate().skip(keep) {
            if i < self.counted {
                if self.is_within(*seq, cut) { within.add(*end, 1) } else { behind.add(*end, 1) }
            }
        }
        let mut again = Vec::with_capacity(self.history.len() - keep);
        for (seq, end) in self.history.drain(keep..) {
            again.push(seq);
            undo_attempt(&mut self.attempts, seq, end);
        }
        self.recovering = true;
        self.unpublished = self.unpublished.filter(|(first, _)| *first <= applied); // the others come again
        self.rows.truncate(self.rows.partition_point(|row| row.seq <= applied));
        self.rows_bytes = bytes_of(&self.rows);
        self.park_behind(again.clone());
        self.counted = self.counted.min(keep);
        // What the failed turn had consumed and the recovered state contains was not reported yet.
        let dead = std::mem::take(&mut self.dead).into_iter().filter(|letter| letter.seq <= applied).collect();
        let (counts, counts_behind) = self.count(cut);
        let unreported = Turn { counts, counts_behind, dead, rows_change: self.rows_change(), ..Turn::default() };
        Recovery { core: core.map(Box::new), again, counts: within, counts_behind: behind, unreported }
    }

    /// Some event since the last version spoiled the state: all of them are looked at when they come again.
    fn probe_history(&mut self) {
        self.probed_to = self.history.last().map_or(self.probed_to, |(seq, _)| self.probed_to.max(*seq));
    }

    /// Everything that waits is to be read again, behind `first`: who waits for a restart holds no events.
    fn park_behind(&mut self, first: Vec<u64>) {
        let waiting = self.inbox.drain(..).map(|waiting| waiting.seq());
        let parked = first.into_iter().chain(waiting).chain(self.parked.drain(..)).collect();
        self.parked = parked;
        self.awake = false;
        self.fetching = None;
    }

    /// Goes on from a recovered state. Until then the cell has none, so that neither a turn nor a checkpoint can pass over
    /// what waits.
    pub fn resume(&mut self, core: Box<SessionCore>) {
        self.recovering = false;
        self.answer_listed = false; // the shard's list may have passed over it meanwhile
        self.core = Core::Live(core);
    }

    /// Gives up everything that waits, without a state: the stored one cannot be read, and stays as it is.
    pub fn abandon(&mut self, error: &str, cut: u64) -> Turn {
        self.core = Core::Absent;
        self.dirty = false;
        self.unpublished = None;
        self.recovering = false;
        // What is parked comes here too, when it has been read again; the checkpoint waits for it.
        if matches!(self.share, Share::Due(_)) && self.parked.is_empty() {
            self.share = Share::None;
        }
        let is_behind = self.lagged_at == Some(cut);
        let mut turn = Turn { is_behind, rows_change: self.rows_change(), ..Turn::default() };
        for waiting in std::mem::take(&mut self.inbox) {
            let end = match &waiting {
                Waiting::Event(_) => End::Dead(Reason::Error),
                Waiting::Gone(_) => End::Dropped,
            };
            if self.is_within(waiting.seq(), cut) {
                turn.counts.add(end, 1)
            } else {
                turn.counts_behind.add(end, 1)
            }
            if let Waiting::Event(event) = waiting {
                turn.dead.push(DeadLetter::of(event.get().event(), Reason::Error, error.to_owned(), 0));
            }
        }
        turn
    }
}

/// The live state as a version; where it has none, it is spoiled.
fn encode(
    core: &SessionCore,
    factory: &Arc<dyn LogicFactory>,
    spoiled: &mut Option<String>,
) -> Result<Bytes, StateError> {
    core.encode(factory).inspect_err(|error| *spoiled = Some(error.0.clone()))
}

/// A rejection is counted when it happens, and happens again when what it ended is undone.
fn undo_attempt(attempts: &mut BTreeMap<u64, u32>, seq: u64, end: End) {
    if end == End::Dead(Reason::Reject)
        && let Some(attempts) = attempts.get_mut(&seq)
    {
        *attempts = attempts.saturating_sub(1);
    }
}

/// The state as of `applied` turned out to be spoiled when it was wanted: no event is to blame yet.
fn spoiled_before(applied: u64, why: &str) -> Failure {
    let text = format!("the state cannot be stored: {why}");
    Failure { seq: applied, reason: Reason::Error, text, in_timer: false, retry_after: None }
}

fn bytes_of(rows: &[EmittedRow]) -> i64 {
    rows.iter().map(EmittedRow::size).sum::<usize>() as i64
}

/// What [`Cell::recover`] undid.
pub struct Recovery {
    /// The recovered state, for [`Cell::resume`]; without one the cell must [abandon](Cell::abandon) what waits.
    pub core: Result<Box<SessionCore>, StateError>,
    /// Sequences whose effects it undid; they are parked.
    pub again: Vec<u64>,
    /// Counts to take back, at or below the cut.
    pub counts: Counts,
    /// Counts to take back, behind it.
    pub counts_behind: Counts,
    /// What the turn that failed had done before it did, as far as the recovered state contains it.
    pub unreported: Turn,
}

#[cfg(test)]
#[path = "cell_tests.rs"]
mod tests;
