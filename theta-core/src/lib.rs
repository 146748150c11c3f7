//! theta-core
pub mod bls;
