//! The handler API: what a developer writes to say what happens per key.
//!
//! One struct, one trait, no macro. A handler is one value for all keys; what belongs to a key is its `State`. It runs
//! synchronously, event by event, in the order of the log.

pub mod look_ups;
pub mod recent_texts;
pub mod row;
pub mod session_features;
pub mod testing;
pub mod timers;
pub mod waiting;

use std::{cmp::Ordering, collections::BTreeMap, panic::RefUnwindSafe, pin::Pin, sync::Arc, time::Duration};

use serde::{Serialize, de::DeserializeOwned};

use self::{
    look_ups::LookUp,
    row::{EmittedTable, Emitter, Row},
    waiting::Changing,
};
use crate::{
    event::{EventRef, FromEvent},
    features::{FeatureSet, FeatureState, Value},
    session::step::SessionCore,
    timestamp::Timestamp,
};

/// Logic for one kind of key.
pub trait Handler: Send + Sync + RefUnwindSafe + Sized + 'static {
    /// The section `[handler.NAME]` of the topology. Use `#[serde(deny_unknown_fields)]`, so that typing errors are found.
    type Config: DeserializeOwned;
    /// What [`Handler::on_event`] gets: [`EventRef`], which costs nothing and reads fields as they are asked for, or a type
    /// of yours that serde reads from the event's JSON. An event that does not fit is rejected.
    type Event<'e>: FromEvent<'e>;
    /// What is remembered per key.
    type State: State;

    /// Makes the handler; an error is shown by `keyloom check` at the handler's section.
    fn new(config: Self::Config) -> Result<Self, ConfigError>;

    /// Applies one event. On an error the event has no effect: what it emitted is gone; after [`Fault::Reject`] the state
    /// must be as it was, so validate before you change it, and emit before too: a row that is too large rejects the event.
    /// After the other faults the engine restores it.
    fn on_event(&self, state: &mut Self::State, event: Self::Event<'_>, context: &mut Context<'_>)
    -> Result<(), Fault>;

    /// A timer that [`Context::set_timer`] set is due. It fires once in effect, before the key's first event of its time or
    /// later; `context` is of that place in the log, except that `event_time` is the timer's own time. After
    /// [`Fault::Reject`] the timer is given up and the event it came before goes on; the other faults are faults of that
    /// event.
    fn on_timer(&self, state: &mut Self::State, timer: &str, context: &mut Context<'_>) -> Result<(), Fault> {
        let (_, _, _) = (state, timer, context);
        Ok(())
    }

    /// Answers a question that [`Context::look_up`] asked: here a handler may wait for a service or a database. It runs beside
    /// the session, possibly more than once for one question (a restart asks again); the first answer that the log has
    /// counts, and a replay asks nobody. `question` is JSON. An error, a panic and no answer in time become
    /// [`Answer::result`].
    fn answer(
        &self,
        key: &str,
        name: &str,
        question: &str,
    ) -> impl Future<Output = Result<serde_json::Value, String>> + Send {
        let (_, _, _) = (key, name, question);
        async { Err("this handler answers no questions: it does not implement `answer`".to_owned()) }
    }

    /// The answer to a question has come. Faults are those of any event; one that ends as a dead letter closes its question.
    fn on_answer(&self, state: &mut Self::State, answer: Answer<'_>, context: &mut Context<'_>) -> Result<(), Fault> {
        let (_, _, _) = (state, answer, context);
        Ok(())
    }

    /// Says the key's features. Called when features are published, not once per event.
    fn features(&self, state: &Self::State, features: &mut Features<'_>);

    /// The tables that [`Context::emit`] is used with: `vec![EmittedTable::of::<MyRow>()]`.
    fn tables() -> Vec<EmittedTable> {
        Vec::new()
    }
}

/// What a session remembers for its key.
pub trait State: Default + Serialize + DeserializeOwned + Send + 'static {
    /// Version of the layout. Raise it when old bytes no longer mean the same, and write [`State::upgrade`]. Fields added
    /// with `#[serde(default)]` need no new version: state is stored with its field names.
    const VERSION: u32 = 1;

    /// Reads the bytes of an older version, with [`read_old`]. That of a newer one, after a rollback, is refused before.
    fn upgrade(from: u32, _bytes: &[u8]) -> Result<Self, StateError> {
        Err(StateError(format!("no upgrade from version {from} to {}", Self::VERSION)))
    }
}

