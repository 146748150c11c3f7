//! `theta replay`.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use theta_ledger::replay::{Report, replay_judged};

use super::{contracts, input, work};
use crate::judge::Consensus;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Recordings: diff_*.jsonl[.gz] or blocks_*.json[.gz].
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Genesis file that recorded blocks begin with.
    #[arg(long, env = "THETA_GENESIS", value_name = "FILE")]
    genesis: Option<PathBuf>,
    /// Print one JSON value.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args) -> Result<()> {
    let Args { files, genesis, json } = args;
    let reports = work::long(move |watch| {
        let genesis = genesis.map(|path| input::genesis(watch, &path)).transpose()?;
        let mut reports = Vec::new();
        for file in files {
            let recording = watch.open(&file)?;
            let report = replay_judged(recording, contracts(), genesis.as_ref(), Some(Arc::new(Consensus)))
                .with_context(|| file.display().to_string())?;
            if !json {
                print(&file.display().to_string(), &report)?;
            }
            reports.push((file, report));
        }
        Ok(reports)
    })
    .await?;
    let passed: usize = reports.iter().map(|(_, report)| report.passed()).sum();
    let failed: usize = reports.iter().map(|(_, report)| report.failed()).sum();
    let differences: usize = reports.iter().map(|(_, report)| report.differences().count()).sum();
    if json {
        let files: Vec<Value> =
            reports.iter().map(|(file, report)| as_json(&file.display().to_string(), report)).collect();
        say!("{}", json!({ "passed": passed, "failed": failed, "ok": differences == 0, "files": files }))?;
    } else {
        say!("{passed} passed, {failed} failed")?;
    }
    if differences > 0 {
        bail!("{differences} of the recorded sequences do something else here");
    }
    Ok(())
}

fn print(file: &str, report: &Report) -> std::io::Result<()> {
    for difference in report.differences() {
        say!("{file}: {difference}")?;
    }
    let blocks: usize = report.sequences.iter().map(|sequence| sequence.blocks).sum();
    say!(
        "{file}: {} sequences, {blocks} blocks, {} passed, {} failed",
        report.sequences.len(),
        report.passed(),
        report.failed()
    )
}

fn as_json(file: &str, report: &Report) -> Value {
    let differences: Vec<Value> = report
        .differences()
        .map(|difference| {
            json!({
                "place": difference.place,
                "field": difference.field,
                "recorded": difference.expected,
                "found": difference.found,
            })
        })
        .collect();
    let blocks: usize = report.sequences.iter().map(|sequence| sequence.blocks).sum();
    json!({
        "file": file,
        "sequences": report.sequences.len(),
        "blocks": blocks,
        "passed": report.passed(),
        "failed": report.failed(),
        "differences": differences,
    })
}
