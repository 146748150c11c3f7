//! Signed messages for people and contracts, as Ethereum wallets sign them.

use theta_core::{
    hash::{Address, Hash, keccak_parts},
    sign::{SignError, Signature, Signer},
};

/// What `personal_sign` signs: a prefix, the length in bytes as decimal text, the message (EIP-191).
pub fn personal_digest(message: &[u8]) -> Hash {
    let length = message.len().to_string();
    keccak_parts(&[b"\x19Ethereum Signed Message:\n", length.as_bytes(), message])
}

/// Signs a message; v is 27 or 28.
pub fn personal_sign(signer: &dyn Signer, message: &[u8]) -> Result<Signature, SignError> {
    let mut bytes = signer.sign(&personal_digest(message))?.as_bytes().to_vec();
    if let Some(v) = bytes.last_mut() {
        *v += 27;
    }
    Ok(Signature::from_bytes(bytes))
}

/// Who signed a message; low `s` only.
pub fn personal_recover(message: &[u8], signature: &Signature) -> Result<Address, SignError> {
    signature.recover_ethereum(&personal_digest(message))
}
