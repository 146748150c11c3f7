//! Transactions of Ethereum wallets, and their way to kind 7 and back (`ledger/types/eth_tx_utils.go`; `ledger.md` 3.13).
//!
//! [`WalletTx`] reads, signs and writes the legacy, access-list, dynamic-fee and delegating forms. A node recomputes the
//! hash that the wallet signed from the native fields. For a legacy transaction these are all; what a typed one says
//! besides stands in one more field of kind 7 ([`Typed`]), where the chain's rules allow it.

use num_bigint::BigUint;
use serde::{Serialize, Serializer};
use theta_core::{
    codec::rlp::{Decode, DecodeError, Encode, Fault, Reader, encode_list, encode_string},
    hash::{Address, Hash, U256, keccak},
    rlp_list,
    sign::{SignError, Signature, Signer},
};

use super::{MAX_TX_BYTES, RawTx, Signatures, SmartContract, TxCoins, TxInput, TxOutput};

/// Why a wallet's transaction cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EthereumError {
    /// Not the bytes of a transaction.
    #[error("malformed Ethereum transaction: {0}")]
    Decode(#[from] DecodeError),
    /// A form that no chain of ours carries.
    #[error("transaction type not supported: type {0} is none of 0, 1, 2 and 4")]
    Type(u8),
    /// The signature is not valid.
    #[error("invalid sender: {0}")]
    Signature(#[from] SignError),
}

/// Storage that a transaction says it will touch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// The contract.
    pub address: Address,
    /// Its slots.
    pub slots: Vec<Hash>,
}

rlp_list!(Access { address, slots });

/// An account's consent to carry a contract's code (EIP-7702).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorization {
    /// The chain it is for, or 0 for any.
    pub chain_id: U256,
    /// Whose code; the zero address ends the delegation.
    pub address: Address,
    /// The sequence that the account must have.
    pub nonce: u64,
    /// Parity of the signature's point.
    pub parity: u8,
    /// `r` of the signature.
    pub r: U256,
    /// `s` of the signature.
    pub s: U256,
}

rlp_list!(Authorization { chain_id, address, nonce, parity, r, s });

impl Authorization {
    /// What the account signs.
    pub fn signing_hash(&self) -> Hash {
        let mut out = vec![0x05];
        encode_list(&mut out, |out| {
            self.chain_id.encode(out);
            self.address.encode(out);
            self.nonce.encode(out);
        });
        keccak(out)
    }

    /// Who signed; low `s` only.
    pub fn authority(&self) -> Result<Address, SignError> {
        if self.parity > 1 {
            return Err(SignError::Form);
        }
        let signature = WalletSignature { r: self.r, s: self.s, parity: self.parity };
        signature.stored().recover_ethereum(&self.signing_hash())
    }

    /// Signs it.
    pub fn sign(mut self, signer: &dyn Signer) -> Result<Self, SignError> {
        (self.r, self.s, self.parity) = signer.sign(&self.signing_hash())?.r_s_v()?;
        Ok(self)
    }
}

/// What a typed transaction says besides the fields of kind 7. On the wire a list that begins with the form's number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Typed {
    /// Form 1, EIP-2930.
    AccessList(Vec<Access>),
    /// Form 2, EIP-1559; `gas_price` is the most in all.
    DynamicFee {
        /// Most above the least price, for a unit of gas.
        tip: BigUint,
        /// The access list.
        access: Vec<Access>,
    },
    /// Form 4, EIP-7702; priced as form 2.
    Delegating {
        /// Most above the least price, for a unit of gas.
        tip: BigUint,
        /// The access list.
        access: Vec<Access>,
        /// Who takes on which code.
        authorizations: Vec<Authorization>,
    },
}

impl Typed {
    /// The byte in front of the wallet's bytes.
    pub const fn kind(&self) -> u8 {
        match self {
            Self::AccessList(_) => 1,
            Self::DynamicFee { .. } => 2,
            Self::Delegating { .. } => 4,
        }
    }

    /// The tip of forms that have one.
    pub const fn tip(&self) -> Option<&BigUint> {
        match self {
            Self::AccessList(_) => None,
            Self::DynamicFee { tip, .. } | Self::Delegating { tip, .. } => Some(tip),
        }
    }

    /// The access list.
    pub fn access(&self) -> &[Access] {
        match self {
            Self::AccessList(access) | Self::DynamicFee { access, .. } | Self::Delegating { access, .. } => {
                access
            }
        }
    }

    /// The authorizations of form 4.
    pub fn authorizations(&self) -> &[Authorization] {
        match self {
            Self::Delegating { authorizations, .. } => authorizations,
            _ => &[],
        }
    }

    /// The rules of the form alone.
    pub(super) fn check(&self, limit: &BigUint, creates: bool) -> Result<(), &'static str> {
        if self.tip().is_some_and(|tip| tip > limit) {
            return Err("max priority fee per gas higher than max fee per gas");
        }
        match self {
            Self::Delegating { authorizations, .. } if authorizations.is_empty() => {
                Err("empty authorization list")
            }
            Self::Delegating { .. } if creates => Err("an authorizing transaction cannot make a contract"),
            _ => Ok(()),
        }
    }
}

