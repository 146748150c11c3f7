//! Signatures are checked before a message enters the engine, on whatever core the host likes.
//!
//! [`crate::Engine::wants`] and [`crate::Engine::wants_block`] look at what is cheap: membership, window, duplicates.
//! What they give back owns the message and knows what is left to check; [`Checks::verify`] is the only way from
//! there to a [`Checked`] value, and a `Checked` value the only thing that the engine takes.

use std::sync::Arc;

use theta_core::{
    block::{Block, CommitCertificate, Header, transactions_root},
    certificate::CertificateVotes,
    evidence::{EvidenceError, SignatureRule},
    hash::{Address, Hash},
    sign::Signature,
    spec::{ChainSpec, GuardianRule},
    stake::{Pools, ValidatorSet},
    vote::Vote,
};

use crate::{
    certificate::{CertificateError, Shares, check_votes},
    elite::verify_elite_votes,
    epoch_end::EpochEnd,
    finality::Checkpoint,
    guardian::AggregateError,
    message::{Message, Peer, Status},
    proposer::check_seed,
};

/// What a peer did wrong. The message is dropped; what becomes of the peer is the host's policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// Not signed by the address it names.
    #[error("signature does not belong to the sender")]
    Signature,
    /// The malleable twin of a signature, where that is forbidden.
    #[error("signature has a high s")]
    HighS,
    /// A block of another chain.
    #[error("block belongs to another chain")]
    Chain,
    /// A header with more or fewer fields than its height has.
    #[error("header has not the fields of its height")]
    Fields,
    /// A vote without the share that the chain's certificates are made of, with one where they are made of votes, or with a
    /// wrong one.
    #[error("vote has not the share that its chain asks for")]
    Share,
    /// A seed that is not what the proposer has to make of the parent's.
    #[error("seed is not its proposer's on this parent")]
    Seed,
    /// Transactions that do not hash to the header's root.
    #[error("transactions do not belong to the header")]
    Transactions,
    /// Guardians' votes that are none.
    #[error("guardian votes: {0}")]
    Guardians(AggregateError),
    /// Elite edge nodes' votes that are none.
    #[error("elite edge votes: {0}")]
    Elite(AggregateError),
    /// Evidence that proves nothing.
    #[error(transparent)]
    Evidence(#[from] EvidenceError),
    /// Not one above the parent.
    #[error("height is not the parent's plus one")]
    Height,
    /// Not above the parent's epoch.
    #[error("epoch is not above the parent's")]
    Epoch,
    /// The certified block is no ancestor.
    #[error("certificate is not of an ancestor")]
    Ancestor,
    /// The certificate certifies nothing.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// Another certificate than the parent's, near a change of validators or at the responsive pace.
    #[error("a block has to certify its parent here")]
    SetChange,
    /// Another block than the guardians' final checkpoint of its height.
    #[error("the final checkpoint of this height is another block")]
    Final,
    /// Not by the proposer of its epoch.
    #[error("proposer is not the scheduled one")]
    Proposer,
    /// Other absent validators than the chain below and the certificate make.
    #[error("block does not name those who are absent after it")]
    Absent,
    /// The ledger refused the block.
    #[error("block does not execute")]
    Execution,
}

/// A message and the signatures that are left to check. Pure and `Send`.
#[derive(Clone, Debug)]
pub struct Checks<T> {
    pub(crate) from: Peer,
    pub(crate) item: T,
    /// Of a block; zero for a message.
    pub(crate) hash: Hash,
    /// Votes inside it that nobody has checked yet.
    pub(crate) votes: Vec<Vote>,
    pub(crate) low_s: bool,
    /// Whether votes have shares.
    pub(crate) has_shares: bool,
    pub(crate) spec: Arc<ChainSpec>,
    /// Pools of the checkpoints that its guardian and elite edge votes are for, where they are known.
    pub(crate) pools: VotedPools,
    /// What its certificate and its seed are checked against, where that is known.
    pub(crate) below: Option<Below>,
}

