//! Votes that go to the next proposer alone, and what happens where it does not make anything of them.

use super::*;

/// Votes that are to be signed: for what, with which epoch, for whom.
fn votes(effects: &[Effect]) -> Vec<(Hash, u64, Option<Address>)> {
    let signed = effects.iter().filter_map(|effect| match effect {
        Effect::Sign { intent: Intent::Vote { vote, .. }, to } => Some((vote.block, vote.epoch, *to)),
        _ => None,
    });
    signed.collect()
}

fn statuses(effects: &[Effect]) -> Vec<Status> {
    let told = effects.iter().filter_map(|effect| match effect {
        Effect::Broadcast(Message::Status(status)) => Some(status.clone()),
        _ => None,
    });
    told.collect()
}

fn at(bench: &mut Bench, after: Millis) -> Vec<Effect> {
    let mut out = Vec::new();
    bench.engine.step(NOW + after, Input::Tick, &mut out);
    out
}

/// Everybody says that an epoch is over.
fn all_end(bench: &mut Bench, epoch: u64) {
    for voter in 0..4 {
        let vote = bench.vote(voter, bench.genesis, 0, epoch);
        bench.give_vote(vote);
    }
}

/// A validator in the first epoch.
fn begin(me: Address) -> Bench {
    let mut bench = Bench::new(ChainSpec::devnet(), Roles::validator(me), Vec::new());
    bench.step(Input::Tick);
    all_end(&mut bench, 0);
    assert_eq!(bench.engine.epoch(), 1);
    bench
}

/// Somebody who neither made the first block nor makes the second.
fn bystander() -> (Block, Address, Address) {
    let probe = Bench::observer();
    let genesis = (probe.genesis, 0);
    let first = probe.block(genesis, genesis, 1);
    let next = probe.scheduled(&first.header.hash(), 1, 2);
    let is_other = |one: &Address| *one != next && *one != first.header.proposer;
    let other = (0..4).map(|index| key(index).address()).find(is_other).expect("four");
    (first, next, other)
}

#[test]
fn a_vote_in_time_is_for_the_next_proposer_and_after_a_while_for_everybody() {
    let (first, next, me) = bystander();
    let hash = first.header.hash();
    let mut bench = begin(me);
    bench.note(&first);
    assert_eq!(votes(&bench.apply(&first, false)), [(hash, 1, Some(next))]);
    let wake = |bench: &Bench| bench.engine.wake_at.expect("it waits");
    assert_eq!(wake(&bench), NOW + 250);
    assert_eq!(votes(&at(&mut bench, 249)), []);
    let effects = at(&mut bench, 250);
    assert_eq!(votes(&effects), [(hash, 1, None)]);
    assert_eq!(statuses(&effects).len(), 1);
    // Again and again, until there is a certificate.
    assert_eq!(votes(&at(&mut bench, 499)), []);
    assert_eq!(votes(&at(&mut bench, 500)), [(hash, 1, None)]);
    let second = bench.block((hash, 1), (hash, 1), 2);
    let after = bench.scheduled(&second.header.hash(), 2, 3);
    assert_eq!(votes(&bench.apply(&second, false)), [(second.header.hash(), 2, Some(after))]);
}

#[test]
fn where_nothing_has_been_certified_for_a_while_votes_are_for_everybody() {
    let (_, _, me) = bystander();
    let mut bench = begin(me);
    // The first epoch passes without a block, and everybody says so.
    at(&mut bench, 2_000);
    all_end(&mut bench, 1);
    assert_eq!(bench.engine.epoch(), 2);
    let genesis = (bench.genesis, 0);
    let late = bench.block(genesis, genesis, 2);
    assert_eq!(votes(&bench.apply(&late, false)), [(late.header.hash(), 2, None)]);
}

/// Nodes may have different locks then, and expect different proposers.
#[test]
fn after_an_epoch_without_a_certificate_the_votes_for_two_blocks_are_for_everybody() {
    let (.., me) = bystander();
    let mut bench = begin(me);
    all_end(&mut bench, 1);
    assert_eq!((bench.engine.epoch(), bench.engine.timers.failing), (2, false));
    let mut on = (bench.genesis, 0);
    for (epoch, is_for_one) in [(2, false), (3, false), (4, true), (5, true)] {
        let block = bench.block(on, on, epoch);
        let hash = block.header.hash();
        let next = bench.scheduled(&hash, block.header.height, epoch + 1);
        assert_eq!(votes(&bench.apply(&block, false)), [(hash, epoch, is_for_one.then_some(next))]);
        on = (hash, block.header.height);
    }
}

