//! `theta spec`.

use anyhow::Result;
use clap::Subcommand;
use comfy_table::Table;
use serde_json::{Map, Value, json};

use super::input;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show the rules of a chain at a height, and the heights of its forks.
    #[command(after_help = format!("Example:\n  theta spec show --chain mainnet --height 5877350\n  theta spec show --chain mynet.toml --json\n\n{}", input::SPEC_HELP))]
    Show {
        /// mainnet, privatenet (also called theta), devnet, oldest, or a chain-spec file.
        #[arg(long, alias = "spec", env = "THETA_CHAIN", value_name = "CHAIN", default_value = "mainnet")]
        chain: String,
        /// The height; when missing, that of the last fork.
        #[arg(long)]
        height: Option<u64>,
        /// Print one JSON value.
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(command: Command) -> Result<()> {
    let Command::Show { chain, height, json } = command;
    let spec = input::chain(&chain)?;
    let last = spec.forks().values().copied().max().unwrap_or_default();
    let height = height.unwrap_or(last);
    let rules = serde_json::to_value(spec.rules(height))?;
    let mut forks: Vec<_> = spec.forks().iter().map(|(fork, at)| (*at, fork.name())).collect();
    forks.sort_by_key(|(at, _)| *at);
    let chain_id = spec.ethereum_chain_id(height).to_string();
    if json {
        let forks: Map<String, Value> =
            forks.into_iter().map(|(at, name)| (name.to_owned(), json!(at))).collect();
        let value = json!({
            "chain": spec.chain,
            "height": height,
            "ethChainId": chain_id.parse::<u64>().map_or_else(|_| json!(chain_id), |id| json!(id)),
            "forks": forks,
            "rules": rules,
        });
        say!("{value}")?;
        return Ok(());
    }
    say!("{} at height {height}, chain id {chain_id} for Ethereum wallets\n", spec.chain)?;
    let mut table = Table::new();
    table.set_header(["rule", "value"]);
    rows(&mut table, "", &rules);
    say!("{table}\n")?;
    let mut table = Table::new();
    table.set_header(["fork", "from height", "in force"]);
    for (at, name) in forks {
        table.add_row([name.to_owned(), at.to_string(), if at <= height { "yes" } else { "no" }.to_owned()]);
    }
    say!("{table}")?;
    Ok(())
}

fn rows(table: &mut Table, path: &str, value: &Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                rows(table, &path, value);
            }
        }
        Value::Bool(on) => drop(table.add_row([path, if *on { "yes" } else { "no" }])),
        Value::String(text) => drop(table.add_row([path, text])),
        other => drop(table.add_row([path.to_owned(), other.to_string()])),
    }
}
