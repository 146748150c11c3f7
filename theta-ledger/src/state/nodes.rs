//! Trie nodes of all kept states: those of unsettled blocks in memory, the rest in the store behind a cache.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use parking_lot::{Mutex, RwLock};
use quick_cache::{Weighter, sync::Cache};
use theta_core::{
    hash::Hash,
    store::{Batch, Store, Table},
    trie::{Node, NodeSource, Trie, TrieError},
};

/// Bytes of nodes that are kept at hand, and what each costs beside its encoding.
const CACHED_BYTES: u64 = 384 * 1024 * 1024;
const CACHED_COST: usize = 96;
/// About so many nodes fill them.
const CACHED_NODES: usize = 1_000_000;

/// What so many of the newest blocks replaced stays at hand: whoever began to read a state before the next one settled
/// goes on with it, and would bring back from the store, for good, what was thrown out under it.
const STILL_READ: usize = 4;

/// What a block made of a state's nodes.
#[derive(Clone, Default)]
pub struct NewNodes {
    /// New nodes.
    pub(crate) new: Vec<NewNode>,
    /// Stored nodes that these stand in the place of.
    replaced: Vec<Hash>,
}

/// A node as it will be stored.
#[derive(Clone)]
pub(crate) struct NewNode {
    pub(crate) hash: Hash,
    pub(crate) node: Node,
}

impl NewNodes {
    /// Takes the new nodes out of a trie, which can be read again once they are stored.
    pub fn collect(&mut self, trie: &mut Trie) {
        self.new.extend(trie.take_new().into_iter().map(|(hash, node)| NewNode { hash, node }));
        self.replaced.extend(trie.take_replaced());
    }
}

/// What a node at hand costs.
#[derive(Clone)]
struct Cost;

impl Weighter<Hash, Node> for Cost {
    fn weight(&self, _: &Hash, node: &Node) -> u64 {
        (node.encoding().len() + CACHED_COST) as u64
    }
}

/// Where all tries of a ledger read their nodes.
pub struct Nodes {
    store: Arc<dyn Store>,
    cache: Cache<Hash, Node, Cost>,
    /// What the newest blocks replaced, a list for each.
    replaced: Mutex<VecDeque<Vec<Hash>>>,
    /// Nodes of unsettled blocks, with the number of blocks that made them.
    unsettled: RwLock<BTreeMap<Hash, (Node, usize)>>,
}

impl Nodes {
    /// Nodes of this store, none of them at hand yet.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            cache: Cache::with_weighter(CACHED_NODES, CACHED_BYTES, Cost),
            replaced: Mutex::default(),
            unsettled: RwLock::new(BTreeMap::new()),
        }
    }

    /// Makes a block's new nodes readable before they are stored.
    pub(crate) fn add(&self, new: &NewNodes) {
        let mut unsettled = self.unsettled.write();
        for NewNode { hash, node, .. } in &new.new {
            unsettled.entry(*hash).or_insert_with(|| (node.clone(), 0)).1 += 1;
        }
    }

    /// Forgets a block's new nodes; those that another block made too stay.
    pub(crate) fn remove(&self, new: &NewNodes) {
        let mut unsettled = self.unsettled.write();
        for NewNode { hash, .. } in &new.new {
            if let Some((_, users)) = unsettled.get_mut(hash) {
                *users -= 1;
                if *users == 0 {
                    unsettled.remove(hash);
                }
            }
        }
    }

    /// Takes nodes that were deleted from the store out of the cache.
    pub(crate) fn forget(&self, dead: &[Hash]) {
        for hash in dead {
            self.cache.remove(hash);
        }
    }

    /// Adds a block's new nodes to a batch, and to the cache since the next blocks will read them; what they stand in the
    /// place of leaves the cache a few blocks later.
    pub fn store(&self, new: &NewNodes, batch: &mut Batch) {
        let mut replaced = self.replaced.lock();
        replaced.push_back(new.replaced.clone());
        if replaced.len() > STILL_READ
            && let Some(old) = replaced.pop_front()
        {
            self.forget(&old);
        }
        drop(replaced);
        for NewNode { hash, node } in &new.new {
            batch.put(Table::Nodes, hash.as_slice(), node.encoding());
            self.cache.insert(*hash, node.clone());
        }
    }
}

impl std::fmt::Debug for NewNodes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (new, replaced) = (self.new.len(), self.replaced.len());
        f.debug_struct("NewNodes").field("new", &new).field("replaced", &replaced).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Nodes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nodes").field("cached", &self.cache.len()).finish_non_exhaustive()
    }
}

impl NodeSource for Nodes {
    fn node(&self, hash: &Hash) -> Result<Option<Node>, TrieError> {
        if let Some((node, _)) = self.unsettled.read().get(hash) {
            return Ok(Some(node.clone()));
        }
        if let Some(node) = self.cache.get(hash) {
            return Ok(Some(node));
        }
        let Some(bytes) = self.store.get(Table::Nodes, hash.as_slice())? else { return Ok(None) };
        let node = Node::decode(&bytes).map_err(|error| TrieError::Damaged(*hash, error))?;
        self.cache.insert(*hash, node.clone());
        Ok(Some(node))
    }
}

#[cfg(test)]
mod tests {
    use theta_core::store::MemStore;

    use super::*;

    #[test]
    fn the_cache_follows_the_newest_state() {
        let store = Arc::new(MemStore::default());
        let nodes = Arc::new(Nodes::new(store.clone()));
        let mut trie = Trie::empty(nodes.clone());
        for index in 0_u32..1000 {
            trie.set(&index.to_be_bytes(), index.to_be_bytes().repeat(10)).expect("in memory");
        }
        let mut root = trie.root();
        let settle = |trie: &mut Trie| {
            let (mut new, mut batch) = (NewNodes::default(), Batch::default());
            new.collect(trie);
            nodes.store(&new, &mut batch);
            store.commit(batch).expect("in memory");
        };
        settle(&mut trie);
        drop(trie);
        let first = nodes.cache.len();
        let mut most = 0;
        for round in 0_u8..20 {
            let older = Trie::open(root, nodes.clone()).expect("stored");
            let mut trie = Trie::open(root, nodes.clone()).expect("stored");
            for index in 0_u32..100 {
                let mut value = index.to_be_bytes().repeat(10);
                value.push(round);
                trie.set(&(index * 7).to_be_bytes(), value).expect("stored");
            }
            root = trie.root();
            settle(&mut trie);
            // Somebody is still at the state before.
            for index in 0_u32..1000 {
                older.get(&index.to_be_bytes()).expect("stored");
            }
            match usize::from(round) {
                ..STILL_READ => most = nodes.cache.len(),
                _ => assert_eq!(nodes.cache.len(), most, "what was replaced has left"),
            }
        }
        assert!(most > first, "and not at once");
        // An older node is still read from the store.
        assert!(store.scan(Table::Nodes, &[], None, usize::MAX).expect("in memory").len() > first);
    }
}
