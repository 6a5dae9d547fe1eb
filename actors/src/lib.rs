//! Keyloom's core: events, keys, the handler API, the ports, the actors and the pure logic they wrap.
//!
//! Knows ractor, tokio, serde, lru and metrics; knows nothing of NATS, S3, HTTP or Arrow files. Those stand behind the
//! [`ports`], in the crate `keyloom-engine`.
//!
//! To write a handler, start at [`handler`]. To follow an event, read [`partition::router`], [`session::shard`],
//! [`session::cell`], [`session::step`], [`checkpoint::committer`], [`table::batcher`] in that order.

const _: () = assert!(cfg!(panic = "unwind"), "supervision needs panic = \"unwind\"");

pub mod answer;
pub mod backend;
pub mod budget;
pub mod careful;
pub mod checkpoint;
pub mod complaints;
pub mod dead_letter;
pub mod event;
pub mod failure;
pub mod fault_point;
pub mod features;
pub mod handler;
pub mod key;
pub mod observe;
pub mod partition;
pub mod ports;
pub mod root;
pub mod session;
pub mod table;
pub mod timestamp;
