//! Settled blocks, receipts and indexes as they stand in the store. One block's rows are written in one batch.

use std::collections::BTreeMap;

use theta_core::{
    block::Block,
    codec::rlp::{Decode, Encode},
    hash::{Address, Hash},
    rlp_list,
    store::{Batch, Store, Table},
};

use crate::{
    error::OpenError,
    logs,
    state::StateError,
    vm::{BalanceChange, Log, VmOutcome},
};

/// Key of the newest settled block's hash.
const SETTLED: &[u8] = b"settled";
/// Key of the genesis block's hash.
const GENESIS: &[u8] = b"genesis";

/// How a settled block became so, in the reference's numbers (`core/block.go`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub u8);

impl Status {
    /// Known by its header alone.
    pub const PENDING: Self = Self(0);
    /// Executed, not settled.
    pub const VALID: Self = Self(1);
    /// Settled by a certificate on its child.
    pub const DIRECT: Self = Self(4);
    /// Settled because a block above it was.
    pub const INDIRECT: Self = Self(5);
    /// Taken on trust: genesis.
    pub const TRUSTED: Self = Self(6);
}

/// A block with what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredBlock {
    /// The block.
    pub block: Block,
    /// See [`Status`].
    pub status: u8,
    /// Whether the set-change rule counts it.
    pub changes_validators: bool,
}

rlp_list!(StoredBlock { block, status, changes_validators });

/// Where a transaction stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The block.
    pub block: Hash,
    /// Its height.
    pub height: u64,
    /// Position in the block.
    pub index: u64,
}

rlp_list!(Place { block, height, index });

/// What a contract transaction did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Hash of the transaction.
    pub hash: Hash,
    /// Logs; none after a failure.
    pub logs: Vec<Log>,
    /// What was returned.
    pub output: Vec<u8>,
    /// The contract made or called.
    pub contract: Address,
    /// Gas used.
    pub gas_used: u64,
    /// Why it failed; empty on success.
    pub error: String,
}

rlp_list!(Receipt { hash, logs, output, contract, gas_used, error });

/// A receipt and the moves of coins behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContractResult {
    /// The receipt.
    pub receipt: Receipt,
    /// Moves of coins; none after a failure.
    pub balance_changes: Vec<BalanceChange>,
}

rlp_list!(ContractResult { receipt, balance_changes });

impl ContractResult {
    pub(crate) fn new(hash: Hash, outcome: VmOutcome) -> Self {
        let VmOutcome { gas_used, error, output, contract, logs, balance_changes } = outcome;
        Self { receipt: Receipt { hash, logs, output, contract, gas_used, error }, balance_changes }
    }
}

/// Adds all rows of a settled block to a batch.
pub(crate) fn put_block(
    batch: &mut Batch,
    hash: &Hash,
    stored: &StoredBlock,
    results: &[ContractResult],
    index: &BTreeMap<Hash, u64>,
) {
    let height = stored.block.header.height;
    batch.put(Table::Blocks, hash.as_slice(), stored.to_rlp());
    batch.put(Table::Heights, height.to_be_bytes(), hash.as_slice());
    for (transaction, place) in index {
        let place = Place { block: *hash, height, index: *place };
        batch.put(Table::Transactions, transaction.as_slice(), place.to_rlp());
    }
    for result in results {
        batch.put(Table::Receipts, result.receipt.hash.as_slice(), result.to_rlp());
    }
    let mut hashes: BTreeMap<u64, Vec<Hash>> = BTreeMap::new();
    if !results.is_empty() {
        index.iter().for_each(|(hash, place)| hashes.entry(*place).or_default().push(*hash));
    }
    logs::put(batch, height, results, |transaction| {
        let place = index.get(transaction).copied().unwrap_or_default();
        let other = hashes.get(&place).and_then(|hashes| hashes.iter().find(|hash| *hash != transaction));
        (place, other.copied())
    });
}

pub(crate) fn put_settled(batch: &mut Batch, hash: &Hash) {
    batch.put(Table::Meta, SETTLED, hash.as_slice());
}

pub(crate) fn put_genesis(batch: &mut Batch, hash: &Hash) {
    batch.put(Table::Meta, GENESIS, hash.as_slice());
}

fn hash_at(store: &dyn Store, table: Table, key: &[u8]) -> Result<Option<Hash>, StateError> {
    Ok(store.get(table, key)?.and_then(|bytes| Hash::try_from(bytes.as_slice()).ok()))
}

/// Genesis and newest settled block of a store that was used before.
pub(crate) fn heads(store: &dyn Store) -> Result<Option<(Hash, Hash)>, OpenError> {
    let genesis = hash_at(store, Table::Meta, GENESIS)?;
    let settled = hash_at(store, Table::Meta, SETTLED)?;
    match (genesis, settled) {
        (None, None) => Ok(None),
        (Some(genesis), Some(settled)) => Ok(Some((genesis, settled))),
        _ => Err(OpenError::Damaged("one of its two head marks is missing")),
    }
}

pub(crate) fn read<T: Decode>(store: &dyn Store, table: Table, key: &[u8]) -> Result<Option<T>, StateError> {
    let Some(bytes) = store.get(table, key)? else { return Ok(None) };
    let damaged =
        |source| StateError::Damaged { key: format!("{}/{}", table.name(), hex::encode(key)), source };
    T::from_rlp(&bytes, bytes.len()).map(Some).map_err(damaged)
}

pub(crate) fn block(store: &dyn Store, hash: &Hash) -> Result<Option<StoredBlock>, StateError> {
    read(store, Table::Blocks, hash.as_slice())
}

pub(crate) fn hash_of_height(store: &dyn Store, height: u64) -> Result<Option<Hash>, StateError> {
    hash_at(store, Table::Heights, &height.to_be_bytes())
}

pub(crate) fn place(store: &dyn Store, hash: &Hash) -> Result<Option<Place>, StateError> {
    read(store, Table::Transactions, hash.as_slice())
}

pub(crate) fn result(store: &dyn Store, hash: &Hash) -> Result<Option<ContractResult>, StateError> {
    read(store, Table::Receipts, hash.as_slice())
}
