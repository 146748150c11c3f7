//! A light client: follows settled blocks and changes of validators by votes alone, and believes what is proven to it.
//!
//! It starts from a header that it is given as trusted, with the validators of that block's state, and takes one
//! [`Update`] at a time: a block, the child that settles it, and the votes of the trusted validators on that child. No block
//! in between is needed. Where validators change, the update for the block that changes them has to be among those taken,
//! with a proof of the new ones: the old validators vote on that block's child and on nothing above it
//! (`spec/consensus.md` 3.4 and 12), so whoever leaves it out has no votes to show for what follows.
//!
//! What it believes is that two thirds of the validators it trusts were honest while they were validators. Who starts from
//! an old header should have a recent one from somebody else, since keys of former validators may have been sold.
//!
//! ```
//! use std::sync::Arc;
//! use theta_consensus::light::{LightClient, LightError};
//! use theta_core::{block::Header, spec::ChainSpec, stake::ValidatorSet};
//!
//! let spec = Arc::new(ChainSpec::devnet());
//! let genesis = Header { chain: spec.chain.clone(), state_root: [7; 32].into(), ..Header::zero() };
//! let client = LightClient::new(spec, genesis, ValidatorSet::default());
//! // Nothing is believed without its proof.
//! assert!(matches!(client.verify(b"ls/vcp", &[]), Err(LightError::Proof(_))));
//! ```

use std::sync::Arc;

use theta_core::{
    block::{CommitCertificate, Header},
    codec::rlp::{Decode, DecodeError},
    hash::Hash,
    spec::{CertificateRule, ChainSpec, Pace},
    stake::{GuardianPool, ValidatorKey, ValidatorPool, ValidatorSet, validator_key},
    trie::{self, ProofError},
    vote::GuardianVotes,
};

use crate::{
    certificate::{self, CertificateError, Shares},
    finality::Checkpoint,
    guardian::AggregateError,
    proposer::{check_absent, check_seed, scheduled},
    vote::settles_parent,
};

/// Key of the validator candidates in the state (`ledger/state/keys.go`).
pub const VALIDATORS_KEY: &[u8] = b"ls/vcp";
/// Key of the guardians in the state.
pub const GUARDIANS_KEY: &[u8] = b"ls/gcp";
/// A pool in a proof is never larger.
const MAX_POOL_BYTES: usize = 16 * 1024 * 1024;

/// A settled block and why it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// The block.
    pub block: Header,
    /// Its child, which carries the block's certificate.
    pub child: Header,
    /// Votes on the child.
    pub certificate: CommitCertificate,
    /// Proof of the validator candidates in the block's state, and of their keys where validators have keys: needed where they
    /// differ from those trusted so far.
    pub validators: Option<Vec<Vec<u8>>>,
}

