//! The validator engine: inputs in, effects out, nothing else. Each idea has a room of its own below this one.

mod certifying;
mod fetching;
mod intake;
mod locking;
mod log;
mod opening;
mod proposing;
mod recovery;
mod time;
mod upper;
mod voting;
mod watching;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use theta_core::{
    block::{Block, CommitCertificate, Header},
    bls,
    context::{BlockContext, Body, Finality, PostState},
    evidence::Evidence,
    hash::{Address, Hash},
    spec::{ChainSpec, Pace},
    stake::{ValidatorSet, validator::MAX_VALIDATORS},
};

pub use self::recovery::{RecoverError, Start};
use self::{
    certifying::Shown,
    fetching::{Arrival, Want},
    locking::Lock,
    proposing::Building,
    upper::Ballot,
};
use crate::{
    certificate::Shares,
    checks::{Checked, Checks, Fault, VotedPools},
    epoch_end::EpochEnd,
    message::{Message, Peer, Status},
    pace::{Millis, Settings, Timers},
    proposer::scheduled,
    signer::Intent,
    tree::Tree,
    vote::{LastVote, VoteBook},
    wal::WalRecord,
};

/// What a node takes part in.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Roles {
    /// The address it validates with, if it does. Whether it is in the set is the chain's to say.
    pub validator: Option<Address>,
    /// The key it votes with as a guardian, if it does. Whether it is in the pool is the chain's to say.
    pub guardian: Option<bls::PublicKey>,
    /// The address it votes for as an elite edge node, if it does.
    pub elite: Option<Address>,
}

impl Roles {
    /// Follows the chain and signs nothing.
    pub fn observer() -> Self {
        Self::default()
    }

    /// Proposes and votes when in the set.
    pub const fn validator(address: Address) -> Self {
        Self { validator: Some(address), guardian: None, elite: None }
    }

    /// Votes for checkpoints with this key too.
    pub const fn with_guardian(self, key: bls::PublicKey) -> Self {
        Self { guardian: Some(key), ..self }
    }

    /// Votes for checkpoints as an elite edge node too.
    pub const fn with_elite(self, address: Address) -> Self {
        Self { elite: Some(address), ..self }
    }
}

/// What happens to an engine.
#[derive(Clone, Debug)]
#[non_exhaustive]
#[expect(clippy::large_enum_variant, reason = "a block is moved a few times at most")]
pub enum Input {
    /// Time has passed, as asked for by [`Effect::WakeAt`].
    Tick,
    /// A transaction waits. It holds until the next block is executed; say it again after that if it still is so.
    Work,
    /// A message came, from a peer or from this node.
    Message(Checked<Message>),
    /// A block came, from a peer or from this node.
    Block(Checked<Block>),
    /// Answer to [`Effect::Build`].
    Built {
        /// `context.parent_hash` of the request.
        parent: Hash,
        /// `context.epoch` of the request.
        epoch: u64,
        /// What was built.
        body: Body,
    },
    /// Answer to [`Effect::Execute`].
    Executed {
        /// The block.
        hash: Hash,
        /// The state after it, or `None` if the block is bad. A disk that fails is no answer: stop the node.
        post: Option<PostState>,
    },
}

