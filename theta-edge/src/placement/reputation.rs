//! How well a node did, from evidence that anybody can count again (edge.md 3.5).
//!
//! Two counters for each node and kind of work, of good and of bad, that halve in two weeks; what counts is the lower end
//! of what they allow. Praise from one payer counts less each time and only as far as fees were burned, so a ring of
//! friends pays for it.

use serde::{Deserialize, Serialize};

use crate::Millis;

/// Milliseconds in which evidence loses half its weight.
const HALF_LIFE_MS: Millis = 14 * 24 * 3_600 * 1_000;

/// What a node did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Evidence {
    /// A result that was verified.
    Valid,
    /// A result that was proven wrong: what counts most.
    Wrong,
    /// A deadline or a promise that it missed, or work that it dropped.
    Missed,
}

/// A node's name for one kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reputation {
    good: f64,
    bad: f64,
    at: Millis,
    /// Verified results in a row (edge.md 4.3).
    pub valid_in_row: u32,
}

impl Default for Reputation {
    /// Nobody's: one good, one bad.
    fn default() -> Self {
        Self { good: 1.0, bad: 1.0, at: 0, valid_in_row: 0 }
    }
}

/// How much the `nth` word (from 1) of one payer counts, of whose price a part was burned: in proportion to a full burn
/// share of 25 percent.
pub fn weight(nth: u32, burned_percent: u64) -> f64 {
    let burned = burned_percent.min(super::super::payment::split::BURN_SHARE) as f64;
    burned / super::super::payment::split::BURN_SHARE as f64 / f64::from(nth.max(1))
}

impl Reputation {
    /// What is left of evidence after so long: exact at whole half-lives and on a straight line in between, so that it is
    /// the same on every machine.
    fn left(passed: Millis) -> f64 {
        let (whole, part) = (passed / HALF_LIFE_MS, (passed % HALF_LIFE_MS) as f64 / HALF_LIFE_MS as f64);
        if whole >= 64 { 0.0 } else { (1.0 - part / 2.0) / (1_u64 << whole) as f64 }
    }

    /// Adds evidence of a weight from 0 to 1 ([`weight`]).
    pub fn note(&mut self, now: Millis, evidence: Evidence, weight: f64) {
        let left = Self::left(now.saturating_sub(self.at));
        self.good = (self.good - 1.0).mul_add(left, 1.0);
        self.bad = (self.bad - 1.0).mul_add(left, 1.0);
        self.at = self.at.max(now);
        match evidence {
            Evidence::Valid => {
                self.good += weight.clamp(0.0, 1.0);
                self.valid_in_row = self.valid_in_row.saturating_add(1);
            }
            // Nobody has to vouch for a fault; it is proven.
            Evidence::Wrong => {
                self.bad += 10.0;
                self.valid_in_row = 0;
            }
            Evidence::Missed => self.bad += 1.0,
        }
    }

    /// The lower end of a 95 percent interval for its share of good work.
    pub fn lower_bound(&self) -> f64 {
        let all = self.good + self.bad;
        let mean = self.good / all;
        let spread = (mean * (1.0 - mean) / (all + 1.0)).sqrt();
        1.96_f64.mul_add(-spread, mean).clamp(0.0, 1.0)
    }

    /// The same in 65536ths, as nodes' rows have it.
    pub(super) fn row(&self) -> u16 {
        (self.lower_bound() * 65_535.0) as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_work_raises_slowly_and_one_wrong_result_costs_much() {
        let mut node = Reputation::default();
        let unknown = node.lower_bound();
        for hour in 0..100 {
            node.note(hour * 3_600_000, Evidence::Valid, 1.0);
        }
        let good = node.lower_bound();
        assert!(unknown < 0.1 && good > 0.9, "{unknown} {good}");
        assert_eq!(node.valid_in_row, 100);
        node.note(360_000_000, Evidence::Wrong, 1.0);
        assert!(node.lower_bound() < 0.85 && node.valid_in_row == 0);
        let fallen = node.lower_bound();
        node.note(360_000_000, Evidence::Missed, 1.0);
        assert!(node.lower_bound() < fallen);
    }

    #[test]
    fn evidence_fades_to_what_is_known_of_nobody() {
        let mut node = Reputation::default();
        (0..50).for_each(|_| node.note(0, Evidence::Valid, 1.0));
        let mut later = node;
        later.note(HALF_LIFE_MS, Evidence::Missed, 0.0);
        assert!((later.good - 26.0).abs() < 1e-9, "{later:?}");
        later.note(100 * HALF_LIFE_MS, Evidence::Missed, 0.0);
        assert!((later.good - 1.0).abs() < 1e-6);
    }

    #[test]
    fn friends_praise_is_worth_what_they_burn() {
        assert_eq!(weight(1, 0), 0.0, "nothing burned, nothing gained");
        assert_eq!(weight(1, 25), 1.0);
        assert_eq!(weight(1, 100), 1.0);
        let (mut ring, mut honest) = (Reputation::default(), Reputation::default());
        for nth in 1..=1_000 {
            ring.note(0, Evidence::Valid, weight(nth, 25));
            honest.note(0, Evidence::Valid, weight(1, 25));
        }
        assert!(ring.good < 9.0, "a thousand words of one friend: {}", ring.good);
        assert!(ring.lower_bound() < honest.lower_bound());
    }
}
