//! `evm/transfer`, `evm/erc20/{1e3,1e5}`: our machine by Ethereum's rules on a view of our state, beside raw revm on its
//! database in memory: the same transactions in the same run, by turns.
//!
//! Prints one JSON line for each. `warm` runs every round on one view, as the database does. `block` begins every 512
//! transactions with a view that has read nothing, as blocks do, so that the trie is read again.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use revm::{
    Context, ExecuteCommitEvm as _, MainBuilder as _, MainContext as _,
    bytecode::Bytecode,
    context::{BlockEnv, CfgEnv, TxEnv},
    database::InMemoryDB,
    primitives::{TxKind, hardfork::SpecId},
    state::AccountInfo,
};
use theta_benches::{Random, SEED, only_test};
use theta_core::{
    amount::{Coins, TFuelWei},
    hash::{Address, EMPTY_ROOT, Hash, U256, keccak},
    spec::ChainSpec,
    trie::NoNodes,
};
use theta_evm::{Evm, contracts::TEST_TOKEN_20};
use theta_ledger::{
    state::{Account, StateView},
    vm::{ContractVm as _, VmCall, VmEnv},
};

const HEIGHT: u64 = 1_000;
const BLOCK: usize = 512;
/// The mapping of balances among the token's variables.
const BALANCES: u64 = 1;

fn account(number: u64) -> Address {
    Address::from_slice(&keccak(number.to_be_bytes())[..20])
}

fn balance_slot(owner: Address) -> Hash {
    keccak([owner.into_word().as_slice(), &U256::from(BALANCES).to_be_bytes::<32>()].concat())
}

struct Bench {
    spec: ChainSpec,
    base: StateView,
    database: InMemoryDB,
    /// Sequences of the accounts in the database.
    nonces: Vec<u64>,
}

impl Bench {
    fn new(accounts: u64) -> Self {
        let mut base = StateView::open(EMPTY_ROOT, HEIGHT - 1, Arc::new(NoNodes)).expect("empty");
        let mut database = InMemoryDB::default();
        let (token, code) = (TEST_TOKEN_20.address, TEST_TOKEN_20.code());
        let balance = U256::from(1) << 100;
        let mut contract = Account::new(token, 0);
        contract.sequence = 1;
        contract.code_hash = base.store_code(code.clone());
        base.store(contract);
        let code = Bytecode::new_legacy(code.into());
        let info =
            AccountInfo { nonce: 1, code_hash: code.hash_slow(), code: Some(code), ..AccountInfo::default() };
        database.insert_account_info(token, info);
        for number in 0..accounts {
            let address = account(number);
            let balance_of = Coins::tfuel(TFuelWei::from_u256(balance));
            base.store(Account { balance: balance_of, ..Account::new(address, 0) });
            base.set_slot(token, balance_slot(address), balance).expect("in memory");
            database.insert_account_info(address, AccountInfo { balance, ..AccountInfo::default() });
            database.insert_account_storage(token, balance_slot(address).into(), balance).expect("in memory");
        }
        base.root().expect("in memory");
        Self { spec: ChainSpec::devnet(), base, database, nonces: vec![0; accounts as usize] }
    }

    /// The numbers of payer and payee.
    fn pairs(&self, random: &mut Random, count: usize) -> Vec<(u64, u64)> {
        let accounts = self.nonces.len() as u64;
        (0..count).map(|_| (random.below(accounts), random.below(accounts))).collect()
    }

    fn call(&self, (from, to): (u64, u64), token: bool) -> VmCall {
        let (from, payee) = (account(from), account(to));
        let selector = keccak("transfer(address,uint256)");
        let (word, amount) = (payee.into_word(), U256::from(7).to_be_bytes::<32>());
        let data = [&selector[..4], word.as_slice(), &amount];
        VmCall {
            from,
            to: Some(if token { TEST_TOKEN_20.address } else { payee }),
            tfuel: U256::from(u64::from(!token)),
            gas_limit: 100_000,
            gas_price: U256::from(4_000_000_000_000_u64),
            data: if token { data.concat() } else { Vec::new() },
            ..VmCall::default()
        }
    }

