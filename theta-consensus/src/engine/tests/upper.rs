//! Votes of guardians and elite edge nodes: in headers, and between nodes.

use theta_core::{
    BigUint,
    amount::TFuelWei,
    bls,
    spec::Fork,
    stake::{EliteEdgeNode, EliteState, GuardianPool, Pools},
    vote::{EliteVotes, GuardianVotes},
};

use super::*;
use crate::{
    elite::EliteVote,
    finality::{Bits, GuardianPart, Part},
    guardian::AggregateError,
    round::Aggregate,
};

const GUARDIANS: u8 = 4;

fn bls_key(index: u8) -> bls::SecretKey {
    bls::SecretKey::from_bytes(&[index + 1; 32]).expect("in range")
}

fn holder(index: u8) -> Address {
    Address::repeat_byte(index + 1)
}

/// Four guardians, and eight elite edge nodes of which most are sampled since nobody else has a stake.
fn pools() -> Pools {
    let mut guardians = GuardianPool::default();
    let mut elite = EliteState::default();
    for index in 0..GUARDIANS {
        let key = Some(bls_key(index).public_key());
        guardians.deposit(holder(0), holder(index), ThetaWei::whole(1_000), key).expect("new");
    }
    for index in 0..8 {
        let mut node = EliteEdgeNode::new(holder(index), bls_key(index).public_key());
        node.deposit(holder(0), TFuelWei::whole(100_000)).expect("new");
        elite.total = elite.total.checked_add(TFuelWei::whole(100_000)).expect("small");
        elite.nodes.insert(holder(index), node);
    }
    Pools { guardians, elite }
}

/// A chain by the reference's rules with both levels from genesis on.
fn spec() -> ChainSpec {
    ChainSpec::new("privatenet", [(Fork::Theta2, 0), (Fork::Theta3, 0)])
}

/// The same where guardians finalize; a checkpoint is every ten blocks.
fn finalizing() -> ChainSpec {
    ChainSpec::new("privatenet", [(Fork::Theta2, 0), (Fork::Theta3, 0), (Fork::Improved, 0)])
}

fn guardian_votes(block: Hash, signers: std::ops::Range<u8>) -> GuardianVotes {
    let pool = pools().guardians.hash();
    let votes = signers.map(|index| {
        let message = GuardianVotes::message(&block, &pool);
        let (at, size) = (usize::from(index), usize::from(GUARDIANS));
        crate::guardian::sign(&bls_key(index), (crate::guardian::SUITE, &message), (block, pool), at, size)
    });
    votes.reduce(|a, b| a.merged(&b).expect("fits")).expect("one at least")
}

fn elite_vote(block: Hash, index: u8) -> EliteVote {
    EliteVote::sign(&bls_key(index), block, 1, holder(index), BigUint::ZERO)
}

fn elite_votes(block: Hash, signers: std::ops::Range<u8>) -> EliteVotes {
    let votes = signers.map(|index| elite_vote(block, index).into_votes());
    votes.reduce(|a, b| a.merged(&b).expect("fits")).expect("one at least")
}

/// Heights 1 to `top`, each certified by the next and with pools at checkpoints; gives what stands at the top.
fn grow(bench: &mut Bench, top: u64) -> Vec<(Hash, u64)> {
    let mut chain = vec![(bench.genesis, 0)];
    let pools = Arc::new(pools());
    for height in 1..=top {
        let on = chain[chain.len() - 1];
        let block = bench.block(on, on, height);
        let hash = block.header.hash();
        bench.give_block(&block).expect("wanted").expect("right");
        let checkpoint = bench.spec.rules(height).is_checkpoint(height);
        let post = PostState { pools: checkpoint.then(|| pools.clone()), ..bench.post.clone() };
        bench.step(Input::Executed { hash, post: Some(post) });
        chain.push((hash, height));
    }
    chain
}

