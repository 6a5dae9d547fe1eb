//! The router actor: pulls the log of one partition in order and hands events to shards and tables.
//!
//! Holds credit for everything in flight: no credit, no pull. Not here: what is done with events.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::{
    asker::LOOK_UPS_WAITING_MAX,
    credit::Credit,
    status::{Status, Trouble},
};
use crate::{
    budget::Backoff,
    checkpoint::{committer::CommitterMsg, counts::Counts},
    dead_letter::DeadLetter,
    event::{EventBatch, KeyPaths},
    failure::ActorFailure,
    fault_point, key, observe,
    ports::{Log, LogError, LogReader, LogRecord},
    session::shard::ShardMsg,
    table::batcher::BatcherMsg,
    timestamp::Timestamp,
};

/// Events per pull. Under load a larger pull brings more events of the same key at once, which then cost one wake-up and
/// one trip to the session's memory; an idle engine pulls what there is. 16,384 events of 400 bytes are 6.5 MB.
pub const PULL_EVENTS_MAX: usize = 16_384;
/// Bytes per pull.
const PULL_BYTES_MAX: usize = 16 << 20;
/// How long a pull waits before the router looks at its mailbox again: bounds the latency of a barrier when idle.
const PULL_WAIT: Duration = Duration::from_millis(10);
/// Memory that a decoded event takes beside its payload, in bytes: spans, queue entries, history.
const EVENT_OVERHEAD: usize = 400;
/// Evicted state waiting for a checkpoint, at most, in bytes; beyond, the pull waits for the checkpoint.
pub const POOL_BYTES_MAX: i64 = 256 << 20;
/// Emitted rows that wait for a checkpoint, at most, in bytes; beyond, the pull waits for the checkpoint.
pub const ROWS_BYTES_MAX: i64 = 64 << 20;
/// Events routed since the last checkpoint's cut, at most: bounds what sessions remember for a recovery (16 bytes each).
pub const UNCOMMITTED_EVENTS_MAX: u64 = 4_000_000;
/// Events that wait to be read again, at most, 8 bytes each; beyond, the pull waits for the keys they belong to.
pub const PARKED_EVENTS_MAX: i64 = 4_000_000;
/// Wait between attempts to open the log again.
const READER_BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));

/// The actor.
pub struct Router;

/// What a router is made of.
pub struct RouterArguments {
    /// The partition.
    pub partition: u32,
    /// What it reads.
    pub log: Arc<dyn Log>,
    /// First sequence to read.
    pub from: u64,
    /// There is no checkpoint before this sequence, see [`crate::checkpoint::record::Head::published`]: the limits that wait for one
    /// count from here on.
    pub floor: u64,
    /// The clock of the checkpoint it starts from.
    pub clock: Timestamp,
    /// How keys are found.
    pub keys: KeyPaths,
    /// What may be in flight.
    pub credit: Credit,
    /// The shards, in order.
    pub shards: Vec<ActorRef<ShardMsg>>,
    /// The tables that follow the log.
    pub tables: Vec<TableFeed>,
    /// Bytes of emitted rows that may wait for the lake; beyond, the partition pauses.
    pub outbox_max: u64,
    /// Who commits.
    pub committer: ActorRef<CommitterMsg>,
    /// The partition's numbers.
    pub status: Arc<Status>,
}

/// A table as the router sees it.
#[derive(Clone)]
pub struct TableFeed {
    /// Its batcher.
    pub batcher: ActorRef<BatcherMsg>,
    /// The lake does not take its files: feeding it would only fill memory. It reads the log itself later.
    pub stalled: Arc<AtomicBool>,
}

/// What a router is told.
pub enum RouterMsg {
    /// Go on (to itself).
    Pull,
    /// Checkpoint `n` begins: cut behind what was routed.
    Barrier {
        /// Ordinal.
        n: u64,
    },
    /// Pull no more.
    Stop {
        /// Answered with the last sequence routed.
        reply: tokio::sync::oneshot::Sender<u64>,
    },
}

/// What the router knows of a cut.
pub struct Cut {
    /// Ordinal of the checkpoint.
    pub n: u64,
    /// Last sequence of the cut.
    pub last: u64,
    /// The partition's clock at it, see [`crate::event::Event::proves`].
    pub clock: Timestamp,
    /// Ends of events that never reached a session, since the last cut.
    pub counts: Counts,
    /// The same events.
    pub dead: Vec<DeadLetter>,
    /// Events that were gone before they could be read, since the last cut.
    pub dropped: u64,
}

