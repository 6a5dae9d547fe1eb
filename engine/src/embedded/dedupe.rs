//! The log's memory of event ids: absorbs what is sent again within the window.
//!
//! Pure. Two generations of hashes: looking up asks both, and the older one goes when the younger is a window old, so an
//! id is remembered for one to two windows. Bounded: when ids come faster than the limit allows, the window shrinks, and
//! what comes after it is left to the sessions' own memory.

use std::{
    hash::{BuildHasherDefault, Hasher},
    time::Duration,
};

use hashbrown::HashSet;
use keyloom_actors::timestamp::Timestamp;

/// Ids in both generations together; 16 bytes each, and as much again for the table.
pub const IDS_MAX: usize = 4_000_000;

/// Ids are hashes already.
#[derive(Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 ^= u64::from_le_bytes(word);
        }
    }
    fn write_u128(&mut self, id: u128) {
        self.0 = id as u64 ^ (id >> 64) as u64;
    }
}

type Ids = HashSet<u128, BuildHasherDefault<AsIs>>;

/// See the module.
pub struct DedupeWindow {
    window_micros: i64,
    ids_max: usize,
    young: Ids,
    old: Ids,
    began: Timestamp,
}

impl DedupeWindow {
    /// Remembers ids for at least `window`, and at most `ids_max` of them.
    pub fn new(window: Duration, ids_max: usize) -> Self {
        let window_micros = i64::try_from(window.as_micros()).unwrap_or(i64::MAX);
        Self { window_micros, ids_max, young: Ids::default(), old: Ids::default(), began: Timestamp(0) }
    }

    /// Remembers `id`; false when it was there already.
    pub fn insert(&mut self, id: u128, now: Timestamp) -> bool {
        let full = self.young.len() >= self.ids_max.div_ceil(2);
        if full || now.0.saturating_sub(self.began.0) >= self.window_micros {
            self.old = std::mem::take(&mut self.young);
            self.began = now;
        }
        !self.old.contains(&id) && self.young.insert(id)
    }

    /// Forgets `id`: what it stood for was not stored after all.
    pub fn remove(&mut self, id: u128) {
        self.young.remove(&id);
        self.old.remove(&id); // it was young when it came
    }

    /// Ids remembered.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    #[test]
    fn repeats_within_the_window_are_seen_and_later_ones_forgotten() {
        let mut window = DedupeWindow::new(Duration::from_secs(120), 1000);
        let at = |second: i64| Timestamp(1_000 * SECOND + second * SECOND);
        assert!(window.insert(1, at(0)));
        assert!(!window.insert(1, at(119)));
        assert!(window.insert(2, at(119)));
        assert!(!window.insert(1, at(130)), "in the older generation now");
        assert!(!window.insert(2, at(238)));
        assert!(window.insert(3, at(250)));
        assert!(window.insert(1, at(251)), "gone after two windows");
        window.remove(3);
        assert!(window.insert(3, at(252)), "what was not stored is no repeat");
    }

    #[test]
    fn memory_is_bounded_whatever_comes() {
        let mut window = DedupeWindow::new(Duration::from_secs(120), 1000);
        for id in 0..100_000 {
            assert!(window.insert(id, Timestamp(1)));
            assert!(window.len() <= 1000);
        }
        assert!(!window.insert(99_999, Timestamp(1)));
    }

    #[test]
    fn what_was_not_stored_is_forgotten_also_when_the_generations_changed_meanwhile() {
        let mut window = DedupeWindow::new(Duration::from_secs(120), 10);
        let group = 0..8;
        assert!(group.clone().all(|id| window.insert(id, Timestamp(1))));
        group.clone().for_each(|id| window.remove(id));
        assert!(group.clone().all(|id| window.insert(id, Timestamp(1))));
    }
}
