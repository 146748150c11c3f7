//! One state for both machines: accounts with coins and a few contracts, in tries behind our cache of nodes and in raw
//! revm's database.

use std::{convert::Infallible, sync::Arc, time::Duration};

use revm::{
    Context, DatabaseRef, ExecuteCommitEvm as _, MainBuilder as _, MainContext as _,
    bytecode::Bytecode,
    context::{BlockEnv, CfgEnv, TxEnv},
    database::{CacheDB, EmptyDB, InMemoryDB},
    primitives::{TxKind, hardfork::SpecId},
    state::AccountInfo,
};
use theta_core::{
    amount::{Coins, TFuelWei},
    codec::rlp::{Decode as _, Encode as _, Reader},
    hash::{Address, AddressMap, EMPTY_ROOT, Hash, U256, keccak},
    spec::{ChainSpec, Rules},
    store::MemStore,
    trie::{NodeSource, Trie},
    workers::Inline,
};
use theta_evm::{Evm, contracts::TEST_TOKEN_20};
use theta_ledger::{
    state::{Account, StateView, keys, nodes::Nodes},
    vm::{ContractVm as _, VmCall, VmEnv},
};

use crate::{state::write_nodes, thread_time};

const HEIGHT: u64 = 1_000;
const CHAIN_ID: u64 = 366;
/// The least price of gas.
pub const GAS_PRICE: u64 = 4_000_000_000_000;
/// More gas than any call here uses, and so that an account can pay for it.
pub const MAX_GAS: u64 = 2_000_000_000;
const PROPOSER: Address = Address::repeat_byte(0x99);

/// The mapping of balances among the token's variables.
const BALANCES: u64 = 1;

fn balance_slot(owner: u64) -> Hash {
    let owner = account(owner).into_word();
    keccak([owner.as_slice(), &U256::from(BALANCES).to_be_bytes::<32>()].concat())
}

/// The token, of which so many accounts have some.
pub fn token(accounts: u64) -> Contract {
    let slots = (0..accounts).map(|number| (balance_slot(number), U256::from(1) << 100));
    Contract { address: TEST_TOKEN_20.address, code: TEST_TOKEN_20.code(), slots: slots.collect() }
}

/// Input of one of the token's functions that take an address and an amount.
pub fn token_input(function: &str, address: Address, amount: u64) -> Vec<u8> {
    let selector = keccak(format!("{function}(address,uint256)"));
    [&selector[..4], address.into_word().as_slice(), &U256::from(amount).to_be_bytes::<32>()].concat()
}

/// A transfer of coins or of the token between two accounts.
pub fn transfer((from, to): (u64, u64), token: bool) -> VmCall {
    let payee = account(to);
    VmCall {
        from: account(from),
        to: Some(if token { TEST_TOKEN_20.address } else { payee }),
        tfuel: U256::from(u64::from(!token)),
        gas_limit: 100_000,
        gas_price: U256::from(GAS_PRICE),
        data: if token { token_input("transfer", payee, 7) } else { Vec::new() },
        ..VmCall::default()
    }
}

/// The address of the account with this number.
pub fn account(number: u64) -> Address {
    Address::from_slice(&keccak(number.to_be_bytes())[..20])
}

/// A contract of the state: its address, code, and words of its storage.
#[derive(Clone, Debug)]
pub struct Contract {
    /// Where it stands.
    pub address: Address,
    /// Its code.
    pub code: Vec<u8>,
    /// Words of its storage; those that are zero stand for what will be asked for and is not there.
    pub slots: Vec<(Hash, U256)>,
}

/// What running calls took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Run {
    /// How long.
    pub time: Duration,
    /// Gas used.
    pub gas: u64,
}

impl std::ops::AddAssign for Run {
    fn add_assign(&mut self, other: Self) {
        self.time += other.time;
        self.gas += other.gas;
    }
}

/// The state, and the rules it runs by: Ethereum's of Osaka.
#[derive(Debug)]
pub struct World {
    rules: Rules,
    nodes: Arc<Nodes>,
    root: Hash,
    accounts: u64,
    contracts: Vec<Contract>,
}

