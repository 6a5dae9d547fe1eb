//! The ports: what the actors need of the world. Two homes stand behind each, embedded and distributed; one contract
//! test suite runs against both.
//!
//! Only traits and the values that cross them. No NATS, S3, HTTP or Arrow here.

use std::{fmt, ops::RangeInclusive, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    event::{EventBatch, fields::Scanned, key_paths::EnvelopeKeys},
    key::Key,
    table::outbox::Block,
    timestamp::Timestamp,
};

// ---- log ------------------------------------------------------------------------------------------------------------

/// One event to store.
#[derive(Clone, Debug)]
pub struct NewRecord {
    /// Its key; empty only for what a tool refused, see [`crate::event::fields::REJECTED`].
    pub key: Bytes,
    /// What repeats are absorbed by, within one partition and for as long as the log's window says; `None`: never
    /// absorbed. Made by [`crate::event::dedupe_id`] of the key and the payload's event id, or of no key and the whole
    /// payload: a log may make it again from what it has stored, to know repeats across a restart. What a tracker sent in
    /// vain has the id of what was sent, and a dead letter that is sent again that of the letter, see
    /// [`crate::dead_letter::redrive_id`]: these may be lost in a restart.
    pub dedupe_id: Option<u128>,
    /// The event as JSON.
    pub payload: Bytes,
    /// Its fields, where somebody has scanned it already. Not stored.
    pub scanned: Option<Scanned>,
}

/// One stored event.
#[derive(Clone, Debug)]
pub struct LogRecord {
    /// Its sequence: starts at 1, grows in the order of the log.
    pub seq: u64,
    /// When it was stored.
    pub stored: Timestamp,
    /// Its key, where the writer said it; an empty one is none.
    pub key: Option<Bytes>,
    /// The event as JSON; anything at all from foreign writers.
    pub payload: Bytes,
    /// Its fields, where it comes straight from whoever scanned it.
    pub scanned: Option<Scanned>,
    /// What the key paths found beside the payload, where the log does not say the key and they look there: a home that
    /// keeps headers and subjects of foreign writers notes it anew at each read.
    pub envelope: Option<Box<EnvelopeKeys>>,
}

/// What became of one [`NewRecord`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stored {
    /// Stored at this sequence.
    New(u64),
    /// A repeat of what was stored earlier, at this sequence where the log knows it.
    Duplicate(Option<u64>),
}

/// The extent of a partition's log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LogInfo {
    /// Sequence of the oldest event still retained; `last_seq + 1` when none is.
    pub first_seq: u64,
    /// Sequence of the newest event, 0 when none was ever stored.
    pub last_seq: u64,
}

/// Why the log did not do it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LogError {
    /// It may or may not have happened; try again with the same ids.
    #[error("the log did not answer: {0}")]
    Unavailable(String),
    /// One event is larger than the log takes.
    #[error("an event has {bytes} bytes, the log takes at most {limit}")]
    TooLarge {
        /// Size of the event.
        bytes: usize,
        /// The log's limit.
        limit: usize,
    },
    /// The events asked for are no longer retained: they were lost to processing.
    #[error("events {wanted} to {first} are gone from the log: retention overran the reader", first = .first - 1)]
    Overrun {
        /// First sequence asked for.
        wanted: u64,
        /// First sequence retained.
        first: u64,
    },
    /// What is stored contradicts itself; a person must look.
    #[error("the log is damaged: {0}")]
    Corrupt(String),
}

/// The ordered log of each partition.
#[async_trait]
pub trait Log: Send + Sync + 'static {
    /// Stores `records` in order; answers, in the same order, when they are stored under the log's fsync policy.
    /// Absorbed events take no sequence. Appends at the same time may mix, but each keeps its order. On an error any part
    /// may have been stored: send them again with the same ids; on [`LogError::TooLarge`] nothing is.
    async fn append(&self, partition: u32, records: Vec<NewRecord>) -> Result<Vec<Stored>, LogError>;

    /// A reader that yields every event from sequence `from` (1 or more) on, in order, and waits for more at the end. If
    /// the log ends before `from - 1`, this or the first answer is [`LogError::Corrupt`].
    async fn reader(&self, partition: u32, from: u64) -> Result<Box<dyn LogReader>, LogError>;

    /// The retained events at these sequences (ascending); missing ones are left out.
    async fn read(&self, partition: u32, seqs: &[u64]) -> Result<Vec<LogRecord>, LogError>;

    /// First and last sequence.
    async fn info(&self, partition: u32) -> Result<LogInfo, LogError>;

    /// Nothing at or below `seq` is needed any more; the log may let it go as its retention says. Never a promise.
    async fn release(&self, partition: u32, seq: u64) -> Result<(), LogError>;

    /// Largest event, in bytes.
    fn event_bytes_max(&self) -> usize;
}

