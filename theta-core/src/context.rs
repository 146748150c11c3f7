//! The two values that join consensus and ledger, which know nothing of each other.

use std::sync::Arc;

use num_bigint::BigUint;

use crate::{
    block::{Block, Bloom, Extension, Header, transactions_root},
    hash::{Address, Hash},
    spec::HeaderRules,
    stake::{Pools, ValidatorSet},
    vote::{EliteVotes, GuardianVotes},
};

/// All that execution of a block may depend on besides its parent's state. Made by consensus.
#[derive(Clone, Debug)]
pub struct BlockContext {
    /// The block below.
    pub parent: Arc<Header>,
    /// Hash of the block below.
    pub parent_hash: Hash,
    /// Epoch of the block.
    pub epoch: u64,
    /// Seconds since 1970 of the block itself; contracts see the parent's under today's mainnet rules.
    pub timestamp: BigUint,
    /// Who proposes the block.
    pub proposer: Address,
    /// The validators that may propose and are rewarded: the next set after the parent.
    pub validators: Arc<ValidatorSet>,
    /// Guardian votes that the block carries.
    pub guardian_votes: Option<GuardianVotes>,
    /// Elite edge votes that the block carries.
    pub elite_votes: Option<EliteVotes>,
    /// State root whose pools those votes reward: that of the block the guardians voted for.
    pub voted_state: Option<Hash>,
    /// Whether stake transactions have to wait (`consensus.md` 3.5).
    pub freeze_stakes: bool,
}

impl BlockContext {
    /// Of a block on top of `parent`: in the next epoch, with the parent's time and proposer, without votes of the upper
    /// levels.
    pub fn on(parent_hash: Hash, parent: Arc<Header>, validators: Arc<ValidatorSet>) -> Self {
        Self {
            parent_hash,
            epoch: parent.epoch.saturating_add(1),
            timestamp: parent.timestamp.clone(),
            proposer: parent.proposer,
            parent,
            validators,
            guardian_votes: None,
            elite_votes: None,
            voted_state: None,
            freeze_stakes: false,
        }
    }

    /// The block that a body makes here. It is not signed, and certifies nothing.
    pub fn block(&self, rules: HeaderRules, body: Body) -> Block {
        let (guardians, elite) = (self.guardian_votes.clone(), self.elite_votes.clone());
        let header = Header {
            chain: self.parent.chain.clone(),
            epoch: self.epoch,
            height: self.height(),
            parent: self.parent_hash,
            transactions_root: transactions_root(&body.transactions),
            receipts_root: body.receipts_root,
            bloom: body.bloom,
            state_root: body.state_root,
            timestamp: self.timestamp.clone(),
            proposer: self.proposer,
            extension: match rules {
                HeaderRules::Twelve => Extension::None,
                HeaderRules::Guardians => Extension::Guardians(guardians),
                HeaderRules::GuardiansAndElite => Extension::GuardiansAndElite(guardians, elite),
            },
            ..Header::zero()
        };
        Block { header, transactions: body.transactions }
    }

    /// Height of the block.
    pub fn height(&self) -> u64 {
        self.parent.height + 1
    }
}

/// All that consensus may know about the state after a block. Made by the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostState {
    /// State root.
    pub root: Hash,
    /// The validators that the pool in this state gives.
    pub validators: Arc<ValidatorSet>,
    /// Whether the block holds a transaction that changes validators, as the set-change rule counts it.
    pub changes_validators: bool,
    /// Who may vote for the block on the upper levels, if it is a checkpoint and its header's fork has such votes.
    pub pools: Option<Arc<Pools>>,
}

impl PostState {
    /// A state that is no checkpoint's and changes no validators.
    pub const fn new(root: Hash, validators: Arc<ValidatorSet>) -> Self {
        Self { root, validators, changes_validators: false, pools: None }
    }
}

/// What a proposer needs from the ledger to complete a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// Raw transactions in order, the coinbase first.
    pub transactions: Vec<Vec<u8>>,
    /// State root after them.
    pub state_root: Hash,
    /// Root over their receipts, and bloom of their logs, where headers commit to them; else the empty root and zero.
    pub receipts_root: Hash,
    /// See `receipts_root`.
    pub bloom: Bloom,
}

/// How sure a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finality {
    /// The two-chain commit of the validators: `finalized` in `theta.*`, `latest` in `eth_*`.
    Settled,
    /// A guardian certificate.
    Final,
}
