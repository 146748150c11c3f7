//! How payees of one fund find out that its payer signs more than it holds (edge.md 5.5).
//!
//! The chain notices only when the receipts settle, after the work was done. So payees tell each other how large their
//! claims are: a [`Beacon`] names the power of two that a claim is within. As long as those together fit the fund, no
//! overspend is possible. Once they do not, payees show their receipts, which are exact; and receipts that together are
//! more than the fund holds are a proof that the ledger punishes ([`Watch::proof`]).
//!
//! A beacon costs nothing to make, so it is believed for [`PATIENCE_MS`] only where it matters: a payee that does not
//! show the receipt behind its claim by then is left out.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use theta_core::amount::TFuelWei;
use theta_core::codec::rlp::{Encode, encode_list};
use theta_core::hash::{Address, Hash, U256};
use theta_core::sign::{Signature, Signer};
use theta_ledger::tx::{MAX_PROOF_PAYMENTS, OverspendingProof, ServicePayment};

use super::PayError;
use super::receipt::Receipt;
use crate::Millis;
use crate::chain::Fund;

/// Milliseconds between two showings of what others may not have heard.
pub const REPEAT_MS: u64 = 400;
/// Milliseconds for which a claim counts whose receipt was asked for and not shown.
pub const PATIENCE_MS: u64 = 2_000;
/// Payees of one fund that are listened to.
const MAX_PAYEES: usize = 1024;

/// A payee's word that its unsettled claim on a fund is at most `2^bucket` wei.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beacon {
    /// The chain of the fund.
    pub chain_id: String,
    /// Whose fund.
    pub payer: Address,
    /// Which fund.
    pub reserve_sequence: u64,
    /// Whose claim.
    pub payee: Address,
    /// Sequence of the claim.
    pub payment_sequence: u64,
    /// The least power of two that is not below the claim.
    pub bucket: u8,
    /// By the payee, over everything above.
    pub signature: Signature,
}

impl Beacon {
    fn digest(&self) -> Hash {
        let mut bytes = Vec::new();
        encode_list(&mut bytes, |out| {
            self.chain_id.encode(out);
            self.payer.encode(out);
            self.reserve_sequence.encode(out);
            self.payee.encode(out);
            self.payment_sequence.encode(out);
            self.bucket.encode(out);
        });
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"theta-edge/beacon/v1");
        hasher.update(&bytes);
        Hash::from(*hasher.finalize().as_bytes())
    }

    /// The beacon of a claim.
    pub fn sign(receipt: &Receipt, payee: &dyn Signer) -> Result<Self, PayError> {
        let mut beacon = Self {
            chain_id: receipt.chain_id.clone(),
            payer: receipt.payer,
            reserve_sequence: receipt.reserve_sequence,
            payee: receipt.payee,
            payment_sequence: receipt.payment_sequence,
            bucket: bucket(receipt.amount),
            signature: Signature::EMPTY,
        };
        beacon.signature = payee.sign(&beacon.digest())?;
        Ok(beacon)
    }

    /// Whether its payee signed it.
    pub fn verify(&self) -> Result<(), PayError> {
        let by_payee = self.signature.recover(&self.digest()).is_ok_and(|signer| signer == self.payee);
        if by_payee && self.signature.is_low_s() { Ok(()) } else { Err(PayError::Signature) }
    }
}

/// The least `b` with `amount <= 2^b`, 0 for nothing.
pub(crate) fn bucket(amount: TFuelWei) -> u8 {
    let below = amount.get().saturating_sub(U256::ONE);
    // A word has 256 bits, and one that needs all of them is above any fund.
    u8::try_from(256 - below.leading_zeros()).unwrap_or(u8::MAX)
}

fn size(bucket: u8) -> TFuelWei {
    TFuelWei::from_u256(U256::ONE << usize::from(bucket))
}

/// What is known of another payee's claim.
#[derive(Clone, Debug)]
struct Heard {
    payment_sequence: u64,
    bucket: u8,
    /// The best receipt it showed.
    shown: Option<Receipt>,
    /// Since when its claim may be larger than what it showed.
    since: Millis,
}

