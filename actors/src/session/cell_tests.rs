//! What a cell shows, and what it says that it cannot show, where a session fails or catches up.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::*;
use crate::{
    event::{EventBatch, EventRef, KeyPaths},
    handler::{ConfigError, Context, Features, Handler, Registry, State},
    ports::LogRecord,
};

/// Counts; puts off events that say so.
struct Counter;

#[derive(Default, Serialize, Deserialize)]
struct Count(u64);

impl State for Count {}

impl Handler for Counter {
    type Config = Value;
    type Event<'e> = EventRef<'e>;
    type State = Count;

    fn new(_: Value) -> Result<Self, ConfigError> {
        Ok(Self)
    }

    fn on_event(&self, count: &mut Count, event: EventRef<'_>, _: &mut Context<'_>) -> Result<(), Fault> {
        count.0 += 1;
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
        Ok(Collected::Share(share)) => share,
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
    cell.recover(factory, 150).expect("the state of the share");
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
    other.recover(&factory, u64::MAX).expect("a new state");
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
