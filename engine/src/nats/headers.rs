//! Headers of NATS messages as bytes: a block of lines as the server stores it, and the form of a key in one.
//!
//! Pure. For messages that are read one by one: those of a subscription come with their headers parsed by the library.

use std::{borrow::Cow, fmt::Write};

use bytes::Bytes;

/// Names and values, in their order; damaged lines are passed over. A line that begins with a blank goes on with the
/// value before it, as client libraries have it.
pub fn lines(block: &[u8]) -> impl Iterator<Item = (&str, Cow<'_, str>)> {
    let mut lines = block.split(|b| *b == b'\n').peekable();
    std::iter::from_fn(move || {
        let line = lines.next()?;
        let mut more = String::new();
        while let Some(next) = lines.next_if(|next| next.first().is_some_and(|b| matches!(b, b' ' | b'\t'))) {
            more.push_str(text_of(next).unwrap_or_default().trim_end_matches('\r'));
        }
        let header = text_of(line).and_then(|line| line.split_once(':')).map(|(name, value)| {
            let value = match more.is_empty() {
                true => Cow::Borrowed(value.trim()),
                false => Cow::Owned(format!("{}{more}", value.trim_end_matches('\r')).trim().to_owned()),
            };
            (name, value)
        });
        Some(header)
    })
    .flatten()
}

fn text_of(line: &[u8]) -> Option<&str> {
    std::str::from_utf8(line).ok()
}

/// A key as a header value: visible ASCII as it is, every other byte and `%` as `%HH`. So no key can end the line.
pub fn key_to_header(key: &[u8]) -> String {
    let mut value = String::with_capacity(key.len());
    for byte in key {
        if byte.is_ascii_graphic() && *byte != b'%' {
            value.push(char::from(*byte));
        } else {
            write!(value, "%{byte:02X}").expect("writing to a string cannot fail");
        }
    }
    value
}

/// The inverse of [`key_to_header`]. A `%` that begins no such code stands for itself: foreign writers may not know.
pub fn key_from_header(value: &str) -> Bytes {
    if !value.contains('%') {
        return Bytes::copy_from_slice(value.as_bytes());
    }
    let digit = |byte: Option<&u8>| byte.and_then(|b| char::from(*b).to_digit(16)).map(|d| d as u8);
    let bytes = value.as_bytes();
    let mut key = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match (byte, digit(bytes.get(at + 1)), digit(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                key.push(high << 4 | low);
                at += 3;
            }
            _ => {
                key.push(byte);
                at += 1;
            }
        }
    }
    key.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn foreign_percent_signs_stand_for_themselves() {
        assert_eq!(key_from_header("100%"), "100%");
        assert_eq!(key_from_header("%zz%4"), "%zz%4");
        assert_eq!(key_to_header(b"user-1@x.org"), "user-1@x.org");
    }

    proptest! {
        #[test]
        fn keys_survive_the_header_and_cannot_break_it(key in proptest::collection::vec(any::<u8>(), 0..80)) {
            let value = key_to_header(&key);
            prop_assert!(value.bytes().all(|b| b.is_ascii_graphic()));
            prop_assert_eq!(key_from_header(&value), key);
        }
    }
}
