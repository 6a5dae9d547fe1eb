//! Tokens: 256 random bits as text, known to the engine by their SHA-256 only.
//!
//! A hash without salt and without stretching is enough for these: nobody guesses 256 random bits.

use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq as _};

/// What tokens begin with, so that people and scanners for secrets know them.
pub const PREFIX: &str = "keyloom-";
/// Random bytes in a token.
const TOKEN_BYTES: usize = 32;
/// Longest text that is hashed as a token; ours have 72 bytes.
const TOKEN_TEXT_BYTES_MAX: usize = 1024;

/// The SHA-256 of a token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// Of `token`; `None` if it is longer than any token.
    pub fn of(token: &str) -> Option<Self> {
        (token.len() <= TOKEN_TEXT_BYTES_MAX).then(|| Self(Sha256::digest(token.as_bytes()).into()))
    }

    /// From 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return None;
        }
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|n| u8::try_from(n).ok());
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(Self(bytes))
    }

    /// As 64 hexadecimal digits.
    pub fn to_hex(self) -> String {
        hex(&self.0)
    }

    /// Whether both are the same, in a time that does not depend on where they differ.
    pub fn matches(&self, other: &Self) -> Choice {
        self.0.ct_eq(&other.0)
    }
}

/// A new token. Fails only if the system has no random numbers.
pub fn generate() -> Result<String, getrandom::Error> {
    let mut bytes = [0; TOKEN_BYTES];
    getrandom::fill(&mut bytes)?;
    Ok(format!("{PREFIX}{}", hex(&bytes)))
}

/// Lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]]).map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_token_is_known_by_the_sha_256_of_its_text() {
        let known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"; // FIPS 180-4, "abc"
        assert_eq!(TokenHash::of("abc").expect("short").to_hex(), known);
        assert_eq!(TokenHash::from_hex(known), TokenHash::of("abc"));
        assert_eq!(TokenHash::of(&"x".repeat(TOKEN_TEXT_BYTES_MAX + 1)), None);
        let (one, two) = (generate().expect("random"), generate().expect("random"));
        assert!(one != two && one.starts_with(PREFIX) && one.len() == PREFIX.len() + 64);
    }

    proptest! {
        #[test]
        fn hex_round_trips_and_one_other_bit_does_not_match(bytes in any::<[u8; 32]>(), bit in 0usize..256) {
            let hash = TokenHash(bytes);
            prop_assert_eq!(TokenHash::from_hex(&hash.to_hex()), Some(hash));
            prop_assert_eq!(TokenHash::from_hex(&hash.to_hex().to_uppercase()), Some(hash));
            let mut other = bytes;
            other[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(bool::from(hash.matches(&hash)) && !bool::from(hash.matches(&TokenHash(other))));
        }

        #[test]
        fn no_other_text_is_a_hash(text in "\\PC{0,70}") {
            let is_hex = text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
            prop_assert_eq!(TokenHash::from_hex(&text).is_some(), is_hex);
        }
    }
}
