//! The batcher actor: turns the log of one partition, or the outbox of one of its tables, into the files of that table.
//!
//! It has a cursor of its own. What follows the log is fed by the router while it keeps up; when the lake stalls, or after a
//! restart, it reads the log itself from its cursor on. What follows an outbox always reads its blocks from the store. A
//! cut is: record the intent, put the files, move the cursor. Names and bytes depend on the range alone, so a cut that is
//! repeated after a crash replaces its own files.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::{sync::oneshot, time::Instant};

use super::{cut::CutPolicy, outbox::Block};
use crate::{
    budget::Backoff,
    checkpoint::{
        committer::CommitterMsg,
        record::{Follows, Intent, Output},
    },
    event::{EventBatch, KeyPaths},
    failure::ActorFailure,
    fault_point, observe,
    partition::status::Status,
    ports::{
        Lake, LakeError, Log, LogError, LogReader, RecordKey, Store, StoreEntry, TableBuffer, TableFile, TableFormat,
        TableInput,
    },
    session::workers,
};

/// How often a batcher looks at the age of its rows.
const TICK: Duration = Duration::from_millis(100);
/// Events and bytes per read while catching up, and how long a read waits before the mailbox is looked at again.
const READ_EVENTS_MAX: usize = 4_096;
const READ_BYTES_MAX: usize = 4 << 20;
const READ_WAIT: Duration = Duration::from_millis(50);
/// Blocks of an outbox per read, some 4 MB.
const READ_BLOCKS_MAX: u64 = 16;
/// Blocks removed from an outbox after one cut; what is left is removed after the next.
const REMOVALS_MAX: u64 = 4_096;
/// A cut that takes longer than this while the next one is full stalls the table: what is fed meanwhile would hold the
/// credit that the sessions need. It is read from the log later.
const CUT_PATIENCE: Duration = Duration::from_secs(1);
/// Wait between attempts of a put, and of a read.
const PUT_BACKOFF: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
const READ_BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));

/// Says the object name of a file: Hive partition, first and last sequence of the cut.
pub type ObjectName = Arc<dyn Fn(&str, u64, u64) -> String + Send + Sync>;

/// A table.
#[derive(Clone)]
pub struct TableSpec {
    /// Its name.
    pub name: String,
    /// What it is made of.
    pub follows: Follows,
    /// What its files look like.
    pub format: Arc<dyn TableFormat>,
    /// What its files are called.
    pub object_name: ObjectName,
    /// When rows become files.
    pub cut: CutPolicy,
}

/// Where a table's rows are read.
pub enum Source {
    /// In the log, whenever it is not fed.
    Log {
        /// The log.
        log: Arc<dyn Log>,
        /// How keys are found.
        keys: KeyPaths,
    },
    /// In its outbox.
    Outbox {
        /// Where that is.
        store: Arc<dyn Store>,
    },
}

/// The actor.
pub struct Batcher;

/// What a batcher is made of.
pub struct BatcherArguments {
    /// The partition.
    pub partition: u32,
    /// The table.
    pub table: TableSpec,
    /// Where it has come to.
    pub output: Output,
    /// What it had begun when it was interrupted.
    pub intent: Option<Intent>,
    /// What it reads.
    pub source: Source,
    /// Where files go.
    pub lake: Arc<dyn Lake>,
    /// Who commits intents and cursors.
    pub committer: ActorRef<CommitterMsg>,
    /// Set while the lake does not take files: the router stops feeding.
    pub stalled: Arc<AtomicBool>,
    /// The partition's numbers.
    pub status: Arc<Status>,
}

/// What a batcher is told.
pub enum BatcherMsg {
    /// Events as the router just routed them.
    Feed(Arc<EventBatch>),
    /// Read on (to itself).
    Read,
    /// Time passes.
    Tick,
    /// The lake failed a put: do not hold events in memory for it.
    Stalled,
    /// The cut under way ended.
    Written(Result<Output, ActorFailure>),
    /// Write everything up to `through`, then answer.
    Drain {
        /// Last sequence wanted in the lake.
        through: u64,
        /// Answer.
        reply: oneshot::Sender<()>,
    },
}

