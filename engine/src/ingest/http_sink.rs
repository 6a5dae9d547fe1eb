//! Ingested events through the front door of a running engine, as NDJSON requests one after the other: order holds, and a
//! repeated request is absorbed by its ids.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, Uri, header};

use super::{
    backoff::Backoff,
    sink::{IngestSink, SendCount},
};
use crate::{
    engine_client::{HttpClient, Way},
    front_door::{Accepted, Answer, http::EVENTS_PATH},
};

/// Bytes per request; a larger event travels alone.
const REQUEST_BYTES_MAX: usize = 2 << 20;
/// Events per request, unless the engine takes fewer.
const REQUEST_EVENTS_MAX: usize = 5_000;
/// Longest wait for one answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest answer that is read.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// Posts to `http://ADDR/v1/events`.
pub struct HttpSink {
    client: HttpClient,
    way: Way,
    address: String,
    uri: Uri,
    events_max: usize,
    bytes_max: usize,
    first_refusal: Option<String>,
    has_answered: bool,
}

/// What one attempt came to, if not an answer.
enum Failure {
    /// Worth another attempt, not before this time.
    Passing(String, Option<Duration>),
    /// Another attempt would end the same way.
    Final(String),
    /// So would it, but with less at once.
    TooMuch(String),
}

impl HttpSink {
    /// A sink to the front door at `address`, such as `127.0.0.1:8080`.
    pub fn new(address: &str) -> Result<Self, String> {
        Self::by(address, Way::default())
    }

    /// The same, on a way of its own.
    pub fn by(address: &str, way: Way) -> Result<Self, String> {
        let uri = format!("{}://{address}{EVENTS_PATH}", way.scheme());
        let uri =
            uri.parse().map_err(|error| format!("{address} is not an address such as 127.0.0.1:8080: {error}"))?;
        Ok(Self {
            client: way.client(),
            way,
            address: address.to_owned(),
            uri,
            events_max: REQUEST_EVENTS_MAX,
            bytes_max: REQUEST_BYTES_MAX,
            first_refusal: None,
            has_answered: false,
        })
    }

    /// Sends at most `events_max` events and `bytes_max` bytes per request, the engine's limits.
    #[must_use]
    pub fn within(mut self, events_max: usize, bytes_max: usize) -> Self {
        self.events_max = self.events_max.min(events_max).max(1);
        self.bytes_max = self.bytes_max.min(bytes_max);
        self
    }

    /// Sends lines. Where they are too many or too much for the engine at once, it gets half as many from then on.
    async fn post(&mut self, body: Bytes) -> Result<SendCount, String> {
        let (mut count, mut open) = (SendCount::default(), vec![body]);
        while let Some(body) = open.pop() {
            match self.post_whole(&body).await? {
                Some(taken) => count += taken,
                None => {
                    let lines = line_ends(&body).count();
                    let half = line_ends(&body).nth(lines / 2 - 1).unwrap_or(0);
                    self.events_max = self.events_max.min(lines.div_ceil(2));
                    open.extend([body.slice(half..), body.slice(..half)]);
                }
            }
        }
        Ok(count)
    }

    /// `None`: it is more than the engine takes at once, and can be halved.
    async fn post_whole(&mut self, body: &Bytes) -> Result<Option<SendCount>, String> {
        let mut backoff = Backoff::new();
        loop {
            let started = Instant::now();
            let (problem, asked) = match self.attempt(body.clone()).await {
                Ok(answer) => return Ok(Some(self.count(answer))),
                Err(Failure::TooMuch(_)) if line_ends(body).nth(1).is_some() => return Ok(None),
                Err(Failure::Final(problem) | Failure::TooMuch(problem)) => return Err(problem),
                Err(Failure::Passing(problem, asked)) => (problem, asked),
            };
            let Some(wait) = backoff.next(started.elapsed(), asked) else {
                return Err(format!("{} did not take the events, gave up: {problem}", self.address));
            };
            tracing::warn!(problem, wait_ms = wait.as_millis(), "trying the request again");
            tokio::time::sleep(wait).await;
        }
    }

