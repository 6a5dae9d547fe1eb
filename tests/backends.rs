//! Feature backends, end to end: what a Redis and a DynamoDB hold is what `GET /v1/features` says, through kills of the engine
//! and of the backend, and without any backend everything else goes on.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::Duration,
};

use bytes::Bytes;
use keyloom_actors::{
    backend::{BackendError, FeatureBackend, Mark, Outcome, Put, Version},
    key::Key,
    timestamp::Timestamp,
};
use keyloom_engine::backend::{RedisBackend, RedisOptions};
use keyloom_tests::support::{
    certificates,
    engine::{Engine, Topology, binary, folder},
    homes::{dynamo_answer, redis_answer},
    http,
    servers::{Dynamo, Nats, Redis, free_port},
    skipped, wait_for,
};
use serde_json::{Value, json};

/// Longest wait until a backend has everything: a start, a walk through the store, and a look at the backend every 10 s.
const PATIENCE: Duration = Duration::from_secs(90);
const USERS: u64 = 300;

fn events(first: u64, count: u64) -> String {
    let event = |id: u64| {
        let user = id % USERS;
        json!({ "domain_userid": format!("user {user}"), "event_id": id.to_string(), "event": "page_view", "page_url": format!("/{id}") })
            .to_string()
    };
    (first..first + count).map(event).collect::<Vec<_>>().join("\n")
}

fn on_redis(redis: &Redis) -> Topology {
    let more = format!("[backend]\nkind = \"redis\"\nurl = \"{}\"\nprefix = \"f:\"\n", redis.url());
    Topology { partitions: 2, more, ..Topology::default() }
}

/// Waits until what `read` finds of every user is what the engine says.
fn wait_equal(engine: &Engine, read: impl Fn(&str) -> Option<Value>) {
    let users: BTreeSet<String> = (0..USERS).map(|user| format!("user {user}")).collect();
    wait_for("the backend to have what the engine says", PATIENCE, || {
        let lacks = users.iter().find_map(|user| {
            let (said, found) = (said(engine, user), read(user));
            (said.is_none() || found != said).then(|| format!("{user}: {found:?} instead of {said:?}"))
        });
        lacks.map_or(Ok(()), Err)
    });
}

fn backend_metric(engine: &Engine, name: &str) -> f64 {
    engine.metrics().sum(name, &[]).unwrap_or_default()
}

/// Sends while `goes_on`, whatever becomes of the engine; every event until the engine has it.
fn send_while(port: u16, goes_on: &AtomicBool, next: &AtomicU64) {
    while goes_on.load(Relaxed) {
        let body = events(next.load(Relaxed), 20);
        match http::post(port, "/v1/events", "application/x-ndjson", body.as_bytes()) {
            Ok(answer) if answer.status == 200 => drop(next.fetch_add(20, Relaxed)),
            _ => thread::sleep(Duration::from_millis(10)),
        }
    }
}

#[test]
fn a_redis_has_what_the_engine_says_through_kills_of_both() {
    if skipped("redis") {
        return;
    }
    let folder = folder();
    let mut redis = Redis::start(folder.path(), &[]);
    let mut engine = Engine::start(folder.path(), &on_redis(&redis));
    engine.post_events(&events(0, 3_000));
    engine.wait_settled(3_000, 0);
    wait_equal(&engine, |user| redis_answer(&redis, &format!("f:{user}")));
    // Kills under load: of the engine, of a Redis that then has nothing any more, of both.
    let (goes_on, next) = (AtomicBool::new(true), AtomicU64::new(3_000));
    thread::scope(|scope| {
        let (port, goes_on, next) = (engine.port, &goes_on, &next);
        scope.spawn(move || send_while(port, goes_on, next));
        for round in 0..6 {
            let reached = next.load(Relaxed) + 500;
            wait_for("events to be taken", PATIENCE, || {
                let sent = next.load(Relaxed);
                if sent >= reached { Ok(()) } else { Err(format!("{sent} of {reached}")) }
            });
            if round % 3 != 0 {
                redis.process.kill();
            }
            if round % 3 != 1 {
                engine.process.kill();
                engine.restart();
            }
            if round % 3 != 0 {
                redis.restart();
            }
        }
        goes_on.store(false, Relaxed);
    });
    engine.wait_settled(next.load(Relaxed), 0);
    wait_equal(&engine, |user| redis_answer(&redis, &format!("f:{user}")));
    // A Redis that loses everything while nothing happens is noticed as well.
    redis.process.kill();
    redis.restart();
    wait_equal(&engine, |user| redis_answer(&redis, &format!("f:{user}")));
    assert!(backend_metric(&engine, "keyloom_backend_resyncs_total") >= 2.0);
    wait_for("nothing to wait", PATIENCE, || {
        let lag = backend_metric(&engine, "keyloom_backend_lag_seconds");
        let keys = backend_metric(&engine, "keyloom_backend_waiting_keys");
        if lag == 0.0 && keys == 0.0 { Ok(()) } else { Err(format!("{keys} keys, {lag} s")) }
    });
    // After an orderly end nothing has to be put again.
    assert_eq!(engine.drain(), 0);
    engine.restart();
    engine.post_events(&events(1_000_000, USERS));
    wait_equal(&engine, |user| redis_answer(&redis, &format!("f:{user}")));
    assert_eq!(backend_metric(&engine, "keyloom_backend_resyncs_total"), 0.0);
}

