//! The embedded home: log and store of one machine in one folder, nothing to install.
//!
//! One fjall database holds both, so one fsync covers both and they can only be lost together. fjall types stay in this
//! folder.

pub mod block;
mod dedupe;
mod log;
mod store;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, config::CompressionPolicy};
use keyloom_actors::ports::Durability;

pub use self::{log::EmbeddedLog, store::EmbeddedStore};

/// Memory for blocks read from disk, in bytes.
const CACHE_BYTES: u64 = 64 << 20;
/// What may be written to one of the busy keyspaces before it goes to its files, in bytes. Beside the memtable that is being
/// filled, memory holds those on their way to disk (it stops writers at four) and the last ones written: fjall lets
/// go of them when the next memtable of any keyspace is full.
const MEMTABLE_BYTES: u64 = 16 << 20;
/// The same for the small records: cursors, counters, heads of partitions. Rarely full otherwise, it would keep the journal
/// from being shortened.
const RECORDS_MEMTABLE_BYTES: u64 = 4 << 20;
/// Journal on disk, in bytes, read again after a kill. Above, keyspaces that hold it back are written to their files.
const JOURNAL_BYTES_MAX: u64 = 256 << 20;
/// Values of the log at least this large are kept outside the index, so that merging does not rewrite them.
const LOG_BLOB_BYTES_MIN: u32 = 4 << 10;

/// What an earlier failed write makes of the database until it is opened again.
const POISONED: &str =
    "an earlier write failed, so the database takes no more; make room on the disk and restart the engine";

/// What the embedded log does when.
#[derive(Clone, Debug)]
pub struct EmbeddedOptions {
    /// Folder of the database.
    pub data_dir: PathBuf,
    /// Whether an append waits for an fsync.
    pub fsync: bool,
    /// Events older than this may go, once they are processed.
    pub retention_age: Option<Duration>,
    /// When the log is larger than this on disk, the oldest events may go, once they are processed.
    pub retention_bytes: Option<u64>,
    /// How long event ids are remembered.
    pub dedupe_window: Duration,
}

/// The folder cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// Another process has it.
    #[error("another keyloom process uses the data folder {0}; stop it, or give this one its own [engine] data_dir")]
    Locked(PathBuf),
    /// Anything else.
    #[error(
        "the data folder {path} cannot be opened: {error}; check that it is writable and that the disk is not full"
    )]
    Open {
        /// Which folder.
        path: PathBuf,
        /// What the system said.
        error: String,
    },
}

/// An open embedded home.
#[derive(Clone)]
pub struct EmbeddedHome {
    database: Database,
    log: Keyspace,
    features: Keyspace,
    sessions: Keyspace,
    records: Keyspace,
    options: EmbeddedOptions,
}

impl EmbeddedHome {
    /// Opens or creates the database; takes its lock. Blocks.
    pub fn open(options: &EmbeddedOptions) -> Result<Self, EmbeddedError> {
        let path = &options.data_dir;
        let failed =
            |error: &dyn std::fmt::Display| EmbeddedError::Open { path: path.clone(), error: error.to_string() };
        std::fs::create_dir_all(path).map_err(|e| failed(&e))?;
        let opened = Database::builder(database_dir(path))
            .cache_size(CACHE_BYTES)
            .max_journaling_size(JOURNAL_BYTES_MAX)
            .journal_compression(fjall::CompressionType::None)
            .worker_threads(2)
            .open();
        let database = match opened {
            Ok(database) => database,
            Err(fjall::Error::Locked) => return Err(EmbeddedError::Locked(path.clone())),
            Err(error) => return Err(failed(&error)),
        };
        // Blocks of the log are compressed before they come here, and are written once.
        let blobs = KvSeparationOptions::default()
            .compression(fjall::CompressionType::None)
            .separation_threshold(LOG_BLOB_BYTES_MIN);
        // A database keeps the options that its keyspaces were created with.
        let plain = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES);
        let for_records = || KeyspaceCreateOptions::default().max_memtable_size(RECORDS_MEMTABLE_BYTES);
        let for_log = || {
            plain().with_kv_separation(Some(blobs.clone())).data_block_compression_policy(CompressionPolicy::disabled())
        };
        let keyspace = |name: &str, options: &dyn Fn() -> KeyspaceCreateOptions| {
            database.keyspace(name, options).map_err(|e| failed(&e))
        };
        Ok(Self {
            log: keyspace("log", &for_log)?,
            features: keyspace("features", &plain)?,
            sessions: keyspace("sessions", &plain)?,
            records: keyspace("records", &for_records)?,
            database,
            options: options.clone(),
        })
    }

    /// What an acknowledged append survives.
    pub fn durability(&self) -> Durability {
        let description = if self.options.fsync {
            "embedded, fsync before every answer: survives power loss on this machine's disk"
        } else {
            "embedded, no fsync (for trials): survives a crash of the process, not of the machine"
        };
        Durability { description: description.to_owned(), fsync_always: Some(self.options.fsync) }
    }
}

fn database_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("db")
}
