//! Blocks: from their arrival to their execution.

use std::sync::Arc;

use theta_core::{
    block::{CommitCertificate, Header},
    context::{BlockContext, PostState},
    hash::Hash,
    spec::Pace,
};

use super::{
    Effect, Engine,
    fetching::{Arrival, Reason},
};
use crate::{
    certificate::check_form,
    checks::Fault,
    message::Peer,
    proposer::check_absent,
    set_change,
    tree::{Node, Progress},
};

/// Blocks of later epochs than this many ahead are taken only while fetching.
const BLOCK_WINDOW: u64 = 64;
/// Blocks without a parent here are kept only this far above the lock.
const ORPHAN_HEIGHTS: u64 = 64;
/// Blocks without a parent here, of all peers and of one.
const ORPHANS: usize = 256;
const ORPHANS_PER_PEER: usize = 32;
/// Blocks above the settled one at the responsive pace. There one settles whenever two certified ones follow each other, so
/// an honest network holds a handful; a net that settles nothing for hours must not fill the memory with what is tried.
const BLOCKS: usize = 512;
/// Blocks of one epoch that are kept without anybody's vote asking for them; an honest proposer makes one.
const BLOCKS_PER_EPOCH: usize = 2;

impl Engine {
    pub(super) fn has_room(&self, from: Peer, hash: &Hash, header: &Header) -> bool {
        if !self.is_lost(hash) || header.height <= self.tree.head_height() {
            return false;
        }
        if !self.tree.knows(&header.parent) {
            let of_peer = self.orphans.values().filter(|orphan| orphan.from == from).count();
            return header.height <= self.lock.height.saturating_add(ORPHAN_HEIGHTS)
                && self.orphans.len() < ORPHANS
                && of_peer < ORPHANS_PER_PEER;
        }
        if self.wants.contains_key(hash) {
            return true;
        }
        // A seeded schedule names another proposer on each parent.
        let beside = |node: &Node| node.header.epoch == header.epoch && node.header.parent == header.parent;
        let of_epoch = match self.pace() {
            Pace::Clocked => self.tree.nodes().filter(|(_, node)| node.header.epoch == header.epoch).count(),
            Pace::Responsive => self.tree.nodes().filter(|(_, node)| beside(node)).count(),
        };
        if of_epoch >= BLOCKS_PER_EPOCH {
            return false;
        }
        if self.wants.is_empty() && header.epoch > self.epoch.saturating_add(BLOCK_WINDOW) {
            return false;
        }
        // Where the schedule is known, a block of somebody else costs no signature check.
        self.tree.next_validators(&header.parent).is_none()
            || self.scheduled(&header.parent, header.epoch) == Some(header.proposer)
    }

    pub(super) fn on_block(&mut self, hash: Hash, arrival: Arrival, out: &mut Vec<Effect>) {
        let (from, header) = (arrival.from, &arrival.block.header);
        let parent = header.parent;
        if !self.has_room(from, &hash, header) {
            return;
        }
        let is_scheduled = self.scheduled(&parent, header.epoch) == Some(header.proposer);
        let wanted = self.wants.remove(&hash);
        if wanted.is_none() && is_scheduled {
            // What had to be asked for got lost, which says nothing of how slow the network is.
            self.timers.comes(header.epoch);
        }
        if !self.make_room() {
            self.forget_orphans_of(hash);
            return;
        }
        if self.tree.node(&parent).is_some() || parent == self.tree.head() {
            self.admit(hash, arrival, out);
            return;
        }
        // The lowest missing block below each orphan is looked for. One for which nobody looks would keep those above it from
        // being asked for, since they are here.
        let reason = wanted.map_or(Reason::Peer(from), |want| want.reason);
        if self.orphans.contains_key(&parent) || self.is_lost(&parent) && self.want(parent, from, reason, 0) {
            self.orphans.insert(hash, arrival);
        } else {
            self.forget_orphans_of(hash);
        }
    }

