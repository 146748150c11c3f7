//! The instructions: what each takes and gives, and those that differ from Petersburg's.
//!
//! The reference looks at an instruction in a fixed order: is it defined, does the stack hold what it takes and have room
//! for what it gives, does the memory it names fit 64 bits, is there gas. [`Op::refuse`] makes the first three looks before
//! the interpreter runs the instruction, so that the texts of failures come out in that order.

use revm::{
    bytecode::opcode::{self as op, OPCODE_INFO},
    interpreter::{
        GasTable, Host as _, Instruction, InstructionContext, InstructionExecResult, InstructionResult,
        InstructionTable, Stack,
        instructions::{control, gas_table_spec, instruction_table, system},
        interpreter::EthInterpreter,
        interpreter_types::{LegacyBytecode as _, RuntimeFlag as _},
    },
    primitives::hardfork::SpecId,
};
use theta_core::{
    hash::{Address, Hash, U256},
    spec::{RuleSet, Rules},
};

use crate::{halt::Halt, machine::Machine};

/// The Ethereum rules that Theta's are closest to.
const BASE: SpecId = SpecId::PETERSBURG;
/// The rules of [`RuleSet::Ethereum`].
const ETHEREUM: SpecId = SpecId::OSAKA;

/// The engine's name for the rules that are closest to these.
pub(crate) const fn spec(rules: &Rules) -> SpecId {
    match rules.evm.rule_set {
        RuleSet::Theta => BASE,
        RuleSet::Ethereum => ETHEREUM,
    }
}

const STACK_LIMIT: usize = 1024;
const EXISTING_SLOT: u64 = 5_000;
const NEW_SLOT: u64 = 20_000;
const SAME_VALUE: u64 = 200;
const NEW_ACCOUNT: u64 = 25_000;

/// What the table knows of an instruction.
#[derive(Clone, Copy)]
pub(crate) struct Op {
    defined: bool,
    takes: u8,
    gives: u8,
    /// Memory that it touches: where on the stack the offset stands, and the length.
    memory: [Option<(usize, Length)>; 2],
}

#[derive(Clone, Copy)]
enum Length {
    Fixed(u64),
    /// Stands on the stack.
    At(usize),
}

/// One entry for each byte.
pub(crate) static OPS: [Op; 256] = ops();

const fn ops() -> [Op; 256] {
    let mut ops = [Op { defined: false, takes: 0, gives: 0, memory: [None, None] }; 256];
    let mut byte: u8 = 0;
    loop {
        if is_defined(byte)
            && let Some(info) = &OPCODE_INFO[byte as usize]
        {
            ops[byte as usize] =
                Op { defined: true, takes: info.inputs(), gives: info.outputs(), memory: memory(byte) };
        }
        if byte == u8::MAX {
            return ops;
        }
        byte += 1;
    }
}

/// Constantinople's instructions, CHAINID and SELFBALANCE.
const fn is_defined(byte: u8) -> bool {
    OPCODE_INFO[byte as usize].is_some()
        && !matches!(
            byte,
            op::CLZ
                | op::BASEFEE
                | op::BLOBHASH
                | op::BLOBBASEFEE
                | op::SLOTNUM
                | op::TLOAD
                | op::TSTORE
                | op::MCOPY
                | op::PUSH0
                | op::DUPN
                | op::SWAPN
                | op::EXCHANGE
                | op::INVALID
        )
}

const fn memory(byte: u8) -> [Option<(usize, Length)>; 2] {
    use Length::{At, Fixed};
    match byte {
        op::MLOAD | op::MSTORE => [Some((0, Fixed(32))), None],
        op::MSTORE8 => [Some((0, Fixed(1))), None],
        op::KECCAK256 | op::RETURN | op::REVERT | op::LOG0..=op::LOG4 => [Some((0, At(1))), None],
        op::CALLDATACOPY | op::CODECOPY | op::RETURNDATACOPY => [Some((0, At(2))), None],
        op::EXTCODECOPY => [Some((1, At(3))), None],
        op::CREATE | op::CREATE2 => [Some((1, At(2))), None],
        op::CALL | op::CALLCODE => [Some((3, At(4))), Some((5, At(6)))],
        op::DELEGATECALL | op::STATICCALL => [Some((2, At(3))), Some((4, At(5)))],
        _ => [None, None],
    }
}

