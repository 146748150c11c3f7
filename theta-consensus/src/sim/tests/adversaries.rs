//! Validators that break the rules: up to a third of them break nothing, more are noticed.

use super::*;

/// `THETA_SEED` runs one seed of these tests alone, as a failing one prints it.
fn seeds(range: std::ops::Range<u64>) -> std::ops::Range<u64> {
    match std::env::var("THETA_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => seed..seed + 1,
        None => range,
    }
}

/// A storm that one of four makes worse.
fn with_one_faulty(spec: ChainSpec, strategy: Strategy, seed: u64) -> Scenario {
    let faulty = usize::try_from(seed % 4).unwrap_or(0);
    Scenario {
        adversaries: vec![(faulty, strategy)],
        duplicate_per_mille: seed * 7 % 100,
        stake_change_every: if seed.is_multiple_of(3) { 2_000 } else { 0 },
        ..storm(spec, seed)
    }
}

/// Whether nothing was violated, and whether every honest validator went on after the storm.
fn goes_on(scenario: Scenario, calm_sample: usize) -> Result<(), String> {
    let (seed, faulty) = (scenario.seed, scenario.adversaries.clone());
    let report = scenario.run();
    if !report.violations.is_empty() {
        return Err(format!("THETA_SEED={seed} {faulty:?}: {:?}", report.violations));
    }
    let honest = |node: &usize| !faulty.iter().any(|(other, _)| other == node);
    let grown = (0..report.settled.len())
        .filter(honest)
        .map(|node| report.settled[node].saturating_sub(report.samples[calm_sample][node]))
        .min();
    match grown {
        Some(3..) => Ok(()),
        _ => Err(format!("THETA_SEED={seed} {faulty:?}: {:?} then {:?}", report.samples, report.settled)),
    }
}

fn one_faulty_of_four(strategy: Strategy) {
    for seed in seeds(0..5) {
        let scenario = with_one_faulty(ChainSpec::devnet(), strategy, seed);
        let scenario = Scenario { until: 70_000, ..scenario };
        if let Err(failure) = goes_on(scenario, 4) {
            panic!("{failure}");
        }
    }
}

#[test]
fn equivocation_by_one_of_four_breaks_nothing_and_stops_nobody() {
    one_faulty_of_four(Strategy::Equivocate);
}

#[test]
fn withholding_by_one_of_four_breaks_nothing_and_stops_nobody() {
    one_faulty_of_four(Strategy::Withhold);
}

#[test]
fn delay_by_one_of_four_breaks_nothing_and_stops_nobody() {
    one_faulty_of_four(Strategy::Delay);
}

#[test]
fn split_votes_of_one_of_four_break_nothing_and_stop_nobody() {
    one_faulty_of_four(Strategy::SplitVotes);
}

#[test]
fn bad_certificates_of_one_of_four_break_nothing_and_stop_nobody() {
    one_faulty_of_four(Strategy::BadCertificates);
}

#[test]
fn replay_by_one_of_four_breaks_nothing_and_stops_nobody() {
    one_faulty_of_four(Strategy::Replay);
}

#[test]
fn old_branches_of_one_of_four_break_nothing_and_stop_nobody() {
    one_faulty_of_four(Strategy::LongRange);
}

#[test]
fn floods_of_one_of_four_break_nothing_and_stop_nobody() {
    one_faulty_of_four(Strategy::Flood);
}

#[test]
fn two_of_seven_together_break_nothing_and_stop_nobody() {
    for seed in seeds(0..5) {
        let mut random = Random::new(seed);
        let mut pick = || Strategy::ALL[usize::try_from(random.below(8)).unwrap_or(0)];
        let adversaries = vec![(1, pick()), (4, pick())];
        let scenario = Scenario { adversaries, until: 70_000, ..storm(ChainSpec::devnet(), seed) };
        if let Err(failure) = goes_on(Scenario { validators: 7, ..scenario }, 4) {
            panic!("{failure}");
        }
    }
}

