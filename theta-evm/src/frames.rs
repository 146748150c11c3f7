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
        interpreter::{EthInterpreter, ExtBytecode},
        interpreter_types::{Jumps as _, MemoryTr as _, ReturnData as _},
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
    opcodes::{self, BASE, GAS, OPS},
    precompiles,
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
}

impl Ended {
    const fn refused(halt: Halt, gas_left: u64) -> Self {
        Self { result: Err(halt), output: Bytes::new(), gas_left, created: None }
    }
}

struct Frame {
    interpreter: Interpreter,
    /// Where its changes begin.
    checkpoint: Checkpoint,
    /// The contract that it makes.
    creates: Option<Address>,
    /// Where the output of the call it waits for goes.
    output: Range<usize>,
}

/// What came of a call or creation at first.
enum Entered {
    Running(Box<Frame>),
    Ended(Ended),
}

/// The outermost frame of a transaction.
pub(crate) fn run(machine: &mut Machine<'_>, gas: u64) -> Result<Ended, StateError> {
    let call = machine.call;
    let data = Bytes::copy_from_slice(&call.data);
    let mut entered = match call.to {
        None => {
            let inputs = CreateInputs::new(call.from, CreateScheme::Create, call.tfuel, data, gas, 0);
            machine.create(&inputs, call.theta, None, 0)?
        }
        Some(to) => {
            let inputs = CallInputs {
                input: CallInput::Bytes(data),
                return_memory_offset: 0..0,
                gas_limit: gas,
                reservoir: 0,
                bytecode_address: to,
                known_bytecode: (Hash::ZERO, machine.code_of(to)?),
                target_address: to,
                caller: call.from,
                value: CallValue::Transfer(call.tfuel),
                scheme: CallScheme::Call,
                is_static: false,
                charged_new_account_state_gas: false,
            };
            machine.call(inputs, call.theta, None, 0)?
        }
    };
    let table = opcodes::instructions();
    let mut waiting: Vec<Box<Frame>> = Vec::new();
    loop {
        let mut frame = match entered {
            Entered::Running(frame) => frame,
            Entered::Ended(ended) => match waiting.pop() {
                Some(mut frame) => {
                    frame.resume(ended);
                    frame
                }
                None => return Ok(ended),
            },
        };
        let depth = waiting.len() + 1;
        entered = match machine.step(&mut frame.interpreter, &table)? {
            Stopped::At(FrameInput::Call(inputs)) => {
                frame.output = inputs.return_memory_offset.clone();
                let entered = machine.call(*inputs, U256::ZERO, Some(&mut frame), depth)?;
                waiting.push(frame);
                entered
            }
            Stopped::At(FrameInput::Create(inputs)) => {
                frame.output = 0..0;
                let entered = machine.create(&inputs, U256::ZERO, Some(&mut frame), depth)?;
                waiting.push(frame);
                entered
            }
            Stopped::At(FrameInput::Empty) => Entered::Ended(Ended::refused(Halt::OutOfGas, 0)),
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
        let stopped = loop {
            let byte = interpreter.bytecode.opcode();
            if let Some(halt) = OPS[usize::from(byte)].refuse(byte, &interpreter.stack) {
                return Ok(Stopped::Done(Ended::refused(halt, 0)));
            }
            if let Err(stopped) = interpreter.step(table, &GAS, self) {
                break stopped;
            }
        };
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        let done =
            |result, output, gas_left| Stopped::Done(Ended { result, output, gas_left, created: None });
        Ok(match stopped {
            InstructionResult::Stop | InstructionResult::SelfDestruct => {
                done(Ok(()), Bytes::new(), interpreter.gas.remaining())
            }
            InstructionResult::Return | InstructionResult::Revert | InstructionResult::Suspend => {
                match interpreter.take_next_action() {
                    InterpreterAction::NewFrame(input) => Stopped::At(input),
                    InterpreterAction::Return(returned) => {
                        let result =
                            if stopped == InstructionResult::Revert { Err(Halt::Reverted) } else { Ok(()) };
                        done(result, returned.output, interpreter.gas.remaining())
                    }
                }
            }
            other => Stopped::Done(Ended::refused(self.halt.take().unwrap_or_else(|| halt(other)), 0)),
        })
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
        let checkpoint = self.view.checkpoint();
        let reserved = precompiles::at(inputs.bytecode_address, &self.env.rules.evm);
        if inputs.scheme == CallScheme::Call {
            let target = inputs.target_address;
            if self.view.account(target)?.is_none() {
                if reserved.is_none() && value.is_zero() {
                    // Nothing is there and nothing is made, not even for THETA.
                    return Ok(Entered::Ended(Ended {
                        result: Ok(()),
                        output: Bytes::new(),
                        gas_left: inputs.gas_limit,
                        created: None,
                    }));
                }
                self.view.store(Account::new(target, 0));
            }
            self.transfer(inputs.caller, target, value, theta)?;
        }
        if let Some(reserved) = reserved {
            let input = match (&inputs.input, &parent) {
                (CallInput::Bytes(bytes), _) => bytes.clone(),
                (CallInput::SharedBuffer(range), Some(parent)) => {
                    Bytes::copy_from_slice(&parent.interpreter.memory.global_slice(range.clone()))
                }
                (CallInput::SharedBuffer(_), None) => Bytes::new(),
            };
            let answer = reserved.run(self, inputs.caller, &input, inputs.gas_limit)?;
            return Ok(Entered::Ended(match answer {
                Ok((output, used)) => Ended {
                    result: Ok(()),
                    output: output.into(),
                    gas_left: inputs.gas_limit.saturating_sub(used),
                    created: None,
                },
                Err(halt) => {
                    self.view.revert(checkpoint);
                    Ended::refused(halt, 0)
                }
            }));
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
        let code = inputs.known_bytecode.1;
        Ok(running(memory, code, input, inputs.is_static, inputs.gas_limit, checkpoint, None))
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
        account.sequence = account.sequence.wrapping_add(1);
        self.view.store(account);
        let found = self.view.account(address)?;
        let collides = found.is_some_and(|account| {
            account.sequence != 0 || (account.code_hash != EMPTY_CODE_HASH && account.code_hash != Hash::ZERO)
        });
        if collides {
            return refused(Halt::Collision, 0);
        }
        let found = found.map_or(Coins::ZERO, |account| account.balance);
        let checkpoint = self.view.checkpoint();
        // Sequence 0, not Ethereum's 1.
        let mut contract = Account::new(address, 0);
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
        Ok(running(memory, code, input, false, gas, checkpoint, Some(address)))
    }

    /// Ends a frame: a creation stores its code, a failure takes everything back.
    fn leave(&mut self, frame: &Frame, mut ended: Ended) -> Result<Ended, StateError> {
        ended.created = frame.creates;
        if let (Some(address), Ok(())) = (frame.creates, &ended.result) {
            let cost = CODE_BYTE_GAS.saturating_mul(ended.output.len() as u64);
            if ended.output.len() > self.env.rules.evm.code_limit {
                ended.result = Err(Halt::CodeSize);
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
            self.view.revert(frame.checkpoint);
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

    fn transfer(&mut self, from: Address, to: Address, value: U256, theta: U256) -> Result<(), StateError> {
        self.move_tfuel(from, to, value)?;
        if self.env.rules.evm.theta_values {
            self.move_theta(from, to, theta)?;
        }
        Ok(())
    }
}

fn running(
    memory: SharedMemory,
    code: Bytecode,
    input: InputsImpl,
    is_static: bool,
    gas: u64,
    checkpoint: Checkpoint,
    creates: Option<Address>,
) -> Entered {
    let interpreter = Interpreter::new(memory, ExtBytecode::new(code), input, is_static, BASE, gas);
    Entered::Running(Box::new(Frame { interpreter, checkpoint, creates, output: 0..0 }))
}

/// The interpreter's own reasons. What Theta's instructions cannot meet counts as gas that ran out.
const fn halt(result: InstructionResult) -> Halt {
    match result {
        InstructionResult::StateChangeDuringStaticCall | InstructionResult::CallNotAllowedInsideStatic => {
            Halt::WriteProtection
        }
        InstructionResult::OutOfOffset => Halt::ReturnData,
        _ => Halt::OutOfGas,
    }
}
