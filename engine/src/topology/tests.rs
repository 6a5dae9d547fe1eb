//! The topology as a whole: what resolves to what, and what each problem says and where.

use std::{
    ffi::OsString,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    access::{IpPolicy, Role, Roles, TokenHash},
    front_door::protocols::cookie::CollectorCookie,
};

const QUICKSTART: &str = include_str!("../../../config/quickstart.toml");
const CLICKSTREAM: &str = include_str!("../../../config/clickstream.toml");
const FEATURES: &str = include_str!("../../../config/features.toml");

const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
/// SHA-256 of "abc".
const HASH: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

struct Catalog;

impl HandlerCatalog for Catalog {
    fn names(&self) -> Vec<String> {
        vec!["session-features".into(), "counter".into(), "needy".into()]
    }

    fn check(&self, handler: &str, config: &Value) -> Result<(), String> {
        match handler {
            "needy" if config.get("limit").is_none() => Err("limit is missing: set limit = 10".into()),
            "session-features" if config.get("session_gap").is_some_and(|gap| !gap.is_string()) => {
                Err("session_gap is a duration such as \"30m\"".into())
            }
            _ => Ok(()),
        }
    }

    fn features(&self, handler: &str, _: &Value) -> Vec<String> {
        if handler == "session-features" { vec!["event_count".into(), "last_page".into()] } else { Vec::new() }
    }

    fn tables(&self, handler: &str) -> Option<Vec<String>> {
        Some(if handler == "counter" { vec!["counts".to_owned()] } else { Vec::new() })
    }
}

fn read(text: &str) -> Result<Topology, Problems> {
    let variables = |name: &str| (name == "GOOD").then(|| OsString::from("hunter2"));
    resolve(text, Path::new("conf/t.toml"), &Catalog, &variables)
}

/// `line:column message | help` of each problem.
fn told(text: &str) -> Vec<String> {
    match read(text) {
        Ok(_) => Vec::new(),
        Err(problems) => {
            problems.iter().map(|p| format!("{}:{} {} | {}", p.line, p.column, p.message, p.help)).collect()
        }
    }
}

#[test]
fn the_quick_start_resolves_exactly() {
    let topology = read(QUICKSTART).expect("the quick start is valid");
    let retention = Retention { age: Some(Duration::from_secs(7 * 86_400)), bytes: Some(10 << 30) };
    let cut = Cut { rows: 1_000_000, bytes: 128 << 20, age: Duration::from_secs(300) };
    assert_eq!(
        topology,
        Topology {
            path: "conf/t.toml".into(),
            engine: Engine {
                name: "demo".into(),
                partitions: 1,
                data_dir: "conf/data".into(),
                shards: None,
                in_flight_max: 128 << 20,
                drain_limit: Duration::from_secs(10),
            },
            log: Log::Embedded { fsync: Fsync::Group, retention, dedupe_window: Duration::from_secs(120) },
            store: Store { home: StoreHome::Embedded, checkpoint_every: Duration::from_secs(5), outbox_max: 10 << 30 },
            lake: Lake::Dir { path: "conf/lake".into() },
            backend: None,
            nats: None,
            http: Http {
                listen: Listen { ingest: LOOPBACK, features: LOOPBACK, admin: LOOPBACK },
                body_max: 8 << 20,
                event_max: 256 << 10,
                events_max: 10_000,
                in_flight_max: 64 << 20,
                connections_max: 10_000,
                header_timeout: Duration::from_secs(10),
                idle_timeout: Duration::from_secs(75),
                write_timeout: Duration::from_secs(30),
                trusted_proxies: Vec::new(),
                tls: None,
            },
            ingest: Ingest { ip: IpPolicy::Truncate, cookie: Some(CollectorCookie::default()) },
            access: [].into(),
            sources: [].into(),
            sessions: Sessions {
                key: vec!["domain_userid".into()],
                key_fallback: None,
                handler: "session-features".into(),
                resident_max: 100_000,
                idle_after: Duration::from_secs(900),
                attempts: 3,
                stuck_after: Duration::from_secs(60),
            },
            handlers: [("session-features".to_owned(), json!({ "session_gap": "30m" }))].into(),
            features: DeclaredFeatures::default(),
            schemas: None,
            tables: [("raw_events".to_owned(), Table { from: TableFrom::Events, cut })].into(),
        }
    );
}

#[test]
fn everything_but_the_version_has_a_default() {
    let mut quickstart = read(QUICKSTART).expect("valid");
    quickstart.engine.name = "keyloom".into();
    quickstart.handlers.clear();
    assert_eq!(read("version = 1"), Ok(quickstart));
}

#[test]
fn the_template_is_the_quick_start() {
    assert_eq!(read(TEMPLATE), read(QUICKSTART));
    // What it shows as a comment works too: the keys of a kind, in place of those of the other.
    for name in keys::SECTIONS
        .iter()
        .chain([&&keys::ACCESS, &&keys::SOURCE, &&keys::FEATURE, &&keys::TABLE])
        .flat_map(|s| s.keys)
        .map(|k| k.name)
    {
        assert!(TEMPLATE.contains(name), "the template does not mention {name}");
    }
}

#[test]
fn the_click_stream_resolves() {
    let topology = read(CLICKSTREAM).expect("the click stream is valid");
    assert_eq!(
        topology.log,
        Log::Nats {
            stream: "raw_events".into(),
            subjects: vec!["events.>".into()],
            replicas: 1,
            retention: Retention { age: Some(Duration::from_secs(7 * 86_400)), bytes: None },
            dedupe_window: Duration::from_secs(120),
        }
    );
    assert_eq!(topology.store.home, StoreHome::Nats { bucket: "latest_features".into(), replicas: 1 });
    assert_eq!(topology.nats, Some(Nats { url: "nats://127.0.0.1:4222".into(), auth: NatsAuth::None, tls: None }));
    let Lake::S3(s3) = topology.lake else { panic!("the lake is a bucket") };
    assert_eq!((s3.bucket.as_str(), s3.prefix.as_str(), s3.region.as_deref()), ("lake", "prod", Some("eu-west-1")));
}

