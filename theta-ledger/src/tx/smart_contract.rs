//! Kind 7: a contract is created or called, by a native wallet or an Ethereum one.

use num_bigint::BigUint;
use serde::Serialize;
use theta_core::{
    amount::{Coins, TFuelWei, to_big},
    codec::rlp::{Decode, DecodeError, Encode, Item, Reader, encode_list},
    hash::{Address, Hash},
    sign::Signature,
    spec::{RuleSet, Rules},
};

use super::{
    Body, Scope, TxCoins, TxError, TxInput, TxOutput, affordable, enveloped, ethereum, ethereum::Typed, json,
    word,
};
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
    /// TFuelWei for a unit of gas; the most for it where `typed` has a tip.
    #[serde(serialize_with = "json::text")]
    pub gas_price: BigUint,
    /// Input, or code that makes a contract.
    #[serde(serialize_with = "json::base64")]
    pub data: Vec<u8>,
    /// What else a typed transaction of an Ethereum wallet says; none for all others. On the wire it is one more item
    /// behind `data`, so that the bytes of all others are the reference's. With it the wallet's bytes can be made again
    /// exactly, and their hash and signature are what counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub typed: Option<Typed>,
}

impl Encode for SmartContract {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_list(out, |out| {
            self.from.encode(out);
            self.to.encode(out);
            self.gas_limit.encode(out);
            self.gas_price.encode(out);
            self.data.encode(out);
            if let Some(typed) = &self.typed {
                typed.encode(out);
            }
        });
    }
}

impl Decode for SmartContract {
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut list = input.list()?;
        let (from, to) = (list.read()?, list.read()?);
        let (gas_limit, gas_price, data) = (list.read()?, list.read()?, list.read()?);
        let typed = if list.is_empty() { None } else { Some(list.read()?) };
        list.finish()?;
        Ok(Self { from, to, gas_limit, gas_price, data, typed })
    }
}

impl Item for SmartContract {}

impl Body for SmartContract {
    const KIND: u16 = 7;
    fn signed_part(&self) -> Vec<u8> {
        enveloped(Self::KIND, &Self { from: self.from.unsigned(), ..self.clone() })
    }
    fn attach(&mut self, signature: Signature) {
        self.from.signature = signature;
    }
}

/// Gas that a call or creation costs before any code runs, and the least that it costs in all: 21,000 or 53,000, 4 for a
/// zero byte and 68 for another. By Ethereum's rules 16 for another, and what access lists, authorizations and code that
/// makes a contract cost (EIP-2028, 2930, 3860, 7702), but never less than 10 or 40 a byte (EIP-7623).
pub fn intrinsic_gas(rules: &Rules, call: &VmCall) -> (u64, u64) {
    let base: u64 = if call.to.is_none() { 53_000 } else { 21_000 };
    let length = call.data.len() as u64;
    let zeros = call.data.iter().filter(|byte| **byte == 0).count() as u64;
    if rules.evm.rule_set == RuleSet::Theta {
        return (base + 4 * zeros + 68 * (length - zeros), 0);
    }
    let tokens = zeros + 4 * (length - zeros);
    let slots: usize = call.access.iter().map(|access| access.slots.len()).sum();
    let init = if call.to.is_none() { 2 * length.div_ceil(32) } else { 0 };
    let lists =
        2_400 * call.access.len() as u64 + 1_900 * slots as u64 + 25_000 * call.authorizations.len() as u64;
    let gas = base + 4 * tokens + init + lists;
    (gas, 21_000 + 10 * tokens)
}

impl SmartContract {
    /// The contract called, or `None` for a creation.
    pub fn callee(&self) -> Option<Address> {
        Some(self.to.address).filter(|to| !to.is_zero())
    }

    /// TFuelWei that a unit of gas costs: with a tip the least price and the tip, up to the limit (EIP-1559).
    pub fn effective_price(&self, rules: &Rules) -> BigUint {
        match self.typed.as_ref().and_then(Typed::tip) {
            Some(tip) => (tip + rules.tx.min_gas_price).min(self.gas_price.clone()),
            None => self.gas_price.clone(),
        }
    }

