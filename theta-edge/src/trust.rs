//! When a result is checked: always at first, then ever more seldom, but never so seldom that cheating pays
//! (edge.md 4.3, 4.4).
//!
//! A node whose last results were all right is believed with a probability that grows with their number. The economic
//! floor comes from what it could gain by not computing and what it would lose when caught: checked less often than
//! `gain / (gain + loss)`, a rational node would cheat. Ringers are tasks with a known answer, mixed in among others that
//! look the same.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use theta_core::amount::{TFuelWei, to_big};
use theta_core::hash::Hash;

use crate::Millis;

/// Results that have to be right in a row before any is believed unchecked (edge.md appendix A).
pub const THRESHOLD: u32 = 10;
/// Milliseconds for which results that were believed are looked at again when their node is caught.
pub const RECHECK_MS: Millis = 24 * 3_600 * 1_000;
/// Rates are in parts of a million.
pub const ALWAYS: u32 = 1_000_000;
/// Results that are remembered for that.
const MAX_BELIEVED: usize = 4096;

/// The least rate of checks, in millionths, at which cheating does not pay: `gain / (gain + loss)`, rounded up.
pub fn floor(gain: TFuelWei, loss: TFuelWei) -> u32 {
    let (gain, loss) = (to_big(gain.get()), to_big(loss.get()));
    let all = &gain + loss;
    if all == theta_core::BigUint::ZERO {
        return ALWAYS;
    }
    let rate = (gain * ALWAYS + &all - 1_u8) / &all;
    u32::try_from(rate).unwrap_or(ALWAYS).min(ALWAYS)
}

/// How far a node is trusted with one kind of work.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    /// Results that were checked and right since the last wrong one.
    pub valid_in_row: u32,
    /// Results that were believed, oldest first.
    believed: VecDeque<(Millis, Hash)>,
}

impl Trust {
    /// How often its next result is checked, in millionths. `gain` is the price of the task; `loss` what the node loses
    /// when it is caught: bond, and the value of its name.
    pub fn rate(&self, gain: TFuelWei, loss: TFuelWei) -> u32 {
        if self.valid_in_row < THRESHOLD {
            return ALWAYS;
        }
        (ALWAYS / self.valid_in_row).max(floor(gain, loss))
    }

    /// Whether to check, by a number that the node cannot know before it has answered.
    pub fn is_due(&self, gain: TFuelWei, loss: TFuelWei, random: u64) -> bool {
        random % u64::from(ALWAYS) < u64::from(self.rate(gain, loss))
    }

    /// A result was right.
    pub fn valid(&mut self) {
        self.valid_in_row = self.valid_in_row.saturating_add(1);
    }

    /// A result was believed without a check.
    pub fn believed(&mut self, now: Millis, task: Hash) {
        self.believed.push_back((now, task));
        while self.believed.len() > MAX_BELIEVED
            || self.believed.front().is_some_and(|(at, _)| at.saturating_add(RECHECK_MS) < now)
        {
            self.believed.pop_front();
        }
    }

    /// A result was wrong: the node is trusted with nothing, and what was believed lately is to be checked now.
    pub fn wrong(&mut self, now: Millis) -> Vec<Hash> {
        self.valid_in_row = 0;
        let again = self.believed.drain(..).filter(|(at, _)| at.saturating_add(RECHECK_MS) >= now);
        again.map(|(_, task)| task).collect()
    }
}

/// Tasks with known answers, from results that were verified before, so that they cost nothing and look like any other.
#[derive(Clone, Debug, Default)]
pub struct Ringers {
    known: Vec<(Hash, Hash)>,
    capacity: usize,
    next: usize,
}

impl Ringers {
    /// Keeps the newest `capacity` answers.
    pub const fn new(capacity: usize) -> Self {
        Self { known: Vec::new(), capacity, next: 0 }
    }

    /// A task's result was verified; work that was seen by many makes no ringer for them.
    pub fn learn(&mut self, work: Hash, digest: Hash) {
        if self.known.len() < self.capacity {
            self.known.push((work, digest));
        } else if self.capacity > 0 {
            self.known[self.next % self.capacity] = (work, digest);
            self.next = self.next.wrapping_add(1);
        }
    }

