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
//!
//! *Absent* validators are not drawn where the rules say so. A proposer that lets its epoch pass costs everybody a timeout,
//! and one that is stopped does it again and again. Which epochs have passed without a block is written in the chain: those
//! between a block and its parent. Their proposers are absent from then on, as long as a quorum of stake is present; of
//! more, those that have failed last. Whose vote stands in a certificate again comes back, in every 32nd block, and so does
//! whoever has been absent longest, in every 1,024th: it may be honest and too far away for its votes to be counted. Each
//! header carries the list, so the parent's header is all that one needs to know who may propose.
//!
//! A block that comes in time gets every honest vote, so nobody makes another absent at will: it takes a proposer of the
//! next epoch that builds beside the block before an honest vote for it has come, which is late. Nor is there a choice of
//! whom to name. What a proposer of a 32nd block can do is leave a vote out of its certificate, and so keep somebody out
//! for 32 blocks more. Draws are repeated until they hit somebody present, so whoever is present keeps the epochs that were
//! drawn for it at first.

use theta_core::{
    block::{Header, Seed},
    hash::{Address, Hash, U256, keccak, keccak_parts},
    spec::{ChainSpec, ProposerRule},
    stake::ValidatorSet,
};

use crate::{certificate::Shares, checks::Fault, go_rand::GoRand};

/// Draws for one epoch. As two thirds at least are present, one epoch of 10^30 has a proposer that is absent.
const DRAWS: usize = 64;
/// Absent validators that vote come back in every block of so many.
const BACK_EVERY: u64 = 32;
/// Whoever has been absent longest comes back in every block of so many.
const FORGIVEN_EVERY: u64 = 1_024;
/// Epochs between a block and its parent whose proposers become absent, from the first on. A network that was cut or without power
/// for hours need not count them all.
const PASSED: usize = 64;

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
        ProposerRule::ProposerSeeded => seeded_proposer(validators, &parent.draw(), epoch, &parent.absent),
    }
}

/// Whoever holds the wei of stake that is drawn. The draw has 256 bits, so its remainder favours nobody that one could notice.
/// It is repeated while it hits somebody absent. Where less than a quorum is present, the list is of other validators, and everybody
/// is drawn.
pub fn seeded_proposer(
    validators: &ValidatorSet,
    seed: &Hash,
    epoch: u64,
    absent: &[Address],
) -> Option<Address> {
    if epoch == 0 || validators.total_stake().is_zero() {
        return None;
    }
    let absent = if has_quorum_without(validators, absent) { absent } else { &[] };
    let mut draw = keccak_parts(&[b"theta proposer", seed.as_slice(), &epoch.to_be_bytes()]);
    for _ in 0..DRAWS {
        let drawn = holder(validators, &draw)?;
        if !absent.contains(&drawn) {
            return Some(drawn);
        }
        draw = keccak(draw);
    }
    holder(validators, &draw)
}

fn holder(validators: &ValidatorSet, draw: &Hash) -> Option<Address> {
    let mut left = U256::from_be_bytes(draw.0).checked_rem(validators.total_stake().get())?;
    for validator in validators.as_slice() {
        match left.checked_sub(validator.stake.get()) {
            Some(rest) => left = rest,
            None => return Some(validator.address),
        }
    }
    None
}

fn has_quorum_without(validators: &ValidatorSet, absent: &[Address]) -> bool {
    let present = validators.as_slice().iter().map(|validator| validator.address);
    absent.is_empty()
        || validators.is_quorum(validators.stake_of(present.filter(|one| !absent.contains(one))))
}

/// Whether those who vote again come back in a block of this height.
pub(crate) const fn takes_back(height: u64) -> bool {
    height.is_multiple_of(BACK_EVERY)
}

/// Who is absent after a block of this epoch and proposer on a parent. `validators` may propose on the parent, `voted` have votes in
/// the block's certificate.
pub(crate) fn absent_after(
    spec: &ChainSpec,
    parent: &Header,
    validators: &ValidatorSet,
    (epoch, proposer): (u64, Address),
    voted: &[Address],
) -> Vec<Address> {
    let height = parent.height.saturating_add(1);
    let mut absent = Vec::new();
    if !spec.rules(height).consensus.skips_absent {
        return absent;
    }
    let passed = (parent.epoch.saturating_add(1)..epoch).take(PASSED);
    let failed: Vec<Address> =
        passed.filter_map(|passed| scheduled(spec, parent, validators, passed)).collect();
    absent.extend(parent.absent.iter().copied().filter(|one| validators.contains(*one)));
    if height.is_multiple_of(FORGIVEN_EVERY) && !absent.is_empty() {
        absent.remove(0);
    }
    if takes_back(height) {
        absent.retain(|one| failed.contains(one) || !voted.contains(one));
    }
    for one in failed {
        if !absent.contains(&one) {
            absent.push(one);
        }
    }
    absent.retain(|one| *one != proposer);
    while !has_quorum_without(validators, &absent) {
        absent.remove(0);
    }
    absent
}

