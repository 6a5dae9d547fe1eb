//! The committer actor: the only writer of a partition's features, state, checkpoints and table cursors.
//!
//! Commits fenced, chained batches, one in flight. Between the batches of a checkpoint it lets tables' small writes
//! through; when nothing else is to do it publishes the feature answers that are due.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::{
    sync::{OwnedSemaphorePermit, oneshot},
    time::Instant,
};

use super::{
    counts::Counts,
    pacing,
    record::{self, Checkpoint, Head, Tag},
};
use crate::{
    answer::cache::FeatureCache,
    backend::forwarder::Forwarder,
    budget::Backoff,
    careful::{
        Care, Subject,
        trials::{Notes, Trials},
    },
    failure::ActorFailure,
    fault_point,
    key::Key,
    observe,
    partition::{
        credit::Credit,
        router::{Cut, POOL_BYTES_MAX, ROWS_BYTES_MAX, RouterMsg, UNCOMMITTED_EVENTS_MAX},
        status::{Status, Trouble},
    },
    ports::{Claim, RecordKey, Store, StoreEntry, StoreError},
    session::shard::{Answer, ShardMsg, Shares},
    table::outbox::{BlockWriter, ClosedBlock},
    timestamp::Clock,
};

/// Wait before a batch is tried again.
const COMMIT_BACKOFF: Backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(5));
/// How often the committer looks whether a checkpoint is due.
const TICK: Duration = Duration::from_millis(20);
/// Without anything to write for this long, the committer asks the store with an empty batch whether the partition is still
/// its own: an idle engine must find out, too, that it was replaced.
pub const CONFIRM_EVERY: Duration = Duration::from_secs(10);
/// Dead letters and blocks of rows in one batch, in bytes, and the last of them: brokers hold a batch in memory.
const TAIL_BYTES_MAX: usize = 4 << 20;
/// Behind by more events than this, the partition counts as busy.
const BUSY_LAG_EVENTS: u64 = 10_000;

/// The actor.
pub struct Committer;

/// What a committer is made of.
pub struct CommitterArguments {
    /// The right to write, just claimed.
    pub claim: Claim,
    /// Where it writes.
    pub store: Arc<dyn Store>,
    /// The checkpoint that the partition starts from.
    pub checkpoint: Checkpoint,
    /// The tables that the handler emits rows to, in its order.
    pub tables: Vec<String>,
    /// How far the features published by earlier owners go, see [`Head::published`].
    pub floor: u64,
    /// Time between checkpoints.
    pub checkpoint_every: Duration,
    /// What may be in flight: says how busy the partition is.
    pub credit: Credit,
    /// Answers of resident keys.
    pub cache: Arc<FeatureCache>,
    /// Who puts answers into the feature backend, if there is one.
    pub forwarder: Option<Arc<Forwarder>>,
    /// The partition's numbers.
    pub status: Arc<Status>,
    /// For freshness.
    pub clock: Arc<dyn Clock>,
    /// What the store knows of starts without progress ...
    pub care: Care,
    /// ... and who may try events while some partition is careful.
    pub trials: Arc<Trials>,
}

/// Entries of a checkpoint in one batch while there is time: a shard gives nothing else away while it gives away shares, so
/// this is what the freshness of features waits for. Under load larger batches cost less.
const SHARES_AT_A_TIME: usize = 128;

/// Answered when a write is committed.
pub type WriteReply = oneshot::Sender<Result<(), StoreError>>;

/// What a committer is told.
pub enum CommitterMsg {
    /// The other actors of the partition are there.
    Start {
        /// The shards.
        shards: Vec<ActorRef<ShardMsg>>,
        /// The router.
        router: ActorRef<RouterMsg>,
    },
    /// Go on (to itself).
    Step,
    /// Time passes.
    Tick,
    /// The router has cut.
    Cut(Box<Cut>),
    /// Some feature answer is due.
    AnswersDue,
    /// Commit these records of a table.
    Write(Vec<StoreEntry>, WriteReply),
    /// Publish everything, make a checkpoint, then answer.
    Drain(oneshot::Sender<()>),
    /// Note this, in careful mode, then answer: it is about to be tried.
    Try(Subject, oneshot::Sender<()>),
    /// It was tried; the permit goes when the store knows.
    Tried(Subject, OwnedSemaphorePermit),
}

