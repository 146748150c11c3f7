//! The port between deciding and working: what an engine is given and what it gives back.
//!
//! What a task itself brings about — an exit code, a trap, running out of fuel or memory — is a
//! *result* (edge.md 2.4), equal on every honest node, and is compared like one. What a node brings
//! about — a child that was killed, a blob that is gone — is a [`RunError`]: it says nothing about
//! the task, which is then tried on another node.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use theta_core::hash::{Address, Hash};

use crate::blob::{BlobError, BlobRef, BlobStore};
use crate::infer::ModelOffer;
use crate::job::{KindTag, Task};

/// One kind of work. One crate per engine implements it.
#[async_trait]
pub trait Executor: Send + Sync {
    /// The kind of work this engine does.
    fn kind(&self) -> KindTag;

    /// Names everything that can change a result: engine, version, profile. Results are only
    /// comparable between equal digests (edge.md 4.2).
    fn digest(&self) -> Hash;

    /// Models that it runs; their prices are the host's to set.
    fn models(&self) -> Vec<ModelOffer> {
        Vec::new()
    }

    /// Runs a task once. Dropping the future cancels the attempt and frees what it used.
    async fn run(&self, task: &Task, attempt: Attempt) -> Result<Output, RunError>;

    /// Judges a claimed output. The engine that runs a kind also judges it, since only it knows what
    /// "equal" means; a deterministic one runs the task again and compares digests.
    async fn check(&self, task: &Task, claimed: &Output, attempt: Attempt) -> Result<Verdict, RunError> {
        let ours = self.run(task, attempt).await?;
        Ok(if ours.digest() == claimed.digest() { Verdict::Holds } else { Verdict::Differs { ours } })
    }
}

/// Engines of one host, one for each kind of work.
#[derive(Clone, Default)]
pub struct Engines(BTreeMap<KindTag, Arc<dyn Executor>>);

impl fmt::Debug for Engines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.keys()).finish()
    }
}

impl Engines {
    /// None but this one.
    pub fn of(engine: Arc<dyn Executor>) -> Self {
        Self::default().with(engine)
    }

    /// These and another one, which takes the place of one of its kind.
    #[must_use]
    pub fn with(mut self, engine: Arc<dyn Executor>) -> Self {
        self.0.insert(engine.kind(), engine);
        self
    }

    /// Kinds of work that can be done.
    pub fn kinds(&self) -> Vec<KindTag> {
        self.0.keys().copied().collect()
    }

    /// Digests of all engines and their models, sorted.
    pub fn digests(&self) -> Vec<Hash> {
        let models = self.models().into_iter().map(|model| model.executor);
        let mut digests: Vec<Hash> = self.0.values().map(|engine| engine.digest()).chain(models).collect();
        digests.sort_unstable();
        digests.dedup();
        digests
    }

    /// Models of all engines.
    pub fn models(&self) -> Vec<ModelOffer> {
        self.0.values().flat_map(|engine| engine.models()).collect()
    }

    /// The engine for a kind of work.
    pub fn get(&self, kind: KindTag) -> Result<&dyn Executor, RunError> {
        self.0.get(&kind).map(|engine| &**engine).ok_or(RunError::Kind(kind))
    }
}

/// Takes pieces of a text while it is made. What is lost on the way is in the output, too.
pub type Frames = Arc<dyn Fn(String) + Send + Sync>;

/// The whole authority of one execution: what it may read, and where its output goes.
#[derive(Clone)]
pub struct Attempt {
    /// The blobs that the task names, and the place for those it makes.
    pub blobs: Arc<dyn BlobStore>,
    /// Whom a text is shown to while it is made, if anybody waits for it.
    pub frames: Option<Frames>,
    /// Whose task it is. What an engine keeps of it, such as a warm process, serves nobody else; where it is `None`,
    /// nothing is kept.
    pub tenant: Option<Address>,
}

