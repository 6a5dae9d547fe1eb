//! The values of an answer that was written with other definitions than those it is read with.
//!
//! Pure. A key without events keeps its answer while the topology is edited. The answer holds the texts of its features, and
//! the part of the state that those depended on which changed with time: what that part does not have, the texts have.

use std::collections::HashMap;

use super::{
    set::{BUILT_IN, FeatureKind, FeatureSet},
    state::FeatureState,
    value::Value,
};
use crate::{
    handler::{Features, StateError},
    timestamp::Timestamp,
};

/// What an answer says of a feature.
#[derive(Clone, Copy, Debug)]
pub struct Stood<'a> {
    /// Its value, as JSON.
    pub text: &'a str,
    /// Whether it changed with time alone then: what it depended on was kept.
    pub changing: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Edited<'a> {
    /// What [`FeatureState::encode_decaying`] wrote, if anything changed with time then.
    pub kept: Option<&'a [u8]>,
    /// Event time of the key's newest event.
    pub newest: Timestamp,
    /// What the answer says of declared features, by name.
    pub stood: HashMap<&'a str, Stood<'a>>,
}

impl Edited<'_> {
    /// Writes the features of `set` whose names are `wanted`, as of `at`; not those of which nothing is known before the
    /// key's next event, because they are new and may have been told by another name.
    pub fn write(
        &self,
        set: &FeatureSet,
        at: Timestamp,
        out: &mut Features<'_>,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<(), StateError> {
        let state = match self.kept {
            Some(kept) => FeatureState::decode(set, kept)?,
            None => FeatureState::new(set),
        };
        let now = at.max(self.newest);
        let mut reading = state.reading(set, now);
        let (mut unknown, mut expired) = (Vec::new(), Vec::new());
        for (place, feature) in set.features.iter().enumerate() {
            let stood = self.stood.get(feature.name.as_str());
            let is_there = match &feature.kind {
                FeatureKind::Slot(slot) => state.slots[*slot].updated().is_some(),
                FeatureKind::Session(_) => state.session.index > 0,
                FeatureKind::Derived(_) => continue, // of what is settled here
            };
            reading.prepare(place);
            // What always changed with time was kept, unless the definition is another one: then it starts empty.
            if is_there || feature.decays_anyway || stood.is_some_and(|stood| stood.changing) {
                if reading.has_expired(place) {
                    expired.push(feature.name.as_str());
                }
                continue;
            }
            let Some(Stood { text, .. }) = stood else {
                reading.values[place] = Some(Value::Null);
                unknown.push(place);
                continue;
            };
            if serde_json::to_string(reading.known(place)).is_ok_and(|empty| empty == *text) {
                continue; // it has taken nothing, so there is nothing that could expire
            }
            // When it last took something is not said: not behind the newest event.
            let is_old = |ttl| now.0.saturating_sub(self.newest.0) > ttl;
            reading.values[place] = Some(if feature.ttl.is_some_and(is_old) {
                expired.push(feature.name.as_str());
                Value::Null
            } else {
                Value::Scalar((*text).into())
            });
        }
        for (place, feature) in set.features.iter().enumerate() {
            if wanted(&feature.name) && unknown.binary_search(&place).is_err() {
                reading.prepare(place);
                out.set(&feature.name, reading.known(place));
            }
        }
        if set.expires && wanted(BUILT_IN[3]) {
            out.set(BUILT_IN[3], &expired);
        }
        Ok(())
    }
}
