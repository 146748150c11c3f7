//! Kind 11: who shares in the rewards of a node's stakers.

use serde::Serialize;
use theta_core::{codec::rlp::Encode, rlp_list, sign::Signature, stake::reward::RewardDistribution};

use super::{Body, Scope, TxCoins, TxError, TxInput, TxOutput, affordable, charge, enveloped};
use crate::{
    state::{StateView, keys},
    vm::VmOutcome,
};

/// Most that can be split off, in hundredths of a percent.
const MAX_BASIS_POINT: u64 = 1000;

/// Sets a node's reward distribution; a part of zero removes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StakeRewardDistribution {
    /// Burned.
    pub fee: TxCoins,
    /// The node; nobody checks that it has stake.
    pub holder: TxInput,
    /// Who gets the part; its coins are not looked at.
    pub beneficiary: TxOutput,
    /// The part in hundredths of a percent.
    pub split_basis_point: u64,
}

rlp_list!(StakeRewardDistribution { fee, holder, beneficiary, split_basis_point });

impl Body for StakeRewardDistribution {
    const KIND: u16 = 11;
    fn signed_part(&self) -> Vec<u8> {
        enveloped(Self::KIND, &Self { holder: self.holder.unsigned(), ..self.clone() })
    }
    fn attach(&mut self, signature: Signature) {
        self.holder.signature = signature;
    }
}

impl StakeRewardDistribution {
    pub(super) fn check(&self, scope: &Scope<'_>, view: &mut StateView) -> Result<(), TxError> {
        let account = scope.existing(view, self.holder.address)?;
        scope.check_input(&account, &self.holder, &self.signed_part())?;
        if self.split_basis_point > MAX_BASIS_POINT {
            return Err(TxError::SplitBasisPoint);
        }
        scope.check_fee(&self.fee)?;
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
        let mut account = scope.existing(view, self.holder.address)?;
        charge(&mut account, self.fee.coins().ok_or(TxError::Overflow)?)?;
        let rule = RewardDistribution {
            holder: self.holder.address,
            beneficiary: self.beneficiary.address,
            split_basis_point: self.split_basis_point,
        };
        let record = (self.split_basis_point > 0).then(|| rule.to_rlp());
        view.set_record(keys::distribution(rule.holder), record);
        account.sequence = account.sequence.wrapping_add(1);
        view.store(account);
        Ok(None)
    }
}
