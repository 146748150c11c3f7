//! Which node does what: many nodes, many tasks, many that want something done (edge.md 3).
//!
//! A [`Placement`] takes inputs and gives events and effects. Events are the log: the host makes them durable, all of a
//! step with one sync, before it carries out the effects. What was promised, a job that was taken or a result that was
//! committed, is therefore in the log whatever happens next; and since every change of jobs and tasks goes through an
//! event, reading the log again gives the same state ([`Placement::recover`]). Attempts that were running are adopted when
//! their nodes say that they still are, and given to others when they do not.
//!
//! A result is committed once: its task has to be running and its epoch has to be one that is out. Attempts may be many;
//! effects are one.
//!
//! Choosing nodes is [`Fleet`]'s work, the order of tasks the queue's, the standing of nodes the registry's. What happens
//! within an attempt (offer, commitment, result, pay) is [`crate::scheduler`]'s.

mod choose;
mod class;
mod explain;
mod fleet;
mod gang;
mod late;
mod log;
mod nodes;
mod pool;
mod queue;
mod registry;
mod reputation;
mod say;
mod state;
mod stats;
mod tasks;
#[cfg(test)]
mod tests;
mod wheel;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};
use theta_core::hash::{Address, Hash};

pub use class::{Selector, Traits};
use explain::Decision;
pub use explain::{Considered, Explanation};
pub use fleet::{Fleet, MAX_GPUS, Need, Offer, Pick, Unfit, Weights, Wish};
pub use log::Log;
pub use pool::{Pool, Spill};
pub use registry::{
    Binding, Change, Descriptor, HEARTBEAT_MS, Heartbeat, MAX_BINDING, Member, PROBATION, RegistryError,
    Status, holds,
};
pub use reputation::{Evidence, Reputation, weight};
pub use say::{Answer, AttemptId, Effect, Input, Refusal, Step};
pub use state::{Ended, Event, GiveUp, JobRequest, KeptAttempt, KeptTask, Loss};

use crate::Millis;
use crate::blob::BlobHash;
use crate::identity::NodeId;
use pool::Question;
use state::{NONE, POOLS, Phase, State};
use wheel::Wheel;

/// Tasks of one job.
const MAX_TASKS: usize = 1 << 20;
/// Nodes that are known to hold one blob.
const MAX_HOLDERS: usize = 32;
/// Milliseconds for which a gang may hold nodes that wait for the rest of it.
const HOLD_MS: Millis = 2_000;
/// The longest that a node can ask to be left alone, in milliseconds.
const LONGEST_BUSY_MS: Millis = 60_000;
/// Milliseconds after which a task that nobody could take is tried again, and how many of them a node with room is asked
/// for at once.
const CHOOSY: (Millis, usize) = (1_000, 16);
/// Milliseconds after which it is looked at again whether what waits for room has to go to a pool.
const SPILL_MS: Millis = 250;
/// Percent of the fleet in use from which on nothing is done twice.
const BUSY_PERCENT: u64 = 85;

/// How the fleet is run.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Where all choices come from.
    pub seed: u64,
    /// How candidates are compared.
    pub weights: Weights,
    /// Milliseconds until an offer is answered.
    pub offer_ms: Millis,
    /// Nodes that may fail a task.
    pub attempts: u8,
    /// Milliseconds before the first repetition; each further one waits twice as long.
    pub backoff_ms: Millis,
    /// Percent of the running tasks that may run twice.
    pub clone_percent: u32,
    /// Tasks that may wait, over all.
    pub max_queued: usize,
    /// Milliseconds that a task should wait at most: more of a shape are refused than twice what is done in that time.
    pub target_wait_ms: Millis,
    /// Tasks for each second that one tenant may submit, and how many at once.
    pub tenant_rate: (f64, f64),
    /// Milliseconds before a deadline at which a result should be there.
    pub margin_ms: Millis,
    /// Overhead of verification in percent of a price.
    pub overhead: u64,
    /// Contracted providers.
    pub pools: Vec<Pool>,
    /// Tasks of one tenant that may be with them at once.
    pub tenant_spill: u32,
    /// Placements of one step; the rest follow with the next tick.
    pub batch: usize,
    /// Jobs whose end is remembered.
    pub remembered: usize,
    /// Decisions that can be explained with all that was looked at.
    pub explained: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            seed: 0,
            weights: Weights::default(),
            offer_ms: 2_000,
            attempts: 4,
            backoff_ms: 100,
            clone_percent: 5,
            max_queued: 2_000_000,
            target_wait_ms: 3_600_000,
            tenant_rate: (100_000.0, 1_000_000.0),
            margin_ms: 500,
            overhead: 8,
            pools: Vec::new(),
            tenant_spill: 1_024,
            batch: 4_096,
            remembered: 10_000,
            explained: 256,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Timer {
    /// Whether a node is still heard of.
    Node(u32),
    /// Whether an attempt was answered, is late or has to be given up.
    Attempt { slot: u32, task: u32, epoch: u32 },
    /// A task may be tried again.
    Ready { task: u32, seq: u64 },
    /// A job's time is over.
    Deadline { job: u32, seq: u64 },
    /// A gang has held nodes for long enough.
    Gang,
    /// What waits for room may have to go to a pool by now.
    Spill,
    /// A suspension is over.
    Served(u32),
    /// A node that was busy may be asked again.
    Cooled(u32),
}

