//! In-memory homes, a counting handler, and an engine around them, for the scenarios. Not a model of NATS or S3: what
//! their adapters promise is tested with them.

pub mod backend;
pub mod engine;
pub mod events;
pub mod expect;
pub mod gate;
pub mod handler;
pub mod meter;
pub mod random;
pub mod table;
pub mod weather;
pub mod world;

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// How long anything may take before a scenario fails: far more than it needs, because machines may be busy.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Polls until `reached`; panics with `what` and what `describe` says after [`LIMIT`].
pub fn wait(what: &str, mut reached: impl FnMut() -> bool, describe: impl FnOnce() -> String) {
    let began = Instant::now();
    while !reached() {
        assert!(began.elapsed() < LIMIT, "not within {LIMIT:?}: {what}; {}", describe());
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Locks, also after a panic of another holder.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
