//! What survives a kill: the log, the store and the lake, in memory. They check what no write may ever break, and note
//! it as a violation.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use keyloom_actors::{
    careful::{Care, LONE_DEATHS_MAX},
    checkpoint::record::{self, Checkpoint, Output},
    handler::row::Row,
    key::Key,
    partition::timer_index::Earliest,
    ports::{
        Claim, FeaturePage, Lake, LakeError, Log, LogError, LogInfo, LogReader, LogRecord, NewRecord, RecordKey, Store,
        StoreEntry, StoreError, Stored,
    },
    timestamp::Timestamp,
};
use tokio::sync::watch;

use super::{
    backend::Backend,
    events::STORED,
    gate::{Gate, Life, Step},
    handler::{Tally, TallyRow},
    lock,
    weather::{Fate, Weather},
};

/// Violations that are kept; the first one is a failure already.
const VIOLATIONS_MAX: usize = 20;

/// Answers in one page of a walk through all of them.
const PAGE_MAX: usize = 3;

/// Names of actors are global to the process, so every world has a partition number of its own.
static PARTITIONS: AtomicU32 = AtomicU32::new(0);

/// See the module.
pub struct World {
    pub partition: u32,
    /// Most entries that the store takes in one batch.
    pub batch_max: AtomicUsize,
    /// Most events that a reader of the log gives at once.
    pub read_max: AtomicUsize,
    /// Events whose ids the log remembers to absorb repeats.
    pub window: AtomicU64,
    pub reads: Gate,
    pub gets: Gate,
    pub commits: Gate,
    pub puts: Gate,
    pub weather: Weather,
    /// The feature backend, for those who have one.
    pub backend: Backend,
    log: Mutex<Vec<LogRecord>>,
    ids: Mutex<HashMap<u128, u64>>,
    tail: watch::Sender<u64>,
    released: AtomicU64,
    lagging: AtomicU64,
    careful_starts: AtomicU64,
    /// How often a process ended from outside while this event was tried alone.
    unlucky: Mutex<HashMap<u64, u32>>,
    /// The same of the stored state of a key, while it was read alone.
    unlucky_states: Mutex<HashMap<String, u32>>,
    /// Pages of answers that were read in walks through all of them.
    pages: AtomicU64,
    store: Mutex<Records>,
    lake: Mutex<BTreeMap<String, Bytes>>,
    put_names: Mutex<Vec<String>>,
    violations: Mutex<Vec<String>>,
}

/// What the store holds.
#[derive(Default)]
struct Records {
    values: HashMap<RecordKey, Bytes>,
    epoch: u64,
    batches: u64,
    /// What undoes the batches since the last durable one, oldest first.
    undo: Vec<Vec<(RecordKey, Option<Bytes>)>>,
    answers: Vec<Answer>,
    refused: u64,
}

/// A feature answer as it was published.
#[derive(Clone, Debug)]
pub struct Answer {
    pub key: String,
    pub seq: u64,
    pub tally: Tally,
}

impl Answer {
    pub fn parse(json: &[u8]) -> Self {
        let value: serde_json::Value = serde_json::from_slice(json).expect("an answer is JSON");
        let number = |v: &serde_json::Value| v.as_u64().expect("a number");
        let features = &value["features"];
        let tally = Tally { count: number(&features["count"]), digest: number(&features["digest"]) };
        let key = value["key"].as_str().expect("a key").to_owned();
        Self { key, seq: number(&value["seq"]), tally }
    }
}

