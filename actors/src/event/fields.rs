//! One pass over an event's JSON: where its top-level fields are.
//!
//! Pure. Every consumer of an event (key, handler, table) reads fields through the spans found here, so the text is
//! scanned once. Values are checked to be JSON, but nested ones are not taken apart.

use std::{borrow::Cow, fmt, ops::Range, sync::Arc};

use serde::de::{Deserialize, DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Most top-level fields of one event; more is refused as unparseable. A limit, because each field costs a span.
pub const FIELDS_MAX: usize = 1_024;

macro_rules! well_known {
    ($($(#[$doc:meta])* $id:ident = $name:literal),+ $(,)?) => {
        /// The fields that Keyloom knows by name. Everything else is [`FieldId::Other`].
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub enum FieldId { $($(#[$doc])* $id,)+ /** Any other field, found by its name. */ Other }

        impl FieldId {
            /// The well-known fields, in the order of the enum.
            pub const KNOWN: &[(FieldId, &str)] = &[$((FieldId::$id, $name)),+];

            /// The id of a field name.
            pub fn of(name: &str) -> Self {
                // Lengths first: comparing texts one by one costs as much as the rest of the scan.
                $(if name.len() == $name.len() && name == $name { return Self::$id; })+
                Self::Other
            }
        }
    };
}

well_known! {
    /// Which application sent the event.
    AppId = "app_id",
    /// `web`, `mob`, `srv`, ...
    Platform = "platform",
    /// When the front door stored the event.
    CollectorTstamp = "collector_tstamp",
    /// When the device says it made the event.
    DvceCreatedTstamp = "dvce_created_tstamp",
    /// The kind of event: `page_view`, ...
    Event = "event",
    /// The client's id of the event.
    EventId = "event_id",
    /// The address the event came from.
    UserIpaddress = "user_ipaddress",
    /// First-party cookie of the browser; the default key.
    DomainUserid = "domain_userid",
    /// The session as the client counts it.
    SessionId = "session_id",
    /// The page.
    PageUrl = "page_url",
    /// The logged-in user.
    UserId = "user_id",
    /// Third-party (collector) cookie.
    NetworkUserid = "network_userid",
    /// When the event happened, the device's clock set right by the front door's: event time, where it is valid.
    DerivedTstamp = "derived_tstamp",
    /// Set by Keyloom's own tools on what they refused, see [`REJECTED`].
    Rejected = "keyloom.rejected",
    /// The engine's own: a timer of the key is due, see [`TICK`].
    Tick = "keyloom.tick",
    /// The engine's own: the answer to a question of the key, see [`ANSWER`].
    Answer = "keyloom.answer",
}

/// Name of the field that marks an event which a tool refused: its value is the dead-letter reason, and the rest of the
/// event says where it came from. Such an event needs no key.
pub const REJECTED: &str = "keyloom.rejected";

/// Name of the field that makes an event a tick: its value is a time at which a timer of the key is due. The engine appends
/// ticks for keys that have a timer and no events; no handler and no table sees them.
pub const TICK: &str = "keyloom.tick";

/// Name of the field that makes an event the answer to a question of its key, see [`crate::handler::look_ups::Said`].
pub const ANSWER: &str = "keyloom.answer";

/// The JSON type of a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `null`
    Null,
    /// `true` or `false`
    Bool,
    /// A number.
    Number,
    /// A string.
    String,
    /// An array.
    Array,
    /// An object.
    Object,
}

/// Where one field is in its payload. 20 bytes.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Which field.
    pub id: FieldId,
    kind: Kind,
    name: (u32, u32),
    value: (u32, u32),
}

/// Where the well-known fields are among the fields of one event, so that looking one up reads nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known([u16; FieldId::KNOWN.len()]); // place + 1; 0 says that there is none

impl Known {
    /// The place of a well-known field.
    pub fn place(&self, id: FieldId) -> Option<usize> {
        let place = self.0.get(id as usize)?;
        usize::from(*place).checked_sub(1)
    }

    fn set(&mut self, id: FieldId, place: usize) {
        if let Some(known) = self.0.get_mut(id as usize) {
            *known = u16::try_from(place + 1).unwrap_or(0); // never more than FIELDS_MAX
        }
    }
}

/// The fields of one event among those of many that were scanned together: whoever scanned them hands them on with the
/// text, so that it is scanned once on its way from the front door to sessions and tables.
#[derive(Clone, Debug)]
pub struct Scanned {
    fields: Arc<Vec<Field>>,
    from: u32,
    to: u32,
    known: Known,
}

impl Scanned {
    /// The fields at `range` of `fields`, with what [`scan`] answered about them.
    pub fn new(fields: Arc<Vec<Field>>, range: Range<u32>, known: Known) -> Self {
        Self { fields, from: range.start, to: range.end, known }
    }

    /// Where the well-known ones are.
    pub fn known(&self) -> Known {
        self.known
    }

    /// The fields.
    pub fn as_slice(&self) -> &[Field] {
        self.fields.get(self.from as usize..self.to as usize).unwrap_or_default()
    }

    /// Lets `all` have their fields in one piece of memory that nobody else has a part of.
    pub fn gather<'a>(all: impl Iterator<Item = &'a mut Self>) {
        let mut all: Vec<&mut Self> = all.collect();
        let mut fields = Vec::with_capacity(all.iter().map(|scanned| scanned.as_slice().len()).sum());
        for scanned in &mut all {
            let from = fields.len() as u32; // no more than there were
            fields.extend_from_slice(scanned.as_slice());
            (scanned.from, scanned.to) = (from, fields.len() as u32);
        }
        let fields = Arc::new(fields);
        all.into_iter().for_each(|scanned| scanned.fields = Arc::clone(&fields));
    }

    /// Memory that the fields take.
    pub fn bytes(&self) -> usize {
        size_of_val(self.as_slice())
    }
}

/// A field's value, still as JSON text.
#[derive(Clone, Copy, Debug)]
pub struct Value<'a> {
    /// Its type.
    pub kind: Kind,
    /// Its JSON text, quotes included.
    pub raw: &'a str,
}

/// Why a payload is not an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// Not JSON, or not an object; the text says where.
    #[error("not a JSON object: {0}")]
    Json(String),
    /// More than [`FIELDS_MAX`] fields.
    #[error("more than {FIELDS_MAX} fields")]
    TooManyFields,
}

/// Scans `payload` and appends its fields to `fields`; answers where the well-known ones are among them. On an error
/// `fields` is as before.
///
/// A well-known field that occurs twice counts with its last value, as most JSON parsers have it.
pub fn scan(payload: &str, fields: &mut Vec<Field>) -> Result<Known, ScanError> {
    let start = fields.len();
    let mut deserializer = serde_json::Deserializer::from_str(payload);
    let scanned =
        Scan { payload, fields }.deserialize(&mut deserializer).and_then(|known| deserializer.end().map(|()| known));
    let result = match scanned {
        Err(error) => Err(ScanError::Json(error.to_string())),
        Ok(_) if fields.len() - start > FIELDS_MAX => Err(ScanError::TooManyFields),
        Ok(known) => Ok(known),
    };
    if result.is_err() {
        fields.truncate(start);
    }
    result
}

/// Pushes the fields of one object, straight from the parser.
struct Scan<'p, 'f> {
    payload: &'p str,
    fields: &'f mut Vec<Field>,
}

impl<'de> DeserializeSeed<'de> for Scan<'de, '_> {
    type Value = Known;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Known, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Scan<'de, '_> {
    type Value = Known;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Known, A::Error> {
        let first = self.fields.len();
        let base = self.payload.as_ptr() as usize;
        let (mut end, mut known) = (0usize, Known::default());
        while let Some(Name(id)) = map.next_key()? {
            let value: &'de RawValue = map.next_value()?;
            let raw = value.get();
            let start = raw.as_ptr() as usize - base;
            // Between two values stands `, "name" :`, so the name needs no span of its own from the parser.
            let gap = &self.payload.as_bytes()[end..start];
            let open = gap.iter().position(|b| *b == b'"').unwrap_or(0);
            let close = gap.iter().rposition(|b| *b == b'"').unwrap_or(0);
            let name = ((end + open) as u32, (end + close + 1) as u32);
            end = start + raw.len();
            let field = Field { id, kind: kind_of(raw.as_bytes()), name, value: (start as u32, end as u32) };
            if let Some(earlier) = known.place(id) {
                self.fields[first + earlier] = field;
                continue;
            }
            let place = self.fields.len() - first;
            if place <= FIELDS_MAX {
                known.set(id, place);
                self.fields.push(field); // one more than allowed, so that the caller sees it
            }
        }
        Ok(known)
    }
}

struct Name(FieldId);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Name;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a field name")
            }
            fn visit_str<E>(self, name: &str) -> Result<Name, E> {
                Ok(Name(FieldId::of(name)))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

fn kind_of(raw: &[u8]) -> Kind {
    match raw.first() {
        Some(b'"') => Kind::String,
        Some(b'{') => Kind::Object,
        Some(b'[') => Kind::Array,
        Some(b't' | b'f') => Kind::Bool,
        Some(b'n') | None => Kind::Null,
        Some(_) => Kind::Number,
    }
}

impl Field {
    /// The value in `payload`, the text that was scanned.
    pub fn value<'a>(&self, payload: &'a str) -> Value<'a> {
        Value { kind: self.kind, raw: text(payload, self.value) }
    }

    /// The name as JSON text, quotes included.
    pub fn raw_name<'a>(&self, payload: &'a str) -> &'a str {
        text(payload, self.name)
    }
}

