//! BLS12-381 signatures: public keys in G1, signatures in G2.
//!
//! Two suites share curve, formats and pairing and differ in how a message becomes a point and in
//! what is refused. [`Suite::Theta2020`] answers as the library the Theta network was built with
//! (`herumi/bls-eth-go-binary` of January 2020), leniencies included, because guardian votes in
//! headers are judged by it. [`Suite::Rfc9380`] is the standard proof-of-possession suite with full
//! subgroup checks, for chains that start today.
//!
//! Points outside the prime-order subgroup occur under the old suite. They are scaled only by plain
//! double-and-add: the fast algorithms of curve libraries use an endomorphism that is right inside
//! the subgroup alone, so another node would compute another point.
//!
//! The byte forms [`PublicKey`] and [`Signature`] are always here; what computes on the curve needs
//! feature `bls`.
#![cfg_attr(
    feature = "bls",
    doc = r#"
```
use theta_core::bls::{SecretKey, Suite, verify};

let key = SecretKey::from_bytes(&[7; 32])?;
let signature = key.sign(Suite::Rfc9380, b"checkpoint");
verify(Suite::Rfc9380, &key.public_key(), b"checkpoint", &signature)?;
# Ok::<(), theta_core::bls::BlsError>(())
```
"#
)]

use alloy_primitives::FixedBytes;
use serde::{Deserialize, Serialize};

use crate::codec::rlp::{Decode, DecodeError, Encode, Fault, Item, Reader, encode_string};

/// Which hash-to-curve and which checks apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Suite {
    /// As herumi's library of January 2020: SHA-512 and try-and-increment, no domain tag, no
    /// subgroup check, the identity is a key like any other.
    Theta2020,
    /// `BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_POP_`; keys and signatures must lie in the subgroup and
    /// the identity is no key.
    Rfc9380,
}

/// A public key: a point of G1, 48 compressed bytes.
///
/// Holding one says nothing about the point; `PublicKey::parse` (feature `bls`) checks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PublicKey(FixedBytes<48>);

/// A signature: a point of G2, 96 compressed bytes.
///
/// Holding one says nothing about the point; `Signature::parse` (feature `bls`) checks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Signature(FixedBytes<96>);

impl PublicKey {
    /// Bytes on the wire and in state.
    pub const LENGTH: usize = 48;

    /// Takes bytes that were checked before, for example when they entered the state.
    pub const fn from_checked_bytes(bytes: [u8; Self::LENGTH]) -> Self {
        Self(FixedBytes(bytes))
    }

    /// The compressed form.
    pub const fn as_bytes(&self) -> &[u8; Self::LENGTH] {
        &self.0.0
    }
}

impl Signature {
    /// Bytes on the wire.
    pub const LENGTH: usize = 96;

    /// Takes bytes that were checked before, or that `verify` will check.
    pub const fn from_checked_bytes(bytes: [u8; Self::LENGTH]) -> Self {
        Self(FixedBytes(bytes))
    }

    /// The compressed form.
    pub const fn as_bytes(&self) -> &[u8; Self::LENGTH] {
        &self.0.0
    }
}

macro_rules! rlp_point {
    ($($name:ident),*) => {$(
        impl Encode for $name {
            fn encode(&self, out: &mut Vec<u8>) {
                encode_string(self.0.as_slice(), out);
            }
        }
        impl Decode for $name {
            /// Exactly the canonical length, and infinity in its one clean form; whether it is a point is not looked at.
            fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
                let error = input.error(Fault::Value("the point at infinity is 0xc0 and zeros"));
                let bytes = input.array::<{ Self::LENGTH }>()?;
                let infinity = bytes[0] & 0x40 != 0;
                if infinity && (bytes[0] != 0xc0 || bytes[1..].iter().any(|byte| *byte != 0)) {
                    return Err(error);
                }
                Ok(Self(FixedBytes(bytes)))
            }
        }
        impl Item for $name {}
    )*};
}
rlp_point!(PublicKey, Signature);

#[cfg(feature = "bls")]
pub use self::with_curve::{
    BlsError, SecretKey, aggregate_public_keys, aggregate_signatures, fast_aggregate_verify, verify,
    verify_possession,
};

#[cfg(feature = "bls")]
mod with_curve {
    use core::fmt;

    use zeroize::Zeroizing;

    use super::curve::{self, G1, G2};
    use super::{PublicKey, Signature, Suite};

    const SIGN_TAG: &[u8] = b"BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_POP_";
    const POSSESSION_TAG: &[u8] = b"BLS_POP_BLS12381G2_XMD:SHA-256_SSWU_RO_POP_";

