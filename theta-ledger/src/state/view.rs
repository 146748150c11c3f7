//! One state, with changes on top that can be taken back.
//!
//! Transactions, contracts and stake pools change the same cells, and every change leaves a note of what was there before
//! in one journal. A candidate that fails half way, a contract frame that reverts and a rejected block are therefore one
//! operation: [`StateView::revert`]. Cells are decoded once, and encoded once when the root is asked for.

use std::{
    collections::{BTreeMap, hash_map::Entry},
    sync::Arc,
};

use theta_core::{
    amount::{TFuelWei, ThetaWei},
    codec::rlp::{Decode, Encode, Reader},
    hash::{Address, AddressMap, EMPTY_CODE_HASH, Hash, HashMap, U256, keccak},
    stake::{EliteEdgeNode, GuardianPool, StakeHolder, ValidatorPool, reward::RewardDistribution},
    trie::{NodeSource, Trie},
    workers::{Inline, Workers, each_mut},
};

use super::{
    StateError,
    account::{Account, DEAD_CODE_HASH, HeightList, SplitRule},
    keys,
    nodes::NewNodes,
};

/// A place in the journal to come back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Checkpoint(usize);

/// The state after a block, and changes on top of it.
#[derive(Clone)]
pub struct StateView {
    trie: Trie,
    height: u64,
    accounts: AddressMap<Cell<Account>>,
    storage: AddressMap<Storage>,
    records: BTreeMap<Vec<u8>, Cell<Record>>,
    /// No split rule ends below this height, once that was looked at.
    splits_end: Option<u64>,
    journal: Vec<Undo>,
    /// Number of the transaction under way.
    transaction: u32,
    coinbase: bool,
}

impl std::fmt::Debug for StateView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StateView")
            .field("height", &self.height)
            .field("changes", &self.journal.len())
            .finish_non_exhaustive()
    }
}

/// A record as it now is; `None` is no record. Read cells are kept too.
#[derive(Clone, Debug)]
struct Cell<T> {
    value: Option<T>,
    changed: bool,
}

/// A word of a contract's storage as it now is. Read words are kept too.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    value: U256,
    changed: bool,
    /// Whether it is warm in the transaction that met it last.
    warm: bool,
    /// The number of that transaction.
    met: u32,
    /// Its value from before that transaction.
    original: U256,
}

impl Slot {
    /// Gives the value before, and whether it was changed.
    const fn write(&mut self, value: U256) -> (U256, bool) {
        (std::mem::replace(&mut self.value, value), std::mem::replace(&mut self.changed, true))
    }

    const fn is_warm(&self, transaction: u32) -> bool {
        self.warm && self.met == transaction
    }
}

/// A word of storage as Ethereum's rules meet it: what reading or writing it costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetSlot {
    /// Whether it was cold. It is not from now on, unless that is taken back.
    pub is_cold: bool,
    /// Its value, before a write.
    pub present: U256,
    /// Its value from before the transaction.
    pub original: U256,
}

/// A contract's storage: a trie at the root its account had, and slots on top.
#[derive(Clone, Debug)]
struct Storage {
    trie: Trie,
    slots: HashMap<Slot>,
    /// A write, even of the same value, gives the account a storage root.
    written: bool,
}

impl Storage {
    /// A word as it now is, read if it was not yet.
    fn slot(&mut self, key: Hash) -> Result<&mut Slot, StateError> {
        match self.slots.entry(key) {
            Entry::Occupied(slot) => Ok(slot.into_mut()),
            Entry::Vacant(place) => {
                let bytes = self.trie.get(key.as_slice())?;
                let value = bytes.map_or(Ok(U256::ZERO), |bytes| decode(key.as_slice(), &bytes))?;
                Ok(place.insert(Slot { value, ..Slot::default() }))
            }
        }
    }