fn with_votes(
    bench: &Bench,
    chain: &[(Hash, u64)],
    guardians: Option<GuardianVotes>,
    elite: Option<EliteVotes>,
) -> Block {
    let on = chain[chain.len() - 1];
    let mut block = bench.block(on, on, on.1 + 1);
    block.header.extension = Extension::GuardiansAndElite(guardians, elite);
    sign(&mut block);
    bench.note(&block);
    block
}

fn context(effects: &[Effect]) -> Option<&BlockContext> {
    effects.iter().find_map(|effect| match effect {
        Effect::Execute { context, .. } | Effect::Build(context) => Some(context),
        _ => None,
    })
}

#[test]
fn a_checkpoint_block_may_carry_votes_for_an_older_one() {
    let mut bench = Bench::new(spec(), Roles::observer(), Vec::new());
    let chain = grow(&mut bench, 100);
    let voted = chain[1].0;
    let (guardians, elite) = (guardian_votes(voted, 0..3), elite_votes(voted, 0..2));
    let block = with_votes(&bench, &chain, Some(guardians.clone()), Some(elite.clone()));
    let effects = bench.give_block(&block).expect("wanted").expect("right");
    let context = context(&effects).expect("executed");
    assert_eq!(context.guardian_votes, Some(guardians));
    assert_eq!(context.elite_votes, Some(elite));
    assert_eq!(context.voted_state, Some(bench.engine.tree.header(&voted).expect("known").state_root));
}

#[test]
fn each_forgery_of_the_upper_votes_is_named() {
    let mut bench = Bench::new(spec(), Roles::observer(), Vec::new());
    let chain = grow(&mut bench, 100);
    let voted = chain[1].0;
    let (guardians, elite) = (guardian_votes(voted, 0..3), elite_votes(voted, 0..2));
    let mismatch = AggregateError::Signature(bls::BlsError::Mismatch);
    let guardians_with = |change: &dyn Fn(&mut GuardianVotes)| {
        let mut votes = guardians.clone();
        change(&mut votes);
        votes
    };
    let elite_with = |change: &dyn Fn(&mut EliteVotes)| {
        let mut votes = elite.clone();
        change(&mut votes);
        votes
    };
    let of_guardians = [
        (guardians_with(&|votes| votes.multipliers[3] = 1), mismatch),
        (guardians_with(&|votes| votes.multipliers[0] = 2), mismatch),
        (guardians_with(&|votes| votes.multipliers.push(0)), AggregateError::Length),
        (guardians_with(&|votes| votes.pool = Hash::ZERO), AggregateError::Pool),
        (guardians_with(&|votes| votes.signature = elite.signature), mismatch),
    ];
    for (votes, error) in &of_guardians {
        let block = with_votes(&bench, &chain, Some(votes.clone()), None);
        assert_eq!(bench.give_block(&block).expect("wanted").err(), Some(Fault::Guardians(*error)));
    }
    let of_elite = [
        (elite_with(&|votes| votes.addresses.clear()), AggregateError::Empty),
        (elite_with(&|votes| votes.multipliers.push(1)), AggregateError::Length),
        (elite_with(&|votes| votes.addresses.reverse()), AggregateError::Order),
        (elite_with(&|votes| votes.addresses[1] = Address::repeat_byte(99)), AggregateError::Unsampled),
        (elite_with(&|votes| votes.multipliers[1] = 2), mismatch),
    ];
    for (votes, error) in of_elite {
        let block = with_votes(&bench, &chain, None, Some(votes));
        assert_eq!(bench.give_block(&block).expect("wanted").err(), Some(Fault::Elite(error)));
    }
    // For a block that nobody knows nothing can be said, and for one that is no checkpoint's descendant neither.
    for unknown in [Hash::repeat_byte(77), bench.genesis] {
        let block = with_votes(&bench, &chain, Some(guardian_votes(unknown, 0..3)), None);
        let effects = bench.give_block(&block).expect("wanted").expect("signed");
        assert!(context(&effects).is_none());
        assert!(bench.give_block(&block).is_none(), "not taken again");
    }
}

