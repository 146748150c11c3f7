//! The upper levels: guardians' and elite edge nodes' votes for settled checkpoints, and those in headers.
//!
//! A settled checkpoint opens a ballot and closes the one before. Every node gathers votes and hands them on, whether it
//! has one itself or not; the proposer of the next checkpoint puts what it gathered into its header, where it decides
//! who is rewarded.

use std::sync::Arc;

use theta_core::{
    BigUint,
    block::Header,
    bls,
    context::Finality,
    hash::{Address, Hash},
    spec::GuardianRule,
    stake::{Pools, elite::sampled_weight},
    vote::{EliteVotes, GuardianVotes},
};

use super::{Effect, Engine};
use crate::{
    checks::{Fault, VotedCheckpoint, VotedPools, verify_upper},
    elite::{self, EliteVote},
    finality::{Groups, GuardianPart, Tally},
    guardian::{self, AggregateError},
    message::{Message, Peer},
    pace::Millis,
    round::Round,
    signer::Intent,
    wal::WalRecord,
};

/// A guardian whose turn comes first waits this part of a round for the votes of its group.
const TURNS: Millis = 8;

/// The votes on one checkpoint.
#[derive(Debug)]
pub(super) struct Ballot {
    pub(super) block: Hash,
    height: u64,
    rule: GuardianRule,
    pools: Arc<Pools>,
    pool: Hash,
    /// Guardians with stake.
    size: usize,
    guardians: Gathered,
    elite: Round<EliteVotes>,
    tick: Millis,
}

/// Guardians' votes, in the form of the chain's rule.
#[derive(Debug)]
enum Gathered {
    Rounds(Box<Round<GuardianVotes>>),
    Bitmaps(Box<Tally<bls::Signature>>),
}

/// Guardian and elite edge votes for a header.
pub(super) type UpperVotes = (Option<GuardianVotes>, Option<EliteVotes>);

impl Ballot {
    /// When something is to be sent.
    pub(super) fn wakes(&self) -> Millis {
        match &self.guardians {
            Gathered::Bitmaps(tally) => tally.turn().map_or(self.tick, |turn| turn.min(self.tick)),
            Gathered::Rounds(_) => self.tick,
        }
    }

    /// All that was gathered, in the form that headers have.
    fn best(&self) -> Option<GuardianVotes> {
        match &self.guardians {
            Gathered::Rounds(round) => round.best().cloned(),
            Gathered::Bitmaps(tally) => {
                let part = GuardianPart::new(self.block, tally.best()?);
                Some(part.into_votes(self.pool, self.size))
            }
        }
    }

    fn pools(&self) -> VotedPools {
        VotedPools { guardians: Some(self.checkpoint()), elite: Some(self.pools.clone()) }
    }

    fn checkpoint(&self) -> VotedCheckpoint {
        let pool = Some(self.pool);
        VotedCheckpoint { height: self.height, rule: self.rule, pools: self.pools.clone(), pool }
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
        let Some((block, header, pools)) = self.tree.newest_checkpoint(self.interval()) else { return };
        if self.ballot.as_ref().is_some_and(|ballot| ballot.block == block) {
            return;
        }
        let rule = self.spec.rules(header.height).consensus.guardians;
        let (pool, size) = (pools.guardians.hash(), pools.guardians.with_stake().count());
        let own = self.roles.guardian.as_ref();
        let index = own.and_then(|key| pools.guardians.with_stake().position(|one| one.key == *key));
        let ballot = Ballot {
            block,
            height: header.height,
            rule,
            pool,
            size,
            pools,
            guardians: match rule {
                GuardianRule::RewardOnly => Gathered::Rounds(Box::new(Round::new(guardian::ROUNDS))),
                GuardianRule::Finalize => {
                    let step = self.settings.upper_round / TURNS;
                    let draw = u64::from_be_bytes(std::array::from_fn(|byte| block[byte]));
                    let tally = Tally::new(Groups::new(size), index, draw, self.now, step);
                    Gathered::Bitmaps(Box::new(tally))
                }
            },
            elite: Round::new(elite::ROUNDS),
            tick: self.now + self.settings.upper_round.max(1),
        };
        if let Some(index) = index {
            let (height, chain) = (header.height, self.spec.chain.clone());
            let intent = Intent::Guardian { block, height, chain, rule, pool, index, size };
            out.push(Effect::Sign { intent, to: None });
        }
        if let Some(address) = self.roles.elite.filter(|address| ballot.samples(*address)) {
            let timestamp = BigUint::from(self.now / 1_000);
            let intent = Intent::Elite { block, height: header.height, address, timestamp };
            out.push(Effect::Sign { intent, to: None });
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
                    && matches!(&ballot.guardians, Gathered::Rounds(round) if round.wants(votes))
            }
            Message::GuardianPart(part) => {
                let wants = |tally: &Tally<bls::Signature>| tally.wants(&part.part());
                part.block == ballot.block
                    && matches!(&ballot.guardians, Gathered::Bitmaps(tally) if wants(tally))
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
            Message::Vote(_) | Message::Status(_) | Message::Evidence(_) => false,
        };
        wanted.then(|| ballot.pools())
    }

