//! Whole jobs over simulated nodes and the ledger's own rules.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod chain;
mod overspend;
mod value;
mod world;

use theta_core::amount::TFuelWei;
use theta_edge::executor::Ending;
use theta_edge::identity::NodeId;
use theta_edge::payment::PayError;
use theta_edge::scheduler::{Input, Report, State, Verification};
use world::{Conduct, Fuse, World, output};

fn tfuel(amount: u64) -> TFuelWei {
    TFuelWei::whole(amount)
}

fn payees(report: &Report) -> Vec<NodeId> {
    report.paid.iter().map(|earned| earned.node).collect()
}

#[test]
fn an_honest_pair_is_paid_once_each_on_the_chain() {
    let mut world = World::new(2, 100);
    let report = world.run(world.spec(5, 2));
    assert_eq!(report.state, State::Succeeded);
    assert_eq!(report.verification, Verification::Quorum { agree: 2, of: 2 });
    assert_eq!((report.paid.len(), report.total()), (2, Some(tfuel(2))));
    assert_eq!(world.purse().free(), tfuel(98), "the rest of the promise is free again");
    let raws = world.settle();
    assert_eq!(raws.len(), 2);
    for node in payees(&report) {
        let income = world.chain.balance(node.0).checked_sub(tfuel(10)).unwrap();
        assert_eq!(income, tfuel(1).checked_sub(chain::fee()).unwrap());
    }
    let fund = world.chain.fund(world.payer.address(), world.sequence).unwrap();
    assert_eq!(fund.used, tfuel(2));
    for raw in raws {
        assert!(world.chain.submit(&raw).is_err(), "a sequence settles once");
    }
    assert!(world.settle().is_empty(), "nothing is left to settle");
    assert_eq!(world.purse().free(), tfuel(98));
}

#[test]
fn a_liar_is_found_out_by_a_third_node_and_not_paid() {
    for liar in 0..2 {
        let mut world = World::new(3, 100);
        world.conducts =
            (0..3).map(|turn| if turn == liar { Conduct::Lies(999) } else { Conduct::Honest }).collect();
        let report = world.run(world.spec(5, 2));
        assert_eq!(report.state, State::Succeeded);
        assert_eq!(report.output, Some(world.truth.clone()));
        assert_eq!(report.verification, Verification::Quorum { agree: 2, of: 3 });
        assert_eq!((report.paid.len(), report.wrong.len(), report.attempts), (2, 1, 3));
        assert_eq!(world.signed(&report.wrong[0]), TFuelWei::ZERO);
        assert!(!payees(&report).contains(&report.wrong[0]));
    }
}

#[test]
fn with_no_third_node_a_reexecution_decides() {
    let mut world = World::new(2, 100);
    world.conducts = [Conduct::Lies(999)].into();
    world.referee = Some(world.truth.clone());
    let report = world.run(world.spec(5, 2));
    assert_eq!((report.state, report.verification), (State::Succeeded, Verification::Reexecuted));
    assert_eq!(report.output, Some(world.truth.clone()));
    assert_eq!((report.paid.len(), report.wrong.len()), (1, 1));
    assert_eq!(world.signed(&report.wrong[0]), TFuelWei::ZERO);
}

#[test]
fn where_nothing_can_decide_nobody_is_paid() {
    let mut world = World::new(2, 100);
    world.conducts = [Conduct::Lies(998), Conduct::Lies(999)].into();
    let report = world.run(world.spec(5, 2));
    assert_eq!(report.state, State::Failed);
    assert_eq!(report.error.unwrap().0, "disagreement");
    assert!(report.paid.is_empty());
    assert_eq!(world.purse().free(), tfuel(100));
}

#[test]
fn a_node_that_shows_what_it_was_not_bound_to_is_dropped() {
    let mut world = World::new(3, 100);
    world.conducts = [Conduct::Copies].into();
    let report = world.run(world.spec(5, 2));
    assert_eq!((report.state, report.attempts, report.paid.len()), (State::Succeeded, 3, 2));
    let paid = payees(&report);
    let copier = world.nodes.keys().find(|id| !paid.contains(id)).unwrap();
    assert_eq!(world.nodes[copier].runs, 0, "the one that ran nothing is the one not paid");
}

#[test]
fn a_node_that_vanishes_withholds_or_breaks_is_replaced_and_not_paid() {
    for conduct in [Conduct::Vanishes, Conduct::Withholds, Conduct::Breaks] {
        let mut world = World::new(3, 100);
        world.conducts = [conduct].into();
        let report = world.run(world.spec(5, 2));
        assert_eq!((report.state, report.attempts), (State::Succeeded, 3), "{conduct:?}");
        assert_eq!(report.verification, Verification::Quorum { agree: 2, of: 2 });
        assert_eq!(report.paid.len(), 2);
    }
}

