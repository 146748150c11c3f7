//! The Merkle-Patricia trie of a state, of contract storage, and of lists.
//!
//! It is geth's plain trie with raw keys of any length, one of which may be a prefix of another, so a branch really
//! carries a value (`store/trie` of the reference; `ledger.md` 4.5). A [`Trie`] is a value: a clone costs one reference
//! count and shares all nodes, a change copies the path it touches. Nodes are read from a [`NodeSource`] when they are
//! needed and hashed once, when the root is asked for; only what changed since is hashed again.

mod edit;
mod node;
mod proof;
#[cfg(test)]
mod tests;
mod walk;

use std::sync::Arc;

use self::node::{Kind, Link, Step, nibbles, step};
pub use self::{
    node::{Node, compact},
    proof::{ProofError, verify},
};
use crate::{
    codec::rlp::{DecodeError, Encode},
    hash::{EMPTY_ROOT, Hash, keccak},
    store::StoreError,
};

/// Why a trie could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrieError {
    /// A node is not there: the state is pruned or was never whole.
    #[error("trie node {0} is missing")]
    Missing(Hash),
    /// A stored node is not the RLP of one.
    #[error("trie node {0} is damaged: {1}")]
    Damaged(Hash, DecodeError),
    /// The store failed.
    #[error("store failed while a trie node was read")]
    Store(#[from] StoreError),
}

/// Where nodes are read from, by hash.
pub trait NodeSource: Send + Sync {
    /// The node, or `None` if there is no such node.
    fn node(&self, hash: &Hash) -> Result<Option<Arc<Node>>, TrieError>;
}

/// A source without nodes, for tries that are built from nothing.
#[derive(Debug, Clone, Copy)]
pub struct NoNodes;

impl NodeSource for NoNodes {
    fn node(&self, _: &Hash) -> Result<Option<Arc<Node>>, TrieError> {
        Ok(None)
    }
}

fn load(source: &dyn NodeSource, hash: &Hash) -> Result<Arc<Node>, TrieError> {
    source.node(hash)?.ok_or(TrieError::Missing(*hash))
}

/// A trie at one root.
#[derive(Clone)]
pub struct Trie {
    root: Link,
    source: Arc<dyn NodeSource>,
    replaced: Vec<Hash>,
}

impl std::fmt::Debug for Trie {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trie").field("root", &self.root()).finish_non_exhaustive()
    }
}

impl Trie {
    /// A trie without entries.
    pub fn empty(source: Arc<dyn NodeSource>) -> Self {
        Self { root: Link::Empty, source, replaced: Vec::new() }
    }

    /// The trie at a root; the zero hash and [`EMPTY_ROOT`] both mean no entries. Fails if the root is not there.
    pub fn open(root: Hash, source: Arc<dyn NodeSource>) -> Result<Self, TrieError> {
        if root == Hash::ZERO || root == EMPTY_ROOT {
            return Ok(Self::empty(source));
        }
        if source.node(&root)?.is_none() {
            return Err(TrieError::Missing(root));
        }
        Ok(Self { root: Link::Hash(root), source, replaced: Vec::new() })
    }

    fn load(&self, hash: &Hash) -> Result<Arc<Node>, TrieError> {
        load(self.source.as_ref(), hash)
    }

    /// Where nodes are read from.
    pub fn source(&self) -> &Arc<dyn NodeSource> {
        &self.source
    }

    /// The root hash; hashes what changed since it was last asked for.
    pub fn root(&self) -> Hash {
        match &self.root {
            Link::Empty => EMPTY_ROOT,
            Link::Hash(hash) => *hash,
            Link::Node(node) => node.name().hash.unwrap_or_else(|| keccak(&node.name().encoding)),
        }
    }

    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TrieError> {
        let path = nibbles(key);
        let mut rest = path.as_slice();
        let mut link = self.root.clone();
        loop {
            let node = match link {
                Link::Empty => return Ok(None),
                Link::Hash(hash) => self.load(&hash)?,
                Link::Node(node) => node,
            };
            link = match step(&node.kind, &mut rest) {
                Step::Down(link) => link,
                Step::End(value) => return Ok(value),
            };
        }
    }

    /// Hashes of stored nodes that changes since the trie was opened, or since the last call, put others in the place of.
    /// They still belong to the older root, and may stand elsewhere in this one.
    pub fn take_replaced(&mut self) -> Vec<Hash> {
        std::mem::take(&mut self.replaced)
    }

    /// Gives every node made since the trie was opened or since the last call out, by hash, with its encoding. The trie then
    /// knows its root by hash alone: it reads on once its source has the nodes.
    pub fn take_new(&mut self, give: &mut dyn FnMut(Hash, Arc<Node>, Vec<u8>)) {
        self.root.take_new(give);
        // The root is always stored by hash, even where it is short enough to stand inside a parent.
        if let Link::Node(_) = self.root {
            let hash = self.root();
            if let Link::Node(node) = std::mem::replace(&mut self.root, Link::Hash(hash)) {
                node.give(hash, give);
            }
        }
    }
}

/// Root of a list: keys are `rlp(index)`.
pub fn list_root(items: &[Vec<u8>]) -> Hash {
    let mut trie = Trie::empty(Arc::new(NoNodes));
    for (index, item) in items.iter().enumerate() {
        trie.set(&(index as u64).to_rlp(), item.clone()).expect("nothing is read from a source");
    }
    trie.root()
}
