//! The least gRPC client that the tests need, over HTTP/2 without TLS, messages framed by hand: one call with whole messages,
//! or many on one connection, whose bytes the test sends when it likes.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap,
    body::{Body, Frame},
    client::conn::http2::{SendRequest, handshake},
};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo},
};
use prost::Message;
use tokio::{
    net::TcpStream,
    runtime::Runtime,
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
};

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

/// A message with its prefix; `packed`: as the head of its call says.
pub fn framed(packed: bool, message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(packed.into());
    framed.put_u32(message.len() as u32);
    framed.put_slice(message);
    framed.freeze()
}

/// One connection, for many calls at once.
pub struct Line {
    runtime: Runtime,
    port: u16,
    sender: SendRequest<Pieces>,
}

/// A call on a [`Line`]; its messages end when it says so, or is dropped.
pub struct Call {
    pieces: Option<UnboundedSender<Bytes>>,
    seen: Arc<Mutex<Seen>>,
}

/// Instead of the status of a call that broke off without one.
pub const BROKEN_OFF: u32 = u32::MAX;

/// What has come of a call so far.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The gRPC status, once the call has ended, or [`BROKEN_OFF`].
    pub status: Option<u32>,
    /// Its text, as it was sent.
    pub message: String,
    /// Milliseconds after which to try again, if the server says so.
    pub pushback: Option<String>,
    /// Bytes of the messages answered, with their prefixes.
    pub bytes: usize,
}

/// A body whose pieces the test sends.
struct Pieces(UnboundedReceiver<Bytes>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
    }
}

impl Seen {
    fn end(&mut self, from: &HeaderMap) {
        let text = |name: &str| from.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        if let Some(status) = text("grpc-status") {
            self.status = status.parse().ok();
            self.message = text("grpc-message").unwrap_or_default();
            self.pushback = text("grpc-retry-pushback-ms");
        }
    }
}

impl Line {
    /// Connects to `127.0.0.1:<port>`.
    pub fn open(port: u16) -> Self {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build().expect("a runtime");
        let sender = runtime.block_on(async {
            let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("a connection");
            let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
            tokio::spawn(connection);
            sender
        });
        Self { runtime, port, sender }
    }

    /// Begins a call; `encoding` is how its packed messages are packed.
    pub fn call(&self, path: &str, encoding: Option<&str>) -> Call {
        let (pieces, body) = unbounded_channel();
        let mut request = hyper::Request::post(format!("http://127.0.0.1:{}{path}", self.port))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if let Some(encoding) = encoding {
            request = request.header("grpc-encoding", encoding);
        }
        let request = request.body(Pieces(body)).expect("a request");
        let mut sender = self.sender.clone();
        let seen = Arc::<Mutex<Seen>>::default();
        let call = Call { pieces: Some(pieces), seen: Arc::clone(&seen) };
        self.runtime.spawn(async move {
            let edit = |change: &dyn Fn(&mut Seen)| change(&mut seen.lock().unwrap_or_else(PoisonError::into_inner));
            if sender.ready().await.is_ok()
                && let Ok(response) = sender.send_request(request).await
            {
                let (head, mut body) = response.into_parts();
                edit(&|seen| seen.end(&head.headers));
                while let Some(Ok(frame)) = body.frame().await {
                    edit(&|seen| match (frame.data_ref(), frame.trailers_ref()) {
                        (Some(data), _) => seen.bytes += data.len(),
                        (_, Some(trailers)) => seen.end(trailers),
                        _ => {}
                    });
                }
            }
            edit(&|seen| {
                seen.status.get_or_insert(BROKEN_OFF);
            });
        });
        call
    }
}

impl Call {
    /// Sends these bytes, unless the server has ended the call.
    pub fn send(&self, bytes: Bytes) {
        if let Some(pieces) = &self.pieces {
            pieces.send(bytes).ok();
        }
    }

    /// No message comes any more.
    pub fn end(&mut self) {
        self.pieces = None;
    }

    /// What has come so far.
    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