/// The value of member `name` of a JSON object, as JSON text. Nothing else is taken apart.
pub fn member<'a>(object: &'a str, name: &str) -> Option<&'a str> {
    struct Find<'n>(&'n str);
    impl<'de> DeserializeSeed<'de> for Find<'_> {
        type Value = Option<&'de str>;
        fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
            deserializer.deserialize_map(self)
        }
    }
    impl<'de> Visitor<'de> for Find<'_> {
        type Value = Option<&'de str>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut found = None;
            while let Some(name) = map.next_key::<Cow<'de, str>>()? {
                let value: &'de RawValue = map.next_value()?;
                if name == self.0 {
                    found = Some(value.get());
                }
            }
            Ok(found)
        }
    }
    let mut deserializer = serde_json::Deserializer::from_str(object);
    Find(name).deserialize(&mut deserializer).ok().flatten()
}

fn text(payload: &str, (from, to): (u32, u32)) -> &str {
    payload.get(from as usize..to as usize).unwrap_or("")
}

impl<'a> Value<'a> {
    /// The value that `raw`, one JSON value without blanks around it, says.
    pub fn of(raw: &'a str) -> Self {
        Self { kind: kind_of(raw.as_bytes()), raw }
    }

    /// The text of a string; `None` for another type. Borrowed unless the string has escapes.
    pub fn as_str(&self) -> Option<Cow<'a, str>> {
        if self.kind != Kind::String || self.raw.len() < 2 {
            return None;
        }
        let inner = &self.raw[1..self.raw.len() - 1];
        if memchr::memchr(b'\\', inner.as_bytes()).is_none() {
            return Some(Cow::Borrowed(inner));
        }
        serde_json::from_str::<String>(self.raw).ok().map(Cow::Owned)
    }

    /// The value of a number; `None` for another type.
    pub fn as_f64(&self) -> Option<f64> {
        (self.kind == Kind::Number).then(|| self.raw.parse().ok()).flatten()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scanned(payload: &str) -> Result<Vec<(FieldId, String, String)>, ScanError> {
        let mut fields = Vec::new();
        scan(payload, &mut fields)?;
        let bytes = payload;
        Ok(fields.iter().map(|f| (f.id, f.raw_name(bytes).to_owned(), f.value(bytes).raw.to_owned())).collect())
    }

    #[test]
    fn names_and_values_are_found_in_place() {
        let found = scanned(r#" { "event" : "page_view" ,"x\"y":{"a":[1,"}"]}, "n":-1.5e3,"page_url":null}"#);
        let expected = [
            (FieldId::Event, "\"event\"", "\"page_view\""),
            (FieldId::Other, r#""x\"y""#, r#"{"a":[1,"}"]}"#),
            (FieldId::Other, "\"n\"", "-1.5e3"),
            (FieldId::PageUrl, "\"page_url\"", "null"),
        ];
        let expected: Vec<_> = expected.iter().map(|(i, n, v)| (*i, (*n).to_owned(), (*v).to_owned())).collect();
        assert_eq!(found, Ok(expected));
    }

    #[test]
    fn what_is_not_an_object_is_refused_and_leaves_nothing() {
        for bad in
            ["", "[]", "1", "{", "{\"a\":}", "{\"a\":1}x", "{\"a\":{\"b\":tru}}", "{\"a\":[1,]}", "{a:1}", "\u{1}"]
        {
            let mut fields = Vec::new();
            assert!(scan(bad, &mut fields).is_err(), "{bad}");
            assert!(fields.is_empty());
        }
    }

    #[test]
    fn the_last_of_two_equal_names_counts() {
        let found = scanned(r#"{"event":"a","event":"b"}"#).expect("an object");
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].2, "\"b\"");
    }

    #[test]
    fn a_flood_of_fields_is_refused() {
        let many: Vec<String> = (0..=FIELDS_MAX).map(|i| format!("\"f{i}\":1")).collect();
        assert_eq!(scanned(&format!("{{{}}}", many.join(","))), Err(ScanError::TooManyFields));
    }

    #[test]
    fn deep_nesting_does_not_overflow_the_stack() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(200_000), "]".repeat(200_000));
        let _either_way = scan(&deep, &mut Vec::new());
    }

    #[test]
    fn escapes_are_decoded_on_demand() {
        let mut fields = Vec::new();
        let payload = r#"{"page_url":"a\u00fc\n","event":"plain"}"#;
        scan(payload, &mut fields).expect("an object");
        assert_eq!(fields[0].value(payload).as_str().as_deref(), Some("aü\n"));
        assert!(matches!(fields[1].value(payload).as_str(), Some(Cow::Borrowed("plain"))));
    }

    proptest! {
        #[test]
        fn agrees_with_serde_json(map in proptest::collection::btree_map("\\PC{0,8}", "\\PC{0,12}", 0..12)) {
            let payload = serde_json::to_string(&map).expect("serializable");
            let mut fields = Vec::new();
            scan(&payload, &mut fields).expect("an object");
            let back: std::collections::BTreeMap<String, String> = fields
                .iter()
                .map(|f| {
                    let name = serde_json::from_str(f.raw_name(&payload)).expect("a name");
                    (name, f.value(&payload).as_str().expect("a string").into_owned())
                })
                .collect();
            prop_assert_eq!(back, map);
        }

        #[test]
        fn never_panics_on_text(text in "\\PC{0,200}", cut in "[\\{\\}\\[\\]\",:0-9a-z\\\\ ]{0,60}") {
            let _either_way = scan(&text, &mut Vec::new());
            let _either_way = scan(&cut, &mut Vec::new());
        }
    }
}
