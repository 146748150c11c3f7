//! Consensus's word on blocks that a ledger follows: the ledger knows the chain, consensus knows the rules.

use std::sync::Arc;

use theta_consensus::{
    Checkpoint,
    settled::{Below, judge},
};
use theta_core::{block::Header, hash::Hash, stake::Pools};
use theta_ledger::{
    Status,
    follow::{Follower, Judge, Refusal},
    ledger::{At, LedgerReader},
    state::StateError,
};

/// Checks votes of all levels, proposers and changes of validators.
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
                Some(reader.validators_of(block.hash)?)
            }
            _ => None,
        };
        let rules = reader.spec().rules(header.height);
        let pools_at = |voted: Option<Hash>| match voted {
            Some(voted) if rules.is_checkpoint(header.height) => pools_at(reader, voted),
            _ => Ok(None),
        };
        let guardians = pools_at(header.extension.guardian_votes().map(|votes| votes.block))?;
        let elite = pools_at(header.extension.elite_votes().map(|votes| votes.block))?;
        let below = Below {
            parent: &parent.header,
            change_near: changes(parent.hash)? || changes(parent.header.parent)?,
            proposers: &*reader.validators_after(parent.hash)?,
            certified: certified.as_ref().map(|block| &block.block.header),
            voters: voters.as_deref(),
            spec: reader.spec(),
            checkpoint: rules.is_checkpoint(header.height),
            guardians: guardians.as_ref().map(|(height, pools)| Checkpoint {
                chain: &header.chain,
                height: *height,
                rule: reader.spec().rules(*height).consensus.guardians,
                pool: &pools.guardians,
            }),
            elite: elite.as_ref().map(|(_, pools)| &pools.elite),
        };
        judge(header, &below).map_err(|fault| Refusal::Block(fault.into()))
    }
}

/// Height of a block of the chain and pools of the checkpoint at or below it; none if the block is not in it.
fn pools_at(reader: &LedgerReader, voted: Hash) -> Result<Option<(u64, Arc<Pools>)>, StateError> {
    let Some(mut block) = reader.block(At::Block(voted))? else { return Ok(None) };
    let same_height = reader.block(At::Height(block.block.header.height))?;
    let height = block.block.header.height;
    if same_height.is_some_and(|other| other.hash != voted) {
        return Ok(None);
    }
    while !reader.spec().rules(block.block.header.height).is_checkpoint(block.block.header.height) {
        match reader.block(At::Block(block.block.header.parent))? {
            Some(parent) => block = parent,
            None => return Ok(None),
        }
    }
    Ok(reader.post_state(At::Block(block.hash))?.pools.map(|pools| (height, pools)))
}
