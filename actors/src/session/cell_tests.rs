//! What a cell shows, and what it says that it cannot show, where a session fails or catches up.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
use serde_json::{Value, json};

use super::*;
use crate::{
    event::{EventBatch, EventRef, KeyPaths},
    handler::{ConfigError, Context, Features, Handler, Registry, State},
    ports::LogRecord,
};

/// Counts; puts off events that say so, and takes a state from others that cannot be stored.
struct Counter;

#[derive(Default, Serialize, Deserialize)]
struct Count(#[serde(serialize_with = "unless_sour", deserialize_with = "unless_bitter")] u64);

/// Counts from here on cannot be encoded ...
const SOUR: u64 = 1_000_000;
/// ... and those from here on not be read again.
const BITTER: u64 = 1_000;

fn unless_sour<S: Serializer>(count: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    if *count >= SOUR { Err(ser::Error::custom("sour")) } else { serializer.serialize_u64(*count) }
}

fn unless_bitter<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let count = u64::deserialize(deserializer)?;
    if count >= BITTER { Err(de::Error::custom("bitter")) } else { Ok(count) }
}

impl State for Count {}

impl Handler for Counter {
    type Config = Value;
    type Event<'e> = EventRef<'e>;
    type State = Count;

    fn new(_: Value) -> Result<Self, ConfigError> {
        Ok(Self)
    }

    fn on_event(&self, count: &mut Count, event: EventRef<'_>, _: &mut Context<'_>) -> Result<(), Fault> {
        count.0 += event.value_named("more").and_then(|more| more.raw.parse::<u64>().ok()).unwrap_or(1);
        if event.value_named("later").is_some() { Err(Fault::Retry(Duration::from_secs(10))) } else { Ok(()) }
    }

    fn features(&self, count: &Count, features: &mut Features<'_>) {
        features.set("count", &count.0);
    }
}

const TAG: Tag = Tag { n: 1, epoch: 1 };

fn factory() -> Arc<dyn LogicFactory> {
    let mut registry = Registry::default();
    registry.add::<Counter>("counter");
    registry.build("counter", json!({}), Arc::default()).expect("a handler")
}

fn event(seq: u64, payload: &'static str) -> QueuedEvent {
    let stored = Timestamp(seq as i64);
    let payload = Bytes::from_static(payload.as_bytes());
    let record = LogRecord { seq, stored, key: None, envelope: None, payload, scanned: None };
    let batch = EventBatch::decode(0, vec![record], &KeyPaths::new(["key"]), None);
    QueuedEvent::new(Arc::new(Arc::new(batch)), 0)
}

