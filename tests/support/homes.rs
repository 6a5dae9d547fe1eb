//! The homes behind the ports, opened as the engine opens them: each in a folder of its own, with its server where it
//! needs one, and able to end and begin again with what it has stored.

use std::{fs, io::ErrorKind, path::PathBuf, sync::Arc, time::Duration};

use keyloom_actors::{
    backend::FeatureBackend,
    event::key_paths::KeyPaths,
    ports::{Lake, Log, Store},
    timestamp::SystemClock,
};
use keyloom_engine::{
    backend::{AwsCredentials, DynamoBackend, DynamoOptions, RedisBackend, RedisOptions},
    embedded::{EmbeddedError, EmbeddedHome, EmbeddedLog, EmbeddedOptions, EmbeddedStore},
    lake::{DirLake, S3Credentials, S3Lake, S3Options},
    nats::{self, Connection, LogOptions, NatsAuth, NatsOptions, StoreOptions},
};
use tempfile::TempDir;

use super::{
    engine::folder,
    http,
    servers::{Dynamo, Nats, Redis, S3, S3_ACCESS_KEY, S3_SECRET_KEY},
    wait_for,
};

/// How long the log remembers ids; longer than any test.
const DEDUPE_WINDOW: Duration = Duration::from_secs(600);
/// How long a server may take to end, and the threads of an embedded home that was dropped.
const END_MAX: Duration = Duration::from_secs(30);
const BUCKET: &str = "lake";

/// A home of log and store.
#[derive(Debug)]
pub struct Home {
    nats: Option<Nats>,
    folder: TempDir,
}

impl Home {
    /// The embedded one.
    pub fn embedded() -> Self {
        Self { nats: None, folder: folder() }
    }

    /// The one in NATS, on a server of its own.
    pub fn nats() -> Self {
        let folder = folder();
        Self { nats: Some(Nats::start(folder.path(), "")), folder }
    }

    /// Opens the log. Waits for whatever was opened before and dropped.
    pub async fn log(&self, partitions: u32) -> Arc<dyn Log> {
        let Some(connection) = self.connect().await else {
            return Arc::new(EmbeddedLog::new(&self.open_embedded(), Arc::new(SystemClock)));
        };
        let options = LogOptions {
            stream: "raw_events".to_owned(),
            subjects: vec!["events.>".to_owned()],
            partitions,
            replicas: 1,
            max_age: None,
            max_bytes: None,
            dedupe_window: DEDUPE_WINDOW,
            keys: KeyPaths::new(["domain_userid"]),
        };
        Arc::new(nats::open_log(&connection, options).await.unwrap_or_else(|e| panic!("{e}")))
    }

    /// Opens the store. Waits for whatever was opened before and dropped.
    pub async fn store(&self) -> Arc<dyn Store> {
        let Some(connection) = self.connect().await else {
            return Arc::new(EmbeddedStore::new(&self.open_embedded()));
        };
        let options = StoreOptions { bucket: "latest_features".to_owned(), replicas: 1 };
        Arc::new(nats::open_store(&connection, options).await.unwrap_or_else(|e| panic!("{e}")))
    }

    /// Ends the home's server and starts it again; an embedded home has ended when everything of it was dropped.
    pub fn restart(&mut self) {
        if let Some(mut server) = self.nats.take() {
            server.process.signal("TERM");
            server.process.wait(END_MAX);
            self.nats = Some(Nats::start(self.folder.path(), ""));
        }
    }

    async fn connect(&self) -> Option<Connection> {
        let url = self.nats.as_ref()?.url();
        let options = NatsOptions { url, auth: NatsAuth::None, tls: None, name: "contract".to_owned() };
        Some(nats::connect(&options).await.unwrap_or_else(|e| panic!("{e}")))
    }

    fn open_embedded(&self) -> EmbeddedHome {
        let options = EmbeddedOptions {
            data_dir: self.folder.path().join("data"),
            fsync: true,
            retention_age: None,
            retention_bytes: None,
            dedupe_window: DEDUPE_WINDOW,
        };
        wait_for("the data folder to be free", END_MAX, || match EmbeddedHome::open(&options) {
            Ok(home) => Ok(home),
            Err(locked @ EmbeddedError::Locked(_)) => Err(locked.to_string()),
            Err(error) => panic!("{error}"),
        })
    }
}

/// A home of the lake.
#[derive(Debug)]
pub struct LakeHome {
    s3: Option<S3>,
    folder: TempDir,
}

impl LakeHome {
    /// A folder.
    pub fn dir() -> Self {
        Self { s3: None, folder: folder() }
    }

    /// A bucket, on a server of its own.
    pub fn s3() -> Self {
        let folder = folder();
        Self { s3: Some(S3::start(folder.path(), &[BUCKET], false)), folder }
    }

    /// Opens it, any number of times.
    pub async fn open(&self) -> Arc<dyn Lake> {
        let Some(server) = &self.s3 else {
            return Arc::new(DirLake::open(&self.path()).unwrap_or_else(|e| panic!("{e}")));
        };
        let credentials = S3Credentials {
            access_key: S3_ACCESS_KEY.to_owned(),
            secret_key: S3_SECRET_KEY.to_owned(),
            session_token: None,
        };
        let options = S3Options {
            bucket: BUCKET.to_owned(),
            region: Some("us-east-1".to_owned()),
            endpoint: Some(server.url()),
            credentials: Some(credentials),
            ..S3Options::default()
        };
        Arc::new(S3Lake::open(&options).await.unwrap_or_else(|e| panic!("{e}")))
    }

