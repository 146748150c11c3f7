//! The scheduler as its records left it.

use std::collections::BTreeSet;

use theta_core::hash::Hash;

use super::job::Stage;
use super::place::request_id;
use super::{Effect, Job, Record, Scheduler, Settings};
use crate::Millis;
use crate::placement::{self, Answer, Placement};

impl Scheduler {
    /// The scheduler that these records left, oldest first, and what it wants done now: what was out is offered to the
    /// same nodes again, decided jobs are paid.
    pub fn recover(settings: Settings, records: Vec<Record>, now: Millis, out: &mut Vec<Effect>) -> Self {
        let mut log = Vec::new();
        let placement = Placement::new(settings.placement.clone(), now);
        let mut scheduler = Self::with(settings, placement);
        for record in records {
            match record {
                Record::Submitted(spec) => {
                    scheduler.insert(spec);
                }
                Record::Placed { started, events } => {
                    for (job, epoch) in started {
                        if let Some(job) = scheduler.jobs.get_mut(&job) {
                            job.epoch = epoch;
                        }
                    }
                    log.extend(events);
                }
                Record::Decided(report) => {
                    if let Some(job) = scheduler.jobs.get_mut(&report.job) {
                        job.stage =
                            Stage::Paying { waiting: report.payees().collect(), report, recorded: true };
                    }
                }
                Record::Closed(report) => {
                    // The purse may not have heard of it before the crash.
                    out.push(Effect::Release { job: report.job });
                    scheduler.remember(report);
                }
            }
        }
        let (placement, mut step) = Placement::recover(scheduler.settings.placement.clone(), &log, now);
        scheduler.placement = placement;
        scheduler.events.append(&mut step.events);
        scheduler.place_at = step.wake_at;
        scheduler.last_down = now;
        let ids: Vec<Hash> = scheduler.queue.values().copied().collect();
        let mut pools = Vec::new();
        for id in &ids {
            let Some(job) = scheduler.jobs.get_mut(id) else { continue };
            if job.epoch > 0 && matches!(job.stage, Stage::Promising) {
                job.resume_running(now);
                // The purse's journal may be behind this one: what was set aside is set aside again, which changes nothing
                // where it stands.
                let (fund, amount) = (job.fund(), job.spec().total_cap);
                out.push(Effect::Promise { job: *id, fund, amount });
                scheduler.started.push((*id, job.epoch));
                for round in 0..=job.most_rounds() {
                    let request = request_id(id, round);
                    let Some(open) = scheduler.placement.open_tasks(&request) else { continue };
                    scheduler.requests.insert(request, *id);
                    job.rounds = round + 1;
                    job.asked += open as usize;
                    for (_, attempt, node, bound) in scheduler.placement.attempts(&request) {
                        match node {
                            Some(node) => {
                                job.readopt(node, attempt, bound, now, &scheduler.settings);
                                scheduler.places.insert(attempt, (*id, node));
                            }
                            // Which of its machines had it is not known.
                            None => pools.push(attempt),
                        }
                    }
                }
            } else {
                job.resume(out);
            }
        }
        // Jobs that ended just before.
        let known: BTreeSet<Hash> = scheduler.requests.keys().copied().collect();
        let over: Vec<Hash> =
            scheduler.placement.jobs().filter(|request| !known.contains(*request)).copied().collect();
        for (pool, _) in scheduler.settings.placement.pools.clone().iter().enumerate() {
            // Its machines have to say that they are there.
            scheduler.place(now, placement::Input::Pool { pool, slots: 0 }, out);
        }
        for job in over {
            scheduler.place(now, placement::Input::Cancel { job }, out);
        }
        for attempt in pools {
            let answer = Answer::Busy { retry_ms: 0 };
            scheduler.place(now, placement::Input::Answer { node: None, attempt, answer }, out);
        }
        for id in &ids {
            let again = scheduler.jobs.get(id).map(Job::offer_again).unwrap_or_default();
            if !again.is_empty() {
                scheduler.flush(out);
            }
            out.extend(again.into_iter().map(|(to, message)| Effect::Send { to, message }));
        }
        step.wake_at = scheduler.place_at;
        scheduler.placed(now, step, out);
        ids.iter().for_each(|id| scheduler.touch(id));
        scheduler.advance_all(now, out);
        scheduler.wake(out);
        scheduler
    }

    /// Records that leave the same scheduler: what is open, and the finished jobs that are remembered.
    pub(crate) fn records(&mut self) -> Vec<Record> {
        // They say what was not on record yet as well.
        self.started.clear();
        self.events.clear();
        let reports = self.order.iter().filter_map(|job| self.finished.get(job));
        let closed = reports.map(|report| Record::Closed(report.clone()));
        let open = || self.queue.values().filter_map(|job| self.jobs.get(job));
        let started = open().filter(|job| job.epoch > 0).map(|job| (job.id, job.epoch)).collect();
        let placed = Record::Placed { started, events: self.placement.snapshot() };
        let submitted = open().map(|job| Record::Submitted(job.spec().clone()));
        let decided = open().filter_map(Job::decision);
        closed.chain(submitted).chain([placed]).chain(decided).collect()
    }

    /// About how many those are.
    pub(crate) fn size(&self) -> usize {
        self.finished.len() + 2 * self.jobs.len() + 1
    }
}