    /// Why a key or signature was refused.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
    #[non_exhaustive]
    pub enum BlsError {
        /// Fewer or, where the suite is strict, more bytes than a point has.
        #[error("{got} bytes where a point or scalar has {wanted}")]
        Length {
            /// Bytes given.
            got: usize,
            /// Bytes of the form asked for.
            wanted: usize,
        },
        /// Wrong flag bits, a coordinate that is not below the modulus, or no point of the curve.
        #[error("bytes are no compressed point")]
        Encoding,
        /// A point of the curve but not of the group signatures live in.
        #[error("point lies outside the subgroup")]
        Subgroup,
        /// The identity where the suite wants a real key.
        #[error("the identity is no public key")]
        Identity,
        /// A secret key that is not below the group order.
        #[error("secret key is not below the group order")]
        Secret,
        /// An aggregate of nothing, which the standard suite refuses.
        #[error("nothing to aggregate")]
        Empty,
        /// The signature is not of this key over this message.
        #[error("signature does not match")]
        Mismatch,
    }

    /// A secret scalar; erased when dropped and never printed.
    #[derive(Clone)]
    pub struct SecretKey(Zeroizing<[u8; 32]>);

    impl fmt::Debug for SecretKey {
        fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("SecretKey(..)")
        }
    }

    impl SecretKey {
        /// Reads the first 32 bytes as a big-endian scalar, as the reference does; zero parses, and
        /// its public key is the identity.
        pub fn from_bytes(bytes: &[u8]) -> Result<Self, BlsError> {
            let scalar = bytes.first_chunk().ok_or(BlsError::Length { got: bytes.len(), wanted: 32 })?;
            if !curve::below_order(scalar) {
                return Err(BlsError::Secret);
            }
            Ok(Self(Zeroizing::new(*scalar)))
        }

        /// The big-endian scalar, for a keystore.
        pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
            self.0.clone()
        }

        /// `secret * generator`.
        pub fn public_key(&self) -> PublicKey {
            PublicKey::from_checked_bytes(curve::public_key(&self.0).encode())
        }

        /// Signs a message. Deterministic.
        pub fn sign(&self, suite: Suite, message: &[u8]) -> Signature {
            Signature::from_checked_bytes(curve::sign(&self.0, &hash(suite, message, SIGN_TAG)).encode())
        }

        /// Proves that the holder of the public key knows the secret: what makes adding up keys safe.
        pub fn proof_of_possession(&self, suite: Suite) -> Signature {
            let public = self.public_key();
            let point = hash(suite, public.as_bytes(), POSSESSION_TAG);
            Signature::from_checked_bytes(curve::sign(&self.0, &point).encode())
        }
    }

    impl PublicKey {
        /// Checks bytes and brings them into the one canonical form.
        ///
        /// Under [`Suite::Theta2020`] longer input is cut, the last byte of the identity is not
        /// looked at and the subgroup is not checked (`spec/ledger.md` 2.3).
        pub fn parse(bytes: &[u8], suite: Suite) -> Result<Self, BlsError> {
            Ok(Self::from_checked_bytes(key_point(bytes, suite)?.encode()))
        }
    }

    impl Signature {
        /// Checks bytes and brings them into the one canonical form; leniencies as for keys.
        pub fn parse(bytes: &[u8], suite: Suite) -> Result<Self, BlsError> {
            Ok(Self::from_checked_bytes(signature_point(bytes, suite)?.encode()))
        }
    }

    /// Checks a signature: `e(generator, signature) == e(key, H(message))`.
    pub fn verify(
        suite: Suite,
        key: &PublicKey,
        message: &[u8],
        signature: &Signature,
    ) -> Result<(), BlsError> {
        check(suite, key, &hash(suite, message, SIGN_TAG), signature)
    }

    /// Checks what [`SecretKey::proof_of_possession`] makes.
    pub fn verify_possession(suite: Suite, key: &PublicKey, proof: &Signature) -> Result<(), BlsError> {
        // The reference hashes the key as it re-encodes it, not as it was received.
        let canonical = key_point(key.as_bytes(), suite)?.encode();
        check(suite, key, &hash(suite, &canonical, POSSESSION_TAG), proof)
    }

    /// Adds keys up, each as many times as its multiplicity says. No keys give the identity.
    pub fn aggregate_public_keys<'a>(
        suite: Suite,
        keys: impl IntoIterator<Item = (&'a PublicKey, u32)>,
    ) -> Result<PublicKey, BlsError> {
        let mut sum = G1::identity();
        for (key, multiplicity) in keys {
            if multiplicity != 0 {
                sum = sum.add(&key_point(key.as_bytes(), suite)?.times(multiplicity));
            }
        }
        Ok(PublicKey::from_checked_bytes(sum.encode()))
    }

    /// Adds signatures up, each as many times as its multiplicity says. None give the identity.
    pub fn aggregate_signatures<'a>(
        suite: Suite,
        signatures: impl IntoIterator<Item = (&'a Signature, u32)>,
    ) -> Result<Signature, BlsError> {
        let mut sum = G2::identity();
        for (signature, multiplicity) in signatures {
            if multiplicity != 0 {
                sum = sum.add(&signature_point(signature.as_bytes(), suite)?.times(multiplicity));
            }
        }
        Ok(Signature::from_checked_bytes(sum.encode()))
    }

    /// Checks one signature that several keys made over the same message. Safe only for keys whose
    /// possession was proven.
    pub fn fast_aggregate_verify<'a>(
        suite: Suite,
        keys: impl IntoIterator<Item = &'a PublicKey>,
        message: &[u8],
        signature: &Signature,
    ) -> Result<(), BlsError> {
        let mut keys = keys.into_iter().peekable();
        if suite == Suite::Rfc9380 && keys.peek().is_none() {
            return Err(BlsError::Empty);
        }
        let sum = aggregate_public_keys(suite, keys.map(|key| (key, 1)))?;
        verify(suite, &sum, message, signature)
    }

    fn check(suite: Suite, key: &PublicKey, message: &G2, signature: &Signature) -> Result<(), BlsError> {
        let key = key_point(key.as_bytes(), suite)?;
        let signature = signature_point(signature.as_bytes(), suite)?;
        if curve::pairings_equal((&G1::generator(), &signature), (&key, message)) {
            Ok(())
        } else {
            Err(BlsError::Mismatch)
        }
    }

    fn hash(suite: Suite, message: &[u8], tag: &[u8]) -> G2 {
        match suite {
            // No domain separation: a proof of possession is an ordinary signature.
            Suite::Theta2020 => curve::hash_2020(message),
            Suite::Rfc9380 => curve::hash_standard(message, tag),
        }
    }

    fn key_point(bytes: &[u8], suite: Suite) -> Result<G1, BlsError> {
        let point = match compressed::<{ PublicKey::LENGTH }>(bytes, suite)? {
            None => G1::identity(),
            Some(bytes) => G1::decode(&bytes).ok_or(BlsError::Encoding)?,
        };
        match suite {
            Suite::Theta2020 => Ok(point),
            Suite::Rfc9380 if point.is_identity() => Err(BlsError::Identity),
            Suite::Rfc9380 if !point.in_subgroup() => Err(BlsError::Subgroup),
            Suite::Rfc9380 => Ok(point),
        }
    }

    fn signature_point(bytes: &[u8], suite: Suite) -> Result<G2, BlsError> {
        let point = match compressed::<{ Signature::LENGTH }>(bytes, suite)? {
            None => G2::identity(),
            Some(bytes) => G2::decode(&bytes).ok_or(BlsError::Encoding)?,
        };
        if suite == Suite::Rfc9380 && !point.in_subgroup() {
            return Err(BlsError::Subgroup);
        }
        Ok(point)
    }

    /// The bytes of a finite point, or `None` for the identity.
    fn compressed<const N: usize>(bytes: &[u8], suite: Suite) -> Result<Option<[u8; N]>, BlsError> {
        let head = bytes.first_chunk::<N>().ok_or(BlsError::Length { got: bytes.len(), wanted: N })?;
        if suite == Suite::Rfc9380 && bytes.len() != N {
            return Err(BlsError::Length { got: bytes.len(), wanted: N });
        }
        if head[0] & 0x80 == 0 {
            return Err(BlsError::Encoding);
        }
        if head[0] & 0x40 == 0 {
            return Ok(Some(*head));
        }
        // herumi's loop over the zero bytes stops one short of the end.
        let looked_at = if suite == Suite::Theta2020 { N - 1 } else { N };
        if head[0] == 0xc0 && head[1..looked_at].iter().all(|byte| *byte == 0) {
            Ok(None)
        } else {
            Err(BlsError::Encoding)
        }
    }
}

