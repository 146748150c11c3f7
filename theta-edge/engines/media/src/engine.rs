//! The parent's side: a folder for each attempt, a child in it, and what it leaves.

use std::{
    ffi::OsString,
    io,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use async_trait::async_trait;
use rustix::process::{Pid, Signal, kill_process_group};
use theta_core::hash::Hash;
use theta_edge::{
    executor::{Attempt, Ending, Executor, OutFile, Output, RunError},
    job::{KindTag, Task, Work},
    transcode::{COPY, FACTS, Step, TranscodeWork},
};
use tokio::{
    io::AsyncReadExt as _,
    process::{Child, Command},
    time::Instant,
};

use crate::{
    ENGINE, PROFILE, WORKER,
    child::{Bounds, NOT_STARTED, UNBOUNDED},
    command::{self, CLIP, LIST},
    facts,
};

/// Bytes of what a program says that are kept.
const SAID: u64 = 64 * 1024;
/// Bytes of a list of segments that are read.
const MAX_LIST: u64 = 8 << 20;

/// There is no ffmpeg that can be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "{program} cannot be used here ({reason}); install ffmpeg with libx264, such as Debian's package ffmpeg"
)]
pub struct NoFfmpeg {
    program: &'static str,
    reason: String,
}

/// Does [`Step`]s of work on clips, each in a child process of its own.
///
/// Dropping the future of [`Executor::run`] kills the child.
#[derive(Clone, Debug)]
pub struct Media {
    worker: PathBuf,
    ffmpeg: PathBuf,
    ffprobe: PathBuf,
    version: String,
}

/// Where a program is, by `PATH`.
fn find(program: &'static str) -> Result<PathBuf, NoFfmpeg> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(program)).find(|path| path.is_file());
    found.ok_or_else(|| NoFfmpeg { program, reason: "it is not in PATH".to_owned() })
}

impl Media {
    /// Looks for ffmpeg; children are this same program, which must call [`crate::worker`] first.
    pub fn find() -> Result<Self, NoFfmpeg> {
        let worker = std::env::current_exe();
        Self::with_worker(
            worker.map_err(|error| NoFfmpeg { program: "this program", reason: error.to_string() })?,
        )
    }

    /// The same, with another program that calls [`crate::worker`] first.
    pub fn with_worker(worker: PathBuf) -> Result<Self, NoFfmpeg> {
        let (ffmpeg, ffprobe) = (find("ffmpeg")?, find("ffprobe")?);
        let problem = |reason: String| NoFfmpeg { program: "ffmpeg", reason };
        let said = |arg: &[&str]| {
            let said =
                std::process::Command::new(&ffmpeg).args(arg).env_clear().stdin(Stdio::null()).output();
            let said = said.map_err(|error| problem(error.to_string()))?;
            Ok::<_, NoFfmpeg>(String::from_utf8_lossy(&said.stdout).into_owned())
        };
        // Its first line has the version; the others how it was built and with which libraries.
        let version = said(&["-hide_banner", "-version"])?;
        let encoders = said(&["-hide_banner", "-encoders"])?;
        if !encoders.contains("libx264") {
            return Err(problem("it was built without libx264".to_owned()));
        }
        Ok(Self { worker, ffmpeg, ffprobe, version })
    }

