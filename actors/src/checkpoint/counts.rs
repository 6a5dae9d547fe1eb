//! Ends of events, counted without allocation.
//!
//! Pure.

use super::record::Counters;
use crate::{
    dead_letter::Reason,
    session::{cell::End, step::Outcome},
};

/// How many events ended in which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Applied.
    pub applied: u64,
    /// Repeats.
    pub duplicate: u64,
    /// Dead letters by [`Reason::ALL`].
    pub dead: [u64; Reason::ALL.len()],
    /// Gone from the log before they could be read again.
    pub dropped: u64,
}

impl Counts {
    /// Counts `n` events that ended as `end`.
    pub fn add(&mut self, end: End, n: u64) {
        match end {
            End::Done(Outcome::Applied) => self.applied += n,
            End::Done(Outcome::Duplicate) => self.duplicate += n,
            End::Dead(reason) => self.add_dead(reason, n),
            End::Dropped => self.dropped += n,
        }
    }

    /// Counts `n` dead letters.
    pub fn add_dead(&mut self, reason: Reason, n: u64) {
        let slot = self.dead.iter_mut().zip(Reason::ALL).find(|(_, r)| *r == reason);
        if let Some((count, _)) = slot {
            *count += n;
        }
    }

    /// Adds `other`.
    pub fn merge(&mut self, other: &Self) {
        self.applied += other.applied;
        self.duplicate += other.duplicate;
        self.dead.iter_mut().zip(other.dead).for_each(|(a, b)| *a += b);
        self.dropped += other.dropped;
    }

    /// Takes `other` back.
    pub fn take_back(&mut self, other: &Self) {
        self.applied = self.applied.saturating_sub(other.applied);
        self.duplicate = self.duplicate.saturating_sub(other.duplicate);
        self.dead.iter_mut().zip(other.dead).for_each(|(a, b)| *a = a.saturating_sub(b));
        self.dropped = self.dropped.saturating_sub(other.dropped);
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.applied + self.duplicate + self.dead.iter().sum::<u64>() + self.dropped
    }

    /// As the checkpoint record has them.
    pub fn to_counters(self) -> Counters {
        let dead = self.dead.iter().zip(Reason::ALL).filter(|(n, _)| **n > 0);
        Counters {
            applied: self.applied,
            duplicate: self.duplicate,
            dead_lettered: dead.map(|(n, reason)| (reason.label().to_owned(), *n)).collect(),
            dropped: (self.dropped > 0).then(|| ("retention".to_owned(), self.dropped)).into_iter().collect(),
        }
    }
}
