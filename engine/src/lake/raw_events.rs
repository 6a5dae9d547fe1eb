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
use keyloom_actors::{
    event::{
        self, EventRef,
        fields::{FieldId, Kind},
    },
    ports::{TableBuffer, TableError, TableFormat, TableInput},
};

use super::{
    by_hour::{Columns, Cut, HourlyFiles, Rows},
    parquet::ParquetFormat,
};

/// The table's name.
const TABLE: &str = "raw_events";

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

/// How stored events become rows.
struct RawRows {
    partition: u32,
    schema: SchemaRef,
}

/// Rows that are not encoded yet.
struct RawColumns {
    partition: u32,
    schema: SchemaRef,
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
        let rows = RawRows { partition: self.partition, schema: self.format.schema().clone() };
        Box::new(Cut::new(rows, self.format.clone()))
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

impl Rows for RawRows {
    type Columns = RawColumns;

    fn append(
        &self,
        files: &mut HourlyFiles<RawColumns>,
        input: &TableInput,
        positions: RangeInclusive<u64>,
    ) -> Result<(), TableError> {
        let TableInput::Events(batch) = input else {
            return Err(TableError("emitted rows came to the table of all events".to_owned()));
        };
        if batch.partition != self.partition {
            let (other, own) = (batch.partition, self.partition);
            return Err(TableError(format!("events of partition {other} came to the table of partition {own}")));
        }
        let start = batch.events.partition_point(|e| e.seq < *positions.start());
        for index in start..batch.events.len() {
            let event = &batch.events[index];
            if event.seq > *positions.end() {
                break;
            }
            if !event.enters_tables() {
                continue;
            }
            let (partition, schema) = (self.partition, &self.schema);
            let open = || RawColumns::new(partition, schema.clone());
            files.append(event.time, open, |columns| columns.append(batch.get(index)))?;
        }
        Ok(())
    }
}

/// The value of the column `partition_id`.
pub(super) fn partition_id(partition: u32) -> Result<i32, TableError> {
    i32::try_from(partition).map_err(|_| TableError(format!("partition {partition} is too large")))
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

impl RawColumns {
    fn new(partition: u32, schema: SchemaRef) -> Self {
        let text = || StringBuilder::with_capacity(0, 0);
        let time = || TimestampMicrosecondBuilder::with_capacity(0).with_timezone("UTC");
        Self {
            partition,
            schema,
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
    fn append(&mut self, event: EventRef<'_>) -> Result<(), TableError> {
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
            write!(self.scratch, "{}:{seq}", self.partition).map_err(|e| TableError(e.to_string()))?;
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
}

impl Columns for RawColumns {
    fn rows(&self) -> usize {
        self.rows
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    /// In the order of [`schema`].
    fn take(&mut self, rows_next: usize) -> Result<RecordBatch, TableError> {
        let partition = partition_id(self.partition)?;
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
        RecordBatch::try_new(self.schema.clone(), columns).map_err(|e| TableError(e.to_string()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "raw_events_tests.rs"]
mod tests;
