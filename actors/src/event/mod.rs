//! Events on their way from the log to sessions and tables: decoded once, shared by reference.
//!
//! Pure. A batch is immutable; who still needs it holds an `Arc`, and the credit returns with the last one.

pub mod fields;
pub mod key_paths;
pub mod members;

use std::{borrow::Cow, ops::Range, sync::Arc};

use bytes::Bytes;
use bytestring::ByteString;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use self::{
    fields::{Field, FieldId, Known, Scanned, Value},
    key_paths::FoundKey,
};
use crate::{
    dead_letter::Reason,
    handler::Fault,
    key,
    partition::credit::CreditGuard,
    ports::LogRecord,
    timestamp::{DAY, Timestamp},
};

pub use self::key_paths::KeyPaths;

/// Event times before this (2000-01-01) are clamped to the time of storing.
const EVENT_TIME_MIN: Timestamp = Timestamp(946_684_800_000_000);

/// One decoded event.
#[derive(Debug)]
pub struct Event {
    /// Its sequence in the log of its partition.
    pub seq: u64,
    /// When the log stored it.
    pub stored: Timestamp,
    /// When the front door received it.
    pub collected: Timestamp,
    /// Event time: derived where the event says it, else the collector's; the first that is in a sane range counts, and the
    /// time of storing where none is.
    pub time: Timestamp,
    /// Hash of its event id, for the per-key memory of recent ids; `None` without an id (it cannot be a repeat then).
    pub id_hash: Option<u64>,
    /// Hash of its key, see [`key::shard_of`].
    pub key_hash: u64,
    /// The key; empty when the event is refused for the lack of one.
    pub key: ByteString,
    /// The event as JSON; empty when it is refused because it is no text at all.
    pub text: ByteString,
    /// Why it cannot be processed, if so.
    pub refused: Option<Box<Refused>>,
    /// Set when it is the engine's own.
    pub own: Option<Own>,
    /// Its fields, where they came with it; else they are in the batch.
    scanned: Option<Scanned>,
    fields: Range<u32>,
    known: Known,
}

/// Events that the engine itself appends for a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Own {
    /// It only says that a timer of the key is due, see [`fields::TICK`].
    Tick,
    /// The answer to a question of the key, see [`fields::ANSWER`].
    Answer,
}

/// Why an event cannot be processed.
#[derive(Debug, Clone)]
pub struct Refused {
    /// The kind of reason.
    pub reason: Reason,
    /// In words.
    pub text: String,
    /// What was sent.
    pub payload: Bytes,
}

/// Events of one partition, in the order of its log.
#[derive(Debug)]
pub struct EventBatch {
    /// The partition.
    pub partition: u32,
    /// The events, sequences ascending.
    pub events: Vec<Event>,
    /// Event times that had to be clamped.
    pub clamped: u64,
    fields: Vec<Field>,
    /// Given back when the last holder drops the batch.
    _credit: Option<CreditGuard>,
}

/// An event together with its batch: what consumers read fields from.
#[derive(Clone, Copy)]
pub struct EventRef<'a> {
    event: &'a Event,
    fields: &'a [Field],
}

/// A batch as one shard holds it. Counting its references apart keeps the threads of different shards from writing to the
/// same counter for every event.
pub type ShardBatch = Arc<Arc<EventBatch>>;

/// One event of a shared batch, owned: what waits in the queue of a session.
#[derive(Clone, Debug)]
pub struct QueuedEvent {
    batch: ShardBatch,
    index: u32,
}

/// The value of a field: by its id, and by its name where the id is [`FieldId::Other`].
pub(crate) fn field_value<'a>(
    fields: &[Field],
    known: &Known,
    payload: &'a str,
    id: FieldId,
    name: &str,
) -> Option<Value<'a>> {
    if id != FieldId::Other {
        return fields.get(known.place(id)?).map(|f| f.value(payload));
    }
    let same = |f: &&Field| {
        let raw = f.raw_name(payload);
        f.id == FieldId::Other && raw.len() == name.len() + 2 && &raw[1..raw.len() - 1] == name
    };
    fields.iter().find(same).map(|f| f.value(payload))
}

/// What a handler can ask for as its event.
pub trait FromEvent<'e>: Sized {
    /// Reads it; [`Fault::Reject`] when the event does not fit.
    fn from_event(event: EventRef<'e>) -> Result<Self, Fault>;
}

impl<'e> FromEvent<'e> for EventRef<'e> {
    fn from_event(event: EventRef<'e>) -> Result<Self, Fault> {
        Ok(event)
    }
}

