//! A faulty network between the engine and a server: a TCP proxy on loopback whose mode can change at any time, also for
//! connections that are open. With [`Proxy::http`] it knows where requests begin and can answer them itself.
//!
//! Two threads a connection, because there are few. Not for speed, and not for TLS.

use std::{
    cell::RefCell,
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{random::Random, servers::free_port};

/// How often the threads look whether the mode has changed.
const LOOK: Duration = Duration::from_millis(10);
const CHUNK_BYTES: usize = 16 << 10;
/// The longest head of a request.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Pieces per second of a slow link.
const PIECES_PER_SECOND: u64 = 20;

/// What the network does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Nothing special.
    Pass,
    /// Everything takes this long, in each direction.
    Delay(Duration),
    /// So many bytes a second pass, per connection and direction.
    Slow(u64),
    /// Nobody listens, and open connections end.
    Refuse,
    /// Connections are accepted and stay open; nothing comes through, and what was sent is gone.
    BlackHole,
    /// Connections are reset as soon as something is sent.
    Reset,
    /// What the client sends arrives; in so many of 100 cases the connection ends instead of bringing the answer.
    LoseAnswers(u64),
    /// So many of 100 requests are answered with 503 and never reach the server. HTTP only.
    Unavailable(u64),
}

/// How often something was done to the traffic.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// Connections accepted.
    pub connections: u64,
    /// Answers lost, connections reset.
    pub cut: u64,
    /// Requests answered with 503.
    pub unavailable: u64,
}

struct Shared {
    mode: Mutex<Mode>,
    random: Mutex<Random>,
    port: u16,
    target: u16,
    is_http: bool,
    ended: AtomicBool,
    connections: AtomicU64,
    cut: AtomicU64,
    unavailable: AtomicU64,
}

/// A running proxy. Ends with the value.
pub struct Proxy {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Before a server of any protocol that listens on `target`.
    pub fn tcp(target: u16, seed: u64) -> Self {
        Self::start(target, seed, false)
    }

    /// Before an HTTP/1.1 server.
    pub fn http(target: u16, seed: u64) -> Self {
        Self::start(target, seed, true)
    }

    fn start(target: u16, seed: u64, is_http: bool) -> Self {
        let port = free_port();
        let shared = Arc::new(Shared {
            mode: Mutex::new(Mode::Pass),
            random: Mutex::new(Random::new(seed)),
            port,
            target,
            is_http,
            ended: AtomicBool::new(false),
            connections: AtomicU64::new(0),
            cut: AtomicU64::new(0),
            unavailable: AtomicU64::new(0),
        });
        let listener = listen(port).expect("a free port");
        let accepting = Arc::clone(&shared);
        Self { shared, thread: Some(thread::spawn(move || accept(&accepting, Some(listener)))) }
    }

    /// Where clients connect.
    pub fn port(&self) -> u16 {
        self.shared.port
    }

    /// From now on.
    pub fn set(&self, mode: Mode) {
        assert!(self.shared.is_http || !matches!(mode, Mode::Unavailable(_)), "{mode:?} is for HTTP");
        *self.shared.mode.lock().unwrap_or_else(PoisonError::into_inner) = mode;
    }

    /// So far.
    pub fn done(&self) -> Done {
        let read = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let Shared { connections, cut, unavailable, .. } = &*self.shared;
        Done { connections: read(connections), cut: read(cut), unavailable: read(unavailable) }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join()); // it panics only if the port was taken meanwhile, and has said so
        }
    }
}

impl Shared {
    fn mode(&self) -> Mode {
        *self.mode.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn chance(&self, percent: u64) -> bool {
        self.random.lock().unwrap_or_else(PoisonError::into_inner).chance(percent)
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }
}

fn listen(port: u16) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn accept(shared: &Arc<Shared>, mut listener: Option<TcpListener>) {
    while !shared.has_ended() {
        if shared.mode() == Mode::Refuse {
            listener = None;
        } else if listener.is_none() {
            listener = listen(shared.port).ok(); // something may still hold it for a moment
        }
        match listener.as_ref().map(TcpListener::accept) {
            Some(Ok((client, _))) => {
                shared.connections.fetch_add(1, Ordering::Relaxed);
                let shared = Arc::clone(shared);
                thread::spawn(move || {
                    // A connection that fails is what clients of a proxy expect.
                    connect(&shared, client).ok();
                });
            }
            _ => thread::sleep(LOOK),
        }
    }
}

/// One connection: where bytes of one direction come from and go to.
struct Way {
    shared: Arc<Shared>,
    from: TcpStream,
    to: TcpStream,
    /// Set by whoever ends the connection first.
    over: Arc<AtomicBool>,
    /// The client has sent something since the last answer began.
    asked: Arc<AtomicBool>,
}

fn connect(shared: &Arc<Shared>, client: TcpStream) -> io::Result<()> {
    client.set_nonblocking(false)?;
    let server = TcpStream::connect(("127.0.0.1", shared.target))?;
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(LOOK))?;
        stream.set_nodelay(true)?;
    }
    let (over, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let way = |from: &TcpStream, to: &TcpStream| {
        let (over, asked) = (Arc::clone(&over), Arc::clone(&asked));
        Ok::<_, io::Error>(Way {
            shared: Arc::clone(shared),
            from: from.try_clone()?,
            to: to.try_clone()?,
            over,
            asked,
        })
    };
    let (up, down) = (way(&client, &server)?, way(&server, &client)?);
    drop((client, server));
    let answers = thread::spawn(move || down.run(&Way::answer));
    let requests = RefCell::new(Requests::default());
    up.run(&|way: &Way, bytes: &[u8]| {
        way.asked.store(true, Ordering::Relaxed);
        if !way.shared.is_http {
            return way.forward(bytes);
        }
        requests.borrow_mut().take(way, bytes)
    });
    drop(answers.join());
    Ok(())
}

