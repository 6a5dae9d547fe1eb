//! Forwards a partition's feature answers to the feature backend, beside the actors: nothing that the backend does, or
//! does not do, is ever waited for by them.
//!
//! A task around the pure `forward`. The committer tells it what the store has taken, and writes its small record.

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::{sync::Notify, task::JoinHandle, time::Instant};

use super::{
    BackendError, FeatureBackend, Mark, Outcome, Progress, Put,
    forward::{Forward, Start, Work},
};
use crate::{
    budget::Backoff,
    key::{Key, hash_of},
    observe,
    ports::Store,
    timestamp::Clock,
};

/// Answers per read of a resync, and their bytes.
const READ_ANSWERS_MAX: usize = 1_024;
const READ_BYTES_MAX: usize = 4 << 20;
/// A call that takes longer is given up; it may still arrive, and does no harm then.
const CALL_LIMIT: Duration = Duration::from_secs(30);
/// Without anything to put for this long, the backend is asked whether it still has what it had.
const BEAT_EVERY: Duration = Duration::from_secs(10);
/// How often the numbers are brought up to date, whatever is under way, and how long a rest lasts at most.
const SHOW_EVERY: Duration = Duration::from_secs(1);
/// How often it is said that an answer cannot be put.
const COMPLAIN_EVERY: Duration = Duration::from_secs(30);
/// Wait before a call is tried again; a random part of it, so that engines do not come back all at once.
const CALL_BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(10));

/// The backend, and what may wait for it.
#[derive(Clone)]
pub struct BackendPlan {
    /// The backend.
    pub backend: Arc<dyn FeatureBackend>,
    /// Bytes of answers that may wait in this partition.
    pub waiting_max: u64,
}

/// See the module. Ends with its last holder.
pub struct Forwarder {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    partition: u32,
    backend: Arc<dyn FeatureBackend>,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    forward: Mutex<Forward>,
    /// There may be something to do.
    wake: Notify,
    /// Something was done.
    done: Notify,
    /// Calls fail.
    fails: AtomicBool,
    /// When it was last said that an answer cannot be put.
    complained: Mutex<Option<Instant>>,
    /// Resyncs that are counted already.
    resyncs_shown: AtomicU64,
}

impl Forwarder {
    /// Starts it.
    pub fn start(start: Start, plan: &BackendPlan, store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Self {
        observe::backend_begins();
        let partition = start.partition;
        let shared = Arc::new(Shared {
            partition,
            backend: Arc::clone(&plan.backend),
            store,
            clock,
            forward: Mutex::new(Forward::new(start)),
            wake: Notify::new(),
            done: Notify::new(),
            fails: AtomicBool::new(false),
            complained: Mutex::new(None),
            resyncs_shown: AtomicU64::new(0),
        });
        let task = tokio::spawn(Arc::clone(&shared).run());
        Self { shared, task }
    }

    /// The store has taken these answers.
    pub fn published<'a>(&self, answers: impl Iterator<Item = (&'a Key, u64, &'a Bytes)>) {
        let now = self.shared.clock.now();
        let mut forward = self.shared.lock();
        answers.for_each(|(key, seq, answer)| forward.published(key, seq, answer, now));
        drop(forward);
        self.shared.wake.notify_one();
    }

    /// Checkpoint `n` has committed, with this cut.
    pub fn checkpointed(&self, n: u64, cut: u64) {
        self.shared.lock().checkpointed(n, cut);
    }

    /// What the store is to know, if it does not yet.
    pub fn due(&self) -> Option<Progress> {
        self.shared.lock().due().cloned()
    }

    /// The store knows this now.
    pub fn noted(&self, progress: Progress) {
        self.shared.lock().noted(progress);
        self.shared.wake.notify_one();
        self.shared.done.notify_waiters();
    }

