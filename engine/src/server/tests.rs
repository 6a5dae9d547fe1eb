//! The server over real sockets: honest clients are served, and the others cost no more than their limits.

use std::{
    collections::{BTreeSet, VecDeque},
    io,
    path::Path,
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Extension,
    body::Body,
    http::{Request, StatusCode},
    response::IntoResponse,
    routing::get,
};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    sync::Notify,
    time::Instant,
};
use tokio_rustls::TlsConnector;

use super::*;
use crate::access::Peer;

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(20);
/// Larger than what sockets and windows hold by themselves.
const BIG: usize = 24 << 20;

fn short() -> Limits {
    Limits {
        header_timeout: Duration::from_millis(300),
        body_timeout: Duration::from_millis(300),
        linger_timeout: Duration::from_millis(300),
        idle_timeout: Duration::from_millis(300),
        write_timeout: Duration::from_millis(300),
        ..Limits::default()
    }
}

/// Waits long enough where a test is not about time.
fn long() -> Limits {
    let limit = Duration::from_secs(60);
    Limits {
        header_timeout: limit,
        body_timeout: limit,
        linger_timeout: limit,
        idle_timeout: limit,
        write_timeout: limit,
        ..Limits::default()
    }
}

/// Cuts off soon who does not read, and nobody else. (It looks as often as heads may take.)
fn strict() -> Limits {
    let Limits { header_timeout, write_timeout, .. } = short();
    Limits { header_timeout, write_timeout, ..long() }
}

/// Time that passes only when a test says so, whatever the machine does meanwhile: for what must happen within a limit, or
/// must not. As usual again when it is dropped. Nobody may wait for a time beside the server, not even until a deadline.
struct HeldTime {
    _holds: std::sync::mpsc::Sender<()>,
}

impl HeldTime {
    /// In a runtime of one thread, which paused time would jump in as soon as all wait, if nothing blocked.
    fn begin() -> Self {
        let (holds, held) = std::sync::mpsc::channel();
        tokio::task::spawn_blocking(move || held.recv().is_err());
        tokio::time::pause();
        Self { _holds: holds }
    }

    async fn pass(&self, time: Duration) {
        tokio::time::advance(time).await;
    }
}

impl Drop for HeldTime {
    fn drop(&mut self) {
        tokio::time::resume();
    }
}

struct Site {
    server: Server,
    address: SocketAddr,
    /// Lets `/held` answer.
    release: Arc<Notify>,
    /// Requests that `/held` has.
    held: Arc<AtomicUsize>,
}

impl Site {
    async fn open(limits: Limits, tls: Option<Tls>) -> Self {
        let (release, held) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
        let (wait, count) = (Arc::clone(&release), Arc::clone(&held));
        let hold = move || async move {
            count.fetch_add(1, Ordering::Relaxed);
            wait.notified().await;
            "at last"
        };
        let router = Router::new()
            .route("/", get(|| async { "hello" }))
            .route("/big", get(|| async { Body::from(Bytes::from(vec![b'x'; BIG])) }))
            .route("/refuse", axum::routing::post(|| async { StatusCode::TOO_MANY_REQUESTS }))
            .route("/echo", axum::routing::post(|body: Bytes| async move { body.len().to_string() }))
            .route(
                "/who",
                get(|Extension(peer): Extension<Peer>| async move {
                    format!("{} {}", peer.address.ip(), peer.certificate_names.join(",")).into_response()
                }),
            )
            .route("/held", get(hold.clone()))
            .route("/waived", get(hold).route_layer(axum::middleware::from_fn(waived)));
        let server = Server::new(limits, tls);
        let address = server.listen(([127, 0, 0, 1], 0).into(), router).await.expect("a free port");
        Self { server, address, release, held }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("a connection")
    }

    /// A connection of HTTP/2 whose client gives each answer so much room.
    async fn line(&self, window: u32) -> hyper::client::conn::http2::SendRequest<Empty<Bytes>> {
        let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(window).initial_connection_window_size(1 << 20);
        let (sender, connection) = builder.handshake(TokioIo::new(self.connect().await)).await.expect("HTTP/2");
        tokio::spawn(connection);
        sender
    }

