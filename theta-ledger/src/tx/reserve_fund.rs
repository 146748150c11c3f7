//! Kind 3: coins set aside for service payments.

use serde::{Serialize, Serializer, ser::SerializeSeq};
use theta_core::{amount::Coins, rlp_list, sign::Signature};

use super::{Body, Scope, TxCoins, TxError, TxInput, affordable, charge, enveloped, json};
use crate::{
    state::{ReservedFund, StateView},
    vm::VmOutcome,
};

/// Shortest and longest life of a fund in blocks.
const DURATION: std::ops::RangeInclusive<u64> = 300..=43_200;

/// Sets coins aside. The source's coins are the fund; the collateral is more than the fund and lost by overspending.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReserveFund {
    /// Burned.
    pub fee: TxCoins,
    /// Who pays; its sequence becomes the fund's name.
    pub source: TxInput,
    /// More than the fund.
    pub collateral: TxCoins,
    /// What may be paid for.
    #[serde(serialize_with = "texts")]
    pub resource_ids: Vec<Vec<u8>>,
    /// Life in blocks.
    #[serde(serialize_with = "json::text")]
    pub duration: u64,
}

rlp_list!(ReserveFund { fee, source, collateral, resource_ids, duration });

fn texts<S: Serializer>(items: &[Vec<u8>], serializer: S) -> Result<S::Ok, S::Error> {
    let mut list = serializer.serialize_seq(Some(items.len()))?;
    for item in items {
        list.serialize_element(&String::from_utf8_lossy(item))?;
    }
    list.end()
}

impl Body for ReserveFund {
    const KIND: u16 = 3;
    fn signed_part(&self) -> Vec<u8> {
        enveloped(Self::KIND, &Self { source: self.source.unsigned(), ..self.clone() })
    }
    fn attach(&mut self, signature: Signature) {
        self.source.signature = signature;
    }
}

impl ReserveFund {
    pub(super) fn check(&self, scope: &Scope<'_>, view: &mut StateView) -> Result<(), TxError> {
        let account = scope.existing(view, self.source.address)?;
        scope.check_input(&account, &self.source, &self.signed_part())?;
        let fund = self.source.coins.coins().ok_or(TxError::Overflow)?;
        if fund.is_zero() {
            return Err(TxError::NothingReserved);
        }
        if !fund.theta.is_zero() {
            return Err(TxError::ReservedTheta);
        }
        scope.check_fee(&self.fee)?;
        let all = TxCoins {
            theta: &self.source.coins.theta + &self.collateral.theta + &self.fee.theta,
            tfuel: &self.source.coins.tfuel + &self.collateral.tfuel + &self.fee.tfuel,
        };
        if affordable(&account, &all).is_none() {
            return Err(TxError::insufficient(account.balance, all));
        }
        if !DURATION.contains(&self.duration) {
            return Err(TxError::Reserve("a fund lives for 300 to 43200 blocks"));
        }
        let collateral = self.collateral.coins().ok_or(TxError::Overflow)?;
        match collateral.checked_sub(fund) {
            Some(more) if !more.is_zero() => {}
            _ => return Err(TxError::Reserve("the collateral has to be more than the fund")),
        }
        if account.reserved_funds.iter().any(|fund| fund.reserve_sequence >= self.source.sequence) {
            return Err(TxError::Reserve("a fund with this sequence exists"));
        }
        Ok(())
    }

    pub(super) fn apply(
        &self,
        scope: &Scope<'_>,
        view: &mut StateView,
    ) -> Result<Option<VmOutcome>, TxError> {
        let mut account = scope.existing(view, self.source.address)?;
        let initial = self.source.coins.coins().ok_or(TxError::Overflow)?;
        let collateral = self.collateral.coins().ok_or(TxError::Overflow)?;
        for coins in [initial, collateral, self.fee.coins().ok_or(TxError::Overflow)?] {
            charge(&mut account, coins)?;
        }
        account.reserved_funds.push(ReservedFund {
            collateral,
            initial,
            used: Coins::ZERO,
            resources: self.resource_ids.clone(),
            end_height: scope.parent_height() + self.duration,
            reserve_sequence: self.source.sequence,
            transfers: Vec::new(),
        });
        account.sequence = account.sequence.wrapping_add(1);
        view.store(account);
        Ok(None)
    }
}
