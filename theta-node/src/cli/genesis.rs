//! `theta genesis`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Subcommand;
use comfy_table::Table;
use theta_core::hash::Hash;
use theta_ledger::genesis::Genesis;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Read a genesis file, verify all of it, and say what it holds.
    #[command(after_help = "Example:\n  theta genesis inspect mainnet.genesis --json")]
    Inspect {
        /// The file.
        file: PathBuf,
        /// Hash that the first block has to have; the main network's is built in.
        #[arg(long)]
        hash: Option<Hash>,
        /// Print one JSON value.
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(command: Command) -> Result<()> {
    let Command::Inspect { file, hash, json } = command;
    let bytes = std::fs::read(&file).with_context(|| file.display().to_string())?;
    let summary = Genesis::read(&bytes, hash).with_context(|| file.display().to_string())?.summary();
    if json {
        say!("{}", serde_json::to_string(&summary)?)?;
        return Ok(());
    }
    say!("{} (version {}), every entry verified against the header", file.display(), summary.version)?;
    say!("  chain          {}", summary.chain_id)?;
    say!("  block hash     {:?}", summary.block_hash)?;
    say!("  state root     {:?}", summary.state_root)?;
    say!("  timestamp      {}", summary.timestamp)?;
    say!("  records        {}", summary.records)?;
    say!("  accounts       {}", summary.accounts)?;
    say!("  THETA wei      {}", summary.theta_wei)?;
    say!("  TFUEL wei      {}", summary.tfuel_wei)?;
    say!("  staked wei     {}", summary.staked_theta_wei)?;
    let mut table = Table::new();
    table.set_header(["validator", "stake in wei"]);
    for validator in &summary.validators {
        table.add_row([validator.holder.to_checksum(None), validator.stake_theta_wei.to_string()]);
    }
    say!("{table}")?;
    Ok(())
}
