//! Health, metrics, keys and dead letters, described. What they do is in `faces`, `keys` and `dead_letters`.

#![expect(dead_code, reason = "shapes and signatures that only the description is made from")]

use serde::Serialize;
use utoipa::ToSchema;

use super::Problem;
use crate::{
    dead_letters::{Letter, Listing, Report},
    faces::readiness::Ready,
    keys::KeyReport,
};

/// It answers.
#[derive(Serialize, ToSchema)]
pub(super) struct Live {
    live: bool,
}

/// Numbers of the engine.
#[derive(Serialize, ToSchema)]
pub(super) struct EngineStatus {
    engine: String,
    durability: serde_json::Value,
    partitions: Vec<serde_json::Value>,
}

/// Why an event was given up.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum LetterReason {
    Parse,
    NoKey,
    TooLarge,
    Schema,
    Reject,
    Error,
    Panic,
    Stuck,
    Killer,
}

/// Letters to send again or to remove: those named, or those that fit.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ChangeLetters {
    reason: Option<LetterReason>,
    key: Option<String>,
    /// A time, or how long ago.
    since: Option<String>,
    /// A time, or how long ago.
    until: Option<String>,
    partition: Option<u32>,
    /// These letters and no others, `partition:sequence`.
    #[schema(nullable = false)]
    ids: Option<Vec<String>>,
    /// Said by who means every letter there is.
    #[schema(nullable = false)]
    all: Option<bool>,
    /// Only say what would be done.
    #[schema(nullable = false)]
    dry_run: Option<bool>,
    /// Send also what the engine would refuse again.
    #[schema(nullable = false)]
    force: Option<bool>,
    /// At most so many.
    limit: Option<u32>,
    /// Going on from here, as the last answer said.
    after: Option<String>,
}

/// Whether the process answers
#[utoipa::path(get, path = "/livez", tag = "admin", responses((status = 200, description = "It does", body = Live)))]
pub(super) fn livez() {}

/// The same, where clients of Feast look
#[utoipa::path(get, path = "/health", tag = "admin", responses((status = 200, description = "It does", body = Live)))]
pub(super) fn health() {}

/// Whether all partitions run
#[utoipa::path(
    get, path = "/readyz", tag = "admin",
    responses(
        (status = 200, description = "They do", body = Ready),
        (status = 503, description = "Some do not, or the engine is draining", body = Ready),
    ),
)]
pub(super) fn readyz() {}

/// Whether all partitions run and their log takes events
#[utoipa::path(
    get, path = "/readyz/ingest", tag = "admin",
    responses(
        (status = 200, description = "They do, and it does", body = Ready),
        (status = 503, description = "Some do not run, the log does not answer, or the engine is draining", body = Ready),
    ),
)]
pub(super) fn readyz_ingest() {}

/// Numbers of the engine
#[utoipa::path(
    get, path = "/api/status", tag = "admin", responses((status = 200, description = "Numbers", body = EngineStatus)),
)]
pub(super) fn status() {}

/// Metrics for Prometheus
#[utoipa::path(
    get, path = "/metrics", tag = "admin",
    responses((status = 200, description = "The text format of Prometheus", body = String, content_type = "text/plain; version=0.0.4; charset=utf-8")),
)]
pub(super) fn metrics() {}

/// All there is to know of one key
#[utoipa::path(
    get, path = "/api/key", tag = "admin",
    params(("key" = String, Query, description = "The key", min_length = 1)),
    responses(
        (status = 200, description = "What there is", body = KeyReport),
        (status = 400, description = "No key is named, or none that can be one", body = Problem),
        (status = 429, description = "Too many keys are looked at", body = Problem),
        (status = 500, description = "What is stored makes no sense", body = Problem),
        (status = 503, description = "Log or store do not answer", body = Problem),
    ),
)]
pub(super) fn key() {}

/// Dead letters
#[utoipa::path(
    get, path = "/api/dead-letters", tag = "admin",
    params(
        ("reason" = Option<LetterReason>, Query, description = "Only of this reason"),
        ("key" = Option<String>, Query, description = "Only of this key", min_length = 1),
        ("since" = Option<String>, Query, description = "Only stored since: a time, or how long ago"),
        ("until" = Option<String>, Query, description = "Only stored until: a time, or how long ago"),
        ("partition" = Option<u32>, Query, description = "Only of this partition"),
        ("limit" = Option<u32>, Query, description = "At most so many", minimum = 1, maximum = 1000),
        ("after" = Option<String>, Query, description = "Going on from `next` of the page before", pattern = "^[0-9]{1,9}:[0-9]{1,18}$"),
    ),
    responses(
        (status = 200, description = "A page of letters", body = Listing),
        (status = 400, description = "The question makes no sense", body = Problem),
        (status = 429, description = "Too many requests about dead letters at once", body = Problem),
        (status = 500, description = "What is stored makes no sense", body = Problem),
        (status = 503, description = "Log or store do not answer", body = Problem),
    ),
)]
pub(super) fn list_dead_letters() {}

/// One dead letter with its event
#[utoipa::path(
    get, path = "/api/dead-letters/{partition}/{seq}", tag = "admin",
    params(
        ("partition" = u32, Path, description = "Its partition"),
        ("seq" = u64, Path, description = "Its sequence", minimum = 1),
    ),
    responses(
        (status = 200, description = "The letter", body = Letter),
        (status = 400, description = "That is no name of a letter", body = Problem),
        (status = 404, description = "There is no such letter", body = Problem),
        (status = 429, description = "Too many requests about dead letters at once", body = Problem),
        (status = 500, description = "What is stored makes no sense", body = Problem),
        (status = 503, description = "Log or store do not answer", body = Problem),
    ),
)]
pub(super) fn show_dead_letter() {}

/// Send dead letters again
#[utoipa::path(
    post, path = "/api/dead-letters/redrive", tag = "admin", request_body = ChangeLetters,
    responses(
        (status = 200, description = "What became of them", body = Report),
        (status = 400, description = "The request makes no sense", body = Problem),
        (status = 408, description = "The body did not arrive in time", body = Problem),
        (status = 413, description = "The body is too large", body = Problem),
        (status = 415, description = "The body is not JSON or does not say so", body = Problem),
        (status = 429, description = "Too many requests about dead letters at once", body = Problem),
        (status = 500, description = "What is stored makes no sense", body = Problem),
        (status = 503, description = "Log or store do not answer; what was done already is not done twice", body = Problem),
    ),
)]
pub(super) fn redrive() {}

/// Remove dead letters
#[utoipa::path(
    post, path = "/api/dead-letters/purge", tag = "admin", request_body = ChangeLetters,
    responses(
        (status = 200, description = "What became of them", body = Report),
        (status = 400, description = "The request makes no sense", body = Problem),
        (status = 408, description = "The body did not arrive in time", body = Problem),
        (status = 413, description = "The body is too large", body = Problem),
        (status = 415, description = "The body is not JSON or does not say so", body = Problem),
        (status = 429, description = "Too many requests about dead letters at once", body = Problem),
        (status = 500, description = "What is stored makes no sense", body = Problem),
        (status = 503, description = "Log or store do not answer; what was done already is not done twice", body = Problem),
    ),
)]
pub(super) fn purge() {}
