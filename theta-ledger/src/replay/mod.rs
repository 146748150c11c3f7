//! Replays recordings of the reference and tells the first place where this ledger does something else.
//!
//! Three forms are read, told apart by the first line. Each says in its first lines what it holds.
//!
//! | form | what is recorded | what is compared |
//! |---|---|---|
//! | `diff_ledger*.jsonl` | candidates of all kinds on random states, refused ones too, and the blocks made of them | verdict, code, receipt, every changed record and root of each candidate; then each block as a whole, with validators, rewards, end of block and flags |
//! | `diff_evm*.jsonl` | contract transactions on one state after another | verdict, code, receipt, changed records, root |
//! | `blocks_*.json` | consecutive blocks of a network from its genesis on | hashes, receipts, flags and the root of each block, through [`Ledger`](crate::ledger::Ledger) |
//!
//! A sequence ends at its first difference, since all behind it runs on another state. Texts of errors are never
//! compared, and whether votes certify a block is consensus's to say: [`replay_judged`] asks a
//! [`Judge`].
//!
//! ```
//! use std::sync::Arc;
//! use theta_ledger::{replay::replay, vm::NoContracts};
//! let report = replay(&b"{\"t\":\"meta\"}\n"[..], Arc::new(NoContracts), None)?;
//! assert_eq!((report.passed(), report.failed()), (0, 0));
//! # Ok::<(), theta_ledger::replay::ReplayError>(())
//! ```

pub mod blocks;
mod contracts;
mod sequences;

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
    io::{BufRead, Read},
    sync::Arc,
};

use serde::{Deserialize, de::IgnoredAny};
use theta_core::{
    block::Header,
    codec::rlp::{Decode, Encode},
    hash::{Address, Bytes, Hash, U256, keccak},
    stake::ValidatorSet,
    store::MemStore,
    trie::Trie,
    workers::Inline,
};

use crate::{
    error::{BlockError, OpenError},
    follow::Judge,
    genesis::Genesis,
    state::{
        StateError, StateView, keys,
        nodes::{NewNodes, Nodes},
    },
    vm::{ContractVm, VmOutcome},
};

/// Why a recording could not be replayed to its end. Says nothing about this ledger's rules.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// The file could not be read.
    #[error("recording could not be read: {0}")]
    Io(#[from] std::io::Error),
    /// A line is not what the form has there.
    #[error("line {line} of the recording is malformed: {source}")]
    Form {
        /// Its number, from 1.
        line: usize,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// What a line says does not fit the lines before it, or itself.
    #[error("line {line} of the recording: {what}")]
    Unfit {
        /// Its number, from 1.
        line: usize,
        /// What is wrong.
        what: String,
    },
    /// Recorded blocks begin with a genesis.
    #[error("recorded blocks are replayed from their genesis: give the genesis file")]
    NoGenesis,
    /// The ledger did not open on the genesis.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Our own state could not be read.
    #[error(transparent)]
    State(#[from] StateError),
}

/// What a replay gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Every sequence in the file's order.
    pub sequences: Vec<Replayed>,
}

impl Report {
    /// Transactions that did what was recorded.
    pub fn passed(&self) -> usize {
        self.sequences.iter().map(|sequence| sequence.passed).sum()
    }

    /// Transactions that did not, or were not reached because one before them did not.
    pub fn failed(&self) -> usize {
        self.sequences.iter().map(|sequence| sequence.transactions - sequence.passed).sum()
    }

    /// The first difference of each sequence that has one.
    pub fn differences(&self) -> impl Iterator<Item = &Difference> {
        self.sequences.iter().filter_map(|sequence| sequence.difference.as_ref())
    }
}

/// What the replay of one sequence gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// The recording's name for it.
    pub name: String,
    /// Blocks in it.
    pub blocks: usize,
    /// Transactions in it.
    pub transactions: usize,
    /// Those that did what was recorded, up to the first difference.
    pub passed: usize,
    /// Where it first differs.
    pub difference: Option<Difference>,
}

/// A place where this ledger does something else than was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Sequence, height and transaction.
    pub place: String,
    /// What differs, by the recording's name for it.
    pub field: String,
    /// As recorded.
    pub expected: String,
    /// As it is here.
    pub found: String,
}

/// Long values are shown from shortly before the place where they part.
impl Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, field, expected, found } = self;
        let parting = expected.chars().zip(found.chars()).take_while(|(one, other)| one == other).count();
        let shown = |text: &str| match text.chars().count() {
            0..=SHOWN => text.to_owned(),
            length => {
                let start = parting.saturating_sub(20).min(length - SHOWN);
                let window: String = text.chars().skip(start).take(SHOWN).collect();
                format!("{window} ({SHOWN} of {length} characters, from {start} on)")
            }
        };
        write!(f, "{place}: {field} is {}, recorded {}", shown(found), shown(expected))
    }
}

