//! Senders that keep a ledger: every event has an id of its own, and is sent again until the front door says 2xx.
//!
//! A key belongs to one sender, and its next batch is sent only after the former was answered, so the order in which
//! events of a key were sent is known. What was answered 2xx stands in a file, for the audit. A watcher reads features
//! all the while, because they must not go back in time. Not here: what the engine made of the events, see `audit`.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use keyloom_actors::timestamp::{Clock, SystemClock, Timestamp};

use super::{http, random::Random, wait_for};

/// Senders; each has keys of its own.
const SENDERS: u64 = 2;
/// Keys of one sender: more than the sessions that tests of faults keep in memory.
pub const KEYS: u64 = 40;
/// Events per request, at most. Fewer of one key than a session remembers ids.
const BATCH_MAX: u64 = 20;
/// Pause between requests, and before one is sent again. The first keeps a history small enough to audit often.
const PACE: Duration = Duration::from_millis(20);
const RETRY_PACE: Duration = Duration::from_millis(25);
/// Some come back late: when their events may be part of a checkpoint, and the log may not know the ids any more.
const LATE_PERCENT: u64 = 20;
const LATE_PACE: Duration = Duration::from_millis(1_200);
/// How long a sender waits for an answer before it sends again.
const ANSWER_MAX: Duration = Duration::from_secs(4);
/// How long it may take until everything sent was answered.
const PAUSE_MAX: Duration = Duration::from_secs(90);
/// Pause between two looks at features, and how many keys of each sender are looked at: those with most events.
const WATCH_PACE: Duration = Duration::from_millis(8);
const WATCHED_KEYS: u64 = 3;
/// The key of probes, how long one attempt of a probe may take, and the pause between two of its looks.
const PROBE_KEY: &str = "probe";
const PROBE_ANSWER_MAX: Duration = Duration::from_millis(500);
const PROBE_PACE: Duration = Duration::from_millis(10);

const RUN: u8 = 0;
const PAUSE: u8 = 1;
const STOP: u8 = 2;

/// What happened to the events so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Events answered 2xx, each counted once.
    pub stored: u64,
    /// Sent and answered with an error that leaves it open, or not answered: sent again later.
    pub unknown: u64,
    /// Refused, or there was nobody to send to: sent again later.
    pub refused: u64,
    /// Answered 2xx as repeats: an earlier attempt without an answer had stored them.
    pub repeats: u64,
    /// Times that a key's features were older than what had been read before.
    pub went_back: u64,
}

#[derive(Default)]
struct Shared {
    port: AtomicU16,
    phase: AtomicU8,
    hurries: AtomicBool,
    paused: AtomicUsize,
    stored: AtomicU64,
    unknown: AtomicU64,
    refused: AtomicU64,
    repeats: AtomicU64,
    went_back: AtomicU64,
    /// What no sender should ever see.
    trouble: Mutex<Vec<String>>,
}

/// Running senders. They end with the value.
pub struct Ledger {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    files: Vec<PathBuf>,
    /// Where probes are written, and how many there were.
    probes: (File, u64),
}

impl Ledger {
    /// Starts sending to `port`; the ledger's files are in `folder`.
    pub fn start(folder: &Path, port: u16, seed: u64) -> Self {
        let shared = Arc::new(Shared { port: AtomicU16::new(port), ..Shared::default() });
        let mut files = Vec::new();
        let mut threads = Vec::new();
        for number in 0..SENDERS {
            let path = folder.join(format!("sent-{number}.jsonl"));
            let file = File::create(&path).expect("the test's folder is writable");
            files.push(path);
            let (shared, random) = (Arc::clone(&shared), Random::new(seed ^ (number << 32)));
            let begin = SystemClock.now();
            let sender = Sender { shared, number, random, begin, sent: HashMap::new(), file };
            threads.push(thread::spawn(move || sender.run()));
        }
        let (watched, random) = (Arc::clone(&shared), Random::new(!seed));
        threads.push(thread::spawn(move || watch(&watched, random)));
        files.push(folder.join("sent-probes.jsonl"));
        let probes = File::create(&files[files.len() - 1]).expect("the test's folder is writable");
        Self { shared, threads, files, probes: (probes, 0) }
    }

    /// From now on without a pause between requests, or with one again.
    pub fn hurry(&self, hurries: bool) {
        self.shared.hurries.store(hurries, Ordering::Relaxed);
    }

