//! Replays the differential recording: every verdict, code and state root of the reference, transaction by transaction.
//! Also used by theta-evm, which runs the contracts too.

use std::{
    collections::BTreeMap,
    io::BufRead,
    sync::{Arc, Mutex},
};

use serde_json::Value;
use theta_core::{
    block::Header,
    codec::rlp::Decode,
    context::BlockContext,
    hash::Hash,
    spec::{ChainSpec, Fork},
    stake::{Validator, ValidatorSet},
    trie::{Node, NodeSource, Trie, TrieError},
};
use theta_ledger::{
    staking::end_of_block,
    state::StateView,
    tx::{RawTx, Scope, Signatures, Transaction, TxError},
    vm::{ContractVm, VmOutcome},
};

use super::{address, bytes, fixture, hash, text};

/// Trie nodes of a recorded state.
#[derive(Default)]
pub struct Nodes(Mutex<BTreeMap<Hash, Arc<Node>>>);

impl NodeSource for Nodes {
    fn node(&self, hash: &Hash) -> Result<Option<Arc<Node>>, TrieError> {
        Ok(self.0.lock().unwrap().get(hash).cloned())
    }
}

impl Nodes {
    pub fn add<'a>(self: &Arc<Self>, entries: impl Iterator<Item = (&'a String, &'a Value)>) -> Hash {
        let mut trie = Trie::empty(self.clone());
        for (key, value) in entries {
            trie.set(&hex::decode(key).unwrap(), bytes(value)).unwrap();
        }
        let mut nodes = self.0.lock().unwrap();
        trie.drain_new(&mut |hash, node| {
            nodes.insert(hash, node.clone());
        });
        trie.root()
    }
}

#[derive(Debug, Default)]
pub struct Report {
    pub transactions: usize,
    pub contracts: usize,
    pub failures: Vec<String>,
}

/// Replays a recording. Without a machine the recorded effects of accepted contract transactions are taken as they are.
pub fn replay(name: &str, vm: Option<&dyn ContractVm>) -> Report {
    let mut report = Report::default();
    let mut sequence: Option<Sequence> = None;
    for line in fixture(name).lines() {
        let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
        match text(&line["t"]) {
            "seq" => sequence = Some(Sequence::new(&line)),
            "block" => sequence.as_mut().unwrap().block(&line, vm, &mut report),
            _ => {}
        }
    }
    report
}

struct Sequence {
    spec: ChainSpec,
    view: Option<StateView>,
    parent: Arc<Header>,
    roots: BTreeMap<Hash, Hash>,
    /// A failure in this sequence makes everything after it meaningless.
    lost: bool,
}

impl Sequence {
    fn new(line: &Value) -> Self {
        let nodes = Arc::new(Nodes::default());
        let object = |key: &str| line[key].as_object().into_iter().flatten();
        for (_, slots) in object("storage") {
            nodes.add(slots.as_object().unwrap().iter());
        }
        let root = nodes.add(object("state"));
        assert_eq!(root, hash(&line["state_root"]));
        let parent = Header::from_rlp(&bytes(&line["root_header"]), 1 << 20).unwrap();
        let view = StateView::open(root, line["root_height"].as_u64().unwrap(), nodes).unwrap();
        Self {
            spec: ChainSpec::new(text(&line["chain_id"]), Fork::MAINNET),
            view: Some(view),
            roots: BTreeMap::from([(hash(&line["root_hash"]), root)]),
            parent: Arc::new(parent),
            lost: false,
        }
    }

    fn block(&mut self, line: &Value, vm: Option<&dyn ContractVm>, report: &mut Report) {
        if self.lost {
            return;
        }
        let header = Header::from_rlp(&bytes(&line["header"]), 1 << 20).unwrap();
        let validators = ValidatorSet::new(line["validators"].as_array().unwrap().iter().map(|entry| {
            let stake = theta_core::amount::ThetaWei::from_u256(text(&entry[1]).parse().unwrap());
            Validator { address: address(&entry[0]), stake }
        }));
        let guardian_votes = header.extension.guardian_votes().cloned();
        let context = BlockContext {
            parent_hash: self.parent.hash(),
            parent: self.parent.clone(),
            epoch: header.epoch,
            timestamp: header.timestamp.clone(),
            proposer: header.proposer,
            validators: Arc::new(validators),
            voted_state: guardian_votes.as_ref().and_then(|votes| self.roots.get(&votes.block).copied()),
            guardian_votes,
            elite_votes: header.extension.elite_votes().cloned(),
            freeze_stakes: false,
        };
        let signatures = Signatures::default();
        let scope = Scope {
            spec: &self.spec,
            rules: self.spec.rules(context.height()),
            block: &context,
            vm: vm.unwrap_or(&theta_ledger::vm::NoContracts),
            signatures: &signatures,
        };
        let mut view = self.view.take().unwrap();
        for (index, tx) in line["txs"].as_array().unwrap().iter().enumerate() {
            report.transactions += 1;
            let place = format!("seq {} height {} tx {index}", line["seq"], line["height"]);
            let is_contract = transaction(tx).is_ok_and(|tx| matches!(tx, Transaction::SmartContract(_)));
            if is_contract && tx["accepted"] == true {
                report.contracts += 1;
                if vm.is_none() {
                    take_effects(&mut view, tx);
                    continue;
                }
            }
            if let Err(difference) = one(&scope, &mut view, tx) {
                report.failures.push(format!("{place} ({} {}): {difference}", tx["kind"], tx["step"]));
                self.lost = tx["accepted"] == true;
                if self.lost {
                    return;
                }
            }
        }
        if let Err(error) = end_of_block(&mut view, scope.rules) {
            report.failures.push(format!("end of block {}: {error}", line["height"]));
        }
        let root = view.root().unwrap();
        if root != hash(&line["state_root"]) {
            report.failures.push(format!("seq {} block {}: state root", line["seq"], line["height"]));
            self.lost = true;
        }
        self.roots.insert(header.hash(), root);
        self.view = Some(view.at_height(header.height));
        self.parent = Arc::new(header);
    }
}

