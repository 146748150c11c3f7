//! A clip becomes content: prepared, encoded in groups of segments on edge nodes, put together as a manifest.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use theta_core::{
    amount::TFuelWei,
    hash::{Address, Hash},
};
use theta_edge::{
    blob::{BlobHash, BlobRef, BlobStore as _},
    content::manifest::{Manifest, Rendition, SOUND, Segment},
    executor::OutFile,
    identity::NodeId,
    job::{JobError, Limits, Quorum, Work},
    placement::Refusal,
    scheduler::{Report, State},
    transcode::{COPY, Clip, FACTS, Grid, Rung, SOURCE, Step, TranscodeWork, ladder},
};
use tokio::sync::oneshot;

use crate::{
    clock::now_millis,
    edge::{
        DiskBlobs,
        asker::Refused,
        requester::{Jobs, Order},
    },
    folder::write_durably,
};

/// Tasks of one clip that are given out at once.
const AT_ONCE: usize = 8;
/// Bits of sound in a second.
const SOUND_BITS: u32 = 128_000;
/// Publications that are remembered.
const REMEMBERED: usize = 4_096;
/// Those that are being worked on.
const MAX_OPEN: usize = 4;
/// Time for one task, and for each million units of its work: forty times what a core takes for small pictures.
const TASK_SECONDS: (u64, u64) = (60, 1);
/// How long a task waits to be taken, and how often it is tried.
const MAX_WAIT: Duration = Duration::from_secs(1_800);
const RETRY: Duration = Duration::from_millis(500);
/// Pictures' codec: main profile, level 4.0.
const H264: &str = "avc1.4d4028";
/// The source's may be of any profile that browsers have.
const H264_ANY: &str = "avc1.640028";
const AAC: &str = "mp4a.40.2";

/// What is asked of a publication.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::edge) struct Wish {
    /// The clip, which was put here before.
    pub(in crate::edge) blob: BlobHash,
    #[serde(default)]
    pub(in crate::edge) title: String,
    /// Names of rungs; the three highest that fit when missing.
    #[serde(default)]
    pub(in crate::edge) ladder: Vec<String>,
    #[serde(default = "default_seconds")]
    pub(in crate::edge) segment_seconds: f64,
    /// Equal results that each task needs.
    #[serde(default = "default_quorum")]
    pub(in crate::edge) quorum: u8,
    /// The most that one task may cost.
    #[serde(default)]
    pub(in crate::edge) max_tfuel_per_task: Option<String>,
}

impl Wish {
    /// A clip as it comes, everything else by default.
    pub(in crate::edge) fn of(blob: BlobHash, title: &str) -> Self {
        Self {
            blob,
            title: title.to_owned(),
            ladder: Vec::new(),
            segment_seconds: default_seconds(),
            quorum: default_quorum(),
            max_tfuel_per_task: None,
        }
    }
}

const fn default_seconds() -> f64 {
    2.0
}

const fn default_quorum() -> u8 {
    1
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Stage {
    Running,
    Published,
    Failed,
}

/// Where a publication stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::edge) struct Publication {
    id: Hash,
    title: String,
    state: Stage,
    error: Option<String>,
    at: u64,
    tasks: usize,
    tasks_done: usize,
    paid_tfuel_wei: TFuelWei,
    /// Tasks by who was paid for them.
    #[serde(serialize_with = "checksums")]
    #[serde(default)]
    nodes: BTreeMap<Address, u32>,
    manifest: Option<Hash>,
    ms: u64,
    renditions: Vec<String>,
    /// Of a published one: its manifest and its segments.
    #[serde(skip)]
    blobs: Vec<BlobHash>,
}

fn checksums<S: serde::Serializer>(nodes: &BTreeMap<Address, u32>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(nodes.iter().map(|(node, tasks)| (node.to_checksum(None), tasks)))
}

/// Publications of a gateway. Clones are one gateway's.
#[derive(Clone, Debug)]
pub(in crate::edge) struct Publications {
    all: Arc<Mutex<BTreeMap<u64, Publication>>>,
    /// A file for each that is published, so that a restart forgets none.
    folder: Arc<Path>,
}

