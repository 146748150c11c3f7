//! What edge work needs of the chain.

use async_trait::async_trait;
use theta_core::amount::TFuelWei;
use theta_core::hash::{Address, Hash};
use theta_ledger::state::account::{Account, SplitRule, TransferRecord};
use theta_ledger::tx::{RawTx, ServicePayment};

/// A payment that the chain has carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Who was paid.
    pub payee: Address,
    /// Its payment sequence.
    pub payment_sequence: u64,
    /// How much left the fund.
    pub amount: TFuelWei,
    /// Hash of the transaction.
    pub transaction: Hash,
}

impl Settled {
    /// A payment as it stands in a fund; `None` where its amount is more than there can be.
    pub fn of(payment: &ServicePayment) -> Option<Self> {
        Some(Self {
            payee: payment.target.address,
            payment_sequence: payment.payment_sequence,
            amount: payment.source.coins.coins()?.tfuel,
            transaction: RawTx::new(payment.clone().into()).hash,
        })
    }
}

/// A reserve fund as it stands at a settled block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fund {
    /// Whose it is.
    pub payer: Address,
    /// Names it among the payer's funds.
    pub reserve_sequence: u64,
    /// What it started with.
    pub initial: TFuelWei,
    /// What was paid from it.
    pub used: TFuelWei,
    /// What it may pay for.
    pub resource_ids: Vec<String>,
    /// The last height at which it pays.
    pub end_height: u64,
    /// What was paid from it, oldest first (the fund's transfer records).
    pub settled: Vec<Settled>,
}

impl Fund {
    /// A fund of an account; `None` if it has none of this sequence, or one that lists what is no text.
    pub fn of(account: &Account, reserve_sequence: u64) -> Option<Self> {
        let fund = account.reserved_funds.iter().find(|fund| fund.reserve_sequence == reserve_sequence)?;
        let settled = |record: &TransferRecord| Settled::of(&record.payment);
        let resources = fund.resources.iter().map(|resource| String::from_utf8(resource.clone()).ok());
        Some(Self {
            payer: account.address,
            reserve_sequence,
            initial: fund.initial.tfuel,
            used: fund.used.tfuel,
            resource_ids: resources.collect::<Option<_>>()?,
            end_height: fund.end_height,
            settled: fund.transfers.iter().map(settled).collect::<Option<_>>()?,
        })
    }

    /// What it can still pay.
    pub fn left(&self) -> TFuelWei {
        self.initial.saturating_sub(self.used)
    }

    /// The highest sequence settled for a payee; 0 if none. Only higher ones can settle.
    pub fn settled_sequence(&self, payee: &Address) -> u64 {
        let of_payee = self.settled.iter().filter(|settled| settled.payee == *payee);
        of_payee.map(|settled| settled.payment_sequence).max().unwrap_or(0)
    }
}

/// Why the chain could not be asked or told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// Nobody answered; the same call may work later.
    #[error("the chain cannot be reached")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It answered what cannot be understood.
    #[error("the chain gave an answer that cannot be understood: {0}")]
    Answer(String),
    /// It refused the transaction.
    #[error("the chain refused the transaction: {0}")]
    Refused(String),
}

impl ChainError {
    /// Whether trying again later makes sense.
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable(_))
    }
}

/// The chain as edge nodes use it.
#[async_trait]
pub trait Chain: Send + Sync {
    /// Height of the newest settled block.
    async fn height(&self) -> Result<u64, ChainError>;
    /// A payer's fund at the newest settled block; `None` if there is none of this sequence.
    async fn fund(&self, payer: Address, reserve_sequence: u64) -> Result<Option<Fund>, ChainError>;
    /// The split rule of a resource at the newest settled block; `None` if it has none.
    async fn split_rule(&self, resource_id: &str) -> Result<Option<SplitRule>, ChainError>;
    /// Hands in a transaction and gives its hash.
    async fn submit(&self, raw: Vec<u8>) -> Result<Hash, ChainError>;
}
