//! How streams should be set up, and how those that exist differ from it.
//!
//! Pure. What the server adds by default is no difference. Not for talking to a server: that is `provision`'s.

use std::time::Duration;

use async_nats::jetstream::stream::{Config, DiscardPolicy, PersistenceMode, RetentionPolicy, StorageType};

use super::{Conflict, LogOptions, StoreOptions};

/// Consumers a log stream may have: one per reader, and old ones for up to a minute. Said explicitly, because the
/// server's own default changed.
const CONSUMERS_MAX: i32 = 1_000;
/// Where a stream remembers how many partitions there are.
const PARTITIONS_NOTE: &str = "keyloom.partitions";
/// What the front door publishes to, where the stream listens to it.
const FRONT_DOOR_SUBJECT: &str = "events.http";

/// One stream of the log, as it should be.
pub(super) struct LogStream {
    pub(super) config: Config,
    /// Where the front door publishes.
    pub(super) subject: String,
}

/// The streams of the log: one on the subjects as given, or one per partition on the engine's own.
pub(super) fn log_streams(options: &LogOptions) -> Vec<LogStream> {
    let one = |name: String, subjects: Vec<String>, subject: String| LogStream {
        config: Config {
            name,
            subjects,
            description: Some("Keyloom: the log of events".to_owned()),
            retention: RetentionPolicy::Limits,
            discard: DiscardPolicy::Old,
            storage: StorageType::File,
            num_replicas: options.replicas,
            max_age: options.max_age.unwrap_or_default(),
            max_bytes: options.max_bytes.map_or(-1, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
            max_messages: -1,
            max_messages_per_subject: -1,
            max_consumers: CONSUMERS_MAX,
            duplicate_window: options.dedupe_window,
            allow_direct: true,
            metadata: [(PARTITIONS_NOTE.to_owned(), options.partitions.to_string())].into(),
            ..Config::default()
        },
        subject,
    };
    match options.partitions {
        0 | 1 => {
            let subject = front_door_subject(&options.subjects);
            vec![one(options.stream.clone(), options.subjects.clone(), subject)]
        }
        partitions => (0..partitions)
            .map(|p| {
                let prefix = format!("keyloom.events.{p}");
                one(format!("{}_{p}", options.stream), vec![format!("{prefix}.>")], format!("{prefix}.http"))
            })
            .collect(),
    }
}

/// The stream behind the store's bucket.
pub(super) fn store_stream(options: &StoreOptions) -> Config {
    let bucket = &options.bucket;
    Config {
        name: format!("KV_{bucket}"),
        subjects: vec![format!("$KV.{bucket}.>"), format!("keyloom.{bucket}.>")],
        description: Some(
            "Keyloom: features (readable as a key-value bucket), session state and checkpoints".to_owned(),
        ),
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::New,
        storage: StorageType::File,
        num_replicas: options.replicas,
        max_bytes: -1,
        max_messages: -1,
        max_messages_per_subject: 1,
        max_consumers: CONSUMERS_MAX,
        allow_rollup: true,
        deny_delete: true,
        allow_direct: true,
        allow_atomic_publish: true,
        ..Config::default()
    }
}

/// `events.http` where the subjects cover it, else the first subject with `http` for its wildcards.
pub(super) fn front_door_subject(subjects: &[String]) -> String {
    if subjects.iter().any(|filter| covers(filter, FRONT_DOOR_SUBJECT)) {
        return FRONT_DOOR_SUBJECT.to_owned();
    }
    let first = subjects.first().map_or(FRONT_DOOR_SUBJECT, String::as_str);
    first.split('.').map(|token| if matches!(token, "*" | ">") { "http" } else { token }).collect::<Vec<_>>().join(".")
}

/// Whether everything that matches `subject` (which may have wildcards) also matches `filter`.
fn covers(filter: &str, subject: &str) -> bool {
    let mut subject = subject.split('.');
    for wanted in filter.split('.') {
        match (wanted, subject.next()) {
            (">", Some(_)) => return true,
            (_, None) => return false,
            ("*", Some(token)) if token != ">" => {}
            (wanted, Some(token)) if wanted == token => {}
            _ => return false,
        }
    }
    subject.next().is_none()
}

/// Everything about an existing log stream that contradicts `wanted`.
pub(super) fn log_conflicts(found: &Config, wanted: &Config) -> Vec<Conflict> {
    let mut conflicts = Conflicts::new(found, wanted, "[log]", "stream");
    conflicts.essentials();
    let edit = format!("nats stream edit {}", found.name);
    if found.discard != wanted.discard {
        conflicts.unsaid("discard policy", "new".to_owned(), "old".to_owned(), Some(format!("{edit} --discard old")));
    }
    let missing = missing_subjects(found, wanted);
    if !missing.is_empty() {
        let all = [&found.subjects[..], &missing[..]].concat();
        conflicts.push(
            "subjects",
            format!("[{}]", found.subjects.join(", ")),
            format!("also [{}]", missing.join(", ")),
            format!("subjects = [{}]", quoted(&found.subjects)),
            format!("{edit} --subjects '{}'", all.join(",")),
        );
    }
    if found.duplicate_window < wanted.duplicate_window {
        let window = human(wanted.duplicate_window);
        conflicts.push(
            "dedupe window",
            human(found.duplicate_window),
            format!("at least {window}"),
            format!("dedupe_window = \"{}\"", human(found.duplicate_window)),
            format!("{edit} --dupe-window {}", seconds(wanted.duplicate_window)),
        );
    }
    if found.max_age != wanted.max_age {
        let or_none = |age: Duration| if age.is_zero() { "unlimited".to_owned() } else { human(age) };
        let topology = if found.max_age.is_zero() {
            "no `age` in `retention`".to_owned()
        } else {
            format!("retention = {{ age = \"{}\" }}", human(found.max_age))
        };
        conflicts.push(
            "retention by age",
            or_none(found.max_age),
            or_none(wanted.max_age),
            topology,
            format!("{edit} --max-age {}", seconds(wanted.max_age)),
        );
    }
    if found.max_bytes.max(0) != wanted.max_bytes.max(0) {
        let or_none = |bytes: i64| if bytes <= 0 { "unlimited".to_owned() } else { format!("{bytes} bytes") };
        let topology = if found.max_bytes <= 0 {
            "no `bytes` in `retention`".to_owned()
        } else {
            format!("retention = {{ bytes = \"{}\" }}", size(found.max_bytes))
        };
        conflicts.push(
            "retention by size",
            or_none(found.max_bytes),
            or_none(wanted.max_bytes),
            topology,
            format!("{edit} --max-bytes={}", wanted.max_bytes),
        );
    }
    for (setting, found, flag) in [
        ("limit of messages", found.max_messages, "--max-msgs"),
        ("limit of messages per subject", found.max_messages_per_subject, "--max-msgs-per-subject"),
    ] {
        if found > 0 {
            conflicts.unsaid(setting, found.to_string(), "none".to_owned(), Some(format!("{edit} {flag}=-1")));
        }
    }
    if let (Some(had), Some(wants)) = (found.metadata.get(PARTITIONS_NOTE), wanted.metadata.get(PARTITIONS_NOTE))
        && had != wants
    {
        conflicts.push(
            "number of partitions",
            had.clone(),
            wants.clone(),
            format!("partitions = {had}, or another `stream`"),
            "remove the log's streams once everything in them is processed (their events go with them)".to_owned(),
        );
    }
    conflicts.list
}

/// Everything about an existing bucket's stream that contradicts `wanted` and that an update cannot or should not mend.
pub(super) fn store_conflicts(found: &Config, wanted: &Config) -> Vec<Conflict> {
    let mut conflicts = Conflicts::new(found, wanted, "[store]", "bucket");
    conflicts.essentials();
    let edit = format!("nats stream edit {}", found.name);
    if !found.max_age.is_zero() {
        let command = format!("{edit} --max-age 0s");
        conflicts.unsaid("time to live", human(found.max_age), "none".to_owned(), Some(command));
    }
    if found.discard != wanted.discard {
        // Discarding old records when full would lose state silently.
        let command = format!("{edit} --discard new");
        conflicts.unsaid("discard policy", "old".to_owned(), "new".to_owned(), Some(command));
    }
    if found.max_messages > 0 {
        let command = format!("{edit} --max-msgs=-1");
        conflicts.unsaid("limit of messages", found.max_messages.to_string(), "none".to_owned(), Some(command));
    }
    conflicts.list
}

/// What an existing bucket's stream lacks and an update can add, in words; empty when nothing.
pub(super) fn store_lacks(found: &Config, wanted: &Config) -> Vec<String> {
    let mut lacks = Vec::new();
    if !found.allow_atomic_publish {
        lacks.push("atomic batches".to_owned());
    }
    if !found.allow_direct {
        lacks.push("direct reads".to_owned());
    }
    lacks.extend(missing_subjects(found, wanted).into_iter().map(|subject| format!("subject {subject}")));
    lacks
}

/// Subjects of `wanted` that `found` does not listen to.
pub(super) fn missing_subjects(found: &Config, wanted: &Config) -> Vec<String> {
    let covered = |subject: &&String| !found.subjects.iter().any(|filter| covers(filter, subject));
    wanted.subjects.iter().filter(covered).cloned().collect()
}

struct Conflicts<'a> {
    found: &'a Config,
    wanted: &'a Config,
    section: &'static str,
    name: &'static str,
    list: Vec<Conflict>,
}

