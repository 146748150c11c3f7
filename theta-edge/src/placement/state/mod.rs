//! What the log says: jobs, tasks and attempts as a fold over events.
//!
//! Every change goes through [`State::apply`], while running and while recovering, so the log is the state. An attempt is
//! known by its task and epoch; the epoch of a task's slot only grows, so nothing that was said about an earlier attempt
//! can be taken for a later one.

mod event;

use std::collections::{BTreeMap, HashMap, VecDeque};

use theta_core::hash::Hash;

use super::class::Selector;
use super::fleet::{Fleet, Need, Offer};
use super::queue::{Queue, Waiting};
use super::registry::{Member, Status};
use super::reputation::Reputation;
use super::stats::Runtimes;
use crate::Millis;
use crate::blob::BlobHash;
use crate::identity::NodeId;
pub use event::{Ended, Event, GiveUp, JobRequest, KeptAttempt, KeptTask, Loss};

pub(in crate::placement) const NONE: u32 = u32::MAX;
/// Kinds of tasks that are told apart.
pub(in crate::placement) const MAX_SHAPES: usize = 1 << 14;
/// Inputs whose holders are known.
const MAX_BLOBS: usize = 1 << 20;
/// Nodes from here on are provider pools.
pub(in crate::placement) const POOLS: u32 = 0xff00_0000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::placement) enum Phase {
    /// The slot is free.
    Free,
    /// Not in the queue and not with a node.
    Waiting,
    Queued,
    Running,
}

#[derive(Debug)]
pub(in crate::placement) struct Task {
    pub(in crate::placement) seq: u64,
    pub(in crate::placement) since: Millis,
    pub(in crate::placement) job: u32,
    /// The next task of the job.
    next: u32,
    pub(in crate::placement) index: u32,
    pub(in crate::placement) input: u32,
    pub(in crate::placement) epoch: u32,
    /// First of at most two attempts.
    pub(in crate::placement) attempts: [u32; 2],
    pub(in crate::placement) phase: Phase,
    pub(in crate::placement) tries: u8,
}

#[derive(Debug)]
pub(in crate::placement) struct Job {
    pub(in crate::placement) id: Hash,
    pub(in crate::placement) tenant: u32,
    pub(in crate::placement) shape: u32,
    pub(in crate::placement) deadline: Millis,
    pub(in crate::placement) priority: u8,
    pub(in crate::placement) gang: bool,
    pub(in crate::placement) spill: u32,
    pub(in crate::placement) limit_ms: Millis,
    pub(in crate::placement) spread: bool,
    /// Of one whose tasks go to different nodes: nodes that have or had one.
    pub(in crate::placement) used: Vec<u32>,
    pub(in crate::placement) request: Box<JobRequest>,
    first: u32,
    pub(in crate::placement) left: u32,
    pub(in crate::placement) all: u32,
    pub(in crate::placement) failed: u32,
}

/// What equal tasks have in common.
#[derive(Debug)]
pub(in crate::placement) struct Shape {
    pub(in crate::placement) need: Need,
    pub(in crate::placement) selector: u32,
    pub(in crate::placement) bid: u32,
    pub(in crate::placement) reputation: u16,
    pub(in crate::placement) kind: u8,
    pub(in crate::placement) replicated: bool,
    pub(in crate::placement) tier: u8,
    pub(in crate::placement) expected_ms: u32,
    /// Open jobs of it.
    jobs: u32,
    pub(in crate::placement) times: Runtimes,
    /// Results for each second, and since when.
    pub(in crate::placement) rate: f64,
    pub(in crate::placement) counted: u32,
    pub(in crate::placement) counted_since: Millis,
}

#[derive(Clone, Copy, Debug)]
pub(in crate::placement) struct Attempt {
    pub(in crate::placement) task: u32,
    pub(in crate::placement) node: u32,
    pub(in crate::placement) epoch: u32,
    pub(in crate::placement) started: Millis,
    next: u32,
    previous: u32,
    pub(in crate::placement) device: u8,
    pub(in crate::placement) accepted: bool,
    /// It was running when the log was read and has not been heard of since.
    pub(in crate::placement) adopted: bool,
    /// Its node has a result and its place free again; what remains is to believe it.
    pub(in crate::placement) bound: bool,
    /// It has taken longer than others.
    pub(in crate::placement) straggles: bool,
}

