//! Why a task is where it is, from what was looked at when it was decided.

use super::*;

/// What was looked at for one decision.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Decision {
    /// The task's slot.
    pub task: u32,
    /// When.
    pub at: Millis,
    /// Each node that was looked at: its score, or why it does not suit.
    pub considered: Vec<(u32, Result<f32, Unfit>)>,
    /// The one that was chosen.
    pub chosen: Option<u32>,
}

/// A node that was looked at for one decision.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Considered {
    /// Which.
    pub node: NodeId,
    /// How well it suited; none where it did not.
    pub score: Option<f32>,
    /// Why it did not.
    pub unfit: Option<Unfit>,
    /// Whether it was chosen.
    pub chosen: bool,
}

/// Why a task is where it is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// Which task of its job.
    pub index: u32,
    /// In words.
    pub state: &'static str,
    /// Nodes it is with.
    pub nodes: Vec<NodeId>,
    /// Pools it is with, by name.
    pub pools: Vec<String>,
    /// Nodes that failed it, or would not take it.
    pub tried: Vec<NodeId>,
    /// Tasks of the same shape that wait.
    pub waiting: u32,
    /// For how many milliseconds one of them waits, as far as can be said.
    pub wait_ms: Millis,
    /// Whether no node had room for that shape when it was last tried.
    pub blocked: bool,
    /// The tenant's dominant share of the fleet over its weight.
    pub share: f64,
    /// How many of its job's tasks may still go to pools.
    pub spill: u32,
    /// How many nodes do not suit for which reason now.
    pub unfit: BTreeMap<Unfit, u32>,
    /// How many do.
    pub fit: u32,
    /// When it was last decided, and what was looked at, as far as that is remembered.
    pub decided: Option<Millis>,
    /// The same: nodes that were looked at.
    pub considered: Vec<Considered>,
}

impl Placement {
    /// The slot of a task that is still open.
    pub fn find_task(&self, job: &Hash, index: u32) -> Option<u32> {
        let job = *self.state.job_ids.get(job)?;
        self.state.tasks_of(job).into_iter().find(|task| self.state.tasks[*task as usize].index == index)
    }

    /// Why each open task of a job is where it is ([`Self::explain`]).
    pub fn explain_all(&self, job: &Hash) -> Vec<Explanation> {
        let tasks = self.state.job_ids.get(job).map(|job| self.state.tasks_of(*job)).unwrap_or_default();
        let indices = tasks.into_iter().map(|task| self.state.tasks[task as usize].index);
        indices.filter_map(|index| self.explain(job, index)).collect()
    }

    /// Why a task is where it is; looks at every node, so it is for people who ask and not for every task.
    pub fn explain(&self, job: &Hash, index: u32) -> Option<Explanation> {
        let slot = self.find_task(job, index)?;
        let task = &self.state.tasks[slot as usize];
        let row = &self.state.jobs[task.job as usize];
        let live = || task.attempts.iter().filter_map(|slot| self.state.attempts.get(*slot as usize));
        let state = match task.phase {
            Phase::Running if live().any(|attempt| attempt.bound) => "its result is compared with others",
            Phase::Running if live().all(|attempt| attempt.node >= POOLS) => "it is with a provider pool",
            Phase::Running => "it is with a node",
            Phase::Queued => "it waits for a node or for its turn",
            Phase::Waiting if row.gang => "it waits for room for all tasks of its job at once",
            Phase::Waiting => "it waits before it is tried again",
            Phase::Free => "it has ended",
        };
        let (mut unfit, mut fit, mut exclude) = (BTreeMap::new(), 0, Vec::new());
        self.state.exclude(slot, &mut exclude);
        let wish = self.wish(task.job, &exclude);
        for node in 0..self.state.fleet.len() as u32 {
            match self.state.fleet.unfit(node, &wish) {
                Some(why) => *unfit.entry(why).or_default() += 1,
                None => fit += 1,
            }
        }
        let name = |pool: u32| self.settings.pools.get(pool as usize).map(|pool| pool.name.clone());
        let decision = self.decisions.iter().rev().find(|decision| decision.task == slot);
        let considered = decision.into_iter().flat_map(|decision| {
            decision.considered.iter().filter_map(|(node, verdict)| {
                Some(Considered {
                    node: self.state.fleet.id(*node)?,
                    score: verdict.ok(),
                    unfit: verdict.err(),
                    chosen: decision.chosen == Some(*node),
                })
            })
        });
        let tried = self.state.tried.get(&slot).into_iter().flatten();
        Some(Explanation {
            index,
            state,
            nodes: live().filter_map(|attempt| self.state.fleet.id(attempt.node)).collect(),
            pools: live().filter_map(|attempt| name(attempt.node.checked_sub(POOLS)?)).collect(),
            tried: tried.filter_map(|node| self.state.fleet.id(*node)).collect(),
            waiting: self.state.queue.pending(row.shape),
            wait_ms: self.wait_ms(row.shape, 0),
            blocked: self.state.queue.is_blocked(row.shape),
            share: self.state.queue.share(row.tenant),
            spill: row.spill,
            unfit,
            fit,
            decided: decision.map(|decision| decision.at),
            considered: considered.collect(),
        })
    }

    /// Whether some node that is let in, or a pool, could ever take another task of a job, however full it is now; looks
    /// at every node.
    pub fn has_hope(&self, job: &JobRequest) -> bool {
        let tier = job.selector.tier;
        let pools = self.settings.pools.iter().enumerate().any(|(index, pool)| {
            let machines = self.machines.get(index).copied().flatten().unwrap_or(pool.slots);
            machines > 0 && pool.tier >= tier && pool.price <= job.bid
        });
        if job.spill > 0 && pools {
            return true;
        }
        let fleet = &self.state.fleet;
        let could = |(place, member): (usize, &Member)| {
            let Some(id) = fleet.id(place as u32) else { return false };
            member.status.is_open()
                && !job.exclude.contains(&id)
                && (job.replicated || member.status != Status::Probation)
                && fleet.could(place as u32, job)
        };
        self.state.members.iter().enumerate().any(could)
    }

    /// What is asked of nodes for a job's tasks, but for those `exclude`d.
    fn wish<'a>(&'a self, job: u32, exclude: &'a [u32]) -> Wish<'a> {
        let shape = &self.state.shapes[self.state.jobs[job as usize].shape as usize];
        Wish {
            need: shape.need,
            selector: shape.selector,
            bid: shape.bid,
            reputation: shape.reputation,
            holders: &[],
            exclude,
            exclude_operators: &[],
            speed: 0,
            quick: None,
            replicated: shape.replicated,
            weights: &self.settings.weights,
        }
    }
}

impl Decision {
    pub(super) const fn empty() -> Self {
        Self { task: NONE, at: 0, considered: Vec::new(), chosen: None }
    }
}
