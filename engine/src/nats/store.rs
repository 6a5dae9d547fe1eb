//! The port `Store` on the stream behind a key-value bucket: features, state and checkpoints side by side.
//!
//! Ownership is a compare-and-set on the epoch record; every batch names the epoch record it was claimed with (the
//! fence) and the head record it follows (the chain). So a batch of a former owner, or one delayed on the way, is refused
//! as a whole, and what happened to a batch without an answer can be seen in the head record. Whether a write is on disk
//! is the broker's policy, see `durability`: `durable` makes no difference here.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_nats::jetstream::stream::{DirectGetErrorKind, Stream};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use keyloom_actors::{
    key::Key,
    ports::{Claim, FeaturePage, RecordKey, Store, StoreEntry, StoreError},
    timestamp::Timestamp,
};
use serde::{Deserialize, Serialize};
use tokio::{sync::Semaphore, time::sleep};
use tracing::{info, warn};

use super::{
    Connection, NatsError, StoreOptions,
    batch::{self, BatchMessage, Expected, MESSAGES_MAX, OPERATION_TEXT, Outcome},
    connect::{LOST, Link, chain},
    leader::{ReadFault, StoredMessage, Wanted, read_from_leader},
    letters::Listed,
    provision::ensure_store,
    settings::store_stream,
};

/// Attempts to claim a partition that others claim at the same time.
const CLAIM_ATTEMPTS: u32 = 8;
/// Times a batch is sent, each time with a new id and after a look at the head, before the caller is told.
const COMMIT_ATTEMPTS: u32 = 4;
/// First and longest pause between two attempts, of writes and of looks at what became of them. Looks have no last
/// attempt: a commit does not answer before it knows.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Batches of this process under way at once. The server takes 50 per stream, of all engines together.
const BATCHES_IN_FLIGHT: usize = 12;
/// Removals of this process under way at once, per call.
const REMOVALS_IN_FLIGHT: usize = 32;
/// Reads of this process under way at once, per call.
pub(super) const GETS_IN_FLIGHT: usize = 128;
/// More keys than this are read directly where the only replica is the leader: faster, and not through the queue of
/// administrative requests.
const LEADER_GETS_MAX: usize = 64;

/// The store in JetStream. Cheap to clone.
#[derive(Clone)]
pub struct NatsStore {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    connection: Connection,
    pub(super) link: Link,
    pub(super) bucket: String,
    pub(super) stream: String,
    pub(super) handle: Stream<()>,
    /// What a listing of dead letters goes on from.
    pub(super) listed: Mutex<Option<Listed>>,
    /// Whether a direct read is a read from the leader.
    direct: bool,
    /// Whether there are direct reads at all.
    pub(super) has_direct: bool,
    batches: Semaphore,
    message_bytes_max: usize,
}

/// The value of the epoch record.
#[derive(Serialize, Deserialize)]
struct Epoch {
    epoch: u64,
    owner: String,
    /// Tells one claim from any other, when its answer was lost.
    #[serde(default)]
    claim: String,
}

/// Opens the store: makes the bucket, or adopts one and updates its stream where that is all it needs.
pub async fn open_store(connection: &Connection, options: StoreOptions) -> Result<NatsStore, NatsError> {
    let StoreOptions { bucket, .. } = &options;
    let wanted = store_stream(&options);
    if bucket.is_empty() || !bucket.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
        return Err(NatsError::Refused {
            url: connection.url().to_owned(),
            what: format!("bucket `{bucket}`"),
            reason: "not a valid name".to_owned(),
            advice: "bucket names are made of A-Z a-z 0-9 _ and -".to_owned(),
        });
    }
    let found = ensure_store(connection.control(), &wanted, bucket).await?;
    connection.note_replicas(found.num_replicas);
    let link = connection.link("store").await?;
    let handle = link.context.get_stream_no_info(&wanted.name).await.map_err(|error| NatsError::Refused {
        url: connection.url().to_owned(),
        what: format!("bucket `{bucket}`"),
        reason: chain(&error),
        advice: "choose another name".to_owned(),
    })?;
    let stream_limit = usize::try_from(found.max_message_size).ok().filter(|bytes| *bytes > 0);
    let message_bytes_max = link.client.max_payload().min(stream_limit.unwrap_or(usize::MAX));
    Ok(NatsStore {
        inner: Arc::new(Inner {
            connection: connection.clone(),
            link,
            bucket: options.bucket,
            stream: wanted.name,
            handle,
            listed: Mutex::default(),
            direct: found.num_replicas <= 1 && found.allow_direct,
            has_direct: found.allow_direct,
            batches: Semaphore::new(BATCHES_IN_FLIGHT),
            message_bytes_max,
        }),
    })
}

