//! `eth_*`, `net_*`, `web3_*`: what Ethereum wallets and libraries ask.
//!
//! One hash names a transaction: the Ethereum hash where an Ethereum wallet signed it, the native hash otherwise; both are
//! accepted. A transaction's index is its place among all of its block's transactions; blocks list and count contract
//! transactions only. `latest`, `safe` and `finalized` are the newest settled block, `pending` the highest executed one.
//! No block shows a base fee, so clients send legacy transactions unless they are told to: the main network's rules carry no
//! others. A development network's do.

use num_bigint::BigUint;
use serde_json::{Map, Value, json};
use theta_core::{
    amount::from_big,
    context::BlockContext,
    hash::{Address, Bytes, EMPTY_ROOT, Hash, U256, keccak},
};
use theta_ledger::{
    Receipt,
    ledger::{At, BlockInfo},
    logs::{FoundLog, LogFilter, bloom},
    mempool::AdmitError,
    state::{StateError, StateView},
    tx::{
        RawTx, SmartContract, Transaction, TxError,
        ethereum::{self, Access, Authorization, Typed},
    },
    vm::{VmCall, VmOutcome},
};

use super::{RpcError, Slots};
use crate::node::NodeHandle;

/// Blocks that one look for logs may cover.
const LOG_RANGE: u64 = 5000;
/// Logs in one answer.
const MAX_LOGS: usize = 10_000;
/// Percentiles of `eth_feeHistory`.
const MAX_PERCENTILES: usize = 100;

/// The API of one node.
#[derive(Clone, Debug)]
pub struct EthApi {
    node: NodeHandle,
    slots: Slots,
}

/// Parameters by position.
struct Params(Vec<Value>);

impl Params {
    fn new(params: Value) -> Result<Self, RpcError> {
        match params {
            Value::Null => Ok(Self(Vec::new())),
            Value::Array(items) => Ok(Self(items)),
            _ => Err(RpcError::params("non-array args")),
        }
    }

    fn optional(&self, index: usize) -> Option<&Value> {
        self.0.get(index).filter(|value| !value.is_null())
    }

    fn required(&self, index: usize) -> Result<&Value, RpcError> {
        self.optional(index)
            .ok_or_else(|| RpcError::params(format!("missing value for required argument {index}")))
    }

    fn parse<T: std::str::FromStr>(&self, index: usize, what: &str) -> Result<T, RpcError> {
        parse(self.required(index)?, index, what)
    }
}

fn parse<T: std::str::FromStr>(value: &Value, index: usize, what: &str) -> Result<T, RpcError> {
    let text = value.as_str().filter(|text| text.starts_with("0x"));
    text.and_then(|text| text.parse().ok())
        .ok_or_else(|| RpcError::params(format!("invalid argument {index}: {value} is not {what}")))
}

fn quantity(value: impl Into<U256>) -> Value {
    Value::String(format!("{:#x}", value.into()))
}

fn read_quantity(value: &Value) -> Result<U256, RpcError> {
    let bad = || RpcError::params(format!("invalid argument: {value} is not a hexadecimal number"));
    match value {
        Value::Number(number) => number.as_u64().map(U256::from).ok_or_else(bad),
        Value::String(text) => {
            let digits = text.strip_prefix("0x").ok_or_else(bad)?;
            U256::from_str_radix(digits, 16).map_err(|_| bad())
        }
        _ => Err(bad()),
    }
}

fn data(bytes: &[u8]) -> Value {
    Value::String(format!("0x{}", hex::encode(bytes)))
}

/// A contract transaction where it stands.
struct Placed {
    transaction: SmartContract,
    /// By which clients know it.
    hash: Hash,
    signed_by_ethereum: bool,
    index: usize,
    receipt: Option<Receipt>,
}

impl EthApi {
    /// The API of a node.
    pub fn new(node: NodeHandle) -> Self {
        Self { node, slots: Slots::default() }
    }

    /// Where the node stands, as it changes.
    pub(super) fn progress(&self) -> tokio::sync::watch::Receiver<crate::chain::Progress> {
        self.node.progress.clone()
    }

