//! The validator engine: inputs in, effects out, nothing else.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use theta_core::{
    BigUint,
    block::{Block, CommitCertificate, Extension, Header, transactions_root},
    context::{BlockContext, Body, Finality, PostState},
    hash::{Address, Hash, U256},
    sign::Signature,
    spec::{ChainSpec, Pace},
    stake::ValidatorSet,
    vote::{Vote, VoteSet},
};

use crate::{
    certificate::{check_form, is_quorum},
    checks::{Checked, Checks, Fault},
    message::{Message, Peer, Status},
    pace::{Millis, Settings, Timers},
    proposer::proposer,
    set_change,
    signer::Intent,
    tree::{Progress, SettledBlock, Tree},
    vote::{self, LastVote, VoteBook},
    wal::{WalRecord, WalVote},
};

/// Votes of later epochs than this many ahead are not taken.
const VOTE_WINDOW: u64 = 1 << 20;
/// Blocks of later epochs than this many ahead are taken only while fetching.
const BLOCK_WINDOW: u64 = 64;
/// Blocks without a parent here are kept only this far above the lock.
const ORPHAN_HEIGHTS: u64 = 64;
/// Blocks without a parent here, of all peers and of one.
const ORPHANS: usize = 256;
const ORPHANS_PER_PEER: usize = 32;
/// Blocks of one epoch that are kept without anybody's vote asking for them; an honest proposer makes one.
const BLOCKS_PER_EPOCH: usize = 2;
/// Blocks being looked for at once, and how often each is asked for without progress.
const WANTS: usize = 32;
const WANT_ATTEMPTS: u32 = 6;
/// Hashes of blocks that are not to be fetched again.
const REFUSED: usize = 1_024;
/// The log is rewritten after so many records, or so many bytes of transactions in them.
const WAL_RECORDS: u32 = 256;
const WAL_BYTES: usize = 32 * 1024 * 1024;

/// What a node takes part in.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Roles {
    /// The address it validates with, if it does. Whether it is in the set is the chain's to say.
    pub validator: Option<Address>,
}

impl Roles {
    /// Follows the chain and signs nothing.
    pub fn observer() -> Self {
        Self::default()
    }

    /// Proposes and votes when in the set.
    pub const fn validator(address: Address) -> Self {
        Self { validator: Some(address) }
    }
}

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
    /// Sign, send to everybody, and feed back as from [`Peer::Own`].
    Sign(Intent),
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
    /// Give [`Input::Tick`] at this time; replaces earlier ones.
    WakeAt(Millis),
    /// A peer sent something that no honest node sends.
    Penalize {
        /// Who.
        peer: u64,
        /// What.
        fault: Fault,
    },
}

/// The highest certified block: lock and root of the fork choice.
#[derive(Clone, Debug)]
struct Lock {
    block: Hash,
    height: u64,
    /// Without votes where nobody has to be convinced: at the root, or after a lost log.
    certificate: CommitCertificate,
}

#[derive(Clone, Debug)]
struct Building {
    parent: Hash,
    epoch: u64,
    timestamp: BigUint,
}

#[derive(Clone, Debug)]
struct Want {
    from: Peer,
    next: Millis,
    attempts: u32,
    /// Height of the tip when it was asked for last.
    seen: u64,
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
    proposal: Option<Block>,
    building: Option<Building>,
    timers: Timers,
    work: bool,
    orphans: BTreeMap<Hash, (Peer, Arc<Block>)>,
    wants: BTreeMap<Hash, Want>,
    refused: BTreeSet<Hash>,
    refused_order: VecDeque<Hash>,
    wal_records: u32,
    wal_bytes: usize,
    status_at: Millis,
    wake_at: Option<Millis>,
    now: Millis,
    started: bool,
    members: Vec<Arc<ValidatorSet>>,
}

