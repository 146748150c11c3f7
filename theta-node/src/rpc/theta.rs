//! `theta.*`: the reference's methods, under its names and in its forms.

use std::{sync::Arc, time::Duration};

use base64::Engine as _;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use theta_core::{
    block::{CommitCertificate, Header as BlockHeader},
    certificate::AggregateVotes,
    codec::rlp::Encode,
    hash::{Address, Hash, keccak},
    stake::Validator,
    vote::{EliteVotes, GuardianVotes},
};
use theta_ledger::{
    ContractResult,
    ledger::{At, BlockInfo, LedgerReader},
    mempool::{AdmitError, Admitted},
    state::StateView,
    tx::{RawTx, SmartContract, Transaction, ethereum},
};
use theta_sdk::rpc::{self, Method, Text};
use tokio::sync::{Semaphore, watch};

use super::{RpcError, Slots, pools, proof};
use crate::{chain::Progress, clock::now_millis, node::NodeHandle};

/// Longest wait of a broadcast.
const BROADCAST_WAIT: Duration = Duration::from_secs(60);
/// Broadcasts that wait at once. They hold no slot meanwhile.
const MAX_WAITERS: usize = 100;

/// Most blocks of a range, and of a way through the chain.
const MAX_RANGE: u64 = 5_000;
const MAX_TRACE: usize = 10_000;

/// The API of one node.
#[derive(Clone, Debug)]
pub struct ThetaApi {
    node: NodeHandle,
    slots: Slots,
    waiters: Arc<Semaphore>,
}

fn base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// The argument object: it stands alone or first in an array; field names count without regard to case.
fn arguments<M: Method + DeserializeOwned>(params: Value) -> Result<M, RpcError> {
    let object = match params {
        Value::Null => Value::Object(Map::new()),
        Value::Array(mut items) if !items.is_empty() => items.swap_remove(0),
        Value::Array(_) => Value::Object(Map::new()),
        object => object,
    };
    let Value::Object(object) = object else {
        return Err(RpcError::params(format!("{} takes one argument object", M::NAME)));
    };
    let object = object.into_iter().map(|(key, value)| (key.to_ascii_lowercase(), value)).collect();
    serde_json::from_value(Value::Object(object)).map_err(|error| RpcError::params(error.to_string()))
}

pub(super) fn done<T: Serialize>(answer: T) -> Result<Value, RpcError> {
    serde_json::to_value(answer).map_err(|error| RpcError::application(error.to_string()))
}

/// Hexadecimal with or without `0x`; an odd number of digits gets a zero in front.
pub(super) fn lenient_hex(what: &str, text: &str) -> Result<Vec<u8>, RpcError> {
    let digits = text.strip_prefix("0x").or(text.strip_prefix("0X")).unwrap_or(text);
    let padded = if digits.len() % 2 == 1 { format!("0{digits}") } else { digits.to_owned() };
    hex::decode(padded).map_err(|_| RpcError::params(format!("{what} is not hexadecimal")))
}

fn rightmost<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    let used = bytes.len().min(N);
    out[N - used..].copy_from_slice(&bytes[bytes.len() - used..]);
    out
}

fn address(text: &str) -> Result<Address, RpcError> {
    if text.is_empty() {
        return Err(RpcError::application("Address must be specified"));
    }
    Ok(Address::from(rightmost(&lenient_hex("address", text)?)))
}

fn receipt(result: &ContractResult) -> rpc::Receipt {
    let receipt = &result.receipt;
    rpc::Receipt {
        tx_hash: receipt.hash,
        logs: receipt
            .logs
            .iter()
            .map(|log| rpc::Log { address: log.address, topics: log.topics.clone(), data: base64(&log.data) })
            .collect(),
        evm_ret: base64(&receipt.output),
        contract_address: receipt.contract,
        gas_used: receipt.gas_used,
        evm_err: receipt.error.clone(),
    }
}

fn big(value: &impl ToString) -> Value {
    serde_json::from_str(&value.to_string()).unwrap_or(Value::Null)
}

