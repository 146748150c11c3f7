//! Transactions that wait for a block.
//!
//! Each sender has a queue by sequence. A transaction is admitted if it is valid on the newest settled state with the
//! sender's own waiting transactions carried out; contracts are not run, but the most they may cost is taken. A sequence
//! further on is parked until the gap closes. What is admitted stays until it is settled, replaced by one that offers
//! more, or can no longer become valid, and then the pool says why.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use num_bigint::BigUint;
use theta_core::{
    block::Block,
    context::BlockContext,
    hash::{Address, Hash, keccak},
};

use crate::{
    block::run,
    ledger::{At, LedgerReader},
    state::{StateError, StateView},
    tx::{RawTx, Transaction, TxError},
    vm::{ContractVm, VmCall, VmEnv, VmOutcome},
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
    /// The pool or the sender's queue is full of transactions that offer more.
    #[error("the pool is full; offer more or wait")]
    Full,
    /// Not valid.
    #[error(transparent)]
    Invalid(#[from] TxError),
}

impl From<StateError> for AdmitError {
    fn from(error: StateError) -> Self {
        Self::Invalid(error.into())
    }
}

struct Waiting {
    raw: Arc<RawTx>,
    price: BigUint,
    since: Millis,
    /// How often a block was built without it although it was offered.
    left_out: u32,
}

#[derive(Default)]
struct Queue {
    waiting: BTreeMap<u64, Waiting>,
    /// The settled state with the first transactions of the queue carried out, and the sequence behind them.
    view: Option<(StateView, u64)>,
}

/// A transaction that may be taken next; the greatest offers most.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Head {
    price: BigUint,
    hash: Hash,
    /// Sender and sequence; none for payments.
    place: Option<(Address, u64)>,
}

impl Head {
    fn new(waiting: &Waiting, place: Option<(Address, u64)>) -> Self {
        Self { price: waiting.price.clone(), hash: waiting.raw.hash, place }
    }

    fn of(queue: &Queue, sender: Address, sequence: u64) -> Option<Self> {
        queue.waiting.get(&sequence).map(|waiting| Self::new(waiting, Some((sender, sequence))))
    }
}

/// The pool.
pub struct Mempool {
    reader: LedgerReader,
    limits: MempoolLimits,
    queues: BTreeMap<Address, Queue>,
    /// Service payments have no place in a row.
    payments: BTreeMap<Hash, Waiting>,
    hashes: BTreeMap<Hash, Address>,
    base: (Hash, StateView, BlockContext),
}

impl std::fmt::Debug for Mempool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mempool").field("waiting", &self.hashes.len()).finish_non_exhaustive()
    }
}

/// Takes the most that a contract call may cost, and runs nothing.
struct Admission;

impl ContractVm for Admission {
    fn execute(&self, _: &VmEnv<'_>, call: &VmCall, view: &mut StateView) -> Result<VmOutcome, StateError> {
        let mut account = view.load_or_new(call.from)?;
        let value = theta_core::amount::Coins {
            theta: theta_core::amount::ThetaWei::from_u256(call.theta),
            tfuel: theta_core::amount::TFuelWei::from_u256(call.tfuel),
        };
        // The check before has seen that the balance covers it.
        account.balance = account.balance.checked_sub(value).unwrap_or(account.balance);
        if call.to.is_none() {
            account.sequence = account.sequence.wrapping_add(1);
        }
        view.store(account);
        Ok(VmOutcome { gas_used: call.gas_limit, ..VmOutcome::default() })
    }
}

impl Mempool {
    /// An empty pool over the newest settled state.
    pub fn new(reader: LedgerReader, limits: MempoolLimits) -> Result<Self, StateError> {
        let base = Self::base(&reader)?;
        Ok(Self {
            reader,
            limits,
            queues: BTreeMap::new(),
            payments: BTreeMap::new(),
            hashes: BTreeMap::new(),
            base,
        })
    }

    fn base(reader: &LedgerReader) -> Result<(Hash, StateView, BlockContext), StateError> {
        let hash = reader.settled().hash;
        let (view, context) = reader.next_block(At::Block(hash))?;
        Ok((hash, view, context))
    }

    /// Transactions that wait.
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// Hashes of all that wait.
    pub fn hashes(&self) -> impl Iterator<Item = &Hash> {
        self.hashes.keys()
    }