    async fn run_in(
        &self,
        folder: &Path,
        program: &Path,
        args: Vec<String>,
        budget: Budget,
    ) -> Result<Ran, Stopped> {
        let mut child = Command::new(&self.worker)
            .args([WORKER, ENGINE])
            .args(budget.bounds.args())
            .arg(program)
            .args(args.into_iter().map(OsString::from))
            // The operator's environment may hold keys.
            .env_clear()
            .env("MIMALLOC_ARENA_RESERVE", "4096")
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map(Group)
            .map_err(|error| Stopped::Node(RunError::Process(error)))?;
        let pipes = child.0.stdout.take().zip(child.0.stderr.take());
        let (mut stdout, mut stderr) =
            pipes.ok_or_else(|| Stopped::Node(RunError::Process(io::ErrorKind::BrokenPipe.into())))?;
        let whole = async {
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let (out_read, err_read) =
                tokio::join!(bounded(&mut stdout, &mut out), bounded(&mut stderr, &mut err));
            out_read.and(err_read)?;
            let status = child.0.wait().await?;
            Ok::<_, io::Error>(Ran { status, out, err: String::from_utf8_lossy(&err).trim().to_owned() })
        };
        let ran = match tokio::time::timeout_at(budget.until, whole).await {
            Err(_) => return Err(Stopped::Task(Ending::TimeLimit, String::new())),
            Ok(ran) => ran.map_err(|error| Stopped::Node(RunError::Process(error)))?,
        };
        match (ran.status.code(), ran.status.signal()) {
            (Some(0), _) => Ok(ran),
            (Some(UNBOUNDED | NOT_STARTED), _) => Err(Stopped::Node(RunError::Lost(ran.err))),
            (Some(code), _) => Err(Stopped::Task(Ending::Exit(code), ran.err)),
            // The bounds end it so.
            (None, Some(signal)) if signal == Signal::XFSZ.as_raw() => {
                Err(Stopped::Task(Ending::OutputTooLarge, ran.err))
            }
            (None, Some(signal)) if signal == Signal::XCPU.as_raw() => {
                Err(Stopped::Task(Ending::TimeLimit, ran.err))
            }
            (None, signal) => {
                let reason = format!("ffmpeg ended by signal {}", signal.unwrap_or_default());
                Err(Stopped::Task(Ending::Trap(reason), ran.err))
            }
        }
    }

    /// What the step leaves in the folder: names of files, in their order.
    async fn step(
        &self,
        work: &TranscodeWork,
        folder: &Path,
        budget: Budget,
    ) -> Result<Vec<String>, Stopped> {
        match &work.step {
            Step::Prepare => {
                self.run_in(folder, &self.ffmpeg, command::prepare(), budget).await?;
                let probed = self.run_in(folder, &self.ffprobe, command::probe(), budget).await?;
                let clip = facts::read(&probed.out).map_err(|why| Stopped::Task(Ending::Exit(1), why))?;
                let facts = serde_json::to_vec(&clip)
                    .map_err(|error| Stopped::Node(RunError::Process(error.into())))?;
                tokio::fs::write(folder.join(FACTS), facts).await.map_err(broken)?;
                Ok(vec![FACTS.to_owned(), COPY.to_owned()])
            }
            Step::Video { rung, grid, first, count } => {
                self.run_in(folder, &self.ffmpeg, command::video(rung, grid, *first, *count), budget).await?;
                let names: Vec<String> =
                    (*first..*first + *count).map(|segment| format!("{segment}.ts")).collect();
                if let Some(missing) = names.iter().find(|name| !folder.join(name).exists()) {
                    let why = format!("the clip is damaged: no picture of segment {missing} can be decoded");
                    return Err(Stopped::Task(Ending::Exit(1), why));
                }
                Ok(names)
            }
            Step::Sound { grid, bits } => {
                self.run_in(folder, &self.ffmpeg, command::sound(grid, *bits), budget).await?;
                listed(folder).await
            }
            Step::Source { grid } => {
                self.run_in(folder, &self.ffmpeg, command::source(grid), budget).await?;
                listed(folder).await
            }
        }
    }
}

/// Segments of a list, and the list.
async fn listed(folder: &Path) -> Result<Vec<String>, Stopped> {
    let path = folder.join(LIST);
    if tokio::fs::metadata(&path).await.map_err(broken)?.len() > MAX_LIST {
        return Err(Stopped::Task(Ending::OutputTooLarge, String::new()));
    }
    let list = tokio::fs::read_to_string(&path).await.map_err(broken)?;
    let count = list.lines().count();
    let segments = (0..count).map(|segment| format!("{segment}.ts"));
    Ok(segments.chain([LIST.to_owned()]).collect())
}

/// What a program said, without the addresses in its memory: honest nodes say the same.
fn same_everywhere(said: &str) -> String {
    let mut words = said.split(" @ 0x");
    let mut same = words.next().unwrap_or_default().to_owned();
    for rest in words {
        same.push_str(rest.trim_start_matches(|c: char| c.is_ascii_hexdigit()));
    }
    same
}

