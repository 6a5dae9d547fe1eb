//! The sections and keys of a topology file: names, kinds of value, limits, defaults and what they are for.
//!
//! One table, from which reading, "did you mean", masking and the JSON schema follow. No code that reads values here.

use std::time::Duration;

use keyloom_actors::features;

use super::names::{self, Check};
use crate::access::{IpPolicy, Role, rate::RATE_MAX};

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}
const MS_100: Duration = Duration::from_millis(100);
const HOUR: Duration = secs(3600);
const DAY: Duration = secs(86_400);
const DAYS_30: Duration = secs(30 * 86_400);
const YEARS_10: Duration = secs(3650 * 86_400);
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// The version of the file format.
pub(super) const VERSION: u64 = 1;

/// Sections that later versions will know.
pub(super) const RESERVED: [&str; 2] = ["identity", "model"];

/// Kinds of value.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// A text.
    Text(Check),
    /// A list of texts, up to this many.
    Texts(Check, usize),
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A whole number within these limits.
    Count(u64, u64),
    /// A size in bytes within these limits.
    Size(u64, u64),
    /// A duration within these limits.
    Time(Duration, Duration),
    /// `true` or `false`.
    Flag,
    /// A path, relative to the file.
    Path,
    /// An IP address and a port.
    Address,
    /// A secret, by reference.
    Secret,
    /// More keys, as an inline table.
    Keys(&'static [Key]),
    /// A window of time: a duration, a word, or `{ tumbling = "1d" }`.
    Window,
    /// Types by names of fields, as an inline table.
    Types,
}

/// One key.
#[derive(Clone, Copy)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// What it means when absent.
    pub(super) default: Option<&'static str>,
    /// A value as it could stand there, without quotes.
    pub(super) example: &'static str,
    /// The section's `kind` that this key belongs to.
    pub(super) only: Option<&'static str>,
    pub(super) about: &'static str,
}

/// One section.
pub(super) struct Section {
    pub(super) name: &'static str,
    pub(super) keys: &'static [Key],
    pub(super) about: &'static str,
}

/// A key without a default.
const fn key(name: &'static str, kind: Kind, example: &'static str, about: &'static str) -> Key {
    Key { name, kind, default: None, example, only: None, about }
}

impl Key {
    /// The example is the default.
    const fn default(self) -> Self {
        Self { default: Some(self.example), ..self }
    }

    /// Only with this `kind` of its section.
    const fn only(self, kind: &'static str) -> Self {
        Self { only: Some(kind), ..self }
    }

    /// `raw` as it would stand in a file.
    pub(super) fn toml(&self, raw: &str) -> String {
        match self.kind {
            Kind::Count(..) | Kind::Flag | Kind::Secret | Kind::Keys(_) | Kind::Types => raw.to_owned(),
            Kind::Texts(..) => format!("[\"{raw}\"]"),
            _ => format!("\"{raw}\""),
        }
    }
}

const RETENTION: [Key; 2] = [
    key("age", Kind::Time(secs(1), YEARS_10), "7d", "Events older than this may go."),
    key(
        "bytes",
        Kind::Size(MIB, 1024 * TIB),
        "10GiB",
        "The oldest events may go when a partition's log is larger than this.",
    ),
];

const TLS: [Key; 4] = [
    key("ca", Kind::Path, "ca.pem", "Certificates to trust beside the system's, PEM."),
    key("cert", Kind::Path, "client.pem", "Certificate that this engine shows, PEM; together with key."),
    key("key", Kind::Path, "client.key", "Private key of cert, PEM; not readable by everyone."),
    key("first", Kind::Flag, "true", "Begin with the TLS handshake, before the server says anything (default: false)."),
];

const HTTP_TLS: [Key; 3] = [
    key("cert", Kind::Path, "server.pem", "Certificate that the engine shows, and what leads to its root, PEM."),
    key("key", Kind::Path, "server.key", "Private key of cert, PEM; not readable by everyone."),
    key(
        "client_ca",
        Kind::Path,
        "clients.pem",
        "Who vouches for certificates of clients, PEM. A client may show one, see [access.NAME]; it need not.",
    ),
];

