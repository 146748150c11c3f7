//! An edge node's side of a job: accept, run, commit, reveal.
//!
//! A plain machine: it takes time and an input and gives effects, which the host carries out in order. It knows no
//! socket and no clock. Money is the till's business: a payment is handed on as [`Effect::Collect`].
//!
//! A finished result is remembered for a while, so that a requester that lost its memory gets the same answer without
//! the work being done again.

use std::collections::{BTreeMap, VecDeque};

use theta_core::amount::TFuelWei;
use theta_core::hash::Hash;

use crate::Millis;
use crate::executor::{Output, RunError};
use crate::identity::NodeId;
use crate::job::{KindTag, Limits, PoolRef, Task};
use crate::message::{Message, Reject};
use crate::payment::Price;
use crate::payment::receipt::Payment;
use crate::verify::commitment;

/// What an operator offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Tasks that run at the same time.
    pub slots: usize,
    /// The most that a task may ask for.
    pub limits: Limits,
    /// What is asked for it.
    pub price: Price,
    /// What is asked for a question to a model: for the question, and for each token ([`crate::infer::TOKEN`]).
    pub token_price: Price,
    /// Kinds that there is an engine for.
    pub kinds: Vec<KindTag>,
    /// Results kept after they were committed.
    pub remembered: usize,
    /// What a requester is told to wait when all slots are taken, in milliseconds.
    pub retry_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            slots: 2,
            limits: Limits { fuel: 1_000_000_000_000, memory_mib: 1024, wall_seconds: 3600, output_mib: 256 },
            price: Price::default(),
            token_price: Price {
                base: TFuelWei::ZERO,
                per_million_fuel: TFuelWei::wei(100_000_000_000_000_u64),
            },
            kinds: vec![KindTag::Wasm],
            remembered: 256,
            retry_ms: 1000,
        }
    }
}

impl Settings {
    /// What is asked for work of a kind.
    pub const fn price_of(&self, kind: KindTag) -> Price {
        match kind {
            KindTag::Infer => self.token_price,
            KindTag::Wasm | KindTag::Transcode => self.price,
        }
    }
}

/// What happens to a worker.
#[derive(Debug)]
#[non_exhaustive]
pub enum Input {
    /// A message came, from whom the envelope says.
    Message {
        /// The sender.
        from: NodeId,
        /// What it says.
        message: Message,
    },
    /// Answer to [`Effect::Vet`]: whether the pool covers the amount ([`crate::payment::till::covers`]).
    Vetted {
        /// Task id.
        task: Hash,
        /// Whether it does.
        covered: bool,
    },
    /// Answer to [`Effect::Run`].
    Ran {
        /// Task id.
        task: Hash,
        /// What came out.
        result: Result<Output, RunError>,
    },
    /// A piece of the text of [`Effect::Run`].
    Frame {
        /// Task id.
        task: Hash,
        /// Bytes of the text that come before it.
        at: u64,
        /// The piece.
        text: String,
    },
}

/// What a worker wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Effect {
    /// Send a message.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// Ask the chain whether this pool can pay this much; answer with [`Input::Vetted`].
    Vet {
        /// Task id.
        task: Hash,
        /// Which pool.
        pool: PoolRef,
        /// How much.
        amount: TFuelWei,
    },
    /// Fetch the task's blobs from the requester, run it, answer with [`Input::Ran`].
    Run {
        /// Who has the blobs.
        requester: NodeId,
        /// What to run.
        task: Task,
    },
    /// Drop the run of this task; no answer is needed.
    Stop {
        /// Task id.
        task: Hash,
    },
    /// Hand this to the till, and if it takes it, acknowledge it to the payer.
    Collect {
        /// From whom.
        from: NodeId,
        /// The payment.
        payment: Payment,
    },
}

#[derive(Debug)]
enum Stage {
    Vetting { task: Task },
    Running,
    Done { output: Output },
}

/// Offers that were cancelled before they came, as far as anybody may make a worker remember.
const OVERTAKEN: usize = 1_024;
/// Milliseconds in which what was sent before a cancel has come or never will.
const OVERTAKEN_MS: Millis = 10_000;

