//! `theta chain`.

use std::{
    io::BufRead,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};
use serde_json::json;
use theta_core::{hash::Hash, spec::ChainSpec, store::Store, workers::Cores};
use theta_ledger::{
    chain_file,
    follow::Follower,
    genesis::Genesis,
    ledger::{Ledger, LedgerReader},
    snapshot,
};

use super::{
    contracts,
    devnet::Scratch,
    input,
    work::{self, Watch},
};
use crate::{
    folder::DataFolder,
    intake::{Intake, IntakeError, Taken, take_chain_file, take_recording},
    judge::Consensus,
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Write settled blocks of a stopped node's data folder into a chain file.
    #[command(
        after_help = "Example:\n  theta chain export blocks.chain --data-dir net/validator-0 --first 1 --last 500"
    )]
    Export {
        /// The chain file.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// The node's data folder.
        #[arg(long, env = "THETA_DATA_DIR", value_name = "DIR")]
        data_dir: PathBuf,
        /// Lowest height.
        #[arg(long, default_value_t = 1)]
        first: u64,
        /// Highest height; the one below the newest settled block when missing, since its votes are in the block above.
        #[arg(long)]
        last: Option<u64>,
        /// Print one JSON value.
        #[arg(long)]
        json: bool,
    },
    /// Carry the blocks of a chain file or of a recording (blocks_*.json[.gz]) out into a data folder.
    ///
    /// Every block is checked as `theta chain verify` checks it. What was taken when this is stopped stays, and the same
    /// command goes on from there.
    #[command(
        after_help = "Example:\n  theta chain import blocks.chain --data-dir node --genesis privatenet.genesis\n  theta chain import 440-452.chain --data-dir node --genesis privatenet.genesis --snapshot 450.snapshot"
    )]
    Import {
        #[command(flatten)]
        source: Source,
        /// The data folder; made when there is none.
        #[arg(long, env = "THETA_DATA_DIR", value_name = "DIR")]
        data_dir: PathBuf,
    },
    /// Carry all blocks of a file out from the genesis or a snapshot; check hashes, votes and state roots; keep nothing.
    #[command(
        after_help = "Example:\n  theta chain verify blocks.chain --genesis mainnet.genesis\n  theta chain verify blocks.chain --genesis net.genesis --spec net.toml --json"
    )]
    Verify {
        #[command(flatten)]
        source: Source,
    },
}

/// Blocks and what they begin with.
#[derive(Debug, Args)]
pub(super) struct Source {
    /// A chain file, or recorded blocks: a name that ends in .json or .json.gz.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Genesis file of the chain; when missing, the one in the data folder.
    #[arg(long, env = "THETA_GENESIS", value_name = "FILE")]
    genesis: Option<PathBuf>,
    /// Snapshot to begin with.
    #[arg(long, value_name = "FILE")]
    snapshot: Option<PathBuf>,
    /// Hash of the snapshot's block, for version 4, which proves nothing by itself.
    #[arg(long, value_name = "HASH", requires = "snapshot")]
    trust: Option<Hash>,
    /// Fork heights: mainnet, privatenet, devnet, or a chain-spec file (see `theta spec show --help`). A recording states
    /// its own, else the genesis's chain has them.
    #[arg(long, alias = "chain", env = "THETA_SPEC", value_name = "SPEC")]
    spec: Option<String>,
    /// Print one JSON value.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(command: Command) -> Result<()> {
    match command {
        Command::Export { file, data_dir, first, last, json } => {
            export(file, data_dir, first, last, json).await
        }
        Command::Import { source, data_dir } => {
            let (json, file) = (source.json, source.file.display().to_string());
            let taken = work::long(move |watch| import(watch, &source, &DataFolder::new(data_dir))).await;
            if taken.is_err() && json {
                report(&taken, &file, json)?;
            }
            taken.and_then(|taken| report(&Ok(taken), &file, json))
        }
        Command::Verify { source } => {
            let (json, file) = (source.json, source.file.display().to_string());
            let taken = work::long(move |watch| verify(watch, &source)).await;
            if taken.is_err() && json {
                report(&taken, &file, json)?;
            }
            taken.and_then(|taken| report(&Ok(taken), &file, json))
        }
    }
}

/// Prints what was taken or why not.
fn report(taken: &Result<Taken>, file: &str, json: bool) -> Result<()> {
    match taken {
        Ok(taken) if json => {
            let mut value = serde_json::to_value(taken)?;
            value["ok"] = json!(true);
            say!("{value}")?;
        }
        Ok(taken) => {
            let (Some(first), Some(last)) = (taken.first, taken.last) else {
                say!("{file}: all {} blocks are known here, state root {:?}", taken.known, taken.state_root)?;
                return Ok(());
            };
            say!(
                "{file}: blocks {first} to {last} carried out, {} transactions; hashes, votes and state roots are right",
                taken.transactions
            )?;
            say!("  state root     {:?}", taken.state_root)?;
            if taken.known > 0 {
                say!("  known before   {} blocks", taken.known)?;
            }
            if taken.uncertified > 0 {
                say!(
                    "  left out       {} blocks at the end that lack votes of two thirds",
                    taken.uncertified
                )?;
            }
        }
        Err(error) => {
            let height = error.downcast_ref().and_then(IntakeError::height);
            say!("{}", json!({ "ok": false, "height": height, "why": format!("{error:#}") }))?;
        }
    }
    Ok(())
}

