//! Two blocks for each of one's epochs, one for each half of the others, and votes for whatever is shown.

use std::{collections::BTreeMap, sync::Arc};

use theta_core::{
    block::Block,
    hash::{Address, Hash},
    vote::Vote,
};

use super::{Adversary, Hand};
use crate::{message::Message, sim::node::Packet};

#[derive(Default)]
pub(super) struct Equivocate {
    /// Blocks of the conspiracy and their twins, both ways.
    twins: BTreeMap<Hash, Hash>,
    votes: BTreeMap<Hash, BTreeMap<Address, Vote>>,
}

impl Equivocate {
    fn note(&mut self, vote: &Vote) {
        self.votes.entry(vote.block).or_default().insert(vote.voter, vote.clone());
    }

    /// A second block for the same epoch: on the twin of the parent if votes for that one are at hand, so that both
    /// branches grow; else a rival beside the block.
    fn twin(&self, hand: &Hand<'_>, block: &Block) -> Arc<Block> {
        let mut twin = block.clone();
        let parent = self.twins.get(&block.header.parent);
        match parent.and_then(|parent| Some((parent, self.votes.get(parent)?))) {
            Some((parent, votes)) if votes.len() * 3 > hand.validators * 2 => {
                twin.header.parent = *parent;
                let epoch = hand.headers.get(parent).map_or(0, |header| header.epoch);
                twin.header.certificate = hand.certificate(*parent, epoch, votes.values().cloned().collect());
            }
            _ => twin.header.timestamp += 1_u8,
        }
        hand.sign(twin)
    }
}

impl Adversary for Equivocate {
    fn outgoing(&mut self, hand: &mut Hand<'_>, to: Option<usize>, packet: Packet) {
        let Packet::Block(block) = &packet else { return hand.send_to(to, &packet) };
        if !hand.is_mine(block) {
            return hand.send_to(to, &packet);
        }
        let twin = self.twin(hand, block);
        let (hash, other) = (block.header.hash(), twin.header.hash());
        self.twins.insert(hash, other);
        self.twins.insert(other, hash);
        for to in hand.others() {
            let shown = if to % 2 == 0 { block } else { &twin };
            hand.send(to, Packet::Block(shown.clone()));
        }
        // Each half gets the votes for what it was shown. (The allies' own engines vote for one of them, towards everybody.)
        for ally in hand.allies {
            for (half, hash) in [hash, other].into_iter().enumerate() {
                let vote = hand.vote(*ally, hash, block.header.height, block.header.epoch);
                self.note(&vote);
                for to in hand.others().filter(|to| to % 2 == half) {
                    hand.send(to, Packet::from(Message::Vote(vote.clone())));
                }
            }
        }
    }

    fn incoming(&mut self, hand: &mut Hand<'_>, packet: &Packet) {
        if let Some(Message::Vote(vote)) = packet.message() {
            self.note(vote);
        }
        if let Packet::Block(block) = packet {
            let header = &block.header;
            for ally in hand.allies {
                let vote = hand.vote(*ally, header.hash(), header.height, header.epoch);
                self.note(&vote);
                hand.send_to(None, &Packet::from(Message::Vote(vote)));
            }
        }
        while self.votes.len() > 500 {
            self.votes.pop_first();
        }
    }
}
