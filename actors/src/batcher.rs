//! The batcher actor: turns the log of one partition into the files of one table.
//!
//! It has a cursor of its own. The router feeds it while it keeps up; when the lake stalls, or after a restart, it reads
//! the log itself from its cursor on. A cut is: record the intent, put the files, move the cursor. Names and bytes depend
//! on the range alone, so a cut that is repeated after a crash replaces its own files.

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

use crate::{
    budget::Backoff,
    committer::CommitterMsg,
    event::{EventBatch, KeyPaths},
    failure::ActorFailure,
    fault_point, observe,
    ports::{Lake, LakeError, Log, LogError, LogReader, RecordKey, StoreEntry, TableBuffer, TableFile, TableFormat},
    record::{Intent, Output},
    status::Status,
    table_cut::CutPolicy,
    workers,
};

/// How often a batcher looks at the age of its rows.
const TICK: Duration = Duration::from_millis(100);
/// Events and bytes per read while catching up, and how long a read waits before the mailbox is looked at again.
const READ_EVENTS_MAX: usize = 4_096;
const READ_BYTES_MAX: usize = 4 << 20;
const READ_WAIT: Duration = Duration::from_millis(50);
/// A cut that takes longer than this while the next one is full stalls the table: what is fed meanwhile would hold the
/// credit that the sessions need. It is read from the log later.
const CUT_PATIENCE: Duration = Duration::from_secs(1);
/// Wait between attempts of a put, and of a read.
const PUT_BACKOFF: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
const READ_BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));

/// Says the object name of a file: Hive partition, first and last sequence of the cut.
pub type ObjectName = Arc<dyn Fn(&str, u64, u64) -> String + Send + Sync>;

