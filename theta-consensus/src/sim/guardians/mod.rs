//! Many guardians voting on one checkpoint, in virtual time: how long until each has a certificate, and what it costs.
//!
//! What is simulated is the gathering of votes that the engine does (the same code), over a network in which each guardian
//! has some links to others of its group and some to anybody. On four of each kind a message goes on at once; on the others
//! gossip names twice a second what has come, and whoever misses something asks for it. Messages take half a round trip,
//! and each guardian checks one message after the other on one core. Signatures are make-believe and cost what [`Costs`] says, or they are real ones and
//! cost what the given clock says. Byzantine guardians vote for nothing, pass nothing on, and send each neighbour a forged
//! vote, after which the neighbour ignores them.
//!
//! Half of the links being within the group is what a host has to see to, for example by one gossip topic for each group.

mod gossip;
mod scheme;

use serde::Serialize;
use theta_core::hash::Hash;

pub use self::scheme::Costs;
use self::{
    gossip::Gossip,
    scheme::{Modelled, Real},
};
use crate::{finality::Groups, pace::Millis};

/// Guardians that vote on a checkpoint.
#[derive(Clone, Debug)]
pub struct GuardianScenario {
    /// How many, with equal stakes.
    pub guardians: usize,
    /// Links of each.
    pub degree: usize,
    /// How many of a hundred are Byzantine.
    pub byzantine_percent: usize,
    /// Time of a message and its answer in milliseconds. Each message takes half of it, give or take a fifth.
    pub round_trip: Millis,
    /// What all chance depends on.
    pub seed: u64,
    /// Members of a group; 0 for as many as the engine would make it.
    pub group: usize,
    /// What work costs where signatures are make-believe.
    pub costs: Costs,
}

impl GuardianScenario {
    /// Honest guardians with 20 links each and 100 ms round trip.
    pub const fn honest(guardians: usize, seed: u64, costs: Costs) -> Self {
        Self { guardians, degree: 20, byzantine_percent: 0, round_trip: 100, seed, group: 0, costs }
    }

    fn groups(&self) -> Groups {
        match self.group {
            0 => Groups::new(self.guardians),
            size => Groups::of_size(self.guardians, size),
        }
    }

    /// Runs it with make-believe signatures.
    pub fn run(&self) -> GuardianReport {
        Gossip::new(self, Modelled { costs: self.costs }).run()
    }

    /// Runs it with real signatures. `clock` counts nanoseconds of this thread's work.
    pub fn run_real(&self, clock: &dyn Fn() -> u64) -> GuardianReport {
        Gossip::new(self, Real::new(self.guardians, clock)).run()
    }
}

/// What came of it. Times are in milliseconds from the first guardian's settling of the checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GuardianReport {
    /// Guardians that follow the rules.
    pub honest: usize,
    /// Those of them that have a certificate.
    pub certified: usize,
    /// When half of the honest ones had one.
    pub half: Option<f64>,
    /// When 99 of a hundred of the honest ones had one.
    pub most: Option<f64>,
    /// When the last that got one had it.
    pub last: f64,
    /// Most messages in a row from a vote to a certificate.
    pub hops: u32,
    /// Bytes that an honest guardian sent, on average and at most.
    pub bytes: (f64, u64),
    /// Milliseconds that an honest guardian computed, on average and at most.
    pub cpu: (f64, f64),
    /// Messages that an honest guardian checked, on average.
    pub checked: f64,
    /// Hash over all certificates' times; equal runs with make-believe signatures have equal ones.
    pub trace: Hash,
}

#[cfg(test)]
mod tests;