enum Phase {
    /// Nothing under way.
    Idle,
    /// The router was asked to cut.
    Cutting,
    /// Shares are being written.
    Writing(Box<Under>),
}

/// The checkpoint under way.
struct Under {
    cut: Cut,
    waiting: Vec<ActorRef<ShardMsg>>,
    counts: Counts,
    /// Emitted rows, on their way into blocks.
    blocks: BlockWriter,
    /// Dead letters and blocks: written after all states.
    tail: VecDeque<StoreEntry>,
    entries: VecDeque<StoreEntry>,
    answers: Vec<Answer>,
    /// Keys that the checkpoint leaves events of to a later one, and the first such event of each.
    lagging: Vec<(Key, u64)>,
    /// The first sequence that it covers and whose answer it could not publish.
    hidden_from: Option<u64>,
    /// Shards asked in a row that had nothing ready.
    unready: usize,
}

/// The state.
pub struct CommitterState {
    args: CommitterArguments,
    shards: Vec<ActorRef<ShardMsg>>,
    router: Option<ActorRef<RouterMsg>>,
    head: Head,
    phase: Phase,
    writes: VecDeque<(Vec<StoreEntry>, WriteReply)>,
    answers_due: bool,
    publish_at: Instant,
    checkpoint_began: Instant,
    checkpoint_ended: Instant,
    draining: Vec<oneshot::Sender<()>>,
    /// When the store last took a batch, and so said that the partition is ours.
    confirmed: Instant,
    /// The checkpoint under way was cut after the router stopped, for whoever drains; and it is done.
    cuts_for_drain: bool,
    drain_cut: bool,
    stepping: bool,
    notes: Notes,
}

impl Actor for Committer {
    type Msg = CommitterMsg;
    type State = CommitterState;
    type Arguments = CommitterArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<CommitterMsg>,
        args: CommitterArguments,
    ) -> Result<CommitterState, ActorProcessingErr> {
        myself.send_interval(TICK, || CommitterMsg::Tick);
        let now = Instant::now();
        let notes = Notes::new(args.care.clone(), args.checkpoint.progress(), &args.trials);
        show_care(&args.status, &notes);
        args.status.set_trouble(Trouble::Store, None); // one that is gone may have left it
        Ok(CommitterState {
            head: Head { epoch: args.claim.epoch, batch: 0, published: args.floor },
            args,
            shards: Vec::new(),
            router: None,
            phase: Phase::Idle,
            writes: VecDeque::new(),
            answers_due: false,
            publish_at: now,
            checkpoint_began: now,
            checkpoint_ended: now,
            draining: Vec::new(),
            confirmed: now,
            cuts_for_drain: false,
            drain_cut: false,
            stepping: false,
            notes,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<CommitterMsg>,
        message: CommitterMsg,
        state: &mut CommitterState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            CommitterMsg::Start { shards, router } => (state.shards, state.router) = (shards, Some(router)),
            CommitterMsg::Step => state.stepping = false,
            CommitterMsg::Tick => {
                state.look_at_age();
                state.tell_readers().await?;
            }
            CommitterMsg::Cut(cut) => state.begin_writing(*cut),
            CommitterMsg::AnswersDue => state.answers_due = true,
            CommitterMsg::Write(entries, reply) => state.writes.push_back((entries, reply)),
            CommitterMsg::Try(seqs, noted) => state.notes.open(&seqs, noted),
            CommitterMsg::Tried(seqs, permit) => state.notes.close(&seqs, permit),
            CommitterMsg::Drain(reply) if state.is_below_floor() => {
                state.end_in_order().await?;
                reply.send(()).ok(); // nothing new to save: the last checkpoint is as good
            }
            CommitterMsg::Drain(reply) => {
                state.draining.push(reply);
                (state.drain_cut, state.cuts_for_drain) = (false, false);
            }
        }
        if !state.stepping && state.step().await? {
            state.stepping = true;
            myself.cast(CommitterMsg::Step)?;
        }
        Ok(())
    }
}

