use theta_core::{
    amount::ThetaWei,
    bits::Bits,
    block::Seed,
    bls,
    certificate::{AggregateVotes, SUITE},
    codec::rlp::Encode,
    hash::Address,
    sign::SecretKey,
    spec::{Fork, GuardianRule},
    trie::{NoNodes, Trie},
};

use super::*;
use crate::{finality, guardian, round::Aggregate};

fn key(index: u8) -> SecretKey {
    SecretKey::from_bytes(&[index + 1; 32]).expect("in range")
}

fn spec() -> Arc<ChainSpec> {
    let forks = [(Fork::Theta2, 0), (Fork::Theta3, 0), (Fork::Improved, 0), (Fork::SkipAbsent, 0)];
    Arc::new(ChainSpec::new("privatenet", forks))
}

/// A state with these validators and four guardians.
fn state(validators: &[u8]) -> (Trie, ValidatorSet) {
    let mut pool = ValidatorPool::default();
    for index in validators {
        let holder = key(*index).address();
        pool.deposit(holder, holder, ThetaWei::whole(100)).expect("new");
    }
    let mut trie = Trie::empty(Arc::new(NoNodes));
    trie.set(VALIDATORS_KEY, pool.to_rlp()).expect("in memory");
    trie.set(GUARDIANS_KEY, guardians().to_rlp()).expect("in memory");
    trie.set(b"ls/a/somebody", vec![1, 2, 3]).expect("in memory");
    let mut keys = std::collections::BTreeMap::new();
    for index in validators {
        let (key, holder) = (guardian_key(*index), key(*index).address());
        let proof = key.proof_of_possession(SUITE);
        let record = ValidatorKey { key: key.public_key(), proof };
        trie.set(&validator_key(holder), record.to_rlp()).expect("in memory");
        keys.insert(holder, record.key);
    }
    let set = ValidatorSet::keyed(&pool, |holder| Ok::<_, ()>(keys.get(&holder).copied()));
    (trie, set.expect("in memory"))
}

/// The four from this one on.
fn set(first: u8) -> ValidatorSet {
    state(&[first, first + 1, first + 2, first + 3]).1
}

/// Candidates and keys of the validators in a state.
fn proof(state: &Trie) -> Vec<Vec<u8>> {
    let mut nodes = state.prove(VALIDATORS_KEY).expect("in memory");
    for index in 0..8 {
        nodes.extend(state.prove(&validator_key(key(index).address())).expect("in memory"));
    }
    nodes
}

fn guardian_key(index: u8) -> bls::SecretKey {
    bls::SecretKey::from_bytes(&[index + 1; 32]).expect("in range")
}

fn guardians() -> GuardianPool {
    let mut pool = GuardianPool::default();
    for index in 0..4 {
        let holder = Address::repeat_byte(index + 1);
        let key = Some(guardian_key(index).public_key());
        pool.deposit(holder, holder, ThetaWei::whole(100), key).expect("new");
    }
    pool
}

/// By one of the four validators from the first on.
fn header(parent: &Header, state: &Trie, epoch: u64, first: u8) -> Header {
    let spec = spec();
    let height = parent.height + 1;
    let certificate = CommitCertificate::bare(parent.hash());
    let proposer = scheduled(&spec, parent, &set(first), epoch).expect("stake");
    let index = (0..8).find(|index| key(*index).address() == proposer).expect("one of ours");
    let signature = guardian_key(index).sign(SUITE, &Seed::message(&spec.chain, epoch));
    Header {
        chain: spec.chain.clone(),
        epoch,
        height,
        parent: parent.hash(),
        certificate,
        proposer,
        seed: Some(Seed::after(&parent.draw(), signature)),
        state_root: state.root(),
        extension: theta_core::block::Extension::empty(spec.rules(height).header),
        ..Header::zero()
    }
}

/// Votes of some of the four validators from the first on; what others sign is in the sum alone.
fn certificate(header: &Header, voters: &[u8], first: u8) -> CommitCertificate {
    let (block, set) = (header.hash(), set(first));
    let message = AggregateVotes::message(&header.chain, &block, header.epoch);
    let mut signers = Bits::new(4);
    for voter in voters {
        let address = key(*voter).address();
        set.as_slice()
            .iter()
            .position(|one| one.address == address)
            .into_iter()
            .for_each(|at| signers.set(at));
    }
    let shares: Vec<_> = voters.iter().map(|voter| guardian_key(*voter).sign(SUITE, &message)).collect();
    let signature = Shares::Curve.sum(&shares).expect("signatures");
    let votes = AggregateVotes { epoch: header.epoch, signers, signature };
    CommitCertificate { votes: votes.into(), block }
}