/// Safe faces of blst's curve functions, which assume nothing about subgroups unless they say so.
#[cfg(feature = "bls")]
#[expect(unsafe_code, reason = "blst's safe layer always checks subgroups and has no 2020 hash-to-curve")]
mod curve {
    use blst::{
        blst_bendian_from_fp, blst_final_exp, blst_fp, blst_fp_add, blst_fp_from_bendian,
        blst_fp_from_lendian, blst_fp_from_uint64, blst_fp_mul, blst_fp_sqr, blst_fp_sqrt, blst_fp2,
        blst_fp2_add, blst_fp2_mul, blst_fp2_sqr, blst_fp2_sqrt, blst_fp12, blst_fp12_is_equal,
        blst_hash_to_g2, blst_miller_loop, blst_p1, blst_p1_add_or_double, blst_p1_affine, blst_p1_compress,
        blst_p1_double, blst_p1_from_affine, blst_p1_generator, blst_p1_in_g1, blst_p1_is_inf,
        blst_p1_to_affine, blst_p2, blst_p2_add_or_double, blst_p2_affine, blst_p2_compress, blst_p2_double,
        blst_p2_from_affine, blst_p2_in_g2, blst_p2_is_inf, blst_p2_to_affine, blst_scalar,
        blst_scalar_fr_check, blst_scalar_from_bendian, blst_sign_pk_in_g1, blst_sk_to_pk_in_g1,
    };
    use sha2::{Digest, Sha512};
    use zeroize::Zeroize;

