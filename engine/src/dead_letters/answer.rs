//! What is answered: letters, lists of them, and reports of what was done. The same JSON from the command line and over
//! HTTP.
//!
//! Pure.

use keyloom_actors::dead_letter::{DeadLetter, Reason};
use serde::{Deserialize, Serialize};

use super::{Action, LetterId, Place};

/// Longest error in a list, in characters; [`Letter::full`] has all of it.
const ERROR_CHARS_MAX: usize = 300;
/// Letters that were not sent again, with their reasons; more are only counted.
const SKIPPED_MAX: usize = 1_000;

/// One dead letter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Letter {
    /// Its name, `PARTITION:SEQ`.
    #[schema(value_type = String)]
    pub id: LetterId,
    /// Partition.
    pub partition: u32,
    /// Sequence in the log of the partition.
    pub seq: u64,
    /// Key; empty when it has none.
    pub key: String,
    /// Why it was given up.
    #[schema(value_type = String)]
    pub reason: Reason,
    /// In words.
    pub error: String,
    /// How often it was tried.
    pub attempts: u32,
    /// When the log stored it.
    pub stored: String,
    /// Length of the event in bytes.
    pub payload_bytes: u64,
    /// Whether only the beginning of the event was kept.
    pub payload_cut: bool,
    /// The event, where it is text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    /// The event in hexadecimal, where it is no text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_hex: Option<String>,
}

/// A page of letters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Listing {
    /// The letters, in order of partition and sequence.
    pub dead_letters: Vec<Letter>,
    /// How many.
    pub count: usize,
    /// Where to go on; `None` at the end.
    #[schema(value_type = Option<String>)]
    pub next: Option<Place>,
}

/// A letter that was left as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Skipped {
    /// Which.
    #[schema(value_type = String)]
    pub id: LetterId,
    /// Why.
    pub why: String,
}

/// What became of a request to change letters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Report {
    /// What was asked for.
    #[schema(value_type = String)]
    pub action: Action,
    /// Whether nothing was done, only said.
    pub dry_run: bool,
    /// Letters that were sent again, or removed.
    pub done: u64,
    /// Those of them whose event the log had already: an earlier redrive had come so far.
    pub already_stored: u64,
    /// Letters that were left as they are.
    pub skipped: Vec<Skipped>,
    /// How many more were.
    pub skipped_more: u64,
    /// Letters named that do not exist.
    #[schema(value_type = Vec<String>)]
    pub missing: Vec<LetterId>,
    /// Where to go on; `None` at the end.
    #[schema(value_type = Option<String>)]
    pub next: Option<Place>,
}

/// A change of letters that ended early.
#[derive(Debug)]
pub struct Halted<E> {
    /// What was done before, and where it ended.
    pub report: Box<Report>,
    /// Why no more.
    pub error: E,
}

impl Letter {
    /// For a list: without the payload.
    pub fn brief(partition: u32, letter: &DeadLetter) -> Self {
        let DeadLetter { seq, key, reason, error, attempts, stored, payload, payload_bytes } = letter;
        Self {
            id: LetterId { partition, seq: *seq },
            partition,
            seq: *seq,
            key: key.clone(),
            reason: *reason,
            error: shortened(error, ERROR_CHARS_MAX),
            attempts: *attempts,
            stored: stored.to_rfc3339(),
            payload_bytes: *payload_bytes,
            payload_cut: *payload_bytes > payload.len() as u64,
            payload: None,
            payload_hex: None,
        }
    }

    /// All of it.
    pub fn full(partition: u32, letter: &DeadLetter) -> Self {
        let mut full = Self { error: letter.error.clone(), ..Self::brief(partition, letter) };
        match beginning_as_text(&letter.payload, full.payload_cut) {
            Some(text) => full.payload = Some(text.to_owned()),
            None => full.payload_hex = Some(letter.payload.iter().map(|byte| format!("{byte:02x}")).collect()),
        }
        full
    }
}

