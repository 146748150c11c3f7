//! The parts of `ledger.json` that need the machine: transactions in a row, contracts among them, and two calls with the
//! whole state behind them. What an oracle built of the reference's packages answered.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;
use theta_core::{
    amount::{Coins, TFuelWei, ThetaWei},
    block::Header,
    codec::rlp::Decode,
    context::BlockContext,
    hash::{Address, Hash, U256},
    spec::{ChainSpec, Fork},
};
use theta_evm::Evm;
use theta_ledger::{
    state::{Account, StateView},
    tx::{RawTx, Scope, Signatures, TxError},
    vm::{ContractVm, VmCall, VmEnv},
};

use super::{address, bytes, fixture, hash, nodes::Nodes, text};

fn known() -> Value {
    serde_json::from_slice(&fixture("ledger.json")).unwrap()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| text(value).parse().unwrap())
}

fn state(entries: &BTreeMap<String, Value>, height: u64) -> StateView {
    let nodes = Arc::new(Nodes::default());
    let root = nodes.add(entries.iter());
    StateView::open(root, height - 1, nodes).unwrap()
}

#[test]
fn transactions_in_a_row() {
    let (mut contracts, mut all) = (0, 0);
    for case in known()["execution"].as_array().unwrap() {
        let height = number(&case["block_height"]);
        let spec = ChainSpec::new(text(&case["chain_id"]), Fork::MAINNET);
        let parent = Header {
            height: height - 1,
            timestamp: number(&case["parent_timestamp"]).into(),
            ..Header::zero()
        };
        let context = BlockContext::on(Hash::ZERO, Arc::new(parent), Arc::default());
        let signatures = Signatures::default();
        let scope = Scope {
            spec: &spec,
            rules: spec.rules(height),
            block: &context,
            vm: &Evm,
            signatures: &signatures,
        };
        let mut steps = case["steps"].as_array().unwrap().iter();
        let first = steps.next().unwrap()["set"].as_object().unwrap();
        let mut view = state(&first.clone().into_iter().collect(), height);
        for step in steps {
            let before = view.checkpoint();
            let done = RawTx::decode(bytes(&step["raw"])).map_err(TxError::from).and_then(|raw| {
                raw.transaction.check(&scope, &mut view)?;
                raw.transaction.apply(&scope, &mut view)
            });
            contracts += usize::from(matches!(done, Ok(Some(_))));
            all += 1;
            let code = done.map_or_else(|error| error.code(), |_| 0);
            assert_eq!(u64::from(code), step["code"].as_u64().unwrap_or(100_000), "{}", step["step"]);
            if code != 0 {
                view.revert(before);
            }
            assert_eq!(view.root().unwrap(), hash(&step["root"]), "{}", step["step"]);
        }
    }
    assert_eq!((contracts, all), (4, 82));
}

/// A creation and a transfer of both tokens, before their fees.
#[test]
fn calls_with_all_of_their_state() {
    let known = &known()["evm"];
    let (create, transfer) = (&known["create"], &known["transfer_to_new_account"]);
    let height = number(&create["view_height"]) + 1;
    let sender = address(&create["sender"]);
    let value = number(&create["value"]);
    // What the sender has behind the creation, and before it.
    let record = bytes(&create["entries"][format!("6c732f612f{}", hex::encode(sender))]);
    let mut account = Account::from_rlp(&record, record.len()).unwrap();
    account.sequence = number(&create["sender_sequence_before"]);
    account.balance = account.balance.checked_add(Coins::tfuel(TFuelWei::wei(value))).unwrap();
    let mut view = state(&BTreeMap::new(), height);
    view.store(account);
    let spec = ChainSpec::new("mainnet", Fork::MAINNET);
    let env = VmEnv {
        rules: spec.rules(height),
        chain_id: spec.ethereum_chain_id(height),
        height,
        timestamp: U256::ZERO,
        parent: Hash::ZERO,
        proposer: Address::ZERO,
    };
    let call = VmCall {
        from: sender,
        tfuel: U256::from(value),
        gas_limit: 100_000,
        data: bytes(&create["init_code"]),
        ..VmCall::default()
    };
    let outcome = Evm.execute(&env, &call, &mut view).unwrap();
    assert_eq!((outcome.contract, outcome.output), (address(&create["contract"]), bytes(&create["ret"])));
    assert_eq!(outcome.gas_used, number(&create["gas_used"]));
    assert_eq!(view.root().unwrap(), hash(&create["root"]));
    // One THETA and 9 wei of TFUEL go to an account that was not there.
    let call = VmCall {
        from: sender,
        to: Some(address(&transfer["to"])),
        theta: ThetaWei::whole(1).get(),
        tfuel: U256::from(9),
        gas_limit: 100_000,
        data: vec![0, 1],
        ..VmCall::default()
    };
    let outcome = Evm.execute(&env, &call, &mut view).unwrap();
    assert_eq!(outcome.gas_used, number(&transfer["gas_used"]));
    assert_eq!(view.root().unwrap(), hash(&transfer["root"]));
}
