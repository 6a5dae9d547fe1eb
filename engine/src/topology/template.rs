//! What `keyloom init` writes: a topology that runs as it is, with every key explained.

/// The file, in effect the quick start.
pub const TEMPLATE: &str = include_str!("template.toml");
