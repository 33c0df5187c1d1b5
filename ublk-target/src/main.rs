//! The program fs-core.

fn main() {}
