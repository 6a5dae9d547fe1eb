//! A topology as the rest of the engine sees it: checked, complete, units and paths and secrets resolved.
//!
//! Only values. No defaults and no limits here, see `keys.rs`.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use ipnet::IpNet;
use keyloom_actors::features;

use super::Secret;
use crate::access::{self, IpPolicy, Roles, TokenHash};
use crate::front_door::{protocols::cookie::CollectorCookie, schema::Schemas};

/// A whole topology.
#[derive(Clone, PartialEq, Debug)]
pub struct Topology {
    /// The file it came from.
    pub path: PathBuf,
    /// `[engine]`
    pub engine: Engine,
    /// `[log]`
    pub log: Log,
    /// `[store]`
    pub store: Store,
    /// `[lake]`
    pub lake: Lake,
    /// `[backend]`
    pub backend: Option<Backend>,
    /// `[nats]`; present exactly when the log and the store live there.
    pub nats: Option<Nats>,
    /// `[http]`
    pub http: Http,
    /// `[ingest]`
    pub ingest: Ingest,
    /// `[access.NAME]` by name.
    pub access: BTreeMap<String, Access>,
    /// `[source.NAME]` by name.
    pub sources: BTreeMap<String, Source>,
    /// `[ingest] schemas`
    pub schemas: Option<Arc<Schemas>>,
    /// `[sessions]`
    pub sessions: Sessions,
    /// `[handler.NAME]`: the configuration of each handler by name, as given.
    pub handlers: BTreeMap<String, serde_json::Value>,
    /// `[features]` and `[feature.NAME]`.
    pub features: DeclaredFeatures,
    /// `[table.NAME]` by name.
    pub tables: BTreeMap<String, Table>,
}

/// The features that are computed without code.
#[derive(Clone, Debug, Default)]
pub struct DeclaredFeatures {
    /// What holds for all of them.
    pub settings: features::Settings,
    /// What was declared, by name.
    pub definitions: Vec<(String, features::Definition)>,
    /// Both, compiled: what every session shares.
    pub set: Arc<features::FeatureSet>,
}

impl PartialEq for DeclaredFeatures {
    fn eq(&self, other: &Self) -> bool {
        (&self.settings, &self.definitions) == (&other.settings, &other.definitions)
    }
}

impl Topology {
    /// The configuration of the handler that sessions run; an empty object when the file gives none.
    pub fn handler_config(&self) -> serde_json::Value {
        self.handlers.get(&self.sessions.handler).cloned().unwrap_or_else(|| serde_json::json!({}))
    }

    /// The rules of `[access.NAME]` and `[source.NAME]`.
    pub fn rules(&self) -> access::Rules {
        let entry = |a: &Access| access::Entry::new(a.token, a.certificate.clone(), a.roles, a.rate);
        let pseudonyms = |p: &Pseudonyms| {
            let fields = p.fields.iter().map(String::as_str);
            Arc::new(access::privacy::Pseudonyms::new(fields, p.key.expose().as_bytes()))
        };
        let source = |s: &Source| access::Source {
            write_keys: s.write_keys.clone(),
            app_ids: s.app_ids.clone(),
            origins: s.origins.clone(),
            ip: s.ip,
            pseudonyms: s.pseudonyms.as_ref().map(pseudonyms),
            rate: s.rate.map(access::rate::Rate::new),
        };
        let (entries, sources) = (self.access.values().map(entry), self.sources.values().map(source));
        access::Rules::new(entries.collect(), sources.collect(), self.ingest.ip, self.http.trusted_proxies.clone())
    }
}

/// The engine itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Engine {
    /// Its name in logs and ownership records.
    pub name: String,
    /// Partitions of the key space, 1 to 64.
    pub partitions: u32,
    /// Folder of the embedded homes.
    pub data_dir: PathBuf,
    /// Worker shards per partition; `None`: as many as there are cores.
    pub shards: Option<u32>,
    /// Bytes of events in flight, shared by the partitions.
    pub in_flight_max: u64,
    /// How long an orderly end may take.
    pub drain_limit: Duration,
}

