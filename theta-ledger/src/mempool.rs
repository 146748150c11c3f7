//! Transactions that wait for a block.
//!
//! Each sender has a queue by sequence. A transaction is admitted if it is valid on the newest settled state with the
//! sender's own waiting transactions carried out; contracts are not run, but the most they may cost is taken. A sequence
//! further on is parked until the gap closes. What is admitted stays until it is settled, replaced by one that offers
//! more, pushed out of a full pool, or can no longer become valid; [`Mempool::reason`] says which.
//!
//! Decoding and recovering signers are the costly part of an admission and need no pool: [`Mempool::screen`] gives what
//! does them elsewhere, so a host that shares the pool behind a lock holds it for microseconds.

mod queue;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use num_bigint::BigUint;
use theta_core::{
    block::Block,
    hash::{Address, Hash, keccak},
};

use self::queue::{Admission, Ahead, Base, Head, Place, Queue, Waiting, advance, next_sequence};
use crate::{
    block::run,
    ledger::LedgerReader,
    state::{StateError, StateView},
    tx::{RawTx, Transaction, TxError},
};

/// Milliseconds since 1970, given by the host.
pub type Millis = u64;

/// Bounds of the pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MempoolLimits {
    /// Transactions in all.
    pub transactions: usize,
    /// Transactions of one sender.
    pub per_sender: usize,
    /// Bytes of one transaction.
    pub transaction_bytes: usize,
    /// How far ahead of the next sequence a transaction may wait.
    pub gap: u64,
    /// How long it may wait there, in milliseconds.
    pub parked_for: Millis,
    /// By how many percent a replacement has to offer more.
    pub replacement_percent: u32,
}

impl MempoolLimits {
    /// Tries a transaction behind what was carried out of its row; gives the sequence it has to wait for.
    fn admit(
        &self,
        ahead: &mut Ahead,
        sequence: u64,
        replaces: bool,
        raw: &RawTx,
        valid: &dyn Fn(&mut StateView) -> Result<(), TxError>,
    ) -> Result<Option<u64>, AdmitError> {
        let next = ahead.next;
        let missing = (sequence > next).then_some(next);
        if missing.is_some() && !replaces && sequence - next > self.gap {
            return Err(AdmitError::TooFarAhead { got: sequence, expected: next, gap: self.gap });
        }
        // Tried on the queue's own view and taken back: a copy of it would cost as much as the queue is long.
        let view = ahead.view();
        let before = view.checkpoint();
        // Everything but the sequence has to be right already; only that error may pass.
        let ready = if missing.is_some() { bring_to(view, raw) } else { Ok(()) };
        let tried = ready.map_err(TxError::from).and_then(|()| valid(view));
        view.revert(before);
        Ok(tried.map(|()| missing)?)
    }
}

impl Default for MempoolLimits {
    fn default() -> Self {
        Self {
            transactions: 25_600,
            per_sender: 1024,
            transaction_bytes: 256 * 1024,
            gap: 64,
            parked_for: 60_000,
            replacement_percent: 10,
        }
    }
}

/// Where an admitted transaction stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// It may go into the next block.
    Ready(Hash),
    /// It waits for the sequence `missing`.
    Parked {
        /// Its hash.
        hash: Hash,
        /// The sequence it waits for.
        missing: u64,
    },
}

impl Admitted {
    /// Hash of the transaction.
    pub const fn hash(&self) -> Hash {
        match self {
            Self::Ready(hash) | Self::Parked { hash, .. } => *hash,
        }
    }
}

/// Why a transaction was not admitted.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum AdmitError {
    /// It waits already, or was settled.
    #[error("Transaction already seen")]
    Known,
    /// Larger than the pool takes.
    #[error("transaction has {0} bytes, at most {1} are taken")]
    TooLarge(usize, usize),
    /// Another transaction of this sequence waits and offers nearly as much.
    #[error("replacement transaction underpriced: offer at least {0} TFuelWei for a unit of gas")]
    Underpriced(BigUint),
    /// Too far ahead.
    #[error("nonce too high: sequence {got} is more than {gap} ahead of {expected}")]
    TooFarAhead {
        /// The transaction's.
        got: u64,
        /// The next one.
        expected: u64,
        /// What may lie between.
        gap: u64,
    },
    /// The pool or the sender's queue is full of transactions that offer as much or more.
    #[error("the pool is full; offer more or wait")]
    Full,
    /// Not valid.
    #[error(transparent)]
    Invalid(#[from] TxError),
}