impl<'e, T: serde::de::Deserialize<'e>> FromEvent<'e> for T {
    fn from_event(event: EventRef<'e>) -> Result<Self, Fault> {
        event.parse()
    }
}

/// The payload of a tick, see [`fields::TICK`]: of event time `due`, or of the earliest that is sane. What is earlier would be
/// clamped to the time of storing when it is read, and fire timers that are not due.
pub fn tick(due: Timestamp) -> Bytes {
    let due = due.max(EVENT_TIME_MIN).to_rfc3339();
    format!("{{\"{}\":\"{due}\",\"collector_tstamp\":\"{due}\"}}", fields::TICK).into()
}

/// What the log absorbs repeats by: 128-bit hash of key and event id, never the bare id, because clients that send a
/// constant id must not lose events.
pub fn dedupe_id(key: &[u8], event_id: &[u8]) -> u128 {
    let mut both = Vec::with_capacity(key.len() + 1 + event_id.len());
    both.extend_from_slice(key);
    both.push(0xff); // no UTF-8 text contains this byte, so the pair is unambiguous
    both.extend_from_slice(event_id);
    xxh3_128(&both)
}

impl Event {
    /// What time it is at least, for the clock of its partition, which fires the timers of all keys: its own time, but none
    /// later than when it was stored. Else one sender whose clock runs ahead would fire the timers of everybody early.
    pub fn proves(&self) -> Timestamp {
        self.time.min(self.stored)
    }

    /// Whether tables that follow the log have a row of it: not of what nobody can read, and not of the engine's own.
    pub fn enters_tables(&self) -> bool {
        self.own.is_none() && !self.refused.as_ref().is_some_and(|refused| refused.reason.enters_no_table())
    }

    /// What was sent, cut to `bytes_max`, and its full length: for a dead letter.
    pub fn payload(&self, bytes_max: usize) -> (Bytes, u64) {
        let payload = self.refused.as_ref().map_or_else(|| self.text.as_bytes(), |refused| &refused.payload);
        (payload.slice(..payload.len().min(bytes_max)), payload.len() as u64)
    }
}

impl EventBatch {
    /// Decodes records of one partition. Never fails: what cannot be processed says so in [`Event::refused`].
    pub fn decode(partition: u32, records: Vec<LogRecord>, keys: &KeyPaths, credit: Option<CreditGuard>) -> Self {
        let unscanned = records.iter().filter(|record| record.scanned.is_none()).count();
        let mut fields = Vec::with_capacity(unscanned * 14);
        let mut clamped = 0;
        let events = records.into_iter().map(|record| decode_one(record, keys, &mut fields, &mut clamped)).collect();
        Self { partition, events, clamped, fields, _credit: credit }
    }

    /// The event at `index`.
    pub fn get(&self, index: usize) -> EventRef<'_> {
        let event = &self.events[index];
        let fields = match &event.scanned {
            Some(scanned) => scanned.as_slice(),
            None => &self.fields[event.fields.start as usize..event.fields.end as usize],
        };
        EventRef { event, fields }
    }

    /// All events, in order.
    pub fn iter(&self) -> impl Iterator<Item = EventRef<'_>> {
        (0..self.events.len()).map(|i| self.get(i))
    }

    /// Sequence of the first event; 0 when empty.
    pub fn first_seq(&self) -> u64 {
        self.events.first().map_or(0, |e| e.seq)
    }

    /// Sequence of the last event; 0 when empty.
    pub fn last_seq(&self) -> u64 {
        self.events.last().map_or(0, |e| e.seq)
    }
}

