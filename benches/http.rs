//! `make bench-http`: what the HTTP faces can do, beside their limits, from one run on one machine: events in, features out,
//! and how long it takes from one to the other. With names as arguments, those measurements alone.
//!
//! The engine, the load and, where there is one, the broker share the machine. Every number is seen from outside, by a
//! client that shares no code with the server. Compare by ratio: machines are noisy.

#[path = "http/client.rs"]
mod client;
#[path = "http/fresh.rs"]
mod fresh;
#[path = "http/ingest.rs"]
mod ingest;
#[path = "http/reads.rs"]
mod reads;

use std::env;

use anyhow::anyhow;
use tokio::runtime;

/// A measurement: prints its lines.
type Measure = fn(&runtime::Runtime) -> anyhow::Result<()>;

const MEASUREMENTS: [(&str, Measure); 4] = [
    ("ingest", ingest::measure),
    ("reads", reads::measure),
    ("windows", reads::measure_windows),
    ("fresh", fresh::measure),
];

fn main() -> anyhow::Result<()> {
    let chosen: Vec<String> = env::args().skip(1).collect();
    let known = |name: &String| MEASUREMENTS.iter().any(|(known, _)| known == name);
    if let Some(name) = chosen.iter().find(|name| !known(name)) {
        return Err(anyhow!("there is no measurement {name:?}, only {:?}", MEASUREMENTS.map(|(name, _)| name)));
    }
    // One thread: the load must leave the machine to the engine.
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    for (name, measure) in MEASUREMENTS {
        if chosen.is_empty() || chosen.iter().any(|wanted| wanted == name) {
            measure(&runtime)?;
        }
    }
    Ok(())
}
