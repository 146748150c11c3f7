//! Votes of some guardians in one signature, as they travel where guardians finalize.

use theta_core::{bls, hash::Hash, rlp_list, vote::GuardianVotes};

use super::{Bits, tally::Sum};

/// Votes of guardians of a run of the pool, each counted once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part<S> {
    /// Where the run begins among the guardians with stake.
    pub(crate) first: usize,
    /// Who of the run has signed.
    pub(crate) bits: Bits,
    pub(crate) signature: S,
}

impl<S: Sum> Part<S> {
    /// One guardian's own vote.
    pub(crate) fn single(index: usize, signature: S) -> Self {
        let mut bits = Bits::new(1);
        bits.set(0);
        Self { first: index, bits, signature }
    }

    /// Both together, if they are of one run and nobody is in both.
    pub(crate) fn joined(&self, other: &Self) -> Option<Self> {
        if self.first != other.first || !self.bits.is_disjoint(&other.bits) {
            return None;
        }
        let mut bits = self.bits.clone();
        bits.join(0, &other.bits);
        Some(Self { first: self.first, bits, signature: S::sum(&[&self.signature, &other.signature])? })
    }
}

/// Votes of some guardians for a checkpoint: single ones, those of a group, or as many as a node has gathered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardianPart {
    /// The checkpoint voted for.
    pub(crate) block: Hash,
    first: u32,
    bits: Bits,
    signature: bls::Signature,
}

rlp_list!(GuardianPart { block, first, bits, signature });

impl GuardianPart {
    pub(crate) fn new(block: Hash, part: Part<bls::Signature>) -> Self {
        let first = u32::try_from(part.first).unwrap_or(u32::MAX);
        Self { block, first, bits: part.bits, signature: part.signature }
    }

    pub(crate) fn part(&self) -> Part<bls::Signature> {
        Part { first: self.first as usize, bits: self.bits.clone(), signature: self.signature }
    }

    /// How many guardians have signed.
    pub fn signers(&self) -> usize {
        self.bits.count()
    }

    /// Whether the run is the whole pool.
    pub(crate) const fn first_to_last(&self, guardians: usize) -> bool {
        self.first == 0 && self.bits.len() == guardians
    }

    /// Whether it is one guardian's own vote.
    pub(crate) fn is_single(&self) -> bool {
        self.bits.len() == 1
    }

    /// The form that headers have, over the whole pool.
    pub(crate) fn into_votes(self, pool: Hash, guardians: usize) -> GuardianVotes {
        let mut multipliers = vec![0; guardians];
        for index in self.bits.ones() {
            if let Some(entry) = multipliers.get_mut((self.first as usize).saturating_add(index)) {
                *entry = 1;
            }
        }
        GuardianVotes { block: self.block, pool, multipliers, signature: self.signature }
    }
}
