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
    let bench = Bench::new(ChainSpec::privatenet(), Roles::observer(), Vec::new());
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

/// A status that shows that the epoch before is over by what these votes say.
fn status(bench: &Bench, epoch: u64, votes: &[Vote]) -> Message {
    let said = votes.iter().map(|vote| match vote.end {
        Some(end) => (vote.voter, (Hash::ZERO, vote.epoch), end),
        None => (vote.voter, (vote.block, vote.epoch), vote.share.expect("one of both")),
    });
    let set = bench.engine.tree.next_validators(&bench.genesis).expect("genesis").clone();
    let (end, _) = EpochEnd::gather(epoch - 1, said, &bench.spec.chain, &set, Shares::Curve);
    Message::Status(Status { epoch, opened_by: end.unwrap_or_default(), ..bench.engine.status() })
}

/// Votes of some for genesis that end an epoch.
fn ending(bench: &Bench, voters: std::ops::Range<u8>, epoch: u64) -> Vec<Vote> {
    voters.map(|voter| bench.vote(voter, bench.genesis, 0, epoch)).collect()
}

#[test]
fn a_status_that_lies_moves_nobody() {
    let mut bench = Bench::observer();
    let lie = Status { certified_epoch: u64::MAX, epoch: u64::MAX, ..bench.engine.status() };
    let before = bench.engine.epoch();
    give(&mut bench, Message::Status(lie)).expect("looked at").expect("nothing to check");
    assert_eq!(bench.engine.epoch(), before);
    let good = status(&bench, 8, &ending(&bench, 0..3, 7));
    let Message::Status(good) = good else { unreachable!("one was made") };
    type Lie<'a> = (&'a dyn Fn(&mut EpochEnd), CertificateError);
    let lies: [Lie<'_>; 3] = [
        (&|end| end.epoch = 8, CertificateError::Epoch),
        (&|end| end.statements[0].epoch = 8, CertificateError::Signature),
        (&|end| end.statements = vec![end.statements[0].clone(); 9], CertificateError::TooMany),
    ];
    for (lie, named) in lies {
        let mut forged = good.clone();
        lie(&mut forged.opened_by);
        let refused = give(&mut bench, Message::Status(forged)).expect("looked at");
        assert_eq!(refused.err(), Some(Fault::Certificate(named)));
    }
    assert_eq!(bench.engine.epoch(), before);
    // What is said of epochs after a block that is missing is checked when the block is there, and blamed on who said it.
    let genesis = (bench.genesis, 0);
    let block = bench.block(genesis, genesis, 1);
    let certificate = bench.certificate((block.header.hash(), 1), 0..3, 1);
    let (certified_height, certified_epoch) = (1, 1);
    let mut early = Status { certificate, certified_height, certified_epoch, ..good };
    early.opened_by.statements[0].epoch = 8;
    give(&mut bench, Message::Status(early)).expect("looked at").expect("nothing to check it against");
    let effects = bench.apply(&block, false);
    assert_eq!(penalty(&effects), Some(Fault::Certificate(CertificateError::Signature)));
}

#[test]
fn who_missed_how_an_epoch_began_learns_it_from_a_status() {
    let mut bench = Bench::observer();
    let votes = ending(&bench, 0..3, 7);
    // Two are no quorum, so there is nothing to tell.
    assert!(bench.engine.wants(Peer::Remote(1), status(&bench, 8, &votes[..2])).is_none());
    let message = status(&bench, 8, &votes);
    let effects = give(&mut bench, message.clone()).expect("new").expect("right");
    assert_eq!(bench.engine.epoch(), 8);
    assert!(effects.iter().all(|effect| !matches!(effect, Effect::Accuse { .. } | Effect::Penalize { .. })));
    // This node tells others, too, in the same few bytes, and is not told again.
    let Message::Status(told) = &message else { unreachable!("one was made") };
    assert_eq!(bench.engine.status().opened_by, told.opened_by);
    assert!(bench.engine.wants(Peer::Remote(2), message).is_none());
}