impl World {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            partition: PARTITIONS.fetch_add(1, Ordering::Relaxed),
            batch_max: AtomicUsize::new(256),
            read_max: AtomicUsize::new(usize::MAX),
            window: AtomicU64::new(u64::MAX),
            reads: Gate::default(),
            gets: Gate::default(),
            commits: Gate::default(),
            puts: Gate::default(),
            weather: Weather::default(),
            backend: Backend::default(),
            log: Mutex::default(),
            ids: Mutex::default(),
            tail: watch::Sender::new(0),
            released: AtomicU64::new(0),
            lagging: AtomicU64::new(0),
            careful_starts: AtomicU64::new(0),
            unlucky: Mutex::default(),
            unlucky_states: Mutex::default(),
            pages: AtomicU64::new(0),
            store: Mutex::default(),
            lake: Mutex::default(),
            put_names: Mutex::default(),
            violations: Mutex::default(),
        })
    }

    /// Appends events; the log absorbs repeats within its window.
    pub fn append(&self, records: impl IntoIterator<Item = NewRecord>) -> Vec<Stored> {
        let (mut log, mut ids) = (lock(&self.log), lock(&self.ids));
        let window = self.window.load(Ordering::Relaxed);
        let mut stored = Vec::new();
        for NewRecord { key, dedupe_id, payload, scanned } in records {
            let seq = log.len() as u64 + 1;
            if let Some(id) = dedupe_id {
                if let Some(before) = ids.get(&id).filter(|before| seq - **before <= window) {
                    stored.push(Stored::Duplicate(Some(*before)));
                    continue;
                }
                ids.insert(id, seq);
            }
            let key = Some(key).filter(|key| !key.is_empty());
            log.push(LogRecord { seq, stored: Timestamp(STORED + seq as i64), key, payload, scanned, envelope: None });
            stored.push(Stored::New(seq));
        }
        self.tail.send_replace(log.len() as u64);
        stored
    }

    pub fn last_seq(&self) -> u64 {
        *self.tail.borrow()
    }

    /// What the log holds.
    pub fn records(&self) -> Vec<LogRecord> {
        lock(&self.log).clone()
    }

    /// Up to where the log was told that it may forget.
    pub fn released(&self) -> u64 {
        self.released.load(Ordering::Relaxed)
    }

    /// Keys that checkpoints have left behind so far.
    pub fn lagging(&self) -> u64 {
        self.lagging.load(Ordering::Relaxed)
    }

    /// Starts so far that were in careful mode.
    pub fn careful_starts(&self) -> u64 {
        self.careful_starts.load(Ordering::Relaxed)
    }

    /// Whether processes ended from outside so often while this event was tried alone that nobody can tell it from a killer.
    pub fn is_unlucky(&self, seq: u64) -> bool {
        lock(&self.unlucky).get(&seq).is_some_and(|deaths| *deaths >= LONE_DEATHS_MAX)
    }

    /// Whether there is a stored state of which the same is true.
    pub fn has_unlucky_state(&self) -> bool {
        lock(&self.unlucky_states).values().any(|deaths| *deaths >= LONE_DEATHS_MAX)
    }

    /// Whether there is any such event.
    pub fn has_unlucky(&self) -> bool {
        lock(&self.unlucky).values().any(|deaths| *deaths >= LONE_DEATHS_MAX)
    }

    pub fn value(&self, key: &RecordKey) -> Option<Bytes> {
        lock(&self.store).values.get(key).cloned()
    }

    /// Writes past every rule: what a damaged disk does.
    pub fn damage(&self, key: RecordKey, value: Bytes) {
        lock(&self.store).values.insert(key, value);
    }

    pub fn checkpoint(&self) -> Checkpoint {
        let value = self.value(&RecordKey::Checkpoint(self.partition));
        value.map(|v| Checkpoint::decode(&v).expect("a checkpoint")).unwrap_or_default()
    }

    /// What is known of starts without progress.
    pub fn care(&self) -> Care {
        let value = self.value(&RecordKey::Care(self.partition));
        value.map(|v| Care::decode(&v).expect("a record of starts")).unwrap_or_default()
    }

    pub fn output(&self, table: &str) -> Output {
        let value = self.value(&RecordKey::Output(self.partition, table.to_owned()));
        value.map(|v| Output::decode(&v).expect("a cursor")).unwrap_or_default()
    }

    /// The last block of emitted rows that counts.
    pub fn outbox_last(&self) -> u64 {
        self.checkpoint().outbox.get(TallyRow::TABLE).map_or(0, |end| end.last)
    }

    pub fn feature(&self, key: &str) -> Option<Answer> {
        let key = RecordKey::Feature(Key::new(key).expect("a key"));
        self.value(&key).map(|v| Answer::parse(&v))
    }

    /// Every answer that was ever published.
    pub fn answers(&self) -> Vec<Answer> {
        lock(&self.store).answers.clone()
    }

    /// Names in the store, to look through.
    pub fn names(&self) -> Vec<RecordKey> {
        lock(&self.store).values.keys().cloned().collect()
    }

    /// Commits that were refused because the claim was lost.
    pub fn refused(&self) -> u64 {
        lock(&self.store).refused
    }

    /// Pages of answers that were read so far in walks through all of them.
    pub fn pages(&self) -> u64 {
        self.pages.load(Ordering::Relaxed)
    }

    pub fn epoch(&self) -> u64 {
        lock(&self.store).epoch
    }

    pub fn objects(&self) -> BTreeMap<String, Bytes> {
        lock(&self.lake).clone()
    }

    /// Names in the order of their puts, repeats included.
    pub fn put_names(&self) -> Vec<String> {
        lock(&self.put_names).clone()
    }

    pub fn violations(&self) -> Vec<String> {
        lock(&self.violations).clone()
    }

    pub fn violated(&self, what: String) {
        let mut violations = lock(&self.violations);
        if violations.len() < VIOLATIONS_MAX {
            violations.push(what);
        }
    }

    /// The machine loses power: the last batches that were not durable are gone, as many as `batches` at most.
    pub fn lose_power(&self, batches: usize) {
        let mut store = lock(&self.store);
        for _ in 0..batches {
            let Some(undo) = store.undo.pop() else { break };
            for (key, before) in undo.into_iter().rev() {
                match before {
                    Some(value) => drop(store.values.insert(key, value)),
                    None => drop(store.values.remove(&key)),
                }
            }
        }
    }

    fn put_now(&self, name: &str, object: Bytes) {
        lock(&self.put_names).push(name.to_owned());
        let before = lock(&self.lake).insert(name.to_owned(), object.clone());
        if before.is_some_and(|before| before != object) {
            self.violated(format!("{name} was replaced by other bytes"));
        }
    }

    fn check_batch(&self, store: &Records, entries: &[StoreEntry]) {
        let names: HashSet<_> = entries.iter().map(|(key, _)| key).collect();
        if names.len() < entries.len() {
            self.violated("a batch writes the same record twice".to_owned());
        }
        if entries.len() > self.batch_max.load(Ordering::Relaxed) {
            self.violated(format!("a batch of {} entries", entries.len()));
        }
        for (key, value) in entries {
            let (Some(after), before) = (value, store.values.get(key)) else { continue };
            match key {
                RecordKey::Feature(key) => {
                    let (after, before) = (Answer::parse(after), before.map(|b| Answer::parse(b)));
                    if before.as_ref().is_some_and(|before| after.seq < before.seq) {
                        self.violated(format!("the features of {key} went back in time: {before:?}, then {after:?}"));
                    }
                }
                RecordKey::Checkpoint(_) => {
                    let before = before.map(|b| Checkpoint::decode(b).expect("a checkpoint")).unwrap_or_default();
                    let after = Checkpoint::decode(after).expect("a checkpoint");
                    self.lagging.fetch_add(after.lagging.len() as u64, Ordering::Relaxed);
                    if after.n != before.n + 1 || after.cut < before.cut {
                        self.violated(format!("checkpoint {before:?}, then {after:?}"));
                    }
                }
                RecordKey::Output(..) => {
                    let before = before.map(|b| Output::decode(b).expect("a cursor")).unwrap_or_default();
                    let after = Output::decode(after).expect("a cursor");
                    if after.cursor < before.cursor {
                        self.violated(format!("cursor {before:?}, then {after:?}"));
                    }
                }
                RecordKey::Care(_) => {
                    let before = before.map(|b| Care::decode(b).expect("a record of starts")).unwrap_or_default();
                    let after = Care::decode(after).expect("a record of starts");
                    let is_start = after.epoch != before.epoch && after.is_careful(after.progress);
                    self.careful_starts.fetch_add(u64::from(is_start), Ordering::Relaxed);
                    if after.epoch != before.epoch {
                        self.note_unlucky(&before);
                    }
                }
                _ => {}
            }
        }
    }
}

