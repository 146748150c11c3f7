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

mod class;
mod fleet;
mod log;
mod pool;
mod queue;
mod registry;
mod reputation;
mod state;
mod stats;
#[cfg(test)]
mod tests;
mod wheel;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};
use theta_core::hash::{Address, Hash};

pub use class::{Selector, Traits};
pub use fleet::{Fleet, MAX_GPUS, Need, Offer, Pick, Unfit, Weights, Wish};
pub use log::Log;
pub use pool::{Pool, Spill};
pub use registry::{
    Binding, Change, Descriptor, HEARTBEAT_MS, Heartbeat, MAX_BINDING, Member, PROBATION, RegistryError,
    Status, holds,
};
pub use reputation::{Evidence, Reputation, weight};
pub use state::{Ended, Event, GiveUp, JobRequest, KeptTask};

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
    /// Milliseconds until an attempt is given up, whatever is expected of it.
    pub run_ms: Millis,
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
            run_ms: 3_600_000,
            attempts: 4,
            backoff_ms: 100,
            clone_percent: 5,
            max_queued: 2_000_000,
            target_wait_ms: 3_600_000,
            tenant_rate: (100_000.0, 1_000_000.0),
            margin_ms: 500,
            overhead: 8,
            pools: Vec::new(),
            batch: 4_096,
            remembered: 10_000,
            explained: 256,
        }
    }
}

/// A running attempt, as a node names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttemptId {
    /// Slot of the task.
    pub task: u32,
    /// Which attempt.
    pub epoch: u32,
}

/// What a node says about an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Answer {
    /// It runs.
    Accepted,
    /// All its places are taken: no fault.
    Busy,
    /// It cannot, or will not.
    Refused,
    /// A result, and whether the program did what it was sent for.
    Done {
        /// Whether it did.
        success: bool,
    },
    /// No result, by the node's fault.
    Failed,
}

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Input {
    /// Time has passed; wanted at [`Step::wake_at`].
    Tick,
    /// A node comes in, or offers something else; its descriptor was checked ([`Descriptor::check`]).
    Join {
        /// Who.
        node: NodeId,
        /// What it offers.
        offer: Offer,
        /// Where it starts: [`Status::Joining`] for one that was not measured.
        status: Status,
    },
    /// A sign of life.
    Heartbeat {
        /// Whose.
        node: NodeId,
        /// What it says.
        beat: Heartbeat,
    },
    /// What a node is running, said when it connects.
    Announce {
        /// Who.
        node: NodeId,
        /// What.
        running: Vec<AttemptId>,
    },
    /// Something happened to a node's standing.
    Change {
        /// Whose.
        node: NodeId,
        /// What.
        change: Change,
    },
    /// Evidence of how well a node does.
    Evidence {
        /// Whose.
        node: NodeId,
        /// At what kind of work.
        kind: u8,
        /// What it did.
        evidence: Evidence,
        /// How much it counts, in thousandths ([`weight`]).
        weight: u16,
    },
    /// A node has a blob.
    Holds {
        /// Who.
        node: NodeId,
        /// Which.
        blob: BlobHash,
    },
    /// A job comes in.
    Submit(Box<JobRequest>),
    /// A node, or the host of a pool, answers.
    Answer {
        /// Which node; none for a pool.
        node: Option<NodeId>,
        /// About which attempt.
        attempt: AttemptId,
        /// What.
        answer: Answer,
    },
    /// A job is not wanted any more.
    Cancel {
        /// Which.
        job: Hash,
    },
}

/// Why a job is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Too much waits already: HTTP 429.
    #[error("too much waits already; try again in {retry_ms} ms")]
    Busy {
        /// Milliseconds after which to try again.
        retry_ms: u64,
    },
    /// The deadline cannot be met.
    #[error("it would not be done by its deadline")]
    Deadline,
    /// There are too many kinds of tasks to tell another one apart.
    #[error("its needs, wishes and bid are like those of no other job, and there are too many such kinds")]
    Shapes,
    /// No tasks, or too many.
    #[error("a job has between one and {MAX_TASKS} tasks")]
    Tasks,
}

/// What the host does once the events of the step are durable.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Effect {
    /// The job is taken and will come to an end.
    Accepted {
        /// Which.
        job: Hash,
    },
    /// It is not.
    Refused {
        /// Which.
        job: Hash,
        /// Why.
        why: Refusal,
    },
    /// Offer a task to a node.
    Offer {
        /// To whom.
        node: NodeId,
        /// Which attempt.
        attempt: AttemptId,
        /// Of which job.
        job: Hash,
        /// Which of its tasks.
        index: u32,
        /// GPU of the node, from 0; none for a task without.
        gpu: Option<u8>,
    },
    /// Run a task in a provider pool.
    Spill {
        /// Which pool, by its place in the settings.
        pool: usize,
        /// Which attempt.
        attempt: AttemptId,
        /// Of which job.
        job: Hash,
        /// Which of its tasks.
        index: u32,
        /// Why.
        why: Spill,
    },
    /// Stop an attempt; it owes nothing more, and is paid for what it proved.
    Stop {
        /// Where; none for a pool.
        node: Option<NodeId>,
        /// Which attempt.
        attempt: AttemptId,
    },
    /// A task's one result is that of this attempt: pay for it.
    Committed {
        /// Where it was done; none for a pool.
        node: Option<NodeId>,
        /// Which attempt.
        attempt: AttemptId,
        /// Of which job.
        job: Hash,
        /// Which of its tasks.
        index: u32,
        /// Whether the program did what it was sent for.
        success: bool,
    },
    /// A task has no result.
    GaveUp {
        /// Of which job.
        job: Hash,
        /// Which of its tasks.
        index: u32,
        /// Why.
        why: GiveUp,
    },
    /// A job has come to its end.
    Finished {
        /// Which.
        job: Hash,
        /// How.
        ended: Ended,
    },
}

