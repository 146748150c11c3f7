//! The last line against signing two different things: a signer with its own durable memory.
//!
//! The write-ahead log belongs to the chain's data, which may be restored from a copy, imported or deleted. The mark
//! belongs to the key. A [`LocalSigner`] syncs its mark before a signature leaves it and refuses whatever contradicts
//! the mark; signing the same thing again is always allowed, and gives the same bytes.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use theta_core::{
    BigUint,
    block::{Block, Seed},
    bls,
    certificate::{AggregateVotes, epoch_end_message},
    hash::{Address, Hash},
    journal::{Disk, Journal, JournalError, Record},
    sign::{SignError, Signature, Signer},
    spec::GuardianRule,
    vote::{Vote, VoteSet},
};

use crate::{
    certificate::VoteKey,
    elite::EliteVote,
    finality::{self, GuardianPart, Part},
    guardian,
    message::{Message, Proposal},
};

/// What the engine wants signed and sent to everybody.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[expect(clippy::large_enum_variant, reason = "a block is moved a few times at most")]
pub enum Intent {
    /// A vote, as yet without signature.
    Vote {
        /// The vote; its height is the block's.
        vote: Vote,
        /// What ranks the voted block: its height at the clocked pace, its epoch at the responsive one.
        rank: u64,
        /// The same of the block that it certifies: of the lock, which never falls.
        certified_rank: u64,
        /// Where votes have shares, the chain's name. The block's epoch is its rank there; a vote of a later one says that it
        /// is over, too.
        share: Option<String>,
    },
    /// A block, as yet without signature, and votes that help slow peers.
    Proposal {
        /// The block.
        block: Block,
        /// Where proposers are drawn from a seed, the parent's.
        seed: Option<Hash>,
        /// See [`Proposal::votes`].
        votes: VoteSet,
    },
    /// A guardian's vote for a settled checkpoint.
    Guardian {
        /// The checkpoint.
        block: Hash,
        /// Its height.
        height: u64,
        /// The chain.
        chain: String,
        /// What the vote is good for.
        rule: GuardianRule,
        /// Hash of the guardian pool.
        pool: Hash,
        /// This guardian's place among those with stake.
        index: usize,
        /// How many guardians have stake.
        size: usize,
    },
    /// An elite edge node's vote for a settled checkpoint.
    Elite {
        /// The checkpoint.
        block: Hash,
        /// Its height.
        height: u64,
        /// The node.
        address: Address,
        /// Seconds since 1970.
        timestamp: BigUint,
    },
}

/// A signed [`Intent`]: send it to everybody and feed it back as a message of [`crate::Peer::Own`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[expect(clippy::large_enum_variant, reason = "a block is moved a few times at most")]
pub enum Signed {
    /// Goes to [`crate::Engine::wants`].
    Message(Message),
    /// Its block goes to [`crate::Engine::wants_block`].
    Proposal(Proposal),
}

/// Whoever signs for a validator: a key in memory, another process, a device.
pub trait RoleSigner: Send {
    /// The validator's address.
    fn address(&self) -> Address;
    /// The block that it has voted for last and what ranks that, as far as it tells: see [`crate::Engine::reminded`].
    fn voted(&self) -> Option<(Hash, u64)> {
        None
    }
    /// Signs an intent, or refuses one that contradicts an earlier one.
    fn sign(&mut self, intent: &Intent) -> Result<Signed, SignError>;
}

/// What was signed last: all that has to be known to sign safely.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    voted_rank: u64,
    voted_block: Hash,
    certified_rank: u64,
    proposed_epoch: u64,
    proposed_digest: Hash,
}

impl Record for Mark {
    const VERSION: u8 = 1;
}

const NO_VOTE_KEY: &str = "there is no BLS key for a validator's votes and blocks";
const NO_CHECKPOINT_KEY: &str = "there is no key for votes on checkpoints";

/// The checkpoint a guardian signed last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct CheckpointMark {
    height: u64,
    block: Hash,
}

impl Record for CheckpointMark {
    const VERSION: u8 = 1;
}

/// A guardian's or elite edge node's key. Guardians' votes may finalize, so one block of a height is all that is signed.
struct CheckpointKey {
    key: bls::SecretKey,
    journal: Journal<CheckpointMark>,
    mark: CheckpointMark,
}

impl CheckpointKey {
    fn remember(&mut self, height: u64, block: Hash) -> Result<(), SignError> {
        let mark = CheckpointMark { height, block };
        if mark == self.mark {
            return Ok(());
        }
        if self.mark.block != Hash::ZERO && height <= self.mark.height {
            return refused("a vote on another checkpoint of this height or above was signed");
        }
        // One in minutes: the file never gets long, so it is written anew each time.
        self.journal.replace(&[mark]).map_err(|error| SignError::Mark(error.to_string()))?;
        self.mark = mark;
        Ok(())
    }
}

/// A key in memory and its durable mark.
pub struct LocalSigner {
    key: Arc<dyn Signer>,
    /// The key of a validator's shares and seeds. The mark binds it as it binds the other one: it signs nothing alone.
    vote_key: Option<VoteKey>,
    checkpoints: Option<CheckpointKey>,
    journal: Journal<Mark>,
    mark: Mark,
    written: u32,
}

