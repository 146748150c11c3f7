//! Random contract transactions under our networks' rules beside stock revm on a plain database in memory: no difference in
//! verdict, gas, output, logs, and any account's sequence, balance, code and storage.
//!
//! A seed makes a state of contracts and wallets and a sequence of transactions on it. `THETA_RANDOM_TXS` says how many
//! transactions to run, `THETA_RANDOM_SEED` where the seeds begin.

use std::{collections::BTreeMap, sync::Arc};

use revm::{
    Context, ExecuteCommitEvm as _, MainBuilder as _, MainContext as _,
    bytecode::{Bytecode, opcode as op},
    context::{BlockEnv, CfgEnv, TxEnv, either::Either, result::ExecutionResult},
    context_interface::{
        block::BlobExcessGasAndPrice,
        transaction::{AccessList, AccessListItem, RecoveredAuthority, RecoveredAuthorization},
    },
    database::InMemoryDB,
    primitives::{TxKind, hardfork::SpecId},
    state::AccountInfo,
};
use theta_core::{
    amount::{Coins, TFuelWei},
    codec::rlp::Encode,
    hash::{Address, EMPTY_ROOT, Hash, U256, keccak},
    sign::SecretKey,
    spec::{ChainSpec, Rules},
    trie::{NoNodes, Trie},
};
use theta_evm::Evm;
use theta_ledger::{
    history,
    state::{Account, StateView},
    tx::ethereum::{Access, Authorization},
    vm::{ContractVm, VmCall, VmEnv, VmOutcome},
};

use super::nodes::Nodes;

const HEIGHT: u64 = 1_000;
const CHAIN: u64 = 366;
const PARENT: Hash = Hash::repeat_byte(0x77);
const PROPOSER: Address = Address::repeat_byte(0x99);
const CONTRACTS: u8 = 8;
const WALLETS: u8 = 4;
const TXS_OF_A_SEED: usize = 5;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn one_in(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    fn bytes(&mut self, length: u64) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }
}

fn contract(index: u8) -> Address {
    Address::repeat_byte(0xc0 + index)
}

fn key(index: u8) -> SecretKey {
    SecretKey::from_bytes(&[index + 1; 32]).unwrap()
}

/// Any address that programs and transactions name; never one of Theta's own precompiles.
fn some_address(random: &mut Random) -> Address {
    match random.below(12) {
        0..=4 => contract(random.below(u64::from(CONTRACTS)) as u8),
        5..=7 => key(random.below(u64::from(WALLETS)) as u8).address(),
        8 => Address::with_last_byte(random.below(0x12) as u8),
        9 => Address::repeat_byte(random.below(8) as u8),
        10 => PROPOSER,
        _ => random.pick(&[history::ADDRESS, Address::ZERO, contract(0).create(1), contract(1).create(1)]),
    }
}

fn push(code: &mut Vec<u8>, word: &[u8]) {
    let word = &word[word.iter().take_while(|byte| **byte == 0).count()..];
    code.push(op::PUSH0 + word.len() as u8);
    code.extend(word);
}

fn number(code: &mut Vec<u8>, number: u64) {
    push(code, &number.to_be_bytes());
}

/// Pushes one operand of a kind.
fn operand(random: &mut Random, code: &mut Vec<u8>, kind: u8) {
    match kind {
        b'a' => push(code, some_address(random).as_slice()),
        // Offsets, lengths: mostly small.
        b'o' => match random.below(30) {
            0 => push(code, &random.next().to_be_bytes()),
            1 => number(code, 1 << 20),
            _ => {
                let at = random.below(300);
                number(code, at);
            }
        },
        b'l' => match random.below(40) {
            0 => push(code, &random.next().to_be_bytes()),
            1 => number(code, 100_000),
            2..=12 => code.push(op::PUSH0),
            _ => {
                let length = random.below(130);
                number(code, length);
            }
        },
        b's' => {
            let slot = random.below(4);
            number(code, slot);
        }
        b'v' => {
            let value = random.pick(&[0, 0, 0, 1, 1_000, u64::MAX]);
            number(code, value);
        }
        b'g' => match random.below(3) {
            0 => code.push(op::GAS),
            1 => number(code, 0xffff_ffff),
            _ => {
                let gas = random.below(60_000);
                number(code, gas);
            }
        },
        b'h' => {
            let height = HEIGHT - random.below(260);
            number(code, height);
        }
        _ => match random.below(4) {
            0 => {
                let word = random.bytes(32);
                push(code, &word);
            }
            1 => code.extend([op::PUSH0, op::NOT]),
            2 => {
                let small = random.below(200);
                number(code, small);
            }
            _ => {
                let word = random.next() >> random.below(64);
                // Theta's precompiles are beyond the plain engine.
                number(code, if (200..210).contains(&word) { 0 } else { word });
            }
        },
    }
}