const COOKIE: [Key; 6] = [
    key("enabled", Kind::Flag, "true", "Whether trackers get the cookie (default: true)."),
    key("name", Kind::Text(names::cookie_name), "sp", "Its name.").default(),
    key("max_age", Kind::Time(secs(1), YEARS_10), "365d", "How long browsers keep it.").default(),
    key("secure", Kind::Flag, "true", "Only over HTTPS (default: true)."),
    key("same_site", Kind::Choice(&["none", "lax", "strict"]), "none", "From which pages browsers send it.").default(),
    key("domain", Kind::Text(names::domain), "example.com", "The domain it is for (default: the host that was asked)."),
];

const PSEUDONYMS: [Key; 2] = [
    key(
        "fields",
        Kind::Texts(names::key_path, 100),
        "user_id",
        "Fields whose values are replaced, by name, or by path: \"traits.email\".",
    ),
    key("key", Kind::Secret, "{ env = \"PSEUDONYM_KEY\" }", "The key of HMAC-SHA-256; at least 16 characters."),
];

const CUT: [Key; 3] = [
    key("rows", Kind::Count(1, 100_000_000), "1_000_000", "A file is cut at this many rows ...").default(),
    key("bytes", Kind::Size(KIB, 4 * GIB), "128MiB", "... or at about this size ...").default(),
    key("age", Kind::Time(MS_100, DAY), "5m", "... or when its first row has waited this long, whichever comes first.")
        .default(),
];

/// `[engine]`
pub(super) const ENGINE: Section = Section {
    name: "engine",
    about: "The engine itself.",
    keys: &[
        key("name", Kind::Text(names::name), "keyloom", "Name in logs and in the records of who owns a partition.")
            .default(),
        key(
            "partitions",
            Kind::Count(1, 64),
            "1",
            "Slices of the key space, each with its own ordered log. Fixed once data exists.",
        )
        .default(),
        key("data_dir", Kind::Path, "data", "Folder of the embedded log and store.").default(),
        key("shards", Kind::Count(1, 256), "2", "Worker shards per partition (default: number of cores)."),
        key(
            "in_flight_max",
            Kind::Size(MIB, 64 * GIB),
            "128MiB",
            "Bytes of events in flight, shared by the partitions, before they stop reading.",
        )
        .default(),
        key("drain_limit", Kind::Time(MS_100, HOUR), "10s", "How long an orderly end may take before it is cut short.")
            .default(),
    ],
};

/// `[log]`
pub(super) const LOG: Section = Section {
    name: "log",
    about: "Where events are stored first, in order.",
    keys: &[
        key("kind", Kind::Choice(&["embedded", "nats"]), "embedded", "Its home: this machine, or NATS JetStream.")
            .default(),
        key(
            "fsync",
            Kind::Choice(&["group", "never"]),
            "group",
            "group: an event is acknowledged after an fsync shared with others; never: for trials.",
        )
        .default()
        .only("embedded"),
        key(
            "stream",
            Kind::Text(names::name),
            "raw_events",
            "The stream; with several partitions, the first part of their names.",
        )
        .default()
        .only("nats"),
        key("subjects", Kind::Texts(names::subject, 16), "events.>", "Subjects the stream takes, with one partition.")
            .default()
            .only("nats"),
        key("replicas", Kind::Count(1, 5), "1", "Servers that hold a copy.").default().only("nats"),
        key(
            "retention",
            Kind::Keys(&RETENTION),
            "{ age = \"7d\", bytes = \"10GiB\" }",
            "How long events stay (default: age 7d; embedded also bytes 10GiB). Embedded never drops what is still needed.",
        ),
        key(
            "dedupe_window",
            Kind::Time(MS_100, DAY),
            "2m",
            "A repeated event id is absorbed by the log for this long.",
        )
        .default(),
    ],
};

/// `[store]`
pub(super) const STORE: Section = Section {
    name: "store",
    about: "Features, session state and checkpoints.",
    keys: &[
        key(
            "kind",
            Kind::Choice(&["embedded", "nats"]),
            "embedded",
            "Its home, the same as the log's (default: the log's).",
        ),
        key(
            "bucket",
            Kind::Text(names::name),
            "latest_features",
            "The key-value bucket that any NATS client may read.",
        )
        .default()
        .only("nats"),
        key("replicas", Kind::Count(1, 5), "1", "Servers that hold a copy (default: the log's).").only("nats"),
        key("checkpoint_every", Kind::Time(MS_100, HOUR), "5s", "Time between checkpoints.").default(),
        key(
            "outbox_max",
            Kind::Size(MIB, 1024 * TIB),
            "10GiB",
            "Rows that handlers emit and the lake does not take yet, shared by the partitions, before they pause.",
        )
        .default(),
    ],
};