impl World {
    /// A state of so many accounts and these contracts, settled.
    pub fn new(accounts: u64, contracts: Vec<Contract>) -> Self {
        let store = Arc::new(MemStore::default());
        let nodes = Arc::new(Nodes::new(store.clone()));
        let mut entries = Vec::new();
        for Contract { address, code, slots } in &contracts {
            let mut storage = Trie::empty(nodes.clone());
            let slots = slots.iter().filter(|(_, value)| !value.is_zero());
            let slots = slots.map(|(key, value)| (key.to_vec(), value.to_rlp()));
            storage.update(slots, &Inline).expect("nothing is read");
            let mut account = Account::new(*address, 0);
            (account.sequence, account.code_hash, account.root) = (1, keccak(code), storage.root());
            entries.push((keys::code(account.code_hash), code.clone()));
            entries.push((keys::account(*address), account.to_rlp()));
            write_nodes(store.as_ref(), &nodes, &mut storage);
        }
        entries.extend((0..accounts).map(|number| {
            let balance = Coins::tfuel(TFuelWei::from_u256(Self::balance()));
            let account = Account { balance, ..Account::new(account(number), 0) };
            (keys::account(account.address), account.to_rlp())
        }));
        let mut state = Trie::empty(nodes.clone());
        state.update(entries, &Inline).expect("nothing is read");
        let root = state.root();
        write_nodes(store.as_ref(), &nodes, &mut state);
        let mut rules = ChainSpec::devnet().rules(HEIGHT).clone();
        rules.tx.max_gas = MAX_GAS;
        Self { rules, nodes, root, accounts, contracts }
    }

    fn balance() -> U256 {
        U256::from(1) << 100
    }

    /// Accounts with coins.
    pub const fn accounts(&self) -> u64 {
        self.accounts
    }

    /// A view that has read nothing yet, as a block begins with.
    pub fn view(&self) -> StateView {
        StateView::open(self.root, HEIGHT - 1, self.nodes.clone()).expect("stored")
    }

    /// A view that has read everything.
    pub fn warm_view(&self) -> StateView {
        let mut view = self.view();
        for number in 0..self.accounts {
            assert!(view.account(account(number)).expect("stored").is_some());
        }
        for contract in &self.contracts {
            for (key, value) in &contract.slots {
                assert_eq!(view.slot(contract.address, *key).expect("stored"), *value);
            }
        }
        view
    }

    /// The peer's database with everything in its cache.
    pub fn warm_database(&self) -> InMemoryDB {
        let mut database = CacheDB::new(EmptyDB::default());
        for Contract { address, code, slots } in &self.contracts {
            let code = Bytecode::new_legacy(code.clone().into());
            let info = AccountInfo {
                nonce: 1,
                code_hash: code.hash_slow(),
                code: Some(code),
                ..AccountInfo::default()
            };
            database.insert_account_info(*address, info);
            for (key, value) in slots {
                database.insert_account_storage(*address, (*key).into(), *value).expect("in memory");
            }
        }
        for number in 0..self.accounts {
            let info = AccountInfo { balance: Self::balance(), ..AccountInfo::default() };
            database.insert_account_info(account(number), info);
        }
        database
    }

    /// The peer's database that has read nothing yet, over the same nodes.
    pub fn database(&self) -> CacheDB<Tries> {
        let open = |root| Trie::open(root, self.nodes.clone() as Arc<dyn NodeSource>).expect("stored");
        let state = open(self.root);
        let roots = self.contracts.iter().map(|contract| contract.address);
        let storage = roots
            .map(|address| (address, open(read(&state, address).map_or(EMPTY_ROOT, |found| found.root))));
        CacheDB::new(Tries { storage: storage.collect(), state })
    }

