//! Traces: what a call does, told by the machine that does it. Their JSON is that of geth's `callTracer`, `prestateTracer`
//! and struct logger (geth 1.15), which tools read.
//!
//! THETA has no place there: where some is sent or held, and only there, a field `theta` stands beside `value` and
//! `balance`. Fees and the sequence of a call are the ledger's, so the states before and after are without them.

use std::collections::{BTreeMap, BTreeSet};

use revm::{
    bytecode::opcode::{self as op, OPCODE_INFO},
    interpreter::{
        CallScheme, CreateScheme, Interpreter,
        interpreter_types::{Jumps as _, MemoryTr as _, ReturnData as _},
    },
};
use serde::{Serialize, Serializer};
use theta_core::{
    amount::Coins,
    hash::{Address, Bytes, EMPTY_CODE_HASH, Hash, U256, keccak},
};
use theta_ledger::{
    state::{StateError, StateView},
    vm::{Log, VmCall, VmEnv, VmOutcome},
};

use crate::{execute, frames::Ended, halt::Halt, machine::Machine, opcodes};

/// What is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trace {
    /// Calls within calls.
    Calls {
        /// With the logs of each.
        logs: bool,
    },
    /// Accounts and slots that were looked at or changed, as they were before.
    Prestate {
        /// Only what changed, before and after.
        diff: bool,
    },
    /// Every instruction.
    Steps {
        /// With the memory before each.
        memory: bool,
        /// With what the last call returned.
        return_data: bool,
    },
}

/// Bounds of a trace. A call that would exceed one is stopped there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceLimits {
    /// Calls, logs, instructions, accounts and slots.
    pub entries: usize,
    /// Bytes of inputs, outputs, logs, stacks and memories.
    pub bytes: usize,
}

impl Default for TraceLimits {
    fn default() -> Self {
        Self { entries: 1_000_000, bytes: 256 << 20 }
    }
}

/// Why there is no trace.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// The state could not be read.
    #[error(transparent)]
    State(#[from] StateError),
    /// The call does more than a trace may tell.
    #[error("the trace has more than {} entries or {} bytes: ask for less of it", .0.entries, .0.bytes)]
    TooLarge(TraceLimits),
}

/// What was told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Traced {
    /// The outermost call.
    Calls(Box<CallFrame>),
    /// Accounts before.
    Prestate(BTreeMap<Address, AccountState>),
    /// Accounts before and after.
    Diff {
        /// What changed, as it was. An account that was not there is missing.
        pre: BTreeMap<Address, AccountState>,
        /// What changed, as it is. An account that is gone is missing.
        post: BTreeMap<Address, AccountState>,
    },
    /// Instructions.
    Steps(StructLogs),
}

/// A call or creation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CallFrame {
    /// Whose call it is.
    pub from: Address,
    /// Gas that it got.
    #[serde(serialize_with = "quantity")]
    pub gas: u64,
    /// Gas that it used.
    #[serde(serialize_with = "quantity")]
    pub gas_used: u64,
    /// Whose code runs; none where no contract was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<Address>,
    /// Input, or code that makes a contract.
    pub input: Bytes,
    /// What it gave back.
    #[serde(skip_serializing_if = "none")]
    pub output: Bytes,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The text that Solidity's `revert` and `require` give.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revert_reason: Option<String>,
    /// What it called, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<CallFrame>,
    /// What it logged, where asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub logs: Vec<CallLog>,
    /// TFuelWei sent along.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<U256>,
    /// ThetaWei sent along.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub theta: Option<U256>,
    /// The instruction that called.
    #[serde(rename = "type")]
    pub kind: &'static str,
}

/// A log in a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CallLog {
    /// The contract.
    pub address: Address,
    /// Words to search by.
    pub topics: Vec<Hash>,
    /// The rest.
    pub data: Bytes,
    /// How many calls came before it in its frame.
    #[serde(serialize_with = "quantity")]
    pub position: u64,
}

