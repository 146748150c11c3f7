//! An edge node's configuration file, and what starts from it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use theta_core::{
    amount::TFuelWei,
    hash::{Address, U256},
    sign::SecretKey,
};
use theta_edge::{executor::Engines, payment::Price, worker};
use theta_edge_ai::{Ai, Upstream};
use theta_sdk::{
    client::Client,
    keystore::{Effort, Keystore},
};

use super::{Capacity, ContentTerms, Directory, EdgeConfig, EdgeNode};
use crate::config::{FILE, password_file, password_of_environment};

/// Chunks of 256 KiB in a GiB.
const CHUNKS_PER_GIB: u64 = 4096;

/// An edge node's configuration. Paths are relative to the folder of its file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct EdgeFile {
    /// The chain id, such as `privatenet`, as it stands in the chain's headers.
    pub chain: String,
    /// `theta.*` calls of the chain node that it trusts.
    pub rpc: String,
    /// Requesters that it offers itself to.
    pub gateways: Vec<String>,
    /// Its port on the loopback address.
    #[serde(default = "default_port")]
    pub port: u16,
    /// Where its till and its blobs are.
    #[serde(default = "default_data")]
    pub data: PathBuf,
    /// Folder of encrypted key files.
    #[serde(default = "default_keys")]
    pub keys: PathBuf,
    /// Which key is the node's, and where it is paid.
    pub address: Address,
    /// File with the key's password; without it the variable THETA_PASSWORD has it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub password_file: Option<PathBuf>,
    /// Tasks that run at the same time; as many as there are cores when missing.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub slots: Option<u32>,
    /// Memory for all of them together in MiB; half of what was measured when missing.
    #[serde(rename = "memory-mib", skip_serializing_if = "Option::is_none", default)]
    pub memory_mib: Option<u32>,
    /// Price of a task, in whole TFUEL.
    #[serde(rename = "price-tfuel", skip_serializing_if = "Option::is_none", default)]
    pub price_tfuel: Option<String>,
    /// Price of each million units of fuel, in whole TFUEL.
    #[serde(rename = "price-tfuel-per-million-fuel", skip_serializing_if = "Option::is_none", default)]
    pub price_per_million_fuel: Option<String>,
    /// Folder with a folder for each model that it runs; none when missing.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub models: Option<PathBuf>,
    /// Price of each token that a model reads or makes, in whole TFUEL.
    #[serde(rename = "price-tfuel-per-token", skip_serializing_if = "Option::is_none", default)]
    pub price_per_token: Option<String>,
    /// Price of content that it gives to others, in whole TFUEL for a GiB.
    #[serde(rename = "content-price-tfuel", skip_serializing_if = "Option::is_none", default)]
    pub content_price: Option<String>,
    /// The most that it pays for content, in whole TFUEL for a GiB.
    #[serde(rename = "content-most-tfuel", skip_serializing_if = "Option::is_none", default)]
    pub content_most: Option<String>,
    /// What each reserve fund holds from which it pays for content, in whole TFUEL.
    #[serde(rename = "content-fund-tfuel", skip_serializing_if = "Option::is_none", default)]
    pub content_fund: Option<String>,
    /// Settles every claim above the fee at once; else those worth a hundred fees.
    #[serde(default)]
    pub settle_at_once: bool,
    /// A server that speaks the OpenAI protocol and runs models for this node.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub upstream: Option<UpstreamFile>,
}

/// A server that runs models for a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct UpstreamFile {
    /// The address that its clients are given, such as `http://127.0.0.1:11434/v1`.
    pub url: String,
    /// File whose first line is the key that it wants.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub key_file: Option<PathBuf>,
    /// Tokens that its models have room for.
    #[serde(default = "default_context")]
    pub context: u32,
    /// Models of it that make text.
    #[serde(default)]
    pub chat: Vec<String>,
    /// Models of it that make vectors, each with the numbers in one.
    #[serde(default)]
    pub embed: BTreeMap<String, u32>,
}

impl UpstreamFile {
    /// A server of which no model is offered yet.
    pub const fn at(url: String) -> Self {
        Self { url, key_file: None, context: default_context(), chat: Vec::new(), embed: BTreeMap::new() }
    }
}

const fn default_context() -> u32 {
    8192
}

const fn default_port() -> u16 {
    17888
}

fn default_data() -> PathBuf {
    ".".into()
}

fn default_keys() -> PathBuf {
    "keys".into()
}