/// Characters of a value that a difference shows.
const SHOWN: usize = 200;

/// Replays a recording. `vm` runs the contracts; `genesis` is what recorded blocks start from and else unused.
pub fn replay(
    input: impl BufRead,
    vm: Arc<dyn ContractVm>,
    genesis: Option<&Genesis>,
) -> Result<Report, ReplayError> {
    replay_judged(input, vm, genesis, None)
}

/// Replays a recording and has recorded blocks judged by consensus too.
pub fn replay_judged(
    mut input: impl BufRead,
    vm: Arc<dyn ContractVm>,
    genesis: Option<&Genesis>,
    judge: Option<Arc<dyn Judge>>,
) -> Result<Report, ReplayError> {
    #[derive(Deserialize)]
    struct Head {
        t: Option<String>,
        blocks: Option<IgnoredAny>,
    }
    let mut first = Vec::new();
    input.by_ref().take(LONGEST_HEAD).read_until(b'\n', &mut first)?;
    match serde_json::from_slice::<Head>(&first) {
        Ok(Head { t: Some(_), .. }) => sequences::replay(input, vm.as_ref()),
        Ok(Head { blocks: None, .. }) => contracts::replay(input, vm.as_ref()),
        Err(source) if !source.is_eof() => Err(ReplayError::Form { line: 1, source }),
        // The one form that is a single value and not lines.
        _ => {
            let genesis = genesis.ok_or(ReplayError::NoGenesis)?;
            blocks::replay(first.as_slice().chain(input), vm, genesis, judge)
        }
    }
}

/// Bytes that are read of a first line to tell the form; the heads of the forms that have one are far shorter.
const LONGEST_HEAD: u64 = 1 << 18;

/// The lines behind the first, with their numbers.
fn lines(input: impl BufRead) -> impl Iterator<Item = Result<(usize, String), ReplayError>> {
    input.lines().zip(2..).map(|(line, number)| Ok((number, line?)))
}

fn parse<'a, T: Deserialize<'a>>(line: usize, text: &'a str) -> Result<T, ReplayError> {
    serde_json::from_str(text).map_err(|source| ReplayError::Form { line, source })
}

/// Why a sequence ends early.
enum Stop {
    Differs { field: String, expected: String, found: String },
    Failed(ReplayError),
}

impl Stop {
    fn differs(field: impl Display, expected: impl Display, found: impl Display) -> Self {
        Self::Differs { field: field.to_string(), expected: expected.to_string(), found: found.to_string() }
    }

    /// The difference that it is, or the failure.
    fn at(self, place: impl Display) -> Result<Difference, ReplayError> {
        match self {
            Self::Differs { field, expected, found } => {
                Ok(Difference { place: place.to_string(), field, expected, found })
            }
            Self::Failed(error) => Err(error),
        }
    }
}

impl From<StateError> for Stop {
    fn from(error: StateError) -> Self {
        Self::Failed(error.into())
    }
}

fn same<T: PartialEq + Display>(field: impl Display, expected: T, found: T) -> Result<(), Stop> {
    if expected == found { Ok(()) } else { Err(Stop::differs(field, expected, found)) }
}

/// Bytes as text; what is not there is `none`.
fn shown(bytes: Option<&[u8]>) -> String {
    bytes.map_or_else(|| "none".to_owned(), hex::encode)
}

/// Puts recorded entries into a trie whose nodes are then readable.
fn add_trie<'a>(
    nodes: &Arc<Nodes>,
    entries: impl IntoIterator<Item = (&'a Bytes, &'a Bytes)>,
) -> Result<Hash, StateError> {
    let mut trie = Trie::empty(nodes.clone());
    trie.update(entries.into_iter().map(|(key, value)| (key.to_vec(), value.to_vec())), &Inline)?;
    let root = trie.root();
    let mut new = NewNodes::default();
    new.collect(&mut trie);
    nodes.add(&new);
    Ok(root)
}

fn new_nodes() -> Arc<Nodes> {
    Arc::new(Nodes::new(Arc::new(MemStore::default())))
}

/// Records that a transaction or a block's end changes.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Changes {
    set: BTreeMap<Bytes, Bytes>,
    deleted: Vec<Bytes>,
    storage: BTreeMap<Address, BTreeMap<Hash, Option<Bytes>>>,
}

impl Changes {
    /// Whether a view whose root was just taken has them.
    fn check(&self, view: &mut StateView) -> Result<(), Stop> {
        let set = self.set.iter().map(|(key, value)| (key, Some(value)));
        for (key, expected) in set.chain(self.deleted.iter().map(|key| (key, None))) {
            same_record(view, key, expected.map(AsRef::as_ref))?;
        }
        for (address, slots) in &self.storage {
            for (slot, expected) in slots {
                let found = view.slot(*address, *slot)?;
                let expected = match expected {
                    None => U256::ZERO,
                    Some(bytes) => U256::from_rlp(bytes, 64)
                        .map_err(|_| Stop::differs("storage", hex::encode(bytes), "no word"))?,
                };
                same(format_args!("storage of {address} at {slot}"), expected, found)?;
            }
        }
        Ok(())
    }
}