    /// A waiting transaction.
    pub fn find(&self, hash: &Hash) -> Option<Arc<RawTx>> {
        if let Some(waiting) = self.payments.get(hash) {
            return Some(waiting.raw.clone());
        }
        let queue = self.queues.get(self.hashes.get(hash)?)?;
        queue.waiting.values().find(|waiting| waiting.raw.hash == *hash).map(|waiting| waiting.raw.clone())
    }

    /// The sequence that an account's next transaction needs, its waiting ones counted; `None` for an unknown account.
    pub fn next_sequence(&mut self, sender: Address) -> Result<Option<u64>, StateError> {
        let settled = self.base.1.account(sender)?.map(|account| account.sequence);
        let ahead = self.queues.get(&sender).and_then(|queue| {
            let mut next = settled.unwrap_or(0).wrapping_add(1);
            while queue.waiting.contains_key(&next) {
                next += 1;
            }
            Some(next).filter(|_| settled.is_some())
        });
        Ok(ahead.or(settled.map(|sequence| sequence.wrapping_add(1))))
    }

    /// An account as it will be when its waiting transactions are carried out, as far as that is known.
    pub fn preview(&mut self, address: Address) -> Result<Option<crate::state::Account>, StateError> {
        if let Some(queue) = self.queues.get_mut(&address) {
            let scope = (&self.reader, &self.base);
            Self::advance(scope, queue)?;
            if let Some((view, _)) = &mut queue.view {
                return view.load(address);
            }
        }
        self.base.1.load(address)
    }

    /// Carries out, in the queue's own view, what waits in a row.
    fn advance(
        (reader, base): (&LedgerReader, &(Hash, StateView, BlockContext)),
        queue: &mut Queue,
    ) -> Result<(), StateError> {
        let Some(first) = queue.waiting.values().next() else { return Ok(()) };
        let sender = first.raw.transaction.sender().0;
        if queue.view.is_none() {
            let mut view = base.1.clone();
            let next = view.account(sender)?.map_or(0, |account| account.sequence).wrapping_add(1);
            queue.view = Some((view, next));
        }
        let Some((view, next)) = &mut queue.view else { return Ok(()) };
        while let Some(waiting) = queue.waiting.get(next) {
            let done = reader.with_scope(&base.2, &Admission, |scope| run(scope, view, &waiting.raw));
            match done {
                Ok(_) => *next += 1,
                Err(error) => match error.state_error() {
                    Some(_) => return Err(StateError::UnknownBlock(error.to_string())),
                    // It was valid when it came; it stays until the settled state says otherwise.
                    None => break,
                },
            }
        }
        Ok(())
    }

    /// Admits raw bytes. What waits already is no second transaction; what was settled is refused.
    pub fn insert(&mut self, bytes: Vec<u8>, now: Millis) -> Result<Admitted, AdmitError> {
        if bytes.len() > self.limits.transaction_bytes {
            return Err(AdmitError::TooLarge(bytes.len(), self.limits.transaction_bytes));
        }
        let hash = keccak(&bytes);
        if self.hashes.contains_key(&hash)
            || self.reader.transaction(&hash)?.is_some_and(|found| found.settled)
        {
            return Err(AdmitError::Known);
        }
        let raw = Arc::new(RawTx::decode(bytes).map_err(TxError::from)?);
        if matches!(raw.transaction, Transaction::Coinbase(_) | Transaction::Slash(_)) {
            return Err(TxError::Unauthorized.into());
        }
        let rules = self.reader.spec().rules(self.base.2.height());
        if rules.tx.no_trailing_bytes && raw.trailing > 0 {
            return Err(TxError::Trailing(raw.trailing).into());
        }
        let price = raw.transaction.gas_price(rules);
        let waiting = Waiting { raw: raw.clone(), price, since: now, left_out: 0 };
        if matches!(raw.transaction, Transaction::ServicePayment(_)) {
            return self.insert_payment(waiting);
        }
        let (sender, sequence) = raw.transaction.sender();
        let queue = self.queues.entry(sender).or_default();
        Self::advance((&self.reader, &self.base), queue)?;
        let result = Self::place(&self.reader, &self.base, &self.limits, queue, waiting, sequence);
        let replaced = match result {
            Ok(replaced) => replaced,
            Err(error) => {
                if queue.waiting.is_empty() {
                    self.queues.remove(&sender);
                }
                return Err(error);
            }
        };
        if let Some(replaced) = replaced {
            self.hashes.remove(&replaced);
        }
        self.hashes.insert(hash, sender);
        let queue = self.queues.entry(sender).or_default();
        Self::advance((&self.reader, &self.base), queue)?;
        let missing = queue.view.as_ref().map_or(sequence, |(_, next)| *next);
        if self.hashes.len() > self.limits.transactions {
            self.evict(hash)?;
        }
        Ok(if sequence < missing { Admitted::Ready(hash) } else { Admitted::Parked { hash, missing } })
    }