/// The state.
pub struct RouterState {
    args: RouterArguments,
    reader: Option<Box<dyn LogReader>>,
    backoff: Backoff,
    pending: Vec<LogRecord>,
    routed: u64,
    clock: Timestamp,
    counts: Counts,
    dead: Vec<DeadLetter>,
    dropped: u64,
    /// The outbox was full at the last pull.
    outbox_full: bool,
    stopped: bool,
}

impl Actor for Router {
    type Msg = RouterMsg;
    type State = RouterState;
    type Arguments = RouterArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<RouterMsg>,
        args: RouterArguments,
    ) -> Result<RouterState, ActorProcessingErr> {
        args.status.set_trouble(Trouble::Outbox, None); // one that is gone may have left it
        myself.cast(RouterMsg::Pull)?;
        Ok(RouterState {
            reader: None,
            backoff: READER_BACKOFF,
            pending: Vec::new(),
            routed: args.from - 1,
            clock: args.clock,
            counts: Counts::default(),
            dead: Vec::new(),
            dropped: 0,
            outbox_full: false,
            stopped: false,
            args,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<RouterMsg>,
        message: RouterMsg,
        state: &mut RouterState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            RouterMsg::Pull if state.stopped => {}
            RouterMsg::Pull => {
                state.pull().await?;
                myself.cast(RouterMsg::Pull)?;
            }
            RouterMsg::Barrier { n } => state.cut(n)?,
            RouterMsg::Stop { reply } => {
                state.stopped = true;
                state.pending.clear();
                reply.send(state.routed).ok();
            }
        }
        Ok(())
    }
}

impl RouterState {
    /// Whether emitted rows wait for the lake up to the limit: the partition pauses then, and says so.
    fn is_outbox_full(&mut self) -> bool {
        let (bytes, limit) = (self.args.status.outbox_bytes(), self.args.outbox_max);
        let is_full = bytes > limit;
        if is_full != std::mem::replace(&mut self.outbox_full, is_full) {
            let partition = self.args.partition;
            let text =
                "the outbox is full: the lake does not take the rows that handlers emit, so the partition pauses";
            if is_full {
                tracing::error!(partition, bytes, limit, "{text}");
            } else {
                tracing::info!(partition, bytes, limit, "the outbox has room again, the partition goes on");
            }
            self.args.status.set_trouble(Trouble::Outbox, is_full.then(|| text.to_owned()));
        }
        is_full
    }

    async fn pull(&mut self) -> Result<(), ActorFailure> {
        let outbox_full = self.is_outbox_full();
        let status = &self.args.status;
        status.in_flight_bytes.store(self.args.credit.in_flight(), Ordering::Relaxed);
        let uncommitted = self.routed.saturating_sub(status.cut.load(Ordering::Relaxed));
        let is_full = status.pool_bytes.load(Ordering::Relaxed) > POOL_BYTES_MAX
            || uncommitted > UNCOMMITTED_EVENTS_MAX
            || status.rows_bytes.load(Ordering::Relaxed) > ROWS_BYTES_MAX
            || outbox_full
            || status.look_ups.load(Ordering::Relaxed) > LOOK_UPS_WAITING_MAX
            || status.parked.load(Ordering::Relaxed) > PARKED_EVENTS_MAX;
        if is_full && self.routed >= self.args.floor {
            tokio::time::sleep(PULL_WAIT).await; // the committer sees the same numbers and makes a checkpoint
            return Ok(());
        }
        if self.pending.is_empty() && !self.read().await? {
            return Ok(());
        }
        let bytes = self.pending.iter().map(|r| r.payload.len() + EVENT_OVERHEAD).sum();
        // Bounded, so that a barrier is never stuck behind missing credit.
        let Ok(credit) = tokio::time::timeout(PULL_WAIT, self.args.credit.take(bytes)).await else { return Ok(()) };
        let records = std::mem::take(&mut self.pending);
        let batch = EventBatch::decode(self.args.partition, records, &self.args.keys, Some(credit));
        self.route(Arc::new(batch))
    }