fn balance_changes(result: &ContractResult) -> Value {
    let changes: Vec<Value> = result
        .balance_changes
        .iter()
        .map(|change| {
            json!({
                "address": change.address,
                "token_type": change.token,
                "is_negative": change.negative,
                "delta": big(&change.delta),
            })
        })
        .collect();
    json!({
        "TxHash": result.receipt.hash,
        "BalanceChanges": changes,
        "EvmRet": base64(&result.receipt.output),
        "ContractAddress": result.receipt.contract,
        "GasUsed": result.receipt.gas_used,
        "EvmErr": result.receipt.error,
    })
}

/// An aggregate's voters stand in a list as if each had voted alone, without signatures of their own: what they signed together
/// is beside it.
fn certificate(reader: &LedgerReader, certificate: &CommitCertificate) -> Value {
    if let Some(votes) = certificate.votes.aggregate() {
        return aggregate(reader, &certificate.block, votes);
    }
    let votes: Vec<Value> = certificate
        .votes
        .list()
        .iter()
        .map(|vote| {
            json!({
                "Block": vote.block,
                "Height": vote.height,
                "Epoch": vote.epoch,
                "ID": vote.voter,
                "Signature": vote.signature,
            })
        })
        .collect();
    json!({ "Votes": votes, "BlockHash": certificate.block })
}

fn aggregate(reader: &LedgerReader, block: &Hash, votes: &AggregateVotes) -> Value {
    let height = reader.block(At::Block(*block)).ok().flatten().map(|info| info.block.header.height);
    let vote = |voter: &Validator| {
        json!({
            "Block": block,
            "Height": height,
            "Epoch": votes.epoch,
            "ID": voter.address,
            "Signature": "0x",
        })
    };
    // Where a snapshot has cut off what lies below, nobody can say whose the bits are.
    let voters: Vec<Value> = match reader.validators_of(*block) {
        Ok(set) => votes.voters(&set).map(vote).collect(),
        Err(_) => Vec::new(),
    };
    let signers: Vec<usize> = votes.signers.ones().collect();
    let signature = format!("0x{}", hex::encode(votes.signature.as_bytes()));
    json!({
        "Votes": voters,
        "BlockHash": block,
        "Aggregate": { "Epoch": votes.epoch, "Signers": signers, "Signature": signature },
    })
}

/// BLS signatures print as an empty object, as in the reference.
fn guardian_votes(votes: Option<&GuardianVotes>) -> Value {
    votes.map_or(Value::Null, |votes| {
        json!({ "Block": votes.block, "Gcp": votes.pool, "Multiplies": votes.multipliers, "Signature": {} })
    })
}

fn elite_votes(votes: Option<&EliteVotes>) -> Value {
    votes.map_or(Value::Null, |votes| {
        json!({
            "Block": votes.block,
            "Multiplies": votes.multipliers,
            "Addresses": votes.addresses,
            "Signature": {},
        })
    })
}

fn header(reader: &LedgerReader, header: &BlockHeader) -> rpc::Header {
    rpc::Header {
        chain_id: header.chain.clone(),
        epoch: header.epoch,
        height: header.height,
        parent: header.parent,
        hcc: certificate(reader, &header.certificate),
        guardian_votes: guardian_votes(header.extension.guardian_votes()),
        elite_edge_node_votes: elite_votes(header.extension.elite_votes()),
        tx_hash: header.transactions_root,
        state_hash: header.state_root,
        timestamp: big(&header.timestamp),
        proposer: header.proposer,
        signature: header.signature.clone(),
    }
}

impl ThetaApi {
    /// The API of a node.
    pub fn new(node: NodeHandle) -> Self {
        Self { node, slots: Slots::default(), waiters: Arc::new(Semaphore::new(MAX_WAITERS)) }
    }

    /// Where the node stands, as it changes.
    pub(super) fn progress(&self) -> watch::Receiver<Progress> {
        self.node.progress.clone()
    }

