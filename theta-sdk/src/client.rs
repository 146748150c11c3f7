//! Calls to a node, over any transport.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use theta_core::{
    amount::{Coins, TFuelWei},
    hash::{Address, Hash},
    sign::SignError,
};
use theta_ledger::tx::RawTx;

use crate::{
    rpc::{self, Method},
    wallet::Wallet,
};

/// Why a call failed below the method.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// No answer: the node is not there, or the connection broke. Whether the call arrived is unknown.
    #[error("no answer from the node: {0}")]
    Unreachable(String),
    /// The node answered with an error.
    #[error("{message} ({code})")]
    Rpc {
        /// JSON-RPC code.
        code: i64,
        /// The node's text.
        message: String,
    },
    /// The answer is no JSON-RPC.
    #[error("the node's answer is not understood: {0}")]
    Malformed(String),
}

/// Why a call gave no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The call failed.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The answer has another form.
    #[error("the node's answer to {method} is not understood: {reason}")]
    Answer {
        /// The method.
        method: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Signing failed.
    #[error(transparent)]
    Sign(#[from] SignError),
}

impl ClientError {
    /// Whether asking again may help.
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Transport(TransportError::Unreachable(_)))
    }
}

/// Carries calls to a node: HTTP, or the node in the same process.
#[async_trait]
pub trait Transport: Send + Sync {
    /// Calls a method with its one argument object.
    async fn call(&self, method: &str, params: Value) -> Result<Value, TransportError>;
}

/// A client of one node.
#[derive(Clone)]
pub struct Client {
    transport: Arc<dyn Transport>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Client {
    /// A client over a transport.
    pub fn new(transport: impl Transport + 'static) -> Self {
        Self { transport: Arc::new(transport) }
    }

    /// Calls a method.
    pub async fn call<M: Method>(&self, method: &M) -> Result<M::Answer, ClientError> {
        let answer = |reason: String| ClientError::Answer { method: M::NAME, reason };
        let params = serde_json::to_value(method).map_err(|error| answer(error.to_string()))?;
        let value = self.transport.call(M::NAME, params).await?;
        serde_json::from_value(value).map_err(|error| answer(error.to_string()))
    }

    /// Calls any method by name with any parameters.
    pub async fn call_raw(&self, method: &str, params: Value) -> Result<Value, TransportError> {
        self.transport.call(method, params).await
    }

    /// An account on the newest settled state, or `None` if it was never used.
    pub async fn account(&self, address: Address) -> Result<Option<rpc::Account>, ClientError> {
        self.account_of(address, false).await
    }

    async fn account_of(&self, address: Address, preview: bool) -> Result<Option<rpc::Account>, ClientError> {
        let method = rpc::GetAccount { address: format!("{address:?}"), preview, ..Default::default() };
        match self.call(&method).await {
            Ok(account) => Ok(Some(account)),
            Err(ClientError::Transport(TransportError::Rpc { message, .. }))
                if message.ends_with("is not found") =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The sequence that an account's next transaction needs, waiting ones counted.
    pub async fn next_sequence(&self, address: Address) -> Result<u64, ClientError> {
        Ok(self.account_of(address, true).await?.map_or(0, |account| account.sequence.0) + 1)
    }

    /// Sends a transaction and waits until it is settled.
    pub async fn broadcast(&self, raw: &RawTx) -> Result<rpc::Broadcast, ClientError> {
        self.call(&rpc::BroadcastRawTransaction { tx_bytes: hex(&raw.bytes) }).await
    }

    /// Sends a transaction and does not wait.
    pub async fn broadcast_async(&self, raw: &RawTx) -> Result<Hash, ClientError> {
        let method = rpc::BroadcastRawTransactionAsync { tx_bytes: hex(&raw.bytes) };
        Ok(self.call(&method).await?.hash)
    }

    /// A transaction by its native or Ethereum hash.
    pub async fn transaction(&self, hash: &Hash) -> Result<rpc::Transaction, ClientError> {
        self.call(&rpc::GetTransaction { hash: format!("{hash:?}") }).await
    }

    /// Looks the sequence up, sends coins and waits until they are settled.
    pub async fn send(
        &self,
        wallet: &Wallet,
        to: Address,
        coins: Coins,
        fee: TFuelWei,
    ) -> Result<rpc::Broadcast, ClientError> {
        let sequence = self.next_sequence(wallet.address()).await?;
        let raw = wallet.send(sequence, to, coins, fee).sign(wallet.signer())?;
        self.broadcast(&raw).await
    }
}

fn hex(bytes: &[u8]) -> String {
    format!("0x{}", hex::encode(bytes))
}
