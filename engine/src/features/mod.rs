//! The feature API without a protocol: what may be asked, where answers come from, and how they are put together.
//!
//! [`ask`], [`text`] and [`feast`] are pure; [`reader`] asks memory and store, and waits; [`turn`] lets others run. HTTP
//! is in `faces`, gRPC in `grpc`.

pub mod ask;
pub mod feast;
mod feast_value;
pub mod reader;
pub mod refusal;
#[cfg(test)]
pub(crate) mod tests;
pub mod text;
pub mod turn;

pub use self::{
    ask::{Ask, MinSeq},
    reader::{FeatureReader, Found, Reading, Sources},
    refusal::Refusal,
    text::{Many, Page, Status},
};

/// Keys of one request.
pub const KEYS_MAX: usize = 1_000;
/// Names of features of one request.
pub const NAMES_MAX: usize = 1_000;
/// Longest name of a feature, in bytes.
pub const NAME_BYTES_MAX: usize = 512;
/// Keys times features of one Feast request: each is a value in its answer.
pub const CELLS_MAX: usize = 100_000;
/// Largest body of a request: 1,000 keys of the longest kind and as many names fit.
pub const BODY_BYTES_MAX: usize = 2 << 20;
/// Longest wait for the body of a request to arrive.
pub const BODY_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);
/// Bytes of bodies and messages with questions that are arriving or worked on. Not the front door's: readers must not be turned
/// away because senders fill it, nor senders because readers do.
pub const MESSAGES_BYTES_MAX: usize = 32 << 20;
/// Largest answer, in bytes.
pub const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Requests for many keys that are worked on at once, those that wait not included: each may hold an answer of the largest size.
pub const AT_ONCE_MAX: usize = 256;
/// Keys of one request whose stored answers are held at once: as many as the store looks up side by side.
pub const KEYS_AT_A_TIME: usize = 128;
/// Keys of one request that wait at once; the others come as soon as some of them are shown. Of what a partition has, `READERS_MAX`, one request
/// takes no more than a sixteenth.
pub const WAITS_AT_ONCE_MAX: usize = 256;
/// How long fewer places than [`KEYS_AT_A_TIME`] stay free for keys of the same request: who gets one asks the store, together with
/// others where that is possible.
pub const REFILL_AFTER: std::time::Duration = std::time::Duration::from_millis(10);
/// Events between what is known to be in the log and what a reader may wait for like others. Behind that it gets no place
/// among those who are told, and looks again when its wait is over.
pub const FAR_EVENTS: u64 = 1_000_000;
/// How long a request is worked on before others get their turn: with hundreds of features that change with time, a key takes half
/// of it.
pub const TURN_MAX: std::time::Duration = std::time::Duration::from_millis(1);
/// Longest wait that a reader can ask for, and how long it waits when it only says for what.
pub const WAIT_MAX: std::time::Duration = std::time::Duration::from_secs(10);
/// See [`WAIT_MAX`].
pub const WAIT_DEFAULT: std::time::Duration = std::time::Duration::from_secs(1);
