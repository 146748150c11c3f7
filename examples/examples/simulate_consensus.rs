//! Validators in virtual time: a network that loses messages, splits in two and loses power.
//!
//! `cargo run -p theta-examples --example simulate_consensus [SEED]`

use theta_consensus::sim::{Partition, Scenario};
use theta_core::spec::ChainSpec;

fn main() -> anyhow::Result<()> {
    let seed = std::env::args().nth(1).map_or(Ok(42), |seed| seed.parse())?;
    let quiet = Scenario::honest(ChainSpec::devnet(), 4, seed);
    let rough = Scenario {
        loss_per_mille: 50,
        crashes_per_100k: 20,
        partitions: vec![Partition { from: 10_000, until: 20_000, group: vec![0, 1] }],
        blackouts: vec![30_000],
        calm_from: 40_000,
        until: 120_000,
        ..quiet.clone()
    };
    for (name, scenario) in [("quiet", quiet), ("rough", rough)] {
        let seconds = scenario.until / 1000;
        let report = scenario.run();
        println!("{name}: {seconds} s of virtual time, seed {seed}");
        println!("  settled height of each validator {:?}, {} starts", report.settled, report.restarts);
        if let Some(median) = report.latencies.get(report.latencies.len() / 2) {
            println!(
                "  {} of {} transactions settled, median {median} ms, longest {} ms",
                report.latencies.len(),
                report.transactions,
                report.latencies.last().unwrap_or(median)
            );
        }
        println!("  trace {:?}", report.trace);
        anyhow::ensure!(report.violations.is_empty(), "broken: {:?}", report.violations);
    }
    println!("no rule was broken");
    Ok(())
}
