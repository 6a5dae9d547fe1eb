//! The embedded store: features, state and checkpoints in the same database as the log.
//!
//! Only one process has the database, so fencing is about claims inside it: a partition that starts again fences what is
//! left of its former self.

use std::{
    collections::HashMap,
    ops::Bound,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use fjall::{Keyspace, PersistMode};
use keyloom_actors::{
    checkpoint::record,
    key::Key,
    partition::timer_index::Earliest,
    ports::{Claim, FeaturePage, RecordKey, Store, StoreEntry, StoreError},
    timestamp::Timestamp,
};

use super::{EmbeddedHome, POISONED};

/// Entries of one batch: about 10 MB of states, written in some 20 ms.
const BATCH_MAX: usize = 4_096;

/// See the module.
#[derive(Clone)]
pub struct EmbeddedStore {
    home: EmbeddedHome,
    /// Epoch and number of batches of each claimed partition.
    claims: Arc<Mutex<HashMap<u32, (u64, u64)>>>,
}

impl EmbeddedStore {
    /// The store in `home`.
    pub fn new(home: &EmbeddedHome) -> Self {
        Self { home: home.clone(), claims: Arc::default() }
    }

    fn place(&self, key: &RecordKey) -> &Keyspace {
        match key {
            RecordKey::Feature(_) => &self.home.features,
            RecordKey::State(..) => &self.home.sessions,
            _ => &self.home.records,
        }
    }

    fn read(&self, key: &RecordKey) -> Result<Option<Bytes>, StoreError> {
        self.place(key).get(key.to_bytes()).map(|found| found.map(Bytes::from)).map_err(unavailable)
    }

    fn claim_blocking(&self, partition: u32) -> Result<Claim, StoreError> {
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        let record = RecordKey::Epoch(partition);
        let epoch = match self.read(&record)? {
            None => 1,
            Some(bytes) => {
                let number: [u8; 8] =
                    bytes[..].try_into().map_err(|_| StoreError::Corrupt("the epoch record".to_owned()))?;
                u64::from_be_bytes(number) + 1
            }
        };
        let mut batch = self.home.database.batch().durability(Some(PersistMode::SyncAll));
        batch.insert(self.place(&record), record.to_bytes(), epoch.to_be_bytes().to_vec());
        batch.commit().map_err(unavailable)?;
        claims.insert(partition, (epoch, 0));
        Ok(Claim { partition, epoch, fence: epoch, head: 0 })
    }

    fn commit_blocking(
        &self,
        claim: &Claim,
        head: Bytes,
        entries: Vec<StoreEntry>,
        durable: bool,
    ) -> Result<u64, StoreError> {
        if entries.len() > BATCH_MAX {
            let text = format!("a batch has {} entries, at most {BATCH_MAX} are possible", entries.len());
            return Err(StoreError::Corrupt(text));
        }
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        let state =
            claims.get_mut(&claim.partition).filter(|(epoch, batches)| (*epoch, *batches) == (claim.epoch, claim.head));
        let Some((_, batches)) = state else { return Err(StoreError::Fenced(claim.partition)) };
        let mode = if durable { PersistMode::SyncAll } else { PersistMode::Buffer };
        let mut batch = self.home.database.batch().durability(Some(mode));
        for (key, value) in entries.into_iter().chain([(RecordKey::Head(claim.partition), Some(head))]) {
            let (place, name) = (self.place(&key), key.to_bytes());
            match value {
                Some(value) => batch.insert(place, name, value),
                None => batch.remove(place, name),
            }
        }
        batch.commit().map_err(unavailable)?;
        *batches += 1;
        Ok(*batches)
    }
}

fn unavailable(error: fjall::Error) -> StoreError {
    match error {
        fjall::Error::Poisoned => StoreError::Corrupt(POISONED.to_owned()),
        error => StoreError::Unavailable(format!("{error}; is the disk full?")),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.map_err(|e| StoreError::Unavailable(e.to_string()))?
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn claim(&self, partition: u32, _owner: &str) -> Result<Claim, StoreError> {
        let store = self.clone();
        blocking(move || store.claim_blocking(partition)).await
    }

    async fn get(&self, keys: &[RecordKey]) -> Result<Vec<Option<Bytes>>, StoreError> {
        let (store, keys) = (self.clone(), keys.to_vec());
        blocking(move || keys.iter().map(|key| store.read(key)).collect()).await
    }

    async fn commit(
        &self,
        claim: &mut Claim,
        head: Bytes,
        entries: Vec<StoreEntry>,
        durable: bool,
    ) -> Result<(), StoreError> {
        let (store, held) = (self.clone(), claim.clone());
        claim.head = blocking(move || store.commit_blocking(&held, head, entries, durable)).await?;
        Ok(())
    }

    fn batch_max(&self) -> usize {
        BATCH_MAX
    }

    async fn dead_letters(&self, partition: u32, after: u64, limit: usize) -> Result<Vec<(u64, Bytes)>, StoreError> {
        let store = self.clone();
        blocking(move || {
            let from = RecordKey::DeadLetter(partition, after.saturating_add(1)).to_bytes();
            let to = RecordKey::DeadLetter(partition, u64::MAX).to_bytes();
            let found = store.home.records.range(from..=to).take(limit).map(|guard| {
                let (key, value) = guard.into_inner().map_err(unavailable)?;
                let tail = key.len().checked_sub(8).and_then(|at| key[at..].try_into().ok());
                let seq = tail.map(u64::from_be_bytes);
                Ok((
                    seq.ok_or_else(|| StoreError::Corrupt("the name of a dead letter".to_owned()))?,
                    Bytes::from(value),
                ))
            });
            found.collect()
        })
        .await
    }

    async fn first_timers(&self, partition: u32, max: usize) -> Result<Vec<(Timestamp, Key)>, StoreError> {
        let store = self.clone();
        blocking(move || {
            let mut earliest = Earliest::new(max);
            let prefix = RecordKey::timers_prefix(partition);
            for guard in store.home.records.prefix(&prefix) {
                let (name, value) = guard.into_inner().map_err(unavailable)?;
                let damaged = |what: String| StoreError::Corrupt(format!("when a key has a timer: {what}"));
                let key = Key::from_bytes(&name[prefix.len()..]).map_err(|e| damaged(e.to_string()))?;
                let due = record::decode_first_timer(&value).map_err(|e| damaged(e.to_string()))?;
                earliest.push(due, key);
            }
            Ok(earliest.done())
        })
        .await
    }

    async fn features(&self, after: Option<&Bytes>, limit: usize, bytes_max: usize) -> Result<FeaturePage, StoreError> {
        let (store, after) = (self.clone(), after.cloned());
        blocking(move || {
            let behind = after.map_or(Bound::Unbounded, |after| Bound::Excluded(after.to_vec()));
            let mut found = store.home.features.range::<Vec<u8>, _>((behind, Bound::Unbounded));
            let (mut page, mut bytes) = (FeaturePage::default(), 0);
            while page.answers.len() < limit && bytes < bytes_max {
                let Some(guard) = found.next() else { return Ok(FeaturePage { next: None, ..page }) };
                let (name, answer) = guard.into_inner().map_err(unavailable)?;
                let key = name.strip_prefix(b"f").and_then(|key| Key::from_bytes(key).ok());
                let key = key.ok_or_else(|| StoreError::Corrupt("the name of a feature answer".to_owned()))?;
                bytes += answer.len();
                page.next = Some(Bytes::copy_from_slice(&name));
                page.answers.push((key, Bytes::from(answer)));
            }
            Ok(page)
        })
        .await
    }

    async fn remove(&self, keys: &[RecordKey]) -> Result<(), StoreError> {
        let (store, keys) = (self.clone(), keys.to_vec());
        blocking(move || {
            let mut batch = store.home.database.batch().durability(Some(PersistMode::SyncAll));
            for key in keys {
                batch.remove(store.place(&key), key.to_bytes());
            }
            batch.commit().map_err(unavailable)
        })
        .await
    }
}
