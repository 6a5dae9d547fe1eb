//! The embedded log: one writer thread per partition that groups appends, so that many of them share one fsync.
//!
//! Readers follow from memory while they keep up, and from disk when they do not.

use std::{
    collections::{HashMap, VecDeque},
    ops::Bound,
    sync::{Arc, Mutex, PoisonError, RwLock},
    thread,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use fjall::PersistMode;
use keyloom_actors::{
    event::{
        dedupe_id,
        fields::{self, FieldId, Scanned},
    },
    fault_point,
    ports::{Log, LogError, LogInfo, LogReader, LogRecord, NewRecord, Stored},
    timestamp::{Clock, Timestamp},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

use super::{
    EmbeddedHome, POISONED, block,
    dedupe::{DedupeWindow, IDS_MAX},
};

/// Largest event, in bytes.
const EVENT_BYTES_MAX: usize = 8 << 20;
/// Payload bytes of one block: large enough to compress well, small enough to read one event from cheaply.
const BLOCK_BYTES_MAX: usize = 512 << 10;
/// Payload bytes that one group of appends takes before it is made durable.
const GROUP_BYTES_MAX: usize = 8 << 20;
/// Appends that wait for the writer; more wait at its door.
const APPENDS_WAITING_MAX: usize = 256;
/// Bytes of events, and of what was found in them, kept in memory for readers that are close behind.
const TAIL_BYTES_MAX: usize = 64 << 20;
/// Blocks looked at when old ones are let go, and how often that is done at most.
const RELEASE_BLOCKS_MAX: usize = 512;
const RELEASE_EVERY: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Clone)]
pub struct EmbeddedLog {
    home: EmbeddedHome,
    clock: Arc<dyn Clock>,
    partitions: Arc<Mutex<HashMap<u32, Arc<Partition>>>>,
}

struct Partition {
    number: u32,
    appends: mpsc::Sender<Append>,
    last: watch::Receiver<u64>,
    tail: RwLock<Tail>,
    release: Mutex<Release>,
}

/// What was let go lately.
#[derive(Default)]
struct Release {
    at: Option<std::time::Instant>,
    /// Size on disk at that time, and how much of it is removed but not yet reclaimed: that takes a flush and a merge.
    size: u64,
    unreclaimed: u64,
}

struct Append {
    records: Vec<NewRecord>,
    reply: oneshot::Sender<Result<Vec<Stored>, LogError>>,
}

/// The newest events, as they were appended.
#[derive(Default)]
struct Tail {
    records: VecDeque<LogRecord>,
    bytes: usize,
}

impl EmbeddedLog {
    /// The log in `home`.
    pub fn new(home: &EmbeddedHome, clock: Arc<dyn Clock>) -> Self {
        Self { home: home.clone(), clock, partitions: Arc::default() }
    }

    async fn partition(&self, number: u32) -> Result<Arc<Partition>, LogError> {
        if let Some(partition) = self.partitions.lock().unwrap_or_else(PoisonError::into_inner).get(&number) {
            return Ok(Arc::clone(partition));
        }
        let log = self.clone();
        blocking(move || {
            let mut partitions = log.partitions.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(partition) = partitions.get(&number) {
                return Ok(Arc::clone(partition));
            }
            let partition = log.open(number)?;
            partitions.insert(number, Arc::clone(&partition));
            Ok(partition)
        })
        .await
    }

    fn open(&self, number: u32) -> Result<Arc<Partition>, LogError> {
        let last = match self.home.log.prefix(number.to_be_bytes()).next_back() {
            Some(guard) => block::header(&guard.value().map_err(unavailable)?).map_err(LogError::Corrupt)?.last,
            None => 0,
        };
        let now = self.clock.now();
        let mut window = DedupeWindow::new(self.home.options.dedupe_window, IDS_MAX);
        self.remember_ids(number, now, &mut window)?;
        let (appends, waiting) = mpsc::channel(APPENDS_WAITING_MAX);
        let (published, last_seen) = watch::channel(last);
        let partition = Arc::new(Partition {
            number,
            appends,
            last: last_seen,
            tail: RwLock::default(),
            release: Mutex::default(),
        });
        let writer = Writer {
            home: self.home.clone(),
            clock: Arc::clone(&self.clock),
            number,
            next: last + 1,
            window,
            published,
        };
        let tail = Arc::downgrade(&partition);
        thread::Builder::new()
            .name(format!("log-{number}"))
            .spawn(move || writer.run(waiting, &tail))
            .map_err(|e| LogError::Unavailable(e.to_string()))?;
        Ok(partition)
    }

