//! An in-order reader of one partition's stream.
//!
//! Whatever goes wrong (a gap in the deliveries, a missed heartbeat, a lost connection, a vanished consumer), the remedy
//! is one and the same: a new consumer behind the last event taken. Only what a person or the caller must decide about
//! becomes an error: events that retention removed, and a stream that is not what it was. Not for the protocol of pulls:
//! that is `pull`'s.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use keyloom_actors::{
    event::key_paths::KeyPaths,
    ports::{LogError, LogReader, LogRecord},
};
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::{
    connect::{LOST, Link},
    leader::{ReadFault, StoredMessage, StreamState, Wanted, read_from_leader, stream_state},
    pull::{Broken, Pull, Pulled},
};

/// First and longest pause between two attempts to begin again. There is no last attempt: a reader waits for its log. The
/// longest one, and that of the connection, are what an outage may cost after its end: 5 s are promised.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Answers that the stream does not exist before we believe it: a cluster that starts says so too.
const NO_STREAM_ANSWERS: u32 = 3;
/// Pulls lost in a row at the same event before it is fetched by itself: headers that the library cannot parse cost the
/// connection, every time.
const LOST_AT_ONE_EVENT: u32 = 2;
/// From this many events in one [`PACE_WINDOW`] on (20,000 a second), small answers wait for [`COALESCE_PAUSE`] and grow.
/// Otherwise a fast caller is woken for every few events, which costs more than the events.
const COALESCE_PACE: usize = 200;
const PACE_WINDOW: Duration = Duration::from_millis(10);
/// The shortest sleep there is; what busy partitions add to the age of an event.
const COALESCE_PAUSE: Duration = Duration::from_millis(1);
/// Answers of this many events do not wait.
const COALESCE_EVENTS: usize = 256;
/// Room for events made at once for every answer: most batches then grow twice or thrice, 80 bytes an event.
const READY_ROOM: usize = 512;

/// The reader of one partition.
pub(super) struct NatsReader {
    link: Link,
    stream: Arc<str>,
    partition: u32,
    /// What to note of an event that does not say its key.
    keys: KeyPaths,
    /// Sequence of the first event not yet in `ready`.
    next_seq: u64,
    /// What the next call answers; here and not on the stack, so that a dropped future loses nothing.
    ready: Vec<LogRecord>,
    ready_bytes: usize,
    /// An event behind a gap, until it is known why there is a gap.
    held: Option<LogRecord>,
    pull: Option<Pull>,
    /// A step under way; here, so that a caller that drops its futures often still gets ahead.
    step: Option<BoxFuture<'static, Result<Stepped, ReadFault>>>,
    /// When the stream was made, as first seen: another time is another stream.
    created: Option<String>,
    /// Steps in a row that led to no event.
    attempts: u32,
    /// Pulls lost in a row, perhaps because of the next event.
    losses: u32,
    no_stream_answers: u32,
    pace: Pace,
    /// Whether what is ready has waited for more already.
    coalesced: bool,
}

/// How fast events come.
struct Pace {
    since: Instant,
    events: usize,
    busy: bool,
}

/// What a step is to do, after a look at the stream.
#[derive(Clone, Copy)]
enum Step {
    /// Nothing more.
    Look,
    /// Read one event by itself.
    FetchOne,
    /// Make a consumer.
    Consume,
}

/// What a step found.
struct Stepped {
    state: StreamState,
    found: Found,
}

enum Found {
    Nothing,
    Event(StoredMessage),
    Pull(Box<Pull>),
}

impl NatsReader {
    pub(super) fn new(link: Link, stream: Arc<str>, partition: u32, from: u64, keys: KeyPaths) -> Self {
        Self {
            link,
            stream,
            partition,
            keys,
            next_seq: from.max(1),
            ready: Vec::new(),
            ready_bytes: 0,
            held: None,
            pull: None,
            step: None,
            created: None,
            attempts: 0,
            losses: 0,
            no_stream_answers: 0,
            pace: Pace { since: Instant::now(), events: 0, busy: false },
            coalesced: false,
        }
    }

    /// Takes what has come without waiting, up to the limits.
    async fn gather(&mut self, events_max: usize, bytes_max: usize) {
        let mut heard = false;
        self.ready.reserve(events_max.min(READY_ROOM));
        while self.held.is_none() && self.ready.len() < events_max && self.ready_bytes < bytes_max {
            let Some(pull) = self.pull.as_mut() else { return };
            if let Err(broken) = pull.ask().await {
                return self.close(broken).await;
            }
            match pull.ready() {
                None => break,
                Some(Ok(Pulled::Event(record))) => self.offer(record),
                Some(Ok(Pulled::Nothing)) => {}
                Some(Err(broken)) => return self.close(broken).await,
            }
            heard = true;
        }
        if heard && let Some(pull) = self.pull.as_mut() {
            pull.heard();
        }
    }