/// Votes open an epoch here; what they say goes on in one signature.
#[test]
fn what_opened_an_epoch_is_told_in_one_signature_and_without_what_is_wrong() {
    let mut bench = Bench::observer();
    let mut votes = ending(&bench, 0..4, 7);
    // Signed by its voter, and of another epoch.
    votes[1].end = bench.vote(1, bench.genesis, 0, 6).end;
    votes[1].signature = key(1).sign_digest(&votes[1].digest());
    let told = |effects: &[Effect]| {
        let of = |effect: &Effect| match effect {
            Effect::Broadcast(Message::Status(status)) => Some(status.opened_by.clone()),
            _ => None,
        };
        effects.iter().rev().find_map(of)
    };
    for vote in &votes[..3] {
        bench.give_vote(vote.clone()).expect("new").expect("signed");
    }
    assert_eq!(bench.engine.epoch(), 8, "the vote counts, whatever it shows to others");
    let mut effects = Vec::new();
    bench.engine.step(NOW + 1_500, Input::Tick, &mut effects);
    assert!(told(&effects).expect("a status").is_empty(), "two of four are left");
    assert_eq!(accused(&effects), [key(1).address()]);
    bench.give_vote(votes[3].clone()).expect("new").expect("right");
    let mut effects = Vec::new();
    bench.engine.step(NOW + 1_750, Input::Tick, &mut effects);
    let end = told(&effects).expect("a status");
    assert_eq!((end.epoch, end.statements.len(), end.statements[0].signers.count()), (7, 1, 3));
    assert!(accused(&effects).is_empty());
    let status = Message::Status(Status { opened_by: end, ..bench.engine.status() });
    let mut other = Bench::observer();
    give(&mut other, status).expect("new").expect("right");
    assert_eq!(other.engine.epoch(), 8);
}