    /// Refills the window from the newest blocks, so that repeats are absorbed across a restart too.
    fn remember_ids(&self, number: u32, now: Timestamp, window: &mut DedupeWindow) -> Result<(), LogError> {
        let since = now.0.saturating_sub(self.home.options.dedupe_window.as_micros() as i64);
        let mut ids = Vec::new();
        for guard in self.home.log.prefix(number.to_be_bytes()).rev() {
            let bytes = guard.value().map_err(unavailable)?;
            if block::header(&bytes).map_err(LogError::Corrupt)?.stored.0 < since || ids.len() >= IDS_MAX / 2 {
                break;
            }
            let records = block::decode(&bytes, 0).map_err(LogError::Corrupt)?;
            ids.extend(records.iter().filter_map(stored_dedupe_id));
        }
        for id in ids {
            window.insert(id, now);
        }
        Ok(())
    }

    fn read_block(&self, number: u32, seq: u64) -> Result<Option<Bytes>, LogError> {
        let (from, to) = (name(number, 0), name(number, seq));
        let range = self.home.log.range::<[u8; 12], _>((Bound::Included(from), Bound::Included(to))).next_back();
        let Some(guard) = range else { return Ok(None) };
        let bytes = Bytes::from(guard.value().map_err(unavailable)?);
        let holds = block::header(&bytes).map_err(LogError::Corrupt)?.last >= seq;
        Ok(holds.then_some(bytes))
    }

    fn first_seq(&self, number: u32) -> Result<Option<u64>, LogError> {
        let Some(guard) = self.home.log.prefix(number.to_be_bytes()).next() else { return Ok(None) };
        let key = guard.key().map_err(unavailable)?;
        let seq: [u8; 8] = key[4..].try_into().map_err(|_| LogError::Corrupt("the name of a block".to_owned()))?;
        Ok(Some(u64::from_be_bytes(seq)))
    }