    /// The field modulus, big-endian.
    const MODULUS: [u8; 48] = [
        0x1a, 0x01, 0x11, 0xea, 0x39, 0x7f, 0xe6, 0x9a, 0x4b, 0x1b, 0xa7, 0xb6, 0x43, 0x4b, 0xac, 0xd7, 0x64,
        0x77, 0x4b, 0x84, 0xf3, 0x85, 0x12, 0xbf, 0x67, 0x30, 0xd2, 0xa0, 0xf6, 0xb0, 0xf6, 0x24, 0x1e, 0xab,
        0xff, 0xfe, 0xb1, 0x53, 0xff, 0xff, 0xb9, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xaa, 0xab,
    ];
    /// The full cofactor of G2, big-endian.
    const COFACTOR_G2: &[u8] = &[
        0x05, 0xd5, 0x43, 0xa9, 0x54, 0x14, 0xe7, 0xf1, 0x09, 0x1d, 0x50, 0x79, 0x28, 0x76, 0xa2, 0x02, 0xcd,
        0x91, 0xde, 0x45, 0x47, 0x08, 0x5a, 0xba, 0xa6, 0x8a, 0x20, 0x5b, 0x2e, 0x5a, 0x7d, 0xdf, 0xa6, 0x28,
        0xf1, 0xcb, 0x4d, 0x9e, 0x82, 0xef, 0x21, 0x53, 0x7e, 0x29, 0x3a, 0x66, 0x91, 0xae, 0x16, 0x16, 0xec,
        0x6e, 0x78, 0x6f, 0x0c, 0x70, 0xcf, 0x1c, 0x38, 0xe3, 0x1c, 0x72, 0x38, 0xe5,
    ];
    /// `(3 (z^2 - 1))^-1` modulo the group order, big-endian; z is the curve parameter. herumi's fast
    /// cofactor multiplication differs from the full one by this factor.
    const ADJUST_G2: &[u8] = &[
        0x26, 0xa4, 0x8d, 0x1b, 0xb8, 0x89, 0xd4, 0x6d, 0x66, 0x68, 0x9d, 0x58, 0x03, 0x35, 0xf2, 0xac, 0x37,
        0xd2, 0xaa, 0xab, 0x55, 0x54, 0x3d, 0x54, 0x55, 0x55, 0x55, 0x54, 0xaa, 0xaa, 0xaa, 0xab,
    ];

    #[derive(Clone, Copy)]
    pub(super) struct G1(blst_p1);

    #[derive(Clone, Copy)]
    pub(super) struct G2(blst_p2);

    impl G1 {
        pub(super) fn identity() -> Self {
            // Projective Z = 0.
            Self(blst_p1::default())
        }

        pub(super) fn generator() -> Self {
            // SAFETY: points to a constant of the library.
            Self(unsafe { *blst_p1_generator() })
        }

        /// A finite point; the two upper flag bits were looked at before.
        pub(super) fn decode(bytes: &[u8; 48]) -> Option<Self> {
            let x = field(bytes)?;
            let mut y = blst_fp::default();
            let right = sum(&product(&square(&x), &x), &small(4));
            // SAFETY: plain values in and out; so in all calls below unless said otherwise.
            if !unsafe { blst_fp_sqrt(&mut y, &right) } {
                return None;
            }
            let mut negative = blst_fp::default();
            // SAFETY: as above.
            unsafe { blst::blst_fp_cneg(&mut negative, &y, true) };
            let is_larger = big_endian(&y) > big_endian(&negative);
            let affine = blst_p1_affine { x, y: if is_larger == wants_larger(bytes) { y } else { negative } };
            let mut point = blst_p1::default();
            // SAFETY: as above.
            unsafe { blst_p1_from_affine(&mut point, &affine) };
            Some(Self(point))
        }

        pub(super) fn encode(&self) -> [u8; 48] {
            let mut bytes = [0; 48];
            // SAFETY: the library writes 48 bytes.
            unsafe { blst_p1_compress(bytes.as_mut_ptr(), &self.0) };
            bytes
        }

        pub(super) fn add(&self, other: &Self) -> Self {
            let mut out = blst_p1::default();
            // SAFETY: as above.
            unsafe { blst_p1_add_or_double(&mut out, &self.0, &other.0) };
            Self(out)
        }

