//! The desk on an embedded home: which letters it chooses, what it sends again, what it leaves.

use std::{
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use async_trait::async_trait;
use keyloom_actors::{
    checkpoint::record::{Tag, encode_dead_letter},
    dead_letter::Reason,
    ports::{LogInfo, LogReader},
    timestamp::{SystemClock, Timestamp},
};
use tempfile::TempDir;

use super::*;
use crate::embedded::{EmbeddedHome, EmbeddedLog, EmbeddedOptions, EmbeddedStore};

const PARTITIONS: u32 = 3;
/// When letter 1 was stored; the others follow a second apart.
const BEGIN: i64 = 1_795_176_000_000_000;

/// A desk with its log and its store in a folder of their own.
pub(crate) struct Office {
    pub(crate) desk: Desk,
    log: Arc<dyn Log>,
    store: Arc<dyn Store>,
    _folder: TempDir,
}

fn letter(seq: u64, key: &str, reason: Reason) -> DeadLetter {
    let payload = Bytes::from(format!(r#"{{"k":"{key}","event_id":"{key}-{seq}"}}"#));
    let stored = Timestamp(BEGIN + seq as i64 * 1_000_000);
    let payload_bytes = payload.len() as u64;
    let (key, error) = (key.to_owned(), "it failed".to_owned());
    DeadLetter { seq, key, reason, error, attempts: 3, stored, payload, payload_bytes }
}

impl Office {
    /// With these letters, all of checkpoint 1 of epoch 1, which has committed.
    pub(crate) async fn with(letters: Vec<(u32, DeadLetter)>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let options = EmbeddedOptions {
            data_dir: folder.path().join("data"),
            fsync: false,
            retention_age: None,
            retention_bytes: None,
            dedupe_window: Duration::from_secs(600),
        };
        let home = EmbeddedHome::open(&options).expect("a free folder");
        let log: Arc<dyn Log> = Arc::new(EmbeddedLog::new(&home, Arc::new(SystemClock)));
        let store: Arc<dyn Store> = Arc::new(EmbeddedStore::new(&home));
        for partition in 0..PARTITIONS {
            let mut claim = store.claim(partition, "test").await.expect("claimed");
            let checkpoint = Checkpoint { n: 1, lines: [(1, 1)].into(), ..Checkpoint::default() };
            let mut entries = vec![(RecordKey::Checkpoint(partition), Some(checkpoint.encode()))];
            for (_, letter) in letters.iter().filter(|(p, _)| *p == partition) {
                let record = encode_dead_letter(letter, Tag { n: 1, epoch: 1 });
                entries.push((RecordKey::DeadLetter(partition, letter.seq), Some(record)));
            }
            store.commit(&mut claim, "h1".into(), entries, true).await.expect("committed");
        }
        let desk =
            Desk::new(Arc::clone(&log), Arc::clone(&store), KeyPaths::new(["k"]), PARTITIONS, Arc::new(SystemClock));
        Self { desk, log, store, _folder: folder }
    }

    /// The events those letters came from, so that the log goes as far as they do.
    async fn filled(letters: Vec<(u32, DeadLetter)>, events: usize) -> Self {
        let office = Self::with(letters).await;
        for partition in 0..PARTITIONS {
            let event = NewRecord { key: "x".into(), dedupe_id: None, payload: "{}".into(), scanned: None };
            office.log.append(partition, vec![event; events]).await.expect("stored");
        }
        office
    }

    async fn list(&self, query: &str) -> (Vec<String>, Option<String>) {
        let request = ListRequest::from_query(query).expect("a request");
        let listing = self.desk.list(&request).await.expect("a list");
        assert_eq!(listing.count, listing.dead_letters.len());
        let ids = listing.dead_letters.iter().map(|letter| letter.id.to_string()).collect();
        (ids, listing.next.map(|next| next.to_string()))
    }

    async fn change(&self, action: Action, json: &str) -> Report {
        let request = serde_json::from_str(json).expect("a request");
        self.desk.change(action, &request).await.expect("a report")
    }

    /// What was appended behind the first `events` events.
    async fn appended(&self, partition: u32, events: u64) -> Vec<LogRecord> {
        let last = self.log.info(partition).await.expect("an extent").last_seq;
        let seqs: Vec<u64> = (events + 1..=last).collect();
        self.log.read(partition, &seqs).await.expect("events")
    }
}

fn some_letters() -> Vec<(u32, DeadLetter)> {
    let of = |partition, seq, key, reason| (partition, letter(seq, key, reason));
    vec![
        of(0, 1, "ada", Reason::Panic),
        of(0, 4, "bob", Reason::Error),
        of(0, 9, "ada", Reason::Error),
        of(2, 2, "cyd", Reason::Panic),
        of(2, 3, "cyd", Reason::Panic),
    ]
}

#[tokio::test]
async fn letters_are_chosen_by_filter_and_paged() {
    let office = Office::with(some_letters()).await;
    let all = ["0:1", "0:4", "0:9", "2:2", "2:3"];
    let cases: [(&str, &[&str], Option<&str>); 9] = [
        ("", &all, None),
        ("limit=5", &all, None),
        ("limit=3", &all[..3], Some("0:9")),
        ("limit=2&after=0:9", &all[3..], None),
        ("reason=panic&limit=1", &all[..1], Some("0:1")),
        ("key=ada", &["0:1", "0:9"], None),
        ("partition=2&after=0:1", &all[3..], None),
        ("partition=1", &[], None),
        ("partition=0&after=2:2", &[], None),
    ];
    for (query, ids, next) in cases {
        let expected = (ids.iter().map(ToString::to_string).collect(), next.map(str::to_owned));
        assert_eq!(office.list(query).await, expected, "{query}");
    }
    let at = |seconds: i64| Timestamp(BEGIN + seconds * 1_000_000).to_rfc3339();
    let (ids, _) = office.list(&format!("since={}&until={}", at(3), at(9))).await;
    assert_eq!(ids, ["0:4", "2:3"]);
    let request = ListRequest::from_query("partition=3").expect("a request");
    assert!(matches!(office.desk.list(&request).await, Err(DeskError::Wrong(_))));
}

#[tokio::test]
async fn only_letters_of_committed_checkpoints_count() {
    let office = Office::with(some_letters()).await;
    let mut claim = office.store.claim(0, "test").await.expect("claimed");
    let half = encode_dead_letter(&letter(11, "ada", Reason::Panic), Tag { n: 2, epoch: 2 });
    let entries = vec![(RecordKey::DeadLetter(0, 11), Some(half)), (RecordKey::DeadLetter(0, 12), Some("junk".into()))];
    office.store.commit(&mut claim, "h2".into(), entries, true).await.expect("committed");
    assert_eq!(office.list("partition=0").await.0, ["0:1", "0:4", "0:9"]);
    let id = |seq| LetterId { partition: 0, seq };
    assert_eq!(office.desk.show(id(11)).await.expect("an answer"), None);
    assert!(office.desk.show(id(12)).await.is_err());
    let shown = office.desk.show(id(9)).await.expect("an answer").expect("a letter");
    assert_eq!(shown.payload.as_deref(), Some(r#"{"k":"ada","event_id":"ada-9"}"#));
    // Neither is sent again or removed, also not by name.
    let report = office.change(Action::Purge, r#"{"ids":["0:11","0:12","0:13","7:1"]}"#).await;
    assert_eq!((report.done, report.skipped.len()), (0, 1));
    assert_eq!(report.missing.iter().map(ToString::to_string).collect::<Vec<_>>(), ["0:11", "0:13", "7:1"]);
    let left = office.store.get(&[RecordKey::DeadLetter(0, 11), RecordKey::DeadLetter(0, 12)]).await.expect("values");
    assert!(left.iter().all(Option::is_some));
}

#[tokio::test]
async fn a_redrive_keeps_order_ends_and_may_be_repeated() {
    // More than a round and a page, of two keys.
    let letters: Vec<_> =
        (1..=250).map(|seq| (1, letter(seq, if seq % 2 == 0 { "even" } else { "odd" }, Reason::Panic))).collect();
    let office = Office::filled(letters.clone(), 250).await;
    let report = office.change(Action::Redrive, r#"{"all":true,"dry_run":true}"#).await;
    assert_eq!((report.done, office.appended(1, 250).await.len()), (250, 0), "only said");

    let first = office.change(Action::Redrive, r#"{"key":"odd","limit":40}"#).await;
    assert_eq!((first.done, first.next.map(|next| next.to_string()).as_deref()), (40, Some("1:79:250")));
    let report = office.change(Action::Redrive, r#"{"reason":"panic"}"#).await;
    assert_eq!((report.done, report.already_stored, report.next), (210, 0, None));
    assert_eq!(office.list("").await.0, Vec::<String>::new());
    let events = office.appended(1, 250).await;
    for key in ["even", "odd"] {
        let sent =
            events.iter().filter(|event| event.key.as_deref() == Some(key.as_bytes())).map(|event| &event.payload);
        let expected = letters.iter().map(|(_, letter)| letter).filter(|l| l.key == key).map(|l| &l.payload);
        assert!(sent.eq(expected), "{key}");
    }

    // The letters are back, as if a crash had come before their removal: the log absorbs what is sent again.
    let mut claim = office.store.claim(1, "test").await.expect("claimed");
    let record = |(_, letter): &(u32, DeadLetter)| encode_dead_letter(letter, Tag { n: 1, epoch: 1 });
    let entries = letters.iter().map(|l| (RecordKey::DeadLetter(1, l.1.seq), Some(record(l)))).collect();
    office.store.commit(&mut claim, "h2".into(), entries, true).await.expect("committed");
    let report = office.change(Action::Redrive, r#"{"all":true}"#).await;
    assert_eq!((report.done, report.already_stored), (250, 250));
    assert_eq!(office.appended(1, 250).await.len(), 250);
    assert_eq!(office.change(Action::Redrive, r#"{"all":true}"#).await.done, 0);
}

/// A log that takes so many more appends, and then is away.
struct Failing(Arc<dyn Log>, AtomicUsize);

#[async_trait]
impl Log for Failing {
    async fn append(&self, partition: u32, records: Vec<NewRecord>) -> Result<Vec<Stored>, LogError> {
        if self.1.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_err() {
            return Err(LogError::Unavailable("gone".to_owned()));
        }
        self.0.append(partition, records).await
    }

    async fn reader(&self, partition: u32, from: u64) -> Result<Box<dyn LogReader>, LogError> {
        self.0.reader(partition, from).await
    }

    async fn read(&self, partition: u32, seqs: &[u64]) -> Result<Vec<LogRecord>, LogError> {
        self.0.read(partition, seqs).await
    }

    async fn info(&self, partition: u32) -> Result<LogInfo, LogError> {
        self.0.info(partition).await
    }

    async fn release(&self, partition: u32, seq: u64) -> Result<(), LogError> {
        self.0.release(partition, seq).await
    }

    fn event_bytes_max(&self) -> usize {
        self.0.event_bytes_max()
    }
}

#[tokio::test]
async fn a_redrive_that_fails_halfway_says_how_far_it_came() {
    let letters: Vec<_> = (1..=250).map(|seq| (1, letter(seq, "ada", Reason::Panic))).collect();
    let mut office = Office::filled(letters, 250).await;
    let log = Arc::new(Failing(Arc::clone(&office.log), AtomicUsize::new(3)));
    office.desk = Desk { log, ..office.desk };
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let request = serde_json::from_str(r#"{"all":true}"#).expect("a request");
    let counted = metrics::set_default_local_recorder(&recorder);
    let Halted { report, error } = office.desk.change(Action::Redrive, &request).await.expect_err("the log is gone");
    drop(counted);
    let done = 3 * ROUND_LETTERS_MAX as u64;
    assert!(matches!(error, DeskError::Log(_)), "{error}");
    assert_eq!((report.done, report.next.map(|next| next.to_string())), (done, Some(format!("1:{done}:250"))));
    let text = recorder.handle().render();
    assert!(text.contains(&format!("dead_letters_changed_total{{action=\"redrive\"}} {done}")), "{text}");

    // Going on from there does the rest, and nothing twice.
    office.desk = Desk { log: Arc::clone(&office.log), ..office.desk };
    let rest = office.change(Action::Redrive, &format!(r#"{{"all":true,"after":"1:{done}:250"}}"#)).await;
    assert_eq!((rest.done, rest.already_stored, rest.next), (250 - done, 0, None));
    assert_eq!(office.appended(1, 250).await.len(), 250);
}

#[tokio::test]
async fn letters_that_come_meanwhile_are_not_meant() {
    let office = Office::filled(some_letters(), 5).await;
    let report = office.change(Action::Purge, r#"{"all":true}"#).await;
    assert_eq!((report.done, office.list("").await.0), (4, vec!["0:9".to_owned()]), "the log ends before event 9");
    let report = office.change(Action::Purge, r#"{"all":true,"after":"0:0:100"}"#).await;
    assert_eq!((report.done, office.list("").await.0), (1, vec![]));
}

#[tokio::test]
async fn what_would_fail_again_stays_unless_forced() {
    let with = |seq, key: &str, reason, payload: &str| {
        let (payload, payload_bytes) = (Bytes::copy_from_slice(payload.as_bytes()), payload.len() as u64);
        (0, DeadLetter { payload, payload_bytes, ..letter(seq, key, reason) })
    };
    let mut letters = vec![
        with(1, "", Reason::Parse, "{nope"),
        with(2, "", Reason::NoKey, r#"{"x":1}"#),
        with(3, "", Reason::TooLarge, r#"{"keyloom.rejected":"too_large","error":"10 MB"}"#),
        with(4, "cut", Reason::Panic, r#"{"k":"cut","x":"#),
        with(5, "header", Reason::Parse, "{nope"),
        // The topology of today finds its key.
        with(6, "", Reason::NoKey, r#"{"k":"found"}"#),
        with(7, "by-header", Reason::Reject, r#"{"no":"key inside"}"#),
    ];
    letters[3].1.payload_bytes = 1_000_000;
    let office = Office::filled(letters, 10).await;
    let home = partition_of(b"found", PARTITIONS);
    let report = office.change(Action::Redrive, r#"{"all":true}"#).await;
    assert_eq!(report.done, 2);
    let why = |report: &Report| report.skipped.iter().map(|s| (s.id.seq, s.why.clone())).collect::<Vec<_>>();
    let skipped = why(&report);
    assert_eq!(skipped.iter().map(|s| s.0).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    for (at, word) in ["parse", "no_key", "too_large: 10 MB", "1000000 bytes", "parse"].iter().enumerate() {
        assert!(skipped[at].1.contains(word), "{}", skipped[at].1);
    }
    let keys = |events: Vec<LogRecord>| events.into_iter().filter_map(|e| e.key).collect::<Vec<_>>();
    let mut sent = keys(office.appended(0, 10).await);
    if home != 0 {
        sent.extend(keys(office.appended(home, 10).await));
    }
    sent.sort();
    assert_eq!(sent, ["by-header", "found"]);

    let report = office.change(Action::Redrive, r#"{"ids":["0:1","0:2","0:4","0:5"],"force":true}"#).await;
    assert_eq!((report.done, why(&report).len()), (3, 1), "what was cut cannot be forced");
    assert_eq!(office.list("").await.0, ["0:3", "0:4"]);
    assert_eq!(office.change(Action::Purge, r#"{"ids":["0:3","0:4","0:4"]}"#).await.done, 2);
}
