//! A network of engines in virtual time: loss, duplicates, delay, partitions, crashes at any effect, torn writes, and
//! validators that break the rules.
//!
//! Everything depends on [`Scenario::seed`] alone; the environment variable `THETA_SEED` runs one seed of the tests. Each
//! run checks what must hold whatever happens (`spec/consensus.md` 15) and reports what was violated: no two settled
//! blocks conflict, no two final ones do, nobody honest signs two blocks of one height or epoch, nothing falls, every settled block has a
//! witness, what is held stays within bounds, packets are read back as they were written.
//!
//! ```
//! use theta_consensus::sim::{Scenario, Strategy};
//! use theta_core::spec::ChainSpec;
//!
//! let quiet = Scenario::honest(ChainSpec::devnet(), 4, 42);
//! let report = Scenario { adversaries: vec![(0, Strategy::Equivocate)], ..quiet }.run();
//! assert!(report.violations.is_empty());
//! assert!(report.settled.iter().skip(1).all(|height| *height > 5));
//! ```

mod adversary;
mod audit;
mod guardians;
mod ledger;
mod network;
mod node;
mod plot;
mod random;
mod schedules;
mod setup;
mod steps;

use theta_core::{hash::Hash, spec::ChainSpec};

use self::network::Network;
pub use self::{
    adversary::Strategy,
    guardians::{Costs, GuardianReport, GuardianScenario},
    plot::Plot,
    steps::{Counts, Steps},
};
use crate::{
    checks::Fault,
    pace::{Millis, Settings},
};

/// Some nodes that hear only each other for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Start, in milliseconds from the beginning.
    pub from: Millis,
    /// End.
    pub until: Millis,
    /// The nodes on one side.
    pub group: Vec<usize>,
}

/// What happens in a run.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The chain.
    pub spec: ChainSpec,
    /// How many validators, with equal stake.
    pub validators: usize,
    /// What all chance depends on.
    pub seed: u64,
    /// How long, in milliseconds.
    pub until: Millis,
    /// Durations of every node.
    pub settings: Settings,
    /// Least and greatest delay of a message in milliseconds.
    pub delay: (Millis, Millis),
    /// Messages lost in a thousand.
    pub loss_per_mille: u64,
    /// Messages in a thousand that arrive twice.
    pub duplicate_per_mille: u64,
    /// Nodes that break the rules. What is reported is about the others.
    pub adversaries: Vec<(usize, Strategy)>,
    /// Nodes behind the validators that validate nothing.
    pub observers: usize,
    /// Nodes that vote for checkpoints as guardians, with equal stakes. They sign with real keys, and what
    /// they sign is checked where signatures are real.
    pub guardians: Vec<usize>,
    /// Nodes that vote for checkpoints as elite edge nodes, with equal stakes.
    pub elite: Vec<usize>,
    /// Nodes that never run.
    pub stopped: Vec<usize>,
    /// Partitions.
    pub partitions: Vec<Partition>,
    /// Effects in a hundred thousand before which the node crashes; it restarts up to two seconds later.
    pub crashes_per_100k: u64,
    /// From then on nothing is lost and nobody crashes.
    pub calm_from: Millis,
    /// Ends a second after every honest node has settled something in the calm.
    pub ends_healed: bool,
    /// All nodes crash at these times.
    pub blackouts: Vec<Millis>,
    /// Nodes whose write-ahead logs get lost in a blackout; the signers' marks stay. If more than a third lose theirs there
    /// may be nobody left with the blocks that the marks speak of, and nothing settles any more.
    pub loses_logs: Vec<usize>,
    /// A transaction comes up at all nodes so often; 0 for never.
    pub transaction_every: Millis,
    /// A stake changes so often; 0 for never.
    pub stake_change_every: Millis,
    /// Whether the ledger takes the stake of whoever is proven to have contradicted itself.
    pub slashes: bool,
    /// How long executing a block takes; building takes no time.
    pub execution: Millis,
    /// Whether signatures are made and checked, which costs most of the time of a run.
    pub real_signatures: bool,
}

impl Scenario {
    /// A minute of a quiet network with a transaction each second.
    pub fn honest(spec: ChainSpec, validators: usize, seed: u64) -> Self {
        let settings = Settings::new(spec.rules(1).consensus.pace);
        Self {
            spec,
            validators,
            seed,
            until: 60_000,
            settings,
            delay: (5, 40),
            loss_per_mille: 0,
            duplicate_per_mille: 0,
            adversaries: Vec::new(),
            observers: 0,
            guardians: Vec::new(),
            elite: Vec::new(),
            stopped: Vec::new(),
            partitions: Vec::new(),
            crashes_per_100k: 0,
            calm_from: Millis::MAX,
            ends_healed: false,
            blackouts: Vec::new(),
            loses_logs: Vec::new(),
            transaction_every: 1_000,
            stake_change_every: 0,
            slashes: false,
            execution: 0,
            real_signatures: false,
        }
    }

