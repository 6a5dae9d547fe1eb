//! `top_k`: the most frequent values.
//!
//! Pure. Exact as long as there are no more values than the capacity; then Space-Saving (Metwally, Agrawal, El Abbadi
//! 2005): the rarest value gives its place and its count to the new one. A true count is at most `count` and at least
//! `count - error`, and no value that occurred more often than the least count is missing. Tiles are put together as
//! "Mergeable Summaries" (Agarwal et al. 2012) has it: what a full part does not know may have occurred as often there as
//! its least count.

use hashbrown::HashMap;
use serde::{Deserialize, Serialize};

use super::{scalar::Scalar, slot::Plan, value::Value, window::Aggregate};

/// Values that are answered unless a definition says otherwise.
pub const TOP_K_DEFAULT: u32 = 5;
/// Most values that can be answered.
pub const TOP_K_MAX: u32 = 100;
/// Most values that can be counted.
pub const TOP_CAPACITY_MAX: u32 = 1_000;
/// Values counted unless a definition says otherwise: this many for each one that is answered, but at least 100.
pub(super) const TOP_CAPACITY_PER_K: u32 = 10;

/// Counts by value.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Top {
    /// What a value that is not here may have occurred at most.
    missed: u64,
    /// By value, ascending.
    values: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Entry {
    value: Scalar,
    count: u64,
    error: u64,
}

impl Top {
    pub(super) fn add(&mut self, plan: &Plan, value: &str) {
        let at = match self.find(value) {
            Ok(at) => {
                self.values[at].count = self.values[at].count.saturating_add(1);
                return;
            }
            Err(at) => at,
        };
        if self.values.len() < plan.max as usize {
            let error = self.missed; // not 0 only in parts that were put together
            self.values.insert(at, Entry { value: value.into(), count: error.saturating_add(1), error });
            return;
        }
        // Of equally rare ones the first in order: any rule would do, but it has to be one.
        let least = self.values.iter().enumerate().min_by_key(|(_, entry)| entry.count);
        let Some((rarest, error)) = least.map(|(rarest, entry)| (rarest, entry.count)) else { return };
        self.missed = self.missed.max(error);
        self.values.remove(rarest);
        let at = if rarest < at { at - 1 } else { at };
        self.values.insert(at, Entry { value: value.into(), count: error.saturating_add(1), error });
    }

    fn find(&self, value: &str) -> Result<usize, usize> {
        self.values.binary_search_by(|entry| entry.value.as_str().cmp(value))
    }

    /// The most frequent ones, most frequent first; of equally frequent ones the smallest first.
    pub(super) fn value(&self, plan: &Plan) -> Value {
        let mut order: Vec<&Entry> = self.values.iter().collect();
        order.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.value.cmp(&b.value)));
        let entry = |entry: &Entry| {
            let value = Value::Scalar(entry.value.clone());
            Value::Object(vec![
                ("value", value),
                ("count", Value::Count(entry.count)),
                ("error", Value::Count(entry.error)),
            ])
        };
        Value::List(order.into_iter().take(plan.k as usize).map(entry).collect())
    }
}

impl Aggregate for Top {
    fn merged(tiles: &[(i64, Self)], plan: &Plan) -> Self {
        let mut all = Self::default();
        if tiles.iter().any(|(_, tile)| tile.missed > 0) {
            tiles.iter().for_each(|(_, tile)| all.merge(tile, plan));
            return all;
        }
        // Nothing was missed, so counts just add up; looking up each value once is faster than keeping them in order.
        let mut counts: HashMap<&Scalar, u64> = HashMap::new();
        for entry in tiles.iter().flat_map(|(_, tile)| &tile.values) {
            let count = counts.entry(&entry.value).or_default();
            *count = count.saturating_add(entry.count);
        }
        if counts.len() > plan.max as usize {
            tiles.iter().for_each(|(_, tile)| all.merge(tile, plan));
            return all;
        }
        all.values = counts.into_iter().map(|(value, count)| Entry { value: value.clone(), count, error: 0 }).collect();
        all.values.sort_unstable_by(|a, b| a.value.cmp(&b.value));
        all
    }

    fn merge(&mut self, later: &Self, plan: &Plan) {
        // Where they missed nothing, what they do not know did not occur.
        for entry in self.values.iter_mut().filter(|_| later.missed > 0) {
            let theirs = later.find(&entry.value).ok().map(|at| &later.values[at]);
            let (count, error) = theirs.map_or((later.missed, later.missed), |e| (e.count, e.error));
            entry.count = entry.count.saturating_add(count);
            entry.error = entry.error.saturating_add(error);
        }
        for entry in &later.values {
            match self.find(&entry.value) {
                Ok(at) if later.missed == 0 => {
                    self.values[at].count = self.values[at].count.saturating_add(entry.count);
                }
                Ok(_) => {} // added above
                Err(at) => {
                    let count = entry.count.saturating_add(self.missed);
                    let error = entry.error.saturating_add(self.missed);
                    self.values.insert(at, Entry { value: entry.value.clone(), count, error });
                }
            }
        }
        self.missed = self.missed.saturating_add(later.missed);
        let Some(excess) = self.values.len().checked_sub(plan.max as usize).filter(|n| *n > 0) else { return };
        let mut order: Vec<(u64, usize)> = self.values.iter().enumerate().map(|(i, entry)| (entry.count, i)).collect();
        order.sort_unstable();
        let mut gone = vec![false; self.values.len()];
        for (count, i) in order.into_iter().take(excess) {
            gone[i] = true;
            self.missed = self.missed.max(count);
        }
        let mut gone = gone.into_iter();
        self.values.retain(|_| !gone.next().unwrap_or(false));
    }

    fn is_sound(&self, plan: &Plan) -> bool {
        self.values.len() <= plan.max as usize
            && self.values.is_sorted_by(|a, b| a.value < b.value)
            && self.values.iter().all(|entry| entry.error <= entry.count)
    }
}
