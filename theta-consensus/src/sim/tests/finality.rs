//! Both upper levels in the network, and what guardians keep when the validators break.

use super::*;

/// Four validators and seven guardians, three of which only look on, with two elite edge nodes.
fn guarded(seed: u64) -> Scenario {
    Scenario {
        observers: 3,
        guardians: (0..7).collect(),
        elite: vec![4, 5],
        ..Scenario::honest(ChainSpec::devnet(), 4, seed)
    }
}

fn is_final_conflict(violation: &Violation) -> bool {
    matches!(violation, Violation::FinalConflict { .. } | Violation::FinalFell { .. })
}

#[test]
fn guardians_make_checkpoints_final_and_votes_of_both_levels_stand_in_headers() {
    let report = guarded(1).run();
    assert_eq!(report.violations, []);
    // Checkpoints are eleven, twenty-one and so on; the newest may be on its way.
    let behind = report.settled.iter().zip(&report.finals).map(|(settled, last)| settled - last);
    assert!(behind.clone().all(|behind| behind <= 12), "{:?} {:?}", report.settled, report.finals);
    assert_eq!(report.votes_in_headers, (7, 2));
}

#[test]
fn with_guardians_stopped_blocks_settle_and_nothing_becomes_final() {
    // Five of seven are more than two thirds; four are not.
    for (stopped, any) in [(vec![4, 5], true), (vec![3, 4, 5], false)] {
        let report = Scenario { stopped: stopped.clone(), ..guarded(2) }.run();
        assert_eq!(report.violations, []);
        assert!(report.settled[0] > 25, "{:?}", report.settled);
        assert_eq!(report.finals.iter().any(|height| *height > 0), any, "{stopped:?}: {:?}", report.finals);
    }
}

/// Storms and crashes of a network with both levels: whatever was final is so after every restart.
#[test]
fn storms_leave_what_is_final() {
    let mut restarts = 0;
    for seed in 0..4 {
        let scenario = Scenario { until: 70_000, crashes_per_100k: 600, ..storm(ChainSpec::devnet(), seed) };
        let levels = guarded(seed);
        let scenario = Scenario {
            observers: levels.observers,
            guardians: levels.guardians,
            elite: levels.elite,
            ..scenario
        };
        let report = scenario.run();
        assert_eq!(report.violations, [], "seed {seed}");
        assert!(report.finals.iter().all(|height| *height > 10), "seed {seed}: {:?}", report.finals);
        restarts += report.restarts;
    }
    assert!(restarts > 60, "{restarts}");
}

#[test]
fn where_validators_fork_the_final_checkpoint_stands() {
    let (mut forks, mut finals) = (0, 0);
    for seed in 0..4 {
        let report = Scenario::forked(ChainSpec::devnet(), seed).run();
        forks +=
            usize::from(report.violations.iter().any(|found| matches!(found, Violation::Conflict { .. })));
        finals += report.finals.iter().copied().max().unwrap_or(0);
        assert!(!report.violations.iter().any(is_final_conflict), "seed {seed}: {:?}", report.violations);
    }
    assert!(forks > 0 && finals > 0, "{forks} forks, {finals}");
}

#[test]
fn a_third_of_the_guardians_that_vote_twice_is_noticed() {
    let caught = (0..20).any(|seed| {
        let twice = vec![(0, Strategy::DoubleFinal), (1, Strategy::DoubleFinal)];
        let forked = Scenario::forked(ChainSpec::devnet(), seed);
        let report = Scenario { guardians: (0..4).collect(), adversaries: twice, ..forked }.run();
        report.violations.iter().any(|found| matches!(found, Violation::FinalConflict { .. }))
    });
    assert!(caught);
}

#[test]
fn real_signatures_of_both_levels_are_right() {
    let quiet = Scenario { until: 16_000, ..guarded(3) };
    let report = Scenario { real_signatures: true, ..quiet }.run();
    assert_eq!(report.violations, []);
    assert!(report.finals.iter().all(|height| *height >= 11), "{:?}", report.finals);
}