impl<'a> Conflicts<'a> {
    fn new(found: &'a Config, wanted: &'a Config, section: &'static str, name: &'static str) -> Self {
        Self { found, wanted, section, name, list: Vec::new() }
    }

    fn push(&mut self, setting: &'static str, found: String, wanted: String, topology: String, broker: String) {
        let topology = format!("{topology} under {}", self.section);
        self.list.push(Conflict { setting, found, wanted, topology, broker });
    }

    /// A setting that the topology does not speak of; without `command`, not to be edited on the broker either.
    fn unsaid(&mut self, setting: &'static str, found: String, wanted: String, command: Option<String>) {
        let topology = format!("name another `{}`", self.name);
        let broker = command.unwrap_or_else(|| {
            format!(
                "remove the stream, with all it holds (nats stream rm {}), and let Keyloom make it",
                self.found.name
            )
        });
        self.push(setting, found, wanted, topology, broker);
    }

    /// What the log and the store need alike.
    fn essentials(&mut self) {
        let (found, wanted) = (self.found, self.wanted);
        let edit = format!("nats stream edit {}", found.name);
        if found.retention != wanted.retention {
            let had = format!("{:?}", found.retention).to_lowercase();
            self.unsaid("retention policy", had, "limits".to_owned(), None);
        }
        if found.storage != wanted.storage {
            self.unsaid("storage", "memory".to_owned(), "file".to_owned(), None);
        }
        if found.num_replicas != wanted.num_replicas {
            self.push(
                "replicas",
                found.num_replicas.to_string(),
                wanted.num_replicas.to_string(),
                format!("replicas = {}", found.num_replicas),
                format!("{edit} --replicas {}", wanted.num_replicas),
            );
        }
        if found.sealed {
            self.unsaid("sealed", "yes".to_owned(), "no".to_owned(), None);
        }
        if found.no_ack {
            self.unsaid("acknowledgements", "off".to_owned(), "on".to_owned(), Some(format!("{edit} --ack")));
        }
        if found.mirror.is_some() {
            self.unsaid("mirror", "of another stream".to_owned(), "none".to_owned(), None);
        }
        if found.sources.as_ref().is_some_and(|sources| !sources.is_empty()) {
            self.unsaid("sources", "other streams".to_owned(), "none".to_owned(), None);
        }
        if found.persist_mode == Some(PersistenceMode::Async) {
            let wants = "written before it is acknowledged".to_owned();
            self.unsaid("persist mode", "async".to_owned(), wants, None);
        }
        if found.allow_message_counter {
            self.unsaid("counters", "on".to_owned(), "off".to_owned(), None);
        }
    }
}

