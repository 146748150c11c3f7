//! Trie nodes of all kept states: those of unsettled blocks in memory, the rest in the store behind a cache.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::RwLock;
use theta_core::{
    hash::Hash,
    store::{Batch, Store, Table},
    trie::{Node, NodeSource, Trie, TrieError},
};

/// Decoded nodes that are kept at hand; some 200 bytes to 700 bytes each.
const CACHED_NODES: usize = 200_000;

/// New nodes of one block, by hash.
pub(crate) type NewNodes = BTreeMap<Hash, Arc<Node>>;

/// Where all tries of a ledger read their nodes.
pub(crate) struct Nodes {
    store: Arc<dyn Store>,
    cache: quick_cache::sync::Cache<Hash, Arc<Node>>,
    /// Nodes of unsettled blocks, with the number of blocks that made them.
    unsettled: RwLock<BTreeMap<Hash, (Arc<Node>, usize)>>,
}

impl Nodes {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            cache: quick_cache::sync::Cache::new(CACHED_NODES),
            unsettled: RwLock::new(BTreeMap::new()),
        }
    }

    /// Makes a block's new nodes readable before they are stored.
    pub(crate) fn add(&self, new: &NewNodes) {
        let mut unsettled = self.unsettled.write();
        for (hash, node) in new {
            unsettled.entry(*hash).or_insert_with(|| (node.clone(), 0)).1 += 1;
        }
    }

    /// Forgets a block's new nodes; those that another block made too stay.
    pub(crate) fn remove(&self, new: &NewNodes) {
        let mut unsettled = self.unsettled.write();
        for hash in new.keys() {
            if let Some((_, users)) = unsettled.get_mut(hash) {
                *users -= 1;
                if *users == 0 {
                    unsettled.remove(hash);
                }
            }
        }
    }

    /// Adds a block's new nodes to a batch, and to the cache since the next blocks will read them.
    pub(crate) fn store(&self, new: &NewNodes, batch: &mut Batch) {
        for (hash, node) in new {
            batch.put(Table::Nodes, hash.as_slice(), node.encoded());
            self.cache.insert(*hash, node.clone());
        }
    }
}

/// Takes the new nodes out of a trie.
pub(crate) fn collect(trie: &Trie, new: &mut NewNodes) {
    trie.drain_new(&mut |hash, node| {
        new.insert(hash, node.clone());
    });
}

impl NodeSource for Nodes {
    fn node(&self, hash: &Hash) -> Result<Option<Arc<Node>>, TrieError> {
        if let Some((node, _)) = self.unsettled.read().get(hash) {
            return Ok(Some(node.clone()));
        }
        if let Some(node) = self.cache.get(hash) {
            return Ok(Some(node));
        }
        let Some(bytes) = self.store.get(Table::Nodes, hash.as_slice())? else { return Ok(None) };
        let node = Node::decode(hash, &bytes).map_err(|error| TrieError::Damaged(*hash, error))?;
        let node = Arc::new(node);
        self.cache.insert(*hash, node.clone());
        Ok(Some(node))
    }
}
