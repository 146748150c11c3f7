//! S2: nodes that cheat, and whether it pays (edge.md 4.3).
//!
//! Every task goes to a node of the fleet. By [`crate::trust`] it is checked or not; a check is a second attempt at
//! another operator's node, and where two differ a re-execution says who was right. Whoever was wrong loses its bond and
//! does not come back.

use theta_core::amount::TFuelWei;
use theta_core::hash::{Address, Hash, U256};

use super::{Random, Trace};
use crate::Millis;
use crate::identity::NodeId;
use crate::placement::{Fleet, Need, Offer, Selector, Weights, Wish};
use crate::trust::Trust;

/// What is simulated.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Where all chance comes from.
    pub seed: u64,
    /// Nodes.
    pub nodes: u64,
    /// Tasks.
    pub tasks: u64,
    /// Nodes that cheat, in percent; a third each at random, always, and in pairs that give the same wrong answer.
    pub cheater_percent: u64,
    /// Price of a task in wei.
    pub price: u64,
    /// Bond of a node in wei.
    pub bond: u64,
}

/// How it went, beside the targets of edge.md 4.3.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Everything that happened.
    pub trace: Hash,
    /// Wrong results that stayed believed, of all tasks. Target: 0.0001.
    pub accepted_error: f64,
    /// Executions for each task. Target: 1.08.
    pub overhead: f64,
    /// What cheaters earned by wrong results, less bonds, in wei. Target: below 0.
    pub cheater_profit: i128,
    /// Cheaters that were caught.
    pub caught: u64,
    /// Honest nodes that lost their bond; 0 unless something is broken.
    pub accused: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Honest,
    /// Wrong one time in ten.
    Random,
    /// Always wrong.
    Lazy,
    /// Wrong one time in ten, and equal to the answer of the next or the previous one.
    Pair,
}

/// A wrong answer's name: 0 is the right one.
fn answer(kind: Kind, node: u64, task: u64, random: &mut Random) -> u64 {
    match kind {
        Kind::Random if random.below(10) == 0 => 1 + random.next_u64() / 2,
        Kind::Lazy => 1 + random.next_u64() / 2,
        // Both of a pair decide by the task alone.
        Kind::Pair if Random::new(task).below(10) == 0 => 1 + node / 2,
        _ => 0,
    }
}

/// Runs a scenario.
pub fn run(scenario: &Scenario) -> Report {
    let mut random = Random::new(scenario.seed);
    let mut trace = Trace::new();
    let mut fleet = Fleet::new(scenario.seed);
    let selector = fleet.selector(&Selector::default());
    let cheaters = scenario.nodes * scenario.cheater_percent / 100;
    let kind = |number: u64| match number {
        number if number >= cheaters => Kind::Honest,
        number => [Kind::Random, Kind::Lazy, Kind::Pair][(number / 2 % 3) as usize],
    };
    for number in 0..scenario.nodes {
        let id = NodeId(Address::from_word(U256::from(number + 1).into()));
        let offer = Offer { operator: number as u32 + 1, credits: 4, ..Offer::default() };
        fleet.join(id, &offer);
    }
    let (price, loss) = (TFuelWei::wei(scenario.price), TFuelWei::wei(scenario.bond));
    let mut trust = vec![Trust::default(); scenario.nodes as usize];
    // Wrong results that are believed, by task.
    let mut believed_wrong = std::collections::HashMap::new();
    let (mut executions, mut profit, mut caught, mut accused) = (0_u64, 0_i128, 0_u64, 0_u64);
    let weights = Weights { idle: 2.0, ..Weights::default() };
    let need = Need { cpu_milli: 1_000, mem_mib: 100, vram_mib: 0 };
    let mut banned = vec![false; scenario.nodes as usize];
    for task in 0..scenario.tasks {
        let now: Millis = task * 10;
        let pick = |fleet: &mut Fleet, exclude: &[u32], operators: &[u32]| {
            let wish = Wish {
                need,
                selector,
                bid: 10,
                reputation: 0,
                holders: &[],
                exclude,
                exclude_operators: operators,
                speed: 0,
                quick: None,
                replicated: true,
                weights: &weights,
            };
            let pick = fleet.pick(&wish, now, |_, _| {})?;
            let device = fleet.reserve(&pick, &need, now)?;
            fleet.release(pick.node, &need, device);
            Some(pick.node)
        };
        let Some(first) = pick(&mut fleet, &[], &[]) else { break };
        let mut give = |node: u32| {
            executions += 1;
            answer(kind(node.into()), node.into(), task, &mut random)
        };
        let one = give(first);
        trace.note(&[task, first.into(), one]);
        let name = Hash::from(U256::from(task));
        let earned = i128::from(scenario.price);
        let mut wrong = Vec::new();
        let due = {
            let word = random.next_u64();
            trust[first as usize].is_due(price, loss, word)
        };
        if due {
            let Some(second) = pick(&mut fleet, &[first], &[first + 1]) else { break };
            executions += 1;
            let two = answer(kind(second.into()), second.into(), task, &mut random);
            trace.note(&[task, second.into(), two]);
            if one == two {
                // Equal results are believed, also equal wrong ones.
                for node in [first, second] {
                    trust[node as usize].valid();
                    if one != 0 {
                        profit += earned;
                    }
                }
                if one != 0 {
                    believed_wrong.insert(task, first);
                }
            } else {
                executions += 1;
                wrong.extend([(first, one), (second, two)].into_iter().filter(|(_, given)| *given != 0));
                for (node, _) in [(first, one), (second, two)].into_iter().filter(|(_, given)| *given == 0) {
                    trust[node as usize].valid();
                }
            }
        } else {
            trust[first as usize].believed(now, name);
            if one != 0 {
                believed_wrong.insert(task, first);
                profit += earned;
            }
        }
        for (node, _) in wrong {
            if std::mem::replace(&mut banned[node as usize], true) {
                continue;
            }
            fleet.close(node);
            profit -= i128::from(scenario.bond);
            if kind(node.into()) == Kind::Honest {
                accused += 1
            } else {
                caught += 1
            }
            // What was believed of it lately is run again.
            for name in trust[node as usize].wrong(now) {
                executions += 1;
                let task = U256::from_be_bytes(name.0).saturating_to::<u64>();
                believed_wrong.remove(&task);
            }
        }
    }
    trace.note(&[executions, caught, believed_wrong.len() as u64]);
    Report {
        trace: trace.hash(),
        accepted_error: believed_wrong.len() as f64 / scenario.tasks.max(1) as f64,
        overhead: executions as f64 / scenario.tasks.max(1) as f64,
        cheater_profit: profit,
        caught,
        accused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cheating_is_found_out_does_not_pay_and_costs_the_others_little() {
        let scenario = Scenario {
            seed: 1,
            nodes: 200,
            tasks: 200_000,
            cheater_percent: 5,
            price: 10_000_000_000_000_000,
            bond: 10_000_000_000_000_000_000,
        };
        let report = run(&scenario);
        assert!(report.accepted_error <= 1e-4, "{report:?}");
        assert!(report.overhead <= 1.08, "{report:?}");
        assert!(report.cheater_profit < 0, "{report:?}");
        assert_eq!((report.caught, report.accused), (10, 0), "{report:?}");
        assert_eq!(run(&scenario), report);
    }
}
