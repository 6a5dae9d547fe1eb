//! Rows that handlers emit: which type makes which columns, and how a row travels from a handler to its table.
//!
//! Pure. A row is encoded once, when it is emitted; from then on it is bytes, until its table decodes it. Not here: where
//! rows wait (`cell`), and in which form they are stored (`outbox`).

use bytes::{BufMut, Bytes};
use serde::{Serialize, de::DeserializeOwned};
use serde_arrow::schema::{SchemaLike, SerdeArrowSchema, TracingOptions};

use super::Fault;
use crate::{
    event::{EventRef, fields::FieldId},
    timestamp::Timestamp,
};

/// Largest row, encoded, in bytes: two of them fit into one message of a broker with its usual limits.
pub const ROW_BYTES_MAX: usize = 256 << 10;
/// Rows that one event may emit, over all tables.
pub const ROWS_PER_EVENT_MAX: usize = 1_000;

/// A row of a table: a struct whose fields are the columns. Numbers, texts, booleans, options (columns that may be
/// null), lists and structs of these.
///
/// The table has these columns before its own: `event_id`, `key`, `seq`, `partition_id` and `event_time` of the event
/// that made the row, and `row`, which of its rows it is.
pub trait Row: Serialize + DeserializeOwned + 'static {
    /// The table: a section `[table.NAME]` of the topology, with `handler = ...`.
    const TABLE: &'static str;
    /// Fields of microseconds since 1970, UTC, such as [`Timestamp`]: they become columns of times.
    const TIMES: &'static [&'static str] = &[];
}

/// A table that a handler emits rows to.
#[derive(Clone, Debug)]
pub struct EmittedTable {
    /// Its name.
    pub name: &'static str,
    /// Its columns of times; in [`EmittedTable::columns`] they are numbers.
    pub times: &'static [&'static str],
    columns: fn() -> Result<SerdeArrowSchema, String>,
}

impl EmittedTable {
    /// The table of rows `R`.
    pub fn of<R: Row>() -> Self {
        Self { name: R::TABLE, times: R::TIMES, columns: columns_of::<R> }
    }

    /// Its own columns, found by trying what `R` reads. The text says why a type has no columns.
    pub fn columns(&self) -> Result<SerdeArrowSchema, String> {
        (self.columns)()
    }
}

fn columns_of<R: Row>() -> Result<SerdeArrowSchema, String> {
    // Not the large forms with 8-byte offsets, which some query engines do not read.
    let options = TracingOptions::default().map_as_struct(false).strings_as_large_utf8(false);
    let options = options.sequence_as_large_list(false);
    SerdeArrowSchema::from_type::<R>(options).map_err(|e| format!("its row type has no columns: {e}"))
}

/// A row on its way to the outbox.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EmittedRow {
    /// Sequence of the event that made it.
    pub seq: u64,
    /// Which of its handler's tables.
    pub table: u16,
    /// As [`StoredRow::decode`] reads it.
    pub bytes: Bytes,
}

impl EmittedRow {
    /// Bytes that it takes in memory.
    pub fn size(&self) -> usize {
        size_of::<Self>() + self.bytes.len()
    }
}

/// What a handler emits while it works on one event.
pub struct Emitter<'a> {
    tables: &'a [EmittedTable],
    event: EventRef<'a>,
    rows: &'a mut Vec<EmittedRow>,
    first: usize,
}

impl std::fmt::Debug for Emitter<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Emitter").field("rows", &(self.rows.len() - self.first)).finish_non_exhaustive()
    }
}

impl<'a> Emitter<'a> {
    /// For `event`; appends to `rows`, of which those from `first` on are of the same event.
    pub fn new(tables: &'a [EmittedTable], event: EventRef<'a>, rows: &'a mut Vec<EmittedRow>, first: usize) -> Self {
        Self { tables, event, rows, first }
    }

    /// See [`crate::handler::Context::emit`].
    pub fn emit<R: Row>(&mut self, row: &R) -> Result<(), Fault> {
        let Some(table) = self.tables.iter().position(|table| table.name == R::TABLE) else {
            let text = format!("the handler emits to table {:?}, which its tables() does not list", R::TABLE);
            return Err(Fault::Crash(text));
        };
        let index = self.rows.len() - self.first;
        if index >= ROWS_PER_EVENT_MAX {
            return Err(Fault::Crash(format!("one event emits more than {ROWS_PER_EVENT_MAX} rows")));
        }
        let event = self.event.event();
        let id = self.event.text(FieldId::EventId);
        let id = id.as_deref().unwrap_or_default();
        let key = self.event.key_str();
        let mut bytes = Vec::with_capacity(128 + key.len() + id.len());
        bytes.put_u64_le(event.seq);
        bytes.put_u16_le(index as u16);
        bytes.put_i64_le(event.time.0);
        for text in [key, id] {
            bytes.put_u32_le(text.len() as u32);
            bytes.put_slice(text.as_bytes());
        }
        rmp_serde::encode::write_named(&mut bytes, row)
            .map_err(|e| Fault::Crash(format!("a row of table {:?} cannot be encoded: {e}", R::TABLE)))?;
        if bytes.len() > ROW_BYTES_MAX {
            let text = format!("a row of table {:?} has {} bytes, at most {ROW_BYTES_MAX} fit", R::TABLE, bytes.len());
            return Err(Fault::Reject(text));
        }
        self.rows.push(EmittedRow { seq: event.seq, table: table as u16, bytes: bytes.into() });
        Ok(())
    }
}

