//! Stored answers to test with, and what a reader makes of them: over an engine's memory and a store that tests fill.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use keyloom_actors::{
    answer::{Head, write},
    event::{EventBatch, KeyPaths},
    features::{Definition, FeatureSet, FeatureState, Function, Settings},
    handler::{Features, Registry, session_features::SessionFeatures},
    key::Key,
    partition::status::Trouble,
    ports::{Claim, FeaturePage, LogRecord, RecordKey, Store, StoreEntry, StoreError},
    timestamp::Timestamp,
};
use serde_json::Value;

use super::*;

/// Time of the one event behind every answer here.
pub(crate) const AT: Timestamp = Timestamp(1_795_176_000_000_000);

/// Declared features: one that lasts, one that expires after an hour.
pub(crate) fn set() -> FeatureSet {
    let visits = Definition::new(Function::Count);
    let of = Some("page_url".to_owned());
    let cart = Definition { of, ttl: Some(Duration::from_secs(3_600)), ..Definition::new(Function::Last) };
    FeatureSet::compile(vec![("visits".to_owned(), visits), ("cart".to_owned(), cart)], Settings::default())
        .expect("sound definitions")
}

/// The answer of `key` after one event, as it is stored at sequence 7.
pub(crate) fn stored(key: &str, set: &FeatureSet, handler: impl FnOnce(&mut Features<'_>)) -> Bytes {
    let payload = Bytes::from_static(br#"{"domain_userid":"u","page_url":"/"}"#);
    let record = LogRecord { seq: 1, stored: AT, key: None, envelope: None, payload, scanned: None };
    let batch = EventBatch::decode(0, vec![record], &KeyPaths::new(["domain_userid"]), None);
    let mut state = FeatureState::new(set);
    state.apply(set, batch.get(0));
    let key = Key::new(key).expect("a key");
    write(Head { key: &key, partition: 0, event_time: AT, seq: 7 }, handler, Some((set, &state)))
}

/// A store that holds answers and can be away.
#[derive(Default)]
pub(crate) struct Shelf {
    pub(crate) answers: Mutex<std::collections::HashMap<RecordKey, Bytes>>,
    pub(crate) away: AtomicBool,
    /// Keys of each question so far.
    pub(crate) asked: Mutex<Vec<usize>>,
    /// What happens while a question is answered, with what was there before: the how many-th, and what.
    pub(crate) meanwhile: Mutex<Option<(usize, Meanwhile)>>,
}

type Meanwhile = Box<dyn Fn(&Shelf) + Send>;

impl Shelf {
    pub(crate) fn put(&self, key: &str, answer: Bytes) {
        let key = RecordKey::Feature(Key::new(key).expect("a key"));
        self.answers.lock().expect("no test panics with it").insert(key, answer);
    }
}

#[async_trait]
impl Store for Shelf {
    async fn claim(&self, partition: u32, _: &str) -> Result<Claim, StoreError> {
        Err(StoreError::Fenced(partition))
    }

    async fn get(&self, keys: &[RecordKey]) -> Result<Vec<Option<Bytes>>, StoreError> {
        if self.away.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable("away".to_owned()));
        }
        let asked = {
            let mut asked = self.asked.lock().expect("no test panics with it");
            asked.push(keys.len());
            asked.len()
        };
        let found = {
            let answers = self.answers.lock().expect("no test panics with it");
            keys.iter().map(|key| answers.get(key).cloned()).collect()
        };
        match &*self.meanwhile.lock().expect("no test panics with it") {
            Some((at, happens)) if *at == asked => happens(self),
            _ => {}
        }
        Ok(found)
    }

    async fn commit(&self, claim: &mut Claim, _: Bytes, _: Vec<StoreEntry>, _: bool) -> Result<(), StoreError> {
        Err(StoreError::Fenced(claim.partition))
    }

    fn batch_max(&self) -> usize {
        1
    }

    async fn features(&self, _: Option<&Bytes>, _: usize, _: usize) -> Result<FeaturePage, StoreError> {
        Ok(FeaturePage::default())
    }

    async fn dead_letters(&self, _: u32, _: u64, _: usize) -> Result<Vec<(u64, Bytes)>, StoreError> {
        Ok(Vec::new())
    }

    async fn first_timers(&self, _: u32, _: usize) -> Result<Vec<(Timestamp, Key)>, StoreError> {
        Ok(Vec::new())
    }

    async fn remove(&self, _: &[RecordKey]) -> Result<(), StoreError> {
        Ok(())
    }
}

