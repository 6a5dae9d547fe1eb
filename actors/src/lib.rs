//! Keyloom's core: events, keys, the handler API, the ports, the actors and the pure logic they wrap.
//!
//! Knows ractor, tokio, serde, lru and metrics; knows nothing of NATS, S3, HTTP or Arrow files. Those stand behind the
//! [`ports`], in the crate `keyloom-engine`.

pub mod credit;
pub mod dead_letter;
pub mod event;
pub mod fields;
pub mod key;
pub mod ports;
pub mod timestamp;