/// Why a transaction that waited left without being settled.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum DropReason {
    /// Another one of the same sender and sequence offers more.
    #[error("replaced by transaction {0} of the same sequence, which offers more")]
    Replaced(Hash),
    /// The pool was full.
    #[error("the pool was full of transactions that offer more; send it again with a higher fee")]
    Evicted,
    /// It can no longer become valid, or waited too long for the sequence before it.
    #[error(transparent)]
    Invalid(TxError),
}

impl From<StateError> for AdmitError {
    fn from(error: StateError) -> Self {
        Self::Invalid(error.into())
    }
}

/// Milliseconds between two looks at all that waits; in between only senders whom a block touched are looked at.
const SWEEP_EVERY: Millis = 10_000;
/// How often a block may be built without a transaction that was offered for it.
const PATIENCE: u32 = 3;
/// Reasons that are kept.
const KEPT_REASONS: usize = 4096;

/// Reasons of the newest transactions that left, by hash.
#[derive(Default)]
struct Dropped {
    reasons: BTreeMap<Hash, DropReason>,
    order: VecDeque<Hash>,
}

impl Dropped {
    fn add(&mut self, hash: Hash, reason: DropReason) {
        if self.reasons.insert(hash, reason).is_none() {
            self.order.push_back(hash);
        }
        if self.order.len() > KEPT_REASONS
            && let Some(oldest) = self.order.pop_front()
        {
            self.reasons.remove(&oldest);
        }
    }
}

/// Does what an admission costs most without the pool: decodes, and recovers signers into the ledger's cache.
pub struct Screen {
    reader: LedgerReader,
    base: Arc<Base>,
    largest: usize,
}

impl std::fmt::Debug for Screen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Screen").field("settled", &self.base.hash).finish_non_exhaustive()
    }
}

/// A transaction that was decoded and whose signers are known; whether it is valid the pool says.
#[derive(Debug)]
pub struct Screened {
    raw: Arc<RawTx>,
    price: BigUint,
    ethereum: Option<Hash>,
}

impl Screen {
    /// Decodes raw bytes. Refuses what is too large, malformed, of a kind that nobody sends, or settled already.
    pub fn check(&self, bytes: Vec<u8>) -> Result<Screened, AdmitError> {
        if bytes.len() > self.largest {
            return Err(AdmitError::TooLarge(bytes.len(), self.largest));
        }
        if self.reader.transaction(&keccak(&bytes))?.is_some_and(|found| found.settled) {
            return Err(AdmitError::Known);
        }
        let raw = RawTx::decode(bytes).map_err(TxError::from)?;
        let height = self.base.context.height();
        let rules = self.reader.spec().rules(height);
        let nobodys = match raw.transaction {
            Transaction::Coinbase(_) => true,
            Transaction::Slash(_) => !rules.tx.slash_overspending,
            _ => false,
        };
        if nobodys {
            return Err(TxError::Unauthorized.into());
        }
        if rules.tx.no_trailing_bytes && raw.trailing > 0 {
            return Err(TxError::Trailing(raw.trailing).into());
        }
        let price = raw.transaction.gas_price(rules);
        // Checked for the signers it leaves in the cache; the answer is the pool's to give, which knows what waits.
        let mut view = self.base.view.clone();
        if !matches!(raw.transaction, Transaction::ServicePayment(_)) {
            bring_to(&mut view, &raw)?;
        }
        let ethereum = self.reader.with_scope(&self.base.context, &Admission, |scope| {
            let _ = raw.transaction.check(scope, &mut view);
            match &raw.transaction {
                Transaction::SmartContract(tx) => tx.ethereum_hash(scope),
                _ => None,
            }
        });
        Ok(Screened { raw: Arc::new(raw), price, ethereum })
    }
}

