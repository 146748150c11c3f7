//! When this node proposes, on what, and what is in the header.

use std::{collections::BTreeMap, sync::Arc};

use theta_core::{
    BigUint,
    block::{Block, CommitCertificate, Extension, Header, transactions_root},
    context::{BlockContext, Body},
    hash::{Address, Hash},
    sign::Signature,
    spec::{HeaderRules, Pace, ProposerRule},
    stake::ValidatorSet,
    vote::{Vote, VoteSet},
};

use super::{Effect, Engine, upper::UpperVotes};
use crate::{
    certificate::is_quorum,
    proposer::{absent_after, takes_back},
    set_change,
    signer::Intent,
    wal::WalRecord,
};

#[derive(Clone, Debug)]
pub(super) struct Building {
    pub(super) parent: Hash,
    pub(super) epoch: u64,
    pub(super) timestamp: BigUint,
    pub(super) upper: UpperVotes,
}

impl Engine {
    /// A proposer that was quicker than the certificate, or than the execution of what it certifies, has another go.
    pub(super) fn propose_again(&mut self) {
        let has_proposed = self.proposal.as_ref().is_some_and(|block| block.header.epoch == self.epoch);
        if self.pace() == Pace::Responsive && !has_proposed {
            if self.timers.awaits.is_some() {
                self.timers.propose = Some(self.now);
            }
            self.timers.propose.get_or_insert(self.now);
        }
    }

    /// Whether this node had better wait with its block, of which it has one for an epoch: a block above its lock may still get
    /// its certificate from those who have not been heard of since, or the lock is not the highest.
    ///
    /// A vote for something else counts for the end of an epoch and not for the block, so one faulty voter can open an epoch
    /// before the last vote for the block has come. A proposer that did not wait for that would build beside the block: no
    /// two epochs in a row would have one, and nothing would settle. And where more than a third have voted for a block that is
    /// not here, or certifies more than the lock, an honest validator has a higher one: it would vote for nothing built here.
    pub(super) fn awaits_certificate(&self) -> bool {
        let before = self.epoch.saturating_sub(1);
        let Some(validators) = self.tree.next_validators(&self.lock.block) else { return false };
        if self.pace() == Pace::Clocked || self.lock.rank >= before {
            return false;
        }
        let heard: Vec<&Vote> = self.book.since(before, validators).collect();
        let open = validators.as_slice().iter().map(|validator| validator.address);
        let open: Vec<Address> = open.filter(|one| heard.iter().all(|vote| vote.voter != *one)).collect();
        let epoch_of = |block: &Hash| self.tree.header(block).map(|header| header.epoch);
        let is_above = |block: &Hash| epoch_of(block).is_none_or(|epoch| epoch > self.lock.rank);
        let certifies_more = |block: &Hash| {
            let header = self.tree.header(block);
            header.is_none_or(|header| is_above(&header.certificate.block))
        };
        let mut voters: BTreeMap<Hash, Vec<Address>> = BTreeMap::new();
        heard.iter().for_each(|vote| voters.entry(vote.block).or_default().push(vote.voter));
        let quorum = validators.quorum();
        voters.iter().filter(|(block, _)| is_above(block)).any(|(block, voters)| {
            let is_honest = quorum.has_honest(validators.stake_of(voters.iter().copied()));
            // Whoever has lost patience with this block's proposer and has not gone on may yet vote for it.
            let is_late = |other: &&&Vote| {
                let is_below = epoch_of(&other.block) < epoch_of(block);
                is_honest && is_below && other.epoch == before && Some(other.voter) != self.roles.validator
            };
            let late = heard.iter().filter(is_late).map(|vote| vote.voter);
            let most = validators.stake_of(voters.iter().chain(&open).copied().chain(late));
            quorum.is_met(most) || is_honest && certifies_more(block)
        })
    }

