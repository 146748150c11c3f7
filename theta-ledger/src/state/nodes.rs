//! Trie nodes of all kept states: those of unsettled blocks in memory, the rest in the store behind a cache.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::RwLock;
use quick_cache::sync::Cache;
use theta_core::{
    hash::Hash,
    store::{Batch, Store, Table},
    trie::{Node, NodeSource, Trie, TrieError},
};

/// Branches that are kept at hand, up to 800 bytes each: every read passes several of them.
const CACHED_BRANCHES: usize = 150_000;
/// Leaves that are kept at hand, some 300 bytes each: each is read for one account or slot alone.
const CACHED_LEAVES: usize = 200_000;

/// What a block made of a state's nodes.
#[derive(Clone, Default)]
pub struct NewNodes {
    /// New nodes. They hold no others, so that keeping one keeps one.
    pub(crate) new: Vec<NewNode>,
    /// Stored nodes that these stand in the place of.
    replaced: Vec<Hash>,
}

/// A node as it will be stored.
#[derive(Clone)]
pub(crate) struct NewNode {
    pub(crate) hash: Hash,
    node: Arc<Node>,
    pub(crate) encoding: Arc<[u8]>,
}

impl NewNodes {
    /// Takes the new nodes out of a trie, which can be read again once they are stored.
    pub fn collect(&mut self, trie: &mut Trie) {
        trie.take_new(&mut |hash, node, encoding| {
            self.new.push(NewNode { hash, node, encoding: encoding.into() });
        });
        self.replaced.extend(trie.take_replaced());
    }
}

/// Where all tries of a ledger read their nodes.
pub struct Nodes {
    store: Arc<dyn Store>,
    branches: Cache<Hash, Arc<Node>>,
    leaves: Cache<Hash, Arc<Node>>,
    /// Nodes of unsettled blocks, with the number of blocks that made them.
    unsettled: RwLock<BTreeMap<Hash, (Arc<Node>, usize)>>,
}

impl Nodes {
    /// Nodes of this store, none of them at hand yet.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            branches: Cache::new(CACHED_BRANCHES),
            leaves: Cache::new(CACHED_LEAVES),
            unsettled: RwLock::new(BTreeMap::new()),
        }
    }

    fn keep(&self, hash: Hash, node: Arc<Node>) {
        if node.is_leaf() {
            self.leaves.insert(hash, node);
        } else {
            self.branches.insert(hash, node);
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
            self.branches.remove(hash);
            self.leaves.remove(hash);
        }
    }

    /// Adds a block's new nodes to a batch, and to the cache since the next blocks will read them; what they stand in the
    /// place of leaves the cache.
    pub fn store(&self, new: &NewNodes, batch: &mut Batch) {
        for hash in &new.replaced {
            self.branches.remove(hash);
            self.leaves.remove(hash);
        }
        for NewNode { hash, node, encoding } in &new.new {
            batch.put(Table::Nodes, hash.as_slice(), encoding.as_ref());
            self.keep(*hash, node.clone());
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
        let cached = self.branches.len() + self.leaves.len();
        f.debug_struct("Nodes").field("cached", &cached).finish_non_exhaustive()
    }
}

impl NodeSource for Nodes {
    fn node(&self, hash: &Hash) -> Result<Option<Arc<Node>>, TrieError> {
        if let Some((node, _)) = self.unsettled.read().get(hash) {
            return Ok(Some(node.clone()));
        }
        if let Some(node) = self.branches.get(hash).or_else(|| self.leaves.get(hash)) {
            return Ok(Some(node));
        }
        let Some(bytes) = self.store.get(Table::Nodes, hash.as_slice())? else { return Ok(None) };
        let node = Node::decode(hash, &bytes).map_err(|error| TrieError::Damaged(*hash, error))?;
        let node = Arc::new(node);
        self.keep(*hash, node.clone());
        Ok(Some(node))
    }
}

#[cfg(test)]
mod tests {
    use theta_core::store::MemStore;

    use super::*;

    #[test]
    fn the_cache_follows_the_newest_state_and_holds_each_node_alone() {
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
            assert!(new.new.iter().all(|new| Arc::strong_count(&new.node) == 2), "the list and the cache");
        };
        settle(&mut trie);
        drop(trie);
        let kept = |nodes: &Nodes| nodes.branches.len() + nodes.leaves.len();
        let first = kept(&nodes);
        for round in 0_u8..20 {
            let mut trie = Trie::open(root, nodes.clone()).expect("stored");
            for index in 0_u32..100 {
                let mut value = index.to_be_bytes().repeat(10);
                value.push(round);
                trie.set(&(index * 7).to_be_bytes(), value).expect("stored");
            }
            root = trie.root();
            settle(&mut trie);
            assert_eq!(kept(&nodes), first, "what was replaced has left");
        }
        // An older node is still read from the store.
        assert!(store.scan(Table::Nodes, &[], None, usize::MAX).expect("in memory").len() > first);
    }
}
