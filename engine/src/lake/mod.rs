//! The lake: where tables end up as files that others query.
//!
//! A batcher fills a table's buffer and puts the finished files; nothing here decides when to cut or what to retry.
//! - `raw_events`: the table of all events; its columns, and how an event becomes a row.
//! - `emitted_rows`: tables of rows that handlers emit; their columns come from the handler's types.
//! - `by_hour`: one file per hour of event time, what all tables have in common.
//! - `parquet`: the file format; what all files of a table have in common.
//! - `names`: names of objects, and which names no lake takes. Pure.
//! - `dir`: a lake in a folder of this machine.
//! - `s3`: a lake in an S3 bucket; `s3_answers` puts into words what S3 answered. The latter is pure.

mod by_hour;
mod dir;
mod emitted_rows;
mod late;
mod names;
pub mod observe;
mod parquet;
mod raw_events;
mod s3;
mod s3_answers;
#[cfg(test)]
mod s3_tests;

pub use self::{
    dir::DirLake,
    emitted_rows::EmittedRows,
    late::LateLake,
    names::{NAME_BYTES_MAX, PART_BYTES_MAX, object_name},
    raw_events::RawEvents,
    s3::{S3Lake, S3Options},
};
pub use crate::aws::AwsCredentials as S3Credentials;
