//! The table `raw_events`: one row per stored event, dead-lettered ones included, in one file per hour of event time.
//!
//! Columns and how an event becomes a row. CPU-bound and without I/O; when to cut is the batcher's business.
//! The columns are a published interface: add at the end only, never rename.

use std::{fmt::Write as _, mem, ops::RangeInclusive, sync::Arc};

use arrow_array::{
    ArrayRef, Int32Array, RecordBatch,
    builder::{Int64Builder, StringBuilder, TimestampMicrosecondBuilder},
};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use hashbrown::HashMap;
use keyloom_actors::{
    event::{self, EventBatch, EventRef},
    fields::{FieldId, Kind},
    ports::{TableBuffer, TableError, TableFile, TableFormat},
};

use super::{
    names,
    parquet::{FOOTER_BYTES, ParquetFile, ParquetFormat},
};

/// The table's name.
const TABLE: &str = "raw_events";

/// Rows that are gathered column by column before they are encoded: about 1 MB, so that they are still in the
/// processor's cache then. Fewer cost more calls per row. Counted per file, never per batch: the cuts between pages
/// depend on it, and they must not depend on how the events arrived.
const CHUNK_ROWS: usize = 2_048;
/// Bytes of events after which a chunk is encoded early: large events must not pile up by the thousand, and a column
/// of one chunk must stay far below the 2 GiB that its offsets can express.
const CHUNK_BYTES: u64 = 4 * 1_024 * 1_024;

/// The text fields that have a column of their own, in the order of the columns.
const TEXTS: [(FieldId, &str); 7] = [
    (FieldId::AppId, "app_id"),
    (FieldId::Platform, "platform"),
    (FieldId::Event, "event"),
    (FieldId::UserIpaddress, "user_ipaddress"),
    (FieldId::DomainUserid, "domain_userid"),
    (FieldId::SessionId, "session_id"),
    (FieldId::PageUrl, "page_url"),
];

/// Columns with few different values.
const REPETITIVE: [&str; 4] = ["app_id", "platform", "event", "page_url"];

/// The table `raw_events` of one partition, as Parquet files.
#[derive(Debug)]
pub struct RawEvents {
    partition: u32,
    format: Arc<ParquetFormat>,
}

/// One cut of the table.
struct Cut {
    partition: u32,
    format: Arc<ParquetFormat>,
    files: Vec<OpenFile>,
    by_hour: HashMap<i64, usize>,
    rows: u64,
    bytes: u64,
}

/// The file of one Hive partition.
struct OpenFile {
    hour: i64,
    columns: Columns,
    file: ParquetFile,
    rows: u64,
    /// What the cut's estimate counts for what is already encoded.
    encoded_bytes: u64,
}

/// Rows that are not encoded yet.
struct Columns {
    rows: usize,
    /// Bytes of the events behind the rows.
    bytes: u64,
    event_id: StringBuilder,
    key: StringBuilder,
    seq: Int64Builder,
    event_time: TimestampMicrosecondBuilder,
    stored_time: TimestampMicrosecondBuilder,
    collector_tstamp: TimestampMicrosecondBuilder,
    dvce_created_tstamp: TimestampMicrosecondBuilder,
    texts: [StringBuilder; TEXTS.len()],
    extra: StringBuilder,
    /// Where `extra` and missing ids are put together; kept for its memory.
    scratch: String,
}

impl RawEvents {
    /// The table of `partition`. `zstd_level` from 1 (fast; the default everywhere) to 19 (small); others are taken for
    /// the nearest of these.
    pub fn new(partition: u32, zstd_level: i32) -> Self {
        let format = ParquetFormat::new(TABLE, partition, schema(), zstd_level, &REPETITIVE, &["extra"]);
        Self { partition, format: Arc::new(format) }
    }
}

impl TableFormat for RawEvents {
    fn open(&self) -> Box<dyn TableBuffer> {
        Box::new(Cut {
            partition: self.partition,
            format: self.format.clone(),
            files: Vec::new(),
            by_hour: HashMap::new(),
            rows: 0,
            bytes: 0,
        })
    }

    fn extension(&self) -> &'static str {
        "parquet"
    }
}

