//! Every metric of the actors: names, labels, help. Labels come from closed sets; a key is never one.
//!
//! Counters that must survive a restart (events by outcome, dead letters) are exported from `status` by the engine.

use crate::{checkpoint::record::Follows, session::step::SideCounts};
use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

/// Describes the metrics and begins those of [`begin`]; once per process.
pub fn describe() {
    describe_counter!(
        "keyloom_session_starts_total",
        Unit::Count,
        "Sessions started, by cause: new, hydrate, restart."
    );
    describe_counter!("keyloom_session_evictions_total", Unit::Count, "Sessions evicted, by reason: lru, idle.");
    describe_counter!("keyloom_actor_restarts_total", Unit::Count, "Actors restarted, by actor and cause.");
    describe_counter!(
        "keyloom_event_time_clamped_total",
        Unit::Count,
        "Events whose time was not sane and was clamped."
    );
    describe_counter!("keyloom_checkpoints_total", Unit::Count, "Checkpoints committed.");
    describe_counter!("keyloom_commit_batches_total", Unit::Count, "Batches committed to the store.");
    describe_counter!("keyloom_commit_retries_total", Unit::Count, "Batches that had to be tried again.");
    describe_counter!("keyloom_features_published_total", Unit::Count, "Feature answers published.");
    describe_counter!(
        "keyloom_hydrate_retries_total",
        Unit::Count,
        "Reads of session state that had to be tried again."
    );
    describe_counter!("keyloom_lake_rows_total", Unit::Count, "Rows in files that the lake has, by table.");
    describe_counter!("keyloom_lake_files_total", Unit::Count, "Files that the lake has, by table.");
    describe_counter!("keyloom_lake_bytes_total", Unit::Bytes, "Bytes of files that the lake has, by table.");
    describe_counter!(
        "keyloom_lake_put_retries_total",
        Unit::Count,
        "Files whose put had to be tried again, by table."
    );
    describe_counter!(
        "keyloom_outbox_removals_failed_total",
        Unit::Count,
        "Times that written blocks could not be removed from an outbox, by table; the next cut tries again."
    );
    describe_counter!(
        "keyloom_reader_restarts_total",
        Unit::Count,
        "Times a reader of the log had to be opened again."
    );
    describe_counter!(
        "keyloom_lake_overrun_events_total",
        Unit::Count,
        "Events that retention took away before a table had them, since the start of the engine."
    );
    describe_counter!("keyloom_timers_total", Unit::Count, "Timers of keys, by outcome: fired, rejected, given_up.");
    describe_counter!(
        "keyloom_late_events_total",
        Unit::Count,
        "Events too late for declared features: counted there, and nothing else."
    );
    describe_counter!("keyloom_ticks_total", Unit::Count, "Ticks appended for keys with a timer due and no events.");
    describe_counter!("keyloom_look_ups_total", Unit::Count, "Look-ups of handlers, by outcome: answered, failed.");
    describe_counter!(
        "keyloom_features_failed_total",
        Unit::Count,
        "Times that a handler panicked over the features of a key: its last answer stays."
    );
    describe_counter!("keyloom_tick_retries_total", Unit::Count, "Appends of ticks that had to be tried again.");
    describe_counter!(
        "keyloom_backend_puts_total",
        Unit::Count,
        "Answers put into the feature backend, by outcome: written, older (it has a later one), failed."
    );
    describe_counter!(
        "keyloom_backend_resyncs_total",
        Unit::Count,
        "Times that all answers of a partition were put into the feature backend again."
    );
    describe_gauge!(
        "keyloom_backend_waiting_keys",
        Unit::Count,
        "Keys whose answers wait in memory for the feature backend, by partition."
    );
    describe_gauge!(
        "keyloom_backend_lag_seconds",
        Unit::Seconds,
        "How long the oldest answer waits that the feature backend lacks, by partition."
    );
    describe_histogram!(
        "keyloom_backend_put_duration_seconds",
        Unit::Seconds,
        "Time of one call of the feature backend."
    );
    describe_gauge!("keyloom_timed_keys", Unit::Count, "Keys that have timers and that the partition remembers.");
    describe_gauge!("keyloom_lake_stalled", Unit::Count, "1 while the lake does not take a table's files.");
    describe_gauge!("keyloom_lake_open_rows", Unit::Count, "Rows in memory that are not in the lake yet, by table.");
    describe_histogram!(
        "keyloom_checkpoint_duration_seconds",
        Unit::Seconds,
        "From the barrier to the committed record."
    );
    describe_histogram!("keyloom_feature_freshness_seconds", Unit::Seconds, "From stored in the log to readable.");
    describe_histogram!("keyloom_commit_duration_seconds", Unit::Seconds, "Time of one batch in the store.");
    describe_histogram!(LAKE_PUT_SECONDS, Unit::Seconds, "Time of one file's put.");
    begin();
}

