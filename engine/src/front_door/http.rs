//! `POST /v1/events`: the HTTP face of the front door, and what the faces of all protocols share.
//!
//! Reads bodies within the limits and words the answers. What the events are is for [`super::batch`] to say; how trackers want
//! to be answered, for [`super::tracker_http`].

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts},
    response::Response,
    routing::post,
};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;

use super::{
    batch::{Answer, FrontDoor, Limits},
    decode::Encoding,
    gate::{Gate, Hold},
    observe,
    protocols::{Head, Wire},
    refusal::Refusal,
    tracker_http,
};
use crate::{access::Peer, server};

/// The address of the front door's own format.
pub const EVENTS_PATH: &str = "/v1/events";

/// The front door's routes, of all protocols.
pub fn routes(door: Arc<FrontDoor>) -> Router {
    let own = Router::new().route(EVENTS_PATH, post(events).fallback(wrong_method)).with_state(Arc::clone(&door));
    own.merge(tracker_http::routes(door))
}

async fn events(State(door): State<Arc<FrontDoor>>, request: Request) -> Response {
    let started = Instant::now();
    let wants_places = wants_places(request.uri().query().unwrap_or_default());
    let taken = take(&door, Wire::Json, request, |_| {}).await;
    told(started, taken.map_or_else(|refusal| refused(&refusal), |answer| answered(&answer, wants_places)))
}

/// `?seq=true`: the answer says where the events are in the log, for those who will read what they wrote.
fn wants_places(query: &str) -> bool {
    form_urlencoded::parse(query.as_bytes()).any(|(name, value)| name == "seq" && (value == "true" || value == "1"))
}

/// The answer to another method than POST.
pub(super) async fn wrong_method() -> Response {
    let mut response = told(Instant::now(), refused(&Refusal::Method));
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
    response
}

/// Counts an answer.
pub(super) fn told(started: Instant, response: Response) -> Response {
    observe::answered(response.status().as_u16(), started.elapsed());
    response
}

/// Stores the events in the body of `request`; `complete` adds to its head what only its protocol knows.
pub(super) async fn take(
    door: &FrontDoor,
    wire: Wire,
    request: Request,
    complete: impl FnOnce(&mut Head),
) -> Result<Answer, Refusal> {
    let (parts, body) = request.into_parts();
    let encoding = encoding(&parts.headers)?;
    let mut head = head(door, parts);
    let sender = head.credentials.sender();
    let gate = if !wire.protocol().is_tracker() {
        // Their bodies cannot say who sends: those who may not should not take up room with them.
        door.admissions().admit(&sender, None, 0)?;
        door.gate()
    } else if door.admissions().knows(&sender) {
        door.gate()
    } else {
        // A tracker's body may say it: until it is read, its sender is a guest.
        door.guests()
    };
    let (body, hold) = receive(door.limits(), gate, &head.headers, body).await?;
    complete(&mut head);
    // A CloudEvent may be all in its headers; in every other protocol the events are in the body.
    if body.is_empty() && wire != Wire::CloudEvents {
        return Err(Refusal::Empty);
    }
    door.submit_request(wire, head, body, encoding, hold).await
}

/// Reads a body within the limits, through the gate.
async fn receive(limits: &Limits, gate: &Gate, headers: &HeaderMap, body: Body) -> Result<(Bytes, Hold), Refusal> {
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|bytes| bytes > limits.body_bytes_max) {
        return Err(Refusal::TooLarge(limits.body_bytes_max));
    }
    let mut hold = gate.enter(0)?;
    let body = collect(body, announced.unwrap_or(0), limits.body_bytes_max, limits.body_timeout, &mut hold).await?;
    Ok((body, hold))
}

/// What a request says beside its body, and what its connection says of it.
pub(super) fn head(door: &FrontDoor, parts: Parts) -> Head {
    let credentials = door.admissions().credentials(&parts.headers, parts.extensions.get::<Peer>());
    let query = parts.uri.query().unwrap_or_default().to_owned();
    Head { headers: parts.headers, query, credentials, ..Head::default() }
}

fn encoding(headers: &HeaderMap) -> Result<Encoding, Refusal> {
    let mut found = Encoding::Identity;
    let names = headers.get_all(header::CONTENT_ENCODING).iter().map(|v| v.to_str().unwrap_or("?"));
    for name in names.flat_map(|v| v.split(',')) {
        match Encoding::from_name(name).ok_or(Refusal::Encoding)? {
            Encoding::Identity => {}
            packed if found == Encoding::Identity => found = packed,
            _ => return Err(Refusal::Encoding), // packed twice: nobody does that for a good reason
        }
    }
    Ok(found)
}

