//! `theta devnet`.

use std::path::PathBuf;

use anyhow::{Result, bail};
use serde_json::Value;

use super::{contracts, input, interruption};
use crate::{
    devnet::{DevAccount, Devnet, DevnetConfig, TEST_MNEMONIC},
    edge::{EdgeHosts, HostsConfig},
    processes::Processes,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Number of validators.
    #[arg(long, env = "THETA_VALIDATORS", default_value_t = 4)]
    validators: usize,
    /// How many of the validators' nodes are guardians, too: their votes make checkpoints final. All up to four, when missing.
    #[arg(long, env = "THETA_GUARDIANS")]
    guardians: Option<usize>,
    /// Which rules: devnet has every improvement on and blocks follow transactions at once; theta is exactly the main
    /// network's newest rules and blocks follow the interval; a chain-spec file (see `theta spec show --help`) is any other.
    #[arg(long, env = "THETA_CHAIN", value_name = "CHAIN", default_value = "devnet")]
    chain: String,
    /// Where the network is kept, and gone on with after a stop; a temporary folder when missing.
    #[arg(long, env = "THETA_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Port of theta.* calls, 0 for a free one.
    #[arg(long, env = "THETA_RPC_PORT", default_value_t = 16888)]
    rpc_port: u16,
    /// Port of eth_* calls, 0 for a free one.
    #[arg(long, env = "THETA_ETH_RPC_PORT", default_value_t = 18888)]
    eth_rpc_port: u16,
    /// Number of accounts with coins.
    #[arg(long, env = "THETA_ACCOUNTS", default_value_t = 10)]
    accounts: u32,
    /// Phrase of the accounts; the one of every example is known to everybody.
    #[arg(long, env = "THETA_MNEMONIC", default_value = TEST_MNEMONIC, hide_env_values = true)]
    mnemonic: String,
    /// Milliseconds between blocks when there is nothing to do.
    #[arg(long, env = "THETA_BLOCK_INTERVAL_MS", default_value_t = 1000)]
    block_interval_ms: u64,
    /// Run every node as a process of its own, over libp2p on loopback.
    #[arg(long, env = "THETA_PROCESSES")]
    processes: bool,
    /// Number of edge nodes, which run jobs that the gateway takes.
    #[arg(long, env = "THETA_EDGE_NODES", default_value_t = 2)]
    edge_nodes: usize,
    /// Number of machines of a provider pool, to which jobs with a `spill` budget go when the edge is too busy.
    #[arg(long, env = "THETA_POOL_MACHINES", default_value_t = 0)]
    pool_machines: usize,
    /// Port of the gateway to edge nodes, 0 for a free one.
    #[arg(long, env = "THETA_GATEWAY_PORT", default_value_t = 8800)]
    gateway_port: u16,
    /// Neither edge nodes nor gateway.
    #[arg(long, env = "THETA_NO_EDGE")]
    no_edge: bool,
    /// Print the ready line as JSON.
    #[arg(long)]
    json: bool,
}

/// A folder that is gone when the program ends in order.
pub(super) struct Scratch(pub(super) PathBuf);

