//! Jobs and tasks of a coordinator: taken, answered, tried again, given up.

use super::*;

impl Placement {
    pub(super) fn submit(&mut self, job: Box<JobRequest>, now: Millis, step: &mut Step) {
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
        if let Err(why) = self.admit(&job, now, true) {
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
    pub(super) fn wait_ms(&self, shape: u32, more: u32) -> Millis {
        let waiting = self.state.queue.pending(shape).saturating_add(more);
        let row = &self.state.shapes[shape as usize];
        if !self.state.queue.is_blocked(shape) || row.rate <= 0.0 {
            return 0;
        }
        (f64::from(waiting) / row.rate * 1_000.0) as Millis
    }

    /// Whether a job would be taken now. Nothing changes but that its kind of tasks is known.
    pub fn admits(&mut self, job: &JobRequest, now: Millis) -> Result<(), Refusal> {
        self.admit(job, now, false)
    }

    pub(super) fn admit(&mut self, job: &JobRequest, now: Millis, takes: bool) -> Result<(), Refusal> {
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
            let admitted = self.state.queue.admit(tenant, count, rate, burst, now, takes);
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
    pub(super) fn run_ms(&mut self, shape: u32) -> (Millis, Millis) {
        let row = &mut self.state.shapes[shape as usize];
        let expected = u64::from(row.expected_ms);
        row.times.p50_p95().unwrap_or((expected, expected.saturating_mul(2)))
    }

    pub(super) fn start(&mut self, job: u32, now: Millis) {
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

    pub(super) fn cancel(&mut self, id: &Hash, now: Millis, step: &mut Step) {
        if let Some(job) = self.state.job_ids.get(id).copied() {
            self.let_go(job);
            for task in self.state.tasks_of(job) {
                self.give_up(task, GiveUp::Cancelled, now, step);
            }
        }
    }

    /// Gives up what waits of a job.
    pub(super) fn withdraw(&mut self, id: &Hash, now: Millis, step: &mut Step) {
        if let Some(job) = self.state.job_ids.get(id).copied() {
            for task in self.state.tasks_of(job) {
                if self.state.tasks[task as usize].phase != Phase::Running {
                    self.give_up(task, GiveUp::Cancelled, now, step);
                }
            }
        }
    }

    pub(super) fn give_up(&mut self, task: u32, why: GiveUp, now: Millis, step: &mut Step) {
        let row = &self.state.tasks[task as usize];
        let (job, index) = (row.job, row.index);
        let id = self.state.jobs[job as usize].id;
        let nodes = self.stop_all(task, None, step);
        self.log(Event::GaveUp { task, why }, now, step);
        step.effects.push(Effect::GaveUp { job: id, index, why });
        self.after(id, nodes, step);
    }

    /// Stops the attempts of a task but for one, and gives the nodes that will have room.
    pub(super) fn stop_all(&self, task: u32, but: Option<u32>, step: &mut Step) -> [u32; 2] {
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
    pub(super) fn after(&mut self, job: Hash, nodes: [u32; 2], step: &mut Step) {
        if let Some(ended) = self.ended(&job) {
            step.effects.push(Effect::Finished { job, ended });
        }
        for node in nodes.into_iter().filter(|node| *node < POOLS) {
            self.wake(node);
        }
    }

    pub(super) fn answer(
        &mut self,
        node: Option<NodeId>,
        id: AttemptId,
        answer: Answer,
        now: Millis,
        step: &mut Step,
    ) {
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
            Answer::Busy { retry_ms } => {
                let wait = retry_ms.clamp(self.settings.backoff_ms, LONGEST_BUSY_MS);
                self.cool(attempt.node, now.saturating_add(wait));
                self.retry(id, Loss::Gone, now, step);
            }
            Answer::Refused => self.retry(id, Loss::Refused, now, step),
            Answer::Failed => self.retry(id, Loss::Fault, now, step),
            Answer::Bound if attempt.bound => {}
            Answer::Bound => {
                self.took(&attempt, now);
                self.stop_all(id.task, Some(slot), step);
                let others = self.state.tasks[id.task as usize].attempts;
                let nodes =
                    others.map(|slot| self.state.attempts.get(slot as usize).map(|attempt| attempt.node));
                self.log(Event::Bound { task: id.task, epoch: id.epoch }, now, step);
                for node in nodes.into_iter().flatten().filter(|node| *node < POOLS) {
                    self.wake(node);
                }
            }
            Answer::Done { success } => {
                let job_id = self.state.jobs[self.state.tasks[id.task as usize].job as usize].id;
                if !attempt.bound {
                    self.took(&attempt, now);
                }
                let nodes = self.stop_all(id.task, Some(slot), step);
                self.committed(id, success, step);
                self.log(Event::Done { task: id.task, epoch: id.epoch, success }, now, step);
                self.after(job_id, nodes, step);
            }
        }
    }

    /// Notes how long an attempt took.
    pub(super) fn took(&mut self, attempt: &state::Attempt, now: Millis) {
        let job = &self.state.jobs[self.state.tasks[attempt.task as usize].job as usize];
        let shape = &mut self.state.shapes[job.shape as usize];
        let took = now.saturating_sub(attempt.started);
        shape.times.note(took);
        if let Some((p50, _)) = shape.times.p50_p95() {
            self.state.fleet.timed(attempt.node, took.saturating_mul(100) / p50.max(1));
        }
        let shape = &mut self.state.shapes[job.shape as usize];
        if shape.counted_since == 0 {
            // The first one says when counting began, and nothing about how fast it goes.
            shape.counted_since = now.max(1);
            return;
        }
        shape.counted += 1;
        let passed = now.saturating_sub(shape.counted_since);
        if passed >= 1_000 {
            let rate = f64::from(shape.counted) * 1_000.0 / passed as f64;
            shape.rate = if shape.rate == 0.0 { rate } else { f64::midpoint(shape.rate, rate) };
            (shape.counted, shape.counted_since) = (0, now);
        }
    }

    /// Says whose result a task's is.
    pub(super) fn committed(&self, attempt: AttemptId, success: bool, step: &mut Step) {
        let Some(slot) = self.state.attempt(attempt.task, attempt.epoch) else { return };
        let task = &self.state.tasks[attempt.task as usize];
        let node = self.state.fleet.id(self.state.attempts[slot as usize].node);
        let (job, index) = (self.state.jobs[task.job as usize].id, task.index);
        step.effects.push(Effect::Committed { node, attempt, job, index, success });
    }

    /// Ends an attempt that has no result and lets its task be tried again, elsewhere where it was the node's fault.
    pub(super) fn retry(&mut self, id: AttemptId, loss: Loss, now: Millis, step: &mut Step) {
        let fault = loss == Loss::Fault;
        let Some(slot) = self.state.attempt(id.task, id.epoch) else { return };
        let node = self.state.attempts[slot as usize].node;
        self.log(Event::Dropped { task: id.task, epoch: id.epoch, loss }, now, step);
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
                // A node that would get it again at once, and a pool, are given some time.
                let again =
                    node >= POOLS || self.state.fleet.rows.get(node as usize).is_some_and(|row| row.open);
                if wait == 0 && (loss == Loss::Refused || !again) {
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
}
