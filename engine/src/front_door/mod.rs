//! The front door: turns what clients send into log records and answers when they are stored.
//!
//! [`accept`], [`split`] and [`decode`] are pure; [`batch`] is the way to the log; [`http`] is the face. Other protocols
//! come in through [`batch::FrontDoor`], too. Not here: the log itself, and what happens to events behind it.

pub mod accept;
pub mod admission;
pub mod batch;
pub mod decode;
pub mod envelope;
pub mod gate;
pub mod http;
pub mod ids;
pub mod observe;
pub mod refusal;
pub mod split;
#[cfg(test)]
pub(crate) mod test_log;

pub use accept::{Accepted, Acceptor, Rejection};
pub use batch::{Answer, FrontDoor, Limits, Place, Places, Rejected};
pub use refusal::Refusal;
