//! The chain thread: carries out what the engine wants. The only writer of the ledger and of the write-ahead log.
//!
//! One loop: an input goes into [`Engine::step`], its effects are carried out in order, and their answers are the next
//! inputs. Whatever must be durable is before the next effect begins; if it cannot be, the thread ends and says why.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use parking_lot::Mutex;
use prometheus_client::metrics::histogram::Histogram;
use theta_consensus::{
    Effect, Engine, Input, Intent, LocalSigner, Message, Peer, RoleSigner, Roles, Settings, SettledBlock,
    Signed, Start, WalRecord,
};
use theta_core::{
    block::Block,
    context::{BlockContext, Finality},
    hash::{Address, Hash},
    journal::{FileDisk, Journal},
    sign::{SecretKey, SignError},
    stake::ValidatorSet,
};
use theta_ledger::{
    MAX_BLOCK_TXS, Status,
    ledger::{At, Ledger, LedgerReader},
    mempool::Mempool,
    state::StateError,
};
use tokio::sync::watch;

use crate::{
    clock::now_millis,
    evidence::Dossier,
    fetch::{Fetcher, RANGE},
    metrics::Metrics,
    net::{Delivery, Packet, Port, Ticket, Verdict},
    snapshots::Shelf,
    vote_key::vote_key,
};

/// Settled headers that an engine starts with.
const TAIL: u64 = 2_000;
/// Bytes of transactions in a block built here. A log record holds several whole blocks and has a limit of its own.
const MAX_BUILT_BYTES: usize = 2 * 1024 * 1024;
/// Blocks in one answer to a fetch.
const BLOCKS_PER_ANSWER: usize = RANGE as usize;
/// What takes longer is said to be slow.
const SLOW: Duration = Duration::from_secs(1);
/// Longest sleep of the loop, so that a stop is noticed.
const LONGEST_SLEEP: u64 = 200;

/// What wakes the chain thread.
#[derive(Debug)]
pub(crate) enum Event {
    /// A packet of another node.
    Net(Box<Delivery>),
    /// A transaction was admitted.
    Work,
}

/// Where the engine stands, for whoever asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Height of the newest settled block.
    pub settled: u64,
    /// The engine's epoch.
    pub epoch: u64,
    /// Highest executed block.
    pub tip: (Hash, u64),
    /// Newest checkpoint that guardians made final, where the chain has such and the node has learnt of one.
    pub final_checkpoint: Option<(Hash, u64)>,
    /// Whether the node is far behind what its peers say.
    pub syncing: bool,
}

/// Everything the thread owns.
pub(crate) struct Chain {
    pub(crate) ledger: Ledger,
    pub(crate) reader: LedgerReader,
    pub(crate) mempool: Arc<Mutex<Mempool>>,
    pub(crate) port: Port,
    pub(crate) events: Receiver<Event>,
    pub(crate) progress: watch::Sender<Progress>,
    pub(crate) stop: watch::Receiver<bool>,
    engine: Engine,
    wal: Journal<WalRecord>,
    signer: LocalSigner,
    wake_at: u64,
    /// Whom the next fetch without a named peer asks.
    next_peer: usize,
    fetcher: Fetcher,
    /// Validators that contradicted themselves.
    dossier: Dossier,
    metrics: Metrics,
    shelf: Option<Arc<Shelf>>,
}

/// What a chain thread begins with.
pub(crate) struct Parts {
    pub(crate) ledger: Ledger,
    pub(crate) mempool: Arc<Mutex<Mempool>>,
    pub(crate) port: Port,
    pub(crate) events: Receiver<Event>,
    pub(crate) progress: watch::Sender<Progress>,
    pub(crate) stop: watch::Receiver<bool>,
    pub(crate) node_key: Arc<SecretKey>,
    pub(crate) settings: Settings,
    pub(crate) folder: PathBuf,
    pub(crate) metrics: Metrics,
    pub(crate) shelf: Option<Arc<Shelf>>,
}

/// Takes down how long something took, and says so where that is long.
fn took(what: &str, begun: Instant, times: &Histogram) {
    let took = begun.elapsed();
    times.observe(took.as_secs_f64());
    if took >= SLOW {
        tracing::warn!(millis = took.as_millis(), "{what} was slow");
    }
}

