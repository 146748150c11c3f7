//! What the log says: jobs, tasks and attempts as a fold over events.
//!
//! Every change goes through [`State::apply`], while running and while recovering, so the log is the state. An attempt is
//! known by its task and epoch; the epoch of a task's slot only grows, so nothing that was said about an earlier attempt
//! can be taken for a later one.

use std::collections::{BTreeMap, HashMap, VecDeque};

use serde::{Deserialize, Serialize};
use theta_core::hash::{Address, Hash};

use super::class::Selector;
use super::fleet::{Fleet, Need, Offer};
use super::queue::{Queue, Waiting};
use super::registry::{Member, Status};
use super::reputation::{Evidence, Reputation};
use super::stats::Runtimes;
use crate::Millis;
use crate::blob::BlobHash;
use crate::identity::NodeId;

pub(super) const NONE: u32 = u32::MAX;
/// Kinds of tasks that are told apart.
pub(super) const MAX_SHAPES: usize = 1 << 14;
/// Inputs whose holders are known.
const MAX_BLOBS: usize = 1 << 20;
/// Nodes from here on are provider pools.
pub(super) const POOLS: u32 = 0xff00_0000;

/// Many equal tasks that somebody wants done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRequest {
    /// Its name; the same one twice is one job.
    pub id: Hash,
    /// Who pays.
    pub tenant: Address,
    /// What one attempt takes.
    pub need: Need,
    /// What a node has to be like.
    pub selector: Selector,
    /// The most that an hour of a core may cost, in millionths of a TFUEL.
    pub bid: u32,
    /// Least reputation of a node, in 65536ths.
    pub reputation: u16,
    /// Kind of work, as reputations are kept by.
    pub kind: u8,
    /// Other nodes do the same tasks, so new nodes may have them (edge.md 1.3).
    pub replicated: bool,
    /// The input of each task that nodes may have already.
    pub tasks: Vec<Option<BlobHash>>,
    /// When all of it has to be done.
    pub deadline: Option<Millis>,
    /// 0 to 8, higher first; 9 for protocol work.
    pub priority: u8,
    /// All tasks at once or none.
    pub gang: bool,
    /// How long a task is thought to take, in milliseconds.
    pub expected_ms: u32,
    /// Tasks that may go to provider pools.
    pub spill: u32,
}

/// Why a task is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum GiveUp {
    /// Too many nodes failed it.
    Attempts,
    /// Its time was over.
    Deadline,
    /// Its job was cancelled.
    Cancelled,
}

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// A node came, or offers something else now.
    Joined {
        /// Who.
        node: NodeId,
        /// What.
        offer: Box<Offer>,
        /// Where it starts.
        status: Status,
        /// When.
        at: Millis,
    },
    /// A node's standing that outlasts a restart.
    Stands {
        /// Its place.
        node: u32,
        /// Where it stands.
        status: Status,
    },
    /// A job was taken.
    Taken {
        /// The job.
        job: Box<JobRequest>,
        /// When.
        at: Millis,
    },
    /// A task was given to a node.
    Placed {
        /// Slot of the task.
        task: u32,
        /// Place of the node.
        node: u32,
        /// Higher than any before in this slot.
        epoch: u32,
    },
    /// An attempt ended without a result.
    Dropped {
        /// Slot of the task.
        task: u32,
        /// Which attempt.
        epoch: u32,
        /// Whether it was the node's fault.
        fault: bool,
    },
    /// A task has its result, which is the attempt's.
    Done {
        /// Slot of the task.
        task: u32,
        /// Which attempt.
        epoch: u32,
        /// Whether the program did what it was sent for.
        success: bool,
    },
    /// A task will have no result.
    GaveUp {
        /// Slot of the task.
        task: u32,
        /// Why.
        why: GiveUp,
    },
    /// Evidence of how well a node does.
    Noted {
        /// Place of the node.
        node: u32,
        /// Kind of work.
        kind: u8,
        /// What it did.
        evidence: Evidence,
        /// How much it counts, in thousandths.
        weight: u16,
        /// When.
        at: Millis,
    },
    /// A job as it stood when the log was written anew.
    Kept {
        /// The job as it was taken.
        job: Box<JobRequest>,
        /// When that was.
        at: Millis,
        /// Tasks that failed.
        failed: u32,
        /// How much of it may still go to pools.
        spill: u32,
        /// Its tasks in their order.
        tasks: Vec<KeptTask>,
    },
    /// A job that ended before that.
    Past {
        /// Which.
        job: Hash,
        /// How.
        ended: Ended,
    },
    /// A node's reputation at that time.
    Reputed {
        /// Its place.
        node: u32,
        /// Kind of work.
        kind: u8,
        /// How it stood.
        reputation: Reputation,
    },
    /// Slots of tasks that were free, in the order in which they are given out again, with their last epochs.
    Free(Vec<(u32, u32)>),
}