fn quoted(subjects: &[String]) -> String {
    subjects.iter().map(|subject| format!("{subject:?}")).collect::<Vec<_>>().join(", ")
}

/// `2m`, `7d`, `1500ms`: the largest unit that says it exactly.
fn human(duration: Duration) -> String {
    let millis = duration.as_millis();
    for (unit, size) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
        if millis >= size && millis.is_multiple_of(size) {
            return format!("{}{unit}", millis / size);
        }
    }
    format!("{millis}ms")
}

/// `10GiB`, `1000B`: the largest unit that says it exactly.
fn size(bytes: i64) -> String {
    for (unit, size) in [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes >= size && bytes % size == 0 {
            return format!("{}{unit}", bytes / size);
        }
    }
    format!("{bytes}B")
}

/// The same in seconds, which every tool reads.
fn seconds(duration: Duration) -> String {
    if duration.subsec_millis() == 0 {
        format!("{}s", duration.as_secs())
    } else {
        format!("{}ms", duration.as_millis())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> LogOptions {
        LogOptions {
            stream: "raw_events".into(),
            subjects: vec!["events.>".into()],
            partitions: 1,
            replicas: 1,
            max_age: Some(Duration::from_secs(7 * 86_400)),
            max_bytes: Some(10 << 30),
            dedupe_window: Duration::from_secs(120),
            keys: keyloom_actors::event::key_paths::KeyPaths::new(["k"]),
        }
    }

    #[test]
    fn wildcards_cover_what_they_match() {
        for (filter, subject, expected) in [
            ("events.>", "events.http", true),
            ("events.>", "events.a.b", true),
            ("events.>", "events", false),
            ("events.*", "events.http", true),
            ("events.*", "events.a.b", false),
            ("events.*", "events.>", false),
            ("events.>", "events.>", true),
            ("events.>", "events.*", true),
            ("*.http", "events.http", true),
            (">", "a.b", true),
            ("events", "events", true),
            ("events.http", "events.>", false),
        ] {
            assert_eq!(covers(filter, subject), expected, "{filter} {subject}");
        }
    }

    #[test]
    fn the_front_door_publishes_where_the_stream_listens() {
        for (subjects, expected) in [
            (&["events.>"][..], "events.http"),
            (&["clicks.*.v1.>"], "clicks.http.v1.http"),
            (&["other", "events.*"], "events.http"),
            (&["other"], "other"),
        ] {
            let subjects: Vec<String> = subjects.iter().map(|&s| s.to_owned()).collect();
            let subject = front_door_subject(&subjects);
            assert_eq!(subject, expected);
            assert!(subjects.iter().any(|filter| covers(filter, &subject)));
        }
        let streams = log_streams(&LogOptions { partitions: 3, ..options() });
        assert_eq!(streams[2].config.name, "raw_events_2");
        assert_eq!(streams[2].config.subjects, ["keyloom.events.2.>"]);
        assert_eq!(streams[2].subject, "keyloom.events.2.http");
    }

    #[test]
    fn every_difference_that_matters_is_named_with_both_ways_out() {
        let wanted = log_streams(&options()).remove(0).config;
        assert_eq!(log_conflicts(&wanted, &wanted), []);
        let lenient = Config {
            max_consumers: 50,
            duplicate_window: Duration::from_secs(600),
            subjects: vec!["events.>".into(), "more".into()],
            metadata: [("_nats.level".to_owned(), "2".to_owned())].into(),
            ..wanted.clone()
        };
        assert_eq!(log_conflicts(&lenient, &wanted), []);
        type Change = fn(&mut Config);
        let changes: [(&str, Change); 14] = [
            ("retention policy", |c| c.retention = RetentionPolicy::WorkQueue),
            ("storage", |c| c.storage = StorageType::Memory),
            ("replicas", |c| c.num_replicas = 3),
            ("sealed", |c| c.sealed = true),
            ("acknowledgements", |c| c.no_ack = true),
            ("mirror", |c| c.mirror = Some(Default::default())),
            ("sources", |c| c.sources = Some(vec![Default::default()])),
            ("persist mode", |c| c.persist_mode = Some(PersistenceMode::Async)),
            ("discard policy", |c| c.discard = DiscardPolicy::New),
            ("subjects", |c| c.subjects = vec!["events.http".into()]),
            ("dedupe window", |c| c.duplicate_window = Duration::from_secs(60)),
            ("retention by age", |c| c.max_age = Duration::ZERO),
            ("retention by size", |c| c.max_bytes = -1),
            ("number of partitions", |c| c.metadata = [(PARTITIONS_NOTE.to_owned(), "4".to_owned())].into()),
        ];
        for (setting, change) in changes {
            let mut found = wanted.clone();
            change(&mut found);
            let conflicts = log_conflicts(&found, &wanted);
            assert_eq!(conflicts.iter().map(|c| c.setting).collect::<Vec<_>>(), [setting]);
            assert!(!conflicts[0].topology.is_empty() && !conflicts[0].broker.is_empty());
        }
    }

    #[test]
    fn a_plain_bucket_lacks_what_an_update_adds() {
        let wanted = store_stream(&StoreOptions { bucket: "b".into(), replicas: 1 });
        assert_eq!(store_lacks(&wanted, &wanted), Vec::<String>::new());
        let plain = Config {
            subjects: vec!["$KV.b.>".into()],
            allow_atomic_publish: false,
            max_messages_per_subject: 5,
            ..wanted.clone()
        };
        assert_eq!(store_conflicts(&plain, &wanted), []);
        assert_eq!(store_lacks(&plain, &wanted), ["atomic batches", "subject keyloom.b.>"]);
        let ttl = Config { max_age: Duration::from_secs(60), ..wanted.clone() };
        assert_eq!(store_conflicts(&ttl, &wanted).len(), 1);
    }

    #[test]
    fn durations_and_sizes_read_well() {
        for (bytes, text) in [(10 << 30, "10GiB"), (1_000, "1000B"), (3 << 20, "3MiB")] {
            assert_eq!(size(bytes), text);
        }
        for (millis, text) in [(0, "0ms"), (1_500, "1500ms"), (2_000, "2s"), (120_000, "2m"), (604_800_000, "7d")] {
            assert_eq!(human(Duration::from_millis(millis)), text);
        }
    }
}
