//! `theta`: the node on the command line.
//!
//! Results go to stdout, with `--json` as JSON; progress and errors go to stderr. Exit status: 0 success, 1 the work
//! failed, 2 wrong usage.

/// Prints a line. Whoever reads may stop reading, which ends the program quietly instead of by a panic.
macro_rules! say {
    ($($arg:tt)*) => {
        std::io::Write::write_fmt(&mut std::io::stdout(), format_args!("{}\n", format_args!($($arg)*)))
    };
}

mod chain;
mod content;
mod demo;
mod devnet;
mod edge;
mod genesis;
mod input;
mod job;
mod load;
mod replay;
mod sim;
mod snapshot;
mod spec;
mod start;
mod statetest;
mod work;

use std::{process::ExitCode, sync::Arc};

use anyhow::Context as _;

use clap::{Parser, Subcommand};
use theta_edge::executor::Engines;
use theta_edge_media::Media;
use theta_edge_wasm::Wasm;

/// Theta networks: nodes, development networks, edge work.
#[derive(Debug, Parser)]
#[command(
    name = "theta",
    version,
    after_help = "Example:\n  theta devnet                               a network with funded accounts\n  theta demo                                 the main job from end to end\n  theta job run count.json --out result      a job on edge nodes\n  theta content publish clip.mp4             a clip that edge nodes encode and deliver\n  theta genesis inspect mainnet.genesis      verify a genesis file\n  theta replay diff_ledger.jsonl             compare with a recording of the reference"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a whole network in this process and keep it running.
    #[command(after_help = "Example:\n  theta devnet --data-dir net --json")]
    Devnet(devnet::Args),
    /// Make the data folder of a node: its configuration, its key, the network's genesis.
    #[command(
        after_help = "Example:\n  THETA_PASSWORD=secret theta init --chain devnet --genesis genesis --data-dir node --peer /ip4/10.0.0.1/tcp/50001/p2p/16Uiu2…"
    )]
    Init(start::InitArgs),
    /// Start a node and keep it running.
    #[command(after_help = "Example:\n  THETA_PASSWORD=secret theta start --config node/config.toml")]
    Start(start::StartArgs),
    /// Run the main job from end to end on a fresh network, and show what it did.
    #[command(after_help = "Example:\n  theta demo")]
    Demo(demo::Args),
    /// Read, verify, describe and write genesis files; describe snapshots.
    #[command(subcommand)]
    Genesis(genesis::Command),
    /// State at a settled height in a file of the reference's format.
    #[command(subcommand)]
    Snapshot(snapshot::Command),
    /// Blocks in a file of the reference's format: write, take, verify.
    #[command(subcommand)]
    Chain(chain::Command),
    /// Carry recordings of the reference out again and compare every result, receipt and state root.
    ///
    /// Prints the first place of each sequence that differs, with both values. Recorded blocks bring their fork heights,
    /// and their votes are checked too.
    #[command(
        after_help = "Example:\n  theta replay diff_ledger.jsonl.gz diff_evm.jsonl.gz\n  theta replay blocks_privatenet.json --genesis privatenet.genesis --json"
    )]
    Replay(replay::Args),
    /// Edge nodes: run other people's jobs and be paid for it.
    #[command(subcommand)]
    Edge(edge::Command),
    /// Jobs on edge nodes: submit, watch, fetch the result.
    #[command(subcommand)]
    Job(job::Command),
    /// Video on edge nodes: publish a clip, see what is published.
    #[command(subcommand)]
    Content(content::Command),
    /// Load a network through its RPC: how much it settles, how soon, and what that costs.
    ///
    /// Every transaction that a node took has to be settled or reported as dropped at the end, all nodes have to hold the
    /// same state, and each sender what it did not spend; otherwise the run fails.
    #[command(
        after_help = "Example:\n  theta load --spawn 4 --rate 1000 --seconds 60\n  theta load --spawn 4 --rate closed:4000 --json\n  theta load --eth-rpc http://127.0.0.1:8545 --rate 500      any Ethereum node"
    )]
    Load(load::Args),
    /// Fleets and markets in virtual time, by the code that runs in earnest.
    #[command(subcommand)]
    Sim(sim::Command),
    /// The rules of chains.
    #[command(subcommand)]
    Spec(spec::Command),
    /// Run Ethereum's state tests and count what passed, failed and was skipped, by reason.
    #[command(
        after_help = "Example:\n  theta statetest tests/GeneralStateTests\n  theta statetest --rules theta legacytests/Constantinople/GeneralStateTests --json"
    )]
    Statetest(statetest::Args),
}

/// Files and connections at once, of those that the system allows.
const MOST_FILES: u64 = 65_536;

/// A listener alone takes more connections than the 1,024 files that a process has at first on most systems.
fn allow_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(MOST_FILES).min(MOST_FILES);
    if limit.current.is_some_and(|current| current < most) {
        // Where that is not allowed the process goes on with what it has.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum: limit.maximum });
    }
}

/// Runs the program with the process's arguments.
pub fn main() -> ExitCode {
    allow_files();
    let cli = Cli::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("THETA_LOG").unwrap_or_else(|_| {
        tracing_subscriber::EnvFilter::new("warn,libp2p_gossipsub=error,libp2p_kad=error")
    });
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async {
        match cli.command {
            Command::Devnet(args) => devnet::run(args).await,
            Command::Init(args) => start::init(args),
            Command::Start(args) => start::start(args).await,
            Command::Demo(args) => demo::run(args).await,
            Command::Genesis(command) => genesis::run(command).await,
            Command::Snapshot(command) => snapshot::run(command).await,
            Command::Chain(command) => chain::run(command).await,
            Command::Replay(args) => replay::run(args).await,
            Command::Edge(command) => edge::run(command).await,
            Command::Job(command) => job::run(command).await,
            Command::Content(command) => content::run(command).await,
            Command::Load(args) => load::run(args).await,
            Command::Spec(command) => spec::run(command),
            Command::Statetest(args) => statetest::run(args).await,
            Command::Sim(command) => sim::run(command).await,
        }
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error)
            if error
                .downcast_ref()
                .is_some_and(|error: &std::io::Error| error.kind() == std::io::ErrorKind::BrokenPipe) =>
        {
            ExitCode::SUCCESS
        }
        // What there is to say is said.
        Err(error) if error.is::<job::Failed>() => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Who runs contracts.
fn contracts() -> Arc<dyn theta_ledger::vm::ContractVm> {
    Arc::new(theta_evm::Evm)
}

/// Ctrl-C, or the signal by which a supervisor stops a service, from this call on; what is given back waits for it.
fn interruption() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// Waits for [`interruption`].
async fn interrupted() -> anyhow::Result<()> {
    interruption()?.await;
    Ok(())
}

/// All kinds of work that this machine can do, each in children of this program.
fn engines() -> anyhow::Result<Engines> {
    let wasm = Wasm::current_exe().context("this program cannot find itself")?;
    let engines = Engines::of(Arc::new(wasm));
    Ok(match Media::find() {
        Ok(media) => engines.with(Arc::new(media)),
        Err(error) => {
            tracing::warn!("no video work is offered: {error}");
            engines
        }
    })
}