/// A task as it stood when the log was written anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptTask {
    /// Its slot.
    pub slot: u32,
    /// Last epoch of the slot.
    pub epoch: u32,
    /// Whether it has ended.
    pub ended: bool,
    /// Nodes that failed it.
    pub tried: Vec<u32>,
    /// How often it failed.
    pub tries: u8,
    /// Its attempts: node and epoch.
    pub attempts: Vec<(u32, u32)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The slot is free.
    Free,
    /// Not in the queue and not with a node.
    Waiting,
    Queued,
    Running,
}

#[derive(Debug)]
pub(super) struct Task {
    pub(super) seq: u64,
    pub(super) since: Millis,
    pub(super) job: u32,
    /// The next task of the job.
    next: u32,
    pub(super) index: u32,
    pub(super) input: u32,
    pub(super) epoch: u32,
    /// First of at most two attempts.
    pub(super) attempts: [u32; 2],
    pub(super) phase: Phase,
    pub(super) tries: u8,
}

#[derive(Debug)]
pub(super) struct Job {
    pub(super) id: Hash,
    pub(super) tenant: u32,
    pub(super) shape: u32,
    pub(super) deadline: Millis,
    pub(super) priority: u8,
    pub(super) gang: bool,
    pub(super) spill: u32,
    request: Box<JobRequest>,
    first: u32,
    pub(super) left: u32,
    pub(super) all: u32,
    pub(super) failed: u32,
}

/// What equal tasks have in common.
#[derive(Debug)]
pub(super) struct Shape {
    pub(super) need: Need,
    pub(super) selector: u32,
    pub(super) bid: u32,
    pub(super) reputation: u16,
    pub(super) kind: u8,
    pub(super) replicated: bool,
    pub(super) tier: u8,
    pub(super) expected_ms: u32,
    pub(super) times: Runtimes,
    /// Results for each second, and since when.
    pub(super) rate: f64,
    pub(super) counted: u32,
    pub(super) counted_since: Millis,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt {
    pub(super) task: u32,
    pub(super) node: u32,
    pub(super) epoch: u32,
    pub(super) started: Millis,
    next: u32,
    previous: u32,
    pub(super) device: u8,
    pub(super) accepted: bool,
    /// It was running when the log was read and has not been heard of since.
    pub(super) adopted: bool,
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Tasks with a result.
    pub done: u32,
    /// Tasks without one, or whose program failed.
    pub failed: u32,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) fleet: Fleet,
    pub(super) members: Vec<Member>,
    offers: Vec<Offer>,
    pub(super) queue: Queue,
    pub(super) tasks: Vec<Task>,
    free_tasks: Vec<u32>,
    pub(super) jobs: Vec<Job>,
    free_jobs: Vec<u32>,
    pub(super) job_ids: HashMap<Hash, u32>,
    pub(super) ended: HashMap<Hash, Ended>,
    ended_order: VecDeque<Hash>,
    remembered: usize,
    pub(super) shapes: Vec<Shape>,
    shape_ids: HashMap<(Need, u32, u32, u16, u8, bool), u32>,
    /// Shapes that each class suits, with what they need.
    pub(super) of_class: Vec<Vec<(u32, Need)>>,
    pub(super) attempts: Vec<Attempt>,
    free_attempts: Vec<u32>,
    pub(super) running: u32,
    pub(super) clones: u32,
    blobs: HashMap<BlobHash, u32>,
    pub(super) holders: Vec<Vec<u32>>,
    /// Nodes that failed a task.
    pub(super) tried: HashMap<u32, Vec<u32>>,
    pub(super) reputations: HashMap<u32, BTreeMap<u8, Reputation>>,
    pub(super) pools: Vec<u32>,
    seq: u64,
    burst: f64,
}

