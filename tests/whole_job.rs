//! The whole job: a file of events goes in, features and Parquet come out, and an independent oracle agrees with every
//! user and every row; once with nothing but the engine, once with NATS and S3.

use keyloom_tests::support::{
    engine::{Engine, S3Lake, Topology, folder, generate},
    oracle,
    servers::{Nats, S3},
};

const EVENTS: u64 = 30_000;
const USERS: u64 = 2_000;

#[test]
fn embedded() {
    let folder = folder();
    whole_job(folder.path(), &Topology::default());
}

#[test]
fn with_nats_and_s3() {
    let folder = folder();
    let nats = Nats::start(folder.path(), "");
    let s3 = S3::start(folder.path(), &["lake"], false);
    let lake = S3Lake { endpoint: s3.url(), bucket: "lake".to_owned() };
    whole_job(folder.path(), &Topology { nats: Some(nats.url()), s3: Some(lake), ..Topology::default() });
}

fn whole_job(folder: &std::path::Path, topology: &Topology) {
    // Late ones are minutes to hours behind, so that the table gets files in several folders.
    let input = generate(folder, EVENTS, USERS, &["--duplicates", "0.02", "--late", "0.05"]);
    let distinct = oracle::events_per_user(&input).values().sum();
    assert!(distinct < EVENTS, "the input has duplicates");

    let mut engine = Engine::start(folder, topology);
    engine.ingest(&input);
    engine.wait_settled(distinct, distinct);
    let before = oracle::check(&engine, &input);
    assert_eq!(before["events"], distinct);

    assert_eq!(engine.drain(), 0, "{}", engine.process.output());
    engine.restart();
    assert_eq!(oracle::check(&engine, &input), before, "a restart changes nothing");
}
