//! What an edge node shows of itself.

use anyhow::Result;
use axum::{Router, http::StatusCode, response::IntoResponse as _, routing::get};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::{super::page, Content, EdgeLoop, NodeEvent, Peers};

/// `GET /status`: what the node has earned, and what it refused; `/content`: what it gave and fetched; `/p2p`: where other
/// edge nodes reach it.
pub(super) fn routes(events: mpsc::Sender<NodeEvent>, content: Content, peers: Peers) -> Router {
    let (status, relayed) = (events.clone(), events);
    let look = move || {
        let events = status.clone();
        async move {
            match ask(&events, EdgeLoop::status).await {
                Some(Ok(status)) => axum::Json(status).into_response(),
                Some(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
                None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
            }
        }
    };
    let fetched = move || {
        let (events, content) = (relayed.clone(), content.clone());
        async move {
            let mut view = content.view().await;
            let look = |edge: &EdgeLoop| (edge.relay.given(), edge.held.len());
            let Some(((chunks, bytes), held)) = ask(&events, look).await else {
                return StatusCode::SERVICE_UNAVAILABLE.into_response();
            };
            view["given"] = json!({ "chunks": chunks, "bytes": bytes });
            view["held"] = json!(held);
            axum::Json(view).into_response()
        }
    };
    let addresses: Vec<String> = peers.addresses().iter().map(ToString::to_string).collect();
    page::routes()
        .route("/status", get(look))
        .route("/content", get(fetched))
        .route("/p2p", get(move || async move { axum::Json(addresses) }))
}

/// What the loop says; `None` where it has ended.
async fn ask<T: Send + 'static>(
    events: &mpsc::Sender<NodeEvent>,
    look: impl FnOnce(&EdgeLoop) -> T + Send + 'static,
) -> Option<T> {
    let (answer, seen) = oneshot::channel();
    let look = Box::new(move |edge: &EdgeLoop| drop(answer.send(look(edge))));
    events.send(NodeEvent::Look(look)).await.ok()?;
    seen.await.ok()
}

impl EdgeLoop {
    /// What it has earned by where it is, what it does, and what it refused.
    fn status(&self) -> Result<Value> {
        let book = self.provider.till().earnings()?;
        let funds: Vec<Value> = self
            .provider
            .till()
            .book()
            .map(|(payer, sequence, claimed, settled)| {
                json!({ "payer": payer.to_checksum(None), "reserveSequence": sequence,
                    "accruedTfuelWei": claimed, "settledTfuelWei": settled })
            })
            .collect();
        let worker = self.provider.worker();
        let gateways: Vec<Value> = self
            .presence
            .gateways
            .iter()
            .map(|(url, id)| json!({ "url": url, "address": id.map(|id| id.0.to_checksum(None)) }))
            .collect();
        Ok(json!({
            "address": self.id.0.to_checksum(None),
            "slots": worker.settings().slots,
            "busy": worker.busy(),
            "gateways": gateways,
            "rpc": self.rpc,
            "earnings": {
                "earnedTfuelWei": book.earned,
                "exposedTfuelWei": book.exposed,
                "accruedTfuelWei": book.accrued,
                "settledTfuelWei": book.settled,
                "burnedTfuelWei": book.burned,
                "sharedTfuelWei": book.shared,
                "feesTfuelWei": book.fees,
                "lostTfuelWei": book.lost,
            },
            "funds": funds,
            "refused": worker.refused(),
            "lastPoolRefusal": self.provider.last_pool_refusal(),
        }))
    }
}
