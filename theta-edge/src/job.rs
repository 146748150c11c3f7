//! Jobs and tasks: what a requester asks for, what a node is given, how both are named.
//!
//! Ids are BLAKE3 over the RLP form (edge.md 2.1), so the same job submitted twice is one job, and a task id covers all
//! that decides the result. The file that people write is JSON ([`JobFile`]) with everything defaulted that can be.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use theta_core::amount::TFuelWei;
use theta_core::codec::rlp::{Encode, encode_list};
use theta_core::hash::{Address, Hash};

use crate::Millis;
use crate::blob::BlobRef;
use crate::infer::InferWork;
use crate::map::{MapSpec, Merge};
use crate::split::Split;
use crate::transcode::TranscodeWork;

/// The kinds of work there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum KindTag {
    /// A WebAssembly command module.
    Wasm,
    /// A step of work on a video clip.
    Transcode,
    /// A question to a model.
    Infer,
}

/// Bounds of one execution. They are part of the job, not of the host, so that every node stops at the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Units of fuel; about one per instruction.
    pub fuel: u64,
    /// Memory and tables of the program together, in MiB.
    pub memory_mib: u32,
    /// Wall time in seconds, compilation included.
    pub wall_seconds: u64,
    /// Bytes written to stdout, stderr and `/out` together, in MiB.
    pub output_mib: u32,
}

impl Limits {
    /// The most that any job may ask for; operators may offer less.
    pub const MAX: Self =
        Self { fuel: u64::MAX / 2, memory_mib: 4096, wall_seconds: 86_400, output_mib: 1023 };

    /// Whether every bound is at least one and within `most`.
    pub const fn within(&self, most: &Self) -> Result<(), JobError> {
        if self.fuel == 0 || self.fuel > most.fuel {
            return Err(JobError::field("limits.fuel", "is out of range"));
        }
        if self.memory_mib == 0 || self.memory_mib > most.memory_mib {
            return Err(JobError::field("limits.memoryMiB", "is out of range"));
        }
        if self.wall_seconds == 0 || self.wall_seconds > most.wall_seconds {
            return Err(JobError::field("limits.wallSeconds", "is out of range"));
        }
        if self.output_mib == 0 || self.output_mib > most.output_mib {
            return Err(JobError::field("limits.outputMiB", "is out of range"));
        }
        Ok(())
    }
}

impl Default for Limits {
    /// Two billion units of fuel, 64 MiB, 30 s, 16 MiB of output.
    fn default() -> Self {
        Self { fuel: 2_000_000_000, memory_mib: 64, wall_seconds: 30, output_mib: 16 }
    }
}

/// One file of a granted folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FolderFile {
    /// Path below the folder, with `/` between its parts.
    pub path: String,
    /// The content.
    pub blob: BlobRef,
}

/// A folder that a program may read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Folder {
    /// Where the program sees it, such as `/data`.
    pub path: String,
    /// Everything in it, sorted by path.
    pub files: Vec<FolderFile>,
}

/// A WASI command module and what it is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WasmWork {
    /// The module, binary or text.
    pub module: BlobRef,
    /// The program's name, its argument 0.
    pub program: String,
    /// Arguments from 1 on.
    pub args: Vec<String>,
    /// Environment.
    pub env: Vec<(String, String)>,
    /// Standard input; none is an empty one.
    pub stdin: Option<BlobRef>,
    /// Folders it may read.
    pub inputs: Vec<Folder>,
}

/// The work of a task, by kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// A WebAssembly command module.
    Wasm(WasmWork),
    /// A step of work on a video clip.
    Transcode(TranscodeWork),
    /// A question to a model.
    Infer(InferWork),
}

impl Work {
    /// The kind of engine that it needs.
    pub const fn kind(&self) -> KindTag {
        match self {
            Self::Wasm(_) => KindTag::Wasm,
            Self::Transcode(_) => KindTag::Transcode,
            Self::Infer(_) => KindTag::Infer,
        }
    }

    /// The only engine that it can be given to, where not every one of its kind will do.
    pub const fn executor(&self) -> Option<Hash> {
        match self {
            Self::Infer(work) => Some(work.model),
            Self::Wasm(_) | Self::Transcode(_) => None,
        }
    }

