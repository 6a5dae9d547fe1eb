//! The metrics of the faces: the feature API's own, and the numbers that partitions keep for themselves, which are
//! exported when somebody looks.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

use keyloom_actors::{
    checkpoint::record::Counters,
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
    describe_gauge!(
        "keyloom_lag_seconds",
        Unit::Seconds,
        "While there is lag, how long ago the log had no more than was handed on."
    );
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
    describe_gauge!("keyloom_checkpoint_age_seconds", Unit::Seconds, "How long events have waited for a checkpoint.");
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
    for (number, status) in view.statuses.iter().enumerate() {
        export_partition(&number.to_string(), status, now);
    }
    export_counts(&view.statuses);
    if let Some(always) = view.durability.fsync_always {
        gauge!("keyloom_log_fsync_always").set(if always { 1.0 } else { 0.0 });
    }
    gauge!("keyloom_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

/// How events ended since the log began. Nobody knows that before a partition has read its checkpoint, and 0 would be wrong:
/// whoever computes increases would take all that ever ended for new. So the counts of a partition begin when it has started,
/// those over all partitions when all have.
fn export_counts(statuses: &[Arc<Status>]) {
    let known: Vec<Option<Counters>> = statuses.iter().map(|status| status.known_counters()).collect();
    for (number, counters) in known.iter().enumerate().filter_map(|(n, counters)| Some((n, counters.as_ref()?))) {
        let outcomes = [
            ("applied", counters.applied),
            ("duplicate", counters.duplicate),
            ("dead_lettered", counters.dead()),
            ("dropped", counters.dropped()),
        ];
        for (outcome, n) in outcomes {
            counter!("keyloom_events_total", "partition" => number.to_string(), "outcome" => outcome).absolute(n);
        }
    }
    let Some(known) = known.into_iter().collect::<Option<Vec<_>>>() else { return };
    let mut all = Counters::default();
    known.iter().for_each(|counters| all.add(counters));
    let of = |ends: &BTreeMap<String, u64>, reason: &str| ends.get(reason).copied().unwrap_or(0);
    for reason in Reason::ALL.map(Reason::label) {
        counter!("keyloom_dead_letters_total", "reason" => reason).absolute(of(&all.dead_lettered, reason));
    }
    for reason in ["retention", "before_start"] {
        counter!("keyloom_dropped_total", "reason" => reason).absolute(of(&all.dropped, reason));
    }
}

fn export_partition(partition: &str, status: &Status, now: Timestamp) {
    let label = || partition.to_owned();
    let last = status.log_last.load(Ordering::Relaxed);
    let (lag, lag_seconds) = status.lag(now);
    gauge!("keyloom_lag_events", "partition" => label()).set(lag as f64);
    gauge!("keyloom_lag_seconds", "partition" => label()).set(lag_seconds);
    let in_flight = last.saturating_sub(status.counters().total());
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
    gauge!("keyloom_checkpoint_age_seconds", "partition" => label()).set(status.uncommitted_for(now));
    let running = if status.running.load(Ordering::Relaxed) { 1.0 } else { 0.0 };
    gauge!("keyloom_partition_running", "partition" => label()).set(running);
    let away = if status.log_away() { 1.0 } else { 0.0 };
    gauge!("keyloom_log_away", "partition" => label()).set(away);
    let careful = if status.careful.load(Ordering::Relaxed) { 1.0 } else { 0.0 };
    gauge!("keyloom_careful", "partition" => label()).set(careful);
    gauge!("keyloom_starts_without_progress", "partition" => label()).set(status.starts.load(Ordering::Relaxed) as f64);
}

#[cfg(test)]
mod tests {
    use keyloom_actors::checkpoint::counts::Counts;
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    #[test]
    fn what_goes_wrong_is_counted_from_0_on() {
        let recorder = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, keyloom_actors::observe::describe);
        let text = recorder.handle().render();
        for series in [
            r#"keyloom_actor_restarts_total{actor="session",cause="panic"} 0"#,
            r#"keyloom_timers_total{outcome="given_up"} 0"#,
            "keyloom_commit_retries_total 0",
        ] {
            assert!(text.lines().any(|line| line == series), "{series} is not in\n{text}");
        }
    }

    #[test]
    fn counts_begin_with_what_the_checkpoint_says_and_never_go_back() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let statuses = [Arc::new(Status::default()), Arc::default()];
        let values = |name: &str| -> Vec<String> {
            metrics::with_local_recorder(&recorder, || export_counts(&statuses));
            let text = recorder.handle().render();
            let ends = [r#"outcome="applied"} "#, r#"reason="reject"} "#];
            let lines = text.lines().filter(|line| line.starts_with(name) && ends.iter().any(|end| line.contains(end)));
            let mut values: Vec<_> = lines.map(|line| line.rsplit(' ').next().unwrap_or_default().to_owned()).collect();
            values.sort();
            values
        };
        let (events, dead) = ("keyloom_events_total", "keyloom_dead_letters_total");
        assert_eq!((values(events).len(), values(dead).len()), (0, 0), "nobody knows yet");
        let mut base = Counters { applied: 700, ..Counters::default() };
        base.add_dead(Reason::Reject);
        statuses[1].start_from(&base, 701, u64::MAX);
        statuses[1].add(&Counts { applied: 5, ..Counts::default() });
        assert_eq!((values(events), values(dead).len()), (vec!["705".to_owned()], 0));
        statuses[0].start_from(&base, 701, u64::MAX);
        assert_eq!((values(events), values(dead)), (vec!["700".to_owned(), "705".to_owned()], vec!["2".to_owned()]));
        // It starts again from its checkpoint, in the same process.
        statuses[1].start_from(&base, 701, u64::MAX);
        assert_eq!((values(events), values(dead)), (vec!["700".to_owned(), "705".to_owned()], vec!["2".to_owned()]));
    }
}
