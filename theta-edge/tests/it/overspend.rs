//! Random overspenders with real receipts, tills and signatures, and the ledger that punishes them (edge.md 5.5). Only time
//! is not real: messages between payees take 20 to 300 milliseconds, and one in a hundred is lost.
//!
//! `THETA_OVERSPENDS=10000 cargo test --release -p theta-edge --test it random_overspends -- --nocapture` runs that many.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use theta_core::amount::TFuelWei;
use theta_core::hash::{Hash, U256};
use theta_edge::job::PoolRef;
use theta_edge::payment::PayError;
use theta_edge::payment::receipt::Payment;
use theta_edge::payment::till::Till;
use theta_edge::payment::watch::{Beacon, REPEAT_MS, Say};

use crate::chain::RESOURCE;
use crate::value::Market;
use crate::world::key;

/// Parts that a fund is counted in, so that shares are odd amounts.
const PARTS: u64 = 1_000_000_007;
const FUND: u64 = 100;
const FIRST: u8 = 2;

/// Numbers that depend on a seed alone (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) % end
    }
}

fn part(parts: u64) -> TFuelWei {
    TFuelWei::whole(FUND).checked_ratio(U256::from(parts), U256::from(PARTS)).unwrap()
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A payment of the list reaches its payee.
    Paid(usize),
    /// A word of the list reaches a payee.
    Said(usize, usize),
    Repeat(usize),
}

enum Word {
    Beacon(Beacon),
    Claim(theta_edge::payment::receipt::Receipt),
}

/// How much more than the fund is signed away, in parts, over how many payees: at least one part, at most the fund again.
fn shares(random: &mut Random) -> Vec<u64> {
    let many = random.below(50) == 0;
    let payees = 2 + random.below(if many { 40 } else { 5 }) as usize;
    let more = if random.below(4) == 0 { 1 } else { 1 + random.below(PARTS) };
    let mut rest = PARTS + more;
    let mut shares: Vec<u64> = vec![0; payees];
    for share in &mut shares {
        *share = random.below(PARTS.min(rest) + 1);
        rest -= *share;
    }
    for share in &mut shares {
        let room = rest.min(PARTS - *share);
        (*share, rest) = (*share + room, rest - room);
    }
    shares.retain(|share| *share > 0);
    shares
}

