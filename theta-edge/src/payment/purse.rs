//! The payer's side: the only way to a receipt.
//!
//! Safety: what was signed, what ticks may still pay and what is promised never exceed the fund together, also across
//! crashes. Every change is an entry
//! that is checked, then made durable, then applied; a signature is made only from the applied state. A crash between
//! entry and signature therefore loses no money and doubles none: the entry counts as signed, and asking again for the
//! same item gives the receipt it stands for. Items are known as long as their job's promise stands: without a promise
//! nothing is paid, so they cannot be paid again after it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use theta_core::amount::TFuelWei;
use theta_core::hash::{Address, Hash, U256};
use theta_core::journal::{Disk, Record};
use theta_core::sign::{Signature, Signer};

use super::PayError;
use super::receipt::{Line, MAX_LINES, NO_ITEMS, Payment, Receipt, extend};
use super::tick::{self, TickChain, TickCommit, TickError};
use crate::chain::Fund;
use crate::history::History;

/// One change of a purse, as it stands in the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Entry {
    Opened {
        reserve_sequence: u64,
        initial: TFuelWei,
        resource_id: String,
        end_height: u64,
    },
    Promised {
        job: Hash,
        amount: TFuelWei,
    },
    Released {
        job: Hash,
    },
    Paid {
        job: Hash,
        payee: Address,
        item: Hash,
        amount: TFuelWei,
    },
    Acknowledged {
        payee: Address,
        sequence: u64,
        total: TFuelWei,
    },
    Settled {
        payee: Address,
        sequence: u64,
        amount: TFuelWei,
    },
    /// Ticks may be released, out of the job's promise.
    Ticking {
        job: Hash,
        payee: Address,
        seed: [u8; 32],
        anchor: Hash,
        unit: TFuelWei,
        max: u32,
    },
    /// Ticks up to this index of the chain are in the receipt; `anchor` is the word of that index.
    Rolled {
        payee: Address,
        index: u32,
        anchor: Hash,
    },
    /// No more ticks are released; what they might have paid goes back to the promise.
    Unticked {
        payee: Address,
    },
    /// What all earlier entries made of one payee.
    Owed {
        payee: Address,
        account: Account,
    },
    /// And of one promise.
    Kept {
        job: Hash,
        promise: Promise,
    },
}

impl Record for Entry {
    const VERSION: u8 = 2;
}

/// What is owed to one payee from the present fund.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Account {
    /// What the chain has paid.
    settled: TFuelWei,
    /// The last sequence that the chain has paid; the present one is the next.
    settled_sequence: u64,
    /// What is signed in the present sequence.
    amount: TFuelWei,
    root: Hash,
    /// Items of the present sequence.
    lines: Vec<Line>,
    /// How much of the present sequence the payee has seen.
    acknowledged: TFuelWei,
    ticks: Option<Ticks>,
}

/// A chain of ticks that a payee was promised.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Ticks {
    job: Hash,
    seed: [u8; 32],
    unit: TFuelWei,
    max: u32,
    /// How many are in the receipt.
    rolled: u32,
    /// The word of that index.
    anchor: Hash,
}

impl std::fmt::Debug for Ticks {
    /// Leaves out the seed, which is money.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticks").field("max", &self.max).field("rolled", &self.rolled).finish_non_exhaustive()
    }
}

impl Ticks {
    /// What a receipt says of those that are left.
    fn commit(&self) -> TickCommit {
        let max = self.max.saturating_sub(self.rolled);
        if max == 0 { TickCommit::NONE } else { TickCommit { anchor: self.anchor, unit: self.unit, max } }
    }
}

/// What one job may still cost, and what was paid for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Promise {
    left: TFuelWei,
    items: BTreeSet<Hash>,
}

#[derive(Debug)]
struct Open {
    reserve_sequence: u64,
    initial: TFuelWei,
    resource_id: String,
    end_height: u64,
}

#[derive(Debug, Default)]
struct State {
    open: Option<Open>,
    promises: BTreeMap<Hash, Promise>,
    accounts: BTreeMap<Address, Account>,
}

impl State {
    /// Signed and promised together, or `None` above what a word holds.
    fn held(&self) -> Option<TFuelWei> {
        let accounts = self.accounts.values();
        let accounts = accounts.flat_map(|account| [account.settled, account.amount, account.exposed()]);
        let promises = self.promises.values().map(|promise| promise.left);
        accounts.chain(promises).try_fold(TFuelWei::ZERO, TFuelWei::checked_add)
    }

    fn free(&self) -> TFuelWei {
        match (&self.open, self.held()) {
            (Some(open), Some(held)) => open.initial.saturating_sub(held),
            _ => TFuelWei::ZERO,
        }
    }

