//! The feature API over HTTP: `GET /v1/features/{key}` and `POST /v1/features`.
//!
//! Reads requests within the limits and words the answers. Where answers come from and how they are put together is in
//! `crate::features`.

use std::{sync::Arc, time::Instant};

use axum::{
    Router,
    extract::{Path, RawQuery, Request, State, rejection::PathRejection},
    http::{HeaderValue, StatusCode, header},
    response::Response,
    routing::get,
};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};

use super::{json, observe, problem};
use crate::features::{Ask, BODY_BYTES_MAX, BODY_TIMEOUT, FeatureReader, Page, Refusal, Status};

/// The address of features.
pub const FEATURES_PATH: &str = "/v1/features";
/// Seconds after which a reader should try again, for what passes by itself.
const RETRY_AFTER_SECONDS: u64 = 1;

/// The routes.
pub fn routes(reader: Arc<FeatureReader>) -> Router {
    let of_key = format!("{FEATURES_PATH}/{{key}}");
    Router::new().route(FEATURES_PATH, axum::routing::post(many)).route(&of_key, get(one)).with_state(reader)
}

async fn one(
    State(reader): State<Arc<FeatureReader>>,
    key: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Response {
    let began = Instant::now();
    let wrong = |_| Refusal::Wrong("the key is not percent-encoded UTF-8".to_owned());
    let ask = key.map_err(wrong).and_then(|Path(key)| Ask::from_query(&key, &query.unwrap_or_default()));
    let response = match ask {
        Ok(ask) => answer_one(&reader, &ask).await.unwrap_or_else(|refusal| refused(&refusal)),
        Err(refusal) => refused(&refusal),
    };
    observe::feature_request(response.status().as_u16(), began.elapsed().as_secs_f64());
    response
}

async fn answer_one(reader: &FeatureReader, ask: &Ask) -> Result<Response, Refusal> {
    let all = reader.read(ask).await?;
    let mut page = Page::new(reader.declared(), reader.now(), ask.features.as_deref());
    let (mut out, found) = (Vec::with_capacity(4 << 10), all.into_iter().next().unwrap_or_default());
    let status = page.answer(&mut out, &found, || reader.progress(found.partition));
    observe::feature_keys(&[status]);
    let unknown = "no event of this key was processed yet";
    match status {
        Status::Unreadable => Err(Refusal::Unreadable("this key".to_owned())),
        Status::Unknown => Ok(problem(StatusCode::NOT_FOUND, unknown, "keys are case-sensitive")),
        Status::Behind if found.stored.is_none() => {
            let hint = "the event waited for may come in a moment, or be of another key";
            let body = serde_json::json!({ "error": unknown, "hint": hint, "behind": true });
            Ok(json(StatusCode::NOT_FOUND, body.to_string()))
        }
        Status::Found | Status::Behind => Ok(json(StatusCode::OK, out)),
    }
}

async fn many(State(reader): State<Arc<FeatureReader>>, request: Request) -> Response {
    let began = Instant::now();
    let response = answer_many(&reader, request).await.unwrap_or_else(|refusal| refused(&refusal));
    observe::feature_request(response.status().as_u16(), began.elapsed().as_secs_f64());
    response
}

async fn answer_many(reader: &FeatureReader, request: Request) -> Result<Response, Refusal> {
    let ask = Ask::from_body(&body_of(request).await?)?;
    let _room = reader.room()?;
    let all = reader.read(&ask).await?;
    let mut page = Page::new(reader.declared(), reader.now(), ask.features.as_deref());
    let (body, statuses) = page.many(&all, |partition| reader.progress(partition)).await?;
    observe::feature_keys(&statuses);
    Ok(json(StatusCode::OK, body))
}

/// The body of a request, within the limits.
pub(super) async fn body_of(request: Request) -> Result<Bytes, Refusal> {
    let body = Limited::new(request.into_body(), BODY_BYTES_MAX).collect();
    let body = tokio::time::timeout(BODY_TIMEOUT, body).await.map_err(|_| Refusal::Slow)?;
    let body = body.map_err(|error| match error.downcast_ref::<LengthLimitError>() {
        Some(_) => Refusal::BodyTooLarge,
        None => Refusal::Wrong("the connection broke in the middle of the body".to_owned()),
    })?;
    Ok(body.to_bytes())
}

/// A refusal in words.
pub(super) fn refused(refusal: &Refusal) -> Response {
    let code = StatusCode::from_u16(refusal.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = problem(code, &refusal.to_string(), refusal.hint());
    if refusal.passes() {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
    }
    response
}