    /// Runs it.
    pub fn run(self) -> Report {
        Network::new(self).run()
    }
}

/// A rule that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Violation {
    /// Two different settled blocks of one height.
    Conflict {
        /// The height.
        height: u64,
    },
    /// Two different final blocks of one height.
    FinalConflict {
        /// The height.
        height: u64,
    },
    /// A node's final checkpoint fell, or is not a block that it has settled.
    FinalFell {
        /// Which node.
        node: usize,
    },
    /// A validator signed votes for two blocks of one height, or of one epoch at the responsive pace.
    DoubleVote {
        /// Which.
        validator: usize,
        /// The height or epoch.
        rank: u64,
    },
    /// A validator signed two blocks of one epoch.
    DoubleProposal {
        /// Which.
        validator: usize,
        /// The epoch.
        epoch: u64,
    },
    /// Settled height, lock or epoch fell, or the settled block is not below the lock.
    Fell {
        /// Which node.
        node: usize,
    },
    /// A validator voted for a block that certifies less than what it is locked on.
    BelowLock {
        /// Which.
        validator: usize,
        /// The height of the block.
        height: u64,
    },
    /// A final checkpoint for which not more than two thirds of the guardians have voted.
    NotVoted {
        /// The height.
        height: u64,
    },
    /// A settled block without a certified child that settles it.
    NoWitness {
        /// The height.
        height: u64,
    },
    /// An honest node was blamed for something by another.
    Blamed {
        /// Who was blamed.
        node: usize,
        /// For what.
        fault: Fault,
    },
    /// An honest validator was accused of contradicting itself.
    Accused {
        /// By whom.
        by: usize,
    },
    /// A settled block by somebody who was absent, or that names so many that less than a quorum is left.
    Absent {
        /// The height.
        height: u64,
    },
    /// A node holds more than its limits allow.
    Swollen {
        /// Which node.
        node: usize,
    },
    /// A packet is not read back as it was written.
    Garbled {
        /// Whose.
        node: usize,
    },
    /// An engine could not start again, or did something that the host cannot carry out.
    Stuck {
        /// Which node.
        node: usize,
    },
}

impl Report {
    /// [`Self::latencies`] of the transactions that came up between two times.
    pub fn latencies_between(&self, from: Millis, until: Millis) -> Vec<Millis> {
        let born = self.settled_after.iter().filter(|(born, _)| (from..until).contains(born));
        let mut latencies: Vec<Millis> = born.map(|(_, took)| *took).collect();
        latencies.sort_unstable();
        latencies
    }
}

/// What came of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Settled height of every node.
    pub settled: Vec<u64>,
    /// Height of every node's final checkpoint.
    pub finals: Vec<u64>,
    /// Validators in every node's newest settled state.
    pub validators: Vec<usize>,
    /// Most guardians and most elite edge nodes whose votes stand in a settled header.
    pub votes_in_headers: (usize, usize),
    /// Settled height of every node when the calm began.
    pub before_calm: Vec<u64>,
    /// When, after the calm began, the honest node that was last had settled a block more; none while one has not.
    pub healed_after: Option<Millis>,
    /// When, after the calm began, the last honest node that had crashed was back; one that had lost its log, when it voted
    /// again.
    pub whole_after: Millis,
    /// The longest that an honest node then waited for a proposer.
    pub patience: Millis,
    /// Epochs with a faulty proposer that honest nodes were in between then and `healed_after`.
    pub faulty_epochs: u32,
    /// Settled height of every node every ten seconds, from the start on.
    pub samples: Vec<Vec<u64>>,
    /// Epoch of every node.
    pub epochs: Vec<u64>,
    /// What was broken; empty in a right implementation.
    pub violations: Vec<Violation>,
    /// Restarts of all nodes.
    pub restarts: u64,
    /// Proofs of contradictions that honest nodes reported.
    pub reported: u64,
    /// Time from a transaction's coming up to its being settled at the first node, in milliseconds, ascending.
    pub latencies: Vec<Millis>,
    /// The same to its being settled at every honest node, of those that were while nobody crashed.
    pub everywhere: Vec<Millis>,
    /// When each of these transactions came up, and how long it took, in the order in which they settled.
    pub settled_after: Vec<(Millis, Millis)>,
    /// Transactions that came up.
    pub transactions: usize,
    /// Hash over all that happened; equal runs have equal ones.
    pub trace: Hash,
}

#[cfg(test)]
mod tests;
