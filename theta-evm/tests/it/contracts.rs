//! The contracts of development networks, under both rule sets.

use revm::bytecode::opcode as op;
use theta_core::{
    amount::Coins,
    hash::{Address, U256, keccak},
};
use theta_evm::contracts::{self, Contract};
use theta_ledger::vm::{VmCall, VmOutcome};

use super::world::{CONTRACT, Code, PROPOSER, REVERTED, USER, World, both, to, wei};

const OTHER: Address = Address::repeat_byte(0x22);

fn word(value: u64) -> Vec<u8> {
    U256::from(value).to_be_bytes::<32>().to_vec()
}

fn who(address: Address) -> Vec<u8> {
    address.into_word().to_vec()
}

fn data(signature: &str, arguments: &[Vec<u8>]) -> Vec<u8> {
    [keccak(signature)[..4].to_vec(), arguments.concat()].concat()
}

fn new(mut world: World) -> World {
    for contract in contracts::ALL {
        world.put(contract.address, Coins::ZERO, &contract.code());
    }
    world.put(OTHER, wei(1_000, 1 << 60), &[]);
    world
}

impl World {
    fn ask(&mut self, contract: Contract, signature: &str, arguments: &[Vec<u8>]) -> VmOutcome {
        self.run(&VmCall { data: data(signature, arguments), ..to(contract.address) })
    }

    fn number(&mut self, contract: Contract, signature: &str, arguments: &[Vec<u8>]) -> U256 {
        let outcome = self.ask(contract, signature, arguments);
        assert_eq!(outcome.error, "", "{signature}");
        U256::from_be_slice(&outcome.output)
    }
}

#[test]
fn theta_is_wrapped_and_unwrapped() {
    both(|world| {
        let mut world = new(world);
        let token = contracts::WRAPPED_THETA;
        let deposit = VmCall { theta: U256::from(70), data: data("deposit()", &[]), ..to(token.address) };
        let outcome = world.run(&deposit);
        assert_eq!((outcome.error.as_str(), outcome.logs.len()), ("", 2));
        assert_eq!(world.number(token, "balanceOf(address)", &[who(USER)]), U256::from(70));
        assert_eq!(world.theta(token.address), 70);
        // Nothing came along, and what is there belongs to others.
        assert_eq!(world.ask(token, "deposit()", &[]).error, REVERTED);
        assert_eq!(world.ask(token, "withdraw(uint256)", &[word(71)]).error, REVERTED);
        world.number(token, "transfer(address,uint256)", &[who(OTHER), word(30)]);
        let withdraw =
            VmCall { from: OTHER, data: data("withdraw(uint256)", &[word(20)]), ..to(token.address) };
        assert_eq!(world.run(&withdraw).error, "");
        assert_eq!((world.theta(OTHER), world.theta(token.address)), (1_020, 50));
        assert_eq!(world.number(token, "totalSupply()", &[]), U256::from(50));
    });
}

#[test]
fn a_contract_wraps_by_precompile_203() {
    both(|world| {
        let mut world = new(world);
        let token = contracts::WRAPPED_THETA;
        let payment = [token.address.as_slice(), &word(5)].concat();
        let code = Code::default()
            .memory(&payment)
            .call(op::CALL, Address::with_last_byte(203), 0, payment.len())
            .memory(&data("deposit()", &[]))
            .call(op::CALL, token.address, 0, 4);
        world.put(CONTRACT, wei(9, 0), &code.0);
        assert_eq!(world.run(&to(CONTRACT)).error, "");
        assert_eq!(world.number(token, "balanceOf(address)", &[who(CONTRACT)]), U256::from(5));
    });
}

