//! The scheduler alone, in virtual time: nodes come, tasks are given to them, one node vanishes, the log is read again.
//!
//! `cargo run -p theta-examples --example place_tasks`

use std::collections::BTreeMap;

use theta_core::hash::{Address, Hash};
use theta_core::journal::MemDisk;
use theta_edge::identity::NodeId;
use theta_edge::placement::{
    Answer, AttemptId, Change, Effect, Input, JobRequest, Log, Need, Offer, Placement, Settings, Status, Step,
};

fn main() -> anyhow::Result<()> {
    let disk = MemDisk::default();
    let (mut log, _) = Log::open(disk.clone())?;
    let mut placement = Placement::new(Settings::default(), 0);
    // Every step: first its events are made durable, then its effects are carried out.
    let mut step = |placement: &mut Placement, now, input| -> anyhow::Result<Vec<Effect>> {
        let mut step = Step::default();
        placement.step(now, input, &mut step);
        log.append(step.events)?;
        Ok(step.effects)
    };

    for byte in 1..=3 {
        let node = NodeId(Address::repeat_byte(byte));
        let offer = Offer { cpu_milli: 2_000, mem_mib: 4_096, credits: 2, ..Offer::default() };
        step(&mut placement, 0, Input::Join { node, offer, status: Status::Active })?;
    }
    let job = JobRequest {
        id: Hash::repeat_byte(7),
        tenant: Address::repeat_byte(0xaa),
        need: Need { cpu_milli: 1_000, mem_mib: 512, vram_mib: 0 },
        bid: 10,
        tasks: vec![None; 8],
        ..JobRequest::default()
    };
    let id = job.id;
    let mut running: BTreeMap<AttemptId, NodeId> = BTreeMap::new();
    let note = |effects: Vec<Effect>, now: u64, running: &mut BTreeMap<AttemptId, NodeId>| {
        for effect in effects {
            match effect {
                Effect::Offer { node, attempt, index, .. } => {
                    println!("{now:>5} ms  task {index} goes to {node}");
                    running.insert(attempt, node);
                }
                Effect::Stop { attempt, .. } => drop(running.remove(&attempt)),
                Effect::Finished { ended, .. } => println!("{now:>5} ms  done: {} tasks", ended.done),
                _ => {}
            }
        }
    };
    note(step(&mut placement, 0, Input::Submit(Box::new(job)))?, 0, &mut running);
    let waiting = placement.explain(&id, 7).ok_or_else(|| anyhow::anyhow!("task 7 is open"))?;
    println!("    why task 7 waits: {}, and nodes lack {:?}", waiting.state, waiting.unfit);

    // One node leaves; what it had is given to the others.
    let gone = NodeId(Address::repeat_byte(1));
    note(step(&mut placement, 500, Input::Change { node: gone, change: Change::Leave })?, 500, &mut running);
    let mut now = 500;
    while placement.ended(&id).is_none() {
        now += 100;
        anyhow::ensure!(now < 60_000, "it comes to no end");
        let Some((attempt, node)) = running.pop_first() else {
            note(step(&mut placement, now, Input::Tick)?, now, &mut running);
            continue;
        };
        for answer in [Answer::Accepted, Answer::Done { success: true }] {
            let effects = step(&mut placement, now, Input::Answer { node: Some(node), attempt, answer })?;
            note(effects, now, &mut running);
        }
    }

    // Whoever reads the log knows what became of it.
    let (_, events) = Log::open(disk)?;
    let (again, _) = Placement::recover(Settings::default(), &events, now);
    anyhow::ensure!(again.ended(&id).is_some_and(|ended| ended.done == 8));
    println!("{} events lead to the same end", events.len());
    Ok(())
}
