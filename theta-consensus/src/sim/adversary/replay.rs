//! What others sent long ago, once more, in any order and to anybody.

use super::{Adversary, Hand};
use crate::sim::node::Packet;

const KEPT: usize = 400;

#[derive(Default)]
pub(super) struct Replay {
    seen: Vec<Packet>,
}

impl Adversary for Replay {
    fn outgoing(&mut self, hand: &mut Hand<'_>, to: Option<usize>, packet: Packet) {
        hand.send_to(to, &packet);
        for _ in 0..3 {
            let index = usize::try_from(hand.random.below(self.seen.len() as u64)).unwrap_or(0);
            if let Some(old) = self.seen.get(index).cloned() {
                let to = hand.pick();
                hand.send(to, old);
            }
        }
    }

    fn incoming(&mut self, hand: &mut Hand<'_>, packet: &Packet) {
        if self.seen.len() < KEPT {
            self.seen.push(packet.clone());
        } else {
            let index = usize::try_from(hand.random.below(KEPT as u64)).unwrap_or(0);
            self.seen[index] = packet.clone();
        }
    }
}
