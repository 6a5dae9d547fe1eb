//! Real servers on loopback: NATS, a stand-in of S3 and DynamoDB (moto), Redis, Prometheus. Each ends with the value that stands for it.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use keyloom_actors::key::hash_of;

use super::{http, process::Process, tool, wait_for};

/// How long a server may take to start; moto imports a lot of Python.
const START_MAX: Duration = Duration::from_secs(60);
/// Ports are taken from here, below the range that outgoing connections use, so that nothing else takes one meanwhile.
const PORT_FIRST: u16 = 20_000;
const PORTS: u16 = 10_000;
/// Access keys that moto accepts unless it is told to check them.
pub const S3_ACCESS_KEY: &str = "keyloom-test";
/// Their secret.
pub const S3_SECRET_KEY: &str = "keyloom-test-secret";

/// A port that nothing listens on. Each call answers with another one.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let begin = begin();
    (0..PORTS)
        .map(|_| PORT_FIRST + (begin + NEXT.fetch_add(1, Ordering::Relaxed) % PORTS) % PORTS)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}

/// Where a test program begins to look: those that run side by side look at different ports, because a port is free until
/// whoever asked for it uses it.
fn begin() -> u16 {
    /// More than one test needs.
    const APART: u64 = 1_000;
    let slot = std::env::var("NEXTEST_TEST_GLOBAL_SLOT").ok().and_then(|slot| slot.parse::<u64>().ok());
    let run = std::env::var("NEXTEST_RUN_ID").unwrap_or_default(); // another run on this machine has the same slots
    let begin = match slot {
        Some(slot) => slot * APART + hash_of(run.as_bytes()) % u64::from(PORTS),
        None => u64::from(std::process::id()) * 61,
    };
    (begin % u64::from(PORTS)) as u16
}

/// nats-server with JetStream.
#[derive(Debug)]
pub struct Nats {
    /// The process.
    pub process: Process,
    /// Where clients connect.
    pub port: u16,
    folder: PathBuf,
    monitor: u16,
}

impl Nats {
    /// Starts one with its data in `folder`; `settings` are added to its configuration, for instance a token.
    pub fn start(folder: &Path, settings: &str) -> Self {
        let (port, monitor) = (free_port(), free_port());
        let store = folder.join("nats");
        let text = format!(
            "listen: \"127.0.0.1:{port}\"\nhttp: \"127.0.0.1:{monitor}\"\n\
             jetstream {{ store_dir: \"{}\" }}\n{settings}\n",
            store.display()
        );
        fs::write(folder.join("nats.conf"), text).expect("the test's folder is writable");
        let process = Self::run(folder, monitor);
        Self { process, port, folder: folder.to_owned(), monitor }
    }

    /// The same server on the same data again, after it was killed.
    pub fn restart(&mut self) {
        assert!(self.process.ended().is_some(), "it still runs");
        self.process = Self::run(&self.folder, self.monitor);
    }

    fn run(folder: &Path, monitor: u16) -> Process {
        let mut command = Command::new(tool("KEYLOOM_NATS_SERVER"));
        let mut process = Process::start("nats-server", folder, command.arg("-c").arg(folder.join("nats.conf")));
        wait_started(&mut process, monitor, "/healthz");
        process
    }

    /// Its address as a topology has it.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }
}

/// moto, as S3.
#[derive(Debug)]
pub struct S3 {
    /// The process.
    pub process: Process,
    /// Where it answers.
    pub port: u16,
}

impl S3 {
    /// Starts one that has `buckets`. With `check_keys` it then refuses every access key, because it knows none.
    pub fn start(folder: &Path, buckets: &[&str], check_keys: bool) -> Self {
        let port = free_port();
        let mut command = Command::new(tool("KEYLOOM_MOTO_SERVER"));
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        if check_keys {
            command.env("INITIAL_NO_AUTH_ACTION_COUNT", buckets.len().to_string());
        }
        let mut process = Process::start("moto", folder, &mut command);
        wait_started(&mut process, port, "/moto-api/");
        for bucket in buckets {
            let made = http::request(port, "PUT", &format!("/{bucket}"), &[], b"").expect("moto answers");
            assert_eq!(made.status, 200, "bucket {bucket}: {}", made.body);
        }
        Self { process, port }
    }

