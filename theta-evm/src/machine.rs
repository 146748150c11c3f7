//! What instructions see of the world: the state, the block, the transaction.

use std::{borrow::Cow, collections::BTreeMap};

use revm::{
    bytecode::Bytecode,
    context_interface::{
        cfg::GasParams,
        context::{SStoreResult, SelfDestructResult, StateLoad},
        host::LoadError,
        journaled_state::AccountInfoLoad,
    },
    interpreter::{Host, InstructionResult},
    primitives::Log as RevmLog,
    state::AccountInfo,
};
use theta_core::{
    amount::{Coins, TFuelWei, ThetaWei},
    hash::{Address, EMPTY_CODE_HASH, Hash, U256},
};
use theta_ledger::{
    state::{Account, StateError, StateView, account::DEAD_CODE_HASH},
    vm::{BalanceChange, Log, VmCall, VmEnv},
};

use crate::{halt::Halt, opcodes::BASE};

const THETA: u8 = 0;
const TFUEL: u8 = 1;

/// One transaction's run. Everything that a failed frame takes back is in the view; what stays is here.
pub(crate) struct Machine<'a> {
    pub(crate) view: &'a mut StateView,
    pub(crate) env: &'a VmEnv<'a>,
    pub(crate) call: &'a VmCall,
    pub(crate) gas: GasParams,
    /// Why the last instruction failed, where the interpreter has no word for it.
    pub(crate) halt: Option<Halt>,
    /// Why the state could not be read during the last instruction.
    pub(crate) error: Option<StateError>,
    /// In order, those of failed inner frames included.
    pub(crate) logs: Vec<Log>,
    /// In order, those of failed inner frames included.
    pub(crate) balance_changes: Vec<BalanceChange>,
    /// Code with its jump targets found, by hash.
    codes: BTreeMap<Hash, Bytecode>,
}

impl<'a> Machine<'a> {
    pub(crate) fn new(view: &'a mut StateView, env: &'a VmEnv<'a>, call: &'a VmCall) -> Self {
        Self {
            view,
            env,
            call,
            gas: GasParams::new_spec(BASE),
            halt: None,
            error: None,
            logs: Vec::new(),
            balance_changes: Vec::new(),
            codes: BTreeMap::new(),
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
        if let Some(code) = self.codes.get(&hash) {
            return Ok(code.clone());
        }
        // Never a delegation, whatever its first bytes are.
        let code = Bytecode::new_legacy(self.view.code(hash)?.into());
        self.codes.insert(hash, code.clone());
        Ok(code)
    }

    pub(crate) fn code_of(&mut self, address: Address) -> Result<Bytecode, StateError> {
        let hash = self.view.account(address)?.map_or(EMPTY_CODE_HASH, |account| account.code_hash);
        self.code(hash)
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
        let mut record = |token, delta: U256| {
            if !delta.is_zero() {
                self.balance_changes.push(BalanceChange { address, token, negative, delta });
            }
        };
        record(TFUEL, coins.tfuel.get());
        record(THETA, coins.theta.get());
    }

    /// Ends a contract: its TFUEL goes to `heir`, its code is marked dead; THETA, storage and sequence stay.
    pub(crate) fn destroy(&mut self, address: Address, heir: Address) -> Result<(), StateError> {
        let balance = Coins::tfuel(self.balance(address)?.tfuel);
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

/// What Theta's instructions do not have is answered by nothing: they are refused before they run.
impl Host for Machine<'_> {
    fn basefee(&self) -> U256 {
        U256::ZERO
    }

    fn blob_gasprice(&self) -> U256 {
        U256::ZERO
    }

    /// The transaction's, not a block's.
    fn gas_limit(&self) -> U256 {
        U256::from(self.call.gas_limit)
    }

    fn difficulty(&self) -> U256 {
        U256::ZERO
    }

    fn prevrandao(&self) -> Option<U256> {
        None
    }

    fn block_number(&self) -> U256 {
        U256::from(self.env.height)
    }

    fn timestamp(&self) -> U256 {
        self.env.timestamp
    }

    fn beneficiary(&self) -> Address {
        Address::ZERO
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
        usize::MAX
    }

    fn gas_params(&self) -> &GasParams {
        &self.gas
    }

    fn is_amsterdam_eip8037_enabled(&self) -> bool {
        false
    }

    fn block_hash(&mut self, _: u64) -> Option<Hash> {
        None
    }

    fn selfdestruct(
        &mut self,
        _: Address,
        _: Address,
        _: bool,
    ) -> Result<StateLoad<SelfDestructResult>, LoadError> {
        Ok(StateLoad::default())
    }

    fn log(&mut self, log: RevmLog) {
        let (topics, data) = log.data.split();
        self.logs.push(Log { address: log.address, topics, data: data.to_vec() });
    }

    fn sstore_skip_cold_load(
        &mut self,
        _: Address,
        _: U256,
        _: U256,
        _: bool,
    ) -> Result<StateLoad<SStoreResult>, LoadError> {
        Ok(StateLoad::default())
    }

    fn sload_skip_cold_load(
        &mut self,
        address: Address,
        key: U256,
        _: bool,
    ) -> Result<StateLoad<U256>, LoadError> {
        let value = self.view.slot(address, Hash::from(key));
        self.park(value).map(|value| StateLoad::new(value, false)).map_err(stop)
    }

    fn tstore(&mut self, _: Address, _: U256, _: U256) {}

    fn tload(&mut self, _: Address, _: U256) -> U256 {
        U256::ZERO
    }

    fn load_account_info_skip_cold_load(
        &mut self,
        address: Address,
        load_code: bool,
        _: bool,
    ) -> Result<AccountInfoLoad<'_>, LoadError> {
        let loaded = self.load(address, load_code);
        self.park(loaded).map_err(stop)
    }
}

impl Machine<'_> {
    fn load(&mut self, address: Address, code: bool) -> Result<AccountInfoLoad<'static>, StateError> {
        let is_empty = self.is_empty(address)?;
        let code = if code { Some(self.code_of(address)?) } else { None };
        let account = self.view.account(address)?;
        let info = AccountInfo {
            balance: account.map_or(U256::ZERO, |account| account.balance.tfuel.get()),
            nonce: account.map_or(0, |account| account.sequence),
            code_hash: account.map_or(Hash::ZERO, |account| account.code_hash),
            code,
            ..AccountInfo::default()
        };
        Ok(AccountInfoLoad { account: Cow::Owned(info), is_cold: false, is_empty })
    }
}
