//! The HTTP server of all faces.

use std::net::SocketAddr;

use axum::Router;
use tokio::{net::TcpListener, sync::watch};

/// The address cannot be had.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen on {address}: {error}; set [http] listen to a free address of this machine, such as \"127.0.0.1:0\""
)]
pub struct ServerError {
    address: SocketAddr,
    error: std::io::Error,
}

/// A listening server; it ends when it is dropped or told to.
pub struct Server {
    /// The address it really has.
    pub address: SocketAddr,
    stop: watch::Sender<bool>,
}

impl Server {
    /// Listens and serves `router`.
    pub async fn start(address: SocketAddr, router: Router) -> Result<Self, ServerError> {
        let failed = |error| ServerError { address, error };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (stop, mut stopped) = watch::channel(false);
        let ended = async move {
            stopped.wait_for(|stop| *stop).await.ok(); // the sender is gone: that is the end as well
        };
        tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(ended).await {
                tracing::error!(%error, "the HTTP server ended");
            }
        });
        Ok(Self { address, stop })
    }

    /// Takes no more connections.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }
}