#[test]
fn votes_outside_checkpoints_and_for_other_branches_condemn_a_block() {
    let mut bench = Bench::new(spec(), Roles::observer(), Vec::new());
    let chain = grow(&mut bench, 98);
    let block = with_votes(&bench, &chain, Some(guardian_votes(chain[1].0, 0..3)), None);
    let effects = bench.give_block(&block).expect("wanted").expect("signed");
    assert_eq!(penalty(&effects), Some(Fault::Guardians(AggregateError::Place)));

    let mut bench = Bench::new(spec(), Roles::observer(), Vec::new());
    let mut chain = grow(&mut bench, 99);
    // A rival of the hundredth block, known and executed, but not below the next.
    let rival = bench.block(chain[99], chain[99], 120);
    bench.apply(&rival, false);
    let hundredth = bench.block(chain[99], chain[99], 100);
    bench.apply(&hundredth, false);
    chain.push((hundredth.header.hash(), 100));
    let block = with_votes(&bench, &chain, Some(guardian_votes(rival.header.hash(), 0..3)), None);
    let effects = bench.give_block(&block).expect("wanted").expect("signed");
    assert_eq!(penalty(&effects), Some(Fault::Guardians(AggregateError::Ancestor)));
}

fn give(bench: &mut Bench, message: Message) -> Option<Result<(), Fault>> {
    let checks = bench.engine.wants(Peer::Remote(1), message)?;
    Some(checks.verify().map(|checked| {
        bench.step(Input::Message(checked));
    }))
}

#[test]
fn gathered_votes_go_into_the_next_checkpoint_block() {
    // Whoever proposes the next checkpoint block.
    let probe = Bench::new(spec(), Roles::observer(), Vec::new());
    let proposer = crate::proposer(&probe.post.validators, 101).expect("not empty");
    let mut bench = Bench::new(spec(), Roles::validator(proposer), Vec::new());
    let chain = grow(&mut bench, 100);
    let voted = chain[1].0;
    assert!(matches!(give(&mut bench, Message::GuardianVotes(guardian_votes(voted, 0..1))), Some(Ok(()))));
    assert!(matches!(give(&mut bench, Message::GuardianVotes(guardian_votes(voted, 1..3))), Some(Ok(()))));
    assert!(matches!(give(&mut bench, Message::EliteVote(elite_vote(voted, 1))), Some(Ok(()))));
    assert!(matches!(give(&mut bench, Message::EliteVotes(elite_votes(voted, 2..4))), Some(Ok(()))));
    // Three validators have finished the hundredth epoch.
    let mut asked = Vec::new();
    for voter in 0..3 {
        let vote = bench.vote(voter, chain[100].0, 100, 100);
        asked.extend(bench.give_vote(vote).into_iter().flatten().flatten());
    }
    let mut effects = Vec::new();
    bench.engine.step(NOW + 1_000, Input::Tick, &mut effects);
    effects.extend(asked);
    let context = context(&effects).expect("asked to build").clone();
    let votes = context.guardian_votes.expect("gathered");
    assert_eq!((votes.block, votes.signers()), (voted, 3));
    assert_eq!(context.elite_votes.as_ref().map(Aggregate::signers), Some(3));
    let body = theta_core::context::Body {
        transactions: Vec::new(),
        state_root: Hash::ZERO,
        receipts_root: Hash::ZERO,
        bloom: theta_core::block::Bloom::ZERO,
    };
    let effects = bench.step(Input::Built { parent: chain[100].0, epoch: 101, body });
    let block = effects.iter().find_map(|effect| match effect {
        Effect::Sign { intent: Intent::Proposal { block, .. }, .. } => Some(block.clone()),
        _ => None,
    });
    let header = block.expect("proposed").header;
    assert_eq!(header.extension.guardian_votes(), Some(&votes));
    assert_eq!(header.extension.elite_votes(), context.elite_votes.as_ref());
    crate::guardian::verify_guardian_votes(&votes, &pools().guardians).expect("whole");
}

