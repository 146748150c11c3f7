//! Which task comes next, and who gets it.

use super::*;

/// A queue that is over within so many times the p95 of its tasks is short: a slow node would be done no sooner.
const SHORT: f64 = 4.0;
/// Times its p95 that a task passes over slow nodes.
const PASSES_OVER: u64 = 3;

impl Placement {
    pub(super) fn drain(&mut self, now: Millis, step: &mut Step) {
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

    pub(super) fn question(&mut self, shape: u32, deadline: Millis, now: Millis) -> Question {
        let wait_ms = self.wait_ms(shape, 0);
        let run_ms = self.run_ms(shape).1;
        let row = &self.state.shapes[shape as usize];
        let tiers = self.state.fleet.classes.list(row.selector).iter();
        let edge_tier = tiers.map(|class| self.state.fleet.classes.traits(*class).tier).max();
        Question {
            now,
            deadline,
            wait_ms,
            full: false,
            run_ms,
            bid: row.bid,
            overhead: self.settings.overhead,
            tier: row.tier,
            edge_tier,
            margin_ms: self.settings.margin_ms,
        }
    }

    /// A pool has room: what waits is looked at again.
    pub(super) fn retry_spill(&mut self) {
        for shape in 0..self.state.shapes.len() as u32 {
            if self.state.queue.waits_for_room(shape) {
                self.state.queue.unblock(shape);
            }
        }
    }

    /// Whether what waits of a shape is done sooner than a slow node would be with one of it.
    pub(super) fn is_short(&mut self, shape: u32) -> bool {
        let row = &mut self.state.shapes[shape as usize];
        let Some((_, p95)) = row.times.p50_p95() else { return false };
        let pending = f64::from(self.state.queue.pending(shape));
        row.rate > 0.0 && pending / row.rate * 1_000.0 < SHORT * p95 as f64
    }

    /// Whether a task passes over slow nodes: what waits is done sooner elsewhere, and this one has not waited for that longer
    /// than it pays. What is over sooner than it would be tried again takes what there is.
    pub(super) fn is_choosy(&mut self, task: u32, now: Millis) -> bool {
        let row = &self.state.tasks[task as usize];
        let (seq, shape) = (row.seq, self.state.jobs[row.job as usize].shape);
        let (_, p95) = self.run_ms(shape);
        let waits = self.passed_over.get(&task).filter(|(of, _)| *of == seq);
        let waited = waits.map_or(0, |(_, since)| now.saturating_sub(*since));
        p95 >= CHOOSY.0 && waited < p95.saturating_mul(PASSES_OVER) && self.is_short(shape)
    }

    /// Whether a task should go to a pool, and to which; `full` where no node has room for it now.
    pub(super) fn spill(&mut self, task: u32, full: bool, now: Millis) -> Option<(u32, Spill)> {
        let job = &self.state.jobs[self.state.tasks[task as usize].job as usize];
        if self.settings.pools.is_empty() || job.spill == 0 {
            return None;
        }
        if self.state.spilled.get(job.tenant as usize).is_some_and(|out| *out >= self.settings.tenant_spill) {
            return None;
        }
        let (shape, deadline) = (job.shape, job.deadline);
        let ask = Question { full, ..self.question(shape, deadline, now) };
        let pools = self.settings.pools.iter().enumerate();
        let free = pools.filter(|(index, pool)| {
            let slots = self.machines.get(*index).copied().flatten().unwrap_or(pool.slots).min(pool.slots);
            self.state.pools.get(*index).copied().unwrap_or(0) < slots
        });
        let fits = free.filter_map(|(index, pool)| Some((pool.price, index, pool.wants(&ask)?)));
        fits.min_by_key(|(price, index, _)| (*price, *index)).map(|(_, index, why)| (index as u32, why))
    }

    /// Gives a task to a node or a pool, or puts it back where it came from. `beside` is the node that has it already and
    /// how long it should have taken, for a second attempt.
    pub(super) fn place(&mut self, task: u32, beside: Option<(u32, Millis)>, now: Millis, step: &mut Step) {
        if beside.is_none()
            && let Some((pool, why)) = self.spill(task, false, now)
        {
            self.give(task, POOLS + pool, Some(why), now, step);
            return;
        }
        let quick = self.is_choosy(task, now).then_some(now);
        let state = &mut self.state;
        let row = &state.tasks[task as usize];
        let job = &state.jobs[row.job as usize];
        let (job_shape, input, seq) = (job.shape, row.input, row.seq);
        let mut exclude = std::mem::take(&mut self.excluded);
        exclude.clear();
        state.exclude(task, &mut exclude);
        let count = exclude.len();
        let mut speed = 0;
        if let Some((node, _)) = beside {
            exclude.push(node);
            speed = state.fleet.rows[node as usize].speed();
        }
        let spread = job.spread;
        // Operator 0 is nobody's. Of other tasks only those of a job whose tasks are the same one are beside it.
        let beside_it = if spread { &exclude[..] } else { &exclude[count..] };
        let rows = beside_it.iter().filter_map(|node| state.fleet.rows.get(*node as usize));
        let operators: Vec<u32> = rows.map(|row| row.operator).filter(|operator| *operator != 0).collect();
        if spread {
            // Nobody can choose to be asked: where is looked hangs on the job's name (edge.md 4.2).
            state.fleet.reseed(&job.id);
        }
        let shape = &state.shapes[job_shape as usize];
        let wish = Wish {
            need: shape.need,
            selector: shape.selector,
            bid: shape.bid,
            reputation: shape.reputation,
            holders: state.holders.get(input as usize).map_or(&[], Vec::as_slice),
            exclude: &exclude,
            exclude_operators: &operators,
            speed,
            quick,
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
        self.excluded = exclude;
        match pick {
            Some(pick) => self.give(task, pick.node, None, now, step),
            None if beside.is_some() => {}
            None if count > 0 || quick.is_some() => {
                // It may be only this task that nobody is left for.
                self.wait_choosy(task, seq, now);
            }
            None => {
                // Until a node was looked for nobody knew that none has room, and how long the others wait.
                self.state.queue.block(job_shape);
                if let Some((pool, why)) = self.spill(task, true, now) {
                    // The next one may be late, too.
                    self.state.queue.unblock(job_shape);
                    self.give(task, POOLS + pool, Some(why), now, step);
                    return;
                }
                let spills = self.state.jobs[self.state.tasks[task as usize].job as usize].spill > 0;
                if spills && !self.settings.pools.is_empty() && !std::mem::replace(&mut self.spilling, true) {
                    self.wheel.set(now.saturating_add(SPILL_MS), Timer::Spill);
                }
                self.state.enqueue(task);
            }
        }
    }

    pub(super) fn give(&mut self, task: u32, node: u32, why: Option<Spill>, now: Millis, step: &mut Step) {
        self.passed_over.remove(&task);
        let row = &self.state.tasks[task as usize];
        let (job, index, epoch) = (row.job, row.index, row.epoch + 1);
        self.log(Event::Placed { task, node, epoch }, now, step);
        let Some(slot) = self.state.attempt(task, epoch) else { return };
        let mut answer_ms = self.settings.offer_ms;
        let (attempt, job) = (AttemptId { task, epoch }, self.state.jobs[job as usize].id);
        match (why, self.state.fleet.id(node)) {
            (None, Some(id)) => {
                let gpu = self.state.attempts[slot as usize].device;
                let gpu = (gpu != u8::MAX).then_some(gpu);
                step.effects.push(Effect::Offer { node: id, attempt, job, index, gpu });
            }
            (why, _) => {
                let (pool, why) = ((node - POOLS) as usize, why.unwrap_or(Spill::Tier));
                answer_ms += self.settings.pools.get(pool).map_or(0, |pool| pool.startup_ms);
                step.effects.push(Effect::Spill { pool, attempt, job, index, why });
            }
        }
        self.time(slot, now.saturating_add(answer_ms));
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
                self.log(Event::Dropped { task: id.task, epoch: id.epoch, loss: Loss::Gone }, now, step);
                self.state.enqueue(id.task);
            }
        }
        self.drain(now, step);
        self.finish(step);
    }
}
