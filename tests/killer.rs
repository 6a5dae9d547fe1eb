//! Events that end the process: one makes the handler abort, one takes all memory, one makes it never come back, and one leaves
//! a state that ends whoever reads it. They become dead letters, in both homes of the log, and everybody else's numbers are
//! exact. The test is the supervisor that starts an aborted engine again; out of a hang the engine helps itself. The binary is
//! the example `killer`.

use std::{collections::BTreeMap, fs, time::Duration};

use keyloom_tests::support::{
    engine::{Engine, SETTLE_MAX, Topology, binary, folder, generate, succeed, succeed_with},
    http,
    metrics::Metrics,
    oracle,
    servers::{Nats, free_port},
    wait_for,
};
use serde_json::Value;

/// Aborts until both events that end the process are given up, at most: two before careful mode, for each one in company and
/// two alone; and one that the new process after the hang may add, because it has not come as far as a checkpoint.
const ABORTS_MAX: u32 = 9;
/// Until all of that is over: ten processes, one after the other, each with a start of its own.
const KILLERS_MAX: Duration = Duration::from_secs(300);
/// What an engine may take before the system gives it no more: many times what it needs here.
const MEMORY_MAX: u64 = 16 << 30;

#[test]
fn events_that_end_the_process_become_dead_letters_embedded() {
    killers_become_dead_letters(None);
}

#[test]
fn events_that_end_the_process_become_dead_letters_on_nats() {
    let folder = folder();
    let nats = Nats::start(folder.path(), "");
    killers_become_dead_letters(Some(nats.url()));
}

fn killers_become_dead_letters(nats: Option<String>) {
    let folder = folder();
    let generated = generate(folder.path(), 3_000, 200, &[]);
    let mut lines: Vec<String> =
        fs::read_to_string(&generated).expect("it was written").lines().map(str::to_owned).collect();
    let ours = |user: &str, id: u32, what: &str| {
        let time = "2026-11-20T10:00:00Z";
        format!(
            r#"{{"domain_userid":"{user}","event_id":"{user}-{id}","event":"tick","collector_tstamp":"{time}","do":"{what}"}}"#
        )
    };
    for (at, user, what) in [(2_800, "growing", "grow"), (2_400, "hanging", "hang"), (1_600, "aborting", "abort")] {
        lines.push(ours(user, 3, ""));
        lines.insert(at, ours(user, 2, what));
        lines.insert(at / 2, ours(user, 1, ""));
    }
    let input = folder.path().join("input.jsonl");
    fs::write(&input, lines.join("\n") + "\n").expect("the test's folder is writable");
    let mut users: BTreeMap<String, u64> = oracle::events_per_user(&input);
    let events: u64 = users.values().sum(); // the generator repeats some, and the log absorbs that
    users.extend(["growing", "hanging", "aborting"].map(|user| (user.to_owned(), 2)));

    let topology = Topology {
        nats,
        handler: "killer".to_owned(),
        // Longer than a machine that others use takes a thread's processor away.
        sessions: "stuck_after = \"5s\"".to_owned(),
        more: "[handler.killer]\n".to_owned(),
        memory_max: Some(MEMORY_MAX),
        ..Topology::default()
    };
    // All of it is in the log before anybody processes it.
    fs::write(folder.path().join("keyloom.toml"), topology.text(free_port())).expect("the test's folder is writable");
    succeed_with(&binary("killer"), &["ingest", "input.jsonl"], folder.path());

    let mut engine = Engine::launch(&binary("killer"), folder.path(), &topology);
    let mut aborts = 0;
    let metrics = wait_for("all events to be through", KILLERS_MAX, || {
        if let Some(status) = engine.process.ended() {
            aborts += 1;
            assert!(status.code().is_none(), "it ended with {status}:\n{}", engine.process.output());
            assert!(aborts <= ABORTS_MAX, "{aborts} aborts:\n{}", engine.process.output());
            engine.launch_again();
        }
        let metrics = Metrics::of(engine.port)?;
        let outcome = |name| metrics.count("keyloom_events_total", &[("outcome", name)]);
        let through = outcome("applied") + outcome("dead_lettered");
        let rows = metrics.count("keyloom_lake_rows_total", &[("table", "raw_events")]);
        if (through, rows) == (events, events) { Ok(metrics) } else { Err(format!("{through} events, {rows} rows")) }
    });

    assert!((6..=ABORTS_MAX).contains(&aborts), "{aborts} aborts");
    for (reason, events) in [("killer", 2), ("stuck", 1)] {
        assert_eq!(metrics.count("keyloom_dead_letters_total", &[("reason", reason)]), events, "{reason}");
    }
    let letters = succeed(&["dead-letters", "list", "--format", "json"], folder.path());
    let letters: Value = serde_json::from_str(&letters).expect("JSON");
    let letters = letters["dead_letters"].as_array().expect("a list").clone();
    let mut reasons: Vec<_> = letters.iter().map(|l| (l["key"].as_str(), l["reason"].as_str())).collect();
    reasons.sort();
    let killed = ["aborting", "growing"].map(|user| (Some(user), Some("killer")));
    assert_eq!(reasons, [&killed[..], &[(Some("hanging"), Some("stuck"))]].concat());
    check(&engine, &users);
    assert_eq!(oracle::check_lake(&engine, &input)["rows"], events);

    // Later than that, it is an engine like any other.
    wait_for("careful mode to end", SETTLE_MAX, || match engine.metrics().sum("keyloom_careful", &[]) {
        Some(0.0) => Ok(()),
        careful => Err(format!("{careful:?}")),
    });
    assert_eq!(engine.drain(), 0, "{}", engine.process.output());
    engine.restart();
    assert_eq!(engine.metrics().sum("keyloom_starts_without_progress", &[]), Some(0.0));
    check(&engine, &users);
}

