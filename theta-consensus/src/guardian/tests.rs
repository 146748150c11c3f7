use theta_core::codec::rlp::{Decode, Encode};

use super::*;
use crate::{
    fixture::{read, upper},
    round::{MAX_MULTIPLIER, Round},
};

fn bytes(value: &serde_json::Value) -> Vec<u8> {
    hex::decode(value.as_str().expect("text")).expect("hex")
}

fn list(value: &serde_json::Value) -> &[serde_json::Value] {
    value.as_array().expect("a list")
}

struct World {
    pool: GuardianPool,
    keys: Vec<SecretKey>,
    block: Hash,
}

impl World {
    fn new() -> Self {
        let all = upper("guardian_votes");
        let pool = GuardianPool::from_rlp(&bytes(&all["pool_rlp"]), 1 << 16).expect("a pool");
        let keys = pool.with_stake().map(|guardian| {
            let holder = hex::encode(guardian.stakes.holder);
            let entry = list(&all["pool"]).iter().find(|entry| entry["holder"] == holder.as_str());
            SecretKey::from_bytes(&bytes(&entry.expect("there")["bls_secret"])).expect("a key")
        });
        let keys = keys.collect();
        let block = all["block"].as_str().expect("text").parse().expect("a hash");
        Self { pool, keys, block }
    }

    fn vote(&self, index: usize) -> GuardianVotes {
        let pool = self.pool.hash();
        let message = GuardianVotes::message(&self.block, &pool);
        sign(&self.keys[index], (SUITE, &message), (self.block, pool), index, self.keys.len())
    }

    fn verify(&self, votes: &GuardianVotes) -> Result<(), AggregateError> {
        verify_guardian_votes(votes, &self.pool)
    }
}

#[test]
fn single_votes_are_those_of_the_reference() {
    let (world, all) = (World::new(), upper("guardian_votes"));
    assert_eq!(hex::encode(world.pool.hash()), all["pool_hash"].as_str().expect("text"));
    let order = world.pool.with_stake().map(|guardian| hex::encode(guardian.stakes.holder));
    let expected: Vec<_> =
        list(&all["filtered_order"]).iter().map(|holder| holder.as_str().expect("text").to_owned()).collect();
    assert_eq!(order.collect::<Vec<_>>(), expected);
    assert_eq!(GuardianVotes::message(&world.block, &world.pool.hash()), bytes(&all["sign_bytes"]));
    for case in list(&all["single_votes"]) {
        let index = usize::try_from(case["index"].as_u64().expect("number")).expect("small");
        let vote: GuardianVotes = read(&case["vote"]).expect("decodes");
        assert_eq!(world.vote(index), vote);
        assert_eq!(world.verify(&vote).is_ok(), case["valid"].as_bool().expect("flag"));
    }
}

#[test]
fn aggregates_are_judged_as_by_the_reference() {
    let (world, all) = (World::new(), upper("guardian_votes"));
    let mut valid = 0;
    for case in list(&all["validation"]) {
        let Some(expected) = case["valid"].as_bool() else { continue };
        if case["rlp"].is_null() {
            // A nil pointer, which has no bytes.
            continue;
        }
        let answer = read::<GuardianVotes>(case).is_some_and(|votes| world.verify(&votes).is_ok());
        assert_eq!(answer, expected, "{}", case["name"]);
        valid += usize::from(answer);
    }
    assert_eq!(valid, 3);
}

#[test]
fn merges_are_those_of_the_reference() {
    let (world, all) = (World::new(), upper("guardian_votes"));
    let mut merged = 0;
    for case in list(&all["merges"]) {
        let (a, b): (GuardianVotes, GuardianVotes) =
            (read(&case["a"]).expect("decodes"), read(&case["b"]).expect("decodes"));
        let answer = merge_guardian_votes(&a, &b);
        match case["result"].as_str() {
            Some("no change") => assert_eq!(answer, Ok(None), "{}", case["name"]),
            Some(_) => assert!(answer.is_err(), "{}", case["name"]),
            None => {
                let votes = answer.expect("fits").expect("something new");
                assert_eq!(votes.to_rlp(), bytes(&case["result"]["rlp"]), "{}", case["name"]);
                assert_eq!(world.verify(&votes).is_ok(), case["result_valid"].as_bool().expect("flag"));
                assert_eq!(votes.signers() as u64, case["signers"].as_u64().expect("number"));
                merged += 1;
            }
        }
    }
    assert!(merged >= 7);
}