/// One attack: the longest that a payee did not know, in milliseconds from when the receipts were more than the fund, or from
/// its own first receipt where that came later. The ledger has taken fund and collateral by then.
fn attack(seed: u64) -> u64 {
    let mut random = Random(seed);
    let shares = shares(&mut random);
    let names: Vec<u8> = (0..shares.len()).map(|payee| FIRST + payee as u8).collect();
    let mut market = Market::new(&names);
    let fund = market.fund();
    let (payer, sequence, height) = (market.payer.address(), market.sequence, market.chain.height);
    let mut tills: Vec<Till> = names.iter().map(|name| market.till(*name)).collect();
    let mut queue = BinaryHeap::new();
    let mut payments: Vec<(usize, TFuelWei, Payment)> = Vec::new();
    let span = 1 + random.below(3_000);
    for (payee, share) in shares.iter().enumerate() {
        // A purse of its own for each payee: none of them overspends, the key does.
        let mut purse = market.purse();
        let (job, to) = (Hash::repeat_byte(names[payee]), key(names[payee]).address());
        purse.promise(job, part(*share)).unwrap();
        let pieces = (1 + random.below(4)).min(*share);
        let mut at = random.below(span);
        let mut paid = TFuelWei::ZERO;
        for piece in 1..=pieces {
            let all = part(share * piece / pieces);
            let item = Hash::from(U256::from(piece));
            payments.push((payee, all, purse.pay(&job, to, item, all.checked_sub(paid).unwrap()).unwrap()));
            paid = all;
            queue.push(Reverse((at, Event::Paid(payments.len() - 1))));
            at += 1 + random.below(500);
        }
        queue.push(Reverse((random.below(REPEAT_MS), Event::Repeat(payee))));
    }
    let mut words: Vec<(usize, Word)> = Vec::new();
    let mut signed: BTreeMap<usize, TFuelWei> = BTreeMap::new();
    let mut over = None;
    // By payee: its first receipt, and since when it knows.
    let (mut first, mut known) = (BTreeMap::new(), BTreeMap::new());
    let caught = loop {
        let Reverse((now, event)) = queue.pop().unwrap();
        assert!(now < 20_000, "seed {seed}: it is never found out");
        let (payee, say) = match event {
            Event::Paid(place) => {
                let (payee, amount, payment) = &payments[place];
                let till = &mut tills[*payee];
                till.accept(payment, &fund, height).unwrap();
                signed.insert(*payee, *amount);
                first.entry(*payee).or_insert(now);
                let all = signed.values().try_fold(TFuelWei::ZERO, |sum, one| sum.checked_add(*one));
                if all.unwrap() > fund.initial {
                    over.get_or_insert(now);
                }
                (*payee, till.speak(now, &fund))
            }
            Event::Said(payee, place) => {
                let till = &mut tills[payee];
                let said = match &words[place].1 {
                    Word::Beacon(beacon) => till.hear(now, beacon, &fund),
                    Word::Claim(receipt) => till.see(now, receipt, &fund),
                };
                match said {
                    // It was not paid yet.
                    Err(PayError::NoFund) => continue,
                    said => (payee, said.unwrap()),
                }
            }
            Event::Repeat(payee) => {
                queue.push(Reverse((now + REPEAT_MS, Event::Repeat(payee))));
                let said = tills[payee].repeat(now);
                assert!(said.len() < 2, "it watches one fund");
                (payee, said.into_iter().next())
            }
        };
        if let Some(say) = say {
            let word = match say {
                Say::Beacon(receipt) => Word::Beacon(Beacon::sign(&receipt, &key(names[payee])).unwrap()),
                Say::Show(receipt) => Word::Claim(receipt),
                other => panic!("{other:?}"),
            };
            words.push((payee, word));
            for other in (0..tills.len()).filter(|other| *other != payee) {
                let at = now + 20 + random.below(281);
                if random.below(100) > 0 {
                    queue.push(Reverse((at, Event::Said(other, words.len() - 1))));
                }
            }
        }
        let know = |payee: &usize| tills[*payee].is_overspent(payer, sequence);
        assert!(over.is_some() || !signed.keys().any(know), "seed {seed}: accused before it overspends");
        for payee in signed.keys().filter(|payee| know(payee)) {
            known.entry(*payee).or_insert(now);
        }
        if over.is_some() && known.len() == signed.len() {
            break now;
        }
    };
    // Nobody works for it any more, and any of them can prove it.
    let pool = PoolRef { payer, reserve_sequence: sequence, resource_id: RESOURCE.into() };
    for payee in signed.keys() {
        let served = tills[*payee].covers(caught, Some(&fund), &pool, TFuelWei::wei(1), height);
        assert!(matches!(served, Err(PayError::Uncovered)), "seed {seed}: {served:?}");
    }
    let bringer = *signed.keys().nth(random.below(signed.len() as u64) as usize).unwrap();
    let before = market.chain.balance(payer);
    let proof = tills[bringer].overspending(payer, sequence, &[]).unwrap();
    let raw = tills[bringer].slash(payer, &proof, 1).unwrap();
    market.chain.submit(&raw.bytes).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    assert!(market.chain.fund(payer, sequence).is_none(), "seed {seed}: fund and collateral are gone");
    assert_eq!(market.chain.balance(payer), before, "seed {seed}: the payer gets nothing back");
    let over = over.unwrap();
    known.iter().map(|(payee, since)| since - over.max(first[payee])).max().unwrap()
}

#[test]
fn random_overspends_are_caught_within_two_seconds_and_slashed_by_the_ledger() {
    let count = std::env::var("THETA_OVERSPENDS").map_or(50, |count| count.parse().unwrap());
    let mut after: Vec<u64> = (0..count).map(attack).collect();
    after.sort_unstable();
    let at = |permille: usize| after[(after.len() - 1) * permille / 1_000];
    println!(
        "{count} attacks, all slashed; caught after {} ms, p99 {} ms, at most {} ms",
        at(500),
        at(990),
        at(1_000)
    );
    assert!(at(1_000) <= 2_000, "{} ms", at(1_000));
    assert!(at(1_000) > 100, "messages take time");
}