/// A table that follows the log.
#[derive(Clone)]
pub struct TableSpec {
    /// Its name.
    pub name: String,
    /// What its files look like.
    pub format: Arc<dyn TableFormat>,
    /// What its files are called.
    pub object_name: ObjectName,
    /// When rows become files.
    pub cut: CutPolicy,
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
    /// What it reads when it is not fed.
    pub log: Arc<dyn Log>,
    /// How keys are found.
    pub keys: KeyPaths,
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
        args.status.set_table_cursor(&args.table.name, args.output.cursor);
        let Output { rows, files, bytes, .. } = args.output;
        observe::table_written(&args.table.name, args.partition, rows, files, bytes);
        observe::table_stalled(&args.table.name, false);
        let mut state = BatcherState {
            buffer: None,
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
            BatcherMsg::Tick => state.stall_when_late(),
            BatcherMsg::Stalled => {
                state.backlog.clear();
                observe::table_stalled(&state.args.table.name, true);
            }
            BatcherMsg::Written(written) => state.written(&myself, written?),
            BatcherMsg::Drain { through, reply } => state.drain = Some((through, reply)),
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
            self.take_in(batch).await?;
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
            observe::table_stalled(&self.args.table.name, true);
        }
    }

    fn read_on(&mut self, myself: &ActorRef<BatcherMsg>) {
        if !self.reading {
            self.reading = true;
            drop(myself.cast(BatcherMsg::Read)); // to itself: cannot be gone
        }
    }

    /// Reads the log from where the table has come to. Ends when the feed takes over.
    async fn read(&mut self, myself: &ActorRef<BatcherMsg>) -> Result<(), ActorFailure> {
        if !self.reading {
            return Ok(());
        }
        if self.recut.is_none() && self.next > self.args.status.routed.load(Ordering::Relaxed) {
            (self.reading, self.reader) = (false, None); // all that was routed is here; what comes is fed
            return Ok(());
        }
        if self.must_cut() && self.writing {
            // Two cuts are in memory; more would be too much. The end of the first one brings the next message.
            tokio::time::sleep(READ_WAIT).await;
        } else {
            match self.next_records().await {
                Ok(records) if records.is_empty() => {}
                Ok(records) => {
                    self.backoff.reset();
                    let batch = EventBatch::decode(self.args.partition, records, &self.args.keys, None);
                    self.take_in(Arc::new(batch)).await?;
                }
                Err(LogError::Overrun { wanted, first }) => {
                    self.reader = None;
                    let (partition, table) = (self.args.partition, &self.args.table.name);
                    tracing::error!(partition, table, wanted, first, "retention overran a table: its rows are lost");
                    self.next = self.next.max(first);
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

    async fn next_records(&mut self) -> Result<Vec<crate::ports::LogRecord>, LogError> {
        let reader = match &mut self.reader {
            Some(reader) => reader,
            none => none.insert(self.args.log.reader(self.args.partition, self.next).await?),
        };
        let next = reader.next(READ_EVENTS_MAX, READ_BYTES_MAX);
        tokio::time::timeout(READ_WAIT, next).await.unwrap_or_else(|_| Ok(Vec::new()))
    }

    async fn take_in(&mut self, batch: Arc<EventBatch>) -> Result<(), ActorFailure> {
        let last = self.recut.as_ref().map_or(u64::MAX, |intent| intent.last).min(batch.last_seq());
        let seqs = self.next..=last;
        if last < batch.last_seq() {
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
            let pushed = buffer.push(&batch, seqs);
            (buffer, pushed)
        };
        let (buffer, pushed) = workers::blocking(encode).await.map_err(|e| ActorFailure::Again(e.to_string()))?;
        pushed.map_err(|e| ActorFailure::Again(e.to_string()))?;
        observe::table_open_rows(&self.args.table.name, buffer.rows());
        self.buffer = Some(buffer);
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
        let Some(buffer) = &self.buffer else { return false };
        let policy = &self.args.table.cut;
        drained || policy.is_full(buffer.rows(), buffer.bytes(), buffer.files()) || policy.is_due(self.opened.elapsed())
    }

    fn cut(&mut self, myself: &ActorRef<BatcherMsg>) -> Result<(), ActorFailure> {
        // Without rows (all of the range is gone, or none has a place in a table) the cursor moves all the same.
        let buffer = self.buffer.take().unwrap_or_else(|| self.args.table.format.open());
        let (first, last) = (self.first, self.next - 1);
        self.first = self.next;
        (self.writing, self.began) = (true, Instant::now());
        self.recut = None;
        let writer = Writer {
            partition: self.args.partition,
            table: self.args.table.clone(),
            lake: Arc::clone(&self.args.lake),
            committer: self.args.committer.clone(),
            stalled: Arc::clone(&self.args.stalled),
            batcher: myself.clone(),
        };
        let (output, myself) = (self.args.output, myself.clone());
        tokio::spawn(async move {
            let written = writer.write(buffer, first, last, output).await;
            drop(myself.cast(BatcherMsg::Written(written))); // gone only with the whole partition
        });
        Ok(())
    }

    fn written(&mut self, myself: &ActorRef<BatcherMsg>, output: Output) {
        self.writing = false;
        self.args.output = output;
        self.args.status.set_table_cursor(&self.args.table.name, output.cursor);
        if self.args.stalled.swap(false, Ordering::Relaxed) {
            observe::table_stalled(&self.args.table.name, false);
            self.read_on(myself); // what the router kept back meanwhile
        }
        let Output { rows, files, bytes, .. } = output;
        observe::table_written(&self.args.table.name, self.args.partition, rows, files, bytes);
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

/// What writes one cut, beside the actor.
struct Writer {
    partition: u32,
    table: TableSpec,
    lake: Arc<dyn Lake>,
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
            self.commit(vec![(intent_key.clone(), Some(intent.encode()))]).await?;
            fault_point::reached(fault_point::INTENT_COMMITTED);
        }
        let mut after = Output { cursor: last, ..before };
        for (file, name) in files.into_iter().zip(names) {
            after.rows += file.rows;
            after.files += 1;
            after.bytes += file.bytes.len() as u64;
            self.put(&name, file).await;
            fault_point::reached(fault_point::FILE_PUT);
        }
        fault_point::reached(fault_point::BEFORE_CURSOR);
        let output_key = RecordKey::Output(self.partition, table.clone());
        self.commit(vec![(output_key, Some(after.encode())), (intent_key, None)]).await?;
        fault_point::reached(fault_point::CURSOR_COMMITTED);
        Ok(after)
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

    async fn commit(&self, entries: Vec<StoreEntry>) -> Result<(), ActorFailure> {
        let (reply, answer) = oneshot::channel();
        let gone = || ActorFailure::Again("the committer is gone".to_owned());
        self.committer.cast(CommitterMsg::Write(entries, reply)).map_err(|_| gone())?;
        Ok(answer.await.map_err(|_| gone())??)
    }
}