impl Publications {
    /// Those that were published before, as far as their blobs are here.
    pub(in crate::edge) fn open(folder: &Path, blobs: &DiskBlobs) -> Result<Self> {
        let folder = folder.join("content");
        std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let mut all = BTreeMap::new();
        for file in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = file?.path();
            let read = || -> Result<Publication> {
                let mut one: Publication = serde_json::from_slice(&std::fs::read(&path)?)?;
                let manifest = BlobHash(one.manifest.context("it has no manifest")?);
                let whole = Manifest::parse(&std::fs::read(blobs.path(&manifest))?)?;
                one.blobs = whole.blobs().map(|blob| blob.hash).chain([manifest]).collect();
                Ok(one)
            };
            match read() {
                Ok(one) => drop(all.insert(one.at, one)),
                Err(error) => tracing::warn!("{} is no publication: {error:#}", path.display()),
            }
        }
        Ok(Self { all: Arc::new(Mutex::new(all)), folder: folder.into() })
    }

    /// Blobs that are kept however old they are.
    pub(in crate::edge) fn blobs(&self) -> Vec<BlobHash> {
        self.all.lock().values().flat_map(|one| one.blobs.iter().copied()).collect()
    }

    fn file(&self, id: &Hash) -> PathBuf {
        self.folder.join(format!("{}.json", hex::encode(id)))
    }

    /// All that are remembered, the newest first.
    pub(in crate::edge) fn view(&self) -> Vec<Value> {
        self.all.lock().values().rev().map(|one| json!(one)).collect()
    }

    /// One by its id.
    pub(in crate::edge) fn get(&self, id: &Hash) -> Option<Value> {
        self.all.lock().values().find(|one| one.id == *id).map(|one| json!(one))
    }

    /// A publication has come to its end. It is on the disk before anybody is told.
    fn keep(&self, at: u64, blob: BlobRef, manifest: &Manifest) -> Result<()> {
        let mut one = self.all.lock().get(&at).cloned().context("the publication is remembered")?;
        one.state = Stage::Published;
        one.manifest = Some(blob.hash.0);
        one.ms = manifest.ms();
        one.renditions = manifest.pictures.iter().map(|one| one.name.clone()).collect();
        one.blobs = manifest.blobs().map(|blob| blob.hash).chain([blob.hash]).collect();
        write_durably(&self.file(&one.id), &serde_json::to_vec(&one)?)?;
        self.change(at, |known| *known = one);
        Ok(())
    }

    fn nodes(&self, at: u64) -> Vec<(NodeId, u32)> {
        let all = self.all.lock();
        let nodes = all.get(&at).into_iter().flat_map(|one| &one.nodes);
        nodes.map(|(node, tasks)| (NodeId(*node), *tasks)).collect()
    }

    fn change(&self, at: u64, change: impl FnOnce(&mut Publication)) {
        if let Some(publication) = self.all.lock().get_mut(&at) {
            change(publication);
        }
    }

    /// Takes a wish; `None` where too many are worked on. What follows of it goes on in the background.
    pub(in crate::edge) fn begin(
        &self,
        jobs: &Jobs,
        wish: Wish,
        clip: BlobRef,
    ) -> Result<Option<Hash>, JobError> {
        let work = Transcoding::new(jobs.clone(), &wish)?;
        let at = {
            let mut all = self.all.lock();
            if all.values().filter(|one| one.state == Stage::Running).count() >= MAX_OPEN {
                return Ok(None);
            }
            while all.len() >= REMEMBERED {
                let failed = all.iter().find(|(_, one)| one.state == Stage::Failed);
                let Some(oldest) = failed.map(|(at, _)| *at) else { return Ok(None) };
                all.remove(&oldest);
            }
            let at = now_millis().max(all.last_key_value().map_or(0, |(at, _)| at + 1));
            let id =
                theta_core::hash::keccak_parts(&[b"publication", &at.to_be_bytes(), clip.hash.0.as_slice()]);
            let publication = Publication {
                id,
                title: wish.title.clone(),
                state: Stage::Running,
                error: None,
                at,
                tasks: 1,
                tasks_done: 0,
                paid_tfuel_wei: TFuelWei::ZERO,
                nodes: BTreeMap::new(),
                manifest: None,
                ms: 0,
                renditions: Vec::new(),
                blobs: Vec::new(),
            };
            all.insert(at, publication);
            at
        };
        let (publications, jobs) = (self.clone(), jobs.clone());
        let id = self.all.lock().get(&at).map(|one| one.id);
        tokio::spawn(async move {
            let published = work.publish(&publications, at, wish, clip).await;
            let kept = match published {
                Ok((blob, manifest)) => publications.keep(at, blob, &manifest).map(|()| blob),
                Err(error) => Err(error),
            };
            match kept {
                Ok(blob) => {
                    let mut nodes = publications.nodes(at);
                    nodes.sort_by_key(|(_, tasks)| std::cmp::Reverse(*tasks));
                    jobs.hold(blob, nodes.into_iter().map(|(node, _)| node).collect()).await;
                }
                Err(error) => publications.change(at, |one| {
                    one.state = Stage::Failed;
                    one.error = Some(format!("{error:#}"));
                }),
            }
        });
        Ok(id)
    }
}