#[test]
fn a_proposer_that_has_nothing_to_propose_shows_the_certificate_at_once() {
    let (first, next, other) = bystander();
    let hash = first.header.hash();
    let gather = |me: Address, works: bool| {
        let mut bench = begin(me);
        bench.note(&first);
        bench.apply(&first, false);
        if works {
            bench.step(Input::Work);
        }
        let mut effects = Vec::new();
        for voter in (0..4).filter(|voter| key(*voter).address() != me) {
            let vote = bench.vote(voter, hash, 1, 1);
            effects.extend(bench.give_vote(vote).into_iter().flatten().flatten());
        }
        assert_eq!((bench.engine.certified(), bench.engine.epoch()), ((hash, 1), 2));
        let shown = statuses(&effects).iter().any(|status| status.certificate.block == hash);
        (shown, effects.iter().any(|effect| matches!(effect, Effect::Build(_))))
    };
    assert_eq!(gather(next, false), (true, false));
    assert_eq!(gather(next, true), (false, true), "its block shows it");
    assert_eq!(gather(other, false), (false, false), "not its business");
}

#[test]
fn a_certificate_that_a_status_shows_goes_on_to_those_who_are_no_neighbours_of_its_maker() {
    let (first, _, me) = bystander();
    let hash = first.header.hash();
    let mut bench = begin(me);
    bench.note(&first);
    bench.apply(&first, false);
    let status = Status {
        certificate: bench.certificate((hash, 1), 0..3, 1),
        certified_height: 1,
        certified_epoch: 1,
        epoch: 2,
        ..bench.engine.status()
    };
    let checks = bench.engine.wants(Peer::Remote(2), Message::Status(status.clone())).expect("new");
    let effects = bench.step(Input::Message(checks.verify().expect("right")));
    assert_eq!(bench.engine.epoch(), 2);
    assert!(statuses(&effects).iter().any(|told| told.certificate == status.certificate), "{effects:?}");
    assert!(bench.engine.wants(Peer::Remote(3), Message::Status(status)).is_none(), "once");
}

/// It would be silent otherwise, and a quorum may need it.
#[test]
fn whoever_lost_its_log_votes_again_for_what_its_signer_remembers() {
    let (.., me) = bystander();
    let begun = begin(me);
    let lost = (Hash::repeat_byte(7), 5);
    let mut bench = Bench { engine: begun.engine.reminded(Some(lost)), ..begun };
    assert_eq!(bench.engine.epoch(), 5);
    let genesis = (bench.genesis, 0);
    let rival = bench.block(genesis, genesis, 5);
    let said = votes(&bench.apply(&rival, false));
    assert_eq!(said, [(lost.0, 5, None)], "not for the rival, but that it is in this epoch");
    all_end(&mut bench, 5);
    let later = bench.block(genesis, genesis, 6);
    assert_eq!(votes(&bench.apply(&later, false)).first().map(|vote| vote.0), Some(later.header.hash()));
    // What the log remembers is not forgotten for less.
    let voted = bench.engine.last_vote;
    assert_eq!(bench.engine.reminded(Some(lost)).last_vote, voted);
    let clocked = Bench::new(ChainSpec::privatenet(), Roles::validator(me), Vec::new());
    assert_eq!(clocked.engine.reminded(Some(lost)).last_vote, None);
}

/// The signer may have refused it, on a lock that was lower because the log was lost.
#[test]
fn a_vote_for_a_block_that_is_not_here_claims_no_lock_that_the_signer_would_take_for_a_first_vote() {
    let (first, next, me) = bystander();
    let begun = begin(me);
    let mut bench = Bench { engine: begun.engine.reminded(Some((Hash::repeat_byte(7), 5))), ..begun };
    bench.note(&first);
    bench.apply(&first, false);
    let second = bench.block((first.header.hash(), 1), (first.header.hash(), 1), 2);
    assert_eq!(second.header.proposer, next);
    bench.apply(&second, false);
    assert_eq!(bench.engine.lock_rank(), 1);
    let ranks: Vec<u64> = at(&mut bench, 10_000)
        .iter()
        .filter_map(|effect| match effect {
            Effect::Sign { intent: Intent::Vote { vote, certified_rank, .. }, .. } => {
                assert_eq!(vote.block, Hash::repeat_byte(7));
                Some(*certified_rank)
            }
            _ => None,
        })
        .collect();
    assert!(!ranks.is_empty() && ranks.iter().all(|rank| *rank == 0), "{ranks:?}");
}
