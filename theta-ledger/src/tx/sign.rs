//! Sign bytes and signatures.

use theta_core::{
    codec::rlp::{Encode, encode_list, encode_string},
    hash::{Address, Hash, keccak},
    sign::{SignError, Signature, Signer},
};

use super::{Body, RawTx, Transaction};

/// What is signed: chain id, kind and body, inside a list that looks like an Ethereum transaction, so that hardware
/// wallets sign it. `second` is the later form with three more fields (`ledger/types/tx.go`; `ledger.md` 3.4).
pub fn sign_bytes(chain: &str, signed_part: &[u8], second: bool) -> Vec<u8> {
    let mut payload = Vec::with_capacity(chain.len() + 9 + signed_part.len());
    encode_string(chain.as_bytes(), &mut payload);
    payload.extend_from_slice(signed_part);
    let mut out = Vec::with_capacity(payload.len() + 48);
    encode_list(&mut out, |out| {
        out.extend([0x80, 0x80, 0x80]);
        Address::ZERO.encode(out);
        out.push(0x80);
        encode_string(&payload, out);
        if second {
            out.extend([0x01, 0x80, 0x80]);
        }
    });
    out
}

/// A transaction that waits for its signature. Signing is two pure steps, so that a device or a person can do the second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsigned<T> {
    chain: String,
    body: T,
    with_key: bool,
}

impl<T: Body + Into<Transaction>> Unsigned<T> {
    /// A transaction for the chain of this name.
    pub fn new(chain: impl Into<String>, body: T) -> Self {
        Self { chain: chain.into(), body, with_key: false }
    }

    /// The same where the chain's rules sign a key too: a deposit behind a validator where validators have keys.
    pub fn with_key(self) -> Self {
        Self { with_key: true, ..self }
    }

    /// The transaction.
    pub const fn body(&self) -> &T {
        &self.body
    }

    /// The bytes whose Keccak-256 is signed.
    pub fn sign_bytes(&self) -> Vec<u8> {
        let part = if self.with_key { self.body.signed_part_with_key() } else { self.body.signed_part() };
        sign_bytes(&self.chain, &part, false)
    }

    /// What is signed.
    pub fn digest(&self) -> Hash {
        keccak(self.sign_bytes())
    }

    /// Puts the signature in.
    pub fn attach(mut self, signature: Signature) -> RawTx {
        self.body.attach(signature);
        RawTx::new(self.body.into())
    }

    /// Signs and puts the signature in.
    pub fn sign(self, signer: &dyn Signer) -> Result<RawTx, SignError> {
        let signature = signer.sign(&self.digest())?;
        Ok(self.attach(signature))
    }
}

/// Signers that were recovered before: a node recovers each signature once, at admission, and finds it in the block.
pub struct Signatures {
    cache: quick_cache::sync::Cache<(Hash, [u8; 65], bool), Result<Address, SignError>>,
}

impl Default for Signatures {
    fn default() -> Self {
        Self { cache: quick_cache::sync::Cache::new(100_000) }
    }
}

impl std::fmt::Debug for Signatures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signatures").field("kept", &self.cache.len()).finish()
    }
}

impl Signatures {
    /// The signer of a digest by the native rule.
    pub fn recover(&self, signature: &Signature, digest: &Hash) -> Result<Address, SignError> {
        self.cached(signature, digest, false)
    }

    /// The signer of a signing hash by the Ethereum rule.
    pub fn recover_ethereum(&self, signature: &Signature, hash: &Hash) -> Result<Address, SignError> {
        self.cached(signature, hash, true)
    }

    fn cached(&self, signature: &Signature, digest: &Hash, ethereum: bool) -> Result<Address, SignError> {
        let bytes = signature.as_bytes().try_into().map_err(|_| SignError::Form)?;
        let key = (*digest, bytes, ethereum);
        if let Some(known) = self.cache.get(&key) {
            return known;
        }
        let signer = if ethereum { signature.recover_ethereum(digest) } else { signature.recover(digest) };
        self.cache.insert(key, signer.clone());
        signer
    }
}