fn schema() -> SchemaRef {
    let time = || DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let mut fields = vec![
        Field::new("event_id", DataType::Utf8, false),
        Field::new("key", DataType::Utf8, false),
        Field::new("seq", DataType::Int64, false),
        Field::new("partition_id", DataType::Int32, false),
        Field::new("event_time", time(), false),
        Field::new("stored_time", time(), false),
        Field::new("collector_tstamp", time(), false),
        Field::new("dvce_created_tstamp", time(), true),
    ];
    fields.extend(TEXTS.map(|(_, name)| Field::new(name, DataType::Utf8, true)));
    fields.push(Field::new("extra", DataType::Utf8, true));
    Arc::new(Schema::new(fields))
}

impl TableBuffer for Cut {
    fn push(&mut self, batch: &EventBatch, seqs: RangeInclusive<u64>) -> Result<(), TableError> {
        if batch.partition != self.partition {
            let (other, own) = (batch.partition, self.partition);
            return Err(TableError(format!("events of partition {other} came to the table of partition {own}")));
        }
        // Most events fall into the hour of the one before.
        let mut last: Option<(i64, usize)> = None;
        let start = batch.events.partition_point(|e| e.seq < *seqs.start());
        for index in start..batch.events.len() {
            let event = &batch.events[index];
            if event.seq > *seqs.end() {
                break;
            }
            if event.refused.as_deref().is_some_and(|r| r.reason.enters_no_table()) {
                continue;
            }
            let hour = names::hour_of(event.time);
            let file = match last {
                Some((last_hour, file)) if last_hour == hour => file,
                _ => self.file_of(hour)?,
            };
            last = Some((hour, file));
            self.append(file, batch.get(index))?;
        }
        Ok(())
    }

    fn rows(&self) -> u64 {
        self.rows
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn files(&self) -> usize {
        self.files.len()
    }

    fn finish(mut self: Box<Self>) -> Result<Vec<TableFile>, TableError> {
        self.files.sort_unstable_by_key(|file| file.hour);
        let (partition, schema) = (self.partition, self.format.schema().clone());
        let finish = |mut open: OpenFile| {
            open.encode(partition, &schema, 0)?;
            Ok(TableFile { hive: names::hive_of(open.hour), bytes: open.file.finish()?, rows: open.rows })
        };
        self.files.into_iter().map(finish).collect()
    }
}

impl Cut {
    fn file_of(&mut self, hour: i64) -> Result<usize, TableError> {
        if let Some(index) = self.by_hour.get(&hour) {
            return Ok(*index);
        }
        let file = self.format.open()?;
        self.files.push(OpenFile { hour, columns: Columns::new(), file, rows: 0, encoded_bytes: 0 });
        self.by_hour.insert(hour, self.files.len() - 1);
        self.bytes += FOOTER_BYTES;
        Ok(self.files.len() - 1)
    }

    fn append(&mut self, file: usize, event: EventRef<'_>) -> Result<(), TableError> {
        let open = &mut self.files[file];
        let before = open.columns.bytes;
        open.columns.append(event, self.partition)?;
        open.rows += 1;
        self.rows += 1;
        self.bytes += open.columns.bytes - before;
        if open.columns.rows >= CHUNK_ROWS || open.columns.bytes >= CHUNK_BYTES {
            self.bytes -= open.columns.bytes + open.encoded_bytes;
            open.encode(self.partition, self.format.schema(), CHUNK_ROWS)?;
            self.bytes += open.encoded_bytes;
        }
        Ok(())
    }
}

impl OpenFile {
    /// Encodes what is gathered and makes room for `rows_next` rows.
    fn encode(&mut self, partition: u32, schema: &SchemaRef, rows_next: usize) -> Result<(), TableError> {
        if self.columns.rows > 0 {
            self.file.write(&self.columns.take(partition, schema, rows_next)?)?;
        }
        self.encoded_bytes = self.file.bytes();
        Ok(())
    }
}

fn text_column(id: FieldId) -> Option<usize> {
    TEXTS.iter().position(|(text, _)| *text == id)
}

/// Whether the field has a column. The others are kept in `extra`.
fn has_column(id: FieldId) -> bool {
    match id {
        FieldId::EventId | FieldId::CollectorTstamp | FieldId::DvceCreatedTstamp => true,
        _ => text_column(id).is_some(),
    }
}

impl Columns {
    fn new() -> Self {
        let text = || StringBuilder::with_capacity(0, 0);
        let time = || TimestampMicrosecondBuilder::with_capacity(0).with_timezone("UTC");
        Self {
            rows: 0,
            bytes: 0,
            event_id: text(),
            key: text(),
            seq: Int64Builder::with_capacity(0),
            event_time: time(),
            stored_time: time(),
            collector_tstamp: time(),
            dvce_created_tstamp: time(),
            texts: std::array::from_fn(|_| text()),
            extra: text(),
            scratch: String::new(),
        }
    }

