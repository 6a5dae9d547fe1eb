//! Parquet files in memory: what all files of a table have in common, and one file that is being written.
//!
//! Knows no columns and no events; which rows go into which file is decided by the table. Equal batches in equal order
//! give equal bytes, because nothing here looks at clocks, thread timing or addresses.

use arrow_array::RecordBatch;
use arrow_schema::{DataType, SchemaRef};
use bytes::Bytes;
use keyloom_actors::ports::TableError;
use parquet::{
    arrow::{ArrowWriter, arrow_writer::ArrowWriterOptions},
    basic::{Compression, Encoding, ZstdLevel},
    errors::ParquetError,
    file::{
        metadata::KeyValue,
        properties::{EnabledStatistics, WriterProperties},
    },
    schema::types::ColumnPath,
};

/// Rows of one row group. Readers skip whole row groups by their statistics and read them in parallel, so smaller is
/// finer; but each costs some 2 KB of footer and starts its dictionaries anew. 131,072 rows are about 10 to 20 MB
/// encoded, which is also what one open file holds back from its finished bytes.
pub(super) const ROW_GROUP_ROWS: usize = 131_072;

/// Bytes of a file that are there whatever its rows: schema, statistics and metadata of a small file.
pub(super) const FOOTER_BYTES: u64 = 3 * 1_024;

/// Zstandard levels we take; beyond 19 memory explodes for nothing, below 1 speed is bought with size.
const ZSTD_LEVELS: std::ops::RangeInclusive<i32> = 1..=19;

/// What all files of one table and partition have in common.
#[derive(Debug)]
pub(super) struct ParquetFormat {
    schema: SchemaRef,
    options: ArrowWriterOptions,
}

/// One file while it is written.
pub(super) struct ParquetFile {
    writer: ArrowWriter<Vec<u8>>,
}

impl ParquetFormat {
    /// Files of `table` with the rows of `partition`. `repetitive`: columns with few different values, which are stored
    /// as dictionaries; for others a dictionary costs a hash per row and is thrown away once it is full.
    /// `unordered`: columns whose minimum and maximum say nothing.
    pub(super) fn new(
        table: &str,
        partition: u32,
        schema: SchemaRef,
        zstd_level: i32,
        repetitive: &[&str],
        unordered: &[&str],
    ) -> Self {
        let level = zstd_level.clamp(*ZSTD_LEVELS.start(), *ZSTD_LEVELS.end());
        let version = env!("CARGO_PKG_VERSION");
        let about = |key: &str, value: String| KeyValue::new(format!("keyloom.{key}"), value);
        let mut properties = WriterProperties::builder()
            // Java readers (Spark, Athena) parse this, and distrust the statistics of files where they cannot.
            .set_created_by(format!("keyloom version {version} (build {version})"))
            .set_key_value_metadata(Some(vec![
                about("table", table.to_owned()),
                about("partition", partition.to_string()),
            ]))
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(level).unwrap_or_default()))
            .set_dictionary_enabled(false)
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS));
        for field in schema.fields() {
            // Sequences and times grow slowly: their differences take a few bits each instead of eight bytes.
            if matches!(field.data_type(), DataType::Int32 | DataType::Int64 | DataType::Timestamp(_, _)) {
                let column = ColumnPath::from(field.name().as_str());
                properties = properties.set_column_encoding(column, Encoding::DELTA_BINARY_PACKED);
            }
        }
        for column in repetitive {
            properties = properties.set_column_dictionary_enabled(ColumnPath::from(*column), true);
        }
        for column in unordered {
            properties = properties.set_column_statistics_enabled(ColumnPath::from(*column), EnabledStatistics::None);
        }
        // The Arrow schema adds nothing to the Parquet one here, and would be a kilobyte in every small file.
        let options = ArrowWriterOptions::new().with_properties(properties.build()).with_skip_arrow_metadata(true);
        Self { schema, options }
    }

    /// The columns.
    pub(super) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// An empty file.
    pub(super) fn open(&self) -> Result<ParquetFile, TableError> {
        let writer = ArrowWriter::try_new_with_options(Vec::new(), self.schema.clone(), self.options.clone());
        Ok(ParquetFile { writer: writer.map_err(failure)? })
    }
}

