//! Traces: their forms, their bounds, and that they change nothing.

use std::sync::Arc;

use revm::bytecode::opcode as op;
use serde_json::{Value, json};
use theta_core::{
    hash::{Address, U256},
    spec::RuleSet,
};
use theta_evm::{
    Evm,
    trace::{Trace, TraceError, TraceLimits, Traced},
};
use theta_ledger::{
    replay::replay,
    state::{StateError, StateView},
    vm::{ContractVm, VmCall, VmEnv, VmOutcome},
};

use super::{
    fixture,
    world::{CONTRACT, Code, USER, World, both, to, wei},
};

const ALL: [Trace; 5] = [
    Trace::Calls { logs: true },
    Trace::Prestate { diff: false },
    Trace::Prestate { diff: true },
    Trace::Steps { memory: true, return_data: true },
    Trace::Steps { memory: false, return_data: false },
];
const INNER: Address = Address::repeat_byte(0xdd);

/// Runs each call with every trace, and holds the results together.
struct Tracing;

impl ContractVm for Tracing {
    fn execute(&self, env: &VmEnv<'_>, call: &VmCall, view: &mut StateView) -> Result<VmOutcome, StateError> {
        let traced = ALL.map(|what| {
            let mut view = view.clone();
            // A loop of instructions without end is not told whole.
            let limits = TraceLimits { entries: 50_000, ..TraceLimits::default() };
            match Evm.trace(env, call, &mut view, what, limits) {
                Ok((outcome, _)) => Some((outcome, view.root().unwrap())),
                Err(TraceError::TooLarge(_)) => None,
                Err(error) => panic!("{error}"),
            }
        });
        let outcome = Evm.execute(env, call, view)?;
        let plain = (outcome.clone(), view.clone().root().unwrap());
        for traced in traced.into_iter().flatten() {
            assert_eq!(traced, plain);
        }
        Ok(outcome)
    }
}

#[test]
fn a_trace_changes_nothing() {
    let report = replay(fixture("diff_evm_small.jsonl").as_slice(), Arc::new(Tracing), None).unwrap();
    assert_eq!((report.passed(), report.failed()), (320, 0));
}

fn traced(world: &mut World, call: &VmCall, what: Trace) -> Value {
    let (_, traced) = world.trace(call, what);
    serde_json::to_value(traced).unwrap()
}

/// CONTRACT pays INNER, which logs, writes, and reverts with a text; then 203; then makes a contract; then ends itself.
fn family(world: &mut World) {
    let reason = [&theta_core::hash::keccak("Error(string)")[..4], &{
        let mut body = [0_u8; 96];
        body[31] = 32;
        body[63] = 4;
        body[64..68].copy_from_slice(b"poor");
        body
    }]
    .concat();
    let inner = Code::default()
        .number(5)
        .log()
        .number(1)
        .number(2)
        .op(&[op::SSTORE])
        .memory(&reason)
        .number(100)
        .number(0)
        .op(&[op::REVERT]);
    world.put(INNER, wei(0, 0), &inner.0);
    let payment = [INNER.as_slice(), &U256::from(3).to_be_bytes::<32>()].concat();
    let code = Code::default()
        .call(op::CALL, INNER, 1, 0)
        .memory(&payment)
        .call(op::CALL, Address::with_last_byte(203), 0, payment.len())
        .number(0)
        .number(0)
        .number(0)
        .op(&[op::CREATE])
        .number(7)
        .number(1)
        .op(&[op::SSTORE])
        .push(USER.as_slice())
        .op(&[op::SELFDESTRUCT]);
    world.put(CONTRACT, wei(10, 20), &code.0);
}

