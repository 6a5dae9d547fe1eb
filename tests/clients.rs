//! Client packages as their makers publish them, each against an engine of its own: what arrives in raw_events is compared
//! field by field with a golden file. Every client's clock stands still years ago, so that all its times are known, and the
//! golden files show what became of them.
//!
//! A golden file is made by `KEYLOOM_BLESS=1` and then read by a person, against what the client's makers say of each field;
//! `docs/EVENTS.md` says where it has to go. Not here: malformed requests, which these clients do not send.

use std::{collections::BTreeMap, time::Duration};

use keyloom_tests::support::{
    clients::{self, Client},
    engine::{Engine, SETTLE_MAX, Topology, folder},
    golden, oracle,
    proxy::{Mode, Proxy},
    wait_for,
};
use serde_json::Value;

/// Where the clients say who it is: the visitor, else the known user, else the subject of a CloudEvent, else the session.
const KEY: &str = r#""domain_userid", "user_id", "subject", "session_id""#;
/// How long a client may take until it has sent something and waits for the answer.
const FIRST_ANSWER_MAX: Duration = Duration::from_secs(30);
/// Answers that get lost before a client gets through.
const LOST: u64 = 1;

#[test]
fn snowplow_for_python() {
    arrives(Client::python("snowplow_python"));
}

#[test]
fn snowplow_for_node() {
    arrives(Client::node("snowplow_node"));
}

#[test]
fn snowplow_for_browsers() {
    arrives(Client::node("snowplow_browser"));
}

#[test]
fn segment_for_python() {
    arrives(Client::python("segment_python"));
}

#[test]
fn segment_for_node() {
    arrives(Client::node("segment_node"));
}

#[test]
fn rudderstack_for_python() {
    arrives(Client::python("rudder_python"));
}

#[test]
fn rudderstack_for_node() {
    arrives(Client::node("rudder_node"));
}

#[test]
fn cloudevents_for_python() {
    arrives(Client::python("cloudevents_python"));
}

#[test]
fn cloudevents_for_node() {
    arrives(Client::node("cloudevents_node"));
}

/// All that the client sent is in the table as the golden file says, and counts once.
fn arrives(client: impl Into<Option<Client>>) {
    let Some(client) = client.into() else { return };
    let folder = folder();
    let engine = Engine::start(folder.path(), &Topology { key: KEY.to_owned(), ..Topology::default() });
    let sent = client.send(engine.port, folder.path());
    let metrics = engine.wait_settled(sent, sent);
    let outcome = |name| metrics.count("keyloom_events_total", &[("outcome", name)]);
    assert_eq!((outcome("applied"), outcome("duplicate"), outcome("dead_lettered")), (sent, 0, 0));
    let rows = rows(&engine, client);
    golden::check(&clients::scripts().join(format!("golden/{}.json", client.name)), &rows);
    features_count(&engine, &rows);
}

/// What the table holds, without what differs from run to run.
fn rows(engine: &Engine, client: Client) -> Value {
    let mut command = oracle::script(engine, "tests/client_rows.py");
    let output = command.arg("--script").arg(client.script()).output();
    let output = output.unwrap_or_else(|e| panic!("cannot read the table: {e}"));
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "the table of {} is not as it must be\n{stdout}{stderr}", client.name);
    serde_json::from_str(&stdout).unwrap_or_else(|e| panic!("{e}: {stdout}{stderr}"))
}

/// Each key's features are readable and count its rows. A key that the client drew is not known here any more.
fn features_count(engine: &Engine, rows: &Value) {
    let mut counts = BTreeMap::<&str, u64>::new();
    for row in rows.as_array().expect("an array of rows") {
        *counts.entry(row["key"].as_str().expect("every row has a key")).or_default() += 1;
    }
    for (key, count) in counts.into_iter().filter(|(key, _)| !key.starts_with("<uuid")) {
        let answer = engine.features(key).unwrap_or_else(|| panic!("no features of {key}"));
        assert_eq!(answer["features"]["event_count"], count, "{key}: {answer}");
    }
}

/// A client whose answer is lost sends the same once more: nothing counts twice, and the client is content.
fn retries_are_absorbed(client: impl Into<Option<Client>>) {
    let Some(client) = client.into() else { return };
    let folder = folder();
    let engine = Engine::start(folder.path(), &Topology { key: KEY.to_owned(), ..Topology::default() });
    let proxy = Proxy::http(engine.port, 7);
    proxy.set(Mode::LoseAnswers(100));
    let mut process = client.start(proxy.port(), folder.path());
    wait_for("the loss of an answer", FIRST_ANSWER_MAX, || {
        let cut = proxy.done().cut;
        if cut >= LOST { Ok(()) } else { Err(format!("{cut} answers lost\n{}", process.output())) }
    });
    proxy.set(Mode::Pass);
    let sent = client.finish(&mut process);
    engine.wait_settled(sent, sent);
    let rows = rows(&engine, client);
    assert_eq!(rows.as_array().map(Vec::len), usize::try_from(sent).ok(), "rows of {}", client.name);
    features_count(&engine, &rows);
    wait_for("the repeats to be counted", SETTLE_MAX, || {
        let absorbed = engine.metrics().count("keyloom_ingest_duplicates_total", &[]);
        if absorbed > 0 { Ok(()) } else { Err("none".to_owned()) }
    });
}

#[test]
fn a_lost_answer_to_segment_for_python() {
    retries_are_absorbed(Client::python("segment_python"));
}

#[test]
fn a_lost_answer_to_segment_for_node() {
    retries_are_absorbed(Client::node("segment_node"));
}

#[test]
fn a_lost_answer_to_rudderstack_for_python() {
    retries_are_absorbed(Client::python("rudder_python"));
}

#[test]
fn a_lost_answer_to_rudderstack_for_node() {
    retries_are_absorbed(Client::node("rudder_node"));
}