    /// Whether the next task is to be a ringer, and which: the work to give out again under another job's name.
    pub fn draw(&self, rate: u32, random: u64) -> Option<Hash> {
        let hit = random % u64::from(ALWAYS) < u64::from(rate);
        let index = (random / u64::from(ALWAYS)).checked_rem(self.known.len() as u64)?;
        hit.then(|| self.known[index as usize].0)
    }

    /// Whether an answer to a ringer is the known one; `None` for what is no ringer.
    pub fn judge(&self, work: &Hash, digest: &Hash) -> Option<bool> {
        self.known.iter().rev().find(|(known, _)| known == work).map(|(_, right)| right == digest)
    }
}

/// Chance, in millionths, that a node which skips `skipped` tasks meets a ringer: `1 - (1 - rate)^skipped`.
pub fn detection(rate: u32, skipped: u32) -> u32 {
    let missed = 1.0 - f64::from(rate.min(ALWAYS)) / f64::from(ALWAYS);
    ((1.0 - missed.powi(skipped.min(i32::MAX as u32) as i32)) * f64::from(ALWAYS)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wei(amount: u64) -> TFuelWei {
        TFuelWei::wei(amount)
    }

    #[test]
    fn the_floor_makes_cheating_unprofitable() {
        // edge.md 4.3: a task of 0.01 TFUEL and a loss of 100 TFUEL is 0.01 percent.
        let rate = floor("0.01".parse().unwrap(), "100".parse().unwrap());
        assert_eq!(rate, 100);
        assert_eq!(floor(wei(5), wei(0)), ALWAYS, "nothing to lose");
        assert_eq!((floor(wei(0), wei(5)), floor(wei(0), wei(0))), (0, ALWAYS));
        for (gain, loss) in [(1, 1), (1, 3), (7, 1_000), (1_000, 7), (1, u64::MAX / 2)] {
            let rate = u128::from(floor(wei(gain), wei(loss)));
            // What is won unchecked is no more than what is lost checked.
            let (won, lost) = ((1_000_000 - rate) * u128::from(gain), rate * u128::from(loss));
            assert!(won <= lost, "{gain} {loss}");
        }
    }

    #[test]
    fn trust_grows_with_each_right_result_and_ends_with_one_wrong() {
        let (gain, loss) = (wei(1), wei(1_000_000));
        let mut trust = Trust::default();
        for _ in 0..THRESHOLD {
            assert_eq!(trust.rate(gain, loss), ALWAYS);
            trust.valid();
        }
        assert_eq!(trust.rate(gain, loss), ALWAYS / 10);
        (0..990).for_each(|_| trust.valid());
        assert_eq!(trust.rate(gain, loss), 1_000);
        assert_eq!(trust.rate(wei(1_000_000), loss), 500_000, "much to gain");
        trust.believed(0, Hash::repeat_byte(1));
        trust.believed(RECHECK_MS, Hash::repeat_byte(2));
        trust.believed(RECHECK_MS + 1, Hash::repeat_byte(3));
        assert_eq!(trust.wrong(RECHECK_MS + 2), [Hash::repeat_byte(2), Hash::repeat_byte(3)]);
        assert_eq!(trust.rate(gain, loss), ALWAYS);
        assert!(trust.wrong(RECHECK_MS + 3).is_empty(), "once");
    }

    #[test]
    fn who_skips_work_meets_a_ringer() {
        let mut ringers = Ringers::new(100);
        assert_eq!(ringers.draw(ALWAYS, 5), None, "none is known");
        let name = |number: u64| Hash::from(theta_core::hash::U256::from(number));
        (0..150).for_each(|number| ringers.learn(name(number), name(1_000 + number)));
        assert_eq!(ringers.judge(&name(149), &name(1_149)), Some(true));
        assert_eq!(ringers.judge(&name(149), &name(7)), Some(false));
        assert_eq!(ringers.judge(&name(3), &name(7)), None, "replaced by newer ones");
        let (mut caught, rounds) = (0, 4_000_u64);
        let mut word = 1_u64;
        for _ in 0..rounds {
            let mut met = false;
            for _ in 0..20 {
                word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                met |= ringers.draw(100_000, word >> 16).is_some();
            }
            caught += u64::from(met);
        }
        let expected = f64::from(detection(100_000, 20)) / 1e6;
        let seen = caught as f64 / rounds as f64;
        assert!((expected - 0.878).abs() < 0.001 && (seen - expected).abs() < 0.03, "{seen} {expected}");
    }
}
