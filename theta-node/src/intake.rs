//! Takes the blocks of files into a ledger: all of it is carried out again, and what is kept has votes of two thirds.
//!
//! A block settles here when a block above it in the file holds valid votes for it or for one above it; the last block
//! of a file has nothing above it, so it needs votes beside it. Until then it is in memory alone, and an intake that ends
//! early leaves the store at a settled block, from which the next one goes on.

use std::{
    io::{Read, Seek},
    sync::Arc,
};

use theta_consensus::verify_certificate;
use theta_core::{
    block::{Block, CommitCertificate, transactions_root},
    certificate::CertificateVotes,
    hash::Hash,
    spec::ChainSpec,
};
use theta_ledger::{
    chain_file::ChainFile,
    error::{OpenError, SnapshotError},
    follow::{FollowError, Follower},
    ledger::At,
    replay::{
        ReplayError,
        blocks::{Network, RecordedBlock, Visit, read},
    },
    state::StateError,
};

/// Blocks that are written in one batch.
const BATCH: u64 = 32;
/// Blocks in a row that nothing certifies.
const UNCERTIFIED: u64 = 1_000;

/// Why blocks were not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IntakeError {
    /// A block may not stand on the one before.
    #[error("{0}")]
    Block(FollowError),
    /// The first block of the file is above the newest one here.
    #[error(
        "the file begins at height {first}, the chain here ends at {newest}; begin with a snapshot of height {needed} or above"
    )]
    Gap {
        /// Of the file.
        first: u64,
        /// Of the ledger.
        newest: u64,
        /// One below the file's first.
        needed: u64,
    },
    /// Another block is settled here at that height.
    #[error("block {height} is {found}, the chain here has {expected}")]
    OtherChain {
        /// The height.
        height: u64,
        /// In the file.
        found: Hash,
        /// Here.
        expected: Hash,
    },
    /// A block that is settled here has other transactions in the file.
    #[error("block {0} holds other transactions than its header says")]
    Transactions(u64),
    /// A block of the file does not stand on the one before it.
    #[error("block {0} does not stand on the block before it in the file")]
    Unlinked(u64),
    /// The file ends below everything that is known here.
    #[error(
        "the file ends at height {0}, below the first block that is known here; nothing says that it is of this chain"
    )]
    Below(u64),
    /// Too many blocks without votes of two thirds.
    #[error("block {0} and the {UNCERTIFIED} above it lack votes of two thirds of the stake")]
    Uncertified(u64),
    /// A chain file is damaged.
    #[error(transparent)]
    File(#[from] SnapshotError),
    /// A recording is damaged.
    #[error(transparent)]
    Recording(#[from] ReplayError),
    /// The ledger did not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Our own state could not be read or written.
    #[error(transparent)]
    State(#[from] StateError),
    /// Asked to stop.
    #[error("stopped; the same command goes on from height {0}")]
    Stopped(u64),
}

impl IntakeError {
    /// Height of the block that is to blame, if one is.
    pub const fn height(&self) -> Option<u64> {
        match self {
            Self::Block(error) => error.height(),
            Self::Gap { first: height, .. }
            | Self::OtherChain { height, .. }
            | Self::Transactions(height)
            | Self::Unlinked(height)
            | Self::Uncertified(height) => Some(*height),
            _ => None,
        }
    }
}

impl From<FollowError> for IntakeError {
    fn from(error: FollowError) -> Self {
        match error {
            FollowError::State(error) => Self::State(error),
            error => Self::Block(error),
        }
    }
}

/// What was taken.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Taken {
    /// Blocks that were carried out and are settled now.
    pub blocks: u64,
    /// Height of the first of them.
    pub first: Option<u64>,
    /// Height of the last of them.
    pub last: Option<u64>,
    /// Transactions in them.
    pub transactions: u64,
    /// State root of the newest settled block.
    pub state_root: Hash,
    /// Blocks of the file that were settled here before, or lie below what is known.
    pub known: u64,
    /// Blocks at the end of the file that were carried out and lack votes of two thirds; they are not kept.
    pub uncertified: u64,
}

/// A ledger while it takes blocks.
pub struct Intake {
    follower: Follower,
    /// Height at the start.
    start: u64,
    /// The newest block with votes of two thirds.
    certified: (u64, Hash),
    /// The block before in the file.
    before: Option<(u64, Hash)>,
    votes: CertificateVotes,
    known: u64,
    anchored: bool,
    /// Heights and numbers of transactions of blocks above the last certified one.
    pending: Vec<(u64, u64)>,
    transactions: u64,
    watch: Box<dyn FnMut(u64) -> bool + Send>,
}

impl std::fmt::Debug for Intake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Intake").field("follower", &self.follower).finish_non_exhaustive()
    }
}

impl Intake {
    /// Goes on from where a follower is. `watch` is told each height before its block is taken; `false` stops.
    pub fn new(follower: Follower, watch: impl FnMut(u64) -> bool + Send + 'static) -> Self {
        let newest = follower.newest();
        let (start, certified) = (newest.header.height, (newest.header.height, newest.hash));
        Self {
            follower,
            start,
            certified,
            before: None,
            votes: CertificateVotes::default(),
            known: 0,
            anchored: false,
            pending: Vec::new(),
            transactions: 0,
            watch: Box::new(watch),
        }
    }

