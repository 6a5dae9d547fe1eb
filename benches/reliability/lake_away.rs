//! What a dead S3 costs: how fresh features are at a steady rate beside an engine whose S3 is there, whether memory grows,
//! and how the lake catches up.

use std::{
    thread,
    time::{Duration, Instant},
};

use keyloom_tests::support::{
    audit::count_rows,
    engine::{Engine, S3Lake, SETTLE_MAX, Topology, folder},
    http,
    proxy::{Mode, Proxy},
    servers::S3,
    wait_for,
};
use tempfile::TempDir;

use super::{
    Row,
    load::{self, percentile},
    shared,
};

/// Pairs of runs, their length behind the warm-up, and the rate.
const PAIRS: usize = 7;
const TIME: Duration = Duration::from_secs(12);
const WARM_UP: Duration = Duration::from_secs(4);
const RATE: u64 = 5_000;
const USERS: u64 = 20_000;
/// The same for memory, of two engines side by side: so long until much of what is bounded is full, and then so long.
const FILL: Duration = Duration::from_secs(120);
const STEADY: Duration = Duration::from_secs(90);
const STEADY_RATE: u64 = 2_500;
const STEADY_USERS: u64 = 2_000;
/// Freshness with a dead S3, of that with one that is there, at most.
const RATIO_MAX: f64 = 1.2;
/// Growth of memory while S3 is dead beyond that of an engine whose S3 is there, in its own size per minute.
const GROWTH_MAX: f64 = 0.02;

/// An engine under a steady load.
struct Run {
    engine: Engine,
    link: Proxy,
    _s3: S3,
    folder: TempDir,
}

impl Run {
    fn start(dead: bool) -> Self {
        let folder = folder();
        let s3 = S3::start(folder.path(), &["lake"], false);
        let link = Proxy::http(s3.port, 1);
        let endpoint = format!("http://127.0.0.1:{}", link.port());
        let topology = Topology {
            s3: Some(S3Lake { endpoint, bucket: "lake".to_owned() }),
            checkpoint_every: "5s".to_owned(),
            cut_age: "2s".to_owned(),
            // What it remembers of ids is bounded by time; this is sooner than memory is looked at.
            log: "dedupe_window = \"10s\"".to_owned(),
            ..Topology::default()
        };
        let engine = Engine::start(folder.path(), &topology);
        if dead {
            link.set(Mode::Refuse);
        }
        Self { engine, link, _s3: s3, folder }
    }
}

/// How fresh features are.
pub fn freshness() -> anyhow::Result<Vec<Row>> {
    let (mut dead, mut healthy) = (Vec::new(), Vec::new());
    let one = |is_dead: bool| {
        let run = Run::start(is_dead);
        let _load = load::generate(run.folder.path(), run.engine.port, RATE, USERS);
        let before = load::freshness(run.engine.port, 1, WARM_UP).len() as u64;
        let seen = load::freshness(run.engine.port, 1 + before, TIME);
        let stalled = run.engine.metrics().sum("keyloom_lake_stalled", &[]);
        assert_eq!(stalled, Some(f64::from(u8::from(is_dead))), "whether the lake was away");
        seen
    };
    for pair in 0..PAIRS {
        for is_dead in [pair % 2 == 0, pair % 2 != 0] {
            let seen = one(is_dead);
            let [p50, p99] = [50, 99].map(|percent| 1_000.0 * percentile(&seen, percent));
            eprintln!("S3 dead: {is_dead}: {} samples, p50 {p50:.1} ms, p99 {p99:.1} ms", seen.len());
            if is_dead { &mut dead } else { &mut healthy }.push((p50, p99));
        }
    }
    let row = |name: &str, pick: fn(&(f64, f64)) -> f64| {
        let ratio = shared::median(dead.iter().zip(&healthy).map(|(d, h)| pick(d) / pick(h)).collect());
        let [ours, beside] = [&dead, &healthy].map(|runs| shared::median(runs.iter().map(pick).collect()));
        Row {
            what: format!(
                "2xx until readable, {name}, at {RATE} events/s, S3 dead all the time, medians of {PAIRS} pairs"
            ),
            ours: format!("{ours:.1} ms ({:.0} %)", 100.0 * ratio),
            beside: format!("{beside:.1} ms with S3 there"),
            limit: format!("≤ {:.0} %", 100.0 * RATIO_MAX),
            holds: ratio <= RATIO_MAX,
        }
    };
    Ok(vec![row("p50", |run| run.0), row("p99", |run| run.1)])
}

/// Memory, and what is in the lake in the end.
pub fn memory() -> anyhow::Result<Vec<Row>> {
    let runs = [false, true].map(Run::start);
    let loads =
        runs.each_ref().map(|run| load::generate(run.folder.path(), run.engine.port, STEADY_RATE, STEADY_USERS));
    thread::sleep(FILL);
    let (began, mut seen) = (Instant::now(), [Vec::new(), Vec::new()]);
    while began.elapsed() < STEADY {
        for (run, seen) in runs.iter().zip(&mut seen) {
            let kb = shared::status_kb(run.engine.process.id(), "VmRSS").expect("the engine runs");
            seen.push((began.elapsed().as_secs_f64() / 60.0, kb as f64 / 1024.0));
        }
        thread::sleep(Duration::from_secs(1)); // between two samples
    }
    drop(loads);
    let level = seen.each_ref().map(|seen| shared::median(seen.iter().map(|(_, mb)| *mb).collect()));
    let slope = seen.each_ref().map(|seen| slope(seen));
    let row = Row {
        what: format!("memory at {STEADY_RATE} events/s, {} s after {} s", STEADY.as_secs(), FILL.as_secs()),
        ours: format!("{:.0} MB, {:+.1} MB/min with a dead S3", level[1], slope[1]),
        beside: format!("{:.0} MB, {:+.1} MB/min with S3 there, at the same time", level[0], slope[0]),
        limit: format!("grows by ≤ {:.0} %/min more", 100.0 * GROWTH_MAX),
        holds: slope[1] - slope[0] <= GROWTH_MAX * level[1],
    };
    let [_, dead] = runs;
    Ok(vec![row, catches_up(&dead)])
}

fn catches_up(run: &Run) -> Row {
    let began = Instant::now();
    run.link.set(Mode::Pass);
    let events = wait_for("the lake to have caught up", SETTLE_MAX, || {
        let status = http::get(run.engine.port, "/api/status").map_err(|e| e.to_string())?.json();
        let read = |name: &str| status["partitions"][0][name].as_u64().unwrap_or(0);
        if read("tables_cursor") == read("log_last") { Ok(read("log_last")) } else { Err(status.to_string()) }
    });
    let took = began.elapsed().as_secs_f64();
    let (rows, records) = count_rows(&run.engine);
    Row {
        what: format!("the lake after S3 was dead for {} s", (FILL + STEADY).as_secs()),
        ours: format!("{rows} rows of {records} records, {took:.1} s after S3 was back"),
        beside: format!("{events} events in the log"),
        limit: "exactly".to_owned(),
        holds: rows == events && records == events,
    }
}

/// Of the straight line that fits best.
fn slope(points: &[(f64, f64)]) -> f64 {
    let n = points.len() as f64;
    let mean = |pick: fn(&(f64, f64)) -> f64| points.iter().map(pick).sum::<f64>() / n;
    let (x, y) = (mean(|p| p.0), mean(|p| p.1));
    let over = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum::<f64>();
    over / points.iter().map(|p| (p.0 - x).powi(2)).sum::<f64>()
}
