//! Programs that try to take more than they pay for, and the texts of what stops them.

use std::sync::Arc;

use theta_core::{
    amount::{Coins, TFuelWei, ThetaWei},
    hash::{Address, Hash, U256},
    spec::{ChainSpec, Fork, Rules},
};
use theta_evm::Evm;
use theta_ledger::{
    state::{Account, StateView},
    vm::{ContractVm, VmCall, VmEnv, VmOutcome},
};

use super::{
    nodes::Nodes,
    world::{World, both, stake_input, to},
};

const USER: Address = Address::repeat_byte(0x11);
const CONTRACT: Address = Address::repeat_byte(0xcc);

fn today() -> Rules {
    ChainSpec::new("privatenet", Fork::MAINNET).rules(30_000_000).clone()
}

fn state(code: &str) -> StateView {
    let nodes = Arc::new(Nodes::default());
    let root = nodes.add(std::iter::empty());
    let mut view = StateView::open(root, 29_999_999, nodes).unwrap();
    let mut user = Account::new(USER, 0);
    user.balance = Coins { theta: ThetaWei::whole(1_000), tfuel: TFuelWei::whole(1_000) };
    view.store(user);
    let mut contract = Account::new(CONTRACT, 0);
    contract.code_hash = view.store_code(hex::decode(code).unwrap());
    view.store(contract);
    view
}

fn execute(rules: &Rules, call: &VmCall, view: &mut StateView) -> VmOutcome {
    let env = VmEnv {
        rules,
        chain_id: U256::from(366),
        height: 30_000_000,
        timestamp: U256::from(1),
        parent: Hash::ZERO,
        proposer: Address::ZERO,
    };
    Evm.execute(&env, call, view).unwrap()
}

fn to_contract(gas_limit: u64, data: Vec<u8>) -> VmCall {
    VmCall { from: USER, to: Some(CONTRACT), gas_limit, data, ..VmCall::default() }
}

/// Runs code with a given amount of gas, and checks that a failure leaves nothing behind.
fn run(code: &str, gas_limit: u64) -> VmOutcome {
    let mut view = state(code);
    let before = view.root().unwrap();
    let outcome = execute(&today(), &to_contract(gas_limit, Vec::new()), &mut view);
    if !outcome.error.is_empty() {
        assert_eq!(outcome.logs, []);
        assert_eq!(view.root().unwrap(), before);
        assert!(outcome.error == "evm: execution reverted" || outcome.gas_used == gas_limit);
    }
    outcome
}

fn create(data: Vec<u8>) -> VmOutcome {
    let call = VmCall { from: USER, gas_limit: 20_000_000, data, ..VmCall::default() };
    execute(&today(), &call, &mut state(""))
}

#[test]
fn failures_have_the_references_texts() {
    let push_1025 = "6001".repeat(1025);
    for (code, text) in [
        ("fe", "invalid opcode 0xfe"),
        ("0c", "invalid opcode 0xc"),
        ("5f", "invalid opcode 0x5f"), // PUSH0
        ("48", "invalid opcode 0x48"), // BASEFEE
        ("01", "stack underflow (0 <=> 2)"),
        ("600180548f", "stack underflow (2 <=> 16)"),
        (push_1025.as_str(), "stack limit reached 1024 (1024)"),
        ("600456", "invalid jump destination (STOP) 4"),
        ("60045620", "invalid jump destination (STOP) 4"),
        ("60035620", "invalid jump destination (SHA3) 3"),
        ("600356fe", "invalid jump destination (Missing opcode 0xfe) 3"),
        ("60016005575b", ""),
        ("6001600657", "invalid jump destination (STOP) 6"),
        // The target is printed whole and looked up by its low 64 bits.
        ("6801000000000000000056", "invalid jump destination (PUSH9) 18446744073709551616"),
        ("600160006000fd", "evm: execution reverted"),
        ("6001600160003e", "evm: return data out of bounds"),
        // Memory is looked at before gas, and gas before what the instruction does.
        ("600063ffffffff52", "out of gas"),
        ("600067ffffffffffffffe052", "gas uint64 overflow"),
        ("600067ffffffffffffffdf52", "gas uint64 overflow"),
        ("600067ffffffffffffffc052", "out of gas"),
        ("600163ffffffff60003e", "evm: return data out of bounds"),
        ("6001600063ffffffff3e", "out of gas"),
        ("6000600040", "opBlockhash not supported"),
        ("41", "opCoinbase not supported"),
        ("44", "opDifficulty not supported"),
    ] {
        let outcome = run(code, 100_000);
        assert_eq!(outcome.error, text, "{code}");
    }
}