fn decode_one(record: LogRecord, keys: &KeyPaths, fields: &mut Vec<Field>, clamped: &mut u64) -> Event {
    let LogRecord { seq, stored, key, payload, scanned: given, envelope } = record;
    let start = fields.len();
    let mut refused = None;
    let text = ByteString::try_from(payload.clone()).unwrap_or_else(|_| {
        refused = Some((Reason::Parse, "not valid UTF-8".to_owned()));
        ByteString::new()
    });
    let mut known = given.as_ref().map(Scanned::known).unwrap_or_default();
    if refused.is_none() && given.is_none() {
        match fields::scan(&text, fields) {
            Ok(found) => known = found,
            Err(error) => refused = Some((Reason::Parse, error.to_string())),
        }
    }
    let scanned = given.as_ref().map_or(&fields[start..], Scanned::as_slice);
    let value = |id| field_value(scanned, &known, &text, id, "");
    if let Some(reason) = value(FieldId::Rejected).and_then(|v| v.as_str()) {
        let reason = Reason::from_label(&reason).unwrap_or(Reason::Parse);
        let said = fields::member(&text, "error").and_then(|error| serde_json::from_str::<String>(error).ok());
        let said = said.filter(|said| !said.is_empty());
        refused = Some((reason, said.unwrap_or_else(|| "refused by the sender".to_owned())));
    }
    let is_foreign = key.as_ref().is_none_or(|key| key.is_empty());
    let mut key = key.map_or_else(
        || Ok(ByteString::new()),
        |given| ByteString::try_from(given).map_err(|_| key::KeyError::NotUtf8.to_string()),
    );
    if refused.is_none() && matches!(&key, Ok(key) if key.is_empty()) {
        key = keys.find(scanned, &known, &text, envelope.as_deref()).map(|found| match found {
            FoundKey::Payload(found) => text.slice_ref(found),
            FoundKey::Apart(found) => found,
        });
    }
    let checked = key.and_then(|key| key::check(&key).map(|()| key).map_err(|e| e.to_string()));
    let key = checked.unwrap_or_else(|problem| {
        refused.get_or_insert((Reason::NoKey, problem));
        ByteString::new()
    });
    // Whoever says the key has stood at the door, and judged the event there.
    if is_foreign
        && refused.is_none()
        && let Err(problem) = keys.check(scanned, &known, &text)
    {
        refused = Some((Reason::Schema, problem));
    }
    let instant = |id| value(id).and_then(|v| timestamp(&v));
    let mut own = known.place(FieldId::Tick).map(|_| Own::Tick).or(known.place(FieldId::Answer).map(|_| Own::Answer));
    if is_foreign && let Some(kind) = own.take() {
        // Only the engine may say that time has passed or what was answered, and what it says has a key.
        let name = if kind == Own::Tick { fields::TICK } else { fields::ANSWER };
        refused.get_or_insert((Reason::Schema, format!("the field {name} is reserved: only the engine sets it")));
    }
    let collected = instant(FieldId::CollectorTstamp).unwrap_or(stored);
    let is_sane = |time: &Timestamp| *time >= EVENT_TIME_MIN && time.0 <= stored.0.saturating_add(DAY);
    let wanted = instant(FieldId::DerivedTstamp).unwrap_or(collected);
    *clamped += u64::from(!is_sane(&wanted));
    let time = [wanted, collected].into_iter().find(is_sane).unwrap_or(stored);
    let event_id = value(FieldId::EventId).and_then(|v| v.as_str()).filter(|id| !id.is_empty());
    let id_hash = event_id.map(|id| xxh3_64(id.as_bytes()));
    let key_hash = key::hash_of(key.as_bytes());
    let refused = refused.map(|(reason, text)| Box::new(Refused { reason, text, payload }));
    let range = start as u32..fields.len() as u32;
    Event {
        seq,
        stored,
        collected,
        time,
        id_hash,
        key_hash,
        key,
        text,
        refused,
        own,
        scanned: given,
        fields: range,
        known,
    }
}

/// Reads a time from a JSON string or number, see [`Timestamp::parse`].
pub fn timestamp(value: &Value<'_>) -> Option<Timestamp> {
    match value.kind {
        fields::Kind::String => Timestamp::parse(&value.as_str()?),
        fields::Kind::Number => Timestamp::parse(value.raw),
        _ => None,
    }
}

impl<'a> EventRef<'a> {
    /// Whether it fits the gate of `keys`; the error says what does not.
    pub fn check(&self, keys: &KeyPaths) -> Result<(), String> {
        keys.check(self.fields, &self.event.known, &self.event.text)
    }

    /// The event.
    pub fn event(&self) -> &'a Event {
        self.event
    }

    /// The fields, in the order of the payload.
    pub fn fields(&self) -> &'a [Field] {
        self.fields
    }

    /// A field's value by id, for the well-known ones.
    pub fn value(&self, id: FieldId) -> Option<Value<'a>> {
        field_value(self.fields, &self.event.known, &self.event.text, id, "")
    }

    /// A field's value by its id, and by its name where the id is [`FieldId::Other`].
    pub fn find(&self, id: FieldId, name: &str) -> Option<Value<'a>> {
        field_value(self.fields, &self.event.known, &self.event.text, id, name)
    }

    /// A field's value by name.
    pub fn value_named(&self, name: &str) -> Option<Value<'a>> {
        field_value(self.fields, &self.event.known, &self.event.text, FieldId::of(name), name)
    }

    /// The whole event as a type of yours; an event that does not fit is rejected with the reason.
    pub fn parse<T: serde::de::Deserialize<'a>>(&self) -> Result<T, Fault> {
        serde_json::from_str(&self.event.text).map_err(|error| Fault::Reject(error.to_string()))
    }

    /// The text of a string field.
    pub fn text(&self, id: FieldId) -> Option<Cow<'a, str>> {
        self.value(id).and_then(|v| v.as_str())
    }

    /// The key as text.
    pub fn key_str(&self) -> &'a str {
        &self.event.key
    }
}

