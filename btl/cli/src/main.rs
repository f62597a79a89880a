//! The `ironband` command.
fn main() {}