    /// Calls a method.
    pub async fn call(&self, method: &str, params: Value) -> Result<Value, RpcError> {
        let (api, method) = (self.clone(), method.to_owned());
        self.slots.work(move || api.call_now(&method, params)).await
    }

    fn call_now(&self, method: &str, params: Value) -> Result<Value, RpcError> {
        let params = Params::new(params)?;
        match method {
            "eth_chainId" => Ok(quantity(self.chain_id(self.settled_height()))),
            "net_version" => Ok(Value::String(self.chain_id(self.settled_height()).to_string())),
            "net_listening" => Ok(Value::Bool(true)),
            "net_peerCount" => Ok(quantity(U256::ZERO)),
            "web3_clientVersion" => Ok(Value::String(format!(
                "theta/v{}/{}-{}/rust",
                env!("CARGO_PKG_VERSION"),
                std::env::consts::OS,
                std::env::consts::ARCH
            ))),
            "web3_sha3" => Ok(json!(keccak(params.parse::<Bytes>(0, "bytes")?))),
            "eth_syncing" => Ok(Value::Bool(false)),
            "eth_accounts" => Ok(json!([])),
            "eth_blockNumber" => Ok(quantity(U256::from(self.settled_height()))),
            "eth_gasPrice" | "eth_maxPriorityFeePerGas" => Ok(quantity(self.gas_price())),
            "eth_feeHistory" => self.fee_history(&params),
            "eth_getBalance" => {
                let account = self.state(params.optional(1))?.load(params.parse(0, "an address")?)?;
                Ok(quantity(account.map_or(U256::ZERO, |account| account.balance.tfuel.get())))
            }
            "eth_getTransactionCount" => self.transaction_count(&params),
            "eth_getCode" => {
                let mut state = self.state(params.optional(1))?;
                let address = params.parse(0, "an address")?;
                let hash = state.account(address)?.map(|account| account.code_hash).unwrap_or_default();
                Ok(data(&state.code(hash)?))
            }
            "eth_getStorageAt" => {
                let mut state = self.state(params.optional(2))?;
                let slot = read_quantity(params.required(1)?)?;
                let address = params.parse(0, "an address")?;
                // A slot of an account that is not there is zero, and must not make one.
                let word = match state.account(address)? {
                    Some(_) => state.slot(address, Hash::from(slot))?,
                    None => U256::ZERO,
                };
                Ok(data(&word.to_be_bytes::<32>()))
            }
            "eth_call" => {
                let (mut view, context) = self.next_block(params.optional(1))?;
                let call = self.read_call(params.required(0)?)?;
                succeeded(self.node.reader.call_on(&mut view, &context, &call)?)
                    .map(|outcome| data(&outcome.output))
            }
            "eth_estimateGas" => {
                let (view, context) = self.next_block(params.optional(1))?;
                let call = self.read_call(params.required(0)?)?;
                self.estimate(&view, &context, &call)
            }
            "eth_sendRawTransaction" => self.send_raw(&params.parse::<Bytes>(0, "bytes")?),
            "eth_getBlockByNumber" => {
                let block = self.block(params.required(0)?)?;
                self.block_object(block, params.optional(1) == Some(&Value::Bool(true)))
            }
            "eth_getBlockByHash" => {
                let block = self.node.reader.block(At::Block(params.parse(0, "a hash")?))?;
                self.block_object(block, params.optional(1) == Some(&Value::Bool(true)))
            }
            "eth_getBlockTransactionCountByNumber" => {
                let Some(block) = self.block(params.required(0)?)? else { return Ok(Value::Null) };
                Ok(quantity(U256::from(self.placed(&block)?.len())))
            }
            "eth_getBlockTransactionCountByHash" => {
                let block = self.node.reader.block(At::Block(params.parse(0, "a hash")?))?;
                let Some(block) = block else { return Ok(Value::Null) };
                Ok(quantity(U256::from(self.placed(&block)?.len())))
            }
            "eth_getUncleCountByBlockNumber" | "eth_getUncleCountByBlockHash" => Ok(quantity(U256::ZERO)),
            "eth_getUncleByBlockNumberAndIndex" | "eth_getUncleByBlockHashAndIndex" => Ok(Value::Null),
            "eth_getTransactionByHash" => self.transaction(&params.parse(0, "a hash")?),
            "eth_getTransactionReceipt" => self.receipt(&params.parse(0, "a hash")?),
            "eth_getBlockReceipts" => {
                let Some(block) = self.block(params.required(0)?)? else { return Ok(Value::Null) };
                Ok(Value::Array(self.receipts(&block)?.into_iter().map(|(_, receipt)| receipt).collect()))
            }
            "eth_getLogs" => self.logs(params.required(0)?),
            other => Err(RpcError::method(format!("the method {other} does not exist/is not available"))),
        }
    }

