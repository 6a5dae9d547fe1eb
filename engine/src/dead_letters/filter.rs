//! Which letters somebody means, as text and as a test of one letter.
//!
//! Pure: relative times ask for "now" when they are used.

use std::{fmt, str::FromStr, time::Duration};

use keyloom_actors::{
    dead_letter::{DeadLetter, Reason},
    timestamp::Timestamp,
};
use serde::{Deserialize, Serialize};

use crate::topology::{duration_text, parse_duration};

/// What a letter must be like; what is not said fits all.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct Filter {
    /// Given up for this reason: parse, no_key, too_large, schema, reject, error, panic, stuck, killer
    #[arg(long, value_parser = parse_reason)]
    pub reason: Option<Reason>,
    /// Of this key, whole and case-sensitive
    #[arg(long)]
    pub key: Option<String>,
    /// Stored at this time or later: 2026-11-20T10:00:00Z, or 2h for two hours ago
    #[arg(long, value_name = "TIME")]
    pub since: Option<When>,
    /// Stored before this time
    #[arg(long, value_name = "TIME")]
    pub until: Option<When>,
    /// In this partition
    #[arg(long)]
    pub partition: Option<u32>,
}

/// A point in time as people say it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum When {
    /// This one.
    At(Timestamp),
    /// So long ago.
    Ago(Duration),
}

/// The name of a letter: `PARTITION:SEQ`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LetterId {
    /// Partition.
    pub partition: u32,
    /// Sequence in its log.
    pub seq: u64,
}

/// How far somebody is: `PARTITION:SEQ` of the last letter looked at, and `PARTITION:SEQ:END` where only letters up to
/// sequence `END` are meant. So a redrive ends, although what fails again becomes new letters behind it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Place {
    /// Partition.
    pub partition: u32,
    /// Letters up to here are done.
    pub after: u64,
    /// Letters behind this one are not meant.
    pub end: Option<u64>,
}

impl Filter {
    /// Whether it lets every letter pass.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The same with times that do not move while the work goes on.
    #[must_use]
    pub fn fixed(self, now: Timestamp) -> Self {
        let fix = |when: Option<When>| when.map(|when| When::At(when.at(now)));
        Self { since: fix(self.since), until: fix(self.until), ..self }
    }

    /// Whether a letter of the right partition is meant.
    pub fn fits(&self, letter: &DeadLetter, now: Timestamp) -> bool {
        self.reason.is_none_or(|reason| letter.reason == reason)
            && self.key.as_ref().is_none_or(|key| letter.key == *key)
            && self.since.is_none_or(|since| letter.stored >= since.at(now))
            && self.until.is_none_or(|until| letter.stored < until.at(now))
    }

    /// Takes one pair of a query; false when it is none of a filter.
    pub fn set(&mut self, name: &str, value: &str) -> Result<bool, String> {
        match name {
            "reason" => self.reason = Some(parse_reason(value)?),
            "key" => self.key = Some(value.to_owned()),
            "since" => self.since = Some(value.parse()?),
            "until" => self.until = Some(value.parse()?),
            "partition" => {
                let number = value.parse().map_err(|_| format!("partition={value} is not the number of a partition"));
                self.partition = Some(number?);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The pairs of a query that say the same.
    pub fn pairs(&self) -> impl Iterator<Item = (&'static str, String)> {
        let pairs = [
            ("reason", self.reason.map(|reason| reason.label().to_owned())),
            ("key", self.key.clone()),
            ("since", self.since.map(String::from)),
            ("until", self.until.map(String::from)),
            ("partition", self.partition.map(|partition| partition.to_string())),
        ];
        pairs.into_iter().filter_map(|(name, value)| value.map(|value| (name, value)))
    }
}

/// Reads a reason; the error names them all.
pub fn parse_reason(text: &str) -> Result<Reason, String> {
    let labels = || Reason::ALL.map(Reason::label).join(", ");
    Reason::from_label(text).ok_or_else(|| format!("there is no reason {text:?}; the reasons are {}", labels()))
}

impl When {
    /// The point in time, seen from `now`.
    pub fn at(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(at) => at,
            Self::Ago(ago) => Timestamp(now.0.saturating_sub(i64::try_from(ago.as_micros()).unwrap_or(i64::MAX))),
        }
    }
}

impl FromStr for When {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let at = Timestamp::parse(text).map(Self::At);
        at.or_else(|| parse_duration(text).map(Self::Ago)).ok_or_else(|| {
            format!("{text:?} is neither a time such as 2026-11-20T10:00:00Z nor a duration such as 30m, 2h or 7d")
        })
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(at) => f.write_str(&at.to_rfc3339()),
            Self::Ago(ago) => f.write_str(&duration_text(*ago)),
        }
    }
}

