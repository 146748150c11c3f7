//! Hosts edge work: an edge node's worker and till, a requester's scheduler and purse, each with its own loop, its own
//! folder, its own listener and its own access to the chain.
//!
//! Both sides speak HTTP: `POST /edge` takes a sealed envelope, `GET /blob/{hash}` gives bytes by their hash. Envelopes
//! may be lost; the machines on both sides time out and ask again.
//!
//! A loop waits for nothing but its next event. What takes time (engines, fetches, the chain) is a task in the loop's
//! set, and its answer is the task's result; dropping the loop drops the set, and with it every engine that runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::Write as _,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use async_trait::async_trait;
use axum::{
    Extension, Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, Path as UrlPath, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use parking_lot::RwLock;
use theta_core::{
    hash::{Address, Hash, keccak_parts},
    journal::FileDisk,
    sign::SecretKey,
};
use theta_edge::{
    Millis,
    blob::{BlobError, BlobHash, BlobRef, BlobStore},
    chain::{Chain, ChainError, Fund},
    executor::{Attempt, Executor, Output, RunError, Verdict},
    identity::NodeId,
    job::{JobFile, JobSpec},
    payment::{till::Till, watch::REPEAT_MS},
    provider::{self, Ask, Provider},
    requester::{self, Requester},
    scheduler::{Input, Report, Settings},
    worker,
};
use theta_sdk::{client::Client, wallet::minimum_fee};
use tokio::{
    io::AsyncReadExt as _,
    sync::{Semaphore, mpsc, oneshot},
    task::{AbortHandle, JoinHandle, JoinSet},
};

use crate::{
    clock::now_millis,
    http::{Listener, Slot, limited, listen},
};

/// An envelope is at most 4 MiB; the body limit leaves it some room.
const MAX_ENVELOPE: usize = 5 * 1024 * 1024;
/// Largest blob that is fetched.
const MAX_BLOB: u64 = 256 * 1024 * 1024;
/// Events that wait for one loop.
const EVENTS: usize = 128;
/// Requests from other nodes that are worked on at once; more wait.
const MAX_REQUESTS: usize = 64;
/// Longest time for one of them, and for one of one's own.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Envelopes that are being brought to others at once; more are lost.
const MAX_SENDS: usize = 128;
/// Receipts that are being looked at at once; more are lost, and come again.
const MAX_RECEIPTS: usize = 64;
/// Jobs that one requester has open at once.
const MAX_JOBS: usize = 256;
/// Bytes of a blob that are read at once to be sent.
const CHUNK: usize = 64 * 1024;
/// How often a node looks whether something is to be settled, and a requester whether a receipt is to be sent again.
const CLOSING: Duration = Duration::from_secs(1);

/// Where nodes are found. Clones are one directory.
#[derive(Clone, Debug, Default)]
pub struct Directory(Arc<RwLock<BTreeMap<NodeId, String>>>);

impl Directory {
    fn add(&self, node: NodeId, url: String) {
        self.0.write().insert(node, url);
    }

    /// Everybody but one.
    fn others(&self, me: NodeId) -> Vec<NodeId> {
        self.0.read().keys().filter(|node| **node != me).copied().collect()
    }

    fn url(&self, node: &NodeId) -> Option<String> {
        self.0.read().get(node).cloned()
    }
}

/// Blobs as files named by their hash.
#[derive(Clone, Debug)]
pub struct DiskBlobs(PathBuf);

impl DiskBlobs {
    /// Opens the folder, or makes it.
    pub fn open(folder: &Path) -> std::io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        Ok(Self(folder.to_owned()))
    }

    fn path(&self, blob: &BlobHash) -> PathBuf {
        self.0.join(hex::encode(blob.0))
    }
}

fn storage(error: std::io::Error) -> BlobError {
    BlobError::Storage(Box::new(error))
}

