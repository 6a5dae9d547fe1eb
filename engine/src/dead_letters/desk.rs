//! Looks after the dead letters in the log and the store of this process.
//!
//! Works in small steps, and each step can be repeated: a crash between any two of them loses nothing and doubles nothing.
//! Who asks, and how, is not its business: see `cli/dead_letters.rs` and `faces/dead_letters.rs`.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use keyloom_actors::{
    checkpoint::record::{Checkpoint, RecordError, decode_dead_letter},
    dead_letter::{DeadLetter, Reason, redrive_id},
    event::{EventBatch, KeyPaths, key_paths::EnvelopeKeys},
    key::partition_of,
    ports::{Log, LogError, LogRecord, NewRecord, RecordKey, Store, StoreError, Stored},
    timestamp::Clock,
};

use super::{Action, ChangeRequest, Filter, Halted, Letter, LetterId, ListRequest, Listing, Place, Report};
use crate::faces::observe;

/// Letters read at once; with their payloads at most 25 MiB.
const PAGE_LETTERS_MAX: usize = 100;
/// Letters that one request looks at, whether they fit or not. Behind that it answers with what it has and where to go on.
const LOOK_MAX: usize = 10_000;
/// Letters sent again before they are removed. If the process dies in between, they are sent once more. The log absorbs
/// that within its window; else the sessions do, which remember 64 events per key, so this stays well below.
const ROUND_LETTERS_MAX: usize = 32;

/// See the module.
pub struct Desk {
    log: Arc<dyn Log>,
    store: Arc<dyn Store>,
    keys: KeyPaths,
    partitions: u32,
    clock: Arc<dyn Clock>,
}

/// It was not done, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum DeskError {
    /// The request makes no sense.
    #[error("{0}")]
    Wrong(String),
    /// The store does not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log does not do it.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The record that says which letters count.
    #[error("partition {0}: {1}")]
    Checkpoint(u32, RecordError),
}

/// Letters that count, in order of their sequence.
struct Page {
    letters: Vec<DeadLetter>,
    /// The last one looked at, whether it counts or not; `None` when there are no more.
    last: Option<u64>,
}

impl Desk {
    /// For the letters of `partitions` partitions; `keys` says how the key of an event is found.
    pub fn new(
        log: Arc<dyn Log>,
        store: Arc<dyn Store>,
        keys: KeyPaths,
        partitions: u32,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { log, store, keys, partitions, clock }
    }

    /// A page of letters.
    pub async fn list(&self, request: &ListRequest) -> Result<Listing, DeskError> {
        let filter = request.filter.clone().fixed(self.clock.now());
        let mut listing = Listing::default();
        let Some(mut place) = self.begin(&filter, request.after)? else { return Ok(listing) };
        let mut looked = 0;
        while listing.next.is_none() {
            let page = self.page(place.partition, place.after).await?;
            for letter in page.letters.iter().filter(|letter| filter.fits(letter, self.clock.now())) {
                if listing.dead_letters.len() == request.limit {
                    // This one is the next page's first.
                    listing.next = listing.dead_letters.last().map(|last| place_behind(last.id));
                    break;
                }
                listing.dead_letters.push(Letter::brief(place.partition, letter));
            }
            looked += PAGE_LETTERS_MAX;
            match page.last {
                Some(last) => place.after = last,
                None => match self.following(&filter, place.partition) {
                    Some(next) => place = next,
                    None => break,
                },
            }
            if looked >= LOOK_MAX && listing.next.is_none() {
                listing.next = Some(place);
            }
        }
        listing.count = listing.dead_letters.len();
        Ok(listing)
    }

    /// One letter with its payload; `None` when there is none of this name that counts.
    pub async fn show(&self, id: LetterId) -> Result<Option<Letter>, DeskError> {
        let mut unreadable = None;
        let found = self.named(id.partition, &[id.seq], |_, error| unreadable = Some(error)).await?;
        match unreadable {
            Some(error) => Err(DeskError::Store(StoreError::Corrupt(format!("dead letter {id}: {error}")))),
            None => Ok(found.first().map(|letter| Letter::full(id.partition, letter))),
        }
    }