#[test]
fn useless_and_hostile_votes_cost_no_signature_check() {
    let mut bench = Bench::new(spec(), Roles::observer(), Vec::new());
    let chain = grow(&mut bench, 100);
    let voted = chain[1].0;
    let votes = guardian_votes(voted, 0..2);
    assert!(give(&mut bench, Message::GuardianVotes(votes.clone())).is_some());
    let with = |change: &dyn Fn(&mut GuardianVotes)| {
        let mut votes = guardian_votes(voted, 0..3);
        change(&mut votes);
        Message::GuardianVotes(votes)
    };
    let refused = [
        // The same again, and a part of it.
        Message::GuardianVotes(votes),
        Message::GuardianVotes(guardian_votes(voted, 1..2)),
        // Another block, pool or size, and entries beyond all bounds.
        Message::GuardianVotes(guardian_votes(chain[2].0, 0..4)),
        with(&|votes| votes.pool = Hash::ZERO),
        with(&|votes| votes.multipliers.push(1)),
        with(&|votes| votes.multipliers[3] = u32::MAX),
        with(&|votes| votes.multipliers.fill(0)),
        // A node in no pool, a list of zeros, lists that do not fit together.
        Message::EliteVote(EliteVote { address: Address::repeat_byte(99), ..elite_vote(voted, 0) }),
        Message::EliteVote(elite_vote(chain[2].0, 0)),
        Message::EliteVotes(EliteVotes { multipliers: vec![0; 2], ..elite_votes(voted, 0..2) }),
        Message::EliteVotes(EliteVotes { multipliers: vec![1], ..elite_votes(voted, 0..2) }),
    ];
    for message in refused {
        assert!(bench.engine.wants(Peer::Remote(1), message.clone()).is_none(), "{message:?}");
    }
    // A forged one is found, and keeps no right one out.
    let forged = EliteVote { signature: elite_vote(voted, 1).signature, ..elite_vote(voted, 0) };
    let mismatch = AggregateError::Signature(bls::BlsError::Mismatch);
    assert_eq!(give(&mut bench, Message::EliteVote(forged)), Some(Err(Fault::Elite(mismatch))));
    assert_eq!(give(&mut bench, Message::EliteVote(elite_vote(voted, 0))), Some(Ok(())));
    let forged = with(&|votes| votes.signature = elite_vote(voted, 1).signature);
    assert_eq!(give(&mut bench, forged), Some(Err(Fault::Guardians(mismatch))));
    assert_eq!(give(&mut bench, with(&|_| {})), Some(Ok(())));
}

#[test]
fn a_settled_checkpoint_is_voted_on_and_the_vote_goes_round() {
    let roles = Roles::observer().with_guardian(bls_key(2).public_key()).with_elite(holder(1));
    let mut bench = Bench::new(spec(), roles, Vec::new());
    let mut effects = Vec::new();
    // Three blocks settle the first, which is a checkpoint.
    let chain = {
        let mut chain = grow(&mut bench, 2);
        let on = chain[2];
        let block = bench.block(on, on, 3);
        effects.extend(bench.apply(&block, false));
        chain.push((block.header.hash(), 3));
        chain
    };
    let key: Arc<dyn Signer> = Arc::new(key(3));
    let signer = |index| {
        let disk = theta_core::journal::MemDisk::default;
        let signer = LocalSigner::open(key.clone(), disk()).expect("empty");
        signer.with_checkpoint_key(bls_key(index), disk()).expect("empty")
    };
    let intents: Vec<Intent> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Sign { intent, .. } => Some(intent.clone()),
            _ => None,
        })
        .collect();
    let [guardian, elite] = intents.as_slice() else { panic!("{intents:?}") };
    assert!(
        matches!(guardian, Intent::Guardian { block, height: 1, index: 2, size: 4, .. } if *block == chain[1].0)
    );
    assert!(matches!(elite, Intent::Elite { block, height: 1, .. } if *block == chain[1].0));
    for (intent, mut signer) in [(guardian, signer(2)), (elite, signer(1))] {
        let Ok(Signed::Message(message)) = signer.sign(intent) else { panic!("signed") };
        let checks = bench.engine.wants(Peer::Own, message).expect("new");
        bench.step(Input::Message(checks.verify().expect("right")));
    }
    give(&mut bench, Message::GuardianVotes(guardian_votes(chain[1].0, 0..1)));
    let sent = |bench: &mut Bench, after: Millis| -> Vec<usize> {
        let mut out = Vec::new();
        bench.engine.step(NOW + after, Input::Tick, &mut out);
        let votes = out.iter().filter_map(|effect| match effect {
            Effect::Broadcast(Message::GuardianVotes(votes)) => Some(votes.signers()),
            Effect::Broadcast(Message::EliteVotes(votes)) => Some(votes.signers() + 10),
            _ => None,
        });
        votes.collect()
    };
    let round = Settings::new(Pace::Clocked).upper_round;
    // One's own vote first, what was gathered in the second round.
    assert_eq!(sent(&mut bench, round), [1, 11]);
    assert_eq!(sent(&mut bench, round + 1), [0; 0]);
    assert_eq!(sent(&mut bench, round * 2 + 1), [2, 11]);
    // Whoever has no key signs nothing.
    let disk = theta_core::journal::MemDisk::default();
    assert!(LocalSigner::open(key, disk).expect("empty").sign(guardian).is_err());
}

