//! Known answers of the reference's machine, before the fee is charged.

use std::sync::Arc;

use serde_json::Value;
use theta_core::{
    amount::{Coins, TFuelWei, ThetaWei},
    hash::{Address, Hash, U256},
    spec::{ChainSpec, Fork},
};
use theta_evm::Evm;
use theta_ledger::{
    state::{Account, StateView},
    vm::{ContractVm, VmCall, VmEnv},
};

use super::{address, bytes, fixture, hash, nodes::Nodes, text};

fn number(value: &Value) -> U256 {
    text(value).parse().unwrap()
}

fn case(case: &Value) -> Result<(), String> {
    let height = case["block_height"].as_u64().unwrap();
    let nodes = Arc::new(Nodes::default());
    let mut view = StateView::open(nodes.add(std::iter::empty()), height - 1, nodes).unwrap();
    for pre in case["pre"].as_array().unwrap() {
        let mut account = Account::new(address(&pre["address"]), 0);
        account.sequence = pre["sequence"].as_u64().unwrap();
        account.balance = Coins {
            theta: ThetaWei::from_u256(number(&pre["thetawei"])),
            tfuel: TFuelWei::from_u256(number(&pre["tfuelwei"])),
        };
        let code = bytes(&pre["code"]);
        if !code.is_empty() {
            account.code_hash = view.store_code(code);
        }
        let to = account.address;
        view.store(account);
        for (key, value) in pre["storage"].as_object().into_iter().flatten() {
            view.set_slot(to, Hash::from(key.parse::<U256>().unwrap()), number(value)).unwrap();
        }
    }
    let root = view.root().unwrap();
    if root != hash(&case["pre_state_root"]) {
        return Err(format!("state before {root}"));
    }
    let spec = ChainSpec::new(text(&case["chain_id"]), Fork::MAINNET);
    let env = VmEnv {
        rules: spec.rules(height),
        chain_id: spec.ethereum_chain_id(height),
        height,
        timestamp: U256::from(case["parent_timestamp"].as_u64().unwrap()),
        parent: Hash::ZERO,
        proposer: Address::ZERO,
    };
    let tx = &case["tx"];
    let call = VmCall {
        from: address(&tx["from"]),
        to: tx["to"].as_str().map(|_| address(&tx["to"])).filter(|to| !to.is_zero()),
        tfuel: number(&tx["tfuelwei"]),
        theta: number(&tx["thetawei"]),
        gas_limit: tx["gas_limit"].as_u64().unwrap(),
        gas_price: number(&tx["gas_price"]),
        data: bytes(&tx["data"]),
        ..VmCall::default()
    };
    let outcome = Evm.execute(&env, &call, &mut view).unwrap();
    let want = &case["result"];
    // Long output is known by its beginning and length.
    let length = want["vm_return_len"].as_u64().unwrap_or(outcome.output.len() as u64);
    if length != outcome.output.len() as u64 {
        return Err(format!("{} bytes returned, known {length}", outcome.output.len()));
    }
    let shown = if want["vm_return_truncated"] == true { 32 } else { outcome.output.len() };
    let output = hex::encode(&outcome.output[..shown]);
    let got = (outcome.gas_used, outcome.error.as_str(), output, outcome.contract);
    let want = (
        want["gas_used"].as_u64().unwrap(),
        text(&want["vm_error"]),
        text(&want["vm_return"]).trim_start_matches("0x").to_owned(),
        address(&want["contract_address"]),
    );
    if got != want {
        return Err(format!("{got:?}, known {want:?}"));
    }
    let root = view.root().unwrap();
    let want = hash(&case["post_state_root_before_fee"]);
    if root == want { Ok(()) } else { Err(format!("state {root}, known {want}")) }
}

#[test]
fn every_portable_case() {
    let file = fixture("vm_cases.jsonl");
    let cases = serde_json::Deserializer::from_slice(&file).into_iter();
    let cases: Vec<Value> = cases.map(Result::unwrap).collect();
    let differing: Vec<_> = cases
        .iter()
        .filter_map(|value| case(value).err().map(|error| format!("{}: {error}", value["name"])))
        .collect();
    assert!(differing.is_empty(), "{differing:#?}");
    assert_eq!(cases.len(), 127);
}

/// Ethereum's own precompiles with the inputs of the reference's tests (`ledger.json`).
#[test]
fn precompiles() {
    let fixture: Value = serde_json::from_slice(&fixture("ledger.json")).unwrap();
    let cases = fixture["evm_precompiles"].as_array().unwrap();
    let spec = ChainSpec::new("privatenet", Fork::MAINNET);
    let rules = spec.rules(30_000_000);
    for case in cases {
        let (source, name) = (text(&case["source"]), text(&case["name"]));
        let tables = [("modexp", 5), ("Add", 6), ("ScalarMul", 7), ("Pairing", 8)];
        let (_, number) = tables.into_iter().find(|(table, _)| source.contains(table)).unwrap();
        let nodes = Arc::new(Nodes::default());
        let mut view = StateView::open(nodes.add(std::iter::empty()), 29_999_999, nodes).unwrap();
        let from = Address::repeat_byte(0x11);
        view.store(Account::new(from, 0));
        let call = VmCall {
            from,
            to: Some(Address::with_last_byte(number)),
            gas_limit: rules.tx.max_gas,
            data: bytes(&case["input"]),
            ..VmCall::default()
        };
        let env = VmEnv {
            rules,
            chain_id: U256::from(366),
            height: 30_000_000,
            timestamp: U256::from(1),
            parent: Hash::ZERO,
            proposer: Address::ZERO,
        };
        let outcome = Evm.execute(&env, &call, &mut view).unwrap();
        assert_eq!(outcome.error, "", "{source} {name}");
        assert_eq!(hex::encode(&outcome.output), text(&case["expected"]), "{source} {name}");
    }
    assert_eq!(cases.len(), 65);
}
