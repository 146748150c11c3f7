//! S6: a payer signs away more than its fund holds, and its payees find out (edge.md 5.5).

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use theta_core::amount::TFuelWei;
use theta_core::hash::{Address, U256};
use theta_core::sign::Signature;

use super::Random;
use crate::Millis;
use crate::chain::Fund;
use crate::payment::receipt::{NO_ITEMS, Receipt};
use crate::payment::tick::TickCommit;
use crate::payment::watch::{Beacon, REPEAT_MS, Say, Watch, bucket};

/// How an attack went, in milliseconds of virtual time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// When the receipts became more than the fund.
    pub over: Option<Millis>,
    /// When the first payee had a proof.
    pub first: Option<Millis>,
    /// When the last one knew.
    pub last: Option<Millis>,
    /// Wei that were signed beyond the fund until the first proof: what the payees together can lose.
    pub lost: u64,
}

impl Report {
    /// The three times.
    pub const fn times(&self) -> (Option<Millis>, Option<Millis>, Option<Millis>) {
        (self.over, self.first, self.last)
    }
}

pub(crate) fn address(number: usize) -> Address {
    Address::from_word(U256::from(number + 1).into())
}

/// A receipt whose signatures nobody looks at here: a watch is given what was verified.
pub(crate) fn receipt(payee: usize, amount: u64) -> Receipt {
    Receipt {
        version: 2,
        chain_id: "privatenet".into(),
        payer: Address::repeat_byte(0xff),
        payee: address(payee),
        reserve_sequence: 1,
        payment_sequence: 1,
        resource_id: "edge1/any".into(),
        amount: TFuelWei::wei(amount),
        items_root: NO_ITEMS,
        tick: TickCommit::NONE,
        expiry_height: 1000,
        payer_signature: Signature::EMPTY,
        envelope_signature: Signature::EMPTY,
    }
}

pub(crate) fn fund(initial: u64) -> Fund {
    Fund {
        payer: Address::repeat_byte(0xff),
        reserve_sequence: 1,
        initial: TFuelWei::wei(initial),
        used: TFuelWei::ZERO,
        resource_ids: vec!["edge1/any".into()],
        end_height: 1000,
        settled: Vec::new(),
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Paid { payee: usize, amount: u64 },
    Heard { payee: usize, from: usize, amount: u64, shows: bool },
    Tick { payee: usize },
}

/// A payer pays `total` wei out of a fund of `initial` to several payees in several receipts each; payees hear each other
/// by messages that take 20 to 300 ms. Signatures are left out: a watch is given what was verified.
pub fn attack(random: &mut Random, initial: u64, total: u64) -> Report {
    let many = random.below(100) == 0;
    let payees = 2 + random.below(if many { 40 } else { 5 }) as usize;
    let fund = fund(initial);
    let mut watches: Vec<Watch> = (0..payees).map(|payee| Watch::new(address(payee), &fund)).collect();
    let mut queue = BinaryHeap::new();
    // Shares of a random size, none above the fund, and the rest to whoever has room.
    let (mut shares, mut rest) = (vec![0; payees], total);
    for share in &mut shares {
        *share = random.below(initial.min(rest) + 1);
        rest -= *share;
    }
    for share in &mut shares {
        let more = rest.min(initial - *share);
        (*share, rest) = (*share + more, rest - more);
    }
    let span = 1 + random.below(3_000);
    for (payee, share) in shares.iter().enumerate() {
        let parts = 1 + random.below(4);
        let mut at = random.below(span);
        for part in 1..=parts {
            let amount = if part == parts { *share } else { share * part / parts };
            queue.push(Reverse((at, Event::Paid { payee, amount })));
            at += random.below(500);
        }
        queue.push(Reverse((random.below(REPEAT_MS), Event::Tick { payee })));
    }
    let mut paid = vec![0_u64; payees];
    let (mut over, mut first, mut last, mut at_proof) = (None, None, None, 0);
    while let Some(Reverse((now, event))) = queue.pop() {
        if now > 20_000 {
            break;
        }
        let (payee, say) = match event {
            Event::Paid { amount: 0, .. } => continue,
            Event::Paid { payee, amount } => {
                paid[payee] = amount.max(paid[payee]);
                if paid.iter().sum::<u64>() > initial {
                    over.get_or_insert(now);
                }
                (payee, watches[payee].claim(now, &receipt(payee, paid[payee])))
            }
            Event::Heard { payee, from, amount, shows } => {
                let receipt = receipt(from, amount);
                let beacon = Beacon {
                    chain_id: receipt.chain_id.clone(),
                    payer: receipt.payer,
                    reserve_sequence: 1,
                    payee: receipt.payee,
                    payment_sequence: 1,
                    bucket: bucket(receipt.amount),
                    signature: Signature::EMPTY,
                };
                let watch = &mut watches[payee];
                (payee, if shows { watch.shown(now, &receipt) } else { watch.heard(now, &beacon) })
            }
            Event::Tick { payee } => {
                queue.push(Reverse((now + REPEAT_MS, Event::Tick { payee })));
                (payee, watches[payee].tick(now))
            }
        };
        if let Some(say) = say {
            let (receipt, shows) = match say {
                Say::Beacon(receipt) => (receipt, false),
                Say::Show(receipt) => (receipt, true),
            };
            let amount = u64::try_from(receipt.amount.get()).unwrap_or(u64::MAX);
            for other in (0..payees).filter(|other| *other != payee) {
                let at = now + 20 + random.below(281);
                queue.push(Reverse((at, Event::Heard { payee: other, from: payee, amount, shows })));
            }
        }
        if watches[payee].proof(1, &[]).is_some() {
            if first.is_none() {
                (first, at_proof) = (Some(now), paid.iter().sum::<u64>());
            }
            if watches.iter().all(Watch::is_overspent) {
                last = Some(now);
                break;
            }
        }
    }
    let lost = at_proof.saturating_sub(initial);
    Report { over, first, last, lost }
}
