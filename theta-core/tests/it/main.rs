//! Known answers of the reference that concern core (`tests/fixtures/ledger.json`).
#![allow(clippy::unwrap_used, reason = "a malformed fixture is a failed test")]

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;
use theta_core::{
    BigUint,
    amount::{TFuelWei, ThetaWei},
    block::{Block, Header},
    codec::rlp::{Decode, Encode, encode_string},
    hash::{Address, Hash, U256, keccak},
    sign::Signature,
    spec::{ChainSpec, Fork},
    stake::{
        self, EliteEdgeNode, GuardianPool, Validator, ValidatorPool, ValidatorSet,
        elite::sampled_weight,
        reward::{EliteState, RewardDistribution, RewardInput, rewards, sample},
    },
    trie::{NoNodes, Trie, compact},
};

const LIMIT: usize = 1 << 20;

fn fixture() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/ledger.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(text(value)).unwrap()
}

fn hash(value: &Value) -> Hash {
    Hash::from_slice(&bytes(value))
}

fn address(value: &Value) -> Address {
    Address::from_slice(&bytes(value))
}

fn word(value: &Value) -> U256 {
    text(value).parse().unwrap()
}

#[test]
fn rlp() {
    for case in fixture()["rlp"].as_array().unwrap() {
        let expected = bytes(&case["rlp"]);
        let encoded = match text(&case["kind"]) {
            "uint" | "bigint" => {
                let value: BigUint = text(&case["value"]).parse().unwrap();
                assert_eq!(BigUint::from_rlp(&expected, LIMIT).unwrap(), value);
                value.to_rlp()
            }
            "bool" => {
                assert_eq!(bool::from_rlp(&expected, LIMIT).ok(), case["value"].as_bool());
                case["value"].as_bool().unwrap().to_rlp()
            }
            "string" => text(&case["value"]).to_owned().to_rlp(),
            // Forms of Go that have no counterpart: a nil pointer is the empty string or list.
            "nil pointer" => continue,
            other => panic!("unknown kind {other}"),
        };
        assert_eq!(encoded, expected, "{case}");
    }
}

#[test]
fn hashes_and_addresses() {
    let fixture = fixture();
    for case in fixture["keccak"].as_array().unwrap() {
        let input = match case.get("input_ascii") {
            Some(input) => text(input).as_bytes().to_vec(),
            None => bytes(case.get("input_hex").or(case.get("input")).unwrap()),
        };
        assert_eq!(keccak(input), hash(&case["hash"]));
    }
    for case in fixture["eip55"].as_array().unwrap() {
        let digits = text(&case["input"]).trim_start_matches("0x");
        let address: Address = format!("{digits:0>40}").parse().unwrap();
        assert_eq!(address.to_checksum(None), text(&case["output"]));
    }
    for case in fixture["contract_addresses"].as_array().unwrap() {
        let made = address(&case["sender"]).create(case["nonce"].as_u64().unwrap());
        assert_eq!(made, address(&case["address"]));
    }
}

#[test]
fn keys() {
    for case in fixture()["secp256k1"].as_array().unwrap() {
        if let Some(key) = case.get("private_key") {
            let key: theta_core::sign::SecretKey = text(key).parse().unwrap();
            assert_eq!(key.address(), address(&case["address"]));
        } else {
            let signer =
                Signature::from_bytes(bytes(&case["signature"])).recover(&hash(&case["message_hash"]));
            let point: [u8; 64] = bytes(&case["public_key"])[1..].try_into().unwrap();
            assert_eq!(signer, Ok(theta_core::hash::address_of_point(&point)));
        }
    }
}

#[test]
fn signature_values() {
    let fixture = fixture();
    let order: U256 =
        U256::from_str_radix("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141", 16).unwrap();
    for case in fixture["signature_value_checks"]["invalid"].as_array().unwrap() {
        let value = |value: &Value| match text(value) {
            "n" => order,
            "n-1" => order - U256::from(1),
            number => number.parse().unwrap(),
        };
        let (r, s, v) = (value(&case[1]), value(&case[2]), case[0].as_u64().unwrap() as u8);
        let bytes = [r.to_be_bytes::<32>().as_slice(), &s.to_be_bytes::<32>(), &[v]].concat();
        // v 2 and 3 are allowed by the native rule; there the point does not exist for r = 1.
        assert!(Signature::from_bytes(bytes).recover(&keccak("any")).is_err(), "{case}");
    }
}

