//! Where Theta's two coins, stakes and records meet the machine: one test for each row of the list of traps, under the main
//! network's rules and under our own networks' where it applies. No coin is made or lost in any of them.

use revm::bytecode::opcode as op;
use theta_core::{
    amount::{Coins, ThetaWei},
    hash::{Address, EMPTY_CODE_HASH, EMPTY_ROOT, Hash, U256},
    spec::RuleSet,
};
use theta_ledger::{state::account::DEAD_CODE_HASH, vm::VmCall};

use super::world::{CONTRACT, Code, REVERTED, USER, World, both, node, stake_input, to, wei};

const TARGET: Address = Address::repeat_byte(0x55);
const TRANSFER: Address = Address::with_last_byte(203);
const GUARDIAN: Address = Address::with_last_byte(204);
const ELITE: Address = Address::with_last_byte(206);

/// Input of 203.
fn payment(recipient: Address, amount: u64) -> Vec<u8> {
    [recipient.as_slice(), &U256::from(amount).to_be_bytes::<32>()].concat()
}

/// Gas that a call with a value to the target costs.
fn gas_of_value_call(world: &mut World) -> u64 {
    world.put(CONTRACT, wei(0, 100), &Code::default().call(op::CALL, TARGET, 1, 0).0);
    let outcome = world.run(&to(CONTRACT));
    assert_eq!(outcome.error, "");
    outcome.gas_used
}

#[test]
fn zero_theta_does_not_make_an_account() {
    both(|mut world| {
        world.put(TARGET, wei(7, 0), &[]);
        let with_theta = gas_of_value_call(&mut world);
        // Its THETA goes, and its TFUEL too.
        world.put(TARGET, wei(0, 0), &[]);
        let without = gas_of_value_call(&mut world);
        assert_eq!(without - with_theta, 25_000);
    });
}

#[test]
fn a_creation_keeps_what_its_address_holds() {
    both(|mut world| {
        let address = USER.create(0);
        world.put(address, wei(7, 11), &[]);
        let call = VmCall { to: None, tfuel: U256::from(3), theta: U256::from(2), ..to(CONTRACT) };
        assert_eq!(world.run(&call).contract, address);
        let account = world.account(address).unwrap();
        assert_eq!(account.balance, wei(9, 14));
        assert_eq!(account.sequence, u64::from(world.is_ethereum()));
    });
}

#[test]
fn a_creation_before_theta_in_contracts_destroys_what_its_address_holds() {
    let mut world = World::new(RuleSet::Theta);
    world.rules.evm.theta_values = false;
    world.put(USER.create(0), wei(7, 11), &[]);
    let rules = world.rules.clone();
    let env = theta_ledger::vm::VmEnv { rules: &rules, ..world.env() };
    let call = VmCall { to: None, tfuel: U256::from(3), ..to(CONTRACT) };
    theta_ledger::vm::ContractVm::execute(&theta_evm::Evm, &env, &call, &mut world.view).unwrap();
    assert_eq!(world.account(USER.create(0)).unwrap().balance, wei(0, 3));
}

#[test]
fn a_creation_again_at_an_address_without_code_finds_no_slots() {
    both(|mut world| {
        // Logs slot 0, writes it, makes no code.
        let init = Code::default().number(0).op(&[op::SLOAD]).log().number(1).number(0).op(&[op::SSTORE]);
        let twice = |code: Code| {
            let code = code.number(0).number(init.0.len() as u64).number(0).number(0).op(&[op::CREATE2]);
            code.log()
        };
        world.put(CONTRACT, wei(0, 0), &twice(twice(Code::default().memory(&init.0)).memory(&init.0)).0);
        let outcome = world.run(&to(CONTRACT));
        assert_eq!(outcome.error, "");
        let word = |log: &theta_ledger::vm::Log| U256::from_be_slice(&log.data);
        let words: Vec<U256> = outcome.logs.iter().map(word).collect();
        if world.is_ethereum() {
            // The first left sequence 1: the second collides.
            assert_eq!((words.len(), words[0], words[2]), (3, U256::ZERO, U256::ZERO));
        } else {
            assert_eq!((words.len(), words[0], words[2]), (4, U256::ZERO, U256::ZERO));
            assert_eq!(words[1], words[3]);
        }
    });
}

