//! The other proof that kind 1 may carry: a validator that contradicted itself. The reference has no punishment for that
//! (`spec/consensus.md` 11); ours burns what is staked with the offender where `slash_equivocation` holds.
//!
//! Anybody may bring the proof, and nobody gains by it: whoever got a part could be the offender itself under another name.
//! All stakes with the validator go, those being withdrawn too, so that a withdrawal saves nobody; who stakes with a node
//! answers for it. A contradiction may be punished while the stakes that stood behind it cannot have been returned, that is
//! for as many blocks as a withdrawal takes. What was punished is remembered by height in the state: no proof of an
//! earlier contradiction is good any more, whoever made several of them and stakes again later.

use std::sync::Arc;

use theta_core::{
    amount::Coins,
    codec::rlp::{Decode, Encode},
    evidence::{Evidence, EvidenceError},
    hash::Address,
};

use super::{Body, Scope, Slash, TxCoins, TxError, TxInput};
use crate::{
    staking,
    state::{StateView, keys},
    vm::VmOutcome,
};

/// A slash that names this fund, which nobody has, is about a contradiction.
const NO_FUND: u64 = 0;
/// A contradicted block is never this far above the block that punishes it, so that no offender makes itself immune for long
/// by having a contradiction about a distant height punished while it has little at stake.
const AHEAD: u64 = 100;

/// Why a validator is not punished for a contradiction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EquivocationError {
    /// The proof proves nothing.
    #[error("invalid evidence: {0}")]
    Evidence(#[from] EvidenceError),
    /// Of another validator than the one that the transaction names.
    #[error("the evidence is against {0}: name it as the slashed address")]
    Offender(Address),
    /// Nothing is staked with the offender.
    #[error("nothing is staked with validator {0}, so there is nothing to burn")]
    NoStake(Address),
    /// It was punished for this contradiction or a later one.
    #[error("what this validator said up to height {0} has been punished already")]
    Punished(u64),
    /// The stakes that stood behind the contradiction may have been returned.
    #[error("evidence of height {height} is stale: only heights from {oldest} on are punished")]
    Stale {
        /// The larger height of the contradicting blocks.
        height: u64,
        /// The lowest that is still punished.
        oldest: u64,
    },
    /// Of a height that the chain is far from.
    #[error("evidence of height {height} is ahead of the chain: bring it again from height {from} on")]
    Ahead {
        /// The larger height of the contradicting blocks.
        height: u64,
        /// The first block that may punish it.
        from: u64,
    },
    /// The chain would have no validator left.
    #[error("the last validator is not punished: nobody would be left to make blocks")]
    Last,
}

impl Slash {
    /// A proof that a validator contradicted itself, brought by whoever signs it.
    pub fn of_equivocation(bringer: Address, sequence: u64, evidence: &Evidence) -> Self {
        Self {
            proposer: TxInput::new(bringer, Coins::ZERO, sequence),
            slashed_address: evidence.offender(),
            reserve_sequence: NO_FUND,
            slash_proof: evidence.to_rlp(),
        }
    }

    /// Whether it is about a validator and not about a payer.
    pub(super) const fn is_of_equivocation(&self) -> bool {
        self.reserve_sequence == NO_FUND
    }

    fn evidence(&self) -> Result<Evidence, TxError> {
        Ok(Evidence::from_rlp(&self.slash_proof, self.slash_proof.len())?)
    }

    pub(super) fn check_equivocation(&self, scope: &Scope<'_>, view: &mut StateView) -> Result<(), TxError> {
        // A validator may not have been paid yet; it needs no account to bring a proof.
        let bringer = view.load_or_new(self.proposer.address)?;
        if self.proposer.coins != TxCoins::default() {
            return Err(TxError::Overspending("it carries no coins"));
        }
        scope.check_input(&bringer, &self.proposer, &self.signed_part())?;
        let evidence = self.evidence()?;
        let (offender, height) = (evidence.offender(), evidence.height());
        if offender != self.slashed_address {
            return Err(EquivocationError::Offender(offender).into());
        }
        let punished = view.punished(offender)?;
        if let Some(punished) = punished.filter(|punished| height <= *punished) {
            return Err(EquivocationError::Punished(punished).into());
        }
        let oldest = scope.height().saturating_sub(scope.rules.stake.lock_blocks);
        if height < oldest {
            return Err(EquivocationError::Stale { height, oldest }.into());
        }
        if height > scope.height().saturating_add(AHEAD) {
            return Err(EquivocationError::Ahead { height, from: height.saturating_sub(AHEAD) }.into());
        }
        let mut pool = view.validators()?.unwrap_or_default();
        if Arc::make_mut(&mut pool).burn(offender).is_none() {
            return Err(EquivocationError::NoStake(offender).into());
        }
        if staking::validators_of(view, &pool, scope.rules.stake.validator_keys)?.as_slice().is_empty() {
            return Err(EquivocationError::Last.into());
        }
        // Last, for it costs most.
        let right =
            |signature: &_, digest: &_, address| scope.signatures.recover(signature, digest) == Ok(address);
        Ok(evidence.verify_by(scope.spec, &right).map_err(EquivocationError::from)?)
    }

    pub(super) fn apply_equivocation(
        &self,
        scope: &Scope<'_>,
        view: &mut StateView,
    ) -> Result<Option<VmOutcome>, TxError> {
        let mut bringer = view.load_or_new(self.proposer.address)?;
        bringer.sequence = bringer.sequence.wrapping_add(1);
        view.store(bringer);
        let evidence = self.evidence()?;
        let mut pool = view.validators()?.unwrap_or_default();
        Arc::make_mut(&mut pool)
            .burn(self.slashed_address)
            .ok_or(EquivocationError::NoStake(self.slashed_address))?;
        view.set_validators(pool);
        view.add_stake_height(scope.height())?;
        view.set_record(
            keys::punished(self.slashed_address),
            Some(evidence.height().max(scope.height()).to_rlp()),
        );
        Ok(None)
    }
}
