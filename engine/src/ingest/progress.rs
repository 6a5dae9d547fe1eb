//! What a person sees while a file is ingested: a bar on a terminal, a line now and then elsewhere.
//!
//! Writes to standard error only, so that standard output stays what scripts expect.

use std::{
    io::{IsTerminal, Write},
    sync::Mutex,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

/// Time between two plain lines.
const PLAIN_EVERY: Duration = Duration::from_secs(5);
/// Time between two drawings of the bar while nothing moves, so that it shows life.
const TICK_EVERY: Duration = Duration::from_millis(200);

/// Is told how far an ingest has come.
pub trait Progress: Send + Sync {
    /// `file_bytes` of the file are read, and `lines` lines of it went on their way.
    fn reached(&self, file_bytes: u64, lines: u64);
    /// It is over, well or badly; called once.
    fn ended(&self);
}

/// The progress that suits standard error. `total`: the file's length in bytes, if known.
pub fn for_stderr(total: Option<u64>) -> Box<dyn Progress> {
    if std::io::stderr().is_terminal() {
        Box::new(Bar::new(total))
    } else {
        Box::new(Plain { total, last: Mutex::new(Instant::now()) })
    }
}

/// Shows nothing.
#[derive(Debug, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {
    fn reached(&self, _file_bytes: u64, _lines: u64) {}
    fn ended(&self) {}
}

struct Bar(ProgressBar);

impl Bar {
    fn new(total: Option<u64>) -> Self {
        let (bar, template) = match total {
            Some(total) => {
                (ProgressBar::new(total), "{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {msg} ready in {eta}")
            }
            None => (ProgressBar::new_spinner(), "{spinner} {bytes} {bytes_per_sec} {msg} in {elapsed}"),
        };
        let bar = match ProgressStyle::with_template(template) {
            Ok(style) => bar.with_style(style),
            Err(_) => bar, // the default look serves as well
        };
        bar.enable_steady_tick(TICK_EVERY);
        Self(bar)
    }
}

impl Progress for Bar {
    fn reached(&self, file_bytes: u64, lines: u64) {
        self.0.set_position(file_bytes);
        self.0.set_message(format!("{lines} lines"));
    }

    fn ended(&self) {
        self.0.finish_and_clear();
    }
}

struct Plain {
    total: Option<u64>,
    last: Mutex<Instant>,
}

impl Progress for Plain {
    fn reached(&self, file_bytes: u64, lines: u64) {
        let Ok(mut last) = self.last.lock() else { return };
        if last.elapsed() < PLAIN_EVERY {
            return;
        }
        *last = Instant::now();
        let line = plain_line(file_bytes, self.total, lines);
        if writeln!(std::io::stderr(), "{line}").is_err() {
            tracing::debug!("standard error is closed; progress is not shown");
        }
    }

    fn ended(&self) {}
}

fn plain_line(file_bytes: u64, total: Option<u64>, lines: u64) -> String {
    let megabytes = file_bytes as f64 / 1e6;
    match total.filter(|total| *total > 0) {
        Some(total) => {
            let percent = 100.0 * file_bytes as f64 / total as f64;
            format!("{lines} lines, {megabytes:.1} of {:.1} MB ({percent:.0} %)", total as f64 / 1e6)
        }
        None => format!("{lines} lines, {megabytes:.1} MB"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_lines_say_how_far() {
        assert_eq!(plain_line(500_000, Some(2_000_000), 7), "7 lines, 0.5 of 2.0 MB (25 %)");
        assert_eq!(plain_line(500_000, None, 7), "7 lines, 0.5 MB");
        assert_eq!(plain_line(0, Some(0), 0), "0 lines, 0.0 MB");
    }

    #[test]
    fn the_bars_templates_are_valid() {
        for total in [Some(10), None] {
            let bar = Bar::new(total);
            bar.reached(5, 1);
            bar.ended();
            assert!(bar.0.is_finished());
        }
    }
}
