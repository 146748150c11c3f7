//! Ethereum's state tests (`GeneralStateTests` of ethereum/tests and ethereum/legacytests) on revm as it is.
//!
//! The files show that the engine below our rules does what Ethereum's forks ask: [`run`] executes every case of a file or
//! folder with revm's own handler at the fork that the case names, and compares the state root, by the trie of theta-core,
//! and the hash of the logs. A transaction that has to be refused has to leave the state as it was.
//!
//! A [`Report`] displays as one line a case, `ok|FAIL|skip FILE::TEST::FORK::INDEX [reason]`, and
//! `N passed, M failed, K skipped` at the end.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::Read as _,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use revm::{
    Context, ExecuteCommitEvm as _, MainBuilder as _, MainContext as _,
    context::CfgEnv,
    database::{CacheState, State},
    primitives::hardfork::SpecId,
    statetest_types::{SpecName, Test, TestUnit},
};
use theta_core::{
    codec::rlp::{Encode, encode_list},
    hash::{Hash, keccak},
    trie::{NoNodes, NodeSource, Trie, TrieError},
};
use theta_ledger::vm::Log;

/// Longest file that is read.
const MAX_FILE: u64 = 64 << 20;
/// Most files of one run.
const MAX_FILES: usize = 100_000;
/// Deepest folder below the one that is named.
const MAX_DEPTH: usize = 16;

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

/// Runs every case of a file, or of all `.json` files in and below a folder, on this many threads.
pub fn run(path: &Path, threads: NonZeroUsize) -> Result<Report, StateTestError> {
    let mut files = Vec::new();
    list(path, MAX_DEPTH, &mut files)?;
    files.sort_unstable();
    let next = AtomicUsize::new(0);
    let done = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..threads.get().min(files.len()) {
            scope.spawn(|| {
                while let Some((index, file)) = take(&next, &files) {
                    let cases = run_file(file);
                    done.lock().expect("no thread panics while it inserts").insert(index, cases);
                }
            });
        }
    });
    let done = done.into_inner().expect("no thread panics while it inserts");
    Ok(Report { cases: done.into_values().flatten().collect() })
}

fn take<'a>(next: &AtomicUsize, files: &'a [PathBuf]) -> Option<(usize, &'a PathBuf)> {
    let index = next.fetch_add(1, Ordering::Relaxed);
    files.get(index).map(|file| (index, file))
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

fn run_file(path: &Path) -> Vec<Case> {
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
        Err(error) => return whole(error.to_string()),
    };
    let mut all = Vec::new();
    for (name, test) in tests {
        let cases = run_test(test)
            .unwrap_or_else(|error| vec![(String::new(), Verdict::Skipped(format!("not read: {error}")))]);
        all.extend(
            cases.into_iter().map(|(case, verdict)| Case { name: format!("{file}::{name}{case}"), verdict }),
        );
    }
    all
}

/// The cases of one test: `::FORK::INDEX`, and what came of each.
fn run_test(test: serde_json::Value) -> Result<Vec<(String, Verdict)>, serde_json::Error> {
    let unit: TestUnit = serde_json::from_value(test)?;
    let mut cases = Vec::new();
    for (fork, tests) in &unit.post {
        for (index, test) in tests.iter().enumerate() {
            let verdict = match spec_of(fork) {
                None => Verdict::Skipped(format!("revm has no rules of {fork:?}")),
                Some(spec) => match run_case(&unit, test, spec) {
                    Ok(()) => Verdict::Passed,
                    Err(_) if has_storage_alone(&unit) => Verdict::Skipped(STORAGE_ALONE.to_owned()),
                    Err(reason) => Verdict::Failed(reason),
                },
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
const STORAGE_ALONE: &str = "begins with storage but neither code nor nonce, which no chain holds (EIP-7610)";

fn has_storage_alone(unit: &TestUnit) -> bool {
    unit.pre.values().any(|account| {
        account.nonce == 0
            && account.code.is_empty()
            && account.storage.values().any(|value| !value.is_zero())
    })
}

fn run_case(unit: &TestUnit, test: &Test, spec: SpecId) -> Result<(), String> {
    check_ranges(unit, test)?;
    let mut cfg = CfgEnv::default();
    cfg.chain_id = unit.env.current_chain_id.and_then(|id| u64::try_from(id).ok()).unwrap_or(1);
    cfg.set_spec_and_mainnet_gas_params(spec);
    cfg.set_max_blobs_per_tx(max_blobs(spec));
    let block = unit.block_env(&mut cfg);
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
    let hash = logs_hash(&logs);
    if hash != test.logs {
        return Err(format!("logs {hash}, expected {}", test.logs));
    }
    let root = state_root(&state.cache).map_err(|error| error.to_string())?;
    if root == test.hash { Ok(()) } else { Err(format!("state {root}, expected {}", test.hash)) }
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

/// Ethereum's state root: keys are hashed, accounts are nonce, balance, root of the storage and hash of the code.
fn state_root(cache: &CacheState) -> Result<Hash, TrieError> {
    let source: Arc<dyn NodeSource> = Arc::new(NoNodes);
    let mut state = Trie::empty(source.clone());
    for (address, account) in cache.trie_account() {
        let mut storage = Trie::empty(source.clone());
        for (key, value) in &account.storage {
            if !value.is_zero() {
                storage.set(keccak(key.to_be_bytes::<32>()).as_slice(), value.to_rlp())?;
            }
        }
        let mut record = Vec::new();
        encode_list(&mut record, |out| {
            account.info.nonce.encode(out);
            account.info.balance.encode(out);
            storage.root().encode(out);
            account.info.code_hash.encode(out);
        });
        state.set(keccak(address).as_slice(), record)?;
    }
    Ok(state.root())
}
