//! What one key remembers for its declared features, and its values as of any later moment.
//!
//! Pure. Each event is given once: repeats are absorbed before. The bytes hold what was learned by the hash of its
//! definition: what is no longer declared is left out when they are read, what is new starts empty, the rest stays.

use super::{
    picked::Picked,
    scalar,
    session::{Happened, Session},
    set::{BUILT_IN, FeatureKind, FeatureSet},
    slot::{Input, Slot, Took},
    value::Value,
    window::{AsOf, Moment},
};
use crate::{
    event::{EventRef, fields::FieldId},
    handler::{Features, StateError},
    timestamp::Timestamp,
};

/// First byte of the encoding.
const VERSION: u8 = 1;
/// `updated` of a slot that has taken nothing.
const NEVER: i64 = i64::MIN;

/// One key's state.
#[derive(Debug, Clone)]
pub struct FeatureState {
    /// Time of the newest event.
    newest: Option<i64>,
    late: u64,
    late_session: u64,
    cut: u64,
    pub(super) session: Session,
    pub(super) slots: Box<[Held]>,
}

#[derive(Debug, Clone)]
pub(super) struct Held {
    /// Time of the newest event that it took.
    updated: i64,
    slot: Slot,
}

impl Held {
    pub(super) fn updated(&self) -> Option<i64> {
        (self.updated != NEVER).then_some(self.updated)
    }
}

/// What became of an event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Applied {
    /// It was older than the key's newest event by more than the lateness: counted, and nothing else.
    pub late: bool,
    /// It belongs to a session that is over: no session changed.
    pub late_session: bool,
    /// Numbers that were too large and were cut.
    pub cut: u32,
}

/// Which predicates were asked for an event, and which of them hold.
struct Answers {
    asked: [u64; Self::WORDS],
    holds: [u64; Self::WORDS],
}

impl Answers {
    const WORDS: usize = super::set::FEATURES_MAX.div_ceil(64);

    #[inline]
    fn holds(&mut self, set: &FeatureSet, predicate: usize, event: EventRef<'_>) -> bool {
        let (word, bit) = (predicate / 64, 1u64 << (predicate % 64));
        if self.asked[word] & bit == 0 {
            self.asked[word] |= bit;
            if set.predicates[predicate].holds(event) {
                self.holds[word] |= bit;
            }
        }
        self.holds[word] & bit != 0
    }
}

impl FeatureState {
    /// Of a key without events.
    pub fn new(set: &FeatureSet) -> Self {
        let slots = set.plans.iter().map(|plan| Held { updated: NEVER, slot: Slot::new(plan) }).collect();
        Self { newest: None, late: 0, late_session: 0, cut: 0, session: Session::default(), slots }
    }

    /// Applies an event that was not applied before. `set` is the one that the state was made with.
    pub fn apply(&mut self, set: &FeatureSet, event: EventRef<'_>) -> Applied {
        let time = event.event().time.0;
        let newest = self.newest.map_or(time, |newest| newest.max(time));
        if newest.saturating_sub(time) > set.lateness {
            self.late = self.late.saturating_add(1);
            return Applied { late: true, ..Applied::default() };
        }
        self.newest = Some(newest);
        let mut applied = Applied::default();
        let mut moment = Moment { time, newest, session: None };
        if set.sessions {
            if self.take_into_session(set, event, time) {
                moment.session = Some(self.session.index);
            } else {
                self.late_session = self.late_session.saturating_add(1);
                applied.late_session = true;
            }
        }
        let mut answers = Answers { asked: [0; Answers::WORDS], holds: [0; Answers::WORDS] };
        for group in &set.groups {
            let mut input: Option<Option<Input<'_>>> = None;
            for &place in &group.slots {
                let (plan, held) = (&set.plans[place], &mut self.slots[place]);
                if plan.filter.is_some_and(|predicate| !answers.holds(set, predicate, event)) {
                    continue;
                }
                let took = match group.source {
                    None => held.slot.add(plan, &moment, None),
                    Some(source) => {
                        let input = input.get_or_insert_with(|| set.sources[source].input(event));
                        let Some(input) = input else { break }; // no value for any of them
                        held.slot.add(plan, &moment, Some(input))
                    }
                };
                if took != Took::Nothing {
                    held.updated = held.updated.max(time);
                }
                applied.cut += u32::from(took == Took::Cut);
            }
        }
        self.cut = self.cut.saturating_add(applied.cut.into());
        applied
    }