    fn request(&self, path: &str) -> Request<Empty<Bytes>> {
        Request::get(format!("http://{}{path}", self.address)).body(Empty::new()).expect("a request")
    }

    async fn until(&self, what: &str, seen: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !seen(self) {
            assert!(Instant::now() < deadline, "{what}: not in time; {} connections", self.server.connections());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// One request of an honest client, on a connection of its own.
    async fn get(&self, path: &str) -> String {
        let mut stream = self.connect().await;
        let text = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(text.as_bytes()).await.expect("sent");
        rest(&mut stream).await
    }
}

/// What comes until the connection ends.
async fn rest(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut text)).await.expect("the connection ends");
    read.ok(); // a reset is an end, too
    String::from_utf8_lossy(&text).into_owned()
}

fn client(http2: bool) -> Client<HttpConnector, Empty<Bytes>> {
    Client::builder(TokioExecutor::new()).http2_only(http2).build_http()
}

#[tokio::test]
async fn both_protocols_are_spoken_on_one_port() {
    let site = Site::open(long(), None).await;
    for http2 in [false, true] {
        let client = client(http2);
        for _ in 0..3 {
            let answer = client.get(format!("http://{}/who", site.address).parse().expect("an address")).await;
            let body = answer.expect("answered").into_body().collect().await.expect("whole").to_bytes();
            assert_eq!(body, "127.0.0.1 ");
        }
        assert_eq!(site.server.connections(), 1, "it is used again");
        drop(client);
        site.until("the client is gone", |site| site.server.connections() == 0).await;
    }
    // A client that sends its first bytes one by one, and several requests at once.
    let mut stream = site.connect().await;
    for byte in b"PR" {
        stream.write_all(&[*byte]).await.expect("sent");
        stream.flush().await.expect("sent");
        tokio::task::yield_now().await;
    }
    let twice = "OPFIND / HTTP/1.1\r\nhost: x\r\n\r\nGET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(twice.as_bytes()).await.expect("sent");
    let answers = rest(&mut stream).await;
    assert!(answers.starts_with("HTTP/1.1 405") && answers.ends_with("hello"), "{answers}");
}

#[tokio::test]
async fn who_does_not_get_to_the_point_is_let_go_and_others_are_served_meanwhile() {
    let site = Site::open(short(), None).await;
    let mut silent = site.connect().await;
    let mut slow = site.connect().await;
    slow.write_all(b"GET / HTTP/1.1\r\nhost: ").await.expect("sent");
    let mut idle = site.connect().await;
    idle.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sent");
    let mut pings = site.connect().await;
    pings.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.expect("sent");
    assert!(site.get("/").await.ends_with("hello"));
    let dripping = async {
        while slow.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, dripping).await.expect("a byte now and then does not keep it");
    assert_eq!(rest(&mut silent).await, "");
    assert!(rest(&mut idle).await.ends_with("hello"));
    rest(&mut pings).await;
    site.until("all of them are gone", |site| site.server.connections() == 0).await;
}