/// How long a log keeps events. `None` is no limit of that kind; at least one is given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Retention {
    /// By age.
    pub age: Option<Duration>,
    /// By size of one partition's log, in bytes.
    pub bytes: Option<u64>,
}

/// When the embedded log tells the disk to be sure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fsync {
    /// Before an event is acknowledged, together with others.
    Group,
    /// Never: for trials.
    Never,
}

/// Where events are stored first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Log {
    /// On this machine.
    Embedded {
        /// Fsync policy.
        fsync: Fsync,
        /// How long events stay.
        retention: Retention,
        /// How long the log itself absorbs repeats.
        dedupe_window: Duration,
    },
    /// In JetStream.
    Nats {
        /// The stream; with several partitions `<stream>_<p>`.
        stream: String,
        /// What it takes, with one partition.
        subjects: Vec<String>,
        /// Copies, 1 to 5.
        replicas: u8,
        /// How long events stay.
        retention: Retention,
        /// How long the log itself absorbs repeats.
        dedupe_window: Duration,
    },
}

/// Where features, state and checkpoints live.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Store {
    /// Its home.
    pub home: StoreHome,
    /// Time between checkpoints.
    pub checkpoint_every: Duration,
    /// Bytes of emitted rows that may wait for the lake, shared by the partitions.
    pub outbox_max: u64,
}

/// The home of a store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StoreHome {
    /// On this machine.
    Embedded,
    /// In the stream behind a key-value bucket.
    Nats {
        /// The bucket.
        bucket: String,
        /// Copies, 1 to 5.
        replicas: u8,
    },
}

/// Where table files go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Lake {
    /// A folder.
    Dir {
        /// Its path.
        path: PathBuf,
    },
    /// A bucket.
    S3(S3),
}

/// A bucket of S3 or of a service like it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct S3 {
    /// The bucket.
    pub bucket: String,
    /// What stands before the table in object names, without slashes at the ends; may be empty.
    pub prefix: String,
    /// Region; `None`: from the environment.
    pub region: Option<String>,
    /// Another service than AWS.
    pub endpoint: Option<String>,
    /// Profile of the shared AWS configuration.
    pub profile: Option<String>,
    /// Access key id; `None`: credentials come from the environment.
    pub access_key: Option<Secret>,
    /// Secret of `access_key`; present with it.
    pub secret_key: Option<Secret>,
    /// Session token of `access_key`.
    pub session_token: Option<Secret>,
}

/// Where feature answers go beside the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Backend {
    /// Which database.
    pub home: BackendHome,
    /// What stands before each key.
    pub prefix: String,
    /// Answers leave when their event time is this long ago.
    pub ttl: Option<Duration>,
}

/// The database of a feature backend.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BackendHome {
    /// A Redis.
    Redis {
        /// `redis://host:port/db` or `rediss://host:port/db`, without credentials.
        url: String,
        /// User of the password.
        user: Option<String>,
        /// Password.
        password: Option<Secret>,
        /// Certificates to trust instead of the system's.
        ca: Option<PathBuf>,
    },
    /// A table of DynamoDB.
    Dynamodb {
        /// The table.
        table: String,
        /// Region; `None`: from the environment.
        region: Option<String>,
        /// Another service than AWS.
        endpoint: Option<String>,
        /// Profile of the shared AWS configuration.
        profile: Option<String>,
        /// Access key id; `None`: credentials come from the environment.
        access_key: Option<Secret>,
        /// Secret of `access_key`; present with it.
        secret_key: Option<Secret>,
        /// Session token of `access_key`.
        session_token: Option<Secret>,
    },
}

/// A NATS server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Nats {
    /// `nats://host:port` or `tls://host:port`, without credentials.
    pub url: String,
    /// How to authenticate.
    pub auth: NatsAuth,
    /// TLS beyond what the url says.
    pub tls: Option<NatsTls>,
}

/// How to authenticate with NATS.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NatsAuth {
    /// Not at all.
    None,
    /// With a token.
    Token(Secret),
    /// With user and password.
    User {
        /// The user.
        user: String,
        /// The password.
        password: Secret,
    },
    /// With the seed of an NKey.
    Nkey(Secret),
    /// With the contents of a credentials file.
    Creds(Secret),
}