    /// Forgets the block of the lowest epoch that nothing stands on when there are too many. The lock, what leads to it and
    /// the last vote stay. Whatever is needed again can be fetched.
    fn make_room(&mut self) -> bool {
        if self.pace() == Pace::Clocked || self.tree.nodes().count() < BLOCKS {
            return true;
        }
        let kept = self.tree.path(&self.lock.block);
        let voted = self.last_vote.map(|vote| vote.block);
        let loose = self
            .tree
            .nodes()
            .filter(|(hash, node)| node.children.is_empty() && !kept.contains(hash) && Some(**hash) != voted);
        let oldest = loose.map(|(hash, node)| (node.header.epoch, *hash)).min();
        oldest.is_some_and(|(_, hash)| !self.tree.remove(&hash).is_empty())
    }

    /// Takes a block whose parent is here, and those that waited for it.
    fn admit(&mut self, hash: Hash, arrival: Arrival, out: &mut Vec<Effect>) {
        let mut open = vec![(hash, arrival)];
        while let Some((hash, Arrival { from, block, upper, below })) = open.pop() {
            let parent = block.header.parent;
            if !self.tree.insert(hash, block, from, false) {
                continue;
            }
            if let Some(node) = self.tree.node_mut(&hash) {
                node.upper = upper;
                node.below = below;
            }
            let children = self.orphans.iter().filter(|(_, orphan)| orphan.block.header.parent == hash);
            for child in children.map(|(child, _)| *child).collect::<Vec<_>>() {
                if let Some(orphan) = self.orphans.remove(&child) {
                    open.push((child, orphan));
                }
            }
            self.watch_block(&hash, out);
            if self.tree.is_valid(&parent) {
                self.try_execute(hash, out);
            }
        }
    }

    /// Hands a block out for execution if it stands the checks against the chain; its parent has been executed.
    pub(super) fn try_execute(&mut self, hash: Hash, out: &mut Vec<Effect>) {
        let Some(node) = self.tree.node(&hash) else { return };
        if !matches!(node.progress, Progress::Waiting) {
            return;
        }
        let (block, checked) = (node.block.clone(), (node.upper, node.below));
        match self.judge(&hash, &block.header, checked) {
            Ok(context) => {
                if let Some(node) = self.tree.node_mut(&hash) {
                    node.progress = Progress::Executing;
                }
                out.push(Effect::Execute { context, hash, block: block.clone() });
                self.learn(&block.header.certificate, out);
            }
            Err(fault) => self.condemn(hash, fault, out),
        }
    }

    /// `spec/consensus.md` section 7. An error without a fault is a block that cannot be judged here. `upper` and `below` say
    /// what of its signatures was checked when it came.
    pub(super) fn judge(
        &self,
        hash: &Hash,
        header: &Header,
        (upper, below): (bool, bool),
    ) -> Result<BlockContext, Option<Fault>> {
        let parent = self.tree.header(&header.parent).ok_or(None)?;
        let certified = &header.certificate.block;
        if header.height != parent.height + 1 {
            return Err(Some(Fault::Height));
        }
        if self.final_checkpoint.is_some_and(|(block, height)| height == header.height && block != *hash) {
            return Err(Some(Fault::Final));
        }
        if header.epoch <= parent.epoch {
            return Err(Some(Fault::Epoch));
        }
        if !self.tree.is_ancestor(certified, &header.parent) {
            // Below what is remembered nothing can be said; that far back no honest proposer's lock is.
            return Err(self.tree.knows(certified).then_some(Fault::Ancestor));
        }
        let needs_no_votes =
            if self.has_shares() { *certified == self.tree.root() } else { self.tree.is_settled(certified) };
        if !needs_no_votes {
            let validators = self.tree.validators(certified).ok_or(None)?;
            let epoch = self.tree.header(certified).ok_or(None)?.epoch;
            check_form(&header.certificate, epoch, validators)
                .map_err(|error| Some(Fault::Certificate(error)))?;
        }
        let may_certify = match self.tree.pace(header.height) {
            Pace::Clocked => {
                set_change::allows(&header.parent, self.tree.change_near(&header.parent), certified)
            }
            Pace::Responsive => header.parent == *certified,
        };
        if !may_certify {
            return Err(Some(Fault::SetChange));
        }
        let validators = self.tree.next_validators(&header.parent).ok_or(None)?;
        if self.scheduled(&header.parent, header.epoch) != Some(header.proposer) {
            return Err(Some(Fault::Proposer));
        }
        // Whose votes certify the root is not known where a snapshot begins.
        let voters = self.tree.validators(certified).filter(|_| *certified != self.tree.root());
        check_absent(&self.spec, header, parent, validators, voters.map(Arc::as_ref)).map_err(Some)?;
        if !below {
            self.below(header).ok_or(None)?.verify(&header.certificate, Some(header)).map_err(Some)?;
        }
        self.tree.validators(hash).ok_or(None)?;
        let voted_state = self.judge_upper(header, upper)?;
        Ok(BlockContext {
            parent: parent.clone(),
            parent_hash: header.parent,
            epoch: header.epoch,
            timestamp: header.timestamp.clone(),
            proposer: header.proposer,
            validators: validators.clone(),
            guardian_votes: header.extension.guardian_votes().cloned(),
            elite_votes: header.extension.elite_votes().cloned(),
            voted_state,
            freeze_stakes: false,
        })
    }

