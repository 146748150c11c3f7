//! Which states are kept, and how the others go away.
//!
//! A node is stored once under its hash, but stands at as many places as the newest state and its storage tries have it:
//! equal subtrees are one node, and a value that comes back brings its old nodes back. So places are counted. A block
//! that settles adds one for every place where its state has a node that the state below has not, and notes the nodes
//! whose places it took away. They are taken off when the block is as far below the newest one as states are kept. Then
//! the count of a node is that of its places in the newest state, plus all places that kept blocks took away; where it is
//! zero no kept state has the node, and it is deleted. All of it happens in the batch of the block that settles.
//!
//! Only counts above one have a row. A store that was not counted so far, as that of an archive or of an import, is
//! counted once when it is opened.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use theta_core::{
    codec::rlp::Decode,
    hash::{Address, EMPTY_ROOT, Hash},
    store::{Batch, Store, Table},
    trie::{NodeSource, Trie, TrieError},
};

use super::{StateError, account::Account, keys};
use crate::chain;

/// Key of the mark that the nodes of a store are counted.
const COUNTED: &[u8] = b"counted";
/// Key of the height of the oldest kept state.
const OLDEST: &[u8] = b"oldest";
/// Rows between two writes to the store: bounds the memory of a count.
const CHUNK: usize = 20_000;

/// Which states stay readable. Blocks, receipts and logs always do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// Those of all blocks.
    #[default]
    All,
    /// Those of the newest settled block and of as many blocks below it, [`Keep::LEAST`] or more.
    Blocks(u64),
}

impl Keep {
    /// The fewest blocks that may be kept: rewards are computed from the state of the checkpoint before the last one.
    pub const LEAST: u64 = 200;
}

/// The height of the oldest kept state. Below it a store has none, but for the genesis's where a snapshot brought it.
pub(crate) fn oldest(store: &dyn Store) -> Result<u64, StateError> {
    let bytes = store.get(Table::Meta, OLDEST)?;
    Ok(bytes.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes))
}

pub(crate) fn put_oldest(batch: &mut Batch, height: u64) {
    batch.put(Table::Meta, OLDEST, height.to_be_bytes());
}

/// Calls `visit` for every place of a state, storage tries included, at which the state `base` has not the same node.
/// A storage trie that is not whole, as imports leave in states below the newest, is left out if `lenient`.
fn lacking(
    source: &Arc<dyn NodeSource>,
    of: Hash,
    base: Hash,
    lenient: bool,
    visit: &mut dyn FnMut(Hash) -> Result<(), StateError>,
) -> Result<(), StateError> {
    let (of, base) = (Trie::open(of, source.clone())?, Trie::open(base, source.clone())?);
    let mut contracts = BTreeSet::new();
    let mut failed = Ok(());
    of.nodes(Some(&base), &mut |hash, node| {
        // What is no account and looks like one names an account to look at, no more.
        let account = node.leaf().and_then(|value| Account::from_rlp(value, value.len()).ok());
        contracts.extend(account.filter(|account| !account.root.is_zero()).map(|account| account.address));
        failed = visit(hash);
        failed.is_ok()
    })?;
    failed?;
    for address in contracts {
        let (root, below) = (storage_root(&of, address)?, storage_root(&base, address)?);
        if root == below {
            continue;
        }
        let mut found = Vec::new();
        let storage = Trie::open(below, source.clone()).and_then(|below| {
            Trie::open(root, source.clone())?.nodes(Some(&below), &mut |hash, _| {
                found.push(hash);
                true
            })
        });
        match storage {
            Err(TrieError::Missing(_)) if lenient => {}
            done => {
                done?;
                found.into_iter().try_for_each(&mut *visit)?;
            }
        }
    }
    Ok(())
}

fn storage_root(state: &Trie, address: Address) -> Result<Hash, StateError> {
    let Some(value) = state.get(&keys::account(address))? else { return Ok(EMPTY_ROOT) };
    let account = Account::from_rlp(&value, value.len());
    let account = account.map_err(|source| StateError::Damaged { key: address.to_string(), source })?;
    Ok(if account.root.is_zero() { EMPTY_ROOT } else { account.root })
}

fn row_of(hashes: &[Hash]) -> Vec<u8> {
    hashes.iter().flat_map(|hash| hash.0).collect()
}

