//! Transactions of Ethereum wallets in blocks of a development network's chain.

use std::sync::Arc;

use num_bigint::BigUint;
use revm::bytecode::opcode as op;
use theta_core::{
    amount::{Coins, TFuelWei, ThetaWei},
    block::{Block, Bloom, transactions_root},
    bls,
    codec::rlp::Encode,
    context::BlockContext,
    hash::{Address, EMPTY_ROOT, Hash, U256, keccak},
    sign::{SecretKey, Signature},
    spec::ChainSpec,
    trie::list_root,
};
use theta_evm::Evm;
use theta_ledger::{
    error::BlockError,
    genesis::{Genesis, GenesisBuilder},
    history,
    ledger::{At, Ledger},
    tx::{
        RawTx, SmartContract, Transaction, TxError, TxInput, Unsigned,
        ethereum::{self, Access, Authorization, Typed, WalletTx},
    },
    vm::VmCall,
};

use super::world::{CONTRACT, Code, node, stake_input};

const PRICE: u64 = 4_000_000_000_000;

fn key(index: u8) -> SecretKey {
    SecretKey::from_bytes(&[index; 32]).unwrap()
}

fn validator_key() -> bls::SecretKey {
    bls::SecretKey::from_bytes(&[9; 32]).unwrap()
}

fn rich() -> Coins {
    Coins { theta: ThetaWei::whole(1_000), tfuel: TFuelWei::whole(1_000) }
}

struct Chain {
    ledger: Ledger,
    tip: Hash,
    /// Context of the tip.
    built: Option<BlockContext>,
}

impl Chain {
    fn new(spec: ChainSpec, code: &[u8]) -> Self {
        let genesis: Genesis = GenesisBuilder::new(&spec, 1_700_000_000)
            .account(key(1).address(), rich())
            .account(key(2).address(), rich())
            .account(key(3).address(), Coins::tfuel(TFuelWei::whole(10_001)))
            .contract(CONTRACT, code.to_vec())
            .validator_with_key(
                key(9).address(),
                key(9).address(),
                ThetaWei::whole(5_000_000),
                &validator_key(),
            )
            .build();
        let ledger = Ledger::builder(spec).contracts(Arc::new(Evm)).open(&genesis).unwrap();
        let mut chain = Self { ledger, tip: genesis.hash(), built: None };
        // Contracts are there from height 2 on.
        assert!(chain.extend(&[]).is_empty());
        chain
    }

    /// Builds a block, applies it as another node would, and gives what was left out.
    fn extend(&mut self, candidates: &[RawTx]) -> Vec<String> {
        let reader = self.ledger.reader();
        let (_, mut context) = reader.next_block(At::Block(self.tip)).unwrap();
        context.proposer = key(9).address();
        context.timestamp += 7_u8;
        let candidates: Vec<_> = candidates.iter().cloned().map(Arc::new).collect();
        let (body, left_out) = self.ledger.build_block(&context, &candidates, &key(9)).unwrap();
        self.built = Some(context.clone());
        let rules = reader.spec().rules(context.height()).header;
        let mut block = context.block(rules, body);
        block.header.sign(&key(9)).unwrap();
        let hash = block.header.hash();
        self.ledger.apply_block(&context, hash, Arc::new(block)).unwrap();
        self.tip = hash;
        left_out.into_iter().map(|(_, error)| error.to_string()).collect()
    }

    fn balance(&self, address: Address) -> U256 {
        let mut view = self.ledger.reader().state(At::Block(self.tip)).unwrap();
        view.account(address).unwrap().map_or(U256::ZERO, |account| account.balance.tfuel.get())
    }

    fn gas_used(&self, raw: &RawTx) -> u64 {
        self.ledger.reader().result(&raw.hash).unwrap().unwrap().receipt.gas_used
    }
}

fn wallet(nonce: u64, typed: Option<Typed>) -> WalletTx {
    WalletTx {
        chain_id: BigUint::from(366_u16),
        nonce,
        gas_price: BigUint::from(3 * PRICE),
        typed,
        gas: 200_000,
        to: Some(CONTRACT),
        value: BigUint::from(5_u8),
        data: Vec::new(),
    }
}

