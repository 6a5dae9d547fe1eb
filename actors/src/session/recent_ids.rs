//! The memory of recent event ids per key: absorbs repeats that come after the log's own window.
//!
//! Pure. A bounded set in order of arrival; hashes instead of ids, 8 bytes each.

use std::collections::VecDeque;

/// Ids remembered per key. 64 × 8 bytes, searched linearly in about 20 ns.
pub const RECENT_IDS_MAX: usize = 64;

/// The last ids of one key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecentIds(VecDeque<u64>);

impl RecentIds {
    /// From a record, oldest first.
    pub fn from_stored(ids: &[u64]) -> Self {
        Self(ids.iter().copied().skip(ids.len().saturating_sub(RECENT_IDS_MAX)).collect())
    }

    /// Whether `id` is one of the last.
    pub fn contains(&self, id: u64) -> bool {
        let (front, back) = self.0.as_slices();
        back.contains(&id) || front.contains(&id)
    }

    /// Remembers `id`, forgetting the oldest when full.
    pub fn push(&mut self, id: u64) {
        if self.0.len() == RECENT_IDS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(id);
    }

    /// Oldest first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = u64> + '_ {
        self.0.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn remembers_exactly_the_last_ones(ids in proptest::collection::vec(0u64..500, 0..300)) {
            let mut recent = RecentIds::default();
            for (i, id) in ids.iter().enumerate() {
                let last = &ids[i.saturating_sub(RECENT_IDS_MAX)..i];
                prop_assert_eq!(recent.contains(*id), last.contains(id));
                recent.push(*id);
            }
            let stored: Vec<u64> = recent.iter().collect();
            prop_assert_eq!(RecentIds::from_stored(&stored), recent);
        }
    }
}