/// An in-order reader of one partition.
#[async_trait]
pub trait LogReader: Send {
    /// The next events: at least one, whatever the limits; at most `events_max`, and bytes of payload up to `bytes_max`
    /// or the one event that passes it. Waits while there is none. Sequences ascend without repeats; a reader that cannot
    /// keep that promise returns an error instead. Cancel safe: dropping the future loses nothing, and who does so often
    /// still gets ahead.
    async fn next(&mut self, events_max: usize, bytes_max: usize) -> Result<Vec<LogRecord>, LogError>;
}

// ---- store ----------------------------------------------------------------------------------------------------------

/// The names in the store. Text forms: FORMATS "Store".
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum RecordKey {
    /// The feature answer of a key, readable by anyone.
    Feature(Key),
    /// Ownership of a partition.
    Epoch(u32),
    /// Chain of a partition's batches.
    Head(u32),
    /// The checkpoint record.
    Checkpoint(u32),
    /// The state of a key's session.
    State(u32, Key),
    /// A block of rows that a handler emitted to a table: partition, table, number of the block.
    Outbox(u32, String, u64),
    /// A dead letter: partition and sequence.
    DeadLetter(u32, u64),
    /// A table's recorded intention to write a range of files.
    Intent(u32, String),
    /// A table's cursor: everything up to it is in the lake.
    Output(u32, String),
    /// Starts without progress, and the events that are suspected of them.
    Care(u32),
    /// When the first timer of a key is due.
    Timer(u32, Key),
    /// How much of a partition's features the feature backend is known to have.
    Backend(u32),
}

/// A put (`Some`) or a delete (`None`).
pub type StoreEntry = (RecordKey, Option<Bytes>);

/// The right to write one partition's records. Lost as soon as someone else claims it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Claim {
    /// The partition.
    pub partition: u32,
    /// Grows with every claim: the fencing number.
    pub epoch: u64,
    /// The home's own token for the epoch record (a revision in NATS).
    pub fence: u64,
    /// The home's own token for the head record: what the next batch must find.
    pub head: u64,
}

/// Why the store did not do it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Someone else owns the partition now. Stop.
    #[error("another engine has claimed partition {0}")]
    Fenced(u32),
    /// Nothing happened, or the read failed; it may be tried again.
    #[error("the store did not answer: {0}")]
    Unavailable(String),
    /// What is stored contradicts itself; a person must look.
    #[error("the store is damaged: {0}")]
    Corrupt(String),
}

/// A part of all feature answers, see [`Store::features`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FeaturePage {
    /// Keys and their answers.
    pub answers: Vec<(Key, Bytes)>,
    /// Where the next page begins, in the home's own words; `None` at the end.
    pub next: Option<Bytes>,
}

/// How safe an acknowledged write is. Printed at start and exported.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Durability {
    /// One line for a person.
    pub description: String,
    /// Whether every acknowledged write is on disk; `None` when the home cannot tell.
    pub fsync_always: Option<bool>,
}

