//! Kinds 8 and 10: stakes. Both are checked and carried out in the newer form; the older one has no BLS key.

use serde::{Serialize, Serializer};
use theta_core::{
    bls::{self, PublicKey},
    codec::rlp::{Decode, DecodeError, Encode, Reader, encode_list},
    hash::Address,
    rlp_list,
    sign::Signature,
    spec::Rules,
};

use super::{Body, Scope, TxCoins, TxError, TxInput, TxOutput, affordable, charge, enveloped};
use crate::{staking, state::StateView, vm::VmOutcome};

/// What a stake is for, as the wire has it: any byte decodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Purpose(pub u8);

impl Purpose {
    /// THETA behind a validator.
    pub const VALIDATOR: Self = Self(0);
    /// THETA behind a guardian.
    pub const GUARDIAN: Self = Self(1);
    /// TFUEL behind an elite edge node.
    pub const ELITE_EDGE: Self = Self(2);
}

impl Encode for Purpose {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
    }
}

impl Decode for Purpose {
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        input.read().map(Self)
    }
}

/// What introduces a guardian, an elite edge node, or a validator where those have keys: its BLS key, the proof that it has the key, and its signature on that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HolderSummary {
    /// The node.
    pub holder: Address,
    /// Its BLS key.
    pub key: PublicKey,
    /// The key's signature on its own bytes.
    pub proof: bls::Signature,
    /// The node's signature on the proof.
    pub signature: Signature,
}

/// Stakes, by the older form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DepositStake {
    /// Burned.
    pub fee: TxCoins,
    /// Who stakes, and how much.
    pub source: TxInput,
    /// The node; its coins are not looked at.
    pub holder: TxOutput,
    /// What for.
    pub purpose: Purpose,
}

rlp_list!(DepositStake { fee, source, holder, purpose });

impl Body for DepositStake {
    const KIND: u16 = 8;
    /// For guardians and elite edge nodes the newer form is signed, with empty keys.
    fn signed_part(&self) -> Vec<u8> {
        self.newer().signed_part()
    }
    fn attach(&mut self, signature: Signature) {
        self.source.signature = signature;
    }
}

impl DepositStake {
    fn newer(&self) -> DepositStakeV2 {
        let Self { fee, source, holder, purpose } = self.clone();
        DepositStakeV2 {
            fee,
            source,
            holder,
            purpose,
            key: None,
            proof: None,
            holder_signature: Signature::EMPTY,
        }
    }

    pub(super) fn check(&self, scope: &Scope<'_>, view: &mut StateView) -> Result<(), TxError> {
        self.newer().check_deposit(scope, view)
    }

    pub(super) fn apply(
        &self,
        scope: &Scope<'_>,
        view: &mut StateView,
    ) -> Result<Option<VmOutcome>, TxError> {
        self.newer().apply(scope, view)
    }
}

/// Stakes, with the BLS key that a new guardian or elite edge node needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DepositStakeV2 {
    /// Burned.
    pub fee: TxCoins,
    /// Who stakes, and how much.
    pub source: TxInput,
    /// The node; its coins are not looked at.
    pub holder: TxOutput,
    /// What for.
    pub purpose: Purpose,
    /// The node's key. The reference prints keys as an empty object.
    #[serde(rename = "BlsPubkey", serialize_with = "object")]
    pub key: Option<PublicKey>,
    /// Proof of possession.
    #[serde(rename = "BlsPop", serialize_with = "object")]
    pub proof: Option<bls::Signature>,
    /// The node's signature on the proof.
    #[serde(rename = "HolderSig")]
    pub holder_signature: Signature,
}

fn object<T, S: Serializer>(_: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
    use serde::ser::SerializeMap;
    serializer.serialize_map(Some(0))?.end()
}

impl Encode for DepositStakeV2 {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_list(out, |out| {
            self.fee.encode(out);
            self.source.encode(out);
            self.holder.encode(out);
            self.purpose.encode(out);
            encode_point(self.key.as_ref(), out);
            encode_point(self.proof.as_ref(), out);
            self.holder_signature.encode(out);
        });
    }
}

fn encode_point<T: Encode>(point: Option<&T>, out: &mut Vec<u8>) {
    match point {
        Some(point) => point.encode(out),
        None => out.push(0x80),
    }
}

impl Decode for DepositStakeV2 {
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut list = input.list()?;
        let transaction = Self {
            fee: list.read()?,
            source: list.read()?,
            holder: list.read()?,
            purpose: list.read()?,
            key: point(&mut list, points::key)?,
            proof: point(&mut list, points::proof)?,
            holder_signature: list.read()?,
        };
        list.finish()?;
        Ok(transaction)
    }
}

fn point<T>(
    input: &mut Reader<'_>,
    parse: fn(&[u8]) -> Result<T, &'static str>,
) -> Result<Option<T>, DecodeError> {
    let at = input.clone();
    match input.string()? {
        [] => Ok(None),
        bytes => parse(bytes).map(Some).map_err(|why| at.error(theta_core::codec::rlp::Fault::Value(why))),
    }
}

/// Points are parsed as the reference parses them, surplus bytes and all, and written in their one canonical form.
#[cfg(feature = "bls")]
mod points {
    use theta_core::bls::{PublicKey, Signature, Suite};

