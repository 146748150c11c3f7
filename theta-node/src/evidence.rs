//! Validators that contradicted themselves: the proofs are kept on disk, and put into the blocks that this node builds until
//! the chain has punished the offender or the proof is of no use any more.
//!
//! Every honest validator hears of a proof and keeps it, so the next one of them that proposes brings it. Nobody's
//! mempool has to take it, and nothing is lost if the node stops in between.

use std::{path::Path, sync::Arc};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use theta_core::{
    codec::rlp::{Decode, Encode},
    evidence::Evidence,
    journal::{FileDisk, Journal, Record},
    sign::Signer,
    spec::ChainSpec,
};
use theta_ledger::{
    state::StateView,
    tx::{RawTx, Slash, Unsigned},
};

/// Proofs that are kept. The engine reports each validator once, so a hundred fill it only after many starts.
const MOST: usize = 256;
/// Proofs in one block.
const AT_ONCE: usize = 4;

/// A proof as its wire bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Proof {
    rlp: Vec<u8>,
}

impl Record for Proof {
    const VERSION: u8 = 1;
}

/// The proofs that this node knows of.
pub(crate) struct Dossier {
    log: Journal<Proof>,
    proofs: Vec<Evidence>,
}

impl Dossier {
    /// Opens the file in a data folder.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("evidence.log");
        let disk = FileDisk::open(&path).with_context(|| format!("{} cannot be opened", path.display()))?;
        let (log, records): (_, Vec<Proof>) = Journal::open(disk)?;
        let read = |proof: Proof| Evidence::from_rlp(&proof.rlp, proof.rlp.len());
        let proofs = records.into_iter().map(read).collect::<Result<_, _>>();
        Ok(Self { log, proofs: proofs.with_context(|| format!("{} is damaged", path.display()))? })
    }

    /// Keeps a proof, durably.
    pub(crate) fn add(&mut self, evidence: Evidence) -> Result<()> {
        if self.proofs.len() >= MOST || self.proofs.contains(&evidence) {
            return Ok(());
        }
        self.log.append(&Proof { rlp: evidence.to_rlp() }).context("evidence could not be stored")?;
        self.proofs.push(evidence);
        Ok(())
    }

    /// The charges that a block of this height on this state may carry, signed by its proposer.
    pub(crate) fn charges(
        &self,
        view: &mut StateView,
        spec: &ChainSpec,
        height: u64,
        proposer: &dyn Signer,
    ) -> Result<Vec<Arc<RawTx>>> {
        let rules = &spec.rules(height).stake;
        let mut charges = Vec::new();
        if self.proofs.is_empty() || !rules.slash_equivocation {
            return Ok(charges);
        }
        let pool = view.validators()?.unwrap_or_default();
        let mut sequence = view.load_or_new(proposer.address())?.sequence;
        for evidence in &self.proofs {
            let offender = evidence.offender();
            let past = view.punished(offender)?.is_some_and(|punished| evidence.height() <= punished)
                || evidence.height().saturating_add(rules.lock_blocks) < height;
            if past || pool.find(offender).is_none() || charges.len() == AT_ONCE {
                continue;
            }
            sequence = sequence.wrapping_add(1);
            let charge = Slash::of_equivocation(proposer.address(), sequence, evidence);
            charges.push(Arc::new(Unsigned::new(spec.chain.clone(), charge).sign(proposer)?));
        }
        Ok(charges)
    }
}

#[cfg(test)]
mod tests {
    use theta_core::{amount::ThetaWei, block::Header, context::Finality, sign::SecretKey};
    use theta_ledger::{
        genesis::GenesisBuilder,
        ledger::{At, Ledger},
    };

    use super::*;
    use crate::vote_key::vote_key;

    fn key(byte: u8) -> SecretKey {
        SecretKey::from_bytes(&[byte; 32]).expect("in range")
    }

    fn two_blocks(spec: &ChainSpec, by: u8) -> Evidence {
        Evidence::Proposals(Box::new([1_u32, 2].map(|time| {
            let (chain, proposer) = (spec.chain.clone(), key(by).address());
            let mut header =
                Header { chain, epoch: 4, height: 1, timestamp: time.into(), proposer, ..Header::zero() };
            header.sign(&key(by)).expect("signs");
            header
        })))
    }

    #[test]
    fn a_kept_proof_is_brought_until_the_offender_is_punished() {
        let spec = ChainSpec::devnet();
        let stake = |builder: GenesisBuilder, byte: u8| {
            let (address, secret) = (key(byte).address(), vote_key(&key(byte)).expect("derived"));
            builder.validator_with_key(address, address, ThetaWei::whole(5_000_000), &secret)
        };
        let genesis = [8, 9].into_iter().fold(GenesisBuilder::new(&spec, 1_700_000_000), stake).build();
        let mut ledger = Ledger::builder(spec.clone()).open(&genesis).expect("a genesis");
        let reader = ledger.reader();
        let folder = tempfile::tempdir().expect("a folder");
        let mut dossier = Dossier::open(folder.path()).expect("empty");
        dossier.add(two_blocks(&spec, 8)).expect("kept");
        dossier.add(two_blocks(&spec, 8)).expect("known");
        drop(dossier);
        let dossier = Dossier::open(folder.path()).expect("kept");
        assert_eq!(dossier.proofs, [two_blocks(&spec, 8)]);
        for charged in [1, 0] {
            let (_, mut context) = reader.next_block(At::Settled).expect("a chain");
            context.proposer = key(9).address();
            let mut view = reader.state(At::Settled).expect("a state");
            let charges = dossier.charges(&mut view, &spec, context.height(), &key(9)).expect("reads");
            assert_eq!(charges.len(), charged);
            let (body, left_out) = ledger.build_block(&context, &charges, &key(9)).expect("builds");
            assert!(left_out.is_empty(), "{left_out:?}");
            let mut block = context.block(spec.rules(context.height()).header, body);
            block.header.sign(&key(9)).expect("signs");
            let hash = block.header.hash();
            ledger.apply_block(&context, hash, Arc::new(block)).expect("valid");
            ledger.reached(Finality::Settled, &hash).expect("settles");
        }
        let left = reader.post_state(At::Settled).expect("a state").validators;
        assert_eq!(left.as_slice().iter().map(|one| one.address).collect::<Vec<_>>(), [key(9).address()]);
        // Where the chain punishes nobody, nothing is brought.
        let old = ChainSpec::privatenet();
        let mut view = reader.state(At::Settled).expect("a state");
        assert!(dossier.charges(&mut view, &old, 1, &key(9)).expect("reads").is_empty());
    }
}