    /// Calls a method.
    pub async fn call(&self, method: &str, params: Value) -> Result<Value, RpcError> {
        match method {
            "theta.BroadcastRawTransaction" => {
                let method: rpc::BroadcastRawTransaction = arguments(params)?;
                self.broadcast(move |_| lenient_hex("tx_bytes", &method.tx_bytes)).await
            }
            "theta.BroadcastRawEthTransaction" => {
                let method: rpc::BroadcastRawEthTransaction = arguments(params)?;
                self.broadcast(move |api| Ok(api.translated(&method.tx_bytes)?.bytes)).await
            }
            _ => {
                let (api, method) = (self.clone(), method.to_owned());
                self.slots.work(move || api.call_now(&method, params)).await
            }
        }
    }

    fn call_now(&self, method: &str, params: Value) -> Result<Value, RpcError> {
        match method {
            "theta.GetVersion" => {
                arguments::<rpc::GetVersion>(params)?;
                done(rpc::Version {
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                    git_hash: String::new(),
                    timestamp: String::new(),
                })
            }
            "theta.GetStatus" => {
                arguments::<rpc::GetStatus>(params)?;
                self.status()
            }
            "theta.GetAccount" => self.account(&arguments(params)?),
            "theta.GetTransaction" => self.transaction(&arguments(params)?),
            "theta.GetBlock" => self.block(&arguments(params)?),
            "theta.GetBlockByHeight" => {
                let method: rpc::GetBlockByHeight = arguments(params)?;
                match self.node.reader.block(At::Height(method.height.0))? {
                    Some(info) => {
                        let mut block = self.block_object(&info, method.include_eth_tx_hashes)?;
                        // As in the reference, only a block that is asked for by its height shows these.
                        block.elite_edge_node_votes = elite_votes(info.block.header.extension.elite_votes());
                        done(block)
                    }
                    None => Ok(json!({})),
                }
            }
            "theta.GetPendingTransactions" => {
                arguments::<rpc::GetPendingTransactions>(params)?;
                let tx_hashes = self.node.mempool.lock().hashes().copied().collect();
                done(rpc::PendingTransactions { tx_hashes })
            }
            "theta.GetCode" => {
                let method: rpc::GetCode = arguments(params)?;
                if method.address.is_empty() {
                    return Err(RpcError::application("address must be specified"));
                }
                if method.height.0 > self.node.reader.settled().header.height {
                    return done(rpc::Code { address: method.address, code: String::new() });
                }
                let mut state = self.state_at(method.height)?;
                let hash = state.account(address(&method.address)?)?.map(|account| account.code_hash);
                let code = state.code(hash.unwrap_or_default())?;
                done(rpc::Code { address: method.address, code: hex::encode(code) })
            }
            "theta.GetGuardianInfo" => {
                arguments::<rpc::GetGuardianInfo>(params)?;
                let node = &self.node.summary;
                done(rpc::GuardianInfo {
                    key: hex::encode(node.key.as_bytes()),
                    proof: hex::encode(node.proof.as_bytes()),
                    address: node.holder.to_checksum(None),
                    signature: hex::encode(node.signature.as_bytes()),
                })
            }
            "theta.GetSplitRule" => self.split_rule(&arguments(params)?),
            "theta.GetVcpByHeight" => pools::validators(&self.node.reader, &arguments(params)?),
            "theta.GetGcpByHeight" => pools::guardians(&self.node.reader, &arguments(params)?),
            "theta.GetEenpByHeight" => pools::elite(&self.node.reader, &arguments(params)?),
            "theta.GetEenpStakeByHeight" => pools::elite_stake(&self.node.reader, &arguments(params)?),
            "theta.GetStakeRewardDistributionByHeight" => {
                let method: rpc::GetStakeRewardDistributionByHeight = arguments(params)?;
                let only = (!method.address.is_empty()).then(|| address(&method.address)).transpose()?;
                pools::distributions(&self.node.reader, &method, only)
            }
            "theta.GetEliteEdgeNodeStakeReturnsByHeight" => {
                let method: rpc::GetEliteEdgeNodeStakeReturnsByHeight = arguments(params)?;
                pools::elite_returns(&self.node.reader, method.height)
            }
            "theta.GetAllPendingEliteEdgeNodeStakeReturns" => {
                arguments::<rpc::GetAllPendingEliteEdgeNodeStakeReturns>(params)?;
                pools::all_elite_returns(&self.node.reader)
            }
            "theta.GetLightUpdate" => proof::light_update(&self.node.reader, &arguments(params)?),
            "theta.GetProof" => proof::proof(&self.node.reader, &arguments(params)?),
            "theta.GetBlocksByRange" => self.blocks(&arguments(params)?),
            "theta.TraceBlocks" => self.trace(&arguments(params)?),
            "theta.GetStorageAt" => self.storage(&arguments(params)?),
            "theta.GetPeers" => {
                arguments::<rpc::GetPeers>(params)?;
                Ok(json!({ "peers": self.node.peer_names() }))
            }
            "theta.GetPeerURLs" => {
                arguments::<rpc::GetPeerURLs>(params)?;
                Ok(json!({ "peer_urls": self.node.peer_addresses() }))
            }
            "theta.BroadcastRawTransactionAsync" => {
                let method: rpc::BroadcastRawTransactionAsync = arguments(params)?;
                let admitted = self.admit(lenient_hex("tx_bytes", &method.tx_bytes)?)?;
                done(rpc::BroadcastAsync { hash: admitted.hash() })
            }
            "theta.BroadcastRawEthTransactionAsync" => {
                let method: rpc::BroadcastRawEthTransactionAsync = arguments(params)?;
                let bytes = lenient_hex("tx_bytes", &method.tx_bytes)?;
                let hash = keccak(&bytes);
                self.admit(self.translated(&method.tx_bytes)?.bytes)?;
                done(rpc::BroadcastAsync { hash })
            }
            "theta.CallSmartContract" => self.call_contract(&arguments(params)?),
            other => Err(RpcError::method(match other.split_once('.') {
                None => format!("rpc: service/method request ill-formed: {other}"),
                Some(("theta", _)) => format!("rpc: can't find method {other}"),
                Some(_) => format!("rpc: can't find service {other}"),
            })),
        }
    }

