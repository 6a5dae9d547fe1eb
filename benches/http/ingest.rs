//! Events in: batches and single ones over HTTP until the answer that they are stored, beside what a bare client can
//! publish into JetStream in the same run. The engine processes what comes in meanwhile; nothing is switched off.

use std::{
    collections::VecDeque,
    fmt, fs,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use async_nats::jetstream;
use bytes::Bytes;
use keyloom_tests::support::{
    engine::{Engine, Topology, folder, generate},
    process::{Process, cpu_seconds},
    servers::Nats,
};
use tokio::runtime::Runtime;

use super::client::{self, Seen};

/// Events of the file that is sent; enough for the longest measurement at any rate this machine can have.
const EVENTS: u64 = 3_000_000;
const USERS: u64 = 50_000;
/// Length of one measurement, and how often each is made; the median counts.
const TIME: Duration = Duration::from_secs(8);
const RUNS: usize = 3;
/// Events of a batch, and connections that send batches and single events.
const BATCH: usize = 100;
const BATCH_CONNECTIONS: usize = 16;
const SINGLE_CONNECTIONS: usize = 64;
/// Messages of the bare client on their way.
const PUBLISH_WINDOW: usize = 4_096;

/// See the module.
pub fn measure(runtime: &Runtime) -> anyhow::Result<()> {
    let place = folder();
    let file = generate(place.path(), EVENTS, USERS, &[]);
    let text = Bytes::from(fs::read(&file)?);
    let lines: Vec<Bytes> =
        text.split(|b| *b == b'\n').filter(|line| !line.is_empty()).map(|line| text.slice_ref(line)).collect();
    println!(
        "events in: {} bytes each, batches of {BATCH}, medians of {RUNS} runs of {} s",
        text.len() / lines.len(),
        TIME.as_secs()
    );
    let (mut bare, mut embedded, mut nats, mut single) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS {
        bare.push(runtime.block_on(publish(&lines))?);
        embedded.push(batches(runtime, None, &lines)?);
        let server_folder = folder();
        nats.push(batches(runtime, Some(&Nats::start(server_folder.path(), "")), &lines)?);
        single.push(singles(runtime, &lines)?);
    }
    let bare = median(bare, |load| load.rate).context("it ran")?;
    println!("  {:<40} {bare}", "bare async-nats client into JetStream:");
    for (what, runs) in [("embedded log", embedded), ("log on JetStream", nats)] {
        let load = median(runs, |load| load.rate).context("it ran")?;
        println!(
            "  {:<40} {load}   {:.0} % of bare; answer p50 {:.1} ms, p99 {:.1} ms",
            format!("over HTTP, {what}:"),
            100.0 * load.rate / bare.rate,
            load.seen.milliseconds(500),
            load.seen.milliseconds(990)
        );
    }
    let seen = median(single, Seen::rate).context("it ran")?;
    println!(
        "  {:<40} {:>9.0} events/s   limit 20,000; answer p50 {:.2} ms, p99 {:.2} ms",
        format!("single, {SINGLE_CONNECTIONS} connections, embedded:"),
        seen.rate(),
        seen.milliseconds(500),
        seen.milliseconds(990)
    );
    Ok(())
}

/// The one in the middle by `by`.
pub fn median<T>(mut runs: Vec<T>, by: impl Fn(&T) -> f64) -> Option<T> {
    runs.sort_by(|a, b| by(a).total_cmp(&by(b)));
    let middle = runs.len() / 2;
    runs.into_iter().nth(middle)
}

/// What one run of a load came to.
struct Load {
    /// Events stored per second.
    rate: f64,
    /// How long answers took.
    seen: Seen,
    /// Processor time of the engine and of the broker, where there are such, in microseconds per event: what the machine
    /// could do at most follows from their sum.
    engine: Option<f64>,
    broker: Option<f64>,
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>9.0} events/s", self.rate)?;
        for (who, time) in [("engine", self.engine), ("broker", self.broker)] {
            if let Some(time) = time {
                write!(f, ", {who} {time:.1} µs of processor each")?;
            }
        }
        Ok(())
    }
}

/// Microseconds of processor time that a process has used, for each of `events`.
fn per_event(process: &Process, events: u64) -> Option<f64> {
    cpu_seconds(process.id()).map(|seconds| seconds * 1e6 / events as f64)
}

/// What a client with nothing else to do publishes, pipelined, every message acknowledged.
async fn publish(lines: &[Bytes]) -> anyhow::Result<Load> {
    let place = folder();
    let server = Nats::start(place.path(), "");
    let context = jetstream::new(async_nats::connect(server.url()).await?);
    let subjects = vec!["events.>".to_owned()];
    context
        .create_stream(jetstream::stream::Config { name: "raw_events".to_owned(), subjects, ..Default::default() })
        .await?;
    let mut waiting = VecDeque::new();
    let (began, mut stored) = (Instant::now(), 0u64);
    for line in lines {
        if began.elapsed() >= TIME {
            break;
        }
        if waiting.len() >= PUBLISH_WINDOW
            && let Some(oldest) = waiting.pop_front()
        {
            let oldest: jetstream::context::PublishAckFuture = oldest;
            oldest.await?;
            stored += 1;
        }
        waiting.push_back(context.publish("events.bare", line.clone()).await?);
    }
    for ack in waiting {
        ack.await?;
        stored += 1;
    }
    let rate = stored as f64 / began.elapsed().as_secs_f64();
    Ok(Load { rate, seen: Seen::default(), engine: None, broker: per_event(&server.process, stored) })
}

/// Batches over HTTP, with the log of that broker or an embedded one.
fn batches(runtime: &Runtime, broker: Option<&Nats>, lines: &[Bytes]) -> anyhow::Result<Load> {
    let place = folder();
    let engine = Engine::start(place.path(), &topology(broker.map(Nats::url)));
    let requests = lines.chunks(BATCH).map(|batch| client::post("/v1/events", &batch.join(&b'\n')));
    let seen =
        runtime.block_on(client::as_fast_as_answered(engine.port, BATCH_CONNECTIONS, requests.collect(), TIME))?;
    if seen.refused > 0 {
        return Err(anyhow!("{} requests were refused", seen.refused));
    }
    let events = (seen.seconds.len() * BATCH) as u64;
    Ok(Load {
        rate: seen.rate() * BATCH as f64,
        engine: per_event(&engine.process, events),
        broker: broker.and_then(|broker| per_event(&broker.process, events)),
        seen,
    })
}

fn singles(runtime: &Runtime, lines: &[Bytes]) -> anyhow::Result<Seen> {
    let place = folder();
    let engine = Engine::start(place.path(), &topology(None));
    let requests = lines.iter().take(1_000_000).map(|line| client::post("/v1/events", line)).collect();
    let seen = runtime.block_on(client::as_fast_as_answered(engine.port, SINGLE_CONNECTIONS, requests, TIME))?;
    if seen.refused > 0 {
        return Err(anyhow!("{} requests were refused", seen.refused));
    }
    Ok(seen)
}

/// As a user has it, but for the files, which are cut as seldom as by default.
pub fn topology(nats: Option<String>) -> Topology {
    Topology { nats, checkpoint_every: "5s".to_owned(), cut_age: "5m".to_owned(), ..Topology::default() }
}
