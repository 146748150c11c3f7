//! A requester in one piece: scheduler, its journal, and a purse for each fund, so that a host only moves bytes.
//!
//! The order that makes money safe is kept here: a record is durable before what follows from it, a promise is held
//! before anything is offered, and a receipt leaves only by the purse. After a fatal error ([`RequesterError::is_fatal`])
//! the host opens it again from its journals.

use std::collections::VecDeque;
use std::sync::Arc;

use theta_core::amount::TFuelWei;
use theta_core::hash::{Address, Hash};
use theta_core::journal::{Deferred, Disk, JournalError};
use theta_core::sign::Signer;

use crate::Millis;
use crate::chain::Fund;
use crate::executor::Output;
use crate::history::History;
use crate::identity::NodeId;
use crate::infer::MAX_FRAME;
use crate::job::{JobError, JobSpec, PoolRef, Task};
use crate::message::{Envelope, Message, MessageError};
use crate::payment::PayError;
use crate::payment::purse::Purse;
use crate::payment::tick::TickError;
use crate::placement::Refusal;
use crate::scheduler::{Effect, Input, Record, Report, Scheduler, Settings};

/// What is left for the host to do, in order.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Todo {
    /// Bring this envelope to a node. It may be lost.
    Send {
        /// To whom.
        to: NodeId,
        /// Bytes of an [`Envelope`].
        envelope: Vec<u8>,
    },
    /// Run [`crate::executor::Executor::check`] on the claims until one holds; answer with [`Input::Checked`].
    Check {
        /// Which job.
        job: Hash,
        /// What to run.
        task: Task,
        /// What nodes say came out.
        claims: Vec<Output>,
    },
    /// Fetch the blobs of an output from a node into the own store; answer with [`Input::Fetched`], and not as complete
    /// where the host sees that the output cannot be one of this task: nothing is paid then.
    Fetch {
        /// Which job.
        job: Hash,
        /// Whom to ask.
        from: NodeId,
        /// What.
        output: Box<Output>,
    },
    /// A piece of the text that a job makes, from the node that runs it. Pieces may be lost, and come out of order; the
    /// job's output decides.
    Frame {
        /// Which job.
        job: Hash,
        /// Whose piece it is.
        from: NodeId,
        /// Bytes of the text that come before it.
        at: u64,
        /// The piece.
        text: String,
    },
    /// A job came to its end.
    Finished(Report),
    /// Step with [`Input::Tick`] then. A later one replaces it.
    WakeAt(Millis),
}