fn genesis(state: &Trie) -> Header {
    let spec = spec();
    let extension = theta_core::block::Extension::empty(spec.rules(0).header);
    Header { chain: spec.chain.clone(), state_root: state.root(), extension, ..Header::zero() }
}

/// A block on another by its epoch, settled by a child of the next.
fn update(parent: &Header, state: &Trie, epoch: u64, voters: &[u8]) -> Update {
    let first = if voters.iter().any(|voter| *voter < 4) { 0 } else { 4 };
    let block = header(parent, state, epoch, first);
    let child = header(&block, state, epoch + 1, first);
    let certificate = certificate(&child, voters, first);
    Update { block, child, certificate, validators: None }
}

fn client() -> (LightClient, Trie) {
    let (state, validators) = state(&[0, 1, 2, 3]);
    let genesis = genesis(&state);
    let client = LightClient::with_proof(spec(), genesis.clone(), &proof(&state)).expect("proven");
    // The candidates alone say nothing of their keys.
    let bare = state.prove(VALIDATORS_KEY).expect("in memory");
    assert!(matches!(LightClient::with_proof(spec(), genesis, &bare), Err(LightError::Proof(_))));
    assert_eq!(*client.validators(), validators);
    (client, state)
}

#[test]
fn new_validators_are_believed_once_they_are_proven() {
    let (mut client, old) = client();
    let (new, _) = state(&[4, 5, 6, 7]);
    let mut change = update(client.trusted(), &new, 1, &[0, 1, 2]);
    change.validators = Some(proof(&new));
    // Leaving the change out leaves nobody to vote for what follows.
    let next = update(&change.block, &new, 3, &[4, 5, 7]);
    let skipped = client.clone().advance(&next).map(|_| ());
    assert_eq!(skipped, Err(LightError::Certificate(CertificateError::Signature)));
    // Validators of another state are not proven by it.
    let forged = Update { validators: Some(proof(&old)), ..change.clone() };
    assert!(matches!(client.advance(&forged), Err(LightError::Proof(_))));
    client.advance(&change).expect("voted by the old");
    client.advance(&next).expect("voted by the new");
    assert!(client.advance(&update(&next.block, &new, 7, &[0, 1, 2, 3])).is_err());
}

#[test]
fn blocks_may_be_left_out_and_two_thirds_are_not_enough() {
    let (client, state) = client();
    let mut far = update(client.trusted(), &state, 50, &[0, 1]);
    far.block.height = 40;
    far.block.parent = Hash::repeat_byte(1);
    far.child = header(&far.block, &state, 51, 0);
    let with = |voters: &[u8]| {
        let update = Update { certificate: certificate(&far.child, voters, 0), ..far.clone() };
        client.clone().advance(&update).map(|header| header.height)
    };
    assert_eq!(with(&[0, 1]), Err(LightError::Certificate(CertificateError::NoQuorum)));
    assert_eq!(with(&[0, 1, 4]), Err(LightError::Certificate(CertificateError::NoQuorum)));
    assert_eq!(with(&[0, 1, 3]), Ok(40));
}

