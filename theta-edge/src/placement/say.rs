//! What a coordinator is told, and what it says.

use super::*;

/// A running attempt, as a node names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttemptId {
    /// Slot of the task.
    pub task: u32,
    /// Which attempt.
    pub epoch: u32,
}

/// What a node says about an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Answer {
    /// It runs.
    Accepted,
    /// All its places are taken, which is no fault: it is left alone for so many milliseconds.
    Busy {
        /// Milliseconds.
        retry_ms: u64,
    },
    /// It cannot, or will not, which is no fault either.
    Refused,
    /// It has a result and its place free again; whether it is believed is said later by [`Self::Done`] or
    /// [`Self::Failed`].
    Bound,
    /// A result, and whether the program did what it was sent for.
    Done {
        /// Whether it did.
        success: bool,
    },
    /// No result, by the node's fault.
    Failed,
}

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Input {
    /// Time has passed; wanted at [`Step::wake_at`].
    Tick,
    /// A node comes in, or offers something else; its descriptor was checked ([`Descriptor::check`]).
    Join {
        /// Who.
        node: NodeId,
        /// What it offers.
        offer: Offer,
        /// Where it starts: [`Status::Joining`] for one that was not measured.
        status: Status,
    },
    /// A node that sends no heartbeats is there until [`Change::Silent`] says that it is not.
    Known {
        /// Who.
        node: NodeId,
    },
    /// A pool has so many machines now; as many as its settings say when it was never told.
    Pool {
        /// Which, by its place in the settings.
        pool: usize,
        /// Attempts at a time.
        slots: u32,
    },
    /// A sign of life.
    Heartbeat {
        /// Whose.
        node: NodeId,
        /// What it says.
        beat: Heartbeat,
    },
    /// What a node is running, said when it connects.
    Announce {
        /// Who.
        node: NodeId,
        /// What.
        running: Vec<AttemptId>,
    },
    /// Something happened to a node's standing.
    Change {
        /// Whose.
        node: NodeId,
        /// What.
        change: Change,
    },
    /// Evidence of how well a node does.
    Evidence {
        /// Whose.
        node: NodeId,
        /// At what kind of work.
        kind: u8,
        /// What it did.
        evidence: Evidence,
        /// How much it counts, in thousandths ([`weight`]).
        weight: u16,
    },
    /// A node has a blob.
    Holds {
        /// Who.
        node: NodeId,
        /// Which.
        blob: BlobHash,
    },
    /// A job comes in.
    Submit(Box<JobRequest>),
    /// A node, or the host of a pool, answers.
    Answer {
        /// Which node; none for a pool.
        node: Option<NodeId>,
        /// About which attempt.
        attempt: AttemptId,
        /// What.
        answer: Answer,
    },
    /// No more of a job's tasks are to be given out; those that are with nodes go on.
    Withdraw {
        /// Which.
        job: Hash,
    },
    /// A job is not wanted any more.
    Cancel {
        /// Which.
        job: Hash,
    },
}

/// Why a job is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Too much waits already: HTTP 429.
    #[error("too much waits already; try again in {retry_ms} ms")]
    Busy {
        /// Milliseconds after which to try again.
        retry_ms: u64,
    },
    /// The deadline cannot be met.
    #[error("it would not be done by its deadline")]
    Deadline,
    /// There are too many kinds of tasks to tell another one apart.
    #[error("its needs, wishes and bid are like those of no other job, and there are too many such kinds")]
    Shapes,
    /// No tasks, or too many.
    #[error("a job has between one and {MAX_TASKS} tasks")]
    Tasks,
}

/// What the host does once the events of the step are durable.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Effect {
    /// The job is taken and will come to an end.
    Accepted {
        /// Which.
        job: Hash,
    },
    /// It is not.
    Refused {
        /// Which.
        job: Hash,
        /// Why.
        why: Refusal,
    },
    /// Offer a task to a node.
    Offer {
        /// To whom.
        node: NodeId,
        /// Which attempt.
        attempt: AttemptId,
        /// Of which job.
        job: Hash,
        /// Which of its tasks.
        index: u32,
        /// GPU of the node, from 0; none for a task without.
        gpu: Option<u8>,
    },
    /// Run a task in a provider pool.
    Spill {
        /// Which pool, by its place in the settings.
        pool: usize,
        /// Which attempt.
        attempt: AttemptId,
        /// Of which job.
        job: Hash,
        /// Which of its tasks.
        index: u32,
        /// Why.
        why: Spill,
    },
    /// Stop an attempt; it owes nothing more, and is paid for what it proved.
    Stop {
        /// Where; none for a pool.
        node: Option<NodeId>,
        /// Which attempt.
        attempt: AttemptId,
    },
    /// A task's one result is that of this attempt: pay for it.
    Committed {
        /// Where it was done; none for a pool.
        node: Option<NodeId>,
        /// Which attempt.
        attempt: AttemptId,
        /// Of which job.
        job: Hash,
        /// Which of its tasks.
        index: u32,
        /// Whether the program did what it was sent for.
        success: bool,
    },
    /// A task has no result.
    GaveUp {
        /// Of which job.
        job: Hash,
        /// Which of its tasks.
        index: u32,
        /// Why.
        why: GiveUp,
    },
    /// A job has come to its end.
    Finished {
        /// Which.
        job: Hash,
        /// How.
        ended: Ended,
    },
}

/// What follows from an input.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Step {
    /// To be made durable first.
    pub events: Vec<Event>,
    /// To be carried out then, in order.
    pub effects: Vec<Effect>,
    /// Step with [`Input::Tick`] then at the latest.
    pub wake_at: Option<Millis>,
}
