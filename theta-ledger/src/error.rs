//! Why a block, a ledger or a file was refused.

use theta_core::{codec::rlp::DecodeError, hash::Hash, sign::SignError, store::StoreError};

use crate::{
    state::{Keep, StateError},
    tx::TxError,
};

/// Why a block was not built or applied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlockError {
    /// A transaction in it is not valid there.
    #[error("transaction {index} is not valid: {source}")]
    Transaction {
        /// Its place in the block.
        index: usize,
        /// Why.
        source: TxError,
    },
    /// The header's root over the transactions is another.
    #[error("header says transactions root {header}, the transactions have {computed}")]
    TransactionsRoot {
        /// In the header.
        header: Hash,
        /// Of the transactions.
        computed: Hash,
    },
    /// The state after the block is another.
    #[error("header says state root {header}, execution gave {computed}")]
    StateRoot {
        /// In the header.
        header: Hash,
        /// By execution.
        computed: Hash,
    },
    /// The receipts of the block are others.
    #[error("header says receipts root {header}, or a bloom that is not theirs; execution gave {computed}")]
    Receipts {
        /// In the header.
        header: Hash,
        /// By execution.
        computed: Hash,
    },
    /// The block's end could not be carried out.
    #[error("end of the block failed: {0}")]
    End(TxError),
    /// The coinbase could not be signed.
    #[error("coinbase could not be signed: {0}")]
    Coinbase(#[from] SignError),
    /// Our own state could not be read or written; says nothing about the block.
    #[error(transparent)]
    State(#[from] StateError),
}

impl BlockError {
    /// Whether the block is bad for good, as against a disk of ours.
    pub fn condemns_block(&self) -> bool {
        match self {
            Self::Transaction { source, .. } | Self::End(source) => source.state_error().is_none(),
            Self::TransactionsRoot { .. } | Self::StateRoot { .. } | Self::Receipts { .. } => true,
            Self::Coinbase(_) | Self::State(_) => false,
        }
    }
}

impl From<StoreError> for BlockError {
    fn from(error: StoreError) -> Self {
        Self::State(error.into())
    }
}

/// Why a ledger could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The store belongs to another network.
    #[error("the data folder belongs to the chain with genesis {found}, not {expected}; name another folder")]
    OtherGenesis {
        /// In the store.
        found: Hash,
        /// Asked for.
        expected: Hash,
    },
    /// There is no chain in the store.
    #[error("the data folder holds no chain; import one, or name the folder of a node")]
    Empty,
    /// Too few states would be kept.
    #[error("the states of {0} blocks are too few to go on from; keep those of {least} or more", least = Keep::LEAST)]
    KeepsTooFew(u64),
    /// The store is not whole.
    #[error("the store is damaged: {0}")]
    Damaged(&'static str),
    /// The state could not be read or written.
    #[error(transparent)]
    State(#[from] StateError),
}

impl From<StoreError> for OpenError {
    fn from(error: StoreError) -> Self {
        Self::State(error.into())
    }
}

/// Why a genesis file or a snapshot was refused, or not written; every place is a byte of the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The file could not be read.
    #[error("file could not be read: {0}")]
    Io(#[from] std::io::Error),
    /// The file ends inside a record.
    #[error("file is cut: record {record} at byte {at} needs {needed} bytes, {left} are left")]
    Cut {
        /// Number of the record, from 0.
        record: usize,
        /// Where it begins.
        at: usize,
        /// Bytes it needs.
        needed: u64,
        /// Bytes that are there.
        left: usize,
    },
    /// A record is not the RLP of what belongs there.
    #[error("record {record} at byte {at} is malformed: {source}")]
    Malformed {
        /// Number of the record, from 0.
        record: usize,
        /// Where its contents begin.
        at: usize,
        /// What is wrong, counted from there.
        source: DecodeError,
    },
    /// A record says what the file does not say there.
    #[error("record {record} at byte {at}: {what}")]
    Unexpected {
        /// Number of the record, from 0.
        record: usize,
        /// Where its contents begin.
        at: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// Written in another format.
    #[error(
        "file has version {0}, which cannot be used here: a chain begins with version 1, a snapshot has 2, 3 or 4"
    )]
    Version(u64),
    /// The store is in use.
    #[error("the data folder holds a chain already; name an empty one")]
    NotEmpty,
    /// The file cannot prove its block from the genesis.
    #[error(
        "version {version} proves block {block} by nothing; if you trust that block, name its hash as the one to trust"
    )]
    Untrusted {
        /// Of the file.
        version: u64,
        /// The snapshot's block.
        block: Hash,
    },
    /// The file is of another block than the one that is trusted.
    #[error("the snapshot is of block {found}, not of {expected}")]
    OtherBlock {
        /// In the file.
        found: Hash,
        /// Named.
        expected: Hash,
    },
    /// A section of the file is not the state that a header names.
    #[error(
        "the state of height {height} that ends at byte {at} has root {computed}, its block says {header}"
    )]
    SectionRoot {
        /// Height of the section.
        height: u64,
        /// Where its last record begins.
        at: usize,
        /// Of the entries.
        computed: Hash,
        /// In the header, or in the account whose storage it is.
        header: Hash,
    },
    /// A block that the snapshot needs is not there.
    #[error(
        "block {0} is not settled here with its state; snapshots need it, its parent and the two blocks above it"
    )]
    NotHere(u64),
    /// A state is not whole, or the store failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// The entries are not the state that the header names.
    #[error("the {entries} entries have state root {computed}, the header at byte {at} says {header}")]
    StateRoot {
        /// How many entries there are.
        entries: usize,
        /// Where the header's record begins.
        at: usize,
        /// Of the entries.
        computed: Hash,
        /// In the header.
        header: Hash,
    },
    /// The header is not that of the known chain.
    #[error("the header at byte {at} has hash {found}, the genesis of {chain} has {expected}")]
    OtherGenesis {
        /// Where the header's record begins.
        at: usize,
        /// The chain.
        chain: String,
        /// Of the file.
        found: Hash,
        /// Known or configured.
        expected: Hash,
    },
    /// A BLS key in the state comes without a valid proof.
    #[error("validator {0} has no BLS key with a valid proof of possession")]
    ValidatorKey(theta_core::hash::Address),
}

impl From<StoreError> for SnapshotError {
    fn from(error: StoreError) -> Self {
        Self::State(error.into())
    }
}

impl From<theta_core::trie::TrieError> for SnapshotError {
    fn from(error: theta_core::trie::TrieError) -> Self {
        Self::State(error.into())
    }
}
