//! A handler on trial: events in, features, rows and timers out. No engine, no server, no waiting: the clock is yours.
//!
//! Pure. What happens to an event here is what happens to it in the engine (`session_core`), and three promises that are easy
//! to break are checked on the way: after every event the state is encoded and read back, as if its session had been evicted;
//! encoding what was read gives the same bytes; and a rejected event leaves the state as it was.
//!
//! For tests, so it panics where a test should fail.

use std::{
    collections::{BTreeMap, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;

use crate::{
    event::{self, EventBatch, KeyPaths},
    handler::{Fault, Handler, LogicFactory, Registry},
    key::Key,
    look_ups,
    ports::LogRecord,
    row::{EmittedRow, Row, StoredRow},
    session_core::{Firing, Outcome, SessionCore},
    timestamp::Timestamp,
};

/// The clock's first time: 2026-01-01, a Thursday.
const BEGINNING: Timestamp = Timestamp(1_767_225_600_000_000);
const NAME: &str = "handler";

/// See the module.
pub struct HandlerTest {
    factory: Arc<dyn LogicFactory>,
    keys: KeyPaths,
    clock: Timestamp,
    seq: u64,
    states: BTreeMap<Key, Bytes>,
    rows: VecDeque<EmittedRow>,
}

/// How an event ended.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "say what you expect: .applied(), .rejected(), ..."]
pub enum Ended {
    /// It changed the state.
    Applied,
    /// Its `event_id` was seen before.
    Duplicate,
    /// The handler rejected it, or it cannot be processed at all: the reason.
    Rejected(String),
    /// The handler wants to try again after this long.
    Retry(Duration),
    /// The handler says that its session is broken.
    Crashed(String),
    /// The handler panicked.
    Panicked(String),
}

impl Ended {
    /// It must have changed the state.
    #[track_caller]
    pub fn applied(self) {
        assert_eq!(self, Self::Applied);
    }

    /// It must have been a repeat.
    #[track_caller]
    pub fn duplicate(self) {
        assert_eq!(self, Self::Duplicate);
    }

    /// It must have been rejected; answers with the reason.
    #[track_caller]
    pub fn rejected(self) -> String {
        match self {
            Self::Rejected(reason) => reason,
            other => panic!("expected a rejected event, got {other:?}"),
        }
    }
}

impl HandlerTest {
    /// Tries handler `H` with `config`, its section of the topology; events belong to the first of `key` that they have.
    #[track_caller]
    pub fn of<H: Handler>(config: serde_json::Value, key: &[&str]) -> Self {
        let mut registry = Registry::default();
        registry.add::<H>(NAME);
        let factory =
            registry.build(NAME, config, Arc::default()).unwrap_or_else(|error| panic!("the configuration: {error}"));
        Self::new(factory, KeyPaths::new(key))
    }

    /// The same for a handler that is already made.
    pub fn new(factory: Arc<dyn LogicFactory>, keys: KeyPaths) -> Self {
        Self { factory, keys, clock: BEGINNING, seq: 0, states: BTreeMap::new(), rows: VecDeque::new() }
    }

    /// What the clock says: the time of events that do not say theirs in `collector_tstamp`.
    pub fn now(&self) -> Timestamp {
        self.clock
    }

    /// Sets the clock forward to `time` and fires what is due by then, as an idle engine does.
    #[track_caller]
    pub fn advance_to(&mut self, time: Timestamp) {
        assert!(time >= self.clock, "the clock cannot go back from {} to {}", self.clock, time);
        self.clock = time;
        while let Some((due, key)) = self.next_timer().filter(|(due, _)| *due <= time) {
            self.seq += 1;
            let record = LogRecord {
                seq: self.seq,
                stored: self.clock,
                key: Some(Bytes::copy_from_slice(key.as_str().as_bytes())),
                payload: event::tick(due),
                scanned: None,
            };
            self.try_record(record).applied();
        }
    }

    /// Sets the clock forward by this long.
    #[track_caller]
    pub fn advance(&mut self, by: Duration) {
        self.advance_to(Timestamp(self.clock.0 + by.as_micros() as i64));
    }

    /// The next event, as JSON.
    #[track_caller]
    pub fn event(&mut self, event: serde_json::Value) -> Ended {
        self.json(&event.to_string())
    }

    /// The same from its text.
    #[track_caller]
    pub fn json(&mut self, event: &str) -> Ended {
        self.seq += 1;
        let payload = Bytes::copy_from_slice(event.as_bytes());
        self.try_record(LogRecord { seq: self.seq, stored: self.clock, key: None, payload, scanned: None })
    }

    /// The features of `key`, an object; empty for a key without events.
    #[track_caller]
    pub fn features(&self, key: &str) -> serde_json::Value {
        let answer = self.core(key).map(|core| {
            let key = Key::new(key).expect("it has a state");
            core.answer(&*self.factory, &key, 0).expect("the handler panics over its features")
        });
        let answer = answer.map(|json| serde_json::from_slice::<serde_json::Value>(&json).expect("an answer is JSON"));
        answer.map_or_else(|| serde_json::json!({}), |mut answer| answer["features"].take())
    }

    /// The timers of `key`, by name.
    #[track_caller]
    pub fn timers(&self, key: &str) -> BTreeMap<String, Timestamp> {
        let core = self.core(key);
        core.iter().flat_map(|core| core.waiting().timers.iter()).map(|(due, name)| (name.to_owned(), due)).collect()
    }

    /// The questions of `key` that wait for an answer, as JSON by name.
    #[track_caller]
    pub fn questions(&self, key: &str) -> BTreeMap<String, serde_json::Value> {
        let core = self.core(key);
        let asked = core.iter().flat_map(|core| core.waiting().look_ups.iter());
        let json = |question: &[u8]| serde_json::from_slice(question).expect("a question is JSON");
        asked.map(|look_up| (look_up.name.to_string(), json(&look_up.question))).collect()
    }

    /// Answers the question `name` of `key`, or says why there is no answer.
    #[track_caller]
    pub fn answer(&mut self, key: &str, name: &str, result: Result<serde_json::Value, &str>) -> Ended {
        let core = self.core(key);
        let mut asked = core.iter().flat_map(|core| core.waiting().look_ups.iter());
        let Some(look_up) = asked.find(|look_up| look_up.name == name) else {
            panic!("{key:?} waits for no answer to {name:?}, but to {:?}", self.questions(key).into_keys())
        };
        let payload = look_ups::answer(look_up, result.map_err(str::to_owned));
        self.seq += 1;
        let key = Some(Bytes::copy_from_slice(key.as_bytes()));
        self.try_record(LogRecord { seq: self.seq, stored: self.clock, key, payload, scanned: None })
    }

    /// Takes the rows that were emitted since this was last asked; all of them must be of table `R`.
    #[track_caller]
    pub fn rows<R: Row>(&mut self) -> Vec<R> {
        let table = |row: &EmittedRow| self.factory.tables()[usize::from(row.table)].name;
        if let Some(other) = self.rows.iter().map(table).find(|name| *name != R::TABLE) {
            panic!("a row of table {other:?} was emitted too; take those first, with rows_of");
        }
        self.rows_of::<R>()
    }

    /// Takes the rows of table `R` that were emitted since this was last asked.
    #[track_caller]
    pub fn rows_of<R: Row>(&mut self) -> Vec<R> {
        let tables = self.factory.tables();
        let (own, others) = std::mem::take(&mut self.rows)
            .into_iter()
            .partition::<VecDeque<_>, _>(|row| tables[usize::from(row.table)].name == R::TABLE);
        self.rows = others;
        let read = |row: EmittedRow| {
            let stored = StoredRow::decode(&row.bytes).expect("what was emitted is a row");
            rmp_serde::from_slice(stored.fields)
                .unwrap_or_else(|e| panic!("a row of {:?} is not read back: {e}", R::TABLE))
        };
        own.into_iter().map(read).collect()
    }

    fn next_timer(&self) -> Option<(Timestamp, Key)> {
        let due = |(key, state): (&Key, &Bytes)| crate::record::next_due_of(state).map(|due| (due, key.clone()));
        let timers = self.states.iter().filter(|(key, _)| !self.timers(key.as_str()).is_empty());
        timers.filter_map(due).min()
    }

    #[track_caller]
    fn core(&self, key: &str) -> Option<SessionCore> {
        self.states.get(key).map(|state| self.decode(state))
    }

    #[track_caller]
    fn decode(&self, state: &Bytes) -> SessionCore {
        let core =
            SessionCore::decode(&self.factory, state).unwrap_or_else(|e| panic!("the state is not read back: {e}"));
        let again = core.encode(&self.factory).unwrap_or_else(|e| panic!("the state cannot be encoded: {e}"));
        assert!(
            again == *state,
            "a state that is stored, read and stored again has other bytes: it was not all stored"
        );
        core
    }

    #[track_caller]
    fn try_record(&mut self, record: LogRecord) -> Ended {
        let batch = EventBatch::decode(0, vec![record], &self.keys, None);
        let event = batch.get(0);
        if let Some(refused) = &event.event().refused {
            return Ended::Rejected(format!("{}: {}", refused.reason.label(), refused.text));
        }
        let key = Key::new(event.key_str()).expect("it was checked");
        let before = self.states.get(&key).cloned();
        let mut core = match &before {
            Some(state) => self.decode(state),
            None => SessionCore::new(&self.factory).unwrap_or_else(|e| panic!("no new state: {e}")),
        };
        let rejected_is = if before.is_some() { before } else { core.encode(&self.factory).ok() };
        let (mut rows, mut firing) = (Vec::new(), Firing::default());
        let applied = catch_unwind(AssertUnwindSafe(|| core.apply(event, &*self.factory, &mut rows, &mut firing)));
        let ended = match applied {
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                return Ended::Panicked(text.unwrap_or_default());
            }
            Ok(Err(Fault::Crash(text))) => return Ended::Crashed(text),
            Ok(Err(Fault::Retry(after))) => return Ended::Retry(after),
            Ok(Ok(Outcome::Applied)) => Ended::Applied,
            Ok(Ok(Outcome::Duplicate)) => Ended::Duplicate,
            Ok(Err(Fault::Reject(reason))) => Ended::Rejected(reason),
        };
        let state = core.encode(&self.factory).unwrap_or_else(|e| panic!("the state cannot be encoded: {e}"));
        if matches!(ended, Ended::Rejected(_)) && firing.counts == Default::default() {
            assert!(
                rejected_is.as_ref() == Some(&state),
                "the handler rejected an event after it had changed the state"
            );
        }
        if matches!(ended, Ended::Rejected(_)) {
            core.give_up(event);
        }
        let state = core.encode(&self.factory).unwrap_or(state);
        self.rows.extend(rows);
        self.decode(&state);
        self.states.insert(key, state);
        ended
    }
}