    /// Puts a transaction at its place in the queue; gives the hash of the one it replaced.
    fn place(
        reader: &LedgerReader,
        base: &(Hash, StateView, BlockContext),
        limits: &MempoolLimits,
        queue: &mut Queue,
        waiting: Waiting,
        sequence: u64,
    ) -> Result<Option<Hash>, AdmitError> {
        let (sender, _) = waiting.raw.transaction.sender();
        let settled = base.1.clone().account(sender)?.map_or(0, |account| account.sequence);
        // What fails in its effect alone, such as a deposit on a locked stake, is found here too.
        let check = |view: &mut StateView| {
            reader.with_scope(&base.2, &Admission, |scope| run(scope, view, &waiting.raw))
        };
        if let Some(old) = queue.waiting.get(&sequence) {
            let needed = &old.price + &old.price * limits.replacement_percent / 100_u32 + 1_u8;
            if waiting.price < needed {
                return Err(AdmitError::Underpriced(needed));
            }
            // It has to be valid where the old one stands: with what comes before it carried out.
            let mut before = Queue { waiting: BTreeMap::new(), view: None };
            for (at, other) in queue.waiting.range(..sequence) {
                let other = Waiting {
                    raw: other.raw.clone(),
                    price: other.price.clone(),
                    since: other.since,
                    left_out: 0,
                };
                before.waiting.insert(*at, other);
            }
            Self::advance((reader, base), &mut before)?;
            let mut view = before.view.map_or_else(|| base.1.clone(), |(view, _)| view);
            check(&mut view)?;
            queue.view = None;
            return Ok(queue.waiting.insert(sequence, waiting).map(|old| old.raw.hash));
        }
        let next = queue.view.as_ref().map_or(settled.wrapping_add(1), |(_, next)| *next);
        if sequence > next {
            if sequence - next > limits.gap {
                return Err(AdmitError::TooFarAhead { got: sequence, expected: next, gap: limits.gap });
            }
            if queue.waiting.len() >= limits.per_sender {
                return Err(AdmitError::Full);
            }
            // Everything but the sequence has to be right already; only that error may pass.
            let mut view = queue.view.as_ref().map_or_else(|| base.1.clone(), |(view, _)| view.clone());
            let mut account = view.load_or_new(sender)?;
            account.sequence = sequence.wrapping_sub(1);
            if view.account(sender)?.is_some() {
                view.store(account);
            }
            check(&mut view)?;
            queue.waiting.insert(sequence, waiting);
            return Ok(None);
        }
        if queue.waiting.len() >= limits.per_sender {
            return Err(AdmitError::Full);
        }
        let mut view = queue.view.as_ref().map_or_else(|| base.1.clone(), |(view, _)| view.clone());
        check(&mut view)?;
        queue.waiting.insert(sequence, waiting);
        Ok(None)
    }

    fn insert_payment(&mut self, waiting: Waiting) -> Result<Admitted, AdmitError> {
        let (_, view, context) = &self.base;
        let mut view = view.clone();
        self.reader.with_scope(context, &Admission, |scope| run(scope, &mut view, &waiting.raw))?;
        let hash = waiting.raw.hash;
        self.hashes.insert(hash, waiting.raw.transaction.sender().0);
        self.payments.insert(hash, waiting);
        if self.hashes.len() > self.limits.transactions {
            self.evict(hash)?;
        }
        Ok(Admitted::Ready(hash))
    }

    /// Makes room: the last transaction of the sender who offers least goes. Fails if that is the new one.
    fn evict(&mut self, newest: Hash) -> Result<(), AdmitError> {
        let last = |queue: &Queue| {
            queue.waiting.values().next_back().map(|waiting| (waiting.price.clone(), waiting.raw.hash))
        };
        let payments = self.payments.values().map(|waiting| (waiting.price.clone(), waiting.raw.hash));
        let Some((_, hash)) = self.queues.values().filter_map(last).chain(payments).min() else {
            return Ok(());
        };
        self.remove(&hash);
        if hash == newest { Err(AdmitError::Full) } else { Ok(()) }
    }