/// Text, also when the cut went through the middle of its last character.
fn beginning_as_text(payload: &[u8], is_cut: bool) -> Option<&str> {
    match std::str::from_utf8(payload) {
        Ok(text) => Some(text),
        Err(error) if is_cut && error.error_len().is_none() => {
            std::str::from_utf8(&payload[..error.valid_up_to()]).ok()
        }
        Err(_) => None,
    }
}

/// The beginning of `text`, and a sign where there was more.
pub(crate) fn shortened(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        None => text.to_owned(),
        Some((at, _)) => format!("{}...", &text[..at]),
    }
}

impl Report {
    /// Of nothing so far.
    pub fn new(action: Action, dry_run: bool) -> Self {
        let (skipped, missing) = (Vec::new(), Vec::new());
        Self { action, dry_run, done: 0, already_stored: 0, skipped, skipped_more: 0, missing, next: None }
    }

    /// Notes a letter that stays.
    pub fn skip(&mut self, id: LetterId, why: String) {
        if self.skipped.len() < SKIPPED_MAX {
            self.skipped.push(Skipped { id, why });
        } else {
            self.skipped_more += 1;
        }
    }

    /// Adds what the next request came to.
    pub fn add(&mut self, more: Self) {
        self.done += more.done;
        self.already_stored += more.already_stored;
        more.skipped.into_iter().for_each(|skipped| self.skip(skipped.id, skipped.why));
        self.skipped_more += more.skipped_more;
        self.missing.extend(more.missing);
        self.next = more.next;
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use keyloom_actors::timestamp::Timestamp;

    use super::*;

    fn letter(payload: &[u8], payload_bytes: u64) -> DeadLetter {
        DeadLetter {
            seq: 17,
            key: "ada".to_owned(),
            reason: Reason::Panic,
            error: "ü".repeat(1_000),
            attempts: 3,
            stored: Timestamp(1_795_176_000_000_000),
            payload: Bytes::copy_from_slice(payload),
            payload_bytes,
        }
    }

    #[test]
    fn payloads_are_text_where_they_can_be() {
        let full = Letter::full(2, &letter("{\"é\":1}".as_bytes(), 8));
        assert_eq!((full.payload.as_deref(), full.payload_cut), (Some("{\"é\":1}"), false));
        let cut = Letter::full(2, &letter(&"{\"é".as_bytes()[..3], 8));
        assert_eq!((cut.payload.as_deref(), cut.payload_cut), (Some("{\""), true));
        let foreign = Letter::full(2, &letter(b"\xff\x00", 2));
        assert_eq!((foreign.payload, foreign.payload_hex.as_deref()), (None, Some("ff00")));
    }

    #[test]
    fn lists_are_short_and_single_letters_whole() {
        let brief = Letter::brief(2, &letter(b"{}", 2));
        assert_eq!((brief.id.to_string().as_str(), brief.error.chars().count()), ("2:17", ERROR_CHARS_MAX + 3));
        assert_eq!(brief.payload, None);
        assert_eq!(Letter::full(2, &letter(b"{}", 2)).error.chars().count(), 1_000);
        let json = serde_json::to_value(&brief).expect("JSON");
        assert_eq!((&json["id"], &json["reason"], &json["seq"]), (&"2:17".into(), &"panic".into(), &17.into()));
        assert_eq!(serde_json::from_value::<Letter>(json).ok(), Some(brief));
    }

    #[test]
    fn what_is_skipped_is_counted_beyond_the_list() {
        let mut report = Report::new(Action::Redrive, false);
        let id = LetterId { partition: 0, seq: 1 };
        (0..SKIPPED_MAX + 5).for_each(|_| report.skip(id, "cut".to_owned()));
        let mut more = Report::new(Action::Redrive, false);
        more.skip(id, "cut".to_owned());
        more.done = 4;
        report.add(more);
        assert_eq!((report.skipped.len(), report.skipped_more, report.done), (SKIPPED_MAX, 6, 4));
    }
}
