//! What happens to a reader of the log on NATS, and how long it takes until events are applied again once the server is
//! back; and a log that was wiped under the engine, which must stop it loudly.

use std::{process::Command, thread, time::Duration};

use async_nats::Client;
use bytes::Bytes;
use keyloom_tests::support::{
    engine::{DRAIN_MAX, Engine, Topology, folder},
    proxy::Mode,
    servers::Nats,
    tool, wait_for,
};
use serde_json::Value;

use super::{
    GO_ON_EVENTS, RECOVER_MAX,
    history::{History, Report, Servers, busy_topology},
    nats_link,
};

/// From the moment that server, link or consumer could serve again, until a new event can be read as a feature.
pub const RECOVERY_MAX: Duration = Duration::from_secs(5);
/// How long a probe is waited for: longer than the promise, so that the run says by how much it was broken. What a run
/// beside others is held to, because they take its processor and its disk away for seconds.
pub const PROBE_MAX: Duration = Duration::from_secs(60);
/// How long a link is cut, at least.
const LINK_CUT: Duration = Duration::from_secs(2);
const STREAM: &str = "raw_events";
/// What the engine says when a reader begins anew.
const ANEW: &str = "reading the log anew";
/// How long a server that is to end may take; in lame duck mode it sends its clients away first.
const SERVER_END_MAX: Duration = Duration::from_secs(60);

/// Everything that can happen to a reader, once for each of `outages`: so many seconds a server is away. Events are applied
/// again within `limit`.
pub fn reader_faults(outages: &[u64], limit: Duration, seed: u64) -> Report {
    let mut history = History::start("NATS, readers disturbed", seed, busy_topology(), |folder| {
        let mut servers = Servers::start(folder, seed, true, true);
        (servers.s3, servers.s3_link) = (None, None);
        servers
    });
    history.ledger.wait_stored(GO_ON_EVENTS, RECOVER_MAX);
    history.ledger.probe(PROBE_MAX); // makes the key
    for outage in outages.iter().copied().map(Duration::from_secs) {
        server_away(&mut history, limit, "nats killed", outage, |nats| nats.process.signal("KILL"));
        server_away(&mut history, limit, "nats ended by SIGTERM", outage, |nats| nats.process.signal("TERM"));
        server_away(&mut history, limit, "nats in lame duck mode", outage, |nats| {
            let signal = format!("ldm={}", nats.process.id());
            let told = Command::new(tool("KEYLOOM_NATS_SERVER")).args(["--signal", &signal]).status();
            assert!(told.is_ok_and(|status| status.success()), "nats-server --signal {signal}");
        });
        consumers_removed(&mut history, limit);
        history.disturb("link cut", nats_link, Mode::Refuse, LINK_CUT + outage);
        probe(&mut history, limit, "link cut");
        slow_link(&mut history, limit);
        history.audit();
        history.ledger.resume();
    }
    history.report()
}

fn probe(history: &mut History, limit: Duration, what: &'static str) {
    let took = history.ledger.probe(PROBE_MAX);
    history.took(what, took, limit);
    history.ledger.wait_stored(GO_ON_EVENTS, RECOVER_MAX);
}

/// `end` ends the server, which then stays away for a while.
fn server_away(history: &mut History, limit: Duration, what: &'static str, outage: Duration, end: impl FnOnce(&Nats)) {
    let before = times_anew(history);
    let nats = history.servers.nats();
    end(nats);
    nats.process.wait(SERVER_END_MAX);
    thread::sleep(outage); // how long the fault lasts; nothing is hoped for
    nats.restart();
    history.did(what);
    probe(history, limit, what);
    assert!(times_anew(history) > before, "{what}: no reader was disturbed");
}

