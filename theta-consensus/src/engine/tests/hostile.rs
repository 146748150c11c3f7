//! What peers of bad faith send: each kind is refused by name, costs bounded work and takes bounded room.

use theta_core::{
    codec::rlp::{Decode, Encode},
    evidence::Evidence,
};

use super::*;
use crate::message::{MAX_MESSAGE_BYTES, Status};

fn give(bench: &mut Bench, message: Message) -> Option<Result<Vec<Effect>, Fault>> {
    let checks = bench.engine.wants(Peer::Remote(1), message)?;
    Some(checks.verify().map(|checked| bench.step(Input::Message(checked))))
}

fn reported(effects: &[Effect]) -> Vec<Address> {
    let of = |effect: &Effect| match effect {
        Effect::Report(evidence) => Some(evidence.offender()),
        _ => None,
    };
    effects.iter().filter_map(of).collect()
}

#[test]
fn votes_of_unknown_voters_are_not_looked_at() {
    let mut bench = Bench::observer();
    for stranger in 100..120 {
        let vote = bench.vote(stranger, bench.genesis, 0, 1);
        assert!(bench.give_vote(vote).is_none());
    }
    assert_eq!(bench.engine.held().votes, 0);
}

#[test]
fn votes_of_epochs_out_of_reach_are_not_looked_at() {
    let mut bench = Bench::observer();
    for epoch in [u64::MAX, (1 << 20) + 2] {
        let vote = bench.vote(0, bench.genesis, 0, epoch);
        assert!(bench.give_vote(vote).is_none(), "{epoch}");
    }
    // The farthest that is taken moves nobody alone.
    let vote = bench.vote(0, bench.genesis, 0, 1 << 20);
    bench.give_vote(vote).expect("in reach").expect("right");
    assert!(bench.engine.epoch() <= 1);
}

#[test]
fn a_vote_that_is_known_is_not_checked_again() {
    let mut bench = Bench::observer();
    let vote = bench.vote(0, bench.genesis, 0, 1);
    bench.give_vote(vote.clone()).expect("new").expect("right");
    for again in
        [vote.clone(), Vote { height: 77, ..vote.clone() }, Vote { signature: Signature::EMPTY, ..vote }]
    {
        assert!(bench.give_vote(again).is_none());
    }
    assert_eq!(bench.engine.held().votes, 1);
}

#[test]
fn votes_that_contradict_each_other_are_reported_once() {
    let mut bench = Bench::observer();
    let genesis = (bench.genesis, 0);
    let first = bench.block(genesis, genesis, 3);
    let mut second = first.clone();
    second.header.timestamp += 1_u8;
    sign(&mut second);
    bench.apply(&first, false);
    let proposer = first.header.proposer;
    let effects = bench.give_block(&second).expect("one more of the epoch").expect("signed");
    assert_eq!(reported(&effects), [proposer], "two blocks of an epoch");
    let told = |effect: &Effect| matches!(effect, Effect::Broadcast(Message::Evidence(_)));
    assert!(effects.iter().any(told), "{effects:?}");
    let culprit = (0..4).find(|index| key(*index).address() != proposer).expect("others");
    let mut seen = Vec::new();
    for (block, epoch) in [(&first, 3), (&second, 3), (&second, 4), (&first, 5)] {
        let vote = bench.vote(culprit, block.header.hash(), 1, epoch);
        seen.extend(reported(&bench.give_vote(vote).expect("new").expect("right")));
    }
    assert_eq!(seen, [key(culprit).address()]);
}

#[test]
fn evidence_that_proves_nothing_is_a_fault_and_what_does_is_passed_on_once() {
    let mut bench = Bench::observer();
    let genesis = (bench.genesis, 0);
    let first = bench.block(genesis, genesis, 3);
    let mut second = first.clone();
    second.header.timestamp += 1_u8;
    let pair = |second: &Block| {
        Message::Evidence(Evidence::Proposals(Box::new([first.header.clone(), second.header.clone()])))
    };
    let forged = give(&mut bench, pair(&second)).expect("about a validator");
    assert!(matches!(forged, Err(Fault::Evidence(_))), "{forged:?}");
    sign(&mut second);
    let effects = give(&mut bench, pair(&second)).expect("about a validator").expect("proves");
    assert_eq!(reported(&effects), [first.header.proposer]);
    let passed = |effect: &Effect| matches!(effect, Effect::Relay { message: Message::Evidence(_), .. });
    assert!(effects.iter().any(passed), "{effects:?}");
    assert!(give(&mut bench, pair(&second)).is_none(), "known");
    // About somebody who has no say.
    let mut stranger = [first.header.clone(), second.header.clone()];
    for header in &mut stranger {
        header.proposer = key(77).address();
        header.sign(&key(77)).expect("signs");
    }
    assert!(give(&mut bench, Message::Evidence(Evidence::Proposals(Box::new(stranger)))).is_none());
}

