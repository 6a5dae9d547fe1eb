//! The real engine on real servers, killed at named points and cut off from what it needs, while senders keep a ledger;
//! then an audit that shares no code with the engine. A short form of each scenario is a test; `make faults` runs the
//! long form and prints a table.
//!
//! What the actors do when their homes fail is tested in `actors/tests/scenarios.rs`, with far more seeds and no processes.

#[path = "faults/disks.rs"]
mod disks;
#[path = "faults/drains.rs"]
mod drains;
#[path = "faults/history.rs"]
mod history;
#[path = "faults/readers.rs"]
mod readers;
#[path = "faults/table.rs"]
mod table;

use std::{thread, time::Duration};

use keyloom_actors::fault_point;
use keyloom_tests::support::{
    audit,
    engine::{Engine, Topology, keyloom},
    http, oracle,
    proxy::{Mode, Proxy},
    setting, wait_for,
};

use self::history::{History, Report, Servers, busy_topology};

/// Where an engine stands still until another one has its partition.
const FREEZES: [&str; 12] = [
    fault_point::BATCH_SENT,
    fault_point::INTENT_COMMITTED,
    fault_point::BATCH_COMMITTED,
    fault_point::CLAIMED,
    fault_point::BEFORE_RECORD,
    fault_point::FILE_PUT,
    fault_point::APPENDED,
    fault_point::RECORD_COMMITTED,
    fault_point::BEFORE_CURSOR,
    fault_point::RECORDS_READ,
    fault_point::PUBLISHED,
    fault_point::HYDRATING,
];
/// Until the engine has recovered from a fault and answers senders again.
const RECOVER_MAX: Duration = Duration::from_secs(60);
/// While the lake is away: until all that was sent can be read as features, which is a question for each key.
const FRESH_MAX: Duration = Duration::from_secs(60);
/// Events that must be answered after a fault before the next one.
const GO_ON_EVENTS: u64 = 150;
/// A window so short that repeats reach the log, and the sessions have to absorb them ...
const SHORT_WINDOW: &str = "dedupe_window = \"100ms\"";
/// ... if the engine is down for longer than that.
const WINDOW_PASSES: Duration = Duration::from_millis(250);

// ---- the short form -------------------------------------------------------------------------------------------------------

#[test]
fn embedded_killed_at_each_point() {
    clean_hits(&embedded_kills(18, 1, busy_topology()));
}

#[test]
fn embedded_killed_while_sessions_absorb_repeats() {
    let topology = Topology { partitions: 2, log: SHORT_WINDOW.to_owned(), ..busy_topology() };
    clean_hits(&embedded_kills(6, 2, topology));
}

#[test]
fn nats_and_s3_killed_at_some_points() {
    clean(&nats_kills(8, 3, busy_topology()));
}

#[test]
fn embedded_killed_while_rows_are_emitted() {
    clean_hits(&embedded_kills(9, 18, emitting()));
}

#[test]
fn nats_killed_and_frozen() {
    clean(&nats_server_faults(1, 4));
}

#[test]
fn nats_behind_a_bad_network() {
    clean(&nats_network_faults(1, 5));
}

#[test]
fn the_lake_goes_away_and_comes_back() {
    clean(&lake_faults(1, 6));
}

#[test]
fn a_frozen_engine_loses_to_its_successor() {
    clean(&takeovers(2, 12));
}

#[test]
fn a_second_engine_on_the_same_folder_refuses() {
    let mut history = History::start("embedded, a second engine", 8, busy_topology(), |_| Servers::default());
    history.ledger.wait_stored(GO_ON_EVENTS, RECOVER_MAX);
    let second = keyloom(&["run", "keyloom.toml"], history.folder.path());
    let said = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert!(said.contains("another keyloom process uses the data folder"), "{said}");
    history.ledger.wait_stored(GO_ON_EVENTS, RECOVER_MAX);
    history.audit();
    clean(&history.report());
}

#[test]
fn drains_under_load() {
    clean(&drains::drains(1, 13, false, drains::SLOW_END_MAX));
}

#[test]
fn nats_readers_recover() {
    clean(&readers::reader_faults(&[0], readers::PROBE_MAX, 14));
}

#[test]
fn a_wiped_log_is_refused_at_start() {
    readers::a_wiped_log_is_refused_at_start();
}

#[test]
fn a_log_that_is_wiped_stops_the_engine() {
    readers::a_log_that_is_wiped_stops_the_engine();
}

#[test]
fn the_disk_of_the_engine_is_full() {
    disks::data_dir_full(1, 15).iter().for_each(clean);
}

