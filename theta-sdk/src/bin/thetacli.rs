//! thetacli
fn main() {}
