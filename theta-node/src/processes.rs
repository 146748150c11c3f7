//! A development network of many processes: each node is `theta start` with its own configuration, over loopback.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use parking_lot::Mutex;
use serde_json::Value;
use theta_core::hash::Address;
use theta_ledger::genesis::Genesis;
use theta_sdk::{client::Client, keystore::Effort, rpc::GetStatus};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

use crate::{
    config::{self, Config, FILE},
    devnet::{DevAccount, DevnetConfig, ReadyNode, prepare, ready_line},
    net::{Multiaddr, peer_id},
};

/// Longest wait for a node to answer.
const START: Duration = Duration::from_secs(60);
/// How often another free port is asked for.
const ATTEMPTS: u32 = 1_000;
/// How often a node is asked whether it has settled a block.
const LOOK: Duration = Duration::from_millis(50);
/// The keys of a development network are known to everybody, and so is their password.
pub(crate) const PASSWORD: &str = "devnet";

/// One node and its process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) name: String,
    config: PathBuf,
    pub(crate) child: Child,
    pub(crate) ready: Value,
}

/// A running network of processes. Dropping it kills them.
#[derive(Debug)]
pub struct Processes {
    nodes: Vec<Process>,
    accounts: Vec<DevAccount>,
    genesis: Genesis,
    config: DevnetConfig,
}

/// A port that was asked for, or one that is free now: what is written down has to be the same after a restart. The system
/// gives a port that was free a moment ago to the next who asks, so those that were given out here are remembered.
pub(crate) fn port(wanted: u16) -> Result<u16> {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    if wanted != 0 {
        return Ok(wanted);
    }
    for _ in 0..ATTEMPTS {
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        if GIVEN.lock().insert(port) {
            return Ok(port);
        }
    }
    bail!("no port is free that was not given out before")
}

/// Writes the configuration of every node that has none.
fn configure(config: &DevnetConfig, chain: &str) -> Result<(Vec<DevAccount>, Genesis, Vec<PathBuf>)> {
    let (accounts, keys, genesis) = prepare(config)?;
    let files: Vec<_> =
        (0..keys.len()).map(|index| config.data_dir.join(format!("validator-{index}")).join(FILE)).collect();
    let mut known: Vec<Multiaddr> = Vec::new();
    for (index, (key, file)) in keys.into_iter().zip(&files).enumerate() {
        let folder = file.parent().unwrap_or(Path::new(""));
        let name = peer_id(&key)?;
        let own = if file.exists() {
            Config::read(file)?.0
        } else {
            let listen: Multiaddr = format!("/ip4/127.0.0.1/tcp/{}", port(0)?).parse()?;
            let first = |wanted| if index == 0 { wanted } else { 0 };
            let (rpc, eth) = (port(first(config.rpc_port))?, port(first(config.eth_rpc_port))?);
            let admin = port(0)?;
            std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
            crate::folder::write_durably(&folder.join("password"), PASSWORD.as_bytes())?;
            config::init(folder, chain, Some(&genesis), Some(key), PASSWORD, Effort::Light, |made| {
                made.password_file = Some("password".into());
                made.listen = vec![listen];
                made.peers.clone_from(&known);
                made.rpc = ([127, 0, 0, 1], rpc).into();
                made.eth_rpc = ([127, 0, 0, 1], eth).into();
                made.admin = ([127, 0, 0, 1], admin).into();
                made.block_interval_ms = Some(config.block_interval_ms);
            })?
            .0
        };
        for address in own.listen {
            known.extend(address.with_p2p(name).ok());
        }
    }
    Ok((accounts, genesis, files))
}

impl Process {
    /// Starts one node and waits until it answers.
    pub(crate) async fn start(
        program: &Path,
        args: &[&OsStr],
        name: String,
        config: PathBuf,
    ) -> Result<Self> {
        let mut child = Command::new(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{} cannot be started", program.display()))?;
        let out = child.stdout.take().context("a child has an output")?;
        let mut lines = BufReader::new(out).lines();
        let Ok(line) = timeout(START, lines.next_line()).await else {
            bail!("{name} did not answer within {} s", START.as_secs())
        };
        let Some(line) = line? else {
            let status = child.wait().await?;
            bail!("{name} ended before it answered: {status}; what it said is above")
        };
        let ready = serde_json::from_str(&line).with_context(|| format!("{name} said {line}"))?;
        Ok(Self { name, config, child, ready })
    }
}

/// Tells processes to stop, and waits until all have.
pub(crate) async fn stop(mut nodes: Vec<Process>) -> Result<()> {
    for node in &nodes {
        let pid = node.child.id().and_then(|pid| i32::try_from(pid).ok());
        if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
            // One that is gone already needs no telling.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
    }
    for node in &mut nodes {
        if timeout(Duration::from_secs(10), node.child.wait()).await.is_err() {
            node.child.kill().await?;
        }
    }
    Ok(())
}

impl Processes {
    /// Makes the network, or goes on with the one in the folder. `chain` is the chain as `theta start` takes it, `program`
    /// the executable to run.
    pub async fn start(config: DevnetConfig, chain: &str, program: &Path) -> Result<Self> {
        let (accounts, genesis, files) = configure(&config, chain)?;
        let starting = files.into_iter().enumerate().map(|(index, file)| {
            let file = std::path::absolute(&file).unwrap_or(file);
            async move {
                let args = ["start".as_ref(), "--json".as_ref(), "--config".as_ref(), file.as_os_str()];
                Process::start(program, &args, format!("validator-{index}"), file.clone()).await
            }
        });
        let nodes = futures::future::try_join_all(starting).await?;
        ensure!(!nodes.is_empty(), "a network has nodes");
        let network = Self { nodes, accounts, genesis, config };
        timeout(START, network.first_block())
            .await
            .with_context(|| format!("no block was settled within {} s", START.as_secs()))??;
        Ok(network)
    }

    /// Waits until every node has settled a block that was not there when it started: the network works.
    async fn first_block(&self) -> Result<()> {
        for node in &self.nodes {
            let url = node.ready["thetaRpc"].as_str().unwrap_or_default();
            let client = Client::http(url)?;
            let before = node.ready["height"].as_u64().unwrap_or_default();
            loop {
                let status = client.call(&GetStatus::default()).await?;
                if status.latest_finalized_block_height.0 > before {
                    break;
                }
                tokio::time::sleep(LOOK).await;
            }
        }
        Ok(())
    }

    /// The line that says where everything is.
    pub fn ready_line(&self) -> Value {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let nodes: Vec<_> = self
            .nodes
            .iter()
            .map(|node| ReadyNode {
                name: node.name.clone(),
                address: text(&node.ready["address"]).parse().unwrap_or(Address::ZERO),
                pid: node.child.id().unwrap_or_default(),
                theta: text(&node.ready["thetaRpc"]),
                eth: text(&node.ready["ethRpc"]),
                config: Some(node.config.clone()),
            })
            .collect();
        ready_line(&self.config.spec, &self.genesis, &self.config.data_dir, &self.accounts, &nodes)
    }

    /// Accounts with coins.
    pub fn accounts(&self) -> &[DevAccount] {
        &self.accounts
    }

    /// Tells every node to stop, and waits until all have.
    pub async fn stop(self) -> Result<()> {
        stop(self.nodes).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_given_out_twice() {
        let ports: BTreeSet<u16> = (0..500).map(|_| port(0).expect("a free one")).collect();
        assert_eq!(ports.len(), 500);
        assert_eq!(port(1234).expect("as wanted"), 1234);
    }
}