/// Collects a body within its limits of bytes and time, asking the gate for each piece.
pub(crate) async fn collect(
    body: Body,
    announced: usize,
    bytes_max: usize,
    time: Duration,
    hold: &mut Hold,
) -> Result<Bytes, Refusal> {
    let slow = || Refusal::Slow(time.as_secs());
    match tokio::time::timeout(time, read_body(body, announced, bytes_max, hold)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(Unread::Refused(refusal))) => Err(refusal),
        // The server may be the first to lose its patience.
        Ok(Err(Unread::Broken(error))) if server::is_late(&error) => Err(slow()),
        Ok(Err(Unread::Broken(_))) => {
            Err(Refusal::Malformed("the connection broke in the middle of the body".to_owned()))
        }
        Err(_) => Err(slow()),
    }
}

/// Why there is no body.
enum Unread {
    Refused(Refusal),
    Broken(axum::Error),
}

/// Collects the body, asking the gate for each piece before it is kept. A body that came in one piece is not copied.
async fn read_body(mut body: Body, announced: usize, limit: usize, hold: &mut Hold) -> Result<Bytes, Unread> {
    let mut first = Bytes::new();
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(Unread::Broken)?.into_data() else { continue };
        if first.len().max(whole.len()) + data.len() > limit {
            return Err(Unread::Refused(Refusal::TooLarge(limit)));
        }
        hold.grow(data.len()).map_err(Unread::Refused)?;
        if whole.is_empty() && first.is_empty() {
            first = data;
            continue;
        }
        if whole.is_empty() {
            // Only what has arrived is trusted: an announced length reserves nothing beyond a few times of it.
            whole.reserve(announced.min(4 * (first.len() + data.len())));
            whole.extend_from_slice(&first);
            first.clear();
        }
        whole.extend_from_slice(&data);
    }
    Ok(if whole.is_empty() { first } else { whole.freeze() })
}

/// The answer of the own formats: by index; with the places of the events where they were asked for.
pub(super) fn answered(answer: &Answer, with_places: bool) -> Response {
    let code = if answer.is_all_rejected() { StatusCode::BAD_REQUEST } else { StatusCode::OK };
    json(code, if with_places { answer.to_json_with_places() } else { answer.to_json() })
}

/// The answer to a request that was not taken.
pub(super) fn refused(refusal: &Refusal) -> Response {
    let code = StatusCode::from_u16(refusal.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(code, refusal.to_json());
    if let Some(seconds) = refusal.retry_after() {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if refusal.code() == 401 {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"keyloom\""));
    }
    if matches!(refusal, Refusal::Encoding) {
        // RFC 9110: tells the client what would have been understood.
        let known = HeaderValue::from_static("gzip, deflate, zstd, identity");
        response.headers_mut().insert(HeaderName::from_static("accept-encoding"), known);
    }
    response
}