/// Begins counters at 0: who watches for increases misses the first count of a series that begins with it.
fn begin() {
    for actor in ["partition", "router", "shard", "session", "committer", "batcher", "ticker"] {
        for cause in [Cause::Panic, Cause::Error, Cause::StartFailed, Cause::Killed, Cause::Stuck] {
            restarts(actor, cause, 0);
        }
    }
    ["fired", "rejected", "given_up"].into_iter().for_each(|outcome| timers(outcome, 0));
    ["answered", "failed"].into_iter().for_each(|outcome| look_ups(outcome, 0));
    counter!("keyloom_late_events_total").increment(0);
    counter!("keyloom_tick_retries_total").increment(0);
    counter!("keyloom_event_time_clamped_total").increment(0);
    counter!("keyloom_commit_retries_total").increment(0);
    counter!("keyloom_hydrate_retries_total").increment(0);
    counter!("keyloom_reader_restarts_total").increment(0);
}

/// Why an actor was started again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// It panicked.
    Panic,
    /// It returned an error.
    Error,
    /// It did not start.
    StartFailed,
    /// It was killed.
    Killed,
    /// Its handler did not come back, and the process was started again.
    Stuck,
}

/// Counts a restart: the only place that does.
pub fn restarted(actor: &'static str, cause: Cause) {
    restarts(actor, cause, 1);
}

fn restarts(actor: &'static str, cause: Cause, n: u64) {
    let cause = match cause {
        Cause::Panic => "panic",
        Cause::Error => "error",
        Cause::StartFailed => "start_failed",
        Cause::Killed => "killed",
        Cause::Stuck => "stuck",
    };
    counter!("keyloom_actor_restarts_total", "actor" => actor, "cause" => cause).increment(n);
}

/// Counts session starts.
pub fn sessions_started(cause: &'static str, n: u64) {
    counter!("keyloom_session_starts_total", "cause" => cause).increment(n);
}

/// Counts session evictions.
pub fn sessions_evicted(reason: &'static str, n: u64) {
    counter!("keyloom_session_evictions_total", "reason" => reason).increment(n);
}

/// Timers ended, and events were late.
pub fn beside_events(counts: &SideCounts) {
    let outcomes = [("fired", counts.fired), ("rejected", counts.rejected), ("given_up", counts.given_up)];
    outcomes.into_iter().filter(|(_, n)| *n > 0).for_each(|(outcome, n)| timers(outcome, n));
    if counts.late > 0 {
        counter!("keyloom_late_events_total").increment(counts.late);
    }
}

fn timers(outcome: &'static str, n: u64) {
    counter!("keyloom_timers_total", "outcome" => outcome).increment(n);
}

/// Ticks are in the log.
pub fn ticks_appended(n: u64) {
    counter!("keyloom_ticks_total").increment(n);
}

/// The features of a key could not be said.
pub fn features_failed() {
    counter!("keyloom_features_failed_total").increment(1);
}

/// A look-up ended.
pub fn looked_up(outcome: &'static str) {
    look_ups(outcome, 1);
}

fn look_ups(outcome: &'static str, n: u64) {
    counter!("keyloom_look_ups_total", "outcome" => outcome).increment(n);
}

/// An append of ticks has to be tried again.
pub fn ticks_retried() {
    counter!("keyloom_tick_retries_total").increment(1);
}

/// Keys with timers that a partition remembers.
pub fn timed_keys(partition: u32, keys: usize) {
    gauge!("keyloom_timed_keys", "partition" => partition.to_string()).set(keys as f64);
}

/// Counts clamped event times.
pub fn event_times_clamped(n: u64) {
    counter!("keyloom_event_time_clamped_total").increment(n);
}

/// A checkpoint committed.
pub fn checkpoint(seconds: f64) {
    counter!("keyloom_checkpoints_total").increment(1);
    histogram!("keyloom_checkpoint_duration_seconds").record(seconds);
}

