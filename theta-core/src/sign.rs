//! secp256k1 keys and recoverable signatures.
//!
//! A signature is 65 bytes `r || s || v`. Three messages are signed on a Theta chain, all through the digest: native
//! transactions, headers and votes sign the Keccak-256 of their sign bytes with v 0 or 1; wallets made for Ethereum sign
//! an EIP-155 hash and are stored with v 27 or 28. Each is invalid under the other rule ([`Signature::recover`] and
//! [`Signature::recover_ethereum`]; the reference's `crypto/signatureutils.go`, `crypto/eth_signatureutils.go`).

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use zeroize::Zeroizing;

use crate::{
    codec::rlp::{Decode, DecodeError, Encode, Item, Reader, encode_string},
    hash::{Address, Hash, U256, address_of_point},
};

/// Half the order of the curve, rounded down: an `s` up to here is low.
const HALF_ORDER: U256 = U256::from_be_slice(&alloy_primitives::hex!(
    "7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a0"
));
/// Order of the curve.
const ORDER: U256 = U256::from_be_slice(&alloy_primitives::hex!(
    "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141"
));

/// Why something could not be signed or no signer could be found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// Not 65 bytes with a recovery id that the rule allows.
    #[error("a signature has 65 bytes r, s, v; this one has another length or a v that is not allowed")]
    Form,
    /// No key can have made it for this message.
    #[error("signature belongs to no key")]
    NoKey,
    /// Not a number between 1 and the order of the curve.
    #[error("not a private key: 32 bytes between 1 and the order of the curve are needed")]
    Key,
    /// `s` is in the upper half, which the rule forbids.
    #[error("signature is malleable: s has to be in the lower half")]
    HighS,
    /// The signer refused, with its reason.
    #[error("signer refused: {0}")]
    Refused(String),
    /// What was signed could not be written down first, so nothing was signed. Whoever goes on is mute for good.
    #[error("nothing may be signed, since the mark cannot be written: {0}; mend the disk and start again")]
    Mark(String),
}

/// A signature as it stands in a message: any bytes, kept as they are. [`Self::EMPTY`] stands for none.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signature(Vec<u8>);

impl Signature {
    /// No signature.
    pub const EMPTY: Self = Self(Vec::new());

    /// Bytes as they came.
    pub const fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes, 65 of them in a signature that can be valid.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn parts(&self) -> Result<([u8; 64], u8), SignError> {
        let bytes: &[u8; 65] = self.0.as_slice().try_into().map_err(|_| SignError::Form)?;
        let mut compact = [0; 64];
        compact.copy_from_slice(&bytes[..64]);
        Ok((compact, bytes[64]))
    }

    /// `r`, `s` and `v` of 65 bytes.
    pub fn r_s_v(&self) -> Result<(U256, U256, u8), SignError> {
        let (compact, v) = self.parts()?;
        Ok((U256::from_be_slice(&compact[..32]), U256::from_be_slice(&compact[32..]), v))
    }

    /// Whether `s` is in the lower half of the curve's order.
    pub fn is_low_s(&self) -> bool {
        self.r_s_v().is_ok_and(|(_, s, _)| s <= HALF_ORDER)
    }

    /// The signer of a native message: v in 0..=3, high `s` allowed.
    pub fn recover(&self, digest: &Hash) -> Result<Address, SignError> {
        let (compact, v) = self.parts()?;
        if v > 3 {
            return Err(SignError::Form);
        }
        backend::recover(digest, &compact, v).map(|point| address_of_point(&point))
    }

    /// The `v` that the Ethereum rule makes of a stored byte: 27, 28, 0 and 1 stay, everything from 35 up becomes 27 or
    /// 28; a wrapped result, as the reference computes for 2..=26 and 29..=34, is never valid and is `None`.
    fn ethereum_v(stored: u8) -> Option<u8> {
        match stored {
            27 | 28 => Some(stored - 27),
            35.. => Some(1 - stored % 2),
            _ => None,
        }
    }

    /// The signer of an Ethereum transaction's signing hash: stored v 27 or 28 (or an alias from 35 up), low `s` only.
    pub fn recover_ethereum(&self, signing_hash: &Hash) -> Result<Address, SignError> {
        let (r, s, v) = self.r_s_v()?;
        let id = Self::ethereum_v(v).ok_or(SignError::Form)?;
        if s > HALF_ORDER {
            return Err(SignError::HighS);
        }
        if r.is_zero() || s.is_zero() || r >= ORDER {
            return Err(SignError::NoKey);
        }
        let (compact, _) = self.parts()?;
        backend::recover(signing_hash, &compact, id).map(|point| address_of_point(&point))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{}", hex::encode(&self.0))
    }
}

