use std::cell::RefCell;

use theta_core::{
    amount::ThetaWei,
    bits::Bits,
    block::{CommitCertificate, Extension, Seed, transactions_root},
    certificate::{AggregateVotes, SUITE, epoch_end_message},
    hash::U256,
    sign::{SecretKey, Signature, Signer},
    spec::ProposerRule,
    stake::Validator,
    vote::{Vote, VoteSet},
};

use super::{voting::VOTE_WINDOW, *};
use crate::{
    certificate::CertificateError,
    proposer::absent_after,
    signer::{LocalSigner, RoleSigner, Signed},
    tree::SettledBlock,
    wal::WalVote,
};

mod hostile;
mod told_one;
mod trace;
mod upper;

const NOW: Millis = 1_700_000_000_000;

fn key(index: u8) -> SecretKey {
    SecretKey::from_bytes(&[index + 1; 32]).expect("in range")
}

fn set(members: std::ops::Range<u8>) -> Arc<ValidatorSet> {
    let stake = ThetaWei::whole(1_000);
    Arc::new(ValidatorSet::new(members.map(|index| Validator {
        bls: Some(vote_key(index).public_key()),
        ..Validator::new(key(index).address(), stake)
    })))
}

fn vote_key(index: u8) -> bls::SecretKey {
    let mut bytes = [index + 1; 32];
    bytes[0] = 1;
    bls::SecretKey::from_bytes(&bytes).expect("in range")
}

fn index_of(address: Address) -> u8 {
    (0..8).find(|index| key(*index).address() == address).expect("one of ours")
}

/// Four validators on genesis; the tests play all of them and the ledger.
struct Bench {
    engine: Engine,
    spec: ChainSpec,
    genesis: Hash,
    post: PostState,
    /// Of the blocks that were made.
    headers: RefCell<BTreeMap<Hash, Header>>,
}

impl Bench {
    fn new(spec: ChainSpec, roles: Roles, wal: Vec<WalRecord>) -> Self {
        let header = Arc::new(Header { chain: spec.chain.clone(), ..Header::zero() });
        let (genesis, validators) = (header.hash(), set(0..4));
        let post = PostState::new(Hash::ZERO, validators);
        let settled = vec![SettledBlock { header, post: post.clone() }];
        let start = Start { root: genesis, settled, wal };
        let settings = Settings::new(spec.rules(1).consensus.pace);
        let engine =
            Engine::recover(Arc::new(spec.clone()), settings, roles, start).expect("genesis is a chain");
        Self { engine, spec, genesis, post, headers: RefCell::default() }
    }

    fn observer() -> Self {
        Self::new(ChainSpec::devnet(), Roles::observer(), Vec::new())
    }

    fn step(&mut self, input: Input) -> Vec<Effect> {
        let mut out = Vec::new();
        self.engine.step(NOW, input, &mut out);
        out
    }

    fn vote(&self, voter: u8, block: Hash, height: u64, epoch: u64) -> Vote {
        let (key, vote_key) = (key(voter), vote_key(voter));
        let mut vote = Vote::unsigned(block, height, epoch, key.address());
        if self.engine.has_shares() {
            let message = AggregateVotes::message(&self.spec.chain, &block, self.epoch_of(&block));
            vote.share = Some(vote_key.sign(SUITE, &message));
            let end = epoch_end_message(&self.spec.chain, epoch);
            vote.end = (epoch > self.epoch_of(&block)).then(|| vote_key.sign(SUITE, &end));
        }
        vote.signature = key.sign_digest(&vote.digest());
        vote
    }

    /// Zero for one that was not made here.
    fn epoch_of(&self, block: &Hash) -> u64 {
        self.headers.borrow().get(block).map_or(0, |header| header.epoch)
    }

    /// A block that was changed, so that others can stand on it.
    fn note(&self, block: &Block) {
        self.headers.borrow_mut().insert(block.header.hash(), block.header.clone());
    }

