//! The client-side command line.
fn main() {}
