//! Features out: the grid of Feast's published benchmark (features × keys per request) and the two cells that have a limit,
//! at a rate that does not wait for answers.
//!
//! Every feature is the last value of a field, as Feast serves what was written; and once more with features that change
//! with time, which Feast has none of.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use anyhow::{Context, anyhow};
use keyloom_tests::support::{
    engine::{Engine, folder},
    http,
    random::Random,
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::{
    client::{self, Seen},
    ingest::topology,
};

/// Keys that have features.
const KEYS: u64 = 10_000;
/// The grid.
const FEATURES: [usize; 5] = [50, 100, 150, 200, 250];
const BATCHES: [usize; 11] = [1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100];
const GRID_RATE: f64 = 100.0;
const GRID_TIME: Duration = Duration::from_secs(3);
/// The cells with a limit.
const RATE: f64 = 2_000.0;
const TIME: Duration = Duration::from_secs(10);
const CONNECTIONS: usize = 64;
/// More than the time between two checkpoints.
const SETTLE: Duration = Duration::from_secs(7);
/// Different requests of one measurement.
const REQUESTS: usize = 2_000;
/// Events per request while keys are made.
const BATCH: u64 = 100;

/// See the module.
pub fn measure(runtime: &Runtime) -> anyhow::Result<()> {
    let (engine, _place) = engine("function = \"last\"\nof = \"NAME\"\n")?;
    println!("features out: {KEYS} keys in memory, open loop, milliseconds");
    let limits = [(250, 1, 1, 1.3), (50, 100, 1, 5.0), (50, 100, 5, 5.0)];
    for (features, keys, apart, limit) in limits {
        let wanted = Wanted { features, apart, keys };
        let seen = run(runtime, engine.port, wanted, RATE, TIME)?;
        let which = if apart > 1 { format!(", every {apart}th of the row") } else { String::new() };
        println!(
            "  {keys:>3} keys x {features} features{which} at {RATE} requests/s: {}   limit {limit} at p99",
            words(&seen)
        );
    }
    println!("  Feast's grid at {GRID_RATE} requests/s, p50/p99 by keys per request:");
    println!("  features {}", BATCHES.map(|batch| format!("{batch:>11}")).join(""));
    for features in FEATURES {
        let mut line = String::new();
        for batch in BATCHES {
            let wanted = Wanted { features, apart: 1, keys: batch };
            let seen = run(runtime, engine.port, wanted, GRID_RATE, GRID_TIME)?;
            write!(line, "{:>11}", format!("{:.2}/{:.2}", seen.milliseconds(500), seen.milliseconds(990)))?;
        }
        println!("  {features:>8} {line}");
    }
    Ok(())
}

/// The same of features that change with time.
pub fn measure_windows(runtime: &Runtime) -> anyhow::Result<()> {
    let (engine, _place) = engine("function = \"sum\"\nof = \"NAME\"\nwindow = \"1h\"\n")?;
    println!("features out that change with time: {KEYS} keys in memory, open loop, milliseconds");
    for (features, keys) in [(250, 1), (50, 100)] {
        let seen = run(runtime, engine.port, Wanted { features, apart: 1, keys }, RATE, TIME)?;
        println!("  {keys:>3} keys x {features} sums over the last hour at {RATE} requests/s: {}", words(&seen));
    }
    Ok(())
}

fn words(seen: &Seen) -> String {
    let [p50, p95, p99, p999] = [500, 950, 990, 999].map(|at| seen.milliseconds(at));
    format!("p50 {p50:.2}, p95 {p95:.2}, p99 {p99:.2}, p99.9 {p999:.2} ({:.0} answers/s)", seen.rate())
}

/// An engine whose keys have as many features as the widest row of the grid.
fn engine(definition: &str) -> anyhow::Result<(Engine, TempDir)> {
    let place = folder();
    let widest = FEATURES.iter().max().copied().context("the grid has rows")?;
    let names: Vec<String> = (0..widest).map(|n| format!("f{n:03}")).collect();
    let more = names.iter().map(|name| format!("[feature.{name}]\n{}", definition.replace("NAME", name))).collect();
    let engine = Engine::start(place.path(), &keyloom_tests::support::engine::Topology { more, ..topology(None) });
    let mut random = Random::new(11);
    for first in (0..KEYS).step_by(BATCH as usize) {
        let mut body = String::new();
        for key in first..first + BATCH {
            write!(body, "{{\"domain_userid\":\"user-{key}\",\"event_id\":\"e\"")?;
            for name in &names {
                write!(body, ",\"{name}\":{}", random.below(1_000_000))?;
            }
            body.push_str("}\n");
        }
        engine.post_events(&body);
    }
    let last = format!("/v1/features/user-{}", KEYS - 1);
    let made = || match http::get(engine.port, &last) {
        Ok(answer) if answer.status == 200 => Ok(()),
        Ok(answer) => Err(answer.status.to_string()),
        Err(error) => Err(error.to_string()),
    };
    keyloom_tests::support::wait_for("the features of the last key", Duration::from_secs(120), made);
    // What was sent to make them is to be in its checkpoint and its files before anything is timed.
    engine.wait_settled(KEYS, 0);
    std::thread::sleep(SETTLE);
    Ok((engine, place))
}

/// What a request asks for.
struct Wanted {
    features: usize,
    /// From one of them to the next in the row.
    apart: usize,
    keys: usize,
}

fn run(runtime: &Runtime, port: u16, wanted: Wanted, rate: f64, time: Duration) -> anyhow::Result<Seen> {
    let Wanted { features, apart, keys } = wanted;
    let mut random = Random::new(features as u64 * 1_000 + keys as u64);
    let names: Vec<String> = (0..features).map(|n| format!("\"f{:03}\"", n * apart)).collect();
    let requests: Vec<Arc<Vec<u8>>> = (0..REQUESTS)
        .map(|_| {
            let wanted: Vec<String> = (0..keys).map(|_| format!("\"user-{}\"", random.below(KEYS))).collect();
            let body = format!("{{\"keys\":[{}],\"features\":[{}]}}", wanted.join(","), names.join(","));
            Arc::new(client::post("/v1/features", body.as_bytes()))
        })
        .collect();
    let pick = move |random: &mut Random| Arc::clone(random.pick(&requests));
    let seen = runtime.block_on(client::at_a_rate(port, CONNECTIONS, rate, time, pick))?;
    if seen.refused > 0 {
        return Err(anyhow!("{} requests were refused", seen.refused));
    }
    Ok(seen)
}
