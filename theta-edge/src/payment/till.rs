//! The payee's side: which receipts to believe, and when to take them to the chain.
//!
//! A receipt is worth what the fund can still pay when it settles. The till therefore looks at the fund before it
//! believes one, keeps the best of each fund durably before it is acknowledged, and settles a claim as one transaction.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use theta_core::amount::TFuelWei;
use theta_core::codec::rlp::{Decode, Encode};
use theta_core::hash::Address;
use theta_core::journal::{Disk, Record};
use theta_core::sign::Signer;
use theta_ledger::tx::RawTx;

use super::PayError;
use super::receipt::{NO_ITEMS, Payment, Receipt};
use crate::chain::Fund;
use crate::history::History;
use crate::job::PoolRef;

/// Blocks that must be left until the end of a fund when a receipt of it is accepted (edge.md 5.3).
pub const MARGIN: u64 = 50;
/// Blocks before the end of a fund from which on its claims are settled whatever they are worth (edge.md 5.5).
const LAST_CALL: u64 = 200;
/// A claim is worth settling at so many fees, which keeps the fee below one percent (edge.md 5.5).
const FEES: u64 = 100;
/// Blocks after which a settlement that the chain does not show is handed in again.
const PATIENCE: u64 = 10;
/// Funds with an unsettled claim or an end to come.
const MAX_DRAWERS: usize = 4096;
/// Largest encoded receipt in bytes.
const MAX_RECEIPT: usize = 4096;

/// One change of a till, as it stands in the journal. The receipt is in its RLP form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Entry {
    Accepted {
        receipt: Vec<u8>,
    },
    Submitted {
        payer: Address,
        reserve_sequence: u64,
        height: u64,
    },
    Settled {
        payer: Address,
        reserve_sequence: u64,
        payment_sequence: u64,
        amount: TFuelWei,
    },
    /// What all earlier entries made of one fund.
    Kept {
        payer: Address,
        reserve_sequence: u64,
        drawer: Box<Drawer>,
    },
}

impl Record for Entry {
    const VERSION: u8 = 1;
}

/// What one fund owes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Drawer {
    best: Option<Receipt>,
    /// The last height at which a receipt of it could settle.
    ends: u64,
    /// Height at which the best receipt was last handed in.
    submitted: Option<u64>,
    settled_sequence: u64,
    settled: TFuelWei,
}

/// A claim that should go to the chain now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// Whose fund pays.
    pub payer: Address,
    /// Which fund.
    pub reserve_sequence: u64,
    /// How much it pays, before the fee.
    pub amount: TFuelWei,
}

/// A payee's key and the best receipt of every fund that owes it.
pub struct Till {
    chain_id: String,
    signer: Arc<dyn Signer>,
    journal: History<Entry>,
    drawers: BTreeMap<(Address, u64), Drawer>,
}

impl std::fmt::Debug for Till {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Till")
            .field("payee", &self.signer.address())
            .field("drawers", &self.drawers)
            .finish_non_exhaustive()
    }
}

/// Whether work for a pool can be paid at all: the fund exists, covers the resource, holds the amount, and lasts.
pub fn covers(fund: Option<&Fund>, pool: &PoolRef, amount: TFuelWei, height: u64) -> Result<(), PayError> {
    let fund = fund.ok_or(PayError::NoFund)?;
    if fund.payer != pool.payer || fund.reserve_sequence != pool.reserve_sequence {
        return Err(PayError::Foreign("fund"));
    }
    if !fund.resource_ids.contains(&pool.resource_id) {
        return Err(PayError::Resource(pool.resource_id.clone()));
    }
    if amount > fund.left() {
        return Err(PayError::Uncovered);
    }
    if height.saturating_add(MARGIN) > fund.end_height { Err(PayError::Expiring) } else { Ok(()) }
}

impl Till {
    /// Opens the till of a key where its journal left it.
    pub fn open(
        chain_id: &str,
        signer: Arc<dyn Signer>,
        disk: impl Disk + 'static,
    ) -> Result<Self, PayError> {
        let (journal, entries) = History::open(disk)?;
        let mut till = Self { chain_id: chain_id.to_owned(), signer, journal, drawers: BTreeMap::new() };
        for entry in &entries {
            till.apply(entry)?;
        }
        till.tidy()?;
        Ok(till)
    }