    /// The block to extend. Clocked: the highest that the set change rule allows. Responsive: the lock.
    pub(super) fn tip_to_extend(&self) -> Option<Hash> {
        if self.pace() == Pace::Responsive {
            // After a restart the lock is known before its block has been executed again.
            return Some(self.lock.block).filter(|lock| self.tree.is_valid(lock));
        }
        self.tree.tip(&self.lock.block, |hash| {
            set_change::allows(hash, self.tree.change_near(hash), &self.lock.block)
        })
    }

    pub(super) fn propose(&mut self, out: &mut Vec<Effect>) {
        let Some(me) = self.roles.validator else { return };
        if let Some(block) = &self.proposal
            && block.header.epoch == self.epoch
        {
            self.sign_proposal(block.clone(), out);
            return;
        }
        let Some(parent) = self.tip_to_extend() else { return };
        let (Some(header), Some(validators)) =
            (self.tree.header(&parent).cloned(), self.tree.next_validators(&parent).cloned())
        else {
            return;
        };
        if self.epoch <= header.epoch || self.scheduled(&parent, self.epoch) != Some(me) {
            return;
        }
        if self.lock.certificate.votes.is_empty() && self.lock.block != self.tree.root() {
            return;
        }
        if self.waits_for_votes(&parent, header.height, &validators) {
            return;
        }
        if self.awaits_certificate() {
            let until = *self.timers.awaits.get_or_insert(self.now + self.settings.epoch_timeout / 2);
            if self.now < until {
                self.timers.propose = Some(until);
                return;
            }
        }
        let same = |building: &Building| building.parent == parent && building.epoch == self.epoch;
        if self.building.as_ref().is_some_and(same) {
            return;
        }
        let timestamp = BigUint::from(self.now / 1_000).max(header.timestamp.clone());
        let upper = self.votes_for(header.height + 1);
        let (guardian_votes, elite_votes) = upper.clone();
        let voted = guardian_votes.as_ref().and_then(|votes| self.tree.header(&votes.block));
        let voted_state = voted.map(|header| header.state_root);
        self.building = Some(Building { parent, epoch: self.epoch, timestamp: timestamp.clone(), upper });
        let freeze_stakes = self.pace() == Pace::Clocked && self.behind(header.height, &validators);
        out.push(Effect::Build(BlockContext {
            parent: header,
            parent_hash: parent,
            epoch: self.epoch,
            timestamp,
            proposer: me,
            validators,
            guardian_votes,
            elite_votes,
            voted_state,
            freeze_stakes,
        }));
    }

    /// Whether the set change rule keeps this node from extending the tip and a second block beside it would only split
    /// the votes, of which nobody has two for one height. Where the parent changes validators that would be for ever;
    /// elsewhere a quorum that has split already is led past by a block that changes nothing.
    pub(super) fn waits_for_votes(&self, parent: &Hash, height: u64, validators: &ValidatorSet) -> bool {
        if self.pace() == Pace::Responsive {
            return false;
        }
        let Some(tip) = self.tree.tip(&self.lock.block, |_| true) else { return true };
        let can_win =
            |header: &Arc<Header>| header.height > height && header.certificate.block == self.lock.block;
        self.tree.header(&tip).is_some_and(can_win)
            && (self.tree.change_near(parent) || !self.behind(height, validators))
    }

    /// Whether a quorum has voted for blocks above this height, so that a block that changes validators would come too
    /// late (`spec/consensus.md` 3.5). Heights are the blocks' own.
    pub(super) fn behind(&self, height: u64, validators: &ValidatorSet) -> bool {
        let above = |vote: &&Vote| self.tree.header(&vote.block).is_some_and(|header| header.height > height);
        is_quorum(self.book.since(0, validators).filter(above), validators)
    }

