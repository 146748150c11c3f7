//! Validators that break the rules. Each strategy is a file.
//!
//! A faulty validator runs an honest engine, which keeps it up to date; its strategy sees what that engine wants to send
//! and what comes in, and says what is sent instead. All of them together know each other's keys.

mod bad_certificates;
mod delay;
mod double_final;
mod equivocate;
mod flood;
mod long_range;
mod replay;
mod split_votes;
mod withhold;

use std::{collections::BTreeMap, sync::Arc};

use theta_core::{
    bits::Bits,
    block::{Block, CommitCertificate, Header, Seed},
    bls,
    certificate::{AggregateVotes, epoch_end_message},
    hash::Hash,
    sign::Signer,
    spec::{CertificateRule, ChainSpec},
    stake::GuardianPool,
    vote::{Vote, VoteSet},
};

use super::{node::Packet, random::Random};
use crate::{
    certificate::{Shares, VoteKey},
    message::Message,
    pace::Millis,
};

/// How a validator breaks the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Strategy {
    /// Proposes two blocks and votes for every block it sees.
    Equivocate,
    /// Shows proposals and votes to some only.
    Withhold,
    /// Sends everything late.
    Delay,
    /// Votes differently towards each half, and with epochs that have not come.
    SplitVotes,
    /// Proposes blocks whose certificates certify nothing.
    BadCertificates,
    /// Sends again what others have sent.
    Replay,
    /// Builds on blocks that the others have left behind.
    LongRange,
    /// As a guardian, votes for every checkpoint of a height; as a validator does what [`Self::Equivocate`] does.
    DoubleFinal,
    /// Sends whatever costs room: votes for unknown blocks, blocks without parents, lies about where it stands.
    Flood,
}

impl Strategy {
    /// All that validators do.
    pub const ALL: [Self; 8] = [
        Self::Equivocate,
        Self::Withhold,
        Self::Delay,
        Self::SplitVotes,
        Self::BadCertificates,
        Self::Replay,
        Self::LongRange,
        Self::Flood,
    ];

    pub(super) fn start(self) -> Box<dyn Adversary> {
        match self {
            Self::Equivocate => Box::new(equivocate::Equivocate::default()),
            Self::Withhold => Box::new(withhold::Withhold),
            Self::Delay => Box::new(delay::Delay),
            Self::SplitVotes => Box::new(split_votes::SplitVotes::default()),
            Self::BadCertificates => Box::new(bad_certificates::BadCertificates),
            Self::Replay => Box::new(replay::Replay::default()),
            Self::LongRange => Box::new(long_range::LongRange::default()),
            Self::DoubleFinal => Box::new(double_final::DoubleFinal::default()),
            Self::Flood => Box::new(flood::Flood),
        }
    }
}

