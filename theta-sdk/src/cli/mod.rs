//! `thetacli`: keys, transactions and queries on the command line.
//!
//! Results go to stdout, with `--json` as one JSON value; questions and errors go to stderr. Exit status: 0 success, 1 the
//! work failed, 2 wrong usage.

/// Prints a line. Whoever reads may stop reading, which ends the program quietly instead of by a panic.
macro_rules! say {
    ($($arg:tt)*) => {
        std::io::Write::write_fmt(&mut std::io::stdout(), format_args!("{}
", format_args!($($arg)*)))
    };
}

mod key;
mod query;
mod tx;

use std::{io::IsTerminal, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Parser, Subcommand};
use zeroize::Zeroizing;

use crate::{
    client::Client,
    keystore::{Effort, Keystore},
};

/// Keys, transactions and queries for a Theta network.
#[derive(Debug, Parser)]
#[command(
    name = "thetacli",
    version,
    after_help = "Example:\n  thetacli key new\n  thetacli tx send --from 2E83… --to 9F12… --tfuel 10\n  thetacli query account --address 9F12…"
)]
struct Cli {
    /// Folder of keys and settings.
    #[arg(long, env = "THETA_CONFIG", global = true, value_name = "DIR")]
    config: Option<PathBuf>,
    /// The node's RPC.
    #[arg(
        long,
        env = "THETA_RPC",
        global = true,
        value_name = "URL",
        default_value = "http://localhost:16888/rpc"
    )]
    rpc: String,
    /// Print one JSON value.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make, list, import and delete keys.
    #[command(subcommand)]
    Key(key::Key),
    /// Make, sign and send transactions.
    #[command(subcommand)]
    Tx(tx::Tx),
    /// Ask a node.
    #[command(subcommand)]
    Query(query::Query),
}

struct Session {
    keys: PathBuf,
    client: Client,
    json: bool,
}

impl Session {
    fn keystore(&self) -> anyhow::Result<Keystore> {
        // For tests; a key that is worth something is not protected by it.
        let light = std::env::var_os("THETA_LIGHT_KEYSTORE").is_some();
        let effort = if light { Effort::Light } else { Effort::Standard };
        Ok(Keystore::open(&self.keys, effort)?)
    }

    fn print(&self, value: &serde_json::Value, human: impl FnOnce() -> String) -> anyhow::Result<()> {
        if self.json {
            say!("{value}")?;
        } else {
            say!("{}", human())?;
        }
        Ok(())
    }
}

/// Runs the program with the process's arguments.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error)
            if error
                .downcast_ref()
                .is_some_and(|error: &std::io::Error| error.kind() == std::io::ErrorKind::BrokenPipe) =>
        {
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    let folder = match cli.config {
        Some(folder) => folder,
        None => PathBuf::from(std::env::var_os("HOME").context("no home folder; name one with --config")?)
            .join(".thetacli"),
    };
    let context = Session {
        keys: folder.join("keys").join("encrypted"),
        client: Client::http(cli.rpc)?,
        json: cli.json,
    };
    match cli.command {
        Command::Key(command) => key::run(&context, command),
        Command::Tx(command) => tx::run(&context, command).await,
        Command::Query(command) => query::run(&context, command).await,
    }
}

/// Asks for a secret: without echo on a terminal, else one line of standard input.
fn ask_secret(question: &str) -> anyhow::Result<Zeroizing<String>> {
    let secret = if std::io::stdin().is_terminal() {
        rpassword::prompt_password(format!("{question}: "))?
    } else {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line)?;
        line.trim_end_matches(['\r', '\n']).to_owned()
    };
    Ok(Zeroizing::new(secret))
}