#[test]
fn encodings_that_are_not_canonical_are_not_read() {
    let bench = Bench::observer();
    let votes = [0, 1].map(|voter| bench.vote(voter, bench.genesis, 0, 1));
    let bytes = Message::Vote(votes[0].clone()).to_rlp();
    assert!(Message::from_rlp(&bytes, MAX_MESSAGE_BYTES).is_ok());
    // Bytes behind the end, a cut, more than the limit.
    assert!(Message::from_rlp(&[bytes.as_slice(), &[0]].concat(), MAX_MESSAGE_BYTES).is_err());
    assert!(Message::from_rlp(&bytes[..bytes.len() - 1], MAX_MESSAGE_BYTES).is_err());
    assert!(Message::from_rlp(&bytes, bytes.len() - 1).is_err());
    // Votes out of order, and one twice.
    let list = |votes: [&Vote; 2]| {
        let mut out = Vec::new();
        theta_core::codec::rlp::encode_list(&mut out, |out| votes.iter().for_each(|vote| vote.encode(out)));
        out
    };
    let [low, high] =
        if votes[0].voter < votes[1].voter { [&votes[0], &votes[1]] } else { [&votes[1], &votes[0]] };
    assert!(VoteSet::from_rlp(&list([low, high]), MAX_MESSAGE_BYTES).is_ok());
    assert!(VoteSet::from_rlp(&list([high, low]), MAX_MESSAGE_BYTES).is_err());
    assert!(VoteSet::from_rlp(&list([low, low]), MAX_MESSAGE_BYTES).is_err());
    // An epoch with a zero in front: 0x81 0x01 instead of 0x01.
    let at = bytes.iter().rposition(|byte| *byte == 0x94).expect("before the voter") - 1;
    assert_eq!(bytes[at], 1, "the epoch");
    let mut padded = bytes[..at].to_vec();
    padded.extend([0x81, 1]);
    padded.extend(&bytes[at + 1..]);
    assert!(Message::from_rlp(&padded, MAX_MESSAGE_BYTES).is_err());
}

#[test]
fn empty_and_malformed_signatures_are_a_fault() {
    let mut bench = Bench::observer();
    let vote = bench.vote(0, bench.genesis, 0, 1);
    for signature in [Vec::new(), vec![0; 65], vec![0xff; 65], vec![1; 64], vec![1; 66]] {
        let signature = Signature::from_bytes(signature);
        let refused = bench.give_vote(Vote { signature, ..vote.clone() }).expect("a member's");
        assert!(matches!(refused, Err(Fault::Signature | Fault::HighS)), "{refused:?}");
    }
    let genesis = (bench.genesis, 0);
    let mut block = bench.block(genesis, genesis, 1);
    block.header.signature = Signature::EMPTY;
    let refused = bench.give_block(&block).expect("in turn");
    assert!(matches!(refused, Err(Fault::Signature | Fault::HighS)), "{refused:?}");
    assert_eq!(bench.engine.held().votes, 0);
}

#[test]
fn floods_of_votes_by_a_member_fill_eight_places_and_four_searches() {
    let mut bench = Bench::observer();
    for number in 0..300_u64 {
        let block = theta_core::hash::keccak(number.to_be_bytes());
        let vote = bench.vote(0, block, 9, 1 + number % 7);
        if let Some(taken) = bench.give_vote(vote) {
            taken.expect("right");
        }
    }
    let held = bench.engine.held();
    assert!(held.votes <= 8, "{held:?}");
    assert!(held.wanted <= 4, "{held:?}");
    assert!(bench.engine.epoch() <= 1, "one alone opens no epoch");
}

fn status(bench: &Bench, epoch: u64, opened_by: Vec<Vote>) -> Message {
    Message::Status(Status { epoch, opened_by: VoteSet::new(opened_by), ..bench.engine.status() })
}