    /// Sends one event of a key of its own until it is answered 2xx, by somebody who is quicker to try again than the
    /// senders, and waits until the features of the key count it. How long that took.
    pub fn probe(&mut self, patience: Duration) -> Duration {
        let (file, number) = &mut self.probes;
        *number += 1;
        let event = event(PROBE_KEY, *number, "page_view", SystemClock.now(), 0);
        let port = self.shared.port.load(Ordering::Relaxed);
        let headers = [("content-type", "application/x-ndjson")];
        let ask = |method: &str, path: &str, body: &str| {
            http::request_within(PROBE_ANSWER_MAX, port, method, path, &headers, body.as_bytes())
        };
        let deadline = Instant::now() + patience;
        let until = |look: &dyn Fn() -> Result<(), String>| {
            while let Err(seen) = look() {
                assert!(Instant::now() < deadline, "a probe was not through within {patience:?}: {seen}");
                thread::sleep(PROBE_PACE);
            }
        };
        let began = Instant::now();
        until(&|| match ask("POST", "/v1/events", &event) {
            Ok(answer) if (200..300).contains(&answer.status) => Ok(()),
            other => Err(format!("{other:?}")),
        });
        file.write_all(event.as_bytes()).expect("the ledger is writable");
        self.shared.stored.fetch_add(1, Ordering::Relaxed);
        until(&|| match ask("GET", &format!("/v1/features/{PROBE_KEY}"), "") {
            Ok(answer) if answer.status == 200 && answer.json()["features"]["event_count"] == *number => Ok(()),
            other => Err(format!("{other:?}")),
        });
        began.elapsed()
    }

    /// From now on another engine gets everything.
    pub fn send_to(&self, port: u16) {
        self.shared.port.store(port, Ordering::Relaxed);
    }

    /// Waits until all that was sent is answered 2xx, and sends no more until [`Ledger::resume`].
    pub fn pause(&self) {
        self.shared.phase.store(PAUSE, Ordering::Relaxed);
        wait_for("all events answered", PAUSE_MAX, || {
            self.check();
            let paused = self.shared.paused.load(Ordering::Acquire) as u64;
            if paused == SENDERS { Ok(()) } else { Err(format!("{paused} of {SENDERS} senders have their answers")) }
        });
    }

    /// Sends again.
    pub fn resume(&self) {
        self.shared.phase.store(RUN, Ordering::Relaxed);
    }

    /// Waits until `more` more events are answered 2xx.
    pub fn wait_stored(&self, more: u64, patience: Duration) {
        let aim = self.counts().stored + more;
        wait_for("more events answered 2xx", patience, || {
            self.check();
            let stored = self.counts().stored;
            if stored >= aim { Ok(()) } else { Err(format!("{stored} of {aim}")) }
        });
    }

    /// So far.
    pub fn counts(&self) -> Counts {
        let read = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let Shared { stored, unknown, refused, repeats, went_back, .. } = &*self.shared;
        Counts {
            stored: read(stored),
            unknown: read(unknown),
            refused: read(refused),
            repeats: read(repeats),
            went_back: read(went_back),
        }
    }

    /// The files with every event answered 2xx; those of one key in the order in which they were sent.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Panics if a sender was told what it should never be told.
    pub fn check(&self) {
        let trouble = self.shared.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(trouble.is_empty(), "{}", trouble.join("\n"));
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.shared.phase.store(STOP, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() && !thread::panicking() {
                panic!("a sender failed, see above");
            }
        }
    }
}

impl Shared {
    fn phase(&self) -> u8 {
        self.phase.load(Ordering::Relaxed)
    }

    fn report(&self, text: String) {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }
}

struct Sender {
    shared: Arc<Shared>,
    number: u64,
    random: Random,
    begin: Timestamp,
    /// Events of each key so far.
    sent: HashMap<String, u64>,
    file: File,
}

enum Outcome {
    Stored { repeats: u64 },
    Refused,
    Unknown,
}

impl Sender {
    fn run(mut self) {
        loop {
            if self.shared.phase() == PAUSE {
                self.shared.paused.fetch_add(1, Ordering::Release);
                while self.shared.phase() == PAUSE {
                    thread::sleep(PACE);
                }
                self.shared.paused.fetch_sub(1, Ordering::Release);
            }
            let (body, events) = self.batch();
            loop {
                if self.shared.phase() == STOP {
                    return; // the last batch stays open; nobody audits any more
                }
                match self.send(&body, events) {
                    Outcome::Stored { repeats } => {
                        self.shared.stored.fetch_add(events, Ordering::Relaxed);
                        self.shared.repeats.fetch_add(repeats, Ordering::Relaxed);
                        break;
                    }
                    Outcome::Refused => {
                        self.shared.refused.fetch_add(events, Ordering::Relaxed);
                        thread::sleep(RETRY_PACE);
                    }
                    Outcome::Unknown => {
                        self.shared.unknown.fetch_add(events, Ordering::Relaxed);
                        thread::sleep(if self.random.chance(LATE_PERCENT) { LATE_PACE } else { RETRY_PACE });
                    }
                }
            }
            self.file.write_all(body.as_bytes()).expect("the ledger is writable");
            if !self.shared.hurries.load(Ordering::Relaxed) {
                thread::sleep(PACE);
            }
        }
    }