#[test]
fn a_redis_behind_tls_and_a_password_is_known_by_its_certificate() {
    if skipped("redis") {
        return;
    }
    let folder = folder();
    certificates::make(folder.path());
    let port = free_port().to_string();
    let tls = "--tls-cert-file server.pem --tls-key-file server.key --tls-ca-cert-file ca.pem --tls-auth-clients no";
    let mut words = vec!["--tls-port", &port];
    words.extend(tls.split(' '));
    let redis = Redis::start(folder.path(), &words);
    redis.ask(&["ACL", "SETUSER", "keyloom", "on", ">hunter2", "allkeys", "+@all"]);
    redis.ask(&["ACL", "SETUSER", "default", "-@all", "+get"]); // what this test reads
    let topology = |ca: &str| {
        let user = "user = \"keyloom\"\npassword = { file = \"secret\" }\nprefix = \"f:\"";
        let more = format!("[backend]\nkind = \"redis\"\nurl = \"rediss://127.0.0.1:{port}\"\n{ca}{user}\n");
        Topology { partitions: 2, more, ..Topology::default() }
    };
    let secret = folder.path().join("secret");
    fs::write(&secret, "hunter2\n").expect("writable");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("ours");
    // The system vouches for no test's authority: nothing is put there.
    let mut engine = Engine::start(folder.path(), &topology(""));
    engine.post_events(&events(0, USERS));
    wait_for("the certificate to be refused", PATIENCE, || {
        let said = engine.process.output();
        if said.contains("invalid peer certificate") { Ok(()) } else { Err(said) }
    });
    assert_eq!(redis_answer(&redis, "f:user 1"), None);
    assert_eq!(engine.drain(), 0);
    let engine = Engine::start(folder.path(), &topology("ca = \"ca.pem\"\n"));
    engine.wait_settled(USERS, 0);
    wait_equal(&engine, |user| redis_answer(&redis, &format!("f:{user}")));
    assert!(!engine.process.output().contains("hunter2"));
    drop(engine);
    // A file that is no certificate is refused before anything runs.
    let mut wrong = Engine::launch(&binary("keyloom"), folder.path(), &topology("ca = \"server.key\"\n"));
    wait_for("the engine to end", PATIENCE, || wrong.process.ended().map(|_| ()).ok_or_else(|| wrong.process.output()));
    assert!(wrong.process.output().contains("server.key holds no certificate in PEM"), "{}", wrong.process.output());
}

#[test]
fn what_a_former_owner_still_writes_changes_nothing() {
    if skipped("redis") {
        return;
    }
    let folder = folder();
    let redis = Redis::start(folder.path(), &[]);
    let engine = Engine::start(folder.path(), &Topology { partitions: 1, ..on_redis(&redis) });
    engine.post_events(&events(0, 2 * USERS));
    engine.wait_settled(2 * USERS, 0);
    wait_equal(&engine, |user| redis_answer(&redis, &format!("f:{user}")));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let prefix = "f:".to_owned();
    let zombie = RedisBackend::new(&RedisOptions { url: redis.url(), prefix, ..RedisOptions::default() });
    let zombie = zombie.expect("a client");
    let mark = runtime.block_on(zombie.mark(0)).expect("an answer").expect("a mark");
    let text = redis.ask(&["GET", "f:user 1"]).pop().flatten().expect("an answer");
    let answer: Value = serde_json::from_str(&text).expect("JSON");
    let version = Version::from_text(answer["version"].as_str().expect("a version")).expect("a version");
    let stale = Put {
        key: Key::new("user 1").expect("a key"),
        version: Version { seq: version.seq - 1, ..version },
        event_time: Timestamp(0),
        answer: Bytes::from_static(b"{\"stale\":true}"),
    };
    // Late, it finds another mark; and even with the right one it cannot go back.
    let put = |from, to| runtime.block_on(zombie.put(0, std::slice::from_ref(&stale), from, to));
    assert_eq!(put(None, Mark { epoch: 0, ..mark }), Err(BackendError::Moved));
    let raced = put(Some(mark), Mark { epoch: 0, ..mark });
    assert!(
        matches!(&raced, Ok(outcomes) if outcomes[..] == [Outcome::Older(version)])
            || raced == Err(BackendError::Moved),
        "{raced:?}"
    );
    engine.post_events(&events(10_000, USERS));
    wait_equal(&engine, |user| redis_answer(&redis, &format!("f:{user}")));
}