fn journal_disk(folder: &Path, name: &str) -> Result<FileDisk> {
    let path = folder.join(name);
    FileDisk::open(&path).with_context(|| format!("{} cannot be opened", path.display()))
}

/// The newest settled blocks with what consensus was told of them, ascending, and the block from which certificates are
/// counted: the newest that is taken on trust, which is a snapshot's where the chain began with one, else the genesis.
fn tail(reader: &LedgerReader) -> Result<(Hash, Vec<SettledBlock>)> {
    let newest = reader.settled().header.height;
    let (mut root, mut tail): (Hash, Vec<SettledBlock>) = (reader.genesis().hash, Vec::new());
    let mut last: Option<Arc<ValidatorSet>> = None;
    for height in (newest.saturating_sub(TAIL)..=newest).rev() {
        let Some(info) = reader.block(At::Height(height))? else {
            bail!("the store lacks settled block {height}")
        };
        let mut post = match reader.post_state(At::Height(height)) {
            Ok(post) => post,
            // Older states are gone; the engine says if what is left is too little.
            Err(StateError::Absent { .. }) if !tail.is_empty() => break,
            Err(error) => return Err(error.into()),
        };
        // Sets rarely change; one copy serves all blocks that share it.
        match &last {
            Some(set) if **set == *post.validators => post.validators = set.clone(),
            _ => last = Some(post.validators.clone()),
        }
        tail.push(SettledBlock { header: Arc::new(info.block.header.clone()), post });
        if info.status == Status::TRUSTED.0 {
            root = info.hash;
            break;
        }
    }
    tail.reverse();
    Ok((root, tail))
}

impl Chain {
    pub(crate) fn open(parts: Parts) -> Result<Self> {
        let reader = parts.ledger.reader();
        let (wal, records) = Journal::open(journal_disk(&parts.folder, "consensus.wal")?)?;
        let signer = LocalSigner::open(parts.node_key.clone(), journal_disk(&parts.folder, "signer.mark")?)?
            .with_vote_key(vote_key(&parts.node_key)?);
        let (root, settled) = tail(&reader)?;
        let start = Start { root, settled, wal: records };
        let spec = Arc::new(reader.spec().clone());
        // Whether it validates, guards or is an elite edge node is the chain's to say: whoever stakes behind it decides.
        let vote_key = vote_key(&parts.node_key)?;
        let address = signer.address();
        let roles = Roles::validator(address).with_guardian(vote_key.public_key()).with_elite(address);
        let signer = signer.with_checkpoint_key(vote_key, journal_disk(&parts.folder, "checkpoint.mark")?)?;
        let engine = Engine::recover(spec, parts.settings, roles, start)?.reminded(signer.voted());
        Ok(Self {
            ledger: parts.ledger,
            reader,
            mempool: parts.mempool,
            port: parts.port,
            events: parts.events,
            progress: parts.progress,
            stop: parts.stop,
            engine,
            wal,
            signer,
            wake_at: 0,
            next_peer: 0,
            fetcher: Fetcher::default(),
            dossier: Dossier::open(&parts.folder)?,
            metrics: parts.metrics,
            shelf: parts.shelf,
        })
    }

