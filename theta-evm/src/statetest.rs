//! Ethereum's state tests (`GeneralStateTests` of ethereum/tests and ethereum/legacytests): on revm as it is, and on our
//! own machine.
//!
//! [`Engine::Stock`] shows that the engine below our rules does what Ethereum's forks ask: revm's own handler runs every
//! case at the fork that the case names. [`Engine::Ethereum`] runs the cases of Osaka and Cancun, and [`Engine::Theta`] those of
//! Constantinople, on the machine that runs our blocks, with Ethereum's fees around it. Either way the state root, by the
//! trie of theta-core, and the hash of the logs have to be those of the file. A transaction that has to be refused has to
//! leave the state as it was.
//!
//! Our rules differ from Ethereum's on purpose. A case that comes out otherwise is skipped with the rule as its reason where
//! it uses what that rule changes, and has failed where it uses nothing of the kind.
//!
//! A [`Report`] displays as one line a case, `ok|FAIL|skip FILE::TEST::FORK::INDEX [reason]`, and
//! `N passed, M failed, K skipped` at the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use revm::{
    Context, ExecuteCommitEvm as _, InspectCommitEvm as _, Inspector, MainBuilder as _, MainContext as _,
    bytecode::opcode as op,
    context::{BlockEnv, CfgEnv, TxEnv, either::Either},
    database::{CacheState, State},
    interpreter::{
        CallInputs, CallOutcome, CreateInputs, CreateOutcome, Interpreter, interpreter_types::Jumps as _,
    },
    primitives::{TxKind, hardfork::SpecId},
    statetest_types::{SpecName, Test, TestUnit},
};
use theta_core::{
    amount::{Coins, TFuelWei},
    codec::rlp::{Encode, encode_list},
    hash::{Address, EMPTY_CODE_HASH, EMPTY_ROOT, Hash, U256, keccak},
    spec::{ChainSpec, Rules},
    trie::{NoNodes, NodeSource, Trie, TrieError},
    workers::Inline,
};
use theta_ledger::{
    state::{Account, StateError, StateView},
    tx::ethereum::{Access, Authorization},
    vm::{Log, VmCall, VmEnv},
};

/// Longest file that is read.
const MAX_FILE: u64 = 64 << 20;
/// Most files of one run.
const MAX_FILES: usize = 100_000;
/// Deepest folder below the one that is named.
const MAX_DEPTH: usize = 16;

/// What stands in front of a number that is too large for its field, in transactions that have to be refused.
const BEYOND_RANGE: &str = "0x:bigint ";

/// Why a run could not begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateTestError {
    /// A file or folder could not be listed.
    #[error("{0} cannot be listed")]
    List(PathBuf, #[source] std::io::Error),
    /// There are more files, or folders in folders, than a run takes.
    #[error("{0} holds too many files")]
    TooMany(PathBuf),
}

/// What runs the cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// revm with its own handler, at any fork.
    Stock,
    /// Our machine by Theta's rules: cases of Constantinople, with and without EIP-1283.
    Theta,
    /// Our machine by Ethereum's rules: cases of Cancun and Osaka.
    Ethereum,
}

/// What came of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As the file says.
    Passed,
    /// Not as the file says.
    Failed(String),
    /// Not run.
    Skipped(String),
}

/// One expectation of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// `FILE::TEST::FORK::INDEX`.
    pub name: String,
    /// What came of it.
    pub verdict: Verdict,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.verdict {
            Verdict::Passed => write!(f, "ok {}", self.name),
            Verdict::Failed(reason) => write!(f, "FAIL {} [{reason}]", self.name),
            Verdict::Skipped(reason) => write!(f, "skip {} [{reason}]", self.name),
        }
    }
}

/// All cases of a run, in the order of the files' names.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The cases.
    pub cases: Vec<Case>,
}

impl Report {
    /// How many passed, failed and were skipped.
    pub fn counts(&self) -> (usize, usize, usize) {
        self.cases.iter().fold((0, 0, 0), |(passed, failed, skipped), case| match case.verdict {
            Verdict::Passed => (passed + 1, failed, skipped),
            Verdict::Failed(_) => (passed, failed + 1, skipped),
            Verdict::Skipped(_) => (passed, failed, skipped + 1),
        })
    }

