//! Consensus's word on blocks that a ledger follows: the ledger knows the chain, consensus knows the rules.

use theta_consensus::settled::{Below, judge};
use theta_core::{block::Header, hash::Hash};
use theta_ledger::{
    Status,
    follow::{Follower, Judge, Refusal},
    ledger::At,
    state::StateError,
};

/// Checks votes, proposers and changes of validators. Votes of guardians and elite edge nodes are not judged.
#[derive(Clone, Copy, Debug, Default)]
pub struct Consensus;

impl Judge for Consensus {
    fn judge(&self, follower: &Follower, header: &Header) -> Result<(), Refusal> {
        let reader = follower.reader();
        let parent = follower.newest();
        let block = |hash: Hash| reader.block(At::Block(hash));
        let changes = |hash| Ok::<_, StateError>(block(hash)?.is_some_and(|block| block.changes_validators));
        let certified = block(header.certificate.block)?;
        let voters = match &certified {
            // What is trusted needs no votes, nor does what lies below a trusted block.
            Some(block) if block.status != Status::TRUSTED.0 && block.status != Status::PENDING.0 => {
                Some(follower.validators_of(block.hash)?)
            }
            _ => None,
        };
        let below = Below {
            parent: &parent.header,
            change_near: changes(parent.hash)? || changes(parent.header.parent)?,
            proposers: &*follower.validators_after(parent.hash)?,
            certified: certified.map(|block| block.block.header.height),
            voters: voters.as_deref(),
            low_s: reader.spec().rules(header.height).tx.low_s,
        };
        judge(header, &below).map_err(|fault| Refusal::Block(fault.into()))
    }
}
