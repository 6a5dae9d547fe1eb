//! `first`, `last`, `last_k`, `last_distinct_k`: single events by event time; of equal times the one later in the log is
//! the later one.
//!
//! Pure. What is remembered has its time, so a sliding window is exact here: events of the last `window`, both ends in.

use serde::{Deserialize, Serialize};

use super::{
    scalar::Scalar,
    slot::Plan,
    value::Value,
    window::{Aggregate, AsOf, Moment, Span},
};

/// Values of `last_k` and `last_distinct_k` unless a definition says otherwise.
pub const K_DEFAULT: u32 = 10;
/// Most values of `last_k` and `last_distinct_k`.
pub const K_MAX: u32 = 1_000;

/// The earliest event.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct First(Option<(i64, Scalar)>);

impl First {
    pub(super) fn add(&mut self, time: i64, value: &str) {
        if self.0.as_ref().is_none_or(|(first, _)| time < *first) {
            self.0 = Some((time, value.into()));
        }
    }

    pub(super) fn value(&self) -> Value {
        self.0.as_ref().map_or(Value::Null, |(_, value)| Value::Scalar(value.clone()))
    }
}

impl Aggregate for First {
    fn merge(&mut self, later: &Self, _: &Plan) {
        if self.0.is_none() {
            self.clone_from(later);
        }
    }

    fn is_sound(&self, _: &Plan) -> bool {
        true
    }
}

/// The newest events, or the newest ones of distinct values, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Recent {
    /// Number of the session that the events are of; 0 without sessions.
    session: u64,
    events: Vec<(i64, Scalar)>,
}

impl Recent {
    /// Makes room for the event; `false` when the window has moved past it.
    fn opens(&mut self, span: Span, moment: &Moment) -> bool {
        if span == Span::Session {
            let Some(session) = moment.session else { return false };
            if session != self.session {
                self.session = session;
                self.events.clear();
            }
        }
        moment.time >= span.begin(moment.newest)
    }

    pub(super) fn add(&mut self, plan: &Plan, moment: &Moment, value: &str) {
        if !self.opens(plan.span, moment) {
            return;
        }
        let full = self.events.len() >= plan.k as usize;
        let at = self.events.partition_point(|(time, _)| *time <= moment.time);
        if full && at == 0 {
            return; // older than all that are kept
        }
        if full && let Some((time, slot)) = self.events.get_mut(0) {
            // The place of the oldest becomes the place of the new one, and keeps its memory.
            *time = moment.time;
            value.clone_into_scalar(slot);
            self.events[..at].rotate_left(1);
        } else {
            self.events.insert(at, (moment.time, value.into()));
        }
    }

    pub(super) fn add_distinct(&mut self, plan: &Plan, moment: &Moment, value: &str) {
        if !self.opens(plan.span, moment) {
            return;
        }
        if let Some(known) = self.events.iter().rposition(|(_, kept)| kept == value) {
            if self.events[known].0 <= moment.time {
                let at = self.events.partition_point(|(time, _)| *time <= moment.time);
                self.events[known].0 = moment.time;
                self.events[known..at].rotate_left(1);
            }
            return;
        }
        self.add(plan, moment, value);
    }

    /// What a window at `as_of` covers, newest first.
    fn covered(&self, span: Span, as_of: &AsOf) -> impl Iterator<Item = &Scalar> {
        let open = span != Span::Session || as_of.session == Some(self.session);
        let begin = if open { span.begin(as_of.now) } else { i64::MAX };
        self.events.iter().rev().take_while(move |(time, _)| *time >= begin).map(|(_, value)| value)
    }

    pub(super) fn newest(&self, span: Span, as_of: &AsOf) -> Value {
        self.covered(span, as_of).next().map_or(Value::Null, |value| Value::Scalar(value.clone()))
    }

    pub(super) fn values(&self, span: Span, as_of: &AsOf) -> Value {
        Value::List(self.covered(span, as_of).map(|value| Value::Scalar(value.clone())).collect())
    }

    pub(super) fn encode(&self, span: Span, newest: i64, out: Vec<u8>) -> Vec<u8> {
        let begin = span.begin(newest);
        let live = &self.events[self.events.partition_point(|(time, _)| *time < begin)..];
        postcard::to_extend(&(self.session, live), out).unwrap_or_default()
    }

    pub(super) fn decode<'b>(plan: &Plan, bytes: &'b [u8]) -> Option<(Self, &'b [u8])> {
        let (recent, rest) = postcard::take_from_bytes::<Self>(bytes).ok()?;
        let sound = recent.events.len() <= plan.k as usize && recent.events.is_sorted_by(|a, b| a.0 <= b.0);
        sound.then_some((recent, rest))
    }
}

trait CloneInto {
    fn clone_into_scalar(&self, slot: &mut Scalar);
}

impl CloneInto for str {
    fn clone_into_scalar(&self, slot: &mut Scalar) {
        slot.clear();
        slot.push_str(self);
    }
}