    /// Every blob that has to be present before it can run.
    pub fn blobs(&self) -> Vec<BlobRef> {
        match self {
            Self::Wasm(work) => {
                let files = work.inputs.iter().flat_map(|folder| &folder.files).map(|file| file.blob);
                [work.module].into_iter().chain(work.stdin).chain(files).collect()
            }
            Self::Transcode(work) => vec![work.source],
            Self::Infer(work) => vec![work.ask],
        }
    }

    fn check(&self) -> Result<(), JobError> {
        if self.to_rlp().len() > MAX_WORK {
            return Err(JobError::field(
                "inputs",
                "has too many files, or args or env are too long, for one message",
            ));
        }
        match self {
            Self::Wasm(work) => work.check(),
            Self::Transcode(work) => work.check(),
            Self::Infer(work) => work.check(),
        }
    }
}

impl WasmWork {
    fn check(&self) -> Result<(), JobError> {
        let work = self;
        let plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains('\0');
        for folder in &work.inputs {
            let Some(path) = folder.path.strip_prefix('/').filter(|path| path.split('/').all(plain)) else {
                return Err(JobError::field("inputs", "needs absolute folder names such as /data"));
            };
            if path == "out" || path.starts_with("out/") {
                return Err(JobError::field("inputs", "cannot grant /out, which is where output goes"));
            }
            if !folder.files.iter().all(|file| file.path.split('/').all(plain)) {
                return Err(JobError::field("inputs", "has a file whose path leads out of its folder"));
            }
        }
        if work.args.iter().chain([&work.program]).any(|arg| arg.contains('\0')) {
            return Err(JobError::field("args", "contains a zero byte"));
        }
        if work
            .env
            .iter()
            .any(|(name, value)| name.is_empty() || name.contains(['=', '\0']) || value.contains('\0'))
        {
            return Err(JobError::field("env", "has a name or value that no environment can hold"));
        }
        Ok(())
    }
}

impl Encode for Work {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Wasm(work) => work.encode(out),
            Self::Transcode(work) => work.encode(out),
            Self::Infer(work) => work.encode(out),
        }
    }
}

impl Encode for WasmWork {
    fn encode(&self, out: &mut Vec<u8>) {
        let work = self;
        encode_list(out, |out| {
            "wasm".to_owned().encode(out);
            encode_blob(Some(&work.module), out);
            work.program.encode(out);
            work.args.encode(out);
            encode_list(out, |out| {
                for (name, value) in &work.env {
                    name.encode(out);
                    value.encode(out);
                }
            });
            encode_blob(work.stdin.as_ref(), out);
            encode_list(out, |out| {
                for folder in &work.inputs {
                    encode_list(out, |out| {
                        folder.path.encode(out);
                        for file in &folder.files {
                            file.path.encode(out);
                            encode_blob(Some(&file.blob), out);
                        }
                    });
                }
            });
        });
    }
}

fn encode_blob(blob: Option<&BlobRef>, out: &mut Vec<u8>) {
    encode_list(out, |out| {
        if let Some(blob) = blob {
            blob.hash.0.encode(out);
            blob.len.encode(out);
        }
    });
}

impl Encode for Limits {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_list(out, |out| {
            self.fuel.encode(out);
            self.memory_mib.encode(out);
            self.wall_seconds.encode(out);
            self.output_mib.encode(out);
        });
    }
}

fn name(domain: &[u8], bytes: &[u8]) -> Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(domain);
    hasher.update(bytes);
    Hash::from(*hasher.finalize().as_bytes())
}

/// One schedulable unit of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// The job it belongs to.
    pub job: Hash,
    /// Its place in the job, from 0.
    pub index: u32,
    /// What to do.
    pub work: Work,
    /// How much of everything it may use.
    pub limits: Limits,
}

impl Task {
    /// BLAKE3 over everything that decides the result, and the seed of the program's random stream.
    pub fn id(&self) -> Hash {
        let mut bytes = Vec::new();
        encode_list(&mut bytes, |out| {
            self.job.encode(out);
            self.index.encode(out);
            self.work.encode(out);
            self.limits.encode(out);
        });
        name(b"theta-edge/task/v1", &bytes)
    }

