//! From sections to the parts of a topology, one function each; what must hold between parts is in `check.rs`.

use std::{collections::BTreeMap, ops::Range, sync::Arc, time::Duration};

use toml::de::{DeTable, DeValue};

use super::{
    HandlerCatalog, access,
    features::{self, Windowed},
    handlers, keys,
    problems::quoted,
    reader::{Field, Reader, Section, field, found},
    resolved::*,
    schemas, tables,
};

use crate::front_door::schema::Schemas;

/// What a log keeps when the file does not say, by age ...
const RETENTION_AGE: Duration = Duration::from_secs(7 * 86_400);
/// ... and by size, in the home that never drops what is still needed. In NATS a default limit by size could.
const RETENTION_BYTES: u64 = 10 << 30;

/// A part and the section it came from, for problems between parts. The part is absent if something in it is wrong.
pub(super) struct Part<'a, T> {
    pub(super) section: Section<'a>,
    pub(super) value: Option<T>,
}

/// All parts, and what of them is known even when something beside it is wrong.
pub(super) struct Parts<'a> {
    pub(super) engine: Part<'a, Engine>,
    pub(super) partitions: Option<u32>,
    pub(super) log: Part<'a, Log>,
    pub(super) log_kind: Option<&'static str>,
    pub(super) retention: Option<Retention>,
    pub(super) dedupe_window: Option<Duration>,
    pub(super) subjects: Option<Vec<String>>,
    pub(super) store: Part<'a, Store>,
    pub(super) store_kind: Option<&'static str>,
    pub(super) checkpoint_every: Option<Duration>,
    pub(super) lake: Part<'a, Lake>,
    pub(super) backend: Part<'a, Backend>,
    pub(super) nats: Part<'a, Nats>,
    pub(super) http: Part<'a, Http>,
    pub(super) ingest: Option<Ingest>,
    pub(super) access: BTreeMap<String, Access>,
    pub(super) sources: BTreeMap<String, Source>,
    pub(super) sessions: Part<'a, Sessions>,
    pub(super) handlers: BTreeMap<String, serde_json::Value>,
    pub(super) features: Option<DeclaredFeatures>,
    pub(super) schemas: Option<Option<Arc<Schemas>>>,
    pub(super) windows: Vec<Windowed>,
    pub(super) feature_names: Vec<(String, Range<usize>)>,
    pub(super) tables: BTreeMap<String, Table>,
}

/// Reads all parts; whatever is wrong with one does not hide what is wrong with the next.
pub(super) fn read<'a>(r: &mut Reader<'_>, root: &'a DeTable<'a>, catalog: &dyn HandlerCatalog) -> Parts<'a> {
    let mut open = |s: &keys::Section| r.section(s.name, s.keys, field(root, s.name));
    let [engine, log, store, lake, nats, http, ingest, admin, sessions, of_features, backend] =
        keys::SECTIONS.map(&mut open);
    let faces = access::Faces { http: &http, ingest: &ingest, features: &of_features, admin: &admin };
    let http_value = access::read_http(r, &faces);
    let ingest_value = access::read_ingest(r, &ingest);
    let guests = access::read_guests(r, root, &faces, http_value.as_ref());
    let partitions = r.small(&engine, "partitions");
    let engine_value = read_engine(r, &engine, partitions);
    let log_kind = r.choice(&log, "kind");
    let retention = read_retention(r, &log, log_kind);
    let dedupe_window = r.duration(&log, "dedupe_window");
    let is_nats = log_kind == Some("nats");
    let subjects = if is_nats { r.texts(&log, "subjects") } else { None };
    let replicas = if is_nats { r.copies(&log) } else { None };
    let log_value = read_log(r, &log, log_kind, retention, dedupe_window, subjects.clone().zip(replicas));
    let store_kind = if store.has("kind") { r.choice(&store, "kind") } else { log_kind };
    let checkpoint_every = r.duration(&store, "checkpoint_every");
    let store_value = read_store(r, &store, store_kind, checkpoint_every, replicas);
    let sessions_value = read_sessions(r, &sessions, root, catalog);
    let unnamed = sessions_value.as_ref().map(|s| s.handler.as_str()).filter(|_| !sessions.has("handler"));
    let features::Read { features, windows, names: feature_names } = features::read(r, root, &of_features);
    Parts {
        partitions,
        engine: Part { section: engine, value: engine_value },
        log: Part { section: log, value: log_value },
        log_kind,
        retention,
        dedupe_window,
        subjects,
        store: Part { section: store, value: store_value },
        store_kind,
        checkpoint_every,
        lake: Part { value: read_lake(r, &lake), section: lake },
        backend: Part { value: read_backend(r, &backend), section: backend },
        nats: Part { value: read_nats(r, &nats), section: nats },
        http: Part { value: http_value, section: http },
        ingest: ingest_value,
        access: guests.access,
        sources: guests.sources,
        handlers: handlers::read(r, root, catalog, unnamed),
        features,
        schemas: schemas::read(r, &ingest),
        windows,
        feature_names,
        tables: tables::read(r, root, catalog, &sessions, sessions_value.as_ref().map(|s| s.handler.as_str())),
        sessions: Part { value: sessions_value, section: sessions },
    }
}

