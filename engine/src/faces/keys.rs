//! The admin API of keys: `GET /api/key?key=` says all there is to know of one.

use std::sync::Arc;

use axum::{
    Router,
    extract::{RawQuery, State},
    http::StatusCode,
    response::Response,
    routing::get,
};
use keyloom_actors::{key::Key, ports::StoreError};
use tokio::sync::Semaphore;

use super::{View, json, problem};
use crate::keys::{API_PATH, InspectError, Inspector};

/// Requests worked on at once: each looks through thousands of events.
const AT_ONCE_MAX: usize = 2;

struct Face {
    view: Arc<View>,
    inspector: Inspector,
    room: Semaphore,
}

/// The routes.
pub fn routes(view: Arc<View>, inspector: Inspector) -> Router {
    let face = Arc::new(Face { view, inspector, room: Semaphore::new(AT_ONCE_MAX) });
    Router::new().route(API_PATH, get(show)).with_state(face)
}

async fn show(State(face): State<Arc<Face>>, RawQuery(query): RawQuery) -> Response {
    let query = query.unwrap_or_default();
    let named = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "key");
    let key = match named.map(|(_, key)| Key::new(&key)) {
        Some(Ok(key)) => key,
        Some(Err(error)) => return problem(StatusCode::BAD_REQUEST, &error.to_string(), "percent-encode the key"),
        None => return problem(StatusCode::BAD_REQUEST, "no key is named", "ask for ?key=..."),
    };
    let Ok(_room) = face.room.try_acquire() else {
        return problem(StatusCode::TOO_MANY_REQUESTS, "too many keys are looked at", "try again in a moment");
    };
    match face.inspector.inspect(&key).await {
        Ok(mut report) => {
            report.owner = Some(format!("{}@{}", face.view.name, std::process::id()));
            report.resident = Some(face.view.cache.get(key.as_str()).is_some());
            let status = face.view.statuses.get(report.partition as usize);
            report.restarts = status.map(|status| status.restarts_of(&key));
            match serde_json::to_vec(&report) {
                Ok(body) => json(StatusCode::OK, body),
                Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string(), "this is a defect"),
            }
        }
        Err(error @ (InspectError::Record(..) | InspectError::Store(StoreError::Corrupt(_)))) => problem(
            StatusCode::INTERNAL_SERVER_ERROR,
            &error.to_string(),
            "trying again does not help; look at the store",
        ),
        Err(error) => problem(StatusCode::SERVICE_UNAVAILABLE, &error.to_string(), "try again in a moment"),
    }
}