    fn remove(&mut self, hash: &Hash) {
        let Some(sender) = self.hashes.remove(hash) else { return };
        if self.payments.remove(hash).is_some() {
            return;
        }
        if let Some(queue) = self.queues.get_mut(&sender) {
            queue.waiting.retain(|_, waiting| waiting.raw.hash != *hash);
            queue.view = None;
            if queue.waiting.is_empty() {
                self.queues.remove(&sender);
            }
        }
    }

    /// What a block on top of `parent` may hold: best price first, each sender's in sequence. What blocks between the
    /// settled one and `parent` hold is left out.
    pub fn candidates(&self, parent: &mut StateView, limit: usize) -> Result<Vec<Arc<RawTx>>, StateError> {
        let mut heads = BTreeSet::new();
        for (sender, queue) in &self.queues {
            let next = parent.account(*sender)?.map_or(0, |account| account.sequence).wrapping_add(1);
            heads.extend(Head::of(queue, *sender, next));
        }
        heads.extend(self.payments.values().map(|waiting| Head::new(waiting, None)));
        let mut chosen = Vec::new();
        while chosen.len() < limit
            && let Some(head) = heads.pop_last()
        {
            chosen.push(match head.place {
                None => self.payments[&head.hash].raw.clone(),
                Some((sender, sequence)) => {
                    let queue = &self.queues[&sender];
                    heads.extend(Head::of(queue, sender, sequence.wrapping_add(1)));
                    queue.waiting[&sequence].raw.clone()
                }
            });
        }
        Ok(chosen)
    }

    /// Takes note that a block was built without a transaction that was offered for it. One that is left out again and
    /// again, because only running its contract shows that it is not valid, falls out; true says that it did.
    pub fn left_out(&mut self, hash: &Hash) -> bool {
        const PATIENCE: u32 = 3;
        let Some(sender) = self.hashes.get(hash) else { return false };
        let queue = self.queues.get_mut(sender);
        let queued =
            queue.and_then(|queue| queue.waiting.values_mut().find(|waiting| waiting.raw.hash == *hash));
        let Some(waiting) = queued.or_else(|| self.payments.get_mut(hash)) else { return false };
        waiting.left_out += 1;
        let gone = waiting.left_out >= PATIENCE;
        if gone {
            self.remove(hash);
        }
        gone
    }

    /// Follows the ledger to its newest settled state: what was settled or can no longer become valid falls out; the
    /// latter is given back with its reason.
    pub fn settled(
        &mut self,
        blocks: &[Arc<Block>],
        now: Millis,
    ) -> Result<Vec<(Hash, TxError)>, StateError> {
        self.base = Self::base(&self.reader)?;
        for bytes in blocks.iter().flat_map(|block| &block.transactions) {
            self.remove(&keccak(bytes));
        }
        let mut out = Vec::new();
        for (sender, queue) in &mut self.queues {
            queue.view = None;
            let mut view = self.base.1.clone();
            let expected = view.account(*sender)?.map_or(0, |account| account.sequence).wrapping_add(1);
            for (sequence, waiting) in &queue.waiting {
                if *sequence < expected {
                    out.push((waiting.raw.hash, TxError::Sequence { got: *sequence, expected }));
                } else if *sequence > expected && !queue.waiting.contains_key(&expected) {
                    if now.saturating_sub(waiting.since) > self.limits.parked_for {
                        out.push((waiting.raw.hash, TxError::Sequence { got: *sequence, expected }));
                    }
                } else if *sequence == expected {
                    let check = self
                        .reader
                        .with_scope(&self.base.2, &Admission, |scope| run(scope, &mut view, &waiting.raw));
                    if let Err(error) = check
                        && error.state_error().is_none()
                    {
                        out.push((waiting.raw.hash, error));
                    }
                }
            }
        }
        for (hash, waiting) in &self.payments {
            let mut view = self.base.1.clone();
            let check = self.reader.with_scope(&self.base.2, &Admission, |scope| {
                waiting.raw.transaction.check(scope, &mut view)
            });
            if let Err(error) = check
                && error.state_error().is_none()
            {
                out.push((*hash, error));
            }
        }
        for (hash, _) in &out {
            self.remove(hash);
        }
        Ok(out)
    }
}