/// What a strategy does with a packet.
pub(super) trait Adversary {
    /// The honest engine wants to send this, to one node or to all.
    fn outgoing(&mut self, hand: &mut Hand<'_>, to: Option<usize>, packet: Packet);
    /// This has come in. The engine gets it too.
    fn incoming(&mut self, _: &mut Hand<'_>, _: &Packet) {}
}

/// What a strategy can do.
pub(super) struct Hand<'a> {
    pub(super) me: usize,
    pub(super) nodes: usize,
    /// The first nodes; those behind them only look on.
    pub(super) validators: usize,
    pub(super) spec: &'a ChainSpec,
    /// Who votes on checkpoints.
    pub(super) pool: Option<&'a GuardianPool>,
    pub(super) checkpoint_keys: &'a [Option<bls::SecretKey>],
    /// Everybody of the conspiracy, this node among them.
    pub(super) allies: &'a [usize],
    pub(super) keys: &'a [Arc<dyn Signer>],
    pub(super) vote_keys: &'a [VoteKey],
    pub(super) shares: Shares,
    /// Of all blocks that anybody has sent.
    pub(super) headers: &'a BTreeMap<Hash, Arc<Header>>,
    pub(super) random: &'a mut Random,
    /// To whom, how much later, what.
    pub(super) sent: Vec<(usize, Millis, Packet)>,
}

impl Hand<'_> {
    fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let me = self.me;
        (0..self.nodes).filter(move |to| *to != me)
    }

    fn send(&mut self, to: usize, packet: Packet) {
        self.sent.push((to, 0, packet));
    }

    fn send_to(&mut self, to: Option<usize>, packet: &Packet) {
        match to {
            Some(to) => self.send(to, packet.clone()),
            None => self.others().for_each(|to| self.send(to, packet.clone())),
        }
    }

    fn is_mine(&self, block: &Block) -> bool {
        block.header.proposer == self.keys[self.me].address()
    }

    fn pick(&mut self) -> usize {
        let to = usize::try_from(self.random.below(self.nodes as u64)).unwrap_or(0);
        if to == self.me { (to + 1) % self.nodes } else { to }
    }

    fn hash(&mut self) -> Hash {
        let mut hash = Hash::ZERO;
        for part in hash.0.chunks_exact_mut(8) {
            part.copy_from_slice(&self.random.next().to_be_bytes());
        }
        hash
    }

    fn has_shares(&self) -> bool {
        self.spec.rules(1).consensus.certificate == CertificateRule::Aggregate
    }

    /// A vote signed by an ally. A block that nobody has sent yet is of the vote's epoch.
    fn vote(&self, ally: usize, block: Hash, height: u64, epoch: u64) -> Vote {
        let key = &self.keys[ally];
        let mut vote = Vote::unsigned(block, height, epoch, key.address());
        if self.has_shares() {
            let of_block = self.headers.get(&block).map_or(epoch, |header| header.epoch);
            let message = AggregateVotes::message(&self.spec.chain, &block, of_block);
            vote.share = Some(self.vote_keys[ally].sign(&message));
            if epoch > of_block {
                vote.end = Some(self.vote_keys[ally].sign(&epoch_end_message(&self.spec.chain, epoch)));
            }
        }
        vote.signature = key.sign(&vote.digest()).unwrap_or_default();
        vote
    }

    /// The same vote with a signature for the end of its epoch that is another's.
    fn with_wrong_end(&self, vote: &Vote) -> Vote {
        let mut wrong = Vote { end: vote.share, ..vote.clone() };
        wrong.signature = self.keys[self.me].sign(&wrong.digest()).unwrap_or_default();
        wrong
    }

    fn vote_packet(&self, ally: usize, block: Hash, height: u64, epoch: u64) -> Packet {
        Packet::from(Message::Vote(self.vote(ally, block, height, epoch)))
    }

    /// A certificate of votes for a block of this epoch, in the form of the chain, whether they make one or not. Validators
    /// are taken to be those of the beginning.
    fn certificate(&self, block: Hash, epoch: u64, votes: Vec<Vote>) -> CommitCertificate {
        if !self.has_shares() {
            return CommitCertificate { votes: VoteSet::new(votes).into(), block };
        }
        let mut set: Vec<_> = self.keys[..self.validators].iter().map(|key| key.address()).collect();
        set.sort();
        let mut signers = Bits::new(set.len());
        let mut shares = Vec::new();
        for (index, address) in set.iter().enumerate() {
            let share = votes.iter().find(|vote| vote.voter == *address).and_then(|vote| vote.share);
            if let Some(share) = share {
                signers.set(index);
                shares.push(share);
            }
        }
        match self.shares.sum(&shares) {
            Some(signature) => {
                CommitCertificate { votes: AggregateVotes { epoch, signers, signature }.into(), block }
            }
            None => CommitCertificate::bare(block),
        }
    }

    /// Signs a block anew after a change.
    fn sign(&self, mut block: Block) -> Arc<Block> {
        if block.header.seed.is_some()
            && let Some(parent) = self.headers.get(&block.header.parent)
        {
            let message = Seed::message(&block.header.chain, block.header.epoch);
            block.header.seed = Some(Seed::after(&parent.draw(), self.vote_keys[self.me].sign(&message)));
        }
        self.seal(block)
    }

    /// Signs a block whatever its seed is.
    fn seal(&self, mut block: Block) -> Arc<Block> {
        block.header.signature = self.keys[self.me].sign(&block.header.digest()).unwrap_or_default();
        Arc::new(block)
    }
}
