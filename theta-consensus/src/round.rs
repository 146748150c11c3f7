//! Votes of one upper level for one checkpoint, merged and handed on in rounds (`spec/consensus.md` 9 and 10).
//!
//! A node sends what it had when the round began and takes in what comes for the next, so votes spread one hop a round.
//! Whatever comes has been verified; still no peer can make a node hold more than two aggregates, or do work for one
//! that adds no signer.

use theta_core::bls::BlsError;

/// An aggregate whose largest multiplier is above this is not taken from a peer, and none is made by merging. Honest
/// networks stay below 2,000; without a bound one entry near 2^32 would end all merging (`spec/consensus.md` W15).
pub(crate) const MAX_MULTIPLIER: u32 = 1 << 16;

/// Why two aggregates cannot be merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MergeError {
    /// They vote for different blocks or come from different pools.
    #[error("votes are for different blocks or from different pools")]
    Different,
    /// A multiplier would not fit 32 bits.
    #[error("a multiplier is too large")]
    Overflow,
    /// A signature is no point.
    #[error("a signature cannot be added: {0}")]
    Point(#[from] BlsError),
}

/// Aggregated votes of a level.
pub(crate) trait Aggregate: Clone {
    /// How many voters have signed.
    fn signers(&self) -> usize;
    /// Whether the other holds a signer that is missing here.
    fn gains_from(&self, other: &Self) -> bool;
    /// Both together.
    fn merged(&self, other: &Self) -> Result<Self, MergeError>;
    /// The largest multiplier.
    fn largest(&self) -> u32;
}

/// What a node has gathered.
#[derive(Clone, Debug)]
pub(crate) struct Round<V> {
    number: u32,
    last: u32,
    current: Option<V>,
    next: Option<V>,
}

impl<V: Aggregate> Round<V> {
    /// The first of `last` rounds, with nothing gathered yet.
    pub(crate) const fn new(last: u32) -> Self {
        Self { number: 1, last, current: None, next: None }
    }

    /// Everything gathered so far.
    pub(crate) const fn best(&self) -> Option<&V> {
        self.next.as_ref()
    }

    /// Whether a peer's aggregate is worth being verified.
    pub(crate) fn wants(&self, votes: &V) -> bool {
        votes.signers() > 0
            && votes.largest() <= MAX_MULTIPLIER
            && self.next.as_ref().is_none_or(|next| next.gains_from(votes))
    }

    /// Takes a verified aggregate in; says whether that added a signer.
    pub(crate) fn add(&mut self, votes: V) -> bool {
        if !self.wants(&votes) {
            return false;
        }
        let Some(next) = &self.next else {
            self.next = Some(votes);
            return true;
        };
        let better = match next.merged(&votes) {
            Ok(merged) if merged.largest() <= MAX_MULTIPLIER => merged,
            // They share too much weight to be added up; the one with more signers stays.
            _ if votes.signers() > next.signers() => votes,
            _ => return false,
        };
        self.next = Some(better);
        true
    }

    /// This node's own vote: it leaves with the first tick.
    pub(crate) fn add_own(&mut self, votes: V) -> bool {
        let added = self.add(votes);
        if self.number == 1 && added {
            self.current.clone_from(&self.next);
        }
        added
    }

    /// A round is over: gives what is to be sent. After the last one the same is sent again and again.
    pub(crate) fn tick(&mut self) -> Option<V> {
        let sent = self.current.clone();
        if self.number < self.last {
            self.number += 1;
            self.current.clone_from(&self.next);
        }
        sent
    }
}
