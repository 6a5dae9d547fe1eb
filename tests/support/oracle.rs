//! Runs tests/oracle.py, which recomputes everything from the input.

use std::{
    collections::{BTreeMap, HashSet},
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
    process::Command,
};

use super::{engine::Engine, servers, tool, workspace};

/// Asks the oracle whether the features and the lake of `engine` are what `input` demands; panics with its findings.
/// Answers with its results.
pub fn check(engine: &Engine, input: &Path) -> serde_json::Value {
    let features = format!("http://127.0.0.1:{}", engine.port);
    ask(engine, input, &["--features", &features])
}

/// The same for the lake alone: for handlers whose features the oracle does not know.
pub fn check_lake(engine: &Engine, input: &Path) -> serde_json::Value {
    ask(engine, input, &[])
}

fn ask(engine: &Engine, input: &Path, more: &[&str]) -> serde_json::Value {
    let mut command = script(engine, "tests/oracle.py");
    command.arg("--input").arg(input).args(more);
    answer(command)
}

/// Whether the rows of the example `enrichment` are what the table of all events demands; panics with the findings.
pub fn check_enriched(engine: &Engine) -> serde_json::Value {
    answer(script(engine, "tests/enriched.py"))
}

/// A script of the tests that looks into the lake of `engine`.
pub fn script(engine: &Engine, path: &str) -> Command {
    let mut command = Command::new(tool("KEYLOOM_PYTHON"));
    command.arg(workspace().join(path)).env("PYTHONDONTWRITEBYTECODE", "1");
    match &engine.topology.s3 {
        None => command.arg("--lake").arg(engine.folder.join("lake")),
        Some(s3) => command
            .args(["--s3-endpoint", &s3.endpoint, "--bucket", &s3.bucket])
            .env("AWS_ACCESS_KEY_ID", servers::S3_ACCESS_KEY)
            .env("AWS_SECRET_ACCESS_KEY", servers::S3_SECRET_KEY),
    };
    command
}

fn answer(mut command: Command) -> serde_json::Value {
    let output = command.output().unwrap_or_else(|e| panic!("cannot start the oracle: {e}"));
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "the oracle disagrees ({}):\n{stdout}{stderr}", output.status);
    let result: serde_json::Value = serde_json::from_str(&stdout).unwrap_or_else(|e| panic!("{e}: {stdout}"));
    eprintln!("oracle: {result}");
    result
}

/// How many different events each user has in a file: a repeat has the key and the event id of an earlier one.
pub fn events_per_user(input: &Path) -> BTreeMap<String, u64> {
    let file = File::open(input).unwrap_or_else(|e| panic!("{}: {e}", input.display()));
    let mut users = BTreeMap::<String, HashSet<String>>::new();
    for line in BufReader::new(file).lines() {
        let event: serde_json::Value = serde_json::from_str(&line.expect("UTF-8")).expect("JSON");
        let user = event["domain_userid"].as_str().expect("a generated event has a key").to_owned();
        users.entry(user).or_default().insert(event["event_id"].to_string());
    }
    users.into_iter().map(|(user, ids)| (user, ids.len() as u64)).collect()
}