/// `[lake]`
pub(super) const LAKE: Section = Section {
    name: "lake",
    about: "Where table files go.",
    keys: &[
        key("kind", Kind::Choice(&["dir", "s3"]), "dir", "A folder, or a bucket of S3 or of a service like it.")
            .default(),
        key("path", Kind::Path, "lake", "The folder.").default().only("dir"),
        key("bucket", Kind::Text(names::bucket), "lake", "The bucket; it must exist.").only("s3"),
        key(
            "prefix",
            Kind::Text(names::prefix),
            "prod",
            "What stands before the table in object names (default: nothing).",
        )
        .only("s3"),
        key("region", Kind::Text(names::filled), "eu-west-1", "Region (default: from the environment).").only("s3"),
        key(
            "endpoint",
            Kind::Text(names::endpoint),
            "http://127.0.0.1:9000",
            "Another service than AWS (default: AWS).",
        )
        .only("s3"),
        key("profile", Kind::Text(names::filled), "prod", "Profile of the shared AWS configuration.").only("s3"),
        key(
            "access_key",
            Kind::Secret,
            "{ env = \"S3_ACCESS_KEY\" }",
            "Access key id (default: from the environment).",
        )
        .only("s3"),
        key("secret_key", Kind::Secret, "{ env = \"S3_SECRET_KEY\" }", "Secret of access_key.").only("s3"),
        key("session_token", Kind::Secret, "{ env = \"S3_SESSION_TOKEN\" }", "Session token of access_key.").only("s3"),
    ],
};

/// `[backend]`
pub(super) const BACKEND: Section = Section {
    name: "backend",
    about: "Another database that has the feature answers too, beside the store; none without this section.",
    keys: &[
        key("kind", Kind::Choice(&["redis", "dynamodb"]), "redis", "A Redis, or a table of DynamoDB.").default(),
        key(
            "url",
            Kind::Text(names::redis_url),
            "redis://127.0.0.1:6379",
            "The primary, with /NUMBER for another database than 0; rediss:// for an encrypted connection.",
        )
        .default()
        .only("redis"),
        key("user", Kind::Text(names::filled), "keyloom", "User, together with password.").only("redis"),
        key("password", Kind::Secret, "{ env = \"REDIS_PASSWORD\" }", "Password.").only("redis"),
        key("ca", Kind::Path, "ca.pem", "Certificates to trust instead of the system's, PEM.").only("redis"),
        key(
            "prefix",
            Kind::Text(names::key_prefix),
            "keyloom:",
            "What stands before each key; engines that share a backend need one each.",
        )
        .default(),
        key(
            "ttl",
            Kind::Time(secs(1), YEARS_10),
            "30d",
            "Answers leave the backend when the newest event of their key is older (default: never).",
        ),
        key("table", Kind::Text(names::dynamo_table), "features", "The table; it must exist.").only("dynamodb"),
        key("region", Kind::Text(names::filled), "eu-west-1", "Region (default: from the environment).")
            .only("dynamodb"),
        key(
            "endpoint",
            Kind::Text(names::endpoint),
            "http://127.0.0.1:8000",
            "Another service than AWS (default: AWS).",
        )
        .only("dynamodb"),
        key("profile", Kind::Text(names::filled), "prod", "Profile of the shared AWS configuration.").only("dynamodb"),
        key(
            "access_key",
            Kind::Secret,
            "{ env = \"DYNAMODB_ACCESS_KEY\" }",
            "Access key id (default: from the environment).",
        )
        .only("dynamodb"),
        key("secret_key", Kind::Secret, "{ env = \"DYNAMODB_SECRET_KEY\" }", "Secret of access_key.").only("dynamodb"),
        key("session_token", Kind::Secret, "{ env = \"DYNAMODB_SESSION_TOKEN\" }", "Session token of access_key.")
            .only("dynamodb"),
    ],
};