impl EdgeFile {
    /// A node with this key, everything else by default.
    pub fn new(chain: String, rpc: String, gateways: Vec<String>, address: Address) -> Self {
        Self {
            chain,
            rpc,
            gateways,
            port: default_port(),
            data: default_data(),
            keys: default_keys(),
            address,
            password_file: None,
            slots: None,
            memory_mib: None,
            price_tfuel: None,
            price_per_million_fuel: None,
            models: None,
            price_per_token: None,
            content_price: None,
            content_most: None,
            content_fund: None,
            settle_at_once: false,
            upstream: None,
        }
    }

    /// Reads a configuration file; gives the folder that its paths start from, too.
    pub fn read(path: &Path) -> Result<(Self, PathBuf)> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("{} cannot be read; `theta edge init` makes one", path.display()))?;
        let file: Self = toml::from_str(&text).with_context(|| path.display().to_string())?;
        file.offer(Capacity::measure()).with_context(|| path.display().to_string())?;
        file.content().with_context(|| path.display().to_string())?;
        let folder = path.parent().unwrap_or(Path::new(""));
        Ok((file, folder.to_owned()))
    }

    /// What the node offers on a machine. It never offers more than was measured.
    fn offer(&self, has: Capacity) -> Result<worker::Settings> {
        let defaults = worker::Settings::default();
        let slots = self.slots.unwrap_or(has.cores);
        ensure!(slots > 0, "slots is at least 1");
        ensure!(slots <= has.cores, "slots is {slots}, and this machine has {} cores", has.cores);
        let memory = self.memory_mib.unwrap_or(has.memory_mib / 2);
        ensure!(
            memory <= has.memory_mib,
            "memory-mib is {memory}, and this machine has {} MiB",
            has.memory_mib
        );
        let each = memory / slots;
        ensure!(each > 0, "memory-mib is at least one for each slot");
        let tokens = |name: &str, text: &Option<String>, default: TFuelWei| match text {
            Some(text) => text.parse().map_err(|_| anyhow::anyhow!("{name} is an amount, such as \"0.5\"")),
            None => Ok(default),
        };
        let price = Price {
            base: tokens("price-tfuel", &self.price_tfuel, defaults.price.base)?,
            per_million_fuel: tokens(
                "price-tfuel-per-million-fuel",
                &self.price_per_million_fuel,
                defaults.price.per_million_fuel,
            )?,
        };
        let token_price = Price {
            per_million_fuel: tokens(
                "price-tfuel-per-token",
                &self.price_per_token,
                defaults.token_price.per_million_fuel,
            )?,
            ..defaults.token_price
        };
        let limits = theta_edge::job::Limits { memory_mib: each.min(4096), ..defaults.limits };
        Ok(worker::Settings { slots: slots as usize, limits, price, token_price, ..defaults })
    }

    /// On which terms it gives and fetches content.
    fn content(&self) -> Result<ContentTerms> {
        let terms = ContentTerms::default();
        let tokens = |name: &str, text: &Option<String>| {
            let parsed = text.as_ref().map(|text| text.parse::<TFuelWei>());
            parsed.transpose().map_err(|_| anyhow::anyhow!("{name} is an amount, such as \"0.5\""))
        };
        let chunk =
            |gib: TFuelWei| gib.checked_ratio(U256::from(1), U256::from(CHUNKS_PER_GIB)).unwrap_or_default();
        let price = tokens("content-price-tfuel", &self.content_price)?.map_or(terms.price, chunk);
        let most = tokens("content-most-tfuel", &self.content_most)?.map_or(terms.most, chunk);
        let fund = tokens("content-fund-tfuel", &self.content_fund)?.unwrap_or(terms.fund);
        Ok(ContentTerms { price, most, fund })
    }

    fn key(&self, folder: &Path) -> Result<SecretKey> {
        let password = match &self.password_file {
            Some(file) => password_file(&folder.join(file))?,
            None => password_of_environment()?,
        };
        let keys = Keystore::open(&folder.join(&self.keys), Effort::Light)?;
        Ok(keys.unlock(self.address, &password)?)
    }

    /// The models that it runs, and those of its upstream server, if there are any.
    fn ai(&self, folder: &Path) -> Result<Option<Ai>> {
        if self.models.is_none() && self.upstream.is_none() {
            return Ok(None);
        }
        let mut ai = Ai::new();
        if let Some(models) = &self.models {
            ai = ai.with_folder(&folder.join(models)).context("models")?;
        }
        if let Some(file) = &self.upstream {
            let key = file.key_file.as_ref().map(|key| password_file(&folder.join(key))).transpose()?;
            let mut upstream = Upstream::new(&file.url, key, file.context).context("upstream.url")?;
            for name in &file.chat {
                upstream = upstream.with_chat(name).context("upstream.chat")?;
            }
            for (name, dimensions) in &file.embed {
                upstream = upstream.with_embed(name, *dimensions).context("upstream.embed")?;
            }
            ai = ai.with_upstream(upstream);
        }
        Ok(Some(ai))
    }

    /// Starts what the file describes.
    pub async fn start(&self, folder: &Path, engines: Engines) -> Result<EdgeNode> {
        let engines = match self.ai(folder)? {
            Some(ai) => engines.with(Arc::new(ai)),
            None => engines,
        };
        EdgeNode::start(EdgeConfig {
            chain: self.chain.clone(),
            key: self.key(folder)?,
            folder: folder.join(&self.data),
            client: Client::http(self.rpc.clone())?,
            rpc: self.rpc.clone(),
            directory: Directory::default(),
            engines,
            port: self.port,
            settle_at_once: self.settle_at_once,
            offer: self.offer(Capacity::measure())?,
            gateways: self.gateways.clone(),
            content: self.content()?,
        })
        .await
    }

    /// The line that says where the node is.
    pub fn ready_line(&self, node: &EdgeNode) -> Result<Value> {
        let (has, offer) = (Capacity::measure(), self.offer(Capacity::measure())?);
        Ok(json!({
            "ready": true,
            "chain": self.chain,
            "address": node.id.0.to_checksum(None),
            "pid": std::process::id(),
            "gateway": node.url(),
            "rpc": self.rpc,
            "gateways": self.gateways,
            "measured": { "cores": has.cores, "memoryMiB": has.memory_mib, "gpus": 0 },
            "slots": offer.slots,
            "memoryMiBEach": offer.limits.memory_mib,
        }))
    }
}

