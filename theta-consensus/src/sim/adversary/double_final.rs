//! A guardian that votes for whatever checkpoint it sees, several of one height among them, and equivocates besides.

use std::collections::BTreeMap;

use theta_core::hash::Hash;

use super::{Adversary, Hand, equivocate::Equivocate};
use crate::{
    finality::{GuardianPart, Part, SUITE},
    message::Message,
    sim::node::Packet,
};

#[derive(Default)]
pub(super) struct DoubleFinal {
    validator: Equivocate,
    /// Checkpoints voted for, by height and hash.
    voted: BTreeMap<(u64, Hash), ()>,
}

impl Adversary for DoubleFinal {
    fn outgoing(&mut self, hand: &mut Hand<'_>, to: Option<usize>, packet: Packet) {
        self.validator.outgoing(hand, to, packet);
    }

    fn incoming(&mut self, hand: &mut Hand<'_>, packet: &Packet) {
        self.validator.incoming(hand, packet);
        let (Packet::Block(block), Some(pool)) = (packet, hand.pool) else { return };
        // By the time that others have settled it they can judge the vote.
        let (hash, height) = (block.header.parent, block.header.height.saturating_sub(1));
        let rules = hand.spec.rules(height);
        if !rules.is_checkpoint(height) || self.voted.insert((height, hash), ()).is_some() {
            return;
        }
        let checkpoint =
            crate::Checkpoint { chain: &hand.spec.chain, height, rule: rules.consensus.guardians, pool };
        let message = checkpoint.message(&hash, &pool.hash());
        let mut packets = Vec::new();
        for key in hand.allies.iter().filter_map(|ally| hand.checkpoint_keys[*ally].as_ref()) {
            let public = key.public_key();
            let index = pool.with_stake().position(|guardian| guardian.key == public);
            let Some(index) = index else { continue };
            let part = Part::single(index, key.sign(SUITE, &message));
            packets.push(Packet::from(Message::GuardianPart(GuardianPart::new(hash, part))));
        }
        for packet in packets {
            for to in hand.others() {
                // Until then those who have to settle it first would not take it.
                for later in [500, 2_000] {
                    hand.sent.push((to, later, packet.clone()));
                }
            }
        }
    }
}