impl NatsStore {
    pub(super) fn subject(&self, key: &RecordKey) -> String {
        key.subject(&self.inner.bucket)
    }

    pub(super) fn unavailable(&self, reason: &str) -> StoreError {
        StoreError::Unavailable(format!("bucket {} at {}: {reason}", self.inner.bucket, self.inner.connection.url()))
    }

    /// The newest message of a record, deletes included, from the leader.
    async fn newest(&self, key: &RecordKey) -> Result<Option<StoredMessage>, StoreError> {
        let subject = self.subject(key);
        let wanted = Wanted::last_of(&subject);
        let found = read_from_leader(&self.inner.link.context, &self.inner.stream, &wanted);
        let found = self.inner.link.unless_lost(found).await;
        found.unwrap_or_else(|| Err(ReadFault::Unavailable(LOST.to_owned()))).map_err(|fault| match fault {
            ReadFault::Unavailable(reason) => self.unavailable(&reason),
            ReadFault::NoStream => self.unavailable("its stream does not exist any more"),
        })
    }

    /// Sequence and value of a record, 0 and `None` where there is none; asks until it is answered.
    async fn newest_for_sure(&self, key: &RecordKey) -> (u64, Option<Bytes>) {
        let mut attempt = 0;
        loop {
            match self.newest(key).await {
                Ok(None) => return (0, None),
                Ok(Some(message)) => return (message.seq, Some(message.payload)),
                Err(error) => warn!(%error, attempt, "cannot see yet what became of a write"),
            }
            sleep(pause(attempt)).await;
            attempt += 1;
        }
    }

    pub(super) async fn get_one(&self, key: RecordKey, direct: bool) -> Result<Option<Bytes>, StoreError> {
        if !direct {
            let deleted =
                |m: &StoredMessage| m.own_header(OPERATION_TEXT).is_some_and(|op| matches!(&*op, "DEL" | "PURGE"));
            return Ok(self.newest(&key).await?.filter(|message| !deleted(message)).map(|message| message.payload));
        }
        let found = self.inner.handle.direct_get_last_for_subject(self.subject(&key));
        let found = self.inner.link.unless_lost(found).await;
        match found.ok_or_else(|| self.unavailable(LOST))? {
            Ok(message) => {
                let operation = message.headers.get(OPERATION_TEXT).map(|operation| operation.as_str().to_owned());
                let deleted = matches!(operation.as_deref(), Some("DEL" | "PURGE"));
                Ok(Some(message.payload).filter(|_| !deleted))
            }
            Err(error) if matches!(error.kind(), DirectGetErrorKind::NotFound) => Ok(None),
            Err(error) => Err(self.unavailable(&chain(&error))),
        }
    }

