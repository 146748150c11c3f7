//! Calls and creations: who may, what moves, what a failure takes back.
//!
//! Frames stand in a list, not on the thread's stack, so no program can exhaust it. A frame's changes are undone by one
//! revert of the view to the place where the frame began; what the interpreter asks for meanwhile goes to the [`Machine`].

use std::ops::Range;

use revm::{
    bytecode::Bytecode,
    interpreter::{
        CallInput, CallInputs, CallScheme, CallValue, CreateInputs, CreateScheme, FrameInput, InputsImpl,
        InstructionResult, InstructionTable, Interpreter, InterpreterAction, SharedMemory,
        instructions::instruction_table,
        interpreter::{EthInterpreter, ExtBytecode},
        interpreter_types::{Jumps as _, LegacyBytecode as _, MemoryTr as _, ReturnData as _},
    },
    primitives::Bytes,
};
use theta_core::{
    amount::Coins,
    hash::{Address, EMPTY_CODE_HASH, Hash, U256},
};
use theta_ledger::state::{Account, Checkpoint, StateError};

use crate::{
    halt::Halt,
    machine::Machine,
    opcodes::{self, GAS, OPS},
    precompiles,
    trace::Recorder,
};

/// Frames that may run at once, but for the outermost.
const DEPTH_LIMIT: usize = 1024;
const CODE_BYTE_GAS: u64 = 200;

/// How a frame ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) result: Result<(), Halt>,
    /// What it returned or reverted with; a creation's code, also where it was refused.
    pub(crate) output: Bytes,
    pub(crate) gas_left: u64,
    /// The contract it made or tried to make.
    pub(crate) created: Option<Address>,
    /// Gas to be given back at the transaction's end; none by Theta's rules.
    pub(crate) refund: i64,
}

impl Ended {
    const fn refused(halt: Halt, gas_left: u64) -> Self {
        Self { result: Err(halt), output: Bytes::new(), gas_left, created: None, refund: 0 }
    }

    const fn done(output: Bytes, gas_left: u64) -> Self {
        Self { result: Ok(()), output, gas_left, created: None, refund: 0 }
    }
}

struct Frame {
    interpreter: Interpreter,
    /// Where its changes begin.
    start: Start,
    /// The contract that it makes.
    creates: Option<Address>,
    /// Where the output of the call it waits for goes.
    output: Range<usize>,
}

/// Where the changes of a frame begin.
#[derive(Clone, Copy)]
struct Start {
    state: Checkpoint,
    session: usize,
    logs: usize,
    balance_changes: usize,
}

/// What came of a call or creation at first.
enum Entered {
    Running(Box<Frame>),
    Ended(Ended),
}

