//! Ingested events straight to the log of this process: one lane per partition, so that waiting for the disk stops neither
//! the reader nor the other partitions.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use keyloom_actors::ports::{Log, LogError, NewRecord, Stored};
use tokio::{
    sync::mpsc::{Receiver, Sender, channel},
    task::JoinHandle,
};

use super::{
    backoff::Backoff,
    sink::{IngestSink, SendCount},
};
use crate::front_door::{Accepted, observe};

/// Batches that wait in one lane. With pieces of 2 MiB this bounds what a slow partition holds to about 10 MiB.
const LANE_BATCHES_MAX: usize = 4;
/// Payload bytes that one append takes along when several batches wait: one wait for the disk then serves them all.
const APPEND_BYTES_MAX: usize = 8 << 20;

/// How far an engine in the same process may be behind what is stored, in bytes of events: what it has to come back to
/// the disk for costs more than waiting for it. Below what the log keeps in memory for its readers.
const AHEAD_BYTES_MAX: usize = 24 << 20;
/// How often a lane looks whether the engine has come closer.
const AHEAD_LOOK_EVERY: Duration = Duration::from_millis(2);

/// Says the last sequence of a partition that the engine has taken in.
pub type Routed = Arc<dyn Fn(u32) -> u64 + Send + Sync>;

/// Writes to a [`Log`].
pub struct LogSink {
    log: Arc<dyn Log>,
    lanes: BTreeMap<u32, Lane>,
    counts: Arc<Counts>,
    routed: Option<Routed>,
}

struct Lane {
    queue: Sender<Vec<NewRecord>>,
    task: JoinHandle<Result<(), String>>,
}

#[derive(Default)]
struct Counts {
    stored: AtomicU64,
    duplicates: AtomicU64,
}

impl LogSink {
    /// The acceptor in front of it must not take larger events than the log does, see [`Log::event_bytes_max`]: one that is
    /// too large ends the run.
    pub fn new(log: Arc<dyn Log>) -> Self {
        Self { log, lanes: BTreeMap::new(), counts: Arc::default(), routed: None }
    }

    /// Stays close in front of an engine that reads the same log in this process.
    pub fn with_engine(self, routed: Routed) -> Self {
        Self { routed: Some(routed), ..self }
    }

    fn news(&self) -> SendCount {
        SendCount {
            stored: self.counts.stored.swap(0, Ordering::Relaxed),
            duplicates: self.counts.duplicates.swap(0, Ordering::Relaxed),
            refused: 0,
        }
    }
}

#[async_trait]
impl IngestSink for LogSink {
    async fn send(&mut self, batch: Vec<Accepted>) -> Result<SendCount, String> {
        let mut parts: BTreeMap<u32, Vec<NewRecord>> = BTreeMap::new();
        for accepted in batch {
            parts.entry(accepted.partition).or_default().push(accepted.record);
        }
        for (partition, records) in parts {
            let (log, counts, routed) = (&self.log, &self.counts, &self.routed);
            let lane = self.lanes.entry(partition).or_insert_with(|| {
                let (queue, waiting) = channel(LANE_BATCHES_MAX);
                let ahead = routed.clone().map(|routed| Ahead { routed, partition, appended: VecDeque::new() });
                let task = tokio::spawn(run_lane(partition, Arc::clone(log), waiting, Arc::clone(counts), ahead));
                Lane { queue, task }
            });
            if lane.queue.send(records).await.is_err() {
                let lane = self.lanes.remove(&partition).expect("it was used a line above");
                return Err(lane.end().await.err().unwrap_or_else(|| format!("partition {partition} stopped early")));
            }
        }
        Ok(self.news())
    }

    async fn finish(&mut self) -> Result<SendCount, String> {
        let mut problem = None;
        for lane in std::mem::take(&mut self.lanes).into_values() {
            problem = problem.or(lane.end().await.err());
        }
        problem.map_or_else(|| Ok(self.news()), Err)
    }
}

impl Lane {
    /// Lets the lane store what it holds and waits for it.
    async fn end(self) -> Result<(), String> {
        drop(self.queue);
        self.task.await.unwrap_or_else(|error| Err(format!("writing to the log failed: {error}")))
    }
}

async fn run_lane(
    partition: u32,
    log: Arc<dyn Log>,
    mut waiting: Receiver<Vec<NewRecord>>,
    counts: Arc<Counts>,
    mut ahead: Option<Ahead>,
) -> Result<(), String> {
    while let Some(mut records) = waiting.recv().await {
        let bytes = |records: &[NewRecord]| records.iter().map(|r| r.payload.len()).sum::<usize>();
        let mut size = bytes(&records);
        while size < APPEND_BYTES_MAX
            && let Ok(more) = waiting.try_recv()
        {
            size += bytes(&more);
            records.extend(more);
        }
        let stored = append(partition, log.as_ref(), records).await?;
        let new = stored.iter().filter(|s| matches!(s, Stored::New(_))).count();
        if let Some(ahead) = &mut ahead {
            ahead.stay_close(&stored, size).await;
        }
        let (new, duplicates) = (new as u64, (stored.len() - new) as u64);
        counts.stored.fetch_add(new, Ordering::Relaxed);
        counts.duplicates.fetch_add(duplicates, Ordering::Relaxed);
        observe::stored(partition, new, duplicates);
    }
    Ok(())
}