    /// How many were skipped for each reason.
    pub fn skipped(&self) -> BTreeMap<&str, usize> {
        let mut reasons = BTreeMap::new();
        for case in &self.cases {
            if let Verdict::Skipped(reason) = &case.verdict {
                *reasons.entry(reason.as_str()).or_default() += 1;
            }
        }
        reasons
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for case in &self.cases {
            writeln!(f, "{case}")?;
        }
        for (reason, count) in self.skipped() {
            writeln!(f, "{count} skipped: {reason}")?;
        }
        let (passed, failed, skipped) = self.counts();
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

/// A file, or all `.json` files in and below a folder, in the order of their names.
pub fn files(path: &Path) -> Result<Vec<PathBuf>, StateTestError> {
    let mut files = Vec::new();
    list(path, MAX_DEPTH, &mut files)?;
    files.sort_unstable();
    Ok(files)
}

fn list(path: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), StateTestError> {
    let fails = |error| StateTestError::List(path.to_owned(), error);
    if !std::fs::metadata(path).map_err(fails)?.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in std::fs::read_dir(path).map_err(fails)? {
        let entry = entry.map_err(fails)?;
        if depth == 0 || files.len() >= MAX_FILES {
            return Err(StateTestError::TooMany(path.to_owned()));
        }
        let inner = entry.path();
        // A link to a folder is not followed: it might lead back up.
        let is_folder = entry.file_type().map_err(fails)?.is_dir();
        if is_folder || inner.extension().is_some_and(|extension| extension == "json") {
            list(&inner, depth - 1, files)?;
        }
    }
    Ok(())
}

/// Runs every case of a file. One that cannot be read or holds no state test is one failed case, and so is each test in it
/// that is none.
pub fn run(path: &Path, engine: Engine) -> Vec<Case> {
    let file = path.display();
    let whole = |reason| vec![Case { name: format!("{file}"), verdict: Verdict::Failed(reason) }];
    let mut bytes = Vec::new();
    match File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes)) {
        Err(error) => return whole(error.to_string()),
        Ok(_) if bytes.len() as u64 > MAX_FILE => return whole(format!("more than {MAX_FILE} bytes")),
        Ok(_) => {}
    }
    let tests: BTreeMap<String, serde_json::Value> = match serde_json::from_slice(&bytes) {
        Ok(tests) => tests,
        Err(error) => return whole(format!("no file of state tests: {error}")),
    };
    if tests.is_empty() {
        return whole("no file of state tests: it holds none".to_owned());
    }
    let mut all = Vec::new();
    for (name, test) in tests {
        let only = |verdict| vec![(String::new(), verdict)];
        let cases = if test["transaction"].to_string().contains(BEYOND_RANGE) {
            only(Verdict::Skipped("a transaction with a number that no bytes can carry".to_owned()))
        } else {
            let none = |reason: String| only(Verdict::Failed(format!("no state test: {reason}")));
            match run_test(test, engine) {
                Ok(cases) if cases.is_empty() => none("it expects nothing".to_owned()),
                Ok(cases) => cases,
                Err(error) => none(error.to_string()),
            }
        };
        all.extend(
            cases.into_iter().map(|(case, verdict)| Case { name: format!("{file}::{name}{case}"), verdict }),
        );
    }
    all
}

/// The cases of one test: `::FORK::INDEX`, and what came of each.
fn run_test(test: serde_json::Value, engine: Engine) -> Result<Vec<(String, Verdict)>, serde_json::Error> {
    let unit: TestUnit = serde_json::from_value(test)?;
    let mut cases = Vec::new();
    for (fork, tests) in &unit.post {
        for (index, test) in tests.iter().enumerate() {
            let verdict = match (engine, spec_of(fork)) {
                (Engine::Stock, Some(spec)) => stock(&unit, test, spec),
                (Engine::Theta, _)
                    if matches!(fork, SpecName::Constantinople | SpecName::ConstantinopleFix) =>
                {
                    ours(&unit, test, SpecId::PETERSBURG)
                }
                (Engine::Ethereum, Some(spec @ (SpecId::CANCUN | SpecId::OSAKA))) => ours(&unit, test, spec),
                (Engine::Stock, None) => Verdict::Skipped(format!("revm has no rules of {fork:?}")),
                _ => Verdict::Skipped("another fork".to_owned()),
            };
            cases.push((format!("::{fork:?}::{index}"), verdict));
        }
    }
    Ok(cases)
}

