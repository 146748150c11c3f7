//! A node's configuration file and what starts from it.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use theta_consensus::Settings;
use theta_core::{
    hash::Address,
    sign::SecretKey,
    spec::{ChainSpec, Pace},
};
use theta_ledger::{genesis::Genesis, state::Keep, vm::ContractVm};
use theta_sdk::keystore::{Effort, Keystore};

use crate::{
    connections::{Listener, listen_on},
    folder::{DataFolder, read_genesis},
    http::{ethereum_routes, theta_routes},
    net::Multiaddr,
    node::{Node, NodeConfig},
    rpc::{eth::EthApi, theta::ThetaApi},
};

/// Name of the file in a data folder.
pub const FILE: &str = "config.toml";
/// The variable that gives the password of the node's key where no file does.
pub const PASSWORD: &str = "THETA_PASSWORD";

/// A node's configuration. Paths are relative to the folder of its file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// The chain: `mainnet`, `theta`, `devnet`, or a chain-spec file.
    pub chain: String,
    /// The genesis file.
    #[serde(default = "default_genesis")]
    pub genesis: PathBuf,
    /// Where the store, the write-ahead log and the signer's mark are.
    #[serde(default = "default_data")]
    pub data: PathBuf,
    /// Folder of encrypted key files.
    #[serde(default = "default_keys")]
    pub keys: PathBuf,
    /// Which key is the node's: peers know it by that, and it validates with it where it has the stake.
    pub address: Address,
    /// File with the key's password; without it the variable THETA_PASSWORD has it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub password_file: Option<PathBuf>,
    /// Where it listens for other nodes, as libp2p addresses.
    #[serde(default = "default_listen")]
    pub listen: Vec<Multiaddr>,
    /// Nodes that it always stays connected to, as libp2p addresses that end in `/p2p/` and the node's name.
    #[serde(default)]
    pub peers: Vec<Multiaddr>,
    /// Whether it looks for other nodes than these.
    #[serde(default = "default_discover")]
    pub discover: bool,
    /// File with 64 hex digits, the same for all nodes of a private network.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub network_key_file: Option<PathBuf>,
    /// Where `theta.*` calls are answered.
    #[serde(default = "default_rpc")]
    pub rpc: SocketAddr,
    /// Where `eth_*` calls are answered.
    #[serde(default = "default_eth_rpc")]
    pub eth_rpc: SocketAddr,
    /// Where an operator asks for `/metrics`, `/health` and `/ready`.
    #[serde(default = "default_admin")]
    pub admin: SocketAddr,
    /// Milliseconds between blocks when there is nothing to do; the chain's own when missing.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub block_interval_ms: Option<u64>,
    /// States of how many settled blocks stay readable, 200 or more; all of them when missing, which an archive needs.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub keep_blocks: Option<u64>,
    /// What a node without a chain begins with: `full` is the genesis and every block since; `snapshot` is a state that a
    /// peer offers, proven from the genesis on, and the blocks after it.
    #[serde(default)]
    pub sync: SyncMode,
    /// After how many blocks a snapshot for other nodes is made, at a checkpoint; none are when missing. It takes the room
    /// of a whole state, and needs `keep-blocks` to be missing.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub snapshot_every: Option<u64>,
}

/// What a node without a chain begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SyncMode {
    /// The genesis.
    #[default]
    Full,
    /// A peer's snapshot; the genesis where none is offered.
    Snapshot,
}

fn default_genesis() -> PathBuf {
    "genesis".into()
}

fn default_data() -> PathBuf {
    ".".into()
}

fn default_keys() -> PathBuf {
    "keys".into()
}

fn default_listen() -> Vec<Multiaddr> {
    vec!["/ip4/0.0.0.0/tcp/50001".parse().expect("an address")]
}

const fn default_discover() -> bool {
    true
}

fn default_rpc() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 16888))
}

fn default_eth_rpc() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 18888))
}

fn default_admin() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 16900))
}

/// Durations of the protocol for blocks this far apart.
pub(crate) fn settings(spec: &ChainSpec, interval: Option<u64>) -> Settings {
    let pace = spec.rules(1).consensus.pace;
    let defaults = Settings::new(pace);
    match (interval, pace) {
        (None, _) => defaults,
        (Some(interval), Pace::Clocked) => Settings {
            vote_delay: interval,
            epoch_timeout: interval * 2,
            epoch_timeout_cap: interval * 2,
            ..defaults
        },
        (Some(interval), Pace::Responsive) => Settings { idle_interval: interval, ..defaults },
    }
}

