//! Certificates: what this node is locked on, and what is settled.

use std::collections::BTreeSet;

use theta_core::{
    block::{CommitCertificate, Header},
    context::Finality,
    hash::{Address, Hash},
    spec::Pace,
};

use super::{Effect, Engine};
use crate::{vote, wal::WalRecord};

/// The highest certified block: lock and root of the fork choice.
#[derive(Clone, Debug)]
pub(super) struct Lock {
    pub(super) block: Hash,
    pub(super) height: u64,
    /// What votes and later locks are measured by.
    pub(super) rank: u64,
    /// Without votes where nobody has to be convinced: at the root, or after a lost log.
    pub(super) certificate: CommitCertificate,
}

impl Engine {
    /// Locks on a block that has become the highest certified one, and settles its parent if it certifies that itself.
    pub(super) fn certify(&mut self, hash: Hash, out: &mut Vec<Effect>) {
        let Some(node) = self.tree.node(&hash) else { return };
        if !node.is_valid() || !self.ranks_above_lock(&node.header) {
            return;
        }
        let Some(validators) = self.tree.validators(&hash).cloned() else { return };
        if let Some(certificate) = self.gather(&hash, &validators, out) {
            self.lock_on(certificate, out);
        }
    }

    pub(super) fn ranks_above_lock(&self, header: &Header) -> bool {
        vote::rank(header, self.tree.pace(header.height)) > self.lock.rank
    }

    /// Locks on an executed block above the lock.
    pub(super) fn lock_on(&mut self, certificate: CommitCertificate, out: &mut Vec<Effect>) {
        let hash = certificate.block;
        let Some(header) = self.tree.header(&hash).cloned() else { return };
        let (height, epoch) = (header.height, header.epoch);
        let rank = vote::rank(&header, self.tree.pace(height));
        let blocks = self.unlogged(&hash);
        self.append(WalRecord { blocks, lock: Some(certificate.clone()), ..WalRecord::default() }, out);
        self.lock = Lock { block: hash, height, rank, certificate };
        self.timers.failing = false;
        if !self.timers.comes(epoch) && epoch == self.epoch {
            self.timers.certified(self.now, &self.settings);
        }
        if epoch < self.epoch && self.pace() == Pace::Responsive {
            // This node has gone on without the certificate, so others may have, too.
            self.status_at = self.now;
        }
        self.propose_again();
        self.gather_members();
        self.settle(out);
    }

    /// Finds a certificate for a lock that has none, after a lost log: without one this node may not propose.
    pub(super) fn complete_lock(&mut self, out: &mut Vec<Effect>) {
        let block = self.lock.block;
        if !self.lock.certificate.votes.is_empty() || block == self.tree.root() {
            return;
        }
        let Some(validators) = self.tree.validators(&block).cloned() else { return };
        if let Some(certificate) = self.gather(&block, &validators, out) {
            self.lock.certificate = certificate;
        }
    }

    pub(super) fn settle(&mut self, out: &mut Vec<Effect>) {
        let Some(node) = self.tree.node(&self.lock.block) else { return };
        let parent = node.header.parent;
        let Some(below) = self.tree.node(&parent) else { return };
        let pace = self.tree.pace(node.header.height);
        if !node.is_valid() || !vote::settles_parent(&node.header, &below.header, pace) {
            return;
        }
        self.settled_by = Some((node.block.clone(), self.lock.certificate.clone()));
        let gone = self.tree.settle(&parent);
        self.gather_members();
        let Some(header) = self.tree.header(&parent).cloned() else { return };
        let height = header.height;
        out.push(Effect::Reached { finality: Finality::Settled, hash: parent, header });
        for hash in gone.iter().filter(|hash| !self.tree.is_settled(hash)).copied().collect::<Vec<_>>() {
            self.refuse(hash);
        }
        self.orphans.retain(|_, orphan| orphan.block.header.height > height);
        let rank = self.lock.rank;
        self.shown.retain(|_, shown| shown.is_above(rank));
        let members: BTreeSet<Address> =
            self.book.latest().map(|vote| vote.voter).filter(|voter| self.is_member(voter)).collect();
        self.book.forget(&gone, |voter| members.contains(voter));
        self.open_ballot(out);
        self.learn_finality(out);
        self.trim_log(out);
    }
}
