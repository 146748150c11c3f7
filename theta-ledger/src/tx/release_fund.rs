//! Kind 4: the return of a reserved fund before its time. It can never succeed: a fund that is due is released when the
//! account is loaded, before this check could find it.

use serde::Serialize;
use theta_core::{rlp_list, sign::Signature};

use super::{Body, Scope, TxCoins, TxError, TxInput, affordable, enveloped, json};
use crate::{state::StateView, vm::VmOutcome};

/// Takes a reserved fund back; never valid, see the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReleaseFund {
    /// Burned.
    pub fee: TxCoins,
    /// Whose fund it is.
    pub source: TxInput,
    /// Which fund.
    #[serde(serialize_with = "json::text")]
    pub reserve_sequence: u64,
}

rlp_list!(ReleaseFund { fee, source, reserve_sequence });

impl Body for ReleaseFund {
    const KIND: u16 = 4;
    fn signed_part(&self) -> Vec<u8> {
        enveloped(Self::KIND, &Self { source: self.source.unsigned(), ..self.clone() })
    }
    fn attach(&mut self, signature: Signature) {
        self.source.signature = signature;
    }
}

impl ReleaseFund {
    pub(super) fn check(&self, scope: &Scope<'_>, view: &mut StateView) -> Result<(), TxError> {
        let account = scope.existing(view, self.source.address)?;
        scope.check_input(&account, &self.source, &self.signed_part())?;
        scope.check_fee(&self.fee)?;
        if affordable(&account, &self.fee).is_none() {
            return Err(TxError::insufficient(account.balance, self.fee.clone()));
        }
        let there = account.reserved_funds.iter().any(|fund| fund.reserve_sequence == self.reserve_sequence);
        Err(TxError::Release(if there {
            "the fund is still in use; it comes back by itself five blocks after its end"
        } else {
            "no fund with this reserve sequence"
        }))
    }

    pub(super) fn apply(
        &self,
        scope: &Scope<'_>,
        view: &mut StateView,
    ) -> Result<Option<VmOutcome>, TxError> {
        self.check(scope, view).map(|()| None)
    }
}
