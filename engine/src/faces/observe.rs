//! The metrics of the faces: the feature API's own, and the numbers that partitions keep for themselves, which are
//! exported when somebody looks.

use std::sync::atomic::Ordering;

use keyloom_actors::{
    dead_letter::Reason,
    partition::status::Status,
    timestamp::{Clock, SystemClock, Timestamp},
};
use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use super::View;
use crate::features::Status as Read;

/// Describes the metrics; once per process.
pub fn describe() {
    describe_counter!("keyloom_events_total", Unit::Count, "Events by outcome; accepted: by this front door.");
    describe_counter!("keyloom_dead_letters_total", Unit::Count, "Events given up, by reason.");
    describe_counter!(
        "keyloom_dead_letters_changed_total",
        Unit::Count,
        "Dead letters this engine was told to send again or to remove."
    );
    describe_counter!("keyloom_dropped_total", Unit::Count, "Events that were gone before they could be processed.");
    describe_gauge!("keyloom_lag_events", Unit::Count, "Events in the log that were not handed to sessions yet.");
    describe_gauge!("keyloom_lag_seconds", Unit::Seconds, "Age of the last event handed on, while there is lag.");
    describe_gauge!("keyloom_in_flight_events", Unit::Count, "Events in the log that have not ended in any way yet.");
    describe_gauge!("keyloom_in_flight_bytes", Unit::Bytes, "Memory of events between router, sessions and tables.");
    describe_gauge!("keyloom_sessions_live", Unit::Count, "Sessions in memory.");
    describe_gauge!(
        "keyloom_parked_events",
        Unit::Count,
        "Events that wait to be read again: their key restarts, or is too hot for memory."
    );
    describe_gauge!("keyloom_evicted_state_bytes", Unit::Bytes, "Evicted state waiting for a checkpoint.");
    describe_gauge!("keyloom_emitted_row_bytes", Unit::Bytes, "Emitted rows waiting for a checkpoint.");
    describe_gauge!("keyloom_outbox_bytes", Unit::Bytes, "Emitted rows in checkpoints that wait for the lake.");
    describe_gauge!("keyloom_checkpoint_age_seconds", Unit::Seconds, "Time since the last checkpoint committed.");
    describe_gauge!("keyloom_partition_running", Unit::Count, "1 while the partition runs.");
    describe_gauge!("keyloom_log_away", Unit::Count, "1 while the log of the partition does not answer.");
    describe_gauge!(
        "keyloom_careful",
        Unit::Count,
        "1 while events are tried carefully: one of them may kill the process."
    );
    describe_gauge!(
        "keyloom_starts_without_progress",
        Unit::Count,
        "Starts of a process that found the same oldest unprocessed event, this one included; 0 after progress."
    );
    describe_gauge!("keyloom_log_fsync_always", Unit::Count, "1 when every acknowledged event is on disk, 0 when not.");
    describe_gauge!("keyloom_build_info", Unit::Count, "Always 1; the version is a label.");
    describe_counter!("keyloom_feature_requests_total", Unit::Count, "Reads of features, by HTTP code.");
    describe_histogram!("keyloom_feature_request_duration_seconds", Unit::Seconds, "Time of one read of features.");
    describe_counter!("keyloom_feature_keys_total", Unit::Count, "Keys that were read, by what became of them.");
    describe_histogram!("keyloom_feature_request_keys", Unit::Count, "Keys of one read of features.");
    describe_histogram!(
        "keyloom_feature_wait_seconds",
        Unit::Seconds,
        "Time that a reader waited for what it wrote, by what became of it."
    );
    describe_gauge!(
        "keyloom_feature_in_flight_bytes",
        Unit::Bytes,
        "Bytes of questions about features that are arriving or worked on."
    );
}

/// Bytes of questions that are not answered yet.
pub fn feature_in_flight(bytes: usize) {
    gauge!("keyloom_feature_in_flight_bytes").set(bytes as f64);
}

/// One read of features was answered.
pub fn feature_request(code: u16, seconds: f64) {
    counter!("keyloom_feature_requests_total", "code" => code.to_string()).increment(1);
    histogram!("keyloom_feature_request_duration_seconds").record(seconds);
}

/// These keys were read by one request.
pub fn feature_keys(statuses: &[Read]) {
    for status in [Read::Found, Read::Unknown, Read::Behind, Read::Unreadable, Read::Unavailable] {
        let n = statuses.iter().filter(|s| **s == status).count() as u64;
        if n > 0 {
            counter!("keyloom_feature_keys_total", "status" => status.name()).increment(n);
        }
    }
    histogram!("keyloom_feature_request_keys").record(statuses.len() as f64);
}

