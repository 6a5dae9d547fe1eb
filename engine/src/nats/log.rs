//! The port `Log` on JetStream: one stream per partition, events as messages, keys and ids in headers.
//!
//! Not for reading in order: see `reader`. Retention is the broker's; nothing here removes events.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use async_nats::{
    HeaderMap,
    header::NATS_MESSAGE_ID,
    jetstream::{
        self,
        context::{ContextBuilder, PublishAckFuture, PublishErrorKind},
        message::PublishMessage,
    },
};
use async_trait::async_trait;
use futures_util::{StreamExt, TryStreamExt, stream};
use keyloom_actors::{
    event::key_paths::KeyPaths,
    fault_point,
    ports::{Log, LogError, LogInfo, LogReader, LogRecord, NewRecord, Stored},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    Connection, LogOptions, NatsError,
    connect::{Link, chain},
    headers::key_to_header,
    leader::{KEY_HEADER, ReadFault, Wanted, read_from_leader, stream_state},
    provision::ensure_log,
    reader::{NatsReader, record},
    settings::log_streams,
};

/// Longest wait for the server to say that an event is stored. A full disk gives no answer at all.
const APPEND_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of events on their way to the broker, of all appends together: it drops what it cannot buffer (128 MB per
/// stream), so this stays well below.
const APPEND_BYTES_MAX: usize = 64 << 20;
/// What an event counts for at least: so at most 4,096 are on their way, and it drops at 100,000.
const APPEND_BYTES_MIN: usize = 16 << 10;
/// The unit in which those bytes are counted.
const APPEND_UNIT: usize = 1 << 10;
/// What the headers of an event may take: the id, and a key of 512 bytes that are all escaped.
const HEADER_ROOM: usize = 2 << 10;
/// Single events read at the same time.
const READS_IN_FLIGHT: usize = 64;

/// The log of events in JetStream. Cheap to clone.
#[derive(Clone)]
pub struct NatsLog {
    inner: Arc<Inner>,
}

struct Inner {
    connection: Connection,
    /// Appends and rare reads.
    link: Link,
    append: jetstream::Context,
    /// Room for what is on its way, in units.
    room: Arc<Semaphore>,
    partitions: Vec<Partition>,
    keys: KeyPaths,
    event_bytes_max: usize,
}

struct Partition {
    stream: Arc<str>,
    subject: async_nats::Subject,
}

/// Opens the log: makes the streams that are missing, verifies those that exist.
pub async fn open_log(connection: &Connection, options: LogOptions) -> Result<NatsLog, NatsError> {
    let streams = log_streams(&options);
    let found = ensure_log(connection.control(), &streams).await?;
    connection.note_replicas(found.iter().map(|config| config.num_replicas).min().unwrap_or(1));
    let link = connection.link("log").await?;
    let stream_limit = found.iter().filter_map(|config| usize::try_from(config.max_message_size).ok());
    let limit = stream_limit.filter(|bytes| *bytes > 0).fold(link.client.max_payload(), usize::min);
    let units = APPEND_BYTES_MAX / APPEND_UNIT;
    let append = ContextBuilder::new()
        .timeout(APPEND_TIMEOUT)
        .ack_timeout(APPEND_TIMEOUT)
        // Ours is the bound; this one only has to leave room for acknowledgements that nobody waits for any more.
        .max_ack_inflight(2 * APPEND_BYTES_MAX / APPEND_BYTES_MIN)
        .build(link.client.clone());
    let partitions =
        streams.into_iter().map(|s| Partition { stream: s.config.name.into(), subject: s.subject.into() }).collect();
    Ok(NatsLog {
        inner: Arc::new(Inner {
            connection: connection.clone(),
            link,
            append,
            room: Arc::new(Semaphore::new(units)),
            partitions,
            keys: options.keys,
            event_bytes_max: limit.saturating_sub(HEADER_ROOM),
        }),
    })
}

/// An event on its way: what will say that it is stored, and the room it takes until then.
struct OnItsWay {
    ack: PublishAckFuture,
    _room: OwnedSemaphorePermit,
    bytes: usize,
}

impl NatsLog {
    fn partition(&self, partition: u32) -> Result<&Partition, LogError> {
        let partitions = &self.inner.partitions;
        usize::try_from(partition).ok().and_then(|at| partitions.get(at)).ok_or_else(|| {
            LogError::Corrupt(format!("there is no partition {partition}, the log has {}", partitions.len()))
        })
    }

    async fn confirm(&self, partition: &Partition, event: OnItsWay) -> Result<Stored, LogError> {
        let ack = event.ack.await.map_err(|error| self.explain(partition, error, event.bytes))?;
        if *ack.stream != *partition.stream {
            return Err(LogError::Corrupt(format!(
                "subject {} leads to stream {}, not to {}: give it back to the log's stream",
                partition.subject, ack.stream, partition.stream
            )));
        }
        Ok(if ack.duplicate { Stored::Duplicate(Some(ack.sequence)) } else { Stored::New(ack.sequence) })
    }

    fn explain(&self, partition: &Partition, error: jetstream::context::PublishError, bytes: usize) -> LogError {
        let (stream, url) = (&partition.stream, self.inner.connection.url());
        match error.kind() {
            PublishErrorKind::MaxPayloadExceeded => LogError::TooLarge { bytes, limit: self.inner.event_bytes_max },
            PublishErrorKind::TimedOut => LogError::Unavailable(format!(
                "stream {stream} at {url} has not confirmed an event within {} s; a full disk looks like this: the \
                 server's /healthz says more",
                APPEND_TIMEOUT.as_secs()
            )),
            PublishErrorKind::StreamNotFound => LogError::Unavailable(format!(
                "nobody stores what is published to {} at {url}: stream {stream} has no leader, or does not exist",
                partition.subject
            )),
            _ => LogError::Unavailable(format!("stream {stream} at {url}: {}", chain(&error))),
        }
    }
}

#[async_trait]
impl Log for NatsLog {
    /// Publishes ahead of the acknowledgements, but awaits every one. On an error any part of `records` may be stored.
    async fn append(&self, partition: u32, records: Vec<NewRecord>) -> Result<Vec<Stored>, LogError> {
        let inner = &*self.inner;
        let partition = self.partition(partition)?;
        let limit = inner.event_bytes_max;
        if let Some(bytes) = records.iter().map(|record| record.payload.len()).find(|bytes| *bytes > limit) {
            return Err(LogError::TooLarge { bytes, limit });
        }
        let mut stored = Vec::with_capacity(records.len());
        let mut on_their_way: VecDeque<OnItsWay> = VecDeque::new();
        for record in records {
            let bytes = record.payload.len();
            let units = bytes.clamp(APPEND_BYTES_MIN, APPEND_BYTES_MAX) / APPEND_UNIT;
            let units = u32::try_from(units).expect("the bound of bytes in flight in units is a small number");
            // Never waits for room while holding some: two appends could wait for each other.
            let room = loop {
                if let Ok(room) = Arc::clone(&inner.room).try_acquire_many_owned(units) {
                    break room;
                }
                match on_their_way.pop_front() {
                    Some(event) => stored.push(self.confirm(partition, event).await?),
                    None => {
                        let room = Arc::clone(&inner.room).acquire_many_owned(units).await;
                        break room.expect("the semaphore is never closed");
                    }
                }
            };
            let publish = PublishMessage::build().headers(headers(&record)).payload(record.payload);
            let ack = inner.append.send_publish(partition.subject.clone(), publish).await;
            let ack = ack.map_err(|error| self.explain(partition, error, bytes))?;
            on_their_way.push_back(OnItsWay { ack, _room: room, bytes });
        }
        for event in on_their_way {
            stored.push(self.confirm(partition, event).await?);
        }
        fault_point::reached(fault_point::APPENDED);
        Ok(stored)
    }

    /// Each reader has a connection of its own. Payloads share the buffers they arrived in: who keeps a few bytes of one
    /// for long should copy them.
    async fn reader(&self, partition: u32, from: u64) -> Result<Box<dyn LogReader>, LogError> {
        let stream = Arc::clone(&self.partition(partition)?.stream);
        let link = self.inner.connection.link(&format!("reader {partition}")).await;
        let link = link.map_err(|error| LogError::Unavailable(error.to_string()))?;
        Ok(Box::new(NatsReader::new(link, stream, partition, from, self.inner.keys.clone())))
    }

    async fn read(&self, partition: u32, seqs: &[u64]) -> Result<Vec<LogRecord>, LogError> {
        let partition = self.partition(partition)?;
        // From the leader: a replica may not have an event yet that a reader has seen already.
        // It takes 0 for no sequence at all, and refuses the request.
        let reads = seqs.iter().copied().filter(|seq| *seq > 0).map(|seq| {
            let (context, stream) = (self.inner.link.context.clone(), Arc::clone(&partition.stream));
            async move { read_from_leader(&context, &stream, &Wanted::at(seq)).await }
        });
        let found = stream::iter(reads).buffered(READS_IN_FLIGHT);
        let keys = &self.inner.keys;
        let records = found.try_filter_map(|message| async move { Ok(message.map(|message| record(message, keys))) });
        records.try_collect().await.map_err(|fault| self.read_fault(partition, fault))
    }

    async fn info(&self, partition: u32) -> Result<LogInfo, LogError> {
        let partition = self.partition(partition)?;
        let state = stream_state(&self.inner.link.context, &partition.stream).await;
        let state = state.map_err(|fault| self.read_fault(partition, fault))?;
        Ok(LogInfo { first_seq: state.first_seq, last_seq: state.last_seq })
    }

    /// Nothing to do: the stream's own limits of age and size decide what goes.
    async fn release(&self, _partition: u32, _seq: u64) -> Result<(), LogError> {
        Ok(())
    }

    fn event_bytes_max(&self) -> usize {
        self.inner.event_bytes_max
    }
}

impl NatsLog {
    fn read_fault(&self, partition: &Partition, fault: ReadFault) -> LogError {
        let (stream, url) = (&partition.stream, self.inner.connection.url());
        match fault {
            ReadFault::Unavailable(reason) => LogError::Unavailable(format!("stream {stream} at {url}: {reason}")),
            ReadFault::NoStream => LogError::Unavailable(format!("stream {stream} at {url} does not exist")),
        }
    }
}

fn headers(record: &NewRecord) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if !record.key.is_empty() {
        headers.insert(KEY_HEADER, key_to_header(&record.key));
    }
    if let Some(id) = record.dedupe_id {
        headers.insert(NATS_MESSAGE_ID, format!("{id:032x}"));
    }
    headers
}