    fn take_into_session(&mut self, set: &FeatureSet, event: EventRef<'_>, time: i64) -> bool {
        let kind = event.text(FieldId::Event);
        let is_page = kind.as_deref() == Some("page_view");
        let page = if is_page { event.value(FieldId::PageUrl) } else { None };
        let page = page.and_then(|page| scalar::canonical(&page)).filter(|page| page.as_ref() != "\"\"");
        let is_ping = kind.as_deref() == Some("page_ping");
        self.session.take(set.gap, &Happened { time, is_page, is_ping, page: page.as_deref() })
    }

    /// Writes all features as of `at`, by name, and the built-in ones behind them.
    pub fn write(&self, set: &FeatureSet, at: Timestamp, out: &mut Features<'_>) {
        self.write_some(set, at, out, 0..set.features.len());
        self.write_counts(set, out);
        self.write_expired(set, at, out);
    }

    /// Writes the features that stay as they are until the next event.
    pub fn write_lasting(&self, set: &FeatureSet, out: &mut Features<'_>) {
        let lasting = (0..set.features.len()).filter(|place| !set.features[*place].decays);
        self.write_some(set, Timestamp(i64::MIN), out, lasting);
        self.write_counts(set, out);
    }

    /// Writes the features that change with time alone, as of `at`.
    pub fn write_changing(&self, set: &FeatureSet, at: Timestamp, out: &mut Features<'_>) {
        self.write_picked(set, &set.changing, at, out);
    }

    fn write_picked(&self, set: &FeatureSet, picked: &Picked, at: Timestamp, out: &mut Features<'_>) {
        self.write_some(set, at, out, picked.features.iter().copied());
        if picked.expired {
            self.write_expired(set, at, out);
        }
    }

    fn write_some(
        &self,
        set: &FeatureSet,
        at: Timestamp,
        out: &mut Features<'_>,
        features: impl Iterator<Item = usize>,
    ) {
        let mut reading = self.reading(set, at);
        for place in features {
            reading.prepare(place);
            out.set(&set.features[place].name, reading.known(place));
        }
    }

    fn write_counts(&self, set: &FeatureSet, out: &mut Features<'_>) {
        let [late, late_session, cut, _] = BUILT_IN;
        out.set(late, &self.late);
        if set.sessions {
            out.set(late_session, &self.late_session);
        }
        if set.numbers {
            out.set(cut, &self.cut);
        }
    }

    fn write_expired(&self, set: &FeatureSet, at: Timestamp, out: &mut Features<'_>) {
        if set.expires {
            out.set(BUILT_IN[3], &self.expired(set, at));
        }
    }

