//! The requester's side of jobs: who runs them, which result is believed, who is paid.
//!
//! A plain machine: it takes time and an input and gives effects, which the host carries out in order; an effect after
//! [`Effect::Append`] waits until the record is durable. It holds no money: it asks for a promise before it offers
//! anything, and for payments once it has decided.
//!
//! Safety. A job is decided once: the decision with everyone's pay is a record before the first payment is asked for,
//! and after a crash the same payments are asked for again. An item, which is a task and a node, is paid once however
//! often it is asked for ([`crate::payment::purse`]). What was not decided begins again under a higher epoch, and
//! messages of a lower one count for nothing.

mod explain;
mod job;
mod report;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};
use theta_core::amount::TFuelWei;
use theta_core::hash::Hash;

use crate::Millis;
use crate::blob::BlobRef;
use crate::executor::Output;
use crate::identity::NodeId;
use crate::job::{JobSpec, Task};
use crate::message::{Message, Reject};
use crate::placement::{Fleet, Need, Offer, Selector, Weights, Wish};
use crate::verify::Claim;
pub use explain::{Explanation, Place, Standing};
use job::{Job, Next, Stage};
pub use report::{Report, State, Verification};

/// The shortest and the longest that a node can ask to be left alone, in milliseconds.
const RETRY_MS: (u64, u64) = (100, 60_000);

/// How long things may take, and how often they are tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Milliseconds until an offer is answered.
    pub offer_ms: u64,
    /// Milliseconds beyond the wall limit for moving inputs and messages.
    pub grace_ms: u64,
    /// Milliseconds until a result is shown.
    pub reveal_ms: u64,
    /// Milliseconds until an output is fetched or a re-execution has ended, beyond the wall limit.
    pub fetch_ms: u64,
    /// Milliseconds without any node to ask before a job goes on with what it has.
    pub patience_ms: u64,
    /// Nodes that may fail a task before the job fails (edge.md 2.5).
    pub retries: u32,
    /// Finished jobs whose report is remembered.
    pub remembered: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            offer_ms: 5_000,
            grace_ms: 10_000,
            reveal_ms: 5_000,
            fetch_ms: 60_000,
            patience_ms: 10_000,
            retries: 4,
            remembered: 1_000,
        }
    }
}

/// What happens to the scheduler.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Input {
    /// Time has passed; wanted at [`Effect::WakeAt`].
    Tick,
    /// A node can be asked (or no longer).
    Node {
        /// Which.
        node: NodeId,
        /// Whether it can.
        up: bool,
    },
    /// What a node offers, so that it is given no more than that; a node of which nobody knows is thought to have room.
    Offer {
        /// Which.
        node: NodeId,
        /// What.
        offer: Box<Offer>,
    },
    /// A job comes in. One that is known already changes nothing.
    Submit(JobSpec),
    /// Answer to [`Effect::Promise`].
    Promised {
        /// Which job.
        job: Hash,
        /// Whether the money is set aside.
        held: bool,
    },
    /// A message came, from whom the envelope says.
    Message {
        /// The sender.
        from: NodeId,
        /// What it says.
        message: Message,
    },
    /// Answer to [`Effect::Check`]: the digest that a re-execution confirmed, if any.
    Checked {
        /// Which job.
        job: Hash,
        /// Which result is right.
        digest: Option<Hash>,
    },
    /// Answer to [`Effect::Fetch`].
    Fetched {
        /// Which job.
        job: Hash,
        /// Who was asked.
        from: NodeId,
        /// Whether every blob is here now.
        complete: bool,
    },
    /// Answer to [`Effect::Pay`].
    Paid {
        /// Which job.
        job: Hash,
        /// Who was paid.
        node: NodeId,
        /// Whether a receipt was signed.
        signed: bool,
    },
    /// The requester does not want it any more. Too late once a result is decided.
    Cancel {
        /// Which job.
        job: Hash,
    },
}