    /// Whether a node may take it as it came from a peer.
    pub fn check(&self, most: &Limits) -> Result<(), JobError> {
        self.limits.within(most)?;
        self.work.check()
    }
}

/// How many equal results are needed, and how many attempts may be made to get them (edge.md 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quorum {
    /// Equal results that settle it.
    pub agree: u8,
    /// Results looked at before a referee decides.
    pub max: u8,
}

impl Quorum {
    /// `agree` equal results, and two more attempts than that before a referee decides; one result needs no second.
    pub const fn of(agree: u8) -> Self {
        Self { agree, max: if agree == 1 { 1 } else { agree.saturating_add(2) } }
    }
}

/// Where the money for a job comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolRef {
    /// Who pays.
    pub payer: Address,
    /// The payer's reserve fund.
    pub reserve_sequence: u64,
    /// What the fund pays for.
    pub resource_id: String,
}

/// How a job stands beside others (edge.md 2.1, 3.6, 3.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placing {
    /// Whose share of the nodes it takes; the payer's where none is named.
    pub tenant: Option<Address>,
    /// 0 to 8, higher first.
    pub priority: u8,
    /// When it has to be done, in milliseconds since 1970.
    pub deadline: Option<Millis>,
    /// How many of its attempts may go to provider pools.
    pub spill: u32,
}

impl Default for Placing {
    /// The payer's, in the middle, whenever there is room, on the edge alone.
    fn default() -> Self {
        Self { tenant: None, priority: 3, deadline: None, spill: 0 }
    }
}

impl Placing {
    /// The highest priority there is.
    const MAX_PRIORITY: u8 = 8;

    fn read(top: &mut Fields) -> Result<Self, JobError> {
        let base = Self::default();
        let placing = Self {
            tenant: top.optional::<String>("tenant", "is a text")?.map(|text| tenant(&text)),
            priority: top.optional("priority", "is a number from 0 to 8")?.unwrap_or(base.priority),
            deadline: top.optional("deadlineMs", "is a time in milliseconds since 1970")?,
            spill: top
                .optional("spill", "is how many attempts may go to provider pools")?
                .unwrap_or(base.spill),
        };
        placing.check()?;
        Ok(placing)
    }

    const fn check(&self) -> Result<(), JobError> {
        if self.priority > Self::MAX_PRIORITY {
            return Err(JobError::field("priority", "is a number from 0 to 8"));
        }
        Ok(())
    }
}

impl Encode for Placing {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_list(out, |out| {
            self.tenant.into_iter().collect::<Vec<Address>>().encode(out);
            u64::from(self.priority).encode(out);
            self.deadline.unwrap_or(0).encode(out);
            self.spill.encode(out);
        });
    }
}

/// The tenant of a name: an address as it stands, or one that is made of the text.
fn tenant(text: &str) -> Address {
    text.parse().unwrap_or_else(|_| Address::from_word(name(b"theta-edge/tenant/v1", text.as_bytes())))
}

/// A job as it is submitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSpec {
    /// The chain whose coins pay for it.
    pub chain_id: String,
    /// Tells apart two jobs that are otherwise equal.
    pub nonce: u64,
    /// What to do.
    pub work: Work,
    /// How much of everything one execution may use.
    pub limits: Limits,
    /// How results are believed.
    pub quorum: Quorum,
    /// The most that the whole job may cost.
    pub total_cap: TFuelWei,
    /// Where the money comes from; its payer is the requester.
    pub pool: PoolRef,
    /// How it stands beside others.
    pub placing: Placing,
}

/// Largest encoded work in bytes, so that an offer fits a message whatever has to be escaped in it.
const MAX_WORK: usize = 256 << 10;
/// Version of the encoding of a job.
const JOB_VERSION: u8 = 2;
/// The most equal results a job may ask for.
const MAX_AGREE: u8 = 7;