#[test]
fn a_write_that_changes_nothing_leaves_a_storage_root() {
    let root = |rule_set, code: Code| {
        let mut world = World::new(rule_set);
        world.put(CONTRACT, wei(0, 0), &code.0);
        world.run(&to(CONTRACT));
        world.view.root().unwrap();
        world.account(CONTRACT).unwrap().root
    };
    let write = Code::default().number(0).number(0).op(&[op::SSTORE]);
    assert_eq!(root(RuleSet::Theta, write.clone()), EMPTY_ROOT);
    assert_eq!(root(RuleSet::Theta, Code::default().number(0).op(&[op::SLOAD])), Hash::ZERO);
    let failing = write.clone().number(0).number(0).op(&[op::REVERT]);
    assert_eq!(root(RuleSet::Theta, failing), Hash::ZERO);
    assert_eq!(root(RuleSet::Ethereum, write), Hash::ZERO);
}

#[test]
fn what_exists_is_what_was_made() {
    both(|mut world| {
        let kinds = [op::CALL, op::STATICCALL, op::DELEGATECALL, op::CALLCODE];
        for (index, kind) in kinds.into_iter().enumerate() {
            let missing = Address::repeat_byte(0x60 + index as u8);
            world.put(CONTRACT, wei(0, 9), &Code::default().call(kind, missing, 0, 0).0);
            assert_eq!(world.run(&to(CONTRACT)).error, "");
            assert_eq!(world.account(missing), None, "{kind:#x}");
        }
        // By value, and by THETA of 203.
        world.put(CONTRACT, wei(0, 9), &Code::default().call(op::CALL, TARGET, 1, 0).0);
        world.run(&to(CONTRACT));
        assert!(world.account(TARGET).is_some());
        let other = Address::repeat_byte(0x66);
        assert_eq!(world.run(&VmCall { data: payment(other, 5), ..to(TRANSFER) }).error, "");
        assert_eq!(world.theta(other), 5);
        // A call of a precompile that has no account makes one, by Theta's rules.
        let identity = Address::with_last_byte(4);
        world.put(CONTRACT, wei(0, 9), &Code::default().call(op::CALL, identity, 0, 0).0);
        world.run(&to(CONTRACT));
        assert_eq!(world.account(identity).is_some(), !world.is_ethereum());
        assert_eq!(world.account(TRANSFER).is_some(), !world.is_ethereum());
    });
}

/// A creation without code that sends away what came with it: by Theta's rules it is as empty as an account can be.
#[test]
fn what_is_emptied_again_stays() {
    both(|mut world| {
        let init = Code::default().call(op::CALL, TARGET, 3, 0);
        let call = VmCall { to: None, tfuel: U256::from(3), data: init.0, ..to(CONTRACT) };
        let outcome = world.run(&call);
        assert_eq!((outcome.error.as_str(), world.tfuel(TARGET)), ("", 3));
        let left = world.account(outcome.contract).unwrap();
        assert_eq!((left.balance, left.code_hash), (Coins::ZERO, EMPTY_CODE_HASH));
        assert_eq!(left.sequence, u64::from(world.is_ethereum()));
    });
}

#[test]
fn the_record_of_precompile_3_is_undone_like_any_other() {
    both(|mut world| {
        let ripemd = Address::with_last_byte(3);
        // The call inside succeeds, then its frame fails.
        let inner = Code::default().call(op::CALL, ripemd, 0, 0).number(0).number(0).op(&[op::REVERT]);
        world.put(TARGET, wei(0, 0), &inner.0);
        world.put(CONTRACT, wei(0, 0), &Code::default().call(op::CALL, TARGET, 0, 0).0);
        assert_eq!(world.run(&to(CONTRACT)).error, "");
        assert_eq!(world.account(ripemd), None);
    });
}