/// Features, session state and checkpoints, in one ordered place.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Takes ownership of `partition` for `owner` (a text for people) by compare-and-set; earlier owners are fenced off,
    /// also those of before a restart. The chain goes on where they left it.
    async fn claim(&self, partition: u32, owner: &str) -> Result<Claim, StoreError>;

    /// The current values in the order of `keys`, from the leader: what recovery and hydration read.
    async fn get(&self, keys: &[RecordKey]) -> Result<Vec<Option<Bytes>>, StoreError>;

    /// Writes `entries` (of two for one record the later counts) and `head` (the value of the head record) atomically, if
    /// the claim still stands and no other batch came between; then updates `claim`. When the outcome is unknown, finds
    /// out before it answers: by the head, which must therefore differ from every other one of the partition.
    /// `durable`: answer only when the write has the home's full durability; without it, a crash of the machine may take
    /// back this batch, but never one before it.
    async fn commit(
        &self,
        claim: &mut Claim,
        head: Bytes,
        entries: Vec<StoreEntry>,
        durable: bool,
    ) -> Result<(), StoreError>;

    /// Most entries in one batch; a larger one is refused as [`StoreError::Corrupt`], and the claim stands.
    fn batch_max(&self) -> usize;

    /// Dead letters in order of sequence, from `after` (exclusive), at most `limit`, and fewer only when there are no more:
    /// for listings, never on a hot path.
    async fn dead_letters(&self, partition: u32, after: u64, limit: usize) -> Result<Vec<(u64, Bytes)>, StoreError>;

    /// The keys of `partition` whose first timers are due earliest, at most `max` of them, in no order: read once when a
    /// partition starts.
    async fn first_timers(&self, partition: u32, max: usize) -> Result<Vec<(Timestamp, Key)>, StoreError>;

    /// Some feature answers, of all partitions, behind the place where the page before ended; from the first on when
    /// `after` is `None`. At most `limit` of them, and bytes of answers up to `bytes_max` or the one answer that passes
    /// it. A walk to the end meets every answer that was there when it began, as it was then or as it has become; what
    /// came or changed meanwhile it may meet or not, or twice.
    async fn features(&self, after: Option<&Bytes>, limit: usize, bytes_max: usize) -> Result<FeaturePage, StoreError>;

    /// Removes these records for good, durably; fine where there is none. On an error any of them may be gone. Outside of
    /// the chain of batches, and without a claim, so only for what no owner reads or writes again: dead letters whose
    /// checkpoint has committed, and outbox blocks behind their table's cursor.
    async fn remove(&self, keys: &[RecordKey]) -> Result<(), StoreError>;
}

// ---- lake -----------------------------------------------------------------------------------------------------------

/// Why the lake did not take an object.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LakeError {
    /// Worth trying again later.
    #[error("the lake did not answer: {0}")]
    Unavailable(String),
    /// Trying again will not help until a person changes something (credentials, bucket, permissions).
    #[error("the lake refused: {0}")]
    Refused(String),
}

/// Objects by name.
#[async_trait]
pub trait Lake: Send + Sync + 'static {
    /// Stores an object whole, replacing one of that name. Visible whole or not at all, also when the future is dropped;
    /// then it may still come. Names that lead out of the lake or mean something else elsewhere are refused, here and
    /// below.
    async fn put(&self, name: &str, object: Bytes) -> Result<(), LakeError>;
    /// Removes an object; fine when there is none. What only begins with its name stays.
    async fn delete(&self, name: &str) -> Result<(), LakeError>;
    /// Names that begin with `prefix`, with their sizes in bytes, in any order.
    async fn list(&self, prefix: &str) -> Result<Vec<(String, u64)>, LakeError>;
}

/// One file of a table, ready to be put.
#[derive(Clone, Debug)]
pub struct TableFile {
    /// `year=YYYY/month=MM/day=DD/hour=HH`, from the rows alone.
    pub hive: String,
    /// The file's bytes.
    pub bytes: Bytes,
    /// Its rows.
    pub rows: u64,
}

/// What rows come from, with the positions it covers: what cursors and cuts count.
#[derive(Clone, Debug)]
pub enum TableInput {
    /// Events of the log; positions are their sequences.
    Events(Arc<EventBatch>),
    /// A block of the outbox, whose position is its number.
    Block(Arc<Block>),
}

impl TableInput {
    /// Its first position.
    pub fn first(&self) -> u64 {
        match self {
            Self::Events(batch) => batch.first_seq(),
            Self::Block(block) => block.number,
        }
    }

    /// Its last position.
    pub fn last(&self) -> u64 {
        match self {
            Self::Events(batch) => batch.last_seq(),
            Self::Block(block) => block.number,
        }
    }
}

/// Makes files of rows: the seam between batchers and a file format.
pub trait TableFormat: Send + Sync + 'static {
    /// An empty buffer for one cut.
    fn open(&self) -> Box<dyn TableBuffer>;
    /// File name extension, without the dot.
    fn extension(&self) -> &'static str;
}

