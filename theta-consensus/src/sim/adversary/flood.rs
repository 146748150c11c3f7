//! Whatever costs room or work at others.

use std::sync::Arc;

use super::{Adversary, Hand};
use crate::{
    message::{Message, Status},
    sim::node::Packet,
};

pub(super) struct Flood;

impl Adversary for Flood {
    fn outgoing(&mut self, hand: &mut Hand<'_>, to: Option<usize>, packet: Packet) {
        hand.send_to(to, &packet);
        if let Some(Message::Vote(vote)) = packet.message() {
            for ahead in 0..20 {
                // Epochs stay near: a vote far ahead is a vote the engine may forget others for.
                let (block, to) = (hand.hash(), hand.pick());
                let vote = hand.vote_packet(hand.me, block, vote.height + ahead, vote.epoch + ahead % 3);
                hand.send(to, vote);
            }
        }
        if let Some(Message::Status(status)) = packet.message() {
            let lie = Status {
                certified_height: u64::MAX,
                certified_epoch: u64::MAX,
                epoch: u64::MAX,
                ..status.clone()
            };
            hand.send_to(None, &Packet::from(Message::Status(lie)));
        }
        if let Packet::Block(block) = &packet
            && hand.is_mine(block)
        {
            for n in 0..40_u64 {
                let mut orphan = block.as_ref().clone();
                orphan.header.parent = hand.hash();
                orphan.header.height += n % 5;
                let (orphan, to): (Arc<_>, _) = (hand.sign(orphan), hand.pick());
                hand.send(to, Packet::Block(orphan));
            }
        }
    }

    fn incoming(&mut self, hand: &mut Hand<'_>, packet: &Packet) {
        if let Packet::Fetch { above, .. } = packet {
            let (block, to) = (hand.hash(), hand.pick());
            hand.send(to, Packet::Fetch { block, above: *above });
        }
    }
}
