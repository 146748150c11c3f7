//! A requester: takes jobs, gives them to edge nodes, pays them. This is what others hold of it; the loop behind it is
//! [`asker`](super::asker).

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use axum::Router;
use serde_json::Value;
use theta_core::{amount::TFuelWei, hash::Hash, sign::SecretKey};
use theta_edge::{
    blob::{BlobRef, BlobStore},
    executor::Engines,
    identity::NodeId,
    job::{
        Folder, FolderFile, JobError, JobFile, JobSpec, Limits, MapFile, MergeFile, Placing, Quorum, Work,
    },
    placement::Pool,
    scheduler::{Report, State},
};
use theta_sdk::client::Client;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use super::{
    DiskBlobs, EVENTS, Funds,
    asker::{AskerEvent, AskerLoop, Done, Refused, Shown},
    book::{Ended, Spec},
    content::{
        hls::Source,
        publish::{Publications, Wish},
    },
    wire::Directory,
};
use crate::{
    connections::{Listener, listen},
    http::{local_only, own_host},
};

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

/// A job whose blobs are here.
#[derive(Clone, Debug)]
pub enum Order {
    /// Work that is no program's.
    Work {
        /// What people call it.
        name: String,
        /// What to do, over blobs that are here.
        work: Box<Work>,
        /// How much of everything one execution may use.
        limits: Limits,
        /// How results are believed.
        quorum: Quorum,
        /// The most that it may cost.
        cap: TFuelWei,
    },
    /// One program, once.
    Wasm {
        /// The job file.
        file: Box<JobFile>,
        /// The module.
        module: BlobRef,
        /// What it reads.
        stdin: Option<BlobRef>,
        /// Folders it may read.
        inputs: Vec<Folder>,
    },
    /// One program over the parts of an input.
    Map {
        /// The job file.
        file: Box<MapFile>,
        /// The mapper.
        module: BlobRef,
        /// The program that merges, where one does.
        reducer: Option<BlobRef>,
        /// The parts.
        chunks: Vec<BlobRef>,
        /// Folders that the mapper may read.
        inputs: Vec<Folder>,
    },
}

impl Order {
    /// The most that it may cost.
    pub(super) const fn cap(&self) -> TFuelWei {
        match self {
            Self::Work { cap, .. } => *cap,
            Self::Wasm { file, .. } => file.max_tfuel,
            Self::Map { file, .. } => file.job.max_tfuel,
        }
    }

    pub(super) fn name(&self) -> String {
        match self {
            Self::Work { name, .. } => name.clone(),
            Self::Wasm { file, .. } => file.module.clone(),
            Self::Map { file, .. } => file.job.module.clone(),
        }
    }

    /// The job that is paid from this pool.
    pub(super) fn spec(
        self,
        chain: &str,
        nonce: u64,
        pool: theta_edge::job::PoolRef,
    ) -> Result<Spec, JobError> {
        Ok(match self {
            Self::Work { work, limits, quorum, cap, .. } => {
                let chain_id = chain.to_owned();
                let (placing, total_cap) = (Placing::default(), cap);
                let spec = JobSpec { chain_id, nonce, work: *work, limits, quorum, total_cap, pool, placing };
                spec.check()?;
                Spec::Task(Box::new(spec))
            }
            Self::Wasm { file, module, stdin, inputs } => {
                Spec::Task(Box::new(file.spec(chain, nonce, pool, module, stdin, inputs)?))
            }
            Self::Map { file, module, reducer, chunks, inputs } => {
                Spec::Map(Box::new(file.spec(chain, nonce, pool, (module, reducer), chunks, inputs)?))
            }
        })
    }
}

/// Blobs that are here, by the path under which a job file names them.
pub(super) struct Files<'a> {
    pub(super) blobs: &'a DiskBlobs,
    pub(super) named: BTreeMap<String, BlobRef>,
}

