//! `theta sim consensus`.

use std::path::PathBuf;

use anyhow::{Result, bail};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use theta_consensus::sim::{Costs, GuardianReport, GuardianScenario, Plot, Report, Scenario, Violation};
use theta_core::spec::ChainSpec;

use crate::cli::work::{self, Watch};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// What is simulated.
    #[arg(value_enum, default_value_t = What::Schedules)]
    what: What,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How many seeds from there on.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Sign and check for real, which takes some fifty times as long.
    #[arg(long)]
    real_signatures: bool,
    /// Numbers of validators or guardians.
    #[arg(long, value_delimiter = ',', value_name = "N,…")]
    sizes: Vec<usize>,
    /// Links of each guardian.
    #[arg(long, default_value_t = 20)]
    links: usize,
    /// Write a picture of the results.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Print one JSON value.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// Storms over four to seven validators, of which up to a third break the rules, then calm.
    Schedules,
    /// More validators fork than agreement stands; guardians hold what is final.
    Fork,
    /// How many message delays a transaction takes, with 0 to 30 % of the validators stopped.
    Settling,
    /// How long guardians take for a certificate, with 0 to 30 % of them Byzantine.
    Guardians,
}

/// Rows under headings, the picture, and whether anything is wrong.
struct Results {
    headings: &'static [&'static str],
    rows: Vec<Vec<Value>>,
    plot: Plot,
    wrong: Option<String>,
}

pub(super) async fn run(args: Args) -> Result<()> {
    let (json, svg) = (args.json, args.svg.clone());
    let results = work::long(move |watch| {
        let results = match args.what {
            What::Schedules | What::Fork => schedules(&args, watch)?,
            What::Settling => settling(&args, watch)?,
            What::Guardians => guardians(&args, watch)?,
        };
        if let Some(svg) = &svg {
            watch.write(svg, |out| Ok(out.write_all(results.plot.svg().as_bytes())?))?;
        }
        Ok(results)
    })
    .await?;
    if json {
        let object = |row: &Vec<Value>| -> Value {
            let fields = results.headings.iter().map(|name| (*name).to_owned()).zip(row.iter().cloned());
            Value::Object(fields.collect())
        };
        let rows: Vec<Value> = results.rows.iter().map(object).collect();
        say!("{}", json!({ "rows": rows, "ok": results.wrong.is_none() }))?;
    } else {
        let mut table = comfy_table::Table::new();
        table.set_header(results.headings);
        for row in &results.rows {
            table.add_row(row.iter().map(|cell| match cell {
                Value::String(text) => text.clone(),
                Value::Null => "-".to_owned(),
                other => other.to_string(),
            }));
        }
        say!("{table}")?;
    }
    match results.wrong {
        Some(wrong) => bail!("{wrong}"),
        None => Ok(()),
    }
}

/// Whether a violation is one that this scenario must not have.
fn is_wrong(what: What, violation: &Violation) -> bool {
    let of_finality = matches!(violation, Violation::FinalConflict { .. } | Violation::FinalFell { .. });
    what == What::Schedules || of_finality
}

fn schedules(args: &Args, watch: &Watch) -> Result<Results> {
    let headings = &["seed", "validators", "blocks", "final", "healed after ms", "violations", "trace"];
    let (mut rows, mut healed, mut wrong) = (Vec::new(), Vec::new(), None);
    for seed in args.seed..args.seed.saturating_add(args.seeds) {
        if !watch.at(|| format!("seed {seed}")) {
            bail!("stopped");
        }
        let scenario = match args.what {
            What::Fork => Scenario::forked(ChainSpec::devnet(), seed),
            _ => Scenario::schedule(ChainSpec::devnet(), seed),
        };
        let validators = scenario.validators;
        let report = Scenario { real_signatures: args.real_signatures, ..scenario }.run();
        let bad = report.violations.iter().find(|violation| is_wrong(args.what, violation));
        let stalled = args.what == What::Schedules && report.healed_after.is_none();
        if wrong.is_none() && (bad.is_some() || stalled) {
            let why =
                bad.map_or("some validator settled nothing any more".to_owned(), |bad| format!("{bad:?}"));
            wrong = Some(format!("seed {seed}: {why}; see it again with --seed {seed}"));
        }
        healed.extend(report.healed_after.map(|after| after as f64));
        rows.push(row(seed, validators, &report));
    }
    healed.sort_unstable_by(f64::total_cmp);
    let share = |index: usize| 100.0 * (index + 1) as f64 / healed.len() as f64;
    let points = healed.iter().enumerate().map(|(index, after)| (*after, share(index))).collect();
    let plot = Plot {
        title: "Until every honest validator has settled a block after a storm".to_owned(),
        across: "milliseconds".to_owned(),
        upwards: "% of schedules".to_owned(),
        series: vec![(format!("{} schedules", healed.len()), points)],
    };
    Ok(Results { headings, rows, plot, wrong })
}

fn row(seed: u64, validators: usize, report: &Report) -> Vec<Value> {
    let violations: Vec<String> =
        report.violations.iter().map(|violation| format!("{violation:?}")).collect();
    vec![
        json!(seed),
        json!(validators),
        json!(report.settled.iter().max()),
        json!(report.finals.iter().max()),
        json!(report.healed_after),
        json!(if violations.is_empty() { "none".to_owned() } else { violations.join(", ") }),
        json!(format!("{:.18}", report.trace.to_string())),
    ]
}

