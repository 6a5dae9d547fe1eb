//! Finds out what there is to know of a key, from the log and the store of this process.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use keyloom_actors::{
    answer,
    checkpoint::record::{self, Checkpoint, Head, RecordError},
    event::{EventBatch, KeyPaths},
    features::FeatureSet,
    handler::LogicFactory,
    key::{Key, partition_of},
    ports::{Log, LogError, RecordKey, Store, StoreError},
    timestamp::{Clock, SystemClock},
};

use super::report::{KeyReport, LastEvent, Question, Timer};
use crate::dead_letters::shortened;

/// Newest events of the partition that are looked through for those of the key.
const LOOK_BACK_EVENTS: u64 = 10_000;
/// Longest time for that.
const LOOK_BACK_LIMIT: Duration = Duration::from_secs(10);
/// Bytes of one pull while looking.
const PULL_BYTES_MAX: usize = 4 << 20;
/// Events shown, and dead letters.
const SHOWN_MAX: usize = 10;
/// Dead letters looked through.
const LETTERS_MAX: usize = 1_000;
/// Characters of an event that are shown.
const EVENT_CHARS_MAX: usize = 500;

/// It could not be found out.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log does not answer.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A record that says what counts.
    #[error("partition {0}: {1}")]
    Record(u32, RecordError),
}

/// See the module.
pub struct Inspector {
    log: Arc<dyn Log>,
    store: Arc<dyn Store>,
    keys: KeyPaths,
    partitions: u32,
    factory: Arc<dyn LogicFactory>,
}

impl Inspector {
    /// Of an engine, or a topology, with `partitions` partitions whose sessions run `factory`.
    pub fn new(
        log: Arc<dyn Log>,
        store: Arc<dyn Store>,
        keys: KeyPaths,
        partitions: u32,
        factory: Arc<dyn LogicFactory>,
    ) -> Self {
        Self { log, store, keys, partitions, factory }
    }

    /// Everything about `key`.
    pub async fn inspect(&self, key: &Key) -> Result<KeyReport, InspectError> {
        let partition = partition_of(key.as_str().as_bytes(), self.partitions);
        let mut report = KeyReport { key: key.to_string(), partition, ..KeyReport::default() };
        let names = [
            RecordKey::Checkpoint(partition),
            RecordKey::Head(partition),
            RecordKey::State(partition, key.clone()),
            RecordKey::Feature(key.clone()),
        ];
        let mut records = self.store.get(&names).await?.into_iter();
        let mut next = || records.next().flatten();
        let damaged = |error| InspectError::Record(partition, error);
        let checkpoint = next().map(|r| Checkpoint::decode(&r)).transpose().map_err(damaged)?.unwrap_or_default();
        let head = next().map(|r| Head::decode(&r)).transpose().map_err(damaged)?;
        report.checkpoint = checkpoint.cut;
        report.epoch = head.map(|head| head.epoch);
        let set = self.factory.declared();
        report.definitions = definitions(set);
        if let Some(record) = next()
            && let Err(error) = describe_state(&mut report, &record, &checkpoint)
        {
            report.unreadable = Some(error.to_string());
        }
        let answer = next().and_then(|stored| answer::read(&stored, set, SystemClock.now()));
        report.features = answer.and_then(|answer| serde_json::from_slice(&answer).ok());
        report.dead_letters = self.dead_letters(key, partition, &checkpoint).await?;
        self.look_back(key, &mut report).await?;
        Ok(report)
    }

    async fn dead_letters(&self, key: &Key, partition: u32, checkpoint: &Checkpoint) -> Result<Vec<u64>, InspectError> {
        let mut found = VecDeque::new();
        for (seq, letter) in self.store.dead_letters(partition, 0, LETTERS_MAX).await? {
            let is_ours = record::decode_dead_letter(&letter)
                .is_ok_and(|(letter, tag)| letter.key == key.as_str() && checkpoint.is_valid(tag));
            if is_ours {
                found.push_back(seq);
                if found.len() > SHOWN_MAX {
                    found.pop_front();
                }
            }
        }
        Ok(found.into())
    }

    async fn look_back(&self, key: &Key, report: &mut KeyReport) -> Result<(), InspectError> {
        let info = self.log.info(report.partition).await?;
        let from = info.first_seq.max((info.last_seq + 1).saturating_sub(LOOK_BACK_EVENTS)).max(1);
        if from > info.last_seq {
            return Ok(());
        }
        let mut found = VecDeque::new();
        let looking = async {
            let mut reader = self.log.reader(report.partition, from).await?;
            let mut at = from;
            while at <= info.last_seq {
                let records = reader.next(LOOK_BACK_EVENTS as usize, PULL_BYTES_MAX).await?;
                report.looked_at += records.len() as u64;
                at = records.last().map_or(at, |record| record.seq + 1);
                let batch = EventBatch::decode(report.partition, records, &self.keys, None);
                for event in batch.events.iter().filter(|event| event.key == *key.as_str()) {
                    found.push_back(LastEvent {
                        seq: event.seq,
                        stored: event.stored.to_rfc3339(),
                        event: shortened(&event.text, EVENT_CHARS_MAX),
                    });
                    if found.len() > SHOWN_MAX {
                        found.pop_front();
                    }
                }
            }
            Ok::<_, LogError>(())
        };
        // What was found until then is still worth saying.
        if let Ok(done) = tokio::time::timeout(LOOK_BACK_LIMIT, looking).await {
            done?;
        }
        report.last_events = found.into();
        Ok(())
    }
}

fn definitions(set: &FeatureSet) -> std::collections::BTreeMap<String, String> {
    let hash = |name: &str| set.hash_of(name).map_or_else(String::new, |hash| format!("{hash:016x}"));
    set.names().map(|name| (name.to_owned(), hash(name))).collect()
}

fn describe_state(report: &mut KeyReport, record: &bytes::Bytes, checkpoint: &Checkpoint) -> Result<(), RecordError> {
    let Some((_, version)) = record::valid_version(record, checkpoint)?.newest else { return Ok(()) };
    report.is_stored = true;
    let version = record::decode_version(&version)?;
    report.handler = Some(version.handler);
    report.state_version = Some(version.state_version);
    report.applied = Some(version.applied);
    report.event_time = Some(version.event_time.to_rfc3339());
    report.state_bytes = Some(version.payload.len() as u64);
    let state = rmp_serde::from_slice(&version.payload);
    report.state = Some(state.unwrap_or_else(|e| format!("it has no form in JSON: {e}").into()));
    let timers = version.waiting.timers.iter();
    report.timers = timers.map(|(due, name)| Timer { name: name.to_owned(), due: due.to_rfc3339() }).collect();
    let questions = version.waiting.look_ups.iter().map(|look_up| Question {
        name: look_up.name.to_string(),
        asked: look_up.asked,
        question: String::from_utf8_lossy(&look_up.question).into_owned(),
    });
    report.questions = questions.collect();
    report.recent_ids = version.recent_ids.len() as u64;
    report.owed = version.owed;
    Ok(())
}
