//! The front door's own format, described. What it does is in `front_door`.

#![expect(dead_code, reason = "shapes and signatures that only the description is made from")]

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::Problem;

/// What became of a request's events.
#[derive(Serialize, ToSchema)]
pub(super) struct EventsAnswer {
    /// Events newly stored.
    accepted: u64,
    /// Events that were stored before, absorbed.
    duplicates: u64,
    /// Events that were not stored, at most 1,000.
    rejected: Vec<RejectedEvent>,
    /// Events that were not stored and are not listed.
    #[schema(required = false, nullable = false)]
    rejected_more: Option<u64>,
    /// Where the last event is in the log, with `seq=true`; `null` where the log does not know.
    seq: Option<LogPlace>,
    /// With `seq=true`: the highest sequence in each partition, to pass on to reads of features.
    #[schema(required = false, nullable = false)]
    min_seq: Option<BTreeMap<String, u64>>,
}

/// One event that was not stored.
#[derive(Serialize, ToSchema)]
struct RejectedEvent {
    /// Which event of the request, from 0; blank lines are not counted.
    index: u64,
    /// `label: explanation`.
    reason: String,
}

/// A place in the log.
#[derive(Serialize, ToSchema)]
struct LogPlace {
    partition: u32,
    seq: u64,
}

/// Either all events were rejected, or the request as a whole.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum NothingStored {
    Rejected(EventsAnswer),
    Refused(Problem),
}

/// Send events
///
/// One JSON object, an array of objects, or one object per line; packed with gzip, deflate or zstd if the content encoding says
/// so. A 2xx means that the log has stored them.
#[utoipa::path(
    post, path = "/v1/events", operation_id = "send_events", tag = "events",
    params(("seq" = Option<bool>, Query, description = "Whether to answer where the events are in the log")),
    request_body(content = Object, content_type = "application/json", description = "An event, or many"),
    responses(
        (status = 200, description = "What became of each event", body = EventsAnswer),
        (status = 400, description = "No event was good", body = NothingStored),
        (status = 401, description = "The sender is not known", body = Problem),
        (status = 403, description = "The sender may not send this", body = Problem),
        (status = 408, description = "The body did not arrive in time", body = Problem),
        (status = 413, description = "The body is too large, or has too many events", body = Problem),
        (status = 415, description = "The content encoding is not known", body = Problem),
        (status = 429, description = "Too much at once; nothing is stored", body = Problem),
        (status = 500, description = "A defect; nothing is stored", body = Problem),
        (status = 503, description = "The outcome is unknown: send the same events with the same ids again", body = Problem),
    ),
)]
pub(super) fn send() {}