/// Instructions and the kinds of their operands, topmost first.
const OPS: &[(u8, &str)] = &[
    (op::ADD, "ww"),
    (op::MUL, "ww"),
    (op::SUB, "ww"),
    (op::DIV, "ww"),
    (op::SDIV, "ww"),
    (op::MOD, "ww"),
    (op::SMOD, "ww"),
    (op::ADDMOD, "www"),
    (op::MULMOD, "www"),
    (op::EXP, "ww"),
    (op::SIGNEXTEND, "ww"),
    (op::LT, "ww"),
    (op::GT, "ww"),
    (op::SLT, "ww"),
    (op::SGT, "ww"),
    (op::EQ, "ww"),
    (op::ISZERO, "w"),
    (op::AND, "ww"),
    (op::OR, "ww"),
    (op::XOR, "ww"),
    (op::NOT, "w"),
    (op::BYTE, "ww"),
    (op::SHL, "ww"),
    (op::SHR, "ww"),
    (op::SAR, "ww"),
    (op::CLZ, "w"),
    (op::KECCAK256, "ol"),
    (op::ADDRESS, ""),
    (op::BALANCE, "a"),
    (op::ORIGIN, ""),
    (op::CALLER, ""),
    (op::CALLVALUE, ""),
    (op::CALLDATALOAD, "o"),
    (op::CALLDATASIZE, ""),
    (op::CALLDATACOPY, "ool"),
    (op::CODESIZE, ""),
    (op::CODECOPY, "ool"),
    (op::GASPRICE, ""),
    (op::EXTCODESIZE, "a"),
    (op::EXTCODECOPY, "aool"),
    (op::RETURNDATASIZE, ""),
    (op::RETURNDATACOPY, "ool"),
    (op::EXTCODEHASH, "a"),
    (op::BLOCKHASH, "h"),
    (op::COINBASE, ""),
    (op::TIMESTAMP, ""),
    (op::NUMBER, ""),
    (op::DIFFICULTY, ""),
    (op::GASLIMIT, ""),
    (op::CHAINID, ""),
    (op::SELFBALANCE, ""),
    (op::BASEFEE, ""),
    (op::BLOBHASH, "w"),
    (op::BLOBBASEFEE, ""),
    (op::POP, "w"),
    (op::MLOAD, "o"),
    (op::MSTORE, "ow"),
    (op::MSTORE8, "ow"),
    (op::SLOAD, "s"),
    (op::SSTORE, "sv"),
    (op::PC, ""),
    (op::MSIZE, ""),
    (op::GAS, ""),
    (op::TLOAD, "s"),
    (op::TSTORE, "sv"),
    (op::MCOPY, "ool"),
    (op::PUSH0, ""),
    (op::DUP1, "w"),
    (op::DUP3, "www"),
    (op::SWAP1, "ww"),
    (op::SWAP2, "www"),
    (op::LOG0, "ol"),
    (op::LOG1, "olw"),
    (op::LOG2, "olww"),
    (op::LOG4, "olwwww"),
];

/// What is worth more than its share.
const HEAVY: &[(u8, &str)] = &[
    (op::CALL, "gavolol"),
    (op::CALL, "gavolol"),
    (op::CALLCODE, "gavolol"),
    (op::DELEGATECALL, "gaolol"),
    (op::STATICCALL, "gaolol"),
    (op::SSTORE, "sv"),
    (op::SSTORE, "sv"),
    (op::SLOAD, "s"),
    (op::TSTORE, "sv"),
    (op::TLOAD, "s"),
    (op::SSTORE, "sw"),
    (op::EXTCODEHASH, "a"),
    (op::BALANCE, "a"),
    (op::MCOPY, "ool"),
];