impl Op {
    /// Why the instruction is not even tried.
    pub(crate) fn refuse(&self, byte: u8, stack: &Stack) -> Option<Halt> {
        if !self.defined {
            return Some(Halt::InvalidOpcode(byte));
        }
        let have = stack.len();
        if have < usize::from(self.takes) {
            return Some(Halt::StackUnderflow { have, need: self.takes });
        }
        if have + usize::from(self.gives) > STACK_LIMIT + usize::from(self.takes) {
            return Some(Halt::StackLimit(have));
        }
        let overflows = |&(offset, length): &(usize, Length)| {
            let at = |index: usize| stack.data()[have - 1 - index];
            let length = match length {
                Length::Fixed(length) => U256::from(length),
                Length::At(index) => at(index),
            };
            // Rounded up to whole words it has to fit, too.
            let end = at(offset).checked_add(length).filter(|end| *end <= U256::from(u64::MAX - 31));
            !length.is_zero() && end.is_none()
        };
        self.memory.iter().flatten().any(overflows).then_some(Halt::GasOverflow)
    }
}

/// The reference's name of a byte of code; go-ethereum's of 2018.
pub(crate) fn mnemonic(byte: u8) -> String {
    match byte {
        op::KECCAK256 => "SHA3".to_owned(),
        0xb0 => "PUSH".to_owned(),
        0xb1 => "DUP".to_owned(),
        0xb2 => "SWAP".to_owned(),
        _ => match &OPCODE_INFO[usize::from(byte)] {
            Some(info) if is_defined(byte) => info.name().to_owned(),
            _ => format!("Missing opcode {byte:#x}"),
        },
    }
}

type Context<'c, 'a> = InstructionContext<'c, Machine<'a>, EthInterpreter>;

/// What each instruction does.
pub(crate) const fn instructions<'a>() -> InstructionTable<EthInterpreter, Machine<'a>> {
    let mut table = instruction_table::<EthInterpreter, Machine<'a>>();
    table[op::BLOCKHASH as usize] = Instruction::new(blockhash);
    table[op::COINBASE as usize] = Instruction::new(coinbase);
    table[op::DIFFICULTY as usize] = Instruction::new(difficulty);
    table[op::CHAINID as usize] = Instruction::new(chain_id);
    table[op::SELFBALANCE as usize] = Instruction::new(self_balance);
    table[op::EXTCODEHASH as usize] = Instruction::new(code_hash);
    table[op::RETURNDATACOPY as usize] = Instruction::new(return_data_copy);
    table[op::SSTORE as usize] = Instruction::new(store);
    table[op::JUMP as usize] = Instruction::new(jump);
    table[op::JUMPI as usize] = Instruction::new(jump_if);
    table[op::SELFDESTRUCT as usize] = Instruction::new(self_destruct);
    table
}

/// What each instruction costs before its operands are looked at.
pub(crate) static GAS: GasTable = gas_table_spec(BASE);
/// The same by Ethereum's rules; of an older fork for its tests.
pub(crate) fn ethereum_gas(spec: SpecId) -> &'static GasTable {
    static NEWEST: GasTable = gas_table_spec(ETHEREUM);
    static CANCUN: GasTable = gas_table_spec(SpecId::CANCUN);
    if spec == ETHEREUM { &NEWEST } else { &CANCUN }
}

/// How many words of the stack the instruction takes.
pub(crate) fn takes(byte: u8) -> u8 {
    OPCODE_INFO[usize::from(byte)].as_ref().map_or(0, |info| info.inputs())
}

/// Fails for a reason that the interpreter has no word for.
fn fail(context: Context<'_, '_>, halt: Halt) -> InstructionExecResult {
    context.host.halt = Some(halt);
    Err(InstructionResult::PrecompileError)
}

fn blockhash(context: Context<'_, '_>) -> InstructionExecResult {
    fail(context, Halt::Unsupported("opBlockhash"))
}

fn coinbase(context: Context<'_, '_>) -> InstructionExecResult {
    fail(context, Halt::Unsupported("opCoinbase"))
}

fn difficulty(context: Context<'_, '_>) -> InstructionExecResult {
    fail(context, Halt::Unsupported("opDifficulty"))
}

fn chain_id(context: Context<'_, '_>) -> InstructionExecResult {
    revm::interpreter::push!(context.interpreter, context.host.chain_id());
    Ok(())
}

