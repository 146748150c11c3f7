//! A whole network from nothing: a genesis, N nodes on one hub, and their RPC servers.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use theta_consensus::Settings;
use theta_core::{
    amount::{Coins, TFuelWei, ThetaWei},
    bls,
    hash::{Address, keccak_parts},
    sign::SecretKey,
    spec::{ChainSpec, Pace},
    stake::ValidatorSet,
};
use theta_ledger::{
    genesis::{Genesis, GenesisBuilder, ValidatorKey, check_validator_keys},
    vm::ContractVm,
};
use theta_sdk::hd::{self, Path as HdPath};
use tokio::sync::watch;

use crate::{
    clock::now_millis,
    http::{Listener, ethereum_routes, listen, theta_routes},
    hub::Hub,
    node::{Node, NodeConfig, NodeHandle},
    rpc::{eth::EthApi, theta::ThetaApi},
};

/// The phrase of every example; its keys are known to everybody.
pub const TEST_MNEMONIC: &str = "test test test test test test test test test test test junk";
/// THETA and TFUEL of each account, in whole tokens.
const RICH: (u64, u64) = (100_000_000, 1_000_000_000);
/// THETA behind each validator, in whole tokens.
const VALIDATOR_STAKE: u64 = 10_000_000;

/// What a devnet is made of.
#[derive(Clone)]
pub struct DevnetConfig {
    /// The chain.
    pub spec: ChainSpec,
    /// How many validators, 1 to 31.
    pub validators: usize,
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

/// A key of the devnet: `role` 1 is validators, 2 edge nodes.
pub fn role_key(mnemonic: &str, role: u32, index: usize) -> Result<SecretKey> {
    Ok(hd::derive(mnemonic, HdPath::Custom(format!("m/44'/500'/{role}'/0/{index}")))?)
}

/// A BLS key that belongs to a signing key and cannot be told from its public part.
fn bls_key(key: &SecretKey) -> Result<bls::SecretKey> {
    for attempt in 0_u8..=255 {
        let bytes = keccak_parts(&[b"theta devnet bls", &*key.to_bytes(), &[attempt]]);
        // Somewhat more than half of all words are below the group's order.
        if let Ok(secret) = bls::SecretKey::from_bytes(bytes.as_slice()) {
            return Ok(secret);
        }
    }
    bail!("no BLS key could be derived")
}

fn make_genesis(config: &DevnetConfig, accounts: &[DevAccount], validators: &[SecretKey]) -> Result<Genesis> {
    let mut builder = GenesisBuilder::new(&config.spec, now_millis() / 1000);
    for contract in theta_evm::contracts::ALL {
        builder = builder.contract(contract.address, contract.code());
    }
    for account in accounts {
        builder = builder.account(account.key.address(), account.coins);
    }
    for key in validators {
        let address = key.address();
        builder = builder.validator(address, address, ThetaWei::whole(VALIDATOR_STAKE));
        if config.spec.rules(0).stake.validator_keys {
            let secret = bls_key(key)?;
            let proof = secret.proof_of_possession(bls::Suite::Rfc9380);
            builder = builder.validator_key(address, ValidatorKey { key: secret.public_key(), proof });
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
            write_durably(&path, &genesis.write())?;
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
    let set = ValidatorSet::of_pool(&genesis.validators());
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

fn write_durably(path: &Path, bytes: &[u8]) -> Result<()> {
    use theta_core::journal::{Disk, FileDisk};
    FileDisk::open(path).and_then(|mut disk| disk.replace(bytes)).with_context(|| path.display().to_string())
}

fn settings(config: &DevnetConfig) -> Settings {
    let pace = config.spec.rules(1).consensus.pace;
    let defaults = Settings::new(pace);
    let interval = config.block_interval_ms;
    match pace {
        Pace::Clocked => Settings {
            vote_delay: interval,
            epoch_timeout: interval * 2,
            epoch_timeout_cap: interval * 2,
            ..defaults
        },
        Pace::Responsive => Settings { idle_interval: interval, ..defaults },
    }
}

impl Devnet {
    /// Makes the network, or goes on with the one in the folder.
    pub async fn start(config: DevnetConfig) -> Result<Self> {
        ensure!((1..=31).contains(&config.validators), "a devnet has 1 to 31 validators");
        ensure!(config.block_interval_ms > 0, "the block interval is at least one millisecond");
        std::fs::create_dir_all(&config.data_dir)
            .with_context(|| format!("{} cannot be made", config.data_dir.display()))?;
        let coins = Coins { theta: ThetaWei::whole(RICH.0), tfuel: TFuelWei::whole(RICH.1) };
        let accounts: Vec<DevAccount> = (0..config.accounts)
            .map(|index| {
                Ok(DevAccount { key: hd::derive(&config.mnemonic, HdPath::Ethereum(index))?, coins })
            })
            .collect::<Result<_>>()?;
        let keys: Vec<SecretKey> = (0..config.validators)
            .map(|index| role_key(&config.mnemonic, 1, index))
            .collect::<Result<_>>()?;
        let genesis = Arc::new(genesis(&config, &accounts, &keys)?);
        let hub = Hub::default();
        let mut nodes = Vec::new();
        for (index, key) in keys.into_iter().enumerate() {
            let name = format!("validator-{index}");
            let node = Node::start(
                NodeConfig {
                    spec: config.spec.clone(),
                    genesis: genesis.clone(),
                    key,
                    folder: config.data_dir.join(&name),
                    in_memory: false,
                    settings: settings(&config),
                    vm: config.vm.clone(),
                },
                &hub,
            )
            .with_context(|| name.clone())?;
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
            let mut failure = node.node.failure();
            let moving = async {
                while progress.borrow_and_update().settled == 0 {
                    progress.changed().await.context("the node stopped")?;
                }
                anyhow::Ok(())
            };
            tokio::select! {
                result = moving => result?,
                reason = failed(&mut failure) => bail!("{}: {reason}", node.name),
            }
        }
        Ok(())
    }

    /// Waits until a node stops because it can no longer keep what it promised; gives its reason.
    pub async fn failure(&self) -> String {
        let waits = self.nodes.iter().map(|node| {
            let mut failure = node.node.failure();
            Box::pin(async move { format!("{}: {}", node.name, failed(&mut failure).await) })
        });
        futures::future::select_all(waits).await.0
    }

    /// The line that says where everything is.
    pub fn ready_line(&self) -> Value {
        let first = &self.nodes[0];
        let pid = std::process::id();
        let accounts: Vec<Value> = self
            .accounts
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
        let nodes: Vec<Value> = self
            .nodes
            .iter()
            .map(|node| {
                json!({
                    "name": node.name,
                    "role": "validator",
                    "address": node.node.handle().address.to_checksum(None),
                    "pid": pid,
                    "thetaRpc": node.theta_url(),
                    "ethRpc": node.eth_url(),
                })
            })
            .collect();
        let chain_id = u64::try_from(self.spec.ethereum_chain_id(2)).unwrap_or_default();
        json!({
            "ready": true,
            "chain": self.spec.chain,
            "ethChainId": chain_id,
            "thetaRpc": first.theta_url(),
            "ethRpc": first.eth_url(),
            "dataDir": self.data_dir,
            "genesisHash": self.genesis.hash(),
            "accounts": accounts,
            "nodes": nodes,
        })
    }
}

async fn failed(failure: &mut watch::Receiver<Option<String>>) -> String {
    loop {
        if let Some(reason) = failure.borrow_and_update().clone() {
            return reason;
        }
        if failure.changed().await.is_err() {
            // The node was dropped, which is no failure.
            std::future::pending::<()>().await;
        }
    }
}