#[test]
fn without_its_backend_everything_else_goes_on() {
    let folder = folder();
    let more = format!("[backend]\nurl = \"redis://127.0.0.1:{}\"\n", free_port());
    let mut engine = Engine::start(folder.path(), &Topology { more, ..Topology::default() });
    engine.post_events(&events(0, 3_000));
    engine.wait_settled(3_000, 3_000);
    let answer = engine.features("user 7").expect("features");
    assert_eq!(answer["features"]["event_count"], 10);
    let checkpoints = backend_metric(&engine, "keyloom_checkpoints_total");
    engine.post_events(&events(3_000, USERS));
    wait_for("a checkpoint and a lag that says what is wrong", PATIENCE, || {
        let (more, lag) = (
            backend_metric(&engine, "keyloom_checkpoints_total"),
            backend_metric(&engine, "keyloom_backend_lag_seconds"),
        );
        let waiting = backend_metric(&engine, "keyloom_backend_waiting_keys");
        if more > checkpoints && lag > 1.0 && waiting == USERS as f64 {
            Ok(())
        } else {
            Err(format!("{more} checkpoints, {lag} s behind, {waiting} keys wait"))
        }
    });
    assert_eq!(engine.drain(), 0, "an orderly end does not wait for what is not there");
}

#[test]
fn a_dynamodb_has_what_the_engine_says_through_a_kill_and_another_table() {
    let folder = folder();
    let nats = Nats::start(folder.path(), "");
    let dynamo = Dynamo::start(folder.path(), &["features"]);
    let mut engine = Engine::start(folder.path(), &on_dynamodb(&dynamo, &nats));
    let read = |user: &str| dynamo_answer(&dynamo, user);
    engine.post_events(&events(0, USERS * 3));
    engine.wait_settled(USERS * 3, 0);
    wait_equal(&engine, |user| read(&format!("keyloom:{user}")));
    engine.post_events(&events(10_000, USERS));
    engine.process.kill();
    engine.restart();
    engine.wait_settled(USERS * 4, 0);
    wait_equal(&engine, |user| read(&format!("keyloom:{user}")));
    dynamo.ask("DeleteTable", &json!({ "TableName": "features" }));
    dynamo.create("features");
    wait_equal(&engine, |user| read(&format!("keyloom:{user}")));
}

fn on_dynamodb(dynamo: &Dynamo, nats: &Nats) -> Topology {
    let more = format!("[backend]\nkind = \"dynamodb\"\ntable = \"features\"\nendpoint = \"{}\"\n", dynamo.url());
    Topology { nats: Some(nats.url()), more, ..Topology::default() }
}

#[test]
fn a_redis_that_refuses_says_why_and_a_foreign_value_is_left_alone() {
    if skipped("redis") {
        return;
    }
    let folder = folder();
    let redis = Redis::start(folder.path(), &[]);
    redis.ask(&["SET", "f:user 1", "somebody else's"]);
    redis.ask(&["LPUSH", "f:user 2", "a list"]);
    let engine = Engine::start(folder.path(), &on_redis(&redis));
    engine.post_events(&events(0, USERS));
    let others = |user: &str| matches!(user, "user 1" | "user 2");
    wait_equal(
        &engine,
        |user| if others(user) { said(&engine, user) } else { redis_answer(&redis, &format!("f:{user}")) },
    );
    assert_eq!(redis.ask(&["GET", "f:user 1"]), [Some("somebody else's".to_owned())]);
    assert_eq!(redis.ask(&["LRANGE", "f:user 2", "0", "-1"]), [Some("a list".to_owned())]);
    check_password(folder.path());
}

fn said(engine: &Engine, user: &str) -> Option<Value> {
    let mut answer = engine.features(user)?;
    // What is true of the moment of reading only.
    answer.as_object_mut()?.retain(|name, _| !["as_of", "age", "lag", "stale"].contains(&name.as_str()));
    Some(answer)
}

fn check_password(folder: &Path) {
    let redis = Redis::start(folder, &["--requirepass", "hunter2"]);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let with = |password: Option<&str>| {
        let password = password.map(str::to_owned);
        let options = RedisOptions { url: redis.url(), password, prefix: "f:".to_owned(), ..RedisOptions::default() };
        runtime.block_on(RedisBackend::new(&options).expect("a client").mark(0))
    };
    assert_eq!(with(Some("hunter2")), Ok(None));
    for wrong in [None, Some("wrong")] {
        let refused = with(wrong);
        assert!(matches!(&refused, Err(BackendError::Refused(text)) if text.contains("[backend]")), "{refused:?}");
        assert!(!format!("{refused:?}").contains("wrong\""), "{refused:?}");
    }
}