impl World {
    /// A process starts where another one ended: over what was `left` open?
    fn note_unlucky(&self, left: &Care) {
        let log = lock(&self.log);
        for seq in left.trying.iter().filter(|seq| left.suspects.contains_key(*seq)) {
            let kills = log[*seq as usize - 1].payload.ends_with(br#""do":"kill"}"#);
            *lock(&self.unlucky).entry(*seq).or_default() += u32::from(!kills);
        }
        for key in left.reading.iter().filter(|key| left.states.contains_key(*key)) {
            *lock(&self.unlucky_states).entry(key.clone()).or_default() += 1;
        }
    }
}

/// The homes as one incarnation has them.
pub struct Ports {
    pub world: Arc<World>,
    pub life: Arc<Life>,
}

struct Reader {
    world: Arc<World>,
    life: Arc<Life>,
    next: u64,
}

impl Ports {
    /// A call that changes nothing: lost or late, it comes to the same.
    async fn sail(&self) -> Result<(), String> {
        let fate = self.world.weather.call().await;
        self.life.breathe().await;
        if fate == Fate::Fine { Ok(()) } else { Err("the network".to_owned()) }
    }
}

#[async_trait]
impl Log for Ports {
    async fn append(&self, _: u32, records: Vec<NewRecord>) -> Result<Vec<Stored>, LogError> {
        Ok(self.world.append(records))
    }