fn emit(random: &mut Random, code: &mut Vec<u8>, (byte, kinds): (u8, &str)) {
    // The topmost operand is pushed last; now and then one is missing.
    let missing = random.one_in(120);
    for kind in kinds.bytes().rev().skip(usize::from(missing)) {
        operand(random, code, kind);
    }
    code.push(byte);
}

/// Puts bytes into memory from offset 0 on.
fn to_memory(code: &mut Vec<u8>, bytes: &[u8]) {
    for (index, chunk) in bytes.chunks(32).enumerate() {
        let mut word = [0; 32];
        word[..chunk.len()].copy_from_slice(chunk);
        push(code, &word);
        number(code, 32 * index as u64);
        code.push(op::MSTORE);
    }
}

/// Code that makes a contract of `runtime`, after some instructions.
fn making(random: &mut Random, depth: u8, runtime: &[u8]) -> Vec<u8> {
    let mut code = if random.one_in(2) { program(random, depth, 3) } else { Vec::new() };
    to_memory(&mut code, runtime);
    number(&mut code, runtime.len() as u64);
    code.extend([op::PUSH0, op::RETURN]);
    code
}

fn creation(random: &mut Random, code: &mut Vec<u8>, depth: u8) {
    let runtime = match random.below(8) {
        0 => vec![0xef, 0, 1],
        1 => Vec::new(),
        // Ends itself, in the same transaction if it is called then.
        2..=4 => {
            let mut runtime = Vec::new();
            if random.one_in(2) {
                runtime.push(op::ADDRESS);
            } else {
                push(&mut runtime, some_address(random).as_slice());
            }
            runtime.push(op::SELFDESTRUCT);
            runtime
        }
        _ => program(random, depth + 1, 6),
    };
    let init = making(random, depth + 1, &runtime);
    to_memory(code, &init);
    let second = random.one_in(2);
    if second {
        let salt = random.below(2);
        number(code, salt);
    }
    number(code, init.len() as u64);
    code.push(op::PUSH0);
    operand(random, code, b'v');
    code.push(if second { op::CREATE2 } else { op::CREATE });
    // Calls what was made, or nobody.
    if random.one_in(2) {
        code.extend([op::PUSH0, op::PUSH0, op::PUSH0, op::PUSH0, op::PUSH1, 3, op::DUP6, op::GAS, op::CALL]);
        if random.one_in(3) {
            code.extend([op::DUP2, op::EXTCODEHASH, op::DUP3, op::BALANCE]);
        }
    }
}

/// A program of so many steps.
fn program(random: &mut Random, depth: u8, steps: u64) -> Vec<u8> {
    let mut code = Vec::new();
    let mut targets = Vec::new();
    for _ in 0..steps {
        match random.below(100) {
            0..=54 => {
                let which = random.pick(OPS);
                emit(random, &mut code, which);
            }
            55..=79 => {
                let which = random.pick(HEAVY);
                emit(random, &mut code, which);
            }
            80..=87 if depth < 3 => creation(random, &mut code, depth),
            88..=91 => {
                targets.push(code.len() as u64);
                code.push(op::JUMPDEST);
            }
            92 | 93 if !targets.is_empty() => {
                // Goes back some of the times, so that loops end.
                operand(random, &mut code, b'w');
                code.extend([op::GAS, op::AND, op::PUSH1, 1, op::AND]);
                let target = random.pick(&targets);
                number(&mut code, target);
                code.push(op::JUMPI);
            }
            94 if random.one_in(4) => {
                let word = random.next() as u8;
                code.push(word);
            }
            95 if random.one_in(2) => {
                emit(random, &mut code, (op::SELFDESTRUCT, "a"));
                return code;
            }
            96 | 97 => {
                let how = random.pick(&[
                    (op::RETURN, "ol"),
                    (op::REVERT, "ol"),
                    (op::REVERT, "ol"),
                    (op::REVERT, "ol"),
                    (op::INVALID, ""),
                    (op::STOP, ""),
                ]);
                emit(random, &mut code, how);
                return code;
            }
            _ => {
                // Stores what the last call gave.
                code.extend([op::RETURNDATASIZE, op::PUSH0, op::PUSH0, op::RETURNDATACOPY]);
                code.extend([op::PUSH1, 64, op::PUSH0]);
                code.push(random.pick(&[op::LOG0, op::KECCAK256]));
            }
        }
    }
    code
}