    fn settled_height(&self) -> u64 {
        self.node.reader.settled().header.height
    }

    /// The id that a transaction in the next block has to be signed for.
    fn chain_id(&self, height: u64) -> U256 {
        self.node.reader.spec().ethereum_chain_id(height + 1)
    }

    fn gas_price(&self) -> U256 {
        U256::from(self.node.reader.spec().rules(self.settled_height() + 1).tx.min_gas_price)
    }

    // Blocks

    fn at(&self, tag: Option<&Value>) -> Result<At, RpcError> {
        let unknown = |value: &Value| RpcError::params(format!("invalid argument: {value} is not a block"));
        Ok(match tag {
            None => At::Settled,
            Some(Value::String(tag)) => match tag.as_str() {
                "latest" | "safe" | "finalized" => At::Settled,
                "pending" => At::Tip,
                "earliest" => At::Height(0),
                number => {
                    let number = read_quantity(&json!(number))?;
                    At::Height(u64::try_from(number).map_err(|_| unknown(&json!(number)))?)
                }
            },
            Some(value @ Value::Object(object)) => match (object.get("blockHash"), object.get("blockNumber"))
            {
                (Some(hash), None) => At::Block(parse(hash, 0, "a hash")?),
                (None, Some(number)) => return self.at(Some(number)),
                _ => return Err(unknown(value)),
            },
            Some(other) => return Err(unknown(other)),
        })
    }

    fn block(&self, tag: &Value) -> Result<Option<BlockInfo>, RpcError> {
        Ok(self.node.reader.block(self.at(Some(tag))?)?)
    }

    fn state(&self, tag: Option<&Value>) -> Result<StateView, RpcError> {
        self.node.reader.state(self.at(tag)?).map_err(absent)
    }

    fn next_block(&self, tag: Option<&Value>) -> Result<(StateView, BlockContext), RpcError> {
        self.node.reader.next_block(self.at(tag)?).map_err(absent)
    }

    /// The contract transactions of a block.
    fn placed(&self, block: &BlockInfo) -> Result<Vec<Placed>, RpcError> {
        let height = block.block.header.height;
        let mut placed = Vec::new();
        for (index, bytes) in block.block.transactions.iter().enumerate() {
            // The kind is the first byte; only contract transactions are decoded.
            if bytes.first() != Some(&7) {
                continue;
            }
            let Ok(raw) = RawTx::decode(bytes.clone()) else { continue };
            let Transaction::SmartContract(transaction) = raw.transaction else { continue };
            let other = self.node.reader.ethereum_hash(&transaction, height);
            let result = self.node.reader.result(&raw.hash)?;
            placed.push(Placed {
                transaction,
                hash: other.unwrap_or(raw.hash),
                signed_by_ethereum: other.is_some(),
                index,
                receipt: result.map(|result| result.receipt),
            });
        }
        Ok(placed)
    }