impl Attempt {
    /// One that nobody watches and that leaves nothing behind.
    pub fn new(blobs: Arc<dyn BlobStore>) -> Self {
        Self { blobs, frames: None, tenant: None }
    }
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempt").finish_non_exhaustive()
    }
}

/// What a re-execution says about a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The claim is right.
    Holds,
    /// The claim is wrong; this is what came out here.
    Differs {
        /// The output of the re-execution.
        ours: Output,
    },
}

/// How a task ended, as far as the task itself decided it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Ending {
    /// It ran to its end. Anything but 0 makes the job fail with code `exit`.
    Exit(i32),
    /// It used all fuel that the job grants.
    OutOfFuel,
    /// It asked for more memory than the job grants.
    OutOfMemory,
    /// It wrote more than the job grants.
    OutputTooLarge,
    /// It did what no program may do; the text is for people and is not compared.
    Trap(String),
    /// It asks for something that no job is granted; the text names it and is not compared.
    Denied(String),
    /// It is not a module that can run; the text says why and is not compared.
    InvalidModule(String),
    /// It took longer than the job grants, compilation included. Depends on the machine, so it proves
    /// no work and is never paid.
    TimeLimit,
}

impl Ending {
    /// The code of the command contract (cli.md), or `None` for success.
    pub const fn code(&self) -> Option<&'static str> {
        match self {
            Self::Exit(0) => None,
            Self::Exit(_) => Some("exit"),
            Self::OutOfFuel => Some("out_of_fuel"),
            Self::OutOfMemory => Some("out_of_memory"),
            Self::OutputTooLarge => Some("output_too_large"),
            Self::Trap(_) => Some("trap"),
            Self::Denied(_) => Some("denied"),
            Self::InvalidModule(_) => Some("invalid_module"),
            Self::TimeLimit => Some("time_limit"),
        }
    }

    /// Whether the program did what it was sent for.
    pub const fn is_success(&self) -> bool {
        self.code().is_none()
    }

    /// Says in words what happened, for people.
    pub fn message(&self) -> String {
        match self {
            Self::Exit(code) => format!("the program ended with exit code {code}"),
            Self::OutOfFuel => "the program used all its fuel; raise limits.fuel".into(),
            Self::OutOfMemory => "the program asked for more memory than limits.memoryMiB".into(),
            Self::OutputTooLarge => "the program wrote more than limits.outputMiB".into(),
            Self::Trap(reason) => format!("the program trapped: {reason}"),
            Self::Denied(what) => format!("the program asks for {what}, which no job is granted"),
            Self::InvalidModule(reason) => format!("the module cannot run: {reason}"),
            Self::TimeLimit => "compiling and running took longer than limits.wallSeconds".into(),
        }
    }

    /// What of the ending is compared: a tag and the exit code.
    const fn compared(&self) -> (u8, i32) {
        match self {
            Self::Exit(code) => (0, *code),
            Self::OutOfFuel => (1, 0),
            Self::OutOfMemory => (2, 0),
            Self::OutputTooLarge => (3, 0),
            Self::Trap(_) => (4, 0),
            Self::Denied(_) => (5, 0),
            Self::InvalidModule(_) => (6, 0),
            Self::TimeLimit => (7, 0),
        }
    }
}

/// One file that a program left in `/out`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutFile {
    /// Path below `/out`, with `/` between its parts.
    pub path: String,
    /// The content.
    pub blob: BlobRef,
}

/// What came of a task: the ending, what it cost, and what it wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// How it ended.
    pub ending: Ending,
    /// Fuel used, in units of fuel; 0 where nothing ran or nothing can be proven.
    pub fuel_used: u64,
    /// Standard output.
    pub stdout: BlobRef,
    /// Standard error.
    pub stderr: BlobRef,
    /// Files of `/out`, sorted by path.
    pub files: Vec<OutFile>,
}