/// The rules of a fork's name; none for Constantinople, whose storage prices (EIP-1283) never held for long, for changes
/// in mid-chain, which only tests of blocks show, and for names that are not known.
fn spec_of(fork: &SpecName) -> Option<SpecId> {
    Some(match fork {
        SpecName::Frontier
        | SpecName::Homestead
        | SpecName::EIP150
        | SpecName::EIP158
        | SpecName::Byzantium
        | SpecName::ConstantinopleFix
        | SpecName::Istanbul
        | SpecName::Berlin
        | SpecName::London
        | SpecName::Paris
        | SpecName::Merge
        | SpecName::Shanghai
        | SpecName::Cancun
        | SpecName::Prague
        | SpecName::Osaka
        | SpecName::Amsterdam => fork.to_spec_id(),
        _ => return None,
    })
}

/// Most blobs of a transaction (EIP-4844, EIP-7691, EIP-7594).
const fn max_blobs(spec: SpecId) -> u64 {
    if spec.is_enabled_in(SpecId::OSAKA) || !spec.is_enabled_in(SpecId::PRAGUE) { 6 } else { 9 }
}

/// Why a case that differs is not held against the engine.
const STORAGE_ALONE: &str =
    "makes a contract where storage was but neither code nor nonce, as on no chain (EIP-7610)";

/// Addresses with storage, but neither nonce nor code.
fn storage_alone(unit: &TestUnit) -> BTreeSet<Address> {
    let alone = unit.pre.iter().filter(|(_, account)| {
        account.nonce == 0
            && account.code.is_empty()
            && account.storage.values().any(|value| !value.is_zero())
    });
    alone.map(|(address, _)| *address).collect()
}

fn configuration(unit: &TestUnit, spec: SpecId) -> (CfgEnv, BlockEnv) {
    let mut cfg = CfgEnv::default();
    cfg.chain_id = unit.env.current_chain_id.and_then(|id| u64::try_from(id).ok()).unwrap_or(1);
    cfg.set_spec_and_mainnet_gas_params(spec);
    cfg.set_max_blobs_per_tx(max_blobs(spec));
    let block = unit.block_env(&mut cfg);
    (cfg, block)
}

fn stock(unit: &TestUnit, test: &Test, spec: SpecId) -> Verdict {
    let Err(reason) = run_stock(unit, test, spec) else { return Verdict::Passed };
    let alone = storage_alone(unit);
    if !alone.is_empty() && look(unit, test, spec).created.intersection(&alone).next().is_some() {
        return Verdict::Skipped(STORAGE_ALONE.to_owned());
    }
    Verdict::Failed(reason)
}

fn run_stock(unit: &TestUnit, test: &Test, spec: SpecId) -> Result<(), String> {
    check_ranges(unit, test)?;
    let (cfg, block) = configuration(unit, spec);
    let mut state = State::builder().with_cached_prestate(unit.state()).with_bundle_update().build();
    let result = match test.tx_env(unit) {
        Err(error) => Err(error.to_string()),
        Ok(tx) => Context::mainnet()
            .with_block(block)
            .with_cfg(cfg)
            .with_db(&mut state)
            .build_mainnet()
            .transact_commit(tx)
            .map_err(|error| error.to_string()),
    };
    match (&result, &test.expect_exception) {
        (Err(error), None) => return Err(format!("refused: {error}")),
        (Ok(_), Some(expected)) => return Err(format!("not refused for {expected}")),
        _ => {}
    }
    let logs = result.map(|result| result.into_logs()).unwrap_or_default();
    let logs: Vec<Log> = logs
        .into_iter()
        .map(|log| {
            let (topics, data) = log.data.split();
            Log { address: log.address, topics, data: data.into() }
        })
        .collect();
    let mut records: Vec<Record> = cached(&state.cache).collect();
    let beneficiary = unit.env.current_coinbase;
    // Every block's proposer is touched, also where the transaction was refused or ended that account, and before EIP-161
    // that makes a record.
    if !spec.is_enabled_in(SpecId::SPURIOUS_DRAGON)
        && records.iter().all(|record| record.address != beneficiary)
    {
        records.push(Record::empty(beneficiary));
    }
    compare(test, &logs, records.into_iter())
}

fn compare(test: &Test, logs: &[Log], accounts: impl Iterator<Item = Record>) -> Result<(), String> {
    let hash = logs_hash(logs);
    if hash != test.logs {
        return Err(format!("logs {hash}, expected {}", test.logs));
    }
    let root = state_root(accounts).map_err(|error| error.to_string())?;
    if root == test.hash { Ok(()) } else { Err(format!("state {root}, expected {}", test.hash)) }
}

