//! Where ingested events go: what every sink promises.
//!
//! Two homes: [`super::LogSink`] in the engine's own process, [`super::HttpSink`] through the front door of another one.

use std::ops::AddAssign;

use async_trait::async_trait;

use crate::front_door::Accepted;

/// What became of events that were sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SendCount {
    /// Newly stored.
    pub stored: u64,
    /// Stored before, absorbed. Includes what an attempt of our own stored whose answer was lost.
    pub duplicates: u64,
    /// Refused by the other side, whose rules may differ from ours; not stored.
    pub refused: u64,
}

impl AddAssign for SendCount {
    fn add_assign(&mut self, other: Self) {
        self.stored += other.stored;
        self.duplicates += other.duplicates;
        self.refused += other.refused;
    }
}

/// Takes events in the order of their source and keeps it for every key.
#[async_trait]
pub trait IngestSink: Send {
    /// Sends `batch`, or queues it within a bound. Answers with what became known since the last call, of any batch.
    async fn send(&mut self, batch: Vec<Accepted>) -> Result<SendCount, String>;

    /// Waits until everything sent is stored. Answers with what became known since the last call.
    async fn finish(&mut self) -> Result<SendCount, String>;

    /// Why the other side refused an event, the first time it did.
    fn first_refusal(&self) -> Option<&str> {
        None
    }
}
