//! The chain as edge nodes use it, over a client.

use async_trait::async_trait;
use serde_json::Value;
use theta_core::{
    amount::TFuelWei,
    hash::{Address, Hash},
};
use theta_edge::chain::{Chain, ChainError, Fund, Settled};

use crate::{
    client::{Client, ClientError, TransportError},
    rpc,
};

impl From<ClientError> for ChainError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Transport(TransportError::Rpc { message, .. }) => Self::Refused(message),
            error if error.is_transient() => Self::Unreachable(Box::new(error)),
            other => Self::Answer(other.to_string()),
        }
    }
}

/// A payment in a fund's transfer records.
fn settled(record: &Value) -> Option<Settled> {
    let payment = record.get("service_payment")?;
    Some(Settled {
        payee: payment["target"]["address"].as_str()?.parse().ok()?,
        payment_sequence: payment["payment_sequence"].as_str()?.parse().ok()?,
        amount: format!("{}wei", payment["source"]["coins"]["tfuelwei"].as_str()?)
            .parse::<TFuelWei>()
            .ok()?,
    })
}

#[async_trait]
impl Chain for Client {
    async fn height(&self) -> Result<u64, ChainError> {
        Ok(self.call(&rpc::GetStatus::default()).await?.latest_finalized_block_height.0)
    }

    async fn fund(&self, payer: Address, reserve_sequence: u64) -> Result<Option<Fund>, ChainError> {
        let Some(account) = self.account(payer).await? else { return Ok(None) };
        let found = account.reserved_funds.iter().find(|fund| fund.reserve_sequence.0 == reserve_sequence);
        let Some(fund) = found else { return Ok(None) };
        let settled = fund.transfer_records.iter().map(settled).collect::<Option<_>>();
        Ok(Some(Fund {
            payer,
            reserve_sequence,
            initial: fund.initial_fund.tfuel,
            used: fund.used_fund.tfuel,
            resource_ids: fund.resource_ids.clone(),
            end_height: fund.end_block_height.0,
            settled: settled
                .ok_or_else(|| ChainError::Answer("a transfer record has another form".to_owned()))?,
        }))
    }

    async fn submit(&self, raw: Vec<u8>) -> Result<Hash, ChainError> {
        let method = rpc::BroadcastRawTransactionAsync { tx_bytes: hex::encode(raw) };
        Ok(self.call(&method).await?.hash)
    }
}