    /// Place and transaction hashes of a settled block that has any but its coinbase.
    pub(super) async fn settled_transactions(&self, height: u64) -> Option<Value> {
        let reader = self.node.reader.clone();
        let told = self.slots.work(move || {
            let Some(info) = reader.block(At::Height(height))? else { return Ok(Value::Null) };
            let hashes: Vec<Hash> = info.block.transactions.iter().skip(1).map(keccak).collect();
            let line = json!({ "height": height.to_string(), "hash": info.hash, "transactions": hashes });
            Ok(if hashes.is_empty() { Value::Null } else { line })
        });
        told.await.ok().filter(|line| !line.is_null())
    }

    fn status(&self) -> Result<Value, RpcError> {
        let reader = &self.node.reader;
        let (settled, genesis) = (reader.settled(), reader.genesis());
        let progress = *self.node.progress.borrow();
        let header = &settled.header;
        done(rpc::Status {
            address: self.node.address.to_checksum(None),
            chain_id: reader.spec().chain.clone(),
            peer_id: self.node.address.to_checksum(None),
            latest_finalized_block_hash: settled.hash,
            latest_finalized_block_height: Text(header.height),
            latest_finalized_block_time: header.timestamp.to_string(),
            latest_finalized_block_epoch: Text(header.epoch),
            current_epoch: Text(progress.epoch),
            current_height: Text(progress.tip.1),
            current_hash: progress.tip.0,
            current_time: Text(now_millis() / 1000),
            syncing: progress.syncing,
            tip_hash: progress.tip.0,
            genesis_block_hash: genesis.hash,
            snapshot_block_height: Text(genesis.header.height),
            snapshot_block_hash: genesis.hash,
            latest_final_block_hash: progress.final_checkpoint.map(|(hash, _)| hash),
            latest_final_block_height: progress.final_checkpoint.map(|(_, height)| Text(height)),
        })
    }

    fn state_at(&self, height: Text) -> Result<StateView, RpcError> {
        let at = if height.0 == 0 { At::Settled } else { At::Height(height.0) };
        self.node.reader.state(at).map_err(|error| match error {
            theta_ledger::state::StateError::Absent { .. } => {
                RpcError::application("Historical data at given height is not available on current node")
            }
            other => other.into(),
        })
    }

