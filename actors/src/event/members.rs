//! The members of a JSON object as pieces of its text, without reading what they say.
//!
//! Pure. For text that was written by a JSON writer and read back from a place of our own: what is not such a text ends
//! the iteration early, and is never read out of bounds. Not for what clients send.

use std::iter::FusedIterator;

/// One member: its name without the quotes, escapes left as they are, and the text of its value.
pub type Member<'a> = (&'a [u8], &'a [u8]);

/// Walks over `text`, the members of an object without the braces around them.
pub fn members(text: &[u8]) -> Members<'_> {
    Members { rest: text }
}

/// See [`members`].
#[derive(Clone, Debug)]
pub struct Members<'a> {
    rest: &'a [u8],
}

impl<'a> Members<'a> {
    /// What was not walked over yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = Member<'a>;

    fn next(&mut self) -> Option<Member<'a>> {
        let rest = std::mem::take(&mut self.rest);
        let rest = rest.strip_prefix(b",").unwrap_or(rest);
        let name_end = string_end(rest)?;
        let (name, rest) = rest.split_at(name_end);
        let rest = rest.strip_prefix(b":")?;
        let (value, rest) = rest.split_at(value_end(rest)?);
        self.rest = rest;
        Some((&name[1..name.len() - 1], value))
    }
}

impl FusedIterator for Members<'_> {}

/// How long the string at the beginning of `text` is, quotes included.
pub fn string_end(text: &[u8]) -> Option<usize> {
    if text.first() != Some(&b'"') {
        return None;
    }
    let mut at = 1;
    loop {
        at += memchr::memchr2(b'"', b'\\', text.get(at..)?)?;
        if text[at] == b'"' {
            return Some(at + 1);
        }
        at += 2;
    }
}

/// How long the value at the beginning of `text` is.
pub fn value_end(text: &[u8]) -> Option<usize> {
    match text.first()? {
        b'"' => string_end(text),
        b'{' | b'[' => {
            let (mut at, mut depth) = (0, 0usize);
            loop {
                match text.get(at)? {
                    b'"' => {
                        at += string_end(&text[at..])?;
                        continue;
                    }
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => depth -= 1,
                    _ => {}
                }
                at += 1;
                if depth == 0 {
                    return Some(at);
                }
            }
        }
        b',' | b'}' | b']' => None,
        _ => Some(text.iter().position(|b| matches!(b, b',' | b'}' | b']')).unwrap_or(text.len())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value};

    use super::*;

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[\\\\\"{}\\[\\],:a-zü\u{1}]{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[\\\\\"{},:a-z]{0,4}", inner, 0..4)
                    .prop_map(|map| Value::from(map.into_iter().collect::<Map<_, _>>())),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_pieces_say_what_the_object_says(
            object in proptest::collection::btree_map("[\\\\\"{},:a-z]{0,6}", value(), 0..8),
        ) {
            let text = serde_json::to_string(&object).expect("JSON");
            let found: Vec<(String, Value)> = members(&text.as_bytes()[1..text.len() - 1])
                .map(|(name, value)| {
                    let name = format!("\"{}\"", String::from_utf8_lossy(name));
                    (serde_json::from_str(&name).expect("a name"), serde_json::from_slice(value).expect("a value"))
                })
                .collect();
            let expected: Vec<(String, Value)> =
                object.iter().map(|(n, v)| (n.clone(), serde_json::from_str(&v.to_string()).expect("JSON"))).collect();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn any_bytes_end_somewhere(bytes in proptest::collection::vec(prop_oneof![
            any::<u8>(), proptest::sample::select(&b"\"\\{}[],:a"[..]),
        ], 0..60)) {
            prop_assert!(members(&bytes).count() <= bytes.len());
        }
    }
}
