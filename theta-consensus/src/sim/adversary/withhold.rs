//! Proposals for one node alone, votes for some: certificates that only few can make.

use super::{Adversary, Hand};
use crate::sim::node::Packet;

pub(super) struct Withhold;

impl Adversary for Withhold {
    fn outgoing(&mut self, hand: &mut Hand<'_>, to: Option<usize>, packet: Packet) {
        match &packet {
            Packet::Block(block) if hand.is_mine(block) => {
                let to = hand.pick();
                hand.send(to, packet);
            }
            Packet::Message(_) => {
                for to in hand.others() {
                    if hand.random.below(2) == 0 {
                        hand.send(to, packet.clone());
                    }
                }
            }
            // What is asked for is not given.
            Packet::Blocks(_) => {}
            _ => hand.send_to(to, &packet),
        }
    }
}
