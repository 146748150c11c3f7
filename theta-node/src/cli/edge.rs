//! `theta edge`: an edge node.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use theta_sdk::keystore::Effort;

use super::interruption;
use crate::{
    config::{FILE, password_file, password_of_environment},
    edge::config::{EdgeFile, UpstreamFile, init},
};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Make the folder of an edge node: its configuration and its key.
    #[command(
        after_help = "Example:\n  THETA_PASSWORD=secret theta edge init --data-dir edge --chain privatenet --rpc http://127.0.0.1:16888/rpc --gateway http://127.0.0.1:8800"
    )]
    Init(InitArgs),
    /// Start an edge node and keep it running.
    #[command(after_help = "Example:\n  THETA_PASSWORD=secret theta edge start --config edge/config.toml")]
    Start(StartArgs),
    /// What a running edge node has earned, by where it is, and what it refused.
    #[command(after_help = "Example:\n  theta edge status --config edge/config.toml --json")]
    Status(StartArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct InitArgs {
    /// The new folder.
    #[arg(long, env = "THETA_DATA_DIR")]
    data_dir: PathBuf,
    /// The chain's id as it stands in headers, such as privatenet or mainnet.
    #[arg(long, env = "THETA_CHAIN", default_value = "privatenet")]
    chain: String,
    /// theta.* calls of a chain node that is trusted: best one's own.
    #[arg(long, env = "THETA_RPC", default_value = "http://127.0.0.1:16888/rpc")]
    rpc: String,
    /// A gateway to offer the node to; more than one may be named.
    #[arg(
        long = "gateway",
        env = "THETA_GATEWAY",
        value_name = "URL",
        default_value = "http://127.0.0.1:8800"
    )]
    gateways: Vec<String>,
    /// The node's port on the loopback address.
    #[arg(long, default_value_t = 17888)]
    port: u16,
    /// File whose first line is the password for the node's new key; without it the variable THETA_PASSWORD has it. The node
    /// reads the same file at every start.
    #[arg(long)]
    password_file: Option<PathBuf>,
    /// Settle every receipt at once; else a node waits until it is worth a hundred fees.
    #[arg(long)]
    settle_at_once: bool,
    /// Folder with a folder for each model that the node runs: config.json, tokenizer.json, *.safetensors.
    #[arg(long)]
    models: Option<PathBuf>,
    /// A server that speaks the OpenAI protocol and runs models for the node, such as http://127.0.0.1:11434/v1.
    #[arg(long, value_name = "URL", requires = "upstream_models")]
    upstream: Option<String>,
    /// A model of that server which makes text; more than one may be named.
    #[arg(long = "upstream-model", value_name = "NAME", requires = "upstream")]
    upstream_models: Vec<String>,
    /// File whose first line is the key that the server wants.
    #[arg(long, value_name = "FILE", requires = "upstream")]
    upstream_key_file: Option<PathBuf>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct StartArgs {
    /// The configuration file that `theta edge init` made.
    #[arg(long, env = "THETA_CONFIG")]
    config: PathBuf,
    /// Print one JSON value.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(command: Command) -> Result<()> {
    match command {
        Command::Init(args) => make(args),
        Command::Start(args) => start(args).await,
        Command::Status(args) => status(args).await,
    }
}

fn make(args: InitArgs) -> Result<()> {
    let password = match &args.password_file {
        Some(file) => password_file(file)?,
        None => password_of_environment()?,
    };
    let file = args.password_file.as_deref().map(std::path::absolute).transpose()?;
    let models = args.models.as_deref().map(std::path::absolute).transpose()?;
    let key_file = args.upstream_key_file.as_deref().map(std::path::absolute).transpose()?;
    let upstream = args.upstream.map(|url| UpstreamFile {
        key_file,
        chat: args.upstream_models,
        ..UpstreamFile::at(url)
    });
    let made = init(&args.data_dir, None, &password, Effort::Standard, |address| EdgeFile {
        port: args.port,
        password_file: file,
        settle_at_once: args.settle_at_once,
        models,
        upstream,
        ..EdgeFile::new(args.chain, args.rpc, args.gateways, address)
    })?;
    let (path, address) = (args.data_dir.join(FILE), made.address.to_checksum(None));
    if args.json {
        say!("{}", serde_json::json!({ "config": path, "address": address }))?;
    } else {
        say!("Made {}.\n", args.data_dir.display())?;
        say!("  address    {address}   (it is paid there)\n")?;
        say!("Start it: theta edge start --config {}", path.display())?;
    }
    Ok(())
}

async fn start(args: StartArgs) -> Result<()> {
    let (file, folder) = EdgeFile::read(&args.config)?;
    let engines = super::engines()?;
    let node = file.start(&folder, engines).await?;
    let ready = file.ready_line(&node)?;
    let stop = interruption()?;
    if args.json {
        say!("{ready}")?;
    } else {
        say!("Edge node {} is running. Ctrl-C stops it.\n", node.id.0.to_checksum(None))?;
        say!("  measured  {} cores, {} MiB", ready["measured"]["cores"], ready["measured"]["memoryMiB"])?;
        say!("  offers    {} tasks at once, {} MiB each", ready["slots"], ready["memoryMiBEach"])?;
        say!("  chain     {}", file.rpc)?;
        for gateway in &file.gateways {
            say!("  gateway   {gateway}")?;
        }
        say!("  itself    {}", node.url())?;
    }
    tokio::select! {
        () = stop => {}
        () = node.failed() => bail!("the edge node stopped; what it said is above"),
    }
    eprintln!("stopping");
    Ok(())
}

async fn status(args: StartArgs) -> Result<()> {
    let (file, _) = EdgeFile::read(&args.config)?;
    let url = format!("http://127.0.0.1:{}/status", file.port);
    let client = reqwest::Client::builder().no_proxy().build()?;
    let answer = client.get(&url).send().await.with_context(|| {
        format!(
            "the node does not answer at {url}; theta edge start --config {} starts it",
            args.config.display()
        )
    })?;
    let status: Value = answer.error_for_status()?.json().await?;
    if args.json {
        say!("{status}")?;
        return Ok(());
    }
    say!("Edge node {}: {} of {} slots busy.\n", text(&status["address"]), status["busy"], status["slots"])?;
    for gateway in status["gateways"].as_array().into_iter().flatten() {
        let known = gateway["address"].as_str().unwrap_or("does not answer");
        say!("  gateway   {}   {known}", text(&gateway["url"]))?;
    }
    say!("\nEarned, in TFUEL:")?;
    for state in ["earned", "exposed", "accrued", "settled", "burned", "shared", "fees", "lost"] {
        let wei = text(&status["earnings"][format!("{state}TfuelWei")]);
        say!("  {state:<10}{}", super::demo::tokens(&wei))?;
    }
    let refused = status["refused"].as_object();
    if refused.is_some_and(|refused| !refused.is_empty()) {
        say!("\nRefused offers:")?;
        for (reason, count) in refused.into_iter().flatten() {
            say!("  {reason:<20}{count}")?;
        }
    }
    if let Some(reason) = status["lastPoolRefusal"].as_str() {
        say!("\nThe last pool that was no good: {reason}")?;
    }
    Ok(())
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
