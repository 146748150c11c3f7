//! `theta load`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use comfy_table::{CellAlignment, Table};
use theta_core::{sign::SecretKey, spec::ChainSpec};
use theta_sdk::hd::{self, Path as HdPath};

use super::{contracts, devnet::Scratch, interrupted};
use crate::{
    devnet::{DevnetConfig, TEST_MNEMONIC},
    load::{self, Kind, Pace, Plan, Report, Step, Sweep, Target},
    processes::Processes,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Start so many validators, each a process of its own on loopback, and load those.
    #[arg(long, value_name = "VALIDATORS", conflicts_with_all = ["rpc", "eth_rpc", "pid"])]
    spawn: Option<usize>,
    /// How many of them are guardians, too.
    #[arg(long, default_value_t = 4, requires = "spawn")]
    guardians: usize,
    /// Where the spawned network is kept; a temporary folder when missing.
    #[arg(long, requires = "spawn")]
    data_dir: Option<PathBuf>,
    /// URL of a node's theta.* server; more than one may be named.
    #[arg(long, value_name = "URL")]
    rpc: Vec<String>,
    /// URL of a node's eth_* server, or of any other Ethereum node; more than one may be named.
    #[arg(long, value_name = "URL")]
    eth_rpc: Vec<String>,
    /// A node's process on this machine, whose use of it is measured; more than one may be named.
    #[arg(long)]
    pid: Vec<u32>,
    /// File with the senders' secret keys in hex, one on a line; without it the accounts of development networks send.
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,
    /// How many accounts send, where no file names them.
    #[arg(long, default_value_t = 200)]
    senders: u32,
    /// What is sent.
    #[arg(long, value_enum, default_value = "send")]
    kind: Kind,
    /// Transactions a second, or `closed:N` for as fast as N unsettled ones allow.
    #[arg(long, default_value = "500", value_parser = pace)]
    rate: Pace,
    /// Find the knee instead: try rates, each for `--seconds`, up to the highest at which all are taken and 99 of 100
    /// settle within two seconds.
    #[arg(long, conflicts_with = "rate")]
    sweep: bool,
    /// With --sweep, where a picture of how soon transactions settle at each rate goes.
    #[arg(long, value_name = "FILE.svg", requires = "sweep")]
    plot: Option<PathBuf>,
    /// For how many seconds; the first five are not counted.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Transactions in one call.
    #[arg(long, default_value_t = 10)]
    batch: usize,
    /// Connections to each node.
    #[arg(long, default_value_t = 2)]
    connections: usize,
    /// How many different accounts receive.
    #[arg(long, default_value_t = 100_000)]
    accounts: u64,
    /// Who receives follows from this.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

fn pace(text: &str) -> Result<Pace, String> {
    let number = |text: &str| text.parse::<f64>().ok().filter(|number| *number > 0.0 && number.is_finite());
    match text.strip_prefix("closed:") {
        Some(count) => number(count).map(|count| Pace::Closed(count as usize)),
        None => number(text).map(Pace::Rate),
    }
    .ok_or_else(|| "a number above 0, or closed: and a number".to_owned())
}

/// Keys of a file, one on a line; empty lines count for nothing.
fn keys(path: &std::path::Path) -> Result<Vec<SecretKey>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let lines = text.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty());
    let key = |line: &str| {
        let bytes: [u8; 32] = hex::decode(line.trim_start_matches("0x")).ok()?.try_into().ok()?;
        SecretKey::from_bytes(&bytes).ok()
    };
    // The line itself is secret.
    lines
        .map(|(number, line)| {
            key(line).with_context(|| format!("{}:{}: no secret key", path.display(), number + 1))
        })
        .collect()
}

