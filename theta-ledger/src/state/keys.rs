//! Keys of the state trie (`ledger/state/keys.go`): readable prefixes, not hashed.

use theta_core::hash::{Address, Hash};

/// Validator candidates.
pub const VALIDATORS: &[u8] = b"ls/vcp";
/// Guardian candidates; no entry is an empty pool.
pub const GUARDIANS: &[u8] = b"ls/gcp";
/// Live stake of all elite edge nodes, big-endian, not RLP; no entry is zero.
pub const ELITE_TOTAL: &[u8] = b"ls/eentas";
/// Heights of blocks with validator stake transactions.
pub const STAKE_HEIGHTS: &[u8] = b"ls/sthl";
/// Accounts.
pub const ACCOUNT: &[u8] = b"ls/a/";
/// Contract code by hash, raw.
pub const CODE: &[u8] = b"ls/ch/";
/// Split rules.
pub const SPLIT: &[u8] = b"ls/ssc/split/";
/// Elite edge nodes.
pub const ELITE: &[u8] = b"ls/een/";
/// Stake returns of elite edge nodes by height.
pub const ELITE_RETURNS: &[u8] = b"ls/eensrk/";
/// Reward distribution rules by holder.
pub const DISTRIBUTION: &[u8] = b"ls/srdrs/";
/// Up to which height a validator has been punished for contradictions, by holder; only where they are punished.
pub const PUNISHED: &[u8] = b"ls/pun/";

fn key(prefix: &[u8], rest: &[u8]) -> Vec<u8> {
    [prefix, rest].concat()
}

/// Key of an account.
pub fn account(address: Address) -> Vec<u8> {
    key(ACCOUNT, address.as_slice())
}

/// Key of a contract's code.
pub fn code(hash: Hash) -> Vec<u8> {
    key(CODE, hash.as_slice())
}

/// Key of a split rule.
pub fn split(resource: &[u8]) -> Vec<u8> {
    key(SPLIT, resource)
}

/// Key of an elite edge node.
pub fn elite(holder: Address) -> Vec<u8> {
    key(ELITE, holder.as_slice())
}

/// Key of the stakes that return at a height, which is written in decimal.
pub fn elite_returns(height: u64) -> Vec<u8> {
    key(ELITE_RETURNS, height.to_string().as_bytes())
}

/// Key of a reward distribution rule.
pub fn distribution(holder: Address) -> Vec<u8> {
    key(DISTRIBUTION, holder.as_slice())
}

/// Key of a validator's punishment.
pub fn punished(holder: Address) -> Vec<u8> {
    key(PUNISHED, holder.as_slice())
}

/// Key of a validator's BLS key; only where the chain has them.
pub fn validator_key(holder: Address) -> Vec<u8> {
    theta_core::stake::validator_key(holder)
}