#[test]
fn who_may_come_in_resolves() {
    let text = format!(
        "version = 1\n[http]\nlisten = \"0.0.0.0:80\"\ntrusted_proxies = [\"10.0.0.0/8\", \"192.0.2.1\"]\n[admin]\n\
         listen = \"127.0.0.1:9090\"\n[access.team]\ntoken_sha256 = \"{HASH}\"\nroles = [\"features\", \"metrics\"]\n\
         rate = 5\n[source.web]\nwrite_keys = [\"k\"]\norigins = [\"https://a.example\"]\nip = \"keep\"\n\
         [source.web.pseudonyms]\nfields = [\"traits.email\"]\nkey = {{ env = \"LONG\" }}\n"
    );
    let variables = |name: &str| (name == "LONG").then(|| OsString::from("0123456789abcdef"));
    let topology = resolve(&text, Path::new("t.toml"), &Catalog, &variables).expect("valid");
    let public: SocketAddr = ([0, 0, 0, 0], 80).into();
    let admin: SocketAddr = ([127, 0, 0, 1], 9090).into();
    assert_eq!(topology.http.listen, Listen { ingest: public, features: public, admin });
    let proxies: Vec<String> = topology.http.trusted_proxies.iter().map(ToString::to_string).collect();
    assert_eq!(proxies, ["10.0.0.0/8", "192.0.2.1/32"]);
    let roles = Roles::from_iter([Role::Features, Role::Metrics]);
    let team = Access { token: TokenHash::from_hex(HASH), certificate: None, roles, rate: Some(5) };
    assert_eq!(topology.access, [("team".to_owned(), team)].into());
    let pseudonyms = Pseudonyms { fields: vec!["traits.email".into()], key: Secret::new("0123456789abcdef") };
    let web = Source {
        write_keys: vec!["k".into()],
        app_ids: Vec::new(),
        origins: vec!["https://a.example".into()],
        ip: Some(IpPolicy::Keep),
        pseudonyms: Some(pseudonyms),
        rate: None,
    };
    assert_eq!(topology.sources, [("web".to_owned(), web)].into());
    let rules = topology.rules();
    assert_eq!(rules.enter(Role::Metrics, Some("abc"), &[]), Ok(()));
    assert!(rules.enter(Role::AdminRead, Some("abc"), &[]).is_err() && !rules.is_open());
    assert!(!format!("{topology:?} {rules:?}").contains("0123456789abcdef"));
}

const NATS: &str = "version = 1\n[log]\nkind = \"nats\"\n[nats]\n";

#[test]
fn each_way_to_authenticate_resolves() {
    let auth = |lines: &str| read(&format!("{NATS}{lines}")).map(|t| t.nats.expect("given").auth);
    let secret = || Secret::new("hunter2");
    assert_eq!(auth(""), Ok(NatsAuth::None));
    assert_eq!(auth("token = { env = \"GOOD\" }"), Ok(NatsAuth::Token(secret())));
    assert_eq!(auth("nkey = { env = \"GOOD\" }"), Ok(NatsAuth::Nkey(secret())));
    assert_eq!(auth("[nats.creds]\nenv = \"GOOD\""), Ok(NatsAuth::Creds(secret())));
    let user = NatsAuth::User { user: "u".into(), password: secret() };
    assert_eq!(auth("user = \"u\"\npassword = { env = \"GOOD\" }"), Ok(user));
    // The store follows the log: home and copies.
    let store = read(&NATS.replace("[nats]", "replicas = 3\n[nats]")).expect("valid").store.home;
    assert_eq!(store, StoreHome::Nats { bucket: "latest_features".into(), replicas: 3 });
}

