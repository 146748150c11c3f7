//! The requester's side of jobs: who runs them, which result is believed, who is paid.
//!
//! A plain machine: it takes time and an input and gives effects, which the host carries out in order; an effect after
//! [`Effect::Append`] waits until the record is durable. It holds no money: it asks for a promise before it offers
//! anything, and for payments once it has decided.
//!
//! Which node gets a task, whose turn it is, when it is tried again elsewhere, and what goes to a provider pool is decided
//! by the one [`Placement`] of all jobs. A job asks it for as many tasks as it wants results, all of them its one task; what
//! happens between an offer and the pay is `job`'s.
//!
//! Safety. A job is decided once: the decision with everyone's pay is a record before the first payment is asked for,
//! and after a crash the same payments are asked for again. An item, which is a task and a node, is paid once however
//! often it is asked for ([`crate::payment::purse`]). Where a task was given to is a record before it is offered; after a
//! crash it is offered to the same nodes again under a higher epoch, so that they go on or give what they have, and
//! messages of a lower epoch count for nothing.

mod explain;
mod job;
mod place;
mod recover;
mod report;
mod say;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use theta_core::hash::Hash;

use crate::Millis;
use crate::blob::BlobRef;
use crate::identity::NodeId;
use crate::job::{JobSpec, Work};
use crate::message::Message;
use crate::placement::{self, Answer, AttemptId, Event, Placement, Refusal, Status};
use crate::verify::Claim;
pub use explain::{Explanation, Place, Standing};
use job::{Job, Next};
use place::Machine;
pub use report::{Report, State, Verification};
pub use say::{Effect, Input, Record};

/// How long things may take, and who may be asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// How tasks are given to nodes.
    pub placement: placement::Settings,
    /// Machines of provider pools: which pool each is of, by its place in the settings above.
    pub machines: BTreeMap<NodeId, usize>,
    /// Milliseconds beyond the wall limit for moving inputs and messages.
    pub grace_ms: u64,
    /// Milliseconds until a result is shown.
    pub reveal_ms: u64,
    /// Milliseconds until an output is fetched or a re-execution has ended, beyond the wall limit.
    pub fetch_ms: u64,
    /// Milliseconds without any node that could ever be asked before a job goes on with what it has.
    pub patience_ms: u64,
    /// Finished jobs whose report is remembered.
    pub remembered: usize,
}

impl Default for Settings {
    fn default() -> Self {
        let placement =
            placement::Settings { offer_ms: 5_000, remembered: 0, ..placement::Settings::default() };
        Self {
            placement,
            machines: BTreeMap::new(),
            grace_ms: 10_000,
            reveal_ms: 5_000,
            fetch_ms: 60_000,
            patience_ms: 10_000,
            remembered: 1_000,
        }
    }
}

/// All jobs of a requester and the nodes it may ask.
#[derive(Debug)]
pub struct Scheduler {
    settings: Settings,
    placement: Placement,
    jobs: BTreeMap<Hash, Job>,
    /// Open jobs in the order in which they came.
    queue: BTreeMap<u64, Hash>,
    /// Task to job.
    tasks: BTreeMap<Hash, Hash>,
    /// Request of placement to job.
    requests: BTreeMap<Hash, Hash>,
    /// Attempts that are out: whose, and with which node.
    places: BTreeMap<AttemptId, (Hash, NodeId)>,
    /// Machines of pools that are there.
    machines: BTreeMap<NodeId, Machine>,
    finished: BTreeMap<Hash, Report>,
    /// Finished jobs, oldest first.
    order: VecDeque<Hash>,
    /// Jobs that something happened to.
    touched: BTreeSet<(u64, Hash)>,
    /// When which job wants to be looked at.
    timers: BTreeSet<(Millis, Hash)>,
    /// What is not on record yet: new epochs, and what placement did.
    started: Vec<(Hash, u64)>,
    events: Vec<Event>,
    /// When placement wants to be looked at.
    place_at: Option<Millis>,
    /// When a node last went away.
    last_down: Millis,
}

impl Scheduler {
    /// A scheduler with no jobs.
    pub fn new(settings: Settings) -> Self {
        let placement = Placement::new(settings.placement.clone(), 0);
        Self::with(settings, placement)
    }

    fn with(settings: Settings, placement: Placement) -> Self {
        Self {
            settings,
            placement,
            jobs: BTreeMap::new(),
            queue: BTreeMap::new(),
            tasks: BTreeMap::new(),
            requests: BTreeMap::new(),
            places: BTreeMap::new(),
            machines: BTreeMap::new(),
            finished: BTreeMap::new(),
            order: VecDeque::new(),
            touched: BTreeSet::new(),
            timers: BTreeSet::new(),
            started: Vec::new(),
            events: Vec::new(),
            place_at: None,
            last_down: 0,
        }
    }

