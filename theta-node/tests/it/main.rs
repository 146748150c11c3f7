//! Whole networks in one process.
#![allow(clippy::unwrap_used, missing_docs, reason = "whatever fails here is a failed test")]

mod edge;
mod files;
mod gateway;
mod golden;
mod joining;
mod network;
mod processes;

use std::{path::Path, sync::Arc};

use theta_core::spec::ChainSpec;
use theta_ledger::vm::{ContractVm, NoContracts};
use theta_node::devnet::{Devnet, DevnetConfig, TEST_MNEMONIC};

async fn devnet(folder: &Path, spec: ChainSpec) -> Devnet {
    devnet_with(folder, spec, Arc::new(NoContracts)).await
}

async fn devnet_with(folder: &Path, spec: ChainSpec, vm: Arc<dyn ContractVm>) -> Devnet {
    let devnet = Devnet::start(DevnetConfig {
        spec,
        validators: 4,
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
