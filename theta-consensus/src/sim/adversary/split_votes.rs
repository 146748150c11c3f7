//! Another vote for each half, and votes of epochs that have not come.

use theta_core::hash::Hash;

use super::{Adversary, Hand};
use crate::{message::Message, sim::node::Packet};

#[derive(Default)]
pub(super) struct SplitVotes {
    last: Option<(Hash, u64)>,
}

impl Adversary for SplitVotes {
    fn outgoing(&mut self, hand: &mut Hand<'_>, to: Option<usize>, packet: Packet) {
        let Some(Message::Vote(vote)) = packet.message() else { return hand.send_to(to, &packet) };
        let (block, height) = self.last.unwrap_or((vote.block, vote.height));
        for to in hand.others() {
            let ahead = hand.random.below(3);
            let sent = match to % 2 {
                0 => hand.vote_packet(hand.me, vote.block, vote.height, vote.epoch),
                _ => hand.vote_packet(hand.me, block, height, vote.epoch + ahead),
            };
            hand.send(to, sent);
        }
        self.last = Some((vote.block, vote.height));
    }
}
