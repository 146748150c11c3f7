//! Runs many schedules in virtual time and says how many break a rule, and how fast blocks settle in quiet networks.
//!
//! `cargo run --release -p theta-consensus --features sim --example schedules -- [SCHEDULES [FIRST_SEED]]`

#![expect(clippy::disallowed_methods, reason = "engines get virtual time; this measures what that costs")]

use std::time::Instant;

use theta_consensus::sim::{Partition, Report, Scenario, Strategy};
use theta_core::spec::ChainSpec;

/// Ten seconds of loss, duplicates, partitions, crashes and one of four that breaks the rules, then ten of calm.
fn schedule(seed: u64) -> Scenario {
    // Any mixing of the seed's bits will do.
    let bits = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let pick = |shift: u32, below: u64| (bits >> shift) % below;
    let strategy = Strategy::ALL[usize::try_from(pick(3, 8)).unwrap_or(0)];
    let faulty = usize::try_from(pick(7, 4)).unwrap_or(0);
    let from = pick(11, 6_000);
    let group = (0..4).filter(|node| bits >> (20 + node) & 1 == 1).collect();
    Scenario {
        until: 20_000,
        calm_from: 10_000,
        delay: (1, 10 + pick(25, 300)),
        loss_per_mille: pick(31, 150),
        duplicate_per_mille: pick(37, 100),
        crashes_per_100k: pick(41, 300),
        partitions: vec![Partition { from, until: from + pick(45, 4_000), group }],
        stake_change_every: if pick(50, 3) == 0 { 2_000 } else { 0 },
        transaction_every: 900,
        adversaries: vec![(faulty, strategy)],
        ..Scenario::honest(ChainSpec::devnet(), 4, seed)
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1).filter_map(|argument| argument.parse().ok());
    let (schedules, first) = (arguments.next().unwrap_or(1_000_u64), arguments.next().unwrap_or(0));
    let begun = Instant::now();
    let (mut broken, mut slow, mut stalled, mut settled) = (0_u64, 0_u64, 0_u64, 0_u64);
    for seed in first..first + schedules {
        let scenario = schedule(seed);
        let faulty = scenario.adversaries[0].0;
        let report = scenario.run();
        if !report.violations.is_empty() {
            broken += 1;
            println!("seed {seed}: {:?}", report.violations);
        }
        let grown = |report: &Report| {
            let honest = (0..4).filter(|node| *node != faulty);
            honest.map(|node| report.settled[node].saturating_sub(report.samples[1][node])).min()
        };
        // Patience has grown to eight seconds by then; who got nothing in ten gets a hundred.
        if grown(&report) == Some(0) {
            slow += 1;
            let longer = Scenario { until: 110_000, ..schedule(seed) }.run();
            if grown(&longer) == Some(0) {
                stalled += 1;
                println!("seed {seed} stalls: {:?} then {:?}", longer.samples, longer.settled);
            }
        }
        settled += report.settled.iter().max().copied().unwrap_or(0);
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{schedules} schedules from seed {first} in {seconds:.1} s ({:.1} a second): {broken} broke a rule, {slow} had a \
         validator that settled nothing in ten seconds of calm, {stalled} one that settled nothing in a hundred, {settled} \
         blocks settled",
        schedules as f64 / seconds
    );
    for validators in [4, 31, 100] {
        let quiet = Scenario::honest(ChainSpec::devnet(), validators, 1);
        let scenario = Scenario { delay: (100, 100), until: 30_000, transaction_every: 1_700, ..quiet };
        let begun = Instant::now();
        let report = scenario.run();
        let half = report.latencies.get(report.latencies.len() / 2).copied().unwrap_or(0);
        println!(
            "{validators} validators: a transaction settles after {:.1} network delays (median of {}), at most {:.1}; {:.1} s",
            half as f64 / 100.0,
            report.latencies.len(),
            report.latencies.last().copied().unwrap_or(0) as f64 / 100.0,
            begun.elapsed().as_secs_f64()
        );
    }
}
