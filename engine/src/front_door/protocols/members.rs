//! What a client sent, one level deep: the members of a JSON object, the elements of an array, the parameters of a query.
//!
//! Pure. Values stay the text they came as; nothing nested is taken apart, so no depth of nesting can exhaust the stack.

use std::{borrow::Cow, collections::HashMap, fmt};

use keyloom_actors::event::fields::{Kind, Value};
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{error::Category, value::RawValue};

/// Most members of one object that a protocol reads, and most parameters of one query.
pub const MEMBERS_MAX: usize = 1_024;

/// A value as it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Given<'a> {
    /// A value of a JSON text, quotes included.
    Json(&'a str),
    /// A parameter of a query or a header, decoded.
    Text(Cow<'a, str>),
}

/// A name and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member<'a> {
    /// The name, decoded.
    pub name: Cow<'a, str>,
    /// The value.
    pub value: Given<'a>,
}

/// Why something cannot be read as what it should be; does not quote it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unread {
    /// Not JSON, or another type.
    #[error("{0}")]
    Json(String),
    /// More than the caller takes.
    #[error("it has more than {0} entries")]
    TooMany(usize),
}

impl<'a> Given<'a> {
    /// The JSON text, where it is of a type that nests or came as JSON.
    pub fn json(&self) -> Option<&'a str> {
        match self {
            Self::Json(raw) => Some(raw),
            Self::Text(_) => None,
        }
    }

    /// The JSON type; a parameter is a string.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Json(raw) => Value::of(raw).kind,
            Self::Text(_) => Kind::String,
        }
    }

    /// What it says as text: a string, or a number or a truth as they were written. `None` for others, and for strings that
    /// no text can be made of.
    pub fn text(&self) -> Option<Cow<'a, str>> {
        match self {
            Self::Text(text) => Some(text.clone()),
            Self::Json(raw) => match Value::of(raw).kind {
                Kind::String => Value::of(raw).as_str(),
                Kind::Number | Kind::Bool => Some(Cow::Borrowed(raw)),
                Kind::Null | Kind::Array | Kind::Object => None,
            },
        }
    }

    /// Whether it says nothing.
    pub fn is_null(&self) -> bool {
        self.kind() == Kind::Null
    }
}

/// The members of the JSON object `json`. Of members with the same name the last one counts, as most JSON parsers have it.
pub fn members(json: &str) -> Result<Vec<Member<'_>>, Unread> {
    note_read(json.len());
    let mut found = Vec::new();
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let read = MembersSeed(&mut found).deserialize(&mut deserializer).and_then(|()| deserializer.end());
    if found.len() > MEMBERS_MAX {
        return Err(Unread::TooMany(MEMBERS_MAX));
    }
    read.map_err(|error| unread(json, "an object", &error))?;
    Ok(without_repeats(found))
}

/// The elements of the JSON array `json`, at most `max`.
pub fn elements(json: &str, max: usize) -> Result<Vec<&str>, Unread> {
    let mut found = Vec::new();
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let read = ElementsSeed(&mut found, max).deserialize(&mut deserializer).and_then(|()| deserializer.end());
    if found.len() > max {
        return Err(Unread::TooMany(max));
    }
    read.map_err(|error| unread(json, "an array", &error))?;
    Ok(found)
}

/// The parameters of `query`, the part of an address behind `?`. The last one of a name counts.
pub fn parameters(query: &str) -> Result<Vec<Member<'_>>, Unread> {
    let found = form_urlencoded::parse(query.as_bytes()).take(MEMBERS_MAX + 1);
    let found: Vec<_> = found.map(|(name, value)| Member { name, value: Given::Text(value) }).collect();
    if found.len() > MEMBERS_MAX {
        return Err(Unread::TooMany(MEMBERS_MAX));
    }
    Ok(without_repeats(found))
}

/// The value of the member with this name.
pub fn get<'m, 'a>(members: &'m [Member<'a>], name: &str) -> Option<&'m Given<'a>> {
    members.iter().find(|m| m.name == name).map(|m| &m.value)
}

/// Where `piece`, which was cut out of `whole`, is in it; empty for what was not.
pub fn place(whole: &[u8], piece: &str) -> std::ops::Range<usize> {
    let start = (piece.as_ptr() as usize).wrapping_sub(whole.as_ptr() as usize);
    match start.checked_add(piece.len()) {
        Some(end) if end <= whole.len() => start..end,
        _ => 0..0,
    }
}

/// What `error` says of `json`, which was to be `expected`. Of another type serde_json quotes the value, which may be anybody's
/// name, and what is said here is kept with dead letters.
fn unread(json: &str, expected: &str, error: &serde_json::Error) -> Unread {
    if error.classify() != Category::Data {
        return Unread::Json(error.to_string());
    }
    let found = match Value::of(json.trim_ascii()).kind {
        Kind::Null => "null",
        Kind::Bool => "a boolean",
        Kind::Number => "a number",
        Kind::String => "a string",
        Kind::Array => "an array",
        Kind::Object => "an object",
    };
    Unread::Json(format!("found {found}, expected {expected}, at line {} column {}", error.line(), error.column()))
}