pub(super) fn json(code: StatusCode, body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::{StreamExt, stream};
    use http_body_util::Full;
    use hyper_util::{
        client::legacy::{Client, connect::HttpConnector},
        rt::TokioExecutor,
    };
    use keyloom_actors::{event::KeyPaths, ports::LogError, timestamp::SystemClock};

    use super::*;
    use crate::{
        access::{IpPolicy, Rules, rules::Source},
        front_door::{
            Acceptor, Limits, admission::Admissions, decode::encode, protocols::segment::Call, test_log::MemoryLog,
        },
    };

    struct Face {
        door: Arc<FrontDoor>,
        log: Arc<MemoryLog>,
        client: Client<HttpConnector, Full<Bytes>>,
        address: String,
    }

    impl Face {
        async fn open(limits: Limits) -> Self {
            Self::over(Arc::default(), KeyPaths::new(["k"]), limits).await
        }

        async fn over(log: Arc<MemoryLog>, keys: KeyPaths, limits: Limits) -> Self {
            let acceptor = Acceptor { keys, partitions: 1, event_bytes_max: 1_000 };
            let door = Arc::new(FrontDoor::new(acceptor, Arc::<MemoryLog>::clone(&log), Arc::new(SystemClock), limits));
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let address = format!("http://{}{EVENTS_PATH}", listener.local_addr().expect("bound"));
            let routes = routes(Arc::clone(&door));
            tokio::spawn(async move { axum::serve(listener, routes).await });
            Self { door, log, client: Client::builder(TokioExecutor::new()).build_http(), address }
        }

        async fn send(&self, method: &str, encoding: &str, body: Vec<u8>) -> (u16, HeaderMap, serde_json::Value) {
            let request = axum::http::Request::builder()
                .method(method)
                .uri(&self.address)
                .header("content-type", "text/plain")
                .header("content-encoding", encoding)
                .body(Full::new(Bytes::from(body)))
                .expect("a request");
            let response = self.client.request(request).await.expect("an answer");
            let (head, body) = response.into_parts();
            let body = body.collect().await.expect("a body").to_bytes();
            (head.status.as_u16(), head.headers, serde_json::from_slice(&body).expect("JSON"))
        }

        async fn post(&self, body: &str) -> (u16, serde_json::Value) {
            let (code, _, answer) = self.send("POST", "identity", body.into()).await;
            (code, answer)
        }
    }

    #[tokio::test]
    async fn events_are_answered_by_index() {
        let face = Face::open(Limits::default()).await;
        let (code, answer) =
            face.post("{\"k\":\"u\",\"event_id\":\"1\"}\n\nnope\n{\"k\":\"u\",\"event_id\":\"1\"}").await;
        assert_eq!((code, &answer["accepted"], &answer["duplicates"]), (200, &1.into(), &1.into()));
        assert_eq!(answer["rejected"][0]["index"], 1);
        assert_eq!(answer["rejected"][0]["reason"], "parse: not a JSON object: it does not begin with {");
        let (code, answer) = face.post("[{\"k\":\"u\",\"event_id\":\"2\"},{\"k\":\"u\"}]").await;
        assert_eq!((code, &answer["accepted"]), (200, &2.into()));
        let (code, answer) = face.post("{\"x\":1}").await;
        assert_eq!((code, &answer["accepted"], &answer["rejected"][0]["index"]), (400, &0.into(), &0.into()));
        assert_eq!(face.log.records()[&0].len(), 3);
        let asking = Face { address: format!("{}?seq=true", face.address), ..face };
        let (_, answer) = asking.post("{\"k\":\"u\",\"event_id\":\"3\"}").await;
        assert_eq!(answer["seq"], serde_json::json!({"partition": 0, "seq": 4}), "{answer}");
        assert_eq!((&answer["min_seq"], &answer["accepted"]), (&serde_json::json!({"0": 4}), &1.into()));
        let (_, answer) = asking.post("{\"k\":\"u\",\"event_id\":\"3\"}").await;
        assert_eq!(
            (&answer["seq"], &answer["duplicates"]),
            (&serde_json::Value::Null, &1.into()),
            "not known any more"
        );
    }

    #[tokio::test]
    async fn a_header_can_say_the_key() {
        let log = Arc::new(MemoryLog::default());
        let keys = KeyPaths::new(["k", "header:Content-Type"]);
        let face = Face::over(log, keys, Limits::default()).await;
        assert_eq!(face.post("{\"event_id\":\"1\"}\n{\"k\":\"u\",\"event_id\":\"2\"}").await.0, 200);
        let records = face.log.records();
        let keys: Vec<_> = records[&0].iter().map(|record| &record.key[..]).collect();
        assert_eq!(keys, [&b"text/plain"[..], b"u"]);
    }

    #[tokio::test]
    async fn packed_bodies_are_unpacked_within_the_limit() {
        let limits = Limits { body_bytes_max: 100_000, ..Limits::default() };
        let face = Face::open(limits).await;
        for (n, (name, encoding)) in
            [("gzip", Encoding::Gzip), ("deflate", Encoding::Deflate), ("ZSTD", Encoding::Zstd)].into_iter().enumerate()
        {
            let body = format!("{{\"k\":\"u\",\"event_id\":\"{n}\"}}");
            let (code, _, answer) = face.send("POST", name, encode(encoding, body.as_bytes())).await;
            assert_eq!((code, &answer["accepted"]), (200, &1.into()), "{name}");
            let bomb = encode(encoding, &vec![b' '; 1 << 20]);
            let (code, _, answer) = face.send("POST", name, bomb).await;
            assert_eq!(code, 413, "{name}: {answer}");
            let (code, _, answer) = face.send("POST", name, b"{\"k\":\"u\"}".to_vec()).await;
            assert_eq!(code, 400, "{name}: {answer}");
        }
    }

    #[tokio::test]
    async fn senders_that_only_their_body_names_leave_room_for_the_others() {
        let limits = Limits { in_flight_bytes_max: 20_000, body_bytes_max: 3_000, ..Limits::default() };
        let acceptor = Acceptor { keys: KeyPaths::new(["user_id"]), partitions: 1, event_bytes_max: 100_000 };
        let source = Source { write_keys: vec!["wk".into()], ..Source::default() };
        let rules = Arc::new(Rules::new(Vec::new(), vec![source], IpPolicy::Keep, Vec::new()));
        let door = FrontDoor::new(acceptor, Arc::new(MemoryLog::default()), Arc::new(SystemClock), limits)
            .with_admissions(Admissions::new(rules));
        let door = Arc::new(door);
        let send = |headers: &[(&str, &str)], body: Body| {
            let mut request = axum::http::Request::post("/v1/track");
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let (door, request) = (Arc::clone(&door), request.body(body).expect("a request"));
            tokio::spawn(async move { take(&door, Wire::Segment(Call::Batch), request, |_| ()).await })
        };
        // Bodies that begin and do not end.
        let endless = || {
            let first = stream::once(async { Ok::<_, Infallible>(Bytes::from(vec![b' '; 2_500])) });
            Body::from_stream(first.chain(stream::pending()))
        };
        let held: Vec<_> = (0..4).map(|_| send(&[], endless())).collect();
        while door.gate().in_flight() < 10_000 {
            tokio::task::yield_now().await;
        }
        let batch = r#"{"writeKey":"wk","batch":[{"type":"track","event":"e","userId":"u"}]}"#;
        let guest = send(&[], batch.into()).await.expect("it ends");
        assert_eq!(guest, Err(Refusal::Busy));
        let known = send(&[("authorization", "Basic d2s6")], batch.into()).await.expect("it ends");
        assert_eq!(known.map(|answer| answer.accepted), Ok(1));
        held.iter().for_each(tokio::task::JoinHandle::abort);
        while door.gate().in_flight() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(send(&[], batch.into()).await.expect("it ends").map(|answer| answer.accepted), Ok(1));
    }

    #[tokio::test]
    async fn refusals_are_json_with_a_hint() {
        let limits = Limits { body_bytes_max: 2_000, ..Limits::default() };
        let face = Face::open(limits).await;
        let event = b"{\"k\":\"u\"}".to_vec();
        let cases = [
            ("POST", "identity", Vec::new(), 400),
            ("POST", "identity", b" \n".to_vec(), 400),
            ("POST", "gzip", Vec::new(), 400),
            ("POST", "identity", b"[{\"k\":\"u\"},".to_vec(), 400),
            ("POST", "identity", vec![b' '; 3_000], 413),
            ("POST", "br", event.clone(), 415),
            ("POST", "gzip, gzip", event.clone(), 415),
            ("PUT", "identity", event, 405),
        ];
        for (method, encoding, body, expected) in cases {
            let (code, headers, answer) = face.send(method, encoding, body).await;
            assert_eq!(code, expected, "{method} {encoding} {answer}");
            assert_eq!(headers["content-type"], "application/json");
            assert!(answer["error"].is_string() && answer["hint"].is_string(), "{answer}");
        }
        assert!(face.log.records().is_empty());
    }

    #[tokio::test]
    async fn a_body_that_does_not_arrive_is_a_408_whoever_is_tired_of_it_first() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        for (server, door) in
            [(100, 60_000), (60_000, 100)].map(|(s, d)| (Duration::from_millis(s), Duration::from_millis(d)))
        {
            let face = Face::open(Limits { body_timeout: door, ..Limits::default() }).await;
            let limits = server::Limits { body_timeout: server, ..server::Limits::default() };
            let server = server::Server::new(limits, None);
            let address = server.listen(([127, 0, 0, 1], 0).into(), routes(Arc::clone(&face.door))).await;
            let mut stream = tokio::net::TcpStream::connect(address.expect("a free port")).await.expect("a connection");
            let head =
                format!("POST {EVENTS_PATH} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 9\r\n\r\n{{");
            stream.write_all(head.as_bytes()).await.expect("sent");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.expect("answered");
            assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("did not arrive within"), "{answer}");
        }
    }

    #[tokio::test]
    async fn a_full_house_says_429_and_a_silent_log_503() {
        let limits = Limits {
            body_bytes_max: 500,
            in_flight_bytes_max: 1_000,
            append_timeout: Duration::from_secs(5),
            ..Limits::default()
        };
        let face = Face::open(limits).await;
        face.log.fail_next(LogError::Unavailable("no leader".into()));
        let (code, headers, answer) = face.send("POST", "", b"{\"k\":\"u\"}".to_vec()).await;
        assert_eq!((code, headers["retry-after"].as_bytes()), (503, &b"1"[..]), "{answer}");
        let big = |id: u32| format!("{{\"k\":\"u\",\"event_id\":\"{id}\",\"x\":\"{}\"}}", "x".repeat(400));
        let closed = face.log.close();
        let (one, two) = (big(1), big(2));
        let (first, second, third) = tokio::join!(face.post(&one), face.post(&two), async {
            while face.door.gate().in_flight() < one.len() + two.len() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let turned_away = face.post(&big(3)).await;
            drop(closed);
            turned_away
        });
        assert_eq!([first.0, second.0, third.0], [200, 200, 429]);
    }
}
