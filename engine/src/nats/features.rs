//! All feature answers in the stream behind the bucket, page by page: read when a feature backend is behind.
//!
//! A page is one direct read of many messages, which any replica may answer; one that is behind shows what was there a
//! moment ago. An answer that changes moves to the end of the stream, so a walk that goes on to the end meets it again, and
//! where the end is, the leader says. Not for reading answers by key, see `store`.

use std::time::Duration;

use async_nats::Message;
use bytes::Bytes;
use futures_util::StreamExt;
use keyloom_actors::{
    key::Key,
    ports::{FeaturePage, StoreError},
};
use serde::Serialize;
use tokio::time::timeout;

use super::{
    batch::OPERATION_TEXT,
    connect::{LOST, chain},
    leader::{ReadFault, Wanted, read_from_leader},
    store::NatsStore,
};

/// Longest wait for the next message of a page.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(5);
const SEQUENCE: &str = "Nats-Sequence";
const SUBJECT: &str = "Nats-Subject";

/// A direct read of many messages.
#[derive(Serialize)]
struct Asked<'a> {
    seq: u64,
    next_by_subj: &'a str,
    batch: usize,
    max_bytes: usize,
}

/// What one message of the stream is to a walk.
struct Met {
    seq: u64,
    /// `None` for the marker that a delete leaves, and for what is not ours.
    answer: Option<(Key, Bytes)>,
}

impl NatsStore {
    /// See the port. A place in the walk is a sequence of the stream.
    pub(super) async fn list_features(
        &self,
        after: Option<&Bytes>,
        limit: usize,
        bytes_max: usize,
    ) -> Result<FeaturePage, StoreError> {
        let place = after.map_or(Some(1), |after| after[..].try_into().ok().map(u64::from_be_bytes));
        let from = place.ok_or_else(|| StoreError::Corrupt("a place that no walk has come to".to_owned()))?;
        let filter = format!("$KV.{}.*", self.inner.bucket);
        let mut met = Vec::new();
        if self.inner.has_direct {
            let asked = Asked { seq: from, next_by_subj: &filter, batch: limit.max(1), max_bytes: bytes_max.max(1) };
            let read = self.inner.link.unless_lost(self.read_many(&asked)).await;
            met = read.unwrap_or_else(|| Err(LOST.to_owned())).map_err(|reason| self.unavailable(&reason))?;
        }
        if met.is_empty() {
            met.extend(self.next_at_leader(from, &filter).await?);
        }
        let next = met.iter().map(|met| met.seq + 1).max();
        let answers = met.into_iter().filter_map(|met| met.answer).collect();
        Ok(FeaturePage { answers, next: next.map(|seq| Bytes::copy_from_slice(&seq.to_be_bytes())) })
    }

    async fn read_many(&self, asked: &Asked<'_>) -> Result<Vec<Met>, String> {
        let client = &self.inner.link.client;
        let inbox = client.new_inbox();
        let mut answers = client.subscribe(inbox.clone()).await.map_err(|error| chain(&error))?;
        let request = serde_json::to_vec(asked).expect("numbers and a text are JSON").into();
        let subject = format!("$JS.API.DIRECT.GET.{}", self.inner.stream);
        client.publish_with_reply(subject, inbox, request).await.map_err(|error| chain(&error))?;
        let mut met = Vec::new();
        loop {
            let next = timeout(MESSAGE_TIMEOUT, answers.next()).await.map_err(|_| "no answer in time".to_owned())?;
            let message = next.ok_or_else(|| LOST.to_owned())?;
            match message.status.map(|status| status.as_u16()) {
                None => met.push(read_message(message)?),
                Some(204 | 404) => return Ok(met), // the end of the page; there is none
                Some(503) => return Err("nobody answers direct reads of its stream".to_owned()),
                Some(status) => {
                    let text = message.description.as_deref().unwrap_or_default();
                    return Err(format!("a direct read is refused: {status} {text}"));
                }
            }
        }
    }

    async fn next_at_leader(&self, from: u64, filter: &str) -> Result<Option<Met>, StoreError> {
        let wanted = Wanted::next_of(from, filter);
        let read = read_from_leader(&self.inner.link.context, &self.inner.stream, &wanted);
        let read = self.inner.link.unless_lost(read).await;
        let found =
            read.unwrap_or_else(|| Err(ReadFault::Unavailable(LOST.to_owned()))).map_err(|fault| match fault {
                ReadFault::Unavailable(reason) => self.unavailable(&reason),
                ReadFault::NoStream => self.unavailable("its stream does not exist any more"),
            })?;
        Ok(found.map(|message| {
            let is_deleted = message.own_header(OPERATION_TEXT).is_some();
            Met { seq: message.seq, answer: answer(&message.subject, message.payload, is_deleted) }
        }))
    }
}

fn read_message(message: Message) -> Result<Met, String> {
    let headers = message.headers.unwrap_or_default();
    let text = |name: &str| headers.get(name).map(|value| value.as_str().to_owned());
    let seq = text(SEQUENCE).and_then(|seq| seq.parse().ok()).ok_or("a message without its sequence")?;
    let subject = text(SUBJECT).ok_or("a message without its subject")?;
    Ok(Met { seq, answer: answer(&subject, message.payload, text(OPERATION_TEXT).is_some()) })
}

fn answer(subject: &str, payload: Bytes, is_deleted: bool) -> Option<(Key, Bytes)> {
    let key = subject.rsplit('.').next().and_then(Key::from_subject_token)?;
    (!is_deleted).then_some((key, payload))
}
