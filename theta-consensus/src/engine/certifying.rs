//! Certificates that are aggregates: what they are checked against, made of and waited for.

use std::sync::Arc;

use theta_core::{
    block::{CommitCertificate, Header},
    hash::{Address, Hash},
    spec::CertificateRule,
    stake::ValidatorSet,
    vote::{Vote, VoteSet},
};

use super::{Effect, Engine};
use crate::{
    checks::{Below, Fault},
    epoch_end::EpochEnd,
    message::Peer,
};

/// Peers whose certificates of blocks that are not here are kept, one each.
const SHOWN: usize = 64;

/// A certificate that a peer has shown.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    certificate: CommitCertificate,
    /// What it says of the epochs after that.
    opened_by: EpochEnd,
}

impl Shown {
    /// Whether it may still move a lock of this epoch.
    pub(super) fn is_above(&self, epoch: u64) -> bool {
        self.certificate.votes.aggregate().is_some_and(|votes| votes.epoch > epoch)
    }
}

impl Engine {
    /// Whether votes have shares and certificates are made of them.
    pub(super) fn has_shares(&self) -> bool {
        let rules = self.spec.rules(self.tree.head_height() + 1);
        rules.consensus.certificate == CertificateRule::Aggregate
    }

    /// A known block and its validators, for its certificate to be checked against.
    fn with_validators(&self, block: &Hash) -> Option<(Arc<Header>, Arc<ValidatorSet>)> {
        Some((self.tree.header(block)?.clone(), self.tree.validators(block)?.clone()))
    }

    /// What a header's certificate and seed are checked against; `None` if that is not known yet.
    pub(super) fn below(&self, header: &Header) -> Option<Below> {
        let mut below = Below { shares: self.shares, ..Below::default() };
        let certificate = &header.certificate;
        // Nobody has to be convinced of the root, nor twice of the same.
        let is_known = certificate.block == self.tree.root() || *certificate == self.lock.certificate;
        if certificate.votes.aggregate().is_some() && !is_known {
            below.certified = Some(self.with_validators(&certificate.block)?);
        }
        if header.seed.is_some() {
            let validators = self.tree.next_validators(&header.parent)?.clone();
            below.parent = Some((self.tree.header(&header.parent)?.clone(), validators));
        }
        Some(below)
    }

    /// The same for what a status shows of a block and after it.
    pub(super) fn below_status(&self, block: &Hash) -> Option<Below> {
        let certified = self.with_validators(block).filter(|_| self.has_shares())?;
        let after = self.tree.next_validators(block).cloned();
        Some(Below { certified: Some(certified), parent: None, after, shares: self.shares })
    }

    /// A certificate of the votes for a block that are here, if they make one. Wrong shares are found, their votes dropped
    /// and their voters told about.
    pub(super) fn gather(
        &mut self,
        block: &Hash,
        validators: &Arc<ValidatorSet>,
        out: &mut Vec<Effect>,
    ) -> Option<CommitCertificate> {
        if !self.book.has_quorum(block, validators) {
            return None;
        }
        let votes: Vec<Vote> = self.book.on_block(block, validators).cloned().collect();
        if !self.has_shares() {
            return Some(CommitCertificate { votes: VoteSet::new(votes).into(), block: *block });
        }
        let epoch = self.tree.header(block)?.epoch;
        let on = (self.spec.chain.as_str(), block, epoch);
        let (aggregate, wrong) = self.shares.gather(&votes, on, validators);
        for voter in wrong {
            self.suspect(block, voter, out);
        }
        Some(CommitCertificate { votes: aggregate?.into(), block: *block })
    }

    pub(super) fn suspect(&mut self, block: &Hash, voter: Address, out: &mut Vec<Effect>) {
        self.book.drop_vote(block, voter);
        self.suspects.insert(voter);
        if Some(voter) != self.roles.validator {
            out.push(Effect::Accuse { validator: voter, fault: Fault::Share });
        }
    }

    /// Whether a vote of somebody who has given wrong shares before has one again.
    pub(super) fn is_wrong_again(&self, vote: &Vote) -> bool {
        if !self.suspects.contains(&vote.voter) {
            return false;
        }
        let Some((header, validators)) = self.with_validators(&vote.block) else { return true };
        let on = (header.chain.as_str(), &vote.block, header.epoch);
        !self.shares.gather([vote], on, &validators).1.is_empty()
    }

    /// Takes a certificate whose signature has been checked.
    pub(super) fn adopt(&mut self, certificate: &CommitCertificate, out: &mut Vec<Effect>) {
        let block = certificate.block;
        if block == self.lock.block && self.lock.certificate.votes.is_empty() && block != self.tree.root() {
            self.lock.certificate = certificate.clone();
        }
        if let Some(node) = self.tree.node(&block).filter(|node| node.is_valid())
            && self.ranks_above_lock(&node.header)
        {
            self.lock_on(certificate.clone(), out);
        }
    }

    /// Keeps what a peer shows until the block is here and executed.
    pub(super) fn keep_shown(&mut self, from: Peer, certificate: CommitCertificate, opened_by: EpochEnd) {
        if self.shown.len() < SHOWN || self.shown.contains_key(&from) {
            self.shown.insert(from, Shown { certificate, opened_by });
        }
    }

    /// Takes what was shown of a block that has just been executed.
    pub(super) fn take_shown(&mut self, block: &Hash, out: &mut Vec<Effect>) {
        let of_block = self.shown.iter().filter(|(_, shown)| shown.certificate.block == *block);
        for peer in of_block.map(|(peer, _)| *peer).collect::<Vec<_>>() {
            let Some(shown) = self.shown.remove(&peer) else { continue };
            let Some(below) = self.below_status(block) else { continue };
            let Shown { certificate, opened_by } = shown;
            match (below.verify_status(&self.spec.chain, &certificate, &opened_by), peer) {
                (Ok(is_checked), _) => {
                    self.adopt(&certificate, out);
                    if is_checked {
                        self.open(block, opened_by, out);
                    }
                }
                (Err(fault), Peer::Remote(peer)) => out.push(Effect::Penalize { peer, fault }),
                (Err(_), Peer::Own) => {}
            }
        }
    }
}
