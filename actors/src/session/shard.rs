//! The shard actor: supervisor of the sessions of a slice of keys.
//!
//! Routes events to sessions, starts, hydrates, evicts and restarts them, and gives the committer their shares of a
//! checkpoint and their feature answers. Sessions run on the shard's own worker thread. A shard never starts an
//! incarnation of a session before the last one has ended: that keeps the order within a key.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::{sync::oneshot, time::Instant};

use super::{
    Books, Desk, Session, SessionState, SharedCell, Trial, Wake,
    cell::{Cell, Collected, Core, Failure, KeyLimits, Pushed, Recovery},
    slots::Slots,
};
use crate::{
    answer::cache::FeatureCache,
    budget::{Backoff, RestartBudget},
    careful::{Subject, Verdicts, trials::Trials},
    checkpoint::{
        committer::CommitterMsg,
        counts::Counts,
        record::{self, Checkpoint, Tag},
    },
    complaints::Complaints,
    dead_letter::{DeadLetter, Reason},
    event::{EventBatch, KeyPaths, QueuedEvent},
    fault_point,
    handler::{LogicFactory, StateError, row::EmittedRow},
    key::{Key, KeyHash},
    observe::{self, Cause},
    partition::{
        asker::Asker,
        status::{Status, lock},
        timer_index::TimerIndex,
    },
    ports::{Log, RecordKey, Store, StoreEntry},
    timestamp::Timestamp,
};

/// What is logged of sessions that fail; `keyloom_actor_restarts_total` counts all of them.
static FAILURES: Complaints = Complaints::new();
/// How often a shard looks for idle sessions.
pub const TICK: Duration = Duration::from_millis(250);
/// Sessions evicted for idleness per tick, so that a sweep never holds the worker for long.
const IDLE_EVICTIONS_PER_TICK: usize = 256;
/// States read from the store in one request.
const HYDRATE_BATCH_MAX: usize = 512;
/// Wait before the first and before later restarts of a session, and before a read is tried again.
/// Lagging keys of one shard in one checkpoint; their names are in its record.
const LAGGING_KEYS_MAX: usize = 128;
/// Restarts of one key's session within this many seconds, at most; beyond, each event that fails gets one attempt only,
/// so that a key whose every event fails does not live on restarts.
const RESTARTS_MAX: usize = 100;
const RESTARTS_WINDOW_SECONDS: u64 = 60;
/// Longest wait that a handler can ask for: its key holds up the checkpoint meanwhile.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(10);
const RESTART_BACKOFF: Backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(500));
const READ_BACKOFF: Backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(5));

/// The actor.
pub struct Shard;

/// What a shard is made of.
pub struct ShardArguments {
    /// The partition.
    pub partition: u32,
    /// Which of its shards, and how many there are.
    pub index: usize,
    /// See `index`.
    pub shards: usize,
    /// The handler.
    pub factory: Arc<dyn LogicFactory>,
    /// Where states are read from.
    pub store: Arc<dyn Store>,
    /// Where events are read again from after a crash.
    pub log: Arc<dyn Log>,
    /// How keys are found in events that are read again.
    pub keys: KeyPaths,
    /// Sessions in memory, at most.
    pub resident_max: usize,
    /// Sessions idle for this long are evicted.
    pub idle_after: Duration,
    /// Attempts per event.
    pub attempts: u32,
    /// What one key may hold up.
    pub limits: KeyLimits,
    /// The checkpoint that the partition starts from: says which state versions count.
    pub checkpoint: Checkpoint,
    /// Features published before this process are at most this new, see [`record::Head`].
    pub floor: u64,
    /// Epoch of this owner.
    pub epoch: u64,
    /// Answers of resident keys.
    pub cache: Arc<FeatureCache>,
    /// Who wants to know when answers are due.
    pub committer: ActorRef<CommitterMsg>,
    /// The partition's numbers.
    pub status: Arc<Status>,
    /// What is known of events that may have killed a process ...
    pub verdicts: Arc<Verdicts>,
    /// ... and who may try events while some partition is careful.
    pub trials: Arc<Trials>,
    /// Which keys have timers.
    pub timers: Arc<Mutex<TimerIndex>>,
    /// Who asks the world outside.
    pub asker: Arc<Asker>,
}

