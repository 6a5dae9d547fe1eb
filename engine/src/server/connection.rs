//! One connection, from its first byte to its end.

use std::{net::SocketAddr, pin::pin, sync::Arc};

use axum::{
    Router,
    body::Body,
    http::{HeaderValue, Request, Response, StatusCode, header},
};
use bytes::{Bytes, BytesMut};
use hyper::{
    body::{Body as _, Incoming},
    server::conn::{http1, http2},
    service::Service,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::graceful::GracefulConnection,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite},
    net::TcpStream,
    time::{Instant, timeout},
};

use super::{
    HEAD_BYTES_MAX, Limits, STREAMS_MAX, Shared,
    accept::stopped,
    body::{Arriving, Leaving, OpenRequest, Room},
    observe,
    pulse::{Protocol, Pulse, Verdict},
    stream::{SharedPulse, Watched},
    tls,
};
use crate::access::{Peer, http::is_grpc};

/// How an HTTP/2 connection begins.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of one stream that may arrive before they are read: what a body in flight costs in memory at most ...
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
/// ... and those of all streams of a connection.
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;
/// Streams that a client opened and took back, and that we have not looked at, before the connection ends.
const RESET_STREAMS_MAX: usize = 32;
/// Streams that we took back because of what the client sent, before the connection ends. Each piece of a body that
/// arrives when its stream is forgotten counts too: one burst of a window's bytes must not be too many.
const ERROR_RESETS_MAX: usize = 1024;
/// Bytes of one stream that are handed over before the client takes them.
const SEND_BUFFER_BYTES: usize = 128 << 10;
/// What a client gets whose answer does not fit beside those of others.
const FULL: &str =
    r#"{"error":"too many bytes of answers wait for their readers","hint":"try again, or ask for less"}"#;

/// Serves `router` on `stream` until either end has enough.
pub(super) async fn serve(stream: TcpStream, address: SocketAddr, shared: &Shared, router: Router) {
    stream.set_nodelay(true).ok(); // slower, not wrong, without it
    let Some(tls) = &shared.tls else {
        let peer = Peer { address, certificate_names: Arc::default() };
        return speak(stream, peer, shared, router).await;
    };
    let mut stop = shared.stop.subscribe();
    let shaken = tokio::select! {
        shaken = timeout(shared.limits.header_timeout, tls.acceptor.accept(stream)) => shaken,
        () = stopped(&mut stop) => return,
    };
    match shaken {
        Ok(Ok(stream)) => {
            let certificate_names = tls::names(stream.get_ref().1.peer_certificates());
            speak(stream, Peer { address, certificate_names }, shared, router).await;
        }
        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
        Err(_) => observe::cut("handshake"),
    }
}

/// Finds out which HTTP it is, and speaks it.
async fn speak<S>(mut stream: S, peer: Peer, shared: &Shared, router: Router)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut stop = shared.stop.subscribe();
    let began = tokio::select! {
        began = timeout(shared.limits.header_timeout, begin(&mut stream)) => began,
        () = stopped(&mut stop) => return, // it has asked for nothing yet
    };
    let (protocol, ahead) = match began {
        Ok(Some(began)) => began,
        Ok(None) => return,
        Err(_) => return observe::cut("head"),
    };
    let pulse = SharedPulse::new(Pulse::new(protocol, Instant::now()));
    let stream = TokioIo::new(Watched::new(stream, ahead, pulse.clone()));
    let room = Room::new(Arc::clone(&shared.answers), shared.limits.answer_bytes_max);
    let router = TowerToHyperService::new(router);
    let service = Requests { router, peer, protocol, pulse: pulse.clone(), room, limits: shared.limits };
    match protocol {
        Protocol::One => {
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(None).max_header_size(HEAD_BYTES_MAX);
            drive(http.serve_connection(stream, service), &pulse, shared).await;
        }
        Protocol::Two => {
            let mut http = http2::Builder::new(TokioExecutor::new());
            http.timer(TokioTimer::new())
                .max_concurrent_streams(STREAMS_MAX)
                .max_header_list_size(HEAD_BYTES_MAX as u32)
                .max_pending_accept_reset_streams(RESET_STREAMS_MAX)
                .max_local_error_reset_streams(ERROR_RESETS_MAX)
                .initial_stream_window_size(STREAM_WINDOW_BYTES)
                .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
                .max_send_buf_size(SEND_BUFFER_BYTES)
                .keep_alive_interval(shared.limits.ping_interval)
                .keep_alive_timeout(shared.limits.ping_timeout);
            drive(http.serve_connection(stream, service), &pulse, shared).await;
        }
    }
}

