//! What requester and worker say to each other, and the signed envelope it travels in.
//!
//! An envelope is JSON, so any transport that carries text will do. It is signed by the sender's node key over the
//! chain, the receiver and the exact text, so a message cannot be read as one for another node or chain. Replays are
//! harmless by the machines' own rules: every message names its task and epoch, and payments are cumulative.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use theta_core::amount::TFuelWei;
use theta_core::hash::Hash;
use theta_core::sign::{SignError, Signature, Signer};

use crate::blob::BlobRef;
use crate::executor::Output;
use crate::identity::NodeId;
use crate::infer::ModelOffer;
use crate::job::{PoolRef, Task};
use crate::payment::Price;
use crate::payment::purse::Tick;
use crate::payment::receipt::{Payment, Receipt};
use crate::payment::watch::Beacon;
use crate::placement::{Descriptor, Heartbeat};

/// Largest envelope in bytes: room for a result with ten thousand files, each with its name and hash.
pub const MAX_MESSAGE: usize = 4 << 20;

/// Why a node does not take a task (edge.md 2.5).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reject {
    /// All slots are taken; try again after so many milliseconds. Not a fault.
    Busy {
        /// Milliseconds.
        retry_ms: u64,
    },
    /// No engine for this kind, or the limits are above what the operator offers.
    MissingCapability,
    /// The offer is below what this task may cost at most.
    PriceTooLow,
    /// The fund does not exist, cover this, or last.
    PoolInvalid,
}

impl Reject {
    /// Its name, as it stands in the message.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Busy { .. } => "busy",
            Self::MissingCapability => "missing_capability",
            Self::PriceTooLow => "price_too_low",
            Self::PoolInvalid => "pool_invalid",
        }
    }

    /// Says in words what it means, for the requester.
    pub const fn message(&self) -> &'static str {
        match self {
            Self::Busy { .. } => "all its slots are taken",
            Self::MissingCapability => "it has no engine for this, or the limits are above what it offers",
            Self::PriceTooLow => "what limits.fuel may cost at its price is above maxTfuel divided by quorum",
            Self::PoolInvalid => "the reserve fund does not cover the job or ends too soon",
        }
    }
}

/// One message. All but payments name a task and an epoch, the number of the requester's attempt at the job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Message {
    /// Requester: run this.
    Offer {
        /// What to run; its blobs are fetched from the requester by hash.
        task: Task,
        /// Which attempt at the job.
        epoch: u64,
        /// Where the money comes from.
        pool: PoolRef,
        /// The most that this attempt may cost.
        cap: TFuelWei,
    },
    /// Worker: running it, at this price.
    Accepted {
        /// Task id.
        task: Hash,
        /// Epoch of the offer.
        epoch: u64,
        /// What it will cost.
        price: Price,
    },
    /// Worker: not running it.
    Rejected {
        /// Task id.
        task: Hash,
        /// Epoch of the offer.
        epoch: u64,
        /// Why.
        reason: Reject,
    },
    /// Worker: has a result and is bound to it.
    Committed {
        /// Task id.
        task: Hash,
        /// Epoch of the offer.
        epoch: u64,
        /// [`crate::verify::commitment`].
        commit: Hash,
    },
    /// Requester: all are bound, show it.
    Reveal {
        /// Task id.
        task: Hash,
        /// Epoch of the offer.
        epoch: u64,
    },
    /// Worker: this is it; the blobs can be fetched by hash.
    Revealed {
        /// Task id.
        task: Hash,
        /// Epoch of the offer.
        epoch: u64,
        /// The result.
        output: Output,
        /// What makes it fit the commitment.
        salt: Hash,
    },
    /// Worker: a piece of the text that it makes. It may be lost; the result has all of it.
    Frame {
        /// Task id.
        task: Hash,
        /// Epoch of the offer.
        epoch: u64,
        /// Bytes of the text that come before it.
        at: u64,
        /// The piece.
        text: String,
    },
    /// Worker: could not run it, for a reason of its own ([`crate::executor::RunError::code`]).
    Failed {
        /// Task id.
        task: Hash,
        /// Epoch of the offer.
        epoch: u64,
        /// Which.
        code: String,
    },
    /// Requester: stop.
    Cancel {
        /// Task id.
        task: Hash,
        /// Epoch of the offer.
        epoch: u64,
    },
    /// Requester: pays.
    Payment(Payment),
    /// Worker: has the receipt safe.
    Acknowledged {
        /// Fund of the receipt.
        reserve_sequence: u64,
        /// Sequence of the receipt.
        payment_sequence: u64,
        /// Amount of the receipt.
        total: TFuelWei,
    },
    /// Requester: pays one unit more ([`crate::payment::purse::Purse::tick`]).
    Tick(Tick),
    /// Worker: the last tick it has, for a requester that forgot.
    LastTick(Tick),
    /// Payee to payee: the size of a claim on a fund of both.
    Beacon(Beacon),
    /// Payee to payee: the receipt behind it, because the claims do not fit the fund.
    Claim(Receipt),
    /// Worker: who it is, where it listens, and that it lives; said every [`crate::placement::HEARTBEAT_MS`].
    Here {
        /// What it says of itself.
        descriptor: Box<Descriptor>,
        /// Where `/edge` and `/blob/` answer.
        address: SocketAddr,
        /// Its load.
        beat: Heartbeat,
        /// Models that it runs.
        models: Vec<ModelOffer>,
    },
    /// Requester: fetch this content from it, keep it, and give it to others.
    Hold(BlobRef),
    /// Requester: other workers that may be paid from the same fund ([`Self::Beacon`]).
    Peers(Vec<(NodeId, SocketAddr)>),
}

