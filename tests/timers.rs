//! Timers, end to end: the example `card_velocity` holds a card suspicious until it was quiet for an hour. The engine is
//! killed before that, and nothing of the card comes any more: the timer must fire all the same, once, in both homes, by a tick
//! that the next process appends. `keyloom key show` says what waits.

use std::time::Duration;

use keyloom_actors::timestamp::{Clock, SystemClock, Timestamp};
use keyloom_tests::support::{
    engine::{Engine, Topology, binary, folder, on_nats_and_s3, succeed_with},
    wait_for,
};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);
const HOUR: i64 = 3_600_000_000;
/// What is left of the quiet hour when the payments come.
const LEFT: i64 = 15_000_000;

#[test]
fn embedded() {
    a_timer_fires_though_the_engine_was_killed(Topology { partitions: 2, ..Topology::default() });
}

#[test]
fn with_nats_and_s3() {
    on_nats_and_s3(a_timer_fires_though_the_engine_was_killed);
}

fn a_timer_fires_though_the_engine_was_killed(topology: Topology) {
    let folder = folder();
    let more = "[handler.card-velocity]\npayments_max = 2\nspent_max_cents = 1000\nquiet_minutes = 60\nverify_minutes = 600\n\
                [table.alerts]\nhandler = \"card-velocity\"\ncut = { age = \"300ms\" }\n";
    let topology = Topology { handler: "card-velocity".to_owned(), more: more.to_owned(), ..topology };
    let program = binary("card_velocity");
    let mut engine = Engine::start_binary(&program, folder.path(), &topology);
    let then = SystemClock.now().0 - HOUR + LEFT;
    let payment = |card: &str, n: i64| {
        let time = Timestamp(then + n).to_rfc3339();
        let event = json!({"domain_userid": card, "event_id": format!("{card}-{n}"), "event": "payment", "amount_cents": 10,
            "collector_tstamp": time});
        event.to_string() + "\n"
    };
    let cards = 40;
    let body: String = (0..cards).flat_map(|card| (0..3).map(move |n| payment(&format!("card-{card}"), n))).collect();
    engine.post_events(&body);
    engine.wait_settled(3 * cards, 3 * cards);
    let feature = |engine: &Engine, card: u64, name: &str| {
        engine.features(&format!("card-{card}")).map_or(Value::Null, |answer| answer["features"][name].clone())
    };
    assert_eq!(feature(&engine, 7, "suspicious"), true);
    let shown = show(&engine, &program, "card-7");
    let timers: Vec<&str> =
        shown["timers"].as_array().expect("timers").iter().filter_map(|t| t["name"].as_str()).collect();
    assert!(timers.contains(&"quiet") && timers.contains(&"verification"), "{shown}");
    engine.process.kill();

    engine.launch_again();
    engine.wait_ready();
    wait_for("no card is suspicious", PATIENCE, || {
        let left: Vec<u64> = (0..cards).filter(|card| feature(&engine, *card, "suspicious") != false).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    assert_eq!(feature(&engine, 7, "payments"), 3);
    let shown = show(&engine, &program, "card-7");
    assert!(!shown["timers"].to_string().contains("quiet"), "{shown}");
    let last = shown["last_events"].as_array().expect("events").last().cloned().unwrap_or_default();
    assert!(last["event"].as_str().is_some_and(|event| event.contains("keyloom.tick")), "{shown}");
    // One alert for each card, however often it was tried; ticks are in no table.
    let metrics = engine.metrics();
    assert!(metrics.count("keyloom_ticks_total", &[]) >= cards, "each card had its tick");
    assert_eq!(engine.drain(), 0, "{}", engine.process.output());
    engine.restart();
    let metrics = engine.metrics();
    assert_eq!(metrics.count("keyloom_lake_rows_total", &[("table", "raw_events")]), 3 * cards);
    assert_eq!(metrics.count("keyloom_lake_rows_total", &[("table", "alerts")]), cards);
}

fn show(engine: &Engine, program: &std::path::Path, key: &str) -> Value {
    let topology = engine.folder.join("keyloom.toml");
    let topology = topology.to_str().expect("a path");
    let said = succeed_with(program, &["key", "show", key, "--format", "json", "-t", topology], &engine.folder);
    serde_json::from_str(&said).expect("JSON")
}