/// A reader of one partition that runs, with its sources.
pub(crate) fn reader() -> (Arc<FeatureReader>, Sources, Arc<Shelf>) {
    let mut registry = Registry::default();
    registry.add::<SessionFeatures>("session-features");
    let factory = registry.build("session-features", serde_json::json!({}), set().into()).expect("it ships");
    let shelf = Arc::new(Shelf::default());
    let status = keyloom_actors::partition::status::Status::default();
    status.running.store(true, Ordering::Relaxed);
    let sources = Sources {
        statuses: vec![status.into()],
        cache: Arc::new(keyloom_actors::answer::cache::FeatureCache::new(100)),
        store: Arc::<Shelf>::clone(&shelf),
        factory,
    };
    (Arc::new(FeatureReader::new(sources.clone())), sources, shelf)
}

async fn page(reader: &FeatureReader, ask: &Ask) -> Value {
    tried(reader, ask).await.expect("answers")
}

async fn tried(reader: &FeatureReader, ask: &Ask) -> Result<Value, Refusal> {
    let mut reading = reader.read(ask).await?;
    let page = Page::new(reader.declared(), reader.now(), ask.features.as_deref());
    let (mut many, mut turn) = (Many::new(page, ask.keys.len()), turn::Turn::new());
    while let Some(some) = reading.next().await {
        many.add(some, |p| reader.progress(p), &mut turn).await.expect("it fits");
    }
    let (text, statuses) = many.end();
    reading.end()?;
    let page: Value = serde_json::from_slice(&text).expect("JSON");
    let names: Vec<_> = statuses.iter().map(|status| status.name()).collect();
    assert_eq!(page["statuses"], serde_json::json!(names));
    Ok(page)
}

fn ask(body: &Value) -> Ask {
    Ask::from_body(body.to_string().as_bytes()).expect("an ask")
}

fn publish(sources: &Sources, key: &str, answer: Bytes) {
    let key = Key::new(key).expect("a key");
    sources.cache.admit(0, std::slice::from_ref(&key));
    sources.cache.publish(std::iter::once((key, answer)));
}

#[tokio::test]
async fn keys_are_answered_in_order_and_the_store_is_asked_once() {
    let (reader, sources, shelf) = reader();
    for key in ["stored", "other"] {
        shelf.put(key, stored(key, &set(), |_| {}));
    }
    publish(&sources, "resident", stored("resident", &set(), |_| {}));
    shelf.put("odd", Bytes::from_static(b"{}"));
    let keys = ["stored", "nobody", "resident", "odd", "other", "stored"];
    let page = page(&reader, &ask(&serde_json::json!({"keys": keys, "features": ["visits"]}))).await;
    let found = page["results"].as_array().expect("a list");
    assert_eq!(page["statuses"], serde_json::json!(["found", "unknown", "found", "unreadable", "found", "found"]));
    for (key, answer) in keys.iter().zip(found).filter(|(key, _)| !["nobody", "odd"].contains(key)) {
        assert_eq!((&answer["key"], &answer["features"]), (&(*key).into(), &serde_json::json!({"visits": 1})));
        assert_eq!(answer["lag"], serde_json::json!({"events": 0, "seconds": 0.0}));
        let age = answer["age"].as_f64().expect("seconds");
        let as_of = Timestamp::parse(answer["as_of"].as_str().expect("a time")).expect("a time");
        assert!((as_of.seconds_since(AT) - age).abs() < 1e-6, "{answer}");
        assert!(answer["stale"].is_null() && answer["behind"].is_null() && answer["missing"].is_null());
    }
    assert_eq!((&found[1], &found[3]), (&Value::Null, &Value::Null));
    assert_eq!(*shelf.asked.lock().expect("no panic"), [5]);
}

