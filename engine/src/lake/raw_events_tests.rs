//! Tests of the table `raw_events`: what is written is read back and compared with what was sent.

use arrow_array::{
    Array, RecordBatchReader,
    cast::AsArray,
    types::{Int32Type, Int64Type, TimestampMicrosecondType},
};
use bytes::Bytes;
use keyloom_actors::{
    event::{EventBatch, KeyPaths},
    ports::{LogRecord, TableFile},
    timestamp::Timestamp,
};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use proptest::prelude::*;

use super::{
    super::{by_hour::CHUNK_BYTES, names},
    *,
};

const NOON: i64 = 1_795_176_000_000_000;
const HOUR: i64 = 3_600_000_000;

fn record(seq: u64, payload: impl Into<Vec<u8>>) -> LogRecord {
    LogRecord {
        seq,
        stored: Timestamp(NOON + seq as i64),
        key: None,
        payload: Bytes::from(payload.into()),
        scanned: None,
        envelope: None,
    }
}

fn decoded(records: Vec<LogRecord>) -> TableInput {
    TableInput::Events(Arc::new(EventBatch::decode(3, records, &KeyPaths::new(["domain_userid"]), None)))
}

fn events_of(input: &TableInput) -> &[event::Event] {
    let TableInput::Events(batch) = input else { panic!("events") };
    &batch.events
}

/// Events of three hours in no order, of all kinds that differ in encoding.
fn events(count: u64) -> Vec<LogRecord> {
    let event = |seq: u64| {
        let time = Timestamp(NOON - HOUR * (seq * 7_919 % 3) as i64 + 17 * seq as i64);
        let id =
            if seq.is_multiple_of(5) { String::new() } else { format!(r#""event_id":"e-{seq}-{}","#, seq * 7_919) };
        let large = if seq.is_multiple_of(997) { "x".repeat(1_500_000) } else { format!("{}", seq % 13) };
        record(
            seq,
            format!(
                r#"{{"app_id":"shop",{id}"domain_userid":"u{}","collector_tstamp":"{time}","event":"page_view",
                "page_url":"https://shop.example/{}","basket":{{"n":{seq}}},"note":"{large}"}}"#,
                seq % 41,
                seq % 101,
            ),
        )
    };
    (1..=count).map(event).collect()
}

fn written(batches: &[TableInput], seqs: RangeInclusive<u64>) -> Vec<TableFile> {
    let mut cut = RawEvents::new(3, 1).open();
    for batch in batches {
        cut.push(batch, seqs.clone()).unwrap();
    }
    let (rows, files) = (cut.rows(), cut.files());
    let finished = cut.finish().unwrap();
    assert_eq!((finished.iter().map(|f| f.rows).sum::<u64>(), finished.len()), (rows, files));
    finished
}

fn read(file: &TableFile) -> RecordBatch {
    let reader = ParquetRecordBatchReaderBuilder::try_new(file.bytes.clone()).unwrap();
    let reader = reader.with_batch_size(1 << 20).build().unwrap();
    let schema = reader.schema();
    let batches: Vec<_> = reader.map(Result::unwrap).collect();
    assert!(batches.len() <= 1, "all rows in one");
    batches.into_iter().next().unwrap_or_else(|| RecordBatch::new_empty(schema))
}

fn text<'a>(rows: &'a RecordBatch, column: &str, row: usize) -> Option<&'a str> {
    let column = rows.column_by_name(column).unwrap().as_string::<i32>();
    column.is_valid(row).then(|| column.value(row))
}

fn time(rows: &RecordBatch, column: &str, row: usize) -> Option<i64> {
    let column = rows.column_by_name(column).unwrap().as_primitive::<TimestampMicrosecondType>();
    column.is_valid(row).then(|| column.value(row))
}

/// The one row of one event.
fn row_of(payload: &str) -> RecordBatch {
    let files = written(&[decoded(vec![record(7, payload)])], 1..=100);
    assert_eq!(files.len(), 1, "{payload}");
    read(&files[0])
}

