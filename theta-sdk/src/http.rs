//! JSON-RPC over HTTP.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use serde_json::{Value, json};

use crate::client::{Client, Transport, TransportError};

/// Longer than the longest wait of a node, which is a broadcast's 60 seconds.
const TIMEOUT: Duration = Duration::from_secs(70);

/// A node's HTTP endpoint.
#[derive(Debug)]
pub struct Http {
    url: String,
    client: reqwest::Client,
    next_id: AtomicU64,
}

impl Http {
    /// The endpoint at a URL such as `http://127.0.0.1:16888/rpc`.
    pub fn new(url: impl Into<String>) -> Result<Self, TransportError> {
        let client = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .no_proxy()
            .build()
            .map_err(|error| TransportError::Unreachable(error.to_string()))?;
        Ok(Self { url: url.into(), client, next_id: AtomicU64::new(1) })
    }
}

impl Client {
    /// A client of the node at a URL such as `http://127.0.0.1:16888/rpc`.
    pub fn http(url: impl Into<String>) -> Result<Self, TransportError> {
        Http::new(url).map(Self::new)
    }
}

#[async_trait]
impl Transport for Http {
    async fn call(&self, method: &str, params: Value) -> Result<Value, TransportError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let request = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        let unreachable = |error: reqwest::Error| {
            TransportError::Unreachable(format!("{}: {}", self.url, root_cause(&error)))
        };
        let response = self.client.post(&self.url).json(&request).send().await.map_err(unreachable)?;
        let bytes = response.bytes().await.map_err(unreachable)?;
        let mut answer: Value =
            serde_json::from_slice(&bytes).map_err(|error| TransportError::Malformed(error.to_string()))?;
        if let Some(error) = answer.get("error").filter(|error| !error.is_null()) {
            return Err(TransportError::Rpc {
                code: error["code"].as_i64().unwrap_or_default(),
                message: error["message"].as_str().unwrap_or_default().to_owned(),
            });
        }
        match answer.get_mut("result") {
            Some(result) => Ok(result.take()),
            None => Err(TransportError::Malformed("neither result nor error".to_owned())),
        }
    }
}

/// The last of the causes says what happened; the first only that something did.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
