//! What an operation cannot cost less than: `benchmarks.md`, "Ceilings", from primitives of the same run.

use std::{hint::black_box, time::Duration};

use theta_core::{
    hash::Address,
    store::{Batch, MemStore, Store, Table},
};
use theta_ledger::tx::RawTx;

use crate::{Random, SEED, Times, busy, chain, prim, state::permutations};

/// Seconds of the primitives.
#[derive(Clone, Copy, Debug)]
pub struct Primitives {
    /// Recovery of a signer.
    pub recover: f64,
    /// One permutation.
    pub permutation: f64,
    /// A read of a row that is at hand.
    pub get: f64,
    /// A transfer, decoded and encoded.
    pub codec: f64,
}

impl Primitives {
    /// Measures them.
    pub fn measure() -> Self {
        Self {
            recover: prim::recover().as_secs_f64(),
            permutation: prim::permutation().as_secs_f64(),
            get: get().as_secs_f64(),
            codec: codec().as_secs_f64(),
        }
    }

    fn trie(&self, accounts: u64, keys: usize) -> f64 {
        permutations(accounts, keys) * self.permutation
    }

    /// `T_send`, also of what else changes two accounts.
    pub fn send(&self, accounts: u64, keys: usize) -> f64 {
        self.recover + 4.0 * self.permutation + 2.0 * self.get + self.codec + 2.0 * self.trie(accounts, keys)
    }

    /// `T_erc20`; `evm` is the time of raw revm.
    pub fn erc20(&self, evm: f64, accounts: u64, keys: usize) -> f64 {
        evm + self.recover
            + 7.0 * self.permutation
            + 3.0 * self.get
            + self.codec
            + 3.0 * self.trie(accounts, keys)
    }

    /// `T_svcpay`.
    pub fn service_payment(&self, accounts: u64, keys: usize) -> f64 {
        2.0 * self.recover
            + 6.0 * self.permutation
            + 3.0 * self.get
            + self.codec
            + 2.0 * self.trie(accounts, keys)
    }
}

fn each(rounds: usize, operations: u32, mut act: impl FnMut()) -> Duration {
    Times::of((0..rounds).map(|_| busy(&mut act).1).collect()).median / operations
}

fn get() -> Duration {
    let (store, mut batch) = (MemStore::default(), Batch::default());
    let key = |number: u64| theta_core::hash::keccak(number.to_be_bytes());
    (0..100_000).for_each(|number| batch.put(Table::Nodes, key(number).as_slice(), [7; 140]));
    store.commit(batch).expect("in memory");
    let mut random = Random::new(SEED);
    let keys: Vec<_> = (0..1_000).map(|_| key(random.below(100_000))).collect();
    each(21, 1_000, || {
        for key in &keys {
            black_box(store.get(Table::Nodes, key.as_slice()).expect("in memory"));
        }
    })
}

fn codec() -> Duration {
    let raw = chain::send(&chain::validator(), 7, Address::repeat_byte(0x22));
    each(21, 100, || {
        for _ in 0..100 {
            let decoded = RawTx::decode(black_box(raw.bytes.clone())).expect("just made");
            black_box(decoded.transaction.encode());
        }
    })
}