/// Gives the sender the sequence that a transaction needs, so that everything else about it can be checked.
fn bring_to(view: &mut StateView, raw: &RawTx) -> Result<(), StateError> {
    let (sender, sequence) = raw.transaction.sender();
    if let Some(mut account) = view.load(sender)? {
        account.sequence = sequence.wrapping_sub(1);
        view.store(account);
    }
    Ok(())
}

/// The pool.
pub struct Mempool {
    reader: LedgerReader,
    limits: MempoolLimits,
    queues: BTreeMap<Address, Queue>,
    /// All that waits, by hash.
    places: BTreeMap<Hash, (Address, Place)>,
    /// Native hashes by Ethereum's.
    ethereum: BTreeMap<Hash, Hash>,
    /// The next transaction of each row on the settled state, and every payment.
    offers: BTreeSet<Head>,
    /// The last transaction of each row, and every payment: what goes when there is no room.
    lasts: BTreeSet<Head>,
    dropped: Dropped,
    base: Arc<Base>,
    swept: Millis,
    /// Transactions so far.
    admitted: u64,
    carried_out: u64,
}

impl std::fmt::Debug for Mempool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mempool").field("waiting", &self.places.len()).finish_non_exhaustive()
    }
}

impl Mempool {
    /// An empty pool over the newest settled state.
    pub fn new(reader: LedgerReader, limits: MempoolLimits) -> Result<Self, StateError> {
        let base = Base::newest(&reader)?;
        Ok(Self {
            reader,
            limits,
            queues: BTreeMap::new(),
            places: BTreeMap::new(),
            ethereum: BTreeMap::new(),
            offers: BTreeSet::new(),
            lasts: BTreeSet::new(),
            dropped: Dropped::default(),
            base,
            swept: 0,
            admitted: 0,
            carried_out: 0,
        })
    }

    /// Transactions carried out on copies of the state since the pool was made: those on trial, and what stands before them
    /// in their rows. What an admission costs beyond its signature is counted in these.
    pub const fn carried_out(&self) -> u64 {
        self.carried_out
    }

    /// Transactions that wait.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Hashes of all that wait.
    pub fn hashes(&self) -> impl Iterator<Item = &Hash> {
        self.places.keys()
    }

    /// A waiting transaction by its native or its Ethereum hash.
    pub fn find(&self, hash: &Hash) -> Option<Arc<RawTx>> {
        let native = self.ethereum.get(hash).unwrap_or(hash);
        let (sender, place) = self.places.get(native)?;
        Some(self.queues.get(sender)?.get(*place)?.raw.clone())
    }

    /// What has waited since a time or longer, the longest first; at most so many.
    pub fn waiting_since(&self, time: Millis, most: usize) -> Vec<Hash> {
        let all =
            self.queues.values().flat_map(|queue| queue.waiting.values().chain(queue.payments.values()));
        let mut old: Vec<_> = all.filter(|waiting| waiting.since <= time).collect();
        old.sort_unstable_by_key(|waiting| waiting.number);
        old.into_iter().take(most).map(|waiting| waiting.raw.hash).collect()
    }

    /// Whether a transaction waits, or left without being settled a short while ago.
    pub fn knows(&self, hash: &Hash) -> bool {
        self.places.contains_key(hash) || self.dropped.reasons.contains_key(hash)
    }

    /// Why a transaction left without being settled; of the newest few thousand.
    pub fn reason(&self, hash: &Hash) -> Option<&DropReason> {
        self.dropped.reasons.get(hash)
    }

    /// The sequence that an account's next transaction needs, its waiting ones counted; `None` for an unknown account.
    pub fn next_sequence(&self, sender: Address) -> Result<Option<u64>, StateError> {
        let Some(mut next) = next_sequence(&mut self.base.view.clone(), sender)? else { return Ok(None) };
        if let Some(queue) = self.queues.get(&sender) {
            while queue.waiting.contains_key(&next) {
                next += 1;
            }
        }
        Ok(Some(next))
    }

