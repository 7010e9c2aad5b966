//! The `triggers` binary.
fn main() {}
