//! What is said about a key.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// See the module. What is `null` is not known: never seen, or known only to a running engine.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct KeyReport {
    /// The key.
    pub key: String,
    /// Its partition.
    pub partition: u32,
    /// Epoch of the partition's last owner that wrote anything.
    pub epoch: Option<u64>,
    /// Who owns the partition: set by the engine that answers.
    pub owner: Option<String>,
    /// Whether its session is in memory.
    pub resident: Option<bool>,
    /// How often its session has started again since the engine started.
    pub restarts: Option<u64>,
    /// Cut of the last checkpoint: the state is as of there.
    pub checkpoint: u64,
    /// Whether a state is stored.
    pub is_stored: bool,
    /// Why the stored state cannot be read, if so.
    pub unreadable: Option<String>,
    /// The handler that the state belongs to, and its version.
    pub handler: Option<String>,
    /// See `handler`.
    pub state_version: Option<u32>,
    /// The last sequence that it consumed.
    pub applied: Option<u64>,
    /// Event time of its newest event.
    pub event_time: Option<String>,
    /// Size of the handler's state in bytes.
    pub state_bytes: Option<u64>,
    /// The handler's state.
    pub state: Option<serde_json::Value>,
    /// The feature answer as of now.
    pub features: Option<serde_json::Value>,
    /// Declared features by name: the hash of the definition that the engine computes them by.
    pub definitions: BTreeMap<String, String>,
    /// Timers, in the order they are due.
    pub timers: Vec<Timer>,
    /// Look-ups without an answer.
    pub questions: Vec<Question>,
    /// Event ids remembered, to absorb repeats.
    pub recent_ids: u64,
    /// Sequences that the key owes at the last checkpoint: it lags.
    pub owed: Vec<u64>,
    /// Sequences of dead letters of this key among the newest that were looked at, the newest last.
    pub dead_letters: Vec<u64>,
    /// Its last events among the newest of the log that were looked at, the newest last.
    pub last_events: Vec<LastEvent>,
    /// How many of the newest events were looked at for that.
    pub looked_at: u64,
}

/// A timer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Timer {
    /// Its name.
    pub name: String,
    /// When it is due, in event time.
    pub due: String,
}

/// A look-up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Question {
    /// Its name.
    pub name: String,
    /// Sequence of the event that asked.
    pub asked: u64,
    /// The question, as JSON text.
    pub question: String,
}

/// An event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LastEvent {
    /// Its sequence.
    pub seq: u64,
    /// When the log stored it.
    pub stored: String,
    /// The event, cut when it is long.
    pub event: String,
}
