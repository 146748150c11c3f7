//! `theta genesis`.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::Subcommand;
use comfy_table::Table;
use theta_core::hash::Hash;
use theta_ledger::{
    genesis::{Genesis, GenesisBuilder, GenesisSummary, check_validator_keys},
    snapshot,
};

use super::{
    devnet::Scratch,
    input,
    work::{self, Watch},
};
use crate::folder::DataFolder;

const BUILD_HELP: &str = "Example:
  theta genesis build mynet.toml -o mynet.genesis

The file is a chain-spec file (see `theta spec show --help`) with a section genesis:

  base = \"privatenet\"
  [genesis]
  timestamp = 1700000000                 # seconds since 1970
  [[genesis.accounts]]
  address = \"0x2e833968e5bb786ae419c4d13189fb081cc43bab\"
  theta = \"12500000\"                     # whole tokens, or an integer with the suffix wei
  tfuel = \"62500000.5\"
  [[genesis.validators]]
  holder = \"0x2e833968e5bb786ae419c4d13189fb081cc43bab\"
  stake = \"2000000\"                      # THETA, besides what the account has
  # source = \"0x…\"                       # whose stake it is; the holder's own when missing
  # bls_key = \"0x…\"                      # on chains whose validators have BLS keys (base devnet)
  # bls_proof = \"0x…\"";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Read a genesis file or a snapshot, verify all of it, and say what it holds.
    #[command(
        after_help = "Example:\n  theta genesis inspect mainnet.genesis --json\n  theta genesis inspect 450.snapshot --genesis privatenet.genesis"
    )]
    Inspect {
        /// The file.
        file: PathBuf,
        /// Hash that the file's block has to have; the main network's genesis is built in.
        #[arg(long)]
        hash: Option<Hash>,
        /// Genesis file that a snapshot of version 2 or 3 is proven from; without it a snapshot vouches for itself.
        #[arg(long, env = "THETA_GENESIS", value_name = "FILE")]
        genesis: Option<PathBuf>,
        /// Print one JSON value.
        #[arg(long)]
        json: bool,
    },
    /// Write a genesis file from a description: chain, time, accounts, validators.
    #[command(after_help = BUILD_HELP)]
    Build {
        /// The description.
        #[arg(value_name = "SPEC.toml")]
        spec: PathBuf,
        /// The genesis file.
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
        /// Print one JSON value.
        #[arg(long)]
        json: bool,
    },
}

/// What a file is and what vouches for it.
struct Inspected {
    summary: GenesisSummary,
    proof: &'static str,
}

pub(super) async fn run(command: Command) -> Result<()> {
    let (file, json, inspected) = match command {
        Command::Inspect { file, hash, genesis, json } => {
            let path = file.clone();
            let work = work::long(move |watch| {
                inspect(watch, &path, hash, genesis.as_deref()).with_context(|| path.display().to_string())
            });
            (file, json, work.await?)
        }
        Command::Build { spec, output, json } => {
            let path = output.clone();
            let summary = work::long(move |watch| build(watch, &spec, &path)).await?;
            (output, json, Inspected { summary, proof: "written, every entry verified against the header" })
        }
    };
    let Inspected { summary, proof } = inspected;
    if json {
        say!("{}", serde_json::to_string(&summary)?)?;
        return Ok(());
    }
    say!("{} (version {}), {proof}", file.display(), summary.version)?;
    say!("  chain          {}", summary.chain_id)?;
    say!("  height         {}", summary.height)?;
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

fn inspect(watch: &Watch, file: &Path, hash: Option<Hash>, genesis: Option<&Path>) -> Result<Inspected> {
    let version = snapshot::version(watch.open(file)?)?;
    if version == 1 {
        let mut bytes = Vec::new();
        watch.open(file)?.read_to_end(&mut bytes)?;
        let summary = Genesis::read(&bytes, hash)?.summary();
        return Ok(Inspected { summary, proof: "every entry verified against the header" });
    }
    let genesis = genesis.map(|path| input::genesis(watch, path)).transpose()?;
    let scratch = Scratch::new("inspect");
    let store = DataFolder::new(&scratch.0).store()?;
    let proof = match (version, &genesis) {
        (2 | 3, Some(_)) => "its block proven from the genesis, every entry verified against the header",
        _ => "every entry verified against the header; nothing proves the header, so compare the block hash",
    };
    // Version 4 proves nothing from a genesis on.
    let genesis = genesis.as_ref().filter(|_| version < 4 || hash.is_some());
    let summary = snapshot::inspect(watch.open(file)?, genesis, hash, &store)?;
    Ok(Inspected { summary, proof })
}

fn build(watch: &Watch, description: &Path, output: &Path) -> Result<GenesisSummary> {
    let name = || description.display().to_string();
    let (spec, genesis) = input::spec_file(description)?;
    let file = genesis.with_context(|| format!("{} has no section [genesis]", name()))?;
    let genesis = GenesisBuilder::from_file(&spec, &file).with_context(name)?.build();
    check_validator_keys(&genesis, &spec).with_context(name)?;
    let bytes = genesis.write();
    // What cannot be read again is not written.
    let summary = Genesis::read(&bytes, None).with_context(name)?.summary();
    watch.write(output, |out| Ok(out.write_all(&bytes)?))?;
    Ok(summary)
}