impl Config {
    /// A node with this key in this chain, everything else by default.
    pub fn new(chain: impl Into<String>, address: Address) -> Self {
        Self {
            chain: chain.into(),
            genesis: default_genesis(),
            data: default_data(),
            keys: default_keys(),
            address,
            password_file: None,
            listen: default_listen(),
            peers: Vec::new(),
            discover: true,
            network_key_file: None,
            rpc: default_rpc(),
            eth_rpc: default_eth_rpc(),
            admin: default_admin(),
            block_interval_ms: None,
            keep_blocks: None,
            sync: SyncMode::Full,
            snapshot_every: None,
        }
    }

    /// Reads a configuration file; gives the folder that its paths start from, too.
    pub fn read(path: &Path) -> Result<(Self, PathBuf)> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("{} cannot be read; `theta init` makes one", path.display()))?;
        let config: Self = toml::from_str(&text).with_context(|| path.display().to_string())?;
        let folder = path.parent().unwrap_or(Path::new(""));
        ensure!(
            config.snapshot_every.is_none() || config.keep_blocks.is_none(),
            "{}: a snapshot is proven by states since the genesis; leave out snapshot-every or keep-blocks",
            path.display()
        );
        ensure!(config.block_interval_ms != Some(0), "{}: block-interval-ms is at least 1", path.display());
        Ok((config, folder.to_owned()))
    }

    /// The file's text.
    pub fn text(&self) -> Result<String> {
        Ok(toml::to_string(self)?)
    }

    fn password(&self, folder: &Path) -> Result<String> {
        match &self.password_file {
            Some(file) => password_file(&folder.join(file)),
            None => password_of_environment(),
        }
    }

    fn network_key(&self, folder: &Path) -> Result<Option<[u8; 32]>> {
        let Some(file) = &self.network_key_file else { return Ok(None) };
        let path = folder.join(file);
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let bytes = hex::decode(text.trim()).ok().and_then(|bytes| bytes.try_into().ok());
        match bytes {
            Some(key) => Ok(Some(key)),
            None => bail!("{} does not hold 64 hex digits", path.display()),
        }
    }
}

/// The first line of a file.
pub(crate) fn password_file(path: &Path) -> Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// The variable's password.
pub(crate) fn password_of_environment() -> Result<String> {
    std::env::var(PASSWORD).map_err(|_| {
        anyhow::anyhow!("the key's password is missing: set {PASSWORD}, or name a password file")
    })
}

/// A node with its servers. Dropping it stops them.
#[derive(Debug)]
pub struct RunningNode {
    /// The node.
    pub node: Node,
    /// Its `theta.*` server.
    pub theta: Listener,
    /// Its `eth_*` server.
    pub eth: Listener,
    /// Its operator's server.
    pub admin: Listener,
    chain: String,
}

impl RunningNode {
    /// Starts what a configuration describes.
    pub async fn start(
        config: &Config,
        folder: &Path,
        spec: ChainSpec,
        vm: Arc<dyn ContractVm>,
    ) -> Result<Self> {
        let genesis_path = folder.join(&config.genesis);
        let genesis = read_genesis(&genesis_path).with_context(|| {
            format!("a node needs its network's genesis file: copy it to {}", genesis_path.display())
        })?;
        ensure!(
            genesis.header.chain == spec.chain,
            "{} is of chain {}, the configuration of {}",
            genesis_path.display(),
            genesis.header.chain,
            spec.chain
        );
        let password = config.password(folder)?;
        let keys = Keystore::open(&folder.join(&config.keys), Effort::Light)?;
        let key: SecretKey = keys.unlock(config.address, &password)?;
        let chain = spec.chain.clone();
        let node = Node::start(NodeConfig {
            settings: settings(&spec, config.block_interval_ms),
            spec,
            genesis: Arc::new(genesis),
            key,
            folder: folder.join(&config.data),
            in_memory: false,
            keep: config.keep_blocks.map_or(Keep::All, Keep::Blocks),
            begin_with_snapshot: config.sync == SyncMode::Snapshot,
            snapshot_every: config.snapshot_every,
            listen: config.listen.clone(),
            peers: config.peers.clone(),
            discover: config.discover,
            network_key: config.network_key(folder)?,
            vm,
        })
        .await?;
        let theta = listen_on(config.rpc, theta_routes(ThetaApi::new(node.handle()))).await?;
        let eth = listen_on(config.eth_rpc, ethereum_routes(EthApi::new(node.handle()))).await?;
        let admin = listen_on(config.admin, crate::admin::routes(node.handle())).await?;
        Ok(Self { node, theta, eth, admin, chain })
    }

    /// URL of the `theta.*` server.
    pub fn theta_url(&self) -> String {
        format!("http://{}/rpc", self.theta.address)
    }

    /// URL of the `eth_*` server.
    pub fn eth_url(&self) -> String {
        format!("http://{}", self.eth.address)
    }

