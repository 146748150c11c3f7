//! Calls that keep a machine busy: each is the contracts it needs and one call.

use revm::bytecode::opcode as op;
use theta_benches::evm::{Contract, GAS_PRICE, MAX_GAS, account};
use theta_core::{
    hash::{Address, Hash, U256, keccak},
    sign::SecretKey,
};
use theta_evm::contracts::TEST_TOKEN_20;
use theta_ledger::vm::VmCall;

const TARGET: Address = Address::repeat_byte(0xcc);

type Program = fn() -> (Vec<Contract>, VmCall);

pub(crate) fn all() -> [(&'static str, Program); 4] {
    [
        ("evm/snailtracer", snailtracer),
        ("evm/storage_heavy", storage_heavy),
        ("evm/deploy", deploy),
        ("evm/precompiles", precompiles),
    ]
}

fn call(to: Option<Address>, data: Vec<u8>) -> VmCall {
    let gas_price = U256::from(GAS_PRICE);
    VmCall { from: account(0), to, gas_limit: MAX_GAS, gas_price, data, ..VmCall::default() }
}

fn target(code: Vec<u8>, slots: Vec<(Hash, U256)>) -> Vec<Contract> {
    vec![Contract { address: TARGET, code, slots }]
}

/// A ray tracer: arithmetic and jumps. The code is that of the bench of the same name in revm's repository.
fn snailtracer() -> (Vec<Contract>, VmCall) {
    let code = hex(include_str!("snailtracer.hex"));
    (target(code, Vec::new()), call(Some(TARGET), hex("30627b7c")))
}

/// Adds one to each of 1000 words; the first half is there before, the rest is made.
fn storage_heavy() -> (Vec<Contract>, VmCall) {
    let code = vec![
        op::PUSH0, // i
        op::JUMPDEST,
        op::DUP1,
        op::SLOAD,
        op::PUSH1,
        1,
        op::ADD,
        op::DUP2,
        op::SSTORE,
        op::PUSH1,
        1,
        op::ADD,
        op::DUP1,
        op::PUSH2,
        0x03,
        0xe8,
        op::GT,
        op::PUSH1,
        1,
        op::JUMPI,
        op::STOP,
    ];
    let slots = (0..1_000_u64).map(|index| {
        let value = if index < 500 { index + 1 } else { 0 };
        (Hash::from(U256::from(index)), U256::from(value))
    });
    (target(code, slots.collect()), call(Some(TARGET), Vec::new()))
}

/// Makes a contract: the token's code, copied and returned.
fn deploy() -> (Vec<Contract>, VmCall) {
    let code = TEST_TOKEN_20.code();
    let [high, low] = u16::try_from(code.len()).expect("code has a limit").to_be_bytes();
    let mut init =
        vec![op::PUSH2, high, low, op::DUP1, op::PUSH1, 10, op::PUSH0, op::CODECOPY, op::PUSH0, op::RETURN];
    init.extend(code);
    (Vec::new(), call(None, init))
}

/// Precompiles 1 to 9, ten times each, with inputs that all of them take.
fn precompiles() -> (Vec<Contract>, VmCall) {
    let inputs = inputs();
    let mut code = vec![op::CALLDATASIZE, op::PUSH0, op::PUSH0, op::CALLDATACOPY];
    let word = |number: usize| u16::try_from(number).expect("short").to_be_bytes();
    let data: Vec<u8> = inputs.concat();
    // Behind the input, and the jump target behind all calls.
    let (out, fails) = (word(data.len()), word(4 + 10 * inputs.len() * 20 + 1));
    for _ in 0..10 {
        let mut at = 0;
        for (index, input) in inputs.iter().enumerate() {
            let (offset, length) = (word(at), word(input.len()));
            code.extend([op::PUSH1, 64, op::PUSH2, out[0], out[1], op::PUSH2, length[0], length[1]]);
            code.extend([op::PUSH2, offset[0], offset[1], op::PUSH1, index as u8 + 1, op::GAS]);
            code.extend([op::STATICCALL, op::ISZERO, op::PUSH2, fails[0], fails[1], op::JUMPI]);
            at += input.len();
        }
    }
    code.extend([op::STOP, op::JUMPDEST, op::PUSH0, op::PUSH0, op::REVERT]);
    (target(code, Vec::new()), call(Some(TARGET), data))
}

/// In the order of the precompiles' numbers.
fn inputs() -> [Vec<u8>; 9] {
    let digest = keccak("a digest");
    let signature = SecretKey::from_bytes(&[3; 32]).expect("in range").sign_digest(&digest);
    let (rs, v) = signature.as_bytes().split_at(64);
    let recover = [digest.as_slice(), &[0; 31], &[27 + v[0]], rs].concat();
    let words = |words: &[&str]| words.iter().flat_map(|word| hex(word)).collect::<Vec<u8>>();
    let number = |number: u64| U256::from(number).to_be_bytes::<32>().to_vec();
    // Powers by 65537 of numbers of 256 bytes.
    let power =
        [number(256), number(3), number(256), vec![0x5a; 256], vec![1, 0, 1], vec![0xb7; 256]].concat();
    let generator = [number(1), number(2)].concat();
    let other = words(&[
        "198e9393920d483a7260bfb731fb5d25f1aa493335a9e71297e485b7aef312c2",
        "1800deef121f1e76426a00665e5c4479674322d4f75edadd46debd5cd992f6ed",
        "090689d0585ff075ec9e99ad690c3395bc4b313370b38ef355acdadcd122975b",
        "12c85ea5db8c6deb4aab71808dcb408fe3d1e7690c43d37b4ce6cc0166fa7daa",
    ]);
    let negative = words(&["30644e72e131a029b85045b68181585d97816a916871ca8d3c208c16d87cfd45"]);
    let pairs = [&generator[..], &other, &number(1), &negative, &other].concat();
    let blake = [&1_000_u32.to_be_bytes()[..], &[0x11; 64], &[0x22; 128], &[0; 16], &[1]].concat();
    [
        recover,
        vec![0x33; 1024],
        vec![0x44; 1024],
        vec![0x55; 1024],
        power,
        [&generator[..], &generator].concat(),
        [&generator[..], digest.as_slice()].concat(),
        pairs,
        blake,
    ]
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.trim().chars().map(|digit| digit.to_digit(16).expect("hex") as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}