    /// An account as it will be when its waiting transactions are carried out, as far as that is known.
    pub fn preview(&mut self, address: Address) -> Result<Option<crate::state::Account>, StateError> {
        match self.queues.get_mut(&address) {
            Some(queue) => {
                let count = &mut self.carried_out;
                advance(&self.reader, &self.base, address, queue, true, count)?.view().load(address)
            }
            None => self.base.view.clone().load(address),
        }
    }

    /// What does the costly part of an admission elsewhere.
    pub fn screen(&self) -> Screen {
        Screen {
            reader: self.reader.clone(),
            base: self.base.clone(),
            largest: self.limits.transaction_bytes,
        }
    }

    /// Admits a screened transaction. What waits already is no second transaction.
    pub fn insert(&mut self, screened: Screened, now: Millis) -> Result<Admitted, AdmitError> {
        let Screened { raw, price, ethereum } = screened;
        let hash = raw.hash;
        if self.places.contains_key(&hash) {
            return Err(AdmitError::Known);
        }
        let (sender, sequence) = raw.transaction.sender();
        let place = match raw.transaction {
            Transaction::ServicePayment(_) => Place::Payment(hash),
            _ => Place::Row(sequence),
        };
        let (replaced, missing) = self.check(sender, place, &raw, &price)?;
        let next = self.base.next(sender)?;
        if let Some(old) = replaced {
            self.remove(&old);
            self.dropped.add(old, DropReason::Replaced(hash));
        }
        self.places.insert(hash, (sender, place));
        self.ethereum.extend(ethereum.map(|other| (other, hash)));
        let queue = self.queues.entry(sender).or_default();
        self.admitted += 1;
        let waiting = Waiting { raw, price, number: self.admitted, ethereum, since: now, left_out: 0 };
        match place {
            Place::Row(sequence) => drop(queue.waiting.insert(sequence, waiting)),
            Place::Payment(hash) => drop(queue.payments.insert(hash, waiting)),
        }
        if let Place::Payment(_) = place {
            let head = Head::of(queue, sender, place);
            self.offers.extend(head.clone());
            self.lasts.extend(head);
        }
        self.index(sender, next);
        self.dropped.reasons.remove(&hash);
        if self.places.len() > self.limits.transactions
            && let Some(least) = self.lasts.first().map(|head| head.hash)
        {
            self.remove(&least);
            if least == hash {
                return Err(AdmitError::Full);
            }
            self.dropped.add(least, DropReason::Evicted);
        }
        Ok(match missing {
            Some(missing) => Admitted::Parked { hash, missing },
            None => Admitted::Ready(hash),
        })
    }

    /// Whether a transaction is valid at its place; gives the one it replaces and the sequence it has to wait for.
    fn check(
        &mut self,
        sender: Address,
        place: Place,
        raw: &RawTx,
        price: &BigUint,
    ) -> Result<(Option<Hash>, Option<u64>), AdmitError> {
        let (reader, base, limits, count) = (&self.reader, &self.base, &self.limits, &mut self.carried_out);
        let mut none = Queue::default();
        let queue = self.queues.get_mut(&sender).unwrap_or(&mut none);
        // What fails in its effect alone, such as a deposit on a locked stake, is found here too.
        let valid = |view: &mut StateView| {
            reader.with_scope(&base.context, &Admission, |scope| run(scope, view, raw)).map(drop)
        };
        *count += 1;
        let full = queue.len() >= limits.per_sender;
        let Place::Row(sequence) = place else {
            valid(&mut base.view.clone())?;
            return if full { Err(AdmitError::Full) } else { Ok((None, None)) };
        };
        let replaced = queue.waiting.get(&sequence).map(|old| {
            let needed = &old.price + &old.price * limits.replacement_percent / 100_u32 + 1_u8;
            (old.raw.hash, needed)
        });
        if let Some((_, needed)) = &replaced
            && price < needed
        {
            return Err(AdmitError::Underpriced(needed.clone()));
        }
        let mut fresh = false;
        let missing = loop {
            let ahead = advance(reader, base, sender, queue, fresh, count)?;
            if replaced.is_some() {
                // It has to be valid where the old one stands: with what comes before it carried out.
                ahead.rewind(sequence);
            }
            match limits.admit(ahead, sequence, replaced.is_some(), raw, &valid) {
                // Only the settled state may refuse.
                Err(_) if ahead.is_carried(base) => fresh = true,
                done => break done?,
            }
        };
        match replaced {
            Some((old, _)) => Ok((Some(old), missing)),
            None if full => Err(AdmitError::Full),
            None => Ok((None, missing)),
        }
    }

