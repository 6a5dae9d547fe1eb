//! The audit after faults: waits until the engine has nothing more to do, and has tests/audit.py count what was lost or
//! done twice.

use std::{
    ops::AddAssign,
    process::Command,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    engine::{Engine, SETTLE_MAX},
    http,
    ledger::Ledger,
    oracle, wait_for,
};

/// The engine asks its log twice a second how far it goes: settled is what stays so for longer than that.
const STAYS: Duration = Duration::from_millis(700);
/// With the handler `poison`, the user whose every event must become a dead letter: one with few events, because each is
/// tried several times.
pub const POISONED: &str = "sender-0-user-36";

/// The handler of the example `enrichment`: what is emitted is audited too.
pub const ENRICHMENT: &str = "session-enrichment";

/// What audits of one history found. Numbers of things are those of the last audit, violations are summed up.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// Audits.
    pub audits: u64,
    /// Events answered 2xx.
    pub events: u64,
    /// Records in the log: more than events where repeats came after the log's window.
    pub log_records: u64,
    /// Rows in the table.
    pub rows: u64,
    /// Files of the table.
    pub files: u64,
    /// Events answered 2xx that are in no row, or that no feature counts.
    pub lost: u64,
    /// Events that were applied more than once.
    pub applied_twice: u64,
    /// Rows of a sequence that has one already.
    pub duplicate_rows: u64,
    /// Sequences of the log without a row.
    pub missing_rows: u64,
    /// Rows of what was never answered 2xx, or beyond the log's end.
    pub foreign_rows: u64,
    /// Events of a key that come after a later one.
    pub inversions: u64,
    /// Partitions whose numbers do not add up to their log.
    pub conservation: u64,
    /// Feature values that are not the oracle's.
    pub wrong_features: u64,
    /// Rows in the table of the example `enrichment`, where that is the handler.
    pub emitted_rows: u64,
    /// Of its rows, those missing, of no event, more than one of an event, and values that are not what the log demands.
    pub wrong_rows: u64,
}

impl Findings {
    /// How many things are wrong.
    pub fn violations(&self) -> u64 {
        self.lost
            + self.applied_twice
            + self.duplicate_rows
            + self.missing_rows
            + self.foreign_rows
            + self.inversions
            + self.conservation
            + self.wrong_features
            + self.wrong_rows
    }
}

impl AddAssign for Findings {
    fn add_assign(&mut self, next: Self) {
        self.audits += next.audits;
        self.lost += next.lost;
        self.applied_twice += next.applied_twice;
        self.duplicate_rows += next.duplicate_rows;
        self.missing_rows += next.missing_rows;
        self.foreign_rows += next.foreign_rows;
        self.inversions += next.inversions;
        self.conservation += next.conservation;
        self.wrong_features += next.wrong_features;
        self.wrong_rows += next.wrong_rows;
        self.emitted_rows = next.emitted_rows;
        Findings { events: self.events, log_records: self.log_records, rows: self.rows, files: self.files, .. } = next;
    }
}

/// Pauses the senders, waits until `engine` is done with all they sent, and audits. The senders stay paused.
pub fn audit(engine: &Engine, ledger: &Ledger) -> Findings {
    ledger.pause();
    settle(engine, ledger.counts().stored);
    let mut command = oracle::script(engine, "tests/audit.py");
    command.arg("--engine").arg(format!("http://127.0.0.1:{}", engine.port));
    for file in ledger.files() {
        command.arg("--input").arg(file);
    }
    if !engine.topology.handler.is_empty() {
        command.arg("--counts-only");
    }
    if engine.topology.handler == "poison" {
        command.args(["--poisoned", POISONED]);
    }
    let (counts, stderr) = ask(&mut command);
    let count = |name: &str| counts[name].as_u64().unwrap_or_else(|| panic!("{name} is missing: {counts}"));
    let mut findings = Findings {
        audits: 1,
        events: count("events"),
        log_records: count("log_records"),
        rows: count("rows"),
        files: count("files"),
        lost: count("lost").max(count("not_counted")),
        applied_twice: count("applied_twice").max(count("counted_twice")),
        duplicate_rows: count("duplicate_rows"),
        missing_rows: count("missing_rows"),
        foreign_rows: count("foreign_rows"),
        inversions: count("inversions"),
        conservation: count("conservation"),
        wrong_features: count("wrong_features"),
        emitted_rows: 0,
        wrong_rows: 0,
    };
    if engine.topology.handler == ENRICHMENT {
        let output = oracle::script(engine, "tests/enriched.py").output();
        let output = output.unwrap_or_else(|e| panic!("cannot start the audit of emitted rows: {e}"));
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let counts: Value = serde_json::from_str(&stdout).unwrap_or_else(|e| panic!("{e}: {stdout}{stderr}"));
        findings.wrong_rows = counts["differences"].as_u64().expect("a number");
        findings.emitted_rows = counts["rows"].as_u64().expect("a number");
        eprint!("{stderr}");
    }
    if findings.violations() > 0 {
        eprintln!("the audit disagrees: {findings:?}\n{stderr}");
    }
    assert_eq!(findings.events, ledger.counts().stored, "the ledger's own books");
    findings
}

/// Rows of the table of `engine`, and how many different records of the log they are, by pyarrow.
pub fn count_rows(engine: &Engine) -> (u64, u64) {
    let (counts, _) = ask(&mut oracle::script(engine, "tests/count_rows.py"));
    let count = |name: &str| counts[name].as_u64().unwrap_or_else(|| panic!("{name} is missing: {counts}"));
    (count("rows"), count("records"))
}

/// What it prints, and what it says beside.
fn ask(command: &mut Command) -> (Value, String) {
    let output = command.output().unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?} could not look ({}):\n{stdout}{stderr}", output.status);
    (serde_json::from_str(&stdout).unwrap_or_else(|e| panic!("{e}: {stdout}")), stderr.into_owned())
}

/// Waits until nothing lags, nothing is in flight, and every record is in the table.
fn settle(engine: &Engine, events: u64) {
    let mut since: Option<(Instant, u64)> = None;
    wait_for("the engine to be done with everything", SETTLE_MAX, || {
        let answer = http::get(engine.port, "/api/status").map_err(|e| e.to_string())?;
        let status = answer.json();
        let partitions = status["partitions"].as_array().ok_or("no partitions")?;
        let read = |p: &Value, name: &str| p[name].as_u64().unwrap_or(0);
        let sum = |name: &str| partitions.iter().map(|p| read(p, name)).sum::<u64>();
        let log = sum("log_last");
        let ended = sum("applied") + sum("duplicate") + sum("dead_lettered") + sum("dropped");
        let in_tables = partitions.iter().all(|p| {
            let is_committed = read(p, "checkpoint_cut") == read(p, "log_last") && read(p, "outbox_bytes") == 0;
            read(p, "tables_cursor") == read(p, "log_last") && is_committed
        });
        // More ends than records is wrong, and for the audit to say.
        if !(in_tables && log >= events && ended >= log && sum("routed") == log) {
            since = None;
            return Err(status.to_string());
        }
        match since {
            Some((at, same)) if same == log && at.elapsed() >= STAYS => Ok(()),
            Some((_, same)) if same == log => Err("settled, if it stays so".to_owned()),
            _ => {
                since = Some((Instant::now(), log));
                Err("just settled".to_owned())
            }
        }
    });
}
