//! What the leader of a stream answers: its extent, single stored messages.
//!
//! The answers are JSON with the message inside, so a message whose headers no client library can parse is read like
//! any other. Not for bulk: a request of this kind costs the server several times a pulled message.

use std::borrow::Cow;

use async_nats::{
    HeaderName,
    jetstream::{self, context::RequestErrorKind},
};
use bytes::Bytes;
use keyloom_actors::timestamp::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    connect::chain,
    headers::{key_from_header, lines},
};

/// Header with the key of an event.
pub(super) const KEY_HEADER: HeaderName = HeaderName::from_static("Keyloom-Key");
const KEY_HEADER_TEXT: &str = "Keyloom-Key";

const NO_MESSAGE_FOUND: u64 = 10_037;
const STREAM_NOT_FOUND: u64 = 10_059;

/// Which message.
#[derive(Serialize, Default, Debug)]
pub(super) struct Wanted<'a> {
    #[serde(rename = "seq", skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(rename = "last_by_subj", skip_serializing_if = "Option::is_none")]
    last_of: Option<&'a str>,
    #[serde(rename = "next_by_subj", skip_serializing_if = "Option::is_none")]
    next_of: Option<&'a str>,
}

impl<'a> Wanted<'a> {
    /// The one at `seq`.
    pub(super) fn at(seq: u64) -> Self {
        Self { seq: Some(seq), ..Self::default() }
    }

    /// The first one at or after `seq`.
    pub(super) fn from(seq: u64) -> Self {
        Self { seq: Some(seq), next_of: Some(">"), ..Self::default() }
    }

    /// The first one of `subject`, perhaps with wildcards, at or after `seq`.
    pub(super) fn next_of(seq: u64, subject: &'a str) -> Self {
        Self { seq: Some(seq), next_of: Some(subject), ..Self::default() }
    }

    /// The newest one of `subject`.
    pub(super) fn last_of(subject: &'a str) -> Self {
        Self { last_of: Some(subject), ..Self::default() }
    }
}

/// A message as the stream holds it.
#[derive(Debug)]
pub(super) struct StoredMessage {
    pub(super) subject: String,
    pub(super) seq: u64,
    pub(super) stored: Timestamp,
    /// The header block, unparsed; empty when there is none.
    pub(super) headers: Vec<u8>,
    pub(super) payload: Bytes,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum ReadFault {
    /// It may be tried again.
    Unavailable(String),
    /// The stream does not exist.
    NoStream,
}

/// The extent of a stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct StreamState {
    /// Sequence of the oldest message still there; behind the last one when none is.
    pub(super) first_seq: u64,
    /// Sequence of the newest message ever stored, 0 when none was.
    pub(super) last_seq: u64,
    /// When the stream was made, as the server writes it.
    pub(super) created: String,
}

#[derive(Deserialize)]
struct InfoAnswer {
    #[serde(default)]
    created: String,
    state: Option<InfoState>,
    cluster: Option<Cluster>,
    error: Option<Refusal>,
}

/// Of a server alone it is absent, or names that server.
#[derive(Deserialize)]
struct Cluster {
    #[serde(default)]
    leader: String,
}

#[derive(Deserialize)]
struct InfoState {
    first_seq: u64,
    last_seq: u64,
}

