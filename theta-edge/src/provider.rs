//! An edge node in one piece: worker and till, so that a host only moves bytes, asks the chain, and runs engines.

use std::sync::Arc;

use theta_core::amount::TFuelWei;
use theta_core::hash::{Address, Hash};
use theta_core::sign::Signer;
use theta_ledger::tx::{RawTx, ServicePayment};

use crate::Millis;
use crate::chain::Fund;
use crate::executor::{Output, RunError};
use crate::identity::NodeId;
use crate::job::{PoolRef, Task};
use crate::message::{Envelope, Message, MessageError};
use crate::payment::PayError;
use crate::payment::receipt::{Payment, Receipt};
use crate::payment::till::{Due, Till};
use crate::payment::watch::{Beacon, Say};
use crate::worker::{Effect, Input, Settings, Worker};

/// Why the chain is asked for a fund; given back with the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ask {
    /// Whether work for it can be paid.
    Vet {
        /// Task id.
        task: Hash,
        /// Which pool.
        pool: PoolRef,
        /// How much.
        amount: TFuelWei,
    },
    /// Whether a receipt from it is good.
    Collect {
        /// Who sent it.
        from: NodeId,
        /// The receipt.
        payment: Payment,
    },
    /// How another payee's claim fits the fund.
    Hear(Beacon),
    /// The same, exactly.
    See(Receipt),
}

impl Ask {
    /// Payer and sequence of the fund to look up.
    pub const fn fund(&self) -> (Address, u64) {
        match self {
            Self::Vet { pool, .. } => (pool.payer, pool.reserve_sequence),
            Self::Collect { payment, .. } => (payment.receipt.payer, payment.receipt.reserve_sequence),
            Self::Hear(beacon) => (beacon.payer, beacon.reserve_sequence),
            Self::See(receipt) => (receipt.payer, receipt.reserve_sequence),
        }
    }
}

/// What is left for the host to do, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Todo {
    /// Bring this envelope to a requester. It may be lost.
    Send {
        /// To whom.
        to: NodeId,
        /// Bytes of an [`Envelope`].
        envelope: Vec<u8>,
    },
    /// Look up a fund and the height; answer with [`Provider::looked_up`].
    LookUp(Ask),
    /// Fetch the task's blobs from the requester, run it; answer with [`Provider::ran`].
    Run {
        /// Who has the blobs.
        requester: NodeId,
        /// What to run.
        task: Task,
    },
    /// Drop the run of this task.
    Stop {
        /// Task id.
        task: Hash,
    },
    /// Say this to every node that may be paid from the same fund ([`Provider::envelope`]).
    Tell(Message),
    /// The payer signed away more than its fund holds: look at its account and ask [`Provider::slash`] for the
    /// transaction that punishes it. Nothing more is served to it.
    Overspent {
        /// Who.
        payer: Address,
        /// Which fund.
        reserve_sequence: u64,
    },
}

/// Why a provider cannot do something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProviderError {
    /// A message could not be made or read.
    #[error("a message cannot be used")]
    Message(#[from] MessageError),
    /// A payment was not taken.
    #[error("a payment cannot be taken")]
    Pay(#[from] PayError),
}

impl ProviderError {
    /// Whether the node itself is broken: its disk or its key. Anything else is a peer's doing, to be noted and
    /// ignored.
    pub const fn is_own_fault(&self) -> bool {
        matches!(
            self,
            Self::Message(MessageError::Sign(_)) | Self::Pay(PayError::Journal(_) | PayError::Sign(_))
        )
    }
}

/// Worker and till of one key on one chain.
#[derive(Debug)]
pub struct Provider {
    chain_id: String,
    signer: Signing,
    worker: Worker,
    till: Till,
    pool_refusal: Option<String>,
}

struct Signing(Arc<dyn Signer>);

impl std::fmt::Debug for Signing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0.address())
    }
}

impl Provider {
    /// An edge node with this key. `secret` is kept with the key and never shown: results are bound by it.
    pub fn new(
        chain_id: &str,
        signer: Arc<dyn Signer>,
        settings: Settings,
        secret: [u8; 32],
        till: Till,
    ) -> Self {
        let worker = Worker::new(NodeId::of(&*signer), settings, secret);
        Self { chain_id: chain_id.to_owned(), signer: Signing(signer), worker, till, pool_refusal: None }
    }