    /// Takes the next block, with the votes that stand beside it.
    pub fn push(&mut self, block: Block, votes: CertificateVotes) -> Result<(), IntakeError> {
        let (height, hash) = (block.header.height, block.header.hash());
        if !(self.watch)(height) {
            self.settle()?;
            return Err(IntakeError::Stopped(self.certified.0 + 1));
        }
        if self.before.is_some_and(|before| (before.0 + 1, before.1) != (height, block.header.parent)) {
            return Err(IntakeError::Unlinked(height));
        }
        if height <= self.start {
            self.compare(height, hash, &block)?;
        } else {
            let newest = self.follower.newest().header.height;
            if self.before.is_none() && height > newest + 1 {
                return Err(IntakeError::Gap { first: height, newest, needed: height - 1 });
            }
            self.carry_out(block)?;
            self.votes = votes;
        }
        self.before = Some((height, hash));
        Ok(())
    }

    /// A block that is settled here already, or lies below what a snapshot brought.
    fn compare(&mut self, height: u64, hash: Hash, block: &Block) -> Result<(), IntakeError> {
        if let Some(here) = self.follower.reader().block(At::Height(height))? {
            if here.hash != hash {
                return Err(IntakeError::OtherChain { height, found: hash, expected: here.hash });
            }
            self.anchored = true;
        }
        if transactions_root(&block.transactions) != block.header.transactions_root && height > 0 {
            return Err(IntakeError::Transactions(height));
        }
        self.known += 1;
        Ok(())
    }

    fn carry_out(&mut self, block: Block) -> Result<(), IntakeError> {
        let height = block.header.height;
        let certified = block.header.certificate.block;
        let transactions = block.transactions.len() as u64;
        self.follower.execute(Arc::new(block))?;
        self.anchored = true;
        self.pending.push((height, transactions));
        // The judge has checked the votes; a block that was settled before moves nothing.
        if let Some(info) = self.follower.reader().block(At::Block(certified))? {
            self.certify(info.block.header.height, certified);
        }
        if self.certified.0 - self.settled() >= BATCH {
            self.settle()?;
        }
        if height - self.certified.0 > UNCERTIFIED {
            return Err(IntakeError::Uncertified(self.certified.0 + 1));
        }
        Ok(())
    }

    fn settled(&self) -> u64 {
        self.follower.reader().settled().header.height
    }

    fn certify(&mut self, height: u64, hash: Hash) {
        if height <= self.certified.0 {
            return;
        }
        self.certified = (height, hash);
        let count = self.pending.partition_point(|(pending, _)| *pending <= height);
        self.transactions += self.pending.drain(..count).map(|(_, transactions)| transactions).sum::<u64>();
    }

    fn settle(&mut self) -> Result<(), StateError> {
        if self.certified.0 > self.settled() { self.follower.settle(&self.certified.1) } else { Ok(()) }
    }

    /// Settles what is left and says what was taken.
    pub fn finish(mut self) -> Result<Taken, IntakeError> {
        if let (false, Some((height, _))) = (self.anchored, self.before) {
            return Err(IntakeError::Below(height));
        }
        let newest = self.follower.newest().clone();
        if newest.header.height > self.certified.0 {
            let voters = self.follower.reader().validators_of(newest.hash)?;
            let low_s = self.follower.reader().spec().rules(newest.header.height).tx.low_s;
            let certificate =
                CommitCertificate { votes: std::mem::take(&mut self.votes), block: newest.hash };
            if verify_certificate(&certificate, &newest.header, &voters, low_s).is_ok() {
                self.certify(newest.header.height, newest.hash);
            }
        }
        self.settle()?;
        let (settled, some) = (self.follower.reader().settled(), self.certified.0 > self.start);
        Ok(Taken {
            blocks: self.certified.0 - self.start,
            first: some.then_some(self.start + 1),
            last: some.then_some(self.certified.0),
            transactions: self.transactions,
            state_root: settled.header.state_root,
            known: self.known,
            uncertified: newest.header.height - self.certified.0,
        })
    }

    /// Where it is in the chain.
    pub const fn follower(&self) -> &Follower {
        &self.follower
    }
}

/// Takes a chain file.
pub fn take_chain_file(file: impl Read + Seek, mut intake: Intake) -> Result<Taken, IntakeError> {
    for block in ChainFile::open(file)? {
        let block = block?;
        intake.push(block.block, block.votes)?;
    }
    intake.finish()
}

/// Takes recorded blocks. `begin` makes the intake, with the chain that the recording states.
pub fn take_recording(
    file: impl Read,
    begin: impl FnOnce(ChainSpec, &Network) -> Result<Intake, IntakeError>,
) -> Result<Taken, IntakeError> {
    let mut reading = Reading { begin: Some(begin), intake: None };
    read(file, &mut reading)?;
    match reading.intake {
        Some(intake) => intake.finish(),
        // A recording without its network is refused while it is read.
        None => Err(ReplayError::NoGenesis.into()),
    }
}

