//! Jobs of the loop: taken, put on record, carried on, merged, ended.

use std::collections::VecDeque;

use anyhow::{Result, bail};
use theta_core::hash::Hash;
use theta_edge::{
    Millis,
    blob::BlobRef,
    job::JobSpec,
    map::{self, MapJob, MapReport},
    payment::split,
    scheduler::{Input, Report, State},
};

use super::{After, AskerEvent, AskerLoop, MAX_JOBS, MAX_WAITING, Refused, Taken, Watchers};
use crate::{
    clock::now_millis,
    edge::{
        Funds,
        book::{Ended, Paid, Spec},
        funds::Open,
        requester::{Order, ended, nothing},
        wire::MAX_BLOB,
    },
};

impl AskerLoop {
    pub(super) fn submit(
        &mut self,
        now: Millis,
        order: Box<Order>,
        taken: Taken,
        (done, frames): Watchers,
    ) -> Result<()> {
        let refused = match &self.policy {
            _ if self.book.open_jobs().count() + self.queue.len() >= MAX_JOBS => Some(Refused::Full),
            Funds::Kept { size, .. } if order.cap() > *size => Some(Refused::Budget(format!(
                "maxTfuel is more than a fund of this gateway holds, which is {size} wei"
            ))),
            _ => None,
        };
        if let Some(refused) = refused {
            let _gone = taken.send(Err(refused));
            return Ok(());
        }
        // The newest fund with room; the chain's own check, where the fund is somebody's choice, so that it may still be
        // asked for too much.
        let given = matches!(self.policy, Funds::Given(_));
        let has_room = |sequence: &u64| {
            given
                || Open::available(self.requester.purse(*sequence), self.book.claimed(*sequence))
                    >= order.cap()
        };
        let fund = self.funds.usable(self.height).find(has_room);
        let Some(pool) = fund.and_then(|sequence| self.requester.pool(sequence)) else {
            if self.queue.len() < MAX_WAITING {
                self.queue.push_back((order, taken, (done, frames)));
                return self.keep_funds(now);
            }
            let _gone = taken.send(Err(Refused::Full));
            return Ok(());
        };
        // Equal jobs of one millisecond are two jobs all the same.
        self.nonce = now.max(self.nonce.saturating_add(1));
        let name = order.name();
        let spec = match order.spec(&self.chain, self.nonce, pool) {
            Ok(spec) => spec,
            Err(error) => {
                // A job that cannot be taken is its caller's matter alone.
                let _gone = taken.send(Err(error.into()));
                return Ok(());
            }
        };
        let id = spec.id();
        if let Spec::Task(job) = &spec
            && let Err(refusal) = self.requester.admits(now, job)
        {
            let _gone = taken.send(Err(refusal.into()));
            return Ok(());
        }
        self.book.take(now, name, spec.clone())?;
        self.after.push(After::Taken(taken, id));
        if let Some(done) = done {
            self.waiting.insert(id, done);
        }
        self.shown.extend(frames.map(|frames| (id, frames)));
        self.go(now, spec)
    }

    /// Begins a job that is on record, or goes on with it.
    pub(super) fn go(&mut self, now: Millis, spec: Spec) -> Result<()> {
        let id = spec.id();
        match spec {
            Spec::Task(spec) => self.submit_task(now, *spec),
            Spec::Map(spec) => match MapJob::start(*spec) {
                Ok((job, todo)) => {
                    self.maps.insert(id, job);
                    self.carry_out_map(now, id, todo)
                }
                Err(error) => {
                    let error = (error.code().to_owned(), error.to_string());
                    self.book.end(id, nothing(now, State::Failed, Some(error)))
                }
            },
        }
    }

    /// Gives a job to the scheduler. One that is known there already is not run again.
    pub(super) fn submit_task(&mut self, now: Millis, spec: JobSpec) -> Result<()> {
        let id = spec.id();
        if let Some(report) = self.requester.scheduler().report(&id).cloned() {
            self.after.push(After::Finished(Box::new(report)));
            return Ok(());
        }
        if !self.funds.open.contains_key(&spec.pool.reserve_sequence) {
            let error = ("no_fund".to_owned(), "the reserve fund of the job has ended".to_owned());
            return self.book.end(id, nothing(now, State::Failed, Some(error)));
        }
        match self.requester.submit(now, spec) {
            Err(error) if !error.is_fatal() => {
                let error = ("invalid_spec".to_owned(), error.to_string());
                self.book.end(id, nothing(now, State::Failed, Some(error)))
            }
            submitted => self.done(submitted),
        }
    }

    /// The same with a part of a map job. Gives what follows at once: from its report, if it has ended before.
    pub(super) fn submit_part(&mut self, now: Millis, spec: JobSpec, map: Hash) -> Result<Vec<map::Todo>> {
        let (id, fund) = (spec.id(), spec.pool.reserve_sequence);
        let known = self.book.get(&map).and_then(|entry| entry.parts.iter().find(|part| part.job == id));
        let known = match (known.cloned(), self.funds.open.contains_key(&fund)) {
            (Some(report), _) => Some(report),
            (None, true) => match self.requester.scheduler().report(&id).cloned() {
                Some(report) => {
                    self.record(map, &report)?;
                    Some(report)
                }
                None => {
                    self.parts.insert(id, map);
                    match self.requester.submit(now, spec) {
                        Err(error) if !error.is_fatal() => {
                            tracing::error!("a part of a map job was not taken: {error}");
                            self.parts.remove(&id);
                            return Ok(self.maps.get_mut(&map).map(MapJob::cancel).unwrap_or_default());
                        }
                        submitted => self.done(submitted)?,
                    }
                    None
                }
            },
            // The fund has ended, and with it what could be paid.
            (None, false) => return Ok(self.maps.get_mut(&map).map(MapJob::cancel).unwrap_or_default()),
        };
        let job = self.maps.get_mut(&map).zip(known);
        Ok(job.map(|(job, report)| job.finished(&report)).unwrap_or_default())
    }

