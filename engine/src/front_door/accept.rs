//! One event's JSON to one log record: scanned once, checked, stamped where it lacks an id or a time, copied at most once.
//!
//! Pure: time and new ids come in as arguments. Not here: how a request is cut into events, see [`super::split`].

use std::{borrow::Cow, fmt, ops::Range};

use bytes::Bytes;
use keyloom_actors::{
    dead_letter::Reason,
    event::{
        dedupe_id,
        fields::{self, Field, FieldId, Kind, Known, REJECTED, Value},
        key_paths::{EnvelopeKeys, FoundKey, KeyPaths},
    },
    key,
    ports::NewRecord,
    timestamp::Timestamp,
};

use super::depth;

/// Field names that begin with this belong to the engine's own events.
const RESERVED_PREFIX: &str = "keyloom.";
/// Longest explanation of a rejection, in bytes: it may quote names from the event, which have no limit of their own.
const TEXT_BYTES_MAX: usize = 300;
/// Spans are 32 bits wide, so nothing larger can be scanned, whatever the configured limit says.
const SCAN_BYTES_MAX: usize = u32::MAX as usize;

/// The rules by which events enter the log.
#[derive(Clone, Debug)]
pub struct Acceptor {
    /// Where the key of an event is.
    pub keys: KeyPaths,
    /// How many partitions the log has.
    pub partitions: u32,
    /// Largest event that is taken, in bytes, stamps included.
    pub event_bytes_max: usize,
}

/// One event on its way to the log.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// The partition whose log it belongs to.
    pub partition: u32,
    /// What the log stores.
    pub record: NewRecord,
}

/// Where an event's fields are among those of its body, and the well-known ones among them.
pub type Found = (Range<u32>, Known);

/// Why an event does not enter the log as it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rejection {
    /// The kind of reason: a metric label.
    pub reason: Reason,
    /// In words, for the sender.
    pub text: String,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason.label(), self.text)
    }
}

impl Rejection {
    /// Rejected for `reason`; of a long explanation the beginning is kept.
    pub fn new(reason: Reason, text: impl Into<String>) -> Self {
        let mut text = text.into();
        if text.len() > TEXT_BYTES_MAX {
            let cut = (0..=TEXT_BYTES_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            text.truncate(cut);
            text.push_str("...");
        }
        Self { reason, text }
    }
}

impl Acceptor {
    /// Judges one event and makes it a record. `json` is copied once.
    pub fn accept(
        &self,
        json: &[u8],
        now: Timestamp,
        new_id: &mut dyn FnMut() -> String,
    ) -> Result<Accepted, Rejection> {
        self.judge(json, None, None, &mut Vec::with_capacity(16), now, new_id).map(|(accepted, _)| accepted)
    }

    /// As [`Acceptor::accept`], for bulk: the event is `range` of `buffer`, and stays a slice of it if it needs no stamp.
    /// Its fields are appended to `fields`; which ones, is answered beside it, for [`NewRecord::scanned`]: none, where a
    /// stamp has moved them, or where the fields so far are larger than `buffer` itself.
    pub fn accept_slice(
        &self,
        buffer: &Bytes,
        range: Range<usize>,
        fields: &mut Vec<Field>,
        now: Timestamp,
        new_id: &mut dyn FnMut() -> String,
    ) -> Result<(Accepted, Option<Found>), Rejection> {
        self.accept_slice_from(None, buffer, range, fields, now, new_id)
    }

    /// As [`Acceptor::accept_slice`], for an event of a request in whose headers [`KeyPaths::note`] found `envelope`.
    pub fn accept_slice_from(
        &self,
        envelope: Option<&EnvelopeKeys>,
        buffer: &Bytes,
        range: Range<usize>,
        fields: &mut Vec<Field>,
        now: Timestamp,
        new_id: &mut dyn FnMut() -> String,
    ) -> Result<(Accepted, Option<Found>), Rejection> {
        let before = fields.len();
        let json = buffer.get(range).unwrap_or_default();
        let judged = self.judge(json, envelope, Some(buffer), fields, now, new_id);
        let is_kept = matches!(judged, Ok((_, Some(_)))) && size_of_val(&fields[..]) <= buffer.len();
        if !is_kept {
            fields.truncate(before);
        }
        let found = before as u32..fields.len() as u32;
        judged.map(|(accepted, known)| (accepted, known.filter(|_| is_kept).map(|known| (found, known))))
    }

