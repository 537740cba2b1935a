//! Ferromesh.
fn main() {}