impl Waiting for Vec<Task> {
    fn since(&self, task: u32, seq: u64) -> Option<Millis> {
        let task = &self[task as usize];
        (task.phase == Phase::Queued && task.seq == seq).then_some(task.since)
    }
}

/// What of the fleet's resources a need is, in the units of [`Fleet::total`].
pub(super) const fn units(need: &Need) -> [u64; 3] {
    [need.cpu_milli as u64, need.mem_mib as u64, need.vram_mib.div_ceil(64) as u64]
}

impl State {
    pub(super) fn new(seed: u64, remembered: usize, burst: f64) -> Self {
        Self {
            fleet: Fleet::new(seed),
            members: Vec::new(),
            offers: Vec::new(),
            queue: Queue::default(),
            tasks: Vec::new(),
            free_tasks: Vec::new(),
            jobs: Vec::new(),
            free_jobs: Vec::new(),
            job_ids: HashMap::new(),
            ended: HashMap::new(),
            ended_order: VecDeque::new(),
            remembered,
            shapes: Vec::new(),
            shape_ids: HashMap::new(),
            of_class: Vec::new(),
            attempts: Vec::new(),
            free_attempts: Vec::new(),
            running: 0,
            clones: 0,
            blobs: HashMap::new(),
            holders: Vec::new(),
            tried: HashMap::new(),
            reputations: HashMap::new(),
            pools: Vec::new(),
            seq: 0,
            burst,
        }
    }

    /// Carries out an event. One that does not fit the state changes nothing.
    pub(super) fn apply(&mut self, event: &Event, now: Millis) {
        match event {
            Event::Joined { node, offer, status, at } => self.joined(*node, offer, *status, *at),
            Event::Stands { node, status } => {
                if let Some(member) = self.members.get_mut(*node as usize) {
                    member.stand(*status);
                    self.let_in(*node);
                }
            }
            Event::Taken { job, at } => self.taken(job, *at, &[]),
            Event::Kept { job, at, failed, spill, tasks } => {
                self.taken(job, *at, tasks);
                self.kept(job, *failed, *spill, tasks, now);
            }
            Event::Past { job, ended } => self.note_ended(*job, *ended),
            Event::Reputed { node, kind, reputation } => {
                self.reputations.entry(*node).or_default().insert(*kind, *reputation);
                self.repute(*node);
            }
            Event::Free(slots) => {
                for (slot, epoch) in slots {
                    self.slot(*slot).epoch = *epoch;
                }
                self.free_tasks = slots.iter().map(|(slot, _)| *slot).collect();
            }
            Event::Placed { task, node, epoch } => self.placed(*task, *node, *epoch, now),
            Event::Dropped { task, epoch, fault } => self.dropped(*task, *epoch, *fault),
            Event::Done { task, epoch, success } => {
                if self.attempt(*task, *epoch).is_some() {
                    self.finish(*task, *success);
                }
            }
            Event::GaveUp { task, .. } => self.finish(*task, false),
            Event::Noted { node, kind, evidence, weight, at } => {
                let all = self.reputations.entry(*node).or_default();
                all.entry(*kind).or_default().note(*at, *evidence, f64::from(*weight) / 1_000.0);
                self.repute(*node);
            }
        }
    }