/// The state that an older program has stored, as the type that it was then: for [`State::upgrade`]. Only the fields that still
/// matter need to be in `T`.
pub fn read_old<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, StateError> {
    rmp_serde::from_slice(bytes).map_err(|e| StateError(e.to_string()))
}

/// What a handler may know beside the event, and what it can do beside changing the state. What it does takes effect if
/// the event succeeds, together with the state; else not at all.
#[derive(Debug)]
pub struct Context<'a> {
    /// The key.
    pub key: &'a str,
    /// The event's sequence in the log of its partition.
    pub seq: u64,
    /// Event time; of a timer, the time it was set to.
    pub event_time: Timestamp,
    /// When the log stored the event: the same on every replay, unlike a clock.
    pub now: Timestamp,
    pub(crate) emitter: Emitter<'a>,
    /// For what is due at this place: see [`crate::handler::look_ups::LookUp::time`].
    pub(crate) place_time: Timestamp,
    pub(crate) declared: Option<(&'a FeatureSet, &'a FeatureState)>,
    pub(crate) waiting: &'a mut Changing,
}

/// What came of a question.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    /// Name of the look-up.
    pub name: &'a str,
    /// The question, as JSON.
    pub question: &'a str,
    /// The answer as JSON, or why there is none.
    pub result: Result<&'a str, &'a str>,
}

impl Answer<'_> {
    /// The answer as a type of yours; one that does not fit is rejected. `Ok(Err(why))` when there is none.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<Result<T, &str>, Fault> {
        match self.result {
            Ok(json) => serde_json::from_str(json).map(Ok).map_err(|e| Fault::Reject(format!("the answer: {e}"))),
            Err(why) => Ok(Err(why)),
        }
    }
}

impl<'a> Context<'a> {
    /// At the place of `event` in the log.
    pub(crate) fn new(event: EventRef<'a>, emitter: Emitter<'a>, waiting: &'a mut Changing) -> Self {
        let e = event.event();
        let (seq, event_time, now) = (e.seq, e.time, e.stored);
        Self { key: event.key_str(), seq, event_time, now, emitter, place_time: e.time, declared: None, waiting }
    }

    /// Emits a row to the table of its type: exactly once if the event succeeds, else not at all. An error means that the
    /// row is too large (the event is rejected), or that the handler is not as it should be; pass it on with `?`.
    pub fn emit<R: Row>(&mut self, row: &R) -> Result<(), Fault> {
        self.emitter.emit(row)
    }

    /// The declared feature `name` as it was before this event: what a model would have been told. `None` when the topology
    /// declares no such feature.
    pub fn feature(&self, name: &str) -> Option<Value> {
        let (set, state) = self.declared?;
        state.value(set, name, self.event_time)
    }

    /// Sets timer `name` of this key to event time `due`, or moves it there. It fires once: before the key's first event of
    /// that time or later, and without one, soon after the partition's clock has passed it (the highest event time so
    /// far, of each event not later than it was stored, or the wall clock while nothing comes). One that is already due fires before the key's next event. At most
    /// [`crate::handler::timers::TIMERS_MAX`] per key.
    pub fn set_timer(&mut self, name: &str, due: Timestamp) -> Result<(), Fault> {
        self.waiting.change(|waiting| waiting.timers.set(name, due))
    }

    /// Removes timer `name`; true when it was set.
    pub fn cancel_timer(&mut self, name: &str) -> bool {
        self.waiting.change(|waiting| Ok(waiting.timers.cancel(name))).unwrap_or(false)
    }

    /// When timer `name` is due, if it is set.
    pub fn timer(&self, name: &str) -> Option<Timestamp> {
        self.waiting.now().timers.due(name)
    }