    async fn attempt(&mut self, body: Bytes) -> Result<Answer, Failure> {
        let mut request = Request::post(self.uri.clone())
            .header(header::CONTENT_TYPE, "application/x-ndjson")
            .body(Full::new(body))
            .map_err(|error| Failure::Final(error.to_string()))?;
        let authorization = self.way.authorization().cloned().map(|value| (header::AUTHORIZATION, value));
        request.headers_mut().extend(authorization);
        let exchange = async {
            let response = self.client.request(request).await.map_err(|error| {
                if error.is_connect() && !self.has_answered {
                    let address = &self.address;
                    return Failure::Final(format!(
                        "nothing answers at {address}: is the engine running there? ({error})"
                    ));
                }
                Failure::Passing(error.to_string(), None)
            })?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| Failure::Passing(error.to_string(), None))?;
            Ok((head, body.to_bytes()))
        };
        let timed = tokio::time::timeout(REQUEST_TIMEOUT, exchange).await;
        let late = |_| Failure::Passing(format!("no answer within {} s", REQUEST_TIMEOUT.as_secs()), None);
        let (head, body) = timed.map_err(late)??;
        self.has_answered = true;
        let code = head.status.as_u16();
        if let (200 | 400, Ok(answer)) = (code, serde_json::from_slice::<Answer>(&body)) {
            return Ok(answer);
        }
        let problem = format!("status {code}: {}", said(&body));
        if matches!(code, 408 | 429 | 500 | 502 | 503 | 504) {
            let asked = head.headers.get(header::RETRY_AFTER).and_then(|v| v.to_str().ok()?.parse().ok());
            return Err(Failure::Passing(problem, asked.map(Duration::from_secs)));
        }
        let hint = if matches!(code, 401 | 403) { "; give a token by --token-file or KEYLOOM_TOKEN" } else { "" };
        let text = format!("{} refused the events: {problem}{hint}", self.address);
        Err(if code == 413 { Failure::TooMuch(text) } else { Failure::Final(text) })
    }

    fn count(&mut self, answer: Answer) -> SendCount {
        let refused = answer.rejected.len() as u64 + answer.rejected_more;
        if self.first_refusal.is_none() {
            self.first_refusal = answer.rejected.into_iter().next().map(|r| r.reason);
        }
        SendCount { stored: answer.accepted, duplicates: answer.duplicates, refused }
    }
}

#[async_trait]
impl IngestSink for HttpSink {
    async fn send(&mut self, batch: Vec<Accepted>) -> Result<SendCount, String> {
        let mut count = SendCount::default();
        let mut body = BytesMut::new();
        let mut events = 0;
        for accepted in batch {
            let event = &accepted.record.payload;
            if events >= self.events_max || (events > 0 && body.len() + event.len() >= self.bytes_max) {
                events = 0;
                count += self.post(body.split().freeze()).await?;
            }
            body.extend_from_slice(event);
            body.extend_from_slice(b"\n");
            events += 1;
        }
        if !body.is_empty() {
            count += self.post(body.freeze()).await?;
        }
        Ok(count)
    }

    async fn finish(&mut self) -> Result<SendCount, String> {
        Ok(SendCount::default()) // every request was answered before the next one
    }

    fn first_refusal(&self) -> Option<&str> {
        self.first_refusal.as_deref()
    }
}

/// Where the lines of `body` end.
fn line_ends(body: &[u8]) -> impl Iterator<Item = usize> {
    body.iter().enumerate().filter_map(|(at, b)| (*b == b'\n').then_some(at + 1))
}

