//! Which keys of a partition have timers, and when the first of each is due: what wakes keys that are not in memory.
//!
//! Pure. One time per key; shards write it, the ticker reads it. It may say too much (a tick for a key without a due timer
//! does nothing) but never too little, except beyond its limit, and that is counted. Not here: the timers themselves, which
//! are a part of each key's state.

use std::collections::{BTreeSet, BinaryHeap, HashMap};

use crate::{
    key::{Key, KeyHash},
    timestamp::Timestamp,
};

/// Keys with timers that one partition remembers, at most; about 150 bytes each. A key beyond is found when there is room
/// again, or with its next event.
pub const TIMED_KEYS_MAX: usize = 2_000_000;

/// See the module.
#[derive(Debug, Default)]
pub struct TimerIndex {
    by_time: BTreeSet<(Timestamp, Key)>,
    by_key: HashMap<Key, Timestamp, KeyHash>,
    limit: usize,
    /// Some key found no room since the store was last read.
    overflowed: bool,
}

impl TimerIndex {
    /// For at most `limit` keys.
    pub fn new(limit: usize) -> Self {
        Self { limit, ..Self::default() }
    }

    /// The first timer of `key` is due then, or it has none. Of too many, the latest go.
    pub fn set(&mut self, key: &Key, due: Option<Timestamp>) {
        if let Some(before) = self.by_key.remove(key) {
            self.by_time.remove(&(before, key.clone()));
        }
        let Some(due) = due else { return };
        self.by_key.insert(key.clone(), due);
        self.by_time.insert((due, key.clone()));
        if self.by_key.len() > self.limit
            && let Some((_, key)) = self.by_time.pop_last()
        {
            self.by_key.remove(&key);
            self.overflowed = true;
        }
    }

    /// What the store says; a key that a session has spoken for since is left as it is. `is_cut`: it has more than it says.
    pub fn load(&mut self, stored: Vec<(Timestamp, Key)>, is_cut: bool) {
        self.overflowed |= is_cut;
        for (due, key) in stored {
            if !self.by_key.contains_key(&key) {
                self.set(&key, Some(due));
            }
        }
    }

    /// Takes at most `max` keys whose first timer is due at `time` or before.
    pub fn take_due(&mut self, time: Timestamp, max: usize) -> Vec<(Timestamp, Key)> {
        let mut taken = Vec::new();
        while taken.len() < max
            && let Some((due, key)) = self.by_time.pop_first()
        {
            if due > time {
                self.by_time.insert((due, key));
                break;
            }
            self.by_key.remove(&key);
            taken.push((due, key));
        }
        taken
    }

    /// Whether the store should be read again: some keys did not fit, and now there is room. Says so once.
    pub fn should_reload(&mut self) -> bool {
        self.overflowed && self.by_key.len() <= self.limit / 2 && {
            self.overflowed = false;
            true
        }
    }

    /// Keys in it.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }
}

/// The earliest of those pushed, in bounded memory: for stores that go through all of a partition's timed keys.
#[derive(Debug)]
pub struct Earliest {
    max: usize,
    /// The latest on top.
    heap: BinaryHeap<(Timestamp, Key)>,
}

impl Earliest {
    /// At most `max`.
    pub fn new(max: usize) -> Self {
        Self { max, heap: BinaryHeap::new() }
    }

    /// The first timer of `key` is due then.
    pub fn push(&mut self, due: Timestamp, key: Key) {
        self.heap.push((due, key));
        if self.heap.len() > self.max {
            self.heap.pop();
        }
    }

    /// What is left.
    pub fn done(self) -> Vec<(Timestamp, Key)> {
        self.heap.into_vec()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(name: u8) -> Key {
        Key::new(&format!("k{name}")).expect("a key")
    }

    #[test]
    fn what_a_session_said_is_newer_than_what_the_store_says() {
        let mut index = TimerIndex::new(10);
        index.set(&key(1), Some(Timestamp(50)));
        index.load(vec![(Timestamp(5), key(1)), (Timestamp(6), key(2))], false);
        assert_eq!(index.take_due(Timestamp(49), 10), [(Timestamp(6), key(2))]);
        assert_eq!(index.take_due(Timestamp(50), 10), [(Timestamp(50), key(1))]);
    }

    #[test]
    fn beyond_the_limit_the_latest_go_and_are_loaded_again_when_there_is_room() {
        let mut index = TimerIndex::new(4);
        (0..6).for_each(|i| index.set(&key(i), Some(Timestamp(i64::from(10 - i)))));
        assert_eq!(index.len(), 4);
        assert!(!index.should_reload(), "there is no room yet");
        assert_eq!(index.take_due(Timestamp(6), 2).len(), 2);
        assert!(index.should_reload() && !index.should_reload());
    }

    #[test]
    fn what_the_store_did_not_say_is_loaded_when_there_is_room() {
        let mut index = TimerIndex::new(2);
        let stored =
            |from: u8| vec![(Timestamp(from.into()), key(from)), (Timestamp(i64::from(from) + 1), key(from + 1))];
        index.load(stored(1), true);
        assert!(!index.should_reload(), "it is full");
        assert_eq!(index.take_due(Timestamp(9), 1).len(), 1);
        assert!(index.should_reload());
        index.take_due(Timestamp(9), 1);
        index.load(stored(3), true);
        index.take_due(Timestamp(9), 2);
        assert!(index.should_reload(), "there is still more");
        index.load(Vec::new(), false);
        assert!(!index.should_reload());
    }

    proptest! {
        /// Against a plain map.
        #[test]
        fn due_keys_come_out_once_in_order(changes in proptest::collection::vec((0u8..20, proptest::option::of(0i64..50)), 0..60), time in 0i64..50) {
            let mut index = TimerIndex::new(100);
            let mut plain = std::collections::BTreeMap::new();
            for (name, due) in changes {
                index.set(&key(name), due.map(Timestamp));
                match due {
                    Some(due) => drop(plain.insert(key(name), Timestamp(due))),
                    None => drop(plain.remove(&key(name))),
                }
            }
            let mut expected: Vec<_> = plain.into_iter().filter(|(_, due)| due.0 <= time).map(|(k, due)| (due, k)).collect();
            expected.sort();
            prop_assert_eq!(index.take_due(Timestamp(time), usize::MAX), expected);
            prop_assert_eq!(index.take_due(Timestamp(time), usize::MAX), vec![]);
        }
    }
}