/// A reader has waited.
pub fn feature_wait(outcome: &'static str, seconds: f64) {
    histogram!("keyloom_feature_wait_seconds", "outcome" => outcome).record(seconds);
}

/// Dead letters were sent again or removed.
pub fn dead_letters_changed(action: &'static str, count: u64) {
    counter!("keyloom_dead_letters_changed_total", "action" => action).increment(count);
}

/// Brings the exported numbers of all partitions up to date.
pub fn export(view: &View) {
    let now = SystemClock.now();
    let mut dead = std::collections::BTreeMap::<String, u64>::new();
    let mut dropped = std::collections::BTreeMap::<String, u64>::new();
    for (number, status) in view.statuses.iter().enumerate() {
        let counters = status.counters();
        export_partition(&number.to_string(), status, &counters, now);
        counters.dead_lettered.iter().for_each(|(reason, n)| *dead.entry(reason.clone()).or_default() += n);
        counters.dropped.iter().for_each(|(reason, n)| *dropped.entry(reason.clone()).or_default() += n);
    }
    for reason in Reason::ALL {
        let n = dead.get(reason.label()).copied().unwrap_or(0);
        counter!("keyloom_dead_letters_total", "reason" => reason.label()).absolute(n);
    }
    for reason in ["retention", "before_start"] {
        counter!("keyloom_dropped_total", "reason" => reason).absolute(dropped.get(reason).copied().unwrap_or(0));
    }
    if let Some(always) = view.durability.fsync_always {
        gauge!("keyloom_log_fsync_always").set(if always { 1.0 } else { 0.0 });
    }
    gauge!("keyloom_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

fn export_partition(
    partition: &str,
    status: &Status,
    counters: &keyloom_actors::checkpoint::record::Counters,
    now: Timestamp,
) {
    let label = || partition.to_owned();
    let outcomes = [
        ("applied", counters.applied),
        ("duplicate", counters.duplicate),
        ("dead_lettered", counters.dead()),
        ("dropped", counters.dropped()),
    ];
    for (outcome, n) in outcomes {
        counter!("keyloom_events_total", "partition" => label(), "outcome" => outcome).absolute(n);
    }
    let last = status.log_last.load(Ordering::Relaxed);
    let (lag, lag_seconds) = status.lag(now);
    gauge!("keyloom_lag_events", "partition" => label()).set(lag as f64);
    gauge!("keyloom_lag_seconds", "partition" => label()).set(lag_seconds);
    let in_flight = last.saturating_sub(counters.total());
    gauge!("keyloom_in_flight_events", "partition" => label()).set(in_flight as f64);
    let bytes = status.in_flight_bytes.load(Ordering::Relaxed);
    gauge!("keyloom_in_flight_bytes", "partition" => label()).set(bytes as f64);
    let live = status.sessions_live.load(Ordering::Relaxed).max(0);
    gauge!("keyloom_sessions_live", "partition" => label()).set(live as f64);
    let parked = status.parked.load(Ordering::Relaxed).max(0);
    gauge!("keyloom_parked_events", "partition" => label()).set(parked as f64);
    let pool = status.pool_bytes.load(Ordering::Relaxed).max(0);
    gauge!("keyloom_evicted_state_bytes", "partition" => label()).set(pool as f64);
    let rows = status.rows_bytes.load(Ordering::Relaxed).max(0);
    gauge!("keyloom_emitted_row_bytes", "partition" => label()).set(rows as f64);
    gauge!("keyloom_outbox_bytes", "partition" => label()).set(status.outbox_bytes() as f64);
    let at = Timestamp(status.checkpoint_at.load(Ordering::Relaxed));
    let age = if at.0 > 0 { now.seconds_since(at) } else { 0.0 };
    gauge!("keyloom_checkpoint_age_seconds", "partition" => label()).set(age);
    let running = if status.running.load(Ordering::Relaxed) { 1.0 } else { 0.0 };
    gauge!("keyloom_partition_running", "partition" => label()).set(running);
    let away = if status.log_away.load(Ordering::Relaxed) { 1.0 } else { 0.0 };
    gauge!("keyloom_log_away", "partition" => label()).set(away);
    let careful = if status.careful.load(Ordering::Relaxed) { 1.0 } else { 0.0 };
    gauge!("keyloom_careful", "partition" => label()).set(careful);
    gauge!("keyloom_starts_without_progress", "partition" => label()).set(status.starts.load(Ordering::Relaxed) as f64);
}