/// Marks are some hundred bytes; the file starts anew after this many.
const MARKS_PER_FILE: u32 = 10_000;

impl std::fmt::Debug for LocalSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalSigner").field("address", &self.key.address()).finish_non_exhaustive()
    }
}

impl LocalSigner {
    /// Opens the mark of a key. The disk has to be this key's alone, and to move with it.
    pub fn open(key: Arc<dyn Signer>, disk: impl Disk + 'static) -> Result<Self, JournalError> {
        let (journal, marks) = Journal::open(disk)?;
        let mark = marks.last().copied().unwrap_or_default();
        Ok(Self { key, vote_key: None, checkpoints: None, journal, mark, written: 0 })
    }

    /// Gives votes their shares and blocks their seeds, as validators do on chains where they have BLS keys.
    pub fn with_vote_key(self, key: bls::SecretKey) -> Self {
        Self { vote_key: Some(VoteKey::Curve(key)), ..self }
    }

    #[cfg(feature = "sim")]
    pub(crate) fn with_any_vote_key(self, key: VoteKey) -> Self {
        Self { vote_key: Some(key), ..self }
    }

    fn vote_key(&self) -> Result<&VoteKey, SignError> {
        self.vote_key.as_ref().ok_or_else(|| SignError::Refused(NO_VOTE_KEY.to_owned()))
    }

    /// Signs for checkpoints too, as a guardian or an elite edge node. The disk has to be this key's alone.
    pub fn with_checkpoint_key(
        self,
        key: bls::SecretKey,
        disk: impl Disk + 'static,
    ) -> Result<Self, JournalError> {
        let (journal, marks) = Journal::open(disk)?;
        let mark = marks.last().copied().unwrap_or_default();
        Ok(Self { checkpoints: Some(CheckpointKey { key, journal, mark }), ..self })
    }

    /// The same key without the mark, for what is no vote and no block, such as the coinbase of a block being built.
    pub fn unguarded(&self) -> &dyn Signer {
        self.key.as_ref()
    }

    fn remember(&mut self, mark: Mark) -> Result<(), SignError> {
        if mark == self.mark {
            return Ok(());
        }
        let result = if self.written < MARKS_PER_FILE {
            self.written += 1;
            self.journal.append(&mark)
        } else {
            self.written = 0;
            self.journal.replace(&[mark])
        };
        result.map_err(|error| SignError::Mark(error.to_string()))?;
        self.mark = mark;
        Ok(())
    }

    fn signature(&self, digest: &Hash) -> Result<Signature, SignError> {
        self.key.sign(digest)
    }
}

fn refused<T>(why: &str) -> Result<T, SignError> {
    Err(SignError::Refused(why.to_owned()))
}

impl RoleSigner for LocalSigner {
    fn address(&self) -> Address {
        self.key.address()
    }

    fn voted(&self) -> Option<(Hash, u64)> {
        (self.mark.voted_block != Hash::ZERO).then_some((self.mark.voted_block, self.mark.voted_rank))
    }