    /// Whoever does one kind of work badly is trusted no more than that.
    fn repute(&mut self, node: u32) {
        let all = self.reputations.get(&node).into_iter().flat_map(BTreeMap::values);
        let least = all.map(Reputation::row).min().unwrap_or(0);
        if let Some(node) = self.fleet.rows.get_mut(node as usize) {
            node.reputation = least;
        }
    }

    fn joined(&mut self, id: NodeId, offer: &Offer, status: Status, at: Millis) {
        let Some(node) = self.fleet.join(id, offer) else { return };
        // A new class suits some of the shapes that there are.
        for class in self.of_class.len()..self.fleet.classes.len() {
            let shapes = self.shapes.iter().enumerate();
            let suits =
                |(_, shape): &(usize, &Shape)| self.fleet.classes.set(shape.selector).contains(class as u16);
            self.of_class.push(shapes.filter(suits).map(|(shape, row)| (shape as u32, row.need)).collect());
        }
        match self.offers.get_mut(node as usize) {
            Some(place) => place.clone_from(offer),
            None => self.offers.push(offer.clone()),
        }
        match self.members.get_mut(node as usize) {
            Some(member) => member.last_seen = at,
            None => self.members.push(Member::new(status, at)),
        }
        self.let_in(node);
    }

    /// Opens or closes a node's row as its standing says.
    pub(super) fn let_in(&mut self, node: u32) {
        let status = self.members[node as usize].status;
        self.fleet.rows[node as usize].probation = status == Status::Probation;
        if status.is_open() { self.fleet.open(node) } else { self.fleet.close(node) }
    }

    /// Whether a job's tasks are like others or may be of a kind of their own: requests may not make kinds without end.
    pub(super) fn has_room_for(&self, job: &JobRequest) -> bool {
        let selector = Selector { vram_mib: job.need.vram_mib, ..job.selector.clone() };
        let known = self.fleet.classes.find(&selector).is_some_and(|selector| {
            let key = (job.need, selector, job.bid, job.reputation, job.kind, job.replicated);
            self.shape_ids.contains_key(&key)
        });
        known || self.shapes.len() < MAX_SHAPES
    }

    pub(super) fn shape(&mut self, job: &JobRequest) -> u32 {
        let selector = Selector { vram_mib: job.need.vram_mib, ..job.selector.clone() };
        let selector = self.fleet.selector(&selector);
        let key = (job.need, selector, job.bid, job.reputation, job.kind, job.replicated);
        if let Some(shape) = self.shape_ids.get(&key) {
            return *shape;
        }
        let shape = self.shapes.len() as u32;
        self.shapes.push(Shape {
            need: job.need,
            selector,
            bid: job.bid,
            reputation: job.reputation,
            kind: job.kind,
            replicated: job.replicated,
            tier: job.selector.tier,
            expected_ms: job.expected_ms.max(1),
            times: Runtimes::new(),
            rate: 0.0,
            counted: 0,
            counted_since: 0,
        });
        self.shape_ids.insert(key, shape);
        self.of_class.resize_with(self.fleet.classes.len(), Vec::new);
        for class in self.fleet.classes.list(selector) {
            self.of_class[usize::from(*class)].push((shape, job.need));
        }
        shape
    }

    pub(super) fn blob(&mut self, blob: BlobHash) -> u32 {
        let next = self.holders.len() as u32;
        if self.holders.len() >= MAX_BLOBS {
            // More are not told apart; their tasks go wherever there is room.
            return self.blobs.get(&blob).copied().unwrap_or(NONE);
        }
        let number = *self.blobs.entry(blob).or_insert(next);
        if number == next {
            self.holders.push(Vec::new());
        }
        number
    }

    /// A slot, made if it is not there yet.
    fn slot(&mut self, slot: u32) -> &mut Task {
        while self.tasks.len() <= slot as usize {
            self.tasks.push(Task {
                seq: 0,
                since: 0,
                job: NONE,
                next: NONE,
                index: 0,
                input: NONE,
                epoch: 0,
                attempts: [NONE; 2],
                phase: Phase::Free,
                tries: 0,
            });
        }
        &mut self.tasks[slot as usize]
    }