#[tokio::test]
async fn a_body_that_does_not_arrive_ends_its_request() {
    let site = Site::open(short(), None).await;
    let mut stream = site.connect().await;
    stream.write_all(b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nabc").await.expect("sent");
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    let mut good = site.connect().await;
    let text = b"POST /echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 3\r\n\r\nabc";
    good.write_all(text).await.expect("sent");
    assert!(rest(&mut good).await.ends_with("\r\n\r\n3"));
}

/// Kinds of HTTP/2 frames (RFC 9113, section 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
/// Flags of them.
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A client of HTTP/2 that writes what the test says and nothing else: its frames by hand.
struct Frames(TcpStream);

impl Frames {
    async fn open(site: &Site) -> Self {
        let mut client = Self(site.connect().await);
        client.0.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("sent");
        client.send(SETTINGS, 0, 0, &[]).await;
        client
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).expect("small").to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags];
        frame.extend_from_slice(&stream.to_be_bytes());
        frame.extend_from_slice(payload);
        self.0.write_all(&frame).await.expect("sent");
    }

    /// The head of `POST <path>`, in entries of HPACK's static table (RFC 7541, appendix A).
    async fn post(&mut self, stream: u32, path: &str, flags: u8) {
        let mut head = vec![0x83, 0x86, 0x01, 1, b'x', 0x04, u8::try_from(path.len()).expect("short")];
        head.extend_from_slice(path.as_bytes());
        self.send(HEADERS, END_HEADERS | flags, stream, &head).await;
    }

    /// The next frame that comes: its kind and stream.
    async fn next(&mut self) -> (u8, u32) {
        let mut head = [0; 9];
        let read = tokio::time::timeout(PATIENCE, self.0.read_exact(&mut head)).await.expect("something comes");
        read.expect("a frame");
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        self.0.read_exact(&mut vec![0; length as usize]).await.expect("the rest of a frame");
        if head[3] == SETTINGS && head[4] & ACK == 0 {
            self.send(SETTINGS, ACK, 0, &[]).await; // they hold from now on, its windows too
        }
        (head[3], u32::from_be_bytes([head[5], head[6], head[7], head[8]]))
    }

    /// Reads until the head of an answer has come on each of `wanted`; what else came meanwhile.
    async fn answers(&mut self, mut wanted: BTreeSet<u32>) -> Vec<(u8, u32)> {
        let mut others = Vec::new();
        while !wanted.is_empty() {
            let (kind, stream) = self.next().await;
            assert_ne!(kind, GOAWAY, "{} are not answered; {others:?}", wanted.len());
            if kind != HEADERS || !wanted.remove(&stream) {
                others.push((kind, stream));
            }
        }
        others
    }
}

#[tokio::test]
async fn what_is_still_on_its_way_when_a_request_is_refused_harms_no_other_of_its_connection() {
    /// As many as may be open at once, nearly; together a little less than a connection may send without being asked for
    /// more. There are more pieces than a connection may have errors.
    const STREAMS: u32 = 120;
    const PIECES: u32 = 15;
    let site = Site::open(long(), None).await;
    let mut client = Frames::open(&site).await;
    let streams = || (0..STREAMS).map(|n| 2 * n + 1);
    for stream in streams() {
        client.post(stream, "/refuse", 0).await;
    }
    client.answers(streams().collect()).await;
    // Whoever sends has not looked at the answers yet.
    for _ in 0..PIECES {
        for stream in streams() {
            client.send(DATA, 0, stream, &[0; 520]).await;
        }
    }
    for stream in streams() {
        client.send(RST_STREAM, 0, stream, &8u32.to_be_bytes()).await;
    }
    client.post(2 * STREAMS + 1, "/refuse", END_STREAM).await;
    let others = client.answers([2 * STREAMS + 1].into()).await;
    assert!(others.iter().all(|(kind, _)| *kind != RST_STREAM), "{others:?}");
}

#[tokio::test]
async fn a_refused_body_that_goes_on_is_taken_back_when_its_time_is_over_or_there_is_too_much_of_it() {
    let site = Site::open(short(), None).await;
    let mut silent = Frames::open(&site).await;
    silent.post(1, "/refuse", 0).await;
    silent.answers([1].into()).await;
    while silent.next().await != (RST_STREAM, 1) {}

    let site = Site::open(long(), None).await;
    let mut deaf = Frames::open(&site).await;
    deaf.post(1, "/refuse", 0).await;
    deaf.answers([1].into()).await;
    let mut pieces = 0;
    loop {
        // Half of a stream's window, after which the server says that there is room again.
        for _ in 0..8 {
            deaf.send(DATA, 0, 1, &[0; 16 << 10]).await;
            pieces += 1;
        }
        let said = loop {
            let (kind, stream) = deaf.next().await;
            if stream == 1 && matches!(kind, RST_STREAM | WINDOW_UPDATE) {
                break kind;
            }
        };
        if said == RST_STREAM {
            break;
        }
    }
    assert!((64..=80).contains(&pieces), "{pieces} of 16 KiB");
}

