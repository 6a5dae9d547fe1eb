//! `make bench-reliability`: what a dead lake, checkpoints and kills cost, each beside what it is compared with and its
//! limit, from one run on one machine. With names as arguments, those measurements alone.
//!
//! Runs that are compared alternate, and medians are over pairs: machines are noisy. Whether what was done is right is for
//! the tests to say; here only rows are counted.

#[path = "reliability/checkpoints.rs"]
mod checkpoints;
#[path = "reliability/kills.rs"]
mod kills;
#[path = "reliability/lake_away.rs"]
mod lake_away;
#[path = "reliability/load.rs"]
mod load;
#[path = "shared.rs"]
mod shared;

use std::env;

use anyhow::anyhow;

/// A line of the table.
#[derive(Clone)]
pub struct Row {
    /// What was measured.
    pub what: String,
    /// What it came to.
    pub ours: String,
    /// What it is compared with, where that was measured as well.
    pub beside: String,
    /// What must hold.
    pub limit: String,
    /// Whether it does.
    pub holds: bool,
}

/// A measurement.
type Measure = fn() -> anyhow::Result<Vec<Row>>;

const MEASUREMENTS: [(&str, Measure); 5] = [
    ("freshness", lake_away::freshness),
    ("memory", lake_away::memory),
    ("checkpoints", checkpoints::measure),
    ("kills", kills::embedded),
    ("nats-kills", kills::nats),
];

fn main() -> anyhow::Result<()> {
    let chosen: Vec<String> = env::args().skip(1).collect();
    let known = |name: &String| MEASUREMENTS.iter().any(|(known, _)| known == name);
    if let Some(name) = chosen.iter().find(|name| !known(name)) {
        return Err(anyhow!("there is no measurement {name:?}, only {:?}", MEASUREMENTS.map(|(name, _)| name)));
    }
    let mut rows = Vec::new();
    for (name, measure) in MEASUREMENTS {
        if chosen.is_empty() || chosen.iter().any(|wanted| wanted == name) {
            eprintln!("{name} ...");
            rows.extend(measure()?);
        }
    }
    println!("| what | ours | beside | limit | |\n|---|---|---|---|---|");
    for Row { what, ours, beside, limit, holds } in rows {
        println!("| {what} | {ours} | {beside} | {limit} | {} |", if holds { "holds" } else { "BROKEN" });
    }
    Ok(())
}
