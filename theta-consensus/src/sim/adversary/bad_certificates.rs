//! Proposals with certificates of every kind that certifies nothing.

use theta_core::{hash::Hash, sign::Signature, vote::VoteSet};

use super::{Adversary, Hand};
use crate::sim::node::Packet;

pub(super) struct BadCertificates;

impl Adversary for BadCertificates {
    fn outgoing(&mut self, hand: &mut Hand<'_>, to: Option<usize>, packet: Packet) {
        let Packet::Block(block) = &packet else { return hand.send_to(to, &packet) };
        if !hand.is_mine(block) {
            return hand.send_to(to, &packet);
        }
        for to in hand.others() {
            let mut bad = block.as_ref().clone();
            let certificate = &mut bad.header.certificate;
            let mut votes = certificate.votes.as_slice().to_vec();
            match hand.random.below(5) {
                0 => votes.truncate(hand.validators * 2 / 3),
                1 => votes.clear(),
                // One voter counted for several epochs.
                2 => {
                    let own = (0..hand.validators as u64).map(|n| {
                        hand.vote(hand.me, certificate.block, bad.header.height - 1, bad.header.epoch + n)
                    });
                    votes = own.collect();
                }
                // Votes that nobody signed.
                3 => votes.iter_mut().for_each(|vote| vote.signature = Signature::from_bytes(vec![1; 65])),
                _ => {
                    certificate.block = Hash::repeat_byte(9);
                    votes.iter_mut().for_each(|vote| vote.block = certificate.block);
                }
            }
            certificate.votes = VoteSet::new(votes);
            let bad = hand.sign(bad);
            hand.send(to, Packet::Block(bad));
        }
    }
}