    fn account(&self, method: &rpc::GetAccount) -> Result<Value, RpcError> {
        let address = address(&method.address)?;
        let account = if method.preview && method.height.0 == 0 {
            self.node.mempool.lock().preview(address)?
        } else if method.height.0 == 0 {
            self.state_at(method.height)?.load(address)?
        } else {
            // A state of the past is shown as it was stored.
            self.state_at(method.height)?.account(address)?.cloned()
        };
        let account = account.ok_or_else(|| {
            RpcError::application(format!("Account with address {} is not found", address.to_checksum(None)))
        })?;
        let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
        let mut reserved_funds = Vec::new();
        for fund in &account.reserved_funds {
            let transfers = fund.transfers.iter().map(|record| {
                serde_json::to_value(&record.payment).map(|payment| json!({ "service_payment": payment }))
            });
            reserved_funds.push(rpc::ReservedFund {
                collateral: fund.collateral,
                initial_fund: fund.initial,
                used_fund: fund.used,
                resource_ids: fund.resources.iter().map(text).collect(),
                end_block_height: Text(fund.end_height),
                reserve_sequence: Text(fund.reserve_sequence),
                transfer_records: transfers
                    .collect::<Result<_, _>>()
                    .map_err(|error| RpcError::application(error.to_string()))?,
            });
        }
        done(rpc::Account {
            sequence: Text(account.sequence),
            coins: account.balance,
            reserved_funds,
            last_updated_block_height: Text(account.last_updated_height),
            root: account.root,
            code: account.code_hash,
        })
    }

    fn transaction(&self, method: &rpc::GetTransaction) -> Result<Value, RpcError> {
        if method.hash.is_empty() {
            return Err(RpcError::application("Transanction hash must be specified"));
        }
        let hash = Hash::from(rightmost(&lenient_hex("hash", &method.hash)?));
        let mut answer = rpc::Transaction {
            block_hash: Hash::ZERO,
            block_height: Text(0),
            status: "not_found".to_owned(),
            hash: Hash::ZERO,
            kind: 0,
            transaction: None,
            receipt: None,
            blance_changes: None,
            balance_changes: None,
        };
        let raw = if let Some(found) = self.node.reader.transaction(&hash)? {
            answer.block_hash = found.place.block;
            answer.block_height = Text(found.place.height);
            answer.status = if found.settled { "finalized" } else { "pending" }.to_owned();
            answer.receipt = found.result.as_ref().map(receipt);
            answer.blance_changes = found.result.as_ref().map(balance_changes);
            answer.balance_changes.clone_from(&answer.blance_changes);
            found.raw
        } else if let Some(waiting) = self.node.waiting(&hash) {
            answer.status = "pending".to_owned();
            (*waiting).clone()
        } else {
            if self.node.mempool.lock().reason(&hash).is_some() {
                answer.status = "abandoned".to_owned();
            }
            return done(answer);
        };
        answer.hash = raw.hash;
        answer.kind = raw.transaction.kind();
        answer.transaction = Some(done(&raw.transaction)?);
        done(answer)
    }

    fn block(&self, method: &rpc::GetBlock) -> Result<Value, RpcError> {
        if method.hash == Hash::ZERO {
            return Err(RpcError::application("Block hash must be specified"));
        }
        let info = self
            .node
            .reader
            .block(At::Block(method.hash))?
            .ok_or_else(|| RpcError::application("KeyNotFound"))?;
        done(self.block_object(&info, method.include_eth_tx_hashes)?)
    }