#[test]
fn at_the_clocked_pace_one_of_four_breaks_nothing() {
    for seed in seeds(0..8) {
        let strategy = Strategy::ALL[usize::try_from(seed % 8).unwrap_or(0)];
        let scenario = with_one_faulty(ChainSpec::privatenet(), strategy, seed);
        let report = Scenario { until: 300_000, calm_from: 150_000, ..scenario }.run();
        assert_eq!(report.violations, [], "THETA_SEED={seed} {strategy:?}");
    }
}

#[test]
fn more_than_a_third_that_equivocates_is_noticed() {
    for spec in [ChainSpec::devnet(), ChainSpec::privatenet()] {
        let caught = (0..40).any(|seed| {
            let adversaries = vec![(0, Strategy::Equivocate), (1, Strategy::Equivocate)];
            let quiet = Scenario::honest(spec.clone(), 4, seed);
            let report = Scenario { adversaries, until: 300_000, ..quiet }.run();
            report.violations.iter().any(|violation| matches!(violation, Violation::Conflict { .. }))
        });
        assert!(caught, "{:?}", spec.rules(2).consensus.pace);
    }
}

#[test]
fn real_signatures_stand_against_every_strategy() {
    for (seed, strategy) in (0..).zip(Strategy::ALL) {
        let quiet = Scenario::honest(ChainSpec::devnet(), 4, seed);
        let adversaries = vec![(2, strategy)];
        let scenario = Scenario { adversaries, until: 6_000, real_signatures: true, ..quiet };
        assert_eq!(scenario.run().violations, [], "THETA_SEED={seed} {strategy:?}");
    }
}

#[test]
fn who_equivocates_is_reported_and_nobody_else() {
    for spec in [ChainSpec::devnet(), ChainSpec::privatenet()] {
        let quiet = Scenario::honest(spec, 4, 1);
        let adversaries = vec![(2, Strategy::Equivocate)];
        let report = Scenario { adversaries, until: 120_000, ..quiet }.run();
        assert_eq!(report.violations, []);
        // Once by each of the others.
        assert_eq!(report.reported, 3);
    }
}

/// With heights as ranks two such blocks with half of the votes each would end the chain.
#[test]
fn two_blocks_of_an_epoch_that_both_change_validators_end_nothing() {
    for seed in seeds(0..8) {
        let quiet = Scenario::honest(ChainSpec::devnet(), 4, seed);
        let adversaries = vec![(usize::try_from(seed % 4).unwrap_or(0), Strategy::Equivocate)];
        let scenario = Scenario { adversaries, stake_change_every: 600, delay: (20, 200), ..quiet };
        if let Err(failure) = goes_on(scenario, 4) {
            panic!("{failure}");
        }
    }
}

/// Evidence in a simulated run: detected, told to everybody, brought by whoever proposes next, and the stake is gone.
#[test]
fn who_equivocates_loses_its_stake_and_the_chain_goes_on_without_it() {
    for seed in seeds(0..10) {
        for (validators, culprits) in [(4, vec![0]), (7, vec![1, 4])] {
            let adversaries = culprits.iter().map(|node| (*node, Strategy::Equivocate)).collect();
            let quiet = Scenario::honest(ChainSpec::devnet(), validators, seed);
            let report = Scenario { adversaries, slashes: true, ..quiet }.run();
            assert_eq!(report.violations, [], "seed {seed}");
            let honest = (0..validators).filter(|node| !culprits.contains(node));
            for node in honest {
                let left = report.validators[node];
                assert_eq!(left, validators - culprits.len(), "seed {seed}: {:?}", report.validators);
                assert!(report.settled[node] > report.samples[3][node] + 10, "seed {seed}: {report:?}");
            }
        }
    }
    // Where nobody is slashed, all stay.
    let adversaries = vec![(0, Strategy::Equivocate)];
    let report = Scenario { adversaries, ..Scenario::honest(ChainSpec::devnet(), 4, 0) }.run();
    assert_eq!(report.validators, [4; 4]);
}
