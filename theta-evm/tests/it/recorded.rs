//! Whole transactions recorded from the Go reference: verdict, receipt, balance changes and state root.

use std::{collections::BTreeMap, io::BufRead, sync::Arc};

use serde_json::Value;
use theta_core::{
    block::Header,
    context::BlockContext,
    hash::{Hash, keccak},
    spec::{ChainSpec, Fork},
    stake::ValidatorSet,
};
use theta_evm::Evm;
use theta_ledger::{
    state::StateView,
    tx::{RawTx, Scope, Signatures, TxError},
};

use super::{
    bytes, fixture, hash,
    replay::{Nodes, replay, same_outcome},
    text,
};

/// The file's entries as the ledger's harness has them: pairs there, an object here.
fn pairs(value: &Value) -> BTreeMap<String, Value> {
    let pairs = value.as_array().into_iter().flatten();
    pairs.map(|pair| (text(&pair[0]).to_owned(), pair[1].clone())).collect()
}

/// What differs in a sequence, by transaction.
fn sequence(line: &Value, differences: &mut Vec<String>) -> usize {
    let nodes = Arc::new(Nodes::default());
    for slots in line["pre"]["storage"].as_object().into_iter().flatten().map(|(_, slots)| slots) {
        nodes.add(pairs(slots).iter());
    }
    let root = nodes.add(pairs(&line["pre"]["kv"]).iter());
    assert_eq!(root, hash(&line["pre"]["root"]));
    let spec = ChainSpec::new(text(&line["chain_id"]), Fork::MAINNET);
    let mut view = Some(StateView::open(root, 0, nodes).unwrap());
    let mut count = 0;
    for block in line["blocks"].as_array().unwrap() {
        let height = block["height"].as_u64().unwrap();
        let parent = Header {
            height: height - 1,
            timestamp: block["parent_timestamp"].as_u64().unwrap().into(),
            ..Header::zero()
        };
        let context = BlockContext {
            parent_hash: Hash::ZERO,
            parent: Arc::new(parent),
            epoch: 0,
            timestamp: Default::default(),
            proposer: Default::default(),
            validators: Arc::new(ValidatorSet::new([])),
            guardian_votes: None,
            elite_votes: None,
            voted_state: None,
            freeze_stakes: false,
        };
        let signatures = Signatures::default();
        let scope = Scope {
            spec: &spec,
            rules: spec.rules(height),
            block: &context,
            vm: &Evm,
            signatures: &signatures,
        };
        let mut at = view.take().unwrap().at_height(height - 1);
        for tx in block["txs"].as_array().unwrap() {
            count += 1;
            if let Err(difference) = one(&scope, &mut at, tx) {
                differences.push(format!("{} {}: {difference}", text(&tx["hash"]), tx["f"]));
                // What follows runs on another state.
                return count;
            }
        }
        view = Some(at);
    }
    count
}

fn one(scope: &Scope<'_>, view: &mut StateView, tx: &Value) -> Result<(), String> {
    let before = view.checkpoint();
    let raw = RawTx::decode(bytes(&tx["raw"])).map_err(TxError::from);
    let got = raw.and_then(|raw| {
        raw.transaction.check(scope, view)?;
        raw.transaction.apply(scope, view)
    });
    let recorded = tx["code"].as_u64().unwrap_or(0);
    let code = got.as_ref().map_or_else(TxError::code, |_| 0);
    if u64::from(code) != recorded {
        return Err(format!("code {code} ({:?}), recorded {recorded} {}", got.err(), tx["msg"]));
    }
    match got {
        Err(_) => view.revert(before),
        Ok(outcome) => {
            let outcome = outcome.ok_or("no outcome")?;
            let mut changes = tx["bal"].clone();
            for change in changes.as_array_mut().into_iter().flatten() {
                change[2] = (change[2] == 1).into();
            }
            let mut recorded = serde_json::json!({
                "gas_used": tx["gas"], "err": tx["err"], "ret": tx["ret"], "contract": tx["addr"],
                "logs": tx["logs"], "balance_changes": changes,
            });
            if tx["ret"].is_object() {
                // Long output is recorded by its hash.
                let digest = serde_json::json!({
                    "len": outcome.output.len(), "keccak": hex::encode(keccak(&outcome.output)),
                });
                if digest != tx["ret"] {
                    return Err(format!("output {digest}, recorded {}", tx["ret"]));
                }
                recorded["ret"] = hex::encode(&outcome.output).into();
            }
            same_outcome(&outcome, &recorded)?;
        }
    }
    let root = view.root().unwrap();
    if root == hash(&tx["root"]) { Ok(()) } else { Err(format!("state root {root}")) }
}

fn all(lines: &[u8]) -> usize {
    let mut differences = Vec::new();
    let mut count = 0;
    for line in lines.lines().skip(1) {
        count += sequence(&serde_json::from_str(&line.unwrap()).unwrap(), &mut differences);
    }
    assert!(
        differences.is_empty(),
        "{} of {count} sequences' transactions differ: {:#?}",
        differences.len(),
        &differences[..differences.len().min(12)]
    );
    count
}

#[test]
fn every_transaction_of_the_recording() {
    assert_eq!(all(&fixture("diff_evm_small.jsonl")), 320);
}

#[test]
fn every_contract_transaction_of_the_ledgers_recording() {
    let report = replay("diff_ledger_small.jsonl", Some(&Evm));
    assert!(report.failures.is_empty(), "{:#?}", report.failures);
    assert_eq!((report.transactions, report.contracts), (661, 91));
}
