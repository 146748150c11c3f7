//! Guardians' finality: certificates over checkpoints, and how their votes are gathered without counting one twice.
//!
//! Where the chain's rule is [`GuardianRule::Finalize`] an aggregate is a bitmap: every multiplier is 0 or 1, and only
//! disjoint aggregates are added up. So no entry can be made to grow, and what a certificate says is how much stake
//! stands behind a checkpoint. What is signed names chain and height, so that no vote is good elsewhere.
//!
//! A guardian votes for settled checkpoints alone and for one block of a height (its signer keeps a mark). With less than a
//! third of the guardians' stake at fault no two blocks of one height get a certificate, even if more than a third of the
//! validators' stake is at fault and different nodes have settled different blocks.

mod part;
mod tally;

use theta_core::{
    amount::ThetaWei,
    bls::{Suite, aggregate_public_keys, verify as verify_bls},
    codec::rlp::{Encode, encode_list},
    hash::{Hash, U256},
    spec::GuardianRule,
    stake::GuardianPool,
    vote::GuardianVotes,
};

use crate::{
    guardian::{AggregateError, SUITE as ANY, verify_guardian_votes},
    round::Aggregate,
};

pub use self::part::GuardianPart;
pub(crate) use self::{
    part::Part,
    tally::{Groups, Sum, Tally},
};
pub(crate) use theta_core::bits::Bits;

/// How guardians sign where their votes finalize: the standard's map to the curve and its tag, so that no vote is good as a
/// proof of possession or under the reference's rules. Sums of keys and signatures are the same in both suites; what makes
/// a sum bad, a point outside the subgroup, is looked for in the sum.
pub(crate) const SUITE: Suite = Suite::Rfc9380;

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
        let key = aggregate_public_keys(ANY, keys.into_iter().zip(votes.multipliers.iter().copied()))?;
        Ok(verify_bls(SUITE, &key, &self.message(&votes.block, &votes.pool), &votes.signature)?)
    }

    /// Whether a part is signed by the guardians it names. Costs an addition for each of them and two pairings.
    pub(crate) fn verify_part(&self, votes: &GuardianPart, pool: &Hash) -> Result<(), AggregateError> {
        let part = votes.part();
        if part.bits.count() == 0 {
            return Err(AggregateError::Empty);
        }
        let mut named = part.bits.ones().map(|index| part.first.saturating_add(index)).peekable();
        let mut keys = Vec::with_capacity(part.bits.count());
        for (index, guardian) in self.pool.with_stake().enumerate() {
            if named.next_if_eq(&index).is_some() {
                keys.push((&guardian.key, 1));
            }
        }
        if named.next().is_some() {
            return Err(AggregateError::Length);
        }
        let key = aggregate_public_keys(ANY, keys)?;
        Ok(verify_bls(SUITE, &key, &self.message(&votes.block, pool), &part.signature)?)
    }

    /// Whether the guardians of a bitmap over the whole pool make the checkpoint final.
    pub(crate) fn is_quorum(&self, cover: &Bits) -> bool {
        self.rule == GuardianRule::Finalize && is_quorum(self.pool, |index| cover.get(index))
    }

    /// Whether an aggregate that verifies makes the checkpoint final.
    pub fn is_final(&self, votes: &GuardianVotes) -> bool {
        self.rule == GuardianRule::Finalize
            && is_quorum(self.pool, |index| votes.multipliers.get(index).is_some_and(|times| *times > 0))
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
fn is_quorum(pool: &GuardianPool, has_voted: impl Fn(usize) -> bool) -> bool {
    fn sum(mut stakes: impl Iterator<Item = ThetaWei>) -> Option<U256> {
        stakes.try_fold(U256::ZERO, |sum, stake| sum.checked_add(stake.get()))
    }
    let stakes = || pool.with_stake().map(|guardian| guardian.stakes.total());
    let voted = sum(stakes().enumerate().filter(|(index, _)| has_voted(*index)).map(|(_, stake)| stake));
    let three = voted.and_then(|sum| sum.checked_mul(U256::from(3)));
    let two = sum(stakes()).and_then(|sum| sum.checked_mul(U256::from(2)));
    matches!((three, two), (Some(three), Some(two)) if three > two)
}

#[cfg(test)]
mod tests;
