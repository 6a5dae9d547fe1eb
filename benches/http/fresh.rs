//! From a 2xx until the event can be read as a feature, from outside, while other events come at a steady rate; and what the
//! engine itself says about it in its metrics.

use std::{
    fmt::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use keyloom_tests::support::{
    engine::{Engine, folder},
    random::Random,
};
use tokio::runtime::Runtime;

use super::{
    client::{self, Connection},
    ingest::topology,
};

/// The steady load, and how much of it a request holds.
const RATE: f64 = 10_000.0;
const BATCH: u64 = 50;
const USERS: u64 = 20_000;
/// Length of the measurement; the first part of it warms up and does not count.
const TIME: Duration = Duration::from_secs(25);
const WARM_UP: Duration = Duration::from_secs(5);
/// Pause between two timed events.
const PAUSE: Duration = Duration::from_millis(10);
/// How long one event may take before something is wrong.
const READABLE_MAX: Duration = Duration::from_secs(30);
const CONNECTIONS: usize = 16;

/// See the module.
pub fn measure(runtime: &Runtime) -> anyhow::Result<()> {
    let place = folder();
    let engine = Engine::start(place.path(), &topology(None));
    let mut number = 0u64;
    let load = move |random: &mut Random| {
        let mut body = String::new();
        for _ in 0..BATCH {
            number += 1;
            let user = random.below(USERS);
            let event = writeln!(
                body,
                "{{\"domain_userid\":\"user-{user}\",\"event_id\":\"{number}\",\"event\":\"page_view\",\"page_url\":\"https://shop.example/{number}\",\
                 \"app_id\":\"shop\",\"platform\":\"web\"}}"
            );
            event.expect("a String takes everything");
        }
        Arc::new(client::post("/v1/events", body.as_bytes()))
    };
    let loaded = client::at_a_rate(engine.port, CONNECTIONS, RATE / BATCH as f64, TIME, load);
    let (seen, load) = runtime.block_on(async { tokio::join!(probe(engine.port), loaded) });
    let (mut seen, load) = (seen?, load?);
    if load.refused > 0 {
        return Err(anyhow!("{} requests of the load were refused", load.refused));
    }
    seen.sort_by(f64::total_cmp);
    let at = |percent: usize| seen.get(seen.len() * percent / 100).copied().unwrap_or(f64::NAN) * 1e3;
    println!(
        "fresh: from 2xx to readable, {} events timed beside {:.0} events/s",
        seen.len(),
        load.rate() * BATCH as f64
    );
    println!("  from outside: p50 {:.2} ms (limit 5), p99 {:.2} ms (limit 25)", at(50), at(99));
    let metrics = engine.metrics();
    let bound = |share: f64| metrics.quantile("keyloom_feature_freshness_seconds", share).map(|seconds| seconds * 1e3);
    let [p50, p99] = [bound(0.5), bound(0.99)].map(|bound| bound.unwrap_or(f64::NAN));
    println!("  by the engine's own metric, from stored to readable: p50 <= {p50} ms, p99 <= {p99} ms");
    Ok(())
}

/// Sends one event after the other and asks until it can be read.
async fn probe(port: u16) -> anyhow::Result<Vec<f64>> {
    let mut connection = Connection::open(port).await?;
    let (began, mut seen) = (Instant::now(), Vec::new());
    let mut n = 0u64;
    while began.elapsed() < TIME {
        n += 1;
        let key = format!("probe-{}", n % 50);
        let event = format!(
            "{{\"domain_userid\":\"{key}\",\"event_id\":\"{n}\",\"event\":\"page_view\",\"page_url\":\"/{n}\"}}"
        );
        let answer = connection.exchange(&client::post("/v1/events", event.as_bytes())).await?;
        if answer.status != 200 {
            return Err(anyhow!("an event was answered with {}", answer.status));
        }
        let stored = Instant::now();
        let (question, wanted) = (client::get(&format!("/v1/features/{key}")), format!("\"last_page\":\"/{n}\""));
        loop {
            let answer = connection.exchange(&question).await?;
            let body = std::str::from_utf8(connection.body(&answer)).context("JSON is text")?;
            if body.contains(&wanted) {
                break;
            }
            if stored.elapsed() > READABLE_MAX {
                return Err(anyhow!("event {n} cannot be read: {body}"));
            }
        }
        if began.elapsed() > WARM_UP {
            seen.push(stored.elapsed().as_secs_f64());
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(seen)
}