impl CommitterState {
    /// Does the next piece of work; true when there may be more right away.
    async fn step(&mut self) -> Result<bool, ActorFailure> {
        self.write_notes().await?;
        self.write_progress().await?;
        if let Some((entries, reply)) = self.writes.pop_front() {
            let committed = self.commit(entries, true).await;
            // A batcher that is gone does not care.
            reply.send(committed.clone()).ok();
            committed?;
            return Ok(true);
        }
        match &self.phase {
            Phase::Idle if self.is_checkpoint_due() => {
                let Some(router) = &self.router else { return Ok(false) };
                let n = self.args.checkpoint.n + 1;
                router
                    .cast(RouterMsg::Barrier { n })
                    .map_err(|_| ActorFailure::Again("the router is gone".to_owned()))?;
                self.checkpoint_began = Instant::now();
                self.cuts_for_drain = !self.draining.is_empty();
                self.phase = Phase::Cutting;
                Ok(false)
            }
            // Features of what comes behind the cut go out between the batches of a checkpoint. Not while it holds answers of
            // its own: those are older.
            Phase::Writing(_) => {
                let wrote = self.write_shares().await?;
                let holds_answers = matches!(&self.phase, Phase::Writing(under) if !under.answers.is_empty());
                let published = !holds_answers && self.publish().await?;
                Ok(wrote || published)
            }
            Phase::Idle | Phase::Cutting => {
                let published = self.publish().await?;
                if !published && self.confirmed.elapsed() >= CONFIRM_EVERY {
                    self.commit(Vec::new(), false).await?;
                }
                Ok(published)
            }
        }
    }

    /// Whoever waits to try events, and whoever has: all of them in one batch. What a crash of the machine takes back is only
    /// who was being tried, and nobody is suspected for that.
    async fn write_notes(&mut self) -> Result<(), ActorFailure> {
        if let Some(care) = self.notes.due() {
            let entry = (RecordKey::Care(self.args.claim.partition), Some(care.encode()));
            self.commit(vec![entry], false).await?;
            self.notes.written();
        }
        Ok(())
    }

    /// How much the feature backend has. If a crash of the machine takes that back, all answers are put again; that they
    /// have to be must not be forgotten.
    async fn write_progress(&mut self) -> Result<(), ActorFailure> {
        let Some(forwarder) = self.args.forwarder.clone() else { return Ok(()) };
        if let Some(progress) = forwarder.due() {
            let entry = (RecordKey::Backend(self.args.claim.partition), Some(progress.encode()));
            self.commit(vec![entry], progress.complete.is_none()).await?;
            forwarder.noted(progress);
        }
        Ok(())
    }

    /// This start is not one that came to nothing, however far it came.
    async fn end_in_order(&mut self) -> Result<(), ActorFailure> {
        if let Some(care) = self.notes.drained() {
            let entry = (RecordKey::Care(self.args.claim.partition), Some(care.encode()));
            self.commit(vec![entry], true).await?;
        }
        Ok(())
    }

