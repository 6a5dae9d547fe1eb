//! keyloom
fn main() {}
