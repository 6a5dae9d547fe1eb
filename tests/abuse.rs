//! Clients that mean harm, or have gone mad, against the real engine: it stays up, its memory stays bounded, and an honest
//! client beside them is served.

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use bytes::Bytes;
use keyloom_engine::grpc::proto::{Event, SendRequest};
use keyloom_tests::support::{
    engine::{Engine, Topology, folder},
    grpc::{BROKEN_OFF, Call, Line, framed},
    http,
    metrics::Metrics,
    process, wait_for,
};
use prost::Message;

/// Memory that abuse may cost beyond what an idle engine has: the bodies in flight (64 MiB), packed and unpacked, the
/// answers that nobody reads, buffers of connections, and what the allocator keeps.
const GROWTH_MAX: u64 = 300 << 20;
/// How long an honest client waits for one of its events to be taken.
const HONEST_MAX: Duration = Duration::from_secs(10);
/// How long it may take until ten of them are taken: one after the other, each with a write to a disk that others use, too.
const SERVED_MAX: Duration = Duration::from_secs(150);
/// Honest events that show that somebody is served.
const SERVED: u64 = 10;
/// How long something may take to be over.
const OVER_MAX: Duration = Duration::from_secs(30);

/// Sends an event every few milliseconds, and again when it is told to, until it is dropped.
struct Honest {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    work: Option<JoinHandle<()>>,
}

impl Honest {
    fn start(port: u16) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (end, count) = (Arc::clone(&stop), Arc::clone(&sent));
        let work = thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                let n = count.load(Ordering::Relaxed);
                let event = format!(r#"{{"domain_userid":"honest","event_id":"{n}"}}"#);
                wait_for("an honest event to be taken", HONEST_MAX, || {
                    match http::post(port, "/v1/events", "application/json", event.as_bytes()) {
                        Ok(answer) if answer.status == 200 => Ok(()),
                        Ok(answer) if answer.status == 429 => Err(answer.body),
                        other => panic!("an honest client got {other:?}"),
                    }
                });
                count.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(5));
            }
        });
        Self { stop, sent, work: Some(work) }
    }

    /// Waits until enough of its events were taken from now on.
    fn is_served(&self) {
        let wanted = self.sent.load(Ordering::Relaxed) + SERVED;
        wait_for("the honest client to be served", SERVED_MAX, || {
            assert!(!self.work.as_ref().is_none_or(JoinHandle::is_finished), "the honest client gave up");
            let sent = self.sent.load(Ordering::Relaxed);
            if sent >= wanted { Ok(()) } else { Err(format!("{sent} of {wanted}")) }
        });
    }

    fn finish(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.work.take().expect("it is there").join().expect("every event was taken");
    }
}

impl Drop for Honest {
    /// Where a test fails, it has its last answer before the engine goes.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(work) = self.work.take() {
            work.join().ok();
        }
    }
}

/// An engine, an honest client, and the memory that both need without the others.
struct Scene {
    honest: Honest,
    engine: Engine,
    before: u64,
    _folder: tempfile::TempDir,
}

impl Scene {
    fn set(http: &str) -> Self {
        let folder = folder();
        let engine = Engine::start(folder.path(), &Topology { http: http.to_owned(), ..Topology::default() });
        let honest = Honest::start(engine.port);
        honest.is_served();
        let before = engine.process.memory();
        Self { honest, engine, before, _folder: folder }
    }

    fn cut(&self, reason: &str) -> u64 {
        self.engine.metrics().count("keyloom_http_connections_cut_total", &[("reason", reason)])
    }

    /// The honest client is served, and the most memory there ever was is within bounds.
    fn ends_well(mut self, what: &str) {
        self.honest.is_served();
        self.honest.finish();
        let most = process::memory_of(self.engine.process.id(), "VmHWM").expect("it runs");
        let growth = most.saturating_sub(self.before);
        eprintln!("{what}: {} MiB before, {} MiB more at most", self.before >> 20, growth >> 20);
        assert!(growth < GROWTH_MAX, "{what}: memory grew by {} MiB", growth >> 20);
        assert!(self.engine.process.ended().is_none());
        assert!(!self.engine.process.stderr().contains("panic"), "{}", self.engine.process.stderr());
    }
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
    stream.set_read_timeout(Some(OVER_MAX)).expect("a timeout");
    stream.set_write_timeout(Some(OVER_MAX)).expect("a timeout");
    stream
}

