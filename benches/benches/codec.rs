//! `codec/{tx,block}/{enc,dec}`: one transaction of each kind, and a block of 512 transfers, in our codec and in alloy-rlp on
//! the same fields. Both give the same bytes. `codec/tx/hostile` reads inputs whose lengths lie.

#![allow(missing_docs, reason = "criterion's macros make items without any")]

use std::{hint::black_box, time::Duration};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use theta_benches::{Times, busy, chain, only_test, report_ratio};
use theta_core::{
    amount::{Coins, TFuelWei, ThetaWei},
    block::{Block, Header, MAX_BLOCK_BYTES},
    codec::rlp::{Decode as _, Encode as _},
    hash::Address,
    sign::Signature,
};
use theta_ledger::{
    state::account::Split,
    tx::{
        Coinbase, DepositStake, DepositStakeV2, Purpose, ReleaseFund, ReserveFund, Send, ServicePayment,
        SetSplitRule, Slash, SmartContract, StakeRewardDistribution, Transaction, TxCoins, TxInput, TxOutput,
        WithdrawStake,
    },
};

/// The same fields in alloy's types.
mod peer {
    use alloy_primitives::{Address, B256, Bytes, FixedBytes, U256};
    use alloy_rlp::{BufMut, Decodable, Encodable, RlpDecodable, RlpEncodable};

    macro_rules! records {
        ($($name:ident { $($field:ident: $kind:ty),* })*) => {
            $(#[derive(RlpEncodable, RlpDecodable)]
            pub(crate) struct $name { $($field: $kind),* })*
        };
    }

    records! {
        Coins { theta: U256, tfuel: U256 }
        Input { address: Address, coins: Coins, sequence: u64, signature: Bytes }
        Output { address: Address, coins: Coins }
        Part { address: Address, percentage: u64 }
        Coinbase { proposer: Input, outputs: Vec<Output>, height: u64 }
        Slash { proposer: Input, slashed: Address, reserve: u64, proof: Bytes }
        Send { fee: Coins, inputs: Vec<Input>, outputs: Vec<Output> }
        Reserve { fee: Coins, source: Input, collateral: Coins, resources: Vec<Bytes>, duration: u64 }
        Release { fee: Coins, source: Input, reserve: u64 }
        Payment { fee: Coins, source: Input, target: Input, payment: u64, reserve: u64, resource: Bytes }
        Splits { fee: Coins, resource: Bytes, initiator: Input, splits: Vec<Part>, duration: u64 }
        Contract { from: Input, to: Output, gas_limit: u64, gas_price: U256, data: Bytes }
        Stake { fee: Coins, source: Input, holder: Output, purpose: u8 }
        StakeWithKey {
            fee: Coins, source: Input, holder: Output, purpose: u8, key: Bytes, proof: Bytes, signature: Bytes
        }
        Distribution { fee: Coins, holder: Input, beneficiary: Output, points: u64 }
        Certificate { votes: Vec<u64>, block: B256 }
        Header {
            chain: String, epoch: u64, height: u64, parent: B256, certificate: Certificate, transactions: B256,
            receipts: B256, bloom: FixedBytes<256>, state: B256, timestamp: U256, proposer: Address,
            signature: Bytes
        }
        Block { header: Header, transactions: Vec<Bytes> }
    }

    macro_rules! kinds {
        ($($number:literal $name:ident($body:ty)),* $(,)?) => {
            pub(crate) enum Transaction { $($name($body)),* }

            impl Transaction {
                pub(crate) fn decode(mut bytes: &[u8]) -> alloy_rlp::Result<Self> {
                    match u16::decode(&mut bytes)? {
                        $($number => <$body>::decode(&mut bytes).map(Self::$name),)*
                        _ => Err(alloy_rlp::Error::Custom("no such kind")),
                    }
                }

                pub(crate) fn encode(&self) -> Vec<u8> {
                    let mut out = Vec::new();
                    let buffer: &mut dyn BufMut = &mut out;
                    match self {
                        $(Self::$name(body) => {
                            ($number as u16).encode(buffer);
                            body.encode(buffer);
                        })*
                    }
                    out
                }
            }
        };
    }

