//! What is remembered for one definition and one key, and its dispatch to the families of functions.
//!
//! Pure. Definitions that say the same share a slot, whatever their names.

use std::borrow::Cow;

use super::{
    decay::Decay,
    decimal::{self, Decimal, Units},
    definition::Function,
    distinct::Distinct,
    hyperloglog::Sketch,
    moments::{Count, Extremes, Spread, Sum},
    recent::{First, Recent},
    scalar,
    top_k::Top,
    value::Value,
    window::{Aggregate, AsOf, Moment, Span, Windowed},
};
use crate::event::fields::{self, Kind};

/// A compiled definition of something that is computed from events.
#[derive(Debug)]
pub(super) struct Plan {
    /// Of the definition.
    pub(super) hash: u64,
    pub(super) function: Function,
    pub(super) span: Span,
    /// The predicate, by its place in the set.
    pub(super) filter: Option<usize>,
    pub(super) k: u32,
    pub(super) max: u32,
    pub(super) precision: u8,
    pub(super) half_life: i64,
    pub(super) scale: u8,
}

/// The value of `of` in one event, in the forms that functions ask for; each is made once.
pub(super) struct Input<'a> {
    kind: Kind,
    raw: Cow<'a, str>,
    scalar: Option<Option<Cow<'a, str>>>,
    units: Option<(u8, Option<Units>)>,
}

impl<'a> Input<'a> {
    pub(super) fn of(value: fields::Value<'a>) -> Self {
        Self { kind: value.kind, raw: Cow::Borrowed(value.raw), scalar: None, units: None }
    }

    pub(super) fn owned(json: String) -> Self {
        Self { kind: fields::Value::of(&json).kind, raw: Cow::Owned(json), scalar: None, units: None }
    }

    fn scalar(&mut self) -> Option<&str> {
        if self.scalar.is_none() {
            self.scalar = Some(match &self.raw {
                Cow::Borrowed(raw) => scalar::canonical(&fields::Value { kind: self.kind, raw }),
                Cow::Owned(raw) => {
                    scalar::canonical(&fields::Value { kind: self.kind, raw }).map(|s| Cow::Owned(s.into_owned()))
                }
            });
        }
        self.scalar.as_ref()?.as_deref()
    }

    fn units(&mut self, scale: u8) -> Option<Units> {
        if self.kind != Kind::Number {
            return None;
        }
        match self.units {
            Some((known, units)) if known == scale => units,
            _ => {
                let units = decimal::parse(&self.raw, scale);
                self.units = Some((scale, units));
                units
            }
        }
    }

    fn float(&self) -> Option<f64> {
        (self.kind == Kind::Number).then(|| self.raw.parse().ok()).flatten().filter(|f: &f64| f.is_finite())
    }
}

/// What an event was to a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Took {
    /// It has no value of the kind that the function needs.
    Nothing,
    /// Its value.
    Value,
    /// Its value, cut to the largest number there is.
    Cut,
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) enum Slot {
    Count(Windowed<Count>),
    Sum(Windowed<Sum>),
    Spread(Windowed<Spread>),
    Extremes(Windowed<Extremes>),
    First(Windowed<First>),
    Recent(Recent),
    Sketch(Windowed<Sketch>),
    Distinct(Windowed<Distinct>),
    Top(Windowed<Top>),
    Decay(Decay),
    /// Time of the earliest event.
    Since(i64),
}

impl Slot {
    pub(super) fn new(plan: &Plan) -> Self {
        use Function as F;
        match plan.function {
            F::Sum | F::Avg => Self::Sum(Windowed::new(plan.span)),
            F::Stddev => Self::Spread(Windowed::new(plan.span)),
            F::Min | F::Max => Self::Extremes(Windowed::new(plan.span)),
            F::First => Self::First(Windowed::new(plan.span)),
            F::Last | F::LastK | F::LastDistinctK => Self::Recent(Recent::default()),
            F::ApproxDistinct => Self::Sketch(Windowed::new(plan.span)),
            F::Distinct => Self::Distinct(Windowed::new(plan.span)),
            F::TopK => Self::Top(Windowed::new(plan.span)),
            F::ExpDecay => Self::Decay(Decay::default()),
            F::TimeSinceFirst | F::TimeSinceLast => Self::Since(i64::MAX),
            _ => Self::Count(Windowed::new(plan.span)),
        }
    }

