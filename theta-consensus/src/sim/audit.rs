//! What must hold whatever happens, checked by a reading of the rules that shares no code with the engine.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use theta_core::{
    block::{Block, CommitCertificate, Header},
    bls,
    certificate::AggregateVotes,
    codec::rlp::{Decode, Encode},
    hash::{Address, Hash, U256},
    spec::{ChainSpec, Pace},
    stake::{Validator, ValidatorSet},
    vote::Vote,
};

use super::{Violation, node::Packet};
use crate::{
    engine::Held,
    light::{LightClient, Update},
    message::{MAX_MESSAGE_BYTES, Message},
    signer::Signed,
};

/// Why a block is settled: itself, its child, and the votes on the child.
#[derive(Clone, Debug)]
pub(super) struct Witness {
    pub(super) block: Arc<Block>,
    pub(super) child: Arc<Block>,
    pub(super) certificate: CommitCertificate,
}

pub(super) struct Audit {
    spec: ChainSpec,
    /// The validators, where they never change.
    validators: Option<Arc<ValidatorSet>>,
    /// Starts from genesis each time; where signatures are real and validators never change.
    light: Option<LightClient>,
    settled: BTreeMap<u64, Hash>,
    finals: BTreeMap<u64, Hash>,
    votes: BTreeMap<(usize, u64), Hash>,
    /// Headers of all blocks that were sent.
    pub(super) headers: BTreeMap<Hash, Arc<Header>>,
    /// Guardians that have voted for a checkpoint.
    guardians: BTreeMap<Hash, BTreeSet<usize>>,
    proposals: BTreeMap<(usize, u64), Hash>,
    pub(super) violations: Vec<Violation>,
}

impl Audit {
    pub(super) fn new(spec: ChainSpec, validators: Option<Arc<ValidatorSet>>) -> Self {
        Self {
            spec,
            validators,
            light: None,
            settled: BTreeMap::new(),
            finals: BTreeMap::new(),
            votes: BTreeMap::new(),
            headers: BTreeMap::new(),
            guardians: BTreeMap::new(),
            proposals: BTreeMap::new(),
            violations: Vec::new(),
        }
    }

    /// Lets a light client judge every witness too.
    pub(super) fn with_light_client(mut self, genesis: Header) -> Self {
        let validators = self.validators.as_deref().cloned();
        self.light = validators.map(|set| LightClient::new(Arc::new(self.spec.clone()), genesis, set));
        self
    }

    pub(super) fn broken(&mut self, violation: Violation) {
        // One of a kind says all; a broken rule is broken again and again.
        if self.violations.len() < 20 {
            self.violations.push(violation);
        }
    }

    pub(super) fn settled(&mut self, block: &Block) {
        let (height, hash) = (block.header.height, block.header.hash());
        if *self.settled.entry(height).or_insert(hash) != hash {
            self.broken(Violation::Conflict { height });
        }
        // Where validators change, those who are left may be no quorum of the new ones, and everybody is drawn.
        let parent = self.headers.get(&block.header.parent).filter(|_| self.validators.is_some());
        let was_absent = parent.is_some_and(|parent| parent.absent.contains(&block.header.proposer));
        let leaves_few = self.validators.as_ref().is_some_and(|set| {
            let all = set.as_slice().iter();
            let left = all.clone().filter(|member| !block.header.absent.contains(&member.address));
            let stake = |sum: U256, member: &Validator| sum + member.stake.get();
            left.fold(U256::ZERO, stake) * U256::from(3) <= all.fold(U256::ZERO, stake) * U256::from(2)
        });
        if was_absent || leaves_few {
            self.broken(Violation::Absent { height });
        }
    }

    /// A checkpoint that a node holds for final. `settled` is the block that it has settled at that height.
    /// `guardians` is how many there are, and how many of them break the rules.
    pub(super) fn finalized(
        &mut self,
        node: usize,
        (hash, height): (Hash, u64),
        settled: Option<Hash>,
        (guardians, faulty): (usize, usize),
    ) {
        let voted = self.guardians.get(&hash).map_or(0, BTreeSet::len);
        if (voted + faulty) * 3 <= guardians * 2 {
            self.broken(Violation::NotVoted { height });
        }
        if *self.finals.entry(height).or_insert(hash) != hash {
            self.broken(Violation::FinalConflict { height });
        }
        if settled != Some(hash) {
            self.broken(Violation::FinalFell { node });
        }
    }

    /// A block that anybody has sent.
    pub(super) fn seen(&mut self, block: &Block) {
        self.headers.entry(block.header.hash()).or_insert_with(|| Arc::new(block.header.clone()));
    }

    fn rank(&self, block: &Hash) -> Option<u64> {
        let header = self.headers.get(block)?;
        Some(match self.spec.rules(header.height).consensus.pace {
            Pace::Clocked => header.height,
            Pace::Responsive => header.epoch,
        })
    }

