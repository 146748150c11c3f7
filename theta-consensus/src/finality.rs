//! Guardians' finality: certificates over checkpoints, and how their votes are gathered without counting one twice.
//!
//! Where the chain's rule is [`GuardianRule::Finalize`] an aggregate is a bitmap: every multiplier is 0 or 1, and only
//! disjoint aggregates are added up. So no entry can be made to grow, and what a certificate says is how much stake
//! stands behind a checkpoint. What is signed names chain and height, so that no vote is good elsewhere.
//!
//! A guardian votes for settled checkpoints alone and for one block of a height (its signer keeps a mark). With less than a
//! third of the guardians' stake at fault no two blocks of one height get a certificate, even if more than a third of the
//! validators' stake is at fault and different nodes have settled different blocks.

use std::collections::BTreeMap;

use theta_core::{
    amount::ThetaWei,
    bls::{self, aggregate_public_keys, aggregate_signatures, verify as verify_bls},
    codec::rlp::{Encode, encode_list},
    hash::{Hash, U256},
    spec::GuardianRule,
    stake::GuardianPool,
    vote::GuardianVotes,
};

use crate::{
    guardian::{AggregateError, SUITE, verify_guardian_votes},
    round::Aggregate,
};

/// Aggregates of several guardians that are kept beside single votes.
const PARTS: usize = 16;

/// A checkpoint that guardians vote on.
#[derive(Clone, Copy, Debug)]
pub struct Checkpoint<'a> {
    /// The chain.
    pub chain: &'a str,
    /// The block's height.
    pub height: u64,
    /// What the votes are good for at that height.
    pub rule: GuardianRule,
    /// The guardians in the block's state.
    pub pool: &'a GuardianPool,
}

impl Checkpoint<'_> {
    /// What guardians sign.
    pub fn message(&self, block: &Hash, pool: &Hash) -> Vec<u8> {
        message(self.rule, self.chain, self.height, block, pool)
    }

    /// Whether an aggregate is signed by the guardians it names, in the form that the rule asks for.
    pub fn verify(&self, votes: &GuardianVotes) -> Result<(), AggregateError> {
        if self.rule == GuardianRule::RewardOnly {
            return verify_guardian_votes(votes, self.pool);
        }
        if votes.pool != self.pool.hash() {
            return Err(AggregateError::Pool);
        }
        let keys: Vec<_> = self.pool.with_stake().map(|guardian| &guardian.key).collect();
        if votes.multipliers.len() != keys.len() {
            return Err(AggregateError::Length);
        }
        if votes.multipliers.iter().any(|times| *times > 1) {
            return Err(AggregateError::Repeated);
        }
        if votes.signers() == 0 {
            return Err(AggregateError::Empty);
        }
        let key = aggregate_public_keys(SUITE, keys.into_iter().zip(votes.multipliers.iter().copied()))?;
        Ok(verify_bls(SUITE, &key, &self.message(&votes.block, &votes.pool), &votes.signature)?)
    }

    /// Whether an aggregate that verifies makes the checkpoint final.
    pub fn is_final(&self, votes: &GuardianVotes) -> bool {
        self.rule == GuardianRule::Finalize && is_quorum(self.pool, &votes.multipliers)
    }

    /// Whether an aggregate is a certificate: verifies, and makes the checkpoint final.
    pub fn certifies(&self, votes: &GuardianVotes) -> Result<(), AggregateError> {
        self.verify(votes)?;
        if self.is_final(votes) { Ok(()) } else { Err(AggregateError::NoQuorum) }
    }
}

/// What guardians sign: `[block, pool, [], ""]` in the reference; `[domain, chain, height, block, pool]` where they finalize.
pub(crate) fn message(rule: GuardianRule, chain: &str, height: u64, block: &Hash, pool: &Hash) -> Vec<u8> {
    if rule == GuardianRule::RewardOnly {
        return GuardianVotes::message(block, pool);
    }
    let mut out = Vec::new();
    encode_list(&mut out, |out| {
        "theta guardian finality".to_owned().encode(out);
        chain.to_owned().encode(out);
        height.encode(out);
        block.encode(out);
        pool.encode(out);
    });
    out
}

