//! Jobs, nodes and messages, without money and without time.

use super::*;
use crate::job::tests::spec;
use crate::placement::{Offer, Unfit};
use theta_core::hash::Address;

/// Offers among effects: to whom, and of which task.
fn offered(out: &[Effect]) -> Vec<(NodeId, Hash)> {
    let offers = out.iter().filter_map(|effect| match effect {
        Effect::Send { to, message: Message::Offer { task, .. } } => Some((*to, task.id())),
        _ => None,
    });
    offers.collect()
}

#[test]
fn jobs_wait_for_room_in_the_order_in_which_they_came() {
    let (mut scheduler, mut out) = (Scheduler::new(Settings::default()), Vec::new());
    let one = Offer { cpu_milli: 1_000, mem_mib: 256, credits: 1, ..Offer::default() };
    for byte in [10, 11] {
        let node = NodeId(Address::repeat_byte(byte));
        scheduler.step(0, Input::Offer { node, offer: Box::new(one.clone()) }, &mut out);
    }
    let small = NodeId(Address::repeat_byte(12));
    let offer = Offer { mem_mib: 1, ..one.clone() };
    scheduler.step(0, Input::Offer { node: small, offer: Box::new(offer) }, &mut out);
    let quorum = crate::job::Quorum::of(1);
    let specs: Vec<JobSpec> = (0..4).map(|nonce| JobSpec { nonce, quorum, ..spec() }).collect();
    for spec in &specs {
        scheduler.step(0, Input::Submit(spec.clone()), &mut out);
        scheduler.step(0, Input::Promised { job: spec.id(), held: true }, &mut out);
    }
    let offers = offered(&out);
    let tasks: Vec<Hash> = specs.iter().map(|spec| spec.task().id()).collect();
    assert_eq!(offers.iter().map(|(_, task)| *task).collect::<Vec<_>>(), tasks[..2]);
    assert_eq!(scheduler.jobs.values().map(|job| job.offers).sum::<u32>(), 2);
    let why = scheduler.explain(&specs[3].id()).unwrap();
    assert_eq!((why.waits_for, why.ahead), ("a node with room", 3));
    // Placement's own reasons.
    let task = &why.tasks[0];
    assert_eq!((task.state, task.waiting, task.blocked), ("it waits for a node or for its turn", 2, true));
    let expected = [(Unfit::Credits, 2), (Unfit::Memory, 1)];
    assert_eq!(task.unfit.iter().map(|(why, count)| (*why, *count)).collect::<Vec<_>>(), expected);
    // Nobody has room for long, which is no reason to give up.
    out.clear();
    let (node, task) = offers[1];
    let accepted = Message::Accepted { task, epoch: 1, price: crate::payment::Price::default() };
    scheduler.step(1, Input::Message { from: node, message: accepted }, &mut out);
    scheduler.step(4_000, Input::Tick, &mut out);
    assert_eq!(scheduler.state(&specs[2].id()), Some(State::Queued));
    assert!(offered(&out).is_empty());
    // A node that is bound to its result has room again, and who came first gets it.
    let commit = Message::Committed { task, epoch: 1, commit: Hash::ZERO };
    scheduler.step(4_001, Input::Message { from: node, message: commit }, &mut out);
    assert_eq!(offered(&out), [(node, tasks[2])]);
    // When every node that could is gone, patience is what it was.
    out.clear();
    for byte in [10, 11] {
        let node = NodeId(Address::repeat_byte(byte));
        scheduler.step(4_002, Input::Node { node, up: false }, &mut out);
    }
    let patience = 4_002 + Settings::default().patience_ms;
    scheduler.step(patience - 1, Input::Tick, &mut out);
    assert_eq!(scheduler.state(&specs[3].id()), Some(State::Queued));
    scheduler.step(patience, Input::Tick, &mut out);
    assert_eq!(scheduler.state(&specs[3].id()), Some(State::Failed));
}

#[test]
fn a_message_of_another_epoch_counts_for_nothing() {
    let (mut scheduler, mut out) = (Scheduler::new(Settings::default()), Vec::new());
    let (job, task) = (spec().id(), spec().task().id());
    for byte in 10..13 {
        scheduler.step(0, Input::Node { node: NodeId(Address::repeat_byte(byte)), up: true }, &mut out);
    }
    scheduler.step(0, Input::Submit(spec()), &mut out);
    scheduler.step(0, Input::Promised { job, held: true }, &mut out);
    let asked = |out: &[Effect]| {
        let offers = out.iter().filter_map(|effect| match effect {
            Effect::Send { to, message: Message::Offer { epoch, .. } } => Some((*to, *epoch)),
            _ => None,
        });
        offers.collect::<Vec<_>>()
    };
    let offers = asked(&out);
    assert_eq!(offers.len(), 2);
    let (from, epoch) = offers[0];
    let mut now = 0;
    for (said, new_offers) in [(epoch - 1, 0), (epoch + 1, 0), (epoch, 1)] {
        out.clear();
        let message = Message::Failed { task, epoch: said, code: "lost".into() };
        now += 200;
        scheduler.step(now, Input::Message { from, message }, &mut out);
        // Whoever comes next is asked a little later.
        now += 200;
        scheduler.step(now, Input::Tick, &mut out);
        assert_eq!(asked(&out).len(), new_offers, "epoch {said}");
    }
}

#[test]
fn a_commitment_that_overtakes_the_word_before_it_counts() {
    let (mut scheduler, mut out) = (Scheduler::new(Settings::default()), Vec::new());
    let spec = JobSpec { quorum: crate::job::Quorum::of(1), ..spec() };
    let (job, task, from) = (spec.id(), spec.task().id(), NodeId(Address::repeat_byte(10)));
    scheduler.step(0, Input::Node { node: from, up: true }, &mut out);
    scheduler.step(0, Input::Submit(spec), &mut out);
    scheduler.step(0, Input::Promised { job, held: true }, &mut out);
    assert_eq!(offered(&out), [(from, task)]);
    out.clear();
    let commit = Message::Committed { task, epoch: 1, commit: Hash::ZERO };
    scheduler.step(1, Input::Message { from, message: commit }, &mut out);
    let reveals = |out: &[Effect]| {
        let reveal =
            |effect: &&Effect| matches!(effect, Effect::Send { message: Message::Reveal { .. }, .. });
        out.iter().filter(reveal).count()
    };
    assert_eq!(reveals(&out), 0, "its price is not known");
    let accepted = Message::Accepted { task, epoch: 1, price: crate::payment::Price::default() };
    scheduler.step(2, Input::Message { from, message: accepted }, &mut out);
    assert_eq!(reveals(&out), 1);
}
