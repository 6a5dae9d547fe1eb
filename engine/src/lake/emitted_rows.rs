//! Tables of rows that a handler emits: the columns of its row type behind those that every such table has.
//!
//! CPU-bound and without I/O; when to cut is the batcher's business. Columns come from the row type of the running program,
//! rows perhaps from an older one that was stopped before they were in the lake. A row that does not fit its columns is
//! not lost: it stands in `extra`, as JSON.

use std::{fmt, mem, ops::RangeInclusive, sync::Arc};

use arrow_array::{
    ArrayRef, Int32Array, RecordBatch,
    builder::{Int32Builder, Int64Builder, StringBuilder, TimestampMicrosecondBuilder},
    cast::AsArray,
    types::{Int64Type, TimestampMicrosecondType},
};
use arrow_schema::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};
use keyloom_actors::{
    handler::row::{EmittedTable, StoredRow},
    ports::{TableBuffer, TableError, TableFormat, TableInput},
};
use serde::{
    Deserializer as _, Serialize, Serializer,
    de::{IgnoredAny, MapAccess, Visitor},
    ser::{Error as _, SerializeMap},
};

use super::{
    by_hour::{Columns, Cut, HourlyFiles, Rows},
    observe,
    parquet::ParquetFormat,
    raw_events::partition_id,
};

/// Columns that query engines make of the folders a file lies in: one of the same name would hide behind it, or be refused.
const OF_FOLDERS: [&str; 4] = ["year", "month", "day", "hour"];
/// Most columns that a row type may have.
const COLUMNS_MAX: usize = 1_000;
/// Most structs and lists of a row type in one another.
const LEVELS_MAX: usize = 32;

/// A table of emitted rows of one partition, as Parquet files.
#[derive(Debug)]
pub struct EmittedRows {
    table: Arc<Table>,
    format: Arc<ParquetFormat>,
}

#[derive(Debug)]
struct Table {
    name: String,
    partition: u32,
    schema: SchemaRef,
    /// Those of the row type, as they are built: times are numbers.
    own: Vec<FieldRef>,
    /// Which of them are times.
    times: Vec<usize>,
}

impl EmittedRows {
    /// The table `table` of `partition`. The error says what is wrong with its row type.
    pub fn new(table: &EmittedTable, partition: u32, zstd_level: i32) -> Result<Self, String> {
        let own = own_columns(table)?;
        let times = times_of(table, &own)?;
        let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let mut fields: Vec<FieldRef> = [
            Field::new("event_id", DataType::Utf8, false),
            Field::new("key", DataType::Utf8, false),
            Field::new("seq", DataType::Int64, false),
            Field::new("partition_id", DataType::Int32, false),
            Field::new("event_time", time.clone(), false),
            Field::new("row", DataType::Int32, false),
        ]
        .map(Arc::new)
        .into();
        for field in &own {
            if fields.iter().any(|before| before.name() == field.name()) || field.name() == EXTRA {
                return Err(format!("its column {:?} is one that every table has; rename the field", field.name()));
            }
            if OF_FOLDERS.contains(&field.name().as_str()) {
                return Err(format!(
                    "its column {:?} is one that the lake's folders are; rename the field",
                    field.name()
                ));
            }
        }
        fields.extend(own.iter().enumerate().map(|(i, field)| match times.contains(&i) {
            true => Arc::new(field.as_ref().clone().with_data_type(time.clone())),
            false => field.clone(),
        }));
        fields.push(Arc::new(Field::new(EXTRA, DataType::Utf8, true)));
        let schema: SchemaRef = Arc::new(Schema::new(fields));
        let format = ParquetFormat::new(table.name, partition, schema.clone(), zstd_level, &[], &[EXTRA]);
        format.open().map_err(|e| format!("Parquet takes no such columns: {e}"))?;
        observe::table_begins(table.name);
        let table = Table { name: table.name.to_owned(), partition, schema, own, times };
        Ok(Self { table: Arc::new(table), format: Arc::new(format) })
    }
}

const EXTRA: &str = "extra";

