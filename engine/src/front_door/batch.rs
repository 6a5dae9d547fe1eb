//! One request's events to the log, and the answer when they are stored. The way in for every protocol.
//!
//! Not here: HTTP, see [`super::http`]; how a request becomes records, see `desk`.

use std::{collections::BTreeMap, mem, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use keyloom_actors::{
    complaints::Complaints,
    ports::{Log, LogError, NewRecord, Stored},
    timestamp::Clock,
};
use serde::{Deserialize, Serialize};

use super::{
    accept::Acceptor,
    admission::Admissions,
    decode::Encoding,
    desk::{Desk, Incoming, Prepared},
    gate::{Gate, Hold},
    ids::IdSource,
    observe,
    protocols::{Head, Wire, cookie::CollectorCookie, segment::Call},
    refusal::Refusal,
};

/// What is logged of a log that does not take events; `keyloom_ingest_requests_total` counts all that it fails.
static COMPLAINTS: Complaints = Complaints::new();

/// Longest wait for the log, after which the outcome is unknown to the client.
pub const APPEND_TIMEOUT: Duration = Duration::from_secs(10);
/// Body bytes of all requests being worked on.
pub const IN_FLIGHT_BYTES_MAX: usize = 64 << 20;
/// Most events of one request.
pub const EVENTS_MAX: usize = 10_000;
/// Largest request body, packed or unpacked.
pub const BODY_BYTES_MAX: usize = 16 << 20;
/// Longest wait for a request body to arrive.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Most rejections listed in one answer; the others are counted.
pub const REJECTED_LISTED_MAX: usize = 1_000;
/// Bodies above this are scanned on a blocking thread. A scan runs at a few hundred MB/s, so a body of this size holds up
/// the other connections of its worker for about 0.2 ms; handing it over costs about 0.02 ms.
const SCAN_INLINE_BYTES_MAX: usize = 64 << 10;
/// The same for bodies of other protocols: their events are written anew, which costs about four times as much per byte.
const DECODE_INLINE_BYTES_MAX: usize = SCAN_INLINE_BYTES_MAX / 4;
/// The same for batches, where what is said once may be written for each of many events.
const BATCH_INLINE_BYTES_MAX: usize = DECODE_INLINE_BYTES_MAX / 8;

/// What a request takes of the gate beside its body while it waits for the log.
pub const REQUEST_BYTES: usize = 1 << 10;

/// The front door's limits.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest request body in bytes, packed or unpacked.
    pub body_bytes_max: usize,
    /// Most events of one request.
    pub events_max: usize,
    /// Body bytes of all requests being worked on.
    pub in_flight_bytes_max: usize,
    /// Longest wait for the log.
    pub append_timeout: Duration,
    /// Longest wait for a request body to arrive.
    pub body_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes_max: BODY_BYTES_MAX,
            events_max: EVENTS_MAX,
            in_flight_bytes_max: IN_FLIGHT_BYTES_MAX,
            append_timeout: APPEND_TIMEOUT,
            body_timeout: BODY_TIMEOUT,
        }
    }
}

/// One event that was not stored.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Rejected {
    /// Which event of the request, from 0; blank lines are not counted.
    pub index: usize,
    /// `label: explanation`.
    pub reason: String,
}

/// What became of a request's events.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Answer {
    /// Events newly stored.
    pub accepted: u64,
    /// Events that were stored before, absorbed.
    pub duplicates: u64,
    /// Events that were not stored, at most [`REJECTED_LISTED_MAX`].
    pub rejected: Vec<Rejected>,
    /// Events that were not stored and are not listed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rejected_more: u64,
    /// Where its events are in the log: said to those who ask.
    #[serde(skip)]
    pub places: Places,
}

/// Where the events of a request are in the log, as far as the log knows.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Places {
    /// The last event.
    pub seq: Option<Place>,
    /// The highest sequence in each partition: what a reader of features passes on to see them all.
    pub min_seq: BTreeMap<u32, u64>,
}