    fn block_object(&self, block: Option<BlockInfo>, full: bool) -> Result<Value, RpcError> {
        let Some(block) = block else { return Ok(Value::Null) };
        let placed = self.placed(&block)?;
        let header = &block.block.header;
        let receipts = || placed.iter().filter_map(|placed| placed.receipt.as_ref());
        let gas_used: u64 = receipts().map(|receipt| receipt.gas_used).sum();
        let transactions: Vec<Value> = placed
            .iter()
            .map(
                |placed| {
                    if full { self.transaction_object(placed, Some(&block)) } else { json!(placed.hash) }
                },
            )
            .collect();
        let rules = self.node.reader.spec().rules(header.height);
        Ok(json!({
            "number": quantity(U256::from(header.height)),
            "hash": block.hash,
            "parentHash": header.parent,
            "timestamp": quantity(from_big(&header.timestamp).unwrap_or_default()),
            "miner": header.proposer,
            "transactionsRoot": header.transactions_root,
            "stateRoot": header.state_root,
            "receiptsRoot": EMPTY_ROOT,
            "nonce": "0x0000000000000000",
            "sha3Uncles": keccak([0xc0]),
            "mixHash": Hash::ZERO,
            "logsBloom": data(&bloom(receipts().flat_map(|receipt| &receipt.logs))),
            "difficulty": "0x0",
            "totalDifficulty": "0x0",
            "size": quantity(U256::from(super::theta::block_size(&block))),
            "gasLimit": quantity(U256::from(rules.tx.max_gas)),
            "gasUsed": quantity(U256::from(gas_used)),
            "extraData": "0x",
            "uncles": [],
            "transactions": transactions,
        }))
    }

    // Transactions

    fn transaction_object(&self, placed: &Placed, block: Option<&BlockInfo>) -> Value {
        let transaction = &placed.transaction;
        let height = block.map_or_else(|| self.settled_height() + 1, |block| block.block.header.height);
        let chain_id = self.node.reader.spec().ethereum_chain_id(height);
        let (r, s, v) = transaction.from.signature.r_s_v().unwrap_or_default();
        // A wallet expects the v of EIP-155; a native signature has none, and a typed one's is its parity.
        let v = if transaction.typed.is_some() {
            U256::from(v.wrapping_sub(27))
        } else if placed.signed_by_ethereum {
            chain_id * U256::from(2) + U256::from(8_u64 + u64::from(v))
        } else {
            U256::from(v)
        };
        let mut object = Map::new();
        for (key, value) in [
            ("blockHash", block.map_or(Value::Null, |block| json!(block.hash))),
            ("blockNumber", block.map_or(Value::Null, |_| quantity(U256::from(height)))),
            ("transactionIndex", block.map_or(Value::Null, |_| quantity(U256::from(placed.index)))),
            ("hash", json!(placed.hash)),
            ("type", quantity(U256::from(transaction.typed.as_ref().map_or(0, Typed::kind)))),
            ("chainId", quantity(chain_id)),
            ("from", json!(transaction.from.address)),
            ("to", transaction.callee().map_or(Value::Null, |to| json!(to))),
            ("nonce", quantity(U256::from(transaction.from.sequence.wrapping_sub(1)))),
            ("gas", quantity(U256::from(transaction.gas_limit))),
            ("gasPrice", wei(&transaction.effective_price(self.node.reader.spec().rules(height)))),
            ("value", wei(&transaction.from.coins.tfuel)),
            ("input", data(&transaction.data)),
            ("v", quantity(v)),
            ("r", quantity(r)),
            ("s", quantity(s)),
        ] {
            object.insert(key.to_owned(), value);
        }
        if let Some(typed) = &transaction.typed {
            object.insert("yParity".to_owned(), quantity(v));
            let entry = |access: &Access| json!({ "address": access.address, "storageKeys": access.slots });
            object.insert("accessList".to_owned(), typed.access().iter().map(entry).collect());
            if let Some(tip) = typed.tip() {
                object.insert("maxFeePerGas".to_owned(), wei(&transaction.gas_price));
                object.insert("maxPriorityFeePerGas".to_owned(), wei(tip));
            }
            if let Typed::Delegating { authorizations, .. } = typed {
                let entry = |authorization: &Authorization| {
                    json!({
                        "chainId": quantity(authorization.chain_id),
                        "address": authorization.address,
                        "nonce": quantity(U256::from(authorization.nonce)),
                        "yParity": quantity(U256::from(authorization.parity)),
                        "r": quantity(authorization.r),
                        "s": quantity(authorization.s),
                    })
                };
                object.insert("authorizationList".to_owned(), authorizations.iter().map(entry).collect());
            }
        }
        Value::Object(object)
    }

