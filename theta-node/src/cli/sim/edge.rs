//! `theta sim edge`: fleets and markets in virtual time, by the code that runs in earnest.

use std::path::PathBuf;

use anyhow::{Context, Result};
use theta_edge::sim::edge;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// File in TOML that says how much of what.
    #[arg(long)]
    scenario: Option<PathBuf>,
    /// Where all chance comes from; equal ones give equal traces.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print the figures as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let scenario: edge::Scenario = match &args.scenario {
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
            toml::from_str(&text).with_context(|| path.display().to_string())?
        }
        None => edge::Scenario::default(),
    };
    let report = edge::run(&scenario, args.seed);
    if args.json {
        let whole = serde_json::json!({ "seed": args.seed, "scenario": scenario, "trace": report.trace, "rows": report.rows });
        return Ok(say!("{whole}")?);
    }
    let mut table = comfy_table::Table::new();
    table.set_header(["scenario", "what", "value", "target", ""]);
    for row in &report.rows {
        let verdict = match row.target {
            "none" => "",
            _ if row.pass => "met",
            _ => "missed",
        };
        let value =
            if row.value.fract() == 0.0 { format!("{}", row.value) } else { format!("{:.5}", row.value) };
        table.add_row([row.scenario, row.what, value.as_str(), row.target, verdict]);
    }
    say!("{table}")?;
    Ok(say!("seed {}, trace {}", args.seed, report.trace)?)
}
