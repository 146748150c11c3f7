//! Transfers through four validators, and a network that goes on after a stop.

use std::{sync::Arc, time::Duration};

use theta_core::{
    amount::{Coins, TFuelWei, ThetaWei},
    hash::{Address, Hash},
    spec::ChainSpec,
};
use theta_ledger::ledger::At;
use theta_node::{devnet::Devnet, node::Node};
use theta_sdk::{
    client::{Client, ClientError, TransportError},
    rpc,
    wallet::{MINIMUM_GAS_PRICE, Wallet, minimum_fee},
};

use super::{devnet, devnet_with, newcomer};

fn client(devnet: &Devnet, index: usize) -> Client {
    Client::http(devnet.nodes[index].theta_url()).unwrap()
}

fn wallet(devnet: &Devnet, index: usize) -> Wallet {
    Wallet::new("privatenet", devnet.accounts[index].key.clone())
}

/// State roots of all validators at the lowest settled height of any.
fn roots(devnet: &Devnet) -> Vec<(u64, Hash)> {
    let readers: Vec<_> = devnet.handles().map(|handle| handle.reader).collect();
    let height = readers.iter().map(|reader| reader.settled().header.height).min().unwrap();
    let root = |reader: &theta_ledger::ledger::LedgerReader| {
        reader.block(At::Height(height)).unwrap().unwrap().block.header.state_root
    };
    readers.iter().map(|reader| (height, root(reader))).collect()
}

