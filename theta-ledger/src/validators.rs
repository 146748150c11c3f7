//! Whose votes count for which block of the chain, and how that is proven.

use std::sync::Arc;

use theta_core::{hash::Hash, spec::Pace, stake::ValidatorSet};

use crate::{
    chain::Status,
    ledger::{At, BlockInfo, LedgerReader},
    state::{StateError, keys},
};

impl LedgerReader {
    /// Nodes that prove the validators that a state gives: the candidates and, where validators have keys, those.
    pub fn prove_validators(&self, at: At) -> Result<Vec<Vec<u8>>, StateError> {
        let mut view = self.state(at)?;
        let mut proof = view.prove(keys::VALIDATORS)?;
        if self.spec().rules(view.height()).stake.validator_keys {
            let pool = view.validators()?.unwrap_or_default();
            for candidate in &pool.candidates {
                // Neighbours share most of their way.
                let nodes = view.prove(&keys::validator_key(candidate.holder))?;
                let new: Vec<_> = nodes.into_iter().filter(|node| !proof.contains(node)).collect();
                proof.extend(new);
            }
        }
        Ok(proof)
    }

    /// The validators whose votes certify a block. At the clocked pace those of the state two certificates below
    /// (`ledger.md` 7.7), at the responsive one those of the newest block that its certificate settles.
    pub fn validators_of(&self, block: Hash) -> Result<Arc<ValidatorSet>, StateError> {
        let info = self.known(block)?;
        let certified = info.block.header.certificate.block;
        let starts_here = info.status == Status::TRUSTED.0 || certified.is_zero();
        match self.pace(info.block.header.height) {
            Pace::Responsive if !starts_here => self.set_settled_by(certified),
            _ => self.set_below(block, 2),
        }
    }

    /// The validators that may propose on a block and are rewarded there: at the clocked pace those one certificate below, at
    /// the responsive one those whose votes certify its children.
    pub fn validators_after(&self, block: Hash) -> Result<Arc<ValidatorSet>, StateError> {
        match self.pace(self.known(block)?.block.header.height + 1) {
            Pace::Responsive => self.set_settled_by(block),
            Pace::Clocked => self.set_below(block, 1),
        }
    }

    fn pace(&self, height: u64) -> Pace {
        self.spec().rules(height).consensus.pace
    }

    fn known(&self, block: Hash) -> Result<BlockInfo, StateError> {
        self.block(At::Block(block))?.ok_or_else(|| StateError::UnknownBlock(block.to_string()))
    }

    /// A certified block settles its parent if no epoch lies between them; else whatever the block below settles is newest.
    fn set_settled_by(&self, mut block: Hash) -> Result<Arc<ValidatorSet>, StateError> {
        loop {
            let info = self.known(block)?;
            let header = &info.block.header;
            if info.status == Status::TRUSTED.0 || header.certificate.block.is_zero() {
                break;
            }
            let parent = self.known(header.parent)?;
            block = header.parent;
            if parent.block.header.epoch + 1 == header.epoch {
                break;
            }
        }
        Ok(self.post_state(At::Block(block))?.validators)
    }

    fn set_below(&self, mut block: Hash, steps: usize) -> Result<Arc<ValidatorSet>, StateError> {
        for _ in 0..steps {
            let info = self.known(block)?;
            let certified = info.block.header.certificate.block;
            if info.status == Status::TRUSTED.0 || certified.is_zero() {
                break;
            }
            block = certified;
        }
        Ok(self.post_state(At::Block(block))?.validators)
    }
}