/// A cancel that came before its offer: messages between nodes overtake each other.
#[derive(Debug)]
struct Overtaken {
    until: Millis,
    requester: NodeId,
    task: Hash,
    epoch: u64,
}

#[derive(Debug)]
struct Work {
    requester: NodeId,
    epoch: u64,
    stage: Stage,
}

/// The machine of an edge node.
#[derive(Debug)]
pub struct Worker {
    me: NodeId,
    settings: Settings,
    /// Salts are made from it, so that they are the same after a restart and nobody can guess them.
    secret: [u8; 32],
    work: BTreeMap<Hash, Work>,
    /// Finished tasks, oldest first.
    finished: VecDeque<Hash>,
    /// The oldest first.
    overtaken: VecDeque<Overtaken>,
    /// How often an offer was refused, by the reason.
    refused: BTreeMap<&'static str, u64>,
}

impl Worker {
    /// A worker of this node. `secret` is kept by the host and never shown.
    pub const fn new(me: NodeId, settings: Settings, secret: [u8; 32]) -> Self {
        Self {
            me,
            settings,
            secret,
            work: BTreeMap::new(),
            finished: VecDeque::new(),
            overtaken: VecDeque::new(),
            refused: BTreeMap::new(),
        }
    }

    /// What its operator offers.
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// How often it refused an offer since it started, by [`Reject::code`].
    pub const fn refused(&self) -> &BTreeMap<&'static str, u64> {
        &self.refused
    }

    /// Tasks that hold a slot now.
    pub fn busy(&self) -> usize {
        self.work.values().filter(|work| !matches!(work.stage, Stage::Done { .. })).count()
    }

    /// Takes one input and adds what follows to `out`.
    pub fn step(&mut self, now: Millis, input: Input, out: &mut Vec<Effect>) {
        let before = out.len();
        while self.overtaken.front().is_some_and(|cancel| cancel.until <= now) {
            self.overtaken.pop_front();
        }
        match input {
            Input::Message { from, message } => self.message(now, from, message, out),
            Input::Vetted { task, covered } => self.vetted(task, covered, out),
            Input::Ran { task, result } => self.ran(task, result, out),
            Input::Frame { task, at, text } => self.frame(task, at, text, out),
        }
        for effect in &out[before..] {
            if let Effect::Send { message: Message::Rejected { reason, .. }, .. } = effect {
                *self.refused.entry(reason.code()).or_default() += 1;
            }
        }
    }

    fn message(&mut self, now: Millis, from: NodeId, message: Message, out: &mut Vec<Effect>) {
        match message {
            Message::Offer { task, epoch, pool, cap } => self.offered(from, task, epoch, pool, cap, out),
            Message::Reveal { task, epoch } => self.reveal(from, task, epoch, out),
            Message::Cancel { task, epoch } => {
                match self.work.get(&task).filter(|work| work.requester == from && work.epoch >= epoch) {
                    Some(work) if work.epoch == epoch && !matches!(work.stage, Stage::Done { .. }) => {
                        self.work.remove(&task);
                        out.push(Effect::Stop { task });
                    }
                    Some(_) => {}
                    None => {
                        if self.overtaken.len() >= OVERTAKEN {
                            self.overtaken.pop_front();
                        }
                        let until = now.saturating_add(OVERTAKEN_MS);
                        self.overtaken.push_back(Overtaken { until, requester: from, task, epoch });
                    }
                }
            }
            Message::Payment(payment) => out.push(Effect::Collect { from, payment }),
            // The rest is said by workers.
            _ => {}
        }
    }

    fn offered(
        &mut self,
        from: NodeId,
        task: Task,
        epoch: u64,
        pool: PoolRef,
        cap: TFuelWei,
        out: &mut Vec<Effect>,
    ) {
        let id = task.id();
        let reject =
            |reason| Effect::Send { to: from, message: Message::Rejected { task: id, epoch, reason } };
        // A cancel takes one offer back; the requester may mean the next one.
        let is_cancel =
            |cancel: &Overtaken| (cancel.requester, cancel.task, cancel.epoch) == (from, id, epoch);
        if let Some(place) = self.overtaken.iter().position(is_cancel) {
            self.overtaken.remove(place);
            out.push(reject(Reject::Busy { retry_ms: self.settings.retry_ms }));
            return;
        }
        let price = self.settings.price_of(task.work.kind());
        if let Some(work) = self.work.get_mut(&id).filter(|work| work.requester == from) {
            // A replay of this offer, or a requester that begins again: it gets what there is.
            if epoch > work.epoch {
                work.epoch = epoch;
                if !matches!(work.stage, Stage::Vetting { .. }) {
                    out.push(Effect::Send {
                        to: from,
                        message: Message::Accepted { task: id, epoch, price },
                    });
                }
                if let Stage::Done { output } = &work.stage {
                    let commit =
                        commitment(self.me, &id, epoch, &output.digest(), &salt(&self.secret, &id, epoch));
                    out.push(Effect::Send {
                        to: from,
                        message: Message::Committed { task: id, epoch, commit },
                    });
                }
            }
            return;
        }
        if self.work.contains_key(&id) || self.busy() >= self.settings.slots {
            out.push(reject(Reject::Busy { retry_ms: self.settings.retry_ms }));
            return;
        }
        if !self.settings.kinds.contains(&task.work.kind()) || task.check(&self.settings.limits).is_err() {
            out.push(reject(Reject::MissingCapability));
            return;
        }
        if price.of(task.limits.fuel).is_none_or(|most| most > cap) {
            out.push(reject(Reject::PriceTooLow));
            return;
        }
        // Whoever offers pays; nobody spends another's pool.
        if pool.payer != from.0 {
            out.push(reject(Reject::PoolInvalid));
            return;
        }
        self.work.insert(id, Work { requester: from, epoch, stage: Stage::Vetting { task } });
        out.push(Effect::Vet { task: id, pool, amount: cap });
    }

    fn vetted(&mut self, task: Hash, covered: bool, out: &mut Vec<Effect>) {
        let Some(work) = self.work.get_mut(&task) else { return };
        let (to, epoch) = (work.requester, work.epoch);
        if !matches!(work.stage, Stage::Vetting { .. }) {
            return;
        }
        if !covered {
            self.work.remove(&task);
            out.push(Effect::Send {
                to,
                message: Message::Rejected { task, epoch, reason: Reject::PoolInvalid },
            });
            return;
        }
        if let Stage::Vetting { task: what } = std::mem::replace(&mut work.stage, Stage::Running) {
            let price = self.settings.price_of(what.work.kind());
            out.push(Effect::Send { to, message: Message::Accepted { task, epoch, price } });
            out.push(Effect::Run { requester: to, task: what });
        }
    }

    fn ran(&mut self, task: Hash, result: Result<Output, RunError>, out: &mut Vec<Effect>) {
        let Some(work) = self.work.get_mut(&task).filter(|work| matches!(work.stage, Stage::Running)) else {
            return;
        };
        let (to, epoch) = (work.requester, work.epoch);
        match result {
            Ok(output) => {
                let commit =
                    commitment(self.me, &task, epoch, &output.digest(), &salt(&self.secret, &task, epoch));
                work.stage = Stage::Done { output };
                out.push(Effect::Send { to, message: Message::Committed { task, epoch, commit } });
                self.finished.push_back(task);
                if self.finished.len() > self.settings.remembered {
                    self.finished.pop_front().map(|oldest| self.work.remove(&oldest));
                }
            }
            Err(error) => {
                self.work.remove(&task);
                out.push(Effect::Send {
                    to,
                    message: Message::Failed { task, epoch, code: error.code().to_owned() },
                });
            }
        }
    }

    fn frame(&self, task: Hash, at: u64, text: String, out: &mut Vec<Effect>) {
        if let Some(work) = self.work.get(&task).filter(|work| matches!(work.stage, Stage::Running)) {
            let message = Message::Frame { task, epoch: work.epoch, at, text };
            out.push(Effect::Send { to: work.requester, message });
        }
    }

    fn reveal(&self, from: NodeId, task: Hash, epoch: u64, out: &mut Vec<Effect>) {
        let Some(work) = self.work.get(&task).filter(|work| work.requester == from && work.epoch == epoch)
        else {
            return;
        };
        if let Stage::Done { output } = &work.stage {
            let (output, salt) = (output.clone(), salt(&self.secret, &task, epoch));
            out.push(Effect::Send { to: from, message: Message::Revealed { task, epoch, output, salt } });
        }
    }
}

