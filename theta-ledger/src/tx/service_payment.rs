//! Kind 5: a payment out of a reserved fund, signed off chain by the payer and settled by the payee.
//!
//! The payer signs the source form, which leaves out the fee and everything of the payee but its address; the payee signs
//! the target form, which holds all of it, and submits. Neither account's sequence counts: the payment sequence does.

use std::collections::BTreeMap;

use num_bigint::BigUint;
use serde::Serialize;
use theta_core::{
    amount::{Coins, TFuelWei, from_big},
    hash::{Address, Hash, keccak},
    rlp_list,
    sign::{SignError, Signature, Signer},
};

use super::{Body, Scope, TxCoins, TxError, TxInput, charge, credit, enveloped, json, sign_bytes};
use crate::{
    state::{StateView, account::TransferRecord},
    vm::VmOutcome,
};

/// Pays for a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServicePayment {
    /// Burned, paid by the target.
    pub fee: TxCoins,
    /// The payer and the amount, in TFUEL.
    pub source: TxInput,
    /// The payee; coins and sequence are not looked at.
    pub target: TxInput,
    /// Above that of every earlier payment of this fund to this payee.
    #[serde(serialize_with = "json::text")]
    pub payment_sequence: u64,
    /// The payer's fund.
    #[serde(serialize_with = "json::text")]
    pub reserve_sequence: u64,
    /// What is paid for; the fund has to list it.
    #[serde(serialize_with = "json::lossy")]
    pub resource_id: Vec<u8>,
}

rlp_list!(ServicePayment { fee, source, target, payment_sequence, reserve_sequence, resource_id });

impl Body for ServicePayment {
    const KIND: u16 = 5;
    /// The target form.
    fn signed_part(&self) -> Vec<u8> {
        enveloped(Self::KIND, &Self { target: self.target.unsigned(), ..self.clone() })
    }
    /// The target's.
    fn attach(&mut self, signature: Signature) {
        self.target.signature = signature;
    }
}

impl ServicePayment {
    /// A payment that nobody has signed yet.
    pub fn new(
        payer: Address,
        payee: Address,
        amount: TFuelWei,
        payment_sequence: u64,
        reserve_sequence: u64,
        resource_id: Vec<u8>,
    ) -> Self {
        Self {
            fee: TxCoins::default(),
            source: TxInput::new(payer, Coins::tfuel(amount), 0),
            target: TxInput::new(payee, Coins::ZERO, 0),
            payment_sequence,
            reserve_sequence,
            resource_id,
        }
    }

    /// The source form: what the payer signs.
    fn source_part(&self) -> Vec<u8> {
        let bare = |input: &TxInput, coins| TxInput { address: input.address, coins, ..TxInput::default() };
        let form = Self {
            fee: TxCoins::default(),
            source: bare(&self.source, self.source.coins.clone()),
            target: bare(&self.target, TxCoins::default()),
            ..self.clone()
        };
        enveloped(Self::KIND, &form)
    }

    /// The bytes whose Keccak-256 the payer signs.
    pub fn source_sign_bytes(&self, chain: &str) -> Vec<u8> {
        sign_bytes(chain, &self.source_part(), false)
    }

    /// What the payer signs.
    pub fn source_digest(&self, chain: &str) -> Hash {
        keccak(self.source_sign_bytes(chain))
    }

    /// Puts the payer's signature in.
    pub fn sign_as_payer(&mut self, chain: &str, payer: &dyn Signer) -> Result<(), SignError> {
        self.source.signature = payer.sign(&self.source_digest(chain))?;
        Ok(())
    }

    /// Whether its payer signed it.
    pub(super) fn is_payers(&self, scope: &Scope<'_>) -> bool {
        scope.is_signed_first(self.source.address, &self.source.signature, &self.source_part())
    }

    /// Recovers both signers into the cache.
    pub(super) fn recover(&self, scope: &Scope<'_>) {
        self.is_payers(scope);
        scope.is_signed_first(self.target.address, &self.target.signature, &self.signed_part());
    }