    /// Takes a job into free slots, or into those that it had.
    fn taken(&mut self, request: &JobRequest, at: Millis, kept: &[KeptTask]) {
        let shape = self.shape(request);
        let tenant = self.queue.tenant(request.tenant, self.burst, at);
        let slot = self.free_jobs.pop().unwrap_or(self.jobs.len() as u32);
        let all = request.tasks.len() as u32;
        let mut job = Job {
            id: request.id,
            tenant,
            shape,
            deadline: request.deadline.unwrap_or(Millis::MAX),
            priority: request.priority.min(9),
            gang: request.gang,
            spill: request.spill,
            request: Box::new(request.clone()),
            first: NONE,
            left: all,
            all,
            failed: 0,
        };
        for (index, input) in request.tasks.iter().enumerate().rev() {
            let input = input.map_or(NONE, |blob| self.blob(blob));
            let task = match kept.get(index) {
                Some(kept) => kept.slot,
                None => self.free_tasks.pop().unwrap_or(self.tasks.len() as u32),
            };
            let epoch = self.slot(task).epoch;
            let row = Task {
                seq: 0,
                since: at,
                job: slot,
                next: job.first,
                index: index as u32,
                input,
                epoch,
                attempts: [NONE; 2],
                phase: Phase::Waiting,
                tries: 0,
            };
            job.first = task;
            self.tasks[task as usize] = row;
        }
        // In their order.
        let (mut task, mut seq) = (job.first, self.seq);
        while task != NONE {
            self.tasks[task as usize].seq = seq;
            (task, seq) = (self.tasks[task as usize].next, seq + 1);
        }
        self.seq = seq;
        self.job_ids.insert(request.id, slot);
        match self.jobs.get_mut(slot as usize) {
            Some(place) => *place = job,
            None => self.jobs.push(job),
        }
    }

    fn kept(&mut self, job: &JobRequest, failed: u32, spill: u32, tasks: &[KeptTask], now: Millis) {
        for task in tasks {
            for (node, epoch) in &task.attempts {
                self.placed(task.slot, *node, *epoch, now);
            }
            let row = &mut self.tasks[task.slot as usize];
            (row.epoch, row.tries) = (task.epoch, task.tries);
            if task.ended {
                row.phase = Phase::Free;
            }
            if !task.tried.is_empty() {
                self.tried.insert(task.slot, task.tried.clone());
            }
        }
        if let Some(job) = self.job_ids.get(&job.id).and_then(|job| self.jobs.get_mut(*job as usize)) {
            job.left -= tasks.iter().filter(|task| task.ended).count() as u32;
            (job.failed, job.spill) = (failed, spill);
        }
    }