fn signed(wallet: &WalletTx) -> (Vec<u8>, RawTx) {
    let bytes = wallet.sign(&key(1)).unwrap();
    let raw = ethereum::translate(&bytes).unwrap();
    (bytes, raw)
}

fn tip(price: u64) -> BigUint {
    BigUint::from(price)
}

fn authorization() -> Authorization {
    let unsigned = Authorization {
        chain_id: U256::from(366),
        address: CONTRACT,
        nonce: 0,
        parity: 0,
        r: U256::ZERO,
        s: U256::ZERO,
    };
    unsigned.sign(&key(2)).unwrap()
}

fn all_forms() -> [Option<Typed>; 4] {
    let access = vec![Access { address: CONTRACT, slots: vec![Hash::ZERO] }];
    [
        None,
        Some(Typed::AccessList(access.clone())),
        Some(Typed::DynamicFee { tip: tip(7), access: access.clone() }),
        Some(Typed::Delegating { tip: tip(4 * PRICE / 2), access, authorizations: vec![authorization()] }),
    ]
}

#[test]
fn every_form_is_carried_and_known_by_the_wallets_hash() {
    let mut chain = Chain::new(ChainSpec::devnet(), &[op::STOP]);
    let before = chain.balance(key(1).address());
    let mut paid = U256::ZERO;
    for (nonce, (form, price)) in
        all_forms().into_iter().zip([3 * PRICE, 3 * PRICE, PRICE + 7, 3 * PRICE]).enumerate()
    {
        let (bytes, raw) = signed(&wallet(nonce as u64, form));
        assert_eq!(RawTx::decode(raw.bytes.clone()).unwrap(), raw);
        assert_eq!(chain.extend(std::slice::from_ref(&raw)), Vec::<String>::new());
        let Transaction::SmartContract(transaction) = &raw.transaction else { panic!("another kind") };
        let reader = chain.ledger.reader();
        assert_eq!(reader.ethereum_hash(transaction, 10), Some(keccak(&bytes)));
        paid += U256::from(price) * U256::from(chain.gas_used(&raw)) + U256::from(5);
    }
    assert_eq!(before - chain.balance(key(1).address()), paid);
    // The last made wallet 2 carry the contract's code.
    let mut view = chain.ledger.reader().state(At::Block(chain.tip)).unwrap();
    let account = view.account(key(2).address()).unwrap().unwrap().clone();
    assert_eq!(account.sequence, 1);
    assert_eq!(view.code(account.code_hash).unwrap(), [&[0xef, 1, 0], CONTRACT.as_slice()].concat());
}

#[test]
fn the_main_networks_rules_take_the_legacy_form_alone() {
    let mut chain = Chain::new(ChainSpec::privatenet(), &[op::STOP]);
    for form in all_forms().into_iter().skip(1) {
        let (_, raw) = signed(&wallet(0, form));
        let left_out = chain.extend(&[raw]);
        assert!(left_out[0].contains("transaction type not supported"), "{left_out:?}");
    }
    assert!(chain.extend(&[signed(&wallet(0, None)).1]).is_empty());
}

#[test]
fn a_changed_field_or_another_chain_is_another_signature() {
    let mut chain = Chain::new(ChainSpec::devnet(), &[op::STOP]);
    for form in all_forms().into_iter().skip(1) {
        let (_, raw) = signed(&wallet(0, form.clone()));
        let Transaction::SmartContract(right) = raw.transaction else { panic!("another kind") };
        let mut wrong = vec![right.clone(); 4];
        wrong[0].data = vec![1];
        wrong[1].typed = Some(Typed::DynamicFee { tip: tip(8), access: Vec::new() });
        wrong[2].typed = None;
        let mut foreign = wallet(0, form);
        foreign.chain_id = BigUint::from(361_u16);
        let Transaction::SmartContract(foreign) = signed(&foreign).1.transaction else {
            panic!("another kind")
        };
        wrong[3] = foreign;
        for transaction in wrong {
            let left_out = chain.extend(&[RawTx::new(transaction.into())]);
            assert!(left_out[0].contains("ETH Signature verification failed"), "{left_out:?}");
        }
    }
}

