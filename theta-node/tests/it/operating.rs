//! What an operator asks, and what clients are told as it happens.

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use theta_core::{
    amount::{Coins, TFuelWei},
    hash::Address,
    spec::ChainSpec,
};
use theta_node::{admin, connections::listen};
use theta_sdk::{
    client::Client,
    wallet::{Wallet, minimum_fee},
};
use tokio_tungstenite::{connect_async, tungstenite::Message};

use super::{devnet, newcomer};

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sees_heights_counts_and_whether_a_node_is_well() {
    let folder = tempfile::tempdir().unwrap();
    let mut devnet = devnet(folder.path(), ChainSpec::devnet()).await;
    let node = devnet.nodes[0].node.handle();
    let wallet = Wallet::new("privatenet", devnet.accounts[0].key.clone());
    let client = Client::http(devnet.nodes[0].theta_url()).unwrap();
    let coins = Coins::tfuel(TFuelWei::whole(1));
    client.send(&wallet, Address::repeat_byte(1), coins, minimum_fee()).await.unwrap();

    let listener = listen(0, admin::routes(node.clone())).await.unwrap();
    let ask = async |path: &str| {
        let answer = reqwest::get(format!("http://{}{path}", listener.address)).await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let (status, text) = ask("/metrics").await;
    let value = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name) && !line.starts_with('#'));
        let value =
            line.and_then(|line| line.rsplit_once(' ')).map(|(_, value)| value.parse::<f64>().unwrap());
        value.unwrap_or_else(|| panic!("{name} is missing in {text}"))
    };
    assert_eq!(status, 200);
    assert!(value("theta_settled_height ") >= 1.0);
    assert_eq!(value("theta_peers "), 3.0);
    assert_eq!(value("theta_arrived_transactions_total{result=\"ready\"} "), 1.0);
    // Each block has its coinbase, too.
    assert!(value("theta_settled_transactions_total ") > value("theta_settled_height "));
    assert!(value("theta_block_execution_seconds_count ") >= 1.0);
    assert!(value("theta_memory_bytes ") > 1e6);
    assert_eq!(ask("/health").await.0, 200);
    let (status, text) = ask("/ready").await;
    assert_eq!(status, 200, "{text}");
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["peers"], json!(3));

    // A node without its network is alive, and not worth asking once it notices.
    let lone = newcomer(&devnet, &folder.path().join("lone"), 0x71, |config| {
        config.peers.clear();
        config.discover = false;
    })
    .await;
    let listener = listen(0, admin::routes(lone.handle())).await.unwrap();
    let answer = reqwest::get(format!("http://{}/ready", listener.address)).await.unwrap();
    // Its newest block is the genesis, made when the devnet was; that is less than a minute ago or already longer.
    let made = devnet.genesis.header.timestamp.to_string().parse::<u64>().unwrap();
    let age = theta_node::clock::now_millis() / 1000 - made;
    if age < 55 {
        assert_eq!(answer.status().as_u16(), 200);
    }
    devnet.nodes.clear();
}

#[tokio::test(flavor = "multi_thread")]
async fn subscribers_hear_of_each_settled_block_once_and_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let devnet = devnet(folder.path(), ChainSpec::devnet()).await;
    let url = devnet.nodes[1].theta_url().replace("http:", "ws:").replace("/rpc", "/ws");
    let (mut socket, _) = connect_async(&url).await.unwrap();
    let mut names = std::collections::BTreeMap::new();
    for (id, event) in ["settledBlocks", "settledTransactions", "newBlocks", "noSuchEvent"].iter().enumerate()
    {
        let call =
            json!({ "jsonrpc": "2.0", "id": id, "method": "theta.Subscribe", "params": { "event": event } });
        socket.send(Message::text(call.to_string())).await.unwrap();
        loop {
            let Message::Text(text) = socket.next().await.unwrap().unwrap() else { continue };
            let answer: Value = serde_json::from_str(&text).unwrap();
            if answer["id"] != json!(id) {
                continue;
            }
            if *event == "noSuchEvent" {
                let text = answer["error"]["message"].as_str().unwrap();
                assert!(text.contains("settledTransactions"), "{text}");
            } else {
                names.insert(answer["result"].as_str().unwrap().to_owned(), *event);
            }
            break;
        }
    }
    let wallet = Wallet::new("privatenet", devnet.accounts[0].key.clone());
    let client = Client::http(devnet.nodes[0].theta_url()).unwrap();
    let coins = Coins::tfuel(TFuelWei::whole(1));
    let sent = client.send(&wallet, Address::repeat_byte(1), coins, minimum_fee()).await.unwrap();
    let (mut heights, mut told, mut new) = (Vec::new(), None, 0);
    let hearing = async {
        while heights.len() < 4 || told.is_none() {
            let Message::Text(text) = socket.next().await.unwrap().unwrap() else { continue };
            let push: Value = serde_json::from_str(&text).unwrap();
            let result = &push["params"]["result"];
            match names[push["params"]["subscription"].as_str().unwrap()] {
                "settledBlocks" => {
                    let height: u64 = result["height"].as_str().unwrap().parse().unwrap();
                    // Whoever hears of a block can ask for it, here.
                    let here = Client::http(devnet.nodes[1].theta_url()).unwrap();
                    let block =
                        here.call_raw("theta.GetBlockByHeight", json!({ "height": height.to_string() }));
                    assert_eq!(block.await.unwrap()["hash"], result["hash"]);
                    heights.push(height);
                }
                "settledTransactions" => {
                    assert_eq!(result["transactions"], json!([sent.hash]));
                    assert!(told.replace(result["height"].clone()).is_none(), "told twice");
                }
                _ => new += 1,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), hearing).await.expect("told in time");
    assert!(heights.windows(2).all(|pair| pair[1] == pair[0] + 1), "{heights:?}");
    assert_eq!(told, Some(json!(sent.block.unwrap().height.to_string())));
    assert!(new > 0);
}