    pub(super) fn key(bytes: &[u8]) -> Result<PublicKey, &'static str> {
        PublicKey::parse(bytes, Suite::Theta2020).map_err(|_| "not a BLS public key")
    }
    pub(super) fn proof(bytes: &[u8]) -> Result<Signature, &'static str> {
        Signature::parse(bytes, Suite::Theta2020).map_err(|_| "not a BLS signature")
    }
}

#[cfg(not(feature = "bls"))]
mod points {
    use theta_core::bls::{PublicKey, Signature};

    const WITHOUT: &str = "BLS keys are read by programs built with the feature `bls` only";

    pub(super) fn key(_: &[u8]) -> Result<PublicKey, &'static str> {
        Err(WITHOUT)
    }
    pub(super) fn proof(_: &[u8]) -> Result<Signature, &'static str> {
        Err(WITHOUT)
    }
}

impl Body for DepositStakeV2 {
    const KIND: u16 = 10;
    /// The older form for validators; nothing but the chain id for a purpose that does not exist.
    fn signed_part(&self) -> Vec<u8> {
        let source = self.source.unsigned();
        match self.purpose {
            Purpose::VALIDATOR => {
                let Self { fee, holder, purpose, .. } = self.clone();
                enveloped(DepositStake::KIND, &DepositStake { fee, source, holder, purpose })
            }
            Purpose::GUARDIAN | Purpose::ELITE_EDGE => {
                enveloped(Self::KIND, &Self { source, ..self.clone() })
            }
            _ => Vec::new(),
        }
    }
    /// All of it for every purpose.
    fn signed_part_with_key(&self) -> Vec<u8> {
        enveloped(Self::KIND, &Self { source: self.source.unsigned(), ..self.clone() })
    }
    fn attach(&mut self, signature: Signature) {
        self.source.signature = signature;
    }
}

impl DepositStakeV2 {
    /// Validators' keys are signed where they mean something.
    pub(super) fn signed_part_by(&self, rules: &Rules) -> Vec<u8> {
        if self.purpose == Purpose::VALIDATOR && rules.stake.validator_keys && self.key.is_some() {
            self.signed_part_with_key()
        } else {
            self.signed_part()
        }
    }

    fn summary(&self) -> Option<HolderSummary> {
        Some(HolderSummary {
            holder: self.holder.address,
            key: self.key?,
            proof: self.proof?,
            signature: self.holder_signature.clone(),
        })
    }

    pub(super) fn check(&self, scope: &Scope<'_>, view: &mut StateView) -> Result<(), TxError> {
        if !scope.rules.stake.deposits_with_keys {
            return Err(TxError::UnsupportedKind);
        }
        // The reference crashes on these.
        let needs_key = matches!(self.purpose, Purpose::GUARDIAN | Purpose::ELITE_EDGE)
            || self.purpose == Purpose::VALIDATOR && scope.rules.stake.validator_keys;
        if needs_key && (self.key.is_none() || self.proof.is_none()) {
            return Err(TxError::BlsKey("key and proof of possession have to be there"));
        }
        self.check_deposit(scope, view)
    }

    fn check_deposit(&self, scope: &Scope<'_>, view: &mut StateView) -> Result<(), TxError> {
        let account = scope.existing(view, self.source.address)?;
        scope.check_input(&account, &self.source, &self.signed_part_by(scope.rules))?;
        scope.check_fee(&self.fee)?;
        if self.purpose > Purpose::ELITE_EDGE {
            return Err(TxError::Purpose);
        }
        let stake = self.source.coins.coins().ok_or(TxError::Overflow)?;
        if self.purpose == Purpose::ELITE_EDGE && !stake.theta.is_zero() {
            return Err(TxError::Stake("an elite edge node is backed by TFuel"));
        }
        if self.purpose != Purpose::ELITE_EDGE && !stake.tfuel.is_zero() {
            return Err(TxError::Stake("validators and guardians are backed by Theta"));
        }
        staking::check_amount(view, scope.rules, self.purpose, self.holder.address, stake)?;
        let all = TxCoins {
            theta: &self.source.coins.theta + &self.fee.theta,
            tfuel: &self.source.coins.tfuel + &self.fee.tfuel,
        };
        if affordable(&account, &all).is_none() {
            return Err(TxError::InsufficientStake(format!(
                "balance is {} ThetaWei, {} TFuelWei",
                account.balance.theta, account.balance.tfuel
            )));
        }
        Ok(())
    }

    pub(super) fn apply(
        &self,
        scope: &Scope<'_>,
        view: &mut StateView,
    ) -> Result<Option<VmOutcome>, TxError> {
        let mut account = scope.existing(view, self.source.address)?;
        let stake = self.source.coins.coins().ok_or(TxError::Overflow)?;
        charge(&mut account, self.fee.coins().ok_or(TxError::Overflow)?)?;
        charge(&mut account, stake)?;
        let (source, holder) = (self.source.address, self.holder.address);
        let has_keys = self.purpose != Purpose::VALIDATOR || scope.rules.stake.validator_keys;
        let summary = self.summary().filter(|_| has_keys);
        staking::deposit(view, self.purpose, source, holder, stake, summary.as_ref())?;
        if self.purpose == Purpose::VALIDATOR {
            view.add_stake_height(scope.height())?;
        }
        account.sequence = account.sequence.wrapping_add(1);
        view.store(account);
        Ok(None)
    }
}
