//! The last distinct texts of a key, such as the pages it saw: a list that is found through hashes.
//!
//! Pure. Texts are scattered over memory, their hashes are not: looking one up costs one cache miss instead of one per text.
//! Stored as a plain list of texts; hashes are made again when it is read.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use xxhash_rust::xxh3::xxh3_64;

/// See the module. Oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecentTexts {
    hashes: Vec<u32>,
    texts: Vec<Box<str>>,
}

impl RecentTexts {
    /// Makes `text` the newest, keeping texts distinct and at most `max` of them.
    pub fn push(&mut self, text: &str, max: usize) {
        let hash = hash_of(text);
        let is_it = |at: &usize| self.hashes[*at] == hash && &*self.texts[*at] == text;
        match (0..self.hashes.len()).rev().find(is_it) {
            Some(at) if at + 1 == self.hashes.len() => {}
            Some(at) => {
                self.hashes[at..].rotate_left(1);
                self.texts[at..].rotate_left(1);
            }
            None if self.hashes.len() >= max.max(1) => {
                self.hashes.rotate_left(1);
                self.texts.rotate_left(1);
                if let (Some(last_hash), Some(last)) = (self.hashes.last_mut(), self.texts.last_mut()) {
                    *last_hash = hash;
                    *last = text.into();
                }
            }
            None => {
                self.hashes.push(hash);
                self.texts.push(text.into());
            }
        }
    }

    /// Oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &str> + ExactSizeIterator {
        self.texts.iter().map(|text| &**text)
    }
}

fn hash_of(text: &str) -> u32 {
    xxh3_64(text.as_bytes()) as u32
}

impl Serialize for RecentTexts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.texts.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for RecentTexts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let texts = Vec::<Box<str>>::deserialize(deserializer)?;
        Ok(Self { hashes: texts.iter().map(|text| hash_of(text)).collect(), texts })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn keeps_the_last_distinct_ones_in_order_and_round_trips(
            pushed in proptest::collection::vec("[a-f]{1,2}", 0..200), max in 1usize..12,
        ) {
            let mut recent = RecentTexts::default();
            let mut naive: Vec<String> = Vec::new();
            for text in &pushed {
                recent.push(text, max);
                naive.retain(|t| t != text);
                naive.push(text.clone());
                naive.drain(..naive.len().saturating_sub(max));
                prop_assert!(recent.iter().eq(naive.iter().map(String::as_str)));
            }
            let stored = rmp_serde::to_vec(&recent).expect("texts serialize");
            prop_assert_eq!(rmp_serde::from_slice::<Vec<String>>(&stored).expect("a plain list"), naive);
            prop_assert_eq!(rmp_serde::from_slice::<RecentTexts>(&stored).expect("itself"), recent);
        }
    }
}