/// A place in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Place {
    /// The partition.
    pub partition: u32,
    /// The sequence in it.
    pub seq: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Answer {
    /// Whether there were events and not one is in the log.
    pub fn is_all_rejected(&self) -> bool {
        self.accepted + self.duplicates == 0 && !self.rejected.is_empty()
    }

    /// `{"accepted":n,"duplicates":n,"rejected":[{"index":i,"reason":"..."}]}`
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("numbers and texts are always serialisable")
    }

    /// The same with `"seq":{"partition":p,"seq":n},"min_seq":{"p":n}`.
    pub fn to_json_with_places(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Whole<'a> {
            #[serde(flatten)]
            answer: &'a Answer,
            #[serde(flatten)]
            places: &'a Places,
        }
        let whole = Whole { answer: self, places: &self.places };
        serde_json::to_vec(&whole).expect("numbers and texts are always serialisable")
    }
}

/// Takes requests, answers when their events are stored.
pub struct FrontDoor {
    desk: Arc<Desk>,
    log: Arc<dyn Log>,
    gate: Gate,
    /// Half of the gate, for those who have not said who they are before their body is read.
    guests: Gate,
    limits: Limits,
    cookie: Option<CollectorCookie>,
}

impl FrontDoor {
    /// A front door to `log`. The log's own limit on events counts where it is the smaller one; at least two bodies of the
    /// largest size (one packed, one unpacked) always fit in flight.
    pub fn new(mut acceptor: Acceptor, log: Arc<dyn Log>, clock: Arc<dyn Clock>, limits: Limits) -> Self {
        acceptor.event_bytes_max = acceptor.event_bytes_max.min(log.event_bytes_max());
        let body_bytes_max = limits.body_bytes_max;
        let two_bodies = body_bytes_max.saturating_add(REQUEST_BYTES).saturating_mul(2);
        let bytes_max = limits.in_flight_bytes_max.max(two_bodies);
        let gate = Gate::new(bytes_max);
        Self {
            desk: Arc::new(Desk {
                acceptor,
                clock,
                ids: IdSource::new(),
                body_bytes_max,
                events_max: limits.events_max,
                admissions: Admissions::default(),
            }),
            log,
            guests: gate.with_share(two_bodies.max(bytes_max / 2)),
            gate,
            limits,
            cookie: Some(CollectorCookie::default()),
        }
    }

    /// Lets senders in by these rules, instead of everybody.
    #[must_use]
    pub fn with_admissions(mut self, admissions: Admissions) -> Self {
        let desk = Arc::get_mut(&mut self.desk).expect("nobody else has a door that was not opened yet");
        desk.admissions = admissions;
        self
    }

    /// With this cookie for Snowplow's trackers; `None`: sets none and reads none.
    pub fn with_cookie(self, cookie: Option<CollectorCookie>) -> Self {
        Self { cookie, ..self }
    }

    /// The cookie of Snowplow's trackers.
    pub fn cookie(&self) -> Option<&CollectorCookie> {
        self.cookie.as_ref()
    }

    /// The rules by which senders come in.
    pub fn admissions(&self) -> &Admissions {
        &self.desk.admissions
    }

    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The gate that bounds requests in flight: who reads a body from a network asks it first.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// The same for a request that only its body can say the sender of: those together get half of it, but two bodies of
    /// the largest size in any case.
    pub fn guests(&self) -> &Gate {
        &self.guests
    }

    /// Stores the events of `body` and answers when they are stored.
    pub async fn submit(&self, body: Bytes) -> Result<Answer, Refusal> {
        let hold = self.gate.enter(body.len())?;
        self.submit_request(Wire::Json, Head::default(), body, Encoding::Identity, hold).await
    }