fn fine(seq: u64) -> QueuedEvent {
    event(seq, r#"{"key":"u"}"#)
}

fn put_off(seq: u64) -> QueuedEvent {
    event(seq, r#"{"key":"u","later":true}"#)
}

fn cell(factory: &Arc<dyn LogicFactory>) -> Cell {
    let mut cell = Cell::new(Key::new("u").expect("a key"));
    cell.hydrate(factory, ValidVersion::default()).expect("a new state");
    cell
}

fn share(cell: &mut Cell, factory: &Arc<dyn LogicFactory>) -> CollectedShare {
    match cell.collect_share(factory, TAG) {
        Collected::Share(share) => share,
        _ => panic!("it has a share"),
    }
}

/// One that applied event 100, gave the checkpoint with cut 150 its share, and then failed on event 160.
fn failed_behind_the_cut(factory: &Arc<dyn LogicFactory>) -> Cell {
    let mut cell = cell(factory);
    cell.push(fine(100), &KeyLimits::default());
    assert!(cell.begin_share(150));
    cell.push(put_off(160), &KeyLimits::default());
    assert!(cell.turn(factory, 150).is_err());
    assert!(cell.failure(String::new).is_some());
    cell.recover(factory, 150).core.expect("the state of the share");
    assert_eq!(record::applied_of(&share(&mut cell, factory).version), 100);
    cell
}

#[test]
fn while_a_session_waits_for_its_restart_it_shows_what_the_checkpoint_covers() {
    let factory = factory();
    // An earlier owner has published nothing, or something up to 120 of whatever key.
    for floor in [0, 120] {
        let mut cell = failed_behind_the_cut(&factory);
        assert_eq!((cell.hidden_from(), cell.has_given(100)), (Some(100), false));
        let (seq, since, answer) = cell.collect_answer(&factory, 0, floor, 160).expect("an answer");
        assert_eq!((seq, since), (100, Timestamp(100)));
        let answer: Value = serde_json::from_slice(&answer).expect("JSON");
        assert_eq!(answer["features"], json!({"count": 1}));
        assert_eq!((cell.hidden_from(), cell.has_given(100), cell.has_given(160)), (None, true, false));
        assert!(cell.collect_answer(&factory, 0, floor, 160).is_none());
    }
}

#[test]
fn what_may_not_be_shown_yet_is_said_to_be_hidden() {
    let factory = factory();
    let mut cell = failed_behind_the_cut(&factory);
    assert!(cell.collect_answer(&factory, 0, 170, 160).is_none(), "an earlier owner may have published event 160");
    assert_eq!(cell.hidden_from(), Some(100));
    // What is undone is not hidden: it waits.
    cell.acknowledge();
    assert!(cell.collect_answer(&factory, 0, 0, 160).is_some());
    let mut other = self::cell(&factory);
    other.push(fine(100), &KeyLimits::default());
    other.push(put_off(160), &KeyLimits::default());
    assert!(other.turn(&factory, u64::MAX).is_err());
    assert!(other.failure(String::new).is_some());
    other.recover(&factory, u64::MAX).core.expect("a new state");
    assert_eq!((other.hidden_from(), other.has_given(99), other.has_given(100)), (None, true, false));
}

#[test]
fn a_key_that_has_passed_what_an_earlier_owner_published_is_shown_while_newer_events_wait() {
    let factory = factory();
    let mut cell = cell(&factory);
    for seq in [100, 110, 160] {
        cell.push(fine(seq), &KeyLimits::default());
    }
    cell.turn_of(&factory, u64::MAX, 1).expect("a turn");
    assert!(cell.collect_answer(&factory, 0, 120, 160).is_none(), "event 110 may be in what is published");
    assert_eq!(cell.hidden_from(), Some(100));
    cell.turn_of(&factory, u64::MAX, 1).expect("a turn");
    assert!(cell.collect_answer(&factory, 0, 120, 119).is_none(), "more of it may come");
    let answer = cell.collect_answer(&factory, 0, 120, 160);
    assert_eq!((answer.map(|(seq, since, _)| (seq, since)), cell.hidden_from()), (Some((110, Timestamp(100))), None));
    cell.turn(&factory, u64::MAX).expect("a turn");
    assert_eq!(cell.hidden_from(), Some(160));
}

fn sour(seq: u64) -> QueuedEvent {
    event(seq, r#"{"key":"u","more":1000000}"#)
}

fn bitter(seq: u64) -> QueuedEvent {
    event(seq, r#"{"key":"u","more":1000}"#)
}

fn push_all(cell: &mut Cell, events: &[QueuedEvent]) {
    for event in events {
        cell.push(event.clone(), &KeyLimits::default());
    }
}

/// What a shard does with a cell whose session has failed; each event has two attempts. Returns what was given up.
fn begin_again(cell: &mut Cell, factory: &Arc<dyn LogicFactory>, log: &[QueuedEvent]) -> Vec<DeadLetter> {
    let error = match cell.recover(factory, u64::MAX).core {
        Ok(core) => {
            cell.resume(core);
            None
        }
        Err(error) => Some(error.0),
    };
    let letters = error.as_deref().map(|error| cell.abandon(error, u64::MAX).dead).unwrap_or_default();
    assert!(letters.is_empty(), "all of it has to be read again first");
    if let Some((number, seqs)) = cell.fetch() {
        let again = log.iter().filter(|event| seqs.contains(&event.seq())).cloned().collect();
        cell.fetched(number, &seqs, again);
    }
    error.map(|error| cell.abandon(&error, u64::MAX).dead).unwrap_or_default()
}

/// Lets a cell try until all of `log` has ended in some way; the sequences that were given up.
fn until_all_ended(cell: &mut Cell, factory: &Arc<dyn LogicFactory>, log: &[QueuedEvent]) -> Vec<u64> {
    let mut dead = Vec::new();
    for _ in 0..20 {
        let letters = match cell.turn(factory, u64::MAX) {
            Ok(turn) if !cell.has_any() => {
                dead.extend(turn.dead.iter().map(|letter| letter.seq));
                return dead;
            }
            Ok(turn) => turn.dead,
            Err(_) => {
                if let Some(failure) = cell.failure(String::new) {
                    cell.blame(&failure, 2);
                }
                begin_again(cell, factory, log)
            }
        };
        dead.extend(letters.iter().map(|letter| letter.seq));
    }
    panic!("it does not end; {dead:?}");
}

fn count_of(cell: &mut Cell, factory: &Arc<dyn LogicFactory>) -> (u64, u64) {
    assert!(cell.begin_share(u64::MAX - 1));
    let version = share(cell, factory).version;
    let stored: Count =
        rmp_serde::from_slice(&record::decode_version(&version).expect("a version").payload).expect("a count");
    (record::applied_of(&version), stored.0)
}

#[test]
fn of_events_behind_which_the_state_cannot_be_encoded_only_the_culprit_is_given_up() {
    let factory = factory();
    // Found out by a checkpoint, by the first event behind its cut, by one that the key lags in, or by an eviction.
    for found_by in ["share", "next", "lagging", "eviction"] {
        let mut cell = cell(&factory);
        let mut log = vec![fine(1), sour(2), fine(3)];
        push_all(&mut cell, &log);
        cell.turn(&factory, u64::MAX).expect("nobody knows yet");
        match found_by {
            "share" => {
                assert!(cell.begin_share(3));
                assert!(matches!(cell.collect_share(&factory, TAG), Collected::Spoiled));
            }
            "next" => {
                assert!(cell.begin_share(3));
                log.push(fine(4));
                cell.push(fine(4), &KeyLimits::default());
            }
            "lagging" => {
                log.push(fine(4));
                cell.push(fine(4), &KeyLimits::default());
                assert!(cell.begin_share(4));
                assert!(matches!(cell.collect_lagging(&factory, TAG), Collected::Spoiled));
            }
            _ => assert!(!cell.freeze(&factory, 0)),
        }
        assert_eq!(until_all_ended(&mut cell, &factory, &log), [2], "{found_by}");
        let expected = (log.len() as u64, log.len() as u64 - 1);
        assert_eq!(count_of(&mut cell, &factory), expected, "{found_by}: the others count");
        assert_eq!(cell.counted, cell.history.len());
    }
}

#[test]
fn a_state_that_cannot_be_read_again_after_an_eviction_costs_only_the_culprit() {
    let factory = factory();
    let mut cell = cell(&factory);
    let log = [fine(1), bitter(2), fine(3)];
    push_all(&mut cell, &log);
    cell.turn(&factory, u64::MAX).expect("nobody knows yet");
    assert!(cell.freeze(&factory, 0) && !cell.thaw(&factory));
    assert!(begin_again(&mut cell, &factory, &log).is_empty());
    assert_eq!(until_all_ended(&mut cell, &factory, &log), [2]);
    assert_eq!(count_of(&mut cell, &factory), (3, 2));
}

#[test]
fn a_share_that_cannot_be_read_again_is_not_gone_on_from() {
    let factory = factory();
    let mut cell = cell(&factory);
    let log = [fine(1), bitter(2), fine(3), put_off(4)];
    push_all(&mut cell, &log[..2]);
    cell.turn(&factory, u64::MAX).expect("nobody knows yet");
    assert!(cell.begin_share(2));
    push_all(&mut cell, &log[2..]);
    assert!(cell.turn(&factory, 2).is_err(), "event 4 fails, behind the share");
    assert!(cell.failure(String::new).is_some());
    assert!(begin_again(&mut cell, &factory, &log).is_empty());
    assert_eq!(until_all_ended(&mut cell, &factory, &log), [2, 4]);
    assert_eq!(count_of(&mut cell, &factory), (4, 2));
}

#[test]
fn a_handler_whose_new_state_cannot_be_stored_is_refused() {
    #[derive(Serialize, Deserialize)]
    struct Sour(#[serde(serialize_with = "unless_sour")] u64);
    impl Default for Sour {
        fn default() -> Self {
            Self(SOUR)
        }
    }
    impl State for Sour {}
    struct Bad;
    impl Handler for Bad {
        type Config = Value;
        type Event<'e> = EventRef<'e>;
        type State = Sour;
        fn new(_: Value) -> Result<Self, ConfigError> {
            Ok(Self)
        }
        fn on_event(&self, _: &mut Sour, _: EventRef<'_>, _: &mut Context<'_>) -> Result<(), Fault> {
            Ok(())
        }
        fn features(&self, _: &Sour, _: &mut Features<'_>) {}
    }
    let mut registry = Registry::default();
    registry.add::<Bad>("bad");
    let refused = registry.build("bad", json!({}), Arc::default()).err().expect("it is refused");
    assert!(refused.0.contains("State::default()") && refused.0.contains("sour"), "{}", refused.0);
}

#[test]
fn where_not_even_the_stored_state_can_be_read_what_came_behind_it_is_given_up_and_not_lost() {
    let factory = factory();
    let mut cell = cell(&factory);
    cell.push(bitter(1), &KeyLimits::default());
    cell.turn(&factory, u64::MAX).expect("nobody knows yet");
    assert_eq!(applied_of_share(&mut cell, &factory), 1);
    cell.acknowledge();
    let log = [fine(2), put_off(3)];
    push_all(&mut cell, &log);
    assert!(cell.turn(&factory, u64::MAX).is_err());
    assert!(cell.failure(String::new).is_some());
    let dead: Vec<_> = begin_again(&mut cell, &factory, &log).iter().map(|letter| letter.seq).collect();
    assert_eq!(dead, [2, 3], "event 2 was in a state that is lost");
}

fn applied_of_share(cell: &mut Cell, factory: &Arc<dyn LogicFactory>) -> u64 {
    assert!(cell.begin_share(u64::MAX - 1));
    record::applied_of(&share(cell, factory).version)
}
