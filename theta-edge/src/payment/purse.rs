//! The payer's side: the only way to a receipt.
//!
//! Safety: what was signed plus what is promised never exceeds the fund, also across crashes. Every change is an entry
//! that is checked, then made durable, then applied; a signature is made only from the applied state. A crash between
//! entry and signature therefore loses no money and doubles none: the entry counts as signed, and asking again for the
//! same item gives the receipt it stands for. Items are known as long as their job's promise stands: without a promise
//! nothing is paid, so they cannot be paid again after it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use theta_core::amount::TFuelWei;
use theta_core::hash::{Address, Hash};
use theta_core::journal::{Disk, Record};
use theta_core::sign::{Signature, Signer};

use super::PayError;
use super::receipt::{Line, MAX_LINES, NO_ITEMS, Payment, Receipt, extend};
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
    const VERSION: u8 = 1;
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
        let accounts = self.accounts.values().flat_map(|account| [account.settled, account.amount]);
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
        let mut purse = Self { chain_id: chain_id.to_owned(), signer, journal, state };
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

    /// Gives back what is left of a promise.
    pub fn release(&mut self, job: &Hash) -> Result<(), PayError> {
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

    /// The present receipt of a payee, to be sent again; `None` if the present sequence owes it nothing.
    pub fn payment(&self, payee: &Address) -> Result<Option<Payment>, PayError> {
        let open = self.state.open.as_ref().ok_or(PayError::NoFund)?;
        let Some(account) = self.state.accounts.get(payee).filter(|account| !account.amount.is_zero()) else {
            return Ok(None);
        };
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
    fn what_settles_late_is_owed_in_the_next_sequence() {
        let mut purse = purse(&MemDisk::default());
        let payee = key(2).address();
        purse.promise(hash(1), wei(60)).unwrap();
        purse.pay(&hash(1), payee, hash(9), wei(10)).unwrap();
        purse.pay(&hash(1), payee, hash(8), wei(5)).unwrap();
        let settled = Settled { payee, payment_sequence: 1, amount: wei(10) };
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
            calls in proptest::collection::vec((0..9_u8, 0..4_u8, 0..3_u8, 10..60_u64), 40..80)
        ) {
            let disk = MemDisk::default();
            let mut purse = purse(&disk);
            let mut best: BTreeMap<(Address, u64), TFuelWei> = BTreeMap::new();
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
                            on_chain.settled.push(Settled { payee, payment_sequence: sequence, amount: *amount });
                            purse.observe(&on_chain).unwrap();
                        }
                    }
                    _ => if let Ok(payment) = purse.pay(&hash(job), payee, hash(amount as u8), wei(amount)) {
                        let entry = best.entry((payee, payment.receipt.payment_sequence)).or_default();
                        *entry = payment.receipt.amount.max(*entry);
                    },
                }
                let signed = best.values().try_fold(TFuelWei::ZERO, |sum, amount| sum.checked_add(*amount)).unwrap();
                prop_assert!(signed <= wei(100), "{signed} signed");
                prop_assert!(on_chain.used <= on_chain.initial);
            }
        }
    }
}
