//! One job on its way: offers, commitments, results, decision, pay.

use std::collections::BTreeSet;

use theta_core::hash::Hash;

use super::report::{Earned, Report, State, Verification};
use super::{Effect, Record, Settings, item, others, place};
use crate::Millis;
use crate::executor::Output;
use crate::identity::NodeId;
use crate::job::{JobSpec, Task};
use crate::message::{Message, Reject};
use crate::payment::Price;
use crate::placement::{Answer, AttemptId, GiveUp, JobRequest, Refusal, Spill};
use crate::verify::{Claim, Decision, commitment, decide};

/// Offers after which a node that was busy is not asked again.
const MAX_OFFERS: u32 = 64;
/// Requests beyond one for each result that may be looked at.
const MORE_ROUNDS: u32 = 8;

/// Whether a job can go on by itself.
pub(super) enum Next {
    Wait,
    Again,
    /// So many more nodes are to be found.
    Ask(usize),
    /// No more are.
    Withdraw,
    Finished(Box<Report>),
}

#[derive(Debug)]
pub(super) enum Stage {
    /// The purse was asked to set the money aside.
    Promising,
    /// Nodes are asked, run and show.
    Running,
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
    /// What placement calls it.
    pub(super) place: AttemptId,
    /// Of which pool it is, and why it went there.
    pub(super) pool: Option<(usize, Spill)>,
    pub(super) step: Step,
    /// A commitment that came before the node's word that it runs: messages overtake each other.
    early: Option<Hash>,
    /// When the node has to have made its next step, where that is not placement's to watch.
    pub(super) until: Option<Millis>,
}

#[derive(Debug)]
pub(super) struct Job {
    pub(super) id: Hash,
    pub(super) task_id: Hash,
    /// Its place in the order in which jobs came.
    pub(super) number: u64,
    pub(super) epoch: u64,
    pub(super) stage: Stage,
    spec: JobSpec,
    task: Task,
    pub(super) attempts: Vec<Attempt>,
    pub(super) claims: Vec<Claim>,
    /// Price and attempt of each claim, in the same order.
    shown: Vec<(Price, AttemptId)>,
    /// Nodes that failed, refused, or were too late.
    pub(super) tried: BTreeSet<NodeId>,
    /// Results wanted before they are compared.
    pub(super) wanted: usize,
    /// Tasks that placement was asked to find nodes for and of which no result was shown.
    pub(super) asked: usize,
    /// How often it was.
    pub(super) rounds: u32,
    /// No more nodes are asked; it goes on with what it has.
    pub(super) given_up: bool,
    /// Since when nothing has changed about who could be asked.
    since: Millis,
    pub(super) faults: u32,
    pub(super) offers: u32,
    /// Machines of pools that were asked, and why.
    spilled: Vec<(NodeId, Spill)>,
    /// Why the last node that would not take it would not.
    pub(super) refusal: Option<&'static str>,
    /// When it wants to be looked at, as the scheduler has it.
    pub(super) timer: Option<Millis>,
}

impl Job {
    pub(super) fn new(spec: JobSpec, number: u64) -> Self {
        let task = spec.task();
        Self {
            id: task.job,
            task_id: task.id(),
            number,
            epoch: 0,
            stage: Stage::Promising,
            wanted: usize::from(spec.quorum.agree),
            spec,
            task,
            attempts: Vec::new(),
            claims: Vec::new(),
            shown: Vec::new(),
            tried: BTreeSet::new(),
            asked: 0,
            rounds: 0,
            given_up: false,
            since: 0,
            faults: 0,
            offers: 0,
            spilled: Vec::new(),
            refusal: None,
            timer: None,
        }
    }

    pub(super) const fn spec(&self) -> &JobSpec {
        &self.spec
    }

    pub(super) const fn fund(&self) -> u64 {
        self.spec.pool.reserve_sequence
    }

    /// What is asked of placement next: nodes that have not had a go, for so many more results.
    pub(super) fn request(&self, count: usize, settings: &Settings) -> JobRequest {
        let known = self.attempts.iter().map(|attempt| attempt.node);
        let known = known.chain(self.claims.iter().map(|claim| claim.node)).chain(self.tried.iter().copied());
        place::request(&self.spec, &self.id, self.rounds, count, settings, known.collect())
    }