    fn transaction(&self, hash: &Hash) -> Result<Value, RpcError> {
        if let Some(found) = self.node.reader.transaction(hash)? {
            let block = self.node.reader.block(At::Block(found.place.block))?;
            let Some(block) = block else { return Ok(Value::Null) };
            let placed = self.placed(&block)?;
            let placed = placed.iter().find(|placed| placed.index as u64 == found.place.index);
            return Ok(placed.map_or(Value::Null, |placed| {
                self.transaction_object(placed, Some(&block).filter(|_| found.settled))
            }));
        }
        let Some(raw) = self.node.waiting(hash) else { return Ok(Value::Null) };
        let Transaction::SmartContract(transaction) = raw.transaction.clone() else { return Ok(Value::Null) };
        let other = self.node.reader.ethereum_hash(&transaction, self.settled_height());
        let placed = Placed {
            transaction,
            hash: other.unwrap_or(raw.hash),
            signed_by_ethereum: other.is_some(),
            index: 0,
            receipt: None,
        };
        Ok(self.transaction_object(&placed, None))
    }

    /// Receipts of a block's contract transactions with their places.
    fn receipts(&self, block: &BlockInfo) -> Result<Vec<(usize, Value)>, RpcError> {
        let rules = self.node.reader.spec().rules(block.block.header.height);
        let (mut cumulative, mut log_index) = (0, 0);
        let mut receipts = Vec::new();
        for placed in self.placed(block)? {
            let Some(receipt) = &placed.receipt else { continue };
            cumulative += receipt.gas_used;
            let logs: Vec<Value> = receipt
                .logs
                .iter()
                .map(|log| {
                    log_index += 1;
                    log_object(&FoundLog {
                        log: log.clone(),
                        block: block.hash,
                        height: block.block.header.height,
                        transaction: placed.hash,
                        ethereum: None,
                        transaction_index: placed.index as u64,
                        log_index: log_index - 1,
                    })
                })
                .collect();
            let transaction = &placed.transaction;
            let creates = transaction.callee().is_none();
            receipts.push((
                placed.index,
                json!({
                    "transactionHash": placed.hash,
                    "transactionIndex": quantity(U256::from(placed.index)),
                    "blockHash": block.hash,
                    "blockNumber": quantity(U256::from(block.block.header.height)),
                    "from": transaction.from.address,
                    "to": transaction.callee(),
                    "contractAddress": creates.then_some(receipt.contract),
                    "gasUsed": quantity(U256::from(receipt.gas_used)),
                    "cumulativeGasUsed": quantity(U256::from(cumulative)),
                    "effectiveGasPrice": wei(&transaction.effective_price(rules)),
                    "logs": logs,
                    "logsBloom": data(&bloom(&receipt.logs)),
                    "status": if receipt.error.is_empty() { "0x1" } else { "0x0" },
                    "type": quantity(U256::from(transaction.typed.as_ref().map_or(0, Typed::kind))),
                }),
            ));
        }
        Ok(receipts)
    }

    fn receipt(&self, hash: &Hash) -> Result<Value, RpcError> {
        let Some(found) = self.node.reader.transaction(hash)?.filter(|found| found.settled) else {
            return Ok(Value::Null);
        };
        let Some(block) = self.node.reader.block(At::Block(found.place.block))? else {
            return Ok(Value::Null);
        };
        let receipts = self.receipts(&block)?;
        let receipt = receipts.into_iter().find(|(index, _)| *index as u64 == found.place.index);
        Ok(receipt.map_or(Value::Null, |(_, receipt)| receipt))
    }

    fn transaction_count(&self, params: &Params) -> Result<Value, RpcError> {
        let address: Address = params.parse(0, "an address")?;
        if params.optional(1).and_then(Value::as_str) == Some("pending") {
            let next = self.node.mempool.lock().next_sequence(address)?;
            return Ok(quantity(U256::from(next.map_or(0, |next| next - 1))));
        }
        let mut state = self.state(params.optional(1))?;
        Ok(quantity(U256::from(state.account(address)?.map_or(0, |account| account.sequence))))
    }

    fn send_raw(&self, bytes: &[u8]) -> Result<Value, RpcError> {
        let raw = ethereum::translate(bytes).map_err(|error| RpcError::application(error.to_string()))?;
        let hash = keccak(&raw.bytes);
        self.node.submit(raw.bytes).map_err(|error| match error {
            AdmitError::Known if self.node.waiting(&hash).is_none() => {
                RpcError::application(format!("nonce too low: {error}"))
            }
            error => RpcError::application(words(&error)),
        })?;
        Ok(json!(keccak(bytes)))
    }