#[test]
fn a_status_that_lies_moves_nobody() {
    let mut bench = Bench::observer();
    let lie = Status { certified_epoch: u64::MAX, epoch: u64::MAX, ..bench.engine.status() };
    let before = bench.engine.epoch();
    give(&mut bench, Message::Status(lie)).expect("looked at").expect("nothing to check");
    assert_eq!(bench.engine.epoch(), before);
    let mut forged = bench.vote(0, bench.genesis, 0, 7);
    forged.epoch = 8;
    let message = status(&bench, 9, vec![forged]);
    assert!(matches!(give(&mut bench, message), Some(Err(Fault::Signature | Fault::HighS))));
    // More votes than there can be validators are not looked at.
    let many = (0..40).map(|voter| bench.vote(voter, bench.genesis, 0, 7)).collect();
    let message = status(&bench, 8, many);
    assert!(bench.engine.wants(Peer::Remote(1), message).is_none());
    // Strangers' votes are checked, count nothing and take no room.
    let strangers = (100..103).map(|voter| bench.vote(voter, bench.genesis, 0, 7)).collect();
    let message = status(&bench, 8, strangers);
    give(&mut bench, message).expect("looked at").expect("signed");
    assert_eq!((bench.engine.epoch(), bench.engine.held().votes), (before, 0));
}

#[test]
fn who_missed_how_an_epoch_began_learns_it_from_a_status() {
    let mut bench = Bench::observer();
    let votes: Vec<Vote> = (0..3).map(|voter| bench.vote(voter, bench.genesis, 0, 7)).collect();
    let message = status(&bench, 8, votes[..1].to_vec());
    give(&mut bench, message).expect("new").expect("right");
    assert!(bench.engine.epoch() < 7);
    let message = status(&bench, 8, votes);
    give(&mut bench, message).expect("new").expect("right");
    assert_eq!(bench.engine.epoch(), 8);
    // Half a timeout later this node tells the others, too.
    assert!(bench.engine.status().opened_by.is_empty());
    let later = NOW + 1_600;
    bench.engine.step(later, Input::Tick, &mut Vec::new());
    assert_eq!(bench.engine.status().opened_by.as_slice().len(), 3);
}

/// One faulty voter finishes the epoch with a vote for something else before the last vote for the block has come.
#[test]
fn a_proposer_waits_for_the_certificate_that_may_still_come() {
    let spec = ChainSpec::devnet();
    let me = proposer(&set(0..4), 2).expect("not empty");
    let index = (0..4).find(|index| key(*index).address() == me).expect("one of them");
    let others: Vec<u8> = (0..4).filter(|other| *other != index).collect();
    let begin = || {
        let mut bench = Bench::new(spec.clone(), Roles::validator(me), Vec::new());
        let genesis = (bench.genesis, 0);
        let block = bench.block(genesis, genesis, 1);
        bench.apply(&block, false);
        bench.step(Input::Work);
        let (hash, mut built) = (block.header.hash(), Vec::new());
        for (voter, voted) in others.iter().zip([(hash, 1), (hash, 1), genesis]) {
            let vote = bench.vote(*voter, voted.0, voted.1, 1);
            built.extend(bench.give_vote(vote).expect("new").expect("right"));
        }
        assert_eq!(bench.engine.epoch(), 2);
        assert!(!built.iter().any(|effect| matches!(effect, Effect::Build(_))), "{built:?}");
        (bench, hash)
    };
    let parent = |effects: &[Effect]| {
        let of = |effect: &Effect| match effect {
            Effect::Build(context) => Some(context.parent_hash),
            _ => None,
        };
        effects.iter().find_map(of)
    };
    // The last vote comes: on the block.
    let (mut bench, hash) = begin();
    let last = bench.vote(index, hash, 1, 1);
    let effects = bench.give_vote(last).expect("new").expect("right");
    assert_eq!(parent(&effects), Some(hash));
    // It goes elsewhere: there is nothing to wait for.
    let (mut bench, _) = begin();
    let last = bench.vote(index, bench.genesis, 0, 1);
    let effects = bench.give_vote(last).expect("new").expect("right");
    assert_eq!(parent(&effects), Some(bench.genesis));
    // It does not come: half a timeout is enough.
    let (mut bench, _) = begin();
    let mut effects = Vec::new();
    bench.engine.step(NOW + 499, Input::Tick, &mut effects);
    assert_eq!(parent(&effects), None);
    bench.engine.step(NOW + 500, Input::Tick, &mut effects);
    assert_eq!(parent(&effects), Some(bench.genesis));
}
