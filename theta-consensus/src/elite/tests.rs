use theta_core::{
    amount::TFuelWei,
    codec::rlp::{Decode, Encode},
    hash::U256,
    stake::EliteEdgeNode,
};

use super::*;
use crate::{
    fixture::{read, upper},
    round::Round,
};

fn bytes(value: &serde_json::Value) -> Vec<u8> {
    hex::decode(value.as_str().expect("text")).expect("hex")
}

fn list(value: &serde_json::Value) -> &[serde_json::Value] {
    value.as_array().expect("a list")
}

fn amount(value: &serde_json::Value) -> TFuelWei {
    TFuelWei::from_u256(U256::from_str_radix(value.as_str().expect("text"), 10).expect("a number"))
}

fn pool(all: &serde_json::Value) -> EliteState {
    let nodes = list(&all["pool"]).iter().map(|entry| {
        let node = EliteEdgeNode::from_rlp(&bytes(&entry["record_rlp"]), 1 << 12).expect("a node");
        (node.stakes.holder, node)
    });
    EliteState { total: amount(&all["total_een_stake"]), nodes: nodes.collect() }
}

#[test]
fn weights_are_those_of_the_reference() {
    let mut cases = 0;
    for case in list(&upper("een_sampling")["cases"]) {
        let Some(weight) = case["weight"].as_u64() else { continue };
        let block: Hash = case["block"].as_str().expect("text").parse().expect("a hash");
        let address: Address = case["address"].as_str().expect("text").parse().expect("an address");
        let (stake, total) = (amount(&case["stake"]), amount(&case["total_stake"]));
        assert_eq!(sampled_weight(&block, address, stake, total), weight);
        cases += 1;
    }
    assert!(cases >= 20, "{cases}");
}

#[test]
fn single_votes_are_those_of_the_reference() {
    let all = upper("een_votes");
    let pool = pool(&all);
    for case in list(&all["single_votes"]) {
        let vote: EliteVote = read(case).expect("decodes");
        assert_eq!(vote.to_rlp(), bytes(&case["rlp"]));
        let entry = list(&all["pool"]).iter().find(|entry| entry["address"] == case["address"]);
        let key = SecretKey::from_bytes(&bytes(&entry.expect("there")["bls_secret"])).expect("a key");
        let again = EliteVote::sign(&key, vote.block, vote.height, vote.address, vote.timestamp.clone());
        assert_eq!(again, vote);
        let votes = vote.into_votes();
        assert_eq!(votes.to_rlp(), bytes(&case["as_aggregate"]["rlp"]));
        assert_eq!(verify_elite_votes(&votes, &pool).is_ok(), case["valid"].as_bool().expect("flag"));
    }
}

#[test]
fn aggregates_are_judged_as_by_the_reference() {
    let all = upper("een_votes");
    let pool = pool(&all);
    let mut valid = 0;
    for case in list(&all["validation"]) {
        let answer = read::<EliteVotes>(case).is_some_and(|votes| verify_elite_votes(&votes, &pool).is_ok());
        assert_eq!(answer, case["valid"].as_bool().expect("flag"), "{}", case["name"]);
        valid += usize::from(answer);
    }
    assert_eq!(valid, 2);
}

#[test]
fn merges_are_those_of_the_reference() {
    let all = upper("een_votes");
    let pool = pool(&all);
    let mut merged = 0;
    for case in list(&all["merges"]) {
        let (a, b): (EliteVotes, EliteVotes) =
            (read(&case["a"]).expect("decodes"), read(&case["b"]).expect("decodes"));
        let answer = merge_elite_votes(&a, &b);
        match case["result"].as_str() {
            Some("no change") => assert_eq!(answer, Ok(None), "{}", case["name"]),
            Some(_) => assert!(answer.is_err(), "{}", case["name"]),
            None => {
                let votes = answer.expect("fits").expect("something new");
                assert_eq!(votes.to_rlp(), bytes(&case["result"]["rlp"]), "{}", case["name"]);
                let valid = verify_elite_votes(&votes, &pool).is_ok();
                assert_eq!(valid, case["result_valid"].as_bool().expect("flag"));
                merged += 1;
            }
        }
    }
    assert!(merged >= 5);
}

#[test]
fn a_list_of_zeros_keeps_no_vote_out() {
    let all = upper("een_votes");
    let real: EliteVotes = read(&list(&all["single_votes"])[0]["as_aggregate"]).expect("decodes");
    let zeros = EliteVotes { multipliers: vec![0], ..real.clone() };
    let mut round = Round::new(ROUNDS);
    assert!(!round.add(zeros.clone()));
    assert!(round.add(real.clone()));
    assert!(zeros.gains_from(&real) && !real.gains_from(&zeros));
}