    /// Votes of 0, 1, ... in the form of the chain; each with the epoch given.
    fn certificate(&self, block: (Hash, u64), voters: std::ops::Range<u8>, epoch: u64) -> CommitCertificate {
        let votes: Vec<Vote> = voters.map(|voter| self.vote(voter, block.0, block.1, epoch)).collect();
        if !self.engine.has_shares() {
            return CommitCertificate { votes: VoteSet::new(votes).into(), block: block.0 };
        }
        let set = self.post.validators.as_slice();
        let mut signers = Bits::new(set.len());
        for vote in &votes {
            signers.set(set.iter().position(|one| one.address == vote.voter).expect("a member"));
        }
        let shares: Vec<_> = votes.iter().filter_map(|vote| vote.share).collect();
        let signature = Shares::Curve.sum(&shares).expect("signatures");
        let epoch = self.epoch_of(&block.0);
        CommitCertificate { votes: AggregateVotes { epoch, signers, signature }.into(), block: block.0 }
    }

    /// Whose turn it is on a block.
    fn scheduled(&self, parent: &Hash, height: u64, epoch: u64) -> Address {
        scheduled(&self.spec, &self.parent(parent, height), &self.post.validators, epoch).expect("not empty")
    }

    /// The block's header, or one that stands for it.
    fn parent(&self, hash: &Hash, height: u64) -> Header {
        let genesis = || self.engine.tree.header(hash).map(|header| header.as_ref().clone());
        let unknown = || {
            let signature = bls::Signature::from_checked_bytes([0x80; 96]);
            Header { height, seed: Some(Seed { value: *hash, signature }), ..Header::zero() }
        };
        self.headers.borrow().get(hash).cloned().or_else(genesis).unwrap_or_else(unknown)
    }

    fn give_vote(&mut self, vote: Vote) -> Option<Result<Vec<Effect>, Fault>> {
        let checks = self.engine.wants(Peer::Remote(1), Message::Vote(vote))?;
        Some(checks.verify().map(|checked| self.step(Input::Message(checked))))
    }

    fn give_block(&mut self, block: &Block) -> Option<Result<Vec<Effect>, Fault>> {
        let checks = self.engine.wants_block(Peer::Remote(1), block.clone())?;
        Some(checks.verify().map(|checked| self.step(Input::Block(checked))))
    }

    /// A signed block by the scheduled proposer, on `parent`, certifying `certified` with the votes of 0, 1 and 2.
    fn block(&self, parent: (Hash, u64), certified: (Hash, u64), epoch: u64) -> Block {
        let below = self.parent(&parent.0, parent.1);
        let proposer = self.scheduled(&parent.0, parent.1, epoch);
        let height = parent.1 + 1;
        let seeded = self.spec.rules(height).consensus.proposer == ProposerRule::ProposerSeeded;
        let seed = seeded.then(|| {
            let message = Seed::message(&self.spec.chain, epoch);
            Seed::after(&below.draw(), vote_key(index_of(proposer)).sign(SUITE, &message))
        });
        let voted: Vec<_> = (0..3).map(|voter| key(voter).address()).collect();
        let absent = absent_after(&self.spec, &below, &self.post.validators, (epoch, proposer), &voted);
        let header = Header {
            chain: self.spec.chain.clone(),
            epoch,
            height,
            parent: parent.0,
            certificate: self.certificate(certified, 0..3, epoch - 1),
            seed,
            absent,
            transactions_root: transactions_root(&[]),
            proposer,
            extension: Extension::empty(self.spec.rules(height).header),
            ..Header::zero()
        };
        let mut block = Block { header, transactions: Vec::new() };
        sign(&mut block);
        self.note(&block);
        block
    }

    /// Gives a block and executes it at once.
    fn apply(&mut self, block: &Block, changes_validators: bool) -> Vec<Effect> {
        let hash = block.header.hash();
        let mut effects = self.give_block(block).expect("wanted").expect("right");
        assert!(effects.iter().any(|effect| matches!(effect, Effect::Execute { .. })), "{effects:?}");
        let post = Some(PostState { changes_validators, ..self.post.clone() });
        effects.extend(self.step(Input::Executed { hash, post }));
        effects
    }
}