    /// Who is paid.
    pub fn payee(&self) -> Address {
        self.signer.address()
    }

    fn apply(&mut self, entry: &Entry) -> Result<(), PayError> {
        match entry {
            Entry::Accepted { receipt } => {
                let receipt = Receipt::from_rlp(receipt, MAX_RECEIPT).map_err(|_| PayError::Signature)?;
                let drawer = self.drawers.entry((receipt.payer, receipt.reserve_sequence)).or_default();
                drawer.ends = drawer.ends.max(receipt.expiry_height);
                drawer.best = Some(receipt);
            }
            Entry::Submitted { payer, reserve_sequence, height } => {
                self.drawers.entry((*payer, *reserve_sequence)).or_default().submitted = Some(*height);
            }
            Entry::Settled { payer, reserve_sequence, payment_sequence, amount } => {
                let drawer = self.drawers.entry((*payer, *reserve_sequence)).or_default();
                drawer.settled = drawer.settled.checked_add(*amount).unwrap_or(drawer.settled);
                drawer.settled_sequence = *payment_sequence;
                drawer.submitted = None;
                drawer.best = drawer.best.take().filter(|best| best.payment_sequence > *payment_sequence);
            }
            Entry::Kept { payer, reserve_sequence, drawer } => {
                self.drawers.insert((*payer, *reserve_sequence), Drawer::clone(drawer));
            }
        }
        Ok(())
    }

    fn tidy(&mut self) -> Result<(), PayError> {
        let kept = self.drawers.iter().map(|((payer, reserve_sequence), drawer)| Entry::Kept {
            payer: *payer,
            reserve_sequence: *reserve_sequence,
            drawer: Box::new(drawer.clone()),
        });
        Ok(self.journal.tidy(self.drawers.len(), || kept.collect())?)
    }

    /// Forgets funds that ended before this settled height: what did not settle by then never will. To be called after
    /// [`Self::observe`] of what the chain shows at that height or later.
    pub fn forget_ended(&mut self, height: u64) {
        self.drawers.retain(|_, drawer| drawer.ends >= height);
    }

    /// Whether a receipt of this fund would find a place.
    pub fn has_room(&self, payer: Address, reserve_sequence: u64) -> bool {
        self.drawers.len() < MAX_DRAWERS || self.drawers.contains_key(&(payer, reserve_sequence))
    }

    fn write(&mut self, entry: Entry) -> Result<(), PayError> {
        self.journal.append(&entry)?;
        self.apply(&entry)?;
        self.tidy()
    }

    /// Takes a payment if it is good, and says by how much it raises what this fund owes: nothing for one that is
    /// already here. `fund` is the fund as the chain shows it now. Once this returns, the claim is safe and may be
    /// acknowledged.
    pub fn accept(&mut self, payment: &Payment, fund: &Fund, height: u64) -> Result<TFuelWei, PayError> {
        let receipt = &payment.receipt;
        if receipt.chain_id != self.chain_id {
            return Err(PayError::Foreign("chain"));
        }
        if receipt.payee != self.payee() {
            return Err(PayError::Foreign("payee"));
        }
        if receipt.payer == receipt.payee {
            return Err(PayError::SameAccount);
        }
        let key = (receipt.payer, receipt.reserve_sequence);
        if !self.has_room(key.0, key.1) {
            return Err(PayError::Crowded(MAX_DRAWERS));
        }
        self.observe(fund)?;
        let drawer = self.drawers.get(&key);
        let best = drawer.and_then(|drawer| drawer.best.as_ref());
        if best == Some(receipt) {
            return Ok(TFuelWei::ZERO);
        }
        let pool =
            PoolRef { payer: key.0, reserve_sequence: key.1, resource_id: receipt.resource_id.clone() };
        covers(Some(fund), &pool, receipt.amount, height)?;
        if receipt.expiry_height > fund.end_height {
            return Err(PayError::Expiring);
        }
        let expected = drawer.map_or(0, |drawer| drawer.settled_sequence).saturating_add(1);
        if receipt.payment_sequence != expected {
            return Err(PayError::Sequence { found: receipt.payment_sequence, expected });
        }
        if drawer.is_some_and(|drawer| drawer.submitted.is_some()) {
            // Only one receipt of a sequence can settle, and that one is on its way.
            return Err(PayError::Settling(expected));
        }
        let (root, known) = best.map_or((NO_ITEMS, TFuelWei::ZERO), |best| (best.items_root, best.amount));
        if best.is_some_and(|best| best.resource_id != receipt.resource_id) {
            return Err(PayError::Resource(receipt.resource_id.clone()));
        }
        if receipt.amount <= known {
            return Err(PayError::Stale);
        }
        if !payment.extends(root, known) {
            return Err(PayError::Items);
        }
        receipt.verify()?;
        let gain = receipt.amount.saturating_sub(known);
        self.write(Entry::Accepted { receipt: receipt.to_rlp() })?;
        Ok(gain)
    }

