//! `diff_evm*.jsonl`: contract transactions in a row, without coinbases and ends of blocks.

use std::{collections::BTreeMap, io::BufRead, sync::Arc};

use serde::Deserialize;
use serde_json::Value;
use theta_core::{
    block::Header,
    context::BlockContext,
    hash::{Address, Bytes, Hash, keccak},
    spec::{ChainSpec, Fork},
};

use super::{
    Outcome, Output, ReplayError, Replayed, Report, Stop, add_trie, lines, new_nodes, parse, same,
    same_receipt, same_record,
};
use crate::{
    block,
    state::{StateView, keys},
    tx::{RawTx, Scope, Signatures, TxError},
    vm::ContractVm,
};

#[derive(Deserialize)]
struct SequenceLine {
    kind: String,
    chain_id: String,
    pre: Before,
    blocks: Vec<BlockLine>,
}

#[derive(Deserialize)]
struct Before {
    root: Hash,
    kv: Vec<(Bytes, Bytes)>,
    storage: BTreeMap<Hash, Vec<(Bytes, Bytes)>>,
}

#[derive(Deserialize)]
struct BlockLine {
    height: u64,
    parent_timestamp: u64,
    txs: Vec<TxLine>,
}

#[derive(Deserialize)]
struct TxLine {
    raw: Bytes,
    hash: Hash,
    ok: bool,
    code: Option<u32>,
    root: Hash,
    #[serde(flatten)]
    receipt: Option<Receipt>,
}

#[derive(Deserialize)]
struct Receipt {
    gas: u64,
    err: String,
    ret: Output,
    addr: Address,
    logs: Vec<(Address, Vec<Hash>, Bytes)>,
    bal: Vec<(Address, u8, u8, String)>,
    /// A value, nothing where the record went, or the length of code.
    diff: BTreeMap<Bytes, Value>,
}

pub(super) fn replay(input: impl BufRead, vm: &dyn ContractVm) -> Result<Report, ReplayError> {
    let mut report = Report::default();
    for (index, line) in lines(input).enumerate() {
        let (number, text) = line?;
        let line: SequenceLine = parse(number, &text)?;
        let mut replayed = Replayed {
            name: format!("sequence {index} ({})", line.kind),
            blocks: line.blocks.len(),
            transactions: line.blocks.iter().map(|block| block.txs.len()).sum(),
            ..Replayed::default()
        };
        sequence(number, &line, vm, &mut replayed)?;
        report.sequences.push(replayed);
    }
    Ok(report)
}

fn sequence(
    number: usize,
    line: &SequenceLine,
    vm: &dyn ContractVm,
    replayed: &mut Replayed,
) -> Result<(), ReplayError> {
    let unfit = |what: &str| ReplayError::Unfit { line: number, what: what.to_owned() };
    let nodes = new_nodes();
    let pairs = |pairs: &[(Bytes, Bytes)]| -> BTreeMap<Bytes, Bytes> { pairs.iter().cloned().collect() };
    for slots in line.pre.storage.values() {
        add_trie(&nodes, &pairs(slots))?;
    }
    let root = add_trie(&nodes, &pairs(&line.pre.kv))?;
    if root != line.pre.root {
        return Err(unfit("the state has another root"));
    }
    let spec = ChainSpec::new(line.chain_id.clone(), Fork::MAINNET);
    let signatures = Signatures::default();
    let mut view = StateView::open(root, 0, nodes)?;
    for block in &line.blocks {
        let parent = block.height.checked_sub(1).ok_or_else(|| unfit("a block of height 0"))?;
        let context = context(parent, block.parent_timestamp);
        let rules = spec.rules(block.height);
        let scope = Scope { spec: &spec, rules, block: &context, vm, signatures: &signatures };
        view = view.at_height(parent);
        for (index, tx) in block.txs.iter().enumerate() {
            if let Err(stop) = transaction(&scope, &mut view, tx) {
                let place = format!("{} height {} transaction {index}", replayed.name, block.height);
                replayed.difference = Some(stop.at(place)?);
                return Ok(());
            }
            replayed.passed += 1;
        }
    }
    Ok(())
}

/// Nothing but height and time matters to these transactions.
fn context(parent_height: u64, parent_timestamp: u64) -> BlockContext {
    let parent = Header { height: parent_height, timestamp: parent_timestamp.into(), ..Header::zero() };
    BlockContext::on(Hash::ZERO, Arc::new(parent), Arc::default())
}

fn transaction(scope: &Scope<'_>, view: &mut StateView, line: &TxLine) -> Result<(), Stop> {
    same("hash", line.hash, keccak(&line.raw))?;
    let result =
        RawTx::decode(line.raw.to_vec()).map_err(TxError::from).and_then(|raw| block::run(scope, view, &raw));
    let (code, why) = match &result {
        Ok(_) => (0, "accepted".to_owned()),
        Err(error) => (error.code(), error.to_string()),
    };
    let expected = line.code.unwrap_or(0);
    if code != expected || result.is_ok() != line.ok {
        return Err(Stop::differs("code", expected, format_args!("{code} ({why})")));
    }
    let receipt = line.receipt.as_ref().map(Receipt::outcome);
    same_receipt(receipt.as_ref(), result.ok().flatten().as_ref())?;
    let root = view.root()?;
    for (key, value) in line.receipt.iter().flat_map(|receipt| &receipt.diff) {
        match value {
            // Code is named by its hash, which is its key.
            Value::Number(_) => {
                let hash = key.strip_prefix(keys::CODE).unwrap_or_default();
                same("code", hex::encode(hash), hex::encode(keccak(view.record(key)?.unwrap_or_default())))?;
            }
            Value::String(text) => same_record(view, key, Some(&hex::decode(text).unwrap_or_default()))?,
            _ => same_record(view, key, None)?,
        }
    }
    same("root", line.root, root)
}

impl Receipt {
    fn outcome(&self) -> Outcome<'_> {
        Outcome {
            gas: self.gas,
            error: &self.err,
            output: &self.ret,
            contract: self.addr,
            logs: &self.logs,
            balance_changes: self
                .bal
                .iter()
                .map(|(address, token, negative, amount)| (*address, *token, *negative == 1, amount.clone()))
                .collect(),
        }
    }
}