impl JobSpec {
    /// BLAKE3 of the canonical encoding (edge.md 2.1).
    pub fn id(&self) -> Hash {
        let mut bytes = Vec::new();
        encode_list(&mut bytes, |out| {
            JOB_VERSION.encode(out);
            self.chain_id.encode(out);
            self.nonce.encode(out);
            self.work.encode(out);
            self.limits.encode(out);
            self.quorum.agree.encode(out);
            self.quorum.max.encode(out);
            self.total_cap.encode(out);
            self.pool.payer.encode(out);
            self.pool.reserve_sequence.encode(out);
            self.pool.resource_id.encode(out);
            self.placing.encode(out);
        });
        name(b"theta-edge/job/v1", &bytes)
    }

    /// The job's only task: jobs are not split yet.
    pub fn task(&self) -> Task {
        Task { job: self.id(), index: 0, work: self.work.clone(), limits: self.limits }
    }

    /// The most that one attempt may cost, so that all that agree can be paid within the cap.
    pub fn attempt_cap(&self) -> TFuelWei {
        let agree = self.quorum.agree.max(1);
        TFuelWei::from_u256(self.total_cap.get() / theta_core::hash::U256::from(agree))
    }

    /// Whether the job can be taken at all.
    pub fn check(&self) -> Result<(), JobError> {
        self.limits.within(&Limits::MAX)?;
        self.placing.check()?;
        self.work.check()?;
        if self.quorum.agree == 0 || self.quorum.agree > MAX_AGREE || self.quorum.max < self.quorum.agree {
            return Err(JobError::field("quorum", "is a number from 1 to 7"));
        }
        if self.total_cap.is_zero() {
            return Err(JobError::field("maxTfuel", "has to be more than nothing"));
        }
        Ok(())
    }
}

/// Why a job cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JobError {
    /// Not JSON, or not an object.
    #[error("the job file is not a JSON object")]
    Json,
    /// One field is wrong.
    #[error("{field} {problem}")]
    Field {
        /// Which one, as written in the file.
        field: String,
        /// What about it.
        problem: &'static str,
    },
    /// One field has a fixed name and is wrong.
    #[error("{field} {problem}")]
    Known {
        /// Which one, as written in the file.
        field: &'static str,
        /// What about it.
        problem: &'static str,
    },
}

impl JobError {
    pub(crate) const fn field(field: &'static str, problem: &'static str) -> Self {
        Self::Known { field, problem }
    }

    /// The code of the command contract (cli.md).
    pub const fn code(&self) -> &'static str {
        "invalid_spec"
    }
}

/// A job file as people write it (cli.md); paths are relative to the file and are read by the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobFile {
    /// Path of the module.
    pub module: String,
    /// Arguments of the program.
    pub args: Vec<String>,
    /// Environment of the program.
    pub env: BTreeMap<String, String>,
    /// Path of what it reads on stdin.
    pub stdin: Option<String>,
    /// Folder in the program to path of a folder here.
    pub inputs: BTreeMap<String, String>,
    /// Bounds of one execution.
    pub limits: Limits,
    /// How results are believed.
    pub quorum: Quorum,
    /// The most that the job may cost.
    pub max_tfuel: TFuelWei,
    /// How it stands beside others: `tenant`, `priority`, `deadlineMs`, `spill`.
    pub placing: Placing,
}

impl JobFile {
    /// Reads a job file. An error names the field, also one that does not exist.
    ///
    /// ```
    /// use theta_edge::job::JobFile;
    /// let file = JobFile::parse(r#"{"kind":"wasm","module":"count.wasm","limits":{"fuel":1000},"maxTfuel":"5"}"#)?;
    /// assert_eq!((file.limits.fuel, file.limits.memory_mib, file.quorum.agree), (1000, 64, 2));
    /// let wrong = JobFile::parse(r#"{"kind":"wasm","module":"a.wat","limits":{"fuel":-1}}"#).unwrap_err();
    /// assert!(wrong.to_string().starts_with("limits.fuel"));
    /// # Ok::<(), theta_edge::job::JobError>(())
    /// ```
    pub fn parse(text: &str) -> Result<Self, JobError> {
        let mut top = Fields::of(text)?;
        if top.required::<String>("kind", "is a text")? != "wasm" {
            return Err(JobError::field("kind", "is not a kind of job that runs here; wasm is"));
        }
        Self::rest(top)
    }

