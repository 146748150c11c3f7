use proptest::prelude::*;
use theta_core::{bls::SecretKey, hash::Address};

use super::*;
use crate::guardian;

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
    guardian::sign(&key(index), &message, (block(), pool.hash()), index.into(), SIZE.into())
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
    assert!(is_quorum(&pool, &[1, 1, 1]));
    assert!(!is_quorum(&pool, &[1, 1, 0]));
    assert!(!is_quorum(&GuardianPool::default(), &[]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// In whatever order aggregates come, nobody is counted twice, what is held verifies, and with all single votes at
    /// hand nobody is missing.
    #[test]
    fn gathering_keeps_signatures_whole(masks in proptest::collection::vec(1_u8..=255, 1..6)) {
        let pool = pool(&[100; 8]);
        let mut tally = Tally::new(block(), pool.hash(), SIZE.into());
        for mask in &masks {
            tally.add(votes(&pool, *mask).expect("some"));
            let best = tally.best().expect("gathered");
            prop_assert_eq!(checkpoint(&pool).verify(&best), Ok(()));
            prop_assert_eq!(&best.multipliers, tally.cover());
        }
        let before = tally.cover().iter().sum::<u32>();
        let widest = masks.iter().map(|mask| mask.count_ones()).max().unwrap_or(0);
        prop_assert!(before >= widest);
        for index in 0..SIZE {
            tally.add(vote(&pool, index));
        }
        prop_assert_eq!(tally.cover(), &[1; 8]);
        prop_assert_eq!(checkpoint(&pool).certifies(&tally.best().expect("all")), Ok(()));
        // Nothing more can be of use.
        for mask in masks {
            prop_assert!(!tally.add(votes(&pool, mask).expect("some")));
        }
    }
}

#[test]
fn what_is_kept_is_bounded() {
    let pool = pool(&[100; 8]);
    let mut tally = Tally::new(block(), pool.hash(), SIZE.into());
    for mask in 1..=255_u8 {
        if mask.count_ones() == 2 {
            tally.add(votes(&pool, mask).expect("some"));
        }
    }
    assert!(tally.parts.len() <= PARTS && tally.singles.is_empty());
}