#[derive(Deserialize)]
struct Answer {
    message: Option<Found>,
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Found {
    #[serde(default)]
    subject: String,
    seq: u64,
    time: String,
    #[serde(default, rename = "hdrs")]
    headers: String,
    #[serde(default, rename = "data")]
    payload: String,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

/// Reads one message of `stream` from its leader; `None` when there is none.
pub(super) async fn read_from_leader(
    context: &jetstream::Context,
    stream: &str,
    wanted: &Wanted<'_>,
) -> Result<Option<StoredMessage>, ReadFault> {
    match ask(context, &format!("STREAM.MSG.GET.{stream}"), wanted).await? {
        Answer { message: Some(found), .. } => Ok(Some(found.decode().map_err(ReadFault::Unavailable)?)),
        Answer { error: Some(Refusal { err_code: NO_MESSAGE_FOUND, .. }), .. } => Ok(None),
        Answer { error, .. } => Err(fault(error)),
    }
}

/// The extent of `stream`.
pub(super) async fn stream_state(context: &jetstream::Context, stream: &str) -> Result<StreamState, ReadFault> {
    extent(ask(context, &format!("STREAM.INFO.{stream}"), &()).await?)
}

fn extent(answer: InfoAnswer) -> Result<StreamState, ReadFault> {
    match answer {
        // A server that has a copy answers even so; the copy may be behind, and nothing can be stored.
        InfoAnswer { state: Some(_), cluster: Some(Cluster { leader }), .. } if leader.is_empty() => {
            Err(ReadFault::Unavailable("it has no leader".to_owned()))
        }
        InfoAnswer { state: Some(InfoState { first_seq, last_seq }), created, .. } => {
            // A stream that never held anything says 0 or 1, depending on the server.
            Ok(StreamState { first_seq: first_seq.max(1), last_seq, created })
        }
        InfoAnswer { error, .. } => Err(fault(error)),
    }
}

async fn ask<Q, A>(context: &jetstream::Context, subject: &str, request: &Q) -> Result<A, ReadFault>
where
    Q: Serialize + ?Sized,
    A: serde::de::DeserializeOwned,
{
    context.request(subject.to_owned(), request).await.map_err(|error| {
        ReadFault::Unavailable(match error.kind() {
            RequestErrorKind::NoResponders => "nobody answers jetstream requests".to_owned(),
            _ => chain(&error),
        })
    })
}

fn fault(error: Option<Refusal>) -> ReadFault {
    match error {
        Some(Refusal { err_code: STREAM_NOT_FOUND, .. }) => ReadFault::NoStream,
        Some(refusal) => ReadFault::Unavailable(refusal.description),
        None => ReadFault::Unavailable("the answer makes no sense".to_owned()),
    }
}

impl Found {
    fn decode(self) -> Result<StoredMessage, String> {
        let decode = |text: &str| from_base64(text.as_bytes()).ok_or("the answer is not valid base64");
        Ok(StoredMessage {
            seq: self.seq,
            subject: self.subject,
            stored: Timestamp::parse(&self.time).ok_or("the answer has no time")?,
            headers: decode(&self.headers)?,
            payload: decode(&self.payload)?.into(),
        })
    }
}

impl StoredMessage {
    #[cfg(test)]
    pub(super) fn new(seq: u64, stored: Timestamp, subject: String, headers: Vec<u8>, payload: Bytes) -> Self {
        Self { seq, stored, subject, headers, payload }
    }

    /// The key the writer said, as far as it can be read.
    pub(super) fn key(&self) -> Option<Bytes> {
        self.own_header(KEY_HEADER_TEXT).map(|value| key_from_header(&value))
    }

    /// The value of header `name`, spelled like this; damaged lines are passed over.
    pub(super) fn own_header(&self, name: &str) -> Option<Cow<'_, str>> {
        lines(&self.headers).find(|(found, _)| *found == name).map(|(_, value)| value)
    }
}

/// Standard base64 with padding, as the server writes it.
fn from_base64(text: &[u8]) -> Option<Vec<u8>> {
    let value = |byte: u8| {
        Some(u32::from(match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        }))
    };
    let digits = text.strip_suffix(b"==").or_else(|| text.strip_suffix(b"=")).unwrap_or(text);
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    for group in digits.chunks(4) {
        let word = group.iter().try_fold(0, |word, byte| Some(word << 6 | value(*byte)?))? << (6 * (4 - group.len()));
        bytes.extend_from_slice(&word.to_be_bytes()[1..group.len()]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_without_a_leader_is_not_the_stream() {
        let said = |cluster: &str| {
            let text = format!(r#"{{"created":"now","state":{{"first_seq":0,"last_seq":5}}{cluster}}}"#);
            extent(serde_json::from_str(&text).expect("an answer"))
        };
        for cluster in ["", r#","cluster":{"name":"c","leader":"n1","replicas":[]}"#] {
            let state = said(cluster).expect("an extent");
            assert_eq!((state.first_seq, state.last_seq), (1, 5), "{cluster}");
        }
        // What the members of a group say when most of it is gone.
        let orphan = said(r#","cluster":{"name":"c","replicas":[{"name":"n0","current":true}]}"#);
        assert!(matches!(orphan, Err(ReadFault::Unavailable(_))), "{orphan:?}");
    }

    #[test]
    fn base64_is_the_standard_one() {
        for (text, bytes) in
            [("", &b""[..]), ("aQ==", b"i"), ("aGk=", b"hi"), ("aGkh", b"hi!"), ("+/8A", b"\xfb\xff\0")]
        {
            assert_eq!(from_base64(text.as_bytes()).as_deref(), Some(bytes), "{text}");
        }
        for text in ["a", "aQ=", "a-==", "===="] {
            assert_eq!(from_base64(text.as_bytes()), None, "{text}");
        }
    }
}
