//! gRPC from the outside: events in by one call and by a stream, features out that show them, refusals as statuses. Real
//! client packages are tried in `clients.rs`.

use keyloom_engine::grpc::proto::{
    BatchGetRequest, BatchGetResponse, Event, FeatureAnswer, GetRequest, SendRequest, SendResponse, result::Status,
};
use std::time::Duration;

use keyloom_tests::support::{
    engine::{Engine, Topology, folder},
    grpc::{Line, Outcome, Seen, call, framed},
    wait_for,
};
use prost::Message;
use serde_json::{Value, json};

const OK: u32 = 0;
const INVALID_ARGUMENT: u32 = 3;
const NOT_FOUND: u32 = 5;
const UNIMPLEMENTED: u32 = 12;
const INTERNAL: u32 = 13;

fn event(key: &str, n: u32) -> Event {
    Event { key: key.into(), event_id: n.to_string(), event: "page_view".into(), json: "{}".into(), ..Event::default() }
}

fn send(engine: &Engine, events: Vec<Event>) -> Outcome<SendResponse> {
    call(engine.port, "/keyloom.v1.Ingest/Send", &[SendRequest { events }])
}

fn get(engine: &Engine, request: &GetRequest) -> Outcome<FeatureAnswer> {
    call(engine.port, "/keyloom.v1.Features/Get", std::slice::from_ref(request))
}

fn counted(answer: &FeatureAnswer) -> Value {
    let features: Value = serde_json::from_str(&answer.features_json).expect("JSON");
    features["event_count"].clone()
}

#[test]
fn what_is_sent_is_read_back_and_refusals_have_a_status() {
    let folder = folder();
    let mut engine = Engine::start(folder.path(), &Topology { partitions: 2, ..Topology::default() });

    // Each event is judged by itself, at its place.
    let bad = |json: &str| Event { json: json.into(), ..Event::default() };
    let outcome = send(&engine, vec![event("ada", 1), bad("nope"), event("ada", 1), bad("[1]"), event("ada", 2)]);
    assert_eq!(outcome.status, OK, "{outcome:?}");
    let answer = &outcome.answers[0];
    assert_eq!((answer.accepted, answer.duplicates), (2, 1));
    let rejected: Vec<_> = answer.rejected.iter().map(|rejected| rejected.index).collect();
    assert_eq!(rejected, [1, 3], "{answer:?}");

    // What was sent is shown to who passes on where it is.
    let features = vec!["event_count".to_owned(), "nothing".to_owned()];
    let ask = GetRequest { key: "ada".into(), features, min_seq: answer.min_seq.clone(), wait_ms: Some(10_000) };
    let outcome = get(&engine, &ask);
    let shown = &outcome.answers[0];
    assert_eq!((shown.behind, shown.missing.as_slice()), (false, &["nothing".to_owned()][..]), "{shown:?}");
    assert_eq!(shown.features_json, r#"{"event_count":2}"#);
    let place = answer.seq.expect("the log knows where");
    assert_eq!((shown.partition, shown.seq), (place.partition, place.seq));
    assert!(shown.age_seconds >= 0.0 && shown.event_time.is_some() && shown.as_of.is_some());

    // A stream: one answer per request, in order, up to the one that is refused.
    let of = |n: u32| SendRequest { events: vec![event("bob", n), event("eve", n)] };
    let outcome: Outcome<SendResponse> =
        call(engine.port, "/keyloom.v1.Ingest/Stream", &[of(1), of(2), of(2), SendRequest::default(), of(3)]);
    assert_eq!(outcome.status, INVALID_ARGUMENT, "{outcome:?}");
    let stored: Vec<_> = outcome.answers.iter().map(|answer| (answer.accepted, answer.duplicates)).collect();
    assert_eq!(stored, [(2, 0), (2, 0), (0, 2)], "what was answered is stored, and nothing behind the refusal");
    let mut min_seq = outcome.answers[0].min_seq.clone();
    min_seq.extend(outcome.answers[1].min_seq.clone());
    let keys = ["eve", "nobody", "bob"].map(str::to_owned).to_vec();
    let ask = BatchGetRequest { keys, features: Vec::new(), min_seq, wait_ms: Some(10_000) };
    let outcome: Outcome<BatchGetResponse> = call(engine.port, "/keyloom.v1.Features/BatchGet", &[ask]);
    let results = &outcome.answers[0].results;
    let statuses: Vec<_> = results.iter().map(|result| result.status()).collect();
    assert_eq!(statuses, [Status::Found, Status::Unknown, Status::Found]);
    for (result, key) in [(&results[0], "eve"), (&results[2], "bob")] {
        let answer = result.answer.as_ref().expect("found");
        assert_eq!((answer.key.as_str(), counted(answer)), (key, json!(2)));
    }

    let nobody = get(&engine, &GetRequest { key: "nobody".into(), ..GetRequest::default() });
    assert_eq!((nobody.status, nobody.answers.len()), (NOT_FOUND, 0));
    let empty = send(&engine, Vec::new());
    assert_eq!((empty.status, empty.pushback), (INVALID_ARGUMENT, None), "trying again does not help");
    let unknown: Outcome<SendResponse> = call(engine.port, "/keyloom.v1.Nothing/Send", &[SendRequest::default()]);
    assert_eq!(unknown.status, UNIMPLEMENTED);
    assert_eq!(engine.drain(), 0, "{}", engine.process.output());
}

/// How long a call may take.
const CALL_MAX: Duration = Duration::from_secs(30);

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("memory takes everything")
}

