//! The partition actor: claims a partition, reads where it stands, and runs its tree.
//!
//! Anything that fails above a session restarts the whole partition from its checkpoint: one way to recover, always the
//! same. Not here: what the children do.

pub mod asker;
pub mod credit;
pub mod router;
pub mod status;
pub mod ticker;
pub mod timer_index;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::{Semaphore, oneshot};

use self::{
    asker::{Asker, LOOK_UPS_AT_ONCE},
    credit::Credit,
    router::{Router, RouterArguments, RouterMsg, TableFeed},
    status::{Status, Trouble},
    ticker::{Ticker, TickerArguments, TickerMsg},
    timer_index::{TIMED_KEYS_MAX, TimerIndex},
};
use crate::{
    answer::cache::FeatureCache,
    backend::{
        Progress, forward,
        forwarder::{BackendPlan, Forwarder},
    },
    budget::Backoff,
    careful::{Care, Start},
    checkpoint::{
        committer::{Committer, CommitterArguments, CommitterMsg},
        record::{Checkpoint, Follows, Head, Intent, Output},
    },
    event::KeyPaths,
    failure::{ActorFailure, classify},
    fault_point,
    handler::LogicFactory,
    observe,
    ports::{Claim, Homes, RecordKey},
    session::{
        cell::KeyLimits,
        shard::{Shard, ShardArguments, ShardMsg},
        workers::Workers,
    },
    table::batcher::{Batcher, BatcherArguments, BatcherMsg, Source, TableSpec},
    timestamp::Clock,
};

/// Wait before a failed partition starts again.
const RESTART_BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
/// A partition that ran for this long had recovered: the backoff starts anew.
const STABLE_AFTER: Duration = Duration::from_secs(30);
/// How long children get to end before they are left alone.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// Bytes in flight per session that may be resident, at most, and what a partition gets in any case. A session with events
/// cannot be evicted, so what is in flight says how far residents may exceed their limit: two events or so each.
const IN_FLIGHT_BYTES_PER_SESSION: u64 = 2 << 10;
const IN_FLIGHT_BYTES_MIN: u64 = 8 << 20;
/// How long an orderly end waits for the feature backend to have everything: a start without it puts all answers again.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);
/// How often the log is asked how far it goes and told what is no longer needed.
const LOG_TICK: Duration = Duration::from_millis(500);

/// What a partition needs to know.
#[derive(Clone)]
pub struct PartitionPlan {
    /// Which one.
    pub partition: u32,
    /// Who we are, for people who look at the claim.
    pub owner: String,
    /// The homes.
    pub homes: Homes,
    /// The handler.
    pub factory: Arc<dyn LogicFactory>,
    /// How keys are found.
    pub keys: KeyPaths,
    /// Shards.
    pub shards: usize,
    /// Sessions in memory, over all shards.
    pub resident_max: usize,
    /// Sessions idle for this long are evicted.
    pub idle_after: Duration,
    /// Attempts per event.
    pub attempts: u32,
    /// What one key may hold up.
    pub limits: KeyLimits,
    /// Time between checkpoints.
    pub checkpoint_every: Duration,
    /// Bytes in flight.
    pub in_flight_max: u64,
    /// Tables.
    pub tables: Vec<TableSpec>,
    /// Bytes of emitted rows that may wait for the lake.
    pub outbox_max: u64,
    /// Answers of resident keys.
    pub cache: Arc<FeatureCache>,
    /// Where answers go beside the store.
    pub backend: Option<BackendPlan>,
    /// The partition's numbers.
    pub status: Arc<Status>,
    /// Wall clock.
    pub clock: Arc<dyn Clock>,
    /// Where shards run.
    pub workers: Arc<Workers>,
}

/// The actor.
pub struct Partition;

/// What a partition is told.
pub enum PartitionMsg {
    /// Claim and run (to itself).
    Start,
    /// Ask the log how far it goes.
    LogTick,
    /// Stop pulling, make everything durable, then answer.
    Drain(oneshot::Sender<()>),
}

/// The running tree.
struct Tree {
    router: ActorRef<RouterMsg>,
    shards: Vec<ActorRef<ShardMsg>>,
    committer: ActorRef<CommitterMsg>,
    batchers: Vec<TableActor>,
    ticker: ActorRef<TickerMsg>,
    forwarder: Option<Arc<Forwarder>>,
    since: tokio::time::Instant,
}

