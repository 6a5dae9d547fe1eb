//! A log in memory for the tests of what writes to the log: absorbs repeats, fails and hangs on request.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Mutex,
};

use async_trait::async_trait;
use keyloom_actors::ports::{Log, LogError, LogInfo, LogReader, LogRecord, NewRecord, Stored};
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

#[derive(Default)]
pub(crate) struct MemoryLog {
    partitions: Mutex<BTreeMap<u32, Vec<NewRecord>>>,
    seen: Mutex<HashSet<u128>>,
    failures: Mutex<Vec<LogError>>,
    gate: RwLock<()>,
}

impl MemoryLog {
    /// What each partition holds, in order.
    pub(crate) fn records(&self) -> BTreeMap<u32, Vec<NewRecord>> {
        self.partitions.lock().expect("no test panics while holding it").clone()
    }

    /// Makes one later append fail after half of its records are stored.
    pub(crate) fn fail_next(&self, error: LogError) {
        self.failures.lock().expect("no test panics while holding it").push(error);
    }

    /// Appends hang until the guard is dropped.
    pub(crate) fn close(&self) -> RwLockWriteGuard<'_, ()> {
        self.gate.try_write().expect("no append is under way")
    }
}

#[async_trait]
impl Log for MemoryLog {
    async fn append(&self, partition: u32, mut records: Vec<NewRecord>) -> Result<Vec<Stored>, LogError> {
        let _open: RwLockReadGuard<'_, ()> = self.gate.read().await;
        let failure = self.failures.lock().expect("not poisoned").pop();
        if failure.is_some() {
            records.truncate(records.len() / 2);
        }
        let mut partitions = self.partitions.lock().expect("not poisoned");
        let mut seen = self.seen.lock().expect("not poisoned");
        let log = partitions.entry(partition).or_default();
        let stored = records
            .into_iter()
            .map(|record| {
                if record.dedupe_id.is_some_and(|id| !seen.insert(id)) {
                    return Stored::Duplicate(None);
                }
                log.push(record);
                Stored::New(log.len() as u64)
            })
            .collect();
        failure.map_or(Ok(stored), Err)
    }

    async fn reader(&self, _partition: u32, _from: u64) -> Result<Box<dyn LogReader>, LogError> {
        Err(LogError::Unavailable("this log is written only".into()))
    }

    async fn read(&self, _partition: u32, _seqs: &[u64]) -> Result<Vec<LogRecord>, LogError> {
        Err(LogError::Unavailable("this log is written only".into()))
    }

    async fn info(&self, _partition: u32) -> Result<LogInfo, LogError> {
        Ok(LogInfo::default())
    }

    async fn release(&self, _partition: u32, _seq: u64) -> Result<(), LogError> {
        Ok(())
    }

    fn event_bytes_max(&self) -> usize {
        1 << 20
    }
}
