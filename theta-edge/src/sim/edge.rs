//! The compute and value scenarios of edge.md 12 together, each beside its target.

use serde::{Deserialize, Serialize};
use theta_core::hash::Hash;

use super::{Random, Trace, cheaters, fleet, gpu, payers};

/// What is simulated; every field may be left out of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Scenario {
    /// Nodes of the fleet.
    pub nodes: u64,
    /// Tasks of the fleet.
    pub tasks: u64,
    /// Tenants of equal weight.
    pub tenants: u64,
    /// Nodes that vanish in a minute, in percent.
    pub churn_percent: u64,
    /// Nodes that take four times as long as they say, in percent.
    pub slow_percent: u64,
    /// Nodes that cheat, in percent.
    pub cheater_percent: u64,
    /// Tasks that are checked for cheaters.
    pub checked_tasks: u64,
    /// Payers that sign away more than their fund.
    pub overspenders: u64,
    /// Nodes that claim a GPU.
    pub gpu_nodes: u64,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            nodes: 500,
            tasks: 50_000,
            tenants: 8,
            churn_percent: 1,
            slow_percent: 5,
            cheater_percent: 5,
            checked_tasks: 500_000,
            overspenders: 1_000,
            gpu_nodes: 100,
        }
    }
}

/// One figure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The scenario's name in edge.md 12, or what it is about.
    pub scenario: &'static str,
    /// What was measured.
    pub what: &'static str,
    /// How much it was.
    pub value: f64,
    /// How much it has to be, in words.
    pub target: &'static str,
    /// Whether it is.
    pub pass: bool,
}

/// All figures, and one hash of all that happened.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Equal scenarios and seeds give equal ones.
    pub trace: Hash,
    /// The figures.
    pub rows: Vec<Row>,
}

/// Runs all of it.
pub fn run(scenario: &Scenario, seed: u64) -> Report {
    let mut rows = Vec::new();
    let mut row =
        |scenario, what, value: f64, target, pass| rows.push(Row { scenario, what, value, target, pass });
    let mut trace = Trace::new();
    let mut note = |hash: &Hash| trace.note(&hash.0.map(u64::from));
    let Scenario { nodes, tasks, tenants, churn_percent, slow_percent, .. } = *scenario;
    let s1 = fleet::run(&fleet::Scenario { seed, nodes, tasks, tenants, churn_percent, slow_percent });
    note(&s1.trace);
    row("S1", "tasks lost", s1.lost as f64, "0", s1.lost == 0);
    row("S1", "tasks doubled", s1.doubled as f64, "0", s1.doubled == 0);
    row("S1", "tasks given up", s1.failed as f64, "0", s1.failed == 0);
    row("S1", "share of the scarcest resource in use", s1.packing, ">= 0.92", s1.packing >= 0.92);
    row("S1", "makespan over the lower bound", s1.over_bound, "<= 1.15", s1.over_bound <= 1.15);
    row(
        "S1",
        "all but a thousandth over the lower bound",
        s1.most_ms as f64 / s1.bound_ms.max(1) as f64,
        "none",
        true,
    );
    row("S1", "Jain's index of the tenants' shares", s1.fairness, ">= 0.95", s1.fairness >= 0.95);
    row("S1", "attempts for each task", s1.attempts, "none", true);
    let s2 = cheaters::run(&cheaters::Scenario {
        seed,
        nodes,
        tasks: scenario.checked_tasks,
        cheater_percent: scenario.cheater_percent,
        price: 10_000_000_000_000_000,
        bond: 10_000_000_000_000_000_000,
    });
    note(&s2.trace);
    row("S2", "wrong results that are believed", s2.accepted_error, "<= 0.0001", s2.accepted_error <= 1e-4);
    row("S2", "executions for each task", s2.overhead, "<= 1.08", s2.overhead <= 1.08);
    row("S2", "profit of cheaters in wei", s2.cheater_profit as f64, "< 0", s2.cheater_profit < 0);
    row("S2", "honest nodes accused", s2.accused as f64, "0", s2.accused == 0);
    let (mut late, mut worst, mut lost) = (0_u64, 0, 0.0_f64);
    let mut random = Random::new(seed);
    for _ in 0..scenario.overspenders {
        // Three times the fund, as S6 says, or anything above it.
        let initial = 1_000 + random.below(1_000_000);
        let total = if random.below(2) == 0 { initial * 3 / 2 } else { initial + 1 + random.below(initial) };
        let attack = payers::attack(&mut random, initial, total);
        let after = attack.over.zip(attack.last).map(|(over, last)| last - over);
        late += u64::from(after.is_none_or(|after| after > 2_000));
        worst = worst.max(after.unwrap_or(u64::MAX));
        lost = lost.max(attack.lost as f64 / initial as f64);
    }
    row("S6", "overspenders not found out within 2 s", late as f64, "0", late == 0);
    row("S6", "milliseconds until the last payee knew, at most", worst as f64, "<= 2000", worst <= 2_000);
    row("S6", "signed beyond the fund until the first proof, over the fund, at most", lost, "none", true);
    let gpus = gpu::run(&gpu::Scenario {
        seed,
        nodes: scenario.gpu_nodes,
        tasks: 10 * scenario.gpu_nodes,
        liar_percent: 20,
    });
    note(&gpus.trace);
    row("GPU", "nodes attested", gpus.attested as f64, "none", true);
    row("GPU", "false claims refuted", gpus.refuted as f64, "none", true);
    row("GPU", "tasks done", gpus.done as f64, "none", true);
    row("GPU", "tasks misplaced", gpus.misplaced as f64, "0", gpus.misplaced == 0);
    row("GPU", "price over bid", gpus.paid as f64 / gpus.bid.max(1) as f64, "<= 1", gpus.paid <= gpus.bid);
    Report { trace: trace.hash(), rows }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_give_equal_figures_and_what_is_safe_holds() {
        let small = Scenario {
            nodes: 50,
            tasks: 2_000,
            checked_tasks: 20_000,
            overspenders: 100,
            gpu_nodes: 20,
            ..Scenario::default()
        };
        let report = run(&small, 3);
        assert_eq!(run(&small, 3), report);
        assert_ne!(run(&small, 4).trace, report.trace);
        let zero = report.rows.iter().filter(|row| row.target == "0");
        assert_eq!(zero.clone().count(), 6);
        assert!(zero.clone().all(|row| row.pass), "{report:?}");
    }
}