impl Files<'_> {
    fn get(&self, field: &str, path: &str) -> Result<BlobRef, JobError> {
        let problem = "names a file that did not come with the job";
        self.named.get(path).copied().ok_or_else(|| JobError::Field { field: field.to_owned(), problem })
    }

    /// Everything below a folder.
    fn folders(&self, inputs: &BTreeMap<String, String>) -> Vec<Folder> {
        let folder = |(path, from): (&String, &String)| {
            let prefix = format!("{}/", from.trim_end_matches('/'));
            let files = self.named.iter().filter_map(|(name, blob)| {
                Some(FolderFile { path: name.strip_prefix(&prefix)?.to_owned(), blob: *blob })
            });
            Folder { path: path.clone(), files: files.collect() }
        };
        inputs.iter().map(folder).collect()
    }

    /// The order that a job file makes of them.
    pub(super) async fn order(&self, file: theta_edge::job::AnyFile) -> Result<Order> {
        use theta_edge::job::AnyFile;
        Ok(match file {
            AnyFile::Wasm(file) => Order::Wasm {
                module: self.get("module", &file.module)?,
                stdin: file.stdin.as_ref().map(|stdin| self.get("stdin", stdin)).transpose()?,
                inputs: self.folders(&file.inputs),
                file: Box::new(file),
            },
            AnyFile::Map(file) => {
                let input = self.get("input", &file.input)?;
                let reducer = match &file.merge {
                    MergeFile::Concat => None,
                    MergeFile::Reduce { module, .. } => Some(self.get("merge.module", module)?),
                };
                Order::Map {
                    module: self.get("module", &file.job.module)?,
                    reducer,
                    chunks: self.blobs.cut(input, file.split).await?,
                    inputs: self.folders(&file.job.inputs),
                    file: Box::new(file),
                }
            }
        })
    }
}

/// Machines that are contracted, which get work that the edge is too busy or too dear for (edge.md 3.7). They are edge
/// nodes like others, and are paid like others; only the order in which they are asked is another one.
#[derive(Clone, Debug)]
pub struct ProviderPool {
    /// What it costs and how quick it is.
    pub pool: Pool,
    /// Who its machines are.
    pub machines: Vec<NodeId>,
}

/// What a requester is made of.
pub struct JobClientConfig {
    /// Chain id as text.
    pub chain: String,
    /// The payer's key.
    pub key: SecretKey,
    /// Where its money comes from.
    pub funds: Funds,
    /// Folder of its journals and blobs.
    pub folder: PathBuf,
    /// Its access to the chain.
    pub client: Client,
    /// Where the chain answers `theta.*` calls, for pages.
    pub rpc: String,
    /// Where edge nodes are found; more may come by themselves.
    pub directory: Directory,
    /// Provider pools.
    pub pools: Vec<ProviderPool>,
    /// Judges where results differ.
    pub engines: Engines,
    /// Its port on the loopback address, 0 for a free one.
    pub port: u16,
    /// Whether it answers `/api/` there.
    pub api: bool,
}

impl std::fmt::Debug for JobClientConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JobClientConfig").field("folder", &self.folder).finish_non_exhaustive()
    }
}

/// A running requester. Dropping it stops it.
#[derive(Debug)]
pub struct JobClient {
    pub(super) jobs: Jobs,
    id: NodeId,
    listener: Listener,
    publications: Publications,
    task: JoinHandle<()>,
}

impl Drop for JobClient {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A running requester, for whoever asks it something. Clones are the same one.
#[derive(Clone, Debug)]
pub(super) struct Jobs {
    events: mpsc::Sender<AskerEvent>,
    pub(super) blobs: DiskBlobs,
}

impl JobClient {
    /// Opens the requester's folder and starts it with the nodes that the directory has.
    pub async fn start(config: JobClientConfig) -> Result<Self> {
        let (events, queue) = mpsc::channel(EVENTS);
        let (port, api) = (config.port, config.api);
        let mut asker = AskerLoop::open(config).await?;
        let (wire, id, publications) = (asker.wire.clone(), asker.id, asker.publications.clone());
        let jobs = Jobs { events: events.clone(), blobs: wire.blobs.clone() };
        let mut routes = wire.routes(id, events.clone(), AskerEvent::Envelope);
        let mut open = Router::new();
        if api {
            routes = routes.merge(super::api::routes(jobs.clone(), asker.publications.clone()));
            routes = routes.merge(super::openai::routes(jobs.clone()));
            open = open.merge(super::content::hls::routes(Source::Own(wire.blobs.clone())));
        }
        let listener = listen(port, own_host(local_only(routes).merge(open))).await?;
        asker.wire.on_lost(move |node| {
            // One that is missed is found out when the next envelope is lost.
            let _ = events.try_send(AskerEvent::Unreachable(node));
        });
        asker.begin()?;
        wire.directory.add(id, format!("http://{}", listener.address));
        let task = tokio::spawn(async move {
            if let Err(error) = asker.run(queue).await {
                tracing::error!("the requester stops: {error:#}");
            }
        });
        Ok(Self { jobs, id, listener, publications, task })
    }