    fn block_object(&self, info: &BlockInfo, ethereum: bool) -> Result<rpc::Block, RpcError> {
        let reader = &self.node.reader;
        let header = &info.block.header;
        let above = reader.block(At::Height(header.height + 1))?;
        let children = above.filter(|above| above.block.header.parent == info.hash).map(|above| above.hash);
        let mut transactions = Vec::new();
        for bytes in &info.block.transactions {
            let raw = RawTx::decode(bytes.clone()).map_err(|error| {
                RpcError::application(format!("a stored transaction is damaged: {error}"))
            })?;
            let result = match raw.transaction {
                Transaction::SmartContract(_) => reader.result(&raw.hash)?,
                _ => None,
            };
            let eth_tx_hash = ethereum.then(|| match &raw.transaction {
                Transaction::SmartContract(transaction) => {
                    reader.ethereum_hash(transaction, header.height).unwrap_or_default()
                }
                _ => Hash::ZERO,
            });
            transactions.push(rpc::BlockTransaction {
                raw: done(&raw.transaction)?,
                kind: raw.transaction.kind(),
                hash: raw.hash,
                receipt: result.as_ref().map(receipt),
                balance_changes: result.as_ref().map(balance_changes),
                eth_tx_hash,
            });
        }
        Ok(rpc::Block {
            chain_id: header.chain.clone(),
            epoch: Text(header.epoch),
            height: Text(header.height),
            parent: header.parent,
            transactions_hash: header.transactions_root,
            state_hash: header.state_root,
            timestamp: header.timestamp.to_string(),
            proposer: header.proposer,
            hcc: certificate(&self.node.reader, &header.certificate),
            guardian_votes: guardian_votes(header.extension.guardian_votes()),
            elite_edge_node_votes: Value::Null,
            children: children.into_iter().collect(),
            status: info.status,
            hash: info.hash,
            transactions: (header.height > 0).then_some(transactions),
        })
    }

    fn split_rule(&self, method: &rpc::GetSplitRule) -> Result<Value, RpcError> {
        if method.resource_id.is_empty() {
            return Err(RpcError::application("ResourceID must be specified"));
        }
        let rule = self.node.reader.state(At::Tip)?.split_rule(method.resource_id.as_bytes())?;
        let Some(rule) = rule else { return Ok(json!({})) };
        let splits: Vec<Value> = rule
            .splits
            .iter()
            .map(|split| json!({ "Address": split.address, "Percentage": split.percentage }))
            .collect();
        Ok(json!({
            "initiator_address": rule.initiator,
            "resource_id": String::from_utf8_lossy(&rule.resource),
            "splits": splits,
            "end_block_height": rule.end_height.to_string(),
        }))
    }

    fn blocks(&self, method: &rpc::GetBlocksByRange) -> Result<Value, RpcError> {
        let (start, end) = (method.start.0, method.end.0);
        if end > 0 && start > end {
            return Err(RpcError::application("starting block must be less than ending block"));
        }
        if end.saturating_sub(start) > MAX_RANGE {
            let text = format!("can't retrieve more than {MAX_RANGE} blocks at a time");
            return Err(RpcError::application(text));
        }
        let reader = &self.node.reader;
        if reader.block(At::Height(end))?.is_none() {
            return Ok(json!([]));
        }
        let mut blocks = Vec::new();
        // Nothing but the stub where the range ends with the genesis.
        if start == 0 || end == 0 {
            blocks.push(self.genesis_stub()?);
        }
        for height in start.max(1)..=end {
            if let Some(info) = reader.block(At::Height(height))? {
                blocks.push(done(self.block_object(&info, method.include_eth_tx_hashes)?)?);
            }
        }
        Ok(Value::Array(blocks))
    }

    /// What the reference answers in the place of the genesis block.
    fn genesis_stub(&self) -> Result<Value, RpcError> {
        let genesis = self.node.reader.genesis();
        done(rpc::Block {
            chain_id: genesis.header.chain.clone(),
            epoch: Text(0),
            height: Text(0),
            parent: Hash::ZERO,
            transactions_hash: Hash::ZERO,
            state_hash: Hash::ZERO,
            timestamp: "0".to_owned(),
            proposer: Address::ZERO,
            hcc: json!({ "Votes": null, "BlockHash": Hash::ZERO }),
            guardian_votes: Value::Null,
            elite_edge_node_votes: Value::Null,
            children: Vec::new(),
            status: 4,
            hash: genesis.hash,
            transactions: None,
        })
    }

