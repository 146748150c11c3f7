//! Headers and pools of the reference, well formed and not.

use std::io::Read;

use serde_json::Value;
use theta_core::{
    block::{Block, Header},
    codec::rlp::{Decode, Encode},
    sign::SignError,
    spec::{ChainSpec, Fork},
    stake::{ValidatorPool, ValidatorSet},
};

fn cases(group: &str) -> Vec<Value> {
    let packed = include_bytes!("../fixtures/headers.json.gz").as_slice();
    let mut text = String::new();
    flate2::read::GzDecoder::new(packed).read_to_string(&mut text).unwrap();
    let all: Value = serde_json::from_str(&text).unwrap();
    all[group]["cases"].as_array().unwrap().clone()
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

/// A private net with the main network's heights, as the recorded headers are of.
fn spec() -> ChainSpec {
    ChainSpec::new("privatenet", Fork::MAINNET)
}

#[test]
fn headers_are_read_hashed_and_checked_as_by_the_reference() {
    for case in cases("headers") {
        let (name, raw) = (&case["name"], bytes(&case["header_rlp"]));
        let header = Header::from_rlp(&raw, raw.len()).unwrap();
        assert_eq!(header.to_rlp(), raw, "{name}");
        assert_eq!(hex::encode(header.hash()), case["hash"].as_str().unwrap(), "{name}");
        assert_eq!(header.digest(), theta_core::hash::keccak(bytes(&case["sign_bytes"])), "{name}");
        assert_eq!(header.extension.rules(), spec().rules(header.height).header, "{name}");
        let signed = header.chain == "privatenet" && header.verify() == Ok::<(), SignError>(());
        assert_eq!(signed, case["valid_for_chain"].as_bool().unwrap(), "{name}");
        let raw = bytes(&case["block_rlp"]);
        assert_eq!(Block::from_rlp(&raw, raw.len()).unwrap().header, header, "{name}");
    }
}

#[test]
fn headers_that_are_not_canonical_are_refused() {
    let mut refused = 0;
    for case in cases("odd_headers") {
        let raw = bytes(&case["header_rlp"]);
        let good = Header::from_rlp(&raw, raw.len()).is_ok_and(|header| {
            header.extension.rules() == spec().rules(header.height).header && header.verify().is_ok()
        });
        assert_eq!(good, case["must_accept"].as_bool().unwrap(), "{}", case["name"]);
        refused += usize::from(!good);
    }
    assert_eq!(refused, 14);
}

#[test]
fn pools_give_the_validators_that_the_reference_takes() {
    for case in cases("validator_set") {
        let raw = bytes(&case["pool_rlp"]);
        let pool = ValidatorPool::from_rlp(&raw, raw.len()).unwrap();
        assert_eq!(pool.to_rlp(), raw);
        let set = ValidatorSet::of_pool(&pool);
        let found = set
            .as_slice()
            .iter()
            .map(|validator| (hex::encode(validator.address), validator.stake.get().to_string()));
        let expected = case["validator_set"].as_array().unwrap().iter().map(|validator| {
            let text = |name: &str| validator[name].as_str().unwrap().to_owned();
            (text("address"), text("stake"))
        });
        assert_eq!(found.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    }
}
