//! The light client from genesis over the real changes of validators.

use std::sync::Arc;

use theta_consensus::{
    CertificateError,
    light::{LightClient, LightError, Update},
};
use theta_core::{block::CommitCertificate, hash::Hash, spec::ChainSpec, vote::VoteSet};

use crate::{Trio, genesis_validators, trios};

fn update(trio: &Trio) -> Update {
    Update {
        block: trio.first.header.clone(),
        child: trio.second.clone(),
        certificate: trio.third.header.certificate.clone(),
        validators: Some(trio.proof()),
    }
}

/// The client at the newest change, and the update for the block at the top.
fn followed() -> (LightClient, Update) {
    let (changes, tail) = trios();
    let genesis = changes[0].second.clone();
    let pinned: Hash = "0xa01e8a75e33586ccaf354d4e1377dda94e36fbce310720682984d5427b80aa81".parse().unwrap();
    assert_eq!(genesis.hash(), pinned);
    let mut client = LightClient::new(Arc::new(ChainSpec::privatenet()), genesis, genesis_validators());
    let mut heights = Vec::new();
    for trio in &changes[1..] {
        heights.push(client.advance(&update(trio)).unwrap().height);
    }
    // The one at 227 is by a kind of transaction that the set change rule does not count (`spec/consensus.md` 3.7).
    assert_eq!(heights, [215, 218, 227, 445]);
    let mut last = update(&tail);
    // Its validators are those of 445.
    last.validators = None;
    (client, last)
}

#[test]
fn it_follows_every_change_of_validators_from_genesis() {
    let (mut client, last) = followed();
    let before = client.validators().clone();
    assert_eq!(client.advance(&last).unwrap().height, 449);
    assert_eq!(*client.validators(), before);
    assert_eq!(client.advance(&last).unwrap_err(), LightError::Old { height: 449, trusted: 449 });
    // With the proof that the snapshot has for its block the validators come out the same.
    let (mut again, last) = followed();
    let proof = trios().1.proof();
    again.advance(&Update { validators: Some(proof), ..last }).unwrap();
    assert_eq!(*again.validators(), before);
}

#[test]
fn a_state_value_is_believed_if_it_is_proven() {
    let (changes, _) = trios();
    let mut client =
        LightClient::new(Arc::new(ChainSpec::privatenet()), changes[0].second.clone(), genesis_validators());
    client.advance(&update(&changes[1])).unwrap();
    let proof = changes[1].proof();
    assert!(client.verify(b"ls/vcp", &proof).unwrap().is_some());
    for index in 0..proof.len() {
        let mut cut = proof.clone();
        cut.remove(index);
        assert!(matches!(client.verify(b"ls/vcp", &cut), Err(LightError::Proof(_))));
        let mut changed = proof.clone();
        changed[index][0] ^= 1;
        assert!(client.verify(b"ls/vcp", &changed).is_err());
    }
}

#[test]
fn what_is_forged_is_refused_and_changes_nothing() {
    let (client, last) = followed();
    let refused = |change: &dyn Fn(&mut Update)| {
        let (mut client, mut update) = (client.clone(), last.clone());
        change(&mut update);
        let error = client.advance(&update).unwrap_err();
        assert_eq!(client.trusted().height, 445);
        error
    };
    let empty = |update: &mut Update| update.certificate.votes = VoteSet::default().into();
    assert_eq!(refused(&empty), LightError::Certificate(CertificateError::Empty));
    let forged = |update: &mut Update| {
        let mut votes = update.certificate.votes.list().to_vec();
        votes[0].epoch += 1;
        update.certificate.votes = VoteSet::new(votes).into();
    };
    assert_eq!(refused(&forged), LightError::Certificate(CertificateError::Signature));
    let other = |update: &mut Update| {
        update.certificate = CommitCertificate { block: Hash::ZERO, ..update.certificate.clone() };
    };
    assert_eq!(refused(&other), LightError::OtherBlock);
    assert_eq!(refused(&|update| update.block.state_root.0[0] ^= 1), LightError::Link);
    assert_eq!(refused(&|update| update.child.certificate.block = Hash::ZERO), LightError::Link);
    assert_eq!(refused(&|update| update.child.chain.clear()), LightError::Chain);
    assert_eq!(refused(&|update| update.block.height = 400), LightError::Old { height: 400, trusted: 445 });
    // Another block's proof does not show this block's validators.
    let foreign = |update: &mut Update| update.validators = Some(trios().0[1].proof());
    assert!(matches!(refused(&foreign), LightError::Proof(_)));
}
