//! Plain publishing, as any NATS client would: no keys, no ids, one line one event. What `keyloom generate` uses.

use std::collections::VecDeque;

use async_nats::jetstream::{self, context::PublishAckFuture};
use bytes::Bytes;

use super::{
    Connection,
    connect::{Link, chain},
};

/// Lines on their way at the same time.
const IN_FLIGHT_MAX: usize = 2_048;

/// Publishes lines to one subject.
pub struct Publisher {
    context: jetstream::Context,
    subject: async_nats::Subject,
    _link: Link,
}

impl Publisher {
    /// A publisher with a client of its own.
    pub async fn new(connection: &Connection, subject: &str) -> Result<Self, super::NatsError> {
        let link = connection.link("publish").await?;
        Ok(Self { context: link.context.clone(), subject: subject.into(), _link: link })
    }

    /// Publishes every line of `text` that is not empty, in order, and waits until all are stored.
    pub async fn publish_lines(&self, text: &Bytes) -> anyhow::Result<()> {
        let mut waiting: VecDeque<PublishAckFuture> = VecDeque::new();
        for line in text.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
            if waiting.len() >= IN_FLIGHT_MAX
                && let Some(oldest) = waiting.pop_front()
            {
                self.stored(oldest).await?;
            }
            let publish = self.context.publish(self.subject.clone(), text.slice_ref(line)).await;
            waiting.push_back(publish.map_err(|error| self.failed(&error))?);
        }
        for ack in waiting {
            self.stored(ack).await?;
        }
        Ok(())
    }

    async fn stored(&self, ack: PublishAckFuture) -> anyhow::Result<()> {
        ack.await.map(drop).map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &jetstream::context::PublishError) -> anyhow::Error {
        anyhow::anyhow!("publishing to {} failed: {}; does a stream listen to it?", self.subject, chain(error))
    }
}
