//! Orderly ends under load: SIGTERM while senders send as fast as they can, keys come and go in memory, and one key fails
//! all the time; with a lake that takes files, and with one that does not.

use std::time::{Duration, Instant};

use keyloom_tests::support::{
    audit,
    engine::{DRAIN_MAX, Topology},
    http,
    proxy::Mode,
    servers::free_port,
};

use super::{
    RECOVER_MAX,
    history::{History, Report, Servers, busy_topology},
    lake_stalls,
};

/// How long an orderly end may take: `drain_limit` where it cannot be complete ...
const DRAIN_LIMIT: Duration = Duration::from_secs(10);
/// ... and what the process takes beside it: to notice the signal, and to let go of what still runs.
pub const END_MAX: Duration = Duration::from_secs(2);
/// The same on a machine that others use, where a thread may stand still for seconds.
pub const SLOW_END_MAX: Duration = Duration::from_secs(20);
/// `drain_limit` where the end must be complete: no reason to cut it short, however slow the machine.
const COMPLETE_LIMIT: Duration = Duration::from_secs(40);
/// Events answered before a signal: enough that every key was evicted and read again.
const LOAD_EVENTS: u64 = 3_000;
/// Events that may be stored after the router read its last: of requests that were under way, from two senders.
const BEHIND_MAX: u64 = 200;
pub const DRAIN: &str = "drain under load";
pub const DRAIN_NO_LAKE: &str = "drain under load, S3 dead";

/// SIGTERM under load, `rounds` times with the lake there and `rounds` times without. The process takes `end_max` beside its
/// limit at most.
pub fn drains(rounds: u64, seed: u64, with_nats: bool, end_max: Duration) -> Report {
    let home = if with_nats { "NATS and S3" } else { "embedded and S3" };
    let more = format!("[handler.poison]\nuser = \"{}\"\n", audit::POISONED);
    let engine = drain_limit(COMPLETE_LIMIT);
    let topology = Topology { handler: "poison".to_owned(), engine, more, ..busy_topology() };
    let mut history = History::start(&format!("{home}, drains under load"), seed, topology, |folder| {
        Servers::start(folder, seed, with_nats, true)
    });
    for _ in 0..rounds {
        drain(&mut history, DRAIN, end_max);
        // What it starts with next.
        history.engine.change(|topology| topology.engine = drain_limit(DRAIN_LIMIT));
        everything_routed_is_committed(&mut history);
        history.audit();
        history.ledger.resume();

        history.ledger.wait_stored(LOAD_EVENTS, RECOVER_MAX);
        let link = history.servers.s3_link.as_ref().expect("started with links");
        link.set(Mode::Refuse);
        lake_stalls(&history);
        drain(&mut history, DRAIN_NO_LAKE, end_max);
        history.engine.change(|topology| topology.engine = drain_limit(COMPLETE_LIMIT));
        // The audit's first act is to let S3 answer again, and to start the engine.
        history.audit();
        history.ledger.resume();
    }
    history.report()
}

fn drain_limit(limit: Duration) -> String {
    format!("drain_limit = \"{}s\"", limit.as_secs())
}

/// Ends the engine by SIGTERM in the middle of what senders send.
fn drain(history: &mut History, what: &'static str, end_max: Duration) {
    history.ledger.hurry(true);
    history.ledger.wait_stored(LOAD_EVENTS, RECOVER_MAX);
    let evicted = history.engine.metrics().count("keyloom_session_evictions_total", &[]);
    assert!(evicted > 0, "no key left memory");
    history.engine.process.signal("TERM");
    let began = Instant::now();
    let code = history.engine.process.wait(DRAIN_MAX);
    let took = began.elapsed();
    history.ledger.hurry(false);
    history.took(what, took, DRAIN_LIMIT + end_max);
    let said = history.engine.process.stderr();
    assert_eq!(code, 0, "{}", history.engine.process.output());
    if what == DRAIN {
        assert!(said.contains("drained") && !said.contains("not everything was written"), "{said}");
    } else {
        assert!(said.contains("not everything was written; nothing is lost"), "{said}");
    }
    history.did(what);
}

/// What the next engine finds, before anybody sends it anything: nothing to go through again but what was stored while the
/// former one read no more, and a table that ends where the checkpoint does.
fn everything_routed_is_committed(history: &mut History) {
    let port = history.engine.port;
    history.ledger.send_to(free_port());
    history.engine.restart();
    let log = history.engine.process.stderr();
    let started = log.lines().find(|line| line.contains("partition runs")).expect("it says so");
    let number = |name: &str| {
        let value = started.split(&format!("{name}=")).nth(1).and_then(|rest| rest.split_whitespace().next());
        value.and_then(|text| text.parse::<u64>().ok()).unwrap_or_else(|| panic!("{name} is not in {started}"))
    };
    let (from, last) = (number("from"), number("log_last"));
    eprintln!("after a drain: {} of {last} events were stored behind it", (last + 1).saturating_sub(from));
    let status = http::get(port, "/api/status").expect("the engine answers").json();
    let table = status["partitions"][0]["tables_cursor"].as_u64().expect("a number");
    assert!(table + 1 >= from, "the table ends at {table}, the checkpoint before {from}");
    assert!(last < from + BEHIND_MAX, "{} of {last} events were not drained", last + 1 - from);
    history.ledger.send_to(port);
}
