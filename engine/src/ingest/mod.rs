//! `keyloom ingest FILE|-`: lines of a file to a log, whether the log is in this process or behind a front door.
//!
//! [`source`] reads, the front door's [`Acceptor`](crate::front_door::Acceptor) judges, a [`sink`] stores, [`run`](mod@run) holds
//! them together. Not here: the command line.

pub mod backoff;
pub mod http_sink;
pub mod log_sink;
pub mod progress;
pub mod refused;
pub mod run;
pub mod sink;
pub mod source;

pub use http_sink::HttpSink;
pub use log_sink::LogSink;
pub use progress::{Progress, for_stderr};
pub use run::{Report, run};
pub use sink::{IngestSink, SendCount};
pub use source::{Source, SourceError};