#[test]
fn a_ballot_is_open_again_after_a_restart() {
    let mut bench = Bench::new(spec(), Roles::observer(), Vec::new());
    let chain = grow(&mut bench, 4);
    let settled = chain[..3].iter().map(|(hash, _)| SettledBlock {
        header: bench.engine.tree.header(hash).expect("known").clone(),
        post: bench.engine.tree.post(hash).expect("executed").clone(),
    });
    let start = Start { root: bench.genesis, settled: settled.collect(), wal: Vec::new() };
    let settings = Settings::new(Pace::Clocked);
    let roles = Roles::observer().with_guardian(bls_key(0).public_key());
    let mut engine = Engine::recover(Arc::new(spec()), settings, roles, start).expect("a chain");
    let mut out = Vec::new();
    engine.step(NOW, Input::Tick, &mut out);
    let voted = out
        .iter()
        .any(|effect| matches!(effect, Effect::Sign { intent: Intent::Guardian { height: 1, .. }, .. }));
    assert!(voted, "{out:?}");
}

/// A guardian's vote where guardians finalize.
fn final_votes(block: Hash, height: u64, signers: &[u8]) -> GuardianVotes {
    let pool = pools().guardians.hash();
    let rule = theta_core::spec::GuardianRule::Finalize;
    let message = crate::finality::message(rule, "privatenet", height, &block, &pool);
    let votes = signers.iter().map(|index| {
        let (at, size) = (usize::from(*index), usize::from(GUARDIANS));
        crate::guardian::sign(&bls_key(*index), (crate::finality::SUITE, &message), (block, pool), at, size)
    });
    votes.reduce(|a, b| a.merged(&b).expect("fits")).expect("one at least")
}

fn finals(effects: &[Effect]) -> Vec<u64> {
    let reached = effects.iter().filter_map(|effect| match effect {
        Effect::Reached { finality: Finality::Final, header, .. } => Some(header.height),
        _ => None,
    });
    reached.collect()
}

/// The same as it travels.
fn final_part(block: Hash, height: u64, signers: &[u8]) -> GuardianPart {
    let signature = final_votes(block, height, signers).signature;
    let part = match signers {
        [index] => Part::single(usize::from(*index), signature),
        _ => {
            let mut bits = Bits::new(usize::from(GUARDIANS));
            signers.iter().for_each(|index| bits.set(usize::from(*index)));
            Part { first: 0, bits, signature }
        }
    };
    GuardianPart::new(block, part)
}

fn give_votes(bench: &mut Bench, votes: GuardianPart) -> Vec<Effect> {
    let checks = bench.engine.wants(Peer::Remote(1), Message::GuardianPart(votes)).expect("new");
    bench.step(Input::Message(checks.verify().expect("right")))
}