    /// Also says where the well-known fields are, if `fields` describe the payload as it is stored.
    fn judge(
        &self,
        json: &[u8],
        envelope: Option<&EnvelopeKeys>,
        shared: Option<&Bytes>,
        fields: &mut Vec<Field>,
        now: Timestamp,
        new_id: &mut dyn FnMut() -> String,
    ) -> Result<(Accepted, Option<Known>), Rejection> {
        let json = json.trim_ascii();
        self.check_size(json.len())?;
        check_shape(json)?;
        let start = fields.len();
        let text = std::str::from_utf8(json).map_err(|_| Rejection::new(Reason::Parse, "not valid UTF-8"))?;
        let known = fields::scan(text, fields).map_err(|e| Rejection::new(Reason::Parse, e.to_string()))?;
        let scratch = &fields[start..];
        check_names(text, scratch)?;
        check_depth(text, scratch)?;
        let own = |bytes: &[u8]| match shared {
            Some(whole) => whole.slice_ref(bytes),
            None => Bytes::copy_from_slice(bytes),
        };
        let value = |id| scratch.get(known.place(id)?).map(|f| f.value(text));

        if let Some(reason) = value(FieldId::Rejected) {
            if reason.as_str().as_deref().and_then(Reason::from_label).is_none() {
                let labels: Vec<_> = Reason::ALL.iter().map(|r| r.label()).collect();
                let text = format!("{REJECTED} must be one of the texts {}", labels.join(", "));
                return Err(Rejection::new(Reason::Schema, text));
            }
            // Not stamped: the same refusal sent again must be the same bytes, so that the log absorbs it.
            let dedupe_id = Some(dedupe_id(b"", json));
            let record = NewRecord { key: Bytes::new(), dedupe_id, payload: own(json), scanned: None };
            return Ok((Accepted { partition: 0, record }, Some(known)));
        }

        let found = self.keys.find(scratch, &known, text, envelope);
        let key = found.map_err(|problem| Rejection::new(Reason::NoKey, problem))?;
        let key_bytes = key.as_str().as_bytes();
        let partition = key::partition_of(key_bytes, self.partitions);
        self.keys.check(scratch, &known, text).map_err(|problem| Rejection::new(Reason::Schema, problem))?;
        let (event_id, id_stamp) = event_id(value(FieldId::EventId), json, new_id)?;
        let time_stamp = match value(FieldId::CollectorTstamp) {
            Some(value) if value.kind != Kind::Null => None, // an invalid one stays too: the log's time counts then
            absent => Some(Stamp::new("collector_tstamp", &now.to_rfc3339(), absent, json)),
        };
        let dedupe_id = Some(dedupe_id(key_bytes, event_id.as_bytes()));
        let is_as_sent = id_stamp.is_none() && time_stamp.is_none();
        let record = if is_as_sent {
            let key = match &key {
                FoundKey::Payload(text) => own(text.as_bytes()),
                FoundKey::Apart(_) => Bytes::copy_from_slice(key_bytes),
            };
            NewRecord { key, dedupe_id, payload: own(json), scanned: None }
        } else {
            let payload = Bytes::from(splice(json, id_stamp.into_iter().chain(time_stamp)));
            self.check_size(payload.len())?;
            NewRecord { key: Bytes::copy_from_slice(key_bytes), dedupe_id, payload, scanned: None }
        };
        Ok((Accepted { partition, record }, is_as_sent.then_some(known)))
    }