    async fn wait(&mut self) {
        let Some(pull) = self.pull.as_mut() else { return };
        match pull.wait().await {
            Ok(Pulled::Event(record)) => self.offer(record),
            Ok(Pulled::Nothing) => self.attempts = 0,
            Err(broken) => self.close(broken).await,
        }
    }

    async fn close(&mut self, broken: Broken) {
        if matches!(broken, Broken::Lost | Broken::TooLarge) {
            self.losses = self.losses.saturating_add(1);
        }
        let Some(pull) = self.pull.take() else { return };
        let reason = broken.reason();
        warn!(stream = %self.stream, partition = self.partition, seq = self.next_seq, reason, "reading the log anew");
        pull.close().await;
    }

    /// Adds an event to what is ready, or holds it when events before it are missing.
    fn offer(&mut self, record: LogRecord) {
        if record.seq == self.next_seq {
            self.take(record);
        } else if record.seq > self.next_seq {
            self.held = Some(record);
        }
    }

    fn take(&mut self, record: LogRecord) {
        self.next_seq = record.seq + 1;
        self.ready_bytes += record.payload.len();
        self.ready.push(record);
        (self.attempts, self.losses) = (0, 0);
    }

    /// Goes one step towards the next event: finds out why there is a gap, or makes a consumer. Pauses when the last
    /// steps led nowhere; answers `Ok` when this one did not either.
    async fn step(&mut self) -> Result<(), LogError> {
        let stepped = match self.step.as_mut() {
            Some(step) => step.await,
            None => {
                let kind = match &self.held {
                    Some(_) => Step::Look,
                    None if self.losses >= LOST_AT_ONE_EVENT => Step::FetchOne,
                    None => Step::Consume,
                };
                let pause = match self.attempts {
                    0 => Duration::ZERO,
                    n => PAUSE_MAX.min(PAUSE_FIRST * 2u32.saturating_pow((n - 1).min(16))),
                };
                self.attempts = self.attempts.saturating_add(1);
                let (link, stream) = (self.link.clone(), Arc::clone(&self.stream));
                let step = take_step(link, stream, self.partition, self.next_seq, self.keys.clone(), kind, pause);
                self.step.insert(Box::pin(step)).await
            }
        };
        self.step = None;
        match stepped {
            Ok(stepped) => {
                self.no_stream_answers = 0;
                self.check(&stepped.state)?;
                self.arrive(stepped)
            }
            Err(ReadFault::Unavailable(reason)) => {
                let Self { stream, partition, next_seq: seq, .. } = self;
                warn!(%stream, partition, seq, reason, "the log cannot be read yet");
                Ok(())
            }
            Err(ReadFault::NoStream) => {
                self.no_stream_answers += 1;
                if self.no_stream_answers < NO_STREAM_ANSWERS {
                    return Ok(());
                }
                Err(self.corrupt("does not exist any more"))
            }
        }
    }

    /// Whether the stream still is what it was.
    fn check(&mut self, state: &StreamState) -> Result<(), LogError> {
        let created = self.created.get_or_insert_with(|| state.created.clone());
        if *created != state.created {
            return Err(self.corrupt("was removed and made again, its sequences mean other events now"));
        }
        if state.last_seq.saturating_add(1) < self.next_seq {
            return Err(self.corrupt(&format!("ends at event {}: it was truncated or made again", state.last_seq)));
        }
        Ok(())
    }

    fn corrupt(&self, what: &str) -> LogError {
        LogError::Corrupt(format!(
            "stream {} at {} {what}; event {} was to be read next. Restore the stream from a backup, or give up the \
             state and start over with an empty store",
            self.stream, self.link.url, self.next_seq
        ))
    }

