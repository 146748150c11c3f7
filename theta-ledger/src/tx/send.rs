//! Kind 2: coins from inputs to outputs.

use std::collections::BTreeMap;

use num_bigint::BigUint;
use serde::Serialize;
use theta_core::{amount::Coins, rlp_list, sign::Signature};

use super::{Body, MAX_ACCOUNTS, Scope, TxCoins, TxError, TxInput, TxOutput, charge, credit, enveloped};
use crate::{state::StateView, vm::VmOutcome};

/// Moves coins. The inputs are the outputs and the fee, exactly, in both coins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Send {
    /// Burned.
    pub fee: TxCoins,
    /// Who pays; each signs the same bytes.
    pub inputs: Vec<TxInput>,
    /// Who gets.
    pub outputs: Vec<TxOutput>,
}

rlp_list!(Send { fee, inputs, outputs });

impl Body for Send {
    const KIND: u16 = 2;
    fn signed_part(&self) -> Vec<u8> {
        let inputs = self.inputs.iter().map(TxInput::unsigned).collect();
        enveloped(Self::KIND, &Self { inputs, ..self.clone() })
    }
    /// The first input's; further inputs are signed one by one in [`Send::inputs`].
    fn attach(&mut self, signature: Signature) {
        if let Some(input) = self.inputs.first_mut() {
            input.signature = signature;
        }
    }
}

impl Send {
    pub(super) fn check(&self, scope: &Scope<'_>, view: &mut StateView) -> Result<(), TxError> {
        let count = self.inputs.len() + self.outputs.len();
        if self.inputs.is_empty() || self.outputs.is_empty() || count > MAX_ACCOUNTS {
            return Err(TxError::Accounts);
        }
        let mut accounts = BTreeMap::new();
        for input in &self.inputs {
            if accounts.contains_key(&input.address) {
                return Err(TxError::Duplicate(input.address));
            }
            accounts.insert(input.address, scope.existing(view, input.address)?);
        }
        for output in &self.outputs {
            if accounts.contains_key(&output.address) {
                return Err(TxError::Duplicate(output.address));
            }
            accounts.insert(output.address, view.load_or_new(output.address)?);
        }
        if scope.rules.tx.contracts
            && let Some(contract) = accounts.values().find(|account| account.is_contract())
        {
            return Err(TxError::Contract(contract.address));
        }
        let part = self.signed_part();
        for input in &self.inputs {
            scope.check_input(&accounts[&input.address], input, &part)?;
        }
        self.check_send_fee(scope, count)?;
        let sum = |coins: &mut dyn Iterator<Item = &TxCoins>| {
            coins.fold((BigUint::ZERO, BigUint::ZERO), |(theta, tfuel), coins| {
                (theta + &coins.theta, tfuel + &coins.tfuel)
            })
        };
        let paid = sum(&mut self.inputs.iter().map(|input| &input.coins));
        let got = sum(&mut self.outputs.iter().map(|output| &output.coins).chain([&self.fee]));
        if paid == got { Ok(()) } else { Err(TxError::Unbalanced) }
    }

    fn check_send_fee(&self, scope: &Scope<'_>, accounts: usize) -> Result<Coins, TxError> {
        let minimum = scope.rules.tx.min_fee;
        if !scope.rules.tx.send_fee_by_accounts {
            return scope.check_fee_of(&self.fee, minimum);
        }
        let halves = minimum.checked_mul(accounts.max(2) as u64).ok_or(TxError::Overflow)?;
        let minimum = theta_core::amount::TFuelWei::from_u256(halves.get() >> 1);
        scope.check_fee_of(&self.fee, minimum)
    }

    pub(super) fn apply(&self, _: &Scope<'_>, view: &mut StateView) -> Result<Option<VmOutcome>, TxError> {
        for input in &self.inputs {
            let mut account = view.load_or_new(input.address)?;
            charge(&mut account, input.coins.coins().ok_or(TxError::Overflow)?)?;
            account.sequence = account.sequence.wrapping_add(1);
            view.store(account);
        }
        for output in &self.outputs {
            let mut account = view.load_or_new(output.address)?;
            credit(&mut account, output.coins.coins().ok_or(TxError::Overflow)?)?;
            view.store(account);
        }
        Ok(None)
    }
}