/// An account, or what changed of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AccountState {
    /// TFuelWei.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balance: Option<U256>,
    /// ThetaWei, where there is some.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub theta: Option<U256>,
    /// Its code.
    #[serde(skip_serializing_if = "none")]
    pub code: Bytes,
    /// Its sequence.
    #[serde(skip_serializing_if = "is_zero")]
    pub nonce: u64,
    /// Words of its storage.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub storage: BTreeMap<Hash, Hash>,
}

/// All instructions of a call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StructLogs {
    /// Gas used in all.
    pub gas: u64,
    /// Whether the call failed.
    pub failed: bool,
    /// What it returned.
    pub return_value: Bytes,
    /// One entry for each instruction.
    pub struct_logs: Vec<StructLog>,
}

/// An instruction, with the machine as it was before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StructLog {
    /// Its place in the code.
    pub pc: usize,
    /// Its name.
    pub op: String,
    /// Gas before it.
    pub gas: u64,
    /// Gas that it took; a call takes what it hands on, too.
    pub gas_cost: u64,
    /// 1 for the outermost frame.
    pub depth: usize,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The stack, the topmost word last.
    pub stack: Vec<U256>,
    /// Words of the memory in hex.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub memory: Vec<String>,
    /// What the last call returned.
    #[serde(skip_serializing_if = "none")]
    pub return_data: Bytes,
    /// Of SLOAD and SSTORE: the contract's slots that were used up to here, in hex.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub storage: BTreeMap<String, String>,
    /// Gas to be paid back so far.
    #[serde(skip_serializing_if = "is_zero")]
    pub refund: u64,
}

fn none(bytes: &[u8]) -> bool {
    bytes.is_empty()
}

fn quantity<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format!("{value:#x}"))
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields so")]
const fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// Runs a call and tells what it does. The outcome and the state are those of the call without a trace.
pub(crate) fn trace(
    env: &VmEnv<'_>,
    call: &VmCall,
    view: &mut StateView,
    what: Trace,
    limits: TraceLimits,
) -> Result<(VmOutcome, Traced), TraceError> {
    let start = view.checkpoint();
    // Read from where the trace says what was there before.
    let mut before = matches!(what, Trace::Prestate { .. }).then(|| view.clone());
    let recorder = Recorder { what, left: limits, ..Recorder::default() };
    let (outcome, recorder) = execute(env, call, view, opcodes::spec(env.rules), Some(recorder))?;
    let mut recorder = recorder.unwrap_or_default();
    if recorder.full {
        view.revert(start);
        return Err(TraceError::TooLarge(limits));
    }
    let traced = match what {
        Trace::Calls { .. } => {
            let mut frame = recorder.done.take().unwrap_or_default();
            (frame.gas, frame.gas_used) = (call.gas_limit, outcome.gas_used);
            frame.theta = Some(call.theta).filter(|theta| !theta.is_zero());
            Traced::Calls(Box::new(frame))
        }
        Trace::Steps { .. } => Traced::Steps(StructLogs {
            gas: outcome.gas_used,
            failed: !outcome.error.is_empty(),
            return_value: outcome.output.clone().into(),
            struct_logs: recorder.steps,
        }),
        Trace::Prestate { diff } => {
            let before = before.get_or_insert_with(|| view.clone());
            let pre = states(before, &recorder.touched)?;
            if diff { differences(pre, view, &recorder.touched)? } else { prestate(pre, &recorder) }
        }
    };
    Ok((outcome, traced))
}

type Touched = BTreeMap<Address, BTreeSet<Hash>>;