/// The state.
pub struct BatcherState {
    args: BatcherArguments,
    /// Rows of the next cut.
    buffer: Option<Box<dyn TableBuffer>>,
    /// Bytes of the blocks in it.
    block_bytes: u64,
    /// Rows of the cut that is being written.
    writing_rows: u64,
    first: u64,
    next: u64,
    opened: Instant,
    /// A cut is being written.
    writing: bool,
    /// When it began.
    began: Instant,
    /// Fed while the buffer was full and a cut was being written; holds credit, so it is bounded by it.
    backlog: VecDeque<Arc<EventBatch>>,
    reader: Option<Box<dyn LogReader>>,
    reading: bool,
    backoff: Backoff,
    recut: Option<Intent>,
    /// Files of the cut that is repeated, which may be in the lake with rows that the log has no more.
    whole: Vec<String>,
    drain: Option<(u64, oneshot::Sender<()>)>,
}

impl Actor for Batcher {
    type Msg = BatcherMsg;
    type State = BatcherState;
    type Arguments = BatcherArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<BatcherMsg>,
        args: BatcherArguments,
    ) -> Result<BatcherState, ActorProcessingErr> {
        myself.send_interval(TICK, || BatcherMsg::Tick);
        let next = args.output.cursor + 1;
        args.source.report(&args.status, &args.table.name, &args.output);
        observe::table_begins(&args.table.name, args.table.follows);
        let Output { rows, files, bytes, .. } = args.output;
        observe::table_written(&args.table.name, args.partition, rows, files, bytes);
        observe::table_stalled(&args.table.name, args.partition, false);
        let mut state = BatcherState {
            buffer: None,
            block_bytes: 0,
            writing_rows: 0,
            first: next,
            next,
            opened: Instant::now(),
            writing: false,
            began: Instant::now(),
            backlog: VecDeque::new(),
            reader: None,
            reading: false,
            backoff: READ_BACKOFF,
            recut: args.intent.clone(),
            whole: Vec::new(),
            drain: None,
            args,
        };
        state.read_on(&myself);
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<BatcherMsg>,
        message: BatcherMsg,
        state: &mut BatcherState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            BatcherMsg::Feed(batch) => {
                if !state.args.stalled.load(Ordering::Relaxed) {
                    state.backlog.push_back(batch);
                }
            }
            BatcherMsg::Read => state.read(&myself).await?,
            BatcherMsg::Tick => {
                state.stall_when_late();
                if state.args.source.is_outbox() {
                    state.read_on(&myself); // nobody feeds it
                }
            }
            BatcherMsg::Stalled => {
                state.backlog.clear();
                state.show_stalled(true);
            }
            BatcherMsg::Written(written) => state.written(&myself, written?),
            BatcherMsg::Drain { through, reply } => {
                state.drain = Some((through, reply));
                if state.next <= through {
                    state.read_on(&myself); // what was not fed, or is gone
                }
            }
        }
        state.advance(&myself).await?;
        Ok(())
    }
}

impl BatcherState {
    /// Takes in what was fed, cuts when it is time, reads when there is a gap.
    async fn advance(&mut self, myself: &ActorRef<BatcherMsg>) -> Result<(), ActorFailure> {
        loop {
            if self.must_cut() {
                if self.writing {
                    break;
                }
                self.cut(myself)?;
                continue;
            }
            let Some(batch) = self.backlog.front() else { break };
            if batch.last_seq() < self.next {
                self.backlog.pop_front();
                continue;
            }
            if batch.first_seq() > self.next || self.recut.is_some() {
                self.read_on(myself);
                if self.reading {
                    break; // the reader will come to where the feed is; fed events wait, or are dropped when they pile up
                }
            }
            let Some(batch) = self.backlog.pop_front() else { break };
            self.reader = None;
            self.reading = false;
            self.take_in(TableInput::Events(batch)).await?;
        }
        if self.reading && self.backlog.len() > 1 {
            // What waits behind a gap would hold credit that the sessions need; the reader finds these events too.
            self.backlog.drain(..self.backlog.len() - 1);
        }
        if !self.writing && self.is_drained() {
            self.end_drain();
        }
        Ok(())
    }

    fn stall_when_late(&mut self) {
        let late = self.writing && self.began.elapsed() >= CUT_PATIENCE && self.must_cut() && !self.backlog.is_empty();
        if late && !self.args.stalled.swap(true, Ordering::Relaxed) {
            self.backlog.clear();
            self.show_stalled(true);
        }
    }

    fn read_on(&mut self, myself: &ActorRef<BatcherMsg>) {
        if !self.reading {
            self.reading = true;
            drop(myself.cast(BatcherMsg::Read)); // to itself: cannot be gone
        }
    }