fn read_engine(r: &mut Reader<'_>, s: &Section<'_>, partitions: Option<u32>) -> Option<Engine> {
    let name = r.text(s, "name");
    let data_dir = r.path(s, "data_dir");
    let shards = r.small(s, "shards");
    let in_flight_max = r.size(s, "in_flight_max");
    let drain_limit = r.duration(s, "drain_limit");
    Some(Engine {
        name: name?,
        partitions: partitions?,
        data_dir: data_dir?,
        shards,
        in_flight_max: in_flight_max?,
        drain_limit: drain_limit?,
    })
}

fn read_retention(r: &mut Reader<'_>, log: &Section<'_>, kind: Option<&str>) -> Option<Retention> {
    let s = r.inner(log, "retention");
    if !s.is_given() {
        let bytes = (kind != Some("nats")).then_some(RETENTION_BYTES);
        return Some(Retention { age: Some(RETENTION_AGE), bytes });
    }
    let (age, bytes) = (r.duration(&s, "age"), r.size(&s, "bytes"));
    if s.is_empty() {
        let message = "[log] retention: without age or bytes the log grows until the disk is full";
        r.problem(s.span(), message, "set one or both: retention = { age = \"7d\", bytes = \"10GiB\" }");
        return None;
    }
    (age.is_some() == s.has("age") && bytes.is_some() == s.has("bytes")).then_some(Retention { age, bytes })
}

fn read_log(
    r: &mut Reader<'_>,
    s: &Section<'_>,
    kind: Option<&str>,
    retention: Option<Retention>,
    dedupe_window: Option<Duration>,
    in_nats: Option<(Vec<String>, u8)>,
) -> Option<Log> {
    let kind = kind?;
    r.refuse_other_kinds(s, kind);
    if kind == "nats" {
        let stream = r.text(s, "stream");
        let (subjects, replicas) = in_nats?;
        let (retention, dedupe_window) = (retention?, dedupe_window?);
        return Some(Log::Nats { stream: stream?, subjects, replicas, retention, dedupe_window });
    }
    let fsync = match r.choice(s, "fsync")? {
        "never" => Fsync::Never,
        _ => Fsync::Group,
    };
    Some(Log::Embedded { fsync, retention: retention?, dedupe_window: dedupe_window? })
}

fn read_store(
    r: &mut Reader<'_>,
    s: &Section<'_>,
    kind: Option<&str>,
    checkpoint_every: Option<Duration>,
    log_replicas: Option<u8>,
) -> Option<Store> {
    let kind = kind?;
    r.refuse_other_kinds(s, kind);
    let home = if kind == "nats" {
        let bucket = r.text(s, "bucket");
        // A store less safe than its log would lose what the log has already let go.
        let replicas = if s.has("replicas") { r.copies(s) } else { log_replicas.or(Some(1)) };
        StoreHome::Nats { bucket: bucket?, replicas: replicas? }
    } else {
        StoreHome::Embedded
    };
    let outbox_max = r.size(s, "outbox_max");
    Some(Store { home, checkpoint_every: checkpoint_every?, outbox_max: outbox_max? })
}