fn sign(block: &mut Block) {
    let proposer = block.header.proposer;
    block.header.signature = key(index_of(proposer)).sign_digest(&block.header.digest());
}

fn penalty(effects: &[Effect]) -> Option<Fault> {
    effects.iter().find_map(|effect| match effect {
        Effect::Penalize { fault, .. } => Some(*fault),
        _ => None,
    })
}

fn settled(effects: &[Effect]) -> Vec<u64> {
    let reached = effects.iter().filter_map(|effect| match effect {
        Effect::Reached { header, .. } => Some(header.height),
        _ => None,
    });
    reached.collect()
}

/// The twin of a signature that anybody can make.
fn high_twin(signature: &Signature) -> Signature {
    const ORDER: U256 = U256::from_be_slice(&[
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe, 0xba,
        0xae, 0xdc, 0xe6, 0xaf, 0x48, 0xa0, 0x3b, 0xbf, 0xd2, 0x5e, 0x8c, 0xd0, 0x36, 0x41, 0x41,
    ]);
    let (r, s, v) = signature.r_s_v().expect("whole");
    let parts = [r.to_be_bytes::<32>(), (ORDER - s).to_be_bytes::<32>()].concat();
    Signature::from_bytes([parts.as_slice(), &[v ^ 1]].concat())
}

#[test]
fn a_certified_child_settles_its_parent() {
    let mut bench = Bench::observer();
    let genesis = (bench.genesis, 0);
    let first = bench.block(genesis, genesis, 1);
    let on_first = (first.header.hash(), 1);
    let second = bench.block(on_first, on_first, 2);
    let on_second = (second.header.hash(), 2);
    let third = bench.block(on_second, on_second, 3);
    assert_eq!(settled(&bench.apply(&first, false)), [0; 0]);
    assert_eq!(settled(&bench.apply(&second, false)), [0; 0]);
    assert_eq!(bench.engine.certified(), on_first);
    assert_eq!(settled(&bench.apply(&third, false)), [1]);
    assert_eq!(bench.engine.certified(), on_second);
    assert_eq!(bench.engine.settled(), on_first);
}

#[test]
fn a_gap_in_the_certificates_settles_nothing() {
    let mut bench = Bench::new(ChainSpec::privatenet(), Roles::observer(), Vec::new());
    let genesis = (bench.genesis, 0);
    let first = bench.block(genesis, genesis, 1);
    let on_first = (first.header.hash(), 1);
    // Certified itself by the third block, but it certifies genesis and not its parent.
    let second = bench.block(on_first, genesis, 2);
    let on_second = (second.header.hash(), 2);
    let third = bench.block(on_second, on_second, 3);
    bench.apply(&first, false);
    bench.apply(&second, false);
    assert_eq!(settled(&bench.apply(&third, false)), [0; 0]);
    assert_eq!(bench.engine.certified(), on_second);
}

#[test]
fn at_the_responsive_pace_every_block_certifies_its_parent_and_a_gap_in_the_epochs_settles_nothing() {
    let mut bench = Bench::observer();
    let genesis = (bench.genesis, 0);
    let first = bench.block(genesis, genesis, 1);
    let on_first = (first.header.hash(), 1);
    bench.apply(&first, false);
    let loose = bench.block(on_first, genesis, 2);
    let effects = bench.give_block(&loose).expect("wanted").expect("signed");
    assert_eq!(penalty(&effects), Some(Fault::SetChange));
    // The second epoch went by without a block: certifying the second block does not settle the first.
    let second = bench.block(on_first, on_first, 3);
    let on_second = (second.header.hash(), 2);
    bench.apply(&second, false);
    let third = bench.block(on_second, on_second, 4);
    let on_third = (third.header.hash(), 3);
    assert_eq!(settled(&bench.apply(&third, false)), [0; 0]);
    assert_eq!(bench.engine.certified(), on_second);
    // Certifying the third settles the second, and with it the first.
    let fourth = bench.block(on_third, on_third, 9);
    assert_eq!(settled(&bench.apply(&fourth, false)), [2]);
    assert_eq!(bench.engine.settled(), on_second);
}

