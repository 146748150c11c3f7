//! The validators' agreement of a Theta chain as a machine without I/O.
//!
//! [`Engine`] takes time and [`Input`]s and gives [`Effect`]s; the host owns sockets, disks, clocks and the ledger.
//! Safety rests on the vote and commit rules, the write-ahead log ([`WalRecord`]) and the signer's own mark
//! ([`LocalSigner`]).
//!
//! Start at [`Engine::step`]; at [`Settings`] for durations; at `sim` (feature `sim`) for a deterministic network
//! of engines with loss, delay, partitions and crashes.
//!
//! ```
//! use std::sync::Arc;
//! use theta_consensus::{Effect, Engine, Input, Roles, Settings, SettledBlock, Start};
//! use theta_core::{block::Header, context::PostState, spec::{ChainSpec, Pace}};
//!
//! let genesis = Arc::new(Header::zero());
//! let post = PostState::new(genesis.state_root, Arc::default());
//! let start = Start {
//!     root: genesis.hash(),
//!     settled: vec![SettledBlock { header: genesis, post }],
//!     wal: Vec::new(),
//! };
//! let spec = Arc::new(ChainSpec::devnet());
//! let mut engine = Engine::recover(spec, Settings::new(Pace::Responsive), Roles::observer(), start)?;
//! let mut effects = Vec::new();
//! engine.step(1_700_000_000_000, Input::Tick, &mut effects);
//! assert!(effects.iter().any(|effect| matches!(effect, Effect::WakeAt(_))));
//! # Ok::<(), theta_consensus::RecoverError>(())
//! ```
//!
//! # Safety
//!
//! A vote leaves only after the log and the mark are durable; one vote per height, or per epoch at the responsive pace; a
//! vote only for a block that carries the certificate of the voter's lock; the lock never falls. With less than a third of
//! the stake at fault, two settled blocks never conflict (`spec/consensus.md` 5.1; the argument for both paces stands in
//! `vote.rs`). Above the validators stand guardians and elite edge nodes: [`Roles`] says what a node takes part in,
//! [`Checkpoint`] what a guardian's vote is good for, [`Evidence`] what proves that a validator contradicted itself.
//!
//! Without an engine: [`settled`] judges the next block of a settled chain, [`light`] follows a chain by votes and proofs.

mod certificate;
mod checks;
mod elite;
mod engine;
mod epoch_end;
mod finality;
mod go_rand;
mod guardian;
pub mod light;
mod message;
mod pace;
mod proposer;
mod round;
mod set_change;
pub mod settled;
mod signer;
#[cfg(feature = "sim")]
pub mod sim;
mod tree;
mod vote;
mod wal;

pub use certificate::{CertificateError, check_form, verify as verify_certificate};
pub use checks::{Checked, Checks, Fault};
pub use elite::{EliteVote, merge_elite_votes, verify_elite_votes};
pub use engine::{Effect, Engine, Held, Input, RecoverError, Roles, Start};
pub use epoch_end::{EpochEnd, Statement};
pub use finality::{Checkpoint, GuardianPart};
pub use go_rand::GoRand;
pub use guardian::{AggregateError, merge_guardian_votes, verify_guardian_votes};
pub use message::{MAX_MESSAGE_BYTES, Message, Peer, Proposal, Status};
pub use pace::{Millis, Settings};
pub use proposer::{proposer, scheduled, seeded_proposer};
pub use round::MergeError;
pub use signer::{Intent, LocalSigner, RoleSigner, Signed};
pub use theta_core::evidence::{Evidence, EvidenceError};
pub use tree::SettledBlock;
pub use wal::{WalRecord, WalVote};

/// Vectors of the reference, for the tests of the modules.
#[cfg(test)]
mod fixture {
    use serde_json::Value;
    use theta_core::{
        amount::ThetaWei,
        hash::U256,
        stake::{Validator, ValidatorSet},
    };

    pub(crate) fn object(name: &str) -> Value {
        let all: Value =
            serde_json::from_str(include_str!("../tests/fixtures/consensus.json")).expect("fixture is JSON");
        all[name].clone()
    }

    /// Votes of guardians and elite edge nodes.
    pub(crate) fn upper(name: &str) -> Value {
        let all: Value =
            serde_json::from_str(include_str!("../tests/fixtures/upper.json")).expect("fixture is JSON");
        all[name].clone()
    }

    /// Reads an object whose RLP stands beside it.
    pub(crate) fn read<T: theta_core::codec::rlp::Decode>(value: &Value) -> Option<T> {
        let raw = hex::decode(value["rlp"].as_str().expect("text")).expect("hex");
        T::from_rlp(&raw, 1 << 16).ok()
    }

    pub(crate) fn array(name: &str) -> Vec<Value> {
        object(name).as_array().expect("a list").clone()
    }

    pub(crate) fn validators(list: &Value) -> ValidatorSet {
        ValidatorSet::new(list.as_array().expect("a list").iter().map(|validator| {
            let text = |name: &str| validator[name].as_str().expect("text");
            let stake = U256::from_str_radix(text("stake"), 10).expect("number");
            Validator::new(text("address").parse().expect("address"), ThetaWei::from_u256(stake))
        }))
    }
}