/// The rows of one cut, already encoded as far as the format allows. Equal rows in equal order give equal bytes.
pub trait TableBuffer: Send {
    /// Adds what `input` has at `positions`, except events that enter no table. CPU-bound.
    fn push(&mut self, input: &TableInput, positions: RangeInclusive<u64>) -> Result<(), TableError>;
    /// Rows so far.
    fn rows(&self) -> u64;
    /// Estimated bytes of the files if they were finished now.
    fn bytes(&self) -> u64;
    /// Files open: one per Hive partition touched.
    fn files(&self) -> usize;
    /// Finishes all files, in order of their Hive partition.
    fn finish(self: Box<Self>) -> Result<Vec<TableFile>, TableError>;
}

/// A row could not be encoded: always a defect, never the data's fault.
#[derive(Debug, Clone, thiserror::Error)]
#[error("encoding a table failed: {0}")]
pub struct TableError(pub String);

/// The homes of one engine.
#[derive(Clone)]
pub struct Homes {
    /// The log.
    pub log: Arc<dyn Log>,
    /// The store.
    pub store: Arc<dyn Store>,
    /// The lake.
    pub lake: Arc<dyn Lake>,
}

impl fmt::Debug for Homes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Homes")
    }
}

impl RecordKey {
    /// The subject in the stream behind bucket `bucket`, see FORMATS "Store".
    pub fn subject(&self, bucket: &str) -> String {
        match self {
            Self::Feature(key) => format!("$KV.{bucket}.{}", key.to_subject_token()),
            Self::Epoch(p) => format!("keyloom.{bucket}.epoch.{p}"),
            Self::Head(p) => format!("keyloom.{bucket}.head.{p}"),
            Self::Checkpoint(p) => format!("keyloom.{bucket}.ckpt.{p}"),
            Self::State(p, key) => format!("keyloom.{bucket}.state.{p}.{}", key.to_subject_token()),
            Self::Outbox(p, table, number) => format!("keyloom.{bucket}.outbox.{p}.{table}.{number}"),
            Self::DeadLetter(p, seq) => format!("keyloom.{bucket}.dead.{p}.{seq}"),
            Self::Intent(p, table) => format!("keyloom.{bucket}.intent.{p}.{table}"),
            Self::Output(p, table) => format!("keyloom.{bucket}.outputs.{p}.{table}"),
            Self::Care(p) => format!("keyloom.{bucket}.care.{p}"),
            Self::Timer(p, key) => format!("keyloom.{bucket}.timer.{p}.{}", key.to_subject_token()),
            Self::Backend(p) => format!("keyloom.{bucket}.backend.{p}"),
        }
    }

    /// What the names of all [`RecordKey::Timer`] of a partition begin with, as [`RecordKey::to_bytes`] has them.
    pub fn timers_prefix(partition: u32) -> Vec<u8> {
        [&b"w"[..], &partition.to_be_bytes()].concat()
    }

    /// The same as a filter of subjects in the stream behind bucket `bucket`.
    pub fn timers_filter(bucket: &str, partition: u32) -> String {
        format!("keyloom.{bucket}.timer.{partition}.*")
    }

    /// The key in an ordered byte store: kinds apart, partitions together, numbers in order.
    pub fn to_bytes(&self) -> Vec<u8> {
        fn with(kind: u8, partition: u32, rest: &[u8]) -> Vec<u8> {
            let mut bytes = Vec::with_capacity(5 + rest.len());
            bytes.push(kind);
            bytes.extend_from_slice(&partition.to_be_bytes());
            bytes.extend_from_slice(rest);
            bytes
        }
        match self {
            Self::Feature(key) => [b"f", key.as_str().as_bytes()].concat(),
            Self::Epoch(p) => with(b'e', *p, b""),
            Self::Head(p) => with(b'h', *p, b""),
            Self::Checkpoint(p) => with(b'c', *p, b""),
            Self::State(p, key) => with(b's', *p, key.as_str().as_bytes()),
            // No table has a zero byte in its name.
            Self::Outbox(p, table, number) => {
                with(b'o', *p, &[table.as_bytes(), &[0], &number.to_be_bytes()[..]].concat())
            }
            Self::DeadLetter(p, seq) => with(b'd', *p, &seq.to_be_bytes()),
            Self::Intent(p, table) => with(b'i', *p, table.as_bytes()),
            Self::Output(p, table) => with(b't', *p, table.as_bytes()),
            Self::Care(p) => with(b'k', *p, b""),
            Self::Timer(p, key) => with(b'w', *p, key.as_str().as_bytes()),
            Self::Backend(p) => with(b'b', *p, b""),
        }
    }
}