impl Way {
    /// Until either side ends the connection, or the mode does.
    fn run(self, each: &dyn Fn(&Self, &[u8]) -> io::Result<()>) {
        let mut buffer = vec![0; CHUNK_BYTES];
        while !self.over.load(Ordering::Relaxed) && !self.shared.has_ended() {
            let mode = self.shared.mode();
            if mode == Mode::Refuse {
                break;
            }
            if mode == Mode::Reset {
                match self.from.peek(&mut buffer) {
                    Ok(1..) => {
                        // Closed with something unread, the system sends a reset and no orderly end.
                        self.shared.cut.fetch_add(1, Ordering::Relaxed);
                        self.over.store(true, Ordering::Relaxed);
                        return;
                    }
                    Ok(0) => break,
                    Err(error) if is_timeout(&error) => continue,
                    Err(_) => break,
                }
            }
            match (&self.from).read(&mut buffer) {
                Ok(0) => break,
                Ok(_) if self.shared.mode() == Mode::BlackHole => {}
                Ok(n) => {
                    if each(&self, &buffer[..n]).is_err() {
                        break;
                    }
                }
                Err(error) if is_timeout(&error) => {}
                Err(_) => break,
            }
        }
        self.over.store(true, Ordering::Relaxed);
        if self.shared.mode() != Mode::Reset {
            // Wakes the other direction if it waits for somebody to take its bytes. Would make a reset an orderly end.
            for stream in [&self.from, &self.to] {
                stream.shutdown(Shutdown::Both).ok(); // it may be down already
            }
        }
    }

    fn answer(&self, bytes: &[u8]) -> io::Result<()> {
        if self.asked.swap(false, Ordering::Relaxed)
            && let Mode::LoseAnswers(percent) = self.shared.mode()
            && self.shared.chance(percent)
        {
            self.shared.cut.fetch_add(1, Ordering::Relaxed);
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        self.forward(bytes)
    }

    fn forward(&self, mut bytes: &[u8]) -> io::Result<()> {
        match self.shared.mode() {
            Mode::Delay(time) => thread::sleep(time),
            Mode::Slow(rate) => {
                let piece = usize::try_from(rate / PIECES_PER_SECOND).unwrap_or(usize::MAX).max(1);
                while bytes.len() > piece && matches!(self.shared.mode(), Mode::Slow(_)) {
                    (&self.to).write_all(&bytes[..piece])?;
                    bytes = &bytes[piece..];
                    thread::sleep(Duration::from_secs(1) / PIECES_PER_SECOND as u32);
                }
            }
            _ => {}
        }
        (&self.to).write_all(bytes)
    }
}

/// Where the requests of one connection begin and end.
#[derive(Default)]
struct Requests {
    head: Vec<u8>,
    body_left: usize,
}

impl Requests {
    fn take(&mut self, way: &Way, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.body_left > 0 {
                let (body, rest) = bytes.split_at(self.body_left.min(bytes.len()));
                way.forward(body)?;
                self.body_left -= body.len();
                bytes = rest;
                continue;
            }
            self.head.push(bytes[0]);
            bytes = &bytes[1..];
            if self.head.ends_with(b"\r\n\r\n") {
                let head = std::mem::take(&mut self.head);
                self.body_left = content_length(&head);
                if let Mode::Unavailable(percent) = way.shared.mode()
                    && way.shared.chance(percent)
                {
                    // Somebody who waits for permission to send the body is told no at once.
                    let waits = String::from_utf8_lossy(&head).to_ascii_lowercase().contains("100-continue");
                    return self.refuse(way, if waits { self.body_left } else { bytes.len() });
                }
                way.forward(&head)?;
            } else if self.head.len() > HEAD_BYTES_MAX {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        Ok(())
    }

    /// Answers a request itself, and ends the connection when its body is in.
    fn refuse(&self, way: &Way, mut read: usize) -> io::Result<()> {
        let mut rest = vec![0; CHUNK_BYTES];
        while read < self.body_left && !way.shared.has_ended() {
            match (&way.from).read(&mut rest) {
                Ok(0) => break,
                Ok(n) => read += n,
                Err(error) if is_timeout(&error) => {}
                Err(error) => return Err(error),
            }
        }
        way.shared.unavailable.fetch_add(1, Ordering::Relaxed);
        let text =
            "<?xml version=\"1.0\"?><Error><Code>SlowDown</Code><Message>Reduce your request rate</Message></Error>";
        let length = text.len();
        let answer = format!(
            "HTTP/1.1 503 Slow Down\r\ncontent-type: application/xml\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{text}"
        );
        (&way.from).write_all(answer.as_bytes())?;
        Err(io::ErrorKind::ConnectionAborted.into())
    }
}

fn content_length(head: &[u8]) -> usize {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let found = lines.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    found.and_then(|(_, value)| value.trim().parse().ok()).unwrap_or(0)
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}
