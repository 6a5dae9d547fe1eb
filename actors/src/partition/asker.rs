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
use tokio::{runtime::Handle, sync::Semaphore};

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
        self.runtime.spawn(async move {
            let permit = asker.permits.acquire().await;
            let result = asker.look_up(&key, &look_up).await;
            drop(permit);
            observe::looked_up(if result.is_ok() { "answered" } else { "failed" });
            asker.append(&key, look_ups::answer(&look_up, result)).await;
            lock(&asker.under_way).remove(&question);
            asker.status.look_ups.fetch_sub(1, Ordering::Relaxed);
        });
    }

    async fn look_up(&self, key: &Key, look_up: &LookUp) -> Result<serde_json::Value, String> {
        let work = self.factory.look_up(key.as_str(), &look_up.name, &look_up.question);
        match tokio::time::timeout(look_up.timeout, AssertUnwindSafe(work).catch_unwind()).await {
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