#[test]
fn only_the_outermost_failure_is_told_and_inner_logs_outlive_their_frame() {
    // LOG0; if called by itself fail, else call itself with all gas but a 64th and go on.
    let outcome = run("60006000a0333014601a575b60006000600060006000305af1005bfe", 100_000);
    assert_eq!(outcome.error, "");
    assert_eq!(outcome.logs.len(), 2);
}

#[test]
fn recursion_ends_at_the_depth_limit_on_a_small_stack() {
    // LOG0, then call itself with all gas.
    let code = "60006000a060006000600060006000305af100";
    let mut rules = today();
    rules.tx.max_gas = u64::MAX;
    let deep = move || {
        let by_transaction = run(code, 20_000_000);
        let unlimited = execute(&rules, &to_contract(1 << 60, Vec::new()), &mut state(code));
        (by_transaction, unlimited)
    };
    let thread = std::thread::Builder::new().stack_size(256 << 10).spawn(deep).unwrap();
    let (by_transaction, unlimited) = thread.join().unwrap();
    assert!(by_transaction.logs.len() < 400);
    // Frames 0 to 1024 run; the call of the last one is refused, and its gas comes back.
    assert_eq!((unlimited.error.as_str(), unlimited.logs.len()), ("", 1025));
    assert!(unlimited.gas_used < 1 << 59);
}

#[test]
fn creations_within_creations_end() {
    // Copies itself to memory, and for ever makes contracts of it that do the same.
    let own = hex::decode("3860006000395b3860006000f050600656").unwrap();
    assert_eq!(create(own).error, "out of gas");
}

#[test]
fn a_contract_made_again_at_its_address_finds_its_storage_empty() {
    // Logs its first slot, then writes it, and returns no code: the address can be taken again.
    let making = hex::decode("60005460005260206000a0600160005500").unwrap();
    // Copies its input and makes a contract of it by CREATE2, twice with one salt.
    let mut view = state("36600060003760003660006000f55060003660006000f55000");
    let outcome = execute(&today(), &to_contract(1_000_000, making), &mut view);
    assert_eq!(outcome.error, "");
    assert_eq!(outcome.logs.len(), 2);
    assert!(outcome.logs.iter().all(|log| log.data == [0; 32]));
    assert_eq!(outcome.logs[0].address, outcome.logs[1].address);
}

#[test]
fn memory_costs_its_square() {
    // Doubles what it touches until the gas is gone.
    let outcome = run("60205b8051506002026002565b00", 20_000_000);
    assert_eq!(outcome.error, "out of gas");
}

#[test]
fn an_endless_loop_runs_out_of_gas() {
    let outcome = run("5b600056", 20_000_000);
    assert_eq!((outcome.error.as_str(), outcome.gas_used), ("out of gas", 20_000_000));
}

#[test]
fn code_is_limited_but_not_the_code_that_makes_it() {
    // Returns `size` zero bytes: PUSH3 size, PUSH1 0, RETURN. The rest is never read.
    let making = |size: u32, padding: usize| {
        let mut code = vec![0x62];
        code.extend_from_slice(&size.to_be_bytes()[1..]);
        code.extend_from_slice(&[0x60, 0, 0xf3]);
        code.resize(code.len() + padding, 0);
        create(code)
    };
    let outcome = making(49_152, 200_000);
    assert_eq!((outcome.error.as_str(), outcome.output.len()), ("", 49_152));
    let outcome = making(49_153, 0);
    assert_eq!(outcome.error, "evm: max code size exceeded");
    assert_eq!((outcome.gas_used, outcome.output.len()), (20_000_000, 49_153));
    assert_eq!(outcome.contract, USER.create(0));
    let call = VmCall {
        from: USER,
        gas_limit: 100_000,
        data: vec![0x61, 0x10, 0, 0x60, 0, 0xf3],
        ..VmCall::default()
    };
    let outcome = execute(&today(), &call, &mut state(""));
    assert_eq!(outcome.error, "contract creation code storage out of gas");
}

