//! Finds the knee: the highest rate that a network carries.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use theta_consensus::sim::Plot;

use super::{Pace, Plan, Report, Target, run};

/// The first rate, in transactions a second.
const FIRST: f64 = 250.0;
/// The knee is known to this factor.
const NEAR: f64 = 1.15;
/// Runs at most.
const RUNS: usize = 14;
/// A rate is carried if this is the 99th percentile at most, in milliseconds.
const SOON: f64 = 2_000.0;

/// What came of it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sweep {
    /// The highest rate that was carried, in transactions a second; none where even one was too many.
    pub knee: Option<f64>,
    /// All runs, by their rate.
    pub runs: Vec<Step>,
}

/// One run.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// Transactions a second.
    pub rate: f64,
    /// Whether the network carried it: all taken, 99 of 100 settled within two seconds.
    pub carried: bool,
    /// What came of it.
    pub report: Report,
}

/// The rate to try next: twice as much until one is too much, then between what was carried and what was not.
fn next(carried: Option<f64>, too_much: Option<f64>) -> Option<f64> {
    match (carried, too_much) {
        (None, None) => Some(FIRST),
        (Some(carried), None) => Some(carried * 2.0),
        (None, Some(too_much)) => (too_much >= 2.0).then_some(too_much / 2.0),
        (Some(carried), Some(too_much)) => {
            let between = (carried * too_much).sqrt();
            // Whole numbers where they are told apart well enough.
            let rate = if between < 10.0 { between } else { between.round() };
            (too_much > carried * NEAR).then_some(rate)
        }
    }
}

/// Runs the plan at one rate after the other, its own left aside, until the knee is known.
pub async fn sweep(target: &Target, plan: &Plan, say: impl Fn(&str)) -> Result<Sweep> {
    let (mut carried, mut too_much, mut runs) = (None, None, Vec::new());
    while let Some(rate) = next(carried, too_much).filter(|_| runs.len() < RUNS) {
        say(&format!("{rate:.0} a second"));
        let report = run(target, &Plan { pace: Pace::Rate(rate), ..plan.clone() }, &say).await?;
        ensure!(
            report.wrong.is_empty(),
            "the run at {rate} a second does not count: {}",
            report.wrong.join("; ")
        );
        let step = Step {
            rate,
            carried: report.refused.is_empty() && report.dropped.is_empty() && report.latency_ms.p99 <= SOON,
            report,
        };
        *(if step.carried { &mut carried } else { &mut too_much }) = Some(rate);
        runs.push(step);
    }
    runs.sort_by(|one, other| one.rate.total_cmp(&other.rate));
    Ok(Sweep { knee: carried, runs })
}

impl Sweep {
    /// Writes a picture of how soon transactions settle at each rate that was carried.
    pub fn plot(&self, path: &Path) -> Result<()> {
        let line = |name: &str, of: &dyn Fn(&Report) -> f64| {
            let carried = self.runs.iter().filter(|step| step.carried);
            (name.to_owned(), carried.map(|step| (step.rate, of(&step.report))).collect())
        };
        let plot = Plot {
            title: "From send to settled".to_owned(),
            across: "transactions a second".to_owned(),
            upwards: "ms".to_owned(),
            series: vec![
                line("p50", &|report| report.latency_ms.p50),
                line("p95", &|report| report.latency_ms.p95),
                line("p99", &|report| report.latency_ms.p99),
            ],
        };
        std::fs::write(path, plot.svg()).with_context(|| path.display().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_knee_is_found_from_below_and_above() {
        for knee in [3.0, 100.0, 260.0, 1_900.0, 40_000.0] {
            let (mut carried, mut too_much, mut runs) = (None, None, 0);
            while let Some(rate) = next(carried, too_much).filter(|_| runs <= RUNS) {
                *(if rate <= knee { &mut carried } else { &mut too_much }) = Some(rate);
                runs += 1;
            }
            let found = carried.expect("some rate is carried");
            assert!(found <= knee && knee <= found * NEAR * 1.1 + 1.0, "{found} is not {knee}");
            assert!(runs <= RUNS, "{runs} runs");
        }
        // Where nothing is carried the search ends.
        assert_eq!(next(None, Some(1.5)), None);
    }
}