/// Both states.
struct Twins {
    view: StateView,
    database: InMemoryDB,
}

impl Twins {
    fn new(random: &mut Random) -> Self {
        let nodes = Arc::new(Nodes::default());
        let view = StateView::open(nodes.add(std::iter::empty()), HEIGHT - 1, nodes).unwrap();
        let mut twins = Self { view, database: InMemoryDB::default() };
        for index in 0..CONTRACTS {
            let steps = 4 + random.below(25);
            let code = program(random, 0, steps);
            let slots = (0..random.below(4)).map(|slot| (slot, random.below(3))).collect();
            twins.put(contract(index), 1, random.pick(&[0, 5, 1_000_000]), code, slots);
        }
        for index in 0..WALLETS {
            let code = match random.below(4) {
                0 => [&[0xef, 1, 0], some_address(random).as_slice()].concat(),
                _ => Vec::new(),
            };
            twins.put(key(index).address(), random.below(3), 1 << 62, code, BTreeMap::new());
        }
        // Hashes of some blocks below.
        let hashes = (HEIGHT - 200..HEIGHT - 1).map(|height| (height, height * 3)).collect();
        twins.put(history::ADDRESS, 1, 0, vec![op::STOP], hashes);
        for height in HEIGHT - 256..HEIGHT {
            let hash = match height {
                _ if height == HEIGHT - 1 => PARENT,
                _ if height >= HEIGHT - 200 => Hash::from(U256::from(height * 3)),
                _ => Hash::ZERO,
            };
            twins.database.cache.block_hashes.insert(U256::from(height), hash);
        }
        twins
    }

    fn put(&mut self, address: Address, nonce: u64, units: u64, code: Vec<u8>, slots: BTreeMap<u64, u64>) {
        // Wallets can pay any fee.
        let balance = U256::from(units) << 40;
        let mut account = Account::new(address, 0);
        account.sequence = nonce;
        account.balance = Coins::tfuel(TFuelWei::from_u256(balance));
        account.code_hash = self.view.store_code(code.clone());
        self.view.store(account);
        let code = Bytecode::new_raw(code.into());
        let info = AccountInfo {
            balance,
            nonce,
            code_hash: code.hash_slow(),
            code: Some(code),
            ..AccountInfo::default()
        };
        self.database.insert_account_info(address, info);
        for (slot, value) in slots {
            let (slot, value) = (U256::from(slot), U256::from(value));
            if !value.is_zero() {
                self.view.set_slot(address, slot.into(), value).unwrap();
            }
            self.database.insert_account_storage(address, slot, value).unwrap();
        }
    }

    /// As the ledger does it: gas is paid before, and what is left comes back.
    fn ours(&mut self, env: &VmEnv<'_>, call: &VmCall) -> VmOutcome {
        let fee = |gas: u64| Coins::tfuel(TFuelWei::from_u256(call.gas_price * U256::from(gas)));
        let mut account = self.view.account(call.from).unwrap().unwrap().clone();
        account.balance = account.balance.checked_sub(fee(call.gas_limit)).unwrap();
        account.sequence += u64::from(call.to.is_some());
        self.view.store(account);
        let outcome = Evm.execute(env, call, &mut self.view).unwrap();
        let mut account = self.view.account(call.from).unwrap().unwrap().clone();
        account.balance = account.balance.checked_add(fee(call.gas_limit - outcome.gas_used)).unwrap();
        self.view.store(account);
        outcome
    }

