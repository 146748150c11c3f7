//! Jobs whose tasks start together or not at all (edge.md 3.6).

use super::*;

impl Placement {
    /// Tries the gang with the earliest deadline: all of its tasks at once. What it finds is held for a while.
    pub(super) fn gang(&mut self, now: Millis, step: &mut Step) {
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
                    quick: None,
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

    pub(super) fn let_go_of_hold(&mut self) {
        if let Some(hold) = self.hold.take() {
            let need = self.state.shapes[self.state.jobs[hold.job as usize].shape as usize].need;
            for (_, node, device) in hold.picks {
                self.state.fleet.release(node, &need, device);
                self.wake(node);
            }
        }
    }

    /// A gang that held nodes in vain lets others have them for as long, and comes after gangs that did so less often.
    pub(super) fn gang_late(&mut self, now: Millis) {
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
    pub(super) fn let_go(&mut self, job: u32) {
        let id = self.state.jobs[job as usize].id;
        if self.hold.as_ref().is_some_and(|hold| hold.job == job) {
            self.let_go_of_hold();
        }
        self.gangs.retain(|(_, _, gang)| *gang != id);
    }
}