    /// Names of what placement was asked.
    pub(super) fn requests(&self) -> Vec<Hash> {
        (0..self.rounds).map(|round| place::request_id(&self.id, round)).collect()
    }

    /// The last round that may be on record.
    pub(super) fn most_rounds(&self) -> u32 {
        u32::from(self.spec.quorum.max) + MORE_ROUNDS
    }

    /// Whether a node has had to do with it.
    pub(super) fn knows(&self, node: &NodeId) -> bool {
        self.attempts.iter().any(|attempt| attempt.node == *node)
            || self.claims.iter().any(|claim| claim.node == *node)
            || self.tried.contains(node)
    }

    /// Whether a node runs its task now.
    pub(super) fn is_run_by(&self, node: &NodeId) -> bool {
        let runs = |attempt: &Attempt| attempt.node == *node && attempt.step != Step::Offered;
        matches!(self.stage, Stage::Running) && self.attempts.iter().any(runs)
    }

    /// Whether an attempt's node has said that it runs.
    pub(super) fn has_begun(&self, place: AttemptId) -> bool {
        let offered = |attempt: &Attempt| attempt.place == place && attempt.step == Step::Offered;
        !self.attempts.iter().any(offered)
    }

    /// Tasks that no node has.
    pub(super) fn waiting(&self) -> usize {
        let with_nodes: BTreeSet<u32> = self.attempts.iter().map(|attempt| attempt.place.task).collect();
        self.asked.saturating_sub(with_nodes.len())
    }

    /// Asks for what the job was waiting for when nobody remembers having been asked.
    pub(super) fn resume(&self, out: &mut Vec<Effect>) {
        match &self.stage {
            Stage::Promising => {
                let (fund, amount) = (self.fund(), self.spec.total_cap);
                out.push(Effect::Promise { job: self.id, fund, amount });
            }
            Stage::Paying { report, .. } => pay(report, self.fund(), out),
            _ => {}
        }
    }

    /// Goes on where the records end: the money was set aside before anything was offered.
    pub(super) fn resume_running(&mut self, now: Millis) {
        self.epoch += 1;
        (self.stage, self.since) = (Stage::Running, now);
    }

    /// Takes an attempt up again that was out.
    pub(super) fn readopt(
        &mut self,
        node: NodeId,
        place: AttemptId,
        bound: bool,
        now: Millis,
        settings: &Settings,
    ) {
        // Where the node was bound to its result placement waits no more.
        let until = bound.then(|| now.saturating_add(self.wall_ms()).saturating_add(settings.grace_ms));
        self.attempts.push(Attempt { node, place, pool: None, step: Step::Offered, early: None, until });
        self.offers += 1;
    }

    /// Offers of what was taken up again.
    pub(super) fn offer_again(&self) -> Vec<(NodeId, Message)> {
        let running = matches!(self.stage, Stage::Running);
        let attempts = self.attempts.iter().filter(|_| running);
        attempts.map(|attempt| (attempt.node, self.message_of_offer())).collect()
    }

    /// The record of its decision.
    pub(super) fn decision(&self) -> Option<Record> {
        match &self.stage {
            Stage::Paying { report, recorded: true, .. } => Some(Record::Decided(report.clone())),
            _ => None,
        }
    }

    pub(super) fn state(&self) -> State {
        match &self.stage {
            Stage::Promising => State::Queued,
            Stage::Running if self.attempts.is_empty() && self.claims.is_empty() => State::Queued,
            Stage::Over(report) => report.state,
            _ => State::Running,
        }
    }

    const fn wall_ms(&self) -> Millis {
        self.spec.limits.wall_seconds.saturating_mul(1_000)
    }

    /// When it has waited long enough for somebody who could be asked, if it waits.
    pub(super) fn patience(&self, last_down: Millis, settings: &Settings) -> Option<Millis> {
        let waits = matches!(self.stage, Stage::Running) && !self.given_up && self.waiting() > 0;
        waits.then(|| self.since.max(last_down).saturating_add(settings.patience_ms))
    }

    /// There is somebody.
    pub(super) const fn wait_from(&mut self, now: Millis) {
        self.since = now;
    }

