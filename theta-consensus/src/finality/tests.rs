use proptest::prelude::*;
use theta_core::{
    bls::{self, SecretKey},
    hash::Address,
};

use super::*;
use crate::{guardian, round::Aggregate};

const SIZE: u8 = 8;

fn key(index: u8) -> SecretKey {
    SecretKey::from_bytes(&[index + 1; 32]).expect("in range")
}

fn pool(stakes: &[u64]) -> GuardianPool {
    let mut pool = GuardianPool::default();
    for (index, stake) in (0..).zip(stakes) {
        let holder = Address::repeat_byte(index + 1);
        let key = Some(key(index).public_key());
        pool.deposit(holder, holder, ThetaWei::whole(*stake), key).expect("new");
    }
    pool
}

fn checkpoint(pool: &GuardianPool) -> Checkpoint<'_> {
    Checkpoint { chain: "devnet", height: 11, rule: GuardianRule::Finalize, pool }
}

fn block() -> Hash {
    Hash::repeat_byte(7)
}

fn vote(pool: &GuardianPool, index: u8) -> GuardianVotes {
    let message = checkpoint(pool).message(&block(), &pool.hash());
    guardian::sign(&key(index), (SUITE, &message), (block(), pool.hash()), index.into(), SIZE.into())
}

fn votes(pool: &GuardianPool, bits: u8) -> Option<GuardianVotes> {
    let single = (0..SIZE).filter(|index| bits >> index & 1 == 1).map(|index| vote(pool, index));
    single.reduce(|a, b| a.merged(&b).expect("fits"))
}

#[test]
fn two_thirds_of_the_stake_alone_do_not_finalize() {
    let pool = pool(&[100, 100, 100, 100, 100, 100, 100, 200]);
    let certifies = |bits| checkpoint(&pool).certifies(&votes(&pool, bits).expect("some"));
    // 600 of 900, by six and by five.
    assert_eq!(certifies(0b0011_1111), Err(AggregateError::NoQuorum));
    assert_eq!(certifies(0b1000_1111), Err(AggregateError::NoQuorum));
    assert_eq!(certifies(0b1001_1111), Ok(()));
    assert_eq!(certifies(0b0111_1111), Ok(()));
}

#[test]
fn withdrawn_stakes_count_on_neither_side() {
    let mut pool = pool(&[100; 8]);
    for index in 1..=5 {
        let holder = Address::repeat_byte(index);
        pool.withdraw(holder, holder, 1, 1_000).expect("there");
    }
    assert!(is_quorum(&pool, |index| index < 3));
    assert!(!is_quorum(&pool, |index| index < 2));
    assert!(!is_quorum(&GuardianPool::default(), |_| true));
}

/// A part of the first pool's only group.
fn part(pool: &GuardianPool, bits: u8) -> Part<bls::Signature> {
    let votes = votes(pool, bits).expect("some");
    let mut run = Bits::new(SIZE.into());
    (0..usize::from(SIZE)).filter(|index| bits >> index & 1 == 1).for_each(|index| run.set(index));
    Part { first: 0, bits: run, signature: votes.signature }
}

fn single(pool: &GuardianPool, index: u8) -> Part<bls::Signature> {
    Part::single(index.into(), vote(pool, index).signature)
}

fn verify(pool: &GuardianPool, part: Part<bls::Signature>) -> Result<(), AggregateError> {
    checkpoint(pool).verify_part(&GuardianPart::new(block(), part), &pool.hash())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// In whatever order aggregates come, nobody is counted twice, what is held verifies, and with all single votes at
    /// hand nobody is missing.
    #[test]
    fn gathering_keeps_signatures_whole(masks in proptest::collection::vec(1_u8..=255, 1..6)) {
        let pool = pool(&[100; 8]);
        let mut tally = Tally::new(Groups::new(SIZE.into()), Some(0), 0, 0, 1);
        for mask in &masks {
            tally.add(part(&pool, *mask));
            let best = tally.best().expect("gathered");
            prop_assert_eq!(&best.bits, &tally.cover());
            prop_assert_eq!(verify(&pool, best), Ok(()));
        }
        let widest = masks.iter().map(|mask| mask.count_ones()).max().unwrap_or(0);
        prop_assert!(tally.cover().count() >= widest as usize);
        for index in 0..SIZE {
            tally.add(single(&pool, index));
        }
        prop_assert_eq!(tally.cover().count(), 8);
        let all = GuardianPart::new(block(), tally.best().expect("all")).into_votes(pool.hash(), SIZE.into());
        prop_assert_eq!(checkpoint(&pool).certifies(&all), Ok(()));
        // Nothing more can be of use.
        for mask in masks {
            prop_assert!(!tally.add(part(&pool, mask)));
        }
    }
}

