//! What instructions see of the world: the state, the block, the transaction.

use std::{borrow::Cow, sync::LazyLock};

use quick_cache::sync::Cache;
use revm::{
    bytecode::Bytecode,
    context_interface::{
        cfg::GasParams,
        context::{SStoreResult, SelfDestructResult, StateLoad},
        host::LoadError,
        journaled_state::AccountInfoLoad,
    },
    interpreter::{Host, InstructionResult},
    primitives::{Bytes, Log as RevmLog, hardfork::SpecId},
    state::AccountInfo,
};
use theta_core::{
    amount::{Coins, TFuelWei, ThetaWei},
    hash::{Address, EMPTY_CODE_HASH, Hash, U256, keccak},
    spec::RuleSet,
};
use theta_ledger::{
    history,
    state::{Account, StateError, StateView, account::DEAD_CODE_HASH},
    tx::ethereum::Authorization,
    vm::{BalanceChange, Log, VmCall, VmEnv},
};

use crate::{halt::Halt, precompiles, session::Session, trace::Recorder};

const THETA: u8 = 0;
const TFUEL: u8 = 1;
/// Of the 25,000 that an authorization costs, for an account that was there (EIP-7702).
const AUTHORITY_REFUND: i64 = 12_500;

/// One transaction's run. Everything that a failed frame takes back is in the view; what stays is here.
pub(crate) struct Machine<'a> {
    pub(crate) view: &'a mut StateView,
    pub(crate) env: &'a VmEnv<'a>,
    pub(crate) call: &'a VmCall,
    /// Whether Ethereum's rules hold, not Theta's.
    pub(crate) ethereum: bool,
    /// The engine's name for the rules that are closest.
    pub(crate) spec: SpecId,
    pub(crate) session: Session,
    pub(crate) gas: GasParams,
    /// Why the last instruction failed, where the interpreter has no word for it.
    pub(crate) halt: Option<Halt>,
    /// Why the state could not be read during the last instruction.
    pub(crate) error: Option<StateError>,
    /// In order; by Theta's rules those of failed inner frames included.
    pub(crate) logs: Vec<Log>,
    /// In order; by Theta's rules those of failed inner frames included.
    pub(crate) balance_changes: Vec<BalanceChange>,
    /// Who is told of everything, if a trace was asked for.
    pub(crate) recorder: Option<Recorder>,
}

/// Code with its jump targets found, by hash, and whether a delegation is one. It depends on nothing but the bytes, so all
/// machines of a process share it.
static CODES: LazyLock<Cache<(Hash, bool), Bytecode>> = LazyLock::new(|| Cache::new(4_096));

impl<'a> Machine<'a> {
    pub(crate) fn new(view: &'a mut StateView, env: &'a VmEnv<'a>, call: &'a VmCall, spec: SpecId) -> Self {
        let ethereum = env.rules.evm.rule_set == RuleSet::Ethereum;
        view.begin_transaction();
        Self {
            view,
            env,
            call,
            ethereum,
            session: Session::default(),
            spec,
            gas: GasParams::new_spec(spec),
            halt: None,
            error: None,
            logs: Vec::new(),
            balance_changes: Vec::new(),
            recorder: None,
        }
    }

    /// Keeps an error of the state for the frame loop and stops the instruction.
    pub(crate) fn park<T>(&mut self, result: Result<T, StateError>) -> Result<T, InstructionResult> {
        result.map_err(|error| {
            self.error = Some(error);
            InstructionResult::FatalExternalError
        })
    }

    pub(crate) fn balance(&mut self, address: Address) -> Result<Coins, StateError> {
        Ok(self.view.account(address)?.map_or(Coins::ZERO, |account| account.balance))
    }

    pub(crate) fn tfuel(&mut self, address: Address) -> Result<U256, StateError> {
        Ok(self.balance(address)?.tfuel.get())
    }

    /// The account, or a fresh one that is not stored yet. What contracts make has no height.
    pub(crate) fn account_or_new(&mut self, address: Address) -> Result<Account, StateError> {
        Ok(self.view.account(address)?.cloned().unwrap_or_else(|| Account::new(address, 0)))
    }

    /// Whether a value sent there pays for a new account. THETA counts, and a destroyed contract is not empty.
    pub(crate) fn is_empty(&mut self, address: Address) -> Result<bool, StateError> {
        Ok(self.view.account(address)?.is_none_or(|account| {
            account.sequence == 0 && account.code_hash == EMPTY_CODE_HASH && account.balance.is_zero()
        }))
    }

