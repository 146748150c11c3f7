//! How a job ended.

use serde::{Deserialize, Serialize};
use theta_core::amount::TFuelWei;
use theta_core::hash::Hash;

use crate::executor::Output;
use crate::identity::NodeId;
use crate::placement::Spill;

/// How a job stands (cli.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Waits for money or a node.
    Queued,
    /// Is being run, compared or paid.
    Running,
    /// Ended with exit code 0.
    Succeeded,
    /// Ended otherwise.
    Failed,
    /// Was not wanted any more.
    Cancelled,
}

/// Why a result is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verification {
    /// There is no result.
    None,
    /// So many of so many results were equal.
    Quorum {
        /// Equal ones.
        agree: u8,
        /// All.
        of: u8,
    },
    /// The requester ran it again.
    Reexecuted,
}

impl std::fmt::Display for Verification {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => write!(f, "none"),
            Self::Quorum { agree, of } => write!(f, "quorum {agree} of {of}"),
            Self::Reexecuted => write!(f, "re-executed by the requester"),
        }
    }
}

/// What one node earned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Earned {
    /// Who.
    pub node: NodeId,
    /// For what, in the purse.
    pub item: Hash,
    /// How much.
    pub amount: TFuelWei,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Which job.
    pub job: Hash,
    /// How it ended.
    pub state: State,
    /// Code of the command contract and a text for people, unless it succeeded.
    pub error: Option<(String, String)>,
    /// The result that is believed.
    pub output: Option<Output>,
    /// Why it is.
    pub verification: Verification,
    /// Attempts that were offered.
    pub attempts: u32,
    /// What was paid, to whom.
    pub paid: Vec<Earned>,
    /// Nodes that showed another result and are not paid.
    pub wrong: Vec<NodeId>,
    /// Machines of provider pools that were asked, and why.
    pub spilled: Vec<(NodeId, Spill)>,
}

impl Report {
    /// Everyone who is paid something.
    pub(super) fn payees(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.paid.iter().map(|earned| earned.node)
    }

    /// The exit code of the program, if it ended by one.
    pub fn exit_code(&self) -> Option<i32> {
        match self.output.as_ref()?.ending {
            crate::executor::Ending::Exit(code) => Some(code),
            _ => None,
        }
    }

    /// All that was paid; `None` above what a word holds.
    pub fn total(&self) -> Option<TFuelWei> {
        self.paid.iter().try_fold(TFuelWei::ZERO, |sum, earned| sum.checked_add(earned.amount))
    }
}
