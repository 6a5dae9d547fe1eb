//! The NATS home against a real server. The environment variable `KEYLOOM_NATS_SERVER` names its binary.

use std::{
    env, fs,
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::StreamExt;
use keyloom_actors::{
    event::EventBatch,
    key::Key,
    ports::{Claim, Log, LogError, LogReader, LogRecord, NewRecord, RecordKey, Store, StoreError, Stored},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::*;

/// Longest wait for anything here.
const PATIENCE: Duration = Duration::from_secs(30);

/// A NATS server of its own, on loopback, gone with the value.
struct Server {
    dir: TempDir,
    config: String,
    port: u16,
    child: Option<Child>,
}

/// A port that nothing listens on, below the range that outgoing connections use: a server that was killed finds it free
/// when it comes back. Tests that run side by side begin to look at different ones.
fn free_port() -> u16 {
    const FIRST: u32 = 10_000;
    const PORTS: u32 = 10_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let begin = std::process::id().wrapping_mul(61);
    (0..PORTS)
        .map(|_| begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % PORTS + FIRST)
        .map(|port| u16::try_from(port).unwrap())
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}

impl Server {
    fn start(config: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut server = Self { dir, config: config.to_owned(), port: 0, child: None };
        server.run();
        server
    }

    fn with_jetstream() -> Self {
        Self::start("jetstream { store_dir: STORE }")
    }

    fn run(&mut self) {
        let binary = env::var_os("KEYLOOM_NATS_SERVER")
            .expect("set KEYLOOM_NATS_SERVER to a nats-server binary (2.12 or later) to run these tests");
        let path = |name: &str| self.dir.path().join(name);
        let ports = path("ports");
        fs::create_dir_all(&ports).unwrap();
        for old in fs::read_dir(&ports).unwrap() {
            fs::remove_file(old.unwrap().path()).unwrap();
        }
        let config = self.config.replace("STORE", &format!("{:?}", path("store")));
        if self.port == 0 {
            self.port = free_port();
        }
        let text = format!("listen: \"127.0.0.1:{}\"\nports_file_dir: {ports:?}\n{config}\n", self.port);
        fs::write(path("server.conf"), text).unwrap();
        let log = fs::File::create(path("server.log")).unwrap();
        let child = Command::new(&binary)
            .arg("-c")
            .arg(path("server.conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::from(log))
            .spawn()
            .unwrap_or_else(|error| panic!("KEYLOOM_NATS_SERVER={}: {error}", binary.display()));
        let file = ports.join(format!("nats-server_{}.ports", child.id()));
        self.child = Some(child);
        self.port = self.wait_for_port(&file);
    }

    fn wait_for_port(&mut self, file: &PathBuf) -> u16 {
        let begun = Instant::now();
        loop {
            let known = fs::read(file).ok().and_then(|text| serde_json::from_slice::<serde_json::Value>(&text).ok());
            if let Some(url) = known.as_ref().and_then(|ports| ports["nats"][0].as_str()) {
                return url.rsplit(':').next().unwrap().parse().unwrap();
            }
            let exited = self.child.as_mut().unwrap().try_wait().unwrap();
            let log = || fs::read_to_string(self.dir.path().join("server.log")).unwrap_or_default();
            assert!(exited.is_none() && begun.elapsed() < PATIENCE, "nats-server did not start: {}", log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn options(&self) -> NatsOptions {
        let url = format!("nats://127.0.0.1:{}", self.port);
        NatsOptions { url, auth: NatsAuth::None, tls: None, name: "tests".into() }
    }

    async fn connect(&self) -> Connection {
        connect(&self.options()).await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn log_options() -> LogOptions {
    LogOptions {
        stream: "raw_events".into(),
        subjects: vec!["events.>".into()],
        partitions: 1,
        replicas: 1,
        max_age: None,
        max_bytes: None,
        dedupe_window: Duration::from_secs(120),
        keys: KeyPaths::new(["k"]),
    }
}

fn store_options() -> StoreOptions {
    StoreOptions { bucket: "latest_features".into(), replicas: 1 }
}

fn event(key: &str, id: Option<u128>, payload: &str) -> NewRecord {
    NewRecord { key: key.to_owned().into(), dedupe_id: id, payload: payload.to_owned().into(), scanned: None }
}

fn events(seqs: std::ops::RangeInclusive<u64>) -> Vec<NewRecord> {
    seqs.map(|n| event("k", None, &n.to_string())).collect()
}

async fn next(reader: &mut Box<dyn LogReader>) -> Result<Vec<LogRecord>, LogError> {
    timeout(PATIENCE, reader.next(10_000, 1 << 20)).await.expect("the reader answers")
}

async fn read_up_to(reader: &mut Box<dyn LogReader>, last: u64) -> Vec<LogRecord> {
    let mut records: Vec<LogRecord> = Vec::new();
    while records.last().is_none_or(|record| record.seq < last) {
        records.extend(next(reader).await.unwrap());
    }
    records
}

fn seqs(records: &[LogRecord]) -> Vec<u64> {
    records.iter().map(|record| record.seq).collect()
}

fn feature(name: &str) -> RecordKey {
    RecordKey::Feature(Key::new(name).unwrap())
}

fn text(value: &str) -> Option<Bytes> {
    Some(Bytes::copy_from_slice(value.as_bytes()))
}

/// Publishes with a header block exactly as given, as no library would.
async fn publish_raw(server: &Server, headers: &[u8], payload: &str) {
    let mut socket = TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
    let total = headers.len() + payload.len();
    let mut wire = format!(
        "CONNECT {{\"verbose\":false,\"headers\":true,\"lang\":\"x\",\"version\":\"1\",\"protocol\":1}}\r\nHPUB events.x {} {total}\r\n",
        headers.len()
    )
    .into_bytes();
    wire.extend_from_slice(headers);
    wire.extend_from_slice(payload.as_bytes());
    wire.extend_from_slice(b"\r\nPING\r\n");
    socket.write_all(&wire).await.unwrap();
    let mut answer = Vec::new();
    while !answer.windows(4).any(|four| four == b"PONG") {
        assert!(socket.read_buf(&mut answer).await.unwrap() > 0, "{}", String::from_utf8_lossy(&answer));
    }
}

#[tokio::test]
async fn what_is_appended_can_be_read_and_repeats_are_absorbed() {
    let server = Server::with_jetstream();
    let log = open_log(&server.connect().await, log_options()).await.unwrap();
    assert_eq!(log.info(0).await.unwrap().last_seq, 0);
    let awkward = "ü 100%\r\nNats-Msg-Id: x";
    let batch = vec![event("a", Some(7), "1"), event(awkward, Some(8), "2"), event("", None, "3")];
    let stored = log.append(0, batch.clone()).await.unwrap();
    assert_eq!(stored, [Stored::New(1), Stored::New(2), Stored::New(3)]);
    let again = log.append(0, batch).await.unwrap();
    assert_eq!(again, [Stored::Duplicate(Some(1)), Stored::Duplicate(Some(2)), Stored::New(4)]);

    let records = log.read(0, &[1, 2, 4, 99]).await.unwrap();
    assert_eq!(seqs(&records), [1, 2, 4]);
    let mut reader = log.reader(0, 1).await.unwrap();
    let read = read_up_to(&mut reader, 4).await;
    assert_eq!(seqs(&read), [1, 2, 3, 4]);
    for (record, key) in [(&records[1], awkward), (&read[1], awkward), (&read[0], "a")] {
        assert_eq!(record.key.as_deref(), Some(key.as_bytes()));
    }
    assert_eq!(read[2].key, None);
    assert_eq!(records[1].stored, read[1].stored);
    assert_eq!(read[1].payload, "2");

    let huge = NewRecord { payload: vec![b'x'; log.event_bytes_max() + 1].into(), ..event("a", None, "") };
    let result = log.append(0, vec![event("a", None, "5"), huge]).await;
    assert!(matches!(result, Err(LogError::TooLarge { bytes, limit }) if bytes == limit + 1));
    let info = log.info(0).await.unwrap();
    assert_eq!((info.first_seq, info.last_seq), (1, 4), "nothing of a refused append is stored");
    let largest =
        NewRecord { payload: vec![b'x'; log.event_bytes_max()].into(), ..event(&"ü".repeat(256), Some(1), "") };
    assert_eq!(log.append(0, vec![largest]).await.unwrap(), [Stored::New(5)]);
    assert!(matches!(log.append(1, events(1..=1)).await, Err(LogError::Corrupt(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_misses_nothing_when_the_server_is_killed_or_its_futures_are_dropped() {
    let mut server = Server::with_jetstream();
    let log = open_log(&server.connect().await, log_options()).await.unwrap();
    let (first, second) = tokio::join!(log.append(0, events(1..=6_000)), log.append(0, events(1..=6_000)));
    assert_eq!(first.unwrap().len() + second.unwrap().len(), 12_000);
    let mut reader = log.reader(0, 1_001).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 11_000 {
        // Dropped at every possible moment.
        if let Ok(records) = timeout(Duration::from_micros(300), reader.next(2_000, 1 << 20)).await {
            let records = records.unwrap();
            assert!(records.len() <= 2_000);
            seen.extend(seqs(&records));
        }
    }
    assert_eq!(seen, (1_001..=12_000).collect::<Vec<_>>());

    server.kill();
    let waiting = tokio::spawn(async move { (read_up_to(&mut reader, 12_003).await, reader) });
    server.run();
    let begun = Instant::now();
    // The first appends may hit the dead connection.
    let mut stored = Err(LogError::Unavailable(String::new()));
    while stored.is_err() && begun.elapsed() < PATIENCE {
        let batch = (1..=3).map(|n| event("k", Some(n), "x")).collect();
        stored = log.append(0, batch).await;
    }
    stored.unwrap();
    let (records, mut reader) = waiting.await.unwrap();
    assert_eq!(seqs(&records), [12_001, 12_002, 12_003]);

    // Limits of one call.
    log.append(0, events(1..=10)).await.unwrap();
    let mut sizes = Vec::new();
    while sizes.iter().sum::<usize>() < 10 {
        sizes.push(reader.next(4, 1 << 20).await.unwrap().len());
    }
    assert!(sizes.iter().all(|size| *size <= 4), "{sizes:?}");
}

#[tokio::test]
async fn lost_events_are_reported_once_and_removed_ones_are_not() {
    let server = Server::with_jetstream();
    let connection = server.connect().await;
    let log = open_log(&connection, log_options()).await.unwrap();
    log.append(0, events(1..=10)).await.unwrap();
    let stream = connection.control().context.get_stream("raw_events").await.unwrap();
    stream.delete_message(7).await.unwrap();
    let mut early = log.reader(0, 2).await.unwrap();
    assert_eq!(early.next(2, 1 << 20).await.unwrap().len(), 2);
    stream.purge().sequence(6).await.unwrap();

    let mut reader = log.reader(0, 3).await.unwrap();
    assert!(matches!(next(&mut reader).await, Err(LogError::Overrun { wanted: 3, first: 6 })));
    assert_eq!(seqs(&read_up_to(&mut reader, 10).await), [6, 8, 9, 10]);
    assert_eq!(seqs(&read_up_to(&mut early, 10).await), [4, 5, 6, 8, 9, 10], "already on their way when purged");

    // Everything is gone, and the reader waits at the end.
    stream.purge().await.unwrap();
    let mut reader = log.reader(0, 9).await.unwrap();
    assert!(matches!(next(&mut reader).await, Err(LogError::Overrun { wanted: 9, first: 11 })));
    log.append(0, events(11..=11)).await.unwrap();
    assert_eq!(seqs(&next(&mut reader).await.unwrap()), [11]);

    // Another stream of that name is another log, even if it is long enough.
    connection.control().context.delete_stream("raw_events").await.unwrap();
    let log = open_log(&connection, log_options()).await.unwrap();
    log.append(0, events(1..=20)).await.unwrap();
    assert!(matches!(next(&mut reader).await, Err(LogError::Corrupt(_))));
    let mut ahead = log.reader(0, 22).await.unwrap();
    assert!(matches!(next(&mut ahead).await, Err(LogError::Corrupt(_))));
    connection.control().context.delete_stream("raw_events").await.unwrap();
    let mut ahead = log.reader(0, 21).await.unwrap();
    assert!(matches!(next(&mut ahead).await, Err(LogError::Corrupt(_))));
}

#[tokio::test]
async fn large_events_are_read_through_one_consumer() {
    let server = Server::with_jetstream();
    let connection = server.connect().await;
    let log = open_log(&connection, log_options()).await.unwrap();
    let large = NewRecord { payload: vec![b'x'; 900_000].into(), ..event("k", None, "") };
    log.append(0, vec![large; 40]).await.unwrap();
    let mut reader = log.reader(0, 1).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 40 {
        let records = timeout(PATIENCE, reader.next(1_000, 2_000_000)).await.unwrap().unwrap();
        assert!(records.len() <= 3, "a call stops when its bytes are full");
        seen.extend(seqs(&records));
    }
    assert_eq!(seen, (1..=40).collect::<Vec<_>>());
    let stream = connection.control().context.get_stream("raw_events").await.unwrap();
    let mut consumers = stream.consumer_names();
    let name = consumers.next().await.unwrap().unwrap();
    assert!(consumers.next().await.is_none());
    assert_eq!(stream.consumer_info(&name).await.unwrap().delivered.consumer_sequence, 40);
}

#[tokio::test]
async fn no_header_of_a_foreign_writer_stops_a_reader() {
    let server = Server::with_jetstream();
    let log = open_log(&server.connect().await, log_options()).await.unwrap();
    publish_raw(&server, b"NATS/1.0\r\nno colon\r\nKeyloom-Key: a%20b\r\n\r\n", "1").await;
    publish_raw(&server, b"NATS/1.0\r\nX: \xff\xfe\r\n\r\n", "2").await;
    publish_raw(&server, b"NATS/1.0 503 No\r\nX: y\r\n\r\n", "3").await;
    publish_raw(&server, b"NATS/1.0\r\nKeyloom-Key: k\r\n\r\n", "4").await;
    let mut reader = log.reader(0, 1).await.unwrap();
    let records = read_up_to(&mut reader, 4).await;
    assert_eq!(records.iter().map(|r| &r.payload[..]).collect::<Vec<_>>(), [b"1", b"2", b"3", b"4"]);
    assert_eq!(records[0].key.as_deref(), Some(&b"a b"[..]));
    assert_eq!((records[1].key.as_ref(), records[3].key.as_deref()), (None, Some(&b"k"[..])));
    assert_eq!(log.read(0, &[1, 2, 3]).await.unwrap().len(), 3);
}

#[tokio::test]
async fn an_event_read_again_by_itself_has_the_key_that_its_envelope_gave_it() {
    let server = Server::with_jetstream();
    let keys = KeyPaths::new(["k", "header:x-user", "subject:2"]);
    let log = open_log(&server.connect().await, LogOptions { keys: keys.clone(), ..log_options() }).await.unwrap();
    publish_raw(&server, b"NATS/1.0\r\nX-User: low\r\nx-User: later\r\n\r\n", "{}").await;
    publish_raw(&server, b"NATS/1.0\r\nX-USER:  two\r\n  lines\r\n\r\n", "{}").await;
    publish_raw(&server, b"NATS/1.0\r\nX-Other: o\r\n\r\n", "{}").await;
    publish_raw(&server, b"NATS/1.0\r\nx-user: h\r\n\r\n", r#"{"k":"in the payload"}"#).await;
    publish_raw(&server, b"NATS/1.0\r\nx-user: h\r\nKeyloom-Key: said\r\n\r\n", "{}").await;
    publish_raw(&server, b"NATS/1.0\r\nx-user: h\r\nKeyloom-Key:\r\n\r\n", "{}").await;
    let mut reader = log.reader(0, 1).await.unwrap();
    let pulled = read_up_to(&mut reader, 6).await;
    let alone = log.read(0, &[1, 2, 3, 4, 5, 6]).await.unwrap();
    let keys_of = |records: Vec<LogRecord>| {
        let batch = EventBatch::decode(0, records, &keys, None);
        batch.events.iter().map(|event| event.key.to_string()).collect::<Vec<_>>()
    };
    let expected = ["low", "two  lines", "x", "in the payload", "said", "h"];
    assert_eq!(keys_of(pulled), expected);
    assert_eq!(keys_of(alone), expected);
}

#[tokio::test]
async fn partitions_have_streams_of_their_own() {
    let server = Server::with_jetstream();
    let connection = server.connect().await;
    let log = open_log(&connection, LogOptions { partitions: 3, ..log_options() }).await.unwrap();
    assert_eq!(log.append(2, events(1..=2)).await.unwrap(), [Stored::New(1), Stored::New(2)]);
    assert_eq!(log.append(1, events(1..=1)).await.unwrap(), [Stored::New(1)]);
    assert_eq!(log.info(0).await.unwrap().last_seq, 0);
    assert_eq!(log.info(2).await.unwrap().last_seq, 2);
    let error = open_log(&connection, LogOptions { partitions: 2, ..log_options() }).await.err().unwrap();
    assert!(error.to_string().contains("number of partitions"), "{error}");
}

#[tokio::test]
async fn a_batch_is_all_or_nothing_and_only_the_owner_commits() {
    let server = Server::with_jetstream();
    let connection = server.connect().await;
    let store = open_store(&connection, store_options()).await.unwrap();
    let mut old = store.claim(3, "first").await.unwrap();
    assert_eq!((old.epoch, old.head), (1, 0));
    let dead = RecordKey::DeadLetter(3, 5);
    let entries = vec![
        (feature("a b"), text("{}")),
        (RecordKey::State(3, Key::new("a b").unwrap()), text("s")),
        (dead.clone(), text("d")),
    ];
    store.commit(&mut old, "h1".into(), entries, true).await.unwrap();
    // A batch of nothing but the head, and deletes.
    store.commit(&mut old, "h2".into(), vec![], false).await.unwrap();
    store.commit(&mut old, "h3".into(), vec![(feature("gone"), None), (dead.clone(), None)], false).await.unwrap();
    let keys = [feature("a b"), feature("gone"), dead, RecordKey::Head(3), feature("never")];
    assert_eq!(store.get(&keys).await.unwrap(), [text("{}"), None, None, text("h3"), None]);

    // Any key-value client sees the features, and only those.
    let kv = connection.control().context.get_key_value("latest_features").await.unwrap();
    assert_eq!(kv.get("a=20b").await.unwrap(), text("{}"));
    assert_eq!(kv.get("gone").await.unwrap(), None);

    // As many as go into one batch, read back the fast way.
    let many = (0..store.batch_max()).map(|n| (feature(&format!("k{n}")), text(&n.to_string()))).collect::<Vec<_>>();
    let keys: Vec<RecordKey> = many.iter().map(|(key, _)| key.clone()).chain([feature("gone")]).collect();
    store.commit(&mut old, "h4".into(), many, true).await.unwrap();
    let values = store.get(&keys).await.unwrap();
    assert_eq!(values.len(), store.batch_max() + 1);
    assert!(values.iter().enumerate().all(|(n, v)| *v == if n < 999 { text(&n.to_string()) } else { None }));
    let too_many = (0..=store.batch_max()).map(|n| (feature(&n.to_string()), None)).collect();
    assert!(matches!(store.commit(&mut old, "h5".into(), too_many, true).await, Err(StoreError::Corrupt(_))));

    // A stale chain is refused as a whole; a lost answer is recognised by the head.
    let mut twin = old.clone();
    store.commit(&mut old, "h6".into(), vec![(feature("x"), text("owner"))], true).await.unwrap();
    let mut stale = twin.clone();
    let result = store.commit(&mut stale, "other".into(), vec![(feature("x"), text("twin"))], true).await;
    assert!(matches!(result, Err(StoreError::Fenced(3))));
    store.commit(&mut twin, "h6".into(), vec![(feature("x"), text("twin"))], true).await.unwrap();
    assert_eq!(twin, old);
    assert_eq!(store.get(&[feature("x")]).await.unwrap(), [text("owner")]);

    // A new owner: the old one is fenced off, also with a batch of only the head, and with the right chain.
    let new = store.claim(3, "second").await.unwrap();
    assert_eq!((new.epoch, new.head), (2, old.head));
    for entries in [vec![], vec![(feature("x"), text("zombie"))]] {
        let result = store.commit(&mut old, "z".into(), entries, true).await;
        assert!(matches!(result, Err(StoreError::Fenced(3))), "{result:?}");
    }
    assert_eq!(store.get(&[feature("x"), RecordKey::Head(3)]).await.unwrap(), [text("owner"), text("h6")]);
    // Other partitions are other people's.
    let mut other: Claim = store.claim(4, "second").await.unwrap();
    store.commit(&mut other, "h".into(), vec![], true).await.unwrap();
    let oversize = vec![(feature("x"), Some(Bytes::from(vec![0; 1 << 20])))];
    assert!(matches!(store.commit(&mut other, "h2".into(), oversize, true).await, Err(StoreError::Corrupt(_))));
}

#[tokio::test]
async fn the_server_says_why_it_does_not_take_a_batch() {
    use super::batch::{BatchMessage, Expected, Outcome, put, send};
    let server = Server::with_jetstream();
    let connection = server.connect().await;
    open_store(&connection, store_options()).await.unwrap();
    let link = connection.control();
    let message = |name: &str, expected: Option<(u64, Option<&str>)>| BatchMessage {
        subject: format!("keyloom.latest_features.{name}").into(),
        value: text("x"),
        expected: expected.map(|(seq, subject)| Expected {
            seq,
            subject: subject.map(|name| format!("keyloom.latest_features.{name}")),
        }),
    };
    assert_eq!(put(link, message("epoch.0", Some((0, None)))).await, Outcome::Landed(1));
    assert_eq!(
        put(link, message("epoch.0", Some((0, None)))).await,
        Outcome::Conflict("wrong last sequence: 1".into())
    );
    let batch = |fence, head| {
        [message("a", Some((fence, Some("epoch.0")))), message("b", None), message("head.0", Some((head, None)))]
    };
    assert_eq!(send(link, "b1", &batch(1, 0)).await, Outcome::Landed(4));
    for (id, fence, head) in [("b2", 0, 4), ("b3", 2, 4), ("b4", 1, 0), ("b5", 1, 3), ("b6", 1, 5)] {
        let outcome = send(link, id, &batch(fence, head)).await;
        assert!(matches!(&outcome, Outcome::Conflict(_)), "{id}: {outcome:?}");
    }
    let mut headers = async_nats::HeaderMap::new();
    for (name, value) in [("Nats-Batch-Id", "b7"), ("Nats-Batch-Sequence", "3"), ("Nats-Batch-Commit", "1")] {
        headers.insert(name, value);
    }
    let subject = "keyloom.latest_features.head.0";
    let answer = link.client.request_with_headers(subject, headers, "x".into()).await.unwrap();
    let answer = String::from_utf8_lossy(&answer.payload).into_owned();
    assert!(answer.contains("10176"), "the beginning of the batch never came: {answer}");
    let large: Vec<BatchMessage> = (0..=1_000).map(|n| message(&format!("n.{n}"), None)).collect();
    assert!(matches!(send(link, "b8", &large).await, Outcome::Refused(_)));
    assert_eq!(send(link, "b9", &batch(1, 4)).await, Outcome::Landed(7), "nothing of the others was stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_knows_its_outcome_before_it_answers() {
    let mut server = Server::with_jetstream();
    let store = open_store(&server.connect().await, store_options()).await.unwrap();
    let mut claim = store.claim(0, "us").await.unwrap();
    server.kill();
    let committer = store.clone();
    let commit = tokio::spawn(async move {
        let result = committer.commit(&mut claim, "h1".into(), vec![(feature("x"), text("1"))], true).await;
        (result, claim)
    });
    server.run();
    let (result, mut claim) = timeout(PATIENCE, commit).await.unwrap().unwrap();
    result.unwrap();
    store.commit(&mut claim, "h2".into(), vec![], true).await.unwrap();
    assert_eq!(store.get(&[feature("x"), RecordKey::Head(0)]).await.unwrap(), [text("1"), text("h2")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_claims_at_once_each_gets_an_epoch_of_its_own() {
    let server = Server::with_jetstream();
    let store = open_store(&server.connect().await, store_options()).await.unwrap();
    let claims = (0..4).map(|n| {
        let store = store.clone();
        tokio::spawn(async move { store.claim(0, &format!("engine {n}")).await.unwrap() })
    });
    let mut claims: Vec<Claim> = futures_util::future::try_join_all(claims).await.unwrap();
    claims.sort_by_key(|claim| claim.epoch);
    assert_eq!(claims.iter().map(|claim| claim.epoch).collect::<Vec<_>>(), [1, 2, 3, 4]);
    let mut last = claims.pop().unwrap();
    for mut claim in claims {
        assert!(matches!(store.commit(&mut claim, "z".into(), vec![], true).await, Err(StoreError::Fenced(0))));
    }
    store.commit(&mut last, "h".into(), vec![], true).await.unwrap();
}

#[tokio::test]
async fn dead_letters_are_listed_in_order() {
    let server = Server::with_jetstream();
    let store = open_store(&server.connect().await, store_options()).await.unwrap();
    assert_eq!(store.dead_letters(0, 0, 10).await.unwrap(), []);
    let mut claim = store.claim(0, "us").await.unwrap();
    let letters = [100, 9, 20, 3].map(|seq| (RecordKey::DeadLetter(0, seq), text(&seq.to_string())));
    let other = (RecordKey::DeadLetter(1, 1), text("1"));
    store.commit(&mut claim, "h1".into(), letters.into_iter().chain([other]).collect(), true).await.unwrap();
    store.commit(&mut claim, "h2".into(), vec![(RecordKey::DeadLetter(0, 20), None)], true).await.unwrap();
    let listed = |after, limit| {
        let store = &store;
        async move { store.dead_letters(0, after, limit).await.unwrap().into_iter().map(|l| l.0).collect::<Vec<_>>() }
    };
    assert_eq!(listed(0, 10).await, [3, 9, 100]);
    assert_eq!(listed(3, 10).await, [9, 100]);
    assert_eq!(listed(3, 1).await, [9]);
}

#[tokio::test]
async fn an_existing_bucket_is_adopted_and_a_conflicting_stream_is_not() {
    let config = "jetstream { store_dir: STORE }
        authorization { users: [
          { user: all, password: pw }
          { user: few, password: pw, permissions: { publish: { deny: [\"$JS.API.STREAM.UPDATE.>\"] } } }
        ] }";
    let server = Server::start(config);
    let as_user = |user: &str| NatsOptions {
        auth: NatsAuth::User { user: user.into(), password: "pw".into() },
        ..server.options()
    };
    let connection = connect(&as_user("all")).await.unwrap();
    let context = &connection.control().context;
    let bucket =
        async_nats::jetstream::kv::Config { bucket: "latest_features".into(), history: 3, ..Default::default() };
    let kv = context.create_key_value(bucket).await.unwrap();
    kv.put("kept", "1".into()).await.unwrap();

    let few = connect(&as_user("few")).await.unwrap();
    let error = open_store(&few, store_options()).await.err().unwrap();
    let NatsError::BucketUpdate { command, .. } = &error else { panic!("{error}") };
    assert_eq!(
        command,
        "nats stream edit KV_latest_features --allow-batch --allow-direct --subjects \
         '$KV.latest_features.>,keyloom.latest_features.>'"
    );

    let store = open_store(&connection, store_options()).await.unwrap();
    let mut claim = store.claim(0, "us").await.unwrap();
    store.commit(&mut claim, "h".into(), vec![(feature("new"), text("2"))], true).await.unwrap();
    assert_eq!(store.get(&[feature("kept"), feature("new")]).await.unwrap(), [text("1"), text("2")]);
    assert_eq!(kv.status().await.unwrap().history(), 3, "the rest is as it was");
    open_store(&few, store_options()).await.unwrap();

    let stream = |name: &str| async_nats::jetstream::stream::Config {
        name: name.into(),
        subjects: vec!["events.>".into()],
        ..Default::default()
    };
    let theirs = async_nats::jetstream::stream::Config {
        retention: async_nats::jetstream::stream::RetentionPolicy::WorkQueue,
        max_age: Duration::from_secs(3_600),
        duplicate_window: Duration::from_secs(1),
        ..stream("raw_events")
    };
    context.create_stream(theirs).await.unwrap();
    let error = open_log(&connection, log_options()).await.err().unwrap();
    let NatsError::Conflict { conflicts, .. } = &error else { panic!("{error}") };
    let settings: Vec<_> = conflicts.iter().map(|conflict| conflict.setting).collect();
    assert_eq!(settings, ["retention policy", "dedupe window", "retention by age"]);
    println!("{error}");

    let error = open_log(&connection, LogOptions { stream: "mine".into(), ..log_options() }).await.err().unwrap();
    assert!(error.to_string().contains("nats stream ls --subject 'events.>'"), "{error}");
    context.delete_stream("raw_events").await.unwrap();
    let error = open_log(&connection, LogOptions { replicas: 3, ..log_options() }).await.err().unwrap();
    assert!(error.to_string().contains("set replicas = 1"), "{error}");
    println!("{error}");
    context.create_stream(stream("raw_events")).await.unwrap();
    open_log(&connection, log_options()).await.unwrap();
}

#[tokio::test]
async fn what_is_wrong_at_start_is_said_at_once() {
    let mut server = Server::start("jetstream { store_dir: STORE }\nauthorization { token: right }");
    let with = |auth: NatsAuth| NatsOptions { auth, ..server.options() };
    for auth in [NatsAuth::Token("wrong".into()), NatsAuth::None] {
        let error = connect(&with(auth)).await.err().unwrap();
        assert!(matches!(&error, NatsError::Credentials { .. }), "{error}");
        assert!(!error.to_string().contains("wrong"), "{error}");
    }
    let connection = connect(&with(NatsAuth::Token("right".into()))).await.unwrap();
    open_log(&connection, log_options()).await.unwrap();
    for auth in [NatsAuth::Creds("nonsense".into()), NatsAuth::Nkey("nonsense".into())] {
        let error = connect(&with(auth)).await.err().unwrap();
        assert!(matches!(&error, NatsError::Credentials { .. }), "{error}");
        assert!(!error.to_string().contains("nonsense"), "{error}");
    }
    let tls = NatsTls { ca: None, cert: None, key: None, first: true };
    let error = connect(&NatsOptions { tls: Some(tls), ..with(NatsAuth::None) }).await.err().unwrap();
    assert!(matches!(&error, NatsError::Tls { .. }), "{error}");
    println!("{error}");

    let plain = Server::start("");
    let error = connect(&plain.options()).await.err().unwrap();
    assert!(matches!(&error, NatsError::NoJetStream { .. }), "{error}");
    println!("{error}");

    server.kill();
    let begun = Instant::now();
    let error = connect(&server.options()).await.err().unwrap();
    assert!(matches!(&error, NatsError::Unreachable { .. }), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(10));
    println!("{error}");
    let error = connect(&NatsOptions { url: "http://x:y:z".into(), ..server.options() }).await.err().unwrap();
    assert!(matches!(&error, NatsError::Address { .. } | NatsError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn the_durability_says_what_is_known() {
    let server = Server::with_jetstream();
    let connection = server.connect().await;
    open_store(&connection, store_options()).await.unwrap();
    let durability = probe(&connection).await;
    assert_eq!(durability.fsync_always, None);
    assert!(durability.description.contains("R1"), "{}", durability.description);
}

#[tokio::test]
async fn the_durability_is_that_of_the_weakest_server() {
    // In an account that is not the system's, anybody may answer in the place of servers.
    let server = Server::with_jetstream();
    let connection = server.connect().await;
    open_store(&connection, store_options()).await.unwrap();
    let client = connection.control().client.clone();
    let mut asked = client.subscribe("$SYS.REQ.SERVER.PING.JSZ").await.unwrap();
    client.flush().await.unwrap();
    let answers = tokio::spawn(async move {
        for last in [true, false] {
            let reply = asked.next().await.unwrap().reply.unwrap();
            for always in [true, last] {
                let config = serde_json::json!({ "sync_interval": 1, "sync_always": always });
                let answer = serde_json::json!({ "data": { "config": config } }).to_string();
                client.publish(reply.clone(), answer.into()).await.unwrap();
            }
        }
    });
    assert_eq!(probe(&connection).await.fsync_always, Some(true));
    let durability = probe(&connection).await;
    assert_eq!(durability.fsync_always, Some(false), "{}", durability.description);
    answers.await.unwrap();
}

/// Not a check: how fast an unoptimised build drains and appends here. Run it with `--ignored --nocapture`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "prints rates"]
async fn rates() {
    const EVENTS: u64 = 300_000;
    let server = Server::with_jetstream();
    let connection = server.connect().await;
    let log = open_log(&connection, log_options()).await.unwrap();
    let payload: Bytes = vec![b'x'; 390].into();
    let begun = Instant::now();
    for chunk in 0..EVENTS / 10_000 {
        let batch = (0..10_000u64).map(|n| NewRecord {
            key: format!("user-{}", n % 1_000).into(),
            dedupe_id: Some(u128::from(chunk * 10_000 + n)),
            payload: payload.clone(),
            scanned: None,
        });
        log.append(0, batch.collect()).await.unwrap();
    }
    println!("append {:.0}/s", EVENTS as f64 / begun.elapsed().as_secs_f64());
    let mut reader = log.reader(0, 1).await.unwrap();
    let begun = Instant::now();
    let (mut count, mut batches) = (0, 0);
    while count < EVENTS {
        count += reader.next(10_000, 8 << 20).await.unwrap().len() as u64;
        batches += 1;
    }
    println!("drain {:.0}/s in {batches} batches", EVENTS as f64 / begun.elapsed().as_secs_f64());
    let begun = Instant::now();
    let seqs: Vec<u64> = (1..=20_000).collect();
    assert_eq!(log.read(0, &seqs).await.unwrap().len(), seqs.len());
    println!("read singly {:.0}/s", seqs.len() as f64 / begun.elapsed().as_secs_f64());
    let store = open_store(&connection, store_options()).await.unwrap();
    let mut claim = store.claim(0, "us").await.unwrap();
    let begun = Instant::now();
    for n in 0..50 {
        let entries = (0..999).map(|k| (feature(&format!("k{k}")), Some(payload.clone()))).collect();
        store.commit(&mut claim, format!("h{n}").into(), entries, true).await.unwrap();
    }
    println!("commit {:.0} puts/s", 50.0 * 999.0 / begun.elapsed().as_secs_f64());
    let keys: Vec<RecordKey> = (0..999).map(|k| feature(&format!("k{k}"))).collect();
    for (what, chunk) in [("leader", LEADER_CHUNK), ("direct", 999)] {
        let begun = Instant::now();
        for _ in 0..10 {
            for keys in keys.chunks(chunk) {
                store.get(keys).await.unwrap();
            }
        }
        println!("get {what} {:.0}/s", 9_990.0 / begun.elapsed().as_secs_f64());
    }
}

const LEADER_CHUNK: usize = 64;
