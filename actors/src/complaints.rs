//! How often the same complaint becomes a log line: at once, then at most once in a while, with the number of those left out.
//!
//! For what may go wrong with every event or request: the lines would fill a disk and hide each other. Metrics count them all.
//! The time is an argument; whoever logs says what is the same complaint.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Mutex,
    time::{Duration, Instant},
};

use crate::partition::status::lock;

/// How long a complaint is not repeated.
pub const COMPLAIN_EVERY: Duration = Duration::from_secs(10);
/// Different complaints that are told apart; beyond, a new one waits until one of them may be repeated.
const KINDS_MAX: usize = 16;

/// What was said lately at one place of the program.
#[derive(Debug)]
pub struct Complaints(Mutex<Said>);

#[derive(Debug)]
struct Said {
    /// Which, and when.
    kinds: Vec<(u64, Instant)>,
    /// Left out since the last one that was said.
    left_out: u64,
}

impl Complaints {
    /// Nothing was said yet.
    pub const fn new() -> Self {
        Self(Mutex::new(Said { kinds: Vec::new(), left_out: 0 }))
    }

    /// [`Self::due`] at this moment. Only log lines depend on it.
    pub fn due_now(&self, kind: impl Hash) -> Option<u64> {
        self.due(kind, Instant::now())
    }

    /// Whether to say a complaint of `kind` now: if so, how many of any kind were left out since the last that was said.
    pub fn due(&self, kind: impl Hash, now: Instant) -> Option<u64> {
        let mut hasher = DefaultHasher::new();
        kind.hash(&mut hasher);
        let kind = hasher.finish();
        let mut said = lock(&self.0);
        said.kinds.retain(|(_, at)| now.saturating_duration_since(*at) < COMPLAIN_EVERY);
        if said.kinds.len() >= KINDS_MAX || said.kinds.iter().any(|(known, _)| *known == kind) {
            said.left_out += 1;
            return None;
        }
        said.kinds.push((kind, now));
        Some(std::mem::take(&mut said.left_out))
    }
}

impl Default for Complaints {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_is_said_at_once_and_then_seldom_with_what_was_left_out() {
        let (complaints, begin) = (Complaints::new(), Instant::now());
        let at = |millis, kind| complaints.due(kind, begin + Duration::from_millis(millis));
        assert_eq!((at(0, "log"), at(0, "log"), at(9_999, "log")), (Some(0), None, None));
        assert_eq!(at(9_999, "panic"), Some(2), "another one is said at once");
        assert_eq!((at(10_000, "log"), at(10_001, "log")), (Some(0), None));
        assert_eq!(at(1_000_000, "log"), Some(1));
    }

    #[test]
    fn any_number_of_kinds_makes_few_lines() {
        let (complaints, begin) = (Complaints::new(), Instant::now());
        let lines = |at: u64, kinds: std::ops::Range<u64>| {
            kinds.filter_map(|kind| complaints.due(kind, begin + COMPLAIN_EVERY * at as u32)).collect::<Vec<_>>()
        };
        assert_eq!(lines(0, 0..10_000), [0; KINDS_MAX]);
        let mut expected = [0; KINDS_MAX];
        expected[0] = 10_000 - KINDS_MAX as u64;
        assert_eq!(lines(1, 10_000..20_000), expected);
    }
}