    /// Everything but the kind.
    fn rest(mut top: Fields) -> Result<Self, JobError> {
        let base = Limits::default();
        let limits = match top.0.remove("limits") {
            None | Some(Value::Null) => base,
            Some(value) => {
                let mut fields = Fields::new("limits.", value)?;
                let limits = Limits {
                    fuel: fields.optional("fuel", "is a whole number above 0")?.unwrap_or(base.fuel),
                    memory_mib: fields
                        .optional("memoryMiB", "is a whole number above 0")?
                        .unwrap_or(base.memory_mib),
                    wall_seconds: fields
                        .optional("wallSeconds", "is a whole number above 0")?
                        .unwrap_or(base.wall_seconds),
                    output_mib: fields
                        .optional("outputMiB", "is a whole number above 0")?
                        .unwrap_or(base.output_mib),
                };
                fields.finish()?;
                limits
            }
        };
        limits.within(&Limits::MAX)?;
        let agree: u8 = top.optional("quorum", "is a number from 1 to 7")?.unwrap_or(2);
        if agree == 0 || agree > MAX_AGREE {
            return Err(JobError::field("quorum", "is a number from 1 to 7"));
        }
        let amount = "is an amount in a text, such as \"5\" or \"12wei\"";
        let max_tfuel = match top.optional::<String>("maxTfuel", amount)? {
            Some(text) => text.parse().map_err(|_| JobError::field("maxTfuel", amount))?,
            None => TFuelWei::whole(5),
        };
        let file = Self {
            module: top.required("module", "is the path of a module")?,
            args: top.optional("args", "is a list of texts")?.unwrap_or_default(),
            env: top.optional("env", "is an object of texts")?.unwrap_or_default(),
            stdin: top.optional("stdin", "is the path of a file")?,
            inputs: top.optional("inputs", "is an object of folder names and paths")?.unwrap_or_default(),
            limits,
            quorum: Quorum::of(agree),
            max_tfuel,
            placing: Placing::read(&mut top)?,
        };
        top.finish()?;
        Ok(file)
    }

    /// The job this file asks for, once the host has made blobs of what it names. Fails where [`JobSpec::check`] does.
    pub fn spec(
        &self,
        chain_id: &str,
        nonce: u64,
        pool: PoolRef,
        module: BlobRef,
        stdin: Option<BlobRef>,
        inputs: Vec<Folder>,
    ) -> Result<JobSpec, JobError> {
        let program = self.module.rsplit('/').next().unwrap_or_default().to_owned();
        let env = self.env.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        let work = Work::Wasm(WasmWork { module, program, args: self.args.clone(), env, stdin, inputs });
        let spec = JobSpec {
            chain_id: chain_id.to_owned(),
            nonce,
            work,
            limits: self.limits,
            quorum: self.quorum,
            total_cap: self.max_tfuel,
            pool,
            placing: self.placing,
        };
        spec.check()?;
        Ok(spec)
    }
}

/// A job file of any kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnyFile {
    /// One program, once.
    Wasm(JobFile),
    /// One program over many parts of an input.
    Map(MapFile),
}

impl AnyFile {
    /// Reads a job file of any kind.
    pub fn parse(text: &str) -> Result<Self, JobError> {
        let mut top = Fields::of(text)?;
        match top.required::<String>("kind", "is a text")?.as_str() {
            "wasm" => JobFile::rest(top).map(Self::Wasm),
            "map" => MapFile::rest(top).map(Self::Map),
            _ => Err(JobError::field("kind", "is not a kind of job that runs here; wasm and map are")),
        }
    }
}

/// What a map file says of its merge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MergeFile {
    /// One after another.
    Concat,
    /// By a program.
    Reduce {
        /// Path of the module.
        module: String,
        /// Arguments of the program.
        args: Vec<String>,
    },
}

