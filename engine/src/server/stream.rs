//! A connection's bytes on their way: what was read ahead comes first, and the pulse learns what moves.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::pulse::Pulse;

/// The pulse of a connection, for all who have a part in it.
#[derive(Clone, Debug)]
pub(super) struct SharedPulse(Arc<Mutex<Pulse>>);

impl SharedPulse {
    pub(super) fn new(pulse: Pulse) -> Self {
        Self(Arc::new(Mutex::new(pulse)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Pulse> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner) // numbers only: they are right whoever panicked
    }
}

/// See the module.
pub(super) struct Watched<S> {
    inner: S,
    ahead: Bytes,
    pulse: SharedPulse,
}

impl<S> Watched<S> {
    /// `ahead` was read from `inner` already.
    pub(super) fn new(inner: S, ahead: Bytes, pulse: SharedPulse) -> Self {
        Self { inner, ahead, pulse }
    }

    fn note<T>(&self, moved: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match &moved {
            Poll::Pending => self.pulse.lock().blocked(Instant::now()),
            Poll::Ready(_) => self.pulse.lock().wrote(),
        }
        moved
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ahead.has_remaining() {
            let count = self.ahead.len().min(buf.remaining());
            buf.put_slice(&self.ahead.split_to(count));
            self.pulse.lock().read(Instant::now());
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.pulse.lock().read(Instant::now());
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let moved = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.note(moved)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let moved = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.note(moved)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    /// Over TLS this is where bytes wait that were written already.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let moved = Pin::new(&mut self.inner).poll_flush(cx);
        self.note(moved)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let moved = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.note(moved)
    }
}