fn self_balance(context: Context<'_, '_>) -> InstructionExecResult {
    let balance = context.host.tfuel(context.interpreter.input.target_address);
    let balance = context.host.park(balance)?;
    revm::interpreter::push!(context.interpreter, balance);
    Ok(())
}

/// The hash as it is stored: zero only where there is no account.
fn code_hash(context: Context<'_, '_>) -> InstructionExecResult {
    revm::interpreter::popn_top!([], top, context.interpreter);
    let account = context.host.view.account(Address::from_word(Hash::from(*top)));
    let hash = account.map(|account| account.map_or(Hash::ZERO, |account| account.code_hash));
    *top = context.host.park(hash)?.into();
    Ok(())
}

/// Pays before it looks at the bounds.
fn return_data_copy(context: Context<'_, '_>) -> InstructionExecResult {
    revm::interpreter::popn!([memory_offset, offset, length], context.interpreter);
    let length = revm::interpreter::as_usize_or_fail!(context.interpreter, length);
    let params = context.host.gas_params();
    let to = system::copy_cost_and_memory_resize(context.interpreter, params, memory_offset, length)?;
    let data = &context.interpreter.return_data.0;
    let from = usize::try_from(offset).unwrap_or(usize::MAX);
    if from.checked_add(length).is_none_or(|end| end > data.len()) {
        return Err(InstructionResult::OutOfOffset);
    }
    if let Some(to) = to {
        context.interpreter.memory.set_data(to, from, length, data);
    }
    Ok(())
}

/// Priced by the value that the slot now has, whatever it was before the transaction; nothing is given back.
fn store(context: Context<'_, '_>) -> InstructionExecResult {
    revm::interpreter::require_non_staticcall!(context.interpreter);
    revm::interpreter::popn!([key, value], context.interpreter);
    let (address, key) = (context.interpreter.input.target_address, Hash::from(key));
    let mut paid = true;
    let gas = &mut context.interpreter.gas;
    // Also a value that changes nothing: the write gives the account a storage root.
    let written = context.host.view.change_slot(address, key, |current| {
        let cost = if current == value {
            SAME_VALUE
        } else if current.is_zero() {
            NEW_SLOT
        } else {
            EXISTING_SLOT
        };
        paid = gas.record_regular_cost(cost);
        paid.then_some(value)
    });
    context.host.park(written)?;
    if paid { Ok(()) } else { Err(InstructionResult::OutOfGas) }
}

fn jump(context: Context<'_, '_>) -> InstructionExecResult {
    let target = context.interpreter.stack.peek(0)?;
    jump_to(context, target, control::jump)
}

fn jump_if(context: Context<'_, '_>) -> InstructionExecResult {
    let target = context.interpreter.stack.peek(0)?;
    jump_to(context, target, control::jumpi)
}

fn jump_to<'a>(
    context: Context<'_, 'a>,
    target: U256,
    instruction: fn(Context<'_, 'a>) -> InstructionExecResult,
) -> InstructionExecResult {
    let InstructionContext { interpreter, host } = context;
    let result = instruction(InstructionContext { interpreter: &mut *interpreter, host: &mut *host });
    if result == Err(InstructionResult::InvalidJump) {
        let code = interpreter.bytecode.bytecode_slice();
        let low = usize::try_from(target.as_limbs()[0]).unwrap_or(usize::MAX);
        host.halt = Some(Halt::Jump { opcode: code.get(low).copied().unwrap_or(op::STOP), target });
    }
    result
}

/// At once, not at the transaction's end: TFUEL goes, THETA and storage stay, and the code is marked dead.
fn self_destruct(context: Context<'_, '_>) -> InstructionExecResult {
    revm::interpreter::require_non_staticcall!(context.interpreter);
    revm::interpreter::popn!([heir], context.interpreter);
    let (address, heir) = (context.interpreter.input.target_address, Address::from_word(Hash::from(heir)));
    let makes_account = context.host.is_empty(heir);
    let makes_account = context.host.park(makes_account)?;
    let balance = context.host.tfuel(address);
    if makes_account && !context.host.park(balance)?.is_zero() {
        revm::interpreter::gas!(context.interpreter, NEW_ACCOUNT);
    }
    let destroyed = context.host.destroy(address, heir);
    context.host.park(destroyed)?;
    Err(InstructionResult::SelfDestruct)
}