fn states(view: &mut StateView, touched: &Touched) -> Result<BTreeMap<Address, AccountState>, StateError> {
    let mut states = BTreeMap::new();
    for (address, slots) in touched {
        let mut storage = BTreeMap::new();
        for slot in slots {
            storage.insert(*slot, Hash::from(view.slot(*address, *slot)?));
        }
        let account = view.account(*address)?.cloned();
        let coins = account.as_ref().map_or(Coins::ZERO, |account| account.balance);
        let hash = account.as_ref().map_or(EMPTY_CODE_HASH, |account| account.code_hash);
        let state = AccountState {
            balance: Some(coins.tfuel.get()),
            theta: Some(coins.theta.get()).filter(|theta| !theta.is_zero()),
            code: view.code(hash)?.into(),
            nonce: account.map_or(0, |account| account.sequence),
            storage,
        };
        states.insert(*address, state);
    }
    Ok(states)
}

impl AccountState {
    fn is_there(&self) -> bool {
        self.nonce > 0
            || !self.code.is_empty()
            || self.theta.is_some()
            || self.balance.is_some_and(|balance| !balance.is_zero())
    }
}

fn prestate(mut pre: BTreeMap<Address, AccountState>, recorder: &Recorder) -> Traced {
    // What the call made was not there before.
    pre.retain(|address, state| state.is_there() || !recorder.made.contains(address));
    Traced::Prestate(pre)
}

fn differences(
    before: BTreeMap<Address, AccountState>,
    view: &mut StateView,
    touched: &Touched,
) -> Result<Traced, StateError> {
    let mut after = states(view, touched)?;
    let (mut pre, mut post) = (BTreeMap::new(), BTreeMap::new());
    for (address, mut old) in before {
        let Some(mut new) = after.remove(&address) else { continue };
        if old == new {
            continue;
        }
        let (was, is) = (old.is_there(), new.is_there());
        new.storage.retain(|slot, value| old.storage.get(slot) != Some(value) && !value.is_zero());
        let kept = states(view, &BTreeMap::from([(address, touched[&address].clone())]))?;
        let now = &kept[&address].storage;
        old.storage.retain(|slot, value| now.get(slot) != Some(value) && !value.is_zero());
        if is {
            if new.balance == old.balance {
                new.balance = None;
            }
            if new.theta == old.theta {
                new.theta = None;
            }
            if new.code == old.code {
                new.code = Bytes::new();
            }
            if new.nonce == old.nonce {
                new.nonce = 0;
            }
            post.insert(address, new);
        }
        if was {
            pre.insert(address, old);
        }
    }
    Ok(Traced::Diff { pre, post })
}

/// Listens to the machine.
#[derive(Debug)]
pub(crate) struct Recorder {
    what: Trace,
    left: TraceLimits,
    /// Whether a limit was exceeded.
    full: bool,
    /// The frames that run, outermost first.
    frames: Vec<CallFrame>,
    done: Option<CallFrame>,
    touched: Touched,
    made: BTreeSet<Address>,
    steps: Vec<StructLog>,
    slots: BTreeMap<Address, BTreeMap<String, String>>,
}

impl Default for Recorder {
    fn default() -> Self {
        Self {
            what: Trace::Calls { logs: false },
            left: TraceLimits::default(),
            full: false,
            frames: Vec::new(),
            done: None,
            touched: BTreeMap::new(),
            made: BTreeSet::new(),
            steps: Vec::new(),
            slots: BTreeMap::new(),
        }
    }
}

impl Recorder {
    /// Whether the machine has to stop.
    pub(crate) const fn is_full(&self) -> bool {
        self.full
    }

    /// Takes room for an entry of so many bytes; whether there was any.
    fn room(&mut self, bytes: usize) -> bool {
        match (self.left.entries.checked_sub(1), self.left.bytes.checked_sub(bytes)) {
            (Some(entries), Some(bytes)) if !self.full => self.left = TraceLimits { entries, bytes },
            _ => self.full = true,
        }
        !self.full
    }

    pub(crate) fn touch(&mut self, address: Address) {
        if matches!(self.what, Trace::Prestate { .. })
            && !self.touched.contains_key(&address)
            && self.room(64)
        {
            self.touched.insert(address, BTreeSet::new());
        }
    }

