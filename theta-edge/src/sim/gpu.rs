//! A class of GPUs: claimed, measured, priced, and given to what needs it (edge.md 1.4, 3.2).
//!
//! Nodes come in unmeasured. Each is measured at once with all others of its operator; whoever has less than it claims is
//! turned away. Tasks then ask for memory of a GPU and bid a price.

use std::collections::{BTreeMap, BTreeSet};

use theta_core::hash::{Address, Hash, U256};

use super::{Random, Trace};
use crate::identity::NodeId;
use crate::placement::{
    Answer, Change, Effect, Input, JobRequest, Need, Offer, Placement, Selector, Settings, Status, Step,
    holds,
};

/// What is simulated.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Where all chance comes from.
    pub seed: u64,
    /// Nodes that claim a GPU; as many have none.
    pub nodes: u64,
    /// Tasks.
    pub tasks: u64,
    /// Nodes that claim twice the memory that they have, in percent.
    pub liar_percent: u64,
}

/// How it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Everything that happened.
    pub trace: Hash,
    /// Nodes whose claim was measured and held.
    pub attested: u64,
    /// Nodes whose claim did not hold.
    pub refuted: u64,
    /// Tasks with a result.
    pub done: u64,
    /// Tasks that ran on a node without a GPU, on one whose claim did not hold, on a GPU that was full, or above the bid;
    /// 0 unless something is broken.
    pub misplaced: u64,
    /// What the tasks cost together, in millionths of a TFUEL for an hour of a core.
    pub paid: u64,
    /// The same if each had cost its bid.
    pub bid: u64,
}

fn id(number: u64) -> NodeId {
    NodeId(Address::from_word(U256::from(number + 1).into()))
}

/// Runs a scenario.
pub fn run(scenario: &Scenario) -> Report {
    let mut random = Random::new(scenario.seed);
    let mut trace = Trace::new();
    let settings =
        Settings { seed: scenario.seed, tenant_rate: (1e9, 1e9), explained: 0, ..Settings::default() };
    let mut placement = Placement::new(settings, 0);
    let mut step = Step::default();
    // Price, memory of the GPU, and whether what was claimed is there.
    let mut nodes: BTreeMap<NodeId, (u32, u32, bool)> = BTreeMap::new();
    let (mut attested, mut refuted) = (0, 0);
    for number in 0..scenario.nodes * 2 {
        let gpu = number % 2 == 0;
        let claimed = [8_192, 24_576, 81_920][random.below(3) as usize];
        let liar = gpu && random.below(100) < scenario.liar_percent;
        let price = 1_000 + random.below(4_000) as u32;
        let offer = Offer {
            gpus: u8::from(gpu),
            vram_mib: if gpu { claimed } else { 0 },
            cpu_milli: 16_000,
            mem_mib: 65_536,
            credits: 8,
            price,
            operator: number as u32 + 1,
            ..Offer::default()
        };
        let node = id(number);
        placement.step(0, Input::Join { node, offer, status: Status::Joining }, &mut step);
        // A fill that has to fit, with a read at places that come with the deadline.
        let measured = if liar { claimed / 2 } else { claimed };
        let held = holds(claimed.into(), measured.into());
        let change = if held { Change::Measured } else { Change::Refuted };
        placement.step(0, Input::Change { node, change }, &mut step);
        nodes.insert(node, (price, if gpu { claimed } else { 0 }, held));
        if gpu {
            (attested, refuted) = (attested + u64::from(held), refuted + u64::from(!held));
        }
    }
    let mut needs: BTreeMap<Hash, (u32, u32)> = BTreeMap::new();
    for number in 0..scenario.tasks {
        let vram = [4_096, 12_288, 40_960][random.below(3) as usize];
        let bid = 2_000 + random.below(4_000) as u32;
        let job = JobRequest {
            id: Hash::from(U256::from(number + 1)),
            tenant: id(1 << 40).0,
            need: Need { cpu_milli: 1_000, mem_mib: 1_024, vram_mib: vram },
            selector: Selector::default(),
            bid: bid / 500 * 500,
            replicated: true,
            ..JobRequest::default()
        };
        needs.insert(job.id, (vram, job.bid));
        placement.step(0, Input::Submit(Box::new(job)), &mut step);
    }
    let (mut done, mut misplaced, mut paid, mut bid) = (0, 0, 0, 0);
    let mut used: BTreeMap<NodeId, u32> = BTreeMap::new();
    let mut now = 0;
    let (mut running, mut live) = (BTreeSet::new(), BTreeMap::new());
    loop {
        let mut effects = std::collections::VecDeque::from(std::mem::take(&mut step.effects));
        while let Some(effect) = effects.pop_front() {
            let (node, attempt, job, gpu) = match effect {
                Effect::Offer { node, attempt, job, gpu, .. } => (node, attempt, job, gpu),
                Effect::Stop { attempt, .. } => {
                    if let Some((node, need)) = live.remove(&attempt) {
                        used.entry(node).and_modify(|inside| *inside -= need);
                    }
                    continue;
                }
                Effect::Committed { .. } => {
                    done += 1;
                    continue;
                }
                _ => continue,
            };
            let (price, vram, held) = nodes[&node];
            let (need, most) = needs[&job];
            let inside = used.entry(node).or_default();
            *inside += need;
            misplaced += u64::from(!held || gpu.is_none() || *inside > vram || price > most);
            (paid, bid) = (paid + u64::from(price), bid + u64::from(most));
            trace.note(&[now, attempt.task.into(), attempt.epoch.into(), price.into()]);
            running.insert((now + 1_000 + random.below(4_000), attempt));
            live.insert(attempt, (node, need));
            let accepted = Input::Answer { node: Some(node), attempt, answer: Answer::Accepted };
            placement.step(now, accepted, &mut step);
            effects.extend(std::mem::take(&mut step.effects));
        }
        let Some((at, attempt)) = running.pop_first() else { break };
        now = now.max(at);
        let Some((node, need)) = live.remove(&attempt) else { continue };
        used.entry(node).and_modify(|inside| *inside -= need);
        let answer = Answer::Done { success: true };
        placement.step(now, Input::Answer { node: Some(node), attempt, answer }, &mut step);
    }
    Report { trace: trace.hash(), attested, refuted, done, misplaced, paid, bid }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_class_is_attested_placed_and_priced_and_who_lies_gets_nothing() {
        let scenario = Scenario { seed: 1, nodes: 60, tasks: 400, liar_percent: 30 };
        let report = run(&scenario);
        assert_eq!((report.attested + report.refuted, report.misplaced), (60, 0), "{report:?}");
        assert!(report.refuted > 5 && report.done > 300, "{report:?}");
        assert!(report.paid < report.bid, "nobody pays more than is asked: {report:?}");
        assert_eq!(run(&scenario), report);
    }
}