/// What an engine wants done, in this order. What follows an [`Effect::Append`] waits until it is durable.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Effect {
    /// Append to the write-ahead log and sync. If that fails the node has to stop for good.
    Append(WalRecord),
    /// Put this in place of the whole log, durably.
    Rewrite(WalRecord),
    /// Sign, send, and feed back as from [`Peer::Own`]. A signer may refuse; the engine goes on without.
    Sign {
        /// What.
        intent: Intent,
        /// The one validator that has a use for it, this node perhaps; everybody where it cannot be reached. `None` for
        /// everybody.
        to: Option<Address>,
    },
    /// Make a body for a block; answer with [`Input::Built`].
    Build(BlockContext),
    /// Execute; answer with [`Input::Executed`].
    Execute {
        /// What execution may depend on.
        context: BlockContext,
        /// Hash of the block.
        hash: Hash,
        /// The block.
        block: Arc<Block>,
    },
    /// Pass a new message of a peer on to all others.
    Relay {
        /// The message.
        message: Message,
        /// Who sent it here.
        from: Peer,
    },
    /// Send to all peers.
    Broadcast(Message),
    /// Get a block and its ancestors above a height, lowest first, and hand each to [`Engine::wants_block`].
    Fetch {
        /// The block.
        block: Hash,
        /// Settled here; ask for blocks above it.
        above: u64,
        /// Who should have it; `None` for any other peer than the last one asked.
        from: Option<Peer>,
    },
    /// A block and all its ancestors are as sure as this.
    Reached {
        /// How sure.
        finality: Finality,
        /// Hash of the block.
        hash: Hash,
        /// Its header.
        header: Arc<Header>,
    },
    /// A validator contradicted itself: keep the proof, and have it punished where the chain's rules know how.
    Report(Evidence),
    /// Give [`Input::Tick`] at this time; replaces earlier ones.
    WakeAt(Millis),
    /// A validator signed something that no honest one signs, and whoever passed it on could not tell.
    Accuse {
        /// Who.
        validator: Address,
        /// What.
        fault: Fault,
    },
    /// A peer sent something that no honest node sends.
    Penalize {
        /// Who.
        peer: u64,
        /// What.
        fault: Fault,
    },
}

/// How much an engine holds; each has a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Held {
    /// Blocks above the settled one.
    pub blocks: usize,
    /// Blocks whose parents are missing.
    pub orphans: usize,
    /// Blocks that are being looked for.
    pub wanted: usize,
    /// Hashes of blocks that are not taken again.
    pub refused: usize,
    /// Votes.
    pub votes: usize,
}

/// The validator engine. Equal inputs in equal order give equal effects, on every machine.
#[derive(Debug)]
pub struct Engine {
    spec: Arc<ChainSpec>,
    settings: Settings,
    roles: Roles,
    tree: Tree,
    book: VoteBook,
    lock: Lock,
    epoch: u64,
    last_vote: Option<LastVote>,
    /// The last vote that left since this engine began.
    voted: Option<LastVote>,
    /// When the vote of the epoch at hand left for the next proposer alone.
    told_one: Option<Millis>,
    proposal: Option<Block>,
    building: Option<Building>,
    timers: Timers,
    work: bool,
    orphans: BTreeMap<Hash, Arrival>,
    wants: BTreeMap<Hash, Want>,
    refused: BTreeSet<Hash>,
    refused_order: VecDeque<Hash>,
    wal_records: u32,
    wal_bytes: usize,
    status_at: Millis,
    /// When it has told its status last.
    told_at: Millis,
    wake_at: Option<Millis>,
    now: Millis,
    started: bool,
    members: Vec<Arc<ValidatorSet>>,
    ballot: Option<Ballot>,
    final_checkpoint: Option<(Hash, u64)>,
    settled_by: Option<(Arc<Block>, CommitCertificate)>,
    /// Validators that have been reported.
    reported: BTreeSet<Address>,
    /// How shares are added up and checked.
    shares: Shares,
    /// Validators that have given wrong shares: theirs are checked one by one.
    suspects: BTreeSet<Address>,
    /// Certificates that peers have shown for blocks that are not executed here.
    shown: BTreeMap<Peer, Shown>,
    /// What shows that an epoch is over, and whose signatures that are.
    opened: Option<(EpochEnd, Arc<ValidatorSet>)>,
}