#[test]
fn heads_that_drip_in_are_cut_off() {
    let scene = Scene::set("header_timeout = \"2s\"");
    let began = Instant::now();
    let begin = |_| {
        let mut stream = connect(scene.engine.port);
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nx: ").expect("sent");
        stream
    };
    let mut slow: Vec<TcpStream> = (0..500).map(begin).collect();
    // A byte now and then on each, until the last of them is gone.
    wait_for("the slow ones to be cut off", OVER_MAX, || {
        slow.retain_mut(|stream| stream.write_all(b"y").is_ok());
        if slow.is_empty() { Ok(()) } else { Err(format!("{} left", slow.len())) }
    });
    assert!(began.elapsed() > Duration::from_secs(2), "they had their time");
    assert_eq!(scene.cut("head"), 500);
    scene.ends_well("500 slow heads");
}

#[test]
fn bodies_that_are_too_much_are_refused() {
    let scene = Scene::set("");
    let port = scene.engine.port;
    // A gigabyte of zeros takes a megabyte when packed.
    let bomb =
        Command::new("sh").args(["-c", "head -c 1G /dev/zero | gzip -1"]).output().expect("gzip is there").stdout;
    assert!(bomb.len() > 1 << 20);
    let huge = vec![b' '; 10 << 20];
    let deep = format!("{{\"domain_userid\":\"deep\",\"x\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let wide = format!("[{}]", "{},".repeat(2_000_000));
    let send = |headers: &[(&str, &str)], body: &[u8]| http::request(port, "POST", "/v1/events", headers, body);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for (headers, body, codes) in [
                    (&[("content-encoding", "gzip")][..], &bomb[..], &[413, 429][..]),
                    (&[], &huge, &[413, 429]),
                    (&[], deep.as_bytes(), &[200, 400, 429]),
                    (&[], wide.as_bytes(), &[400, 413, 429]),
                ] {
                    // Who is refused before all is sent may find the connection closed instead of the answer.
                    if let Ok(answer) = send(headers, body) {
                        assert!(codes.contains(&answer.status), "{} {}", answer.status, answer.body);
                    }
                }
            });
        }
    });
    let answer = send(&[("content-encoding", "gzip")], &bomb).expect("an answer");
    assert_eq!(answer.status, 413, "{}", answer.body);
    // Announced and never sent: holds nothing but its connection.
    let announced: Vec<TcpStream> = (0..200).map(|_| connect(port)).collect();
    for mut stream in &announced {
        stream.write_all(b"POST /v1/events HTTP/1.1\r\nhost: x\r\ncontent-length: 8000000\r\n\r\n{").expect("sent");
    }
    scene.honest.is_served();
    scene.ends_well("bombs, huge, deep and wide bodies");
}

/// File descriptors that this process may have.
fn descriptors() -> usize {
    let text = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap_or_default();
    line.split_whitespace().next().and_then(|soft| soft.parse().ok()).unwrap_or(1024)
}

#[test]
fn ten_thousand_connections_leave_room_for_one_more_and_beyond_the_limit_they_are_refused() {
    const KEPT: usize = 20;
    let count = descriptors().saturating_sub(400).min(10_000);
    if count < 10_000 {
        eprintln!("only {count} connections: this process may open {} files", descriptors());
    }
    let http = format!("connections_max = {count}\nheader_timeout = \"300s\"");
    let scene = Scene::set(&http);
    let mut open: Vec<TcpStream> = (0..count - KEPT).map(|_| connect(scene.engine.port)).collect();
    let connections = || scene.engine.metrics().sum("keyloom_http_connections", &[]).unwrap_or(0.0) as usize;
    wait_for("all of them to be taken", OVER_MAX, || {
        let seen = connections();
        if seen >= count - KEPT { Ok(()) } else { Err(format!("{seen} of {}", count - KEPT)) }
    });
    scene.honest.is_served();
    // Now more than fit. The honest client has to stand aside, or it would be refused too.
    let port = scene.engine.port;
    let Scene { honest, engine, before, _folder } = scene;
    honest.finish();
    let mut more: Vec<TcpStream> = (0..10 * KEPT).map(|_| connect(port)).collect();
    more.iter().for_each(|stream| stream.set_nonblocking(true).expect("possible"));
    let mut refused = 0;
    wait_for("what does not fit to be refused", OVER_MAX, || {
        // Who is let in hears nothing.
        more.retain_mut(|stream| matches!(stream.read(&mut [0]), Err(e) if e.kind() == ErrorKind::WouldBlock));
        refused = 10 * KEPT - more.len();
        if refused >= 8 * KEPT { Ok(()) } else { Err(format!("{refused} of {}", 10 * KEPT)) }
    });
    open.clear();
    more.clear();
    wait_for("room for others", OVER_MAX, || match Metrics::of(port)?.sum("keyloom_http_connections", &[]) {
        Some(connections) if connections < 100.0 => Ok(()),
        connections => Err(format!("{connections:?}")),
    });
    let scene = Scene { honest: Honest::start(port), engine, before, _folder };
    scene.honest.is_served();
    let counted = scene.engine.metrics().count("keyloom_http_connections_refused_total", &[]);
    assert!(counted >= refused as u64, "{counted} of {refused}");
    scene.ends_well(&format!("{count} connections"));
}