fn settling(args: &Args, watch: &Watch) -> Result<Results> {
    let headings =
        &["validators", "stopped %", "transactions", "settled", "half, delays", "99 %, delays", "trace"];
    let sizes = if args.sizes.is_empty() { vec![4, 31, 100] } else { args.sizes.clone() };
    let (mut rows, mut series) = (Vec::new(), Vec::new());
    for validators in sizes {
        for stopped in [0, 10, 20, 30] {
            if !watch.at(|| format!("{validators} validators, {stopped} % stopped")) {
                bail!("stopped");
            }
            let report = Scenario::settling(ChainSpec::devnet(), validators, stopped, args.seed).run();
            if !report.violations.is_empty() {
                bail!("{validators} validators, seed {}: {:?}", args.seed, report.violations);
            }
            // A message takes a hundred milliseconds.
            let delays: Vec<f64> = report.latencies.iter().map(|latency| *latency as f64 / 100.0).collect();
            let at = |percent: usize| {
                let index = (delays.len() * percent).div_ceil(100).saturating_sub(1);
                delays.get(index).map(|delay| format!("{delay:.1}"))
            };
            rows.push(vec![
                json!(validators),
                json!(stopped),
                json!(report.transactions),
                json!(delays.len()),
                json!(at(50)),
                json!(at(99)),
                json!(format!("{:.18}", report.trace.to_string())),
            ]);
            if stopped == 0 || stopped == 30 {
                let share = |index: usize| 100.0 * (index + 1) as f64 / delays.len() as f64;
                let points = delays.iter().enumerate().map(|(index, delay)| (*delay, share(index)));
                series.push((format!("{validators}, {stopped} % stopped"), points.collect()));
            }
        }
    }
    let plot = Plot {
        title: "Settling of transactions".to_owned(),
        across: "message delays".to_owned(),
        upwards: "% of transactions".to_owned(),
        series,
    };
    Ok(Results { headings, rows, plot, wrong: None })
}

/// Nanoseconds that this thread has computed.
fn clock() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

fn guardians(args: &Args, watch: &Watch) -> Result<Results> {
    let headings = &[
        "guardians",
        "Byzantine %",
        "certified",
        "half ms",
        "99 % ms",
        "last ms",
        "messages in a row",
        "KB sent",
        "CPU ms",
        "trace",
    ];
    let sizes = if args.sizes.is_empty() { vec![1_000] } else { args.sizes.clone() };
    let costs = Costs::measure(&clock);
    eprintln!(
        "nanoseconds: sign {}, verify {}, key {}, sum {}",
        costs.sign, costs.verify, costs.key, costs.sum
    );
    let (mut rows, mut series) = (Vec::new(), Vec::new());
    for guardians in sizes {
        let mut points = Vec::new();
        for byzantine_percent in [0, 10, 20, 30] {
            if !watch.at(|| format!("{guardians} guardians, {byzantine_percent} % Byzantine")) {
                bail!("stopped");
            }
            let scenario = GuardianScenario {
                degree: args.links,
                byzantine_percent,
                ..GuardianScenario::honest(guardians, args.seed, costs)
            };
            let report = if args.real_signatures { scenario.run_real(&clock) } else { scenario.run() };
            points.push((byzantine_percent as f64, report.most.unwrap_or(report.last)));
            rows.push(guardian_row(guardians, byzantine_percent, &report));
        }
        series.push((format!("{guardians} guardians"), points));
    }
    let plot = Plot {
        title: "Until 99 % of the honest guardians have a certificate, 100 ms round trip".to_owned(),
        across: "% of the guardians Byzantine".to_owned(),
        upwards: "milliseconds".to_owned(),
        series,
    };
    Ok(Results { headings, rows, plot, wrong: None })
}

fn guardian_row(guardians: usize, byzantine: usize, report: &GuardianReport) -> Vec<Value> {
    let whole = |value: f64| json!(value.round() as i64);
    vec![
        json!(guardians),
        json!(byzantine),
        json!(format!("{} of {}", report.certified, report.honest)),
        report.half.map_or(Value::Null, whole),
        report.most.map_or(Value::Null, whole),
        whole(report.last),
        json!(report.hops),
        whole(report.bytes.0 / 1e3),
        whole(report.cpu.0),
        json!(format!("{:.18}", report.trace.to_string())),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(what: What, seed: u64) -> Args {
        Args {
            what,
            seed,
            seeds: 2,
            real_signatures: false,
            sizes: vec![40],
            links: 8,
            svg: None,
            json: false,
        }
    }

    #[tokio::test]
    async fn a_seed_gives_its_trace_again() {
        let rows = |seed| {
            let args = args(What::Schedules, seed);
            work::long(move |watch| schedules(&args, watch))
        };
        let (first, again, next) = (rows(3).await, rows(3).await, rows(4).await);
        let (first, next) = (first.expect("runs"), next.expect("runs"));
        assert_eq!(first.rows, again.expect("runs").rows);
        // The second row of the first run is the first of the next.
        assert_eq!(first.rows[1], next.rows[0]);
        assert_ne!(first.rows[0].last(), next.rows[0].last());
        assert_eq!(first.wrong, None);
        assert!(is_wrong(What::Schedules, &Violation::Conflict { height: 3 }));
        assert!(!is_wrong(What::Fork, &Violation::Conflict { height: 3 }));
    }

    #[tokio::test]
    async fn guardians_are_told_with_their_picture() {
        let args = args(What::Guardians, 1);
        let results = work::long(move |watch| guardians(&args, watch)).await.expect("runs");
        assert_eq!(results.rows.len(), 4);
        assert_eq!(results.rows[0].len(), results.headings.len());
        assert!(results.plot.svg().contains("40 guardians"));
    }
}