impl Heard {
    /// The most that the claim can be, as far as it is to be believed.
    fn most(&self, tight: bool, now: Millis) -> TFuelWei {
        let shown = self.shown.as_ref().map_or(TFuelWei::ZERO, |receipt| receipt.amount);
        let believed = !tight || now < self.since.saturating_add(PATIENCE_MS);
        if believed { shown.max(size(self.bucket)) } else { shown }
    }
}

/// What a payee should tell the others.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Say {
    /// The size of the own claim: sign a [`Beacon`] of this receipt.
    Beacon(Receipt),
    /// The own receipt.
    Show(Receipt),
}

/// One fund, as one of its payees watches it.
#[derive(Clone, Debug)]
pub struct Watch {
    me: Address,
    initial: TFuelWei,
    left: TFuelWei,
    /// Last settled sequence of each payee.
    settled: BTreeMap<Address, u64>,
    others: BTreeMap<Address, Heard>,
    own: Option<Receipt>,
    /// Bucket that was said last, and when anything was.
    said: Option<(u64, u8)>,
    said_at: Millis,
    shown: Option<TFuelWei>,
    /// Since when the claims do not fit the fund.
    tight: Option<Millis>,
}

impl Watch {
    /// Starts with a fund as the chain shows it.
    pub fn new(me: Address, fund: &Fund) -> Self {
        let mut watch = Self {
            me,
            initial: fund.initial,
            left: fund.left(),
            settled: BTreeMap::new(),
            others: BTreeMap::new(),
            own: None,
            said: None,
            said_at: 0,
            shown: None,
            tight: None,
        };
        watch.observe(fund);
        watch
    }

    /// Learns from the chain what was paid.
    pub fn observe(&mut self, fund: &Fund) {
        self.left = fund.left();
        for settled in &fund.settled {
            let known = self.settled.entry(settled.payee).or_default();
            *known = settled.payment_sequence.max(*known);
        }
        let settled = &self.settled;
        let last = |payee: &Address| settled.get(payee).copied().unwrap_or(0);
        self.others.retain(|payee, heard| heard.payment_sequence > last(payee));
        let me = last(&self.me);
        self.own = self.own.take().filter(|own| own.payment_sequence > me);
    }

    /// How much work for this payer is safe: what the fund has left less the claims of others, and a sixteenth of the fund
    /// where there are any, for claims that are on their way.
    pub fn credit_line(&self, now: Millis) -> TFuelWei {
        let tight = self.tight.is_some();
        let claims = self.others.values().map(|heard| heard.most(tight, now));
        let claims = claims.fold(TFuelWei::ZERO, |sum, most| sum.checked_add(most).unwrap_or(self.left));
        let safety = if self.others.is_empty() { TFuelWei::ZERO } else { size_of_safety(self.initial) };
        self.left.saturating_sub(claims).saturating_sub(safety)
    }

    /// All claims that are known, one's own included, and whether they may be more than the fund has left.
    fn is_tight(&self, now: Millis) -> bool {
        let own = self.own.as_ref().map_or(TFuelWei::ZERO, |own| own.amount);
        let mut claims = self.others.values().map(|heard| heard.most(false, now));
        let all = claims.try_fold(own, TFuelWei::checked_add);
        all.is_none_or(|all| all > self.left)
    }

    /// Share of the fund, in percent, that is paid or claimed.
    pub fn use_percent(&self, now: Millis) -> u64 {
        let own = self.own.as_ref().map_or(TFuelWei::ZERO, |own| own.amount);
        let free = self.credit_line(now).saturating_sub(own);
        let (used, hundred) = (self.initial.saturating_sub(free), U256::from(100));
        let percent = used.checked_ratio(hundred, self.initial.get());
        percent.and_then(|percent| u64::try_from(percent.get()).ok()).unwrap_or(100)
    }

    /// The own claim has become this.
    pub fn claim(&mut self, now: Millis, receipt: &Receipt) -> Option<Say> {
        self.own = Some(receipt.clone());
        self.speak(now, false)
    }

    /// Time has passed; to be called about every [`REPEAT_MS`]. Others may have missed what was said.
    pub fn tick(&mut self, now: Millis) -> Option<Say> {
        self.speak(now, true)
    }

