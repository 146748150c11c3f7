//! The chain as edge nodes use it, over a client.

use async_trait::async_trait;
use serde_json::Value;
use theta_core::{
    amount::Coins,
    hash::{Address, Hash},
    sign::Signature,
};
use theta_edge::chain::{Chain, ChainError, Fund, Settled};
use theta_ledger::{
    state::account::{Split, SplitRule},
    tx::{ServicePayment, TxInput},
};

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
    let number = |value: &Value| value.as_str()?.parse::<u64>().ok();
    let input = |value: &Value| {
        let address = value["address"].as_str()?.parse().ok()?;
        let signature: Signature = serde_json::from_value(value["signature"].clone()).ok()?;
        let coins = coins(&value["coins"])?;
        Some(TxInput { signature, ..TxInput::new(address, coins, number(&value["sequence"])?) })
    };
    let payment = ServicePayment {
        fee: coins(&payment["fee"])?.into(),
        source: input(&payment["source"])?,
        target: input(&payment["target"])?,
        payment_sequence: number(&payment["payment_sequence"])?,
        reserve_sequence: number(&payment["reserve_sequence"])?,
        resource_id: payment["resource_id"].as_str()?.as_bytes().to_vec(),
    };
    Settled::of(&payment)
}

fn coins(value: &Value) -> Option<Coins> {
    serde_json::from_value(value.clone()).ok()
}

fn rule(value: &Value) -> Option<SplitRule> {
    let split = |split: &Value| {
        let address = split["Address"].as_str()?.parse().ok()?;
        Some(Split { address, percentage: split["Percentage"].as_u64()? })
    };
    Some(SplitRule {
        initiator: value["initiator_address"].as_str()?.parse().ok()?,
        resource: value["resource_id"].as_str()?.as_bytes().to_vec(),
        splits: value["splits"].as_array()?.iter().map(split).collect::<Option<_>>()?,
        end_height: value["end_block_height"].as_str()?.parse().ok()?,
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

    async fn split_rule(&self, resource_id: &str) -> Result<Option<SplitRule>, ChainError> {
        let answer = self.call(&rpc::GetSplitRule { resource_id: resource_id.to_owned() }).await?;
        if answer.as_object().is_some_and(serde_json::Map::is_empty) {
            return Ok(None);
        }
        let read =
            rule(&answer).ok_or_else(|| ChainError::Answer("a split rule has another form".to_owned()))?;
        Ok(Some(read))
    }

    async fn submit(&self, raw: Vec<u8>) -> Result<Hash, ChainError> {
        let method = rpc::BroadcastRawTransactionAsync { tx_bytes: hex::encode(raw) };
        Ok(self.call(&method).await?.hash)
    }
}