#[test]
fn a_certified_block_of_a_later_epoch_takes_the_lock_from_a_rival_of_its_height() {
    let mut bench = Bench::observer();
    let genesis = (bench.genesis, 0);
    let first = bench.block(genesis, genesis, 1);
    let on_first = (first.header.hash(), 1);
    bench.apply(&first, false);
    let rivals = [bench.block(on_first, on_first, 3), bench.block(on_first, on_first, 5)];
    for rival in &rivals {
        bench.apply(rival, false);
    }
    let certify = |bench: &mut Bench, block: &Block| {
        for voter in 0..3 {
            let vote = bench.vote(voter, block.header.hash(), 2, block.header.epoch);
            bench.give_vote(vote);
        }
        bench.engine.lock_rank()
    };
    assert_eq!(certify(&mut bench, &rivals[1]), 5);
    assert_eq!(certify(&mut bench, &rivals[0]), 5);
    assert_eq!(bench.engine.certified(), (rivals[1].header.hash(), 2));
}

#[test]
fn strangers_votes_take_no_room_and_no_time() {
    let mut bench = Bench::observer();
    let vote = bench.vote(7, bench.genesis, 0, 0);
    assert!(bench.give_vote(vote).is_none());
    let far = bench.vote(0, bench.genesis, 0, VOTE_WINDOW + 1);
    assert!(bench.give_vote(far).is_none());
}

#[test]
fn a_vote_with_another_height_is_the_same_vote() {
    let mut bench = Bench::observer();
    let vote = bench.vote(0, bench.genesis, 0, 0);
    let relayed = bench.give_vote(vote.clone()).expect("new").expect("right");
    assert!(relayed.iter().any(|effect| matches!(effect, Effect::Relay { .. })));
    assert!(bench.give_vote(Vote { height: 9, ..vote }).is_none());
}

#[test]
fn malleable_twins_are_refused_where_the_rules_say_so() {
    for (spec, refused) in [(ChainSpec::devnet(), true), (ChainSpec::privatenet(), false)] {
        let mut bench = Bench::new(spec, Roles::observer(), Vec::new());
        let mut vote = bench.vote(0, bench.genesis, 0, 0);
        vote.signature = high_twin(&vote.signature);
        assert_eq!(bench.give_vote(vote).expect("wanted").is_err(), refused);
        let genesis = (bench.genesis, 0);
        let mut block = bench.block(genesis, genesis, 1);
        block.header.signature = high_twin(&block.header.signature);
        assert_eq!(bench.give_block(&block).expect("wanted").is_err(), refused);
    }
}

#[test]
fn a_block_out_of_turn_costs_no_signature_check() {
    let mut bench = Bench::observer();
    let genesis = (bench.genesis, 0);
    let mut block = bench.block(genesis, genesis, 1);
    let other = bench.post.validators.as_slice().iter().map(|validator| validator.address);
    block.header.proposer = other.into_iter().find(|other| *other != block.header.proposer).expect("four");
    sign(&mut block);
    assert!(bench.give_block(&block).is_none());
}

#[test]
fn a_proposer_fills_no_more_than_two_places_of_an_epoch() {
    let mut bench = Bench::observer();
    let genesis = (bench.genesis, 0);
    let taken = (0..10_u32).filter(|second| {
        let mut block = bench.block(genesis, genesis, 1);
        block.header.timestamp = (*second).into();
        sign(&mut block);
        bench.give_block(&block).is_some()
    });
    assert_eq!(taken.count(), 2);
}

