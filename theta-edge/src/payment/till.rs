//! The payee's side: which receipts and ticks to believe, and when to take them to the chain.
//!
//! A receipt is worth what the fund can still pay when it settles. The till therefore looks at the fund before it
//! believes one, keeps the best of each fund durably before it is acknowledged, and settles a claim as one transaction.
//! What it has not got on the chain is at risk in three ways, each with a bound: ticks without a receipt by a window, a
//! payer that overspends by what the other payees say ([`super::watch`]), and a fund that ends by a margin.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use theta_core::amount::TFuelWei;
use theta_core::codec::rlp::{Decode, Encode};
use theta_core::hash::{Address, Hash};
use theta_core::journal::{Disk, Record};
use theta_core::sign::Signer;
use theta_ledger::state::account::SplitRule;
use theta_ledger::tx::{OverspendingProof, RawTx, ServicePayment, Slash, Unsigned};

use super::PayError;
use super::book::{Account, Book};
use super::purse::Tick;
use super::receipt::{NO_ITEMS, Payment, Receipt};
use super::split::{Division, check_burn, divide};
use super::tick::{TickError, TickMeter, WINDOW, WINDOW_MS};
use super::watch::{Beacon, Say, Watch};
use crate::Millis;
use crate::chain::Fund;
use crate::history::History;
use crate::job::PoolRef;

/// Blocks that must be left until the end of a fund when a receipt of it is accepted (edge.md 5.3).
pub const MARGIN: u64 = 50;
/// Blocks before the end of a fund from which on its claims are settled whatever they are worth (edge.md 5.5).
const LAST_CALL: u64 = 200;
/// A claim is worth settling at so many fees, which keeps the fee below one percent (edge.md 5.5).
const FEES: u64 = 100;
/// Percent of a fund, paid or claimed, from which on its claims are settled.
const NEARLY_SPENT: u64 = 70;
/// Blocks after which a settlement that the chain does not show is handed in again.
const PATIENCE: u64 = 10;
/// Ticks between two of them in the journal: at most so many are lost in a crash.
const TICKS_KEPT: u32 = 64;
/// Largest encoded receipt in bytes.
const MAX_RECEIPT: usize = 4096;

/// What a payee insists on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Funds with an unsettled claim or an end to come.
    pub max_funds: usize,
    /// Percent of each payment that the resource's rule has to burn ([`super::split::BURN_SHARE`] on a public network).
    pub burn_share: u64,
}

impl Default for Settings {
    /// 4096 funds, and no burn: a chain whose resources have no rules yet.
    fn default() -> Self {
        Self { max_funds: 4096, burn_share: 0 }
    }
}

/// One change of a till, as it stands in the journal. The receipt is in its RLP form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Entry {
    Accepted {
        receipt: Vec<u8>,
    },
    Ticked {
        payer: Address,
        reserve_sequence: u64,
        index: u32,
        word: Hash,
    },
    Submitted {
        payer: Address,
        reserve_sequence: u64,
        height: u64,
        fee: TFuelWei,
    },
    Settled {
        payer: Address,
        reserve_sequence: u64,
        payment_sequence: u64,
        amount: TFuelWei,
        burned: TFuelWei,
        shared: TFuelWei,
    },
    Ended {
        payer: Address,
        reserve_sequence: u64,
    },
    /// What all earlier entries made of one fund.
    Kept {
        payer: Address,
        reserve_sequence: u64,
        drawer: Box<Drawer>,
    },
    /// And of all funds that ended.
    Past(Book),
}

impl Record for Entry {
    const VERSION: u8 = 2;
}

/// What one fund owes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Drawer {
    best: Option<Receipt>,
    /// The place in the chain of ticks of the newest receipt, also after that one settled.
    meter: Option<TickMeter>,
    /// The last height at which a receipt of it could settle.
    ends: u64,
    /// Height at which the best receipt was last handed in, and the fee.
    submitted: Option<(u64, TFuelWei)>,
    settled_sequence: u64,
    settled: TFuelWei,
    book: Book,
    /// When the first of the ticks in no receipt came; of no use after a restart.
    #[serde(skip)]
    ticking: Millis,
}

