//! What the log holds, and the log that leads to a state at once.

use serde::{Deserialize, Serialize};
use theta_core::hash::{Address, Hash};

use super::{Job, NONE, Phase, State};
use crate::Millis;
use crate::blob::BlobHash;
use crate::identity::NodeId;
use crate::placement::class::Selector;
use crate::placement::fleet::{Need, Offer};
use crate::placement::registry::Status;
use crate::placement::reputation::{Evidence, Reputation};

/// Many equal tasks that somebody wants done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRequest {
    /// Its name; the same one twice is one job.
    pub id: Hash,
    /// Who pays.
    pub tenant: Address,
    /// What one attempt takes.
    pub need: Need,
    /// What a node has to be like.
    pub selector: Selector,
    /// The most that an hour of a core may cost, in millionths of a TFUEL.
    pub bid: u32,
    /// Least reputation of a node, in 65536ths.
    pub reputation: u16,
    /// Kind of work, as reputations are kept by.
    pub kind: u8,
    /// Other nodes do the same tasks, so new nodes may have them (edge.md 1.3).
    pub replicated: bool,
    /// The input of each task that nodes may have already.
    pub tasks: Vec<Option<BlobHash>>,
    /// When all of it has to be done.
    pub deadline: Option<Millis>,
    /// 0 to 8, higher first; 9 for protocol work.
    pub priority: u8,
    /// All tasks at once or none.
    pub gang: bool,
    /// How long a task is thought to take, in milliseconds.
    pub expected_ms: u32,
    /// Tasks that may go to provider pools.
    pub spill: u32,
    /// Milliseconds after which an attempt is given up.
    pub limit_ms: u32,
    /// Its tasks are the same one over again: they go to different nodes of different operators (edge.md 4.2).
    pub spread: bool,
    /// Nodes that are not asked.
    pub exclude: Vec<NodeId>,
}

impl Default for JobRequest {
    /// One task of a core and 64 MiB for anybody, that takes a second and may take an hour.
    fn default() -> Self {
        Self {
            id: Hash::ZERO,
            tenant: Address::ZERO,
            need: Need { cpu_milli: 1_000, mem_mib: 64, vram_mib: 0 },
            selector: Selector::default(),
            bid: u32::MAX,
            reputation: 0,
            kind: 0,
            replicated: false,
            tasks: vec![None],
            deadline: None,
            priority: 3,
            gang: false,
            expected_ms: 1_000,
            spill: 0,
            limit_ms: 3_600_000,
            spread: false,
            exclude: Vec::new(),
        }
    }
}

/// How an attempt ended that has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// By nobody's fault; the node may be asked again.
    Gone,
    /// The node will not do this task.
    Refused,
    /// By the node's fault.
    Fault,
}

/// Why a task is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum GiveUp {
    /// Too many nodes failed it.
    Attempts,
    /// Its time was over.
    Deadline,
    /// Its job was cancelled.
    Cancelled,
}

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// A node came, or offers something else now.
    Joined {
        /// Who.
        node: NodeId,
        /// What.
        offer: Box<Offer>,
        /// Where it starts.
        status: Status,
        /// When.
        at: Millis,
    },
    /// A node's standing that outlasts a restart.
    Stands {
        /// Its place.
        node: u32,
        /// Where it stands.
        status: Status,
    },
    /// A job was taken.
    Taken {
        /// The job.
        job: Box<JobRequest>,
        /// When.
        at: Millis,
    },
    /// A task was given to a node.
    Placed {
        /// Slot of the task.
        task: u32,
        /// Place of the node.
        node: u32,
        /// Higher than any before in this slot.
        epoch: u32,
    },
    /// An attempt's node has a result, and room for something else; whether it is believed is not known yet.
    Bound {
        /// Slot of the task.
        task: u32,
        /// Which attempt.
        epoch: u32,
    },
    /// An attempt ended without a result.
    Dropped {
        /// Slot of the task.
        task: u32,
        /// Which attempt.
        epoch: u32,
        /// How.
        loss: Loss,
    },
    /// A task has its result, which is the attempt's.
    Done {
        /// Slot of the task.
        task: u32,
        /// Which attempt.
        epoch: u32,
        /// Whether the program did what it was sent for.
        success: bool,
    },
    /// A task will have no result.
    GaveUp {
        /// Slot of the task.
        task: u32,
        /// Why.
        why: GiveUp,
    },
    /// Evidence of how well a node does.
    Noted {
        /// Place of the node.
        node: u32,
        /// Kind of work.
        kind: u8,
        /// What it did.
        evidence: Evidence,
        /// How much it counts, in thousandths.
        weight: u16,
        /// When.
        at: Millis,
    },
    /// A job as it stood when the log was written anew.
    Kept {
        /// The job as it was taken.
        job: Box<JobRequest>,
        /// When that was.
        at: Millis,
        /// Tasks that failed.
        failed: u32,
        /// How much of it may still go to pools.
        spill: u32,
        /// Of one whose tasks go to different nodes: nodes that have or had one.
        used: Vec<u32>,
        /// Its tasks in their order.
        tasks: Vec<KeptTask>,
    },
    /// A job that ended before that.
    Past {
        /// Which.
        job: Hash,
        /// How.
        ended: Ended,
    },
    /// A node's reputation at that time.
    Reputed {
        /// Its place.
        node: u32,
        /// Kind of work.
        kind: u8,
        /// How it stood.
        reputation: Reputation,
    },
    /// Slots of tasks that were free, in the order in which they are given out again, with their last epochs.
    Free(Vec<(u32, u32)>),
}