/// Puts bytes in place under a name that a reader never sees before they are whole and `synced`: what they hold may be
/// paid for as soon as this returns.
fn keep(
    folder: &Path,
    name: &Path,
    bytes: &[u8],
    synced: fn(&File) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let mut fresh = tempfile::NamedTempFile::new_in(folder)?;
    fresh.write_all(bytes)?;
    synced(fresh.as_file())?;
    fresh.persist(name)?;
    synced(&File::open(folder)?)
}

#[async_trait]
impl BlobStore for DiskBlobs {
    async fn add(&self, bytes: Vec<u8>) -> Result<BlobRef, BlobError> {
        let blob = BlobRef::of(&bytes);
        let path = self.path(&blob.hash);
        if !path.exists() {
            let folder = self.0.clone();
            let written = tokio::task::spawn_blocking(move || keep(&folder, &path, &bytes, File::sync_all));
            written.await.map_err(std::io::Error::other).and_then(|done| done).map_err(storage)?;
        }
        Ok(blob)
    }

    async fn read(&self, blob: BlobHash, range: Range<u64>) -> Result<Vec<u8>, BlobError> {
        let bytes = match tokio::fs::read(self.path(&blob)).await {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(BlobError::Missing(blob));
            }
            Err(error) => return Err(storage(error)),
        };
        let (Ok(start), Ok(end)) = (usize::try_from(range.start), usize::try_from(range.end)) else {
            return Err(BlobError::Range(blob));
        };
        bytes.get(start..end).map(<[u8]>::to_vec).ok_or(BlobError::Range(blob))
    }

    async fn has(&self, blob: BlobHash) -> bool {
        self.path(&blob).exists()
    }
}

/// One side's connections: its blobs, the directory, an HTTP client.
#[derive(Clone)]
struct Wire {
    blobs: DiskBlobs,
    directory: Directory,
    http: reqwest::Client,
    sends: Arc<Semaphore>,
}

impl Wire {
    fn new(folder: &Path, directory: Directory) -> Result<Self> {
        let http = reqwest::Client::builder().timeout(TIMEOUT).no_proxy().build()?;
        let blobs = DiskBlobs::open(&folder.join("blobs"))?;
        Ok(Self { blobs, directory, http, sends: Arc::new(Semaphore::new(MAX_SENDS)) })
    }

    /// Brings an envelope to a node in the background. It may be lost.
    fn send(&self, to: NodeId, envelope: Vec<u8>) {
        let Some(url) = self.directory.url(&to) else { return };
        let Ok(slot) = self.sends.clone().try_acquire_owned() else {
            tracing::debug!(?to, "an envelope was lost: too many are on their way");
            return;
        };
        let request = self.http.post(format!("{url}/edge")).body(envelope);
        tokio::spawn(async move {
            let _slot = slot;
            if let Err(error) = request.send().await {
                tracing::debug!(?to, %error, "an envelope was lost");
            }
        });
    }

    /// Fetches blobs that are not here; whether all are now.
    async fn fetch(&self, from: NodeId, blobs: &[BlobRef]) -> bool {
        let Some(url) = self.directory.url(&from) else { return false };
        for blob in blobs {
            if !self.blobs.has(blob.hash).await && self.fetch_one(&url, blob).await.is_err() {
                return false;
            }
        }
        true
    }

    async fn fetch_one(&self, url: &str, blob: &BlobRef) -> Result<()> {
        if blob.len > MAX_BLOB {
            bail!("a blob of {} bytes is too large", blob.len);
        }
        let url = format!("{url}/blob/{}", hex::encode(blob.hash.0));
        let mut response = self.http.get(url).send().await?.error_for_status()?;
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > blob.len {
                bail!("more bytes came than the blob has");
            }
        }
        if BlobRef::of(&bytes) != *blob {
            bail!("other bytes came than the blob's");
        }
        self.blobs.add(bytes).await?;
        Ok(())
    }

    async fn serve<E: Send + 'static>(
        &self,
        port: u16,
        events: mpsc::Sender<E>,
        envelope: fn(Vec<u8>) -> E,
    ) -> Result<Listener> {
        let state = Served { blobs: self.blobs.clone(), events, envelope };
        let routes = Router::new()
            .route("/edge", post(take_envelope::<E>))
            .route("/blob/{hash}", get(give_blob::<E>))
            .layer(DefaultBodyLimit::max(MAX_ENVELOPE))
            .with_state(state);
        listen(port, limited(routes, MAX_REQUESTS, TIMEOUT)).await
    }
}