/// `[nats]`
pub(super) const NATS: Section = Section {
    name: "nats",
    about: "The NATS server that log and store use. One way to authenticate: token, user and password, nkey or creds.",
    keys: &[
        key(
            "url",
            Kind::Text(names::nats_url),
            "nats://127.0.0.1:4222",
            "One server; the others of its cluster are learned from it.",
        )
        .default(),
        key("token", Kind::Secret, "{ env = \"NATS_TOKEN\" }", "Token."),
        key("user", Kind::Text(names::filled), "keyloom", "User, together with password."),
        key("password", Kind::Secret, "{ env = \"NATS_PASSWORD\" }", "Password of user."),
        key("nkey", Kind::Secret, "{ file = \"keyloom.nk\" }", "Seed of an NKey user."),
        key("creds", Kind::Secret, "{ file = \"nats.creds\" }", "A credentials file."),
        key("tls", Kind::Keys(&TLS), "{ ca = \"ca.pem\" }", "Encryption beyond what tls:// in url asks for."),
    ],
};

/// `[http]`
pub(super) const HTTP: Section = Section {
    name: "http",
    about: "Front door, feature API, admin pages and metrics.",
    keys: &[
        key(
            "listen",
            Kind::Address,
            "127.0.0.1:8080",
            "Address and port of all faces. Beyond loopback each needs somebody who may come in, see [access.NAME].",
        )
        .default(),
        key("body_max", Kind::Size(KIB, GIB), "8MiB", "Largest request, after decompression.").default(),
        key("event_max", Kind::Size(KIB, 64 * MIB), "256KiB", "Largest event.").default(),
        key("events_max", Kind::Count(1, 1_000_000), "10_000", "Most events in one request.").default(),
        key(
            "in_flight_max",
            Kind::Size(MIB, 64 * GIB),
            "64MiB",
            "Bytes of request bodies being worked on, before the front door says 429.",
        )
        .default(),
        key(
            "connections_max",
            Kind::Count(1, 1_000_000),
            "10_000",
            "Open connections; further ones are closed at once.",
        )
        .default(),
        key(
            "header_timeout",
            Kind::Time(MS_100, HOUR),
            "10s",
            "How long a TLS handshake, or the head of a request, may take to arrive.",
        )
        .default(),
        key(
            "idle_timeout",
            Kind::Time(MS_100, DAY),
            "75s",
            "A connection without a request is closed after this long.",
        )
        .default(),
        key(
            "write_timeout",
            Kind::Time(MS_100, HOUR),
            "30s",
            "A client that reads nothing of its answer for this long is cut off.",
        )
        .default(),
        key(
            "trusted_proxies",
            Kind::Texts(names::network, 100),
            "10.0.0.0/8",
            "Networks of proxies whose X-Forwarded-For is believed (default: none).",
        ),
        key(
            "tls",
            Kind::Keys(&HTTP_TLS),
            "{ cert = \"server.pem\", key = \"server.key\" }",
            "Encryption, for all faces (default: none).",
        ),
    ],
};

/// `[ingest]`
pub(super) const INGEST: Section = Section {
    name: "ingest",
    about: "The front door.",
    keys: &[
        key("listen", Kind::Address, "127.0.0.1:8080", "An address of its own (default: that of [http])."),
        key(
            "ip",
            Kind::Choice(&IpPolicy::NAMES),
            "truncate",
            "What is kept of the client addresses that trackers' events get: all, the /24 or /48, nothing.",
        )
        .default(),
        key(
            "cookie",
            Kind::Keys(&COOKIE),
            "{ enabled = true, name = \"sp\" }",
            "The cookie by which Snowplow trackers know a browser again.",
        ),
        key(
            "schemas",
            Kind::Path,
            "schemas",
            "A folder of JSON Schemas, NAME.json for the events of that name: what does not fit is refused (default: none).",
        ),
    ],
};

/// `[admin]`
pub(super) const ADMIN: Section = Section {
    name: "admin",
    about: "Health, metrics and /api.",
    keys: &[key("listen", Kind::Address, "127.0.0.1:9090", "An address of its own (default: that of [http]).")],
};

/// `[access.NAME]`
pub(super) const ACCESS: Section = Section {
    name: "access",
    about: "Somebody who may come in, by a token or a certificate. With one of these or a [source.NAME], everything but /livez and /readyz needs a role.",
    keys: &[
        key(
            "token_sha256",
            Kind::Text(names::token_hash),
            "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "SHA-256 of the token, as keyloom token new prints it.",
        ),
        key(
            "certificate",
            Kind::Text(names::domain),
            "service.example.com",
            "Instead of a token: a DNS name in the client's certificate; needs tls.client_ca in [http].",
        ),
        key(
            "roles",
            Kind::Texts(names::role, Role::NAMES.len()),
            "ingest",
            "What they may do: ingest, features, metrics, admin-read, admin-write.",
        ),
        key(
            "rate",
            Kind::Count(1, RATE_MAX),
            "1_000",
            "Events per second, and other requests per second (default: no limit). Ten seconds' worth may come at once.",
        ),
    ],
};