impl Drawer {
    /// What ticks pay that are in no receipt.
    fn ticked(&self) -> TFuelWei {
        self.meter.as_ref().map_or(TFuelWei::ZERO, TickMeter::amount)
    }

    fn claimed(&self) -> TFuelWei {
        self.best.as_ref().map_or(TFuelWei::ZERO, |best| best.amount)
    }

    /// Takes a receipt that was checked. Its amount covers the ticks before it.
    fn accept(&mut self, receipt: Receipt) -> Result<(), PayError> {
        let gain = receipt.amount.saturating_sub(self.claimed());
        let same = self.meter.as_ref().is_some_and(|meter| *meter.commit() == receipt.tick);
        let mut rolled = TFuelWei::ZERO;
        if !same {
            // In the book stand only ticks that are in the journal.
            rolled = self.book.exposed.min(gain);
            let lost = self.book.exposed.saturating_sub(rolled);
            self.book.post(Account::Exposed, Account::Accrued, rolled)?;
            self.book.post(Account::Exposed, Account::Lost, lost)?;
            self.meter = (receipt.tick.max > 0).then(|| TickMeter::new(receipt.tick));
        }
        self.book.post(Account::Payer, Account::Accrued, gain.saturating_sub(rolled))?;
        self.ends = self.ends.max(receipt.expiry_height);
        self.best = Some(receipt);
        Ok(())
    }

    /// Brings the ticks that were taken into the book.
    fn note_ticks(&mut self) -> Result<(), PayError> {
        let more = self.ticked().saturating_sub(self.book.exposed);
        Ok(self.book.post(Account::Payer, Account::Exposed, more)?)
    }

    fn settle(&mut self, sequence: u64, amount: TFuelWei, others: Division) -> Result<(), PayError> {
        // More can settle than this till knows of, if it lost its journal; less, if an older receipt of the sequence did,
        // which only the payee itself could have handed in. What does not settle of a sequence never will.
        let accrued = self.book.accrued;
        self.book.post(Account::Payer, Account::Accrued, amount.saturating_sub(accrued))?;
        self.book.post(Account::Accrued, Account::Lost, accrued.saturating_sub(amount))?;
        self.book.post(Account::Accrued, Account::Settled, amount)?;
        self.book.post(Account::Settled, Account::Burned, others.burned)?;
        self.book.post(Account::Settled, Account::Shared, others.shared)?;
        if let Some((_, fee)) = self.submitted.take() {
            // The fee comes from the account's balance where the payment is smaller.
            self.book.post(Account::Settled, Account::Fees, fee.min(self.book.settled))?;
        }
        self.settled = self.settled.checked_add(amount).unwrap_or(self.settled);
        self.settled_sequence = sequence;
        self.best = self.best.take().filter(|best| best.payment_sequence > sequence);
        Ok(())
    }
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

/// What a payee has at risk with one fund.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exposure {
    /// Ticks in no receipt.
    pub ticks: u32,
    /// What they pay.
    pub amount: TFuelWei,
    /// Since when.
    pub since: Millis,
}

