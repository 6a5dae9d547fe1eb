//! What the end-to-end tests share. Each test file beside this one is a program of its own, see Cargo.toml.

pub mod support;