    pub(super) fn cancel(&mut self, now: Millis, job: Hash) -> Result<()> {
        if let Some(map) = self.maps.get_mut(&job) {
            let todo = map.cancel();
            return self.carry_out_map(now, job, todo);
        }
        match self.book.get(&job).is_some_and(|entry| entry.ended.is_none()) {
            true => self.step(now, Input::Cancel { job }),
            false => Ok(()),
        }
    }

    /// Puts a task's report on record with its job.
    pub(super) fn record(&mut self, job: Hash, report: &Report) -> Result<()> {
        let purse = self.book.get(&job).and_then(|entry| self.requester.purse(entry.fund));
        let paid = report.paid.iter().map(|earned| Paid {
            node: earned.node,
            amount: earned.amount,
            burned: split::divide(earned.amount, earned.node.0, self.rule.as_ref(), self.height).burned,
            position: purse.and_then(|purse| purse.position(&earned.node.0, &earned.item)),
        });
        let paid: Vec<Paid> = paid.collect();
        self.book.part(job, report.clone(), paid)
    }

    /// A task came to its end: a job of its own, or a part of one.
    pub(super) fn finished(&mut self, report: Report) -> Result<()> {
        let now = now_millis();
        if let Some(map) = self.parts.remove(&report.job) {
            self.record(map, &report)?;
            let todo = self.maps.get_mut(&map).map(|job| job.finished(&report)).unwrap_or_default();
            return self.carry_out_map(now, map, todo);
        }
        self.shown.remove(&report.job);
        self.record(report.job, &report)?;
        self.book.end(report.job, ended(now, &report))?;
        if let Some(done) = self.waiting.remove(&report.job) {
            let _gone = done.send(report);
        }
        Ok(())
    }

    pub(super) fn carry_out_map(&mut self, now: Millis, map: Hash, todo: Vec<map::Todo>) -> Result<()> {
        let mut queue = VecDeque::from(todo);
        while let Some(next) = queue.pop_front() {
            match next {
                map::Todo::Submit(spec) => queue.extend(self.submit_part(now, *spec, map)?),
                map::Todo::Join { at, parts } => {
                    let blobs = self.wire.blobs.clone();
                    self.tasks
                        .spawn(async move { AskerEvent::Joined { map, at, blob: blobs.join(parts).await } });
                }
                map::Todo::Cancel(job) => {
                    self.step(now, Input::Cancel { job })?;
                }
                map::Todo::Finished(report) => drop(self.ending.insert(map, report)),
                other => bail!("a map job asks for what this host cannot do: {other:?}"),
            }
        }
        // A part that was decided before the job ended is still being paid, which belongs to the job.
        if !self.parts.values().any(|of| *of == map)
            && let Some(report) = self.ending.remove(&map)
        {
            self.merge(map, report);
        }
        Ok(())
    }

    /// Makes one blob of what a map job's parts gave.
    pub(super) fn merge(&mut self, map: Hash, report: MapReport) {
        let blobs = self.wire.blobs.clone();
        let entry = self.book.get(&map);
        let said = entry.into_iter().flat_map(|entry| &entry.parts);
        let said: Vec<BlobRef> = said.filter_map(|part| Some(part.output.as_ref()?.stderr)).collect();
        let small = |parts: &[BlobRef]| parts.iter().map(|part| part.len).sum::<u64>() <= MAX_BLOB;
        self.tasks.spawn(async move {
            let stderr = match small(&said) {
                true => blobs.join(said).await.ok(),
                false => None,
            };
            let stdout = match report.state {
                State::Succeeded if !small(&report.output) => {
                    Err(format!("the parts gave more than {MAX_BLOB} bytes together"))
                }
                State::Succeeded => {
                    blobs.join(report.output.clone()).await.map(Some).map_err(|error| error.to_string())
                }
                _ => Ok(None),
            };
            AskerEvent::Merged { report: Box::new(report), stdout, stderr }
        });
    }

    pub(super) fn merged(
        &mut self,
        now: Millis,
        report: MapReport,
        stdout: Result<Option<BlobRef>, String>,
        stderr: Option<BlobRef>,
    ) -> Result<()> {
        self.maps.remove(&report.map);
        let (state, error, stdout) = match stdout {
            Ok(stdout) => (report.state, report.error, stdout),
            Err(problem) => (State::Failed, Some(("output_too_large".to_owned(), problem)), None),
        };
        let exit = (state == State::Succeeded).then_some(0);
        self.book.end(report.map, Ended { at: now, state, error, stdout, stderr, files: Vec::new(), exit })
    }
}
