//! `theta init` and `theta start`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use theta_core::{bls::Suite, spec::ChainSpec};
use theta_ledger::genesis::Genesis;
use theta_sdk::keystore::Effort;

use super::{contracts, input, interruption};
use crate::{
    config::{self, Config, FILE, RunningNode, password_file, password_of_environment},
    folder::read_genesis,
    net::{Multiaddr, peer_id},
    vote_key::vote_key,
};

#[derive(Debug, clap::Args)]
pub(super) struct InitArgs {
    /// The chain: mainnet, theta, devnet, or a chain-spec file.
    #[arg(long, env = "THETA_CHAIN")]
    chain: String,
    /// The new folder.
    #[arg(long, env = "THETA_DATA_DIR")]
    data_dir: PathBuf,
    /// The network's genesis file; without it, copy that to the folder before the node starts.
    #[arg(long)]
    genesis: Option<PathBuf>,
    /// File whose first line is the password for the node's new key; without it the variable THETA_PASSWORD has it. The node
    /// reads the same file at every start.
    #[arg(long)]
    password_file: Option<PathBuf>,
    /// Where the node will listen for others.
    #[arg(long, value_name = "MULTIADDR", default_value = "/ip4/0.0.0.0/tcp/50001")]
    listen: Vec<Multiaddr>,
    /// A node to stay connected to, as `theta start` of that node prints it; more than one may be named.
    #[arg(long = "peer", value_name = "MULTIADDR")]
    peers: Vec<Multiaddr>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct StartArgs {
    /// The configuration file that `theta init` made.
    #[arg(long, env = "THETA_CONFIG")]
    config: PathBuf,
    /// Print the ready line as JSON.
    #[arg(long)]
    json: bool,
}

/// A chain as a configuration names it: a preset, or a file beside the configuration.
fn chain_of(name: &str, folder: &Path) -> Result<ChainSpec> {
    if let Some(spec) = ChainSpec::preset(name) {
        return Ok(spec);
    }
    let path = folder.join(name);
    match path.is_file() {
        true => Ok(input::spec_file(&path)?.0),
        false => input::chain(name),
    }
}

/// A chain as every folder finds it.
pub(super) fn chain_anywhere(name: &str) -> Result<String> {
    Ok(match ChainSpec::preset(name) {
        Some(_) => name.to_owned(),
        None => std::path::absolute(name)?.display().to_string(),
    })
}

pub(super) fn init(args: InitArgs) -> Result<()> {
    let spec = input::chain(&args.chain)?;
    let genesis = args.genesis.as_deref().map(read_genesis).transpose()?;
    if let Some(genesis) = &genesis {
        ensure!(
            genesis.header.chain == spec.chain,
            "the genesis is of chain {}, not {}",
            genesis.header.chain,
            spec.chain
        );
    }
    let password = match &args.password_file {
        Some(file) => password_file(file)?,
        None => password_of_environment()?,
    };
    let chain = chain_anywhere(&args.chain)?;
    let file = args.password_file.as_deref().map(std::path::absolute).transpose()?;
    let (made, key) = config::init(
        &args.data_dir,
        &chain,
        genesis.as_ref(),
        None,
        &password,
        Effort::Standard,
        |config| {
            config.password_file = file;
            config.listen = args.listen;
            config.peers = args.peers;
        },
    )?;
    let path = args.data_dir.join(FILE);
    // What a genesis has to say of a validator, where the chain's validators have such keys.
    let vote_key = vote_key(&key)?;
    let bls_key = format!("0x{}", hex::encode(vote_key.public_key().as_bytes()));
    let proof = vote_key.proof_of_possession(Suite::Rfc9380);
    let bls_proof = format!("0x{}", hex::encode(proof.as_bytes()));
    let (address, peer) = (made.address.to_checksum(None), peer_id(&key)?);
    if args.json {
        let line = serde_json::json!({
            "config": path,
            "address": address,
            "peerId": peer.to_string(),
            "genesisHash": genesis.as_ref().map(Genesis::hash),
            "blsKey": bls_key,
            "blsProof": bls_proof,
        });
        say!("{line}")?;
    } else {
        say!("Made {}.\n", args.data_dir.display())?;
        say!("  address    {address}")?;
        say!("  peer       {peer}")?;
        say!("  bls_key    {bls_key}")?;
        say!("  bls_proof  {bls_proof}\n")?;
        if genesis.is_none() {
            say!("Copy the network's genesis file to {}.", args.data_dir.join("genesis").display())?;
        }
        say!("Start it: theta start --config {}", path.display())?;
    }
    Ok(())
}

pub(super) async fn start(args: StartArgs) -> Result<()> {
    let (config, folder) = Config::read(&args.config)?;
    let spec = chain_of(&config.chain, &folder).with_context(|| args.config.display().to_string())?;
    let running = RunningNode::start(&config, &folder, spec, contracts()).await?;
    let ready = running.ready_line();
    let stop = interruption()?;
    if args.json {
        say!("{ready}")?;
    } else {
        let text = |key: &str| ready[key].as_str().unwrap_or_default().to_owned();
        say!("Node {} of chain {} is running. Ctrl-C stops it.\n", text("address"), text("chain"))?;
        for address in running.node.handle().addresses() {
            say!("  peers     {address}")?;
        }
        say!("  theta.*   {}", running.theta_url())?;
        say!("  eth_*     {}", running.eth_url())?;
    }
    tokio::select! {
        () = stop => {}
        reason = running.node.failed() => bail!(reason),
    }
    eprintln!("stopping");
    Ok(())
}