/// What a shard is told.
pub enum ShardMsg {
    /// Events of a batch that belong here, by index, in order; everything up to `through` has now been delivered.
    Events {
        /// The batch.
        batch: Arc<EventBatch>,
        /// Which of its events.
        indexes: Vec<u32>,
        /// Last sequence of the batch.
        through: u64,
    },
    /// Checkpoint `n` cuts here: behind the events delivered so far.
    Barrier {
        /// Ordinal.
        n: u64,
        /// Last sequence of the cut.
        cut: u64,
    },
    /// The next shares of the checkpoint under way.
    CollectShares {
        /// At most this many keys.
        max: usize,
        /// Answer.
        reply: oneshot::Sender<Shares>,
    },
    /// The checkpoint under way is acknowledged.
    Acknowledged,
    /// Feature answers that are due.
    CollectAnswers {
        /// At most this many.
        max: usize,
        /// The answers, and whether more are due.
        reply: oneshot::Sender<(Vec<Answer>, bool)>,
    },
    /// Which of these keys have given away everything up to these sequences?
    Given {
        /// Keys, also of other shards, with the sequences.
        keys: Vec<(Key, u64)>,
        /// Those of this shard that have.
        reply: oneshot::Sender<Vec<(Key, u64)>>,
    },
    /// States arrived from the store.
    Hydrated(Vec<(Key, Option<Bytes>)>),
    /// In careful mode: the store knows that this state is about to be read.
    Readable(Key, Option<Bytes>, Trial),
    /// A failed session may start again.
    Restart(Key),
    /// A session has events that were parked, and nothing else to do.
    Hungry(Key),
    /// Parked events were read again.
    Fetched {
        /// Whose.
        key: Key,
        /// Number of the read.
        number: u64,
        /// What was asked for.
        seqs: Vec<u64>,
        /// What the log still has of it.
        events: Vec<QueuedEvent>,
    },
    /// Time passes.
    Tick,
}

/// Some shares of a checkpoint.
#[derive(Default)]
pub struct Shares {
    /// State records.
    pub states: Vec<StoreEntry>,
    /// Feature answers of the same keys, where due.
    pub answers: Vec<Answer>,
    /// Keys among them that lag, with the first sequence that each owes.
    pub lagging: Vec<(Key, u64)>,
    /// The first sequence in a state among them whose answer is due and could not be given.
    pub hidden_from: Option<u64>,
    /// Rows that the states emitted on their way.
    pub rows: Vec<EmittedRow>,
    /// Set when these were the last: ends of the events of the cut, and dead letters among them.
    pub done: Option<(Counts, Vec<DeadLetter>)>,
}

/// One feature answer on its way to the store.
pub struct Answer {
    /// The key.
    pub key: Key,
    /// The answer as JSON.
    pub json: Bytes,
    /// Its sequence.
    pub seq: u64,
    /// When the log stored the oldest event that it is first to show.
    pub since: Timestamp,
}

struct Slot {
    cell: SharedCell,
    phase: Phase,
    backoff: Backoff,
    restarts: RestartBudget,
}

enum Phase {
    /// Waiting for its state from the store.
    Hydrating,
    /// Waiting for the previous incarnation of the key to end.
    Succeeding,
    /// Running.
    Live(ActorRef<Wake>),
    /// Failed; recovered state and re-read events are on their way.
    Recovering(Option<Box<crate::session::step::SessionCore>>),
    /// Its stored state cannot be read: events are given up until someone mends it.
    Unreadable(String),
}

struct Barrier {
    tag: Tag,
    cut: u64,
    began: Instant,
    lagging: usize,
    waiting: VecDeque<SharedCell>,
}

/// The state.
pub struct ShardState {
    args: ShardArguments,
    desk: Arc<Desk>,
    slots: Slots<Slot>,
    /// Evicted cells that the store does not have yet.
    pool: HashMap<Key, SharedCell, KeyHash>,
    pool_bytes: i64,
    by_actor: HashMap<ActorId, Key>,
    /// Keys whose last incarnation was told to end and has not yet.
    ending: HashMap<Key, ActorId>,
    delivered: u64,
    tick: u64,
    barrier: Option<Barrier>,
    in_flight: Vec<SharedCell>,
    /// Nothing was ever committed for this partition when it was claimed and this shard has had to forget nothing yet:
    /// then a key that is not in memory has no state, and needs no look-up.
    started_empty: bool,
    seen: hashbrown::HashSet<u64>,
}

/// Keys remembered as seen on a partition that started empty; 8 bytes each. Beyond, look-ups are made again.
const SEEN_MAX: usize = 4_000_000;