/// What the scheduler wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Effect {
    /// Make this record durable before anything that follows. If that fails, stop for good.
    Append(Record),
    /// Ask the purse to set aside this much; answer with [`Input::Promised`].
    Promise {
        /// Which job.
        job: Hash,
        /// The most it may cost.
        amount: TFuelWei,
    },
    /// Send a message. It may be lost.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// Find by [`crate::executor::Executor::check`] which of these claims is right; answer with [`Input::Checked`].
    Check {
        /// Which job.
        job: Hash,
        /// What to run.
        task: Task,
        /// Claims that differ from each other.
        claims: Vec<Output>,
    },
    /// Fetch these blobs; answer with [`Input::Fetched`].
    Fetch {
        /// Which job.
        job: Hash,
        /// Whom to ask.
        from: NodeId,
        /// What.
        blobs: Vec<BlobRef>,
    },
    /// Ask the purse to pay, send the receipt, answer with [`Input::Paid`].
    Pay {
        /// Which job.
        job: Hash,
        /// Whom.
        node: NodeId,
        /// For what.
        item: Hash,
        /// How much.
        amount: TFuelWei,
    },
    /// Ask the purse to give back what is left of the promise.
    Release {
        /// Which job.
        job: Hash,
    },
    /// A job came to its end.
    Finished(Report),
    /// Step with [`Input::Tick`] at this time or soon after.
    WakeAt(Millis),
}

/// What has to survive a crash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// A job was taken.
    Submitted(JobSpec),
    /// It is being offered under this epoch.
    Started {
        /// Which job.
        job: Hash,
        /// Higher than any before.
        epoch: u64,
    },
    /// Its result is known, and who earned what with it.
    Decided(Report),
    /// Nothing more will be done for it.
    Closed(Report),
}

impl theta_core::journal::Record for Record {
    const VERSION: u8 = 1;
}

/// All jobs of a requester and the nodes it may ask.
#[derive(Debug, Default)]
pub struct Scheduler {
    settings: Settings,
    jobs: BTreeMap<Hash, Job>,
    /// Open jobs in the order in which they came: who came first is given room first.
    queue: BTreeMap<u64, Hash>,
    /// Task to job.
    tasks: BTreeMap<Hash, Hash>,
    finished: BTreeMap<Hash, Report>,
    /// Finished jobs, oldest first.
    order: VecDeque<Hash>,
    /// Nodes that can be asked.
    fleet: Fleet,
    /// All that a node has, of those that can be asked.
    up: BTreeMap<NodeId, Need>,
    /// Some node has got room, which a job may be waiting for.
    room: bool,
    /// Those that were busy, and from when on they are asked again.
    cooling: BTreeMap<NodeId, Millis>,
}

impl Scheduler {
    /// A scheduler with no jobs.
    pub fn new(settings: Settings) -> Self {
        Self { settings, ..Self::default() }
    }