    /// As [`FrontDoor::submit`], for events that are cut already, each one JSON object, and a request that says who sends it.
    pub async fn submit_events(&self, events: &[Bytes], head: Head) -> Result<Answer, Refusal> {
        if events.len() > self.limits.events_max {
            return Err(Refusal::TooMany(self.limits.events_max));
        }
        let bytes = events.iter().map(Bytes::len).sum();
        if bytes > self.limits.body_bytes_max {
            return Err(Refusal::TooLarge(self.limits.body_bytes_max));
        }
        let hold = self.gate.enter(bytes)?;
        let mut body = Vec::with_capacity(bytes);
        let mut places = Vec::with_capacity(events.len());
        for event in events {
            places.push(body.len()..body.len() + event.len());
            body.extend_from_slice(event);
        }
        self.submit_request(Wire::Cut(places), head, body.into(), Encoding::Identity, hold).await
    }

    /// As [`FrontDoor::submit`], for a request of any protocol whose body came in through the gate and may be packed.
    pub async fn submit_request(
        &self,
        wire: Wire,
        head: Head,
        body: Bytes,
        encoding: Encoding,
        hold: Hold,
    ) -> Result<Answer, Refusal> {
        let inline_max = match &wire {
            Wire::Json | Wire::Cut(_) => SCAN_INLINE_BYTES_MAX,
            Wire::Segment(Call::Batch) => BATCH_INLINE_BYTES_MAX,
            Wire::SnowplowBody if !head.query.is_empty() => BATCH_INLINE_BYTES_MAX,
            _ => DECODE_INLINE_BYTES_MAX,
        };
        let is_short = encoding == Encoding::Identity && body.len() + head.query.len() <= inline_max;
        let incoming = Incoming { wire, head, body, encoding, hold };
        let prepared = if is_short {
            self.desk.prepare(incoming)?
        } else {
            // Packed bodies always go there: how long unpacking takes is the sender's choice.
            let desk = Arc::clone(&self.desk);
            let task = tokio::task::spawn_blocking(move || desk.prepare(incoming));
            task.await.map_err(|error| Refusal::Internal(error.to_string()))??
        };
        let Prepared { partitions, last, mut answer, mut hold } = prepared;
        hold.grow(REQUEST_BYTES)?;
        // A task of its own, because the log keeps the events until it has them, however long we or the client care to wait:
        // as long they take room at the gate.
        let log = Arc::clone(&self.log);
        let storing = tokio::spawn(async move {
            let appends = partitions.into_iter().map(|(partition, records)| append(&*log, partition, records));
            let outcomes = join_all(appends).await;
            drop(hold);
            outcomes
        });
        let outcomes = tokio::time::timeout(self.limits.append_timeout, storing).await;
        let outcomes = outcomes.map_err(|_| {
            let seconds = self.limits.append_timeout.as_secs();
            if let Some(left_out) = COMPLAINTS.due_now("late") {
                tracing::warn!(seconds, left_out, "the log did not answer the front door in time");
            }
            Refusal::Unavailable(format!("no answer within {seconds} s"))
        })?;
        let outcomes = outcomes.map_err(|error| Refusal::Internal(error.to_string()))?;
        for outcome in outcomes {
            let Appended { partition, accepted, duplicates, last: stored, highest } = outcome?;
            answer.accepted += accepted;
            answer.duplicates += duplicates;
            answer.places.min_seq.extend(highest.map(|seq| (partition, seq)));
            if last == Some(partition) {
                answer.places.seq = stored.map(|seq| Place { partition, seq });
            }
        }
        Ok(answer)
    }
}

async fn append(log: &dyn Log, partition: u32, records: Vec<NewRecord>) -> Result<Appended, Refusal> {
    let sent = records.len();
    let stored = log.append(partition, records).await.map_err(|error| {
        if let Some(left_out) = COMPLAINTS.due_now(mem::discriminant(&error)) {
            tracing::warn!(partition, %error, left_out, "the log did not take events");
        }
        match error {
            LogError::TooLarge { limit, .. } => Refusal::TooLargeForLog(limit),
            LogError::Unavailable(problem) => Refusal::Unavailable(problem),
            other => Refusal::Unavailable(other.to_string()),
        }
    })?;
    if stored.len() != sent {
        if let Some(left_out) = COMPLAINTS.due_now("number") {
            let answered = stored.len();
            tracing::error!(partition, sent, answered, left_out, "the log answered for another number of events");
        }
        return Err(Refusal::Unavailable(format!("{sent} events were sent, {} confirmed", stored.len())));
    }
    let accepted = stored.iter().filter(|s| matches!(s, Stored::New(_))).count() as u64;
    let duplicates = sent as u64 - accepted;
    observe::stored(partition, accepted, duplicates);
    let place = |stored: &Stored| match stored {
        Stored::New(seq) => Some(*seq),
        Stored::Duplicate(seq) => *seq,
    };
    let (last, highest) = (stored.last().and_then(place), stored.iter().filter_map(place).max());
    Ok(Appended { partition, accepted, duplicates, last, highest })
}

