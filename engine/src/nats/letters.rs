//! Dead letters in the stream behind the bucket, listed in order of their sequence.
//!
//! The server knows the names of records but not the order we want, so a listing asks for all names and keeps the next
//! ones for a moment: going through many letters page by page would else ask for all of them for each page. Letters
//! themselves are never kept. Not for writing letters: they are entries of batches, see `store`.

use std::{
    sync::PoisonError,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use keyloom_actors::ports::{RecordKey, StoreError};

use super::{
    connect::chain,
    store::{GETS_IN_FLIGHT, NatsStore},
};

/// Sequences kept from one look at the names, 8 bytes each.
const LISTED_MAX: usize = 100_000;
/// How long they are good for. What is written meanwhile is of later events, with few exceptions; those are seen by the
/// next listing.
const LISTED_FOR: Duration = Duration::from_secs(10);

/// The next letters of a listing that somebody is in the middle of.
pub(super) struct Listed {
    partition: u32,
    /// The last sequence that was handed out: who asks for what follows it goes on with this listing.
    handed: u64,
    /// What follows it, descending.
    rest: Vec<u64>,
    at: Instant,
}

impl Listed {
    /// The next sequences, at most `count`.
    fn take(&mut self, count: usize) -> Vec<u64> {
        let next = self.rest.split_off(self.rest.len().saturating_sub(count));
        self.handed = next.first().copied().unwrap_or(self.handed);
        next.into_iter().rev().collect()
    }

    fn goes_on(&self, partition: u32, after: u64) -> bool {
        self.partition == partition && self.handed == after && !self.rest.is_empty() && self.at.elapsed() < LISTED_FOR
    }
}

/// The smallest sequences of those pushed, in bounded memory.
#[derive(Default)]
struct Smallest(Vec<u64>);

impl Smallest {
    fn push(&mut self, seq: u64) {
        self.0.push(seq);
        if self.0.len() == 2 * LISTED_MAX {
            self.0.select_nth_unstable(LISTED_MAX);
            self.0.truncate(LISTED_MAX);
        }
    }

    fn descending(mut self) -> Vec<u64> {
        self.0.sort_unstable();
        self.0.truncate(LISTED_MAX);
        self.0.reverse();
        self.0
    }
}

impl NatsStore {
    /// See the port.
    pub(super) async fn list_letters(
        &self,
        partition: u32,
        mut after: u64,
        limit: usize,
    ) -> Result<Vec<(u64, Bytes)>, StoreError> {
        let mut found = Vec::new();
        while found.len() < limit {
            let seqs = self.letters_after(partition, after, limit - found.len()).await?;
            let Some(last) = seqs.last() else { break };
            after = *last;
            let letters = seqs.into_iter().map(|seq| {
                let store = self.clone();
                async move { Ok((seq, store.get_one(RecordKey::DeadLetter(partition, seq), false).await?)) }
            });
            let letters = stream::iter(letters).buffered(GETS_IN_FLIGHT);
            // What was removed since the names were read is no letter, nor is the marker that a delete leaves behind.
            let letters = letters.try_filter_map(|(seq, letter)| async move { Ok(letter.map(|letter| (seq, letter))) });
            found.extend(letters.try_collect::<Vec<_>>().await?);
        }
        Ok(found)
    }

    /// Sequences of the next letters, at most `count`; none when there are no more.
    async fn letters_after(&self, partition: u32, after: u64, count: usize) -> Result<Vec<u64>, StoreError> {
        let slot = || self.inner.listed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(listed) = slot().as_mut().filter(|listed| listed.goes_on(partition, after)) {
            return Ok(listed.take(count));
        }
        let filter = format!("keyloom.{}.dead.{partition}.*", self.inner.bucket);
        let names = self.inner.handle.info_builder().subjects(filter).fetch().await;
        let mut names = names.map_err(|error| self.unavailable(&chain(&error)))?;
        let mut next = Smallest::default();
        while let Some((name, _)) = names.try_next().await.map_err(|error| self.unavailable(&chain(&error)))? {
            let seq = name.rsplit('.').next().and_then(|seq| seq.parse::<u64>().ok());
            seq.filter(|seq| *seq > after).into_iter().for_each(|seq| next.push(seq));
        }
        let mut listed = Listed { partition, handed: after, rest: next.descending(), at: Instant::now() };
        let seqs = listed.take(count);
        *slot() = Some(listed);
        Ok(seqs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_goes_on_where_it_was_and_nowhere_else() {
        let mut listed = Listed { partition: 3, handed: 0, rest: vec![9, 7, 5, 2], at: Instant::now() };
        assert!(listed.goes_on(3, 0) && !listed.goes_on(2, 0) && !listed.goes_on(3, 2));
        assert_eq!(listed.take(3), [2, 5, 7]);
        assert!(listed.goes_on(3, 7) && !listed.goes_on(3, 0));
        assert_eq!(listed.take(3), [9]);
        assert!(!listed.goes_on(3, 9), "at its end somebody must look whether there is more");
    }

    #[test]
    fn the_smallest_are_kept_in_bounded_memory() {
        let mut smallest = Smallest::default();
        for seq in (1..=5 * LISTED_MAX as u64).rev() {
            smallest.push(seq);
            assert!(smallest.0.len() < 2 * LISTED_MAX);
        }
        let expected: Vec<u64> = (1..=LISTED_MAX as u64).rev().collect();
        assert_eq!(smallest.descending(), expected);
    }
}
