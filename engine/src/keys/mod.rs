//! What there is to know of one key: its state as of the last checkpoint, its features, what it waits for, what went wrong.
//!
//! A tour: `report` is what is said, `inspector` finds it out from the log and the store of this process. The command line
//! (`keyloom key show`) and the admin API (`faces/keys.rs`) are two faces of it. Nothing here changes anything.

mod inspector;
mod report;

pub use self::{
    inspector::{InspectError, Inspector},
    report::{KeyReport, LastEvent, Timer},
};

/// Where the admin API has it: `?key=`.
pub const API_PATH: &str = "/api/key";