    /// Events from sequence `from` on, from disk: whole blocks, until a limit is reached or passed.
    fn read_on(
        &self,
        number: u32,
        from: u64,
        last: u64,
        events_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<LogRecord>, LogError> {
        let Some(first_block) = self.read_block(number, from)? else {
            let first = self.first_seq(number)?.unwrap_or(last + 1);
            if first > from {
                return Err(LogError::Overrun { wanted: from, first });
            }
            return Err(LogError::Corrupt(format!("event {from} is missing between {first} and {last}")));
        };
        let mut records = block::decode(&first_block, from).map_err(LogError::Corrupt)?;
        let mut bytes: usize = records.iter().map(|r| r.payload.len()).sum();
        while records.len() < events_max / 2 && bytes < bytes_max / 2 {
            let next = records.last().map_or(from, |r| r.seq + 1);
            let Some(block) = (next <= last).then(|| self.read_block(number, next)).transpose()?.flatten() else {
                break;
            };
            let more = block::decode(&block, next).map_err(LogError::Corrupt)?;
            bytes += more.iter().map(|r| r.payload.len()).sum::<usize>();
            records.extend(more);
        }
        Ok(records)
    }

    /// Lets old blocks go. The newest stays whatever happens: it says how far the log goes.
    fn release_blocking(&self, number: u32, seq: u64, last: u64, release: &Mutex<Release>) -> Result<(), LogError> {
        let options = &self.home.options;
        let mut release = release.lock().unwrap_or_else(PoisonError::into_inner);
        let size = self.home.log.disk_space();
        let reclaimed = release.size.saturating_sub(size);
        release.unreclaimed = release.unreclaimed.saturating_sub(reclaimed);
        release.size = size;
        let oldest = options.retention_age.map(|age| self.clock.now().0.saturating_sub(age.as_micros() as i64));
        let mut batch = self.home.database.batch();
        for guard in self.home.log.prefix(number.to_be_bytes()).take(RELEASE_BLOCKS_MAX) {
            let (key, value) = guard.into_inner().map_err(unavailable)?;
            let header = block::header(&value).map_err(LogError::Corrupt)?;
            let is_old = oldest.is_some_and(|oldest| header.stored.0 < oldest);
            let too_large = options.retention_bytes.is_some_and(|max| size.saturating_sub(release.unreclaimed) > max);
            if header.last > seq || header.last >= last || !(is_old || too_large) {
                break;
            }
            release.unreclaimed += value.len() as u64;
            batch.remove(&self.home.log, key);
        }
        if !batch.is_empty() {
            batch.commit().map_err(unavailable)?;
        }
        Ok(())
    }
}

/// The name of the block that begins with `seq`.
fn name(partition: u32, seq: u64) -> [u8; 12] {
    let mut name = [0; 12];
    name[..4].copy_from_slice(&partition.to_be_bytes());
    name[4..].copy_from_slice(&seq.to_be_bytes());
    name
}

/// The dedupe id that a stored event was appended with, as the front door makes it: see [`NewRecord::dedupe_id`].
fn stored_dedupe_id(record: &LogRecord) -> Option<u128> {
    let Some(key) = &record.key else { return Some(dedupe_id(b"", &record.payload)) };
    let mut found = Vec::new();
    let text = std::str::from_utf8(&record.payload).ok()?;
    let known = fields::scan(text, &mut found).ok()?;
    let id = found.get(known.place(FieldId::EventId)?)?.value(text).as_str()?;
    (!id.is_empty()).then(|| dedupe_id(key, id.as_bytes()))
}

fn unavailable(error: fjall::Error) -> LogError {
    match error {
        fjall::Error::Poisoned => LogError::Corrupt(POISONED.to_owned()),
        error => LogError::Unavailable(format!("{error}; is the disk full?")),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LogError> + Send + 'static,
) -> Result<T, LogError> {
    tokio::task::spawn_blocking(work).await.map_err(|e| LogError::Unavailable(e.to_string()))?
}

/// The only writer of a partition.
struct Writer {
    home: EmbeddedHome,
    clock: Arc<dyn Clock>,
    number: u32,
    next: u64,
    window: DedupeWindow,
    published: watch::Sender<u64>,
}

impl Writer {
    /// Until nobody can append any more.
    fn run(mut self, mut waiting: mpsc::Receiver<Append>, partition: &std::sync::Weak<Partition>) {
        while let Some(first) = waiting.blocking_recv() {
            let mut group = vec![first];
            let mut bytes = append_bytes(&group[0]);
            while bytes < GROUP_BYTES_MAX
                && let Ok(append) = waiting.try_recv()
            {
                bytes += append_bytes(&append);
                group.push(append);
            }
            let (replies, records): (Vec<_>, Vec<_>) = group.into_iter().map(|a| (a.reply, a.records)).unzip();
            let outcome = self.append(records, partition);
            match outcome {
                Ok(stored) => {
                    fault_point::reached(fault_point::APPENDED);
                    for (reply, stored) in replies.into_iter().zip(stored) {
                        reply.send(Ok(stored)).ok(); // whoever appended may have given up waiting
                    }
                }
                Err(error) => {
                    for reply in replies {
                        reply.send(Err(error.clone())).ok();
                    }
                }
            }
        }
    }

    fn append(
        &mut self,
        group: Vec<Vec<NewRecord>>,
        partition: &std::sync::Weak<Partition>,
    ) -> Result<Vec<Vec<Stored>>, LogError> {
        let now = self.clock.now();
        let mut next = self.next;
        let mut fresh = Vec::with_capacity(group.iter().map(Vec::len).sum());
        let mut ids = Vec::new();
        let mut answers = Vec::with_capacity(group.len());
        for records in group {
            let mut answer = Vec::with_capacity(records.len());
            for NewRecord { key, dedupe_id, payload, scanned } in records {
                if let Some(id) = dedupe_id {
                    if !self.window.insert(id, now) {
                        answer.push(Stored::Duplicate(None));
                        continue;
                    }
                    ids.push(id);
                }
                answer.push(Stored::New(next));
                let key = (!key.is_empty()).then_some(key);
                fresh.push(LogRecord { seq: next, stored: now, key, payload, scanned, envelope: None });
                next += 1;
            }
            answers.push(answer);
        }
        if let Err(error) = self.write(&mut fresh) {
            // Nothing was stored: the next attempt of these events must not look like a repeat.
            ids.into_iter().for_each(|id| self.window.remove(id));
            return Err(error);
        }
        self.next = next;
        if let (Some(partition), false) = (partition.upgrade(), fresh.is_empty()) {
            partition.tail.write().unwrap_or_else(PoisonError::into_inner).push(fresh);
        }
        self.published.send_replace(next - 1);
        Ok(answers)
    }

    /// Stores `records`; afterwards they keep nothing in memory but themselves, see [`block::encode`].
    fn write(&self, records: &mut [LogRecord]) -> Result<(), LogError> {
        let mode = if self.home.options.fsync { PersistMode::SyncAll } else { PersistMode::Buffer };
        let mut batch = self.home.database.batch().durability(Some(mode));
        let mut rest = records;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = rest.iter().take_while(|r| {
                bytes += r.payload.len();
                bytes <= BLOCK_BYTES_MAX
            });
            let (block, later) = rest.split_at_mut(fits.count().max(1));
            let first = block[0].seq;
            if let Some(encoded) = block::encode(block) {
                batch.insert(&self.home.log, name(self.number, first), encoded);
            }
            rest = later;
        }
        if batch.is_empty() {
            return Ok(());
        }
        batch.commit().map_err(unavailable)
    }
}

fn append_bytes(append: &Append) -> usize {
    append.records.iter().map(|r| r.payload.len() + r.key.len()).sum()
}

impl Tail {
    fn push(&mut self, records: Vec<LogRecord>) {
        self.bytes += records.iter().map(bytes_in_tail).sum::<usize>();
        self.records.extend(records);
        while self.bytes > TAIL_BYTES_MAX
            && let Some(gone) = self.records.pop_front()
        {
            self.bytes -= bytes_in_tail(&gone);
        }
    }

