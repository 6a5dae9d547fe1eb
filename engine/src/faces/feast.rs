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
use crate::features::{
    ANSWER_BYTES_MAX, Ask, FeatureReader, Refusal, Status,
    feast::{Line, Question},
    turn::Turn,
};

/// Where Feast asks.
pub const FEAST_PATH: &str = "/get-online-features";

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
    let (body, _hold) = body_of(reader, request).await?;
    let question = Question::from_body(&body)?;
    let ask = Ask { keys: question.keys.iter().flatten().cloned().collect(), ..Ask::default() };
    let mut reading = reader.read(&ask).await?;
    let (set, at, mut turn) = (reader.declared(), reader.now(), Turn::new());
    let mut chosen = question.chosen(set);
    let (mut lines, mut statuses) = (Vec::with_capacity(question.keys.len()), Vec::with_capacity(question.keys.len()));
    let mut bytes = 0;
    // What can be no key has a line, too, and stands between those that were asked for.
    let mut asked = question.keys.iter();
    let mut nobody = |lines: &mut Vec<Line>, statuses: &mut Vec<Status>| {
        for _ in asked.by_ref().take_while(|key| key.is_none()) {
            lines.push(Line::Unknown);
            statuses.push(Status::Unknown);
        }
    };
    while let Some(some) = reading.next().await {
        for found in some {
            nobody(&mut lines, &mut statuses); // and past the key that was found
            let (line, status) = match &found.stored {
                Some(stored) => match question.row(stored, set, at, &mut chosen) {
                    Some(row) => (Line::Row(row), Status::Found),
                    None => (Line::Invalid, Status::Unreadable),
                },
                None if found.unavailable => (Line::Invalid, Status::Unavailable),
                None => (Line::Unknown, Status::Unknown),
            };
            bytes += line.bytes();
            if bytes > ANSWER_BYTES_MAX {
                return Err(Refusal::AnswerTooLarge);
            }
            lines.push(line);
            statuses.push(status);
            turn.pause().await;
        }
    }
    nobody(&mut lines, &mut statuses);
    let text = question.answer(&lines, &mut turn).await?;
    observe::feature_keys(&statuses);
    reading.end()?;
    Ok(json(StatusCode::OK, text))
}
