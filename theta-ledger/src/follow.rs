//! Carries out blocks that are settled elsewhere, one on top of the other: recordings, chain files, another node's chain.
//!
//! What the ledger can judge is checked here: links, the fields of the header, its signature, and everything that
//! execution shows. Whether votes certify it and whose turn it was is for consensus to say: the host lends a [`Judge`].

use std::sync::Arc;

use theta_core::{
    block::{Block, Header},
    context::{BlockContext, Finality, PostState},
    hash::Hash,
    sign::SignError,
};

use crate::{
    error::BlockError,
    ledger::{At, Head, Ledger, LedgerReader},
    state::StateError,
};

/// Why a block cannot be the next one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FollowError {
    /// It stands on another block.
    #[error("block {height} stands on {parent}, the newest block here is {newest}")]
    Parent {
        /// Of the block.
        height: u64,
        /// The block's parent.
        parent: Hash,
        /// What it should be.
        newest: Hash,
    },
    /// Its height is not one more than its parent's.
    #[error("a block of height {found} cannot follow height {parent}")]
    Height {
        /// In the header.
        found: u64,
        /// Of the parent.
        parent: u64,
    },
    /// It belongs to another chain.
    #[error("block {height} belongs to chain {found:?}, this is {expected:?}")]
    Chain {
        /// Of the block.
        height: u64,
        /// In the header.
        found: String,
        /// Here.
        expected: String,
    },
    /// Its header has other fields than headers of its height have.
    #[error("the header of block {0} has not the fields of its height")]
    Fields(u64),
    /// The proposer did not sign it.
    #[error("block {height} is not signed by its proposer: {source}")]
    Signature {
        /// Of the block.
        height: u64,
        /// Why.
        source: SignError,
    },
    /// It does not do what its header says.
    #[error("block {height}: {source}")]
    Block {
        /// Of the block.
        height: u64,
        /// Why.
        source: BlockError,
    },
    /// Its votes, its proposer or its place in the chain are not what consensus asks for.
    #[error("block {height}: {source}")]
    Judged {
        /// Of the block.
        height: u64,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Our own state could not be read or written; says nothing about the block.
    #[error(transparent)]
    State(#[from] StateError),
}

impl FollowError {
    /// Height of the block that is to blame, if one is.
    pub const fn height(&self) -> Option<u64> {
        match self {
            Self::Parent { height, .. }
            | Self::Chain { height, .. }
            | Self::Fields(height)
            | Self::Signature { height, .. }
            | Self::Block { height, .. }
            | Self::Judged { height, .. } => Some(*height),
            Self::Height { found, .. } => Some(*found),
            Self::State(_) => None,
        }
    }
}

/// Why a [`Judge`] did not let a block pass.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The block breaks a rule.
    #[error(transparent)]
    Block(Box<dyn std::error::Error + Send + Sync>),
    /// Our own state could not be read; says nothing about the block.
    #[error(transparent)]
    State(#[from] StateError),
}

/// Says what the ledger cannot: whether votes certify what a block says they do, and whether it was its proposer's turn.
pub trait Judge: Send + Sync {
    /// Whether a block may stand on the newest one of the follower, which has not executed it yet.
    fn judge(&self, follower: &Follower, header: &Header) -> Result<(), Refusal>;
}

/// A ledger that takes settled blocks.
pub struct Follower {
    ledger: Ledger,
    reader: LedgerReader,
    judge: Option<Arc<dyn Judge>>,
    newest: Head,
}

impl std::fmt::Debug for Follower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follower").field("newest", &self.newest).finish_non_exhaustive()
    }
}

impl Follower {
    /// Goes on from the newest settled block of a ledger.
    pub fn new(ledger: Ledger) -> Self {
        let reader = ledger.reader();
        let newest = reader.settled();
        Self { ledger, reader, judge: None, newest }
    }

    /// Asks a judge before every block.
    pub fn judged_by(self, judge: Arc<dyn Judge>) -> Self {
        Self { judge: Some(judge), ..self }
    }

    /// The newest block that was carried out, settled or not.
    pub const fn newest(&self) -> &Head {
        &self.newest
    }

    /// Reads what was carried out.
    pub const fn reader(&self) -> &LedgerReader {
        &self.reader
    }

    /// Carries out the next block and stores it; it is on disk when this returns.
    pub fn apply(&mut self, block: Arc<Block>) -> Result<PostState, FollowError> {
        let post = self.execute(block)?;
        let hash = self.newest.hash;
        self.settle(&hash)?;
        Ok(post)
    }

    /// Carries out the next block and keeps it in memory until it or a block above it is settled.
    pub fn execute(&mut self, block: Arc<Block>) -> Result<PostState, FollowError> {
        let (hash, header) = (block.header.hash(), Arc::new(block.header.clone()));
        let height = header.height;
        let context = self.context(&header)?;
        if let Some(judge) = &self.judge {
            judge.judge(self, &header).map_err(|refusal| match refusal {
                Refusal::State(error) => error.into(),
                Refusal::Block(source) => FollowError::Judged { height, source },
            })?;
        }
        let post = self.ledger.apply_block(&context, hash, block).map_err(|source| match source {
            BlockError::State(error) => error.into(),
            source => FollowError::Block { height, source },
        })?;
        self.newest = Head { hash, header };
        Ok(post)
    }

    /// Stores a block that was carried out, and all below it, in one batch; they are on disk when this returns.
    pub fn settle(&mut self, block: &Hash) -> Result<(), StateError> {
        self.ledger.reached(Finality::Settled, block).map(drop)
    }

    fn context(&self, header: &Header) -> Result<BlockContext, FollowError> {
        let newest = self.newest.clone();
        let (height, spec) = (header.height, self.reader.spec());
        if header.parent != newest.hash {
            return Err(FollowError::Parent { height, parent: header.parent, newest: newest.hash });
        }
        if height != newest.header.height + 1 {
            return Err(FollowError::Height { found: height, parent: newest.header.height });
        }
        if header.chain != spec.chain {
            let (found, expected) = (header.chain.clone(), spec.chain.clone());
            return Err(FollowError::Chain { height, found, expected });
        }
        if !header.fits(spec.rules(height)) {
            return Err(FollowError::Fields(height));
        }
        header.verify().map_err(|source| FollowError::Signature { height, source })?;
        let guardian_votes = header.extension.guardian_votes().cloned();
        let voted = match &guardian_votes {
            Some(votes) => self.reader.block(At::Block(votes.block))?,
            None => None,
        };
        let validators = self.reader.validators_after(newest.hash)?;
        Ok(BlockContext {
            epoch: header.epoch,
            timestamp: header.timestamp.clone(),
            proposer: header.proposer,
            voted_state: voted.map(|voted| voted.block.header.state_root),
            guardian_votes,
            elite_votes: header.extension.elite_votes().cloned(),
            ..BlockContext::on(newest.hash, newest.header, validators)
        })
    }
}