    // Calls

    fn read_call(&self, value: &Value) -> Result<VmCall, RpcError> {
        let Value::Object(fields) = value else {
            return Err(RpcError::params("invalid argument 0: the call is an object"));
        };
        let field = |name: &str| fields.get(name).filter(|value| !value.is_null());
        let number = |name: &str| field(name).map(read_quantity).transpose();
        let max_gas = self.node.reader.spec().rules(self.settled_height() + 1).tx.max_gas;
        let gas = number("gas")?.map_or(max_gas, |gas| gas.try_into().unwrap_or(u64::MAX));
        let input = field("input").or(field("data"));
        Ok(VmCall {
            from: field("from").map(|from| parse(from, 0, "an address")).transpose()?.unwrap_or_default(),
            to: field("to").map(|to| parse(to, 0, "an address")).transpose()?,
            tfuel: number("value")?.unwrap_or_default(),
            theta: U256::ZERO,
            gas_limit: gas.min(max_gas),
            gas_price: number("gasPrice")?.or(number("maxFeePerGas")?).unwrap_or_default(),
            data: match input {
                Some(input) => parse::<Bytes>(input, 0, "bytes")?.to_vec(),
                None => Vec::new(),
            },
            access: field("accessList").map(read_access).transpose()?.unwrap_or_default(),
            authorizations: Vec::new(),
        })
    }

    /// The least gas limit with which the call succeeds, by halving.
    fn estimate(&self, view: &StateView, context: &BlockContext, call: &VmCall) -> Result<Value, RpcError> {
        let run = |gas_limit| -> Result<VmOutcome, RpcError> {
            let call = VmCall { gas_limit, ..call.clone() };
            Ok(self.node.reader.call_on(&mut view.clone(), context, &call)?)
        };
        let most = succeeded(run(call.gas_limit)?)?;
        // What was used is the least that can be enough; more is needed where a call keeps a part of its gas from those
        // it calls, and where gas is paid back.
        let (mut low, mut high) = (most.gas_used.saturating_sub(1), call.gas_limit);
        if run(most.gas_used)?.error.is_empty() {
            high = most.gas_used;
        }
        while low + 1 < high {
            let middle = low + (high - low) / 2;
            if run(middle)?.error.is_empty() {
                high = middle;
            } else {
                low = middle;
            }
        }
        Ok(quantity(U256::from(high)))
    }

    fn fee_history(&self, params: &Params) -> Result<Value, RpcError> {
        let count = u64::try_from(read_quantity(params.required(0)?)?).unwrap_or(u64::MAX).min(1024);
        let newest = match self.block(params.required(1)?)? {
            Some(block) => block.block.header.height,
            None => return Err(RpcError::application("unknown block")),
        };
        let oldest = (newest + 1).saturating_sub(count);
        let percentiles = params.optional(2).and_then(Value::as_array).map_or(0, Vec::len);
        if percentiles > MAX_PERCENTILES {
            return Err(RpcError::params(format!("at most {MAX_PERCENTILES} percentiles are answered")));
        }
        let mut ratios = Vec::new();
        for height in oldest..=newest {
            let used: u64 = match self.node.reader.block(At::Height(height))? {
                Some(block) => self
                    .placed(&block)?
                    .iter()
                    .filter_map(|placed| placed.receipt.as_ref())
                    .map(|receipt| receipt.gas_used)
                    .sum(),
                None => 0,
            };
            let limit = self.node.reader.spec().rules(height).tx.max_gas;
            ratios.push(json!((used as f64 / limit as f64).min(1.0)));
        }
        let rows = ratios.len();
        let row = vec![quantity(self.gas_price()); percentiles];
        let mut history = json!({
            "oldestBlock": quantity(U256::from(oldest)),
            "baseFeePerGas": vec!["0x0"; rows + 1],
            "gasUsedRatio": ratios,
        });
        if percentiles > 0 {
            history["reward"] = json!(vec![row; rows]);
        }
        Ok(history)
    }

    // Logs

