//! What checkpoints cost: the whole embedded job with one every 5 s, and with none before the end.

use keyloom_tests::support::{
    engine::{Topology, folder, generate},
    servers::free_port,
};

use super::{Row, shared};

/// Pairs of runs; the median of their ratios is reported.
const PAIRS: usize = 7;
/// Events of the job, and how many users they fall on; `KEYLOOM_BENCH_EVENTS` changes the first.
const EVENTS: u64 = 2_000_000;
const USERS: u64 = 100_000;
/// Of the throughput without checkpoints, at least.
const RATIO_MIN: f64 = 0.9;

/// See the module.
pub fn measure() -> anyhow::Result<Vec<Row>> {
    let events = std::env::var("KEYLOOM_BENCH_EVENTS").map_or(Ok(EVENTS), |n| n.parse())?;
    let keyloom = shared::keyloom()?;
    let place = folder();
    let file = generate(place.path(), events, USERS, &[]);
    let job = |checkpoint_every: &str| {
        let home = folder();
        let topology =
            Topology { checkpoint_every: checkpoint_every.to_owned(), cut_age: "5m".to_owned(), ..Topology::default() };
        let path = home.path().join("keyloom.toml");
        std::fs::write(&path, topology.text(free_port()))?;
        let job = shared::process(&keyloom, &path, &file)?;
        eprintln!("{checkpoint_every}: peak memory {} MB", job.peak >> 20);
        anyhow::Ok((job.events / job.seconds, job.cpu))
    };
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for pair in 0..PAIRS {
        // Whatever one run leaves behind for the next falls on both alike.
        let (ours, beside) = if pair % 2 == 0 {
            let ours = job("5s")?;
            (ours, job("1h")?)
        } else {
            let beside = job("1h")?;
            (job("5s")?, beside)
        };
        let ((rate, cpu), (rate_beside, cpu_beside)) = (ours, beside);
        eprintln!("checkpoints {rate:.0} events/s, {cpu:.1} s of CPU; none {rate_beside:.0}, {cpu_beside:.1} s");
        with.push(ours);
        without.push(beside);
    }
    let pick = |runs: &[(f64, f64)], pick: fn(&(f64, f64)) -> f64| shared::median(runs.iter().map(pick).collect());
    let ratio =
        |of: fn(&(f64, f64)) -> f64| shared::median(with.iter().zip(&without).map(|(w, o)| of(w) / of(o)).collect());
    let (rate, cpu) = (ratio(|run| run.0), ratio(|run| run.1));
    let what = |name: &str| {
        format!("whole embedded job, {events} events, a checkpoint every 5 s: {name}, medians of {PAIRS} pairs")
    };
    Ok(vec![
        Row {
            what: what("throughput"),
            ours: format!("{:.0} events/s ({:.0} %)", pick(&with, |run| run.0), 100.0 * rate),
            beside: format!("{:.0} events/s without checkpoints", pick(&without, |run| run.0)),
            limit: format!("≥ {:.0} %", 100.0 * RATIO_MIN),
            holds: rate >= RATIO_MIN,
        },
        Row {
            what: what("processor time"),
            ours: format!("{:.1} s ({:.0} %)", pick(&with, |run| run.1), 100.0 * cpu),
            beside: format!("{:.1} s without checkpoints", pick(&without, |run| run.1)),
            limit: format!("≤ {:.0} %", 100.0 / RATIO_MIN),
            holds: cpu <= 1.0 / RATIO_MIN,
        },
    ])
}