    pub(crate) fn code(&mut self, hash: Hash) -> Result<Bytecode, StateError> {
        if hash == EMPTY_CODE_HASH {
            return Ok(Bytecode::default());
        }
        if let Some(code) = CODES.get(&(hash, self.ethereum)) {
            return Ok(code);
        }
        let bytes: Bytes = self.view.code(hash)?.into();
        // One state's lack of a record says nothing of another's.
        if bytes.is_empty() {
            return Ok(Bytecode::default());
        }
        let code = match Bytecode::new_raw_checked(bytes.clone()) {
            Ok(code) if self.ethereum => code,
            // By Theta's rules never a delegation, whatever its first bytes are.
            _ => Bytecode::new_legacy(bytes),
        };
        CODES.insert((hash, self.ethereum), code.clone());
        Ok(code)
    }

    pub(crate) fn code_of(&mut self, address: Address) -> Result<Bytecode, StateError> {
        let hash = self.view.account(address)?.map_or(EMPTY_CODE_HASH, |account| account.code_hash);
        self.code(hash)
    }

    /// The code that a call of the address runs: by a delegation another's, which is then warm.
    pub(crate) fn code_behind(&mut self, address: Address) -> Result<Bytecode, StateError> {
        let code = self.code_of(address)?;
        match code.eip7702_address() {
            Some(delegate) => {
                self.session.warm(delegate);
                self.code_of(delegate)
            }
            None => Ok(code),
        }
    }

    /// Moves TFUEL; the sender has it.
    pub(crate) fn move_tfuel(&mut self, from: Address, to: Address, wei: U256) -> Result<(), StateError> {
        if wei.is_zero() {
            return Ok(());
        }
        self.take(from, Coins::tfuel(TFuelWei::from_u256(wei)))?;
        self.give(to, Coins::tfuel(TFuelWei::from_u256(wei)))
    }

    /// Moves THETA; the sender has it.
    pub(crate) fn move_theta(&mut self, from: Address, to: Address, wei: U256) -> Result<(), StateError> {
        if wei.is_zero() {
            return Ok(());
        }
        self.take(from, Coins::theta(ThetaWei::from_u256(wei)))?;
        self.give(to, Coins::theta(ThetaWei::from_u256(wei)))
    }

    /// Takes coins that the account has.
    pub(crate) fn take(&mut self, from: Address, coins: Coins) -> Result<(), StateError> {
        let mut account = self.account_or_new(from)?;
        account.balance = account.balance.checked_sub(coins).unwrap_or(Coins::ZERO);
        self.view.store(account);
        self.changed(from, coins, true);
        Ok(())
    }

    fn give(&mut self, to: Address, coins: Coins) -> Result<(), StateError> {
        let mut account = self.account_or_new(to)?;
        // A sum above 2^256 wei cannot arise from coins that exist.
        account.balance = account.balance.checked_add(coins).unwrap_or(account.balance);
        self.view.store(account);
        self.changed(to, coins, false);
        Ok(())
    }

    fn changed(&mut self, address: Address, coins: Coins, negative: bool) {
        self.tell(|trace| trace.touch(address));
        let mut record = |token, delta: U256| {
            if !delta.is_zero() {
                self.balance_changes.push(BalanceChange { address, token, negative, delta });
            }
        };
        record(TFUEL, coins.tfuel.get());
        record(THETA, coins.theta.get());
    }

    /// By Theta's rules, ends a contract: its TFUEL goes to `heir`, its code is marked dead; THETA, storage and sequence stay.
    pub(crate) fn destroy(&mut self, address: Address, heir: Address) -> Result<(), StateError> {
        let balance = Coins::tfuel(self.balance(address)?.tfuel);
        self.tell(|trace| trace.destroy(address, heir, balance));
        if !balance.is_zero() {
            self.give(heir, balance)?;
        }
        let mut account = self.account_or_new(address)?;
        account.code_hash = DEAD_CODE_HASH;
        // Read again: an heir of itself burns twice what it had.
        let delta = std::mem::take(&mut account.balance.tfuel).get();
        self.view.store(account);
        self.balance_changes.push(BalanceChange { address, token: TFUEL, negative: true, delta });
        Ok(())
    }
}

fn stop(result: InstructionResult) -> LoadError {
    debug_assert_eq!(result, InstructionResult::FatalExternalError);
    LoadError::DBError
}

