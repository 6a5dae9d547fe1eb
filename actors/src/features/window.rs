//! Windows: which events of a key an aggregate covers, and how that is kept small.
//!
//! Pure. Not for functions that remember single events (`recent`): those have the events' times.
//!
//! A sliding window is kept as [`TILES`] tiles that begin at multiples of the *hop*, a 60th of the window: exact at its
//! leading edge, like a saw's tooth at its end. It covers every event of the last `window`, and at most one hop more
//! (the method: "sawtooth windows", Zipline/Chronon, Airbnb, 2021). Tiles without events take no room.

use serde::{Serialize, de::DeserializeOwned};

use super::slot::Plan;
use crate::timestamp::DAY;

/// Parts of a sliding window; it ends within one of them, so it may cover up to 1/60 more than it says.
pub const TILES: i64 = 60;
/// Shortest window.
pub const WINDOW_MIN: std::time::Duration = std::time::Duration::from_secs(1);
/// Longest window.
pub const WINDOW_MAX: std::time::Duration = std::time::Duration::from_secs(3650 * DAY.unsigned_abs() / 1_000_000);

/// A window, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Span {
    /// All events.
    Lifetime,
    /// The period of this length that it is now; periods begin at multiples of their length since 1970-01-01 UTC.
    Tumbling(i64),
    /// The last so many microseconds.
    Sliding { window: i64, hop: i64 },
    /// The session, while it lasts.
    Session,
}

impl Span {
    pub(super) fn sliding(window: i64) -> Self {
        Self::Sliding { window, hop: (window + TILES - 1) / TILES }
    }

    /// Whether a value over it changes with time alone.
    pub(super) fn decays(self) -> bool {
        self != Self::Lifetime
    }

    /// The oldest event time that a window at `now` can cover exactly, for those who know the times of events.
    pub(super) fn begin(self, now: i64) -> i64 {
        match self {
            Self::Lifetime | Self::Session => i64::MIN,
            Self::Tumbling(length) => now.div_euclid(length).saturating_mul(length),
            Self::Sliding { window, .. } => now.saturating_sub(window),
        }
    }
}

/// The event that is applied, in the time of its key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    /// Of the event.
    pub(super) time: i64,
    /// Of the key's newest event, this one included.
    pub(super) newest: i64,
    /// The number of the session that the event belongs to, if that is the newest one.
    pub(super) session: Option<u64>,
}

/// When values are read, in the time of the key.
#[derive(Debug, Clone, Copy)]
pub(super) struct AsOf {
    /// The later of the reading and of the key's newest event.
    pub(super) now: i64,
    /// The number of the newest session, if it still lasts.
    pub(super) session: Option<u64>,
}

/// What is computed over the events of a window: parts of it can be put together.
pub(super) trait Aggregate: Default + Clone + Serialize + DeserializeOwned {
    /// Adds what `later` covers, which is of later events.
    fn merge(&mut self, later: &Self, plan: &Plan);
    /// Puts tiles together, earliest first: the same as merging one after the other.
    fn merged(tiles: &[(i64, Self)], plan: &Plan) -> Self {
        let mut all = Self::default();
        tiles.iter().for_each(|(_, tile)| all.merge(tile, plan));
        all
    }
    /// Whether decoded bytes make sense; what does not is refused instead of computed with.
    fn is_sound(&self, plan: &Plan) -> bool;
}

/// An aggregate over a window.
#[derive(Debug, Clone)]
pub(super) enum Windowed<A> {
    /// Of one period: the number of the period or session that it is of, 0 for a lifetime.
    One(i64, A),
    /// Of a sliding window: tiles by number, ascending.
    Tiles(Vec<(i64, A)>),
}

impl<A: Aggregate> Windowed<A> {
    pub(super) fn new(span: Span) -> Self {
        match span {
            Span::Sliding { .. } => Self::Tiles(Vec::new()),
            _ => Self::One(0, A::default()),
        }
    }

    /// The aggregate that takes the event; `None` when the window has moved past it.
    pub(super) fn at(&mut self, span: Span, moment: &Moment) -> Option<&mut A> {
        match (self, span) {
            (Self::One(_, value), Span::Lifetime) => Some(value),
            (Self::One(period, value), Span::Tumbling(length)) => {
                let now = moment.newest.div_euclid(length);
                (moment.time.div_euclid(length) == now).then(|| begin(period, value, now))
            }
            (Self::One(period, value), Span::Session) => {
                moment.session.map(|session| begin(period, value, session as i64))
            }
            (Self::Tiles(tiles), Span::Sliding { window, hop }) => tile(tiles, window, hop, moment),
            _ => None, // made for another window: cannot be
        }
    }