impl Actor for Shard {
    type Msg = ShardMsg;
    type State = ShardState;
    type Arguments = ShardArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<ShardMsg>,
        args: ShardArguments,
    ) -> Result<ShardState, ActorProcessingErr> {
        myself.send_interval(TICK, || ShardMsg::Tick);
        let books = Books { cut: u64::MAX, ..Books::default() };
        let desk = Arc::new(Desk {
            factory: Arc::clone(&args.factory),
            books: Mutex::new(books),
            status: Arc::clone(&args.status),
            shard: myself.clone(),
            committer: args.committer.clone(),
            announced: AtomicBool::new(false),
            trials: Arc::clone(&args.trials),
            verdicts: Arc::clone(&args.verdicts),
            partition: args.partition,
            asker: Arc::clone(&args.asker),
        });
        let mut state = ShardState {
            desk,
            slots: Slots::new(args.resident_max),
            pool: HashMap::default(),
            pool_bytes: 0,
            by_actor: HashMap::new(),
            ending: HashMap::new(),
            delivered: args.checkpoint.cut,
            tick: 0,
            barrier: None,
            in_flight: Vec::new(),
            started_empty: args.checkpoint.n == 0,
            seen: hashbrown::HashSet::new(),
            args,
        };
        state.open_lagging(&myself).await;
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<ShardMsg>,
        message: ShardMsg,
        state: &mut ShardState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ShardMsg::Events { batch, indexes, through } => {
                state.report();
                let missing = state.deliver(&batch, &indexes);
                state.args.cache.admit(state.args.partition, &missing);
                let was_behind = state.delivered < state.args.floor;
                state.delivered = through;
                if was_behind && through >= state.args.floor {
                    // What was due all the while may be published now.
                    drop(state.args.committer.cast(CommitterMsg::AnswersDue));
                }
                state.open_sessions(&myself, missing).await;
                state.evict_over_limit();
            }
            ShardMsg::Barrier { n, cut } => state.begin_checkpoint(n, cut),
            ShardMsg::CollectShares { max, reply } => {
                let shares = state.collect_shares(max);
                // The committer is gone only when the whole partition is going.
                reply.send(shares).ok();
            }
            ShardMsg::Acknowledged => state.acknowledge(),
            ShardMsg::CollectAnswers { max, reply } => {
                reply.send(state.collect_answers(max)).ok();
            }
            ShardMsg::Given { mut keys, reply } => {
                keys.retain(|(key, seq)| state.has_given(key, *seq));
                reply.send(keys).ok();
            }
            ShardMsg::Hydrated(states) => {
                fault_point::reached(fault_point::HYDRATING);
                for (key, record) in states {
                    state.read_state(&myself, key, record).await;
                }
                state.evict_over_limit();
            }
            ShardMsg::Readable(key, record, trial) => {
                state.hydrate(&myself, key, record).await;
                drop(trial);
                state.evict_over_limit();
            }
            ShardMsg::Restart(key) => state.restart(&myself, key).await,
            ShardMsg::Hungry(key) => state.feed(&myself, &key),
            ShardMsg::Fetched { key, number, seqs, events } => state.fetched(&myself, &key, number, &seqs, events),
            ShardMsg::Tick => {
                state.report();
                state.tick += 1;
                state.slots.set_tick(state.tick);
                state.evict_over_limit();
                state.evict_idle();
                state.announce_again();
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<ShardMsg>,
        event: SupervisionEvent,
        state: &mut ShardState,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorTerminated(cell, _, _) => state.ended(&myself, cell.get_id()).await,
            SupervisionEvent::ActorFailed(cell, error) => {
                state.failed(&myself, cell.get_id(), &error.to_string());
            }
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => {}
        }
        Ok(())
    }
}

impl ShardState {
    /// Brings the partition's numbers up to date.
    fn report(&self) {
        let mut books = lock(&self.desk.books);
        let (unreported, rows) = (std::mem::take(&mut books.unreported), std::mem::take(&mut books.rows_change));
        let first_timers = std::mem::take(&mut books.first_timers);
        drop(books);
        if !first_timers.is_empty() {
            let mut index = lock(&self.args.timers);
            first_timers.iter().for_each(|(key, due)| index.set(key, *due));
        }
        if unreported.total() > 0 {
            self.args.status.add(&unreported);
        }
        if rows != 0 {
            self.args.status.rows_bytes.fetch_add(rows, Ordering::Relaxed);
        }
    }

    /// Answers that were due but could not be given yet (a session recovers, or catches up) are not announced by a turn.
    fn announce_again(&self) {
        if !lock(&self.desk.books).due.is_empty() && !self.desk.announced.swap(true, Ordering::AcqRel) {
            // A committer that is gone takes the whole partition with it.
            drop(self.args.committer.cast(CommitterMsg::AnswersDue));
        }
    }

    // ---- events ---------------------------------------------------------------------------------------------------------

    /// Queues events at their sessions; returns the keys that have none.
    fn deliver(&mut self, batch: &Arc<EventBatch>, indexes: &[u32]) -> Vec<Key> {
        let mut missing = Vec::new();
        let mut parked = 0;
        let own = Arc::new(Arc::clone(batch));
        for &index in indexes {
            let queued = QueuedEvent::new(Arc::clone(&own), index);
            let key = batch.get(index as usize).key_str();
            if let Some(slot) = self.slots.touch(key) {
                condemn(&self.args.verdicts, &slot.cell, &[queued.seq()]);
                let pushed = lock(&slot.cell).push(queued, &self.args.limits);
                parked += i64::from(pushed == Pushed::Parked);
                match &slot.phase {
                    Phase::Live(session) if pushed == Pushed::Wake => {
                        // A session that just failed does not take it; its restart finds the event in the queue.
                        drop(session.cast(Wake));
                    }
                    Phase::Unreadable(error) => {
                        give_up(&self.desk, &slot.cell, error);
                    }
                    _ => {}
                }
                continue;
            }
            let Ok(key) = Key::new(key) else { continue }; // the router refused such events already
            let cell = self.pool.remove(key.as_str());
            if let Some(cell) = &cell {
                let bytes = lock(cell).frozen_bytes();
                self.change_pool(-(bytes as i64));
            }
            let cell = cell.unwrap_or_else(|| Arc::new(Mutex::new(Cell::new(key.clone()))));
            condemn(&self.args.verdicts, &cell, &[queued.seq()]);
            parked += i64::from(lock(&cell).push(queued, &self.args.limits) == Pushed::Parked);
            missing.push(key.clone());
            let restarts = RestartBudget::new(RESTARTS_MAX, RESTARTS_WINDOW_SECONDS);
            self.slots.insert(key, Slot { cell, phase: Phase::Hydrating, backoff: RESTART_BACKOFF, restarts });
        }
        self.args.status.parked.fetch_add(parked, Ordering::Relaxed);
        missing
    }