    /// Waits until the store knows that the backend has everything, for at most `limit`, and not at all when it does not
    /// answer anyway: what is missing is put after the next start.
    pub async fn flushed(&self, limit: Duration) {
        let flushed = async {
            loop {
                let done = self.shared.done.notified();
                let fails = self.shared.fails.load(Ordering::Relaxed);
                if fails || self.shared.lock().is_complete() {
                    return;
                }
                done.await;
            }
        };
        drop(tokio::time::timeout(limit, flushed).await); // either is fine
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Forward> {
        self.forward.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(self: Arc<Self>) {
        let mut backoff = CALL_BACKOFF;
        let both = || async { tokio::join!(self.work(), self.show_on()) };
        while AssertUnwindSafe(both()).catch_unwind().await.is_err() {
            tracing::error!(partition = self.partition, "forwarding features failed; all of them are put again");
            self.lock().moved(self.clock.now());
            tokio::time::sleep(backoff.wait()).await;
        }
    }

    async fn work(&self) {
        let (mut backoff, mut worked) = (CALL_BACKOFF, Instant::now());
        let mut has_moved = false;
        loop {
            let work = self.lock().work();
            let done = match work {
                Work::Rest => {
                    self.show();
                    let timed = tokio::time::timeout(SHOW_EVERY, self.wake.notified()).await;
                    if timed.is_err() && worked.elapsed() >= BEAT_EVERY {
                        self.lock().beat(self.clock.now());
                    }
                    continue;
                }
                Work::Ask => self.ask().await,
                Work::Put(call) => self.put(&call.puts, call.from, call.to, &mut has_moved).await,
                Work::Read(after) => self.read(after).await,
            };
            worked = Instant::now();
            self.fails.store(done.is_err(), Ordering::Relaxed);
            self.done.notify_waiters();
            match done {
                Ok(()) if has_moved => {} // no progress yet
                Ok(()) => {
                    if backoff.failures() > 0 {
                        tracing::info!(partition = self.partition, "the feature backend takes answers again");
                    }
                    backoff.reset();
                }
                Err(error) => {
                    let wait = self.jittered(backoff.wait(), backoff.failures());
                    tracing::warn!(partition = self.partition, error, ?wait, "features wait for their backend");
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    async fn ask(&self) -> Result<(), String> {
        let mark = limited(self.backend.mark(self.partition)).await.map_err(|error| error.to_string())?;
        self.lock().begin(mark, self.clock.now())
    }

    /// `has_moved`: the mark was another one than was left there when this was last called.
    async fn put(&self, puts: &[Put], from: Option<Mark>, to: Mark, has_moved: &mut bool) -> Result<(), String> {
        let began = Instant::now();
        let outcomes = match limited(self.backend.put(self.partition, puts, from, to)).await {
            Ok(outcomes) => outcomes,
            Err(BackendError::Moved) => {
                let partition = self.partition;
                tracing::warn!(partition, "the feature backend is not as it was left: its answers are looked through");
                self.lock().moved(self.clock.now());
                let again = || Err("its mark is again another one than was left there".to_owned());
                return if std::mem::replace(has_moved, true) { again() } else { Ok(()) };
            }
            Err(error) => {
                observe::backend_puts("failed", puts.len() as u64);
                return Err(error.to_string());
            }
        };
        *has_moved = false;
        observe::backend_put(began.elapsed().as_secs_f64());
        let count = |of: fn(&Outcome) -> bool| outcomes.iter().filter(|outcome| of(outcome)).count() as u64;
        observe::backend_puts("written", count(|o| matches!(o, Outcome::Written)));
        observe::backend_puts("older", count(|o| matches!(o, Outcome::Older(_))));
        observe::backend_puts("failed", count(|o| matches!(o, Outcome::Failed(_) | Outcome::Unfit(_))));
        let unfit = puts.iter().zip(&outcomes).find_map(|(put, outcome)| match outcome {
            Outcome::Unfit(reason) => Some((put, reason)),
            _ => None,
        });
        let mut complained = self.complained.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((put, reason)) = unfit
            && complained.is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY)
        {
            *complained = Some(Instant::now());
            let key = put.key.as_str();
            tracing::error!(
                partition = self.partition,
                key,
                reason,
                "an answer cannot be put into the feature backend"
            );
        }
        drop(complained);
        self.lock().put(&outcomes, self.clock.now());
        let failed = outcomes.into_iter().find_map(|outcome| match outcome {
            Outcome::Failed(reason) => Some(reason),
            _ => None,
        });
        failed.map_or(Ok(()), Err)
    }

    async fn read(&self, after: Option<Bytes>) -> Result<(), String> {
        let page = self.store.features(after.as_ref(), READ_ANSWERS_MAX, READ_BYTES_MAX);
        let page = tokio::time::timeout(CALL_LIMIT, page).await.map_err(|_| "the store does not answer".to_owned())?;
        let page = page.map_err(|error| error.to_string())?;
        self.lock().read(page);
        Ok(())
    }

    fn jittered(&self, wait: Duration, failures: u32) -> Duration {
        let now = self.clock.now().0 as u64;
        let hash = hash_of(&[u64::from(self.partition), now, u64::from(failures)].map(u64::to_be_bytes).concat());
        wait.mul_f64(0.5 + (hash % 1_000) as f64 / 2_000.0)
    }

    /// Not between pieces of work: one call may take half a minute, and a busy forwarder never rests.
    async fn show_on(&self) {
        loop {
            self.show();
            tokio::time::sleep(SHOW_EVERY).await;
        }
    }

    fn show(&self) {
        let now = self.clock.now();
        let (waiting, since, began) = {
            let forward = self.lock();
            (forward.waiting(), forward.behind_since(), forward.resyncs())
        };
        observe::backend_waiting(self.partition, waiting, since.map_or(0.0, |since| now.seconds_since(since)));
        observe::backend_resyncs(began - self.resyncs_shown.swap(began, Ordering::Relaxed));
    }
}

async fn limited<T>(call: impl Future<Output = Result<T, BackendError>>) -> Result<T, BackendError> {
    let timed = tokio::time::timeout(CALL_LIMIT, call).await;
    timed.unwrap_or_else(|_| Err(BackendError::Unavailable(format!("no answer in {} s", CALL_LIMIT.as_secs()))))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use async_trait::async_trait;

    use super::*;
    use crate::{
        answer,
        ports::{Claim, FeaturePage, RecordKey, StoreEntry, StoreError},
        timestamp::{SystemClock, Timestamp},
    };

    /// A store without answers.
    struct Empty;

    #[async_trait]
    impl Store for Empty {
        async fn claim(&self, partition: u32, _: &str) -> Result<Claim, StoreError> {
            Err(StoreError::Fenced(partition))
        }

        async fn get(&self, keys: &[RecordKey]) -> Result<Vec<Option<Bytes>>, StoreError> {
            Ok(vec![None; keys.len()])
        }

        async fn commit(&self, claim: &mut Claim, _: Bytes, _: Vec<StoreEntry>, _: bool) -> Result<(), StoreError> {
            Err(StoreError::Fenced(claim.partition))
        }

        fn batch_max(&self) -> usize {
            1
        }

        async fn features(&self, _: Option<&Bytes>, _: usize, _: usize) -> Result<FeaturePage, StoreError> {
            Ok(FeaturePage::default())
        }

        async fn dead_letters(&self, _: u32, _: u64, _: usize) -> Result<Vec<(u64, Bytes)>, StoreError> {
            Ok(Vec::new())
        }

        async fn first_timers(&self, _: u32, _: usize) -> Result<Vec<(Timestamp, Key)>, StoreError> {
            Ok(Vec::new())
        }

        async fn remove(&self, _: &[RecordKey]) -> Result<(), StoreError> {
            Ok(())
        }
    }

    /// A backend whose mark is never the one to follow.
    #[derive(Default)]
    struct Odd {
        puts: AtomicUsize,
    }

    #[async_trait]
    impl FeatureBackend for Odd {
        fn place(&self) -> String {
            "an odd place".to_owned()
        }

        async fn mark(&self, _: u32) -> Result<Option<Mark>, BackendError> {
            Ok(None)
        }

        async fn put(&self, _: u32, _: &[Put], _: Option<Mark>, _: Mark) -> Result<Vec<Outcome>, BackendError> {
            self.puts.fetch_add(1, Ordering::Relaxed);
            Err(BackendError::Moved)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_backend_that_is_never_as_it_was_left_is_tried_with_pauses() {
        let odd = Arc::new(Odd::default());
        let backend: Arc<dyn FeatureBackend> = Arc::<Odd>::clone(&odd);
        let (place, plan) = (odd.place(), BackendPlan { backend, waiting_max: 1 << 20 });
        let start = Start {
            partition: 0,
            epoch: 1,
            place,
            stored: None,
            checkpoint: 0,
            cut: 0,
            log_last: 0,
            bytes_max: 1 << 20,
        };
        let forwarder = Forwarder::start(start, &plan, Arc::new(Empty), Arc::new(SystemClock));
        let key = Key::new("u").expect("a key");
        let began = Instant::now();
        for seq in 1.. {
            let head = answer::Head { key: &key, partition: 0, event_time: Timestamp(1), seq };
            let answer = answer::write(head, |_| {}, None);
            forwarder.published(std::iter::once((&key, seq, &answer)));
            if let Some(progress) = forwarder.due() {
                forwarder.noted(progress);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
            if began.elapsed() >= Duration::from_secs(60) {
                break;
            }
        }
        let puts = odd.puts.load(Ordering::Relaxed);
        assert!((5..40).contains(&puts), "{puts} calls in a minute");
    }
}
