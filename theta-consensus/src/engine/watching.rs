//! Contradictions of others: found, kept from being told twice, reported and passed on.

use theta_core::{
    evidence::Evidence,
    hash::{Address, Hash},
};

use super::{Effect, Engine};
use crate::{
    message::{Message, Peer},
    vote::rank,
};

/// Validators that were reported, and are not again.
const REPORTED: usize = 256;

impl Engine {
    /// Whether evidence is new, and about somebody who has a say.
    pub(super) fn wants_evidence(&self, evidence: &Evidence) -> bool {
        let offender = evidence.offender();
        self.is_member(&offender) && !self.reported.contains(&offender) && self.reported.len() < REPORTED
    }

    pub(super) fn on_evidence(&mut self, from: Peer, evidence: Evidence, out: &mut Vec<Effect>) {
        if !self.wants_evidence(&evidence) {
            return;
        }
        self.reported.insert(evidence.offender());
        out.push(match from {
            Peer::Own => Effect::Broadcast(Message::Evidence(evidence.clone())),
            Peer::Remote(_) => Effect::Relay { message: Message::Evidence(evidence.clone()), from },
        });
        out.push(Effect::Report(evidence));
    }

    /// Looks for a second block of the same epoch and for votes that the block and a rival have in common.
    pub(super) fn watch_block(&mut self, hash: &Hash, out: &mut Vec<Effect>) {
        let Some(node) = self.tree.node(hash) else { return };
        let header = node.header.clone();
        let twin = self.tree.nodes().find(|(other, node)| {
            *other != hash && node.header.epoch == header.epoch && node.header.proposer == header.proposer
        });
        if let Some((_, twin)) = twin
            && twin.header.digest() != header.digest()
        {
            let pair = [twin.header.as_ref().clone(), header.as_ref().clone()];
            self.on_evidence(Peer::Own, Evidence::Proposals(Box::new(pair)), out);
        }
        for voter in self.book.voters_on(hash) {
            self.watch_vote(hash, voter, out);
        }
    }

    /// Looks for a vote of the same voter for a rival of the block.
    pub(super) fn watch_vote(&mut self, hash: &Hash, voter: Address, out: &mut Vec<Effect>) {
        let Some(node) = self.tree.node(hash) else { return };
        let (header, pace) = (node.header.clone(), self.tree.pace(node.header.height));
        let rivals = self.tree.nodes().filter(|(other, node)| {
            *other != hash && rank(&node.header, self.tree.pace(node.header.height)) == rank(&header, pace)
        });
        let found = { rivals }.find_map(|(other, node)| {
            let votes = [self.book.vote_on(other, voter)?.clone(), self.book.vote_on(hash, voter)?.clone()];
            let headers = [node.header.as_ref().clone(), header.as_ref().clone()];
            Some(Evidence::Votes { votes: Box::new(votes), headers: Box::new(headers) })
        });
        if let Some(evidence) = found {
            self.on_evidence(Peer::Own, evidence, out);
        }
    }
}