    /// Opens sessions for the keys of this shard that owe events: before anything newer of theirs comes.
    async fn open_lagging(&mut self, myself: &ActorRef<ShardMsg>) {
        let mut keys = Vec::new();
        for name in self.args.checkpoint.lagging.clone() {
            let Ok(key) = Key::new(&name) else { continue }; // it was one when it was written
            if crate::key::shard_of(crate::key::hash_of(name.as_bytes()), self.args.shards) == self.args.index {
                let cell = Arc::new(Mutex::new(Cell::owing(key.clone())));
                let restarts = RestartBudget::new(RESTARTS_MAX, RESTARTS_WINDOW_SECONDS);
                let slot = Slot { cell, phase: Phase::Hydrating, backoff: RESTART_BACKOFF, restarts };
                self.slots.insert(key.clone(), slot);
                keys.push(key);
            }
        }
        self.args.cache.admit(self.args.partition, &keys);
        self.open_sessions(myself, keys).await;
    }

    /// Opens sessions for keys that just got a slot: from the pool, as new ones, or through the store.
    async fn open_sessions(&mut self, myself: &ActorRef<ShardMsg>, keys: Vec<Key>) {
        let mut unknown = Vec::new();
        for key in keys {
            let Some(slot) = self.slots.peek(key.as_str()) else { continue };
            let frozen = matches!(lock(&slot.cell).core, Core::Frozen(_));
            if frozen {
                let is_thawed = lock(&slot.cell).thaw(&self.args.factory);
                if is_thawed {
                    self.start_session(myself, &key, "hydrate").await;
                } else {
                    self.begin_again(myself, &key, Duration::ZERO);
                }
            } else if self.started_empty && self.seen.insert(crate::key::hash_of(key.as_str().as_bytes())) {
                self.hydrate(myself, key, None).await;
            } else {
                unknown.push(key);
            }
        }
        if self.started_empty && self.seen.len() > SEEN_MAX {
            self.started_empty = false;
            self.seen = hashbrown::HashSet::new();
        }
        for keys in unknown.chunks(HYDRATE_BATCH_MAX) {
            let (store, myself, partition) = (Arc::clone(&self.args.store), myself.clone(), self.args.partition);
            let keys = keys.to_vec();
            tokio::spawn(async move {
                let names: Vec<_> = keys.iter().map(|key| RecordKey::State(partition, key.clone())).collect();
                let mut backoff = READ_BACKOFF;
                let records = loop {
                    match store.get(&names).await {
                        Ok(records) => break records,
                        Err(error) => {
                            observe::hydrate_retried();
                            tracing::warn!(%error, partition, "reading session states failed, trying again");
                            tokio::time::sleep(backoff.wait()).await;
                        }
                    }
                };
                // The shard is gone only when the whole partition is going.
                drop(myself.cast(ShardMsg::Hydrated(keys.into_iter().zip(records).collect())));
            });
        }
    }

    /// Reads a state that came from the store: in careful mode not before the store knows, because that may kill the process.
    async fn read_state(&mut self, myself: &ActorRef<ShardMsg>, key: Key, record: Option<Bytes>) {
        let is_read = record.is_some() && self.args.verdicts.unreadable(key.as_str()).is_none();
        if !is_read || !self.args.trials.are_on() {
            return self.hydrate(myself, key, record).await;
        }
        let (desk, myself) = (Arc::clone(&self.desk), myself.clone());
        tokio::spawn(async move {
            // Without a committer or a shard the whole partition is going.
            if let Ok(trial) = Trial::of(Subject::State(key.clone()), &desk).await {
                drop(myself.cast(ShardMsg::Readable(key, record, trial)));
            }
        });
    }