    /// The line that says where everything is.
    pub fn ready_line(&self) -> Value {
        let handle = self.node.handle();
        let settled = handle.reader.settled();
        json!({
            "ready": true,
            "chain": self.chain,
            "genesisHash": handle.reader.genesis().hash,
            "address": handle.address.to_checksum(None),
            "pid": std::process::id(),
            "p2p": handle.addresses(),
            "thetaRpc": self.theta_url(),
            "ethRpc": self.eth_url(),
            "admin": format!("http://{}", self.admin.address),
            "height": settled.header.height,
        })
    }
}

/// Makes a data folder for a new node: configuration, genesis where there is one already, and a new key where none is given.
pub fn init(
    folder: &Path,
    chain: &str,
    genesis: Option<&Genesis>,
    key: Option<SecretKey>,
    password: &str,
    effort: Effort,
    change: impl FnOnce(&mut Config),
) -> Result<(Config, SecretKey)> {
    let path = folder.join(FILE);
    ensure!(!path.exists(), "{} is there already; name another folder, or start the node", path.display());
    ensure!(!password.is_empty(), "an empty password protects nothing");
    std::fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    if let Some(genesis) = genesis {
        DataFolder::new(folder).keep_genesis(genesis)?;
    }
    let key = match key {
        Some(key) => key,
        None => theta_sdk::keystore::fresh_key()?,
    };
    let keys = Keystore::open(&folder.join(default_keys()), effort)?;
    keys.store(&key, password)?;
    let mut config = Config::new(chain, key.address());
    change(&mut config);
    crate::folder::write_durably(&path, config.text()?.as_bytes())?;
    Ok((config, key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_needs_two_keys_and_says_what_is_wrong_with_it() {
        let address = Address::repeat_byte(7);
        let config: Config =
            toml::from_str(&format!("chain = \"devnet\"\naddress = \"{address}\"")).expect("enough");
        assert_eq!(config, Config::new("devnet", address));
        assert_eq!(toml::from_str::<Config>(&config.text().expect("text")).expect("the same"), config);
        for (bad, what) in [
            ("chain = \"devnet\"", "address"),
            (&format!("chain = \"devnet\"\naddress = \"{address}\"\nrpc-port = 1"), "rpc-port"),
            (&format!("chain = \"devnet\"\naddress = \"{address}\"\npeers = [\"localhost:1\"]"), "peers"),
        ] {
            let error = toml::from_str::<Config>(bad).expect_err("wrong").to_string();
            assert!(error.contains(what), "{error}");
        }
    }

    /// Every key as the declaration above documents it.
    fn page() -> String {
        let source = include_str!("config.rs");
        let (_, rest) = source.split_once("pub struct Config {\n").expect("it is here");
        let (fields, _) = rest.split_once("\n}").expect("it ends");
        let defaults = Config::new("devnet", Address::ZERO).text().expect("text");
        let defaults: toml::Table = toml::from_str(&defaults).expect("a table");
        let mut page = "# Configuration of a node\n\n`theta init` writes `config.toml`; `theta start --config` \
                        reads it. Paths are relative to the folder of the file. A key that is not known is refused.\n\n\
                        | key | when missing | meaning |\n|---|---|---|\n"
            .to_owned();
        let mut doc = String::new();
        for line in fields.lines().map(str::trim) {
            if let Some(text) = line.strip_prefix("///") {
                doc += text;
            } else if let Some((name, _)) = line.strip_prefix("pub ").and_then(|line| line.split_once(':')) {
                let key = name.replace('_', "-");
                let default = match defaults.get(&key) {
                    _ if ["chain", "address"].contains(&name) => "has to be there".to_owned(),
                    Some(value) => format!("`{value}`"),
                    None => String::new(),
                };
                page += &format!("| `{key}` | {default} |{} |\n", doc.replace('|', "\\|"));
                doc.clear();
            }
        }
        page
    }

    #[test]
    fn every_key_stands_in_the_docs() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
        if std::env::var_os("THETA_WRITE_DOCS").is_some() {
            std::fs::write(path, page()).expect("it can be written");
        }
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            written == page(),
            "docs/configuration.md is not what config.rs says; write it with \
             THETA_WRITE_DOCS=1 cargo test -p theta-node --lib every_key_stands_in_the_docs"
        );
        assert!(written.contains("| `keep-blocks` |") && written.contains("127.0.0.1:16900"));
    }

    #[test]
    fn a_second_init_changes_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let (first, _) =
            init(folder.path(), "devnet", None, None, "secret", Effort::Light, |_| {}).expect("a new folder");
        let error =
            init(folder.path(), "devnet", None, None, "secret", Effort::Light, |_| {}).expect_err("taken");
        assert!(error.to_string().contains("is there already"), "{error}");
        let (read, _) = Config::read(&folder.path().join(FILE)).expect("whole");
        assert_eq!(read, first);
        let keys = Keystore::open(&folder.path().join("keys"), Effort::Light).expect("there");
        assert!(keys.unlock(first.address, "other").is_err());
        assert_eq!(keys.unlock(first.address, "secret").expect("the password").address(), first.address);
    }
}
