//! When a table's rows become files.
//!
//! Pure.

use std::time::Duration;

/// Hive partitions open in one cut; an hour each. Every open file holds encoder buffers of a few MB, so history that
/// spans weeks is cut into ranges instead of opening thousands of files.
pub const OPEN_FILES_MAX: usize = 64;

/// The limits of one cut: whichever is reached first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CutPolicy {
    /// Rows.
    pub rows: u64,
    /// Bytes of the files.
    pub bytes: u64,
    /// Time since the first row came.
    pub age: Duration,
}

impl CutPolicy {
    /// Whether a buffer like this is full.
    pub fn is_full(&self, rows: u64, bytes: u64, files: usize) -> bool {
        rows >= self.rows || bytes >= self.bytes || files > OPEN_FILES_MAX
    }

    /// Whether it is due although it is not full.
    pub fn is_due(&self, age: Duration) -> bool {
        age >= self.age
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_limit_reached_cuts() {
        let policy = CutPolicy { rows: 10, bytes: 1000, age: Duration::from_secs(5) };
        assert!(!policy.is_full(9, 999, OPEN_FILES_MAX) && !policy.is_due(Duration::from_millis(4_999)));
        assert!(policy.is_full(10, 0, 0) && policy.is_full(0, 1000, 0) && policy.is_full(0, 0, OPEN_FILES_MAX + 1));
        assert!(policy.is_due(Duration::from_secs(5)));
    }
}
