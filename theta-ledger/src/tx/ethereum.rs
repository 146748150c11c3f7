//! Transactions of Ethereum wallets, and their way to kind 7 and back (`ledger/types/eth_tx_utils.go`; `ledger.md` 3.13).
//!
//! [`WalletTx`] reads, signs and writes the legacy, access-list and dynamic-fee forms. Only a legacy transaction can be
//! carried by the chain: a node recomputes its EIP-155 hash from the native fields, and the other forms hash differently.

use num_bigint::BigUint;
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
    /// A form that the chain cannot carry, or that nobody knows.
    #[error(
        "transaction type not supported: type {0} cannot be put on this chain, send a legacy transaction with chain id"
    )]
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

/// What a transaction pays for gas, which is also its form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pricing {
    /// The form of EIP-155: one price.
    Legacy(BigUint),
    /// The form of EIP-2930: one price and an access list.
    AccessList(BigUint, Vec<Access>),
    /// The form of EIP-1559: tip, limit, and an access list.
    DynamicFee {
        /// Most for the proposer, for a unit of gas.
        tip: BigUint,
        /// Most in all, for a unit of gas.
        limit: BigUint,
        /// The access list.
        access: Vec<Access>,
    },
}

impl Pricing {
    /// The byte in front of the bytes, 0 for the legacy form, which has none.
    pub const fn kind(&self) -> u8 {
        match self {
            Self::Legacy(_) => 0,
            Self::AccessList(..) => 1,
            Self::DynamicFee { .. } => 2,
        }
    }
}

/// A transaction as an Ethereum wallet makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalletTx {
    /// The chain it is for.
    pub chain_id: BigUint,
    /// One below the native sequence.
    pub nonce: u64,
    /// Price and form.
    pub pricing: Pricing,
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
    fn encode_fields(&self, out: &mut Vec<u8>) {
        let access = match &self.pricing {
            Pricing::Legacy(price) => {
                self.nonce.encode(out);
                price.encode(out);
                None
            }
            Pricing::AccessList(price, access) => {
                self.chain_id.encode(out);
                self.nonce.encode(out);
                price.encode(out);
                Some(access)
            }
            Pricing::DynamicFee { tip, limit, access } => {
                self.chain_id.encode(out);
                self.nonce.encode(out);
                tip.encode(out);
                limit.encode(out);
                Some(access)
            }
        };
        self.gas.encode(out);
        encode_to(self.to, out);
        self.value.encode(out);
        encode_string(&self.data, out);
        if let Some(access) = access {
            access.encode(out);
        }
    }

    fn framed(&self, last: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.data.len() + 128);
        if self.pricing.kind() != 0 {
            out.push(self.pricing.kind());
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
            if self.pricing.kind() == 0 {
                self.chain_id.encode(out);
                out.extend([0x80, 0x80]);
            }
        }))
    }

    /// The signed bytes.
    pub fn encode(&self, signature: &WalletSignature) -> Vec<u8> {
        self.framed(|out| {
            match self.pricing.kind() {
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

    /// Reads signed bytes of any of the three forms.
    pub fn decode(bytes: &[u8]) -> Result<(Self, WalletSignature), EthereumError> {
        let (kind, body) = match bytes.first() {
            Some(kind @ (1 | 2)) => (*kind, &bytes[1..]),
            Some(kind @ 0..=0x7f) => return Err(EthereumError::Type(*kind)),
            _ => (0, bytes),
        };
        let mut reader = Reader::new(body, MAX_TX_BYTES)?;
        let mut list = reader.list()?;
        reader.finish()?;
        let chain_id = if kind == 0 { BigUint::ZERO } else { list.read()? };
        let nonce = list.read()?;
        let (tip, limit) =
            if kind == 2 { (list.read()?, list.read()?) } else { (BigUint::ZERO, list.read()?) };
        let gas = list.read()?;
        let to = decode_to(&mut list)?;
        let (value, data) = (list.read()?, list.read()?);
        let access = if kind == 0 { Vec::new() } else { list.read()? };
        let v: BigUint = list.read()?;
        let (r, s) = (U256::decode(&mut list)?, U256::decode(&mut list)?);
        list.finish()?;
        let (chain_id, parity) = match kind {
            0 => split_v(&v).ok_or(SignError::Form)?,
            _ => (chain_id, u8::try_from(&v).ok().filter(|v| *v < 2).ok_or(SignError::Form)?),
        };
        let pricing = match kind {
            0 => Pricing::Legacy(limit),
            1 => Pricing::AccessList(limit, access),
            _ => Pricing::DynamicFee { tip, limit, access },
        };
        Ok((Self { chain_id, nonce, pricing, gas, to, value, data }, WalletSignature { r, s, parity }))
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
    /// The legacy transaction that a wallet would have made.
    fn wallet(&self, chain_id: U256) -> WalletTx {
        WalletTx {
            chain_id: theta_core::amount::to_big(chain_id),
            nonce: self.from.sequence.wrapping_sub(1),
            pricing: Pricing::Legacy(self.gas_price.clone()),
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
    // The reference adds the stored byte as it is, so an alias of 27 or 28 gives a hash of its own.
    let v = &wallet.chain_id * 2_u8 + 8_u8 + v;
    Some(keccak(wallet.framed(|out| {
        v.encode(out);
        r.encode(out);
        s.encode(out);
    })))
}

/// Reads a wallet's signed legacy transaction and makes the native one of it. Whether it was signed for this chain shows
/// when the ledger checks it.
pub fn translate(bytes: &[u8]) -> Result<RawTx, EthereumError> {
    let (wallet, signature) = WalletTx::decode(bytes)?;
    let from = wallet.sender(&signature)?;
    let WalletTx { nonce, pricing, gas, to, value, data, .. } = wallet;
    let gas_price = match pricing {
        Pricing::Legacy(price) => price,
        other => return Err(EthereumError::Type(other.kind())),
    };
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
    };
    Ok(RawTx::new(transaction.into()))
}
