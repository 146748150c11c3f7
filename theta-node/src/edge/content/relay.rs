//! The side that gives: chunks for ticks, within what it may lose.

use std::collections::BTreeMap;

use theta_core::{amount::TFuelWei, hash::Address};
use theta_edge::{
    Millis,
    blob::{BlobRef, BlobStore as _},
    content::outline::{CHUNK, Outline, len},
    payment::{tick::WINDOW, till::Till},
};

use super::{
    codec::{Answer, Question},
    swarm::{Asked, Peers, node_of},
};
use crate::edge::DiskBlobs;

/// Chunks that a payer may be behind with: those on their way, whose ticks come with the next questions. Together with the
/// window of ticks without a receipt it bounds what a payer that vanishes has cost.
const LAG: u64 = 4;
/// Payers whose debts are kept at once; one that pays is forgotten without loss.
const MAX_PAYERS: usize = 4096;
/// Largest blob whose outline is made for somebody.
const MAX_BLOB: u64 = 256 << 20;

/// What a payer got since this node began to give to it, and what it had paid by then.
#[derive(Clone, Copy, Debug)]
struct Debt {
    given: TFuelWei,
    paid_before: TFuelWei,
}

/// What this node has given, and to whom.
#[derive(Debug)]
pub(in crate::edge) struct Relay {
    unit: TFuelWei,
    debts: BTreeMap<(Address, u64), Debt>,
    pub(super) chunks: u64,
    pub(super) bytes: u64,
}

impl Relay {
    /// One that asks so much for each chunk; nothing makes it a gift.
    pub(in crate::edge) const fn new(unit: TFuelWei) -> Self {
        Self { unit, debts: BTreeMap::new(), chunks: 0, bytes: 0 }
    }

    /// Chunks and bytes given so far.
    pub(in crate::edge) const fn given(&self) -> (u64, u64) {
        (self.chunks, self.bytes)
    }

    /// Whether the next chunk may be given to a payer. Counts it as given.
    fn may_give(&mut self, now: Millis, till: &Till, payer: Address, fund: u64) -> bool {
        if self.unit.is_zero() {
            return true;
        }
        if till.ticks_of(payer, fund) != Some(self.unit) || !till.may_serve(now, payer, fund) {
            return false;
        }
        let paid = till.paid(payer, fund);
        if self.debts.len() >= MAX_PAYERS && !self.debts.contains_key(&(payer, fund)) {
            self.debts.retain(|(payer, fund), debt| {
                till.paid(*payer, *fund).saturating_sub(debt.paid_before) < debt.given
            });
            if self.debts.len() >= MAX_PAYERS {
                return false;
            }
        }
        let debt =
            self.debts.entry((payer, fund)).or_insert(Debt { given: TFuelWei::ZERO, paid_before: paid });
        let owed = debt.given.saturating_sub(paid.saturating_sub(debt.paid_before));
        // What is on its way counts as much as what has no receipt yet.
        let window = u64::from(WINDOW.saturating_sub(till.exposure(payer, fund).ticks)).min(LAG);
        let most = self.unit.checked_mul(window).unwrap_or_default();
        match debt.given.checked_add(self.unit) {
            Some(given) if owed < most => {
                debt.given = given;
                true
            }
            _ => false,
        }
    }

    /// Answers a question, but for an envelope, which it gives back.
    pub(in crate::edge) fn take(
        &mut self,
        now: Millis,
        till: &mut Till,
        (peers, blobs): (&Peers, &DiskBlobs),
        asked: Asked,
    ) -> Option<Vec<u8>> {
        let Asked { from, question, reply } = asked;
        match question {
            Question::Envelope(bytes) => {
                peers.answer(reply, Answer::Heard);
                return Some(bytes);
            }
            Question::Outline(blob) => {
                let (peers, blobs) = (peers.clone(), blobs.clone());
                tokio::spawn(async move {
                    let answer = outline(&blobs, blob).await.unwrap_or(Answer::Missing);
                    peers.answer(reply, answer);
                });
            }
            Question::Chunk { blob, index, fund, tick } => {
                let here = blobs.find(blob.hash).is_some_and(|found| found.len == blob.len);
                let Some(len) = len(&blob, index).filter(|_| here) else {
                    peers.answer(reply, Answer::Missing);
                    return None;
                };
                let payer = node_of(&from)?;
                if let Some(tick) = tick
                    && let Err(error) = till.tick(now, payer.0, &tick)
                {
                    tracing::debug!(%error, payer = %payer.0, "a tick was not taken");
                }
                if !self.may_give(now, till, payer.0, fund) {
                    peers.answer(reply, Answer::Pay(self.unit));
                    return None;
                }
                self.chunks += 1;
                self.bytes += len;
                let (peers, blobs) = (peers.clone(), blobs.clone());
                tokio::spawn(async move {
                    let begin = index * CHUNK;
                    let bytes = blobs.read(blob.hash, begin..begin + len).await;
                    peers.answer(reply, bytes.map_or(Answer::Missing, Answer::Chunk));
                });
            }
        }
        None
    }
}