/// Why an envelope is not opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// Longer than [`MAX_MESSAGE`].
    #[error("message is larger than {MAX_MESSAGE} bytes")]
    TooLarge,
    /// Not an envelope, or not a message in it.
    #[error("message does not decode")]
    Form(#[source] serde_json::Error),
    /// Not signed for this node and chain by anyone.
    #[error("message is not signed for this node")]
    Signature,
    /// The own key did not sign.
    #[error("message could not be signed")]
    Sign(#[from] SignError),
}

/// A message on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// Who sends it.
    pub from: NodeId,
    /// Whom it is for.
    pub to: NodeId,
    /// The message in JSON, exactly as signed.
    pub body: String,
    /// By `from`.
    pub signature: Signature,
}

fn digest(chain_id: &str, from: NodeId, to: NodeId, body: &str) -> Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"theta-edge/message/v1");
    hasher.update(&(chain_id.len() as u64).to_le_bytes());
    hasher.update(chain_id.as_bytes());
    hasher.update(from.0.as_slice());
    hasher.update(to.0.as_slice());
    hasher.update(body.as_bytes());
    Hash::from(*hasher.finalize().as_bytes())
}

impl Envelope {
    /// Signs a message for a node and gives the bytes to send.
    pub fn seal(
        chain_id: &str,
        signer: &dyn Signer,
        to: NodeId,
        message: &Message,
    ) -> Result<Vec<u8>, MessageError> {
        let from = NodeId::of(signer);
        let body = serde_json::to_string(message).map_err(MessageError::Form)?;
        let signature = signer.sign(&digest(chain_id, from, to, &body))?;
        let bytes = serde_json::to_vec(&Self { from, to, body, signature }).map_err(MessageError::Form)?;
        if bytes.len() > MAX_MESSAGE { Err(MessageError::TooLarge) } else { Ok(bytes) }
    }

    /// Opens what came for node `me`: who sent it, and what it says. Nothing is decoded before the signature is checked.
    pub fn open(chain_id: &str, me: NodeId, bytes: &[u8]) -> Result<(NodeId, Message), MessageError> {
        if bytes.len() > MAX_MESSAGE {
            return Err(MessageError::TooLarge);
        }
        let envelope: Self = serde_json::from_slice(bytes).map_err(MessageError::Form)?;
        let Self { from, to, body, signature } = &envelope;
        let signer =
            signature.recover(&digest(chain_id, *from, *to, body)).map_err(|_| MessageError::Signature)?;
        if *to != me || signer != from.0 {
            return Err(MessageError::Signature);
        }
        let message = serde_json::from_str(body).map_err(MessageError::Form)?;
        Ok((*from, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use theta_core::sign::SecretKey;

    #[test]
    fn an_envelope_opens_for_its_receiver_and_chain_alone() {
        let key = |byte: u8| SecretKey::from_bytes(&[byte; 32]).unwrap();
        let (alice, bob) = (key(1), key(2));
        let (from, to) = (NodeId::of(&alice), NodeId::of(&bob));
        let message = Message::Offer {
            task: crate::job::tests::spec().task(),
            epoch: 1,
            pool: crate::job::tests::spec().pool,
            cap: TFuelWei::whole(1),
        };
        let bytes = Envelope::seal("privatenet", &alice, to, &message).unwrap();
        assert_eq!(Envelope::open("privatenet", to, &bytes).unwrap(), (from, message));
        assert!(matches!(Envelope::open("mainnet", to, &bytes), Err(MessageError::Signature)));
        assert!(matches!(Envelope::open("privatenet", from, &bytes), Err(MessageError::Signature)));
        let text = String::from_utf8(bytes).unwrap();
        let longer = text.replace(r#"\"epoch\":1"#, r#"\"epoch\":2"#);
        assert_ne!(text, longer);
        assert!(matches!(Envelope::open("privatenet", to, longer.as_bytes()), Err(MessageError::Signature)));
        assert!(matches!(
            Envelope::open("privatenet", to, &vec![b' '; MAX_MESSAGE + 1]),
            Err(MessageError::TooLarge)
        ));
    }
}
