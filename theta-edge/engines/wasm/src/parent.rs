//! The parent's side: finds or starts a child for each attempt, feeds it, waits for it no longer than the job allows.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use async_trait::async_trait;
use rustix::process::{Pid, Signal, kill_process_group};
use theta_core::codec::record;
use theta_core::hash::Hash;
use theta_edge::blob::BlobStore;
use theta_edge::executor::{Attempt, Ending, Executor, OutFile, Output, RunError};
use theta_edge::job::{KindTag, Task, WasmWork, Work};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader, BufWriter, ReadBuf};
use tokio::process::{ChildStdin, ChildStdout, Command};
use tokio::time::{Instant, timeout};

use crate::frame::{Answer, MAX_BODY, MAX_HEAD, Request, VERSION, is_reusable};
use crate::pool::{Likeness, Pool, Warm};
use crate::{ENGINE, PROFILE, WORKER};

/// Runs WebAssembly tasks in child processes. A child whose task came to its own end may serve later tasks of the same
/// requester, module and granted files ([`Warm`]); clones share those that wait, and the last one's end is theirs.
///
/// Dropping the future of [`Executor::run`] kills the child.
#[derive(Clone, Debug)]
pub struct Wasm {
    program: PathBuf,
    args: Vec<OsString>,
    pool: Arc<Pool>,
}

impl Wasm {
    /// Children are this same program, which must call [`crate::worker`] first.
    pub fn current_exe() -> io::Result<Self> {
        std::env::current_exe().map(Self::with_worker)
    }

    /// Children are another program that calls [`crate::worker`] first.
    pub fn with_worker(program: impl Into<PathBuf>) -> Self {
        let pool = Pool::new(Warm::default());
        Self { program: program.into(), args: vec![WORKER.into(), ENGINE.into()], pool }
    }

    /// With these bounds of children that wait, and none that waits yet.
    #[must_use]
    pub fn warm(self, warm: Warm) -> Self {
        Self { pool: Pool::new(warm), ..self }
    }

    fn spawn(&self) -> io::Result<Child> {
        let mut child = Command::new(&self.program)
            .args(&self.args)
            // The operator's environment may hold keys; a module's compiler has no business with it.
            .env_clear()
            // An allocator of the program's own may reserve a gigabyte at once, which would count against the child's limit.
            .env("MIMALLOC_ARENA_RESERVE", "4096")
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (stdin, stdout) = pipes.ok_or_else(|| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(Child {
            group: Group(child),
            stdin: BufWriter::new(stdin),
            stdout: BufReader::new(stdout),
            tasks: 0,
            busy: Duration::ZERO,
            largest: 0,
        })
    }
}

/// A child with its pipes, and what it has done.
#[derive(Debug)]
pub(crate) struct Child {
    group: Group,
    stdin: BufWriter<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    /// Tasks that it was given.
    pub(crate) tasks: u32,
    /// How long it had them; it cannot have used more of a processor.
    pub(crate) busy: Duration,
    /// Bytes that it was given and gave in its largest task.
    pub(crate) largest: usize,
}

impl Child {
    /// Whether it lives and says nothing, as one does that waits.
    pub(crate) fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        let mut nobody = Context::from_waker(Waker::noop());
        let read =
            Pin::new(&mut self.stdout).poll_read(&mut nobody, &mut ReadBuf::new(&mut byte)).is_pending();
        read && matches!(self.group.0.try_wait(), Ok(None))
    }

    /// Gives it one task, with the module if it is new, and waits for its answer.
    async fn serve(&mut self, module: Option<&[u8]>, given: &Given, task: &Task) -> Result<Done, Broken> {
        let begin = Instant::now();
        self.tasks += 1;
        let mut bytes = 0;
        let head = Some(given.head.as_slice());
        for body in head.into_iter().chain(module).chain(given.bodies.iter().map(Vec::as_slice)) {
            self.send(body).await?;
            bytes += body.len();
        }
        self.stdin.flush().await.map_err(|_| Broken::Ended { compiled: false })?;
        let mut compiled = module.is_none();
        let (ending, fuel_used, files) = loop {
            let head = self.receive(MAX_HEAD, compiled).await?;
            match record::decode(VERSION, &head).map_err(|_| Broken::Nonsense)? {
                Answer::Compiled => compiled = true,
                Answer::Failed(reason) => return Err(Broken::Failed(reason)),
                Answer::Done { ending, fuel_used, files } => break (ending, fuel_used, files),
            }
        };
        let mut left = (task.limits.output_mib as usize) << 20;
        let mut bodies = Vec::new();
        for _ in 0..files.len() + 2 {
            let body = self.receive(left.min(MAX_BODY), compiled).await?;
            left -= body.len();
            bytes += body.len();
            bodies.push(body);
        }
        self.largest = self.largest.max(bytes);
        self.busy += begin.elapsed();
        Ok(Done { ending, fuel_used, files, bodies })
    }

    async fn send(&mut self, body: &[u8]) -> Result<(), Broken> {
        let ended = |_| Broken::Ended { compiled: false };
        let len = u32::try_from(body.len()).map_err(|_| Broken::Nonsense)?;
        self.stdin.write_all(&len.to_le_bytes()).await.map_err(ended)?;
        self.stdin.write_all(body).await.map_err(ended)
    }

    async fn receive(&mut self, limit: usize, compiled: bool) -> Result<Vec<u8>, Broken> {
        let ended = move |_| Broken::Ended { compiled };
        let len = self.stdout.read_u32_le().await.map_err(ended)?;
        if len as usize > limit {
            return Err(Broken::Nonsense);
        }
        let mut body = Vec::new();
        (&mut self.stdout).take(u64::from(len)).read_to_end(&mut body).await.map_err(ended)?;
        if body.len() < len as usize { Err(Broken::Ended { compiled }) } else { Ok(body) }
    }
}