/// `[source.NAME]`
pub(super) const SOURCE: Section = Section {
    name: "source",
    about: "Trackers and pages that may send events by a key that is no secret, and what is kept of what they send.",
    keys: &[
        key("write_keys", Kind::Texts(names::public_key, 100), "web-1", "What its trackers send as write key."),
        key(
            "app_ids",
            Kind::Texts(names::public_key, 100),
            "shop",
            "Applications of trackers that have no key, as Snowplow's.",
        ),
        key(
            "origins",
            Kind::Texts(names::origin, 100),
            "https://shop.example.com",
            "Pages whose browsers may send; others are refused (default: any).",
        ),
        key(
            "ip",
            Kind::Choice(&IpPolicy::NAMES),
            "drop",
            "What is kept of client addresses, also where events hold one (default: that of [ingest]).",
        ),
        key(
            "pseudonyms",
            Kind::Keys(&PSEUDONYMS),
            "{ fields = [\"user_id\"], key = { env = \"PSEUDONYM_KEY\" } }",
            "Fields whose values are replaced before anything is stored.",
        ),
        key(
            "rate",
            Kind::Count(1, RATE_MAX),
            "1_000",
            "Events per second (default: no limit); ten seconds' worth at once.",
        ),
    ],
};

/// `[sessions]`
pub(super) const SESSIONS: Section = Section {
    name: "sessions",
    about: "One session for each key.",
    keys: &[
        key(
            "key",
            Kind::Texts(names::key_path, 8),
            "domain_userid",
            "Where the key of an event is found; paths tried in order: a field, header:NAME, subject:NUMBER.",
        )
        .default(),
        key(
            "key_fallback",
            Kind::Text(names::event_key),
            "unknown",
            "The key of events that have none; without it they become dead letters.",
        ),
        key("handler", Kind::Text(names::filled), "session-features", "The handler that every session runs.").default(),
        key(
            "resident_max",
            Kind::Count(1, 100_000_000),
            "100_000",
            "Sessions in memory, shared by the partitions; the least recently used leave first.",
        )
        .default(),
        key(
            "idle_after",
            Kind::Time(MS_100, DAYS_30),
            "15m",
            "A session without events leaves memory after this long.",
        )
        .default(),
        key("attempts", Kind::Count(1, 100), "3", "How often an event is tried before it is dead-lettered.").default(),
        key(
            "stuck_after",
            Kind::Time(MS_100, HOUR),
            "60s",
            "A handler that takes longer over one event does not come back: the event is dead-lettered, the process starts anew.",
        )
        .default(),
    ],
};

/// `[features]`
pub(super) const FEATURES: Section = Section {
    name: "features",
    about: "What holds for all declared features, and where features are read.",
    keys: &[
        key(
            "listen",
            Kind::Address,
            "127.0.0.1:8081",
            "An address of the feature API's own (default: that of [http]).",
        ),
        key(
            "lateness",
            Kind::Time(features::WINDOW_MIN, features::WINDOW_MAX),
            "72h",
            "An event older than its key's newest by more than this is counted as late, and changes no feature.",
        )
        .default(),
        key(
            "session_gap",
            Kind::Time(features::WINDOW_MIN, DAYS_30),
            "30m",
            "A pause in event time of at least this long ends a session.",
        )
        .default(),
        key(
            "fields",
            Kind::Types,
            "{ price = \"number\", product = \"nested\" }",
            "The fields of events beside the well-known ones: text, number, bool, nested or any. Given, a name that is not \
             among them is a mistake; without it any name may be used.",
        ),
    ],
};

