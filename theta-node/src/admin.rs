//! What an operator asks: metrics, whether the node lives, whether it is ready. A listener of its own, on loopback unless
//! the configuration says otherwise.

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Value, json};

use crate::{http::limited, metrics::settled_age, node::NodeHandle};

/// Requests that are worked on at once, and how long each may take.
const MOST: usize = 16;
const LONGEST: std::time::Duration = std::time::Duration::from_secs(5);
/// A node whose newest settled block is older than this many seconds is not ready: its network stands still, or it is cut off.
const STALE: u64 = 60;

/// `/metrics`, `/health`, `/ready`.
pub fn routes(node: NodeHandle) -> Router {
    let routes = Router::new()
        .route("/metrics", get(metrics))
        .route("/health", get(health))
        .route("/ready", get(ready))
        .with_state(node);
    limited(routes, MOST, LONGEST)
}

async fn metrics(State(node): State<NodeHandle>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], node.metrics.text(&node)).into_response()
}

fn answer(wrong: Option<String>, mut about: Value) -> Response {
    let status = if wrong.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    about["ok"] = json!(wrong.is_none());
    about["reason"] = json!(wrong);
    (status, Json(about)).into_response()
}

/// Whether the node can still keep what it promised. Where not, starting it again is right.
async fn health(State(node): State<NodeHandle>) -> Response {
    answer(node.failure(), json!({}))
}

/// Whether what it answers is worth asking for. Where not, waiting is right.
async fn ready(State(node): State<NodeHandle>) -> Response {
    let progress = *node.progress.borrow();
    let age = settled_age(&node);
    let wrong = node.failure().or_else(|| {
        if progress.syncing {
            return Some("catching up with the network".to_owned());
        }
        (age > STALE).then(|| format!("nothing was settled for {age} s"))
    });
    let about = json!({
        "settledHeight": progress.settled,
        "settledAgeSeconds": age,
        "peers": node.peer_count(),
        "syncing": progress.syncing,
    });
    answer(wrong, about)
}
