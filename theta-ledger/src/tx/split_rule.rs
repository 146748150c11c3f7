//! Kind 6: who shares in the payments for a resource.

use serde::{Serialize, Serializer, ser::SerializeSeq};
use theta_core::{rlp_list, sign::Signature};

use super::{Body, MAX_ACCOUNTS, Scope, TxCoins, TxError, TxInput, affordable, charge, enveloped, json};
use crate::{
    state::{SplitRule, StateView, account::Split},
    vm::VmOutcome,
};

/// Sets or changes the split rule of a resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SetSplitRule {
    /// Burned.
    pub fee: TxCoins,
    /// The resource.
    #[serde(serialize_with = "json::lossy")]
    pub resource_id: Vec<u8>,
    /// Who sets it and alone may change it.
    pub initiator: TxInput,
    /// The parts, at most 100 percent in all.
    #[serde(serialize_with = "splits")]
    pub splits: Vec<Split>,
    /// Life in blocks.
    #[serde(serialize_with = "json::text")]
    pub duration: u64,
}

rlp_list!(SetSplitRule { fee, resource_id, initiator, splits, duration });

fn splits<S: Serializer>(items: &[Split], serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Row {
        address: theta_core::hash::Address,
        percentage: u64,
    }
    let mut list = serializer.serialize_seq(Some(items.len()))?;
    for Split { address, percentage } in items {
        list.serialize_element(&Row { address: *address, percentage: *percentage })?;
    }
    list.end()
}

impl Body for SetSplitRule {
    const KIND: u16 = 6;
    fn signed_part(&self) -> Vec<u8> {
        enveloped(Self::KIND, &Self { initiator: self.initiator.unsigned(), ..self.clone() })
    }
    fn attach(&mut self, signature: Signature) {
        self.initiator.signature = signature;
    }
}

impl SetSplitRule {
    pub(super) fn check(&self, scope: &Scope<'_>, view: &mut StateView) -> Result<(), TxError> {
        let account = scope.existing(view, self.initiator.address)?;
        scope.check_input(&account, &self.initiator, &self.signed_part())?;
        scope.check_fee(&self.fee)?;
        if affordable(&account, &self.fee).is_none() {
            return Err(TxError::InsufficientFee);
        }
        if self.splits.len() + 1 > MAX_ACCOUNTS {
            return Err(TxError::Split("too many parts"));
        }
        let percentages = || self.splits.iter().map(|split| u128::from(split.percentage));
        if percentages().any(|percentage| percentage > 100) || percentages().sum::<u128>() > 100 {
            return Err(TxError::Split("the parts are more than 100 percent"));
        }
        match view.split_rule(&self.resource_id)? {
            Some(rule) if rule.initiator != self.initiator.address => Err(TxError::SplitOwner),
            _ => Ok(()),
        }
    }

    pub(super) fn apply(
        &self,
        scope: &Scope<'_>,
        view: &mut StateView,
    ) -> Result<Option<VmOutcome>, TxError> {
        let mut account = scope.existing(view, self.initiator.address)?;
        charge(&mut account, self.fee.coins().ok_or(TxError::Overflow)?)?;
        view.drop_ended_splits(scope.parent_height())?;
        let rule = SplitRule {
            initiator: self.initiator.address,
            resource: self.resource_id.clone(),
            splits: self.splits.clone(),
            end_height: scope.parent_height().wrapping_add(self.duration),
        };
        view.set_split_rule(&self.resource_id, Some(&rule));
        account.sequence = account.sequence.wrapping_add(1);
        view.store(account);
        Ok(None)
    }
}
