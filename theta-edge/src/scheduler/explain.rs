//! Why a job is where it is, as the scheduler has it on record, with placement's own reasons.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use theta_core::hash::Hash;

use super::Scheduler;
use super::job::{Stage, Step};
use crate::Millis;
use crate::identity::NodeId;
use crate::placement::{self, Spill};

/// How far a node is with a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Standing {
    /// It was offered the task and has not answered.
    Offered,
    /// It runs the task.
    Running,
    /// It is bound to a result and waits until the others are.
    Committed,
    /// It was asked to show its result.
    Revealing,
    /// It has shown its result.
    Shown,
    /// It was asked and is not asked again: it refused, failed, or was too late.
    Passed,
}

/// One node that has had to do with a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// Which node.
    pub node: NodeId,
    /// How far it is.
    pub standing: Standing,
    /// Until when it has to have shown its result, in milliseconds of the host's clock.
    pub until: Option<Millis>,
    /// The pool that it is a machine of.
    pub pool: Option<String>,
    /// Why the task went to that pool.
    pub spilled: Option<Spill>,
}

/// Why a job is where it is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// Which job.
    pub job: Hash,
    /// What it waits for, in words.
    pub waits_for: &'static str,
    /// Results that are wanted before they are compared.
    pub wanted: u32,
    /// Offers made so far.
    pub offers: u32,
    /// Nodes that failed or were too late.
    pub faults: u32,
    /// Why the last node that refused it did.
    pub refusal: Option<String>,
    /// Until when it waits for somebody who could be asked before it goes on with what it has.
    pub patience: Option<Millis>,
    /// Jobs that came before it and are open.
    pub ahead: u32,
    /// Nodes that have had to do with it.
    pub places: Vec<Place>,
    /// Its attempts as placement sees them: what each waits for, which nodes were looked at, and why they do not suit.
    pub tasks: Vec<placement::Explanation>,
}

impl Scheduler {
    /// Why an open job is where it is; `None` for one that has ended or is not known. Looks at every node.
    pub fn explain(&self, id: &Hash) -> Option<Explanation> {
        let job = self.jobs.get(id)?;
        let pools = &self.settings.placement.pools;
        let name = |pool: usize| pools.get(pool).map(|pool| pool.name.clone());
        let mut places: BTreeMap<NodeId, Place> = BTreeMap::new();
        let mut put = |node: NodeId, standing, until, spilled: Option<(usize, Spill)>| {
            let pool = self.settings.machines.get(&node).and_then(|pool| name(*pool));
            places.insert(node, Place { node, standing, until, pool, spilled: spilled.map(|(_, why)| why) });
        };
        job.tried.iter().for_each(|node| put(*node, Standing::Passed, None, None));
        job.claims.iter().for_each(|claim| put(claim.node, Standing::Shown, None, None));
        for attempt in &job.attempts {
            let standing = match attempt.step {
                Step::Offered => Standing::Offered,
                Step::Running { .. } => Standing::Running,
                Step::Committed { .. } => Standing::Committed,
                Step::Revealing { .. } => Standing::Revealing,
            };
            put(attempt.node, standing, attempt.until, attempt.pool);
        }
        let waits_for = match &job.stage {
            Stage::Promising => "the reserve fund to set its price aside",
            Stage::Running if job.waiting() > 0 => "a node with room",
            Stage::Running => "results of the nodes that run it",
            Stage::Judging { .. } => "the requester's own run, since the nodes differ",
            Stage::Fetching { .. } => "the output to come here",
            Stage::Paying { .. } => "receipts to be signed",
            Stage::Over(_) => "nothing",
        };
        Some(Explanation {
            job: job.id,
            waits_for,
            wanted: job.wanted as u32,
            offers: job.offers,
            faults: job.faults,
            refusal: job.refusal.map(str::to_owned),
            patience: job.patience(self.last_down, &self.settings),
            ahead: self.queue.range(..job.number).count() as u32,
            places: places.into_values().collect(),
            tasks: job.requests().iter().flat_map(|request| self.placement.explain_all(request)).collect(),
        })
    }
}