impl Engine {
    /// Starts from what the ledger settled and what the log remembers. The first step gives the first effects.
    pub fn recover(
        spec: Arc<ChainSpec>,
        settings: Settings,
        roles: Roles,
        start: Start,
    ) -> Result<Self, RecoverError> {
        let mut tree = Tree::new(start.root, start.settled).ok_or(RecoverError::NoChain)?;
        let head = tree.head();
        if tree.validators(&head).is_none() || tree.next_validators(&head).is_none() {
            return Err(RecoverError::ShortTail);
        }
        let (mut certificate, mut last_vote, mut proposal) = (None, None, None);
        let mut blocks = BTreeMap::new();
        let wal_records = u32::try_from(start.wal.len()).unwrap_or(u32::MAX);
        for record in start.wal {
            for block in record.blocks {
                blocks.insert((block.header.height, block.header.hash()), block);
            }
            certificate = record.lock.or(certificate);
            last_vote = record.vote.or(last_vote);
            proposal = record.proposal.or(proposal);
        }
        // Ascending, so parents come first; what does not descend from the settled head is left out.
        for ((_, hash), block) in blocks {
            tree.insert(hash, Arc::new(block), Peer::Own, true);
        }
        let height = |hash: &Hash| tree.header(hash).map_or(0, |header| header.height);
        let head_height = height(&head);
        let lock = match certificate {
            Some(certificate) if tree.node(&certificate.block).is_some() || certificate.block == head => {
                Lock { block: certificate.block, height: height(&certificate.block), certificate }
            }
            _ => Lock {
                block: head,
                height: head_height,
                certificate: CommitCertificate { votes: VoteSet::default(), block: head },
            },
        };
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
                epoch: vote.epoch,
            }),
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
            wake_at: None,
            now: 0,
            started: false,
            members: Vec::new(),
        };
        engine.gather_members();
        Ok(engine)
    }

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
            Input::Message(Checked { from, item: Message::Vote(vote) }) => self.on_vote(from, vote, out),
            Input::Message(Checked { from, item: Message::Status(status) }) => {
                self.on_status(from, status, out);
            }
            Input::Block(Checked { from, item }) => self.on_block(from, Arc::new(item), out),
            Input::Built { parent, epoch, body } => self.on_built(parent, epoch, body, out),
            Input::Executed { hash, post } => self.on_executed(hash, post, out),
        }
        self.run_timers(out);
        self.fetch(out);
        self.wake(out);
    }

    /// Whether a message is of use, and what has to be checked before it may enter. Cheap.
    pub fn wants(&self, from: Peer, message: Message) -> Option<Checks<Message>> {
        let votes = match &message {
            Message::Vote(vote) if self.takes(vote) && !self.book.knows(vote) => vec![vote.clone()],
            Message::Vote(_) => return None,
            Message::Status(status) => {
                if status.certified_height <= self.lock.height {
                    return None;
                }
                let votes = status.certificate.votes.as_slice().iter();
                votes.filter(|vote| self.takes(vote) && !self.book.holds(vote)).cloned().collect()
            }
        };
        let low_s = self.spec.rules(self.tree.head_height() + 1).tx.low_s;
        Some(Checks { from, item: message, votes, low_s, spec: self.spec.clone() })
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
            let votes = header.certificate.votes.as_slice().iter();
            votes.filter(|vote| !self.book.holds(vote)).cloned().collect()
        };
        let low_s = self.spec.rules(header.height).tx.low_s;
        Some(Checks { from, item: block, votes, low_s, spec: self.spec.clone() })
    }

    /// Where this node stands, for a peer that has just connected.
    pub fn status(&self) -> Status {
        Status {
            settled: self.tree.head(),
            settled_height: self.tree.head_height(),
            certified_height: self.lock.height,
            epoch: self.epoch,
            certificate: self.lock.certificate.clone(),
        }
    }

    /// The blocks above the newest settled one up to this one, lowest first: the upper part of an answer to a peer's
    /// fetch. The part below is the ledger's. Empty if the block is not known or is settled.
    pub fn branch(&self, block: &Hash) -> Vec<Arc<Block>> {
        let path = self.tree.path(block);
        path.iter().filter_map(|hash| self.tree.node(hash)).map(|node| node.block.clone()).collect()
    }

    /// The epoch this node is in.
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Hash and height of the highest certified block.
    pub const fn certified(&self) -> (Hash, u64) {
        (self.lock.block, self.lock.height)
    }

    /// Hash and height of the newest settled block.
    pub fn settled(&self) -> (Hash, u64) {
        (self.tree.head(), self.tree.head_height())
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
        self.enter_epoch(out);
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

    // ---- time ----

    fn enter_epoch(&mut self, out: &mut Vec<Effect>) {
        let (pace, busy) = (self.pace(), self.busy());
        self.timers.enter(self.now, pace, &self.settings, busy);
        // Where nobody can propose, because the tip is of this epoch or a later one, there is nothing to wait for.
        if pace == Pace::Responsive
            && let Some(tip) = self.tree.tip(&self.lock.block, |_| true)
            && self.tree.header(&tip).is_some_and(|header| header.epoch >= self.epoch)
        {
            self.cast_vote(false, out);
        }
    }

    fn run_timers(&mut self, out: &mut Vec<Effect>) {
        if self.timers.vote.is_some_and(|at| self.now >= at) {
            self.timers.vote = None;
            self.timers.vote_ready = true;
            if self.timers.block_seen {
                self.cast_vote(false, out);
            }
        }
        if self.now >= self.timers.timeout {
            self.cast_vote(true, out);
            self.timers.failures = self.timers.failures.saturating_add(1);
            self.enter_epoch(out);
        }
        if self.timers.propose.is_some_and(|at| self.now >= at) {
            self.timers.propose = None;
            self.propose(out);
        }
        if self.now >= self.status_at {
            self.status_at = self.now + self.settings.status_interval.max(1);
            out.push(Effect::Broadcast(Message::Status(self.status())));
        }
    }

    fn wake(&mut self, out: &mut Vec<Effect>) {
        let wants = self.wants.values().map(|want| want.next);
        let timers = [Some(self.timers.timeout), self.timers.vote, self.timers.propose];
        let next = timers.into_iter().flatten().chain(wants).chain([self.status_at]).min();
        if next != self.wake_at {
            self.wake_at = next;
            out.extend(next.map(Effect::WakeAt));
        }
    }

    fn on_work(&mut self) {
        self.work = true;
        let pace = self.pace();
        self.timers.hurry(self.now, pace, &self.settings);
    }

    // ---- votes ----

    /// Whether a vote may have a slot: its voter has a say in what comes next, its epoch is not out of reach.
    fn takes(&self, vote: &Vote) -> bool {
        vote.block != Hash::ZERO
            && vote.epoch <= self.epoch.saturating_add(VOTE_WINDOW)
            && self.is_member(&vote.voter)
    }

    fn is_member(&self, address: &Address) -> bool {
        self.members.iter().any(|set| set.contains(*address))
    }

    /// The sets that have a say now: those after the settled head and around the lock.
    fn gather_members(&mut self) {
        let (head, lock) = (self.tree.head(), self.lock.block);
        let sets =
            [self.tree.next_validators(&head), self.tree.validators(&lock), self.tree.next_validators(&lock)];
        let mut members: Vec<Arc<ValidatorSet>> = Vec::new();
        for set in sets.into_iter().flatten() {
            if !members.contains(set) {
                members.push(set.clone());
            }
        }
        self.members = members;
    }

    fn is_lost(&self, hash: &Hash) -> bool {
        !self.tree.knows(hash) && !self.orphans.contains_key(hash) && !self.refused.contains(hash)
    }

    fn on_vote(&mut self, from: Peer, vote: Vote, out: &mut Vec<Effect>) {
        let block = vote.block;
        if !self.takes(&vote) {
            return;
        }
        let tree = &self.tree;
        if !self.book.insert(vote.clone(), |hash| tree.knows(hash)) {
            return;
        }
        if from != Peer::Own {
            out.push(Effect::Relay { message: Message::Vote(vote), from });
        }
        if self.is_lost(&block) {
            self.want(block, from, self.settings.fetch_delay);
        }
        self.certify(block, out);
        self.complete_lock();
        self.try_advance(out);
    }

    fn on_status(&mut self, from: Peer, status: Status, out: &mut Vec<Effect>) {
        if status.certified_height <= self.lock.height {
            return;
        }
        let block = status.certificate.block;
        for vote in status.certificate.votes.as_slice() {
            if self.takes(vote) {
                let tree = &self.tree;
                self.book.insert(vote.clone(), |hash| tree.knows(hash));
            }
        }
        if self.is_lost(&block) {
            self.want(block, from, 0);
        }
        self.certify(block, out);
        self.try_advance(out);
    }

    /// Moves on when a quorum has finished an epoch. The reference asks only about the epoch of the vote at hand and is
    /// saved by repetition; here a vote counts once, so every epoch that a vote is known of is asked about.
    fn try_advance(&mut self, out: &mut Vec<Effect>) {
        let Some(validators) = self.tree.next_validators(&self.tree.head()).cloned() else { return };
        let epochs: BTreeSet<u64> = self.book.since(self.epoch, &validators).map(|vote| vote.epoch).collect();
        let finished = |epoch: &&u64| is_quorum(self.book.since(**epoch, &validators), &validators);
        if let Some(epoch) = epochs.iter().rev().find(finished).copied() {
            if epoch > self.epoch {
                let votes = self.book.since(epoch, &validators).cloned();
                out.extend(votes.map(|vote| Effect::Broadcast(Message::Vote(vote))));
            }
            self.epoch = epoch.saturating_add(1);
            self.enter_epoch(out);
            return;
        }
        // More than a third, so at least one honest validator has seen the quorum that opened the epoch.
        let opened = |epoch: &&u64| {
            let voters = self.book.since(**epoch, &validators).map(|vote| vote.voter);
            let three = validators.stake_of(voters).get().saturating_mul(U256::from(3));
            **epoch > self.epoch && three > validators.total_stake().get()
        };
        if self.pace() == Pace::Responsive
            && let Some(epoch) = epochs.iter().rev().find(opened).copied()
        {
            self.epoch = epoch;
            self.enter_epoch(out);
        }
    }

    /// Signs a vote for the tip where the rules allow it, and the last vote with the current epoch where they do not.
    fn cast_vote(&mut self, repeat: bool, out: &mut Vec<Effect>) {
        let Some(me) = self.roles.validator else { return };
        let Some(tip) = self.tree.tip(&self.lock.block, |_| true) else { return };
        if !self.tree.validators(&tip).is_some_and(|set| set.contains(me)) {
            return;
        }
        let allowed = self
            .tree
            .header(&tip)
            .is_some_and(|header| vote::allows(self.last_vote.as_ref(), &self.lock.block, header));
        let (block, height) = match self.last_vote {
            _ if allowed => (tip, self.tree.header(&tip).map_or(0, |header| header.height)),
            Some(last) => (last.block, last.height),
            // A first vote may go to what is certified already: it adds nothing, but it opens the next epoch.
            None => (self.lock.block, self.lock.height),
        };
        let cast = LastVote { block, height, epoch: self.epoch };
        if self.last_vote == Some(cast) {
            if !repeat {
                return;
            }
        } else {
            let blocks = self.unlogged(&block);
            let vote = Some(WalVote { block, height, epoch: self.epoch });
            self.append(WalRecord { blocks, vote, ..WalRecord::default() }, out);
            self.last_vote = Some(cast);
        }
        let certified =
            self.tree.header(&block).and_then(|header| self.tree.header(&header.certificate.block));
        let certified_height = certified.map_or(0, |header| header.height);
        let vote = Vote { block, height, epoch: self.epoch, voter: me, signature: Signature::EMPTY };
        out.push(Effect::Sign(Intent::Vote { vote, certified_height }));
    }

    // ---- certificates ----

    /// Locks on a block that has become the highest certified one, and settles its parent if it certifies that itself.
    fn certify(&mut self, hash: Hash, out: &mut Vec<Effect>) {
        let Some(node) = self.tree.node(&hash) else { return };
        let height = node.header.height;
        if !node.is_valid() || height <= self.lock.height {
            return;
        }
        let Some(validators) = self.tree.validators(&hash) else { return };
        let votes: Vec<Vote> = self.book.on_block(&hash, validators).cloned().collect();
        if !is_quorum(&votes, validators) {
            return;
        }
        let certificate = CommitCertificate { votes: VoteSet::new(votes), block: hash };
        let blocks = self.unlogged(&hash);
        self.append(WalRecord { blocks, lock: Some(certificate.clone()), ..WalRecord::default() }, out);
        self.lock = Lock { block: hash, height, certificate };
        self.timers.failures = 0;
        self.gather_members();
        self.settle(out);
    }

    /// Finds a certificate for a lock that has none, after a lost log: without one this node may not propose.
    fn complete_lock(&mut self) {
        let block = self.lock.block;
        if !self.lock.certificate.votes.is_empty() || block == self.tree.root() {
            return;
        }
        let Some(validators) = self.tree.validators(&block) else { return };
        let votes: Vec<Vote> = self.book.on_block(&block, validators).cloned().collect();
        if is_quorum(&votes, validators) {
            self.lock.certificate.votes = VoteSet::new(votes);
        }
    }

    fn settle(&mut self, out: &mut Vec<Effect>) {
        let Some(node) = self.tree.node(&self.lock.block) else { return };
        let parent = node.header.parent;
        if !node.is_valid() || !vote::settles_parent(&node.header) || self.tree.node(&parent).is_none() {
            return;
        }
        let gone = self.tree.settle(&parent);
        self.gather_members();
        let Some(header) = self.tree.header(&parent).cloned() else { return };
        let height = header.height;
        out.push(Effect::Reached { finality: Finality::Settled, hash: parent, header });
        for hash in gone.iter().filter(|hash| !self.tree.is_settled(hash)).copied().collect::<Vec<_>>() {
            self.refuse(hash);
        }
        self.orphans.retain(|_, (_, block)| block.header.height > height);
        let members: BTreeSet<Address> =
            self.book.latest().map(|vote| vote.voter).filter(|voter| self.is_member(voter)).collect();
        self.book.forget(&gone, |voter| members.contains(voter));
        if self.wal_records >= WAL_RECORDS || self.wal_bytes >= WAL_BYTES {
            let record = self.remembered();
            self.wal_records = 1;
            self.wal_bytes = 0;
            out.push(Effect::Rewrite(record));
        }
    }

    // ---- the log ----

    fn append(&mut self, record: WalRecord, out: &mut Vec<Effect>) {
        let blocks = record.blocks.iter().chain(&record.proposal);
        self.wal_bytes += blocks.flat_map(|block| &block.transactions).map(Vec::len).sum::<usize>();
        self.wal_records += 1;
        out.push(Effect::Append(record));
    }

    /// The blocks up to this one that the log does not have; from now on it has.
    fn unlogged(&mut self, hash: &Hash) -> Vec<Block> {
        let mut blocks = Vec::new();
        for hash in self.tree.path(hash) {
            if let Some(node) = self.tree.node_mut(&hash)
                && !node.logged
            {
                node.logged = true;
                blocks.push(node.block.as_ref().clone());
            }
        }
        blocks
    }

    /// All of the log that still matters.
    fn remembered(&self) -> WalRecord {
        let mut blocks: Vec<&Arc<Block>> =
            self.tree.nodes().filter(|(_, node)| node.logged).map(|(_, node)| &node.block).collect();
        blocks.sort_by_key(|block| block.header.height);
        WalRecord {
            blocks: blocks.into_iter().map(|block| block.as_ref().clone()).collect(),
            lock: Some(self.lock.certificate.clone()),
            vote: self.last_vote.map(|last| WalVote {
                block: last.block,
                height: last.height,
                epoch: last.epoch,
            }),
            proposal: self.proposal.clone(),
        }
    }

    // ---- proposing ----

    /// The highest block that a proposer may extend under the set change rule.
    fn tip_to_extend(&self) -> Option<Hash> {
        self.tree.tip(&self.lock.block, |hash| {
            set_change::allows(hash, self.tree.change_near(hash), &self.lock.block)
        })
    }

    fn propose(&mut self, out: &mut Vec<Effect>) {
        let Some(me) = self.roles.validator else { return };
        if let Some(block) = &self.proposal
            && block.header.epoch == self.epoch
        {
            let (block, votes) = (block.clone(), self.helpful_votes());
            out.push(Effect::Sign(Intent::Proposal { block, votes }));
            return;
        }
        let Some(parent) = self.tip_to_extend() else { return };
        let (Some(header), Some(validators)) =
            (self.tree.header(&parent).cloned(), self.tree.next_validators(&parent).cloned())
        else {
            return;
        };
        if self.epoch <= header.epoch || proposer(&validators, self.epoch) != Some(me) {
            return;
        }
        if self.lock.certificate.votes.is_empty() && self.lock.block != self.tree.root() {
            return;
        }
        if self.waits_for_votes(&parent, header.height, &validators) {
            return;
        }
        let same = |building: &Building| building.parent == parent && building.epoch == self.epoch;
        if self.building.as_ref().is_some_and(same) {
            return;
        }
        let timestamp = BigUint::from(self.now / 1_000).max(header.timestamp.clone());
        self.building = Some(Building { parent, epoch: self.epoch, timestamp: timestamp.clone() });
        let freeze_stakes = self.behind(header.height, &validators);
        out.push(Effect::Build(BlockContext {
            parent: header,
            parent_hash: parent,
            epoch: self.epoch,
            timestamp,
            proposer: me,
            validators,
            guardian_votes: None,
            elite_votes: None,
            voted_state: None,
            freeze_stakes,
        }));
    }

    /// Whether the set change rule keeps this node from extending the tip and a second block beside it would only split
    /// the votes, of which nobody has two for one height. Where the parent changes validators that would be for ever;
    /// elsewhere a quorum that has split already is led past by a block that changes nothing.
    fn waits_for_votes(&self, parent: &Hash, height: u64, validators: &ValidatorSet) -> bool {
        let Some(tip) = self.tree.tip(&self.lock.block, |_| true) else { return true };
        let can_win =
            |header: &Arc<Header>| header.height > height && header.certificate.block == self.lock.block;
        self.tree.header(&tip).is_some_and(can_win)
            && (self.tree.change_near(parent) || !self.behind(height, validators))
    }

    /// Whether a quorum has voted for blocks above this height, so that a block that changes validators would come too
    /// late (`spec/consensus.md` 3.5). Heights are the blocks' own.
    fn behind(&self, height: u64, validators: &ValidatorSet) -> bool {
        let above = |vote: &&Vote| self.tree.header(&vote.block).is_some_and(|header| header.height > height);
        is_quorum(self.book.since(0, validators).filter(above), validators)
    }

    /// Votes on the highest certified block and the latest ones, for peers that missed them.
    fn helpful_votes(&self) -> VoteSet {
        let Some(validators) = self.tree.validators(&self.lock.block) else { return VoteSet::default() };
        let on_lock = self.lock.certificate.votes.as_slice().iter();
        VoteSet::new(on_lock.chain(self.book.since(0, validators)).cloned())
    }

    fn on_built(&mut self, parent: Hash, epoch: u64, body: Body, out: &mut Vec<Effect>) {
        let asked = |building: &Building| building.parent == parent && building.epoch == epoch;
        let Some(building) = self.building.take_if(|building| asked(building)) else { return };
        let (Some(me), Some(header)) = (self.roles.validator, self.tree.header(&parent)) else { return };
        if epoch != self.epoch {
            return;
        }
        if self.tip_to_extend() != Some(parent) {
            self.propose(out);
            return;
        }
        if body.transactions.len() <= self.settings.empty_transactions {
            self.work = false;
        }
        let height = header.height + 1;
        let header = Header {
            chain: self.spec.chain.clone(),
            epoch,
            height,
            parent,
            certificate: self.lock.certificate.clone(),
            transactions_root: transactions_root(&body.transactions),
            receipts_root: body.receipts_root,
            bloom: body.bloom,
            state_root: body.state_root,
            timestamp: building.timestamp,
            proposer: me,
            signature: Signature::EMPTY,
            extension: Extension::empty(self.spec.rules(height).header),
        };
        let block = Block { header, transactions: body.transactions };
        self.append(WalRecord { proposal: Some(block.clone()), ..WalRecord::default() }, out);
        self.proposal = Some(block.clone());
        out.push(Effect::Sign(Intent::Proposal { block, votes: self.helpful_votes() }));
    }

    // ---- blocks ----

    fn has_room(&self, from: Peer, hash: &Hash, header: &Header) -> bool {
        if !self.is_lost(hash) || header.height <= self.tree.head_height() {
            return false;
        }
        if !self.tree.knows(&header.parent) {
            let of_peer = self.orphans.values().filter(|(peer, _)| *peer == from).count();
            return header.height <= self.lock.height.saturating_add(ORPHAN_HEIGHTS)
                && self.orphans.len() < ORPHANS
                && of_peer < ORPHANS_PER_PEER;
        }
        if self.wants.contains_key(hash) {
            return true;
        }
        let of_epoch = self.tree.nodes().filter(|(_, node)| node.header.epoch == header.epoch).count();
        if of_epoch >= BLOCKS_PER_EPOCH {
            return false;
        }
        if self.wants.is_empty() && header.epoch > self.epoch.saturating_add(BLOCK_WINDOW) {
            return false;
        }
        // Where the schedule is known, a block of somebody else costs no signature check.
        self.tree
            .next_validators(&header.parent)
            .is_none_or(|set| proposer(set, header.epoch) == Some(header.proposer))
    }

    fn on_block(&mut self, from: Peer, block: Arc<Block>, out: &mut Vec<Effect>) {
        let hash = block.header.hash();
        if !self.has_room(from, &hash, &block.header) {
            return;
        }
        self.wants.remove(&hash);
        let parent = block.header.parent;
        if self.tree.node(&parent).is_some() || parent == self.tree.head() {
            self.admit(hash, from, block, out);
        } else if self.is_lost(&parent) {
            self.orphans.insert(hash, (from, block));
            self.want(parent, from, 0);
        } else if self.orphans.contains_key(&parent) {
            self.orphans.insert(hash, (from, block));
        }
    }

    /// Takes a block whose parent is here, and those that waited for it.
    fn admit(&mut self, hash: Hash, from: Peer, block: Arc<Block>, out: &mut Vec<Effect>) {
        let mut open = vec![(hash, from, block)];
        while let Some((hash, from, block)) = open.pop() {
            let parent = block.header.parent;
            if !self.tree.insert(hash, block, from, false) {
                continue;
            }
            let children = self.orphans.iter().filter(|(_, (_, block))| block.header.parent == hash);
            for child in children.map(|(child, _)| *child).collect::<Vec<_>>() {
                if let Some((from, block)) = self.orphans.remove(&child) {
                    open.push((child, from, block));
                }
            }
            if self.tree.is_valid(&parent) {
                self.try_execute(hash, out);
            }
        }
    }

    /// Hands a block out for execution if it stands the checks against the chain; its parent has been executed.
    fn try_execute(&mut self, hash: Hash, out: &mut Vec<Effect>) {
        let Some(node) = self.tree.node(&hash) else { return };
        if !matches!(node.progress, Progress::Waiting) {
            return;
        }
        let block = node.block.clone();
        match self.judge(&hash, &block.header) {
            Ok(context) => {
                if let Some(node) = self.tree.node_mut(&hash) {
                    node.progress = Progress::Executing;
                }
                out.push(Effect::Execute { context, hash, block: block.clone() });
                self.learn(&block.header.certificate, out);
            }
            Err(fault) => self.condemn(hash, fault, out),
        }
    }

    /// `spec/consensus.md` section 7. An error without a fault is a block that cannot be judged here.
    fn judge(&self, hash: &Hash, header: &Header) -> Result<BlockContext, Option<Fault>> {
        let parent = self.tree.header(&header.parent).ok_or(None)?;
        let certified = &header.certificate.block;
        if header.height != parent.height + 1 {
            return Err(Some(Fault::Height));
        }
        if header.epoch <= parent.epoch {
            return Err(Some(Fault::Epoch));
        }
        if !self.tree.is_ancestor(certified, &header.parent) {
            // Below what is remembered nothing can be said; that far back no honest proposer's lock is.
            return Err(self.tree.knows(certified).then_some(Fault::Ancestor));
        }
        if !self.tree.is_settled(certified) {
            let validators = self.tree.validators(certified).ok_or(None)?;
            check_form(&header.certificate, validators).map_err(|error| Some(Fault::Certificate(error)))?;
        }
        if !set_change::allows(&header.parent, self.tree.change_near(&header.parent), certified) {
            return Err(Some(Fault::SetChange));
        }
        let validators = self.tree.next_validators(&header.parent).ok_or(None)?;
        if proposer(validators, header.epoch) != Some(header.proposer) {
            return Err(Some(Fault::Proposer));
        }
        self.tree.validators(hash).ok_or(None)?;
        Ok(BlockContext {
            parent: parent.clone(),
            parent_hash: header.parent,
            epoch: header.epoch,
            timestamp: header.timestamp.clone(),
            proposer: header.proposer,
            validators: validators.clone(),
            guardian_votes: None,
            elite_votes: None,
            voted_state: None,
            freeze_stakes: false,
        })
    }

    /// Takes the votes of a certificate that a judged header carries.
    fn learn(&mut self, certificate: &CommitCertificate, out: &mut Vec<Effect>) {
        let block = certificate.block;
        if self.tree.is_settled(&block) {
            // These votes need not have been checked.
            return;
        }
        let Some(validators) = self.tree.validators(&block).cloned() else { return };
        for vote in certificate.votes.as_slice() {
            if validators.contains(vote.voter) {
                self.book.insert(vote.clone(), |_| true);
            }
        }
        self.certify(block, out);
        self.try_advance(out);
    }

    fn condemn(&mut self, hash: Hash, fault: Option<Fault>, out: &mut Vec<Effect>) {
        let from = self.tree.node(&hash).map(|node| node.from);
        for (hash, _) in self.tree.remove(&hash) {
            self.refuse(hash);
        }
        if let (Some(Peer::Remote(peer)), Some(fault)) = (from, fault) {
            out.push(Effect::Penalize { peer, fault });
        }
    }

    fn refuse(&mut self, hash: Hash) {
        self.wants.remove(&hash);
        if self.refused.insert(hash) {
            self.refused_order.push_back(hash);
        }
        if self.refused_order.len() > REFUSED
            && let Some(oldest) = self.refused_order.pop_front()
        {
            self.refused.remove(&oldest);
        }
    }

    fn on_executed(&mut self, hash: Hash, post: Option<PostState>, out: &mut Vec<Effect>) {
        let Some(node) = self.tree.node_mut(&hash) else { return };
        if !matches!(node.progress, Progress::Executing) {
            return;
        }
        let Some(post) = post else {
            self.condemn(hash, Some(Fault::Execution), out);
            return;
        };
        node.progress = Progress::Valid(post);
        let epoch = node.header.epoch;
        self.work = false;
        if self.busy() {
            let pace = self.pace();
            self.timers.hurry(self.now, pace, &self.settings);
        }
        let votes_now = match self.pace() {
            Pace::Clocked => {
                self.timers.block_seen |= epoch == self.epoch || epoch.saturating_add(1) == self.epoch;
                self.timers.block_seen && self.timers.vote_ready
            }
            Pace::Responsive => epoch >= self.epoch,
        };
        if votes_now {
            self.cast_vote(false, out);
        }
        if hash == self.lock.block {
            // After a restart the lock is known before its block has been executed again.
            self.gather_members();
            self.settle(out);
        }
        self.certify(hash, out);
        for child in self.tree.children(&hash) {
            self.try_execute(child, out);
        }
    }

    // ---- looking for blocks ----

    fn want(&mut self, block: Hash, from: Peer, delay: Millis) {
        if self.wants.len() < WANTS && block != Hash::ZERO {
            let next = self.now + delay;
            let want = self.wants.entry(block).or_insert(Want { from, next, attempts: 0, seen: 0 });
            if want.attempts == 0 {
                want.next = want.next.min(next);
            }
        }
    }

    fn fetch(&mut self, out: &mut Vec<Effect>) {
        if self.wants.is_empty() {
            return;
        }
        let (tree, orphans) = (&self.tree, &self.orphans);
        self.wants.retain(|hash, _| !tree.knows(hash) && !orphans.contains_key(hash));
        let pending = self.tree.nodes().any(|(_, node)| !node.is_valid());
        let (tip, above) = (self.tip().1, self.tree.head_height());
        for (hash, want) in &mut self.wants {
            if want.attempts > 0 && tip > want.seen && !pending {
                // The last answer has been worked off and led further up: go on at once.
                want.attempts = 0;
                want.next = self.now;
            }
            if self.now < want.next {
                continue;
            }
            let from = (want.attempts == 0).then_some(want.from);
            out.push(Effect::Fetch { block: *hash, above, from });
            want.attempts += 1;
            want.seen = tip;
            want.next = self.now + self.settings.fetch_timeout.max(1);
        }
        let given_up: Vec<Hash> = self
            .wants
            .iter()
            .filter(|(_, want)| want.attempts > WANT_ATTEMPTS)
            .map(|(hash, _)| *hash)
            .collect();
        for hash in given_up {
            self.wants.remove(&hash);
            self.forget_orphans_of(hash);
        }
    }

    /// Drops the blocks that wait for one that nobody has, so that a later vote may start a new search.
    fn forget_orphans_of(&mut self, hash: Hash) {
        let mut open = vec![hash];
        while let Some(parent) = open.pop() {
            let children = self.orphans.iter().filter(|(_, (_, block))| block.header.parent == parent);
            for child in children.map(|(child, _)| *child).collect::<Vec<_>>() {
                self.orphans.remove(&child);
                open.push(child);
            }
        }
    }
}

#[cfg(test)]
mod tests;