#[test]
fn with_nobody_to_ask_the_job_fails_and_holds_no_money() {
    let mut world = World::new(0, 100);
    let report = world.run(world.spec(5, 2));
    assert_eq!((report.state, report.error.unwrap().0.as_str()), (State::Failed, "no_capacity"));
    assert_eq!(world.purse().free(), tfuel(100));
    let mut world = World::new(3, 100);
    world.conducts = [Conduct::Vanishes; 3].into();
    let report = world.run(world.spec(5, 2));
    assert_eq!(report.error.unwrap().0, "no_capacity");
    // Two nodes at one TFUEL each do not work for a cap of one.
    let mut world = World::new(3, 100);
    let (code, message) = world.run(world.spec(1, 2)).error.unwrap();
    assert_eq!(code, "no_capacity");
    assert!(message.contains("maxTfuel"), "{message}");
    assert_eq!(world.nodes.values().map(|node| node.runs).sum::<usize>(), 0);
}

#[test]
fn a_job_that_the_fund_cannot_pay_is_not_begun() {
    let mut world = World::new(2, 3);
    let report = world.run(world.spec(4, 2));
    assert_eq!((report.state, report.error.unwrap().0.as_str()), (State::Failed, "budget_exceeded"));
    assert_eq!(world.nodes.values().map(|node| node.runs).sum::<usize>(), 0);
    // A job within the fund is, and what it used is gone for the next.
    assert_eq!(world.run(world.spec(3, 2)).state, State::Succeeded);
    let mut next = world.spec(2, 2);
    next.nonce = 1;
    assert_eq!(world.run(next).error.unwrap().0, "budget_exceeded");
}

#[test]
fn what_a_failed_program_costs_follows_the_rules() {
    let three_quarters = tfuel(3).checked_sub(TFuelWei::wei(2_250_000_000_000_000_000_u64)).unwrap();
    for (ending, fuel, code, cost) in [
        (Ending::OutOfFuel, 2_000_000_000, "out_of_fuel", three_quarters),
        (Ending::OutOfMemory, 7, "out_of_memory", three_quarters),
        (Ending::Trap("unreachable".into()), 7, "trap", three_quarters),
        (Ending::Exit(3), 7, "exit", three_quarters),
        (Ending::InvalidModule("no".into()), 0, "invalid_module", TFuelWei::ZERO),
        (Ending::TimeLimit, 0, "time_limit", TFuelWei::ZERO),
    ] {
        let mut world = World::new(2, 100);
        world.truth = output(ending, fuel);
        let report = world.run(world.spec(5, 2));
        assert_eq!((report.state, report.error.unwrap().0.as_str()), (State::Failed, code));
        for node in world.nodes.keys() {
            assert_eq!(world.signed(node), cost, "{code}");
        }
        assert_eq!(world.nodes.values().map(|node| node.provider.worker().busy()).sum::<usize>(), 0);
    }
}

#[test]
fn a_result_beyond_the_limits_of_the_job_is_no_result() {
    let mut world = World::new(2, 100);
    world.conducts = [Conduct::Lies(u64::MAX), Conduct::Lies(u64::MAX)].into();
    let report = world.run(world.spec(5, 2));
    assert_eq!(report.state, State::Failed);
    assert!(report.paid.is_empty());
}

#[test]
fn messages_that_come_twice_or_late_change_nothing() {
    let mut world = World::new(2, 100);
    world.copies = 3;
    let report = world.run(world.spec(5, 2));
    assert_eq!((report.state, report.paid.len()), (State::Succeeded, 2));
    let sent = std::mem::take(&mut world.sent);
    for (to, envelope) in sent.iter().rev().chain(&sent) {
        world.deliver(*to, envelope).unwrap();
        world.settle_down().unwrap();
    }
    assert_eq!(world.reports.len(), 1);
    for (id, node) in &world.nodes {
        assert_eq!((world.signed(id), world.held(id), node.runs), (tfuel(1), tfuel(1), 1));
    }
    assert_eq!(world.settle().len(), 2);
    // The same receipts after their settlement are refused.
    let before = world.bad_payments;
    for (to, envelope) in &sent {
        world.deliver(*to, envelope).unwrap();
    }
    world.settle_down().unwrap();
    assert!(world.bad_payments > before);
    for id in world.nodes.keys() {
        assert_eq!(world.held(id), tfuel(1));
    }
    assert!(world.settle().is_empty());
}

