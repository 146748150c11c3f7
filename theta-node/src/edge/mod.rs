//! Hosts edge work: an edge node's worker and till, a requester's scheduler and purse, each with its own loop, its own
//! folder, its own listener and its own access to the chain.
//!
//! Both sides speak HTTP: `POST /edge` takes a sealed envelope, `GET /blob/{hash}` gives bytes by their hash. Envelopes
//! may be lost; the machines on both sides time out and ask again.
//!
//! A loop waits for nothing but its next event. What takes time (engines, fetches, the chain) is a task in the loop's
//! set, and its answer is the task's result; dropping the loop drops the set, and with it every engine that runs.

mod api;
mod asker;
mod blobs;
mod book;
pub mod config;
mod content;
mod funds;
mod hosts;
mod node;
mod nodes;
mod openai;
mod page;
mod presence;
mod requester;
mod rules;
mod wire;

use std::{fs::File, path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use theta_core::journal::FileDisk;

pub use self::{
    asker::Refused,
    blobs::DiskBlobs,
    funds::Funds,
    hosts::{EdgeHosts, HostsConfig},
    node::{ContentTerms, EdgeConfig, EdgeNode},
    presence::Capacity,
    requester::{Job, JobClient, JobClientConfig, Order, ProviderPool},
    wire::Directory,
};

/// Events that wait for one loop.
const EVENTS: usize = 128;
/// How often a node looks whether something is to be settled, and a requester whether a receipt is to be sent again.
const CLOSING: Duration = Duration::from_secs(1);

/// Takes a folder for this process, as long as the file lives. Two of one key would sign one sequence twice.
fn lock(folder: &Path) -> Result<File> {
    let path = folder.join("lock");
    let file = File::create(&path).with_context(|| path.display().to_string())?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => bail!("{} is used by another process", folder.display()),
        Err(std::fs::TryLockError::Error(error)) => Err(error).with_context(|| path.display().to_string()),
    }
}

fn disk(folder: &Path, name: &str) -> Result<FileDisk> {
    let path = folder.join(name);
    FileDisk::open(&path).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests;
