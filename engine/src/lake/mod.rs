//! The lake: where tables end up as files that others query.
//!
//! A batcher fills a table's buffer and puts the finished files; nothing here decides when to cut or what to retry.
//! - `raw_events`: the table of all events; its columns, and how an event becomes a row.
//! - `parquet`: the file format; what all files of a table have in common.
//! - `names`: names of objects, and which names no lake takes. Pure.
//! - `dir`: a lake in a folder of this machine.
//! - `s3`: a lake in an S3 bucket; `s3_answers` puts into words what S3 answered. The latter is pure.

mod dir;
mod late;
mod names;
mod parquet;
mod raw_events;
mod s3;
mod s3_answers;
#[cfg(test)]
mod s3_tests;

pub use self::{
    dir::DirLake,
    late::LateLake,
    names::{NAME_BYTES_MAX, PART_BYTES_MAX, object_name},
    raw_events::RawEvents,
    s3::{S3Credentials, S3Lake, S3Options},
};