/// A process and its group, killed together when this is dropped.
#[derive(Debug)]
struct Group(tokio::process::Child);

impl Drop for Group {
    fn drop(&mut self) {
        // `id` is `None` once the child was waited for, so the number cannot belong to another process by now.
        if let Some(pid) = self.0.id().and_then(|id| Pid::from_raw(id as i32)) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

#[async_trait]
impl Executor for Wasm {
    fn kind(&self) -> KindTag {
        KindTag::Wasm
    }

    fn digest(&self) -> Hash {
        Hash::from(*blake3::hash(PROFILE.as_bytes()).as_bytes())
    }

    async fn run(&self, task: &Task, attempt: Attempt) -> Result<Output, RunError> {
        let Work::Wasm(work) = &task.work else { return Err(RunError::Kind(task.work.kind())) };
        let given = Given::load(task, work, &*attempt.blobs).await?;
        let limit = Duration::from_secs(task.limits.wall_seconds);
        let likeness = Likeness::of(work, &task.limits, &attempt);
        let mut served = None;
        if let Some(mut child) = likeness.as_ref().and_then(|likeness| self.pool.take(likeness)) {
            match timeout(limit, child.serve(None, &given, task)).await {
                Err(_) => return Ok(Output::silent(Ending::TimeLimit, 0)),
                Ok(Ok(done)) => served = Some((child, done)),
                // The machine may have ended one that waited, and what it did before is no fault of this task.
                Ok(Err(_)) => {}
            }
        }
        let (child, done) = match served {
            Some(both) => both,
            None => {
                let module = attempt.blobs.read_all(&work.module).await?;
                let mut child = self.spawn().map_err(RunError::Process)?;
                match timeout(limit, child.serve(Some(&module), &given, task)).await {
                    Err(_) => return Ok(Output::silent(Ending::TimeLimit, 0)),
                    Ok(Ok(done)) => (child, done),
                    Ok(Err(broken)) => return broken.explain(&mut child.group.0).await,
                }
            }
        };
        match likeness {
            Some(likeness) if is_reusable(&done.ending) => self.pool.put(likeness, child),
            _ => drop(child),
        }
        let mut bodies = done.bodies.into_iter();
        let mut keep = async || {
            let bytes = bodies.next().unwrap_or_default();
            attempt.blobs.add(bytes).await
        };
        let (stdout, stderr) = (keep().await?, keep().await?);
        let mut files = Vec::new();
        for path in done.files {
            files.push(OutFile { path, blob: keep().await? });
        }
        Ok(Output { ending: done.ending, fuel_used: done.fuel_used, stdout, stderr, files })
    }
}

/// What a child is told: the head of the request, then stdin and every file.
struct Given {
    head: Vec<u8>,
    bodies: Vec<Vec<u8>>,
}

impl Given {
    /// Reads the blobs that the task names, but for the module.
    async fn load(task: &Task, work: &WasmWork, blobs: &dyn BlobStore) -> Result<Self, RunError> {
        let mut bodies = vec![match &work.stdin {
            Some(stdin) => blobs.read_all(stdin).await?,
            None => Vec::new(),
        }];
        let mut files = Vec::new();
        for folder in &work.inputs {
            for file in &folder.files {
                files.push(format!("{}/{}", folder.path, file.path));
                bodies.push(blobs.read_all(&file.blob).await?);
            }
        }
        let request = Request {
            args: [work.program.clone()].into_iter().chain(work.args.iter().cloned()).collect(),
            env: work.env.clone(),
            folders: work.inputs.iter().map(|folder| folder.path.clone()).collect(),
            files,
            seed: task.id().0,
            fuel: task.limits.fuel,
            memory_bytes: u64::from(task.limits.memory_mib) << 20,
            output_bytes: u64::from(task.limits.output_mib) << 20,
            wall_seconds: task.limits.wall_seconds,
        };
        let head = record::encode(VERSION, &request).map_err(|_| RunError::Protocol)?;
        Ok(Self { head, bodies })
    }
}

struct Done {
    ending: Ending,
    fuel_used: u64,
    files: Vec<String>,
    bodies: Vec<Vec<u8>>,
}

/// How the talk with a child broke off.
enum Broken {
    /// The child closed its end.
    Ended { compiled: bool },
    /// The child said that its machine failed it.
    Failed(String),
    /// What came does not decode or is too long.
    Nonsense,
}

impl Broken {
    /// Tells from the child's end whether the task or the machine is to blame.
    async fn explain(self, child: &mut tokio::process::Child) -> Result<Output, RunError> {
        let compiled = match self {
            Self::Failed(reason) => return Err(RunError::Lost(reason)),
            Self::Nonsense => return Err(RunError::Protocol),
            Self::Ended { compiled } => compiled,
        };
        let status = child.wait().await.map_err(RunError::Process)?;
        let signal = status.signal().and_then(Signal::from_named_raw);
        match signal {
            Some(Signal::XCPU) => Ok(Output::silent(Ending::TimeLimit, 0)),
            // Memory that cannot be had aborts the child, and only the compiler's use depends on nothing but the module.
            Some(Signal::ABORT) if !compiled => Ok(Output::silent(Ending::OutOfMemory, 0)),
            Some(Signal::SEGV | Signal::BUS | Signal::ILL) if !compiled => {
                Ok(Output::silent(Ending::InvalidModule("the compiler fails on it".into()), 0))
            }
            _ => Err(RunError::Lost(status.to_string())),
        }
    }
}