impl QueuedEvent {
    /// The event at `index` of `batch`.
    pub fn new(batch: ShardBatch, index: u32) -> Self {
        Self { batch, index }
    }

    /// The event.
    pub fn get(&self) -> EventRef<'_> {
        self.batch.get(self.index as usize)
    }

    /// Its sequence.
    pub fn seq(&self) -> u64 {
        self.batch.events[self.index as usize].seq
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(payload: &str, key: Option<&str>) -> EventBatch {
        let record = LogRecord {
            seq: 7,
            stored: Timestamp(1_795_176_000_000_000),
            key: key.map(|k| Bytes::copy_from_slice(k.as_bytes())),
            payload: Bytes::copy_from_slice(payload.as_bytes()),
            scanned: None,
            envelope: None,
        };
        EventBatch::decode(0, vec![record], &KeyPaths::new(["domain_userid", "user.id"]), None)
    }

    #[test]
    fn the_key_comes_from_the_log_or_from_the_first_usable_path() {
        assert_eq!(decode(r#"{"domain_userid":"d"}"#, Some("given")).get(0).key_str(), "given");
        assert_eq!(decode(r#"{"user":{"id":"u"},"domain_userid":"d"}"#, None).get(0).key_str(), "d");
        assert_eq!(decode(r#"{"user":{"id":"u"}}"#, None).get(0).key_str(), "u");
        assert_eq!(decode(r#"{"domain_userid":null,"user":{"id":"u"}}"#, None).get(0).key_str(), "u");
    }

    #[test]
    fn what_cannot_be_processed_says_why() {
        let refused = |payload| decode(payload, None).events[0].refused.as_deref().map(|r| (r.reason, r.text.clone()));
        assert_eq!(refused("{nope").map(|r| r.0), Some(Reason::Parse));
        let (reason, text) = refused(r#"{"event":"x"}"#).expect("no key");
        assert_eq!((reason, text.as_str()), (Reason::NoKey, "none of these fields is present: domain_userid, user.id"));
        let (reason, text) = refused(r#"{"domain_userid":12}"#).expect("a number is not a key");
        assert_eq!((reason, text.as_str()), (Reason::NoKey, "domain_userid is not a string"));
        let (reason, text) = refused(r#"{"keyloom.rejected":"too_large","error":"10 MB"}"#).expect("refused by a tool");
        assert_eq!((reason, text.as_str()), (Reason::TooLarge, "10 MB"));
    }

    #[test]
    fn what_does_not_fit_the_gate_keeps_its_key_and_only_strangers_are_stopped_there() {
        #[derive(Debug)]
        struct NoOrders;
        impl crate::event::key_paths::Gate for NoOrders {
            fn check(&self, event: &str, json: &str) -> Result<(), String> {
                if event == "order" { Err(format!("{} bytes", json.len())) } else { Ok(()) }
            }
        }
        let keys = KeyPaths::new(["k"]).with_gate(Some(Arc::new(NoOrders)));
        let refused = |payload: &str, key: Option<&str>| {
            let (seq, stored, scanned, envelope) = (7, Timestamp(1_795_176_000_000_000), None, None);
            let (key, payload) = (key.map(|key| key.to_owned().into()), payload.to_owned().into());
            let records = vec![LogRecord { seq, stored, key, payload, scanned, envelope }];
            let batch = EventBatch::decode(0, records, &keys, None);
            let event = &batch.events[0];
            (event.key.to_string(), event.refused.as_deref().map(|r| (r.reason, r.text.clone())), event.enters_tables())
        };
        let schema = Some((Reason::Schema, "25 bytes".to_owned()));
        assert_eq!(refused(r#"{"k":"u","event":"order"}"#, None), ("u".to_owned(), schema, true));
        assert_eq!(refused(r#"{"k":"u","event":"order"}"#, Some("u")), ("u".to_owned(), None, true));
        assert_eq!(refused(r#"{"k":"u","event":"view"}"#, None).1, None);
        assert_eq!(refused(r#"{"k":"u","event":null}"#, None).1, None);
        assert_eq!(refused(r#"{"event":"order"}"#, None).1.map(|r| r.0), Some(Reason::NoKey));
    }

    #[test]
    fn absurd_times_are_clamped_and_counted() {
        let stored = Timestamp(1_795_176_000_000_000);
        for (tstamp, clamped) in [("1970-01-02T00:00:00Z", 1), ("2999-01-01T00:00:00Z", 1), ("nonsense", 0)] {
            let batch = decode(&format!(r#"{{"domain_userid":"d","collector_tstamp":"{tstamp}"}}"#), None);
            assert_eq!((batch.events[0].time, batch.clamped), (stored, clamped), "{tstamp}");
        }
        let batch = decode(r#"{"domain_userid":"d","collector_tstamp":"2026-11-20T11:00:00Z"}"#, None);
        assert_eq!(batch.events[0].time.to_rfc3339(), "2026-11-20T11:00:00.000000Z");
    }

    #[test]
    fn a_clock_that_runs_ahead_proves_no_later_time_than_that_of_storing() {
        for (tstamp, proves) in
            [("2026-11-21T11:00:00Z", "2026-11-20T12:00:00"), ("2026-11-20T11:00:00Z", "2026-11-20T11:00:00")]
        {
            let batch = decode(&format!(r#"{{"domain_userid":"d","collector_tstamp":"{tstamp}"}}"#), None);
            assert_eq!(Timestamp::parse(tstamp), Some(batch.events[0].time), "it is in the sane range");
            assert_eq!(Timestamp::parse(proves), Some(batch.events[0].proves()), "{tstamp}");
        }
    }

    #[test]
    fn derived_time_is_event_time_where_it_is_valid_and_sane() {
        let (stored, collected) = ("2026-11-20T12:00:00.000000Z", "2026-11-20T11:00:00.000000Z");
        for (derived, collector, time, clamped) in [
            ("\"2026-11-20T10:59:59.5Z\"", collected, "2026-11-20T10:59:59.500000Z", 0),
            ("1795172399500", collected, "2026-11-20T10:59:59.500000Z", 0),
            ("null", collected, collected, 0),
            ("\"soon\"", collected, collected, 0),
            ("[1]", "soon", stored, 0),
            ("\"1999-12-31T23:59:59Z\"", collected, collected, 1),
            ("\"2027-11-20T00:00:00Z\"", "1999-01-01T00:00:00Z", stored, 1),
        ] {
            let text =
                format!(r#"{{"domain_userid":"d","derived_tstamp":{derived},"collector_tstamp":"{collector}"}}"#);
            let batch = decode(&text, None);
            assert_eq!((batch.events[0].time.to_rfc3339().as_str(), batch.clamped), (time, clamped), "{text}");
        }
    }

    #[test]
    fn a_tick_is_of_the_time_it_says() {
        let due = Timestamp(1_795_000_000_000_001);
        let payload = tick(due);
        let batch = decode(std::str::from_utf8(&payload).expect("text"), Some("u"));
        assert_eq!((batch.events[0].own, batch.events[0].refused.is_none()), (Some(Own::Tick), true));
        assert_eq!((batch.events[0].time, batch.get(0).key_str()), (due, "u"));
        assert_eq!(decode(r#"{"tick":1}"#, Some("u")).events[0].own, None);
        let at_once = tick(Timestamp(0)); // of a key whose questions must be asked again
        let batch = decode(std::str::from_utf8(&at_once).expect("text"), Some("u"));
        assert_eq!((batch.events[0].time, batch.clamped), (EVENT_TIME_MIN, 0));
    }

    #[test]
    fn nobody_else_makes_ticks_and_answers() {
        for field in ["keyloom.tick", "keyloom.answer"] {
            let batch =
                decode(&format!(r#"{{"domain_userid":"d","{field}":{{"name":"risk","asked":1,"value":0}}}}"#), None);
            let event = &batch.events[0];
            assert_eq!(event.own, None);
            let refused = event.refused.as_ref().expect("refused");
            assert_eq!(refused.reason, Reason::Schema);
            assert!(refused.text.contains(field), "{}", refused.text);
        }
    }

    #[test]
    fn equal_ids_of_different_keys_differ() {
        assert_ne!(dedupe_id(b"a", b"1"), dedupe_id(b"b", b"1"));
        assert_ne!(dedupe_id(b"ab", b"c"), dedupe_id(b"a", b"bc"));
    }
}