/// Makes the folder of a new edge node: configuration, and a new key where none is given.
pub fn init(
    folder: &Path,
    key: Option<SecretKey>,
    password: &str,
    effort: Effort,
    make: impl FnOnce(Address) -> EdgeFile,
) -> Result<EdgeFile> {
    let path = folder.join(FILE);
    ensure!(!path.exists(), "{} is there already; name another folder, or start the node", path.display());
    ensure!(!password.is_empty(), "an empty password protects nothing");
    std::fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    let key = match key {
        Some(key) => key,
        None => theta_sdk::keystore::fresh_key()?,
    };
    Keystore::open(&folder.join(default_keys()), effort)?.store(&key, password)?;
    let file = make(key.address());
    file.offer(Capacity::measure())?;
    crate::folder::write_durably(&path, toml::to_string(&file)?.as_bytes())?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "whatever fails here is a failed test")]
    use super::*;

    #[test]
    fn a_file_says_what_is_wrong_with_it_and_nobody_offers_what_is_not_there() {
        let address = Address::repeat_byte(7);
        let base =
            format!("chain = \"privatenet\"\nrpc = \"http://x\"\ngateways = []\naddress = \"{address}\"\n");
        let read = |more: &str| toml::from_str::<EdgeFile>(&format!("{base}{more}"));
        let plain = read("").unwrap();
        assert_eq!(plain, EdgeFile::new("privatenet".into(), "http://x".into(), Vec::new(), address));
        assert_eq!(toml::from_str::<EdgeFile>(&toml::to_string(&plain).unwrap()).unwrap(), plain);
        assert!(read("gpu = 1").unwrap_err().to_string().contains("gpu"));
        let has = Capacity { cores: 2, memory_mib: 1000 };
        let offer = plain.offer(has).unwrap();
        assert_eq!((offer.slots, offer.limits.memory_mib), (2, 250));
        for (more, what) in [
            ("slots = 3", "3, and this machine has 2 cores"),
            ("slots = 0", "slots is at least 1"),
            ("memory-mib = 1001", "1000 MiB"),
            ("memory-mib = 1", "at least one"),
            ("price-tfuel = \"cheap\"", "price-tfuel is an amount"),
            ("price-tfuel-per-token = \"1 cent\"", "price-tfuel-per-token is an amount"),
        ] {
            let error = read(more).unwrap().offer(has).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
        let priced = read("price-tfuel = \"0.5\"\nslots = 1").unwrap().offer(has).unwrap();
        assert_eq!((priced.slots, priced.price.base), (1, "0.5".parse().unwrap()));
    }
}