/// What settling blocks changes of the counts, until it is written.
pub(crate) struct Pruning<'a> {
    store: &'a dyn Store,
    source: Arc<dyn NodeSource>,
    counts: BTreeMap<Hash, u64>,
    /// Nodes whose places the blocks took away, by height.
    gone: BTreeMap<u64, Vec<Hash>>,
}

impl<'a> Pruning<'a> {
    pub(crate) const fn new(store: &'a dyn Store, source: Arc<dyn NodeSource>) -> Self {
        Self { store, source, counts: BTreeMap::new(), gone: BTreeMap::new() }
    }

    fn count(&mut self, hash: Hash) -> Result<&mut u64, StateError> {
        if !self.counts.contains_key(&hash) {
            let stored = self.store.get(Table::Nodes, hash.as_slice())?.is_some();
            let count = if stored { read_count(self.store, &hash)?.unwrap_or(1) } else { 0 };
            self.counts.insert(hash, count);
        }
        Ok(self.counts.get_mut(&hash).expect("inserted above"))
    }

    /// Notes a block that settles; all its nodes are readable, and so are those of the state below.
    pub(crate) fn settle(&mut self, height: u64, below: Hash, root: Hash) -> Result<(), StateError> {
        let source = self.source.clone();
        lacking(&source, root, below, false, &mut |hash| {
            *self.count(hash)? += 1;
            Ok(())
        })?;
        let mut gone = Vec::new();
        lacking(&source, below, root, false, &mut |hash| {
            gone.push(hash);
            Ok(())
        })?;
        if !gone.is_empty() {
            self.gone.insert(height, gone);
        }
        Ok(())
    }

    /// Adds all changes to the batch of the blocks, behind their nodes. States below `oldest` were gone before, those below
    /// `keep_from` go now; gives the nodes that go with them.
    pub(crate) fn finish(
        mut self,
        batch: &mut Batch,
        oldest: u64,
        keep_from: u64,
    ) -> Result<Vec<Hash>, StateError> {
        for height in oldest + 1..=keep_from {
            let gone = match self.gone.remove(&height) {
                Some(gone) => gone,
                None => {
                    let Some(row) = self.store.get(Table::Gone, &height.to_be_bytes())? else { continue };
                    batch.delete(Table::Gone, height.to_be_bytes());
                    row.chunks_exact(32).map(Hash::from_slice).collect()
                }
            };
            for hash in gone {
                let count = self.count(hash)?;
                *count = count.saturating_sub(1);
            }
        }
        for (height, hashes) in &self.gone {
            batch.put(Table::Gone, height.to_be_bytes(), row_of(hashes));
        }
        let mut dead = Vec::new();
        for (hash, count) in self.counts {
            if count > 1 {
                batch.put(Table::Counts, hash.as_slice(), count.to_be_bytes());
                continue;
            }
            batch.delete(Table::Counts, hash.as_slice());
            if count == 0 {
                batch.delete(Table::Nodes, hash.as_slice());
                dead.push(hash);
            }
        }
        put_oldest(batch, oldest.max(keep_from));
        Ok(dead)
    }
}

fn read_count(store: &dyn Store, hash: &Hash) -> Result<Option<u64>, StateError> {
    let row = store.get(Table::Counts, hash.as_slice())?;
    Ok(row.and_then(|row| row.try_into().ok()).map(u64::from_be_bytes))
}

