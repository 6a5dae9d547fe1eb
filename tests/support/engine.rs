//! The binary `keyloom` in a folder of its own: topology, start, questions, end.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use tempfile::TempDir;

use super::{
    http,
    metrics::Metrics,
    process::Process,
    servers::{self, Nats, S3, free_port},
    wait_for, workspace,
};

/// How long an engine may take to be ready.
pub const READY_MAX: Duration = Duration::from_secs(60);
/// How long it may take to have processed and stored what a test sends.
pub const SETTLE_MAX: Duration = Duration::from_secs(120);
/// How long an orderly end may take.
pub const DRAIN_MAX: Duration = Duration::from_secs(60);

/// The topology of a test: everything on loopback, files cut and checkpoints taken often.
#[derive(Clone, Debug, Default)]
pub struct Topology {
    /// Log and store are in this NATS; embedded otherwise.
    pub nats: Option<String>,
    /// The lake is in this S3; a folder otherwise.
    pub s3: Option<S3Lake>,
    /// Where keys are found, as the topology lists it; `"domain_userid"` when empty.
    pub key: String,
    /// Name of the handler; `session-features` when empty.
    pub handler: String,
    /// Partitions; one when 0.
    pub partitions: u32,
    /// Time between checkpoints; 500 ms when empty.
    pub checkpoint_every: String,
    /// Age at which files are cut; 1 s when empty.
    pub cut_age: String,
    /// Lines added to `[engine]`.
    pub engine: String,
    /// Lines added to `[log]`.
    pub log: String,
    /// Lines added to `[http]`.
    pub http: String,
    /// Lines added to `[sessions]`.
    pub sessions: String,
    /// Appended as it is.
    pub more: String,
    /// The whole file instead of all that: with `127.0.0.1:8080` in the place of the port, and the usual address of NATS.
    pub file: Option<String>,
    /// Addresses that the process may use, in bytes: beyond, it gets no more memory. No limit when `None`.
    pub memory_max: Option<u64>,
    /// What the process finds in its environment, beside the credentials of a test. Counts from the next start on.
    pub environment: Vec<(String, String)>,
}

/// A lake in S3.
#[derive(Clone, Debug)]
pub struct S3Lake {
    /// The server's address.
    pub endpoint: String,
    /// The bucket.
    pub bucket: String,
}

impl Topology {
    /// The text of the file.
    pub fn text(&self, port: u16) -> String {
        if let Some(file) = &self.file {
            let nats = self.nats.as_deref().unwrap_or_default();
            let text = file.replace("127.0.0.1:8080", &format!("127.0.0.1:{port}"));
            return text.replace("nats://127.0.0.1:4222", nats);
        }
        let handler = if self.handler.is_empty() { "session-features" } else { &self.handler };
        let (nats, log, store) = match &self.nats {
            None => (String::new(), "kind = \"embedded\"\nfsync = \"group\"".to_owned(), "kind = \"embedded\""),
            Some(url) => (
                format!("[nats]\nurl = \"{url}\"\n"),
                "kind = \"nats\"\nstream = \"raw_events\"\nsubjects = [\"events.>\"]\nreplicas = 1".to_owned(),
                "kind = \"nats\"\nbucket = \"latest_features\"",
            ),
        };
        let lake = match &self.s3 {
            None => "kind = \"dir\"\npath = \"lake\"".to_owned(),
            Some(s3) => {
                let S3Lake { endpoint, bucket } = s3;
                format!("kind = \"s3\"\nbucket = \"{bucket}\"\nregion = \"us-east-1\"\nendpoint = \"{endpoint}\"")
            }
        };
        let or = |value: &str, default: &str| if value.is_empty() { default.to_owned() } else { value.to_owned() };
        let key = or(&self.key, "\"domain_userid\"");
        let (checkpoint_every, cut_age) = (or(&self.checkpoint_every, "500ms"), or(&self.cut_age, "1s"));
        format!(
            r#"version = 1
[engine]
name = "test"
partitions = {partitions}
data_dir = "data"
{engine}
{nats}[log]
{log}
{}
[store]
{store}
checkpoint_every = "{checkpoint_every}"
[lake]
{lake}
[http]
listen = "127.0.0.1:{port}"
{}
[sessions]
key = [{key}]
handler = "{handler}"
{}
[table.raw_events]
from = "events"
cut = {{ rows = 1_000_000, bytes = "128MiB", age = "{cut_age}" }}
{}
"#,
            self.log,
            self.http,
            self.sessions,
            self.more,
            engine = self.engine,
            partitions = self.partitions.max(1),
        )
    }
}

