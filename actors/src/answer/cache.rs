//! The published feature answers of resident keys: what the feature API reads without a round trip to the store.
//!
//! Filled only with what the store has acknowledged, so nobody reads a value that a crash could take back. Shards say which keys
//! are resident; the answers of others, which the committer may still be writing when they leave, are not taken in.

use bytes::Bytes;
use dashmap::DashMap;

use crate::key::Key;

/// See the module. Bounded: while it is full, keys that become resident are left out.
pub struct FeatureCache {
    keys: DashMap<Key, Held>,
    keys_max: usize,
}

/// What is known of a resident key.
struct Held {
    partition: u32,
    /// None before the first one is published.
    answer: Option<Bytes>,
}

impl FeatureCache {
    /// At most `keys_max` keys.
    pub fn new(keys_max: usize) -> Self {
        Self { keys: DashMap::new(), keys_max }
    }

    /// The published answer of a key.
    pub fn get(&self, key: &str) -> Option<Bytes> {
        self.keys.get(key)?.answer.clone()
    }

    /// These keys of `partition` have sessions in memory from now on.
    pub fn admit(&self, partition: u32, keys: &[Key]) {
        if keys.is_empty() {
            return;
        }
        let room = self.keys_max.saturating_sub(self.keys.len());
        for key in keys.iter().take(room) {
            self.keys.entry(key.clone()).or_insert(Held { partition, answer: None });
        }
    }

    /// These answers are in the store.
    pub fn publish(&self, answers: impl Iterator<Item = (Key, Bytes)>) {
        for (key, answer) in answers {
            if let Some(mut held) = self.keys.get_mut(&key) {
                held.answer = Some(answer);
            }
        }
    }

    /// `partition` begins anew: what the store has of it may be newer than what was published here, when its last batch was
    /// under way.
    pub fn forget(&self, partition: u32) {
        self.keys.retain(|_, held| held.partition != partition);
    }

    /// The key's session left memory.
    pub fn evict(&self, key: &str) {
        self.keys.remove(key);
    }

    /// Keys held.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        Key::new(text).expect("a key")
    }

    fn publish(cache: &FeatureCache, name: &str, answer: &'static str) {
        cache.publish(std::iter::once((key(name), Bytes::from_static(answer.as_bytes()))));
    }

    #[test]
    fn only_answers_of_resident_keys_are_held() {
        let cache = FeatureCache::new(2);
        publish(&cache, "a", "1");
        assert!(cache.is_empty());
        cache.admit(0, &[key("a"), key("b"), key("c")]);
        for name in ["a", "b", "c"] {
            assert_eq!(cache.get(name), None, "nothing is published");
            publish(&cache, name, "2");
        }
        assert_eq!((cache.get("a"), cache.get("c"), cache.len()), (Some(Bytes::from_static(b"2")), None, 2));
        cache.evict("a");
        publish(&cache, "a", "3"); // it was on its way when the session left
        assert_eq!((cache.get("a"), cache.len()), (None, 1));
    }

    #[test]
    fn a_partition_that_begins_anew_has_no_answers_here() {
        let cache = FeatureCache::new(9);
        cache.admit(0, &[key("a")]);
        cache.admit(1, &[key("b")]);
        publish(&cache, "a", "1");
        publish(&cache, "b", "1");
        cache.forget(0);
        assert_eq!((cache.get("a"), cache.get("b")), (None, Some(Bytes::from_static(b"1"))));
    }
}