#[test]
fn tries() {
    let fixture = fixture();
    for case in fixture["trie_roots"].as_array().unwrap() {
        let mut trie = Trie::empty(Arc::new(NoNodes));
        if let Some(ops) = case.get("ops") {
            for op in ops.as_array().unwrap() {
                trie.set(text(&op[0]).as_bytes(), text(&op[1]).as_bytes().to_vec()).unwrap();
            }
        } else if let Some(entries) = case.get("entries_ascii").or(case.get("entries")) {
            for (key, value) in entries.as_object().unwrap() {
                trie.set(key.as_bytes(), text(value).as_bytes().to_vec()).unwrap();
            }
        } else {
            // Hashed keys, which the ledger does not use.
            assert!(text(&case["note"]).contains("keccak-hashed keys"));
            continue;
        }
        assert_eq!(trie.root(), hash(&case["root"]), "{}", case["source"]);
    }
    for case in fixture["hex_prefix"].as_array().unwrap() {
        let nibbles: Vec<u8> =
            case["nibbles"].as_array().unwrap().iter().map(|nibble| nibble.as_u64().unwrap() as u8).collect();
        assert_eq!(compact(&nibbles, case["leaf"].as_bool().unwrap()), bytes(&case["compact"]));
    }
    let mut trie = Trie::empty(Arc::new(NoNodes));
    for step in fixture["state_steps"]["steps"].as_array().unwrap() {
        for (key, value) in step["set"].as_object().unwrap() {
            trie.set(&hex::decode(key).unwrap(), bytes(value)).unwrap();
        }
        for key in step.get("deleted").and_then(Value::as_array).into_iter().flatten() {
            trie.remove(&bytes(key)).unwrap();
        }
        assert_eq!(trie.root(), hash(&step["root"]), "{}", step["step"]);
    }
}

#[test]
fn headers() {
    let fixture = fixture();
    let zero = bytes(&fixture["encodings"]["nil_header"]);
    assert_eq!(Header::from_rlp(&zero, LIMIT), Ok(Header::zero()));
    for case in fixture["block_hashes"].as_array().unwrap() {
        let header = match case.get("block_rlp") {
            Some(rlp) => {
                let block = Block::from_rlp(&bytes(rlp), LIMIT).unwrap();
                assert_eq!(block.to_rlp(), bytes(rlp));
                block.header
            }
            None => Header { epoch: 1, ..Header::zero() },
        };
        assert_eq!(header.hash(), hash(&case["hash"]));
    }
    for case in fixture["rewards"].as_array().unwrap() {
        let header = Header::from_rlp(&bytes(&case["header_rlp"]), LIMIT).unwrap();
        assert_eq!(header.to_rlp(), bytes(&case["header_rlp"]));
        assert_eq!(header.hash(), hash(&case["header_hash"]));
        assert_eq!(header.digest(), keccak(bytes(&case["header_sign_bytes"])));
    }
}

#[test]
fn ethereum_chain_ids() {
    for case in fixture()["chain_id_mapping"].as_array().unwrap() {
        let spec = ChainSpec::new(text(&case["chain"]), Fork::MAINNET);
        let id = spec.ethereum_chain_id(case["height"].as_u64().unwrap()).to_string();
        match case.get("id") {
            Some(expected) => assert_eq!(id, text(expected)),
            None => assert_ne!(id, text(&case["id_is_not"])),
        }
    }
}

#[test]
fn sampling() {
    for case in fixture()["hashrand_sampling"].as_array().unwrap() {
        if text(&case["kind"]) == "een weight" {
            let amount = |key: &str| TFuelWei::from_u256(word(&case[key]));
            let weight = sampled_weight(
                &hash(&case["block"]),
                address(&case["address"]),
                amount("stake"),
                amount("total_stake"),
            );
            assert_eq!(weight, case["weight"].as_u64().unwrap());
        } else {
            let drawn = sample(
                case["view_height"].as_u64().unwrap(),
                case["index"].as_u64().unwrap(),
                &hash(&case["checkpoint_hash"]),
                &text(&case["total_stake"]).parse().unwrap(),
            );
            assert_eq!(drawn.to_string(), text(&case["sample"]));
        }
    }
}

