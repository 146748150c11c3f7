//! Theta's contract rules on revm's interpreter.
//!
//! [`Evm`] runs contracts for the ledger: it is the [`ContractVm`] of a node. The rules are those of the height that
//! [`VmEnv::rules`] names ([`theta_core::spec::RuleSet`]). The Go reference's are Ethereum's of Petersburg, but for prices,
//! two kinds of coins, accounts that are never cleared, contracts that end at once, and precompiles for THETA and stakes;
//! every failure has the reference's text. Our own networks have Ethereum's rules of Osaka, and the same precompiles.
//!
//! Instructions and Ethereum's precompiles are revm's. Calls, creations and all state are ours: coins, slots, existence of
//! accounts and stake pools change in the ledger's [`StateView`], so that a failed frame takes all of them back at once.
//! Start at `frames` for calls and creations, at `opcodes` for what differs from Ethereum, at `session` for what only
//! Ethereum's rules remember.
//!
//! ```
//! use theta_evm::Evm;
//! use theta_ledger::vm::ContractVm;
//! let _contracts: std::sync::Arc<dyn ContractVm> = std::sync::Arc::new(Evm);
//! ```
//!
//! Features: `native-secp` recovers signatures in precompile 1 by C code; `statetest` runs Ethereum's state tests on the
//! engine below, and brings serde_json. Not here: who pays the fee (the ledger) and what a node offers on top (calls
//! without a transaction, estimates).

pub mod contracts;
mod frames;
mod halt;
mod machine;
mod opcodes;
mod precompiles;
mod session;
#[cfg(feature = "statetest")]
pub mod statetest;
pub mod trace;

use revm::primitives::hardfork::SpecId;
use theta_ledger::{
    state::{StateError, StateView},
    tx::intrinsic_gas,
    vm::{ContractVm, VmCall, VmEnv, VmOutcome},
};

use self::{
    halt::Halt,
    machine::Machine,
    trace::{Recorder, Trace, TraceError, TraceLimits, Traced},
};

/// Runs contracts by Theta's rules.
#[derive(Clone, Copy, Debug, Default)]
pub struct Evm;

impl ContractVm for Evm {
    fn execute(&self, env: &VmEnv<'_>, call: &VmCall, view: &mut StateView) -> Result<VmOutcome, StateError> {
        execute(env, call, view, opcodes::spec(env.rules), None).map(|(outcome, _)| outcome)
    }
}

impl Evm {
    /// Runs a call as [`ContractVm::execute`] does and tells what happens. Where the trace grows beyond its limits the call
    /// is stopped, and the view is as before.
    pub fn trace(
        &self,
        env: &VmEnv<'_>,
        call: &VmCall,
        view: &mut StateView,
        what: Trace,
        limits: TraceLimits,
    ) -> Result<(VmOutcome, Traced), TraceError> {
        trace::trace(env, call, view, what, limits)
    }
}

/// Runs a call by the rules of a fork that the engine names; one of [`theta_core::spec::RuleSet::Ethereum`] may be older than Osaka.
fn execute(
    env: &VmEnv<'_>,
    call: &VmCall,
    view: &mut StateView,
    spec: SpecId,
    recorder: Option<Recorder>,
) -> Result<(VmOutcome, Option<Recorder>), StateError> {
    // The ledger checks both first, but for transactions of old heights and calls without a transaction.
    let refused = |halt: Halt| VmOutcome { error: halt.to_string(), ..VmOutcome::default() };
    if call.gas_limit > env.rules.tx.max_gas {
        return Ok((refused(Halt::GasLimit), recorder));
    }
    let (initial, floor) = intrinsic_gas(env.rules, call);
    let floor = if spec.is_enabled_in(SpecId::PRAGUE) { floor } else { 0 };
    if call.gas_limit < initial.max(floor) {
        return Ok((refused(Halt::OutOfGas), recorder));
    }
    let start = view.checkpoint();
    let mut machine = Machine::new(view, env, call, spec);
    machine.recorder = recorder;
    let ended = match run(&mut machine, call.gas_limit - initial) {
        Ok(ended) => ended,
        Err(error) => {
            view.revert(start);
            return Err(error);
        }
    };
    let used = call.gas_limit.saturating_sub(ended.gas_left);
    // EIP-3529, EIP-7623.
    let refund = u64::try_from(ended.refund).unwrap_or_default().min(used / 5);
    let mut outcome = VmOutcome {
        gas_used: (used - refund).max(floor),
        output: ended.output.to_vec(),
        contract: call.to.or(ended.created).unwrap_or_default(),
        ..VmOutcome::default()
    };
    match ended.result {
        Ok(()) => {
            outcome.logs = machine.logs;
            outcome.balance_changes = machine.balance_changes;
        }
        Err(halt) => outcome.error = halt.to_string(),
    }
    Ok((outcome, machine.recorder))
}

/// Runs a transaction's frames, and by Ethereum's rules what comes before and after them.
fn run(machine: &mut Machine<'_>, gas: u64) -> Result<frames::Ended, StateError> {
    let back = if machine.ethereum { machine.prepare()? } else { 0 };
    let mut ended = frames::run(machine, gas)?;
    ended.refund += back;
    machine.clear_destroyed()?;
    Ok(ended)
}