/// A job whose tasks start together: how often it held nodes in vain, its deadline, its name.
type Gang = (u32, Millis, Hash);

/// Nodes that a gang has so far.
#[derive(Debug)]
struct Hold {
    gang: Gang,
    job: u32,
    picks: Vec<(u32, u32, u8)>,
    until: Millis,
}

/// Jobs, tasks and nodes of one coordinator.
#[derive(Debug)]
pub struct Placement {
    settings: Settings,
    state: State,
    wheel: Wheel<Timer>,
    /// Gangs that wait, the earliest deadline first.
    gangs: BTreeSet<Gang>,
    hold: Option<Hold>,
    /// Gangs are tried again when there is room, and not before then.
    room: bool,
    pause: Millis,
    /// Nodes that have got room in this step.
    roomy: Vec<u32>,
    cursor: usize,
    decisions: VecDeque<Decision>,
    /// Machines of each pool, where somebody said how many.
    machines: Vec<Option<u32>>,
    /// Nodes that the task at hand may not go to.
    excluded: Vec<u32>,
    /// Tasks that some nodes may not have and no other could take: the next one that has room is asked.
    choosy: BTreeSet<(u64, u32)>,
    /// By task: its sequence, and since when nobody was good enough for it.
    passed_over: BTreeMap<u32, (u64, Millis)>,
    /// Whether it is looked at soon whether what waits has to go to a pool.
    spilling: bool,
}

impl Placement {
    /// With no nodes and no jobs.
    pub fn new(settings: Settings, now: Millis) -> Self {
        let state = State::new(settings.seed, settings.remembered, settings.tenant_rate.1);
        let decisions = VecDeque::with_capacity(settings.explained);
        let (gangs, wheel) = (BTreeSet::new(), Wheel::new(now));
        Self {
            settings,
            state,
            wheel,
            gangs,
            hold: None,
            room: false,
            pause: 0,
            roomy: Vec::new(),
            cursor: 0,
            decisions,
            machines: Vec::new(),
            excluded: Vec::new(),
            choosy: BTreeSet::new(),
            passed_over: BTreeMap::new(),
            spilling: false,
        }
    }

