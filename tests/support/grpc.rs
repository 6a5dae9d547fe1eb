//! The least gRPC client that the tests need: one call over HTTP/2 without TLS, messages framed by hand.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use prost::Message;

/// How long one call may take.
const CALL_MAX: Duration = Duration::from_secs(30);

/// What came of a call.
#[derive(Debug)]
pub struct Outcome<M> {
    /// The gRPC status.
    pub status: u32,
    /// Its text, as it was sent.
    pub message: String,
    /// Milliseconds after which to try again, if the server says so.
    pub pushback: Option<String>,
    /// The messages answered before it.
    pub answers: Vec<M>,
}

/// Calls `path`, such as `/keyloom.v1.Ingest/Send`, with these messages, on `127.0.0.1:<port>`.
pub fn call<Q: Message, M: Message + Default>(port: u16, path: &str, questions: &[Q]) -> Outcome<M> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let work = async { tokio::time::timeout(CALL_MAX, answer(port, path, questions)).await };
    runtime.block_on(work).unwrap_or_else(|_| panic!("{path}: no answer within {CALL_MAX:?}"))
}

async fn answer<Q: Message, M: Message + Default>(port: u16, path: &str, questions: &[Q]) -> Outcome<M> {
    let mut body = BytesMut::new();
    for question in questions {
        body.put_u8(0); // not packed
        body.put_u32(question.encoded_len() as u32);
        question.encode(&mut body).expect("a buffer that grows");
    }
    let request = hyper::Request::post(format!("http://127.0.0.1:{port}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(body.freeze()))
        .expect("a request");
    let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http::<Full<Bytes>>();
    let response = client.request(request).await.unwrap_or_else(|e| panic!("{path}: {e}"));
    assert_eq!(response.status(), 200, "gRPC says everything else in its own status");
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap_or_else(|e| panic!("{path}: {e}"));
    let trailers = body.trailers().cloned().unwrap_or_default();
    let header = |name: &str| {
        let value = trailers.get(name).or_else(|| head.headers.get(name))?;
        Some(value.to_str().expect("ASCII").to_owned())
    };
    let mut rest = &body.to_bytes()[..];
    let mut answers = Vec::new();
    while let Some((frame, behind)) = rest.split_at_checked(5) {
        let length = u32::from_be_bytes([frame[1], frame[2], frame[3], frame[4]]) as usize;
        let (message, behind) = behind.split_at(length);
        answers.push(M::decode(message).expect("a message of that kind"));
        rest = behind;
    }
    Outcome {
        status: header("grpc-status").and_then(|status| status.parse().ok()).expect("a status"),
        message: header("grpc-message").unwrap_or_default(),
        pushback: header("grpc-retry-pushback-ms"),
        answers,
    }
}
