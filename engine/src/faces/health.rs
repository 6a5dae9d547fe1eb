//! `/livez`, `/readyz`, `/readyz/ingest`, `/api/status`, and `/health` for clients that ask there.
//!
//! Live means that the process answers; ready, that its partitions run, and for events that the log does too, see
//! [`super::readiness`]. A lake that is away makes none of them false.

use std::sync::{Arc, atomic::Ordering};

use axum::{Router, extract::State, http::StatusCode, response::Response, routing::get};
use keyloom_actors::partition::status::Status;
use serde_json::{Value, json};

use super::{View, readiness::Use};

/// The routes.
pub fn routes(view: Arc<View>) -> Router {
    Router::new()
        .route("/livez", get(|| async { super::json(StatusCode::OK, "{\"live\":true}") }))
        .route("/health", get(|| async { super::json(StatusCode::OK, "{\"live\":true}") }))
        .route("/readyz", get(async |State(view): State<Arc<View>>| ready(&view, Use::Read)))
        .route("/readyz/ingest", get(async |State(view): State<Arc<View>>| ready(&view, Use::Ingest)))
        .route("/api/status", get(status))
        .with_state(view)
}

fn ready(view: &View, use_: Use) -> Response {
    let ready = view.readiness(use_);
    let code = if ready.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    super::json(code, json!(ready).to_string())
}

async fn status(State(view): State<Arc<View>>) -> Response {
    let partitions: Vec<Value> = view.statuses.iter().enumerate().map(|(p, s)| partition(p, s)).collect();
    let durability =
        json!({ "description": view.durability.description, "fsync_always": view.durability.fsync_always });
    let body = json!({ "engine": view.name, "durability": durability, "partitions": partitions });
    super::json(StatusCode::OK, body.to_string())
}

fn partition(number: usize, status: &Status) -> Value {
    let read = |n: &std::sync::atomic::AtomicU64| n.load(Ordering::Relaxed);
    let counters = status.counters();
    json!({
        "partition": number,
        "running": status.running.load(Ordering::Relaxed),
        "trouble": status.trouble(),
        "log_away": status.log_away(),
        "log_last": read(&status.log_last),
        "routed": read(&status.routed),
        "checkpoint_cut": read(&status.cut),
        "tables_cursor": status.tables_cursor(),
        "outbox_bytes": status.outbox_bytes(),
        "careful": status.careful.load(Ordering::Relaxed),
        "starts_without_progress": read(&status.starts),
        "sessions_live": status.sessions_live.load(Ordering::Relaxed),
        "applied": counters.applied,
        "duplicate": counters.duplicate,
        "dead_lettered": counters.dead(),
        "dropped": counters.dropped(),
    })
}