#[tokio::test]
async fn heads_have_a_limit() {
    let site = Site::open(long(), None).await;
    for (length, expected) in [(HEAD_BYTES_MAX - 200, "HTTP/1.1 200"), (HEAD_BYTES_MAX + 1, "HTTP/1.1 431")] {
        let mut stream = site.connect().await;
        let text = format!("GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx: {}\r\n\r\n", "y".repeat(length));
        stream.write_all(text.as_bytes()).await.expect("sent");
        let answer = rest(&mut stream).await;
        assert!(answer.starts_with(expected), "{length}: {answer}");
    }
    let request = |length| {
        let uri = format!("http://{}/", site.address);
        Request::get(uri).header("x", "y".repeat(length)).body(Empty::<Bytes>::new()).expect("a request")
    };
    let client = client(true);
    assert_eq!(client.request(request(1_000)).await.expect("answered").status(), 200);
    let refused = client.request(request(HEAD_BYTES_MAX + 1)).await;
    assert!(refused.map_or(true, |answer| answer.status() == 431), "a head of HTTP/2 that is too large");
}

#[tokio::test]
async fn beyond_the_limit_connections_are_refused_until_one_ends() {
    let site = Site::open(Limits { connections_max: 2, ..long() }, None).await;
    let (one, _two) = (site.connect().await, site.connect().await);
    site.until("both are taken", |site| site.server.connections() == 2).await;
    let mut third = site.connect().await;
    let answer = rest(&mut third).await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with("connections_max in [http]\"}"), "{answer}");
    drop(one);
    site.until("there is room again", |site| site.server.connections() == 1).await;
    assert!(site.get("/").await.ends_with("hello"));
}

#[tokio::test]
async fn a_client_that_never_reads_is_cut_off() {
    let site = Site::open(strict(), None).await;
    let time = HeldTime::begin();
    let mut deaf = site.connect().await;
    deaf.write_all(b"GET /big HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sent");
    let mut line = site.line(1 << 16).await;
    let unread = line.send_request(site.request("/big")).await.expect("a head");
    assert_eq!(site.server.connections(), 2, "both are connected");
    drop(time);
    site.until("both are cut off", |site| site.server.connections() == 0).await;
    assert_eq!(site.server.shared.answers.available_permits(), ANSWER_BYTES_MAX, "and hold nothing");
    assert!(unread.into_body().collect().await.is_err());
    assert!(rest(&mut deaf).await.len() < BIG);
}