    /// Takes one input and adds what follows to `out`.
    pub fn step(&mut self, now: Millis, input: Input, out: &mut Vec<Effect>) {
        match input {
            Input::Tick => self.tick(now, out),
            Input::Node { node, up } => self.node(node, up, now, out),
            Input::Offer { node, offer } => self.offered(node, &offer, now, out),
            Input::Submit(spec) => self.submit(spec, out),
            Input::Message { from, message } => self.message(from, message, now, out),
            Input::Promised { job, held } => {
                if self.with_job(&job, |job| job.promised(held, now)).unwrap_or_default()
                    && let Some(job) = self.jobs.get(&job)
                {
                    self.started.push((job.id, job.epoch));
                }
            }
            Input::Checked { job, digest } => self.with_job(&job, |job| job.checked(digest)).unwrap_or(()),
            Input::Fetched { job, from, complete } => {
                self.with_job(&job, |job| job.fetched(from, complete)).unwrap_or(());
            }
            Input::Paid { job, node, signed } => {
                self.with_job(&job, |job| job.paid(node, signed)).unwrap_or(());
            }
            Input::Cancel { job } => self.with_job(&job, Job::cancel).unwrap_or(()),
        }
        self.advance_all(now, out);
        self.wake(out);
    }

    /// Whether a job would be taken now: nothing is asked for that too many wait for, or that would come too late.
    pub fn admits(&mut self, spec: &JobSpec, now: Millis) -> Result<(), Refusal> {
        let id = spec.id();
        if self.jobs.contains_key(&id) || self.finished.contains_key(&id) {
            return Ok(());
        }
        let request = place::request(spec, &id, 0, spec.quorum.agree.into(), &self.settings, Vec::new());
        self.placement.admits(&request, now)
    }

    /// How a job stands; `None` for one that is not known or was forgotten.
    pub fn state(&self, job: &Hash) -> Option<State> {
        match self.finished.get(job) {
            Some(report) => Some(report.state),
            None => self.jobs.get(job).map(Job::state),
        }
    }

    /// The report of a finished job.
    pub fn report(&self, job: &Hash) -> Option<&Report> {
        self.finished.get(job)
    }

