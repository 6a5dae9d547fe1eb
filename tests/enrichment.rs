//! Rows that a handler emits, end to end: the example `enrichment` makes a training table of each event with what was known
//! before it, and an independent oracle (tests/enriched.py) says the same of every row.

use keyloom_tests::support::{
    audit::ENRICHMENT,
    engine::{Engine, Topology, binary, folder, generate, on_nats_and_s3},
    oracle, wait_for,
};

const EVENTS: u64 = 10_000;
const USERS: u64 = 500;

#[test]
fn embedded() {
    rows_are_what_was_known(Topology { partitions: 2, ..Topology::default() });
}

#[test]
fn with_nats_and_s3() {
    on_nats_and_s3(rows_are_what_was_known);
}

fn rows_are_what_was_known(topology: Topology) {
    let folder = folder();
    let more = format!("[table.enriched]\nhandler = \"{ENRICHMENT}\"\ncut = {{ age = \"300ms\" }}\n");
    let sessions = "resident_max = 100".to_owned(); // most are evicted between two of their events
    let topology = Topology { handler: ENRICHMENT.to_owned(), sessions, more, ..topology };
    let input = generate(folder.path(), EVENTS, USERS, &["--duplicates", "0.02", "--late", "0.05"]);
    let distinct: u64 = oracle::events_per_user(&input).values().sum();
    let mut engine = Engine::start_binary(&binary("enrichment"), folder.path(), &topology);
    engine.ingest(&input);
    engine.wait_settled(distinct, distinct);
    emitted(&engine, distinct);
    let before = oracle::check_enriched(&engine);
    assert_eq!((&before["events"], &before["rows"]), (&distinct.into(), &distinct.into()));

    // Nothing left for an orderly end to write, and nothing again after it; then what comes is written by a drain.
    assert_eq!(engine.drain(), 0, "{}", engine.process.output());
    engine.restart();
    assert_eq!(oracle::check_enriched(&engine), before);
    let more: String = (0..500).map(|n| format!("{{\"domain_userid\":\"new-{n}\",\"event_id\":\"n{n}\"}}\n")).collect();
    engine.post_events(&more);
    assert_eq!(engine.drain(), 0, "{}", engine.process.output());
    assert_eq!(oracle::check_enriched(&engine)["rows"], distinct + 500);
}

fn emitted(engine: &Engine, rows: u64) {
    wait_for("all emitted rows in the lake", keyloom_tests::support::engine::SETTLE_MAX, || {
        let in_lake = engine.metrics().count("keyloom_lake_rows_total", &[("table", "enriched")]);
        if in_lake == rows { Ok(()) } else { Err(format!("{in_lake} of {rows}")) }
    });
}