impl Encode for Typed {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_list(out, |out| {
            self.kind().encode(out);
            if let Some(tip) = self.tip() {
                tip.encode(out);
            }
            self.access().to_vec().encode(out);
            if let Self::Delegating { authorizations, .. } = self {
                authorizations.encode(out);
            }
        });
    }
}

impl Decode for Typed {
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut list = input.list()?;
        let at = list.clone();
        let typed = match list.read::<u8>()? {
            1 => Self::AccessList(list.read()?),
            2 => Self::DynamicFee { tip: list.read()?, access: list.read()? },
            4 => Self::Delegating { tip: list.read()?, access: list.read()?, authorizations: list.read()? },
            _ => return Err(at.error(Fault::Value("no such form of transaction"))),
        };
        list.finish()?;
        Ok(typed)
    }
}

impl Serialize for Typed {
    /// The wire form in hex: wallets read their own bytes elsewhere.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("0x{}", hex::encode(self.to_rlp())))
    }
}

/// A transaction as an Ethereum wallet makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalletTx {
    /// The chain it is for.
    pub chain_id: BigUint,
    /// One below the native sequence.
    pub nonce: u64,
    /// Most in all for a unit of gas.
    pub gas_price: BigUint,
    /// The form, where it is not the legacy one of EIP-155.
    pub typed: Option<Typed>,
    /// Most gas that may be used.
    pub gas: u64,
    /// The contract called, or none for a creation.
    pub to: Option<Address>,
    /// TFuelWei sent along.
    pub value: BigUint,
    /// Input, or code that makes a contract.
    pub data: Vec<u8>,
}

/// `r`, `s` and the parity of the point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalletSignature {
    /// `r`.
    pub r: U256,
    /// `s`.
    pub s: U256,
    /// 0 or 1.
    pub parity: u8,
}

impl WalletSignature {
    /// As the chain stores it: `v` is 27 or 28.
    fn stored(&self) -> Signature {
        let mut bytes = [self.r.to_be_bytes::<32>(), self.s.to_be_bytes::<32>()].concat();
        bytes.push(27 + self.parity);
        Signature::from_bytes(bytes)
    }
}

fn encode_to(to: Option<Address>, out: &mut Vec<u8>) {
    match to {
        Some(to) => to.encode(out),
        None => out.push(0x80),
    }
}

fn decode_to(input: &mut Reader<'_>) -> Result<Option<Address>, DecodeError> {
    let at = input.clone();
    match input.string()? {
        [] => Ok(None),
        to => Address::try_from(to).map(Some).map_err(|_| at.error(Fault::Length)),
    }
}

impl WalletTx {
    /// The byte in front of the bytes, 0 for the legacy form, which has none.
    pub const fn kind(&self) -> u8 {
        match &self.typed {
            None => 0,
            Some(typed) => typed.kind(),
        }
    }

    fn encode_fields(&self, out: &mut Vec<u8>) {
        if self.typed.is_some() {
            self.chain_id.encode(out);
        }
        self.nonce.encode(out);
        if let Some(tip) = self.typed.as_ref().and_then(Typed::tip) {
            tip.encode(out);
        }
        self.gas_price.encode(out);
        self.gas.encode(out);
        encode_to(self.to, out);
        self.value.encode(out);
        encode_string(&self.data, out);
        if let Some(typed) = &self.typed {
            typed.access().to_vec().encode(out);
        }
        if let Some(Typed::Delegating { authorizations, .. }) = &self.typed {
            authorizations.encode(out);
        }
    }

