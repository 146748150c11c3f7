//! `blocks_*.json`: consecutive blocks of a network, carried out by a ledger that starts at the genesis.

use std::{collections::BTreeMap, fmt, io::Read, sync::Arc};

use base64::Engine;
use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;
use theta_core::{
    block::{Block, MAX_BLOCK_BYTES},
    codec::rlp::Decode,
    hash::{Address, Bytes, Hash},
    spec::{ChainSpec, Fork},
    vote::VoteSet,
};

use super::{Outcome, Output, ReplayError, Replayed, Report, Stop, same};
use crate::{
    follow::{FollowError, Follower, Judge},
    genesis::Genesis,
    ledger::Ledger,
    tx::RawTx,
    vm::{ContractVm, VmOutcome},
};

/// The network of recorded blocks, as the recording's `chain` has it.
#[derive(Clone, Debug, Deserialize)]
pub struct Network {
    /// Chain id.
    pub chain_id: String,
    /// Hash of the genesis below the first block.
    pub genesis_hash: Hash,
    fork_heights: Heights,
    stake_lock_blocks: u64,
}

/// Heights by the reference's names, or words that say that they are the stock ones.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Heights {
    Named(BTreeMap<String, u64>),
    Stock(String),
}

/// A recorded block.
#[derive(Debug, Deserialize)]
pub struct RecordedBlock {
    /// Its height.
    pub height: u64,
    /// Its hash.
    pub hash: Hash,
    state_root: Hash,
    has_validator_update: bool,
    block: Bytes,
    votes: Option<Bytes>,
    #[serde(default)]
    receipts: Vec<ReceiptLine>,
}

impl RecordedBlock {
    /// The block itself.
    pub fn block(&self) -> Result<Block, ReplayError> {
        Block::from_rlp(&self.block, MAX_BLOCK_BYTES)
            .map_err(|error| unfit(format!("block {}: {error}", self.height)))
    }

    /// The votes for it that the recording node held; none where it kept none.
    pub fn votes(&self) -> Result<VoteSet, ReplayError> {
        let Some(bytes) = &self.votes else { return Ok(VoteSet::default()) };
        VoteSet::from_rlp(bytes, bytes.len())
            .map_err(|error| unfit(format!("votes for block {}: {error}", self.height)))
    }
}

#[derive(Debug, Deserialize)]
struct ReceiptLine {
    tx_index: usize,
    receipt: Receipt,
    balance_changes: Option<Moves>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Receipt {
    tx_hash: Hash,
    logs: Option<Vec<Log>>,
    evm_ret: String,
    contract_address: Address,
    gas_used: u64,
    evm_err: String,
}

#[derive(Debug, Deserialize)]
struct Log {
    address: Address,
    topics: Vec<Hash>,
    data: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Moves {
    balance_changes: Option<Vec<Move>>,
}

#[derive(Debug, Deserialize)]
struct Move {
    address: Address,
    token_type: u8,
    is_negative: bool,
    /// A bare number of any width.
    delta: Box<RawValue>,
}

fn unfit(what: impl Into<String>) -> ReplayError {
    ReplayError::Unfit { line: 1, what: what.into() }
}

impl Network {
    /// The chain, with the fork heights that the recording states.
    pub fn spec(&self) -> Result<ChainSpec, ReplayError> {
        let forks: Vec<(Fork, u64)> = match &self.fork_heights {
            Heights::Stock(words) if words.starts_with("stock") => Fork::MAINNET.to_vec(),
            Heights::Stock(words) => return Err(unfit(format!("unknown fork heights {words:?}"))),
            Heights::Named(heights) => {
                let named = |(name, height): (&String, &u64)| {
                    Fork::named(name)
                        .map(|fork| (fork, *height))
                        .ok_or_else(|| unfit(format!("unknown fork {name}")))
                };
                heights.iter().map(named).collect::<Result<_, _>>()?
            }
        };
        let spec = ChainSpec::new(self.chain_id.clone(), forks);
        Ok(spec.with_lock_blocks(self.stake_lock_blocks))
    }