/// What Theta's instructions do not have is asked for by Ethereum's alone.
impl Host for Machine<'_> {
    /// Below this price no transaction is taken.
    fn basefee(&self) -> U256 {
        U256::from(self.env.rules.tx.min_gas_price)
    }

    /// The least on Ethereum: there are no blobs.
    fn blob_gasprice(&self) -> U256 {
        U256::ONE
    }

    /// By Theta's rules the transaction's. A block has none of its own: the most of a transaction stands for it.
    fn gas_limit(&self) -> U256 {
        U256::from(if self.ethereum { self.env.rules.tx.max_gas } else { self.call.gas_limit })
    }

    fn difficulty(&self) -> U256 {
        U256::ZERO
    }

    /// Keccak-256 of the hash of the block below and the proposer's address: other in each block and known to its proposer
    /// before.
    fn prevrandao(&self) -> Option<U256> {
        let bytes = [self.env.parent.as_slice(), self.env.proposer.as_slice()].concat();
        Some(keccak(bytes).into())
    }

    fn block_number(&self) -> U256 {
        U256::from(self.env.height)
    }

    fn timestamp(&self) -> U256 {
        self.env.timestamp
    }

    fn beneficiary(&self) -> Address {
        self.env.proposer
    }

    fn slot_num(&self) -> U256 {
        U256::ZERO
    }

    fn chain_id(&self) -> U256 {
        self.env.chain_id
    }

    fn effective_gas_price(&self) -> U256 {
        self.call.gas_price
    }

    fn caller(&self) -> Address {
        self.call.from
    }

    fn blob_hash(&self, _: usize) -> Option<U256> {
        None
    }

    fn max_initcode_size(&self) -> usize {
        self.env.rules.evm.code_limit.saturating_mul(2)
    }

    fn gas_params(&self) -> &GasParams {
        &self.gas
    }

    fn is_amsterdam_eip8037_enabled(&self) -> bool {
        false
    }

    fn block_hash(&mut self, height: u64) -> Option<Hash> {
        let hash = history::block_hash(self.env, self.view, height);
        self.park(hash).ok()
    }

    fn selfdestruct(
        &mut self,
        address: Address,
        heir: Address,
        skip_cold_load: bool,
    ) -> Result<StateLoad<SelfDestructResult>, LoadError> {
        let is_cold = self.visit(heir, skip_cold_load)?;
        let ended = self.end(address, heir);
        self.park(ended).map(|data| StateLoad::new(data, is_cold)).map_err(stop)
    }

    fn log(&mut self, log: RevmLog) {
        let (topics, data) = log.data.split();
        let log = Log { address: log.address, topics, data: data.to_vec() };
        self.tell(|trace| trace.log(&log));
        self.logs.push(log);
    }

    fn sstore_skip_cold_load(
        &mut self,
        address: Address,
        key: U256,
        value: U256,
        skip_cold_load: bool,
    ) -> Result<StateLoad<SStoreResult>, LoadError> {
        let met = self.view.meet_slot(address, Hash::from(key), Some(value), skip_cold_load);
        let met = self.park(met).map_err(stop)?.ok_or(LoadError::ColdLoadSkipped)?;
        let data =
            SStoreResult { original_value: met.original, present_value: met.present, new_value: value };
        Ok(StateLoad::new(data, met.is_cold))
    }

    fn sload_skip_cold_load(
        &mut self,
        address: Address,
        key: U256,
        skip_cold_load: bool,
    ) -> Result<StateLoad<U256>, LoadError> {
        // By Theta's rules nothing is cold.
        if !self.ethereum {
            let value = self.view.slot(address, Hash::from(key));
            return self.park(value).map(|value| StateLoad::new(value, false)).map_err(stop);
        }
        let met = self.view.meet_slot(address, Hash::from(key), None, skip_cold_load);
        let met = self.park(met).map_err(stop)?.ok_or(LoadError::ColdLoadSkipped)?;
        Ok(StateLoad::new(met.present, met.is_cold))
    }

    fn tstore(&mut self, address: Address, key: U256, value: U256) {
        self.session.set_transient(address, key, value);
    }

    fn tload(&mut self, address: Address, key: U256) -> U256 {
        self.session.transient(address, key)
    }

    fn load_account_info_skip_cold_load(
        &mut self,
        address: Address,
        load_code: bool,
        skip_cold_load: bool,
    ) -> Result<AccountInfoLoad<'_>, LoadError> {
        let is_cold = self.visit(address, skip_cold_load)?;
        let loaded = self.load(address, load_code);
        self.park(loaded).map(|loaded| AccountInfoLoad { is_cold, ..loaded }).map_err(stop)
    }
}