/// The batcher of a table, and whose outbox it follows.
#[derive(Clone)]
struct TableActor {
    batcher: ActorRef<BatcherMsg>,
    outbox: Option<String>,
}

/// The state.
pub struct PartitionState {
    plan: PartitionPlan,
    tree: Option<Tree>,
    backoff: Backoff,
    draining: bool,
    /// The first epoch that this process has claimed.
    first_epoch: Option<u64>,
}

impl Actor for Partition {
    type Msg = PartitionMsg;
    type State = PartitionState;
    type Arguments = PartitionPlan;

    async fn pre_start(
        &self,
        myself: ActorRef<PartitionMsg>,
        plan: PartitionPlan,
    ) -> Result<PartitionState, ActorProcessingErr> {
        myself.cast(PartitionMsg::Start)?;
        myself.send_interval(LOG_TICK, || PartitionMsg::LogTick);
        Ok(PartitionState { plan, tree: None, backoff: RESTART_BACKOFF, draining: false, first_epoch: None })
    }

    async fn handle(
        &self,
        myself: ActorRef<PartitionMsg>,
        message: PartitionMsg,
        state: &mut PartitionState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            PartitionMsg::Start if state.tree.is_none() && !state.draining => {
                match grow(&state.plan, &mut state.first_epoch, &myself).await {
                    Ok(tree) => {
                        state.plan.status.set_trouble(Trouble::Start, None);
                        state.plan.status.running.store(true, Ordering::Relaxed);
                        state.tree = Some(tree);
                    }
                    Err(ActorFailure::Final(error)) => return Err(Box::new(ActorFailure::Final(error))),
                    Err(ActorFailure::Again(error)) => state.start_later(&myself, error),
                }
            }
            PartitionMsg::Start => {}
            PartitionMsg::LogTick => state.look_at_log().await,
            PartitionMsg::Drain(reply) => {
                state.draining = true;
                if let Some(tree) = &state.tree {
                    let status = Arc::clone(&state.plan.status);
                    let (router, committer) = (tree.router.clone(), tree.committer.clone());
                    drop(tree.ticker.cast(TickerMsg::Stop)); // one that is gone takes the whole partition with it
                    let forwarder = tree.forwarder.clone();
                    tokio::spawn(drain(router, committer, tree.batchers.clone(), forwarder, status, reply));
                } else {
                    drop(reply); // nothing runs, so nothing can be said to be saved
                }
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<PartitionMsg>,
        event: SupervisionEvent,
        state: &mut PartitionState,
    ) -> Result<(), ActorProcessingErr> {
        let (cell, error) = match event {
            SupervisionEvent::ActorFailed(cell, error) => (cell, Some(error)),
            SupervisionEvent::ActorTerminated(cell, _, _) => (cell, None),
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => return Ok(()),
        };
        let Some(tree) = state.tree.take_if(|tree| tree.role_of(&cell).is_some()) else {
            return Ok(()); // one of a tree that was already given up
        };
        let role = tree.role_of(&cell).unwrap_or("partition");
        let (cause, is_final) = error.as_deref().map_or((observe::Cause::Killed, false), classify);
        let mut text = error.map_or_else(|| "it ended".to_owned(), |e| e.to_string());
        let fenced = state.plan.status.fenced.load(Ordering::Relaxed);
        if fenced {
            text = format!("another engine has claimed partition {}", state.plan.partition);
        }
        let is_final = is_final || fenced;
        observe::restarted(role, cause);
        tracing::error!(
            partition = state.plan.partition,
            actor = role,
            error = text,
            "an actor failed; the partition starts again from its checkpoint"
        );
        state.plan.status.running.store(false, Ordering::Relaxed);
        if tree.since.elapsed() >= STABLE_AFTER {
            state.backoff.reset();
        }
        tree.fell().await;
        if is_final {
            return Err(Box::new(ActorFailure::Final(text)));
        }
        observe::restarted("partition", cause);
        state.start_later(&myself, text);
        Ok(())
    }
}

impl PartitionState {
    fn start_later(&mut self, myself: &ActorRef<PartitionMsg>, error: String) {
        let wait = self.backoff.wait();
        tracing::warn!(partition = self.plan.partition, error, ?wait, "the partition does not run, trying again");
        self.plan.status.set_trouble(Trouble::Start, Some(error));
        if !self.draining {
            myself.send_after(wait, || PartitionMsg::Start);
        }
    }