#[test]
fn calls_are_told_as_geth_does() {
    both(|mut world| {
        family(&mut world);
        let call = VmCall { tfuel: U256::from(2), theta: U256::from(4), ..to(CONTRACT) };
        let told = traced(&mut world, &call, Trace::Calls { logs: true });
        assert_eq!(told["type"], "CALL");
        assert_eq!((&told["from"], &told["to"]), (&json!(USER), &json!(CONTRACT)));
        assert_eq!(
            (&told["value"], &told["theta"], &told["gas"]),
            (&json!("0x2"), &json!("0x4"), &json!("0x2dc6c0"))
        );
        assert!(told.get("error").is_none() && told.get("output").is_none());
        let calls = told["calls"].as_array().unwrap();
        let kinds: Vec<&str> = calls.iter().map(|call| call["type"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["CALL", "CALL", "CREATE", "SELFDESTRUCT"]);
        let reverted = &calls[0];
        assert_eq!(
            (&reverted["error"], &reverted["revertReason"]),
            (&json!("execution reverted"), &json!("poor"))
        );
        assert_eq!(reverted["logs"][0]["position"], "0x0");
        assert!(reverted["output"].as_str().unwrap().starts_with("0x08c379a0"));
        let paid = &calls[1];
        assert_eq!((&paid["to"], &paid["gasUsed"]), (&json!(Address::with_last_byte(203)), &json!("0x5208")));
        assert_eq!(calls[2]["to"], json!(CONTRACT.create(1)));
        assert_eq!((&calls[3]["to"], &calls[3]["value"]), (&json!(USER), &json!("0x16")));
    });
}

#[test]
fn a_delegated_call_shows_whose_code_runs_and_a_failure_shows_its_reason() {
    both(|mut world| {
        world.put(INNER, wei(0, 0), &[op::INVALID]);
        world.put(
            CONTRACT,
            wei(0, 0),
            &Code::default().call(op::DELEGATECALL, INNER, 0, 0).call(op::STATICCALL, INNER, 0, 0).0,
        );
        let told = traced(&mut world, &to(CONTRACT), Trace::Calls { logs: false });
        let calls = &told["calls"];
        assert_eq!(
            (&calls[0]["type"], &calls[0]["from"], &calls[0]["to"]),
            (&json!("DELEGATECALL"), &json!(CONTRACT), &json!(INNER))
        );
        assert_eq!(calls[0]["error"], "invalid opcode 0xfe");
        assert_eq!(calls[0]["gas"], calls[0]["gasUsed"]);
        assert!(calls[1].get("value").is_none());
    });
}

#[test]
fn states_before_and_after() {
    let mut world = World::new(RuleSet::Ethereum);
    family(&mut world);
    world.view.set_slot(CONTRACT, U256::from(1).into(), U256::from(9)).unwrap();
    let mut again = World { view: world.view.clone(), rules: world.rules.clone() };
    let before = traced(&mut world, &to(CONTRACT), Trace::Prestate { diff: false });
    let word = |byte: u8| json!(theta_core::hash::Hash::with_last_byte(byte));
    let contract = &before[json!(CONTRACT).as_str().unwrap()];
    assert_eq!(
        (&contract["balance"], &contract["theta"], &contract["nonce"]),
        (&json!("0x14"), &json!("0xa"), &json!(1))
    );
    assert_eq!(contract["storage"][word(1).as_str().unwrap()], word(9));
    assert!(contract["code"].as_str().unwrap().len() > 100);
    assert!(before.get(json!(CONTRACT.create(1)).as_str().unwrap()).is_none(), "was not there");
    let diff = traced(&mut again, &to(CONTRACT), Trace::Prestate { diff: true });
    let at = |side: &str, address: Address| diff[side][json!(address).as_str().unwrap()].clone();
    assert_eq!(at("pre", CONTRACT)["storage"], json!({ word(1).as_str().unwrap(): word(9) }));
    assert_eq!(
        at("post", CONTRACT),
        json!({ "balance": "0x0", "nonce": 2, "storage": { word(1).as_str().unwrap(): word(7) } })
    );
    assert_eq!(
        (at("pre", CONTRACT.create(1)), at("post", CONTRACT.create(1))["nonce"].clone()),
        (Value::Null, json!(1))
    );
    // What was taken back has not changed.
    assert_eq!(at("post", INNER), json!({ "theta": "0x3" }));
}

#[test]
fn instructions_are_told_as_geth_does() {
    both(|mut world| {
        let code = Code::default().number(7).number(1).op(&[op::SSTORE]).number(1).op(&[op::SLOAD, op::STOP]);
        world.put(CONTRACT, wei(0, 0), &code.0);
        let told = traced(&mut world, &to(CONTRACT), Trace::Steps { memory: true, return_data: true });
        assert_eq!((&told["failed"], &told["returnValue"]), (&json!(false), &json!("0x")));
        let logs = told["structLogs"].as_array().unwrap();
        let names: Vec<&str> = logs.iter().map(|log| log["op"].as_str().unwrap()).collect();
        assert_eq!(names, ["PUSH1", "PUSH1", "SSTORE", "PUSH1", "SLOAD", "STOP"]);
        assert_eq!(
            logs[0],
            json!({ "pc": 0, "op": "PUSH1", "gas": 2_979_000, "gasCost": 3, "depth": 1, "stack": [] })
        );
        let store = &logs[2];
        assert_eq!((&store["stack"], &store["pc"]), (&json!(["0x7", "0x1"]), &json!(4)));
        assert_eq!(store["gasCost"], if world.is_ethereum() { 22_100 } else { 20_000 });
        let (one, seven) = (format!("{:064x}", 1), format!("{:064x}", 7));
        assert_eq!(store["storage"], json!({ one: seven }));
        assert_eq!(logs[4]["gasCost"], if world.is_ethereum() { 100 } else { 200 });
        assert_eq!(logs[5]["stack"], json!(["0x7"]));
        let used: u64 = logs.iter().map(|log| log["gasCost"].as_u64().unwrap()).sum();
        assert_eq!(told["gas"], 21_000 + used);
    });
}

#[test]
fn a_failed_instruction_is_the_last_and_says_why() {
    both(|mut world| {
        world.put(CONTRACT, wei(0, 0), &[op::PUSH1, 1, op::ADD]);
        let told = traced(&mut world, &to(CONTRACT), Trace::Steps { memory: false, return_data: false });
        let last = told["structLogs"].as_array().unwrap().last().unwrap();
        assert_eq!((&last["op"], &last["error"]), (&json!("ADD"), &json!("stack underflow (1 <=> 2)")));
    });
}

#[test]
fn a_trace_beyond_its_limits_is_an_error_and_changes_nothing() {
    both(|mut world| {
        // Writes a slot, then loops.
        let code =
            Code::default().number(1).number(1).op(&[op::SSTORE, op::JUMPDEST]).number(5).op(&[op::JUMP]);
        world.put(CONTRACT, wei(0, 0), &code.0);
        let root = world.view.clone().root().unwrap();
        let rules = world.rules.clone();
        let env = VmEnv { rules: &rules, ..world.env() };
        let what = Trace::Steps { memory: false, return_data: false };
        for limits in
            [TraceLimits { entries: 100, bytes: 1 << 20 }, TraceLimits { entries: 1 << 20, bytes: 10_000 }]
        {
            let result = Evm.trace(&env, &to(CONTRACT), &mut world.view, what, limits);
            assert!(matches!(result, Err(TraceError::TooLarge(found)) if found == limits));
            assert_eq!(world.view.clone().root().unwrap(), root);
        }
        let calls = Evm.trace(
            &env,
            &to(CONTRACT),
            &mut world.view,
            Trace::Calls { logs: true },
            TraceLimits::default(),
        );
        assert!(
            matches!(calls, Ok((_, Traced::Calls(frame))) if frame.error.as_deref() == Some("out of gas"))
        );
    });
}
