//! Words: hashes, addresses, Keccak-256.

use tiny_keccak::{Hasher, Keccak};

pub use alloy_primitives::{Address, B256 as Hash, Bytes, U256};

/// Maps for cells that are looked up one by one. Their order differs from run to run: what depends on order sorts first.
pub use alloy_primitives::map::{AddressMap, B256Map as HashMap};

/// Keccak-256 of nothing: the code hash of an account that is no contract.
pub const EMPTY_CODE_HASH: Hash = alloy_primitives::KECCAK256_EMPTY;

/// Root of the trie without entries, `keccak(0x80)`.
pub const EMPTY_ROOT: Hash =
    alloy_primitives::b256!("56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421");

/// Keccak-256 with the padding of Ethereum (not SHA3-256).
pub fn keccak(data: impl AsRef<[u8]>) -> Hash {
    keccak_parts(&[data.as_ref()])
}

/// Keccak-256 of the parts one after another.
pub fn keccak_parts(parts: &[&[u8]]) -> Hash {
    let mut hasher = Keccak::v256();
    for part in parts {
        hasher.update(part);
    }
    let mut hash = Hash::ZERO;
    hasher.finalize(hash.as_mut_slice());
    hash
}

/// Address of an uncompressed public key without its `04` byte: the last 20 bytes of its Keccak-256.
pub fn address_of_point(point: &[u8; 64]) -> Address {
    Address::from_slice(&keccak(point)[12..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        // crypto/crypto_test.go TestHash
        let expected = "0xecd0e108a98e192af1d2c25055f4e3bed784b5c877204e73219a5203251feaab";
        assert_eq!(format!("{:?}", keccak("Hello world!")), expected);
        assert_eq!(keccak([]), EMPTY_CODE_HASH);
        assert_eq!(keccak([0x80]), EMPTY_ROOT);
    }
}