impl Encode for Signature {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_string(&self.0, out);
    }

    fn size_hint(&self) -> usize {
        self.0.size_hint()
    }
}

impl Decode for Signature {
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        input.string().map(|bytes| Self(bytes.to_vec()))
    }
}

impl Item for Signature {}

impl Serialize for Signature {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("0x{}", hex::encode(&self.0)))
    }
}

impl<'de> Deserialize<'de> for Signature {
    /// JSON of the reference writes a missing signature as null.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = if deserializer.is_human_readable() {
            Option::<String>::deserialize(deserializer)?.unwrap_or_default()
        } else {
            String::deserialize(deserializer)?
        };
        let digits = text.strip_prefix("0x").unwrap_or(&text);
        hex::decode(digits).map(Self).map_err(D::Error::custom)
    }
}

/// Whoever signs digests for one address: a key in memory, a device, another process.
pub trait Signer: Send + Sync {
    /// The address that [`Signature::recover`] gives for its signatures.
    fn address(&self) -> Address;
    /// Signs a digest; always with low `s`, v 0 or 1.
    fn sign(&self, digest: &Hash) -> Result<Signature, SignError>;
}

/// A private key in memory, wiped when dropped.
#[derive(Clone)]
pub struct SecretKey {
    bytes: Zeroizing<[u8; 32]>,
    address: Address,
}

impl SecretKey {
    /// A key of 32 bytes, big-endian.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SignError> {
        let bytes: [u8; 32] = bytes.try_into().map_err(|_| SignError::Key)?;
        let bytes = Zeroizing::new(bytes);
        let key = k256::ecdsa::SigningKey::from_slice(&*bytes).map_err(|_| SignError::Key)?;
        let point = key.verifying_key().to_sec1_point(false);
        let coordinates = point.as_bytes()[1..].try_into().map_err(|_| SignError::Key)?;
        Ok(Self { bytes, address: address_of_point(coordinates) })
    }

    /// The 32 bytes, to be stored encrypted.
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        self.bytes.clone()
    }

    /// The address of the key.
    pub const fn address(&self) -> Address {
        self.address
    }

    /// Signs a digest with the nonce of RFC 6979.
    pub fn sign_digest(&self, digest: &Hash) -> Signature {
        Signature(backend::sign(&self.bytes, digest).to_vec())
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({})", self.address)
    }
}

impl FromStr for SecretKey {
    type Err = SignError;
    /// 64 hexadecimal digits, with or without `0x`.
    fn from_str(text: &str) -> Result<Self, SignError> {
        let digits = text.trim();
        let bytes = Zeroizing::new(
            hex::decode(digits.strip_prefix("0x").unwrap_or(digits)).map_err(|_| SignError::Key)?,
        );
        Self::from_bytes(&bytes)
    }
}

impl Signer for SecretKey {
    fn address(&self) -> Address {
        self.address
    }
    fn sign(&self, digest: &Hash) -> Result<Signature, SignError> {
        Ok(self.sign_digest(digest))
    }
}

#[cfg(not(feature = "native-secp"))]
mod backend {
    use k256::ecdsa::{RecoveryId, Signature, SigningKey, VerifyingKey};

    use super::SignError;
    use crate::hash::Hash;

    pub(super) fn recover(digest: &Hash, compact: &[u8; 64], v: u8) -> Result<[u8; 64], SignError> {
        let mut signature = Signature::from_slice(compact).map_err(|_| SignError::NoKey)?;
        let mut id = RecoveryId::from_byte(v).ok_or(SignError::Form)?;
        // k256 refuses a high s; its low twin with the other parity belongs to the same key.
        let low = signature.normalize_s();
        if low != signature {
            signature = low;
            id = RecoveryId::new(!id.is_y_odd(), id.is_x_reduced());
        }
        let key = VerifyingKey::recover_from_prehash(digest.as_slice(), &signature, id)
            .map_err(|_| SignError::NoKey)?;
        key.to_sec1_point(false).as_bytes()[1..].try_into().map_err(|_| SignError::NoKey)
    }