    /// Its address as a topology has it.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

/// Redis.
#[derive(Debug)]
pub struct Redis {
    /// The process.
    pub process: Process,
    /// Where it answers.
    pub port: u16,
    folder: PathBuf,
    settings: Vec<String>,
}

impl Redis {
    /// Starts one with its data in `folder`; `settings` are words of its command line, for instance `--appendonly yes`.
    pub fn start(folder: &Path, settings: &[&str]) -> Self {
        let (port, settings) = (free_port(), settings.iter().map(|word| (*word).to_owned()).collect());
        let mut redis = Self { process: Self::run(folder, port, &settings), port, folder: folder.to_owned(), settings };
        redis.wait_started();
        redis
    }

    /// The same server on the same data again, after it was killed.
    pub fn restart(&mut self) {
        assert!(self.process.ended().is_some(), "it still runs");
        self.process = Self::run(&self.folder, self.port, &self.settings);
        self.wait_started();
    }

    fn run(folder: &Path, port: u16, settings: &Vec<String>) -> Process {
        let mut command = Command::new(tool("KEYLOOM_REDIS_SERVER"));
        let port = port.to_string();
        command.args(["--bind", "127.0.0.1", "--port", &port, "--save", "", "--daemonize", "no"]).args(settings);
        Process::start("redis", folder, command.arg("--dir").arg(folder))
    }

    fn wait_started(&mut self) {
        wait_for("the start of redis", START_MAX, || {
            if let Some(status) = self.process.ended() {
                panic!("it ended with {status} instead:\n{}", self.process.output());
            }
            match self.try_ask(&["PING"]) {
                Ok(_) => Ok(()),
                Err(refused) if refused.starts_with("NOAUTH") => Ok(()),
                Err(error) => Err(error),
            }
        });
    }

    /// What it answers to a command: the strings of an array, or the one there is; `None` for nothing.
    pub fn ask(&self, words: &[&str]) -> Vec<Option<String>> {
        self.try_ask(words).unwrap_or_else(|e| panic!("{words:?}: {e}"))
    }

    fn try_ask(&self, words: &[&str]) -> Result<Vec<Option<String>>, String> {
        let text = |e: std::io::Error| e.to_string();
        let stream = TcpStream::connect(("127.0.0.1", self.port)).map_err(text)?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).map_err(text)?;
        let mut request = format!("*{}\r\n", words.len());
        words.iter().for_each(|word| request.push_str(&format!("${}\r\n{word}\r\n", word.len())));
        (&stream).write_all(request.as_bytes()).map_err(text)?;
        let mut answers = BufReader::new(stream);
        let line = read_line(&mut answers)?;
        let (kind, rest) = line.split_at_checked(1).ok_or("an empty answer")?;
        let size = || rest.parse::<i64>().map_err(|_| format!("{line:?}"));
        match kind {
            "*" => (0..size()?).map(|_| read_bulk(&mut answers)).collect(),
            "$" if size()? < 0 => Ok(vec![None]),
            "$" => Ok(vec![Some(read_bytes(&mut answers, size()?)?)]),
            "-" => Err(rest.to_owned()),
            _ => Ok(vec![Some(rest.to_owned())]),
        }
    }

    /// Its address as a topology has it.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

fn read_line(from: &mut impl BufRead) -> Result<String, String> {
    let mut line = String::new();
    from.read_line(&mut line).map_err(|e| e.to_string())?;
    Ok(line.trim_end().to_owned())
}

fn read_bulk(from: &mut impl BufRead) -> Result<Option<String>, String> {
    let line = read_line(from)?;
    let size = line.strip_prefix('$').and_then(|size| size.parse::<i64>().ok());
    match size.ok_or_else(|| format!("{line:?} instead of a string"))? {
        size if size < 0 => Ok(None),
        size => read_bytes(from, size).map(Some),
    }
}

fn read_bytes(from: &mut impl BufRead, size: i64) -> Result<String, String> {
    let mut bytes = vec![0; size as usize + 2];
    from.read_exact(&mut bytes).map_err(|e| e.to_string())?;
    bytes.truncate(size as usize);
    String::from_utf8(bytes).map_err(|e| e.to_string())
}

/// moto, as DynamoDB.
#[derive(Debug)]
pub struct Dynamo {
    server: S3,
}

impl Dynamo {
    /// Starts one that has `tables`, as a feature backend needs them.
    pub fn start(folder: &Path, tables: &[&str]) -> Self {
        let dynamo = Self { server: S3::start(folder, &[], false) };
        tables.iter().for_each(|table| dynamo.create(table));
        dynamo
    }

