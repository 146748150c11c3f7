//! Why a job is where it is, as the scheduler has it on record.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use theta_core::hash::Hash;

use super::Scheduler;
use super::job::{Job, Stage, Step};
use crate::Millis;
use crate::identity::NodeId;
use crate::placement::Need;

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
    /// It can be asked and was not.
    Free,
    /// It could be asked and has no room now.
    Full,
    /// The job needs more than it has.
    Small,
}

/// One node beside one job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Which node.
    pub node: NodeId,
    /// How far it is.
    pub standing: Standing,
    /// Until when it has to have made its next step, in milliseconds of the host's clock.
    pub until: Option<Millis>,
}

/// Why a job is where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Until when it waits for a node before it goes on with what it has.
    pub patience: Option<Millis>,
    /// Jobs that came before it and are open.
    pub ahead: u32,
    /// Nodes that have something to do with it, and those that could have.
    pub places: Vec<Place>,
}

impl Scheduler {
    /// Why an open job is where it is; `None` for one that has ended or is not known.
    pub fn explain(&self, id: &Hash) -> Option<Explanation> {
        let job = self.jobs.get(id)?;
        let ahead = self.queue.values().take_while(|open| *open != id).count() as u32;
        let free = |node: &NodeId, need: &Need| {
            self.fleet.find(node).is_some_and(|place| self.fleet.has(place, need))
        };
        Some(job.explain(ahead, &self.up, free))
    }
}

impl Job {
    fn explain(
        &self,
        ahead: u32,
        up: &BTreeMap<NodeId, Need>,
        has_room: impl Fn(&NodeId, &Need) -> bool,
    ) -> Explanation {
        let (need, not_asked) = (self.need(), self.not_asked().collect::<Vec<_>>());
        let mut places: BTreeMap<NodeId, (Standing, Option<Millis>)> = BTreeMap::new();
        for (node, all) in up {
            let standing = if not_asked.contains(node) {
                continue;
            } else if need.cpu_milli > all.cpu_milli || need.mem_mib > all.mem_mib {
                Standing::Small
            } else if has_room(node, &need) {
                Standing::Free
            } else {
                Standing::Full
            };
            places.insert(*node, (standing, None));
        }
        places.extend(self.tried.iter().map(|node| (*node, (Standing::Passed, None))));
        places.extend(self.claims.iter().map(|claim| (claim.node, (Standing::Shown, None))));
        for attempt in &self.attempts {
            let standing = match attempt.step {
                Step::Offered => Standing::Offered,
                Step::Running { .. } => Standing::Running,
                Step::Committed { .. } => Standing::Committed,
                Step::Revealing { .. } => Standing::Revealing,
            };
            places.insert(attempt.node, (standing, attempt.until));
        }
        let waits_for = match &self.stage {
            Stage::Promising => "the reserve fund to set its price aside",
            Stage::Running { .. } if self.wants_nodes() => "a node with room",
            Stage::Running { .. } => "results of the nodes that run it",
            Stage::Judging { .. } => "the requester's own run, since the nodes differ",
            Stage::Fetching { .. } => "the output to come here",
            Stage::Paying { .. } => "receipts to be signed",
            Stage::Over(_) => "nothing",
        };
        let patience = match &self.stage {
            Stage::Running { stuck } => *stuck,
            _ => None,
        };
        Explanation {
            job: self.id,
            waits_for,
            wanted: self.wanted as u32,
            offers: self.offers,
            faults: self.faults,
            refusal: self.refusal.map(str::to_owned),
            patience,
            ahead,
            places: places
                .into_iter()
                .map(|(node, (standing, until))| Place { node, standing, until })
                .collect(),
        }
    }
}
