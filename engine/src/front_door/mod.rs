//! The front door: turns what clients send into log records and answers when they are stored.
//!
//! [`accept`], [`split`], [`decode`] and [`protocols`] are pure; `desk` turns a request of any protocol into records, and
//! [`batch`] is the way to the log; [`http`] and [`tracker_http`] are the faces. Not here: the log itself, and what happens
//! to events behind it.

pub mod accept;
pub mod admission;
pub mod batch;
pub mod decode;
pub mod depth;
mod desk;
mod envelope;
pub mod gate;
pub mod http;
pub mod ids;
pub mod observe;
pub mod protocols;
pub mod refusal;
pub mod schema;
mod schema_place;
pub mod split;
#[cfg(test)]
pub(crate) mod test_log;
pub mod tracker_http;

pub use accept::{Accepted, Acceptor, Rejection};
pub use batch::{Answer, FrontDoor, Limits, Place, Places, Rejected};
pub use refusal::Refusal;
