//! Takes down when transactions are told to be settled.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use theta_core::hash::Hash;
use tokio_tungstenite::{connect_async, tungstenite::Message};

use super::{endpoint::Endpoint, offer::Book};

/// How often a server without subscriptions is asked.
const POLL: Duration = Duration::from_millis(10);

fn hashes(list: &Value) -> impl Iterator<Item = Hash> {
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(|hash| hash.as_str()?.parse().ok())
}

/// A node's own word on every settled block that has transactions.
pub(super) async fn theta(rpc: String, book: Arc<Book>, started: Instant) -> Result<()> {
    let url = format!("{}/ws", rpc.trim_end_matches("/rpc").replacen("http", "ws", 1));
    let (mut socket, _) = connect_async(&url).await.with_context(|| url.clone())?;
    let subscribe = json!({
        "jsonrpc": "2.0",
        "id": 1,
        "method": "theta.Subscribe",
        "params": { "event": "settledTransactions" },
    });
    socket.send(Message::text(subscribe.to_string())).await?;
    let mut height = 0;
    while let Some(message) = socket.next().await {
        let Message::Text(text) = message? else { continue };
        let now = started.elapsed();
        let mut told: Value = serde_json::from_str(&text)?;
        let block = told["params"]["result"].take();
        if block.is_null() {
            ensure!(told["error"].is_null(), "{url} does not tell of settled blocks: {}", told["error"]);
            continue;
        }
        let at = block["height"].as_str().and_then(|height| height.parse::<u64>().ok());
        let at = at.context("a block without a height")?;
        ensure!(at > height, "block {at} was told after {height}");
        height = at;
        ensure!(
            book.told(hashes(&block["transactions"]), now),
            "a transaction of block {at} was settled before"
        );
    }
    bail!("{url} ended the connection")
}

/// Blocks as every Ethereum server has them.
pub(super) async fn ethereum(server: Endpoint, book: Arc<Book>, started: Instant) -> Result<()> {
    let number = |value: Value| {
        let digits = value.as_str().and_then(|text| text.strip_prefix("0x"));
        digits
            .and_then(|digits| u64::from_str_radix(digits, 16).ok())
            .context("a block number of another form")
    };
    let mut done = number(server.call("eth_blockNumber", json!([])).await?)?;
    loop {
        let head = number(server.call("eth_blockNumber", json!([])).await?)?;
        while done < head {
            done += 1;
            let at = format!("0x{done:x}");
            let block = server.call("eth_getBlockByNumber", json!([at, false])).await?;
            ensure!(
                book.told(hashes(&block["transactions"]), started.elapsed()),
                "a transaction of block {done} was settled before"
            );
        }
        tokio::time::sleep(POLL).await;
    }
}