#[test]
fn the_same_job_submitted_again_is_the_same_job() {
    let mut world = World::new(2, 100);
    let spec = world.spec(5, 2);
    world.run(spec.clone());
    let again = world.run(spec);
    assert_eq!(world.reports, [again]);
    assert_eq!(world.nodes.values().map(|node| node.runs).sum::<usize>(), 2);
}

#[test]
fn a_payment_that_was_lost_is_sent_again() {
    let mut world = World::new(2, 100);
    world.lose_payments = true;
    world.run(world.spec(5, 2));
    for id in world.nodes.keys() {
        assert_eq!((world.signed(id), world.held(id)), (tfuel(1), TFuelWei::ZERO));
    }
    world.lose_payments = false;
    let todo = world.requester.remind().unwrap();
    world.carry_out(todo);
    world.settle_down().unwrap();
    for id in world.nodes.keys() {
        assert_eq!(world.held(id), tfuel(1));
    }
    assert!(world.requester.remind().unwrap().is_empty(), "all acknowledged");
}

#[test]
fn work_after_a_settlement_is_paid_in_the_next_sequence() {
    let mut world = World::new(2, 100);
    for nonce in 0..3 {
        let mut spec = world.spec(5, 2);
        spec.nonce = nonce;
        assert_eq!(world.run(spec).state, State::Succeeded);
        if nonce < 2 {
            assert_eq!(world.settle().len(), 2);
        }
    }
    let fund = world.chain.fund(world.payer.address(), world.sequence).unwrap();
    assert_eq!((fund.used, fund.settled.len()), (tfuel(4), 4));
    for id in world.nodes.keys() {
        assert_eq!((world.signed(id), world.held(id)), (tfuel(3), tfuel(3)));
    }
    world.settle();
    assert_eq!(world.chain.fund(world.payer.address(), world.sequence).unwrap().used, tfuel(6));
}

#[test]
fn a_cancelled_job_stops_everywhere_and_holds_no_money() {
    let mut world = World::new(2, 100);
    world.conducts = [Conduct::Vanishes; 2].into();
    let spec = world.spec(5, 2);
    let job = spec.id();
    world.step(Input::Submit(spec)).unwrap();
    // Offers, acceptances and nothing more: the nodes are running now.
    for _ in 0..4 {
        world.deliver_next();
    }
    assert_eq!(world.nodes.values().map(|node| node.provider.worker().busy()).sum::<usize>(), 2);
    world.step(Input::Cancel { job }).unwrap();
    world.settle_down().unwrap();
    assert_eq!(world.requester.scheduler().state(&job), Some(State::Cancelled));
    assert_eq!(world.nodes.values().map(|node| node.provider.worker().busy()).sum::<usize>(), 0);
    assert_eq!(world.nodes.values().map(|node| node.stopped).sum::<usize>(), 2);
    assert_eq!(world.purse().free(), tfuel(100));
}

#[test]
fn a_crash_at_any_write_or_signature_neither_loses_nor_doubles_a_payment() {
    for (grouped, least) in [(false, 20), (true, 10)] {
        let crashes = crash_one_job(grouped);
        assert!(crashes > least, "{crashes} crashes");
    }
}

fn crash_one_job(grouped: bool) -> usize {
    let mut crashes = 0;
    for moment in 0..200 {
        let fuse = Fuse::new(moment);
        let mut world = World::new(3, 100);
        world.grouped = grouped;
        let whole = Fuse::new(usize::MAX);
        let spec = world.spec(5, 2);
        world.reopen(&fuse).unwrap_or_else(|error| panic!("{error}"));
        let crashed = world.step(Input::Submit(spec.clone())).and_then(|()| world.settle_down()).is_err()
            || world.crashed;
        crashes += usize::from(crashed);
        world.reopen(&whole).unwrap();
        // The caller never got an answer, so it submits again.
        world.step(Input::Submit(spec.clone())).unwrap();
        world.settle_down().unwrap();
        let todo = world.requester.remind().unwrap();
        world.carry_out(todo);
        world.settle_down().unwrap();
        world.rest();
        let report = world.requester.scheduler().report(&spec.id()).expect("it ended").clone();
        assert_eq!(report.state, State::Succeeded, "crash at {moment}");
        assert_eq!(report.paid.len(), 2, "crash at {moment}");
        for node in payees(&report) {
            assert_eq!((world.signed(&node), world.held(&node)), (tfuel(1), tfuel(1)), "crash at {moment}");
        }
        let all =
            world.nodes.keys().map(|id| world.signed(id)).try_fold(TFuelWei::ZERO, TFuelWei::checked_add);
        assert_eq!(all, Some(tfuel(2)), "crash at {moment}");
        assert!(world.nodes.values().all(|node| node.runs <= 1), "no node runs it twice; crash at {moment}");
        assert_eq!(world.purse().free(), tfuel(98), "nothing stays promised; crash at {moment}");
        if !crashed {
            break;
        }
    }
    crashes
}

