//! The contract port: how the ledger has contracts run without knowing a machine.

use theta_core::{
    amount::from_big,
    context::BlockContext,
    hash::{Address, Hash, U256},
    rlp_list,
    spec::{ChainSpec, RuleSet, Rules},
};

use crate::{
    state::{StateError, StateView},
    tx::ethereum::{Access, Authorization},
};

/// What contracts may know of the block they run in.
#[derive(Clone, Copy, Debug)]
pub struct VmEnv<'a> {
    /// Rules at the block's height.
    pub rules: &'a Rules,
    /// Chain id for Ethereum at the block's height.
    pub chain_id: U256,
    /// Height of the block.
    pub height: u64,
    /// Seconds since 1970: the parent's, by Ethereum's rules the block's own.
    pub timestamp: U256,
    /// Hash of the block below. Only Ethereum's rules show it, and the proposer, to contracts.
    pub parent: Hash,
    /// Who proposes the block.
    pub proposer: Address,
}

impl<'a> VmEnv<'a> {
    /// The environment of a chain's block.
    pub fn new(spec: &'a ChainSpec, block: &BlockContext) -> Self {
        let height = block.height();
        let rules = spec.rules(height);
        let timestamp = match rules.evm.rule_set {
            RuleSet::Theta => &block.parent.timestamp,
            RuleSet::Ethereum => &block.timestamp,
        };
        Self {
            rules,
            chain_id: spec.ethereum_chain_id(height),
            height,
            timestamp: from_big(timestamp).unwrap_or(U256::MAX),
            parent: block.parent_hash,
            proposer: block.proposer,
        }
    }
}

/// A call or, without `to`, a creation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VmCall {
    /// Who calls and pays.
    pub from: Address,
    /// The contract called.
    pub to: Option<Address>,
    /// TFuelWei sent along.
    pub tfuel: U256,
    /// ThetaWei sent along.
    pub theta: U256,
    /// Most gas that may be used.
    pub gas_limit: u64,
    /// TFuelWei for a unit of gas; the ledger charges it, contracts only see it.
    pub gas_price: U256,
    /// Input, or code that makes a contract.
    pub data: Vec<u8>,
    /// What it says it will touch; only Ethereum's rules look at it, and at the next.
    pub access: Vec<Access>,
    /// Accounts that take on a contract's code before the call (EIP-7702).
    pub authorizations: Vec<Authorization>,
}

/// What a contract said to the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// The contract.
    pub address: Address,
    /// Up to four words to search by.
    pub topics: Vec<Hash>,
    /// The rest.
    pub data: Vec<u8>,
}

/// One move of coins in a contract transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BalanceChange {
    /// Whose balance.
    pub address: Address,
    /// 0 THETA, 1 TFUEL.
    pub token: u8,
    /// Whether the balance fell.
    pub negative: bool,
    /// By how many wei.
    pub delta: U256,
}

rlp_list!(Log { address, topics, data });
rlp_list!(BalanceChange { address, token, negative, delta });

/// What running a contract gave. A failure is an outcome, not an error: the fee is charged all the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VmOutcome {
    /// Gas used.
    pub gas_used: u64,
    /// Why it failed, in the reference's words; empty on success.
    pub error: String,
    /// What was returned, also by a revert.
    pub output: Vec<u8>,
    /// The contract made or called.
    pub contract: Address,
    /// Logs; none after a failure.
    pub logs: Vec<Log>,
    /// Moves of coins; none after a failure.
    pub balance_changes: Vec<BalanceChange>,
}

/// Whoever runs contracts.
pub trait ContractVm: Send + Sync {
    /// Runs a call on the view. A failed call leaves the view as it was, but for what the rules say stays. An error means
    /// that the state could not be read, and says nothing about the call.
    fn execute(&self, env: &VmEnv<'_>, call: &VmCall, view: &mut StateView) -> Result<VmOutcome, StateError>;
}

/// Runs nothing: every contract call fails and costs its whole gas limit. For chains of payments only.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoContracts;

impl ContractVm for NoContracts {
    fn execute(&self, _: &VmEnv<'_>, call: &VmCall, view: &mut StateView) -> Result<VmOutcome, StateError> {
        if call.to.is_none() {
            // A creation raises the sequence itself, even when it then fails.
            let mut sender = view.load_or_new(call.from)?;
            sender.sequence = sender.sequence.wrapping_add(1);
            view.store(sender);
        }
        Ok(VmOutcome {
            gas_used: call.gas_limit,
            error: "this node runs no contracts".to_owned(),
            ..VmOutcome::default()
        })
    }
}
