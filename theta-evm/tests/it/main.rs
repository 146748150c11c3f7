//! Contracts against recordings of the reference (`tests/fixtures`), and against hostile programs.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub, reason = "a malformed fixture is a failed test")]

mod contracts;
mod devnet;
mod files;
mod hostile;
mod known;
#[path = "../../../theta-ledger/tests/it/nodes.rs"]
mod nodes;
mod oracle;
mod random;
mod recorded;
mod rows;
mod statetests;
mod traces;
mod undone;
mod world;

use serde_json::Value;
use theta_core::hash::{Address, Hash};

pub fn fixture(name: &str) -> Vec<u8> {
    let path = format!("{}/../tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
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