    fn check_sizes(&self, messages: &[BatchMessage], kinds: &[&'static str]) -> Result<(), StoreError> {
        let limit = self.inner.message_bytes_max.saturating_sub(batch::HEADER_ROOM);
        for (message, kind) in messages.iter().zip(kinds) {
            let bytes = message.value.as_ref().map_or(0, Bytes::len);
            if bytes > limit {
                return Err(StoreError::Corrupt(format!(
                    "a {kind} record has {bytes} bytes, the NATS server at {} takes at most {limit}: raise `max_payload` \
                     in its configuration (and `max_msg_size` of stream {}), or make the record smaller",
                    self.inner.connection.url(),
                    self.inner.stream
                )));
            }
        }
        Ok(())
    }

    fn batch(&self, claim: &Claim, head: Bytes, entries: Vec<StoreEntry>) -> Result<Vec<BatchMessage>, StoreError> {
        if entries.len() > self.batch_max() {
            return Err(StoreError::Corrupt(format!(
                "a batch has {} entries, at most {} are possible",
                entries.len(),
                self.batch_max()
            )));
        }
        let mut kinds: Vec<&'static str> = entries.iter().map(|(key, _)| kind(key)).collect();
        let mut messages: Vec<BatchMessage> = entries
            .into_iter()
            .map(|(key, value)| BatchMessage { subject: self.subject(&key).into(), value, expected: None })
            .collect();
        if messages.is_empty() {
            // The head cannot carry the fence as well: one message has one expectation.
            let subject = format!("keyloom.{}.fence.{}", self.inner.bucket, claim.partition);
            messages.push(BatchMessage { subject: subject.into(), value: Some(Bytes::new()), expected: None });
            kinds.push("fence");
        }
        let fence = self.subject(&RecordKey::Epoch(claim.partition));
        messages[0].expected = Some(Expected { seq: claim.fence, subject: Some(fence) });
        let subject = self.subject(&RecordKey::Head(claim.partition));
        let chain = Expected { seq: claim.head, subject: None };
        messages.push(BatchMessage { subject: subject.into(), value: Some(head), expected: Some(chain) });
        kinds.push("head");
        self.check_sizes(&messages, &kinds)?;
        Ok(messages)
    }

    /// Removes a record: unlike a delete, a purge of its subject leaves no marker behind.
    async fn purge(self, subject: String, kind: &'static str) -> Result<(), StoreError> {
        let purged = self.inner.handle.purge().filter(subject).await;
        let advice = "the stream must allow purges, and our account must be allowed to make them";
        purged.map(drop).map_err(|error| self.unavailable(&format!("removing a {kind}: {}; {advice}", chain(&error))))
    }
}

#[async_trait]
impl Store for NatsStore {
    async fn claim(&self, partition: u32, owner: &str) -> Result<Claim, StoreError> {
        let key = RecordKey::Epoch(partition);
        let mut last = String::new();
        for attempt in 0..CLAIM_ATTEMPTS {
            let (seq, epoch) = match self.newest(&key).await? {
                None => (0, 0),
                Some(message) => match serde_json::from_slice::<Epoch>(&message.payload) {
                    Ok(found) => (message.seq, found.epoch),
                    Err(_) => {
                        return Err(StoreError::Corrupt(format!(
                            "record {} in bucket {} is not an epoch; somebody else writes there",
                            self.subject(&key),
                            self.inner.bucket
                        )));
                    }
                },
            };
            let ours = Epoch { epoch: epoch + 1, owner: owner.to_owned(), claim: self.inner.link.unique() };
            let value: Bytes = serde_json::to_vec(&ours).expect("a record of text and numbers is JSON").into();
            let put = BatchMessage {
                subject: self.subject(&key).into(),
                value: Some(value.clone()),
                expected: Some(Expected { seq, subject: None }),
            };
            let fence = match batch::put(&self.inner.link, put).await {
                Outcome::Landed(fence) => Some(fence),
                Outcome::Refused(reason) => return Err(self.unavailable(&reason)),
                Outcome::Conflict(reason) | Outcome::Unknown(reason) => {
                    last = reason;
                    let (seq, found) = self.newest_for_sure(&key).await;
                    (found == Some(value)).then_some(seq)
                }
            };
            if let Some(fence) = fence {
                // The claim comes first, the look after: whoever owned it before cannot add to the chain any more.
                let head = self.newest(&RecordKey::Head(partition)).await?.map_or(0, |message| message.seq);
                info!(partition, epoch = ours.epoch, "claimed a partition");
                return Ok(Claim { partition, epoch: ours.epoch, fence, head });
            }
            sleep(pause(attempt)).await;
        }
        Err(self.unavailable(&format!("partition {partition} could not be claimed {CLAIM_ATTEMPTS} times: {last}")))
    }