#[test]
fn a_contract_that_ends_itself() {
    both(|mut world| {
        let heir = Address::repeat_byte(0x44);
        let code = Code::default().push(heir.as_slice()).op(&[op::SELFDESTRUCT]);
        world.put(CONTRACT, wei(5, 8), &code.0);
        let outcome = world.run(&to(CONTRACT));
        let account = world.account(CONTRACT).unwrap();
        assert_eq!(world.tfuel(heir), 8);
        if world.is_ethereum() {
            // It was there before, so it stays whole; both coins go.
            assert_ne!(account.code_hash, DEAD_CODE_HASH);
            assert_eq!((account.balance, world.theta(heir)), (Coins::ZERO, 5));
        } else {
            // THETA stays, and the code is dead.
            assert_eq!((account.code_hash, account.balance), (DEAD_CODE_HASH, wei(5, 0)));
            assert_eq!(world.theta(heir), 0);
        }
        // With TFUEL for an heir that is not there: 25,000 more than without.
        let other = Address::repeat_byte(0x45);
        let code = Code::default().push(other.as_slice()).op(&[op::SELFDESTRUCT]);
        world.put(CONTRACT, wei(0, 0), &code.0);
        let without = world.run(&to(CONTRACT)).gas_used;
        assert_eq!(outcome.gas_used - without, 25_000);
        // THETA alone does not pay for one by Theta's rules: it stays.
        world.put(CONTRACT, wei(5, 0), &code.0);
        let theta = world.run(&to(CONTRACT)).gas_used - without;
        assert_eq!(theta, if world.is_ethereum() { 25_000 } else { 0 });
    });
}

#[test]
fn a_contract_that_ends_itself_for_itself() {
    both(|mut world| {
        let code = Code::default().op(&[op::ADDRESS, op::SELFDESTRUCT]);
        world.put(CONTRACT, wei(5, 8), &code.0);
        let burnt = if world.is_ethereum() { 0 } else { 8 };
        assert_eq!(world.burning(&to(CONTRACT), U256::from(burnt)).error, "");
        assert_eq!(world.account(CONTRACT).unwrap().balance, wei(5, 8 - burnt));
        // Made in the same transaction it is gone, with its TFUEL; its THETA stays at the address.
        if world.is_ethereum() {
            let made = USER.create(0);
            let call =
                VmCall { to: None, data: code.0, tfuel: U256::from(3), theta: U256::from(2), ..to(CONTRACT) };
            assert_eq!(world.burning(&call, U256::from(3)).error, "");
            let left = world.account(made).unwrap();
            assert_eq!((left.balance, left.sequence, left.code_hash), (wei(2, 0), 0, EMPTY_CODE_HASH));
        }
    });
}

#[test]
fn the_code_hash_of_accounts_without_code() {
    both(|mut world| {
        let only_theta = Address::repeat_byte(0x71);
        let empty = Address::repeat_byte(0x72);
        let missing = Address::repeat_byte(0x73);
        world.put(only_theta, wei(1, 0), &[]);
        world.put(empty, wei(0, 0), &[]);
        let mut code = Code::default();
        for address in [only_theta, empty, missing] {
            code = code.push(address.as_slice()).op(&[op::EXTCODEHASH]).log();
        }
        world.put(CONTRACT, wei(0, 0), &code.0);
        let outcome = world.run(&to(CONTRACT));
        let hashes: Vec<Hash> = outcome.logs.iter().map(|log| Hash::from_slice(&log.data)).collect();
        let of_empty = if world.is_ethereum() { Hash::ZERO } else { EMPTY_CODE_HASH };
        assert_eq!(hashes, [EMPTY_CODE_HASH, of_empty, Hash::ZERO]);
    });
}