    /// Reads on from where the table has come to. Ends when the feed takes over, or there is no more.
    async fn read(&mut self, myself: &ActorRef<BatcherMsg>) -> Result<(), ActorFailure> {
        if !self.reading {
            return Ok(());
        }
        if self.recut.is_none() && self.next > self.args.source.end(&self.args.status, &self.args.table.name) {
            (self.reading, self.reader) = (false, None); // all there is is here; what comes is fed, or found by a tick
            return Ok(());
        }
        if self.must_cut() && self.writing {
            // Two cuts are in memory; more would be too much. The end of the first one brings the next message.
            tokio::time::sleep(READ_WAIT).await;
        } else if let Source::Outbox { store } = &self.args.source {
            let store = Arc::clone(store);
            self.read_blocks(&*store).await?;
        } else {
            match self.next_events().await {
                Ok(None) => {}
                Ok(Some(batch)) => {
                    self.backoff.reset();
                    self.take_in(TableInput::Events(Arc::new(batch))).await?;
                }
                Err(LogError::Overrun { wanted, first }) => {
                    self.reader = None;
                    let (partition, table) = (self.args.partition, &self.args.table.name);
                    tracing::error!(partition, table, wanted, first, "retention overran a table: its rows are lost");
                    observe::table_overrun(table, first.saturating_sub(self.next));
                    self.next = self.next.max(first);
                    if let Some(intent) = &self.recut {
                        self.whole = intent.names.clone();
                    }
                }
                Err(LogError::Corrupt(error)) => return Err(LogError::Corrupt(error).into()),
                Err(error) => {
                    self.reader = None;
                    observe::reader_restarted();
                    tracing::warn!(partition = self.args.partition, %error, "a table cannot read the log, trying again");
                    tokio::time::sleep(self.backoff.wait()).await;
                }
            }
        }
        drop(myself.cast(BatcherMsg::Read)); // to itself: cannot be gone
        Ok(())
    }

    async fn next_events(&mut self) -> Result<Option<EventBatch>, LogError> {
        let Source::Log { log, keys } = &self.args.source else { return Ok(None) };
        let reader = match &mut self.reader {
            Some(reader) => reader,
            none => none.insert(log.reader(self.args.partition, self.next).await?),
        };
        let next = reader.next(READ_EVENTS_MAX, READ_BYTES_MAX);
        let records = tokio::time::timeout(READ_WAIT, next).await.unwrap_or_else(|_| Ok(Vec::new()))?;
        Ok((!records.is_empty()).then(|| EventBatch::decode(self.args.partition, records, keys, None)))
    }

    async fn read_blocks(&mut self, store: &dyn Store) -> Result<(), ActorFailure> {
        let (partition, table) = (self.args.partition, self.args.table.name.clone());
        let end = match &self.recut {
            Some(intent) => intent.last,
            None => self.args.source.end(&self.args.status, &table),
        };
        let numbers: Vec<u64> = (self.next..=end.min(self.next + READ_BLOCKS_MAX - 1)).collect();
        let names: Vec<_> = numbers.iter().map(|n| RecordKey::Outbox(partition, table.clone(), *n)).collect();
        let records = match store.get(&names).await {
            Ok(records) => records,
            Err(error) => {
                observe::reader_restarted();
                tracing::warn!(partition, table, %error, "a table cannot read its outbox, trying again");
                tokio::time::sleep(self.backoff.wait()).await;
                return Ok(());
            }
        };
        self.backoff.reset();
        for (number, record) in numbers.into_iter().zip(records) {
            let Some(record) = record else {
                // Somebody else may have written these rows and removed the block: then the partition is not ours, which an
                // empty batch finds out.
                commit(&self.args.committer, Vec::new()).await?;
                let text = format!("block {number} of the outbox of table {table:?} is missing");
                return Err(ActorFailure::Final(text));
            };
            let block = Block::decode(number, &record).map_err(|e| ActorFailure::Final(e.to_string()))?;
            self.block_bytes += block.len;
            self.take_in(TableInput::Block(Arc::new(block))).await?;
            if self.must_cut() {
                break;
            }
        }
        Ok(())
    }

    async fn take_in(&mut self, input: TableInput) -> Result<(), ActorFailure> {
        let last = self.recut.as_ref().map_or(u64::MAX, |intent| intent.last).min(input.last());
        let positions = self.next..=last;
        if last < input.last() {
            self.reader = None; // it is already behind the cut that must be repeated; read again from there
        }
        if self.next > last {
            return Ok(());
        }
        let mut buffer = match self.buffer.take() {
            Some(buffer) => buffer,
            None => {
                self.opened = Instant::now();
                self.args.table.format.open()
            }
        };
        let encode = move || {
            let pushed = buffer.push(&input, positions);
            (buffer, pushed)
        };
        let (buffer, pushed) = workers::blocking(encode).await.map_err(|e| ActorFailure::Again(e.to_string()))?;
        pushed.map_err(|e| ActorFailure::Again(e.to_string()))?;
        self.buffer = Some(buffer);
        self.show_open_rows();
        self.next = last + 1;
        fault_point::reached(if self.recut.is_some() { fault_point::RECUTTING } else { fault_point::ROWS_TAKEN });
        Ok(())
    }