/// One line: the file (`;` for new lines, after `version = 1`), the place, what is said, the advice.
const CASES: &[(&str, &str, &str, &str)] = &[
    // syntax
    ("[log;kind = 1", "2:5", "the header of a section is not closed", "[name]"),
    ("[engine];name = demo", "3:8", "a text without quotes", "write \"demo\""),
    ("[log];kind = nats", "3:8", "a text without quotes", "write \"nats\""),
    ("[engine];name =", "3:7", "the value is missing", "key = value"),
    ("[engine];name = \"demo", "3:13", "not valid, or not closed", "quote"),
    ("[engine];name = \"a\";name = \"b\"", "4:1", "\"name\" is given twice", "keep one"),
    ("[http];[log];[http]", "4:2", "\"http\" is given twice", "keep one"),
    ("[http];listen", "3:7", "a key without a value", "key = value"),
    ("[table.x];cut = { rows = 1;[http];body_max = \"1MiB\"", "3:7", "this { is never closed", "add the missing }"),
    ("[sessions];key = [\"a\"", "3:7", "this [ is never closed", "add the missing ]"),
    ("[http];body_max = 07", "3:12", "this is not TOML: unexpected leading zero", "every line is"),
    // names
    ("[sesions];attempts = 1", "2:2", "unknown section \"sesions\"", "did you mean sessions?"),
    ("[zzz]", "2:2", "unknown section \"zzz\"", "known here: version, engine"),
    ("listen = \"x\"", "2:1", "unknown key \"listen\"", "listen is a key of [http]"),
    ("versoin = 1", "2:1", "unknown key \"versoin\"", "did you mean version?"),
    ("[http];lisen = \"x\"", "3:1", "[http]: unknown key \"lisen\"", "did you mean listen?"),
    ("[http];attempts = 3", "3:1", "[http]: unknown key \"attempts\"", "attempts is a key of [sessions]"),
    ("[http];zzz = 3", "3:1", "[http]: unknown key \"zzz\"", "known here: listen, body_max"),
    ("[log];retention = { aeg = \"7d\" }", "3:15", "[log] retention: unknown key \"aeg\"", "did you mean age?"),
    ("[table.x];cut = { row = 1 }", "3:9", "[table.x] cut: unknown key \"row\"", "did you mean rows?"),
    ("[model.x]", "2:2", "[model] is reserved for a later version", "remove it"),
    (
        "[ingest];schemas = \"none\"",
        "3:11",
        "[ingest] schemas: conf/none cannot be read",
        "NAME.json for each event name",
    ),
    ("[identity]", "2:2", "[identity] is reserved for a later version", "remove it"),
    // types and units
    ("engine = 3", "2:1", "engine is a section, found the number 3", "write [engine] on a line"),
    ("[[http]]", "2:3", "http is a section, found a list", "write [http]"),
    ("[engine];name = 3", "3:8", "[engine] name: found the number 3, expected a text", "name = \"keyloom\""),
    ("[engine];name = \"a b\"", "3:8", "\"a b\" is not a valid name", "letters, digits"),
    (
        "[engine];partitions = \"1\"",
        "3:14",
        "found the text \"1\", expected a whole number from 1 to 64",
        "partitions = 1",
    ),
    ("[engine];partitions = 0", "3:14", "found 0, expected a number from 1 to 64", "partitions = 1"),
    ("[engine];partitions = 65", "3:14", "found 65", "partitions = 1"),
    ("[engine];shards = 0", "3:10", "found 0, expected a number from 1 to 256", "shards = 2"),
    ("[engine];in_flight_max = 1000", "3:17", "found the number 1000, expected a size", "\"128MiB\" (units: B"),
    ("[engine];in_flight_max = \"0MiB\"", "3:17", "\"0MiB\" is outside its limits", "from \"1MiB\""),
    ("[engine];data_dir = \"~/data\"", "3:12", "~ is not understood", "relative to this file"),
    ("[engine];data_dir = \"\"", "3:12", "is not a path", "relative to this file"),
    ("[log];dedupe_window = 120", "3:17", "found the number 120, expected a duration", "\"2m\" (units: ms"),
    ("[log];dedupe_window = \"2min\"", "3:17", "\"2min\" is not a duration", "did you mean \"2m\"?"),
    ("[log];dedupe_window = \"0s\"", "3:17", "\"0s\" is outside its limits", "from \"100ms\" to \"1d\""),
    ("[log];fsync = \"groups\"", "3:9", "found \"groups\", expected \"group\" or \"never\"", "did you mean \"group\"?"),
    ("[log];kind = \"kafka\"", "3:8", "found \"kafka\", expected \"embedded\" or \"nats\"", "choose one"),
    ("[log];retention = \"7d\"", "3:13", "found the text \"7d\", expected an inline table", "{ age = \"7d\""),
    ("[log];retention = {}", "3:13", "without age or bytes", "set one or both"),
    ("[http];listen = \"localhost:8080\"", "3:10", "\"localhost:8080\" is not an address", "IP address and a port"),
    (
        "[http];listen = \"0.0.0.0:8080\"",
        "3:10",
        "[http] listen: this address is not on loopback, and nobody has been given the roles that it takes: ingest, \
         features, admin-read",
        "`keyloom token new --role ingest --role features --role admin-read` makes one), or for trackers a [source.NAME]",
    ),
    (
        "[admin];listen = \"[::]:1\"",
        "3:10",
        "[admin] listen: this address",
        "--role admin-read` makes one); or listen on",
    ),
    (
        "[http];listen = \"0.0.0.0:8080\";[source.a];write_keys = [\"k\"];[admin];listen = \"127.0.0.1:1\"",
        "3:10",
        "the roles that it takes: features",
        "or set listen in [features] to an address on loopback",
    ),
    ("[features];listen = \"here\"", "3:10", "\"here\" is not an address", "IP address and a port"),
    ("[http];tls = {}", "3:7", "[http] tls: it takes a certificate and its key", "write tls = {"),
    ("[http];trusted_proxies = [\"10.0.0.0/40\"]", "3:20", "\"10.0.0.0/40\" is not a network", "\"10.0.0.0/8\""),
    ("[http];connections_max = 0", "3:19", "found 0", "10_000"),
    ("[ingest];ip = \"truncat\"", "3:6", "expected \"keep\" or \"truncate\" or \"drop\"", "did you mean \"truncate\"?"),
    ("[ingest];cookie = { name = \"a b\" }", "3:19", "[ingest] cookie.name: \"a b\" is not", "letters"),
    ("[ingest];cookie = { secure = false }", "3:21", "browsers refuse a cookie", "same_site = \"lax\""),
    // access
    ("[access.a];roles = [\"ingest\"]", "2:1", "[access.a]: nothing says who this is", "keyloom token new"),
    ("[access.a];token_sha256 = \"HASH\"", "2:1", "[access.a]: roles are missing", "add roles = [\"ingest\"]"),
    (
        "[access.a];token_sha256 = \"HASH\";roles = [\"admin\"]",
        "4:10",
        "[access.a] roles: \"admin\" is not a role",
        "ingest, features, metrics, admin-read",
    ),
    (
        "[access.a];token_sha256 = \"keyloom-hunter2\";roles = [\"ingest\"]",
        "3:16",
        "[access.a] token_sha256: is not a SHA-256",
        "the token itself does not belong here",
    ),
    (
        "[access.a];token = \"hunter2\";token_sha256 = \"HASH\";roles = [\"ingest\"]",
        "3:1",
        "unknown key \"token\"",
        "nats",
    ),
    (
        "[access.a];token_sha256 = \"HASH\";roles = [\"ingest\"];[access.b];token_sha256 = \"HASH\";roles = [\"ingest\"]",
        "6:16",
        "[access.b] token_sha256: [access.a] has the same",
        "keep it in one",
    ),
    (
        "[access.a];certificate = \"a.example\";roles = [\"ingest\"]",
        "3:15",
        "[access.a] certificate: nobody vouches",
        "client_ca",
    ),
    ("[access.a];token_sha256 = \"HASH\";roles = [\"ingest\"];rate = 0", "5:8", "found 0", "rate = 1_000"),
    ("[access];roles = []", "3:1", "[access]: \"roles\" needs a name before it", "[access.NAME]"),
    ("[source.a]", "2:1", "[source.a]: nothing says whose events are meant", "write_keys"),
    (
        "[source.a];write_keys = [\"k\"];[source.b];write_keys = [\"k\"]",
        "5:14",
        "[source.b] write_keys: [source.a] has the same",
        "keep it in one",
    ),
    (
        "[source.a];app_ids = [\"k\"];origins = [\"shop.example\"]",
        "4:12",
        "is not the origin of a page",
        "https://shop",
    ),
    (
        "[source.a];app_ids = [\"k\"];pseudonyms = { fields = [\"user_id\"], key = \"hunter2\" }",
        "4:44",
        "a secret must not stand in this file",
        "by reference",
    ),
    (
        "[source.a];app_ids = [\"k\"];pseudonyms = { fields = [\"user_id\"], key = { env = \"GOOD\" } }",
        "4:44",
        "[source.a] pseudonyms.key: it has fewer than 16 characters",
        "openssl rand",
    ),
    (
        "[source.a];app_ids = [\"k\"];pseudonyms = { fields = [\"user_id\"] }",
        "4:14",
        "[source.a] pseudonyms: key is missing",
        "write pseudonyms = {",
    ),
    ("[http];event_max = \"1 MB\"", "3:13", "\"1 MB\" is not a size", "did you mean \"1MB\"?"),
    ("[http];events_max = 0", "3:14", "found 0", "10_000"),
    ("[http];event_max = \"9MiB\"", "3:13", "larger than body_max", "lower event_max"),
    (
        "[engine];in_flight_max = \"1MiB\";[http];event_max = \"2MiB\"",
        "3:17",
        "smaller than the largest event",
        "raise it",
    ),
    ("[sessions];key = []", "3:7", "found a list of 0, expected 1 to 8 texts", "[\"domain_userid\"]"),
    ("[sessions];key = \"id\"", "3:7", "found the text \"id\", expected a list of texts", "[\"domain_userid\"]"),
    ("[sessions];key = [\"a\", \"\"]", "3:13", "\"\" is not a path to a field", "user.id"),
    ("[sessions];key = [\"a\", \"a\"]", "3:13", "\"a\" is given twice", "remove one"),
    ("[sessions];key = [3]", "3:8", "found the number 3, expected a list of texts", "[\"domain_userid\"]"),
    ("[sessions];key = [\"header:\"]", "3:8", "\"\" is not the name of a header", "\"header:x-user-id\""),
    ("[sessions];key = [\"header:a b\"]", "3:8", "\"a b\" is not the name of a header", "\"header:x-user-id\""),
    ("[sessions];key = [\"header:Cookie\"]", "3:8", "the header Cookie carries a secret", "of its own"),
    ("[sessions];key = [\"headers:x\"]", "3:8", "\"headers:x\" is not a path to a key", "\"header:x-user-id\"?"),
    ("[sessions];key = [\"topic:2\"]", "3:8", "\"topic:2\" is not a path to a key", "\"subject:2\"?"),
    ("[sessions];key = [\"subject:0\"]", "3:8", "\"subject:0\" names no token", "from 1, or from -1"),
    ("[sessions];key = [\"subject:2\"]", "3:7", "\"subject:2\" finds nothing", "kind = \"nats\""),
    ("[sessions];key_fallback = \"\"", "3:16", "[sessions] key_fallback: the key is empty", "\"unknown\""),
    ("[sessions];key_fallback = 7", "3:16", "found the number 7, expected a text", "key_fallback = \"unknown\""),
    ("[sessions];attempts = 0", "3:12", "found 0", "attempts = 3"),
    ("[sessions];resident_max = 0", "3:16", "found 0", "100_000"),
    ("[lake];path = \" \"", "3:8", "is not a path", "relative"),
    // handlers
    (
        "[sessions];handler = \"session-feature\"",
        "3:11",
        "there is no handler \"session-feature\"",
        "did you mean session-features? Known",
    ),
    (
        "[sessions];handler = \"zzz\"",
        "3:11",
        "there is no handler \"zzz\"",
        "known handlers: session-features, counter",
    ),
    ("[sessions];handler = \"needy\"", "3:11", "needs a configuration: limit is missing", "[handler.needy]"),
    ("[handler.countre]", "2:10", "[handler.countre]: there is no handler", "did you mean counter?"),
    ("[handler.needy]", "2:1", "[handler.needy]: limit is missing", "correct this section"),
    ("[handler.counter]", "2:10", "sessions run session-features, because", "handler = \"counter\" below [sessions]"),
    ("[handler.session-features];session_gap = 30", "2:1", "session_gap is a duration", "correct this section"),
    ("[handler.counter];a = nan", "3:5", "the number nan cannot be used", "finite"),
    ("[handler];session_gap = \"1m\"", "3:1", "[handler]: \"session_gap\" needs a name before it", "[handler.NAME]"),
    ("handler = 1", "2:1", "handler is a group of sections", "[handler.NAME]"),
    // tables
    ("[table.Raw]", "2:8", "\"Raw\" is not a valid table name", "a-z"),
    ("[table.x];from = \"event\"", "3:8", "found \"event\", expected \"events\"", "did you mean \"events\"?"),
    ("[table.x];handler = \"session-features\"", "3:1", "emits no rows to this table", "it emits no rows at all"),
    (
        "[table.counts];handler = \"counter\"",
        "3:1",
        "sessions run \"session-features\"",
        "name the handler of [sessions]",
    ),
    (
        "[sessions];handler = \"counter\"",
        "3:11",
        "emits rows to table counts, which is not here",
        "add a section [table.counts]",
    ),
    ("[store];outbox_max = \"1KiB\"", "3:14", "[store] outbox_max: \"1KiB\" is outside", "from \"1MiB\""),
    ("[table.x];cut = { rows = 0 }", "3:16", "[table.x] cut.rows: found 0", "rows = 1_000_000"),
    ("[table.x];cut = { age = \"0s\" }", "3:15", "[table.x] cut.age: \"0s\" is outside", "from \"100ms\""),
    // homes
    ("[log];kind = \"nats\"", "3:8", "[log] kind: \"nats\" needs a server", "add a section [nats]"),
    ("[nats]", "2:1", "[nats]: nothing uses it", "remove this section"),
    (
        "[store];kind = \"nats\";[nats]",
        "3:8",
        "the log's home is \"embedded\"",
        "live in the same home: set kind = \"embedded\"",
    ),
    (
        "[log];kind = \"nats\";[nats];[store];kind = \"embedded\"",
        "6:8",
        "the log's home is \"nats\"",
        "live in the same home",
    ),
    ("[log];stream = \"x\"", "3:1", "[log] stream: belongs to kind = \"nats\"", "set kind = \"nats\""),
    ("[store];bucket = \"x\"", "3:1", "[store] bucket: belongs to kind = \"nats\"", "remove it"),
    ("[lake];bucket = \"lake\"", "3:1", "[lake] bucket: belongs to kind = \"s3\"", "set kind = \"s3\""),
    (
        "[lake];kind = \"s3\";bucket = \"lake\";path = \"x\"",
        "5:1",
        "[lake] path: belongs to kind = \"dir\"",
        "remove it",
    ),
    (
        "[log];kind = \"nats\";fsync = \"never\";[nats]",
        "4:1",
        "[log] fsync: belongs to kind = \"embedded\"",
        "remove it",
    ),
    ("[log];retention = { age = \"5m\" }", "3:13", "table raw_events may take 5m", "at least 6m"),
    (
        "[store];checkpoint_every = \"1h\";[log];retention = { age = \"1h\" }",
        "5:13",
        "checkpoints are 1h apart",
        "at least 61m",
    ),
    ("[log];retention = { age = \"1h\" };dedupe_window = \"2h\"", "3:13", "dedupe_window is 2h", "at least 2h"),
    // S3
    ("[lake];kind = \"s3\"", "3:8", "kind = \"s3\" needs a bucket", "add bucket"),
    ("[lake];kind = \"s3\";bucket = \"L\"", "4:10", "\"L\" is not the name of a bucket", "3 to 63"),
    ("[lake];kind = \"s3\";bucket = \"lake\";prefix = \"/x\"", "5:10", "\"/x\" is not a prefix", "none at the ends"),
    (
        "[lake];kind = \"s3\";bucket = \"lake\";endpoint = \"127.0.0.1\"",
        "5:12",
        "must begin with http://",
        "\"http://127.0.0.1:9000\"",
    ),
    (
        "[lake];kind = \"s3\";bucket = \"lake\";endpoint = \"http://a:b@c\"",
        "5:12",
        "credentials do not belong",
        "access_key",
    ),
    (
        "[lake];kind = \"s3\";bucket = \"lake\";access_key = { env = \"GOOD\" }",
        "5:1",
        "without secret_key",
        "add secret_key",
    ),
    (
        "[lake];kind = \"s3\";bucket = \"lake\";secret_key = { env = \"GOOD\" }",
        "5:1",
        "without access_key",
        "add access_key",
    ),
    // Feature backends
    ("[backend];url = \"http://x\"", "3:7", "must begin with redis:// or rediss://", "redis://host:6379"),
    ("[backend];url = \"redis://:p@x\"", "3:7", "credentials do not belong into the url", "REDIS_PASSWORD"),
    ("[backend];user = \"u\"", "3:1", "[backend] user: without password", "add password"),
    ("[backend];prefix = \"\"", "3:10", "is not a prefix of keys", "visible ASCII"),
    ("[backend];table = \"x\"", "3:1", "[backend] table: belongs to kind = \"dynamodb\"", "remove it"),
    ("[backend];kind = \"dynamodb\"", "3:8", "kind = \"dynamodb\" needs a table", "add table"),
    ("[backend];kind = \"dynamodb\";table = \"x\"", "4:9", "is not the name of a table", "3 to 255"),
    (
        "[backend];kind = \"dynamodb\";table = \"features\";access_key = { env = \"GOOD\" }",
        "5:1",
        "[backend] access_key: without secret_key",
        "add secret_key",
    ),
    (
        "[backend];kind = \"dynamodb\";table = \"features\";password = { env = \"GOOD\" }",
        "5:1",
        "[backend] password: belongs to kind = \"redis\"",
        "remove it",
    ),
];

