//! JSON-RPC: the envelope of both dialects, and the tables of methods.

pub mod eth;
mod pools;
mod proof;
pub(crate) mod socket;
pub mod theta;

use std::{future::Future, sync::Arc};

use serde_json::{Value, json};
use theta_ledger::state::StateError;
use tokio::sync::Semaphore;

/// Calls in one batch.
pub const MAX_BATCH: usize = 100;

/// Calls that are worked on at once; more wait.
const MAX_CALLS: usize = 200;

/// An error as it goes to the client.
#[derive(Clone, Debug, PartialEq)]
pub struct RpcError {
    /// JSON-RPC code.
    pub code: i64,
    /// Text for people and for clients that match on it.
    pub message: String,
    /// Data of a revert.
    pub data: Option<Value>,
}

impl RpcError {
    /// An application's error, −32000.
    pub fn application(message: impl Into<String>) -> Self {
        Self { code: -32000, message: message.into(), data: None }
    }

    /// Wrong parameters, −32602.
    pub fn params(message: impl Into<String>) -> Self {
        Self { code: -32602, message: message.into(), data: None }
    }

    /// No such method, −32601.
    pub fn method(message: impl Into<String>) -> Self {
        Self { code: -32601, message: message.into(), data: None }
    }
}

impl From<StateError> for RpcError {
    fn from(error: StateError) -> Self {
        Self::application(error.to_string())
    }
}

/// Where calls are worked on: off the runtime's threads, since reading may wait for a disk and signatures take their time.
/// Clones are one.
#[derive(Clone, Debug)]
pub(crate) struct Slots(Arc<Semaphore>);

impl Default for Slots {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_CALLS)))
    }
}

impl Slots {
    /// Works on a call once there is a slot. The work keeps it to its end, also where nobody waits any more.
    pub(crate) async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, RpcError> + Send + 'static,
    ) -> Result<T, RpcError> {
        // The semaphore is never closed.
        let slot = self.0.clone().acquire_owned().await;
        let done = tokio::task::spawn_blocking(move || {
            let _slot = slot;
            work()
        });
        done.await.unwrap_or_else(|error| Err(RpcError::application(format!("method failed: {error}"))))
    }
}

/// How an envelope is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// The reference's own: strict about members, one argument object.
    Theta,
    /// Ethereum's as geth serves it: lenient about members, parameters by position.
    Ethereum,
}

fn failure(id: &Value, error: RpcError) -> Value {
    let mut body = json!({ "code": error.code, "message": error.message });
    if let Some(data) = error.data {
        body["data"] = data;
    }
    json!({ "jsonrpc": "2.0", "id": id, "error": body })
}

fn invalid(message: &str) -> Value {
    failure(&Value::Null, RpcError { code: -32600, message: message.to_owned(), data: None })
}

struct Call {
    id: Option<Value>,
    method: String,
    params: Value,
}

fn read_call(dialect: Dialect, value: Value) -> Result<Call, Value> {
    let Value::Object(mut members) = value else { return Err(invalid("invalid request")) };
    let id = members.remove("id");
    if id.as_ref().is_some_and(|id| !matches!(id, Value::Null | Value::String(_) | Value::Number(_))) {
        return Err(invalid("invalid request: id is a string, a number or null"));
    }
    let version = members.remove("jsonrpc");
    let Some(Value::String(method)) = members.remove("method") else {
        return Err(invalid("invalid request: no method"));
    };
    let params = members.remove("params");
    if dialect == Dialect::Theta {
        if version.as_ref().and_then(Value::as_str) != Some("2.0") || !members.is_empty() {
            return Err(invalid("invalid request: members are jsonrpc \"2.0\", method, params, id"));
        }
        if params.as_ref().is_some_and(|params| !params.is_object() && !params.is_array()) {
            return Err(invalid("invalid request: params is an object or an array"));
        }
    }
    Ok(Call { id, method, params: params.unwrap_or(Value::Null) })
}

/// Answers a request body; `None` is an answer without body (notifications only).
pub async fn answer<F, R>(dialect: Dialect, body: &[u8], handle: F) -> Option<Value>
where
    F: Fn(String, Value) -> R,
    R: Future<Output = Result<Value, RpcError>>,
{
    // Bytes behind the first value are ignored, as in the reference.
    let request = match serde_json::Deserializer::from_slice(body).into_iter::<Value>().next() {
        Some(Ok(request)) => request,
        _ => {
            let error = RpcError { code: -32700, message: "parse error".to_owned(), data: None };
            return Some(failure(&Value::Null, error));
        }
    };
    let one = async |value: Value| -> Option<Value> {
        let call = match read_call(dialect, value) {
            Ok(call) => call,
            Err(error) => return Some(error),
        };
        let result = handle(call.method, call.params).await;
        let id = call.id?;
        Some(match result {
            Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
            Err(error) => failure(&id, error),
        })
    };
    match request {
        Value::Array(calls) if calls.is_empty() => Some(invalid("empty batch")),
        Value::Array(calls) if calls.len() > MAX_BATCH => {
            Some(invalid(&format!("a batch has at most {MAX_BATCH} calls")))
        }
        Value::Array(calls) => {
            let answers: Vec<Value> =
                futures::future::join_all(calls.into_iter().map(one)).await.into_iter().flatten().collect();
            (!answers.is_empty()).then_some(Value::Array(answers))
        }
        call => one(call).await,
    }
}