pub(super) async fn run(args: Args) -> Result<()> {
    let senders = match &args.keys {
        Some(path) => keys(path)?,
        None => (0..args.senders)
            .map(|index| Ok(hd::derive(TEST_MNEMONIC, HdPath::Ethereum(index))?))
            .collect::<Result<_>>()?,
    };
    let mut target =
        Target { theta: args.rpc.clone(), ethereum: args.eth_rpc.clone(), pids: args.pid.clone() };
    let scratch = args.data_dir.is_none().then(|| Scratch::new("load"));
    let network = match args.spawn {
        None => {
            ensure!(
                !target.theta.is_empty() || !target.ethereum.is_empty(),
                "name a network: --rpc, --eth-rpc, or --spawn for one of your own"
            );
            None
        }
        Some(validators) => {
            ensure!(args.keys.is_none(), "a spawned network knows its own accounts; leave --keys out");
            let data_dir = args.data_dir.clone().or(scratch.as_ref().map(|scratch| scratch.0.clone()));
            let config = DevnetConfig {
                spec: ChainSpec::devnet(),
                validators,
                guardians: args.guardians.min(validators),
                accounts: args.senders,
                mnemonic: TEST_MNEMONIC.to_owned(),
                data_dir: data_dir.unwrap_or_default(),
                rpc_port: 0,
                eth_rpc_port: 0,
                block_interval_ms: 1000,
                vm: contracts(),
            };
            eprintln!("starting {validators} validators");
            let network = Processes::start(config, "devnet", &std::env::current_exe()?).await?;
            let ready = network.ready_line();
            for node in ready["nodes"].as_array().into_iter().flatten() {
                let text = |key: &str| node[key].as_str().unwrap_or_default().to_owned();
                target.theta.push(text("thetaRpc"));
                target.ethereum.push(text("ethRpc"));
                target.pids.extend(node["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()));
            }
            Some(network)
        }
    };
    let plan = Plan {
        kind: args.kind,
        pace: args.rate,
        seconds: args.seconds,
        batch: args.batch,
        connections: args.connections,
        senders,
        receivers: args.accounts,
        seed: args.seed,
    };
    let run = async {
        let say = |line: &str| eprintln!("{line}");
        Ok::<_, anyhow::Error>(if args.sweep {
            Done::Sweep(load::sweep(&target, &plan, say).await?)
        } else {
            Done::Run(Box::new(load::run(&target, &plan, say).await?))
        })
    };
    let done = tokio::select! {
        done = run => done,
        result = interrupted() => result.and_then(|()| bail!("stopped before the end")),
    };
    if let Some(network) = network {
        network.stop().await?;
    }
    let report = match done? {
        Done::Run(report) => report,
        Done::Sweep(sweep) => {
            if let Some(path) = &args.plot {
                sweep.plot(path)?;
            }
            if args.json {
                say!("{}", serde_json::to_string(&sweep)?)?;
            } else {
                print_sweep(&sweep)?;
            }
            ensure!(sweep.knee.is_some(), "the network carries no rate at all");
            return Ok(());
        }
    };
    if args.json {
        say!("{}", serde_json::to_string(&report)?)?;
    } else {
        print(&report)?;
    }
    ensure!(report.wrong.is_empty(), "the run does not count: {}", report.wrong.join("; "));
    Ok(())
}

enum Done {
    Run(Box<Report>),
    Sweep(Sweep),
}

fn print_sweep(sweep: &Sweep) -> std::io::Result<()> {
    let mut table = Table::new();
    table.set_header([
        "a second",
        "settled a second",
        "p50",
        "p95",
        "p99",
        "longest",
        "refused, dropped",
        "carried",
    ]);
    for Step { rate, carried, report } in &sweep.runs {
        let latency = &report.latency_ms;
        let ms = |value: f64| format!("{value:.0} ms");
        let lost: usize = report.refused.values().chain(report.dropped.values()).sum();
        table.add_row([
            format!("{rate:.0}"),
            format!("{:.0}", report.settled_rate),
            ms(latency.p50),
            ms(latency.p95),
            ms(latency.p99),
            ms(latency.max),
            lost.to_string(),
            if *carried { "yes" } else { "no" }.to_owned(),
        ]);
    }
    say!("{table}")?;
    match sweep.knee {
        Some(knee) => say!("The knee is at {knee:.0} transactions a second."),
        None => Ok(()),
    }
}

fn print(report: &Report) -> std::io::Result<()> {
    let mut table = Table::new();
    table.set_header(["what", "value"]);
    let latency = &report.latency_ms;
    let mut rows = vec![
        ("offered", format!("{} ({:.0} a second)", report.offered, report.offered_rate)),
        ("accepted", report.accepted.to_string()),
        ("settled", format!("{} ({:.0} a second)", report.settled, report.settled_rate)),
        ("settled after, p50 / p95 / p99 / max", {
            format!("{:.0} / {:.0} / {:.0} / {:.0} ms", latency.p50, latency.p95, latency.p99, latency.max)
        }),
        ("blocks with transactions", report.blocks.to_string()),
    ];
    if let Some(cpu) = report.cpu_micros_per_transaction {
        rows.push(("processor time for each, all nodes", format!("{cpu:.0} µs")));
    }
    if let Some(written) = report.written_bytes_per_transaction {
        rows.push(("written to disk for each, all nodes", format!("{written:.0} B")));
    }
    if let Some((before, after)) = report.memory_bytes {
        rows.push(("memory, all nodes", format!("{} → {} MiB", before >> 20, after >> 20)));
    }
    rows.push(("load average", format!("{:.2}", report.load_average)));
    for (text, count) in &report.refused {
        rows.push(("refused", format!("{count}: {text}")));
    }
    for (text, count) in &report.dropped {
        rows.push(("dropped", format!("{count}: {text}")));
    }
    for (what, value) in rows {
        table.add_row([what, &value]);
    }
    if let Some(column) = table.column_mut(1) {
        column.set_cell_alignment(CellAlignment::Left);
    }
    say!("{table}")
}
