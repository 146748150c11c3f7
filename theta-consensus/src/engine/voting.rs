//! Votes of others and of this node, and the epochs they open.

use std::sync::Arc;

use theta_core::{
    block::Header,
    hash::{Address, Hash},
    spec::Pace,
    stake::ValidatorSet,
    vote::Vote,
};

use super::{Effect, Engine, fetching::Reason, time::AGAIN};
use crate::{
    message::{Message, Peer, Status},
    signer::Intent,
    vote::{self, LastVote},
    wal::{WalRecord, WalVote},
};

/// Votes of later epochs than this many ahead are not taken.
pub(super) const VOTE_WINDOW: u64 = 1 << 20;

impl Engine {
    /// Whether a vote may have a slot: its voter has a say in what comes next, its epoch is not out of reach.
    pub(super) fn takes(&self, vote: &Vote) -> bool {
        vote.block != Hash::ZERO
            && vote.epoch <= self.epoch.saturating_add(VOTE_WINDOW)
            && self.is_member(&vote.voter)
    }

    pub(super) fn is_member(&self, address: &Address) -> bool {
        self.members.iter().any(|set| set.contains(*address))
    }

    /// The sets that have a say now: those after the settled head and around the lock.
    pub(super) fn gather_members(&mut self) {
        let (head, lock) = (self.tree.head(), self.lock.block);
        let sets =
            [self.tree.next_validators(&head), self.tree.validators(&lock), self.tree.next_validators(&lock)];
        let mut members: Vec<Arc<ValidatorSet>> = Vec::new();
        for set in sets.into_iter().flatten() {
            if !members.contains(set) {
                members.push(set.clone());
            }
        }
        self.members = members;
    }

    pub(super) fn is_lost(&self, hash: &Hash) -> bool {
        !self.tree.knows(hash) && !self.orphans.contains_key(hash) && !self.refused.contains(hash)
    }

    pub(super) fn on_vote(&mut self, from: Peer, vote: Vote, out: &mut Vec<Effect>) {
        let (block, voter) = (vote.block, vote.voter);
        if !self.takes(&vote) || self.is_wrong_again(&vote) {
            return;
        }
        let tree = &self.tree;
        if !self.book.insert(vote.clone(), |hash| tree.knows(hash)) {
            return;
        }
        if from != Peer::Own {
            out.push(Effect::Relay { message: Message::Vote(vote), from });
        }
        if self.is_lost(&block) {
            self.want(block, from, Reason::Voter(voter), self.settings.fetch_delay);
        }
        self.watch_vote(&block, voter, out);
        self.certify(block, out);
        self.complete_lock(out);
        self.try_advance(out);
    }

    /// Whether a peer claims to know a certificate above this node's lock, or votes that matter here.
    pub(super) fn is_ahead(&self, status: &Status) -> bool {
        match self.pace() {
            Pace::Clocked => status.certified_height > self.lock.height,
            Pace::Responsive => {
                let end = &status.opened_by;
                status.certified_epoch > self.lock.rank || !end.is_empty() && end.epoch >= self.epoch
            }
        }
    }

    /// Whether a peer lags behind an epoch that has lasted for a while, so that nothing else will tell it.
    pub(super) fn is_behind(&self, status: &Status) -> bool {
        self.pace() == Pace::Responsive
            && status.epoch < self.epoch
            && self.timers.lasts(self.now) >= self.settings.epoch_timeout / AGAIN
    }

    /// `is_checked` says whether what is signed by BLS has been checked: not where the certified block is unknown.
    pub(super) fn on_status(&mut self, from: Peer, status: Status, is_checked: bool, out: &mut Vec<Effect>) {
        if self.is_behind(&status) {
            self.status_at = self.status_at.min(self.told_at + self.settings.epoch_timeout / AGAIN);
        }
        if !self.is_ahead(&status) {
            return;
        }
        let block = status.certificate.block;
        for vote in status.certificate.votes.list() {
            if self.takes(vote) {
                let tree = &self.tree;
                self.book.insert(vote.clone(), |hash| tree.knows(hash));
            }
        }
        if self.is_lost(&block) && status.certified_height > self.tree.head_height() {
            self.want_of_holder(block, from);
        }
        let (is_here, before) = (self.tree.is_valid(&block), self.lock.rank);
        if is_checked && is_here {
            if status.certificate.votes.aggregate().is_some() {
                self.adopt(&status.certificate, out);
            }
            self.open(&block, status.opened_by, out);
        } else if !is_here && status.certificate.votes.aggregate().is_some() {
            self.keep_shown(from, status.certificate, status.opened_by);
        }
        self.certify(block, out);
        self.try_advance(out);
        if self.lock.rank > before && self.has_shares() && !self.busy() {
            // No block will show it for a while, and not everybody is a neighbour of whoever made it.
            self.status_at = self.now;
        }
    }

