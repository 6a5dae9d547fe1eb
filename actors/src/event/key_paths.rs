//! Where the key of an event is: in its payload, or in what it came with, its envelope.
//!
//! Pure. The envelope (HTTP headers, headers and subject of a NATS message) is gone when an event is processed, so whoever
//! still has it notes what these paths find there, and the note travels with the event. Nothing is noted, and nothing is
//! looked at, where no path leads into the envelope.

use std::{borrow::Cow, fmt, sync::Arc};

use bytestring::ByteString;

use super::{
    field_value,
    fields::{self, Field, FieldId, Known},
};
use crate::key::{self, KeyError};

/// How a path to a header begins.
pub const HEADER: &str = "header:";
/// How a path to a token of a subject begins.
pub const SUBJECT: &str = "subject:";
/// Tokens of a subject that a path can count to, from either end.
pub const TOKENS_MAX: u8 = 32;

/// What an event came with, beside its payload.
pub trait Envelope {
    /// The first value of header `name`, which is given in lower case and may have been written in any.
    fn header(&self, name: &str) -> Option<Cow<'_, str>>;
    /// The NATS subject that it was published to, where it was.
    fn subject(&self) -> Option<&str>;
}

/// What events of some names must fit.
pub trait Gate: fmt::Debug + Send + Sync {
    /// Whether an event of this name fits; the error says what does not, in a bounded text. Never panics.
    fn check(&self, event: &str, json: &str) -> Result<(), String>;
}

/// What is asked of an event at the door, or where it is read if nobody stood there: where its key is, as paths that are
/// tried in order, what counts where none leads to a key, and what it must fit beside. Cheap to clone.
#[derive(Clone, Debug)]
pub struct KeyPaths {
    paths: Arc<[KeyPath]>,
    fallback: Option<ByteString>,
    reads_envelope: bool,
    gate: Option<Arc<dyn Gate>>,
}

#[derive(Debug)]
enum KeyPath {
    /// A field, or one inside of it.
    Field { field: FieldId, name: String, inside: Vec<String> },
    /// A header, its name in lower case.
    Header(String),
    /// A token of the subject.
    Token(Token),
}

/// The number of a token in a subject: from 1 at the front, from -1 at the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Token(i8);

/// What the paths into the envelope found there: path by path, in their order, keys or what is wrong with them. No more
/// than a key is long is kept of each.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EnvelopeKeys(Vec<(u8, Result<ByteString, KeyError>)>);

/// A key, and where it was.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FoundKey<'a> {
    /// As it stands in the payload.
    Payload(&'a str),
    /// Anywhere else, or with escapes in the payload.
    Apart(ByteString),
}

impl FoundKey<'_> {
    /// The key.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Payload(key) => key,
            Self::Apart(key) => key,
        }
    }
}

impl Token {
    /// Reads what stands behind [`SUBJECT`]: 1 to [`TOKENS_MAX`], or as much below zero.
    pub fn parse(text: &str) -> Option<Self> {
        let number: i8 = text.parse().ok().filter(|_| !text.starts_with('+'))?;
        (1..=TOKENS_MAX).contains(&number.unsigned_abs()).then_some(Self(number))
    }

    fn of(self, subject: &str) -> Option<&str> {
        let place = usize::from(self.0.unsigned_abs()) - 1;
        if self.0 > 0 { subject.split('.').nth(place) } else { subject.rsplit('.').nth(place) }
    }
}

impl KeyPath {
    fn parse(path: &str) -> Self {
        if let Some(name) = path.strip_prefix(HEADER) {
            return Self::Header(name.to_ascii_lowercase());
        }
        if let Some(token) = path.strip_prefix(SUBJECT).and_then(Token::parse) {
            return Self::Token(token);
        }
        let mut parts = path.split('.').map(str::to_owned);
        let name = parts.next().unwrap_or_default();
        Self::Field { field: FieldId::of(&name), name, inside: parts.collect() }
    }

    fn is_in_envelope(&self) -> bool {
        !matches!(self, Self::Field { .. })
    }
}

impl KeyPaths {
    /// Paths such as `domain_userid`, `user.id`, `header:x-user-id`, `subject:2` and `subject:-1`.
    pub fn new(paths: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        let paths: Arc<[KeyPath]> = paths.into_iter().map(|path| KeyPath::parse(path.as_ref())).collect();
        let reads_envelope = paths.iter().any(KeyPath::is_in_envelope);
        Self { paths, fallback: None, reads_envelope, gate: None }
    }

