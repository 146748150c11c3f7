//! A whole network from nothing: a genesis, N nodes that find each other, and their RPC servers.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use theta_core::{
    amount::{Coins, TFuelWei, ThetaWei},
    hash::Address,
    sign::SecretKey,
    spec::ChainSpec,
};
use theta_ledger::{
    genesis::{Genesis, GenesisBuilder, check_validator_keys},
    state::Keep,
    vm::ContractVm,
};
use theta_sdk::hd::{self, Path as HdPath};

use crate::{
    clock::now_millis,
    config::settings,
    connections::{Listener, listen},
    http::{ethereum_routes, theta_routes},
    net::Multiaddr,
    node::{Node, NodeConfig, NodeHandle},
    rpc::{eth::EthApi, theta::ThetaApi},
    vote_key::vote_key,
};

/// The phrase of every example; its keys are known to everybody.
pub const TEST_MNEMONIC: &str = "test test test test test test test test test test test junk";
/// THETA and TFUEL of each account, in whole tokens.
const RICH: (u64, u64) = (100_000_000, 1_000_000_000);
/// TFUEL of the gateway to edge nodes, in whole tokens.
const GATEWAY: u64 = 1_000_000;
/// THETA behind each validator, in whole tokens.
const VALIDATOR_STAKE: u64 = 10_000_000;
/// THETA behind each guardian, in whole tokens.
const GUARDIAN_STAKE: u64 = 1_000_000;

/// What a devnet is made of.
#[derive(Clone)]
pub struct DevnetConfig {
    /// The chain.
    pub spec: ChainSpec,
    /// How many validators, 1 to 31.
    pub validators: usize,
    /// How many of them are guardians, too: stakes stand behind their nodes as such.
    pub guardians: usize,
    /// How many funded accounts.
    pub accounts: u32,
    /// Phrase of the accounts, on Ethereum's path, and of the validators.
    pub mnemonic: String,
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// Port of the first validator's `theta.*` server, 0 for a free one. The others take free ones.
    pub rpc_port: u16,
    /// Port of the first validator's `eth_*` server, 0 for a free one.
    pub eth_rpc_port: u16,
    /// Milliseconds between blocks when there is nothing to do.
    pub block_interval_ms: u64,
    /// Who runs contracts.
    pub vm: Arc<dyn ContractVm>,
}

impl std::fmt::Debug for DevnetConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DevnetConfig")
            .field("validators", &self.validators)
            .field("data_dir", &self.data_dir)
            .finish_non_exhaustive()
    }
}

/// A funded account.
#[derive(Clone, Debug)]
pub struct DevAccount {
    /// Its key.
    pub key: SecretKey,
    /// What genesis gave it.
    pub coins: Coins,
}

/// One node and where it listens.
#[derive(Debug)]
pub struct DevNode {
    /// Name and folder.
    pub name: String,
    /// The node.
    pub node: Node,
    /// Its `theta.*` server.
    pub theta: Listener,
    /// Its `eth_*` server.
    pub eth: Listener,
}

impl DevNode {
    /// URL of the `theta.*` server.
    pub fn theta_url(&self) -> String {
        format!("http://{}/rpc", self.theta.address)
    }

    /// URL of the `eth_*` server.
    pub fn eth_url(&self) -> String {
        format!("http://{}", self.eth.address)
    }
}

/// A running network. Dropping it stops it.
#[derive(Debug)]
pub struct Devnet {
    /// The nodes.
    pub nodes: Vec<DevNode>,
    /// Accounts with coins.
    pub accounts: Vec<DevAccount>,
    /// The first block.
    pub genesis: Arc<Genesis>,
    spec: ChainSpec,
    data_dir: PathBuf,
}

/// A key of the devnet: `role` 1 is validators, 2 edge nodes, 3 the gateway.
pub fn role_key(mnemonic: &str, role: u32, index: usize) -> Result<SecretKey> {
    Ok(hd::derive(mnemonic, HdPath::Custom(format!("m/44'/500'/{role}'/0/{index}")))?)
}