    fn batch(&mut self) -> (String, u64) {
        let events = 1 + self.random.below(BATCH_MAX);
        let mut body = String::new();
        for _ in 0..events {
            // Some keys come often, some rarely: the second kind gets evicted.
            let key = self.random.below(KEYS).min(self.random.below(KEYS));
            let key = format!("sender-{}-user-{key}", self.number);
            let n = self.sent.entry(key.clone()).or_default();
            *n += 1;
            let kind = ["page_view", "link_click", "add_to_cart", "purchase"][self.random.below(4) as usize];
            // Two hours, so that a cut has several files.
            let ago = 3600 * self.random.below(2) + self.random.below(60);
            let time = Timestamp(self.begin.0 - 1_000_000 * ago as i64);
            body.push_str(&event(&key, *n, kind, time, self.random.below(30)));
        }
        (body, events)
    }

    fn send(&self, body: &str, events: u64) -> Outcome {
        let port = self.shared.port.load(Ordering::Relaxed);
        let headers = [("content-type", "application/x-ndjson")];
        let answer = http::request_within(ANSWER_MAX, port, "POST", "/v1/events", &headers, body.as_bytes());
        match answer {
            Ok(answer) if (200..300).contains(&answer.status) => {
                let json = answer.json();
                let count = |name: &str| json[name].as_u64().unwrap_or(0);
                if count("accepted") + count("duplicates") != events {
                    self.shared.report(format!("{events} events were sent, the answer is {}", answer.body));
                }
                Outcome::Stored { repeats: count("duplicates") }
            }
            Ok(answer) if answer.status == 429 => Outcome::Refused,
            Ok(answer) if answer.status >= 500 => {
                if answer.status == 503 && answer.header("retry-after").is_none() {
                    self.shared.report(format!("503 without Retry-After: {}", answer.body));
                }
                Outcome::Unknown
            }
            Ok(answer) => {
                self.shared.report(format!("good events were answered with {}: {}", answer.status, answer.body));
                Outcome::Refused
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Outcome::Refused,
            Err(_) => Outcome::Unknown,
        }
    }
}

/// The `n`-th event of a key, as a line.
fn event(key: &str, n: u64, kind: &str, time: Timestamp, page: u64) -> String {
    let time = time.to_rfc3339();
    format!(
        r#"{{"domain_userid":"{key}","event_id":"{key}-{n}","event":"{kind}","collector_tstamp":"{time}","page_url":"https://shop.example/{page}"}}"#
    ) + "\n"
}

/// Reads features of one key after the other and remembers the newest of each.
fn watch(shared: &Shared, mut random: Random) {
    let mut newest = HashMap::<String, (u64, u64)>::new();
    while shared.phase() != STOP {
        thread::sleep(WATCH_PACE);
        let key = format!("sender-{}-user-{}", random.below(SENDERS), random.below(WATCHED_KEYS));
        let port = shared.port.load(Ordering::Relaxed);
        let answer = http::request_within(ANSWER_MAX, port, "GET", &format!("/v1/features/{key}"), &[], b"");
        let Ok(answer) = answer else { continue };
        let before = newest.get(&key).copied().unwrap_or_default();
        let now = match answer.status {
            200 => {
                let json = answer.json();
                let count = json["features"]["event_count"].as_u64().unwrap_or(0);
                (json["seq"].as_u64().unwrap_or(0), count)
            }
            404 => (0, 0),
            _ => continue,
        };
        if now.0 < before.0 || now.1 < before.1 {
            shared.went_back.fetch_add(1, Ordering::Relaxed);
            eprintln!("features of {key} went back from (seq, count) {before:?} to {now:?}");
        }
        newest.insert(key, now);
    }
}

/// The lines of all files together.
pub fn lines(files: &[PathBuf]) -> u64 {
    let count = |path: &PathBuf| fs::read_to_string(path).map_or(0, |text| text.lines().count() as u64);
    files.iter().map(count).sum()
}
