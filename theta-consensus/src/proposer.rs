//! Who proposes: the reference's stake-weighted schedule (`consensus/validator.go`).
//!
//! The draw depends on the epoch and the total stake alone, so the whole future schedule is public. Weights are
//! rounded down, so their sum may stay below the range of the draw. There the reference stops with a panic; here the
//! remainder belongs to the last validator, which agrees with the reference wherever it has an answer.

use theta_core::{
    hash::{Address, U256},
    stake::ValidatorSet,
};

use crate::go_rand::GoRand;

/// The proposer of an epoch, or `None` for epoch 0 and for a set without stake.
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
    fn epoch_zero_and_an_empty_set_have_no_proposer() {
        assert_eq!(proposer(&ValidatorSet::default(), 1), None);
        let case = &array("proposer_schedule")[0];
        assert_eq!(proposer(&validators(&case["validators"]), 0), None);
    }
}