/// A job file of kind `map`: one program over each part of an input (edge.md 2.3).
///
/// A line ends at the byte 0x0a and nothing else.
///
/// ```
/// use theta_edge::{job::{AnyFile, MergeFile}, split::Split};
/// let text = r#"{"kind":"map","module":"cat.wat","input":"in.csv","split":{"lines":2},"merge":"concat"}"#;
/// let AnyFile::Map(file) = AnyFile::parse(text)? else { unreachable!("it says map") };
/// assert_eq!((file.split, file.merge), (Split::Lines(2), MergeFile::Concat));
/// let wrong = AnyFile::parse(r#"{"kind":"map","module":"a","input":"b","split":{"lines":0}}"#).unwrap_err();
/// assert!(wrong.to_string().starts_with("split"));
/// # Ok::<(), theta_edge::job::JobError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapFile {
    /// The mapper, with its limits, quorum and price; it has no stdin of its own.
    pub job: JobFile,
    /// Path of the input.
    pub input: String,
    /// Where it is cut.
    pub split: Split,
    /// What becomes of the results.
    pub merge: MergeFile,
}

impl MapFile {
    fn rest(mut top: Fields) -> Result<Self, JobError> {
        let input = top.required("input", "is the path of a file")?;
        let split = "is {\"lines\":n} or {\"bytes\":n} with n above 0";
        let split = match top.required::<Split>("split", split)? {
            Split::Lines(0) | Split::Bytes(0) => return Err(JobError::field("split", split)),
            split => split,
        };
        let merge = match top.0.remove("merge") {
            None | Some(Value::Null) => MergeFile::Concat,
            Some(Value::String(text)) if text == "concat" => MergeFile::Concat,
            Some(value @ Value::Object(_)) => {
                let mut fields = Fields::new("merge.", value)?;
                let module = fields.required("module", "is the path of a module")?;
                let args = fields.optional("args", "is a list of texts")?.unwrap_or_default();
                fields.finish()?;
                MergeFile::Reduce { module, args }
            }
            Some(_) => return Err(JobError::field("merge", "is \"concat\" or {\"module\":path}")),
        };
        if top.0.contains_key("stdin") {
            return Err(JobError::field("stdin", "is each part of the input; a map has no other"));
        }
        Ok(Self { job: JobFile::rest(top)?, input, split, merge })
    }

    /// The job this file asks for, once the host has made blobs of what it names: the modules, and the parts of the input
    /// ([`crate::split::Cutter`]).
    pub fn spec(
        &self,
        chain_id: &str,
        nonce: u64,
        pool: PoolRef,
        (module, reducer): (BlobRef, Option<BlobRef>),
        chunks: Vec<BlobRef>,
        inputs: Vec<Folder>,
    ) -> Result<MapSpec, JobError> {
        let spec = self.job.spec(chain_id, nonce, pool, module, None, inputs)?;
        let merge = match &self.merge {
            MergeFile::Concat => Merge::Concat,
            MergeFile::Reduce { module, args } => Merge::Reduce {
                module: reducer.ok_or(JobError::field("merge.module", "is missing"))?,
                program: module.rsplit('/').next().unwrap_or_default().to_owned(),
                args: args.clone(),
            },
        };
        let Work::Wasm(work) = spec.work else {
            return Err(JobError::field("kind", "of the parts of a map is wasm"));
        };
        let (limits, quorum, total_cap, pool) = (spec.limits, spec.quorum, spec.total_cap, spec.pool);
        let (chain_id, placing) = (spec.chain_id, spec.placing);
        let map = MapSpec { chain_id, nonce, work, chunks, merge, limits, quorum, total_cap, pool, placing };
        map.check()?;
        Ok(map)
    }
}