    fn logs(&self, filter: &Value) -> Result<Value, RpcError> {
        let Value::Object(fields) = filter else {
            return Err(RpcError::params("invalid argument 0: the filter is an object"));
        };
        let (from, to) = if let Some(hash) = fields.get("blockHash").filter(|hash| !hash.is_null()) {
            if fields.contains_key("fromBlock") || fields.contains_key("toBlock") {
                return Err(RpcError::params("cannot specify both BlockHash and FromBlock/ToBlock"));
            }
            let block = self.node.reader.block(At::Block(parse(hash, 0, "a hash")?))?;
            let height = block.ok_or_else(|| RpcError::application("unknown block"))?.block.header.height;
            (height, height)
        } else {
            let height = |name: &str| -> Result<u64, RpcError> {
                Ok(match self.at(fields.get(name).filter(|tag| !tag.is_null()))? {
                    At::Height(height) => height,
                    _ => self.settled_height(),
                })
            };
            (height("fromBlock")?, height("toBlock")?.min(self.settled_height()))
        };
        let too_many = |message| Err(RpcError { code: -32005, message, data: None });
        if to.saturating_sub(from) > LOG_RANGE {
            return too_many(format!(
                "block range too large, at most {LOG_RANGE} blocks: narrow fromBlock and toBlock"
            ));
        }
        let found = self.node.reader.logs(&read_filter(fields, from, to)?, MAX_LOGS + 1)?;
        if found.len() > MAX_LOGS {
            return too_many(format!(
                "query returns more than {MAX_LOGS} logs: narrow the range or the filter"
            ));
        }
        Ok(found.iter().map(log_object).collect())
    }
}

fn read_filter(fields: &Map<String, Value>, from: u64, to: u64) -> Result<LogFilter, RpcError> {
    let addresses = match fields.get("address") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(many)) => {
            many.iter().map(|one| parse(one, 0, "an address")).collect::<Result<_, _>>()?
        }
        Some(one) => vec![parse(one, 0, "an address")?],
    };
    let position = |value: &Value| -> Result<Vec<Hash>, RpcError> {
        match value {
            Value::Null => Ok(Vec::new()),
            Value::Array(many) => many.iter().map(|one| parse(one, 0, "a topic")).collect(),
            one => Ok(vec![parse(one, 0, "a topic")?]),
        }
    };
    let topics = match fields.get("topics") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(positions)) => positions.iter().map(position).collect::<Result<_, _>>()?,
        Some(other) => {
            return Err(RpcError::params(format!("invalid argument 0: {other} is no list of topics")));
        }
    };
    Ok(LogFilter { from, to, addresses, topics })
}

/// An amount of any width.
fn wei(amount: &BigUint) -> Value {
    quantity(from_big(amount).unwrap_or(U256::MAX))
}

fn read_access(list: &Value) -> Result<Vec<Access>, RpcError> {
    let wrong =
        || RpcError::params("invalid argument 0: an access list is an array of address and storageKeys");
    let entry = |entry: &Value| {
        let keys = entry["storageKeys"].as_array().ok_or_else(wrong)?;
        Ok(Access {
            address: parse(&entry["address"], 0, "an address")?,
            slots: keys.iter().map(|key| parse(key, 0, "a word")).collect::<Result<_, _>>()?,
        })
    };
    list.as_array().ok_or_else(wrong)?.iter().map(entry).collect()
}

fn log_object(found: &FoundLog) -> Value {
    json!({
        "address": found.log.address,
        "topics": found.log.topics,
        "data": data(&found.log.data),
        "blockNumber": quantity(U256::from(found.height)),
        "blockHash": found.block,
        "transactionHash": found.ethereum.unwrap_or(found.transaction),
        "transactionIndex": quantity(U256::from(found.transaction_index)),
        "logIndex": quantity(U256::from(found.log_index)),
        "removed": false,
    })
}

fn absent(error: StateError) -> RpcError {
    match error {
        StateError::Absent { height, oldest } if height >= oldest => {
            RpcError::application(format!("header not found: no block {height}"))
        }
        // The block is there and its state is gone: the text says so.
        other => other.into(),
    }
}