/// One faulty voter finishes the epoch with a vote for something else before the last vote for the block has come.
#[test]
fn a_proposer_waits_for_the_certificate_that_may_still_come() {
    let spec = ChainSpec::devnet();
    // Whoever has its turn on genesis and on the block before, so that it may build on either, and not an epoch earlier.
    let probe = Bench::observer();
    let genesis = (probe.genesis, 0);
    let turn = |epoch: &u64| {
        let block = probe.block(genesis, genesis, epoch - 1);
        let of_epoch = probe.scheduled(&probe.genesis, 0, *epoch);
        probe.scheduled(&block.header.hash(), 1, *epoch) == of_epoch && block.header.proposer != of_epoch
    };
    let epoch = (2..100).find(turn).expect("three in sixteen");
    let me = probe.scheduled(&probe.genesis, 0, epoch);
    let index = index_of(me);
    let others: Vec<u8> = (0..4).filter(|other| *other != index).collect();
    let begin = || {
        let mut bench = Bench::new(spec.clone(), Roles::validator(me), Vec::new());
        let genesis = (bench.genesis, 0);
        let block = bench.block(genesis, genesis, epoch - 1);
        bench.apply(&block, false);
        bench.step(Input::Work);
        let (hash, mut built) = (block.header.hash(), Vec::new());
        for (voter, voted) in others.iter().zip([(hash, 1), (hash, 1), genesis]) {
            let vote = bench.vote(*voter, voted.0, voted.1, epoch - 1);
            built.extend(bench.give_vote(vote).expect("new").expect("right"));
        }
        assert_eq!(bench.engine.epoch(), epoch);
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
    let last = bench.vote(index, hash, 1, epoch - 1);
    let effects = bench.give_vote(last).expect("new").expect("right");
    assert_eq!(parent(&effects), Some(hash));
    // It goes elsewhere, and so does that of the one who may have lost patience only: there is nothing to wait for.
    let (mut bench, _) = begin();
    let last = bench.vote(index, bench.genesis, 0, epoch - 1);
    let effects = bench.give_vote(last).expect("new").expect("right");
    assert_eq!(parent(&effects), None);
    let gone_on = bench.vote(others[2], bench.genesis, 0, epoch);
    let effects = bench.give_vote(gone_on).expect("new").expect("right");
    assert_eq!(parent(&effects), Some(bench.genesis));
    // Or he comes round.
    let (mut bench, hash) = begin();
    let last = bench.vote(index, bench.genesis, 0, epoch - 1);
    bench.give_vote(last).expect("new").expect("right");
    let late = bench.vote(others[2], hash, 1, epoch - 1);
    let effects = bench.give_vote(late).expect("new").expect("right");
    assert_eq!(parent(&effects), Some(hash));
    // It does not come: half a timeout is enough.
    let (mut bench, _) = begin();
    let mut effects = Vec::new();
    bench.engine.step(NOW + 499, Input::Tick, &mut effects);
    assert_eq!(parent(&effects), None);
    bench.engine.step(NOW + 500, Input::Tick, &mut effects);
    assert_eq!(parent(&effects), Some(bench.genesis));
    // The block may be of an epoch before that.
    let mut bench = Bench::new(spec.clone(), Roles::validator(me), Vec::new());
    let older = bench.block(genesis, genesis, epoch - 2);
    bench.apply(&older, false);
    bench.step(Input::Work);
    let on_older = (older.header.hash(), 1);
    let mut effects = Vec::new();
    for (voter, voted) in others.iter().zip([on_older, on_older, genesis]) {
        let vote = bench.vote(*voter, voted.0, voted.1, epoch - 1);
        effects.extend(bench.give_vote(vote).expect("new").expect("right"));
    }
    assert_eq!((bench.engine.epoch(), parent(&effects)), (epoch, None));
}

fn accused(effects: &[Effect]) -> Vec<Address> {
    let of = |effect: &Effect| match effect {
        Effect::Accuse { validator, fault: Fault::Share } => Some(*validator),
        _ => None,
    };
    effects.iter().filter_map(of).collect()
}

/// An observer with a block on genesis and nobody's vote for it.
fn with_block() -> (Bench, Block) {
    let mut bench = Bench::observer();
    let genesis = (bench.genesis, 0);
    let block = bench.block(genesis, genesis, 1);
    bench.apply(&block, false);
    (bench, block)
}

fn with_share(bench: &Bench, voter: u8, block: (Hash, u64), epoch: u64, share: &Vote) -> Vote {
    let mut vote = Vote { share: share.share, ..bench.vote(voter, block.0, block.1, epoch) };
    vote.signature = key(voter).sign_digest(&vote.digest());
    vote
}

#[test]
fn a_wrong_share_is_its_voters_fault_and_keeps_nobody_from_certifying() {
    let (mut bench, block) = with_block();
    let on = (block.header.hash(), 1);
    // What another one has signed; signed for as one's own.
    let wrong = with_share(&bench, 2, on, 1, &bench.vote(3, on.0, 1, 1));
    let right: Vec<Vote> = [0, 1, 3].map(|voter| bench.vote(voter, on.0, 1, 1)).to_vec();
    for vote in &right[..2] {
        assert!(accused(&bench.give_vote(vote.clone()).expect("new").expect("right")).is_empty());
    }
    let effects = bench.give_vote(wrong).expect("new").expect("its signature is right");
    assert_eq!(accused(&effects), [key(2).address()]);
    assert!(penalty(&effects).is_none(), "who passed it on could not know");
    assert_eq!(bench.engine.certified().1, 0);
    assert!(accused(&bench.give_vote(right[2].clone()).expect("new").expect("right")).is_empty());
    assert_eq!(bench.engine.certified(), on);
    // From now on its shares are looked at one by one.
    let held = bench.engine.held().votes;
    let again = with_share(&bench, 2, on, 2, &bench.vote(3, on.0, 1, 1));
    bench.give_vote(again).expect("new").expect("its signature is right");
    assert_eq!(bench.engine.held().votes, held);
    let repentant = bench.vote(2, on.0, 1, 3);
    bench.give_vote(repentant).expect("new").expect("right");
    assert_eq!(bench.engine.held().votes, held + 1);
}

#[test]
fn a_vote_without_a_share_and_one_with_a_share_too_many_are_faults() {
    let mut bench = Bench::observer();
    let share = bench.vote(0, bench.genesis, 0, 1);
    let mut bare = Vote { share: None, ..share.clone() };
    bare.signature = key(0).sign_digest(&bare.digest());
    assert_eq!(bench.give_vote(bare.clone()).expect("a member's").err(), Some(Fault::Share));
    let unsigned = Vote { signature: bare.signature.clone(), ..share.clone() };
    assert_eq!(bench.give_vote(unsigned).expect("a member's").err(), Some(Fault::Signature));
    let mut bench = Bench::new(ChainSpec::privatenet(), Roles::observer(), Vec::new());
    assert_eq!(bench.give_vote(share).expect("a member's").err(), Some(Fault::Share));
    bench.give_vote(bare).expect("a member's").expect("right");
}

/// Every way in which an aggregate certifies nothing, with its name.
fn spoiled(bench: &Bench, block: (Hash, u64)) -> Vec<(CommitCertificate, CertificateError)> {
    let good = bench.certificate(block, 0..3, 1);
    let aggregate = good.votes.aggregate().expect("one").clone();
    let with = |change: &dyn Fn(&mut AggregateVotes)| {
        let mut votes = aggregate.clone();
        change(&mut votes);
        CommitCertificate { votes: votes.into(), block: block.0 }
    };
    let point = |bytes: [u8; 96]| bls::Signature::from_checked_bytes(bytes);
    let bits = |length: usize| {
        let mut bits = Bits::new(length);
        (0..length).for_each(|index| bits.set(index));
        bits
    };
    let mut infinity = [0; 96];
    infinity[0] = 0xc0;
    let other = bench.certificate((bench.genesis, 0), 0..3, 1).votes.aggregate().expect("one").signature;
    vec![
        (bench.certificate(block, 0..2, 1), CertificateError::NoQuorum),
        (with(&|votes| votes.signers = bits(5)), CertificateError::Length),
        (with(&|votes| votes.signers = bits(3)), CertificateError::Length),
        (with(&|votes| votes.signers = Bits::new(4)), CertificateError::Empty),
        // All four, of whom three have signed.
        (with(&|votes| votes.signers = bits(4)), CertificateError::Signature),
        (with(&|votes| votes.epoch += 1), CertificateError::Epoch),
        (with(&|votes| votes.signature = point(infinity)), CertificateError::Signature),
        (with(&|votes| votes.signature = point([0xff; 96])), CertificateError::Signature),
        (with(&|votes| votes.signature = point([0; 96])), CertificateError::Signature),
        (with(&|votes| votes.signature = other), CertificateError::Signature),
    ]
}

#[test]
fn each_forgery_of_an_aggregate_is_named() {
    let (mut bench, block) = with_block();
    let on = (block.header.hash(), 1);
    let child = |bench: &Bench, certificate: CommitCertificate| {
        let mut child = bench.block(on, on, 2);
        child.header.certificate = certificate;
        sign(&mut child);
        child
    };
    for (certificate, error) in spoiled(&bench, on) {
        let child = child(&bench, certificate.clone());
        let expected = Some(Fault::Certificate(error));
        assert_eq!(bench.give_block(&child).expect("wanted").err(), expected);
        // In a status it is the same.
        let lie = Status { certificate, certified_epoch: 1, certified_height: 1, ..bench.engine.status() };
        let refused = give(&mut bench, Message::Status(lie)).expect("ahead").err();
        assert_eq!(refused, expected);
        // And if the block comes before the one that it certifies.
        let mut late = Bench::observer();
        late.headers = bench.headers.clone();
        late.give_block(&child).expect("no parent").expect("signed");
        assert_eq!(penalty(&late.apply(&block, false)), expected, "{error}");
        assert_eq!(late.engine.certified().1, 0);
    }
    let bare = child(&bench, CommitCertificate::bare(on.0));
    let effects = bench.give_block(&bare).expect("wanted").expect("signed");
    assert_eq!(penalty(&effects), Some(Fault::Certificate(CertificateError::Empty)));
    let votes = (0..3).map(|voter| bench.vote(voter, on.0, 1, 1));
    let list = child(&bench, CommitCertificate { votes: VoteSet::new(votes).into(), block: on.0 });
    assert_eq!(bench.give_block(&list).expect("wanted").err(), Some(Fault::Fields));
    assert_eq!(bench.engine.certified().1, 0);
    let good = child(&bench, bench.certificate(on, 1..4, 1));
    bench.apply(&good, false);
    assert_eq!(bench.engine.certified(), on);
}

#[test]
fn a_seed_that_is_not_its_proposers_on_this_parent_is_a_fault() {
    let (mut bench, block) = with_block();
    let on = (block.header.hash(), 1);
    let right = bench.block(on, on, 2);
    let proposer = index_of(right.header.proposer);
    let seed = |below: Hash, signer: u8, chain: &str, epoch: u64| {
        let signature = vote_key(signer).sign(SUITE, &Seed::message(chain, epoch));
        Some(Seed::after(&below, signature))
    };
    let (below, chain) = (block.header.draw(), bench.spec.chain.clone());
    assert_eq!(right.header.seed, seed(below, proposer, &chain, 2));
    let mut moved = right.header.seed.expect("seeded");
    moved.value.0[0] ^= 1;
    let mut infinity = [0; 96];
    infinity[0] = 0xc0;
    let wrong = [
        seed(below, (proposer + 1) % 4, &chain, 2),
        seed(below, proposer, &chain, 3),
        seed(below, proposer, "elsewhere", 2),
        seed(Hash::ZERO, proposer, &chain, 2),
        Some(moved),
        Some(Seed::after(&below, bls::Signature::from_checked_bytes(infinity))),
        Some(Seed::after(&below, bls::Signature::from_checked_bytes([0xff; 96]))),
    ];
    for (seed, fault) in wrong.into_iter().zip([Fault::Seed; 7]).chain([(None, Fault::Fields)]) {
        let mut child = right.clone();
        child.header.seed = seed;
        sign(&mut child);
        assert_eq!(bench.give_block(&child).expect("wanted").err(), Some(fault));
        if seed.is_some() {
            let mut late = Bench::observer();
            late.give_block(&child).expect("no parent").expect("signed");
            assert_eq!(penalty(&late.apply(&block, false)), Some(fault));
        }
    }
    bench.apply(&right, false);
}

#[test]
fn a_certificate_of_a_block_that_is_missing_counts_once_the_block_is_there() {
    let (probe, block) = with_block();
    let on = (block.header.hash(), 1);
    let shown = |bench: &Bench, certificate| {
        let status = bench.engine.status();
        Message::Status(Status { certificate, certified_height: 1, certified_epoch: 1, ..status })
    };
    let mut forged = probe.certificate(on, 0..3, 1);
    for is_right in [true, false] {
        let mut bench = Bench::observer();
        let message = shown(&bench, forged.clone());
        let effects = give(&mut bench, message).expect("ahead").expect("nothing to check it against");
        let asks = |effect: &Effect| matches!(effect, Effect::Fetch { block, .. } if *block == on.0);
        assert!(effects.iter().any(asks), "{effects:?}");
        let effects = bench.apply(&block, false);
        assert_eq!(bench.engine.certified().1, u64::from(is_right));
        assert_eq!(penalty(&effects).is_none(), is_right, "{effects:?}");
        // Whoever has a certificate of an epoch has seen its end.
        assert_eq!(bench.engine.epoch() > 1, is_right);
        forged.votes = probe.certificate((probe.genesis, 0), 0..3, 1).votes;
        if let theta_core::certificate::CertificateVotes::Aggregate(votes) = &mut forged.votes {
            votes.epoch = 1;
        }
    }
}

#[test]
fn a_block_that_comes_after_its_epoch_gets_its_vote_and_the_present_epoch_goes_on() {
    let me = key(3).address();
    let mut bench = Bench::new(ChainSpec::devnet(), Roles::validator(me), Vec::new());
    let genesis = (bench.genesis, 0);
    let (block, rival) = (bench.block(genesis, genesis, 5), bench.block(genesis, genesis, 4));
    for vote in ending(&bench, 0..3, 5) {
        bench.give_vote(vote).expect("new").expect("right");
    }
    assert_eq!(bench.engine.epoch(), 6);
    let voted = |effects: &[Effect]| -> Vec<(Hash, u64)> {
        let of = |effect: &Effect| match effect {
            Effect::Sign { intent: Intent::Vote { vote, .. }, .. } => Some((vote.block, vote.epoch)),
            _ => None,
        };
        effects.iter().filter_map(of).collect()
    };
    let hash = block.header.hash();
    let effects = bench.apply(&block, false);
    assert_eq!(voted(&effects), [(hash, 5)]);
    // One of an epoch before that is below the vote that has left.
    assert_eq!(voted(&bench.apply(&rival, false)), []);
    // Patience ends the present epoch, as ever.
    let mut effects = Vec::new();
    bench.engine.step(NOW + 3_000, Input::Tick, &mut effects);
    assert!(voted(&effects).contains(&(hash, 6)), "{:?}", voted(&effects));
}

/// More than a third have voted for a block that is not here: one of them is honest, and may be locked on more than this node is.
#[test]
fn a_proposer_whose_lock_may_be_too_low_waits_for_what_others_have_voted_for() {
    let probe = Bench::observer();
    let genesis = (probe.genesis, 0);
    let epoch = 5;
    let me = probe.scheduled(&probe.genesis, 0, epoch);
    let index = index_of(me);
    let others: Vec<u8> = (0..4).filter(|other| *other != index).collect();
    let builds = |effects: &[Effect]| effects.iter().any(|effect| matches!(effect, Effect::Build(_)));
    let begin = |missing: &[u8]| {
        let mut bench = Bench::new(ChainSpec::devnet(), Roles::validator(me), Vec::new());
        let block = bench.block(genesis, genesis, epoch - 1);
        bench.step(Input::Work);
        let mut effects = Vec::new();
        for voter in 0..4 {
            let on = if missing.contains(&voter) { (block.header.hash(), 1) } else { genesis };
            // One has gone on, and gives the block no vote any more.
            let vote = bench.vote(voter, on.0, on.1, epoch - u64::from(voter != others[2]));
            effects.extend(bench.give_vote(vote).expect("new").expect("right"));
        }
        assert_eq!(bench.engine.epoch(), epoch);
        (bench, block, builds(&effects))
    };
    // One alone may be making it up.
    assert!(begin(&others[..1]).2);
    let (mut bench, block, built) = begin(&others[..2]);
    assert!(!built);
    // It stands on this node's own lock.
    assert!(builds(&bench.apply(&block, false)));
    // It does not come: half a timeout is enough.
    let (mut bench, ..) = begin(&others[..2]);
    for (after, expected) in [(499, false), (500, true)] {
        let mut effects = Vec::new();
        bench.engine.step(NOW + after, Input::Tick, &mut effects);
        assert_eq!(builds(&effects), expected, "{after}");
    }
}

fn asked(effects: &[Effect], wanted: &Hash) -> Vec<Option<Peer>> {
    let of = |effect: &Effect| match effect {
        Effect::Fetch { block, from, .. } if block == wanted => Some(*from),
        _ => None,
    };
    effects.iter().filter_map(of).collect()
}

/// A peer may have four blocks looked for. One more that came from it and were kept without a search would never be asked of
/// anybody else, nor would what stands on it.
#[test]
fn a_block_on_a_missing_one_is_kept_only_while_that_is_looked_for() {
    let mut bench = Bench::observer();
    for number in 1..=4 {
        let unknown = (Hash::repeat_byte(number), 5);
        let orphan = bench.block(unknown, unknown, 9);
        bench.give_block(&orphan).expect("room for it").expect("signed");
    }
    let genesis = (bench.genesis, 0);
    let first = bench.block(genesis, genesis, 1);
    let on_first = (first.header.hash(), 1);
    let second = bench.block(on_first, on_first, 2);
    let effects = bench.give_block(&second).expect("room for it").expect("signed");
    assert!(asked(&effects, &on_first.0).is_empty(), "{effects:?}");
    assert_eq!((bench.engine.held().orphans, bench.engine.held().wanted), (4, 4));
    // So it is taken from another.
    let checks = bench.engine.wants_block(Peer::Remote(2), second.clone()).expect("still missing");
    let effects = bench.step(Input::Block(checks.verify().expect("right")));
    assert_eq!(asked(&effects, &on_first.0), [Some(Peer::Remote(2))]);
    // What is asked for and stands on something missing hands its search on, whoever brings it.
    let on_second = (second.header.hash(), 2);
    let third = bench.block(on_second, on_second, 3);
    let mut bench = Bench::observer();
    bench.note(&first);
    bench.note(&second);
    let vote = bench.vote(0, third.header.hash(), 3, 3);
    bench.give_vote(vote).expect("new").expect("right");
    for number in 1..=4 {
        let unknown = (Hash::repeat_byte(number), 5);
        let orphan = bench.block(unknown, unknown, 9);
        bench.give_block(&orphan).expect("room for it").expect("signed");
    }
    let effects = bench.give_block(&third).expect("asked for").expect("signed");
    assert_eq!(asked(&effects, &on_second.0), [Some(Peer::Remote(1))]);
}

#[test]
fn who_shows_a_block_too_is_asked_soon_after_the_first_has_kept_it() {
    let mut bench = Bench::observer();
    let block = Hash::repeat_byte(9);
    let mut at = |after: Millis, peer: Option<(u64, u8)>| {
        let mut out = Vec::new();
        let input = match peer {
            Some((peer, voter)) => {
                let vote = bench.vote(voter, block, 1, 0);
                let checks = bench.engine.wants(Peer::Remote(peer), Message::Vote(vote)).expect("new");
                Input::Message(checks.verify().expect("right"))
            }
            None => Input::Tick,
        };
        bench.engine.step(NOW + after, input, &mut out);
        asked(&out, &block)
    };
    assert_eq!(at(0, Some((1, 0))), []);
    assert_eq!(at(150, None), [Some(Peer::Remote(1))]);
    assert_eq!(at(200, Some((2, 1))), []);
    assert_eq!(at(350, None), [Some(Peer::Remote(2))]);
    // Then anybody, when both have had their time.
    assert_eq!(at(800, None), []);
    assert_eq!(at(850, None), [None]);
}

#[test]
fn who_lags_behind_an_epoch_that_lasts_is_told_so_four_times_in_a_timeout_at_most() {
    let mut bench = Bench::observer();
    for voter in 0..3 {
        let vote = bench.vote(voter, bench.genesis, 0, 7);
        bench.give_vote(vote).expect("new").expect("right");
    }
    assert_eq!(bench.engine.epoch(), 8);
    // What else stands in it is not looked at, so it costs no check.
    let forged = Vote { epoch: 6, ..bench.vote(0, bench.genesis, 0, 7) };
    let mut behind = bench.engine.status();
    behind.epoch = 7;
    behind.opened_by.epoch = forged.epoch;
    let behind = Message::Status(behind);
    let mut at = |after: Millis| {
        let mut effects = Vec::new();
        bench.engine.step(NOW + after, Input::Tick, &mut effects);
        if let Some(checks) = bench.engine.wants(Peer::Remote(1), behind.clone()) {
            let input = Input::Message(checks.verify().expect("nothing to check"));
            bench.engine.step(NOW + after, input, &mut effects);
        }
        effects.iter().filter(|effect| matches!(effect, Effect::Broadcast(Message::Status(_)))).count()
    };
    assert_eq!([200, 300, 310, 540, 550, 560].map(&mut at), [0, 1, 0, 0, 1, 0]);
    let here = bench.engine.status();
    assert!(bench.engine.wants(Peer::Remote(1), Message::Status(here)).is_none());
}
