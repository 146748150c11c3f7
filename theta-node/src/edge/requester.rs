//! A requester: scheduler and purse of one key, with what they need.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use theta_core::{
    hash::{Address, Hash},
    sign::SecretKey,
};
use theta_edge::{
    Millis,
    blob::{BlobRef, BlobStore},
    chain::{Chain, Fund},
    executor::{Attempt, Executor, Verdict},
    identity::NodeId,
    job::{JobFile, JobSpec},
    requester::{self, Requester},
    scheduler::{Input, Report, Settings},
};
use theta_sdk::client::Client;
use tokio::{
    sync::{mpsc, oneshot},
    task::{AbortHandle, JoinHandle, JoinSet},
};

use super::{
    CLOSING, DiskBlobs, EVENTS, disk,
    wire::{Directory, Wire},
};
use crate::{clock::now_millis, http::Listener};

/// Jobs that one requester has open at once.
pub(super) const MAX_JOBS: usize = 256;

pub(super) enum AskerEvent {
    Envelope(Vec<u8>),
    Fetched { job: Hash, from: NodeId, complete: bool },
    Checked { job: Hash, digest: Option<Hash> },
    Submit { file: Box<JobFile>, module: BlobRef, stdin: Option<BlobRef>, done: Done },
    Seen(Option<Fund>),
}

pub(super) type Done = oneshot::Sender<Result<Report>>;

/// A job with the bytes of what its file names.
#[derive(Clone, Debug)]
pub struct Job {
    /// The job file.
    pub file: JobFile,
    /// The module.
    pub module: Vec<u8>,
    /// What the program reads.
    pub stdin: Option<Vec<u8>>,
}

/// A running requester. Dropping it stops it.
#[derive(Debug)]
pub struct JobClient {
    events: mpsc::Sender<AskerEvent>,
    blobs: DiskBlobs,
    _listener: Listener,
    task: JoinHandle<()>,
}

impl Drop for JobClient {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(super) struct AskerLoop {
    requester: Requester,
    chain: String,
    wire: Wire,
    engine: Arc<dyn Executor>,
    client: Client,
    fund: (Address, u64),
    tasks: JoinSet<AskerEvent>,
    /// The look at the fund.
    looking: Option<AbortHandle>,
    pub(super) waiting: BTreeMap<Hash, Done>,
    /// Of the newest job.
    nonce: u64,
    wake_at: u64,
}

/// What a requester is made of.
pub struct JobClientConfig {
    /// Chain id as text.
    pub chain: String,
    /// The payer's key.
    pub key: SecretKey,
    /// Sequence of the payer's reserved fund, which has to be fresh.
    pub reserve_sequence: u64,
    /// Folder of its journals and blobs.
    pub folder: PathBuf,
    /// Its access to the chain.
    pub client: Client,
    /// Where edge nodes are found.
    pub directory: Directory,
    /// Judges where results differ.
    pub engine: Arc<dyn Executor>,
}

impl std::fmt::Debug for JobClientConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JobClientConfig").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl JobClient {
    /// Opens the requester's folder and starts it with the nodes that the directory has.
    pub async fn start(config: JobClientConfig) -> Result<Self> {
        let (events, queue) = mpsc::channel(EVENTS);
        let (mut asker, todo) = AskerLoop::open(config).await?;
        let (blobs, directory) = (asker.wire.blobs.clone(), asker.wire.directory.clone());
        let listener = asker.wire.serve(0, events.clone(), AskerEvent::Envelope).await?;
        let nodes: Vec<NodeId> = directory.0.read().keys().copied().collect();
        directory.add(NodeId(asker.fund.0), format!("http://{}", listener.address));
        asker.carry_out(todo)?;
        for node in nodes {
            let todo = asker.requester.step(now_millis(), Input::Node { node, up: true })?;
            asker.carry_out(todo)?;
        }
        let task = tokio::spawn(async move {
            if let Err(error) = asker.run(queue).await {
                tracing::error!("the requester stops: {error:#}");
            }
        });
        Ok(Self { events, blobs, _listener: listener, task })
    }

    /// Runs a job and waits for its end. A job that fails is a report, not an error.
    pub async fn run(&self, job: Job) -> Result<Report> {
        let module = self.blobs.add(job.module).await?;
        let stdin = match job.stdin {
            Some(stdin) => Some(self.blobs.add(stdin).await?),
            None => None,
        };
        let (done, report) = oneshot::channel();
        self.events
            .send(AskerEvent::Submit { file: Box::new(job.file), module, stdin, done })
            .await
            .map_err(|_| anyhow::anyhow!("the requester has stopped"))?;
        report.await.context("the requester has stopped")?
    }

    /// Bytes of a result.
    pub async fn read(&self, blob: &BlobRef) -> Result<Vec<u8>> {
        Ok(self.blobs.read_all(blob).await?)
    }
}

impl AskerLoop {
    /// The loop of a folder, and what there is to do at once.
    pub(super) async fn open(config: JobClientConfig) -> Result<(Self, Vec<requester::Todo>)> {
        std::fs::create_dir_all(&config.folder).with_context(|| config.folder.display().to_string())?;
        let key: Arc<SecretKey> = Arc::new(config.key);
        let fund = (key.address(), config.reserve_sequence);
        let (mut requester, todo) = Requester::open(
            &config.chain,
            key,
            Settings::default(),
            disk(&config.folder, "jobs.journal")?,
            disk(&config.folder, "purse.journal")?,
            now_millis(),
        )?;
        let seen = config.client.fund(fund.0, fund.1).await?.context("the payer has no such fund")?;
        requester.adopt(&seen)?;
        let asker = Self {
            requester,
            chain: config.chain,
            wire: Wire::new(&config.folder, config.directory)?,
            engine: config.engine,
            client: config.client,
            fund,
            tasks: JoinSet::new(),
            looking: None,
            waiting: BTreeMap::new(),
            nonce: 0,
            wake_at: u64::MAX,
        };
        Ok((asker, todo))
    }