    /// Runs until told to stop. An error means that the node can no longer keep what it promised.
    pub(crate) fn run(mut self) -> Result<()> {
        let mut inputs = VecDeque::from([Input::Tick]);
        if !self.mempool.lock().is_empty() {
            inputs.push_back(Input::Work);
        }
        while !*self.stop.borrow() {
            self.drive(&mut inputs)?;
            self.catch_up(&mut inputs)?;
            let now = now_millis();
            let sleep = self.wake_at.saturating_sub(now).min(LONGEST_SLEEP);
            match self.events.recv_timeout(Duration::from_millis(sleep)) {
                Ok(Event::Work) => inputs.push_back(Input::Work),
                Ok(Event::Net(delivery)) => self.receive(*delivery, &mut inputs)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            if now_millis() >= self.wake_at {
                inputs.push_back(Input::Tick);
            }
        }
        Ok(())
    }

    fn drive(&mut self, inputs: &mut VecDeque<Input>) -> Result<()> {
        let mut effects = Vec::new();
        while let Some(input) = inputs.pop_front() {
            self.engine.step(now_millis(), input, &mut effects);
            for effect in effects.drain(..) {
                self.carry_out(effect, inputs)?;
            }
        }
        let progress = Progress {
            settled: self.engine.settled().1,
            epoch: self.engine.epoch(),
            tip: self.engine.tip(),
            final_checkpoint: self.engine.final_checkpoint(),
            syncing: self.fetcher.is_far(self.engine.tip().1),
        };
        self.progress.send_if_modified(|known| std::mem::replace(known, progress) != progress);
        Ok(())
    }

    fn carry_out(&mut self, effect: Effect, inputs: &mut VecDeque<Input>) -> Result<()> {
        match effect {
            Effect::Append(record) => {
                let begun = Instant::now();
                self.wal.append(&record).context("write-ahead log")?;
                took("writing to the log of consensus", begun, &self.metrics.log);
            }
            Effect::Rewrite(record) => self.wal.replace(&[record]).context("write-ahead log")?,
            Effect::Sign { intent, to } => self.sign(&intent, to, inputs)?,
            Effect::Build(context) => self.build(&context, inputs)?,
            Effect::Execute { context, hash, block } => self.execute(&context, hash, block, inputs)?,
            // What was accepted is passed on by the network itself.
            Effect::Relay { .. } => {}
            Effect::Broadcast(message) => self.port.broadcast(&Packet::Message(message)),
            Effect::Fetch { block, above, from } => self.fetch(block, above, from),
            Effect::Reached { finality: Finality::Settled, hash, .. } => self.settle(&hash)?,
            Effect::Reached { hash, .. } => drop(self.ledger.reached(Finality::Final, &hash)?),
            Effect::WakeAt(at) => self.wake_at = at,
            Effect::Report(evidence) => {
                tracing::warn!(offender = %evidence.offender(), "a validator contradicted itself");
                self.dossier.add(evidence)?;
                inputs.push_back(Input::Work);
            }
            Effect::Accuse { validator, fault } => {
                tracing::warn!(%validator, ?fault, "a validator signed what no honest one signs");
            }
            Effect::Penalize { peer, fault } => {
                tracing::warn!(peer, ?fault, "a peer broke the protocol");
                self.port.penalize(peer);
            }
            other => bail!("the engine asks for what this host cannot do: {other:?}"),
        }
        Ok(())
    }

    fn sign(&mut self, intent: &Intent, to: Option<Address>, inputs: &mut VecDeque<Input>) -> Result<()> {
        let signed = match self.signer.sign(intent) {
            Ok(signed) => signed,
            Err(error @ SignError::Mark(_)) => return Err(error.into()),
            Err(error) => {
                // The mark knows of something else that was signed; going on without signing is safe.
                tracing::error!(%error, "the signer refused");
                return Ok(());
            }
        };
        match signed {
            Signed::Message(message) => {
                let is_own = to == Some(self.signer.address());
                if !is_own && !to.is_some_and(|to| self.port.tell(to, &message)) {
                    self.port.broadcast(&Packet::Message(message.clone()));
                }
                self.take_message(Peer::Own, message, inputs);
            }
            Signed::Proposal(proposal) => {
                let block = Arc::new(proposal.block);
                self.port.broadcast(&Packet::Block(block.clone()));
                for vote in proposal.votes.as_slice() {
                    self.port.broadcast(&Packet::Message(Message::Vote(vote.clone())));
                }
                self.take_block(Peer::Own, &block, inputs);
            }
            other => bail!("the signer gave what this host cannot send: {other:?}"),
        }
        Ok(())
    }

    fn build(&mut self, context: &BlockContext, inputs: &mut VecDeque<Input>) -> Result<()> {
        let mut view = self.reader.state(At::Block(context.parent_hash))?;
        let (spec, signer) = (self.reader.spec(), self.signer.unguarded());
        let mut candidates = self.dossier.charges(&mut view, spec, context.height(), signer)?;
        let room = MAX_BLOCK_TXS - candidates.len();
        candidates.extend(self.mempool.lock().candidates(&mut view, room, MAX_BUILT_BYTES)?);
        let (body, left_out) = self.ledger.build_block(context, &candidates, self.signer.unguarded())?;
        for (hash, error) in left_out {
            self.mempool.lock().left_out(&hash, error);
        }
        inputs.push_back(Input::Built { parent: context.parent_hash, epoch: context.epoch, body });
        Ok(())
    }

    fn execute(
        &mut self,
        context: &BlockContext,
        hash: Hash,
        block: Arc<Block>,
        inputs: &mut VecDeque<Input>,
    ) -> Result<()> {
        let begun = Instant::now();
        let applied = self.ledger.apply_block(context, hash, block);
        took("carrying out a block", begun, &self.metrics.execute);
        let post = match applied {
            Ok(post) => Some(post),
            Err(error) if error.condemns_block() => {
                tracing::warn!(%hash, %error, "refused a block");
                None
            }
            Err(error) => return Err(error).context("a block could not be executed"),
        };
        let executed = post.is_some();
        inputs.push_back(Input::Executed { hash, post });
        if executed {
            let mut view = self.reader.state(At::Block(hash))?;
            if !self.mempool.lock().candidates(&mut view, 1, MAX_BUILT_BYTES)?.is_empty() {
                inputs.push_back(Input::Work);
            }
        }
        Ok(())
    }

    fn settle(&mut self, hash: &Hash) -> Result<()> {
        let begun = Instant::now();
        let blocks =
            self.ledger.reached(Finality::Settled, hash).context("settled blocks could not be stored")?;
        took("storing settled blocks", begun, &self.metrics.commit);
        self.metrics.settled.inc_by(blocks.iter().map(|block| block.transactions.len() as u64).sum());
        if let Some(shelf) = &self.shelf {
            shelf.consider(&self.reader);
        }
        Ok(self.mempool.lock().settled(&blocks, now_millis())?)
    }

    /// Asks for ranges and takes those that are here, while this node is far behind.
    fn catch_up(&mut self, inputs: &mut VecDeque<Input>) -> Result<()> {
        loop {
            let at = self.engine.tip().1;
            if !self.fetcher.is_far(at) && !self.fetcher.is_busy() {
                return Ok(());
            }
            for ask in self.fetcher.plan(now_millis(), at, &self.port.others()) {
                self.port.fetch(ask.peer, ask.block, ask.above);
            }
            let Some((peer, blocks)) = self.fetcher.next(at) else { return Ok(()) };
            for block in &blocks {
                if *self.stop.borrow() {
                    return Ok(());
                }
                self.take_block(Peer::Remote(peer), block, inputs);
                self.drive(inputs)?;
            }
            if self.engine.tip().1 <= at {
                tracing::warn!(peer, height = at + 1, "blocks of a peer lead nowhere");
                self.fetcher.misled(now_millis(), peer);
            }
        }
    }

    fn fetch(&mut self, block: Hash, above: u64, from: Option<Peer>) {
        if self.fetcher.is_far(self.engine.tip().1) {
            self.fetcher.aim(block);
            return;
        }
        let to = match from {
            Some(Peer::Remote(peer)) => Some(peer),
            _ => {
                let others = self.port.others();
                self.next_peer = self.next_peer.wrapping_add(1);
                others.get(self.next_peer % others.len().max(1)).copied()
            }
        };
        if let Some(to) = to {
            self.port.fetch(to, block, above);
        }
    }

    fn receive(&mut self, delivery: Delivery, inputs: &mut VecDeque<Input>) -> Result<()> {
        let (peer, ticket) = (Peer::Remote(delivery.from), delivery.ticket);
        match delivery.packet {
            Packet::Message(message) => {
                if let Message::Status(status) = &message {
                    self.fetcher.heard(now_millis(), delivery.from, status.settled_height);
                }
                let verdict = self.take_message(peer, message, inputs);
                self.port.judge(&ticket, verdict);
            }
            Packet::Block(block) => {
                let verdict = self.take_block(peer, &block, inputs);
                self.port.judge(&ticket, verdict);
            }
            Packet::Blocks(blocks) => {
                let Ok(others) = self.fetcher.answered(now_millis(), delivery.from, blocks) else {
                    self.port.penalize(delivery.from);
                    return Ok(());
                };
                for block in others.iter().flatten().take(BLOCKS_PER_ANSWER) {
                    // One after the other: each has to find its parent.
                    self.take_block(peer, block, inputs);
                    self.drive(inputs)?;
                }
            }
            Packet::Fetch { block, above } => self.answer(&ticket, &block, above)?,
            // The others are answered before they come here.
            _ => {}
        }
        Ok(())
    }

    fn answer(&self, ticket: &Ticket, block: &Hash, above: u64) -> Result<()> {
        let unsettled = self.engine.branch(block);
        let mut blocks = Vec::new();
        if unsettled.is_empty() && self.reader.block(At::Block(*block))?.is_none() {
            self.port.reply(ticket, blocks);
            return Ok(());
        }
        for height in above.saturating_add(1)..=self.engine.settled().1 {
            if blocks.len() == BLOCKS_PER_ANSWER {
                break;
            }
            blocks.extend(self.reader.block(At::Height(height))?.map(|info| info.block));
        }
        blocks.extend(unsettled.into_iter().filter(|block| block.header.height > above));
        blocks.truncate(BLOCKS_PER_ANSWER);
        self.port.reply(ticket, blocks);
        Ok(())
    }

    fn take_message(&self, from: Peer, message: Message, inputs: &mut VecDeque<Input>) -> Verdict {
        let Some(checks) = self.engine.wants(from, message) else { return Verdict::Ignore };
        match checks.verify() {
            Ok(checked) => inputs.push_back(Input::Message(checked)),
            Err(fault) => {
                self.metrics.refused.inc();
                tracing::warn!(?from, ?fault, "refused a message");
                return Verdict::Reject;
            }
        }
        Verdict::Accept
    }

    fn take_block(&self, from: Peer, block: &Block, inputs: &mut VecDeque<Input>) -> Verdict {
        let Some(checks) = self.engine.wants_block(from, block.clone()) else { return Verdict::Ignore };
        match checks.verify() {
            Ok(checked) => inputs.push_back(Input::Block(checked)),
            Err(fault) => {
                self.metrics.refused.inc();
                tracing::warn!(?from, ?fault, "refused a block");
                return Verdict::Reject;
            }
        }
        Verdict::Accept
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Read};

    use theta_core::{
        sign::SecretKey,
        spec::{ChainSpec, Pace},
        store::{MemStore, Store},
    };
    use theta_ledger::{chain_file::ChainFile, follow::Follower, genesis::Genesis, snapshot, state::Keep};

    use super::*;

    fn fixture(name: &str) -> Vec<u8> {
        let path = format!("{}/../tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read(path).expect("a fixture")
    }

    #[test]
    fn an_engine_starts_on_a_folder_that_began_with_a_snapshot() {
        let genesis = Genesis::read(&fixture("privatenet.genesis"), None).expect("whole");
        let mut file = Vec::new();
        let packed = fixture("privatenet-450-v3.snapshot.gz");
        flate2::read::GzDecoder::new(packed.as_slice()).read_to_end(&mut file).expect("whole");
        let store: Arc<dyn Store> = Arc::new(MemStore::default());
        let done = snapshot::import(file.as_slice(), &genesis, None, &store).expect("whole");
        let open = |keep| {
            let ledger = Ledger::builder(ChainSpec::privatenet()).store(store.clone()).keep(keep);
            ledger.open(&genesis).expect("imported")
        };
        let start = |reader: &LedgerReader| {
            let (root, settled) = tail(reader).expect("the newest block at least");
            assert_eq!(root, done.hash);
            let heights = settled.iter().map(|block| block.header.height).collect::<Vec<_>>();
            let key = SecretKey::from_bytes(&[7; 32]).expect("in range");
            let roles = Roles::validator(key.address());
            let start = Start { root, settled, wal: Vec::new() };
            let spec = Arc::new(reader.spec().clone());
            let settings = Settings::new(Pace::Clocked);
            let engine = Engine::recover(spec, settings, roles, start).expect("enough to go on from");
            assert_eq!(engine.settled().1, reader.settled().header.height);
            heights
        };
        let ledger = open(Keep::All);
        assert_eq!(start(&ledger.reader()), [450]);
        let mut follower = Follower::new(ledger);
        let chain = fixture("privatenet-440-452.chain");
        let blocks = ChainFile::open(Cursor::new(chain)).expect("whole");
        let next = blocks.map(|block| block.expect("whole").block).find(|block| block.header.height == 451);
        follower.apply(Arc::new(next.expect("in the file"))).expect("it stands on the snapshot's block");
        assert_eq!(start(follower.reader()), [450, 451]);
        drop(follower);
        assert_eq!(start(&open(Keep::Blocks(Keep::LEAST)).reader()), [450, 451]);
    }
}
