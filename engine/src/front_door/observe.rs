//! The front door's metrics, one small function each. No user data in labels.

use std::time::Duration;

use keyloom_actors::dead_letter::Reason;
use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use super::protocols::Protocol;

/// Says what the metrics mean; once per process, after the recorder is in place.
pub fn describe() {
    describe_counter!("keyloom_ingest_duplicates_total", "Repeated events that the log absorbed, by partition.");
    describe_counter!("keyloom_ingest_requests_total", "Requests to the front door by status code.");
    describe_counter!("keyloom_ingest_rejected_total", "Events rejected in the answer and not stored, by reason.");
    describe_counter!("keyloom_ingest_events_total", "Events that requests held, rejected ones included, by protocol.");
    describe_counter!(
        "keyloom_ingest_dead_lettered_total",
        "Events of trackers that were rejected and stored to become dead letters, by protocol and reason."
    );
    describe_histogram!(
        "keyloom_ingest_request_duration_seconds",
        Unit::Seconds,
        "Time from a request's head to its answer."
    );
    describe_gauge!("keyloom_ingest_in_flight_bytes", Unit::Bytes, "Body bytes of the requests being worked on.");
}

/// What the log of `partition` made of a batch.
pub fn stored(partition: u32, accepted: u64, duplicates: u64) {
    let partition = partition.to_string();
    if accepted > 0 {
        counter!("keyloom_events_total", "partition" => partition.clone(), "outcome" => "accepted").increment(accepted);
    }
    if duplicates > 0 {
        counter!("keyloom_ingest_duplicates_total", "partition" => partition).increment(duplicates);
    }
}

/// One event was rejected.
pub fn rejected(reason: Reason) {
    counter!("keyloom_ingest_rejected_total", "reason" => reason.label()).increment(1);
}

/// A request that may come in holds so many events.
pub fn came_in(protocol: Protocol, events: usize) {
    counter!("keyloom_ingest_events_total", "protocol" => protocol.label()).increment(events as u64);
}

/// One event of a tracker was rejected, and stored as a dead letter.
pub fn dead_lettered(protocol: Protocol, reason: Reason) {
    counter!("keyloom_ingest_dead_lettered_total", "protocol" => protocol.label(), "reason" => reason.label())
        .increment(1);
}

/// One request was answered.
pub fn answered(code: u16, took: Duration) {
    counter!("keyloom_ingest_requests_total", "code" => code.to_string()).increment(1);
    histogram!("keyloom_ingest_request_duration_seconds").record(took.as_secs_f64());
}

/// Body bytes being worked on now.
pub fn in_flight(bytes: usize) {
    gauge!("keyloom_ingest_in_flight_bytes").set(bytes as f64);
}