    /// Fills `pending`; false when there was nothing to read.
    async fn read(&mut self) -> Result<bool, ActorFailure> {
        if self.reader.is_none() {
            match self.args.log.reader(self.args.partition, self.routed + 1).await {
                Ok(reader) => self.reader = Some(reader),
                Err(error) => return self.reader_failed(error).await.map(|()| false),
            }
        }
        let Some(reader) = &mut self.reader else { return Ok(false) };
        // Two pulls at least fit into the credit, so that one can be read while the other is worked on.
        let bytes_max = PULL_BYTES_MAX.min(self.args.credit.limit() as usize / 2);
        let events_max = PULL_EVENTS_MAX.min(bytes_max / (2 * EVENT_OVERHEAD)).max(1);
        match tokio::time::timeout(PULL_WAIT, reader.next(events_max, bytes_max)).await {
            Err(_elapsed) => Ok(false),
            Ok(Ok(records)) => {
                self.backoff.reset();
                self.pending = records;
                Ok(!self.pending.is_empty())
            }
            Ok(Err(error)) => self.reader_failed(error).await.map(|()| false),
        }
    }

    async fn reader_failed(&mut self, error: LogError) -> Result<(), ActorFailure> {
        self.reader = None;
        observe::reader_restarted();
        match error {
            LogError::Overrun { wanted, first } => {
                let lost = first.saturating_sub(wanted);
                tracing::error!(
                    partition = self.args.partition,
                    wanted,
                    first,
                    lost,
                    "retention overran processing: events are lost"
                );
                self.dropped += lost;
                self.args.status.dropped.fetch_add(lost as i64, Ordering::Relaxed);
                self.routed = first - 1;
                // What is gone is behind us for everybody: the committer makes a checkpoint of it, and nobody waits for it.
                self.args.status.routed.fetch_max(self.routed, Ordering::Relaxed);
                self.args.status.log_last.fetch_max(self.routed, Ordering::Relaxed);
                Ok(())
            }
            LogError::Corrupt(_) => Err(error.into()),
            LogError::Unavailable(_) | LogError::TooLarge { .. } => {
                tracing::warn!(partition = self.args.partition, %error, "reading the log failed, opening it again");
                tokio::time::sleep(self.backoff.wait()).await;
                Ok(())
            }
        }
    }

    fn route(&mut self, batch: Arc<EventBatch>) -> Result<(), ActorFailure> {
        let shards = self.args.shards.len();
        let mut indexes: Vec<Vec<u32>> =
            (0..shards).map(|_| Vec::with_capacity(batch.events.len() / shards + 64)).collect();
        for (i, event) in batch.events.iter().enumerate() {
            match &event.refused {
                None => {
                    indexes[key::shard_of(event.key_hash, shards)].push(i as u32);
                    self.clock = self.clock.max(event.proves());
                }
                Some(refused) => {
                    let mut counts = Counts::default();
                    counts.add_dead(refused.reason, 1);
                    self.counts.merge(&counts);
                    self.args.status.add(&counts);
                    self.dead.push(DeadLetter::of(event, refused.reason, refused.text.clone(), 0));
                }
            }
        }
        if batch.clamped > 0 {
            observe::event_times_clamped(batch.clamped);
        }
        let through = batch.last_seq();
        let gone = |_| ActorFailure::Again("a shard is gone".to_owned());
        for (shard, indexes) in self.args.shards.iter().zip(indexes) {
            shard.cast(ShardMsg::Events { batch: Arc::clone(&batch), indexes, through }).map_err(gone)?;
        }
        for table in &self.args.tables {
            if !table.stalled.load(Ordering::Relaxed) {
                let gone = |_| ActorFailure::Again("a batcher is gone".to_owned());
                table.batcher.cast(BatcherMsg::Feed(Arc::clone(&batch))).map_err(gone)?;
            }
        }
        self.routed = through;
        fault_point::reached(fault_point::DISPATCHED);
        let status = &self.args.status;
        status.routed.store(through, Ordering::Relaxed);
        status.log_last.fetch_max(through, Ordering::Relaxed);
        status.clock.store(self.clock.0, Ordering::Relaxed);
        if let Some(last) = batch.events.last() {
            status.routed_stored.store(last.stored.0, Ordering::Relaxed);
        }
        Ok(())
    }

    fn cut(&mut self, n: u64) -> Result<(), ActorFailure> {
        let cut = Cut {
            n,
            last: self.routed,
            clock: self.clock,
            counts: std::mem::take(&mut self.counts),
            dead: std::mem::take(&mut self.dead),
            dropped: std::mem::take(&mut self.dropped),
        };
        for shard in &self.args.shards {
            let gone = |_| ActorFailure::Again("a shard is gone".to_owned());
            shard.cast(ShardMsg::Barrier { n, cut: self.routed }).map_err(gone)?;
        }
        let gone = |_| ActorFailure::Again("the committer is gone".to_owned());
        self.args.committer.cast(CommitterMsg::Cut(Box::new(cut))).map_err(gone)
    }
}