    async fn reader(&self, _: u32, from: u64) -> Result<Box<dyn LogReader>, LogError> {
        self.world.reads.pass().await.map_err(LogError::Unavailable)?;
        self.sail().await.map_err(LogError::Unavailable)?;
        self.life.step(Step::Next).await;
        Ok(Box::new(Reader { world: Arc::clone(&self.world), life: Arc::clone(&self.life), next: from }))
    }

    async fn read(&self, _: u32, seqs: &[u64]) -> Result<Vec<LogRecord>, LogError> {
        self.life.breathe().await;
        self.world.reads.pass().await.map_err(LogError::Unavailable)?;
        self.sail().await.map_err(LogError::Unavailable)?;
        self.life.step(Step::ReadAgain).await;
        let log = lock(&self.world.log);
        Ok(seqs.iter().filter_map(|seq| log.get(*seq as usize - 1).cloned()).collect())
    }

    async fn info(&self, _: u32) -> Result<LogInfo, LogError> {
        self.sail().await.map_err(LogError::Unavailable)?;
        Ok(LogInfo { first_seq: 1, last_seq: self.world.last_seq() })
    }

    async fn release(&self, _: u32, seq: u64) -> Result<(), LogError> {
        self.life.breathe().await;
        self.world.released.fetch_max(seq, Ordering::Relaxed);
        Ok(())
    }