async fn outline(blobs: &DiskBlobs, blob: BlobRef) -> Option<Answer> {
    if blob.len > MAX_BLOB || blobs.find(blob.hash)?.len != blob.len {
        return None;
    }
    let bytes = blobs.read(blob.hash, 0..blob.len).await.ok()?;
    let outline = tokio::task::spawn_blocking(move || Outline::of(&bytes)).await.ok()?;
    Some(Answer::Outline(outline.hashes()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "whatever fails here is a failed test")]
    use std::sync::Arc;

    use theta_core::{hash::Hash, journal::MemDisk, sign::SecretKey};
    use theta_edge::{chain::Fund, payment::purse::Purse};

    use super::*;

    const CHAIN: &str = "privatenet";

    struct Deal {
        purse: Purse,
        till: Till,
        fund: Fund,
        relay: Relay,
    }

    impl Deal {
        /// A payer that was taken on, with a chain of a thousand ticks.
        fn new() -> Self {
            let key = |byte| Arc::new(SecretKey::from_bytes(&[byte; 32]).unwrap());
            let (payer, payee) = (key(1), key(2));
            let fund = Fund {
                payer: payer.address(),
                reserve_sequence: 1,
                initial: TFuelWei::whole(100),
                used: TFuelWei::ZERO,
                resource_ids: vec!["edge1/any".into()],
                end_height: 10_000,
                settled: Vec::new(),
            };
            let mut purse = Purse::open(CHAIN, payer, MemDisk::default()).unwrap();
            purse.adopt(&fund).unwrap();
            let mut till = Till::open(CHAIN, payee.clone(), MemDisk::default()).unwrap();
            let unit = TFuelWei::wei(1_000_u64);
            let job = Hash::repeat_byte(7);
            purse.promise(job, unit.checked_mul(1_000).unwrap()).unwrap();
            let payment = purse.open_ticks(&job, payee.address(), unit, 1_000, [9; 32]).unwrap();
            till.accept(&payment, &fund, 10).unwrap();
            Self { purse, till, fund, relay: Relay::new(unit) }
        }

        fn give(&mut self, now: Millis) -> bool {
            self.relay.may_give(now, &self.till, self.fund.payer, 1)
        }

        fn tick(&mut self, now: Millis) {
            let tick = self.purse.tick(&self.till.payee()).unwrap();
            self.till.tick(now, self.fund.payer, &tick).unwrap();
        }
    }

    #[test]
    fn who_pays_nothing_gets_four_chunks() {
        let mut deal = Deal::new();
        let given = (0..100).filter(|_| deal.give(0)).count() as u64;
        assert_eq!(given, LAG);
        deal.tick(0);
        assert!(deal.give(0) && !deal.give(0), "one for one");
        // Nobody else's ticks help, and another fund is another payer.
        assert!(!deal.relay.may_give(0, &deal.till, Address::repeat_byte(5), 1));
        assert!(!deal.relay.may_give(0, &deal.till, deal.fund.payer, 2));
        // A gift needs no payer.
        assert!(Relay::new(TFuelWei::ZERO).may_give(0, &deal.till, Address::repeat_byte(5), 1));
    }

    #[test]
    fn a_payer_that_vanishes_has_cost_a_window_at_most() {
        let mut deal = Deal::new();
        let mut given = 0;
        while deal.give(1) {
            given += 1;
            // A payer that signs no receipt releases what its purse lets it.
            match deal.purse.tick(&deal.till.payee()) {
                Ok(tick) => drop(deal.till.tick(1, deal.fund.payer, &tick)),
                Err(_) => break,
            }
        }
        assert!(given <= WINDOW && given > WINDOW - 2, "{given}");
        while deal.give(1) {
            given += 1;
        }
        assert!(given <= WINDOW, "{given}");
        // A receipt pays for them, and it goes on.
        let payment = deal.purse.roll_up(&deal.till.payee()).unwrap();
        deal.till.accept(&payment, &deal.fund, 11).unwrap();
        assert!(deal.give(2));
        // Ticks that are two seconds old and in no receipt end it as well.
        deal.tick(3);
        assert!(deal.give(4) && !deal.give(2_004));
    }

    #[test]
    fn a_node_that_began_anew_asks_nobody_to_pay_twice() {
        let mut deal = Deal::new();
        (0..3).for_each(|_| {
            deal.give(0);
            deal.tick(0);
        });
        deal.relay = Relay::new(TFuelWei::wei(1_000_u64));
        assert!((0..LAG).all(|_| deal.give(0)) && !deal.give(0));
    }
}
