use super::*;

fn scenario(guardians: usize, byzantine_percent: usize) -> GuardianScenario {
    GuardianScenario { byzantine_percent, ..GuardianScenario::honest(guardians, 3, Costs::TYPICAL) }
}

#[test]
fn a_thousand_guardians_certify_within_a_second_and_a_half() {
    for byzantine_percent in [0, 10, 20, 30] {
        let report = scenario(1_000, byzantine_percent).run();
        assert_eq!(report.certified, report.honest);
        assert!(report.last <= 1_500.0, "{report:?}");
    }
}

#[test]
fn a_third_that_is_silent_leaves_nothing_final() {
    assert_eq!(scenario(300, 34).run().certified, 0);
    assert!(scenario(300, 32).run().certified > 150);
}

#[test]
fn equal_seeds_give_equal_runs() {
    let run = |seed| GuardianScenario { seed, ..scenario(300, 20) }.run();
    assert_eq!(run(1), run(1));
    assert_ne!(run(1).trace, run(2).trace);
}

/// `benchmarks.md` F: from 300 to 3,000 guardians work grows by four at most. The way of a vote grows with their logarithm by
/// the three links on which a message goes on, twice: in the group and to everybody.
#[test]
fn work_grows_with_the_root_of_the_guardians() {
    let (small, large) = (scenario(300, 0).run(), scenario(3_000, 0).run());
    assert!(large.cpu.0 <= 4.0 * small.cpu.0, "{small:?} {large:?}");
    assert!(large.checked <= 4.0 * small.checked, "{small:?} {large:?}");
    assert!(large.hops <= small.hops + 4, "{small:?} {large:?}");
    // What each sends grows with the root, too.
    assert!(large.bytes.0 <= 4.0 * small.bytes.0, "{small:?} {large:?}");
}

#[test]
fn real_signatures_take_the_same_way() {
    let scenario = scenario(40, 10);
    // A clock that stands still: what is compared is what is sent and checked.
    let free = GuardianScenario { costs: Costs { sign: 0, verify: 0, key: 0, sum: 0 }, ..scenario.clone() };
    assert_eq!(scenario.run_real(&|| 0), free.run());
}