    /// Brings a row's entries in the orders up to date, and forgets a queue that is empty. `next` is what the settled
    /// state asks for.
    fn index(&mut self, sender: Address, next: u64) {
        let Some(queue) = self.queues.get_mut(&sender) else { return };
        let last = queue.waiting.keys().next_back().copied();
        let new = [
            Head::of(queue, sender, Place::Row(next)),
            last.and_then(|last| Head::of(queue, sender, Place::Row(last))),
        ];
        let old = std::mem::replace(&mut queue.indexed, new.clone());
        for ((set, old), new) in [&mut self.offers, &mut self.lasts].into_iter().zip(old).zip(new) {
            if let Some(old) = old {
                set.remove(&old);
            }
            set.extend(new);
        }
        if queue.len() == 0 {
            self.queues.remove(&sender);
        }
    }

    fn remove(&mut self, hash: &Hash) {
        let Some((sender, place)) = self.places.get(hash) else { return };
        if let (Place::Row(sequence), Some(queue)) = (place, self.queues.get_mut(sender))
            && let Some(ahead) = &mut queue.ahead
        {
            ahead.rewind(*sequence);
        }
        self.take(hash);
    }

    /// Takes a transaction out of its queue, and gives where it stood. What was carried out of its row stays.
    fn take(&mut self, hash: &Hash) -> Option<(Address, Place)> {
        let (sender, place) = self.places.remove(hash)?;
        let queue = self.queues.get_mut(&sender)?;
        let head = Head::of(queue, sender, place);
        // The row's next sequence is a matter of the settled state and stays.
        let next = queue.indexed[0].as_ref().map(|head| head.place);
        let gone = match place {
            Place::Row(sequence) => queue.waiting.remove(&sequence),
            Place::Payment(hash) => {
                if let Some(head) = head {
                    self.offers.remove(&head);
                    self.lasts.remove(&head);
                }
                queue.payments.remove(&hash)
            }
        };
        if let Some(other) = gone.and_then(|gone| gone.ethereum) {
            self.ethereum.remove(&other);
        }
        match next {
            Some(Place::Row(next)) => self.index(sender, next),
            // Without a next transaction in the row, none can become it by a removal.
            _ => self.index(sender, u64::MAX),
        }
        Some((sender, place))
    }

    /// What a block on top of `parent` may hold, at most so many transactions and bytes: best price first, of equal ones
    /// those that have waited longest, each sender's in sequence. What blocks between the settled one and `parent` hold is left out.
    pub fn candidates(
        &self,
        parent: &mut StateView,
        transactions: usize,
        bytes: usize,
    ) -> Result<Vec<Arc<RawTx>>, StateError> {
        let mut offers = self.offers.iter().rev().peekable();
        let mut later: BTreeSet<Head> = BTreeSet::new();
        let (mut chosen, mut room) = (Vec::new(), bytes);
        while chosen.len() < transactions {
            let from_later = match (offers.peek(), later.last()) {
                (Some(offer), Some(other)) => *offer < other,
                (offer, _) => offer.is_none(),
            };
            let next = if from_later { later.pop_last() } else { offers.next().cloned() };
            let Some(head) = next else { break };
            let queue = &self.queues[&head.sender];
            let Some(waiting) = queue.get(head.place) else { continue };
            match head.place {
                Place::Payment(_) => {
                    let valid = self.reader.with_scope(&self.base.context, &Admission, |scope| {
                        waiting.raw.transaction.check(scope, parent)
                    });
                    if valid.is_err() {
                        continue;
                    }
                }
                Place::Row(sequence) => {
                    let next = next_sequence(parent, head.sender)?.unwrap_or(1);
                    if sequence < next {
                        later.extend(Head::of(queue, head.sender, Place::Row(next)));
                        continue;
                    }
                    later.extend(Head::of(queue, head.sender, Place::Row(sequence.wrapping_add(1))));
                }
            }
            let Some(left) = room.checked_sub(waiting.raw.bytes.len()) else { break };
            room = left;
            chosen.push(waiting.raw.clone());
        }
        Ok(chosen)
    }

