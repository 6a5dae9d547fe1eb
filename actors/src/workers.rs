//! Worker threads: one single-threaded runtime each, for shards and their sessions.
//!
//! Waking a session is then local to its thread, which costs half as much as on a shared runtime, and a handler that does
//! not come back blocks one worker only.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use tokio::{
    runtime::{self, RuntimeFlavor},
    sync::oneshot,
    task::JoinError,
};

/// A running set of workers. They end when it is dropped.
pub struct Workers {
    workers: Vec<(runtime::Handle, Option<oneshot::Sender<()>>)>,
    next: AtomicUsize,
}

impl Workers {
    /// Starts `count` workers, at least one.
    pub fn start(count: usize) -> std::io::Result<Self> {
        let workers = (0..count.max(1)).map(start_worker).collect::<std::io::Result<Vec<_>>>()?;
        Ok(Self { workers, next: AtomicUsize::new(0) })
    }

    /// No threads of its own: everything runs on `runtime`. With a single-threaded runtime and paused time a whole engine
    /// is then one repeatable sequence of steps.
    pub fn on(runtime: runtime::Handle) -> Self {
        Self { workers: vec![(runtime, None)], next: AtomicUsize::new(0) }
    }

    /// The workers in turn, so that the shards of all partitions spread over them.
    pub fn next(&self) -> runtime::Handle {
        let at = self.next.fetch_add(1, Ordering::Relaxed) % self.workers.len();
        self.workers[at].0.clone()
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

fn start_worker(index: usize) -> std::io::Result<(runtime::Handle, Option<oneshot::Sender<()>>)> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let (stop, stopped) = oneshot::channel::<()>();
    thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
        // Ends when the sender is dropped; what it would have said does not matter.
        let _ended = runtime.block_on(stopped);
    })?;
    Ok((handle, Some(stop)))
}

impl Drop for Workers {
    fn drop(&mut self) {
        for (_, stop) in &mut self.workers {
            drop(stop.take());
        }
    }
}