#[test]
fn a_state_that_ends_whoever_reads_it_costs_a_few_processes_and_then_dead_letters() {
    let folder = folder();
    let topology =
        Topology { handler: "killer".to_owned(), more: "[handler.killer]\n".to_owned(), ..Topology::default() };
    let mut engine = Engine::start_binary(&binary("killer"), folder.path(), &topology);
    engine.post_events(r#"{"domain_userid":"eve","event":"tick","do":"spoil"}"#);
    engine.post_events(r#"{"domain_userid":"ada","event":"tick"}"#);
    engine.wait_settled(2, 2);
    assert_eq!(engine.drain(), 0, "{}", engine.process.output());
    let both = "{\"domain_userid\":\"eve\",\"event\":\"tick\"}\n{\"domain_userid\":\"ada\",\"event\":\"tick\"}\n";
    fs::write(folder.path().join("both.jsonl"), both).expect("the test's folder is writable");
    succeed_with(&binary("killer"), &["ingest", "both.jsonl"], folder.path());

    let mut aborts = 0;
    let mut settled = |engine: &mut Engine, letters: u64| {
        wait_for("all events to be through", SETTLE_MAX, || {
            if engine.process.ended().is_some() {
                aborts += 1;
                assert!(aborts <= 5, "{aborts} aborts:\n{}", engine.process.output());
                engine.launch_again();
            }
            let metrics = Metrics::of(engine.port)?;
            let found = metrics.count("keyloom_dead_letters_total", &[("reason", "error")]);
            if found == letters && metrics.sum("keyloom_in_flight_events", &[]) == Some(0.0) {
                Ok(())
            } else {
                Err(format!("{found} letters"))
            }
        });
        aborts
    };
    engine.launch_again();
    assert_eq!(settled(&mut engine, 1), 5, "two before careful mode, one in company, two alone");
    engine.post_events(r#"{"domain_userid":"eve","event":"tick"}"#);
    assert_eq!(settled(&mut engine, 2), 5);
    wait_for("the checkpoint", SETTLE_MAX, || {
        let status = http::get(engine.port, "/api/status").map_err(|e| e.to_string())?.json();
        let partition = &status["partitions"][0];
        if partition["checkpoint_cut"] == partition["log_last"] { Ok(()) } else { Err(status.to_string()) }
    });
    engine.process.kill();
    engine.restart();
    engine.post_events(r#"{"domain_userid":"eve","event":"tick"}"#);
    assert_eq!(settled(&mut engine, 3), 5, "the next process knows it from the store");
    check(&engine, &[("ada".to_owned(), 2), ("eve".to_owned(), 1)].into());
    assert_eq!(engine.drain(), 0, "{}", engine.process.output());
}

#[test]
fn an_engine_whose_handler_does_not_come_back_starts_itself_again() {
    let folder = folder();
    let topology = Topology {
        handler: "killer".to_owned(),
        sessions: "stuck_after = \"500ms\"".to_owned(),
        more: "[handler.killer]\n".to_owned(),
        ..Topology::default()
    };
    let mut engine = Engine::start_binary(&binary("killer"), folder.path(), &topology);
    let id = engine.process.id();
    engine.post_events(r#"{"domain_userid":"ada","event":"tick"}"#);
    engine.post_events(r#"{"domain_userid":"eve","event":"tick","do":"hang"}"#);
    // The same address, data folder and process: sockets and locks did not outlive the old one.
    let metrics = wait_for("the dead letter", SETTLE_MAX, || {
        assert!(engine.process.ended().is_none(), "{}", engine.process.output());
        let metrics = Metrics::of(engine.port)?;
        let stuck = metrics.count("keyloom_dead_letters_total", &[("reason", "stuck")]);
        if stuck == 1 { Ok(metrics) } else { Err(format!("{stuck} letters")) }
    });
    let restarts = metrics.count("keyloom_actor_restarts_total", &[("actor", "session"), ("cause", "stuck")]);
    assert_eq!((restarts, engine.process.id()), (1, id));
    let log = engine.process.stderr();
    assert!(["eve", "handler=\"killer\"", "seq=2"].iter().all(|part| log.contains(part)), "{log}");
    engine.post_events(r#"{"domain_userid":"eve","event":"tick"}"#);
    engine.wait_settled(3, 3);
    check(&engine, &[("ada".to_owned(), 1), ("eve".to_owned(), 1)].into());
    assert_eq!(engine.drain(), 0, "{}", engine.process.output());
}

fn check(engine: &Engine, users: &BTreeMap<String, u64>) {
    for (user, events) in users {
        let answer = engine.features(user).unwrap_or_else(|| panic!("{user} is unknown"));
        assert_eq!(answer["features"]["event_count"], *events, "{answer}");
    }
}