    /// When the job wants to be looked at again.
    pub(super) fn deadline(&self, last_down: Millis, settings: &Settings) -> Option<Millis> {
        match &self.stage {
            Stage::Running => {
                let attempts = self.attempts.iter().filter_map(|attempt| attempt.until);
                attempts.chain(self.patience(last_down, settings)).min()
            }
            Stage::Judging { until } => Some(*until),
            Stage::Fetching { asked, .. } => asked.map(|(_, until)| until),
            Stage::Promising | Stage::Paying { .. } | Stage::Over(_) => None,
        }
    }

    /// Whether it begins to be offered with this.
    pub(super) fn promised(&mut self, held: bool, now: Millis) -> bool {
        let waits = matches!(self.stage, Stage::Promising);
        if waits && held {
            self.epoch += 1;
            (self.stage, self.since) = (Stage::Running, now);
        } else if !held && matches!(self.stage, Stage::Promising | Stage::Running) {
            self.fail("budget_exceeded", "the reserve fund has less free than maxTfuel".into());
        }
        waits && held
    }

    pub(super) fn cancel(&mut self) {
        if !matches!(self.stage, Stage::Paying { .. } | Stage::Over(_)) {
            self.end(State::Cancelled, Some(("cancelled".into(), "the requester cancelled the job".into())));
        }
    }

    /// Placement will find no node for one of its tasks.
    pub(super) fn gave_up(&mut self, why: GiveUp) {
        self.asked = self.asked.saturating_sub(1);
        match why {
            GiveUp::Deadline if matches!(self.stage, Stage::Running) => {
                self.fail("deadline", "it was not done by its deadline".into());
            }
            _ => self.given_up = true,
        }
    }