    /// Claims that should be settled now: worth a hundred fees, or in a fund that ends soon, or handed in before and
    /// not seen since. `eager` settles every claim above the fee, for tests and for closing down. `funds` looks up what
    /// the chain shows.
    pub fn due(&self, height: u64, fee: TFuelWei, eager: bool) -> Vec<Due> {
        let floor = fee.checked_mul(if eager { 1 } else { FEES }).unwrap_or(fee);
        let mut all = Vec::new();
        for ((payer, reserve_sequence), drawer) in &self.drawers {
            let Some(best) = &drawer.best else { continue };
            let ends = best.expiry_height < height.saturating_add(LAST_CALL) && best.amount > fee;
            let now = match drawer.submitted {
                Some(at) => height >= at.saturating_add(PATIENCE),
                None => ends || best.amount > floor,
            };
            if now && height <= best.expiry_height {
                all.push(Due { payer: *payer, reserve_sequence: *reserve_sequence, amount: best.amount });
            }
        }
        all
    }

    /// Makes the transaction that settles a claim: signed by the payer long ago and by this payee now. From here on
    /// receipts of this sequence are refused until [`Self::observe`] sees the settlement; handing in the same claim
    /// twice pays once, because a sequence settles once.
    pub fn settle(&mut self, due: &Due, fund: &Fund, fee: TFuelWei, height: u64) -> Result<RawTx, PayError> {
        let key = (due.payer, due.reserve_sequence);
        let best = self.drawers.get(&key).and_then(|drawer| drawer.best.clone()).ok_or(PayError::NoFund)?;
        // The chain would take the fee of a payment that moves nothing (edge.md appendix B, 1 and 2).
        let pool = PoolRef { payer: key.0, reserve_sequence: key.1, resource_id: best.resource_id.clone() };
        covers(Some(fund), &pool, best.amount, height.saturating_sub(MARGIN))?;
        self.write(Entry::Submitted { payer: key.0, reserve_sequence: key.1, height })?;
        best.settle(&*self.signer, fee)
    }

    /// Learns from the chain what was settled, and gives the amount that is new.
    pub fn observe(&mut self, fund: &Fund) -> Result<TFuelWei, PayError> {
        let payee = self.payee();
        let mut new = TFuelWei::ZERO;
        for settled in fund.settled.iter().filter(|settled| settled.payee == payee) {
            let known = self
                .drawers
                .get(&(fund.payer, fund.reserve_sequence))
                .map_or(0, |drawer| drawer.settled_sequence);
            if settled.payment_sequence > known {
                self.write(Entry::Settled {
                    payer: fund.payer,
                    reserve_sequence: fund.reserve_sequence,
                    payment_sequence: settled.payment_sequence,
                    amount: settled.amount,
                })?;
                new = new.checked_add(settled.amount).unwrap_or(new);
            }
        }
        Ok(new)
    }

    /// Every fund that owes something, or did and has not ended: payer, sequence, claimed and not settled, settled.
    pub fn book(&self) -> impl Iterator<Item = (Address, u64, TFuelWei, TFuelWei)> + '_ {
        self.drawers.iter().map(|((payer, sequence), drawer)| {
            let claimed = drawer.best.as_ref().map_or(TFuelWei::ZERO, |best| best.amount);
            (*payer, *sequence, claimed, drawer.settled)
        })
    }
}