    /// Sends letters again or removes them, oldest first; only so many that it takes seconds, see [`Report::next`].
    pub async fn change(&self, action: Action, request: &ChangeRequest) -> Result<Report, Halted<DeskError>> {
        let mut report = Report::new(action, request.dry_run);
        let changed = match request.check() {
            Err(wrong) => Err(DeskError::Wrong(wrong)),
            Ok(()) if request.ids.is_empty() => self.change_fitting(request, &mut report).await,
            Ok(()) => self.change_named(request, &mut report).await,
        };
        let (action, done) = (action.label(), report.done);
        let skipped = report.skipped.len() as u64 + report.skipped_more;
        match changed {
            Ok(()) if report.dry_run => Ok(report),
            Ok(()) => {
                tracing::info!(action, done, skipped, "changed dead letters");
                Ok(report)
            }
            Err(error) => {
                if !report.dry_run && !matches!(error, DeskError::Wrong(_)) {
                    tracing::warn!(action, done, skipped, %error, "not all dead letters were changed");
                }
                Err(Halted { report: Box::new(report), error })
            }
        }
    }

    async fn change_fitting(&self, request: &ChangeRequest, report: &mut Report) -> Result<(), DeskError> {
        let (filter, room) = (request.filter().fixed(self.clock.now()), request.room() as u64);
        let Some(mut place) = self.begin(&filter, request.after)? else { return Ok(()) };
        let mut looked = 0;
        loop {
            // What is sent again and fails again becomes a new letter behind this one, which is not meant.
            let end = match place.end {
                Some(end) => end,
                None => self.log.info(place.partition).await?.last_seq,
            };
            place.end = Some(end);
            report.next = Some(place); // should it end early
            let page = self.page(place.partition, place.after).await?;
            let is_last = page.last.is_none_or(|last| last >= end);
            let fits = |letter: &DeadLetter| letter.seq <= end && filter.fits(letter, self.clock.now());
            let mut letters = page.letters.into_iter().filter(fits);
            loop {
                let most = ROUND_LETTERS_MAX.min(usize::try_from(room - report.done).unwrap_or(usize::MAX));
                let round: Vec<DeadLetter> = letters.by_ref().take(most).collect();
                let Some(last) = round.last().map(|letter| letter.seq) else { break };
                self.act(place.partition, round, request, report).await?;
                place.after = last;
                report.next = Some(place);
                if report.done >= room {
                    return Ok(());
                }
            }
            looked += PAGE_LETTERS_MAX;
            match (is_last, page.last) {
                (false, Some(last)) => place.after = last,
                _ => match self.following(&filter, place.partition) {
                    Some(next) => place = next,
                    None => {
                        report.next = None;
                        return Ok(());
                    }
                },
            }
            if looked >= LOOK_MAX {
                report.next = Some(place);
                return Ok(());
            }
        }
    }

    async fn change_named(&self, request: &ChangeRequest, report: &mut Report) -> Result<(), DeskError> {
        let mut seqs: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
        request.ids.iter().for_each(|id| seqs.entry(id.partition).or_default().push(id.seq));
        for (partition, mut seqs) in seqs {
            seqs.sort_unstable();
            seqs.dedup();
            for round in seqs.chunks(ROUND_LETTERS_MAX) {
                let mut unreadable = Vec::new();
                let letters = self.named(partition, round, |seq, error| unreadable.push((seq, error))).await?;
                let is_there = |seq: &u64| {
                    letters.iter().any(|letter| letter.seq == *seq) || unreadable.iter().any(|(bad, _)| bad == seq)
                };
                let missing = round.iter().filter(|seq| !is_there(seq)).map(|seq| LetterId { partition, seq: *seq });
                report.missing.extend(missing);
                for (seq, error) in unreadable {
                    report.skip(LetterId { partition, seq }, format!("it cannot be read: {error}"));
                }
                self.act(partition, letters, request, report).await?;
            }
        }
        Ok(())
    }

