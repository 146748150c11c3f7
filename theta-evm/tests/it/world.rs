//! A state for one rule set, and programs that call.

use std::sync::Arc;

use revm::bytecode::opcode as op;
use theta_core::{
    amount::{Coins, TFuelWei, ThetaWei},
    hash::{Address, Hash, U256, keccak},
    sign::SecretKey,
    spec::{ChainSpec, RuleSet, Rules},
};
use theta_evm::{
    Evm,
    trace::{Trace, TraceLimits, Traced},
};
use theta_ledger::{
    state::{Account, StateView},
    vm::{ContractVm, VmCall, VmEnv, VmOutcome},
};

use super::nodes::Nodes;

pub const HEIGHT: u64 = 30_000_000;
pub const USER: Address = Address::repeat_byte(0x11);
pub const CONTRACT: Address = Address::repeat_byte(0xcc);
pub const PROPOSER: Address = Address::repeat_byte(0x99);
pub const PARENT: Hash = Hash::repeat_byte(0x77);
pub const REVERTED: &str = "evm: execution reverted";

pub struct World {
    pub view: StateView,
    pub rules: Rules,
}

/// Runs a test under both rule sets.
pub fn both(test: impl Fn(World)) {
    test(World::new(RuleSet::Theta));
    test(World::new(RuleSet::Ethereum));
}

impl World {
    pub fn new(rule_set: RuleSet) -> Self {
        let spec = match rule_set {
            RuleSet::Theta => ChainSpec::privatenet(),
            RuleSet::Ethereum => ChainSpec::devnet(),
        };
        let nodes = Arc::new(Nodes::default());
        let root = nodes.add(std::iter::empty());
        let view = StateView::open(root, HEIGHT - 1, nodes).unwrap();
        let mut world = Self { view, rules: spec.rules(HEIGHT).clone() };
        world.put(USER, Coins { theta: ThetaWei::whole(1_000_000), tfuel: TFuelWei::whole(1_000_000) }, &[]);
        world
    }

    pub fn is_ethereum(&self) -> bool {
        self.rules.evm.rule_set == RuleSet::Ethereum
    }

    pub fn put(&mut self, address: Address, balance: Coins, code: &[u8]) {
        let mut account = Account::new(address, 0);
        account.sequence = u64::from(!code.is_empty());
        account.balance = balance;
        account.code_hash = self.view.store_code(code.to_vec());
        self.view.store(account);
    }

    pub fn env(&self) -> VmEnv<'_> {
        VmEnv {
            rules: &self.rules,
            chain_id: U256::from(366),
            height: HEIGHT,
            timestamp: U256::from(1_000),
            parent: PARENT,
            proposer: PROPOSER,
        }
    }

    /// Wei of both tokens in all accounts and stakes.
    pub fn totals(&self) -> (U256, U256) {
        let mut view = self.view.clone();
        view.root().unwrap();
        let (mut theta, mut tfuel) = (U256::ZERO, view.elite_total().unwrap().get());
        for guardian in &view.guardians().unwrap().guardians {
            theta += guardian.stakes.stakes.iter().map(|stake| stake.amount.get()).sum::<U256>();
        }
        for key in view.records_with(b"ls/a/").unwrap().keys() {
            let account = view.account(Address::from_slice(&key[5..])).unwrap().unwrap();
            theta += account.balance.theta.get();
            tfuel += account.balance.tfuel.get();
        }
        (theta, tfuel)
    }

    /// Runs a call; what it burns is for the caller to say, and everything else stays in the world.
    pub fn burning(&mut self, call: &VmCall, burnt: U256) -> VmOutcome {
        let before = self.totals();
        let rules = self.rules.clone();
        let env = VmEnv { rules: &rules, ..self.env() };
        let outcome = Evm.execute(&env, call, &mut self.view).unwrap();
        assert_eq!(self.totals(), (before.0, before.1 - burnt), "{outcome:?}");
        outcome
    }

    pub fn run(&mut self, call: &VmCall) -> VmOutcome {
        self.burning(call, U256::ZERO)
    }

    /// Runs a call that begins the return of a stake: it is in the pool until then, and no longer among the live.
    pub fn run_leaving(&mut self, call: &VmCall) -> VmOutcome {
        let rules = self.rules.clone();
        let env = VmEnv { rules: &rules, ..self.env() };
        Evm.execute(&env, call, &mut self.view).unwrap()
    }

    pub fn trace(&mut self, call: &VmCall, what: Trace) -> (VmOutcome, Traced) {
        let rules = self.rules.clone();
        let env = VmEnv { rules: &rules, ..self.env() };
        Evm.trace(&env, call, &mut self.view, what, TraceLimits::default()).unwrap()
    }

    pub fn account(&mut self, address: Address) -> Option<Account> {
        self.view.account(address).unwrap().cloned()
    }

    pub fn theta(&mut self, address: Address) -> u64 {
        self.account(address).map_or(0, |account| account.balance.theta.get().to())
    }

    pub fn tfuel(&mut self, address: Address) -> u64 {
        self.account(address).map_or(0, |account| account.balance.tfuel.get().to())
    }
}