/// The fields of a JSON object that were not read yet, and what stands before their names.
struct Fields(Map<String, Value>, &'static str);

impl Fields {
    fn of(text: &str) -> Result<Self, JobError> {
        Self::new("", serde_json::from_str(text).map_err(|_| JobError::Json)?)
    }

    fn new(prefix: &'static str, value: Value) -> Result<Self, JobError> {
        match value {
            Value::Object(map) => Ok(Self(map, prefix)),
            _ if prefix.is_empty() => Err(JobError::Json),
            _ => Err(JobError::Field {
                field: prefix.trim_end_matches('.').to_owned(),
                problem: "is an object",
            }),
        }
    }

    fn optional<T: serde::de::DeserializeOwned>(
        &mut self,
        field: &str,
        problem: &'static str,
    ) -> Result<Option<T>, JobError> {
        let value = self.0.remove(field).unwrap_or(Value::Null);
        serde_json::from_value(value)
            .map_err(|_| JobError::Field { field: format!("{}{field}", self.1), problem })
    }

    fn required<T: serde::de::DeserializeOwned>(
        &mut self,
        field: &str,
        problem: &'static str,
    ) -> Result<T, JobError> {
        let missing = JobError::Field { field: format!("{}{field}", self.1), problem: "is missing" };
        self.optional(field, problem)?.ok_or(missing)
    }

    fn finish(self) -> Result<(), JobError> {
        match self.0.keys().next() {
            Some(field) => Err(JobError::Field {
                field: format!("{}{field}", self.1),
                problem: "is not a field of a job",
            }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A job over a module that exists only by name.
    pub(crate) fn spec() -> JobSpec {
        let file =
            JobFile::parse(r#"{"kind":"wasm","module":"m.wasm","args":["x"],"maxTfuel":"5"}"#).unwrap();
        let pool =
            PoolRef { payer: Address::repeat_byte(1), reserve_sequence: 1, resource_id: "edge1/any".into() };
        file.spec("privatenet", 0, pool, BlobRef::of(b"module"), Some(BlobRef::of(b"in")), Vec::new())
            .unwrap()
    }

    #[test]
    fn the_example_of_the_command_contract_is_read() {
        let file = JobFile::parse(
            r#"{"kind":"wasm","module":"count.wasm","args":["x"],"stdin":"input.txt","inputs":{"/data":"data/"},
                "limits":{"fuel":2000000000,"memoryMiB":64,"wallSeconds":30,"outputMiB":16},"quorum":2,"maxTfuel":"5"}"#,
        )
        .unwrap();
        assert_eq!(file.limits, Limits::default());
        assert_eq!(file.max_tfuel, TFuelWei::whole(5));
        assert_eq!(file.inputs["/data"], "data/");
    }

    #[test]
    fn an_error_names_the_field() {
        for (text, field) in [
            (r#"{"kind":"wasm"}"#, "module"),
            (r#"{"module":"m"}"#, "kind"),
            (r#"{"kind":"cobol","module":"m"}"#, "kind"),
            (r#"{"kind":"wasm","module":3}"#, "module"),
            (r#"{"kind":"wasm","module":"m","limit":{}}"#, "limit"),
            (r#"{"kind":"wasm","module":"m","limits":{"fuell":1}}"#, "limits.fuell"),
            (r#"{"kind":"wasm","module":"m","limits":[]}"#, "limits"),
            (r#"{"kind":"wasm","module":"m","limits":{"memoryMiB":0}}"#, "limits.memoryMiB"),
            (r#"{"kind":"wasm","module":"m","limits":{"memoryMiB":4097}}"#, "limits.memoryMiB"),
            (r#"{"kind":"wasm","module":"m","quorum":0}"#, "quorum"),
            (r#"{"kind":"wasm","module":"m","maxTfuel":"five"}"#, "maxTfuel"),
            (r#"{"kind":"wasm","module":"m","args":"x"}"#, "args"),
        ] {
            let error = JobFile::parse(text).unwrap_err();
            assert_eq!(error.to_string().split(' ').next(), Some(field), "{text}: {error}");
        }
        assert_eq!(JobFile::parse("[]"), Err(JobError::Json));
    }

    #[test]
    fn a_map_file_names_what_is_wrong_with_it() {
        let good = r#"{"kind":"map","module":"m","input":"i","split":{"bytes":9},"merge":{"module":"d/r.wasm","args":["a"]},"maxTfuel":"7"}"#;
        let AnyFile::Map(file) = AnyFile::parse(good).unwrap() else { panic!("it says map") };
        assert_eq!((file.split, file.job.max_tfuel), (Split::Bytes(9), TFuelWei::whole(7)));
        let blob = BlobRef::of(b"m");
        let spec = |reducer| file.spec("privatenet", 1, spec().pool, (blob, reducer), vec![blob], Vec::new());
        assert!(
            matches!(spec(Some(blob)).unwrap().merge, Merge::Reduce { program, .. } if program == "r.wasm")
        );
        assert!(spec(None).is_err());
        for (text, field) in [
            (r#"{"kind":"map","module":"m","split":{"lines":1}}"#, "input"),
            (r#"{"kind":"map","module":"m","input":"i"}"#, "split"),
            (r#"{"kind":"map","module":"m","input":"i","split":{"lines":-1}}"#, "split"),
            (r#"{"kind":"map","module":"m","input":"i","split":{"words":1}}"#, "split"),
            (r#"{"kind":"map","input":"i","split":{"lines":1}}"#, "module"),
            (r#"{"kind":"map","module":"m","input":"i","split":{"lines":1},"merge":"sort"}"#, "merge"),
            (r#"{"kind":"map","module":"m","input":"i","split":{"lines":1},"merge":{}}"#, "merge.module"),
            (r#"{"kind":"map","module":"m","input":"i","split":{"lines":1},"stdin":"x"}"#, "stdin"),
            (r#"{"kind":"map","module":"m","input":"i","split":{"lines":1},"foo":1}"#, "foo"),
            (r#"{"kind":"reduce","module":"m"}"#, "kind"),
        ] {
            let error = AnyFile::parse(text).unwrap_err();
            assert_eq!(error.to_string().split(' ').next(), Some(field), "{text}: {error}");
        }
        assert!(matches!(AnyFile::parse(r#"{"kind":"wasm","module":"m"}"#), Ok(AnyFile::Wasm(_))));
    }

    #[test]
    fn equal_jobs_have_one_id_and_any_change_another() {
        let base = spec();
        assert_eq!(base.id(), spec().id());
        let mut ids = vec![base.id()];
        for change in [
            (|s: &mut JobSpec| s.nonce = 1) as fn(&mut JobSpec),
            |s| s.chain_id = "mainnet".into(),
            |s| s.limits.fuel += 1,
            |s| s.quorum = Quorum::of(3),
            |s| s.total_cap = TFuelWei::whole(6),
            |s| s.pool.reserve_sequence = 2,
            |s| {
                let Work::Wasm(work) = &mut s.work else { panic!("wasm") };
                work.args.push(String::new());
            },
            |s| {
                let Work::Wasm(work) = &mut s.work else { panic!("wasm") };
                work.stdin = None;
            },
        ] {
            let mut other = base.clone();
            change(&mut other);
            ids.push(other.id());
        }
        let count = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), count);
    }

    #[test]
    fn work_that_fits_no_message_is_refused() {
        let mut spec = spec();
        let Work::Wasm(work) = &mut spec.work else { panic!("wasm") };
        work.args = vec!["\u{1}".repeat(200 << 10)];
        let offer = crate::message::Message::Offer {
            task: spec.task(),
            epoch: 1,
            pool: spec.pool.clone(),
            cap: spec.total_cap,
        };
        assert!(spec.check().is_ok());
        let key = theta_core::sign::SecretKey::from_bytes(&[1; 32]).unwrap();
        let to = crate::identity::NodeId::of(&key);
        assert!(
            crate::message::Envelope::seal("privatenet", &key, to, &offer).is_ok(),
            "what is allowed fits"
        );
        let Work::Wasm(work) = &mut spec.work else { panic!("wasm") };
        work.args.push("x".repeat(60 << 10));
        assert!(spec.check().is_err());
    }

    #[test]
    fn no_folder_reaches_out_of_its_place() {
        for (folder, file) in
            [("data", "x"), ("/", "x"), ("/a/../b", "x"), ("/out", "x"), ("/data", "../x"), ("/data", "/x")]
        {
            let mut spec = spec();
            let Work::Wasm(work) = &mut spec.work else { panic!("wasm") };
            let files = vec![FolderFile { path: file.into(), blob: BlobRef::of(b"") }];
            work.inputs.push(Folder { path: folder.into(), files });
            assert!(spec.check().is_err(), "{folder} {file}");
        }
    }
}
