//! Branches from blocks that have been left behind, with the real certificates of those.

use std::{collections::VecDeque, sync::Arc};

use theta_core::block::Block;

use super::{Adversary, Hand};
use crate::sim::node::Packet;

const KEPT: usize = 12;

#[derive(Default)]
pub(super) struct LongRange {
    chain: VecDeque<Arc<Block>>,
}

impl LongRange {
    fn note(&mut self, block: &Arc<Block>) {
        self.chain.push_back(block.clone());
        if self.chain.len() > KEPT {
            self.chain.pop_front();
        }
    }
}

impl Adversary for LongRange {
    fn outgoing(&mut self, hand: &mut Hand<'_>, to: Option<usize>, packet: Packet) {
        let Packet::Block(block) = &packet else { return hand.send_to(to, &packet) };
        if !hand.is_mine(block) {
            return hand.send_to(to, &packet);
        }
        let index = usize::try_from(hand.random.below(self.chain.len() as u64)).unwrap_or(0);
        let Some(old) = self.chain.get(index).cloned() else { return hand.send_to(to, &packet) };
        // A rival of an old block, in an epoch that really is one's own.
        let mut rival = old.as_ref().clone();
        rival.header.epoch = block.header.epoch;
        rival.header.proposer = block.header.proposer;
        let rival = hand.sign(rival);
        // And a child of it that only the conspiracy has voted for.
        let (hash, header) = (rival.header.hash(), &rival.header);
        let votes = hand.allies.iter().map(|ally| hand.vote(*ally, hash, header.height, header.epoch));
        let certificate = hand.certificate(hash, header.epoch, votes.collect());
        let mut child = rival.as_ref().clone();
        child.header.parent = hash;
        child.header.height += 1;
        child.header.epoch += 1;
        child.header.certificate = certificate;
        child.transactions.clear();
        child.header.transactions_root = theta_core::hash::EMPTY_ROOT;
        let child = hand.sign(child);
        for to in hand.others() {
            match hand.random.below(3) {
                0 => hand.send(to, Packet::Block(rival.clone())),
                1 => hand.send(to, Packet::Blocks(vec![rival.clone(), child.clone()])),
                _ => hand.send(to, packet.clone()),
            }
            let vote = hand.vote_packet(hand.me, hash, header.height, header.epoch);
            hand.send(to, vote);
        }
    }

    fn incoming(&mut self, _: &mut Hand<'_>, packet: &Packet) {
        if let Packet::Block(block) = packet {
            self.note(block);
        }
    }
}
