//! Events in: batches and single ones over HTTP until the answer that they are stored, beside what a bare client can
//! publish into JetStream in the same run. The engine processes what comes in meanwhile; nothing is switched off.

use std::{
    collections::VecDeque,
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use async_nats::jetstream;
use bytes::Bytes;
use keyloom_tests::support::{
    engine::{Engine, Topology, folder, generate},
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
        let server = Nats::start(server_folder.path(), "");
        nats.push(batches(runtime, Some(server.url()), &lines)?);
        single.push(singles(runtime, &lines)?);
    }
    let bare = median(bare, |rate| *rate).context("it ran")?;
    println!("  bare async-nats client, publishes into JetStream:    {bare:>9.0} events/s");
    for (what, runs) in [("embedded log", embedded), ("log on JetStream", nats)] {
        let (rate, seen) = median(runs, |(rate, _)| *rate).context("it ran")?;
        println!(
            "  {:<52} {rate:>9.0} events/s   {:.0} % of bare; answer p50 {:.1} ms, p99 {:.1} ms",
            format!("over HTTP, {what}:"),
            100.0 * rate / bare,
            seen.milliseconds(500),
            seen.milliseconds(990)
        );
    }
    let seen = median(single, Seen::rate).context("it ran")?;
    println!(
        "  single events over {SINGLE_CONNECTIONS} connections, embedded:             {:>9.0} events/s   limit 20,000; answer p50 {:.2} ms, p99 {:.2} ms",
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

/// What a client with nothing else to do publishes, pipelined, every message acknowledged.
async fn publish(lines: &[Bytes]) -> anyhow::Result<f64> {
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
    Ok(stored as f64 / began.elapsed().as_secs_f64())
}

/// Events stored per second, and how long the answers took.
fn batches(runtime: &Runtime, nats: Option<String>, lines: &[Bytes]) -> anyhow::Result<(f64, Seen)> {
    let place = folder();
    let engine = Engine::start(place.path(), &topology(nats));
    let requests = lines.chunks(BATCH).map(|batch| client::post("/v1/events", &batch.join(&b'\n')));
    let seen =
        runtime.block_on(client::as_fast_as_answered(engine.port, BATCH_CONNECTIONS, requests.collect(), TIME))?;
    if seen.refused > 0 {
        return Err(anyhow!("{} requests were refused", seen.refused));
    }
    Ok((seen.rate() * BATCH as f64, seen))
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
