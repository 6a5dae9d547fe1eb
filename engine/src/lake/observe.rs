//! The metrics of table files.

use metrics::{Unit, counter, describe_counter};

/// Describes the metrics; once per process.
pub fn describe() {
    describe_counter!(
        "keyloom_rows_unfit_total",
        Unit::Count,
        "Emitted rows that do not fit the columns of their table, and stand in its column extra."
    );
}

/// There is such a table: its counter is there before anything is counted.
pub(super) fn table_begins(table: &str) {
    counter!("keyloom_rows_unfit_total", "table" => table.to_owned()).increment(0);
}

/// A row of `table` does not fit its columns.
pub(super) fn row_unfit(table: &str) {
    counter!("keyloom_rows_unfit_total", "table" => table.to_owned()).increment(1);
}