        pub(super) fn times(&self, factor: u32) -> Self {
            let mut out = blst_p1::default();
            for bit in (0..u32::BITS - factor.leading_zeros()).rev() {
                let before = out;
                // SAFETY: as above.
                unsafe { blst_p1_double(&mut out, &before) };
                if factor >> bit & 1 == 1 {
                    out = Self(out).add(self).0;
                }
            }
            Self(out)
        }

        pub(super) fn is_identity(&self) -> bool {
            // SAFETY: as above.
            unsafe { blst_p1_is_inf(&self.0) }
        }

        pub(super) fn in_subgroup(&self) -> bool {
            // SAFETY: as above.
            unsafe { blst_p1_in_g1(&self.0) }
        }
    }

    impl G2 {
        pub(super) fn identity() -> Self {
            Self(blst_p2::default())
        }

        /// A finite point; the two upper flag bits were looked at before.
        pub(super) fn decode(bytes: &[u8; 96]) -> Option<Self> {
            let (imaginary, real) = (bytes.first_chunk()?, bytes.last_chunk()?);
            if real[0] & 0xe0 != 0 {
                return None;
            }
            Self::lift(blst_fp2 { fp: [field(real)?, field(imaginary)?] }, wants_larger(bytes))
        }

        /// The point with this x and the larger or smaller y, if there is one.
        fn lift(x: blst_fp2, larger: bool) -> Option<Self> {
            let (mut squared, mut cubed, mut right) =
                (blst_fp2::default(), blst_fp2::default(), blst_fp2::default());
            let four = blst_fp2 { fp: [small(4), small(4)] };
            let (mut y, mut negative) = (blst_fp2::default(), blst_fp2::default());
            // SAFETY: as above.
            unsafe {
                blst_fp2_sqr(&mut squared, &x);
                blst_fp2_mul(&mut cubed, &squared, &x);
                blst_fp2_add(&mut right, &cubed, &four);
                if !blst_fp2_sqrt(&mut y, &right) {
                    return None;
                }
                blst::blst_fp2_cneg(&mut negative, &y, true);
            }
            let order = |value: &blst_fp2| (big_endian(&value.fp[1]), big_endian(&value.fp[0]));
            let is_larger = order(&y) > order(&negative);
            let affine = blst_p2_affine { x, y: if is_larger == larger { y } else { negative } };
            let mut point = blst_p2::default();
            // SAFETY: as above.
            unsafe { blst_p2_from_affine(&mut point, &affine) };
            Some(Self(point))
        }

        pub(super) fn encode(&self) -> [u8; 96] {
            let mut bytes = [0; 96];
            // SAFETY: the library writes 96 bytes.
            unsafe { blst_p2_compress(bytes.as_mut_ptr(), &self.0) };
            bytes
        }

        pub(super) fn add(&self, other: &Self) -> Self {
            let mut out = blst_p2::default();
            // SAFETY: as above.
            unsafe { blst_p2_add_or_double(&mut out, &self.0, &other.0) };
            Self(out)
        }

        pub(super) fn times(&self, factor: u32) -> Self {
            self.times_bytes(&factor.to_be_bytes())
        }

