//! Dead letters, looked after: listed, shown, sent again, removed.
//!
//! A tour: `filter` says which letters somebody means, `request` and `answer` what is asked and answered, `desk` does it on
//! the log and the store of this process, and `client` asks the engine that has them. The command line and the admin API
//! (`faces/dead_letters.rs`) are two faces of the same desk. Not for making letters: that is the engine's own.

mod answer;
mod client;
mod desk;
mod filter;
mod request;

pub(crate) use self::answer::shortened;
#[cfg(test)]
pub(crate) use self::desk::tests::Office;
pub use self::{
    answer::{Halted, Letter, Listing, Report, Skipped},
    client::Client,
    desk::{Desk, DeskError},
    filter::{Filter, LetterId, Place, When, parse_reason},
    request::{Action, ChangeRequest, ListRequest},
};

/// Where the admin API has them.
pub const API_PATH: &str = "/api/dead-letters";

/// Letters in one answer of a listing, unless somebody asks for fewer, and at most.
pub const LIST_DEFAULT: usize = 100;
/// See [`LIST_DEFAULT`]. Without payloads they are about 1 KiB each.
pub const LIST_MAX: usize = 1_000;
/// Letters that one request sends again or removes at most: seconds of work. Who wants more asks again with `next`.
pub const CHANGE_MAX: usize = 1_000;
/// Letters named one by one in one request.
pub const IDS_MAX: usize = 1_000;
