//! Runs many schedules in virtual time and says how many break a rule or stall, and how fast blocks settle in quiet networks.
//!
//! `cargo run --release -p theta-consensus --features sim --example schedules -- [SCHEDULES [FIRST_SEED [real]]]`

#![expect(clippy::disallowed_methods, reason = "engines get virtual time; this measures what that costs")]

use std::time::Instant;

use theta_consensus::{Settings, sim::Scenario};
use theta_core::spec::{ChainSpec, Pace};

/// Epochs with faulty proposers that are told apart.
const SPOILT: usize = 8;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize, default: u64| {
        arguments.get(index).and_then(|argument| argument.parse().ok()).unwrap_or(default)
    };
    let (schedules, first) = (number(0, 1_000), number(1, 0));
    let real_signatures = arguments.get(2).is_some_and(|argument| argument == "real");
    let begun = Instant::now();
    let (mut broken, mut stalled, mut settled, mut finals) = (0_u64, 0_u64, 0_u64, 0_u64);
    let (mut highest, mut healed, mut worst) = (0, Vec::new(), [0; SPOILT]);
    let (mut late, mut later) = (0_u64, 0_u64);
    let settings = Settings::new(Pace::Responsive);
    let shortest = settings.idle_interval + settings.epoch_timeout;
    for seed in first..first + schedules {
        let scenario = Scenario { real_signatures, ..Scenario::schedule(ChainSpec::devnet(), seed) };
        let report = scenario.run();
        if !report.violations.is_empty() {
            broken += 1;
            println!("seed {seed}: {:?}", report.violations);
        }
        match report.healed_after {
            Some(after) => {
                let time = after.saturating_sub(report.whole_after);
                healed.push(time);
                let spoilt = usize::try_from(report.faulty_epochs).unwrap_or(0).min(SPOILT - 1);
                worst[spoilt] = worst[spoilt].max(time);
                let epochs = 1 + u64::from(report.faulty_epochs);
                let reached = settings.idle_interval + report.patience.max(settings.epoch_timeout);
                if time > shortest * epochs {
                    late += 1;
                    later += u64::from(time > reached * epochs);
                    println!(
                        "seed {seed} heals after {time} ms, {} epochs spoilt, with timeouts of up to {reached} ms",
                        report.faulty_epochs
                    );
                }
            }
            None => {
                stalled += 1;
                println!("seed {seed} stalls: {:?} then {:?}", report.before_calm, report.settled);
            }
        }
        let top = report.settled.iter().max().copied().unwrap_or(0);
        settled += top;
        highest = highest.max(top);
        finals += report.finals.iter().max().copied().unwrap_or(0) / 10;
        if (seed + 1 - first).is_multiple_of(10_000) {
            println!("{} done after {:.0} s", seed + 1 - first, begun.elapsed().as_secs_f64());
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    healed.sort_unstable();
    let at = |share: usize| healed.get(healed.len().saturating_sub(1) * share / 1_000).copied().unwrap_or(0);
    println!(
        "{schedules} schedules from seed {first} in {seconds:.1} s ({:.1} a second): {broken} broke a rule, {stalled} stalled; \
         {settled} blocks settled, {highest} at most in one, {finals} checkpoints final",
        schedules as f64 / seconds
    );
    println!(
        "after the last had come back every honest validator had settled a block within {} ms in half of them, {} in 9 of 10, {} in 99 of 100, {} in 999 of \
         1,000, {} at most",
        at(500),
        at(900),
        at(990),
        at(999),
        at(1_000)
    );
    println!(
        "{late} needed more than {shortest} ms and as much for each epoch with a faulty proposer, {later} of these more than the \
         longest timeout that a node had then; at most {worst:?} ms with 0, 1, ... such epochs"
    );
}