fn salt(secret: &[u8; 32], task: &Hash, epoch: u64) -> Hash {
    let mut hasher = blake3::Hasher::new_keyed(secret);
    hasher.update(task.as_slice());
    hasher.update(&epoch.to_le_bytes());
    Hash::from(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use theta_core::hash::Address;

    use super::*;
    use crate::blob::BlobRef;
    use crate::job::{WasmWork, Work as What};

    const REQUESTER: NodeId = NodeId(Address::repeat_byte(1));

    fn offer(task: &Task, epoch: u64) -> Message {
        let pool = PoolRef { payer: REQUESTER.0, reserve_sequence: 1, resource_id: "compute".to_owned() };
        Message::Offer { task: task.clone(), epoch, pool, cap: TFuelWei::wei(u128::MAX) }
    }

    fn task() -> Task {
        let work = WasmWork {
            module: BlobRef::of(b"a module"),
            program: "program".to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            stdin: None,
            inputs: Vec::new(),
        };
        Task { job: Hash::repeat_byte(2), index: 0, work: What::Wasm(work), limits: Limits::default() }
    }

    fn told(worker: &mut Worker, now: Millis, from: NodeId, message: Message) -> Vec<Effect> {
        let mut out = Vec::new();
        worker.step(now, Input::Message { from, message }, &mut out);
        out
    }

    fn is_busy(effects: &[Effect]) -> bool {
        matches!(
            effects,
            [Effect::Send { message: Message::Rejected { reason: Reject::Busy { .. }, .. }, .. }]
        )
    }

    #[test]
    fn a_cancel_that_overtakes_its_offer_takes_it_back() {
        let task = task();
        let cancel = |epoch| Message::Cancel { task: task.id(), epoch };
        let worker = || Worker::new(NodeId(Address::repeat_byte(9)), Settings::default(), [7; 32]);
        let vets = |effects: &[Effect]| matches!(effects, [Effect::Vet { .. }]);

        let mut node = worker();
        assert!(told(&mut node, 0, REQUESTER, cancel(5)).is_empty());
        assert!(is_busy(&told(&mut node, 1, REQUESTER, offer(&task, 5))));
        assert_eq!(node.busy(), 0);
        assert!(vets(&told(&mut node, 2, REQUESTER, offer(&task, 5))), "one cancel takes one offer back");

        let mut node = worker();
        told(&mut node, 0, NodeId(Address::repeat_byte(3)), cancel(5));
        told(&mut node, 0, REQUESTER, cancel(4));
        assert!(
            vets(&told(&mut node, 1, REQUESTER, offer(&task, 5))),
            "of another requester, of another epoch"
        );

        let mut node = worker();
        told(&mut node, 0, REQUESTER, cancel(5));
        assert!(vets(&told(&mut node, OVERTAKEN_MS, REQUESTER, offer(&task, 5))), "long ago");

        let mut node = worker();
        (0..2_000).for_each(|epoch| drop(told(&mut node, 0, REQUESTER, cancel(epoch))));
        assert_eq!(node.overtaken.len(), OVERTAKEN);
        assert!(is_busy(&told(&mut node, 1, REQUESTER, offer(&task, 1_999))));
        assert!(vets(&told(&mut node, 1, REQUESTER, offer(&task, 0))), "forgotten");

        // In the usual order it stops the work, and nothing is left of it.
        let mut node = worker();
        told(&mut node, 0, REQUESTER, offer(&task, 5));
        assert_eq!(told(&mut node, 1, REQUESTER, cancel(5)), [Effect::Stop { task: task.id() }]);
        assert!(vets(&told(&mut node, 2, REQUESTER, offer(&task, 5))));
    }
}
