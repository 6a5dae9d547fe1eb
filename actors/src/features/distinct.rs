//! `distinct`: which values occurred, exactly, up to a limit.
//!
//! Pure. Of more values than the limit the smallest ones are kept (by their JSON text, byte by byte): unlike "the first
//! ones" that does not depend on the order of events, and sets can be put together.

use hashbrown::HashSet;
use serde::{Deserialize, Serialize};

use super::{scalar::Scalar, slot::Plan, value::Value, window::Aggregate};

/// Values that are kept unless a definition says otherwise.
pub const DISTINCT_DEFAULT: u32 = 100;
/// Most values that can be kept.
pub const DISTINCT_MAX: u32 = 10_000;
/// The same for sliding windows, which may hold as many in each of their tiles.
pub const DISTINCT_SLIDING_MAX: u32 = 1_000;

/// A bounded set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Distinct {
    /// There were more.
    more: bool,
    /// Ascending.
    values: Vec<Scalar>,
}

impl Distinct {
    pub(super) fn add(&mut self, plan: &Plan, value: &str) {
        if let Err(at) = self.values.binary_search_by(|kept| kept.as_str().cmp(value)) {
            if self.values.len() >= plan.max as usize {
                self.more = true;
                if at == self.values.len() {
                    return;
                }
                self.values.pop();
            }
            self.values.insert(at, value.into());
        }
    }

    pub(super) fn value(&self) -> Value {
        let values = self.values.iter().map(|value| Value::Scalar(value.clone())).collect();
        Value::Object(vec![("values", Value::List(values)), ("more", Value::Bool(self.more))])
    }
}

impl Aggregate for Distinct {
    fn merged(tiles: &[(i64, Self)], plan: &Plan) -> Self {
        let all: HashSet<&Scalar> = tiles.iter().flat_map(|(_, tile)| &tile.values).collect();
        let mut values: Vec<&Scalar> = all.into_iter().collect();
        values.sort_unstable();
        let more = values.len() > plan.max as usize || tiles.iter().any(|(_, tile)| tile.more);
        values.truncate(plan.max as usize);
        Self { more, values: values.into_iter().cloned().collect() }
    }

    fn merge(&mut self, later: &Self, plan: &Plan) {
        later.values.iter().for_each(|value| self.add(plan, value));
        self.more |= later.more;
    }

    fn is_sound(&self, plan: &Plan) -> bool {
        self.values.len() <= plan.max as usize && self.values.is_sorted_by(|a, b| a < b)
    }
}