/// The outermost frame of a transaction.
pub(crate) fn run<'a>(machine: &mut Machine<'a>, gas: u64) -> Result<Ended, StateError> {
    let call = machine.call;
    let data = Bytes::copy_from_slice(&call.data);
    let first = match call.to {
        None => FrameInput::Create(Box::new(CreateInputs::new(
            call.from,
            CreateScheme::Create,
            call.tfuel,
            data,
            gas,
            0,
        ))),
        Some(to) => FrameInput::Call(Box::new(CallInputs {
            input: CallInput::Bytes(data),
            return_memory_offset: 0..0,
            gas_limit: gas,
            reservoir: 0,
            bytecode_address: to,
            known_bytecode: (Hash::ZERO, machine.code_behind(to)?),
            target_address: to,
            caller: call.from,
            value: CallValue::Transfer(call.tfuel),
            scheme: CallScheme::Call,
            is_static: false,
            charged_new_account_state_gas: false,
        })),
    };
    let mut entered = machine.enter(first, call.theta, None, 0)?;
    let table: &InstructionTable<EthInterpreter, Machine<'a>> = if machine.ethereum {
        const { &instruction_table::<EthInterpreter, Machine<'a>>() }
    } else {
        const { &opcodes::instructions::<'a>() }
    };
    let mut waiting: Vec<Box<Frame>> = Vec::new();
    loop {
        let mut frame = match entered {
            Entered::Running(frame) => frame,
            Entered::Ended(ended) => {
                machine.tell(|trace| trace.exit(&ended));
                match waiting.pop() {
                    Some(mut frame) => {
                        frame.resume(ended);
                        frame
                    }
                    None => return Ok(ended),
                }
            }
        };
        let depth = waiting.len() + 1;
        entered = match machine.step(&mut frame.interpreter, table)? {
            Stopped::At(input) => {
                frame.output = match &input {
                    FrameInput::Call(inputs) => inputs.return_memory_offset.clone(),
                    _ => 0..0,
                };
                let entered = machine.enter(input, U256::ZERO, Some(&mut frame), depth)?;
                waiting.push(frame);
                entered
            }
            Stopped::Done(ended) => Entered::Ended(machine.leave(&frame, ended)?),
        };
    }
}

/// Why the interpreter stopped.
enum Stopped {
    At(FrameInput),
    Done(Ended),
}

impl Frame {
    /// Goes on behind the instruction that called.
    fn resume(&mut self, ended: Ended) {
        let interpreter = &mut self.interpreter;
        interpreter.memory.free_child_context();
        interpreter.gas.erase_cost(ended.gas_left);
        interpreter.gas.record_refund(ended.refund);
        let reverted = ended.result == Err(Halt::Reverted);
        let pushed = match (&ended.result, ended.created) {
            (Err(_), _) => U256::ZERO,
            (Ok(()), None) => U256::ONE,
            (Ok(()), Some(address)) => address.into_word().into(),
        };
        // The instruction took more words than this gives back.
        let _ = interpreter.stack.push(pushed);
        let output = if reverted || (ended.result.is_ok() && ended.created.is_none()) {
            ended.output
        } else {
            Bytes::new()
        };
        let length = self.output.len().min(output.len());
        if length > 0 {
            interpreter.memory.set(self.output.start, &output[..length]);
        }
        interpreter.return_data.set_buffer(output);
    }

    fn child_memory(parent: Option<&mut Self>) -> SharedMemory {
        match parent {
            Some(parent) => parent.interpreter.memory.new_child_context(),
            None => SharedMemory::new(),
        }
    }
}

impl<'a> Machine<'a> {
    /// Runs a frame until it ends or calls.
    fn step(
        &mut self,
        interpreter: &mut Interpreter,
        table: &InstructionTable<EthInterpreter, Machine<'a>>,
    ) -> Result<Stopped, StateError> {
        let gas = if self.ethereum { opcodes::ethereum_gas(self.spec) } else { &GAS };
        let stopped = if self.ethereum && self.recorder.is_none() {
            loop {
                if let Err(stopped) = interpreter.step(table, gas, self) {
                    break stopped;
                }
            }
        } else {
            loop {
                if self.recorder.as_ref().is_some_and(Recorder::is_full) {
                    return Ok(Stopped::Done(Ended::refused(Halt::OutOfGas, 0)));
                }
                self.tell(|trace| trace.before(interpreter));
                let byte = interpreter.bytecode.opcode();
                if !self.ethereum
                    && let Some(halt) = OPS[usize::from(byte)].refuse(byte, &interpreter.stack)
                {
                    self.tell(|trace| trace.after(interpreter, Some(&halt)));
                    return Ok(Stopped::Done(Ended::refused(halt, 0)));
                }
                let result = interpreter.step(table, gas, self);
                self.tell(|trace| trace.after(interpreter, None));
                if let Err(stopped) = result {
                    break stopped;
                }
            }
        };
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        let (gas_left, refund) = (interpreter.gas.remaining(), interpreter.gas.refunded());
        Ok(match stopped {
            InstructionResult::Stop | InstructionResult::SelfDestruct => {
                Stopped::Done(Ended { refund, ..Ended::done(Bytes::new(), gas_left) })
            }
            InstructionResult::Return | InstructionResult::Revert | InstructionResult::Suspend => {
                match interpreter.take_next_action() {
                    InterpreterAction::NewFrame(input) => Stopped::At(input),
                    InterpreterAction::Return(returned) => {
                        let reverted = stopped == InstructionResult::Revert;
                        let result = if reverted { Err(Halt::Reverted) } else { Ok(()) };
                        Stopped::Done(Ended { result, refund, ..Ended::done(returned.output, gas_left) })
                    }
                }
            }
            other => {
                let halt = self.halt.take().unwrap_or_else(|| halt(other, interpreter));
                self.tell(|trace| trace.after(interpreter, Some(&halt)));
                Stopped::Done(Ended::refused(halt, 0))
            }
        })
    }

    fn start(&self) -> Start {
        Start {
            state: self.view.checkpoint(),
            session: self.session.checkpoint(),
            logs: self.logs.len(),
            balance_changes: self.balance_changes.len(),
        }
    }

    /// Takes a frame's changes back. By Theta's rules logs and records of moves stay.
    fn take_back(&mut self, start: Start) {
        self.view.revert(start.state);
        if self.ethereum {
            self.session.revert(start.session);
            self.logs.truncate(start.logs);
            self.balance_changes.truncate(start.balance_changes);
        }
    }

    /// Begins a call or creation; the trace hears of it.
    fn enter(
        &mut self,
        input: FrameInput,
        theta: U256,
        parent: Option<&mut Frame>,
        depth: usize,
    ) -> Result<Entered, StateError> {
        match input {
            FrameInput::Call(inputs) => {
                if self.recorder.is_some() {
                    let (bytes, value) = (bytes_of(&inputs.input, parent.as_deref()), inputs.value.get());
                    let delegated = inputs.scheme == CallScheme::DelegateCall;
                    let from = if delegated { inputs.target_address } else { inputs.caller };
                    let (scheme, to, gas) = (inputs.scheme, inputs.bytecode_address, inputs.gas_limit);
                    self.tell(|trace| trace.call(scheme, from, to, value, gas, bytes));
                }
                self.call(*inputs, theta, parent, depth)
            }
            FrameInput::Create(inputs) => {
                self.tell(|trace| {
                    let (value, gas, code) = (inputs.value(), inputs.gas_limit(), inputs.init_code().clone());
                    trace.create(inputs.scheme(), inputs.caller(), value, gas, code);
                });
                self.create(&inputs, theta, parent, depth)
            }
            FrameInput::Empty => Ok(Entered::Ended(Ended::refused(Halt::OutOfGas, 0))),
        }
    }

    fn call(
        &mut self,
        mut inputs: CallInputs,
        theta: U256,
        mut parent: Option<&mut Frame>,
        depth: usize,
    ) -> Result<Entered, StateError> {
        if inputs.input.is_empty() {
            // The interpreter's range of no bytes lies outside the memory.
            inputs.input = CallInput::default();
        }
        let refused = |halt| Ok(Entered::Ended(Ended::refused(halt, inputs.gas_limit)));
        if depth > DEPTH_LIMIT {
            return refused(Halt::Depth);
        }
        let value = inputs.value.transfer().unwrap_or_default();
        if let Err(halt) = self.affords(inputs.caller, value, theta)? {
            return refused(halt);
        }
        let start = self.start();
        let reserved = precompiles::at(inputs.bytecode_address, &self.env.rules.evm, self.spec);
        if inputs.scheme == CallScheme::Call {
            let target = inputs.target_address;
            if !self.ethereum && self.view.account(target)?.is_none() {
                if reserved.is_none() && value.is_zero() {
                    // Nothing is there and nothing is made, not even for THETA.
                    return Ok(Entered::Ended(Ended::done(Bytes::new(), inputs.gas_limit)));
                }
                self.view.store(Account::new(target, 0));
            }
            self.transfer(inputs.caller, target, value, theta)?;
        }
        if let Some(reserved) = reserved {
            let input = bytes_of(&inputs.input, parent.as_deref());
            let answer = if self.ethereum && inputs.is_static && reserved.changes_state() {
                Err(Halt::WriteProtection)
            } else {
                // By Theta's rules DELEGATECALL spends what the caller of the calling contract has.
                let spender = if self.ethereum && inputs.scheme == CallScheme::DelegateCall {
                    inputs.target_address
                } else {
                    inputs.caller
                };
                reserved.run(self, spender, &input, inputs.gas_limit)?
            };
            return Ok(Entered::Ended(match answer {
                Ok((output, used)) => Ended::done(output.into(), inputs.gas_limit.saturating_sub(used)),
                Err(halt) => {
                    self.take_back(start);
                    Ended::refused(halt, 0)
                }
            }));
        }
        let code = inputs.known_bytecode.1;
        if code.is_empty() {
            return Ok(Entered::Ended(Ended::done(Bytes::new(), inputs.gas_limit)));
        }
        let memory = Frame::child_memory(parent.take());
        let input = InputsImpl {
            target_address: inputs.target_address,
            bytecode_address: Some(inputs.bytecode_address),
            caller_address: inputs.caller,
            call_value: inputs.value.get(),
            input: inputs.input,
            depth,
        };
        Ok(self.running(memory, code, input, inputs.is_static, inputs.gas_limit, start, None))
    }

    fn create(
        &mut self,
        inputs: &CreateInputs,
        theta: U256,
        parent: Option<&mut Frame>,
        depth: usize,
    ) -> Result<Entered, StateError> {
        let (creator, value, gas) = (inputs.caller(), inputs.value(), inputs.gas_limit());
        let refused = |halt, gas_left| Ok(Entered::Ended(Ended::refused(halt, gas_left)));
        if depth > DEPTH_LIMIT {
            return refused(Halt::Depth, gas);
        }
        if let Err(halt) = self.affords(creator, value, theta)? {
            return refused(halt, gas);
        }
        // Raised before the collision check, and not undone by a failure.
        let mut account = self.account_or_new(creator)?;
        let address = inputs.created_address(account.sequence);
        if self.ethereum {
            if account.sequence == u64::MAX {
                return refused(Halt::Sequence, gas);
            }
            // Stays warm where the creation fails.
            self.session.warm(address);
        }
        account.sequence = account.sequence.wrapping_add(1);
        self.view.store(account);
        self.tell(|trace| trace.makes(address));
        let found = self.view.account(address)?;
        let collides = found.is_some_and(|account| {
            account.sequence != 0 || (account.code_hash != EMPTY_CODE_HASH && account.code_hash != Hash::ZERO)
        });
        if collides {
            return refused(Halt::Collision, 0);
        }
        let found = found.map_or(Coins::ZERO, |account| account.balance);
        let start = self.start();
        let mut contract = Account::new(address, 0);
        if self.ethereum {
            // EIP-161; by Theta's rules it begins with 0.
            contract.sequence = 1;
            self.session.create(address);
        }
        if self.env.rules.evm.theta_values {
            contract.balance = found;
        }
        self.view.reset(contract);
        self.transfer(creator, address, value, theta)?;
        let input = InputsImpl {
            target_address: address,
            bytecode_address: Some(address),
            caller_address: creator,
            call_value: value,
            input: CallInput::default(),
            depth,
        };
        let code = Bytecode::new_legacy(inputs.init_code().clone());
        let memory = Frame::child_memory(parent);
        Ok(self.running(memory, code, input, false, gas, start, Some(address)))
    }

    /// Ends a frame: a creation stores its code, a failure takes everything back.
    fn leave(&mut self, frame: &Frame, mut ended: Ended) -> Result<Ended, StateError> {
        ended.created = frame.creates;
        if let (Some(address), Ok(())) = (frame.creates, &ended.result) {
            let cost = CODE_BYTE_GAS.saturating_mul(ended.output.len() as u64);
            if ended.output.len() > self.env.rules.evm.code_limit {
                ended.result = Err(Halt::CodeSize);
            } else if self.ethereum && ended.output.first() == Some(&0xef) {
                ended.result = Err(Halt::CodeStart);
            } else if ended.gas_left < cost {
                ended.result = Err(Halt::CodeStoreOutOfGas);
            } else {
                ended.gas_left -= cost;
                let mut contract = self.account_or_new(address)?;
                contract.code_hash = self.view.store_code(ended.output.to_vec());
                self.view.store(contract);
            }
        }
        if let Err(halt) = &ended.result {
            self.take_back(frame.start);
            ended.refund = 0;
            if *halt != Halt::Reverted {
                ended.gas_left = 0;
            }
        }
        Ok(ended)
    }

    fn affords(&mut self, payer: Address, value: U256, theta: U256) -> Result<Result<(), Halt>, StateError> {
        let balance = self.balance(payer)?;
        Ok(if balance.tfuel.get() < value {
            Err(Halt::InsufficientTfuel)
        } else if self.env.rules.evm.theta_values && balance.theta.get() < theta {
            Err(Halt::InsufficientTheta)
        } else {
            Ok(())
        })
    }

    fn running(
        &self,
        memory: SharedMemory,
        code: Bytecode,
        input: InputsImpl,
        is_static: bool,
        gas: u64,
        start: Start,
        creates: Option<Address>,
    ) -> Entered {
        let interpreter = Interpreter::new(memory, ExtBytecode::new(code), input, is_static, self.spec, gas);
        Entered::Running(Box::new(Frame { interpreter, start, creates, output: 0..0 }))
    }

    fn transfer(&mut self, from: Address, to: Address, value: U256, theta: U256) -> Result<(), StateError> {
        self.move_tfuel(from, to, value)?;
        if self.env.rules.evm.theta_values {
            self.move_theta(from, to, theta)?;
        }
        Ok(())
    }
}

/// The input of a call, which may lie in the memory of the frame that calls.
fn bytes_of(input: &CallInput, parent: Option<&Frame>) -> Bytes {
    match (input, parent) {
        (CallInput::Bytes(bytes), _) => bytes.clone(),
        // The interpreter's range of no bytes lies outside the memory.
        (CallInput::SharedBuffer(range), Some(parent)) if !range.is_empty() => {
            Bytes::copy_from_slice(&parent.interpreter.memory.global_slice(range.clone()))
        }
        (CallInput::SharedBuffer(_), _) => Bytes::new(),
    }
}

/// The interpreter's own reasons. What no instruction can meet counts as gas that ran out.
fn halt(result: InstructionResult, interpreter: &Interpreter) -> Halt {
    // The instruction counter stands behind the instruction.
    let byte = || {
        let at = interpreter.bytecode.pc().saturating_sub(1);
        interpreter.bytecode.bytecode_slice().get(at).copied().unwrap_or_default()
    };
    match result {
        InstructionResult::StateChangeDuringStaticCall | InstructionResult::CallNotAllowedInsideStatic => {
            Halt::WriteProtection
        }
        InstructionResult::OutOfOffset => Halt::ReturnData,
        InstructionResult::OpcodeNotFound
        | InstructionResult::InvalidFEOpcode
        | InstructionResult::NotActivated => Halt::InvalidOpcode(byte()),
        InstructionResult::StackUnderflow => {
            Halt::StackUnderflow { have: interpreter.stack.len(), need: opcodes::takes(byte()) }
        }
        InstructionResult::StackOverflow => Halt::StackLimit(interpreter.stack.len()),
        InstructionResult::InvalidJump => Halt::InvalidJump,
        InstructionResult::CreateInitCodeSizeLimit => Halt::InitCodeSize,
        _ => Halt::OutOfGas,
    }
}
