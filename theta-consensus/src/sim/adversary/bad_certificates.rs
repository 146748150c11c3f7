//! Proposals with certificates of every kind that certifies nothing, seeds that are not the chain's, and ends of epochs that
//! have not ended.

use theta_core::{
    bits::Bits,
    block::{CommitCertificate, Header, Seed},
    bls,
    certificate::{AggregateVotes, CertificateVotes, epoch_end_message},
    hash::Hash,
    sign::Signature,
    vote::VoteSet,
};

use super::{Adversary, Hand};
use crate::{
    epoch_end::{EpochEnd, Statement},
    message::Message,
    sim::node::Packet,
};

pub(super) struct BadCertificates;

impl Adversary for BadCertificates {
    fn outgoing(&mut self, hand: &mut Hand<'_>, to: Option<usize>, packet: Packet) {
        if let Some(Message::Vote(vote)) = packet.message()
            && vote.end.is_some()
        {
            let wrong = hand.with_wrong_end(vote);
            return hand.send_to(to, &Packet::from(Message::Vote(wrong)));
        }
        if let Some(Message::Status(status)) = packet.message() {
            let mut bad = status.clone();
            spoil_end(hand, &mut bad.opened_by);
            return hand.send_to(to, &Packet::from(Message::Status(bad)));
        }
        let Packet::Block(block) = &packet else { return hand.send_to(to, &packet) };
        if !hand.is_mine(block) {
            return hand.send_to(to, &packet);
        }
        for to in hand.others() {
            let mut bad = block.as_ref().clone();
            match bad.header.certificate.votes.clone() {
                CertificateVotes::List(votes) => spoil_list(hand, &mut bad.header, &votes),
                CertificateVotes::Aggregate(votes) => spoil_aggregate(hand, &mut bad.header, votes),
            }
            let bad = hand.seal(bad);
            hand.send(to, Packet::Block(bad));
        }
    }
}

fn spoil_end(hand: &mut Hand<'_>, end: &mut EpochEnd) {
    match hand.random.below(4) {
        0 => end.epoch += 1,
        1 => end.statements.iter_mut().for_each(|statement| statement.epoch += 1),
        2 => end.statements.truncate(1),
        // One's own voice alone.
        _ => {
            let epoch = end.epoch + 1;
            let mut signers = Bits::new(hand.validators);
            (0..hand.validators).for_each(|index| signers.set(index));
            let signature = hand.vote_keys[hand.me].sign(&epoch_end_message(&hand.spec.chain, epoch));
            let block = Hash::ZERO;
            *end = EpochEnd { epoch, statements: vec![Statement { block, epoch, signers, signature }] };
        }
    }
}

fn spoil_list(hand: &mut Hand<'_>, header: &mut Header, votes: &VoteSet) {
    let mut votes = votes.as_slice().to_vec();
    match hand.random.below(5) {
        0 => votes.truncate(hand.validators * 2 / 3),
        1 => votes.clear(),
        // One voter counted for several epochs.
        2 => {
            let block = header.certificate.block;
            let own = (0..hand.validators as u64)
                .map(|n| hand.vote(hand.me, block, header.height - 1, header.epoch + n));
            votes = own.collect();
        }
        // Votes that nobody signed.
        3 => votes.iter_mut().for_each(|vote| vote.signature = Signature::from_bytes(vec![1; 65])),
        _ => {
            header.certificate.block = Hash::repeat_byte(9);
            votes.iter_mut().for_each(|vote| vote.block = header.certificate.block);
        }
    }
    header.certificate.votes = VoteSet::new(votes).into();
}

fn spoil_aggregate(hand: &mut Hand<'_>, header: &mut Header, mut votes: AggregateVotes) {
    let block = header.certificate.block;
    let mut infinity = [0; 96];
    infinity[0] = 0xc0;
    match hand.random.below(9) {
        // One's own voice alone, by its right name and as everybody's.
        choice @ 0..2 => {
            let own = hand.vote(hand.me, block, header.height - 1, votes.epoch);
            let CommitCertificate { votes: CertificateVotes::Aggregate(own), .. } =
                hand.certificate(block, votes.epoch, vec![own])
            else {
                return;
            };
            let signers = if choice == 0 { own.signers } else { votes.signers.clone() };
            votes = AggregateVotes { signers, ..own };
        }
        2 => return header.certificate = CommitCertificate::bare(block),
        3 => votes.signature = bls::Signature::from_checked_bytes(infinity),
        4 => (0..votes.signers.len()).for_each(|index| votes.signers.set(index)),
        5 => {
            let mut longer = Bits::new(votes.signers.len() + 8);
            votes.signers.ones().for_each(|index| longer.set(index));
            votes.signers = longer;
        }
        6 => header.certificate.block = Hash::repeat_byte(9),
        // Somebody absent who is not.
        7 => header.absent.push(hand.keys[(hand.me + 1) % hand.validators].address()),
        // The seed of another epoch.
        _ => {
            let message = Seed::message(&header.chain, header.epoch + 1);
            let signature = hand.vote_keys[hand.me].sign(&message);
            let parent = hand.headers.get(&header.parent).map_or(Hash::ZERO, |parent| parent.draw());
            header.seed = Some(Seed::after(&parent, signature));
        }
    }
    header.certificate.votes = votes.into();
}