    async fn hydrate(&mut self, myself: &ActorRef<ShardMsg>, key: Key, record: Option<Bytes>) {
        let Some(slot) = self.slots.peek(key.as_str()) else { return };
        if !matches!(slot.phase, Phase::Hydrating) {
            return;
        }
        let stored = record.as_ref().map(|r| record::valid_version(r, &self.args.checkpoint)).transpose();
        let outcome = stored.map_err(|e| e.to_string()).and_then(|found| {
            let found = found.unwrap_or_default();
            let cause = if found.newest.is_some() { "hydrate" } else { "new" };
            let mut cell = lock(&slot.cell);
            let parked = cell.parked();
            let hydrated = match (&found.newest, self.args.verdicts.unreadable(key.as_str())) {
                (Some((_, version)), Some(error)) => cell.park_owed(version).and(Err(StateError(error))),
                _ => cell.hydrate(&self.args.factory, found).map(|()| cause),
            };
            let hydrated = hydrated.map_err(|e| e.0);
            self.args.status.parked.fetch_add(cell.parked() as i64 - parked as i64, Ordering::Relaxed);
            hydrated
        });
        match outcome {
            Ok(cause) => self.start_session(myself, &key, cause).await,
            Err(error) => self.unreadable(myself, &key, error),
        }
    }

    /// Starts the session of a slot whose cell has its state, or lets it wait for its predecessor.
    async fn start_session(&mut self, myself: &ActorRef<ShardMsg>, key: &Key, cause: &'static str) {
        let Some(slot) = self.slots.peek(key.as_str()) else { return };
        if self.ending.contains_key(key) {
            slot.phase = Phase::Succeeding;
            return;
        }
        let arguments = SessionState { cell: Arc::clone(&slot.cell), desk: Arc::clone(&self.desk) };
        match Actor::spawn_linked(None, Session, arguments, myself.get_cell()).await {
            Ok((session, _)) => {
                self.by_actor.insert(session.get_id(), key.clone());
                let mut cell = lock(&slot.cell);
                cell.awake = cell.has_events();
                if cell.awake {
                    drop(session.cast(Wake));
                }
                drop(cell);
                slot.phase = Phase::Live(session);
                observe::sessions_started(cause, 1);
                self.args.status.sessions_live.fetch_add(1, Ordering::Relaxed);
                self.feed(myself, key);
            }
            Err(error) => {
                // Starting a session awaits nothing and cannot fail by itself: only when the shard is going.
                tracing::error!(%error, "a session did not start");
                observe::restarted("session", Cause::StartFailed);
            }
        }
    }

    fn unreadable(&mut self, myself: &ActorRef<ShardMsg>, key: &Key, error: String) {
        if let Some(left_out) = FAILURES.due_now("unreadable") {
            let partition = self.args.partition;
            tracing::error!(partition, %error, left_out, "the stored state of a key cannot be read; its events are dead-lettered");
        }
        observe::restarted("session", Cause::StartFailed);
        if let Some(slot) = self.slots.peek(key.as_str()) {
            give_up(&self.desk, &slot.cell, &error);
            slot.phase = Phase::Unreadable(error);
        }
        self.feed(myself, key);
    }

    // ---- failures -------------------------------------------------------------------------------------------------------

    fn failed(&mut self, myself: &ActorRef<ShardMsg>, id: ActorId, error: &str) {
        self.ending.retain(|_, ended| *ended != id);
        let Some(key) = self.by_actor.remove(&id) else { return };
        self.args.status.sessions_live.fetch_sub(1, Ordering::Relaxed);
        let Some(slot) = self.slots.peek(key.as_str()) else { return };
        if !matches!(&slot.phase, Phase::Live(session) if session.get_id() == id) {
            return; // a predecessor that was ending anyway
        }
        let mut cell = lock(&slot.cell);
        let failure = cell.failure(|| error.to_owned());
        let cause = match failure {
            Some(Failure { reason: Reason::Panic, .. }) => Cause::Panic,
            Some(_) => Cause::Error,
            None if cell.spoiled().is_some() => Cause::Error,
            None => Cause::Killed,
        };
        observe::restarted("session", cause);
        self.args.status.session_restarts(&key);
        let mut wait = slot.backoff.wait();
        if let Some(failure) = &failure {
            let now_seconds = self.tick * TICK.as_millis() as u64 / 1000;
            let attempts_max = if slot.restarts.spend(now_seconds) { self.args.attempts } else { 1 };
            let attempts = cell.blame(failure, attempts_max);
            if attempts >= attempts_max {
                slot.backoff.reset(); // giving it up is progress
            }
            wait = wait.max(failure.retry_after.unwrap_or_default().min(RETRY_AFTER_MAX));
            let cause = failure.reason.label();
            if let Some(left_out) = FAILURES.due_now(cause) {
                tracing::warn!(
                    partition = self.args.partition,
                    seq = failure.seq,
                    attempts,
                    cause,
                    error = failure.text,
                    left_out,
                    "a session failed and starts again"
                );
            }
        }
        drop(cell);
        self.begin_again(myself, &key, wait);
    }