/// What became of a request's events in one partition.
struct Appended {
    partition: u32,
    accepted: u64,
    duplicates: u64,
    /// Where the last of them is, and the highest sequence of all, as far as the log knows.
    last: Option<u64>,
    highest: Option<u64>,
}

#[cfg(test)]
mod tests {
    use keyloom_actors::{event::KeyPaths, timestamp::SystemClock};

    use super::*;
    use crate::front_door::test_log::MemoryLog;

    fn door(log: &Arc<MemoryLog>, limits: Limits) -> FrontDoor {
        let acceptor = Acceptor { keys: KeyPaths::new(["k"]), partitions: 3, event_bytes_max: 100_000 };
        FrontDoor::new(acceptor, Arc::<MemoryLog>::clone(log), Arc::new(SystemClock), limits)
    }

    #[tokio::test]
    async fn each_partition_gets_its_events_in_order() {
        let log = Arc::new(MemoryLog::default());
        let door = door(&log, Limits::default());
        let lines: Vec<String> =
            (0..3_000).map(|i| format!(r#"{{"k":"u{}","event_id":"e{i}","collector_tstamp":1}}"#, i % 40)).collect();
        let body = Bytes::from(lines.join("\n"));
        assert!(body.len() > SCAN_INLINE_BYTES_MAX);
        let answer = door.submit(body.clone()).await.expect("stored");
        assert_eq!((answer.accepted, answer.duplicates, answer.rejected.len()), (3_000, 0, 0));
        let stored = log.records();
        assert_eq!(stored.len(), 3, "forty keys spread over all three partitions");
        for (partition, records) in &stored {
            let expected = lines.iter().filter(|l| {
                let key = l.split('"').nth(3).expect("a key");
                keyloom_actors::key::partition_of(key.as_bytes(), 3) == *partition
            });
            assert!(expected.map(String::as_bytes).eq(records.iter().map(|r| &r.payload[..])));
        }
        let last = lines.last().and_then(|l| l.split('"').nth(3)).expect("a key");
        let last = keyloom_actors::key::partition_of(last.as_bytes(), 3);
        let seq = stored[&last].len() as u64;
        assert_eq!(answer.places.seq, Some(Place { partition: last, seq }));
        let highest: Vec<_> = stored.iter().map(|(partition, records)| (*partition, records.len() as u64)).collect();
        assert_eq!(answer.places.min_seq.into_iter().collect::<Vec<_>>(), highest);
        let again = door.submit(body).await.expect("absorbed");
        assert_eq!((again.accepted, again.duplicates), (0, 3_000));
        assert_eq!(door.gate().in_flight(), 0);
    }

    #[tokio::test]
    async fn events_that_are_cut_already_come_in_as_they_are() {
        let log = Arc::new(MemoryLog::default());
        let limits = Limits { events_max: 3, body_bytes_max: 100, ..Limits::default() };
        let door = door(&log, limits);
        let events = |texts: &[&str]| texts.iter().map(|t| Bytes::copy_from_slice(t.as_bytes())).collect::<Vec<_>>();
        let sound = r#"{"k":"u","event_id":"1","collector_tstamp":"2026-11-20T12:00:00Z"}"#;
        let answer = door.submit_events(&events(&[sound, "[{}]", "{}"]), Head::default()).await.expect("one is good");
        let indexes: Vec<_> = answer.rejected.iter().map(|rejected| rejected.index).collect();
        assert_eq!((answer.accepted, indexes), (1, vec![1, 2]));
        let stored: Vec<_> = log.records().into_values().flatten().map(|record| record.payload).collect();
        assert_eq!(stored, [sound]);
        let refusal = |texts: Vec<Bytes>| {
            let door = &door;
            async move { door.submit_events(&texts, Head::default()).await }
        };
        assert_eq!(refusal(events(&["{}"; 4])).await, Err(Refusal::TooMany(3)));
        assert_eq!(refusal(events(&[&"x".repeat(101)])).await, Err(Refusal::TooLarge(100)));
        assert_eq!(refusal(Vec::new()).await, Err(Refusal::Empty));
    }

    #[tokio::test]
    async fn rejections_are_listed_up_to_a_limit_and_then_counted() {
        let log = Arc::new(MemoryLog::default());
        let body = format!("[{}{{\"k\":\"u\"}}]", "7,".repeat(1_500));
        let answer = door(&log, Limits::default()).submit(body.into()).await.expect("one is good");
        assert_eq!((answer.accepted, answer.rejected.len(), answer.rejected_more), (1, 1_000, 500));
        assert!(answer.to_json().ends_with(br#"],"rejected_more":500}"#));
        let exact = Answer { rejected: vec![Rejected { index: 3, reason: "x: y".into() }], ..Answer::default() };
        let text = r#"{"accepted":0,"duplicates":0,"rejected":[{"index":3,"reason":"x: y"}]}"#;
        assert_eq!(std::str::from_utf8(&exact.to_json()), Ok(text));
    }

    #[tokio::test]
    async fn an_event_too_large_for_the_log_does_not_say_that_nothing_was_stored() {
        let log = Arc::new(MemoryLog::default());
        let door = door(&log, Limits::default());
        log.fail_next(LogError::TooLarge { bytes: 10, limit: 9 });
        let lines: Vec<_> = (0..40).map(|i| format!(r#"{{"k":"u{i}"}}"#)).collect();
        let refusal = door.submit(lines.join("\n").into()).await.expect_err("one is too large");
        assert_eq!((&refusal, refusal.code()), (&Refusal::TooLargeForLog(9), 413));
        assert!(refusal.hint().contains("may be stored") && !log.records().is_empty(), "{}", refusal.hint());
    }

    #[tokio::test]
    async fn a_log_that_fails_or_hangs_leaves_the_outcome_unknown() {
        let log = Arc::new(MemoryLog::default());
        let limits = Limits { append_timeout: Duration::from_millis(20), ..Limits::default() };
        let door = door(&log, limits);
        log.fail_next(LogError::Unavailable("gone".into()));
        let event = Bytes::from_static(br#"{"k":"u"}"#);
        assert_eq!(door.submit(event.clone()).await, Err(Refusal::Unavailable("gone".into())));
        let closed = log.close();
        let hung = door.submit(event.clone()).await.expect_err("hangs");
        assert!(matches!(hung, Refusal::Unavailable(_)) && hung.hint().contains("same event ids"));
        assert_eq!(door.gate().in_flight(), event.len() + REQUEST_BYTES, "the log may have its events still");
        drop(closed);
        assert_eq!(door.submit(event).await.expect("works again").accepted, 1);
        let left = async {
            while door.gate().in_flight() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), left).await.expect("what hung has ended, too");
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_that_hangs_is_given_no_more_than_fits() {
        let log = Arc::new(MemoryLog::default());
        let limits = Limits { in_flight_bytes_max: 20 * REQUEST_BYTES, body_bytes_max: 1_000, ..Limits::default() };
        let door = door(&log, limits);
        let closed = log.close();
        let mut refused = 0;
        for _ in 0..40 {
            // Its client goes before there is an answer.
            let wait = tokio::time::timeout(Duration::from_secs(1), door.submit(Bytes::from_static(br#"{"k":"u"}"#)));
            refused += usize::from(matches!(wait.await, Ok(Err(Refusal::Busy))));
        }
        assert_eq!(refused, 40 - 19, "nothing that the log may still have is forgotten");
        drop(closed);
    }
}
