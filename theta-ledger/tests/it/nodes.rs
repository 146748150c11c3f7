//! A recorded state's trie nodes. Also used by theta-evm.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use serde_json::Value;
use theta_core::{
    hash::Hash,
    trie::{Node, NodeSource, Trie, TrieError},
};

use super::bytes;

/// Trie nodes of a recorded state.
#[derive(Default)]
pub struct Nodes(Mutex<BTreeMap<Hash, Node>>);

impl NodeSource for Nodes {
    fn node(&self, hash: &Hash) -> Result<Option<Node>, TrieError> {
        Ok(self.0.lock().unwrap().get(hash).cloned())
    }
}

impl Nodes {
    pub fn add<'a>(self: &Arc<Self>, entries: impl Iterator<Item = (&'a String, &'a Value)>) -> Hash {
        let mut trie = Trie::empty(self.clone());
        for (key, value) in entries {
            trie.set(&hex::decode(key).unwrap(), bytes(value)).unwrap();
        }
        self.0.lock().unwrap().extend(trie.take_new());
        trie.root()
    }
}