#[test]
fn a_target_that_holds_theta_alone_is_there() {
    both(|mut world| {
        world.put(TARGET, wei(0, 1), &[]);
        let with_tfuel = gas_of_value_call(&mut world);
        world.put(TARGET, wei(1, 0), &[]);
        assert_eq!(gas_of_value_call(&mut world), with_tfuel);
        // As an heir, too.
        let ending = |world: &mut World, heir: Coins| {
            world.put(TARGET, heir, &[]);
            world.put(
                CONTRACT,
                wei(0, 9),
                &Code::default().push(TARGET.as_slice()).op(&[op::SELFDESTRUCT]).0,
            );
            world.run(&to(CONTRACT)).gas_used
        };
        assert_eq!(ending(&mut world, wei(1, 0)), ending(&mut world, wei(0, 1)));
    });
}

#[test]
fn who_spends_by_precompile_203() {
    for (kind, theta, ethereum) in [
        (op::CALL, CONTRACT, Some(CONTRACT)),
        (op::CALLCODE, CONTRACT, Some(CONTRACT)),
        (op::STATICCALL, CONTRACT, None),
        (op::DELEGATECALL, USER, Some(CONTRACT)),
    ] {
        both(|mut world| {
            let input = payment(TARGET, 3);
            let code = Code::default().memory(&input).call(kind, TRANSFER, 0, input.len()).log();
            world.put(CONTRACT, wei(10, 0), &code.0);
            let before = (world.account(USER).unwrap().balance.theta, world.theta(CONTRACT));
            let outcome = world.run(&to(CONTRACT));
            let spender = if world.is_ethereum() { ethereum } else { Some(theta) };
            assert_eq!(outcome.logs[0].data[31], u8::from(spender.is_some()), "{kind:#x}");
            let spent = |who| if spender == Some(who) { 3_u64 } else { 0 };
            let after = world.account(USER).unwrap().balance.theta;
            assert_eq!(before.0.checked_sub(after), Some(ThetaWei::wei(spent(USER))), "{kind:#x}");
            assert_eq!(before.1 - world.theta(CONTRACT), spent(CONTRACT), "{kind:#x}");
            assert_eq!(world.theta(TARGET), if spender.is_some() { 3 } else { 0 });
        });
    }
}

#[test]
fn a_value_that_goes_along_with_callcode_stays() {
    both(|mut world| {
        let input = payment(TARGET, 3);
        let code = Code::default().memory(&input).call(op::CALLCODE, TRANSFER, 4, input.len());
        world.put(CONTRACT, wei(10, 10), &code.0);
        assert_eq!(world.run(&to(CONTRACT)).error, "");
        assert_eq!(world.account(CONTRACT).unwrap().balance, wei(7, 10));
    });
}

#[test]
fn theta_goes_with_the_outermost_call_alone() {
    both(|mut world| {
        world.put(CONTRACT, wei(0, 0), &Code::default().call(op::CALL, TARGET, 0, 0).0);
        let call = VmCall { theta: U256::from(6), ..to(CONTRACT) };
        assert_eq!(world.run(&call).error, "");
        assert_eq!((world.theta(CONTRACT), world.theta(TARGET)), (6, 0));
        // More than there is moves nothing, and a failed frame gives it back.
        let poor = VmCall { theta: U256::MAX, ..to(CONTRACT) };
        assert_eq!(world.run(&poor).error, "insufficient Theta balance for transfer");
        world.put(CONTRACT, wei(0, 0), &Code::default().number(0).number(0).op(&[op::REVERT]).0);
        assert_eq!(world.run(&call).error, REVERTED);
        assert_eq!(world.theta(CONTRACT), 0);
        // Nothing is made for THETA alone, by Theta's rules.
        let missing = Address::repeat_byte(0x74);
        world.run(&VmCall { theta: U256::from(6), ..to(missing) });
        assert_eq!(world.theta(missing), if world.is_ethereum() { 6 } else { 0 });
    });
}