    /// Asks the world outside: [`Handler::answer`] is called with `question` once this event has succeeded, and
    /// [`Handler::on_answer`] with what it says, or with a failure after `timeout`. The key's other events go on meanwhile.
    /// One question of each `name`: asking again forgets the one before, for which [`Handler::on_answer`] is not called; so each
    /// question that must be answered needs a name of its own. At most [`crate::handler::look_ups::LOOK_UPS_MAX`] per key.
    pub fn look_up<Q: Serialize + ?Sized>(&mut self, name: &str, question: &Q, timeout: Duration) -> Result<(), Fault> {
        let question = serde_json::to_vec(question)
            .map_err(|e| Fault::Crash(format!("the question of look-up {name:?} cannot be encoded: {e}")))?;
        let look_up = LookUp {
            name: name.into(),
            asked: self.seq,
            time: self.place_time,
            timeout: Duration::from_millis(timeout.as_millis().min(u128::from(u32::MAX)) as u64),
            question: question.into(),
        };
        self.waiting.change(|waiting| waiting.look_ups.add(look_up))
    }
}

/// Why an event could not be applied.
#[derive(Debug)]
pub enum Fault {
    /// The event is bad: dead-letter it now and go on.
    Reject(String),
    /// Not now: try again after this long, keeping the key's later events behind it. Counts as an attempt.
    Retry(Duration),
    /// The session is broken: restart it from its last state and try again. Counts as an attempt.
    Crash(String),
}

/// A handler's configuration makes no sense; the text says why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// Stored state cannot be read; the text says why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StateError(pub String);

/// Where a handler writes features. Names keep the order they are set in.
pub struct Features<'a> {
    out: &'a mut Vec<u8>,
    any: bool,
}

impl<'a> Features<'a> {
    /// Appends members of a JSON object to `out`.
    pub fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out, any: false }
    }

    /// The same behind members that are already there.
    pub fn behind(out: &'a mut Vec<u8>) -> Self {
        let any = !matches!(out.last(), None | Some(b'{'));
        Self { out, any }
    }

    /// How many bytes are written.
    pub fn place(&self) -> usize {
        self.out.len()
    }

    /// Sets feature `name`. A value that JSON cannot say (a map with odd keys, a NaN) becomes `null`.
    pub fn set<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) {
        if std::mem::replace(&mut self.any, true) {
            self.out.push(b',');
        }
        write_json(self.out, name);
        self.out.push(b':');
        write_json(self.out, value);
    }
}

fn write_json<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    let before = out.len();
    if serde_json::to_writer(&mut *out, value).is_err() {
        out.truncate(before);
        out.extend_from_slice(b"null");
    }
}

// ---- erasure: once per session, so that actors need no type parameter ---------------------------------------------------

/// One key's state together with its handler.
pub trait Logic: Send {
    /// See [`Handler::on_event`].
    fn on_event(&mut self, event: EventRef<'_>, context: &mut Context<'_>) -> Result<(), Fault>;
    /// See [`Handler::on_timer`].
    fn on_timer(&mut self, timer: &str, context: &mut Context<'_>) -> Result<(), Fault>;
    /// See [`Handler::on_answer`].
    fn on_answer(&mut self, answer: Answer<'_>, context: &mut Context<'_>) -> Result<(), Fault>;
    /// See [`Handler::features`].
    fn features(&self, features: &mut Features<'_>);
    /// Appends the state as named MessagePack.
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), StateError>;
}

/// A look-up under way.
pub type Looking = Pin<Box<dyn Future<Output = Result<serde_json::Value, String>> + Send>>;

/// Makes [`Logic`] for keys.
pub trait LogicFactory: Send + Sync + 'static {
    /// The handler's name in the topology.
    fn name(&self) -> &str;
    /// Version of its state type.
    fn state_version(&self) -> u32;
    /// The tables it emits rows to.
    fn tables(&self) -> &[EmittedTable];
    /// The features that the topology declares beside it.
    fn declared(&self) -> &FeatureSet;
    /// See [`Handler::answer`].
    fn look_up(&self, key: &str, name: &str, question: &[u8]) -> Looking;
    /// For a key never seen.
    fn create(&self) -> Box<dyn Logic>;
    /// From stored state.
    fn decode(&self, version: u32, bytes: &[u8]) -> Result<Box<dyn Logic>, StateError>;
}

struct Typed<H: Handler> {
    handler: Arc<H>,
    state: H::State,
}

impl<H: Handler> Logic for Typed<H> {
    fn on_event(&mut self, event: EventRef<'_>, context: &mut Context<'_>) -> Result<(), Fault> {
        self.handler.on_event(&mut self.state, FromEvent::from_event(event)?, context)
    }