    /// One round: all of `letters` are sent again, and then removed. It leaves its traces by itself: what comes behind it may
    /// fail, and who asked may be gone.
    async fn act(
        &self,
        partition: u32,
        letters: Vec<DeadLetter>,
        request: &ChangeRequest,
        report: &mut Report,
    ) -> Result<(), DeskError> {
        let mut envelopes = self.envelopes(partition, &letters, report.action).await?;
        let mut seqs = Vec::with_capacity(letters.len());
        let mut records: BTreeMap<u32, Vec<NewRecord>> = BTreeMap::new();
        for letter in letters {
            if report.action == Action::Redrive {
                match self.record(partition, &letter, envelopes.remove(&letter.seq), request.force) {
                    Ok((to, record)) => records.entry(to).or_default().push(record),
                    Err(why) => {
                        report.skip(LetterId { partition, seq: letter.seq }, why);
                        continue;
                    }
                }
            }
            seqs.push(letter.seq);
        }
        let done = seqs.len() as u64;
        if let (false, Some(first), Some(last)) = (request.dry_run, seqs.first(), seqs.last()) {
            let mut repeats = 0;
            for (to, records) in records {
                let stored = self.log.append(to, records).await?;
                repeats += stored.iter().filter(|stored| matches!(stored, Stored::Duplicate(_))).count() as u64;
            }
            let names: Vec<_> = seqs.iter().map(|seq| RecordKey::DeadLetter(partition, *seq)).collect();
            self.store.remove(&names).await?;
            report.already_stored += repeats;
            observe::dead_letters_changed(report.action.label(), done);
            tracing::info!(
                action = report.action.label(),
                partition,
                first,
                last,
                done,
                "changed a round of dead letters"
            );
        }
        report.done += done;
        Ok(())
    }

    /// What letters without a key came with, where the log still has them and key paths of today look there.
    async fn envelopes(
        &self,
        partition: u32,
        letters: &[DeadLetter],
        action: Action,
    ) -> Result<BTreeMap<u64, Box<EnvelopeKeys>>, DeskError> {
        let is_keyless = |letter: &&DeadLetter| letter.key.is_empty();
        let mut seqs: Vec<u64> = letters.iter().filter(is_keyless).map(|letter| letter.seq).collect();
        if action != Action::Redrive || !self.keys.reads_envelope() || seqs.is_empty() {
            return Ok(BTreeMap::new());
        }
        seqs.sort_unstable();
        let records = self.log.read(partition, &seqs).await?;
        Ok(records.into_iter().filter_map(|record| Some((record.seq, record.envelope?))).collect())
    }

    /// What a letter is in the log once more, and in which partition; or why it stays a letter.
    fn record(
        &self,
        partition: u32,
        letter: &DeadLetter,
        envelope: Option<Box<EnvelopeKeys>>,
        force: bool,
    ) -> Result<(u32, NewRecord), String> {
        let (kept, limit) = (letter.payload.len(), self.log.event_bytes_max());
        if letter.payload_bytes > kept as u64 {
            return Err(format!("only {kept} of its {} bytes were kept; send the event again", letter.payload_bytes));
        }
        if kept > limit {
            return Err(format!("it has {kept} bytes, the log takes at most {limit}"));
        }
        let given = Bytes::copy_from_slice(letter.key.as_bytes());
        let key = Some(given.clone()).filter(|key| !key.is_empty());
        // Judged as the engine will judge it: with the topology of today, which may find a key where there was none.
        let (seq, stored, payload) = (letter.seq, letter.stored, letter.payload.clone());
        let record = LogRecord { seq, stored, key, payload, scanned: None, envelope };
        let batch = EventBatch::decode(partition, vec![record], &self.keys, None);
        let event = batch.get(0).event();
        // The log takes a letter's key for a sign that somebody has judged the event.
        if event.refused.is_none()
            && letter.reason == Reason::Schema
            && !force
            && let Err(text) = batch.get(0).check(&self.keys)
        {
            return Err(again(Reason::Schema, &text));
        }
        let (to, key) = match &event.refused {
            Some(refused) if !force => {
                return Err(again(refused.reason, &refused.text));
            }
            Some(_) => (partition, given),
            // Where it was is where its session is.
            None if !given.is_empty() => (partition, given),
            None => {
                let key = Bytes::copy_from_slice(event.key.as_bytes());
                (partition_of(&key, self.partitions), key)
            }
        };
        let dedupe_id = Some(redrive_id(partition, letter.seq));
        Ok((to, NewRecord { key, dedupe_id, payload: letter.payload.clone(), scanned: None }))
    }