#[test]
fn more_than_two_thirds_of_the_guardians_make_a_settled_checkpoint_final() {
    let mut bench = Bench::new(finalizing(), Roles::observer(), Vec::new());
    let chain = grow(&mut bench, 5);
    let voted = chain[1].0;
    assert_eq!(finals(&give_votes(&mut bench, final_part(voted, 1, &[0, 1]))), [0; 0]);
    // An aggregate that overlaps adds nothing by itself; single votes do.
    let overlapping = Message::GuardianPart(final_part(voted, 1, &[1, 2]));
    assert!(bench.engine.wants(Peer::Remote(1), overlapping).is_none());
    assert_eq!(bench.engine.finality_certificate(), None);
    let effects = give_votes(&mut bench, final_part(voted, 1, &[2]));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Relay { .. })));
    assert_eq!(finals(&effects), [1]);
    assert_eq!(bench.engine.final_checkpoint(), Some((voted, 1)));
    let certificate = bench.engine.finality_certificate().expect("three of four");
    assert_eq!(certificate.multipliers, [1, 1, 1, 0]);
    // The fourth changes nothing about it.
    assert_eq!(finals(&give_votes(&mut bench, final_part(voted, 1, &[3]))), [0; 0]);
}

#[test]
fn a_certificate_in_a_settled_header_is_learned() {
    let mut bench = Bench::new(finalizing(), Roles::observer(), Vec::new());
    let mut chain = grow(&mut bench, 10);
    let votes = final_votes(chain[1].0, 1, &[0, 2, 3]);
    let block = with_votes(&bench, &chain, Some(votes), None);
    bench.give_block(&block).expect("wanted").expect("right");
    let post = PostState { pools: Some(Arc::new(pools())), ..bench.post.clone() };
    let mut effects = bench.step(Input::Executed { hash: block.header.hash(), post: Some(post) });
    chain.push((block.header.hash(), 11));
    for height in 12..14 {
        let on = chain[chain.len() - 1];
        let block = bench.block(on, on, height);
        effects.extend(bench.apply(&block, false));
        chain.push((block.header.hash(), height));
    }
    assert_eq!(finals(&effects), [1]);
}

#[test]
fn where_guardians_finalize_nobody_is_counted_twice_and_no_vote_is_good_elsewhere() {
    let mut bench = Bench::new(finalizing(), Roles::observer(), Vec::new());
    let chain = grow(&mut bench, 10);
    let voted = chain[1].0;
    let wants = |bench: &Bench, part| bench.engine.wants(Peer::Remote(1), Message::GuardianPart(part));
    let twice = final_votes(voted, 1, &[0]).merged(&final_votes(voted, 1, &[0, 1])).expect("fits");
    assert!(bench.engine.wants(Peer::Remote(1), Message::GuardianVotes(twice.clone())).is_none());
    let block = with_votes(&bench, &chain, Some(twice), None);
    let fault = bench.give_block(&block).expect("wanted").err();
    assert_eq!(fault, Some(Fault::Guardians(AggregateError::Repeated)));
    let mismatch = Some(Fault::Guardians(AggregateError::Signature(bls::BlsError::Mismatch)));
    // Of another height, and in the form that names neither chain nor height.
    let elsewhere = guardian_votes(voted, 0..1).signature;
    for part in [final_part(voted, 11, &[0]), GuardianPart::new(voted, Part::single(0, elsewhere))] {
        assert_eq!(wants(&bench, part).expect("new").verify().err(), mismatch);
    }
}

#[test]
fn a_guardian_signs_one_block_of_a_height_even_after_a_power_cut() {
    let disk = theta_core::journal::MemDisk::default();
    let open = || {
        let key: Arc<dyn Signer> = Arc::new(key(3));
        let signer = LocalSigner::open(key, theta_core::journal::MemDisk::default()).expect("empty");
        signer.with_checkpoint_key(bls_key(0), disk.clone()).expect("whole")
    };
    let vote = |block: u8, height| Intent::Guardian {
        block: Hash::repeat_byte(block),
        height,
        chain: "privatenet".to_owned(),
        rule: theta_core::spec::GuardianRule::Finalize,
        pool: Hash::ZERO,
        index: 0,
        size: 1,
    };
    let first = open().sign(&vote(1, 11)).expect("first");
    let mut signer = open();
    assert!(signer.sign(&vote(2, 11)).is_err());
    assert!(signer.sign(&vote(2, 1)).is_err());
    assert_eq!(signer.sign(&vote(1, 11)), Ok(first));
    assert!(signer.sign(&vote(2, 21)).is_ok());
}