#[test]
fn bad_blocks_are_condemned_and_not_taken_again() {
    let build = |bench: &Bench, change: &dyn Fn(&mut Header)| {
        let genesis = (bench.genesis, 0);
        let mut block = bench.block(genesis, genesis, 5);
        change(&mut block.header);
        sign(&mut block);
        block
    };
    let mut bench = Bench::observer();
    let tall = build(&bench, &|header| {
        header.height = 2;
        header.extension = Extension::empty(ChainSpec::devnet().rules(2).header);
    });
    assert_eq!(penalty(&bench.give_block(&tall).expect("wanted").expect("signed")), Some(Fault::Height));
    assert!(bench.give_block(&tall).is_none());
    let foreign = build(&bench, &|header| header.chain = "elsewhere".to_owned());
    assert_eq!(bench.give_block(&foreign).expect("wanted").err(), Some(Fault::Chain));
    let fields = build(&bench, &|header| header.extension = Extension::Guardians(None));
    assert_eq!(bench.give_block(&fields).expect("wanted").err(), Some(Fault::Fields));
    let stuffed = build(&bench, &|header| header.transactions_root = Hash::ZERO);
    assert_eq!(bench.give_block(&stuffed).expect("wanted").err(), Some(Fault::Transactions));
}

#[test]
fn a_certificate_without_quorum_condemns_its_block() {
    let mut bench = Bench::observer();
    let genesis = (bench.genesis, 0);
    let first = bench.block(genesis, genesis, 1);
    let on_first = (first.header.hash(), 1);
    bench.apply(&first, false);
    let mut second = bench.block(on_first, on_first, 2);
    second.header.certificate = bench.certificate(on_first, 0..2, 1);
    sign(&mut second);
    let expected = Fault::Certificate(CertificateError::NoQuorum);
    assert_eq!(bench.give_block(&second).expect("wanted").err(), Some(expected));
    // In the reference's form the quorum is looked for with the block's place in the chain.
    let mut bench = Bench::new(ChainSpec::privatenet(), Roles::observer(), Vec::new());
    let first = bench.block(genesis, genesis, 1);
    let on_first = (first.header.hash(), 1);
    bench.apply(&first, false);
    let mut second = bench.block(on_first, on_first, 2);
    second.header.certificate = bench.certificate(on_first, 0..2, 1);
    sign(&mut second);
    let effects = bench.give_block(&second).expect("wanted").expect("signed");
    assert_eq!(penalty(&effects), Some(expected));
}

#[test]
fn a_forged_vote_in_a_certificate_is_found() {
    let mut bench = Bench::new(ChainSpec::privatenet(), Roles::observer(), Vec::new());
    let genesis = (bench.genesis, 0);
    let first = bench.block(genesis, genesis, 1);
    let on_first = (first.header.hash(), 1);
    bench.apply(&first, false);
    let mut second = bench.block(on_first, on_first, 2);
    let mut votes = second.header.certificate.votes.list().to_vec();
    votes[1].signature = votes[0].signature.clone();
    second.header.certificate.votes = VoteSet::new(votes).into();
    sign(&mut second);
    assert_eq!(bench.give_block(&second).expect("wanted").err(), Some(Fault::Signature));
}

#[test]
fn near_a_change_of_validators_a_block_has_to_certify_its_parent() {
    let mut bench = Bench::new(ChainSpec::privatenet(), Roles::observer(), Vec::new());
    let genesis = (bench.genesis, 0);
    let change = bench.block(genesis, genesis, 1);
    let on_change = (change.header.hash(), 1);
    bench.apply(&change, true);
    let early = bench.block(on_change, genesis, 2);
    let effects = bench.give_block(&early).expect("wanted").expect("signed");
    assert_eq!(penalty(&effects), Some(Fault::SetChange));
    let child = bench.block(on_change, on_change, 3);
    let on_child = (child.header.hash(), 2);
    bench.apply(&child, false);
    let early = bench.block(on_child, on_change, 4);
    let effects = bench.give_block(&early).expect("wanted").expect("signed");
    assert_eq!(penalty(&effects), Some(Fault::SetChange));
    let grandchild = bench.block(on_child, on_child, 5);
    assert_eq!(settled(&bench.apply(&grandchild, false)), [1]);
}