    fn theirs(&mut self, rules: &Rules, call: &VmCall) -> ExecutionResult {
        let mut cfg = CfgEnv::default();
        cfg.chain_id = CHAIN;
        cfg.set_spec_and_mainnet_gas_params(SpecId::OSAKA);
        cfg.limit_contract_code_size = Some(rules.evm.code_limit);
        cfg.limit_contract_initcode_size = Some(2 * rules.evm.code_limit);
        let block = BlockEnv {
            number: U256::from(HEIGHT),
            beneficiary: PROPOSER,
            timestamp: U256::from(1_234_567),
            gas_limit: rules.tx.max_gas,
            basefee: rules.tx.min_gas_price,
            prevrandao: Some(keccak([PARENT.as_slice(), PROPOSER.as_slice()].concat())),
            blob_excess_gas_and_price: Some(BlobExcessGasAndPrice { excess_blob_gas: 0, blob_gasprice: 1 }),
            ..BlockEnv::default()
        };
        let items = call
            .access
            .iter()
            .map(|access| AccessListItem { address: access.address, storage_keys: access.slots.clone() });
        let authorizations = call.authorizations.iter().map(|ours| {
            let inner = revm::context_interface::transaction::Authorization {
                chain_id: ours.chain_id,
                address: ours.address,
                nonce: ours.nonce,
            };
            let authority = ours.authority().map_or(RecoveredAuthority::Invalid, RecoveredAuthority::Valid);
            Either::Right(RecoveredAuthorization::new_unchecked(inner, authority))
        });
        let nonce = self.database.cache.accounts[&call.from].info.nonce;
        let price = u128::try_from(call.gas_price).unwrap();
        let tx = TxEnv {
            tx_type: if call.authorizations.is_empty() { 1 } else { 4 },
            caller: call.from,
            gas_limit: call.gas_limit,
            gas_price: price,
            gas_priority_fee: (!call.authorizations.is_empty()).then_some(0),
            kind: call.to.map_or(TxKind::Create, TxKind::Call),
            value: call.tfuel,
            data: call.data.clone().into(),
            nonce,
            chain_id: Some(CHAIN),
            access_list: AccessList(items.collect()),
            authorization_list: authorizations.collect(),
            ..TxEnv::default()
        };
        let context = Context::mainnet().with_block(block).with_cfg(cfg).with_db(&mut self.database);
        context.build_mainnet().transact_commit(tx).unwrap()
    }

    /// Every account of either state.
    fn compare_states(&mut self) {
        self.view.root().unwrap();
        let records = self.view.records_with(b"ls/a/").unwrap();
        let mut addresses: Vec<Address> = records.keys().map(|key| Address::from_slice(&key[5..])).collect();
        addresses.extend(self.database.cache.accounts.keys());
        for address in addresses {
            let theirs = self.database.cache.accounts.get(&address);
            let exists = theirs.is_some_and(|account| !account.info.is_empty());
            let ours = self.view.account(address).unwrap().cloned();
            assert_eq!(ours.is_some(), exists, "{address} exists");
            let (Some(ours), Some(theirs)) = (ours, theirs) else { continue };
            let shown = |nonce: u64, tfuel: U256, code: Hash| (nonce, tfuel, code);
            assert_eq!(
                shown(ours.sequence, ours.balance.tfuel.get(), ours.code_hash),
                shown(theirs.info.nonce, theirs.info.balance, theirs.info.code_hash),
                "{address}"
            );
            let mut storage = Trie::empty(Arc::new(NoNodes));
            for (key, value) in theirs.storage.iter().filter(|(_, value)| !value.is_zero()) {
                storage.set(Hash::from(*key).as_slice(), value.to_rlp()).unwrap();
            }
            let root = if ours.root.is_zero() { EMPTY_ROOT } else { ours.root };
            assert_eq!(root, storage.root(), "storage of {address}: {:?}", theirs.storage);
        }
    }
}

fn transaction(random: &mut Random, twins: &mut Twins, rules: &Rules) -> VmCall {
    let from = random.below(u64::from(WALLETS)) as u8;
    let creates = random.one_in(6);
    let data = if creates {
        let runtime = program(random, 0, 8);
        making(random, 0, &runtime)
    } else {
        let length = random.pick(&[0, 4, 36, 200]);
        random.bytes(length)
    };
    let mut call = VmCall {
        from: key(from).address(),
        to: (!creates).then(|| some_address(random)),
        tfuel: U256::from(random.pick(&[0_u64, 0, 1, 1_000_000])),
        gas_price: U256::from(rules.tx.min_gas_price),
        data,
        ..VmCall::default()
    };
    if random.one_in(3) {
        for _ in 0..random.below(4) {
            let slots = (0..random.below(3)).map(|slot| Hash::from(U256::from(slot))).collect();
            call.access.push(Access { address: some_address(random), slots });
        }
    }
    if !creates && random.one_in(3) {
        for _ in 0..=random.below(3) {
            let who = random.below(u64::from(WALLETS)) as u8;
            let account = twins.view.account(key(who).address()).unwrap();
            let nonce = account.map_or(0, |account| account.sequence);
            let right = nonce + u64::from(who == from);
            let authorization = Authorization {
                chain_id: U256::from(random.pick(&[0, CHAIN, CHAIN, 1])),
                address: some_address(random),
                nonce: random.pick(&[right, right, right, right + 1, u64::MAX]),
                parity: 0,
                r: U256::ZERO,
                s: U256::ZERO,
            };
            let mut signed = authorization.sign(&key(who)).unwrap();
            if random.one_in(10) {
                signed.s = U256::from(random.next());
            }
            call.authorizations.push(signed);
        }
    }
    let (initial, floor) = theta_ledger::tx::intrinsic_gas(rules, &call);
    call.gas_limit = initial.max(floor)
        + random.pick(&[0, 700, 30_000, 200_000, 1_000_000, 1_000_000, 5_000_000, 5_000_000]);
    call
}

