//! The feature API without a protocol: what may be asked, where answers come from, and how they are put together.
//!
//! [`ask`], [`text`] and [`feast`] are pure; [`reader`] asks memory and store, and waits. HTTP is in `faces`, gRPC in `grpc`.

pub mod ask;
pub mod feast;
mod feast_value;
pub mod reader;
pub mod refusal;
#[cfg(test)]
pub(crate) mod tests;
pub mod text;

pub use self::{
    ask::{Ask, MinSeq},
    reader::{FeatureReader, Found, Sources},
    refusal::Refusal,
    text::{Page, Status},
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
/// Bytes of messages with questions that are arriving or worked on, over all calls of gRPC. Not the front door's: readers must
/// not be turned away because senders fill it, nor senders because readers do.
pub const MESSAGES_BYTES_MAX: usize = 32 << 20;
/// Largest answer, in bytes.
pub const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Requests for many keys that are worked on at once, those that wait included: each may hold an answer of the largest size.
pub const AT_ONCE_MAX: usize = 256;
/// Longest wait that a reader can ask for, and how long it waits when it only says for what.
pub const WAIT_MAX: std::time::Duration = std::time::Duration::from_secs(10);
/// See [`WAIT_MAX`].
pub const WAIT_DEFAULT: std::time::Duration = std::time::Duration::from_secs(1);