/// The same, after the lines of `NATS`.
const NATS_CASES: &[(&str, &str, &str, &str)] = &[
    ("url = \"127.0.0.1:4222\"", "5:7", "must begin with nats:// or tls://", "nats://host:4222"),
    ("url = \"nats://u:hunter2@h\"", "5:7", "credentials do not belong into the url", "by reference"),
    ("url = \"nats://a,nats://b\"", "5:7", "more than one server", "name one"),
    (
        "token = \"hunter2\"",
        "5:9",
        "a secret must not stand in this file",
        "secrets are given by reference: { env = \"NAME\" } or { file = \"path\" }",
    ),
    ("token = 1234567", "5:9", "a secret must not stand in this file", "by reference"),
    ("token = { value = \"hunter2\" }", "5:11", "has one key, env or file", "by reference"),
    ("token = { env = \"GOOD\", file = \"x\" }", "5:9", "has one key, env or file", "by reference"),
    ("token = { env = 3 }", "5:17", "a reference to a secret is a text", "by reference"),
    ("token = { env = \"NONE\" }", "5:17", "the environment variable \"NONE\" is not set", "set it"),
    ("token = { file = \"none\" }", "5:18", "the file conf/none cannot be read", "relative to the topology file"),
    ("user = \"u\"", "5:1", "without password", "{ env = \"NATS_PASSWORD\" }"),
    ("password = { env = \"GOOD\" }", "5:1", "without user", "add user"),
    (
        "token = { env = \"GOOD\" };nkey = { env = \"GOOD\" }",
        "6:1",
        "a second way to authenticate beside token",
        "keep one",
    ),
    ("tls = { ca = \"none\" }", "5:14", "[nats] tls.ca: the file conf/none cannot be read", "correct the path"),
    ("tls = { first = \"yes\" }", "5:17", "expected true or false", "first = true"),
    ("[store];replicas = 6", "6:12", "found 6, expected a number from 1 to 5", "replicas = 1"),
    ("[store];bucket = \"a.b\"", "6:10", "\"a.b\" is not a valid name", "letters, digits"),
];

