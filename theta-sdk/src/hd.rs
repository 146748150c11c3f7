//! Keys from mnemonic phrases (BIP-39, BIP-32). The same words give other addresses under Theta's coin type and
//! Ethereum's, so a wallet has to ask which one is meant.

use coins_bip39::{English, Mnemonic};
use theta_core::sign::SecretKey;
use zeroize::Zeroizing;

/// Why a phrase or path gives no key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HdError {
    /// Unknown word, wrong number of words, or wrong checksum.
    #[error("not a mnemonic phrase: {0}")]
    Phrase(String),
    /// Not a derivation path.
    #[error("not a derivation path: {0}; write it as m/44'/500'/0'/0/0")]
    Path(String),
    /// No randomness to be had.
    #[error("no randomness to make a phrase from: {0}")]
    Random(String),
}

/// Where in the tree a key lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Path {
    /// Theta Wallet and theta-js: `m/44'/500'/0'/0/i`.
    Theta(u32),
    /// MetaMask, ethers, and the accounts of a devnet: `m/44'/60'/0'/0/i`.
    Ethereum(u32),
    /// Any other, as text.
    Custom(String),
}

impl std::fmt::Display for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Theta(index) => write!(f, "m/44'/500'/0'/0/{index}"),
            Self::Ethereum(index) => write!(f, "m/44'/60'/0'/0/{index}"),
            Self::Custom(path) => f.write_str(path),
        }
    }
}

/// The key of a phrase without passphrase.
pub fn derive(phrase: &str, path: Path) -> Result<SecretKey, HdError> {
    derive_with_passphrase(phrase, "", path)
}

/// The key of a phrase with a passphrase, which is part of the seed.
pub fn derive_with_passphrase(phrase: &str, passphrase: &str, path: Path) -> Result<SecretKey, HdError> {
    let words = Zeroizing::new(phrase.split_whitespace().collect::<Vec<_>>().join(" "));
    let mnemonic =
        Mnemonic::<English>::new_from_phrase(&words).map_err(|error| HdError::Phrase(error.to_string()))?;
    let path = path.to_string();
    let key = mnemonic
        .derive_key(path.as_str(), Some(passphrase))
        .map_err(|error| HdError::Path(format!("{path}: {error}")))?;
    let signing: &coins_bip32::ecdsa::SigningKey = key.as_ref();
    let bytes = Zeroizing::new(<[u8; 32]>::from(signing.to_bytes()));
    SecretKey::from_bytes(&*bytes).map_err(|error| HdError::Path(error.to_string()))
}

/// A fresh phrase of twelve words.
#[cfg(feature = "keystore")]
pub fn fresh_phrase() -> Result<Zeroizing<String>, HdError> {
    let mut entropy = Zeroizing::new([0; 16]);
    getrandom::fill(&mut *entropy).map_err(|error| HdError::Random(error.to_string()))?;
    let entropy =
        coins_bip39::Entropy::from_slice(&*entropy).map_err(|error| HdError::Phrase(error.to_string()))?;
    Ok(Mnemonic::<English>::new_from_entropy(entropy).to_phrase())
}