    /// Takes a session whose state is lost back to the last one that is still there, and starts it again after `wait`.
    fn begin_again(&mut self, myself: &ActorRef<ShardMsg>, key: &Key, wait: Duration) {
        let Some(slot) = self.slots.peek(key.as_str()) else { return };
        let cut = lock(&self.desk.books).cut;
        let mut cell = lock(&slot.cell);
        if let Some(error) = cell.spoiled()
            && let Some(left_out) = FAILURES.due_now("spoiled")
        {
            tracing::error!(
                partition = self.args.partition,
                error,
                left_out,
                "a state cannot be stored; the events since the last one that was are tried again, one by one"
            );
        }
        let parked = cell.parked();
        let Recovery { core, again, counts, counts_behind, mut unreported } = cell.recover(&self.args.factory, cut);
        let parked = cell.parked() as i64 - parked as i64;
        drop(cell);
        self.args.status.parked.fetch_add(parked, Ordering::Relaxed);
        self.take_back(key, &again, &counts, &counts_behind);
        lock(&self.desk.books).add(&mut unreported);
        let core = match core {
            Ok(core) => core,
            Err(error) => return self.unreadable(myself, key, error.0),
        };
        let Some(slot) = self.slots.peek(key.as_str()) else { return };
        slot.phase = Phase::Recovering(Some(core));
        let (myself, key) = (myself.clone(), key.clone());
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            // The shard is gone only when the whole partition is going.
            drop(myself.cast(ShardMsg::Restart(key)));
        });
    }

    /// Lets the session fail whose state turned out to be spoiled while it had nothing to do.
    fn fail_spoiled(&mut self, key: &Key) {
        let Some(slot) = self.slots.peek(key.as_str()) else { return };
        if let Phase::Live(session) = &slot.phase
            && !std::mem::replace(&mut lock(&slot.cell).awake, true)
        {
            // One that just failed by itself begins again anyway.
            drop(session.cast(Wake));
        }
    }

    fn take_back(&self, key: &Key, again: &[u64], counts: &Counts, behind: &Counts) {
        let mut books = lock(&self.desk.books);
        books.counts.take_back(counts);
        books.counts_behind.take_back(behind);
        let stays = |letter: &DeadLetter| letter.key != key.as_str() || again.binary_search(&letter.seq).is_err();
        books.dead.retain(stays);
        books.dead_behind.retain(stays);
        drop(books);
        self.report();
        self.args.status.take_back(counts);
        self.args.status.take_back(behind);
    }

    /// Reads the next parked events of a session again, if it has nothing else to do.
    fn feed(&mut self, myself: &ActorRef<ShardMsg>, key: &Key) {
        let Some(slot) = self.slots.peek(key.as_str()) else { return };
        let Some((number, seqs)) = lock(&slot.cell).fetch() else { return };
        let (log, myself, partition) = (Arc::clone(&self.args.log), myself.clone(), self.args.partition);
        let (keys, key) = (self.args.keys.clone(), key.clone());
        tokio::spawn(async move {
            let mut backoff = READ_BACKOFF;
            let records = loop {
                match log.read(partition, &seqs).await {
                    Ok(records) => break records,
                    Err(error) => {
                        observe::hydrate_retried();
                        tracing::warn!(%error, partition, "reading events again failed, trying again");
                        tokio::time::sleep(backoff.wait()).await;
                    }
                }
            };
            let batch = Arc::new(Arc::new(EventBatch::decode(partition, records, &keys, None)));
            let events = (0..batch.events.len() as u32).map(|i| QueuedEvent::new(Arc::clone(&batch), i)).collect();
            // The shard is gone only when the whole partition is going.
            drop(myself.cast(ShardMsg::Fetched { key, number, seqs, events }));
        });
    }

    fn fetched(&mut self, myself: &ActorRef<ShardMsg>, key: &Key, number: u64, seqs: &[u64], events: Vec<QueuedEvent>) {
        let Some(slot) = self.slots.peek(key.as_str()) else { return };
        condemn(&self.args.verdicts, &slot.cell, seqs);
        let mut cell = lock(&slot.cell);
        let before = cell.parked();
        let wake = cell.fetched(number, seqs, events);
        self.args.status.parked.fetch_sub((before - cell.parked()) as i64, Ordering::Relaxed);
        drop(cell);
        match &slot.phase {
            Phase::Live(session) if wake => drop(session.cast(Wake)), // one that just failed finds it when it restarts
            Phase::Unreadable(error) => {
                give_up(&self.desk, &slot.cell, error);
                self.feed(myself, key);
            }
            _ => {}
        }
    }

    async fn restart(&mut self, myself: &ActorRef<ShardMsg>, key: Key) {
        let Some(slot) = self.slots.peek(key.as_str()) else { return };
        let Phase::Recovering(core) = &mut slot.phase else { return };
        if let Some(core) = core.take() {
            lock(&slot.cell).resume(core);
        }
        self.start_session(myself, &key, "restart").await;
    }

    async fn ended(&mut self, myself: &ActorRef<ShardMsg>, id: ActorId) {
        let Some(key) = self.by_actor.remove(&id) else { return };
        self.args.status.sessions_live.fetch_sub(1, Ordering::Relaxed);
        if self.ending.get(&key) == Some(&id) {
            self.ending.remove(&key);
        }
        let succeeding = self.slots.peek(key.as_str()).is_some_and(|slot| matches!(slot.phase, Phase::Succeeding));
        if succeeding {
            self.start_session(myself, &key, "hydrate").await;
        }
    }

    // ---- eviction -------------------------------------------------------------------------------------------------------

    fn evict_over_limit(&mut self) {
        let mut evicted = 0;
        while let Some(key) = self.slots.over_limit(may_go)
            && self.evict(&key)
        {
            evicted += 1;
        }
        if evicted > 0 {
            observe::sessions_evicted("lru", evicted);
        }
    }

    fn evict_idle(&mut self) {
        let ticks = (self.args.idle_after.as_millis() / TICK.as_millis()).max(1) as u64;
        let Some(since) = self.tick.checked_sub(ticks) else { return };
        let mut evicted = 0;
        while evicted < IDLE_EVICTIONS_PER_TICK as u64
            && let Some(key) = self.slots.idle_since(since, may_go)
            && self.evict(&key)
        {
            evicted += 1;
        }
        if evicted > 0 {
            observe::sessions_evicted("idle", evicted);
        }
    }

    /// Takes a session out of memory; false when that is not possible.
    fn evict(&mut self, key: &Key) -> bool {
        let Some(slot) = self.slots.remove(key.as_str()) else { return false };
        let mut cell = lock(&slot.cell);
        if !cell.freeze(&self.args.factory, self.args.partition) {
            drop(cell);
            self.slots.insert(key.clone(), slot);
            self.fail_spoiled(key);
            return false;
        }
        let keep = !cell.is_clean();
        let bytes = cell.frozen_bytes();
        drop(cell);
        if keep {
            self.change_pool(bytes as i64);
        }
        self.args.cache.evict(key.as_str());
        if let Phase::Live(session) = &slot.phase {
            self.ending.insert(key.clone(), session.get_id());
            // Its queue is empty, so draining ends it at once; a closed mailbox means that it has ended already.
            drop(session.drain());
        }
        if keep {
            self.pool.insert(key.clone(), slot.cell);
        }
        fault_point::reached(fault_point::EVICTED);
        true
    }

    fn change_pool(&mut self, by: i64) {
        self.pool_bytes += by;
        self.args.status.pool_bytes.fetch_add(by, Ordering::Relaxed);
    }

    // ---- checkpoints and features -----------------------------------------------------------------------------------------

    fn begin_checkpoint(&mut self, n: u64, cut: u64) {
        lock(&self.desk.books).cut = cut;
        let mut waiting = VecDeque::new();
        for cell in self.slots.iter().map(|(_, slot)| &slot.cell).chain(self.pool.values()) {
            if lock(cell).begin_share(cut) {
                waiting.push_back(Arc::clone(cell));
            }
        }
        let tag = Tag { n, epoch: self.args.epoch };
        self.barrier = Some(Barrier { tag, cut, began: Instant::now(), lagging: 0, waiting });
    }

    fn collect_shares(&mut self, max: usize) -> Shares {
        let mut shares = Shares::default();
        let Some(barrier) = &mut self.barrier else {
            shares.done = Some(Default::default());
            return shares;
        };
        let mut spoiled = Vec::new();
        for _ in 0..barrier.waiting.len() {
            if shares.states.len() + shares.answers.len() + 3 > max {
                break;
            }
            let Some(shared) = barrier.waiting.pop_front() else { break };
            let mut cell = lock(&shared);
            let mut collected = cell.collect_share(&self.args.factory, barrier.tag);
            if matches!(collected, Collected::NotYet)
                && barrier.lagging < LAGGING_KEYS_MAX
                && barrier.began.elapsed() >= self.args.limits.lagging_after
            {
                collected = cell.collect_lagging(&self.args.factory, barrier.tag);
            }
            let mut hidden_from = None;
            match collected {
                Collected::Share(share) => {
                    let committed = share.committed.as_ref().map(|(tag, version)| (*tag, &version[..]));
                    let record = record::encode_state(committed, barrier.tag, &share.version);
                    let name = RecordKey::State(self.args.partition, cell.key().clone());
                    shares.states.push((name, Some(record)));
                    shares.answers.extend(answer(&mut cell, &self.args, self.delivered));
                    hidden_from = cell.hidden_from();
                    if let Some(owed_from) = share.owed_from {
                        barrier.lagging += 1;
                        shares.lagging.push((cell.key().clone(), owed_from));
                    }
                    shares.rows.extend(share.rows);
                    if let Some(due) = share.first_timer {
                        let name = RecordKey::Timer(self.args.partition, cell.key().clone());
                        shares.states.push((name, due.map(record::encode_first_timer)));
                    }
                    lock(&self.desk.books).rows_change += cell.rows_change();
                    drop(cell);
                    self.in_flight.push(shared);
                }
                Collected::NotYet => {
                    drop(cell);
                    barrier.waiting.push_back(shared);
                }
                Collected::Spoiled => {
                    spoiled.push(cell.key().clone());
                    drop(cell);
                    barrier.waiting.push_back(shared);
                }
                Collected::Nothing => {}
            }
            shares.hidden_from = shares.hidden_from.into_iter().chain(hidden_from).min();
        }
        let (is_done, cut) = (barrier.waiting.is_empty(), barrier.cut);
        for key in &spoiled {
            self.fail_spoiled(key);
        }
        if is_done {
            self.barrier = None;
            self.report();
            let mut books = lock(&self.desk.books);
            let counts = std::mem::take(&mut books.counts);
            books.counts = std::mem::take(&mut books.counts_behind);
            books.cut = u64::MAX;
            let (dead, mut later) =
                std::mem::take(&mut books.dead).into_iter().partition::<Vec<_>, _>(|letter| letter.seq <= cut);
            later.append(&mut books.dead_behind);
            books.dead = later;
            shares.done = Some((counts, dead));
        }
        shares
    }

    fn acknowledge(&mut self) {
        let Tag { n, epoch } = Tag { n: self.args.checkpoint.n + 1, epoch: self.args.epoch };
        self.args.checkpoint.n = n;
        self.args.checkpoint.lines.insert(epoch, n);
        for cell in std::mem::take(&mut self.in_flight) {
            lock(&cell).acknowledge();
        }
        self.pool.retain(|_, cell| !lock(cell).is_clean());
        // Checkpoints take answers along. What stays in the list is held in memory, evicted or not.
        lock(&self.desk.books).due.retain(|cell| {
            let mut cell = lock(cell);
            let waits = cell.is_answer_due();
            cell.set_listed(waits);
            waits
        });
        let bytes: usize = self.pool.values().map(|cell| lock(cell).frozen_bytes()).sum();
        self.change_pool(bytes as i64 - self.pool_bytes);
    }

    /// Whether `key` is of this shard, and everything of it up to `seq` was delivered and taken for publication. A cell that still has something to
    /// give is in a slot or in the pool.
    fn has_given(&mut self, key: &Key, seq: u64) -> bool {
        if crate::key::shard_of(crate::key::hash_of(key.as_str().as_bytes()), self.args.shards) != self.args.index {
            return false;
        }
        let held = self.slots.peek(key.as_str()).map(|slot| &slot.cell).or_else(|| self.pool.get(key.as_str()));
        self.delivered >= seq.max(self.args.floor) && held.is_none_or(|cell| lock(cell).has_given(seq))
    }

    fn collect_answers(&mut self, max: usize) -> (Vec<Answer>, bool) {
        self.desk.announced.store(false, Ordering::Release);
        if self.delivered < self.args.floor {
            return (Vec::new(), false); // an earlier owner has published newer answers than these may be
        }
        let mut due = std::mem::take(&mut lock(&self.desk.books).due).into_iter();
        let mut answers = Vec::with_capacity(due.len().min(max));
        let mut not_yet = Vec::new();
        while answers.len() < max
            && let Some(shared) = due.next()
        {
            let mut cell = lock(&shared);
            let given = answer(&mut cell, &self.args, self.delivered);
            let waits = given.is_none() && cell.is_answer_due(); // else it is in here, or a checkpoint took it
            cell.set_listed(waits);
            drop(cell);
            answers.extend(given);
            if waits {
                not_yet.push(shared);
            }
        }
        // Those that are not ready are no reason to ask again at once: a tick comes back to them.
        let more = due.len() > 0;
        lock(&self.desk.books).due.extend(due.chain(not_yet));
        (answers, more)
    }
}