    /// Placement does not take what it asks for.
    pub(super) fn refused(&mut self, why: Refusal) {
        let code = match why {
            Refusal::Deadline => "deadline",
            _ => "busy",
        };
        self.fail(code, why.to_string());
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
            spilled: self.spilled.clone(),
        }
    }

    /// An attempt is over, and whether its node was bound to a result.
    pub(super) fn drop_attempt(&mut self, place: AttemptId, again: bool, now: Millis) -> bool {
        let Some(index) = self.attempts.iter().position(|attempt| attempt.place == place) else {
            return false;
        };
        let attempt = self.attempts.swap_remove(index);
        self.since = now;
        if !again {
            self.tried.insert(attempt.node);
        }
        matches!(attempt.step, Step::Committed { .. } | Step::Revealing { .. })
    }

    /// Drops everything whose time is over; attempts among it are given back.
    pub(super) fn expire(&mut self, now: Millis) -> Vec<AttemptId> {
        match &mut self.stage {
            Stage::Judging { until } if *until <= now => self.checked(None),
            Stage::Fetching { asked, .. } => *asked = asked.filter(|(_, until)| *until > now),
            _ => {}
        }
        let late = self.attempts.iter().filter(|attempt| attempt.until.is_some_and(|until| until <= now));
        let late: Vec<AttemptId> = late.map(|attempt| attempt.place).collect();
        self.faults += late.len() as u32;
        late
    }

    /// What a node says; what placement has to hear of it.
    pub(super) fn message(
        &mut self,
        from: NodeId,
        message: Message,
        now: Millis,
    ) -> Option<(AttemptId, Answer)> {
        if !matches!(self.stage, Stage::Running) {
            return None;
        }
        let cap = self.spec.attempt_cap();
        let attempt = self.attempts.iter_mut().find(|attempt| attempt.node == from)?;
        let place = attempt.place;
        let answer = match (message, attempt.step) {
            (Message::Accepted { price, .. }, Step::Offered) => {
                if price.of(self.spec.limits.fuel).is_none_or(|most| most > cap) {
                    Answer::Failed
                } else {
                    attempt.step = Step::Running { price };
                    Answer::Accepted
                }
            }
            (Message::Rejected { reason, .. }, Step::Offered) => {
                self.refusal = Some(reason.message());
                match reason {
                    // Being busy is no fault, but a node that is busy without end is not asked without end.
                    Reject::Busy { retry_ms } if self.offers < MAX_OFFERS => Answer::Busy { retry_ms },
                    _ => Answer::Refused,
                }
            }
            (Message::Committed { commit, .. }, Step::Offered) => {
                attempt.early = Some(commit);
                return None;
            }
            (Message::Committed { commit, .. }, Step::Running { price }) => {
                attempt.step = Step::Committed { price, commit };
                attempt.until = None;
                Answer::Bound
            }
            (Message::Failed { .. }, Step::Offered | Step::Running { .. }) => Answer::Failed,
            (Message::Revealed { output, salt, .. }, Step::Revealing { price, commit }) => {
                let bound = commitment(from, &self.task_id, self.epoch, &output.digest(), &salt);
                if bound != commit || !self.possible(&output) {
                    Answer::Failed
                } else {
                    self.attempts.retain(|attempt| attempt.node != from);
                    self.claims.push(Claim { node: from, output });
                    self.shown.push((price, place));
                    self.asked = self.asked.saturating_sub(1);
                    self.since = now;
                    return None;
                }
            }
            _ => return None,
        };
        self.faults += u32::from(answer == Answer::Failed);
        Some((place, answer))
    }

    /// What a node that has just said that it runs had said before.
    pub(super) fn overtaken(&mut self, from: NodeId) -> Option<Message> {
        let attempt = self.attempts.iter_mut().find(|attempt| attempt.node == from)?;
        let runs = matches!(attempt.step, Step::Running { .. });
        let commit = attempt.early.take_if(|_| runs)?;
        Some(Message::Committed { task: self.task_id, epoch: self.epoch, commit })
    }

    /// Claims and their attempts, when they are not needed any more.
    pub(super) fn take_claims(&mut self) -> Vec<(Claim, AttemptId)> {
        let claims = std::mem::take(&mut self.claims);
        claims
            .into_iter()
            .zip(std::mem::take(&mut self.shown))
            .map(|(claim, (_, place))| (claim, place))
            .collect()
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
        for (claim, (price, _)) in self.claims.iter().zip(&self.shown) {
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

    /// One step forward. `others` says whether somebody could be asked who was not.
    pub(super) fn advance(
        &mut self,
        others: impl Fn(&Self) -> bool,
        now: Millis,
        settings: &Settings,
        out: &mut Vec<Effect>,
    ) -> Next {
        match &mut self.stage {
            Stage::Running => self.advance_running(others, now, settings, out),
            Stage::Fetching { output, sources, asked, verification } => {
                if asked.is_some() {
                    return Next::Wait;
                }
                let bare = output.blobs().all(|blob| blob.len == 0);
                let (output, verification) = (output.clone(), *verification);
                match sources.pop() {
                    _ if bare => self.decided(output, verification),
                    Some(from) => {
                        *asked = Some((from, now.saturating_add(settings.fetch_ms)));
                        let output = Box::new(output);
                        out.push(Effect::Fetch { job: self.id, from, output });
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
                    let fund = self.spec.pool.reserve_sequence;
                    pay(report, fund, out);
                }
                Next::Wait
            }
            Stage::Over(report) => {
                let report = report.clone();
                Next::Finished(Box::new(report))
            }
            Stage::Promising | Stage::Judging { .. } => Next::Wait,
        }
    }

    fn advance_running(
        &mut self,
        others: impl Fn(&Self) -> bool,
        now: Millis,
        settings: &Settings,
        out: &mut Vec<Effect>,
    ) -> Next {
        let short = self.wanted.saturating_sub(self.claims.len() + self.asked);
        if short > 0 && !self.given_up {
            return Next::Ask(short);
        }
        match (self.waiting(), self.given_up) {
            (0, _) => {}
            (_, true) => return Next::Withdraw,
            (_, false) => return Next::Wait,
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
        let others = !self.given_up && others(self);
        match decide(&self.claims, self.spec.quorum, others) {
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

    /// The offer of an attempt that placement made.
    pub(super) fn offer(&mut self, node: NodeId, place: AttemptId, pool: Option<(usize, Spill)>) -> Message {
        self.offers += 1;
        self.spilled.extend(pool.map(|(_, why)| (node, why)));
        self.attempts.push(Attempt { node, place, pool, step: Step::Offered, early: None, until: None });
        self.message_of_offer()
    }

    fn message_of_offer(&self) -> Message {
        let (task, pool, cap) = (self.task.clone(), self.spec.pool.clone(), self.spec.attempt_cap());
        Message::Offer { task, epoch: self.epoch, pool, cap }
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

fn pay(report: &Report, fund: u64, out: &mut Vec<Effect>) {
    for earned in &report.paid {
        out.push(Effect::Pay {
            job: report.job,
            fund,
            node: earned.node,
            item: earned.item,
            amount: earned.amount,
        });
    }
}