/// The same, inside `[log]` of a log in NATS.
const SUBJECT_CASES: &[(&str, &str, &str, &str)] = &[
    ("stream = \"a.b\"", "6:10", "\"a.b\" is not a valid name", "letters, digits"),
    ("subjects = [\"a..b\", \"events.>\"]", "6:13", "it has an empty token", "extra dot"),
    ("subjects = [\"$JS.>\", \"events.>\"]", "6:13", "reserved for NATS", "without $"),
    ("subjects = [\"events.>\", \"events.a\"]", "6:12", "\"events.>\" and \"events.a\" overlap", "keep the wider"),
    ("subjects = [\"clicks.>\"]", "6:12", "none takes events.http", "add \"events.>\""),
    (
        "subjects = [\"clicks.>\", \"events.>\"];[engine];partitions = 2",
        "6:12",
        "with 2 partitions",
        "keyloom.events.<p>.>",
    ),
];

/// As [`CASES`].
const FEATURE_CASES: &[(&str, &str, &str, &str)] = &[
    ("[feature.f]", "2:1", "[feature.f]: function is missing", "function = \"count\""),
    ("[feature.f];function = \"cuont\"", "3:12", "found \"cuont\"", "did you mean \"count\"?"),
    (
        "[feature.f];functoin = \"count\";function = \"count\"",
        "3:1",
        "unknown key \"functoin\"",
        "did you mean function?",
    ),
    ("[feature];f = 3", "3:1", "\"f\" needs a name before it", "[feature.NAME]"),
    (
        "[feature.event_count];function = \"count\"",
        "2:10",
        "[feature.event_count]: the handler session-features has a feature of this name",
        "choose another name",
    ),
    ("[feature.F];function = \"count\"", "2:10", "[feature.F]: is not a valid name", "a-z, 0-9"),
    (
        "[feature.late_events];function = \"count\"",
        "2:10",
        "is the name of a feature that every key has",
        "another name",
    ),
    ("[feature.f];function = \"sum\"", "3:12", "[feature.f] function: sum needs of", "of = "),
    ("[feature.f];function = \"count\";k = 3", "4:5", "[feature.f] k: has no meaning for count", "remove it"),
    (
        "[feature.f];function = \"last_k\";of = \"a\";k = 0",
        "5:5",
        "found 0, expected a number from 1 to 1000",
        "k = 10",
    ),
    ("[feature.f];function = \"count\";where = \"event = 'x'\"", "4:16", "[feature.f] where: is not CEL", "cel.dev"),
    (
        "[feature.f];function = \"count\";where = \"event == 'x' && a.lower() == 'y'\"",
        "4:26",
        "no function lower",
        "startsWith",
    ),
    ("[feature.f];function = \"count\";where = 'a == \"ä\" && page_url == 3'", "4:22", "never equal", "correct"),
    ("[feature.f];function = \"count\";where = \"page_url > \\u0033\"", "4:9", "they have no order", "correct"),
    (
        "[feature.f];function = \"sum\";of = \"page_url\"",
        "4:6",
        "of: is a text, and sum needs numbers",
        "another field",
    ),
    (
        "[features];fields = { price = \"number\" };[feature.f];function = \"sum\";of = \"2 * prize\"",
        "6:11",
        "there is no field prize",
        "did you mean price?",
    ),
    (
        "[features];fields = { price = \"nmber\" }",
        "3:20",
        "\"price\" is of no type that there is",
        "did you mean \"number\"?",
    ),
    ("[features];fields = 3", "3:10", "found the number 3, expected types by names of fields", "price"),
    ("[features];lateness = \"0s\"", "3:12", "outside its limits", "from \"1s\""),
    (
        "[feature.f];function = \"count\";window = \"1hour\"",
        "4:10",
        "\"1hour\" is not a duration",
        "did you mean \"1h\"?",
    ),
    ("[feature.f];function = \"count\";window = \"sesion\"", "4:10", "is not a duration", "did you mean \"session\"?"),
    ("[feature.f];function = \"count\";window = { tumbling = 3 }", "4:10", "is no window", "{ tumbling = \"1d\" }"),
    ("[feature.f];function = \"count\";window = 60", "4:10", "expected a window", "window = \"1h\" (units: ms"),
    (
        "[feature.f];function = \"count\";window = \"30d\"",
        "4:10",
        "it covers 30d, but the log keeps events for 7d",
        "retention",
    ),
    ("[feature.f];function = \"count\";window = \"1ms\"", "4:10", "[feature.f] window: is out of range", "1s to"),
    ("[feature.f];function = \"derived\";of = \"1 + g\"", "4:11", "there is no feature g", "another feature"),
    ("[feature.f];function = \"exp_decay\"", "3:12", "exp_decay needs half_life", "half_life = \"6h\""),
];

