//! S1 and S2 of edge.md 12 in virtual time, beside their targets.
//!
//! `cargo run --release -p theta-edge --features sim --example simulate_fleet -- 10000 500000 1`: nodes, tasks, seed.

use theta_edge::sim::{cheaters, fleet};

fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|number| number.parse::<u64>().ok());
    let (nodes, tasks) = (numbers.next().unwrap_or(500), numbers.next().unwrap_or(20_000));
    let seed = numbers.next().unwrap_or(1);
    let (churn_percent, slow_percent) = (numbers.next().unwrap_or(1), numbers.next().unwrap_or(5));
    let report = fleet::run(&fleet::Scenario { seed, nodes, tasks, tenants: 8, churn_percent, slow_percent });
    println!("{report:?}");
    println!("S1 {nodes} nodes, {tasks} tasks, 1 % churn in a minute, 5 % slow; trace {}", report.trace);
    println!("  lost {}, doubled {}, failed {}", report.lost, report.doubled, report.failed);
    println!("  packing {:.3} (target 0.92)", report.packing);
    println!("  makespan over the bound {:.3} (target 1.15)", report.over_bound);
    println!(
        "  Jain's index {:.3} (target 0.95), attempts for each task {:.3}",
        report.fairness, report.attempts
    );
    let (price, bond) = (10_000_000_000_000_000, 10_000_000_000_000_000_000);
    let report = cheaters::run(&cheaters::Scenario {
        seed,
        nodes,
        tasks: 10 * tasks,
        cheater_percent: 5,
        price,
        bond,
    });
    println!("S2 5 % cheaters; trace {}", report.trace);
    println!(
        "  accepted error {:.6} (target 0.0001), overhead {:.4} (target 1.08)",
        report.accepted_error, report.overhead
    );
    println!(
        "  profit of cheaters {} wei (target below 0), {} caught, {} accused",
        report.cheater_profit, report.caught, report.accused
    );
}