#[test]
fn a_block_without_parent_is_kept_and_its_parent_asked_for() {
    let mut bench = Bench::observer();
    let genesis = (bench.genesis, 0);
    let first = bench.block(genesis, genesis, 1);
    let on_first = (first.header.hash(), 1);
    let second = bench.block(on_first, on_first, 2);
    let effects = bench.give_block(&second).expect("wanted").expect("signed");
    let asked = effects.iter().any(|effect| {
        matches!(effect, Effect::Fetch { block, above: 0, from: Some(Peer::Remote(1)) } if *block == on_first.0)
    });
    assert!(asked, "{effects:?}");
    bench.apply(&first, false);
    // What has not been executed yet is not passed on: whoever does so is blamed if it is bad.
    assert_eq!(bench.engine.branch(&second.header.hash()).len(), 1);
    bench.step(Input::Executed { hash: second.header.hash(), post: Some(bench.post.clone()) });
    assert_eq!(bench.engine.branch(&second.header.hash()).len(), 2);
}

#[test]
fn an_unknown_block_is_asked_for_a_bounded_number_of_times() {
    let mut bench = Bench::observer();
    let vote = bench.vote(0, Hash::repeat_byte(9), 1, 0);
    bench.give_vote(vote);
    let mut asked = 0;
    for second in 0..60 {
        let mut out = Vec::new();
        bench.engine.step(NOW + second * 1_000, Input::Tick, &mut out);
        asked += out.iter().filter(|effect| matches!(effect, Effect::Fetch { .. })).count();
    }
    assert_eq!(asked, 7);
}

/// What a validator appends and signs on genesis until it has voted for `block`.
fn run_to_vote(bench: &mut Bench, block: &Block) -> (Vec<WalRecord>, Vec<Intent>) {
    let mut effects = bench.step(Input::Tick);
    effects.extend(bench.apply(block, false));
    // At the clocked pace a vote waits for its timer.
    bench.engine.step(NOW + 12_000, Input::Tick, &mut effects);
    let records = effects.iter().filter_map(|effect| match effect {
        Effect::Append(record) => Some(record.clone()),
        _ => None,
    });
    let intents = effects.iter().filter_map(|effect| match effect {
        Effect::Sign { intent, .. } => Some(intent.clone()),
        _ => None,
    });
    (records.collect(), intents.collect())
}

#[test]
fn after_a_crash_no_other_block_of_the_height_gets_a_vote() {
    no_second_vote(&ChainSpec::privatenet(), 2);
}

#[test]
fn after_a_crash_no_other_block_of_the_epoch_gets_a_vote() {
    no_second_vote(&ChainSpec::devnet(), 1);
}

/// A validator that has voted for the first block does not vote for a rival of the given epoch after a crash.
fn no_second_vote(spec: &ChainSpec, epoch: u64) {
    let roles = || Roles::validator(key(3).address());
    let mut bench = Bench::new(spec.clone(), roles(), Vec::new());
    let genesis = (bench.genesis, 0);
    let (first, mut rival) = (bench.block(genesis, genesis, 1), bench.block(genesis, genesis, epoch));
    rival.header.timestamp = 9_u32.into();
    sign(&mut rival);
    let (wal, intents) = run_to_vote(&mut bench, &first);
    let voted = |intents: &[Intent]| -> Vec<Hash> {
        let blocks = intents.iter().filter_map(|intent| match intent {
            Intent::Vote { vote, .. } if vote.height == 1 => Some(vote.block),
            _ => None,
        });
        let mut blocks: Vec<Hash> = blocks.collect();
        blocks.dedup();
        blocks
    };
    assert_eq!(voted(&intents), [first.header.hash()]);
    // The log holds the block, so the vote can be explained to others.
    assert!(wal.iter().any(|record| record.blocks == [first.clone()]));

    let mut again = Bench::new(spec.clone(), roles(), wal);
    let (_, intents) = run_to_vote(&mut again, &rival);
    assert!(voted(&intents).iter().all(|block| *block == first.header.hash()), "{intents:?}");

    let mut fresh = Bench::new(spec.clone(), roles(), Vec::new());
    assert_eq!(voted(&run_to_vote(&mut fresh, &rival).1), [rival.header.hash()]);
}