    /// Events that lead to this state from nothing.
    pub(super) fn events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        for (node, (member, offer)) in self.members.iter().zip(&self.offers).enumerate() {
            let (offer, status, at) = (Box::new(offer.clone()), member.status, member.last_seen);
            events.push(Event::Joined { node: self.fleet.rows[node].id, offer, status, at });
        }
        let mut reputations: Vec<_> = self.reputations.iter().collect();
        reputations.sort_by_key(|(node, _)| **node);
        for (node, all) in reputations {
            let of_kind = |(kind, reputation): (&u8, &Reputation)| Event::Reputed {
                node: *node,
                kind: *kind,
                reputation: *reputation,
            };
            events.extend(all.iter().map(of_kind));
        }
        let past = self.ended_order.iter().filter_map(|job| Some((*job, *self.ended.get(job)?)));
        events.extend(past.map(|(job, ended)| Event::Past { job, ended }));
        let mut jobs: Vec<&Job> = self.job_ids.values().map(|job| &self.jobs[*job as usize]).collect();
        jobs.sort_by_key(|job| self.tasks[job.first as usize].seq);
        for job in jobs {
            let (mut tasks, mut slot) = (Vec::new(), job.first);
            while slot != NONE {
                let row = &self.tasks[slot as usize];
                let live = row.attempts.into_iter().filter(|attempt| *attempt != NONE);
                let attempts = live.map(|attempt| &self.attempts[attempt as usize]);
                let mut attempts: Vec<_> = attempts.map(|attempt| (attempt.node, attempt.epoch)).collect();
                attempts.sort_by_key(|(_, epoch)| *epoch);
                let tried = self.tried.get(&slot).cloned().unwrap_or_default();
                let (epoch, ended, tries) = (row.epoch, row.phase == Phase::Free, row.tries);
                tasks.push(KeptTask { slot, epoch, ended, tried, tries, attempts });
                slot = row.next;
            }
            let at = self.tasks[job.first as usize].since;
            let (request, failed, spill) = (job.request.clone(), job.failed, job.spill);
            events.push(Event::Kept { job: request, at, failed, spill, tasks });
        }
        let free = self.free_tasks.iter().map(|slot| (*slot, self.tasks[*slot as usize].epoch));
        events.push(Event::Free(free.collect()));
        events
    }

    fn note_ended(&mut self, id: Hash, ended: Ended) {
        self.ended.insert(id, ended);
        self.ended_order.push_back(id);
        if self.ended_order.len() > self.remembered {
            self.ended_order.pop_front().map(|oldest| self.ended.remove(&oldest));
        }
    }

    /// Tasks of a job that are not finished, in their order.
    pub(super) fn tasks_of(&self, job: u32) -> Vec<u32> {
        let mut found = Vec::new();
        let mut task = self.jobs[job as usize].first;
        while task != NONE {
            let row = &self.tasks[task as usize];
            if row.phase != Phase::Free && row.job == job {
                found.push(task);
            }
            task = row.next;
        }
        found
    }

    /// Puts a task that waits into the queue.
    pub(super) fn enqueue(&mut self, task: u32) {
        let row = &mut self.tasks[task as usize];
        if row.phase != Phase::Waiting {
            return;
        }
        row.phase = Phase::Queued;
        let (seq, job) = (row.seq, &self.jobs[row.job as usize]);
        let bid = self.shapes[job.shape as usize].bid;
        self.queue.push(job.tenant, job.shape, job.priority, bid, job.deadline, seq, task);
    }

    /// The attempt of an epoch.
    pub(super) fn attempt(&self, task: u32, epoch: u32) -> Option<u32> {
        let row = self.tasks.get(task as usize).filter(|row| row.phase == Phase::Running)?;
        let mut live = row.attempts.into_iter().filter(|attempt| *attempt != NONE);
        live.find(|attempt| self.attempts[*attempt as usize].epoch == epoch)
    }

    fn placed(&mut self, task: u32, node: u32, epoch: u32, now: Millis) {
        let Some(row) = self.tasks.get_mut(task as usize) else { return };
        let Some(place) = row.attempts.iter().position(|attempt| *attempt == NONE) else { return };
        if matches!(row.phase, Phase::Free | Phase::Queued) || epoch <= row.epoch {
            return;
        }
        let clone = row.attempts.iter().any(|attempt| *attempt != NONE);
        (row.epoch, row.phase) = (epoch, Phase::Running);
        let slot = self.free_attempts.pop().unwrap_or(self.attempts.len() as u32);
        row.attempts[place] = slot;
        let job = &mut self.jobs[row.job as usize];
        let (tenant, need) = (job.tenant, self.shapes[job.shape as usize].need);
        let (mut next, mut device) = (NONE, u8::MAX);
        if let Some(pool) = node.checked_sub(POOLS) {
            if self.pools.len() <= pool as usize {
                self.pools.resize(pool as usize + 1, 0);
            }
            self.pools[pool as usize] += 1;
            job.spill = job.spill.saturating_sub(1);
        } else if (node as usize) < self.fleet.rows.len() {
            device = self.fleet.take(node, &need, now);
            next = std::mem::replace(&mut self.fleet.rows[node as usize].attempts, slot);
            if next != NONE {
                self.attempts[next as usize].previous = slot;
            }
        }
        let (previous, started, accepted, adopted) = (NONE, now, false, false);
        let attempt = Attempt { task, node, epoch, started, next, previous, device, accepted, adopted };
        match self.attempts.get_mut(slot as usize) {
            Some(place) => *place = attempt,
            None => self.attempts.push(attempt),
        }
        self.running += 1;
        self.clones += u32::from(clone);
        let total = self.fleet.total();
        self.queue.charge(tenant, units(&need), true, &total);
    }

    /// Takes an attempt off its node and its task.
    fn remove(&mut self, slot: u32) -> Attempt {
        let attempt = self.attempts[slot as usize];
        let row = &mut self.tasks[attempt.task as usize];
        for place in &mut row.attempts {
            if *place == slot {
                *place = NONE;
            }
        }
        if row.attempts != [NONE; 2] {
            self.clones = self.clones.saturating_sub(1);
        }
        let job = &self.jobs[row.job as usize];
        let (tenant, need) = (job.tenant, self.shapes[job.shape as usize].need);
        if let Some(pool) = attempt.node.checked_sub(POOLS) {
            self.pools[pool as usize] -= 1;
        } else if (attempt.node as usize) < self.fleet.rows.len() {
            match attempt.previous {
                NONE => self.fleet.rows[attempt.node as usize].attempts = attempt.next,
                previous => self.attempts[previous as usize].next = attempt.next,
            }
            if attempt.next != NONE {
                self.attempts[attempt.next as usize].previous = attempt.previous;
            }
            self.fleet.release(attempt.node, &need, attempt.device);
        }
        self.running -= 1;
        let total = self.fleet.total();
        self.queue.charge(tenant, units(&need), false, &total);
        self.free_attempts.push(slot);
        attempt
    }

    /// Attempts of a node.
    pub(super) fn attempts_of(&self, node: u32) -> Vec<u32> {
        let mut found = Vec::new();
        let mut slot = self.fleet.rows[node as usize].attempts;
        while slot != NONE {
            found.push(slot);
            slot = self.attempts[slot as usize].next;
        }
        found
    }

    fn dropped(&mut self, task: u32, epoch: u32, fault: bool) {
        let Some(slot) = self.attempt(task, epoch) else { return };
        let attempt = self.remove(slot);
        if fault {
            self.tried.entry(task).or_default().push(attempt.node);
        }
        let row = &mut self.tasks[task as usize];
        row.tries = row.tries.saturating_add(u8::from(fault));
        if row.attempts == [NONE; 2] {
            row.phase = Phase::Waiting;
        }
    }

    fn finish(&mut self, task: u32, success: bool) {
        let Some(row) = self.tasks.get(task as usize).filter(|row| row.phase != Phase::Free) else { return };
        let (job, phase, attempts) = (row.job, row.phase, row.attempts);
        for slot in attempts.into_iter().filter(|slot| *slot != NONE) {
            self.remove(slot);
        }
        let shape = self.jobs[job as usize].shape;
        if phase == Phase::Queued {
            self.queue.forget(shape);
        }
        self.tasks[task as usize].phase = Phase::Free;
        self.tried.remove(&task);
        let row = &mut self.jobs[job as usize];
        row.left -= 1;
        row.failed += u32::from(!success);
        if row.left == 0 {
            self.close(job);
        }
    }

    /// Frees the slots of a job, now that none of its tasks is left.
    fn close(&mut self, job: u32) {
        let row = &self.jobs[job as usize];
        let (id, mut task) = (row.id, row.first);
        let ended = Ended { done: row.all - row.failed, failed: row.failed };
        while task != NONE {
            self.free_tasks.push(task);
            task = self.tasks[task as usize].next;
        }
        self.free_jobs.push(job);
        self.job_ids.remove(&id);
        self.note_ended(id, ended);
    }
}
