//! The edge part of a development network: a gateway and edge nodes, in this process or in processes of their own.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use theta_core::amount::TFuelWei;
use theta_edge::{executor::Engines, identity::NodeId, placement::Pool};
use theta_sdk::{client::Client, keystore::Effort};

use super::{
    Directory, EdgeNode, Funds, JobClient, JobClientConfig, ProviderPool,
    config::{self, EdgeFile},
};
use crate::{
    config::FILE,
    devnet::role_key,
    processes::{PASSWORD, Process, port},
};

/// What an hour of a core of the pool costs, in millionths of a TFUEL.
const POOL_PRICE: u32 = 100_000_000;
/// Folder of the models that every edge node has: a small one, and what is put there beside it.
const MODELS: &str = "models";
/// Price of a token, in whole TFUEL: dear enough that a short answer is worth a settlement.
const TOKEN_PRICE: &str = "0.01";
/// TFUEL of each fund of the gateway, in whole tokens, and how many blocks it lives.
const FUND: (u64, u64) = (1_000, 20_000);

/// What the edge part is made of.
pub struct HostsConfig {
    /// Chain id as text.
    pub chain: String,
    /// Phrase of the keys.
    pub mnemonic: String,
    /// Folder of the network.
    pub data_dir: PathBuf,
    /// How many edge nodes.
    pub edge_nodes: usize,
    /// How many machines of a provider pool, to which jobs with a `spill` budget go when the edge is too busy for their
    /// deadline or too dear.
    pub pool_machines: usize,
    /// Port of the gateway, 0 for a free one.
    pub gateway_port: u16,
    /// `theta.*` calls of the network's nodes; each edge node and the gateway has one of them.
    pub rpc: Vec<String>,
    /// Runs tasks in this process, and judges.
    pub engines: Engines,
    /// The program whose `theta edge start` the edge nodes are; without one they run in this process.
    pub program: Option<PathBuf>,
}

impl std::fmt::Debug for HostsConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostsConfig").field("edge_nodes", &self.edge_nodes).finish_non_exhaustive()
    }
}

#[derive(Debug)]
enum Host {
    Here(EdgeNode),
    Process(Box<Process>),
}

/// A running gateway and its edge nodes. Dropping it stops them.
#[derive(Debug)]
pub struct EdgeHosts {
    gateway: JobClient,
    nodes: Vec<Host>,
    files: Vec<PathBuf>,
    names: Vec<String>,
}

impl EdgeHosts {
    /// Makes the edge part, or goes on with the one in the folder.
    pub async fn start(config: HostsConfig) -> Result<Self> {
        ensure!(!config.rpc.is_empty(), "the edge part needs a node of the chain to ask");
        let rpc = |index: usize| config.rpc[index % config.rpc.len()].clone();
        let gateway = JobClient::start(JobClientConfig {
            chain: config.chain.clone(),
            key: role_key(&config.mnemonic, 3, 0)?,
            funds: Funds::Kept { size: TFuelWei::whole(FUND.0), blocks: FUND.1 },
            folder: config.data_dir.join("gateway"),
            client: Client::http(rpc(0))?,
            rpc: rpc(0),
            directory: Directory::default(),
            pools: pool(&config)?.into_iter().collect(),
            engines: config.engines.clone(),
            port: config.gateway_port,
            api: true,
        })
        .await
        .context("the gateway")?;
        let tiny = config.data_dir.join(MODELS).join(theta_edge_ai::tiny::NAME);
        tokio::task::spawn_blocking(move || theta_edge_ai::tiny::write(&tiny)).await??;
        let (mut nodes, mut files, mut names) = (Vec::new(), Vec::new(), Vec::new());
        for index in 0..config.edge_nodes + config.pool_machines {
            let name = name(&config, index);
            let path = std::path::absolute(config.data_dir.join(&name).join(FILE))?;
            configure(&config, index, &path, rpc(1 + index), gateway.url())?;
            names.push(name.clone());
            let node = match &config.program {
                Some(program) => {
                    let args = [
                        "edge".as_ref(),
                        "start".as_ref(),
                        "--json".as_ref(),
                        "--config".as_ref(),
                        path.as_os_str(),
                    ];
                    Host::Process(Box::new(Process::start(program, &args, name.clone(), path.clone()).await?))
                }
                None => {
                    let (file, folder) = EdgeFile::read(&path)?;
                    Host::Here(file.start(&folder, config.engines.clone()).await.context(name)?)
                }
            };
            nodes.push(node);
            files.push(path);
        }
        Ok(Self { gateway, nodes, files, names })
    }