    /// Carries out an entry that was checked before it was written. Sums cannot overflow: they are within the fund.
    fn apply(&mut self, entry: &Entry) {
        match entry {
            Entry::Opened { reserve_sequence, initial, resource_id, end_height } => {
                let (resource_id, end_height) = (resource_id.clone(), *end_height);
                self.open = Some(Open {
                    reserve_sequence: *reserve_sequence,
                    initial: *initial,
                    resource_id,
                    end_height,
                });
                self.accounts.clear();
            }
            Entry::Promised { job, amount } => {
                self.promises.insert(*job, Promise { left: *amount, items: BTreeSet::new() });
            }
            Entry::Released { job } => {
                self.promises.remove(job);
            }
            Entry::Paid { job, payee, item, amount } => {
                if let Some(promise) = self.promises.get_mut(job) {
                    promise.left = promise.left.saturating_sub(*amount);
                    promise.items.insert(*item);
                }
                self.accounts.entry(*payee).or_default().add(*item, *amount);
            }
            Entry::Acknowledged { payee, total, .. } => {
                if let Some(account) = self.accounts.get_mut(payee) {
                    account.acknowledged = *total;
                }
            }
            Entry::Settled { payee, sequence, amount } => {
                let account = self.accounts.entry(*payee).or_default();
                // What was signed beyond the settled receipt is still owed, and moves to the next sequence.
                let lines = std::mem::take(&mut account.lines);
                account.settled = account.settled.checked_add(*amount).unwrap_or(account.settled);
                account.settled_sequence = *sequence;
                (account.amount, account.acknowledged, account.root) =
                    (TFuelWei::ZERO, TFuelWei::ZERO, NO_ITEMS);
                for line in lines.into_iter().skip_while(|line| line.total <= *amount) {
                    account.add(line.item, line.amount);
                }
            }
            Entry::Ticking { job, payee, seed, anchor, unit, max } => {
                let (job, seed, anchor, unit, max) = (*job, *seed, *anchor, *unit, *max);
                let ticks = Ticks { job, seed, unit, max, rolled: 0, anchor };
                if let Some(promise) = self.promises.get_mut(&job) {
                    let exposed = ticks.commit().exposure().unwrap_or(promise.left);
                    promise.left = promise.left.saturating_sub(exposed);
                }
                self.accounts.entry(*payee).or_default().ticks = Some(ticks);
            }
            Entry::Rolled { payee, index, anchor } => {
                let account = self.accounts.entry(*payee).or_default();
                if let Some(ticks) = &mut account.ticks {
                    let more = ticks.unit.checked_mul(u64::from(index.saturating_sub(ticks.rolled)));
                    let item = tick::item(&ticks.anchor, *index);
                    (ticks.rolled, ticks.anchor) = (*index, *anchor);
                    account.add(item, more.unwrap_or_default());
                }
            }
            Entry::Unticked { payee } => {
                let account = self.accounts.entry(*payee).or_default();
                let exposed = account.exposed();
                if let Some(ticks) = account.ticks.take()
                    && let Some(promise) = self.promises.get_mut(&ticks.job)
                {
                    promise.left = promise.left.checked_add(exposed).unwrap_or(promise.left);
                }
            }
            Entry::Owed { payee, account } => {
                self.accounts.insert(*payee, account.clone());
            }
            Entry::Kept { job, promise } => {
                self.promises.insert(*job, promise.clone());
            }
        }
    }

    /// About how many entries would say the same; a line of an account counts as one.
    fn size(&self) -> usize {
        let lines: usize = self.accounts.values().map(|account| account.lines.len()).sum();
        1 + self.promises.len() + self.accounts.len() + lines
    }

    /// Entries that say the same.
    fn entries(&self) -> Vec<Entry> {
        let open = self.open.iter().map(|open| Entry::Opened {
            reserve_sequence: open.reserve_sequence,
            initial: open.initial,
            resource_id: open.resource_id.clone(),
            end_height: open.end_height,
        });
        let owed = self.accounts.iter();
        let owed = owed.map(|(payee, account)| Entry::Owed { payee: *payee, account: account.clone() });
        let kept = self.promises.iter();
        let kept = kept.map(|(job, promise)| Entry::Kept { job: *job, promise: promise.clone() });
        open.chain(owed).chain(kept).collect()
    }
}

impl Account {
    fn add(&mut self, item: Hash, amount: TFuelWei) {
        let total = self.amount.checked_add(amount).unwrap_or(self.amount);
        self.amount = total;
        self.root = extend(&self.root, &item, amount);
        self.lines.push(Line { item, amount, total });
    }

    /// What ticks may pay that are in no receipt yet.
    fn exposed(&self) -> TFuelWei {
        self.ticks.as_ref().and_then(|ticks| ticks.commit().exposure()).unwrap_or_default()
    }

    fn news(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter().skip_while(|line| line.total <= self.acknowledged)
    }
}

/// A payer's key, its present fund, and all that it has signed and promised.
pub struct Purse {
    chain_id: String,
    signer: Arc<dyn Signer>,
    journal: History<Entry>,
    state: State,
    /// Chains that ticks are being released of, and how far.
    chains: BTreeMap<Address, (TickChain, u32)>,
}

/// A tick on its way to a payee: `index` units on top of the receipt with this anchor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tick {
    /// Fund of the receipt.
    pub reserve_sequence: u64,
    /// Anchor of the receipt.
    pub anchor: Hash,
    /// Ticks since then.
    pub index: u32,
    /// The word that proves it.
    pub word: Hash,
}

