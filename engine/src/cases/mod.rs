//! Cases for a topology: events given, features and rows expected. No server, no waiting, the clock is the case's own.
//!
//! A tour: `file` reads what is written in TOML, `trial` plays one case on a [`HandlerTest`]. The command line is
//! `cli/test.rs`.
//!
//! [`HandlerTest`]: keyloom_actors::handler::testing::HandlerTest

mod file;
mod trial;

pub use self::{
    file::{Case, CaseError, read},
    trial::{Failure, play},
};
