//! The turns of requests that take long: each lets others run after a while, whatever its keys cost.
//!
//! Judged by the time that has passed, not by keys: one costs a microsecond, another half a millisecond.

use std::time::Instant;

use super::TURN_MAX;

/// Since when a request is at work without a pause.
#[derive(Debug)]
pub struct Turn {
    since: Instant,
}

impl Turn {
    /// Begins now.
    pub fn new() -> Self {
        Self { since: Instant::now() }
    }

    /// Lets others run if it is time to: to be called between two keys.
    pub async fn pause(&mut self) {
        if self.is_over(Instant::now()) {
            tokio::task::yield_now().await;
            self.since = Instant::now();
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= TURN_MAX
    }
}

impl Default for Turn {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_turn_is_over_after_its_time_and_then_others_run() {
        let mut turn = Turn::new();
        assert!(!turn.is_over(turn.since + TURN_MAX - Duration::from_micros(1)) && turn.is_over(turn.since + TURN_MAX));
        let ran = tokio::spawn(async {});
        turn.since = Instant::now().checked_sub(2 * TURN_MAX).expect("the machine runs for longer");
        turn.pause().await;
        assert!(ran.is_finished() && turn.since.elapsed() < Duration::from_secs(60));
    }
}