    /// Gives events this key for which no path leads to one; without it, they have none. It must be a valid key.
    #[must_use]
    pub fn with_fallback(self, key: Option<&str>) -> Self {
        Self { fallback: key.map(ByteString::from), ..self }
    }

    /// Also asks that events fit `gate`.
    #[must_use]
    pub fn with_gate(self, gate: Option<Arc<dyn Gate>>) -> Self {
        Self { gate, ..self }
    }

    /// Whether an event that was scanned fits the gate; the error says what does not.
    pub fn check(&self, fields: &[Field], known: &Known, payload: &str) -> Result<(), String> {
        let Some(gate) = &self.gate else { return Ok(()) };
        let name = field_value(fields, known, payload, FieldId::Event, "").and_then(|value| value.as_str());
        name.map_or(Ok(()), |name| gate.check(&name, payload))
    }

    /// Whether some path leads into the envelope.
    pub fn reads_envelope(&self) -> bool {
        self.reads_envelope
    }

    /// What the paths find in `envelope`; `None` when that is nothing, at no cost where no path leads there.
    pub fn note(&self, envelope: &dyn Envelope) -> Option<Box<EnvelopeKeys>> {
        if !self.reads_envelope {
            return None;
        }
        let mut found = Vec::new();
        for (at, path) in (0u8..).zip(self.paths.iter()) {
            let text = match path {
                KeyPath::Field { .. } => None,
                KeyPath::Header(name) => envelope.header(name),
                KeyPath::Token(token) => envelope.subject().and_then(|s| token.of(s)).map(Cow::Borrowed),
            };
            if let Some(text) = text {
                let text = text.trim();
                found.push((at, key::check(text).map(|()| ByteString::from(text))));
            }
        }
        (!found.is_empty()).then(|| Box::new(EnvelopeKeys(found)))
    }

    /// The first path that leads to a usable key, else the fallback, else what is wrong with the event. `envelope`: what
    /// [`KeyPaths::note`] found.
    pub fn find<'a>(
        &self,
        fields: &[Field],
        known: &Known,
        payload: &'a str,
        envelope: Option<&EnvelopeKeys>,
    ) -> Result<FoundKey<'a>, String> {
        let mut problem = None;
        for (at, path) in (0u8..).zip(self.paths.iter()) {
            let KeyPath::Field { field, name, inside } = path else {
                match envelope.and_then(|envelope| envelope.at(at)) {
                    Some(Ok(key)) => return Ok(FoundKey::Apart(key.clone())),
                    Some(Err(error)) => problem = Some(format!("{path}: {error}")),
                    None => {}
                }
                continue;
            };
            let value = field_value(fields, known, payload, *field, name).filter(|v| v.kind != fields::Kind::Null);
            let Some(value) = value else { continue };
            let text = if inside.is_empty() {
                value.as_str()
            } else {
                let inner = inside.iter().try_fold(value.raw, |object, name| fields::member(object, name));
                inner.and_then(|raw| serde_json::from_str::<String>(raw).ok().map(Cow::Owned))
            };
            match text.map(|t| key::check(&t).map(|()| t)) {
                Some(Ok(Cow::Borrowed(text))) => return Ok(FoundKey::Payload(text)),
                Some(Ok(Cow::Owned(text))) => return Ok(FoundKey::Apart(text.into())),
                Some(Err(error)) => problem = Some(format!("{name}: {error}")),
                None => problem = Some(format!("{name} is not a string")),
            }
        }
        if let Some(key) = &self.fallback {
            return Ok(FoundKey::Apart(key.clone()));
        }
        Err(problem.unwrap_or_else(|| {
            let what = if self.reads_envelope { "of these" } else { "of these fields" };
            format!("none {what} is present: {self}")
        }))
    }
}

impl EnvelopeKeys {
    fn at(&self, path: u8) -> Option<&Result<ByteString, KeyError>> {
        self.0.iter().find(|(at, _)| *at == path).map(|(_, found)| found)
    }

    /// Memory that it takes.
    pub fn bytes(&self) -> usize {
        let text = |found: &Result<ByteString, KeyError>| found.as_ref().map_or(0, |key| key.len());
        self.0.iter().map(|(_, found)| size_of_val(found) + text(found)).sum()
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(f, "{HEADER}{name}"),
            Self::Token(Token(number)) => write!(f, "{SUBJECT}{number}"),
            Self::Field { name, inside, .. } => {
                f.write_str(name)?;
                inside.iter().try_for_each(|inner| write!(f, ".{inner}"))
            }
        }
    }
}

