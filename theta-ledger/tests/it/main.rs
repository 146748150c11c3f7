//! The ledger against known answers and recordings of the reference (`tests/fixtures`).
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub, reason = "a malformed fixture is a failed test")]

mod accounts;
mod codec;
mod equivocation;
mod genesis;
mod growth;
mod known;
mod ledger;
mod mempool;
mod money;
mod nodes;
mod order;
mod prune;
mod replay;
mod slash;
mod slots;
mod snapshot;
mod validator_keys;
mod wallets;

use serde_json::Value;
use theta_core::hash::{Address, Hash};

pub fn fixture(name: &str) -> Vec<u8> {
    let path = format!("{}/../tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

pub fn json(name: &str) -> Value {
    serde_json::from_slice(&fixture(name)).unwrap()
}

pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("not a text: {value}"))
}

pub fn bytes(value: &Value) -> Vec<u8> {
    let text = text(value);
    hex::decode(text.strip_prefix("0x").unwrap_or(text)).unwrap()
}

pub fn hash(value: &Value) -> Hash {
    Hash::from_slice(&bytes(value))
}

pub fn address(value: &Value) -> Address {
    Address::from_slice(&bytes(value))
}