#[test]
fn merging_keeps_signers_and_signatures_in_any_order() {
    let world = World::new();
    let votes: Vec<GuardianVotes> = (0..4).map(|index| world.vote(index)).collect();
    let merge = |a: &GuardianVotes, b: &GuardianVotes| a.merged(b).expect("fits");
    let (ab, cd) = (merge(&votes[0], &votes[1]), merge(&votes[2], &votes[3]));
    let one = merge(&ab, &cd);
    let other = merge(&votes[3], &merge(&merge(&votes[2], &votes[1]), &votes[0]));
    assert_eq!(one, other);
    assert_eq!((world.verify(&one), one.signers()), (Ok(()), 4));
    // Overlapping ones still verify, and count each signer once.
    let twice = merge(&one, &ab);
    assert_eq!((world.verify(&twice), twice.signers(), twice.largest()), (Ok(()), 4, 2));
    assert_eq!(merge_guardian_votes(&twice, &one), Ok(None));
}

#[test]
fn a_wrong_signature_is_named() {
    let world = World::new();
    let vote = world.vote(0);
    let forged = GuardianVotes { signature: world.vote(1).signature, ..vote.clone() };
    assert_eq!(world.verify(&forged), Err(AggregateError::Signature(BlsError::Mismatch)));
    let mut raw = *vote.signature.as_bytes();
    raw[95] ^= 1;
    let forged =
        GuardianVotes { signature: theta_core::bls::Signature::from_checked_bytes(raw), ..vote.clone() };
    assert!(matches!(world.verify(&forged), Err(AggregateError::Signature(_))));
    let mut short = vote.clone();
    short.multipliers.pop();
    assert_eq!(world.verify(&short), Err(AggregateError::Length));
    assert_eq!(world.verify(&GuardianVotes { pool: Hash::ZERO, ..vote }), Err(AggregateError::Pool));
}

#[test]
fn a_round_hands_on_what_it_had_when_it_began() {
    let world = World::new();
    let mut round = Round::new(3);
    assert!(round.tick().is_none());
    let mut round_with_own = Round::new(3);
    assert!(round_with_own.add_own(world.vote(0)));
    assert!(round_with_own.add(world.vote(1)));
    // The first tick sends one's own vote alone; what came in the meantime goes with the second.
    assert_eq!(round_with_own.tick(), Some(world.vote(0)));
    let both = round_with_own.tick().expect("gathered");
    assert_eq!(both.signers(), 2);
    assert!(round.add(both.clone()));
    // After the last round the same goes out again, whatever is gathered.
    assert!(round_with_own.add(world.vote(2)));
    assert_eq!(round_with_own.tick().map(|votes| votes.signers()), Some(2));
    assert_eq!(round_with_own.tick().map(|votes| votes.signers()), Some(2));
    assert_eq!(round_with_own.best().map(Aggregate::signers), Some(3));
    assert_eq!(round.best(), Some(&both));
}

#[test]
fn hostile_multipliers_neither_enter_nor_stop_merging() {
    let world = World::new();
    let mut round = Round::new(3);
    let heavy = |index: usize, times: u32| {
        let mut votes = world.vote(index);
        votes.multipliers[index] = times;
        votes.signature = aggregate_signatures(SUITE, [(&votes.signature, times)]).expect("a point");
        votes
    };
    let nobody = GuardianVotes { multipliers: vec![0; world.keys.len()], ..world.vote(0) };
    assert!(!round.wants(&nobody));
    assert!(!round.wants(&heavy(0, u32::MAX)));
    assert!(!round.add(heavy(0, MAX_MULTIPLIER + 1)));
    assert!(round.add(heavy(0, MAX_MULTIPLIER)));
    // The heavy entry is part of it now; others with it in them cannot be added up, and the fuller one wins.
    let fuller = heavy(0, MAX_MULTIPLIER).merged(&world.vote(1)).expect("fits");
    let fuller = fuller.merged(&world.vote(2)).expect("fits");
    assert!(round.add(fuller));
    assert_eq!(round.best().map(Aggregate::signers), Some(3));
    assert!(round.add(world.vote(3)));
    let best = round.best().expect("gathered");
    assert_eq!((best.signers(), world.verify(best)), (4, Ok(())));
    // The same again is no work.
    let same = best.clone();
    assert!(!round.wants(&same));
}

#[test]
fn checkpoints_are_those_of_the_reference() {
    let rules = theta_core::spec::ChainSpec::mainnet();
    for case in list(&upper("checkpoint_heights")["cases"]) {
        let height = case["height"].as_u64().expect("number");
        assert_eq!(rules.rules(height).is_checkpoint(height), case["is_checkpoint"].as_bool().expect("flag"));
    }
}
