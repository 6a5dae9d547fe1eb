//! The least HTTP client for load: kept connections, prepared requests, answers read whole and judged by status alone. And
//! the two ways to send: as fast as answers come, or at times that do not wait for answers.

use std::{
    io,
    rc::Rc,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use keyloom_tests::support::random::Random;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    task::LocalSet,
};

/// Largest answer.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// A connection that is kept.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// An answer, as far as it matters.
pub struct Answer {
    /// The status code.
    pub status: u16,
    head: usize,
}

impl Connection {
    /// Connects to the engine at `port`.
    pub async fn open(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(64 << 10) })
    }

    /// Sends a whole request and reads its whole answer.
    pub async fn exchange(&mut self, request: &[u8]) -> io::Result<Answer> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        loop {
            if let Some((status, head, length)) = head(&self.buffer)? {
                while self.buffer.len() < head + length {
                    self.read().await?;
                }
                return Ok(Answer { status, head });
            }
            self.read().await?;
        }
    }

    /// The body of the last answer.
    pub fn body(&self, answer: &Answer) -> &[u8] {
        &self.buffer[answer.head..]
    }

    async fn read(&mut self) -> io::Result<()> {
        if self.buffer.len() > ANSWER_BYTES_MAX {
            return Err(bad("the answer does not end"));
        }
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(bad("the connection was closed in the middle of an answer")),
            _ => Ok(()),
        }
    }
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// Status, length of the head and of the body, once the head is there.
fn head(read: &[u8]) -> io::Result<Option<(u16, usize, usize)>> {
    let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let text = std::str::from_utf8(&read[..end]).map_err(|_| bad("the head is no text"))?;
    let status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(|| bad("no status"))?;
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    Ok(Some((status, end + 4, length.ok_or_else(|| bad("no content-length"))?)))
}

/// A `POST` of JSON.
pub fn post(path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// A `GET`.
pub fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n").into_bytes()
}

/// What a load saw.
#[derive(Default)]
pub struct Seen {
    /// Seconds from when each request was due, or sent, to its answer; ascending.
    pub seconds: Vec<f64>,
    /// Answers other than 200.
    pub refused: u64,
    /// Time from the first request to the last answer.
    pub took: Duration,
}

impl Seen {
    /// The time that so many of 1,000 requests were answered within, in milliseconds.
    pub fn milliseconds(&self, per_mille: usize) -> f64 {
        let at = (self.seconds.len() * per_mille / 1_000).min(self.seconds.len().saturating_sub(1));
        self.seconds.get(at).copied().unwrap_or(f64::NAN) * 1e3
    }

    /// Answers per second.
    pub fn rate(&self) -> f64 {
        self.seconds.len() as f64 / self.took.as_secs_f64()
    }
}

/// Sends over `connections` as fast as answers come: each takes the next request of `requests`, from the first on, until
/// there are no more or `time` has passed.
pub async fn as_fast_as_answered(
    port: u16,
    connections: usize,
    requests: Vec<Vec<u8>>,
    time: Duration,
) -> io::Result<Seen> {
    let requests = Rc::new(requests);
    let next = Rc::new(std::cell::Cell::new(0));
    let (found, mut results) = mpsc::unbounded_channel();
    let local = LocalSet::new();
    let began = Instant::now();
    for _ in 0..connections {
        let (requests, next, found) = (Rc::clone(&requests), Rc::clone(&next), found.clone());
        local.spawn_local(async move {
            let done = async {
                let mut connection = Connection::open(port).await?;
                let mut seen = Seen::default();
                while began.elapsed() < time {
                    let Some(request) = requests.get(next.replace(next.get() + 1)) else { break };
                    let sent = Instant::now();
                    let answer = connection.exchange(request).await?;
                    seen.refused += u64::from(answer.status != 200);
                    seen.seconds.push(sent.elapsed().as_secs_f64());
                }
                io::Result::Ok(seen)
            };
            found.send(done.await).ok(); // the receiver outlives all tasks
        });
    }
    drop(found);
    local.await;
    collect(&mut results, began)
}

/// Sends `rate` requests a second at random moments, whether answers have come or not, so that a slow answer delays no
/// request and hides none: the time of each counts from the moment it was due. Up to `connections` at once; a request that
/// finds none free waits for one, and that counts.
pub async fn at_a_rate(
    port: u16,
    connections: usize,
    rate: f64,
    time: Duration,
    mut request: impl FnMut(&mut Random) -> Arc<Vec<u8>> + Send + 'static,
) -> io::Result<Seen> {
    let (found, mut results) = mpsc::unbounded_channel();
    let (due, queue) = mpsc::unbounded_channel::<(Instant, Arc<Vec<u8>>)>();
    let queue = Rc::new(tokio::sync::Mutex::new(queue));
    let local = LocalSet::new();
    let began = Instant::now();
    for _ in 0..connections {
        let (queue, found) = (Rc::clone(&queue), found.clone());
        local.spawn_local(async move {
            let done = async {
                let mut connection = Connection::open(port).await?;
                let mut seen = Seen::default();
                loop {
                    let next = queue.lock().await.recv().await;
                    let Some((moment, request)) = next else { return io::Result::Ok(seen) };
                    let answer = connection.exchange(&request).await?;
                    seen.refused += u64::from(answer.status != 200);
                    seen.seconds.push(moment.elapsed().as_secs_f64());
                }
            };
            found.send(done.await).ok(); // the receiver outlives all tasks
        });
    }
    drop(found);
    // A thread, because its sleep is exact to some 60 µs; the runtime's timers are to a millisecond.
    let clock = thread::spawn(move || {
        let mut random = Random::new(7);
        let mut moment = Instant::now();
        while began.elapsed() < time {
            let uniform = (random.number() >> 11) as f64 / (1u64 << 53) as f64;
            moment += Duration::from_secs_f64(-(1.0 - uniform).ln() / rate);
            let request = request(&mut random);
            thread::sleep(moment.saturating_duration_since(Instant::now()));
            due.send((moment, request)).ok(); // a connection that failed says so itself
        }
    });
    local.await;
    drop(clock.join()); // it has said why if it failed
    collect(&mut results, began)
}

fn collect(results: &mut mpsc::UnboundedReceiver<io::Result<Seen>>, began: Instant) -> io::Result<Seen> {
    let mut all = Seen { took: began.elapsed(), ..Seen::default() };
    while let Ok(seen) = results.try_recv() {
        let seen = seen?;
        all.refused += seen.refused;
        all.seconds.extend(seen.seconds);
    }
    all.seconds.sort_by(f64::total_cmp);
    Ok(all)
}
