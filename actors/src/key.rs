//! What an event belongs to: its key, and the slices of the key space.
//!
//! Pure. The text forms here are published interfaces: a key's place in a NATS subject, and which partition owns it.

use std::{
    borrow::Borrow,
    fmt,
    hash::{BuildHasher, Hasher},
    sync::Arc,
};

use xxhash_rust::xxh3::xxh3_64;

/// Longest key, in bytes of UTF-8.
pub const KEY_BYTES_MAX: usize = 512;

/// The key of an event: 1 to [`KEY_BYTES_MAX`] bytes of UTF-8. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

/// Why a text cannot be a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The text is empty.
    #[error("the key is empty; it must have 1 to {KEY_BYTES_MAX} bytes")]
    Empty,
    /// The text is longer than [`KEY_BYTES_MAX`].
    #[error("the key has {0} bytes; at most {KEY_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// The bytes are not UTF-8.
    #[error("the key is not valid UTF-8")]
    NotUtf8,
}

impl Key {
    /// Checks `text` and makes it a key.
    pub fn new(text: &str) -> Result<Self, KeyError> {
        check(text)?;
        Ok(Self(text.into()))
    }

    /// Checks `bytes` and makes them a key.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        Self::new(std::str::from_utf8(bytes).map_err(|_| KeyError::NotUtf8)?)
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key as one token of a NATS subject: `[A-Za-z0-9_-]` as they are, every other byte as `=HH`.
    pub fn to_subject_token(&self) -> String {
        let mut token = String::with_capacity(self.0.len() + 8);
        for byte in self.0.bytes() {
            if byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-' {
                token.push(char::from(byte));
            } else {
                token.push_str(&format!("={byte:02X}"));
            }
        }
        token
    }

    /// The inverse of [`Key::to_subject_token`]; `None` when `token` was not made by it.
    pub fn from_subject_token(token: &str) -> Option<Self> {
        let mut bytes = Vec::with_capacity(token.len());
        let mut rest = token.bytes();
        while let Some(byte) = rest.next() {
            if byte == b'=' {
                let digits = [rest.next()?, rest.next()?];
                if digits.iter().any(u8::is_ascii_lowercase) {
                    return None;
                }
                bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
            } else {
                bytes.push(byte);
            }
        }
        Self::from_bytes(&bytes).ok()
    }
}

/// Checks that `text` may be a key, without making one.
pub fn check(text: &str) -> Result<(), KeyError> {
    match text.len() {
        0 => Err(KeyError::Empty),
        1..=KEY_BYTES_MAX => Ok(()),
        n => Err(KeyError::TooLong(n)),
    }
}

/// The partition that owns a key: `xxh3_64(key) mod partitions`.
pub fn partition_of(key: &[u8], partitions: u32) -> u32 {
    (xxh3_64(key) % u64::from(partitions.max(1))) as u32
}

/// The shard of a key inside its partition. Uses the high half of the hash, so that it is independent of the partition.
pub fn shard_of(hash: u64, shards: usize) -> usize {
    (((hash >> 32) * shards as u64) >> 32) as usize
}

/// The 64-bit hash that [`partition_of`] and [`shard_of`] use.
pub fn hash_of(key: &[u8]) -> u64 {
    xxh3_64(key)
}

/// Hashes keys in maps: one call of xxh3 per key, without the state of a streaming hasher.
#[derive(Clone, Copy, Default)]
pub struct KeyHash;

/// See [`KeyHash`].
#[derive(Default)]
pub struct KeyHasher(u64);

impl BuildHasher for KeyHash {
    type Hasher = KeyHasher;
    fn build_hasher(&self) -> KeyHasher {
        KeyHasher::default()
    }
}

impl Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 ^= xxh3_64(bytes);
    }
    /// The end mark of a text, which says nothing where there is only one.
    fn write_u8(&mut self, _: u8) {}
    fn finish(&self) -> u64 {
        self.0
    }
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({:?})", &*self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn awkward_bytes_are_escaped_in_subjects() {
        let key = Key::new("a.b*>ü c=").expect("a valid key");
        assert_eq!(key.to_subject_token(), "a=2Eb=2A=3E=C3=BC=20c=3D");
        assert_eq!(Key::from_subject_token("a=2"), None);
        assert_eq!(Key::from_subject_token("a=2e"), None);
    }

    #[test]
    fn limits_are_exact() {
        assert_eq!(Key::new(""), Err(KeyError::Empty));
        assert!(Key::new(&"x".repeat(KEY_BYTES_MAX)).is_ok());
        assert_eq!(Key::new(&"x".repeat(513)), Err(KeyError::TooLong(513)));
        assert_eq!(Key::from_bytes(&[0xff]), Err(KeyError::NotUtf8));
    }

    proptest! {
        #[test]
        fn subject_tokens_round_trip(text in "\\PC{1,60}") {
            let key = Key::new(&text).expect("short enough");
            let token = key.to_subject_token();
            let token_is_plain = token.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-=".contains(&b));
            prop_assert!(token_is_plain);
            prop_assert_eq!(Key::from_subject_token(&token), Some(key));
        }

        #[test]
        fn shards_and_partitions_stay_in_range(text in "\\PC{1,60}", shards in 1usize..64, partitions in 1u32..64) {
            prop_assert!(shard_of(hash_of(text.as_bytes()), shards) < shards);
            prop_assert!(partition_of(text.as_bytes(), partitions) < partitions);
        }
    }
}