/// A row as its table reads it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoredRow<'a> {
    /// Sequence of the event that made it.
    pub seq: u64,
    /// Which of the event's rows.
    pub index: u16,
    /// When the event happened.
    pub event_time: Timestamp,
    /// The key.
    pub key: &'a str,
    /// The event's id; empty when it has none.
    pub event_id: &'a str,
    /// The fields, as named MessagePack.
    pub fields: &'a [u8],
}

impl<'a> StoredRow<'a> {
    /// Reads what [`Emitter::emit`] made; `None` when it is something else.
    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (seq, rest) = bytes.split_first_chunk()?;
        let (index, rest) = rest.split_first_chunk()?;
        let (time, rest) = rest.split_first_chunk()?;
        let text = |rest: &'a [u8]| {
            let (len, rest) = rest.split_first_chunk()?;
            let (text, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
            Some((std::str::from_utf8(text).ok()?, rest))
        };
        let (key, rest) = text(rest)?;
        let (event_id, fields) = text(rest)?;
        Some(Self {
            seq: u64::from_le_bytes(*seq),
            index: u16::from_le_bytes(*index),
            event_time: Timestamp(i64::from_le_bytes(*time)),
            key,
            event_id,
            fields,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Order {
        total: i64,
        coupon: Option<String>,
        at: Timestamp,
    }

    impl Row for Order {
        const TABLE: &'static str = "orders";
        const TIMES: &'static [&'static str] = &["at"];
    }

    #[derive(Serialize, Deserialize)]
    struct Unlisted {}

    impl Row for Unlisted {
        const TABLE: &'static str = "unlisted";
    }

    fn batch() -> crate::event::EventBatch {
        let record = crate::ports::LogRecord {
            seq: 7,
            stored: Timestamp(1_795_176_000_000_000),
            key: None,
            payload: Bytes::from_static(br#"{"domain_userid":"u-1","event_id":"e-9"}"#),
            scanned: None,
            envelope: None,
        };
        crate::event::EventBatch::decode(0, vec![record], &crate::event::KeyPaths::new(["domain_userid"]), None)
    }

    #[test]
    fn a_row_comes_back_as_it_was_emitted() {
        let (batch, tables, mut rows) = (batch(), [EmittedTable::of::<Order>()], Vec::new());
        let mut emitter = Emitter::new(&tables, batch.get(0), &mut rows, 0);
        let order = Order { total: 12, coupon: None, at: Timestamp(5) };
        emitter.emit(&order).expect("emitted");
        emitter.emit(&order).expect("emitted");
        let row = StoredRow::decode(&rows[1].bytes).expect("a row");
        assert_eq!((row.seq, row.index, row.key, row.event_id), (7, 1, "u-1", "e-9"));
        assert_eq!(row.event_time, batch.get(0).event().time);
        assert_eq!(rmp_serde::from_slice::<Order>(row.fields).expect("an order").total, 12);
        assert_eq!(StoredRow::decode(&rows[1].bytes[..20]), None);
    }

    #[test]
    fn what_is_not_declared_or_too_large_is_a_fault() {
        let (batch, tables, mut rows) = (batch(), [EmittedTable::of::<Order>()], Vec::new());
        let mut emitter = Emitter::new(&tables, batch.get(0), &mut rows, 0);
        assert!(matches!(emitter.emit(&Unlisted {}), Err(Fault::Crash(_))));
        let coupon = Some("x".repeat(ROW_BYTES_MAX));
        let large = Order { total: 1, coupon, at: Timestamp(0) };
        assert!(matches!(emitter.emit(&large), Err(Fault::Reject(_))));
        assert!(rows.is_empty());
    }

    #[test]
    fn columns_come_from_the_type() {
        let columns = EmittedTable::of::<Order>().columns().expect("columns");
        let columns = serde_json::to_value(&columns).expect("JSON").to_string();
        for part in ["total", "coupon", "Utf8", "at"] {
            assert!(columns.contains(part), "{columns}");
        }
    }
}