    async fn get(&self, keys: &[RecordKey]) -> Result<Vec<Option<Bytes>>, StoreError> {
        let direct = self.inner.direct && keys.len() > LEADER_GETS_MAX;
        let gets = keys.iter().cloned().map(|key| {
            let store = self.clone();
            async move { store.get_one(key, direct).await }
        });
        stream::iter(gets).buffered(GETS_IN_FLIGHT).try_collect().await
    }

    /// `head` must be different in every commit of a partition: it is what a batch without an answer is recognised by.
    /// `durable` makes no difference: a batch is as safe as the broker's fsync policy and replicas make it.
    async fn commit(
        &self,
        claim: &mut Claim,
        head: Bytes,
        entries: Vec<StoreEntry>,
        _durable: bool,
    ) -> Result<(), StoreError> {
        let partition = claim.partition;
        let messages = self.batch(claim, head.clone(), entries)?;
        let _permit = self.inner.batches.acquire().await.expect("the semaphore is never closed");
        let mut last = String::new();
        for attempt in 0..COMMIT_ATTEMPTS {
            let id = self.inner.link.unique();
            let reason = match batch::send(&self.inner.link, &id, &messages).await {
                Outcome::Landed(seq) => {
                    claim.head = seq;
                    return Ok(());
                }
                Outcome::Refused(reason) => return Err(self.unavailable(&reason)),
                Outcome::Conflict(reason) | Outcome::Unknown(reason) => reason,
            };
            let (seq, found) = self.newest_for_sure(&RecordKey::Head(partition)).await;
            if seq != claim.head {
                if found.as_ref() != Some(&head) {
                    return Err(StoreError::Fenced(partition));
                }
                claim.head = seq;
                return Ok(());
            }
            // The head is as it was, so this batch has not landed (yet: if it is only late, the next one conflicts with
            // it, and the head says so). Is the partition still ours?
            let (fence, _) = self.newest_for_sure(&RecordKey::Epoch(partition)).await;
            if fence != claim.fence {
                return Err(StoreError::Fenced(partition));
            }
            warn!(partition, attempt, reason, "a batch did not land, sending it again");
            last = reason;
            sleep(pause(attempt)).await;
        }
        Err(self.unavailable(&format!("a batch was not stored {COMMIT_ATTEMPTS} times: {last}")))
    }

    fn batch_max(&self) -> usize {
        MESSAGES_MAX - 1
    }

    async fn dead_letters(&self, partition: u32, after: u64, limit: usize) -> Result<Vec<(u64, Bytes)>, StoreError> {
        self.list_letters(partition, after, limit).await
    }

    async fn first_timers(&self, partition: u32, max: usize) -> Result<Vec<(Timestamp, Key)>, StoreError> {
        self.list_first_timers(partition, max).await
    }

    async fn features(&self, after: Option<&Bytes>, limit: usize, bytes_max: usize) -> Result<FeaturePage, StoreError> {
        self.list_features(after, limit, bytes_max).await
    }

    async fn remove(&self, keys: &[RecordKey]) -> Result<(), StoreError> {
        let removals: Vec<_> = keys.iter().map(|key| self.clone().purge(self.subject(key), kind(key))).collect();
        stream::iter(removals).buffer_unordered(REMOVALS_IN_FLIGHT).try_for_each(|()| async { Ok(()) }).await
    }
}

fn pause(attempt: u32) -> Duration {
    PAUSE_MAX.min(PAUSE_FIRST * 2u32.saturating_pow(attempt.min(16)))
}

fn kind(key: &RecordKey) -> &'static str {
    match key {
        RecordKey::Feature(_) => "feature",
        RecordKey::Epoch(_) => "epoch",
        RecordKey::Head(_) => "head",
        RecordKey::Checkpoint(_) => "checkpoint",
        RecordKey::State(..) => "state",
        RecordKey::Outbox(..) => "block of an outbox",
        RecordKey::DeadLetter(..) => "dead letter",
        RecordKey::Intent(..) => "intent",
        RecordKey::Output(..) => "output",
        RecordKey::Care(_) => "care",
        RecordKey::Timer(..) => "first timer",
        RecordKey::Backend(_) => "feature backend",
    }
}