/// A running engine.
#[derive(Debug)]
pub struct Engine {
    /// The process.
    pub process: Process,
    /// Where it answers HTTP.
    pub port: u16,
    /// What it runs.
    pub topology: Topology,
    /// Where its files are.
    pub folder: PathBuf,
    binary: PathBuf,
}

impl Engine {
    /// Starts `keyloom run` and waits until it is ready.
    pub fn start(folder: &Path, topology: &Topology) -> Self {
        Self::start_binary(&binary("keyloom"), folder, topology)
    }

    /// The same with another binary that behaves like `keyloom`, for instance one with a handler of its own.
    pub fn start_binary(binary: &Path, folder: &Path, topology: &Topology) -> Self {
        let mut engine = Self::launch(binary, folder, topology);
        engine.wait_ready();
        engine
    }

    /// Starts it without waiting: for an engine that is expected to refuse.
    pub fn launch(binary: &Path, folder: &Path, topology: &Topology) -> Self {
        let port = free_port();
        fs::write(folder.join("keyloom.toml"), topology.text(port)).expect("the test's folder is writable");
        let process = run(binary, folder, topology);
        let (topology, folder) = (topology.clone(), folder.to_owned());
        Self { process, port, topology, folder, binary: binary.to_owned() }
    }

    /// Starts it again in the same folder, after it has ended.
    pub fn restart(&mut self) {
        self.launch_again();
        self.wait_ready();
    }

    /// The same without waiting: for an engine that is told to end itself.
    pub fn launch_again(&mut self) {
        assert!(self.process.ended().is_some(), "it still runs");
        self.process = run(&self.binary, &self.folder, &self.topology);
    }

    /// Changes what it runs from its next start on.
    pub fn change(&mut self, change: impl FnOnce(&mut Topology)) {
        change(&mut self.topology);
        let text = self.topology.text(self.port);
        fs::write(self.folder.join("keyloom.toml"), text).expect("the test's folder is writable");
    }

    /// SIGTERM, and the exit code.
    pub fn drain(&mut self) -> i32 {
        self.process.signal("TERM");
        self.process.wait(DRAIN_MAX)
    }

    /// Waits until it is ready; panics if it ends instead.
    pub fn wait_ready(&mut self) {
        wait_for("the engine to be ready", READY_MAX, || {
            if let Some(status) = self.process.ended() {
                panic!("the engine ended with {status} instead:\n{}", self.process.output());
            }
            match http::get(self.port, "/readyz") {
                Ok(answer) if answer.status == 200 => Ok(()),
                Ok(answer) => Err(format!("status {}: {}", answer.status, answer.body)),
                Err(error) => Err(error.to_string()),
            }
        });
    }

    /// `keyloom ingest` of a file; panics unless it succeeds.
    pub fn ingest(&self, file: &Path) -> String {
        let file = file.to_str().expect("the test's paths are UTF-8");
        succeed(&["ingest", "-t", "keyloom.toml", file], &self.folder)
    }

