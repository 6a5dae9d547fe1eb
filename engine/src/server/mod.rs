//! The HTTP server of all faces: HTTP/1.1 and HTTP/2, plain or over TLS, with a limit on everything that a client may make
//! it hold or wait for.
//!
//! [`accept`] takes connections, [`connection`] serves one, [`pulse`] decides when one is no longer worth having. Not
//! here: who may come in, see `access`, and what is answered, see `faces` and `front_door`.

mod accept;
mod body;
mod connection;
mod descriptors;
pub mod observe;
mod pulse;
mod stream;
mod tls;

#[cfg(test)]
mod tests;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, extract::Request, middleware::Next, response::Response};
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::{Semaphore, watch},
};

pub use self::{
    body::{Stay, is_late},
    descriptors::connections_within,
    tls::{Tls, TlsError},
};

/// Streams of one HTTP/2 connection that are worked on at once.
pub const STREAMS_MAX: u32 = 128;
/// Largest head of a request, in bytes, names and values of all headers.
pub const HEAD_BYTES_MAX: usize = 16 << 10;
/// Bytes of answers that wait for their readers, over all connections: beyond it, answers are refused.
pub const ANSWER_BYTES_MAX: usize = 256 << 20;

/// How long the rest of a refused body is read: its client knows after one way to it and one back.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);
/// After so long without a frame from an HTTP/2 client it is asked whether it is still there ...
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// ... and has so long to say so.
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Connections that wait to be taken, as far as the system allows: beyond it, clients wait a second before they try again.
const BACKLOG: u32 = 4096;

/// What a client may make the server hold, and how long it may make it wait.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open connections, over all addresses.
    pub connections_max: usize,
    /// How long a TLS handshake, or the head of a request, may take to arrive.
    pub header_timeout: Duration,
    /// How long a request body may take to arrive; those of gRPC, whose streams may take for ever, time their messages
    /// themselves.
    pub body_timeout: Duration,
    /// How long the rest of a body that was refused before it had arrived is read and forgotten, on HTTP/2.
    pub linger_timeout: Duration,
    /// A connection without a request is closed after this long.
    pub idle_timeout: Duration,
    /// A client that reads nothing of an answer for this long, or next to nothing, is cut off.
    pub write_timeout: Duration,
    /// How long an HTTP/2 client may be silent before it is asked whether it is still there; calls may pause for ever.
    pub ping_interval: Duration,
    /// How long it may take to say so. That it does keeps no connection that nobody uses.
    pub ping_timeout: Duration,
    /// Bytes of answers that wait for their readers.
    pub answer_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            linger_timeout: LINGER_TIMEOUT,
            idle_timeout: Duration::from_secs(75),
            write_timeout: Duration::from_secs(30),
            ping_interval: PING_INTERVAL,
            ping_timeout: PING_TIMEOUT,
            answer_bytes_max: ANSWER_BYTES_MAX,
        }
    }
}

/// An address cannot be had.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen on {address}: {error}; set listen in [http] (or [ingest], [features], [admin]) to a free address of \
     this machine, such as \"127.0.0.1:0\""
)]
pub struct ServerError {
    address: SocketAddr,
    error: std::io::Error,
}

/// What all connections share.
struct Shared {
    limits: Limits,
    tls: Option<Tls>,
    connections: Arc<Semaphore>,
    answers: Arc<Semaphore>,
    stop: watch::Sender<bool>,
}

/// The server; what it listens on closes when it is dropped or told to stop.
pub struct Server {
    shared: Arc<Shared>,
}

impl Server {
    /// A server that listens nowhere yet.
    pub fn new(limits: Limits, tls: Option<Tls>) -> Self {
        let slots = |count: usize| Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS)));
        let shared = Shared {
            limits,
            tls,
            connections: slots(limits.connections_max),
            answers: slots(limits.answer_bytes_max),
            stop: watch::channel(false).0,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Listens on `address` and serves `router` there; the address it really has.
    pub async fn listen(&self, address: SocketAddr, router: Router) -> Result<SocketAddr, ServerError> {
        let failed = |error| ServerError { address, error };
        let listener = bind(address).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        tokio::spawn(accept::run(listener, Arc::clone(&self.shared), router));
        Ok(address)
    }

    /// `https` or `http`.
    pub fn scheme(&self) -> &'static str {
        if self.shared.tls.is_some() { "https" } else { "http" }
    }

    /// Takes no more connections, and on those that it has no more requests; the ones under way are answered.
    pub fn stop(&self) {
        self.shared.stop.send_replace(true);
    }

    /// Waits until no connection is left, at most for `limit`; whether none is.
    pub async fn closed(&self, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.shared.stop.closed()).await.is_ok()
    }

    /// Open connections.
    pub fn connections(&self) -> usize {
        self.shared.limits.connections_max.saturating_sub(self.shared.connections.available_permits())
    }
}

/// For routes that anybody may call and whose calls may last: such a call keeps no connection, which without other
/// requests is idle. For the client alone decides when the call ends.
pub async fn waived(request: Request, next: Next) -> Response {
    if let Some(stay) = request.extensions().get::<Stay>() {
        stay.waive();
    }
    next.run(request).await
}

fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?; // after a restart, connections of the last run may still be known to the system
    // Its connections inherit it: clients of HTTP/1 that are gone without a word are found out by the system, in its time.
    socket.set_keepalive(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}
