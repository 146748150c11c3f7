//! Everything arrives late, often after the epoch it was for.

use super::{Adversary, Hand};
use crate::sim::node::Packet;

pub(super) struct Delay;

impl Adversary for Delay {
    fn outgoing(&mut self, hand: &mut Hand<'_>, to: Option<usize>, packet: Packet) {
        let receivers: Vec<usize> = to.map_or_else(|| hand.others().collect(), |to| vec![to]);
        for to in receivers {
            let later = hand.random.below(4_000);
            hand.sent.push((to, later, packet.clone()));
        }
    }
}