async fn settles_and_goes_on(spec: ChainSpec) {
    let folder = tempfile::tempdir().unwrap();
    let to = Address::repeat_byte(0xaa);
    let coins = Coins { theta: ThetaWei::whole(3), tfuel: TFuelWei::whole(4) };
    let mut sent = Vec::new();
    {
        let devnet = devnet(folder.path(), spec.clone()).await;
        let writer = client(&devnet, 0);
        for _ in 0..3 {
            sent.push(writer.send(&wallet(&devnet, 0), to, coins, minimum_fee()).await.unwrap());
        }
        let refused = writer.send(&wallet(&devnet, 1), to, coins, TFuelWei::wei(1)).await.unwrap_err();
        let ClientError::Transport(TransportError::Rpc { code: -32000, message }) = refused else {
            panic!("{refused}")
        };
        assert!(message.starts_with("Insufficient fee"), "{message}");
        let all = roots(&devnet);
        assert!(all.iter().all(|root| *root == all[0]), "{all:?}");
    }
    // Stopped in order here; clients' tests kill it.
    let devnet = devnet(folder.path(), spec).await;
    for (index, sent) in sent.iter().enumerate() {
        let reader = client(&devnet, 1 + index % 3);
        let found = reader.transaction(&sent.hash).await.unwrap();
        assert_eq!((found.status.as_str(), found.hash), ("finalized", sent.hash));
        assert_eq!(found.block_height.0, sent.block.as_ref().unwrap().height);
    }
    let reader = client(&devnet, 2);
    let account = reader.account(to).await.unwrap().unwrap();
    assert_eq!(account.coins.tfuel, TFuelWei::whole(12));
    let before = reader.call(&rpc::GetStatus::default()).await.unwrap().latest_finalized_block_height.0;
    client(&devnet, 3).send(&wallet(&devnet, 2), to, coins, minimum_fee()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let after = reader.call(&rpc::GetStatus::default()).await.unwrap().latest_finalized_block_height.0;
    assert!(after > before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_devnet_settles_transfers_and_goes_on_after_a_stop() {
    settles_and_goes_on(ChainSpec::devnet()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_does_a_network_under_the_main_networks_rules() {
    settles_and_goes_on(ChainSpec::privatenet()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_about_unknown_transactions_are_answered() {
    let folder = tempfile::tempdir().unwrap();
    let devnet = devnet(folder.path(), ChainSpec::privatenet()).await;
    let handle = devnet.handles().next().unwrap();
    // On a thread of its own: a call that waits for itself would hold up the test's end, too.
    let (answered, answer) = std::sync::mpsc::channel();
    let runtime = tokio::runtime::Handle::current();
    std::thread::spawn(move || {
        let api = theta_node::rpc::eth::EthApi::new(handle);
        let params = serde_json::json!([Hash::repeat_byte(9)]);
        let result = runtime.block_on(api.call("eth_getTransactionByHash", params));
        let _ = answered.send(result.unwrap());
    });
    let answer = tokio::task::spawn_blocking(move || answer.recv_timeout(Duration::from_secs(10)));
    let answer = answer.await.unwrap();
    if answer.is_err() {
        // Stopping it would wait for the lock that the call holds.
        std::mem::forget(devnet);
    }
    assert_eq!(answer, Ok(serde_json::Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fee_history_has_a_bound() {
    let folder = tempfile::tempdir().unwrap();
    let devnet = devnet(folder.path(), ChainSpec::devnet()).await;
    let api = theta_node::rpc::eth::EthApi::new(devnet.handles().next().unwrap());
    let history = |percentiles: usize| {
        api.call("eth_feeHistory", serde_json::json!(["0x2", "latest", vec![50; percentiles]]))
    };
    assert_eq!(history(100).await.unwrap()["reward"][0].as_array().unwrap().len(), 100);
    assert!(history(101).await.unwrap_err().message.contains("at most 100 percentiles"));
}

#[tokio::test(flavor = "multi_thread")]
async fn broadcasts_that_wait_hold_up_no_reader_and_have_a_bound() {
    let folder = tempfile::tempdir().unwrap();
    let mut devnet = devnet(folder.path(), ChainSpec::devnet()).await;
    // One of four settles nothing, so whoever waits for that waits long.
    devnet.nodes.truncate(1);
    let wallet = wallet(&devnet, 0);
    let coins = Coins { theta: ThetaWei::ZERO, tfuel: TFuelWei::whole(1) };
    let raw = wallet.send(1, Address::repeat_byte(0xaa), coins, minimum_fee()).sign(wallet.signer()).unwrap();
    let (sender, url) = (client(&devnet, 0), devnet.nodes[0].theta_url());
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..300 {
        let (sender, raw) = (sender.clone(), raw.clone());
        waiting.spawn(async move { sender.broadcast(&raw).await });
    }
    // The first hundred wait; the others are told at once that nothing was sent.
    for _ in 0..200 {
        let refused = tokio::time::timeout(Duration::from_secs(20), waiting.join_next()).await;
        let refused = refused.expect("refused at once").unwrap().unwrap().unwrap_err();
        assert!(refused.to_string().contains("theta.BroadcastRawTransactionAsync"), "{refused}");
    }
    let reader = Client::http(url).unwrap();
    let status = rpc::GetStatus::default();
    tokio::time::timeout(Duration::from_secs(5), reader.call(&status)).await.expect("at once").unwrap();
    assert_eq!(waiting.len(), 100);
}

/// Contracts that are the end of whoever runs them.
struct Panics;

impl theta_ledger::vm::ContractVm for Panics {
    fn execute(
        &self,
        _: &theta_ledger::vm::VmEnv<'_>,
        _: &theta_ledger::vm::VmCall,
        _: &mut theta_ledger::state::StateView,
    ) -> Result<theta_ledger::vm::VmOutcome, theta_ledger::state::StateError> {
        panic!("as the test wants it")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_of_the_chain_thread_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let devnet = devnet_with(folder.path(), ChainSpec::devnet(), Arc::new(Panics)).await;
    let wallet = wallet(&devnet, 0);
    let call = theta_ledger::vm::VmCall {
        gas_limit: 100_000,
        gas_price: MINIMUM_GAS_PRICE.try_into().unwrap(),
        data: vec![0],
        ..Default::default()
    };
    let raw = wallet.contract(1, &call).sign(wallet.signer()).unwrap();
    client(&devnet, 0).broadcast_async(&raw).await.unwrap();
    let reason = tokio::time::timeout(Duration::from_secs(20), devnet.failure()).await.expect("told");
    assert!(reason.contains("validator-") && reason.contains("panicked"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_was_told_to_wait_outlives_its_node() {
    let folder = tempfile::tempdir().unwrap();
    let mut network = devnet(folder.path(), ChainSpec::devnet()).await;
    // Two of four settle nothing.
    network.nodes.truncate(2);
    let mut sent = Vec::new();
    for sequence in 1..=20 {
        let raw = one_tfuel(&network, sequence);
        sent.push(network.nodes[0].node.handle().submit(raw).unwrap().hash());
    }
    drop(network);
    // With all four back they settle, though no pool that had them is left.
    let network = devnet(folder.path(), ChainSpec::devnet()).await;
    let reader = network.nodes[3].node.handle().reader;
    for _ in 0..400 {
        let settled = |hash: &Hash| reader.transaction(hash).unwrap().is_some_and(|found| found.settled);
        if sent.iter().all(settled) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("some are lost");
}

fn one_tfuel(devnet: &Devnet, sequence: u64) -> Vec<u8> {
    let wallet = wallet(devnet, 0);
    let coins = Coins { theta: ThetaWei::ZERO, tfuel: TFuelWei::whole(1) };
    let send = wallet.send(sequence, Address::repeat_byte(0xaa), coins, minimum_fee());
    send.sign(wallet.signer()).unwrap().bytes
}

/// Two of four validators, who settle nothing, with a transaction in a block that stays unsettled; gives its sequence and
/// hash.
async fn stuck_devnet(folder: &std::path::Path) -> (Devnet, u64, Hash) {
    for sequence in 1..=30 {
        let mut devnet = devnet(folder, ChainSpec::devnet()).await;
        let handle = devnet.nodes[0].node.handle();
        let hash = handle.submit(one_tfuel(&devnet, sequence)).unwrap().hash();
        let settled = || handle.reader.transaction(&hash).unwrap().map(|found| found.settled);
        for _ in 0..4_000 {
            if settled().is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        devnet.nodes.truncate(2);
        tokio::time::sleep(Duration::from_secs(1)).await;
        if settled() == Some(false) {
            return (devnet, sequence, hash);
        }
    }
    panic!("none stayed in an unsettled block, thirty times");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_reaches_nodes_that_come_later() {
    let folder = tempfile::tempdir().unwrap();
    let (devnet, sequence, hash) = stuck_devnet(folder.path()).await;
    let from = devnet.nodes[0].node.handle();
    let mut sent = vec![hash];
    for sequence in sequence + 1..sequence + 600 {
        sent.push(from.submit(one_tfuel(&devnet, sequence)).unwrap().hash());
    }
    let complete = async |node: &Node| {
        let pool = node.handle().mempool;
        for _ in 0..1_800 {
            if sent.iter().all(|hash| pool.lock().find(hash).is_some()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{} of {} are there", pool.lock().len(), sent.len());
    };
    complete(&devnet.nodes[1].node).await;
    let first = newcomer(&devnet, &folder.path().join("first"), 0x61, |config| config.discover = false).await;
    complete(&first).await;
    // This one knows no other.
    let second = newcomer(&devnet, &folder.path().join("second"), 0x62, |config| {
        config.discover = false;
        config.peers = first.handle().addresses().to_vec();
    })
    .await;
    complete(&second).await;
}