/// What comes of a call with these bytes, and nothing behind them.
fn sent(line: &Line, path: &str, encoding: &str, bytes: &[u8]) -> Seen {
    let mut call = line.call(path, Some(encoding));
    call.send(bytes.to_vec().into());
    call.end();
    wait_for("the end of a call", CALL_MAX, || {
        let seen = call.seen();
        if seen.status.is_some() { Ok(seen) } else { Err(format!("{seen:?}")) }
    })
}

#[test]
fn messages_are_unpacked_within_the_limits_and_what_is_none_has_a_status() {
    let folder = folder();
    let mut engine = Engine::start(folder.path(), &Topology::default());
    let line = Line::open(engine.port);
    let packed = gzip(&SendRequest { events: vec![event("ada", 1)] }.encode_to_vec());
    let (bomb, long) = (gzip(&vec![0; 64 << 20]), [&[0][..], &(9u32 << 20).to_be_bytes(), b"{"].concat());
    let (whole, as_is) = (framed(true, &packed).to_vec(), framed(false, &[]).to_vec());
    for path in ["/keyloom.v1.Ingest/Send", "/keyloom.v1.Ingest/Stream", "/keyloom.v1.Features/Get"] {
        for (what, encoding, bytes, status) in [
            ("a bomb", "gzip", &framed(true, &bomb)[..], INVALID_ARGUMENT),
            ("no gzip", "gzip", &framed(true, b"nope"), INVALID_ARGUMENT),
            ("too long", "gzip", &long, INVALID_ARGUMENT),
            ("cut off", "gzip", &whole[..whole.len() - 1], INVALID_ARGUMENT),
            ("packed, it does not say how", "identity", &whole, INTERNAL),
            ("packed as nobody knows", "zstd", &whole, UNIMPLEMENTED),
            ("no message", "identity", b"\x07no message", INTERNAL),
        ] {
            let seen = sent(&line, path, encoding, bytes);
            assert_eq!((seen.status, seen.bytes), (Some(status), 0), "{path}: {what}: {seen:?}");
        }
    }
    // What anybody may call takes a few names: it does not wait for the rest of more.
    let list_services = framed(false, &[7 << 3 | 2, 0]);
    for (path, question) in [
        ("/grpc.health.v1.Health/Check", &as_is[..]),
        ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", &list_services),
        ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", &list_services),
    ] {
        let seen = sent(&line, path, "identity", question);
        assert!(seen.status == Some(OK) && seen.bytes > 5, "{path}: {seen:?}");
        let begun = line.call(path, None);
        begun.send(framed(false, &[0; (8 << 10) + 1]).slice(..5));
        wait_for("the end of a call", CALL_MAX, || begun.seen().status.ok_or_else(|| path.to_owned()));
    }
    let twice = [&whole[..], &whole].concat();
    assert_eq!(sent(&line, "/keyloom.v1.Ingest/Send", "gzip", &twice).status, Some(INTERNAL), "one message is enough");
    for (path, bytes) in [("/keyloom.v1.Ingest/Send", &whole), ("/keyloom.v1.Ingest/Stream", &twice)] {
        let seen = sent(&line, path, "gzip", bytes);
        assert!(seen.status == Some(OK) && seen.bytes > 5, "{path}: {seen:?}");
    }
    assert_eq!(sent(&line, "/keyloom.v1.Ingest/Stream", "gzip", &[]).status, Some(OK), "nothing is a stream too");
    assert_eq!(sent(&line, "/keyloom.v1.Ingest/Send", "gzip", &as_is).status, Some(INVALID_ARGUMENT), "no event");
    assert_eq!(engine.drain(), 0, "{}", engine.process.output());
}
