//! No coin is made or lost but by the rules, and every limit is an error that names its rule.

use std::{collections::BTreeMap, sync::Arc};

use num_bigint::BigUint;
use proptest::prelude::*;
use theta_core::{
    amount::{Coins, TFuelWei, ThetaWei, from_big, to_big},
    bls::{self, Suite},
    codec::rlp::{Decode, Encode, Fault},
    context::Finality,
    hash::{Address, Hash, U256, keccak},
    sign::SecretKey,
    spec::ChainSpec,
    stake::{EliteEdgeNode, GuardianPool, ValidatorPool},
    trie::{NoNodes, Trie},
};
use theta_ledger::{
    ContractResult, MAX_BLOCK_TXS,
    genesis::{Genesis, GenesisBuilder},
    ledger::{At, Ledger, LedgerReader},
    state::{Account, ReservedFund, StateError, StateView, account::Split, keys},
    tx::{
        Body, Coinbase, DepositStake, DepositStakeV2, MAX_TX_BYTES, Purpose, RawTx, ReleaseFund, ReserveFund,
        Send, ServicePayment, SetSplitRule, Slash, SmartContract, StakeRewardDistribution, Transaction,
        TxCoins, TxError, TxInput, TxOutput, Unsigned, WithdrawStake,
    },
    vm::{ContractVm, VmCall, VmEnv, VmOutcome},
};

use super::{
    codec::Any,
    ledger::{extend, key},
};

const CHAIN: &str = "privatenet";
const GAS_PRICE: u64 = 4_000_000_000_000;
/// Keys that have coins; the ninth is the validator's.
const RICH: u8 = 5;

fn theta(whole: u64) -> Coins {
    Coins::theta(ThetaWei::whole(whole))
}

fn tfuel(whole: u64) -> Coins {
    Coins::tfuel(TFuelWei::whole(whole))
}

fn fee() -> Coins {
    Coins::tfuel("0.3".parse().unwrap())
}

/// Sends what the call carries, and fails where the input says so.
struct Sender;

impl ContractVm for Sender {
    fn execute(&self, _: &VmEnv<'_>, call: &VmCall, view: &mut StateView) -> Result<VmOutcome, StateError> {
        let coins = Coins { theta: ThetaWei::from_u256(call.theta), tfuel: TFuelWei::from_u256(call.tfuel) };
        let mut from = view.load_or_new(call.from)?;
        if call.to.is_none() {
            from.sequence += 1;
        }
        let gas_used = call.gas_limit / 2;
        let contract = call.to.unwrap_or(Address::repeat_byte(0xc0));
        let left = from.balance.checked_sub(coins).filter(|_| call.data.first() != Some(&1));
        view.store(from.clone());
        let Some(left) = left else {
            return Ok(VmOutcome { gas_used, error: "no".to_owned(), contract, ..VmOutcome::default() });
        };
        from.balance = left;
        view.store(from);
        let mut to = view.load_or_new(contract)?;
        to.balance = to.balance.checked_add(coins).unwrap();
        view.store(to);
        Ok(VmOutcome { gas_used, contract, ..VmOutcome::default() })
    }
}

/// Accounts with coins, two of them with funds that end soon and late.
fn genesis(spec: &ChainSpec) -> Genesis {
    let mut builder = GenesisBuilder::new(spec, 1_700_000_000).validator(
        key(9).address(),
        key(9).address(),
        ThetaWei::whole(5_000_000),
    );
    let rich = theta(20_000_000).checked_add(tfuel(50_000_000)).unwrap();
    for index in 1..=RICH {
        builder = builder.account(key(index).address(), rich);
    }
    let mut genesis = builder.build();
    for (index, end_height) in [(1, 2), (1, 400), (2, 3)] {
        let address = key(index).address();
        let record = &genesis.entries[&keys::account(address)];
        let mut account = Account::from_rlp(record, record.len()).unwrap();
        account.reserved_funds.push(ReservedFund {
            collateral: tfuel(101),
            initial: tfuel(100),
            used: tfuel(30),
            resources: vec![b"video".to_vec()],
            end_height,
            reserve_sequence: end_height,
            transfers: Vec::new(),
        });
        genesis.entries.insert(keys::account(address), account.to_rlp());
    }
    let mut trie = Trie::empty(Arc::new(NoNodes));
    for (key, value) in &genesis.entries {
        trie.set(key, value.clone()).unwrap();
    }
    genesis.header.state_root = trie.root();
    genesis
}

