//! theta
fn main() {}