#[test]
fn a_final_checkpoint_outlives_a_restart_and_binds_what_is_built_anew() {
    let mut bench = Bench::new(finalizing(), Roles::observer(), Vec::new());
    let chain = grow(&mut bench, 5);
    let voted = chain[1].0;
    let effects = give_votes(&mut bench, final_part(voted, 1, &[0, 1, 2]));
    let record = effects.iter().position(|effect| matches!(effect, Effect::Append(_))).expect("logged");
    let told = effects.iter().position(|effect| matches!(effect, Effect::Reached { .. })).expect("final");
    assert!(record < told, "durable before anybody is told");
    let Effect::Append(record) = effects[record].clone() else { panic!("a record") };
    assert_eq!(bench.engine.remembered().checkpoint, Some((voted, 1)));
    // From a copy of the chain that ends at genesis: the log alone knows.
    let mut bench = Bench::new(finalizing(), Roles::observer(), vec![record.clone()]);
    assert_eq!(bench.engine.final_checkpoint(), Some((voted, 1)));
    let genesis = (bench.genesis, 0);
    let mut rival = bench.block(genesis, genesis, 1);
    rival.header.timestamp = 77_u32.into();
    sign(&mut rival);
    assert_eq!(penalty(&bench.give_block(&rival).expect("wanted").expect("signed")), Some(Fault::Final));
    let right = bench.block(genesis, genesis, 1);
    let executes = |effect: &Effect| matches!(effect, Effect::Execute { .. });
    assert!(bench.give_block(&right).expect("wanted").expect("signed").iter().any(executes));
    // From data of another branch it does not start.
    let post = bench.post.clone();
    let settled = [Header::zero(), rival.header]
        .map(|header| SettledBlock { header: Arc::new(header), post: post.clone() });
    let settled = vec![
        SettledBlock { header: bench.engine.tree.header(&bench.genesis).expect("known").clone(), post },
        settled[1].clone(),
    ];
    let start = Start { root: bench.genesis, settled, wal: vec![record] };
    let engine =
        Engine::recover(Arc::new(finalizing()), Settings::new(Pace::Clocked), Roles::observer(), start);
    assert_eq!(engine.err(), Some(crate::RecoverError::NotFinal(1)));
}

/// A round's eighth after the checkpoint is settled, a guardian whose turn comes first tells what it has.
#[test]
fn a_guardian_tells_what_its_group_has_voted() {
    let roles = Roles::observer().with_guardian(bls_key(0).public_key());
    let mut bench = Bench::new(finalizing(), roles, Vec::new());
    let chain = grow(&mut bench, 5);
    let voted = chain[1].0;
    for index in [0, 2] {
        give_votes(&mut bench, final_part(voted, 1, &[index]));
    }
    let round = Settings::new(Pace::Responsive).upper_round;
    let mut told = Vec::new();
    for eighth in 1..=4 {
        let mut out = Vec::new();
        bench.engine.step(NOW + round * eighth / 8, Input::Tick, &mut out);
        told.extend(out.into_iter().filter_map(|effect| match effect {
            Effect::Broadcast(Message::GuardianPart(part)) => Some(part.signers()),
            _ => None,
        }));
    }
    assert_eq!(told, [2], "once");
    // The fourth vote completes the group, and is told at once or on its turn; at the round's end all is sent again.
    for index in [1, 3] {
        give_votes(&mut bench, final_part(voted, 1, &[index]));
    }
    let mut out = Vec::new();
    bench.engine.step(NOW + round, Input::Tick, &mut out);
    let all = |effect: &&Effect| matches!(effect, Effect::Broadcast(Message::GuardianPart(part)) if part.signers() == 4);
    assert!(out.iter().filter(all).count() >= 1, "{out:?}");
}