/// What a transaction uses, seen on revm as it is.
#[derive(Default)]
struct Seen {
    instructions: BTreeSet<u8>,
    called: BTreeSet<Address>,
    created: BTreeSet<Address>,
}

impl<C> Inspector<C> for Seen {
    fn step(&mut self, interpreter: &mut Interpreter, _: &mut C) {
        self.instructions.insert(interpreter.bytecode.opcode());
    }

    fn call(&mut self, _: &mut C, inputs: &mut CallInputs) -> Option<CallOutcome> {
        self.called.insert(inputs.bytecode_address);
        None
    }

    fn create_end(&mut self, _: &mut C, _: &CreateInputs, outcome: &mut CreateOutcome) {
        self.created.extend(outcome.address);
    }
}

fn look(unit: &TestUnit, test: &Test, spec: SpecId) -> Seen {
    let mut seen = Seen::default();
    let (cfg, block) = configuration(unit, spec);
    let mut state = State::builder().with_cached_prestate(unit.state()).with_bundle_update().build();
    if let Ok(tx) = test.tx_env(unit) {
        let context = Context::mainnet().with_block(block).with_cfg(cfg).with_db(&mut state);
        // A refused transaction has used nothing.
        let _ = context.build_mainnet_with_inspector(&mut seen).inspect_tx_commit(tx);
    }
    seen
}

/// A case on our machine.
fn ours(unit: &TestUnit, test: &Test, spec: SpecId) -> Verdict {
    if let Err(reason) = check_ranges(unit, test) {
        return Verdict::Failed(reason);
    }
    let Ok(tx) = test.tx_env(unit) else { return Verdict::Skipped(REFUSED.to_owned()) };
    if test.expect_exception.is_some() {
        return Verdict::Skipped(REFUSED.to_owned());
    }
    if !tx.blob_hashes.is_empty() {
        return Verdict::Skipped("by rule: there are no blobs".to_owned());
    }
    let mut result = run_ours(unit, test, spec, &tx, &BTreeSet::new());
    let seen = if matches!(result, Ok(Ok(()))) { Seen::default() } else { look(unit, test, spec) };
    if spec == SpecId::PETERSBURG && !seen.created.is_empty() {
        // Where the first sequence of what was made is all that differs, the rest is shown to be equal.
        result = run_ours(unit, test, spec, &tx, &seen.created);
    }
    match result {
        Err(error) => Verdict::Failed(error.to_string()),
        Ok(Ok(())) => Verdict::Passed,
        Ok(Err(reason)) => match deviation(unit, &seen, spec, &reason) {
            Some(rule) => Verdict::Skipped(format!("by rule: {rule}")),
            None => Verdict::Failed(reason),
        },
    }
}

const REFUSED: &str = "a transaction that has to be refused: the ledger does that before the machine";

/// The rule by which a case that came out otherwise may do so: the first that changes something it uses.
fn deviation(unit: &TestUnit, seen: &Seen, spec: SpecId, reason: &str) -> Option<&'static str> {
    let uses = |instructions: &[u8]| instructions.iter().any(|byte| seen.instructions.contains(byte));
    let created = !seen.created.is_empty() || uses(&[op::CREATE, op::CREATE2]);
    let alone = storage_alone(unit);
    let empty = unit
        .pre
        .values()
        .any(|account| account.nonce == 0 && account.code.is_empty() && account.balance.is_zero());
    let own = |address: &Address| {
        address.as_slice() <= Address::with_last_byte(207).as_slice()
            && *address >= Address::with_last_byte(201)
    };
    let logged = reason.starts_with("logs") && uses(&[op::LOG0, op::LOG1, op::LOG2, op::LOG3, op::LOG4]);
    let theta = spec == SpecId::PETERSBURG;
    let rules = [
        (
            theta && uses(&[op::BLOCKHASH, op::COINBASE, op::DIFFICULTY]),
            "BLOCKHASH, COINBASE and DIFFICULTY fail",
        ),
        (theta && uses(&[op::GASLIMIT]), "GASLIMIT is the transaction's"),
        (theta && uses(&[op::CHAINID, op::SELFBALANCE]), "CHAINID and SELFBALANCE are instructions"),
        (theta && uses(&[op::SELFDESTRUCT]), "SELFDESTRUCT takes effect at once, and the record stays"),
        (theta && logged, "logs of failed frames stay"),
        (theta && uses(&[op::EXTCODEHASH]), "EXTCODEHASH of an empty account is that of no code"),
        (theta && created, "a contract begins with sequence 0, so what it makes stands elsewhere"),
        (theta && uses(&[op::SSTORE]), "SSTORE is priced by the present value, and no gas comes back"),
        (!theta && uses(&[op::BLOCKHASH]), "BLOCKHASH is the chain's own"),
        (!theta && uses(&[op::DIFFICULTY]), "PREVRANDAO is made of the block below and the proposer"),
        (!seen.created.is_disjoint(&alone), STORAGE_ALONE),
        (empty, "an empty record that was there is not cleared"),
        (seen.called.iter().any(own), "201 to 207 are precompiles"),
        (
            theta
                && seen
                    .called
                    .iter()
                    .any(|address| address.as_slice() < Address::with_last_byte(9).as_slice()),
            "a call makes a record of a precompile",
        ),
    ];
    rules.into_iter().find_map(|(holds, rule)| holds.then_some(rule))
}

