//! Dead letters: events that were given up, with everything needed to understand and to retry them.
//!
//! Pure.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    event::{Event, dedupe_id},
    timestamp::Timestamp,
};

/// Longest payload that a dead letter keeps; the rest is cut and said to be.
pub const PAYLOAD_BYTES_MAX: usize = 256 * 1024;

/// Why an event was given up. A closed set: these are metric labels.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Not a JSON object.
    Parse,
    /// No usable key.
    NoKey,
    /// Larger than the limit.
    TooLarge,
    /// Does not fit the handler's event type or a schema.
    Schema,
    /// The handler rejected it.
    Reject,
    /// The handler failed on it, every attempt.
    Error,
    /// The handler panicked on it, every attempt.
    Panic,
    /// The handler did not come back from it.
    Stuck,
    /// It killed the process.
    Killer,
}

impl Reason {
    /// All reasons.
    pub const ALL: [Self; 9] = [
        Self::Parse,
        Self::NoKey,
        Self::TooLarge,
        Self::Schema,
        Self::Reject,
        Self::Error,
        Self::Panic,
        Self::Stuck,
        Self::Killer,
    ];

    /// The name in metrics, records and answers.
    pub fn label(self) -> &'static str {
        match self {
            Self::Parse => "parse",
            Self::NoKey => "no_key",
            Self::TooLarge => "too_large",
            Self::Schema => "schema",
            Self::Reject => "reject",
            Self::Error => "error",
            Self::Panic => "panic",
            Self::Stuck => "stuck",
            Self::Killer => "killer",
        }
    }

    /// The reason with this name.
    pub fn from_label(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|r| r.label() == label)
    }

    /// Whether such an event has no place in any table: it has no fields, or no key.
    pub fn enters_no_table(self) -> bool {
        matches!(self, Self::Parse | Self::NoKey | Self::TooLarge)
    }
}

/// What the log absorbs a second redrive of the same letter by. Not the id of the event: that one may still be in the
/// log's window, which would then absorb the first redrive.
pub fn redrive_id(partition: u32, seq: u64) -> u128 {
    // No key begins with this byte, so no event can have the same id.
    dedupe_id(b"\xffredrive", format!("{partition}:{seq}").as_bytes())
}

/// One event that was given up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeadLetter {
    /// Sequence in the log of its partition.
    pub seq: u64,
    /// Its key; empty when it has none.
    pub key: String,
    /// Why.
    pub reason: Reason,
    /// In words.
    pub error: String,
    /// How often it was tried.
    pub attempts: u32,
    /// When the log stored it.
    pub stored: Timestamp,
    /// The event, cut to [`PAYLOAD_BYTES_MAX`].
    pub payload: Bytes,
    /// The event's full length in bytes.
    pub payload_bytes: u64,
}

impl DeadLetter {
    /// `event` is given up after `attempts`.
    pub fn of(event: &Event, reason: Reason, error: String, attempts: u32) -> Self {
        let (payload, payload_bytes) = event.payload(PAYLOAD_BYTES_MAX);
        Self {
            seq: event.seq,
            key: event.key.to_string(),
            reason,
            error,
            attempts,
            stored: event.stored,
            // A copy: a slice would keep the whole block that the event came in, outside of all credit.
            payload: Bytes::copy_from_slice(&payload),
            payload_bytes,
        }
    }
}
