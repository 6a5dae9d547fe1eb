//! Reads the counters that actors increment. One per process, so scenarios compare before and after.

use std::{
    collections::HashMap,
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

use super::lock;

type Counters = Mutex<HashMap<String, Arc<AtomicU64>>>;

static COUNTERS: LazyLock<Counters> = LazyLock::new(|| {
    drop(metrics::set_global_recorder(Meter)); // fails only when someone else's is there, and nobody else has one
    Counters::default()
});

struct Meter;

/// The value of counter `name` with these label values, such as `keyloom_session_evictions_total lru`.
pub fn counter(name: &str) -> u64 {
    lock(&COUNTERS).get(name).map_or(0, |n| n.load(Ordering::Relaxed))
}

impl Recorder for Meter {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let name = key.labels().fold(key.name().to_owned(), |name, label| format!("{name} {}", label.value()));
        Counter::from_arc(Arc::clone(lock(&COUNTERS).entry(name).or_default()))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}
