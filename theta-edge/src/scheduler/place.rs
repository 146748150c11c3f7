//! Between jobs and placement: what a job asks for, and what comes of it.

use theta_core::hash::{Hash, U256};

use super::{Effect, Record, Report, Scheduler, Settings};
use crate::Millis;
use crate::identity::NodeId;
use crate::job::JobSpec;
use crate::message::Message;
use crate::placement::{
    self, Answer, AttemptId, Change, Evidence, Heartbeat, JobRequest, Need, Offer, Selector, Spill, Status,
};

/// Milliseconds for which a pool is left alone when none of its machines can take a task.
const NO_MACHINE_MS: u64 = 1_000;
/// Millionths of a TFUEL in wei.
const MILLIONTH: u64 = 1_000_000_000_000;

/// A machine of a provider pool.
#[derive(Clone, Copy, Debug)]
pub(super) struct Machine {
    /// Attempts at a time.
    slots: u32,
    /// Attempts that it has.
    live: u32,
}

/// The most that an hour of a core may cost, in millionths of a TFUEL: what an attempt may cost over its wall time, in
/// steps of an eighth, so that there are few kinds of tasks.
fn bid(spec: &JobSpec) -> u32 {
    let hour = spec.attempt_cap().get() / U256::from(MILLIONTH) * U256::from(3_600);
    let bid: u64 = (hour / U256::from(spec.limits.wall_seconds.max(1))).saturating_to();
    let step = 1 << bid.max(8).ilog2().saturating_sub(3);
    u32::try_from(bid.div_ceil(step).saturating_mul(step)).unwrap_or(u32::MAX).max(1)
}

/// What a job asks placement for: its one task so many times, at different nodes.
pub(super) fn request(
    spec: &JobSpec,
    job: &Hash,
    round: u32,
    count: usize,
    settings: &Settings,
    mut exclude: Vec<NodeId>,
) -> JobRequest {
    // Never the payer itself.
    exclude.push(NodeId(spec.pool.payer));
    let wall_ms = spec.limits.wall_seconds.saturating_mul(1_000);
    let limit_ms = wall_ms.saturating_add(settings.grace_ms);
    JobRequest {
        id: request_id(job, round),
        tenant: spec.placing.tenant.unwrap_or(spec.pool.payer),
        selector: Selector { executor: spec.work.executor(), ..Selector::default() },
        need: Need { cpu_milli: 1_000, mem_mib: spec.limits.memory_mib, vram_mib: 0 },
        bid: bid(spec),
        // Results are compared, or their requester wants to believe a single one.
        replicated: true,
        tasks: vec![None; count],
        deadline: spec.placing.deadline,
        priority: spec.placing.priority,
        // Until there are enough to say more.
        expected_ms: u32::try_from(wall_ms / 8).unwrap_or(u32::MAX).max(1),
        spill: spec.placing.spill,
        limit_ms: u32::try_from(limit_ms).unwrap_or(u32::MAX),
        spread: true,
        exclude,
        ..JobRequest::default()
    }
}

/// Names what a job asks for in a round.
pub(super) fn request_id(job: &Hash, round: u32) -> Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"theta-edge/request/v1");
    hasher.update(job.as_slice());
    hasher.update(&round.to_le_bytes());
    Hash::from(*hasher.finalize().as_bytes())
}

impl Scheduler {
    /// Asks placement something and carries out what follows.
    pub(super) fn place(&mut self, now: Millis, input: placement::Input, out: &mut Vec<Effect>) {
        let mut step = placement::Step::default();
        self.placement.step(now, input, &mut step);
        self.placed(now, step, out);
    }

    pub(super) fn placed(&mut self, now: Millis, step: placement::Step, out: &mut Vec<Effect>) {
        self.events.extend(step.events);
        self.place_at = step.wake_at;
        let mut none = Vec::new();
        for effect in step.effects {
            match effect {
                placement::Effect::Offer { node, attempt, job, .. } => {
                    self.offer(node, attempt, job, None, out);
                }
                placement::Effect::Spill { pool, attempt, job, why, .. } => match self.machine(pool, &job) {
                    Some(node) => self.offer(node, attempt, job, Some((pool, why)), out),
                    None => none.push(attempt),
                },
                placement::Effect::Stop { attempt, .. } => self.stop(attempt, now, out),
                placement::Effect::GaveUp { job, why, .. } => {
                    if let Some(id) = self.requests.get(&job).copied() {
                        self.with_job(&id, |job| job.gave_up(why));
                    }
                }
                placement::Effect::Refused { job, why } => {
                    if let Some(id) = self.requests.remove(&job) {
                        self.with_job(&id, |job| job.refused(why));
                    }
                }
                // What is committed is decided here.
                placement::Effect::Accepted { .. }
                | placement::Effect::Committed { .. }
                | placement::Effect::Finished { .. } => {}
            }
        }
        for attempt in none {
            let answer = Answer::Busy { retry_ms: NO_MACHINE_MS };
            self.place(now, placement::Input::Answer { node: None, attempt, answer }, out);
        }
    }