/// As a person, or a server's housekeeping, would remove them: the engine is told by nobody but the server.
fn consumers_removed(history: &mut History, limit: Duration) {
    let before = times_anew(history);
    let url = history.servers.nats().url();
    let removed = with_client(&url, async |client| {
        let names = ask(&client, format!("CONSUMER.NAMES.{STREAM}")).await;
        let names = names["consumers"].as_array().expect("a list").clone();
        for name in &names {
            let name = name.as_str().expect("a name");
            ask(&client, format!("CONSUMER.DELETE.{STREAM}.{name}")).await;
        }
        names.len()
    });
    assert!(removed > 0, "the engine had no consumer");
    history.did("consumer removed");
    probe(history, limit, "consumer removed");
    assert!(times_anew(history) > before, "no reader was disturbed");
}

/// Events are applied while the link is slow, and after it.
fn slow_link(history: &mut History, limit: Duration) {
    nats_link(&history.servers).as_ref().expect("started with links").set(Mode::Slow(128 << 10));
    history.did("link slow");
    probe(history, limit, "link slow");
    nats_link(&history.servers).as_ref().expect("started with links").set(Mode::Pass);
    probe(history, limit, "link slow, and fast again");
}

fn times_anew(history: &History) -> usize {
    history.engine.process.stderr().matches(ANEW).count()
}

fn with_client<T>(url: &str, work: impl AsyncFnOnce(Client) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let client = async_nats::connect(url).await.unwrap_or_else(|e| panic!("{url}: {e}"));
        work(client).await
    })
}

/// A request as it goes over the wire: the server takes no body with a removal, and the library always sends one.
async fn ask(client: &Client, what: String) -> Value {
    let answer =
        client.request(format!("$JS.API.{what}"), Bytes::new()).await.unwrap_or_else(|e| panic!("{what}: {e}"));
    let answer: Value = serde_json::from_slice(&answer.payload).expect("JSON");
    assert!(answer["error"].is_null(), "{what}: {answer}");
    answer
}

// ---- a log that is not what it was ----------------------------------------------------------------------------------------

/// The checkpoint is ahead of a log that was wiped while the engine was down: it must not begin with it.
pub fn a_wiped_log_is_refused_at_start() {
    let (_folder, nats, mut engine) = engine_with_checkpoint();
    assert_eq!(engine.drain(), 0, "{}", engine.process.output());
    remove_stream(&nats);
    engine.launch_again();
    assert_eq!(engine.process.wait(RECOVER_MAX), 1, "{}", engine.process.output());
    let said = engine.process.stderr();
    assert!(said.contains("the log was wiped or truncated") && said.contains("Restore the log"), "{said}");
}

/// The same under a running engine: it ends with the reason instead of waiting for events that never come.
pub fn a_log_that_is_wiped_stops_the_engine() {
    let (_folder, nats, mut engine) = engine_with_checkpoint();
    remove_stream(&nats);
    assert_eq!(engine.process.wait(DRAIN_MAX), 1, "{}", engine.process.output());
    let said = engine.process.stderr();
    assert!(
        said.contains("the log is damaged: stream raw_events") && said.contains("does not exist any more"),
        "{said}"
    );
}

fn engine_with_checkpoint() -> (tempfile::TempDir, Nats, Engine) {
    let folder = folder();
    let nats = Nats::start(folder.path(), "");
    let engine = Engine::start(folder.path(), &Topology { nats: Some(nats.url()), ..busy_topology() });
    engine.post_events(r#"{"domain_userid":"ada","event_id":"1","event":"page_view"}"#);
    wait_for("a checkpoint", RECOVER_MAX, || {
        let status = keyloom_tests::support::http::get(engine.port, "/api/status").map_err(|e| e.to_string())?.json();
        let partition = &status["partitions"][0];
        if partition["checkpoint_cut"] == 1 && partition["tables_cursor"] == 1 {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
    (folder, nats, engine)
}

fn remove_stream(nats: &Nats) {
    with_client(&nats.url(), async |client| ask(&client, format!("STREAM.DELETE.{STREAM}")).await);
}