/// What follows from an input.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Step {
    /// To be made durable first.
    pub events: Vec<Event>,
    /// To be carried out then, in order.
    pub effects: Vec<Effect>,
    /// Step with [`Input::Tick`] then at the latest.
    pub wake_at: Option<Millis>,
}

/// What was looked at for one decision.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The task's slot.
    pub task: u32,
    /// When.
    pub at: Millis,
    /// Each node that was looked at: its score, or why it does not suit.
    pub considered: Vec<(u32, Result<f32, Unfit>)>,
    /// The one that was chosen.
    pub chosen: Option<u32>,
}

/// Why a task is where it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// In words.
    pub state: &'static str,
    /// Nodes it is with.
    pub nodes: Vec<Option<NodeId>>,
    /// Tasks of the same shape that wait.
    pub waiting: u32,
    /// Whether no node had room for that shape when it was last tried.
    pub blocked: bool,
    /// The tenant's dominant share of the fleet.
    pub share: f64,
    /// How many nodes do not suit for which reason now.
    pub unfit: BTreeMap<Unfit, u32>,
    /// How many do.
    pub fit: u32,
    /// The last decision about it that is remembered.
    pub decision: Option<Decision>,
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
    /// A suspension is over.
    Served(u32),
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
            member.last_seen = now;
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
            if placement.state.attempt(attempt.task, attempt.epoch) == Some(slot) {
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
        }
        self.drain(now, step);
        self.finish(step);
    }

    fn finish(&self, step: &mut Step) {
        step.wake_at = self.wheel.next();
    }

    /// Puts an event on record and carries it out.
    fn log(&mut self, event: Event, now: Millis, step: &mut Step) {
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

    /// A node as the registry knows it.
    pub fn member(&self, node: &NodeId) -> Option<&Member> {
        self.state.members.get(self.state.fleet.find(node)? as usize)
    }

    /// Tasks that wait in the queue.
    pub const fn queued(&self) -> usize {
        self.state.queue.len()
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

    // Nodes

    fn join(&mut self, id: NodeId, offer: Offer, status: Status, now: Millis, step: &mut Step) {
        let known = self.state.fleet.find(&id);
        self.log(Event::Joined { node: id, offer: Box::new(offer), status, at: now }, now, step);
        let Some(node) = self.state.fleet.find(&id) else { return };
        if known.is_none() {
            self.watch(node);
        } else {
            self.change(node, Change::Back, now, step);
        }
        self.wake(node);
    }

    fn watch(&mut self, node: u32) {
        let at = self.state.members[node as usize].lost_at();
        self.wheel.set(at, Timer::Node(node));
    }

    fn heartbeat(&mut self, node: &NodeId, beat: &Heartbeat, now: Millis, step: &mut Step) {
        let Some(node) = self.state.fleet.find(node) else { return };
        let member = &mut self.state.members[node as usize];
        if beat.seq <= member.heartbeat && member.heartbeat != 0 {
            return;
        }
        (member.heartbeat, member.last_seen) = (beat.seq, now);
        match (member.status, beat.draining) {
            (Status::Lost, _) => {
                self.watch(node);
                self.change(node, Change::Back, now, step);
            }
            (Status::Draining, false) => self.change(node, Change::Back, now, step),
            (Status::Active | Status::Probation, true) => self.change(node, Change::Drain, now, step),
            _ => {}
        }
    }

    fn change(&mut self, node: u32, change: Change, now: Millis, step: &mut Step) {
        if !self.state.members[node as usize].change(now, change) {
            return;
        }
        let member = &self.state.members[node as usize];
        let (status, until) = (member.status, member.suspended_until);
        self.stands(node, now, step);
        match status {
            Status::Suspended => self.wheel.set(until, Timer::Served(node)),
            Status::Probation | Status::Active => {
                self.watch(node);
                self.wake(node);
            }
            _ => {}
        }
        if matches!(status, Status::Lost | Status::Left | Status::Suspended | Status::Slashed) {
            let leaves = status == Status::Left;
            for slot in self.state.attempts_of(node) {
                let attempt = self.state.attempts[slot as usize];
                let id = AttemptId { task: attempt.task, epoch: attempt.epoch };
                if status != Status::Lost {
                    step.effects.push(Effect::Stop { node: self.state.fleet.id(node), attempt: id });
                }
                self.retry(id, !leaves, now, step);
            }
        }
    }

    fn stands(&mut self, node: u32, now: Millis, step: &mut Step) {
        let status = self.state.members[node as usize].status;
        self.log(Event::Stands { node, status }, now, step);
    }

    fn announce(&mut self, id: &NodeId, running: &[AttemptId], now: Millis, step: &mut Step) {
        let Some(node) = self.state.fleet.find(id) else { return };
        self.state.members[node as usize].last_seen = now;
        let mut known = BTreeSet::new();
        for slot in self.state.attempts_of(node) {
            let attempt = self.state.attempts[slot as usize];
            let attempt_id = AttemptId { task: attempt.task, epoch: attempt.epoch };
            if running.contains(&attempt_id) {
                let attempt = &mut self.state.attempts[slot as usize];
                (attempt.adopted, attempt.accepted) = (false, true);
                known.insert(attempt_id);
            } else if attempt.adopted || attempt.accepted {
                // Its host knows nothing of it: the offer never came, or it restarted as well.
                self.retry(attempt_id, false, now, step);
            }
        }
        for attempt in running.iter().filter(|attempt| !known.contains(attempt)) {
            step.effects.push(Effect::Stop { node: Some(*id), attempt: *attempt });
        }
        self.wake(node);
    }

    /// A node has room: it gets tasks of shapes that wait for such a node. Nothing else is looked at, so what an end costs
    /// does not hang on how much waits.
    fn wake(&mut self, node: u32) {
        self.room = true;
        if !self.roomy.contains(&node) {
            self.roomy.push(node);
        }
    }

    /// Fills a node with tasks that wait for room.
    fn fill(&mut self, node: u32, now: Millis, step: &mut Step) {
        while self.state.fleet.rows[node as usize].open {
            let mut shapes = [0; queue::SHAPES];
            let count = self.waiting_for(node, &mut shapes);
            if count == 0 {
                return;
            }
            let random = self.state.fleet.random();
            let Some(task) = self.state.queue.pop_of(&shapes[..count], now, &self.state.tasks, random) else {
                return;
            };
            let row = &mut self.state.tasks[task as usize];
            row.phase = Phase::Waiting;
            let shape = self.state.jobs[row.job as usize].shape;
            let tried = self.state.tried.get(&task).is_some_and(|tried| tried.contains(&node));
            if tried {
                // Not here; it has been blocked for want of any other, so it waits a little.
                let seq = row.seq;
                self.wheel.set(now.saturating_add(1_000), Timer::Ready { task, seq });
                continue;
            }
            if let Some((pool, why)) = self.spill(task, now) {
                self.give(task, POOLS + pool, Some(why), now, step);
                continue;
            }
            // A task with an input may have a better place than this one.
            if self.state.tasks[task as usize].input == NONE {
                self.give(task, node, None, now, step);
            } else {
                self.state.queue.unblock(shape);
                self.place(task, None, now, step);
            }
        }
    }

    /// A few shapes of which tasks wait for room and would suit a node.
    fn waiting_for(&mut self, node: u32, found: &mut [u32; queue::SHAPES]) -> usize {
        let state = &self.state;
        let row = &state.fleet.rows[node as usize];
        let shapes = &state.of_class[usize::from(row.class)];
        let mut count = 0;
        let start = self.cursor % shapes.len().max(1);
        for step in 0..shapes.len() {
            let at = if start + step < shapes.len() { start + step } else { start + step - shapes.len() };
            let (shape, need) = shapes[at];
            if !state.fleet.has(node, &need) || !state.queue.waits_for_room(shape) {
                continue;
            }
            let wish = &state.shapes[shape as usize];
            if state.fleet.suits(node, wish.bid, wish.reputation, wish.replicated) {
                found[count] = shape;
                count += 1;
                if count == found.len() {
                    break;
                }
            }
        }
        self.cursor = self.cursor.wrapping_add(1);
        count
    }

    // Jobs

    fn submit(&mut self, job: Box<JobRequest>, now: Millis, step: &mut Step) {
        let id = job.id;
        if let Some(ended) = self.ended(&id) {
            step.effects.push(Effect::Accepted { job: id });
            step.effects.push(Effect::Finished { job: id, ended });
            return;
        }
        if self.state.job_ids.contains_key(&id) {
            step.effects.push(Effect::Accepted { job: id });
            return;
        }
        if let Err(why) = self.admit(&job, now) {
            step.effects.push(Effect::Refused { job: id, why });
            return;
        }
        self.log(Event::Taken { job, at: now }, now, step);
        step.effects.push(Effect::Accepted { job: id });
        if let Some(job) = self.state.job_ids.get(&id).copied() {
            self.start(job, now);
        }
    }

    /// Milliseconds that a task of a shape waits now, as far as can be said.
    fn wait_ms(&self, shape: u32, more: u32) -> Millis {
        let waiting = self.state.queue.pending(shape).saturating_add(more);
        let row = &self.state.shapes[shape as usize];
        if !self.state.queue.is_blocked(shape) || row.rate <= 0.0 {
            return 0;
        }
        (f64::from(waiting) / row.rate * 1_000.0) as Millis
    }

    fn admit(&mut self, job: &JobRequest, now: Millis) -> Result<(), Refusal> {
        if job.tasks.is_empty() || job.tasks.len() > MAX_TASKS {
            return Err(Refusal::Tasks);
        }
        if !self.state.has_room_for(job) {
            return Err(Refusal::Shapes);
        }
        let count = job.tasks.len() as u32;
        let shape = self.state.shape(job);
        let wait = self.wait_ms(shape, count);
        // Protocol work is never turned away: repairs and disputes get worse by waiting.
        if job.priority <= queue::TOP_BAND {
            let full = self.state.queue.len() + job.tasks.len() > self.settings.max_queued;
            if full || wait > self.settings.target_wait_ms.saturating_mul(2) {
                return Err(Refusal::Busy { retry_ms: (wait / 2).clamp(1_000, 60_000) });
            }
            let (rate, burst) = self.settings.tenant_rate;
            let tenant = self.state.queue.tenant(job.tenant, burst, now);
            let admitted = self.state.queue.admit(tenant, count, rate, burst, now);
            admitted.map_err(|retry_ms| Refusal::Busy { retry_ms: retry_ms.max(1) })?;
        }
        if let Some(deadline) = job.deadline {
            let run = self.run_ms(shape).0;
            let by_edge = now.saturating_add(wait).saturating_add(run) <= deadline;
            let ask = self.question(shape, deadline, now);
            let by_pool = job.spill > 0 && self.settings.pools.iter().any(|pool| pool.wants(&ask).is_some());
            if !by_edge && !by_pool {
                return Err(Refusal::Deadline);
            }
        }
        Ok(())
    }

    /// Median and 95th percentile of a shape's run time.
    fn run_ms(&mut self, shape: u32) -> (Millis, Millis) {
        let row = &mut self.state.shapes[shape as usize];
        let expected = u64::from(row.expected_ms);
        row.times.p50_p95().unwrap_or((expected, expected.saturating_mul(2)))
    }

    fn start(&mut self, job: u32, now: Millis) {
        let row = &self.state.jobs[job as usize];
        let (id, deadline, gang) = (row.id, row.deadline, row.gang);
        let tasks = self.state.tasks_of(job);
        if deadline != Millis::MAX
            && let Some(first) = tasks.first()
        {
            let seq = self.state.tasks[*first as usize].seq;
            self.wheel.set(deadline.max(now), Timer::Deadline { job, seq });
        }
        if gang && tasks.iter().all(|task| self.state.tasks[*task as usize].phase == Phase::Waiting) {
            self.gangs.insert((0, deadline, id));
            self.room = true;
        } else {
            tasks.into_iter().for_each(|task| self.state.enqueue(task));
        }
    }

    fn cancel(&mut self, id: &Hash, now: Millis, step: &mut Step) {
        if let Some(job) = self.state.job_ids.get(id).copied() {
            self.let_go(job);
            for task in self.state.tasks_of(job) {
                self.give_up(task, GiveUp::Cancelled, now, step);
            }
        }
    }

    fn give_up(&mut self, task: u32, why: GiveUp, now: Millis, step: &mut Step) {
        let row = &self.state.tasks[task as usize];
        let (job, index) = (row.job, row.index);
        let id = self.state.jobs[job as usize].id;
        let nodes = self.stop_all(task, None, step);
        self.log(Event::GaveUp { task, why }, now, step);
        step.effects.push(Effect::GaveUp { job: id, index, why });
        self.after(id, nodes, step);
    }

    /// Stops the attempts of a task but for one, and gives the nodes that will have room.
    fn stop_all(&self, task: u32, but: Option<u32>, step: &mut Step) -> [u32; 2] {
        let attempts = self.state.tasks[task as usize].attempts;
        attempts.map(|slot| {
            let Some(attempt) = self.state.attempts.get(slot as usize) else { return NONE };
            if Some(slot) != but {
                let id = AttemptId { task, epoch: attempt.epoch };
                step.effects.push(Effect::Stop { node: self.state.fleet.id(attempt.node), attempt: id });
            }
            attempt.node
        })
    }

    /// What follows when a task is finished.
    fn after(&mut self, job: Hash, nodes: [u32; 2], step: &mut Step) {
        if let Some(ended) = self.ended(&job) {
            step.effects.push(Effect::Finished { job, ended });
        }
        for node in nodes.into_iter().filter(|node| *node < POOLS) {
            self.wake(node);
        }
    }

    fn answer(&mut self, node: Option<NodeId>, id: AttemptId, answer: Answer, now: Millis, step: &mut Step) {
        let Some(slot) = self.state.attempt(id.task, id.epoch) else { return };
        let attempt = self.state.attempts[slot as usize];
        // Only the node that was given it has a say.
        if self.state.fleet.id(attempt.node) != node {
            return;
        }
        match answer {
            Answer::Accepted => {
                let attempt = &mut self.state.attempts[slot as usize];
                (attempt.accepted, attempt.adopted) = (true, false);
            }
            Answer::Busy => self.retry(id, false, now, step),
            Answer::Refused | Answer::Failed => self.retry(id, true, now, step),
            Answer::Done { success } => {
                let job = &self.state.jobs[self.state.tasks[id.task as usize].job as usize];
                let (job_id, shape) = (job.id, &mut self.state.shapes[job.shape as usize]);
                shape.times.note(now.saturating_sub(attempt.started));
                shape.counted += 1;
                let passed = now.saturating_sub(shape.counted_since);
                if passed >= 1_000 {
                    let rate = f64::from(shape.counted) * 1_000.0 / passed as f64;
                    shape.rate = if shape.rate == 0.0 { rate } else { f64::midpoint(shape.rate, rate) };
                    (shape.counted, shape.counted_since) = (0, now);
                }
                let nodes = self.stop_all(id.task, Some(slot), step);
                self.committed(id, success, step);
                self.log(Event::Done { task: id.task, epoch: id.epoch, success }, now, step);
                self.after(job_id, nodes, step);
            }
        }
    }

    /// Says whose result a task's is.
    fn committed(&self, attempt: AttemptId, success: bool, step: &mut Step) {
        let Some(slot) = self.state.attempt(attempt.task, attempt.epoch) else { return };
        let task = &self.state.tasks[attempt.task as usize];
        let node = self.state.fleet.id(self.state.attempts[slot as usize].node);
        let (job, index) = (self.state.jobs[task.job as usize].id, task.index);
        step.effects.push(Effect::Committed { node, attempt, job, index, success });
    }

    /// Ends an attempt that has no result and lets its task be tried again, elsewhere where it was the node's fault.
    fn retry(&mut self, id: AttemptId, fault: bool, now: Millis, step: &mut Step) {
        let Some(slot) = self.state.attempt(id.task, id.epoch) else { return };
        let node = self.state.attempts[slot as usize].node;
        self.log(Event::Dropped { task: id.task, epoch: id.epoch, fault }, now, step);
        let row = &self.state.tasks[id.task as usize];
        if fault && node < POOLS {
            let kind = self.state.shapes[self.state.jobs[row.job as usize].shape as usize].kind;
            let evidence = Evidence::Missed;
            self.log(Event::Noted { node, kind, evidence, weight: 1_000, at: now }, now, step);
        }
        let row = &self.state.tasks[id.task as usize];
        if row.phase == Phase::Waiting {
            if row.tries >= self.settings.attempts {
                self.give_up(id.task, GiveUp::Attempts, now, step);
            } else {
                // Full jitter. What is nobody's fault is tried again at once, if somebody else has room.
                let (seq, tries) = (row.seq, row.tries);
                let most = self.settings.backoff_ms << tries.saturating_sub(1).min(16);
                let wait = if fault { self.state.fleet.random() % most.max(1) } else { 0 };
                if wait == 0 && !matches!(self.member_status(node), Some(Status::Active | Status::Probation))
                {
                    self.state.enqueue(id.task);
                } else {
                    let at = now.saturating_add(wait.max(if fault { 1 } else { self.settings.backoff_ms }));
                    self.wheel.set(at, Timer::Ready { task: id.task, seq });
                }
            }
        }
        if node < POOLS {
            self.wake(node);
        }
    }

    fn member_status(&self, node: u32) -> Option<Status> {
        self.state.members.get(node as usize).map(|member| member.status)
    }

    // Time

    fn time(&mut self, slot: u32, at: Millis) {
        let attempt = &self.state.attempts[slot as usize];
        self.wheel.set(at, Timer::Attempt { slot, task: attempt.task, epoch: attempt.epoch });
    }

    fn fire(&mut self, timer: Timer, now: Millis, step: &mut Step) {
        match timer {
            Timer::Node(node) => {
                let member = &self.state.members[node as usize];
                if !matches!(member.status, Status::Probation | Status::Active | Status::Draining) {
                    return;
                }
                if member.lost_at() > now {
                    self.watch(node);
                } else {
                    self.change(node, Change::Silent, now, step);
                }
            }
            Timer::Attempt { slot, task, epoch } => {
                if self.state.attempt(task, epoch) == Some(slot) {
                    self.late(slot, now, step);
                }
            }
            Timer::Ready { task, seq } => {
                if self.state.tasks[task as usize].seq == seq {
                    self.state.enqueue(task);
                }
            }
            Timer::Deadline { job, seq } => {
                let tasks = self.state.tasks_of(job);
                // Another job may have taken the place.
                let row = &self.state.jobs[job as usize];
                if tasks.first().is_some_and(|task| self.state.tasks[*task as usize].seq >= seq)
                    && row.deadline <= now
                {
                    self.let_go(job);
                    for task in tasks {
                        self.give_up(task, GiveUp::Deadline, now, step);
                    }
                }
            }
            Timer::Gang => self.gang_late(now),
            Timer::Served(node) => {
                if self.state.members[node as usize].suspended_until <= now {
                    self.change(node, Change::Served, now, step);
                }
            }
        }
    }

    /// An attempt has taken long: it was never answered, is a straggler, or is given up.
    fn late(&mut self, slot: u32, now: Millis, step: &mut Step) {
        let attempt = self.state.attempts[slot as usize];
        let id = AttemptId { task: attempt.task, epoch: attempt.epoch };
        let passed = now.saturating_sub(attempt.started);
        if !attempt.accepted || passed >= self.settings.run_ms {
            let node = self.state.fleet.id(attempt.node);
            step.effects.push(Effect::Stop { node, attempt: id });
            self.retry(id, !attempt.adopted, now, step);
            return;
        }
        let job = self.state.tasks[attempt.task as usize].job;
        let (p50, p95) = self.run_ms(self.state.jobs[job as usize].shape);
        let slow = p95.saturating_add(p95 / 2).max(1);
        if passed < slow {
            self.time(slot, attempt.started.saturating_add(slow));
            return;
        }
        // It is looked at again: there may be room, or a budget, later.
        let end = attempt.started.saturating_add(self.settings.run_ms);
        self.time(slot, now.saturating_add((slow / 4).max(100)).min(end));
        let alone = self.state.tasks[attempt.task as usize].attempts.contains(&NONE);
        // Of what runs, or could: at the end of a job nearly all of the fleet has nothing to do.
        let most = u64::from(self.state.running).max(self.state.fleet.len() as u64);
        let budget = u64::from(self.state.clones) * 100 < most * u64::from(self.settings.clone_percent);
        if alone && budget && attempt.node < POOLS && self.busy_percent() < BUSY_PERCENT {
            self.place(attempt.task, Some((attempt.node, p50)), now, step);
        }
    }

    /// How much of the fleet's scarcest resource is in use, in percent.
    fn busy_percent(&self) -> u64 {
        let total = self.state.fleet.total();
        let free = self.state.fleet.free();
        let of =
            |(total, free): (u64, u64)| total.saturating_sub(free).saturating_mul(100).checked_div(total);
        total.into_iter().zip(free).filter_map(of).max().unwrap_or(0)
    }

    // Choosing

    fn drain(&mut self, now: Millis, step: &mut Step) {
        self.gang(now, step);
        // Filling one may make room on another, when a task goes where its input is.
        while let Some(node) = self.roomy.pop() {
            self.fill(node, now, step);
        }
        for _ in 0..self.settings.batch {
            let random = self.state.fleet.random();
            let Some(task) = self.state.queue.pop(now, &self.state.tasks, random) else { return };
            self.state.tasks[task as usize].phase = Phase::Waiting;
            self.place(task, None, now, step);
        }
        if self.state.queue.has_ready() {
            // The rest comes with the next tick.
            self.wheel.set(now, Timer::Gang);
        }
    }

    fn question(&mut self, shape: u32, deadline: Millis, now: Millis) -> Question {
        let wait_ms = self.wait_ms(shape, 0);
        let run_ms = self.run_ms(shape).1;
        let row = &self.state.shapes[shape as usize];
        let tiers = self.state.fleet.classes.list(row.selector).iter();
        let edge_tier = tiers.map(|class| self.state.fleet.classes.traits(*class).tier).max();
        Question {
            now,
            deadline,
            wait_ms,
            run_ms,
            bid: row.bid,
            overhead: self.settings.overhead,
            tier: row.tier,
            edge_tier,
            margin_ms: self.settings.margin_ms,
        }
    }

    /// Whether a task should go to a pool, and to which.
    fn spill(&mut self, task: u32, now: Millis) -> Option<(u32, Spill)> {
        let job = &self.state.jobs[self.state.tasks[task as usize].job as usize];
        if self.settings.pools.is_empty() || job.spill == 0 {
            return None;
        }
        let (shape, deadline) = (job.shape, job.deadline);
        let ask = self.question(shape, deadline, now);
        let pools = self.settings.pools.iter().enumerate();
        let free =
            pools.filter(|(index, pool)| self.state.pools.get(*index).copied().unwrap_or(0) < pool.slots);
        let fits = free.filter_map(|(index, pool)| Some((pool.price, index, pool.wants(&ask)?)));
        fits.min_by_key(|(price, index, _)| (*price, *index)).map(|(_, index, why)| (index as u32, why))
    }

    /// Gives a task to a node or a pool, or puts it back where it came from. `beside` is the node that has it already and
    /// how long it should have taken, for a second attempt.
    fn place(&mut self, task: u32, beside: Option<(u32, Millis)>, now: Millis, step: &mut Step) {
        if beside.is_none()
            && let Some((pool, why)) = self.spill(task, now)
        {
            self.give(task, POOLS + pool, Some(why), now, step);
            return;
        }
        let state = &mut self.state;
        let row = &state.tasks[task as usize];
        let job = &state.jobs[row.job as usize];
        let shape = &state.shapes[job.shape as usize];
        let (job_shape, input, seq) = (job.shape, row.input, row.seq);
        let mut exclude = [NONE; 17];
        let tried = state.tried.get(&task).map_or(&[][..], Vec::as_slice);
        let count = tried.len().min(16);
        exclude[..count].copy_from_slice(&tried[..count]);
        let mut operators = [NONE; 1];
        let mut speed = 0;
        if let Some((node, _)) = beside {
            exclude[16] = node;
            let row = &state.fleet.rows[node as usize];
            // Operator 0 is nobody's.
            operators[0] = if row.operator == 0 { NONE } else { row.operator };
            speed = row.speed();
        }
        let wish = Wish {
            need: shape.need,
            selector: shape.selector,
            bid: shape.bid,
            reputation: shape.reputation,
            holders: state.holders.get(input as usize).map_or(&[], Vec::as_slice),
            exclude: &exclude,
            exclude_operators: if beside.is_some() { &operators } else { &[] },
            speed,
            replicated: shape.replicated,
            weights: &self.settings.weights,
        };
        let mut decision = if self.decisions.len() >= self.settings.explained {
            self.decisions.pop_front()
        } else {
            (self.settings.explained > 0).then(Decision::empty)
        };
        if let Some(decision) = &mut decision {
            decision.considered.clear();
            (decision.task, decision.at) = (task, now);
        }
        let pick = state.fleet.pick(&wish, now, |node, verdict| {
            if let Some(decision) = &mut decision
                && decision.considered.len() < 64
            {
                decision.considered.push((node, verdict));
            }
        });
        if let Some(mut decision) = decision {
            decision.chosen = pick.map(|pick| pick.node);
            self.decisions.push_back(decision);
        }
        match pick {
            Some(pick) => self.give(task, pick.node, None, now, step),
            None if beside.is_some() => {}
            None if count > 0 => {
                // It may be only this task that nobody is left for.
                let at = now.saturating_add(1_000);
                self.wheel.set(at, Timer::Ready { task, seq });
            }
            None => {
                self.state.enqueue(task);
                self.state.queue.block(job_shape);
            }
        }
    }

    fn give(&mut self, task: u32, node: u32, why: Option<Spill>, now: Millis, step: &mut Step) {
        let row = &self.state.tasks[task as usize];
        let (job, index, epoch) = (row.job, row.index, row.epoch + 1);
        self.log(Event::Placed { task, node, epoch }, now, step);
        let Some(slot) = self.state.attempt(task, epoch) else { return };
        let (attempt, job) = (AttemptId { task, epoch }, self.state.jobs[job as usize].id);
        match (why, self.state.fleet.id(node)) {
            (None, Some(id)) => {
                let gpu = self.state.attempts[slot as usize].device;
                let gpu = (gpu != u8::MAX).then_some(gpu);
                step.effects.push(Effect::Offer { node: id, attempt, job, index, gpu });
            }
            (why, _) => {
                let (pool, why) = ((node - POOLS) as usize, why.unwrap_or(Spill::Tier));
                self.state.attempts[slot as usize].accepted = true;
                step.effects.push(Effect::Spill { pool, attempt, job, index, why });
            }
        }
        self.time(slot, now.saturating_add(self.settings.offer_ms));
    }

    /// Takes tasks that wait for a machine of a pool back to the edge where that has become quick again, and gives them.
    /// To be called with the attempts that the pool has not begun.
    pub fn drain_back(&mut self, now: Millis, waiting: &[AttemptId], step: &mut Step) {
        for id in waiting {
            let Some(slot) = self.state.attempt(id.task, id.epoch) else { continue };
            let Some(pool) = self.state.attempts[slot as usize].node.checked_sub(POOLS) else { continue };
            let shape = self.state.jobs[self.state.tasks[id.task as usize].job as usize].shape;
            let threshold = self.settings.pools.get(pool as usize).map_or(0, |pool| pool.startup_ms);
            if self.wait_ms(shape, 0).saturating_mul(2) < threshold.max(1) {
                step.effects.push(Effect::Stop { node: None, attempt: *id });
                self.log(Event::Dropped { task: id.task, epoch: id.epoch, fault: false }, now, step);
                self.state.enqueue(id.task);
            }
        }
        self.drain(now, step);
        self.finish(step);
    }

    // Gangs

    /// Tries the gang with the earliest deadline: all of its tasks at once. What it finds is held for a while.
    fn gang(&mut self, now: Millis, step: &mut Step) {
        if !self.room || now < self.pause {
            return;
        }
        self.room = false;
        while let Some(gang) = self.gangs.first().copied() {
            let Some(job) = self.state.job_ids.get(&gang.2).copied() else {
                self.gangs.pop_first();
                continue;
            };
            let tasks = self.state.tasks_of(job);
            if self.hold.as_ref().is_none_or(|hold| hold.job != job) {
                self.let_go_of_hold();
                let until = now.saturating_add(HOLD_MS);
                self.wheel.set(until, Timer::Gang);
                self.hold = Some(Hold { gang, job, picks: Vec::new(), until });
            }
            let shape = &self.state.shapes[self.state.jobs[job as usize].shape as usize];
            let (need, selector, bid) = (shape.need, shape.selector, shape.bid);
            let (reputation, replicated) = (shape.reputation, shape.replicated);
            let Some(hold) = &mut self.hold else { return };
            for task in &tasks[hold.picks.len().min(tasks.len())..] {
                let wish = Wish {
                    need,
                    selector,
                    bid,
                    reputation,
                    holders: &[],
                    exclude: &[],
                    exclude_operators: &[],
                    speed: 0,
                    replicated,
                    weights: &self.settings.weights,
                };
                let Some(pick) = self.state.fleet.pick(&wish, now, |_, _| {}) else { break };
                let Some(device) = self.state.fleet.reserve(&pick, &need, now) else { break };
                hold.picks.push((*task, pick.node, device));
            }
            if hold.picks.len() < tasks.len() {
                return;
            }
            let picks: Vec<(u32, u32)> = hold.picks.iter().map(|(task, node, _)| (*task, *node)).collect();
            // The room is there again at once, and nobody else is asked in between.
            self.let_go_of_hold();
            self.gangs.pop_first();
            for (task, node) in picks {
                self.give(task, node, None, now, step);
            }
        }
    }

    fn let_go_of_hold(&mut self) {
        if let Some(hold) = self.hold.take() {
            let need = self.state.shapes[self.state.jobs[hold.job as usize].shape as usize].need;
            for (_, node, device) in hold.picks {
                self.state.fleet.release(node, &need, device);
                self.wake(node);
            }
        }
    }

    /// A gang that held nodes in vain lets others have them for as long, and comes after gangs that did so less often.
    fn gang_late(&mut self, now: Millis) {
        self.room = true;
        let Some(hold) = self.hold.as_ref().filter(|hold| hold.until <= now) else { return };
        let gang = hold.gang;
        self.let_go_of_hold();
        if self.gangs.remove(&gang) {
            self.gangs.insert((gang.0.saturating_add(1), gang.1, gang.2));
        }
        self.pause = now.saturating_add(HOLD_MS);
        self.wheel.set(self.pause, Timer::Gang);
    }

    /// A job is over: a gang of its waits no more.
    fn let_go(&mut self, job: u32) {
        let id = self.state.jobs[job as usize].id;
        if self.hold.as_ref().is_some_and(|hold| hold.job == job) {
            self.let_go_of_hold();
        }
        self.gangs.retain(|(_, _, gang)| *gang != id);
    }

    // Explaining

    /// The slot of a task that is still open.
    pub fn find_task(&self, job: &Hash, index: u32) -> Option<u32> {
        let job = *self.state.job_ids.get(job)?;
        self.state.tasks_of(job).into_iter().find(|task| self.state.tasks[*task as usize].index == index)
    }

    /// Why a task is where it is; looks at every node, so it is for people who ask and not for every task.
    pub fn explain(&self, job: &Hash, index: u32) -> Option<Explanation> {
        let slot = self.find_task(job, index)?;
        let task = &self.state.tasks[slot as usize];
        let row = &self.state.jobs[task.job as usize];
        let shape = &self.state.shapes[row.shape as usize];
        let state = match task.phase {
            Phase::Running => "it is with a node",
            Phase::Queued => "it waits for a node or for its turn",
            Phase::Waiting if row.gang => "it waits for room for all tasks of its job at once",
            Phase::Waiting => "it waits before it is tried again",
            Phase::Free => "it has ended",
        };
        let exclude = self.state.tried.get(&slot).map_or(&[][..], Vec::as_slice);
        let wish = Wish {
            need: shape.need,
            selector: shape.selector,
            bid: shape.bid,
            reputation: shape.reputation,
            holders: &[],
            exclude,
            exclude_operators: &[],
            speed: 0,
            replicated: shape.replicated,
            weights: &self.settings.weights,
        };
        let (mut unfit, mut fit) = (BTreeMap::new(), 0);
        for node in 0..self.state.fleet.len() as u32 {
            match self.state.fleet.unfit(node, &wish) {
                Some(why) => *unfit.entry(why).or_default() += 1,
                None => fit += 1,
            }
        }
        let live = task.attempts.iter().filter(|attempt| **attempt != NONE);
        let nodes = live.map(|attempt| self.state.fleet.id(self.state.attempts[*attempt as usize].node));
        Some(Explanation {
            state,
            nodes: nodes.collect(),
            waiting: self.state.queue.pending(row.shape),
            blocked: self.state.queue.is_blocked(row.shape),
            share: self.state.queue.share(row.tenant),
            unfit,
            fit,
            decision: self.decisions.iter().rev().find(|decision| decision.task == slot).cloned(),
        })
    }
}

impl Decision {
    const fn empty() -> Self {
        Self { task: NONE, at: 0, considered: Vec::new(), chosen: None }
    }
}
