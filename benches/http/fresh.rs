//! From a 2xx until the event can be read as a feature, from outside, while other events come at a steady rate; and what the
//! engine itself says about it in its metrics.
//!
//! Timed events are sent at times that do not wait for the ones before, so that whatever holds up the engine for a moment
//! is met by as many of them as it deserves.

use std::{
    cell::RefCell,
    fmt::Write as _,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use keyloom_tests::support::{
    engine::{Engine, folder},
    random::Random,
};
use tokio::{runtime::Runtime, task::LocalSet};

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
/// Time between two timed events on average; they come at random moments.
const APART: Duration = Duration::from_millis(10);
/// Time between two looks at a timed event; what is found at the first look was there sooner than that.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// Keys of timed events, one after the other.
const PROBES: u64 = 2_000;
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
    let warmed_up = async {
        tokio::time::sleep(WARM_UP).await;
        engine.metrics()
    };
    let local = LocalSet::new();
    let timed = local.run_until(probe(engine.port));
    let (seen, load, before) = runtime.block_on(async { tokio::join!(timed, loaded, warmed_up) });
    let (mut seen, load, metrics) = (seen?, load?, engine.metrics().since(&before));
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
    let most = seen.last().copied().unwrap_or(f64::NAN) * 1e3;
    println!("  from outside: p50 {:.2} ms (limit 5), p99 {:.2} ms (limit 25), longest {most:.0} ms", at(50), at(99));
    let bound = |share: f64| metrics.quantile("keyloom_feature_freshness_seconds", share).map(|seconds| seconds * 1e3);
    let [p50, p99] = [bound(0.5), bound(0.99)].map(|bound| bound.unwrap_or(f64::NAN));
    println!("  by the engine's own metric, from stored to readable: p50 <= {p50} ms, p99 <= {p99} ms");
    Ok(())
}

/// Sends events at random moments and asks for each until it can be read. Seconds that took, of those behind the warm-up.
async fn probe(port: u16) -> anyhow::Result<Vec<f64>> {
    let free: Rc<RefCell<Vec<Connection>>> = Rc::default();
    let (mut random, mut due) = (Random::new(13), Duration::ZERO);
    let (began, mut all) = (Instant::now(), Vec::new());
    for n in 0.. {
        let uniform = (random.number() >> 11) as f64 / (1u64 << 53) as f64;
        due += APART.mul_f64(-(1.0 - uniform).ln());
        if due >= TIME {
            break;
        }
        tokio::time::sleep_until((began + due).into()).await;
        let (free, counts) = (Rc::clone(&free), due > WARM_UP);
        all.push(tokio::task::spawn_local(async move {
            let idle = free.borrow_mut().pop();
            let mut connection = match idle {
                Some(connection) => connection,
                None => Connection::open(port).await?,
            };
            let seconds = readable(&mut connection, n).await?;
            free.borrow_mut().push(connection);
            anyhow::Ok(counts.then_some(seconds))
        }));
    }
    let mut seen = Vec::new();
    for timed in all {
        seen.extend(timed.await??);
    }
    Ok(seen)
}

/// Seconds from the 2xx of the `n`-th event until it can be read.
async fn readable(connection: &mut Connection, n: u64) -> anyhow::Result<f64> {
    let key = format!("probe-{}", n % PROBES);
    let event =
        format!("{{\"domain_userid\":\"{key}\",\"event_id\":\"{n}\",\"event\":\"page_view\",\"page_url\":\"/{n}\"}}");
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
            return Ok(stored.elapsed().as_secs_f64());
        }
        if stored.elapsed() > READABLE_MAX {
            return Err(anyhow!("event {n} cannot be read: {body}"));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