    fn framed(&self, last: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.data.len() + 128);
        if self.kind() != 0 {
            out.push(self.kind());
        }
        encode_list(&mut out, |out| {
            self.encode_fields(out);
            last(out);
        });
        out
    }

    /// What the wallet signs.
    pub fn signing_hash(&self) -> Hash {
        keccak(self.framed(|out| {
            if self.kind() == 0 {
                self.chain_id.encode(out);
                out.extend([0x80, 0x80]);
            }
        }))
    }

    /// The signed bytes.
    pub fn encode(&self, signature: &WalletSignature) -> Vec<u8> {
        self.framed(|out| {
            match self.kind() {
                0 => (&self.chain_id * 2_u8 + 35_u8 + signature.parity).encode(out),
                _ => signature.parity.encode(out),
            }
            signature.r.encode(out);
            signature.s.encode(out);
        })
    }

    /// Signs; gives the bytes that a node takes.
    pub fn sign(&self, signer: &dyn Signer) -> Result<Vec<u8>, SignError> {
        let (r, s, parity) = signer.sign(&self.signing_hash())?.r_s_v()?;
        Ok(self.encode(&WalletSignature { r, s, parity }))
    }

    /// Who signed, by the Ethereum rule: low `s` only.
    pub fn sender(&self, signature: &WalletSignature) -> Result<Address, SignError> {
        signature.stored().recover_ethereum(&self.signing_hash())
    }

    /// Reads signed bytes of any of the four forms.
    pub fn decode(bytes: &[u8]) -> Result<(Self, WalletSignature), EthereumError> {
        let (kind, body) = match bytes.first() {
            Some(kind @ (1 | 2 | 4)) => (*kind, &bytes[1..]),
            Some(kind @ 0..=0x7f) => return Err(EthereumError::Type(*kind)),
            _ => (0, bytes),
        };
        let mut reader = Reader::new(body, MAX_TX_BYTES)?;
        let mut list = reader.list()?;
        reader.finish()?;
        let chain_id = if kind == 0 { BigUint::ZERO } else { list.read()? };
        let nonce = list.read()?;
        let tip = if kind >= 2 { list.read()? } else { BigUint::ZERO };
        let (gas_price, gas) = (list.read()?, list.read()?);
        let to = decode_to(&mut list)?;
        let (value, data) = (list.read()?, list.read()?);
        let typed = match kind {
            0 => None,
            1 => Some(Typed::AccessList(list.read()?)),
            2 => Some(Typed::DynamicFee { tip, access: list.read()? }),
            _ => Some(Typed::Delegating { tip, access: list.read()?, authorizations: list.read()? }),
        };
        let v: BigUint = list.read()?;
        let (r, s) = (U256::decode(&mut list)?, U256::decode(&mut list)?);
        list.finish()?;
        let (chain_id, parity) = match kind {
            0 => split_v(&v).ok_or(SignError::Form)?,
            _ => (chain_id, u8::try_from(&v).ok().filter(|v| *v < 2).ok_or(SignError::Form)?),
        };
        Ok((
            Self { chain_id, nonce, gas_price, typed, gas, to, value, data },
            WalletSignature { r, s, parity },
        ))
    }
}

/// Chain id and parity of a legacy `v`: an unprotected 27 or 28 has chain id 0, which no wallet signs for.
fn split_v(v: &BigUint) -> Option<(BigUint, u8)> {
    if let Ok(small @ (27 | 28)) = u8::try_from(v) {
        return Some((BigUint::ZERO, small - 27));
    }
    if *v < BigUint::from(35_u8) {
        return None;
    }
    let rest = v - 35_u8;
    let parity = u8::from(rest.bit(0));
    Some((rest >> 1, parity))
}

impl SmartContract {
    /// The transaction that a wallet would have made.
    pub fn wallet(&self, chain_id: U256) -> WalletTx {
        WalletTx {
            chain_id: theta_core::amount::to_big(chain_id),
            nonce: self.from.sequence.wrapping_sub(1),
            gas_price: self.gas_price.clone(),
            typed: self.typed.clone(),
            gas: self.gas_limit,
            to: self.callee(),
            value: self.from.coins.tfuel.clone(),
            data: self.data.clone(),
        }
    }
}

/// What an Ethereum wallet signs for a contract transaction.
pub fn signing_hash(transaction: &SmartContract, chain_id: U256) -> Hash {
    transaction.wallet(chain_id).signing_hash()
}

/// The hash by which an Ethereum wallet knows the transaction; `None` where its signature is not of that form. Under it
/// the transaction is indexed too.
pub fn ethereum_hash(transaction: &SmartContract, chain_id: U256, signatures: &Signatures) -> Option<Hash> {
    let signature = &transaction.from.signature;
    let wallet = transaction.wallet(chain_id);
    let signer = signatures.recover_ethereum(signature, &wallet.signing_hash()).ok()?;
    if signer != transaction.from.address {
        return None;
    }
    let (r, s, v) = signature.r_s_v().ok()?;
    if transaction.typed.is_some() {
        let parity = v.checked_sub(27).filter(|parity| *parity < 2)?;
        return Some(keccak(wallet.encode(&WalletSignature { r, s, parity })));
    }
    // The reference adds the stored byte as it is, so an alias of 27 or 28 gives a hash of its own.
    let v = &wallet.chain_id * 2_u8 + 8_u8 + v;
    Some(keccak(wallet.framed(|out| {
        v.encode(out);
        r.encode(out);
        s.encode(out);
    })))
}

/// Reads a wallet's signed transaction and makes the native one of it. Whether it was signed for this chain, and whether
/// the chain takes its form, shows when the ledger checks it.
pub fn translate(bytes: &[u8]) -> Result<RawTx, EthereumError> {
    let (wallet, signature) = WalletTx::decode(bytes)?;
    let from = wallet.sender(&signature)?;
    let WalletTx { nonce, gas_price, typed, gas, to, value, data, .. } = wallet;
    let transaction = SmartContract {
        from: TxInput {
            address: from,
            coins: TxCoins { theta: BigUint::ZERO, tfuel: value },
            sequence: nonce.wrapping_add(1),
            signature: signature.stored(),
        },
        to: TxOutput { address: to.unwrap_or_default(), coins: TxCoins::default() },
        gas_limit: gas,
        gas_price,
        data,
        typed,
    };
    Ok(RawTx::new(transaction.into()))
}
