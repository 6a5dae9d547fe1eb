//! The whole job: a file of events goes in, features and Parquet come out, and an independent oracle agrees with every
//! user and every row; once with nothing but the engine, once with NATS and S3.

use keyloom_tests::support::{
    engine::{Engine, Topology, folder, generate, on_nats_and_s3, succeed},
    oracle,
    servers::Nats,
};

const EVENTS: u64 = 30_000;
const USERS: u64 = 2_000;

#[test]
fn embedded() {
    whole_job(Topology::default());
}

#[test]
fn with_nats_and_s3() {
    on_nats_and_s3(whole_job);
}

#[test]
fn events_of_any_nats_client_are_processed() {
    let folder = folder();
    let nats = Nats::start(folder.path(), "");
    let engine = Engine::start(folder.path(), &Topology { nats: Some(nats.url()), ..Topology::default() });
    // No ids and no keys in headers: repeats reach the log, and the sessions absorb them.
    // (Evenly over users: a session remembers its last 64 ids.)
    let lines = ["--events", "5000", "--users", "300", "--zipf", "0", "--duplicates", "0.02", "--seed", "7", "--to"];
    succeed(&[&["generate"], &lines[..], &["events.jsonl"]].concat(), folder.path());
    succeed(&[&["generate"], &lines[..], &[nats.url().as_str()]].concat(), folder.path());
    let input = folder.path().join("events.jsonl");
    let distinct: u64 = oracle::events_per_user(&input).values().sum();
    let metrics = engine.wait_settled(5_000, 5_000);
    let outcome = |name| metrics.count("keyloom_events_total", &[("outcome", name)]);
    assert_eq!((outcome("applied"), outcome("duplicate")), (distinct, 5_000 - distinct));
    for (user, events) in oracle::events_per_user(&input) {
        let answer = engine.features(&user).unwrap_or_else(|| panic!("{user} is unknown"));
        assert_eq!(answer["features"]["event_count"], events, "{answer}");
    }
}

/// Fifty times more keys than may stay in memory, evenly: nearly every event brings a key back that had left.
#[test]
fn far_more_keys_than_fit_into_memory() {
    const RSS_MAX: u64 = 768 << 20;
    let folder = folder();
    let input = generate(folder.path(), 60_000, 20_000, &["--zipf", "0"]);
    let distinct: u64 = oracle::events_per_user(&input).values().sum();
    let topology = Topology { sessions: "resident_max = 400".to_owned(), ..Topology::default() };
    let engine = Engine::start(folder.path(), &topology);
    engine.ingest(&input);
    let metrics = engine.wait_settled(distinct, distinct);
    let evicted = metrics.count("keyloom_session_evictions_total", &[("reason", "lru")]);
    assert!(evicted > distinct / 2, "only {evicted} evictions");
    let live = metrics.count("keyloom_sessions_live", &[]);
    assert!(live <= 400, "{live} sessions are live");
    let rss = engine.process.memory();
    assert!(rss < RSS_MAX, "the engine holds {rss} bytes");
    assert_eq!(oracle::check(&engine, &input)["events"], distinct);
}

fn whole_job(topology: Topology) {
    let folder = folder();
    // Late ones are minutes to hours behind, so that the table gets files in several folders.
    let input = generate(folder.path(), EVENTS, USERS, &["--duplicates", "0.02", "--late", "0.05"]);
    let distinct = oracle::events_per_user(&input).values().sum();
    assert!(distinct < EVENTS, "the input has duplicates");

    let mut engine = Engine::start(folder.path(), &topology);
    engine.ingest(&input);
    engine.wait_settled(distinct, distinct);
    let before = oracle::check(&engine, &input);
    assert_eq!(before["events"], distinct);

    assert_eq!(engine.drain(), 0, "{}", engine.process.output());
    engine.restart();
    assert_eq!(oracle::check(&engine, &input), before, "a restart changes nothing");
}