    async fn look_at_log(&self) {
        let (status, partition) = (&self.plan.status, self.plan.partition);
        if !status.running.load(Ordering::Relaxed) {
            return;
        }
        let now = self.plan.clock.now();
        let asked = tokio::time::timeout(LOG_TICK, self.plan.homes.log.info(partition)).await;
        let Ok(Ok(info)) = asked else {
            status.log_misses.fetch_add(1, Ordering::Relaxed);
            return; // the reader reports what is wrong; lag just stays as it is
        };
        status.log_misses.store(0, Ordering::Relaxed);
        if info.last_seq <= status.routed.load(Ordering::Relaxed) {
            status.routed_stored.fetch_max(now.0, Ordering::Relaxed); // the next event does not wait since the last one
        }
        status.log_last.fetch_max(info.last_seq, Ordering::Relaxed);
        let cut = status.cut.load(Ordering::Relaxed);
        let done = status.tables_cursor().map_or(cut, |tables| tables.min(cut));
        let done = done.min(status.owed_from.load(Ordering::Relaxed).saturating_sub(1));
        if let Err(error) = self.plan.homes.log.release(partition, done).await {
            tracing::warn!(partition, %error, "the log does not let go of old events");
        }
    }
}

impl Tree {
    fn role_of(&self, cell: &ActorCell) -> Option<&'static str> {
        let id = cell.get_id();
        if self.router.get_id() == id {
            Some("router")
        } else if self.committer.get_id() == id {
            Some("committer")
        } else if self.shards.iter().any(|s| s.get_id() == id) {
            Some("shard")
        } else if self.batchers.iter().any(|b| b.batcher.get_id() == id) {
            Some("batcher")
        } else if self.ticker.get_id() == id {
            Some("ticker")
        } else {
            None
        }
    }

    /// Ends what is left of a tree, and waits for it: two trees of one partition must never run at once.
    async fn fell(self) {
        let cells = [self.router.get_cell(), self.ticker.get_cell(), self.committer.get_cell()]
            .into_iter()
            .chain(self.shards.iter().map(|s| s.get_cell()))
            .chain(self.batchers.iter().map(|b| b.batcher.get_cell()));
        for cell in cells {
            if cell.kill_and_wait(Some(STOP_LIMIT)).await.is_err() {
                tracing::error!("an actor does not end; the new tree is fenced against it");
            }
        }
    }
}

async fn drain(
    router: ActorRef<RouterMsg>,
    committer: ActorRef<CommitterMsg>,
    batchers: Vec<TableActor>,
    forwarder: Option<Arc<Forwarder>>,
    status: Arc<Status>,
    reply: oneshot::Sender<()>,
) {
    let (stop, stopped) = oneshot::channel();
    if router.cast(RouterMsg::Stop { reply: stop }).is_err() {
        return;
    }
    let Ok(through) = stopped.await else { return };
    let (ask, committed) = oneshot::channel();
    if committer.cast(CommitterMsg::Drain(ask)).is_err() {
        return;
    }
    let ask = |table: &TableActor, through| {
        let (ask, written) = oneshot::channel();
        table.batcher.cast(BatcherMsg::Drain { through, reply: ask }).ok().map(|()| written)
    };
    let (outboxes, logs): (Vec<_>, Vec<_>) = batchers.iter().partition(|table| table.outbox.is_some());
    let waits: Vec<_> = logs.into_iter().filter_map(|table| ask(table, through)).chain([committed]).collect();
    if futures_util::future::try_join_all(waits).await.is_err() {
        return; // it failed; whoever drains runs into its limit and leaves the rest to recovery
    }
    // Outboxes have their last blocks only now.
    let last = |table: &TableActor| table.outbox.as_deref().map_or(0, |name| status.outbox_last(name));
    let waits: Vec<_> = outboxes.into_iter().filter_map(|table| ask(table, last(table))).collect();
    let flushed = async {
        if let Some(forwarder) = forwarder {
            forwarder.flushed(FLUSH_LIMIT).await;
        }
    };
    if tokio::join!(futures_util::future::try_join_all(waits), flushed).0.is_ok() {
        reply.send(()).ok(); // whoever asked may have stopped waiting
    }
}