    /// Adds a row. Straight from the event's text into the columns: no allocation per row.
    fn append(&mut self, event: EventRef<'_>, partition: u32) -> Result<(), TableError> {
        let row = event.event();
        let seq = i64::try_from(row.seq).map_err(|_| TableError(format!("sequence {} is beyond 2^63", row.seq)))?;
        let (mut has_id, mut created, mut texts_seen) = (false, None, 0u32);
        self.scratch.clear();
        for field in event.fields() {
            let value = field.value(&row.text);
            let taken = match field.id {
                FieldId::EventId => match value.as_str() {
                    Some(id) if !id.is_empty() && !has_id => {
                        self.event_id.append_value(id);
                        has_id = true;
                        true
                    }
                    _ => false,
                },
                // Read when the event was decoded; unreadable, it has become the time of storing.
                FieldId::CollectorTstamp => row.collected != row.stored || event::timestamp(&value).is_some(),
                FieldId::DvceCreatedTstamp if created.is_none() => {
                    created = event::timestamp(&value).map(|t| t.0);
                    created.is_some()
                }
                id => match text_column(id).filter(|column| texts_seen & (1 << column) == 0) {
                    Some(column) => value.as_str().is_some_and(|text| {
                        self.texts[column].append_value(text);
                        texts_seen |= 1 << column;
                        true
                    }),
                    None => false,
                },
            };
            // `null` in a column says what `null` in the event said.
            if !taken && (value.kind != Kind::Null || !has_column(field.id)) {
                self.scratch.push(if self.scratch.is_empty() { '{' } else { ',' });
                self.scratch.push_str(field.raw_name(&row.text));
                self.scratch.push(':');
                self.scratch.push_str(value.raw);
            }
        }
        if self.scratch.is_empty() {
            self.extra.append_null();
        } else {
            self.scratch.push('}');
            self.extra.append_value(&self.scratch);
        }
        if !has_id {
            self.scratch.clear();
            write!(self.scratch, "{partition}:{seq}").map_err(|e| TableError(e.to_string()))?;
            self.event_id.append_value(&self.scratch);
        }
        for (column, text) in self.texts.iter_mut().enumerate() {
            if texts_seen & (1 << column) == 0 {
                text.append_null();
            }
        }
        self.key.append_value(event.key_str());
        self.seq.append_value(seq);
        self.event_time.append_value(row.time.0);
        self.stored_time.append_value(row.stored.0);
        self.collector_tstamp.append_value(row.collected.0);
        self.dvce_created_tstamp.append_option(created);
        self.rows += 1;
        self.bytes += (row.text.len() + row.key.len()) as u64;
        Ok(())
    }

    /// The rows so far, in the order of [`schema`]; leaves none behind, and room for `rows_next` of the same size.
    fn take(&mut self, partition: u32, schema: &SchemaRef, rows_next: usize) -> Result<RecordBatch, TableError> {
        let partition =
            i32::try_from(partition).map_err(|_| TableError(format!("partition {partition} is too large")))?;
        let (rows, room) = (mem::take(&mut self.rows), rows_next);
        self.bytes = 0;
        let text = |builder: &mut StringBuilder| -> ArrayRef {
            // Growing by doubling would copy every column several times per chunk.
            let bytes = builder.values_slice().len() * room / rows.max(1);
            let next = StringBuilder::with_capacity(room, bytes + bytes / 8);
            Arc::new(mem::replace(builder, next).finish())
        };
        let time = |builder: &mut TimestampMicrosecondBuilder| -> ArrayRef {
            let next = TimestampMicrosecondBuilder::with_capacity(room).with_timezone("UTC");
            Arc::new(mem::replace(builder, next).finish())
        };
        let mut columns: Vec<ArrayRef> = vec![
            text(&mut self.event_id),
            text(&mut self.key),
            Arc::new(mem::replace(&mut self.seq, Int64Builder::with_capacity(room)).finish()),
            Arc::new(Int32Array::from_value(partition, rows)),
            time(&mut self.event_time),
            time(&mut self.stored_time),
            time(&mut self.collector_tstamp),
            time(&mut self.dvce_created_tstamp),
        ];
        columns.extend(self.texts.iter_mut().map(text));
        columns.push(text(&mut self.extra));
        RecordBatch::try_new(schema.clone(), columns).map_err(|e| TableError(e.to_string()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "raw_events_tests.rs"]
mod tests;
