//! Which sessions are resident, and which of them must go: least recently used first, or idle for long.
//!
//! Pure. One table per shard; time comes in as a count of ticks.

use lru::LruCache;

use crate::key::{Key, KeyHash};

/// Sessions looked at for one eviction. Those that are busy are passed over; more than this many busy ones at the cold
/// end means that the whole table is busy, and then it may exceed its limit for a moment (credit bounds by how much).
const CANDIDATES_MAX: usize = 16;

/// The resident sessions of a shard.
pub struct Slots<T> {
    entries: LruCache<Key, (u64, T), KeyHash>,
    resident_max: usize,
    tick: u64,
}

impl<T> Slots<T> {
    /// An empty table that should hold at most `resident_max` entries.
    pub fn new(resident_max: usize) -> Self {
        let entries = LruCache::unbounded_with_hasher(KeyHash);
        Self { entries, resident_max: resident_max.max(1), tick: 0 }
    }

    /// Finds an entry and makes it the most recently used.
    pub fn touch(&mut self, key: &str) -> Option<&mut T> {
        let tick = self.tick;
        self.entries.get_mut(key).map(|(used, value)| {
            *used = tick;
            value
        })
    }

    /// Finds an entry without using it.
    pub fn peek(&mut self, key: &str) -> Option<&mut T> {
        self.entries.peek_mut(key).map(|(_, value)| value)
    }

    /// Adds an entry as the most recently used.
    pub fn insert(&mut self, key: Key, value: T) {
        self.entries.put(key, (self.tick, value));
    }

    /// Removes an entry.
    pub fn remove(&mut self, key: &str) -> Option<T> {
        self.entries.pop(key).map(|(_, value)| value)
    }

    /// Entries in the table.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All entries, in no useful order.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &T)> {
        self.entries.iter().map(|(key, (_, value))| (key, value))
    }

    /// Time passes.
    pub fn set_tick(&mut self, tick: u64) {
        self.tick = tick;
    }

    /// The coldest entry that must go because the table is over its limit and that `may_go`. Busy ones that were passed
    /// over count as just used.
    pub fn over_limit(&mut self, mut may_go: impl FnMut(&T) -> bool) -> Option<Key> {
        if self.entries.len() <= self.resident_max {
            return None;
        }
        for _ in 0..CANDIDATES_MAX {
            let (key, (_, value)) = self.entries.peek_lru()?;
            let key = key.clone();
            if may_go(value) {
                return Some(key);
            }
            self.entries.promote(key.as_str());
        }
        None
    }

    /// The coldest entry, if it was last used at or before `tick` and `may_go`.
    pub fn idle_since(&mut self, tick: u64, may_go: impl FnOnce(&T) -> bool) -> Option<Key> {
        let (key, (used, value)) = self.entries.peek_lru()?;
        (*used <= tick && may_go(value)).then(|| key.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(names: &[&str], max: usize) -> Slots<bool> {
        let mut slots = Slots::new(max);
        for (i, name) in names.iter().enumerate() {
            slots.set_tick(i as u64);
            slots.insert(Key::new(name).expect("a key"), true);
        }
        slots
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut slots = table(&["a", "b", "c"], 2);
        slots.touch("a");
        assert_eq!(slots.over_limit(|_| true).map(|k| k.to_string()), Some("b".to_owned()));
        slots.remove("b");
        assert_eq!(slots.over_limit(|_| true), None, "within the limit nothing goes");
    }

    #[test]
    fn busy_ones_are_passed_over() {
        let mut slots = table(&["a", "b", "c"], 1);
        *slots.peek("a").expect("there") = false;
        assert_eq!(slots.over_limit(|idle| *idle).map(|k| k.to_string()), Some("b".to_owned()));
        let mut busy = table(&["a", "b", "c"], 1);
        assert_eq!(busy.over_limit(|_| false), None);
    }

    #[test]
    fn idle_is_counted_from_the_last_use() {
        let mut slots = table(&["a", "b"], 10);
        assert_eq!(slots.idle_since(0, |_| true).map(|k| k.to_string()), Some("a".to_owned()));
        slots.set_tick(5);
        slots.touch("a");
        assert_eq!(slots.idle_since(0, |_| true), None);
        assert_eq!(slots.idle_since(1, |_| true).map(|k| k.to_string()), Some("b".to_owned()));
    }
}