#[test]
fn the_disk_of_the_lake_is_full() {
    disks::lake_full(1, 16).iter().for_each(clean);
}

#[test]
fn the_disk_of_nats_is_full() {
    disks::nats_full(1, 17).iter().for_each(clean);
}

fn clean(report: &Report) {
    assert_eq!(report.violations(), 0, "{}", table::table(std::slice::from_ref(report)));
    assert!(report.findings.events > 0, "nothing was sent");
}

/// The same of kills that all came where they were aimed at.
fn clean_hits(report: &Report) {
    clean(report);
    assert!(report.missed.is_empty(), "not reached: {:?}", report.missed);
}

// ---- the long form --------------------------------------------------------------------------------------------------------

#[test]
#[ignore = "takes minutes: make faults"]
fn long() {
    let number = |name: &str, default: u64| {
        setting(name).map_or(default, |text| text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")))
    };
    let (kills, seed) = (number("KEYLOOM_FAULT_KILLS", 300), number("KEYLOOM_FAULT_SEED", 1));
    let only = setting("KEYLOOM_FAULT_SCENARIO").unwrap_or_default();
    let share = |percent: u64| (kills * percent).div_ceil(100);
    let absorbing = || Topology { log: SHORT_WINDOW.to_owned(), ..busy_topology() };
    let two = || Topology { partitions: 2, ..absorbing() };
    // By the names with which one of them can be repeated alone.
    let scenarios: [(&str, &dyn Fn() -> Option<Report>); 18] = [
        ("embedded", &|| Some(embedded_kills(share(25), seed, busy_topology()))),
        ("embedded-repeats", &|| Some(embedded_kills(share(20), seed + 1, two()))),
        ("nats", &|| Some(nats_kills(share(25), seed + 2, busy_topology()))),
        ("nats-repeats", &|| Some(nats_kills(share(10), seed + 3, absorbing()))),
        ("emitting", &|| Some(embedded_kills(share(10), seed + 16, Topology { partitions: 2, ..emitting() }))),
        ("nats-emitting", &|| Some(nats_kills(share(10), seed + 17, emitting()))),
        ("storm", &|| Some(storm(share(15), seed + 4))),
        ("nats-server", &|| Some(nats_server_faults(6, seed + 5))),
        ("nats-network", &|| Some(nats_network_faults(4, seed + 6))),
        ("lake", &|| Some(lake_faults(4, seed + 7))),
        ("takeover", &|| Some(takeovers(2 * FREEZES.len() as u64, seed + 8))),
        ("poison", &|| Some(poison_kills(share(5), seed + 9))),
        ("drain", &|| Some(drains::drains(5, seed + 10, false, drains::END_MAX))),
        ("nats-drain", &|| Some(drains::drains(3, seed + 11, true, drains::END_MAX))),
        ("nats-readers", &|| Some(readers::reader_faults(&[0, 1, 3, 10, 40], readers::RECOVERY_MAX, seed + 12))),
        ("disk", &|| disks::data_dir_full(5, seed + 13)),
        ("lake-disk", &|| disks::lake_full(5, seed + 14)),
        ("nats-disk", &|| disks::nats_full(3, seed + 15)),
    ];
    let names = scenarios.iter().map(|(name, _)| *name).collect::<Vec<_>>();
    assert!(only.is_empty() || names.contains(&&*only), "there is no scenario {only:?}, only {names:?}");
    let chosen = scenarios.iter().filter(|(name, _)| only.is_empty() || only == *name);
    let reports: Vec<_> = chosen.filter_map(|(_, run)| run()).collect();
    println!("{}seed {seed}", table::table(&reports));
    assert!(!only.is_empty() || table::kills(&reports) >= kills, "fewer kills than wanted");
    let wrong: Vec<_> = reports.iter().filter(|report| report.violations() > 0).map(|r| &r.scenario).collect();
    assert!(wrong.is_empty(), "violations: {wrong:?}");
}

// ---- scenarios --------------------------------------------------------------------------------------------------------------

/// Nothing but the engine.
fn embedded_kills(kills: u64, seed: u64, topology: Topology) -> Report {
    let points: Vec<_> = fault_point::ALL.into_iter().filter(|point| *point != fault_point::BATCH_SENT).collect();
    let scenario = format!("embedded, kills{}", kind_of(&topology));
    let mut history = History::start(&scenario, seed, topology, |_| Servers::default());
    history.kill_many(kills, &points, stay_down);
    history.report()
}

/// The handler emits a row for each event, and the rows are audited too.
fn emitting() -> Topology {
    let more = format!("[table.enriched]\nhandler = \"{}\"\ncut = {{ age = \"300ms\" }}\n", audit::ENRICHMENT);
    Topology { handler: audit::ENRICHMENT.to_owned(), more, ..busy_topology() }
}

fn kind_of(topology: &Topology) -> String {
    let partitions =
        if topology.partitions > 1 { format!(", {} partitions", topology.partitions) } else { String::new() };
    let window = if topology.log.is_empty() { "" } else { ", repeats reach sessions" };
    let rows = if topology.handler == audit::ENRICHMENT { ", rows are emitted" } else { "" };
    format!("{partitions}{window}{rows}")
}

/// A handler that panics over one user's events: each of them ends as one dead letter, whatever is killed.
fn poison_kills(kills: u64, seed: u64) -> Report {
    let more = format!("[handler.poison]\nuser = \"{}\"\n", audit::POISONED);
    let topology = Topology { handler: "poison".to_owned(), more, ..busy_topology() };
    let mut history = History::start("embedded, kills, one user is poison", seed, topology, |_| Servers::default());
    let points =
        [fault_point::APPLIED, fault_point::BATCH_COMMITTED, fault_point::RECORD_COMMITTED, fault_point::EVICTED];
    history.kill_many(kills, &points, |_| {});
    history.report()
}

/// Before every other start: so that what was stored without an answer is sent again to a log that knows its ids, and to
/// one that does not any more.
fn stay_down(history: &mut History) {
    if !history.engine.topology.log.is_empty() && history.random.chance(50) {
        thread::sleep(WINDOW_PASSES);
    }
}

/// Log and store on NATS, lake on S3.
fn nats_kills(kills: u64, seed: u64, topology: Topology) -> Report {
    let scenario = format!("NATS and S3, kills{}", kind_of(&topology));
    let mut history = History::start(&scenario, seed, topology, |folder| Servers::start(folder, seed, true, false));
    history.kill_many(kills, &fault_point::ALL, stay_down);
    history.report()
}

/// Kills while both networks are bad.
fn storm(kills: u64, seed: u64) -> Report {
    // Rarer checkpoints leave more to go through again.
    let topology = Topology { checkpoint_every: "2s".to_owned(), ..busy_topology() };
    let mut history = History::start("NATS and S3, kills and bad networks", seed, topology, |folder| {
        Servers::start(folder, seed, true, true)
    });
    history.may_not_start = true;
    history.kill_many(kills, &fault_point::ALL, |history| {
        let delay = Duration::from_millis(1 + history.random.below(10));
        let nats = *history.random.pick(&[Mode::Pass, Mode::Delay(delay), Mode::LoseAnswers(1), Mode::Slow(1 << 20)]);
        let s3 = *history.random.pick(&[Mode::Pass, Mode::Unavailable(30), Mode::LoseAnswers(30), Mode::Delay(delay)]);
        nats_link(&history.servers).as_ref().expect("started with links").set(nats);
        s3_link(&history.servers).as_ref().expect("started with links").set(s3);
    });
    history.report()
}

/// The broker dies and comes back at once or later, and stands still for longer than the engine waits for an answer.
fn nats_server_faults(rounds: u64, seed: u64) -> Report {
    let mut history = History::start("NATS killed, away, frozen", seed, busy_topology(), |folder| {
        Servers::start(folder, seed, true, false)
    });
    for _ in 0..rounds {
        history.ledger.wait_stored(GO_ON_EVENTS, RECOVER_MAX);
        for (what, outage) in [("nats killed", 0), ("nats away", 3)] {
            history.servers.nats().process.kill();
            thread::sleep(Duration::from_secs(outage)); // how long the fault lasts
            history.servers.nats().restart();
            history.did(what);
            history.ledger.wait_stored(GO_ON_EVENTS, RECOVER_MAX);
        }
        history.servers.nats().process.signal("STOP");
        thread::sleep(Duration::from_secs(6)); // how long the fault lasts
        history.servers.nats().process.signal("CONT");
        history.did("nats frozen");
        history.ledger.wait_stored(GO_ON_EVENTS, RECOVER_MAX);
        history.audit();
        history.ledger.resume();
    }
    history.report()
}

fn nats_link(servers: &Servers) -> &Option<Proxy> {
    &servers.nats_link
}

fn s3_link(servers: &Servers) -> &Option<Proxy> {
    &servers.s3_link
}

fn nats_network_faults(rounds: u64, seed: u64) -> Report {
    let mut history = History::start("NATS behind a bad network", seed, busy_topology(), |folder| {
        Servers::start(folder, seed, true, true)
    });
    let faults = [
        ("delay", Mode::Delay(Duration::from_millis(100)), 1),
        ("slow link", Mode::Slow(64 << 10), 1),
        ("resets", Mode::Reset, 1),
        ("lost answers", Mode::LoseAnswers(5), 2),
        ("refused", Mode::Refuse, 1),
        ("black hole", Mode::BlackHole, 2),
    ];
    for _ in 0..rounds {
        for (what, mode, seconds) in faults {
            history.disturb(what, nats_link, mode, Duration::from_secs(seconds));
            history.ledger.wait_stored(GO_ON_EVENTS, RECOVER_MAX);
        }
        history.audit();
        history.ledger.resume();
    }
    history.report()
}

/// The lake refuses, answers 503, takes files and loses its answers, and is away; features stay fresh.
fn lake_faults(rounds: u64, seed: u64) -> Report {
    let mut history = History::start("embedded, S3 away and failing", seed, busy_topology(), |folder| {
        Servers::start(folder, seed, false, true)
    });
    for _ in 0..rounds {
        history.ledger.wait_stored(GO_ON_EVENTS, RECOVER_MAX);
        s3_link(&history.servers).as_ref().expect("started with links").set(Mode::Refuse);
        lake_stalls(&history);
        history.ledger.wait_stored(10 * GO_ON_EVENTS, RECOVER_MAX);
        features_are_fresh(&history);
        history.ledger.resume();
        history.did("s3 away");
        history.disturb_until("s3 503", s3_link, Mode::Unavailable(30), |done| done.unavailable);
        history.disturb_until("s3 answers lost", s3_link, Mode::LoseAnswers(30), |done| done.cut);
        history.audit();
        history.ledger.resume();
    }
    history.report()
}

/// Waits until the lake is behind and has failed at least once.
fn lake_stalls(history: &History) {
    wait_for("a stalled table", RECOVER_MAX, || {
        let stalled = history.engine.metrics().sum("keyloom_lake_stalled", &[]);
        if stalled >= Some(1.0) { Ok(()) } else { Err(format!("{stalled:?}")) }
    });
}

/// While the lake is away everything that was answered can be read, and the lake does not have it.
fn features_are_fresh(history: &History) {
    history.ledger.pause();
    let mut expected = std::collections::BTreeMap::new();
    for file in history.ledger.files() {
        expected.extend(oracle::events_per_user(file));
    }
    wait_for("features of all events while the lake is away", FRESH_MAX, || {
        for (user, events) in &expected {
            let shown = history.engine.features(user).map(|answer| answer["features"]["event_count"].clone());
            if shown.as_ref().and_then(serde_json::Value::as_u64) != Some(*events) {
                return Err(format!("{user}: {shown:?}, expected {events}"));
            }
        }
        Ok(())
    });
    let status = http::get(history.engine.port, "/api/status").expect("the engine answers").json();
    let partition = &status["partitions"][0];
    assert!(partition["tables_cursor"].as_u64() < partition["log_last"].as_u64(), "the lake was not away: {status}");
}

/// An engine stands still at a named point, another one takes its partition, then the first one goes on where it was: it
/// must write nothing that counts, and end with the reason.
fn takeovers(rounds: u64, seed: u64) -> Report {
    let mut history = History::start("NATS and S3, frozen engine and successor", seed, busy_topology(), |folder| {
        Servers::start(folder, seed, true, false)
    });
    for round in 0..rounds {
        history.ledger.wait_stored(GO_ON_EVENTS, RECOVER_MAX);
        let place = history.folder.path().join(format!("successor-{round}"));
        std::fs::create_dir(&place).expect("the test's folder is writable");
        history.freeze_at(FREEZES[(seed.wrapping_add(round) % FREEZES.len() as u64) as usize]);
        let successor = Engine::start(&place, &history.engine.topology);
        history.ledger.send_to(successor.port);
        history.ledger.wait_stored(GO_ON_EVENTS, RECOVER_MAX);
        let mut former = std::mem::replace(&mut history.engine, successor);
        former.process.signal("CONT");
        assert_eq!(former.process.wait(RECOVER_MAX), 1, "{}", former.process.output());
        let said = former.process.stderr();
        assert!(said.contains("another engine has claimed partition 0"), "{said}");
        history.audit();
        history.ledger.resume();
    }
    history.report()
}