/// Where a fund's money is; the five add up to what it was opened with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statement {
    /// Nobody's yet.
    pub free: TFuelWei,
    /// Set aside for jobs.
    pub promised: TFuelWei,
    /// Set aside for ticks that may be released.
    pub exposed: TFuelWei,
    /// In receipts that have not settled.
    pub signed: TFuelWei,
    /// Paid by the chain.
    pub settled: TFuelWei,
}

impl std::fmt::Debug for Purse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Purse")
            .field("payer", &self.signer.address())
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl Purse {
    /// Opens the purse of a key where its journal left it.
    pub fn open(
        chain_id: &str,
        signer: Arc<dyn Signer>,
        disk: impl Disk + 'static,
    ) -> Result<Self, PayError> {
        let (journal, entries) = History::open(disk)?;
        let mut state = State::default();
        entries.iter().for_each(|entry| state.apply(entry));
        let mut purse =
            Self { chain_id: chain_id.to_owned(), signer, journal, state, chains: BTreeMap::new() };
        purse.tidy()?;
        Ok(purse)
    }

    /// Who pays.
    pub fn payer(&self) -> Address {
        self.signer.address()
    }

    /// Sequence and resource id of the present fund.
    pub fn fund(&self) -> Option<(u64, &str)> {
        self.state.open.as_ref().map(|open| (open.reserve_sequence, open.resource_id.as_str()))
    }

    /// What neither a receipt nor a promise holds of the present fund.
    pub fn free(&self) -> TFuelWei {
        self.state.free()
    }

    /// Where the present fund's money is; `None` before one is adopted.
    pub fn statement(&self) -> Option<Statement> {
        let open = self.state.open.as_ref()?;
        // Sums are within the fund.
        let add = |sum: &mut TFuelWei, part| *sum = sum.checked_add(part).unwrap_or(open.initial);
        let zero = TFuelWei::ZERO;
        let mut all =
            Statement { free: self.free(), promised: zero, exposed: zero, signed: zero, settled: zero };
        self.state.promises.values().for_each(|promise| add(&mut all.promised, promise.left));
        for account in self.state.accounts.values() {
            add(&mut all.exposed, account.exposed());
            add(&mut all.signed, account.amount);
            add(&mut all.settled, account.settled);
        }
        Some(all)
    }

    fn write(&mut self, entry: Entry) -> Result<(), PayError> {
        self.journal.append(&entry)?;
        self.state.apply(&entry);
        self.tidy()
    }

    fn tidy(&mut self) -> Result<(), PayError> {
        Ok(self.journal.tidy(self.state.size(), || self.state.entries())?)
    }

    /// Pays from this fund from now on, for its first resource. The fund must be fresh: receipts that were signed from
    /// it without this journal could not be counted. Doing it again with the same fund changes nothing.
    pub fn adopt(&mut self, fund: &Fund) -> Result<(), PayError> {
        if fund.payer != self.payer() {
            return Err(PayError::Foreign("payer"));
        }
        match &self.state.open {
            Some(open) if open.reserve_sequence == fund.reserve_sequence => return Ok(()),
            Some(open) if open.reserve_sequence > fund.reserve_sequence => return Err(PayError::FundInUse),
            _ => {}
        }
        if !fund.used.is_zero() || !fund.settled.is_empty() {
            return Err(PayError::FundInUse);
        }
        if !self.state.promises.is_empty() {
            return Err(PayError::Promised);
        }
        let resource_id = fund.resource_ids.first().cloned().ok_or(PayError::NoFund)?;
        let (reserve_sequence, initial, end_height) = (fund.reserve_sequence, fund.initial, fund.end_height);
        self.write(Entry::Opened { reserve_sequence, initial, resource_id, end_height })
    }

    /// Sets aside what a job may cost at most. Doing it again for the same job changes nothing.
    pub fn promise(&mut self, job: Hash, amount: TFuelWei) -> Result<(), PayError> {
        if self.state.open.is_none() {
            return Err(PayError::NoFund);
        }
        if self.state.promises.contains_key(&job) {
            return Ok(());
        }
        let left = self.free();
        if amount > left {
            return Err(PayError::BudgetExceeded { asked: amount, left });
        }
        self.write(Entry::Promised { job, amount })
    }

    /// Names of the promises that are open.
    pub fn promises(&self) -> Vec<Hash> {
        self.state.promises.keys().copied().collect()
    }

    /// Gives back what is left of a promise. Ticks that were released for it go into the receipt first,
    /// which [`Self::payment`] gives.
    pub fn release(&mut self, job: &Hash) -> Result<(), PayError> {
        let ticking = self.state.accounts.iter();
        let ticking = ticking.filter(|(_, account)| account.ticks.as_ref().is_some_and(|t| t.job == *job));
        for payee in ticking.map(|(payee, _)| *payee).collect::<Vec<_>>() {
            self.untick(&payee)?;
        }
        if self.state.promises.contains_key(job) { self.write(Entry::Released { job: *job }) } else { Ok(()) }
    }

    /// Pays for one item out of a job's promise. An item is paid once: asking again gives the present receipt, and
    /// nothing once the promise was released.
    pub fn pay(
        &mut self,
        job: &Hash,
        payee: Address,
        item: Hash,
        amount: TFuelWei,
    ) -> Result<Payment, PayError> {
        if payee == self.payer() {
            return Err(PayError::SameAccount);
        }
        let promise = self.state.promises.get(job).ok_or(PayError::NoPromise)?;
        if !promise.items.contains(&item) {
            let left = promise.left;
            if amount > left {
                return Err(PayError::BudgetExceeded { asked: amount, left });
            }
            if self.state.accounts.get(&payee).is_some_and(|account| account.news().count() >= MAX_LINES) {
                return Err(PayError::Unacknowledged);
            }
            self.write(Entry::Paid { job: *job, payee, item, amount })?;
        }
        self.payment(&payee)?.ok_or(PayError::NoFund)
    }

    /// Lets a payee be paid by up to `max` ticks of `unit` each, out of a job's promise, and gives the receipt that says
    /// so. All of it counts as spent until [`Self::close_ticks`]. `seed` is from the host's source of randomness.
    pub fn open_ticks(
        &mut self,
        job: &Hash,
        payee: Address,
        unit: TFuelWei,
        max: u32,
        seed: [u8; 32],
    ) -> Result<Payment, PayError> {
        if payee == self.payer() {
            return Err(PayError::SameAccount);
        }
        let left = self.state.promises.get(job).ok_or(PayError::NoPromise)?.left;
        if self.state.accounts.get(&payee).is_some_and(|account| account.ticks.is_some()) {
            return Err(PayError::Chain("is open already"));
        }
        let chain = TickChain::new(&seed, max).ok_or(PayError::Chain("is empty or too long"))?;
        let commit = TickCommit { anchor: chain.anchor(), unit, max };
        let asked = commit.exposure().unwrap_or(TFuelWei::from_u256(U256::MAX));
        if unit.is_zero() || asked > left {
            return Err(PayError::BudgetExceeded { asked, left });
        }
        self.write(Entry::Ticking { job: *job, payee, seed, anchor: commit.anchor, unit, max })?;
        self.chains.insert(payee, (chain, 0));
        self.payment(&payee)?.ok_or(PayError::NoFund)
    }

    /// A payee's chain and how many of its ticks left this process since the purse was opened.
    fn chain(&mut self, payee: &Address) -> Result<(&Ticks, &mut TickChain, &mut u32), PayError> {
        let account = self.state.accounts.get(payee);
        let ticks =
            account.and_then(|account| account.ticks.as_ref()).ok_or(PayError::Chain("is not open"))?;
        if !self.chains.contains_key(payee) {
            let chain = TickChain::new(&ticks.seed, ticks.max).ok_or(PayError::Chain("is not open"))?;
            self.chains.insert(*payee, (chain, ticks.rolled));
        }
        let (chain, released) = self.chains.get_mut(payee).ok_or(PayError::Chain("is not open"))?;
        Ok((ticks, chain, released))
    }

    /// Pays one more unit: nothing is written and nothing is signed, for the whole chain counts as spent already. After
    /// [`tick::WINDOW`] of them a [`Self::roll_up`] is due.
    pub fn tick(&mut self, payee: &Address) -> Result<Tick, PayError> {
        let reserve_sequence = self.state.open.as_ref().ok_or(PayError::NoFund)?.reserve_sequence;
        let (ticks, chain, released) = self.chain(payee)?;
        let (rolled, anchor) = (ticks.rolled, ticks.anchor);
        if *released >= rolled.saturating_add(tick::WINDOW) {
            return Err(TickError::Window(tick::WINDOW).into());
        }
        let word = chain.word(*released + 1).ok_or(TickError::End(chain.len()))?;
        *released += 1;
        Ok(Tick { reserve_sequence, anchor, index: *released - rolled, word })
    }

    /// Learns from a payee's last tick how far its chain is, after a crash, say. Only words that left this process are
    /// ever known to a payee, so whoever shows one was given it.
    pub fn shown_tick(&mut self, payee: &Address, shown: &Tick) -> Result<(), PayError> {
        let (ticks, chain, released) = self.chain(payee)?;
        let index = ticks.rolled.saturating_add(shown.index);
        if ticks.anchor != shown.anchor || chain.word(index) != Some(shown.word) {
            return Err(TickError::Word(shown.index).into());
        }
        *released = index.max(*released);
        Ok(())
    }

    fn roll(&mut self, payee: &Address) -> Result<(), PayError> {
        let (ticks, chain, released) = self.chain(payee)?;
        let (rolled, index) = (ticks.rolled, *released);
        if index == rolled {
            return Ok(());
        }
        let anchor = chain.word(index).ok_or(TickError::End(chain.len()))?;
        if self.state.accounts.get(payee).is_some_and(|account| account.news().count() >= MAX_LINES) {
            return Err(PayError::Unacknowledged);
        }
        self.write(Entry::Rolled { payee: *payee, index, anchor })
    }

    fn untick(&mut self, payee: &Address) -> Result<(), PayError> {
        match self.roll(payee) {
            // It was told often enough that it has to say what it has.
            Ok(()) | Err(PayError::Unacknowledged) => {}
            Err(error) => return Err(error),
        }
        self.write(Entry::Unticked { payee: *payee })?;
        self.chains.remove(payee);
        Ok(())
    }

    /// Puts the ticks that were released into the receipt and gives it.
    pub fn roll_up(&mut self, payee: &Address) -> Result<Payment, PayError> {
        self.roll(payee)?;
        self.payment(payee)?.ok_or(PayError::NoFund)
    }

    /// Ends a payee's chain: what was released is rolled up, and the rest goes back to the promise. Gives the receipt, or
    /// nothing where nothing is owed.
    pub fn close_ticks(&mut self, payee: &Address) -> Result<Option<Payment>, PayError> {
        self.untick(payee)?;
        self.payment(payee)
    }

    /// The present receipt of a payee, to be sent again; `None` if the present sequence owes it nothing.
    pub fn payment(&self, payee: &Address) -> Result<Option<Payment>, PayError> {
        let open = self.state.open.as_ref().ok_or(PayError::NoFund)?;
        let owes = |account: &&Account| !account.amount.is_zero() || account.ticks.is_some();
        let Some(account) = self.state.accounts.get(payee).filter(owes) else { return Ok(None) };
        let receipt = Receipt {
            version: 0,
            chain_id: self.chain_id.clone(),
            payer: self.payer(),
            payee: *payee,
            reserve_sequence: open.reserve_sequence,
            payment_sequence: account.settled_sequence.saturating_add(1),
            resource_id: open.resource_id.clone(),
            amount: account.amount,
            items_root: account.root,
            tick: account.ticks.as_ref().map_or(TickCommit::NONE, Ticks::commit),
            expiry_height: open.end_height,
            payer_signature: Signature::EMPTY,
            envelope_signature: Signature::EMPTY,
        };
        let receipt = receipt.sign(&*self.signer)?;
        Ok(Some(Payment { receipt, lines: account.news().cloned().collect() }))
    }

    /// Notes that a payee has seen the present sequence up to this total.
    pub fn acknowledged(&mut self, payee: Address, sequence: u64, total: TFuelWei) -> Result<(), PayError> {
        match self.state.accounts.get(&payee) {
            Some(account)
                if account.settled_sequence + 1 == sequence
                    && total > account.acknowledged
                    && account.lines.iter().any(|line| line.total == total) =>
            {
                self.write(Entry::Acknowledged { payee, sequence, total })
            }
            _ => Ok(()),
        }
    }

    /// Learns from the chain what was settled. Gives the payees whose newest receipt came too late to settle: they are
    /// owed the rest in the next sequence and should be sent [`Self::payment`].
    pub fn observe(&mut self, fund: &Fund) -> Result<Vec<Address>, PayError> {
        match &self.state.open {
            Some(open) if open.reserve_sequence == fund.reserve_sequence && fund.payer == self.payer() => {}
            _ => return Err(PayError::NoFund),
        }
        let mut rest = Vec::new();
        for settled in &fund.settled {
            let known = self.state.accounts.get(&settled.payee).map_or(0, |account| account.settled_sequence);
            if settled.payment_sequence <= known {
                continue;
            }
            let (payee, sequence, amount) = (settled.payee, settled.payment_sequence, settled.amount);
            self.write(Entry::Settled { payee, sequence, amount })?;
            rest.push(payee);
        }
        rest.retain(|payee| self.state.accounts.get(payee).is_some_and(|account| !account.amount.is_zero()));
        Ok(rest)
    }

    /// Where an item that was just signed stands among all that a payee gets from the present fund: the sum up to it. The
    /// settlement that brings the payee's settled sum there pays for it. `None` once its receipt has settled.
    pub fn position(&self, payee: &Address, item: &Hash) -> Option<TFuelWei> {
        let account = self.state.accounts.get(payee)?;
        let line = account.lines.iter().find(|line| line.item == *item)?;
        account.settled.checked_add(line.total)
    }

    /// Payees that have not acknowledged everything.
    pub fn unacknowledged(&self) -> Vec<Address> {
        let behind = self.state.accounts.iter().filter(|(_, account)| account.news().next().is_some());
        behind.map(|(payee, _)| *payee).collect()
    }

    /// All that was signed for a payee from the present fund, settled or not.
    pub fn signed(&self, payee: &Address) -> TFuelWei {
        let account = self.state.accounts.get(payee);
        account.and_then(|account| account.settled.checked_add(account.amount)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::Settled;
    use crate::payment::tick::TickMeter;
    use proptest::prelude::*;
    use std::io;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use theta_core::journal::MemDisk;
    use theta_core::sign::{SecretKey, SignError};

    fn key(byte: u8) -> Arc<SecretKey> {
        Arc::new(SecretKey::from_bytes(&[byte; 32]).unwrap())
    }

    fn fund(initial: u64) -> Fund {
        Fund {
            payer: key(1).address(),
            reserve_sequence: 1,
            initial: TFuelWei::wei(initial),
            used: TFuelWei::ZERO,
            resource_ids: vec!["edge1/any".into()],
            end_height: 1000,
            settled: Vec::new(),
        }
    }

    fn purse(disk: &MemDisk) -> Purse {
        let mut purse = Purse::open("privatenet", key(1), disk.clone()).unwrap();
        purse.adopt(&fund(100)).unwrap();
        purse
    }

    fn wei(amount: u64) -> TFuelWei {
        TFuelWei::wei(amount)
    }

    fn hash(byte: u8) -> Hash {
        Hash::repeat_byte(byte)
    }

    #[test]
    fn promises_and_receipts_together_stay_within_the_fund() {
        let mut purse = purse(&MemDisk::default());
        let payee = key(2).address();
        purse.promise(hash(1), wei(60)).unwrap();
        assert!(matches!(purse.promise(hash(2), wei(41)), Err(PayError::BudgetExceeded { .. })));
        purse.promise(hash(2), wei(40)).unwrap();
        assert!(matches!(purse.pay(&hash(1), payee, hash(9), wei(61)), Err(PayError::BudgetExceeded { .. })));
        purse.pay(&hash(1), payee, hash(9), wei(50)).unwrap();
        assert!(matches!(purse.pay(&hash(1), payee, hash(8), wei(11)), Err(PayError::BudgetExceeded { .. })));
        assert!(matches!(purse.pay(&hash(3), payee, hash(8), wei(1)), Err(PayError::NoPromise)));
        purse.release(&hash(1)).unwrap();
        assert_eq!(purse.free(), wei(10));
        assert!(matches!(purse.promise(hash(4), wei(11)), Err(PayError::BudgetExceeded { .. })));
    }

    #[test]
    fn an_item_is_paid_once_and_receipts_are_cumulative() {
        let mut purse = purse(&MemDisk::default());
        let payee = key(2).address();
        purse.promise(hash(1), wei(60)).unwrap();
        let first = purse.pay(&hash(1), payee, hash(9), wei(10)).unwrap();
        assert_eq!(purse.pay(&hash(1), payee, hash(9), wei(10)).unwrap(), first);
        let second = purse.pay(&hash(1), payee, hash(8), wei(5)).unwrap();
        assert_eq!((first.receipt.amount, second.receipt.amount), (wei(10), wei(15)));
        assert!(second.extends(NO_ITEMS, TFuelWei::ZERO));
        assert!(second.extends(first.receipt.items_root, first.receipt.amount));
        assert!(!second.extends(hash(3), first.receipt.amount));
        second.receipt.verify().unwrap();
        let mut forged = second.receipt;
        forged.amount = wei(16);
        assert!(matches!(forged.verify(), Err(PayError::Signature)));
    }

    #[test]
    fn ticks_count_as_spent_until_their_chain_is_closed() {
        let mut purse = purse(&MemDisk::default());
        let payee = key(2).address();
        purse.promise(hash(1), wei(60)).unwrap();
        let open = |purse: &mut Purse, unit, max| purse.open_ticks(&hash(1), payee, wei(unit), max, [5; 32]);
        assert!(matches!(open(&mut purse, 2, 31), Err(PayError::BudgetExceeded { .. })));
        assert!(matches!(open(&mut purse, 0, 3), Err(PayError::BudgetExceeded { .. })));
        let receipt = open(&mut purse, 2, 20).unwrap().receipt;
        assert_eq!((receipt.amount, receipt.tick.max, receipt.tick.unit), (wei(0), 20, wei(2)));
        assert!(matches!(open(&mut purse, 1, 1), Err(PayError::Chain(_))));
        assert!(matches!(purse.pay(&hash(1), payee, hash(9), wei(21)), Err(PayError::BudgetExceeded { .. })));
        let mut meter = TickMeter::new(receipt.tick);
        for _ in 0..3 {
            let tick = purse.tick(&payee).unwrap();
            assert_eq!(meter.take(tick.index, tick.word, 256), Ok(1));
        }
        let statement = purse.statement().unwrap();
        assert_eq!(
            (statement.free, statement.promised, statement.exposed, statement.signed),
            (wei(40), wei(20), wei(40), wei(0))
        );
        let rolled = purse.roll_up(&payee).unwrap();
        assert_eq!((rolled.receipt.amount, rolled.receipt.tick.max), (wei(6), 17));
        assert!(rolled.extends(NO_ITEMS, TFuelWei::ZERO));
        assert_eq!(rolled.receipt.tick.anchor, meter.word(), "the chain goes on");
        rolled.receipt.verify().unwrap();
        purse.release(&hash(1)).unwrap();
        let statement = purse.statement().unwrap();
        assert_eq!((statement.free, statement.exposed, statement.signed), (wei(94), wei(0), wei(6)));
        assert_eq!(purse.payment(&payee).unwrap().unwrap().receipt.tick, TickCommit::NONE);
    }

    #[test]
    fn a_purse_that_forgot_its_ticks_learns_them_from_the_payee_and_pays_none_twice() {
        let disk = MemDisk::default();
        let mut before = purse(&disk);
        let payee = key(2).address();
        before.promise(hash(1), wei(60)).unwrap();
        before.open_ticks(&hash(1), payee, wei(2), 20, [5; 32]).unwrap();
        let ticks: Vec<Tick> = (0..5).map(|_| before.tick(&payee).unwrap()).collect();
        drop(before);
        disk.crash(0);
        let mut after = Purse::open("privatenet", key(1), disk).unwrap();
        assert_eq!(after.statement().unwrap().exposed, wei(40), "all of it is still set aside");
        let forged = Tick { index: 6, ..ticks[4] };
        assert!(matches!(after.shown_tick(&payee, &forged), Err(PayError::Tick(TickError::Word(6)))));
        after.shown_tick(&payee, &ticks[4]).unwrap();
        after.shown_tick(&payee, &ticks[2]).unwrap();
        assert_eq!(after.roll_up(&payee).unwrap().receipt.amount, wei(10));
        assert_eq!(after.roll_up(&payee).unwrap().receipt.amount, wei(10));
        assert!(after.shown_tick(&payee, &ticks[4]).is_err(), "it is in the receipt");
    }

    #[test]
    fn a_window_of_ticks_waits_for_a_receipt() {
        let mut purse = purse(&MemDisk::default());
        let payee = key(2).address();
        purse.adopt(&Fund { reserve_sequence: 2, ..fund(1000) }).unwrap();
        purse.promise(hash(1), wei(600)).unwrap();
        purse.open_ticks(&hash(1), payee, wei(1), 600, [5; 32]).unwrap();
        for _ in 0..tick::WINDOW {
            purse.tick(&payee).unwrap();
        }
        assert!(matches!(purse.tick(&payee), Err(PayError::Tick(TickError::Window(256)))));
        purse.roll_up(&payee).unwrap();
        assert_eq!(purse.tick(&payee).unwrap().index, 1);
    }

    #[test]
    fn what_settles_late_is_owed_in_the_next_sequence() {
        let mut purse = purse(&MemDisk::default());
        let payee = key(2).address();
        purse.promise(hash(1), wei(60)).unwrap();
        purse.pay(&hash(1), payee, hash(9), wei(10)).unwrap();
        purse.pay(&hash(1), payee, hash(8), wei(5)).unwrap();
        let settled = Settled { payee, payment_sequence: 1, amount: wei(10), transaction: Hash::ZERO };
        let fund = Fund { used: wei(10), settled: vec![settled], ..fund(100) };
        assert_eq!(purse.observe(&fund).unwrap(), [payee]);
        assert!(purse.observe(&fund).unwrap().is_empty(), "seen once");
        let rest = purse.payment(&payee).unwrap().unwrap();
        assert_eq!((rest.receipt.payment_sequence, rest.receipt.amount), (2, wei(5)));
        assert_eq!(purse.signed(&payee), wei(15));
        assert_eq!(purse.free(), wei(40));
    }

    #[test]
    fn a_fund_with_a_past_is_not_adopted() {
        let mut purse = Purse::open("privatenet", key(1), MemDisk::default()).unwrap();
        let used = Fund { used: wei(1), ..fund(100) };
        assert!(matches!(purse.adopt(&used), Err(PayError::FundInUse)));
        assert!(matches!(purse.promise(hash(1), wei(1)), Err(PayError::NoFund)));
        let foreign = Fund { payer: key(2).address(), ..fund(100) };
        assert!(matches!(purse.adopt(&foreign), Err(PayError::Foreign("payer"))));
    }

    /// A key that says how far the journal was when it was asked to sign, and refuses on demand.
    struct Watching {
        key: Arc<SecretKey>,
        disk: MemDisk,
        seen: Arc<AtomicUsize>,
        refuse: bool,
    }

    impl Signer for Watching {
        fn address(&self) -> Address {
            self.key.address()
        }
        fn sign(&self, digest: &Hash) -> Result<Signature, SignError> {
            self.seen.store(self.disk.len(), Ordering::SeqCst);
            if self.refuse { Err(SignError::Refused("down".into())) } else { self.key.sign(digest) }
        }
    }

    #[test]
    fn the_journal_is_durable_before_a_signature_exists() {
        let (disk, seen) = (MemDisk::default(), Arc::new(AtomicUsize::new(0)));
        let mut before = purse(&disk);
        before.promise(hash(1), wei(60)).unwrap();
        let len = disk.len();
        drop(before);
        // An anchor is money too.
        let watching = Watching { key: key(1), disk: disk.clone(), seen: seen.clone(), refuse: true };
        let mut anchoring = Purse::open("privatenet", Arc::new(watching), disk.clone()).unwrap();
        let opened = anchoring.open_ticks(&hash(1), key(2).address(), wei(1), 10, [5; 32]);
        assert!(matches!(opened, Err(PayError::Sign(_))));
        assert!(seen.load(Ordering::SeqCst) > len, "written before the key was asked");
        anchoring.untick(&key(2).address()).unwrap();
        let len = disk.len();
        drop(anchoring);
        let watching = Watching { key: key(1), disk: disk.clone(), seen: seen.clone(), refuse: true };
        let mut crashing = Purse::open("privatenet", Arc::new(watching), disk.clone()).unwrap();
        let payee = key(2).address();
        assert!(matches!(crashing.pay(&hash(1), payee, hash(9), wei(10)), Err(PayError::Sign(_))));
        assert!(seen.load(Ordering::SeqCst) > len, "written before the key was asked");
        drop(crashing);
        disk.crash(0);
        // The entry survived, so the money is held, and the payment is the one that was meant.
        let mut after = Purse::open("privatenet", key(1), disk).unwrap();
        assert_eq!((after.signed(&payee), after.free()), (wei(10), wei(40)));
        assert_eq!(after.pay(&hash(1), payee, hash(9), wei(10)).unwrap().receipt.amount, wei(10));
        assert_eq!(after.signed(&payee), wei(10));
    }

    /// A disk that stops writing.
    struct Failing(MemDisk, usize);

    impl Disk for Failing {
        fn read(&mut self) -> io::Result<Vec<u8>> {
            self.0.read()
        }
        fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
            self.1 = self.1.checked_sub(1).ok_or_else(|| io::Error::other("full"))?;
            self.0.append(bytes)
        }
        fn sync(&mut self) -> io::Result<()> {
            self.0.sync()
        }
        fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
            self.0.replace(bytes)
        }
    }

    #[test]
    fn a_purse_that_cannot_write_does_not_pay() {
        let mut purse = Purse::open("privatenet", key(1), Failing(MemDisk::default(), 2)).unwrap();
        purse.adopt(&fund(100)).unwrap();
        purse.promise(hash(1), wei(60)).unwrap();
        let payee = key(2).address();
        assert!(matches!(purse.pay(&hash(1), payee, hash(9), wei(10)), Err(PayError::Journal(_))));
        assert!(matches!(purse.payment(&payee), Ok(None)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn no_order_of_calls_and_crashes_signs_more_than_the_fund(
            calls in proptest::collection::vec((0..13_u8, 0..4_u8, 0..3_u8, 10..60_u64), 40..80)
        ) {
            let disk = MemDisk::default();
            let mut purse = purse(&disk);
            // The most that each payee can claim: its best receipt and the ticks on top of it.
            let mut best: BTreeMap<(Address, u64), TFuelWei> = BTreeMap::new();
            let mut ticked: BTreeMap<Address, TFuelWei> = BTreeMap::new();
            let mut on_chain = fund(100);
            for (call, job, node, amount) in calls {
                let payee = key(node + 2).address();
                match call {
                    0..3 => drop(purse.promise(hash(job), wei(amount))),
                    3 => drop(purse.release(&hash(job))),
                    4 => purse = Purse::open("privatenet", key(1), disk.clone()).unwrap(),
                    5 => {
                        // The payee settles its best receipt of the sequence that is next.
                        let sequence = on_chain.settled_sequence(&payee) + 1;
                        if let Some(amount) = best.get(&(payee, sequence)) {
                            on_chain.used = on_chain.used.checked_add(*amount).unwrap();
                            on_chain.settled.push(Settled {
                                payee,
                                payment_sequence: sequence,
                                amount: *amount,
                                transaction: Hash::ZERO,
                            });
                            purse.observe(&on_chain).unwrap();
                        }
                    }
                    9 => drop(purse.open_ticks(&hash(job), payee, wei(1 + amount % 3), 8, [amount as u8; 32])),
                    10 | 11 => if purse.tick(&payee).is_ok() {
                        let unit = purse.state.accounts[&payee].ticks.as_ref().unwrap().unit;
                        let all = ticked.entry(payee).or_default();
                        *all = all.checked_add(unit).unwrap();
                    },
                    12 => if let Ok(payment) = purse.roll_up(&payee) {
                        let entry = best.entry((payee, payment.receipt.payment_sequence)).or_default();
                        *entry = payment.receipt.amount.max(*entry);
                        ticked.remove(&payee);
                    },
                    _ => if let Ok(payment) = purse.pay(&hash(job), payee, hash(amount as u8), wei(amount)) {
                        let entry = best.entry((payee, payment.receipt.payment_sequence)).or_default();
                        *entry = payment.receipt.amount.max(*entry);
                    },
                }
                if matches!(call, 3 | 4) {
                    // Rolled up, or forgotten in the crash and released again.
                    ticked.clear();
                }
                let mut all = best.values().chain(ticked.values());
                let signed = all.try_fold(TFuelWei::ZERO, |sum, amount| sum.checked_add(*amount)).unwrap();
                prop_assert!(signed <= wei(100), "{signed} signed");
                let is = purse.statement().unwrap();
                let parts = [is.free, is.promised, is.exposed, is.signed, is.settled];
                let sum = parts.into_iter().try_fold(TFuelWei::ZERO, TFuelWei::checked_add);
                prop_assert_eq!(sum, Some(wei(100)), "{:?}", is);
                prop_assert!(on_chain.used <= on_chain.initial);
            }
        }
    }
}
