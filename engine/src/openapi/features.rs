//! The feature API, described. What it does is in `faces::features` and `faces::feast`.

#![expect(dead_code, reason = "shapes and signatures that only the description is made from")]

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::{
    ToSchema,
    openapi::{ArrayBuilder, ObjectBuilder, Schema, Type, schema::SchemaType},
};

use super::Problem;

/// The features of one key.
#[derive(Serialize, ToSchema)]
pub(super) struct FeatureAnswer {
    key: String,
    /// The person, once identities are stitched.
    profile: Option<String>,
    partition: u32,
    /// Values by name: all features, or those that were asked for.
    features: BTreeMap<String, serde_json::Value>,
    /// Event time of the key's newest event.
    #[schema(format = "date-time")]
    event_time: String,
    /// The last sequence that it consumed.
    seq: u64,
    /// Names that were asked for and are not there.
    #[schema(required = false, nullable = false)]
    missing: Option<Vec<String>>,
    /// The moment that the features are as of.
    #[schema(format = "date-time")]
    as_of: String,
    /// Seconds from `event_time` to `as_of`.
    #[schema(minimum = 0)]
    age: f64,
    lag: Lag,
    /// The partition does not run, or its log or store do not answer: this may be older than it should be.
    #[schema(required = false, nullable = false)]
    stale: Option<bool>,
    /// It may not show what `min_seq` asks for: `wait` has passed.
    #[schema(required = false, nullable = false)]
    behind: Option<bool>,
}

/// What the log of the partition has beyond what was handed to sessions; these need some milliseconds for it, unless their
/// handler takes longer.
#[derive(Serialize, ToSchema)]
struct Lag {
    events: u64,
    /// While there are such events, how long ago the log had none, in seconds.
    #[schema(minimum = 0)]
    seconds: f64,
}

/// Keys to read.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FeatureQuestion {
    /// Each of 1 to 512 bytes.
    #[schema(schema_with = keys)]
    keys: Vec<String>,
    /// Names of features; all when absent.
    #[schema(max_items = 1000)]
    features: Option<Vec<String>>,
    /// Sequences, by partition, that the answers must show.
    min_seq: Option<BTreeMap<String, u64>>,
    /// How long to wait for that, such as `100ms` or `2s`, at most `10s`; `1s` when absent.
    #[schema(pattern = "^[0-9]+(ms|s)$")]
    wait: Option<String>,
}

fn keys() -> Schema {
    let key = ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)).max_length(Some(512));
    let keys = ArrayBuilder::new().items(key).min_items(Some(1)).max_items(Some(1_000));
    keys.description(Some("Each of 1 to 512 bytes.")).into()
}

/// Answers in the order asked.
#[derive(Serialize, ToSchema)]
pub(super) struct FeatureAnswers {
    /// `null` where there is no answer; the status says why.
    results: Vec<Option<FeatureAnswer>>,
    statuses: Vec<FeatureStatus>,
}

/// What became of a key.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum FeatureStatus {
    Found,
    Unknown,
    Behind,
    Unreadable,
    /// It is not in memory and the store does not answer.
    Unavailable,
}

/// A question of Feast.
#[derive(Serialize, ToSchema)]
pub(super) struct FeastQuestion {
    /// References `view:feature`; the view is free.
    #[schema(min_items = 1, max_items = 1000)]
    features: Vec<String>,
    #[schema(schema_with = entities)]
    entities: BTreeMap<String, Vec<serde_json::Value>>,
    /// Whether columns are called `view__feature`.
    #[schema(required = false)]
    full_feature_names: bool,
}

fn entities() -> Schema {
    let key = ObjectBuilder::new().schema_type(SchemaType::from_iter([Type::String, Type::Integer, Type::Null]));
    let column = ArrayBuilder::new().items(key).max_items(Some(1_000));
    let columns = ObjectBuilder::new().additional_properties(Some(column));
    columns
        .min_properties(Some(1))
        .max_properties(Some(1))
        .description(Some("One column of keys, under any name: texts or whole numbers."))
        .into()
}

/// Columns of values.
#[derive(Serialize, ToSchema)]
pub(super) struct FeastAnswer {
    metadata: FeastMetadata,
    results: Vec<FeastColumn>,
}

/// Names of the columns: the entity column, then the features in the order asked.
#[derive(Serialize, ToSchema)]
struct FeastMetadata {
    feature_names: Vec<String>,
}

/// A column, one value per entity.
#[derive(Serialize, ToSchema)]
struct FeastColumn {
    values: Vec<serde_json::Value>,
    statuses: Vec<FeastStatus>,
    #[schema(format = "date-time")]
    event_timestamps: Vec<String>,
}

/// What became of a value.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum FeastStatus {
    Present,
    NullValue,
    NotFound,
    OutsideMaxAge,
    /// What is stored makes no sense, or the store does not answer.
    Invalid,
}

/// Features of one key
#[utoipa::path(
    get, path = "/v1/features/{key}", tag = "features",
    params(
        ("key" = String, Path, description = "The key, percent-encoded: 1 to 512 bytes of UTF-8", min_length = 1, max_length = 512),
        ("features" = Option<String>, Query, description = "Names of features, with commas between them; all when absent"),
        ("min_seq" = Option<String>, Query, description = "A sequence in the partition of the key, or `partition:sequence`, that the answer must show", pattern = "^([0-9]+:)?[0-9]+$"),
        ("wait" = Option<String>, Query, description = "With min_seq: how long to wait for it, at most 10s; 1s when absent", pattern = "^[0-9]+(ms|s)$"),
    ),
    responses(
        (status = 200, description = "Its features", body = FeatureAnswer),
        (status = 400, description = "The question makes no sense", body = Problem),
        (status = 404, description = "No event of the key was processed yet; with `behind`, not within the wait", body = Problem),
        (status = 413, description = "Too many features are named", body = Problem),
        (status = 500, description = "What is stored makes no sense", body = Problem),
        (status = 503, description = "The key is not in memory and the store does not answer", body = Problem),
    ),
)]
pub(super) fn get_features() {}

/// Features of many keys in one round trip
#[utoipa::path(
    post, path = "/v1/features", tag = "features",
    request_body = FeatureQuestion,
    responses(
        (status = 200, description = "One answer per key, in the order asked", body = FeatureAnswers),
        (status = 400, description = "The question makes no sense", body = Problem),
        (status = 408, description = "The body did not arrive in time", body = Problem),
        (status = 413, description = "Too many keys or features, or too large an answer", body = Problem),
        (status = 429, description = "Too many such requests at once", body = Problem),
        (status = 503, description = "No key is in memory and the store does not answer", body = Problem),
    ),
)]
pub(super) fn get_many_features() {}

/// Features as Feast's online server answers them
#[utoipa::path(
    post, path = "/get-online-features", tag = "features",
    request_body = FeastQuestion,
    responses(
        (status = 200, description = "A column per feature, a value per entity", body = FeastAnswer),
        (status = 400, description = "The question makes no sense here", body = Problem),
        (status = 408, description = "The body did not arrive in time", body = Problem),
        (status = 413, description = "Too many entities or features, or too large an answer", body = Problem),
        (status = 429, description = "Too many such requests at once", body = Problem),
        (status = 503, description = "No key is in memory and the store does not answer", body = Problem),
    ),
)]
pub(super) fn get_online_features() {}