fn read_lake(r: &mut Reader<'_>, s: &Section<'_>) -> Option<Lake> {
    let kind = r.choice(s, "kind")?;
    r.refuse_other_kinds(s, kind);
    if kind == "dir" {
        return Some(Lake::Dir { path: r.path(s, "path")? });
    }
    let bucket = r.text(s, "bucket");
    if !s.has("bucket") {
        r.relation(s.span_of("kind"), "[lake] bucket: kind = \"s3\" needs a bucket", "add bucket = \"NAME\"");
    }
    let s3 = S3 {
        bucket: bucket.unwrap_or_default(),
        prefix: r.text(s, "prefix").unwrap_or_default(),
        region: r.text(s, "region"),
        endpoint: r.text(s, "endpoint"),
        profile: r.text(s, "profile"),
        access_key: r.secret(s, "access_key"),
        secret_key: r.secret(s, "secret_key"),
        session_token: r.secret(s, "session_token"),
    };
    check_aws_keys(r, s);
    Some(Lake::S3(s3))
}

/// What must hold between the keys that say how to get in at AWS.
fn check_aws_keys(r: &mut Reader<'_>, s: &Section<'_>) {
    let title = s.title.clone();
    for (name, other) in [("access_key", "secret_key"), ("secret_key", "access_key"), ("session_token", "access_key")] {
        if let (Some(field), false) = (s.field(name), s.has(other)) {
            let help = format!("add {other} by reference, or remove {name}");
            r.relation(field.key, format!("{title}{name}: without {other} it cannot be used"), help);
        }
    }
    if let (Some(field), true) = (s.field("profile"), s.has("access_key")) {
        r.relation(field.key, format!("{title}profile: access_key is given too"), "keep one way to authenticate");
    }
}

fn read_backend(r: &mut Reader<'_>, s: &Section<'_>) -> Option<Backend> {
    if !s.is_given() {
        return None;
    }
    let kind = r.choice(s, "kind")?;
    r.refuse_other_kinds(s, kind);
    let (prefix, ttl) = (r.text(s, "prefix"), r.duration(s, "ttl"));
    let home = if kind == "redis" {
        let url = r.text(s, "url");
        if let (Some(field), false) = (s.field("user"), s.has("password")) {
            let help = "add password = { env = \"REDIS_PASSWORD\" }, or remove user";
            r.relation(field.key, "[backend] user: without password it cannot be used", help);
        }
        if let (Some(field), Some(url)) = (s.field("ca"), &url)
            && !url.starts_with("rediss://")
        {
            let message = "[backend] ca: the connection is not encrypted";
            r.relation(field.key, message, "write rediss:// in url, or remove ca");
        }
        let (user, password) = (r.text(s, "user"), r.secret(s, "password"));
        BackendHome::Redis { user, password, ca: r.existing(s, "ca", false), url: url? }
    } else {
        let table = r.text(s, "table");
        if !s.has("table") {
            r.relation(s.span_of("kind"), "[backend] table: kind = \"dynamodb\" needs a table", "add table = \"NAME\"");
        }
        check_aws_keys(r, s);
        BackendHome::Dynamodb {
            table: table.unwrap_or_default(),
            region: r.text(s, "region"),
            endpoint: r.text(s, "endpoint"),
            profile: r.text(s, "profile"),
            access_key: r.secret(s, "access_key"),
            secret_key: r.secret(s, "secret_key"),
            session_token: r.secret(s, "session_token"),
        }
    };
    Some(Backend { home, prefix: prefix?, ttl })
}

