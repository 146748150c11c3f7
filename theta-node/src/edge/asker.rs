//! The loop of a requester: takes one event, carries out what follows.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use theta_core::{
    hash::Hash,
    journal::{Deferred, FileDisk},
    sign::SecretKey,
};
use theta_edge::{
    Millis,
    blob::{BlobError, BlobRef, BlobStore as _},
    chain::{Chain, Fund, Settled},
    executor::{Attempt, Engines, Output, Verdict},
    identity::NodeId,
    infer::{Ask, ModelOffer, Reply},
    job::Work,
    map::{MapJob, MapReport},
    message::{Envelope, Message},
    requester::{self, Requester, RequesterError},
    scheduler::{Input, Report, Settings},
};
use theta_ledger::state::account::SplitRule;
use theta_sdk::client::Client;
use tokio::{
    sync::{mpsc, oneshot},
    task::{AbortHandle, JoinError, JoinSet},
};

use super::{
    CLOSING, Funds, JobClientConfig,
    book::{Book, Spec},
    content::publish::Publications,
    disk,
    funds::OpenFunds,
    nodes::Nodes,
    requester::{Order, ProviderPool},
    wire::Wire,
};
use crate::clock::now_millis;

mod money;
mod view;
mod work;

/// Jobs that one requester has open at once.
pub(super) const MAX_JOBS: usize = 256;
/// Edge nodes that are asked to keep a content.
const HOLDERS: usize = 2;
/// Jobs that wait for a fund to be reserved.
const MAX_WAITING: usize = 64;
/// Milliseconds after which a fund that could not be reserved is tried again.
const RETRY_MS: u64 = 5_000;

/// Events that share one sync of the journals.
const TOGETHER: usize = 256;

/// How often blobs are deleted that no open job needs, in milliseconds.
const PRUNE_MS: u64 = 60_000;
/// Bytes of blobs above which the oldest go.
const MAX_STORED: u64 = 8 << 30;
/// Ages of blobs: none that is younger goes, every one that is older does, in seconds. An upload waits for its job, and a
/// result for whoever fetches it.
const AGES: (u64, u64) = (3_600, 7 * 24 * 3_600);