    /// Makes a table.
    pub fn create(&self, table: &str) {
        self.ask(
            "CreateTable",
            &serde_json::json!({
                "TableName": table,
                "AttributeDefinitions": [{ "AttributeName": "key", "AttributeType": "S" }],
                "KeySchema": [{ "AttributeName": "key", "KeyType": "HASH" }],
                "BillingMode": "PAY_PER_REQUEST",
            }),
        );
    }

    /// What it answers to a request.
    pub fn ask(&self, operation: &str, request: &serde_json::Value) -> serde_json::Value {
        let target = format!("DynamoDB_20120810.{operation}");
        // moto refuses requests that nobody signed, but does not check what a signature is worth.
        let signed = format!("AWS4-HMAC-SHA256 Credential={S3_ACCESS_KEY}/20260101/us-east-1/dynamodb/aws4_request");
        let headers = [
            ("x-amz-target", target.as_str()),
            ("authorization", signed.as_str()),
            ("content-type", "application/x-amz-json-1.0"),
        ];
        let body = request.to_string();
        let answer = http::request(self.server.port, "POST", "/", &headers, body.as_bytes()).expect("moto answers");
        assert_eq!(answer.status, 200, "{operation}: {}", answer.body);
        answer.json()
    }

    /// The item of a key.
    pub fn item(&self, table: &str, key: &str) -> Option<serde_json::Value> {
        let request = serde_json::json!({ "TableName": table, "Key": { "key": { "S": key } } });
        self.ask("GetItem", &request).get("Item").cloned()
    }

    /// Its address as a topology has it.
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.server.process
    }
}

/// Prometheus, scraping one target every second.
#[derive(Debug)]
pub struct Prometheus {
    /// The process.
    pub process: Process,
    /// Where it answers.
    pub port: u16,
}

impl Prometheus {
    /// Starts one that scrapes `/metrics` on `target`.
    pub fn start(folder: &Path, target: u16) -> Self {
        let port = free_port();
        let config = folder.join("prometheus.yml");
        let text = format!(
            "global: {{ scrape_interval: 1s, scrape_timeout: 1s }}\n\
             scrape_configs: [ {{ job_name: keyloom, static_configs: [ {{ targets: [\"127.0.0.1:{target}\"] }} ] }} ]\n"
        );
        fs::write(&config, text).expect("the test's folder is writable");
        let mut command = Command::new(tool("KEYLOOM_PROMETHEUS"));
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("prometheus").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .current_dir(folder);
        let mut process = Process::start("prometheus", folder, &mut command);
        wait_started(&mut process, port, "/-/ready");
        Self { process, port }
    }

    /// The value of a query that answers with one series; `None` while it answers with none.
    pub fn value(&self, query: &str) -> Result<Option<f64>, String> {
        let form = format!("query={}", http::percent_encode(query));
        let answer = http::post(self.port, "/api/v1/query", "application/x-www-form-urlencoded", form.as_bytes())
            .map_err(|e| format!("prometheus: {e}"))?;
        let json = answer.json();
        let result = json["data"]["result"].as_array().ok_or_else(|| format!("prometheus: {}", answer.body))?;
        Ok(result.first().and_then(|series| series["value"][1].as_str()).and_then(|value| value.parse().ok()))
    }
}

fn wait_started(process: &mut Process, port: u16, path: &str) {
    wait_for(&format!("the start of a server ({path})"), START_MAX, || {
        if let Some(status) = process.ended() {
            panic!("it ended with {status} instead:\n{}", process.output());
        }
        match http::get(port, path) {
            Ok(answer) if answer.status == 200 => Ok(()),
            Ok(answer) => Err(format!("status {}", answer.status)),
            Err(error) => Err(error.to_string()),
        }
    });
}