/// Makes a store ready for pruning: counts its nodes, unless that was done before, and deletes those that no kept state
/// has. Gives the height of the oldest kept state. What is cut off half way begins anew.
pub(crate) fn begin(
    store: &dyn Store,
    source: &Arc<dyn NodeSource>,
    settled: (u64, Hash),
    keep: u64,
) -> Result<u64, StateError> {
    if store.get(Table::Meta, COUNTED)?.is_some() {
        return oldest(store);
    }
    for table in [Table::Counts, Table::Gone] {
        sweep(store, table, &mut |_| Ok(true))?;
    }
    let mut counts = Counting { store, counts: BTreeMap::new() };
    let (newest, root) = settled;
    lacking(source, root, EMPTY_ROOT, false, &mut |hash| counts.add(hash))?;
    let (mut above, mut base) = (newest, root);
    let (mut batch, mut waiting) = (Batch::default(), 0);
    for height in (newest.saturating_sub(keep)..newest).rev() {
        let Some(hash) = chain::hash_of_height(store, height)? else { continue };
        let Some(stored) = chain::block(store, &hash)? else { continue };
        let root = stored.block.header.state_root;
        let mut gone = Vec::new();
        let whole = lacking(source, root, base, true, &mut |hash| {
            gone.push(hash);
            Ok(())
        });
        match whole {
            // An import brings few states besides the newest.
            Err(StateError::Trie(TrieError::Missing(_))) => continue,
            whole => whole?,
        }
        batch.put(Table::Gone, above.to_be_bytes(), row_of(&gone));
        waiting += gone.len();
        if waiting > CHUNK {
            store.commit(std::mem::take(&mut batch))?;
            waiting = 0;
        }
        gone.into_iter().try_for_each(|hash| counts.add(hash))?;
        (above, base) = (height, root);
    }
    counts.flush()?;
    put_oldest(&mut batch, above);
    store.commit(batch)?;
    sweep(store, Table::Nodes, &mut |key| Ok(store.get(Table::Counts, key)?.is_none()))?;
    let one = 1_u64.to_be_bytes();
    sweep(store, Table::Counts, &mut |key| Ok(store.get(Table::Counts, key)?.as_deref() == Some(&one)))?;
    let mut batch = Batch::default();
    batch.put(Table::Meta, COUNTED, []);
    store.commit(batch)?;
    Ok(above)
}

/// Ends counting: whoever prunes this store next counts anew.
pub(crate) fn end(store: &dyn Store) -> Result<(), StateError> {
    if store.get(Table::Meta, COUNTED)?.is_some() {
        let mut batch = Batch::default();
        batch.delete(Table::Meta, COUNTED);
        store.commit(batch)?;
    }
    Ok(())
}

/// Deletes the rows of a table that `dead` names.
fn sweep(
    store: &dyn Store,
    table: Table,
    dead: &mut dyn FnMut(&[u8]) -> Result<bool, StateError>,
) -> Result<(), StateError> {
    let mut after: Option<Vec<u8>> = None;
    loop {
        let rows = store.scan(table, &[], after.as_deref(), CHUNK)?;
        let Some((last, _)) = rows.last() else { return Ok(()) };
        after = Some(last.clone());
        let mut batch = Batch::default();
        for (key, _) in rows {
            if dead(&key)? {
                batch.delete(table, key);
            }
        }
        store.commit(batch)?;
    }
}

/// Counts of a whole state: here every node has a row.
struct Counting<'a> {
    store: &'a dyn Store,
    counts: BTreeMap<Hash, u64>,
}