    /// Our machine, with the ledger's part: gas is paid before, what is left comes back.
    fn ours(&self, view: &mut StateView, calls: &[VmCall], blocks: bool) -> Duration {
        let rules = self.spec.rules(HEIGHT);
        let env = VmEnv {
            rules,
            chain_id: U256::from(366),
            height: HEIGHT,
            timestamp: U256::from(1_000),
            parent: Hash::ZERO,
            proposer: Address::repeat_byte(0x99),
        };
        let mut time = Duration::ZERO;
        for calls in calls.chunks(BLOCK) {
            let mut fresh = self.base.clone();
            let view = if blocks { &mut fresh } else { &mut *view };
            let start = Instant::now();
            for call in calls {
                let fee = |gas: u64| Coins::tfuel(TFuelWei::from_u256(call.gas_price * U256::from(gas)));
                let mut sender = view.account(call.from).expect("in memory").expect("made").clone();
                sender.balance = sender.balance.checked_sub(fee(call.gas_limit)).expect("rich");
                sender.sequence += 1;
                view.store(sender);
                let outcome = Evm.execute(&env, call, view).expect("in memory");
                assert!(outcome.error.is_empty(), "{}", outcome.error);
                let mut sender = view.account(call.from).expect("in memory").expect("made").clone();
                sender.balance =
                    sender.balance.checked_add(fee(call.gas_limit - outcome.gas_used)).expect("fits");
                view.store(sender);
            }
            time += start.elapsed();
        }
        time
    }

    fn theirs(&mut self, pairs: &[(u64, u64)], calls: &[VmCall]) -> Duration {
        let rules = self.spec.rules(HEIGHT);
        let mut cfg = CfgEnv::default();
        cfg.chain_id = 366;
        cfg.set_spec_and_mainnet_gas_params(SpecId::OSAKA);
        let block = BlockEnv {
            number: U256::from(HEIGHT),
            beneficiary: Address::repeat_byte(0x99),
            basefee: rules.tx.min_gas_price,
            gas_limit: u64::MAX,
            ..BlockEnv::default()
        };
        let txs: Vec<TxEnv> = pairs
            .iter()
            .zip(calls)
            .map(|((from, _), call)| {
                let nonce = &mut self.nonces[*from as usize];
                *nonce += 1;
                TxEnv {
                    caller: call.from,
                    gas_limit: call.gas_limit,
                    gas_price: 4_000_000_000_000,
                    kind: TxKind::Call(call.to.unwrap_or_default()),
                    value: call.tfuel,
                    data: call.data.clone().into(),
                    nonce: *nonce - 1,
                    chain_id: Some(366),
                    ..TxEnv::default()
                }
            })
            .collect();
        let context = Context::mainnet().with_block(block).with_cfg(cfg).with_db(&mut self.database);
        let mut evm = context.build_mainnet();
        let start = Instant::now();
        for tx in txs {
            assert!(evm.transact_commit(tx).expect("valid").is_success());
        }
        start.elapsed()
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let (count, rounds) = if only_test() { (BLOCK, 1) } else { (8 * BLOCK, 11) };
    let large = if only_test() { 2_000 } else { 100_000 };
    for (name, accounts, token) in
        [("evm/transfer", 1_000, false), ("evm/erc20/1e3", 1_000, true), ("evm/erc20/1e5", large, true)]
    {
        let mut bench = Bench::new(accounts);
        let mut random = Random::new(SEED);
        let mut warm = bench.base.clone();
        let (mut ours, mut blocks, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..=rounds {
            let pairs = bench.pairs(&mut random, count);
            let calls: Vec<VmCall> = pairs.iter().map(|pair| bench.call(*pair, token)).collect();
            let times = [
                bench.ours(&mut warm, &calls, false),
                bench.theirs(&pairs, &calls),
                bench.ours(&mut warm, &calls, true),
            ];
            // The first fills caches.
            if round > 0 {
                let each = times.map(|time| time.as_nanos() as f64 / count as f64);
                ours.push(each[0]);
                theirs.push(each[1]);
                blocks.push(each[2]);
            }
        }
        for (kind, own) in [("warm", ours), ("block", blocks)] {
            let ratios = own.iter().zip(&theirs).map(|(own, peer)| own / peer).collect();
            println!(
                "{{\"bench\":\"{name}/{kind}\",\"unit\":\"ns/tx\",\"median\":{:.0},\"peer\":\"raw revm, in-memory database\",\"peer_value\":{:.0},\"ratio\":{:.2},\"rounds\":{rounds}}}",
                median(own),
                median(theirs.clone()),
                median(ratios),
            );
        }
    }
}