    /// Whether an event of so many bytes is not too large.
    pub(super) fn check_size(&self, bytes: usize) -> Result<(), Rejection> {
        let limit = self.event_bytes_max.min(SCAN_BYTES_MAX);
        if bytes > limit {
            let text = format!("the event has {bytes} bytes; at most {limit} are taken");
            return Err(Rejection::new(Reason::TooLarge, text));
        }
        Ok(())
    }
}

/// Says what a value that is no object is, without quoting it.
fn check_shape(json: &[u8]) -> Result<(), Rejection> {
    let found = match json.first() {
        Some(b'{') => return Ok(()),
        None => "it is empty",
        Some(b'[') => "it is an array",
        Some(b'"') => "it is a string",
        Some(b'-' | b'0'..=b'9') => "it is a number",
        Some(_) => "it does not begin with {",
    };
    Err(Rejection::new(Reason::Parse, format!("not a JSON object: {found}")))
}

fn check_names(json: &str, fields: &[Field]) -> Result<(), Rejection> {
    // Of the reserved names, a tool may send the one that says what it refused; it is checked by itself.
    let unchecked = |field: &&Field| matches!(field.id, FieldId::Other | FieldId::Tick | FieldId::Answer);
    for field in fields.iter().filter(unchecked) {
        let raw = field.raw_name(json);
        let name = if raw.contains('\\') {
            Cow::Owned(serde_json::from_str::<String>(raw).unwrap_or_default())
        } else {
            Cow::Borrowed(raw.trim_matches('"'))
        };
        if name.starts_with(RESERVED_PREFIX) {
            let text =
                format!("the field {name} is reserved: names that begin with {RESERVED_PREFIX} are the engine's");
            return Err(Rejection::new(Reason::Schema, text));
        }
    }
    Ok(())
}

fn check_depth(json: &str, fields: &[Field]) -> Result<(), Rejection> {
    let values = fields.iter().map(|field| field.value(json));
    let mut nested = values.filter(|value| matches!(value.kind, Kind::Array | Kind::Object));
    if nested.all(|value| depth::is_within(value.raw, depth::LEVELS_MAX - 1)) {
        return Ok(());
    }
    let text = format!("the event has more than {} levels of objects and arrays", depth::LEVELS_MAX);
    Err(Rejection::new(Reason::Parse, text))
}

/// The event's id, and the stamp it needs when the client sent none.
fn event_id<'a>(
    value: Option<Value<'a>>,
    json: &[u8],
    new_id: &mut dyn FnMut() -> String,
) -> Result<(Cow<'a, str>, Option<Stamp>), Rejection> {
    let absent = match value {
        None => None,
        Some(value) => match value.kind {
            Kind::String => match value.as_str() {
                Some(text) if !text.is_empty() => return Ok((text, None)),
                Some(_) => Some(value),
                // A lone surrogate, for example: the scan lets it pass, and no reader could ever agree on what it says.
                None => return Err(Rejection::new(Reason::Schema, "event_id is not a valid JSON string")),
            },
            Kind::Null => Some(value),
            Kind::Bool => return Err(wrong_type("a boolean")),
            Kind::Number => return Err(wrong_type("a number")),
            Kind::Array => return Err(wrong_type("an array")),
            Kind::Object => return Err(wrong_type("an object")),
        },
    };
    let id = new_id();
    let stamp = Stamp::new("event_id", &id, absent, json);
    Ok((Cow::Owned(id), Some(stamp)))
}

fn wrong_type(found: &str) -> Rejection {
    Rejection::new(Reason::Schema, format!("event_id is {found}, expected a string"))
}

/// One field to write into an event: in place of a null or empty value, else in front of the others.
struct Stamp {
    name: &'static str,
    json_text: String,
    replaced: Option<Range<usize>>,
}

impl Stamp {
    fn new(name: &'static str, text: &str, absent: Option<Value<'_>>, json: &[u8]) -> Self {
        let replaced = absent.and_then(|value| {
            let start = (value.raw.as_ptr() as usize).checked_sub(json.as_ptr() as usize)?;
            (start + value.raw.len() <= json.len()).then(|| start..start + value.raw.len())
        });
        Self { name, json_text: serde_json::Value::from(text).to_string(), replaced }
    }
}