/// Why a job is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The job itself.
    #[error("{0}")]
    Job(#[from] theta_edge::job::JobError),
    /// Too many are open.
    #[error("{MAX_JOBS} jobs are open; wait until one has ended")]
    Full,
    /// Too much waits, or it would come too late.
    #[error("{0}")]
    Placement(#[from] theta_edge::placement::Refusal),
    /// It costs more than there is.
    #[error("{0}")]
    Budget(String),
}

/// Whom the report of a job goes to.
pub(super) type Done = oneshot::Sender<Report>;
/// A piece of a text: whose, how many bytes of it come before, and the piece.
pub(super) type Piece = (NodeId, u64, String);
pub(super) type Shown = mpsc::Sender<Piece>;
type Watchers = (Option<Done>, Option<Shown>);
type Taken = oneshot::Sender<Result<Hash, Refused>>;

pub(super) enum AskerEvent {
    Envelope(Vec<u8>),
    Fetched {
        job: Hash,
        from: NodeId,
        complete: bool,
    },
    Checked {
        job: Hash,
        digest: Option<Hash>,
    },
    Submit {
        order: Box<Order>,
        taken: Taken,
        ended: Option<Done>,
        /// Whom the text is shown to while it is made.
        frames: Option<Shown>,
    },
    Cancel(Hash),
    /// The funds in use as the chain shows them, and its height.
    Seen {
        height: u64,
        funds: Vec<(u64, Option<Fund>)>,
    },
    /// A fund was reserved, or could not be.
    Reserved(Result<(Fund, Option<SplitRule>)>),
    /// The input of a reducer is one blob.
    Joined {
        map: Hash,
        at: (u32, u32),
        blob: Result<BlobRef, BlobError>,
    },
    /// The output of a map job is one blob.
    Merged {
        report: Box<MapReport>,
        stdout: Result<Option<BlobRef>, String>,
        stderr: Option<BlobRef>,
    },
    /// A content is published: these edge nodes, or others, are to keep it.
    Hold {
        manifest: BlobRef,
        first: Vec<NodeId>,
    },
    /// Nobody listens for a node any more.
    Unreachable(NodeId),
    Look(Box<dyn FnOnce(&AskerLoop) + Send>),
    /// A task ended that has nothing to tell.
    Nothing,
}

/// What follows from records.
enum After {
    /// An envelope goes to a node.
    Send { to: NodeId, envelope: Vec<u8> },
    /// Whoever gave a job is told that it was taken.
    Taken(Taken, Hash),
    /// A task is over.
    Finished(Box<Report>),
}

pub(super) struct AskerLoop {
    pub(super) id: NodeId,
    pub(super) wire: Wire,
    key: Arc<SecretKey>,
    chain: String,
    policy: Funds,
    engines: Engines,
    client: Client,
    /// Where the chain answers `theta.*` calls, for pages.
    pub(super) rpc: String,
    /// The one scheduler of all jobs, and a purse for each fund.
    requester: Requester,
    /// Of the requester's jobs.
    journal: Deferred<FileDisk>,
    /// What waits until that which it follows from is on record.
    after: Vec<After>,
    wake_at: Millis,
    funds: OpenFunds,
    /// What the chain says that each fund has paid.
    settled: BTreeMap<u64, Vec<Settled>>,
    rule: Option<SplitRule>,
    height: u64,
    pub(super) book: Book,
    maps: BTreeMap<Hash, MapJob>,
    /// Map jobs that are over but for parts that are still being paid.
    ending: BTreeMap<Hash, MapReport>,
    /// Jobs of map jobs.
    parts: BTreeMap<Hash, Hash>,
    nodes: Nodes,
    tasks: JoinSet<AskerEvent>,
    /// The look at the funds.
    looking: Option<AbortHandle>,
    pub(super) publications: Publications,
    /// When blobs were last deleted that no job needs.
    pruned: Millis,
    /// The fund that is being reserved.
    reserving: Option<AbortHandle>,
    /// Why none could be the last time, and when the next try is.
    trouble: Option<(String, Millis)>,
    /// Jobs that wait for a fund.
    queue: VecDeque<(Box<Order>, Taken, Watchers)>,
    /// Who is shown the texts of jobs.
    shown: BTreeMap<Hash, Shown>,
    waiting: BTreeMap<Hash, Done>,
    /// Of the newest job.
    nonce: u64,
    /// What there is to do from the beginning on.
    first: Vec<requester::Todo>,
    _lock: std::fs::File,
}

impl AskerLoop {
    /// The loop of a folder.
    pub(super) async fn open(config: JobClientConfig) -> Result<Self> {
        std::fs::create_dir_all(&config.folder).with_context(|| config.folder.display().to_string())?;
        let lock = super::lock(&config.folder)?;
        let key: Arc<SecretKey> = Arc::new(config.key);
        let id = NodeId(key.address());
        let book = Book::open(&config.folder)?;
        let mut funds = OpenFunds::new(config.folder.clone(), config.chain.clone(), key.clone());
        let (mut purses, mut settled) = (Vec::new(), BTreeMap::new());
        let mut wanted = OpenFunds::kept(&config.folder);
        if let Funds::Given(sequence) = config.funds
            && !wanted.contains(&sequence)
        {
            wanted.push(sequence);
        }
        let mut rule = None;
        for sequence in wanted {
            let Some(fund) = config.client.fund(id.0, sequence).await? else {
                if config.funds == Funds::Given(sequence) {
                    bail!("the payer has no such fund");
                }
                // It has ended: nothing can be paid from it any more.
                funds.close(sequence)?;
                continue;
            };
            if let Some(resource) = fund.resource_ids.first() {
                rule = config.client.split_rule(resource).await?;
            }
            settled.insert(sequence, fund.settled.clone());
            purses.push(funds.adopt(fund)?);
        }
        let journal = Deferred::new(disk(&config.folder, "jobs.journal")?);
        let settings = settings(&config.pools);
        let (requester, first) = Requester::open_deferred(
            &config.chain,
            key.clone(),
            settings,
            journal.clone(),
            purses,
            now_millis(),
        )?;
        let height = config.client.height().await?;
        let wire = Wire::new(&config.folder, config.directory)?;
        let publications = Publications::open(&config.folder, &wire.blobs)?;
        Ok(Self {
            id,
            wire,
            key,
            chain: config.chain,
            policy: config.funds,
            engines: config.engines,
            rpc: config.rpc,
            client: config.client,
            requester,
            journal,
            after: Vec::new(),
            wake_at: Millis::MAX,
            funds,
            settled,
            rule,
            height,
            book,
            maps: BTreeMap::new(),
            ending: BTreeMap::new(),
            parts: BTreeMap::new(),
            nodes: Nodes::default(),
            tasks: JoinSet::new(),
            looking: None,
            publications,
            pruned: 0,
            reserving: None,
            trouble: None,
            queue: VecDeque::new(),
            shown: BTreeMap::new(),
            waiting: BTreeMap::new(),
            nonce: 0,
            first,
            _lock: lock,
        })
    }

    /// Goes on where the journals end.
    pub(super) fn begin(&mut self) -> Result<()> {
        let now = now_millis();
        let first = std::mem::take(&mut self.first);
        self.carry_out(first)?;
        for node in self.wire.directory.others(self.id) {
            self.step(now, Input::Node { node, up: true })?;
        }
        let open: Vec<Spec> = self.book.open_jobs().filter_map(|(_, entry)| entry.spec.clone()).collect();
        for spec in open {
            self.go(now, spec)?;
        }
        self.commit()
    }

    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<AskerEvent>) -> Result<()> {
        let mut reminder = tokio::time::interval(CLOSING);
        loop {
            let sleep = Duration::from_millis(self.wake_at.saturating_sub(now_millis()).min(60_000));
            tokio::select! {
                event = queue.recv() => match event {
                    None => return Ok(()),
                    Some(event) => self.take(now_millis(), event)?,
                },
                Some(done) = self.tasks.join_next() => self.task_done(done)?,
                () = tokio::time::sleep(sleep) => self.step(now_millis(), Input::Tick)?,
                _ = reminder.tick() => self.look_around(now_millis())?,
            }
            // What has come meanwhile shares the sync.
            for _ in 1..TOGETHER {
                if let Ok(event) = queue.try_recv() {
                    self.take(now_millis(), event)?;
                } else if let Some(done) = self.tasks.try_join_next() {
                    self.task_done(done)?;
                } else {
                    break;
                }
            }
            self.commit()?;
        }
    }

    fn task_done(&mut self, done: Result<AskerEvent, JoinError>) -> Result<()> {
        match done {
            Ok(event) => self.take(now_millis(), event),
            // The scheduler's time limit speaks for it.
            Err(error) => {
                tracing::error!(%error, "a task of the requester ended without an answer");
                Ok(())
            }
        }
    }

    /// Puts everything so far on record, then does what follows from it. The journals follow from each other in this order:
    /// a job that was taken, how it is run, what is paid for it.
    pub(super) fn commit(&mut self) -> Result<()> {
        loop {
            self.book.commit()?;
            self.journal.commit().context("the journal of jobs")?;
            self.funds.commit()?;
            self.requester.committed()?;
            if self.after.is_empty() {
                return Ok(());
            }
            for after in std::mem::take(&mut self.after) {
                match after {
                    After::Send { to, envelope } => self.wire.send(to, envelope),
                    // Whoever asked may be gone; the journal has the job.
                    After::Taken(taken, job) => drop(taken.send(Ok(job))),
                    After::Finished(report) => self.finished(*report)?,
                }
            }
        }
    }

    pub(super) fn take(&mut self, now: Millis, event: AskerEvent) -> Result<()> {
        match event {
            AskerEvent::Envelope(bytes) => self.envelope(now, &bytes),
            AskerEvent::Fetched { job, from, complete } => {
                self.step(now, Input::Fetched { job, from, complete })
            }
            AskerEvent::Checked { job, digest } => self.step(now, Input::Checked { job, digest }),
            AskerEvent::Submit { order, taken, ended, frames } => {
                self.submit(now, order, taken, (ended, frames))
            }
            AskerEvent::Cancel(job) => self.cancel(now, job),
            AskerEvent::Seen { height, funds } => self.seen(height, funds),
            AskerEvent::Reserved(reserved) => self.reserved(now, reserved),
            AskerEvent::Joined { map, at, blob } => {
                let todo = match (self.maps.get_mut(&map), blob) {
                    (Some(job), Ok(blob)) => job.joined(at, blob),
                    (Some(job), Err(error)) => {
                        tracing::error!(%error, "the input of a reducer could not be made");
                        job.cancel()
                    }
                    (None, _) => Vec::new(),
                };
                self.carry_out_map(now, map, todo)
            }
            AskerEvent::Merged { report, stdout, stderr } => self.merged(now, *report, stdout, stderr),
            AskerEvent::Hold { manifest, first } => {
                let all = self.nodes.others(self.id, self.requester.scheduler());
                let open: Vec<NodeId> = all.into_iter().map(|(node, _)| node).collect();
                // Those that have most of it come first.
                let first = first.into_iter().filter(|node| open.contains(node));
                let mut holders: Vec<NodeId> = first.collect();
                holders
                    .extend(open.iter().filter(|node| !holders.contains(node)).copied().collect::<Vec<_>>());
                for node in holders.into_iter().take(HOLDERS) {
                    let message = Message::Hold(manifest);
                    self.wire.send(node, Envelope::seal(&self.chain, &*self.key, node, &message)?);
                }
                Ok(())
            }
            AskerEvent::Unreachable(node) => {
                self.wire.directory.remove(&node);
                self.step(now, Input::Node { node, up: false })
            }
            AskerEvent::Look(look) => {
                self.commit()?;
                look(self);
                Ok(())
            }
            AskerEvent::Nothing => Ok(()),
        }
    }

    fn envelope(&mut self, now: Millis, bytes: &[u8]) -> Result<()> {
        let (from, message) = match Envelope::open(&self.chain, self.id, bytes) {
            Ok(opened) => opened,
            Err(error) => {
                tracing::warn!("an envelope was not taken: {error}");
                return Ok(());
            }
        };
        match message {
            Message::Here { descriptor, address, beat, models } => {
                let place = (self.chain.as_str(), self.height);
                match self.nodes.here(now, place, from, &descriptor, address, beat) {
                    Ok(offer) => {
                        self.nodes.has_models(&from, models);
                        self.wire.directory.add(from, format!("http://{address}"));
                        self.step(now, Input::Offer { node: from, offer })?;
                        let peers = Message::Peers(self.nodes.others(from, self.requester.scheduler()));
                        self.wire.send(from, Envelope::seal(&self.chain, &*self.key, from, &peers)?);
                    }
                    Err(error) => tracing::warn!(?from, "a node was not let in: {error}"),
                }
                Ok(())
            }
            message => {
                let todo = self.requester.take(now, from, message);
                self.done(todo)
            }
        }
    }

    /// The models that can be asked now, by name.
    pub(super) fn models(&self) -> BTreeMap<String, ModelOffer> {
        self.nodes.models(self.requester.scheduler())
    }

    /// What a job asks of a model, and what that has room for.
    fn asked(&self, job: &Hash) -> Option<(BlobRef, u32)> {
        match self.requester.scheduler().work(job)? {
            // Of a model that has gone meanwhile nothing is known: its answer can be of no size.
            Work::Infer(work) => Some((work.ask, self.nodes.context(&work.model).unwrap_or(0))),
            _ => None,
        }
    }

    fn step(&mut self, now: Millis, input: Input) -> Result<()> {
        // Each step says anew when the next one is wanted.
        self.wake_at = Millis::MAX;
        let todo = self.requester.step(now, input);
        self.done(todo)
    }

    /// A node's fault is noted and passed over; one's own ends the requester.
    fn done(&mut self, todo: Result<Vec<requester::Todo>, RequesterError>) -> Result<()> {
        match todo {
            Ok(todo) => self.carry_out(todo),
            Err(error) if error.is_fatal() => Err(error.into()),
            Err(error) => {
                tracing::warn!("a node's envelope was not taken: {error}");
                Ok(())
            }
        }
    }

    fn carry_out(&mut self, todo: Vec<requester::Todo>) -> Result<()> {
        for next in todo {
            match next {
                requester::Todo::Send { to, envelope } => self.after.push(After::Send { to, envelope }),
                requester::Todo::Fetch { job, from, output } => {
                    let (wire, asked) = (self.wire.clone(), self.asked(&job));
                    self.tasks.spawn(async move {
                        let blobs: Vec<BlobRef> = output.blobs().filter(|blob| blob.len > 0).collect();
                        let complete = wire.fetch(from, &blobs).await
                            && match asked {
                                Some((ask, context)) => {
                                    let fits = fits(&wire, ask, context, &output).await;
                                    if let Err(problem) = &fits {
                                        tracing::warn!(node = %from.0, "an answer was not taken: {problem:#}");
                                    }
                                    fits.is_ok()
                                }
                                None => true,
                            };
                        AskerEvent::Fetched { job, from, complete }
                    });
                }
                requester::Todo::Check { job, task, claims } => {
                    let (wire, engines) = (self.wire.clone(), self.engines.clone());
                    self.tasks.spawn(async move {
                        let mut digest = None;
                        for claim in &claims {
                            let attempt = Attempt::new(Arc::new(wire.blobs.clone()));
                            let Ok(engine) = engines.get(task.work.kind()) else { break };
                            if matches!(engine.check(&task, claim, attempt).await, Ok(Verdict::Holds)) {
                                digest = Some(claim.digest());
                                break;
                            }
                        }
                        AskerEvent::Checked { job, digest }
                    });
                }
                requester::Todo::Frame { job, from, at, text } => {
                    if let Some(shown) = self.shown.get(&job) {
                        // What finds no place is in the result.
                        let _ = shown.try_send((from, at, text));
                    }
                }
                requester::Todo::Finished(report) => self.after.push(After::Finished(Box::new(report))),
                requester::Todo::WakeAt(at) => self.wake_at = at,
                other => bail!("the requester asks for what this host cannot do: {other:?}"),
            }
        }
        Ok(())
    }
}

/// Whether an output answers what a model was asked.
async fn fits(wire: &Wire, ask: BlobRef, context: u32, output: &Output) -> Result<()> {
    let ask = serde_json::from_slice::<Ask>(&wire.blobs.read_all(&ask).await?)?;
    let reply = serde_json::from_slice::<Reply>(&wire.blobs.read_all(&output.stdout).await?)?;
    reply.fits(&ask, context, output).map_err(anyhow::Error::msg)?;
    if let Some(file) = output.files.first() {
        let vectors = wire.blobs.read_all(&file.blob).await?;
        let numbers =
            vectors.chunks_exact(4).map(|number| f32::from_le_bytes(number.try_into().unwrap_or_default()));
        anyhow::ensure!(numbers.clone().all(f32::is_finite), "its vectors hold what is no number");
    }
    Ok(())
}

/// How a requester schedules, with these pools.
fn settings(pools: &[ProviderPool]) -> Settings {
    let mut settings = Settings::default();
    settings.placement.pools = pools.iter().map(|pool| pool.pool.clone()).collect();
    let machines =
        pools.iter().enumerate().flat_map(|(place, pool)| pool.machines.iter().map(move |id| (*id, place)));
    settings.machines = machines.collect();
    settings
}
