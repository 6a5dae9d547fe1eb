//! The first minutes of somebody new: init, check, schema, run, the demo. Nothing is installed for these.

use std::{fs, path::Path, process::Command, time::Duration};

use keyloom_tests::support::{
    engine::{binary, folder, keyloom, succeed, succeed_with},
    http,
    process::Process,
    servers::free_port,
    wait_for, workspace,
};

const SOON: Duration = Duration::from_secs(60);
/// How long the demo may take to end in order.
const DEMO_END_MAX: Duration = Duration::from_secs(90);

#[test]
fn init_writes_a_topology_that_passes_its_own_check() {
    let folder = folder();
    succeed(&["init"], folder.path());
    let file = folder.path().join("keyloom.toml");
    let written = fs::read_to_string(&file).expect("keyloom.toml");
    succeed(&["check", "keyloom.toml"], folder.path());

    fs::write(&file, "# mine\n").expect("writable");
    assert!(!keyloom(&["init"], folder.path()).status.success(), "init does not overwrite");
    assert_eq!(fs::read_to_string(&file).expect("still there"), "# mine\n");
    succeed(&["init", "--force"], folder.path());
    assert_eq!(fs::read_to_string(&file).expect("there"), written);
}

#[test]
fn the_schema_is_json_and_knows_the_sections() {
    let folder = folder();
    let schema: serde_json::Value = serde_json::from_str(&succeed(&["schema"], folder.path())).expect("JSON");
    for section in ["version", "engine", "log", "store", "lake", "http", "sessions", "handler", "table"] {
        assert!(schema["properties"][section].is_object(), "{section} is missing");
    }
}

#[test]
fn every_topology_in_the_repository_passes() {
    let config = workspace().join("config");
    let mut checked = 0;
    for entry in fs::read_dir(&config).expect("config").map(|entry| entry.expect("an entry").path()) {
        let is_of_cases = entry.to_str().is_some_and(|path| path.ends_with(".test.toml"));
        if entry.extension().is_some_and(|e| e == "toml") && !is_of_cases {
            // Each by the binary that knows its handler.
            let name = entry.file_stem().and_then(|name| name.to_str()).expect("a name");
            let example = name.replace('-', "_");
            let is_example = workspace().join("examples").join(&example).with_extension("rs").is_file();
            let program = if is_example { &example } else { "keyloom" };
            succeed_with(&binary(program), &["check", entry.to_str().expect("UTF-8")], &config);
            checked += 1;
        }
    }
    assert!(checked > 0, "no topology in config/");
}

#[test]
fn what_init_wrote_runs_as_it_is() {
    let folder = folder();
    succeed(&["init"], folder.path());
    let port = elsewhere(&folder.path().join("keyloom.toml"));
    let mut command = Command::new(binary("keyloom"));
    command.args(["run", "keyloom.toml"]).current_dir(folder.path());
    let mut engine = Process::start("engine", folder.path(), &mut command);
    wait_for("the engine to be ready", SOON, || {
        assert!(engine.ended().is_none(), "{}", engine.output());
        let answer = http::get(port, "/readyz").map_err(|e| e.to_string())?;
        if answer.status == 200 { Ok(()) } else { Err(answer.body) }
    });

    let event = br#"{"domain_userid":"someone","event":"page_view","page_url":"/welcome"}"#;
    let answer = http::post(port, "/v1/events", "application/json", event).expect("an answer");
    assert_eq!((answer.status / 100, answer.json()["accepted"].as_u64()), (2, Some(1)), "{}", answer.body);
    wait_for("the feature", SOON, || {
        let answer = http::get(port, "/v1/features/someone").map_err(|e| e.to_string())?;
        if answer.status != 200 {
            return Err(answer.body);
        }
        let features = answer.json()["features"].clone();
        assert_eq!((&features["event_count"], &features["last_page"]), (&1.into(), &"/welcome".into()));
        Ok(())
    });
    assert_eq!(http::get(port, "/v1/features/nobody").expect("an answer").status, 404);
    engine.signal("TERM");
    assert_eq!(engine.wait(SOON), 0, "{}", engine.output());
}

/// Moves a topology from the usual port, which may be taken here, to a free one.
fn elsewhere(file: &Path) -> u16 {
    let port = free_port();
    let text = fs::read_to_string(file).expect("a topology");
    assert!(text.contains("127.0.0.1:8080"), "the default is loopback, port 8080");
    fs::write(file, text.replace("127.0.0.1:8080", &format!("127.0.0.1:{port}"))).expect("writable");
    port
}

/// A demo that a failing test asks to end, so that it takes along what it has started.
struct Demo(Process);

impl Drop for Demo {
    fn drop(&mut self) {
        if self.0.ended().is_none() {
            self.0.signal("TERM");
            self.0.ended_within(DEMO_END_MAX);
        }
    }
}

#[test]
fn the_demo_runs_and_ends_by_itself() {
    let folder = folder();
    let mut command = Command::new(workspace().join("scripts/demo.sh"));
    command.env("KEYLOOM_BIN", binary("keyloom")).env("DEMO_SECONDS", "8");
    let mut demo = Demo(Process::start("demo", folder.path(), &mut command));
    assert_eq!(demo.0.wait(SOON * 4), 0, "{}", demo.0.output());
    let shown = demo.0.stdout();
    for needle in ["/v1/features/", "/metrics", "live sessions", "Parquet files"] {
        assert!(shown.contains(needle), "the demo does not show {needle}: {shown}");
    }
}
