//! The port to a feature backend: a database of somebody else's (Redis, DynamoDB) that has the feature answers too, for
//! those who read them there; and what decides which of two answers is the later one.
//!
//! Values and a trait. When what is put is decided in `forward`; the built-in store stays the truth.

pub mod forward;
pub mod forwarder;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{key::Key, timestamp::Timestamp};

/// Length of a [`Version`] and of a [`Mark`] as text.
pub const TEXT_LEN: usize = 64;

/// Which of two answers of a key is the later one: fields count in their order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Version {
    /// Which log the sequence is of: grows when a store begins anew.
    pub generation: u64,
    /// The last sequence in the answer.
    pub seq: u64,
    /// The owner that published it, or read it back from the store.
    pub epoch: u64,
    /// Counts what this owner published; what it reads back is as late as what it had published before it read.
    pub number: u64,
}

/// How far a partition's owner has come in a backend: moves with every call, so a backend that has lost writes shows an
/// older one, or none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Mark {
    /// As in [`Version`].
    pub generation: u64,
    /// The owner that moved it.
    pub epoch: u64,
    /// Calls of that owner.
    pub count: u64,
    /// The highest sequence that was ever put.
    pub seq: u64,
}

/// What the store knows of the backend. Written by the committer, read when a partition starts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Progress {
    /// Which backend, see [`FeatureBackend::place`].
    pub place: String,
    /// The generation of all that is put.
    pub generation: u64,
    /// The backend has everything that was published up to the cut of this checkpoint; `None` when that is not known.
    pub complete: Option<u64>,
    /// The mark that the backend had then.
    pub mark: Option<Mark>,
}

/// An answer on its way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Put {
    /// Whose.
    pub key: Key,
    /// Its place among the answers of the key.
    pub version: Version,
    /// Event time of the newest event in it.
    pub event_time: Timestamp,
    /// The answer as JSON, values as of `event_time`.
    pub answer: Bytes,
}

/// What became of a [`Put`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The backend has it.
    Written,
    /// The backend has a later one, of this version.
    Older(Version),
    /// It may be tried again, for this reason.
    Failed(String),
    /// It cannot be put, whatever anybody tries: the reason, and what to do.
    Unfit(String),
}

/// Why a backend did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// It may or may not have happened; worth trying again.
    #[error("the feature backend did not answer: {0}")]
    Unavailable(String),
    /// Trying again helps only when a person has changed something (credentials, permissions, the table).
    #[error("the feature backend refused: {0}")]
    Refused(String),
    /// The mark is neither the one to follow nor the one to leave: writes were lost, or somebody else puts.
    #[error("the feature backend has another mark than was left there")]
    Moved,
}

/// A place for feature answers beside the store. All calls of one partition come one after the other, but what one owner
/// has given up may arrive during the life of the next.
#[async_trait]
pub trait FeatureBackend: Send + Sync + 'static {
    /// Which place, for people and to tell it from another: everything that changes what is put, and nothing secret.
    fn place(&self) -> String;

    /// The mark of `partition` now.
    async fn mark(&self, partition: u32) -> Result<Option<Mark>, BackendError>;

    /// Puts each answer unless the backend has one of a later version, and moves the mark of the partition to `to` if it
    /// is `from` or, when the answer of an earlier try was lost, `to` already. Nobody who reads may see a later answer
    /// replaced by an earlier one. If it is another mark, the error is [`BackendError::Moved`], and some answers may have
    /// been put. Without answers it only moves the mark. Outcomes come in the order of `puts`.
    async fn put(
        &self,
        partition: u32,
        puts: &[Put],
        from: Option<Mark>,
        to: Mark,
    ) -> Result<Vec<Outcome>, BackendError>;
}

fn to_text(numbers: [u64; 4]) -> String {
    let [a, b, c, d] = numbers;
    format!("{a:016x}{b:016x}{c:016x}{d:016x}")
}

fn from_text(text: &str) -> Option<[u64; 4]> {
    let is_ours = text.len() == TEXT_LEN && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let number = |at: usize| u64::from_str_radix(&text[at * 16..(at + 1) * 16], 16).ok();
    is_ours.then(|| Some([number(0)?, number(1)?, number(2)?, number(3)?])).flatten()
}

impl Version {
    /// 64 hexadecimal digits that sort as versions do.
    pub fn to_text(self) -> String {
        to_text([self.generation, self.seq, self.epoch, self.number])
    }

    /// The inverse of [`Version::to_text`].
    pub fn from_text(text: &str) -> Option<Self> {
        from_text(text).map(|[generation, seq, epoch, number]| Self { generation, seq, epoch, number })
    }
}

impl Mark {
    /// 64 hexadecimal digits that sort as marks do.
    pub fn to_text(self) -> String {
        to_text([self.generation, self.epoch, self.count, self.seq])
    }

    /// The inverse of [`Mark::to_text`].
    pub fn from_text(text: &str) -> Option<Self> {
        from_text(text).map(|[generation, epoch, count, seq]| Self { generation, epoch, count, seq })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn texts_sort_as_versions_and_marks_do_and_come_back(a in any::<[u64; 4]>(), b in any::<[u64; 4]>(), same in 0usize..5) {
            let b: [u64; 4] = std::array::from_fn(|at| if at < same { a[at] } else { b[at] });
            let version = |[generation, seq, epoch, number]: [u64; 4]| Version { generation, seq, epoch, number };
            let mark = |[generation, epoch, count, seq]: [u64; 4]| Mark { generation, epoch, count, seq };
            prop_assert_eq!(version(a).to_text().cmp(&version(b).to_text()), version(a).cmp(&version(b)));
            prop_assert_eq!(mark(a).to_text().cmp(&mark(b).to_text()), mark(a).cmp(&mark(b)));
            prop_assert_eq!(Version::from_text(&version(a).to_text()), Some(version(a)));
            prop_assert_eq!(Mark::from_text(&mark(a).to_text()), Some(mark(a)));
        }

        #[test]
        fn no_text_breaks_the_reading(text in "[0-9a-gA-F+é]{62,66}") {
            let read = Version::from_text(&text).map(Version::to_text);
            prop_assert!(read.is_none() || read == Some(text));
        }
    }
}