    /// Takes the votes of a certificate that a judged header carries.
    pub(super) fn learn(&mut self, certificate: &CommitCertificate, out: &mut Vec<Effect>) {
        let block = certificate.block;
        if self.tree.is_settled(&block) {
            // These votes need not have been checked.
            return;
        }
        if certificate.votes.aggregate().is_some() {
            self.adopt(certificate, out);
            self.try_advance(out);
            return;
        }
        let Some(validators) = self.tree.validators(&block).cloned() else { return };
        for vote in certificate.votes.list() {
            if validators.contains(vote.voter) {
                self.book.insert(vote.clone(), |_| true);
            }
        }
        self.certify(block, out);
        self.try_advance(out);
    }

    pub(super) fn condemn(&mut self, hash: Hash, fault: Option<Fault>, out: &mut Vec<Effect>) {
        let from = self.tree.node(&hash).map(|node| node.from);
        for (hash, _) in self.tree.remove(&hash) {
            self.refuse(hash);
        }
        if let (Some(Peer::Remote(peer)), Some(fault)) = (from, fault) {
            out.push(Effect::Penalize { peer, fault });
        }
    }

    pub(super) fn on_executed(&mut self, hash: Hash, post: Option<PostState>, out: &mut Vec<Effect>) {
        let Some(node) = self.tree.node_mut(&hash) else { return };
        if !matches!(node.progress, Progress::Executing) {
            return;
        }
        let Some(post) = post else {
            self.condemn(hash, Some(Fault::Execution), out);
            return;
        };
        node.progress = Progress::Valid(post);
        let epoch = node.header.epoch;
        self.work = false;
        if self.busy() {
            let pace = self.pace();
            self.timers.hurry(self.now, pace, &self.settings);
        }
        let votes_now = match self.pace() {
            Pace::Clocked => {
                self.timers.block_seen |= epoch == self.epoch || epoch.saturating_add(1) == self.epoch;
                self.timers.block_seen && self.timers.vote_ready
            }
            // A block that comes after its epoch may lack just this vote; whoever has it says nothing of the present epoch.
            Pace::Responsive => true,
        };
        if votes_now {
            self.cast_vote(false, out);
        }
        if hash == self.lock.block {
            // After a restart the lock is known before its block has been executed again.
            self.gather_members();
            self.propose_again();
            self.settle(out);
        }
        self.certify(hash, out);
        self.take_shown(&hash, out);
        self.try_advance(out);
        for child in self.tree.children(&hash) {
            self.try_execute(child, out);
        }
    }
}