    /// What the machine is asked to do; amounts above 2^256 - 1 are never affordable.
    pub fn call(&self, rules: &Rules) -> VmCall {
        VmCall {
            from: self.from.address,
            to: self.callee(),
            tfuel: word(&self.from.coins.tfuel),
            theta: word(&self.from.coins.theta),
            gas_limit: self.gas_limit,
            gas_price: word(&self.effective_price(rules)),
            data: self.data.clone(),
            access: self.typed.as_ref().map_or_else(Vec::new, |typed| typed.access().to_vec()),
            authorizations: self
                .typed
                .as_ref()
                .map_or_else(Vec::new, |typed| typed.authorizations().to_vec()),
        }
    }

    pub(super) fn check_signer(&self, scope: &Scope<'_>) -> Result<(), TxError> {
        let (from, signature) = (self.from.address, &self.from.signature);
        // A typed one is a wallet's: the native rule is not for it.
        if self.typed.is_none() && scope.is_signed(from, signature, &self.signed_part()) {
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

    /// The hash by which an Ethereum wallet knows it; `None` where it is not signed as wallets do. No signature is both, so
    /// one that was found to be native needs no second recovery.
    pub(crate) fn ethereum_hash(&self, scope: &Scope<'_>) -> Option<Hash> {
        if self.typed.is_none()
            && scope.is_signed(self.from.address, &self.from.signature, &self.signed_part())
        {
            return None;
        }
        ethereum::ethereum_hash(self, scope.spec.ethereum_chain_id(scope.height()), scope.signatures)
    }

    pub(super) fn check(&self, scope: &Scope<'_>, view: &mut StateView) -> Result<(), TxError> {
        let rules = &scope.rules.tx;
        if let Some(typed) = &self.typed {
            if !rules.typed_transactions {
                return Err(TxError::Typed(typed.kind()));
            }
            typed.check(&self.gas_price, self.callee().is_none()).map_err(TxError::TypedForm)?;
        }
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
        let (initial, floor) = intrinsic_gas(scope.rules, &self.call(scope.rules));
        let needed = initial.max(floor);
        if rules.intrinsic_gas_in_limit && needed > self.gas_limit {
            return Err(TxError::IntrinsicGas { limit: self.gas_limit, needed });
        }
        let evm = &scope.rules.evm;
        // EIP-3860.
        if evm.rule_set == RuleSet::Ethereum
            && self.callee().is_none()
            && self.data.len() > 2 * evm.code_limit
        {
            return Err(TxError::InitCode(2 * evm.code_limit));
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
        let env = VmEnv::new(scope.spec, scope.block);
        let call = self.call(scope.rules);
        let price = BigUint::from_bytes_be(&call.gas_price.to_be_bytes::<32>());
        let fee = |gas: u64| Coins::tfuel(TFuelWei::from_u256(word(&(&price * gas))));
        let is_call = self.callee().is_some();
        // By Ethereum's rules all gas is paid and the sequence of a call raised before it runs: a sender with code can
        // spend what it has.
        let before = scope.rules.evm.rule_set == RuleSet::Ethereum;
        if before {
            let mut account = scope.existing(view, self.from.address)?;
            account.balance = account.balance.checked_sub(fee(self.gas_limit)).ok_or(TxError::ChargeGas)?;
            account.sequence = account.sequence.wrapping_add(u64::from(is_call));
            view.store(account);
        }
        let outcome = scope.vm.execute(&env, &call, view)?;
        let mut account = scope.existing(view, self.from.address)?;
        if before {
            let unused = fee(self.gas_limit.saturating_sub(outcome.gas_used));
            account.balance = account.balance.checked_add(unused).ok_or(TxError::Overflow)?;
        } else {
            account.balance = account.balance.checked_sub(fee(outcome.gas_used)).ok_or(TxError::ChargeGas)?;
            // A creation raises the sequence itself, in the machine.
            account.sequence = account.sequence.wrapping_add(u64::from(is_call));
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
            typed: None,
        }
    }
}