/// A task as it stood when the log was written anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptTask {
    /// Its slot.
    pub slot: u32,
    /// Last epoch of the slot.
    pub epoch: u32,
    /// Whether it has ended.
    pub ended: bool,
    /// Nodes that failed it.
    pub tried: Vec<u32>,
    /// How often it failed.
    pub tries: u8,
    /// Its attempts.
    pub attempts: Vec<KeptAttempt>,
}

/// An attempt as it stood then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptAttempt {
    /// Place of the node, or number of the pool.
    pub node: u32,
    /// Which attempt.
    pub epoch: u32,
    /// Whether the node had a result.
    pub bound: bool,
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Tasks with a result.
    pub done: u32,
    /// Tasks without one, or whose program failed.
    pub failed: u32,
}

impl State {
    /// Events that lead to this state from nothing.
    pub(in crate::placement) fn events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        for (node, (member, offer)) in self.members.iter().zip(&self.offers).enumerate() {
            let (offer, status, at) = (Box::new(offer.clone()), member.status, member.last_seen);
            events.push(Event::Joined { node: self.fleet.rows[node].id, offer, status, at });
        }
        let mut reputations: Vec<_> = self.reputations.iter().collect();
        reputations.sort_by_key(|(node, _)| **node);
        for (node, all) in reputations {
            let of_kind = |(kind, reputation): (&u8, &Reputation)| Event::Reputed {
                node: *node,
                kind: *kind,
                reputation: *reputation,
            };
            events.extend(all.iter().map(of_kind));
        }
        let past = self.ended_order.iter().filter_map(|job| Some((*job, *self.ended.get(job)?)));
        events.extend(past.map(|(job, ended)| Event::Past { job, ended }));
        let mut jobs: Vec<&Job> = self.job_ids.values().map(|job| &self.jobs[*job as usize]).collect();
        jobs.sort_by_key(|job| self.tasks[job.first as usize].seq);
        for job in jobs {
            let (mut tasks, mut slot) = (Vec::new(), job.first);
            while slot != NONE {
                let row = &self.tasks[slot as usize];
                let live = row.attempts.into_iter().filter(|attempt| *attempt != NONE);
                let attempts = live.map(|attempt| &self.attempts[attempt as usize]);
                let kept = |attempt: &super::Attempt| KeptAttempt {
                    node: attempt.node,
                    epoch: attempt.epoch,
                    bound: attempt.bound,
                };
                let mut attempts: Vec<_> = attempts.map(kept).collect();
                attempts.sort_by_key(|attempt| attempt.epoch);
                let tried = self.tried.get(&slot).cloned().unwrap_or_default();
                let (epoch, ended, tries) = (row.epoch, row.phase == Phase::Free, row.tries);
                tasks.push(KeptTask { slot, epoch, ended, tried, tries, attempts });
                slot = row.next;
            }
            let at = self.tasks[job.first as usize].since;
            let (request, failed, spill) = (job.request.clone(), job.failed, job.spill);
            let used = job.used.clone();
            events.push(Event::Kept { job: request, at, failed, spill, used, tasks });
        }
        let free = self.free_tasks.iter().map(|slot| (*slot, self.tasks[*slot as usize].epoch));
        events.push(Event::Free(free.collect()));
        events
    }
}