/// What the blocks below a header, or the block that a status certifies, say of who may sign what.
#[derive(Clone, Debug, Default)]
pub(crate) struct Below {
    /// The certified block and its validators, where an aggregate has to be checked.
    pub(crate) certified: Option<(Arc<Header>, Arc<ValidatorSet>)>,
    /// The parent and the validators that may propose on it, where a seed has to be checked.
    pub(crate) parent: Option<(Arc<Header>, Arc<ValidatorSet>)>,
    /// Who has a say after the certified block, where the end of an epoch has to be checked.
    pub(crate) after: Option<Arc<ValidatorSet>>,
    pub(crate) shares: Shares,
}

impl Below {
    /// Costs a check of a signature for what there is of both, and an addition for each voter.
    pub(crate) fn verify(
        &self,
        certificate: &CommitCertificate,
        header: Option<&Header>,
    ) -> Result<(), Fault> {
        if let (CertificateVotes::Aggregate(votes), Some((certified, validators))) =
            (&certificate.votes, &self.certified)
        {
            let on = (certified.chain.as_str(), &certificate.block, certified.epoch);
            self.shares.certify(votes, on, validators)?;
        }
        if let (Some(header), Some((parent, validators))) = (header, &self.parent) {
            check_seed(header, parent, validators, self.shares)?;
        }
        Ok(())
    }

    /// The same of a status. Says whether all could be checked.
    pub(crate) fn verify_status(
        &self,
        chain: &str,
        certificate: &CommitCertificate,
        end: &EpochEnd,
    ) -> Result<bool, Fault> {
        self.verify(certificate, None)?;
        match &self.after {
            _ if end.is_empty() => Ok(true),
            Some(validators) => Ok(end.verify(chain, validators, self.shares).map(|()| true)?),
            None => Ok(false),
        }
    }
}

/// The pools that guardian and elite edge votes come from.
#[derive(Clone, Debug, Default)]
pub(crate) struct VotedPools {
    pub(crate) guardians: Option<VotedCheckpoint>,
    pub(crate) elite: Option<Arc<Pools>>,
}

/// What guardians vote on.
#[derive(Clone, Debug)]
pub(crate) struct VotedCheckpoint {
    /// Of the voted block.
    pub(crate) height: u64,
    pub(crate) rule: GuardianRule,
    pub(crate) pools: Arc<Pools>,
    /// Hash of the guardians, where it is known already: it costs a pass over the pool.
    pub(crate) pool: Option<Hash>,
}

impl VotedCheckpoint {
    pub(crate) fn on<'a>(&'a self, chain: &'a str) -> Checkpoint<'a> {
        Checkpoint { chain, height: self.height, rule: self.rule, pool: &self.pools.guardians }
    }
}

/// A message whose signatures are right.
#[derive(Clone, Debug)]
pub struct Checked<T> {
    pub(crate) from: Peer,
    pub(crate) item: T,
    pub(crate) hash: Hash,
    /// Whether its guardian and elite edge votes have been checked too.
    pub(crate) upper: bool,
    /// Whether what is signed by BLS has been: its certificate and its seed, or the end of an epoch.
    pub(crate) below: bool,
}

impl<T> Checked<T> {
    /// Who sent it.
    pub const fn from(&self) -> Peer {
        self.from
    }

    /// What was checked.
    pub const fn item(&self) -> &T {
        &self.item
    }
}

/// The rule of every real network: the address of the recovered key.
pub(crate) fn recovers(signature: &Signature, digest: &Hash, address: Address) -> bool {
    signature.recover(digest) == Ok(address)
}

impl<T> Checks<T> {
    fn votes_right(&self, rule: SignatureRule<'_>) -> Result<(), Fault> {
        let right = |vote: &Vote| {
            // Whether the share is right shows when it is needed.
            if vote.share.is_some() != self.has_shares {
                return Err(Fault::Share);
            }
            signed(&vote.signature, &vote.digest(), vote.voter, self.low_s, rule)
        };
        self.votes.iter().try_for_each(right)
    }
}

fn signed(
    signature: &Signature,
    digest: &Hash,
    address: Address,
    low_s: bool,
    rule: SignatureRule<'_>,
) -> Result<(), Fault> {
    if low_s && !signature.is_low_s() {
        return Err(Fault::HighS);
    }
    if rule(signature, digest, address) { Ok(()) } else { Err(Fault::Signature) }
}

