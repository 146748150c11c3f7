//! Nodes of a coordinator: they come, are heard of, change their standing, and are filled.

use super::*;

impl Placement {
    pub(super) fn join(&mut self, id: NodeId, offer: Offer, status: Status, now: Millis, step: &mut Step) {
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

    /// A node that sends no heartbeats is there.
    pub(super) fn known(&mut self, id: NodeId, now: Millis, step: &mut Step) {
        let Some(node) = self.state.fleet.find(&id) else {
            let offer = Box::new(Offer {
                cpu_milli: u32::MAX,
                mem_mib: u32::MAX,
                credits: u16::MAX,
                ..Offer::default()
            });
            self.log(Event::Joined { node: id, offer, status: Status::Active, at: Millis::MAX }, now, step);
            if let Some(node) = self.state.fleet.find(&id) {
                self.wake(node);
            }
            return;
        };
        self.change(node, Change::Back, now, step);
        self.state.members[node as usize].last_seen = Millis::MAX;
        self.wake(node);
    }

    /// Leaves a node that is busy alone for a while.
    pub(super) fn cool(&mut self, node: u32, until: Millis) {
        if let Some(member) = self.state.members.get_mut(node as usize) {
            member.cools = true;
            self.state.let_in(node);
            self.wheel.set(until, Timer::Cooled(node));
        }
    }

    pub(super) fn watch(&mut self, node: u32) {
        let member = &self.state.members[node as usize];
        if member.last_seen != Millis::MAX {
            self.wheel.set(member.lost_at(), Timer::Node(node));
        }
    }

    pub(super) fn heartbeat(&mut self, node: &NodeId, beat: &Heartbeat, now: Millis, step: &mut Step) {
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

    pub(super) fn change(&mut self, node: u32, change: Change, now: Millis, step: &mut Step) {
        if self.state.members.get_mut(node as usize).is_none_or(|member| !member.change(now, change)) {
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
                step.effects.push(Effect::Stop { node: self.state.fleet.id(node), attempt: id });
                self.retry(id, if leaves { Loss::Gone } else { Loss::Fault }, now, step);
            }
        }
    }

    pub(super) fn stands(&mut self, node: u32, now: Millis, step: &mut Step) {
        let status = self.state.members[node as usize].status;
        self.log(Event::Stands { node, status }, now, step);
    }

    pub(super) fn announce(&mut self, id: &NodeId, running: &[AttemptId], now: Millis, step: &mut Step) {
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
                step.effects.push(Effect::Stop { node: Some(*id), attempt: attempt_id });
                self.retry(attempt_id, Loss::Gone, now, step);
            }
        }
        for attempt in running.iter().filter(|attempt| !known.contains(attempt)) {
            step.effects.push(Effect::Stop { node: Some(*id), attempt: *attempt });
        }
        self.wake(node);
    }

    /// A node has room: it gets tasks of shapes that wait for such a node. Nothing else is looked at, so what an end costs
    /// does not hang on how much waits.
    pub(super) fn wake(&mut self, node: u32) {
        self.room = true;
        if !self.roomy.contains(&node) {
            self.roomy.push(node);
        }
        for _ in 0..CHOOSY.1.min(self.choosy.len()) {
            let Some((seq, task)) = self.choosy.pop_first() else { break };
            if self.state.tasks[task as usize].seq == seq {
                self.state.enqueue(task);
            }
        }
    }

    /// A task waits for another node than those that it may not go to.
    pub(super) fn wait_choosy(&mut self, task: u32, seq: u64, now: Millis) {
        self.choosy.insert((seq, task));
        let since = self.passed_over.entry(task).or_insert((seq, now));
        if since.0 != seq {
            *since = (seq, now);
        }
        self.wheel.set(now.saturating_add(CHOOSY.0), Timer::Ready { task, seq });
    }

    /// Fills a node with tasks that wait for room.
    pub(super) fn fill(&mut self, node: u32, now: Millis, step: &mut Step) {
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
            let (seq, shape) = (row.seq, self.state.jobs[row.job as usize].shape);
            self.excluded.clear();
            self.state.exclude(task, &mut self.excluded);
            let slow = self.state.fleet.rows[node as usize].is_slow(now) && self.is_choosy(task, now);
            if slow || self.excluded.contains(&node) {
                // Not here, but on the next one that has room.
                self.wait_choosy(task, seq, now);
                continue;
            }
            if let Some((pool, why)) = self.spill(task, false, now) {
                self.give(task, POOLS + pool, Some(why), now, step);
                continue;
            }
            // A task with an input may have a better place than this one, and one beside others may need another operator.
            let row = &self.state.tasks[task as usize];
            if row.input == NONE && !self.state.jobs[row.job as usize].spread {
                self.give(task, node, None, now, step);
            } else {
                self.state.queue.unblock(shape);
                self.place(task, None, now, step);
            }
        }
    }

    /// A few shapes of which tasks wait for room and would suit a node.
    pub(super) fn waiting_for(&mut self, node: u32, found: &mut [u32; queue::SHAPES]) -> usize {
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
}