struct Reading<F> {
    begin: Option<F>,
    intake: Option<Intake>,
}

impl<F: FnOnce(ChainSpec, &Network) -> Result<Intake, IntakeError>> Visit for Reading<F> {
    type Error = IntakeError;

    fn network(&mut self, network: Network) -> Result<(), IntakeError> {
        if let Some(begin) = self.begin.take() {
            self.intake = Some(begin(network.spec()?, &network)?);
        }
        Ok(())
    }

    fn block(&mut self, block: RecordedBlock) -> Result<(), IntakeError> {
        let Some(intake) = &mut self.intake else { return Ok(()) };
        intake.push(block.block()?, block.votes()?.into())
    }
}

#[cfg(test)]
mod tests {
    use theta_core::{
        block::Header,
        context::Finality,
        sign::SecretKey,
        vote::{Vote, VoteSet},
    };
    use theta_ledger::{
        genesis::{Genesis, GenesisBuilder},
        ledger::Ledger,
    };

    use super::*;
    use crate::judge::Consensus;

    /// A network of one validator that makes blocks by hand.
    struct Maker {
        key: SecretKey,
        genesis: Genesis,
        ledger: Ledger,
    }

    impl Maker {
        fn new() -> Self {
            let key = SecretKey::from_bytes(&[7; 32]).expect("in range");
            let spec = ChainSpec::privatenet();
            let stake = theta_core::amount::ThetaWei::whole(5_000_000);
            let genesis = GenesisBuilder::new(&spec, 1_700_000_000)
                .validator(key.address(), key.address(), stake)
                .build();
            let ledger = Ledger::builder(spec).open(&genesis).expect("memory takes it");
            Self { key, genesis, ledger }
        }

        fn intake(&self) -> Intake {
            let ledger =
                Ledger::builder(ChainSpec::privatenet()).open(&self.genesis).expect("memory takes it");
            Intake::new(Follower::new(ledger).judged_by(Arc::new(Consensus)), |_| true)
        }

        fn votes(&self, block: &Header) -> CertificateVotes {
            let (hash, voter) = (block.hash(), self.key.address());
            let (height, epoch) = (block.height, block.epoch);
            let mut vote = Vote::unsigned(hash, height, epoch, voter);
            vote.signature = self.key.sign_digest(&vote.digest());
            VoteSet::new([vote]).into()
        }

        /// The next block, with these votes for its parent.
        fn block(&mut self, votes: CertificateVotes) -> Block {
            let reader = self.ledger.reader();
            let (_, mut context) = reader.next_block(At::Settled).expect("settled");
            context.proposer = self.key.address();
            let (body, _) = self.ledger.build_block(&context, &[], &self.key).expect("an empty block");
            let mut block = context.block(reader.spec().rules(context.height()).header, body);
            block.header.certificate = CommitCertificate { votes, block: context.parent_hash };
            block.header.sign(&self.key).expect("a key in memory signs");
            let hash = block.header.hash();
            self.ledger.apply_block(&context, hash, Arc::new(block.clone())).expect("its own block");
            self.ledger.reached(Finality::Settled, &hash).expect("memory takes it");
            block
        }
    }

    #[test]
    fn blocks_settle_when_votes_certify_them() {
        let mut maker = Maker::new();
        let first = maker.block(CertificateVotes::default());
        let second = maker.block(maker.votes(&first.header));
        let mut intake = maker.intake();
        intake.push(first.clone(), CertificateVotes::default()).expect("genesis needs no votes");
        intake.push(second.clone(), CertificateVotes::default()).expect("its parent has votes");
        let taken = intake.finish().expect("whole");
        assert_eq!((taken.last, taken.uncertified), (Some(1), 1));
        let mut intake = maker.intake();
        intake.push(first, CertificateVotes::default()).expect("genesis needs no votes");
        intake.push(second.clone(), maker.votes(&second.header)).expect("its parent has votes");
        let taken = intake.finish().expect("whole");
        assert_eq!((taken.last, taken.uncertified), (Some(2), 0));
    }

    #[test]
    fn a_certificate_without_votes_of_the_validators_is_refused() {
        let stranger = SecretKey::from_bytes(&[8; 32]).expect("in range");
        for forge in [false, true] {
            let mut maker = Maker::new();
            let first = maker.block(CertificateVotes::default());
            let mut votes = maker.votes(&first.header).list().to_vec();
            votes[0].signature = stranger.sign_digest(&votes[0].digest());
            let second =
                maker.block(if forge { VoteSet::new(votes).into() } else { CertificateVotes::default() });
            let mut intake = maker.intake();
            intake.push(first, CertificateVotes::default()).expect("genesis needs no votes");
            let refused = intake.push(second, CertificateVotes::default()).expect_err("nobody voted");
            assert!(
                matches!(&refused, IntakeError::Block(FollowError::Judged { height: 2, .. })),
                "{refused}"
            );
        }
    }
}