fn without_repeats(found: Vec<Member<'_>>) -> Vec<Member<'_>> {
    let last: HashMap<&str, usize> = found.iter().enumerate().map(|(at, m)| (m.name.as_ref(), at)).collect();
    if last.len() == found.len() {
        return found;
    }
    let counts: Vec<bool> = found.iter().enumerate().map(|(at, m)| last.get(m.name.as_ref()) == Some(&at)).collect();
    found.into_iter().zip(counts).filter_map(|(member, counts)| counts.then_some(member)).collect()
}

struct MembersSeed<'f, 'de>(&'f mut Vec<Member<'de>>);

impl<'de> DeserializeSeed<'de> for MembersSeed<'_, 'de> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for MembersSeed<'_, 'de> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Name(name)) = map.next_key()? {
            if self.0.len() > MEMBERS_MAX {
                return Err(A::Error::custom("too many members"));
            }
            let value: &'de RawValue = map.next_value()?;
            self.0.push(Member { name, value: Given::Json(value.get()) });
        }
        Ok(())
    }
}

/// A name, borrowed where it has no escapes.
struct Name<'de>(Cow<'de, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Name<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }
            fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Borrowed(name)))
            }
            fn visit_str<E>(self, name: &str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(name.to_owned())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

struct ElementsSeed<'f, 'de>(&'f mut Vec<&'de str>, usize);

impl<'de> DeserializeSeed<'de> for ElementsSeed<'_, 'de> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for ElementsSeed<'_, 'de> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while self.0.len() <= self.1 {
            match seq.next_element::<&'de RawValue>()? {
                Some(element) => self.0.push(element.get()),
                None => return Ok(()),
            }
        }
        // One more than allowed: the rest is only read over, the caller sees the number.
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }
}

/// Counted by tests only.
#[cfg(not(test))]
fn note_read(_bytes: usize) {}

#[cfg(test)]
use tests::note_read;

#[cfg(test)]
pub(super) mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;

    thread_local! {
        /// Bytes that this thread has read as objects: what a request costs beside what it writes.
        pub(in super::super) static BYTES_READ: Cell<usize> = const { Cell::new(0) };
    }

    pub(super) fn note_read(bytes: usize) {
        BYTES_READ.set(BYTES_READ.get() + bytes);
    }

    #[test]
    fn values_are_what_was_sent() {
        let text = r#"{"a":"x\u00fc","b":1.50,"c":{"d":[1]},"e\n":null,"f":true,"a":"last"}"#;
        let found = members(text).expect("an object");
        let names: Vec<_> = found.iter().map(|m| m.name.as_ref()).collect();
        assert_eq!(names, ["b", "c", "e\n", "f", "a"]);
        assert_eq!(get(&found, "a").and_then(Given::text).as_deref(), Some("last"));
        assert_eq!(get(&found, "b").and_then(Given::text).as_deref(), Some("1.50"));
        assert_eq!(get(&found, "c"), Some(&Given::Json(r#"{"d":[1]}"#)));
        assert!(get(&found, "e\n").is_some_and(Given::is_null));
        let query = parameters("a=1&b=%c3%bc+x&a=2&c").expect("few");
        assert_eq!(get(&query, "b").and_then(Given::text).as_deref(), Some("ü x"));
        assert_eq!((get(&query, "a"), query.len()), (Some(&Given::Text("2".into())), 3));
    }

    #[test]
    fn floods_and_other_types_are_refused() {
        let flood: Vec<_> = (0..=MEMBERS_MAX).map(|i| format!("\"{i}\":1")).collect();
        assert_eq!(members(&format!("{{{}}}", flood.join(","))), Err(Unread::TooMany(MEMBERS_MAX)));
        assert_eq!(parameters(&"a=1&".repeat(MEMBERS_MAX + 1)), Err(Unread::TooMany(MEMBERS_MAX)));
        assert_eq!(elements("[1,2,3,4]", 2), Err(Unread::TooMany(2)));
        assert_eq!(elements("[1 , [2]]", 2), Ok(vec!["1", "[2]"]));
        for bad in ["", "[]", "1", "{\"a\":}", "{} x"] {
            assert!(matches!(members(bad), Err(Unread::Json(_))), "{bad}");
        }
        let texts =
            [members(" \"alice@example.com\""), members("4711"), members("[4711]"), members("{\"alice\" 4711}")];
        let texts = texts.map(|read| read.expect_err("no object").to_string());
        assert_eq!(texts[0], "found a string, expected an object, at line 1 column 20");
        let array = elements("\"alice@example.com\"", 9).expect_err("no array").to_string();
        assert_eq!(array, "found a string, expected an array, at line 1 column 19");
        assert!(texts.iter().all(|text| !text.contains("alice") && !text.contains("4711")), "{texts:?}");
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(200_000), "]".repeat(200_000));
        assert_eq!(members(&deep).map(|m| m.len()), Ok(1));
        assert!(elements(&format!("[[{deep}], 1, 1, 1]"), 1).is_err());
    }

    proptest! {
        #[test]
        fn members_agree_with_serde_json(map in proptest::collection::btree_map("\\PC{0,6}", "\\PC{0,9}", 0..9)) {
            let text = serde_json::to_string(&map).expect("serializable");
            let found = members(&text).expect("an object");
            let back: std::collections::BTreeMap<String, String> = found
                .iter()
                .map(|m| (m.name.to_string(), m.value.text().expect("a string").into_owned()))
                .collect();
            prop_assert_eq!(back, map);
        }

        #[test]
        fn no_text_panics(text in "[\\[\\]{},:\"a1\\\\ ]{0,60}", query in "\\PC{0,60}") {
            let _either_way = (members(&text), elements(&text, 3), parameters(&query));
        }
    }
}