    fn touch_slot(&mut self, address: Address, slot: U256) {
        self.touch(address);
        if self.room(64)
            && let Some(slots) = self.touched.get_mut(&address)
        {
            slots.insert(slot.into());
        }
    }

    /// A call begins.
    pub(crate) fn call(
        &mut self,
        scheme: CallScheme,
        from: Address,
        to: Address,
        value: U256,
        gas: u64,
        input: Bytes,
    ) {
        self.touch(from);
        self.touch(to);
        let kind = match scheme {
            CallScheme::Call => "CALL",
            CallScheme::CallCode => "CALLCODE",
            CallScheme::DelegateCall => "DELEGATECALL",
            CallScheme::StaticCall => "STATICCALL",
        };
        let value = (scheme != CallScheme::StaticCall).then_some(value);
        self.enter(CallFrame { from, to: Some(to), gas, input, value, kind, ..CallFrame::default() });
    }

    /// A creation begins.
    pub(crate) fn create(
        &mut self,
        scheme: CreateScheme,
        from: Address,
        value: U256,
        gas: u64,
        input: Bytes,
    ) {
        self.touch(from);
        let kind = if matches!(scheme, CreateScheme::Create) { "CREATE" } else { "CREATE2" };
        self.enter(CallFrame { from, gas, input, value: Some(value), kind, ..CallFrame::default() });
    }

    /// The contract that a creation tries to make.
    pub(crate) fn makes(&mut self, address: Address) {
        self.touch(address);
        self.made.insert(address);
    }

    fn enter(&mut self, frame: CallFrame) {
        // The frames of other traces only count the depth.
        let kept = if matches!(self.what, Trace::Calls { .. }) {
            self.room(frame.input.len() + 128);
            frame
        } else {
            CallFrame::default()
        };
        self.frames.push(kept);
    }

    /// The call or creation that began last ends.
    pub(crate) fn exit(&mut self, ended: &Ended) {
        let Some(mut frame) = self.frames.pop() else { return };
        if matches!(self.what, Trace::Calls { .. }) {
            self.room(ended.output.len());
            frame.gas_used = frame.gas.saturating_sub(ended.gas_left);
            frame.to = frame.to.or(ended.created.filter(|_| ended.result.is_ok()));
            match &ended.result {
                Ok(()) => frame.output = ended.output.clone(),
                Err(Halt::Reverted) => {
                    frame.error = Some("execution reverted".to_owned());
                    frame.revert_reason = revert_reason(&ended.output);
                    frame.output = ended.output.clone();
                }
                Err(halt) => frame.error = Some(halt.to_string()),
            }
        }
        match self.frames.last_mut() {
            Some(caller) if matches!(self.what, Trace::Calls { .. }) => caller.calls.push(frame),
            Some(_) => {}
            None => self.done = Some(frame),
        }
    }

    /// A contract ends itself.
    pub(crate) fn destroy(&mut self, from: Address, heir: Address, coins: Coins) {
        self.touch(heir);
        let frame = CallFrame {
            from,
            to: Some(heir),
            value: Some(coins.tfuel.get()),
            kind: "SELFDESTRUCT",
            ..CallFrame::default()
        };
        if matches!(self.what, Trace::Calls { .. })
            && self.room(128)
            && let Some(running) = self.frames.last_mut()
        {
            running.calls.push(frame);
        }
    }

    /// A contract logs.
    pub(crate) fn log(&mut self, log: &Log) {
        if self.what == (Trace::Calls { logs: true })
            && self.room(log.data.len() + 160)
            && let Some(frame) = self.frames.last_mut()
        {
            frame.logs.push(CallLog {
                address: log.address,
                topics: log.topics.clone(),
                data: log.data.clone().into(),
                position: frame.calls.len() as u64,
            });
        }
    }