    /// Where to begin; `None` where nothing can fit.
    fn begin(&self, filter: &Filter, after: Option<Place>) -> Result<Option<Place>, DeskError> {
        if let Some(partition) = filter.partition.filter(|partition| *partition >= self.partitions) {
            let text = format!("there is no partition {partition}; this topology has {}", self.partitions);
            return Err(DeskError::Wrong(text));
        }
        let first = Place { partition: filter.partition.unwrap_or(0), after: 0, end: None };
        let place = after.filter(|after| after.partition >= first.partition).unwrap_or(first);
        let last = filter.partition.unwrap_or(self.partitions - 1);
        Ok((place.partition <= last).then_some(place))
    }

    /// The beginning of the next partition.
    fn following(&self, filter: &Filter, partition: u32) -> Option<Place> {
        let next = partition + 1;
        (filter.partition.is_none() && next < self.partitions).then_some(Place { partition: next, after: 0, end: None })
    }

    async fn page(&self, partition: u32, after: u64) -> Result<Page, DeskError> {
        let records = self.store.dead_letters(partition, after, PAGE_LETTERS_MAX).await?;
        let last = records.last().map(|(seq, _)| *seq);
        let unreadable =
            |seq, error: RecordError| tracing::warn!(partition, seq, %error, "a dead letter cannot be read");
        let letters = self.valid(partition, records, unreadable).await?;
        Ok(Page { letters, last })
    }

    async fn named(
        &self,
        partition: u32,
        seqs: &[u64],
        unreadable: impl FnMut(u64, RecordError),
    ) -> Result<Vec<DeadLetter>, DeskError> {
        if partition >= self.partitions {
            return Ok(Vec::new());
        }
        let names: Vec<RecordKey> = seqs.iter().map(|seq| RecordKey::DeadLetter(partition, *seq)).collect();
        let values = self.store.get(&names).await?;
        let records = seqs.iter().copied().zip(values).filter_map(|(seq, value)| value.map(|value| (seq, value)));
        self.valid(partition, records.collect(), unreadable).await
    }

    /// Those of `records` whose checkpoint has committed. Others belong to an owner that is still at work or died over it.
    async fn valid(
        &self,
        partition: u32,
        records: Vec<(u64, Bytes)>,
        mut unreadable: impl FnMut(u64, RecordError),
    ) -> Result<Vec<DeadLetter>, DeskError> {
        if records.is_empty() {
            return Ok(Vec::new());
        }
        let found = self.store.get(&[RecordKey::Checkpoint(partition)]).await?.into_iter().next().flatten();
        let Some(found) = found else { return Ok(Vec::new()) };
        let checkpoint = Checkpoint::decode(&found).map_err(|error| DeskError::Checkpoint(partition, error))?;
        let letters = records.into_iter().filter_map(|(seq, record)| match decode_dead_letter(&record) {
            Ok((letter, tag)) => checkpoint.is_valid(tag).then_some(letter),
            Err(error) => {
                unreadable(seq, error);
                None
            }
        });
        Ok(letters.collect())
    }
}

fn again(reason: Reason, text: &str) -> String {
    format!("it would be a dead letter again: {}: {text} (force sends it all the same)", reason.label())
}

fn place_behind(id: LetterId) -> Place {
    Place { partition: id.partition, after: id.seq, end: None }
}

#[cfg(test)]
#[path = "desk_tests.rs"]
pub(super) mod tests;
