//! Jobs on edge nodes: what they are, who runs them, how results are believed, how they are paid.
pub mod blob;
pub mod executor;
pub mod identity;
pub mod job;
pub mod verify;

/// Milliseconds since 1970, or since any instant that a host likes; only differences count.
pub type Millis = u64;