    /// `locked` is the rank of what the node was locked on before.
    pub(super) fn signed(&mut self, node: usize, signed: &Signed, locked: u64) {
        match signed {
            Signed::Message(Message::Vote(vote)) => {
                let rank = self.rank(&vote.block).unwrap_or(0);
                let certified = self.headers.get(&vote.block).map(|header| header.certificate.block);
                let certified = certified.and_then(|certified| self.rank(&certified));
                // Saying a vote again is no vote; a block at the root certifies nothing that was sent.
                let is_first = !self.votes.contains_key(&(node, rank));
                if is_first && certified.is_some_and(|certified| certified < locked) {
                    self.broken(Violation::BelowLock { validator: node, height: vote.height });
                }
                if *self.votes.entry((node, rank)).or_insert(vote.block) != vote.block {
                    self.broken(Violation::DoubleVote { validator: node, rank });
                }
            }
            Signed::Proposal(proposal) => {
                let (epoch, digest) = (proposal.block.header.epoch, proposal.block.header.digest());
                if *self.proposals.entry((node, epoch)).or_insert(digest) != digest {
                    self.broken(Violation::DoubleProposal { validator: node, epoch });
                }
            }
            Signed::Message(Message::GuardianPart(part)) => {
                self.guardians.entry(part.block).or_default().insert(node);
            }
            Signed::Message(_) => {}
        }
    }

    /// `voted` says whether a vote is signed, `summed` whether a share is that of all these keys.
    pub(super) fn witness(
        &mut self,
        witness: &Witness,
        voted: impl Fn(&Vote) -> bool,
        summed: impl Fn(&[bls::PublicKey], &[u8], &bls::Signature) -> bool,
    ) {
        let (child, certificate) = (&witness.child.header, &witness.certificate);
        let block = witness.block.header.hash();
        let follows = match self.spec.rules(child.height).consensus.pace {
            Pace::Clocked => true,
            Pace::Responsive => child.epoch == witness.block.header.epoch + 1,
        };
        let linked =
            child.parent == block && child.certificate.block == block && certificate.block == child.hash();
        let mut stakes: BTreeMap<Address, U256> = BTreeMap::new();
        for vote in certificate.votes.list() {
            if vote.block == certificate.block && voted(vote) {
                stakes.insert(vote.voter, U256::from(1));
            }
        }
        if let (Some(set), Some(votes)) = (&self.validators, certificate.votes.aggregate()) {
            let named = |(index, _): &(usize, _)| votes.signers.get(*index);
            let voters: Vec<_> =
                set.as_slice().iter().enumerate().filter(named).map(|(_, one)| one).collect();
            let keys: Vec<_> = voters.iter().filter_map(|voter| voter.bls).collect();
            let message = AggregateVotes::message(&self.spec.chain, &child.hash(), child.epoch);
            if summed(&keys, &message, &votes.signature) {
                stakes.extend(voters.iter().map(|voter| (voter.address, U256::from(1))));
            }
        }
        let enough = self.validators.as_ref().is_none_or(|set| {
            let all = set.as_slice().iter().fold(U256::ZERO, |sum, member| sum + member.stake.get());
            let voted = set.as_slice().iter().filter(|member| stakes.contains_key(&member.address));
            let voted = voted.fold(U256::ZERO, |sum, member| sum + member.stake.get());
            voted * U256::from(3) > all * U256::from(2)
        });
        let believed = self.light.clone().is_none_or(|mut client| {
            let update = Update {
                block: witness.block.header.clone(),
                child: child.clone(),
                certificate: certificate.clone(),
                validators: None,
            };
            client.advance(&update).is_ok()
        });
        if !(follows && linked && enough && believed) {
            self.broken(Violation::NoWitness { height: child.height - 1 });
        }
    }

    pub(super) fn held(&mut self, node: usize, held: &Held, validators: usize) {
        let within = held.blocks <= 512 + 1
            && held.orphans <= 256
            // Four for each voter and for each peer.
            && held.wanted <= 8 * validators
            && held.refused <= 1_024
            // One for each voter and block, and a few for each voter on blocks that are not known.
            && held.votes <= (held.blocks + 2_100) * validators + validators * 8;
        if !within {
            self.broken(Violation::Swollen { node });
        }
    }

    /// Whether a packet is read back as it was written.
    pub(super) fn encoding(&mut self, node: usize, packet: &Packet) {
        let same = match packet {
            Packet::Message(message) => {
                Message::from_rlp(&message.to_rlp(), MAX_MESSAGE_BYTES).as_ref() == Ok(message.as_ref())
            }
            Packet::Block(block) => {
                let bytes = block.to_rlp();
                Block::from_rlp(&bytes, bytes.len()).as_ref() == Ok(block.as_ref())
            }
            Packet::Fetch { .. } | Packet::Blocks(_) => true,
        };
        if !same {
            self.broken(Violation::Garbled { node });
        }
    }
}