/// Why a requester cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequesterError {
    /// Its journal cannot be written or read.
    #[error("the job journal cannot be used")]
    Journal(#[from] JournalError),
    /// Its purse cannot be used.
    #[error("the purse cannot be used")]
    Purse(#[from] PayError),
    /// A message could not be made or read.
    #[error("a message cannot be used")]
    Message(#[from] MessageError),
    /// The job cannot be taken.
    #[error("the job cannot be taken")]
    Job(#[from] JobError),
    /// The job is not taken now.
    #[error("the job is not taken now")]
    Refused(#[from] Refusal),
}

impl RequesterError {
    /// Whether the requester must not be used any more and has to be opened again: what its disk or its key did is
    /// unknown. Anything else changed nothing.
    pub const fn is_fatal(&self) -> bool {
        matches!(
            self,
            Self::Journal(_)
                | Self::Purse(PayError::Journal(_) | PayError::Sign(_))
                | Self::Message(MessageError::Sign(_))
        )
    }
}

/// Scheduler, journal and purses of one key on one chain.
pub struct Requester {
    chain_id: String,
    signer: Arc<dyn Signer>,
    scheduler: Scheduler,
    journal: History<Record>,
    /// One for each fund that is in use, the newest last.
    purses: Vec<Purse>,
    /// Whether the journals are [`Deferred`](theta_core::journal::Deferred).
    deferred: bool,
    /// Ends of jobs, to be put on record once what was paid for them is durable.
    ended: Vec<(Hash, Record)>,
    /// Jobs whose end is on record, and whose promises are given back once that is durable.
    closed: Vec<Hash>,
}

impl std::fmt::Debug for Requester {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Requester")
            .field("purses", &self.purses)
            .field("scheduler", &self.scheduler)
            .finish_non_exhaustive()
    }
}

impl Requester {
    /// Opens a requester where its journals left it, and says what there is to do at once. `purses` are those of the funds
    /// that jobs in hand are paid from; one that was never opened before takes the first fund that it adopts.
    pub fn open(
        chain_id: &str,
        signer: Arc<dyn Signer>,
        settings: Settings,
        jobs: impl Disk + 'static,
        purses: Vec<Purse>,
        now: Millis,
    ) -> Result<(Self, Vec<Todo>), RequesterError> {
        Self::open_with(chain_id, signer, settings, jobs, purses, (now, false))
    }

    /// The same over [`Deferred`] journals, so that many steps cost one sync. Before the host
    /// carries out what a step gave it commits them, that of the jobs before those of the purses, and then calls
    /// [`Self::committed`].
    pub fn open_deferred(
        chain_id: &str,
        signer: Arc<dyn Signer>,
        settings: Settings,
        jobs: Deferred<impl Disk + 'static>,
        purses: Vec<Purse>,
        now: Millis,
    ) -> Result<(Self, Vec<Todo>), RequesterError> {
        Self::open_with(chain_id, signer, settings, jobs, purses, (now, true))
    }

    fn open_with(
        chain_id: &str,
        signer: Arc<dyn Signer>,
        settings: Settings,
        jobs: impl Disk + 'static,
        purses: Vec<Purse>,
        (now, deferred): (Millis, bool),
    ) -> Result<(Self, Vec<Todo>), RequesterError> {
        let (journal, records) = History::open(jobs)?;
        let mut effects = Vec::new();
        let scheduler = Scheduler::recover(settings, records, now, &mut effects);
        let mut requester = Self {
            chain_id: chain_id.to_owned(),
            signer,
            scheduler,
            journal,
            purses,
            deferred,
            ended: Vec::new(),
            closed: Vec::new(),
        };
        requester.purses.sort_by_key(|purse| purse.fund().map_or(u64::MAX, |(sequence, _)| sequence));
        let todo = requester.carry_out(now, effects)?;
        Ok((requester, todo))
    }

    /// Pays from this fund from now on ([`Purse::adopt`]), by its purse or by one that has no fund yet.
    pub fn adopt(&mut self, fund: &Fund) -> Result<(), PayError> {
        let of_fund = |purse: &Purse| purse.fund().map(|(sequence, _)| sequence);
        let known = self.purses.iter().position(|purse| of_fund(purse) == Some(fund.reserve_sequence));
        let place = known.or_else(|| self.purses.iter().position(|purse| of_fund(purse).is_none()));
        self.purses.get_mut(place.ok_or(PayError::NoFund)?).map_or(Ok(()), |purse| purse.adopt(fund))
    }

    /// Adds the purse of another fund.
    pub fn add(&mut self, purse: Purse) {
        self.purses.push(purse);
    }

    /// Lets go of the purse of a fund that has ended. Jobs in hand that it pays for are not paid any more.
    pub fn remove(&mut self, fund: u64) {
        self.purses.retain(|purse| purse.fund().is_none_or(|(sequence, _)| sequence != fund));
    }

    /// The jobs.
    pub const fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }

    /// The money of a fund.
    pub fn purse(&self, fund: u64) -> Option<&Purse> {
        self.purses.iter().find(|purse| purse.fund().is_some_and(|(sequence, _)| sequence == fund))
    }

    fn purse_mut(&mut self, fund: u64) -> Option<&mut Purse> {
        self.purses.iter_mut().find(|purse| purse.fund().is_some_and(|(sequence, _)| sequence == fund))
    }

    /// The pool that jobs name which are paid from a fund.
    pub fn pool(&self, fund: u64) -> Option<PoolRef> {
        let purse = self.purse(fund)?;
        let (reserve_sequence, resource_id) = purse.fund()?;
        Some(PoolRef { payer: purse.payer(), reserve_sequence, resource_id: resource_id.to_owned() })
    }

    /// Takes a job. One that is known already changes nothing; one that cannot be run or paid here is refused with the
    /// field that is wrong, and one that there is no room for with the time to come back.
    pub fn submit(&mut self, now: Millis, spec: JobSpec) -> Result<Vec<Todo>, RequesterError> {
        spec.check()?;
        if spec.chain_id != self.chain_id {
            return Err(JobError::Known { field: "chainId", problem: "is another chain's" }.into());
        }
        if self.pool(spec.pool.reserve_sequence).as_ref() != Some(&spec.pool) {
            return Err(JobError::Known { field: "payment", problem: "names no fund that is in use" }.into());
        }
        self.scheduler.admits(&spec, now)?;
        self.step(now, Input::Submit(spec))
    }

    /// Whether a job would be taken now ([`Scheduler::admits`]).
    pub fn admits(&mut self, now: Millis, spec: &JobSpec) -> Result<(), Refusal> {
        self.scheduler.admits(spec, now)
    }

    /// Takes one input; a job comes by [`Self::submit`].
    pub fn step(&mut self, now: Millis, input: Input) -> Result<Vec<Todo>, RequesterError> {
        let mut effects = Vec::new();
        self.scheduler.step(now, input, &mut effects);
        self.carry_out(now, effects)
    }

    /// Takes an envelope that came from anywhere.
    pub fn receive(&mut self, now: Millis, envelope: &[u8]) -> Result<Vec<Todo>, RequesterError> {
        let (from, message) = Envelope::open(&self.chain_id, NodeId::of(&*self.signer), envelope)?;
        self.take(now, from, message)
    }

    /// Takes a message whose envelope was opened.
    pub fn take(&mut self, now: Millis, from: NodeId, message: Message) -> Result<Vec<Todo>, RequesterError> {
        if let Message::LastTick(tick) = message {
            if let Some(purse) = self.purse_mut(tick.reserve_sequence) {
                purse.shown_tick(&from.0, &tick)?;
            }
            return Ok(Vec::new());
        }
        if let Message::Acknowledged { reserve_sequence, payment_sequence, total } = message {
            if let Some(purse) = self.purse_mut(reserve_sequence) {
                purse.acknowledged(from.0, payment_sequence, total)?;
            }
            return Ok(Vec::new());
        }
        if let Message::Frame { task, epoch, at, text } = message {
            let job = self.scheduler.runs(&task, epoch, &from).filter(|_| text.len() <= MAX_FRAME);
            return Ok(job.map(|job| Todo::Frame { job, from, at, text }).into_iter().collect());
        }
        self.step(now, Input::Message { from, message })
    }

    /// Lets a node be paid by ticks out of a job's promise ([`Purse::open_ticks`]), and sends it the receipt.
    pub fn open_ticks(
        &mut self,
        job: &Hash,
        node: NodeId,
        unit: TFuelWei,
        max: u32,
        seed: [u8; 32],
    ) -> Result<Todo, RequesterError> {
        let fund = self.scheduler.fund(job).ok_or(PayError::NoPromise)?;
        let purse = self.purse_mut(fund).ok_or(PayError::NoFund)?;
        let payment = purse.open_ticks(job, node.0, unit, max, seed)?;
        self.send(node, &Message::Payment(payment))
    }

    /// Pays a node one unit more; every [`crate::payment::tick::WINDOW`] units by a receipt.
    pub fn tick(&mut self, fund: u64, node: NodeId) -> Result<Todo, RequesterError> {
        match self.purse_mut(fund).ok_or(PayError::NoFund)?.tick(&node.0) {
            Err(PayError::Tick(TickError::Window(_))) => self.roll_up(fund, node),
            tick => {
                let tick = tick?;
                self.send(node, &Message::Tick(tick))
            }
        }
    }

    /// Sends a node a receipt for its ticks; to be called every
    /// [`crate::payment::tick::WINDOW_MS`] while there are any.
    pub fn roll_up(&mut self, fund: u64, node: NodeId) -> Result<Todo, RequesterError> {
        let payment = self.purse_mut(fund).ok_or(PayError::NoFund)?.roll_up(&node.0)?;
        self.send(node, &Message::Payment(payment))
    }

    /// Learns from the chain what was settled, and sends what is owed beyond it.
    pub fn observe(&mut self, fund: &Fund) -> Result<Vec<Todo>, RequesterError> {
        let sequence = fund.reserve_sequence;
        let owed = self.purse_mut(sequence).map(|purse| purse.observe(fund)).transpose()?;
        self.send_payments(sequence, owed.unwrap_or_default())
    }

    /// Sends receipts again that no payee has acknowledged; to be called now and then.
    pub fn remind(&self) -> Result<Vec<Todo>, RequesterError> {
        let mut todo = Vec::new();
        for purse in &self.purses {
            if let Some((fund, _)) = purse.fund() {
                todo.extend(self.send_payments(fund, purse.unacknowledged())?);
            }
        }
        Ok(todo)
    }

    fn send_payments(&self, fund: u64, payees: Vec<Address>) -> Result<Vec<Todo>, RequesterError> {
        let mut todo = Vec::new();
        let Some(purse) = self.purse(fund) else { return Ok(todo) };
        for payee in payees {
            if let Some(payment) = purse.payment(&payee)? {
                todo.push(self.send(NodeId(payee), &Message::Payment(payment))?);
            }
        }
        Ok(todo)
    }

    fn send(&self, to: NodeId, message: &Message) -> Result<Todo, RequesterError> {
        let envelope = Envelope::seal(&self.chain_id, &*self.signer, to, message)?;
        Ok(Todo::Send { to, envelope })
    }

    /// Everything so far is durable. What may only now be written is, to be committed with the next step.
    pub fn committed(&mut self) -> Result<(), RequesterError> {
        for job in std::mem::take(&mut self.closed) {
            for purse in &mut self.purses {
                purse.release(&job)?;
            }
        }
        for (job, record) in std::mem::take(&mut self.ended) {
            self.journal.append(&record)?;
            self.closed.push(job);
        }
        self.tidy()
    }

    /// To be called where the journal says what the scheduler knows, and all that was paid is durable.
    fn tidy(&mut self) -> Result<(), RequesterError> {
        let size = self.scheduler.size();
        Ok(self.journal.tidy(size, || self.scheduler.records())?)
    }

    fn carry_out(&mut self, now: Millis, effects: Vec<Effect>) -> Result<Vec<Todo>, RequesterError> {
        let (mut todo, mut wake) = (Vec::new(), None);
        // What the purse answers makes new effects, which come after those at hand: the journal keeps their order.
        let mut queue = VecDeque::from(effects);
        while let Some(effect) = queue.pop_front() {
            let answer = match effect {
                Effect::Append(Record::Closed(report)) if self.deferred => {
                    self.ended.push((report.job, Record::Closed(report)));
                    None
                }
                Effect::Append(record) => {
                    self.journal.append(&record)?;
                    None
                }
                Effect::Promise { job, fund, amount } => {
                    let promised = self.purse_mut(fund).ok_or(PayError::NoFund);
                    match promised.and_then(|purse| purse.promise(job, amount)) {
                        Err(PayError::Journal(error)) => return Err(error.into()),
                        result => Some(Input::Promised { job, held: result.is_ok() }),
                    }
                }
                Effect::Pay { job, fund, node, item, amount } => {
                    let signed = self.pay(&job, fund, (node, item, amount), &mut todo)?;
                    Some(Input::Paid { job, node, signed })
                }
                Effect::Release { job } if self.ended.iter().any(|(ended, _)| *ended == job) => None,
                Effect::Release { job } => {
                    for purse in &mut self.purses {
                        purse.release(&job)?;
                    }
                    None
                }
                Effect::WakeAt(at) => {
                    wake = Some(at);
                    None
                }
                Effect::Send { to, message } => {
                    todo.push(self.send(to, &message)?);
                    None
                }
                Effect::Check { job, task, claims } => {
                    todo.push(Todo::Check { job, task, claims });
                    None
                }
                Effect::Fetch { job, from, output } => {
                    todo.push(Todo::Fetch { job, from, output });
                    None
                }
                Effect::Finished(report) => {
                    todo.push(Todo::Finished(report));
                    None
                }
            };
            if let Some(answer) = answer {
                let mut more = Vec::new();
                self.scheduler.step(now, answer, &mut more);
                queue.extend(more);
            }
        }
        // Now the journal says what the scheduler knows; in the middle of the effects it is behind.
        if !self.deferred {
            self.tidy()?;
        }
        todo.extend(wake.map(Todo::WakeAt));
        Ok(todo)
    }

    fn pay(
        &mut self,
        job: &Hash,
        fund: u64,
        (node, item, amount): (NodeId, Hash, TFuelWei),
        todo: &mut Vec<Todo>,
    ) -> Result<bool, RequesterError> {
        let purse = self.purse_mut(fund).ok_or(PayError::NoFund);
        match purse.and_then(|purse| purse.pay(job, node.0, item, amount)) {
            Ok(payment) => {
                todo.push(self.send(node, &Message::Payment(payment))?);
                Ok(true)
            }
            // A disk or a key that failed leaves open whether the entry stands; only opening again can tell.
            Err(error @ (PayError::Journal(_) | PayError::Sign(_))) => Err(error.into()),
            Err(_) => Ok(false),
        }
    }
}
