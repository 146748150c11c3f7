//! Wallet transactions of Ethereum to kind 7 and back (`ledger/types/eth_tx_utils.go`; `ledger.md` 3.13).
//!
//! Only legacy transactions can be carried: a node recomputes the EIP-155 hash from the native fields, and other types
//! hash differently.

use num_bigint::BigUint;
use theta_core::{
    codec::rlp::{Decode, DecodeError, Encode, Fault, Reader, encode_list, encode_string},
    hash::{Address, Hash, U256, keccak},
    sign::{SignError, Signature},
};

use super::{MAX_TX_BYTES, RawTx, SmartContract, TxCoins, TxInput, TxOutput};

/// Why a wallet's transaction cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EthereumError {
    /// Not the bytes of a transaction.
    #[error("malformed Ethereum transaction: {0}")]
    Decode(#[from] DecodeError),
    /// A type that the chain cannot carry.
    #[error("transaction type not supported: type {0} cannot be put on this chain, send a legacy transaction with chain id")]
    Type(u8),
    /// The signature is not valid.
    #[error("invalid sender: {0}")]
    Signature(#[from] SignError),
}

/// The fields of a legacy transaction that its hashes cover, in order.
struct Legacy<'a> {
    nonce: u64,
    gas_price: &'a BigUint,
    gas: u64,
    to: Option<Address>,
    value: &'a BigUint,
    data: &'a [u8],
}

impl Legacy<'_> {
    fn hash_with(&self, last: [&dyn Fn(&mut Vec<u8>); 3]) -> Hash {
        let mut out = Vec::with_capacity(self.data.len() + 128);
        encode_list(&mut out, |out| {
            self.nonce.encode(out);
            self.gas_price.encode(out);
            self.gas.encode(out);
            match self.to {
                Some(to) => to.encode(out),
                None => out.push(0x80),
            }
            self.value.encode(out);
            encode_string(self.data, out);
            last.iter().for_each(|field| field(out));
        });
        keccak(out)
    }

    fn signing_hash(&self, chain_id: &BigUint) -> Hash {
        let zero = |out: &mut Vec<u8>| out.push(0x80);
        self.hash_with([&|out| chain_id.encode(out), &zero, &zero])
    }
}

impl SmartContract {
    fn legacy(&self) -> Legacy<'_> {
        Legacy {
            nonce: self.from.sequence.wrapping_sub(1),
            gas_price: &self.gas_price,
            gas: self.gas_limit,
            to: self.callee(),
            value: &self.from.coins.tfuel,
            data: &self.data,
        }
    }
}

/// What an Ethereum wallet signs for a contract transaction.
pub fn signing_hash(transaction: &SmartContract, chain_id: U256) -> Hash {
    transaction.legacy().signing_hash(&theta_core::amount::to_big(chain_id))
}

/// The hash by which an Ethereum wallet knows the transaction; `None` where its signature is not of that form. Under it
/// the transaction is indexed too.
pub fn ethereum_hash(transaction: &SmartContract, chain_id: U256) -> Option<Hash> {
    let signature = &transaction.from.signature;
    let signer = signature.recover_ethereum(&signing_hash(transaction, chain_id)).ok()?;
    if signer != transaction.from.address {
        return None;
    }
    let (r, s, v) = signature.r_s_v().ok()?;
    let v = theta_core::amount::to_big(chain_id) * 2_u8 + 8_u8 + v;
    Some(transaction.legacy().hash_with([&|out| v.encode(out), &|out| r.encode(out), &|out| s.encode(out)]))
}

/// Reads a wallet's signed legacy transaction and makes the native one of it. Whether it was signed for this chain shows
/// when the ledger checks it.
pub fn translate(bytes: &[u8]) -> Result<RawTx, EthereumError> {
    if let Some(kind @ 1..=0x7f) = bytes.first() {
        return Err(EthereumError::Type(*kind));
    }
    let mut reader = Reader::new(bytes, MAX_TX_BYTES)?;
    let mut list = reader.list()?;
    reader.finish()?;
    let nonce: u64 = list.read()?;
    let gas_price: BigUint = list.read()?;
    let gas_limit: u64 = list.read()?;
    let at = list.clone();
    let to = match list.string()? {
        [] => None,
        to => Some(Address::try_from(to).map_err(|_| at.error(Fault::Length))?),
    };
    let value: BigUint = list.read()?;
    let data: Vec<u8> = list.read()?;
    let v: BigUint = list.read()?;
    let (r, s) = (U256::decode(&mut list)?, U256::decode(&mut list)?);
    list.finish()?;
    let (chain_id, parity) = split_v(&v).ok_or(SignError::Form)?;
    let legacy = Legacy { nonce, gas_price: &gas_price, gas: gas_limit, to, value: &value, data: &data };
    let mut signature = [r.to_be_bytes::<32>(), s.to_be_bytes::<32>()].concat();
    signature.push(27 + parity);
    let signature = Signature::from_bytes(signature);
    let from = signature.recover_ethereum(&legacy.signing_hash(&chain_id))?;
    let transaction = SmartContract {
        from: TxInput {
            address: from,
            coins: TxCoins { theta: BigUint::ZERO, tfuel: value },
            sequence: nonce.wrapping_add(1),
            signature,
        },
        to: TxOutput { address: to.unwrap_or_default(), coins: TxCoins::default() },
        gas_limit,
        gas_price,
        data,
    };
    Ok(RawTx::new(transaction.into()))
}

/// Chain id and parity of `v`: an unprotected 27 or 28 has chain id 0, which no wallet signs for.
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