#[test]
fn stakes_are_undone_with_the_frame_that_made_them() {
    both(|mut world| {
        let amount = U256::from(1_000_u64) * U256::from(10).pow(U256::from(18));
        let input = stake_input(false, amount);
        let stake = Code::default().memory(&input).call(op::CALL, GUARDIAN, 0, input.len()).log();
        let coins = Coins::theta(ThetaWei::from_u256(amount));
        // TARGET stakes and fails; CONTRACT calls it and asks 202 for TARGET's stake.
        world.put(TARGET, coins, &stake.clone().number(0).number(0).op(&[op::REVERT]).0);
        let asks = Code::default()
            .call(op::CALL, TARGET, 0, 0)
            .push(TARGET.into_word().as_slice())
            .number(0)
            .op(&[op::MSTORE])
            .number(32)
            .number(0)
            .number(32)
            .number(0)
            .push(Address::with_last_byte(202).as_slice())
            .op(&[op::GAS, op::STATICCALL])
            .number(32)
            .number(0)
            .op(&[op::LOG0]);
        world.put(CONTRACT, wei(0, 0), &asks.0);
        let outcome = world.run(&to(CONTRACT));
        assert_eq!(outcome.logs.last().unwrap().data, [0; 32]);
        assert!(!world.view.guardians().unwrap().contains(node()));
        // Without the failure both are there.
        world.put(TARGET, coins, &stake.0);
        let outcome = world.run(&to(CONTRACT));
        assert_eq!(outcome.logs.last().unwrap().data, amount.to_be_bytes::<32>());
        assert_eq!(world.view.theta_stake(TARGET).unwrap().get(), amount);
        assert_eq!(world.account(TARGET).unwrap().balance, Coins::ZERO);
    });
}

#[test]
fn elite_stakes_take_tfuel() {
    both(|mut world| {
        let amount = U256::from(10_000_u64) * U256::from(10).pow(U256::from(18));
        let outcome = world.run(&VmCall { data: stake_input(true, amount), ..to(ELITE) });
        assert_eq!(outcome.error, "");
        assert_eq!(world.view.elite_total().unwrap().get(), amount);
        let withdrawn = VmCall { data: node().to_vec(), ..to(Address::with_last_byte(207)) };
        assert_eq!(world.run_leaving(&withdrawn).error, "");
    });
}

#[test]
fn logs_of_a_failed_frame() {
    both(|mut world| {
        let inner = Code::default().number(7).log().number(0).number(0).op(&[op::REVERT]);
        world.put(TARGET, wei(0, 0), &inner.0);
        world.put(CONTRACT, wei(0, 0), &Code::default().call(op::CALL, TARGET, 0, 0).number(8).log().0);
        let outcome = world.run(&to(CONTRACT));
        assert_eq!(outcome.logs.len(), if world.is_ethereum() { 1 } else { 2 });
        // None where the outermost frame fails.
        assert_eq!(world.run(&to(TARGET)).logs.len(), 0);
    });
}

#[test]
fn what_instructions_say_of_the_block() {
    let mut world = World::new(RuleSet::Ethereum);
    let mut code = Code::default();
    for byte in
        [op::COINBASE, op::DIFFICULTY, op::GASLIMIT, op::BASEFEE, op::TIMESTAMP, op::NUMBER, op::CHAINID]
    {
        code = code.op(&[byte]).log();
    }
    for back in [1, 2, 256, 257] {
        code = code.number(super::world::HEIGHT - back).op(&[op::BLOCKHASH]).log();
    }
    world.put(CONTRACT, wei(0, 0), &code.0);
    let slot = |height: u64| Hash::from(U256::from(height % 8_191));
    for back in [2, 256, 257] {
        let height = super::world::HEIGHT - back;
        world.view.set_slot(theta_ledger::history::ADDRESS, slot(height), U256::from(back)).unwrap();
    }
    let words: Vec<U256> =
        world.run(&to(CONTRACT)).logs.iter().map(|log| U256::from_be_slice(&log.data)).collect();
    let random = theta_core::hash::keccak(
        [super::world::PARENT.as_slice(), super::world::PROPOSER.as_slice()].concat(),
    );
    let expected = [
        super::world::PROPOSER.into_word().into(),
        random.into(),
        U256::from(1 << 24),
        U256::from(4_000_000_000_000_u64),
        U256::from(1_000),
        U256::from(super::world::HEIGHT),
        U256::from(366),
        super::world::PARENT.into(),
        U256::from(2),
        U256::from(256),
        U256::ZERO,
    ];
    assert_eq!(words, expected);
}