/// A batch committed.
pub fn committed(seconds: f64) {
    counter!("keyloom_commit_batches_total").increment(1);
    histogram!("keyloom_commit_duration_seconds").record(seconds);
}

/// A batch has to be tried again.
pub fn commit_retried() {
    counter!("keyloom_commit_retries_total").increment(1);
}

/// A read of states has to be tried again.
pub fn hydrate_retried() {
    counter!("keyloom_hydrate_retries_total").increment(1);
}

/// Answers became readable.
pub fn published(n: u64) {
    counter!("keyloom_features_published_total").increment(n);
}

/// One answer became readable this long after its event was stored.
pub fn freshness(seconds: f64) {
    histogram!("keyloom_feature_freshness_seconds").record(seconds);
}

/// A table begins: its counters of what goes wrong are there before anything does.
pub fn table_begins(table: &str, follows: Follows) {
    counter!("keyloom_lake_put_retries_total", "table" => table.to_owned()).increment(0);
    match follows {
        Follows::Log => counter!("keyloom_lake_overrun_events_total", "table" => table.to_owned()).increment(0),
        Follows::Outbox => counter!("keyloom_outbox_removals_failed_total", "table" => table.to_owned()).increment(0),
    }
}

/// Totals of a table, as its cursor has them.
pub fn table_written(table: &str, partition: u32, rows: u64, files: u64, bytes: u64) {
    let (table, partition) = (table.to_owned(), partition.to_string());
    counter!("keyloom_lake_rows_total", "table" => table.clone(), "partition" => partition.clone()).absolute(rows);
    counter!("keyloom_lake_files_total", "table" => table.clone(), "partition" => partition.clone()).absolute(files);
    counter!("keyloom_lake_bytes_total", "table" => table, "partition" => partition).absolute(bytes);
}

/// How long puts take: of all that is timed, only this may take minutes.
pub const LAKE_PUT_SECONDS: &str = "keyloom_lake_put_duration_seconds";

/// One file's put took this long.
pub fn put(seconds: f64) {
    histogram!(LAKE_PUT_SECONDS).record(seconds);
}

/// A file's put has to be tried again.
pub fn put_retried(table: &str) {
    counter!("keyloom_lake_put_retries_total", "table" => table.to_owned()).increment(1);
}

/// Blocks of an outbox that are in the lake could not be removed.
pub fn removal_failed(table: &str) {
    counter!("keyloom_outbox_removals_failed_total", "table" => table.to_owned()).increment(1);
}

/// Whether the lake takes a table's files.
pub fn table_stalled(table: &str, partition: u32, stalled: bool) {
    let labels = [("table", table.to_owned()), ("partition", partition.to_string())];
    gauge!("keyloom_lake_stalled", &labels).set(if stalled { 1.0 } else { 0.0 });
}

/// Retention took events away before a table had them.
pub fn table_overrun(table: &str, events: u64) {
    counter!("keyloom_lake_overrun_events_total", "table" => table.to_owned()).increment(events);
}

/// Rows waiting for their file.
pub fn table_open_rows(table: &str, partition: u32, rows: u64) {
    let labels = [("table", table.to_owned()), ("partition", partition.to_string())];
    gauge!("keyloom_lake_open_rows", &labels).set(rows as f64);
}

/// A reader of the log was opened again.
pub fn reader_restarted() {
    counter!("keyloom_reader_restarts_total").increment(1);
}

/// There is a feature backend.
pub fn backend_begins() {
    ["written", "older", "failed"].into_iter().for_each(|outcome| backend_puts(outcome, 0));
    backend_resyncs(0);
}

/// Answers put into the feature backend.
pub fn backend_puts(outcome: &'static str, n: u64) {
    counter!("keyloom_backend_puts_total", "outcome" => outcome).increment(n);
}

/// One call of the feature backend.
pub fn backend_put(seconds: f64) {
    histogram!("keyloom_backend_put_duration_seconds").record(seconds);
}

/// Resyncs of the feature backend began.
pub fn backend_resyncs(n: u64) {
    counter!("keyloom_backend_resyncs_total").increment(n);
}

/// What waits for the feature backend.
pub fn backend_waiting(partition: u32, keys: usize, lag_seconds: f64) {
    let partition = partition.to_string();
    gauge!("keyloom_backend_waiting_keys", "partition" => partition.clone()).set(keys as f64);
    gauge!("keyloom_backend_lag_seconds", "partition" => partition).set(lag_seconds);
}