/// Runs a transaction on our machine, with Ethereum's fees around it. What was `made` counts as if it had begun with
/// sequence 1.
fn run_ours(
    unit: &TestUnit,
    test: &Test,
    spec: SpecId,
    tx: &TxEnv,
    made: &BTreeSet<Address>,
) -> Result<Result<(), String>, StateError> {
    let (cfg, block) = configuration(unit, spec);
    let mut rules: Rules = if spec != SpecId::PETERSBURG {
        ChainSpec::devnet().rules(u64::MAX).clone()
    } else {
        ChainSpec::privatenet().rules(u64::MAX).clone()
    };
    rules.tx.max_gas = block.gas_limit;
    rules.tx.min_gas_price = block.basefee;
    rules.evm.code_limit = 24_576;
    rules.evm.cheap_curves = spec != SpecId::PETERSBURG;
    let price = U256::from(match tx.gas_priority_fee {
        Some(tip) => tip.saturating_add(block.basefee.into()).min(tx.gas_price),
        None => tx.gas_price,
    });
    let call = call(tx, price);
    let height = u64::try_from(block.number).unwrap_or(u64::MAX);
    let env = VmEnv {
        rules: &rules,
        chain_id: U256::from(cfg.chain_id),
        height,
        timestamp: block.timestamp,
        parent: unit.env.previous_hash.unwrap_or_default(),
        proposer: block.beneficiary,
    };
    let mut view = StateView::open(EMPTY_ROOT, height.saturating_sub(1), Arc::new(NoNodes))?;
    for (address, info) in &unit.pre {
        let mut account = Account::new(*address, 0);
        account.sequence = info.nonce;
        account.balance = Coins::tfuel(TFuelWei::from_u256(info.balance));
        account.code_hash = view.store_code(info.code.to_vec());
        view.store(account);
        for (key, value) in info.storage.iter().filter(|(_, value)| !value.is_zero()) {
            view.set_slot(*address, Hash::from(*key), *value)?;
        }
    }
    let fee =
        |gas: u64, price: U256| Coins::tfuel(TFuelWei::from_u256(price.saturating_mul(U256::from(gas))));
    let mut sender = view.load_or_new(call.from)?;
    let Some(rest) = sender.balance.checked_sub(fee(call.gas_limit, price)) else {
        return Ok(Err("the sender cannot pay".to_owned()));
    };
    sender.balance = rest;
    sender.sequence += u64::from(call.to.is_some());
    view.store(sender);
    let outcome = crate::execute(&env, &call, &mut view, spec, None)?.0;
    let base = if spec != SpecId::PETERSBURG { U256::from(block.basefee) } else { U256::ZERO };
    for (to, coins) in [
        (call.from, fee(call.gas_limit - outcome.gas_used.min(call.gas_limit), price)),
        (block.beneficiary, fee(outcome.gas_used, price.saturating_sub(base))),
    ] {
        if !coins.is_zero() {
            let mut account = view.account(to)?.cloned().unwrap_or_else(|| Account::new(to, 0));
            account.balance = account.balance.checked_add(coins).unwrap_or(account.balance);
            view.store(account);
        }
    }
    view.root()?;
    let keys = view.records_with(b"ls/a/")?;
    let mut records = Vec::new();
    for address in keys.keys().map(|key| Address::from_slice(&key[5..])) {
        let Some(account) = view.account(address)?.cloned() else { continue };
        let record = Record {
            address,
            nonce: account.sequence + u64::from(made.contains(&address)),
            balance: account.balance.tfuel.get(),
            code: account.code_hash,
            slots: view.slots(address)?.into_iter().map(|(key, value)| (key.into(), value)).collect(),
        };
        let is_empty = record.nonce == 0 && record.balance.is_zero() && record.code == EMPTY_CODE_HASH;
        if !is_empty || unit.pre.contains_key(&address) {
            records.push(record);
        }
    }
    Ok(compare(test, &outcome.logs, records.into_iter()))
}

