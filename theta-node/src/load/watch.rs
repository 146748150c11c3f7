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
/// How often in a row nodes may be found silent, and the pause after each time.
const ATTEMPTS: u32 = 50;
const RETRY: Duration = Duration::from_millis(200);

fn hashes(list: &Value) -> impl Iterator<Item = Hash> {
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(|hash| hash.as_str()?.parse().ok())
}

/// What nodes themselves say of every settled block that has transactions. One node is listened to; where it goes away,
/// the next one is, and asked for what was missed.
pub(super) async fn theta(rpc: Vec<String>, book: Arc<Book>, started: Instant) -> Result<()> {
    let mut height = 0;
    let mut silent = 0;
    for url in rpc.iter().cycle().skip(rpc.len() / 2) {
        let before = height;
        match listen(url, &book, started, &mut height).await {
            Ok(()) => silent = 0,
            Err(error) if error.is::<Wrong>() => return Err(error),
            Err(error) => {
                silent = if height == before { silent + 1 } else { 0 };
                if silent > ATTEMPTS {
                    return Err(error);
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    }
    bail!("no node is named")
}

/// What no node may tell.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Wrong(String);

/// Listens to one node until the connection ends. `height` is that of the newest block that was told.
async fn listen(rpc: &str, book: &Book, started: Instant, height: &mut u64) -> Result<()> {
    let url = format!("{}/ws", rpc.trim_end_matches("/rpc").replacen("http", "ws", 1));
    let (mut socket, _) = connect_async(&url).await.with_context(|| url.clone())?;
    let subscribe = json!({
        "jsonrpc": "2.0",
        "id": 1,
        "method": "theta.Subscribe",
        "params": { "event": "settledTransactions" },
    });
    socket.send(Message::text(subscribe.to_string())).await?;
    let mut missed = *height > 0;
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
        if at <= *height {
            if missed {
                // This node was behind the one before.
                continue;
            }
            bail!(Wrong(format!("block {at} was told after {height}")));
        }
        if std::mem::take(&mut missed) {
            let server = Endpoint::new(rpc, false)?;
            for between in *height + 1..at {
                let asked = json!({ "height": between.to_string() });
                let block = server.call("theta.GetBlockByHeight", asked).await?;
                let transactions = block["transactions"].as_array().map(Vec::as_slice).unwrap_or_default();
                let hashes = transactions.iter().filter_map(|one| one["hash"].as_str()?.parse().ok());
                once(book.told(hashes, now), between)?;
                *height = between;
            }
        }
        *height = at;
        once(book.told(hashes(&block["transactions"]), now), at)?;
    }
    bail!("{url} ended the connection")
}

fn once(once: bool, height: u64) -> Result<()> {
    ensure!(once, Wrong(format!("a transaction of block {height} was settled before")));
    Ok(())
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
            once(book.told(hashes(&block["transactions"]), started.elapsed()), done)?;
        }
        tokio::time::sleep(POLL).await;
    }
}
