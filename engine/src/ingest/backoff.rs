//! How long to wait before trying again, and when to give up.
//!
//! Pure but for the seed.

use std::time::Duration;

use crate::front_door::ids::random;

/// First wait, before jitter.
pub const WAIT_MIN: Duration = Duration::from_millis(100);
/// Longest wait, before jitter.
pub const WAIT_MAX: Duration = Duration::from_secs(5);
/// Time after the first failure when no further attempt is begun.
pub const GIVE_UP_AFTER: Duration = Duration::from_secs(60);

/// The waits of one operation.
#[derive(Debug)]
pub struct Backoff {
    failures: u32,
    waited: Duration,
    seed: u64,
}

impl Backoff {
    /// A fresh one, with jitter of its own.
    pub fn new() -> Self {
        Self { failures: 0, waited: Duration::ZERO, seed: random() }
    }

    /// The next wait, at least `asked` (capped): doubling, with up to half of it taken off at random, so that clients that
    /// failed together do not come back together. `None`: give up. `tried` is how long the failed attempt took.
    pub fn next(&mut self, tried: Duration, asked: Option<Duration>) -> Option<Duration> {
        self.waited += tried;
        let doubled = WAIT_MIN.saturating_mul(1 << self.failures.min(16)).min(WAIT_MAX);
        self.failures += 1;
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let fraction = (self.seed >> 33) as f64 / f64::from(1u32 << 31);
        let wait = doubled.mul_f64(1.0 - fraction / 2.0).max(asked.unwrap_or_default().min(WAIT_MAX));
        if self.waited + wait > GIVE_UP_AFTER {
            return None;
        }
        self.waited += wait;
        Some(wait)
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit_and_end() {
        let mut backoff = Backoff::new();
        let waits: Vec<Duration> = std::iter::from_fn(|| backoff.next(Duration::from_millis(10), None)).collect();
        assert!(waits[0] >= WAIT_MIN / 2 && waits[0] <= WAIT_MIN);
        assert!(waits.iter().all(|w| *w <= WAIT_MAX));
        assert!(waits.iter().sum::<Duration>() <= GIVE_UP_AFTER);
        assert!((10..60).contains(&waits.len()), "{}", waits.len());
        let mut asked = Backoff::new();
        assert_eq!(asked.next(Duration::ZERO, Some(Duration::from_secs(1))), Some(Duration::from_secs(1)));
        assert!(asked.next(Duration::ZERO, Some(Duration::from_secs(999))).is_some_and(|w| w == WAIT_MAX));
        assert_eq!(asked.next(GIVE_UP_AFTER, None), None);
    }
}
