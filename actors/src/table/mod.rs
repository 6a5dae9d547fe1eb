//! Tables of the lake, as the actors see them: from the log or from rows that handlers emit to files, each row exactly once.
//!
//! Not here: how a file is written, see the port `Lake`.

pub mod batcher;
pub mod cut;
pub mod outbox;