fn call(tx: &TxEnv, price: U256) -> VmCall {
    let access = tx
        .access_list
        .0
        .iter()
        .map(|item| Access { address: item.address, slots: item.storage_keys.clone() });
    let authorizations = tx.authorization_list.iter().filter_map(|entry| match entry {
        Either::Left(signed) => Some(Authorization {
            chain_id: *signed.chain_id(),
            address: *signed.address(),
            nonce: signed.nonce(),
            parity: signed.y_parity(),
            r: signed.r(),
            s: signed.s(),
        }),
        Either::Right(_) => None,
    });
    VmCall {
        from: tx.caller,
        to: match tx.kind {
            TxKind::Call(to) => Some(to),
            TxKind::Create => None,
        },
        tfuel: tx.value,
        theta: U256::ZERO,
        gas_limit: tx.gas_limit,
        gas_price: price,
        data: tx.data.to_vec(),
        access: access.collect(),
        authorizations: authorizations.collect(),
    }
}

/// What the reader of the files takes for granted, and would panic without.
fn check_ranges(unit: &TestUnit, test: &Test) -> Result<(), String> {
    let tx = &unit.transaction;
    let indexes = &test.indexes;
    if indexes.data >= tx.data.len() || indexes.gas >= tx.gas_limit.len() || indexes.value >= tx.value.len() {
        return Err("indexes beyond the transaction".to_owned());
    }
    let fees = [tx.max_priority_fee_per_gas, tx.max_fee_per_blob_gas];
    if fees.into_iter().flatten().any(|fee| u128::try_from(fee).is_err()) {
        return Err("a fee above 128 bits".to_owned());
    }
    if unit.env.current_excess_blob_gas.is_some_and(|gas| u64::try_from(gas).is_err()) {
        return Err("blob gas above 64 bits".to_owned());
    }
    Ok(())
}

fn logs_hash(logs: &[Log]) -> Hash {
    let mut out = Vec::new();
    encode_list(&mut out, |out| logs.iter().for_each(|log| log.encode(out)));
    keccak(out)
}

/// An account as Ethereum's state holds it.
struct Record {
    address: Address,
    nonce: u64,
    balance: U256,
    code: Hash,
    slots: Vec<(U256, U256)>,
}

impl Record {
    const fn empty(address: Address) -> Self {
        Self { address, nonce: 0, balance: U256::ZERO, code: EMPTY_CODE_HASH, slots: Vec::new() }
    }
}

fn cached(cache: &CacheState) -> impl Iterator<Item = Record> {
    cache.trie_account().into_iter().map(|(address, account)| Record {
        address,
        nonce: account.info.nonce,
        balance: account.info.balance,
        code: account.info.code_hash,
        slots: account.storage.iter().map(|(key, value)| (*key, *value)).collect(),
    })
}

/// Ethereum's state root: keys are hashed, accounts are nonce, balance, root of the storage and hash of the code.
fn state_root(accounts: impl Iterator<Item = Record>) -> Result<Hash, TrieError> {
    let source: Arc<dyn NodeSource> = Arc::new(NoNodes);
    let (mut state, mut records) = (Trie::empty(source.clone()), Vec::new());
    for account in accounts {
        let mut storage = Trie::empty(source.clone());
        let slots = account.slots.iter().filter(|(_, value)| !value.is_zero());
        let slots = slots.map(|(key, value)| (keccak(key.to_be_bytes::<32>()).to_vec(), value.to_rlp()));
        storage.update(slots, &Inline)?;
        let mut record = Vec::new();
        encode_list(&mut record, |out| {
            account.nonce.encode(out);
            account.balance.encode(out);
            storage.root().encode(out);
            account.code.encode(out);
        });
        records.push((keccak(account.address).to_vec(), record));
    }
    state.update(records, &Inline)?;
    Ok(state.root())
}
