//! Worker threads: one single-threaded runtime each, for shards and their sessions.
//!
//! Waking a session is then local to its thread, which costs half as much as on a shared runtime, and a handler that does
//! not come back blocks one worker only.
//!
//! Also what belongs to the process as a whole: the permits of careful mode, and what the watchdog looks at.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use tokio::{
    runtime::{self, RuntimeFlavor},
    sync::oneshot,
    task::JoinError,
};

use crate::{
    careful::{trials::Trials, watchdog::Slot, watchdog::Watched},
    handler::LogicFactory,
};

/// A running set of workers. They end when it is dropped.
pub struct Workers {
    workers: Vec<(Worker, Option<oneshot::Sender<()>>)>,
    next: AtomicUsize,
    /// Who may try events while some partition is careful.
    pub trials: Arc<Trials>,
}

/// One worker.
#[derive(Clone)]
pub struct Worker {
    /// What runs on it is spawned here.
    pub runtime: runtime::Handle,
    slot: Arc<Slot>,
}

impl Worker {
    fn on(runtime: runtime::Handle) -> Self {
        Self { runtime, slot: Arc::default() }
    }

    /// The same handler, whose calls on this worker the watchdog sees.
    pub fn watched(&self, factory: &Arc<dyn LogicFactory>, partition: u32) -> Arc<dyn LogicFactory> {
        Arc::new(Watched::new(Arc::clone(factory), Arc::clone(&self.slot), partition))
    }
}

impl Workers {
    /// Starts `count` workers, at least one.
    pub fn start(count: usize) -> std::io::Result<Self> {
        let workers = (0..count.max(1)).map(start_worker).collect::<std::io::Result<Vec<_>>>()?;
        Ok(Self { workers, next: AtomicUsize::new(0), trials: Arc::default() })
    }

    /// No threads of its own: everything runs on `runtime`. With a single-threaded runtime and paused time a whole engine
    /// is then one repeatable sequence of steps.
    pub fn on(runtime: runtime::Handle) -> Self {
        Self { workers: vec![(Worker::on(runtime), None)], next: AtomicUsize::new(0), trials: Arc::default() }
    }

    /// The workers in turn, so that the shards of all partitions spread over them.
    pub fn next(&self) -> Worker {
        let at = self.next.fetch_add(1, Ordering::Relaxed) % self.workers.len();
        self.workers[at].0.clone()
    }

    /// What the watchdog looks at.
    pub fn slots(&self) -> Vec<Arc<Slot>> {
        self.workers.iter().map(|(worker, _)| Arc::clone(&worker.slot)).collect()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.workers.len()
    }
}

/// Runs CPU-bound work where it holds up nobody: on a thread for such work, or right here where there is one thread only.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
    match runtime::Handle::current().runtime_flavor() {
        RuntimeFlavor::CurrentThread => Ok(work()),
        _ => tokio::task::spawn_blocking(work).await,
    }
}

fn start_worker(index: usize) -> std::io::Result<(Worker, Option<oneshot::Sender<()>>)> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let (stop, stopped) = oneshot::channel::<()>();
    thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
        // Ends when the sender is dropped; what it would have said does not matter.
        let _ended = runtime.block_on(stopped);
    })?;
    Ok((Worker::on(handle), Some(stop)))
}

impl Drop for Workers {
    fn drop(&mut self) {
        for (_, stop) in &mut self.workers {
            drop(stop.take());
        }
    }
}
