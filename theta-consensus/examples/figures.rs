//! Draws the pictures of `docs/consensus.md`; `theta sim consensus settling` and `guardians` print the numbers.
//!
//! `cargo run --release -p theta-consensus --features sim --example figures -- docs/figures [GUARDIANS...]`

use rustix::time::{ClockId, clock_gettime};
use theta_consensus::sim::{Costs, GuardianScenario, Plot, Scenario};
use theta_core::spec::ChainSpec;

/// Nanoseconds that this thread has computed.
fn clock() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

fn settling() -> Plot {
    let mut series = Vec::new();
    for (validators, stopped) in [(4, 0), (31, 0), (100, 0), (4, 30), (31, 30), (100, 30)] {
        let report = Scenario::settling(ChainSpec::devnet(), validators, stopped, 1).run();
        // A message takes a hundred milliseconds.
        let delays: Vec<f64> = report.latencies.iter().map(|latency| *latency as f64 / 100.0).collect();
        let at =
            |percent: usize| delays.get((delays.len() * percent).div_ceil(100).saturating_sub(1)).copied();
        println!(
            "{validators} validators, {stopped} % stopped: half {:?}, 99 % {:?}, {} of {} settled",
            at(50),
            at(99),
            delays.len(),
            report.transactions
        );
        let share = |index: usize| 100.0 * (index + 1) as f64 / delays.len() as f64;
        let points = delays.iter().enumerate().map(|(index, delay)| (*delay, share(index)));
        series.push((format!("{validators}, {stopped} % stopped"), points.collect()));
    }
    Plot {
        title: "How many transactions have settled after so many message delays".to_owned(),
        across: "message delays".to_owned(),
        upwards: "% of transactions".to_owned(),
        series,
    }
}

fn guardians(sizes: &[usize]) -> Plot {
    let costs = Costs::measure(&clock);
    let mut series = Vec::new();
    for guardians in sizes {
        let point = |byzantine_percent: usize| {
            let honest = GuardianScenario::honest(*guardians, 1, costs);
            let report = GuardianScenario { byzantine_percent, ..honest }.run();
            println!("{guardians} guardians, {byzantine_percent} % Byzantine: {report:?}");
            (byzantine_percent as f64, report.most.unwrap_or(report.last))
        };
        series.push((format!("{guardians} guardians"), [0, 10, 20, 30].map(point).to_vec()));
    }
    Plot {
        title: "When 99 % of the honest guardians have a certificate, 100 ms round trip".to_owned(),
        across: "% of the guardians Byzantine".to_owned(),
        upwards: "milliseconds".to_owned(),
        series,
    }
}

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = std::path::PathBuf::from(arguments.next().unwrap_or_else(|| "docs/figures".to_owned()));
    let sizes: Vec<usize> = arguments.filter_map(|number| number.parse().ok()).collect();
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("settling.svg"), settling().svg())?;
    std::fs::write(folder.join("guardians.svg"), guardians(&sizes).svg())
}