#[test]
fn declared_features_resolve() {
    let features = read(FEATURES).expect("the example is valid").features;
    assert_eq!((features.definitions.len(), features.set.len()), (16, 16));
    assert!(features.set.decays() && features.set.hash_of("revenue").is_some());
    assert_eq!(features.set.decaying_names().filter(|name| *name == "revenue").count(), 0);
    let text = "version = 1\n[features]\nlateness = \"1h\"\n[feature.n]\nfunction = \"count\"\nwindow = { sliding = \"5m\" }\n";
    let features = read(text).expect("valid").features;
    assert_eq!(
        (features.settings.lateness, features.settings.session_gap),
        (Duration::from_secs(3_600), Duration::from_secs(1_800))
    );
    let window = Some(keyloom_actors::features::Window::Sliding(Duration::from_secs(300)));
    assert_eq!(features.definitions[0].1.window, window);
}

#[test]
fn all_problems_of_features_come_at_once_and_features_that_need_each_other_are_among_them() {
    let text = "version = 1\n[feature.a]\nfunction = \"derived\"\nof = \"b + 1\"\n[feature.b]\nfunction = \"derived\"\n\
                of = \"a + 1\"\n[feature.c]\nfunction = \"sum\"\nof = \"a b\"\nk = 3\n[feature.d]\nfunction = \"ratio\"\n\
                of = \"c / a\"\nwindow = \"x\"\n";
    let places: Vec<String> = told(text).iter().map(|t| t.split(' ').next().unwrap_or_default().to_owned()).collect();
    assert_eq!(places, ["4:6", "7:6", "10:9", "11:5", "15:10"], "{:#?}", told(text));
    assert!(told(text)[0].contains("[feature.a] of: needs b, which needs this feature"), "{:#?}", told(text));
}

