//! Base64 as clients send it: either alphabet, padded or not, with the `+` that a query has turned into a blank.
//!
//! Pure.

use std::borrow::Cow;

use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{
        DecodePaddingMode,
        general_purpose::{GeneralPurpose, GeneralPurposeConfig},
    },
};

const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// The bytes that `text` stands for; `None` when it is no base64.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_matches(['\r', '\n', '\t']); // not blanks: each stands for a plus
    let is_plain = !text.bytes().any(|b| matches!(b, b'-' | b'_' | b' '));
    let plain = if is_plain {
        Cow::Borrowed(text.as_bytes())
    } else {
        let standard = |b| match b {
            b'-' | b' ' => b'+',
            b'_' => b'/',
            other => other,
        };
        Cow::Owned(text.bytes().map(standard).collect())
    };
    LENIENT.decode(plain).ok()
}

/// As [`decode`], where the bytes are text.
pub fn decode_text(text: &str) -> Option<String> {
    String::from_utf8(decode(text)?).ok()
}

/// The base64 text of `bytes`: standard alphabet, padded.
pub fn encode(bytes: &[u8]) -> String {
    LENIENT.encode(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_base64_is_said_to_be_none() {
        for bad in ["*", "a", "e30=e30=", "ü"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
        assert_eq!(decode_text("e30\r\n").as_deref(), Some("{}"));
        assert_eq!(decode_text("/w=="), None, "not UTF-8");
    }

    proptest! {
        #[test]
        fn all_variants_give_the_same_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let padded = encode(&bytes);
            let url_safe = padded.replace('+', "-").replace('/', "_");
            for text in [&padded, &url_safe, &padded.replace('+', " ")] {
                prop_assert_eq!(decode(text), Some(bytes.clone()), "{}", text);
                prop_assert_eq!(decode(text.trim_end_matches('=')), Some(bytes.clone()), "{}", text);
            }
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            let _either_way = decode_text(&text);
        }
    }
}