    fn root(&mut self, workers: &dyn Workers) -> Result<Hash, StateError> {
        let slots = std::mem::take(&mut self.slots).into_iter().filter(|(_, slot)| slot.changed).map(
            |(key, Slot { value, .. })| {
                (key.to_vec(), if value.is_zero() { Vec::new() } else { value.to_rlp() })
            },
        );
        self.trie.update(slots, workers)?;
        Ok(self.trie.root())
    }
}

/// A record: its bytes, or what they say where all transactions of a kind change the same one. Such a record is decoded once
/// and encoded when its bytes are asked for.
#[derive(Clone, Debug)]
enum Record {
    Bytes(Vec<u8>),
    Validators(Arc<ValidatorPool>),
    Guardians(Arc<GuardianPool>),
    Heights(Arc<HeightList>),
}

impl Record {
    fn into_bytes(self) -> Vec<u8> {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Validators(pool) => pool.to_rlp(),
            Self::Guardians(pool) => pool.to_rlp(),
            Self::Heights(list) => list.to_rlp(),
        }
    }
}

/// What a [`Record`] holds decoded.
trait Decoded: Encode + Decode {
    fn record(value: Arc<Self>) -> Record;
    fn of(record: &Record) -> Option<&Arc<Self>>;
}

macro_rules! decoded {
    ($($variant:ident($value:ty)),*) => {$(
        impl Decoded for $value {
            fn record(value: Arc<Self>) -> Record {
                Record::$variant(value)
            }
            fn of(record: &Record) -> Option<&Arc<Self>> {
                match record {
                    Record::$variant(value) => Some(value),
                    _ => None,
                }
            }
        }
    )*};
}
decoded!(Validators(ValidatorPool), Guardians(GuardianPool), Heights(HeightList));

/// What stood at a place before. The large ones stand apart: most changes are of words.
#[derive(Clone)]
enum Undo {
    Account(Address, Option<Box<Cell<Account>>>),
    Record(Vec<u8>, Option<Cell<Record>>),
    /// The value, and whether it was changed. What a transaction has met of it stays.
    Slot {
        address: Address,
        key: Hash,
        old: Option<(U256, bool)>,
        written: bool,
    },
    Warm(Address, Hash),
    Storage(Address, Option<Box<Storage>>),
    SplitsEnd(Option<u64>),
}

/// Puts back into a map what stood there.
macro_rules! restore {
    ($cells:expr, $key:expr, $old:expr) => {
        match $old {
            Some(old) => drop($cells.insert($key, old)),
            None => drop($cells.remove(&$key)),
        }
    };
}

impl StateView {
    /// The state with this root; `height` is that of its block, H - 1 for the transactions that run on it.
    pub fn open(root: Hash, height: u64, nodes: Arc<dyn NodeSource>) -> Result<Self, StateError> {
        Ok(Self {
            trie: Trie::open(root, nodes)?,
            height,
            accounts: AddressMap::default(),
            storage: AddressMap::default(),
            records: BTreeMap::new(),
            splits_end: None,
            journal: Vec::new(),
            transaction: 0,
            coinbase: false,
        })
    }

    /// Goes on over a later state: what was read or changed here stays as it is, all else is read there.
    pub(crate) fn rebase(&mut self, onto: &Self) {
        self.trie = onto.trie.clone();
        self.height = onto.height;
        self.splits_end = None;
    }

    /// Height of the block whose state this is, without the changes on top.
    pub const fn height(&self) -> u64 {
        self.height
    }

    /// The state's trie, without the changes on top.
    pub const fn trie(&self) -> &Trie {
        &self.trie
    }

    /// Where nodes are read from.
    pub fn nodes(&self) -> &Arc<dyn NodeSource> {
        self.trie.source()
    }