    /// Puts on record what an offer follows from.
    pub(super) fn flush(&mut self, out: &mut Vec<Effect>) {
        if !self.started.is_empty() || !self.events.is_empty() {
            let (started, events) = (std::mem::take(&mut self.started), std::mem::take(&mut self.events));
            out.push(Effect::Append(Record::Placed { started, events }));
        }
    }

    fn offer(
        &mut self,
        node: NodeId,
        attempt: AttemptId,
        request: Hash,
        pool: Option<(usize, Spill)>,
        out: &mut Vec<Effect>,
    ) {
        self.flush(out);
        if self.places.contains_key(&attempt) {
            // Made while the log was read, and taken up again with the others.
            return;
        }
        let Some(id) = self.requests.get(&request).copied() else { return };
        if let Some(message) = self.with_job(&id, |job| job.offer(node, attempt, pool)) {
            self.places.insert(attempt, (id, node));
            out.push(Effect::Send { to: node, message });
        }
    }

    /// What a node says of an attempt, which is over unless it goes on.
    pub(super) fn answer(&mut self, attempt: AttemptId, answer: Answer, now: Millis, out: &mut Vec<Effect>) {
        let Some((id, node)) = self.places.get(&attempt).copied() else { return };
        if !matches!(answer, Answer::Accepted | Answer::Bound) {
            // One that is busy may be asked again.
            self.let_go(attempt, matches!(answer, Answer::Busy { .. }), now);
        }
        if answer == Answer::Bound {
            self.freed(&node);
        }
        let node = (!self.settings.machines.contains_key(&node)).then_some(node);
        self.place(now, placement::Input::Answer { node, attempt, answer }, out);
        self.touch(&id);
    }

    /// An attempt is over for its job.
    fn let_go(&mut self, attempt: AttemptId, again: bool, now: Millis) -> Option<(Hash, NodeId)> {
        let (id, node) = self.places.remove(&attempt)?;
        let bound = self.with_job(&id, |job| job.drop_attempt(attempt, again, now)).unwrap_or_default();
        if !bound {
            self.freed(&node);
        }
        Some((id, node))
    }

    fn freed(&mut self, node: &NodeId) {
        if let Some(machine) = self.machines.get_mut(node) {
            machine.live = machine.live.saturating_sub(1);
        }
    }

    fn stop(&mut self, attempt: AttemptId, now: Millis, out: &mut Vec<Effect>) {
        let Some((id, to)) = self.let_go(attempt, false, now) else { return };
        if let Some(job) = self.jobs.get(&id) {
            out.push(Effect::Send { to, message: Message::Cancel { task: job.task_id, epoch: job.epoch } });
        }
    }