#[test]
fn gas_limits_are_checked_before_anything_moves() {
    let mut view = state("00");
    let before = view.root().unwrap();
    for (gas, text) in [(20_000_001, "invalid gas limit"), (20_999, "out of gas")] {
        let outcome =
            execute(&today(), &VmCall { tfuel: U256::ONE, ..to_contract(gas, Vec::new()) }, &mut view);
        assert_eq!(outcome, VmOutcome { error: text.to_owned(), ..VmOutcome::default() });
    }
    let poor = VmCall { tfuel: U256::MAX, ..to_contract(21_000, Vec::new()) };
    let outcome = execute(&today(), &poor, &mut view);
    assert_eq!((outcome.error.as_str(), outcome.gas_used), ("insufficient balance for transfer", 21_000));
    let poor = VmCall { theta: U256::MAX, ..to_contract(21_000, Vec::new()) };
    let outcome = execute(&today(), &poor, &mut view);
    assert_eq!(outcome.error, "insufficient Theta balance for transfer");
    assert_eq!(view.root().unwrap(), before);
}

#[test]
fn lengths_beyond_memory_do_not_reach_the_precompiles() {
    let modexp = |lengths: [U256; 3], gas_limit| {
        let data = lengths.iter().flat_map(|length| length.to_be_bytes::<32>()).collect();
        let to = Some(Address::with_last_byte(5));
        execute(&today(), &VmCall { to, ..to_contract(gas_limit, data) }, &mut state(""))
    };
    for lengths in [
        [U256::MAX, U256::ONE, U256::ONE],
        [U256::ONE, U256::MAX, U256::ONE],
        [U256::ONE, U256::ONE, U256::MAX],
        [U256::from(u64::MAX); 3],
    ] {
        assert_eq!(modexp(lengths, 20_000_000).error, "out of gas");
    }
    // Without base and modulus the exponent costs nothing and is not read.
    let outcome = modexp([U256::ZERO, U256::MAX, U256::ZERO], 100_000);
    assert_eq!((outcome.error.as_str(), outcome.output), ("", Vec::new()));
}

#[test]
fn texts_of_curve_errors() {
    let modulus = "30644e72e131a029b85045b68181585d97816a916871ca8d3c208c16d87cfd47";
    let zero = "00".repeat(32);
    let one = format!("{}01", "00".repeat(31));
    for (address, input, text) in [
        (6, format!("{modulus}{zero}"), "bn256: coordinate equals modulus"),
        (6, format!("{}{zero}", "ff".repeat(32)), "bn256: coordinate exceeds modulus"),
        (7, format!("{one}{one}"), "bn256: malformed point"),
        (8, one.clone(), "bad elliptic curve pairing size"),
    ] {
        let to = Some(Address::with_last_byte(address));
        let call = VmCall { to, ..to_contract(1_000_000, hex::decode(input).unwrap()) };
        assert_eq!(execute(&today(), &call, &mut state("")).error, text);
    }
}

/// Whoever the summary of a node that is staked behind, its keys and its proofs are made of, must have made them.
#[test]
fn summaries_that_do_not_parse_stake_nothing() {
    let amount = U256::from(20_000) * U256::from(10).pow(U256::from(18));
    let refused = |world: &mut World, place: u8, data: Vec<u8>, what: &str| {
        let call = VmCall { data, ..to(Address::with_last_byte(place)) };
        let outcome = world.run(&call);
        let got = (outcome.error.as_str(), outcome.gas_used);
        assert_eq!(got, ("invalid stake operation", call.gas_limit), "{place}: {what}");
    };
    both(|mut world| {
        for (place, elite) in [(204, false), (206, true)] {
            let whole = stake_input(elite, amount);
            let gap = if elite { 32 } else { 0 };
            for length in [0, 1, 20, 68, 164, 228] {
                // What is missing counts as zeros, the amount too.
                refused(&mut world, place, whole[..length].to_vec(), "cut");
            }
            // Holder, key, proof, signature.
            for at in (0..229).step_by(7) {
                let mut flipped = whole.clone();
                flipped[at] ^= 0x10;
                refused(&mut world, place, flipped, &format!("flipped at {at}"));
            }
            let mut poor = whole.clone();
            poor[229 + gap] = 0xff;
            refused(&mut world, place, poor, "more than there is");
            refused(&mut world, place, vec![0xff; 2_000], "all bits set");
        }
        for place in [205, 207] {
            for data in [Vec::new(), vec![7], vec![0xff; 1_000]] {
                refused(&mut world, place, data, "no stake");
            }
        }
    });
}