    pub(super) fn on_guardian_votes(&mut self, from: Peer, votes: GuardianVotes) {
        let Some(ballot) = self.ballot.as_mut().filter(|ballot| ballot.block == votes.block) else { return };
        let Gathered::Rounds(round) = &mut ballot.guardians else { return };
        if from == Peer::Own {
            round.add_own(votes)
        } else {
            round.add(votes)
        };
    }

    pub(super) fn on_guardian_part(&mut self, from: Peer, part: GuardianPart, out: &mut Vec<Effect>) {
        let Some(ballot) = self.ballot.as_mut().filter(|ballot| ballot.block == part.block) else { return };
        let Gathered::Bitmaps(tally) = &mut ballot.guardians else { return };
        if !tally.add(part.part()) {
            return;
        }
        let is_final = self.final_checkpoint.is_some_and(|(block, _)| block == ballot.block);
        let cover = (!is_final).then(|| tally.cover());
        // What somebody gathered from all groups is for a neighbour that missed it, and spreads no further.
        let is_whole =
            part.first_to_last(ballot.size) && !part.is_single() && Groups::new(ballot.size).count() > 1;
        if from != Peer::Own && !is_whole {
            out.push(Effect::Relay { message: Message::GuardianPart(part), from });
        }
        let checkpoint = ballot.checkpoint();
        if cover.is_some_and(|cover| checkpoint.on(&self.spec.chain).is_quorum(&cover)) {
            let block = ballot.block;
            self.finalize(block, out);
        }
    }

    /// A settled checkpoint has its guardians' certificate. Nothing that is settled ever leaves the chain here, so it and
    /// everything below it stays for good.
    fn finalize(&mut self, block: Hash, out: &mut Vec<Effect>) {
        let settled = self.tree.header(&block).filter(|_| self.tree.is_settled(&block));
        let Some(header) = settled.cloned() else { return };
        if self.final_checkpoint.is_some_and(|(_, height)| height >= header.height) {
            return;
        }
        self.final_checkpoint = Some((block, header.height));
        let record = WalRecord { checkpoint: self.final_checkpoint, ..WalRecord::default() };
        self.append(record, out);
        out.push(Effect::Reached { finality: Finality::Final, hash: block, header });
    }

    /// Finds certificates in headers that have been settled: who was not there for the votes learns of them there.
    pub(super) fn learn_finality(&mut self, out: &mut Vec<Effect>) {
        let Some((_, header, _)) = self.tree.newest_checkpoint(self.interval()) else { return };
        let Some(votes) = header.extension.guardian_votes() else { return };
        let voted = self.voted_pools(&header).guardians;
        if voted.is_some_and(|voted| voted.on(&self.spec.chain).is_final(votes)) {
            self.finalize(votes.block, out);
        }
    }

    /// The guardians' certificate of the newest settled checkpoint, once they have made one.
    pub fn finality_certificate(&self) -> Option<GuardianVotes> {
        let ballot = self.ballot.as_ref()?;
        ballot.best().filter(|votes| ballot.checkpoint().on(&self.spec.chain).is_final(votes))
    }

    /// Blocks between checkpoints.
    fn interval(&self) -> usize {
        let interval = self.spec.rules(self.tree.head_height()).consensus.checkpoint_interval;
        usize::try_from(interval).unwrap_or(usize::MAX)
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
        let Some(ballot) = self.ballot.as_mut() else { return };
        let block = ballot.block;
        let message = |part| Effect::Broadcast(Message::GuardianPart(GuardianPart::new(block, part)));
        if let Gathered::Bitmaps(tally) = &mut ballot.guardians {
            out.extend(tally.tell(self.now).map(message));
        }
        if self.now < ballot.tick {
            return;
        }
        ballot.tick = self.now + self.settings.upper_round.max(1);
        match &mut ballot.guardians {
            Gathered::Rounds(round) => {
                out.extend(round.tick().map(|votes| Effect::Broadcast(Message::GuardianVotes(votes))));
            }
            Gathered::Bitmaps(tally) => out.extend(tally.best().map(message)),
        }
        out.extend(ballot.elite.tick().map(|votes| Effect::Broadcast(Message::EliteVotes(votes))));
    }

    /// What a proposer puts into the header of a checkpoint above everything that is settled.
    pub(super) fn votes_for(&self, height: u64) -> UpperVotes {
        match &self.ballot {
            Some(ballot) if self.spec.rules(height).is_checkpoint(height) && height > ballot.height => {
                (ballot.best(), ballot.elite.best().cloned())
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
            guardians: header.extension.guardian_votes().and_then(|votes| {
                let height = self.tree.header(&votes.block)?.height;
                let rule = self.spec.rules(height).consensus.guardians;
                Some(VotedCheckpoint { height, rule, pools: self.pools_at(&votes.block)?, pool: None })
            }),
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
