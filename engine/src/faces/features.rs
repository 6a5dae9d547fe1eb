//! The feature API: `GET /v1/features/{key}`.
//!
//! Resident keys are answered from memory, others from the store. Both are what the store has acknowledged.

use std::{sync::Arc, time::Instant};

use axum::{
    Router,
    extract::{Path, State},
    http::StatusCode,
    response::Response,
    routing::get,
};
use keyloom_actors::{
    answer,
    key::Key,
    ports::RecordKey,
    timestamp::{Clock, SystemClock},
};

use super::{View, json, observe, problem};

/// The routes.
pub fn routes(view: Arc<View>) -> Router {
    Router::new().route("/v1/features/{key}", get(read)).with_state(view)
}

async fn read(State(view): State<Arc<View>>, Path(key): Path<String>) -> Response {
    let began = Instant::now();
    let response = find(&view, &key).await;
    observe::feature_request(response.status().as_u16(), began.elapsed().as_secs_f64());
    response
}

async fn find(view: &View, key: &str) -> Response {
    let key = match Key::new(key) {
        Ok(key) => key,
        Err(error) => {
            return problem(StatusCode::BAD_REQUEST, &error.to_string(), "percent-encode the key in the path");
        }
    };
    let held = match view.cache.get(key.as_str()) {
        Some(answer) => Some(answer),
        None => match view.store.get(&[RecordKey::Feature(key)]).await {
            Ok(found) => found.into_iter().next().flatten(),
            Err(error) => {
                let hint = "the store does not answer; try again in a moment";
                return problem(StatusCode::SERVICE_UNAVAILABLE, &error.to_string(), hint);
            }
        },
    };
    match held.as_deref().and_then(|stored| answer::read(stored, view.factory.declared(), SystemClock.now())) {
        Some(answer) => json(StatusCode::OK, answer),
        None => problem(StatusCode::NOT_FOUND, "no event of this key was processed yet", "keys are case-sensitive"),
    }
}