#[test]
fn candidates_of_equal_stake() {
    let order: Vec<String> = fixture()["vcp_tie_order"]["order"]
        .as_array()
        .unwrap()
        .iter()
        .map(|holder| text(holder).to_owned())
        .collect();
    let mut pool = ValidatorPool::default();
    for holder in order.iter().rev().chain(&order[3..5]) {
        let holder: Address = holder.parse().unwrap();
        if pool.find(holder).is_none() {
            pool.deposit(Address::ZERO, holder, ThetaWei::whole(1)).unwrap();
        }
    }
    let got: Vec<_> = pool.candidates.iter().map(|candidate| candidate.holder.to_checksum(None)).collect();
    assert_eq!(got, order);
}

#[test]
fn rewards_of_all_eras() {
    let cases = fixture()["rewards"].as_array().unwrap().clone();
    assert_eq!(cases.len(), 5);
    for case in cases {
        let entries: BTreeMap<Vec<u8>, Vec<u8>> = case["view_entries"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(key, value)| (hex::decode(key).unwrap(), bytes(value)))
            .collect();
        let entry = |key: &str, suffix: &[u8]| entries.get(&[key.as_bytes(), suffix].concat());
        let pool = ValidatorPool::from_rlp(entry("ls/vcp", &[]).unwrap(), LIMIT).unwrap();
        let guardians = entry("ls/gcp", &[])
            .map_or(GuardianPool::default(), |bytes| GuardianPool::from_rlp(bytes, LIMIT).unwrap());
        let height = case["height"].as_u64().unwrap();
        let spec = ChainSpec::mainnet();
        let rules = spec.rules(height);
        let header = Header::from_rlp(&bytes(&case["header_rlp"]), LIMIT).unwrap();
        let validators = ValidatorSet::new(
            case["validator_set"]
                .as_array()
                .unwrap()
                .iter()
                .map(|entry| Validator::new(address(&entry[0]), ThetaWei::from_u256(word(&entry[1])))),
        );
        let distribution = |holder: Address| {
            entry("ls/srdrs/", holder.as_slice())
                .map(|bytes| RewardDistribution::from_rlp(bytes, LIMIT).unwrap())
        };
        let elite_votes = header.extension.elite_votes();
        let state = EliteState {
            total: entry("ls/eentas", &[])
                .map_or(TFuelWei::ZERO, |bytes| TFuelWei::from_u256(U256::from_be_slice(bytes))),
            nodes: elite_votes
                .map(|votes| votes.addresses.clone())
                .unwrap_or_default()
                .into_iter()
                .filter_map(|node| {
                    let bytes = entry("ls/een/", node.as_slice())?;
                    Some((node, EliteEdgeNode::from_rlp(bytes, LIMIT).unwrap()))
                })
                .collect(),
        };
        let votes = header.extension.guardian_votes();
        let mut input = RewardInput {
            rule: rules.stake.reward,
            height,
            checkpoint: rules.is_checkpoint(height),
            validators: &validators,
            pool: &pool,
            guardians: votes.map(|votes| (votes, &guardians)),
            elite: elite_votes.map(|votes| (votes, &state)),
            distribution: &distribution,
        };
        let expected = |key: &str| -> BTreeMap<Address, TFuelWei> {
            case[key]
                .as_array()
                .unwrap()
                .iter()
                .map(|entry| (address(&entry[0]), TFuelWei::from_u256(word(&entry[1]))))
                .collect()
        };
        assert_eq!(rewards(&input).unwrap(), expected("rewards"), "height {height}");
        if case.get("rewards_without_votes").is_some() {
            (input.guardians, input.elite) = (None, None);
            assert_eq!(rewards(&input).unwrap(), expected("rewards_without_votes"), "height {height}");
        }
        if let Some(hash) = case.get("gcp_hash").filter(|_| votes.is_some()) {
            assert_eq!(guardians.hash().to_string(), format!("0x{}", text(hash)));
        }
    }
    // Every stake type has one encoding.
    let mut out = Vec::new();
    encode_string(&[], &mut out);
    assert_eq!(stake::NEVER.to_rlp(), hex::decode("88ffffffffffffffff").unwrap());
}