/// Runs the transactions of a seed, and says how many succeeded, reverted and failed.
fn run_seed(rules: &Rules, seed: u64) -> [usize; 3] {
    let mut random = Random(seed);
    let mut twins = Twins::new(&mut random);
    let env = VmEnv {
        rules,
        chain_id: U256::from(CHAIN),
        height: HEIGHT,
        timestamp: U256::from(1_234_567),
        parent: PARENT,
        proposer: PROPOSER,
    };
    let mut counts = [0; 3];
    for index in 0..TXS_OF_A_SEED {
        let call = transaction(&mut random, &mut twins, rules);
        let balance =
            twins.view.account(call.from).unwrap().map_or(U256::ZERO, |account| account.balance.tfuel.get());
        if balance < call.gas_price * U256::from(call.gas_limit) + call.tfuel {
            // A wallet that has ended itself by another's code: neither side takes the transaction.
            continue;
        }
        let ours = twins.ours(&env, &call);
        let theirs = twins.theirs(rules, &call);
        let at = format!("seed {seed}, transaction {index}: {ours:?}");
        let verdict = match ours.error.as_str() {
            "" => 0,
            "evm: execution reverted" => 1,
            _ => 2,
        };
        let expected = match &theirs {
            ExecutionResult::Success { .. } => 0,
            ExecutionResult::Revert { .. } => 1,
            ExecutionResult::Halt { .. } => 2,
        };
        assert_eq!(verdict, expected, "{at} {theirs:?}");
        counts[verdict] += 1;
        assert_eq!(ours.gas_used, theirs.tx_gas_used(), "gas, {at} {theirs:?}");
        if verdict < 2 {
            assert_eq!(ours.output, theirs.output().unwrap().to_vec(), "output, {at}");
        }
        if verdict == 0 && call.to.is_none() {
            assert_eq!(Some(ours.contract), theirs.created_address(), "{at}");
        }
        let logs: Vec<_> = if verdict == 0 { theirs.into_logs() } else { Vec::new() };
        let logs: Vec<_> = logs
            .into_iter()
            .map(|log| (log.address, log.data.topics().to_vec(), log.data.data.to_vec()))
            .collect();
        let own: Vec<_> = ours.logs.into_iter().map(|log| (log.address, log.topics, log.data)).collect();
        assert_eq!(own, logs, "logs, seed {seed}, transaction {index}");
        println!("compare the states after seed {seed}, transaction {index}");
        twins.compare_states();
    }
    counts
}

#[test]
fn random_transactions_do_what_they_do_on_stock_revm() {
    let variable = |name, other| std::env::var(name).map_or(other, |text| text.parse().unwrap());
    let (txs, first): (u64, u64) = (variable("THETA_RANDOM_TXS", 300), variable("THETA_RANDOM_SEED", 1));
    let spec = ChainSpec::devnet();
    let rules = spec.rules(HEIGHT);
    let mut counts = [0; 3];
    for seed in first..first + txs / TXS_OF_A_SEED as u64 {
        for (sum, count) in counts.iter_mut().zip(run_seed(rules, seed)) {
            *sum += count;
        }
    }
    println!("{} succeeded, {} reverted, {} failed", counts[0], counts[1], counts[2]);
    // The programs are not all broken, nor all harmless.
    assert!(counts.iter().all(|count| *count as u64 > txs / 50), "{counts:?}");
}