/// A crash may have come between the log and the network; others wait for what is in the log.
#[test]
fn what_a_crash_may_have_kept_back_is_said_again_at_once() {
    let probe = Bench::observer();
    let genesis = (probe.genesis, 0);
    let me = probe.scheduled(&genesis.0, 0, 1);
    let begin = |wal: Vec<WalRecord>| Bench::new(ChainSpec::devnet(), Roles::validator(me), wal);
    let proposed = |effects: &[Effect]| {
        effects.iter().any(|effect| matches!(effect, Effect::Sign { intent: Intent::Proposal { .. }, .. }))
    };
    let mut bench = begin(Vec::new());
    let vote = (0..3).map(|voter| bench.vote(voter, genesis.0, 0, 0)).collect::<Vec<_>>();
    for vote in vote {
        bench.give_vote(vote).expect("new").expect("right");
    }
    bench.step(Input::Work);
    let body = Body {
        transactions: Vec::new(),
        receipts_root: Hash::ZERO,
        bloom: Default::default(),
        state_root: Hash::ZERO,
    };
    let effects = bench.step(Input::Built { parent: genesis.0, epoch: 1, body });
    assert!(proposed(&effects), "{effects:?}");
    let log = effects.iter().find_map(|effect| match effect {
        Effect::Append(record) => Some(record.clone()),
        _ => None,
    });
    assert!(proposed(&begin(log.into_iter().collect()).step(Input::Tick)));
    let mut bench = begin(Vec::new());
    let block = bench.block(genesis, genesis, 1);
    let (log, _) = run_to_vote(&mut bench, &block);
    let mut bench = begin(log);
    let mut effects = bench.step(Input::Tick);
    let (hash, post) = (block.header.hash(), Some(bench.post.clone()));
    effects.extend(bench.step(Input::Executed { hash, post }));
    let again = |effect: &Effect| match effect {
        Effect::Sign { intent: Intent::Vote { vote, .. }, .. } => vote.block == hash,
        _ => false,
    };
    assert_eq!(effects.iter().filter(|effect| again(effect)).count(), 1, "{effects:?}");
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Append(_))), "it is in the log");
}

#[test]
fn everything_is_in_the_log_before_it_is_signed() {
    let mut bench = Bench::new(ChainSpec::devnet(), Roles::validator(key(3).address()), Vec::new());
    let genesis = (bench.genesis, 0);
    let block = bench.block(genesis, genesis, 1);
    let mut effects = bench.step(Input::Tick);
    effects.extend(bench.apply(&block, false));
    let mut logged = None;
    let mut signed = 0;
    for effect in effects {
        match effect {
            Effect::Append(record) => logged = record.vote.or(logged),
            Effect::Sign { intent: Intent::Vote { vote, .. }, .. } => {
                signed += 1;
                let (height, epoch) = (vote.height, vote.epoch);
                assert_eq!(logged, Some(WalVote { block: vote.block, height, epoch }));
            }
            _ => {}
        }
    }
    assert_eq!(signed, 2);
}

#[test]
fn a_tail_that_hides_the_validators_is_refused() {
    let spec = Arc::new(ChainSpec::devnet());
    let settings = Settings::new(Pace::Responsive);
    let bench = Bench::observer();
    let lonely = bench.block((Hash::repeat_byte(1), 7), (Hash::repeat_byte(1), 7), 9);
    let recover = |settled| {
        let start = Start { root: bench.genesis, settled, wal: Vec::new() };
        Engine::recover(spec.clone(), settings.clone(), Roles::observer(), start).map(|_| ())
    };
    assert_eq!(recover(Vec::new()), Err(RecoverError::NoChain));
    let block = SettledBlock { header: Arc::new(lonely.header), post: bench.post.clone() };
    assert_eq!(recover(vec![block.clone()]), Err(RecoverError::ShortTail));
    assert_eq!(recover(vec![block.clone(), block]), Err(RecoverError::NoChain));
}

