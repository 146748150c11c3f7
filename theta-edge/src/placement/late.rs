//! What follows from time that has passed: silence, lateness, deadlines.

use super::*;

impl Placement {
    pub(super) fn time(&mut self, slot: u32, at: Millis) {
        let attempt = &self.state.attempts[slot as usize];
        self.wheel.set(at, Timer::Attempt { slot, task: attempt.task, epoch: attempt.epoch });
    }

    pub(super) fn fire(&mut self, timer: Timer, now: Millis, step: &mut Step) {
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
            Timer::Spill => {
                self.spilling = false;
                self.retry_spill();
            }
            Timer::Cooled(node) => {
                self.state.members[node as usize].cools = false;
                self.state.let_in(node);
                self.wake(node);
            }
            Timer::Served(node) => {
                if self.state.members[node as usize].suspended_until <= now {
                    self.change(node, Change::Served, now, step);
                }
            }
        }
    }

    /// An attempt has taken long: it was never answered, is a straggler, or is given up.
    pub(super) fn late(&mut self, slot: u32, now: Millis, step: &mut Step) {
        let attempt = self.state.attempts[slot as usize];
        let id = AttemptId { task: attempt.task, epoch: attempt.epoch };
        let passed = now.saturating_sub(attempt.started);
        if attempt.bound {
            return;
        }
        let job = self.state.tasks[attempt.task as usize].job;
        let limit = self.state.jobs[job as usize].limit_ms;
        if !attempt.accepted || passed >= limit {
            let node = self.state.fleet.id(attempt.node);
            step.effects.push(Effect::Stop { node, attempt: id });
            self.retry(id, if attempt.adopted { Loss::Gone } else { Loss::Fault }, now, step);
            return;
        }
        let (p50, p95) = self.run_ms(self.state.jobs[job as usize].shape);
        // A node that has shown to be slow is not waited for so long.
        let slow_node = self.state.fleet.rows.get(attempt.node as usize).is_some_and(|row| row.is_slow(now));
        // Where nothing waits, what is late is all that is waited for, and there is room to do it twice.
        let patience = if self.queued() == 0 { p95 } else { p95.saturating_add(p95 / 2) };
        let slow = if slow_node { p50 } else { patience }.max(1);
        let end = attempt.started.saturating_add(limit);
        if passed < slow {
            // From the p95 on the queue may have become empty.
            let again = if passed < p95 { p95 } else { passed.saturating_add((p95 / 8).max(100)) };
            self.time(slot, attempt.started.saturating_add(slow.min(again)).min(end));
            return;
        }
        if !attempt.straggles {
            // What it has taken so far says something of its node already.
            self.state.attempts[slot as usize].straggles = true;
            self.state.fleet.timed(attempt.node, passed.saturating_mul(100) / p50.max(1));
        }
        // It is looked at again: there may be room, or a budget, later.
        self.time(slot, now.saturating_add((slow / 4).max(100)).min(end));
        let alone = self.state.tasks[attempt.task as usize].attempts.contains(&NONE);
        // Of what runs, or could: at the end of a job nearly all of the fleet has nothing to do.
        let running = u64::from(self.state.running);
        let most = (running * 100 / self.busy_percent().max(1)).max(self.state.fleet.len() as u64);
        let budget = u64::from(self.state.clones) * 100 < most * u64::from(self.settings.clone_percent);
        if alone && budget && attempt.node < POOLS && self.busy_percent() < BUSY_PERCENT {
            self.place(attempt.task, Some((attempt.node, p50)), now, step);
        }
    }

    /// How much of the fleet's scarcest resource is in use, in percent.
    pub(super) fn busy_percent(&self) -> u64 {
        let total = self.state.fleet.total();
        let free = self.state.fleet.free();
        let of =
            |(total, free): (u64, u64)| total.saturating_sub(free).saturating_mul(100).checked_div(total);
        total.into_iter().zip(free).filter_map(of).max().unwrap_or(0)
    }
}
