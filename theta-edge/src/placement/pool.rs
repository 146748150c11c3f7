//! When work goes to a contracted provider instead of the edge (edge.md 3.7).

use serde::{Deserialize, Serialize};

use super::SPILL_MS;
use crate::Millis;

/// Percent by which a pool has to be cheaper before it is preferred, so that prices that move a little move no work.
const HYSTERESIS: u64 = 15;

/// Machines that are contracted, as one place with many slots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// For people.
    pub name: String,
    /// Attempts at a time.
    pub slots: u32,
    /// What an hour of a core costs, in millionths of a TFUEL.
    pub price: u32,
    /// Milliseconds until a machine is there.
    pub startup_ms: Millis,
    /// Speed beside a middling edge node, in percent.
    pub speed: u16,
    /// How far it is trusted; 3 for contracted.
    pub tier: u8,
}

/// What is weighed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question {
    pub(super) now: Millis,
    pub(super) deadline: Millis,
    /// For how long a task of this shape waits at the edge.
    pub(super) wait_ms: Millis,
    /// Whether no node has room now, so that it waits at least until the next look.
    pub(super) full: bool,
    /// 95th percentile of its run time.
    pub(super) run_ms: Millis,
    /// What it may cost.
    pub(super) bid: u32,
    /// Overhead of verification in percent, which a trusted pool does not have.
    pub(super) overhead: u64,
    /// Least trust.
    pub(super) tier: u8,
    /// The highest trust of any class of the edge that suits.
    pub(super) edge_tier: Option<u8>,
    pub(super) margin_ms: Millis,
}

/// Why a task goes to a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spill {
    /// The edge would miss the deadline and the pool would not.
    Deadline,
    /// The pool is cheaper by more than the hysteresis.
    Price,
    /// No node of the edge has what is asked for.
    Tier,
}

impl Pool {
    fn run_ms(&self, run_ms: Millis) -> Millis {
        self.startup_ms.saturating_add(run_ms.saturating_mul(100) / u64::from(self.speed.max(1)))
    }

    /// Whether a task should go here.
    pub(super) fn wants(&self, ask: &Question) -> Option<Spill> {
        if self.tier < ask.tier || self.price > ask.bid {
            return None;
        }
        let limit = ask.deadline.saturating_sub(ask.margin_ms);
        let edge = ask.now.saturating_add(ask.wait_ms).saturating_add(ask.run_ms);
        let pool = ask.now.saturating_add(self.run_ms(ask.run_ms));
        if pool > limit {
            return None;
        }
        if ask.edge_tier.is_none_or(|tier| tier < ask.tier) {
            return Some(Spill::Tier);
        }
        // How long the edge takes is known from what it has done, and one that stands still does nothing: what the pool
        // could not do any more at the next look goes there now.
        let last_look = ask.full && pool.saturating_add(SPILL_MS) > limit;
        if edge > limit || last_look {
            return Some(Spill::Deadline);
        }
        let edge_price = u64::from(ask.bid) * (100 + ask.overhead);
        let cheaper = u64::from(self.price) * 10_000 <= edge_price * (100 - HYSTERESIS);
        cheaper.then_some(Spill::Price)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> Pool {
        Pool { name: "cloud".into(), slots: 1, price: 100, startup_ms: 1_000, speed: 200, tier: 3 }
    }

    fn ask() -> Question {
        Question {
            now: 0,
            deadline: u64::MAX,
            wait_ms: 0,
            full: false,
            run_ms: 2_000,
            bid: 100,
            overhead: 8,
            tier: 0,
            edge_tier: Some(1),
            margin_ms: 500,
        }
    }

    #[test]
    fn work_spills_for_its_deadline_its_price_or_its_tier_and_else_stays() {
        let pool = pool();
        assert_eq!(pool.wants(&ask()), None);
        let late = Question { deadline: 5_000, wait_ms: 2_600, ..ask() };
        assert_eq!(pool.wants(&late), Some(Spill::Deadline));
        assert_eq!(pool.wants(&Question { wait_ms: 2_500, ..late }), None, "the edge makes it");
        assert_eq!(pool.wants(&Question { deadline: 2_400, ..late }), None, "neither makes it");
        let last = Question { deadline: 2_749, full: true, ..ask() };
        assert_eq!(
            pool.wants(&last),
            Some(Spill::Deadline),
            "it takes 2,000, 500 are left over, and 250 to the next look"
        );
        assert_eq!(pool.wants(&Question { deadline: 2_750, ..last }), None);
        assert_eq!(pool.wants(&Question { full: false, ..last }), None);
        assert_eq!(pool.wants(&Question { tier: 2, ..ask() }), Some(Spill::Tier));
        assert_eq!(pool.wants(&Question { tier: 4, ..ask() }), None);
        // 109 x 1.08 x 0.85 is just above 100.
        assert_eq!(pool.wants(&Question { bid: 109, ..ask() }), Some(Spill::Price));
        assert_eq!(pool.wants(&Question { bid: 108, ..ask() }), None);
        assert_eq!(pool.wants(&Question { bid: 99, tier: 2, ..ask() }), None, "above the bid");
    }
}