    /// An instruction is about to run.
    pub(crate) fn before(&mut self, interpreter: &Interpreter) {
        let byte = interpreter.bytecode.opcode();
        let stack = interpreter.stack.data();
        match self.what {
            Trace::Calls { .. } => {}
            Trace::Prestate { .. } => {
                let Some(top) = stack.last() else { return };
                match byte {
                    op::SLOAD | op::SSTORE => self.touch_slot(interpreter.input.target_address, *top),
                    op::BALANCE | op::EXTCODESIZE | op::EXTCODECOPY | op::EXTCODEHASH => {
                        self.touch(Address::from_word((*top).into()));
                    }
                    _ => {}
                }
            }
            Trace::Steps { memory, return_data } => {
                let bytes = if memory { interpreter.memory.size() } else { 0 };
                let returned =
                    if return_data { interpreter.return_data.buffer().clone() } else { Bytes::new() };
                if !self.room(64 + 32 * stack.len() + 2 * bytes + returned.len()) {
                    return;
                }
                let memory = if memory {
                    interpreter.memory.slice(0..bytes).chunks(32).map(hex::encode).collect()
                } else {
                    Vec::new()
                };
                let name = match &OPCODE_INFO[usize::from(byte)] {
                    Some(info) => info.name().to_owned(),
                    None => format!("opcode {byte:#x} not defined"),
                };
                self.steps.push(StructLog {
                    pc: interpreter.bytecode.pc(),
                    op: name,
                    gas: interpreter.gas.remaining(),
                    gas_cost: 0,
                    depth: self.frames.len(),
                    error: None,
                    stack: stack.to_vec(),
                    memory,
                    return_data: returned,
                    storage: BTreeMap::new(),
                    refund: u64::try_from(interpreter.gas.refunded()).unwrap_or_default(),
                });
            }
        }
    }

    /// The instruction has run; with what it failed, if it did.
    pub(crate) fn after(&mut self, interpreter: &Interpreter, halt: Option<&Halt>) {
        if !matches!(self.what, Trace::Steps { .. }) || self.full {
            return;
        }
        let Some(step) = self.steps.last_mut() else { return };
        step.gas_cost = step.gas.saturating_sub(interpreter.gas.remaining());
        step.error = halt.map(ToString::to_string);
        let word = |back: usize| step.stack.len().checked_sub(back).and_then(|at| step.stack.get(at));
        let used = match step.op.as_str() {
            "SLOAD" => word(1).zip(interpreter.stack.data().last()),
            "SSTORE" => word(1).zip(word(2)),
            _ => None,
        };
        let Some((slot, value)) = used.filter(|_| halt.is_none()) else { return };
        let (slot, value) = (hex::encode(slot.to_be_bytes::<32>()), hex::encode(value.to_be_bytes::<32>()));
        let slots = self.slots.entry(interpreter.input.target_address).or_default();
        slots.insert(slot, value);
        let slots = slots.clone();
        let room = self.room(128 * slots.len());
        if let (true, Some(step)) = (room, self.steps.last_mut()) {
            step.storage = slots;
        }
    }
}

/// The text in `Error(string)`.
fn revert_reason(output: &[u8]) -> Option<String> {
    let body = output.strip_prefix(&keccak("Error(string)")[..4])?;
    let number = |at: usize| {
        let word = body.get(at..at.checked_add(32)?)?;
        usize::try_from(U256::from_be_slice(word)).ok()
    };
    let at = number(0)?;
    let length = number(at)?;
    let text = body.get(at.checked_add(32)?..)?.get(..length)?;
    String::from_utf8(text.to_vec()).ok()
}

impl Machine<'_> {
    /// Tells the trace, if there is one.
    pub(crate) fn tell(&mut self, what: impl FnOnce(&mut Recorder)) {
        if let Some(recorder) = &mut self.recorder {
            what(recorder);
        }
    }
}