impl ParquetFile {
    /// Encodes rows; a row group is closed every [`ROW_GROUP_ROWS`] rows.
    pub(super) fn write(&mut self, rows: &RecordBatch) -> Result<(), TableError> {
        self.writer.write(rows).map_err(failure)
    }

    /// Bytes of the finished row groups and, estimated, of the unfinished one.
    pub(super) fn bytes(&self) -> u64 {
        (self.writer.bytes_written() + self.writer.in_progress_size()) as u64
    }

    /// Closes the file.
    pub(super) fn finish(self) -> Result<Bytes, TableError> {
        self.writer.into_inner().map(Bytes::from).map_err(failure)
    }
}

fn failure(error: ParquetError) -> TableError {
    TableError(error.to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, Int64Array, StringArray};
    use arrow_schema::{Field, Schema};
    use parquet::{
        arrow::arrow_reader::ParquetRecordBatchReaderBuilder,
        file::metadata::{ParquetMetaData, RowGroupMetaData},
    };

    use super::*;

    fn written(chunk_rows: i64, rows: i64) -> Bytes {
        let fields = vec![
            Field::new("n", DataType::Int64, false),
            Field::new("kind", DataType::Utf8, false),
            Field::new("rest", DataType::Utf8, false),
        ];
        let schema = Arc::new(Schema::new(fields));
        let format = ParquetFormat::new("things", 3, schema.clone(), 1, &["kind"], &["rest"]);
        let mut file = format.open().expect("a file");
        for first in (0..rows).step_by(chunk_rows as usize) {
            let numbers = first..(first + chunk_rows).min(rows);
            let text = |n: i64| format!("text {n}");
            let columns: Vec<ArrayRef> = vec![
                Arc::new(Int64Array::from_iter_values(numbers.clone())),
                Arc::new(StringArray::from_iter_values(numbers.clone().map(|n| text(n % 5)))),
                Arc::new(StringArray::from_iter_values(numbers.map(text))),
            ];
            file.write(&RecordBatch::try_new(schema.clone(), columns).expect("a batch")).expect("written");
        }
        file.finish().expect("finished")
    }

    fn metadata(bytes: &Bytes) -> Arc<ParquetMetaData> {
        ParquetRecordBatchReaderBuilder::try_new(bytes.clone()).expect("a Parquet file").metadata().clone()
    }

    #[test]
    fn row_groups_are_closed_by_rows() {
        let bytes = written(2_048, ROW_GROUP_ROWS as i64 + 1);
        let rows: Vec<_> = metadata(&bytes).row_groups().iter().map(RowGroupMetaData::num_rows).collect();
        assert_eq!(rows, [ROW_GROUP_ROWS as i64, 1]);
    }

    #[test]
    fn files_say_who_wrote_what_and_how() {
        let metadata = metadata(&written(10, 100));
        let file = metadata.file_metadata();
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(file.created_by(), Some(&*format!("keyloom version {version} (build {version})")));
        let said: Vec<_> = file
            .key_value_metadata()
            .expect("some")
            .iter()
            .map(|kv| (kv.key.as_str(), kv.value.as_deref().unwrap_or_default()))
            .collect();
        assert_eq!(said, [("keyloom.table", "things"), ("keyloom.partition", "3")]);
        let [n, kind, rest] = metadata.row_group(0).columns() else { panic!("three columns") };
        assert!(n.encodings().any(|e| e == Encoding::DELTA_BINARY_PACKED), "{n:?}");
        assert_eq!((n.dictionary_page_offset(), rest.dictionary_page_offset()), (None, None));
        assert!(kind.dictionary_page_offset().is_some());
        assert!(n.statistics().is_some() && kind.statistics().is_some() && rest.statistics().is_none());
        assert!(metadata.row_group(0).columns().iter().all(|c| matches!(c.compression(), Compression::ZSTD(_))));
    }

    #[test]
    fn a_small_file_has_about_the_footer_we_reckon_with() {
        assert!(written(10, 10).len() as u64 <= FOOTER_BYTES);
    }
}