#[tokio::test]
async fn a_client_that_reads_slowly_gets_all_of_it_though_that_takes_longer_than_one_pause_may() {
    /// So much is read between two pauses. The limit has more of them than buffers of the system have pieces, and the rest
    /// of the answer has still more.
    const PIECE: usize = 1 << 20;
    const PAUSES: u32 = 12;
    const RECEIVED_BYTES: u32 = 64 << 10;
    let limit = Duration::from_secs(2);
    let site = Site::open(Limits { write_timeout: limit, header_timeout: limit, ..long() }, None).await;
    let time = HeldTime::begin();
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(RECEIVED_BYTES).expect("possible");
    let mut slow = socket.connect(site.address).await.expect("a connection");
    slow.write_all(b"GET /big HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.expect("sent");
    let (began, mut piece) = (Instant::now(), vec![0; PIECE]);
    for _ in 0..BIG / PIECE {
        slow.read_exact(&mut piece).await.expect("not cut off");
        time.pass(limit / PAUSES).await;
    }
    assert!(began.elapsed() > limit);
    drop(time);
    assert!(rest(&mut slow).await.len() < PIECE, "and its head");
}

#[tokio::test]
async fn answers_without_room_at_their_client_are_cut_off_however_small() {
    let site = Site::open(strict(), None).await;
    let time = HeldTime::begin();
    let mut line = site.line(0).await;
    let mut unread = Vec::new();
    for _ in 0..5 {
        unread.push(line.send_request(site.request("/")).await.expect("a head").into_body());
    }
    drop(time);
    site.until("they are cut off", |site| site.server.connections() == 0).await;
    site.until("they hold nothing", |site| site.server.shared.answers.available_permits() == ANSWER_BYTES_MAX).await;
    for body in unread {
        assert!(body.collect().await.is_err());
    }
}

#[tokio::test]
async fn an_answer_that_is_read_does_not_shield_one_that_is_not() {
    let limit = Duration::from_secs(1);
    let site = Site::open(Limits { write_timeout: limit, header_timeout: limit, ..long() }, None).await;
    let time = HeldTime::begin();
    let mut line = site.line(64 << 10).await;
    let mut read = line.send_request(site.request("/big")).await.expect("a head").into_body();
    let (mut unread, mut total) = (None, 0);
    let ended = loop {
        let length = match read.frame().await {
            Some(Ok(frame)) => frame.into_data().map_or(0, |data| data.len()),
            ended => break ended,
        };
        // Slow, but a window's bytes take less than the limit.
        time.pass(limit.mul_f64(length as f64 / f64::from(1 << 20))).await;
        total += length;
        if unread.is_none() && total > 3 << 20 {
            unread = Some(line.send_request(site.request("/big")).await.expect("read slowly, and not cut off"));
        }
    };
    drop(time);
    assert!(unread.is_some() && matches!(ended, Some(Err(_))) && total < BIG, "{total} {ended:?}");
    site.until("they hold nothing", |site| site.server.shared.answers.available_permits() == ANSWER_BYTES_MAX).await;
}

#[tokio::test]
async fn a_client_that_is_gone_without_a_word_is_found_out_while_its_call_is_open() {
    let limit = Duration::from_millis(300);
    let site = Site::open(Limits { ping_interval: limit, ping_timeout: limit, ..long() }, None).await;
    let mut gone = site.connect().await;
    let hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let head = b"\0\0\x0c\x01\x05\0\0\0\x01\x82\x86\x04\x05/held\x01\x01x";
    gone.write_all(&[&hello[..], head].concat()).await.expect("sent");
    let mut patient = site.line(1 << 16).await;
    let waits = tokio::spawn(patient.send_request(site.request("/held")));
    site.until("both are held", |site| site.held.load(Ordering::Relaxed) == 2).await;
    rest(&mut gone).await;
    site.until("one is let go", |site| site.server.connections() == 1).await;
    tokio::time::sleep(3 * limit).await; // the other has answered more than once
    site.release.notify_waiters();
    let answer = waits.await.expect("no panic").expect("answered");
    assert_eq!(answer.into_body().collect().await.expect("whole").to_bytes(), "at last");
}

#[tokio::test]
async fn calls_that_anybody_may_leave_open_keep_no_connection() {
    let site = Site::open(short(), None).await;
    let (mut one, mut other) = (site.line(1 << 16).await, site.line(1 << 16).await);
    let waived = tokio::spawn(one.send_request(site.request("/waived")));
    let held = tokio::spawn(other.send_request(site.request("/held")));
    site.until("both are held", |site| site.held.load(Ordering::Relaxed) == 2).await;
    site.until("one is let go", |site| site.server.connections() == 1).await;
    assert!(waived.await.expect("no panic").is_err());
    site.release.notify_waiters();
    assert_eq!(held.await.expect("no panic").expect("answered").status(), 200);
}

#[tokio::test]
async fn answers_that_wait_for_their_readers_have_a_common_limit() {
    let site = Site::open(Limits { answer_bytes_max: BIG + (1 << 20), ..long() }, None).await;
    let mut deaf = site.connect().await;
    deaf.write_all(b"GET /big HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sent");
    site.until("its answer takes room", |site| site.server.shared.answers.available_permits() < 1 << 21).await;
    let refused = site.get("/big").await;
    assert!(refused.starts_with("HTTP/1.1 503") && refused.ends_with("or ask for less\"}"), "{refused}");
    assert!(site.get("/").await.ends_with("hello"), "small ones still fit");
    drop(deaf);
    site.until("the room is free", |site| site.server.shared.answers.available_permits() > BIG).await;
    assert_eq!(site.get("/big").await.matches('x').count(), BIG);
}

#[tokio::test]
async fn when_it_stops_requests_under_way_are_answered() {
    let site = Site::open(long(), None).await;
    let mut idle = site.connect().await;
    idle.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sent");
    let mut first = site.connect().await;
    first.write_all(b"GET /held HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sent");
    let client = client(true);
    let second = tokio::spawn(client.get(format!("http://{}/held", site.address).parse().expect("an address")));
    let mut silent = site.connect().await;
    site.until("both are held", |site| site.held.load(Ordering::Relaxed) == 2).await;
    site.server.stop();
    assert!(rest(&mut idle).await.ends_with("hello"));
    rest(&mut silent).await;
    site.until("nobody is let in", |_| std::net::TcpStream::connect(site.address).is_err()).await;
    assert!(!site.server.closed(Duration::from_millis(20)).await, "two are under way");
    site.release.notify_waiters();
    assert!(rest(&mut first).await.ends_with("at last"));
    let answer = second.await.expect("no panic").expect("answered");
    assert_eq!(answer.into_body().collect().await.expect("whole").to_bytes(), "at last");
    assert!(site.server.closed(PATIENCE).await);
}

/// A listener that fails before it gives out what it has.
struct Failing {
    errors: Mutex<VecDeque<io::Error>>,
    asked: Arc<AtomicUsize>,
    real: TcpListener,
}

impl accept::Source for Failing {
    async fn next(&self) -> io::Result<(TcpStream, SocketAddr)> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let error = self.errors.lock().expect("not poisoned").pop_front();
        match error {
            Some(error) => Err(error),
            None => self.real.accept().await,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn out_of_descriptors_it_waits_and_goes_on() {
    const EMFILE: i32 = 24;
    let errors = std::iter::repeat_with(|| io::Error::from_raw_os_error(EMFILE)).take(100);
    let gone = std::iter::repeat_with(|| io::Error::from(io::ErrorKind::ConnectionAborted)).take(5);
    let asked = Arc::new(AtomicUsize::new(0));
    let real = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = real.local_addr().expect("bound");
    let source = Failing { errors: Mutex::new(gone.chain(errors).collect()), asked: Arc::clone(&asked), real };
    let site = Site::open(long(), None).await;
    let router = Router::new().route("/", get(|| async { "hello" }));
    let began = Instant::now();
    tokio::spawn(accept::run(source, Arc::clone(&site.server.shared), router));
    while asked.load(Ordering::Relaxed) < 106 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // 10, 20, ... 640 ms, then a second each: no spinning, and a client of ours that aborts costs no wait.
    let took = began.elapsed();
    assert!((Duration::from_secs(90)..Duration::from_secs(100)).contains(&took), "{took:?}");
    tokio::time::resume();
    let site = Site { address, ..site };
    assert!(site.get("/").await.ends_with("hello"));
}

/// A certificate authority, a server and a client, made with the command that everybody has.
struct Pki(tempfile::TempDir);

impl Pki {
    fn make() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let pki = Self(folder);
        pki.openssl("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -keyout ca.key -out ca.pem -subj /CN=ca");
        for (name, names) in [("server", "DNS:localhost,IP:127.0.0.1"), ("client", "DNS:svc.example,DNS:*.b.example")] {
            std::fs::write(pki.path("extensions"), format!("subjectAltName={names}\n")).expect("writable");
            pki.openssl(&format!(
                "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}"
            ));
            pki.openssl(&format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out {name}.pem"
            ));
        }
        pki.openssl("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -keyout other.key -out other.pem -subj /CN=o -addext subjectAltName=DNS:svc.example");
        pki
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn openssl(&self, arguments: &str) {
        let output = Command::new("openssl").args(arguments.split(' ')).current_dir(self.0.path()).output();
        let output = output.expect("the command openssl is on this machine");
        assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn server(&self) -> Tls {
        Tls::load(&self.path("server.pem"), &self.path("server.key"), Some(&self.path("ca.pem"))).expect("good files")
    }

    fn client(&self, certificate: Option<&str>, protocol: &[u8]) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        let of_file = |path: &Path| CertificateDer::from_pem_file(path).expect("a certificate");
        roots.add(of_file(&self.path("ca.pem"))).expect("a root");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.expect("versions").with_root_certificates(roots);
        let mut config = match certificate {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let key = PrivateKeyDer::from_pem_file(self.path(&format!("{name}.key"))).expect("a key");
                let chain = vec![of_file(&self.path(&format!("{name}.pem")))];
                builder.with_client_auth_cert(chain, key).expect("they fit")
            }
        };
        config.alpn_protocols = vec![protocol.to_vec()];
        TlsConnector::from(Arc::new(config))
    }
}

#[tokio::test]
async fn over_tls_both_protocols_are_spoken_and_names_of_clients_are_known() {
    let pki = Pki::make();
    let site = Site::open(long(), Some(pki.server())).await;
    let localhost = || ServerName::try_from("localhost").expect("a name");
    for (certificate, names) in [(None, ""), (Some("client"), "svc.example,*.b.example")] {
        for protocol in [&b"h2"[..], b"http/1.1"] {
            let connector = pki.client(certificate, protocol);
            let stream = connector.connect(localhost(), site.connect().await).await.expect("a handshake");
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(protocol));
            let request = Request::get("https://localhost/who").body(Full::<Bytes>::default()).expect("a request");
            let io = TokioIo::new(stream);
            let answer = if protocol == b"h2" {
                let made = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await;
                let (mut sender, connection) = made.expect("HTTP/2");
                tokio::spawn(connection);
                sender.send_request(request).await
            } else {
                let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.expect("HTTP/1.1");
                tokio::spawn(connection);
                sender.send_request(request).await
            };
            let body = answer.expect("answered").into_body().collect().await.expect("whole").to_bytes();
            assert_eq!(body, format!("127.0.0.1 {names}"));
        }
    }
    // A certificate that nobody vouches for is no certificate: in TLS 1.3 the client hears of it when it reads.
    let connected = pki.client(Some("other"), b"http/1.1").connect(localhost(), site.connect().await).await;
    if let Ok(mut stream) = connected {
        stream.write_all(b"GET /who HTTP/1.1\r\nhost: x\r\n\r\n").await.ok();
        let mut text = Vec::new();
        assert!(stream.read_to_end(&mut text).await.is_err() && text.is_empty());
    }
}