impl fmt::Display for KeyPaths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut paths = self.paths.iter();
        paths.next().into_iter().try_for_each(|first| first.fmt(f))?;
        paths.try_for_each(|path| write!(f, ", {path}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Message<'a>(&'a [(&'a str, &'a str)], Option<&'a str>);

    impl Envelope for Message<'_> {
        fn header(&self, name: &str) -> Option<Cow<'_, str>> {
            self.0.iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| Cow::Borrowed(*value))
        }
        fn subject(&self) -> Option<&str> {
            self.1
        }
    }

    fn find(paths: &[&str], fallback: Option<&str>, payload: &str, message: &Message<'_>) -> Result<String, String> {
        let keys = KeyPaths::new(paths).with_fallback(fallback);
        let mut found = Vec::new();
        let known = fields::scan(payload, &mut found).expect("an object");
        let envelope = keys.note(message);
        keys.find(&found, &known, payload, envelope.as_deref()).map(|key| key.as_str().to_owned())
    }

    #[test]
    fn paths_are_tried_in_order_wherever_they_lead() {
        let device = Message(&[("X-User", "h"), ("x-user", "second")], Some("events.d42.temp"));
        let paths = ["user.id", "header:X-USER", "subject:2"];
        assert_eq!(find(&paths, None, r#"{"user":{"id":"p"}}"#, &device), Ok("p".to_owned()));
        assert_eq!(find(&paths, None, "{}", &device), Ok("h".to_owned()));
        assert_eq!(find(&paths, None, "{}", &Message(&[], Some("events.d42.temp"))), Ok("d42".to_owned()));
        assert_eq!(find(&["subject:2", "k"], None, r#"{"k":"p"}"#, &device), Ok("d42".to_owned()));
        assert_eq!(find(&["subject:-1"], None, "{}", &device), Ok("temp".to_owned()));
        assert_eq!(find(&["subject:-3"], None, "{}", &device), Ok("events".to_owned()));
    }

    #[test]
    fn what_is_missing_or_no_key_is_said_unless_there_is_a_fallback() {
        let long = "x".repeat(key::KEY_BYTES_MAX + 1);
        let bad = Message(&[("x-user", " \t"), ("x-long", &long)], Some("events"));
        let error = |paths: &[&str]| find(paths, None, "{}", &bad).expect_err("no key");
        assert_eq!(error(&["k", "header:y", "subject:2"]), "none of these is present: k, header:y, subject:2");
        assert_eq!(error(&["k", "u.id"]), "none of these fields is present: k, u.id");
        assert!(error(&["header:x-user"]).starts_with("header:x-user: the key is empty"));
        assert!(error(&["header:X-Long"]).starts_with("header:x-long: the key has 513 bytes"));
        for paths in [&["k"][..], &["header:x-long"], &["subject:2"]] {
            assert_eq!(find(paths, Some("unknown"), r#"{"k":7}"#, &bad), Ok("unknown".to_owned()));
        }
        assert_eq!(find(&["k"], Some("unknown"), r#"{"k":"known"}"#, &bad), Ok("known".to_owned()));
    }

    #[test]
    fn nothing_is_noted_for_paths_into_the_payload() {
        let message = Message(&[("k", "h")], Some("a.b"));
        assert_eq!(KeyPaths::new(["k", "subject"]).note(&message), None);
        let note = KeyPaths::new(["k", "subject:1"]).note(&message).expect("a token");
        assert!(note.bytes() < 100 && *note == EnvelopeKeys(vec![(1, Ok("a".into()))]));
    }

    #[test]
    fn tokens_are_counted_from_either_end_up_to_a_limit() {
        for good in ["1", "32", "-1", "-32"] {
            assert!(Token::parse(good).is_some(), "{good}");
        }
        for bad in ["", "0", "-0", "33", "-33", "-128", "+1", "1.5", " 1", "two"] {
            assert_eq!(Token::parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_token_is_the_same_from_both_ends(subject in "[a-z]{0,3}(\\.[a-z]{0,3}){0,8}", at in 1i8..=32) {
            let tokens: Vec<&str> = subject.split('.').collect();
            let place = at as usize;
            prop_assert_eq!(Token(at).of(&subject), tokens.get(place - 1).copied());
            let from_the_end = tokens.len().checked_sub(place).map(|i| tokens[i]);
            prop_assert_eq!(Token(-at).of(&subject), from_the_end);
        }
    }
}
