//! Kind 1: the punishment of a payer who signed away more than its fund holds, or of a validator that contradicted itself
//! (`equivocation`, where the reserve sequence is 0). The reference can encode and sign it, and no rule of its lets it into
//! a block; ours do where `slash_overspending` and `slash_equivocation` hold.
//!
//! Anybody may bring the proof: payments out of one fund, signed by the payer, no two of them with the same payee and
//! payment sequence, together more than the fund held at first (`edge.md` 5.1). Those that can still settle share what is
//! left of the fund in proportion. The collateral is burned, and what rounding leaves: whoever got a part of it could be
//! the payer itself under another name, and overspend for nothing.

use std::collections::{BTreeMap, BTreeSet};

use num_bigint::BigUint;
use serde::Serialize;
use theta_core::{
    amount::{Coins, TFuelWei, from_big, to_big},
    codec::rlp::{Decode, Encode},
    hash::Address,
    rlp_list,
    sign::Signature,
};

use super::{Body, Scope, ServicePayment, TxCoins, TxError, TxInput, credit, enveloped, json};
use crate::{
    state::{
        StateView,
        account::{Account, ReservedFund},
    },
    vm::VmOutcome,
};

/// Payments in a proof: as many as one transaction may touch accounts.
pub const MAX_PROOF_PAYMENTS: usize = 512;

/// Punishes an overspending payer, or a validator that contradicted itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Slash {
    /// Who brings the proof, without coins.
    pub proposer: TxInput,
    /// The payer, or the validator.
    pub slashed_address: Address,
    /// The payer's fund; 0 for a validator.
    #[serde(serialize_with = "json::text")]
    pub reserve_sequence: u64,
    /// An [`OverspendingProof`], or [`theta_core::evidence::Evidence`] against a validator.
    #[serde(serialize_with = "json::base64")]
    pub slash_proof: Vec<u8>,
}

rlp_list!(Slash { proposer, slashed_address, reserve_sequence, slash_proof });

/// Payments that a fund cannot pay together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverspendingProof {
    /// The fund.
    pub reserve_sequence: u64,
    /// The payments, as their payer signed them; what the payee signs is not looked at.
    pub payments: Vec<ServicePayment>,
}

rlp_list!(OverspendingProof { reserve_sequence, payments });

impl Slash {
    /// A proof against a payer, brought by whoever signs it.
    pub fn new(bringer: Address, sequence: u64, payer: Address, proof: &OverspendingProof) -> Self {
        Self {
            proposer: TxInput::new(bringer, Coins::ZERO, sequence),
            slashed_address: payer,
            reserve_sequence: proof.reserve_sequence,
            slash_proof: proof.to_rlp(),
        }
    }

    /// The proof in it.
    pub fn proof(&self) -> Result<OverspendingProof, TxError> {
        Ok(OverspendingProof::from_rlp(&self.slash_proof, self.slash_proof.len())?)
    }
}

impl Body for Slash {
    const KIND: u16 = 1;
    fn signed_part(&self) -> Vec<u8> {
        enveloped(Self::KIND, &Self { proposer: self.proposer.unsigned(), ..self.clone() })
    }
    fn attach(&mut self, signature: Signature) {
        self.proposer.signature = signature;
    }
}

/// The last payment sequence that settled for each payee.
fn settled(fund: &ReservedFund) -> BTreeMap<Address, u64> {
    let mut last = BTreeMap::new();
    for payment in fund.transfers.iter().map(|record| &record.payment) {
        let sequence: &mut u64 = last.entry(payment.target.address).or_default();
        *sequence = payment.payment_sequence.max(*sequence);
    }
    last
}

fn fund_of(account: &Account, reserve_sequence: u64) -> Option<&ReservedFund> {
    account.reserved_funds.iter().find(|fund| fund.reserve_sequence == reserve_sequence)
}