/// Tells a cell which of these events, about to be queued there, are given up untried.
fn condemn(verdicts: &Verdicts, cell: &SharedCell, seqs: &[u64]) {
    if verdicts.condemned.is_empty() {
        return;
    }
    for seq in seqs {
        if let Some((reason, deaths)) = verdicts.condemned.get(seq) {
            lock(cell).condemn(*seq, *reason, Verdicts::text(*reason, *deaths), *deaths);
        }
    }
}

fn may_go(slot: &Slot) -> bool {
    matches!(slot.phase, Phase::Live(_) | Phase::Unreadable(_)) && {
        let cell = lock(&slot.cell);
        cell.is_idle() || (matches!(slot.phase, Phase::Unreadable(_)) && cell.parked() == 0)
    }
}

fn answer(cell: &mut Cell, args: &ShardArguments, delivered: u64) -> Option<Answer> {
    let (seq, since, json) = cell.collect_answer(&args.factory, args.partition, args.floor, delivered)?;
    Some(Answer { key: cell.key().clone(), json, seq, since })
}

/// Gives up what waits for a state that cannot be read.
fn give_up(desk: &Desk, cell: &SharedCell, error: &str) {
    let mut books = lock(&desk.books);
    let mut turn = lock(cell).abandon(error, books.cut);
    books.add(&mut turn);
}