/// `[feature.NAME]`
pub(super) const FEATURE: Section = Section {
    name: "feature",
    about: "A feature of every key, computed from its events without any code.",
    keys: &[
        key("function", Kind::Choice(features::Function::NAMES), "count", "What is computed."),
        key(
            "of",
            Kind::Text(names::filled),
            "price",
            "Of what: a field, or a CEL expression over fields; for ratio and derived over other features.",
        ),
        key(
            "where",
            Kind::Text(names::filled),
            "event == 'page_view'",
            "Of which events: a predicate in CEL. Without it, of all.",
        ),
        key(
            "window",
            Kind::Window,
            "1h",
            "The last so long; or { tumbling = \"1d\" }, \"session\", \"lifetime\" (default: lifetime).",
        ),
        key(
            "k",
            Kind::Count(1, features::K_MAX as u64),
            "10",
            "How many values last_k, last_distinct_k (default: 10) and top_k (default: 5) answer.",
        ),
        key("max", Kind::Count(1, features::DISTINCT_MAX as u64), "100", "How many values distinct and top_k hold."),
        key(
            "precision",
            Kind::Count(features::PRECISION_MIN as u64, features::PRECISION_MAX as u64),
            "12",
            "Of approx_distinct: its standard error is 1.04 / sqrt(2^precision), 1.6 % at 12 (default: 12).",
        ),
        key(
            "half_life",
            Kind::Time(features::WINDOW_MIN, features::WINDOW_MAX),
            "6h",
            "Of exp_decay: what happened this long ago counts half.",
        ),
        key(
            "scale",
            Kind::Count(0, features::SCALE_MAX as u64),
            "6",
            "Digits behind the point that numbers are kept with (default: 6).",
        ),
        key(
            "ttl",
            Kind::Time(features::WINDOW_MIN, features::WINDOW_MAX),
            "30d",
            "A value whose newest event is older than this reads null.",
        ),
    ],
};

/// `[table.NAME]`
pub(super) const TABLE: Section = Section {
    name: "table",
    about: "A table of the lake. Without any [table.NAME] there is one, raw_events, from the events.",
    keys: &[
        key("from", Kind::Choice(&["events"]), "events", "Where its rows come from: every event of the log.").default(),
        key(
            "handler",
            Kind::Text(names::filled),
            "session-features",
            "Instead of from: the rows that this handler emits.",
        ),
        key(
            "cut",
            Kind::Keys(&CUT),
            "{ rows = 1_000_000, bytes = \"128MiB\", age = \"5m\" }",
            "When a file is finished.",
        ),
    ],
};

/// The sections whose keys are fixed and that appear once.
pub(super) const SECTIONS: [&Section; 11] =
    [&ENGINE, &LOG, &STORE, &LAKE, &NATS, &HTTP, &INGEST, &ADMIN, &SESSIONS, &FEATURES, &BACKEND];

/// Sections that appear once for each name below them.
pub(super) const NAMED_SECTIONS: [&str; 5] = ["access", "source", "handler", "feature", "table"];

/// Every word that may stand at the top of the file.
pub(super) fn top_names() -> impl Iterator<Item = &'static str> {
    ["version"].into_iter().chain(SECTIONS.iter().map(|s| s.name)).chain(NAMED_SECTIONS)
}

/// All keys of all sections, those inside inline tables included.
fn all() -> impl Iterator<Item = Key> {
    let keys = SECTIONS.into_iter().chain([&ACCESS, &SOURCE, &FEATURE, &TABLE]).flat_map(|s| s.keys.iter().copied());
    keys.chain(RETENTION).chain(TLS).chain(HTTP_TLS).chain(COOKIE).chain(CUT)
}

/// Keys whose values are secrets wherever they stand; the key of pseudonyms is one in its section only.
pub(super) fn secret_names() -> impl Iterator<Item = &'static str> {
    all().filter(|k| matches!(k.kind, Kind::Secret)).map(|k| k.name)
}

/// Names that are known in a section and no secrets. In sections that have secrets only their own names count: what is
/// harmless elsewhere may be a secret under a wrong name there.
pub(super) fn plain_names(section: &str) -> Box<dyn Iterator<Item = &'static str>> {
    let keys: Box<dyn Iterator<Item = Key>> = match section {
        "nats" => Box::new(NATS.keys.iter().copied().chain(TLS)),
        "lake" => Box::new(LAKE.keys.iter().copied()),
        "source" => Box::new(SOURCE.keys.iter().copied().chain(PSEUDONYMS)),
        "backend" => Box::new(BACKEND.keys.iter().copied()),
        _ => Box::new(all()),
    };
    Box::new(keys.filter(|k| !matches!(k.kind, Kind::Secret)).map(|k| k.name).chain(top_names()).chain(["env", "file"]))
}
