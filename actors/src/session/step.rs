//! What a session does with one event: absorb a repeat, run the handler, remember how far it came.
//!
//! Pure: the actor around it is `session`, its queue and its part in checkpoints are in `cell`.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use bytes::Bytes;
use compact_str::CompactString;

use super::recent_ids::RecentIds;
use crate::{
    answer,
    checkpoint::record::{self, VersionHead},
    complaints::Complaints,
    event::{Event, EventRef, Own, fields::FieldId},
    features::FeatureState,
    handler::{
        Answer, Context, Fault, Logic, LogicFactory, StateError,
        look_ups::{LookUp, Said},
        row::{EmittedRow, Emitter},
        waiting::{Changing, Waiting},
    },
    key::Key,
    observe,
    timestamp::Timestamp,
};

/// What is logged of timers, which `keyloom_timers_total` counts, and of features that a handler cannot say.
static COMPLAINTS: Complaints = Complaints::new();

/// Timers that fire at the place of one event, at most: one that sets itself again and again is a defect.
pub const TIMERS_FIRED_MAX: usize = 1_000;

/// The live state of one key.
pub struct SessionCore {
    logic: Box<dyn Logic>,
    applied: u64,
    event_time: Timestamp,
    recent: RecentIds,
    waiting: Waiting,
    /// Of the declared features, if there are any.
    declared: Option<FeatureState>,
}

/// How an event ended, if it ended well.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It changed the state.
    Applied,
    /// It was a repeat.
    Duplicate,
}

/// What happened beside the event itself.
#[derive(Debug, Default)]
pub struct Firing {
    /// The timer that is being tried: left so when it fails or panics.
    pub trying: Option<CompactString>,
    /// Since this was last asked.
    pub counts: SideCounts,
}

/// Ends of timers, and events that came too late for declared features.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SideCounts {
    /// Timers that fired.
    pub fired: u64,
    /// Timers that fired and were rejected by their handler.
    pub rejected: u64,
    /// Timers that were given up together with the event that they were due before.
    pub given_up: u64,
    /// Late events.
    pub late: u64,
}

impl SessionCore {
    /// For a key never seen.
    pub fn new(factory: &Arc<dyn LogicFactory>) -> Result<Self, StateError> {
        let (applied, event_time, recent, waiting) = Default::default();
        let set = factory.declared();
        let declared = (!set.is_empty()).then(|| FeatureState::new(set));
        Ok(Self { logic: guarded(|| Ok(factory.create()))?, applied, event_time, recent, waiting, declared })
    }

    /// From what [`SessionCore::encode`] made.
    pub fn decode(factory: &Arc<dyn LogicFactory>, version: &Bytes) -> Result<Self, StateError> {
        let version = record::decode_version(version).map_err(|e| StateError(e.to_string()))?;
        if version.handler != factory.name() {
            return Err(StateError(format!(
                "the stored state belongs to handler {:?}, the topology names {:?}; name the old handler, or start with an \
                 empty store",
                version.handler,
                factory.name()
            )));
        }
        let set = factory.declared();
        let declared = match &version.features {
            _ if set.is_empty() => None,
            bytes if bytes.is_empty() => Some(FeatureState::new(set)),
            bytes => Some(FeatureState::decode(set, bytes)?),
        };
        Ok(Self {
            declared,
            logic: guarded(|| factory.decode(version.state_version, &version.payload))?,
            applied: version.applied,
            event_time: version.event_time,
            recent: RecentIds::from_stored(&version.recent_ids),
            waiting: version.waiting,
        })
    }

    /// Runs the handler over `event`, and over the timers that are due before it. On a fault the caller throws this core
    /// away, except after [`Fault::Reject`]: then the timers have fired, and nothing else has happened.
    pub fn apply(
        &mut self,
        event: EventRef<'_>,
        factory: &dyn LogicFactory,
        rows: &mut Vec<EmittedRow>,
        firing: &mut Firing,
    ) -> Result<Outcome, Fault> {
        let e = event.event();
        if e.id_hash.is_some_and(|id| self.recent.contains(id)) {
            self.applied = e.seq;
            return Ok(Outcome::Duplicate);
        }
        let first = rows.len();
        self.fire(event, factory, rows, firing)?;
        if e.own != Some(Own::Tick) {
            let question = self.take_question(event);
            let before = rows.len();
            let mut waiting = Changing::new(std::mem::take(&mut self.waiting));
            let emitter = Emitter::new(factory.tables(), event, rows, first);
            let declared = self.declared.as_ref().map(|state| (factory.declared(), state));
            let mut context = Context { declared, ..Context::new(event, emitter, &mut waiting) };
            let result = match (e.own, &question) {
                (None, _) => self.logic.on_event(event, &mut context),
                (Some(_), Some((look_up, said))) => self.logic.on_answer(answer_of(look_up, said), &mut context),
                (Some(_), None) => Ok(()), // nobody waits for it any more
            };
            if let Err(fault) = result {
                rows.truncate(before);
                self.waiting = waiting.undone();
                return Err(fault);
            }
            self.waiting = waiting.done();
        }
        if e.own.is_none() {
            self.event_time = self.event_time.max(e.time);
            if let Some(state) = &mut self.declared {
                let applied = state.apply(factory.declared(), event);
                firing.counts.late += u64::from(applied.late);
            }
        }
        self.applied = e.seq;
        if let Some(id) = e.id_hash {
            self.recent.push(id);
        }
        Ok(Outcome::Applied)
    }