    pub(super) fn sign(key: &[u8; 32], digest: &Hash) -> [u8; 65] {
        let key = SigningKey::from_slice(key).expect("checked when the key was made");
        let (signature, id) = key.sign_prehash_recoverable(digest.as_slice());
        let mut bytes = [0; 65];
        bytes[..64].copy_from_slice(&signature.to_bytes());
        bytes[64] = id.to_byte();
        bytes
    }
}

#[cfg(feature = "native-secp")]
mod backend {
    use secp256k1::{
        Message, SECP256K1, SecretKey,
        ecdsa::{RecoverableSignature, RecoveryId},
    };

    use super::SignError;
    use crate::hash::Hash;

    pub(super) fn recover(digest: &Hash, compact: &[u8; 64], v: u8) -> Result<[u8; 64], SignError> {
        let id = RecoveryId::try_from(i32::from(v)).map_err(|_| SignError::Form)?;
        let signature = RecoverableSignature::from_compact(compact, id).map_err(|_| SignError::NoKey)?;
        let key = SECP256K1
            .recover_ecdsa(Message::from_digest(digest.0), &signature)
            .map_err(|_| SignError::NoKey)?;
        key.serialize_uncompressed()[1..].try_into().map_err(|_| SignError::NoKey)
    }

    pub(super) fn sign(key: &[u8; 32], digest: &Hash) -> [u8; 65] {
        let key = SecretKey::from_byte_array(*key).expect("checked when the key was made");
        let (id, compact) =
            SECP256K1.sign_ecdsa_recoverable(Message::from_digest(digest.0), &key).serialize_compact();
        let mut bytes = [0; 65];
        bytes[..64].copy_from_slice(&compact);
        bytes[64] = i32::from(id) as u8;
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::keccak;

    fn flipped(signature: &Signature) -> Signature {
        let (r, s, v) = signature.r_s_v().expect("whole");
        let mut bytes = r.to_be_bytes::<32>().to_vec();
        bytes.extend((ORDER - s).to_be_bytes::<32>());
        bytes.push(v ^ 1);
        Signature(bytes)
    }

    #[test]
    fn the_high_twin_recovers_natively_and_never_as_ethereum() {
        let key = SecretKey::from_bytes(&[9; 32]).expect("in range");
        let digest = keccak("m");
        let low = key.sign_digest(&digest);
        let high = flipped(&low);
        assert!(low.is_low_s() && !high.is_low_s());
        assert_eq!(high.recover(&digest), Ok(key.address()));
        let stored = |signature: &Signature, add| {
            let mut bytes = signature.0.clone();
            bytes[64] += add;
            Signature(bytes)
        };
        assert_eq!(stored(&low, 27).recover_ethereum(&digest), Ok(key.address()));
        assert_eq!(stored(&low, 35).recover_ethereum(&digest), Ok(key.address()));
        assert_eq!(stored(&high, 27).recover_ethereum(&digest), Err(SignError::HighS));
        assert_eq!(low.recover_ethereum(&digest), Err(SignError::Form));
        assert_eq!(stored(&low, 27).recover(&digest), Err(SignError::Form));
    }

    #[test]
    fn it_survives_records_and_json() {
        let signature = SecretKey::from_bytes(&[9; 32]).expect("in range").sign_digest(&keccak("m"));
        let record = crate::codec::record::encode(1, &signature).expect("small");
        assert_eq!(crate::codec::record::decode::<Signature>(1, &record).expect("whole"), signature);
        let json = serde_json::to_string(&signature).expect("text");
        assert_eq!(serde_json::from_str::<Signature>(&json).expect("whole"), signature);
        assert_eq!(serde_json::from_str::<Signature>("null").expect("none"), Signature::EMPTY);
    }

    #[test]
    fn any_other_length_is_refused() {
        for length in [0, 1, 64, 66, 130] {
            let signature = Signature(vec![1; length]);
            assert_eq!(signature.recover(&Hash::ZERO), Err(SignError::Form));
            assert_eq!(signature.recover_ethereum(&Hash::ZERO), Err(SignError::Form));
        }
        assert_eq!(Signature(vec![0; 65]).recover(&Hash::ZERO), Err(SignError::NoKey));
    }

    #[test]
    fn zero_and_the_order_are_no_keys() {
        assert!(SecretKey::from_bytes(&[0; 32]).is_err());
        assert!(SecretKey::from_bytes(&ORDER.to_be_bytes::<32>()).is_err());
        assert!("0x12".parse::<SecretKey>().is_err());
    }
}