    /// Moves on when a quorum has finished an epoch. The reference asks only about the epoch of the vote at hand and is
    /// saved by repetition; here a vote counts once, so every epoch that a vote is known of is asked about.
    pub(super) fn try_advance(&mut self, out: &mut Vec<Effect>) {
        let from = match self.pace() {
            Pace::Clocked => self.tree.head(),
            Pace::Responsive => self.lock.block,
        };
        let Some(validators) = self.tree.next_validators(&from).cloned() else { return };
        let (voted, opened) = self.book.ended(&validators).since(self.epoch);
        // An aggregate says that a quorum has finished the epoch of its block, whose single votes may never come.
        let aggregate = self.lock.certificate.votes.aggregate();
        let certified = aggregate.map(|votes| votes.epoch).filter(|epoch| *epoch >= self.epoch);
        if let Some(epoch) = voted.max(certified) {
            if epoch > self.epoch && voted == Some(epoch) && self.has_shares() {
                self.status_at = self.now;
            } else if epoch > self.epoch && voted == Some(epoch) {
                let votes = self.book.since(epoch, &validators).cloned();
                out.extend(votes.map(|vote| Effect::Broadcast(Message::Vote(vote))));
            }
            self.epoch = epoch.saturating_add(1);
            self.enter_epoch(out);
            let is_own = self.roles.validator.is_some() && self.proposer() == self.roles.validator;
            if is_own && self.has_shares() && self.timers.propose.is_some_and(|at| at > self.now) {
                // The votes may have come here alone, and there is nothing yet to propose.
                self.status_at = self.now;
            }
            return;
        }
        // More than a third, so at least one honest validator has seen the quorum that opened the epoch.
        if self.pace() == Pace::Responsive
            && let Some(epoch) = opened.filter(|epoch| *epoch > self.epoch)
        {
            self.epoch = epoch;
            self.enter_epoch(out);
        }
    }

    /// Whether a block and its parent each came in the epoch after the one before. Where an epoch has passed without a
    /// certificate nodes may have different locks, and expect different proposers.
    fn is_steady(&self, header: &Header) -> bool {
        let follows =
            |header: &Header, parent: &Header| vote::settles_parent(header, parent, Pace::Responsive);
        let Some(parent) = self.tree.header(&header.parent) else { return false };
        // Of genesis there is nothing before.
        let before = self.tree.header(&parent.parent);
        follows(header, parent) && before.is_none_or(|before| follows(parent, before))
    }

    /// Signs a vote for the tip where the rules allow it, and the last vote with the current epoch where they do not.
    pub(super) fn cast_vote(&mut self, repeat: bool, out: &mut Vec<Effect>) {
        let Some(me) = self.roles.validator else { return };
        let Some(tip) = self.tree.tip(&self.lock.block, |_| true) else { return };
        let Some(header) = self.tree.header(&tip).cloned() else { return };
        let pace = self.tree.pace(header.height);
        let has_say = |set: Option<&Arc<ValidatorSet>>| set.is_some_and(|set| set.contains(me));
        // Whoever has just come in may have nothing to vote on yet, but a say in which epoch it is.
        let newcomer = pace == Pace::Responsive && has_say(self.tree.next_validators(&self.lock.block));
        if !has_say(self.tree.validators(&tip)) && !newcomer {
            return;
        }
        let allowed = vote::allows(self.last_vote.as_ref(), &self.lock.block, &header, pace);
        let (block, height, rank) = match self.last_vote {
            _ if allowed => (tip, header.height, vote::rank(&header, pace)),
            Some(last) => (last.block, last.height, last.rank),
            // A first vote may go to what is certified already: it adds nothing, but it opens the next epoch.
            None => (self.lock.block, self.lock.height, self.lock.rank),
        };
        // A vote for a block that comes late does not end the present epoch.
        let is_late = !repeat && pace == Pace::Responsive && header.epoch < self.epoch;
        if is_late && !allowed {
            return;
        }
        let ended = self.last_vote.map_or(0, |last| last.epoch);
        let epoch = if is_late { header.epoch.max(ended) } else { self.epoch };
        let cast = LastVote { block, height, rank, epoch };
        // A vote of before a crash may have been lost with it.
        if self.voted == Some(cast) && !repeat {
            return;
        }
        self.voted = Some(cast);
        if self.last_vote != Some(cast) {
            let blocks = self.unlogged(&block);
            let vote = Some(WalVote { block, height, epoch });
            self.append(WalRecord { blocks, vote, ..WalRecord::default() }, out);
            self.last_vote = Some(cast);
        }
        let certified =
            self.tree.header(&block).and_then(|header| self.tree.header(&header.certificate.block));
        // For a block that has left the tree a vote can only be given again. Whether it was given once is the signer's to know,
        // which may have refused it, since a lost log leaves a lower lock behind: it refuses a first vote on so little.
        let certified_rank = certified.map_or(0, |header| vote::rank(header, pace));
        let vote = Vote::unsigned(block, height, epoch, me);
        // The epoch of the block is its rank at the responsive pace, even of one that has left the tree.
        let share = (self.has_shares() && pace == Pace::Responsive).then(|| self.spec.chain.clone());
        // A vote for the block of the epoch at hand is for whoever proposes next and shows the certificate. Anything else is for
        // everybody.
        let is_for_one = share.is_some()
            && allowed
            && !repeat
            && epoch == self.epoch
            && epoch == rank
            && !self.timers.failing
            && self.is_steady(&header);
        let to = is_for_one.then(|| self.scheduled(&block, epoch.saturating_add(1))).flatten();
        if to.is_some() {
            self.told_one = Some(self.now);
            self.timers.has_voted(self.now, &self.settings);
        }
        out.push(Effect::Sign { intent: Intent::Vote { vote, rank, certified_rank, share }, to });
    }
}
