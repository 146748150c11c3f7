//! Transactions of one account, ready to be signed.

use std::sync::Arc;

use theta_core::{
    amount::{Coins, TFuelWei, ThetaWei},
    hash::Address,
    sign::Signer,
};
use theta_ledger::{
    state::account::Split,
    tx::{
        DepositStake, DepositStakeV2, HolderSummary, OverspendingProof, Purpose, ReserveFund, Send,
        SetSplitRule, Slash, SmartContract, TxInput, TxOutput, Unsigned, WithdrawStake,
    },
    vm::VmCall,
};

/// Least fee of most transactions since June 2021: 0.3 TFUEL. A send to up to one receiver pays as much.
pub fn minimum_fee() -> TFuelWei {
    TFuelWei::wei(300_000_000_000_000_000_u64)
}

/// Least fee of a send with one input and one output.
pub fn minimum_send_fee() -> TFuelWei {
    minimum_fee()
}

/// Least price of a unit of gas since June 2021, in TFuelWei.
pub const MINIMUM_GAS_PRICE: u64 = 4_000_000_000_000;

/// One account on one chain.
#[derive(Clone)]
pub struct Wallet {
    chain: String,
    signer: Arc<dyn Signer>,
}

impl std::fmt::Debug for Wallet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wallet").field("chain", &self.chain).field("address", &self.address()).finish()
    }
}

impl Wallet {
    /// An account on the chain of this name (`mainnet`, `privatenet`, …).
    pub fn new(chain: impl Into<String>, signer: impl Signer + 'static) -> Self {
        Self { chain: chain.into(), signer: Arc::new(signer) }
    }

    /// The account.
    pub fn address(&self) -> Address {
        self.signer.address()
    }

    /// Who signs.
    pub fn signer(&self) -> &dyn Signer {
        self.signer.as_ref()
    }

    fn input(&self, coins: Coins, sequence: u64) -> TxInput {
        TxInput::new(self.address(), coins, sequence)
    }

    fn unsigned<T: theta_ledger::tx::Body + Into<theta_ledger::tx::Transaction>>(
        &self,
        body: T,
    ) -> Unsigned<T> {
        Unsigned::new(self.chain.clone(), body)
    }

    /// Sends coins. `sequence` is one above the account's; the fee is paid on top of the coins.
    pub fn send(&self, sequence: u64, to: Address, coins: Coins, fee: TFuelWei) -> Unsigned<Send> {
        let fee = Coins::tfuel(fee);
        // A sum above 2^256 wei belongs to nobody; the node says so.
        let all = coins.checked_add(fee).unwrap_or(coins);
        self.unsigned(Send {
            fee: fee.into(),
            inputs: vec![self.input(all, sequence)],
            outputs: vec![TxOutput::new(to, coins)],
        })
    }

    /// Stakes THETA behind a validator or guardian that is known, or TFUEL behind an elite edge node that is.
    pub fn deposit(
        &self,
        sequence: u64,
        holder: Address,
        purpose: Purpose,
        stake: Coins,
        fee: TFuelWei,
    ) -> Unsigned<DepositStake> {
        self.unsigned(DepositStake {
            fee: Coins::tfuel(fee).into(),
            source: self.input(stake, sequence),
            holder: TxOutput::new(holder, Coins::ZERO),
            purpose,
        })
    }

    /// Stakes behind a guardian or an elite edge node that the chain may not know yet: the summary introduces it. Behind a
    /// validator, it brings its key, on chains where validators have keys; others refuse the signature.
    pub fn deposit_behind(
        &self,
        sequence: u64,
        node: &HolderSummary,
        purpose: Purpose,
        stake: Coins,
        fee: TFuelWei,
    ) -> Unsigned<DepositStakeV2> {
        let unsigned = self.unsigned(DepositStakeV2 {
            fee: Coins::tfuel(fee).into(),
            source: self.input(stake, sequence),
            holder: TxOutput::new(node.holder, Coins::ZERO),
            purpose,
            key: Some(node.key),
            proof: Some(node.proof),
            holder_signature: node.signature.clone(),
        });
        if purpose == Purpose::VALIDATOR { unsigned.with_key() } else { unsigned }
    }

    /// Begins the return of the account's whole stake with a holder.
    pub fn withdraw(
        &self,
        sequence: u64,
        holder: Address,
        purpose: Purpose,
        fee: TFuelWei,
    ) -> Unsigned<WithdrawStake> {
        self.unsigned(WithdrawStake {
            fee: Coins::tfuel(fee).into(),
            source: self.input(Coins::ZERO, sequence),
            holder: TxOutput::new(holder, Coins::ZERO),
            purpose,
        })
    }

    /// Sets TFUEL aside for service payments, for 300 to 43,200 blocks. The collateral has to be more than the fund.
    pub fn reserve(
        &self,
        sequence: u64,
        fund: TFuelWei,
        collateral: TFuelWei,
        resources: Vec<Vec<u8>>,
        duration: u64,
        fee: TFuelWei,
    ) -> Unsigned<ReserveFund> {
        self.unsigned(ReserveFund {
            fee: Coins::tfuel(fee).into(),
            source: self.input(Coins::tfuel(fund), sequence),
            collateral: Coins::tfuel(collateral).into(),
            resource_ids: resources,
            duration,
        })
    }

    /// Sets who shares in the payments for a resource, for so many blocks. Only this account may change it afterwards.
    pub fn split_rule(
        &self,
        sequence: u64,
        resource_id: Vec<u8>,
        splits: Vec<Split>,
        duration: u64,
        fee: TFuelWei,
    ) -> Unsigned<SetSplitRule> {
        self.unsigned(SetSplitRule {
            fee: Coins::tfuel(fee).into(),
            resource_id,
            initiator: self.input(Coins::ZERO, sequence),
            splits,
            duration,
        })
    }

    /// Brings the proof that `payer` signed more payments out of a fund than it holds, which burns the fund's collateral.
    /// Costs no fee. Chains take it where their rules say so (`slash_overspending`); under the main network's no block may
    /// hold one (`ledger.md` 3).
    pub fn slash(&self, sequence: u64, payer: Address, proof: &OverspendingProof) -> Unsigned<Slash> {
        self.unsigned(Slash::new(self.address(), sequence, payer, proof))
    }

    /// Creates or calls a contract; `call.from` is replaced by the account.
    pub fn contract(&self, sequence: u64, call: &VmCall) -> Unsigned<SmartContract> {
        let value = Coins { theta: ThetaWei::from_u256(call.theta), tfuel: TFuelWei::from_u256(call.tfuel) };
        self.unsigned(SmartContract::new(self.input(value, sequence), call))
    }
}