#[tokio::test]
async fn a_store_that_is_away_leaves_what_is_in_memory_and_says_that_it_is_old() {
    let (reader, sources, shelf) = reader();
    publish(&sources, "resident", stored("resident", &set(), |_| {}));
    shelf.away.store(true, Ordering::Relaxed);
    sources.statuses[0].set_trouble(Trouble::Store, Some("the store does not take writes".to_owned()));
    let answer = page(&reader, &ask(&serde_json::json!({"keys": ["resident"]}))).await;
    assert_eq!(answer["results"][0]["stale"], true, "{answer}");
    // One that is not in memory takes nothing from the others; when there are no others there is no answer.
    let cold: Vec<_> = (0..2 * KEYS_AT_A_TIME).map(|n| n.to_string()).collect();
    let keys = [vec!["other".to_owned(), "resident".to_owned()], cold].concat();
    let answer = page(&reader, &ask(&serde_json::json!({"keys": keys}))).await;
    assert_eq!((&answer["statuses"][0], &answer["results"][0]), (&"unavailable".into(), &Value::Null));
    assert_eq!((&answer["statuses"][1], &answer["results"][1]["key"]), (&"found".into(), &"resident".into()));
    assert_eq!(answer["statuses"][2 * KEYS_AT_A_TIME], "unavailable");
    for keys in [vec!["other"], vec!["other", "another"]] {
        let refusal = tried(&reader, &ask(&serde_json::json!({"keys": keys}))).await.expect_err("away");
        assert_eq!(refusal.code(), 503);
    }
    sources.statuses[0].set_trouble(Trouble::Store, None);
    for (misses, running) in [(1, true), (0, false)] {
        sources.statuses[0].log_misses.store(misses, Ordering::Relaxed);
        sources.statuses[0].running.store(running, Ordering::Relaxed);
        let answer = page(&reader, &ask(&serde_json::json!({"keys": ["resident"]}))).await;
        assert_eq!(answer["results"][0]["stale"], true, "{answer}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_sees_what_it_wrote_or_is_told_that_it_does_not() {
    let (reader, sources, _) = reader();
    let status = &sources.statuses[0];
    let ask = |seq: u64, wait: &str| ask(&serde_json::json!({"keys": ["u"], "min_seq": {"0": seq}, "wait": wait}));
    // Nothing comes: it waits as long as it wants to, and there is nothing.
    let began = tokio::time::Instant::now();
    let page_of = page(&reader, &ask(7, "250ms")).await;
    assert_eq!((&page_of["statuses"][0], &page_of["results"][0]), (&"behind".into(), &Value::Null));
    assert_eq!(began.elapsed(), Duration::from_millis(250));
    assert!(status.readers.asked(u64::MAX).is_empty(), "who gave up is forgotten");
    // It comes while somebody waits.
    let key = Key::new("u").expect("a key");
    let (asked, page_of) = tokio::join!(
        async {
            while status.readers.is_empty() {
                tokio::task::yield_now().await;
            }
            let asked = status.readers.asked(7);
            publish(&sources, "u", stored("u", &set(), |_| {}));
            status.readers.shown(std::iter::once((&key, 7)));
            asked
        },
        async { page(&reader, &ask(7, "10s")).await }
    );
    assert_eq!(asked, [(key.clone(), 7)]);
    assert_eq!((&page_of["statuses"][0], &page_of["results"][0]["seq"]), (&"found".into(), &7.into()));
    // It is there already.
    assert_eq!(page(&reader, &ask(7, "0s")).await["statuses"][0], "found");
    // A key of which nothing more comes: its partition says so.
    let told = async {
        while status.readers.is_empty() {
            tokio::task::yield_now().await;
        }
        status.readers.shown(std::iter::once((&key, 9)));
    };
    let (page_of, ()) = tokio::join!(async { page(&reader, &ask(9, "10s")).await }, told);
    assert_eq!((&page_of["statuses"][0], &page_of["results"][0]["behind"]), (&"found".into(), &Value::Null));
    // A checkpoint has passed it; and another one has not.
    status.committed(20, u64::MAX);
    assert_eq!(page(&reader, &ask(20, "0s")).await["statuses"][0], "found");
    let page_of = page(&reader, &ask(21, "0s")).await;
    assert_eq!((&page_of["statuses"][0], &page_of["results"][0]["behind"]), (&"behind".into(), &true.into()));
}

#[tokio::test(start_paused = true)]
async fn what_is_published_while_an_answer_is_fetched_is_not_said_to_be_in_it() {
    // Whenever it happens, before the wait or behind it: at the first look, at the second one, ...
    for (at, wait) in (1..=3).flat_map(|at| [(at, "0s"), (at, "50ms")]) {
        let (reader, sources, shelf) = reader();
        let status = Arc::clone(&sources.statuses[0]);
        let publishes = move |shelf: &Shelf| {
            shelf.put("u", stored("u", &set(), |_| {}));
            status.committed(7, u64::MAX);
        };
        *shelf.meanwhile.lock().expect("no panic") = Some((at, Box::new(publishes)));
        let page = page(&reader, &ask(&serde_json::json!({"keys": ["u"], "min_seq": {"0": 7}, "wait": wait}))).await;
        let (status, seq) = (&page["statuses"][0], &page["results"][0]["seq"]);
        assert!(*status == "behind" || *seq == 7, "look {at}, wait {wait}: {page}");
    }
}

#[tokio::test(start_paused = true)]
async fn readers_who_wait_leave_their_room_to_others_and_few_places_are_one_requests() {
    let (reader, sources, _) = reader();
    let status = &sources.statuses[0];
    let waiting = |keys: Vec<String>, seq: u64| {
        let (reader, ask) =
            (Arc::clone(&reader), ask(&serde_json::json!({"keys": keys, "min_seq": {"0": seq}, "wait": "10s"})));
        tokio::spawn(async move { page(&reader, &ask).await })
    };
    let mut waits: Vec<_> = (0..AT_ONCE_MAX).map(|n| waiting(vec![format!("a{n}"), format!("b{n}")], 7)).collect();
    // A thousand keys, and a sequence that the log is far from having.
    waits.push(waiting((0..KEYS_MAX).map(|n| n.to_string()).collect(), 7));
    waits.push(waiting(vec!["far".to_owned(), "away".to_owned()], u64::MAX));
    let places = 2 * AT_ONCE_MAX + WAITS_AT_ONCE_MAX;
    while status.readers.asked(u64::MAX).len() < places {
        tokio::task::yield_now().await;
    }
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    assert_eq!(status.readers.asked(u64::MAX).len(), places);
    let others = page(&reader, &ask(&serde_json::json!({"keys": ["x", "y"]}))).await;
    assert_eq!(others["statuses"], serde_json::json!(["unknown", "unknown"]));
    // All of them are answered, and those that saw nothing say so.
    for wait in waits {
        let page = wait.await.expect("no panic");
        assert!(page["statuses"].as_array().expect("statuses").iter().all(|status| status == "behind"), "{page}");
    }
    assert!(status.readers.asked(u64::MAX).is_empty());
}

#[tokio::test(start_paused = true)]
async fn keys_that_stay_behind_keep_no_others_of_their_request_from_being_shown() {
    let (reader, sources, shelf) = reader();
    let readers = &sources.statuses[0].readers;
    let keys: Vec<_> = (0..KEYS_MAX).map(|n| n.to_string()).collect();
    // So many that never as many places are free as make a question of the full size.
    let stuck = WAITS_AT_ONCE_MAX - KEYS_AT_A_TIME / 2;
    let ask = ask(&serde_json::json!({"keys": keys, "min_seq": {"0": 7}, "wait": "10s"}));
    let shows = async {
        while readers.is_empty() {
            tokio::task::yield_now().await;
        }
        while !readers.is_empty() {
            let asked = readers.asked(7);
            let moves = |key: &Key| key.as_str().parse::<usize>().is_ok_and(|n| n >= stuck);
            readers.shown(asked.iter().filter(|(key, _)| moves(key)).map(|(key, seq)| (key, *seq)));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let (page, ()) = tokio::join!(page(&reader, &ask), shows);
    for (n, status) in page["statuses"].as_array().expect("statuses").iter().enumerate() {
        assert_eq!(*status, if n < stuck { "behind" } else { "unknown" }, "key {n}");
    }
    let asked = shelf.asked.lock().expect("no panic").len();
    assert!(asked < 2 * KEYS_MAX.div_ceil(KEYS_AT_A_TIME) + KEYS_MAX / (KEYS_AT_A_TIME / 2) + 4, "{asked} questions");
}

#[tokio::test]
async fn many_keys_are_held_and_looked_up_some_at_a_time() {
    let (reader, _, shelf) = reader();
    let keys: Vec<_> = (0..KEYS_MAX).map(|n| format!("k{n}")).collect();
    keys.iter().for_each(|key| shelf.put(key, stored(key, &set(), |_| {})));
    let page = page(&reader, &ask(&serde_json::json!({"keys": keys}))).await;
    for (key, answer) in keys.iter().zip(page["results"].as_array().expect("a list")) {
        assert_eq!(&answer["key"], key.as_str());
    }
    let asked = shelf.asked.lock().expect("no panic");
    assert_eq!((asked.iter().sum::<usize>(), asked.iter().max()), (KEYS_MAX, Some(&KEYS_AT_A_TIME)));
}
