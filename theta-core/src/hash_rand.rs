//! The reproducible random stream that samples rewards and elite edge votes (`common/util/sample.go`).

use num_bigint::BigUint;

use crate::hash::{Hash, keccak};

/// Bytes made by hashing a seed again and again; the first hash is never given out.
#[derive(Debug, Clone)]
pub struct HashRand {
    state: Hash,
    used: usize,
}

impl HashRand {
    /// Starts a stream.
    pub fn new(seed: &[u8]) -> Self {
        Self { state: keccak(seed), used: 32 }
    }

    fn byte(&mut self) -> u8 {
        if self.used == 32 {
            self.state = keccak(self.state);
            self.used = 0;
        }
        self.used += 1;
        self.state[self.used - 1]
    }

    /// A uniform integer below `max`, drawn as Go's `crypto/rand.Int` draws it. Zero where `max` is 0 or 1.
    pub fn below(&mut self, max: &BigUint) -> BigUint {
        if max.bits() == 0 {
            return BigUint::ZERO;
        }
        let bits = (max - 1_u8).bits();
        if bits == 0 {
            return BigUint::ZERO;
        }
        let top = match bits % 8 {
            0 => 0xff,
            some => (1_u8 << some) - 1,
        };
        loop {
            let mut bytes: Vec<u8> = (0..bits.div_ceil(8)).map(|_| self.byte()).collect();
            bytes[0] &= top;
            let drawn = BigUint::from_bytes_be(&bytes);
            if drawn < *max {
                return drawn;
            }
        }
    }
}
