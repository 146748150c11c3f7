//! `exec/{send,split,reserve,svcpay,stake}`: 1024 transactions of one kind, decoded, checked and carried out on a view that
//! has read nothing, and the new root; their signers are known. Beside the least that this can cost.

use theta_benches::{Times, asked_for, busy, ceiling::Primitives, chain, only_test, report_time};
use theta_core::{sign::SecretKey, spec::ChainSpec};
use theta_ledger::{
    MAX_BLOCK_TXS,
    ledger::{At, Ledger},
    tx::RawTx,
    vm::NoContracts,
};

type Make = fn(&SecretKey, u64, &SecretKey) -> RawTx;

fn main() {
    let (count, others, rounds) = if only_test() { (32, 500, 1) } else { (1_024, 100_000, 11) };
    let keys = chain::keys(2 * count);
    let (payers, payees) = keys.split_at(count as usize);
    let spec = ChainSpec::privatenet();
    let genesis = chain::genesis(&spec, &keys, others, None);
    let mut ledger = Ledger::builder(spec).open(&genesis).expect("a genesis");
    // Each payer's first transaction sets coins aside, so that all kinds find the same accounts.
    for payers in payers.chunks(MAX_BLOCK_TXS) {
        let reserves: Vec<_> = payers.iter().map(|payer| chain::reserve(payer, 1).into()).collect();
        chain::extend(&mut ledger, &reserves);
    }
    let kinds: [(&str, Make); 5] = [
        ("send", |payer, sequence, payee| chain::send(payer, sequence, payee.address())),
        ("split", |payer, sequence, payee| chain::split(payer, sequence, payee.address())),
        ("reserve", |payer, sequence, _| chain::reserve(payer, sequence)),
        ("svcpay", |payer, _, payee| chain::pay(payer, payee, 1, 1)),
        ("stake", |payer, sequence, _| chain::stake(payer, sequence)),
    ];
    for (kind, make) in kinds {
        let id = format!("exec/{kind}");
        if !asked_for(&id) {
            continue;
        }
        let raws: Vec<RawTx> =
            payers.iter().zip(payees).map(|(payer, payee)| make(payer, 2, payee)).collect();
        let reader = ledger.reader();
        let run = || {
            let (mut view, context) = reader.next_block(At::Settled).expect("stored");
            let bytes: Vec<Vec<u8>> = raws.iter().map(|raw| raw.bytes.clone()).collect();
            busy(|| {
                reader.with_scope(&context, &NoContracts, |scope| {
                    for bytes in bytes {
                        let raw = RawTx::decode(bytes).expect("just made");
                        raw.transaction.check(scope, &mut view).expect("valid");
                        raw.transaction.apply(scope, &mut view).expect("valid");
                    }
                });
                view.root().expect("stored")
            })
            .1
        };
        // The first recovers the signers.
        run();
        let primitives = Primitives::measure();
        let time = Times::of((0..rounds).map(|_| run()).collect()).median.as_secs_f64() / raws.len() as f64;
        let (accounts, keys) = (2 * count + others, 2 * raws.len());
        let least = match kind {
            "svcpay" => primitives.service_payment(accounts, keys) - 2.0 * primitives.recover,
            _ => primitives.send(accounts, keys) - primitives.recover,
        };
        report_time(&id, time * 1e9, least * 1e9);
    }
}
