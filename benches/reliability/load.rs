//! Events sent at a steady rate, and single ones that are timed until they can be read as features.

use std::{
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use keyloom_tests::support::{
    engine::{SETTLE_MAX, binary},
    http,
    process::Process,
    random::Random,
};

/// How often features are asked for while one event is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// How long one request of a prober may take: a process that is being started answers nothing.
const ASK_MAX: Duration = Duration::from_secs(1);
/// Keys of events that are timed one after the other.
const SAMPLE_KEYS: u64 = 50;
/// Events per request of [`Traffic`], and its requests per second.
const BATCH_EVENTS: u64 = 50;
const BATCHES_PER_SECOND: u32 = 40;

/// `keyloom generate` at a steady rate, until the value is dropped.
pub fn generate(folder: &Path, port: u16, rate: u64, users: u64) -> Process {
    let mut command = Command::new(binary("keyloom"));
    command.args(["generate", "--rate", &rate.to_string(), "--users", &users.to_string()]);
    Process::start("generate", folder, command.args(["--to", &format!("http://127.0.0.1:{port}")]))
}

/// One event of `key`, as a line; its page is told apart from all others by `n`.
pub fn event(key: &str, n: u64) -> String {
    format!(
        "{{\"domain_userid\":\"{key}\",\"event_id\":\"{key}-{n}\",\"event\":\"page_view\",\"page_url\":\"/{n}\"}}\n"
    )
}

/// Whether the front door says that it has stored these events.
pub fn stored(port: u16, events: &str) -> bool {
    let headers = [("content-type", "application/x-ndjson")];
    let answer = http::request_within(ASK_MAX, port, "POST", "/v1/events", &headers, events.as_bytes());
    answer.is_ok_and(|answer| answer.status == 200)
}

/// Whether event `n` is the last that the features of `key` know.
pub fn readable(port: u16, key: &str, n: u64) -> bool {
    let answer = http::request_within(ASK_MAX, port, "GET", &format!("/v1/features/{key}"), &[], b"");
    answer.is_ok_and(|answer| answer.status == 200 && answer.json()["features"]["last_page"] == format!("/{n}"))
}

/// From 2xx until the event can be read, for one event after the other, for as long as `time`. The first one is `n`.
pub fn freshness(port: u16, mut n: u64, time: Duration) -> Vec<f64> {
    let (began, mut seen) = (Instant::now(), Vec::new());
    while began.elapsed() < time {
        let key = format!("sample-{}", n % SAMPLE_KEYS);
        assert!(stored(port, &event(&key, n)), "the engine takes events");
        let sent = Instant::now();
        while !readable(port, &key, n) {
            assert!(sent.elapsed() < SETTLE_MAX, "event {n} of {key} cannot be read");
            thread::sleep(LOOK_EVERY);
        }
        seen.push(sent.elapsed().as_secs_f64());
        n += 1;
    }
    seen
}

/// The value that so many of 100 are at or below.
pub fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

/// The key of the `n`-th of many users.
pub fn user(n: u64) -> String {
    format!("user-{n:07}")
}

/// Events of random users, whether somebody takes them or not; ends with the value.
pub struct Traffic {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Traffic {
    /// To `port`, 2,000 events a second over so many users.
    pub fn start(port: u16, users: u64, seed: u64) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let (ended, mut random, mut n) = (Arc::clone(&ends), Random::new(seed), seed << 32);
        let thread = thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                let lines = (0..BATCH_EVENTS).map(|_| {
                    n += 1;
                    event(&user(random.below(users)), n)
                });
                stored(port, &lines.collect::<String>()); // refused while nobody listens
                thread::sleep(Duration::from_secs(1) / BATCHES_PER_SECOND);
            }
        });
        Self { ends, thread: Some(thread) }
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join()); // it has said why if it failed
        }
    }
}
