//! Takes connections, up to the limit, whatever the system says.
//!
//! Out of descriptors, it waits and tries again: neither the end of the server nor a loop that takes a whole core.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::{Shared, connection, observe};

/// The wait after the first failure to take a connection; it doubles with each ...
const BACKOFF_MIN: Duration = Duration::from_millis(10);
/// ... up to this.
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// What a client gets for whom there is no room.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n\
    connection: close\r\ncontent-length: 96\r\n\r\n\
    {\"error\":\"too many connections are open\",\"hint\":\"try again, or raise connections_max in [http]\"}";

/// Where connections come from.
pub(super) trait Source {
    /// The next one.
    fn next(&self) -> impl Future<Output = io::Result<(TcpStream, SocketAddr)>> + Send;
}

impl Source for TcpListener {
    async fn next(&self) -> io::Result<(TcpStream, SocketAddr)> {
        self.accept().await
    }
}

/// Serves `router` to whoever connects, until the server stops.
pub(super) async fn run(source: impl Source, shared: Arc<Shared>, router: Router) {
    let mut stop = shared.stop.subscribe();
    let mut backoff = BACKOFF_MIN;
    loop {
        let next = tokio::select! {
            next = source.next() => next,
            () = stopped(&mut stop) => return,
        };
        match next {
            Ok((stream, peer)) => {
                backoff = BACKOFF_MIN;
                take(stream, peer, &shared, &router);
            }
            Err(error) if is_of_one_client(&error) => {}
            Err(error) => {
                if backoff == BACKOFF_MIN {
                    tracing::warn!(%error, "cannot take connections now; trying again");
                }
                tokio::select! {
                    () = tokio::time::sleep(backoff) => {}
                    () = stopped(&mut stop) => return,
                }
                backoff = (backoff * 2).min(BACKOFF_MAX);
            }
        }
    }
}

/// Waits for the end of the server.
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    stop.wait_for(|stop| *stop).await.ok(); // the sender is gone: that is the end as well
}

fn is_of_one_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

fn take(stream: TcpStream, peer: SocketAddr, shared: &Arc<Shared>, router: &Router) {
    let Ok(slot) = Arc::clone(&shared.connections).try_acquire_owned() else {
        observe::refused();
        if shared.tls.is_none() {
            refuse(stream);
        }
        return;
    };
    let (shared, router) = (Arc::clone(shared), router.clone());
    tokio::spawn(async move {
        observe::opened();
        let open = Open;
        connection::serve(stream, peer, &shared, router).await;
        drop((open, slot));
    });
}

/// Says it once, without waiting for anything.
fn refuse(stream: TcpStream) {
    use std::io::Write as _;
    if let Ok(mut stream) = stream.into_std() {
        stream.write_all(FULL).ok(); // who does not take it in one piece finds the connection closed
    }
}

/// Counts a connection for as long as it lives, however it ends.
struct Open;

impl Drop for Open {
    fn drop(&mut self) {
        observe::closed();
    }
}
