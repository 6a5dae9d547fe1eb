//! What the engine shows over HTTP beside the front door: features, also for Feast, health, metrics, status, dead letters.

pub mod dead_letters;
pub mod fallback;
pub mod feast;
pub mod features;
pub mod health;
pub mod keys;
pub mod metrics;
pub mod observe;
pub mod readiness;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use axum::{
    body::Body,
    http::{StatusCode, header},
    response::Response,
};
use bytes::Bytes;
use keyloom_actors::{
    answer::cache::FeatureCache,
    handler::LogicFactory,
    partition::status::Status,
    ports::{Durability, Store},
};
use metrics_exporter_prometheus::PrometheusHandle;

use self::readiness::{Ready, Use};

/// What the faces read.
pub struct View {
    /// Name of the engine.
    pub name: String,
    /// Numbers of each partition.
    pub statuses: Vec<Arc<Status>>,
    /// Answers of resident keys.
    pub cache: Arc<FeatureCache>,
    /// Answers of all keys.
    pub store: Arc<dyn Store>,
    /// What the features of a key are.
    pub factory: Arc<dyn LogicFactory>,
    /// What an acknowledged event survives.
    pub durability: Durability,
    /// Renders the metrics.
    pub metrics: PrometheusHandle,
    /// Set when the engine begins to end.
    pub draining: AtomicBool,
}

impl View {
    /// Whether the engine is ready for `use_`, and why not.
    pub fn readiness(&self, use_: Use) -> Ready {
        readiness::of(self.draining.load(Ordering::Relaxed), &self.statuses, use_)
    }
}

/// An answer with a JSON body.
pub fn json(status: StatusCode, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Body::from(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

/// An answer that says what is wrong and what to do.
pub fn problem(status: StatusCode, error: &str, hint: &str) -> Response {
    json(status, serde_json::json!({ "error": error, "hint": hint }).to_string())
}