    /// Takes note that a block was built without a transaction that was offered for it. One that is left out again and
    /// again, because only running its contract shows that it is not valid, falls out.
    pub fn left_out(&mut self, hash: &Hash, error: TxError) {
        let Some((sender, place)) = self.places.get(hash) else { return };
        let waiting = self.queues.get_mut(sender).and_then(|queue| queue.get_mut(*place));
        let Some(waiting) = waiting else { return };
        waiting.left_out += 1;
        if waiting.left_out >= PATIENCE {
            self.remove(hash);
            self.dropped.add(*hash, DropReason::Invalid(error));
        }
    }

    /// Follows the ledger to its newest settled state: what was settled or can no longer become valid falls out.
    pub fn settled(&mut self, blocks: &[Arc<Block>], now: Millis) -> Result<(), StateError> {
        self.base = Base::newest(&self.reader)?;
        let mut touched = BTreeSet::new();
        for bytes in blocks.iter().flat_map(|block| &block.transactions) {
            let foreseen = match self.take(&keccak(bytes)) {
                Some((sender, Place::Row(_))) => Some(sender),
                _ => None,
            };
            let payers = RawTx::decode(bytes.clone()).map(|raw| raw.transaction.payers()).unwrap_or_default();
            for payer in payers {
                // What others did to an account was not carried out in its row.
                if foreseen != Some(payer)
                    && let Some(queue) = self.queues.get_mut(&payer)
                {
                    queue.ahead = None;
                }
                touched.insert(payer);
            }
        }
        if now.saturating_sub(self.swept) >= SWEEP_EVERY {
            self.swept = now;
            touched.extend(self.queues.keys());
        }
        for sender in touched {
            self.look_at(sender, now)?;
        }
        Ok(())
    }

    /// Drops what of a sender's can no longer become valid.
    fn look_at(&mut self, sender: Address, now: Millis) -> Result<(), StateError> {
        let Some(queue) = self.queues.get_mut(&sender) else { return Ok(()) };
        let expected = self.base.next(sender)?;
        let blocked = !queue.waiting.contains_key(&expected);
        let count = &mut self.carried_out;
        let mut checked = |waiting: &Waiting| {
            *count += 1;
            let mut view = self.base.view.clone();
            let done = self
                .reader
                .with_scope(&self.base.context, &Admission, |scope| run(scope, &mut view, &waiting.raw));
            done.err()
        };
        let mut out = Vec::new();
        for (sequence, waiting) in &queue.waiting {
            let late = blocked && now.saturating_sub(waiting.since) > self.limits.parked_for;
            let wrong = TxError::Sequence { got: *sequence, expected };
            let error = match sequence.cmp(&expected) {
                std::cmp::Ordering::Less => Some(wrong),
                std::cmp::Ordering::Equal => checked(waiting),
                std::cmp::Ordering::Greater => late.then_some(wrong),
            };
            out.extend(error.map(|error| (waiting.raw.hash, error)));
        }
        for waiting in queue.payments.values() {
            out.extend(checked(waiting).map(|error| (waiting.raw.hash, error)));
        }
        for (hash, error) in out {
            if let Some(error) = error.state_error() {
                return Err(error.clone().into());
            }
            self.remove(&hash);
            self.dropped.add(hash, DropReason::Invalid(error));
        }
        self.index(sender, expected);
        Ok(())
    }
}
