//! One server of one node.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::offer::Offer;

/// Longest wait for an answer; whoever takes longer is not there.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A server that takes transactions. Clones share connections.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    pub(super) url: Arc<str>,
    http: reqwest::Client,
    pub(super) ethereum: bool,
}

impl Endpoint {
    pub(super) fn new(url: &str, ethereum: bool) -> Result<Self> {
        let http = reqwest::Client::builder().timeout(TIMEOUT).no_proxy().build()?;
        Ok(Self { url: url.into(), http, ethereum })
    }

    async fn post(&self, body: String) -> Result<Value> {
        let request = self.http.post(&*self.url).header("content-type", "application/json").body(body);
        let bytes = request.send().await?.bytes().await?;
        Ok(serde_json::from_slice(&bytes)?)
    }

    pub(super) async fn call(&self, method: &str, params: Value) -> Result<Value> {
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        let mut answer =
            self.post(body.to_string()).await.with_context(|| format!("{}: {method}", self.url))?;
        if let Some(text) = error(&answer) {
            bail!("{}: {method}: {text}", self.url);
        }
        Ok(answer["result"].take())
    }

    /// Sends a batch in one call; an answer for each, in its order.
    pub(super) async fn submit(&self, batch: &[Offer]) -> Vec<Result<(), String>> {
        let calls = batch.iter().enumerate().map(|(id, offer)| {
            let raw = hex::encode(&offer.bytes);
            if self.ethereum {
                format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"eth_sendRawTransaction","params":["0x{raw}"]}}"#)
            } else {
                format!(
                    r#"{{"jsonrpc":"2.0","id":{id},"method":"theta.BroadcastRawTransactionAsync","params":[{{"tx_bytes":"{raw}"}}]}}"#
                )
            }
        });
        let body = format!("[{}]", calls.collect::<Vec<_>>().join(","));
        let lost = |text: String| vec![Err(text); batch.len()];
        let answers = match self.post(body).await {
            Ok(Value::Array(answers)) => answers,
            Ok(other) => {
                return lost(error(&other).unwrap_or_else(|| "an answer of another form".to_owned()));
            }
            Err(_) => return lost("no answer".to_owned()),
        };
        let mut results = lost("no answer".to_owned());
        for answer in answers {
            let place = answer["id"].as_u64().and_then(|id| usize::try_from(id).ok());
            if let Some(result) = place.and_then(|place| results.get_mut(place)) {
                *result = error(&answer).map_or(Ok(()), Err);
            }
        }
        results
    }
}

fn error(answer: &Value) -> Option<String> {
    let error = answer.get("error").filter(|error| !error.is_null())?;
    Some(error["message"].as_str().unwrap_or("an error without a message").to_owned())
}
