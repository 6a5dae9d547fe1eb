//! The wire form of one atomic batch, and what the answers mean.
//!
//! A batch is a run of messages with one id and growing numbers; the last one asks for the commit and is the only one
//! that is answered. Not for deciding what an unknown outcome was: that is `store`'s.

use std::time::Duration;

use async_nats::{Client, HeaderMap, HeaderName, Subject, client::RequestErrorKind};
use bytes::Bytes;
use keyloom_actors::fault_point;
use serde::Deserialize;
use tokio::time::timeout;

use super::connect::{LOST, Link, chain};

/// Most messages in one batch, the server's default limit.
pub(super) const MESSAGES_MAX: usize = 1_000;
/// Longest wait for a commit. The server forgets a batch that stands still for 10 s.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(5);
/// What a server without room on its disk looks like from here.
const FULL: &str = "a full disk looks like this: the server's /healthz and its log say more";
/// What the headers of one message of a batch may take beside its payload.
pub(super) const HEADER_ROOM: usize = 1 << 10;

const BATCH_ID: HeaderName = HeaderName::from_static("Nats-Batch-Id");
const BATCH_SEQUENCE: HeaderName = HeaderName::from_static("Nats-Batch-Sequence");
const BATCH_COMMIT: HeaderName = HeaderName::from_static("Nats-Batch-Commit");
const EXPECTED: HeaderName = HeaderName::from_static("Nats-Expected-Last-Subject-Sequence");
const EXPECTED_SUBJECT: HeaderName = HeaderName::from_static("Nats-Expected-Last-Subject-Sequence-Subject");
const OPERATION: HeaderName = HeaderName::from_static("KV-Operation");
pub(super) const OPERATION_TEXT: &str = "KV-Operation";

mod code {
    /// Another sequence than expected.
    pub(super) const WRONG_LAST_SEQUENCE: u64 = 10_071;
    /// The same, where the server does not say which.
    pub(super) const WRONG_LAST_SEQUENCE_CONSTANT: u64 = 10_164;
    /// Another write to the expected subject is on its way.
    pub(super) const EXPECTED_NOT_READY: u64 = 10_163;
    /// Not all of it came, or it stood still for too long.
    pub(super) const INCOMPLETE: u64 = 10_176;
    /// More batches at once than the server takes.
    pub(super) const TOO_MANY: u64 = 10_210;
}

/// One message of a batch.
#[derive(Clone)]
pub(super) struct BatchMessage {
    pub(super) subject: Subject,
    /// `None`: a delete.
    pub(super) value: Option<Bytes>,
    pub(super) expected: Option<Expected>,
}

/// What must be so for a message to be stored.
#[derive(Clone)]
pub(super) struct Expected {
    /// Sequence of the last message of the subject, 0 for none.
    pub(super) seq: u64,
    /// The subject, where it is not the message's own.
    pub(super) subject: Option<String>,
}

/// What became of a write.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is stored; the sequence is that of its last message.
    Landed(u64),
    /// An expectation was not met.
    Conflict(String),
    /// The server will not take it, however often it is sent.
    Refused(String),
    /// Most likely it is not stored, but only a look can tell.
    Unknown(String),
}

/// Sends `messages` as batch `id` and waits for the answer.
pub(super) async fn send(link: &Link, id: &str, messages: &[BatchMessage]) -> Outcome {
    let client = &link.client;
    let send = async {
        let last = messages.len().saturating_sub(1);
        for (at, message) in messages.iter().enumerate() {
            let mut headers = message.headers();
            headers.insert(BATCH_ID, id);
            headers.insert(BATCH_SEQUENCE, (at + 1).to_string());
            let (subject, payload) = (message.subject.clone(), message.value.clone().unwrap_or_default());
            if at == last {
                fault_point::reached(fault_point::BATCH_SENT);
                headers.insert(BATCH_COMMIT, "1");
                return request(client, subject, headers, payload).await;
            }
            if let Err(error) = client.publish_with_headers(subject, headers, payload).await {
                return Outcome::Unknown(chain(&error));
            }
        }
        Outcome::Refused("a batch without messages".to_owned())
    };
    answer(link, send).await
}

