//! A chain of one validator with many accounts, and transactions of theirs.

use std::sync::Arc;

use theta_core::{
    amount::{Coins, TFuelWei, ThetaWei},
    block::{Block, CommitCertificate, Header},
    context::Finality,
    hash::{Address, Hash, U256, keccak},
    sign::SecretKey,
    spec::ChainSpec,
    vote::{Vote, VoteSet},
};
use theta_ledger::{
    genesis::{Genesis, GenesisBuilder},
    ledger::{At, Ledger},
    state::account::Split,
    tx::{
        DepositStake, Purpose, RawTx, ReserveFund, Send, ServicePayment, SetSplitRule, SmartContract,
        TxInput, TxOutput, Unsigned,
    },
    vm::VmCall,
};

/// The chain's name.
pub const NAME: &str = "privatenet";

/// Keys of the first accounts.
pub fn keys(count: u64) -> Vec<SecretKey> {
    (0..count)
        .map(|number| {
            let bytes = keccak([b"account".as_slice(), &number.to_be_bytes()].concat());
            SecretKey::from_bytes(bytes.as_slice()).expect("nearly all words are keys")
        })
        .collect()
}

/// The validator's key.
pub fn validator() -> SecretKey {
    SecretKey::from_bytes(&[9; 32]).expect("in range")
}

/// A genesis in which these accounts, and `others` whose keys nobody has, hold coins, with one contract if any.
pub fn genesis(
    spec: &ChainSpec,
    keys: &[SecretKey],
    others: u64,
    contract: Option<(Address, Vec<u8>)>,
) -> Genesis {
    let rich = Coins { theta: ThetaWei::whole(20_000_000), tfuel: TFuelWei::whole(1_000_000) };
    let validator = validator().address();
    let mut builder =
        GenesisBuilder::new(spec, 1_700_000_000).validator(validator, validator, ThetaWei::whole(5_000_000));
    for address in keys.iter().map(SecretKey::address).chain((0..others).map(crate::state::address)) {
        builder = builder.account(address, rich);
    }
    if let Some((address, code)) = contract {
        builder = builder.contract(address, code);
    }
    builder.build()
}

/// What a transfer or another simple transaction costs.
pub fn fee() -> Coins {
    Coins::tfuel(TFuelWei::wei(300_000_000_000_000_000_u64))
}

/// A transfer of one TFUEL.
pub fn send(from: &SecretKey, sequence: u64, to: Address) -> RawTx {
    send_with(from, sequence, to, fee())
}

/// A transfer of one TFUEL that offers this fee.
pub fn send_with(from: &SecretKey, sequence: u64, to: Address, fee: Coins) -> RawTx {
    let amount = Coins::tfuel(TFuelWei::whole(1));
    let body = Send {
        fee: fee.into(),
        inputs: vec![TxInput::new(from.address(), amount.checked_add(fee).expect("small"), sequence)],
        outputs: vec![TxOutput::new(to, amount)],
    };
    Unsigned::new(NAME, body).sign(from).expect("a key in memory signs")
}

/// The validator's vote for a block.
fn votes(block: &Header) -> VoteSet {
    let (hash, voter) = (block.hash(), validator().address());
    let mut vote = Vote::unsigned(hash, block.height, block.epoch, voter);
    vote.signature = validator().sign_digest(&vote.digest());
    VoteSet::new([vote])
}

/// [`apply_next`], and settles it.
pub fn extend(ledger: &mut Ledger, candidates: &[Arc<RawTx>]) -> (Hash, Arc<Block>) {
    let (hash, block) = apply_next(ledger, candidates);
    ledger.reached(Finality::Settled, &hash).expect("just applied");
    (hash, block)
}

/// Builds a block of the candidates, all of which have to be valid, on the newest settled one, and applies it.
pub fn apply_next(ledger: &mut Ledger, candidates: &[Arc<RawTx>]) -> (Hash, Arc<Block>) {
    let reader = ledger.reader();
    let (_, mut context) = reader.next_block(At::Settled).expect("stored");
    context.proposer = validator().address();
    let (body, left_out) = ledger.build_block(&context, candidates, &validator()).expect("a block");
    if let Some((hash, error)) = left_out.first() {
        panic!("{hash}: {error}");
    }
    assert_eq!(body.transactions.len(), candidates.len() + 1, "a block takes no more");
    let mut block = context.block(reader.spec().rules(context.height()).header, body);
    // Genesis needs no votes.
    let votes = context.parent.height.checked_sub(1).map(|_| votes(&context.parent)).unwrap_or_default();
    block.header.certificate = CommitCertificate { votes: votes.into(), block: context.parent_hash };
    block.header.sign(&validator()).expect("a key in memory signs");
    let (hash, block) = (block.header.hash(), Arc::new(block));
    ledger.apply_block(&context, hash, block.clone()).expect("just built");
    (hash, block)
}

/// Sets 100 TFUEL aside for [`RESOURCE`].
pub fn reserve(from: &SecretKey, sequence: u64) -> RawTx {
    let body = ReserveFund {
        fee: fee().into(),
        source: TxInput::new(from.address(), Coins::tfuel(TFuelWei::whole(100)), sequence),
        collateral: Coins::tfuel(TFuelWei::whole(101)).into(),
        resource_ids: vec![RESOURCE.to_vec()],
        duration: 40_000,
    };
    Unsigned::new(NAME, body).sign(from).expect("a key in memory signs")
}

/// What coins are set aside for.
pub const RESOURCE: &[u8] = b"a resource";

/// Pays one wei out of a fund.
pub fn pay(payer: &SecretKey, payee: &SecretKey, payment_sequence: u64, reserve_sequence: u64) -> RawTx {
    let amount = TFuelWei::wei(1_u64);
    let (from, to) = (payer.address(), payee.address());
    let mut body =
        ServicePayment::new(from, to, amount, payment_sequence, reserve_sequence, RESOURCE.to_vec());
    body.fee = fee().into();
    body.sign_as_payer(NAME, payer).expect("a key in memory signs");
    Unsigned::new(NAME, body).sign(payee).expect("a key in memory signs")
}

/// Shares payments for a resource of one's own with another.
pub fn split(from: &SecretKey, sequence: u64, with: Address) -> RawTx {
    let body = SetSplitRule {
        fee: fee().into(),
        resource_id: from.address().to_vec(),
        initiator: TxInput::new(from.address(), Coins::ZERO, sequence),
        splits: vec![Split { address: with, percentage: 30 }],
        duration: 1_000,
    };
    Unsigned::new(NAME, body).sign(from).expect("a key in memory signs")
}

/// Stakes behind the validator.
pub fn stake(from: &SecretKey, sequence: u64) -> RawTx {
    let body = DepositStake {
        fee: fee().into(),
        source: TxInput::new(from.address(), Coins::theta(ThetaWei::whole(5_000_000)), sequence),
        holder: TxOutput::new(validator().address(), Coins::ZERO),
        purpose: Purpose::VALIDATOR,
    };
    Unsigned::new(NAME, body).sign(from).expect("a key in memory signs")
}

/// Calls a contract.
pub fn call(from: &SecretKey, sequence: u64, to: Address, data: Vec<u8>) -> RawTx {
    let call = VmCall {
        to: Some(to),
        gas_limit: 200_000,
        gas_price: U256::from(4_000_000_000_000_u64),
        data,
        ..VmCall::default()
    };
    let body = SmartContract::new(TxInput::new(from.address(), Coins::ZERO, sequence), &call);
    Unsigned::new(NAME, body).sign(from).expect("a key in memory signs")
}
