//! The routes of `Ingest` over a log in memory: from when to when a request has room.

use std::{sync::Arc, time::Duration};

use axum::{Router, body::Body, http::Request, response::Response};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use keyloom_actors::{event::KeyPaths, timestamp::SystemClock};
use prost::Message as _;
use tower_service::Service as _;

use super::{
    ingest_routes,
    proto::{Event, SendRequest},
};
use crate::front_door::{Acceptor, FrontDoor, Limits, batch::REQUEST_BYTES, test_log::MemoryLog};

fn door(log: &Arc<MemoryLog>) -> Arc<FrontDoor> {
    let acceptor = Acceptor { keys: KeyPaths::new(["k"]), partitions: 1, event_bytes_max: 10_000 };
    let log = Arc::<MemoryLog>::clone(log);
    Arc::new(FrontDoor::new(acceptor, log, Arc::new(SystemClock), Limits::default()))
}

/// A message with one event, behind its prefix.
fn framed(event: &str) -> Vec<u8> {
    let message = SendRequest { events: vec![Event { json: event.to_owned(), ..Event::default() }] }.encode_to_vec();
    [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat()
}

async fn called(mut routes: Router, path: &str, body: Vec<u8>) -> (Response<()>, Bytes) {
    let request = Request::post(path).header("content-type", "application/grpc").body(Body::from(body));
    let Ok(response) = routes.call(request.expect("a request")).await;
    let (head, body) = response.into_parts();
    (Response::from_parts(head, ()), body.collect().await.expect("whole").to_bytes())
}

#[tokio::test]
async fn a_request_has_room_from_its_arrival_to_its_answer() {
    for path in ["/keyloom.v1.Ingest/Send", "/keyloom.v1.Ingest/Stream"] {
        let log = Arc::<MemoryLog>::default();
        let door = door(&log);
        let routes = ingest_routes(Arc::clone(&door), None);
        let event = format!(r#"{{"k":"u","x":"{}"}}"#, "x".repeat(5_000));
        let (sent, closed) = (framed(&event), log.close());
        // The message, without its prefix, and its event on the way to the log.
        let held = sent.len() - 5 + event.len() + REQUEST_BYTES;
        let call = tokio::spawn(called(routes, path, sent));
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while door.gate().in_flight() != held {
            assert!(tokio::time::Instant::now() < deadline, "{path}: {} of {held}", door.gate().in_flight());
            tokio::task::yield_now().await;
        }
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(door.gate().in_flight(), held, "{path}: while the log does not answer");
        drop(closed);
        let (_, answer) = call.await.expect("no panic");
        assert!(answer.len() > 5, "{path}: {answer:?}");
        assert_eq!((door.gate().in_flight(), log.records()[&0].len()), (0, 1), "{path}");
    }
}
