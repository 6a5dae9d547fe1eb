//! The published feature answers of resident keys: what the feature API reads without a round trip to the store.
//!
//! Filled only with what the store has acknowledged, so nobody reads a value that a crash could take back.

use bytes::Bytes;
use dashmap::DashMap;

use crate::key::Key;

/// See the module. Bounded: when full, new keys are not taken in until others are evicted.
pub struct FeatureCache {
    answers: DashMap<Key, Bytes>,
    keys_max: usize,
}

impl FeatureCache {
    /// At most `keys_max` keys.
    pub fn new(keys_max: usize) -> Self {
        Self { answers: DashMap::new(), keys_max }
    }

    /// The published answer of a key.
    pub fn get(&self, key: &str) -> Option<Bytes> {
        self.answers.get(key).map(|answer| answer.clone())
    }

    /// These answers are in the store.
    pub fn publish(&self, answers: impl Iterator<Item = (Key, Bytes)>) {
        let mut room = self.keys_max.saturating_sub(self.answers.len());
        for (key, answer) in answers {
            if let Some(mut held) = self.answers.get_mut(&key) {
                *held = answer;
            } else if room > 0 {
                room -= 1;
                self.answers.insert(key, answer);
            }
        }
    }

    /// The key's session left memory.
    pub fn evict(&self, key: &str) {
        self.answers.remove(key);
    }

    /// Keys held.
    pub fn len(&self) -> usize {
        self.answers.len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.answers.is_empty()
    }
}
