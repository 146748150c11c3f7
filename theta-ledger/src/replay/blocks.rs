//! `blocks_*.json`: consecutive blocks of a network, carried out by a ledger that starts at the genesis.

use std::{collections::BTreeMap, sync::Arc};

use base64::Engine;
use serde::Deserialize;
use serde_json::value::RawValue;
use theta_core::{
    block::{Block, MAX_BLOCK_BYTES},
    codec::rlp::Decode,
    hash::{Address, Bytes, Hash},
    spec::{ChainSpec, Fork},
};

use super::{Outcome, Output, ReplayError, Replayed, Report, Stop, parse, same};
use crate::{
    error::BlockError,
    follow::{FollowError, Follower},
    genesis::Genesis,
    ledger::Ledger,
    tx::RawTx,
    vm::{ContractVm, VmOutcome},
};

#[derive(Deserialize)]
struct Recording<'a> {
    chain: Network,
    #[serde(borrow)]
    blocks: Vec<BlockLine<'a>>,
}

#[derive(Deserialize)]
struct Network {
    chain_id: String,
    genesis_hash: Hash,
    fork_heights: Heights,
    stake_lock_blocks: u64,
}

/// Heights by the reference's names, or words that say that they are the stock ones.
#[derive(Deserialize)]
#[serde(untagged)]
enum Heights {
    Named(BTreeMap<String, u64>),
    Stock(String),
}

#[derive(Deserialize)]
struct BlockLine<'a> {
    height: u64,
    hash: Hash,
    state_root: Hash,
    has_validator_update: bool,
    block: Bytes,
    #[serde(default, borrow)]
    receipts: Vec<ReceiptLine<'a>>,
}

#[derive(Deserialize)]
struct ReceiptLine<'a> {
    tx_index: usize,
    receipt: Receipt,
    #[serde(borrow)]
    balance_changes: Option<Moves<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Receipt {
    tx_hash: Hash,
    logs: Option<Vec<Log>>,
    evm_ret: String,
    contract_address: Address,
    gas_used: u64,
    evm_err: String,
}

#[derive(Deserialize)]
struct Log {
    address: Address,
    topics: Vec<Hash>,
    data: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Moves<'a> {
    #[serde(borrow)]
    balance_changes: Option<Vec<Move<'a>>>,
}

#[derive(Deserialize)]
struct Move<'a> {
    address: Address,
    token_type: u8,
    is_negative: bool,
    /// A bare number of any width.
    #[serde(borrow)]
    delta: &'a RawValue,
}

/// The forks by their names in `common/heights.go`.
const NAMES: [(&str, Fork); 13] = [
    ("HeightEnableValidatorReward", Fork::ValidatorReward),
    ("HeightEnableTheta2", Fork::Theta2),
    ("HeightLowerGNStakeThresholdTo1000", Fork::SmallGuardians),
    ("HeightEnableSmartContract", Fork::Contracts),
    ("HeightSampleStakingReward", Fork::SampledReward),
    ("HeightJune2021FeeAdjustment", Fork::June2021),
    ("HeightEnableTheta3", Fork::Theta3),
    ("HeightRPCCompatibility", Fork::RpcCompatibility),
    ("HeightTxWrapperExtension", Fork::TxWrapper),
    ("HeightSupportThetaTokenInSmartContract", Fork::ThetaInContracts),
    ("HeightValidatorStakeChangedTo200K", Fork::SmallValidators),
    ("HeightSupportWrappedTheta", Fork::WrappedTheta),
    ("HeightEnableMetachainSupport", Fork::Metachain),
];

fn unfit(what: impl Into<String>) -> ReplayError {
    ReplayError::Unfit { line: 1, what: what.into() }
}

impl Network {
    fn spec(&self) -> Result<ChainSpec, ReplayError> {
        let mut forks: Vec<(Fork, u64)> = match &self.fork_heights {
            Heights::Stock(words) if words.starts_with("stock") => Fork::MAINNET.to_vec(),
            Heights::Stock(words) => return Err(unfit(format!("unknown fork heights {words:?}"))),
            Heights::Named(heights) => {
                let fork =
                    |name: &String| NAMES.iter().find(|(known, _)| known == name).map(|(_, fork)| *fork);
                let named = |(name, height): (&String, &u64)| {
                    fork(name)
                        .map(|fork| (fork, *height))
                        .ok_or_else(|| unfit(format!("unknown fork {name}")))
                };
                heights.iter().map(named).collect::<Result<_, _>>()?
            }
        };
        match self.stake_lock_blocks {
            28_800 => {}
            1_000 => forks.push((Fork::ShortLock, 0)),
            other => return Err(unfit(format!("no rules have a stake lock of {other} blocks"))),
        }
        Ok(ChainSpec::new(self.chain_id.clone(), forks))
    }
}

pub(super) fn replay(text: &str, vm: Arc<dyn ContractVm>, genesis: &Genesis) -> Result<Report, ReplayError> {
    let recording: Recording<'_> = parse(1, text)?;
    let genesis_hash = genesis.hash();
    if genesis_hash != recording.chain.genesis_hash {
        let expected = recording.chain.genesis_hash;
        return Err(unfit(format!("the blocks start at genesis {expected}, given is {genesis_hash}")));
    }
    let ledger = Ledger::builder(recording.chain.spec()?).contracts(vm).open(genesis)?;
    let blocks: Vec<(Block, &BlockLine<'_>)> = recording
        .blocks
        .iter()
        .map(|line| match Block::from_rlp(&line.block, MAX_BLOCK_BYTES) {
            Ok(block) => Ok((block, line)),
            Err(error) => Err(unfit(format!("block {}: {error}", line.height))),
        })
        .collect::<Result<_, _>>()?;
    let mut replayed = Replayed {
        name: format!("blocks of {}", recording.chain.chain_id),
        blocks: blocks.len(),
        transactions: blocks.iter().map(|(block, _)| block.transactions.len()).sum(),
        ..Replayed::default()
    };
    let mut chain = Chain { follower: Follower::new(ledger) };
    for (block, line) in blocks {
        let transactions = block.transactions.len();
        if let Err(stop) = chain.block(block, line) {
            replayed.difference = Some(stop.at(format!("height {}", line.height))?);
            break;
        }
        replayed.passed += transactions;
    }
    Ok(Report { sequences: vec![replayed] })
}

struct Chain {
    follower: Follower,
}

impl Chain {
    fn block(&mut self, block: Block, line: &BlockLine<'_>) -> Result<(), Stop> {
        same("height", line.height, block.header.height)?;
        same("hash", line.hash, block.header.hash())?;
        let block = Arc::new(block);
        let post = self.follower.apply(block.clone()).map_err(|error| match error {
            FollowError::State(error) | FollowError::Block { source: BlockError::State(error), .. } => {
                error.into()
            }
            error => Stop::differs("block", "accepted", error),
        })?;
        same("state root", line.state_root, post.root)?;
        same("has_validator_update", line.has_validator_update, post.changes_validators)?;
        for receipt in &line.receipts {
            self.receipt(&block, receipt)?;
        }
        Ok(())
    }

    fn receipt(&self, block: &Block, line: &ReceiptLine<'_>) -> Result<(), Stop> {
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
