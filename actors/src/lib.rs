//! Keyloom's core: events, keys, the handler API, the ports, the actors and the pure logic they wrap.
//!
//! Knows ractor, tokio, serde, lru and metrics; knows nothing of NATS, S3, HTTP or Arrow files. Those stand behind the
//! [`ports`], in the crate `keyloom-engine`.
//!
//! To write a handler, start at [`handler`]. To follow an event, read [`router`], [`shard`], [`cell`], [`committer`],
//! [`batcher`] in that order.

const _: () = assert!(cfg!(panic = "unwind"), "supervision needs panic = \"unwind\"");

pub mod answer;
pub mod asker;
pub mod backend;
pub mod batcher;
pub mod budget;
pub mod careful;
pub mod cell;
pub mod committer;
pub mod counts;
pub mod credit;
pub mod dead_letter;
pub mod event;
pub mod failure;
pub mod fault_point;
pub mod feature_cache;
pub mod features;
pub mod fields;
pub mod forward;
pub mod forwarder;
pub mod handler;
pub mod handler_test;
pub mod key;
pub mod key_paths;
pub mod look_ups;
pub mod members;
pub mod observe;
pub mod outbox;
pub mod pacing;
pub mod partition;
pub mod ports;
pub mod readers;
pub mod recent_ids;
pub mod recent_texts;
pub mod record;
pub mod root;
pub mod router;
pub mod row;
pub mod session;
pub mod session_core;
pub mod session_features;
pub mod shard;
pub mod slots;
pub mod status;
pub mod table_cut;
pub mod ticker;
pub mod timer_index;
pub mod timers;
pub mod timestamp;
pub mod trials;
pub mod waiting;
pub mod watchdog;
pub mod workers;