#[derive(Debug)]
pub(in crate::placement) struct State {
    pub(in crate::placement) fleet: Fleet,
    pub(in crate::placement) members: Vec<Member>,
    offers: Vec<Offer>,
    pub(in crate::placement) queue: Queue,
    pub(in crate::placement) tasks: Vec<Task>,
    free_tasks: Vec<u32>,
    pub(in crate::placement) jobs: Vec<Job>,
    free_jobs: Vec<u32>,
    pub(in crate::placement) job_ids: HashMap<Hash, u32>,
    pub(in crate::placement) ended: HashMap<Hash, Ended>,
    ended_order: VecDeque<Hash>,
    remembered: usize,
    pub(in crate::placement) shapes: Vec<Shape>,
    shape_ids: HashMap<(Need, u32, u32, u16, u8, bool), u32>,
    /// Shapes that each class suits, with what they need.
    pub(in crate::placement) of_class: Vec<Vec<(u32, Need)>>,
    pub(in crate::placement) attempts: Vec<Attempt>,
    free_attempts: Vec<u32>,
    pub(in crate::placement) running: u32,
    pub(in crate::placement) clones: u32,
    blobs: HashMap<BlobHash, u32>,
    pub(in crate::placement) holders: Vec<Vec<u32>>,
    /// Nodes that failed a task.
    pub(in crate::placement) tried: HashMap<u32, Vec<u32>>,
    pub(in crate::placement) reputations: HashMap<u32, BTreeMap<u8, Reputation>>,
    pub(in crate::placement) pools: Vec<u32>,
    /// Tasks that each tenant has with pools.
    pub(in crate::placement) spilled: Vec<u32>,
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
pub(in crate::placement) const fn units(need: &Need) -> [u64; 3] {
    [need.cpu_milli as u64, need.mem_mib as u64, need.vram_mib.div_ceil(64) as u64]
}

impl State {
    pub(in crate::placement) fn new(seed: u64, remembered: usize, burst: f64) -> Self {
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
            spilled: Vec::new(),
            seq: 0,
            burst,
        }
    }