    /// What somebody else reads under `name`: not through the port, which has no way to read. Text only.
    pub fn read(&self, name: &str) -> Option<String> {
        let Some(server) = &self.s3 else {
            return match fs::read_to_string(self.path().join(name)) {
                Ok(text) => Some(text),
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                Err(error) => panic!("{name}: {error}"),
            };
        };
        let parts: Vec<String> = name.split('/').map(http::percent_encode).collect();
        let path = format!("/{BUCKET}/{}", parts.join("/"));
        // moto refuses requests that nobody signed, but does not check what a signature is worth.
        let signed = format!("AWS4-HMAC-SHA256 Credential={S3_ACCESS_KEY}/20260101/us-east-1/s3/aws4_request");
        let answer =
            http::request(server.port, "GET", &path, &[("authorization", &signed)], b"").expect("moto answers");
        assert!(matches!(answer.status, 200 | 404), "{name}: {} {}", answer.status, answer.body);
        (answer.status == 200).then_some(answer.body)
    }

    /// Whether an object may be read while it is replaced. S3 can do that; moto reads and writes one buffer without a
    /// lock, and answers with status 500 or with a part.
    pub fn reads_while_it_writes(&self) -> bool {
        self.s3.is_none()
    }

    /// Everything beside the lake that its home must not touch.
    pub fn outside(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.folder.path()).expect("the test's folder is readable");
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
        paths.retain(|path| *path != self.path());
        paths.sort();
        paths
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("lake")
    }
}

/// What stands before each key in a feature backend of a test.
pub const BACKEND_PREFIX: &str = "test:";

/// A feature backend.
#[derive(Debug)]
pub enum BackendHome {
    /// In a Redis of its own.
    Redis(Redis, TempDir),
    /// In a table of DynamoDB, on a server of its own.
    Dynamodb(Dynamo, TempDir),
}

impl BackendHome {
    /// The one in a Redis; `None` on a machine without Redis.
    pub fn redis() -> Option<Self> {
        let folder = folder();
        (!super::skipped("redis")).then(|| Self::Redis(Redis::start(folder.path(), &[]), folder))
    }

    /// The one in DynamoDB.
    pub fn dynamodb() -> Option<Self> {
        let folder = folder();
        Some(Self::Dynamodb(Dynamo::start(folder.path(), &["features"]), folder))
    }

    /// Opens it, any number of times.
    pub fn open(&self, ttl: Option<Duration>) -> Arc<dyn FeatureBackend> {
        let prefix = BACKEND_PREFIX.to_owned();
        match self {
            Self::Redis(server, _) => {
                let options = RedisOptions { url: server.url(), prefix, ttl, ..RedisOptions::default() };
                Arc::new(RedisBackend::new(&options).unwrap_or_else(|e| panic!("{e}")))
            }
            Self::Dynamodb(server, _) => {
                let (access_key, secret_key) = (S3_ACCESS_KEY.to_owned(), S3_SECRET_KEY.to_owned());
                Arc::new(DynamoBackend::new(DynamoOptions {
                    table: "features".to_owned(),
                    prefix,
                    ttl,
                    endpoint: Some(server.url()),
                    credentials: Some(AwsCredentials { access_key, secret_key, session_token: None }),
                    ..DynamoOptions::default()
                }))
            }
        }
    }

    /// The answer of a key as somebody else reads it: JSON without its version.
    pub fn answer(&self, key: &str) -> Option<serde_json::Value> {
        let key = format!("{BACKEND_PREFIX}{key}");
        match self {
            Self::Redis(server, _) => redis_answer(server, &key),
            Self::Dynamodb(server, _) => dynamo_answer(server, &key),
        }
    }

    /// Everything in it is gone.
    pub fn wipe(&self) {
        match self {
            Self::Redis(server, _) => drop(server.ask(&["FLUSHALL"])),
            Self::Dynamodb(server, _) => {
                server.ask("DeleteTable", &serde_json::json!({ "TableName": "features" }));
                server.create("features");
            }
        }
    }

    /// Its server is gone.
    pub fn kill(&mut self) {
        let process = match self {
            Self::Redis(server, _) => &mut server.process,
            Self::Dynamodb(server, _) => server.process(),
        };
        process.kill();
    }
}

/// The answer under `key` in a Redis, without its version.
pub fn redis_answer(redis: &Redis, key: &str) -> Option<serde_json::Value> {
    let text = redis.ask(&["GET", key]).pop().flatten()?;
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{key}: {e} in {text}"));
    let version = json.as_object_mut().and_then(|answer| answer.remove("version"));
    assert!(version.is_some(), "{text}");
    Some(json)
}

/// The answer under `key` in DynamoDB.
pub fn dynamo_answer(dynamo: &Dynamo, key: &str) -> Option<serde_json::Value> {
    let item = dynamo.item("features", key)?;
    let text = item["answer"]["S"].as_str()?;
    let json: serde_json::Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{key}: {e} in {text}"));
    assert_eq!(item["seq"]["N"].as_str(), Some(json["seq"].to_string().as_str()), "{item}");
    assert_eq!(item["event_time"]["S"], json["event_time"], "{item}");
    Some(json)
}
