//! gRPC from the outside: events in by one call and by a stream, features out that show them, refusals as statuses. Real
//! client packages are tried in `clients.rs`.

use keyloom_engine::grpc::proto::{
    BatchGetRequest, BatchGetResponse, Event, FeatureAnswer, GetRequest, SendRequest, SendResponse, result::Status,
};
use keyloom_tests::support::{
    engine::{Engine, Topology, folder},
    grpc::{Outcome, call},
};
use serde_json::{Value, json};

const OK: u32 = 0;
const INVALID_ARGUMENT: u32 = 3;
const NOT_FOUND: u32 = 5;
const UNIMPLEMENTED: u32 = 12;

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