    /// Votes on the highest certified block and the latest ones, for peers that missed them.
    pub(super) fn helpful_votes(&self) -> VoteSet {
        let Some(validators) = self.tree.validators(&self.lock.block) else { return VoteSet::default() };
        // Where certificates are aggregates the block's own says how its epoch began, or this node's status does.
        if self.has_shares() {
            return VoteSet::default();
        }
        let on_lock = self.lock.certificate.votes.list().iter();
        VoteSet::new(on_lock.chain(self.book.since(0, validators)).cloned())
    }

    pub(super) fn on_built(&mut self, parent: Hash, epoch: u64, body: Body, out: &mut Vec<Effect>) {
        let asked = |building: &Building| building.parent == parent && building.epoch == epoch;
        let Some(building) = self.building.take_if(|building| asked(building)) else { return };
        let (Some(me), Some(header)) = (self.roles.validator, self.tree.header(&parent)) else { return };
        if epoch != self.epoch {
            return;
        }
        if self.tip_to_extend() != Some(parent) {
            self.propose(out);
            return;
        }
        if body.transactions.len() <= self.settings.empty_transactions {
            self.work = false;
        }
        let (header, height) = (header.clone(), header.height + 1);
        let Some(validators) = self.tree.next_validators(&parent).cloned() else { return };
        let certificate = self.certificate_above(&header, out);
        let voters = certificate.votes.aggregate().zip(self.tree.validators(&certificate.block));
        let voted: Vec<Address> = voters
            .into_iter()
            .flat_map(|(votes, voters)| votes.voters(voters).map(|voter| voter.address))
            .collect();
        let absent = absent_after(&self.spec, &header, &validators, (epoch, me), &voted);
        let (guardian_votes, elite_votes) = building.upper;
        let header = Header {
            chain: self.spec.chain.clone(),
            epoch,
            height,
            parent,
            certificate,
            transactions_root: transactions_root(&body.transactions),
            receipts_root: body.receipts_root,
            bloom: body.bloom,
            state_root: body.state_root,
            timestamp: building.timestamp,
            proposer: me,
            signature: Signature::EMPTY,
            // The signer's.
            seed: None,
            absent,
            extension: match self.spec.rules(height).header {
                HeaderRules::Twelve => Extension::None,
                HeaderRules::Guardians => Extension::Guardians(guardian_votes),
                HeaderRules::GuardiansAndElite => Extension::GuardiansAndElite(guardian_votes, elite_votes),
            },
        };
        let block = Block { header, transactions: body.transactions };
        self.append(WalRecord { proposal: Some(block.clone()), ..WalRecord::default() }, out);
        self.proposal = Some(block.clone());
        self.sign_proposal(block, out);
    }

    /// The certificate for a block on this one. It has all votes that are here where those who vote again come back.
    fn certificate_above(&mut self, parent: &Header, out: &mut Vec<Effect>) -> CommitCertificate {
        let certificate = self.lock.certificate.clone();
        let is_short = takes_back(parent.height.saturating_add(1)) && !parent.absent.is_empty();
        let Some(votes) = certificate.votes.aggregate().filter(|_| is_short) else { return certificate };
        let Some(validators) = self.tree.validators(&certificate.block).cloned() else { return certificate };
        let fuller = self.gather(&certificate.block, &validators, out).filter(|fuller| {
            fuller.votes.aggregate().is_some_and(|more| more.signers.count() > votes.signers.count())
        });
        fuller.unwrap_or(certificate)
    }

    fn sign_proposal(&mut self, block: Block, out: &mut Vec<Effect>) {
        if self.needs_opening() {
            self.status_at = self.now;
        }
        let rules = self.spec.rules(block.header.height);
        let seeded = rules.consensus.proposer == ProposerRule::ProposerSeeded;
        let parent = self.tree.header(&block.header.parent).filter(|_| seeded);
        let seed = parent.map(|parent| parent.draw());
        if seed.is_some() == seeded {
            let intent = Intent::Proposal { block, seed, votes: self.helpful_votes() };
            out.push(Effect::Sign { intent, to: None });
        }
    }
}