/// Why a light client does not believe something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LightError {
    /// Of another chain, or with fields that headers of this height have not.
    #[error("header is none of this chain")]
    Chain,
    /// Not above what is trusted already.
    #[error("block {height} is not above the trusted block {trusted}")]
    Old {
        /// Of the block.
        height: u64,
        /// Of the newest trusted block.
        trusted: u64,
    },
    /// The second header is not a child that settles the first.
    #[error("child does not settle the block")]
    Link,
    /// The votes certify nothing.
    #[error("votes on the child: {0}")]
    Certificate(#[from] CertificateError),
    /// The certificate is of another block than the child.
    #[error("votes are not on the child")]
    OtherBlock,
    /// The child is not its proposer's to make.
    #[error("the child's proposer is not the one that the block's seed draws")]
    Proposer,
    /// The child's seed is not what its proposer makes of the block's.
    #[error("the child's seed does not follow from the block's")]
    Seed,
    /// The child names other absent validators than the block does.
    #[error("the child's absent validators do not follow from the block's")]
    Absent,
    /// A proof does not show what it should.
    #[error("state proof: {0}")]
    Proof(#[from] ProofError),
    /// A proven value is missing where there has to be one.
    #[error("the state has no such pool")]
    NoPool,
    /// A proven value is malformed.
    #[error("proven pool is malformed: {0}")]
    Pool(DecodeError),
    /// The proven validators are none.
    #[error("the proven validators have no stake")]
    NoValidators,
    /// Guardians' votes that make nothing final.
    #[error("guardian votes: {0}")]
    Guardians(#[from] AggregateError),
    /// Two different blocks of one height, both settled: more than a third of the validators' stake is at fault. Whoever
    /// sees this should stop and tell.
    #[error("two blocks of height {0} are settled")]
    Fork(u64),
}

/// Follows a chain without its blocks.
#[derive(Clone, Debug)]
pub struct LightClient {
    spec: Arc<ChainSpec>,
    trusted: Header,
    hash: Hash,
    validators: ValidatorSet,
    final_checkpoint: Option<(Hash, u64)>,
}

impl LightClient {
    /// Starts from a header taken on trust and the validators of the state after it.
    pub fn new(spec: Arc<ChainSpec>, trusted: Header, validators: ValidatorSet) -> Self {
        let hash = trusted.hash();
        Self { spec, trusted, hash, validators, final_checkpoint: None }
    }

    /// Starts from a header taken on trust; the validators are proven from its state.
    pub fn with_proof(
        spec: Arc<ChainSpec>,
        trusted: Header,
        validators: &[Vec<u8>],
    ) -> Result<Self, LightError> {
        let validators = proven_validators(&spec, &trusted, validators)?;
        Ok(Self::new(spec, trusted, validators))
    }

    /// The newest trusted header.
    pub const fn trusted(&self) -> &Header {
        &self.trusted
    }

    /// The validators whose votes are believed next.
    pub const fn validators(&self) -> &ValidatorSet {
        &self.validators
    }

    /// Hash and height of the newest checkpoint that guardians have made final.
    pub const fn final_checkpoint(&self) -> Option<(Hash, u64)> {
        self.final_checkpoint
    }

    /// Takes a settled block in. Costs a key recovery for each vote. After an error everything is as before.
    pub fn advance(&mut self, update: &Update) -> Result<&Header, LightError> {
        let Update { block, child, certificate, validators } = update;
        for header in [block, child] {
            let rules = self.spec.rules(header.height);
            if header.chain != self.spec.chain || !header.fits(rules) {
                return Err(LightError::Chain);
            }
        }
        let (hash, trusted) = (block.hash(), self.trusted.height);
        if block.height < trusted || hash == self.hash {
            return Err(LightError::Old { height: block.height, trusted });
        }
        let rules = self.spec.rules(child.height);
        let linked = child.parent == hash
            && block.height.checked_add(1) == Some(child.height)
            && child.epoch > block.epoch
            && settles_parent(child, block, rules.consensus.pace);
        if !linked {
            return Err(LightError::Link);
        }
        if certificate.block != child.hash() {
            return Err(LightError::OtherBlock);
        }
        if certificate.votes.aggregate().is_some()
            != (rules.consensus.certificate == CertificateRule::Aggregate)
        {
            return Err(CertificateError::Form.into());
        }
        certificate::verify(certificate, child, &self.validators, rules.tx.low_s)?;
        self.check_draw(block, child)?;
        if block.height == trusted {
            return Err(LightError::Fork(trusted));
        }
        if let Some(proof) = validators {
            self.validators = proven_validators(&self.spec, block, proof)?;
        }
        self.trusted = block.clone();
        self.hash = hash;
        Ok(&self.trusted)
    }

    /// Whether the child was its proposer's to make, where a seed says whose: the same validators vote on it and propose it.
    /// What came between the trusted block and this one is not here, so the block's own seed is taken as its voters took it.
    fn check_draw(&self, block: &Header, child: &Header) -> Result<(), LightError> {
        if child.seed.is_none() {
            return Ok(());
        }
        if scheduled(&self.spec, block, &self.validators, child.epoch) != Some(child.proposer) {
            return Err(LightError::Proposer);
        }
        check_absent(&self.spec, child, block, &self.validators, None).map_err(|_| LightError::Absent)?;
        check_seed(child, block, &self.validators, Shares::default()).map_err(|_| LightError::Seed)
    }

    /// What the nodes of a proof show about a key of the trusted block's state: its value, or that it has none.
    pub fn verify(&self, key: &[u8], proof: &[Vec<u8>]) -> Result<Option<Vec<u8>>, LightError> {
        Ok(trie::verify(&self.trusted.state_root, key, proof)?)
    }

    /// Takes the guardians' certificate of the trusted block in, with a proof of the guardians in its state.
    pub fn finalize(&mut self, votes: &GuardianVotes, guardians: &[Vec<u8>]) -> Result<(), LightError> {
        if votes.block != self.hash {
            return Err(LightError::OtherBlock);
        }
        let value = self.verify(GUARDIANS_KEY, guardians)?.ok_or(LightError::NoPool)?;
        let pool = GuardianPool::from_rlp(&value, MAX_POOL_BYTES).map_err(LightError::Pool)?;
        let height = self.trusted.height;
        let rule = self.spec.rules(height).consensus.guardians;
        Checkpoint { chain: &self.spec.chain, height, rule, pool: &pool }.certifies(votes)?;
        self.final_checkpoint = Some((self.hash, height));
        Ok(())
    }

    /// How blocks of the next height are ranked and settled.
    pub fn pace(&self) -> Pace {
        self.spec.rules(self.trusted.height.saturating_add(1)).consensus.pace
    }
}

fn proven_validators(
    spec: &ChainSpec,
    header: &Header,
    proof: &[Vec<u8>],
) -> Result<ValidatorSet, LightError> {
    let root = &header.state_root;
    let value = trie::verify(root, VALIDATORS_KEY, proof)?.ok_or(LightError::NoPool)?;
    let pool = ValidatorPool::from_rlp(&value, MAX_POOL_BYTES).map_err(LightError::Pool)?;
    let set = if spec.rules(header.height).stake.validator_keys {
        ValidatorSet::keyed(&pool, |holder| {
            let value = trie::verify(root, &validator_key(holder), proof)?;
            let key = value.map(|value| ValidatorKey::from_rlp(&value, MAX_POOL_BYTES)).transpose();
            Ok::<_, LightError>(key.map_err(LightError::Pool)?.map(|key| key.key))
        })?
    } else {
        ValidatorSet::of_pool(&pool)
    };
    // Nobody could ever certify anything for such a set.
    if set.total_stake().is_zero() { Err(LightError::NoValidators) } else { Ok(set) }
}

#[cfg(test)]
mod tests;