    /// Our machine, with the ledger's part: gas is paid before, what is left comes back.
    pub fn ours(&self, view: &mut StateView, calls: &[VmCall]) -> Run {
        let env = VmEnv {
            rules: &self.rules,
            chain_id: U256::from(CHAIN_ID),
            height: HEIGHT,
            timestamp: U256::from(1_000),
            parent: Hash::ZERO,
            proposer: PROPOSER,
        };
        let mut gas = 0;
        let start = thread_time();
        for call in calls {
            let fee = |gas: u64| Coins::tfuel(TFuelWei::from_u256(call.gas_price * U256::from(gas)));
            let mut sender = view.account(call.from).expect("in memory").expect("made").clone();
            sender.balance = sender.balance.checked_sub(fee(call.gas_limit)).expect("rich");
            // A creation raises it itself.
            sender.sequence += u64::from(call.to.is_some());
            view.store(sender);
            let outcome = Evm.execute(&env, call, view).expect("in memory");
            assert!(outcome.error.is_empty(), "{}", outcome.error);
            let mut sender = view.account(call.from).expect("in memory").expect("made").clone();
            sender.balance =
                sender.balance.checked_add(fee(call.gas_limit - outcome.gas_used)).expect("fits");
            view.store(sender);
            gas += outcome.gas_used;
        }
        Run { time: thread_time().saturating_sub(start), gas }
    }

    /// Raw revm: validation, fees, execution and commit are its own.
    pub fn theirs<D: DatabaseRef<Error = Infallible>>(
        &self,
        database: &mut CacheDB<D>,
        calls: &[VmCall],
    ) -> Run {
        let mut cfg = CfgEnv::default();
        cfg.chain_id = CHAIN_ID;
        cfg.set_spec_and_mainnet_gas_params(SpecId::OSAKA);
        cfg.tx_gas_limit_cap = Some(MAX_GAS);
        cfg.disable_nonce_check = true;
        let block = BlockEnv {
            number: U256::from(HEIGHT),
            beneficiary: PROPOSER,
            basefee: self.rules.tx.min_gas_price,
            gas_limit: u64::MAX,
            ..BlockEnv::default()
        };
        let txs: Vec<TxEnv> = calls
            .iter()
            .map(|call| TxEnv {
                caller: call.from,
                gas_limit: call.gas_limit,
                gas_price: GAS_PRICE.into(),
                kind: call.to.map_or(TxKind::Create, TxKind::Call),
                value: call.tfuel,
                data: call.data.clone().into(),
                chain_id: Some(CHAIN_ID),
                ..TxEnv::default()
            })
            .collect();
        let context = Context::mainnet().with_block(block).with_cfg(cfg).with_db(database);
        let mut evm = context.build_mainnet();
        let mut gas = 0;
        let start = thread_time();
        for tx in txs {
            let result = evm.transact_commit(tx).expect("valid");
            assert!(result.is_success(), "{result:?}");
            gas += result.tx_gas_used();
        }
        Run { time: thread_time().saturating_sub(start), gas }
    }
}

fn read(state: &Trie, address: Address) -> Option<Account> {
    let bytes = state.get(&keys::account(address)).expect("stored")?;
    Some(Account::decode(&mut Reader::new(&bytes, bytes.len()).expect("stored")).expect("an account"))
}

/// The state's tries, as the peer's database reads them.
#[derive(Debug)]
pub struct Tries {
    state: Trie,
    storage: AddressMap<Trie>,
}

impl DatabaseRef for Tries {
    type Error = Infallible;

    fn basic_ref(&self, address: Address) -> Result<Option<AccountInfo>, Infallible> {
        Ok(read(&self.state, address).map(|account| AccountInfo {
            balance: account.balance.tfuel.get(),
            nonce: account.sequence,
            code_hash: account.code_hash,
            code: None,
            ..AccountInfo::default()
        }))
    }

    fn code_by_hash_ref(&self, hash: Hash) -> Result<Bytecode, Infallible> {
        let code = self.state.get(&keys::code(hash)).expect("stored").unwrap_or_default();
        Ok(Bytecode::new_legacy(code.into()))
    }

    fn storage_ref(&self, address: Address, index: U256) -> Result<U256, Infallible> {
        let bytes =
            self.storage.get(&address).and_then(|trie| trie.get(&index.to_be_bytes::<32>()).expect("stored"));
        let word = |bytes: Vec<u8>| {
            U256::decode(&mut Reader::new(&bytes, bytes.len()).expect("stored")).expect("a word")
        };
        Ok(bytes.map_or(U256::ZERO, word))
    }

    fn block_hash_ref(&self, _: u64) -> Result<Hash, Infallible> {
        Ok(Hash::ZERO)
    }
}