    fn sign(&mut self, intent: &Intent) -> Result<Signed, SignError> {
        let mut mark = self.mark;
        match intent {
            Intent::Vote { vote, rank, certified_rank, share } => {
                if vote.voter != self.address() {
                    return refused("vote is another validator's");
                }
                let again = vote.block == mark.voted_block;
                if !again && mark.voted_block != Hash::ZERO && *rank <= mark.voted_rank {
                    return refused("a vote of this rank or above was signed for another block");
                }
                if !again && *certified_rank < mark.certified_rank {
                    return refused("a vote on a higher lock was signed before");
                }
                if !again {
                    mark.voted_rank = *rank;
                    mark.voted_block = vote.block;
                    mark.certified_rank = *certified_rank;
                }
                self.remember(mark)?;
                let mut vote = vote.clone();
                if let Some(chain) = share {
                    let message = AggregateVotes::message(chain, &vote.block, *rank);
                    vote.share = Some(self.vote_key()?.sign(&message));
                    let end = (vote.epoch > *rank).then(|| epoch_end_message(chain, vote.epoch));
                    vote.end =
                        end.map(|message| self.vote_key().map(|key| key.sign(&message))).transpose()?;
                }
                vote.signature = self.signature(&vote.digest())?;
                Ok(Signed::Message(Message::Vote(vote)))
            }
            Intent::Proposal { block, seed, votes } => {
                let mut block = block.clone();
                let epoch = block.header.epoch;
                if let Some(parent) = seed {
                    let signature = self.vote_key()?.sign(&Seed::message(&block.header.chain, epoch));
                    block.header.seed = Some(Seed::after(parent, signature));
                }
                let digest = block.header.digest();
                if block.header.proposer != self.address() {
                    return refused("block is another validator's");
                }
                if epoch < mark.proposed_epoch
                    || (epoch == mark.proposed_epoch && digest != mark.proposed_digest)
                {
                    return refused("another block of this epoch or a later one was signed");
                }
                mark.proposed_epoch = epoch;
                mark.proposed_digest = digest;
                self.remember(mark)?;
                block.header.signature = self.signature(&digest)?;
                let proposer = self.address();
                Ok(Signed::Proposal(Proposal { block, proposer, votes: votes.clone() }))
            }
            Intent::Guardian { block, height, chain, rule, pool, index, size } => {
                let Some(guardian) = &mut self.checkpoints else { return refused(NO_CHECKPOINT_KEY) };
                guardian.remember(*height, *block)?;
                let message = finality::message(*rule, chain, *height, block, pool);
                let key = &guardian.key;
                Ok(Signed::Message(match rule {
                    GuardianRule::RewardOnly => {
                        let votes =
                            guardian::sign(key, (guardian::SUITE, &message), (*block, *pool), *index, *size);
                        Message::GuardianVotes(votes)
                    }
                    GuardianRule::Finalize => {
                        let part = Part::single(*index, key.sign(finality::SUITE, &message));
                        Message::GuardianPart(GuardianPart::new(*block, part))
                    }
                }))
            }
            Intent::Elite { block, height, address, timestamp } => {
                let Some(elite) = &self.checkpoints else { return refused(NO_CHECKPOINT_KEY) };
                let vote = EliteVote::sign(&elite.key, *block, *height, *address, timestamp.clone());
                Ok(Signed::Message(Message::EliteVote(vote)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use theta_core::{block::Header, journal::MemDisk, sign::SecretKey};

    use super::*;

    fn key() -> SecretKey {
        SecretKey::from_bytes(&[3; 32]).expect("in range")
    }

    fn open(disk: &MemDisk) -> LocalSigner {
        LocalSigner::open(Arc::new(key()), disk.clone()).expect("whole")
    }

    fn vote(block: u8, height: u64, epoch: u64, certified_rank: u64) -> Intent {
        let block = Hash::repeat_byte(block);
        let vote = Vote::unsigned(block, height, epoch, key().address());
        Intent::Vote { vote, rank: height, certified_rank, share: None }
    }

    fn proposal(epoch: u64, timestamp: u32) -> Intent {
        let header =
            Header { epoch, timestamp: timestamp.into(), proposer: key().address(), ..Header::zero() };
        let block = Block { header, transactions: Vec::new() };
        Intent::Proposal { block, seed: None, votes: VoteSet::default() }
    }

    #[test]
    fn a_second_block_of_a_height_is_refused_even_after_a_power_cut() {
        let disk = MemDisk::default();
        let first = open(&disk).sign(&vote(1, 5, 9, 4)).expect("first");
        disk.crash(0);
        let mut signer = open(&disk);
        assert!(signer.sign(&vote(2, 5, 9, 4)).is_err());
        assert!(signer.sign(&vote(2, 4, 9, 4)).is_err());
        assert_eq!(signer.sign(&vote(1, 5, 9, 4)), Ok(first));
        assert!(signer.sign(&vote(1, 5, 10, 4)).is_ok());
        assert!(signer.sign(&vote(2, 6, 10, 4)).is_ok());
    }

    #[test]
    fn a_vote_on_a_lower_lock_is_refused() {
        let mut signer = open(&MemDisk::default());
        assert!(signer.sign(&vote(1, 5, 9, 4)).is_ok());
        assert!(signer.sign(&vote(2, 6, 9, 3)).is_err());
    }

    #[test]
    fn a_second_block_of_an_epoch_is_refused_even_after_a_power_cut() {
        let disk = MemDisk::default();
        let first = open(&disk).sign(&proposal(7, 100)).expect("first");
        disk.crash(0);
        let mut signer = open(&disk);
        assert!(signer.sign(&proposal(7, 101)).is_err());
        assert!(signer.sign(&proposal(6, 100)).is_err());
        assert_eq!(signer.sign(&proposal(7, 100)), Ok(first));
        assert!(signer.sign(&proposal(8, 101)).is_ok());
    }

    struct FullDisk;

    impl Disk for FullDisk {
        fn read(&mut self) -> std::io::Result<Vec<u8>> {
            Ok(Vec::new())
        }
        fn append(&mut self, _: &[u8]) -> std::io::Result<()> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn sync(&mut self) -> std::io::Result<()> {
            Ok(())
        }
        fn replace(&mut self, _: &[u8]) -> std::io::Result<()> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
    }

    #[test]
    fn a_mark_that_cannot_be_written_is_no_refusal() {
        let mut signer = LocalSigner::open(Arc::new(key()), FullDisk).expect("empty");
        assert!(matches!(signer.sign(&vote(1, 5, 9, 4)), Err(SignError::Mark(_))));
        assert!(matches!(signer.sign(&proposal(7, 100)), Err(SignError::Mark(_))));
    }

    #[test]
    fn another_validators_intents_are_refused() {
        let mut signer = LocalSigner::open(
            Arc::new(SecretKey::from_bytes(&[4; 32]).expect("in range")),
            MemDisk::default(),
        )
        .expect("empty");
        assert!(signer.sign(&vote(1, 5, 9, 4)).is_err());
        assert!(signer.sign(&proposal(7, 100)).is_err());
    }
}