    fn speak(&mut self, now: Millis, again: bool) -> Option<Say> {
        self.tight = if self.is_tight(now) { Some(self.tight.unwrap_or(now)) } else { None };
        let own = self.own.as_ref()?;
        let due = now >= self.said_at.saturating_add(REPEAT_MS);
        let place = (own.payment_sequence, bucket(own.amount));
        if self.tight.is_some() {
            // The first showing at once, later ones now and then.
            if self.shown.is_some() && !(due && (again || self.shown != Some(own.amount))) {
                return None;
            }
            (self.shown, self.said, self.said_at) = (Some(own.amount), Some(place), now);
            return Some(Say::Show(own.clone()));
        }
        self.shown = None;
        if self.said == Some(place) && !(due && again) {
            return None;
        }
        (self.said, self.said_at) = (Some(place), now);
        Some(Say::Beacon(own.clone()))
    }

    /// A payee named the size of its claim; the beacon was verified.
    pub fn heard(&mut self, now: Millis, beacon: &Beacon) -> Option<Say> {
        self.note(now, beacon.payee, beacon.payment_sequence, beacon.bucket, None);
        self.speak(now, false)
    }

    /// A payee showed its receipt, which was verified and is of this fund.
    pub fn shown(&mut self, now: Millis, receipt: &Receipt) -> Option<Say> {
        let (payee, sequence) = (receipt.payee, receipt.payment_sequence);
        self.note(now, payee, sequence, bucket(receipt.amount), Some(receipt));
        self.speak(now, false)
    }

    fn note(&mut self, now: Millis, payee: Address, sequence: u64, bucket: u8, shown: Option<&Receipt>) {
        let settled = self.settled.get(&payee).copied().unwrap_or(0);
        if payee == self.me || sequence <= settled {
            return;
        }
        if self.others.len() >= MAX_PAYEES && !self.others.contains_key(&payee) {
            // Whoever has shown nothing makes room for one that does.
            let idle = self.others.iter().find(|(_, heard)| heard.shown.is_none()).map(|(payee, _)| *payee);
            match idle.filter(|_| shown.is_some()) {
                Some(idle) => drop(self.others.remove(&idle)),
                None => return,
            }
        }
        let fresh = Heard { payment_sequence: sequence, bucket, shown: None, since: now };
        let heard = self.others.entry(payee).or_insert_with(|| fresh.clone());
        if sequence > heard.payment_sequence {
            *heard = fresh;
        }
        if sequence == heard.payment_sequence {
            if bucket > heard.bucket {
                (heard.bucket, heard.since) = (bucket, now);
            }
            if let Some(receipt) = shown
                && heard.shown.as_ref().is_none_or(|known| known.amount < receipt.amount)
            {
                heard.shown = Some(receipt.clone());
                // From here on it shows each growth, so what it showed is what it has.
                (heard.bucket, heard.since) = (heard.bucket.min(bucket), now);
            }
        }
    }

    /// Payments that together are more than the fund holds: receipts that can still settle, and if those alone are not
    /// enough, the payments that did, which `settled` has from the payer's account. `None` while nothing is proven.
    pub fn proof(&self, reserve_sequence: u64, settled: &[ServicePayment]) -> Option<OverspendingProof> {
        let shown = self.others.values().filter_map(|heard| heard.shown.as_ref());
        let mut receipts: Vec<&Receipt> = shown.chain(&self.own).collect();
        receipts.sort_by(|a, b| b.amount.cmp(&a.amount).then(a.payee.cmp(&b.payee)));
        let receipts = receipts.into_iter().map(Receipt::service_payment);
        let (mut sum, mut payments) = (TFuelWei::ZERO, Vec::new());
        let mut known = std::collections::BTreeSet::new();
        for payment in receipts.chain(settled.iter().cloned()).take(MAX_PROOF_PAYMENTS) {
            if known.insert((payment.target.address, payment.payment_sequence)) {
                // The chain moves no more than a fund of one word's amount holds, so what does not fit is above it.
                sum = payment.source.coins.coins().and_then(|coins| sum.checked_add(coins.tfuel))?;
                payments.push(payment);
            }
            if sum > self.initial {
                return Some(OverspendingProof { reserve_sequence, payments });
            }
        }
        None
    }

