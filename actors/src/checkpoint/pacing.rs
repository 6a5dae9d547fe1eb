//! How often features are published: at once while there is time, in a bounded share of it while there is not.
//!
//! Pure. A put costs far more than an event, so under load the useful thing is to publish each key less often: what
//! waits is conflated, the latest value wins.

use std::time::Duration;

/// Under load, publishing takes at most one part in this many (plus one) of the time.
const PAUSE_PER_WORK: u32 = 4;
/// And never makes a due answer wait longer than this for its turn.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// How long to wait after a round of publishing that took `spent`.
pub fn pause(busy: bool, spent: Duration) -> Duration {
    if busy { (spent * PAUSE_PER_WORK).min(PAUSE_MAX) } else { Duration::ZERO }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_publishes_at_once_and_load_bounds_the_share() {
        assert_eq!(pause(false, Duration::from_secs(1)), Duration::ZERO);
        assert_eq!(pause(true, Duration::from_millis(10)), Duration::from_millis(40));
        assert_eq!(pause(true, Duration::from_secs(10)), PAUSE_MAX);
    }
}