/// Reads until it is clear what the client speaks; `None` if it says nothing.
async fn begin<S: AsyncRead + Unpin>(stream: &mut S) -> Option<(Protocol, Bytes)> {
    let mut ahead = BytesMut::with_capacity(PREFACE.len());
    loop {
        let mut more = [0; PREFACE.len()];
        let wanted = PREFACE.len() - ahead.len();
        match stream.read(&mut more[..wanted]).await {
            Ok(0) if ahead.is_empty() => return None,
            Ok(0) => return Some((Protocol::One, ahead.freeze())), // let it say what is wrong with that
            Ok(count) => ahead.extend_from_slice(&more[..count]),
            Err(_) => return None,
        }
        if !PREFACE.starts_with(&ahead) {
            return Some((Protocol::One, ahead.freeze()));
        }
        if ahead.len() == PREFACE.len() {
            return Some((Protocol::Two, ahead.freeze()));
        }
    }
}

/// Lets `connection` work until it ends, is no longer worth having, or the server stops.
async fn drive<C: GracefulConnection>(connection: C, pulse: &SharedPulse, shared: &Shared) {
    let mut connection = pin!(connection);
    let mut stop = shared.stop.subscribe();
    let mut is_closing = false;
    let mut look_at = Instant::now();
    loop {
        tokio::select! {
            _ended = connection.as_mut() => return, // errors are the client's, who has gone
            () = stopped(&mut stop), if !is_closing => {
                is_closing = true;
                connection.as_mut().graceful_shutdown();
            }
            () = tokio::time::sleep_until(look_at) => {
                let now = Instant::now();
                let verdict = pulse.lock().verdict(now, &shared.limits);
                match verdict {
                    // What begins meanwhile may be due sooner.
                    Verdict::Wait(until) => look_at = until.min(now + shared.limits.header_timeout),
                    Verdict::Close if !is_closing => {
                        is_closing = true;
                        connection.as_mut().graceful_shutdown();
                        look_at = now + shared.limits.header_timeout;
                    }
                    Verdict::Close => return,
                    Verdict::Cut(reason) => return observe::cut(reason),
                }
            }
        }
    }
}

/// The requests of one connection.
struct Requests {
    router: TowerToHyperService<Router>,
    peer: Peer,
    protocol: Protocol,
    pulse: SharedPulse,
    room: Room,
    limits: Limits,
}

impl Service<Request<Incoming>> for Requests {
    type Response = Response<Leaving>;
    type Error = std::convert::Infallible;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let open = OpenRequest::new(&self.pulse);
        let (mut head, body) = request.into_parts();
        head.extensions.insert(self.peer.clone());
        head.extensions.insert(open.stay());
        // On HTTP/1 there is no gRPC, whatever a request says.
        let shares_connection = self.protocol == Protocol::Two;
        let is_call = shares_connection && is_grpc(&head.headers);
        let limit = (!is_call).then_some(self.limits.body_timeout);
        let linger = shares_connection.then_some(self.limits.linger_timeout);
        let body = if body.is_end_stream() { Body::empty() } else { Body::new(Arriving::new(body, limit, linger)) };
        let answer = self.router.call(Request::from_parts(head, body));
        let room = self.room.clone();
        Box::pin(async move {
            let answer = answer.await?;
            let fits = answer.body().size_hint().exact().is_none_or(|bytes| room.has(bytes));
            let answer = if fits { answer } else { full(&room) };
            Ok(answer.map(|body| Leaving::new(body, room, open)))
        })
    }
}

/// The answer when too many others wait for their readers. It says so if there is room for that much.
fn full(room: &Room) -> Response<Body> {
    let fits = room.has(FULL.len() as u64);
    let mut answer = Response::new(if fits { Body::from(FULL) } else { Body::empty() });
    *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}
