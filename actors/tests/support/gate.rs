//! Gates: what stops, slows or fails a port; and a life: what ends all effects of one incarnation at a chosen step.

use std::{
    future::pending,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use keyloom_actors::ports::{RecordKey, StoreEntry};
use tokio::sync::watch;

use super::lock;

/// What a gate does with a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    Open,
    Slow(Duration),
    Fail,
    Hang,
}

/// One gate; every call of a port passes its gate before it has an effect.
pub struct Gate {
    mode: watch::Sender<Mode>,
    calls: AtomicU64,
}

impl Default for Gate {
    fn default() -> Self {
        Self { mode: watch::Sender::new(Mode::Open), calls: AtomicU64::new(0) }
    }
}

impl Gate {
    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Calls that came to the gate so far.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Waits as long as the gate says.
    pub async fn pass(&self) -> Result<(), String> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let mut modes = self.mode.subscribe();
        loop {
            let mode = *modes.borrow_and_update();
            match mode {
                Mode::Open => return Ok(()),
                Mode::Slow(time) => {
                    tokio::time::sleep(time).await;
                    return Ok(());
                }
                Mode::Fail => return Err("a closed gate".to_owned()),
                Mode::Hang => modes.changed().await.map_err(|e| e.to_string())?,
            }
        }
    }
}

/// A moment at which a process can die.
#[derive(Debug)]
pub enum Step<'a> {
    Claim,
    Get(&'a [RecordKey]),
    Next,
    ReadAgain,
    Remove,
    Commit(&'a [StoreEntry]),
    Committed(&'a [StoreEntry]),
    Put(#[expect(dead_code, reason = "shown when a scenario fails")] &'a str),
    /// Answers leave for the feature backend, and are there.
    Forward,
    Forwarded,
    PutDone(#[expect(dead_code, reason = "shown when a scenario fails")] &'a str),
}

type DiesAt = dyn FnMut(&Step<'_>) -> bool + Send;

/// One incarnation of an engine as the world sees it: after its death no call of it has an effect or an answer.
pub struct Life {
    dead: AtomicBool,
    dies_at: Mutex<Box<DiesAt>>,
}

impl Life {
    /// Lives until it is ended.
    pub fn long() -> Self {
        Self::until(|_| false)
    }

    /// Ends by itself at the first step for which `dies_at` says so.
    pub fn until(dies_at: impl FnMut(&Step<'_>) -> bool + Send + 'static) -> Self {
        Self { dead: AtomicBool::new(false), dies_at: Mutex::new(Box::new(dies_at)) }
    }

    pub fn end(&self) {
        self.dead.store(true, Ordering::SeqCst);
    }

    pub fn is_over(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    /// Passes while alive.
    pub async fn breathe(&self) {
        if self.is_over() {
            pending::<()>().await;
        }
    }

    /// Passes `step`, or dies of it.
    pub async fn step(&self, step: Step<'_>) {
        if !self.is_over() && lock(&self.dies_at)(&step) {
            self.end();
        }
        self.breathe().await;
    }
}