fn make_genesis(config: &DevnetConfig, accounts: &[DevAccount], validators: &[SecretKey]) -> Result<Genesis> {
    let mut builder = GenesisBuilder::new(&config.spec, now_millis() / 1000);
    for contract in theta_evm::contracts::ALL {
        builder = builder.contract(contract.address, contract.code());
    }
    for account in accounts {
        builder = builder.account(account.key.address(), account.coins);
    }
    let gateway = role_key(&config.mnemonic, 3, 0)?;
    builder = builder.account(gateway.address(), Coins::tfuel(TFuelWei::whole(GATEWAY)));
    for (index, key) in validators.iter().enumerate() {
        let address = key.address();
        let stake = ThetaWei::whole(VALIDATOR_STAKE);
        builder = builder.validator_with_key(address, address, stake, &vote_key(key)?);
        if index < config.guardians {
            let stake = ThetaWei::whole(GUARDIAN_STAKE);
            builder = builder.guardian(address, address, stake, vote_key(key)?.public_key());
        }
    }
    Ok(builder.build())
}

/// The genesis in the folder, or a new one that is written there.
fn genesis(config: &DevnetConfig, accounts: &[DevAccount], validators: &[SecretKey]) -> Result<Genesis> {
    let path = config.data_dir.join("genesis");
    let genesis = match std::fs::read(&path) {
        Ok(file) => Genesis::read(&file, None)
            .with_context(|| format!("{} is not a whole genesis file", path.display()))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let genesis = make_genesis(config, accounts, validators)?;
            crate::folder::write_durably(&path, &genesis.write())?;
            genesis
        }
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    ensure!(
        genesis.header.chain == config.spec.chain,
        "{} belongs to chain {}, not {}; name another data folder",
        config.data_dir.display(),
        genesis.header.chain,
        config.spec.chain
    );
    check_validator_keys(&genesis, &config.spec)?;
    let set = genesis.validator_set(&config.spec);
    let ours: std::collections::BTreeSet<Address> = validators.iter().map(SecretKey::address).collect();
    let theirs: std::collections::BTreeSet<Address> =
        set.as_slice().iter().map(|validator| validator.address).collect();
    ensure!(
        ours == theirs,
        "{} was made with another mnemonic or another number of validators; use the same ones or another folder",
        config.data_dir.display()
    );
    Ok(genesis)
}

/// What a network begins with: accounts, validators' keys, and the genesis that is in the folder or was just put there.
pub(crate) fn prepare(config: &DevnetConfig) -> Result<(Vec<DevAccount>, Vec<SecretKey>, Genesis)> {
    ensure!((1..=31).contains(&config.validators), "a devnet has 1 to 31 validators");
    ensure!(
        config.guardians <= config.validators,
        "guardians of a devnet are validators' nodes; name at most {} of them",
        config.validators
    );
    ensure!(config.block_interval_ms > 0, "the block interval is at least one millisecond");
    std::fs::create_dir_all(&config.data_dir)
        .with_context(|| format!("{} cannot be made", config.data_dir.display()))?;
    let coins = Coins { theta: ThetaWei::whole(RICH.0), tfuel: TFuelWei::whole(RICH.1) };
    let accounts: Vec<DevAccount> = (0..config.accounts)
        .map(|index| Ok(DevAccount { key: hd::derive(&config.mnemonic, HdPath::Ethereum(index))?, coins }))
        .collect::<Result<_>>()?;
    let keys: Vec<SecretKey> =
        (0..config.validators).map(|index| role_key(&config.mnemonic, 1, index)).collect::<Result<_>>()?;
    let genesis = genesis(config, &accounts, &keys)?;
    Ok((accounts, keys, genesis))
}

/// One node in the ready line.
pub(crate) struct ReadyNode {
    pub(crate) name: String,
    pub(crate) address: Address,
    pub(crate) pid: u32,
    pub(crate) theta: String,
    pub(crate) eth: String,
    /// Its configuration file, where it is a process of its own.
    pub(crate) config: Option<PathBuf>,
}

/// URL of the WebSockets of a server.
fn socket(url: &str) -> String {
    format!("{}/ws", url.trim_end_matches("/rpc").replacen("http:", "ws:", 1))
}