#[test]
fn a_thousand_features_fit_and_more_are_refused() {
    let features = |n: usize| {
        (0..n).fold("version = 1\n".to_owned(), |text, i| {
            text + &format!("[feature.views_of_kind_{i}]\nfunction = \"count\"\nwhere = \"event == 'page_view' && n == {i}\"\nwindow = \"1h\"\n")
        })
    };
    assert!(features(1_000).len() < FILE_BYTES_MAX as usize);
    assert_eq!(read(&features(1_000)).expect("as many as allowed").features.set.len(), 1_000);
    assert!(told(&features(1_001))[0].contains("1001 features are too many; at most 1000"));
}

#[test]
fn every_problem_says_where_what_and_what_to_do() {
    let groups = [
        ("version = 1\n", FEATURE_CASES),
        ("version = 1\n", CASES),
        (NATS, NATS_CASES),
        ("version = 1\n[nats]\n\n[log]\nkind = \"nats\"\n", SUBJECT_CASES),
    ];
    for (before, cases) in groups {
        for (lines, place, message, help) in cases {
            let text = format!("{before}{}", lines.replace(';', "\n").replace("HASH", HASH));
            let told = told(&text);
            assert_eq!(told.len(), 1, "{lines}: {told:#?}");
            let expected = told[0].starts_with(&format!("{place} ")) && told[0].contains(message);
            assert!(expected && told[0].contains(*help), "{lines}: {told:#?}");
            let rendered = read(&text).expect_err("a problem").render(false);
            assert!(rendered.contains(&format!("conf/t.toml:{place}: ")), "{rendered}");
            assert!(rendered.contains("1 problem in conf/t.toml") && !rendered.contains("hunter2"), "{rendered}");
        }
    }
}

#[test]
fn the_version_decides_about_the_rest() {
    assert!(told("[log]\nx = 1")[0].starts_with("1:1 the version of the file format is missing"));
    assert!(
        told("version = 2\n[whatever]").iter().all(|t| t.starts_with("1:11 version: this keyloom reads version 1"))
    );
    assert!(told("version = \"1\"")[0].starts_with("1:11 version: found the text \"1\""));
}

#[test]
fn all_problems_of_a_file_come_at_once() {
    let text = "versio = 1\n[log]\nkind = nats\nstream = \"a b\"\n[htp]\n[sessions]\nattempts = 0\nkey = []\n\
                handler = \"counters\"\n[lake]\npath = 3\n[table.X]\ncut = { rows = 0, age = 5m }\n";
    let places: Vec<String> = told(text).iter().map(|t| t.split(' ').next().unwrap_or_default().to_owned()).collect();
    assert_eq!(places, ["1:1", "3:8", "5:2", "7:12", "8:7", "9:11", "11:8", "12:8", "13:25"], "{:#?}", told(text));
    let rendered = read(text).expect_err("many problems").render(false);
    assert!(rendered.contains("9 problems in conf/t.toml"), "{rendered}");
}

#[test]
fn more_tables_than_allowed_are_refused() {
    let tables = |n: usize| (0..n).fold("version = 1\n".to_owned(), |text, i| text + &format!("[table.t{i:02}]\n"));
    assert_eq!(read(&tables(32)).expect("as many as allowed").tables.len(), 32);
    assert!(told(&tables(33))[0].contains("33 tables are too many; at most 32"));
}

#[test]
fn a_file_of_nothing_but_problems_is_cut_short() {
    let lines = |line: &str| read(&line.repeat((8 << 10) / line.len())).expect_err("problems").render(false);
    let shown = lines("zzz\n");
    assert!(shown.contains("2048 problems in conf/t.toml, the first 50 are shown"), "{shown}");
    assert_eq!(shown.matches("conf/t.toml:").count(), 50);
    for line in
        ["[", "{", "a = [", "#", "# \"", "a.", "token = [", "token = { a = {", "a = {b = ", "\"\"\"", "[a]\n", "a = \n"]
    {
        assert!(lines(line).contains("in conf/t.toml"));
    }
}

#[test]
fn secrets_never_leave() {
    let literal =
        format!("{NATS}tokn = \"hunter2\"\npassword = \"hunter2\"\ncreds = hunter2\nurl = \"nats://u:hunter2@h\"\n");
    let problems = read(&literal).expect_err("literals are refused");
    for text in [problems.render(false), problems.render(true), format!("{problems:?}"), problems.to_string()] {
        assert!(!text.contains("hunter2"), "{text}");
    }
    let resolved = read(&format!("{NATS}token = {{ env = \"GOOD\" }}")).expect("valid");
    assert!(format!("{resolved:?}").contains("Token(***)"));
}