/// The columns of the row type, all of which may be null: files of older and newer row types are read together.
fn own_columns(table: &EmittedTable) -> Result<Vec<FieldRef>, String> {
    let columns = table.columns()?;
    let fields = Vec::<FieldRef>::try_from(&columns).map_err(|e| format!("its row type has no columns: {e}"))?;
    if fields.is_empty() {
        return Err("its row type has no fields".to_owned());
    }
    if fields.len() > COLUMNS_MAX {
        return Err(format!("its row type has {} fields, at most {COLUMNS_MAX} are possible", fields.len()));
    }
    let plain = |name: &str| {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        name.bytes().all(allowed) && name.starts_with(|c: char| c.is_ascii_lowercase())
    };
    if let Some(field) = fields.iter().find(|field| !plain(field.name())) {
        let name = field.name();
        return Err(format!("its column {name:?} has a name that not every query engine takes; use a-z, 0-9 and _"));
    }
    for field in &fields {
        check_kind(field.data_type(), LEVELS_MAX)
            .map_err(|what| format!("its column {:?} holds {what}, which Parquet has no column for", field.name()))?;
    }
    Ok(fields.iter().map(|field| Arc::new(field.as_ref().clone().with_nullable(true))).collect())
}

/// Whether a column of this type can be written.
fn check_kind(kind: &DataType, levels: usize) -> Result<(), &'static str> {
    let Some(levels) = levels.checked_sub(1) else { return Err("too many structs in one another") };
    match kind {
        DataType::Union(..) => Err("an enum whose variants have fields"),
        DataType::Null => Err("nothing, like `()`"),
        DataType::Struct(fields) if fields.is_empty() => Err("a struct without fields"),
        DataType::Struct(fields) => fields.iter().try_for_each(|field| check_kind(field.data_type(), levels)),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::Map(item, _) => check_kind(item.data_type(), levels),
        DataType::Dictionary(_, value) => check_kind(value, levels),
        _ => Ok(()),
    }
}

/// Which of `own` are times.
fn times_of(table: &EmittedTable, own: &[FieldRef]) -> Result<Vec<usize>, String> {
    let place = |time: &&str| {
        let at = own.iter().position(|field| field.name() == time && field.data_type() == &DataType::Int64);
        at.ok_or_else(|| format!("{time:?} is listed in TIMES, and is no field of microseconds (Timestamp or i64)"))
    };
    table.times.iter().map(place).collect()
}

impl TableFormat for EmittedRows {
    fn open(&self) -> Box<dyn TableBuffer> {
        Box::new(Cut::new(self.table.clone(), self.format.clone()))
    }

    fn extension(&self) -> &'static str {
        "parquet"
    }
}

impl Rows for Arc<Table> {
    type Columns = RowColumns;

    fn append(
        &self,
        files: &mut HourlyFiles<RowColumns>,
        input: &TableInput,
        positions: RangeInclusive<u64>,
    ) -> Result<(), TableError> {
        let TableInput::Block(block) = input else {
            return Err(TableError(format!("events came to table {}, which has emitted rows", self.name)));
        };
        if !positions.contains(&block.number) {
            return Ok(());
        }
        for row in block.rows() {
            let row = row.ok_or_else(|| TableError(format!("block {} has what is no row", block.number)))?;
            files.append(row.event_time, || RowColumns::new(self.clone()), |columns| columns.append(&row))?;
        }
        Ok(())
    }
}

/// Rows that are not encoded yet.
struct RowColumns {
    table: Arc<Table>,
    event_id: StringBuilder,
    key: StringBuilder,
    seq: Int64Builder,
    event_time: TimestampMicrosecondBuilder,
    row: Int32Builder,
    /// The fields of each row, as named MessagePack.
    fields: Vec<Box<[u8]>>,
    bytes: u64,
}

impl RowColumns {
    fn new(table: Arc<Table>) -> Self {
        Self {
            table,
            event_id: StringBuilder::new(),
            key: StringBuilder::new(),
            seq: Int64Builder::new(),
            event_time: TimestampMicrosecondBuilder::new().with_timezone("UTC"),
            row: Int32Builder::new(),
            fields: Vec::new(),
            bytes: 0,
        }
    }

