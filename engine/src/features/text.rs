//! How answers look: the stored text of a key with what is true only now, and pages of many keys.
//!
//! Pure, but for the turns of long work. Nothing is read that need not be: an answer of a key is its stored text with a tail.

use std::fmt::Write as _;

use keyloom_actors::{
    answer::{Chosen, Stored},
    features::FeatureSet,
    timestamp::Timestamp,
};

use super::{ANSWER_BYTES_MAX, Found, Refusal, turn::Turn};

/// What became of a key that was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// Its answer is here.
    Found,
    /// No event of it was processed yet.
    Unknown,
    /// It may not show all that it was asked to; there may be no answer at all.
    Behind,
    /// What is stored makes no sense; there is no answer.
    Unreadable,
    /// It is not in memory and the store did not answer; there is no answer now.
    Unavailable,
}

impl Status {
    /// Its name in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Found => "found",
            Self::Unknown => "unknown",
            Self::Behind => "behind",
            Self::Unreadable => "unreadable",
            Self::Unavailable => "unavailable",
        }
    }
}

/// How far a partition is, at the time of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Progress {
    /// Events that its log has beyond what was handed to sessions.
    pub lag_events: u64,
    /// While there is lag, how long ago the log had no more than was handed to sessions, in seconds.
    pub lag_seconds: f64,
    /// What is served of it may be older than it should be.
    pub stale: bool,
}

/// Puts the answers of one request together, all as of one moment.
pub struct Page<'a> {
    set: &'a FeatureSet,
    at: Timestamp,
    chosen: Option<Chosen>,
    as_of: String,
    /// What each partition that was met has to say.
    tails: Vec<(u32, String)>,
}

impl<'a> Page<'a> {
    /// A page as of `at`, with all features or the named ones.
    pub fn new(set: &'a FeatureSet, at: Timestamp, features: Option<&[String]>) -> Self {
        let chosen = features.map(|names| Chosen::new(names.iter().map(String::as_str), set));
        Self { set, at, chosen, as_of: at.to_rfc3339(), tails: Vec::new() }
    }

    /// When it is as of, as text.
    pub fn as_of(&self) -> &str {
        &self.as_of
    }

    /// Appends the answer of one key, or `null`; says what it is. `progress` is asked once per partition.
    pub fn answer(&mut self, out: &mut Vec<u8>, found: &Found, progress: impl FnOnce() -> Progress) -> Status {
        let none = found.without_answer();
        let from = out.len();
        let written = match found.stored.as_deref() {
            None => Ok(none),
            Some(stored) => self.write(out, stored, found, progress).ok_or(Status::Unreadable),
        };
        match written {
            Ok(status @ (Status::Found | Status::Behind)) if out.len() > from => status,
            Ok(status) | Err(status) => {
                out.truncate(from);
                out.extend_from_slice(b"null");
                status
            }
        }
    }

    fn write(
        &mut self,
        out: &mut Vec<u8>,
        stored: &[u8],
        found: &Found,
        progress: impl FnOnce() -> Progress,
    ) -> Option<Status> {
        let stored = Stored::parse(stored)?;
        stored.write(out, self.set, self.at, self.chosen.as_mut())?;
        out.extend_from_slice(b",\"as_of\":\"");
        out.extend_from_slice(self.as_of.as_bytes());
        out.extend_from_slice(b"\",\"age\":");
        let age = self.at.0.saturating_sub(stored.event_time.0).max(0);
        // Seconds with all micros, without the detour over a binary fraction.
        let mut text = String::with_capacity(24);
        write!(text, "{}.{:06}", age / 1_000_000, age % 1_000_000).expect("a text in memory takes more");
        out.extend_from_slice(text.as_bytes());
        out.extend_from_slice(self.tail(found.partition, progress).as_bytes());
        if found.behind {
            out.extend_from_slice(b",\"behind\":true");
        }
        out.push(b'}');
        Some(if found.behind { Status::Behind } else { Status::Found })
    }

    fn tail(&mut self, partition: u32, progress: impl FnOnce() -> Progress) -> &str {
        let place = self.tails.iter().position(|(known, _)| *known == partition).unwrap_or_else(|| {
            let Progress { lag_events, lag_seconds, stale } = progress();
            let stale = if stale { ",\"stale\":true" } else { "" };
            let tail = format!(",\"lag\":{{\"events\":{lag_events},\"seconds\":{lag_seconds:.3}}}{stale}");
            self.tails.push((partition, tail));
            self.tails.len() - 1
        });
        &self.tails[place].1
    }

    /// About how large the answer of all of `keys` becomes, by the first of them: what is stored, when all of it is wanted.
    fn size_of(&self, first: &[Found], keys: usize) -> usize {
        let stored: usize =
            first.iter().filter_map(|found| found.stored.as_ref()).map(|stored| stored.len() + 150).sum();
        let stored = stored * keys / first.len().max(1);
        (if self.chosen.is_some() { stored / 4 } else { stored }).min(ANSWER_BYTES_MAX) + keys * 16 + 64
    }
}

/// The answer to a request for many keys: `{"results":[{...}|null,...],"statuses":["found","unknown",...]}`.
pub struct Many<'a> {
    page: Page<'a>,
    keys: usize,
    out: Vec<u8>,
    statuses: Vec<Status>,
}

impl<'a> Many<'a> {
    /// Of `keys` keys.
    pub fn new(page: Page<'a>, keys: usize) -> Self {
        Self { page, keys, out: Vec::new(), statuses: Vec::with_capacity(keys) }
    }

    /// Appends the answers of the next keys; between two of them others may run.
    pub async fn add(
        &mut self,
        some: &[Found],
        progress: impl Fn(u32) -> Progress,
        turn: &mut Turn,
    ) -> Result<(), Refusal> {
        if self.out.is_empty() {
            self.out.reserve(self.page.size_of(some, self.keys));
            self.out.extend_from_slice(b"{\"results\":[");
        }
        for found in some {
            if !self.statuses.is_empty() {
                self.out.push(b',');
            }
            self.statuses.push(self.page.answer(&mut self.out, found, || progress(found.partition)));
            if self.out.len() > ANSWER_BYTES_MAX {
                return Err(Refusal::AnswerTooLarge);
            }
            turn.pause().await;
        }
        Ok(())
    }

    /// The answer, and what became of each key.
    pub fn end(self) -> (Vec<u8>, Vec<Status>) {
        let Self { mut out, statuses, .. } = self;
        out.extend_from_slice(b"],\"statuses\":[");
        for (place, status) in statuses.iter().enumerate() {
            out.extend_from_slice(if place > 0 { b",\"" } else { b"\"" });
            out.extend_from_slice(status.name().as_bytes());
            out.push(b'"');
        }
        out.extend_from_slice(b"]}");
        (out, statuses)
    }
}
