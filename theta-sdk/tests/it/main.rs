//! Keys, key files and messages against what other clients made (`tests/fixtures`).
#![allow(clippy::unwrap_used, reason = "a malformed fixture is a failed test")]

use serde_json::Value;
use theta_core::{
    amount::TFuelWei,
    hash::keccak,
    sign::{SecretKey, Signature},
};
use theta_ledger::tx::{OverspendingProof, RawTx, ServicePayment, Transaction};
use theta_sdk::{
    hd::{self, Path},
    keystore::{self, Effort, Keystore, KeystoreError},
    message,
    wallet::Wallet,
};

fn json(name: &str) -> Vec<Value> {
    let path = format!("{}/../tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

#[test]
fn phrases_give_the_keys_of_other_wallets() {
    for case in json("hd.json") {
        let path = Path::Custom(text(&case["path"]).to_owned());
        let key = hd::derive_with_passphrase(text(&case["mnemonic"]), text(&case["passphrase"]), path);
        if case["expect"] == "error" {
            assert!(key.is_err(), "{}", case["id"]);
            continue;
        }
        let expected: SecretKey = text(&case["privateKey"]).parse().unwrap();
        assert_eq!(key.unwrap().address(), expected.address(), "{}", case["id"]);
        assert_eq!(expected.address().to_checksum(None), text(&case["address"]));
    }
    let junk = "test test test test test test test test test test test junk";
    let first = hd::derive(junk, Path::Ethereum(0)).unwrap();
    assert_eq!(first.address().to_checksum(None), "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266");
    let fresh = hd::fresh_phrase().unwrap();
    assert_eq!(fresh.split(' ').count(), 12);
    assert!(hd::derive(&fresh, Path::Theta(0)).is_ok());
}

#[test]
fn key_files_of_other_wallets_open() {
    for case in json("keystore.json") {
        let file = case["keystore"].to_string();
        let key = keystore::decrypt(&file, text(&case["password"])).unwrap();
        let expected: SecretKey = text(&case["privateKey"]).parse().unwrap();
        assert_eq!(key.address(), expected.address(), "{}", case["id"]);
    }
    let case = &json("keystore.json")[0];
    let wrong = keystore::decrypt(&case["keystore"].to_string(), "wrong").unwrap_err();
    assert_eq!(wrong.to_string(), "could not decrypt key with given password");
    let mut heavy = case["keystore"].clone();
    heavy["crypto"]["kdf"] = "scrypt".into();
    heavy["crypto"]["kdfparams"] =
        serde_json::json!({"dklen": 32, "n": 1_u64 << 40, "r": 8, "p": 1, "salt": "00"});
    assert!(matches!(keystore::decrypt(&heavy.to_string(), ""), Err(KeystoreError::Parameters)));
}

#[test]
fn a_folder_keeps_keys_for_their_owner_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    let keys = Keystore::open(&path, Effort::Light).unwrap();
    let key = keystore::fresh_key().unwrap();
    let file = keys.store(&key, "secret").unwrap();
    assert!(matches!(keys.store(&key, "other"), Err(KeystoreError::Exists(_))));
    assert!(!std::fs::read_to_string(&file).unwrap().contains(&hex_of(&key)));
    assert_eq!(keys.list().unwrap(), [key.address()]);
    assert_eq!(keys.unlock(key.address(), "secret").unwrap().address(), key.address());
    assert!(matches!(keys.unlock(key.address(), "Secret"), Err(KeystoreError::Password)));
    keys.change_password(key.address(), "secret", "other").unwrap();
    assert!(keys.unlock(key.address(), "secret").is_err());
    assert!(keys.unlock(key.address(), "other").is_ok());
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(Keystore::open(&path, Effort::Light), Err(KeystoreError::Mode(..))));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    }
    keys.delete(key.address()).unwrap();
    assert!(matches!(keys.unlock(key.address(), "other"), Err(KeystoreError::Missing(..))));
}

fn hex_of(key: &SecretKey) -> String {
    key.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn messages_of_other_wallets_verify_and_are_signed_the_same() {
    let mut seen = 0;
    for case in json("sig.json").iter().filter(|case| case["kind"] == "personal_sign") {
        let bytes = |key: &str| -> Vec<u8> {
            let digits = text(&case[key]).trim_start_matches("0x");
            (0..digits.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
                .collect()
        };
        let (message, signature) = (bytes("messageHex"), Signature::from_bytes(bytes("signature")));
        let key: SecretKey = text(&case["privateKey"]).parse().unwrap();
        assert_eq!(message::personal_digest(&message).as_slice(), bytes("hash"));
        assert_eq!(message::personal_sign(&key, &message).unwrap(), signature, "{}", case["id"]);
        assert_eq!(message::personal_recover(&message, &signature), Ok(key.address()));
        seen += 1;
    }
    assert_eq!(seen, 5);
}

#[test]
fn a_wallet_brings_the_proof_of_overspending() {
    let (bringer, payer) =
        (SecretKey::from_bytes(&[2; 32]).unwrap(), SecretKey::from_bytes(&[3; 32]).unwrap());
    let mut payment =
        ServicePayment::new(payer.address(), bringer.address(), TFuelWei::whole(60), 1, 7, b"video".to_vec());
    payment.sign_as_payer("privatenet", &payer).unwrap();
    let proof = OverspendingProof { reserve_sequence: 7, payments: vec![payment] };
    let wallet = Wallet::new("privatenet", bringer.clone());
    let unsigned = wallet.slash(5, payer.address(), &proof);
    let digest = keccak(unsigned.sign_bytes());
    let raw = unsigned.sign(wallet.signer()).unwrap();
    let Transaction::Slash(slash) = RawTx::decode(raw.bytes.clone()).unwrap().transaction else {
        panic!("another kind")
    };
    assert_eq!(slash.proposer.signature.recover(&digest), Ok(bringer.address()));
    assert_eq!((slash.proposer.sequence, slash.slashed_address), (5, payer.address()));
    assert_eq!((slash.reserve_sequence, slash.proof().unwrap()), (7, proof));
}