/// Writes `stamps` into the object `json`, which begins with its brace.
fn splice(json: &[u8], stamps: impl Iterator<Item = Stamp>) -> Vec<u8> {
    let (mut replacing, in_front): (Vec<Stamp>, Vec<Stamp>) = stamps.partition(|s| s.replaced.is_some());
    replacing.sort_by_key(|s| s.replaced.as_ref().map(|r| r.start));
    let mut out = Vec::with_capacity(json.len() + 128); // both stamps take 111 bytes with ids of the usual length
    out.push(b'{');
    for stamp in &in_front {
        out.extend_from_slice(format!("\"{}\":{},", stamp.name, stamp.json_text).as_bytes());
    }
    let mut copied = 1;
    let has_fields = json[1..].trim_ascii_start().first() != Some(&b'}');
    if !has_fields && !in_front.is_empty() {
        out.pop(); // no comma before the closing brace
    }
    for stamp in &replacing {
        let Some(range) = &stamp.replaced else { continue };
        out.extend_from_slice(&json[copied..range.start]);
        out.extend_from_slice(stamp.json_text.as_bytes());
        copied = range.end;
    }
    out.extend_from_slice(&json[copied..]);
    out
}

#[cfg(test)]
mod tests {
    use keyloom_actors::event::key_paths::Envelope;
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp(1_795_176_000_000_000);
    const NOW_TEXT: &str = "2026-11-20T12:00:00.000000Z";

    fn acceptor() -> Acceptor {
        Acceptor { keys: KeyPaths::new(["domain_userid", "user.id"]), partitions: 4, event_bytes_max: 1000 }
    }

    fn accept(json: &str) -> Result<Accepted, Rejection> {
        let (a, b) = (&mut || "NEW".to_owned(), &mut || "NEW".to_owned());
        let copied = acceptor().accept(json.as_bytes(), NOW, a);
        let buffer = Bytes::from(format!("x{json}y"));
        let mut found = Vec::new();
        let sliced = acceptor().accept_slice(&buffer, 1..json.len() + 1, &mut found, NOW, b);
        if let Ok((accepted, range)) = &sliced {
            check_fields(&accepted.record.payload, &found, range.clone());
        }
        match (&copied, &sliced) {
            (Ok(x), Ok((y, _))) => assert_eq!(
                (x.partition, &x.record.key, x.record.dedupe_id, &x.record.payload),
                (y.partition, &y.record.key, y.record.dedupe_id, &y.record.payload)
            ),
            (x, y) => assert_eq!(x.as_ref().err(), y.as_ref().err()),
        }
        copied
    }

    /// What goes with an event is what a scan of the stored bytes finds, and nothing is kept that goes with no event.
    fn check_fields(stored: &[u8], found: &[Field], range: Option<Found>) {
        let text = std::str::from_utf8(stored).expect("accepted");
        let said = |fields: &[Field]| -> Vec<(String, String)> {
            fields.iter().map(|f| (f.raw_name(text).to_owned(), f.value(text).raw.to_owned())).collect()
        };
        let mut scanned = Vec::new();
        let known = fields::scan(text, &mut scanned).expect("accepted");
        match range {
            Some((range, told)) => {
                assert_eq!((said(&found[range.start as usize..range.end as usize]), told), (said(&scanned), known));
            }
            None => assert!(found.is_empty()),
        }
    }