    fn must_cut(&self) -> bool {
        if self.next <= self.first {
            return false;
        }
        if let Some(intent) = &self.recut {
            return self.next > intent.last;
        }
        let drained = self.drain.as_ref().is_some_and(|(through, _)| self.next > *through);
        // Nothing of what was passed over has a row: at the end the cursor says so all the same.
        let Some(buffer) = &self.buffer else { return drained };
        let policy = &self.args.table.cut;
        drained || policy.is_full(buffer.rows(), buffer.bytes(), buffer.files()) || policy.is_due(self.opened.elapsed())
    }

    fn cut(&mut self, myself: &ActorRef<BatcherMsg>) -> Result<(), ActorFailure> {
        // Without rows (all of the range is gone, or none has a place in a table) the cursor moves all the same.
        let buffer = self.buffer.take().unwrap_or_else(|| self.args.table.format.open());
        self.writing_rows = buffer.rows();
        let (first, last) = (self.first, self.next - 1);
        self.first = self.next;
        (self.writing, self.began) = (true, Instant::now());
        self.recut = None;
        let mut before = self.args.output;
        before.block_bytes += std::mem::take(&mut self.block_bytes);
        let writer = Writer {
            store: match &self.args.source {
                Source::Outbox { store } => Some(Arc::clone(store)),
                Source::Log { .. } => None,
            },
            partition: self.args.partition,
            table: self.args.table.clone(),
            lake: Arc::clone(&self.args.lake),
            whole: std::mem::take(&mut self.whole),
            committer: self.args.committer.clone(),
            stalled: Arc::clone(&self.args.stalled),
            batcher: myself.clone(),
        };
        let myself = myself.clone();
        tokio::spawn(async move {
            let written = writer.write(buffer, first, last, before).await;
            drop(myself.cast(BatcherMsg::Written(written))); // gone only with the whole partition
        });
        Ok(())
    }

    fn written(&mut self, myself: &ActorRef<BatcherMsg>, output: Output) {
        (self.writing, self.writing_rows) = (false, 0);
        self.show_open_rows();
        self.args.output = output;
        self.args.source.report(&self.args.status, &self.args.table.name, &output);
        if self.args.stalled.swap(false, Ordering::Relaxed) {
            self.show_stalled(false);
            self.read_on(myself); // what the router kept back meanwhile
        }
        let Output { rows, files, bytes, .. } = output;
        observe::table_written(&self.args.table.name, self.args.partition, rows, files, bytes);
    }

    fn show_stalled(&self, stalled: bool) {
        observe::table_stalled(&self.args.table.name, self.args.partition, stalled);
    }

    fn show_open_rows(&self) {
        let rows = self.buffer.as_ref().map_or(0, |buffer| buffer.rows()) + self.writing_rows;
        observe::table_open_rows(&self.args.table.name, self.args.partition, rows);
    }

    fn is_drained(&self) -> bool {
        self.drain.as_ref().is_some_and(|(through, _)| self.args.output.cursor >= *through)
    }

    fn end_drain(&mut self) {
        if let Some((_, reply)) = self.drain.take() {
            reply.send(()).ok(); // whoever asked may have stopped waiting
        }
    }
}

impl Drop for BatcherState {
    fn drop(&mut self) {
        observe::table_open_rows(&self.args.table.name, self.args.partition, 0); // its successor reads them again
    }
}

impl Source {
    fn is_outbox(&self) -> bool {
        matches!(self, Self::Outbox { .. })
    }

    /// The last position that there is to read.
    fn end(&self, status: &Status, table: &str) -> u64 {
        match self {
            Self::Log { .. } => status.routed.load(Ordering::Relaxed),
            Self::Outbox { .. } => status.outbox_last(table),
        }
    }

    /// Says how far the table is in the lake.
    fn report(&self, status: &Status, table: &str, output: &Output) {
        match self {
            Self::Log { .. } => status.set_table_cursor(table, output.cursor),
            Self::Outbox { .. } => status.set_outbox_written(table, output.block_bytes),
        }
    }
}

