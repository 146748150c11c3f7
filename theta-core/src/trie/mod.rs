//! The Merkle-Patricia trie of a state, of contract storage, and of lists.
//!
//! It is geth's plain trie with raw keys of any length, one of which may be a prefix of another, so a branch really
//! carries a value (`store/trie` of the reference; `ledger.md` 4.5). A [`Trie`] is a value: a clone costs a few reference
//! counts. A node is its RLP and is read in place. Nodes come from a [`NodeSource`] when they are needed; a change makes
//! the nodes on its way anew, hashed, and keeps them until [`Trie::take_new`] gives them out.

mod edit;
mod node;
mod path;
mod proof;
#[cfg(test)]
mod tests;
mod walk;

use std::sync::Arc;

use alloy_primitives::map::{B256Map, Entry};

pub use self::{
    node::Node,
    path::compact,
    proof::{ProofError, verify},
};
use self::{
    node::{Step, step},
    path::Nibbles,
};
use crate::{
    codec::rlp::{DecodeError, Encode},
    hash::{EMPTY_ROOT, Hash},
    store::StoreError,
    workers::Inline,
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
    fn node(&self, hash: &Hash) -> Result<Option<Node>, TrieError>;
}

/// A source without nodes, for tries that are built from nothing.
#[derive(Debug, Clone, Copy)]
pub struct NoNodes;

impl NodeSource for NoNodes {
    fn node(&self, _: &Hash) -> Result<Option<Node>, TrieError> {
        Ok(None)
    }
}

/// A trie at one root.
#[derive(Clone)]
pub struct Trie {
    root: Hash,
    source: Arc<dyn NodeSource>,
    /// Nodes that the source does not have, with the number of places they have in this trie.
    new: Arc<B256Map<(Node, usize)>>,
    replaced: Vec<Hash>,
}

impl std::fmt::Debug for Trie {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trie").field("root", &self.root).finish_non_exhaustive()
    }
}

impl Trie {
    /// A trie without entries.
    pub fn empty(source: Arc<dyn NodeSource>) -> Self {
        Self { root: EMPTY_ROOT, source, new: Arc::default(), replaced: Vec::new() }
    }

    /// The trie at a root; the zero hash and [`EMPTY_ROOT`] both mean no entries. Fails if the root is not there.
    pub fn open(root: Hash, source: Arc<dyn NodeSource>) -> Result<Self, TrieError> {
        if root == Hash::ZERO || root == EMPTY_ROOT {
            return Ok(Self::empty(source));
        }
        if source.node(&root)?.is_none() {
            return Err(TrieError::Missing(root));
        }
        Ok(Self { root, ..Self::empty(source) })
    }

    fn load(&self, hash: &Hash) -> Result<Node, TrieError> {
        if let Some((node, _)) = self.new.get(hash) {
            return Ok(node.clone());
        }
        self.source.node(hash)?.ok_or(TrieError::Missing(*hash))
    }

    /// Where nodes are read from.
    pub fn source(&self) -> &Arc<dyn NodeSource> {
        &self.source
    }

    /// The root hash.
    pub const fn root(&self) -> Hash {
        self.root
    }

    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TrieError> {
        if self.root == EMPTY_ROOT {
            return Ok(None);
        }
        let (mut rest, mut hash) = (Nibbles::of_key(key), self.root);
        loop {
            match step(&self.load(&hash)?, &mut rest) {
                Step::Down(below) => hash = below,
                Step::End(value) => return Ok(value.map(<[u8]>::to_vec)),
            }
        }
    }

    /// Takes a change's nodes in the place of others.
    fn replace(&mut self, replaced: Vec<Hash>, made: Vec<(Hash, Node)>) {
        let new = Arc::make_mut(&mut self.new);
        for hash in replaced {
            let Entry::Occupied(mut at) = new.entry(hash) else {
                self.replaced.push(hash);
                continue;
            };
            at.get_mut().1 -= 1;
            if at.get().1 == 0 {
                at.remove();
            }
        }
        for (hash, node) in made {
            new.entry(hash).or_insert((node, 0)).1 += 1;
        }
    }

    /// Hashes of stored nodes that changes since the trie was opened, or since the last call, put others in the place of.
    /// They still belong to the older root, and may stand elsewhere in this one.
    pub fn take_replaced(&mut self) -> Vec<Hash> {
        std::mem::take(&mut self.replaced)
    }

    /// Gives every node made since the trie was opened or since the last call out, by hash, in ascending order. The trie reads
    /// on once its source has them.
    pub fn take_new(&mut self) -> Vec<(Hash, Node)> {
        let new = std::mem::take(&mut self.new);
        let mut new: Vec<_> = match Arc::try_unwrap(new) {
            Ok(own) => own.into_iter().map(|(hash, (node, _))| (hash, node)).collect(),
            Err(shared) => shared.iter().map(|(hash, (node, _))| (*hash, node.clone())).collect(),
        };
        new.sort_unstable_by_key(|(hash, _)| *hash);
        new
    }
}

/// Root of a list: keys are `rlp(index)`.
pub fn list_root(items: &[Vec<u8>]) -> Hash {
    let mut trie = Trie::empty(Arc::new(NoNodes));
    let entries = items.iter().enumerate().map(|(index, item)| ((index as u64).to_rlp(), item.clone()));
    trie.update(entries, &Inline).expect("nothing is read from a source");
    trie.root()
}