impl Engine {
    /// Takes an input. `now` is in milliseconds since 1970; a clock that goes back counts as one that stands still.
    pub fn step(&mut self, now: Millis, input: Input, out: &mut Vec<Effect>) {
        self.now = self.now.max(now);
        if !self.started {
            self.started = true;
            self.start(out);
        }
        match input {
            Input::Tick => {}
            Input::Work => self.on_work(),
            Input::Message(Checked { from, item, below, .. }) => match item {
                Message::Vote(vote) => self.on_vote(from, vote, out),
                Message::Status(status) => self.on_status(from, status, below, out),
                Message::GuardianVotes(votes) => self.on_guardian_votes(from, votes),
                Message::EliteVote(vote) => self.on_elite_vote(from, vote),
                Message::EliteVotes(votes) => self.on_elite_votes(from, votes),
                Message::Evidence(evidence) => self.on_evidence(from, evidence, out),
                Message::GuardianPart(part) => self.on_guardian_part(from, part, out),
            },
            Input::Block(Checked { from, item, hash, upper, below }) => {
                self.on_block(hash, Arrival { from, block: Arc::new(item), upper, below }, out);
            }
            Input::Built { parent, epoch, body } => self.on_built(parent, epoch, body, out),
            Input::Executed { hash, post } => self.on_executed(hash, post, out),
        }
        self.run_timers(out);
        self.fetch(out);
        self.wake(out);
    }

    /// Whether a message is of use, and what has to be checked before it may enter. Cheap.
    pub fn wants(&self, from: Peer, message: Message) -> Option<Checks<Message>> {
        let message = match message {
            Message::Status(status) if !self.is_ahead(&status) => {
                // Of one that lags behind its epoch alone is looked at.
                let block = status.certificate.block;
                let bare = Status {
                    certificate: CommitCertificate::bare(block),
                    opened_by: EpochEnd::default(),
                    ..status
                };
                Message::Status(Some(bare).filter(|status| self.is_behind(status))?)
            }
            message => message,
        };
        let (mut pools, mut below) = (VotedPools::default(), None);
        let votes = match &message {
            Message::Vote(vote) if self.takes(vote) && !self.book.knows(vote) => vec![vote.clone()],
            Message::Vote(_) => return None,
            Message::Status(status) => {
                below = self.below_status(&status.certificate.block);
                let votes = status.certificate.votes.list();
                let most =
                    self.members.iter().map(|set| set.as_slice().len()).fold(MAX_VALIDATORS, usize::max);
                if votes.len() > most {
                    return None;
                }
                // Whoever has no say now may have one once the votes have been checked.
                votes.iter().filter(|vote| !self.book.holds(vote)).cloned().collect()
            }
            Message::GuardianVotes(_)
            | Message::GuardianPart(_)
            | Message::EliteVote(_)
            | Message::EliteVotes(_) => {
                pools = self.wants_upper(&message)?;
                Vec::new()
            }
            Message::Evidence(evidence) if self.wants_evidence(evidence) => Vec::new(),
            Message::Evidence(_) => return None,
        };
        let low_s = self.spec.rules(self.tree.head_height() + 1).tx.low_s;
        let (hash, has_shares, spec) = (Hash::ZERO, self.has_shares(), self.spec.clone());
        Some(Checks { from, item: message, hash, votes, low_s, has_shares, spec, pools, below })
    }

    /// Whether a block is of use, and what has to be checked before it may enter. Cheap, but for its hash.
    pub fn wants_block(&self, from: Peer, block: Block) -> Option<Checks<Block>> {
        let header = &block.header;
        let hash = header.hash();
        if !self.has_room(from, &hash, header) {
            return None;
        }
        let certified = &header.certificate.block;
        let votes = if self.tree.is_settled(certified) {
            // As the reference: nobody has to be convinced of what is settled.
            Vec::new()
        } else {
            let votes = header.certificate.votes.list().iter();
            votes.filter(|vote| !self.book.holds(vote)).cloned().collect()
        };
        let low_s = self.spec.rules(header.height).tx.low_s;
        let (pools, below) = (self.voted_pools(header), self.below(header));
        let (has_shares, spec) = (self.has_shares(), self.spec.clone());
        Some(Checks { from, item: block, hash, votes, low_s, has_shares, spec, pools, below })
    }

    /// Where this node stands, for a peer that has just connected.
    pub fn status(&self) -> Status {
        Status {
            settled: self.tree.head(),
            settled_height: self.tree.head_height(),
            certified_height: self.lock.height,
            certified_epoch: self.tree.header(&self.lock.block).map_or(0, |header| header.epoch),
            epoch: self.epoch,
            certificate: self.lock.certificate.clone(),
            opened_by: self.opening().cloned().unwrap_or_default(),
        }
    }

