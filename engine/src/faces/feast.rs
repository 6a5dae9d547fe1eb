//! Feast's online server: `POST /get-online-features`, for clients that are configured with
//! `online_store: {type: remote, path: http://...}`.
//!
//! Only words: the question and the answer are `crate::features::feast`'s.

use std::{sync::Arc, time::Instant};

use axum::{
    Router,
    extract::{Request, State},
    http::StatusCode,
    response::Response,
    routing::post,
};

use super::{
    features::{body_of, refused},
    json, observe,
};
use crate::features::{Ask, FeatureReader, Refusal, Status, feast::Question};

/// Where Feast asks.
pub const FEAST_PATH: &str = "/get-online-features";
/// Rows that are read before others get their turn.
const ROWS_AT_A_TIME: usize = 64;

/// The route.
pub fn routes(reader: Arc<FeatureReader>) -> Router {
    Router::new().route(FEAST_PATH, post(answer)).with_state(reader)
}

async fn answer(State(reader): State<Arc<FeatureReader>>, request: Request) -> Response {
    let began = Instant::now();
    let response = find(&reader, request).await.unwrap_or_else(|refusal| refused(&refusal));
    observe::feature_request(response.status().as_u16(), began.elapsed().as_secs_f64());
    response
}

async fn find(reader: &FeatureReader, request: Request) -> Result<Response, Refusal> {
    let question = Question::from_body(&body_of(request).await?)?;
    let _room = reader.room()?;
    let keys = question.keys.iter().flatten().cloned().collect();
    let mut all = reader.read(&Ask { keys, ..Ask::default() }).await?.into_iter();
    let (set, at) = (reader.declared(), reader.now());
    let mut chosen = question.chosen(set);
    let (mut rows, mut statuses) = (Vec::with_capacity(question.keys.len()), Vec::with_capacity(question.keys.len()));
    for (place, key) in question.keys.iter().enumerate() {
        let stored = key.as_ref().and_then(|_| all.next()).and_then(|found| found.stored);
        let row = stored.as_deref().map(|stored| {
            let unreadable = || Refusal::Unreadable(format!("entity {place}"));
            question.row(stored, set, at, &mut chosen).ok_or_else(unreadable)
        });
        statuses.push(if row.is_some() { Status::Found } else { Status::Unknown });
        rows.push(row.transpose()?);
        if place % ROWS_AT_A_TIME == ROWS_AT_A_TIME - 1 {
            tokio::task::yield_now().await;
        }
    }
    observe::feature_keys(&statuses);
    Ok(json(StatusCode::OK, question.answer(&rows)?))
}