#[tokio::test]
async fn a_handshake_that_does_not_come_is_cut_off() {
    let pki = Pki::make();
    let site = Site::open(short(), Some(pki.server())).await;
    let (mut silent, mut plain) = (site.connect().await, site.connect().await);
    plain.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sent");
    rest(&mut plain).await;
    assert_eq!(rest(&mut silent).await, "");
    site.until("both are gone", |site| site.server.connections() == 0).await;
}

#[tokio::test]
async fn files_that_make_no_tls_are_named() {
    let pki = Pki::make();
    let load = |cert: &str, key: &str, ca: Option<&str>| {
        let ca = ca.map(|name| pki.path(name));
        Tls::load(&pki.path(cert), &pki.path(key), ca.as_deref()).map(drop).map_err(|error| error.to_string())
    };
    for (cert, key, ca, words) in [
        ("server.key", "server.key", None, "server.key holds no certificate"),
        ("server.pem", "server.pem", None, "server.pem holds no private key"),
        ("server.pem", "client.key", None, "cannot be used together"),
        ("server.pem", "server.key", Some("ca.key"), "ca.key holds no certificate"),
        ("missing", "server.key", None, "missing holds no certificates"),
    ] {
        let error = load(cert, key, ca).expect_err("not good");
        assert!(error.starts_with("[http] tls: ") && error.contains(words), "{error}");
    }
}
