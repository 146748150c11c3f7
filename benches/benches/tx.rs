//! `tx/verify`: sign bytes and recovery of 1024 different transfers, beside the bare recoveries.

#![allow(missing_docs, reason = "criterion's macros make items without any")]

use std::{hint::black_box, time::Duration};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use theta_benches::{Random, SEED, Times, busy, only_test, prim::Recovery, report, state::address, timed};
use theta_core::{
    amount::{Coins, TFuelWei},
    hash::keccak,
    sign::SecretKey,
};
use theta_ledger::tx::{Body, RawTx, Send, Transaction, TxInput, TxOutput, Unsigned, sign_bytes};

const COUNT: usize = 1024;
const CHAIN: &str = "privatenet";

struct Inputs {
    transfers: Vec<RawTx>,
    recoveries: Vec<Recovery>,
}

impl Inputs {
    fn new(count: usize) -> Self {
        let mut random = Random::new(SEED);
        let (mut transfers, mut recoveries) = (Vec::new(), Vec::new());
        for number in 0..count as u64 {
            let key = SecretKey::from_bytes(keccak(random.next_u64().to_be_bytes()).as_slice())
                .expect("nearly all words are keys");
            let (amount, fee) =
                (Coins::tfuel(TFuelWei::wei(random.next_u64())), Coins::tfuel(TFuelWei::wei(1_u64 << 58)));
            let body = Send {
                fee: fee.into(),
                inputs: vec![TxInput::new(
                    key.address(),
                    amount.checked_add(fee).expect("small"),
                    1 + random.below(1000),
                )],
                outputs: vec![TxOutput::new(address(number), amount)],
            };
            let unsigned = Unsigned::new(CHAIN, body);
            recoveries.push(Recovery::new(&key, unsigned.digest()));
            transfers.push(unsigned.sign(&key).expect("a key in memory signs"));
        }
        Self { transfers, recoveries }
    }
}

/// What a node does before anything else: is it the sender's signature over the sign bytes of this chain?
fn verify(raw: &RawTx) {
    let Transaction::Send(send) = &raw.transaction else { unreachable!("only transfers were made") };
    let digest = keccak(sign_bytes(CHAIN, &send.signed_part(), false));
    let [input] = send.inputs.as_slice() else { unreachable!("one input each") };
    assert_eq!(black_box(input.signature.recover(&digest)), Ok(input.address));
}

fn on_threads<T: Sync>(threads: usize, items: &[T], act: impl Fn(&T) + Sync) {
    if threads == 1 {
        return items.iter().for_each(act);
    }
    std::thread::scope(|scope| {
        for part in items.chunks(items.len().div_ceil(threads)) {
            let act = &act;
            scope.spawn(move || part.iter().for_each(act));
        }
    });
}

fn tx_verify(criterion: &mut Criterion) {
    let inputs = Inputs::new(if only_test() { 32 } else { COUNT });
    let mut group = criterion.benchmark_group("tx");
    group.sample_size(20).measurement_time(Duration::from_secs(5));
    group.throughput(Throughput::Elements(inputs.transfers.len() as u64));
    for threads in [1, 2] {
        group.bench_function(format!("verify/{threads}"), |bencher| {
            bencher.iter(|| on_threads(threads, &inputs.transfers, verify));
        });
        group.bench_function(format!("recover/{threads}"), |bencher| {
            bencher.iter(|| on_threads(threads, &inputs.recoveries, Recovery::run));
        });
    }
    group.finish();
    // A B A B, so that a machine that is busy for a while slows both.
    let rounds = if only_test() { 1 } else { 21 };
    for threads in [1, 2] {
        let (mut ours, mut bare) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let (verify, recover) = (
                || on_threads(threads, &inputs.transfers, verify),
                || on_threads(1, &inputs.recoveries, Recovery::run),
            );
            // What several threads gain only the clock on the wall shows.
            let (own, other) = if threads == 1 {
                (busy(verify).1, busy(recover).1)
            } else {
                (timed(verify).1, timed(recover).1)
            };
            ours.push(own);
            bare.push(other);
        }
        let count = inputs.transfers.len() as f64;
        let ceiling = threads as f64 * count / Times::of(bare).median.as_secs_f64();
        report(&format!("tx/verify/{threads}"), "tx", count, Times::of(ours), ceiling);
    }
}

criterion_group!(benches, tx_verify);
criterion_main!(benches);
