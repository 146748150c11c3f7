//! Kind 1: the punishment of an overspending payer. It can be encoded and signed; no rule lets it into a block.

use serde::Serialize;
use theta_core::{hash::Address, rlp_list, sign::Signature};

use super::{Body, Scope, TxError, TxInput, enveloped, json};
use crate::{state::StateView, vm::VmOutcome};

/// Punishes an overspending payer; never valid under today's rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Slash {
    /// A validator.
    pub proposer: TxInput,
    /// The payer.
    pub slashed_address: Address,
    /// Its fund.
    #[serde(serialize_with = "json::text")]
    pub reserve_sequence: u64,
    /// `[reserve sequence, [payment, ...]]`.
    #[serde(serialize_with = "json::base64")]
    pub slash_proof: Vec<u8>,
}

rlp_list!(Slash { proposer, slashed_address, reserve_sequence, slash_proof });

impl Body for Slash {
    const KIND: u16 = 1;
    fn signed_part(&self) -> Vec<u8> {
        enveloped(Self::KIND, &Self { proposer: self.proposer.unsigned(), ..self.clone() })
    }
    fn attach(&mut self, signature: Signature) {
        self.proposer.signature = signature;
    }
}

impl Slash {
    pub(super) fn check(&self, _: &Scope<'_>, _: &mut StateView) -> Result<(), TxError> {
        Err(TxError::UnsupportedKind)
    }

    pub(super) fn apply(&self, _: &Scope<'_>, _: &mut StateView) -> Result<Option<VmOutcome>, TxError> {
        Err(TxError::UnsupportedKind)
    }
}