#[test]
fn a_part_is_signed_by_those_it_names_and_nobody_else() {
    let pool = pool(&[100; 8]);
    assert_eq!(verify(&pool, single(&pool, 3)), Ok(()));
    assert_eq!(verify(&pool, part(&pool, 0b101)), Ok(()));
    let mismatch = Err(AggregateError::Signature(bls::BlsError::Mismatch));
    let changed = |change: &dyn Fn(&mut Part<bls::Signature>)| {
        let mut part = part(&pool, 0b101);
        change(&mut part);
        verify(&pool, part)
    };
    assert_eq!(changed(&|part| part.bits.set(1)), mismatch);
    assert_eq!(changed(&|part| part.signature = single(&pool, 0).signature), mismatch);
    assert_eq!(changed(&|part| part.bits = Bits::new(8)), Err(AggregateError::Empty));
    assert_eq!(changed(&|part| part.first = 6), Err(AggregateError::Length));
    let message = GuardianPart::new(block(), part(&pool, 0b1011));
    let bytes = theta_core::codec::rlp::Encode::to_rlp(&message);
    assert_eq!(theta_core::codec::rlp::Decode::from_rlp(&bytes, 1 << 10), Ok(message));
}

/// Signatures that are sets: adding one twice is seen.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Signers(Vec<usize>);

impl Sum for Signers {
    fn sum(parts: &[&Self]) -> Option<Self> {
        let mut all: Vec<usize> = parts.iter().flat_map(|part| part.0.iter().copied()).collect();
        all.sort_unstable();
        Some(Self(all))
    }
}

fn run(groups: Groups, group: usize, members: &[usize]) -> Part<Signers> {
    let range = groups.range(group);
    let mut bits = Bits::new(range.len());
    members.iter().for_each(|member| bits.set(*member));
    let signature = Signers(bits.ones().map(|member| range.start + member).collect());
    Part { first: range.start, bits, signature }
}

fn one(index: usize) -> Part<Signers> {
    Part::single(index, Signers(vec![index]))
}

#[test]
fn single_votes_are_gathered_in_their_group_and_told_to_all() {
    // Three groups of four.
    let groups = Groups::of_size(12, 4);
    let mut tally = Tally::new(groups, Some(5), 0, 1_000, 100);
    assert!(!tally.add(one(0)), "of another group");
    assert!(tally.add(one(5)) && !tally.add(one(5)));
    assert!(tally.add(one(7)));
    // The second of its group waits one step, and longer where the group is complete only without it.
    assert_eq!((tally.turn(), tally.tell(1_099)), (Some(1_100), None));
    let told = tally.tell(1_100).expect("its turn");
    assert_eq!((told.first, told.signature), (4, Signers(vec![5, 7])));
    assert_eq!(tally.turn(), None, "nothing that is not known");
    // Somebody else told more: nothing to add.
    assert!(tally.add(run(groups, 1, &[0, 1, 3])));
    assert_eq!(tally.turn(), None);
    // All of the group: at once.
    assert!(tally.add(one(6)));
    assert_eq!(tally.tell(1_101).expect("complete").signature, Signers(vec![4, 5, 6, 7]));
    // Aggregates of other groups stand beside, and a fuller one takes the place of one that it overlaps.
    assert!(tally.add(run(groups, 0, &[0, 1])) && !tally.add(run(groups, 0, &[1, 2])));
    assert!(tally.add(run(groups, 0, &[1, 2, 3])) && tally.add(run(groups, 0, &[0])));
    assert_eq!(tally.best().expect("two groups").signature, Signers((0..8).collect()));
    // One of all only if it has more.
    let whole = |signers: std::ops::Range<usize>| {
        let mut bits = Bits::new(12);
        signers.clone().for_each(|index| bits.set(index));
        Part { first: 0, bits, signature: Signers(signers.collect()) }
    };
    assert!(!tally.add(whole(0..8)) && tally.add(whole(3..12)));
    assert_eq!(tally.cover().count(), 9);
    assert!(tally.add(run(groups, 2, &[0, 1, 2])));
    assert_eq!(tally.best().expect("all three").signature, Signers((0..11).collect()));
}

#[test]
fn runs_that_are_no_group_are_not_taken() {
    let groups = Groups::of_size(12, 4);
    let tally = Tally::<Signers>::new(groups, Some(5), 0, 0, 100);
    let part = |first: usize, length: usize| {
        let mut bits = Bits::new(length);
        bits.set(0);
        Part { first, bits, signature: Signers(vec![first]) }
    };
    assert!(tally.wants(&part(4, 4)) && tally.wants(&part(8, 4)) && tally.wants(&part(0, 12)));
    for (first, length) in [(2, 4), (4, 5), (4, 8), (12, 1), (12, 4), (usize::MAX, 4), (0, 0)] {
        assert!(!tally.wants(&part(first, length)), "{first} {length}");
    }
    assert!(!tally.wants(&Part { first: 4, bits: Bits::new(4), signature: Signers(Vec::new()) }));
}

#[test]
fn what_is_kept_is_bounded() {
    let groups = Groups::new(100);
    assert_eq!(groups.count(), 4);
    let mut tally = Tally::new(groups, Some(0), 0, 0, 1);
    for index in 0..100 {
        tally.add(one(index));
        for other in 0..32 {
            tally.add(run(groups, index % 3, &[other, index % 32]));
        }
    }
    // One group's single votes, one aggregate for each group.
    assert!(tally.kept() <= 32 + 4, "{}", tally.kept());
    let all = tally.best().expect("some").signature.0;
    assert!(all.windows(2).all(|pair| pair[0] < pair[1]), "nobody twice: {all:?}");
}