    /// The blocks above the newest settled one up to this one, lowest first: the upper part of an answer to a peer's
    /// fetch. The part below is the ledger's. Empty if the block is not known or is settled. It ends before the first block
    /// that has not been executed here: whoever passes on a bad one is blamed for it.
    pub fn branch(&self, block: &Hash) -> Vec<Arc<Block>> {
        let path = self.tree.path(block);
        let nodes = path.iter().map_while(|hash| self.tree.node(hash).filter(|node| node.is_valid()));
        nodes.map(|node| node.block.clone()).collect()
    }

    /// All blocks above the newest settled one up to this one, lowest first.
    #[cfg(feature = "sim")]
    pub(crate) fn unsettled(&self, block: &Hash) -> Vec<Arc<Block>> {
        let path = self.tree.path(block);
        path.iter().filter_map(|hash| self.tree.node(hash)).map(|node| node.block.clone()).collect()
    }

    /// How long this node waits for a proposer now.
    #[cfg(feature = "sim")]
    pub(crate) fn patience(&self) -> Millis {
        self.timers.patience(&self.settings)
    }

    /// How much this engine holds of what peers can send.
    pub fn held(&self) -> Held {
        Held {
            blocks: self.tree.nodes().count(),
            orphans: self.orphans.len(),
            wanted: self.wants.len(),
            refused: self.refused.len(),
            votes: self.book.len(),
        }
    }

    /// The epoch this node is in.
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Who proposes in the epoch this node is in, as far as it knows.
    pub fn proposer(&self) -> Option<Address> {
        self.scheduled(&self.lock.block, self.epoch)
    }

    /// What the lock is measured by: the height of its block at the clocked pace, its epoch at the responsive one.
    pub const fn lock_rank(&self) -> u64 {
        self.lock.rank
    }

    /// Hash and height of the highest certified block.
    pub const fn certified(&self) -> (Hash, u64) {
        (self.lock.block, self.lock.height)
    }

    /// Hash and height of the newest checkpoint that is known to be final.
    pub const fn final_checkpoint(&self) -> Option<(Hash, u64)> {
        self.final_checkpoint
    }

    /// Hash and height of the newest settled block.
    pub fn settled(&self) -> (Hash, u64) {
        (self.tree.head(), self.tree.head_height())
    }

    /// The certified child that settled the newest settled block, and its certificate: what convinces others of it. None
    /// before this engine has settled a block itself.
    pub fn settled_by(&self) -> Option<(Arc<Block>, CommitCertificate)> {
        self.settled_by.clone()
    }

    /// Hash and height of the highest executed block.
    pub fn tip(&self) -> (Hash, u64) {
        let tip = self.tree.tip(&self.lock.block, |_| true);
        let tip = tip.unwrap_or_else(|| self.tree.head());
        (tip, self.tree.header(&tip).map_or(0, |header| header.height))
    }

    fn start(&mut self, out: &mut Vec<Effect>) {
        for hash in self.tree.children(&self.tree.head()) {
            self.try_execute(hash, out);
        }
        self.open_ballot(out);
        self.learn_finality(out);
        self.enter_epoch(out);
        if self.proposal.as_ref().is_some_and(|block| block.header.epoch == self.epoch) {
            // It may have been lost with what went down.
            self.timers.propose = Some(self.now);
        }
    }

    /// Who may propose on a known block in an epoch.
    fn scheduled(&self, parent: &Hash, epoch: u64) -> Option<Address> {
        scheduled(&self.spec, self.tree.header(parent)?, self.tree.next_validators(parent)?, epoch)
    }

    fn pace(&self) -> Pace {
        self.spec.rules(self.tree.head_height() + 1).consensus.pace
    }

    /// Whether anything waits to be put into a block or to be settled.
    fn busy(&self) -> bool {
        let empty = self.settings.empty_transactions;
        self.work
            || self.tree.nodes().any(|(_, node)| node.is_valid() && node.block.transactions.len() > empty)
    }
}

#[cfg(test)]
mod tests;
