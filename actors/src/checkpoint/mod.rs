//! Checkpoints of a partition: what is written, in which form, and by whom.
//!
//! To follow one: [`committer`] asks the shards for their part and writes it; [`record`] has the byte forms of everything
//! that the store holds.

pub mod committer;
pub mod counts;
pub mod pacing;
pub mod record;