#[test]
fn gas_limit_is_the_transactions() {
    let mut world = World::new(RuleSet::Theta);
    world.put(CONTRACT, wei(0, 0), &Code::default().op(&[op::GASLIMIT]).log().0);
    assert_eq!(U256::from_be_slice(&world.run(&to(CONTRACT)).logs[0].data), U256::from(3_000_000));
}

#[test]
fn prices_of_storage_and_input() {
    both(|mut world| {
        let mut gas = |code: Code, data: Vec<u8>| {
            world.put(CONTRACT, wei(0, 0), &code.0);
            world.view.set_slot(CONTRACT, Hash::ZERO, U256::from(5)).unwrap();
            world.view.set_slot(CONTRACT, Hash::with_last_byte(1), U256::ZERO).unwrap();
            (world.run(&VmCall { data, ..to(CONTRACT) }).gas_used, world.is_ethereum())
        };
        let (base, ethereum) = gas(Code::default(), Vec::new());
        let mut store = |slot, value| {
            gas(Code::default().number(value).number(slot).op(&[op::SSTORE]), Vec::new()).0 - base - 6
        };
        let prices = [store(0, 5), store(0, 6), store(0, 0), store(1, 1)];
        // By Ethereum's, 4,800 come back for a slot that is cleared (EIP-3529).
        let expected =
            if ethereum { [2_200, 5_000, 5_000 - 4_800, 22_100] } else { [200, 5_000, 5_000, 20_000] };
        assert_eq!(prices, expected);
        let bytes = gas(Code::default(), vec![0, 1]).0 - base;
        // By Ethereum's at least 10 and 40 (EIP-7623).
        assert_eq!(bytes, if ethereum { 50 } else { 72 });
    });
}

/// Warm accounts, and what a frame wrote for the transaction's time.
#[test]
fn what_a_failed_frame_did_for_the_transaction_is_undone() {
    let mut world = World::new(RuleSet::Ethereum);
    let probe = Address::repeat_byte(0x75);
    // TARGET looks at the probe and writes; it fails if it is told so.
    let inner = |fails: bool| {
        let code =
            Code::default().push(probe.as_slice()).op(&[op::BALANCE]).number(3).number(0).op(&[op::TSTORE]);
        if fails { code.number(0).number(0).op(&[op::REVERT]) } else { code }
    };
    let outer = Code::default()
        .call(op::DELEGATECALL, TARGET, 0, 0)
        .number(0)
        .op(&[op::TLOAD])
        .log()
        .op(&[op::GAS])
        .push(probe.as_slice())
        .op(&[op::BALANCE, op::POP, op::GAS, op::SWAP1, op::SUB])
        .log();
    world.put(CONTRACT, wei(0, 0), &outer.0);
    for (fails, kept, price) in [(true, 0, 2_600), (false, 3, 100)] {
        world.put(TARGET, wei(0, 0), &inner(fails).0);
        let outcome = world.run(&to(CONTRACT));
        let word = |index: usize| U256::from_be_slice(&outcome.logs[index].data);
        // PUSH20, POP and the second GAS cost 7.
        assert_eq!((word(0), word(1)), (U256::from(kept), U256::from(price + 7)), "{fails}");
    }
}
