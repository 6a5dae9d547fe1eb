//! What a topology says of a feature, and which function needs what.
//!
//! Pure values and one table. What they mean is compiled in `set`.

use std::{collections::BTreeMap, ops::Range, time::Duration};

/// One declared feature, as given.
#[derive(Debug, Clone, PartialEq)]
pub struct Definition {
    /// What is computed.
    pub function: Function,
    /// Of what: a field or a CEL expression over fields; for `ratio` and `derived` over other features.
    pub of: Option<String>,
    /// Of which events: a predicate in CEL. Key `where`.
    pub filter: Option<String>,
    /// Over which window; `None` is the lifetime of the key.
    pub window: Option<Window>,
    /// How many values `last_k`, `last_distinct_k` and `top_k` answer.
    pub k: Option<u32>,
    /// How many values `distinct` and `top_k` hold.
    pub max: Option<u32>,
    /// Precision of `approx_distinct`.
    pub precision: Option<u8>,
    /// Half-life of `exp_decay`.
    pub half_life: Option<Duration>,
    /// Digits behind the point that numbers are kept with.
    pub scale: Option<u8>,
    /// A value whose newest event is older than this is no longer served: it reads `null`.
    pub ttl: Option<Duration>,
}

impl Definition {
    /// Only a function.
    pub fn new(function: Function) -> Self {
        Self {
            function,
            of: None,
            filter: None,
            window: None,
            k: None,
            max: None,
            precision: None,
            half_life: None,
            scale: None,
            ttl: None,
        }
    }
}

/// The window of a feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// All events of the key.
    Lifetime,
    /// The period of this length that it is now: an hour, a day (UTC).
    Tumbling(Duration),
    /// The last so long.
    Sliding(Duration),
    /// The session, while it lasts.
    Session,
}

/// What holds for all features.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// An event older than the key's newest by more than this is late: counted, and nothing else.
    pub lateness: Duration,
    /// A pause in event time of at least this long ends a session.
    pub session_gap: Duration,
    /// The fields that events have, if that is known: then a name that is not among them is a mistake.
    pub fields: Option<BTreeMap<String, FieldType>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { lateness: Duration::from_secs(72 * 3600), session_gap: Duration::from_secs(30 * 60), fields: None }
    }
}

impl FieldType {
    /// The types by their names in a topology.
    pub const NAMES: &[(&'static str, Self)] = &[
        ("text", Self::Text),
        ("number", Self::Number),
        ("bool", Self::Bool),
        ("nested", Self::Nested),
        ("any", Self::Any),
    ];
}

/// The type of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldType {
    /// A text.
    Text,
    /// A number.
    Number,
    /// `true` or `false`.
    Bool,
    /// An object or an array.
    Nested,
    /// Any of these.
    Any,
}

/// What is wrong with a definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefinitionProblem {
    /// The feature.
    pub feature: String,
    /// The key: `function`, `of`, `where`, `window`, `k`, `max`, `precision`, `half_life`, `scale`, `ttl`; `name` for the
    /// name itself.
    pub field: &'static str,
    /// What is wrong.
    pub text: String,
    /// What to do about it; may be empty.
    pub help: String,
    /// Where in the expression, in bytes of its text.
    pub at: Option<Range<usize>>,
}

/// Whether a function takes a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// It has to be there.
    Required,
    /// It may be there.
    Optional,
    /// It has no meaning there.
    Never,
}

macro_rules! functions {
    ($($(#[$doc:meta])* $id:ident = $name:literal: $of:ident, $windows:literal, [$($key:literal),*];)+) => {
        /// What a feature computes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Function { $($(#[$doc])* $id,)+ }

        impl Function {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$id),+];
            /// Their names, in the same order.
            pub const NAMES: &[&'static str] = &[$($name),+];

            /// Its name in a topology.
            pub fn name(self) -> &'static str {
                match self { $(Self::$id => $name),+ }
            }

            /// Whether it needs `of`.
            pub fn of(self) -> Need {
                match self { $(Self::$id => Need::$of),+ }
            }

            /// Whether it takes other windows than the lifetime.
            pub fn takes_windows(self) -> bool {
                match self { $(Self::$id => $windows),+ }
            }

            /// The keys it takes beside `function`, `of` and `window`.
            pub fn keys(self) -> &'static [&'static str] {
                match self { $(Self::$id => &[$($key),*]),+ }
            }
        }
    };
}