    /// The names of features whose value is no longer served as of `at`, ascending.
    pub fn expired<'s>(&self, set: &'s FeatureSet, at: Timestamp) -> Vec<&'s str> {
        let reading = self.reading(set, at);
        let gone = |place: &usize| reading.has_expired(*place);
        (0..set.features.len()).filter(gone).map(|place| set.features[place].name.as_str()).collect()
    }

    /// The value of feature `name` as of `at`; `None` when there is no such feature.
    pub fn value(&self, set: &FeatureSet, name: &str, at: Timestamp) -> Option<Value> {
        let place = set.place(name)?;
        let mut reading = self.reading(set, at);
        reading.prepare(place);
        Some(reading.known(place).clone())
    }

    /// Time of the newest event.
    pub fn newest(&self) -> Option<Timestamp> {
        self.newest.map(Timestamp)
    }

    pub(super) fn reading<'s>(&'s self, set: &'s FeatureSet, at: Timestamp) -> Reading<'s> {
        let now = self.newest.map_or(at.0, |newest| newest.max(at.0));
        let as_of = AsOf { now, session: self.session.open(set.gap, now) };
        Reading { state: self, set, as_of, values: vec![None; set.features.len()] }
    }

    /// Appends the state.
    pub fn encode(&self, set: &FeatureSet, out: &mut Vec<u8>) {
        self.encode_some(set, out, set.sessions, |_| true);
    }

    /// Appends what [`FeatureSet::write_kept`] needs: the part of the state that values depend on which change with
    /// time alone.
    pub fn encode_decaying(&self, set: &FeatureSet, out: &mut Vec<u8>) {
        self.encode_some(set, out, set.changing.session, |slot| set.changing.needs(slot));
    }

    fn encode_some(&self, set: &FeatureSet, out: &mut Vec<u8>, sessions: bool, wanted: impl Fn(usize) -> bool) {
        let newest = self.newest.unwrap_or(i64::MIN);
        let session = sessions.then_some((set.gap, &self.session));
        let head = (VERSION, self.newest, self.late, self.late_session, self.cut, session);
        let mut all = postcard::to_extend(&head, std::mem::take(out)).unwrap_or_default();
        let mut bytes = Vec::new();
        for (place, held) in self.slots.iter().enumerate() {
            if held.updated == NEVER || !wanted(place) {
                continue;
            }
            let plan = &set.plans[place];
            bytes.clear();
            bytes = held.slot.encode(plan, newest, bytes);
            all = postcard::to_extend(&(plan.hash, held.updated, bytes.as_slice()), all).unwrap_or_default();
        }
        *out = all;
    }

    /// Reads what [`FeatureState::encode`] wrote, perhaps with other definitions.
    pub fn decode(set: &FeatureSet, bytes: &[u8]) -> Result<Self, StateError> {
        Self::decode_some(set, bytes, |_| true)
    }

    /// The same; of the slots that are not `wanted` only when they last changed.
    fn decode_some(set: &FeatureSet, bytes: &[u8], wanted: impl Fn(usize) -> bool) -> Result<Self, StateError> {
        let broken = |what: &str| StateError(format!("the state of declared features cannot be read: {what}"));
        let mut state = Self::new(set);
        type Head = (u8, Option<i64>, u64, u64, u64, Option<(i64, Session)>);
        if bytes.first() != Some(&VERSION) {
            return Err(broken("it is of an unknown version"));
        }
        let (head, mut rest) = postcard::take_from_bytes::<Head>(bytes).map_err(|e| broken(&e.to_string()))?;
        let session;
        (_, state.newest, state.late, state.late_session, state.cut, session) = head;
        if let Some((gap, session)) = session {
            if !session.is_sound() {
                return Err(broken("its session makes no sense"));
            }
            if set.sessions && gap == set.gap {
                state.session = session;
            }
        }
        let (mut before, mut next) = (None, 0);
        while !rest.is_empty() {
            let ((hash, updated, payload), behind) =
                postcard::take_from_bytes::<(u64, i64, &[u8])>(rest).map_err(|e| broken(&e.to_string()))?;
            rest = behind;
            if before.is_some_and(|before| hash <= before) || state.newest.is_none_or(|newest| updated > newest) {
                return Err(broken("its parts are out of order"));
            }
            before = Some(hash);
            // Both go by hash, and mostly they are the same.
            while set.plans.get(next).is_some_and(|plan| plan.hash < hash) {
                next += 1;
            }
            if set.plans.get(next).is_some_and(|plan| plan.hash == hash) {
                let place = next;
                let held = &mut state.slots[place];
                held.updated = updated;
                if wanted(place) {
                    let slot = Slot::decode(&set.plans[place], payload);
                    held.slot = slot.ok_or_else(|| broken("a value makes no sense"))?;
                }
            }
        }
        Ok(state)
    }
}

impl FeatureSet {
    /// Writes the features that change with time alone, as of `at`, from what [`FeatureState::encode_decaying`] kept: all of
    /// them, or those `picked`.
    pub fn write_kept(
        &self,
        kept: &[u8],
        at: Timestamp,
        picked: Option<&Picked>,
        out: &mut Features<'_>,
    ) -> Result<(), StateError> {
        let picked = picked.unwrap_or(&self.changing);
        FeatureState::decode_some(self, kept, |slot| picked.needs(slot))?.write_picked(self, picked, at, out);
        Ok(())
    }
}

/// Values as of one moment; each is computed once.
pub(super) struct Reading<'s> {
    state: &'s FeatureState,
    set: &'s FeatureSet,
    as_of: AsOf,
    pub(super) values: Vec<Option<Value>>,
}

impl Reading<'_> {
    pub(super) fn has_expired(&self, place: usize) -> bool {
        let feature = &self.set.features[place];
        let (Some(ttl), FeatureKind::Slot(slot)) = (feature.ttl, &feature.kind) else { return false };
        let updated = self.state.slots[*slot].updated();
        updated.is_some_and(|updated| self.as_of.now.saturating_sub(updated) > ttl)
    }

    /// Computes the value at `place`, and what it is computed from. The depth is bounded when the set is compiled.
    pub(super) fn prepare(&mut self, place: usize) {
        if self.values[place].is_some() {
            return;
        }
        let set = self.set;
        let value = match &set.features[place].kind {
            _ if self.has_expired(place) => Value::Null,
            FeatureKind::Slot(slot) => {
                let held = &self.state.slots[*slot];
                held.slot.value(&set.plans[*slot], &self.as_of, held.updated())
            }
            FeatureKind::Session(function) => self.state.session.value(*function, set.gap, self.as_of.now),
            FeatureKind::Derived(derived) => {
                derived.inputs().into_iter().for_each(|input| self.prepare(input));
                derived.value(|input| self.known(input))
            }
        };
        self.values[place] = Some(value);
    }

    pub(super) fn known(&self, place: usize) -> &Value {
        self.values[place].as_ref().unwrap_or(&Value::Null)
    }
}
