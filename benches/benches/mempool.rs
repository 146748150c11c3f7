//! `mempool/{insert,reap}/{1e3,1e5}`: operations on a pool in which so many transactions of 1000 senders wait.
//!
//! `insert` is decoding, checks and admission less one recovery: nine new transactions, of which every tenth leaves a gap
//! that the next one fills, for each replacement, and one in twenty that is not valid. `reap` is what one of 512 candidates
//! of a block costs. Beside 2 µs, scaled by how fast the machine recovers signers, where 25 µs count as one.

use theta_benches::{Random, SEED, Times, asked_for, busy, chain, only_test, prim, report_time};
use theta_core::{
    amount::{Coins, TFuelWei},
    hash::Address,
    sign::SecretKey,
    spec::ChainSpec,
};
use theta_ledger::{
    MAX_BLOCK_TXS,
    ledger::{At, Ledger},
    mempool::{Admitted, Mempool, MempoolLimits},
};

const GOAL: f64 = 2e-6;
const SCALE: f64 = 25e-6;

struct Senders {
    keys: Vec<SecretKey>,
    /// The next sequence of each.
    next: Vec<u64>,
    random: Random,
}

impl Senders {
    /// A transaction that has not been made yet, with a fee that is chance.
    fn fresh(&mut self, sender: usize, sequence: u64) -> Vec<u8> {
        let fee = chain::fee().checked_add(Coins::tfuel(TFuelWei::wei(self.random.below(1 << 40))));
        let to = theta_benches::state::address(self.random.below(1 << 30));
        chain::send_with(&self.keys[sender], sequence, to, fee.expect("small")).bytes
    }

    fn next(&mut self, sender: usize) -> Vec<u8> {
        let sequence = self.next[sender];
        self.next[sender] += 1;
        self.fresh(sender, sequence)
    }
}

/// What becomes of it, in the order in which it is offered.
fn operations(senders: &mut Senders, count: usize) -> Vec<(Vec<u8>, bool)> {
    let mut all = Vec::new();
    while all.len() < count {
        let sender = senders.random.below(senders.keys.len() as u64) as usize;
        match senders.random.below(20) {
            0 => {
                // Of a sequence that is past.
                all.push((senders.fresh(sender, 0), false));
            }
            1 | 2 => {
                // Twice the fee for a sequence that waits.
                let sequence = senders.next[sender] - 1;
                let fee = chain::fee().checked_add(chain::fee()).expect("small");
                let key = &senders.keys[sender];
                all.push((chain::send_with(key, sequence, Address::repeat_byte(7), fee).bytes, true));
                // Not twice the same.
                senders.next[sender] += 1;
                all.push((senders.fresh(sender, sequence + 1), true));
            }
            3 | 4 => {
                let (first, second) = (senders.next(sender), senders.next(sender));
                all.extend([(second, true), (first, true)]);
            }
            _ => all.push((senders.next(sender), true)),
        }
    }
    all
}

fn main() {
    let sizes: &[(usize, &str)] =
        if only_test() { &[(100, "1e2")] } else { &[(1_000, "1e3"), (100_000, "1e5")] };
    let rounds = if only_test() { 1 } else { 11 };
    for (size, name) in sizes {
        if !asked_for(&format!("mempool/insert/{name}")) && !asked_for(&format!("mempool/reap/{name}")) {
            continue;
        }
        let keys = chain::keys(if only_test() { 20 } else { 1_000 });
        let spec = ChainSpec::privatenet();
        let genesis = chain::genesis(&spec, &keys, 0, None);
        let mut ledger = Ledger::builder(spec).open(&genesis).expect("a genesis");
        chain::extend(&mut ledger, &[]);
        let limits = MempoolLimits { transactions: 1 << 20, per_sender: 1 << 16, ..MempoolLimits::default() };
        let mut pool = Mempool::new(ledger.reader(), limits).expect("a state");
        let mut senders = Senders { next: vec![1; keys.len()], keys, random: Random::new(SEED) };
        for index in 0..*size {
            let bytes = senders.next(index % senders.keys.len());
            let screened = pool.screen().check(bytes).expect("a transfer");
            assert!(matches!(pool.insert(screened, 0), Ok(Admitted::Ready(_))));
        }
        let (mut inserts, mut reaps, mut recoveries) = (Vec::new(), Vec::new(), Vec::new());
        let each_round = if only_test() { 40 } else { 200 };
        let mut view = ledger.reader().state(At::Settled).expect("a state");
        for _ in 0..rounds {
            let offered = operations(&mut senders, each_round);
            let count = offered.len() as u32;
            let ((), time) = busy(|| {
                for (bytes, good) in offered {
                    let admitted = pool.screen().check(bytes).and_then(|screened| pool.insert(screened, 0));
                    assert_eq!(admitted.is_ok(), good, "{admitted:?}");
                }
            });
            // By turns, so that a machine that is busy for a while slows both.
            let recover = prim::recover();
            recoveries.push(recover);
            inserts.push((time / count).saturating_sub(recover));
            let (chosen, time) =
                busy(|| pool.candidates(&mut view, MAX_BLOCK_TXS, usize::MAX).expect("a state"));
            assert_eq!(chosen.len(), MAX_BLOCK_TXS.min(pool.len()));
            reaps.push(time / chosen.len() as u32);
        }
        let goal = GOAL * Times::of(recoveries).median.as_secs_f64() / SCALE;
        let insert = Times::of(inserts).median.as_secs_f64();
        let reap = Times::of(reaps).median.as_secs_f64();
        for (operation, time) in [("insert", insert), ("reap", reap)] {
            report_time(&format!("mempool/{operation}/{name}"), time * 1e9, goal * 1e9);
        }
    }
}
