//! `theta statetest`.

use std::{
    num::NonZeroUsize,
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use theta_evm::statetest::{self, Case, Engine, Report, Verdict};

use super::work::{self, Watch};

/// Failed cases that are printed one by one.
const SHOWN: usize = 100;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Files of tests, or folders of them.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// What runs the cases.
    #[arg(long, value_enum, default_value_t = RulesArg::Stock)]
    rules: RulesArg,
    /// Threads; one for each core unless given.
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// Print one JSON value.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum RulesArg {
    /// The engine below our rules, at the fork that each case names.
    Stock,
    /// The machine of the main network; cases of Constantinople.
    Theta,
    /// The machine of development networks; cases of Osaka and Cancun.
    Ethereum,
}

pub(super) async fn run(args: Args) -> Result<()> {
    let Args { paths, rules, threads, json } = args;
    let engine = match rules {
        RulesArg::Stock => Engine::Stock,
        RulesArg::Theta => Engine::Theta,
        RulesArg::Ethereum => Engine::Ethereum,
    };
    let threads = match threads {
        Some(threads) => threads,
        None => std::thread::available_parallelism().context("how many cores there are")?,
    };
    let report = work::long(move |watch| {
        let mut files = Vec::new();
        for path in &paths {
            files.extend(statetest::files(path)?);
        }
        if files.is_empty() {
            bail!("no file of tests there: name a .json file or a folder with some");
        }
        all(watch, &files, engine, threads)
    })
    .await?;
    let (passed, failed, skipped) = report.counts();
    if json {
        say!("{}", as_json(&report))?;
    } else {
        print(&report)?;
    }
    if failed > 0 {
        bail!("{failed} of {} cases failed", passed + failed + skipped);
    }
    Ok(())
}

/// Runs the files on so many threads; the cases come out in the order of the files.
fn all(watch: &Watch, files: &[PathBuf], engine: Engine, threads: NonZeroUsize) -> Result<Report> {
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(file) = files.get(index) else { return Ok(done) };
            if !watch.at(|| format!("file {index} of {}: {}", files.len(), file.display())) {
                bail!("stopped");
            }
            done.push((index, statetest::run(file, engine)));
        }
    };
    let mut done: Vec<(usize, Vec<Case>)> = Vec::with_capacity(files.len());
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.get()).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| {
            // A panic is a bug of the engine, and goes on here.
            done.extend(worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
            anyhow::Ok(())
        })
    })?;
    done.sort_unstable_by_key(|(index, _)| *index);
    Ok(Report { cases: done.into_iter().flat_map(|(_, cases)| cases).collect() })
}

fn print(report: &Report) -> Result<()> {
    let failed = report.cases.iter().filter(|case| matches!(case.verdict, Verdict::Failed(_)));
    for case in failed.take(SHOWN) {
        say!("{case}")?;
    }
    let (passed, failed, _) = report.counts();
    let mut table = comfy_table::Table::new();
    table.set_header(["cases", "", "reason"]);
    table.add_row([passed.to_string(), "passed".to_owned(), String::new()]);
    table.add_row([failed.to_string(), "failed".to_owned(), String::new()]);
    for (reason, count) in report.skipped() {
        table.add_row([count.to_string(), "skipped".to_owned(), reason.to_owned()]);
    }
    say!("{table}")?;
    Ok(())
}

fn as_json(report: &Report) -> Value {
    let (passed, failed, skipped) = report.counts();
    let failures: Vec<Value> = report
        .cases
        .iter()
        .filter_map(|case| match &case.verdict {
            Verdict::Failed(reason) => Some(json!({ "case": case.name, "reason": reason })),
            _ => None,
        })
        .collect();
    json!({
        "passed": passed,
        "failed": failed,
        "skipped": skipped,
        "skippedByReason": report.skipped(),
        "failures": failures,
        "ok": failed == 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixtures() -> Vec<PathBuf> {
        statetest::files(
            &std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/statetests"),
        )
        .expect("there")
    }

    #[tokio::test]
    async fn threads_do_not_change_the_order() {
        let report = |threads| {
            work::long(move |watch| {
                all(watch, &fixtures(), Engine::Stock, NonZeroUsize::new(threads).context("not zero")?)
            })
        };
        let (one, four) = (report(1).await.expect("runs"), report(4).await.expect("runs"));
        assert_eq!(one.cases, four.cases);
        assert_eq!(as_json(&one)["passed"], 23);
        assert_eq!(as_json(&one)["ok"], true);
    }
}
