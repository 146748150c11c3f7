//! `theta snapshot`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Subcommand;
use serde_json::json;
use theta_core::hash::Hash;
use theta_ledger::snapshot::{self, Snapshot};

use super::{chain, input, work};
use crate::{folder::DataFolder, snapshots::checkpoint_below};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Write the state at a settled height of a stopped node's data folder.
    #[command(
        after_help = "Example:\n  theta snapshot export 450.snapshot --data-dir net/validator-0 --height 450 --version 3"
    )]
    Export {
        /// The snapshot.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// The node's data folder.
        #[arg(long, env = "THETA_DATA_DIR", value_name = "DIR")]
        data_dir: PathBuf,
        /// The height; the newest checkpoint that has the two blocks above it that prove it when missing. A node that begins at
        /// another height cannot judge the votes in the next checkpoint's header.
        #[arg(long)]
        height: Option<u64>,
        /// Version of the format. 2 and 3 prove their block from the genesis on, 4 has to be trusted.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(2..=4))]
        version: u64,
        /// Print one JSON value.
        #[arg(long)]
        json: bool,
    },
    /// Verify a snapshot and begin an empty data folder with it.
    ///
    /// When this is stopped, the folder holds no chain yet and the same command begins again.
    #[command(
        after_help = "Example:\n  theta snapshot import 450.snapshot --data-dir node --genesis privatenet.genesis\n  theta snapshot import v4.snapshot --data-dir node --genesis mainnet.genesis --trust 0x20b0…"
    )]
    Import {
        /// The snapshot.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// The data folder.
        #[arg(long, env = "THETA_DATA_DIR", value_name = "DIR")]
        data_dir: PathBuf,
        /// Genesis file of the chain; when missing, the one in the data folder.
        #[arg(long, env = "THETA_GENESIS", value_name = "FILE")]
        genesis: Option<PathBuf>,
        /// Hash that the snapshot's block has to have; version 4 needs it, since it proves nothing by itself.
        #[arg(long, value_name = "HASH")]
        trust: Option<Hash>,
        /// Print one JSON value.
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn run(command: Command) -> Result<()> {
    let (json, name, snapshot) = match command {
        Command::Export { file, data_dir, height, version, json } => {
            let name = file.display().to_string();
            let work = work::long(move |watch| {
                let reader = chain::reader(&DataFolder::new(&data_dir))?;
                let newest = reader.settled().header.height;
                let height = height.or_else(|| checkpoint_below(&reader, newest.saturating_sub(2)));
                let height = height.context("no checkpoint is settled yet")?;
                watch.write(&file, |mut out| {
                    snapshot::export(&reader, height, version, &mut out)
                        .with_context(|| format!("the newest settled block is {newest}"))
                })
            });
            (json, name, work.await?)
        }
        Command::Import { file, data_dir, genesis, trust, json } => {
            let name = file.display().to_string();
            let work = work::long(move |watch| {
                let folder = DataFolder::new(data_dir);
                let genesis = match genesis {
                    Some(path) => input::genesis(watch, &path)?,
                    None => folder.genesis()?,
                };
                let file_name = || file.display().to_string();
                let bytes = watch.open(&file)?;
                let snapshot =
                    snapshot::import(bytes, &genesis, trust, &folder.store()?).with_context(file_name)?;
                folder.keep_genesis(&genesis)?;
                Ok(snapshot)
            });
            (json, name, work.await?)
        }
    };
    print(&snapshot, &name, json)
}

fn print(snapshot: &Snapshot, name: &str, json: bool) -> Result<()> {
    let Snapshot { version, header, hash, records } = snapshot;
    if json {
        let value = json!({
            "file": name,
            "version": version,
            "chainId": header.chain,
            "height": header.height,
            "blockHash": hash,
            "stateRoot": header.state_root,
            "records": records,
        });
        say!("{value}")?;
        return Ok(());
    }
    say!("{name} (version {version}): the state after block {} of {}", header.height, header.chain)?;
    say!("  block hash     {hash:?}")?;
    say!("  state root     {:?}", header.state_root)?;
    say!("  records        {records}")?;
    Ok(())
}