    kinds! {
        0 Coinbase(Coinbase),
        1 Slash(Slash),
        2 Send(Send),
        3 Reserve(Reserve),
        4 Release(Release),
        5 Payment(Payment),
        6 Splits(Splits),
        7 Contract(Contract),
        8 Deposit(Stake),
        9 Withdraw(Stake),
        10 StakeWithKey(StakeWithKey),
        11 Distribution(Distribution),
    }
}

/// One transaction of each kind.
fn kinds() -> Vec<Transaction> {
    let address = Address::repeat_byte(0x11);
    let coins: TxCoins = Coins { theta: ThetaWei::whole(7), tfuel: TFuelWei::whole(9) }.into();
    let signature = Signature::from_bytes(vec![0x5a; 65]);
    let input = TxInput { address, coins: coins.clone(), sequence: 77, signature: signature.clone() };
    let output = TxOutput { address, coins: coins.clone() };
    let (fee, resource) = (coins.clone(), b"a resource".to_vec());
    vec![
        Coinbase { proposer: input.clone(), outputs: vec![output.clone(); 2], block_height: 70_000 }.into(),
        Slash {
            proposer: input.clone(),
            slashed_address: address,
            reserve_sequence: 7,
            slash_proof: vec![1; 200],
        }
        .into(),
        Send { fee: fee.clone(), inputs: vec![input.clone()], outputs: vec![output.clone(); 2] }.into(),
        ReserveFund {
            fee: fee.clone(),
            source: input.clone(),
            collateral: coins,
            resource_ids: vec![resource.clone(); 2],
            duration: 1_000,
        }
        .into(),
        ReleaseFund { fee: fee.clone(), source: input.clone(), reserve_sequence: 7 }.into(),
        ServicePayment {
            fee: fee.clone(),
            source: input.clone(),
            target: input.clone(),
            payment_sequence: 3,
            reserve_sequence: 7,
            resource_id: resource.clone(),
        }
        .into(),
        SetSplitRule {
            fee: fee.clone(),
            resource_id: resource,
            initiator: input.clone(),
            splits: vec![Split { address, percentage: 30 }; 2],
            duration: 1_000,
        }
        .into(),
        SmartContract {
            from: input.clone(),
            to: output.clone(),
            gas_limit: 100_000,
            gas_price: 4_000_000_000_000_u64.into(),
            data: vec![0x77; 68],
            typed: None,
        }
        .into(),
        DepositStake {
            fee: fee.clone(),
            source: input.clone(),
            holder: output.clone(),
            purpose: Purpose::VALIDATOR,
        }
        .into(),
        WithdrawStake {
            fee: fee.clone(),
            source: input.clone(),
            holder: output.clone(),
            purpose: Purpose::VALIDATOR,
        }
        .into(),
        DepositStakeV2 {
            fee: fee.clone(),
            source: input.clone(),
            holder: output.clone(),
            purpose: Purpose::GUARDIAN,
            key: None,
            proof: None,
            holder_signature: signature,
        }
        .into(),
        StakeRewardDistribution { fee, holder: input, beneficiary: output, split_basis_point: 100 }.into(),
    ]
}

/// A block of 512 transfers.
fn block() -> Block {
    let keys = chain::keys(8);
    let transfer =
        |index: usize| chain::send(&keys[index % 8], index as u64, Address::repeat_byte(0x22)).bytes;
    let header = Header { chain: chain::NAME.to_owned(), height: 9_000, epoch: 9_100, ..Header::zero() };
    Block { header, transactions: (0..512).map(transfer).collect() }
}

