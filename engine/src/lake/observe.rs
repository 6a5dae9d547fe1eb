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

#[cfg(test)]
mod tests {
    use keyloom_actors::handler::row::{EmittedTable, Row};
    use metrics_exporter_prometheus::PrometheusBuilder;
    use serde::{Deserialize, Serialize};

    use super::super::EmittedRows;

    #[derive(Serialize, Deserialize)]
    struct Order {
        total: f64,
    }

    impl Row for Order {
        const TABLE: &'static str = "orders";
    }

    #[test]
    fn rows_that_do_not_fit_are_counted_from_0_on() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let table = || EmittedRows::new(&EmittedTable::of::<Order>(), 0, 1).expect("a table");
        metrics::with_local_recorder(&recorder, table);
        let text = recorder.handle().render();
        assert!(text.contains(r#"keyloom_rows_unfit_total{table="orders"} 0"#), "{text}");
    }
}
