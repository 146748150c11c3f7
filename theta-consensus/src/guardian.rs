//! Guardians' votes for checkpoints as the reference has them (`spec/consensus.md` 2.4 and 9, `core/guardian.go`).
//!
//! One aggregate holds a multiplier for each guardian of the pool that has stake: how often its signature was added in.
//! A guardian may be in it several times, since aggregates that overlap are merged too.

use theta_core::{
    bls::{
        BlsError, PublicKey, SecretKey, Suite, aggregate_public_keys, aggregate_signatures,
        verify as verify_bls,
    },
    hash::Hash,
    stake::GuardianPool,
    vote::GuardianVotes,
};

use crate::round::{Aggregate, MergeError};

/// Rounds in which a checkpoint's votes spread.
pub(crate) const ROUNDS: u32 = 10;
/// The reference's map to the curve: of votes that only decide on rewards. Keys enter the pool by it on every chain, and sums
/// need no map.
pub(crate) const SUITE: Suite = Suite::Theta2020;

/// Why aggregated votes of an upper level are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AggregateError {
    /// In a header whose height is no checkpoint.
    #[error("votes of the upper levels stand in a block that is no checkpoint")]
    Place,
    /// For a block that the header does not descend from.
    #[error("the voted block is no ancestor")]
    Ancestor,
    /// From another pool than that of the voted checkpoint.
    #[error("votes name another guardian pool")]
    Pool,
    /// Not one multiplier for each voter.
    #[error("votes have not one multiplier for each voter")]
    Length,
    /// A voter counted more than once, where votes finalize.
    #[error("a voter is counted more than once")]
    Repeated,
    /// Two thirds of the guardians' stake or less.
    #[error("votes are no quorum of the guardians")]
    NoQuorum,
    /// No voter, where one is needed.
    #[error("votes without a voter")]
    Empty,
    /// Voters that are not in ascending order, or twice there.
    #[error("voters are not in ascending order")]
    Order,
    /// A voter that is not in the pool or was not sampled for this checkpoint.
    #[error("a voter was not sampled for this checkpoint")]
    Unsampled,
    /// The signature is not that of these voters.
    #[error("aggregated signature is wrong: {0}")]
    Signature(#[from] BlsError),
}

/// Whether an aggregate is signed by the guardians it names.
///
/// One with all multipliers zero and the identity as signature is: headers that carry it are valid on the reference's
/// network. Costs an addition of keys for each guardian and two pairings.
pub fn verify_guardian_votes(votes: &GuardianVotes, pool: &GuardianPool) -> Result<(), AggregateError> {
    if votes.pool != pool.hash() {
        return Err(AggregateError::Pool);
    }
    let keys: Vec<&PublicKey> = pool.with_stake().map(|guardian| &guardian.key).collect();
    if votes.multipliers.len() != keys.len() {
        return Err(AggregateError::Length);
    }
    let key = aggregate_public_keys(SUITE, keys.into_iter().zip(votes.multipliers.iter().copied()))?;
    let message = GuardianVotes::message(&votes.block, &votes.pool);
    Ok(verify_bls(SUITE, &key, &message, &votes.signature)?)
}

/// Adds two aggregates up; `None` if the second holds no guardian that the first lacks.
pub fn merge_guardian_votes(
    a: &GuardianVotes,
    b: &GuardianVotes,
) -> Result<Option<GuardianVotes>, MergeError> {
    if a.block != b.block || a.pool != b.pool || a.multipliers.len() != b.multipliers.len() {
        return Err(MergeError::Different);
    }
    if !a.gains_from(b) {
        return Ok(None);
    }
    a.merged(b).map(Some)
}

/// A vote of the guardian at `index` of `size` guardians with stake, over a message by a suite.
pub(crate) fn sign(
    key: &SecretKey,
    (suite, message): (Suite, &[u8]),
    (block, pool): (Hash, Hash),
    index: usize,
    size: usize,
) -> GuardianVotes {
    let mut multipliers = vec![0; size];
    if let Some(own) = multipliers.get_mut(index) {
        *own = 1;
    }
    GuardianVotes { block, pool, multipliers, signature: key.sign(suite, message) }
}

impl Aggregate for GuardianVotes {
    fn signers(&self) -> usize {
        self.multipliers.iter().filter(|multiplier| **multiplier > 0).count()
    }

    fn gains_from(&self, other: &Self) -> bool {
        self.multipliers.iter().zip(&other.multipliers).any(|(own, other)| *own == 0 && *other > 0)
    }

    fn merged(&self, other: &Self) -> Result<Self, MergeError> {
        if self.block != other.block
            || self.pool != other.pool
            || self.multipliers.len() != other.multipliers.len()
        {
            return Err(MergeError::Different);
        }
        let sums = self.multipliers.iter().zip(&other.multipliers);
        let multipliers = sums.map(|(a, b)| a.checked_add(*b)).collect::<Option<Vec<u32>>>();
        let signature = aggregate_signatures(SUITE, [(&self.signature, 1), (&other.signature, 1)])?;
        Ok(Self {
            block: self.block,
            pool: self.pool,
            multipliers: multipliers.ok_or(MergeError::Overflow)?,
            signature,
        })
    }

    fn largest(&self) -> u32 {
        self.multipliers.iter().copied().max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