    /// The way from a block to the newest settled one below it, or up to the tip.
    fn trace(&self, method: &rpc::TraceBlocks) -> Result<Value, RpcError> {
        let reader = &self.node.reader;
        let unknown = || RpcError::application("KeyNotFound");
        if method.hash.is_zero() {
            return Err(RpcError::application("Block hash must be specified"));
        }
        let first = reader.block(At::Block(method.hash))?.ok_or_else(unknown)?;
        let mut path = vec![first.hash];
        if method.upstream {
            // One step at least; what is settled ends it.
            let mut at = first;
            loop {
                at = reader.block(At::Block(at.block.header.parent))?.ok_or_else(unknown)?;
                if at.block.header.height == 0 {
                    return Err(unknown());
                }
                path.push(at.hash);
                if (4..=6).contains(&at.status) {
                    break;
                }
            }
        } else {
            let mut at = first;
            while path.len() < MAX_TRACE {
                let Some(above) = reader.block(At::Height(at.block.header.height + 1))? else { break };
                if above.block.header.parent != at.hash {
                    break;
                }
                path.push(above.hash);
                at = above;
            }
            // What ends the way: no child, or the limit.
            let mut end = Hash::ZERO;
            if path.len() == MAX_TRACE {
                end.0[0] = 0x99;
            }
            path.push(end);
        }
        Ok(json!({ "Blocks": path }))
    }

    fn storage(&self, method: &rpc::GetStorageAt) -> Result<Value, RpcError> {
        let position = if method.storage_positon.is_empty() {
            &method.storage_position
        } else {
            &method.storage_positon
        };
        if method.address.is_empty() || position.is_empty() {
            return Err(RpcError::application(format!(
                "address and storage_position must be specified, address: {}, storage_position: {position}",
                method.address
            )));
        }
        let key = Hash::from(rightmost(&lenient_hex("storage_positon", position)?));
        if method.height.0 > self.node.reader.settled().header.height {
            return Ok(json!({ "value": "" }));
        }
        let value = self.state_at(method.height)?.slot(address(&method.address)?, key)?;
        Ok(json!({ "value": hex::encode(value.to_be_bytes::<32>()) }))
    }

    fn translated(&self, text: &str) -> Result<RawTx, RpcError> {
        let bytes = lenient_hex("tx_bytes", text)?;
        ethereum::translate(&bytes).map_err(|error| RpcError::application(error.to_string()))
    }

    fn admit(&self, bytes: Vec<u8>) -> Result<Admitted, RpcError> {
        self.node.submit(bytes).map_err(|error| RpcError::application(error.to_string()))
    }

    async fn broadcast(
        &self,
        bytes: impl FnOnce(&Self) -> Result<Vec<u8>, RpcError> + Send + 'static,
    ) -> Result<Value, RpcError> {
        // Taken before anything is sent, so that whoever is refused knows where it stands.
        let Ok(_waiter) = self.waiters.try_acquire() else {
            return Err(RpcError::application(format!(
                "{MAX_WAITERS} broadcasts wait already, and this one was not sent: send it again later, or use \
                 theta.BroadcastRawTransactionAsync and theta.GetTransaction"
            )));
        };
        let api = self.clone();
        let hash = self.slots.work(move || {
            let bytes = bytes(&api)?;
            let hash = keccak(&bytes);
            match api.node.submit(bytes) {
                Ok(admitted) => Ok(admitted.hash()),
                // Whoever asks again may wait with the one who asked first, as long as it is not settled.
                Err(AdmitError::Known) if api.node.waiting(&hash).is_some() => Ok(hash),
                Err(error) => Err(RpcError::application(error.to_string())),
            }
        });
        let hash = hash.await?;
        match tokio::time::timeout(BROADCAST_WAIT, self.settled(hash)).await {
            Ok(answer) => answer,
            Err(_) => Err(RpcError::application("Timed out waiting for transaction to be included")),
        }
    }

    /// Waits until a transaction is settled or falls out.
    async fn settled(&self, hash: Hash) -> Result<Value, RpcError> {
        let mut progress = self.node.progress.clone();
        let mut seen = None;
        loop {
            let now = progress.borrow_and_update().settled;
            if seen != Some(now) {
                seen = Some(now);
                let api = self.clone();
                if let Some(answer) = self.slots.work(move || api.settled_now(hash)).await? {
                    return done(answer);
                }
            }
            if let Some(reason) = self.node.mempool.lock().reason(&hash) {
                return Err(RpcError::application(reason.to_string()));
            }
            if progress.changed().await.is_err() {
                return Err(RpcError::application("the node is stopping"));
            }
        }
    }