impl FromStr for LetterId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let id = text.split_once(':').and_then(|(partition, seq)| {
            Some(Self { partition: partition.parse().ok()?, seq: seq.parse().ok().filter(|seq| *seq > 0)? })
        });
        id.ok_or_else(|| {
            format!("{text:?} names no dead letter; write PARTITION:SEQ as the list shows it, such as 0:17")
        })
    }
}

impl fmt::Display for LetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.partition, self.seq)
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut numbers = text.splitn(3, ':');
        let mut place = || {
            let partition = numbers.next()?.parse().ok()?;
            let after = numbers.next()?.parse().ok()?;
            let end = numbers.next().map(str::parse).transpose().ok()?;
            Some(Self { partition, after, end })
        };
        place()
            .ok_or_else(|| format!("{text:?} is no place to go on from; take `next` of the last answer, such as 0:17"))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.partition, self.after)?;
        self.end.map_or(Ok(()), |end| write!(f, ":{end}"))
    }
}

/// These travel as their texts.
macro_rules! travels_as_text {
    ($($name:ident),+) => {
        $(
            impl TryFrom<String> for $name {
                type Error = String;
                fn try_from(text: String) -> Result<Self, String> {
                    text.parse()
                }
            }
            impl From<$name> for String {
                fn from(value: $name) -> Self {
                    value.to_string()
                }
            }
        )+
    };
}
travels_as_text!(When, LetterId, Place);

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const NOW: Timestamp = Timestamp(1_795_176_000_000_000);

    fn letter(reason: Reason, key: &str, stored: &str) -> DeadLetter {
        DeadLetter {
            seq: 1,
            key: key.to_owned(),
            reason,
            error: String::new(),
            attempts: 1,
            stored: Timestamp::parse(stored).expect("a time"),
            payload: Bytes::new(),
            payload_bytes: 0,
        }
    }

    fn filter(pairs: &[(&str, &str)]) -> Filter {
        let mut filter = Filter::default();
        for (name, value) in pairs {
            assert_eq!(filter.set(name, value), Ok(true), "{name}={value}");
        }
        filter
    }

    #[test]
    fn every_condition_must_hold() {
        let panicked = letter(Reason::Panic, "ada", "2026-11-20T10:00:00Z");
        let cases: [(&[(&str, &str)], bool); 10] = [
            (&[], true),
            (&[("reason", "panic"), ("key", "ada")], true),
            (&[("reason", "error"), ("key", "ada")], false),
            (&[("reason", "panic"), ("key", "Ada")], false),
            (&[("key", "")], false),
            (&[("since", "2026-11-20T10:00:00Z")], true),
            (&[("until", "2026-11-20T10:00:00Z")], false),
            (&[("since", "2026-11-20T09:00:00+00:00"), ("until", "2026-11-20T10:00:00.000001Z")], true),
            (&[("since", "2h")], false),
            (&[("until", "2h")], true),
        ];
        let two_hours_later = Timestamp(panicked.stored.0 + 7_200_000_001);
        for (pairs, expected) in cases {
            assert_eq!(filter(pairs).fits(&panicked, two_hours_later), expected, "{pairs:?}");
            assert_eq!(filter(pairs).fixed(two_hours_later).fits(&panicked, NOW), expected, "{pairs:?}, fixed");
        }
    }

    #[test]
    fn a_query_says_the_same_as_its_filter() {
        let pairs = [("reason", "no_key"), ("key", "ü & 1"), ("since", "2h"), ("partition", "3")];
        let filter = filter(&pairs);
        let said: Vec<_> = filter.pairs().collect();
        assert_eq!(said.iter().map(|(n, v)| (*n, v.as_str())).collect::<Vec<_>>(), pairs);
        assert!(!filter.is_empty() && Filter::default().is_empty());
        assert_eq!(Filter::default().set("limit", "3"), Ok(false));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (name, value, word) in
            [("reason", "panics", "panic, stuck"), ("since", "yesterday", "2h"), ("partition", "one", "partition=one")]
        {
            let error = Filter::default().set(name, value).expect_err("refused");
            assert!(error.contains(word), "{error}");
        }
        for text in ["", "1", "1:", ":1", "0:0", "-1:2", "0:1:2", "a:b"] {
            assert!(text.parse::<LetterId>().is_err(), "{text}");
        }
        for text in ["", "1", "0:1:", "0:1:2:3"] {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
    }

    #[test]
    fn ids_and_places_come_back_as_they_went() {
        for text in ["0:1", "63:18446744073709551615"] {
            assert_eq!(text.parse::<LetterId>().map(|id| id.to_string()), Ok(text.to_owned()));
        }
        for text in ["0:0", "2:17", "2:17:99"] {
            assert_eq!(text.parse::<Place>().map(|place| place.to_string()), Ok(text.to_owned()));
        }
    }
}