impl Checks<Message> {
    /// Checks the signatures. Costs a key recovery per vote; for votes of the upper levels an addition per voter and two
    /// pairings.
    pub fn verify(self) -> Result<Checked<Message>, Fault> {
        self.verify_by(&recovers, true)
    }

    /// `upper` says whether votes of the upper levels are checked too; simulators that make believe leave that out.
    pub(crate) fn verify_by(self, rule: SignatureRule<'_>, upper: bool) -> Result<Checked<Message>, Fault> {
        let mut is_checked = true;
        if let Message::Status(Status { certificate, opened_by, .. }) = &self.item {
            let is_bare = certificate.votes.is_empty();
            if !is_bare && certificate.votes.aggregate().is_some() != self.has_shares
                || !opened_by.is_empty() && !self.has_shares
            {
                return Err(CertificateError::Form.into());
            }
            is_checked = match &self.below {
                Some(below) => below.verify_status(&self.spec.chain, certificate, opened_by)?,
                None if self.has_shares => is_bare && opened_by.is_empty(),
                None if is_bare => true,
                None => check_votes(certificate).map(|()| true)?,
            };
        }
        self.votes_right(rule)?;
        let VotedPools { guardians, elite } = if upper { &self.pools } else { &VotedPools::default() };
        match (&self.item, guardians, elite) {
            (Message::GuardianVotes(votes), Some(voted), _) => {
                voted.on(&self.spec.chain).verify(votes).map_err(Fault::Guardians)?;
            }
            (Message::GuardianPart(part), Some(voted), _) => {
                let checkpoint = voted.on(&self.spec.chain);
                let pool = voted.pool.unwrap_or_else(|| checkpoint.pool.hash());
                checkpoint.verify_part(part, &pool).map_err(Fault::Guardians)?;
            }
            (Message::EliteVotes(votes), _, Some(pools)) => {
                verify_elite_votes(votes, &pools.elite).map_err(Fault::Elite)?;
            }
            (Message::EliteVote(vote), _, Some(pools)) => {
                verify_elite_votes(&vote.clone().into_votes(), &pools.elite).map_err(Fault::Elite)?;
            }
            (Message::Evidence(evidence), ..) => evidence.verify_by(&self.spec, rule)?,
            _ => {}
        }
        Ok(Checked { from: self.from, item: self.item, hash: self.hash, upper: true, below: is_checked })
    }
}

impl Checks<Block> {
    /// Checks signatures, fields and the root over transactions. Costs a key recovery, and one per vote in the
    /// certificate that the engine has not seen before.
    pub fn verify(self) -> Result<Checked<Block>, Fault> {
        self.verify_by(&recovers, true)
    }

    pub(crate) fn verify_by(self, rule: SignatureRule<'_>, upper: bool) -> Result<Checked<Block>, Fault> {
        let header = &self.item.header;
        if header.chain != self.spec.chain {
            return Err(Fault::Chain);
        }
        if !header.fits(self.spec.rules(header.height)) {
            return Err(Fault::Fields);
        }
        signed(&header.signature, &header.digest(), header.proposer, self.low_s, rule)?;
        if transactions_root(&self.item.transactions) != header.transactions_root {
            return Err(Fault::Transactions);
        }
        self.votes_right(rule)?;
        let is_checked = self.below.is_some();
        if let Some(below) = &self.below {
            below.verify(&header.certificate, Some(header))?;
        }
        let upper = !upper || verify_upper(header, &self.pools)?;
        Ok(Checked { from: self.from, item: self.item, hash: self.hash, upper, below: is_checked })
    }
}

/// Checks the guardian and elite edge votes in a header; `false` if a pool is missing, so that it has to be done later.
pub(crate) fn verify_upper(header: &Header, pools: &VotedPools) -> Result<bool, Fault> {
    let mut whole = true;
    if let Some(votes) = header.extension.guardian_votes() {
        match &pools.guardians {
            Some(voted) => voted.on(&header.chain).verify(votes).map_err(Fault::Guardians)?,
            None => whole = false,
        }
    }
    if let Some(votes) = header.extension.elite_votes() {
        match &pools.elite {
            Some(pools) => verify_elite_votes(votes, &pools.elite).map_err(Fault::Elite)?,
            None => whole = false,
        }
    }
    Ok(whole)
}