/// TLS with NATS.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NatsTls {
    /// Certificates to trust beside the system's.
    pub ca: Option<PathBuf>,
    /// The engine's certificate; present with `key`.
    pub cert: Option<PathBuf>,
    /// The private key of `cert`.
    pub key: Option<PathBuf>,
    /// Handshake before the server's greeting.
    pub first: bool,
}

/// The HTTP faces.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Http {
    /// Addresses of the faces.
    pub listen: Listen,
    /// Largest request in bytes, after decompression.
    pub body_max: u64,
    /// Largest event in bytes.
    pub event_max: u64,
    /// Most events in one request.
    pub events_max: u64,
    /// Bytes of request bodies being worked on.
    pub in_flight_max: u64,
    /// Open connections.
    pub connections_max: u64,
    /// How long the head of a request may take to arrive.
    pub header_timeout: Duration,
    /// A connection without a request is closed after this long.
    pub idle_timeout: Duration,
    /// A client that reads nothing of its answer for this long is cut off.
    pub write_timeout: Duration,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Encryption.
    pub tls: Option<HttpTls>,
}

/// Where the faces listen; the same address where they share one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Listen {
    /// The front door.
    pub ingest: SocketAddr,
    /// The feature API.
    pub features: SocketAddr,
    /// Health, metrics and `/api`.
    pub admin: SocketAddr,
}

/// TLS of the HTTP faces.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HttpTls {
    /// The engine's certificate.
    pub cert: PathBuf,
    /// The private key of `cert`.
    pub key: PathBuf,
    /// Who vouches for certificates of clients.
    pub client_ca: Option<PathBuf>,
}

/// The front door beside what all faces share.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ingest {
    /// What is kept of client addresses, unless a source says otherwise.
    pub ip: IpPolicy,
    /// The cookie by which a tracker's browser is known again; `None`: there is none.
    pub cookie: Option<CollectorCookie>,
}

/// Somebody who may come in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Access {
    /// Hash of the token; this, or `certificate`.
    pub token: Option<TokenHash>,
    /// A name in the client's certificate.
    pub certificate: Option<String>,
    /// What they may do.
    pub roles: Roles,
    /// Events per second, and other requests per second.
    pub rate: Option<u32>,
}

/// Trackers and pages that may send events.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source {
    /// Write keys of its trackers.
    pub write_keys: Vec<String>,
    /// Applications of its trackers without a key.
    pub app_ids: Vec<String>,
    /// Pages whose browsers may send; empty: any.
    pub origins: Vec<String>,
    /// What is kept of client addresses; `None`: as `[ingest]` says.
    pub ip: Option<IpPolicy>,
    /// Fields whose values are replaced.
    pub pseudonyms: Option<Pseudonyms>,
    /// Events per second.
    pub rate: Option<u32>,
}

/// Fields whose values are replaced.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pseudonyms {
    /// By name, or by path.
    pub fields: Vec<String>,
    /// The key of the replacement.
    pub key: Secret,
}

/// Sessions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sessions {
    /// Paths to the key of an event, tried in order.
    pub key: Vec<String>,
    /// The key of events that have none; `None`: they become dead letters.
    pub key_fallback: Option<String>,
    /// The handler, by name.
    pub handler: String,
    /// Sessions in memory, shared by the partitions.
    pub resident_max: u64,
    /// Idle sessions leave memory after this long.
    pub idle_after: Duration,
    /// Tries of one event before it is dead-lettered.
    pub attempts: u32,
    /// A handler that takes longer over one event does not come back.
    pub stuck_after: Duration,
}

/// A table of the lake.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Table {
    /// Where its rows come from.
    pub from: TableFrom,
    /// When a file is finished.
    pub cut: Cut,
}

/// Where the rows of a table come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TableFrom {
    /// One row for each event of the log.
    Events,
    /// The rows that the sessions' handler emits.
    Handler,
}

/// A file of a table is finished when the first of these is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cut {
    /// Rows.
    pub rows: u64,
    /// Size, in bytes.
    pub bytes: u64,
    /// Age of the oldest row.
    pub age: Duration,
}
