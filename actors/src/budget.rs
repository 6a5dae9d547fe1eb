//! How soon something that failed may start again: exponential backoff that forgets after success.
//!
//! Pure. Attempts per event are counted in `cell`; this is only about time.

use std::time::Duration;

/// Backoff of one thing that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    /// Starts at `first`, doubles per failure, never exceeds `max`.
    pub const fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, failures: 0 }
    }

    /// Another failure: how long to wait now.
    pub fn wait(&mut self) -> Duration {
        let wait = self.first.saturating_mul(1 << self.failures.min(16)).min(self.max);
        self.failures = self.failures.saturating_add(1);
        wait
    }

    /// It worked.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Failures since it last worked.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

/// A limit on restarts within a sliding window of seconds: when it is spent, failure goes one level up.
#[derive(Clone, Debug)]
pub struct RestartBudget {
    restarts_max: usize,
    window_seconds: u64,
    recent: std::collections::VecDeque<u64>,
}

impl RestartBudget {
    /// At most `restarts_max` within `window_seconds`.
    pub fn new(restarts_max: usize, window_seconds: u64) -> Self {
        Self { restarts_max, window_seconds, recent: Default::default() }
    }

    /// Spends one restart at `now_seconds` (any monotonic count); false when there is none left.
    pub fn spend(&mut self, now_seconds: u64) -> bool {
        while self.recent.front().is_some_and(|at| at + self.window_seconds <= now_seconds) {
            self.recent.pop_front();
        }
        let left = self.recent.len() < self.restarts_max;
        if left {
            self.recent.push_back(now_seconds);
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_to_its_limit_and_forgets() {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(50));
        let waits: Vec<u128> = (0..5).map(|_| backoff.wait().as_millis()).collect();
        assert_eq!(waits, [10, 20, 40, 50, 50]);
        backoff.reset();
        assert_eq!(backoff.wait().as_millis(), 10);
        let mut long = Backoff::new(Duration::from_millis(10), Duration::MAX);
        (0..100).for_each(|_| assert!(long.wait() <= Duration::from_secs(656)));
    }

    #[test]
    fn a_spent_budget_refills_as_time_passes() {
        let mut budget = RestartBudget::new(2, 60);
        assert!(budget.spend(0) && budget.spend(30));
        assert!(!budget.spend(59));
        assert!(budget.spend(60));
        assert!(!budget.spend(61));
    }
}
