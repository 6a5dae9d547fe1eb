//! The HTTP face of trackers and of CloudEvents: their paths, and answers in their words.
//!
//! Reading bodies, and the answers when a request is refused, are those of [`super::http`]. CORS stands in front of all.

use std::{sync::Arc, time::Instant};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header, request::Parts},
    response::Response,
    routing::{get, post},
};
use bytes::Bytes;

use super::{
    batch::FrontDoor,
    decode::Encoding,
    http::{answered, head, json, refused, take, told, wrong_method},
    protocols::{
        Wire, cloudevents, cookie,
        segment::{Call, MessageType},
    },
    refusal::Refusal,
};

/// Where Snowplow's trackers send to with POST.
pub const SNOWPLOW_PATH: &str = "/com.snowplowanalytics.snowplow/tp2";
/// Where they send to with GET.
pub const SNOWPLOW_PIXEL_PATH: &str = "/i";
/// Where CloudEvents go.
pub const CLOUDEVENTS_PATH: &str = "/v1/cloudevents";
/// Where Segment's browser library reports on itself. Taken and thrown away: without it, it would complain on every page.
const SEGMENT_METRICS_PATH: &str = "/v1/m";

/// Paths of Segment's HTTP API with the short forms of its browser library, and of RudderStack's beacon. All may end in a
/// slash: Segment's library for Java says `/v1/import/`.
const SEGMENT_PATHS: [(&str, Call); 16] = [
    ("/v1/track", Call::One(MessageType::Track)),
    ("/v1/t", Call::One(MessageType::Track)),
    ("/v1/identify", Call::One(MessageType::Identify)),
    ("/v1/i", Call::One(MessageType::Identify)),
    ("/v1/page", Call::One(MessageType::Page)),
    ("/v1/p", Call::One(MessageType::Page)),
    ("/v1/screen", Call::One(MessageType::Screen)),
    ("/v1/s", Call::One(MessageType::Screen)),
    ("/v1/group", Call::One(MessageType::Group)),
    ("/v1/g", Call::One(MessageType::Group)),
    ("/v1/alias", Call::One(MessageType::Alias)),
    ("/v1/a", Call::One(MessageType::Alias)),
    ("/v1/batch", Call::Batch),
    ("/v1/b", Call::Batch),
    ("/v1/import", Call::Batch),
    ("/beacon/v1/batch", Call::Batch),
];

/// The smallest picture there is: one transparent point.
const PIXEL: [u8; 42] = *b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff!\xf9\x04\x01\x00\x00\x00\x00,\
                           \x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x01D\x00;";

/// The routes of trackers and CloudEvents.
pub fn routes(door: Arc<FrontDoor>) -> Router {
    let mut router = Router::new()
        .route(SNOWPLOW_PATH, post(snowplow).fallback(wrong_method))
        .route(SNOWPLOW_PIXEL_PATH, get(pixel).fallback(wrong_method_of_pixel))
        .route(CLOUDEVENTS_PATH, post(cloudevents).fallback(wrong_method))
        .route(SEGMENT_METRICS_PATH, post(segment_metrics).fallback(wrong_method));
    for (path, call) in SEGMENT_PATHS {
        let handler = move |State(door): State<Arc<FrontDoor>>, request: Request| segment(door, call, request);
        for path in [path, &format!("{path}/")] {
            router = router.route(path, post(handler).fallback(wrong_method));
        }
    }
    router.with_state(door)
}

async fn segment(door: Arc<FrontDoor>, call: Call, request: Request) -> Response {
    let started = Instant::now();
    let taken = take(&door, Wire::Segment(call), request, |_| {}).await;
    told(started, taken.map_or_else(|refusal| refused(&refusal), |_| success()))
}

/// What libraries say of themselves: nobody reads it, so it is not even received.
async fn segment_metrics() -> Response {
    told(Instant::now(), success())
}

fn success() -> Response {
    json(StatusCode::OK, br#"{"success":true}"#.to_vec())
}

async fn cloudevents(State(door): State<Arc<FrontDoor>>, request: Request) -> Response {
    let started = Instant::now();
    let mut is_batch = false;
    let taken = take(&door, Wire::CloudEvents, request, |head| is_batch = cloudevents::is_batch(head)).await;
    let response = taken.map_or_else(
        |refusal| refused(&refusal),
        |answer| match answer.rejected.is_empty() {
            // Brokers of events (Knative's is one) take whatever is in such an answer for an event in reply.
            true if !is_batch => no_content(),
            _ => answered(&answer, false),
        },
    );
    told(started, response)
}

fn no_content() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

async fn snowplow(State(door): State<Arc<FrontDoor>>, request: Request) -> Response {
    let started = Instant::now();
    let mut id = None;
    let taken = take(&door, Wire::SnowplowBody, request, |head| {
        id = network_userid(&door, &head.headers, head.is_anonymous());
        head.network_userid.clone_from(&id);
    })
    .await;
    let response = taken.map_or_else(
        |refusal| refused(&refusal),
        |_| with_cookie(&door, id, picture_or_text("text/plain; charset=utf-8", Bytes::from_static(b"ok"))),
    );
    told(started, response)
}

async fn pixel(State(door): State<Arc<FrontDoor>>, request: Request) -> Response {
    let started = Instant::now();
    let (parts, _) = request.into_parts();
    let response = stored_query(&door, parts).await.map_or_else(
        |refusal| refused(&refusal),
        |id| {
            let mut response = with_cookie(&door, id, picture_or_text("image/gif", Bytes::from_static(&PIXEL)));
            let never = HeaderValue::from_static("no-cache, no-store, must-revalidate");
            response.headers_mut().insert(header::CACHE_CONTROL, never);
            response
        },
    );
    told(started, response)
}

/// Stores the event in a query; answers with the id for the cookie.
async fn stored_query(door: &FrontDoor, parts: Parts) -> Result<Option<String>, Refusal> {
    let mut head = head(door, parts);
    let query = Bytes::from(std::mem::take(&mut head.query));
    let id = network_userid(door, &head.headers, head.is_anonymous());
    head.network_userid.clone_from(&id);
    let hold = door.gate().enter(query.len())?;
    door.submit_request(Wire::SnowplowQuery, head, query, Encoding::Identity, hold).await?;
    Ok(id)
}

async fn wrong_method_of_pixel() -> Response {
    let mut response = wrong_method().await;
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    response
}

/// The id in the collector's cookie: the one that came, else a new one; none for who asks to be anonymous.
fn network_userid(door: &FrontDoor, headers: &axum::http::HeaderMap, is_anonymous: bool) -> Option<String> {
    let settings = door.cookie().filter(|_| !is_anonymous)?;
    settings.id(headers).map(str::to_owned).or_else(|| {
        let mut random = [0; 16];
        match getrandom::fill(&mut random) {
            Ok(()) => Some(cookie::new_id(u128::from_le_bytes(random))),
            Err(error) => {
                tracing::warn!(%error, "no randomness: a browser gets no cookie");
                None
            }
        }
    })
}

fn with_cookie(door: &FrontDoor, id: Option<String>, mut response: Response) -> Response {
    let text = door.cookie().zip(id).map(|(settings, id)| settings.set(&id));
    if let Some(value) = text.and_then(|text| HeaderValue::from_str(&text).ok()) {
        response.headers_mut().insert(header::SET_COOKIE, value);
    }
    response
}

fn picture_or_text(media_type: &'static str, body: Bytes) -> Response {
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

#[cfg(test)]
#[path = "tracker_http_tests.rs"]
mod tests;
