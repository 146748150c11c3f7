//! What a failure takes back: records, coins and sequences that came about in its frame, under both rule sets.

use revm::bytecode::opcode as op;
use theta_core::{
    hash::{Address, U256},
    spec::RuleSet,
};
use theta_ledger::{
    state::account::DEAD_CODE_HASH,
    vm::{ContractVm as _, VmCall, VmEnv},
};

use super::world::{CONTRACT, Code, REVERTED, USER, World, both, to, wei};

const TARGET: Address = Address::repeat_byte(0x55);
const IDENTITY: Address = Address::with_last_byte(4);

fn reverting(code: Code) -> Code {
    code.number(0).number(0).op(&[op::REVERT])
}

#[test]
fn records_that_a_failed_frame_made() {
    both(|mut world| {
        let (by_value, by_203) = (Address::repeat_byte(0x61), Address::repeat_byte(0x62));
        let payment = [by_203.as_slice(), &U256::from(2).to_be_bytes::<32>()].concat();
        let code = Code::default()
            .call(op::CALL, by_value, 1, 0)
            .memory(&payment)
            .call(op::CALL, Address::with_last_byte(203), 0, payment.len())
            .call(op::CALL, IDENTITY, 0, 0)
            // A creation with a value and no code.
            .number(0)
            .number(0)
            .number(3)
            .op(&[op::CREATE]);
        let made = [by_value, by_203, TARGET.create(1)];
        world.put(CONTRACT, wei(0, 0), &Code::default().call(op::CALL, TARGET, 0, 0).0);
        world.put(TARGET, wei(10, 10), &reverting(code.clone()).0);
        assert_eq!(world.run(&to(CONTRACT)).error, "");
        for address in made.into_iter().chain([IDENTITY]) {
            assert_eq!(world.account(address), None, "{address}");
        }
        let target = world.account(TARGET).unwrap();
        assert_eq!((target.balance, target.sequence), (wei(10, 10), 1));
        // Without the failure all are there.
        world.put(TARGET, wei(10, 10), &code.0);
        assert_eq!(world.run(&to(CONTRACT)).error, "");
        assert!(made.into_iter().all(|address| world.account(address).is_some()));
        assert_eq!(world.account(IDENTITY).is_some(), !world.is_ethereum());
        let target = world.account(TARGET).unwrap();
        assert_eq!((target.balance, target.sequence), (wei(8, 6), 2));
    });
}

#[test]
fn a_creation_that_fails_leaves_what_its_address_held() {
    let address = USER.create(0);
    let call = VmCall { to: None, tfuel: U256::from(3), data: reverting(Code::default()).0, ..to(CONTRACT) };
    both(|mut world| {
        world.put(address, wei(7, 11), &[]);
        assert_eq!(world.run(&VmCall { theta: U256::from(2), ..call.clone() }).error, REVERTED);
        let held = world.account(address).unwrap();
        assert_eq!((held.balance, held.sequence), (wei(7, 11), 0));
        assert_eq!(world.account(USER).unwrap().sequence, 1);
    });
    // Before THETA moved with contracts a creation that succeeds destroys both coins; one that fails does not.
    let mut world = World::new(RuleSet::Theta);
    world.rules.evm.theta_values = false;
    world.put(address, wei(7, 11), &[]);
    let rules = world.rules.clone();
    let env = VmEnv { rules: &rules, ..world.env() };
    assert_eq!(theta_evm::Evm.execute(&env, &call, &mut world.view).unwrap().error, REVERTED);
    assert_eq!(world.account(address).unwrap().balance, wei(7, 11));
}

#[test]
fn only_call_makes_the_record_of_a_precompile() {
    both(|mut world| {
        for kind in [op::STATICCALL, op::DELEGATECALL, op::CALLCODE] {
            world.put(CONTRACT, wei(0, 0), &Code::default().call(kind, IDENTITY, 0, 0).0);
            assert_eq!(world.run(&to(CONTRACT)).error, "");
            assert_eq!(world.account(IDENTITY), None, "{kind:#x}");
        }
    });
}

/// By Theta's rules nothing but code and TFUEL goes with a contract that ends itself.
#[test]
fn sequence_and_storage_outlive_a_contract() {
    let mut world = World::new(RuleSet::Theta);
    let code = Code::default().number(5).number(1).op(&[op::SSTORE]).push(USER.as_slice());
    world.put(CONTRACT, wei(4, 6), &code.op(&[op::SELFDESTRUCT]).0);
    assert_eq!(world.run(&to(CONTRACT)).error, "");
    world.view.root().unwrap();
    let left = world.account(CONTRACT).unwrap();
    assert_eq!((left.sequence, left.balance, left.code_hash), (1, wei(4, 0), DEAD_CODE_HASH));
    assert_ne!(left.root, theta_core::hash::Hash::ZERO);
    let slot = theta_core::hash::Hash::with_last_byte(1);
    assert_eq!(world.view.slot(CONTRACT, slot).unwrap(), U256::from(5));
}
