//! `block/replay/{send,erc20,mixed}/1e5` and `block/replay/send/1e6`: 200 stored blocks of 512 transactions, carried out again from the store on disk
//! they began with, nothing at hand, each settled durably before the next. Beside what one node can do on this machine.
//!
//! `erc20` moves a token between accounts that have some; `mixed` is 65 % transfers, 25 % token, 5 % contracts made and 5 %
//! service payments.

use std::{path::Path, sync::Arc};

use theta_benches::{
    Random, SEED, Times, asked_for,
    ceiling::Primitives,
    chain,
    evm::{World, token, token_input, transfer},
    only_test, prim, process_time, report, report_time, timed,
};
use theta_core::{
    block::Block,
    context::Finality,
    hash::{Address, Hash},
    sign::SecretKey,
    spec::ChainSpec,
    store::FjallStore,
    workers::Cores,
};
use theta_evm::{Evm, contracts::TEST_TOKEN_20};
use theta_ledger::{
    MAX_BLOCK_TXS,
    genesis::Genesis,
    ledger::{At, Ledger},
    tx::RawTx,
};

const CORES: f64 = 2.0;

struct Senders {
    keys: Vec<SecretKey>,
    next: Vec<u64>,
    paid: Vec<u64>,
    random: Random,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Send,
    Token,
    Mixed,
}

impl Senders {
    fn take(&mut self) -> (usize, u64) {
        let sender = self.random.below(self.keys.len() as u64) as usize;
        self.next[sender] += 1;
        (sender, self.next[sender])
    }

    /// Somebody else's address.
    fn other(&mut self, than: usize) -> Address {
        let number = than + 1 + self.random.below(self.keys.len() as u64 - 1) as usize;
        self.keys[number % self.keys.len()].address()
    }

    fn transaction(&mut self, kind: Kind) -> RawTx {
        let of_mixed = match self.random.below(20) {
            0..13 => "send",
            13..18 => "token",
            18 => "creation",
            _ => "payment",
        };
        match (kind, of_mixed) {
            (Kind::Send, _) | (Kind::Mixed, "send") => {
                let (sender, sequence) = self.take();
                let to = self.other(sender);
                chain::send(&self.keys[sender], sequence, to)
            }
            (Kind::Token, _) | (Kind::Mixed, "token") => {
                let (sender, sequence) = self.take();
                let to = self.other(sender);
                let input = token_input("transfer", to, 1);
                chain::call(&self.keys[sender], sequence, TEST_TOKEN_20.address, input)
            }
            (_, "creation") => {
                let (sender, sequence) = self.take();
                // Copies 1 KiB of itself and returns it.
                let init = [&[0x61, 4, 0, 0x60, 0, 0x81, 0x81, 0x80, 0x39, 0xf3][..], &[0; 1024]].concat();
                chain::call(&self.keys[sender], sequence, Address::ZERO, init)
            }
            _ => {
                let payer = self.random.below(self.keys.len() as u64) as usize;
                self.paid[payer] += 1;
                let payee = (payer + 1) % self.keys.len();
                chain::pay(&self.keys[payer], &self.keys[payee], self.paid[payer], 2)
            }
        }
    }
}

fn open(folder: &Path, genesis: &Genesis) -> Ledger {
    let store = FjallStore::open(folder).expect("a folder of one's own");
    Ledger::builder(ChainSpec::privatenet())
        .store(Arc::new(store))
        .contracts(Arc::new(Evm))
        .workers(Arc::new(Cores))
        .open(genesis)
        .expect("its own genesis")
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder of one's own");
    for entry in std::fs::read_dir(from).expect("there") {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).expect("there");
        if path.is_dir() {
            copy(&path, &to.join(name));
        } else {
            std::fs::copy(&path, to.join(name)).expect("room on the disk");
        }
    }
}

fn apply(ledger: &mut Ledger, hash: Hash, block: Arc<Block>) {
    let (_, mut context) = ledger.reader().next_block(At::Settled).expect("stored");
    context.proposer = block.header.proposer;
    ledger.apply_block(&context, hash, block).expect("valid");
    ledger.reached(Finality::Settled, &hash).expect("just applied");
}

/// Time of raw revm for a transfer of the token.
fn raw_evm() -> f64 {
    let (world, mut random) = (World::new(1_000, vec![token(1_000)]), Random::new(SEED));
    let calls: Vec<_> =
        (0..512).map(|_| transfer((random.below(1_000), random.below(1_000)), true)).collect();
    let mut database = world.warm_database();
    let times = (0..11).map(|_| world.theirs(&mut database, &calls).time).collect();
    Times::of(times).median.as_secs_f64() / calls.len() as f64
}

