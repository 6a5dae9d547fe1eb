//! Where answers come from: memory for resident keys, few questions to the store for all others; and the wait of a reader
//! for what it has written. However many keys are asked for, only some answers at a time are held.
//!
//! Not here: what is asked ([`super::ask`]), and what is said ([`super::text`]).

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use keyloom_actors::{
    answer::{Stored, cache::FeatureCache},
    features::FeatureSet,
    handler::LogicFactory,
    key::{Key, partition_of},
    partition::status::Status,
    ports::{RecordKey, Store},
    timestamp::{Clock, SystemClock, Timestamp},
};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{
    AT_ONCE_MAX, Ask, FAR_EVENTS, KEYS_AT_A_TIME, MESSAGES_BYTES_MAX, MinSeq, REFILL_AFTER, Refusal, WAITS_AT_ONCE_MAX,
    text::Progress,
};
use crate::{faces::observe, front_door::gate::Gate};

/// What answers are read from.
#[derive(Clone)]
pub struct Sources {
    /// Numbers of each partition.
    pub statuses: Vec<Arc<Status>>,
    /// Answers of resident keys.
    pub cache: Arc<FeatureCache>,
    /// Answers of all keys.
    pub store: Arc<dyn Store>,
    /// What the features of a key are.
    pub factory: Arc<dyn LogicFactory>,
}

/// See the module.
pub struct FeatureReader {
    sources: Sources,
    clock: Arc<dyn Clock>,
    room: Semaphore,
    gate: Gate,
}

/// The answers to one question, some keys at a time. Has room for its work as long as it lives.
pub struct Reading<'a> {
    reader: &'a FeatureReader,
    ask: &'a Ask,
    /// By place: somebody said that the key shows what it is asked for. Empty where nobody was asked.
    told: Vec<bool>,
    read: usize,
    some: Vec<Found>,
    answered: usize,
    /// Why the store did not answer; then it is not asked again.
    away: Option<String>,
    _room: Option<SemaphorePermit<'a>>,
}

/// What was found of one key.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Its answer as it is stored, if any event of it was published.
    pub stored: Option<Bytes>,
    /// Its partition.
    pub partition: u32,
    /// It may not show all that it was asked to.
    pub behind: bool,
    /// The store did not answer, and it is not in memory.
    pub unavailable: bool,
    /// Everything up to this sequence was published in its partition before its answer was looked for.
    published: u64,
}

impl Found {
    /// What becomes of the key when it has no answer.
    pub fn without_answer(&self) -> super::Status {
        match self {
            Self { unavailable: true, .. } => super::Status::Unavailable,
            Self { behind: true, .. } => super::Status::Behind,
            _ => super::Status::Unknown,
        }
    }

    /// Whether everything up to `seq` is known to be shown.
    fn shows(&self, seq: u64) -> bool {
        seq <= self.published || self.stored.as_deref().and_then(Stored::parse).is_some_and(|stored| stored.seq >= seq)
    }
}

impl FeatureReader {
    /// Reads from there, with the clock of the machine.
    pub fn new(sources: Sources) -> Self {
        Self {
            sources,
            clock: Arc::new(SystemClock),
            room: Semaphore::new(AT_ONCE_MAX),
            gate: Gate::telling(MESSAGES_BYTES_MAX, observe::feature_in_flight),
        }
    }

    /// The features that are declared.
    pub fn declared(&self) -> &FeatureSet {
        self.sources.factory.declared()
    }

    /// Numbers of a partition.
    pub fn status(&self, partition: u32) -> Option<&Status> {
        self.sources.statuses.get(partition as usize).map(|status| &**status)
    }

    /// How far a partition is.
    pub fn progress(&self, partition: u32) -> Progress {
        let Some(status) = self.status(partition) else { return Progress::default() };
        let (lag_events, lag_seconds) = status.lag(self.now());
        Progress { lag_events, lag_seconds, stale: status.is_stale() }
    }