    fn on_timer(&mut self, timer: &str, context: &mut Context<'_>) -> Result<(), Fault> {
        self.handler.on_timer(&mut self.state, timer, context)
    }

    fn on_answer(&mut self, answer: Answer<'_>, context: &mut Context<'_>) -> Result<(), Fault> {
        self.handler.on_answer(&mut self.state, answer, context)
    }

    fn features(&self, features: &mut Features<'_>) {
        self.handler.features(&self.state, features);
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), StateError> {
        rmp_serde::encode::write_named(out, &self.state).map_err(|e| StateError(e.to_string()))
    }
}

struct TypedFactory<H: Handler> {
    name: String,
    handler: Arc<H>,
    tables: Vec<EmittedTable>,
    declared: Arc<FeatureSet>,
}

impl<H: Handler> LogicFactory for TypedFactory<H> {
    fn name(&self) -> &str {
        &self.name
    }

    fn state_version(&self) -> u32 {
        H::State::VERSION
    }

    fn tables(&self) -> &[EmittedTable] {
        &self.tables
    }

    fn declared(&self) -> &FeatureSet {
        &self.declared
    }

    fn look_up(&self, key: &str, name: &str, question: &[u8]) -> Looking {
        let (key, name) = (key.to_owned(), name.to_owned());
        let (handler, question) = (Arc::clone(&self.handler), String::from_utf8_lossy(question).into_owned());
        Box::pin(async move { handler.answer(&key, &name, &question).await })
    }

    fn create(&self) -> Box<dyn Logic> {
        Box::new(Typed { handler: Arc::clone(&self.handler), state: H::State::default() })
    }

    fn decode(&self, version: u32, bytes: &[u8]) -> Result<Box<dyn Logic>, StateError> {
        let known = H::State::VERSION;
        let state = match version.cmp(&known) {
            Ordering::Equal => rmp_serde::from_slice(bytes).map_err(|e| StateError(e.to_string()))?,
            Ordering::Less => H::State::upgrade(version, bytes)?,
            Ordering::Greater => {
                return Err(StateError(format!(
                    "the state has version {version}, this program knows those up to {known}: run the newer program again"
                )));
            }
        };
        Ok(Box::new(Typed { handler: Arc::clone(&self.handler), state }))
    }
}

type Build = fn(&str, serde_json::Value, Arc<FeatureSet>) -> Result<Arc<dyn LogicFactory>, ConfigError>;

#[derive(Clone)]
struct Registered {
    build: Build,
    tables: fn() -> Vec<EmittedTable>,
}

/// The handlers a binary knows, by name.
#[derive(Clone, Default)]
pub struct Registry {
    handlers: BTreeMap<String, Registered>,
}

impl Registry {
    /// Registers `H` as `name`; the last registration of a name counts.
    pub fn add<H: Handler>(&mut self, name: &str) {
        let build: Build = |name, config, declared| {
            let config = serde_json::from_value(config).map_err(|e| ConfigError(e.to_string()))?;
            let handler = Arc::new(H::new(config)?);
            Ok(Arc::new(TypedFactory { name: name.to_owned(), handler, tables: H::tables(), declared }))
        };
        self.handlers.insert(name.to_owned(), Registered { build, tables: H::tables });
    }

    /// The tables that handler `name` emits rows to; `None` when there is no such handler.
    pub fn tables(&self, name: &str) -> Option<Vec<EmittedTable>> {
        self.handlers.get(name).map(|handler| (handler.tables)())
    }

    /// Registered names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.handlers.keys().map(String::as_str)
    }

    /// Builds handler `name` with its section of the topology (an empty object when it has none), beside these declared
    /// features.
    pub fn build(
        &self,
        name: &str,
        config: serde_json::Value,
        declared: Arc<FeatureSet>,
    ) -> Result<Arc<dyn LogicFactory>, ConfigError> {
        let handler = self.handlers.get(name).ok_or_else(|| ConfigError(format!("no handler is called {name:?}")))?;
        let factory = (handler.build)(name, config, declared)?;
        let rehearsed = SessionCore::new(&factory).and_then(|core| core.rehearse(&factory));
        rehearsed.map_err(|e| ConfigError(format!("its State::default() cannot be stored and read again: {}", e.0)))?;
        Ok(factory)
    }
}
