//! The upper levels: guardians' and elite edge nodes' votes for settled checkpoints, and those in headers.
//!
//! A settled checkpoint opens a ballot and closes the one before. Every node gathers votes and hands them on, whether it
//! has one itself or not; the proposer of the next checkpoint puts what it gathered into its header, where it decides
//! who is rewarded.

use std::sync::Arc;

use theta_core::{
    BigUint,
    block::Header,
    hash::{Address, Hash},
    stake::{Pools, elite::sampled_weight},
    vote::{EliteVotes, GuardianVotes},
};

use super::{Effect, Engine};
use crate::{
    checks::{Fault, VotedPools, verify_upper},
    elite::{self, EliteVote},
    guardian::{self, AggregateError},
    message::{Message, Peer},
    pace::Millis,
    round::Round,
    signer::Intent,
};

/// The votes on one checkpoint.
#[derive(Debug)]
pub(super) struct Ballot {
    pub(super) block: Hash,
    height: u64,
    pools: Arc<Pools>,
    pool: Hash,
    /// Guardians with stake.
    size: usize,
    guardians: Round<GuardianVotes>,
    elite: Round<EliteVotes>,
    pub(super) tick: Millis,
}

/// Guardian and elite edge votes for a header.
pub(super) type UpperVotes = (Option<GuardianVotes>, Option<EliteVotes>);

impl Ballot {
    fn pools(&self) -> VotedPools {
        VotedPools { guardians: Some(self.pools.clone()), elite: Some(self.pools.clone()) }
    }

    fn position(&self, key: &theta_core::bls::PublicKey) -> Option<usize> {
        self.pools.guardians.with_stake().position(|guardian| guardian.key == *key)
    }

    fn samples(&self, address: Address) -> bool {
        let elite = &self.pools.elite;
        let stake = elite.nodes.get(&address).map(|node| node.stakes.total());
        stake.is_some_and(|stake| sampled_weight(&self.block, address, stake, elite.total) > 0)
    }
}

impl Engine {
    /// Opens the ballot of the newest settled checkpoint, if it is not the one at hand. Any settled checkpoint is voted on,
    /// not only one whose own certificate settled it, as in the reference.
    pub(super) fn open_ballot(&mut self, out: &mut Vec<Effect>) {
        let interval = self.spec.rules(self.tree.head_height()).consensus.checkpoint_interval;
        let interval = usize::try_from(interval).unwrap_or(usize::MAX);
        let Some((block, header, pools)) = self.tree.newest_checkpoint(interval) else { return };
        if self.ballot.as_ref().is_some_and(|ballot| ballot.block == block) {
            return;
        }
        let ballot = Ballot {
            block,
            height: header.height,
            pool: pools.guardians.hash(),
            size: pools.guardians.with_stake().count(),
            pools,
            guardians: Round::new(guardian::ROUNDS),
            elite: Round::new(elite::ROUNDS),
            tick: self.now + self.settings.upper_round.max(1),
        };
        if let Some(index) = self.roles.guardian.as_ref().and_then(|key| ballot.position(key)) {
            let (pool, size) = (ballot.pool, ballot.size);
            out.push(Effect::Sign(Intent::Guardian { block, height: header.height, pool, index, size }));
        }
        if let Some(address) = self.roles.elite.filter(|address| ballot.samples(*address)) {
            let timestamp = BigUint::from(self.now / 1_000);
            out.push(Effect::Sign(Intent::Elite { block, height: header.height, address, timestamp }));
        }
        self.ballot = Some(ballot);
    }

    /// Pools to check a message of the upper levels against; `None` if it is of no use here.
    pub(super) fn wants_upper(&self, message: &Message) -> Option<VotedPools> {
        let ballot = self.ballot.as_ref()?;
        let wanted = match message {
            Message::GuardianVotes(votes) => {
                votes.block == ballot.block
                    && votes.pool == ballot.pool
                    && votes.multipliers.len() == ballot.size
                    && ballot.guardians.wants(votes)
            }
            Message::EliteVote(vote) => {
                // The cheap part first: most strangers are in no pool.
                vote.block == ballot.block
                    && ballot.pools.elite.nodes.contains_key(&vote.address)
                    && ballot.elite.wants(&vote.clone().into_votes())
            }
            Message::EliteVotes(votes) => {
                votes.block == ballot.block
                    && votes.addresses.len() == votes.multipliers.len()
                    && !votes.multipliers.contains(&0)
                    && ballot.elite.wants(votes)
            }
            Message::Vote(_) | Message::Status(_) => false,
        };
        wanted.then(|| ballot.pools())
    }