struct Transcoding {
    jobs: Jobs,
    quorum: Quorum,
    cap: TFuelWei,
    segment_ms: u64,
}

/// A task that came to its end.
struct Done {
    files: Vec<OutFile>,
}

impl Done {
    fn file(&self, name: &str) -> Result<BlobRef> {
        let file = self.files.iter().find(|file| file.path == name);
        Ok(file.with_context(|| format!("a result lacks {name}"))?.blob)
    }
}

impl Transcoding {
    fn new(jobs: Jobs, wish: &Wish) -> Result<Self, JobError> {
        let field = |field: &str, problem| JobError::Field { field: field.to_owned(), problem };
        if !(1..=7).contains(&wish.quorum) {
            return Err(field("quorum", "is a number from 1 to 7"));
        }
        if !(1.0..=10.0).contains(&wish.segment_seconds) {
            return Err(field("segmentSeconds", "is a number from 1 to 10"));
        }
        let amount = "is an amount in a text, such as \"5\" or \"12wei\"";
        let cap = match &wish.max_tfuel_per_task {
            Some(text) => text.parse().map_err(|_| field("maxTfuelPerTask", amount))?,
            None => TFuelWei::whole(5),
        };
        let segment_ms = (wish.segment_seconds * 1_000.0).round() as u64;
        Ok(Self { jobs, quorum: Quorum::of(wish.quorum), cap, segment_ms })
    }

    async fn publish(
        &self,
        all: &Publications,
        at: u64,
        wish: Wish,
        clip: BlobRef,
    ) -> Result<(BlobRef, Manifest)> {
        let prepared = self.task(all, at, "prepare", clip, Step::Prepare).await.context("prepare")?;
        let facts = self.jobs.blobs.read_all(&prepared.file(FACTS)?).await?;
        let facts: Clip = serde_json::from_slice(&facts)?;
        let (rungs, grid) = (ladder(&facts, &wish.ladder)?, Grid::new(&facts, self.segment_ms)?);
        let copy = prepared.file(COPY)?;
        let with_source = wish.ladder.iter().any(|name| name == SOURCE);
        if with_source && !facts.plain {
            bail!(
                "the source's own pictures cannot be shown by browsers; leave \"source\" out of the ladder"
            );
        }
        let groups = grid.groups();
        let video = rungs.iter().flat_map(|rung| {
            let groups = groups.iter();
            groups.map(move |(first, count)| {
                (
                    format!("{} {first}", rung.name),
                    Step::Video { rung: rung.clone(), grid, first: *first, count: *count },
                )
            })
        });
        let sound = facts.sound.then(|| ("sound".to_owned(), Step::Sound { grid, bits: SOUND_BITS }));
        let source = with_source.then(|| ("source".to_owned(), Step::Source { grid }));
        let steps: Vec<(String, Step)> = video.chain(sound).chain(source).collect();
        all.change(at, |one| one.tasks = 1 + steps.len());
        let done = stream::iter(steps).map(|(name, step)| async move {
            let done = self.task(all, at, &name, copy, step.clone()).await;
            Ok::<_, anyhow::Error>((step, done.with_context(|| name.clone())?))
        });
        let done: Vec<(Step, Done)> = done.buffer_unordered(AT_ONCE).try_collect().await?;
        let manifest = self.manifest(&facts, &grid, &rungs, &done, &wish.title).await?;
        let blob = self.jobs.blobs.add(manifest.to_bytes()?).await?;
        Ok((blob, manifest))
    }

    async fn manifest(
        &self,
        facts: &Clip,
        grid: &Grid,
        rungs: &[Rung],
        done: &[(Step, Done)],
        title: &str,
    ) -> Result<Manifest> {
        let rate = u32::try_from(grid.rate.frames(1_000_000)).unwrap_or(u32::MAX);
        let mut pictures = Vec::new();
        for rung in rungs {
            let mut segments = BTreeMap::new();
            for (step, done) in done {
                let Step::Video { rung: of, first, count, .. } = step else { continue };
                for number in (*first..first + count).filter(|_| of == rung) {
                    let blob = done.file(&format!("{number}.ts"))?;
                    segments.insert(number, Segment { ms: grid.segment_ms(number).max(1), blob });
                }
            }
            pictures.push(Rendition {
                name: rung.name.clone(),
                width: rung.width,
                height: rung.height,
                rate,
                codec: H264.to_owned(),
                segments: segments.into_values().collect(),
            });
        }
        let mut sound = None;
        for (step, done) in done {
            match step {
                Step::Sound { .. } => {
                    let segments = self.listed(done).await?;
                    let (name, codec) = (SOUND.to_owned(), AAC.to_owned());
                    sound = Some(Rendition { name, width: 0, height: 0, rate: 0, codec, segments });
                }
                Step::Source { .. } => pictures.push(Rendition {
                    name: SOURCE.to_owned(),
                    width: facts.width,
                    height: facts.height,
                    rate,
                    codec: H264_ANY.to_owned(),
                    segments: self.listed(done).await?,
                }),
                _ => {}
            }
        }
        Ok(Manifest::new(title, pictures, sound)?)
    }