functions! {
    /// How many events; with `of`, how many in which it is not null.
    Count = "count": Optional, true, ["where", "ttl"];
    /// Sum of numbers, exact.
    Sum = "sum": Required, true, ["where", "scale", "ttl"];
    /// Mean of numbers.
    Avg = "avg": Required, true, ["where", "scale", "ttl"];
    /// Smallest number.
    Min = "min": Required, true, ["where", "scale", "ttl"];
    /// Largest number.
    Max = "max": Required, true, ["where", "scale", "ttl"];
    /// Standard deviation of numbers, of the population.
    Stddev = "stddev": Required, true, ["where", "scale", "ttl"];
    /// Value of the earliest event.
    First = "first": Required, true, ["where", "ttl"];
    /// Value of the newest event.
    Last = "last": Required, true, ["where", "ttl"];
    /// Values of the `k` newest events, newest first.
    LastK = "last_k": Required, true, ["where", "k", "ttl"];
    /// The `k` distinct values that occurred last, newest first.
    LastDistinctK = "last_distinct_k": Required, true, ["where", "k", "ttl"];
    /// How many distinct values, approximately.
    ApproxDistinct = "approx_distinct": Required, true, ["where", "precision", "ttl"];
    /// Which distinct values, up to `max`.
    Distinct = "distinct": Required, true, ["where", "max", "ttl"];
    /// The `k` most frequent values with their counts.
    TopK = "top_k": Required, true, ["where", "k", "max", "ttl"];
    /// A count, or with `of` a sum, in which what happened counts half as much after each half-life.
    ExpDecay = "exp_decay": Optional, false, ["where", "half_life", "ttl"];
    /// Seconds since the newest event.
    TimeSinceLast = "time_since_last": Never, false, ["where", "ttl"];
    /// Seconds since the earliest event.
    TimeSinceFirst = "time_since_first": Never, false, ["where", "ttl"];
    /// One feature divided by another: `of = "orders / visits"`.
    Ratio = "ratio": Required, false, [];
    /// A CEL expression over other features.
    Derived = "derived": Required, false, [];
    /// Number of the newest session, from 1.
    SessionIndex = "session_index": Never, false, [];
    /// Whether the newest session still lasts.
    SessionActive = "session_active": Never, false, [];
    /// Seconds from the first to the last event of the newest session.
    SessionDuration = "session_duration": Never, false, [];
    /// Events of the newest session.
    SessionEvents = "session_events": Never, false, [];
    /// Page views of the newest session.
    SessionPages = "session_pages": Never, false, [];
    /// Page of the first page view of the newest session.
    SessionEntryPage = "session_entry_page": Never, false, [];
    /// Page of the last page view of the newest session.
    SessionExitPage = "session_exit_page": Never, false, [];
    /// Whether the newest session is at most one page view and nothing else, page pings apart.
    SessionBounce = "session_bounce": Never, false, [];
    /// Seconds of the newest session in which the user did something: ten for each ten-second slot with an event.
    SessionEngaged = "session_engaged": Never, false, [];
}

impl Function {
    /// The function of this name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|function| function.name() == name)
    }

    /// Whether it says something of the newest session.
    pub(super) fn is_of_session(self) -> bool {
        self as usize >= Self::SessionIndex as usize
    }

    /// Whether it is computed from other features.
    pub(super) fn is_derived(self) -> bool {
        matches!(self, Self::Ratio | Self::Derived)
    }

    /// Whether it computes with numbers.
    pub(super) fn is_numeric(self) -> bool {
        matches!(self, Self::Sum | Self::Avg | Self::Min | Self::Max | Self::Stddev | Self::ExpDecay)
    }

    /// Whether its value changes with time alone, whatever its window.
    pub(super) fn decays(self) -> bool {
        matches!(self, Self::ExpDecay | Self::TimeSinceFirst | Self::TimeSinceLast | Self::SessionActive)
    }
}