#[test]
fn a_signed_vote_takes_the_common_path_back() {
    let mut bench = Bench::new(ChainSpec::devnet(), Roles::validator(key(3).address()), Vec::new());
    let disk = theta_core::journal::MemDisk::default();
    let key: Arc<dyn Signer> = Arc::new(key(3));
    let mut signer = LocalSigner::open(key, disk).expect("empty").with_vote_key(vote_key(3));
    let effects = bench.step(Input::Tick);
    let intent = effects.iter().find_map(|effect| match effect {
        Effect::Sign { intent, .. } => Some(intent.clone()),
        _ => None,
    });
    let Signed::Message(message) = signer.sign(&intent.expect("a first vote")).expect("fresh mark") else {
        panic!("a vote was asked for");
    };
    let checks = bench.engine.wants(Peer::Own, message.clone()).expect("new");
    let effects = bench.step(Input::Message(checks.verify().expect("own signature")));
    // One's own vote is sent by the host that signed it and not relayed.
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Relay { .. })));
    assert!(bench.engine.wants(Peer::Own, message).is_none());
}

/// The first epoch passes without a block, so its proposer is absent and has no turn, until a 32nd block has its vote.
#[test]
fn who_lets_an_epoch_pass_is_named_and_has_no_turn() {
    let mut bench = Bench::observer();
    let genesis = (bench.genesis, 0);
    let silent = bench.scheduled(&genesis.0, 0, 1);
    let epoch = (2..20).find(|epoch| bench.scheduled(&genesis.0, 0, *epoch) != silent).expect("draws differ");
    let first = bench.block(genesis, genesis, epoch);
    assert!(first.header.absent.contains(&silent));
    for names in
        [Vec::new(), vec![first.header.proposer], [vec![first.header.proposer], vec![silent]].concat()]
    {
        let mut bench = Bench::observer();
        let mut wrong = first.clone();
        wrong.header.absent = names;
        sign(&mut wrong);
        let effects = bench.give_block(&wrong).expect("wanted").expect("signed");
        assert_eq!(penalty(&effects), Some(Fault::Absent));
    }
    bench.apply(&first, false);
    let mut on = (first.header.hash(), 1);
    let mut absent = Vec::new();
    for next in 1..36 {
        let block = bench.block(on, on, epoch + next);
        assert!(block.header.height > 32 || block.header.proposer != silent);
        absent.push(block.header.absent.contains(&silent));
        bench.apply(&block, false);
        on = (block.header.hash(), block.header.height);
        assert_eq!(bench.engine.certified().1 + 1, on.1, "the block was taken");
    }
    // Certificates of these tests are those of the first three.
    let votes = silent != key(3).address();
    let expected: Vec<_> = (2..37).map(|height| height < 32 || !votes).collect();
    assert_eq!(absent, expected);
}

#[test]
fn what_is_tried_while_nothing_settles_takes_bounded_room() {
    let mut bench = Bench::observer();
    let genesis = (bench.genesis, 0);
    let mut newest = genesis.0;
    for epoch in 1..=540 {
        let block = bench.block(genesis, genesis, epoch);
        newest = block.header.hash();
        bench.apply(&block, false);
        for voter in 0..3 {
            let vote = bench.vote(voter, genesis.0, 0, epoch);
            bench.give_vote(vote);
        }
        assert!(bench.engine.held().blocks <= 512, "{:?}", bench.engine.held());
    }
    assert_eq!(bench.engine.held().blocks, 512);
    // The newest one is there.
    assert_eq!(bench.engine.branch(&newest).len(), 1);
}