#[test]
fn clients_that_never_read_are_cut_off() {
    /// Each makes the engine fill some megabytes of its socket before it blocks.
    const DEAF: u64 = 20;
    let scene = Scene::set("write_timeout = \"1s\"");
    // Each asks for metrics again and again without a look at the answers, until nobody takes its questions any more.
    let questions = "GET /metrics HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".repeat(1_000);
    let deaf: Vec<TcpStream> = (0..DEAF).map(|_| connect(scene.engine.port)).collect();
    for mut stream in &deaf {
        stream.set_nonblocking(true).expect("possible");
        stream.write_all(questions.as_bytes()).ok(); // as much as fits
    }
    wait_for("the deaf ones to be cut off", OVER_MAX, || {
        let cut = scene.cut("unread");
        if cut == DEAF { Ok(()) } else { Err(format!("{cut} of {DEAF}")) }
    });
    let waiting = scene.engine.metrics().sum("keyloom_http_answer_bytes", &[]);
    assert!(waiting.is_some_and(|bytes| bytes < (1 << 20) as f64), "{waiting:?}");
    scene.ends_well(&format!("{DEAF} clients that never read"));
}

/// The calls of gRPC, and statuses of it.
const SEND: &str = "/keyloom.v1.Ingest/Send";
const STREAM: &str = "/keyloom.v1.Ingest/Stream";
const DEADLINE_EXCEEDED: u32 = 4;
const RESOURCE_EXHAUSTED: u32 = 8;

/// A message with one event.
fn message(id: &str) -> SendRequest {
    let event = Event { key: "grpc".into(), event_id: id.into(), json: "{}".into(), ..Event::default() };
    SendRequest { events: vec![event] }
}

/// Sends `message` on a stream, and waits for its answer.
fn ask(stream: &Call, message: Bytes) {
    let before = stream.seen().bytes;
    stream.send(message);
    wait_for("a message to be answered", OVER_MAX, || {
        let seen = stream.seen();
        assert_eq!(seen.status, None, "{seen:?}");
        if seen.bytes > before { Ok(()) } else { Err(format!("{seen:?}")) }
    });
}

