//! The outbox: rows that handlers emitted, in blocks, on their way from a checkpoint to their table.
//!
//! Pure. Each table of a partition has an outbox of its own. Its blocks are numbered from 1 without gaps: a checkpoint
//! writes blocks behind the last one that counts, and its record says which is the last now. What an owner left behind
//! that died before its record stands behind that number, and is overwritten by its successor before it could count.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes};
use serde::{Deserialize, Serialize};

use crate::{
    checkpoint::record::{self, RecordError, Tag},
    handler::row::{EmittedRow, StoredRow},
};

/// A block is closed at this many bytes; it holds one row at least, whatever its size.
pub const BLOCK_BYTES_MAX: usize = 256 << 10;

/// How far the outbox of a table goes, as a checkpoint says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct OutboxEnd {
    /// The last block.
    pub last: u64,
    /// Bytes of all blocks so far, removed ones included.
    pub bytes: u64,
    /// Rows of all blocks so far.
    pub rows: u64,
}

/// One block.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Block {
    /// Its number.
    pub number: u64,
    /// Its length as stored.
    pub len: u64,
    rows: Vec<Bytes>,
}

impl Block {
    /// From the store.
    pub fn decode(number: u64, record: &Bytes) -> Result<Self, RecordError> {
        Ok(Self { number, len: record.len() as u64, rows: record::decode_block(record)? })
    }

    /// Its rows, in the order they count in.
    pub fn rows(&self) -> impl Iterator<Item = Option<StoredRow<'_>>> {
        self.rows.iter().map(|row| StoredRow::decode(row))
    }
}

/// What a checkpoint writes: rows as they come, as blocks for each table.
#[derive(Debug)]
pub struct BlockWriter {
    tag: Tag,
    tables: Vec<Open>,
}

#[derive(Debug)]
struct Open {
    name: String,
    end: OutboxEnd,
    rows: Vec<u8>,
    count: u32,
}

/// A closed block: table, number, record.
pub type ClosedBlock = (String, u64, Bytes);

impl BlockWriter {
    /// For checkpoint `tag`, behind what `ends` says; tables in the order of their handler's list.
    pub fn new(tag: Tag, tables: &[String], ends: &BTreeMap<String, OutboxEnd>) -> Self {
        let open = |name: &String| Open {
            name: name.clone(),
            end: ends.get(name).copied().unwrap_or_default(),
            rows: Vec::new(),
            count: 0,
        };
        Self { tag, tables: tables.iter().map(open).collect() }
    }

    /// Adds a row; returns the block that it closed.
    pub fn push(&mut self, row: &EmittedRow) -> Option<ClosedBlock> {
        let tag = self.tag;
        let open = self.tables.get_mut(usize::from(row.table))?; // a session knows no other tables
        let is_full = !open.rows.is_empty() && open.rows.len() + row.bytes.len() > BLOCK_BYTES_MAX;
        let closed = if is_full { open.close(tag) } else { None };
        open.rows.put_u32_le(row.bytes.len() as u32);
        open.rows.put_slice(&row.bytes);
        open.count += 1;
        closed
    }

    /// Closes what is open.
    pub fn finish(&mut self) -> Vec<ClosedBlock> {
        let tag = self.tag;
        self.tables.iter_mut().filter_map(|open| open.close(tag)).collect()
    }

    /// Where the outboxes end now.
    pub fn ends(&self) -> impl Iterator<Item = (&str, OutboxEnd)> {
        self.tables.iter().map(|open| (open.name.as_str(), open.end))
    }
}

impl Open {
    fn close(&mut self, tag: Tag) -> Option<ClosedBlock> {
        if self.count == 0 {
            return None;
        }
        let record = record::encode_block(tag, self.count, &std::mem::take(&mut self.rows));
        self.end.last += 1;
        self.end.bytes += record.len() as u64;
        self.end.rows += u64::from(std::mem::take(&mut self.count));
        Some((self.name.clone(), self.end.last, record))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn row(seq: u64, table: u16, len: usize) -> EmittedRow {
        let mut bytes = Vec::new();
        bytes.put_u64_le(seq);
        bytes.put_slice(&[0; 18]); // index, time, no key, no id
        bytes.put_slice(&vec![7; len]);
        EmittedRow { seq, table, bytes: bytes.into() }
    }

    proptest! {
        #[test]
        fn every_row_is_in_one_block_in_order(lens in proptest::collection::vec((0u16..2, 0usize..100_000), 0..60)) {
            let tables = ["a".to_owned(), "b".to_owned()];
            let before = OutboxEnd { last: 4, bytes: 100, rows: 10 };
            let ends = BTreeMap::from([("b".to_owned(), before)]);
            let mut writer = BlockWriter::new(Tag { n: 3, epoch: 2 }, &tables, &ends);
            let rows: Vec<_> = lens.iter().enumerate().map(|(i, (table, len))| row(i as u64, *table, *len)).collect();
            let mut closed: Vec<_> = rows.iter().filter_map(|row| writer.push(row)).collect();
            closed.extend(writer.finish());
            for (index, (name, first)) in [("a", 1), ("b", 5)].into_iter().enumerate() {
                let mine: Vec<_> = closed.iter().filter(|(table, ..)| table == name).collect();
                let numbers: Vec<_> = mine.iter().map(|(_, number, _)| *number).collect();
                prop_assert_eq!(&numbers, &(first..first + mine.len() as u64).collect::<Vec<_>>());
                let mut seqs = Vec::new();
                for (_, number, record) in mine {
                    let block = Block::decode(*number, record).expect("a block");
                    prop_assert!(block.rows.len() == 1 || record.len() <= BLOCK_BYTES_MAX + 5_000);
                    seqs.extend(block.rows().map(|row| row.expect("a row").seq));
                }
                let wanted: Vec<_> =
                    rows.iter().filter(|row| usize::from(row.table) == index).map(|row| row.seq).collect();
                prop_assert_eq!(seqs, wanted);
            }
            let end = writer.ends().find(|(name, _)| *name == "b").expect("a table").1;
            prop_assert_eq!(end.rows, 10 + rows.iter().filter(|row| row.table == 1).count() as u64);
        }
    }
}