    /// Events from sequence `from` on; `None` when the tail does not reach back that far.
    fn read(&self, from: u64, events_max: usize, bytes_max: usize) -> Option<Vec<LogRecord>> {
        let first = self.records.front()?.seq;
        let skip = usize::try_from(from.checked_sub(first)?).ok()?;
        Some(within(self.records.iter().skip(skip), events_max, bytes_max).cloned().collect())
    }
}

fn bytes_in_tail(record: &LogRecord) -> usize {
    size_of::<LogRecord>() + record.payload.len() + record.scanned.as_ref().map_or(0, Scanned::bytes)
}

/// The first of `records`, as many as the limits of one answer let through: one in any case.
fn within<'a>(
    records: impl Iterator<Item = &'a LogRecord>,
    events_max: usize,
    bytes_max: usize,
) -> impl Iterator<Item = &'a LogRecord> {
    let mut bytes = 0;
    records
        .take(events_max.max(1))
        .enumerate()
        .take_while(move |(at, r)| {
            bytes += r.payload.len();
            *at == 0 || bytes <= bytes_max
        })
        .map(|(_, r)| r)
}

#[async_trait]
impl Log for EmbeddedLog {
    async fn append(&self, partition: u32, records: Vec<NewRecord>) -> Result<Vec<Stored>, LogError> {
        if let Some(large) = records.iter().find(|r| r.payload.len() > EVENT_BYTES_MAX) {
            return Err(LogError::TooLarge { bytes: large.payload.len(), limit: EVENT_BYTES_MAX });
        }
        let partition = self.partition(partition).await?;
        let (reply, answer) = oneshot::channel();
        let gone = || LogError::Unavailable("the log's writer has ended".to_owned());
        // Where many wait, this one waits for its turn, and holds no thread: those are few, and others need them.
        partition.appends.send(Append { records, reply }).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    async fn reader(&self, partition: u32, from: u64) -> Result<Box<dyn LogReader>, LogError> {
        let partition = self.partition(partition).await?;
        let last = *partition.last.borrow();
        if from > last + 1 {
            return Err(LogError::Corrupt(format!("the log ends at {last}, but event {from} was asked for")));
        }
        let seen = partition.last.clone();
        let (ready, reading) = (VecDeque::new(), None);
        Ok(Box::new(Reader { log: self.clone(), partition, next: from, seen, ready, reading }))
    }

    async fn read(&self, partition: u32, seqs: &[u64]) -> Result<Vec<LogRecord>, LogError> {
        let (log, seqs) = (self.clone(), seqs.to_vec());
        blocking(move || {
            let mut found: Vec<LogRecord> = Vec::with_capacity(seqs.len());
            let mut block: Vec<LogRecord> = Vec::new();
            for seq in seqs {
                if block.last().is_none_or(|r| r.seq < seq) || block[0].seq > seq {
                    block = match log.read_block(partition, seq)? {
                        Some(bytes) => block::decode(&bytes, seq).map_err(LogError::Corrupt)?,
                        None => continue,
                    };
                }
                found.extend(block.iter().find(|r| r.seq == seq).cloned());
            }
            Ok(found)
        })
        .await
    }

    async fn info(&self, partition: u32) -> Result<LogInfo, LogError> {
        let opened = self.partition(partition).await?;
        let last_seq = *opened.last.borrow();
        let log = self.clone();
        let first = blocking(move || log.first_seq(partition)).await?;
        Ok(LogInfo { first_seq: first.unwrap_or(last_seq + 1), last_seq })
    }

    async fn release(&self, partition: u32, seq: u64) -> Result<(), LogError> {
        let opened = self.partition(partition).await?;
        {
            let mut release = opened.release.lock().unwrap_or_else(PoisonError::into_inner);
            if release.at.is_some_and(|at| at.elapsed() < RELEASE_EVERY) {
                return Ok(());
            }
            release.at = Some(std::time::Instant::now());
        }
        let (log, last) = (self.clone(), *opened.last.borrow());
        blocking(move || log.release_blocking(partition, seq, last, &opened.release)).await
    }

    fn event_bytes_max(&self) -> usize {
        EVENT_BYTES_MAX
    }
}

struct Reader {
    log: EmbeddedLog,
    partition: Arc<Partition>,
    /// Sequence of the first event that is neither answered nor in `ready`.
    next: u64,
    seen: watch::Receiver<u64>,
    /// Read from disk and not answered yet: blocks are larger than what some callers ask for.
    ready: VecDeque<LogRecord>,
    /// A read under way; here, so that a caller that drops its futures often still gets ahead.
    reading: Option<JoinHandle<Result<Vec<LogRecord>, LogError>>>,
}

impl Reader {
    /// What is ready, within the limits of this call.
    fn answer(&mut self, events_max: usize, bytes_max: usize) -> Vec<LogRecord> {
        let fits = within(self.ready.iter(), events_max, bytes_max).count();
        if fits == self.ready.len() {
            std::mem::take(&mut self.ready).into()
        } else {
            self.ready.drain(..fits).collect()
        }
    }
}

#[async_trait]
impl LogReader for Reader {
    async fn next(&mut self, events_max: usize, bytes_max: usize) -> Result<Vec<LogRecord>, LogError> {
        let (events_max, bytes_max) = (events_max.max(1), bytes_max.max(1));
        while self.ready.is_empty() {
            let next = self.next;
            let reading = match self.reading.as_mut() {
                Some(reading) => reading,
                None => {
                    let ended = |_| LogError::Unavailable("the log's writer has ended".to_owned());
                    let last = *self.seen.wait_for(|last| *last >= next).await.map_err(ended)?;
                    let tail = self.partition.tail.read().unwrap_or_else(PoisonError::into_inner);
                    if let Some(records) = tail.read(next, events_max, bytes_max) {
                        self.next = records.last().map_or(next, |r| r.seq + 1);
                        return Ok(records);
                    }
                    let (log, number) = (self.log.clone(), self.partition.number);
                    let read = move || log.read_on(number, next, last, events_max, bytes_max);
                    self.reading.insert(tokio::task::spawn_blocking(read))
                }
            };
            let read = reading.await;
            self.reading = None;
            let records = read.map_err(|e| LogError::Unavailable(e.to_string()))??;
            self.next = records.last().map_or(next, |r| r.seq + 1);
            self.ready = records.into();
        }
        Ok(self.answer(events_max, bytes_max))
    }
}