fn main() {
    let (blocks, per_block, senders) = if only_test() { (2, 16, 64) } else { (200, MAX_BLOCK_TXS, 4_096) };
    // Bytes hashed for each key stand in the table beside p.
    for (id, kind, others, hashed) in [
        ("block/replay/send/1e5", Kind::Send, 100_000, 680.0),
        ("block/replay/erc20/1e5", Kind::Token, 100_000, 680.0),
        ("block/replay/mixed/1e5", Kind::Mixed, 100_000, 680.0),
        ("block/replay/send/1e6", Kind::Send, 1_000_000, 1_080.0),
    ] {
        if !asked_for(id) {
            continue;
        }
        let others = if only_test() { 200 } else { others };
        let keys = chain::keys(senders);
        let contract = (TEST_TOKEN_20.address, TEST_TOKEN_20.code());
        let genesis = chain::genesis(&ChainSpec::privatenet(), &keys, others, Some(contract));
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (first, second) = (folder.path().join("first"), folder.path().join("second"));
        let mut ledger = open(&first, &genesis);
        // Contracts are there from height 2 on. Everyone gets some of the token, and sets coins aside.
        chain::extend(&mut ledger, &[]);
        for keys in keys.chunks(MAX_BLOCK_TXS) {
            let mint = |key: &SecretKey| {
                let input = token_input("mint", key.address(), 1_000_000);
                chain::call(key, 1, TEST_TOKEN_20.address, input).into()
            };
            chain::extend(&mut ledger, &keys.iter().map(mint).collect::<Vec<_>>());
            let reserves: Vec<_> = keys.iter().map(|key| chain::reserve(key, 2).into()).collect();
            chain::extend(&mut ledger, &reserves);
        }
        drop(ledger);
        copy(&first, &second);
        let mut ledger = open(&first, &genesis);
        let (next, paid) = (vec![2; keys.len()], vec![0; keys.len()]);
        let mut senders = Senders { keys, next, paid, random: Random::new(SEED) };
        let mut stored = Vec::new();
        for _ in 0..blocks {
            let candidates: Vec<_> = (0..per_block).map(|_| Arc::new(senders.transaction(kind))).collect();
            stored.push(chain::extend(&mut ledger, &candidates));
        }
        drop(ledger);
        let bytes: usize = stored.iter().flat_map(|(_, block)| &block.transactions).map(Vec::len).sum();
        let mut ledger = open(&second, &genesis);
        let mut times = Vec::new();
        let before = process_time();
        for (hash, block) in stored {
            times.push(timed(|| apply(&mut ledger, hash, block)).1);
        }
        let processor = process_time().saturating_sub(before).as_secs_f64();
        let total: f64 = times.iter().map(std::time::Duration::as_secs_f64).sum();

        let primitives = Primitives::measure();
        let accounts = others + senders.keys.len() as u64;
        let changed = 2 * per_block;
        let (send, token) =
            (primitives.send(accounts, changed), || primitives.erc20(raw_evm(), accounts, changed));
        let least = match kind {
            Kind::Send => send,
            Kind::Token => token(),
            Kind::Mixed => 0.65 * send + 0.3 * token() + 0.05 * primitives.service_payment(accounts, changed),
        };
        let count = (blocks * per_block) as f64;
        let (disk, sync) = (
            prim::disk(folder.path()).expect("the disk takes it"),
            prim::sync(folder.path()).expect("the disk takes it").as_secs_f64(),
        );
        let written = bytes as f64 / count + 2.0 * hashed;
        let ceiling = (CORES / least).min(disk / written).min(per_block as f64 / sync);
        println!(
            "{id}: t_rec {:.1} µs, t_sync {:.0} µs, disk {:.0} MB/s, T {:.1} µs; slowest block {:.1} ms",
            primitives.recover * 1e6,
            sync * 1e6,
            disk / 1e6,
            least * 1e6,
            times.iter().max().expect("some").as_secs_f64() * 1e3,
        );
        report(id, "tx", per_block as f64, Times::of(times), ceiling);
        println!("{id}: {:.0} tx/s over all blocks", count / total);
        // What the cores did, the store's threads included: where others use them too, this says more than the clock.
        report_time(&format!("{id}/cpu"), processor / count * 1e9, least * 1e9);
    }
}
