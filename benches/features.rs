//! `make bench-features`: what declared features cost one thread: per event, per answer, per key.
//!
//! Nothing but the feature state: events are decoded before the clock starts, as they are when sessions get them. Times are
//! processor time of this thread as the kernel counts it, so a busy machine does not blur them.

use std::{fs, time::Duration};

use anyhow::anyhow;
use bytes::Bytes;
use keyloom_actors::{
    event::{EventBatch, KeyPaths},
    features::{Definition, FeatureSet, FeatureState, Function, Picked, Settings, Window},
    handler::Features,
    ports::LogRecord,
    timestamp::Timestamp,
};

const KEYS: usize = 400;
const EVENTS_PER_KEY: usize = 500;
/// Runs; the median is told.
const RUNS: usize = 5;
/// 2026-11-20T00:00:00Z
const BEGIN: i64 = 1_795_132_800_000_000;
/// Mean time between the events of a key, in microseconds.
const APART: u64 = 40_000_000;

fn main() -> anyhow::Result<()> {
    let batches: Vec<EventBatch> = (0..KEYS).map(events).collect();
    for features in [50, 250] {
        let set = FeatureSet::compile(definitions(features), Settings::default()).map_err(|p| anyhow!("{p:?}"))?;
        measure(&set, &batches);
    }
    Ok(())
}

fn measure(set: &FeatureSet, batches: &[EventBatch]) {
    let events = (KEYS * EVENTS_PER_KEY) as f64;
    let mut states = Vec::new();
    let apply = median((0..RUNS).map(|_| {
        states = batches.iter().map(|_| FeatureState::new(set)).collect();
        let began = cpu();
        for (state, batch) in states.iter_mut().zip(batches) {
            for event in batch.iter() {
                state.apply(set, event);
            }
        }
        (cpu() - began) / events
    }));
    let at = Timestamp(BEGIN + (APART * EVENTS_PER_KEY as u64) as i64);
    let mut out = Vec::new();
    let mut each = |work: &mut dyn FnMut(&FeatureState, &mut Vec<u8>)| {
        let mut bytes = 0;
        let nanos = median((0..RUNS).map(|_| {
            bytes = 0;
            let began = cpu();
            for state in &states {
                out.clear();
                work(state, &mut out);
                bytes += out.len();
            }
            (cpu() - began) / KEYS as f64
        }));
        (nanos / 1_000.0, bytes / KEYS)
    };
    let (write, answer) = each(&mut |state, out| state.write(set, at, &mut Features::new(out)));
    let (encode, stored) = each(&mut |state, out| state.encode(set, out));
    let (kept, decaying) = each(&mut |state, out| state.encode_decaying(set, out));
    let encoded = |encode: &dyn Fn(&FeatureState, &mut Vec<u8>)| -> Vec<Vec<u8>> {
        let one = |state: &FeatureState| {
            let mut bytes = Vec::new();
            encode(state, &mut bytes);
            bytes
        };
        states.iter().map(one).collect()
    };
    let parts = encoded(&|state, out| state.encode_decaying(set, out));
    let mut next = parts.iter().cycle();
    let (read, _) = each(&mut |_, out| {
        let part = next.next().map_or(&[][..], Vec::as_slice);
        set.write_kept(part, at, None, &mut Features::new(out)).unwrap_or_default();
    });
    let every_5th = set.decaying_names().step_by(5).filter_map(|name| set.find_changing(name));
    let picked = Picked::of(set, every_5th);
    let mut next = parts.iter().cycle();
    let (some, _) = each(&mut |_, out| {
        let part = next.next().map_or(&[][..], Vec::as_slice);
        set.write_kept(part, at, Some(&picked), &mut Features::new(out)).unwrap_or_default();
    });
    let stored_states = encoded(&|state, out| state.encode(set, out));
    let mut next = stored_states.iter().cycle();
    let (decode, _) = each(&mut |_, _| drop(FeatureState::decode(set, next.next().map_or(&[][..], Vec::as_slice))));
    println!("{} features, {KEYS} keys of {EVENTS_PER_KEY} events, one thread", set.len());
    println!("  apply an event:          {apply:>8.0} ns");
    println!("  write all values:        {write:>8.1} µs   {answer} bytes of JSON");
    println!("  encode the state:        {encode:>8.1} µs   {stored} bytes");
    println!("  decode the state:        {decode:>8.1} µs");
    println!("  encode what decays:      {kept:>8.1} µs   {decaying} bytes");
    println!("  write what decays of it: {read:>8.1} µs");
    println!("  write every 5th of them: {some:>8.1} µs");
}

