//! A table format of text lines, one per row: `sequence key` of an event, `sequence index count digest` of an emitted row;
//! one file per hour of event time.

use std::{
    collections::BTreeMap,
    ops::RangeInclusive,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use keyloom_actors::{
    checkpoint::record::Follows,
    ports::{TableBuffer, TableError, TableFile, TableFormat, TableInput},
    table::{batcher::TableSpec, cut::CutPolicy},
    timestamp::{SECOND, Timestamp},
};

use super::handler::TallyRow;

/// Pushes that the format still has to refuse.
#[derive(Clone, Default)]
pub struct Lines {
    pub failures: Arc<AtomicU64>,
}

#[derive(Default)]
struct Buffer {
    failures: Arc<AtomicU64>,
    files: BTreeMap<i64, (String, u64)>,
}

/// Table `name` in `format`.
pub fn table(name: &str, format: Lines, cut: CutPolicy) -> TableSpec {
    let folder = name.to_owned();
    TableSpec {
        name: name.to_owned(),
        follows: Follows::Log,
        format: Arc::new(format),
        object_name: Arc::new(move |hive, first, last| format!("{folder}/{hive}/{first:08}-{last:08}.lines")),
        cut,
    }
}

/// The rows of one file of emitted rows: sequence, index, count, digest.
pub fn emitted_rows(file: &[u8]) -> Vec<(u64, u16, TallyRow)> {
    let text = std::str::from_utf8(file).expect("a file of text lines");
    let row = |line: &str| {
        let mut numbers = line.split(' ').map(|n| n.parse::<u64>().expect("a number"));
        let mut next = || numbers.next().expect("four numbers");
        (next(), next() as u16, TallyRow { count: next(), digest: next() })
    };
    text.lines().map(row).collect()
}

/// Sequences of the rows of one file.
pub fn rows(file: &[u8]) -> Vec<u64> {
    let text = std::str::from_utf8(file).expect("a file of text lines");
    text.lines().map(|line| line.split(' ').next().and_then(|n| n.parse().ok()).expect("a row")).collect()
}

impl Buffer {
    fn line(&mut self, time: Timestamp, line: String) {
        let (text, rows) = self.files.entry(time.0 / (3_600 * SECOND)).or_default();
        text.push_str(&line);
        *rows += 1;
    }
}

impl TableFormat for Lines {
    fn open(&self) -> Box<dyn TableBuffer> {
        Box::new(Buffer { failures: Arc::clone(&self.failures), ..Buffer::default() })
    }

    fn extension(&self) -> &'static str {
        "lines"
    }
}

impl TableBuffer for Buffer {
    fn push(&mut self, input: &TableInput, positions: RangeInclusive<u64>) -> Result<(), TableError> {
        let spend = |n: u64| n.checked_sub(1);
        if self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, spend).is_ok() {
            return Err(TableError("told to fail".to_owned()));
        }
        match input {
            TableInput::Events(batch) => {
                for event in batch.iter().map(|e| e.event()).filter(|e| positions.contains(&e.seq)) {
                    if event.enters_tables() {
                        self.line(event.time, format!("{} {}\n", event.seq, event.key));
                    }
                }
            }
            TableInput::Block(block) => {
                assert!(positions.contains(&block.number));
                for row in block.rows() {
                    let row = row.expect("a row");
                    let TallyRow { count, digest } = rmp_serde::from_slice(row.fields).expect("a tally");
                    self.line(row.event_time, format!("{} {} {count} {digest}\n", row.seq, row.index));
                }
            }
        }
        Ok(())
    }

    fn rows(&self) -> u64 {
        self.files.values().map(|(_, rows)| rows).sum()
    }

    fn bytes(&self) -> u64 {
        self.files.values().map(|(text, _)| text.len() as u64).sum()
    }

    fn files(&self) -> usize {
        self.files.len()
    }

    fn finish(self: Box<Self>) -> Result<Vec<TableFile>, TableError> {
        let file = |(hour, (text, rows)): (i64, (String, u64))| TableFile {
            hive: format!("hour={hour}"),
            bytes: text.into(),
            rows,
        };
        Ok(self.files.into_iter().map(file).collect())
    }
}