#[test]
fn forms_that_break_their_own_rules_are_refused() {
    let mut chain = Chain::new(ChainSpec::devnet(), &[op::STOP]);
    let delegating = |authorizations| Typed::Delegating { tip: tip(0), access: Vec::new(), authorizations };
    let creation = WalletTx { to: None, ..wallet(0, Some(delegating(vec![authorization()]))) };
    let greedy = Typed::DynamicFee { tip: tip(4 * PRICE), access: Vec::new() };
    let large = WalletTx { to: None, gas: 5_000_000, data: vec![0; 98_305], ..wallet(0, None) };
    for (wallet, reason) in [
        (wallet(0, Some(greedy)), "max priority fee per gas higher"),
        (wallet(0, Some(delegating(Vec::new()))), "empty authorization list"),
        (creation, "cannot make a contract"),
        (
            WalletTx {
                gas: 25_000 + 21_000 - 1,
                ..super::devnet::wallet(0, Some(delegating(vec![authorization()])))
            },
            "gas",
        ),
        (large, "max initcode size exceeded"),
        (
            WalletTx { gas: (1 << 24) + 1, ..super::devnet::wallet(0, None) },
            "Gas limit needs to be at most 16777216",
        ),
    ] {
        let left_out = chain.extend(&[signed(&wallet).1]);
        assert!(left_out[0].to_lowercase().contains(&reason.to_lowercase()), "{left_out:?}");
    }
    let cut = |bytes: &[u8]| (1..bytes.len()).all(|end| ethereum::translate(&bytes[..end]).is_err());
    assert!(cut(&signed(&wallet(0, all_forms()[3].clone())).0));
    assert!(!TxError::Typed(2).is_peer_fault());
}

/// A sender whose code spends all that it has cannot get its gas for nothing.
#[test]
fn gas_is_paid_before_the_call() {
    // Logs its balance, then sends all of it away.
    let code = Code::default()
        .op(&[op::SELFBALANCE])
        .log()
        .number(0)
        .number(0)
        .number(0)
        .number(0)
        .op(&[op::SELFBALANCE])
        .push(&[0xaa; 20])
        .op(&[op::GAS, op::CALL]);
    let mut chain = Chain::new(ChainSpec::devnet(), &code.0);
    let own = Authorization {
        chain_id: U256::ZERO,
        address: CONTRACT,
        nonce: 1,
        parity: 0,
        r: U256::ZERO,
        s: U256::ZERO,
    };
    let typed = Typed::Delegating {
        tip: tip(0),
        access: Vec::new(),
        authorizations: vec![own.sign(&key(1)).unwrap()],
    };
    let wallet = WalletTx { to: Some(key(1).address()), ..wallet(0, Some(typed)) };
    let (_, raw) = signed(&wallet);
    let before = chain.balance(key(1).address());
    assert_eq!(chain.extend(std::slice::from_ref(&raw)), Vec::<String>::new());
    let receipt = chain.ledger.reader().result(&raw.hash).unwrap().unwrap().receipt;
    let prepaid = U256::from(PRICE) * U256::from(200_000);
    assert_eq!(U256::from_be_slice(&receipt.logs[0].data), before - prepaid);
    let unused = U256::from(PRICE) * U256::from(200_000 - receipt.gas_used);
    assert_eq!(chain.balance(key(1).address()), unused);
}

#[test]
fn hashes_of_blocks_are_in_the_state() {
    // Logs BLOCKHASH of the word in its input.
    let code = Code::default().number(0).op(&[op::CALLDATALOAD, op::BLOCKHASH]).log();
    let mut chain = Chain::new(ChainSpec::devnet(), &code.0);
    let mut hashes = vec![chain.tip];
    for _ in 0..4 {
        chain.extend(&[]);
        hashes.push(chain.tip);
    }
    let reader = chain.ledger.reader();
    // The next block has height 6.
    for (height, hash) in (1_u64..).zip(hashes) {
        let call = |to, data| VmCall {
            from: key(1).address(),
            to: Some(to),
            gas_limit: 100_000,
            data,
            ..VmCall::default()
        };
        let word = U256::from(height).to_be_bytes::<32>().to_vec();
        let outcome = reader.call(At::Block(chain.tip), &call(CONTRACT, word.clone())).unwrap();
        assert_eq!(outcome.logs[0].data, hash.to_vec(), "{height}");
        // EIP-2935 answers too, for blocks that have a block above them.
        if height < 5 {
            let outcome = reader.call(At::Block(chain.tip), &call(history::ADDRESS, word)).unwrap();
            assert_eq!((outcome.error.as_str(), outcome.output), ("", hash.to_vec()));
        }
    }
}

