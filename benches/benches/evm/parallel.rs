//! `evm/block_par/{0,30,100}`: blocks of 512 token transfers, of which so many percent pay one account, carried out on one
//! thread and on two: signers recovered, calls run, root hashed. The same blocks on both sides, by turns, none seen before.

use std::{sync::Arc, time::Duration};

use theta_benches::{Random, SEED, asked_for, chain, evm::token_input, load, only_test, timed};
use theta_core::{
    block::Block,
    context::Finality,
    hash::{Address, Hash},
    sign::SecretKey,
    spec::ChainSpec,
    workers::{Cores, Inline, Workers},
};
use theta_evm::{Evm, contracts::TEST_TOKEN_20};
use theta_ledger::{
    MAX_BLOCK_TXS,
    genesis::Genesis,
    ledger::{At, Ledger},
    tx::RawTx,
};

const HOT: Address = Address::repeat_byte(0x77);

fn open(genesis: &Genesis, workers: Arc<dyn Workers>) -> Ledger {
    let builder = Ledger::builder(ChainSpec::privatenet()).contracts(Arc::new(Evm)).workers(workers);
    builder.open(genesis).expect("its own genesis")
}

/// Applies and settles a block; how long the first took.
fn apply(ledger: &mut Ledger, hash: Hash, block: &Arc<Block>) -> Duration {
    let (_, mut context) = ledger.reader().next_block(At::Settled).expect("stored");
    context.proposer = block.header.proposer;
    let (applied, time) = timed(|| ledger.apply_block(&context, hash, block.clone()));
    applied.expect("valid");
    ledger.reached(Finality::Settled, &hash).expect("just applied");
    time
}

struct Chain {
    builder: Ledger,
    one: Ledger,
    two: Ledger,
}

impl Chain {
    /// A block on all three; the times of one thread and of two.
    fn extend(&mut self, candidates: &[Arc<RawTx>]) -> (Duration, Duration) {
        let (hash, block) = chain::extend(&mut self.builder, candidates);
        (apply(&mut self.one, hash, &block), apply(&mut self.two, hash, &block))
    }
}

pub(crate) fn run() {
    let (senders, others, rounds) =
        if only_test() { (8, 100, 1) } else { (MAX_BLOCK_TXS as u64, 100_000, 21) };
    for share in [0, 30, 100] {
        let id = format!("evm/block_par/{share}");
        if !asked_for(&id) {
            continue;
        }
        let keys = chain::keys(senders);
        let contract = (TEST_TOKEN_20.address, TEST_TOKEN_20.code());
        let genesis = chain::genesis(&ChainSpec::privatenet(), &keys, others, Some(contract));
        let mut chain = Chain {
            builder: open(&genesis, Arc::new(Cores)),
            one: open(&genesis, Arc::new(Inline)),
            two: open(&genesis, Arc::new(Cores)),
        };
        // Contracts are there from height 2 on.
        chain.extend(&[]);
        let calls = |sequence: u64, data: &mut dyn FnMut(&SecretKey) -> Vec<u8>| -> Vec<Arc<RawTx>> {
            let call = |key| chain::call(key, sequence, TEST_TOKEN_20.address, data(key)).into();
            keys.iter().map(call).collect()
        };
        chain.extend(&calls(1, &mut |key| token_input("mint", key.address(), 1_000_000)));
        let (mut random, mut ratios, mut times) = (Random::new(SEED), Vec::new(), Vec::new());
        // The first round fills caches.
        for round in 0..=rounds {
            let block = calls(2 + round, &mut |_| {
                let hot = random.below(100) < share;
                let payee = if hot { HOT } else { theta_benches::state::address(random.below(others)) };
                token_input("transfer", payee, 1)
            });
            let (one, two) = chain.extend(&block);
            if round > 0 {
                ratios.push(one.as_secs_f64() / two.as_secs_f64());
                times.push((one, two));
            }
        }
        let each = |time: Duration| time.as_nanos() as f64 / keys.len() as f64;
        let (one, two): (Vec<_>, Vec<_>) = times.into_iter().map(|(one, two)| (each(one), each(two))).unzip();
        println!(
            "{{\"bench\":\"{id}\",\"seed\":{SEED},\"unit\":\"ns/tx\",\"median\":{:.0},\"peer\":\"one thread\",\"peer_value\":{:.0},\"speed_up\":{:.3},\"rounds\":{rounds},\"loadavg\":\"{}\"}}",
            super::median(two),
            super::median(one),
            super::median(ratios),
            load(),
        );
    }
}
