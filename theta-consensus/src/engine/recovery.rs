//! Starting from what the ledger settled and what the log remembers.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use theta_core::{
    block::{Block, CommitCertificate},
    hash::Hash,
    spec::{ChainSpec, Pace},
};

use super::{Engine, Roles, locking::Lock};
use crate::{
    certificate::Shares,
    message::Peer,
    pace::{Settings, Timers},
    tree::{SettledBlock, Tree},
    vote::{LastVote, VoteBook, rank},
    wal::{WalRecord, WalVote},
};

/// What a node knows when it starts.
#[derive(Clone, Debug)]
pub struct Start {
    /// Hash of genesis, or of the block that a snapshot starts at.
    pub root: Hash,
    /// Settled blocks, ascending, up to the newest one. The more the better, up to 2,000; at the least, those that three
    /// steps over certificates from the newest one lead to.
    pub settled: Vec<SettledBlock>,
    /// The write-ahead log, oldest record first.
    pub wal: Vec<WalRecord>,
}

/// Why an engine cannot start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecoverError {
    /// No settled block was given, or they are no chain.
    #[error("settled blocks are no chain")]
    NoChain,
    /// The certified blocks below the newest one are missing, so its validators are unknown.
    #[error("settled blocks do not reach down to the ones that name the validators")]
    ShortTail,
    /// The log names a final checkpoint of this height, and another block is settled there: the chain's data are of
    /// another branch than the guardians'. They have to be fetched again from nodes that hold the final one.
    #[error("the settled block of height {0} is not the final checkpoint")]
    NotFinal(u64),
}

impl Engine {
    /// Starts from what the ledger settled and what the log remembers. The first step gives the first effects.
    pub fn recover(
        spec: Arc<ChainSpec>,
        settings: Settings,
        roles: Roles,
        start: Start,
    ) -> Result<Self, RecoverError> {
        let mut tree = Tree::new(spec.clone(), start.root, start.settled).ok_or(RecoverError::NoChain)?;
        let head = tree.head();
        if tree.validators(&head).is_none() || tree.next_validators(&head).is_none() {
            return Err(RecoverError::ShortTail);
        }
        let (mut certificate, mut last_vote, mut proposal, mut checkpoint) = (None, None, None, None);
        let mut blocks = BTreeMap::new();
        let wal_records = u32::try_from(start.wal.len()).unwrap_or(u32::MAX);
        for record in start.wal {
            for block in record.blocks {
                blocks.insert((block.header.height, block.header.hash()), block);
            }
            certificate = record.lock.or(certificate);
            last_vote = record.vote.or(last_vote);
            proposal = record.proposal.or(proposal);
            checkpoint = record.checkpoint.or(checkpoint);
        }
        if let Some((hash, height)) = checkpoint
            && (tree.lowest_height()..=tree.head_height()).contains(&height)
            && !tree.is_settled(&hash)
        {
            return Err(RecoverError::NotFinal(height));
        }
        // Ascending, so parents come first; what does not descend from the settled head is left out.
        for ((_, hash), block) in blocks {
            tree.insert(hash, Arc::new(block), Peer::Own, true);
        }
        let certificate = certificate
            .filter(|certificate| tree.node(&certificate.block).is_some() || certificate.block == head)
            .unwrap_or_else(|| CommitCertificate::bare(head));
        let locked = tree.header(&certificate.block).ok_or(RecoverError::NoChain)?;
        let pace = tree.pace(locked.height);
        let lock =
            Lock { block: certificate.block, height: locked.height, rank: rank(locked, pace), certificate };
        let epoch = [
            tree.header(&head).map(|header| header.epoch),
            last_vote.map(|vote: WalVote| vote.epoch),
            proposal.as_ref().map(|block: &Block| block.header.epoch),
        ];
        let mut engine = Self {
            spec,
            settings: Settings { epoch_timeout: settings.epoch_timeout.max(1), ..settings },
            roles,
            book: VoteBook::default(),
            epoch: epoch.into_iter().flatten().max().unwrap_or(0),
            last_vote: last_vote.map(|vote| LastVote {
                block: vote.block,
                height: vote.height,
                // A block that has left the tree is of an epoch up to that of the vote.
                rank: match (tree.header(&vote.block), pace) {
                    (Some(header), pace) => rank(header, pace),
                    (None, Pace::Clocked) => vote.height,
                    (None, Pace::Responsive) => vote.epoch,
                },
                epoch: vote.epoch,
            }),
            voted: None,
            told_one: None,
            lock,
            tree,
            proposal,
            building: None,
            timers: Timers::default(),
            work: false,
            orphans: BTreeMap::new(),
            wants: BTreeMap::new(),
            refused: BTreeSet::new(),
            refused_order: VecDeque::new(),
            wal_records,
            wal_bytes: 0,
            status_at: 0,
            told_at: 0,
            wake_at: None,
            now: 0,
            started: false,
            members: Vec::new(),
            ballot: None,
            final_checkpoint: checkpoint,
            settled_by: None,
            reported: BTreeSet::new(),
            shares: Shares::default(),
            suspects: BTreeSet::new(),
            shown: BTreeMap::new(),
            opened: None,
        };
        engine.gather_members();
        Ok(engine)
    }

    /// Tells what the signer remembers ([`crate::RoleSigner::voted`]). Where the log is older, or lost, a node would be silent
    /// until there is a block that its signer does not refuse, and with it perhaps the quorum that such a block waits for. A
    /// vote for the same block may be given again, so it has a say in which epoch it is. Responsive pace only.
    #[must_use]
    pub fn reminded(mut self, voted: Option<(Hash, u64)>) -> Self {
        let is_newer = |rank: u64| self.last_vote.is_none_or(|last| last.rank < rank);
        if let Some((block, rank)) =
            voted.filter(|(_, rank)| self.pace() == Pace::Responsive && is_newer(*rank))
        {
            let height = self.tree.header(&block).map_or(self.lock.height, |header| header.height);
            self.last_vote = Some(LastVote { block, height, rank, epoch: rank });
            self.epoch = self.epoch.max(rank);
        }
        self
    }

    /// Takes make-believe shares for real ones.
    #[cfg(feature = "sim")]
    pub(crate) fn making_believe(self) -> Self {
        Self { shares: Shares::MakeBelieve, ..self }
    }
}