fn read_nats(r: &mut Reader<'_>, s: &Section<'_>) -> Option<Nats> {
    if !s.is_given() {
        return None;
    }
    let url = r.text(s, "url");
    let (token, nkey, creds) = (r.secret(s, "token"), r.secret(s, "nkey"), r.secret(s, "creds"));
    let (user, password) = (r.text(s, "user"), r.secret(s, "password"));
    for (name, other) in [("user", "password"), ("password", "user")] {
        if let (Some(field), false) = (s.field(name), s.has(other)) {
            let help =
                if name == "user" { "add password = { env = \"NATS_PASSWORD\" }" } else { "add user = \"NAME\"" };
            r.relation(field.key, format!("[nats] {name}: without {other} it cannot be used"), help);
        }
    }
    let login = if s.has("user") { "user" } else { "password" };
    let mut methods: Vec<(Field<'_>, &str)> =
        [login, "token", "nkey", "creds"].into_iter().filter_map(|name| Some((s.field(name)?, name))).collect();
    methods.sort_by_key(|(field, _)| field.key.start);
    let first = methods.first().map(|(_, name)| *name).unwrap_or_default();
    for (field, name) in methods.into_iter().skip(1) {
        let message = format!("[nats] {name}: a second way to authenticate beside {first}");
        r.problem(field.key, message, "keep one of token, user and password, nkey, creds");
    }
    let auth = match (token, user.zip(password), nkey, creds) {
        (Some(token), ..) => NatsAuth::Token(token),
        (_, Some((user, password)), ..) => NatsAuth::User { user, password },
        (_, _, Some(nkey), _) => NatsAuth::Nkey(nkey),
        (_, _, _, Some(creds)) => NatsAuth::Creds(creds),
        _ => NatsAuth::None,
    };
    let tls = r.inner(s, "tls");
    let tls = tls.is_given().then(|| read_tls(r, &tls)).flatten();
    Some(Nats { url: url?, auth, tls })
}

fn read_tls(r: &mut Reader<'_>, s: &Section<'_>) -> Option<NatsTls> {
    let (ca, cert) = (r.existing(s, "ca", false), r.existing(s, "cert", false));
    let (key, first) = (r.existing(s, "key", true), r.flag(s, "first"));
    for (name, other) in [("cert", "key"), ("key", "cert")] {
        if let (Some(field), false) = (s.field(name), s.has(other)) {
            let message = format!("[nats] tls.{name}: without {other} it cannot be used");
            r.relation(field.key, message, format!("add {other} = \"path\", or remove {name}"));
        }
    }
    Some(NatsTls { ca, cert, key, first: first? })
}

fn read_sessions(
    r: &mut Reader<'_>,
    s: &Section<'_>,
    root: &DeTable<'_>,
    catalog: &dyn HandlerCatalog,
) -> Option<Sessions> {
    let key = r.texts(s, "key");
    let before = r.found.len();
    let key_fallback = r.text(s, "key_fallback");
    let fallback_is_good = r.found.len() == before;
    let handler = r.text(s, "handler");
    if let Some(handler) = &handler {
        let configured = field(root, "handler")
            .is_some_and(|h| matches!(h.value, DeValue::Table(t) if t.contains_key(handler.as_str())));
        if !catalog.knows(handler) {
            handlers::refuse_unknown(r, s.span_of("handler"), "[sessions] handler", handler, catalog);
        } else if !configured && let Err(problem) = catalog.check(handler, &serde_json::json!({})) {
            let message = format!("[sessions] handler: {} needs a configuration: {problem}", quoted(handler));
            r.relation(s.span_of("handler"), message, format!("add a section [handler.{handler}]"));
        }
    }
    let (resident_max, idle_after) = (r.count(s, "resident_max"), r.duration(s, "idle_after"));
    let (attempts, stuck_after) = (r.small(s, "attempts"), r.duration(s, "stuck_after"));
    Some(Sessions {
        key: key?,
        key_fallback: fallback_is_good.then_some(key_fallback)?,
        handler: handler?,
        resident_max: resident_max?,
        idle_after: idle_after?,
        attempts: attempts?,
        stuck_after: stuck_after?,
    })
}

/// The sections below a name: `[handler.NAME]`, `[table.NAME]`.
pub(super) fn named<'a>(r: &mut Reader<'_>, root: &'a DeTable<'a>, name: &str) -> Option<Vec<(&'a str, Field<'a>)>> {
    let above = field(root, name)?;
    let DeValue::Table(all) = above.value else {
        let message = format!("{name} is a group of sections, found {}", found(above.value));
        r.problem(above.key, message, format!("write [{name}.NAME] on a line of its own and its keys below"));
        return None;
    };
    let mut sections = Vec::new();
    for (key, value) in all.iter() {
        let field = Field { key: key.span(), span: value.span(), value: value.get_ref() };
        if matches!(field.value, DeValue::Table(_)) {
            sections.push((key.get_ref().as_ref(), field));
        } else {
            let message = format!("[{name}]: {} needs a name before it", quoted(key.get_ref()));
            r.problem(field.key, message, format!("write [{name}.NAME] above it"));
        }
    }
    Some(sections)
}