    fn append(&mut self, row: &StoredRow<'_>) -> Result<(), TableError> {
        let seq = i64::try_from(row.seq).map_err(|_| TableError(format!("sequence {} is beyond 2^63", row.seq)))?;
        if row.event_id.is_empty() {
            self.event_id.append_value(format!("{}:{seq}", self.table.partition));
        } else {
            self.event_id.append_value(row.event_id);
        }
        self.key.append_value(row.key);
        self.seq.append_value(seq);
        self.event_time.append_value(row.event_time.0);
        self.row.append_value(i32::from(row.index));
        self.fields.push(row.fields.into());
        self.bytes += (row.key.len() + row.event_id.len() + row.fields.len() + 32) as u64;
        Ok(())
    }

    /// Keeps a row as JSON.
    fn append_unfit(&self, extra: &mut StringBuilder, row: &Fields<'_>) {
        observe::row_unfit(&self.table.name);
        extra.append_value(serde_json::to_string(row).unwrap_or_else(|e| format!("{{\"error\":\"{e}\"}}")));
    }

    /// The columns of the row type, and `extra`.
    fn own(&self) -> Result<Vec<ArrayRef>, TableError> {
        let own = &self.table.own;
        let mut extra = StringBuilder::new();
        let all: Vec<_> = self.fields.iter().map(|fields| Fields(Some(fields))).collect();
        let batch = match serde_arrow::to_record_batch(own, &all) {
            Ok(batch) => {
                for row in &all {
                    if row.has_only(own) {
                        extra.append_null();
                    } else {
                        self.append_unfit(&mut extra, row);
                    }
                }
                batch
            }
            // Rare enough to look at each row alone.
            Err(_) => {
                let mut fitting = Vec::with_capacity(all.len());
                for row in all {
                    let fits = serde_arrow::to_record_batch(own, &[&row]).is_ok();
                    if fits && row.has_only(own) {
                        extra.append_null();
                    } else {
                        self.append_unfit(&mut extra, &row);
                    }
                    fitting.push(if fits { row } else { Fields(None) });
                }
                serde_arrow::to_record_batch(own, &fitting).map_err(|e| TableError(e.to_string()))?
            }
        };
        let column = |(i, column): (usize, &ArrayRef)| match self.table.times.contains(&i) {
            true => Arc::new(
                column.as_primitive::<Int64Type>().reinterpret_cast::<TimestampMicrosecondType>().with_timezone("UTC"),
            ),
            false => column.clone(),
        };
        let columns = batch.columns().iter().enumerate().map(column);
        Ok(columns.chain([Arc::new(extra.finish()) as ArrayRef]).collect())
    }
}

impl Columns for RowColumns {
    fn rows(&self) -> usize {
        self.fields.len()
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn take(&mut self, _: usize) -> Result<RecordBatch, TableError> {
        let own = self.own()?;
        let rows = self.fields.len();
        let event_time = self.event_time.finish();
        self.event_time = TimestampMicrosecondBuilder::new().with_timezone("UTC");
        self.fields.clear();
        self.bytes = 0;
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(mem::take(&mut self.event_id).finish()),
            Arc::new(mem::take(&mut self.key).finish()),
            Arc::new(mem::take(&mut self.seq).finish()),
            Arc::new(Int32Array::from_value(partition_id(self.table.partition)?, rows)),
            Arc::new(event_time),
            Arc::new(mem::take(&mut self.row).finish()),
        ];
        columns.extend(own);
        RecordBatch::try_new(self.table.schema.clone(), columns).map_err(|e| TableError(e.to_string()))
    }
}

/// The fields of a row, read from MessagePack while they are written elsewhere; `None`: no fields at all.
struct Fields<'a>(Option<&'a [u8]>);

impl Fields<'_> {
    /// Whether all of them are columns, which mostly stand in the same order; what is no row fits nowhere.
    fn has_only(&self, own: &[FieldRef]) -> bool {
        struct Names<'o>(&'o [FieldRef]);
        impl<'de> Visitor<'de> for Names<'_> {
            type Value = bool;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the fields of a row")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<bool, A::Error> {
                let (mut place, mut has_only) = (0, true);
                while let Some(name) = fields.next_key::<&str>()? {
                    fields.next_value::<IgnoredAny>()?;
                    has_only = has_only
                        && (self.0.get(place).is_some_and(|field| field.name() == name)
                            || self.0.iter().any(|field| field.name() == name));
                    place += 1;
                }
                Ok(has_only)
            }
        }
        let Some(bytes) = self.0 else { return true };
        rmp_serde::Deserializer::from_read_ref(bytes).deserialize_map(Names(own)).unwrap_or(false)
    }
}

