//! What is wrong stays harmless and is named: bad events among good ones, bad configuration, servers that are not there
//! or do not let us in.

use std::{fmt::Write as _, fs, net::TcpListener, time::Duration};

use keyloom_tests::support::{
    engine::{Engine, READY_MAX, S3Lake, Topology, binary, folder, keyloom},
    http, oracle,
    servers::{Nats, S3, free_port},
    wait_for,
};

/// How long an engine may try before it gives up on a server that is missing from the start.
const REFUSE_MAX: Duration = Duration::from_secs(90);
/// How long an engine that has not started may take to end: less than it waits for a server.
const END_MAX: Duration = Duration::from_secs(10);
/// Larger than any event may be.
const HUGE: usize = 10 * 1024 * 1024;

fn event(user: &str, n: u32) -> String {
    format!(
        r#"{{"domain_userid":"{user}","event_id":"{user}-{n}","event":"page_view","page_url":"/{n}","collector_tstamp":"2025-06-02T08:00:{n:02}Z"}}"#
    )
}

fn huge_event() -> String {
    format!(
        r#"{{"domain_userid":"huge","event_id":"h","collector_tstamp":"2025-06-02T08:00:00Z","x":"{}"}}"#,
        "y".repeat(HUGE)
    )
}

#[test]
fn the_front_door_takes_the_good_ones_and_names_the_others() {
    let folder = folder();
    let engine = Engine::start(folder.path(), &Topology::default());
    let lines = [
        event("a", 1),
        "{broken".to_owned(),
        r#"{"event":"page_view"}"#.to_owned(),
        event("b", 1),
        r#"{"domain_userid":17}"#.to_owned(),
        r#"["an","array"]"#.to_owned(),
        // Wrong types in fields that are not the key: kept, and counted under no type.
        r#"{"domain_userid":"b","event_id":"b-2","event":{"no":1},"page_url":[],"collector_tstamp":false}"#.to_owned(),
        format!(r#"{{"domain_userid":"{}"}}"#, "k".repeat(513)),
    ];
    let answer = engine.post_events(&lines.join("\n"));
    assert_eq!(answer["accepted"], 3, "{answer}");
    let rejected = answer["rejected"].as_array().expect("a list");
    let indexes: Vec<_> = rejected.iter().filter_map(|r| r["index"].as_u64()).collect();
    assert_eq!(indexes, [1, 2, 4, 5, 7], "{answer}");
    assert!(rejected.iter().all(|r| r["reason"].as_str().is_some_and(|reason| !reason.is_empty())), "{answer}");

    let huge = http::post(engine.port, "/v1/events", "application/json", huge_event().as_bytes()).expect("an answer");
    let named = huge.status == 413 || huge.json()["rejected"][0]["index"] == 0;
    assert!(named, "10 MB: {} {}", huge.status, huge.body);
    let garbage = http::post(engine.port, "/v1/events", "application/json", b"\xff\xfe\x00").expect("an answer");
    assert!(garbage.status < 500, "{} {}", garbage.status, garbage.body);

    engine.wait_settled(3, 3);
    let count = |user| engine.features(user).map(|answer| answer["features"]["event_count"].clone());
    assert_eq!((count("a"), count("b"), count("huge")), (Some(1.into()), Some(2.into()), None));
}

#[test]
fn a_file_with_bad_lines_is_taken_and_they_become_dead_letters() {
    let folder = folder();
    let engine = Engine::start(folder.path(), &Topology::default());
    let mut good = String::new();
    for n in 0..50 {
        for user in ["a", "b", "ü 1/2"] {
            writeln!(good, "{}", event(user, n)).expect("memory");
        }
    }
    let lines: Vec<_> = good.lines().collect();
    let (huge, no_key) = (huge_event(), r#"{"event":"page_view"}"#);
    let mixed = [&lines[..70], &["{broken", "", no_key, &huge, "null"], &lines[70..]].concat().join("\n");
    fs::write(folder.path().join("mixed.jsonl"), mixed).expect("writable");
    fs::write(folder.path().join("good.jsonl"), &good).expect("writable");
    engine.ingest(&folder.path().join("mixed.jsonl"));

    let metrics = engine.wait_settled(154, 150);
    let dead = |reason| metrics.count("keyloom_dead_letters_total", &[("reason", reason)]);
    assert_eq!((dead("parse"), dead("no_key"), dead("too_large")), (2, 1, 1));
    let result = oracle::check(&engine, &folder.path().join("good.jsonl"));
    assert_eq!((result["rows"].clone(), result["users_checked"].clone()), (150.into(), 3.into()));
}

#[test]
fn mistakes_in_the_topology_are_named_together_with_their_lines() {
    let folder = folder();
    let text = Topology::default().text(free_port());
    let text = text.replace("checkpoint_every", "checkpoint_evry").replace("partitions = 1", "partitions = \"one\"");
    fs::write(folder.path().join("keyloom.toml"), &text).expect("writable");
    let line_of = |needle: &str| text.lines().position(|line| line.contains(needle)).expect("there") + 1;
    for command in ["check", "run"] {
        let output = keyloom(&[command, "keyloom.toml"], folder.path());
        let shown = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(78), "{command}: {shown}");
        for needle in ["keyloom.toml", "checkpoint_evry", "partitions"] {
            assert!(shown.contains(needle), "{command} does not name {needle}: {shown}");
        }
        for line in [line_of("checkpoint_evry"), line_of("partitions")] {
            assert!(shown.contains(&line.to_string()), "{command} does not name line {line}: {shown}");
        }
    }
}

#[test]
fn a_wrong_command_line_is_a_usage_error() {
    let folder = folder();
    assert_eq!(keyloom(&["dance"], folder.path()).status.code(), Some(2));
    assert_eq!(keyloom(&["generate", "--users", "many"], folder.path()).status.code(), Some(2));
    let missing = keyloom(&["run", "nothing.toml"], folder.path());
    assert!(matches!(missing.status.code(), Some(1 | 78)), "{missing:?}");
    assert!(String::from_utf8_lossy(&missing.stderr).contains("nothing.toml"), "{missing:?}");
}

/// Starts an engine that must give up with exit code 1, and whose message must hold each of `words`.
fn refuses(folder: &std::path::Path, topology: &Topology, words: &[&str]) {
    let mut engine = Engine::launch(&binary("keyloom"), folder, topology);
    let code = engine.process.wait(REFUSE_MAX);
    let stderr = engine.process.stderr();
    assert_eq!(code, 1, "{}", engine.process.output());
    for word in words {
        assert!(stderr.to_lowercase().contains(&word.to_lowercase()), "the message does not say {word}: {stderr}");
    }
    assert!(!stderr.contains("panicked"), "{stderr}");
}

#[test]
fn a_nats_that_is_not_there_is_named() {
    let folder = folder();
    let url = format!("nats://127.0.0.1:{}", free_port());
    refuses(folder.path(), &Topology { nats: Some(url.clone()), ..Topology::default() }, &[&url[7..], "nats-server"]);
}

#[test]
fn a_nats_that_does_not_let_us_in_is_named() {
    let folder = folder();
    let nats = Nats::start(folder.path(), "authorization { token: \"only-with-this\" }");
    let address = format!("127.0.0.1:{}", nats.port);
    refuses(folder.path(), &Topology { nats: Some(nats.url()), ..Topology::default() }, &[&address, "[nats]"]);
}

#[test]
fn a_missing_bucket_is_named() {
    let folder = folder();
    let s3 = S3::start(folder.path(), &[], false);
    let lake = S3Lake { endpoint: s3.url(), bucket: "no-such-lake".to_owned() };
    refuses(folder.path(), &Topology { s3: Some(lake), ..Topology::default() }, &["no-such-lake", "create"]);
}

#[test]
fn an_engine_that_waits_for_a_server_ends_when_it_is_told() {
    for signal in ["TERM", "INT"] {
        let folder = folder();
        // It takes connections and says nothing.
        let server = TcpListener::bind("127.0.0.1:0").expect("a free port");
        server.set_nonblocking(true).expect("a socket");
        let endpoint = format!("http://{}", server.local_addr().expect("an address"));
        let s3 = Some(S3Lake { endpoint, bucket: "lake".to_owned() });
        let mut engine = Engine::launch(&binary("keyloom"), folder.path(), &Topology { s3, ..Topology::default() });
        let _held = wait_for("the engine to ask", READY_MAX, || server.accept().map_err(|error| error.to_string()));
        engine.process.signal(signal);
        assert_eq!(engine.process.wait(END_MAX), 0, "{signal}: {}", engine.process.output());
        assert!(!folder.path().join("data/owner.json").exists(), "nobody is sent to it");
    }
}

#[test]
fn wrong_s3_keys_are_named() {
    let folder = folder();
    let s3 = S3::start(folder.path(), &["lake"], true);
    let lake = S3Lake { endpoint: s3.url(), bucket: "lake".to_owned() };
    refuses(folder.path(), &Topology { s3: Some(lake), ..Topology::default() }, &["lake", "credentials"]);
}
