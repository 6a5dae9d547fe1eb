//! Where answers come from: memory for resident keys, one question to the store for all others; and the wait of a reader
//! for what it has written.
//!
//! Not here: what is asked ([`super::ask`]), and what is said ([`super::text`]).

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use keyloom_actors::{
    answer::{Stored, cache::FeatureCache},
    features::FeatureSet,
    handler::LogicFactory,
    key::{Key, partition_of},
    partition::status::Status,
    ports::{RecordKey, Store},
    timestamp::{Clock, SystemClock, Timestamp},
};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{AT_ONCE_MAX, Ask, MinSeq, Refusal, text::Progress};
use crate::faces::observe;

/// What answers are read from.
#[derive(Clone)]
pub struct Sources {
    /// Numbers of each partition.
    pub statuses: Vec<Arc<Status>>,
    /// Answers of resident keys.
    pub cache: Arc<FeatureCache>,
    /// Answers of all keys.
    pub store: Arc<dyn Store>,
    /// What the features of a key are.
    pub factory: Arc<dyn LogicFactory>,
}

/// See the module.
pub struct FeatureReader {
    sources: Sources,
    clock: Arc<dyn Clock>,
    room: Semaphore,
}

/// What was found of one key.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Its answer as it is stored, if any event of it was published.
    pub stored: Option<Bytes>,
    /// Its partition.
    pub partition: u32,
    /// It may not show all that it was asked to.
    pub behind: bool,
    /// Everything up to this sequence was published in its partition before its answer was looked for.
    published: u64,
}

impl Found {
    /// Whether everything up to `seq` is known to be shown.
    fn shows(&self, seq: u64) -> bool {
        seq <= self.published || self.stored.as_deref().and_then(Stored::parse).is_some_and(|stored| stored.seq >= seq)
    }
}

impl FeatureReader {
    /// Reads from there, with the clock of the machine.
    pub fn new(sources: Sources) -> Self {
        Self { sources, clock: Arc::new(SystemClock), room: Semaphore::new(AT_ONCE_MAX) }
    }

    /// The features that are declared.
    pub fn declared(&self) -> &FeatureSet {
        self.sources.factory.declared()
    }

    /// Numbers of a partition.
    pub fn status(&self, partition: u32) -> Option<&Status> {
        self.sources.statuses.get(partition as usize).map(|status| &**status)
    }

    /// How far a partition is.
    pub fn progress(&self, partition: u32) -> Progress {
        let Some(status) = self.status(partition) else { return Progress::default() };
        let (lag_events, lag_seconds) = status.lag(self.now());
        Progress { lag_events, lag_seconds, stale: status.is_stale() }
    }

    /// The time of an answer.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Room for a request for many keys, to be held until it is answered.
    pub fn room(&self) -> Result<SemaphorePermit<'_>, Refusal> {
        self.room.try_acquire().map_err(|_| Refusal::Busy)
    }

    /// What there is of the keys that `ask` names, in their order; waits as it says.
    pub async fn read(&self, ask: &Ask) -> Result<Vec<Found>, Refusal> {
        let partitions = self.sources.statuses.len() as u32;
        let found =
            |key: &Key| Found { partition: partition_of(key.as_str().as_bytes(), partitions), ..Found::default() };
        let mut all: Vec<Found> = ask.keys.iter().map(found).collect();
        self.fetch(ask, &mut all, |_| true).await?;
        let mut late: Vec<(usize, u64)> = Vec::new();
        for (place, found) in all.iter_mut().enumerate() {
            let seq = ask.min_seq.of(found.partition);
            found.behind = !found.shows(seq);
            if found.behind {
                late.push((place, seq));
            }
        }
        if !late.is_empty() {
            self.wait(ask, &mut all, late).await?;
        }
        Ok(all)
    }

    /// Waits for those that are behind, by place and by what they must show.
    async fn wait(&self, ask: &Ask, all: &mut [Found], mut late: Vec<(usize, u64)>) -> Result<(), Refusal> {
        let began = Instant::now();
        let wait = |(place, seq): &(usize, u64)| {
            let (key, found): (&Key, &Found) = (&ask.keys[*place], &all[*place]);
            self.status(found.partition).and_then(|status| status.readers.wait(key, *seq))
        };
        let waits: Vec<_> = if ask.wait.is_zero() { Vec::new() } else { late.iter().map(wait).collect() };
        let is_full = waits.iter().any(Option::is_none);
        // Only now that we would be told: what was published in between counts.
        self.fetch_behind(ask, all).await?;
        let told: Vec<_> = if waits.is_empty() {
            vec![false; late.len()]
        } else {
            let deadline = tokio::time::Instant::now() + ask.wait;
            let all: &[Found] = all;
            let told = late.iter().zip(waits).map(|((place, seq), waits)| async move {
                if all[*place].shows(*seq) {
                    return true;
                }
                let Some(waits) = waits else { return false };
                matches!(tokio::time::timeout_at(deadline, waits).await, Ok(Ok(())))
            });
            join_all(told).await
        };
        self.fetch_behind(ask, all).await?;
        for ((place, seq), told) in late.drain(..).zip(told) {
            all[place].behind = !told && !all[place].shows(seq);
        }
        let outcome = match all.iter().any(|found| found.behind) {
            false => "shown",
            true if is_full => "full",
            true => "behind",
        };
        observe::feature_wait(outcome, began.elapsed().as_secs_f64());
        Ok(())
    }

    async fn fetch_behind(&self, ask: &Ask, all: &mut [Found]) -> Result<(), Refusal> {
        self.fetch(ask, all, |found| found.behind).await
    }

    /// Finds the answers of those keys that are `wanted`.
    async fn fetch(&self, ask: &Ask, all: &mut [Found], wanted: impl Fn(&Found) -> bool) -> Result<(), Refusal> {
        let keys = &ask.keys;
        if ask.min_seq != MinSeq::Any {
            // Before anything is read: what is published from now on may be missing in what is read.
            for found in all.iter_mut().filter(|found| wanted(found)) {
                found.published = self.status(found.partition).map_or(0, Status::published);
            }
        }
        let mut missing = Vec::new();
        for (place, found) in all.iter_mut().enumerate().filter(|(_, found)| wanted(found)) {
            match self.sources.cache.get(keys[place].as_str()) {
                Some(stored) => found.stored = Some(stored),
                None => missing.push(place),
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let names: Vec<_> = missing.iter().map(|place| RecordKey::Feature(keys[*place].clone())).collect();
        let stored = self.sources.store.get(&names).await.map_err(|error| Refusal::Unavailable(error.to_string()))?;
        for (place, stored) in missing.into_iter().zip(stored) {
            all[place].stored = stored;
        }
        Ok(())
    }
}
