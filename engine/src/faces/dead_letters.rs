//! The admin API of dead letters, under `/api/dead-letters`: lists, shows, sends again, removes.
//!
//! Only words: what is done is the desk's, see `dead_letters`.

use std::sync::Arc;

use axum::{
    Router,
    body::Bytes,
    extract::{
        DefaultBodyLimit, Path, RawQuery, State,
        rejection::{BytesRejection, PathRejection},
    },
    http::{HeaderMap, StatusCode, header},
    response::Response,
    routing::{get, post},
};
use keyloom_actors::ports::StoreError;
use serde::Serialize;
use serde_json::json as object;
use tokio::sync::Semaphore;

use super::{json, problem};
use crate::{
    dead_letters::{API_PATH, Action, ChangeRequest, Desk, DeskError, Halted, LetterId, ListRequest},
    server,
};

/// Largest body: 1,000 names of letters are about 30 KiB.
const BODY_BYTES_MAX: usize = 64 << 10;
/// Requests worked on at once: each may hold a page of letters with their payloads.
const AT_ONCE_MAX: usize = 4;

struct Face {
    desk: Desk,
    room: Semaphore,
}

/// The routes.
pub fn routes(desk: Desk) -> Router {
    let face = Arc::new(Face { desk, room: Semaphore::new(AT_ONCE_MAX) });
    Router::new()
        .route(API_PATH, get(list))
        .route(&format!("{API_PATH}/{{partition}}/{{seq}}"), get(show))
        .route(&format!("{API_PATH}/redrive"), post(redrive))
        .route(&format!("{API_PATH}/purge"), post(purge))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(face)
}

async fn list(State(face): State<Arc<Face>>, RawQuery(query): RawQuery) -> Response {
    let Ok(_room) = face.room.try_acquire() else { return full() };
    match ListRequest::from_query(query.as_deref().unwrap_or("")) {
        Ok(request) => answer(face.desk.list(&request).await),
        Err(wrong) => refuse(&wrong),
    }
}

async fn show(State(face): State<Arc<Face>>, name: Result<Path<(String, String)>, PathRejection>) -> Response {
    let Ok(Path((partition, seq))) = name else { return refuse("the name of a letter is not percent-encoded UTF-8") };
    let Ok(_room) = face.room.try_acquire() else { return full() };
    let id: LetterId = match format!("{partition}:{seq}").parse() {
        Ok(id) => id,
        Err(wrong) => return refuse(&wrong),
    };
    match face.desk.show(id).await.transpose() {
        Some(found) => answer(found),
        None => problem(StatusCode::NOT_FOUND, &format!("there is no dead letter {id}"), "it may have been sent again"),
    }
}

async fn redrive(face: State<Arc<Face>>, headers: HeaderMap, body: Result<Bytes, BytesRejection>) -> Response {
    change(&face, Action::Redrive, &headers, body).await
}

async fn purge(face: State<Arc<Face>>, headers: HeaderMap, body: Result<Bytes, BytesRejection>) -> Response {
    change(&face, Action::Purge, &headers, body).await
}

async fn change(face: &Face, action: Action, headers: &HeaderMap, body: Result<Bytes, BytesRejection>) -> Response {
    let body = match body {
        Ok(body) => body,
        Err(late) if server::is_late(&late) => {
            return problem(
                StatusCode::REQUEST_TIMEOUT,
                "the request body did not arrive in time",
                "send the body at once",
            );
        }
        Err(rejection) => return problem(rejection.status(), &rejection.body_text(), "ask for fewer letters at once"),
    };
    // A page of some other site can make a browser post to loopback, but not with this type.
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    if content_type.split(';').next().is_none_or(|kind| !kind.trim().eq_ignore_ascii_case("application/json")) {
        let hint = "send it with `content-type: application/json`";
        return problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body must be JSON and say so", hint);
    }
    let Ok(_room) = face.room.try_acquire() else { return full() };
    let request: ChangeRequest = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(error) => return refuse(&error.to_string()),
    };
    match face.desk.change(action, &request).await {
        Ok(report) => answer(Ok(report)),
        Err(Halted { error: DeskError::Wrong(wrong), .. }) => refuse(&wrong),
        Err(Halted { report, error }) => {
            let (code, hint) = failure(&error);
            json(code, object!({ "error": error.to_string(), "hint": hint, "report": report }).to_string())
        }
    }
}

fn full() -> Response {
    let error = "too many requests about dead letters at once";
    problem(StatusCode::TOO_MANY_REQUESTS, error, "try again in a moment")
}

fn answer<T: Serialize>(done: Result<T, DeskError>) -> Response {
    match done {
        Ok(value) => match serde_json::to_vec(&value) {
            Ok(body) => json(StatusCode::OK, body),
            Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string(), "this is a defect"),
        },
        Err(DeskError::Wrong(wrong)) => refuse(&wrong),
        Err(error) => {
            let (code, hint) = failure(&error);
            problem(code, &error.to_string(), hint)
        }
    }
}

/// What an error of log or store is over HTTP, and what to do about it.
fn failure(error: &DeskError) -> (StatusCode, &'static str) {
    match error {
        DeskError::Checkpoint(..) | DeskError::Store(StoreError::Corrupt(_)) => {
            (StatusCode::INTERNAL_SERVER_ERROR, "trying again does not help; look at the store")
        }
        _ => (StatusCode::SERVICE_UNAVAILABLE, "try again in a moment; what was done already is not done twice"),
    }
}

fn refuse(wrong: &str) -> Response {
    problem(StatusCode::BAD_REQUEST, wrong, "see \"Dead letters\" in the README")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::dead_letters::Office;

    #[tokio::test]
    async fn a_body_that_does_not_arrive_is_a_408() {
        let office = Office::with(Vec::new()).await;
        let limits = server::Limits { body_timeout: Duration::from_millis(100), ..server::Limits::default() };
        let server = server::Server::new(limits, None);
        let address = server.listen(([127, 0, 0, 1], 0).into(), routes(office.desk)).await;
        let mut stream = tokio::net::TcpStream::connect(address.expect("a free port")).await.expect("a connection");
        let head = format!(
            "POST {API_PATH}/purge HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: 9\r\n\r\n{{"
        );
        stream.write_all(head.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answered");
        assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("did not arrive in time"), "{answer}");
    }
}