    #[test]
    fn fields_go_along_unless_a_stamp_moved_them_or_they_outgrow_the_body() {
        let sent = |extra: &str| format!(r#"{{"domain_userid":"u","collector_tstamp":"2026-11-20T12:00:00Z"{extra}}}"#);
        let found = |body: &str| {
            let buffer = Bytes::copy_from_slice(body.as_bytes());
            let mut fields = Vec::new();
            let (_, range) = acceptor()
                .accept_slice(&buffer, 0..body.len(), &mut fields, NOW, &mut || "NEW".to_owned())
                .expect("a good event");
            range.map(|(range, _)| range)
        };
        assert_eq!(found(&sent(r#","event_id":"1""#)), Some(0..3));
        assert_eq!(found(&sent("")), None, "an id was put in front");
        let tiny: String = (0..100).map(|i| format!(r#","{i}":1"#)).collect();
        assert_eq!(found(&sent(&format!(r#","event_id":"1"{tiny}"#))), None, "20 bytes each for events of 8");
    }

    #[test]
    fn stamps_go_where_something_is_missing() {
        let id = r#""event_id":"NEW""#;
        let time = format!(r#""collector_tstamp":"{NOW_TEXT}""#);
        let cases = [
            (
                r#"{"event_id":"e","collector_tstamp":"bad","domain_userid":"u"}"#,
                r#"{"event_id":"e","collector_tstamp":"bad","domain_userid":"u"}"#.to_owned(),
            ),
            (" {\"domain_userid\":\"u\"}\r\n", format!(r#"{{{id},{time},"domain_userid":"u"}}"#)),
            (
                r#"{"domain_userid":"u","collector_tstamp":1795176000123}"#,
                format!(r#"{{{id},"domain_userid":"u","collector_tstamp":1795176000123}}"#),
            ),
            (
                r#"{"domain_userid":"u","event_id": null,"collector_tstamp":null }"#,
                format!(r#"{{"domain_userid":"u","event_id": "NEW","collector_tstamp":"{NOW_TEXT}" }}"#),
            ),
            (
                r#"{ "collector_tstamp":null,"domain_userid":"u","event_id":"x","event_id":""}"#,
                format!(r#"{{ {time},"domain_userid":"u","event_id":"x",{id}}}"#),
            ),
        ];
        for (sent, stored) in cases {
            let accepted = accept(sent).expect(sent);
            assert_eq!(std::str::from_utf8(&accepted.record.payload), Ok(stored.as_str()));
            assert_eq!(&accepted.record.key[..], b"u");
            let event_id = if sent.contains("\"e\"") { "e" } else { "NEW" };
            assert_eq!(accepted.record.dedupe_id, Some(dedupe_id(b"u", event_id.as_bytes())));
            assert_eq!(accepted.partition, key::partition_of(b"u", 4));
            serde_json::from_str::<serde_json::Value>(&stored).expect("what is stored is JSON");
        }
    }

    #[test]
    fn an_object_without_fields_gets_no_stray_comma() {
        let stamp = || Stamp::new("event_id", "a\"b", None, b"{ }");
        assert_eq!(splice(b"{ }", std::iter::once(stamp())), br#"{"event_id":"a\"b" }"#);
    }

    #[test]
    fn rejections_name_the_reason() {
        let long = format!(r#"{{"domain_userid":"u","x":"{}"}}"#, "x".repeat(1000));
        let fits_unstamped = format!(r#"{{"domain_userid":"u","x":"{}"}}"#, "x".repeat(960));
        let cases = [
            ("", "parse: not a JSON object: it is empty"),
            ("[1]", "parse: not a JSON object: it is an array"),
            ("\"secret\"", "parse: not a JSON object: it is a string"),
            ("-1", "parse: not a JSON object: it is a number"),
            ("nope", "parse: not a JSON object: it does not begin with {"),
            ("{\"a\":1", "parse: not a JSON object: "),
            (r#"{"a":1}"#, "no_key: none of these fields is present: domain_userid, user.id"),
            (r#"{"domain_userid":7}"#, "no_key: domain_userid is not a string"),
            (r#"{"domain_userid":"u","event_id":7}"#, "schema: event_id is a number, expected a string"),
            (r#"{"domain_userid":"u","event_id":{}}"#, "schema: event_id is an object, expected a string"),
            (r#"{"domain_userid":"u","keyloom.tick":1}"#, "schema: the field keyloom.tick is reserved"),
            (r#"{"domain_userid":"u","keyloom.answer":{}}"#, "schema: the field keyloom.answer is reserved"),
            (r#"{"domain_userid":"u","keyloom.anything":{}}"#, "schema: the field keyloom.anything is reserved"),
            (r#"{"domain_userid":"u","keyloom\u002etick":1}"#, "schema: the field keyloom.tick is reserved"),
            (r#"{"keyloom.rejected":"whatever"}"#, "schema: keyloom.rejected must be one of"),
            (r#"{"keyloom.rejected":3}"#, "schema: keyloom.rejected must be one of"),
            (long.as_str(), "too_large: the event has 1028 bytes; at most 1000 are taken"),
            (fits_unstamped.as_str(), "too_large: the event has "),
        ];
        for (sent, expected) in cases {
            let text = accept(sent).expect_err(sent).to_string();
            assert!(text.starts_with(expected), "{sent}: {text}");
            assert!(text.len() < 400, "{sent}");
        }
        let nested = |levels: usize| {
            format!(r#"{{"domain_userid":"u","x":{}{}}}"#, "[".repeat(levels - 1), "]".repeat(levels - 1))
        };
        assert!(accept(&nested(64)).is_ok());
        let text = accept(&nested(65)).expect_err("too deep").to_string();
        assert_eq!(text, "parse: the event has more than 64 levels of objects and arrays");
        let flood = format!(r#"{{"keyloom.{}":1}}"#, "ü".repeat(400));
        assert!(accept(&flood).expect_err("reserved").text.len() <= TEXT_BYTES_MAX + 3);
    }

    #[test]
    fn what_the_request_says_counts_where_the_paths_say_so() {
        struct From<'a>(&'a str);
        impl Envelope for From<'_> {
            fn header(&self, name: &str) -> Option<Cow<'_, str>> {
                (name == "x-user").then_some(Cow::Borrowed(self.0))
            }
            fn subject(&self) -> Option<&str> {
                None
            }
        }
        let keys = KeyPaths::new(["domain_userid", "header:X-User", "subject:2"]);
        let find = |keys: KeyPaths, json: &'static str, header: &str| {
            let envelope = keys.note(&From(header));
            let acceptor = Acceptor { keys, ..acceptor() };
            let (body, mut fields) = (Bytes::from_static(json.as_bytes()), Vec::new());
            let new_id = &mut || "NEW".to_owned();
            let accepted =
                acceptor.accept_slice_from(envelope.as_deref(), &body, 0..json.len(), &mut fields, NOW, new_id);
            accepted.map(|(accepted, _)| (accepted.partition, accepted.record.key)).map_err(|e| e.to_string())
        };
        let of = |key: &'static str| (key::partition_of(key.as_bytes(), 4), Bytes::from_static(key.as_bytes()));
        assert_eq!(find(keys.clone(), r#"{"domain_userid":"p"}"#, "h"), Ok(of("p")));
        assert_eq!(find(keys.clone(), r#"{"event_id":"1","collector_tstamp":1}"#, "h"), Ok(of("h")));
        assert_eq!(find(keys.clone(), "{}", "h"), Ok(of("h")));
        let empty = find(keys.clone(), "{}", "").expect_err("no key");
        assert!(empty.starts_with("no_key: header:x-user: the key is empty"), "{empty}");
        assert_eq!(find(keys.with_fallback(Some("f")), "{}", ""), Ok(of("f")));
    }

    #[test]
    fn a_refusal_recorded_by_a_tool_needs_no_key_and_repeats_are_equal() {
        let sent = r#"{"keyloom.rejected":"parse","error":"x","source":"f:1"}"#;
        let (first, second) = (accept(sent).expect("a refusal"), accept(sent).expect("again"));
        assert_eq!((first.partition, first.record.key.len(), &first.record.payload[..]), (0, 0, sent.as_bytes()));
        assert_eq!(first.record.dedupe_id, second.record.dedupe_id);
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _either_way = acceptor().accept(&bytes, NOW, &mut || "NEW".to_owned());
        }

        #[test]
        fn what_is_stored_says_what_was_sent(
            mut event in proptest::collection::btree_map("[a-z\"\\\\ü]{0,6}", "\\PC{0,8}", 0..6),
            id in proptest::option::of(proptest::option::of("\\PC{0,5}")),
            pretty in any::<bool>(),
        ) {
            event.insert("domain_userid".into(), "u".into());
            let mut sent = serde_json::to_value(&event).expect("serializable");
            if let Some(id) = &id {
                sent["event_id"] = serde_json::json!(id);
            }
            let text = if pretty { serde_json::to_vec_pretty(&sent) } else { serde_json::to_vec(&sent) };
            let text = String::from_utf8(text.expect("JSON")).expect("text");
            let accepted = accept(&text).expect("a good event");
            let mut stored: serde_json::Value = serde_json::from_slice(&accepted.record.payload).expect("stored JSON");
            let kept = id.flatten().filter(|i| !i.is_empty());
            prop_assert_eq!(stored["event_id"].as_str(), Some(kept.as_deref().unwrap_or("NEW")));
            prop_assert_eq!(stored["collector_tstamp"].as_str(), Some(NOW_TEXT));
            for value in [&mut sent, &mut stored] {
                let map = value.as_object_mut().expect("an object");
                map.remove("event_id");
                map.remove("collector_tstamp");
            }
            prop_assert_eq!(sent, stored);
        }
    }
}