impl Output {
    /// An output of a task that wrote nothing.
    pub fn silent(ending: Ending, fuel_used: u64) -> Self {
        let nothing = BlobRef::of(&[]);
        Self { ending, fuel_used, stdout: nothing, stderr: nothing, files: Vec::new() }
    }

    /// `ExecDigest` of edge.md 2.4: what honest nodes agree on, texts for people left out.
    pub fn digest(&self) -> Hash {
        let (tag, exit) = self.ending.compared();
        let mut files = blake3::Hasher::new();
        for file in &self.files {
            files.update(&(file.path.len() as u64).to_le_bytes());
            files.update(file.path.as_bytes());
            files.update(file.blob.hash.0.as_slice());
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"theta-edge/exec/v1");
        hasher.update(&[tag]);
        hasher.update(&exit.to_le_bytes());
        hasher.update(&self.fuel_used.to_le_bytes());
        hasher.update(self.stdout.hash.0.as_slice());
        hasher.update(self.stderr.hash.0.as_slice());
        hasher.update(files.finalize().as_bytes());
        Hash::from(*hasher.finalize().as_bytes())
    }

    /// Every blob this output names.
    pub fn blobs(&self) -> impl Iterator<Item = BlobRef> + '_ {
        [self.stdout, self.stderr].into_iter().chain(self.files.iter().map(|file| file.blob))
    }
}

/// Why a node has no result. Never the task's fault: it is tried elsewhere.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The engine does not do this kind of work.
    #[error("this engine does not run {0:?} tasks")]
    Kind(KindTag),
    /// An input is not here, or the output could not be kept.
    #[error("a blob of the task cannot be used")]
    Blob(#[from] BlobError),
    /// The child process could not be started or spoken to.
    #[error("the worker process cannot be used")]
    Process(#[source] std::io::Error),
    /// The child process ended without a result, for a reason outside the task.
    #[error("the worker process ended before it had a result ({0})")]
    Lost(String),
    /// A server that does the work for the node gave no answer.
    #[error("the model's server gave no answer: {0}")]
    Upstream(String),
    /// The child process spoke another language than ours.
    #[error("the worker process gave an answer that does not decode")]
    Protocol,
}

impl RunError {
    /// A short name for messages between nodes.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Kind(_) => "wrong_kind",
            Self::Blob(_) => "blob",
            Self::Process(_) => "process",
            Self::Lost(_) => "lost",
            Self::Upstream(_) => "upstream",
            Self::Protocol => "protocol",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output() -> Output {
        let file = OutFile { path: "a/b".into(), blob: BlobRef::of(b"x") };
        Output {
            ending: Ending::Exit(0),
            fuel_used: 7,
            stdout: BlobRef::of(b"out"),
            stderr: BlobRef::of(b"err"),
            files: vec![file],
        }
    }

    #[test]
    fn every_compared_part_changes_the_digest() {
        let base = output();
        let mut others = vec![base.digest()];
        for change in [
            (|o: &mut Output| o.ending = Ending::Exit(1)) as fn(&mut Output),
            |o| o.ending = Ending::OutOfFuel,
            |o| o.fuel_used = 8,
            |o| o.stdout = BlobRef::of(b"out2"),
            |o| o.stderr = BlobRef::of(b"err2"),
            |o| o.files[0].path = "a/c".into(),
            |o| o.files[0].blob = BlobRef::of(b"y"),
            |o| o.files.clear(),
        ] {
            let mut other = base.clone();
            change(&mut other);
            others.push(other.digest());
        }
        let count = others.len();
        others.sort();
        others.dedup();
        assert_eq!(others.len(), count);
    }

    #[test]
    fn texts_for_people_are_not_compared() {
        let (a, b) = (Ending::Trap("at 1".into()), Ending::Trap("at 2".into()));
        assert_eq!(Output::silent(a, 3).digest(), Output::silent(b, 3).digest());
    }
}