/// A failed call as an error: a revert with its data and, where it has one, its reason.
fn succeeded(outcome: VmOutcome) -> Result<VmOutcome, RpcError> {
    if outcome.error.is_empty() {
        return Ok(outcome);
    }
    if !outcome.error.contains("revert") {
        return Err(RpcError::application(outcome.error));
    }
    let message = match revert_reason(&outcome.output) {
        Some(reason) => format!("execution reverted: {reason}"),
        None => "execution reverted".to_owned(),
    };
    Err(RpcError { code: 3, message, data: Some(data(&outcome.output)) })
}

/// The text of `Error(string)`.
fn revert_reason(output: &[u8]) -> Option<String> {
    let body = output.strip_prefix(&[0x08, 0xc3, 0x79, 0xa0])?;
    let length = usize::try_from(U256::try_from_be_slice(body.get(32..64)?)?).ok()?;
    let text = body.get(64..64_usize.checked_add(length)?)?;
    Some(String::from_utf8_lossy(text).into_owned())
}

/// Theta's texts behind the words that Ethereum's libraries look for.
fn words(error: &AdmitError) -> String {
    let prefix = match error {
        AdmitError::Known => "already known",
        AdmitError::Underpriced(_) | AdmitError::TooFarAhead { .. } => "",
        AdmitError::Invalid(TxError::Sequence { got, expected }) if got < expected => "nonce too low",
        AdmitError::Invalid(TxError::Sequence { .. }) => "nonce too high",
        AdmitError::Invalid(
            TxError::Insufficient(_) | TxError::BelowMinimalBalance(_) | TxError::NoAccount(_),
        ) => "insufficient funds for gas * price + value",
        AdmitError::Invalid(TxError::IntrinsicGas { .. }) => "",
        AdmitError::Invalid(TxError::GasPrice(_)) => "transaction underpriced",
        _ => "",
    };
    if prefix.is_empty() { error.to_string() } else { format!("{prefix}: {error}") }
}

#[cfg(test)]
mod tests {
    use theta_ledger::vm::Log;

    use super::*;

    #[test]
    fn a_filter_counts_positions() {
        let log = Log {
            address: Address::ZERO,
            topics: vec![Hash::repeat_byte(1), Hash::repeat_byte(2)],
            data: vec![],
        };
        let filter = |topics: Value| {
            let fields = json!({ "topics": topics });
            read_filter(fields.as_object().expect("an object"), 0, 0).expect("well formed")
        };
        let (one, two) = (json!(Hash::repeat_byte(1)), json!(Hash::repeat_byte(2)));
        assert!(filter(json!([])).matches(&log));
        assert!(filter(json!([one])).matches(&log));
        assert!(filter(json!([null, two])).matches(&log));
        assert!(filter(json!([[two, one], null])).matches(&log));
        assert!(!filter(json!([two])).matches(&log));
        assert!(!filter(json!([null, null, null])).matches(&log));
        // An empty list is anything too, and what follows it still counts; one position wants one topic.
        assert!(
            filter(json!([[one], [], null]))
                .matches(&Log { topics: vec![Hash::repeat_byte(1); 3], ..log.clone() })
        );
        assert!(!filter(json!([[], [one]])).matches(&log) && filter(json!([[], [two]])).matches(&log));
        assert!(filter(json!([[]])).matches(&log));
        assert!(!filter(json!([[]])).matches(&Log { topics: vec![], ..log.clone() }));
        assert!(read_filter(json!({ "address": "0x12" }).as_object().expect("an object"), 0, 0).is_err());
    }

    #[test]
    fn a_revert_says_why() {
        let mut output = vec![0x08, 0xc3, 0x79, 0xa0];
        output.extend(U256::from(32).to_be_bytes::<32>());
        output.extend(U256::from(2).to_be_bytes::<32>());
        output.extend(b"no");
        let outcome =
            VmOutcome { error: "evm: execution reverted".to_owned(), output, ..VmOutcome::default() };
        let error = succeeded(outcome).expect_err("reverted");
        assert_eq!((error.code, error.message.as_str()), (3, "execution reverted: no"));
        for cut in
            [vec![], vec![0x08, 0xc3, 0x79, 0xa0], [vec![0x08, 0xc3, 0x79, 0xa0], vec![0xff; 64]].concat()]
        {
            assert_eq!(revert_reason(&cut), None);
        }
    }
}
