//! Timers, end to end: the example `card_velocity` holds a card suspicious until it was quiet for an hour. The engine is
//! killed before that, and nothing of the card comes any more: the timer must fire all the same, once, in both homes, by a tick
//! that the next process appends. `keyloom key show` says what waits.

use std::{path::Path, time::Duration};

use keyloom_actors::timestamp::{Clock, SECOND, SystemClock, Timestamp};
use keyloom_tests::support::{
    engine::{Engine, Topology, binary, folder, on_nats_and_s3, succeed_with},
    http, wait_for,
};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(120);
const HOUR: i64 = 3_600 * SECOND;
/// What is left of the quiet hour when the payments come: the engine must be killed before it is over. A machine that is too
/// slow for that gets more.
const LEFT: [i64; 3] = [15 * SECOND, 40 * SECOND, 120 * SECOND];
const CARDS: u64 = 40;

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
    let mut rounds = 0;
    let shown = LEFT.iter().find_map(|left| {
        rounds += 1;
        suspicious_and_killed(&mut engine, &program, rounds, *left)
    });
    let shown = shown.expect("this machine is too slow");
    let timers: Vec<&str> =
        shown["timers"].as_array().expect("timers").iter().filter_map(|t| t["name"].as_str()).collect();
    assert!(timers.contains(&"quiet") && timers.contains(&"verification"), "{shown}");

    engine.restart();
    wait_for("no card is suspicious", PATIENCE * 2, || {
        let left: Vec<u64> =
            (0..CARDS).filter(|n| feature(&engine, &card(rounds, *n), "suspicious") != false).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    assert_eq!(feature(&engine, &card(rounds, 7), "payments"), 3);
    let shown = show(&engine, &program, &card(rounds, 7));
    assert!(!shown["timers"].to_string().contains("quiet"), "{shown}");
    let last = shown["last_events"].as_array().expect("events").last().cloned().unwrap_or_default();
    assert!(last["event"].as_str().is_some_and(|event| event.contains("keyloom.tick")), "{shown}");
    // One alert for each card, however often it was tried; ticks are in no table.
    let metrics = engine.metrics();
    assert!(metrics.count("keyloom_ticks_total", &[]) >= CARDS, "each card had its tick");
    assert_eq!(engine.drain(), 0, "{}", engine.process.output());
    engine.restart();
    let metrics = engine.metrics();
    let cards = CARDS * rounds;
    assert_eq!(metrics.count("keyloom_lake_rows_total", &[("table", "raw_events")]), 3 * cards);
    assert_eq!(metrics.count("keyloom_lake_rows_total", &[("table", "alerts")]), cards);
}

/// Makes cards suspicious whose quiet hour is over in `left` microseconds, and kills the engine when the store has that. What
/// it said of one of them before; `None` when the hour was over by then, and the engine runs again.
fn suspicious_and_killed(engine: &mut Engine, program: &Path, round: u64, left: i64) -> Option<Value> {
    let over = SystemClock.now().0 + left;
    let payment = |card: &str, n: i64| {
        let time = Timestamp(over - HOUR + n).to_rfc3339();
        let event = json!({"domain_userid": card, "event_id": format!("{card}-{n}"), "event": "payment", "amount_cents": 10,
            "collector_tstamp": time});
        event.to_string() + "\n"
    };
    let cards = || (0..CARDS).map(|n| card(round, n));
    engine.post_events(&cards().flat_map(|card| (0..3).map(move |n| payment(&card, n))).collect::<String>());
    wait_for("all payments to count", PATIENCE, || {
        let left: Vec<String> = cards().filter(|card| feature(engine, card, "payments") != 3).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    wait_for("a checkpoint of them", PATIENCE, || {
        let status = http::get(engine.port, "/api/status").map_err(|e| e.to_string())?.json();
        let partitions = status["partitions"].as_array().ok_or("no partitions")?;
        let is_committed = partitions.iter().all(|p| p["checkpoint_cut"] == p["log_last"]);
        if is_committed { Ok(()) } else { Err(status.to_string()) }
    });
    let suspicious = feature(engine, &card(round, 7), "suspicious");
    let shown = show(engine, program, &card(round, 7));
    engine.process.kill();
    if SystemClock.now().0 < over {
        assert_eq!(suspicious, true, "{shown}");
        return Some(shown);
    }
    eprintln!("{} seconds were not enough", left / SECOND);
    engine.restart();
    None
}

fn card(round: u64, n: u64) -> String {
    format!("card-{round}-{n}")
}

fn feature(engine: &Engine, card: &str, name: &str) -> Value {
    engine.features(card).map_or(Value::Null, |answer| answer["features"][name].clone())
}

fn show(engine: &Engine, program: &Path, key: &str) -> Value {
    let topology = engine.folder.join("keyloom.toml");
    let topology = topology.to_str().expect("a path");
    let said = succeed_with(program, &["key", "show", key, "--format", "json", "-t", topology], &engine.folder);
    serde_json::from_str(&said).expect("JSON")
}
