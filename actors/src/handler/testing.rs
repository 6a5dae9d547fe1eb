//! A handler on trial: events in, features, rows and timers out. No engine, no server, no waiting: the clock is yours.
//!
//! Pure. What happens to an event here is what happens to it in the engine (`session::step`). Each key has two sessions: one
//! that stays in memory, and one that is evicted before every event, so its state is stored and read back. Three promises
//! that are easy to break are checked on the way: both sessions end alike, with the same rows, features and timers; storing
//! what was read back gives what was stored; and a rejected event leaves the state as it was.
//!
//! So a part of the state that is not stored (`#[serde(skip)]`) is found as soon as it makes a difference to be seen from
//! outside, and not before: nothing says that it should have been. A cache that changes no result may be skipped.
//!
//! For tests, so it panics where a test should fail.

use std::{
    collections::{BTreeMap, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use super::{
    ConfigError, Fault, Handler, LogicFactory, Registry, StateError, look_ups,
    row::{EmittedRow, Row, StoredRow},
    waiting::Waiting,
};
use crate::{
    answer,
    checkpoint::record::{self, VersionHead},
    event::{self, EventBatch, EventRef, KeyPaths},
    key::Key,
    ports::LogRecord,
    session::step::{Firing, Outcome, SessionCore, SideCounts},
    timestamp::Timestamp,
};

/// The clock's first time: 2026-01-01, a Thursday.
const BEGINNING: Timestamp = Timestamp(1_767_225_600_000_000);
const NAME: &str = "handler";
/// Timers that fire while the clock is set forward, at most: one that sets itself again and again fires without end.
const FIRED_MAX: usize = 100_000;

/// See the module.
pub struct HandlerTest {
    factory: Arc<dyn LogicFactory>,
    keys: KeyPaths,
    clock: Timestamp,
    seq: u64,
    sessions: BTreeMap<Key, Session>,
    rows: VecDeque<EmittedRow>,
    counts: SideCounts,
}

/// The two sessions of a key.
struct Session {
    /// In memory since its first event, or since the last fault that restarts a session.
    resident: SessionCore,
    /// What the other one left when it was evicted.
    stored: Bytes,
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

    /// Handler `H` must refuse `config`; answers with the reason.
    #[track_caller]
    pub fn refused<H: Handler>(config: serde_json::Value) -> String {
        let mut registry = Registry::default();
        registry.add::<H>(NAME);
        match registry.build(NAME, config, Arc::default()) {
            Err(ConfigError(reason)) => reason,
            Ok(_) => panic!("the handler takes this configuration"),
        }
    }

    /// The same for a handler that is already made.
    pub fn new(factory: Arc<dyn LogicFactory>, keys: KeyPaths) -> Self {
        let (sessions, rows, counts) = Default::default();
        Self { factory, keys, clock: BEGINNING, seq: 0, sessions, rows, counts }
    }

    /// The key `key` begins with this state, as a program with this `State::VERSION` has stored it; an error when it cannot be
    /// read.
    pub fn stored<S: Serialize>(&mut self, key: &str, version: u32, state: &S) -> Result<(), StateError> {
        let key = Key::new(key).map_err(|e| StateError(format!("the key: {e}")))?;
        let mut bytes = Vec::new();
        rmp_serde::encode::write_named(&mut bytes, state).map_err(|e| StateError(e.to_string()))?;
        let head = VersionHead {
            applied: self.seq,
            event_time: Timestamp::default(),
            handler: self.factory.name(),
            state_version: version,
            waiting: &Waiting::default(),
        };
        let features = |_: &mut Vec<u8>| {};
        let old = record::encode_version(head, std::iter::empty(), features, |out| out.extend_from_slice(&bytes));
        let resident = SessionCore::decode(&self.factory, &old)?;
        let stored = resident.encode(&self.factory)?;
        self.sessions.insert(key, Session { resident, stored });
        Ok(())
    }

    /// What the clock says: the time of events that do not say theirs in `collector_tstamp`.
    pub fn now(&self) -> Timestamp {
        self.clock
    }

    /// The time so long before the clock's, as an event says it in `collector_tstamp`: for events that come late.
    pub fn ago(&self, by: Duration) -> String {
        Timestamp(self.clock.0 - micros(by)).to_rfc3339()
    }

    /// Sets the clock forward to `time` and fires what is due by then, as an idle engine does.
    #[track_caller]
    pub fn advance_to(&mut self, time: Timestamp) {
        assert!(time >= self.clock, "the clock cannot go back from {} to {}", self.clock, time);
        let mut ticks = 0;
        while let Some((due, key)) = self.next_timer().filter(|(due, _)| *due <= time) {
            ticks += 1;
            assert!(ticks <= FIRED_MAX, "timers of {} fire without end", key.as_str());
            self.clock = self.clock.max(due); // when a ticker that is in time appends it
            self.seq += 1;
            let record = LogRecord {
                seq: self.seq,
                stored: self.clock,
                key: Some(Bytes::copy_from_slice(key.as_str().as_bytes())),
                payload: event::tick(due),
                scanned: None,
                envelope: None,
            };
            self.try_record(record).applied();
        }
        self.clock = time;
    }

    /// Sets the clock forward by this long.
    #[track_caller]
    pub fn advance(&mut self, by: Duration) {
        self.advance_to(Timestamp(self.clock.0 + micros(by)));
    }

    /// The next event, as JSON. It is stored at the clock's time, and happened then too unless it has a
    /// `collector_tstamp`, a text such as [`HandlerTest::ago`] makes. (One that cannot be read does not count, as in the
    /// engine.)
    #[track_caller]
    pub fn event(&mut self, event: serde_json::Value) -> Ended {
        self.json(&event.to_string())
    }

    /// The same from its text.
    #[track_caller]
    pub fn json(&mut self, event: &str) -> Ended {
        self.seq += 1;
        let payload = Bytes::copy_from_slice(event.as_bytes());
        self.try_record(LogRecord {
            seq: self.seq,
            stored: self.clock,
            key: None,
            payload,
            scanned: None,
            envelope: None,
        })
    }

    /// The features of `key`, an object; empty for a key without events.
    #[track_caller]
    pub fn features(&self, key: &str) -> serde_json::Value {
        let answer = self.sessions.get_key_value(key).map(|(key, session)| self.answer_of(&session.resident, key));
        answer.map_or_else(|| serde_json::json!({}), |mut answer| answer["features"].take())
    }

    /// The timers of `key`, by name, with the times they are due.
    pub fn timers(&self, key: &str) -> BTreeMap<String, Timestamp> {
        let session = self.sessions.get(key).into_iter();
        let timers = session.flat_map(|session| session.resident.waiting().timers.iter());
        timers.map(|(due, name)| (name.to_owned(), due)).collect()
    }

    /// How long after the clock's time timer `name` of `key` fires, if it is set; zero when it is due already and waits for
    /// the next event.
    pub fn due_in(&self, key: &str, name: &str) -> Option<Duration> {
        let due = self.sessions.get(key)?.resident.waiting().timers.due(name)?;
        Some(Duration::from_micros(u64::try_from(due.0 - self.clock.0).unwrap_or(0)))
    }

    /// How timers ended so far, over all keys.
    pub fn timer_counts(&self) -> SideCounts {
        self.counts
    }

    /// The questions of `key` that wait for an answer, as JSON by name.
    #[track_caller]
    pub fn questions(&self, key: &str) -> BTreeMap<String, serde_json::Value> {
        let session = self.sessions.get(key).into_iter();
        let asked = session.flat_map(|session| session.resident.waiting().look_ups.iter());
        let json = |question: &[u8]| serde_json::from_slice(question).expect("a question is JSON");
        asked.map(|look_up| (look_up.name.to_string(), json(&look_up.question))).collect()
    }

    /// Answers the question `name` of `key`, or says why there is no answer.
    #[track_caller]
    pub fn answer(&mut self, key: &str, name: &str, result: Result<serde_json::Value, &str>) -> Ended {
        let mut session = self.sessions.get(key).into_iter();
        let asked = session.find_map(|s| s.resident.waiting().look_ups.iter().find(|look_up| look_up.name == name));
        let Some(look_up) = asked else {
            panic!("{key:?} waits for no answer to {name:?}, but to {:?}", self.questions(key).into_keys())
        };
        let payload = look_ups::answer(look_up, result.map_err(str::to_owned));
        self.seq += 1;
        let key = Some(Bytes::copy_from_slice(key.as_bytes()));
        self.try_record(LogRecord { seq: self.seq, stored: self.clock, key, payload, scanned: None, envelope: None })
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
        self.take_rows(R::TABLE)
    }

    /// The same of table `table`, as JSON.
    #[track_caller]
    pub fn rows_as_json(&mut self, table: &str) -> Vec<serde_json::Value> {
        self.take_rows(table)
    }

    #[track_caller]
    fn take_rows<T: DeserializeOwned>(&mut self, table: &str) -> Vec<T> {
        let tables = self.factory.tables();
        let is_own = |row: &EmittedRow| tables[usize::from(row.table)].name == table;
        let (own, others) = std::mem::take(&mut self.rows).into_iter().partition::<VecDeque<_>, _>(is_own);
        self.rows = others;
        let read = |row: EmittedRow| {
            let stored = StoredRow::decode(&row.bytes).expect("what was emitted is a row");
            rmp_serde::from_slice(stored.fields)
                .unwrap_or_else(|e| panic!("a row of table {table:?} is not read back: {e}"))
        };
        own.into_iter().map(read).collect()
    }

    fn next_timer(&self) -> Option<(Timestamp, Key)> {
        let due = |(key, session): (&Key, &Session)| Some((session.resident.waiting().timers.next_due()?, key.clone()));
        self.sessions.iter().filter_map(due).min()
    }

    #[track_caller]
    fn encode(&self, core: &SessionCore) -> Bytes {
        core.encode(&self.factory).unwrap_or_else(|e| panic!("the state cannot be encoded: {e}"))
    }

    /// What was stored, read back.
    #[track_caller]
    fn decode(&self, stored: &Bytes) -> SessionCore {
        let core = SessionCore::decode(&self.factory, stored);
        let core = core.unwrap_or_else(|e| panic!("the state is not read back: {e}"));
        assert!(
            sorted(&self.encode(&core)) == sorted(stored),
            "a state that is stored, read and stored again has other bytes: it was not all stored, or not all read"
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
        let new = || SessionCore::new(&self.factory).unwrap_or_else(|e| panic!("no new state: {e}"));
        let session = self.sessions.remove(&key);
        let stored = session.as_ref().map(|session| session.stored.clone());
        let mut evicted = stored.as_ref().map_or_else(new, |stored| self.decode(stored));
        let mut resident = session.map_or_else(new, |session| session.resident);

        let (ended, rows, counts) = self.try_event(&mut evicted, event);
        let (same, same_rows, _) = self.try_event(&mut resident, event);
        assert_eq!(ended, same, "{NOT_STORED}");
        assert!(rows == same_rows, "{NOT_STORED}; {} and {} rows", rows.len(), same_rows.len());
        if matches!(ended, Ended::Retry(_) | Ended::Crashed(_) | Ended::Panicked(_)) {
            if let Some(stored) = stored {
                let resident = self.decode(&stored); // both start again
                self.sessions.insert(key, Session { resident, stored });
            }
            return ended;
        }
        if matches!(ended, Ended::Rejected(_)) {
            for core in [&mut evicted, &mut resident] {
                core.give_up(event); // as the engine does
            }
        }
        let stored = self.encode(&evicted);
        let evicted = self.decode(&stored);
        assert_eq!(self.answer_of(&evicted, &key), self.answer_of(&resident, &key), "{NOT_STORED}");
        assert_eq!(evicted.waiting(), resident.waiting(), "{NOT_STORED}");
        self.rows.extend(rows);
        self.counts.fired += counts.fired;
        self.counts.rejected += counts.rejected;
        self.sessions.insert(key, Session { resident, stored });
        ended
    }

    #[track_caller]
    fn answer_of(&self, core: &SessionCore, key: &Key) -> serde_json::Value {
        let json = core.answer(&*self.factory, key, 0).expect("the handler panics over its features");
        let json = answer::read(&json, self.factory.declared(), self.clock).expect("an answer");
        serde_json::from_slice(&json).expect("an answer is JSON")
    }

    #[track_caller]
    fn try_event(&self, core: &mut SessionCore, event: EventRef<'_>) -> (Ended, Vec<EmittedRow>, SideCounts) {
        let before = self.encode(core);
        let (mut rows, mut firing) = (Vec::new(), Firing::default());
        let applied = catch_unwind(AssertUnwindSafe(|| core.apply(event, &*self.factory, &mut rows, &mut firing)));
        let ended = match applied {
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                Ended::Panicked(text.unwrap_or_default())
            }
            Ok(Err(Fault::Crash(text))) => Ended::Crashed(text),
            Ok(Err(Fault::Retry(after))) => Ended::Retry(after),
            Ok(Err(Fault::Reject(reason))) => {
                // Timers that fired before it may have changed the state.
                assert!(
                    firing.counts != SideCounts::default() || self.encode(core) == before,
                    "the handler rejected an event after it had changed the state: {reason}"
                );
                Ended::Rejected(reason)
            }
            Ok(Ok(Outcome::Applied)) => Ended::Applied,
            Ok(Ok(Outcome::Duplicate)) => Ended::Duplicate,
        };
        (ended, rows, firing.counts)
    }
}

const NOT_STORED: &str = "a session that was evicted before this event and one that stayed in memory differ: a part of \
                          the state is not stored (#[serde(skip)]?), or the handler is not deterministic (the order of a \
                          HashMap?)";

fn micros(by: Duration) -> i64 {
    i64::try_from(by.as_micros()).expect("less than 292,000 years")
}

/// Bytes without their order: a `HashMap` comes back in another one, and that is no defect.
fn sorted(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.sort_unstable();
    bytes
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde::{Deserialize, Serialize};
    use serde_json::json;

    use super::*;
    use crate::handler::{Context, Features, State, row::EmittedTable};

    /// A handler that does right or wrong as its events say.
    struct Moody;

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Config {
        good: bool,
    }

    #[derive(Default, Serialize, Deserialize)]
    struct Sums {
        sum: i64,
        by_name: HashMap<String, i64>,
        fired: Vec<(String, Timestamp)>,
        #[serde(skip)]
        forgotten: i64,
        #[serde(skip_deserializing)]
        half: i64,
    }

    impl State for Sums {}

    #[derive(Deserialize)]
    #[serde(tag = "event", rename_all = "snake_case")]
    enum Order {
        Add {
            n: i64,
            name: Option<String>,
        },
        Refuse,
        RefuseTooLate,
        Forget,
        Halve,
        Panic,
        Retry,
        Crash,
        Remind {
            name: String,
            seconds: i64,
        },
        #[serde(other)]
        Other,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Added {
        n: i64,
        before: i64,
        at: Timestamp,
    }

    impl Row for Added {
        const TABLE: &'static str = "added";
        const TIMES: &'static [&'static str] = &["at"];
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Fired {
        name: String,
        late_by: i64,
    }

    impl Row for Fired {
        const TABLE: &'static str = "fired";
    }

    impl Handler for Moody {
        type Config = Config;
        type Event<'e> = Order;
        type State = Sums;

        fn new(config: Config) -> Result<Self, ConfigError> {
            if config.good { Ok(Self) } else { Err(ConfigError("not good".to_owned())) }
        }

        fn tables() -> Vec<EmittedTable> {
            vec![EmittedTable::of::<Added>(), EmittedTable::of::<Fired>()]
        }

        fn on_event(&self, sums: &mut Sums, order: Order, context: &mut Context<'_>) -> Result<(), Fault> {
            match order {
                Order::Add { n, name } => {
                    context.emit(&Added { n, before: sums.sum, at: context.event_time })?;
                    sums.sum += n;
                    *sums.by_name.entry(name.unwrap_or_default()).or_default() += n;
                }
                Order::Refuse => return Err(Fault::Reject("no".to_owned())),
                Order::RefuseTooLate => {
                    sums.sum += 1;
                    return Err(Fault::Reject("no".to_owned()));
                }
                Order::Forget => sums.forgotten += 1,
                Order::Halve => sums.half += 1,
                Order::Panic => panic!("on purpose"),
                Order::Retry => {
                    sums.sum += 1;
                    return Err(Fault::Retry(Duration::from_secs(2)));
                }
                Order::Crash => return Err(Fault::Crash("broken".to_owned())),
                Order::Remind { name, seconds } => {
                    let due = Timestamp(context.event_time.0 + seconds * 1_000_000);
                    context.set_timer(&name, due)?;
                }
                Order::Other => {}
            }
            Ok(())
        }

        fn on_timer(&self, sums: &mut Sums, timer: &str, context: &mut Context<'_>) -> Result<(), Fault> {
            if timer == "again" {
                return context.set_timer(timer, Timestamp(context.event_time.0 + 1));
            }
            if timer == "refused" {
                return Err(Fault::Reject("no".to_owned()));
            }
            context.emit(&Fired { name: timer.to_owned(), late_by: context.now.0 - context.event_time.0 })?;
            sums.fired.push((timer.to_owned(), context.event_time));
            Ok(())
        }

        fn features(&self, sums: &Sums, features: &mut Features<'_>) {
            features.set("sum", &sums.sum);
            features.set("names", &sums.by_name);
            features.set("fired", &sums.fired.iter().map(|(name, at)| format!("{name} {at}")).collect::<Vec<_>>());
            if sums.forgotten > 1 {
                features.set("forgotten", &sums.forgotten);
            }
        }
    }

    fn moody() -> HandlerTest {
        HandlerTest::of::<Moody>(json!({ "good": true }), &["user"])
    }

    fn message_of(work: impl FnOnce()) -> String {
        let panic = catch_unwind(AssertUnwindSafe(work)).expect_err("it must fail");
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
    }

    #[test]
    fn features_and_rows_are_those_of_the_events_of_a_key() {
        let mut test = moody();
        for i in 0..50 {
            test.event(json!({ "user": "u", "event": "add", "n": i, "name": i.to_string() })).applied();
        }
        assert_eq!((test.features("u")["sum"].clone(), test.features("v")), (json!(1225), json!({})));
        let rows = test.rows::<Added>();
        assert_eq!((rows.len(), &rows[2]), (50, &Added { n: 2, before: 1, at: test.now() }));
        assert_eq!(test.rows::<Added>(), [], "they were taken");
        test.event(json!({ "user": "v", "event": "looked_at_something" })).applied();
        assert_eq!(test.features("v")["sum"], 0);
    }

    #[test]
    fn what_cannot_be_applied_says_why() {
        let mut test = moody();
        assert_eq!(test.event(json!({ "user": "u", "event": "refuse" })).rejected(), "no");
        assert!(test.event(json!({ "user": "u", "event": "add" })).rejected().contains("missing field `n`"));
        assert!(test.json("{nope").rejected().starts_with("parse: "));
        assert!(test.event(json!({ "event": "add" })).rejected().starts_with("no_key: "));
        assert_eq!(HandlerTest::refused::<Moody>(json!({ "good": false })), "not good");
        assert!(HandlerTest::refused::<Moody>(json!({ "godo": true })).contains("unknown field `godo`"));
        let taken = message_of(|| drop(HandlerTest::refused::<Moody>(json!({ "good": true }))));
        assert!(taken.contains("takes this configuration"), "{taken}");
    }

    #[test]
    fn a_repeat_changes_nothing() {
        let mut test = moody();
        let add = json!({ "user": "u", "event": "add", "event_id": "e1", "n": 2 });
        test.event(add.clone()).applied();
        test.event(add).duplicate();
        test.event(json!({ "user": "other", "event": "add", "event_id": "e1", "n": 2 })).applied();
        assert_eq!((test.features("u")["sum"].clone(), test.rows::<Added>().len()), (json!(2), 2));
    }

    #[test]
    fn after_a_panic_or_another_fault_the_key_is_where_it_was() {
        let mut test = moody();
        assert_eq!(test.event(json!({ "user": "new", "event": "panic" })), Ended::Panicked("on purpose".to_owned()));
        assert_eq!(test.features("new"), json!({}));
        test.event(json!({ "user": "u", "event": "add", "n": 2 })).applied();
        for (event, ended) in [
            ("panic", Ended::Panicked("on purpose".to_owned())),
            ("retry", Ended::Retry(Duration::from_secs(2))),
            ("crash", Ended::Crashed("broken".to_owned())),
        ] {
            assert_eq!(test.event(json!({ "user": "u", "event": event })), ended);
        }
        test.event(json!({ "user": "u", "event": "add", "n": 2 })).applied();
        assert_eq!(test.features("u")["sum"], 4);
    }

    #[test]
    fn changing_the_state_before_a_rejection_is_found() {
        for first in [true, false] {
            let mut test = moody();
            if !first {
                test.event(json!({ "user": "u", "event": "add", "n": 2 })).applied();
            }
            let said = message_of(|| drop(test.event(json!({ "user": "u", "event": "refuse_too_late" }))));
            assert!(said.contains("after it had changed the state"), "{said}");
        }
    }

    #[test]
    fn what_is_not_stored_is_found_when_it_can_be_seen() {
        let mut test = moody();
        test.event(json!({ "user": "u", "event": "forget" })).applied(); // nobody can tell yet
        let said = message_of(|| drop(test.event(json!({ "user": "u", "event": "forget" }))));
        assert!(said.contains("not stored"), "{said}");

        let said = message_of(|| drop(moody().event(json!({ "user": "u", "event": "halve" }))));
        assert!(said.contains("not all stored, or not all read"), "{said}");
    }

    #[test]
    fn timers_fire_by_the_clock_and_before_the_first_event_of_their_time() {
        let mut test = moody();
        test.event(json!({ "user": "u", "event": "remind", "name": "tea", "seconds": 60 })).applied();
        test.event(json!({ "user": "v", "event": "remind", "name": "tea", "seconds": 30 })).applied();
        assert_eq!(test.due_in("u", "tea"), Some(Duration::from_secs(60)));
        test.advance(Duration::from_secs(59));
        assert_eq!((test.due_in("u", "tea"), test.due_in("v", "tea")), (Some(Duration::from_secs(1)), None));
        assert_eq!(test.features("v")["fired"], json!(["tea 2026-01-01T00:00:30.000000Z"]));
        test.advance(Duration::from_secs(1));
        assert_eq!(test.features("u")["fired"], json!(["tea 2026-01-01T00:01:00.000000Z"]));
        assert!(test.timers("u").is_empty());
        assert_eq!(test.rows::<Fired>().len(), 2);

        // An event of a later time than the clock's: its key's timers come first.
        test.event(json!({ "user": "u", "event": "remind", "name": "cake", "seconds": 3_600 })).applied();
        let later = Timestamp(test.now().0 + 7_200_000_000).to_rfc3339();
        test.event(json!({ "user": "u", "event": "add", "n": 1, "collector_tstamp": later })).applied();
        assert_eq!((test.rows_of::<Fired>().len(), test.rows::<Added>().len()), (1, 1));
        assert_eq!(test.features("u")["fired"][1], "cake 2026-01-01T01:01:00.000000Z");
        assert_eq!(test.timer_counts(), SideCounts { fired: 3, ..SideCounts::default() });
    }

    #[test]
    fn a_timer_fires_in_time_however_far_the_clock_is_set_forward() {
        let mut test = moody();
        test.event(json!({ "user": "u", "event": "remind", "name": "tea", "seconds": 60 })).applied();
        test.event(json!({ "user": "v", "event": "remind", "name": "tea", "seconds": 30 })).applied();
        test.advance(Duration::from_secs(3_600));
        assert_eq!(test.rows::<Fired>().iter().map(|row| row.late_by).collect::<Vec<_>>(), [0, 0]);
        assert_eq!(test.now(), Timestamp(BEGINNING.0 + 3_600_000_000));
    }

    #[test]
    fn a_timer_that_is_already_due_waits_for_the_clock_or_the_next_event() {
        let mut test = moody();
        test.advance(Duration::from_secs(600));
        let late = json!({ "user": "u", "event": "remind", "name": "tea", "seconds": 60,
                           "collector_tstamp": test.ago(Duration::from_secs(300)) });
        test.event(late).applied();
        assert_eq!(test.due_in("u", "tea"), Some(Duration::ZERO));
        assert_eq!(test.timers("u")["tea"].to_rfc3339(), "2026-01-01T00:06:00.000000Z");
        test.event(json!({ "user": "u", "event": "nothing" })).applied();
        assert_eq!(test.due_in("u", "tea"), None);
    }

    #[test]
    fn a_rejected_timer_is_given_up_and_one_without_end_is_found() {
        let mut test = moody();
        test.event(json!({ "user": "u", "event": "remind", "name": "refused", "seconds": 1 })).applied();
        test.advance(Duration::from_secs(1));
        assert_eq!(test.timer_counts(), SideCounts { rejected: 1, ..SideCounts::default() });
        assert!(test.timers("u").is_empty());
        test.event(json!({ "user": "u", "event": "remind", "name": "again", "seconds": 1 })).applied();
        let said = message_of(|| test.advance(Duration::from_secs(60)));
        assert!(said.contains("without end"), "{said}");
    }

    #[test]
    fn times_are_read_in_all_forms_and_the_clock_counts_without_one() {
        let mut test = moody();
        test.advance_to(Timestamp::parse("2026-01-02T00:00:00Z").expect("a time"));
        for tstamp in [
            json!("2026-01-01T12:00:00Z"),
            json!("2026-01-01T13:00:00+01:00"),
            json!("2026-01-01 12:00:00"),
            json!(1_767_268_800_000_i64),
            json!("1767268800000"),
            json!(test.ago(Duration::from_secs(12 * 3_600))),
        ] {
            test.event(json!({ "user": "u", "event": "add", "n": 1, "collector_tstamp": tstamp })).applied();
            assert_eq!(test.rows::<Added>()[0].at.to_rfc3339(), "2026-01-01T12:00:00.000000Z", "{tstamp}");
        }
        for tstamp in [json!(null), json!("noon"), json!("1970-01-01T00:00:00Z"), json!(test.now())] {
            test.event(json!({ "user": "u", "event": "add", "n": 1, "collector_tstamp": tstamp })).applied();
            assert_eq!(test.rows::<Added>()[0].at, test.now(), "{tstamp}");
        }
    }

    #[test]
    fn rows_of_several_tables_are_taken_one_by_one() {
        let mut test = moody();
        test.event(json!({ "user": "u", "event": "remind", "name": "tea", "seconds": 1 })).applied();
        test.event(json!({ "user": "u", "event": "add", "n": 1 })).applied();
        test.advance(Duration::from_secs(1));
        let said = message_of(|| drop(test.rows::<Fired>()));
        assert!(said.contains("a row of table \"added\""), "{said}");
        assert_eq!(test.rows_of::<Added>().len(), 1);
        assert_eq!(test.rows::<Fired>(), [Fired { name: "tea".to_owned(), late_by: 0 }]);
    }

    #[test]
    #[should_panic(expected = "the clock cannot go back")]
    fn the_clock_does_not_go_back() {
        let mut test = moody();
        test.advance(Duration::from_secs(1));
        test.advance_to(BEGINNING);
    }
}