impl Serialize for Fields<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(bytes) => {
                let mut fields = rmp_serde::Deserializer::from_read_ref(bytes);
                serde_transcode::transcode(&mut fields, serializer).map_err(S::Error::custom)
            }
            None => serializer.serialize_map(Some(0))?.end(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use arrow_array::{Array, types::Float64Type};
    use keyloom_actors::{
        checkpoint::record::Tag,
        handler::row::{EmittedRow, Row},
        table::outbox::{Block, BlockWriter},
        timestamp::Timestamp,
    };
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    use serde::Deserialize;

    use super::*;

    const NOON: i64 = 1_795_176_000_000_000;

    #[derive(Serialize, Deserialize)]
    struct Order {
        total: i64,
        share: f64,
        coupon: Option<String>,
        items: Vec<String>,
        at: Timestamp,
        before: Option<Timestamp>,
    }

    impl Row for Order {
        const TABLE: &'static str = "orders";
        const TIMES: &'static [&'static str] = &["at", "before"];
    }

    #[derive(Serialize, Deserialize)]
    struct Taken {
        seq: i64,
    }

    impl Row for Taken {
        const TABLE: &'static str = "orders";
    }

    fn emitted(seq: u64, fields: &impl Serialize) -> EmittedRow {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&seq.to_le_bytes());
        bytes.extend_from_slice(&0u16.to_le_bytes());
        bytes.extend_from_slice(&(NOON + seq as i64).to_le_bytes());
        for text in [format!("k{seq}"), String::new()] {
            bytes.extend_from_slice(&(text.len() as u32).to_le_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
        rmp_serde::encode::write_named(&mut bytes, fields).expect("encodes");
        EmittedRow { seq, table: 0, bytes: bytes.into() }
    }

    fn block(rows: &[EmittedRow]) -> TableInput {
        let mut writer = BlockWriter::new(Tag { n: 1, epoch: 1 }, &["orders".to_owned()], &BTreeMap::new());
        assert!(rows.iter().all(|row| writer.push(row).is_none()));
        let (_, number, record) = writer.finish().pop().expect("a block");
        TableInput::Block(Arc::new(Block::decode(number, &record).expect("a block")))
    }

    fn written(rows: &[EmittedRow]) -> RecordBatch {
        let format = EmittedRows::new(&EmittedTable::of::<Order>(), 3, 1).expect("a table");
        let mut cut = format.open();
        cut.push(&block(rows), 1..=1).expect("taken in");
        assert_eq!((cut.rows(), cut.files()), (rows.len() as u64, 1));
        let [file] = &cut.finish().expect("finished")[..] else { panic!("one hour, one file") };
        let reader = ParquetRecordBatchReaderBuilder::try_new(file.bytes.clone()).expect("Parquet");
        reader.build().expect("a reader").next().expect("rows").expect("readable")
    }

    fn order(total: i64) -> Order {
        let coupon = (total % 2 == 0).then(|| format!("c{total}"));
        Order {
            total,
            share: total as f64 / 4.0,
            coupon,
            items: vec!["a".into(); total as usize],
            at: Timestamp(NOON),
            before: Some(Timestamp(NOON)),
        }
    }

    #[test]
    fn rows_are_read_back_as_they_were_emitted() {
        let batch = written(&[emitted(1, &order(1)), emitted(2, &order(2))]);
        let names: Vec<_> = batch.schema().fields().iter().map(|field| field.name().clone()).collect();
        let base = ["event_id", "key", "seq", "partition_id", "event_time", "row"];
        assert_eq!(names, [&base[..], &["total", "share", "coupon", "items", "at", "before", "extra"]].concat());
        let column = |name: &str| batch.column_by_name(name).expect("a column");
        assert_eq!(column("event_id").as_string::<i32>().value(1), "3:2");
        assert_eq!(column("total").as_primitive::<Int64Type>().values().to_vec(), [1, 2]);
        assert_eq!(column("share").as_primitive::<Float64Type>().value(1), 0.5);
        assert!(column("coupon").is_null(0) && column("coupon").as_string::<i32>().value(1) == "c2");
        assert_eq!(column("items").as_list::<i32>().value(1).len(), 2);
        for time in ["at", "before"] {
            assert_eq!(column(time).as_primitive::<TimestampMicrosecondType>().value(0), NOON);
        }
        assert_eq!(column("extra").null_count(), 2);
    }

    #[test]
    fn rows_of_an_older_type_are_kept_whatever_they_are() {
        #[derive(Serialize)]
        struct Older {
            total: String,
            colour: u8,
        }
        #[derive(Serialize)]
        struct Shorter {
            total: i64,
        }
        let older = Older { total: "many".to_owned(), colour: 7 };
        let batch = written(&[emitted(1, &order(1)), emitted(2, &older), emitted(3, &Shorter { total: 9 })]);
        let total = batch.column_by_name("total").expect("a column").as_primitive::<Int64Type>();
        assert!(total.value(0) == 1 && total.is_null(1) && total.value(2) == 9);
        let extra = batch.column_by_name("extra").expect("a column").as_string::<i32>();
        assert!(extra.is_null(0) && extra.is_null(2));
        assert_eq!(extra.value(1), r#"{"total":"many","colour":7}"#);
    }

    #[test]
    fn a_field_that_is_no_column_any_more_is_kept_beside_the_others() {
        #[derive(Serialize)]
        struct Renamed {
            total: i64,
            voucher: String,
        }
        let renamed = Renamed { total: 5, voucher: "v".to_owned() };
        let batch = written(&[emitted(1, &order(1)), emitted(2, &renamed)]);
        let total = batch.column_by_name("total").expect("a column").as_primitive::<Int64Type>();
        assert_eq!(total.values().to_vec(), [1, 5]);
        let extra = batch.column_by_name("extra").expect("a column").as_string::<i32>();
        assert!(extra.is_null(0));
        assert_eq!(extra.value(1), r#"{"total":5,"voucher":"v"}"#);
    }

    #[test]
    fn what_no_table_can_have_is_refused() {
        #[derive(Serialize, Deserialize)]
        struct Odd {
            at: String,
        }
        impl Row for Odd {
            const TABLE: &'static str = "odd";
            const TIMES: &'static [&'static str] = &["at"];
        }
        let error = EmittedRows::new(&EmittedTable::of::<Odd>(), 3, 1).expect_err("no time");
        assert!(error.contains("TIMES"), "{error}");
        #[derive(Serialize, Deserialize)]
        struct Empty {}
        impl Row for Empty {
            const TABLE: &'static str = "empty";
        }
        let error = EmittedRows::new(&EmittedTable::of::<Empty>(), 3, 1).expect_err("no columns");
        assert!(error.contains("no fields"), "{error}");
        let error = EmittedRows::new(&EmittedTable::of::<Taken>(), 3, 1).expect_err("it is taken");
        assert!(error.contains("\"seq\""), "{error}");
        #[derive(Serialize, Deserialize)]
        struct Hourly {
            hour: i64,
        }
        impl Row for Hourly {
            const TABLE: &'static str = "hourly";
        }
        let error = EmittedRows::new(&EmittedTable::of::<Hourly>(), 3, 1).expect_err("it is a folder");
        assert!(error.contains("\"hour\"") && error.contains("folders"), "{error}");
        #[derive(Serialize, Deserialize)]
        enum Either {
            Number(f64),
            Text(String),
        }
        #[derive(Serialize, Deserialize)]
        struct Reading {
            values: Vec<Either>,
        }
        impl Row for Reading {
            const TABLE: &'static str = "readings";
        }
        let error = EmittedRows::new(&EmittedTable::of::<Reading>(), 3, 1).expect_err("no such column");
        assert!(error.contains("\"values\"") && error.contains("enum"), "{error}");
    }
}