impl Scratch {
    pub(super) fn new(what: &str) -> Self {
        let name = format!("theta-{what}-{}-{}", std::process::id(), crate::clock::now_millis());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing depends on it any more; a leftover is only untidy.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(super) async fn run(args: Args) -> Result<()> {
    let scratch = args.data_dir.is_none().then(|| Scratch::new("devnet"));
    let data_dir = args.data_dir.clone().or(scratch.as_ref().map(|scratch| scratch.0.clone()));
    let edge = Edge {
        mnemonic: args.mnemonic.clone(),
        data_dir: data_dir.clone().unwrap_or_default(),
        nodes: args.edge_nodes,
        machines: args.pool_machines,
        port: args.gateway_port,
        off: args.no_edge,
    };
    let config = DevnetConfig {
        spec: input::chain(&args.chain)?,
        validators: args.validators,
        guardians: args.guardians.unwrap_or(args.validators.min(4)),
        accounts: args.accounts,
        mnemonic: args.mnemonic,
        data_dir: data_dir.unwrap_or_default(),
        rpc_port: args.rpc_port,
        eth_rpc_port: args.eth_rpc_port,
        block_interval_ms: args.block_interval_ms,
        vm: contracts(),
    };
    if args.processes {
        return run_processes(config, &args.chain, args.json, edge).await;
    }
    let devnet = Devnet::start(config).await?;
    devnet.first_block().await?;
    let mut ready = devnet.ready_line();
    let _edge = edge.start(&mut ready, None).await?;
    // Who reads that it is ready may stop it at once.
    let stop = interruption()?;
    if args.json {
        say!("{ready}")?;
    } else {
        print_ready(&ready, &devnet.accounts)?;
    }
    tokio::select! {
        () = stop => {}
        reason = devnet.failure() => bail!(reason),
    }
    eprintln!("stopping");
    Ok(())
}

/// What the arguments say of the edge part.
struct Edge {
    mnemonic: String,
    data_dir: PathBuf,
    nodes: usize,
    machines: usize,
    port: u16,
    off: bool,
}

impl Edge {
    /// Starts it beside the network of a ready line, and adds it to that.
    async fn start(self, ready: &mut Value, program: Option<PathBuf>) -> Result<Option<EdgeHosts>> {
        if self.off {
            return Ok(None);
        }
        let nodes = ready["nodes"].as_array().into_iter().flatten();
        let rpc = nodes.filter_map(|node| Some(node["thetaRpc"].as_str()?.to_owned())).collect();
        let hosts = EdgeHosts::start(HostsConfig {
            chain: ready["chain"].as_str().unwrap_or_default().to_owned(),
            mnemonic: self.mnemonic,
            data_dir: self.data_dir,
            edge_nodes: self.nodes,
            pool_machines: self.machines,
            gateway_port: self.port,
            rpc,
            engines: super::engines()?,
            program,
        })
        .await?;
        hosts.add_to(ready);
        Ok(Some(hosts))
    }
}

async fn run_processes(config: DevnetConfig, chain: &str, json: bool, edge: Edge) -> Result<()> {
    let chain = super::start::chain_anywhere(chain)?;
    let program = std::env::current_exe()?;
    let network = Processes::start(config, &chain, &program).await?;
    let mut ready = network.ready_line();
    let edge = edge.start(&mut ready, Some(program)).await?;
    let stop = interruption()?;
    if json {
        say!("{ready}")?;
    } else {
        print_ready(&ready, network.accounts())?;
    }
    stop.await;
    eprintln!("stopping");
    if let Some(edge) = edge {
        edge.stop().await?;
    }
    network.stop().await
}

fn print_ready(ready: &Value, accounts: &[DevAccount]) -> std::io::Result<()> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let count = ready["nodes"].as_array().map_or(0, Vec::len);
    say!("A network of {count} validators is running. Ctrl-C stops it.\n")?;
    say!("  theta.*   {}", text(&ready["thetaRpc"]))?;
    say!("  eth_*     {}   (chain id {})", text(&ready["ethRpc"]), ready["ethChainId"])?;
    if let Some(gateway) = ready["gateway"].as_str() {
        let nodes = ready["edgeNodes"].as_array().map_or(0, Vec::len);
        say!("  gateway   {gateway}   (jobs on {nodes} edge nodes; see `theta job --help`)")?;
    }
    say!("")?;
    say!("Accounts, each with 100,000,000 THETA and 1,000,000,000 TFUEL. Everybody knows these keys.")?;
    for account in accounts {
        let key = hex::encode(*account.key.to_bytes());
        say!("  {}  0x{key}", account.key.address().to_checksum(None))?;
    }
    Ok(())
}