#[test]
fn headers_commit_to_receipts_and_logs() {
    let code = Code::default().number(7).log();
    let mut chain = Chain::new(ChainSpec::devnet(), &code.0);
    let (_, raw) = signed(&wallet(0, None));
    assert!(chain.extend(std::slice::from_ref(&raw)).is_empty());
    let reader = chain.ledger.reader();
    let block: Block = (*reader.block(At::Block(chain.tip)).unwrap().unwrap().block).clone();
    let receipt = reader.result(&raw.hash).unwrap().unwrap().receipt;
    assert_eq!(receipt.logs.len(), 1);
    assert_eq!(block.header.receipts_root, list_root(&[receipt.to_rlp()]));
    assert_eq!(block.header.bloom, Bloom::new(theta_ledger::logs::bloom(&receipt.logs)));
    assert_ne!(block.header.bloom, Bloom::ZERO);
    let context = chain.built.clone().unwrap();
    let mut refused = |change: &dyn Fn(&mut Block)| {
        let mut forged = block.clone();
        change(&mut forged);
        forged.header.sign(&key(9)).unwrap();
        let applied = chain.ledger.apply_block(&context, forged.header.hash(), Arc::new(forged));
        let error = applied.unwrap_err();
        assert!(matches!(error, BlockError::Receipts { .. }) && error.condemns_block(), "{error}");
    };
    refused(&|block| block.header.receipts_root = EMPTY_ROOT);
    refused(&|block| block.header.bloom = Bloom::ZERO);
    refused(&|block| block.header.bloom.0[17] ^= 4);

    // The main network's headers say nothing of receipts, and nobody looks.
    let mut chain = Chain::new(ChainSpec::privatenet(), &code.0);
    assert!(chain.extend(&[signed(&wallet(0, None)).1]).is_empty());
    let block = chain.ledger.reader().block(At::Block(chain.tip)).unwrap().unwrap().block;
    assert_eq!((block.header.receipts_root, block.header.bloom), (EMPTY_ROOT, Bloom::ZERO));
    let mut odd = (*block).clone();
    odd.header.bloom = Bloom::repeat_byte(1);
    odd.header.sign(&key(9)).unwrap();
    let context = chain.built.clone().unwrap();
    assert!(chain.ledger.apply_block(&context, odd.header.hash(), Arc::new(odd)).is_ok());
}

#[test]
fn the_time_that_a_contract_sees() {
    for (spec, seconds) in [(ChainSpec::privatenet(), 7), (ChainSpec::devnet(), 14)] {
        let mut chain = Chain::new(spec, &Code::default().op(&[op::TIMESTAMP]).log().0);
        let (_, raw) = signed(&wallet(0, None));
        assert!(chain.extend(std::slice::from_ref(&raw)).is_empty());
        // Genesis, and 7 seconds for each block.
        let receipt = chain.ledger.reader().result(&raw.hash).unwrap().unwrap().receipt;
        assert_eq!(U256::from_be_slice(&receipt.logs[0].data), U256::from(1_700_000_000 + seconds));
    }
}