impl Counting<'_> {
    fn add(&mut self, hash: Hash) -> Result<(), StateError> {
        *self.counts.entry(hash).or_default() += 1;
        if self.counts.len() == CHUNK { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), StateError> {
        let mut batch = Batch::default();
        for (hash, count) in std::mem::take(&mut self.counts) {
            let count = read_count(self.store, &hash)?.unwrap_or_default() + count;
            batch.put(Table::Counts, hash.as_slice(), count.to_be_bytes());
        }
        Ok(self.store.commit(batch)?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use theta_core::{
        block::{Block, Header},
        hash::U256,
        store::MemStore,
    };

    use super::*;
    use crate::{
        chain::StoredBlock,
        state::{
            StateView,
            nodes::{NewNodes, Nodes},
        },
    };

    /// What a state holds, read without the ledger's own cache: records, and slots by contract.
    type Contents = BTreeMap<(Vec<u8>, Vec<u8>), Vec<u8>>;

    #[derive(Clone, Debug)]
    enum Change {
        /// A record, of few keys with equal ends and few values, so that subtrees are equal and come back.
        Record(u8, u8),
        /// A slot of a contract; contracts have the same slots.
        Slot(u8, u8, u8),
        /// A contract is made anew, without its storage.
        Reset(u8),
    }

    fn change() -> impl Strategy<Value = Change> {
        prop_oneof![
            4 => (0_u8..12, 0_u8..3).prop_map(|(key, value)| Change::Record(key, value)),
            6 => (0_u8..3, 0_u8..6, 0_u8..3).prop_map(|(who, slot, value)| Change::Slot(who, slot, value)),
            1 => (0_u8..3).prop_map(Change::Reset),
        ]
    }

    /// One batch of blocks that settle together.
    #[derive(Clone, Debug)]
    enum Step {
        Settle(Vec<Vec<Change>>),
        /// The store is opened anew, to keep all for these blocks and then as few as before.
        Archive(Vec<Vec<Change>>),
    }

    fn step() -> impl Strategy<Value = Step> {
        let block = || vec(change(), 0..6);
        prop_oneof![
            8 => vec(block(), 1..3).prop_map(Step::Settle),
            1 => vec(block(), 0..4).prop_map(Step::Archive),
        ]
    }

    struct Chain {
        store: Arc<MemStore>,
        nodes: Arc<Nodes>,
        keep: u64,
        oldest: u64,
        /// Roots by height, with what the states held when they were made.
        states: Vec<(Hash, Contents)>,
    }

    fn contract(index: u8) -> Account {
        Account { code_hash: Hash::repeat_byte(1), ..Account::new(Address::repeat_byte(index), 0) }
    }

    impl Chain {
        fn new(keep: u64) -> Self {
            let store = Arc::new(MemStore::default());
            let nodes = Arc::new(Nodes::new(store.clone()));
            let mut chain = Self { store, nodes, keep, oldest: 0, states: Vec::new() };
            let mut view = StateView::open(EMPTY_ROOT, 0, chain.nodes.clone()).expect("empty");
            (0..3).for_each(|index| view.store(contract(index)));
            chain.write(view, false);
            chain.reopen();
            chain
        }

        fn newest(&self) -> u64 {
            self.states.len() as u64 - 1
        }

        /// Opens the store as a ledger that prunes does.
        fn reopen(&mut self) {
            self.nodes = Arc::new(Nodes::new(self.store.clone()));
            let source: Arc<dyn NodeSource> = self.nodes.clone();
            let (newest, root) = (self.newest(), self.states.last().expect("one").0);
            self.oldest = begin(self.store.as_ref(), &source, (newest, root), self.keep)
                .expect("the newest state is whole");
        }

        fn change(&self, block: Vec<Change>) -> StateView {
            let root = self.states.last().expect("one").0;
            let mut view = StateView::open(root, self.newest(), self.nodes.clone()).expect("kept");
            for change in block {
                match change {
                    Change::Record(key, value) => {
                        let key = [keys::SPLIT, &[key / 4, 0x77, key % 4, key % 4]].concat();
                        view.set_record(key, (value > 0).then(|| vec![value; 40]));
                    }
                    Change::Slot(who, slot, value) => {
                        let value = U256::from(value) * U256::from(u128::MAX);
                        let slot = Hash::with_last_byte(slot * 9);
                        view.set_slot(Address::repeat_byte(who), slot, value).expect("kept");
                    }
                    Change::Reset(who) => view.reset(contract(who)),
                }
            }
            view
        }

        /// Makes a block of the changes; gives its batch of rows, and its root.
        fn write(&mut self, mut view: StateView, readable: bool) -> (Batch, NewNodes) {
            let root = view.root().expect("kept");
            let new = view.into_new_nodes();
            let height = self.states.len() as u64;
            let header = Header { height, state_root: root, ..Header::zero() };
            let stored = StoredBlock {
                block: Block { header: header.clone(), transactions: Vec::new() },
                status: 4,
                changes_validators: false,
            };
            let mut batch = Batch::default();
            chain::put_block(&mut batch, &header.hash(), &stored, &[], &BTreeMap::new());
            if readable {
                self.nodes.add(&new);
            } else {
                self.nodes.store(&new, &mut batch);
                self.store.commit(std::mem::take(&mut batch)).expect("in memory");
            }
            let contents = contents(root, &self.nodes);
            self.states.push((root, contents));
            (batch, new)
        }

        fn settle(&mut self, blocks: Vec<Vec<Change>>) {
            let source: Arc<dyn NodeSource> = self.nodes.clone();
            let mut all = Batch::default();
            let made: Vec<NewNodes> = blocks
                .into_iter()
                .map(|block| {
                    let view = self.change(block);
                    let (batch, new) = self.write(view, true);
                    // Rows of blocks alone: the nodes come below, as in the ledger.
                    self.store.commit(batch).expect("in memory");
                    new
                })
                .collect();
            let first = self.states.len() - made.len();
            let store = self.store.clone();
            let mut pruning = Pruning::new(store.as_ref(), source);
            for (height, new) in (first..).zip(&made) {
                pruning
                    .settle(height as u64, self.states[height - 1].0, self.states[height].0)
                    .expect("readable");
                self.nodes.store(new, &mut all);
            }
            let keep_from = self.newest().saturating_sub(self.keep).max(self.oldest);
            let dead = pruning.finish(&mut all, self.oldest, keep_from).expect("in memory");
            self.oldest = keep_from;
            self.store.commit(all).expect("in memory");
            self.nodes.forget(&dead);
            made.iter().for_each(|new| self.nodes.remove(new));
        }

        fn archive(&mut self, blocks: Vec<Vec<Change>>) {
            end(self.store.as_ref()).expect("in memory");
            for block in blocks {
                let view = self.change(block);
                self.write(view, false);
            }
            self.reopen();
        }

        /// Kept states are whole, and nothing but their nodes is stored.
        fn check(&self) {
            let fresh = Arc::new(Nodes::new(self.store.clone()));
            assert_eq!(oldest(self.store.as_ref()).expect("in memory"), self.oldest);
            let mut needed = BTreeSet::new();
            for (root, held) in &self.states[self.oldest as usize..] {
                assert_eq!(contents(*root, &fresh), *held);
                each_trie(*root, &fresh, &mut |_, trie| {
                    let whole = trie.nodes(None, &mut |hash, _| {
                        needed.insert(hash);
                        true
                    });
                    whole.expect("whole");
                });
            }
            let rows = |table| self.store.scan(table, &[], None, usize::MAX).expect("in memory");
            let stored: BTreeSet<Hash> =
                rows(Table::Nodes).iter().map(|(key, _)| Hash::from_slice(key)).collect();
            assert_eq!(stored, needed, "no node too few, none too many");
            assert!(rows(Table::Gone).len() as u64 <= self.newest() - self.oldest);
            let cached = |root: &Hash| self.nodes.node(root).expect("in memory").is_some();
            for (root, _) in &self.states[..self.oldest as usize] {
                assert_eq!(cached(root), needed.contains(root), "the cache knows no more than the store");
            }
        }
    }

    fn each_trie(root: Hash, nodes: &Arc<Nodes>, act: &mut dyn FnMut(Vec<u8>, &Trie)) {
        let state = Trie::open(root, nodes.clone()).expect("kept");
        act(Vec::new(), &state);
        state
            .visit(keys::ACCOUNT, &mut |key, value| {
                let account = Account::from_rlp(value, value.len()).expect("an account");
                act(key.to_vec(), &Trie::open(account.root, nodes.clone()).expect("kept"));
                true
            })
            .expect("whole");
    }

    fn contents(root: Hash, nodes: &Arc<Nodes>) -> Contents {
        let mut contents = Contents::new();
        each_trie(root, nodes, &mut |of, trie| {
            let visited = trie.visit(&[], &mut |key, value| {
                contents.insert((of.clone(), key.to_vec()), value.to_vec());
                true
            });
            visited.expect("whole");
        });
        contents
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn kept_states_are_whole_and_nothing_else_is_stored(keep in 0_u64..5, steps in vec(step(), 1..25)) {
            let mut chain = Chain::new(keep);
            for step in steps {
                match step {
                    Step::Settle(blocks) => chain.settle(blocks),
                    Step::Archive(blocks) => chain.archive(blocks),
                }
                chain.check();
            }
        }
    }

    #[test]
    fn a_count_that_was_cut_off_begins_anew() {
        let mut chain = Chain::new(2);
        for value in [1, 2, 1, 0, 2] {
            chain.settle(vec![vec![
                Change::Record(0, value),
                Change::Slot(0, 1, value),
                Change::Slot(1, 1, 1),
            ]]);
        }
        // As it is when the power fails just before the mark: some rows counted, some nodes gone.
        end(chain.store.as_ref()).expect("in memory");
        let mut batch = Batch::default();
        batch.put(Table::Counts, [7; 32], 9_u64.to_be_bytes());
        batch.put(Table::Gone, 99_u64.to_be_bytes(), [7; 32]);
        chain.store.commit(batch).expect("in memory");
        chain.reopen();
        chain.check();
        chain.settle(vec![vec![Change::Record(0, 1)]]);
        chain.check();
    }
}