#[test]
fn half_sent_messages_of_grpc_take_no_more_than_there_is_and_end_when_their_time_is_over() {
    /// Together half a gigabyte, of which 64 MiB may come in: 335 of them, and there is room left for a small event.
    const LINES: usize = 25;
    const CALLS: usize = 100;
    const HALF: usize = 200_001;
    const FIT: usize = (64 << 20) / (HALF + 5);
    /// A message has half a minute.
    const SLOW_MAX: Duration = Duration::from_secs(50);
    let scene = Scene::set("");
    let port = scene.engine.port;
    let idle_line = Line::open(port);
    let idle = idle_line.call(STREAM, None);
    ask(&idle, framed(false, &message("first").encode_to_vec()));
    let since = Instant::now();

    let half = framed(false, &vec![0; 8_000_000]).slice(..HALF + 5);
    let lines: Vec<Line> = (0..LINES).map(|_| Line::open(port)).collect();
    let begin = |n: usize| {
        let call = lines[n % LINES].call(if n.is_multiple_of(2) { SEND } else { STREAM }, None);
        call.send(half.clone());
        call
    };
    let calls: Vec<Call> = (0..LINES * CALLS).map(begin).collect();
    let with = |status: u32| calls.iter().filter(|call| call.seen().status == Some(status)).count();
    wait_for("those that do not fit to be refused", OVER_MAX, || {
        let refused = with(RESOURCE_EXHAUSTED);
        assert_eq!(with(BROKEN_OFF), 0, "{refused} refused");
        if refused >= calls.len() - FIT { Ok(()) } else { Err(format!("{refused} refused")) }
    });
    assert!(calls.iter().any(|call| call.seen().status.is_none()), "some fit");
    for seen in calls.iter().map(Call::seen).filter(|seen| seen.status.is_some()) {
        assert_eq!((seen.status, seen.pushback.as_deref()), (Some(RESOURCE_EXHAUSTED), Some("1000")), "{seen:?}");
    }
    // The others are served while those that fit are held: the honest client, and other calls of the same connections.
    scene.honest.is_served();
    for (n, line) in lines.iter().enumerate() {
        let stream = line.call(STREAM, None);
        ask(&stream, framed(false, &message(&n.to_string()).encode_to_vec()));
    }
    wait_for("the half-sent ones to end", SLOW_MAX, || {
        let (refused, slow) = (with(RESOURCE_EXHAUSTED), with(DEADLINE_EXCEEDED));
        if refused + slow == calls.len() { Ok(()) } else { Err(format!("{refused} refused, {slow} slow")) }
    });
    let metrics = scene.engine.metrics();
    let answered = |code: &str| metrics.count("keyloom_ingest_requests_total", &[("code", code)]);
    assert_eq!(answered("408"), with(DEADLINE_EXCEEDED) as u64);
    assert!(answered("429") >= with(RESOURCE_EXHAUSTED) as u64);
    wait_for("the room to be free", OVER_MAX, || {
        let held = scene.engine.metrics().sum("keyloom_ingest_in_flight_bytes", &[]);
        if held.is_some_and(|bytes| bytes < 10_000.0) { Ok(()) } else { Err(format!("{held:?}")) }
    });
    // A stream that has nothing to say may take longer than a message.
    assert!(since.elapsed() > Duration::from_secs(30), "{:?}", since.elapsed());
    ask(&idle, framed(false, &message("second").encode_to_vec()));
    scene.ends_well(&format!("{} half-sent messages", calls.len()));
}

#[test]
fn half_sent_questions_turn_away_other_questions_and_no_events() {
    /// Together 60 MB, of which 32 MiB may come in.
    const CALLS: usize = 60;
    const HALF: usize = 1_000_000;
    const FIT: usize = (32 << 20) / (HALF + 5);
    let scene = Scene::set("");
    let half = framed(false, &vec![0; 2_000_000]).slice(..HALF + 5);
    let line = Line::open(scene.engine.port);
    let begin = |_| {
        let call = line.call("/keyloom.v1.Features/BatchGet", None);
        call.send(half.clone());
        call
    };
    let calls: Vec<Call> = (0..CALLS).map(begin).collect();
    let with = |status: u32| calls.iter().filter(|call| call.seen().status == Some(status)).count();
    wait_for("those that do not fit to be refused", OVER_MAX, || {
        let refused = with(RESOURCE_EXHAUSTED);
        if refused >= CALLS - FIT { Ok(()) } else { Err(format!("{refused} refused")) }
    });
    let metrics = scene.engine.metrics();
    let held = metrics.sum("keyloom_feature_in_flight_bytes", &[]);
    assert!(held.is_some_and(|bytes| bytes >= HALF as f64), "{held:?}");
    assert_eq!(metrics.count("keyloom_ingest_requests_total", &[("code", "429")]), 0);
    scene.honest.is_served();
    wait_for("the half-sent ones to end", OVER_MAX, || {
        let (refused, slow) = (with(RESOURCE_EXHAUSTED), with(DEADLINE_EXCEEDED));
        if refused + slow == CALLS && slow > 0 { Ok(()) } else { Err(format!("{refused} refused, {slow} slow")) }
    });
    scene.ends_well(&format!("{CALLS} half-sent questions"));
}

#[test]
fn streams_of_grpc_that_have_sent_much_hold_nothing_of_it() {
    /// Together half a gigabyte, one after the other.
    const STREAMS: usize = 60;
    const IGNORED: usize = 8_000_000;
    let scene = Scene::set("");
    let line = Line::open(scene.engine.port);
    let mut large = message("large").encode_to_vec();
    large.push(15 << 3 | 2); // a field that nobody knows, of so many bytes
    prost::encoding::encode_varint(IGNORED as u64, &mut large);
    large.resize(large.len() + IGNORED, 0);
    let large = framed(false, &large);
    let streams: Vec<Call> = (0..STREAMS)
        .map(|_| {
            let stream = line.call(STREAM, None);
            ask(&stream, large.clone());
            stream
        })
        .collect();
    assert!(streams.iter().all(|stream| stream.seen().status.is_none()), "all of them are open");
    scene.ends_well(&format!("{STREAMS} streams with a large message behind them"));
}
