//! Calls and subscriptions over a WebSocket.
//!
//! A call is answered as over HTTP. `eth_subscribe` takes `newHeads` and `logs`. `theta.Subscribe` takes `{"event": …}`:
//! `settledBlocks` and `settledTransactions` (the hashes of each settled block that has any) tell of every block in order;
//! `newBlocks` and `finalBlocks` of the newest executed block and the newest final checkpoint as they change. Everything
//! about what is pushed can be asked for by then.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::extract::ws::{Message, WebSocket};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    task::JoinSet,
    time::timeout,
};

use super::{Dialect, RpcError, answer, eth::EthApi, theta::ThetaApi};
use crate::chain::Progress;

/// Subscriptions of one connection.
const MAX_SUBSCRIPTIONS: usize = 64;
/// Calls of one connection that are worked on at once; the next message is read when one is done.
const MAX_CALLS: usize = 64;
/// Longest wait for a client to take what it was sent.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most blocks that are told after a pause; who was away longer asks for the rest.
const MAX_BACKLOG: u64 = 1_000;

/// The methods behind a connection.
#[derive(Clone, Debug)]
pub(crate) enum Api {
    Theta(ThetaApi),
    Ethereum(EthApi),
}

/// What a client wants to hear of.
#[derive(Clone, Debug)]
enum Topic {
    Heads,
    Logs(Value),
    Blocks,
    Transactions,
    NewBlocks,
    FinalBlocks,
}

/// What `theta.Subscribe` takes.
const EVENTS: [(&str, Topic); 4] = [
    ("settledBlocks", Topic::Blocks),
    ("settledTransactions", Topic::Transactions),
    ("newBlocks", Topic::NewBlocks),
    ("finalBlocks", Topic::FinalBlocks),
];

#[derive(Debug, Default)]
struct Subscriptions {
    topics: BTreeMap<u64, Topic>,
    next: u64,
}

impl Subscriptions {
    fn add(&mut self, topic: Topic) -> Result<Value, RpcError> {
        if self.topics.len() >= MAX_SUBSCRIPTIONS {
            let text = format!("a connection has at most {MAX_SUBSCRIPTIONS} subscriptions");
            return Err(RpcError::application(text));
        }
        self.next += 1;
        self.topics.insert(self.next, topic);
        Ok(json!(format!("0x{:x}", self.next)))
    }

    fn remove(&mut self, id: &Value) -> bool {
        let number = id.as_str().and_then(|id| u64::from_str_radix(id.trim_start_matches("0x"), 16).ok());
        number.is_some_and(|number| self.topics.remove(&number).is_some())
    }
}

impl Api {
    const fn dialect(&self) -> Dialect {
        match self {
            Self::Theta(_) => Dialect::Theta,
            Self::Ethereum(_) => Dialect::Ethereum,
        }
    }

    fn progress(&self) -> watch::Receiver<Progress> {
        match self {
            Self::Theta(api) => api.progress(),
            Self::Ethereum(api) => api.progress(),
        }
    }

    async fn call(
        &self,
        subscriptions: &Mutex<Subscriptions>,
        method: &str,
        params: Value,
    ) -> Result<Value, RpcError> {
        let first = |params: &Value| match params {
            Value::Array(items) => items.first().cloned().unwrap_or_default(),
            other => other.clone(),
        };
        match (self, method) {
            (Self::Ethereum(_), "eth_subscribe") => {
                let topic = match first(&params).as_str() {
                    Some("newHeads") => Topic::Heads,
                    Some("logs") => Topic::Logs(params.get(1).cloned().unwrap_or_else(|| json!({}))),
                    _ => return Err(RpcError::params("there are subscriptions to newHeads and logs")),
                };
                subscriptions.lock().add(topic)
            }
            (Self::Theta(_), "theta.Subscribe") => {
                let params = first(&params);
                let event = params["event"].as_str().unwrap_or_default();
                let Some((_, topic)) = EVENTS.iter().find(|(name, _)| *name == event) else {
                    let names = EVENTS.map(|(name, _)| name).join(", ");
                    return Err(RpcError::params(format!("there are subscriptions to the events {names}")));
                };
                subscriptions.lock().add(topic.clone())
            }
            (Self::Ethereum(_), "eth_unsubscribe") => {
                Ok(Value::Bool(subscriptions.lock().remove(&first(&params))))
            }
            (Self::Theta(_), "theta.Unsubscribe") => {
                Ok(Value::Bool(subscriptions.lock().remove(&first(&params)["subscription"])))
            }
            _ => self.call_plain(method, params).await,
        }
    }

