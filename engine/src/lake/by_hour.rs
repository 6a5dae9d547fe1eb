//! The rows of one cut, in one file per hour of event time: what every table's buffer has in common.
//!
//! Knows no columns. Rows are gathered in chunks and encoded; where chunks end depends on the rows alone, never on how they
//! arrived, because a cut that is repeated must give the same bytes.

use std::{ops::RangeInclusive, sync::Arc};

use arrow_array::RecordBatch;
use hashbrown::HashMap;
use keyloom_actors::{
    ports::{TableBuffer, TableError, TableFile, TableInput},
    timestamp::Timestamp,
};

use super::{
    names,
    parquet::{FOOTER_BYTES, ParquetFile, ParquetFormat},
};

/// Rows that are gathered column by column before they are encoded: about 1 MB, so that they are still in the
/// processor's cache then. Fewer cost more calls per row. Counted per file, never per batch: the cuts between pages
/// depend on it, and they must not depend on how the events arrived.
pub(super) const CHUNK_ROWS: usize = 2_048;
/// Bytes of rows after which a chunk is encoded early: large rows must not pile up by the thousand, and a column
/// of one chunk must stay far below the 2 GiB that its offsets can express.
pub(super) const CHUNK_BYTES: u64 = 4 * 1_024 * 1_024;

/// Rows of one file that are not encoded yet.
pub(super) trait Columns: Send {
    /// How many there are.
    fn rows(&self) -> usize;
    /// About how many bytes.
    fn bytes(&self) -> u64;
    /// All of them; leaves none behind, and room for `rows_next` of the same size.
    fn take(&mut self, rows_next: usize) -> Result<RecordBatch, TableError>;
}

/// How a table makes rows of what its batcher takes in.
pub(super) trait Rows: Send {
    /// Where the rows wait until they are encoded.
    type Columns: Columns;
    /// Adds what of `input` has a place in `positions`.
    fn append(
        &self,
        files: &mut HourlyFiles<Self::Columns>,
        input: &TableInput,
        positions: RangeInclusive<u64>,
    ) -> Result<(), TableError>;
}

/// One cut of a table.
pub(super) struct Cut<R: Rows> {
    rows: R,
    files: HourlyFiles<R::Columns>,
}

impl<R: Rows> Cut<R> {
    /// Without rows yet.
    pub(super) fn new(rows: R, format: Arc<ParquetFormat>) -> Self {
        Self { rows, files: HourlyFiles::new(format) }
    }
}

impl<R: Rows> TableBuffer for Cut<R> {
    fn push(&mut self, input: &TableInput, positions: RangeInclusive<u64>) -> Result<(), TableError> {
        self.rows.append(&mut self.files, input, positions)
    }

    fn rows(&self) -> u64 {
        self.files.rows
    }

    fn bytes(&self) -> u64 {
        self.files.bytes
    }

    fn files(&self) -> usize {
        self.files.files.len()
    }

    fn finish(self: Box<Self>) -> Result<Vec<TableFile>, TableError> {
        self.files.finish()
    }
}

/// See the module.
pub(super) struct HourlyFiles<C> {
    format: Arc<ParquetFormat>,
    files: Vec<OpenFile<C>>,
    by_hour: HashMap<i64, usize>,
    /// Most rows fall into the hour of the one before.
    last: Option<(i64, usize)>,
    rows: u64,
    /// About those of the files if they were finished now.
    bytes: u64,
}

/// The file of one Hive partition.
struct OpenFile<C> {
    hour: i64,
    columns: C,
    file: ParquetFile,
    rows: u64,
    /// What the cut's estimate counts for what is already encoded.
    encoded_bytes: u64,
}

impl<C: Columns> HourlyFiles<C> {
    /// No files yet.
    fn new(format: Arc<ParquetFormat>) -> Self {
        Self { format, files: Vec::new(), by_hour: HashMap::new(), last: None, rows: 0, bytes: 0 }
    }

    /// Adds one row of `time` by `append`; a file that has none yet begins with the columns that `open` makes.
    pub(super) fn append(
        &mut self,
        time: Timestamp,
        open: impl FnOnce() -> C,
        append: impl FnOnce(&mut C) -> Result<(), TableError>,
    ) -> Result<(), TableError> {
        let hour = names::hour_of(time);
        let file = match self.last {
            Some((last_hour, file)) if last_hour == hour => file,
            _ => self.file_of(hour, open)?,
        };
        self.last = Some((hour, file));
        let open = &mut self.files[file];
        let before = open.columns.bytes();
        append(&mut open.columns)?;
        open.rows += 1;
        self.rows += 1;
        self.bytes += open.columns.bytes() - before;
        if open.columns.rows() >= CHUNK_ROWS || open.columns.bytes() >= CHUNK_BYTES {
            self.bytes -= open.columns.bytes() + open.encoded_bytes;
            open.encode(CHUNK_ROWS)?;
            self.bytes += open.encoded_bytes;
        }
        Ok(())
    }

    fn file_of(&mut self, hour: i64, open: impl FnOnce() -> C) -> Result<usize, TableError> {
        if let Some(index) = self.by_hour.get(&hour) {
            return Ok(*index);
        }
        let file = self.format.open()?;
        self.files.push(OpenFile { hour, columns: open(), file, rows: 0, encoded_bytes: 0 });
        self.by_hour.insert(hour, self.files.len() - 1);
        self.bytes += FOOTER_BYTES;
        Ok(self.files.len() - 1)
    }

    /// Finishes all files, in order of their hours.
    fn finish(mut self) -> Result<Vec<TableFile>, TableError> {
        self.files.sort_unstable_by_key(|file| file.hour);
        let finish = |mut open: OpenFile<C>| {
            open.encode(0)?;
            Ok(TableFile { hive: names::hive_of(open.hour), bytes: open.file.finish()?, rows: open.rows })
        };
        self.files.into_iter().map(finish).collect()
    }
}

impl<C: Columns> OpenFile<C> {
    /// Encodes what is gathered and makes room for `rows_next` rows.
    fn encode(&mut self, rows_next: usize) -> Result<(), TableError> {
        if self.columns.rows() > 0 {
            self.file.write(&self.columns.take(rows_next)?)?;
        }
        self.encoded_bytes = self.file.bytes();
        Ok(())
    }
}