/// Whether the guardians named hold more than two thirds of the stake of all.
fn is_quorum(pool: &GuardianPool, multipliers: &[u32]) -> bool {
    fn sum(mut stakes: impl Iterator<Item = ThetaWei>) -> Option<U256> {
        stakes.try_fold(U256::ZERO, |sum, stake| sum.checked_add(stake.get()))
    }
    let stakes = || pool.with_stake().map(|guardian| guardian.stakes.total());
    let voted = sum(stakes().zip(multipliers).filter(|(_, times)| **times > 0).map(|(stake, _)| stake));
    let three = voted.and_then(|sum| sum.checked_mul(U256::from(3)));
    let two = sum(stakes()).and_then(|sum| sum.checked_mul(U256::from(2)));
    matches!((three, two), (Some(three), Some(two)) if three > two)
}

/// Votes gathered as disjoint bitmaps: one single vote for each guardian, and some aggregates.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    block: Hash,
    pool: Hash,
    size: usize,
    singles: BTreeMap<usize, bls::Signature>,
    parts: Vec<GuardianVotes>,
    /// Whom the fullest aggregate holds.
    cover: Vec<u32>,
}

impl Tally {
    pub(crate) fn new(block: Hash, pool: Hash, size: usize) -> Self {
        let cover = vec![0; size];
        Self { block, pool, size, singles: BTreeMap::new(), parts: Vec::new(), cover }
    }

    /// Whom the fullest aggregate holds.
    pub(crate) fn cover(&self) -> &[u32] {
        &self.cover
    }

    /// Whether an aggregate is worth being verified: it has a signer that the best one lacks, or it is a single vote that is
    /// not here yet, which is what aggregates that overlap are made from.
    pub(crate) fn wants(&self, votes: &GuardianVotes) -> bool {
        let is_bitmap =
            votes.multipliers.len() == self.size && votes.multipliers.iter().all(|times| *times <= 1);
        let single = single(votes).is_some_and(|index| !self.singles.contains_key(&index));
        is_bitmap
            && votes.signers() > 0
            && (single || self.cover.iter().zip(&votes.multipliers).any(|(here, there)| *here < *there))
    }

    /// Takes a verified aggregate in; says whether it was new.
    pub(crate) fn add(&mut self, votes: GuardianVotes) -> bool {
        if !self.wants(&votes) {
            return false;
        }
        match single(&votes) {
            Some(index) => {
                self.singles.insert(index, votes.signature);
            }
            None => {
                // What a newer one holds as a whole is of no more use.
                self.parts.retain(|part| {
                    votes.multipliers.iter().zip(&part.multipliers).any(|(new, old)| old > new)
                });
                if self.parts.len() >= PARTS {
                    let fewest = (0..self.parts.len()).min_by_key(|index| self.parts[*index].signers());
                    fewest.map(|index| self.parts.swap_remove(index));
                }
                self.parts.push(votes);
            }
        }
        self.cover = self.join().0;
        true
    }

    /// The fullest aggregate that can be made. Costs an addition for each part of it.
    pub(crate) fn best(&self) -> Option<GuardianVotes> {
        let (multipliers, signatures) = self.join();
        if signatures.is_empty() {
            return None;
        }
        // All of them have been verified, so they are points.
        let signatures = signatures.into_iter().map(|signature| (signature, 1));
        let signature = aggregate_signatures(SUITE, signatures).ok()?;
        Some(GuardianVotes { block: self.block, pool: self.pool, multipliers, signature })
    }

    /// The fullest part first, then whatever is disjoint from it, then single votes.
    fn join(&self) -> (Vec<u32>, Vec<&bls::Signature>) {
        let mut parts: Vec<&GuardianVotes> = self.parts.iter().collect();
        parts.sort_by_key(|part| std::cmp::Reverse(part.signers()));
        let mut multipliers = vec![0_u32; self.size];
        let mut signatures = Vec::new();
        for part in parts {
            if multipliers.iter().zip(&part.multipliers).all(|(here, there)| here + there <= 1) {
                multipliers.iter_mut().zip(&part.multipliers).for_each(|(here, there)| *here += there);
                signatures.push(&part.signature);
            }
        }
        for (index, signature) in &self.singles {
            if multipliers[*index] == 0 {
                multipliers[*index] = 1;
                signatures.push(signature);
            }
        }
        (multipliers, signatures)
    }
}

/// The one guardian of a single vote.
pub(crate) fn single(votes: &GuardianVotes) -> Option<usize> {
    let mut signers = (0..votes.multipliers.len()).filter(|index| votes.multipliers[*index] > 0);
    signers.next().filter(|_| signers.next().is_none())
}

#[cfg(test)]
mod tests;