    /// Segments whose lengths are in a list: `<name>,<begin>,<end>` in seconds.
    async fn listed(&self, done: &Done) -> Result<Vec<Segment>> {
        let list = self.jobs.blobs.read_all(&done.file("list.csv")?).await?;
        let list = String::from_utf8(list)?;
        let mut segments = Vec::new();
        for line in list.lines() {
            let mut parts = line.split(',');
            let name = parts.next().unwrap_or_default();
            let mut seconds = || parts.next()?.parse::<f64>().ok().filter(|seconds| seconds.is_finite());
            let (begin, end) = seconds().zip(seconds()).context("a list of segments cannot be read")?;
            let ms = ((end - begin) * 1_000.0).round().clamp(1.0, 120_000.0) as u64;
            segments.push(Segment { ms, blob: done.file(name)? });
        }
        Ok(segments)
    }

    async fn task(
        &self,
        all: &Publications,
        at: u64,
        name: &str,
        source: BlobRef,
        step: Step,
    ) -> Result<Done> {
        let work = TranscodeWork { source, step };
        let units = work.units().max(1);
        let wall_seconds =
            (TASK_SECONDS.0 + units / 1_000_000 * TASK_SECONDS.1).min(Limits::MAX.wall_seconds);
        let limits = Limits { fuel: units, memory_mib: 1_024, wall_seconds, output_mib: 255 };
        let report = run(&self.jobs, name, Work::Transcode(work), limits, self.quorum, self.cap).await?;
        let paid = report.paid.iter().map(|paid| paid.amount);
        let paid = paid.fold(TFuelWei::ZERO, |sum, amount| sum.checked_add(amount).unwrap_or(sum));
        all.change(at, |one| {
            one.tasks_done += 1;
            one.paid_tfuel_wei = one.paid_tfuel_wei.checked_add(paid).unwrap_or(one.paid_tfuel_wei);
            for node in &report.paid {
                *one.nodes.entry(node.node.0).or_default() += 1;
            }
        });
        let Some(output) = report.output.filter(|_| report.state == State::Succeeded) else {
            let (_, why) = report.error.unwrap_or_default();
            bail!("{why}");
        };
        Ok(Done { files: output.files })
    }
}

/// Gives one task to edge nodes and waits for its end. What it said of a failure stands in the report's error.
pub(in crate::edge) async fn run(
    jobs: &Jobs,
    name: &str,
    work: Work,
    limits: Limits,
    quorum: Quorum,
    cap: TFuelWei,
) -> Result<Report> {
    let order = Order::Work { name: name.to_owned(), work: Box::new(work), limits, quorum, cap };
    let until = tokio::time::Instant::now() + MAX_WAIT;
    let end = loop {
        let (ended, end) = oneshot::channel();
        match jobs.submit(order.clone(), Some(ended)).await? {
            Ok(_) => break end,
            // There is room again when something has ended.
            Err(Refused::Full | Refused::Placement(Refusal::Busy { .. }))
                if tokio::time::Instant::now() < until =>
            {
                tokio::time::sleep(RETRY).await;
            }
            Err(refused) => return Err(refused.into()),
        }
    };
    let longest = Duration::from_secs(limits.wall_seconds.saturating_mul(4).saturating_add(60));
    let report = tokio::time::timeout(longest, end).await.context("the task did not end in time")?;
    let mut report = report.context("the requester has stopped")?;
    if let (Some((_, why)), Some(output)) = (&mut report.error, &report.output)
        && output.stderr.len > 0
        && let Ok(said) = jobs.blobs.read(output.stderr.hash, 0..output.stderr.len.min(400)).await
    {
        why.push_str(": ");
        why.push_str(&String::from_utf8_lossy(&said));
    }
    Ok(report)
}