/// Reads a stopped node's chain, whichever rules it has.
pub(super) fn reader(folder: &DataFolder) -> Result<LedgerReader> {
    // Nothing is carried out, so no rule is asked for.
    let builder = Ledger::builder(ChainSpec::new("", [])).store(folder.existing_store()?);
    Ok(builder.reopen()?.reader())
}

async fn export(file: PathBuf, data_dir: PathBuf, first: u64, last: Option<u64>, json: bool) -> Result<()> {
    let name = file.display().to_string();
    let (blocks, last) = work::long(move |watch| {
        let reader = reader(&DataFolder::new(&data_dir))?;
        let newest = reader.settled().header.height;
        let last = last.unwrap_or(newest.saturating_sub(1));
        ensure!(first >= 1, "a chain file begins at height 1 or above; the genesis file holds height 0");
        ensure!(first <= last, "--first {first} is above --last {last}; the newest settled block is {newest}");
        ensure!(
            last < newest,
            "the newest settled block is {newest}; --last can be {} at most, since the votes for a block are in the one above",
            newest.saturating_sub(1)
        );
        let blocks =
            watch.write(&file, |mut out| Ok(chain_file::export(&reader, first, last, &mut out)?))?;
        Ok((blocks, last))
    })
    .await?;
    if json {
        say!("{}", json!({ "blocks": blocks, "first": first, "last": last, "file": name }))?;
    } else {
        say!("{name}: blocks {first} to {last}")?;
    }
    Ok(())
}

fn import(watch: &Watch, source: &Source, folder: &DataFolder) -> Result<Taken> {
    let genesis = match &source.genesis {
        Some(path) => input::genesis(watch, path)?,
        None => folder.genesis()?,
    };
    // Wrong names are found before anything is made.
    watch.plain(&source.file)?;
    if let Some(named) = &source.spec {
        input::chain_of(&genesis, Some(named), None)?;
    }
    let store = folder.store()?;
    let begun = Ledger::builder(ChainSpec::new("", [])).store(store.clone()).reopen().is_ok();
    if let (Some(path), false) = (&source.snapshot, begun) {
        snapshot::import(watch.open(path)?, &genesis, source.trust, &store)
            .with_context(|| path.display().to_string())?;
    }
    let taken = take(watch, source, &genesis, store)?;
    folder.keep_genesis(&genesis)?;
    Ok(taken)
}

fn verify(watch: &Watch, source: &Source) -> Result<Taken> {
    let path = source.genesis.as_ref().context("name the genesis file of the chain with --genesis")?;
    let genesis = input::genesis(watch, path)?;
    watch.plain(&source.file)?;
    let scratch = Scratch::new("verify");
    let store = DataFolder::new(&scratch.0).store()?;
    if let Some(path) = &source.snapshot {
        snapshot::import(watch.open(path)?, &genesis, source.trust, &store)
            .with_context(|| path.display().to_string())?;
    }
    let taken = take(watch, source, &genesis, store)?;
    let last = taken.last.unwrap_or_default();
    ensure!(
        taken.uncertified == 0,
        "block {} lacks votes of two thirds of the stake, beside it and in the blocks above",
        last + 1
    );
    Ok(taken)
}

fn take(watch: &Watch, source: &Source, genesis: &Genesis, store: Arc<dyn Store>) -> Result<Taken> {
    let named = source.spec.as_deref();
    let intake = |spec: ChainSpec| -> Result<Intake, IntakeError> {
        let ledger = Ledger::builder(spec)
            .store(store.clone())
            .contracts(contracts())
            .workers(Arc::new(Cores))
            .open(genesis)?;
        let watch = watch.clone();
        Ok(Intake::new(Follower::new(ledger).judged_by(Arc::new(Consensus)), move |height| {
            watch.at(|| format!("height {height}"))
        }))
    };
    let taken = if is_recording(watch, &source.file)? {
        let named = named.map(|named| input::chain_of(genesis, Some(named), None)).transpose()?;
        take_recording(watch.open(&source.file)?, |stated, network| {
            network.check_genesis(genesis)?;
            intake(named.unwrap_or(stated))
        })
    } else {
        take_chain_file(watch.plain(&source.file)?, intake(input::chain_of(genesis, named, None)?)?)
    };
    // The text holds its causes, which are not shown again.
    taken.map_err(Into::into)
}

fn is_recording(watch: &Watch, path: &Path) -> Result<bool> {
    let ends = |end| path.extension().is_some_and(|extension| extension == end);
    Ok(ends("gz") || ends("json") || watch.plain(path)?.fill_buf()?.starts_with(b"{\""))
}