#[test]
fn tokens_of_standard_20() {
    both(|world| {
        let mut world = new(world);
        let token = contracts::TEST_TOKEN_20;
        assert_eq!(world.ask(token, "mint(address,uint256)", &[who(USER), word(100)]).error, "");
        world.number(token, "approve(address,uint256)", &[who(OTHER), word(60)]);
        let take = |amount: u64| VmCall {
            from: OTHER,
            data: data("transferFrom(address,address,uint256)", &[who(USER), who(OTHER), word(amount)]),
            ..to(token.address)
        };
        assert_eq!(world.run(&take(50)).error, "");
        assert_eq!(world.run(&take(11)).error, REVERTED);
        assert_eq!(
            world.number(token, "allowance(address,address)", &[who(USER), who(OTHER)]),
            U256::from(10)
        );
        assert_eq!(world.number(token, "balanceOf(address)", &[who(OTHER)]), U256::from(50));
        assert_eq!(world.number(token, "decimals()", &[]), U256::from(18));
        let symbol = world.ask(token, "symbol()", &[]).output;
        assert_eq!(&symbol[64..68], b"TT20");
        let burn = world.ask(token, "transfer(address,uint256)", &[who(Address::ZERO), word(1)]);
        assert_eq!(burn.error, REVERTED);
    });
}

#[test]
fn things_of_standard_721() {
    both(|world| {
        let mut world = new(world);
        let token = contracts::TEST_TOKEN_721;
        assert_eq!(world.ask(token, "mint(address,uint256)", &[who(USER), word(7)]).error, "");
        assert_eq!(world.ask(token, "mint(address,uint256)", &[who(USER), word(7)]).error, REVERTED);
        let sent = "safeTransferFrom(address,address,uint256)";
        assert_eq!(world.ask(token, sent, &[who(USER), who(OTHER), word(7)]).error, "");
        assert_eq!(world.number(token, "ownerOf(uint256)", &[word(7)]), who_number(OTHER));
        // No longer the sender's, and a contract has to say that it takes things.
        assert_eq!(world.ask(token, sent, &[who(OTHER), who(USER), word(7)]).error, REVERTED);
        world.ask(token, "mint(address,uint256)", &[who(USER), word(8)]);
        let to_contract = [who(USER), who(contracts::MULTICALL.address), word(8)];
        assert_eq!(world.ask(token, sent, &to_contract).error, REVERTED);
        let is_721 = [[0x80, 0xac, 0x58, 0xcd].to_vec(), vec![0; 28]].concat();
        assert_eq!(world.number(token, "supportsInterface(bytes4)", &[is_721]), U256::ONE);
    });
}

fn who_number(address: Address) -> U256 {
    address.into_word().into()
}

#[test]
fn many_calls_in_one() {
    both(|world| {
        let mut world = new(world);
        let (token, multicall) = (contracts::TEST_TOKEN_20, contracts::MULTICALL);
        let mint = data("mint(address,uint256)", &[who(USER), word(3)]);
        let broken = data("transfer(address,uint256)", &[who(Address::ZERO), word(1)]);
        // aggregate3 of two calls, of which the second may fail or not.
        let call = |may_fail: bool, input: &[u8]| {
            let mut padded = input.to_vec();
            padded.resize(input.len().div_ceil(32) * 32, 0);
            [who(token.address), word(u64::from(may_fail)), word(96), word(input.len() as u64), padded]
                .concat()
        };
        let both_calls = |may_fail| {
            let (first, second) = (call(false, &mint), call(may_fail, &broken));
            let offsets = [word(64), word(64 + first.len() as u64)].concat();
            data("aggregate3((address,bool,bytes)[])", &[word(32), word(2), offsets, first, second])
        };
        let fails = VmCall { data: both_calls(false), ..to(multicall.address) };
        assert_eq!(world.run(&fails).error, REVERTED);
        let passes = VmCall { data: both_calls(true), ..to(multicall.address) };
        assert_eq!(world.run(&passes).error, "");
        assert_eq!(world.number(token, "balanceOf(address)", &[who(USER)]), U256::from(3));
        assert_eq!(world.number(multicall, "getChainId()", &[]), U256::from(366));
        world.put(PROPOSER, wei(1, 77), &[]);
        assert_eq!(world.number(multicall, "getEthBalance(address)", &[who(PROPOSER)]), U256::from(77));
    });
}
