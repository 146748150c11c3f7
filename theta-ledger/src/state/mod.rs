//! The state: records under keys, read and changed through one [`StateView`].

pub mod account;
pub mod keys;
pub mod nodes;
pub(crate) mod prune;
mod view;

pub use self::{
    account::{Account, ReservedFund, SplitRule},
    prune::Keep,
    view::{Checkpoint, MetSlot, StateView},
};
use theta_core::{codec::rlp::DecodeError, store::StoreError, trie::TrieError};

/// Why a state could not be read. Says nothing about a transaction or a block.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// A trie could not be read.
    #[error(transparent)]
    Trie(#[from] TrieError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A stored record is not what belongs under its key.
    #[error("record {key} is damaged: {source}")]
    Damaged {
        /// The key as text.
        key: String,
        /// What is wrong.
        source: DecodeError,
    },
    /// The state of this height is no longer kept, or not yet there.
    #[error("state at height {height} is not here; the oldest kept one is {oldest}")]
    Absent {
        /// Height asked for.
        height: u64,
        /// Oldest height with a state.
        oldest: u64,
    },
    /// No such block.
    #[error("no block {0} is known")]
    UnknownBlock(String),
    /// Met by a transaction that was carried out.
    #[error(transparent)]
    Shared(#[from] std::sync::Arc<Self>),
}