    /// URL of the gateway.
    pub fn gateway_url(&self) -> String {
        self.gateway.url()
    }

    /// Adds what answers here to a network's ready line.
    pub fn add_to(&self, ready: &mut Value) {
        let rows = self.nodes.iter().zip(&self.files).enumerate().map(|(index, (node, file))| match node {
            Host::Here(node) => json!({
                "name": self.names[index], "address": node.id.0.to_checksum(None), "gateway": node.url(),
                "pid": std::process::id(), "config": file,
            }),
            Host::Process(process) => json!({
                "name": process.name, "address": process.ready["address"], "gateway": process.ready["gateway"],
                "pid": process.child.id(), "config": file,
            }),
        });
        ready["edgeNodes"] = rows.collect();
        ready["gateway"] = json!(self.gateway.url());
    }

    /// Tells processes to stop, and waits until all have.
    pub async fn stop(self) -> Result<()> {
        let processes = self.nodes.into_iter().filter_map(|node| match node {
            Host::Process(process) => Some(*process),
            Host::Here(_) => None,
        });
        crate::processes::stop(processes.collect()).await
    }
}

/// Edge nodes come first, then machines of the pool.
fn name(config: &HostsConfig, index: usize) -> String {
    match index.checked_sub(config.edge_nodes) {
        None => format!("edge-{index}"),
        Some(machine) => format!("pool-{machine}"),
    }
}

/// The pool of a development network: this machine once more, at a middling price.
fn pool(config: &HostsConfig) -> Result<Option<ProviderPool>> {
    let machines = config.edge_nodes..config.edge_nodes + config.pool_machines;
    let key = |index| anyhow::Ok(NodeId(role_key(&config.mnemonic, 2, index)?.address()));
    let machines = machines.map(key).collect::<Result<Vec<_>>>()?;
    let slots = u32::try_from(machines.len()).unwrap_or(u32::MAX).saturating_mul(64);
    let pool =
        Pool { name: "local".to_owned(), slots, price: POOL_PRICE, startup_ms: 500, speed: 100, tier: 3 };
    Ok((!machines.is_empty()).then_some(ProviderPool { pool, machines }))
}

/// Writes an edge node's configuration where there is none; where the chain node and the gateway are may have changed.
fn configure(config: &HostsConfig, index: usize, path: &Path, rpc: String, gateway: String) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new(""));
    if path.exists() {
        let (mut file, _) = EdgeFile::read(path)?;
        (file.rpc, file.gateways) = (rpc, vec![gateway]);
        crate::folder::write_durably(path, toml::to_string(&file)?.as_bytes())?;
        return Ok(());
    }
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    crate::folder::write_durably(&folder.join("password"), PASSWORD.as_bytes())?;
    let key = role_key(&config.mnemonic, 2, index)?;
    let free = port(0)?;
    config::init(folder, Some(key), PASSWORD, Effort::Light, |address| EdgeFile {
        password_file: Some("password".into()),
        port: free,
        settle_at_once: true,
        // Dear enough that a short clip is worth a settlement.
        content_price: Some("200".to_owned()),
        content_most: Some("1000".to_owned()),
        models: Some(Path::new("..").join(MODELS)),
        price_per_token: Some(TOKEN_PRICE.to_owned()),
        ..EdgeFile::new(config.chain.clone(), rpc, vec![gateway], address)
    })?;
    Ok(())
}
