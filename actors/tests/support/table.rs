//! A table format of text lines: one `sequence key` per row, one file per hour of event time.

use std::{
    collections::BTreeMap,
    ops::RangeInclusive,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use keyloom_actors::{
    batcher::TableSpec,
    event::EventBatch,
    ports::{TableBuffer, TableError, TableFile, TableFormat},
    table_cut::CutPolicy,
    timestamp::SECOND,
};

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
        format: Arc::new(format),
        object_name: Arc::new(move |hive, first, last| format!("{folder}/{hive}/{first:08}-{last:08}.lines")),
        cut,
    }
}

/// Sequences of the rows of one file.
pub fn rows(file: &[u8]) -> Vec<u64> {
    let text = std::str::from_utf8(file).expect("a file of text lines");
    text.lines().map(|line| line.split(' ').next().and_then(|n| n.parse().ok()).expect("a row")).collect()
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
    fn push(&mut self, batch: &EventBatch, seqs: RangeInclusive<u64>) -> Result<(), TableError> {
        let spend = |n: u64| n.checked_sub(1);
        if self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, spend).is_ok() {
            return Err(TableError("told to fail".to_owned()));
        }
        for event in batch.iter().map(|e| e.event()).filter(|e| seqs.contains(&e.seq)) {
            if event.refused.as_deref().is_some_and(|r| r.reason.enters_no_table()) {
                continue;
            }
            let (text, rows) = self.files.entry(event.time.0 / (3_600 * SECOND)).or_default();
            text.push_str(&format!("{} {}\n", event.seq, event.key));
            *rows += 1;
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