        /// Scales by a big-endian number.
        fn times_bytes(&self, factor: &[u8]) -> Self {
            let mut out = blst_p2::default();
            for bit in factor.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)) {
                let before = out;
                // SAFETY: as above.
                unsafe { blst_p2_double(&mut out, &before) };
                if bit == 1 {
                    out = Self(out).add(self).0;
                }
            }
            Self(out)
        }

        fn is_identity(&self) -> bool {
            // SAFETY: as above.
            unsafe { blst_p2_is_inf(&self.0) }
        }

        pub(super) fn in_subgroup(&self) -> bool {
            // SAFETY: as above.
            unsafe { blst_p2_in_g2(&self.0) }
        }
    }

    /// Whether a big-endian number is below the group order.
    pub(super) fn below_order(bytes: &[u8; 32]) -> bool {
        with_scalar(bytes, |scalar| {
            // SAFETY: as above.
            unsafe { blst_scalar_fr_check(scalar) }
        })
    }

    /// `secret * generator`, in constant time.
    pub(super) fn public_key(secret: &[u8; 32]) -> G1 {
        with_scalar(secret, |scalar| {
            let mut out = blst_p1::default();
            // SAFETY: as above.
            unsafe { blst_sk_to_pk_in_g1(&mut out, scalar) };
            G1(out)
        })
    }

    /// `secret * point` in constant time, for a point of the subgroup.
    pub(super) fn sign(secret: &[u8; 32], point: &G2) -> G2 {
        with_scalar(secret, |scalar| {
            let mut out = blst_p2::default();
            // SAFETY: as above.
            unsafe { blst_sign_pk_in_g1(&mut out, &point.0, scalar) };
            G2(out)
        })
    }

    /// `spec/ledger.md` 2.3, steps 1 to 5.
    pub(super) fn hash_2020(message: &[u8]) -> G2 {
        let digest = Sha512::digest(message);
        let mut bytes = [0; 48];
        bytes.copy_from_slice(&digest[..48]);
        bytes[47] &= 0x1f;
        if bytes.iter().rev().ge(MODULUS.iter()) {
            bytes[47] &= 0x0f;
        }
        let mut x = blst_fp2::default();
        // SAFETY: the library reads 48 bytes.
        unsafe { blst_fp_from_lendian(&mut x.fp[0], bytes.as_ptr()) };
        loop {
            if let Some(point) = G2::lift(x, true) {
                return point.times_bytes(COFACTOR_G2).times_bytes(ADJUST_G2);
            }
            x.fp[0] = sum(&x.fp[0], &small(1));
        }
    }

    /// RFC 9380, random-oracle variant.
    pub(super) fn hash_standard(message: &[u8], tag: &[u8]) -> G2 {
        let mut out = blst_p2::default();
        // SAFETY: pointers and lengths are of live slices; an empty augmentation is never read.
        unsafe {
            blst_hash_to_g2(
                &mut out,
                message.as_ptr(),
                message.len(),
                tag.as_ptr(),
                tag.len(),
                core::ptr::null(),
                0,
            );
        }
        G2(out)
    }

    /// Whether two pairings agree.
    pub(super) fn pairings_equal(left: (&G1, &G2), right: (&G1, &G2)) -> bool {
        let (left, right) = (pairing(left.0, left.1), pairing(right.0, right.1));
        // SAFETY: as above.
        unsafe { blst_fp12_is_equal(&left, &right) }
    }

    fn pairing(key: &G1, point: &G2) -> blst_fp12 {
        // The Miller loop does not know the identity.
        if key.is_identity() || point.is_identity() {
            return blst_fp12::default();
        }
        let (mut p, mut q) = (blst_p1_affine::default(), blst_p2_affine::default());
        let (mut looped, mut out) = (blst_fp12::default(), blst_fp12::default());
        // SAFETY: as above.
        unsafe {
            blst_p1_to_affine(&mut p, &key.0);
            blst_p2_to_affine(&mut q, &point.0);
            blst_miller_loop(&mut looped, &q, &p);
            blst_final_exp(&mut out, &looped);
        }
        out
    }

    fn with_scalar<T>(bytes: &[u8; 32], use_it: impl FnOnce(&blst_scalar) -> T) -> T {
        let mut scalar = blst_scalar::default();
        // SAFETY: the library reads 32 bytes.
        unsafe { blst_scalar_from_bendian(&mut scalar, bytes.as_ptr()) };
        let out = use_it(&scalar);
        scalar.b.zeroize();
        out
    }

    fn wants_larger(bytes: &[u8]) -> bool {
        bytes.first().is_some_and(|first| first & 0x20 != 0)
    }

    /// A coordinate below the modulus; flag bits are not part of it.
    fn field(bytes: &[u8; 48]) -> Option<blst_fp> {
        let mut bytes = *bytes;
        bytes[0] &= 0x1f;
        if bytes >= MODULUS {
            return None;
        }
        let mut out = blst_fp::default();
        // SAFETY: the library reads 48 bytes.
        unsafe { blst_fp_from_bendian(&mut out, bytes.as_ptr()) };
        Some(out)
    }

    fn big_endian(value: &blst_fp) -> [u8; 48] {
        let mut bytes = [0; 48];
        // SAFETY: the library writes 48 bytes.
        unsafe { blst_bendian_from_fp(bytes.as_mut_ptr(), value) };
        bytes
    }

    fn small(value: u64) -> blst_fp {
        let mut out = blst_fp::default();
        // SAFETY: the library reads six limbs.
        unsafe { blst_fp_from_uint64(&mut out, [value, 0, 0, 0, 0, 0].as_ptr()) };
        out
    }

    fn sum(left: &blst_fp, right: &blst_fp) -> blst_fp {
        let mut out = blst_fp::default();
        // SAFETY: as above.
        unsafe { blst_fp_add(&mut out, left, right) };
        out
    }

    fn product(left: &blst_fp, right: &blst_fp) -> blst_fp {
        let mut out = blst_fp::default();
        // SAFETY: as above.
        unsafe { blst_fp_mul(&mut out, left, right) };
        out
    }

    fn square(value: &blst_fp) -> blst_fp {
        let mut out = blst_fp::default();
        // SAFETY: as above.
        unsafe { blst_fp_sqr(&mut out, value) };
        out
    }
}

