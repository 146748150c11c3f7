//! Kind 7: a contract is created or called, by a native wallet or an Ethereum one.

use num_bigint::BigUint;
use serde::Serialize;
use theta_core::{
    amount::{Coins, TFuelWei, to_big},
    hash::Address,
    rlp_list,
    sign::Signature,
};

use super::{Body, Scope, TxCoins, TxError, TxInput, TxOutput, affordable, enveloped, ethereum, json, word};
use crate::{
    state::StateView,
    vm::{VmCall, VmEnv, VmOutcome},
};

/// Creates a contract (`to` is zero) or calls one. The coins of `from` are sent along; those of `to` are not looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SmartContract {
    /// Who calls and pays.
    pub from: TxInput,
    /// The contract, or the zero address.
    pub to: TxOutput,
    /// Most gas that may be used.
    #[serde(serialize_with = "json::text")]
    pub gas_limit: u64,
    /// TFuelWei for a unit of gas.
    #[serde(serialize_with = "json::text")]
    pub gas_price: BigUint,
    /// Input, or code that makes a contract.
    #[serde(serialize_with = "json::base64")]
    pub data: Vec<u8>,
}

rlp_list!(SmartContract { from, to, gas_limit, gas_price, data });

impl Body for SmartContract {
    const KIND: u16 = 7;
    fn signed_part(&self) -> Vec<u8> {
        enveloped(Self::KIND, &Self { from: self.from.unsigned(), ..self.clone() })
    }
    fn attach(&mut self, signature: Signature) {
        self.from.signature = signature;
    }
}

/// Gas that the bytes of a call or creation cost before any code runs: 21,000 or 53,000, 4 for a zero byte, 68 for another
///.
pub fn intrinsic_gas(data: &[u8], creates: bool) -> u64 {
    let base: u64 = if creates { 53_000 } else { 21_000 };
    data.iter().fold(base, |gas, byte| gas.saturating_add(if *byte == 0 { 4 } else { 68 }))
}

impl SmartContract {
    /// The contract called, or `None` for a creation.
    pub fn callee(&self) -> Option<Address> {
        Some(self.to.address).filter(|to| !to.is_zero())
    }

    /// What the machine is asked to do; amounts above 2^256 - 1 are never affordable.
    pub fn call(&self) -> VmCall {
        VmCall {
            from: self.from.address,
            to: self.callee(),
            tfuel: word(&self.from.coins.tfuel),
            theta: word(&self.from.coins.theta),
            gas_limit: self.gas_limit,
            gas_price: word(&self.gas_price),
            data: self.data.clone(),
        }
    }

    pub(super) fn check_signer(&self, scope: &Scope<'_>) -> Result<(), TxError> {
        let (from, signature) = (self.from.address, &self.from.signature);
        if scope.is_signed(from, signature, &self.signed_part()) {
            return Ok(());
        }
        if !scope.rules.tx.ethereum_signatures {
            return Err(TxError::Signature);
        }
        if self.from.coins.theta != BigUint::ZERO {
            return Err(TxError::EthereumTheta);
        }
        let chain_id = scope.spec.ethereum_chain_id(scope.height());
        let hash = ethereum::signing_hash(self, chain_id);
        match scope.signatures.recover_ethereum(signature, &hash) {
            Ok(signer) if signer == from => Ok(()),
            // The reference panics on another length; here it is an ordinary refusal without a code of its own.
            Err(theta_core::sign::SignError::Form) if signature.as_bytes().len() != 65 => {
                Err(TxError::SignatureLength)
            }
            _ => Err(TxError::EthereumSignature(chain_id.to_string())),
        }
    }

    pub(super) fn check(&self, scope: &Scope<'_>, view: &mut StateView) -> Result<(), TxError> {
        let rules = &scope.rules.tx;
        self.check_signer(scope)?;
        let account = scope.existing(view, self.from.address)?;
        let expected = account.sequence.wrapping_add(1);
        if self.from.sequence != expected {
            return Err(TxError::Sequence { got: self.from.sequence, expected });
        }
        if affordable(&account, &self.from.coins).is_none() {
            return Err(TxError::insufficient(account.balance, self.from.coins.clone()));
        }
        if self.gas_price < BigUint::from(rules.min_gas_price) {
            return Err(TxError::GasPrice(rules.min_gas_price));
        }
        if self.gas_limit > rules.max_gas {
            return Err(TxError::GasLimit(rules.max_gas));
        }
        let needed = intrinsic_gas(&self.data, self.callee().is_none());
        if rules.intrinsic_gas_in_limit && needed > self.gas_limit {
            return Err(TxError::IntrinsicGas { limit: self.gas_limit, needed });
        }
        let fee = &self.gas_price * self.gas_limit;
        if fee.bits() > 255 {
            return Err(TxError::FeeLimit);
        }
        let theta = if rules.theta_in_contracts { self.from.coins.theta.clone() } else { BigUint::ZERO };
        let wanted = TxCoins { theta, tfuel: fee + &self.from.coins.tfuel };
        if affordable(&account, &wanted).is_none() {
            return Err(TxError::below_minimal(account.balance, wanted));
        }
        Ok(())
    }

    pub(super) fn apply(
        &self,
        scope: &Scope<'_>,
        view: &mut StateView,
    ) -> Result<Option<VmOutcome>, TxError> {
        let env = VmEnv {
            rules: scope.rules,
            chain_id: scope.spec.ethereum_chain_id(scope.height()),
            height: scope.height(),
            timestamp: word(&scope.block.parent.timestamp),
        };
        let outcome = scope.vm.execute(&env, &self.call(), view)?;
        let mut account = scope.existing(view, self.from.address)?;
        let fee = &self.gas_price * outcome.gas_used;
        let fee = Coins::tfuel(TFuelWei::from_u256(word(&fee)));
        account.balance = account.balance.checked_sub(fee).ok_or(TxError::ChargeGas)?;
        // A creation raises the sequence itself, in the machine.
        if self.callee().is_some() {
            account.sequence = account.sequence.wrapping_add(1);
        }
        view.store(account);
        Ok(Some(outcome))
    }

    /// An unsigned transaction of a native wallet.
    pub fn new(from: TxInput, call: &VmCall) -> Self {
        Self {
            from,
            to: TxOutput::new(call.to.unwrap_or_default(), Coins::ZERO),
            gas_limit: call.gas_limit,
            gas_price: to_big(call.gas_price),
            data: call.data.clone(),
        }
    }
}
