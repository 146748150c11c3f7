//! What the scheduler is told, what it wants done, and what it keeps.

use serde::{Deserialize, Serialize};
use theta_core::amount::TFuelWei;
use theta_core::hash::Hash;

use super::Report;
use crate::Millis;
use crate::executor::Output;
use crate::identity::NodeId;
use crate::job::{JobSpec, Task};
use crate::message::Message;
use crate::placement::{Event, Offer};

/// What happens to the scheduler.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Input {
    /// Time has passed; wanted at [`Effect::WakeAt`].
    Tick,
    /// A node that sends no heartbeats can be asked, or one of any kind can no longer be reached.
    Node {
        /// Which.
        node: NodeId,
        /// Whether it can.
        up: bool,
    },
    /// A node says that it is there and what it offers; one that was silent for three heartbeats
    /// ([`crate::placement::HEARTBEAT_MS`]) is thought to be gone. A machine of a pool ([`super::Settings::machines`]) says the
    /// same.
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
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Effect {
    /// Make this record durable before anything that follows. If that fails, stop for good.
    Append(Record),
    /// Ask the purse to set aside this much; answer with [`Input::Promised`].
    Promise {
        /// Which job.
        job: Hash,
        /// Sequence of the fund that pays for it.
        fund: u64,
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
    /// Fetch the blobs of an output that was decided on; answer with [`Input::Fetched`].
    Fetch {
        /// Which job.
        job: Hash,
        /// Whom to ask.
        from: NodeId,
        /// What.
        output: Box<Output>,
    },
    /// Ask the purse to pay, send the receipt, answer with [`Input::Paid`].
    Pay {
        /// Which job.
        job: Hash,
        /// Sequence of the fund that pays for it.
        fund: u64,
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Record {
    /// A job was taken.
    Submitted(JobSpec),
    /// Where tasks were given to, before any of them is offered.
    Placed {
        /// Jobs that are being offered from now on, each under an epoch that is higher than any before.
        started: Vec<(Hash, u64)>,
        /// What placement did.
        events: Vec<Event>,
    },
    /// Its result is known, and who earned what with it.
    Decided(Report),
    /// Nothing more will be done for it.
    Closed(Report),
}

impl theta_core::journal::Record for Record {
    const VERSION: u8 = 2;
}
