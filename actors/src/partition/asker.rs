//! Asks the world outside what sessions want to know, and appends the answers to the log.
//!
//! Runs beside the actors, on the engine's runtime: a slow answer holds up nobody. However an answer comes, or does not
//! (an error, a panic, no answer in time), the log gets one; what is not answered when the process ends is asked again by the
//! next one. Not here: what is outstanding (`look_ups`, a part of each key's state).

use std::{
    collections::HashSet,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::{runtime::Handle, sync::Semaphore, time::Instant};

use super::status::{Status, lock};
use crate::{
    budget::Backoff,
    complaints::Complaints,
    handler::{
        LogicFactory,
        look_ups::{self, LookUp},
    },
    key::Key,
    observe,
    ports::{Log, NewRecord},
};

/// Look-ups of one partition under way at once; the others wait for their turn.
pub const LOOK_UPS_AT_ONCE: usize = 256;
/// Look-ups under way and waiting, at most; beyond, the partition pulls no more until some are answered.
pub const LOOK_UPS_WAITING_MAX: i64 = 100_000;
/// What is logged of answers that the log does not take: all that wait try again.
static COMPLAINTS: Complaints = Complaints::new();
/// Wait before an answer is appended again.
const APPEND_BACKOFF: Backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(5));

/// What identifies a question: of which key, asked by which event, under which name.
type Question = (Key, u64, String);

/// See the module.
pub struct Asker {
    /// The partition.
    pub partition: u32,
    /// Where answers go.
    pub log: Arc<dyn Log>,
    /// Whose handler knows whom to ask.
    pub factory: Arc<dyn LogicFactory>,
    /// The partition's numbers.
    pub status: Arc<Status>,
    /// Where look-ups run.
    pub runtime: Handle,
    /// Limits how many run.
    pub permits: Arc<Semaphore>,
    /// Those of this process: a session that left memory and came back must not ask again.
    pub under_way: Mutex<HashSet<Question>>,
}

impl Asker {
    /// Asks, unless it is being asked already.
    pub fn ask(self: &Arc<Self>, key: Key, look_up: LookUp) {
        let question = (key.clone(), look_up.asked, look_up.name.to_string());
        if !lock(&self.under_way).insert(question.clone()) {
            return;
        }
        self.status.look_ups.fetch_add(1, Ordering::Relaxed);
        let asker = Arc::clone(self);
        let deadline = Instant::now() + look_up.timeout;
        self.runtime.spawn(async move {
            let result = asker.look_up(&key, &look_up, deadline).await;
            observe::looked_up(if result.is_ok() { "answered" } else { "failed" });
            asker.append(&key, look_ups::answer(&look_up, result)).await;
            lock(&asker.under_way).remove(&question);
            asker.status.look_ups.fetch_sub(1, Ordering::Relaxed);
        });
    }

    /// The wait for a turn counts: who set a timeout wants to hear of it then, however many others ask.
    async fn look_up(&self, key: &Key, look_up: &LookUp, deadline: Instant) -> Result<serde_json::Value, String> {
        let work = async {
            let _permit = self.permits.acquire().await;
            self.factory.look_up(key.as_str(), &look_up.name, &look_up.question).await
        };
        match tokio::time::timeout_at(deadline, AssertUnwindSafe(work).catch_unwind()).await {
            Ok(Ok(result)) => result,
            Ok(Err(_panic)) => Err("the look-up panicked".to_owned()),
            Err(_elapsed) => Err(format!("no answer within {:?}", look_up.timeout)),
        }
    }

    async fn append(&self, key: &Key, payload: Bytes) {
        let record =
            NewRecord { key: Bytes::copy_from_slice(key.as_str().as_bytes()), dedupe_id: None, payload, scanned: None };
        let mut backoff = APPEND_BACKOFF;
        while let Err(error) = self.log.append(self.partition, vec![record.clone()]).await {
            if let Some(left_out) = COMPLAINTS.due_now(self.partition) {
                tracing::warn!(partition = self.partition, %error, left_out, "appending an answer failed, trying again");
            }
            tokio::time::sleep(backoff.wait()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::{
        event::EventRef,
        handler::{ConfigError, Context, Fault, Features, Handler, Registry, State},
        ports::{LogError, LogInfo, LogReader, LogRecord, Stored},
        timestamp::Timestamp,
    };

    /// A handler that knows no answer.
    struct Silent;

    #[derive(Default, Serialize, Deserialize)]
    struct Nothing;

    impl State for Nothing {}

    impl Handler for Silent {
        type Config = serde_json::Value;
        type Event<'e> = EventRef<'e>;
        type State = Nothing;

        fn new(_: serde_json::Value) -> Result<Self, ConfigError> {
            Ok(Self)
        }

        fn on_event(&self, _: &mut Nothing, _: EventRef<'_>, _: &mut Context<'_>) -> Result<(), Fault> {
            Ok(())
        }

        async fn answer(&self, _: &str, _: &str, _: &str) -> Result<serde_json::Value, String> {
            std::future::pending().await
        }

        fn features(&self, _: &Nothing, _: &mut Features<'_>) {}
    }

    /// A log that notes when it is appended to.
    #[derive(Default)]
    struct Times(Mutex<Vec<Instant>>);

    #[async_trait]
    impl Log for Times {
        async fn append(&self, _: u32, records: Vec<NewRecord>) -> Result<Vec<Stored>, LogError> {
            assert!(records[0].payload.windows(16).any(|part| part == b"no answer within"), "{records:?}");
            lock(&self.0).push(Instant::now());
            Ok(vec![Stored::New(1)])
        }

        async fn reader(&self, _: u32, _: u64) -> Result<Box<dyn LogReader>, LogError> {
            Err(LogError::Corrupt(String::new()))
        }

        async fn read(&self, _: u32, _: &[u64]) -> Result<Vec<LogRecord>, LogError> {
            Ok(Vec::new())
        }

        async fn info(&self, _: u32) -> Result<LogInfo, LogError> {
            Ok(LogInfo::default())
        }

        async fn release(&self, _: u32, _: u64) -> Result<(), LogError> {
            Ok(())
        }

        fn event_bytes_max(&self) -> usize {
            1 << 20
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_turn_is_told_in_time() {
        let mut registry = Registry::default();
        registry.add::<Silent>("silent");
        let (log, status, began) = (Arc::new(Times::default()), Arc::new(Status::default()), Instant::now());
        let asker = Arc::new(Asker {
            partition: 0,
            log: Arc::clone(&log) as _,
            factory: registry.build("silent", serde_json::json!({}), Arc::default()).expect("a handler"),
            status: Arc::clone(&status),
            runtime: Handle::current(),
            permits: Arc::new(Semaphore::new(1)),
            under_way: Mutex::default(),
        });
        for asked in 1..=3 {
            let timeout = Duration::from_secs(2);
            let (name, question) = ("price".into(), Bytes::from_static(b"1"));
            let look_up = LookUp { name, asked, time: Timestamp(1_795_176_000_000_000), timeout, question };
            asker.ask(Key::new("ada").expect("a key"), look_up);
        }
        while status.look_ups.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let waited: Vec<_> = lock(&log.0).iter().map(|at| at.duration_since(began).as_secs()).collect();
        assert_eq!(waited, [2, 2, 2]);
    }
}
