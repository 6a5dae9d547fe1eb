//! The contract of the port `Log`.

use std::{
    collections::BTreeMap,
    future::{Future as _, poll_fn},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use bytes::Bytes;
use keyloom_actors::{
    event::dedupe_id,
    ports::{Log, LogError, LogReader, LogRecord, NewRecord, Stored},
    timestamp::{Clock, SECOND, SystemClock},
};
use keyloom_tests::support::homes::Home;
use tokio::{task::JoinHandle, time::timeout};

use super::noise;

contract!(
    Home: embedded, nats;
    sequences_start_at_one_and_follow_the_order_of_appends,
    what_is_answered_is_there,
    a_repeated_id_is_absorbed_and_another_is_not,
    an_event_without_an_id_is_never_a_repeat,
    repeats_are_absorbed_across_a_restart,
    a_restart_keeps_every_event_and_goes_on_counting,
    keys_and_payloads_come_back_byte_for_byte,
    the_time_of_storing_is_now_and_does_not_change,
    an_empty_append_stores_nothing,
    a_reader_begins_where_it_is_told,
    a_reader_at_the_end_waits_and_gets_what_comes,
    a_reader_beyond_the_end_is_an_error,
    no_answer_of_a_reader_exceeds_its_limits,
    dropping_next_loses_and_repeats_nothing,
    readers_do_not_disturb_each_other,
    concurrent_appends_keep_the_order_of_each_caller,
    events_are_read_by_their_sequences,
    the_extent_of_an_empty_and_of_a_filled_log,
    partitions_are_independent,
    a_too_large_event_is_refused_before_anything_is_stored,
    releasing_takes_nothing_that_retention_keeps,
);

/// Longest wait for anything here.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a reader is watched that must not answer.
const SILENCE: Duration = Duration::from_millis(300);
/// Limits of a call of `next` that has no other purpose than to get everything.
const EVENTS_MAX: usize = 1_000;
const BYTES_MAX: usize = 1 << 20;

/// An event as the front door makes it.
fn event(key: &str, event_id: &str) -> NewRecord {
    NewRecord {
        key: Bytes::copy_from_slice(key.as_bytes()),
        dedupe_id: Some(dedupe_id(key.as_bytes(), event_id.as_bytes())),
        payload: format!(r#"{{"domain_userid":"{key}","event_id":"{event_id}"}}"#).into(),
        scanned: None,
    }
}

/// Events without ids, whose payloads are their numbers.
fn numbered(numbers: std::ops::RangeInclusive<u64>) -> Vec<NewRecord> {
    let one = |n: u64| NewRecord {
        key: "k".into(),
        dedupe_id: None,
        payload: format!(r#"{{"n":{n}}}"#).into(),
        scanned: None,
    };
    numbers.map(one).collect()
}

fn new(seqs: std::ops::RangeInclusive<u64>) -> Vec<Stored> {
    seqs.map(Stored::New).collect()
}

fn seqs(records: &[LogRecord]) -> Vec<u64> {
    records.iter().map(|record| record.seq).collect()
}

fn same(found: &LogRecord, put: &NewRecord) -> bool {
    found.key.as_deref().unwrap_or_default() == &put.key[..] && found.payload == put.payload
}

async fn append(log: &dyn Log, records: Vec<NewRecord>) -> Vec<Stored> {
    log.append(0, records).await.expect("appended")
}

async fn reader(log: &dyn Log, from: u64) -> Box<dyn LogReader> {
    log.reader(0, from).await.expect("a reader")
}

async fn next(reader: &mut dyn LogReader, events_max: usize, bytes_max: usize) -> Vec<LogRecord> {
    let answer = timeout(PATIENCE, reader.next(events_max, bytes_max)).await;
    let records = answer.expect("the reader answers in time").expect("the reader goes on");
    assert!(!records.is_empty(), "an answer without events");
    records
}

/// Everything from `from` to `last`, and nothing else.
async fn read_all(reader: &mut dyn LogReader, from: u64, last: u64) -> Vec<LogRecord> {
    let mut records: Vec<LogRecord> = Vec::new();
    while records.last().is_none_or(|record| record.seq < last) {
        records.extend(next(reader, EVENTS_MAX, BYTES_MAX).await);
    }
    assert_eq!(seqs(&records), (from..=last).collect::<Vec<_>>());
    records
}

async fn joined<T>(tasks: Vec<JoinHandle<T>>) -> Vec<T> {
    let mut results = Vec::new();
    for task in tasks {
        results.push(timeout(PATIENCE, task).await.expect("in time").expect("no panic"));
    }
    results
}

async fn sequences_start_at_one_and_follow_the_order_of_appends(home: Home) {
    let log = home.log(1).await;
    assert_eq!(append(&*log, numbered(1..=3)).await, new(1..=3));
    assert_eq!(append(&*log, numbered(4..=4)).await, new(4..=4));
    assert_eq!(append(&*log, numbered(5..=2_500)).await, new(5..=2_500));
    let records = read_all(&mut *reader(&*log, 1).await, 1, 2_500).await;
    for (record, put) in records.iter().zip(numbered(1..=2_500)) {
        assert!(same(record, &put), "{record:?}");
    }
}

async fn what_is_answered_is_there(home: Home) {
    let log = home.log(1).await;
    for n in 1..=30 {
        append(&*log, numbered(n..=n)).await;
        assert_eq!(log.info(0).await.expect("info").last_seq, n);
        assert_eq!(seqs(&log.read(0, &[n]).await.expect("read")), [n]);
    }
}

async fn a_repeated_id_is_absorbed_and_another_is_not(home: Home) {
    let log = home.log(1).await;
    let batch = vec![event("a", "1"), event("a", "2"), event("b", "1")];
    assert_eq!(append(&*log, batch).await, new(1..=3), "the same event id under another key is another event");
    // New ones between repeats, and a repeat of what comes in the same append.
    let batch = vec![event("b", "1"), event("a", "3"), event("a", "1"), event("a", "3"), event("b", "2")];
    let stored = append(&*log, batch).await;
    let originals = [Some(3), None, Some(1), Some(4), None];
    for (at, original) in originals.into_iter().enumerate() {
        match (stored[at], original) {
            (Stored::Duplicate(seq), Some(original)) => assert!(seq.is_none_or(|seq| seq == original), "{stored:?}"),
            (Stored::New(_), None) => {}
            _ => panic!("{stored:?}"),
        }
    }
    assert_eq!((stored[1], stored[4]), (Stored::New(4), Stored::New(5)), "absorbed events take no sequence");
    let records = read_all(&mut *reader(&*log, 1).await, 1, 5).await;
    let put = [event("a", "1"), event("a", "2"), event("b", "1"), event("a", "3"), event("b", "2")];
    assert!(records.iter().zip(&put).all(|(record, put)| same(record, put)), "{records:?}");
    // The id decides, not what comes with it.
    let changed = NewRecord { payload: "{}".into(), ..event("a", "1") };
    assert!(matches!(append(&*log, vec![changed]).await[..], [Stored::Duplicate(_)]));
    assert_eq!(log.info(0).await.expect("info").last_seq, 5);
}

async fn an_event_without_an_id_is_never_a_repeat(home: Home) {
    let log = home.log(1).await;
    let nameless = NewRecord { dedupe_id: None, ..event("a", "1") };
    assert_eq!(append(&*log, vec![nameless.clone(), nameless.clone(), event("a", "1")]).await, new(1..=3));
    assert_eq!(append(&*log, vec![nameless.clone(), nameless]).await, new(4..=5));
}

async fn repeats_are_absorbed_across_a_restart(mut home: Home) {
    // What a tool refused has no key; its id is made of the whole payload.
    let payload = Bytes::from(r#"{"keyloom.rejected":"parse","error":"x","source":"f:1"}"#);
    let refusal = NewRecord { key: Bytes::new(), dedupe_id: Some(dedupe_id(b"", &payload)), payload, scanned: None };
    let batch = || vec![event("ü", "1"), event("b", "1"), refusal.clone()];
    let mut log = home.log(1).await;
    assert_eq!(append(&*log, batch()).await, new(1..=3));
    // Twice: the second time the repeats have been sent since, and something else was stored.
    for seq in 4..=5 {
        drop(log);
        home.restart();
        log = home.log(1).await;
        let stored = append(&*log, batch()).await;
        assert!(stored.iter().all(|stored| matches!(stored, Stored::Duplicate(_))), "{stored:?}");
        assert_eq!(append(&*log, vec![event("b", &seq.to_string())]).await, new(seq..=seq));
    }
}

async fn a_restart_keeps_every_event_and_goes_on_counting(mut home: Home) {
    let log = home.log(1).await;
    append(&*log, numbered(1..=1_500)).await;
    append(&*log, numbered(1_501..=1_501)).await;
    drop(log);
    home.restart();
    let log = home.log(1).await;
    let info = log.info(0).await.expect("info");
    assert_eq!((info.first_seq, info.last_seq), (1, 1_501));
    assert_eq!(append(&*log, numbered(1_502..=1_600)).await, new(1_502..=1_600));
    let records = read_all(&mut *reader(&*log, 1).await, 1, 1_600).await;
    assert!(records.iter().zip(numbered(1..=1_600)).all(|(record, put)| same(record, &put)));
}

async fn keys_and_payloads_come_back_byte_for_byte(mut home: Home) {
    let long = "ü".repeat(256);
    let keys = [
        "plain",
        "a.b.>.*",
        "ü 100%",
        "%41%",
        "\r\nNats-Msg-Id: x\r\n\r\n",
        " around ",
        "\t",
        "\"'\\",
        "a:b",
        "\0",
        &long,
    ];
    let record = |key: &[u8], payload: Bytes| NewRecord {
        key: Bytes::copy_from_slice(key),
        dedupe_id: None,
        payload,
        scanned: None,
    };
    let mut put: Vec<NewRecord> = keys.map(|key| record(key.as_bytes(), "{}".into())).into();
    // Keys and payloads that are no text, for whatever foreign writers send.
    put.push(record(&[0xff, 0xfe, 0, b'%'], "{}".into()));
    put.push(record(b"k", Bytes::from_static(b"\xff\0\r\n+OK\r\n")));
    put.push(record(b"k", "\u{feff}{ }\r\n".into()));
    put.push(record(b"", r#"{"no":"key"}"#.into()));
    put.push(record(b"k", Bytes::new()));
    for seed in 0..8 {
        put.push(record(b"large", noise(seed, 200 << 10)));
        put.push(record(b"k", "{}".into()));
    }
    let last = put.len() as u64;
    let check = |found: &[LogRecord]| {
        assert_eq!(found.len(), put.len());
        for (found, put) in found.iter().zip(&put) {
            assert!(same(found, put), "{:?}, {} bytes, is event {}", put.key, put.payload.len(), found.seq);
            assert_eq!(found.key.is_none(), put.key.is_empty(), "an empty key is no key: {:?}", found.key);
        }
    };

    let log = home.log(1).await;
    assert_eq!(append(&*log, put.clone()).await, new(1..=last));
    let all: Vec<u64> = (1..=last).collect();
    check(&read_all(&mut *reader(&*log, 1).await, 1, last).await);
    check(&log.read(0, &all).await.expect("read"));
    drop(log);
    home.restart();
    let log = home.log(1).await;
    check(&read_all(&mut *reader(&*log, 1).await, 1, last).await);
    check(&log.read(0, &all).await.expect("read"));
}

async fn the_time_of_storing_is_now_and_does_not_change(mut home: Home) {
    let log = home.log(1).await;
    let before = SystemClock.now();
    for n in 1..=20 {
        append(&*log, numbered(n..=n)).await;
    }
    let after = SystemClock.now();
    let times = |records: &[LogRecord]| records.iter().map(|record| record.stored).collect::<Vec<_>>();
    let stored = times(&read_all(&mut *reader(&*log, 1).await, 1, 20).await);
    let sane = before.0 - SECOND..=after.0 + SECOND;
    assert!(stored.iter().all(|time| sane.contains(&time.0)), "{stored:?} is not within {sane:?}");
    assert!(stored.is_sorted(), "{stored:?}");
    let all: Vec<u64> = (1..=20).collect();
    assert_eq!(times(&log.read(0, &all).await.expect("read")), stored);
    drop(log);
    home.restart();
    let log = home.log(1).await;
    assert_eq!(times(&read_all(&mut *reader(&*log, 1).await, 1, 20).await), stored);
}

async fn an_empty_append_stores_nothing(home: Home) {
    let log = home.log(1).await;
    assert_eq!(append(&*log, vec![]).await, []);
    assert_eq!(log.info(0).await.expect("info").last_seq, 0);
    assert_eq!(append(&*log, numbered(1..=1)).await, new(1..=1));
}

async fn a_reader_begins_where_it_is_told(mut home: Home) {
    let log = home.log(1).await;
    append(&*log, numbered(1..=2_000)).await;
    for from in [1, 2, 1_000, 1_999, 2_000] {
        read_all(&mut *reader(&*log, from).await, from, 2_000).await;
    }
    drop(log);
    home.restart();
    let log = home.log(1).await;
    for from in [1, 2, 1_000, 1_999, 2_000] {
        read_all(&mut *reader(&*log, from).await, from, 2_000).await;
    }
}

async fn a_reader_at_the_end_waits_and_gets_what_comes(home: Home) {
    let log = home.log(1).await;
    // At the end of an empty log, and of a filled one.
    for end in [0, 10] {
        let mut waiting = reader(&*log, end + 1).await;
        let early = timeout(SILENCE, waiting.next(EVENTS_MAX, BYTES_MAX)).await;
        assert!(early.is_err(), "nothing is there, but it answers {early:?}");
        let waiting = tokio::spawn(async move { read_all(&mut *waiting, end + 1, end + 10).await });
        append(&*log, numbered(end + 1..=end + 3)).await;
        append(&*log, numbered(end + 4..=end + 10)).await;
        joined(vec![waiting]).await;
    }
}

async fn a_reader_beyond_the_end_is_an_error(home: Home) {
    let log = home.log(1).await;
    for last in [0, 5] {
        if last > 0 {
            append(&*log, numbered(1..=last)).await;
        }
        // A home may find out when the reader is made, or when it is first asked.
        let error = match log.reader(0, last + 2).await {
            Err(error) => error,
            Ok(mut reader) => {
                let answer = timeout(PATIENCE, reader.next(EVENTS_MAX, BYTES_MAX)).await.expect("an answer");
                answer.expect_err("the log does not reach that far")
            }
        };
        assert!(matches!(error, LogError::Corrupt(_)), "{error}");
    }
}

async fn no_answer_of_a_reader_exceeds_its_limits(mut home: Home) {
    const BYTES: usize = 1 << 10;
    let log = home.log(1).await;
    let put = |seed| NewRecord { key: "k".into(), dedupe_id: None, payload: noise(seed, BYTES), scanned: None };
    append(&*log, (1..=600).map(put).collect()).await;
    check_limits(&*log, 600, BYTES).await;
    // The same from disk.
    drop(log);
    home.restart();
    check_limits(&*home.log(1).await, 600, BYTES).await;
}

async fn check_limits(log: &dyn Log, last: u64, largest: usize) {
    let limits = [(1, BYTES_MAX), (7, BYTES_MAX), (100, BYTES_MAX), (EVENTS_MAX, 10 * largest), (EVENTS_MAX, 1)];
    for (events_max, bytes_max) in limits {
        let mut reader = reader(log, 1).await;
        let mut seen = Vec::new();
        while seen.last() != Some(&last) {
            let records = next(&mut *reader, events_max, bytes_max).await;
            assert!(records.len() <= events_max, "{} events, at most {events_max} were asked for", records.len());
            let bytes: usize = records.iter().map(|record| record.payload.len()).sum();
            assert!(bytes <= bytes_max + largest, "{bytes} bytes, about {bytes_max} were asked for");
            seen.extend(seqs(&records));
        }
        assert_eq!(seen, (1..=last).collect::<Vec<_>>());
    }
    // Limits of one reader may change from call to call, and none is a way to stand still.
    let mut reader = reader(log, 1).await;
    for (limit, expected) in [(3, 3), (0, 1), (1, 1)] {
        let mut found = 0;
        while found < expected {
            let records = next(&mut *reader, limit.min(expected - found), BYTES_MAX).await;
            assert!(records.len() <= limit.max(1));
            found += records.len();
        }
    }
    read_all(&mut *reader, 6, last).await;
}

async fn dropping_next_loses_and_repeats_nothing(mut home: Home) {
    const OLD: u64 = 3_000;
    const ALL: u64 = 6_000;
    let log = home.log(1).await;
    append(&*log, numbered(1..=OLD)).await;
    drop(log);
    home.restart();
    let log = home.log(1).await;
    let mut reader = reader(&*log, 1).await;
    let appender = tokio::spawn({
        let log = Arc::clone(&log);
        async move {
            for n in (OLD + 1..=ALL).step_by(50) {
                append(&*log, numbered(n..=n + 49)).await;
            }
        }
    });
    let deadline = Instant::now() + PATIENCE;
    let (mut seen, mut dropped) = (Vec::new(), 0);
    // Dropped as soon as it has to wait, or after a moment, in turns.
    for patient in [false, false, true].into_iter().cycle() {
        assert!(Instant::now() < deadline, "{} events after {PATIENCE:?}", seen.len());
        let mut answer = pin!(reader.next(37, BYTES_MAX));
        let answer = if patient {
            timeout(Duration::from_millis(1), answer).await.ok()
        } else {
            let once = poll_fn(|context| Poll::Ready(answer.as_mut().poll(context)));
            if let Poll::Ready(answer) = once.await { Some(answer) } else { None }
        };
        match answer {
            Some(records) => seen.extend(seqs(&records.expect("the reader goes on"))),
            None => dropped += 1,
        }
        if seen.len() as u64 >= ALL {
            break;
        }
    }
    assert_eq!(seen, (1..=ALL).collect::<Vec<_>>());
    assert!(dropped > 0, "no future was dropped: the test is none");
    joined(vec![appender]).await;
    // Nothing of the dropped ones is left over.
    append(&*log, numbered(ALL + 1..=ALL + 1)).await;
    read_all(&mut *reader, ALL + 1, ALL + 1).await;
}

async fn readers_do_not_disturb_each_other(home: Home) {
    let log = home.log(1).await;
    append(&*log, numbered(1..=1_000)).await;
    let mut readers = Vec::new();
    for (from, events_max) in [(1, 1_000), (1, 13), (500, 100), (1_001, 1_000)] {
        let mut reader = reader(&*log, from).await;
        readers.push(tokio::spawn(async move {
            let mut seen = Vec::new();
            while seen.last() != Some(&2_000) {
                seen.extend(seqs(&next(&mut *reader, events_max, BYTES_MAX).await));
            }
            assert_eq!(seen, (from..=2_000).collect::<Vec<_>>());
        }));
    }
    // One that is made and never asked, and one that goes away.
    let idle = reader(&*log, 1).await;
    let mut leaves = reader(&*log, 1).await;
    next(&mut *leaves, 1, BYTES_MAX).await;
    drop(leaves);
    for n in (1_001..=2_000).step_by(100) {
        append(&*log, numbered(n..=n + 99)).await;
    }
    joined(readers).await;
    drop(idle);
}

async fn concurrent_appends_keep_the_order_of_each_caller(home: Home) {
    const CALLERS: u64 = 8;
    const APPENDS: u64 = 15;
    const EVENTS: u64 = 4;
    let log = home.log(1).await;
    let callers = (0..CALLERS).map(|caller| {
        let log = Arc::clone(&log);
        tokio::spawn(async move {
            let mut stored = Vec::new();
            for n in 0..APPENDS {
                let payload = |i: u64| format!(r#"{{"caller":{caller},"n":{}}}"#, n * EVENTS + i);
                let one = |i| NewRecord { key: "k".into(), dedupe_id: None, payload: payload(i).into(), scanned: None };
                let answers = append(&*log, (0..EVENTS).map(one).collect()).await;
                for (i, answer) in (0..EVENTS).zip(answers) {
                    let Stored::New(seq) = answer else { panic!("{answer:?}") };
                    stored.push((seq, payload(i)));
                }
            }
            assert!(stored.is_sorted_by(|a, b| a.0 < b.0), "{stored:?}");
            stored
        })
    });
    let stored: BTreeMap<u64, String> = joined(callers.collect()).await.into_iter().flatten().collect();
    let last = CALLERS * APPENDS * EVENTS;
    assert!(stored.keys().copied().eq(1..=last), "every sequence was given once");
    for record in read_all(&mut *reader(&*log, 1).await, 1, last).await {
        assert_eq!(record.payload, stored[&record.seq], "event {}", record.seq);
    }
}

async fn events_are_read_by_their_sequences(mut home: Home) {
    let mut log = home.log(1).await;
    assert!(log.read(0, &[1, 2]).await.expect("an empty log").is_empty());
    append(&*log, numbered(1..=1_000)).await;
    let many: Vec<u64> = (1..=1_000).step_by(3).collect();
    let put = numbered(1..=1_000);
    let cases: [(&[u64], &[u64]); 6] = [
        (&[], &[]),
        (&[1], &[1]),
        (&[1, 2, 500, 999, 1_000], &[1, 2, 500, 999, 1_000]),
        (&[0, 7, 1_001, 5_000, u64::MAX >> 1], &[7]),
        (&[1_001], &[]),
        (&many, &many),
    ];
    for _ in 0..2 {
        for (wanted, expected) in cases {
            let found = log.read(0, wanted).await.unwrap_or_else(|e| panic!("{wanted:?}: {e}"));
            assert_eq!(seqs(&found), expected);
            assert!(found.iter().all(|record| same(record, &put[record.seq as usize - 1])), "{wanted:?}");
        }
        drop(log);
        home.restart();
        log = home.log(1).await;
    }
}

async fn the_extent_of_an_empty_and_of_a_filled_log(mut home: Home) {
    let mut log = home.log(1).await;
    for _ in 0..2 {
        let info = log.info(0).await.expect("info");
        assert_eq!((info.first_seq, info.last_seq), (1, 0), "an empty log begins behind its end");
        drop(log);
        home.restart();
        log = home.log(1).await;
    }
    append(&*log, numbered(1..=12)).await;
    for _ in 0..2 {
        let info = log.info(0).await.expect("info");
        assert_eq!((info.first_seq, info.last_seq), (1, 12));
        drop(log);
        home.restart();
        log = home.log(1).await;
    }
}

async fn partitions_are_independent(mut home: Home) {
    let mut log = home.log(3).await;
    // The same ids everywhere: repeats are a matter of one partition.
    for (partition, events) in [(2, 1..=5), (0, 1..=2), (2, 6..=6)] {
        let put: Vec<NewRecord> = events.clone().map(|n| event(&format!("p{partition}"), &n.to_string())).collect();
        assert_eq!(log.append(partition, put).await.expect("appended"), new(events));
    }
    let shared = || vec![event("shared", "1")];
    assert_eq!(log.append(0, shared()).await.expect("appended"), new(3..=3));
    assert_eq!(log.append(2, shared()).await.expect("appended"), new(7..=7));
    for _ in 0..2 {
        for (partition, last) in [(0, 3), (1, 0), (2, 7)] {
            let info = log.info(partition).await.expect("info");
            assert_eq!((info.first_seq, info.last_seq), (1, last), "partition {partition}");
            if last > 0 {
                let mut reader = log.reader(partition, 1).await.expect("a reader");
                let records = read_all(&mut *reader, 1, last).await;
                let own = format!("p{partition}");
                assert!(records[..records.len() - 1].iter().all(|r| r.key.as_deref() == Some(own.as_bytes())));
                assert_eq!(seqs(&log.read(partition, &[1, last]).await.expect("read")), [1, last]);
            }
        }
        let mut quiet = log.reader(1, 1).await.expect("a reader");
        assert!(timeout(SILENCE, quiet.next(EVENTS_MAX, BYTES_MAX)).await.is_err(), "nothing was written there");
        drop((quiet, log));
        home.restart();
        log = home.log(3).await;
    }
}

async fn a_too_large_event_is_refused_before_anything_is_stored(home: Home) {
    let log = home.log(1).await;
    let limit = log.event_bytes_max();
    assert!(limit >= 256 << 10, "{limit}");
    let sized =
        |bytes| NewRecord { key: "ü".repeat(256).into(), dedupe_id: Some(9), payload: noise(1, bytes), scanned: None };
    let refused = log.append(0, vec![event("a", "1"), sized(limit + 1), event("a", "2")]).await;
    let Err(LogError::TooLarge { bytes, limit: said }) = refused else { panic!("{refused:?}") };
    assert_eq!((bytes, said), (limit + 1, limit));
    assert_eq!(log.info(0).await.expect("info").last_seq, 0);
    // None of them counts as sent; and what is just not too large goes through.
    let put = vec![event("a", "1"), sized(limit), event("a", "2")];
    assert_eq!(append(&*log, put.clone()).await, new(1..=3));
    let records = read_all(&mut *reader(&*log, 1).await, 1, 3).await;
    assert!(records.iter().zip(&put).all(|(record, put)| same(record, put)));
}

async fn releasing_takes_nothing_that_retention_keeps(home: Home) {
    let log = home.log(1).await;
    append(&*log, numbered(1..=500)).await;
    log.release(0, 400).await.expect("released");
    log.release(0, 500).await.expect("released again");
    assert_eq!(log.info(0).await.expect("info").first_seq, 1, "this log is told to keep everything");
    read_all(&mut *reader(&*log, 1).await, 1, 500).await;
}
