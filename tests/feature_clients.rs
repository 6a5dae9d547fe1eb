//! Clients that read features, as their makers publish them: Feast with the engine as its remote online store, and gRPC with a
//! Python client that is generated from the published proto file. What they see is compared with golden files.

use std::{fs, path::Path, time::Duration};

use keyloom_actors::timestamp::{Clock, SECOND, SystemClock, Timestamp};
use keyloom_tests::support::{
    clients,
    engine::{Engine, Topology, folder},
    golden,
    process::Process,
    workspace,
};
use serde_json::{Value, json};

/// How long a reader may take; Feast imports for seconds.
const READER_MAX: Duration = Duration::from_secs(120);

/// Features of every form that an answer can have.
const FEATURES: &str = r#"
[features]
fields = { price = "number", product = "text", coupon = "text" }
[feature.views]
function = "count"
where = "event == 'page_view'"
[feature.revenue]
function = "sum"
of = "price"
[feature.average_price]
function = "avg"
of = "price"
[feature.prices]
function = "last_k"
of = "price"
k = 5
[feature.recent_products]
function = "last_distinct_k"
of = "product"
k = 5
[feature.top_products]
function = "top_k"
of = "product"
k = 2
[feature.coupon]
function = "last"
of = "coupon"
ttl = "1h"
"#;

fn topology() -> Topology {
    Topology { more: FEATURES.to_owned(), ..Topology::default() }
}

/// Ada has something of everything, and a coupon that is too old; Bob was seen once and bought nothing.
fn events() -> Vec<Value> {
    let ago = |hours: i64| Timestamp(SystemClock.now().0 - hours * 3_600 * SECOND).to_rfc3339();
    let ada = |id: &str, hours: i64, event: &str, more: Value| {
        let mut event = json!({
            "domain_userid": "ada", "event_id": id, "event": event, "collector_tstamp": ago(hours), "page_url": "/shoes",
        });
        event.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        event
    };
    vec![
        ada("a1", 3, "page_view", json!({"product": "SH-1"})),
        ada("a2", 2, "order", json!({"product": "SH-1", "price": 59.9, "coupon": "SPRING"})),
        ada("a3", 1, "order", json!({"product": "SH-2", "price": 60, "page_url": "/basket"})),
        json!({"domain_userid": "bob", "event_id": "b1", "event": "page_view", "collector_tstamp": ago(1)}),
    ]
}

fn start(folder: &Path) -> Engine {
    let engine = Engine::start(folder, &topology());
    let events = events();
    let lines: String = events.iter().map(|event| event.to_string() + "\n").collect();
    engine.post_events(&lines);
    engine.wait_settled(events.len() as u64, events.len() as u64);
    engine
}

#[test]
fn feast() {
    let folder = folder();
    let engine = start(folder.path());
    let project = folder.path().join("project");
    fs::create_dir(&project).expect("the test's folder is writable");
    for name in ["features.py", "feature_store.yaml"] {
        fs::copy(clients::scripts().join("feast").join(name), project.join(name))
            .expect("the test's folder is writable");
    }
    let mut command = clients::python("KEYLOOM_FEAST_PYTHON", &clients::scripts().join("feast_reader.py"));
    command.arg(format!("http://127.0.0.1:{}", engine.port)).current_dir(&project).env("PYTHONPATH", &project);
    let mut process = Process::start("feast", folder.path(), &mut command);
    assert_eq!(process.wait(READER_MAX), 0, "{}", process.output());
    let answers: Value =
        serde_json::from_str(&process.stdout()).unwrap_or_else(|e| panic!("{e}: {}", process.output()));
    golden::check(&clients::scripts().join("golden/feast.json"), &answers);
}

#[test]
fn grpc_for_python() {
    let folder = folder();
    let engine = Engine::start(folder.path(), &topology());
    let mut command = clients::python("KEYLOOM_CLIENTS_PYTHON", &clients::scripts().join("grpc_python.py"));
    command.arg(format!("http://127.0.0.1:{}", engine.port)).arg(workspace().join("proto")).current_dir(folder.path());
    let mut process = Process::start("grpc", folder.path(), &mut command);
    assert_eq!(process.wait(READER_MAX), 0, "{}", process.output());
    let answers: Value =
        serde_json::from_str(&process.stdout()).unwrap_or_else(|e| panic!("{e}: {}", process.output()));
    golden::check(&clients::scripts().join("golden/grpc_python.json"), &answers);
}