impl Slash {
    pub(super) fn check(&self, scope: &Scope<'_>, view: &mut StateView) -> Result<(), TxError> {
        if scope.rules.stake.slash_equivocation && self.is_of_equivocation() {
            return self.check_equivocation(scope, view);
        }
        let bringer = scope.existing(view, self.proposer.address)?;
        if self.proposer.coins != TxCoins::default() {
            return Err(TxError::Overspending("it carries no coins"));
        }
        scope.check_input(&bringer, &self.proposer, &self.signed_part())?;
        let payer = scope.existing(view, self.slashed_address)?;
        let fund = fund_of(&payer, self.reserve_sequence)
            .ok_or(TxError::Overspending("the payer has no fund with this reserve sequence"))?;
        let proof = self.proof()?;
        if proof.payments.len() > MAX_PROOF_PAYMENTS {
            return Err(TxError::Overspending("at most 512 payments make a proof"));
        }
        if proof.reserve_sequence != self.reserve_sequence {
            return Err(TxError::Overspending("the proof is of another fund"));
        }
        let (mut known, mut sum) = (BTreeSet::new(), BigUint::ZERO);
        for payment in &proof.payments {
            let fault = |what| Err(TxError::Overspending(what));
            let (source, target) = (&payment.source, payment.target.address);
            if source.address != self.slashed_address {
                return fault("a payment is another payer's");
            }
            if payment.reserve_sequence != self.reserve_sequence {
                return fault("a payment is out of another fund");
            }
            // Such payments move nothing when they settle.
            if source.coins.theta != BigUint::ZERO || !fund.resources.contains(&payment.resource_id) {
                return fault(
                    "a payment can never settle: it is in THETA, or for a resource the fund is not for",
                );
            }
            if target == self.slashed_address {
                return fault("a payment is to the payer itself");
            }
            if !known.insert((target, payment.payment_sequence)) {
                return fault(
                    "two payments have one payee and one payment sequence: only one of them can settle",
                );
            }
            sum += &source.coins.tfuel;
        }
        if sum <= to_big(fund.initial.tfuel.get()) {
            return Err(TxError::Overspending("the payments together are not more than the fund"));
        }
        // Last, for it costs most.
        if !proof.payments.iter().all(|payment| payment.is_payers(scope)) {
            return Err(TxError::Overspending("the payer did not sign a payment"));
        }
        Ok(())
    }

    pub(super) fn apply(
        &self,
        scope: &Scope<'_>,
        view: &mut StateView,
    ) -> Result<Option<VmOutcome>, TxError> {
        if scope.rules.stake.slash_equivocation && self.is_of_equivocation() {
            return self.apply_equivocation(scope, view);
        }
        let mut bringer = scope.existing(view, self.proposer.address)?;
        bringer.sequence = bringer.sequence.wrapping_add(1);
        view.store(bringer);
        let mut payer = scope.existing(view, self.slashed_address)?;
        let place =
            payer.reserved_funds.iter().position(|fund| fund.reserve_sequence == self.reserve_sequence);
        let fund = payer.reserved_funds.remove(place.ok_or(TxError::Overspending("the fund is gone"))?);
        view.store(payer);
        let settled = settled(&fund);
        let mut open: BTreeMap<Address, BigUint> = BTreeMap::new();
        for payment in self.proof()?.payments {
            let payee = payment.target.address;
            if payment.payment_sequence > settled.get(&payee).copied().unwrap_or(0) {
                *open.entry(payee).or_default() += payment.source.coins.tfuel;
            }
        }
        let left = to_big(fund.left().tfuel.get());
        let total: BigUint = open.values().sum();
        for (payee, claim) in open.into_iter().filter(|(_, claim)| *claim != BigUint::ZERO) {
            let part = if total > left { &left * &claim / &total } else { claim };
            let part = TFuelWei::from_u256(from_big(&part).ok_or(TxError::Overflow)?);
            let mut account = view.load_or_new(payee)?;
            credit(&mut account, Coins::tfuel(part))?;
            view.store(account);
        }
        Ok(None)
    }
}