    pub(super) fn on_guardian_votes(&mut self, from: Peer, votes: GuardianVotes) {
        let Some(ballot) = self.ballot.as_mut().filter(|ballot| ballot.block == votes.block) else { return };
        if from == Peer::Own {
            ballot.guardians.add_own(votes)
        } else {
            ballot.guardians.add(votes)
        };
    }

    pub(super) fn on_elite_votes(&mut self, from: Peer, votes: EliteVotes) {
        let Some(ballot) = self.ballot.as_mut().filter(|ballot| ballot.block == votes.block) else { return };
        if from == Peer::Own {
            ballot.elite.add_own(votes)
        } else {
            ballot.elite.add(votes)
        };
    }

    pub(super) fn on_elite_vote(&mut self, from: Peer, vote: EliteVote) {
        self.on_elite_votes(from, vote.into_votes());
    }

    /// Ends a round of the ballot when its time has come.
    pub(super) fn run_ballot(&mut self, out: &mut Vec<Effect>) {
        let Some(ballot) = self.ballot.as_mut().filter(|ballot| self.now >= ballot.tick) else { return };
        ballot.tick = self.now + self.settings.upper_round.max(1);
        out.extend(ballot.guardians.tick().map(|votes| Effect::Broadcast(Message::GuardianVotes(votes))));
        out.extend(ballot.elite.tick().map(|votes| Effect::Broadcast(Message::EliteVotes(votes))));
    }

    /// What a proposer puts into the header of a checkpoint above everything that is settled.
    pub(super) fn votes_for(&self, height: u64) -> UpperVotes {
        match &self.ballot {
            Some(ballot) if self.spec.rules(height).is_checkpoint(height) && height > ballot.height => {
                (ballot.guardians.best().cloned(), ballot.elite.best().cloned())
            }
            _ => (None, None),
        }
    }

    /// The pools of the checkpoint at or below a known block.
    fn pools_at(&self, block: &Hash) -> Option<Arc<Pools>> {
        let mut at = *block;
        loop {
            let header = self.tree.header(&at)?;
            if self.spec.rules(header.height).is_checkpoint(header.height) {
                return self.tree.post(&at)?.pools.clone();
            }
            at = header.parent;
        }
    }

    /// The pools that the votes in a header come from, as far as they are known.
    pub(super) fn voted_pools(&self, header: &Header) -> VotedPools {
        VotedPools {
            guardians: header.extension.guardian_votes().and_then(|votes| self.pools_at(&votes.block)),
            elite: header.extension.elite_votes().and_then(|votes| self.pools_at(&votes.block)),
        }
    }

    /// Judges the votes in a header (`spec/consensus.md` 7.9 and 7.10) and gives the state that the guardians' reward. An
    /// error without a fault is a block that cannot be judged here.
    ///
    /// The reference does not ask whether the voted block is an ancestor while the chain is shorter than 2,000 blocks;
    /// here that is always asked, since only a proposer of bad faith could name another.
    pub(super) fn judge_upper(&self, header: &Header, checked: bool) -> Result<Option<Hash>, Option<Fault>> {
        let guardians = header.extension.guardian_votes().map(|votes| votes.block);
        let elite = header.extension.elite_votes().map(|votes| votes.block);
        for (voted, fault) in [(guardians, Fault::Guardians as fn(_) -> _), (elite, Fault::Elite)] {
            let Some(voted) = voted else { continue };
            if !self.spec.rules(header.height).is_checkpoint(header.height) {
                return Err(Some(fault(AggregateError::Place)));
            }
            if !self.tree.knows(&voted) {
                return Err(None);
            }
            if !self.tree.is_ancestor(&voted, &header.parent) {
                return Err(Some(fault(AggregateError::Ancestor)));
            }
        }
        if !checked && !verify_upper(header, &self.voted_pools(header)).map_err(Some)? {
            return Err(None);
        }
        let Some(voted) = guardians else { return Ok(None) };
        Ok(Some(self.tree.header(&voted).ok_or(None)?.state_root))
    }
}