    /// Its metrics now.
    pub fn metrics(&self) -> Metrics {
        Metrics::of(self.port).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Waits until nothing lags and at least `events` events are through the sessions and `rows` rows in the lake.
    pub fn wait_settled(&self, events: u64, rows: u64) -> Metrics {
        wait_for("all events applied and in the lake", SETTLE_MAX, || {
            let metrics = Metrics::of(self.port)?;
            let outcome = |name| metrics.count("keyloom_events_total", &[("outcome", name)]);
            let through = outcome("applied") + outcome("duplicate") + outcome("dead_lettered") + outcome("dropped");
            let in_lake = metrics.count("keyloom_lake_rows_total", &[("table", "raw_events")]);
            let lag = metrics.sum("keyloom_lag_events", &[]);
            if through >= events && in_lake >= rows && lag == Some(0.0) {
                Ok(metrics)
            } else {
                Err(format!("{through} of {events} events, {in_lake} of {rows} rows, lag {lag:?}"))
            }
        })
    }

    /// The feature answer of a key, `None` when the engine does not know it.
    pub fn features(&self, key: &str) -> Option<serde_json::Value> {
        let path = format!("/v1/features/{}", http::percent_encode(key));
        let answer = http::get(self.port, &path).unwrap_or_else(|e| panic!("{path}: {e}"));
        assert!(matches!(answer.status, 200 | 404), "{path}: {} {}", answer.status, answer.body);
        (answer.status == 200).then(|| answer.json())
    }

    /// Sends events to the front door and answers with what it says; panics unless that is a 2xx.
    pub fn post_events(&self, body: &str) -> serde_json::Value {
        let answer = http::post(self.port, "/v1/events", "application/x-ndjson", body.as_bytes());
        let answer = answer.unwrap_or_else(|e| panic!("/v1/events: {e}"));
        assert!((200..300).contains(&answer.status), "/v1/events: {} {}", answer.status, answer.body);
        answer.json()
    }
}

fn run(binary: &Path, folder: &Path, topology: &Topology) -> Process {
    let mut command = match topology.memory_max {
        None => Command::new(binary),
        Some(bytes) => {
            let mut limited = Command::new("sh");
            limited.args(["-c", &format!("ulimit -v {}; exec \"$0\" \"$@\"", bytes >> 10)]).arg(binary);
            limited
        }
    };
    command.envs(topology.environment.iter().map(|(name, value)| (name, value)));
    Process::start("engine", folder, aws(&mut command).args(["run", "keyloom.toml"]).current_dir(folder))
}

/// The credentials of a test, and nothing of the machine's own.
fn aws(command: &mut Command) -> &mut Command {
    command
        .env("AWS_ACCESS_KEY_ID", servers::S3_ACCESS_KEY)
        .env("AWS_SECRET_ACCESS_KEY", servers::S3_SECRET_KEY)
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env_remove("AWS_PROFILE")
        .env_remove("AWS_SESSION_TOKEN")
}

/// Runs `test` with a topology on NATS and S3, servers of its own.
pub fn on_nats_and_s3(test: impl FnOnce(Topology)) {
    let folder = folder();
    let nats = Nats::start(folder.path(), "");
    let s3 = S3::start(folder.path(), &["lake"], false);
    let lake = S3Lake { endpoint: s3.url(), bucket: "lake".to_owned() };
    test(Topology { nats: Some(nats.url()), s3: Some(lake), ..Topology::default() });
}

/// An empty folder that disappears with the value.
pub fn folder() -> TempDir {
    tempfile::Builder::new().prefix("keyloom-test-").tempdir().expect("a temporary folder")
}

/// A program of this workspace: `KEYLOOM_BIN` for `keyloom`, else that of the running test (`<target>/<profile>/deps`) or
/// benchmark (`<target>/<profile>`).
pub fn binary(name: &str) -> PathBuf {
    if let Some(path) = std::env::var_os("KEYLOOM_BIN").filter(|_| name == "keyloom") {
        return workspace().join(path);
    }
    let test = std::env::current_exe().expect("the path of this test");
    let beside = test.parent().expect("a program is in a folder");
    let profile = beside.parent().expect("a test is in <target>/<profile>/deps");
    let places = [profile.join(name), profile.join("examples").join(name), beside.join(name)];
    let found = places.into_iter().find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{name} is not built: cargo build --release --workspace --bins --examples"))
}

/// Runs `keyloom` to its end.
pub fn keyloom(arguments: &[&str], folder: &Path) -> Output {
    run_to_end(&binary("keyloom"), arguments, folder)
}

fn run_to_end(program: &Path, arguments: &[&str], folder: &Path) -> Output {
    let mut command = Command::new(program);
    let output = aws(&mut command).args(arguments).current_dir(folder).output();
    output.unwrap_or_else(|e| panic!("cannot start keyloom {arguments:?}: {e}"))
}

/// Runs `keyloom` to its end, panics unless it succeeds, and answers with its standard output.
pub fn succeed(arguments: &[&str], folder: &Path) -> String {
    succeed_with(&binary("keyloom"), arguments, folder)
}

/// The same with another binary that takes its command line.
pub fn succeed_with(program: &Path, arguments: &[&str], folder: &Path) -> String {
    let output = run_to_end(program, arguments, folder);
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "keyloom {arguments:?}: {}\n{stdout}\n{stderr}", output.status);
    stdout.into_owned()
}

/// Writes a synthetic click stream to a file in `folder`.
pub fn generate(folder: &Path, events: u64, users: u64, more: &[&str]) -> PathBuf {
    let (events, users) = (events.to_string(), users.to_string());
    let mut arguments = vec!["generate", "--events", &events, "--users", &users, "--seed", "7", "--to", "events.jsonl"];
    arguments.extend(more);
    succeed(&arguments, folder);
    folder.join("events.jsonl")
}