async fn commit(committer: &ActorRef<CommitterMsg>, entries: Vec<StoreEntry>) -> Result<(), ActorFailure> {
    let (reply, answer) = oneshot::channel();
    let gone = || ActorFailure::Again("the committer is gone".to_owned());
    committer.cast(CommitterMsg::Write(entries, reply)).map_err(|_| gone())?;
    Ok(answer.await.map_err(|_| gone())??)
}

/// What writes one cut, beside the actor.
struct Writer {
    /// Where blocks are removed, if the table has an outbox.
    store: Option<Arc<dyn Store>>,
    partition: u32,
    table: TableSpec,
    lake: Arc<dyn Lake>,
    /// What is there under these names has more rows than what could be written now, and stays.
    whole: Vec<String>,
    committer: ActorRef<CommitterMsg>,
    stalled: Arc<AtomicBool>,
    batcher: ActorRef<BatcherMsg>,
}

impl Writer {
    async fn write(
        &self,
        buffer: Box<dyn TableBuffer>,
        first: u64,
        last: u64,
        before: Output,
    ) -> Result<Output, ActorFailure> {
        let finished = workers::blocking(move || buffer.finish()).await;
        let files = finished.map_err(|e| ActorFailure::Again(e.to_string()))?;
        let files: Vec<TableFile> = files.map_err(|e| ActorFailure::Again(e.to_string()))?;
        let names: Vec<String> = files.iter().map(|f| (self.table.object_name)(&f.hive, first, last)).collect();
        let table = &self.table.name;
        let intent_key = RecordKey::Intent(self.partition, table.clone());
        if !files.is_empty() {
            let intent = Intent { first, last, names: names.clone() };
            commit(&self.committer, vec![(intent_key.clone(), Some(intent.encode()))]).await?;
            fault_point::reached(fault_point::INTENT_COMMITTED);
        }
        let mut after = Output { cursor: last, ..before };
        for (file, name) in files.into_iter().zip(names) {
            after.rows += file.rows;
            after.files += 1;
            after.bytes += file.bytes.len() as u64;
            if !self.whole.contains(&name) || !self.is_there(&name).await {
                self.put(&name, file).await;
            }
            fault_point::reached(fault_point::FILE_PUT);
        }
        fault_point::reached(fault_point::BEFORE_CURSOR);
        let output_key = RecordKey::Output(self.partition, table.clone());
        commit(&self.committer, vec![(output_key, Some(after.encode())), (intent_key, None)]).await?;
        fault_point::reached(fault_point::CURSOR_COMMITTED);
        after.removed = self.remove_blocks(&after).await;
        Ok(after)
    }

    /// Removes blocks behind the cursor; returns up to which none is left for sure. That is committed with the next cut:
    /// until then a successor removes them again.
    async fn remove_blocks(&self, output: &Output) -> u64 {
        let Some(store) = &self.store else { return output.removed };
        let last = output.cursor.min(output.removed + REMOVALS_MAX);
        let name = |number| RecordKey::Outbox(self.partition, self.table.name.clone(), number);
        let names: Vec<_> = (output.removed + 1..=last).map(name).collect();
        match store.remove(&names).await {
            Ok(()) => last,
            Err(error) => {
                observe::removal_failed(&self.table.name);
                tracing::warn!(table = self.table.name, %error, "blocks of an outbox are not removed; the next cut tries again");
                output.removed
            }
        }
    }

    /// Whether the lake has an object of this name, however long it takes to find out.
    async fn is_there(&self, name: &str) -> bool {
        let mut backoff = PUT_BACKOFF;
        loop {
            match self.lake.list(name).await {
                Ok(found) => return found.iter().any(|(there, _)| there == name),
                Err(error) => {
                    tracing::warn!(table = self.table.name, name, %error, "the lake does not say what it has, trying again");
                    tokio::time::sleep(backoff.wait()).await;
                }
            }
        }
    }

    /// Puts one file, however long it takes: nothing else can be done with it, and the log keeps what it holds.
    async fn put(&self, name: &str, file: TableFile) {
        let mut backoff = PUT_BACKOFF;
        loop {
            let began = Instant::now();
            let error = match self.lake.put(name, file.bytes.clone()).await {
                Ok(()) => {
                    observe::put(began.elapsed().as_secs_f64());
                    return;
                }
                Err(LakeError::Unavailable(error) | LakeError::Refused(error)) => error,
            };
            observe::put_retried(&self.table.name);
            if !self.stalled.swap(true, Ordering::Relaxed) {
                drop(self.batcher.cast(BatcherMsg::Stalled)); // gone only with the whole partition
            }
            tracing::warn!(table = self.table.name, error, "the lake does not take a file, trying again");
            tokio::time::sleep(backoff.wait()).await;
        }
    }
}
