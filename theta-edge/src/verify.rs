//! How results of nodes that may lie are believed: commit, reveal, compare (edge.md 4.2).
//!
//! A node first posts a commitment to its result; only when all commitments are in are results shown. The commitment
//! covers the node, the task and the epoch, so another node's commitment is worthless to a copier, and a node that saw
//! another's result afterwards cannot fit its own to it. Equal digests settle a task when enough agree; if nobody can
//! agree, a referee runs the task and what it finds is the truth. Whoever shows anything else is not paid.

use serde::{Deserialize, Serialize};
use theta_core::hash::Hash;

use crate::executor::Output;
use crate::identity::NodeId;
use crate::job::Quorum;

/// Binds a node to a result without showing it.
pub fn commitment(node: NodeId, task: &Hash, epoch: u64, digest: &Hash, salt: &Hash) -> Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"theta-edge/commit/v1");
    hasher.update(node.0.as_slice());
    hasher.update(task.as_slice());
    hasher.update(&epoch.to_le_bytes());
    hasher.update(digest.as_slice());
    hasher.update(salt.as_slice());
    Hash::from(*hasher.finalize().as_bytes())
}

/// A result that a node has shown and that fits its commitment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Whose it is.
    pub node: NodeId,
    /// What it says came out.
    pub output: Output,
}

/// What follows from the results at hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// So many agree that this is the result.
    Agreed(Hash),
    /// They differ; one more node has to run it.
    Another,
    /// They differ and no node is left to ask; a re-execution has to decide.
    Referee,
}

/// Compares results. `others` says whether a node is left that has not run the task.
pub fn decide(claims: &[Claim], quorum: Quorum, others: bool) -> Decision {
    let digests: Vec<Hash> = claims.iter().map(|claim| claim.output.digest()).collect();
    let agreed = digests.iter().find(|digest| {
        let same = digests.iter().filter(|other| other == digest).count();
        same >= usize::from(quorum.agree.max(1))
    });
    match agreed {
        Some(digest) => Decision::Agreed(*digest),
        None if others && claims.len() < usize::from(quorum.max) => Decision::Another,
        None => Decision::Referee,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::Ending;
    use theta_core::hash::Address;

    fn claims(results: &[u64]) -> Vec<Claim> {
        let claim = |(index, fuel): (usize, &u64)| Claim {
            node: NodeId(Address::repeat_byte(index as u8)),
            output: Output::silent(Ending::Exit(0), *fuel),
        };
        results.iter().enumerate().map(claim).collect()
    }

    fn truth(fuel: u64) -> Hash {
        Output::silent(Ending::Exit(0), fuel).digest()
    }

    #[test]
    fn agreement_needs_enough_equal_results() {
        assert_eq!(decide(&claims(&[7]), Quorum::of(1), true), Decision::Agreed(truth(7)));
        assert_eq!(decide(&claims(&[7, 7]), Quorum::of(2), false), Decision::Agreed(truth(7)));
        assert_eq!(decide(&claims(&[7, 8, 7]), Quorum::of(2), false), Decision::Agreed(truth(7)));
        assert_ne!(decide(&claims(&[7, 7]), Quorum::of(3), true), Decision::Agreed(truth(7)));
    }

    #[test]
    fn a_difference_asks_another_node_and_then_a_referee() {
        assert_eq!(decide(&claims(&[7, 8]), Quorum::of(2), true), Decision::Another);
        assert_eq!(decide(&claims(&[7, 8]), Quorum::of(2), false), Decision::Referee);
        assert_eq!(decide(&claims(&[7, 8, 9, 10]), Quorum::of(2), true), Decision::Referee);
    }

    #[test]
    fn a_commitment_fits_one_node_task_epoch_and_result() {
        let node = |byte| NodeId(Address::repeat_byte(byte));
        let hash = Hash::repeat_byte;
        let base = commitment(node(1), &hash(1), 1, &hash(1), &hash(1));
        assert_ne!(base, commitment(node(2), &hash(1), 1, &hash(1), &hash(1)));
        assert_ne!(base, commitment(node(1), &hash(2), 1, &hash(1), &hash(1)));
        assert_ne!(base, commitment(node(1), &hash(1), 2, &hash(1), &hash(1)));
        assert_ne!(base, commitment(node(1), &hash(1), 1, &hash(2), &hash(1)));
        assert_ne!(base, commitment(node(1), &hash(1), 1, &hash(1), &hash(2)));
    }
}
