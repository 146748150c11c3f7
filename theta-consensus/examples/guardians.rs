//! How long guardians take for a certificate, what it costs each of them, and whether the model agrees with real signatures.
//!
//! `cargo run --release -p theta-consensus --features sim --example guardians`

use rustix::time::{ClockId, clock_gettime};
use theta_consensus::sim::{Costs, GuardianReport, GuardianScenario};

/// Nanoseconds that this thread has computed.
fn clock() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

fn line(name: &str, report: &GuardianReport) {
    let time = |time: Option<f64>| time.map_or("-".to_owned(), |time| format!("{time:.0}"));
    println!(
        "| {name} | {} | {} | {:.0} | {} of {} | {} | {:.0} / {:.0} | {:.0} / {:.0} | {:.0} |",
        time(report.half),
        time(report.most),
        report.last,
        report.certified,
        report.honest,
        report.hops,
        report.bytes.0 / 1e3,
        report.bytes.1 as f64 / 1e3,
        report.cpu.0,
        report.cpu.1,
        report.checked
    );
}

fn main() {
    let costs = Costs::measure(&clock);
    println!(
        "costs: sign {} us, verify {} us, key {} us, sum {} us",
        costs.sign / 1_000,
        costs.verify / 1_000,
        costs.key / 1_000,
        costs.sum / 1_000
    );
    println!(
        "| guardians | half ms | 99 % ms | last ms | certified | hops | KB sent mean / most | CPU ms mean / most | checked |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|number| number.parse().ok()).collect();
    let sizes = if numbers.is_empty() { vec![1_000, 4_000, 10_000] } else { numbers };
    for guardians in sizes {
        for degree in [20, 8] {
            for byzantine_percent in [0, 10, 20, 30] {
                let scenario = GuardianScenario {
                    degree,
                    byzantine_percent,
                    ..GuardianScenario::honest(guardians, 1, costs)
                };
                let name = format!("{guardians}, {degree} links, {byzantine_percent} % Byzantine");
                line(&name, &scenario.run());
            }
        }
    }
    let small = GuardianScenario::honest(300, 1, costs);
    line("300, 20 links, modelled", &small.run());
    line("300, 20 links, real BLS", &small.run_real(&clock));
    // What it was before: single votes went everywhere, in messages with four bytes or one for each guardian.
    for guardians in [300, 1_000] {
        let all = GuardianScenario { group: guardians, ..GuardianScenario::honest(guardians, 1, costs) };
        line(&format!("{guardians}, 20 links, no groups"), &all.run());
    }
}
