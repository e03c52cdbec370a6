//! The `monofo` binary.

fn main() {}
