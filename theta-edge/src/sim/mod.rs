//! Whole fleets and markets in virtual time (edge.md 12), by the same code that runs in earnest.
//!
//! A scenario and a seed give one trace: equal ones have equal hashes, on any machine. Nothing sleeps and nothing is
//! random but by the seed. [`fleet`] is S1, [`cheaters`] S2, [`payers`] S6,
//! [`gpu`] a class of GPUs; [`mod@edge`] is all of them, each figure beside its target.

pub mod cheaters;
pub mod edge;
pub mod fleet;
pub mod gpu;
pub mod payers;

use theta_core::hash::Hash;

/// Numbers that depend on a seed alone (splitmix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A sequence.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub const fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number below `end`, which is not 0.
    pub const fn below(&mut self, end: u64) -> u64 {
        self.next_u64() % end
    }
}

/// What happened, in order, as one hash.
#[derive(Debug)]
struct Trace(blake3::Hasher);

impl Trace {
    fn new() -> Self {
        Self(blake3::Hasher::new())
    }

    fn note(&mut self, words: &[u64]) {
        for word in words {
            self.0.update(&word.to_le_bytes());
        }
    }

    fn hash(&self) -> Hash {
        Hash::from(*self.0.finalize().as_bytes())
    }
}