/// Both sides by turns: what one call takes of ours and of the peer's.
fn compare(criterion: &mut Criterion, id: &str, bytes: u64, ours: impl Fn(), theirs: impl Fn()) {
    let mut group = criterion.benchmark_group("codec");
    group.sample_size(20).measurement_time(Duration::from_secs(2)).throughput(Throughput::Bytes(bytes));
    group.bench_function(id, |bencher| bencher.iter(&ours));
    group.bench_function(format!("{id}/alloy-rlp"), |bencher| bencher.iter(&theirs));
    group.finish();
    let (rounds, repeats) = if only_test() { (1, 1) } else { (21, 1 + 2_000_000 / bytes) };
    let (mut own, mut other) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        own.push(busy(|| (0..repeats).for_each(|_| ours())).1);
        other.push(busy(|| (0..repeats).for_each(|_| theirs())).1);
    }
    let megabytes =
        |times: Vec<Duration>| (repeats * bytes) as f64 / 1e6 / Times::of(times).median.as_secs_f64();
    report_ratio(&format!("codec/{id}"), "MB", megabytes(own), ("alloy-rlp", megabytes(other)));
}

fn codec(criterion: &mut Criterion) {
    let ours = kinds();
    let bytes: Vec<Vec<u8>> = ours.iter().map(Transaction::encode).collect();
    let theirs: Vec<_> =
        bytes.iter().map(|bytes| peer::Transaction::decode(bytes).expect("the same fields")).collect();
    for ((own, bytes), other) in ours.iter().zip(&bytes).zip(&theirs) {
        assert_eq!(&other.encode(), bytes, "kind {}", own.kind());
    }
    let total = bytes.iter().map(Vec::len).sum::<usize>() as u64;
    let each = |act: &dyn Fn(&[u8])| bytes.iter().for_each(|bytes| act(bytes));
    compare(
        criterion,
        "tx/enc",
        total,
        || ours.iter().for_each(|own| drop(black_box(own.encode()))),
        || theirs.iter().for_each(|other| drop(black_box(other.encode()))),
    );
    compare(
        criterion,
        "tx/dec",
        total,
        || each(&|bytes| _ = black_box(Transaction::decode(bytes).is_ok())),
        || each(&|bytes| _ = black_box(peer::Transaction::decode(bytes).is_ok())),
    );
    // The length of the body, which stands behind the kind, says more than there is, or more than fits any memory.
    let hostile: Vec<Vec<u8>> = bytes
        .iter()
        .flat_map(|bytes| {
            let mut huge = bytes.clone();
            huge[1..10].copy_from_slice(&[0xff; 9]);
            [bytes[..bytes.len() - 1].to_vec(), huge]
        })
        .collect();
    for bytes in &hostile {
        assert!(Transaction::decode(bytes).is_err() && peer::Transaction::decode(bytes).is_err());
    }
    compare(
        criterion,
        "tx/hostile",
        hostile.iter().map(Vec::len).sum::<usize>() as u64,
        || hostile.iter().for_each(|bytes| _ = black_box(Transaction::decode(bytes).is_err())),
        || hostile.iter().for_each(|bytes| _ = black_box(peer::Transaction::decode(bytes).is_err())),
    );

    let own = block();
    let bytes = own.to_rlp();
    let decode =
        |mut bytes: &[u8]| <peer::Block as alloy_rlp::Decodable>::decode(&mut bytes).expect("a block");
    let other = decode(&bytes);
    assert_eq!(alloy_rlp::encode(&other), bytes);
    let size = bytes.len() as u64;
    compare(
        criterion,
        "block/enc",
        size,
        || drop(black_box(own.to_rlp())),
        || drop(black_box(alloy_rlp::encode(&other))),
    );
    compare(
        criterion,
        "block/dec",
        size,
        || drop(black_box(Block::from_rlp(&bytes, MAX_BLOCK_BYTES).expect("a block"))),
        || drop(black_box(decode(&bytes))),
    );
}

criterion_group!(benches, codec);
criterion_main!(benches);
