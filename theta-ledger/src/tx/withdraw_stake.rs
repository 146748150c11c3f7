//! Kind 9: the begin of a stake's return. The whole stake of a source with a holder comes back after the lock.

use serde::Serialize;
use theta_core::{rlp_list, sign::Signature};

use super::{Body, Purpose, Scope, TxCoins, TxError, TxInput, TxOutput, affordable, charge, enveloped};
use crate::{staking, state::StateView, vm::VmOutcome};

/// Begins the return of a stake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WithdrawStake {
    /// Burned.
    pub fee: TxCoins,
    /// Whose stake; its coins only have to be affordable.
    pub source: TxInput,
    /// The node; its coins are not looked at.
    pub holder: TxOutput,
    /// What the stake is for.
    pub purpose: Purpose,
}

rlp_list!(WithdrawStake { fee, source, holder, purpose });

impl Body for WithdrawStake {
    const KIND: u16 = 9;
    fn signed_part(&self) -> Vec<u8> {
        enveloped(Self::KIND, &Self { source: self.source.unsigned(), ..self.clone() })
    }
    fn attach(&mut self, signature: Signature) {
        self.source.signature = signature;
    }
}

impl WithdrawStake {
    pub(super) fn check(&self, scope: &Scope<'_>, view: &mut StateView) -> Result<(), TxError> {
        let account = scope.existing(view, self.source.address)?;
        scope.check_input(&account, &self.source, &self.signed_part())?;
        scope.check_fee(&self.fee)?;
        if self.purpose > Purpose::ELITE_EDGE {
            return Err(TxError::Purpose);
        }
        if affordable(&account, &self.fee).is_none() {
            return Err(TxError::InsufficientFee);
        }
        Ok(())
    }

    pub(super) fn apply(
        &self,
        scope: &Scope<'_>,
        view: &mut StateView,
    ) -> Result<Option<VmOutcome>, TxError> {
        let mut account = scope.existing(view, self.source.address)?;
        charge(&mut account, self.fee.coins().ok_or(TxError::Overflow)?)?;
        let (source, holder) = (self.source.address, self.holder.address);
        staking::withdraw(view, scope.rules, scope.parent_height(), self.purpose, source, holder)?;
        if self.purpose == Purpose::VALIDATOR {
            view.add_stake_height(scope.height())?;
        }
        account.sequence = account.sequence.wrapping_add(1);
        view.store(account);
        Ok(None)
    }
}