    /// One fenced, chained batch; tried until the store has it, or says that it is not ours to write any more.
    async fn commit(&mut self, entries: Vec<StoreEntry>, durable: bool) -> Result<(), StoreError> {
        self.head.batch += 1;
        let head = self.head.encode();
        let began = Instant::now();
        let mut backoff = COMMIT_BACKOFF;
        loop {
            match self.args.store.commit(&mut self.args.claim, head.clone(), entries.clone(), durable).await {
                Ok(()) => break,
                Err(StoreError::Unavailable(error)) => {
                    observe::commit_retried();
                    let partition = self.args.claim.partition;
                    tracing::warn!(partition, error, "committing failed, trying again");
                    let trouble = format!("the store does not take writes: {error}");
                    self.args.status.set_trouble(Trouble::Store, Some(trouble));
                    tokio::time::sleep(backoff.wait()).await;
                }
                Err(error) => {
                    // Before anyone fails: those who only notice that we are gone must not claim the partition back.
                    let fenced = matches!(error, StoreError::Fenced(_));
                    self.args.status.fenced.fetch_or(fenced, std::sync::atomic::Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
        if backoff.failures() > 0 {
            self.args.status.set_trouble(Trouble::Store, None);
        }
        observe::committed(began.elapsed().as_secs_f64());
        self.confirmed = Instant::now();
        Ok(())
    }

    // ---- checkpoints ----------------------------------------------------------------------------------------------------

    fn is_checkpoint_due(&self) -> bool {
        use std::sync::atomic::Ordering::Relaxed;
        let status = &self.args.status;
        let routed = status.routed.load(Relaxed);
        let uncommitted = routed.saturating_sub(self.args.checkpoint.cut);
        if self.router.is_none() || self.is_below_floor() {
            return false;
        }
        if !self.draining.is_empty() && !self.drain_cut {
            return true;
        }
        let pressed = status.pool_bytes.load(Relaxed) > POOL_BYTES_MAX / 2
            || status.rows_bytes.load(Relaxed) > ROWS_BYTES_MAX / 2
            || uncommitted > UNCOMMITTED_EVENTS_MAX / 2;
        let owing = uncommitted > 0 || !self.args.checkpoint.lagging.is_empty();
        owing && (pressed || self.checkpoint_ended.elapsed() >= self.args.checkpoint_every)
    }

    /// What comes now waits from now on, however long nothing came before.
    fn look_at_age(&self) {
        let status = &self.args.status;
        if status.is_committed() {
            status.checkpoint_at.store(self.args.clock.now().0, std::sync::atomic::Ordering::Relaxed);
        }
    }

    /// Behind what was published before this process: features must not go back in time.
    fn is_below_floor(&self) -> bool {
        self.args.status.routed.load(std::sync::atomic::Ordering::Relaxed) < self.args.floor
    }

    fn tag(&self) -> Tag {
        Tag { n: self.args.checkpoint.n + 1, epoch: self.args.claim.epoch }
    }

    fn begin_writing(&mut self, mut cut: Cut) {
        let (partition, tag) = (self.args.claim.partition, self.tag());
        let dead = std::mem::take(&mut cut.dead);
        let tail = dead.iter().map(|letter| dead_entry(partition, letter, tag)).collect();
        self.phase = Phase::Writing(Box::new(Under {
            counts: cut.counts,
            cut,
            waiting: self.shards.clone(),
            blocks: BlockWriter::new(tag, &self.args.tables, &self.args.checkpoint.outbox),
            tail,
            entries: VecDeque::new(),
            answers: Vec::new(),
            lagging: Vec::new(),
            hidden_from: None,
            unready: 0,
        }));
    }

    /// Writes the next part of a checkpoint; false when no key with a share is ready.
    async fn write_shares(&mut self) -> Result<bool, ActorFailure> {
        let mut max = fault_point::batch_max(self.args.store.batch_max());
        if !self.is_busy() {
            max = max.min(SHARES_AT_A_TIME); // between two batches what is new is published
        }
        let (partition, tag) = (self.args.claim.partition, self.tag());
        let Phase::Writing(under) = &mut self.phase else { return Ok(false) };
        if under.entries.len() + under.answers.len() < max
            && let Some(shard) = under.waiting.first()
        {
            let room = max - under.entries.len() - under.answers.len();
            let shares: Shares = ask(shard, |reply| ShardMsg::CollectShares { max: room.max(3), reply }).await?;
            let nothing = shares.states.is_empty() && shares.done.is_none();
            under.entries.extend(shares.states);
            under.answers.extend(shares.answers);
            under.lagging.extend(shares.lagging);
            under.hidden_from = under.hidden_from.into_iter().chain(shares.hidden_from).min();
            let closed = shares.rows.iter().filter_map(|row| under.blocks.push(row));
            under.tail.extend(closed.map(|block| block_entry(partition, block)));
            if let Some((counts, dead)) = shares.done {
                under.counts.merge(&counts);
                under.tail.extend(dead.iter().map(|letter| dead_entry(partition, letter, tag)));
                under.waiting.remove(0);
            } else if nothing {
                under.waiting.rotate_left(1);
                under.unready += 1;
                if under.unready >= under.waiting.len() {
                    under.unready = 0;
                    if under.entries.is_empty() && under.answers.is_empty() {
                        return Ok(false);
                    }
                    // Before anything newer of the same keys is published.
                    let entries = under.entries.drain(..).collect();
                    let answers = std::mem::take(&mut under.answers);
                    return self.commit_with_answers(entries, answers, false).await.map(|()| true);
                }
            }
        }
        let ready = under.entries.len() + under.answers.len();
        if ready + 1 >= max || (!under.waiting.is_empty() && ready >= max / 2) {
            let count = under.entries.len().min(max.saturating_sub(under.answers.len()));
            let entries = under.entries.drain(..count).collect();
            let answers = std::mem::take(&mut under.answers);
            return self.commit_with_answers(entries, answers, false).await.map(|()| true);
        }
        if !under.waiting.is_empty() {
            return Ok(true);
        }
        under.tail.extend(under.blocks.finish().into_iter().map(|block| block_entry(partition, block)));
        if !under.tail.is_empty() {
            let (mut room, mut bytes) = (max - ready, 0);
            while room > 0
                && bytes < TAIL_BYTES_MAX
                && let Some(entry) = under.tail.pop_front()
            {
                room -= 1;
                bytes += entry.1.as_ref().map_or(0, |value| value.len());
                under.entries.push_back(entry);
            }
            if !under.tail.is_empty() {
                let entries = under.entries.drain(..).collect();
                let answers = std::mem::take(&mut under.answers);
                return self.commit_with_answers(entries, answers, false).await.map(|()| true);
            }
            return Ok(true);
        }
        self.finish_checkpoint().await.map(|()| true)
    }

    async fn finish_checkpoint(&mut self) -> Result<(), ActorFailure> {
        let Phase::Writing(under) = std::mem::replace(&mut self.phase, Phase::Idle) else { return Ok(()) };
        let Under { cut, counts, entries, answers, lagging, hidden_from, blocks, .. } = *under;
        let mut next = self.args.checkpoint.clone();
        next.n = cut.n;
        next.cut = cut.last;
        next.clock = cut.clock;
        next.lagging = lagging.iter().map(|(key, _)| key.to_string()).collect();
        let owed_from = lagging.iter().map(|(_, first)| *first).min();
        next.owed_from = owed_from.unwrap_or(0);
        next.counters.add(&counts.to_counters());
        if cut.dropped > 0 {
            *next.counters.dropped.entry("retention".to_owned()).or_default() += cut.dropped;
        }
        next.lines.insert(self.args.claim.epoch, cut.n);
        next.outbox.extend(blocks.ends().map(|(table, end)| (table.to_owned(), end)));
        let mut entries: Vec<_> = entries.into();
        entries.push((RecordKey::Checkpoint(self.args.claim.partition), Some(next.encode())));
        fault_point::reached(fault_point::BEFORE_RECORD);
        self.commit_with_answers(entries, answers, true).await?;
        fault_point::reached(fault_point::RECORD_COMMITTED);
        self.args.checkpoint = next;
        if let Some(forwarder) = &self.args.forwarder {
            forwarder.checkpointed(self.args.checkpoint.n, self.args.checkpoint.cut);
        }
        for shard in &self.shards {
            shard.cast(ShardMsg::Acknowledged).map_err(|_| ActorFailure::Again("a shard is gone".to_owned()))?;
        }
        let status = &self.args.status;
        blocks.ends().for_each(|(table, end)| status.set_outbox_end(table, end));
        status.lags.store(!lagging.is_empty(), std::sync::atomic::Ordering::Relaxed);
        status.committed(cut.last, owed_from.into_iter().chain(hidden_from).min().unwrap_or(u64::MAX));
        status.checkpoint_at.store(self.args.clock.now().0, std::sync::atomic::Ordering::Relaxed);
        self.checkpoint_ended = Instant::now();
        observe::checkpoint(self.checkpoint_began.elapsed().as_secs_f64());
        if self.notes.progressed(self.args.checkpoint.progress()) {
            let partition = self.args.claim.partition;
            tracing::info!(
                partition,
                cut = cut.last,
                "all that a dead process may have tried is done: careful mode ends"
            );
        }
        show_care(&self.args.status, &self.notes);
        // What lagging keys owe is not done yet: who drains waits for a checkpoint that leaves nobody behind.
        if self.cuts_for_drain && self.args.checkpoint.lagging.is_empty() {
            self.drain_cut = true;
            self.answers_due = true;
        }
        Ok(())
    }

    // ---- features -------------------------------------------------------------------------------------------------------

    async fn publish(&mut self) -> Result<bool, ActorFailure> {
        if !self.answers_due || self.shards.is_empty() || Instant::now() < self.publish_at {
            return Ok(false);
        }
        let began = Instant::now();
        self.answers_due = false;
        let max = fault_point::batch_max(self.args.store.batch_max());
        let mut answers = Vec::new();
        for shard in &self.shards {
            let room = max - answers.len();
            if room == 0 {
                self.answers_due = true;
                break;
            }
            let (some, more) = ask(shard, |reply| ShardMsg::CollectAnswers { max: room, reply }).await?;
            self.answers_due |= more;
            answers.extend(some);
        }
        self.shards.rotate_left(1);
        if !answers.is_empty() {
            self.commit_with_answers(Vec::new(), answers, false).await?;
            let pause = pacing::pause(self.is_busy() && self.draining.is_empty(), began.elapsed());
            self.publish_at = Instant::now() + pause;
        }
        if self.drain_cut && !self.answers_due {
            self.end_in_order().await?;
            for reply in self.draining.drain(..) {
                reply.send(()).ok(); // whoever asked may have stopped waiting
            }
            self.drain_cut = false;
        }
        Ok(self.answers_due)
    }

    /// Those who wait for a key of which nothing more comes. Whatever a key gave away before it is asked is committed, except
    /// answers that a checkpoint under way still holds: then there is a next tick.
    async fn tell_readers(&mut self) -> Result<(), ActorFailure> {
        let status = &self.args.status;
        if status.readers.is_empty() || matches!(&self.phase, Phase::Writing(under) if !under.answers.is_empty()) {
            return Ok(());
        }
        let keys = status.readers.asked(status.routed.load(std::sync::atomic::Ordering::Relaxed));
        if keys.is_empty() {
            return Ok(());
        }
        for shard in &self.shards {
            let given = ask(shard, |reply| ShardMsg::Given { keys: keys.clone(), reply }).await?;
            status.readers.shown(given.iter().map(|(key, seq)| (key, *seq)));
        }
        Ok(())
    }

    fn is_busy(&self) -> bool {
        use std::sync::atomic::Ordering::Relaxed;
        let status = &self.args.status;
        let lag = status.log_last.load(Relaxed).saturating_sub(status.routed.load(Relaxed));
        lag > BUSY_LAG_EVENTS || self.args.credit.in_flight() > self.args.credit.limit() / 8
    }

    async fn commit_with_answers(
        &mut self,
        mut entries: Vec<StoreEntry>,
        answers: Vec<Answer>,
        durable: bool,
    ) -> Result<(), ActorFailure> {
        let point = if entries.is_empty() { fault_point::PUBLISHED } else { fault_point::BATCH_COMMITTED };
        let newest = answers.iter().map(|a| a.seq).max().unwrap_or(0);
        self.head.published = self.head.published.max(newest);
        entries.extend(answers.iter().map(|a| (RecordKey::Feature(a.key.clone()), Some(a.json.clone()))));
        self.commit(entries, durable).await?;
        if !durable {
            fault_point::reached(point);
        }
        let now = self.args.clock.now();
        observe::published(answers.len() as u64);
        for answer in &answers {
            observe::freshness(now.seconds_since(answer.since));
        }
        if let Some(forwarder) = &self.args.forwarder {
            forwarder.published(answers.iter().map(|a| (&a.key, a.seq, &a.json)));
        }
        let readers = &self.args.status.readers;
        let shown: Vec<(Key, u64)> =
            if readers.is_empty() { Vec::new() } else { answers.iter().map(|a| (a.key.clone(), a.seq)).collect() };
        self.args.cache.publish(answers.into_iter().map(|a| (a.key, a.json)));
        readers.shown(shown.iter().map(|(key, seq)| (key, *seq))); // who came meanwhile is told at the next tick
        Ok(())
    }
}

fn show_care(status: &Status, notes: &Notes) {
    use std::sync::atomic::Ordering::Relaxed;
    status.careful.store(notes.are_careful(), Relaxed);
    status.starts.store(u64::from(notes.starts()), Relaxed);
}

fn dead_entry(partition: u32, letter: &crate::dead_letter::DeadLetter, tag: Tag) -> StoreEntry {
    (RecordKey::DeadLetter(partition, letter.seq), Some(record::encode_dead_letter(letter, tag)))
}

fn block_entry(partition: u32, (table, number, record): ClosedBlock) -> StoreEntry {
    (RecordKey::Outbox(partition, table, number), Some(record))
}

async fn ask<T>(
    shard: &ActorRef<ShardMsg>,
    message: impl FnOnce(oneshot::Sender<T>) -> ShardMsg,
) -> Result<T, ActorFailure> {
    let (reply, answer) = oneshot::channel();
    let gone = || ActorFailure::Again("a shard is gone".to_owned());
    shard.cast(message(reply)).map_err(|_| gone())?;
    answer.await.map_err(|_| gone())
}