    /// Marks a place to come back to.
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint(self.journal.len())
    }

    /// Takes back every change since a checkpoint of this view.
    pub fn revert(&mut self, to: Checkpoint) {
        while self.journal.len() > to.0 {
            match self.journal.pop() {
                Some(Undo::Account(address, old)) => restore!(self.accounts, address, old.map(|old| *old)),
                Some(Undo::Record(key, old)) => restore!(self.records, key, old),
                Some(Undo::Storage(address, old)) => restore!(self.storage, address, old.map(|old| *old)),
                Some(Undo::SplitsEnd(old)) => self.splits_end = old,
                Some(Undo::Slot { address, key, old, written }) => {
                    if let Some(storage) = self.storage.get_mut(&address) {
                        storage.written = written;
                        match (old, storage.slots.get_mut(&key)) {
                            (Some(old), Some(slot)) => (slot.value, slot.changed) = old,
                            _ => drop(storage.slots.remove(&key)),
                        }
                    }
                }
                Some(Undo::Warm(address, key)) => {
                    let storage = self.storage.get_mut(&address);
                    if let Some(slot) = storage.and_then(|storage| storage.slots.get_mut(&key)) {
                        slot.warm = false;
                    }
                }
                None => return,
            }
        }
    }

    /// Begins a transaction: no word of storage is warm, and what each holds now it held before.
    pub const fn begin_transaction(&mut self) {
        self.transaction = self.transaction.wrapping_add(1);
    }

    /// Whether the block's coinbase has been carried out on this view.
    pub(crate) const fn has_coinbase(&self) -> bool {
        self.coinbase
    }

    /// Marks that it has. A coinbase cannot fail behind this point, so the mark is not journaled.
    pub(crate) const fn mark_coinbase(&mut self) {
        self.coinbase = true;
    }

    // Accounts

    /// The account's record as it stands, without releasing reserved funds.
    pub fn account(&mut self, address: Address) -> Result<Option<&Account>, StateError> {
        account_cell(&mut self.accounts, &self.trie, address)
    }

    /// The account as a transaction loads it: expired reserved funds are released, in the copy given out only.
    pub fn load(&mut self, address: Address) -> Result<Option<Account>, StateError> {
        let height = self.height;
        Ok(self.account(address)?.cloned().map(|mut account| {
            account.release_expired(height);
            account
        }))
    }

    /// The account as a transaction loads it, or a fresh one that is not stored yet.
    pub fn load_or_new(&mut self, address: Address) -> Result<Account, StateError> {
        Ok(self.load(address)?.unwrap_or_else(|| Account::new(address, self.height)))
    }

    /// Stores an account.
    pub fn store(&mut self, account: Account) {
        let address = account.address;
        let old = self.accounts.insert(address, Cell { value: Some(account), changed: true });
        self.journal.push(Undo::Account(address, old.map(Box::new)));
    }

    /// Replaces an account by a fresh contract record whose storage is empty, as a creation does. What was warm there stays
    /// so.
    pub fn reset(&mut self, account: Account) {
        let old = self.storage.remove(&account.address);
        if let Some(old) = &old {
            let warm = old.slots.iter().filter(|(_, slot)| slot.is_warm(self.transaction));
            let slots: HashMap<_> = warm
                .map(|(key, slot)| (*key, Slot { warm: true, met: slot.met, ..Slot::default() }))
                .collect();
            if !slots.is_empty() {
                let trie = Trie::empty(self.trie.source().clone());
                self.storage.insert(account.address, Storage { trie, slots, written: false });
            }
        }
        self.journal.push(Undo::Storage(account.address, old.map(Box::new)));
        self.store(account);
    }

    /// Removes an account with its storage, as only Ethereum's rules do.
    pub fn remove(&mut self, address: Address) {
        let old = self.storage.remove(&address);
        self.journal.push(Undo::Storage(address, old.map(Box::new)));
        let old = self.accounts.insert(address, Cell { value: None, changed: true });
        self.journal.push(Undo::Account(address, old.map(Box::new)));
    }

    // Contracts

    /// Code by its hash; nothing for accounts without code.
    pub fn code(&mut self, hash: Hash) -> Result<Vec<u8>, StateError> {
        if hash == EMPTY_CODE_HASH || hash == DEAD_CODE_HASH || hash == Hash::ZERO {
            return Ok(Vec::new());
        }
        Ok(self.record(&keys::code(hash))?.unwrap_or_default())
    }

    /// Stores code; gives its hash. Empty code has no entry.
    pub fn store_code(&mut self, code: Vec<u8>) -> Hash {
        let hash = keccak(&code);
        if !code.is_empty() {
            self.set_record(keys::code(hash), Some(code));
        }
        hash
    }

    fn storage(&mut self, address: Address) -> Result<&mut Storage, StateError> {
        match self.storage.entry(address) {
            Entry::Occupied(found) => Ok(found.into_mut()),
            Entry::Vacant(place) => {
                let account = account_cell(&mut self.accounts, &self.trie, address)?;
                let root = account.map_or(Hash::ZERO, |account| account.root);
                let trie = Trie::open(root, self.trie.source().clone())?;
                Ok(place.insert(Storage { trie, slots: HashMap::default(), written: false }))
            }
        }
    }

    /// A word of a contract's storage.
    pub fn slot(&mut self, address: Address, key: Hash) -> Result<U256, StateError> {
        Ok(self.storage(address)?.slot(key)?.value)
    }

    /// Writes a word of a contract's storage; zero removes it. Makes no account: the caller has.
    pub fn set_slot(&mut self, address: Address, key: Hash, value: U256) -> Result<(), StateError> {
        let storage = self.storage(address)?;
        let written = std::mem::replace(&mut storage.written, true);
        let old = match storage.slots.entry(key) {
            Entry::Occupied(slot) => Some(slot.into_mut().write(value)),
            Entry::Vacant(place) => {
                place.insert(Slot { value, changed: true, ..Slot::default() });
                None
            }
        };
        self.journal.push(Undo::Slot { address, key, old, written });
        Ok(())
    }

    /// Writes the word that `decide` makes of the present one, which is given back; `None` writes nothing. One look-up for
    /// what would be two by [`Self::slot`] and [`Self::set_slot`].
    pub fn change_slot(
        &mut self,
        address: Address,
        key: Hash,
        decide: impl FnOnce(U256) -> Option<U256>,
    ) -> Result<U256, StateError> {
        let storage = self.storage(address)?;
        let slot = storage.slot(key)?;
        let present = slot.value;
        if let Some(value) = decide(present) {
            let old = Some(slot.write(value));
            let written = std::mem::replace(&mut storage.written, true);
            self.journal.push(Undo::Slot { address, key, old, written });
        }
        Ok(present)
    }

    /// Meets a word as Ethereum's rules do (EIP-2929, 2200): it is warm from now on. Writes `value`, if one is given and it
    /// is another than the present one. Nothing, and nothing is read, where the word is cold and `skip` says to leave it so.
    pub fn meet_slot(
        &mut self,
        address: Address,
        key: Hash,
        value: Option<U256>,
        skip: bool,
    ) -> Result<Option<MetSlot>, StateError> {
        let transaction = self.transaction;
        if skip {
            let slot = self.storage.get(&address).and_then(|storage| storage.slots.get(&key));
            if !slot.is_some_and(|slot| slot.is_warm(transaction)) {
                return Ok(None);
            }
        }
        let storage = self.storage(address)?;
        let slot = storage.slot(key)?;
        if slot.met != transaction {
            (slot.met, slot.warm, slot.original) = (transaction, false, slot.value);
        }
        let is_cold = !std::mem::replace(&mut slot.warm, true);
        let met = MetSlot { is_cold, present: slot.value, original: slot.original };
        let old = value.filter(|value| *value != met.present).map(|value| slot.write(value));
        let written = storage.written;
        storage.written |= old.is_some();
        if is_cold {
            self.journal.push(Undo::Warm(address, key));
        }
        if old.is_some() {
            self.journal.push(Undo::Slot { address, key, old, written });
        }
        Ok(Some(met))
    }

    /// All words of a contract's storage that are not zero.
    pub fn slots(&mut self, address: Address) -> Result<BTreeMap<Hash, U256>, StateError> {
        let storage = self.storage(address)?;
        let mut bytes = Vec::new();
        storage.trie.visit(&[], &mut |key, value| {
            bytes.push((Hash::try_from(key).unwrap_or_default(), value.to_vec()));
            true
        })?;
        let mut slots = BTreeMap::new();
        for (key, value) in bytes {
            slots.insert(key, decode::<U256>(key.as_slice(), &value)?);
        }
        slots.extend(storage.slots.iter().map(|(key, slot)| (*key, slot.value)));
        slots.retain(|_, value| !value.is_zero());
        Ok(slots)
    }

    // Other records

    fn cell(&mut self, key: &[u8]) -> Result<&mut Cell<Record>, StateError> {
        if !self.records.contains_key(key) {
            let value = self.trie.get(key)?.map(Record::Bytes);
            self.records.insert(key.to_vec(), Cell { value, changed: false });
        }
        Ok(self.records.get_mut(key).expect("inserted above"))
    }

    /// A record's bytes.
    pub fn record(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        Ok(self.cell(key)?.value.clone().map(Record::into_bytes))
    }

    /// Sets a record's bytes; `None` or nothing removes it.
    pub fn set_record(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.put(key, value.filter(|bytes| !bytes.is_empty()).map(Record::Bytes));
    }

    fn put(&mut self, key: Vec<u8>, value: Option<Record>) {
        let old = self.records.insert(key.clone(), Cell { value, changed: true });
        self.journal.push(Undo::Record(key, old));
    }

    /// A record that stays decoded.
    fn decoded<T: Decoded>(&mut self, key: &[u8]) -> Result<Option<Arc<T>>, StateError> {
        let cell = self.cell(key)?;
        let Some(record) = &cell.value else { return Ok(None) };
        if let Some(value) = T::of(record) {
            return Ok(Some(value.clone()));
        }
        let value = Arc::new(decode::<T>(key, &record.clone().into_bytes())?);
        cell.value = Some(T::record(value.clone()));
        Ok(Some(value))
    }

    fn typed<T: Decode>(&mut self, key: &[u8]) -> Result<Option<T>, StateError> {
        self.record(key)?.map(|bytes| decode(key, &bytes)).transpose()
    }

    /// All records whose keys begin with `prefix`, changes included, ascending by key.
    pub fn records_with(&self, prefix: &[u8]) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, StateError> {
        let mut found = BTreeMap::new();
        self.trie.visit(prefix, &mut |key, value| {
            found.insert(key.to_vec(), value.to_vec());
            true
        })?;
        for (key, cell) in
            self.records.range(prefix.to_vec()..).take_while(|(key, _)| key.starts_with(prefix))
        {
            match &cell.value {
                Some(value) => found.insert(key.clone(), value.clone().into_bytes()),
                None => found.remove(key),
            };
        }
        Ok(found)
    }

    /// Validator candidates; `None` where the state has none.
    pub fn validators(&mut self) -> Result<Option<Arc<ValidatorPool>>, StateError> {
        self.decoded(keys::VALIDATORS)
    }

    /// Stores the validator candidates.
    pub fn set_validators(&mut self, pool: Arc<ValidatorPool>) {
        self.put(keys::VALIDATORS.to_vec(), Some(Record::Validators(pool)));
    }

    /// Up to which height what a validator said has been punished; `None` for one that never was.
    pub fn punished(&mut self, holder: Address) -> Result<Option<u64>, StateError> {
        self.typed(&keys::punished(holder))
    }

    /// Guardian candidates.
    pub fn guardians(&mut self) -> Result<Arc<GuardianPool>, StateError> {
        Ok(self.decoded(keys::GUARDIANS)?.unwrap_or_default())
    }

    /// Stores the guardian candidates.
    pub fn set_guardians(&mut self, pool: Arc<GuardianPool>) {
        self.put(keys::GUARDIANS.to_vec(), Some(Record::Guardians(pool)));
    }

    /// An elite edge node.
    pub fn elite(&mut self, holder: Address) -> Result<Option<EliteEdgeNode>, StateError> {
        self.typed(&keys::elite(holder))
    }

    /// Stores an elite edge node, or removes the holder's.
    pub fn set_elite(&mut self, holder: Address, node: Option<&EliteEdgeNode>) {
        self.set_record(keys::elite(holder), node.map(Encode::to_rlp));
    }

    /// Live stake of all elite edge nodes.
    pub fn elite_total(&mut self) -> Result<TFuelWei, StateError> {
        let bytes = self.record(keys::ELITE_TOTAL)?.unwrap_or_default();
        Ok(TFuelWei::from_u256(U256::try_from_be_slice(&bytes).unwrap_or(U256::MAX)))
    }

    /// Stores the live stake of all elite edge nodes.
    pub fn set_elite_total(&mut self, total: TFuelWei) {
        self.set_record(keys::ELITE_TOTAL.to_vec(), Some(total.get().to_be_bytes_trimmed_vec()));
    }

    /// A split rule.
    pub fn split_rule(&mut self, resource: &[u8]) -> Result<Option<SplitRule>, StateError> {
        self.typed(&keys::split(resource))
    }

    /// Stores a split rule, or removes the resource's.
    pub fn set_split_rule(&mut self, resource: &[u8], rule: Option<&SplitRule>) {
        if let (Some(end), Some(rule)) = (self.splits_end, rule)
            && rule.end_height < end
        {
            self.set_splits_end(rule.end_height);
        }
        self.set_record(keys::split(resource), rule.map(Encode::to_rlp));
    }

    /// Removes every split rule that ended below a height. They are looked through once, not for each transaction.
    pub fn drop_ended_splits(&mut self, height: u64) -> Result<(), StateError> {
        if self.splits_end.is_some_and(|end| end >= height) {
            return Ok(());
        }
        let mut least = u64::MAX;
        for (key, value) in self.records_with(keys::SPLIT)? {
            let rule: SplitRule = decode(&key, &value)?;
            if rule.end_height < height {
                self.set_record(key, None);
            } else {
                least = least.min(rule.end_height);
            }
        }
        self.set_splits_end(least);
        Ok(())
    }

    fn set_splits_end(&mut self, end: u64) {
        let old = self.splits_end.replace(end);
        self.journal.push(Undo::SplitsEnd(old));
    }

    /// A holder's reward distribution rule.
    pub fn distribution(&mut self, holder: Address) -> Result<Option<RewardDistribution>, StateError> {
        self.typed(&keys::distribution(holder))
    }

    /// Appends a height to the list of blocks with validator stake transactions.
    pub fn add_stake_height(&mut self, height: u64) -> Result<(), StateError> {
        let mut heights: Arc<HeightList> = self.decoded(keys::STAKE_HEIGHTS)?.unwrap_or_default();
        Arc::make_mut(&mut heights).0.push(height);
        self.put(keys::STAKE_HEIGHTS.to_vec(), Some(Record::Heights(heights)));
        Ok(())
    }

    /// THETA that an address has staked with validators and guardians and not withdrawn.
    pub fn theta_stake(&mut self, source: Address) -> Result<ThetaWei, StateError> {
        let of = |holder: &StakeHolder<ThetaWei>| {
            let stakes: Vec<ThetaWei> =
                holder.live().filter(|stake| stake.source == source).map(|stake| stake.amount).collect();
            stakes
        };
        let validators = self.validators()?.unwrap_or_default();
        let guardians = self.guardians()?;
        let all = validators
            .candidates
            .iter()
            .flat_map(&of)
            .chain(guardians.guardians.iter().flat_map(|guardian| of(&guardian.stakes)));
        Ok(all.fold(ThetaWei::ZERO, |sum, stake| sum.checked_add(stake).unwrap_or(sum)))
    }

    // Roots

    /// Puts every change into the tries and gives the root. Changes up to here can no longer be taken back.
    pub fn root(&mut self) -> Result<Hash, StateError> {
        self.root_by(&Inline)
    }

    /// [`Self::root`], with contracts' storages and the parts of large tries spread over workers.
    pub fn root_by(&mut self, workers: &dyn Workers) -> Result<Hash, StateError> {
        let mut written: Vec<_> = self
            .storage
            .iter_mut()
            .filter_map(|(address, storage)| {
                std::mem::take(&mut storage.written).then_some((*address, storage, Ok(Hash::ZERO)))
            })
            .collect();
        // Many small tries, or one large one.
        let (across, within): (&dyn Workers, &dyn Workers) =
            if written.len() > 1 { (workers, &Inline) } else { (&Inline, workers) };
        each_mut(across, &mut written, |(_, storage, root)| *root = storage.root(within));
        let roots: Vec<_> = written.into_iter().map(|(address, _, root)| (address, root)).collect();
        for (address, root) in roots {
            let root = root?;
            if let Some(mut account) = self.account(address)?.cloned() {
                account.root = root;
                self.store(account);
            }
        }
        let accounts = std::mem::take(&mut self.accounts).into_iter().filter(|(_, cell)| cell.changed).map(
            |(address, cell)| {
                let record = cell.value.map(|account| account.to_rlp()).unwrap_or_default();
                (keys::account(address), record)
            },
        );
        let records = std::mem::take(&mut self.records)
            .into_iter()
            .filter(|(_, cell)| cell.changed)
            .map(|(key, cell)| (key, cell.value.map(Record::into_bytes).unwrap_or_default()));
        self.trie.update(accounts.chain(records), workers)?;
        self.journal.clear();
        Ok(self.trie.root())
    }

    /// The nodes that are new since the view was opened, for the block whose state this has become.
    pub(crate) fn into_new_nodes(mut self) -> NewNodes {
        let mut new = NewNodes::default();
        self.storage.values_mut().for_each(|storage| new.collect(&mut storage.trie));
        new.collect(&mut self.trie);
        new
    }

    /// The same state, now that a block has made it: its height is that block's, and the next coinbase may come.
    pub fn at_height(mut self, height: u64) -> Self {
        self.height = height;
        self.coinbase = false;
        self
    }

    /// Nodes on the path of a key, root first; [`theta_core::trie::verify`] checks them. Changes on top are not proven.
    pub fn prove(&self, key: &[u8]) -> Result<Vec<Vec<u8>>, StateError> {
        Ok(self.trie.prove(key)?)
    }

    /// Every entry of the state trie and, for contracts, every slot, changes on top excluded.
    pub fn visit(
        &self,
        prefix: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StateError> {
        Ok(self.trie.visit(prefix, visit)?)
    }
}

/// An account as it now is, read if it was not yet.
fn account_cell<'a>(
    accounts: &'a mut AddressMap<Cell<Account>>,
    trie: &Trie,
    address: Address,
) -> Result<Option<&'a Account>, StateError> {
    let cell = match accounts.entry(address) {
        Entry::Occupied(cell) => cell.into_mut(),
        Entry::Vacant(place) => {
            let value = read(trie, &keys::account(address))?;
            place.insert(Cell { value, changed: false })
        }
    };
    Ok(cell.value.as_ref())
}

fn read<T: Decode>(trie: &Trie, key: &[u8]) -> Result<Option<T>, StateError> {
    trie.get(key)?.map(|bytes| decode(key, &bytes)).transpose()
}

fn decode<T: Decode>(key: &[u8], bytes: &[u8]) -> Result<T, StateError> {
    let damaged = |source| StateError::Damaged { key: String::from_utf8_lossy(key).into_owned(), source };
    let mut reader = Reader::new(bytes, bytes.len()).map_err(damaged)?;
    let value = T::decode(&mut reader).map_err(damaged)?;
    reader.finish().map_err(damaged)?;
    Ok(value)
}
