//! Accounts in a trie, in memory or over a store.

use theta_core::{
    amount::{Coins, TFuelWei, ThetaWei},
    codec::rlp::Encode,
    hash::{Address, keccak},
    store::{Batch, Store},
    trie::Trie,
};
use theta_ledger::state::{
    Account, keys,
    nodes::{NewNodes, Nodes},
};

use crate::Random;

/// The address of the account with this number.
pub fn address(number: u64) -> Address {
    Address::from_slice(&keccak(number.to_be_bytes())[12..])
}

/// Key and value of an account whose amounts are chance.
pub fn entry(number: u64, random: &mut Random) -> (Vec<u8>, Vec<u8>) {
    let mut account = Account::new(address(number), random.below(1 << 20));
    account.sequence = random.below(1 << 16);
    account.balance = Coins {
        theta: ThetaWei::wei(u128::from(random.next_u64()) << 20),
        tfuel: TFuelWei::wei(u128::from(random.next_u64()) << 24),
    };
    (keys::account(account.address), account.to_rlp())
}

/// New values of `count` different accounts out of `existing`, of which every `fresh_every`th is a new account instead.
pub fn changes(
    existing: u64,
    count: usize,
    fresh_every: Option<usize>,
    random: &mut Random,
) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut taken = std::collections::BTreeSet::new();
    let mut entries = Vec::with_capacity(count);
    while entries.len() < count {
        let number = match fresh_every {
            Some(every) if entries.len() % every == every - 1 => existing + random.below(1 << 62),
            _ => random.below(existing),
        };
        if taken.insert(number) {
            entries.push(entry(number, random));
        }
    }
    entries
}

/// Writes a trie's new nodes in one durable batch, as settling a block does.
pub fn write_nodes(store: &dyn Store, nodes: &Nodes, trie: &mut Trie) {
    let (mut new, mut batch) = (NewNodes::default(), Batch::default());
    new.collect(trie);
    nodes.store(&new, &mut batch);
    store.commit(batch).expect("the disk takes it");
}

/// `p(N, K)`: permutations for each updated key, from the table of the ceilings, between its rows by the logarithm of N. The
/// table has one for a leaf, which these accounts are too long for: a leaf of theirs is 136 to 160 bytes, two permutations.
pub fn permutations(accounts: u64, keys: usize) -> f64 {
    let column: [f64; 4] = match keys {
        0..768 => [3.9, 7.5, 10.3, 13.1],
        768..4096 => [3.0, 6.5, 9.2, 12.0],
        _ => [1.7, 3.7, 6.4, 9.1],
    };
    let row = ((accounts as f64).log10() - 4.0).clamp(0.0, 3.0);
    let below = (row.floor() as usize).min(2);
    1.0 + column[below] + (column[below + 1] - column[below]) * (row - below as f64)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use theta_core::{trie::NoNodes, workers::Inline};

    use super::*;
    use crate::SEED;

    #[test]
    fn a_leaf_takes_two_permutations() {
        let mut random = Random::new(SEED);
        let mut trie = Trie::empty(Arc::new(NoNodes));
        trie.update((0..10_000).map(|number| entry(number, &mut random)), &Inline).expect("nothing is read");
        let new = trie.take_new();
        let leaves: Vec<_> = new.iter().filter(|(_, node)| node.leaf().is_some()).collect();
        assert_eq!(leaves.len(), 10_000);
        // A permutation takes 136 bytes, one of them padding.
        assert!(leaves.iter().all(|(_, node)| (136..=271).contains(&node.encoding().len())));
    }
}