    /// The till, for its book.
    pub const fn till(&self) -> &Till {
        &self.till
    }

    /// The till, to tell it of split rules ([`Till::set_rule`]).
    pub const fn till_mut(&mut self) -> &mut Till {
        &mut self.till
    }

    /// The worker, for its load.
    pub const fn worker(&self) -> &Worker {
        &self.worker
    }

    /// Why the last offer whose pool was no good was refused, in words.
    pub fn last_pool_refusal(&self) -> Option<&str> {
        self.pool_refusal.as_deref()
    }

    /// Takes an envelope that came from anywhere.
    pub fn receive(&mut self, now: Millis, envelope: &[u8]) -> Result<Vec<Todo>, ProviderError> {
        let me = NodeId::of(&*self.signer.0);
        let (from, message) = Envelope::open(&self.chain_id, me, envelope)?;
        self.take(now, from, message)
    }

    /// Takes a message whose envelope was opened.
    pub fn take(&mut self, now: Millis, from: NodeId, message: Message) -> Result<Vec<Todo>, ProviderError> {
        match message {
            Message::Tick(tick) => {
                let gain = self.till.tick(now, from.0, &tick)?;
                // Whoever releases a tick again has forgotten it.
                match self.till.last_tick(from.0, tick.reserve_sequence).filter(|_| gain.is_zero()) {
                    Some(last) => Ok(vec![self.send(from, &Message::LastTick(last))?]),
                    None => Ok(Vec::new()),
                }
            }
            Message::Beacon(beacon) => Ok(self.of_interest(Ask::Hear(beacon))),
            Message::Claim(receipt) => Ok(self.of_interest(Ask::See(receipt))),
            message => self.step(now, Input::Message { from, message }),
        }
    }

    /// Looks up only funds that owe this node something.
    fn of_interest(&self, ask: Ask) -> Vec<Todo> {
        let (payer, reserve_sequence) = ask.fund();
        if self.till.knows(payer, reserve_sequence) { vec![Todo::LookUp(ask)] } else { Vec::new() }
    }

    /// Says again what other payees may have missed; to be called about every
    /// [`crate::payment::watch::REPEAT_MS`].
    pub fn repeat(&mut self, now: Millis) -> Result<Vec<Todo>, ProviderError> {
        let said = self.till.repeat(now);
        said.into_iter().map(|say| self.tell(say)).collect()
    }

    /// A message for a node, sealed.
    pub fn envelope(&self, to: NodeId, message: &Message) -> Result<Vec<u8>, ProviderError> {
        Ok(Envelope::seal(&self.chain_id, &*self.signer.0, to, message)?)
    }

    /// The transaction that punishes an overspending payer, if it is proven ([`Till::overspending`]); `sequence` is that
    /// of this node's account plus one.
    pub fn slash(
        &self,
        payer: Address,
        reserve_sequence: u64,
        settled: &[ServicePayment],
        sequence: u64,
    ) -> Result<Option<RawTx>, PayError> {
        let proof = self.till.overspending(payer, reserve_sequence, settled);
        proof.map(|proof| self.till.slash(payer, &proof, sequence)).transpose()
    }

    fn tell(&self, say: Say) -> Result<Todo, ProviderError> {
        Ok(Todo::Tell(match say {
            Say::Beacon(receipt) => Message::Beacon(Beacon::sign(&receipt, &*self.signer.0)?),
            Say::Show(receipt) => Message::Claim(receipt),
        }))
    }

    /// What follows for the other payees of a fund.
    fn watched(&self, fund: &Fund, say: Option<Say>) -> Result<Vec<Todo>, ProviderError> {
        let (payer, reserve_sequence) = (fund.payer, fund.reserve_sequence);
        let mut todo: Vec<Todo> = say.map(|say| self.tell(say)).transpose()?.into_iter().collect();
        if self.till.is_overspent(payer, reserve_sequence) {
            todo.push(Todo::Overspent { payer, reserve_sequence });
        }
        Ok(todo)
    }