    fn event_bytes_max(&self) -> usize {
        1 << 20
    }
}

#[async_trait]
impl LogReader for Reader {
    async fn next(&mut self, events_max: usize, _: usize) -> Result<Vec<LogRecord>, LogError> {
        self.world.reads.pass().await.map_err(LogError::Unavailable)?;
        let mut tail = self.world.tail.subscribe();
        let more = tail.wait_for(|last| *last >= self.next).await.map(drop);
        more.map_err(|e| LogError::Unavailable(e.to_string()))?;
        if self.world.weather.call().await != Fate::Fine {
            return Err(LogError::Unavailable("the network".to_owned()));
        }
        self.life.step(Step::Next).await;
        let log = lock(&self.world.log);
        let most = events_max.min(self.world.read_max.load(Ordering::Relaxed));
        let records: Vec<_> = log.iter().skip(self.next as usize - 1).take(most).cloned().collect();
        self.next += records.len() as u64;
        Ok(records)
    }
}

#[async_trait]
impl Store for Ports {
    async fn claim(&self, partition: u32, _: &str) -> Result<Claim, StoreError> {
        let fate = self.world.weather.call().await;
        self.life.step(Step::Claim).await;
        if fate == Fate::Lost {
            return Err(StoreError::Unavailable("the network".to_owned()));
        }
        let mut store = lock(&self.world.store);
        store.epoch += 1;
        store.batches = 0;
        store.undo.clear(); // a claim is durable, and with it everything before
        if fate != Fate::Fine {
            return Err(StoreError::Unavailable("the network".to_owned()));
        }
        Ok(Claim { partition, epoch: store.epoch, fence: store.epoch, head: 0 })
    }

    async fn get(&self, keys: &[RecordKey]) -> Result<Vec<Option<Bytes>>, StoreError> {
        self.life.breathe().await;
        self.world.gets.pass().await.map_err(StoreError::Unavailable)?;
        self.sail().await.map_err(StoreError::Unavailable)?;
        if keys.iter().any(|key| matches!(key, RecordKey::State(..))) {
            self.world.weather.read_states().await;
        }
        self.life.step(Step::Get(keys)).await;
        let store = lock(&self.world.store);
        Ok(keys.iter().map(|key| store.values.get(key).cloned()).collect())
    }

    async fn commit(
        &self,
        claim: &mut Claim,
        head: Bytes,
        entries: Vec<StoreEntry>,
        durable: bool,
    ) -> Result<(), StoreError> {
        self.life.breathe().await;
        self.world.commits.pass().await.map_err(StoreError::Unavailable)?;
        // A home finds out by itself what became of a batch whose answer was lost.
        if self.world.weather.call().await == Fate::Lost {
            self.life.breathe().await;
            return Err(StoreError::Unavailable("the network".to_owned()));
        }
        self.life.step(Step::Commit(&entries)).await;
        {
            let mut store = lock(&self.world.store);
            if (claim.epoch, claim.head) != (store.epoch, store.batches) {
                store.refused += 1;
                return Err(StoreError::Fenced(claim.partition));
            }
            self.world.check_batch(&store, &entries);
            let mut undo = Vec::new();
            for (key, value) in entries.iter().cloned().chain([(RecordKey::Head(claim.partition), Some(head))]) {
                if let (RecordKey::Feature(_), Some(json)) = (&key, &value) {
                    store.answers.push(Answer::parse(json));
                }
                let before = match value {
                    Some(value) => store.values.insert(key.clone(), value),
                    None => store.values.remove(&key),
                };
                undo.push((key, before));
            }
            store.undo.push(undo);
            if durable {
                store.undo.clear();
            }
            store.batches += 1;
        }
        self.world.weather.call().await;
        self.life.step(Step::Committed(&entries)).await;
        claim.head += 1;
        Ok(())
    }

    fn batch_max(&self) -> usize {
        self.world.batch_max.load(Ordering::Relaxed)
    }

    async fn dead_letters(&self, partition: u32, after: u64, limit: usize) -> Result<Vec<(u64, Bytes)>, StoreError> {
        let store = lock(&self.world.store);
        let letters = store.values.iter().filter_map(|(name, value)| match name {
            RecordKey::DeadLetter(p, seq) if *p == partition && *seq > after => Some((*seq, value.clone())),
            _ => None,
        });
        let letters: BTreeMap<u64, Bytes> = letters.collect();
        Ok(letters.into_iter().take(limit).collect())
    }