#[test]
fn columns_are_as_published() {
    let rows = row_of(r#"{"domain_userid":"d"}"#);
    let described: Vec<_> = rows
        .schema()
        .fields()
        .iter()
        .map(|f| format!("{} {}{}", f.name(), f.data_type(), if f.is_nullable() { "" } else { " required" }))
        .collect();
    let time = r#"Timestamp(µs, "UTC")"#;
    let expected = [
        "event_id Utf8 required".to_owned(),
        "key Utf8 required".to_owned(),
        "seq Int64 required".to_owned(),
        "partition_id Int32 required".to_owned(),
        format!("event_time {time} required"),
        format!("stored_time {time} required"),
        format!("collector_tstamp {time} required"),
        format!("dvce_created_tstamp {time}"),
        "app_id Utf8".to_owned(),
        "platform Utf8".to_owned(),
        "event Utf8".to_owned(),
        "user_ipaddress Utf8".to_owned(),
        "domain_userid Utf8".to_owned(),
        "session_id Utf8".to_owned(),
        "page_url Utf8".to_owned(),
        "extra Utf8".to_owned(),
    ];
    assert_eq!(described, expected);
}

#[test]
fn an_event_becomes_a_row() {
    let rows = row_of(
        r#"{"app_id":"shop","platform":"web","collector_tstamp":"2026-11-20T11:30:00.25Z","event":"page_view",
            "dvce_created_tstamp":"2026-11-20 11:29:59","event_id":"e1","user_ipaddress":"192.0.2.1",
            "domain_userid":"d","session_id":"s\u00fc","page_url":"https://shop.example/?a=\"1\"",
            "user_id":"u" , "basket" : {"n": [1, 2.50]} ,"odd \"name\"":null}"#,
    );
    let texts = [
        ("event_id", "e1"),
        ("key", "d"),
        ("app_id", "shop"),
        ("platform", "web"),
        ("event", "page_view"),
        ("user_ipaddress", "192.0.2.1"),
        ("domain_userid", "d"),
        ("session_id", "sü"),
        ("page_url", "https://shop.example/?a=\"1\""),
        ("extra", r#"{"user_id":"u","basket":{"n": [1, 2.50]},"odd \"name\"":null}"#),
    ];
    for (column, value) in texts {
        assert_eq!(text(&rows, column, 0), Some(value), "{column}");
    }
    assert_eq!(rows.column_by_name("seq").unwrap().as_primitive::<Int64Type>().value(0), 7);
    assert_eq!(rows.column_by_name("partition_id").unwrap().as_primitive::<Int32Type>().value(0), 3);
    let collected = NOON - HOUR / 2 + 250_000;
    assert_eq!(time(&rows, "collector_tstamp", 0), Some(collected));
    assert_eq!(time(&rows, "event_time", 0), Some(collected));
    assert_eq!(time(&rows, "stored_time", 0), Some(NOON + 7));
    assert_eq!(time(&rows, "dvce_created_tstamp", 0), Some(NOON - HOUR / 2 - 1_000_000));
}

#[test]
fn what_is_missing_has_a_stand_in_and_what_does_not_fit_is_kept() {
    for (fields, id, extra) in [
        ("", "3:7", None),
        (r#","event_id":null,"app_id":null,"collector_tstamp":null,"dvce_created_tstamp":null"#, "3:7", None),
        (r#","event_id":"""#, "3:7", Some(r#"{"event_id":""}"#)),
        (r#","event_id":12"#, "3:7", Some(r#"{"event_id":12}"#)),
        (r#","event_id":"e","user_id":null"#, "e", Some(r#"{"user_id":null}"#)),
        (r#","app_id":{"a":1},"x":1,"x":2"#, "3:7", Some(r#"{"app_id":{"a":1},"x":1,"x":2}"#)),
        (r#","page_url":"\ud800","event":true"#, "3:7", Some(r#"{"page_url":"\ud800","event":true}"#)),
        (r#","collector_tstamp":"soon""#, "3:7", Some(r#"{"collector_tstamp":"soon"}"#)),
        (r#","dvce_created_tstamp":[1]"#, "3:7", Some(r#"{"dvce_created_tstamp":[1]}"#)),
        (r#","keyloom.rejected":"schema","error":"no""#, "3:7", Some(r#"{"keyloom.rejected":"schema","error":"no"}"#)),
    ] {
        let rows = row_of(&format!(r#"{{"domain_userid":"d"{fields}}}"#));
        assert_eq!((text(&rows, "event_id", 0), text(&rows, "extra", 0)), (Some(id), extra), "{fields}");
        for column in ["app_id", "event", "page_url"] {
            assert_eq!(text(&rows, column, 0), None, "{fields}");
        }
        assert_eq!(time(&rows, "collector_tstamp", 0), Some(NOON + 7), "the time of storing: {fields}");
        assert_eq!(time(&rows, "dvce_created_tstamp", 0), None, "{fields}");
    }
    // A collector time that happens to equal the time of storing was readable all the same.
    let rows = row_of(r#"{"domain_userid":"d","collector_tstamp":"2026-11-20T12:00:00.000007Z"}"#);
    assert_eq!(text(&rows, "extra", 0), None);
}

#[test]
fn events_without_fields_or_key_enter_no_table_and_only_the_range_does() {
    let fine = |n| format!(r#"{{"domain_userid":"d{n}"}}"#);
    let records =
        vec![record(1, fine(1)), record(2, "{broken"), record(3, r#"{"a":1}"#), record(5, fine(5)), record(6, fine(6))];
    let batch = decoded(records);
    let seqs = |range: RangeInclusive<u64>| {
        let files = written(std::slice::from_ref(&batch), range);
        let read = |f: &TableFile| read(f).column_by_name("seq").unwrap().as_primitive::<Int64Type>().values().to_vec();
        files.iter().flat_map(read).collect::<Vec<_>>()
    };
    assert_eq!(seqs(0..=u64::MAX), [1, 5, 6]);
    assert_eq!(seqs(1..=5), [1, 5]);
    assert_eq!(seqs(2..=5), [5]);
    assert!(written(&[batch], 2..=4).is_empty());
}

#[test]
fn files_come_per_hour_and_in_order() {
    let at = |seq, time: &str| record(seq, format!(r#"{{"domain_userid":"d","collector_tstamp":"{time}"}}"#));
    let records = vec![
        at(1, "2026-11-20T11:59:59.999999Z"),
        at(2, "2026-11-20T12:00:00Z"),
        at(3, "2026-11-20T01:30:00+02:00"),
        at(4, "1970-01-01T00:00:00Z"),
        at(5, "2026-11-20T11:00:00Z"),
    ];
    let files = written(&[decoded(records)], 1..=5);
    let found: Vec<_> = files.iter().map(|f| (f.hive.as_str(), f.rows)).collect();
    let expected = [
        ("year=2026/month=11/day=19/hour=23", 1),
        ("year=2026/month=11/day=20/hour=11", 2),
        ("year=2026/month=11/day=20/hour=12", 2),
    ];
    assert_eq!(found, expected);
}

#[test]
fn events_of_another_partition_are_a_defect() {
    let batch =
        EventBatch::decode(4, vec![record(1, r#"{"domain_userid":"d"}"#)], &KeyPaths::new(["domain_userid"]), None);
    assert!(RawEvents::new(3, 1).open().push(&TableInput::Events(Arc::new(batch)), 0..=9).is_err());
}

#[test]
fn the_estimate_is_near_and_never_grows_wild() {
    let mut cut = RawEvents::new(3, 1).open();
    let mut seen = 0;
    for chunk in events(6_000).chunks(500) {
        cut.push(&decoded(chunk.to_vec()), 0..=u64::MAX).unwrap();
        assert!(cut.bytes() > 0);
        seen = cut.bytes();
    }
    let written: u64 = cut.finish().unwrap().iter().map(|f| f.bytes.len() as u64).sum();
    // Rows that are not encoded yet count as they came: the estimate is on the safe side.
    assert!(written <= seen && seen <= written + 3 * (CHUNK_BYTES + 2 * 1_500_000 + 4_000_000), "{seen} for {written}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]
    #[test]
    fn equal_rows_give_equal_bytes_however_they_arrive(cuts in proptest::collection::vec(1usize..3_000, 1..40)) {
        let all = events(7_000);
        let whole = written(&[decoded(all.clone())], 1..=7_000);
        let mut rest = all.as_slice();
        let mut pieces = Vec::new();
        for cut in cuts {
            let (piece, behind) = rest.split_at(cut.min(rest.len()));
            pieces.push(decoded(piece.to_vec()));
            rest = behind;
        }
        pieces.push(decoded(rest.to_vec()));
        let pieced = written(&pieces, 1..=7_000);
        prop_assert_eq!(whole.len(), 3);
        for (a, b) in whole.iter().zip(&pieced) {
            prop_assert_eq!((&a.hive, a.rows), (&b.hive, b.rows));
            prop_assert!(a.bytes == b.bytes, "the bytes of {} differ", a.hive);
        }
    }

    #[test]
    fn nothing_that_was_sent_is_lost(
        sent in proptest::collection::btree_map("(app_id|event|page_url|event_id|user_id|\\PC{0,6})", "\\PC{0,8}", 0..9)
    ) {
        let mut sent = sent;
        sent.insert("domain_userid".to_owned(), "d".to_owned());
        let rows = row_of(&serde_json::to_string(&sent).unwrap());
        let extra: std::collections::BTreeMap<String, String> =
            serde_json::from_str(text(&rows, "extra", 0).unwrap_or("{}")).unwrap();
        for (name, value) in &sent {
            let column = rows.schema().index_of(name).is_ok().then(|| text(&rows, name, 0)).flatten();
            let kept = extra.get(name).map(String::as_str).or(column);
            prop_assert_eq!(kept, Some(value.as_str()), "{}", name);
        }
    }
}

/// Not a test: prints how fast rows are encoded, and what they take. `cargo test --release -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement, to be read by a person"]
fn rows_per_second() {
    const ROWS: u64 = 500_000;
    let event = |seq: u64| {
        let noise = seq.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let time = Timestamp(NOON + 600 * seq as i64);
        let user = noise % 100_000;
        let payload = format!(
            r#"{{"app_id":"shop","platform":"web","collector_tstamp":"{time}","dvce_created_tstamp":"{time}","event":"page_view","event_id":"{noise:016x}-{:016x}","user_ipaddress":"10.{}.{}.7","domain_userid":"{user:08x}-1111-4222-8333-{user:012x}","session_id":"{:016x}","page_url":"https://shop.example/products/{}"}}"#,
            noise.rotate_left(23) ^ seq,
            user % 256,
            user / 256 % 256,
            user * 31 + seq / 100_000,
            noise >> 52,
        );
        record(seq, payload)
    };
    let batches: Vec<_> =
        (0..ROWS / 5_000).map(|b| decoded((b * 5_000 + 1..=(b + 1) * 5_000).map(event).collect())).collect();
    let sent: u64 = batches.iter().flat_map(events_of).map(|e| e.text.len() as u64).sum();
    let start = std::time::Instant::now();
    let files = written(&batches, 1..=ROWS);
    let seconds = start.elapsed().as_secs_f64();
    let stored: usize = files.iter().map(|f| f.bytes.len()).sum();
    println!(
        "{:.0} rows/s on one core; {} bytes of JSON per row, {:.1} bytes of Parquet",
        ROWS as f64 / seconds,
        sent / ROWS,
        stored as f64 / ROWS as f64
    );
}

/// Not a test: leaves files for other readers in the folder that `KEYLOOM_SAMPLE_DIR` names.
#[test]
#[ignore = "writes samples for readers outside of Rust"]
fn samples() {
    let folder =
        std::path::PathBuf::from(std::env::var_os("KEYLOOM_SAMPLE_DIR").expect("KEYLOOM_SAMPLE_DIR: a folder"));
    for file in written(&[decoded(events(7_000))], 1..=7_000) {
        let name = names_of(&file);
        std::fs::create_dir_all(folder.join(&name).parent().unwrap()).unwrap();
        std::fs::write(folder.join(name), &file.bytes).unwrap();
    }
}

fn names_of(file: &TableFile) -> String {
    names::object_name("", TABLE, &file.hive, 3, 1, 7_000, "parquet")
}