impl Machine<'_> {
    /// Whether the account was cold; it is not from now on. By Theta's rules nothing is.
    fn visit(&mut self, address: Address, skip: bool) -> Result<bool, LoadError> {
        if !self.ethereum
            || self.session.is_warm(address)
            || precompiles::at(address, &self.env.rules.evm, self.spec).is_some()
        {
            return Ok(false);
        }
        if skip {
            return Err(LoadError::ColdLoadSkipped);
        }
        self.session.warm(address);
        Ok(true)
    }

    fn load(&mut self, address: Address, code: bool) -> Result<AccountInfoLoad<'static>, StateError> {
        let is_empty = self.is_empty(address)?;
        let code = if code { Some(self.code_of(address)?) } else { None };
        let account = self.view.account(address)?;
        let info = AccountInfo {
            balance: account.map_or(U256::ZERO, |account| account.balance.tfuel.get()),
            // No instruction shows it, but EXTCODEHASH of Ethereum looks here whether anything is there: THETA counts.
            nonce: u64::from(!is_empty),
            code_hash: account.map_or(Hash::ZERO, |account| account.code_hash),
            code,
            ..AccountInfo::default()
        };
        Ok(AccountInfoLoad { account: Cow::Owned(info), is_cold: false, is_empty })
    }

    // By Ethereum's rules

    /// What is warm before a transaction runs (EIP-2929, 2930, 3651), and delegations (EIP-7702). Gives the gas that comes
    /// back for authorities that were there before.
    pub(crate) fn prepare(&mut self) -> Result<i64, StateError> {
        let (call, proposer) = (self.call, self.env.proposer);
        self.tell(|trace| trace.touch(proposer));
        self.session.warm(call.from);
        self.session.warm(self.env.proposer);
        for access in &call.access {
            self.session.warm(access.address);
            for slot in &access.slots {
                self.view.meet_slot(access.address, *slot, None, false)?;
            }
        }
        let mut refund = 0;
        for authorization in &call.authorizations {
            if self.delegate(authorization)? {
                refund += AUTHORITY_REFUND;
            }
        }
        if let Some(to) = call.to {
            self.session.warm(to);
        }
        Ok(refund)
    }

    /// Carries out an authorization, if it holds; whether its account was there.
    fn delegate(&mut self, authorization: &Authorization) -> Result<bool, StateError> {
        let for_us = authorization.chain_id.is_zero() || authorization.chain_id == self.env.chain_id;
        if !for_us || authorization.nonce == u64::MAX {
            return Ok(false);
        }
        let Ok(authority) = authorization.authority() else { return Ok(false) };
        self.tell(|trace| trace.touch(authority));
        self.session.warm(authority);
        let code = self.code_of(authority)?;
        let existed = self.view.account(authority)?.is_some();
        let mut account = self.account_or_new(authority)?;
        if (!code.is_empty() && !code.is_eip7702()) || account.sequence != authorization.nonce {
            return Ok(false);
        }
        account.code_hash = if authorization.address.is_zero() {
            EMPTY_CODE_HASH
        } else {
            self.view.store_code(Bytecode::new_eip7702(authorization.address).original_bytes().to_vec())
        };
        account.sequence += 1;
        self.view.store(account);
        Ok(existed)
    }

    /// SELFDESTRUCT (EIP-6780): all coins go to the heir, and a contract of this transaction is removed at its end. One that
    /// names itself then loses its TFUEL and keeps its THETA.
    fn end(&mut self, address: Address, heir: Address) -> Result<SelfDestructResult, StateError> {
        let target_exists = !self.is_empty(heir)?;
        let coins = self.balance(address)?;
        self.tell(|trace| trace.destroy(address, heir, coins));
        let created = self.session.is_created(address);
        if heir != address {
            self.move_tfuel(address, heir, coins.tfuel.get())?;
            self.move_theta(address, heir, coins.theta.get())?;
        } else if created && !coins.tfuel.is_zero() {
            self.take(address, Coins::tfuel(coins.tfuel))?;
        }
        let previously_destroyed = self.session.is_destroyed(address);
        if created {
            self.session.destroy(address);
        }
        Ok(SelfDestructResult { had_value: !coins.is_zero(), target_exists, previously_destroyed })
    }

    /// Removes the contracts that the transaction made and ended. THETA that such a one got since stays at its address.
    pub(crate) fn clear_destroyed(&mut self) -> Result<(), StateError> {
        for address in self.session.take_destroyed() {
            let coins = self.balance(address)?;
            if !coins.tfuel.is_zero() {
                self.take(address, Coins::tfuel(coins.tfuel))?;
            }
            self.view.remove(address);
            if !coins.theta.is_zero() {
                self.view.store(Account { balance: Coins::theta(coins.theta), ..Account::new(address, 0) });
            }
        }
        Ok(())
    }
}