/// Sends one message by itself and waits for the answer.
pub(super) async fn put(link: &Link, message: BatchMessage) -> Outcome {
    let headers = message.headers();
    let put = request(&link.client, message.subject, headers, message.value.unwrap_or_default());
    answer(link, put).await
}

async fn answer(link: &Link, sent: impl Future<Output = Outcome>) -> Outcome {
    let answered = link.unless_lost(timeout(COMMIT_TIMEOUT, sent)).await;
    answered.map_or_else(|| Outcome::Unknown(LOST.to_owned()), |in_time| in_time.unwrap_or_else(|_| unanswered()))
}

async fn request(client: &Client, subject: Subject, headers: HeaderMap, payload: Bytes) -> Outcome {
    match client.request_with_headers(subject, headers, payload).await {
        Ok(answer) => read_answer(&answer.payload),
        Err(error) => match error.kind() {
            // The subject leads nowhere: no stream, or no leader.
            RequestErrorKind::NoResponders => Outcome::Unknown("nobody stores it: the stream has no leader".to_owned()),
            RequestErrorKind::InvalidSubject | RequestErrorKind::MaxPayloadExceeded => Outcome::Refused(chain(&error)),
            RequestErrorKind::TimedOut | RequestErrorKind::Other => Outcome::Unknown(chain(&error)),
        },
    }
}

fn unanswered() -> Outcome {
    Outcome::Unknown(format!("no answer within {} s; {FULL}", COMMIT_TIMEOUT.as_secs()))
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    seq: u64,
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    code: u64,
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

fn read_answer(answer: &[u8]) -> Outcome {
    match serde_json::from_slice(answer) {
        Ok(Answer { error: None, seq: seq @ 1.. }) => Outcome::Landed(seq),
        Ok(Answer { error: Some(Refusal { code, err_code, description }), .. }) => match err_code {
            code::WRONG_LAST_SEQUENCE | code::WRONG_LAST_SEQUENCE_CONSTANT | code::EXPECTED_NOT_READY => {
                Outcome::Conflict(description)
            }
            // A server that cannot write says so as well: it has lost the beginning of the batch.
            code::INCOMPLETE => Outcome::Unknown(format!("{description}; {FULL}")),
            code::TOO_MANY => Outcome::Unknown(description),
            // Of the server's own making: no room, no leader, shutting down. Anything else is about the message.
            _ if code >= 500 => Outcome::Unknown(description),
            _ => Outcome::Refused(description),
        },
        Ok(Answer { error: None, seq: 0 }) | Err(_) => Outcome::Unknown("an answer that makes no sense".to_owned()),
    }
}

impl BatchMessage {
    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(expected) = &self.expected {
            headers.insert(EXPECTED, expected.seq.to_string());
            if let Some(subject) = &expected.subject {
                headers.insert(EXPECTED_SUBJECT, subject.as_str());
            }
        }
        if self.value.is_none() {
            headers.insert(OPERATION, "DEL");
        }
        headers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_say_what_became_of_a_batch() {
        let error = |code: u64, err_code: u64| {
            read_answer(format!(r#"{{"error":{{"code":{code},"err_code":{err_code},"description":"x"}}}}"#).as_bytes())
        };
        assert_eq!(read_answer(br#"{"stream":"KV_b","seq":7,"batch":"i","count":3}"#), Outcome::Landed(7));
        assert_eq!(error(400, 10_071), Outcome::Conflict("x".into()));
        assert_eq!(error(400, 10_164), Outcome::Conflict("x".into()));
        assert_eq!(error(400, 10_176), Outcome::Unknown(format!("x; {FULL}")));
        assert_eq!(error(503, 10_077), Outcome::Unknown("x".into()));
        assert_eq!(error(400, 10_199), Outcome::Refused("x".into()));
        for nonsense in [&b""[..], b"{}", b"+OK", b"[1]"] {
            assert!(matches!(read_answer(nonsense), Outcome::Unknown(_)));
        }
    }
}
