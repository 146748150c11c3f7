//! Elite edge nodes' votes for checkpoints (`spec/consensus.md` 2.4 and 10, `core/elite_edge_node.go`).
//!
//! Each checkpoint samples about 800 units of stake; a node none of whose units was drawn has no vote. Single votes come
//! from the nodes themselves and are not relayed; what travels between validators is aggregates.

use std::collections::BTreeMap;

use theta_core::{
    BigUint,
    bls::{
        PublicKey, SecretKey, Signature, aggregate_public_keys, aggregate_signatures, verify as verify_bls,
    },
    hash::{Address, Hash},
    rlp_list,
    stake::{EliteState, elite::sampled_weight},
    vote::EliteVotes,
};

use crate::{
    guardian::{AggregateError, SUITE},
    round::{Aggregate, MergeError},
};

/// Rounds in which a checkpoint's votes spread.
pub(crate) const ROUNDS: u32 = 20;

/// The vote of one elite edge node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EliteVote {
    /// The checkpoint voted for.
    pub block: Hash,
    /// Its height. Not signed.
    pub height: u64,
    /// The node.
    pub address: Address,
    /// Over [`EliteVotes::message`].
    pub signature: Signature,
    /// Seconds since 1970. Not signed, and nobody looks at it.
    pub timestamp: BigUint,
}

rlp_list!(EliteVote { block, height, address, signature, timestamp });

impl EliteVote {
    /// Signs a vote.
    pub(crate) fn sign(
        key: &SecretKey,
        block: Hash,
        height: u64,
        address: Address,
        timestamp: BigUint,
    ) -> Self {
        let signature = key.sign(SUITE, &EliteVotes::message(&block));
        Self { block, height, address, signature, timestamp }
    }

    /// The same as an aggregate of one.
    pub fn into_votes(self) -> EliteVotes {
        EliteVotes {
            block: self.block,
            multipliers: vec![1],
            addresses: vec![self.address],
            signature: self.signature,
        }
    }
}

/// The key of a node whose vote counts for this checkpoint.
fn sampled_key<'a>(block: &Hash, address: Address, pool: &'a EliteState) -> Option<&'a PublicKey> {
    let node = pool.nodes.get(&address)?;
    (sampled_weight(block, address, node.stakes.total(), pool.total) > 0).then_some(&node.key)
}

/// Whether an aggregate is signed by the nodes it names, all of them sampled for this checkpoint. A multiplier may be zero.
pub fn verify_elite_votes(votes: &EliteVotes, pool: &EliteState) -> Result<(), AggregateError> {
    if votes.addresses.is_empty() {
        return Err(AggregateError::Empty);
    }
    if votes.addresses.len() != votes.multipliers.len() {
        return Err(AggregateError::Length);
    }
    if votes.addresses.windows(2).any(|pair| pair[0] >= pair[1]) {
        return Err(AggregateError::Order);
    }
    let keys = votes.addresses.iter().map(|address| sampled_key(&votes.block, *address, pool));
    let keys = keys.collect::<Option<Vec<_>>>().ok_or(AggregateError::Unsampled)?;
    let key = aggregate_public_keys(SUITE, keys.into_iter().zip(votes.multipliers.iter().copied()))?;
    Ok(verify_bls(SUITE, &key, &EliteVotes::message(&votes.block), &votes.signature)?)
}

/// Adds two aggregates up; `None` if the second holds no node that the first lacks.
pub fn merge_elite_votes(a: &EliteVotes, b: &EliteVotes) -> Result<Option<EliteVotes>, MergeError> {
    if a.block != b.block {
        return Err(MergeError::Different);
    }
    if !a.gains_from(b) {
        return Ok(None);
    }
    a.merged(b).map(Some)
}

impl Aggregate for EliteVotes {
    fn signers(&self) -> usize {
        self.multipliers.iter().filter(|multiplier| **multiplier > 0).count()
    }

    /// A node that stands in one of them with multiplier zero has not signed that one. (The reference counts it, so a list
    /// of zeros would keep real votes out.)
    fn gains_from(&self, other: &Self) -> bool {
        let has = |votes: &Self, address: &Address| {
            let found = votes.addresses.binary_search(address).ok();
            found.and_then(|index| votes.multipliers.get(index)).is_some_and(|multiplier| *multiplier > 0)
        };
        let signers = other.addresses.iter().zip(&other.multipliers).filter(|(_, times)| **times > 0);
        signers.into_iter().any(|(address, _)| !has(self, address))
    }

    fn merged(&self, other: &Self) -> Result<Self, MergeError> {
        if self.block != other.block {
            return Err(MergeError::Different);
        }
        let mut sums: BTreeMap<Address, u32> = BTreeMap::new();
        for votes in [self, other] {
            for (address, multiplier) in votes.addresses.iter().zip(&votes.multipliers) {
                let sum = sums.entry(*address).or_default();
                *sum = sum.checked_add(*multiplier).ok_or(MergeError::Overflow)?;
            }
        }
        let signature = aggregate_signatures(SUITE, [(&self.signature, 1), (&other.signature, 1)])?;
        let (addresses, multipliers) = sums.into_iter().unzip();
        Ok(Self { block: self.block, multipliers, addresses, signature })
    }

    fn largest(&self) -> u32 {
        self.multipliers.iter().copied().max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