/// Three jobs over five nodes, of which one lies, one vanishes and one breaks, crashed at every write, sync and signature
/// of the requester's two journals.
#[test]
fn a_crash_at_any_place_of_a_busy_log_loses_no_job_and_pays_nobody_twice() {
    for (grouped, least) in [(false, 40), (true, 20)] {
        let (crashes, adopted) = crash_three_jobs(grouped);
        assert!(crashes > least, "{crashes} crashes");
        assert!(adopted > 0, "work that was out is taken up again and not done again");
    }
}

fn crash_three_jobs(grouped: bool) -> (usize, usize) {
    let (mut crashes, mut adopted) = (0, 0);
    for moment in 0..400 {
        let fuse = Fuse::new(moment);
        let mut world = World::new(6, 100);
        world.grouped = grouped;
        world.conducts = [Conduct::Lies(999), Conduct::Honest, Conduct::Breaks, Conduct::Vanishes].into();
        world.referee = Some(world.truth.clone());
        let specs: Vec<_> =
            (0..3).map(|nonce| theta_edge::job::JobSpec { nonce, ..world.spec(5, 2) }).collect();
        world.reopen(&fuse).unwrap();
        let submitted = specs.iter().try_for_each(|spec| world.step(Input::Submit(spec.clone())));
        let crashed = submitted.and_then(|()| world.settle_down()).is_err() || world.crashed;
        let before: usize = world.nodes.values().map(|node| node.runs).sum();
        crashes += usize::from(crashed);
        world.reopen(&Fuse::new(usize::MAX)).unwrap();
        // Whoever asked has no answer, and asks again.
        for spec in &specs {
            world.step(Input::Submit(spec.clone())).unwrap();
        }
        world.settle_down().unwrap();
        let todo = world.requester.remind().unwrap();
        world.carry_out(todo);
        world.settle_down().unwrap();
        world.rest();
        let after: usize = world.nodes.values().map(|node| node.runs).sum();
        adopted += usize::from(crashed && before > 0 && after == before);
        let mut owed = std::collections::BTreeMap::new();
        for spec in &specs {
            let report = world.requester.scheduler().report(&spec.id());
            let report = report.unwrap_or_else(|| {
                panic!(
                    "crash at {moment}: a job is lost: {:#?}",
                    world.requester.scheduler().explain(&spec.id())
                )
            });
            assert_eq!(report.state, State::Succeeded, "crash at {moment}: {report:?}");
            assert_eq!(report.output, Some(world.truth.clone()), "crash at {moment}");
            for earned in &report.paid {
                let sum = owed.entry(earned.node).or_insert(TFuelWei::ZERO);
                *sum = sum.checked_add(earned.amount).unwrap();
            }
        }
        for node in world.nodes.keys() {
            let due = owed.get(node).copied().unwrap_or_default();
            assert_eq!((world.signed(node), world.held(node)), (due, due), "crash at {moment}");
        }
        let all = owed.values().copied().try_fold(TFuelWei::ZERO, TFuelWei::checked_add).unwrap();
        assert_eq!(world.purse().free().checked_add(all), Some(tfuel(100)), "crash at {moment}");
        assert_eq!(world.requester.scheduler().placement().running(), 0, "crash at {moment}");
        if !crashed {
            break;
        }
    }
    (crashes, adopted)
}

#[test]
fn a_till_that_starts_again_has_what_it_acknowledged() {
    let mut world = World::new(2, 100);
    world.run(world.spec(5, 2));
    for (id, node) in &mut world.nodes {
        node.disk.crash(0);
        let signer = std::sync::Arc::new(node.key.clone());
        let till =
            theta_edge::payment::till::Till::open(chain::CHAIN, signer.clone(), node.disk.clone()).unwrap();
        assert_eq!(till.book().map(|(_, _, claimed, _)| claimed).collect::<Vec<_>>(), [tfuel(1)]);
        let settings = theta_edge::worker::Settings::default();
        node.provider = theta_edge::provider::Provider::new(chain::CHAIN, signer, settings, [0; 32], till);
        assert_eq!(NodeId::of(&node.key), *id);
    }
    assert_eq!(world.settle().len(), 2);
}