#[test]
fn a_child_whose_proposer_or_seed_is_not_the_blocks_own_is_not_believed() {
    let (client, state) = client();
    let right = update(client.trusted(), &state, 5, &[0, 1, 2]);
    let with = |change: &dyn Fn(&mut Header)| {
        let mut update = right.clone();
        change(&mut update.child);
        update.certificate = certificate(&update.child, &[0, 1, 2], 0);
        client.clone().advance(&update).map(|header| header.height)
    };
    assert_eq!(with(&|_| {}), Ok(1));
    assert_eq!(with(&|child| child.proposer = Address::ZERO), Err(LightError::Proposer));
    let message = Seed::message("privatenet", 6);
    for index in 0..4 {
        let signature = guardian_key(index).sign(SUITE, &message);
        for seed in [Hash::ZERO, right.block.draw()].map(|below| Seed::after(&below, signature)) {
            let expected = if Some(seed) == right.child.seed { Ok(1) } else { Err(LightError::Seed) };
            assert_eq!(with(&|child| child.seed = Some(seed)), expected);
        }
    }
    assert_eq!(with(&|child| child.absent.push(key(1).address())), Err(LightError::Absent));
    // Whoever is absent after the block does not make its child.
    let mut skipping = right.clone();
    skipping.block.absent.push(right.child.proposer);
    skipping.child = header(&skipping.block, &state, right.child.epoch, 0);
    skipping.child.absent = skipping.block.absent.clone();
    skipping.certificate = certificate(&skipping.child, &[0, 1, 2], 0);
    assert_ne!(skipping.child.proposer, right.child.proposer);
    assert_eq!(client.clone().advance(&skipping).map(|header| header.height), Ok(1));
    skipping.child.proposer = right.child.proposer;
    skipping.certificate = certificate(&skipping.child, &[0, 1, 2], 0);
    assert_eq!(client.clone().advance(&skipping).map(|_| ()), Err(LightError::Proposer));
    assert_eq!(with(&|child| child.seed = None), Err(LightError::Chain));
    // The list of votes of other chains is none of this one's.
    let list = Update { certificate: CommitCertificate::bare(right.child.hash()), ..right.clone() };
    assert_eq!(
        client.clone().advance(&list).map(|_| ()),
        Err(LightError::Certificate(CertificateError::Form))
    );
}

#[test]
fn a_child_of_a_later_epoch_settles_nothing() {
    let (mut client, state) = client();
    let mut gap = update(client.trusted(), &state, 1, &[]);
    gap.child = header(&gap.block, &state, 3, 0);
    gap.certificate = certificate(&gap.child, &[0, 1, 2], 0);
    assert_eq!(client.advance(&gap).map(|_| ()), Err(LightError::Link));
}

#[test]
fn two_settled_blocks_of_a_height_are_told() {
    let (mut client, state) = client();
    let genesis = client.trusted().clone();
    client.advance(&update(&genesis, &state, 1, &[0, 1, 2])).expect("first");
    let rival = update(&genesis, &state, 4, &[1, 2, 3]);
    assert_eq!(client.advance(&rival).map(|_| ()), Err(LightError::Fork(1)));
    // Without the votes it is noise.
    let noise = update(&genesis, &state, 4, &[1, 2]);
    let error = LightError::Certificate(CertificateError::NoQuorum);
    assert_eq!(client.advance(&noise).map(|_| ()), Err(error));
}

#[test]
fn values_are_believed_with_their_proofs_alone() {
    let (client, state) = client();
    let proof = state.prove(b"ls/a/somebody").expect("in memory");
    assert_eq!(client.verify(b"ls/a/somebody", &proof), Ok(Some(vec![1, 2, 3])));
    let absent = state.prove(b"ls/a/nobody").expect("in memory");
    assert_eq!(client.verify(b"ls/a/nobody", &absent), Ok(None));
    assert!(client.verify(b"ls/a/somebody", &proof[1..]).is_err());
}

#[test]
fn guardians_make_a_settled_checkpoint_final() {
    let (mut client, state) = client();
    client.advance(&update(&client.trusted().clone(), &state, 1, &[0, 1, 2])).expect("settled");
    let (block, pool) = (client.trusted().hash(), guardians().hash());
    let votes = |signers: &[u8], height| {
        let message = finality::message(GuardianRule::Finalize, "privatenet", height, &block, &pool);
        let votes = signers.iter().map(|index| {
            guardian::sign(
                &guardian_key(*index),
                (finality::SUITE, &message),
                (block, pool),
                usize::from(*index),
                4,
            )
        });
        votes.reduce(|a, b| a.merged(&b).expect("fits")).expect("one at least")
    };
    let proof = state.prove(GUARDIANS_KEY).expect("in memory");
    let two = client.finalize(&votes(&[0, 3], 1), &proof);
    assert_eq!(two, Err(LightError::Guardians(AggregateError::NoQuorum)));
    let elsewhere = client.finalize(&votes(&[0, 1, 3], 2), &proof);
    assert!(matches!(elsewhere, Err(LightError::Guardians(AggregateError::Signature(_)))));
    let unproven = client.finalize(&votes(&[0, 1, 3], 1), &[]);
    assert!(matches!(unproven, Err(LightError::Proof(_))));
    assert_eq!(client.final_checkpoint(), None);
    client.finalize(&votes(&[0, 1, 3], 1), &proof).expect("three of four");
    assert_eq!(client.final_checkpoint(), Some((block, 1)));
}