pub fn to(address: Address) -> VmCall {
    VmCall { from: USER, to: Some(address), gas_limit: 3_000_000, ..VmCall::default() }
}

pub fn wei(theta: u64, tfuel: u64) -> Coins {
    Coins { theta: ThetaWei::wei(theta), tfuel: TFuelWei::wei(tfuel) }
}

/// Code that grows.
#[derive(Clone, Default)]
pub struct Code(pub Vec<u8>);

impl Code {
    pub fn op(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    pub fn push(mut self, word: &[u8]) -> Self {
        // PUSH1 0 for nothing: PUSH0 is not everywhere.
        let word = if word.is_empty() { &[0] } else { word };
        self.0.push(op::PUSH0 + word.len() as u8);
        self.0.extend(word);
        self
    }

    pub fn number(self, number: u64) -> Self {
        let bytes = number.to_be_bytes();
        self.push(&bytes[number.leading_zeros() as usize / 8..])
    }

    /// Puts bytes into memory from offset 0 on.
    pub fn memory(mut self, bytes: &[u8]) -> Self {
        for (index, chunk) in bytes.chunks(32).enumerate() {
            let mut word = [0; 32];
            word[..chunk.len()].copy_from_slice(chunk);
            self = self.push(&word).number(32 * index as u64).op(&[op::MSTORE]);
        }
        self
    }

    /// Calls with the first bytes of the memory; what comes back is not kept. Leaves whether it went well.
    pub fn call(self, kind: u8, address: Address, value: u64, input: usize) -> Self {
        let code = self.number(0).number(0).number(input as u64).number(0);
        let code = if matches!(kind, op::CALL | op::CALLCODE) { code.number(value) } else { code };
        code.push(address.as_slice()).op(&[op::GAS, kind])
    }

    /// Logs the topmost word.
    pub fn log(self) -> Self {
        self.number(0).op(&[op::MSTORE]).number(32).number(0).op(&[op::LOG0])
    }
}

/// Input of 204 and 206 for a node that is new: the point at infinity is a key with a proof that passes.
pub fn stake_input(elite: bool, amount: U256) -> Vec<u8> {
    let key = SecretKey::from_bytes(&[9; 32]).unwrap();
    let infinity = |length: usize| {
        let mut point = vec![0; length];
        point[0] = 0xc0;
        point
    };
    let proof = infinity(96);
    let signature = key.sign_digest(&keccak(&proof));
    let gap = vec![0; if elite { 32 } else { 0 }];
    [key.address().as_slice(), &infinity(48), &proof, signature.as_bytes(), &gap, &amount.to_be_bytes::<32>()]
        .concat()
}

pub fn node() -> Address {
    SecretKey::from_bytes(&[9; 32]).unwrap().address()
}
