//! Whole networks in one process.
#![allow(clippy::unwrap_used, missing_docs, reason = "whatever fails here is a failed test")]

mod content;
mod edge;
mod files;
mod gateway;
mod golden;
mod hybrid;
mod joining;
mod leaving;
mod loading;
mod network;
mod operating;
mod processes;
mod syncing;

use std::{path::Path, sync::Arc};

use theta_core::{sign::SecretKey, spec::ChainSpec};
use theta_ledger::vm::{ContractVm, NoContracts};
use theta_node::{
    devnet::{Devnet, DevnetConfig, TEST_MNEMONIC},
    node::{Node, NodeConfig},
};

async fn devnet(folder: &Path, spec: ChainSpec) -> Devnet {
    devnet_with(folder, spec, Arc::new(NoContracts)).await
}

async fn devnet_with(folder: &Path, spec: ChainSpec, vm: Arc<dyn ContractVm>) -> Devnet {
    let devnet = Devnet::start(DevnetConfig {
        spec,
        validators: 4,
        guardians: 0,
        accounts: 4,
        mnemonic: TEST_MNEMONIC.to_owned(),
        data_dir: folder.to_owned(),
        rpc_port: 0,
        eth_rpc_port: 0,
        block_interval_ms: 300,
        vm,
    })
    .await
    .unwrap();
    devnet.first_block().await.unwrap();
    devnet
}

/// A node of nobody's that joins a devnet by its second validator.
async fn newcomer(devnet: &Devnet, folder: &Path, number: u8, change: impl FnOnce(&mut NodeConfig)) -> Node {
    let spec = devnet.spec().clone();
    let mut config = NodeConfig {
        settings: theta_consensus::Settings::new(spec.rules(1).consensus.pace),
        spec,
        genesis: devnet.genesis.clone(),
        key: SecretKey::from_bytes(&[number; 32]).unwrap(),
        folder: folder.to_owned(),
        in_memory: false,
        keep: theta_ledger::state::Keep::All,
        begin_with_snapshot: false,
        snapshot_every: None,
        listen: vec!["/memory/0".parse().unwrap()],
        peers: devnet.nodes.get(1).unwrap_or(&devnet.nodes[0]).node.handle().addresses().to_vec(),
        discover: true,
        network_key: None,
        vm: Arc::new(NoContracts),
    };
    change(&mut config);
    Node::start(config).await.unwrap()
}