    /// The scheduler that these records left, oldest first, and what it wants done now: undecided jobs begin again,
    /// decided ones are paid.
    pub fn recover(settings: Settings, records: Vec<Record>, now: Millis, out: &mut Vec<Effect>) -> Self {
        let mut scheduler = Self::new(settings);
        for record in records {
            match record {
                Record::Submitted(spec) => {
                    scheduler.insert(spec);
                }
                Record::Started { job, epoch } => {
                    if let Some(job) = scheduler.jobs.get_mut(&job) {
                        job.epoch = epoch;
                    }
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
        let ids: Vec<Hash> = scheduler.queue.values().copied().collect();
        for id in ids {
            if let Some(job) = scheduler.jobs.get(&id) {
                job.resume(out);
            }
            scheduler.advance(id, now, out);
        }
        scheduler.wake(now, out);
        scheduler
    }

    /// Records that leave the same scheduler: what is open, and the finished jobs that are remembered.
    pub(crate) fn records(&self) -> Vec<Record> {
        let reports = self.order.iter().filter_map(|job| self.finished.get(job));
        let closed = reports.map(|report| Record::Closed(report.clone()));
        let open = self.queue.values().filter_map(|job| self.jobs.get(job));
        closed.chain(open.flat_map(Job::records)).collect()
    }

    /// About how many those are.
    pub(crate) fn size(&self) -> usize {
        self.finished.len() + 3 * self.jobs.len()
    }

    /// Takes one input and adds what follows to `out`.
    pub fn step(&mut self, now: Millis, input: Input, out: &mut Vec<Effect>) {
        match input {
            Input::Tick => self.tick(now, out),
            Input::Node { node, up } => self.node(node, up, now, out),
            Input::Offer { node, offer } => {
                self.join(node, &offer);
                self.advance_all(now, out);
            }
            Input::Submit(spec) => self.submit(spec, now, out),
            Input::Message { from, message } => self.message(from, message, now, out),
            Input::Promised { job, held } => self.with(job, now, out, |job, now, _| job.promised(held, now)),
            Input::Checked { job, digest } => self.with(job, now, out, |job, _, _| job.checked(digest)),
            Input::Fetched { job, from, complete } => {
                self.with(job, now, out, |job, _, _| job.fetched(from, complete))
            }
            Input::Paid { job, node, signed } => self.with(job, now, out, |job, _, _| job.paid(node, signed)),
            Input::Cancel { job } => self.with(job, now, out, |job, _, _| job.cancel()),
        }
        while std::mem::take(&mut self.room) {
            self.advance_all(now, out);
        }
        self.wake(now, out);
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

    fn insert(&mut self, spec: JobSpec) -> Hash {
        let job = Job::new(spec);
        let id = job.id;
        self.tasks.insert(job.task_id, id);
        let number = self.queue.last_key_value().map_or(0, |(last, _)| last + 1);
        self.queue.insert(number, id);
        self.jobs.insert(id, job);
        id
    }

    fn join(&mut self, node: NodeId, offer: &Offer) {
        let joined = self.fleet.join(node, offer);
        if joined.is_some() {
            self.up.insert(node, Need { cpu_milli: offer.cpu_milli, mem_mib: offer.mem_mib, vram_mib: 0 });
        }
        // It stays closed until it may be asked again.
        if let Some(place) = joined.filter(|_| self.cooling.contains_key(&node)) {
            self.fleet.close(place);
        }
    }

    fn submit(&mut self, spec: JobSpec, now: Millis, out: &mut Vec<Effect>) {
        let id = spec.id();
        if self.jobs.contains_key(&id) || self.finished.contains_key(&id) {
            return;
        }
        let problem = spec.check().err();
        out.push(Effect::Append(Record::Submitted(spec.clone())));
        self.insert(spec);
        match (problem, self.jobs.get_mut(&id)) {
            (Some(problem), Some(job)) => job.fail(problem.code(), problem.to_string()),
            (None, Some(job)) => job.resume(out),
            _ => {}
        }
        self.advance(id, now, out);
    }

    fn node(&mut self, node: NodeId, up: bool, now: Millis, out: &mut Vec<Effect>) {
        if up {
            match self.fleet.find(&node) {
                Some(place) if self.up.contains_key(&node) => {
                    if !self.cooling.contains_key(&node) {
                        self.fleet.open(place);
                    }
                }
                _ => self.join(node, &UNKNOWN.clone()),
            }
        } else {
            self.cooling.remove(&node);
            self.up.remove(&node);
            if let Some(place) = self.fleet.find(&node) {
                self.fleet.close(place);
            }
            self.jobs.values_mut().for_each(|job| job.lost(node));
        }
        self.advance_all(now, out);
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
        if let Message::Rejected { reason: Reject::Busy { retry_ms }, .. } = message
            && let Some(place) = self.fleet.find(&from)
        {
            self.fleet.close(place);
            self.cooling.insert(from, now.saturating_add(retry_ms.clamp(RETRY_MS.0, RETRY_MS.1)));
        }
        self.with(id, now, out, |job, now, settings| job.message(from, message, now, settings));
    }

    fn tick(&mut self, now: Millis, out: &mut Vec<Effect>) {
        self.cooling.retain(|node, until| {
            let over = *until <= now;
            if let Some(place) = self.fleet.find(node).filter(|_| over) {
                self.fleet.open(place);
            }
            !over
        });
        self.jobs.values_mut().for_each(|job| job.expire(now));
        self.advance_all(now, out);
    }

    fn with(
        &mut self,
        id: Hash,
        now: Millis,
        out: &mut Vec<Effect>,
        act: impl FnOnce(&mut Job, Millis, &Settings),
    ) {
        if let Some(job) = self.jobs.get_mut(&id) {
            act(job, now, &self.settings);
            self.advance(id, now, out);
        }
    }

    fn advance_all(&mut self, now: Millis, out: &mut Vec<Effect>) {
        let ids: Vec<Hash> = self.queue.values().copied().collect();
        ids.into_iter().for_each(|id| self.advance(id, now, out));
    }

    /// Carries a job as far as it goes without another input.
    fn advance(&mut self, id: Hash, now: Millis, out: &mut Vec<Effect>) {
        while let Some(job) = self.jobs.get_mut(&id) {
            self.room |= hold(&mut self.fleet, job, now);
            let candidate = if job.wants_candidate() { candidate(&mut self.fleet, job, now) } else { None };
            let later = candidate.is_none() && job.wants_candidate() && job.may_ask(&self.up);
            match job.advance(candidate, later, now, &self.settings, out) {
                Next::Wait => {
                    if let Some(job) = self.jobs.get_mut(&id) {
                        self.room |= hold(&mut self.fleet, job, now);
                    }
                    return;
                }
                Next::Again => {}
                Next::Finished(report) => {
                    out.push(Effect::Append(Record::Closed((*report).clone())));
                    out.push(Effect::Release { job: id });
                    out.push(Effect::Finished((*report).clone()));
                    self.remember(*report);
                }
            }
        }
    }

    fn remember(&mut self, report: Report) {
        if let Some(mut job) = self.jobs.remove(&report.job) {
            self.tasks.remove(&job.task_id);
            self.queue.retain(|_, open| *open != report.job);
            let need = job.need();
            self.room |= !job.held.is_empty();
            job.held.drain(..).for_each(|node| self.fleet.release(node, &need, u8::MAX));
        }
        self.order.push_back(report.job);
        self.finished.insert(report.job, report);
        if self.order.len() > self.settings.remembered {
            self.order.pop_front().map(|oldest| self.finished.remove(&oldest));
        }
    }

    fn wake(&self, now: Millis, out: &mut Vec<Effect>) {
        let waits = self.jobs.values().any(Job::wants_nodes);
        // A node that was busy can be asked again.
        let cooling = self.cooling.values().copied().filter(|from| waits && *from > now);
        let jobs = self.jobs.values().filter_map(|job| job.deadline(now));
        if let Some(at) = jobs.chain(cooling).min() {
            out.push(Effect::WakeAt(at));
        }
    }
}

/// What is thought of a node that has said nothing: it will say when it is busy.
static UNKNOWN: LazyLock<Offer> =
    LazyLock::new(|| Offer { cpu_milli: u32::MAX, mem_mib: u32::MAX, credits: u16::MAX, ..Offer::default() });

/// Takes on the nodes what a job's attempts need, and gives back what they needed; whether it gave anything back.
fn hold(fleet: &mut Fleet, job: &mut Job, now: Millis) -> bool {
    let need = job.need();
    let nodes: Vec<u32> = job.at_work().filter_map(|node| fleet.find(&node)).collect();
    let mut room = false;
    job.held.retain(|node| {
        let stays = nodes.contains(node);
        if !stays {
            fleet.release(*node, &need, u8::MAX);
            room = true;
        }
        stays
    });
    for node in nodes {
        if !job.held.contains(&node) {
            fleet.take(node, &need, now);
            job.held.push(node);
        }
    }
    room
}

/// The node that this job should ask next: one that has room, and has had nothing to do for long. Nobody can choose to be
/// it: where it is looked for hangs on the job's id (edge.md 4.2).
fn candidate(fleet: &mut Fleet, job: &Job, now: Millis) -> Option<NodeId> {
    let exclude: Vec<u32> = job.not_asked().filter_map(|node| fleet.find(&node)).collect();
    let selector = fleet.selector(&Selector::default());
    let wish = Wish {
        need: job.need(),
        selector,
        bid: u32::MAX,
        reputation: 0,
        holders: &[],
        exclude: &exclude,
        exclude_operators: &[],
        speed: 0,
        replicated: true,
        weights: &Weights::default(),
    };
    fleet.reseed(&job.id);
    let pick = fleet.pick(&wish, now, |_, _| {})?;
    fleet.id(pick.node)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::tests::spec;
    use theta_core::hash::Address;

    /// Offers among effects: to whom, and of which task.
    fn offered(out: &[Effect]) -> Vec<(NodeId, Hash)> {
        let offers = out.iter().filter_map(|effect| match effect {
            Effect::Send { to, message: Message::Offer { task, .. } } => Some((*to, task.id())),
            _ => None,
        });
        offers.collect()
    }

    #[test]
    fn jobs_wait_for_room_in_the_order_in_which_they_came() {
        let (mut scheduler, mut out) = (Scheduler::new(Settings::default()), Vec::new());
        let one = Offer { cpu_milli: 1_000, mem_mib: 256, credits: 1, ..Offer::default() };
        for byte in [10, 11] {
            let node = NodeId(Address::repeat_byte(byte));
            scheduler.step(0, Input::Offer { node, offer: Box::new(one.clone()) }, &mut out);
        }
        let small = NodeId(Address::repeat_byte(12));
        let offer = Offer { mem_mib: 1, ..one.clone() };
        scheduler.step(0, Input::Offer { node: small, offer: Box::new(offer) }, &mut out);
        let quorum = crate::job::Quorum::of(1);
        let specs: Vec<JobSpec> = (0..4).map(|nonce| JobSpec { nonce, quorum, ..spec() }).collect();
        for spec in &specs {
            scheduler.step(0, Input::Submit(spec.clone()), &mut out);
            scheduler.step(0, Input::Promised { job: spec.id(), held: true }, &mut out);
        }
        let offers = offered(&out);
        let tasks: Vec<Hash> = specs.iter().map(|spec| spec.task().id()).collect();
        assert_eq!(offers.iter().map(|(_, task)| *task).collect::<Vec<_>>(), tasks[..2]);
        assert_eq!(scheduler.jobs.values().map(|job| job.offers).sum::<u32>(), 2);
        let why = scheduler.explain(&specs[3].id()).unwrap();
        assert_eq!((why.waits_for, why.ahead), ("a node with room", 3));
        let standings: Vec<Standing> = why.places.iter().map(|place| place.standing).collect();
        assert_eq!(standings, [Standing::Full, Standing::Full, Standing::Small]);
        // Nobody has room for long, which is no reason to give up.
        out.clear();
        let (node, task) = offers[1];
        let accepted = Message::Accepted { task, epoch: 1, price: crate::payment::Price::default() };
        scheduler.step(1, Input::Message { from: node, message: accepted }, &mut out);
        scheduler.step(4_000, Input::Tick, &mut out);
        assert_eq!(scheduler.state(&specs[2].id()), Some(State::Queued));
        assert!(offered(&out).is_empty());
        // A node that is bound to its result has room again, and who came first gets it.
        let commit = Message::Committed { task, epoch: 1, commit: Hash::ZERO };
        scheduler.step(4_001, Input::Message { from: node, message: commit }, &mut out);
        assert_eq!(offered(&out), [(node, tasks[2])]);
        // When every node that could is gone, patience is what it was.
        out.clear();
        for byte in [10, 11] {
            let node = NodeId(Address::repeat_byte(byte));
            scheduler.step(4_002, Input::Node { node, up: false }, &mut out);
        }
        scheduler.step(4_002 + Settings::default().patience_ms, Input::Tick, &mut out);
        assert_eq!(scheduler.state(&specs[3].id()), Some(State::Failed));
    }

    #[test]
    fn a_message_of_another_epoch_counts_for_nothing() {
        let (mut scheduler, mut out) = (Scheduler::new(Settings::default()), Vec::new());
        let (job, task) = (spec().id(), spec().task().id());
        for byte in 10..13 {
            scheduler.step(0, Input::Node { node: NodeId(Address::repeat_byte(byte)), up: true }, &mut out);
        }
        scheduler.step(0, Input::Submit(spec()), &mut out);
        scheduler.step(0, Input::Promised { job, held: true }, &mut out);
        let asked = |out: &[Effect]| {
            let offers = out.iter().filter_map(|effect| match effect {
                Effect::Send { to, message: Message::Offer { epoch, .. } } => Some((*to, *epoch)),
                _ => None,
            });
            offers.collect::<Vec<_>>()
        };
        let offers = asked(&out);
        assert_eq!(offers.len(), 2);
        let (from, epoch) = offers[0];
        for (said, new_offers) in [(epoch - 1, 0), (epoch + 1, 0), (epoch, 1)] {
            out.clear();
            let message = Message::Failed { task, epoch: said, code: "lost".into() };
            scheduler.step(0, Input::Message { from, message }, &mut out);
            assert_eq!(asked(&out).len(), new_offers, "epoch {said}");
        }
    }
}
