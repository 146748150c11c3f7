//! A network of processes.

use std::{path::Path, process::Command, time::Duration};

use serde_json::Value;
use theta_core::{
    amount::{Coins, TFuelWei, ThetaWei},
    hash::Address,
    spec::ChainSpec,
};
use theta_node::{
    devnet::{DevnetConfig, TEST_MNEMONIC, role_key},
    processes::Processes,
};
use theta_sdk::{
    client::Client,
    hd::{self, Path as HdPath},
    wallet::{Wallet, minimum_fee},
};

fn config(folder: &Path) -> DevnetConfig {
    DevnetConfig {
        spec: ChainSpec::devnet(),
        validators: 4,
        guardians: 4,
        accounts: 2,
        mnemonic: TEST_MNEMONIC.to_owned(),
        data_dir: folder.to_owned(),
        rpc_port: 0,
        eth_rpc_port: 0,
        block_interval_ms: 300,
        vm: std::sync::Arc::new(theta_ledger::vm::NoContracts),
    }
}

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_theta"))
}

async fn settled(client: &Client, to: Address, expected: TFuelWei) {
    for _ in 0..200 {
        if let Ok(Some(account)) = client.account(to).await
            && account.coins.tfuel == expected
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{expected} never arrived");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_validator_comes_back_and_a_stopped_network_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let to = Address::repeat_byte(0xcc);
    let coins = Coins { theta: ThetaWei::ZERO, tfuel: TFuelWei::whole(1) };
    let wallet = Wallet::new("privatenet", hd::derive(TEST_MNEMONIC, HdPath::Ethereum(0)).unwrap());
    let url = |ready: &Value, node: usize| ready["nodes"][node]["thetaRpc"].as_str().unwrap().to_owned();
    {
        let network = Processes::start(config(folder.path()), "devnet", program()).await.unwrap();
        let ready = network.ready_line();
        let pids: std::collections::BTreeSet<_> =
            ready["nodes"].as_array().unwrap().iter().map(|node| node["pid"].as_u64().unwrap()).collect();
        assert_eq!(pids.len(), 4);
        assert_eq!(
            ready["nodes"][2]["address"].as_str().unwrap(),
            role_key(TEST_MNEMONIC, 1, 2).unwrap().address().to_checksum(None)
        );
        let first = Client::http(url(&ready, 0)).unwrap();
        first.send(&wallet, to, coins, minimum_fee()).await.unwrap();
        settled(&Client::http(url(&ready, 3)).unwrap(), to, TFuelWei::whole(1)).await;
        // One of four is killed; three go on.
        let pid = ready["nodes"][2]["pid"].as_u64().unwrap();
        assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
        for _ in 0..3 {
            first.send(&wallet, to, coins, minimum_fee()).await.unwrap();
        }
        let file = ready["nodes"][2]["config"].as_str().unwrap();
        let mut again = Command::new(program())
            .args(["start", "--json", "--config", file])
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        settled(&Client::http(url(&ready, 2)).unwrap(), to, TFuelWei::whole(4)).await;
        again.kill().unwrap();
        again.wait().unwrap();
        network.stop().await.unwrap();
    }
    let network = Processes::start(config(folder.path()), "devnet", program()).await.unwrap();
    let ready = network.ready_line();
    let last = Client::http(url(&ready, 3)).unwrap();
    settled(&last, to, TFuelWei::whole(4)).await;
    last.send(&wallet, to, coins, minimum_fee()).await.unwrap();
    settled(&Client::http(url(&ready, 1)).unwrap(), to, TFuelWei::whole(5)).await;
    network.stop().await.unwrap();
}
