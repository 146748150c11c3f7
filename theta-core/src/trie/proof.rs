//! Proofs: the nodes on the path of a key, and what they show to somebody who has the root alone.

use std::sync::Arc;

use super::{
    Link, Node, Trie, TrieError, nibbles,
    node::{Step, step},
};
use crate::{
    codec::rlp::DecodeError,
    hash::{EMPTY_ROOT, Hash, keccak},
};

/// Why a proof does not show what it claims.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProofError {
    /// A node on the path is not in the proof, or the proof belongs to another root.
    #[error("proof lacks node {0}")]
    Missing(Hash),
    /// A node is not the RLP of one.
    #[error("node {0} of the proof is malformed: {1}")]
    Damaged(Hash, DecodeError),
}

impl Trie {
    /// The encoded nodes stored by hash on the path of a key, root first: a proof of its value or absence.
    pub fn prove(&self, key: &[u8]) -> Result<Vec<Vec<u8>>, TrieError> {
        let path = nibbles(key);
        let mut rest = path.as_slice();
        let mut link = self.root.clone();
        let mut proof = Vec::new();
        loop {
            let node = match link {
                Link::Empty => return Ok(proof),
                Link::Hash(hash) => self.load(&hash)?,
                Link::Node(node) => node,
            };
            if proof.is_empty() || node.name().hash.is_some() {
                proof.push(node.encoded());
            }
            link = match step(&node.kind, &mut rest) {
                Step::Down(link) => link,
                Step::End(_) => return Ok(proof),
            };
        }
    }
}

/// What `nodes` prove about `key` under `root`: its value, or its absence. Needs no store.
pub fn verify(root: &Hash, key: &[u8], nodes: &[Vec<u8>]) -> Result<Option<Vec<u8>>, ProofError> {
    if *root == EMPTY_ROOT {
        return Ok(None);
    }
    let path = nibbles(key);
    let mut rest = path.as_slice();
    let mut link = Link::Hash(*root);
    loop {
        let node = match link {
            Link::Empty => return Ok(None),
            Link::Node(node) => node,
            Link::Hash(hash) => {
                let bytes =
                    nodes.iter().find(|bytes| keccak(bytes) == hash).ok_or(ProofError::Missing(hash))?;
                Arc::new(Node::decode(&hash, bytes).map_err(|error| ProofError::Damaged(hash, error))?)
            }
        };
        link = match step(&node.kind, &mut rest) {
            Step::Down(link) => link,
            Step::End(value) => return Ok(value),
        };
    }
}