/// A payee's key and the best receipt of every fund that owes it.
pub struct Till {
    chain_id: String,
    signer: Arc<dyn Signer>,
    settings: Settings,
    journal: History<Entry>,
    /// Boxed, so that a growing table moves little.
    drawers: HashMap<(Address, u64), Box<Drawer>>,
    /// Books of funds that ended.
    past: Book,
    watches: BTreeMap<(Address, u64), Watch>,
    /// Split rules as the host last saw them.
    rules: BTreeMap<String, SplitRule>,
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
        Self::open_with(chain_id, signer, disk, Settings::default())
    }

    /// The same with settings.
    pub fn open_with(
        chain_id: &str,
        signer: Arc<dyn Signer>,
        disk: impl Disk + 'static,
        settings: Settings,
    ) -> Result<Self, PayError> {
        let (journal, entries) = History::open(disk)?;
        let mut till = Self {
            chain_id: chain_id.to_owned(),
            signer,
            settings,
            journal,
            drawers: HashMap::new(),
            past: Book::default(),
            watches: BTreeMap::new(),
            rules: BTreeMap::new(),
        };
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

    fn drawer(&mut self, payer: Address, reserve_sequence: u64) -> &mut Drawer {
        self.drawers.entry((payer, reserve_sequence)).or_default()
    }

    fn apply(&mut self, entry: &Entry) -> Result<(), PayError> {
        match entry {
            Entry::Accepted { receipt } => {
                let receipt = Receipt::from_rlp(receipt, MAX_RECEIPT).map_err(|_| PayError::Signature)?;
                self.drawer(receipt.payer, receipt.reserve_sequence).accept(receipt)?;
            }
            Entry::Ticked { payer, reserve_sequence, index, word } => {
                let drawer = self.drawer(*payer, *reserve_sequence);
                if let Some(meter) = &mut drawer.meter {
                    // A hash for each was paid when they came; the journal is believed but for its form.
                    meter.take(*index, *word, u32::MAX)?;
                }
                drawer.note_ticks()?;
            }
            Entry::Submitted { payer, reserve_sequence, height, fee } => {
                self.drawer(*payer, *reserve_sequence).submitted = Some((*height, *fee));
            }
            Entry::Settled { payer, reserve_sequence, payment_sequence, amount, burned, shared } => {
                let others = Division { kept: TFuelWei::ZERO, burned: *burned, shared: *shared };
                self.drawer(*payer, *reserve_sequence).settle(*payment_sequence, *amount, others)?;
            }
            Entry::Ended { payer, reserve_sequence } => {
                if let Some(mut drawer) = self.drawers.remove(&(*payer, *reserve_sequence)) {
                    let book = &mut drawer.book;
                    book.post(Account::Exposed, Account::Lost, book.exposed)?;
                    book.post(Account::Accrued, Account::Lost, book.accrued)?;
                    self.past.add(book)?;
                }
            }
            Entry::Kept { payer, reserve_sequence, drawer } => {
                self.drawers.insert((*payer, *reserve_sequence), drawer.clone());
            }
            Entry::Past(book) => self.past = *book,
        }
        Ok(())
    }

    fn tidy(&mut self) -> Result<(), PayError> {
        let kept = || {
            let mut drawers: Vec<_> = self.drawers.iter().collect();
            drawers.sort_by_key(|(key, _)| **key);
            let kept = drawers.into_iter().map(|((payer, reserve_sequence), drawer)| Entry::Kept {
                payer: *payer,
                reserve_sequence: *reserve_sequence,
                drawer: drawer.clone(),
            });
            [Entry::Past(self.past)].into_iter().chain(kept).collect()
        };
        // Counted twice: receipts come often, and a drawer takes longer to write than a receipt.
        Ok(self.journal.tidy(2 * self.drawers.len() + 1, kept)?)
    }

    /// Forgets funds that ended before this settled height: what did not settle by then never will. To be called after
    /// [`Self::observe`] of what the chain shows at that height or later.
    pub fn forget_ended(&mut self, height: u64) -> Result<(), PayError> {
        let ended = self.drawers.iter().filter(|(_, drawer)| drawer.ends < height);
        let mut ended: Vec<_> = ended.map(|(key, _)| *key).collect();
        ended.sort_unstable();
        for (payer, reserve_sequence) in ended {
            self.watches.remove(&(payer, reserve_sequence));
            self.write(Entry::Ended { payer, reserve_sequence })?;
        }
        Ok(())
    }

    /// Whether a receipt of this fund would find a place.
    pub fn has_room(&self, payer: Address, reserve_sequence: u64) -> bool {
        self.drawers.len() < self.settings.max_funds || self.drawers.contains_key(&(payer, reserve_sequence))
    }

    /// The split rule of a resource, as the chain shows it now; the host looks again now and then.
    pub fn set_rule(&mut self, resource_id: &str, rule: Option<SplitRule>) {
        match rule {
            Some(rule) if self.rules.len() < self.settings.max_funds => {
                self.rules.insert(resource_id.to_owned(), rule);
            }
            _ => drop(self.rules.remove(resource_id)),
        }
    }

    fn write(&mut self, entry: Entry) -> Result<(), PayError> {
        self.journal.append(&entry)?;
        self.apply(&entry)?;
        self.tidy()
    }

    /// Whether work for a pool can be paid ([`covers`]), also with what its other payees claim, and burns what it should.
    pub fn covers(
        &self,
        now: Millis,
        fund: Option<&Fund>,
        pool: &PoolRef,
        amount: TFuelWei,
        height: u64,
    ) -> Result<(), PayError> {
        covers(fund, pool, amount, height)?;
        if !self.has_room(pool.payer, pool.reserve_sequence) {
            return Err(PayError::Crowded(self.settings.max_funds));
        }
        let end = fund.map_or(0, |fund| fund.end_height);
        check_burn(self.rules.get(&pool.resource_id), self.settings.burn_share, end)?;
        let key = (pool.payer, pool.reserve_sequence);
        let own = self.drawers.get(&key);
        let owed = own.and_then(|own| amount.checked_add(own.claimed())?.checked_add(own.ticked()));
        let asked = if own.is_some() { owed.ok_or(PayError::Uncovered)? } else { amount };
        match self.watches.get(&key) {
            Some(watch) if watch.is_overspent() || asked > watch.credit_line(now) => Err(PayError::Uncovered),
            _ => Ok(()),
        }
    }

    /// Takes a payment if it is good, and says by how much it raises what this fund owes: nothing for one that is
    /// already here. `fund` is the fund as the chain shows it now. Once this returns, the claim is safe and may be
    /// acknowledged.
    pub fn accept(&mut self, payment: &Payment, fund: &Fund, height: u64) -> Result<TFuelWei, PayError> {
        let gain = self.check(payment, fund, height);
        let gain = gain.inspect_err(|error| self.note_uncovered(error, &payment.receipt, fund))?;
        if let Some(gain) = gain {
            payment.receipt.verify()?;
            self.keep(&payment.receipt)?;
            return Ok(gain);
        }
        Ok(TFuelWei::ZERO)
    }

    /// The same for a payment that came in an envelope signed by its payer ([`crate::message::Envelope`]): only what
    /// settles is verified again.
    pub fn accept_from_payer(
        &mut self,
        from: Address,
        payment: &Payment,
        fund: &Fund,
        height: u64,
    ) -> Result<TFuelWei, PayError> {
        if from != payment.receipt.payer {
            return self.accept(payment, fund, height);
        }
        let gain = self.check(payment, fund, height);
        let gain = gain.inspect_err(|error| self.note_uncovered(error, &payment.receipt, fund))?;
        if let Some(gain) = gain {
            payment.receipt.verify_claim()?;
            self.keep(&payment.receipt)?;
            return Ok(gain);
        }
        Ok(TFuelWei::ZERO)
    }

    /// A receipt that the fund cannot pay is worth nothing but as evidence.
    fn note_uncovered(&mut self, error: &PayError, receipt: &Receipt, fund: &Fund) {
        let is_claim = matches!(error, PayError::Uncovered)
            && (receipt.payer, receipt.reserve_sequence) == (fund.payer, fund.reserve_sequence)
            && receipt.amount > fund.left()
            && fund.resource_ids.contains(&receipt.resource_id);
        if is_claim
            && receipt.verify_claim().is_ok()
            && let Some(watch) = self.watch(fund)
        {
            watch.claim(0, receipt);
        }
    }

    fn keep(&mut self, receipt: &Receipt) -> Result<(), PayError> {
        self.journal.append(&Entry::Accepted { receipt: receipt.to_rlp() })?;
        self.drawer(receipt.payer, receipt.reserve_sequence).accept(receipt.clone())?;
        self.tidy()
    }

    /// Everything about a payment but its signatures: by how much it raises the claim, or `None` if it is here already.
    fn check(&mut self, payment: &Payment, fund: &Fund, height: u64) -> Result<Option<TFuelWei>, PayError> {
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
            return Err(PayError::Crowded(self.settings.max_funds));
        }
        self.observe(fund)?;
        let drawer = self.drawers.get(&key);
        let best = drawer.and_then(|drawer| drawer.best.as_ref());
        if best == Some(receipt) {
            return Ok(None);
        }
        let pool =
            PoolRef { payer: key.0, reserve_sequence: key.1, resource_id: receipt.resource_id.clone() };
        covers(Some(fund), &pool, receipt.amount, height)?;
        check_burn(self.rules.get(&receipt.resource_id), self.settings.burn_share, fund.end_height)?;
        if receipt.expiry_height > fund.end_height {
            return Err(PayError::Expiring);
        }
        let exposure = receipt.tick.exposure().and_then(|exposure| exposure.checked_add(receipt.amount));
        if exposure.is_none_or(|all| all > fund.left()) {
            return Err(PayError::Uncovered);
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
        // The same chain of ticks may go on; another one has to pay for the ticks of the one before it.
        let meter = drawer.and_then(|drawer| drawer.meter.as_ref());
        let goes_on = meter.map_or(receipt.tick.max == 0, |meter| *meter.commit() == receipt.tick);
        let paid = receipt.amount.checked_sub(known).ok_or(PayError::Stale)?;
        if paid.is_zero() && (goes_on || receipt.tick.max == 0) {
            return Err(PayError::Stale);
        }
        let owed = meter.filter(|_| !goes_on).map_or(TFuelWei::ZERO, TickMeter::amount);
        if paid < owed {
            return Err(PayError::Rolled { paid, owed });
        }
        if !payment.extends(root, known) {
            return Err(PayError::Items);
        }
        Ok(Some(paid))
    }

    /// Takes a tick and says how much more it pays: nothing for one from before. Costs a hash. What is worth keeping is
    /// in the journal now and then, so a crash loses at most 64 ticks, which the payer's next receipt pays anyway.
    pub fn tick(&mut self, now: Millis, payer: Address, tick: &Tick) -> Result<TFuelWei, PayError> {
        let key = (payer, tick.reserve_sequence);
        let drawer = self.drawers.get_mut(&key).ok_or(TickError::Anchor)?;
        let meter = drawer.meter.as_mut().filter(|meter| meter.commit().anchor == tick.anchor);
        let meter = meter.ok_or(TickError::Anchor)?;
        let before = meter.index();
        let more = meter.take(tick.index, tick.word, WINDOW)?;
        if more == 0 {
            return Ok(TFuelWei::ZERO);
        }
        let gain = meter.commit().unit.checked_mul(u64::from(more)).unwrap_or_default();
        if before == 0 {
            drawer.ticking = now;
        }
        if before / TICKS_KEPT != tick.index / TICKS_KEPT {
            let (reserve_sequence, index, word) = (tick.reserve_sequence, tick.index, tick.word);
            self.write(Entry::Ticked { payer, reserve_sequence, index, word })?;
        }
        Ok(gain)
    }

    /// The last tick of a fund's payer, to be shown to it when it forgot ([`super::purse::Purse::shown_tick`]).
    pub fn last_tick(&self, payer: Address, reserve_sequence: u64) -> Option<Tick> {
        let meter = self.drawers.get(&(payer, reserve_sequence))?.meter.as_ref()?;
        let (anchor, index, word) = (meter.commit().anchor, meter.index(), meter.word());
        Some(Tick { reserve_sequence, anchor, index, word })
    }

    /// What a tick of a fund's payer pays; `None` where none may be released.
    pub fn ticks_of(&self, payer: Address, reserve_sequence: u64) -> Option<TFuelWei> {
        let meter = self.drawers.get(&(payer, reserve_sequence))?.meter.as_ref()?;
        Some(meter.commit().unit)
    }

    /// All that a fund has paid this payee: settled, in the receipt, and by ticks since then. It never becomes less.
    pub fn paid(&self, payer: Address, reserve_sequence: u64) -> TFuelWei {
        let Some(drawer) = self.drawers.get(&(payer, reserve_sequence)) else { return TFuelWei::ZERO };
        let parts = [drawer.settled, drawer.claimed(), drawer.ticked()];
        // Within the fund.
        parts.into_iter().try_fold(TFuelWei::ZERO, TFuelWei::checked_add).unwrap_or_default()
    }

    /// What is at risk with a fund for want of a receipt.
    pub fn exposure(&self, payer: Address, reserve_sequence: u64) -> Exposure {
        let key = (payer, reserve_sequence);
        let meter = self.drawers.get(&key).and_then(|drawer| drawer.meter.as_ref());
        let since = self.drawers.get(&key).map_or(0, |drawer| drawer.ticking);
        meter.map_or(Exposure::default(), |meter| Exposure {
            ticks: meter.index(),
            amount: meter.amount(),
            since,
        })
    }

    /// Whether more may be served before the next receipt: fewer ticks than the window, and none older than two seconds.
    pub fn may_serve(&self, now: Millis, payer: Address, reserve_sequence: u64) -> bool {
        let exposure = self.exposure(payer, reserve_sequence);
        exposure.ticks == 0 || (exposure.ticks < WINDOW && now < exposure.since.saturating_add(WINDOW_MS))
    }

    fn watch(&mut self, fund: &Fund) -> Option<&mut Watch> {
        let key = (fund.payer, fund.reserve_sequence);
        if self.watches.len() >= self.settings.max_funds && !self.watches.contains_key(&key) {
            return None;
        }
        let me = self.payee();
        let watch = self.watches.entry(key).or_insert_with(|| Watch::new(me, fund));
        watch.observe(fund);
        Some(watch)
    }

    /// What the other payees of a fund should hear after the own claim grew ([`Self::accept`]) or some time passed.
    pub fn speak(&mut self, now: Millis, fund: &Fund) -> Option<Say> {
        let best = self.drawers.get(&(fund.payer, fund.reserve_sequence))?.best.clone()?;
        self.watch(fund)?.claim(now, &best)
    }

    /// The same, said again for those that may have missed it; to be called about every [`super::watch::REPEAT_MS`].
    pub fn repeat(&mut self, now: Millis) -> Vec<Say> {
        self.watches.values_mut().filter_map(|watch| watch.tick(now)).collect()
    }

    /// Another payee named the size of its claim on a fund that this one works for.
    pub fn hear(&mut self, now: Millis, beacon: &Beacon, fund: &Fund) -> Result<Option<Say>, PayError> {
        self.of_fund(&beacon.chain_id, beacon.payer, beacon.reserve_sequence, fund)?;
        beacon.verify()?;
        Ok(self.watch(fund).and_then(|watch| watch.heard(now, beacon)))
    }

    /// Another payee showed its receipt.
    pub fn see(&mut self, now: Millis, receipt: &Receipt, fund: &Fund) -> Result<Option<Say>, PayError> {
        self.of_fund(&receipt.chain_id, receipt.payer, receipt.reserve_sequence, fund)?;
        if !fund.resource_ids.contains(&receipt.resource_id) {
            return Err(PayError::Resource(receipt.resource_id.clone()));
        }
        if receipt.payee == receipt.payer {
            return Err(PayError::SameAccount);
        }
        receipt.verify_claim()?;
        Ok(self.watch(fund).and_then(|watch| watch.shown(now, receipt)))
    }

    /// Payers that are known to have signed away more than their funds hold: whose, and which.
    pub fn overspenders(&self) -> impl Iterator<Item = (Address, u64)> + '_ {
        self.watches.iter().filter(|(_, watch)| watch.is_overspent()).map(|(key, _)| *key)
    }

    /// Whether the payer is known to have signed away more than the fund holds.
    pub fn is_overspent(&self, payer: Address, reserve_sequence: u64) -> bool {
        self.watches.get(&(payer, reserve_sequence)).is_some_and(Watch::is_overspent)
    }

    /// Whether this fund owes something, or did and has not ended.
    pub fn knows(&self, payer: Address, reserve_sequence: u64) -> bool {
        self.drawers.contains_key(&(payer, reserve_sequence))
    }

    fn of_fund(
        &self,
        chain_id: &str,
        payer: Address,
        reserve_sequence: u64,
        fund: &Fund,
    ) -> Result<(), PayError> {
        if chain_id != self.chain_id {
            return Err(PayError::Foreign("chain"));
        }
        if (payer, reserve_sequence) != (fund.payer, fund.reserve_sequence) {
            return Err(PayError::Foreign("fund"));
        }
        // Funds that owe this node nothing are no business of its, or anybody could fill its memory.
        if self.knows(payer, reserve_sequence) { Ok(()) } else { Err(PayError::NoFund) }
    }

    /// Proofs against payers that signed away more than their fund holds. `settled` are payments of the fund that the
    /// chain has carried out, from the payer's account; without them some overspends cannot be proven.
    pub fn overspending(
        &self,
        payer: Address,
        reserve_sequence: u64,
        settled: &[ServicePayment],
    ) -> Option<OverspendingProof> {
        self.watches.get(&(payer, reserve_sequence))?.proof(reserve_sequence, settled)
    }

    /// The transaction that punishes an overspender, brought by this payee; `sequence` is that of its account plus one.
    pub fn slash(&self, payer: Address, proof: &OverspendingProof, sequence: u64) -> Result<RawTx, PayError> {
        let slash = Slash::new(self.payee(), sequence, payer, proof);
        Ok(Unsigned::new(self.chain_id.clone(), slash).sign(&*self.signer)?)
    }

    /// Claims that should be settled now, the largest first: worth a hundred fees, or in a fund that ends soon, is nearly
    /// spent or overspent, or handed in before and not seen since. `eager` settles every claim of which more is left than
    /// the fee, for tests and for closing down. Of one that leaves less nothing would come, and receipts for more could not
    /// follow it.
    pub fn due(&self, height: u64, fee: TFuelWei, eager: bool) -> Vec<Due> {
        let floor = fee.checked_mul(FEES).unwrap_or(fee);
        let payee = self.payee();
        let mut all = Vec::new();
        for (key, drawer) in &self.drawers {
            let Some(best) = &drawer.best else { continue };
            let hurry = best.expiry_height < height.saturating_add(LAST_CALL)
                || self.watches.get(key).is_some_and(|watch| {
                    watch.is_overspent() || watch.use_percent(Millis::MAX) >= NEARLY_SPENT
                });
            let now = match drawer.submitted {
                Some((at, _)) => height >= at.saturating_add(PATIENCE),
                None => {
                    let rule = self.rules.get(&best.resource_id);
                    let kept = divide(best.amount, payee, rule, height).kept;
                    kept > fee && (hurry || eager || best.amount > floor)
                }
            };
            if now && height <= best.expiry_height {
                all.push(Due { payer: key.0, reserve_sequence: key.1, amount: best.amount });
            }
        }
        all.sort_by_key(|due| (std::cmp::Reverse(due.amount), due.payer, due.reserve_sequence));
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
        self.write(Entry::Submitted { payer: key.0, reserve_sequence: key.1, height, fee })?;
        best.settle(&*self.signer, fee)
    }

    /// Learns from the chain what was settled, and gives the amount that is new, of which the split rule leaves this
    /// payee a part.
    pub fn observe(&mut self, fund: &Fund) -> Result<TFuelWei, PayError> {
        let payee = self.payee();
        let key = (fund.payer, fund.reserve_sequence);
        if let Some(watch) = self.watches.get_mut(&key) {
            watch.observe(fund);
        }
        let mut new = TFuelWei::ZERO;
        for settled in fund.settled.iter().filter(|settled| settled.payee == payee) {
            let drawer = self.drawers.get(&key);
            if settled.payment_sequence > drawer.map_or(0, |drawer| drawer.settled_sequence) {
                let best = drawer.and_then(|drawer| drawer.best.as_ref());
                let rule = best.and_then(|best| self.rules.get(&best.resource_id));
                // A rule that the chain still shows has not ended.
                let part = divide(settled.amount, payee, rule, 0);
                self.write(Entry::Settled {
                    payer: key.0,
                    reserve_sequence: key.1,
                    payment_sequence: settled.payment_sequence,
                    amount: settled.amount,
                    burned: part.burned,
                    shared: part.shared,
                })?;
                new = new.checked_add(settled.amount).unwrap_or(new);
            }
        }
        Ok(new)
    }

    /// Every fund that owes something, or did and has not ended: payer, sequence, claimed and not settled, settled.
    pub fn book(&self) -> impl Iterator<Item = (Address, u64, TFuelWei, TFuelWei)> + '_ {
        let mut all: Vec<_> = self.drawers.iter().collect();
        all.sort_by_key(|(key, _)| **key);
        all.into_iter()
            .map(|((payer, sequence), drawer)| (*payer, *sequence, drawer.claimed(), drawer.settled))
    }

    /// Where each wei is that this node has earned, over all funds.
    pub fn earnings(&self) -> Result<Book, PayError> {
        let mut all = self.past;
        for drawer in self.drawers.values() {
            all.add(&drawer.book)?;
            // Ticks that the journal does not have yet.
            let young = drawer.ticked().saturating_sub(drawer.book.exposed);
            all.post(Account::Payer, Account::Exposed, young)?;
        }
        Ok(all)
    }
}