/// Whether a header names those who are absent after it. `voters` are the validators that its certificate counts; without them it
/// is believed who of the absent has voted.
pub(crate) fn check_absent(
    spec: &ChainSpec,
    header: &Header,
    parent: &Header,
    validators: &ValidatorSet,
    voters: Option<&ValidatorSet>,
) -> Result<(), Fault> {
    let voted: Vec<Address> = match (header.certificate.votes.aggregate(), voters) {
        (Some(votes), Some(voters)) => votes.voters(voters).map(|voter| voter.address).collect(),
        _ => parent.absent.iter().copied().filter(|one| !header.absent.contains(one)).collect(),
    };
    let by = (header.epoch, header.proposer);
    if header.absent == absent_after(spec, parent, validators, by, &voted) {
        Ok(())
    } else {
        Err(Fault::Absent)
    }
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
    use theta_core::{certificate::AggregateVotes, spec::Fork, stake::Validator};

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
            let who = seeded_proposer(&set, &Hash::repeat_byte(seed), epoch, &[]).expect("stake");
            drawn[usize::from(who.0[0]) - 1] += 1;
        }
        // Four standard deviations.
        for (drawn, expected) in drawn.into_iter().zip([100_u32, 0, 300, 600]) {
            assert!(drawn.abs_diff(expected) <= 62.min(expected), "{drawn} of {expected}");
        }
        let schedule = |seed| -> Vec<_> {
            (1..50).map(|epoch| seeded_proposer(&set, &Hash::repeat_byte(seed), epoch, &[])).collect()
        };
        assert_ne!(schedule(1), schedule(2));
        assert_eq!(seeded_proposer(&set, &Hash::ZERO, 0, &[]), None);
        assert_eq!(seeded_proposer(&ValidatorSet::default(), &Hash::ZERO, 1, &[]), None);
    }

    fn of_equals(validators: u8) -> ValidatorSet {
        let stake = theta_core::amount::ThetaWei::whole(7);
        ValidatorSet::new((1..=validators).map(|byte| Validator::new(Address::repeat_byte(byte), stake)))
    }

    /// A header of this height and epoch after which these are absent.
    fn header(height: u64, epoch: u64, absent: &[Address]) -> Header {
        let signature = theta_core::bls::Signature::from_checked_bytes([0x80; 96]);
        let seed = Some(Seed { value: Hash::repeat_byte(3), signature });
        Header { height, epoch, seed, absent: absent.to_vec(), ..Header::zero() }
    }

    #[test]
    fn who_is_absent_is_not_drawn_and_others_keep_their_epochs() {
        let (set, seed) = (of_equals(7), Hash::repeat_byte(5));
        let absent = [2, 6].map(Address::repeat_byte);
        let draw = |absent: &[Address]| -> Vec<_> {
            (1..500).map(|epoch| seeded_proposer(&set, &seed, epoch, absent).expect("stake")).collect()
        };
        let (all, present) = (draw(&[]), draw(&absent));
        for (first, drawn) in all.iter().zip(&present) {
            assert!(!absent.contains(drawn));
            assert!(first == drawn || absent.contains(first), "{first} lost its epoch to {drawn}");
        }
        for one in set.as_slice().iter().filter(|one| !absent.contains(&one.address)) {
            // A fifth of 499, and four standard deviations.
            let times = present.iter().filter(|drawn| **drawn == one.address).count();
            assert!((64..=136).contains(&times), "{times}");
        }
        // With a third one less than a quorum would be left.
        assert_eq!(draw(&[2, 6, 7].map(Address::repeat_byte)), all);
    }

    #[test]
    fn proposers_of_epochs_that_passed_are_absent_until_they_vote() {
        let (spec, set) = (ChainSpec::devnet(), of_equals(7));
        let after = |parent: &Header, epoch: u64, voted: &[Address]| {
            let proposer = scheduled(&spec, parent, &set, epoch).expect("stake");
            absent_after(&spec, parent, &set, (epoch, proposer), voted)
        };
        let parent = header(9, 20, &[]);
        let who = |epoch: u64| scheduled(&spec, &parent, &set, epoch).expect("stake");
        // Two in a row that are two, before a third.
        let first = (21..100).find(|epoch| {
            let [one, two, three] = [0, 1, 2].map(|next| who(epoch + next));
            one != two && two != three && one != three
        });
        let first = first.expect("draws differ");
        let parent = header(9, first - 1, &[]);
        assert_eq!(after(&parent, first, &[]), [Address::ZERO; 0], "no epoch has passed");
        let absent = [who(first), who(first + 1)];
        assert_eq!(after(&parent, first + 2, &[]), absent);
        // Each is named once, and whoever makes the block is not; of many that have failed those that failed last.
        let crowd = after(&parent, first + 60, &[]);
        assert_eq!(crowd.len(), 2, "{crowd:?}");
        assert!(crowd.iter().all(|one| set.contains(*one) && *one != who(first + 60)));
        let proposer = |epoch: u64, parent: &Header| scheduled(&spec, parent, &set, epoch).expect("stake");
        let long = header(9, first - 1, &[]);
        let by = (u64::MAX, proposer(u64::MAX, &long));
        assert_eq!(absent_after(&spec, &long, &set, by, &[]).len(), 2, "as soon as for a short time");

        // Votes count in every 32nd block.
        let voted = [absent[1]];
        assert_eq!(after(&header(30, 40, &absent), 41, &voted), absent);
        assert_eq!(after(&header(31, 40, &absent), 41, &voted), absent[..1]);
        assert_eq!(after(&header(31, 40, &absent), 41, &absent), [Address::ZERO; 0]);
        // Without votes whoever has been absent longest gets a chance.
        assert_eq!(after(&header(1_023, 2_000, &absent), 2_001, &[]), absent[1..]);
        // Who is no validator any more is nobody's to wait for.
        let stranger = [Address::repeat_byte(99), absent[0]];
        assert_eq!(after(&header(12, 40, &stranger), 41, &[]), absent[..1]);
        // Other chains know nothing of it.
        let forks = spec.forks().iter().map(|(fork, height)| (*fork, *height));
        let plain = ChainSpec::new("privatenet", forks.filter(|(fork, _)| *fork != Fork::SkipAbsent));
        assert_eq!(absent_after(&plain, &parent, &set, (first + 2, who(first + 2)), &[]), [Address::ZERO; 0]);
    }

    #[test]
    fn a_header_that_names_others_is_refused() {
        let (spec, set) = (ChainSpec::devnet(), of_equals(7));
        let absent = [2, 6].map(Address::repeat_byte);
        let check = |parent: &Header, names: &[Address], voters: Option<&[usize]>| {
            let epoch = parent.epoch + 1;
            let mut child = header(parent.height + 1, epoch, names);
            child.proposer = scheduled(&spec, parent, &set, epoch).expect("stake");
            let mut signers = theta_core::bits::Bits::new(7);
            voters.unwrap_or(&[]).iter().for_each(|voter| signers.set(*voter));
            let signature = theta_core::bls::Signature::from_checked_bytes([0x80; 96]);
            child.certificate.votes = AggregateVotes { epoch: parent.epoch, signers, signature }.into();
            check_absent(&spec, &child, parent, &set, voters.map(|_| &set)) == Ok(())
        };
        let (parent, at_32) = (header(12, 40, &absent), header(31, 40, &absent));
        let turned = [absent[1], absent[0]];
        let more = [absent[0], absent[1], Address::repeat_byte(3)];
        for voters in [Some([0, 1, 2, 3, 4].as_slice()), None] {
            assert!(check(&parent, &absent, voters));
            for wrong in [&absent[..1], &absent[1..], &[], &turned, &more] {
                assert!(!check(&parent, wrong, voters), "{wrong:?}");
            }
            assert!(!check(&at_32, &turned, voters) && !check(&at_32, &more, voters));
        }
        // The second validator has voted, the sixth has not.
        let voters = Some([0, 1, 2, 3, 4].as_slice());
        assert!(check(&at_32, &absent[1..], voters));
        assert!(!check(&at_32, &absent, voters) && !check(&at_32, &[], voters));
        // Whoever does not know the voters believes any of these.
        assert!(
            [&absent[..], &absent[1..], &absent[..1], &[]]
                .into_iter()
                .all(|names| check(&at_32, names, None))
        );
    }

    #[test]
    fn epoch_zero_and_an_empty_set_have_no_proposer() {
        assert_eq!(proposer(&ValidatorSet::default(), 1), None);
        let case = &array("proposer_schedule")[0];
        assert_eq!(proposer(&validators(&case["validators"]), 0), None);
    }
}