    /// Carries out an event. One that does not fit the state changes nothing.
    pub(in crate::placement) fn apply(&mut self, event: &Event, now: Millis) {
        match event {
            Event::Joined { node, offer, status, at } => self.joined(*node, offer, *status, *at),
            Event::Stands { node, status } => {
                if let Some(member) = self.members.get_mut(*node as usize) {
                    member.stand(*status);
                    self.let_in(*node);
                }
            }
            Event::Taken { job, at } => self.taken(job, *at, &[]),
            Event::Kept { job, at, failed, spill, used, tasks } => {
                self.taken(job, *at, tasks);
                self.kept(job, *failed, (*spill, used), tasks, now);
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
            Event::Bound { task, epoch } => self.bound(*task, *epoch),
            Event::Dropped { task, epoch, loss } => self.dropped(*task, *epoch, *loss),
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
            // One that starts again counts its heartbeats from the beginning.
            Some(member) => (member.last_seen, member.heartbeat) = (at, 0),
            None => self.members.push(Member::new(status, at)),
        }
        self.let_in(node);
    }

    pub(in crate::placement) fn offer(&self, node: u32) -> Option<&Offer> {
        self.offers.get(node as usize)
    }

    /// Opens or closes a node's row as its standing says.
    pub(in crate::placement) fn let_in(&mut self, node: u32) {
        let status = self.members[node as usize].status;
        self.fleet.rows[node as usize].probation = status == Status::Probation;
        let open = status.is_open() && !self.members[node as usize].cools;
        if open { self.fleet.open(node) } else { self.fleet.close(node) }
    }

    /// Whether a job's tasks are like others or may be of a kind of their own: requests may not make kinds without end.
    pub(in crate::placement) fn has_room_for(&self, job: &JobRequest) -> bool {
        let selector = Selector { vram_mib: job.need.vram_mib, ..job.selector.clone() };
        let known = self.fleet.classes.find(&selector).is_some_and(|selector| {
            let key = (job.need, selector, job.bid, job.reputation, job.kind, job.replicated);
            self.shape_ids.contains_key(&key)
        });
        known || self.shapes.len() < MAX_SHAPES || self.shapes.iter().any(|shape| shape.jobs == 0)
    }

    pub(in crate::placement) fn shape(&mut self, job: &JobRequest) -> u32 {
        let selector = Selector { vram_mib: job.need.vram_mib, ..job.selector.clone() };
        let selector = self.fleet.selector(&selector);
        let key = (job.need, selector, job.bid, job.reputation, job.kind, job.replicated);
        if let Some(shape) = self.shape_ids.get(&key) {
            return *shape;
        }
        let row = Shape {
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
            jobs: 0,
        };
        // One that no job is of makes room.
        let full = self.shapes.len() >= MAX_SHAPES;
        let free = full.then(|| self.shapes.iter().position(|shape| shape.jobs == 0)).flatten();
        let shape = match free {
            Some(place) => {
                let shape = place as u32;
                self.shape_ids.retain(|_, known| *known != shape);
                self.of_class.iter_mut().for_each(|shapes| shapes.retain(|(known, _)| *known != shape));
                self.shapes[place] = row;
                shape
            }
            None => {
                self.shapes.push(row);
                self.shapes.len() as u32 - 1
            }
        };
        self.shape_ids.insert(key, shape);
        self.of_class.resize_with(self.fleet.classes.len(), Vec::new);
        for class in self.fleet.classes.list(selector) {
            self.of_class[usize::from(*class)].push((shape, job.need));
        }
        shape
    }

    pub(in crate::placement) fn blob(&mut self, blob: BlobHash) -> u32 {
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
            limit_ms: request.limit_ms.into(),
            spread: request.spread,
            used: Vec::new(),
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
        self.shapes[shape as usize].jobs += 1;
        self.job_ids.insert(request.id, slot);
        match self.jobs.get_mut(slot as usize) {
            Some(place) => *place = job,
            None => self.jobs.push(job),
        }
    }

    fn kept(
        &mut self,
        job: &JobRequest,
        failed: u32,
        (spill, used): (u32, &[u32]),
        tasks: &[KeptTask],
        now: Millis,
    ) {
        for task in tasks {
            for attempt in &task.attempts {
                self.placed(task.slot, attempt.node, attempt.epoch, now);
                if attempt.bound {
                    self.bound(task.slot, attempt.epoch);
                }
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
            (job.failed, job.spill, job.used) = (failed, spill, used.to_vec());
        }
    }

    /// Whether a task may not go to a node: it had its chance, or the node has another task of the job.
    pub(in crate::placement) fn exclude(&self, task: u32, out: &mut Vec<u32>) {
        out.extend(self.tried.get(&task).into_iter().flatten());
        let job = &self.jobs[self.tasks[task as usize].job as usize];
        out.extend(&job.used);
        out.extend(job.request.exclude.iter().filter_map(|node| self.fleet.find(node)));
    }

    fn note_ended(&mut self, id: Hash, ended: Ended) {
        self.ended.insert(id, ended);
        self.ended_order.push_back(id);
        if self.ended_order.len() > self.remembered {
            self.ended_order.pop_front().map(|oldest| self.ended.remove(&oldest));
        }
    }

    /// Tasks of a job that are not finished, in their order.
    pub(in crate::placement) fn tasks_of(&self, job: u32) -> Vec<u32> {
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
    pub(in crate::placement) fn enqueue(&mut self, task: u32) {
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
    pub(in crate::placement) fn attempt(&self, task: u32, epoch: u32) -> Option<u32> {
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
        if job.spread {
            job.used.push(node);
        }
        let (tenant, need) = (job.tenant, self.shapes[job.shape as usize].need);
        let (mut next, mut device) = (NONE, u8::MAX);
        if let Some(pool) = node.checked_sub(POOLS) {
            if self.pools.len() <= pool as usize {
                self.pools.resize(pool as usize + 1, 0);
            }
            self.pools[pool as usize] += 1;
            job.spill = job.spill.saturating_sub(1);
            if self.spilled.len() <= tenant as usize {
                self.spilled.resize(tenant as usize + 1, 0);
            }
            self.spilled[tenant as usize] += 1;
        } else if (node as usize) < self.fleet.rows.len() {
            device = self.fleet.take(node, &need, now);
            next = std::mem::replace(&mut self.fleet.rows[node as usize].attempts, slot);
            if next != NONE {
                self.attempts[next as usize].previous = slot;
            }
        }
        let (previous, started, accepted, adopted, bound) = (NONE, now, false, false, false);
        let straggles = false;
        let attempt = Attempt {
            task,
            node,
            epoch,
            started,
            next,
            previous,
            device,
            accepted,
            adopted,
            bound,
            straggles,
        };
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
            self.pools[pool as usize] -= u32::from(!attempt.bound);
            self.spilled[tenant as usize] -= u32::from(!attempt.bound);
        } else if (attempt.node as usize) < self.fleet.rows.len() {
            match attempt.previous {
                NONE => self.fleet.rows[attempt.node as usize].attempts = attempt.next,
                previous => self.attempts[previous as usize].next = attempt.next,
            }
            if attempt.next != NONE {
                self.attempts[attempt.next as usize].previous = attempt.previous;
            }
            if !attempt.bound {
                self.fleet.release(attempt.node, &need, attempt.device);
            }
        }
        if !attempt.bound {
            self.running -= 1;
            let total = self.fleet.total();
            self.queue.charge(tenant, units(&need), false, &total);
        }
        self.free_attempts.push(slot);
        attempt
    }

    /// An attempt's node has a result: others of its task are over, and what it took is free again.
    fn bound(&mut self, task: u32, epoch: u32) {
        let Some(slot) = self.attempt(task, epoch).filter(|slot| !self.attempts[*slot as usize].bound) else {
            return;
        };
        for other in self.tasks[task as usize].attempts {
            if other != NONE && other != slot {
                self.remove(other);
            }
        }
        let attempt = &mut self.attempts[slot as usize];
        attempt.bound = true;
        let (node, device) = (attempt.node, attempt.device);
        let job = &self.jobs[self.tasks[task as usize].job as usize];
        let (tenant, need) = (job.tenant, self.shapes[job.shape as usize].need);
        self.running -= 1;
        if let Some(pool) = node.checked_sub(POOLS) {
            self.pools[pool as usize] -= 1;
            self.spilled[tenant as usize] -= 1;
        }
        if (node as usize) < self.fleet.rows.len() {
            self.fleet.release(node, &need, device);
        }
        let total = self.fleet.total();
        self.queue.charge(tenant, units(&need), false, &total);
    }

    /// Attempts of a node.
    pub(in crate::placement) fn attempts_of(&self, node: u32) -> Vec<u32> {
        let mut found = Vec::new();
        let mut slot = self.fleet.rows[node as usize].attempts;
        while slot != NONE {
            found.push(slot);
            slot = self.attempts[slot as usize].next;
        }
        found
    }

    fn dropped(&mut self, task: u32, epoch: u32, loss: Loss) {
        let Some(slot) = self.attempt(task, epoch) else { return };
        let attempt = self.remove(slot);
        let row = &mut self.tasks[task as usize];
        if loss != Loss::Gone {
            self.tried.entry(task).or_default().push(attempt.node);
        } else {
            // It may be asked again.
            let job = &mut self.jobs[row.job as usize];
            job.used.retain(|node| *node != attempt.node);
            job.spill = job.spill.saturating_add(u32::from(attempt.node >= POOLS));
        }
        row.tries = row.tries.saturating_add(u8::from(loss == Loss::Fault));
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
        let shape = row.shape;
        self.shapes[shape as usize].jobs -= 1;
        self.free_jobs.push(job);
        self.job_ids.remove(&id);
        self.note_ended(id, ended);
    }
}