    /// The time of an answer.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Room for the bytes of questions, over HTTP and gRPC.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// What there is of the keys that `ask` names; waits as it says. A reader that waits leaves its room to others.
    pub async fn read<'a>(&'a self, ask: &'a Ask) -> Result<Reading<'a>, Refusal> {
        let mut room = None;
        if ask.keys.len() > 1 {
            room = Some(self.room.try_acquire().map_err(|_| Refusal::Busy)?);
        }
        let mut told = Vec::new();
        if ask.min_seq != MinSeq::Any && !ask.wait.is_zero() {
            let all = (0..ask.keys.len()).map(|place| (place, ask.min_seq.of(self.partition_of(&ask.keys[place]))));
            let late = self.late(ask, all.filter(|(_, seq)| *seq > 0).collect()).await;
            if !late.is_empty() {
                drop(room.take());
                told = self.wait(ask, late).await;
                room = self.room_again(ask).await;
            }
        }
        let some = Vec::with_capacity(ask.keys.len().min(KEYS_AT_A_TIME));
        Ok(Reading { reader: self, ask, told, read: 0, some, answered: 0, away: None, _room: room })
    }

    /// Room for a request that was let in before and has waited: it gets it as soon as there is some.
    async fn room_again(&self, ask: &Ask) -> Option<SemaphorePermit<'_>> {
        if ask.keys.len() > 1 { self.room.acquire().await.ok() } else { None }
    }

    fn partition_of(&self, key: &Key) -> u32 {
        partition_of(key.as_str().as_bytes(), self.sources.statuses.len() as u32)
    }

    /// Those of `asked`, by place and by what they must show, that do not show it now. The answers are let go.
    async fn late(&self, ask: &Ask, mut asked: Vec<(usize, u64)>) -> Vec<(usize, u64)> {
        asked.retain(|(place, seq)| {
            self.status(self.partition_of(&ask.keys[*place])).is_none_or(|status| status.published() < *seq)
        });
        let (mut late, mut some, mut away) = (Vec::new(), Vec::new(), None);
        for asked in asked.chunks(KEYS_AT_A_TIME) {
            self.fetch(asked.iter().map(|(place, _)| &ask.keys[*place]), true, &mut some, &mut away).await;
            late.extend(asked.iter().zip(&some).filter(|((_, seq), found)| !found.shows(*seq)).map(|(late, _)| *late));
        }
        late
    }

    /// Waits for those that are late; says by place which of them were said to show what they are asked for.
    async fn wait(&self, ask: &Ask, late: Vec<(usize, u64)>) -> Vec<bool> {
        let began = Instant::now();
        let deadline = tokio::time::Instant::now() + ask.wait;
        let status = |place: usize| self.status(self.partition_of(&ask.keys[place]));
        let mut told = vec![false; ask.keys.len()];
        // What the log is far from having takes nobody's place.
        let is_far = |(place, seq): &(usize, u64)| {
            status(*place)
                .is_none_or(|status| *seq > status.log_last.load(Ordering::Relaxed).saturating_add(FAR_EVENTS))
        };
        let (far, late): (Vec<_>, Vec<_>) = late.into_iter().partition(is_far);
        // Who is shown leaves its place to the next one: a key that stays behind keeps one place, and no other key waits for it.
        let (mut rest, mut waiting, mut is_full) = (late.iter().copied(), FuturesUnordered::new(), false);
        let mut refill_at = None;
        loop {
            let free = WAITS_AT_ONCE_MAX - waiting.len();
            let is_due = refill_at.is_some_and(|at| tokio::time::Instant::now() >= at);
            if rest.len() > 0 && (free >= KEYS_AT_A_TIME || is_due) {
                refill_at = None;
                let some: Vec<_> = rest.by_ref().take(free).collect();
                let waits = some.iter().map(|(place, seq)| status(*place)?.readers.wait(&ask.keys[*place], *seq));
                let mut waits: BTreeMap<usize, _> =
                    some.iter().map(|(place, _)| *place).zip(waits.collect::<Vec<_>>()).collect();
                some.iter().for_each(|(place, _)| told[*place] = true);
                // Only now that we would be told: what was published in between counts.
                let room = self.room_again(ask).await;
                let late = self.late(ask, some).await;
                drop(room);
                for (place, _) in late {
                    told[place] = false;
                    match waits.remove(&place).flatten() {
                        Some(waits) => waiting.push(async move {
                            (place, matches!(tokio::time::timeout_at(deadline, waits).await, Ok(Ok(()))))
                        }),
                        None => is_full = true,
                    }
                }
                continue;
            }
            let came = match refill_at.filter(|_| rest.len() > 0) {
                Some(at) => tokio::time::timeout_at(at, waiting.next()).await.ok(),
                None => Some(waiting.next().await),
            };
            match came {
                Some(Some((place, came))) => {
                    told[place] = came;
                    refill_at.get_or_insert_with(|| tokio::time::Instant::now() + REFILL_AFTER);
                }
                Some(None) => break, // and nobody is left: with all places free the rest would have some
                None => {}
            }
        }
        if !far.is_empty() {
            tokio::time::sleep_until(deadline).await;
        }
        let shown = |(place, seq): &(usize, u64)| {
            told[*place] || status(*place).is_some_and(|status| status.published() >= *seq)
        };
        let outcome = match late.iter().chain(&far).all(shown) {
            true => "shown",
            false if is_full => "full",
            false => "behind",
        };
        observe::feature_wait(outcome, began.elapsed().as_secs_f64());
        told
    }

    /// Finds the answers of `keys`, in their order; `judged`: somebody will ask what they show.
    async fn fetch<'k>(
        &self,
        keys: impl Iterator<Item = &'k Key>,
        judged: bool,
        some: &mut Vec<Found>,
        away: &mut Option<String>,
    ) {
        some.clear();
        let (mut missing, mut names) = (Vec::new(), Vec::new());
        for key in keys {
            let partition = self.partition_of(key);
            // Before anything is read: what is published from now on may be missing in what is read.
            let published = if judged { self.status(partition).map_or(0, Status::published) } else { 0 };
            let stored = self.sources.cache.get(key.as_str());
            if stored.is_none() {
                missing.push(some.len());
                names.push(RecordKey::Feature(key.clone()));
            }
            some.push(Found { stored, partition, published, ..Found::default() });
        }
        if missing.is_empty() {
            return;
        }
        let stored = match away {
            None => self.sources.store.get(&names).await,
            Some(_) => Ok(Vec::new()),
        };
        let stored = stored.unwrap_or_else(|error| {
            *away = Some(error.to_string());
            Vec::new()
        });
        match away {
            None => missing.into_iter().zip(stored).for_each(|(place, stored)| some[place].stored = stored),
            Some(_) => missing.into_iter().for_each(|place| some[place].unavailable = true),
        }
    }
}

impl Reading<'_> {
    /// The next keys, in the order asked; none behind the last.
    pub async fn next(&mut self) -> Option<&[Found]> {
        let from = self.read;
        let keys = self.ask.keys.get(from..).filter(|keys| !keys.is_empty())?;
        let keys = &keys[..keys.len().min(KEYS_AT_A_TIME)];
        self.read += keys.len();
        let judged = self.ask.min_seq != MinSeq::Any;
        self.reader.fetch(keys.iter(), judged, &mut self.some, &mut self.away).await;
        for (place, found) in self.some.iter_mut().enumerate() {
            let is_told = self.told.get(from + place).copied().unwrap_or(false);
            found.behind = judged && !is_told && !found.shows(self.ask.min_seq.of(found.partition));
            self.answered += usize::from(!found.unavailable);
        }
        Some(&self.some)
    }

    /// At the end: a refusal when none of the keys could be looked up.
    pub fn end(self) -> Result<(), Refusal> {
        match self.away {
            Some(why) if self.answered == 0 => Err(Refusal::Unavailable(why)),
            _ => Ok(()),
        }
    }
}
