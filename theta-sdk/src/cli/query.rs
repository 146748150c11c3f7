//! `thetacli query`.

use anyhow::bail;
use clap::Subcommand;
use comfy_table::{Table, presets};
use serde_json::Value;

use theta_core::hash::{Address, Hash};

use super::{Session, key::address};
use crate::rpc::{self, Text};

#[derive(Debug, Subcommand)]
pub(super) enum Query {
    /// An account's coins and sequence.
    #[command(after_help = "Example:\n  thetacli query account --address 9F12… --json")]
    Account {
        /// The address.
        #[arg(long, value_parser = address)]
        address: Address,
        /// Height; the newest settled state when missing.
        #[arg(long, default_value_t = 0)]
        height: u64,
        /// Count transactions that wait.
        #[arg(long)]
        preview: bool,
    },
    /// A block by hash or height.
    #[command(after_help = "Example:\n  thetacli query block --height 10")]
    Block {
        /// The hash.
        #[arg(long, conflicts_with = "height", required_unless_present = "height", value_parser = hash)]
        hash: Option<Hash>,
        /// The height.
        #[arg(long)]
        height: Option<u64>,
    },
    /// A transaction by its native or Ethereum hash.
    #[command(after_help = "Example:\n  thetacli query tx --hash 0x12…")]
    Tx {
        /// The hash.
        #[arg(long, value_parser = hash)]
        hash: Hash,
    },
    /// The digits by which a stake introduces the node as a guardian or elite edge node.
    #[command(after_help = "Example:\n  thetacli query guardian")]
    Guardian,
    /// Where the node stands.
    #[command(after_help = "Example:\n  thetacli query status --json")]
    Status,
    /// What program the node is.
    #[command(after_help = "Example:\n  thetacli query version")]
    Version,
}

fn hash(text: &str) -> anyhow::Result<Hash> {
    let digits = text.strip_prefix("0x").or(text.strip_prefix("0X")).unwrap_or(text);
    match format!("0x{digits}").parse() {
        Ok(hash) => Ok(hash),
        Err(_) => bail!("`{text}` is no hash: 64 hexadecimal digits are needed"),
    }
}

pub(super) async fn run(session: &Session, query: Query) -> anyhow::Result<()> {
    let client = &session.client;
    let answer = match query {
        Query::Guardian => {
            let info = client.call(&rpc::GetGuardianInfo::default()).await?;
            return session.print(&serde_json::to_value(&info)?, || info.summary());
        }
        Query::Account { address, height, preview } => {
            let address = format!("{address:?}");
            let method = rpc::GetAccount { address, height: Text(height), preview };
            serde_json::to_value(client.call(&method).await?)?
        }
        Query::Block { hash: Some(hash), .. } => {
            let method = rpc::GetBlock { hash, include_eth_tx_hashes: false };
            serde_json::to_value(client.call(&method).await?)?
        }
        Query::Block { height: Some(height), .. } => {
            let method = rpc::GetBlockByHeight { height: Text(height), include_eth_tx_hashes: false };
            let block = client.call(&method).await?;
            if block.as_object().is_some_and(serde_json::Map::is_empty) {
                bail!("no settled block at height {height}");
            }
            block
        }
        Query::Block { .. } => bail!("name a block by --hash or --height"),
        Query::Tx { hash } => {
            let answer = client.call(&rpc::GetTransaction { hash: format!("{hash:?}") }).await?;
            if answer.status == "not_found" {
                bail!("no transaction {hash:?} is known");
            }
            serde_json::to_value(answer)?
        }
        Query::Status => serde_json::to_value(client.call(&rpc::GetStatus::default()).await?)?,
        Query::Version => serde_json::to_value(client.call(&rpc::GetVersion::default()).await?)?,
    };
    session.print(&answer, || table(&answer))
}

fn table(answer: &Value) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    for (key, value) in answer.as_object().into_iter().flatten() {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Object(_) | Value::Array(_) => serde_json::to_string_pretty(value).unwrap_or_default(),
            other => other.to_string(),
        };
        table.add_row([key.as_str(), &text]);
    }
    table.to_string()
}