    /// What a settled block has for a topic.
    async fn news(&self, topic: &Topic, height: u64) -> Vec<Value> {
        let at = format!("0x{height:x}");
        let answer = match (self, topic) {
            (Self::Ethereum(api), Topic::Heads) => {
                let block = api.call("eth_getBlockByNumber", json!([at, false])).await;
                return block.ok().filter(|block| !block.is_null()).map(head).into_iter().collect();
            }
            (Self::Ethereum(api), Topic::Logs(filter)) => {
                let mut filter = filter.clone();
                if let Value::Object(fields) = &mut filter {
                    fields.remove("blockHash");
                    fields.insert("fromBlock".to_owned(), json!(at));
                    fields.insert("toBlock".to_owned(), json!(at));
                }
                api.call("eth_getLogs", json!([filter])).await
            }
            (Self::Theta(api), Topic::Blocks) => {
                let block = api.call("theta.GetBlockByHeight", json!({ "height": height.to_string() })).await;
                return block.into_iter().collect();
            }
            (Self::Theta(api), Topic::Transactions) => {
                return api.settled_transactions(height).await.into_iter().collect();
            }
            _ => return Vec::new(),
        };
        match answer {
            Ok(Value::Array(logs)) => logs,
            _ => Vec::new(),
        }
    }

    /// A block for a topic that tells of the newest one only.
    async fn newest(&self, topic: &Topic, before: &Progress, now: &Progress) -> Option<Value> {
        let (before, now) = match topic {
            Topic::NewBlocks => (Some(before.tip), Some(now.tip)),
            Topic::FinalBlocks => (before.final_checkpoint, now.final_checkpoint),
            _ => return None,
        };
        let (hash, _) = now.filter(|_| now != before)?;
        self.call_plain("theta.GetBlock", json!({ "hash": hash })).await.ok()
    }

    async fn call_plain(&self, method: &str, params: Value) -> Result<Value, RpcError> {
        match self {
            Self::Theta(api) => api.call(method, params).await,
            Self::Ethereum(api) => api.call(method, params).await,
        }
    }

    fn push(&self, id: u64, result: &Value) -> Value {
        let method = match self {
            Self::Theta(_) => "theta.Subscription",
            Self::Ethereum(_) => "eth_subscription",
        };
        json!({
            "jsonrpc": "2.0",
            "method": method,
            "params": { "subscription": format!("0x{id:x}"), "result": result },
        })
    }
}

/// A block without what a header does not have.
fn head(mut block: Value) -> Value {
    if let Value::Object(fields) = &mut block {
        for field in ["transactions", "uncles", "size", "totalDifficulty"] {
            fields.remove(field);
        }
    }
    block
}

async fn send(socket: &mut WebSocket, value: &Value) -> bool {
    matches!(timeout(PATIENCE, socket.send(Message::Text(value.to_string().into()))).await, Ok(Ok(())))
}

/// Serves a connection until it ends, or its client no longer takes what it is sent. `_place` is its place among all.
pub(crate) async fn serve(mut socket: WebSocket, api: Api, _place: OwnedSemaphorePermit) {
    let mut progress = api.progress();
    let mut told = *progress.borrow_and_update();
    let subscriptions = Arc::new(Mutex::new(Subscriptions::default()));
    let mut calls = JoinSet::new();
    loop {
        tokio::select! {
            message = socket.recv(), if calls.len() < MAX_CALLS => {
                let bytes = match message {
                    Some(Ok(Message::Text(text))) => text.as_bytes().to_vec(),
                    Some(Ok(Message::Binary(bytes))) => bytes.to_vec(),
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                };
                let (api, subscriptions) = (api.clone(), subscriptions.clone());
                calls.spawn(async move {
                    let (api, subscriptions) = (&api, &*subscriptions);
                    let call = |method: String, params| async move { api.call(subscriptions, &method, params).await };
                    answer(api.dialect(), &bytes, call).await
                });
            }
            Some(done) = calls.join_next() => {
                if let Ok(Some(value)) = done && !send(&mut socket, &value).await {
                    return;
                }
            }
            changed = progress.changed() => {
                if changed.is_err() {
                    return;
                }
                let now = *progress.borrow_and_update();
                let first = (told.settled + 1).max(now.settled.saturating_sub(MAX_BACKLOG));
                let topics: Vec<_> = subscriptions.lock().topics.clone().into_iter().collect();
                for height in first..=now.settled {
                    for (id, topic) in &topics {
                        for result in api.news(topic, height).await {
                            if !send(&mut socket, &api.push(*id, &result)).await {
                                return;
                            }
                        }
                    }
                }
                for (id, topic) in &topics {
                    if let Some(result) = api.newest(topic, &told, &now).await
                        && !send(&mut socket, &api.push(*id, &result)).await
                    {
                        return;
                    }
                }
                told = now;
            }
        }
    }
}
