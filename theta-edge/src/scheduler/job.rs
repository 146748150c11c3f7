//! One job on its way: offers, commitments, results, decision, pay.

use std::collections::{BTreeMap, BTreeSet};

use theta_core::hash::Hash;

use super::report::{Earned, Report, State, Verification};
use super::{Effect, Record, Settings, item, others};
use crate::Millis;
use crate::executor::Output;
use crate::identity::NodeId;
use crate::job::{JobSpec, Task};
use crate::message::{Message, Reject};
use crate::payment::Price;
use crate::placement::Need;
use crate::verify::{Claim, Decision, commitment, decide};

/// Offers after which a node that was busy is not asked again.
const MAX_OFFERS: u32 = 64;

/// Whether a job can go on by itself.
pub(super) enum Next {
    Wait,
    Again,
    Finished(Box<Report>),
}

#[derive(Debug)]
pub(super) enum Stage {
    /// The purse was asked to set the money aside.
    Promising,
    /// Nodes are asked, run and show; `stuck` is since when there is nobody to ask.
    Running { stuck: Option<Millis> },
    /// A re-execution decides.
    Judging { until: Millis },
    /// The output comes here; `sources` are nodes that have it and were not asked yet.
    Fetching {
        output: Output,
        verification: Verification,
        sources: Vec<NodeId>,
        asked: Option<(NodeId, Millis)>,
    },
    /// Decided; receipts are being signed once the decision is on record.
    Paying { report: Report, waiting: BTreeSet<NodeId>, recorded: bool },
    /// Nothing more to do.
    Over(Report),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Offered,
    Running { price: Price },
    Committed { price: Price, commit: Hash },
    Revealing { price: Price, commit: Hash },
}

#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) node: NodeId,
    pub(super) step: Step,
    /// When the node has to have made its next step; none while the requester is to move.
    pub(super) until: Option<Millis>,
}

#[derive(Debug)]
pub(super) struct Job {
    pub(super) id: Hash,
    pub(super) task_id: Hash,
    pub(super) epoch: u64,
    pub(super) stage: Stage,
    spec: JobSpec,
    task: Task,
    pub(super) attempts: Vec<Attempt>,
    pub(super) claims: Vec<Claim>,
    /// Price of each claim, in the same order.
    prices: Vec<Price>,
    /// Nodes that are not asked again.
    pub(super) tried: BTreeSet<NodeId>,
    /// Results wanted before they are compared.
    pub(super) wanted: usize,
    pub(super) faults: u32,
    pub(super) offers: u32,
    /// Places of the nodes whose room its attempts take.
    pub(super) held: Vec<u32>,
    /// Why the last node that would not take it would not.
    pub(super) refusal: Option<&'static str>,
}

impl Job {
    pub(super) fn new(spec: JobSpec) -> Self {
        let task = spec.task();
        Self {
            id: task.job,
            task_id: task.id(),
            epoch: 0,
            stage: Stage::Promising,
            wanted: usize::from(spec.quorum.agree),
            spec,
            task,
            attempts: Vec::new(),
            claims: Vec::new(),
            prices: Vec::new(),
            tried: BTreeSet::new(),
            faults: 0,
            offers: 0,
            held: Vec::new(),
            refusal: None,
        }
    }

    /// What an attempt takes of a node: a core, and the memory that the job grants.
    pub(super) const fn need(&self) -> Need {
        Need { cpu_milli: 1_000, mem_mib: self.spec.limits.memory_mib, vram_mib: 0 }
    }

