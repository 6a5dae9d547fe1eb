//! Writes events of the one shape that every protocol becomes, see `docs/EVENTS.md`.
//!
//! Pure. A field is written once: what comes later for the same field, and what has no field, is kept in `extra`, so nothing
//! that a client sent is lost and no name of its own can take a field's place.

use std::{ops::Range, str};

use keyloom_actors::timestamp::Timestamp;

use super::members::Given;
use crate::front_door::{Refusal, Rejection};

/// The field for everything that has none of its own.
pub const EXTRA: &str = "extra";

/// The events of one request as a protocol has decoded them.
#[derive(Debug, Default)]
pub struct Decoded {
    /// The texts of the good ones, one behind the other.
    pub text: Vec<u8>,
    /// One entry per event of the request, in order.
    pub events: Vec<DecodedEvent>,
}

/// One event of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodedEvent {
    /// Where it is in the text, or why it is none.
    pub place: Result<Range<usize>, Rejection>,
    /// Where it is in the request's body as it was sent.
    pub sent: Range<usize>,
}

/// Asked for room for so many more bytes of decoded text; says why there is none.
pub type Room<'r> = &'r mut dyn FnMut(usize) -> Result<(), Refusal>;

impl Decoded {
    /// Adds what `write` makes of an event that was sent as `sent`; nothing of it stays in the text when it is rejected.
    pub fn event(
        &mut self,
        sent: Range<usize>,
        room: Room<'_>,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), Rejection>,
    ) -> Result<(), Refusal> {
        let start = self.text.len();
        let place = write(&mut self.text).map(|()| start..self.text.len());
        let written = self.text.len() - start;
        if place.is_err() {
            self.text.truncate(start);
        }
        room(written)?; // also of what is rejected: it has been work
        self.events.push(DecodedEvent { place, sent });
        Ok(())
    }
}

/// Writes one event.
pub struct EventWriter<'o> {
    out: &'o mut Vec<u8>,
    written: Vec<&'static str>,
    extra: Vec<u8>,
}

impl<'o> EventWriter<'o> {
    /// Begins an event behind what `out` holds.
    pub fn new(out: &'o mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, written: Vec::with_capacity(32), extra: Vec::new() }
    }

    /// Whether the field is there.
    pub fn has(&self, field: &str) -> bool {
        self.written.contains(&field)
    }

    /// Writes a text field; `false` when it is there already.
    pub fn text(&mut self, field: &'static str, text: &str) -> bool {
        self.begin(field) && {
            write_text(self.out, text);
            true
        }
    }

    /// Writes a field whose value is JSON already; `false` when it is there already.
    pub fn json(&mut self, field: &'static str, json: &str) -> bool {
        self.begin(field) && {
            self.out.extend_from_slice(json.as_bytes());
            true
        }
    }

    /// Writes a time; `false` when it is there already.
    pub fn time(&mut self, field: &'static str, time: Timestamp) -> bool {
        self.text(field, &time.to_rfc3339())
    }

    /// Writes a text field from what was sent, where that says a text; `false` when nothing was written.
    pub fn given_text(&mut self, field: &'static str, given: &Given<'_>) -> bool {
        given.text().is_some_and(|text| self.text(field, &text))
    }

    /// As [`EventWriter::given_text`] for identifiers: an empty one identifies nobody and is not written.
    pub fn given_id(&mut self, field: &'static str, given: &Given<'_>) -> bool {
        given.text().is_some_and(|text| text.is_empty() || self.text(field, &text))
    }

    /// Keeps what has no field. `null` says nothing and is not kept.
    pub fn extra(&mut self, name: &str, given: &Given<'_>) {
        if given.is_null() {
            return;
        }
        self.extra.push(if self.extra.is_empty() { b'{' } else { b',' });
        write_text(&mut self.extra, name);
        self.extra.push(b':');
        match given {
            Given::Json(raw) => self.extra.extend_from_slice(raw.as_bytes()),
            Given::Text(text) => write_text(&mut self.extra, text),
        }
    }

    /// Ends the event.
    pub fn finish(mut self) {
        if !self.extra.is_empty() && self.begin(EXTRA) {
            self.out.append(&mut self.extra);
            self.out.push(b'}');
        }
        self.out.push(b'}');
    }

    fn begin(&mut self, field: &'static str) -> bool {
        if self.written.contains(&field) {
            return false;
        }
        if !self.written.is_empty() {
            self.out.push(b',');
        }
        self.written.push(field);
        write_text(self.out, field);
        self.out.push(b':');
        true
    }
}

/// Appends `text` as a JSON string.
pub fn write_text(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("texts are always serialisable, and memory takes everything");
}

/// A number as JSON, from a text that says one; `None` when it does not.
pub fn number(text: &str) -> Option<String> {
    let text = text.trim_ascii();
    if serde_json::from_str::<serde_json::Number>(text).is_ok() {
        return Some(text.to_owned());
    }
    let number: f64 = text.parse().ok().filter(|n: &f64| n.is_finite())?;
    serde_json::Number::from_f64(number).map(|n| n.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_written_once_and_the_rest_is_extra() {
        let mut out = b"before".to_vec();
        let mut event = EventWriter::new(&mut out);
        assert!(event.text("event", "a\"b") && event.json("session_index", "3"));
        assert!(!event.text("event", "again") && event.has("event") && !event.has(EXTRA));
        assert!(event.given_id("user_id", &Given::Text("".into())) && !event.has("user_id"));
        assert!(event.given_id("user_id", &Given::Json("12")));
        assert!(!event.given_text("page_url", &Given::Json("[1]")));
        event.extra("x\n", &Given::Json("{\"y\": [1]}"));
        event.extra("z", &Given::Text("ü".into()));
        event.extra("nothing", &Given::Json("null"));
        event.finish();
        let text = r#"before{"event":"a\"b","session_index":3,"user_id":"12","extra":{"x\n":{"y": [1]},"z":"ü"}}"#;
        assert_eq!(str::from_utf8(&out), Ok(text));
    }

    #[test]
    fn numbers_stay_as_they_were_written_where_json_can_say_them() {
        for (text, expected) in [
            ("12", Some("12")),
            ("-0.50", Some("-0.50")),
            ("1e3", Some("1e3")),
            (" 7 ", Some("7")),
            (".5", Some("0.5")),
            ("007", Some("7.0")),
            ("NaN", None),
            ("inf", None),
            ("1,5", None),
            ("", None),
        ] {
            assert_eq!(number(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn a_rejected_event_leaves_no_text() {
        let mut decoded = Decoded::default();
        let rejection = Rejection::new(keyloom_actors::dead_letter::Reason::Schema, "no");
        let mut asked = Vec::new();
        let mut room = |bytes| {
            asked.push(bytes);
            if asked.len() < 3 { Ok(()) } else { Err(Refusal::Busy) }
        };
        let mut write = |text: &'static str, good: bool| {
            decoded.event(1..2, &mut room, |out| {
                out.extend_from_slice(text.as_bytes());
                if good { Ok(()) } else { Err(rejection.clone()) }
            })
        };
        assert_eq!(write("{}", true), Ok(()));
        assert_eq!(write("{half", false), Ok(()));
        assert_eq!(write("{\"a\":1}", true), Err(Refusal::Busy));
        assert_eq!(asked, [2, 5, 7]);
        let places: Vec<_> = decoded.events.iter().map(|e| e.place.clone()).collect();
        assert_eq!(places, [Ok(0..2), Err(rejection)]);
    }
}
