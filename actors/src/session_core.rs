//! What a session does with one event: absorb a repeat, run the handler, remember how far it came.
//!
//! Pure: the actor around it is `session`, its queue and its part in checkpoints are in `cell`.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use bytes::Bytes;

use crate::{
    event::EventRef,
    handler::{Context, Fault, Features, Logic, LogicFactory, StateError},
    key::Key,
    recent_ids::RecentIds,
    record,
    row::{EmittedRow, EmittedTable},
    timestamp::Timestamp,
};

/// The live state of one key.
pub struct SessionCore {
    logic: Box<dyn Logic>,
    applied: u64,
    event_time: Timestamp,
    recent: RecentIds,
}

/// How an event ended, if it ended well.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It changed the state.
    Applied,
    /// It was a repeat.
    Duplicate,
}

impl SessionCore {
    /// For a key never seen.
    pub fn new(factory: &Arc<dyn LogicFactory>) -> Result<Self, StateError> {
        let (applied, event_time, recent) = Default::default();
        Ok(Self { logic: guarded(|| Ok(factory.create()))?, applied, event_time, recent })
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
        Ok(Self {
            logic: guarded(|| factory.decode(version.state_version, &version.payload))?,
            applied: version.applied,
            event_time: version.event_time,
            recent: RecentIds::from_stored(&version.recent_ids),
        })
    }

    /// Runs the handler over `event`; what it emits to `tables` is appended to `rows`. On a fault the caller throws this core
    /// away, except after [`Fault::Reject`]; nothing is emitted then.
    pub fn apply(
        &mut self,
        event: EventRef<'_>,
        tables: &[EmittedTable],
        rows: &mut Vec<EmittedRow>,
    ) -> Result<Outcome, Fault> {
        let e = event.event();
        if e.id_hash.is_some_and(|id| self.recent.contains(id)) {
            self.applied = e.seq;
            return Ok(Outcome::Duplicate);
        }
        let before = rows.len();
        if let Err(fault) = self.logic.on_event(event, &mut Context::new(event, tables, rows)) {
            rows.truncate(before);
            return Err(fault);
        }
        self.applied = e.seq;
        self.event_time = self.event_time.max(e.time);
        if let Some(id) = e.id_hash {
            self.recent.push(id);
        }
        Ok(Outcome::Applied)
    }

    /// Passes over a dead letter.
    pub fn skip(&mut self, seq: u64) {
        self.applied = seq;
    }

    /// The last sequence consumed.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// The state as a version record without its tag.
    pub fn encode(&self, factory: &Arc<dyn LogicFactory>) -> Result<Bytes, StateError> {
        let mut failed = Ok(());
        let version = record::encode_version(
            self.applied,
            self.event_time,
            factory.name(),
            factory.state_version(),
            self.recent.iter(),
            |out| failed = guarded(|| self.logic.encode(out)),
        );
        failed.map(|()| version)
    }

    /// The feature answer as JSON, without `as_of`; `None` when the handler panics over it.
    pub fn answer(&self, key: &Key, partition: u32) -> Option<Bytes> {
        let mut out = Vec::with_capacity(1024);
        out.extend_from_slice(b"{\"key\":");
        serde_json::to_writer(&mut out, key.as_str()).expect("a string in memory serializes");
        out.extend_from_slice(format!(",\"profile\":null,\"partition\":{partition},\"features\":{{").as_bytes());
        let said = guarded(|| {
            self.logic.features(&mut Features::new(&mut out));
            Ok(())
        });
        if let Err(error) = said {
            tracing::error!(error = error.0, "the features of a key cannot be said");
            return None;
        }
        let time = self.event_time.to_rfc3339();
        out.extend_from_slice(format!("}},\"event_time\":\"{time}\",\"seq\":{}}}", self.applied).as_bytes());
        Some(out.into())
    }
}

/// Runs code of a handler on the shard's own turn: a panic there must not take the shard with it.
fn guarded<T>(work: impl FnOnce() -> Result<T, StateError>) -> Result<T, StateError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(StateError("the handler panicked".to_owned())))
}