    pub(super) fn check(&self, scope: &Scope<'_>, view: &mut StateView) -> Result<(), TxError> {
        if self.source.address == self.target.address {
            return Err(TxError::Payment("payer and payee are the same"));
        }
        let source = scope.existing(view, self.source.address)?;
        if self.source.coins.theta != BigUint::ZERO {
            return Err(TxError::Payment("only TFuel can be paid"));
        }
        if !self.is_payers(scope) {
            return Err(TxError::Payment("the payer did not sign it"));
        }
        if !scope.is_signed_first(self.target.address, &self.target.signature, &self.signed_part()) {
            return Err(TxError::Payment("the payee did not sign it"));
        }
        scope.check_fee(&self.fee)?;
        let fund = source
            .reserved_funds
            .iter()
            .find(|fund| fund.reserve_sequence == self.reserve_sequence)
            .ok_or(TxError::Transfer("no fund with this reserve sequence"))?;
        if fund.end_height < scope.parent_height() {
            return Err(TxError::Transfer("the fund has ended"));
        }
        let last = fund
            .transfers
            .iter()
            .filter(|record| record.payment.target.address == self.target.address)
            .map(|record| record.payment.payment_sequence)
            .max()
            .unwrap_or(0);
        if self.payment_sequence <= last {
            return Err(TxError::Transfer("a payment with this or a higher payment sequence was made"));
        }
        Ok(())
    }

    /// Who gets how much of the amount, which may be of any width.
    fn parts(&self, scope: &Scope<'_>, view: &mut StateView) -> Result<BTreeMap<Address, BigUint>, TxError> {
        let amount = &self.source.coins.tfuel;
        let mut parts: BTreeMap<Address, BigUint> = BTreeMap::new();
        let mut left = amount.clone();
        match view.split_rule(&self.resource_id)? {
            Some(rule) if scope.parent_height() > rule.end_height => {
                view.set_split_rule(&self.resource_id, None);
            }
            Some(rule) => {
                for split in rule.splits.iter().filter(|split| split.percentage <= 100) {
                    let part = amount * split.percentage / 100_u8;
                    if part > left {
                        return Err(TxError::Payment("the split rule gives more than all away"));
                    }
                    left -= &part;
                    *parts.entry(split.address).or_default() += part;
                }
            }
            None => {}
        }
        *parts.entry(self.target.address).or_default() += left;
        Ok(parts)
    }

    pub(super) fn apply(
        &self,
        scope: &Scope<'_>,
        view: &mut StateView,
    ) -> Result<Option<VmOutcome>, TxError> {
        let parts = self.parts(scope, view)?;
        let source = scope.existing(view, self.source.address)?;
        let mut accounts = BTreeMap::from([(source.address, source)]);
        for address in parts.keys() {
            if !accounts.contains_key(address) {
                accounts.insert(*address, view.load_or_new(*address)?);
            }
        }
        let total: BigUint = parts.values().sum();
        let source = accounts.get_mut(&self.source.address).expect("inserted above");
        // A payment that the fund cannot cover, or does not list, is valid, moves nothing and leaves no record.
        let fund = source.reserved_funds.iter_mut().find(|fund| {
            fund.reserve_sequence == self.reserve_sequence && fund.resources.contains(&self.resource_id)
        });
        let covered = fund.and_then(|fund| {
            let total = Coins::tfuel(TFuelWei::from_u256(from_big(&total)?));
            let left = fund.initial.checked_sub(fund.used)?;
            left.checked_sub(total)?;
            fund.used = fund.used.checked_add(total)?;
            fund.transfers.push(TransferRecord { payment: self.clone() });
            Some(())
        });
        if covered.is_some() {
            for (address, part) in &parts {
                let account = accounts.get_mut(address).expect("inserted above");
                let part = from_big(part).ok_or(TxError::Overflow)?;
                credit(account, Coins::tfuel(TFuelWei::from_u256(part)))?;
            }
        }
        let target = accounts.get_mut(&self.target.address).expect("a part is the target's");
        charge(target, self.fee.coins().ok_or(TxError::Overflow)?).map_err(|_| TxError::ChargeGas)?;
        accounts.into_values().for_each(|account| view.store(account));
        Ok(None)
    }
}