    /// Nodes that are at it. One that is bound to a result is done, and has room for something else.
    pub(super) fn at_work(&self) -> impl Iterator<Item = NodeId> + '_ {
        let busy = |attempt: &&Attempt| matches!(attempt.step, Step::Offered | Step::Running { .. });
        self.attempts.iter().filter(busy).map(|attempt| attempt.node)
    }

    /// Whether a node that could take it now has no room and may get some.
    pub(super) fn may_ask(&self, up: &BTreeMap<NodeId, Need>) -> bool {
        let need = self.need();
        let fits = |all: &Need| need.cpu_milli <= all.cpu_milli && need.mem_mib <= all.mem_mib;
        up.iter().any(|(node, all)| !self.tried.contains(node) && node.0 != self.spec.pool.payer && fits(all))
    }

    /// Nodes that are not asked: never the payer itself, never one that had its chance.
    pub(super) fn not_asked(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.tried.iter().copied().chain([NodeId(self.spec.pool.payer)])
    }

    /// Whether it matters who could be asked next.
    pub(super) const fn wants_candidate(&self) -> bool {
        matches!(self.stage, Stage::Running { .. })
    }

    /// Asks for what the job was waiting for when nobody remembers having been asked.
    pub(super) fn resume(&self, out: &mut Vec<Effect>) {
        match &self.stage {
            Stage::Promising => out.push(Effect::Promise { job: self.id, amount: self.spec.total_cap }),
            Stage::Paying { report, .. } => pay(report, out),
            _ => {}
        }
    }

    /// Records that leave this job.
    pub(super) fn records(&self) -> Vec<Record> {
        let mut records = vec![Record::Submitted(self.spec.clone())];
        if self.epoch > 0 {
            records.push(Record::Started { job: self.id, epoch: self.epoch });
        }
        if let Stage::Paying { report, recorded: true, .. } = &self.stage {
            records.push(Record::Decided(report.clone()));
        }
        records
    }

    pub(super) fn state(&self) -> State {
        match &self.stage {
            Stage::Promising => State::Queued,
            Stage::Running { .. } if self.attempts.is_empty() && self.claims.is_empty() => State::Queued,
            Stage::Over(report) => report.state,
            _ => State::Running,
        }
    }

    pub(super) fn uses(&self, node: &NodeId) -> bool {
        self.attempts.iter().any(|attempt| attempt.node == *node)
    }

    /// Whether it is short of nodes.
    pub(super) const fn wants_nodes(&self) -> bool {
        matches!(self.stage, Stage::Running { .. }) && self.attempts.len() + self.claims.len() < self.wanted
    }

    /// When the job wants to be looked at again.
    pub(super) fn deadline(&self, now: Millis) -> Option<Millis> {
        match &self.stage {
            Stage::Running { stuck } => {
                // Once patience is over only the attempts still matter.
                let stuck = stuck.filter(|until| *until > now);
                self.attempts.iter().filter_map(|attempt| attempt.until).chain(stuck).min()
            }
            Stage::Judging { until } => Some(*until),
            Stage::Fetching { asked, .. } => asked.map(|(_, until)| until),
            Stage::Promising | Stage::Paying { .. } | Stage::Over(_) => None,
        }
    }

    pub(super) fn promised(&mut self, held: bool, _now: Millis) {
        if matches!(self.stage, Stage::Promising) {
            if held {
                self.epoch += 1;
                self.stage = Stage::Running { stuck: None };
            } else {
                self.fail("budget_exceeded", "the reserve fund has less free than maxTfuel".into());
            }
        }
    }

    pub(super) fn cancel(&mut self) {
        if !matches!(self.stage, Stage::Paying { .. } | Stage::Over(_)) {
            self.end(State::Cancelled, Some(("cancelled".into(), "the requester cancelled the job".into())));
        }
    }

    pub(super) fn fail(&mut self, code: &str, message: String) {
        self.end(State::Failed, Some((code.to_owned(), message)));
    }

    fn end(&mut self, state: State, error: Option<(String, String)>) {
        self.stage = Stage::Over(Report { state, error, ..self.report() });
    }

    fn report(&self) -> Report {
        Report {
            job: self.id,
            state: State::Failed,
            error: None,
            output: None,
            verification: Verification::None,
            attempts: self.offers,
            paid: Vec::new(),
            wrong: Vec::new(),
        }
    }

    /// A node is gone. What it promised to show it cannot show any more.
    pub(super) fn lost(&mut self, node: NodeId) {
        if self.uses(&node) {
            self.fault(node);
        }
        if let Stage::Fetching { asked, .. } = &mut self.stage {
            *asked = asked.filter(|(from, _)| *from != node);
        }
    }

    fn fault(&mut self, node: NodeId) {
        self.attempts.retain(|attempt| attempt.node != node);
        self.faults += 1;
    }

    /// Drops everything whose time is over.
    pub(super) fn expire(&mut self, now: Millis) {
        let late: Vec<NodeId> = self
            .attempts
            .iter()
            .filter(|attempt| attempt.until.is_some_and(|until| until <= now))
            .map(|attempt| attempt.node)
            .collect();
        late.into_iter().for_each(|node| self.fault(node));
        match &mut self.stage {
            Stage::Judging { until } if *until <= now => self.checked(None),
            Stage::Fetching { asked, .. } => *asked = asked.filter(|(_, until)| *until > now),
            _ => {}
        }
    }

    pub(super) fn message(&mut self, from: NodeId, message: Message, now: Millis, settings: &Settings) {
        if !matches!(self.stage, Stage::Running { .. }) {
            return;
        }
        let cap = self.spec.attempt_cap();
        let Some(attempt) = self.attempts.iter_mut().find(|attempt| attempt.node == from) else { return };
        match (message, attempt.step) {
            (Message::Accepted { price, .. }, Step::Offered) => {
                if price.of(self.spec.limits.fuel).is_none_or(|most| most > cap) {
                    self.fault(from);
                    return;
                }
                attempt.step = Step::Running { price };
                let wall = self.spec.limits.wall_seconds.saturating_mul(1000);
                attempt.until = Some(now.saturating_add(wall).saturating_add(settings.grace_ms));
            }
            (Message::Rejected { reason, .. }, Step::Offered) => {
                self.attempts.retain(|attempt| attempt.node != from);
                self.refusal = Some(reason.message());
                // Being busy is no fault, but a node that is busy without end is not asked without end.
                if matches!(reason, Reject::Busy { .. }) && self.offers < MAX_OFFERS {
                    self.tried.remove(&from);
                }
            }
            (Message::Committed { commit, .. }, Step::Running { price }) => {
                attempt.step = Step::Committed { price, commit };
                attempt.until = None;
            }
            (Message::Failed { .. }, Step::Offered | Step::Running { .. }) => self.fault(from),
            (Message::Revealed { output, salt, .. }, Step::Revealing { price, commit }) => {
                let bound = commitment(from, &self.task_id, self.epoch, &output.digest(), &salt);
                if bound != commit || !self.possible(&output) {
                    self.fault(from);
                    return;
                }
                self.attempts.retain(|attempt| attempt.node != from);
                self.claims.push(Claim { node: from, output });
                self.prices.push(price);
            }
            _ => {}
        }
    }

    /// Whether a result is within the limits of the job; one that is not cannot come from running it.
    fn possible(&self, output: &Output) -> bool {
        let bytes = output.blobs().try_fold(0_u64, |sum, blob| sum.checked_add(blob.len));
        output.fuel_used <= self.spec.limits.fuel
            && bytes.is_some_and(|bytes| bytes <= u64::from(self.spec.limits.output_mib) << 20)
    }

    pub(super) fn checked(&mut self, digest: Option<Hash>) {
        if !matches!(self.stage, Stage::Judging { .. }) {
            return;
        }
        match digest.filter(|digest| self.claims.iter().any(|claim| claim.output.digest() == *digest)) {
            Some(digest) => self.accept(&digest, Verification::Reexecuted),
            None => {
                let wrong = self.claims.iter().map(|claim| claim.node).collect();
                let message = "the nodes gave different results and no re-execution confirmed one".to_owned();
                let error = Some(("disagreement".to_owned(), message));
                self.stage = Stage::Over(Report { error, wrong, ..self.report() });
            }
        }
    }

    /// Takes a result as the truth; what is missing is its bytes.
    fn accept(&mut self, digest: &Hash, verification: Verification) {
        let right: Vec<&Claim> =
            self.claims.iter().filter(|claim| claim.output.digest() == *digest).collect();
        if let Some(first) = right.first() {
            let output = first.output.clone();
            let sources = right.iter().rev().map(|claim| claim.node).collect();
            self.stage = Stage::Fetching { output, verification, sources, asked: None };
        }
    }

    pub(super) fn fetched(&mut self, from: NodeId, complete: bool) {
        if let Stage::Fetching { output, verification, asked, .. } = &mut self.stage {
            if asked.is_none_or(|(node, _)| node != from) {
                return;
            }
            if complete {
                let (output, verification) = (output.clone(), *verification);
                self.decided(output, verification);
            } else {
                *asked = None;
            }
        }
    }

    fn decided(&mut self, output: Output, verification: Verification) {
        let digest = output.digest();
        let mut paid = Vec::new();
        for (claim, price) in self.claims.iter().zip(&self.prices) {
            let earned = price.earned(&claim.output).filter(|_| claim.output.digest() == digest);
            if let Some(amount) = earned.filter(|amount| !amount.is_zero()) {
                paid.push(Earned { node: claim.node, item: item(&self.task_id, claim.node), amount });
            }
        }
        let error = output.ending.code().map(|code| (code.to_owned(), output.ending.message()));
        let state = if error.is_none() { State::Succeeded } else { State::Failed };
        let wrong = others(&self.claims, &digest).into_iter().collect();
        let report =
            Report { state, error, output: Some(output), verification, paid, wrong, ..self.report() };
        self.stage = Stage::Paying { waiting: report.payees().collect(), report, recorded: false };
    }

    pub(super) fn paid(&mut self, node: NodeId, signed: bool) {
        if let Stage::Paying { report, waiting, .. } = &mut self.stage
            && waiting.remove(&node)
            && !signed
        {
            report.paid.retain(|earned| earned.node != node);
        }
    }

    /// One step forward. `candidate` is the node to ask next, if there is one; `later` says that there is none now, but one
    /// that has no room may get some.
    pub(super) fn advance(
        &mut self,
        candidate: Option<NodeId>,
        later: bool,
        now: Millis,
        settings: &Settings,
        out: &mut Vec<Effect>,
    ) -> Next {
        match &mut self.stage {
            Stage::Running { .. } => self.advance_running(candidate, later, now, settings, out),
            Stage::Fetching { output, sources, asked, verification } => {
                if asked.is_some() {
                    return Next::Wait;
                }
                let blobs: Vec<_> = output.blobs().filter(|blob| blob.len > 0).collect();
                let (output, verification) = (output.clone(), *verification);
                match sources.pop() {
                    _ if blobs.is_empty() => self.decided(output, verification),
                    Some(from) => {
                        *asked = Some((from, now.saturating_add(settings.fetch_ms)));
                        out.push(Effect::Fetch { job: self.id, from, blobs });
                        return Next::Wait;
                    }
                    None => self.fail("output_lost", "no node handed over the output it had shown".into()),
                }
                Next::Again
            }
            Stage::Paying { report, waiting, .. } if waiting.is_empty() => {
                self.stage = Stage::Over(report.clone());
                Next::Again
            }
            Stage::Paying { report, recorded, .. } => {
                if !std::mem::replace(recorded, true) {
                    out.push(Effect::Append(Record::Decided(report.clone())));
                    pay(report, out);
                }
                Next::Wait
            }
            Stage::Over(report) => {
                let report = report.clone();
                let (task, epoch) = (self.task_id, self.epoch);
                for attempt in &self.attempts {
                    out.push(Effect::Send { to: attempt.node, message: Message::Cancel { task, epoch } });
                }
                Next::Finished(Box::new(report))
            }
            Stage::Promising | Stage::Judging { .. } => Next::Wait,
        }
    }

    fn advance_running(
        &mut self,
        candidate: Option<NodeId>,
        later: bool,
        now: Millis,
        settings: &Settings,
        out: &mut Vec<Effect>,
    ) -> Next {
        let Stage::Running { stuck } = &mut self.stage else { return Next::Wait };
        let missing = self.attempts.len() + self.claims.len() < self.wanted;
        let given_up = match (missing, candidate) {
            (true, Some(node)) if self.faults <= settings.retries => {
                *stuck = None;
                self.offer(node, now, settings, out);
                return Next::Again;
            }
            (true, _) if later && self.faults <= settings.retries => {
                *stuck = None;
                false
            }
            (true, _) => {
                let until = *stuck.get_or_insert(now.saturating_add(settings.patience_ms));
                until <= now || self.faults > settings.retries
            }
            (false, _) => {
                *stuck = None;
                false
            }
        };
        if missing && !given_up {
            return Next::Wait;
        }
        if !self.attempts.is_empty() {
            self.call_reveals(now, settings, out);
            return Next::Wait;
        }
        if self.claims.is_empty() {
            let refusal = self.refusal.map(|refusal| format!("; the last one that refused: {refusal}"));
            let message = format!(
                "no node took the job and finished it: {} asked, {} failed{}",
                self.offers,
                self.faults,
                refusal.unwrap_or_default()
            );
            self.fail("no_capacity", message);
            return Next::Again;
        }
        match decide(&self.claims, self.spec.quorum, (candidate.is_some() || later) && !given_up) {
            Decision::Agreed(digest) => {
                let agree = self.claims.iter().filter(|claim| claim.output.digest() == digest).count();
                let (agree, of) = (agree as u8, self.claims.len() as u8);
                self.accept(&digest, Verification::Quorum { agree, of });
            }
            Decision::Another => self.wanted = self.claims.len() + 1,
            Decision::Referee => {
                let mut claims: Vec<Output> = Vec::new();
                for claim in &self.claims {
                    if claims.iter().all(|output| output.digest() != claim.output.digest()) {
                        claims.push(claim.output.clone());
                    }
                }
                // Time to run it once for each claim.
                let runs = self.spec.limits.wall_seconds.saturating_mul(1000 * claims.len() as u64);
                self.stage =
                    Stage::Judging { until: now.saturating_add(runs).saturating_add(settings.fetch_ms) };
                out.push(Effect::Check { job: self.id, task: self.task.clone(), claims });
            }
        }
        Next::Again
    }

    fn offer(&mut self, node: NodeId, now: Millis, settings: &Settings, out: &mut Vec<Effect>) {
        if self.offers == 0 {
            out.push(Effect::Append(Record::Started { job: self.id, epoch: self.epoch }));
        }
        self.offers += 1;
        self.tried.insert(node);
        let until = Some(now.saturating_add(settings.offer_ms));
        self.attempts.push(Attempt { node, step: Step::Offered, until });
        let (task, pool, cap) = (self.task.clone(), self.spec.pool.clone(), self.spec.attempt_cap());
        out.push(Effect::Send { to: node, message: Message::Offer { task, epoch: self.epoch, pool, cap } });
    }

    /// Asks everyone to show, once everyone who is still at it is bound.
    fn call_reveals(&mut self, now: Millis, settings: &Settings, out: &mut Vec<Effect>) {
        if self.attempts.iter().any(|attempt| matches!(attempt.step, Step::Offered | Step::Running { .. })) {
            return;
        }
        for attempt in &mut self.attempts {
            if let Step::Committed { price, commit } = attempt.step {
                attempt.step = Step::Revealing { price, commit };
                attempt.until = Some(now.saturating_add(settings.reveal_ms));
                let message = Message::Reveal { task: self.task_id, epoch: self.epoch };
                out.push(Effect::Send { to: attempt.node, message });
            }
        }
    }
}

fn pay(report: &Report, out: &mut Vec<Effect>) {
    for earned in &report.paid {
        out.push(Effect::Pay {
            job: report.job,
            node: earned.node,
            item: earned.item,
            amount: earned.amount,
        });
    }
}