fn transaction(tx: &Value) -> Result<Transaction, TxError> {
    Ok(RawTx::decode(bytes(&tx["raw"]))?.transaction)
}

fn one(scope: &Scope<'_>, view: &mut StateView, tx: &Value) -> Result<(), String> {
    let before = view.checkpoint();
    let got = transaction(tx).and_then(|transaction| {
        transaction.check(scope, view)?;
        transaction.apply(scope, view)
    });
    let code = got.as_ref().map_or_else(TxError::code, |_| 0);
    let expected = tx["code"].as_u64().unwrap() as u32;
    let outcome = match got {
        Ok(outcome) => outcome,
        Err(error) => {
            view.revert(before);
            if code != expected {
                return Err(format!("code {code} ({error}), recorded {expected} {}", tx["message"]));
            }
            return Ok(());
        }
    };
    if code != expected {
        return Err(format!("accepted, recorded {expected} {}", tx["message"]));
    }
    if let (Some(outcome), Some(recorded)) = (&outcome, tx.get("evm")) {
        same_outcome(outcome, recorded)?;
    }
    let root = view.root().unwrap();
    if root == hash(&tx["root"]) { Ok(()) } else { Err("state root".to_owned()) }
}

/// Compares what a contract did with the recorded receipt.
pub fn same_outcome(outcome: &VmOutcome, recorded: &Value) -> Result<(), String> {
    let gas = recorded["gas_used"].as_u64().unwrap();
    let error = text(&recorded["err"]);
    if outcome.gas_used != gas || outcome.error != error {
        return Err(format!("gas {} {:?}, recorded {gas} {error:?}", outcome.gas_used, outcome.error));
    }
    if outcome.output != bytes(&recorded["ret"]) {
        return Err(format!("returned {}", hex::encode(&outcome.output)));
    }
    if outcome.contract != address(&recorded["contract"]) {
        return Err(format!("contract {}", outcome.contract));
    }
    let logs = outcome.logs.iter().map(|log| {
        let topics: Vec<_> = log.topics.iter().map(hex::encode).collect();
        serde_json::json!([hex::encode(log.address), topics, hex::encode(&log.data)])
    });
    let logs = Value::Array(logs.collect());
    let recorded_logs = recorded.get("logs").cloned().unwrap_or(Value::Array(Vec::new()));
    if logs != recorded_logs {
        return Err(format!("logs {logs}, recorded {recorded_logs}"));
    }
    let changes = outcome.balance_changes.iter().map(|change| {
        serde_json::json!([
            hex::encode(change.address),
            change.token,
            change.negative,
            change.delta.to_string()
        ])
    });
    let changes = Value::Array(changes.collect());
    let recorded_changes = recorded.get("balance_changes").cloned().unwrap_or(Value::Array(Vec::new()));
    if changes != recorded_changes {
        return Err(format!("balance changes {changes}, recorded {recorded_changes}"));
    }
    Ok(())
}

fn take_effects(view: &mut StateView, tx: &Value) {
    for (key, value) in tx["set"].as_object().into_iter().flatten() {
        let (key, value) = (hex::decode(key).unwrap(), bytes(value));
        match key.strip_prefix(theta_ledger::state::keys::ACCOUNT) {
            Some(_) => {
                let account = theta_ledger::state::Account::from_rlp(&value, value.len()).unwrap();
                // Slots first: the root that the recording names is made from them.
                for (slot, value) in
                    tx["storage"][hex::encode(account.address)].as_object().into_iter().flatten()
                {
                    let slot = Hash::from_slice(&hex::decode(slot).unwrap());
                    let word = match value {
                        Value::Null => theta_core::hash::U256::ZERO,
                        value => theta_core::hash::U256::from_rlp(&bytes(value), 64).unwrap(),
                    };
                    view.set_slot(account.address, slot, word).unwrap();
                }
                view.store(account);
            }
            None => view.set_record(key, Some(value)),
        }
    }
    for key in tx["deleted"].as_array().into_iter().flatten() {
        view.set_record(bytes(key), None);
    }
    assert_eq!(view.root().unwrap(), hash(&tx["root"]), "recorded effects");
}

#[test]
fn every_native_transaction_of_the_recording() {
    let report = replay("diff_ledger_small.jsonl", None);
    assert_eq!(report.transactions, 661);
    assert!(report.failures.is_empty(), "{:#?}", report.failures);
}