    async fn run(mut self, mut queue: mpsc::Receiver<AskerEvent>) -> Result<()> {
        let mut reminder = tokio::time::interval(CLOSING);
        loop {
            let sleep = Duration::from_millis(self.wake_at.saturating_sub(now_millis()).min(60_000));
            let todo = tokio::select! {
                event = queue.recv() => match event {
                    None => return Ok(()),
                    Some(event) => self.take(now_millis(), event),
                },
                Some(done) = self.tasks.join_next() => match done {
                    Ok(event) => self.take(now_millis(), event),
                    Err(error) => {
                        // The scheduler's time limit speaks for it.
                        tracing::error!(%error, "a task of the requester ended without an answer");
                        continue;
                    }
                },
                () = tokio::time::sleep(sleep) => {
                    if now_millis() < self.wake_at {
                        continue;
                    }
                    self.wake_at = u64::MAX;
                    self.requester.step(now_millis(), Input::Tick)
                }
                _ = reminder.tick() => {
                    self.look_around();
                    continue;
                }
            };
            match todo {
                Ok(todo) => self.carry_out(todo)?,
                Err(error) if error.is_fatal() => return Err(error.into()),
                Err(error) => tracing::warn!("a node's envelope was not taken: {error}"),
            }
        }
    }

    pub(super) fn take(
        &mut self,
        now: Millis,
        event: AskerEvent,
    ) -> Result<Vec<requester::Todo>, requester::RequesterError> {
        match event {
            AskerEvent::Envelope(bytes) => self.requester.receive(now, &bytes),
            AskerEvent::Fetched { job, from, complete } => {
                self.requester.step(now, Input::Fetched { job, from, complete })
            }
            AskerEvent::Checked { job, digest } => self.requester.step(now, Input::Checked { job, digest }),
            AskerEvent::Seen(fund) => {
                let mut todo = match fund {
                    Some(fund) => self.requester.observe(&fund)?,
                    None => Vec::new(),
                };
                todo.extend(self.requester.remind()?);
                Ok(todo)
            }
            AskerEvent::Submit { file, module, stdin, done } => {
                // A job that cannot be taken is its caller's matter alone.
                let spec = match self.spec(now, &file, module, stdin) {
                    Ok(spec) => spec,
                    Err(error) => {
                        let _ = done.send(Err(error));
                        return Ok(Vec::new());
                    }
                };
                let id = spec.id();
                match self.requester.submit(now, spec) {
                    Err(error) if !error.is_fatal() => {
                        let _ = done.send(Err(error.into()));
                        Ok(Vec::new())
                    }
                    submitted => {
                        self.waiting.insert(id, done);
                        submitted
                    }
                }
            }
        }
    }

    fn spec(
        &mut self,
        now: Millis,
        file: &JobFile,
        module: BlobRef,
        stdin: Option<BlobRef>,
    ) -> Result<JobSpec> {
        ensure!(self.waiting.len() < MAX_JOBS, "{MAX_JOBS} jobs are open; wait until one has ended");
        let pool = self.requester.pool().context("no fund was adopted")?;
        // Equal jobs of one millisecond are two jobs all the same.
        self.nonce = now.max(self.nonce.saturating_add(1));
        Ok(file.spec(&self.chain, self.nonce, pool, module, stdin, Vec::new())?)
    }

    /// Looks at the fund, unless the last look is still on its way.
    fn look_around(&mut self) {
        if self.looking.as_ref().is_some_and(|looking| !looking.is_finished()) {
            return;
        }
        let (client, fund) = (self.client.clone(), self.fund);
        self.looking = Some(
            self.tasks
                .spawn(async move { AskerEvent::Seen(client.fund(fund.0, fund.1).await.ok().flatten()) }),
        );
    }

    fn carry_out(&mut self, todo: Vec<requester::Todo>) -> Result<()> {
        for next in todo {
            match next {
                requester::Todo::Send { to, envelope } => self.wire.send(to, envelope),
                requester::Todo::Fetch { job, from, blobs } => {
                    let wire = self.wire.clone();
                    self.tasks.spawn(async move {
                        let complete = wire.fetch(from, &blobs).await;
                        AskerEvent::Fetched { job, from, complete }
                    });
                }
                requester::Todo::Check { job, task, claims } => {
                    let (wire, engine) = (self.wire.clone(), self.engine.clone());
                    self.tasks.spawn(async move {
                        let mut digest = None;
                        for claim in &claims {
                            let attempt = Attempt { blobs: Arc::new(wire.blobs.clone()) };
                            if matches!(engine.check(&task, claim, attempt).await, Ok(Verdict::Holds)) {
                                digest = Some(claim.digest());
                                break;
                            }
                        }
                        AskerEvent::Checked { job, digest }
                    });
                }
                requester::Todo::Finished(report) => {
                    if let Some(done) = self.waiting.remove(&report.job) {
                        // Whoever asked may be gone; the journal has the report.
                        let _ = done.send(Ok(report));
                    }
                }
                requester::Todo::WakeAt(at) => self.wake_at = at,
                other => bail!("the requester asks for what this host cannot do: {other:?}"),
            }
        }
        Ok(())
    }
}