fn same_record(view: &mut StateView, key: &[u8], expected: Option<&[u8]>) -> Result<(), Stop> {
    let found = view.record(key)?;
    if found.as_deref() == expected {
        return Ok(());
    }
    Err(Stop::differs(format_args!("record {}", readable(key)), shown(expected), shown(found.as_deref())))
}

/// A key as text where it is text, else its prefix as text and the rest in hex.
fn readable(key: &[u8]) -> String {
    let plain = |bytes: &[u8]| bytes.iter().all(u8::is_ascii_graphic);
    let prefix = [keys::ACCOUNT, keys::CODE, keys::SPLIT, keys::ELITE, keys::DISTRIBUTION]
        .into_iter()
        .find(|prefix| key.starts_with(prefix) && !plain(key));
    let (text, rest) = key.split_at(prefix.map_or(if plain(key) { key.len() } else { 0 }, <[u8]>::len));
    format!("{}{}", String::from_utf8_lossy(text), hex::encode(rest))
}

/// What was returned, or, where it is long, its length and hash.
#[derive(Deserialize)]
#[serde(untagged)]
enum Output {
    Whole(Bytes),
    Hashed { len: usize, keccak: Hash },
}

/// Compares a receipt, which contract transactions have and others do not.
fn same_receipt(expected: Option<&Outcome<'_>>, found: Option<&VmOutcome>) -> Result<(), Stop> {
    match (expected, found) {
        (Some(expected), Some(found)) => expected.check(found),
        (None, None) => Ok(()),
        (None, Some(_)) => Err(Stop::differs("receipt", "none", "one")),
        (Some(_), None) => Err(Stop::differs("receipt", "one", "none")),
    }
}

/// A contract's result as all forms come to it.
struct Outcome<'a> {
    gas: u64,
    error: &'a str,
    output: &'a Output,
    contract: Address,
    logs: &'a [(Address, Vec<Hash>, Bytes)],
    /// Address, token, whether negative, amount in decimal.
    balance_changes: Vec<(Address, u8, bool, String)>,
}

impl Outcome<'_> {
    fn check(&self, found: &VmOutcome) -> Result<(), Stop> {
        same("gas used", self.gas, found.gas_used)?;
        same("error", format!("{:?}", self.error), format!("{:?}", found.error))?;
        match self.output {
            Output::Whole(output) => same("output", shown(Some(output)), shown(Some(&found.output)))?,
            Output::Hashed { len, keccak: hash } => {
                same("output's length", *len, found.output.len())?;
                same("output's hash", *hash, keccak(&found.output))?;
            }
        }
        same("contract", self.contract, found.contract)?;
        let logs: Vec<_> = found
            .logs
            .iter()
            .map(|log| (log.address, log.topics.clone(), Bytes::from(log.data.clone())))
            .collect();
        same("logs", format!("{:?}", self.logs), format!("{logs:?}"))?;
        let changes: Vec<_> = found
            .balance_changes
            .iter()
            .map(|change| (change.address, change.token, change.negative, change.delta.to_string()))
            .collect();
        same("balance changes", format!("{:?}", self.balance_changes), format!("{changes:?}"))
    }
}

/// The validators that may propose on a block and are rewarded there: those of the state that its certificate points at, one
/// step down; its own where it is trusted or certifies nothing (`ledger.md` 7.7).
fn next_set<'a>(
    sets: &'a BTreeMap<Hash, Arc<ValidatorSet>>,
    hash: Hash,
    header: &Header,
    trusted: Hash,
) -> Option<&'a Arc<ValidatorSet>> {
    let own = hash == trusted || header.certificate.block.is_zero();
    sets.get(if own { &hash } else { &header.certificate.block })
}

/// A block's refusal as a difference; a state that could not be read as a failure.
fn refused(error: BlockError) -> Stop {
    match error {
        BlockError::State(error) => error.into(),
        error => Stop::differs("block", "accepted", error),
    }
}

fn validators_text(set: &ValidatorSet) -> String {
    let entries: Vec<_> =
        set.as_slice().iter().map(|validator| format!("{} {}", validator.address, validator.stake)).collect();
    entries.join(", ")
}

/// A header as the recording has it; its hash is over what is read, so it is compared too.
fn header(line: usize, bytes: &[u8]) -> Result<Header, ReplayError> {
    let unfit = |what: String| ReplayError::Unfit { line, what };
    let header = Header::from_rlp(bytes, bytes.len()).map_err(|error| unfit(format!("header: {error}")))?;
    if header.to_rlp() != bytes {
        return Err(unfit("the header is not in its canonical form".to_owned()));
    }
    Ok(header)
}
