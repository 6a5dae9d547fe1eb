//! How many events or requests somebody may send in a second.

use std::num::NonZeroU32;

use governor::{
    DefaultDirectRateLimiter, Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
};

use super::Denied;

/// Seconds' worth of the rate that may come at once, after a pause.
pub const BURST_SECONDS: u32 = 10;
/// Largest rate, per second.
pub const RATE_MAX: u64 = 10_000_000;

/// A limit of so many per second, shared by all connections of whom it limits.
#[derive(Debug)]
pub struct Rate {
    limiter: DefaultDirectRateLimiter,
    burst: u32,
}

impl Rate {
    /// `per_second`, at least 1 and at most [`RATE_MAX`].
    pub fn new(per_second: u32) -> Self {
        let rate = NonZeroU32::new(per_second).unwrap_or(NonZeroU32::MIN);
        let burst = rate.saturating_mul(NonZeroU32::MIN.saturating_add(BURST_SECONDS - 1));
        let limiter = RateLimiter::direct(Quota::per_second(rate).allow_burst(burst));
        Self { limiter, burst: burst.get() }
    }

    /// Takes `count`, or says when to try again; nothing is taken then.
    pub fn take(&self, count: usize) -> Result<(), Denied> {
        let Ok(count) = u32::try_from(count) else { return Err(Denied::TooMany(self.burst)) };
        let Some(count) = NonZeroU32::new(count) else { return Ok(()) };
        match self.limiter.check_n(count) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(not_yet)) => {
                let wait = not_yet.wait_time_from(DefaultClock::default().now());
                Err(Denied::Rate(wait.as_secs() + 1))
            }
            Err(_) => Err(Denied::TooMany(self.burst)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_then_it_says_when_to_come_back() {
        let rate = Rate::new(5);
        assert_eq!(rate.take(51), Err(Denied::TooMany(50)), "more than fits at once would never pass");
        assert_eq!(rate.take(usize::MAX), Err(Denied::TooMany(50)));
        assert_eq!(rate.take(0), Ok(()));
        assert_eq!(rate.take(50), Ok(()));
        let Err(Denied::Rate(seconds)) = rate.take(20) else { panic!("the burst is spent") };
        assert!((4..=5).contains(&seconds), "20 at 5 per second: {seconds}");
        let largest = Rate::new(u32::MAX);
        assert_eq!(largest.take(10_000), Ok(()));
    }
}
