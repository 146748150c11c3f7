//! What an edge node shows of itself.

use anyhow::Result;
use axum::{Router, http::StatusCode, response::IntoResponse as _, routing::get};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::{EdgeLoop, NodeEvent};

/// `GET /status`: what the node has earned, and what it refused.
pub(super) fn route(events: mpsc::Sender<NodeEvent>) -> Router {
    let look = move || {
        let events = events.clone();
        async move {
            let (answer, seen) = oneshot::channel();
            let look = Box::new(move |edge: &EdgeLoop| drop(answer.send(edge.status())));
            if events.send(NodeEvent::Look(look)).await.is_err() {
                return StatusCode::SERVICE_UNAVAILABLE.into_response();
            }
            match seen.await {
                Ok(Ok(status)) => axum::Json(status).into_response(),
                Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
                Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
            }
        }
    };
    Router::new().route("/status", get(look))
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