    /// What a decided or given up job leaves: whose results were right, and attempts that nobody needs any more.
    pub(super) fn close(&mut self, id: Hash, report: &Report, now: Millis, out: &mut Vec<Effect>) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let claims = job.take_claims();
        let requests = job.requests();
        let right = report.output.as_ref().map(|output| output.digest());
        for (claim, attempt) in claims {
            self.places.remove(&attempt);
            let machine = self.settings.machines.contains_key(&claim.node);
            let is_right = right == Some(claim.output.digest());
            if is_right {
                let node = (!machine).then_some(claim.node);
                let answer = Answer::Done { success: true };
                self.place(now, placement::Input::Answer { node, attempt, answer }, out);
            }
            let evidence = if is_right {
                Evidence::Valid
            } else if report.wrong.contains(&claim.node) {
                Evidence::Wrong
            } else {
                continue;
            };
            if !machine {
                let evidence =
                    placement::Input::Evidence { node: claim.node, kind: 0, evidence, weight: 1_000 };
                self.place(now, evidence, out);
            }
        }
        for request in requests {
            self.place(now, placement::Input::Cancel { job: request }, out);
            self.requests.remove(&request);
        }
    }

    // Nodes

    pub(super) fn node(&mut self, node: NodeId, up: bool, now: Millis, out: &mut Vec<Effect>) {
        if !up {
            self.last_down = now;
        }
        match (self.settings.machines.get(&node).copied(), up) {
            (Some(pool), true) => self.machine_up(pool, node, u32::MAX, now, out),
            (Some(pool), false) => {
                self.machines.remove(&node);
                self.tell_pool(pool, now, out);
                let lost: Vec<AttemptId> = self
                    .places
                    .iter()
                    .filter(|(_, (_, at))| *at == node)
                    .map(|(attempt, _)| *attempt)
                    .collect();
                for attempt in lost {
                    self.answer(attempt, Answer::Failed, now, out);
                }
            }
            (None, true) => self.place(now, placement::Input::Known { node }, out),
            (None, false) => self.place(now, placement::Input::Change { node, change: Change::Silent }, out),
        }
    }

    pub(super) fn offered(&mut self, node: NodeId, offer: &Offer, now: Millis, out: &mut Vec<Effect>) {
        if let Some(pool) = self.settings.machines.get(&node).copied() {
            return self.machine_up(pool, node, offer.credits.into(), now, out);
        }
        let known = self.placement.offer(&node).is_some_and(|known| known == offer);
        let input = match self.placement.member(&node).filter(|_| known) {
            Some(member) => {
                let beat = Heartbeat { seq: member.heartbeats() + 1, ..Heartbeat::default() };
                placement::Input::Heartbeat { node, beat }
            }
            // Its results are compared from the first on, so it is on probation at once.
            None => placement::Input::Join { node, offer: offer.clone(), status: Status::Probation },
        };
        self.place(now, input, out);
    }

    fn machine_up(&mut self, pool: usize, node: NodeId, slots: u32, now: Millis, out: &mut Vec<Effect>) {
        let known = self.machines.get(&node).copied();
        if known.is_some_and(|machine| machine.slots == slots) {
            return;
        }
        self.machines.insert(node, Machine { slots, live: known.map_or(0, |machine| machine.live) });
        self.tell_pool(pool, now, out);
    }

    fn tell_pool(&mut self, pool: usize, now: Millis, out: &mut Vec<Effect>) {
        let of_pool =
            self.machines.iter().filter(|(node, _)| self.settings.machines.get(*node) == Some(&pool));
        let slots = of_pool.fold(0_u32, |sum, (_, machine)| sum.saturating_add(machine.slots));
        self.place(now, placement::Input::Pool { pool, slots }, out);
    }

    /// The machine of a pool that has most to spare and has no other attempt of the job.
    fn machine(&mut self, pool: usize, request: &Hash) -> Option<NodeId> {
        let job = self.jobs.get(self.requests.get(request)?)?;
        let of_pool = self.machines.iter().filter(|(node, machine)| {
            self.settings.machines.get(*node) == Some(&pool)
                && machine.live < machine.slots
                && !job.knows(node)
        });
        let (node, _) = of_pool.min_by_key(|(node, machine)| (machine.live, **node))?;
        let node = *node;
        if let Some(machine) = self.machines.get_mut(&node) {
            machine.live += 1;
        }
        Some(node)
    }

    /// Takes tasks back that a pool has not begun where the edge has become quick.
    pub(super) fn drain_back(&mut self, now: Millis, out: &mut Vec<Effect>) {
        if self.settings.machines.is_empty() {
            return;
        }
        let begun = |attempt: &AttemptId, (id, _): &(Hash, NodeId)| {
            self.jobs.get(id).is_none_or(|job| job.has_begun(*attempt))
        };
        let with_machine = |node: &NodeId| self.settings.machines.contains_key(node);
        let waiting =
            self.places.iter().filter(|(attempt, place)| with_machine(&place.1) && !begun(attempt, place));
        let waiting: Vec<AttemptId> = waiting.map(|(attempt, _)| *attempt).collect();
        if !waiting.is_empty() {
            let mut step = placement::Step::default();
            self.placement.drain_back(now, &waiting, &mut step);
            self.placed(now, step, out);
        }
    }
}