    /// What this log left. Attempts that were out are waited for: nodes [`Input::Announce`] them, and those of nodes that
    /// do not are given to others once the node counts as lost.
    pub fn recover<'a>(
        settings: Settings,
        log: impl IntoIterator<Item = &'a Event>,
        now: Millis,
    ) -> (Self, Step) {
        let mut placement = Self::new(settings, now);
        let mut step = Step::default();
        for event in log {
            // Whether it was paid for before the crash is the purse's to know: it pays once.
            if let Event::Done { task, epoch, success } = event {
                placement.committed(AttemptId { task: *task, epoch: *epoch }, *success, &mut step);
            }
            placement.state.apply(event, now);
        }
        for node in 0..placement.state.members.len() as u32 {
            let member = &mut placement.state.members[node as usize];
            (member.last_seen, member.heartbeat) = (now, 0);
            if member.status == Status::Suspended {
                member.suspend_again(now);
                placement.wheel.set(member.suspended_until, Timer::Served(node));
            }
            placement.watch(node);
        }
        for job in placement.state.job_ids.values().copied().collect::<BTreeSet<_>>() {
            placement.start(job, now);
        }
        for slot in 0..placement.state.attempts.len() as u32 {
            let attempt = placement.state.attempts[slot as usize];
            if placement.state.attempt(attempt.task, attempt.epoch) == Some(slot) && !attempt.bound {
                placement.state.attempts[slot as usize].adopted = true;
                placement.time(slot, now + registry::HEARTBEAT_MS * 3);
            }
        }
        placement.drain(now, &mut step);
        placement.finish(&mut step);
        (placement, step)
    }

    /// Takes one input.
    pub fn step(&mut self, now: Millis, input: Input, step: &mut Step) {
        let mut due = Vec::new();
        self.wheel.advance(now, &mut due);
        for timer in due {
            self.fire(timer, now, step);
        }
        match input {
            Input::Tick => {}
            Input::Join { node, offer, status } => self.join(node, offer, status, now, step),
            Input::Known { node } => self.known(node, now, step),
            Input::Pool { pool, slots } => {
                if self.machines.len() <= pool {
                    self.machines.resize(self.settings.pools.len().max(pool + 1), None);
                }
                self.machines[pool] = Some(slots);
                self.retry_spill();
            }
            Input::Heartbeat { node, beat } => self.heartbeat(&node, &beat, now, step),
            Input::Announce { node, running } => self.announce(&node, &running, now, step),
            Input::Change { node, change } => {
                if let Some(node) = self.state.fleet.find(&node) {
                    self.change(node, change, now, step);
                }
            }
            Input::Evidence { node, kind, evidence, weight } => {
                if let Some(node) = self.state.fleet.find(&node) {
                    let weight = weight.min(1_000);
                    self.log(Event::Noted { node, kind, evidence, weight, at: now }, now, step);
                    match evidence {
                        Evidence::Valid => {
                            if self.state.members[node as usize].valid(now) {
                                self.stands(node, now, step);
                                self.wake(node);
                            }
                        }
                        Evidence::Wrong => self.change(node, Change::Fault, now, step),
                        Evidence::Missed => {}
                    }
                }
            }
            Input::Holds { node, blob } => {
                if let Some(node) = self.state.fleet.find(&node) {
                    let blob = self.state.blob(blob);
                    let holders = &mut self.state.holders[blob as usize];
                    if holders.len() < MAX_HOLDERS && !holders.contains(&node) {
                        holders.push(node);
                    }
                }
            }
            Input::Submit(job) => self.submit(job, now, step),
            Input::Answer { node, attempt, answer } => self.answer(node, attempt, answer, now, step),
            Input::Cancel { job } => self.cancel(&job, now, step),
            Input::Withdraw { job } => self.withdraw(&job, now, step),
        }
        self.drain(now, step);
        self.finish(step);
    }

    pub(super) fn finish(&self, step: &mut Step) {
        step.wake_at = self.wheel.next();
    }

    /// Puts an event on record and carries it out.
    pub(super) fn log(&mut self, event: Event, now: Millis, step: &mut Step) {
        self.state.apply(&event, now);
        step.events.push(event);
    }

    /// The fleet.
    pub const fn fleet(&self) -> &Fleet {
        &self.state.fleet
    }

    /// Compiled wishes and nodes' places are made here.
    pub const fn fleet_mut(&mut self) -> &mut Fleet {
        &mut self.state.fleet
    }

    /// What a node offers.
    pub fn offer(&self, node: &NodeId) -> Option<&Offer> {
        self.state.offer(self.state.fleet.find(node)?)
    }

    /// A node as the registry knows it.
    pub fn member(&self, node: &NodeId) -> Option<&Member> {
        self.state.members.get(self.state.fleet.find(node)? as usize)
    }

    /// Tasks that wait in the queue.
    pub const fn queued(&self) -> usize {
        self.state.queue.len()
    }

    /// Jobs that are open.
    pub fn jobs(&self) -> impl Iterator<Item = &Hash> {
        self.state.job_ids.keys()
    }

    /// Attempts of a job that are out: which of its tasks, with which node (none for a pool), and whether that is bound.
    pub fn attempts(&self, job: &Hash) -> Vec<(u32, AttemptId, Option<NodeId>, bool)> {
        let Some(job) = self.state.job_ids.get(job) else { return Vec::new() };
        let mut found = Vec::new();
        for task in self.state.tasks_of(*job) {
            let row = &self.state.tasks[task as usize];
            for slot in row.attempts.iter().filter(|slot| **slot != NONE) {
                let attempt = &self.state.attempts[*slot as usize];
                let id = AttemptId { task, epoch: attempt.epoch };
                found.push((row.index, id, self.state.fleet.id(attempt.node), attempt.bound));
            }
        }
        found
    }

    /// Attempts that are out.
    pub const fn running(&self) -> u32 {
        self.state.running
    }

    /// Events that lead to the present state from nothing: what a log is written anew from when it has become long
    /// ([`Log::replace`]). Attempts that are out and results that are remembered are in it; what was paid is not.
    pub fn snapshot(&self) -> Vec<Event> {
        self.state.events()
    }

    /// How a job ended, if it did and is remembered.
    pub fn ended(&self, job: &Hash) -> Option<Ended> {
        self.state.ended.get(job).copied()
    }

    /// Tasks of a job that are still open; `None` for a job that is not known or has ended.
    pub fn open_tasks(&self, job: &Hash) -> Option<u32> {
        self.state.job_ids.get(job).map(|job| self.state.jobs[*job as usize].left)
    }

    /// A tenant's dominant share of the fleet over its weight; `None` for one that never submitted anything.
    pub fn share(&self, tenant: &Address) -> Option<f64> {
        self.state.queue.find(tenant).map(|tenant| self.state.queue.share(tenant))
    }

    /// Gives a tenant more of the fleet than others by this factor.
    pub fn set_weight(&mut self, tenant: Address, weight: u32, now: Millis) {
        let tenant = self.state.queue.tenant(tenant, self.settings.tenant_rate.1, now);
        self.state.queue.set_weight(tenant, weight);
    }
}