    /// Takes the result of [`Todo::Run`].
    pub fn ran(
        &mut self,
        now: Millis,
        task: Hash,
        result: Result<Output, RunError>,
    ) -> Result<Vec<Todo>, ProviderError> {
        self.step(now, Input::Ran { task, result })
    }

    /// Takes a piece of the text that [`Todo::Run`] makes, and how many bytes of it come before.
    pub fn frame(
        &mut self,
        now: Millis,
        task: Hash,
        at: u64,
        text: String,
    ) -> Result<Vec<Todo>, ProviderError> {
        self.step(now, Input::Frame { task, at, text })
    }

    /// Takes the answer to [`Todo::LookUp`]: the fund, if there is one, and the height it was seen at. A payment that is
    /// not good is an error of the payer's; nothing changes then.
    pub fn looked_up(
        &mut self,
        now: Millis,
        ask: Ask,
        fund: Option<&Fund>,
        height: u64,
    ) -> Result<Vec<Todo>, ProviderError> {
        match ask {
            Ask::Vet { task, pool, amount } => {
                let covers = self.till.covers(now, fund, &pool, amount, height);
                let covered = covers.is_ok();
                if let Err(error) = covers {
                    self.pool_refusal = Some(error.to_string());
                }
                self.step(now, Input::Vetted { task, covered })
            }
            Ask::Collect { from, payment } => {
                let fund = fund.ok_or(PayError::NoFund)?;
                self.till.accept_from_payer(from.0, &payment, fund, height)?;
                let say = self.till.speak(now, fund);
                let mut todo = self.watched(fund, say)?;
                let receipt = payment.receipt;
                let message = Message::Acknowledged {
                    reserve_sequence: receipt.reserve_sequence,
                    payment_sequence: receipt.payment_sequence,
                    total: receipt.amount,
                };
                todo.insert(0, self.send(from, &message)?);
                Ok(todo)
            }
            Ask::Hear(beacon) => {
                let fund = fund.ok_or(PayError::NoFund)?;
                let say = self.till.hear(now, &beacon, fund)?;
                self.watched(fund, say)
            }
            Ask::See(receipt) => {
                let fund = fund.ok_or(PayError::NoFund)?;
                let say = self.till.see(now, &receipt, fund)?;
                self.watched(fund, say)
            }
        }
    }

    /// Claims that should be settled now ([`Till::due`]).
    pub fn due(&self, height: u64, fee: TFuelWei, eager: bool) -> Vec<Due> {
        self.till.due(height, fee, eager)
    }

    /// The transaction that settles a claim ([`Till::settle`]).
    pub fn settle(&mut self, due: &Due, fund: &Fund, fee: TFuelWei, height: u64) -> Result<RawTx, PayError> {
        self.till.settle(due, fund, fee, height)
    }

    /// Learns from the chain what was settled, and how much of it is new.
    pub fn observe(&mut self, fund: &Fund) -> Result<TFuelWei, PayError> {
        self.till.observe(fund)
    }

    /// Forgets funds that ended before this height ([`Till::forget_ended`]).
    pub fn forget_ended(&mut self, height: u64) -> Result<(), PayError> {
        self.till.forget_ended(height)
    }

    fn step(&mut self, now: Millis, input: Input) -> Result<Vec<Todo>, ProviderError> {
        let mut effects = Vec::new();
        self.worker.step(now, input, &mut effects);
        let todo = effects.into_iter().map(|effect| {
            Ok(match effect {
                Effect::Send { to, message } => self.send(to, &message)?,
                Effect::Vet { task, pool, amount } => Todo::LookUp(Ask::Vet { task, pool, amount }),
                Effect::Collect { from, payment } => Todo::LookUp(Ask::Collect { from, payment }),
                Effect::Run { requester, task } => Todo::Run { requester, task },
                Effect::Stop { task } => Todo::Stop { task },
            })
        });
        todo.collect()
    }

    fn send(&self, to: NodeId, message: &Message) -> Result<Todo, ProviderError> {
        let envelope = Envelope::seal(&self.chain_id, &*self.signer.0, to, message)?;
        Ok(Todo::Send { to, envelope })
    }
}
