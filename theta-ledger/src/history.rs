//! Hashes of earlier blocks, kept in the state by Ethereum's rules (EIP-2935), so that a node which began with a snapshot
//! knows them too.
//!
//! Before a block's first transaction the hash of the block below goes into a slot of one contract, whose code is
//! Ethereum's: it answers for 8,191 blocks, BLOCKHASH for 256. Blocks from before the rule have no hash there.

use theta_core::{
    hash::{Address, Hash, U256},
    spec::RuleSet,
};

use crate::{
    state::{Account, StateError, StateView},
    tx::Scope,
    vm::VmEnv,
};

/// Where the hashes are.
pub const ADDRESS: Address = Address::new([
    0x00, 0x00, 0xf9, 0x08, 0x27, 0xf1, 0xc5, 0x3a, 0x10, 0xcb, 0x7a, 0x02, 0x33, 0x5b, 0x17, 0x53, 0x20,
    0x00, 0x29, 0x35,
]);
const LENGTH: u64 = 8_191;
const CODE: &str = "3373fffffffffffffffffffffffffffffffffffffffe14604657602036036042575f35600143038111604257611fff8143\
                    0311604257611fff9006545f5260205ff35b5f5ffd5b5f35611fff60014303065500";

fn slot(height: u64) -> Hash {
    U256::from(height % LENGTH).into()
}

/// Notes the hash of the block below; nothing where the rules want none.
pub(crate) fn note(scope: &Scope<'_>, view: &mut StateView) -> Result<(), StateError> {
    if scope.rules.evm.rule_set != RuleSet::Ethereum {
        return Ok(());
    }
    if view.account(ADDRESS)?.is_none() {
        let mut account = Account::new(ADDRESS, 0);
        account.sequence = 1;
        account.code_hash = view.store_code(hex::decode(CODE).unwrap_or_default());
        view.store(account);
    }
    view.set_slot(ADDRESS, slot(scope.parent_height()), scope.block.parent_hash.into())
}

/// Hash of one of the 256 blocks below; zero where it is not known.
pub fn block_hash(env: &VmEnv<'_>, view: &mut StateView, height: u64) -> Result<Hash, StateError> {
    match env.height.checked_sub(height) {
        Some(1) => Ok(env.parent),
        Some(2..=256) => view.slot(ADDRESS, slot(height)).map(Hash::from),
        _ => Ok(Hash::ZERO),
    }
}