#[test]
fn journals_hold_what_counts_and_not_what_is_past() {
    let mut world = World::new(2, 490);
    let mut longest = (0, 0, 0);
    for nonce in 0..200 {
        let mut spec = world.spec(5, 2);
        spec.nonce = nonce;
        assert_eq!(world.run(spec).state, State::Succeeded);
        assert_eq!(world.settle().len(), 2);
        let till = world.nodes.values().map(|node| node.disk.len()).max().unwrap();
        longest =
            (longest.0.max(world.disks.0.len()), longest.1.max(world.disks.1.len()), longest.2.max(till));
    }
    // All 200 reports are remembered, at some 350 bytes; purse and till have one line to remember of each node.
    assert!(longest.0 < 100_000, "{longest:?}");
    assert!(longest.1 < 60_000 && longest.2 < 50_000, "{longest:?}");
    let before = (world.purse().free(), world.requester.scheduler().jobs().collect::<Vec<_>>());
    assert_eq!(before.1.len(), 200);
    world.reopen(&Fuse::new(usize::MAX)).unwrap();
    let after = (world.purse().free(), world.requester.scheduler().jobs().collect::<Vec<_>>());
    assert_eq!(after, before);
    for id in world.nodes.keys() {
        assert_eq!((world.signed(id), world.held(id)), (tfuel(200), tfuel(200)));
    }
    let mut next = world.spec(5, 2);
    next.nonce = 200;
    assert_eq!(world.run(next).state, State::Succeeded);
    assert_eq!(world.settle().len(), 2);
}

#[test]
fn a_till_forgets_funds_that_have_ended() {
    let mut world = World::new(2, 100);
    world.run(world.spec(5, 2));
    let end = world.chain.fund(world.payer.address(), world.sequence).unwrap().end_height;
    for node in world.nodes.values_mut() {
        node.provider.forget_ended(end).unwrap();
        assert_eq!(node.provider.till().book().count(), 1, "it could still settle");
        node.provider.forget_ended(end + 1).unwrap();
        assert_eq!(node.provider.till().book().count(), 0);
    }
}

#[test]
fn a_till_believes_no_receipt_that_could_not_settle() {
    let mut world = World::new(2, 100);
    world.lose_payments = true;
    let report = world.run(world.spec(5, 2));
    let node = payees(&report)[0];
    let payment = world.purse().payment(&node.0).unwrap().unwrap();
    let good = world.chain.fund(world.payer.address(), world.sequence).unwrap();
    let height = world.chain.height;
    let refuse = |change: &dyn Fn(
        &mut theta_edge::payment::receipt::Payment,
        &mut theta_edge::chain::Fund,
        &mut u64,
    )| {
        let (mut payment, mut fund, mut height) = (payment.clone(), good.clone(), height);
        change(&mut payment, &mut fund, &mut height);
        let key = world.nodes[&node].key.clone();
        let disk = theta_core::journal::MemDisk::default();
        let mut till =
            theta_edge::payment::till::Till::open(chain::CHAIN, std::sync::Arc::new(key), disk).unwrap();
        till.accept(&payment, &fund, height)
    };
    assert_eq!(refuse(&|_, _, _| {}).unwrap(), tfuel(1), "the payment itself is good");
    assert!(matches!(refuse(&|p, _, _| p.receipt.amount = tfuel(2)), Err(PayError::Items)));
    assert!(matches!(
        refuse(&|p, _, _| p.receipt.envelope_signature = p.receipt.payer_signature.clone()),
        Err(PayError::Signature)
    ));
    assert!(matches!(
        refuse(&|p, _, _| p.receipt.payer_signature = p.receipt.envelope_signature.clone()),
        Err(PayError::Signature)
    ));
    assert!(matches!(
        refuse(&|p, _, _| p.receipt.chain_id = "mainnet".into()),
        Err(PayError::Foreign("chain"))
    ));
    assert!(matches!(refuse(&|p, _, _| p.receipt.payee = p.receipt.payer), Err(PayError::Foreign("payee"))));
    assert!(matches!(refuse(&|p, _, _| p.receipt.payment_sequence = 2), Err(PayError::Sequence { .. })));
    assert!(matches!(refuse(&|p, _, _| p.receipt.reserve_sequence += 1), Err(PayError::Foreign("fund"))));
    assert!(matches!(refuse(&|_, f, _| f.resource_ids = vec!["other".into()]), Err(PayError::Resource(_))));
    assert!(matches!(refuse(&|_, f, _| f.used = tfuel(100)), Err(PayError::Uncovered)));
    assert!(matches!(refuse(&|_, f, h| *h = f.end_height - 49), Err(PayError::Expiring)));
    assert!(matches!(refuse(&|p, f, _| p.receipt.expiry_height = f.end_height + 1), Err(PayError::Expiring)));
}
