//! Who proposes: stake-weighted, by the epoch alone or by a seed that the chain makes.
//!
//! *The reference's schedule* (`consensus/validator.go`): the draw depends on the epoch and the total stake alone, so the whole
//! future schedule is public. Weights are rounded down, so their sum may stay below the range of the draw. There the
//! reference stops with a panic; here the remainder belongs to the last validator, which agrees with the reference wherever
//! it has an answer.
//!
//! *Seeded*: the draw of an epoch hashes the seed in the parent's header with the epoch, so every epoch on a parent has its
//! proposer, however many of them pass without a block. A header's seed is the hash of its parent's and of its proposer's BLS
//! signature over chain and epoch. There is one such signature, so a proposer that wants another schedule can do one thing:
//! keep its block back and leave its epoch to the timeout. What comes then is drawn from the parent's seed and known to
//! everybody, so k faulty proposers in a row choose among k + 1 schedules, and the last of them between two. Nobody foresees more
//! than the epochs on the newest block.

use theta_core::{
    block::{Header, Seed},
    hash::{Address, Hash, U256, keccak_parts},
    spec::{ChainSpec, ProposerRule},
    stake::ValidatorSet,
};

use crate::{certificate::Shares, checks::Fault, go_rand::GoRand};

/// Who may propose on a block in an epoch, or `None` for epoch 0 and for a set without stake. `validators` are those that may
/// propose on it.
pub fn scheduled(
    spec: &ChainSpec,
    parent: &Header,
    validators: &ValidatorSet,
    epoch: u64,
) -> Option<Address> {
    match spec.rules(parent.height.saturating_add(1)).consensus.proposer {
        ProposerRule::GoRandom => proposer(validators, epoch),
        ProposerRule::ProposerSeeded => seeded_proposer(validators, &parent.draw(), epoch),
    }
}

/// Whoever holds the wei of stake that is drawn. The draw has 256 bits, so its remainder favours nobody that one could notice.
pub fn seeded_proposer(validators: &ValidatorSet, seed: &Hash, epoch: u64) -> Option<Address> {
    let total = validators.total_stake().get();
    if epoch == 0 || total.is_zero() {
        return None;
    }
    let draw = keccak_parts(&[b"theta proposer", seed.as_slice(), &epoch.to_be_bytes()]);
    let mut left = U256::from_be_bytes(draw.0) % total;
    for validator in validators.as_slice() {
        match left.checked_sub(validator.stake.get()) {
            Some(rest) => left = rest,
            None => return Some(validator.address),
        }
    }
    None
}

/// Whether a header's seed is what its proposer has to make of the parent's. Costs one check of a signature.
pub(crate) fn check_seed(
    header: &Header,
    parent: &Header,
    validators: &ValidatorSet,
    shares: Shares,
) -> Result<(), Fault> {
    let Some(seed) = &header.seed else { return Ok(()) };
    let key = validators.find(header.proposer).and_then(|validator| validator.bls).ok_or(Fault::Seed)?;
    let message = Seed::message(&header.chain, header.epoch);
    let right = *seed == Seed::after(&parent.draw(), seed.signature)
        && shares.is_signed(&[key], &message, &seed.signature);
    if right { Ok(()) } else { Err(Fault::Seed) }
}

/// The proposer of an epoch by the reference's schedule, or `None` for epoch 0 and for a set without stake.
pub fn proposer(validators: &ValidatorSet, epoch: u64) -> Option<Address> {
    let set = validators.as_slice();
    let (Some(last), 1..) = (set.last(), epoch) else { return None };
    let total = validators.total_stake().get();
    let scale = total / U256::from(u32::MAX) + U256::from(1);
    // Both are below 2^32 by the choice of the scale.
    let below = |value: U256| u64::try_from(value / scale).unwrap_or(u64::MAX);
    // Go's int64(epoch): large epochs wrap to negative seeds.
    let draw = GoRand::new(epoch.cast_signed()).int63n(below(total))?;
    let mut sum = 0_u64;
    let drawn = set.iter().find(|validator| {
        sum = sum.saturating_add(below(validator.stake.get()));
        sum > draw
    });
    Some(drawn.unwrap_or(last).address)
}

#[cfg(test)]
mod tests {
    use theta_core::stake::Validator;

    use super::*;
    use crate::fixture::{array, object, validators};

    #[test]
    fn the_schedule_equals_the_reference() {
        let mut rows = 0;
        for case in array("proposer_schedule") {
            let set = validators(&case["validators"]);
            for row in case["epoch_draw_proposer"].as_array().expect("rows") {
                let epoch = row[0].as_str().expect("text").parse().expect("number");
                let expected: Address = row[2].as_str().expect("text").parse().expect("address");
                assert_eq!(proposer(&set, epoch), Some(expected), "epoch {epoch}");
                rows += 1;
            }
        }
        assert_eq!(rows, 9 * 32);
    }

    #[test]
    fn where_the_reference_panics_the_last_validator_proposes() {
        let mut failing = 0;
        for case in array("proposer_schedule") {
            let set = validators(&case["validators"]);
            for row in case["failing_epochs"].as_array().into_iter().flatten() {
                let expected: Address =
                    row["expected_here"].as_str().expect("text").parse().expect("address");
                assert_eq!(expected, set.as_slice().last().expect("not empty").address);
                assert_eq!(proposer(&set, row["epoch"].as_u64().expect("number")), Some(expected));
                failing += 1;
            }
        }
        assert!(failing >= 3);
        for row in object("tail")["epochs"].as_array().expect("rows") {
            let draw = GoRand::new(row[0].as_i64().expect("epoch")).int63n(4_294_967_294);
            assert_eq!(draw, row[1].as_u64());
        }
    }

    #[test]
    fn a_seed_draws_by_stake_and_anew_for_each_epoch() {
        let stakes = [1, 0, 3, 6].map(theta_core::amount::ThetaWei::whole);
        let set = ValidatorSet::new(
            stakes
                .into_iter()
                .zip(1..)
                .map(|(stake, byte)| Validator::new(Address::repeat_byte(byte), stake)),
        );
        let mut drawn = [0_u32; 4];
        for (epoch, seed) in (1..=1_000).zip([1, 2].into_iter().cycle()) {
            let who = seeded_proposer(&set, &Hash::repeat_byte(seed), epoch).expect("stake");
            drawn[usize::from(who.0[0]) - 1] += 1;
        }
        // Four standard deviations.
        for (drawn, expected) in drawn.into_iter().zip([100_u32, 0, 300, 600]) {
            assert!(drawn.abs_diff(expected) <= 62.min(expected), "{drawn} of {expected}");
        }
        let schedule = |seed| -> Vec<_> {
            (1..50).map(|epoch| seeded_proposer(&set, &Hash::repeat_byte(seed), epoch)).collect()
        };
        assert_ne!(schedule(1), schedule(2));
        assert_eq!(seeded_proposer(&set, &Hash::ZERO, 0), None);
        assert_eq!(seeded_proposer(&ValidatorSet::default(), &Hash::ZERO, 1), None);
    }

    #[test]
    fn epoch_zero_and_an_empty_set_have_no_proposer() {
        assert_eq!(proposer(&ValidatorSet::default(), 1), None);
        let case = &array("proposer_schedule")[0];
        assert_eq!(proposer(&validators(&case["validators"]), 0), None);
    }
}
