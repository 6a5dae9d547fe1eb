//! How long an engine with a million keys of state takes after kill -9, from the start of its process: until it is ready,
//! and until a new event can be read as a feature.

use std::{
    fs::File,
    io::{BufWriter, Write},
    thread,
    time::{Duration, Instant},
};

use keyloom_tests::support::{
    audit::count_rows,
    engine::{Engine, SETTLE_MAX, Topology, folder, succeed},
    http,
    random::Random,
    servers::{Nats, free_port},
    wait_for,
};

use super::{
    Row,
    load::{self, Traffic, user},
    shared,
};

/// Users that have state; `KEYLOOM_BENCH_KEYS` changes it.
const KEYS: u64 = 1_000_000;
/// Kills in each home; `KEYLOOM_BENCH_KILLS` changes it.
const KILLS: u64 = 7;
/// From the start of the process until a new event can be read, at most.
const RECOVERY_MAX: f64 = 5.0;
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Traffic before a kill: longer than a checkpoint takes to come, and up to so much more.
const TRAFFIC_MIN: Duration = Duration::from_secs(6);
const TRAFFIC_MORE_MS: u64 = 4_000;

/// See the module; nothing but the engine.
pub fn embedded() -> anyhow::Result<Vec<Row>> {
    kills(false)
}

/// See the module; log and store on NATS.
pub fn nats() -> anyhow::Result<Vec<Row>> {
    kills(true)
}

fn kills(with_nats: bool) -> anyhow::Result<Vec<Row>> {
    let number = |name: &str, default: u64| std::env::var(name).map_or(Ok(default), |n| n.parse());
    let (keys, times) = (number("KEYLOOM_BENCH_KEYS", KEYS)?, number("KEYLOOM_BENCH_KILLS", KILLS)?);
    let home = if with_nats { "NATS" } else { "embedded" };
    let place = folder();
    let nats = with_nats.then(|| Nats::start(place.path(), ""));
    let topology = Topology {
        nats: nats.as_ref().map(Nats::url),
        checkpoint_every: "5s".to_owned(),
        cut_age: "5s".to_owned(),
        ..Topology::default()
    };
    fill(place.path(), &topology, keys)?;
    let mut engine = Engine::start(place.path(), &topology);
    let (mut ready, mut fresh) = (Vec::new(), Vec::new());
    let mut random = Random::new(keys);
    for kill in 0..times {
        // The last tenth of the users is left to the events that are timed.
        let busy = keys - keys / 10;
        let traffic = Traffic::start(engine.port, busy, kill + 1);
        thread::sleep(TRAFFIC_MIN + Duration::from_millis(random.below(TRAFFIC_MORE_MS))); // a kill comes at any moment
        engine.process.kill();
        let began = Instant::now();
        engine.launch_again();
        let (is_ready, is_fresh) = recovered(&engine, &user(busy + random.below(keys - busy)), u64::MAX - kill, began);
        drop(traffic);
        eprintln!("{home}: ready after {is_ready:.2} s, a new event readable after {is_fresh:.2} s");
        ready.push(is_ready);
        fresh.push(is_fresh);
    }
    let events = wait_for("everything in the table", SETTLE_MAX, || {
        let status = http::get(engine.port, "/api/status").map_err(|e| e.to_string())?.json();
        let read = |name: &str| status["partitions"][0][name].as_u64().unwrap_or(0);
        let through = read("applied") + read("duplicate") == read("log_last");
        if through && read("tables_cursor") == read("log_last") {
            Ok(read("log_last"))
        } else {
            Err(status.to_string())
        }
    });
    let (rows, records) = count_rows(&engine);
    anyhow::ensure!(
        rows == events && records == events,
        "{rows} rows of {records} records, {events} events in the log"
    );
    let row = |what: &str, seconds: &[f64]| {
        let worst = seconds.iter().copied().fold(0.0, f64::max);
        Row {
            what: format!("{home}, kill -9 with {keys} keys of state, {times} times: {what}"),
            ours: format!("{:.2} s, worst {worst:.2} s", shared::median(seconds.to_vec())),
            beside: format!("{events} events in log and table"),
            limit: format!("< {RECOVERY_MAX} s"),
            holds: worst < RECOVERY_MAX,
        }
    };
    Ok(vec![row("until /readyz", &ready), row("until a new event is readable", &fresh)])
}

/// One event of each key, through the whole engine, with a checkpoint behind it.
fn fill(place: &std::path::Path, topology: &Topology, keys: u64) -> anyhow::Result<()> {
    let path = place.join("fill.jsonl");
    let mut file = BufWriter::new(File::create(&path)?);
    for key in 0..keys {
        file.write_all(load::event(&user(key), 0).as_bytes())?;
    }
    file.into_inner()?;
    std::fs::write(place.join("keyloom.toml"), topology.text(free_port()))?;
    eprint!("{}", succeed(&["ingest", "--process", "-t", "keyloom.toml", "fill.jsonl"], place));
    std::fs::remove_file(&path)?;
    Ok(())
}

/// Seconds from `began` until the engine says that it is ready, and until it shows a new event of `key`.
fn recovered(engine: &Engine, key: &str, n: u64, began: Instant) -> (f64, f64) {
    let (mut ready, mut sent) = (None, false);
    let event = load::event(key, n);
    loop {
        assert!(began.elapsed() < SETTLE_MAX, "it does not recover: {}", engine.process.output());
        if ready.is_none() && http::get(engine.port, "/readyz").is_ok_and(|answer| answer.status == 200) {
            ready = Some(began.elapsed().as_secs_f64());
        }
        sent = sent || load::stored(engine.port, &event);
        if let (Some(ready), true) = (ready, sent)
            && load::readable(engine.port, key, n)
        {
            return (ready, began.elapsed().as_secs_f64());
        }
        thread::sleep(LOOK_EVERY);
    }
}