#[cfg(all(test, feature = "bls"))]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::Value;

    use super::*;

    fn fixture() -> Value {
        serde_json::from_str(include_str!("../tests/fixtures/bls.json")).unwrap()
    }

    fn cases(name: &str) -> Vec<Value> {
        fixture()[name].as_array().unwrap().clone()
    }

    fn bytes(case: &Value, name: &str) -> Vec<u8> {
        hex::decode(case[name].as_str().unwrap()).unwrap()
    }

    fn key(case: &Value, name: &str) -> PublicKey {
        PublicKey::parse(&bytes(case, name), Suite::Theta2020).unwrap()
    }

    fn signature(case: &Value, name: &str) -> Signature {
        Signature::parse(&bytes(case, name), Suite::Theta2020).unwrap()
    }

    const OLD: Suite = Suite::Theta2020;
    const NEW: Suite = Suite::Rfc9380;

    #[test]
    fn signatures_equal_the_reference() {
        for case in cases("bls_sign").iter().chain(&cases("keys")) {
            let secret = SecretKey::from_bytes(&bytes(case, "secret_key")).unwrap();
            assert_eq!(secret.public_key().as_bytes()[..], bytes(case, "public_key"));
            let proof = secret.proof_of_possession(OLD);
            assert_eq!(proof.as_bytes()[..], bytes(case, "pop"));
            for signed in case["signatures"].as_array().unwrap() {
                let made = secret.sign(OLD, &bytes(signed, "message"));
                assert_eq!(made.as_bytes()[..], bytes(signed, "signature"));
            }
            assert_eq!(verify_possession(OLD, &secret.public_key(), &proof), Ok(()));
        }
    }

    #[test]
    fn node_keys_equal_the_reference() {
        for case in cases("bls_node_key") {
            let secret = SecretKey::from_bytes(&bytes(&case, "bls_secret")).unwrap();
            assert_eq!(secret.public_key().as_bytes()[..], bytes(&case, "bls_public"));
            assert_eq!(secret.proof_of_possession(OLD).as_bytes()[..], bytes(&case, "bls_pop"));
        }
    }

    #[test]
    fn secrets_parse_as_in_the_reference() {
        for case in cases("bls_secret_parse") {
            let parsed = SecretKey::from_bytes(&bytes(&case, "bytes"));
            assert_eq!(parsed.is_ok(), case["accepted"].as_bool().unwrap(), "{}", case["name"]);
            if let Ok(secret) = parsed {
                assert_eq!(secret.to_bytes()[..], bytes(&case, "secret_key"));
                assert_eq!(secret.public_key().as_bytes()[..], bytes(&case, "public_key"));
            }
        }
    }

    #[test]
    fn points_parse_as_in_the_reference() {
        for case in cases("bls_parse") {
            let raw = bytes(&case, "bytes");
            let parse = |suite| match case["kind"].as_str().unwrap() {
                "public_key" => PublicKey::parse(&raw, suite).map(|key| key.as_bytes().to_vec()),
                _ => Signature::parse(&raw, suite).map(|signature| signature.as_bytes().to_vec()),
            };
            let accepted = case["accepted"].as_bool().unwrap();
            assert_eq!(parse(OLD).is_ok(), accepted, "{} {}", case["kind"], case["name"]);
            if accepted {
                assert_eq!(parse(OLD).unwrap(), bytes(&case, "reencoded"), "{}", case["name"]);
            }
            // The standard suite takes canonical points of the subgroup only.
            if parse(NEW).is_ok() {
                assert!(accepted && case["in_subgroup"].as_bool().unwrap());
                assert_eq!(parse(NEW).unwrap(), raw);
            }
        }
        for case in cases("key_parse") {
            let parsed = PublicKey::parse(&bytes(&case, "public_key"), OLD);
            assert_eq!(parsed.is_ok(), case["accepted"].as_bool().unwrap());
        }
    }

    #[test]
    fn verification_answers_as_the_reference_even_outside_the_subgroup() {
        for case in cases("bls_verify") {
            let answer = verify(
                OLD,
                &key(&case, "public_key"),
                &bytes(&case, "message"),
                &signature(&case, "signature"),
            );
            assert_eq!(answer.is_ok(), case["verifies"].as_bool().unwrap(), "{}", case["name"]);
        }
        for case in cases("bls_pop") {
            let answer = verify_possession(OLD, &key(&case, "public_key"), &signature(&case, "pop"));
            assert_eq!(answer.is_ok(), case["verifies"].as_bool().unwrap(), "{}", case["name"]);
        }
    }

    #[test]
    fn weighted_aggregates_equal_the_reference() {
        for case in cases("bls_aggregate") {
            let message = bytes(&case, "message");
            let of = |name: &str| case[name].as_array().unwrap().iter().map(Value::clone).collect::<Vec<_>>();
            let weights: Vec<u32> = of("multiplicities")
                .iter()
                .map(|weight| weight.as_u64().unwrap().try_into().unwrap())
                .collect();
            let secrets: Vec<_> = of("secret_keys")
                .iter()
                .map(|secret| SecretKey::from_bytes(&hex::decode(secret.as_str().unwrap()).unwrap()).unwrap())
                .collect();
            let keys: Vec<_> = secrets.iter().map(SecretKey::public_key).collect();
            let signatures: Vec<_> = secrets.iter().map(|secret| secret.sign(OLD, &message)).collect();
            let sum = aggregate_public_keys(OLD, keys.iter().zip(weights.iter().copied())).unwrap();
            assert_eq!(sum.as_bytes()[..], bytes(&case, "aggregate_public_key"));
            let signed = aggregate_signatures(OLD, signatures.iter().zip(weights.iter().copied())).unwrap();
            assert_eq!(signed.as_bytes()[..], bytes(&case, "aggregate_signature"));
            let answer = verify(OLD, &sum, &message, &signed);
            assert_eq!(answer.is_ok(), case["verifies"].as_bool().unwrap());
        }
        let (all, known) = (fixture(), cases("keys"));
        let keys = [(&key(&known[0], "public_key"), 3), (&key(&known[1], "public_key"), 2)];
        let sum = aggregate_public_keys(OLD, keys).unwrap();
        assert_eq!(sum.as_bytes()[..], bytes(&all["weighted"], "public_key"));
    }

    #[test]
    fn scaling_outside_the_subgroup_is_repeated_addition() {
        // Two points of the curve outside the subgroup, from the reference's own parse cases.
        for case in cases("bls_parse") {
            if case["in_subgroup"].as_bool() != Some(false) || case["kind"] != "public_key" {
                continue;
            }
            let point = key(&case, "bytes");
            let scaled = aggregate_public_keys(OLD, [(&point, 13)]).unwrap();
            let added = aggregate_public_keys(OLD, [(&point, 1); 13]).unwrap();
            assert_eq!(scaled, added);
        }
    }

    #[test]
    fn the_standard_suite_agrees_with_blst() {
        let secret = SecretKey::from_bytes(&[9; 32]).unwrap();
        let theirs = blst::min_pk::SecretKey::from_bytes(&[9; 32]).unwrap();
        let tag = b"BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_POP_";
        assert_eq!(secret.public_key().as_bytes(), &theirs.sk_to_pk().to_bytes());
        let made = secret.sign(NEW, b"message");
        assert_eq!(made.as_bytes(), &theirs.sign(b"message", tag, &[]).to_bytes());
        assert_eq!(verify(NEW, &secret.public_key(), b"message", &made), Ok(()));
        assert_eq!(verify(NEW, &secret.public_key(), b"other", &made), Err(BlsError::Mismatch));
        assert_eq!(verify(OLD, &secret.public_key(), b"message", &made), Err(BlsError::Mismatch));
        let proof = secret.proof_of_possession(NEW);
        assert_eq!(verify_possession(NEW, &secret.public_key(), &proof), Ok(()));
        // A proof is no signature: the tags differ.
        let own_key = *secret.public_key().as_bytes();
        assert_eq!(verify(NEW, &secret.public_key(), &own_key, &proof), Err(BlsError::Mismatch));
    }

    #[test]
    fn the_standard_suite_refuses_the_identity_and_empty_aggregates() {
        let identity = aggregate_public_keys(OLD, []).unwrap();
        let unsigned = aggregate_signatures(OLD, []).unwrap();
        assert_eq!(verify(OLD, &identity, b"anything", &unsigned), Ok(()));
        assert_eq!(verify(NEW, &identity, b"anything", &unsigned), Err(BlsError::Identity));
        assert_eq!(fast_aggregate_verify(NEW, [], b"anything", &unsigned), Err(BlsError::Empty));
        let secrets: Vec<_> = (1_u8..4).map(|seed| SecretKey::from_bytes(&[seed; 32]).unwrap()).collect();
        let keys: Vec<_> = secrets.iter().map(SecretKey::public_key).collect();
        let parts: Vec<_> = secrets.iter().map(|secret| secret.sign(NEW, b"block")).collect();
        let all = aggregate_signatures(NEW, parts.iter().map(|part| (part, 1))).unwrap();
        assert_eq!(fast_aggregate_verify(NEW, &keys, b"block", &all), Ok(()));
        assert_eq!(fast_aggregate_verify(NEW, &keys[1..], b"block", &all), Err(BlsError::Mismatch));
    }

    #[test]
    fn secrets_are_not_printed_and_points_are_hex_in_json() {
        let secret = SecretKey::from_bytes(&[9; 32]).unwrap();
        assert_eq!(format!("{secret:?}"), "SecretKey(..)");
        let json = serde_json::to_string(&secret.public_key()).unwrap();
        assert_eq!(json, format!("\"0x{}\"", hex::encode(secret.public_key().as_bytes())));
        assert_eq!(serde_json::from_str::<PublicKey>(&json).unwrap(), secret.public_key());
    }
}
