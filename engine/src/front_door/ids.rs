//! New event ids, in the form of UUID version 7: in order of time, and unique without asking anyone.
//!
//! Not secret and not for secrets: who sees a few of them may guess others.

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher,
    sync::atomic::{AtomicU64, Ordering},
};

use keyloom_actors::timestamp::Timestamp;
use xxhash_rust::xxh3::xxh3_128_with_seed;

/// Makes event ids; shared by all requests.
#[derive(Debug)]
pub struct IdSource {
    seeds: [u64; 2],
    made: AtomicU64,
}

impl IdSource {
    /// Ids that no other process makes: seeded by the operating system's randomness, through the standard library.
    pub fn new() -> Self {
        Self::seeded([random(), random()])
    }

    /// The same ids for the same seeds, for tests.
    pub fn seeded(seeds: [u64; 2]) -> Self {
        Self { seeds, made: AtomicU64::new(0) }
    }

    /// A new id, made at `now`.
    pub fn next(&self, now: Timestamp) -> String {
        let count = self.made.fetch_add(1, Ordering::Relaxed);
        let mut input = [0; 16];
        input[..8].copy_from_slice(&self.seeds[0].to_le_bytes());
        input[8..].copy_from_slice(&count.to_le_bytes());
        let random = xxh3_128_with_seed(&input, self.seeds[1]);
        let millis = (now.0.max(0) / 1_000) as u64 & 0xffff_ffff_ffff;
        let (high, low) = (random as u64, (random >> 64) as u64);
        format!(
            "{:08x}-{:04x}-7{:03x}-{:04x}-{:012x}",
            millis >> 16,
            millis & 0xffff,
            high & 0xfff,
            0x8000 | ((high >> 12) & 0x3fff),
            low & 0xffff_ffff_ffff
        )
    }
}

impl Default for IdSource {
    fn default() -> Self {
        Self::new()
    }
}

/// 64 random bits, other ones each time and in each process.
pub fn random() -> u64 {
    RandomState::new().hash_one(0u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_and_look_like_uuids() {
        let source = IdSource::new();
        let ids: std::collections::HashSet<String> = (0..10_000).map(|i| source.next(Timestamp(i))).collect();
        assert_eq!(ids.len(), 10_000);
        let id = IdSource::seeded([1, 2]).next(Timestamp(1_795_176_000_000_000));
        assert!(id.starts_with("01a1f8d3-ea00-7"), "{id}");
        assert_eq!(id.len(), 36);
        assert!(matches!(id.as_bytes()[19], b'8' | b'9' | b'a' | b'b'));
        assert_ne!(id, IdSource::seeded([1, 3]).next(Timestamp(1_795_176_000_000_000)));
    }
}