    /// Fires the timers that are due at the place of `event`: those of its time, or of the newest before it, and earlier. On a
    /// fault the caller throws this core away.
    pub fn fire(
        &mut self,
        event: EventRef<'_>,
        factory: &dyn LogicFactory,
        rows: &mut Vec<EmittedRow>,
        firing: &mut Firing,
    ) -> Result<(), Fault> {
        let time = event.event().time.max(self.event_time);
        let (first, mut fired) = (rows.len(), 0);
        while let Some((due, name)) = self.waiting.timers.take_due(time) {
            fired += 1;
            if fired > TIMERS_FIRED_MAX {
                return Err(Fault::Crash(format!("more than {TIMERS_FIRED_MAX} timers fire at once, {name:?} too")));
            }
            firing.trying = Some(name.clone());
            let before = rows.len();
            let mut waiting = Changing::new(std::mem::take(&mut self.waiting));
            let emitter = Emitter::new(factory.tables(), event, rows, first);
            let declared = self.declared.as_ref().map(|state| (factory.declared(), state));
            let context = Context::new(event, emitter, &mut waiting);
            let mut context = Context { event_time: due, place_time: time, declared, ..context };
            match self.logic.on_timer(&name, &mut context) {
                Ok(()) => {
                    self.waiting = waiting.done();
                    firing.counts.fired += 1;
                }
                Err(Fault::Reject(text)) => {
                    rows.truncate(before);
                    self.waiting = waiting.undone();
                    if let Some(left_out) = COMPLAINTS.due_now("rejected") {
                        let seq = event.event().seq;
                        tracing::warn!(seq, timer = %name, text, left_out, "a timer is rejected by its handler");
                    }
                    firing.counts.rejected += 1;
                }
                Err(fault) => return Err(fault),
            }
        }
        firing.trying = None;
        Ok(())
    }

    /// Gives up the timers that are due at the place of `event`: they may be why it could not be processed.
    pub fn give_up_timers(&mut self, event: &Event, firing: &mut Firing) {
        let time = event.time.max(self.event_time);
        while let Some((due, name)) = self.waiting.timers.take_due(time) {
            if let Some(left_out) = COMPLAINTS.due_now("given up") {
                let (seq, due) = (event.seq, due.to_rfc3339());
                let text = "a timer is given up together with the event that it was due before";
                tracing::error!(seq, timer = %name, due, left_out, "{text}");
            }
            firing.counts.given_up += 1;
        }
    }

    /// What the key waits for.
    pub fn waiting(&self) -> &Waiting {
        &self.waiting
    }

    /// An answer takes its question away, whatever becomes of it.
    fn take_question<'e>(&mut self, event: EventRef<'e>) -> Option<(LookUp, Said<'e>)> {
        let value = event.value(FieldId::Answer).filter(|_| event.event().own == Some(Own::Answer))?;
        let said = Said::parse(value.raw)?;
        let look_up = self.waiting.look_ups.take(&said.name, said.asked)?;
        Some((look_up, said))
    }

    /// Passes over an event that is gone from the log.
    pub fn skip(&mut self, seq: u64) {
        self.applied = seq;
    }

    /// Passes over a dead letter; an answer closes its question even so.
    pub fn give_up(&mut self, event: EventRef<'_>) {
        drop(self.take_question(event));
        self.applied = event.event().seq;
    }

    /// The last sequence consumed.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// The state as a version record without its tag.
    pub fn encode(&self, factory: &Arc<dyn LogicFactory>) -> Result<Bytes, StateError> {
        let mut failed = Ok(());
        let head = VersionHead {
            applied: self.applied,
            event_time: self.event_time,
            handler: factory.name(),
            state_version: factory.state_version(),
            waiting: &self.waiting,
        };
        let features = |out: &mut Vec<u8>| {
            if let Some(state) = &self.declared {
                state.encode(factory.declared(), out);
            }
        };
        let payload = |out: &mut Vec<u8>| failed = guarded(|| self.logic.encode(out));
        let version = record::encode_version(head, self.recent.iter(), features, payload);
        failed.map(|()| version)
    }

    /// Finds out whether the state can be stored: encoded, and read again.
    pub fn rehearse(&self, factory: &Arc<dyn LogicFactory>) -> Result<(), StateError> {
        self.encode(factory).and_then(|version| Self::decode(factory, &version)).map(drop)
    }

    /// The feature answer as it is stored; `None` when the handler panics over it.
    pub fn answer(&self, factory: &dyn LogicFactory, key: &Key, partition: u32) -> Option<Bytes> {
        let head = answer::Head { key, partition, event_time: self.event_time, seq: self.applied };
        let declared = self.declared.as_ref().map(|state| (factory.declared(), state));
        let said = guarded(|| Ok(answer::write(head, |features| self.logic.features(features), declared)));
        let said = said.inspect_err(|error| {
            observe::features_failed();
            if let Some(left_out) = COMPLAINTS.due_now("features") {
                let (key, seq, error) = (key.as_str(), self.applied, &error.0);
                let text = "the features of a key cannot be said, its last answer stays";
                tracing::error!(partition, key, seq, error, left_out, "{text}");
            }
        });
        said.ok()
    }
}

fn answer_of<'a>(look_up: &'a LookUp, said: &'a Said<'_>) -> Answer<'a> {
    let why = || said.failure.as_deref().unwrap_or("the answer says nothing");
    Answer {
        name: &look_up.name,
        question: std::str::from_utf8(&look_up.question).unwrap_or_default(), // it was written as JSON
        result: said.value.map(|value| value.get()).ok_or_else(why),
    }
}

/// Runs code of a handler on the shard's own turn: a panic there must not take the shard with it.
fn guarded<T>(work: impl FnOnce() -> Result<T, StateError>) -> Result<T, StateError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(StateError("the handler panicked".to_owned())))
}