/// What a lane has stored in front of the engine.
struct Ahead {
    routed: Routed,
    partition: u32,
    /// Last sequence and bytes of each append that the engine has not taken in.
    appended: VecDeque<(u64, usize)>,
}

impl Ahead {
    /// Waits until the engine is close enough.
    async fn stay_close(&mut self, stored: &[Stored], bytes: usize) {
        let last = stored.iter().rev().find_map(|s| if let Stored::New(seq) = s { Some(*seq) } else { None });
        self.appended.extend(last.map(|seq| (seq, bytes)));
        loop {
            let routed = (self.routed)(self.partition);
            while self.appended.pop_front_if(|(seq, _)| *seq <= routed).is_some() {}
            if self.appended.iter().map(|(_, bytes)| bytes).sum::<usize>() <= AHEAD_BYTES_MAX {
                return;
            }
            tokio::time::sleep(AHEAD_LOOK_EVERY).await;
        }
    }
}

/// Appends; tries again with the same ids while the log does not answer. Order holds: what an attempt stored is a prefix,
/// which the next one finds as repeats.
async fn append(partition: u32, log: &dyn Log, records: Vec<NewRecord>) -> Result<Vec<Stored>, String> {
    let mut backoff = Backoff::new();
    loop {
        let started = Instant::now();
        let error = match log.append(partition, records.clone()).await {
            Ok(stored) if stored.len() == records.len() => return Ok(stored),
            Ok(stored) => {
                return Err(format!("the log confirmed {} of {} events of one append", stored.len(), records.len()));
            }
            Err(error) => error,
        };
        let wait = match error {
            LogError::Unavailable(_) => backoff.next(started.elapsed(), None),
            _ => None,
        };
        let Some(wait) = wait else { return Err(format!("partition {partition}: {error}")) };
        tracing::warn!(partition, %error, wait_ms = wait.as_millis(), "trying the append again");
        tokio::time::sleep(wait).await;
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::front_door::test_log::MemoryLog;

    fn batch(from: u64, to: u64) -> Vec<Accepted> {
        let event = |n: u64| Accepted {
            partition: (n % 3) as u32,
            record: NewRecord {
                key: Bytes::from_static(b"k"),
                dedupe_id: Some(n.into()),
                payload: n.to_string().into(),
                scanned: None,
            },
        };
        (from..to).map(event).collect()
    }

    #[tokio::test]
    async fn order_holds_in_each_partition_also_across_failures() {
        let log = Arc::new(MemoryLog::default());
        let mut sink = LogSink::new(Arc::<MemoryLog>::clone(&log));
        let mut count = SendCount::default();
        log.fail_next(LogError::Unavailable("a hiccup".into()));
        for n in 0..50 {
            count += sink.send(batch(n * 20, n * 20 + 20)).await.expect("queued");
        }
        count += sink.finish().await.expect("stored");
        assert_eq!((count.stored + count.duplicates, count.refused), (1_000, 0));
        assert!((1..1_000).contains(&count.duplicates), "what the failed append stored was absorbed");
        for (partition, records) in log.records() {
            let expected = (0..1_000u64).filter(|n| n % 3 == u64::from(partition)).map(|n| n.to_string());
            assert!(expected.eq(records.iter().map(|r| String::from_utf8_lossy(&r.payload).into_owned())));
        }
    }

    #[tokio::test]
    async fn what_cannot_be_stored_ends_the_run_with_its_reason() {
        let log = Arc::new(MemoryLog::default());
        let mut sink = LogSink::new(Arc::<MemoryLog>::clone(&log));
        log.fail_next(LogError::Corrupt("a bad block".into()));
        sink.send(batch(0, 1)).await.expect("queued");
        let error = sink.finish().await.expect_err("it never got there");
        assert_eq!(error, "partition 0: the log is damaged: a bad block");
    }

    #[tokio::test]
    async fn a_slow_log_holds_the_sender_within_the_lanes_bound() {
        let log = Arc::new(MemoryLog::default());
        let mut sink = LogSink::new(Arc::<MemoryLog>::clone(&log));
        let closed = log.close();
        let mut sent = 0;
        let many = async {
            loop {
                sink.send(batch(sent * 3, sent * 3 + 3)).await.expect("queued");
                sent += 1;
            }
        };
        assert!(tokio::time::timeout(std::time::Duration::from_millis(50), many).await.is_err());
        assert!(sent as usize <= LANE_BATCHES_MAX * 2 + 1, "{sent}");
        drop(closed);
        assert_eq!(sink.finish().await.map(|c| c.stored > sent), Ok(true));
    }
}