/// The `error` and `hint` of an answer, or its beginning if it is not ours.
pub fn said(body: &[u8]) -> String {
    let answer: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    match (answer["error"].as_str(), answer["hint"].as_str()) {
        (Some(error), Some(hint)) => format!("{error} ({hint})"),
        (Some(error), None) => error.to_owned(),
        _ => String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use keyloom_actors::{
        event::KeyPaths,
        ports::LogError,
        timestamp::{SystemClock, Timestamp},
    };

    use super::*;
    use crate::front_door::{Acceptor, FrontDoor, Limits, http::routes, test_log::MemoryLog};

    fn acceptor(key: &str) -> Acceptor {
        Acceptor { keys: KeyPaths::new([key]), partitions: 2, event_bytes_max: 1 << 20 }
    }

    fn batch(count: usize) -> Vec<Accepted> {
        let event = |n| format!(r#"{{"k":"u{}","event_id":"{n}","x":"{}"}}"#, n % 5, "x".repeat(1_000));
        let accept = |n| acceptor("k").accept(event(n).as_bytes(), Timestamp(0), &mut String::new).expect("good");
        (0..count).map(accept).collect()
    }

    async fn serve(log: &Arc<MemoryLog>, key: &str) -> String {
        serve_within(log, key, Limits::default()).await
    }

    async fn serve_within(log: &Arc<MemoryLog>, key: &str, limits: Limits) -> String {
        let log = Arc::<MemoryLog>::clone(log);
        let door = FrontDoor::new(acceptor(key), log, Arc::new(SystemClock), limits);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        tokio::spawn(async move { axum::serve(listener, routes(Arc::new(door))).await });
        address
    }

    #[tokio::test]
    async fn batches_arrive_in_order_and_a_503_is_retried_without_doubles() {
        let log = Arc::new(MemoryLog::default());
        log.fail_next(LogError::Unavailable("a hiccup".into()));
        let mut sink = HttpSink::new(&serve(&log, "k").await).expect("an address");
        let count = sink.send(batch(4_000)).await.expect("stored");
        assert_eq!((count.stored + count.duplicates, count.refused), (4_000, 0));
        assert!(count.duplicates > 0, "what the failed request stored was absorbed");
        let records = log.records();
        assert_eq!(records.values().map(Vec::len).sum::<usize>(), 4_000);
        for (partition, records) in records {
            let expected = batch(4_000).into_iter().filter(|a| a.partition == partition).map(|a| a.record.payload);
            assert!(expected.eq(records.into_iter().map(|r| r.payload)));
        }
    }

    #[tokio::test]
    async fn an_engine_that_takes_less_at_once_gets_less() {
        for limits in
            [Limits { events_max: 37, ..Limits::default() }, Limits { body_bytes_max: 9_000, ..Limits::default() }]
        {
            let log = Arc::new(MemoryLog::default());
            let mut sink = HttpSink::new(&serve_within(&log, "k", limits).await).expect("an address");
            let count = sink.send(batch(1_000)).await.expect("stored");
            assert_eq!((count.stored, count.duplicates, count.refused), (1_000, 0, 0));
            for (partition, records) in log.records() {
                let expected = batch(1_000).into_iter().filter(|a| a.partition == partition).map(|a| a.record.payload);
                assert!(expected.eq(records.into_iter().map(|r| r.payload)), "in their order");
            }
            assert!(sink.events_max <= 37, "it remembers");
        }
        let log = Arc::new(MemoryLog::default());
        let limits = Limits { body_bytes_max: 500, ..Limits::default() };
        let mut sink = HttpSink::new(&serve_within(&log, "k", limits).await).expect("an address");
        let error = sink.send(batch(3)).await.expect_err("not even one");
        assert!(error.contains("413"), "{error}");
    }

    #[tokio::test]
    async fn refusals_and_a_missing_engine_are_reported() {
        let log = Arc::new(MemoryLog::default());
        let mut sink = HttpSink::new(&serve(&log, "another").await).expect("an address");
        let count = sink.send(batch(1_500)).await.expect("answered");
        assert_eq!((count.stored, count.refused), (0, 1_500));
        assert_eq!(sink.first_refusal(), Some("no_key: none of these fields is present: another"));
        let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = free.local_addr().expect("bound").to_string();
        drop(free);
        let error = HttpSink::new(&address).expect("an address").send(batch(1)).await.expect_err("nobody is there");
        assert!(error.contains("is the engine running there?"), "{error}");
        assert!(HttpSink::new("not an address").is_err());
    }
}
