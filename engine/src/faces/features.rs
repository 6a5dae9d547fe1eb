//! The feature API over HTTP: `GET /v1/features/{key}` and `POST /v1/features`.
//!
//! Reads requests within the limits and words the answers. Where answers come from and how they are put together is in
//! `crate::features`.

use std::{sync::Arc, time::Instant};

use axum::{
    Router,
    body::HttpBody as _,
    extract::{Path, RawQuery, Request, State, rejection::PathRejection},
    http::{HeaderValue, StatusCode, header},
    response::Response,
    routing::get,
};
use bytes::Bytes;

use super::{json, observe, problem};
use crate::{
    features::{Ask, BODY_BYTES_MAX, BODY_TIMEOUT, FeatureReader, Many, Page, Refusal, Status, turn::Turn},
    front_door::{self, gate::Hold},
};

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
    let mut reading = reader.read(ask).await?;
    let found = reading.next().await.and_then(|some| some.first().cloned()).unwrap_or_default();
    let mut page = Page::new(reader.declared(), reader.now(), ask.features.as_deref());
    let mut out = Vec::with_capacity(4 << 10);
    let status = page.answer(&mut out, &found, || reader.progress(found.partition));
    observe::feature_keys(&[status]);
    reading.end()?;
    let unknown = "no event of this key was processed yet";
    match status {
        Status::Unreadable => Err(Refusal::Unreadable("this key".to_owned())),
        Status::Unknown | Status::Unavailable => Ok(problem(StatusCode::NOT_FOUND, unknown, "keys are case-sensitive")),
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
    let (body, _hold) = body_of(reader, request).await?;
    let ask = Ask::from_body(&body)?;
    drop(body);
    let mut reading = reader.read(&ask).await?;
    let (page, mut turn) = (Page::new(reader.declared(), reader.now(), ask.features.as_deref()), Turn::new());
    let mut many = Many::new(page, ask.keys.len());
    while let Some(some) = reading.next().await {
        many.add(some, |partition| reader.progress(partition), &mut turn).await?;
    }
    let (body, statuses) = many.end();
    observe::feature_keys(&statuses);
    reading.end()?;
    Ok(json(StatusCode::OK, body))
}

/// The body of a request, within the limits, and its room: to be held until the request is answered.
pub(super) async fn body_of(reader: &FeatureReader, request: Request) -> Result<(Bytes, Hold), Refusal> {
    let refusal = |refusal| match refusal {
        front_door::Refusal::Busy => Refusal::NoRoom,
        front_door::Refusal::TooLarge(_) => Refusal::BodyTooLarge,
        front_door::Refusal::Slow(_) => Refusal::Slow,
        other => Refusal::Wrong(other.to_string()),
    };
    let mut hold = reader.gate().enter(0).map_err(refusal)?;
    let announced = request.body().size_hint().exact().and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(0);
    let body = front_door::http::collect(request.into_body(), announced, BODY_BYTES_MAX, BODY_TIMEOUT, &mut hold).await;
    Ok((body.map_err(refusal)?, hold))
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

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;
    use crate::features::{MESSAGES_BYTES_MAX, tests::reader};

    #[tokio::test]
    async fn bodies_take_room_and_give_it_back() {
        let (reader, ..) = reader();
        let question = || Request::post(FEATURES_PATH).body(Body::from(r#"{"keys":["nobody"]}"#)).expect("a request");
        let others = reader.gate().enter(MESSAGES_BYTES_MAX - 10).expect("room");
        let refused = answer_many(&reader, question()).await.expect_err("no room");
        assert_eq!((refused.clone(), refused.code()), (Refusal::NoRoom, 429));
        drop(others);
        assert_eq!(answer_many(&reader, question()).await.expect("room").status(), StatusCode::OK);
        let (_, hold) = body_of(&reader, question()).await.expect("room");
        assert_eq!(reader.gate().in_flight(), 19);
        drop(hold);
        assert_eq!(reader.gate().in_flight(), 0);
        let large = Request::post(FEATURES_PATH).body(Body::from(vec![b' '; BODY_BYTES_MAX + 1])).expect("a request");
        assert_eq!(body_of(&reader, large).await.map(drop).expect_err("too large"), Refusal::BodyTooLarge);
    }
}
