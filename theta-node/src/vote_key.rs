//! The key by which a node votes for checkpoints.

use anyhow::{Result, bail};
use theta_core::{bls, hash::keccak_parts, sign::SecretKey};

/// The BLS key that belongs to a node's key, and cannot be told from its public part: one secret to keep instead of two.
pub fn vote_key(key: &SecretKey) -> Result<bls::SecretKey> {
    for attempt in 0_u8..=255 {
        let bytes = keccak_parts(&[b"theta vote key", &*key.to_bytes(), &[attempt]]);
        // Somewhat more than half of all words are below the group's order.
        if let Ok(secret) = bls::SecretKey::from_bytes(bytes.as_slice()) {
            return Ok(secret);
        }
    }
    bail!("no BLS key could be derived")
}
