//! Reads the counters and gauges of the actors. One per process: scenarios compare counters before and after, and gauges carry
//! the number of their world's partition.

use std::{
    collections::HashMap,
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

use super::lock;

/// By name and label values; of gauges the bits of their value.
type Values = Mutex<HashMap<String, Arc<AtomicU64>>>;

static VALUES: LazyLock<Values> = LazyLock::new(|| {
    drop(metrics::set_global_recorder(Meter)); // fails only when someone else's is there, and nobody else has one
    Values::default()
});

struct Meter;

/// The value of counter `name` with these label values, such as `keyloom_session_evictions_total lru`.
pub fn counter(name: &str) -> u64 {
    counted(name).unwrap_or(0)
}

/// The same; `None` when nobody has begun it.
pub fn counted(name: &str) -> Option<u64> {
    lock(&VALUES).get(name).map(|n| n.load(Ordering::Relaxed))
}

/// The same of a gauge; `None` when nobody has set it.
pub fn gauge(name: &str) -> Option<f64> {
    lock(&VALUES).get(name).map(|bits| f64::from_bits(bits.load(Ordering::Relaxed)))
}

fn value(key: &Key) -> Arc<AtomicU64> {
    let name = key.labels().fold(key.name().to_owned(), |name, label| format!("{name} {}", label.value()));
    Arc::clone(lock(&VALUES).entry(name).or_default())
}

impl Recorder for Meter {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(value(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(value(key))
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}