async fn bounded(pipe: &mut (impl tokio::io::AsyncRead + Unpin), into: &mut Vec<u8>) -> io::Result<()> {
    (&mut *pipe).take(SAID).read_to_end(into).await?;
    // The rest is read, or it would wait for us.
    tokio::io::copy(pipe, &mut tokio::io::sink()).await?;
    Ok(())
}

fn broken(error: io::Error) -> Stopped {
    Stopped::Node(RunError::Process(error))
}

#[derive(Clone, Copy)]
struct Budget {
    bounds: Bounds,
    until: Instant,
}

struct Ran {
    status: ExitStatus,
    out: Vec<u8>,
    err: String,
}

/// Why a step came to nothing.
enum Stopped {
    /// By the task's own doing; the text is for people.
    Task(Ending, String),
    /// By the node's.
    Node(RunError),
}

/// A child and its process group, killed together when this is dropped.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        // `id` is `None` once the child was waited for, so the number cannot belong to another process by now.
        if let Some(pid) = self.0.id().and_then(|id| Pid::from_raw(id as i32)) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

#[async_trait]
impl Executor for Media {
    fn kind(&self) -> KindTag {
        KindTag::Transcode
    }

    fn digest(&self) -> Hash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(PROFILE.as_bytes());
        hasher.update(self.version.as_bytes());
        Hash::from(*hasher.finalize().as_bytes())
    }

    async fn run(&self, task: &Task, attempt: Attempt) -> Result<Output, RunError> {
        let Work::Transcode(work) = &task.work else { return Err(RunError::Kind(task.work.kind())) };
        let limits = &task.limits;
        let units = work.units();
        if units > limits.fuel {
            return Ok(Output::silent(Ending::OutOfFuel, 0));
        }
        let output = u64::from(limits.output_mib) << 20;
        let budget = Budget {
            bounds: Bounds {
                memory: u64::from(limits.memory_mib) << 20,
                output,
                seconds: limits.wall_seconds.saturating_add(5),
            },
            until: Instant::now() + Duration::from_secs(limits.wall_seconds),
        };
        let folder = tempfile::tempdir().map_err(RunError::Process)?;
        let name = if work.step == Step::Prepare { CLIP } else { COPY };
        let clip = attempt.blobs.read_all(&work.source).await?;
        tokio::fs::write(folder.path().join(name), clip).await.map_err(RunError::Process)?;
        let names = match self.step(work, folder.path(), budget).await {
            Ok(names) => names,
            Err(Stopped::Node(error)) => return Err(error),
            Err(Stopped::Task(ending, why)) => {
                let mut stopped = Output::silent(ending, 0);
                stopped.stderr = attempt.blobs.add(same_everywhere(&why).into_bytes()).await?;
                attempt.blobs.add(Vec::new()).await?;
                return Ok(stopped);
            }
        };
        let (mut files, mut all) = (Vec::new(), 0_u64);
        for name in names {
            let path = folder.path().join(&name);
            let len = tokio::fs::metadata(&path).await.map_err(RunError::Process)?.len();
            all = all.saturating_add(len);
            if all > output {
                return Ok(Output::silent(Ending::OutputTooLarge, 0));
            }
            let bytes = tokio::fs::read(&path).await.map_err(RunError::Process)?;
            files.push(OutFile { path: name, blob: attempt.blobs.add(bytes).await? });
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let nothing = attempt.blobs.add(Vec::new()).await?;
        Ok(Output { ending: Ending::Exit(0), fuel_used: units, stdout: nothing, stderr: nothing, files })
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_a_program_says_is_the_same_everywhere() {
        let said = "[mov,mp4 @ 0x5581fa] moov atom not found\nclip: Invalid data [x @ 0x12] y";
        assert_eq!(super::same_everywhere(said), "[mov,mp4] moov atom not found\nclip: Invalid data [x] y");
        assert_eq!(super::same_everywhere(""), "");
    }
}