    /// Whether the blocks begin at this genesis.
    pub fn check_genesis(&self, genesis: &Genesis) -> Result<(), ReplayError> {
        let (expected, given) = (self.genesis_hash, genesis.hash());
        if expected == given {
            return Ok(());
        }
        Err(unfit(format!("the blocks start at genesis {expected}, given is {given}")))
    }
}

/// Who takes the parts of a recording while it is read.
pub trait Visit {
    /// Why it takes no more.
    type Error: From<ReplayError>;
    /// Comes first, once.
    fn network(&mut self, network: Network) -> Result<(), Self::Error>;
    /// Comes for each block, from the lowest up.
    fn block(&mut self, block: RecordedBlock) -> Result<(), Self::Error>;
}

/// Reads recorded blocks one by one; no more than one is in memory, unless they stand before their network, which is as
/// good a recording and has to be held until the network is known.
pub fn read<V: Visit>(input: impl Read, visit: &mut V) -> Result<(), V::Error> {
    let mut stopped = None;
    let mut json = serde_json::Deserializer::from_reader(input);
    let parts = Parts { visit, stopped: &mut stopped };
    let read = json.deserialize_map(parts).and_then(|()| json.end());
    match (stopped, read) {
        (Some(error), _) => Err(error),
        (None, Ok(())) => Ok(()),
        (None, Err(source)) if source.is_io() => Err(ReplayError::Io(source.into()).into()),
        (None, Err(source)) => Err(ReplayError::Form { line: 1, source }.into()),
    }
}

/// Reads the object that a recording is.
struct Parts<'a, V: Visit> {
    visit: &'a mut V,
    stopped: &'a mut Option<V::Error>,
}

impl<V: Visit> Parts<'_, V> {
    /// Keeps the visitor's own error beside the one that ends the reading.
    fn keep<E: de::Error>(&mut self, result: Result<(), V::Error>) -> Result<(), E> {
        result.map_err(|error| {
            *self.stopped = Some(error);
            E::custom("stopped")
        })
    }
}

impl<'de, V: Visit> Visitor<'de> for Parts<'_, V> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a recording of blocks")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        let (mut chain, mut blocks) = (false, false);
        let mut early: Vec<RecordedBlock> = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "chain" if !chain => {
                    let network = map.next_value()?;
                    let taken = self.visit.network(network);
                    self.keep(taken)?;
                    chain = true;
                    for block in early.drain(..) {
                        let taken = self.visit.block(block);
                        self.keep(taken)?;
                    }
                }
                "blocks" if chain && !blocks => {
                    map.next_value_seed(Blocks(&mut self))?;
                    blocks = true;
                }
                "blocks" if !blocks => {
                    early = map.next_value()?;
                    blocks = true;
                }
                "chain" => return Err(de::Error::duplicate_field("chain")),
                "blocks" => return Err(de::Error::duplicate_field("blocks")),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        match (chain, blocks) {
            (true, true) => Ok(()),
            (false, _) => Err(de::Error::missing_field("chain")),
            (true, false) => Err(de::Error::missing_field("blocks")),
        }
    }
}

struct Blocks<'a, 'b, V: Visit>(&'a mut Parts<'b, V>);

impl<'de, V: Visit> DeserializeSeed<'de> for Blocks<'_, '_, V> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, V: Visit> Visitor<'de> for Blocks<'_, '_, V> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of blocks")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(block) = list.next_element()? {
            let taken = self.0.visit.block(block);
            self.0.keep(taken)?;
        }
        Ok(())
    }
}

pub(super) fn replay(
    input: impl Read,
    vm: Arc<dyn ContractVm>,
    genesis: &Genesis,
    judge: Option<Arc<dyn Judge>>,
) -> Result<Report, ReplayError> {
    let mut run = Run { vm, genesis, judge, chain: None, replayed: Replayed::default() };
    read(input, &mut run)?;
    Ok(Report { sequences: vec![run.replayed] })
}

