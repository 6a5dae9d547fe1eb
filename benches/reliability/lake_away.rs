//! What a dead S3 costs: how fresh features are at a steady rate beside an engine whose S3 is there, whether memory grows,
//! and how the lake catches up.

use std::{
    thread,
    time::{Duration, Instant},
};

use keyloom_tests::support::{
    audit::count_rows,
    engine::{Engine, S3Lake, Topology, folder},
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
/// The same for memory: as many events as an hour of 2,500 a second has, of users that are soon all known, because each one
/// takes memory. The first half fills what is bounded.
const MEMORY_MINUTES: usize = 12;
const MEMORY_RATE: u64 = 12_500;
const MEMORY_USERS: u64 = 2_000;
/// Freshness with a dead S3, of that with one that is there, at most.
const RATIO_MAX: f64 = 1.2;
/// Growth of memory in the second half, in its own size per minute.
const GROWTH_MAX: f64 = 0.005;
/// How long the lake may take to catch up with all of that.
const CATCH_UP_MAX: Duration = Duration::from_secs(900);

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
        assert_eq!(stalled.map(|tables| tables > 0.0), Some(is_dead), "whether the lake was away");
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

/// Memory while S3 is dead, and what is in the lake in the end.
pub fn memory() -> anyhow::Result<Vec<Row>> {
    let run = Run::start(true);
    let load = load::generate(run.folder.path(), run.engine.port, MEMORY_RATE, MEMORY_USERS);
    let began = Instant::now();
    let mut seen: Vec<(f64, f64)> = Vec::new();
    let mut minutes = Vec::new();
    while minutes.len() < MEMORY_MINUTES {
        thread::sleep(Duration::from_secs(1)); // between two samples
        seen.push((began.elapsed().as_secs_f64() / 60.0, run.engine.process.memory() as f64 / f64::from(1 << 20)));
        if seen.last().is_some_and(|(minute, _)| *minute >= (minutes.len() + 1) as f64) {
            let of_minute = seen.iter().filter(|(at, _)| *at >= minutes.len() as f64).map(|(_, mb)| *mb);
            minutes.push(format!("{:.0}", shared::median(of_minute.collect())));
            eprintln!("minute {}: {} MB", minutes.len(), minutes[minutes.len() - 1]);
        }
    }
    drop(load);
    let half: Vec<_> = seen.into_iter().filter(|(at, _)| *at >= MEMORY_MINUTES as f64 / 2.0).collect();
    let level = shared::median(half.iter().map(|(_, mb)| *mb).collect());
    let slope = slope(&half);
    let row = Row {
        what: format!(
            "memory with a dead S3, {MEMORY_RATE} events/s of {MEMORY_USERS} users for {MEMORY_MINUTES} min, second half"
        ),
        ours: format!("{level:.0} MB, {slope:+.2} MB/min"),
        beside: format!("medians of each minute: {}", minutes.join(", ")),
        limit: format!("grows by ≤ {:.1} %/min", 100.0 * GROWTH_MAX),
        holds: slope <= GROWTH_MAX * level,
    };
    Ok(vec![row, catches_up(&run)])
}

fn catches_up(run: &Run) -> Row {
    let began = Instant::now();
    run.link.set(Mode::Pass);
    let events = wait_for("the lake to have caught up", CATCH_UP_MAX, || {
        let status = http::get(run.engine.port, "/api/status").map_err(|e| e.to_string())?.json();
        let read = |name: &str| status["partitions"][0][name].as_u64().unwrap_or(0);
        if read("tables_cursor") == read("log_last") { Ok(read("log_last")) } else { Err(status.to_string()) }
    });
    let took = began.elapsed().as_secs_f64();
    let (rows, records) = count_rows(&run.engine);
    Row {
        what: format!("the lake after S3 was dead for {MEMORY_MINUTES} min"),
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