    /// Its name, which is the account that pays.
    pub const fn id(&self) -> NodeId {
        self.id
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://{}", self.listener.address)
    }

    /// Runs a job and waits for its end. A job that fails is a report, not an error.
    pub async fn run(&self, job: Job) -> Result<Report> {
        let module = self.jobs.blobs.add(job.module).await?;
        let stdin = match job.stdin {
            Some(stdin) => Some(self.jobs.blobs.add(stdin).await?),
            None => None,
        };
        let order = Order::Wasm { file: Box::new(job.file), module, stdin, inputs: Vec::new() };
        let (ended, report) = oneshot::channel();
        self.jobs.submit(order, Some(ended)).await??;
        report.await.context("the requester has stopped")
    }

    /// Has edge nodes encode a clip and deliver it; gives its manifest's hash once it can be played.
    pub async fn publish(&self, clip: Vec<u8>, title: &str) -> Result<Hash> {
        let clip = self.jobs.blobs.add(clip).await?;
        let publications = &self.publications;
        let begun = publications.begin(&self.jobs, Wish::of(clip.hash, title), clip)?;
        let id = begun.context("another clip is being published")?;
        loop {
            let view = publications.get(&id).context("the publication is remembered")?;
            match view["state"].as_str() {
                Some("published") => {
                    let manifest = view["manifest"].as_str().context("a published clip has a manifest")?;
                    return Ok(manifest.parse()?);
                }
                Some("running") => tokio::time::sleep(Duration::from_millis(100)).await,
                _ => anyhow::bail!(
                    "the clip was not published: {}",
                    view["error"].as_str().unwrap_or_default()
                ),
            }
        }
    }

    /// Bytes of a result.
    pub async fn read(&self, blob: &BlobRef) -> Result<Vec<u8>> {
        Ok(self.jobs.blobs.read_all(blob).await?)
    }
}

impl Jobs {
    /// Hands a job over and gives its id once it is on record.
    pub(super) async fn submit(&self, order: Order, ended: Option<Done>) -> Result<Result<Hash, Refused>> {
        self.submit_watched(order, ended, None).await
    }

    /// The same, with somebody who is shown the text that it makes while it does.
    pub(super) async fn submit_watched(
        &self,
        order: Order,
        ended: Option<Done>,
        frames: Option<Shown>,
    ) -> Result<Result<Hash, Refused>> {
        let (taken, answer) = oneshot::channel();
        self.send(AskerEvent::Submit { order: Box::new(order), taken, ended, frames }).await?;
        answer.await.context("the requester has stopped")
    }

    async fn send(&self, event: AskerEvent) -> Result<()> {
        self.events.send(event).await.map_err(|_| anyhow::anyhow!("the requester has stopped"))
    }

    /// Has edge nodes keep a content and give it to others.
    pub(super) async fn hold(&self, manifest: BlobRef, first: Vec<NodeId>) {
        // Where the requester has stopped there is nobody to publish for.
        let _ = self.send(AskerEvent::Hold { manifest, first }).await;
    }

    /// Asks the loop something.
    pub(super) async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&AskerLoop) -> T + Send + 'static,
    ) -> Result<T> {
        let (answer, seen) = oneshot::channel();
        let look = Box::new(move |asker: &AskerLoop| drop(answer.send(look(asker))));
        self.send(AskerEvent::Look(look)).await?;
        seen.await.context("the requester has stopped")
    }

    /// Does not want a job any more; `None` where it is not known.
    pub(super) async fn cancel(&self, job: Hash) -> Result<Option<Value>> {
        let known = self.look(move |asker| asker.view(&job).is_some()).await?;
        if known {
            self.send(AskerEvent::Cancel(job)).await?;
        }
        self.look(move |asker| asker.view(&job)).await
    }
}

/// The report of a wasm job, as its end.
pub(super) fn ended(at: u64, report: &Report) -> Ended {
    let output = report.output.as_ref();
    Ended {
        at,
        state: report.state,
        error: report.error.clone(),
        stdout: output.map(|output| output.stdout),
        stderr: output.map(|output| output.stderr),
        files: output.map(|output| output.files.clone()).unwrap_or_default(),
        exit: report.exit_code(),
    }
}

/// The end of a job that came to nothing.
pub(super) const fn nothing(at: u64, state: State, error: Option<(String, String)>) -> Ended {
    Ended { at, state, error, stdout: None, stderr: None, files: Vec::new(), exit: None }
}