    fn arrive(&mut self, Stepped { state, found }: Stepped) -> Result<(), LogError> {
        let gone = state.first_seq > self.next_seq && state.last_seq >= self.next_seq;
        match (self.held.take(), found) {
            (Some(held), _) if gone => {
                // The next call goes on with it.
                let wanted = std::mem::replace(&mut self.next_seq, held.seq);
                let first = held.seq;
                self.take(held);
                Err(LogError::Overrun { wanted, first })
            }
            // Removed one by one: nothing to us.
            (Some(held), _) => {
                self.take(held);
                Ok(())
            }
            (None, _) if gone => {
                self.attempts = 0;
                let wanted = std::mem::replace(&mut self.next_seq, state.first_seq);
                Err(LogError::Overrun { wanted, first: state.first_seq })
            }
            (None, Found::Event(message)) => {
                let Self { stream, partition, .. } = self;
                warn!(%stream, partition, seq = message.seq, "read an event by itself, because pulls broke at it");
                self.offer(record(message, &self.keys));
                Ok(())
            }
            (None, Found::Pull(pull)) => {
                self.pull = Some(*pull);
                Ok(())
            }
            // Not at an event: pulls break for another reason.
            (None, Found::Nothing) => {
                self.losses = 0;
                Ok(())
            }
        }
    }

    /// What is ready, within the limits of this call: an earlier, cancelled one may have had larger ones.
    fn answer(&mut self, events_max: usize, bytes_max: usize) -> Vec<LogRecord> {
        let mut bytes = 0;
        let full = self.ready.iter().position(|record| {
            bytes += record.payload.len();
            bytes >= bytes_max
        });
        let fits = full.map_or(self.ready.len(), |at| at + 1).min(events_max);
        if fits == self.ready.len() {
            self.ready_bytes = 0;
            return std::mem::take(&mut self.ready);
        }
        let rest = self.ready.split_off(fits);
        self.ready_bytes = rest.iter().map(|record| record.payload.len()).sum();
        std::mem::replace(&mut self.ready, rest)
    }
}

#[async_trait]
impl LogReader for NatsReader {
    async fn next(&mut self, events_max: usize, bytes_max: usize) -> Result<Vec<LogRecord>, LogError> {
        let (events_max, bytes_max) = (events_max.max(1), bytes_max.max(1));
        loop {
            self.gather(events_max, bytes_max).await;
            if !self.ready.is_empty() {
                let few = self.ready.len() < COALESCE_EVENTS.min(events_max) && self.ready_bytes < bytes_max;
                if few && self.pace.busy && self.held.is_none() && !self.coalesced {
                    self.coalesced = true;
                    sleep(COALESCE_PAUSE).await;
                    continue;
                }
                self.coalesced = false;
                let answer = self.answer(events_max, bytes_max);
                self.pace.note(answer.len());
                return Ok(answer);
            }
            if self.held.is_none() && self.pull.is_some() {
                self.wait().await;
            } else {
                self.step().await?;
            }
        }
    }
}

impl Pace {
    fn note(&mut self, events: usize) {
        self.events += events;
        let elapsed = self.since.elapsed();
        if elapsed >= PACE_WINDOW {
            let windows = elapsed.as_nanos() / PACE_WINDOW.as_nanos();
            self.busy = self.events as u128 >= COALESCE_PACE as u128 * windows;
            (self.since, self.events) = (self.since + elapsed, 0);
        }
    }
}

async fn take_step(
    link: Link,
    stream: Arc<str>,
    partition: u32,
    next_seq: u64,
    keys: KeyPaths,
    step: Step,
    pause: Duration,
) -> Result<Stepped, ReadFault> {
    sleep(pause).await;
    let on = link.clone();
    let taken = on.unless_lost(take_step_now(link, stream, partition, next_seq, keys, step)).await;
    taken.unwrap_or_else(|| Err(ReadFault::Unavailable(LOST.to_owned())))
}

async fn take_step_now(
    link: Link,
    stream: Arc<str>,
    partition: u32,
    next_seq: u64,
    keys: KeyPaths,
    step: Step,
) -> Result<Stepped, ReadFault> {
    let state = stream_state(&link.context, &stream).await?;
    let here = (state.first_seq..=state.last_seq.saturating_add(1)).contains(&next_seq);
    let found = match step {
        Step::Consume if here => {
            let pull = Pull::open(link, &stream, partition, next_seq, keys).await.map_err(ReadFault::Unavailable)?;
            Found::Pull(Box::new(pull))
        }
        Step::FetchOne if here => match read_from_leader(&link.context, &stream, &Wanted::from(next_seq)).await? {
            Some(message) => Found::Event(message),
            None => Found::Nothing,
        },
        _ => Found::Nothing,
    };
    Ok(Stepped { state, found })
}

/// A single message as an event.
pub(super) fn record(message: StoredMessage, keys: &KeyPaths) -> LogRecord {
    let key = message.key().filter(|key| !key.is_empty());
    let envelope = if key.is_none() { keys.note(&message) } else { None };
    LogRecord { seq: message.seq, stored: message.stored, key, payload: message.payload, scanned: None, envelope }
}
