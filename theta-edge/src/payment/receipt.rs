//! Receipts: what a payer signs, what a payee checks, and the transaction they become.
//!
//! A receipt carries two signatures of the payer: one over the ledger's source form of a `ServicePayment`, so that it
//! settles without asking the payer again, and one over the whole receipt. Its amount is cumulative within a payment
//! sequence, of which only one receipt can ever settle.

use serde::{Deserialize, Serialize};
use theta_core::amount::{Coins, TFuelWei};
use theta_core::codec::rlp::{Encode, encode_list};
use theta_core::hash::{Address, Hash};
use theta_core::sign::{Signature, Signer};

use theta_ledger::tx::{RawTx, ServicePayment, Unsigned};

use super::PayError;
use super::tick::TickCommit;

/// Version of the form of a receipt.
const VERSION: u8 = 2;
/// Most items one payment carries; a payee that has not acknowledged so many is not paid more.
pub const MAX_LINES: usize = 256;

/// One thing that was paid for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Names the thing: the hash of task, node and result, say.
    pub item: Hash,
    /// What it costs.
    pub amount: TFuelWei,
    /// Sum of all items of the sequence up to this one.
    pub total: TFuelWei,
}

/// A cumulative, payer-signed claim on a reserve fund (edge.md 5.3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Version of this form.
    pub version: u8,
    /// The chain it settles on.
    pub chain_id: String,
    /// Who pays.
    pub payer: Address,
    /// Who is paid.
    pub payee: Address,
    /// The payer's fund.
    pub reserve_sequence: u64,
    /// The sequence within the fund and the payee.
    pub payment_sequence: u64,
    /// What the fund pays for.
    pub resource_id: String,
    /// All that is paid in this sequence.
    pub amount: TFuelWei,
    /// The items, each hashed onto those before it, so a later receipt extends an earlier one.
    pub items_root: Hash,
    /// Ticks that pay on top of the amount until the next receipt.
    pub tick: TickCommit,
    /// The height at which the fund ends.
    pub expiry_height: u64,
    /// Over the source form of the transaction.
    pub payer_signature: Signature,
    /// Over everything above.
    pub envelope_signature: Signature,
}

theta_core::rlp_list!(Receipt {
    version,
    chain_id,
    payer,
    payee,
    reserve_sequence,
    payment_sequence,
    resource_id,
    amount,
    items_root,
    tick,
    expiry_height,
    payer_signature,
    envelope_signature,
});

/// A receipt with the items that the payee may not know yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payment {
    /// The claim.
    pub receipt: Receipt,
    /// Items since the last acknowledged one, oldest first.
    pub lines: Vec<Line>,
}

/// The root of no items.
pub const NO_ITEMS: Hash = Hash::ZERO;

/// The root after one more item.
pub fn extend(root: &Hash, item: &Hash, amount: TFuelWei) -> Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"theta-edge/items/v1");
    hasher.update(root.as_slice());
    hasher.update(item.as_slice());
    hasher.update(&amount.get().to_be_bytes::<32>());
    Hash::from(*hasher.finalize().as_bytes())
}

impl Receipt {
    /// Signs what is filled in. Only the purse calls this, after it has written the amount down.
    pub(super) fn sign(mut self, payer: &dyn Signer) -> Result<Self, PayError> {
        self.version = VERSION;
        self.payer_signature = payer.sign(&self.service_payment().source_digest(&self.chain_id))?;
        self.envelope_signature = payer.sign(&self.envelope_digest())?;
        Ok(self)
    }

    /// The transaction as the payer signed it: what settles, and what a proof of overspending is made of.
    pub fn service_payment(&self) -> ServicePayment {
        let mut payment = ServicePayment::new(
            self.payer,
            self.payee,
            self.amount,
            self.payment_sequence,
            self.reserve_sequence,
            self.resource_id.clone().into_bytes(),
        );
        payment.source.signature = self.payer_signature.clone();
        payment
    }

    /// The transaction that settles this receipt, signed by the payee too. The payer's signature covers neither the
    /// payee's fields nor the fee, so it needs no other.
    pub fn settle(&self, payee: &dyn Signer, fee: TFuelWei) -> Result<RawTx, PayError> {
        let mut payment = self.service_payment();
        payment.fee = Coins::tfuel(fee).into();
        Ok(Unsigned::new(self.chain_id.clone(), payment).sign(payee)?)
    }

    fn envelope_digest(&self) -> Hash {
        let mut bytes = Vec::new();
        encode_list(&mut bytes, |out| {
            self.version.encode(out);
            self.chain_id.encode(out);
            self.payer.encode(out);
            self.payee.encode(out);
            self.reserve_sequence.encode(out);
            self.payment_sequence.encode(out);
            self.resource_id.encode(out);
            self.amount.encode(out);
            self.items_root.encode(out);
            self.tick.encode(out);
            self.expiry_height.encode(out);
            self.payer_signature.encode(out);
        });
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"theta-edge/receipt/v1");
        hasher.update(&bytes);
        Hash::from(*hasher.finalize().as_bytes())
    }

    fn is_by_payer(&self, signature: &Signature, digest: &Hash) -> bool {
        signature.is_low_s() && signature.recover(digest).is_ok_and(|signer| signer == self.payer)
    }

    /// Whether both signatures are the payer's.
    pub fn verify(&self) -> Result<(), PayError> {
        if self.is_by_payer(&self.envelope_signature, &self.envelope_digest()) {
            self.verify_claim()
        } else {
            Err(PayError::Signature)
        }
    }

    /// Whether what settles is signed by the payer. Enough for a receipt that came from the payer itself, in an envelope
    /// signed by the same key: the second signature is for third parties.
    pub fn verify_claim(&self) -> Result<(), PayError> {
        let digest = self.service_payment().source_digest(&self.chain_id);
        if self.version == VERSION && self.is_by_payer(&self.payer_signature, &digest) {
            Ok(())
        } else {
            Err(PayError::Signature)
        }
    }
}

impl Payment {
    /// Whether the items lead from what the payee knows, a root and a total, to the receipt.
    pub fn extends(&self, mut root: Hash, mut total: TFuelWei) -> bool {
        let known = total;
        for line in self.lines.iter().skip_while(|line| line.total <= known) {
            root = extend(&root, &line.item, line.amount);
            match total.checked_add(line.amount) {
                Some(sum) if sum == line.total => total = sum,
                _ => return false,
            }
        }
        self.lines.len() <= MAX_LINES && total == self.receipt.amount && root == self.receipt.items_root
    }
}
