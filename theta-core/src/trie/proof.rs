//! Proofs: the nodes on the path of a key, and what they show to somebody who has the root alone.

use super::{
    Node, Trie, TrieError,
    node::{Step, step},
    path::Nibbles,
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
        let mut proof = Vec::new();
        if self.root == EMPTY_ROOT {
            return Ok(proof);
        }
        let (mut rest, mut hash) = (Nibbles::of_key(key), self.root);
        loop {
            let node = self.load(&hash)?;
            proof.push(node.encoding().to_vec());
            match step(&node, &mut rest) {
                Step::Down(below) => hash = below,
                Step::End(_) => return Ok(proof),
            }
        }
    }
}

/// What `nodes` prove about `key` under `root`: its value, or its absence. Needs no store.
pub fn verify(root: &Hash, key: &[u8], nodes: &[Vec<u8>]) -> Result<Option<Vec<u8>>, ProofError> {
    if *root == EMPTY_ROOT {
        return Ok(None);
    }
    let (mut rest, mut hash) = (Nibbles::of_key(key), *root);
    loop {
        let bytes = nodes.iter().find(|bytes| keccak(bytes) == hash).ok_or(ProofError::Missing(hash))?;
        let node = Node::decode(bytes).map_err(|error| ProofError::Damaged(hash, error))?;
        match step(&node, &mut rest) {
            Step::Down(below) => hash = below,
            Step::End(value) => return Ok(value.map(<[u8]>::to_vec)),
        }
    }
}