/// All THETA and all TFUEL of a state, in wei: balances, funds and stakes.
fn total(reader: &LedgerReader, block: Hash) -> (BigUint, BigUint) {
    let (mut theta, mut tfuel) = (BigUint::ZERO, BigUint::ZERO);
    let view = reader.state(At::Block(block)).unwrap();
    let visited = view.visit(&[], &mut |key, value| {
        if key.starts_with(keys::ACCOUNT) {
            let account = Account::from_rlp(value, value.len()).unwrap();
            let funds = account.reserved_funds.iter().flat_map(|fund| [fund.collateral, fund.left()]);
            for coins in funds.chain([account.balance]) {
                theta += to_big(coins.theta.get());
                tfuel += to_big(coins.tfuel.get());
            }
        } else if key == keys::VALIDATORS {
            let pool = ValidatorPool::from_rlp(value, value.len()).unwrap();
            let stakes = pool.candidates.iter().flat_map(|holder| &holder.stakes);
            theta += stakes.map(|stake| to_big(stake.amount.get())).sum::<BigUint>();
        } else if key == keys::GUARDIANS {
            let pool = GuardianPool::from_rlp(value, value.len()).unwrap();
            let stakes = pool.guardians.iter().flat_map(|guardian| &guardian.stakes.stakes);
            theta += stakes.map(|stake| to_big(stake.amount.get())).sum::<BigUint>();
        } else if key.starts_with(keys::ELITE) {
            let node = EliteEdgeNode::from_rlp(value, value.len()).unwrap();
            tfuel += node.stakes.stakes.iter().map(|stake| to_big(stake.amount.get())).sum::<BigUint>();
        }
        true
    });
    visited.unwrap();
    (theta, tfuel)
}

/// TFUEL that a transaction of a block burnt, and made.
fn burnt_and_made(raw: &RawTx, result: Option<ContractResult>) -> (BigUint, BigUint) {
    let burnt = match &raw.transaction {
        Transaction::Coinbase(tx) => {
            return (BigUint::ZERO, tx.outputs.iter().map(|output| &output.coins.tfuel).sum());
        }
        Transaction::SmartContract(tx) => &tx.gas_price * result.unwrap().receipt.gas_used,
        Transaction::Send(tx) => tx.fee.tfuel.clone(),
        Transaction::ReserveFund(tx) => tx.fee.tfuel.clone(),
        Transaction::ServicePayment(tx) => tx.fee.tfuel.clone(),
        Transaction::SplitRule(tx) => tx.fee.tfuel.clone(),
        Transaction::DepositStake(tx) => tx.fee.tfuel.clone(),
        Transaction::WithdrawStake(tx) => tx.fee.tfuel.clone(),
        Transaction::DepositStakeV2(tx) => tx.fee.tfuel.clone(),
        Transaction::StakeRewardDistribution(tx) => tx.fee.tfuel.clone(),
        other => panic!("cannot be in a block: {other:?}"),
    };
    (burnt, BigUint::ZERO)
}

fn signed(body: impl Body + Into<Transaction>, by: &SecretKey) -> Arc<RawTx> {
    Arc::new(Unsigned::new(CHAIN, body).sign(by).unwrap())
}

/// A guardian's or an elite edge node's deposit by its own key.
fn deposit_with_key(source: TxInput, holder: &SecretKey, purpose: Purpose, good: bool) -> DepositStakeV2 {
    let secret = bls::SecretKey::from_bytes(holder.address().into_word().as_slice()).unwrap();
    let proof = secret.proof_of_possession(Suite::Theta2020);
    let signature = holder.sign_digest(&if good { keccak(proof.as_bytes()) } else { Hash::ZERO });
    DepositStakeV2 {
        fee: fee().into(),
        source,
        holder: TxOutput::new(holder.address(), Coins::ZERO),
        purpose,
        key: Some(secret.public_key()),
        proof: Some(proof),
        holder_signature: signature,
    }
}