    async fn first_timers(&self, partition: u32, max: usize) -> Result<Vec<(Timestamp, Key)>, StoreError> {
        if self.world.weather.call().await != Fate::Fine {
            return Err(StoreError::Unavailable("the network".to_owned()));
        }
        let store = lock(&self.world.store);
        let mut earliest = Earliest::new(max);
        for (name, value) in &store.values {
            if let RecordKey::Timer(p, key) = name
                && *p == partition
            {
                earliest.push(record::decode_first_timer(value).expect("a time"), key.clone());
            }
        }
        Ok(earliest.done())
    }

    async fn features(&self, after: Option<&Bytes>, limit: usize, _: usize) -> Result<FeaturePage, StoreError> {
        self.life.breathe().await;
        self.world.gets.pass().await.map_err(StoreError::Unavailable)?;
        self.sail().await.map_err(StoreError::Unavailable)?;
        self.world.pages.fetch_add(1, Ordering::Relaxed);
        let store = lock(&self.world.store);
        let features = store.values.iter().filter_map(|(name, answer)| match name {
            RecordKey::Feature(key) => Some((key.as_str().as_bytes(), (key.clone(), answer.clone()))),
            _ => None,
        });
        let behind: BTreeMap<_, _> = features.filter(|(key, _)| after.is_none_or(|after| *key > &after[..])).collect();
        // Few at a time, so that much happens between pages.
        let answers: Vec<_> = behind.into_values().take(limit.min(PAGE_MAX)).collect();
        let next = answers.last().map(|(key, _)| Bytes::copy_from_slice(key.as_str().as_bytes()));
        Ok(FeaturePage { answers, next })
    }

    async fn remove(&self, keys: &[RecordKey]) -> Result<(), StoreError> {
        let fate = self.world.weather.call().await;
        self.life.step(Step::Remove).await;
        if fate != Fate::Lost {
            let mut store = lock(&self.world.store);
            for key in keys {
                if let RecordKey::Outbox(partition, table, number) = key {
                    let output = store.values.get(&RecordKey::Output(*partition, table.clone()));
                    let output = output.map(|o| Output::decode(o).expect("a cursor")).unwrap_or_default();
                    if *number > output.cursor {
                        self.world.violated(format!("{key:?} is removed before it is in the lake"));
                    }
                }
                store.values.remove(key);
            }
        }
        if fate == Fate::Fine { Ok(()) } else { Err(StoreError::Unavailable("the network".to_owned())) }
    }
}

#[async_trait]
impl Lake for Ports {
    async fn put(&self, name: &str, object: Bytes) -> Result<(), LakeError> {
        self.life.breathe().await;
        self.world.puts.pass().await.map_err(LakeError::Unavailable)?;
        let lost = || Err(LakeError::Unavailable("the network".to_owned()));
        let fate = self.world.weather.call().await;
        self.life.step(Step::Put(name)).await;
        match fate {
            Fate::Fine | Fate::AnswerLost => self.world.put_now(name, object),
            Fate::Lost => return lost(),
            Fate::Late(delay) => {
                // It has left the machine: it arrives, whatever becomes of who sent it.
                let (world, name) = (Arc::clone(&self.world), name.to_owned());
                tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
                    world.put_now(&name, object);
                });
                return lost();
            }
        }
        self.life.step(Step::PutDone(name)).await;
        if fate == Fate::AnswerLost { lost() } else { Ok(()) }
    }

    async fn delete(&self, name: &str) -> Result<(), LakeError> {
        lock(&self.world.lake).remove(name);
        Ok(())
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, u64)>, LakeError> {
        let lake = lock(&self.world.lake);
        Ok(lake.iter().filter(|(n, _)| n.starts_with(prefix)).map(|(n, o)| (n.clone(), o.len() as u64)).collect())
    }
}