    fn settled_now(&self, hash: Hash) -> Result<Option<rpc::Broadcast>, RpcError> {
        let found = self.node.reader.transaction(&hash)?.filter(|found| found.settled);
        let Some(found) = found else { return Ok(None) };
        let block = self.node.reader.block(At::Block(found.place.block))?;
        Ok(Some(rpc::Broadcast {
            hash,
            block: block.map(|info| header(&self.node.reader, &info.block.header)),
        }))
    }

    fn call_contract(&self, method: &rpc::CallSmartContract) -> Result<Value, RpcError> {
        let bytes = lenient_hex("sctx_bytes", &method.sctx_bytes)?;
        let raw = RawTx::decode(bytes).map_err(|error| RpcError::application(error.to_string()))?;
        let Transaction::SmartContract(transaction) = &raw.transaction else {
            return Err(RpcError::application("Failed to parse SmartContractTx"));
        };
        let SmartContract { gas_limit, .. } = transaction;
        let rules = self.node.reader.spec().rules(u64::MAX);
        let most = rules.tx.max_gas;
        if *gas_limit > most {
            // No error of the call: the reference's machine says so itself.
            return done(rpc::CallResult {
                vm_return: String::new(),
                contract_address: Address::ZERO,
                gas_used: Text(0),
                vm_error: "invalid gas limit".to_owned(),
            });
        }
        let outcome = self.node.reader.call(At::Tip, &transaction.call(rules))?;
        done(rpc::CallResult {
            vm_return: hex::encode(&outcome.output),
            contract_address: outcome.contract,
            gas_used: Text(outcome.gas_used),
            vm_error: outcome.error,
        })
    }
}

/// Encoded size of a block in bytes.
pub(super) fn block_size(info: &BlockInfo) -> usize {
    info.block.to_rlp().len()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "whatever fails here is a failed test")]

    use theta_core::{hash::keccak, spec::ChainSpec};

    use super::*;
    use crate::devnet::{Devnet, DevnetConfig, TEST_MNEMONIC};

    #[test]
    fn nothing_slow_is_done_on_the_runtimes_threads() {
        // Slow work goes to the blocking threads, of which there is one; while it is taken, no slow call is answered.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .max_blocking_threads(1)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let config = DevnetConfig {
                spec: ChainSpec::devnet(),
                validators: 1,
                guardians: 0,
                accounts: 1,
                mnemonic: TEST_MNEMONIC.to_owned(),
                data_dir: folder.path().to_owned(),
                rpc_port: 0,
                eth_rpc_port: 0,
                block_interval_ms: 100,
                vm: Arc::new(theta_ledger::vm::NoContracts),
            };
            let devnet = Devnet::start(config).await.unwrap();
            devnet.first_block().await.unwrap();
            let api = ThetaApi::new(devnet.nodes[0].node.handle());
            let first = api.node.reader.block(At::Height(1)).unwrap().unwrap();
            let coinbase = keccak(&first.block.transactions[0]);
            let slow = async |limit| {
                let params = json!({ "tx_bytes": "f86c" });
                let unread = api.call("theta.BroadcastRawEthTransaction", params);
                let (unread, settled) = (
                    tokio::time::timeout(limit, unread).await,
                    tokio::time::timeout(limit, api.settled(coinbase)).await,
                );
                (unread.is_ok(), settled.is_ok())
            };
            let (long, short) = (Duration::from_secs(10), Duration::from_millis(300));
            assert_eq!(slow(long).await, (true, true));
            let (release, released) = std::sync::mpsc::channel::<()>();
            let busy = tokio::task::spawn_blocking(move || released.recv());
            assert_eq!(slow(short).await, (false, false), "answered without the blocking thread");
            release.send(()).unwrap();
            busy.await.unwrap().unwrap();
            assert_eq!(slow(long).await, (true, true));
        });
    }
}