fn named(follows: Follows) -> &'static str {
    match follows {
        Follows::Log => "events",
        Follows::Outbox => "rows that a handler emits",
    }
}

/// Counts this start, if it is one, and says what follows from those before; in the store before anything is tried.
async fn take_care(
    plan: &PartitionPlan,
    claim: &mut Claim,
    head: &Head,
    before: Option<&Care>,
    start: &Start,
) -> Result<Care, ActorFailure> {
    let partition = plan.partition;
    let care = Care::begin(before, start);
    if care.differs_from(before) {
        let head = Head { epoch: claim.epoch, batch: 0, published: head.published }; // the committer's begin with 1
        let entry = (RecordKey::Care(partition), Some(care.encode()));
        plan.homes.store.commit(claim, head.encode(), vec![entry], true).await?;
    }
    if care.is_careful(start.progress) {
        let (starts, until, suspects) = (care.starts, care.until, care.suspects.len());
        let condemned = care.verdicts().condemned.len();
        tracing::warn!(
            partition,
            starts,
            progress = start.progress,
            until,
            suspects,
            condemned,
            "processes died before they had made progress: events are tried carefully, which is slower, until the one that \
             kills is found"
        );
    }
    for (seq, (reason, deaths)) in care.verdicts().condemned {
        let reason = reason.label();
        tracing::error!(partition, seq, reason, deaths, "an event that ended the process is given up");
    }
    Ok(care)
}