    /// Takes an event that the predicate holds for; `input` is the value of `of`, if the definition has one.
    #[inline]
    pub(super) fn add(&mut self, plan: &Plan, moment: &Moment, input: Option<&mut Input<'_>>) -> Took {
        match self {
            Self::Count(windowed) => {
                if input.is_some_and(|input| input.kind == Kind::Null) {
                    return Took::Nothing;
                }
                if let Some(count) = windowed.at(plan.span, moment) {
                    count.0 = count.0.saturating_add(1);
                }
                Took::Value
            }
            Self::Sum(windowed) => numbers(windowed, plan, moment, input, Sum::add),
            Self::Spread(windowed) => numbers(windowed, plan, moment, input, Spread::add),
            Self::Extremes(windowed) => numbers(windowed, plan, moment, input, Extremes::add),
            Self::Since(first) => {
                *first = moment.time.min(*first);
                Took::Value
            }
            Self::Decay(decay) => {
                let Some(value) = input.map_or(Some(1.0), |input| input.float()) else { return Took::Nothing };
                decay.add(plan.half_life, moment.time, value);
                Took::Value
            }
            _ => match input.and_then(Input::scalar) {
                Some(value) => self.add_value(plan, moment, value),
                None => Took::Nothing,
            },
        }
    }

    fn add_value(&mut self, plan: &Plan, moment: &Moment, value: &str) -> Took {
        match self {
            Self::First(windowed) => {
                windowed.at(plan.span, moment).into_iter().for_each(|f| f.add(moment.time, value));
            }
            Self::Recent(recent) if plan.function == Function::LastDistinctK => {
                recent.add_distinct(plan, moment, value);
            }
            Self::Recent(recent) => recent.add(plan, moment, value),
            Self::Sketch(windowed) => {
                windowed.at(plan.span, moment).into_iter().for_each(|s| s.add(plan.precision, value));
            }
            Self::Distinct(windowed) => {
                windowed.at(plan.span, moment).into_iter().for_each(|d| d.add(plan, value));
            }
            Self::Top(windowed) => windowed.at(plan.span, moment).into_iter().for_each(|t| t.add(plan, value)),
            _ => return Took::Nothing,
        }
        Took::Value
    }

    /// The value; `updated` is the time of the newest event that was taken, if there was one.
    pub(super) fn value(&self, plan: &Plan, as_of: &AsOf, updated: Option<i64>) -> Value {
        match self {
            Self::Count(w) => read(w, plan, as_of, |count| Value::Count(count.0)),
            Self::Sum(w) if plan.function == Function::Avg => read(w, plan, as_of, |sum| sum.average(plan.scale)),
            Self::Sum(w) => read(w, plan, as_of, |sum| sum.sum(plan.scale)),
            Self::Spread(w) => read(w, plan, as_of, |spread| spread.deviation(plan.scale)),
            Self::Extremes(w) if plan.function == Function::Min => read(w, plan, as_of, |e| e.min(plan.scale)),
            Self::Extremes(w) => read(w, plan, as_of, |e| e.max(plan.scale)),
            Self::First(w) => read(w, plan, as_of, First::value),
            Self::Recent(recent) if plan.function == Function::Last => recent.newest(plan.span, as_of),
            Self::Recent(recent) => recent.values(plan.span, as_of),
            Self::Sketch(w) => read(w, plan, as_of, |sketch| Value::Count(sketch.count(plan.precision))),
            Self::Distinct(w) => read(w, plan, as_of, Distinct::value),
            Self::Top(w) => read(w, plan, as_of, |top| top.value(plan)),
            Self::Decay(decay) => decay.value(plan.half_life, as_of.now),
            Self::Since(first) => {
                let since = if plan.function == Function::TimeSinceFirst { Some(*first) } else { updated };
                updated.and(since).map_or(Value::Null, |since| {
                    let units = i128::from(as_of.now) - i128::from(since);
                    Value::Decimal(Decimal { units: units.max(0), scale: 6 })
                })
            }
        }
    }