    /// What the window covers, put together; `None` when it covers nothing.
    pub(super) fn covered(&self, plan: &Plan, as_of: &AsOf) -> Option<std::borrow::Cow<'_, A>> {
        use std::borrow::Cow;
        match (self, plan.span) {
            (Self::One(_, value), Span::Lifetime) => Some(Cow::Borrowed(value)),
            (Self::One(period, value), Span::Tumbling(length)) => {
                (*period == as_of.now.div_euclid(length)).then_some(Cow::Borrowed(value))
            }
            (Self::One(period, value), Span::Session) => {
                as_of.session.is_some_and(|session| *period == session as i64).then_some(Cow::Borrowed(value))
            }
            (Self::Tiles(tiles), Span::Sliding { window, hop }) => match live(tiles, window, hop, as_of.now) {
                [] => None,
                [(_, only)] => Some(Cow::Borrowed(only)),
                live => Some(Cow::Owned(A::merged(live, plan))),
            },
            _ => None,
        }
    }

    /// Appends the bytes; tiles that no reading can cover any more are left out.
    pub(super) fn encode(&self, span: Span, newest: i64, out: Vec<u8>) -> Vec<u8> {
        let encoded = match (self, span) {
            (Self::Tiles(tiles), Span::Sliding { window, hop }) => {
                postcard::to_extend(&ByDistance(live(tiles, window, hop, newest)), out)
            }
            (Self::Tiles(tiles), _) => postcard::to_extend(&ByDistance(tiles), out),
            (Self::One(period, value), _) => postcard::to_extend(&(period, value), out),
        };
        encoded.unwrap_or_default() // writing to memory cannot fail
    }

    /// Reads what [`Windowed::encode`] wrote.
    pub(super) fn decode<'b>(plan: &Plan, bytes: &'b [u8]) -> Option<(Self, &'b [u8])> {
        if !matches!(plan.span, Span::Sliding { .. }) {
            let ((period, value), rest) = postcard::take_from_bytes::<(i64, A)>(bytes).ok()?;
            return value.is_sound(plan).then_some((Self::One(period, value), rest));
        }
        let (mut tiles, rest) = postcard::take_from_bytes::<Vec<(i64, A)>>(bytes).ok()?;
        let mut before = 0i64;
        for (number, _) in &mut tiles {
            before = before.checked_add(*number)?;
            *number = before;
        }
        let sound = tiles.len() as i64 <= TILES + 2
            && tiles.is_sorted_by(|a, b| a.0 < b.0)
            && tiles.iter().all(|(_, tile)| tile.is_sound(plan));
        sound.then_some((Self::Tiles(tiles), rest))
    }
}

/// Tiles with their numbers as distances from the one before, which take a byte instead of five.
struct ByDistance<'a, A>(&'a [(i64, A)]);

impl<A: Serialize> Serialize for ByDistance<'_, A> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut before = 0;
        serializer.collect_seq(self.0.iter().map(|(number, tile)| {
            let distance = number.wrapping_sub(before); // tiles of events are never so far apart
            before = *number;
            (distance, tile)
        }))
    }
}

/// `value` for the period `now`, begun anew if it is of another.
fn begin<'a, A: Default>(period: &mut i64, value: &'a mut A, now: i64) -> &'a mut A {
    if *period != now {
        (*period, *value) = (now, A::default());
    }
    value
}

/// The number of the first tile that a window at `now` covers.
fn first_tile(window: i64, hop: i64, now: i64) -> i64 {
    now.saturating_sub(window).div_euclid(hop)
}

fn live<A>(tiles: &[(i64, A)], window: i64, hop: i64, now: i64) -> &[(i64, A)] {
    let first = first_tile(window, hop, now);
    &tiles[tiles.partition_point(|(number, _)| *number < first)..]
}

fn tile<'a, A: Default>(tiles: &'a mut Vec<(i64, A)>, window: i64, hop: i64, moment: &Moment) -> Option<&'a mut A> {
    let number = moment.time.div_euclid(hop);
    if tiles.last().is_some_and(|(last, _)| *last == number) {
        return tiles.last_mut().map(|(_, tile)| tile);
    }
    let first = first_tile(window, hop, moment.newest);
    if number < first {
        return None;
    }
    let at = match tiles.binary_search_by_key(&number, |(number, _)| *number) {
        Ok(at) => at,
        Err(at) => {
            let past = tiles.partition_point(|(number, _)| *number < first);
            tiles.drain(..past);
            tiles.insert(at - past, (number, A::default()));
            at - past
        }
    };
    tiles.get_mut(at).map(|(_, tile)| tile)
}