/// The line that says where everything is.
pub(crate) fn ready_line(
    spec: &ChainSpec,
    genesis: &Genesis,
    data_dir: &Path,
    accounts: &[DevAccount],
    nodes: &[ReadyNode],
) -> Value {
    let accounts: Vec<Value> = accounts
        .iter()
        .map(|account| {
            json!({
                "address": account.key.address().to_checksum(None),
                "privateKey": format!("0x{}", hex::encode(*account.key.to_bytes())),
                "thetaWei": account.coins.theta,
                "tfuelWei": account.coins.tfuel,
            })
        })
        .collect();
    let guardians = genesis.guardians();
    let lines: Vec<Value> = nodes
        .iter()
        .map(|node| {
            let mut line = json!({
                "name": node.name,
                "role": "validator",
                "guardian": guardians.contains(node.address),
                "address": node.address.to_checksum(None),
                "pid": node.pid,
                "thetaRpc": node.theta,
                "ethRpc": node.eth,
            });
            if let Some(config) = &node.config {
                line["config"] = json!(config);
            }
            line
        })
        .collect();
    json!({
        "ready": true,
        "chain": spec.chain,
        "ethChainId": u64::try_from(spec.ethereum_chain_id(2)).unwrap_or_default(),
        "thetaRpc": nodes[0].theta,
        "thetaWs": socket(&nodes[0].theta),
        "ethRpc": nodes[0].eth,
        "ethWs": socket(&nodes[0].eth),
        "dataDir": data_dir,
        "genesisHash": genesis.hash(),
        "accounts": accounts,
        "nodes": lines,
    })
}

impl Devnet {
    /// Makes the network, or goes on with the one in the folder.
    pub async fn start(config: DevnetConfig) -> Result<Self> {
        let (accounts, keys, genesis) = prepare(&config)?;
        let genesis = Arc::new(genesis);
        let mut nodes = Vec::new();
        let mut known: Vec<Multiaddr> = Vec::new();
        for (index, key) in keys.into_iter().enumerate() {
            let name = format!("validator-{index}");
            let node = Node::start(NodeConfig {
                spec: config.spec.clone(),
                genesis: genesis.clone(),
                key,
                folder: config.data_dir.join(&name),
                in_memory: false,
                keep: Keep::All,
                begin_with_snapshot: false,
                snapshot_every: None,
                listen: vec!["/memory/0".parse()?],
                peers: known.clone(),
                discover: true,
                network_key: None,
                settings: settings(&config.spec, Some(config.block_interval_ms)),
                vm: config.vm.clone(),
            })
            .await
            .with_context(|| name.clone())?;
            known.extend_from_slice(node.handle().addresses());
            let port = |wanted| if index == 0 { wanted } else { 0 };
            let theta = listen(port(config.rpc_port), theta_routes(ThetaApi::new(node.handle()))).await?;
            let eth = listen(port(config.eth_rpc_port), ethereum_routes(EthApi::new(node.handle()))).await?;
            nodes.push(DevNode { name, node, theta, eth });
        }
        Ok(Self { nodes, accounts, genesis, spec: config.spec, data_dir: config.data_dir })
    }

    /// The chain.
    pub const fn spec(&self) -> &ChainSpec {
        &self.spec
    }

    /// Handles of all nodes.
    pub fn handles(&self) -> impl Iterator<Item = NodeHandle> {
        self.nodes.iter().map(|node| node.node.handle())
    }

    /// Waits until every node has settled a block beyond genesis: the network works.
    pub async fn first_block(&self) -> Result<()> {
        for node in &self.nodes {
            let mut progress = node.node.handle().progress;
            let moving = async {
                while progress.borrow_and_update().settled == 0 {
                    progress.changed().await.context("the node stopped")?;
                }
                anyhow::Ok(())
            };
            tokio::select! {
                result = moving => result?,
                reason = node.node.failed() => bail!("{}: {reason}", node.name),
            }
        }
        Ok(())
    }

    /// Waits until a node stops because it can no longer keep what it promised; gives its reason.
    pub async fn failure(&self) -> String {
        let waits = self
            .nodes
            .iter()
            .map(|node| Box::pin(async move { format!("{}: {}", node.name, node.node.failed().await) }));
        futures::future::select_all(waits).await.0
    }

    /// The line that says where everything is.
    pub fn ready_line(&self) -> Value {
        let nodes: Vec<_> = self
            .nodes
            .iter()
            .map(|node| ReadyNode {
                name: node.name.clone(),
                address: node.node.handle().address,
                pid: std::process::id(),
                theta: node.theta_url(),
                eth: node.eth_url(),
                config: None,
            })
            .collect();
        ready_line(&self.spec, &self.genesis, &self.data_dir, &self.accounts, &nodes)
    }
}
