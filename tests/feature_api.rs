//! The feature API from the outside: many keys at once, readers that see what they wrote, Feast's question, what is served
//! while a dependency is away, and a description that is true.

use std::{thread, time::Duration};

use keyloom_tests::support::{
    engine::{Engine, Topology, folder},
    grpc, http,
    servers::Nats,
    wait_for,
};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);

fn event(key: &str, n: u32) -> String {
    format!(r#"{{"domain_userid":"{key}","event_id":"{key}-{n}","event":"page_view","page_url":"/{n}"}}"#)
}

/// Sends events and answers with where they are.
fn write(engine: &Engine, events: &[String]) -> Value {
    let answer = http::post(engine.port, "/v1/events?seq=true", "application/x-ndjson", events.join("\n").as_bytes());
    answer.expect("an answer").json()
}

fn ask(engine: &Engine, path: &str, question: &Value) -> (u16, Value) {
    let answer = http::post(engine.port, path, "application/json", question.to_string().as_bytes());
    let answer = answer.expect("an answer");
    (answer.status, answer.json())
}

fn get(engine: &Engine, path: &str) -> (u16, Value) {
    let answer = http::get(engine.port, path).expect("an answer");
    (answer.status, answer.json())
}

#[test]
fn readers_see_what_they_wrote() {
    let folder = folder();
    let mut engine = Engine::start(folder.path(), &Topology { partitions: 2, ..Topology::default() });
    thread::scope(|scope| {
        for writer in 0..4 {
            let engine = &engine;
            scope.spawn(move || {
                let key = format!("w{writer}");
                for n in 1..=25 {
                    let written = write(engine, &[event(&key, n)]);
                    let seq = &written["seq"]["seq"];
                    let (status, answer) = get(engine, &format!("/v1/features/{key}?min_seq={seq}&wait=10s"));
                    assert_eq!((status, &answer["behind"]), (200, &Value::Null), "{answer}");
                    assert_eq!(answer["features"]["event_count"], n, "the first look shows it");
                }
            });
        }
    });
    // All keys of a request at once, and one of which nothing more comes.
    let keys: Vec<_> = (0..40).map(|n| format!("k{n}")).collect();
    let written = write(&engine, &keys.iter().map(|key| event(key, 1)).collect::<Vec<_>>());
    let asked: Vec<_> = keys.iter().map(String::as_str).chain(["w0", "nobody"]).collect();
    let question = json!({"keys": asked, "features": ["event_count"], "min_seq": written["min_seq"], "wait": "10s"});
    let (status, answer) = ask(&engine, "/v1/features", &question);
    assert_eq!(status, 200, "{answer}");
    for (place, key) in keys.iter().enumerate() {
        assert_eq!((&answer["statuses"][place], &answer["results"][place]["key"]), (&json!("found"), &json!(key)));
        assert_eq!(answer["results"][place]["features"], json!({"event_count": 1}));
    }
    assert_eq!(answer["results"][40]["features"], json!({"event_count": 25}));
    assert_eq!((&answer["results"][41], &answer["statuses"][41]), (&Value::Null, &json!("unknown")));
    // What never comes is not waited for longer than the reader wants.
    let (status, answer) = get(&engine, "/v1/features/w0?min_seq=1000000&wait=200ms");
    assert_eq!((status, &answer["behind"], &answer["features"]["event_count"]), (200, &json!(true), &json!(25)));
    assert_eq!(engine.drain(), 0, "{}", engine.process.output());
}

#[test]
fn many_keys_are_read_at_once_wherever_they_are() {
    let folder = folder();
    let more = "[feature.cart]\nfunction = \"last\"\nof = \"page_url\"\nttl = \"1s\"\n".to_owned();
    let sessions = "resident_max = 10".to_owned();
    let topology = Topology { sessions, more, partitions: 2, ..Topology::default() };
    let mut engine = Engine::start(folder.path(), &topology);
    let keys: Vec<_> = (0..60).map(|n| format!("key \"{n}\"")).collect();
    let escaped = |key: &str| key.replace('"', "\\\"");
    let events: Vec<_> = keys.iter().map(|key| event(&escaped(key), 7)).collect();
    let written = write(&engine, &events);
    assert_eq!(written["accepted"], 60, "{written}");
    let question = json!({"keys": keys, "min_seq": written["min_seq"], "wait": "10s"});
    let (status, answer) = ask(&engine, "/v1/features", &question);
    assert_eq!((status, answer["results"].as_array().map(Vec::len)), (200, Some(60)));
    for (place, key) in keys.iter().enumerate() {
        let of_key = &answer["results"][place];
        assert_eq!((&of_key["key"], &of_key["features"]["event_count"]), (&json!(key), &json!(1)));
        assert_eq!(of_key["features"]["last_page"], "/7");
        assert!(of_key["age"].as_f64().is_some_and(|age| age >= 0.0) && of_key["lag"]["events"].is_u64(), "{of_key}");
    }
    // The same as Feast asks; a value that is too old says so.
    let entities: Vec<_> = keys.iter().take(3).map(String::as_str).chain(["nobody"]).collect();
    let features = ["users:event_count", "users:cart", "users:nothing"];
    let question = json!({"features": features, "entities": {"domain_userid": entities}, "full_feature_names": true});
    let answer = wait_for("the cart to be too old", PATIENCE, || {
        let (status, answer) = ask(&engine, "/get-online-features", &question);
        assert_eq!(status, 200, "{answer}");
        if answer["results"][2]["statuses"][0] == "OUTSIDE_MAX_AGE" { Ok(answer) } else { Err(answer.to_string()) }
    });
    let names = json!(["domain_userid", "users__event_count", "users__cart", "users__nothing"]);
    assert_eq!(answer["metadata"]["feature_names"], names);
    assert_eq!(answer["results"][0]["values"], json!(entities));
    assert_eq!(answer["results"][1]["values"], json!([1, 1, 1, null]));
    assert_eq!(answer["results"][1]["statuses"], json!(["PRESENT", "PRESENT", "PRESENT", "NOT_FOUND"]));
    assert_eq!(answer["results"][2]["values"], json!([null, null, null, null]));
    assert_eq!(answer["results"][3]["statuses"], json!(["NOT_FOUND", "NOT_FOUND", "NOT_FOUND", "NOT_FOUND"]));
    let metrics = engine.metrics();
    assert!(metrics.count("keyloom_feature_keys_total", &[("status", "found")]) >= 60);
    assert_eq!(engine.drain(), 0, "{}", engine.process.output());
}

#[test]
fn without_its_broker_what_is_in_memory_is_served_as_stale() {
    let folder = folder();
    let mut nats = Nats::start(folder.path(), "");
    let topology = Topology { nats: Some(nats.url()), ..Topology::default() };
    let engine = Engine::start(folder.path(), &topology);
    let written = write(&engine, &[event("ada", 1)]);
    let (status, answer) = get(&engine, &format!("/v1/features/ada?min_seq={}&wait=10s", written["seq"]["seq"]));
    assert_eq!((status, &answer["stale"]), (200, &Value::Null), "{answer}");
    let served = || ["", "keyloom.v1.Features", "keyloom.v1.Ingest"].map(|service| is_served(&engine, service));
    assert_eq!((served(), get(&engine, "/readyz/ingest").0), ([true; 3], 200));
    nats.process.kill();
    let answer = wait_for("the engine to notice", PATIENCE, || {
        let (status, answer) = get(&engine, "/v1/features/ada");
        assert_eq!(status, 200, "{answer}");
        if answer["stale"] == true { Ok(answer) } else { Err(answer.to_string()) }
    });
    assert_eq!(answer["features"]["event_count"], 1);
    let (status, answer) = get(&engine, "/v1/features/somebody%20else");
    assert_eq!(status, 503, "{answer}");
    // A balancer goes on sending readers, and sends events elsewhere.
    let (status, answer) = get(&engine, "/readyz");
    assert_eq!((status, &answer["checks"][1]["troubles"][0]), (200, &json!("the log does not answer")), "{answer}");
    let answer = wait_for("events to be unwelcome", PATIENCE, || match get(&engine, "/readyz/ingest") {
        (503, answer) => Ok(answer),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(answer["checks"][1]["reason"], "the log does not answer", "{answer}");
    wait_for("gRPC to say so", PATIENCE, || match served() {
        [true, true, false] => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(get(&engine, "/api/status").1["partitions"][0]["log_away"], true);
    assert_eq!(engine.metrics().count("keyloom_log_away", &[]), 1);
    nats.restart();
    wait_for("it to be fresh again", PATIENCE, || {
        let (status, answer) = get(&engine, "/v1/features/ada");
        if (status, &answer["stale"]) == (200, &Value::Null) { Ok(()) } else { Err(answer.to_string()) }
    });
    wait_for("events to be welcome again", PATIENCE, || match (served(), get(&engine, "/readyz/ingest")) {
        ([true, true, true], (200, _)) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(engine.metrics().count("keyloom_log_away", &[]), 0);
}

/// A message of gRPC's health with the name of a service.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// And what is said of it: 1 is serving, 2 is not.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

fn is_served(engine: &Engine, service: &str) -> bool {
    let request = HealthRequest { service: service.to_owned() };
    let said: grpc::Outcome<HealthResponse> = grpc::call(engine.port, "/grpc.health.v1.Health/Check", &[request]);
    assert_eq!(said.status, 0, "{service}: {said:?}");
    said.answers[0].status == 1
}

#[test]
fn the_description_names_what_is_there_and_errors_are_json() {
    let folder = folder();
    let mut engine = Engine::start(folder.path(), &Topology::default());
    let (status, description) = get(&engine, "/openapi.json");
    assert_eq!(status, 200);
    for (path, operations) in description["paths"].as_object().expect("paths") {
        let place = path.replace("{key}", "k").replace("{partition}", "0").replace("{seq}", "1");
        for method in operations.as_object().expect("operations").keys() {
            let answer = http::request(engine.port, &method.to_uppercase(), &place, &[], b"").expect("an answer");
            assert_ne!(answer.status, 405, "{method} {path}");
            assert!(!answer.body.contains("there is nothing at"), "{method} {path}");
            let described = &operations[method]["responses"][answer.status.to_string()];
            assert!(described.is_object(), "{method} {path} answers {}: {}", answer.status, answer.body);
        }
    }
    for (method, path, expected) in [
        ("GET", "/nothing/here", 404),
        ("DELETE", "/v1/features/k", 405),
        ("PUT", "/get-online-features", 405),
        ("GET", "/v1/events", 405),
        ("GET", "/v1/features/%ff", 400),
    ] {
        let answer = http::request(engine.port, method, path, &[], b"").expect("an answer");
        assert_eq!(answer.status, expected, "{method} {path}");
        let body = answer.json();
        assert!(body["error"].is_string() && body["hint"].is_string(), "{method} {path}: {body}");
        assert_eq!(answer.header("allow").is_some(), expected == 405, "{method} {path}");
    }
    assert_eq!(engine.drain(), 0, "{}", engine.process.output());
}