/// A replay while its recording is read.
struct Run<'a> {
    vm: Arc<dyn ContractVm>,
    genesis: &'a Genesis,
    judge: Option<Arc<dyn Judge>>,
    chain: Option<Chain>,
    replayed: Replayed,
}

impl Visit for Run<'_> {
    type Error = ReplayError;

    fn network(&mut self, network: Network) -> Result<(), ReplayError> {
        network.check_genesis(self.genesis)?;
        let ledger = Ledger::builder(network.spec()?).contracts(self.vm.clone()).open(self.genesis)?;
        let follower = Follower::new(ledger);
        self.chain = Some(Chain {
            follower: match self.judge.take() {
                Some(judge) => follower.judged_by(judge),
                None => follower,
            },
        });
        self.replayed.name = format!("blocks of {}", network.chain_id);
        Ok(())
    }

    fn block(&mut self, line: RecordedBlock) -> Result<(), ReplayError> {
        let block = line.block()?;
        let transactions = block.transactions.len();
        self.replayed.blocks += 1;
        self.replayed.transactions += transactions;
        let Some(chain) = &mut self.chain else { return Ok(()) };
        match chain.block(block, &line) {
            Ok(()) => self.replayed.passed += transactions,
            Err(stop) => {
                self.replayed.difference = Some(stop.at(format!("height {}", line.height))?);
                // What follows runs on another state; it is only counted.
                self.chain = None;
            }
        }
        Ok(())
    }
}

struct Chain {
    follower: Follower,
}

impl Chain {
    fn block(&mut self, block: Block, line: &RecordedBlock) -> Result<(), Stop> {
        same("height", line.height, block.header.height)?;
        same("hash", line.hash, block.header.hash())?;
        if !line.votes().map_err(Stop::Failed)?.are_for(&line.hash) {
            return Err(Stop::differs("votes", "signed, and for this block", "others"));
        }
        let block = Arc::new(block);
        let post = self.follower.apply(block.clone()).map_err(|error| match error {
            FollowError::State(error) => error.into(),
            error => Stop::differs("block", "accepted", error),
        })?;
        same("state root", line.state_root, post.root)?;
        same("has_validator_update", line.has_validator_update, post.changes_validators)?;
        for receipt in &line.receipts {
            self.receipt(&block, receipt)?;
        }
        Ok(())
    }

    fn receipt(&self, block: &Block, line: &ReceiptLine) -> Result<(), Stop> {
        let receipt = &line.receipt;
        let raw = block.transactions.get(line.tx_index).and_then(|raw| RawTx::decode(raw.clone()).ok());
        same("receipt's transaction", receipt.tx_hash, raw.map(|raw| raw.hash).unwrap_or_default())?;
        let found = self.follower.reader().result(&receipt.tx_hash)?;
        let found = found.ok_or_else(|| Stop::differs("receipt", "one", "none"))?;
        let logs: Vec<_> = receipt
            .logs
            .iter()
            .flatten()
            .map(|log| Ok((log.address, log.topics.clone(), base64(&log.data)?)))
            .collect::<Result<_, Stop>>()?;
        let moves = line.balance_changes.iter().flat_map(|moves| moves.balance_changes.iter().flatten());
        let expected = Outcome {
            gas: receipt.gas_used,
            error: &receipt.evm_err,
            output: &Output::Whole(base64(&receipt.evm_ret)?),
            contract: receipt.contract_address,
            logs: &logs,
            balance_changes: moves
                .map(|change| {
                    (change.address, change.token_type, change.is_negative, change.delta.get().to_owned())
                })
                .collect(),
        };
        expected.check(&VmOutcome {
            gas_used: found.receipt.gas_used,
            error: found.receipt.error,
            output: found.receipt.output,
            contract: found.receipt.contract,
            logs: found.receipt.logs,
            balance_changes: found.balance_changes,
        })
    }
}

fn base64(text: &str) -> Result<Bytes, Stop> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(text);
    bytes.map(Bytes::from).map_err(|error| Stop::Failed(unfit(format!("bytes in base64: {error}"))))
}