#[test]
fn files_that_cannot_be_read_are_problems_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.toml");
    let told = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        load(&path, &Catalog).map_err(|p| p.render(false))
    };
    assert!(load(&folder.path().join("none.toml"), &Catalog).unwrap_err().to_string().contains("none.toml:1:1: "));
    assert!(told(b"version = 1\n# \xff").unwrap_err().contains("t.toml:2:3: this is not valid UTF-8"));
    assert!(told(&vec![b'#'; FILE_BYTES_MAX as usize + 1]).unwrap_err().contains("more than 262144 bytes"));
    let resolved = told(b"\xef\xbb\xbfversion = 1\r\n[engine]\r\nname = \"x\"\r\n").expect("BOM and CRLF are fine");
    assert_eq!(resolved.engine.data_dir, folder.path().join("data"));
}

#[cfg(unix)]
#[test]
fn files_it_refers_to_are_found_beside_it_and_must_be_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let [topology, creds, key] = ["t.toml", "nats.creds", "k.pem"].map(|name| folder.path().join(name));
    let lines = "creds = { file = \"nats.creds\" }\ntls = { cert = \"t.toml\", key = \"k.pem\" }\n";
    std::fs::write(&topology, format!("{NATS}{lines}")).unwrap();
    let private = |mode| {
        for path in [&creds, &key] {
            std::fs::write(path, "hunter2\n").unwrap();
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        load(&topology, &Catalog)
    };
    let nats = private(0o600).expect("valid").nats.expect("given");
    assert_eq!(nats.auth, NatsAuth::Creds(Secret::new("hunter2")));
    assert_eq!(nats.tls.expect("given").key, Some(key.clone()));
    let told = private(0o644).expect_err("readable by everyone").render(false);
    assert!(told.contains("t.toml:5:18: [nats] creds: everyone on this machine may read"), "{told}");
    assert!(told.contains("t.toml:6:32: [nats] tls.key: everyone on this machine may read"), "{told}");
    assert!(told.contains("run: chmod o-r"), "{told}");
}

#[test]
fn schemas_of_events_are_compiled_and_bad_ones_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let (topology, schemas) = (folder.path().join("t.toml"), folder.path().join("schemas"));
    std::fs::write(&topology, "version = 1\n[ingest]\nschemas = \"schemas\"\n").unwrap();
    std::fs::create_dir_all(schemas.join("folder.json")).unwrap();
    std::fs::write(schemas.join("README.md"), "no schema").unwrap();
    std::fs::write(schemas.join("order completed.json"), r#"{"required":["price"]}"#).unwrap();
    let good = load(&topology, &Catalog).expect("valid").schemas.expect("given");
    assert_eq!(good.len(), 1);
    std::fs::write(schemas.join("a.json"), r#"{"type":"strange"}"#).unwrap();
    std::fs::write(schemas.join("b.json"), "{").unwrap();
    std::fs::write(schemas.join("large.json"), " ".repeat(300 << 10)).unwrap();
    let told = load(&topology, &Catalog).expect_err("three are bad").render(false);
    for text in
        ["t.toml:3:11: [ingest] schemas: a.json: ", "b.json: not JSON", "large.json: it has", "correct this schema"]
    {
        assert!(told.contains(text), "{text}: {told}");
    }
}

#[test]
fn the_schema_describes_every_key_of_the_examples() {
    let schema = json_schema();
    let described = |at: &Value, path: &str| {
        assert!(at["description"].as_str().is_some_and(|d| d.len() > 3), "{path} is not described");
    };
    for text in [QUICKSTART, CLICKSTREAM, FEATURES, TEMPLATE] {
        let (root, _) = DeTable::parse_recoverable(text);
        for (section, value) in root.get_ref().iter() {
            let name = section.get_ref().as_ref();
            let property = &schema["properties"][name];
            described(property, name);
            let Some(table) = value.get_ref().as_table() else { continue };
            let (tables, property) = match name {
                "handler" => continue,
                "table" | "feature" | "access" | "source" => {
                    (table.values().filter_map(|t| t.get_ref().as_table()).collect(), &property["additionalProperties"])
                }
                _ => (vec![table], property),
            };
            for key in tables.into_iter().flat_map(|t| t.keys()) {
                described(&property["properties"][key.get_ref().as_ref()], &format!("{name}.{key:?}"));
            }
        }
    }
    assert_eq!(schema["properties"]["http"]["properties"]["listen"]["default"], "127.0.0.1:8080");
    assert_eq!(schema["properties"]["sessions"]["properties"]["resident_max"]["default"], 100_000);
    assert_eq!(schema["properties"]["nats"]["properties"]["token"]["$ref"], "#/$defs/secret");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// A file damaged anywhere gives a topology or problems that can be shown, never a panic, and never a place outside.
    #[test]
    fn damaged_files_are_explained(
        file in prop::sample::select(vec![QUICKSTART, CLICKSTREAM, FEATURES, TEMPLATE]),
        at in any::<prop::sample::Index>(),
        cut in 0usize..12,
        put in "[\\[\\]{}=,#\"'\\\\\n.a1é]{0,4}",
    ) {
        let start = file.floor_char_boundary(at.index(file.len()));
        let end = file.ceil_char_boundary((start + cut).min(file.len()));
        let text = format!("{}{put}{}", &file[..start], &file[end..]);
        if let Err(problems) = read(&text) {
            prop_assert!(!problems.render(true).is_empty());
            let lines: Vec<&str> = text.split('\n').collect();
            for problem in &problems {
                prop_assert!(problem.line <= lines.len() && !problem.help.is_empty());
                prop_assert!(problem.column <= lines[problem.line - 1].chars().count() + 1);
            }
        }
    }
}