/// Precompile 206 takes TFUEL of whoever calls it, so it can take what the fee was to be paid with. Then there is no
/// transaction: stake and coins are as before, and a block with it is not valid (`evm.md` 5.2 step 3, 9.1).
#[test]
fn a_stake_that_leaves_no_fee_is_undone_with_its_transaction() {
    let mut chain = Chain::new(ChainSpec::privatenet(), &[op::STOP]);
    let staker = key(3).address();
    let whole = |tfuel: u64| U256::from(tfuel) * U256::from(10).pow(U256::from(18));
    let staking = |tfuel| {
        let call = VmCall {
            to: Some(Address::with_last_byte(206)),
            gas_limit: 100_000,
            gas_price: U256::from(PRICE),
            data: stake_input(true, whole(tfuel)),
            ..VmCall::default()
        };
        let body = SmartContract::new(TxInput::new(staker, Coins::ZERO, 1), &call);
        Unsigned::new("privatenet", body).sign(&key(3)).unwrap()
    };
    let greedy = staking(10_001);
    let (_, other) = signed(&wallet(0, None));
    let left_out = chain.extend(&[greedy.clone(), other]);
    assert_eq!(left_out, [TxError::ChargeGas.to_string()]);
    let mut view = chain.ledger.reader().state(At::Block(chain.tip)).unwrap();
    assert_eq!((view.elite(node()).unwrap(), view.elite_total().unwrap()), (None, TFuelWei::ZERO));
    let account = view.account(staker).unwrap().unwrap();
    assert_eq!((account.balance.tfuel.get(), account.sequence), (whole(10_001), 0));
    // The same block with it in the place it was left out from, whose state the root already is.
    let context = chain.built.clone().unwrap();
    let mut block = (*chain.ledger.reader().block(At::Block(chain.tip)).unwrap().unwrap().block).clone();
    block.transactions.insert(1, greedy.bytes);
    block.header.transactions_root = transactions_root(&block.transactions);
    block.header.sign(&key(9)).unwrap();
    let error = chain.ledger.apply_block(&context, block.header.hash(), Arc::new(block)).unwrap_err();
    assert!(matches!(error, BlockError::Transaction { index: 1, source: TxError::ChargeGas }), "{error}");
    // Where the fee is left, the stake stays.
    let modest = staking(10_000);
    assert!(chain.extend(std::slice::from_ref(&modest)).is_empty());
    let fee = U256::from(PRICE) * U256::from(chain.gas_used(&modest));
    assert_eq!(chain.balance(staker), whole(1) - fee);
    let mut view = chain.ledger.reader().state(At::Block(chain.tip)).unwrap();
    assert_eq!(view.elite_total().unwrap().get(), whole(10_000));
}

/// The reference falls over such signatures (`evm.md` 7.3).
#[test]
fn signatures_of_odd_length_are_an_ordinary_refusal() {
    for spec in [ChainSpec::privatenet(), ChainSpec::devnet()] {
        let mut chain = Chain::new(spec, &[op::STOP]);
        for length in [0, 1, 27, 64, 66, 130] {
            let (_, raw) = signed(&wallet(0, None));
            let Transaction::SmartContract(mut transaction) = raw.transaction else { panic!("another kind") };
            transaction.from.signature = Signature::from_bytes(vec![1; length]);
            let raw = RawTx::decode(RawTx::new(transaction.into()).bytes).unwrap();
            assert_eq!(chain.extend(&[raw]), [TxError::SignatureLength.to_string()], "{length}");
        }
        assert!(chain.extend(&[signed(&wallet(0, None)).1]).is_empty(), "the sender is as before");
    }
}

/// A call without a transaction has as much gas as the largest transaction, and no more.
#[test]
fn a_call_without_a_transaction_is_bounded_too() {
    // JUMPDEST, PUSH1 0, JUMP.
    for spec in [ChainSpec::privatenet(), ChainSpec::devnet()] {
        let chain = Chain::new(spec, &[op::JUMPDEST, op::PUSH1, 0, op::JUMP]);
        let reader = chain.ledger.reader();
        let most = reader.spec().rules(3).tx.max_gas;
        for (gas_limit, error) in
            [(most, "out of gas"), (most + 1, "invalid gas limit"), (u64::MAX, "invalid gas limit")]
        {
            let call = VmCall { from: key(1).address(), to: Some(CONTRACT), gas_limit, ..VmCall::default() };
            let outcome = reader.call(At::Block(chain.tip), &call).unwrap();
            assert_eq!(outcome.error, error, "{gas_limit}");
            assert!(outcome.gas_used <= most);
        }
    }
}
