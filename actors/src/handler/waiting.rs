//! What a key waits for: its timers and the answers to its questions, and what one event changes of that.
//!
//! Pure.

use super::{Fault, look_ups::LookUps, timers::Timers};

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// The timers.
    pub timers: Timers,
    /// The outstanding questions.
    pub look_ups: LookUps,
}

/// The same while one event works on it: what a rejected event did is undone.
#[derive(Debug, Default)]
pub struct Changing {
    now: Waiting,
    /// As it was, once anything has changed.
    before: Option<Waiting>,
}

impl Changing {
    /// Of `waiting`.
    pub fn new(waiting: Waiting) -> Self {
        Self { now: waiting, before: None }
    }

    /// Changes something.
    pub fn change<T>(&mut self, work: impl FnOnce(&mut Waiting) -> Result<T, Fault>) -> Result<T, Fault> {
        self.before.get_or_insert_with(|| self.now.clone());
        work(&mut self.now)
    }

    /// As it is.
    pub fn now(&self) -> &Waiting {
        &self.now
    }

    /// As it is in the end.
    pub fn done(self) -> Waiting {
        self.now
    }

    /// As it was.
    pub fn undone(self) -> Waiting {
        self.before.unwrap_or(self.now)
    }
}