/// A transaction of any kind; most are valid, some are not.
fn any_transaction(
    any: &mut Any,
    sequences: &mut BTreeMap<Address, u64>,
    funds: &[(Address, u64)],
) -> Arc<RawTx> {
    let mut who = || key(any.below(u64::from(RICH)) as u8 + 1);
    let (from, to) = (who(), who());
    let next = sequences.entry(from.address()).or_default();
    *next += u64::from(any.below(12) > 0);
    let sequence = *next;
    let amount = match any.below(8) {
        0 => Coins::ZERO,
        1 => Coins::tfuel(TFuelWei::from_u256(U256::MAX)),
        2 => tfuel(50_000_000),
        _ => tfuel(any.below(1000)),
    };
    let whole = |coins: Coins| TxInput::new(from.address(), coins, sequence);
    let stake = |any: &mut Any, purpose| match purpose {
        Purpose::ELITE_EDGE => tfuel(10_000 + any.below(3) * 245_000),
        Purpose::GUARDIAN => theta(1_000 + any.below(10_000)),
        _ => theta(any.below(2) * 300_000 + any.below(1000)),
    };
    let purpose = Purpose(any.below(4) as u8);
    match any.below(13) {
        0 | 1 => {
            let output =
                TxOutput::new(if any.below(3) > 0 { to.address() } else { Address::repeat_byte(9) }, amount);
            let theta = if any.below(2) == 0 { theta(any.below(100)) } else { Coins::ZERO };
            let all = amount.checked_add(fee()).and_then(|all| all.checked_add(theta)).unwrap_or(amount);
            let outputs = vec![output, TxOutput::new(Address::repeat_byte(8), theta)];
            signed(Send { fee: fee().into(), inputs: vec![whole(all)], outputs }, &from)
        }
        2 => signed(
            ReserveFund {
                fee: fee().into(),
                source: whole(amount),
                collateral: amount.checked_add(tfuel(any.below(2))).unwrap_or(amount).into(),
                resource_ids: vec![b"video".to_vec(), Vec::new()],
                duration: 299 + any.below(3),
            },
            &from,
        ),
        3 => signed(
            ReleaseFund { fee: fee().into(), source: whole(Coins::ZERO), reserve_sequence: any.below(500) },
            &from,
        ),
        4 | 5 if !funds.is_empty() => {
            let (payer, reserve) = funds[any.below(funds.len() as u64) as usize];
            let payer = (1..=RICH).map(key).find(|key| key.address() == payer).unwrap();
            let wei = TFuelWei::whole(any.below(120));
            let resource = if any.below(5) > 0 { b"video".to_vec() } else { b"other".to_vec() };
            let number = any.below(50);
            let mut payment =
                ServicePayment::new(payer.address(), to.address(), wei, number, reserve, resource);
            payment.fee = fee().into();
            payment.sign_as_payer(CHAIN, &payer).unwrap();
            signed(payment, &to)
        }
        6 => signed(
            SetSplitRule {
                fee: fee().into(),
                resource_id: b"video".to_vec(),
                initiator: whole(Coins::ZERO),
                splits: (0..any.below(4))
                    .map(|_| Split {
                        address: key(any.below(7) as u8 + 1).address(),
                        percentage: any.below(60),
                    })
                    .collect(),
                duration: any.below(4),
            },
            &from,
        ),
        7 | 8 => {
            let coins = amount.checked_add(theta(any.below(3))).unwrap_or(amount);
            let call = VmCall {
                to: (any.below(3) > 0).then(|| to.address()),
                gas_limit: 100_000,
                gas_price: U256::from(GAS_PRICE),
                data: vec![any.below(3) as u8],
                ..VmCall::default()
            };
            signed(SmartContract::new(whole(coins), &call), &from)
        }
        9 => {
            let holder = TxOutput::new(key(9).address(), Coins::ZERO);
            let source = whole(stake(any, purpose));
            signed(DepositStake { fee: fee().into(), source, holder, purpose }, &from)
        }
        10 => {
            let source = whole(stake(any, purpose));
            signed(deposit_with_key(source, &to, purpose, any.below(6) > 0), &from)
        }
        11 => {
            let holder = if purpose == Purpose::VALIDATOR { key(9) } else { to };
            let holder = TxOutput::new(holder.address(), Coins::ZERO);
            signed(WithdrawStake { fee: fee().into(), source: whole(Coins::ZERO), holder, purpose }, &from)
        }
        _ => signed(
            StakeRewardDistribution {
                fee: fee().into(),
                holder: whole(Coins::ZERO),
                beneficiary: TxOutput::new(to.address(), Coins::ZERO),
                split_basis_point: any.below(1002),
            },
            &from,
        ),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn no_block_makes_or_loses_coins(seed in any::<u64>()) {
        let spec = ChainSpec::privatenet().with_lock_blocks(3);
        let genesis = genesis(&spec);
        let mut ledger = Ledger::builder(spec).contracts(Arc::new(Sender)).open(&genesis).unwrap();
        let reader = ledger.reader();
        let any = &mut Any(seed);
        let mut parent = genesis.hash();
        let mut before = total(&reader, parent);
        let mut kinds = BTreeMap::<u16, usize>::new();
        for _ in 0..14 {
            let (mut sequences, mut funds) = (BTreeMap::new(), Vec::new());
            let mut view = reader.state(At::Block(parent)).unwrap();
            for index in 1..=RICH {
                let account = view.account(key(index).address()).unwrap().unwrap();
                sequences.insert(account.address, account.sequence);
                funds.extend(account.reserved_funds.iter().map(|fund| (account.address, fund.reserve_sequence)));
            }
            let candidates: Vec<_> = (0..12).map(|_| any_transaction(any, &mut sequences, &funds)).collect();
            let (hash, block) = extend(&mut ledger, parent, &candidates);
            ledger.reached(Finality::Settled, &hash).unwrap();
            for bytes in &block.transactions {
                let raw = RawTx::decode(bytes.clone()).unwrap();
                *kinds.entry(raw.transaction.kind()).or_default() += 1;
                let (burnt, made) = burnt_and_made(&raw, reader.result(&raw.hash).unwrap());
                before.1 = &before.1 + made - burnt;
            }
            let after = total(&reader, hash);
            prop_assert_eq!(&after, &before, "height {}", block.header.height);
            parent = hash;
        }
        prop_assert!(kinds.len() >= 5, "few kinds were valid: {:?}", kinds);
    }
}

/// A ledger at a height where all kinds of transactions are known.
struct Limits {
    ledger: Ledger,
    parent: Hash,
}

impl Limits {
    fn new() -> Self {
        let spec = ChainSpec::privatenet();
        let genesis = genesis(&spec);
        let mut ledger = Ledger::builder(spec).contracts(Arc::new(Sender)).open(&genesis).unwrap();
        let (parent, _) = extend(&mut ledger, genesis.hash(), &[]);
        Self { ledger, parent }
    }

    /// Why a transaction, the first of its sender, cannot be in the next block.
    fn refusal(&mut self, raw: &Arc<RawTx>) -> Option<TxError> {
        let (_, mut context) = self.ledger.reader().next_block(At::Block(self.parent)).unwrap();
        context.proposer = key(9).address();
        let (_, left_out) = self.ledger.build_block(&context, std::slice::from_ref(raw), &key(9)).unwrap();
        left_out.into_iter().next().map(|(_, error)| error)
    }

    fn of(&mut self, body: impl Body + Into<Transaction>) -> Option<TxError> {
        self.refusal(&signed(body, &key(3)))
    }
}

fn input(coins: impl Into<TxCoins>) -> TxInput {
    TxInput { address: key(3).address(), coins: coins.into(), sequence: 1, ..TxInput::default() }
}

fn two_to(bits: u32) -> BigUint {
    BigUint::from(1_u8) << bits
}

fn wei(tfuel: BigUint) -> TxCoins {
    TxCoins { theta: BigUint::ZERO, tfuel }
}

macro_rules! refused {
    ($error:expr, $pattern:pat $(if $guard:expr)?) => {
        let error = $error;
        assert!(matches!(&error, Some($pattern) $(if $guard)?), "{error:?}");
        assert!(!error.unwrap().to_string().is_empty());
    };
}

#[test]
fn as_many_accounts_as_a_transaction_may_touch() {
    let mut limits = Limits::new();
    let mut send = |outputs: u64, inputs: usize| {
        let output =
            |index: u64| TxOutput::new(Address::left_padding_from(&(index + 1).to_be_bytes()), tfuel(1));
        // Half the least fee for each account, with two to spare.
        let fee = tfuel(outputs);
        let paid = tfuel(outputs).checked_add(fee).unwrap();
        let outputs = (0..outputs).map(output).collect();
        limits.of(Send { fee: fee.into(), inputs: vec![input(paid); inputs], outputs })
    };
    assert!(send(511, 1).is_none());
    refused!(send(512, 1), TxError::Accounts);
    refused!(send(0, 1), TxError::Accounts);
    refused!(send(1, 0), TxError::Accounts);
    refused!(send(1, 2), TxError::Duplicate(twice) if *twice == key(3).address());
    let mut split = |parts: usize| {
        let splits = vec![Split { address: Address::ZERO, percentage: 0 }; parts];
        let initiator = input(Coins::ZERO);
        limits.of(SetSplitRule { fee: fee().into(), resource_id: Vec::new(), initiator, splits, duration: 1 })
    };
    assert!(split(0).is_none() && split(511).is_none());
    refused!(split(512), TxError::Split("too many parts"));
}

#[test]
fn an_address_stands_once_in_a_send() {
    let mut limits = Limits::new();
    let mut send = |to: &[Address]| {
        let outputs: Vec<_> = to.iter().map(|to| TxOutput::new(*to, tfuel(1))).collect();
        let paid = tfuel(to.len() as u64 + 1);
        limits.of(Send { fee: tfuel(1).into(), inputs: vec![input(paid)], outputs })
    };
    let (own, other) = (key(3).address(), Address::repeat_byte(7));
    assert!(send(&[other]).is_none());
    refused!(send(&[own]), TxError::Duplicate(twice) if *twice == own);
    refused!(send(&[other, other]), TxError::Duplicate(twice) if *twice == other);
}

#[test]
fn a_transaction_of_eight_mebibytes() {
    let call = VmCall { to: Some(Address::ZERO), gas_limit: 1, ..VmCall::default() };
    let size = |data: usize| {
        let call = VmCall { data: vec![7; data], ..call.clone() };
        signed(SmartContract::new(input(Coins::ZERO), &call), &key(3)).bytes.clone()
    };
    let head = size(MAX_TX_BYTES / 2).len() - MAX_TX_BYTES / 2;
    let largest = size(MAX_TX_BYTES - head);
    assert_eq!(largest.len(), MAX_TX_BYTES);
    assert!(RawTx::decode(largest).is_ok());
    let error = RawTx::decode(size(MAX_TX_BYTES - head + 1)).unwrap_err();
    assert_eq!(error.fault, Fault::Limit(MAX_TX_BYTES));
    assert!(TxError::from(error).is_peer_fault());
}

#[test]
fn amounts_of_any_width() {
    let mut limits = Limits::new();
    let mut send = |paid: BigUint, got: BigUint, fee: TxCoins| {
        let outputs = vec![TxOutput { address: Address::repeat_byte(7), coins: wei(got) }];
        limits.of(Send { fee, inputs: vec![input(wei(paid))], outputs })
    };
    let (one, fee) = (to_big(TFuelWei::whole(1).get()), to_big(fee().tfuel.get()));
    assert!(send(&one + &fee, one.clone(), wei(fee.clone())).is_none());
    for paid in [two_to(255), two_to(256) - 1_u8, two_to(256), two_to(700)] {
        refused!(send(paid.clone(), &paid - &fee, wei(fee.clone())), TxError::Insufficient(shortage) if shortage.wanted.tfuel == paid);
    }
    // Outputs of more than all coins together, from inputs that can pay.
    for got in [two_to(255), two_to(256), two_to(256) + &one] {
        refused!(send(&one + &fee, got, wei(fee.clone())), TxError::Unbalanced);
    }
    refused!(send(&one + &fee - 1_u8, one.clone(), wei(fee.clone())), TxError::Unbalanced);
    // Fees: the least and one less, in the wrong coin, and of any width.
    refused!(send(&one + &fee - 1_u8, one.clone(), wei(&fee - 1_u8)), TxError::Fee { minimum } if to_big(minimum.get()) == fee);
    refused!(
        send(&one + &fee, one.clone(), TxCoins { theta: 1_u8.into(), tfuel: fee.clone() }),
        TxError::Fee { .. }
    );
    refused!(
        send(one.clone(), one.clone(), TxCoins { theta: fee.clone(), tfuel: BigUint::ZERO }),
        TxError::Fee { .. }
    );
    refused!(send(one.clone(), one.clone(), wei(two_to(256))), TxError::Fee { .. });
    refused!(send(one.clone(), one.clone(), wei(two_to(256) - 1_u8)), TxError::Unbalanced);
}

#[test]
fn gas_limits_and_prices() {
    let mut limits = Limits::new();
    let mut call = |gas_limit, gas_price: BigUint| {
        let call = VmCall { to: Some(Address::repeat_byte(7)), gas_limit, ..VmCall::default() };
        let body = SmartContract { gas_price, ..SmartContract::new(input(Coins::ZERO), &call) };
        limits.of(body)
    };
    let price = BigUint::from(GAS_PRICE);
    assert!(call(21_000, price.clone()).is_none());
    refused!(call(20_999, price.clone()), TxError::IntrinsicGas { limit: 20_999, needed: 21_000 });
    refused!(call(21_000, &price - 1_u8), TxError::GasPrice(GAS_PRICE));
    assert!(call(20_000_000, price.clone()).is_none());
    refused!(call(20_000_001, price), TxError::GasLimit(20_000_000));
    // A fee limit of 255 bits is a matter of the balance, one of 256 is refused as such.
    refused!(call(1 << 16, two_to(239) - 1_u8), TxError::BelowMinimalBalance(_));
    refused!(call(1 << 16, two_to(239)), TxError::FeeLimit);
    refused!(call(1 << 16, two_to(700)), TxError::FeeLimit);
}

#[test]
fn funds_and_payments() {
    let mut limits = Limits::new();
    let mut reserve = |fund: TxCoins, collateral: TxCoins, duration, resource_ids| {
        limits.of(ReserveFund { fee: fee().into(), source: input(fund), collateral, resource_ids, duration })
    };
    let (hundred, more) = (TxCoins::from(tfuel(100)), wei(to_big(TFuelWei::whole(100).get()) + 1_u8));
    for duration in [300, 43_200] {
        assert!(reserve(hundred.clone(), more.clone(), duration, Vec::new()).is_none());
    }
    for duration in [0, 299, 43_201, u64::MAX] {
        refused!(reserve(hundred.clone(), more.clone(), duration, Vec::new()), TxError::Reserve(_));
    }
    refused!(reserve(hundred.clone(), hundred.clone(), 300, vec![Vec::new()]), TxError::Reserve(_));
    refused!(reserve(TxCoins::default(), hundred.clone(), 300, Vec::new()), TxError::NothingReserved);
    refused!(reserve(theta(1).into(), hundred.clone(), 300, Vec::new()), TxError::ReservedTheta);
    refused!(reserve(hundred.clone(), wei(two_to(256)), 300, Vec::new()), TxError::Insufficient(_));
    let own = key(3).address();
    let mut pay = |to: Address, coins: TxCoins| {
        let mut payment = ServicePayment::new(own, to, TFuelWei::ZERO, 1, 1, b"video".to_vec());
        payment.source.coins = coins;
        payment.fee = fee().into();
        payment.sign_as_payer(CHAIN, &key(3)).unwrap();
        limits.refusal(&signed(payment, &key(4)))
    };
    refused!(pay(own, hundred.clone()), TxError::Payment(_));
    refused!(pay(key(4).address(), theta(1).into()), TxError::Payment("only TFuel can be paid"));
    refused!(pay(key(4).address(), hundred), TxError::Transfer("no fund with this reserve sequence"));
    let release = ReleaseFund { fee: fee().into(), source: input(Coins::ZERO), reserve_sequence: 1 };
    refused!(limits.of(release), TxError::Release(_));
}

#[test]
fn stakes_splits_and_what_nobody_may_send() {
    let mut limits = Limits::new();
    let minimum = limits.ledger.reader().spec().rules(2).stake.min_validator;
    let deposit = |purpose, coins: Coins| DepositStake {
        fee: fee().into(),
        source: input(coins),
        holder: TxOutput::new(key(9).address(), Coins::ZERO),
        purpose,
    };
    assert!(limits.of(deposit(Purpose::VALIDATOR, theta(minimum))).is_none());
    let less = theta(minimum).checked_sub(Coins::theta(ThetaWei::wei(1))).unwrap();
    refused!(limits.of(deposit(Purpose::VALIDATOR, less)), TxError::InsufficientStake(_));
    refused!(limits.of(deposit(Purpose::VALIDATOR, tfuel(minimum))), TxError::Stake(_));
    refused!(limits.of(deposit(Purpose(3), theta(minimum))), TxError::Purpose);
    let elite = |stake| deposit_with_key(input(tfuel(stake)), &key(4), Purpose::ELITE_EDGE, true);
    assert!(limits.of(elite(10_000)).is_none() && limits.of(elite(500_000)).is_none());
    refused!(limits.of(elite(9_999)), TxError::InsufficientStake(_));
    refused!(limits.of(elite(500_001)), TxError::StakeCap);
    let distribution = |split_basis_point| StakeRewardDistribution {
        fee: fee().into(),
        holder: input(Coins::ZERO),
        beneficiary: TxOutput::default(),
        split_basis_point,
    };
    assert!(limits.of(distribution(0)).is_none() && limits.of(distribution(1000)).is_none());
    refused!(limits.of(distribution(1001)), TxError::SplitBasisPoint);
    let split = |percentages: &[u64]| SetSplitRule {
        fee: fee().into(),
        resource_id: Vec::new(),
        initiator: input(Coins::ZERO),
        splits: percentages.iter().map(|part| Split { address: Address::ZERO, percentage: *part }).collect(),
        duration: 0,
    };
    assert!(limits.of(split(&[100])).is_none() && limits.of(split(&[99, 1, 0])).is_none());
    for percentages in [&[101][..], &[100, 1], &[u64::MAX, 101], &[u64::MAX, 1]] {
        refused!(limits.of(split(percentages)), TxError::Split(_));
    }
    let slash = Slash {
        proposer: input(Coins::ZERO),
        slashed_address: key(1).address(),
        reserve_sequence: 400,
        slash_proof: Vec::new(),
    };
    refused!(limits.of(slash), TxError::UnsupportedKind);
    let coinbase = Coinbase { proposer: input(Coins::ZERO), outputs: Vec::new(), block_height: 1 };
    assert!(limits.of(coinbase).is_some());
}

#[test]
fn wrong_sequences_and_signers() {
    let mut limits = Limits::new();
    let send = |sequence| Send {
        fee: fee().into(),
        inputs: vec![TxInput { sequence, ..input(tfuel(1).checked_add(fee()).unwrap()) }],
        outputs: vec![TxOutput::new(Address::repeat_byte(7), tfuel(1))],
    };
    for got in [0, 2, u64::MAX] {
        let error = limits.of(send(got)).unwrap();
        assert_eq!(error.to_string(), format!("ValidateInputAdvanced: Got {got}, expected 1. (acc.seq=0)"));
        assert_eq!(error.code(), 100_002);
    }
    refused!(limits.refusal(&signed(send(1), &key(4))), TxError::Signature);
    let elsewhere = Arc::new(Unsigned::new("mainnet", send(1)).sign(&key(3)).unwrap());
    refused!(limits.refusal(&elsewhere), TxError::Signature);
    let nobody = SecretKey::from_bytes(&[77; 32]).unwrap();
    let mut unknown = send(1);
    unknown.inputs[0].address = nobody.address();
    refused!(limits.refusal(&signed(unknown, &nobody)), TxError::NoAccount(who) if *who == nobody.address());
    assert!(limits.of(send(1)).is_none());
    assert!(MAX_BLOCK_TXS >= 512 && from_big(&two_to(256)).is_none());
}