    /// Whether claims that are known exactly are more than the fund has left: there is a [`Self::proof`], if need be with
    /// payments that settled.
    pub fn is_overspent(&self) -> bool {
        let shown = self.others.values().filter_map(|heard| heard.shown.as_ref());
        let mut amounts = shown.chain(&self.own).map(|receipt| receipt.amount);
        let all = amounts.try_fold(TFuelWei::ZERO, TFuelWei::checked_add);
        all.is_none_or(|all| all > self.left)
    }
}

fn size_of_safety(initial: TFuelWei) -> TFuelWei {
    TFuelWei::from_u256(initial.get() >> 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::Settled;
    use crate::sim::Random;
    use crate::sim::payers::{address, attack, fund, receipt};

    #[test]
    fn ten_thousand_overspends_are_proven_to_every_payee_within_two_seconds() {
        let mut worst = 0;
        for seed in 0..10_000 {
            let mut random = Random::new(seed);
            let initial = 1_000 + random.below(1_000_000);
            let total = initial + 1 + if seed % 4 == 0 { 0 } else { random.below(initial) };
            let (over, first, last) = attack(&mut random, initial, total).times();
            let (over, last) = (over.expect("it overspends"), last.expect("it is found out"));
            assert!(first >= Some(over), "seed {seed}: proven before it happened");
            assert!(last - over <= 2_000, "seed {seed}: {} ms", last - over);
            worst = worst.max(last - over);
        }
        assert!(worst > 100, "messages take time: {worst}");
    }

    #[test]
    fn no_honest_payer_is_accused() {
        for seed in 0..1_000 {
            let mut random = Random::new(seed);
            let initial = 1_000 + random.below(1_000_000);
            let total = if seed % 4 == 0 { initial } else { random.below(initial) };
            assert_eq!(attack(&mut random, initial, total).times(), (None, None, None), "seed {seed}");
        }
    }

    #[test]
    fn a_bucket_is_the_least_power_of_two_above() {
        for (amount, expected) in [(0, 0), (1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (1_u64 << 40, 40)] {
            assert_eq!(bucket(TFuelWei::wei(amount)), expected, "{amount}");
            assert!(size(expected) >= TFuelWei::wei(amount));
        }
        let most = TFuelWei::from_u256(U256::MAX);
        assert_eq!(bucket(most), u8::MAX);
    }

    #[test]
    fn a_claim_that_is_never_shown_costs_the_payer_credit_for_two_seconds() {
        let mut watch = Watch::new(address(0), &fund(1_000));
        assert_eq!(watch.credit_line(0), TFuelWei::wei(1_000));
        watch.note(0, address(1), 1, 20, None);
        watch.speak(0, false);
        assert_eq!(watch.credit_line(1_999), TFuelWei::ZERO);
        assert_eq!(watch.credit_line(2_000), TFuelWei::wei(1_000 - 62));
        assert!(!watch.is_overspent() && watch.proof(1, &[]).is_none());
        // Shown, it counts for the least power of two above it, as long as all fit the fund.
        watch.shown(3_000, &receipt(1, 300));
        assert_eq!(watch.credit_line(6_000), TFuelWei::wei(1_000 - 512 - 62));
    }

    #[test]
    fn what_settled_is_no_claim_any_more() {
        let mut watch = Watch::new(address(0), &fund(1_000));
        watch.claim(0, &receipt(0, 500));
        watch.shown(0, &receipt(1, 500));
        assert!(!watch.is_overspent());
        watch.shown(0, &receipt(1, 501));
        assert!(watch.is_overspent());
        let settled = Settled {
            payee: address(1),
            payment_sequence: 1,
            amount: TFuelWei::wei(400),
            transaction: Hash::ZERO,
        };
        watch.observe(&Fund { used: TFuelWei::wei(400), settled: vec![settled], ..fund(1_000) });
        assert!(!watch.is_overspent(), "the later receipt of a settled sequence is worth nothing");
        watch.shown(0, &receipt(1, 501));
        assert!(!watch.is_overspent());
        assert_eq!(watch.credit_line(0), TFuelWei::wei(600));
    }
}