struct Served<E> {
    blobs: DiskBlobs,
    events: mpsc::Sender<E>,
    envelope: fn(Vec<u8>) -> E,
}

impl<E> Clone for Served<E> {
    fn clone(&self) -> Self {
        Self { blobs: self.blobs.clone(), events: self.events.clone(), envelope: self.envelope }
    }
}

async fn take_envelope<E: Send + 'static>(State(served): State<Served<E>>, body: Bytes) -> StatusCode {
    match served.events.try_send((served.envelope)(body.to_vec())) {
        Ok(()) => StatusCode::NO_CONTENT,
        Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

async fn give_blob<E: Send + 'static>(
    State(served): State<Served<E>>,
    Extension(slot): Extension<Slot>,
    UrlPath(hash): UrlPath<String>,
) -> Response {
    let Ok(hash) = format!("0x{hash}").parse::<Hash>() else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let opened = async {
        let file = tokio::fs::File::open(served.blobs.path(&BlobHash(hash))).await?;
        let len = file.metadata().await?.len();
        Ok::<_, std::io::Error>((file, len))
    };
    let Ok((mut file, len)) = opened.await else { return StatusCode::NOT_FOUND.into_response() };
    let (chunks, body) = mpsc::channel::<std::io::Result<Vec<u8>>>(1);
    tokio::spawn(async move {
        // The request is worked on until its last byte is handed over, or its time is over.
        let _slot = slot;
        let read = async {
            loop {
                let mut chunk = Vec::with_capacity(CHUNK);
                let got = (&mut file).take(CHUNK as u64).read_to_end(&mut chunk).await.map(|_| chunk);
                let last = got.as_ref().map_or(true, Vec::is_empty);
                if chunks.send(got).await.is_err() || last {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(TIMEOUT, read).await;
    });
    let body = futures::stream::unfold(body, |mut body| async { Some((body.recv().await?, body)) });
    ([(header::CONTENT_LENGTH, len)], Body::from_stream(body)).into_response()
}

fn disk(folder: &Path, name: &str) -> Result<FileDisk> {
    let path = folder.join(name);
    FileDisk::open(&path).with_context(|| path.display().to_string())
}

/// What an edge node is made of.
pub struct EdgeConfig {
    /// Chain id as text.
    pub chain: String,
    /// The node's key, which is also where it is paid.
    pub key: SecretKey,
    /// Folder of its till and blobs.
    pub folder: PathBuf,
    /// Its access to the chain.
    pub client: Client,
    /// Where other nodes are found.
    pub directory: Directory,
    /// Who runs tasks.
    pub engine: Arc<dyn Executor>,
    /// Its port on the loopback address, 0 for a free one.
    pub port: u16,
    /// Settles every claim above the fee at once; else those worth a hundred fees.
    pub settle_at_once: bool,
}

impl std::fmt::Debug for EdgeConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EdgeConfig").field("folder", &self.folder).finish_non_exhaustive()
    }
}

enum NodeEvent {
    Envelope(Vec<u8>),
    Ran {
        task: Hash,
        result: Result<Output, RunError>,
    },
    LookedUp {
        ask: Box<Ask>,
        seen: Result<(Option<Fund>, u64), ChainError>,
    },
    Seen {
        height: u64,
        funds: Vec<Fund>,
    },
    /// A payer has signed away more than its fund holds; the node's next sequence is known.
    Punish {
        payer: Address,
        reserve_sequence: u64,
        sequence: u64,
    },
    /// Others may have missed what was said.
    Repeat,
    /// A task ended that has nothing to tell.
    Nothing,
}

/// A running edge node. Dropping it stops it.
#[derive(Debug)]
pub struct EdgeNode {
    /// Its name, and where it is paid.
    pub id: NodeId,
    /// Where it listens.
    pub listener: Listener,
    task: JoinHandle<()>,
}

impl Drop for EdgeNode {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct EdgeLoop {
    id: NodeId,
    provider: Provider,
    wire: Wire,
    client: Client,
    engine: Arc<dyn Executor>,
    tasks: JoinSet<NodeEvent>,
    running: BTreeMap<Hash, AbortHandle>,
    /// Places for receipts that are being looked at.
    receipts: Arc<Semaphore>,
    /// The look at the chain, or the claims that follow from it.
    closing: Option<AbortHandle>,
    /// Funds whose payers were handed in as overspenders.
    punished: BTreeSet<(Address, u64)>,
    settle_at_once: bool,
}

impl EdgeNode {
    /// Opens the node's folder and starts it.
    pub async fn start(config: EdgeConfig) -> Result<Self> {
        std::fs::create_dir_all(&config.folder).with_context(|| config.folder.display().to_string())?;
        // Binds results to this node; whoever knew it could copy another node's claim.
        let secret = keccak_parts(&[b"theta edge results", &*config.key.to_bytes()]).0;
        let key: Arc<SecretKey> = Arc::new(config.key);
        let id = NodeId(key.address());
        let till = Till::open(&config.chain, key.clone(), disk(&config.folder, "till.journal")?)?;
        let provider = Provider::new(&config.chain, key, worker::Settings::default(), secret, till);
        let wire = Wire::new(&config.folder, config.directory)?;
        let (events, queue) = mpsc::channel(EVENTS);
        let listener = wire.serve(config.port, events, NodeEvent::Envelope).await?;
        wire.directory.add(id, format!("http://{}", listener.address));
        let edge = EdgeLoop {
            id,
            provider,
            wire,
            client: config.client,
            engine: config.engine,
            tasks: JoinSet::new(),
            running: BTreeMap::new(),
            receipts: Arc::new(Semaphore::new(MAX_RECEIPTS)),
            closing: None,
            punished: BTreeSet::new(),
            settle_at_once: config.settle_at_once,
        };
        let task = tokio::spawn(async move {
            if let Err(error) = edge.run(queue).await {
                tracing::error!(?id, "an edge node stops: {error:#}");
            }
        });
        Ok(Self { id, listener, task })
    }
}

impl EdgeLoop {
    async fn run(mut self, mut queue: mpsc::Receiver<NodeEvent>) -> Result<()> {
        let mut closing = tokio::time::interval(CLOSING);
        let mut repeating = tokio::time::interval(Duration::from_millis(REPEAT_MS));
        repeating.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let event = tokio::select! {
                _ = repeating.tick() => NodeEvent::Repeat,
                event = queue.recv() => match event {
                    None => return Ok(()),
                    Some(event) => event,
                },
                Some(done) = self.tasks.join_next() => match done {
                    Ok(event) => event,
                    Err(error) => match self.running.iter().find(|(_, run)| run.id() == error.id()) {
                        Some((task, _)) => {
                            let result = Err(RunError::Lost("its engine panicked".to_owned()));
                            NodeEvent::Ran { task: *task, result }
                        }
                        // It was stopped.
                        None => NodeEvent::Nothing,
                    },
                },
                _ = closing.tick() => {
                    self.look_around();
                    NodeEvent::Nothing
                }
            };
            let todo = self.take(event)?;
            self.carry_out(todo)?;
        }
    }

    fn take(&mut self, event: NodeEvent) -> Result<Vec<provider::Todo>> {
        let now = now_millis();
        match event {
            NodeEvent::Envelope(bytes) => own_fault(self.provider.receive(now, &bytes)),
            NodeEvent::Ran { task, result } => {
                self.running.remove(&task);
                own_fault(self.provider.ran(now, task, result))
            }
            NodeEvent::LookedUp { ask, seen: Ok((fund, height)) } => {
                own_fault(self.provider.looked_up(now, *ask, fund.as_ref(), height))
            }
            NodeEvent::LookedUp { ask, seen: Err(error) } => {
                tracing::warn!(%error, "a fund could not be looked up");
                match *ask {
                    // Nothing is promised without an answer, and the place is free for another offer.
                    ask @ Ask::Vet { .. } => own_fault(self.provider.looked_up(now, ask, None, 0)),
                    // The requester sends the payment again.
                    _ => Ok(Vec::new()),
                }
            }
            NodeEvent::Seen { height, funds } => {
                self.settle(height, &funds)?;
                Ok(Vec::new())
            }
            NodeEvent::Repeat => own_fault(self.provider.repeat(now)),
            NodeEvent::Punish { payer, reserve_sequence, sequence } => {
                self.punish(payer, reserve_sequence, sequence)?;
                Ok(Vec::new())
            }
            NodeEvent::Nothing => Ok(Vec::new()),
        }
    }

    /// Hands the proof against an overspender in. Where receipts alone prove nothing yet, the next one that is shown may.
    fn punish(&mut self, payer: Address, reserve_sequence: u64, sequence: u64) -> Result<()> {
        let Some(raw) = self.provider.slash(payer, reserve_sequence, &[], sequence)? else { return Ok(()) };
        self.punished.insert((payer, reserve_sequence));
        let client = self.client.clone();
        self.tasks.spawn(async move {
            match client.submit(raw.bytes).await {
                Ok(hash) => tracing::warn!(%payer, %hash, "an overspender was handed in"),
                Err(error) => {
                    tracing::warn!(%payer, %error, "the proof against an overspender was not taken")
                }
            }
            NodeEvent::Nothing
        });
        Ok(())
    }

    fn carry_out(&mut self, todo: Vec<provider::Todo>) -> Result<()> {
        for next in todo {
            match next {
                provider::Todo::Send { to, envelope } => self.wire.send(to, envelope),
                provider::Todo::LookUp(ask) => self.look_up(ask),
                provider::Todo::Run { requester, task } => {
                    let (wire, engine, id) = (self.wire.clone(), self.engine.clone(), task.id());
                    let run = self.tasks.spawn(async move {
                        let result = if wire.fetch(requester, &task.work.blobs()).await {
                            engine.run(&task, Attempt { blobs: Arc::new(wire.blobs.clone()) }).await
                        } else {
                            Err(RunError::Lost("its inputs could not be fetched".to_owned()))
                        };
                        NodeEvent::Ran { task: id, result }
                    });
                    self.running.insert(id, run);
                }
                provider::Todo::Stop { task } => {
                    // Dropping the run kills its child process.
                    if let Some(run) = self.running.remove(&task) {
                        run.abort();
                    }
                }
                provider::Todo::Tell(message) => {
                    // Any of them may be paid from the same fund; who is not passes it over.
                    for to in self.wire.directory.others(self.id) {
                        self.wire.send(to, self.provider.envelope(to, &message)?);
                    }
                }
                provider::Todo::Overspent { payer, reserve_sequence } => {
                    if self.punished.contains(&(payer, reserve_sequence)) {
                        continue;
                    }
                    let (client, me) = (self.client.clone(), self.id.0);
                    self.tasks.spawn(async move {
                        // A node that has no account yet begins with the first sequence.
                        let account = client.account(me).await.ok().flatten();
                        let sequence = account.map_or(0, |account| account.sequence.0) + 1;
                        NodeEvent::Punish { payer, reserve_sequence, sequence }
                    });
                }
                other => bail!("the edge node asks for what this host cannot do: {other:?}"),
            }
        }
        Ok(())
    }

    fn look_up(&mut self, ask: Ask) {
        let place = match &ask {
            // Its place at the worker bounds it.
            Ask::Vet { .. } => None,
            _ => match self.receipts.clone().try_acquire_owned() {
                Ok(place) => Some(place),
                Err(_) => {
                    tracing::debug!("a receipt was lost: too many are being looked at");
                    return;
                }
            },
        };
        let (client, (payer, sequence)) = (self.client.clone(), ask.fund());
        self.tasks.spawn(async move {
            let _place = place;
            let seen = async { Ok((client.fund(payer, sequence).await?, client.height().await?)) };
            NodeEvent::LookedUp { seen: seen.await, ask: Box::new(ask) }
        });
    }

    /// Looks at the funds that owe something, unless the last look or its claims are still on their way.
    fn look_around(&mut self) {
        if self.closing.as_ref().is_some_and(|closing| !closing.is_finished()) {
            return;
        }
        let owing = self.provider.till().book().filter(|(_, _, claimed, _)| !claimed.is_zero());
        let owing: Vec<_> = owing.map(|(payer, sequence, ..)| (payer, sequence)).collect();
        let client = self.client.clone();
        self.closing = Some(self.tasks.spawn(async move {
            // The height comes first: what settled by then is seen in every fund.
            let Ok(height) = client.height().await else { return NodeEvent::Nothing };
            let mut funds = Vec::new();
            for (payer, sequence) in owing {
                // One that cannot be seen now is left for the next look.
                funds.extend(client.fund(payer, sequence).await.ok().flatten());
            }
            NodeEvent::Seen { height, funds }
        }));
    }

    fn settle(&mut self, height: u64, funds: &[Fund]) -> Result<()> {
        for fund in funds {
            self.provider.observe(fund)?;
        }
        self.provider.forget_ended(height)?;
        let fee = minimum_fee();
        let mut claims = Vec::new();
        for due in self.provider.due(height, fee, self.settle_at_once) {
            let of_due =
                |fund: &&Fund| (fund.payer, fund.reserve_sequence) == (due.payer, due.reserve_sequence);
            let Some(fund) = funds.iter().find(of_due) else { continue };
            match self.provider.settle(&due, fund, fee, height) {
                Ok(raw) => claims.push(raw.bytes),
                Err(error) => tracing::warn!(%error, "a claim cannot be settled"),
            }
        }
        if claims.is_empty() {
            return Ok(());
        }
        let client = self.client.clone();
        self.closing = Some(self.tasks.spawn(async move {
            for claim in claims {
                // Not waited for: the till looks for it on the chain, and hands it in again if it is not there.
                if let Err(error) = client.submit(claim).await {
                    tracing::warn!(%error, "a claim was not taken; it is tried again");
                }
            }
            NodeEvent::Nothing
        }));
        Ok(())
    }
}

/// A peer's fault is noted and passed over; one's own ends the node.
fn own_fault(todo: Result<Vec<provider::Todo>, provider::ProviderError>) -> Result<Vec<provider::Todo>> {
    match todo {
        Ok(todo) => Ok(todo),
        Err(error) if error.is_own_fault() => Err(error.into()),
        Err(error) => {
            tracing::warn!("a peer's envelope was not taken: {error}");
            Ok(Vec::new())
        }
    }
}

enum AskerEvent {
    Envelope(Vec<u8>),
    Fetched { job: Hash, from: NodeId, complete: bool },
    Checked { job: Hash, digest: Option<Hash> },
    Submit { file: Box<JobFile>, module: BlobRef, stdin: Option<BlobRef>, done: Done },
    Seen(Option<Fund>),
}

type Done = oneshot::Sender<Result<Report>>;

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

struct AskerLoop {
    requester: Requester,
    chain: String,
    wire: Wire,
    engine: Arc<dyn Executor>,
    client: Client,
    fund: (theta_core::hash::Address, u64),
    tasks: JoinSet<AskerEvent>,
    /// The look at the fund.
    looking: Option<AbortHandle>,
    waiting: BTreeMap<Hash, Done>,
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
    async fn open(config: JobClientConfig) -> Result<(Self, Vec<requester::Todo>)> {
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

    fn take(
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

#[cfg(test)]
mod tests;