    /// Every job that is known, with its state.
    pub fn jobs(&self) -> impl Iterator<Item = (Hash, State)> + '_ {
        let open = self.jobs.iter().map(|(id, job)| (*id, job.state()));
        open.chain(self.finished.iter().map(|(id, report)| (*id, report.state)))
    }

    /// Blobs that open jobs read.
    pub fn inputs(&self) -> impl Iterator<Item = BlobRef> + '_ {
        self.jobs.values().flat_map(|job| job.spec().work.blobs())
    }

    /// The fund that an open job is paid from.
    pub fn fund(&self, job: &Hash) -> Option<u64> {
        self.jobs.get(job).map(Job::fund)
    }

    /// What an open job is to do.
    pub fn work(&self, job: &Hash) -> Option<&Work> {
        self.jobs.get(job).map(|job| &job.spec().work)
    }

    /// The job whose task a node runs, or has run and not shown yet.
    pub fn runs(&self, task: &Hash, epoch: u64, node: &NodeId) -> Option<Hash> {
        let job = self.jobs.get(self.tasks.get(task)?)?;
        (job.epoch == epoch && job.is_run_by(node)).then_some(job.id)
    }

    /// Whether jobs are open that are paid from a fund.
    pub fn uses(&self, fund: u64) -> bool {
        self.jobs.values().any(|job| job.fund() == fund)
    }

    /// How a node stands; a machine of a pool that is there is trusted as far as any.
    pub fn status(&self, node: &NodeId) -> Option<Status> {
        match self.settings.machines.contains_key(node) {
            true => self.machines.get(node).map(|_| Status::Active),
            false => self.placement.member(node).map(|member| member.status),
        }
    }

    /// Who is asked, and who waits.
    pub const fn placement(&self) -> &Placement {
        &self.placement
    }

    fn insert(&mut self, spec: JobSpec) -> Hash {
        let number = self.queue.last_key_value().map_or(0, |(last, _)| last + 1);
        let job = Job::new(spec, number);
        let id = job.id;
        self.tasks.insert(job.task_id, id);
        self.queue.insert(number, id);
        self.jobs.insert(id, job);
        id
    }

    fn submit(&mut self, spec: JobSpec, out: &mut Vec<Effect>) {
        let id = spec.id();
        if self.jobs.contains_key(&id) || self.finished.contains_key(&id) {
            return;
        }
        let problem = spec.check().err();
        out.push(Effect::Append(Record::Submitted(spec.clone())));
        self.insert(spec);
        self.with_job(&id, |job| match problem {
            Some(problem) => job.fail(problem.code(), problem.to_string()),
            None => job.resume(out),
        });
    }

    fn message(&mut self, from: NodeId, message: Message, now: Millis, out: &mut Vec<Effect>) {
        let (task, epoch) = match &message {
            Message::Accepted { task, epoch, .. }
            | Message::Rejected { task, epoch, .. }
            | Message::Committed { task, epoch, .. }
            | Message::Revealed { task, epoch, .. }
            | Message::Failed { task, epoch, .. } => (*task, *epoch),
            // The rest is said by requesters, or is the purse's business.
            _ => return,
        };
        let Some(id) = self.tasks.get(&task).copied() else { return };
        if self.jobs.get(&id).is_none_or(|job| job.epoch != epoch) {
            return;
        }
        let mut next = Some(message);
        while let Some(message) = next.take() {
            if let Some((attempt, answer)) =
                self.with_job(&id, |job| job.message(from, message, now)).flatten()
            {
                self.answer(attempt, answer, now, out);
                next = self.with_job(&id, |job| job.overtaken(from)).flatten();
            }
        }
    }

    fn tick(&mut self, now: Millis, out: &mut Vec<Effect>) {
        self.place(now, placement::Input::Tick, out);
        while let Some((at, id)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.timers.remove(&(at, id));
            let Some(job) = self.jobs.get_mut(&id) else { continue };
            job.timer = None;
            let late = job.expire(now);
            self.touch(&id);
            for attempt in late {
                self.answer(attempt, Answer::Failed, now, out);
            }
            self.impatient(id, now);
        }
        self.drain_back(now, out);
    }

    /// A job that has waited for long goes on with what it has, if there is nobody who could ever be asked.
    fn impatient(&mut self, id: Hash, now: Millis) {
        let Some(job) = self.jobs.get(&id) else { return };
        if job.patience(self.last_down, &self.settings).is_none_or(|until| until > now) {
            return;
        }
        let hopes = self.placement.has_hope(&job.request(1, &self.settings));
        self.with_job(&id, |job| if hopes { job.wait_from(now) } else { job.given_up = true });
    }

    fn with_job<T>(&mut self, id: &Hash, act: impl FnOnce(&mut Job) -> T) -> Option<T> {
        let job = self.jobs.get_mut(id)?;
        self.touched.insert((job.number, *id));
        Some(act(job))
    }

    fn touch(&mut self, id: &Hash) {
        if let Some(job) = self.jobs.get(id) {
            self.touched.insert((job.number, *id));
        }
    }

    fn advance_all(&mut self, now: Millis, out: &mut Vec<Effect>) {
        while let Some((_, id)) = self.touched.pop_first() {
            self.advance(id, now, out);
        }
    }

    /// Carries a job as far as it goes without another input.
    fn advance(&mut self, id: Hash, now: Millis, out: &mut Vec<Effect>) {
        loop {
            let Some(job) = self.jobs.get_mut(&id) else { return };
            // Looked for only where results differ.
            let (placement, settings) = (&self.placement, &self.settings);
            let others = |job: &Job| placement.has_hope(&job.request(1, settings));
            match job.advance(others, now, settings, out) {
                Next::Wait => break,
                Next::Again => {}
                Next::Ask(count) => {
                    let request = job.request(count, settings);
                    job.asked += count;
                    job.rounds += 1;
                    self.requests.insert(request.id, id);
                    self.place(now, placement::Input::Submit(Box::new(request)), out);
                }
                Next::Withdraw => {
                    for request in job.requests() {
                        self.place(now, placement::Input::Withdraw { job: request }, out);
                    }
                    if let Some(job) = self.jobs.get_mut(&id) {
                        job.asked -= job.waiting();
                    }
                }
                Next::Finished(report) => {
                    self.close(id, &report, now, out);
                    out.push(Effect::Append(Record::Closed((*report).clone())));
                    out.push(Effect::Release { job: id });
                    out.push(Effect::Finished((*report).clone()));
                    self.remember(*report);
                    return;
                }
            }
        }
        let timer = self.jobs.get(&id).and_then(|job| job.deadline(self.last_down, &self.settings));
        self.set_timer(id, timer);
    }

    fn set_timer(&mut self, id: Hash, timer: Option<Millis>) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if job.timer != timer {
            if let Some(old) = job.timer {
                self.timers.remove(&(old, id));
            }
            job.timer = timer;
            self.timers.extend(timer.map(|at| (at, id)));
        }
    }

    fn remember(&mut self, report: Report) {
        if let Some(job) = self.jobs.remove(&report.job) {
            self.tasks.remove(&job.task_id);
            self.queue.remove(&job.number);
            if let Some(at) = job.timer {
                self.timers.remove(&(at, job.id));
            }
        }
        self.order.push_back(report.job);
        self.finished.insert(report.job, report);
        if self.order.len() > self.settings.remembered {
            self.order.pop_front().map(|oldest| self.finished.remove(&oldest));
        }
    }

    fn wake(&self, out: &mut Vec<Effect>) {
        let jobs = self.timers.first().map(|(at, _)| *at);
        out.extend(jobs.into_iter().chain(self.place_at).min().map(Effect::WakeAt));
    }
}

/// What a node is paid for: its work on a task, whatever the epoch.
fn item(task: &Hash, node: NodeId) -> Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"theta-edge/item/v1");
    hasher.update(task.as_slice());
    hasher.update(node.0.as_slice());
    Hash::from(*hasher.finalize().as_bytes())
}

/// Nodes whose claim is none of `digest`.
fn others(claims: &[Claim], digest: &Hash) -> BTreeSet<NodeId> {
    claims.iter().filter(|claim| claim.output.digest() != *digest).map(|claim| claim.node).collect()
}
