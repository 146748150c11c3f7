//! A ledger small enough to be obviously right: the state is a hash over all transactions, and stakes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use theta_core::{
    amount::ThetaWei,
    block::{Block, Bloom},
    context::{BlockContext, Body, PostState},
    hash::{Address, EMPTY_ROOT, Hash, keccak_parts},
    spec::{ChainSpec, HeaderRules},
    stake::{GuardianPool, Pools, Validator, ValidatorSet},
};

use crate::tree::SettledBlock;

/// Transactions of one block besides its first.
const MOST: usize = 20;
const STAKE: u8 = b's';
const SLASH: u8 = b'x';

/// A transaction that does nothing.
pub(super) fn plain(number: u64) -> Vec<u8> {
    [b"t".as_slice(), &number.to_be_bytes()].concat()
}

/// A transaction that gives a validator another stake, in whole THETA.
pub(super) fn stake(number: u64, validator: Address, stake: u64) -> Vec<u8> {
    [&[STAKE], number.to_be_bytes().as_slice(), validator.as_slice(), &stake.to_be_bytes()].concat()
}

/// A transaction that takes the stake of a validator, unless it is the last one. Whether that is right is not asked: here
/// only those bring it who have seen the proof.
pub(super) fn slash(validator: Address) -> Vec<u8> {
    [&[SLASH], validator.as_slice()].concat()
}

#[derive(Debug)]
pub(super) struct Ledger {
    spec: Arc<ChainSpec>,
    /// Guardians and elite edge nodes; they never change.
    pools: Option<Arc<Pools>>,
    /// On disk: settled blocks from genesis on.
    pub(super) settled: Vec<(Hash, Arc<Block>, PostState)>,
    /// In memory: blocks executed above.
    executed: BTreeMap<Hash, (Arc<Block>, PostState)>,
    /// Transactions waiting.
    pub(super) pool: BTreeSet<Vec<u8>>,
}

impl Ledger {
    pub(super) fn new(
        spec: Arc<ChainSpec>,
        genesis: Arc<Block>,
        validators: Arc<ValidatorSet>,
        pools: Option<Arc<Pools>>,
    ) -> Self {
        let post = PostState::new(genesis.header.state_root, validators);
        Self {
            spec,
            pools,
            settled: vec![(genesis.header.hash(), genesis, post)],
            executed: BTreeMap::new(),
            pool: BTreeSet::new(),
        }
    }

    /// The guardians, if there are any.
    pub(super) fn guardians(&self) -> Option<&GuardianPool> {
        self.pools.as_ref().map(|pools| &pools.guardians)
    }

    /// What a crash leaves.
    pub(super) fn crash(&mut self) {
        self.executed.clear();
    }

    pub(super) fn tail(&self, length: usize) -> Vec<SettledBlock> {
        let from = self.settled.len().saturating_sub(length);
        let blocks = self.settled[from..].iter();
        blocks
            .map(|(_, block, post)| SettledBlock {
                header: Arc::new(block.header.clone()),
                post: post.clone(),
            })
            .collect()
    }

    fn post(&self, hash: &Hash) -> Option<&PostState> {
        self.executed.get(hash).map(|(_, post)| post).or_else(|| {
            let settled = self.settled.iter().rev().take(4);
            let mut settled = settled;
            settled.find(|(other, ..)| other == hash).map(|(.., post)| post)
        })
    }

    fn apply(parent: &PostState, transactions: &[Vec<u8>]) -> PostState {
        let mut root = parent.root;
        let mut validators = parent.validators.clone();
        let mut changes_validators = false;
        for transaction in transactions {
            root = keccak_parts(&[root.as_slice(), transaction]);
            if let Some((&STAKE, rest)) = transaction.split_first()
                && let (Some(address), Some(stake)) = (rest.get(8..28), rest.last_chunk())
            {
                changes_validators = true;
                let address = Address::from_slice(address);
                let changed = Validator {
                    bls: validators.find(address).and_then(|validator| validator.bls),
                    ..Validator::new(address, ThetaWei::whole(u64::from_be_bytes(*stake)))
                };
                let others = validators.as_slice().iter().filter(|other| other.address != changed.address);
                validators = Arc::new(ValidatorSet::new(others.cloned().chain([changed.clone()])));
            }
            if let Some((&SLASH, culprit)) = transaction.split_first() {
                let others =
                    validators.as_slice().iter().filter(|other| other.address.as_slice() != culprit).cloned();
                let left = ValidatorSet::new(others);
                if !left.as_slice().is_empty() && left != *validators {
                    changes_validators = true;
                    validators = Arc::new(left);
                }
            }
        }
        PostState { changes_validators, ..PostState::new(root, validators) }
    }

    /// Transactions of the pool that no unsettled ancestor holds.
    pub(super) fn candidates(&self, parent: &Hash, freeze_stakes: bool) -> Vec<Vec<u8>> {
        let mut held = BTreeSet::new();
        let mut at = *parent;
        while let Some((block, _)) = self.executed.get(&at) {
            held.extend(block.transactions.iter());
            at = block.header.parent;
        }
        let free = self.pool.iter().filter(|transaction| !held.contains(transaction));
        let allowed = free.filter(|transaction| !freeze_stakes || transaction.first() != Some(&STAKE));
        allowed.take(MOST).cloned().collect()
    }

    pub(super) fn build(&self, context: &BlockContext) -> Option<Body> {
        let parent = self.post(&context.parent_hash)?;
        let mut transactions = vec![[b"c".as_slice(), &context.height().to_be_bytes()].concat()];
        transactions.extend(self.candidates(&context.parent_hash, context.freeze_stakes));
        let state_root = Self::apply(parent, &transactions).root;
        Some(Body { transactions, state_root, receipts_root: EMPTY_ROOT, bloom: Bloom::ZERO })
    }

    pub(super) fn execute(&mut self, hash: Hash, block: &Arc<Block>) -> Option<PostState> {
        let parent = self.post(&block.header.parent)?;
        let mut post = Self::apply(parent, &block.transactions);
        if post.root != block.header.state_root {
            return None;
        }
        let height = block.header.height;
        let rules = self.spec.rules(height);
        if rules.is_checkpoint(height) && rules.header != HeaderRules::Twelve {
            post.pools.clone_from(&self.pools);
        }
        self.executed.insert(hash, (block.clone(), post.clone()));
        Some(post)
    }

    /// Makes a block and its ancestors durable; gives those that were not before, ascending.
    pub(super) fn settle(&mut self, hash: &Hash) -> Vec<Arc<Block>> {
        let mut path = Vec::new();
        let mut at = *hash;
        while let Some((block, post)) = self.executed.remove(&at) {
            let hash = std::mem::replace(&mut at, block.header.parent);
            path.push((hash, block, post));
        }
        path.reverse();
        for transaction in path.iter().flat_map(|(_, block, _)| &block.transactions) {
            self.pool.remove(transaction);
        }
        let blocks = path.iter().map(|(_, block, _)| block.clone()).collect();
        self.settled.extend(path);
        blocks
    }

    /// Settled blocks above a height, lowest first.
    pub(super) fn above(&self, height: u64) -> impl Iterator<Item = (&Hash, &Arc<Block>)> {
        let from = usize::try_from(height).unwrap_or(usize::MAX).saturating_add(1);
        self.settled.iter().skip(from).map(|(hash, block, _)| (hash, block))
    }
}