/// Nanoseconds that this thread has run so far.
fn cpu() -> f64 {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(f64::NAN)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A small generator with a fixed seed: the same events in every run.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

/// Events of one key as a shop sends them.
fn events(key: usize) -> EventBatch {
    let mut dice = key as u64 + 1;
    let mut time = BEGIN;
    let records = (0..EVENTS_PER_KEY).map(|i| {
        time += (next(&mut dice) % (2 * APART)) as i64;
        let stamp = Timestamp(time).to_rfc3339();
        let kind = ["page_view", "page_view", "page_ping", "add_to_cart", "order"][(next(&mut dice) % 5) as usize];
        let (page, price, sku) = (next(&mut dice) % 60, next(&mut dice) % 20_000, next(&mut dice) % 300);
        let text = format!(
            r#"{{"app_id":"shop","platform":"web","collector_tstamp":"{stamp}","event":"{kind}","event_id":"{key}-{i}","domain_userid":"user-{key}","session_id":"s{}","page_url":"https://shop.example/page/{page}","user_ipaddress":"192.0.2.7","price":{}.{:02},"quantity":{},"plan":"{}","product":{{"sku":"sku-{sku}","category":"c{}"}}}}"#,
            i / 20,
            price / 100,
            price % 100,
            1 + next(&mut dice) % 4,
            ["free", "pro", "team"][(next(&mut dice) % 3) as usize],
            sku % 12,
        );
        let stored = Timestamp(time + 1_000_000);
        LogRecord { seq: i as u64 + 1, stored, key: None, payload: Bytes::from(text), scanned: None, envelope: None }
    });
    EventBatch::decode(0, records.collect(), &KeyPaths::new(["domain_userid"]), None)
}

/// The mix that people ask for: counts and sums by event and window, recent and frequent values, sessions, ratios. Beyond 50
/// the same again with other windows.
fn definitions(many: usize) -> Vec<(String, Definition)> {
    let sliding = |minutes: u64| Some(Window::Sliding(Duration::from_secs(60 * minutes)));
    let mut all: Vec<(String, Definition)> = Vec::new();
    let mut add = |name: String, function: Function, of: &str, filter: &str, window: Option<Window>| {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let half_life = (function == Function::ExpDecay).then_some(Duration::from_secs(3_600));
        all.push((
            name,
            Definition { of: text(of), filter: text(filter), window, half_life, ..Definition::new(function) },
        ));
    };
    use Function as F;
    for round in 0..many.div_ceil(50) as u64 {
        let n = |name: &str| format!("{name}_{round}");
        for (label, window) in [
            ("now", sliding(5 + round)),
            ("hour", sliding(60 + round)),
            ("day", sliding(1_440 + round)),
            ("week", sliding(10_080 + round)),
            ("all", if round == 0 { None } else { sliding(20_160 + round) }),
        ] {
            let n = |name: &str| format!("{name}_{label}_{round}");
            add(n("views"), F::Count, "", "event == 'page_view'", window);
            add(n("carts"), F::Count, "", "event == 'add_to_cart'", window);
            add(n("orders"), F::Count, "", "event == 'order'", window);
            add(n("revenue"), F::Sum, "price", "event == 'order'", window);
            add(n("paid_views"), F::Count, "", "event == 'page_view' && plan in ['pro', 'team']", window);
        }
        for (name, function) in [("mean", F::Avg), ("least", F::Min), ("most", F::Max), ("spread", F::Stddev)] {
            add(n(name), function, "price", "event == 'order'", sliding(30 + round));
        }
        add(n("last_page"), F::Last, "page_url", "event == 'page_view'", sliding(120 + round));
        add(n("first_page"), F::First, "page_url", "event == 'page_view'", sliding(120 + round));
        add(n("recent"), F::LastK, "product.sku", "event == 'page_view'", sliding(180 + round));
        add(n("recent_skus"), F::LastDistinctK, "product.sku", "", sliding(180 + round));
        add(n("pages"), F::ApproxDistinct, "page_url", "", sliding(240 + round));
        add(n("categories"), F::Distinct, "product.category", "", sliding(240 + round));
        add(n("top"), F::TopK, "product.category", "", sliding(240 + round));
        add(n("top_pages"), F::TopK, "page_url", "event == 'page_view'", sliding(240 + round));
        add(n("warmth"), F::ExpDecay, "", "event == 'page_view'", None);
        add(n("heat"), F::ExpDecay, "price", "event == 'order'", None);
        add(n("since_order"), F::TimeSinceLast, "", "event == 'order'", None);
        add(n("since_first"), F::TimeSinceFirst, "", "", None);
        add(n("in_session"), F::Count, "", "", Some(Window::Session));
        add(n("today"), F::Count, "", "", Some(Window::Tumbling(Duration::from_secs(86_400 + round))));
        add(n("entry"), F::SessionEntryPage, "", "", None);
        add(n("engaged"), F::SessionEngaged, "", "", None);
        add(n("bounce"), F::SessionBounce, "", "", None);
        add(n("rate"), F::Ratio, &format!("orders_day_{round} / views_day_{round}"), "", None);
        add(n("value"), F::Derived, &format!("revenue_day_{round} / (orders_day_{round} + 1)"), "", None);
        add(n("cart_rate"), F::Ratio, &format!("carts_day_{round} / views_day_{round}"), "", None);
        add(n("value_of_cart"), F::Sum, "price * quantity", "event == 'add_to_cart'", None);
    }
    all.truncate(many);
    all
}
