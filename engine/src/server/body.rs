//! Bodies with limits: of requests in time, of answers in memory.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::Body;
use bytes::{Buf, Bytes};
use http_body_util::BodyExt as _;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep, timeout},
};

use super::{observe, stream::SharedPulse};

/// Bytes of a refused body that are read and forgotten: a client that sends more does not look at its answers.
const DISCARDED_BYTES_MAX: usize = 1 << 20;

/// A body did not come as it should.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    /// Of a request, in time.
    #[error("the request body did not arrive within {0:?}")]
    Slow(Duration),
    /// The connection broke.
    #[error(transparent)]
    Http(#[from] hyper::Error),
    /// Of an answer: nobody reads the others.
    #[error("too many bytes of answers wait for their readers")]
    NoRoom,
    /// Of an answer: whoever made it failed.
    #[error(transparent)]
    Answer(#[from] axum::Error),
}

/// Whether `error`, of whoever read the body of a request, says that it did not arrive in time.
pub fn is_late(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source())
        .any(|error| matches!(error.downcast_ref(), Some(BodyError::Slow(_))))
}

/// The body of a request; it has arrived within a limit, or ends with an error. The time counts from when it is first
/// waited for.
///
/// A client that is refused before it has sent everything learns of it a moment later, and has sent more meanwhile. To
/// HTTP/2 as it is spoken here that is an error, once the stream is taken back and forgotten, and some of them end the
/// whole connection, with all other requests on it. So what is left of a body when nobody wants it any more is
/// [discarded](discard) for a while.
pub(super) struct Arriving {
    inner: Option<Incoming>,
    limit: Option<Duration>,
    deadline: Option<Pin<Box<Sleep>>>,
    /// How long the rest is discarded.
    linger: Option<Duration>,
}

impl Arriving {
    pub(super) fn new(inner: Incoming, limit: Option<Duration>, linger: Option<Duration>) -> Self {
        Self { inner: Some(inner), limit, deadline: None, linger }
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        let (Some(inner), Some(linger)) = (self.inner.take(), self.linger) else { return };
        if !inner.is_end_stream()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(timeout(linger, discard(inner)));
        }
    }
}

/// Reads `rest` to its end, or until there is too much of it. At most one at a time for each stream of a connection: it
/// stays open as long.
async fn discard(mut rest: Incoming) {
    let mut bytes = 0;
    while let Some(Ok(frame)) = rest.frame().await {
        bytes += frame.data_ref().map_or(0, Bytes::len);
        if bytes > DISCARDED_BYTES_MAX {
            return;
        }
    }
}

impl HttpBody for Arriving {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
        if let Poll::Ready(frame) = Pin::new(inner).poll_frame(cx) {
            return Poll::Ready(frame.map(|frame| frame.map_err(BodyError::from)));
        }
        let Some(limit) = self.limit else { return Poll::Pending };
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        ready!(deadline.as_mut().poll(cx));
        Poll::Ready(Some(Err(BodyError::Slow(limit))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(SizeHint::default, Incoming::size_hint)
    }
}

/// A request that is being worked on, or whose answer is not handed over yet.
pub(super) struct OpenRequest {
    pulse: SharedPulse,
    /// Its number on its connection.
    number: u64,
}

impl OpenRequest {
    pub(super) fn new(pulse: &SharedPulse) -> Self {
        Self { number: pulse.lock().opened(), pulse: pulse.clone() }
    }

    pub(super) fn stay(&self) -> Stay {
        Stay { pulse: self.pulse.clone(), number: self.number }
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.pulse.lock().ended(self.number, Instant::now());
    }
}

/// What keeps a connection while a request is worked on: an extension of every request.
#[derive(Clone, Debug)]
pub struct Stay {
    pulse: SharedPulse,
    number: u64,
}

impl Stay {
    /// Keeps the connection no longer on behalf of this request: without others it is idle, however long this one lasts.
    pub fn waive(&self) {
        self.pulse.lock().ended(self.number, Instant::now());
    }
}

/// Room for the bytes of answers that wait for their readers.
#[derive(Clone)]
pub(super) struct Room {
    free: Arc<Semaphore>,
    bytes_max: usize,
}

/// Bytes of an answer, and the room that they take until the connection has handed them over. The pulse hears of each
/// that goes, for nobody else knows: hyper asks for the bytes of an answer before its client wants them.
pub(super) struct Held {
    bytes: Bytes,
    room: Room,
    permit: Option<OwnedSemaphorePermit>,
    pulse: SharedPulse,
    /// The request that they answer.
    number: u64,
}

impl Buf for Held {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        self.pulse.lock().took(self.number, count, Instant::now());
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.permit.take());
        self.room.tell();
        self.pulse.lock().released(self.number, Instant::now());
    }
}

impl Room {
    pub(super) fn new(free: Arc<Semaphore>, bytes_max: usize) -> Self {
        Self { free, bytes_max }
    }

    fn tell(&self) {
        observe::answer_bytes(self.bytes_max.saturating_sub(self.free.available_permits()));
    }

    /// Takes room for `bytes` of the answer to `request`, or says that there is none.
    fn hold(&self, bytes: Bytes, request: &OpenRequest) -> Result<Held, BodyError> {
        let count = u32::try_from(bytes.len()).map_err(|_| BodyError::NoRoom)?;
        let permit = Arc::clone(&self.free).try_acquire_many_owned(count).map_err(|_| BodyError::NoRoom)?;
        self.tell();
        request.pulse.lock().held(request.number, Instant::now());
        let OpenRequest { pulse, number } = request;
        Ok(Held { bytes, room: self.clone(), permit: Some(permit), pulse: pulse.clone(), number: *number })
    }

    /// Whether `bytes` would find room now.
    pub(super) fn has(&self, bytes: u64) -> bool {
        usize::try_from(bytes).is_ok_and(|bytes| bytes <= self.free.available_permits())
    }
}

/// The body of an answer: takes room for what is under way.
pub(super) struct Leaving {
    inner: Body,
    room: Room,
    request: OpenRequest,
}

impl Leaving {
    pub(super) fn new(inner: Body, room: Room, request: OpenRequest) -> Self {
        Self { inner, room, request }
    }
}

impl HttpBody for Leaving {
    type Data = Held;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Held>, BodyError>>> {
        let Some(frame) = ready!(Pin::new(&mut self.inner).poll_frame(cx)) else { return Poll::Ready(None) };
        Poll::Ready(Some(match frame?.into_data() {
            Ok(data) => self.room.hold(data, &self.request).map(Frame::data),
            Err(other) => Ok(Frame::trailers(other.into_trailers().unwrap_or_default())), // there are no other kinds
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