    /// Appends the bytes.
    pub(super) fn encode(&self, plan: &Plan, newest: i64, out: Vec<u8>) -> Vec<u8> {
        match self {
            Self::Count(w) => w.encode(plan.span, newest, out),
            Self::Sum(w) => w.encode(plan.span, newest, out),
            Self::Spread(w) => w.encode(plan.span, newest, out),
            Self::Extremes(w) => w.encode(plan.span, newest, out),
            Self::First(w) => w.encode(plan.span, newest, out),
            Self::Recent(recent) => recent.encode(plan.span, newest, out),
            Self::Sketch(w) => w.encode(plan.span, newest, out),
            Self::Distinct(w) => w.encode(plan.span, newest, out),
            Self::Top(w) => w.encode(plan.span, newest, out),
            Self::Decay(decay) => postcard::to_extend(decay, out).unwrap_or_default(),
            Self::Since(first) => postcard::to_extend(first, out).unwrap_or_default(),
        }
    }

    /// Reads what [`Slot::encode`] wrote, to the last byte.
    pub(super) fn decode(plan: &Plan, bytes: &[u8]) -> Option<Self> {
        fn windowed<'b, A: Aggregate>(
            plan: &Plan,
            bytes: &'b [u8],
            slot: impl FnOnce(Windowed<A>) -> Slot,
        ) -> Option<(Slot, &'b [u8])> {
            Windowed::decode(plan, bytes).map(|(w, rest)| (slot(w), rest))
        }
        let (slot, rest) = match Self::new(plan) {
            Self::Count(_) => windowed(plan, bytes, Self::Count),
            Self::Sum(_) => windowed(plan, bytes, Self::Sum),
            Self::Spread(_) => windowed(plan, bytes, Self::Spread),
            Self::Extremes(_) => windowed(plan, bytes, Self::Extremes),
            Self::First(_) => windowed(plan, bytes, Self::First),
            Self::Recent(_) => Recent::decode(plan, bytes).map(|(r, rest)| (Self::Recent(r), rest)),
            Self::Sketch(_) => windowed(plan, bytes, Self::Sketch),
            Self::Distinct(_) => windowed(plan, bytes, Self::Distinct),
            Self::Top(_) => windowed(plan, bytes, Self::Top),
            Self::Decay(_) => {
                let (decay, rest) = postcard::take_from_bytes::<Decay>(bytes).ok()?;
                decay.is_sound().then_some((Self::Decay(decay), rest))
            }
            Self::Since(_) => {
                postcard::take_from_bytes::<i64>(bytes).ok().map(|(first, rest)| (Self::Since(first), rest))
            }
        }?;
        rest.is_empty().then_some(slot)
    }
}

fn numbers<A: Aggregate>(
    windowed: &mut Windowed<A>,
    plan: &Plan,
    moment: &Moment,
    input: Option<&mut Input<'_>>,
    add: impl FnOnce(&mut A, i128),
) -> Took {
    let Some(units) = input.and_then(|input| input.units(plan.scale)) else { return Took::Nothing };
    if let Some(aggregate) = windowed.at(plan.span, moment) {
        add(aggregate, units.units);
    }
    if units.cut { Took::Cut } else { Took::Value }
}

fn read<A: Aggregate>(windowed: &Windowed<A>, plan: &Plan, as_of: &AsOf, value: impl FnOnce(&A) -> Value) -> Value {
    match windowed.covered(plan, as_of) {
        Some(covered) => value(&covered),
        None => value(&A::default()),
    }
}