/// Claims the partition, reads its records, starts its actors.
async fn grow(
    plan: &PartitionPlan,
    first_epoch: &mut Option<u64>,
    myself: &ActorRef<PartitionMsg>,
) -> Result<Tree, ActorFailure> {
    let PartitionPlan { partition, ref homes, ref status, .. } = *plan;
    let mut claim = homes.store.claim(partition, &plan.owner).await?; // first claim, then read
    let first_epoch = *first_epoch.get_or_insert(claim.epoch);
    fault_point::reached(fault_point::CLAIMED);
    // No batch of the tree before can land any more; one that did without being published may be newer than the cache.
    plan.cache.forget(partition);
    let mut names = vec![RecordKey::Checkpoint(partition), RecordKey::Head(partition), RecordKey::Care(partition)];
    names.push(RecordKey::Backend(partition));
    for table in &plan.tables {
        names.push(RecordKey::Output(partition, table.name.clone()));
        names.push(RecordKey::Intent(partition, table.name.clone()));
    }
    let mut records = homes.store.get(&names).await?.into_iter();
    let mut next = || records.next().flatten();
    let mut checkpoint = next().map(|r| Checkpoint::decode(&r)).transpose()?.unwrap_or_default();
    let head = next().map(|r| Head::decode(&r)).transpose()?.unwrap_or_default();
    let care = next().map(|r| Care::decode(&r)).transpose()?;
    let progress = next().map(|r| Progress::decode(&r)).transpose()?;
    let mut outputs = Vec::new();
    for table in &plan.tables {
        let output = next().map(|r| Output::decode(&r)).transpose()?;
        let output = output.unwrap_or(Output { follows: table.follows, ..Output::default() });
        if output.follows != table.follows {
            return Err(ActorFailure::Final(format!(
                "table {:?} was a table of {} before, and is one of {} now: its files and its cursor mean something else; \
                 give the new table another name",
                table.name,
                named(output.follows),
                named(table.follows)
            )));
        }
        let intent = next().map(|r| Intent::decode(&r)).transpose()?;
        outputs.push((output, intent));
    }
    let info = homes.log.info(partition).await?;
    fault_point::reached(fault_point::RECORDS_READ);
    // Who has come further than the log goes would take new events for old ones.
    let of_log = plan.tables.iter().zip(&outputs).filter(|(table, _)| table.follows == Follows::Log);
    let tables = of_log.map(|(table, (output, intent))| {
        let covered = intent.as_ref().map_or(output.cursor, |intent| intent.last.max(output.cursor));
        (format!("the table {:?}", table.name), covered)
    });
    let checkpointed = ("the checkpoint".to_owned(), checkpoint.cut);
    if let Some((who, covered)) = std::iter::once(checkpointed).chain(tables).find(|(_, s)| *s > info.last_seq) {
        return Err(ActorFailure::Final(format!(
            "{who} of partition {partition} covers events up to {covered}, but the log ends at {}: the log was wiped or \
             truncated. Restore the log, or delete the store and the lake as well to begin anew",
            info.last_seq
        )));
    }
    if head.published > info.last_seq {
        tracing::error!(
            partition,
            published = head.published,
            log_last = info.last_seq,
            "the log has lost events whose features are published; new features come once it has gone beyond them"
        );
    }
    if checkpoint.n == 0 && info.first_seq > 1 {
        // An old stream, and an engine that is new to it: what is gone was never ours to process.
        checkpoint.cut = info.first_seq - 1;
        checkpoint.counters.dropped.insert("before_start".to_owned(), checkpoint.cut);
    }
    // A table begins where the engine did, also when it is new to it or has not cut yet.
    let before_start = checkpoint.counters.dropped.get("before_start").copied().unwrap_or(0);
    let of_log = outputs.iter_mut().filter(|(output, _)| output.follows == Follows::Log);
    of_log.for_each(|(output, _)| output.cursor = output.cursor.max(before_start));
    for (table, end) in &checkpoint.outbox {
        if plan.tables.iter().any(|here| here.name == *table) {
            status.set_outbox_end(table, *end);
        } else {
            // Nobody writes its files, so what is left there must not count as what waits for the lake.
            tracing::warn!(
                partition,
                table,
                blocks = end.last,
                "an outbox has no table any more; rows may be left in it"
            );
        }
    }
    let start = Start {
        epoch: claim.epoch,
        first_epoch,
        progress: checkpoint.progress(),
        cut: checkpoint.cut,
        log_last: info.last_seq,
    };
    let care = take_care(plan, &mut claim, &head, care.as_ref(), &start).await?;
    let verdicts = Arc::new(care.verdicts());
    let owed_from = if checkpoint.lagging.is_empty() { u64::MAX } else { 1 };
    status.start_from(&checkpoint.counters, checkpoint.cut, owed_from);
    status.lags.store(!checkpoint.lagging.is_empty(), Ordering::Relaxed);
    status.clock.store(checkpoint.clock.0, Ordering::Relaxed);
    let now = plan.clock.now().0;
    status.checkpoint_at.store(now, Ordering::Relaxed);
    status.routed_stored.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed).ok(); // else it is known
    status.log_last.store(info.last_seq, Ordering::Relaxed);
    let for_sessions = (plan.resident_max as u64).saturating_mul(IN_FLIGHT_BYTES_PER_SESSION).max(IN_FLIGHT_BYTES_MIN);
    let credit = Credit::new(plan.in_flight_max.min(for_sessions));
    let (name, cell) = (|role: &str| Some(format!("{role}-{partition}-{}", claim.epoch)), myself.get_cell());
    let failed = |e: ractor::SpawnErr| ActorFailure::Again(e.to_string());
    let epoch = claim.epoch;
    let forwarder = plan.backend.as_ref().map(|backend| {
        let start = forward::Start {
            partition,
            epoch,
            place: backend.backend.place(),
            stored: progress,
            checkpoint: checkpoint.n,
            cut: checkpoint.cut,
            log_last: info.last_seq,
            bytes_max: backend.waiting_max,
        };
        Arc::new(Forwarder::start(start, backend, Arc::clone(&homes.store), Arc::clone(&plan.clock)))
    });
    let arguments = CommitterArguments {
        claim: claim.clone(),
        store: Arc::clone(&homes.store),
        checkpoint: checkpoint.clone(),
        tables: plan.factory.tables().iter().map(|table| table.name.to_owned()).collect(),
        floor: head.published,
        checkpoint_every: plan.checkpoint_every,
        credit: credit.clone(),
        cache: Arc::clone(&plan.cache),
        forwarder: forwarder.clone(),
        status: Arc::clone(status),
        clock: Arc::clone(&plan.clock),
        care,
        trials: Arc::clone(&plan.workers.trials),
    };
    let (committer, _) =
        Actor::spawn_linked(name("committer"), Committer, arguments, cell.clone()).await.map_err(failed)?;
    let timers = Arc::new(Mutex::new(TimerIndex::new(TIMED_KEYS_MAX)));
    let asker = Arc::new(Asker {
        partition,
        log: Arc::clone(&homes.log),
        factory: Arc::clone(&plan.factory),
        status: Arc::clone(status),
        runtime: tokio::runtime::Handle::current(),
        permits: Arc::new(Semaphore::new(LOOK_UPS_AT_ONCE)),
        under_way: Mutex::default(),
    });
    let mut shards = Vec::new();
    for index in 0..plan.shards.max(1) {
        let worker = plan.workers.next();
        let arguments = ShardArguments {
            partition,
            index,
            shards: plan.shards.max(1),
            factory: worker.watched(&plan.factory, partition),
            store: Arc::clone(&homes.store),
            log: Arc::clone(&homes.log),
            keys: plan.keys.clone(),
            resident_max: plan.resident_max.div_ceil(plan.shards.max(1)),
            idle_after: plan.idle_after,
            attempts: plan.attempts,
            limits: plan.limits,
            checkpoint: checkpoint.clone(),
            floor: head.published,
            epoch,
            cache: Arc::clone(&plan.cache),
            status: Arc::clone(status),
            committer: committer.clone(),
            verdicts: Arc::clone(&verdicts),
            trials: Arc::clone(&plan.workers.trials),
            timers: Arc::clone(&timers),
            asker: Arc::clone(&asker),
        };
        let (parent, name) = (cell.clone(), Some(format!("shard-{partition}-{index}-{epoch}")));
        let started = worker.runtime.spawn(Actor::spawn_linked(name, Shard, arguments, parent));
        let (shard, _) = started.await.map_err(|e| ActorFailure::Again(e.to_string()))?.map_err(failed)?;
        shards.push(shard);
    }
    let mut batchers = Vec::new();
    let mut feeds = Vec::new();
    for (table, (output, intent)) in plan.tables.iter().zip(outputs) {
        let stalled = Arc::new(AtomicBool::new(false));
        let source = match table.follows {
            Follows::Log => Source::Log { log: Arc::clone(&homes.log), keys: plan.keys.clone() },
            Follows::Outbox => Source::Outbox { store: Arc::clone(&homes.store) },
        };
        let arguments = BatcherArguments {
            partition,
            table: table.clone(),
            output,
            intent,
            source,
            lake: Arc::clone(&homes.lake),
            committer: committer.clone(),
            stalled: Arc::clone(&stalled),
            status: Arc::clone(status),
        };
        let role = format!("batcher-{}", table.name);
        let (batcher, _) = Actor::spawn_linked(name(&role), Batcher, arguments, cell.clone()).await.map_err(failed)?;
        if table.follows == Follows::Log {
            feeds.push(TableFeed { batcher: batcher.clone(), stalled });
        }
        let outbox = (table.follows == Follows::Outbox).then(|| table.name.clone());
        batchers.push(TableActor { batcher, outbox });
    }
    let arguments = RouterArguments {
        partition,
        log: Arc::clone(&homes.log),
        from: checkpoint.cut + 1,
        floor: head.published,
        clock: checkpoint.clock,
        keys: plan.keys.clone(),
        credit,
        shards: shards.clone(),
        tables: feeds,
        outbox_max: plan.outbox_max,
        committer: committer.clone(),
        status: Arc::clone(status),
    };
    let (router, _) = Actor::spawn_linked(name("router"), Router, arguments, cell.clone()).await.map_err(failed)?;
    let arguments = TickerArguments {
        partition,
        log: Arc::clone(&homes.log),
        store: Arc::clone(&homes.store),
        timers,
        status: Arc::clone(status),
        clock: Arc::clone(&plan.clock),
    };
    let (ticker, _) = Actor::spawn_linked(name("ticker"), Ticker, arguments, cell).await.map_err(failed)?;
    let start = CommitterMsg::Start { shards: shards.clone(), router: router.clone() };
    committer.cast(start).map_err(|_| ActorFailure::Again("the committer is gone".to_owned()))?;
    tracing::info!(
        partition,
        epoch,
        checkpoint = checkpoint.n,
        from = checkpoint.cut + 1,
        log_last = info.last_seq,
        "partition runs"
    );
    Ok(Tree { router, shards, committer, batchers, ticker, forwarder, since: tokio::time::Instant::now() })
}
