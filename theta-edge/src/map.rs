//! Map and reduce: one program over many chunks of an input, and what becomes of the results (edge.md 2.3).
//!
//! Every chunk is a job of its own, so each is verified and paid like any other ([`crate::scheduler`]); this machine says
//! which are to be run when and what their results make together. It keeps nothing that would have to survive a crash:
//! the jobs' names follow from the map's spec, so a host that lost it makes it anew, submits what it is told to, and jobs
//! that are known already are not run again.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use theta_core::amount::TFuelWei;
use theta_core::codec::rlp::{Encode, encode_list};
use theta_core::hash::{Hash, U256};

use crate::blob::BlobRef;
use crate::job::{JobError, JobSpec, Limits, Placing, PoolRef, Quorum, WasmWork, Work};
use crate::scheduler::{Report, State};

/// Chunks of one job.
pub const MAX_CHUNKS: usize = 10_000;
/// Jobs of one map that run at the same time.
const WINDOW: usize = 64;
/// Results that one reducer gets at once (edge.md 2.3); what it gives is reduced again.
const FAN_IN: usize = 16;

/// What the mappers' results become.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Merge {
    /// One after another, in the order of the chunks.
    Concat,
    /// What a program makes of them on its stdin, at most sixteen at once. It gets its own results again, so it has to
    /// give the same however they are grouped.
    Reduce {
        /// The module.
        module: BlobRef,
        /// The program's name, its argument 0.
        program: String,
        /// Its arguments.
        args: Vec<String>,
    },
}

/// A map job as it is submitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapSpec {
    /// The chain whose coins pay for it.
    pub chain_id: String,
    /// Tells apart two jobs that are otherwise equal.
    pub nonce: u64,
    /// What is done with each chunk, which comes on stdin; its own `stdin` is not looked at.
    pub work: WasmWork,
    /// The chunks, in their order.
    pub chunks: Vec<BlobRef>,
    /// What becomes of the results.
    pub merge: Merge,
    /// How much of everything one execution may use.
    pub limits: Limits,
    /// How results are believed.
    pub quorum: Quorum,
    /// The most that all of it may cost.
    pub total_cap: TFuelWei,
    /// Where the money comes from.
    pub pool: PoolRef,
    /// How its tasks stand beside others.
    pub placing: Placing,
}

impl MapSpec {
    /// Names it.
    pub fn id(&self) -> Hash {
        let mut bytes = Vec::new();
        encode_list(&mut bytes, |out| {
            self.job(0, 0, self.work.clone(), None).id().encode(out);
            self.nonce.encode(out);
            self.chunks.iter().for_each(|chunk| chunk.hash.0.encode(out));
            if let Merge::Reduce { module, program, args } = &self.merge {
                module.hash.0.encode(out);
                program.encode(out);
                args.encode(out);
            }
        });
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"theta-edge/map/v1");
        hasher.update(&bytes);
        Hash::from(*hasher.finalize().as_bytes())
    }

    /// Every blob that its jobs read, but for what they give each other.
    pub fn blobs(&self) -> Vec<BlobRef> {
        let work = Work::Wasm(WasmWork { stdin: None, ..self.work.clone() });
        let reducer = match &self.merge {
            Merge::Concat => None,
            Merge::Reduce { module, .. } => Some(*module),
        };
        work.blobs().into_iter().chain(reducer).chain(self.chunks.iter().copied()).collect()
    }

    /// How many jobs it takes at most: the mappers, and the reducers over them.
    pub fn jobs(&self) -> u64 {
        let mut jobs = self.chunks.len() as u64;
        if matches!(self.merge, Merge::Reduce { .. }) {
            let mut level = jobs;
            loop {
                level = level.div_ceil(FAN_IN as u64).max(1);
                jobs += level;
                if level == 1 {
                    break;
                }
            }
        }
        jobs
    }

    /// What one of them may cost.
    fn job_cap(&self) -> TFuelWei {
        TFuelWei::from_u256(self.total_cap.get() / U256::from(self.jobs().max(1)))
    }

    fn job(&self, level: u32, index: u32, work: WasmWork, stdin: Option<BlobRef>) -> JobSpec {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"theta-edge/map-job/v1");
        hasher.update(&self.nonce.to_le_bytes());
        hasher.update(&level.to_le_bytes());
        hasher.update(&index.to_le_bytes());
        let mut nonce = [0; 8];
        nonce.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        JobSpec {
            chain_id: self.chain_id.clone(),
            nonce: u64::from_le_bytes(nonce),
            work: Work::Wasm(WasmWork { stdin, ..work }),
            limits: self.limits,
            quorum: self.quorum,
            total_cap: self.job_cap(),
            pool: self.pool.clone(),
            placing: self.placing,
        }
    }

    /// Whether it can be taken at all.
    pub fn check(&self) -> Result<(), JobError> {
        if self.chunks.len() > MAX_CHUNKS {
            return Err(JobError::Known {
                field: "split",
                problem: "cuts the input into more than 10000 parts",
            });
        }
        if self.job_cap().is_zero() {
            return Err(JobError::Known { field: "maxTfuel", problem: "is too little for so many parts" });
        }
        self.job(0, 0, self.work.clone(), None).check()?;
        match &self.merge {
            Merge::Concat => Ok(()),
            Merge::Reduce { .. } => self.job(1, 0, self.reducer(), None).check(),
        }
    }

    fn reducer(&self) -> WasmWork {
        match &self.merge {
            Merge::Concat => self.work.clone(),
            Merge::Reduce { module, program, args } => WasmWork {
                module: *module,
                program: program.clone(),
                args: args.clone(),
                env: self.work.env.clone(),
                stdin: None,
                inputs: Vec::new(),
            },
        }
    }
}

/// What the host does, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Todo {
    /// Submit this job ([`crate::requester::Requester::submit`]); answer with [`MapJob::finished`]. One that is known
    /// and has ended already is answered at once.
    Submit(Box<JobSpec>),
    /// Make one blob of these, one after another; answer with [`MapJob::joined`].
    Join {
        /// For which reducer: level and index.
        at: (u32, u32),
        /// The blobs.
        parts: Vec<BlobRef>,
    },
    /// Cancel this job.
    Cancel(Hash),
    /// It has come to its end.
    Finished(MapReport),
}

/// How far a map job is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Chunks.
    pub chunks: u32,
    /// Of which so many have a result.
    pub mapped: u32,
    /// Jobs that run now.
    pub running: u32,
    /// Reducers that have given a result.
    pub reduced: u32,
    /// Paid so far, in wei.
    pub paid: TFuelWei,
}

/// How a map job ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapReport {
    /// Which.
    pub map: Hash,
    /// How.
    pub state: State,
    /// Code and text, unless it succeeded.
    pub error: Option<(String, String)>,
    /// The output: blobs that make it one after another.
    pub output: Vec<BlobRef>,
    /// How far it came.
    pub progress: Progress,
}

/// A map job on its way.
#[derive(Debug)]
pub struct MapJob {
    spec: MapSpec,
    id: Hash,
    /// Results of each level, mappers first.
    levels: Vec<Vec<Option<BlobRef>>>,
    /// Jobs that run: level and index.
    running: BTreeMap<Hash, (u32, u32)>,
    /// Reducers whose input is being joined.
    joining: BTreeSet<(u32, u32)>,
    /// The next job of the present level.
    next: u32,
    paid: TFuelWei,
    over: bool,
}

impl MapJob {
    /// Begins, or begins again after a restart.
    pub fn start(spec: MapSpec) -> Result<(Self, Vec<Todo>), JobError> {
        spec.check()?;
        let levels = vec![vec![None; spec.chunks.len()]];
        let (id, running, joining) = (spec.id(), BTreeMap::new(), BTreeSet::new());
        let (next, paid, over) = (0, TFuelWei::ZERO, false);
        let mut job = Self { spec, id, levels, running, joining, next, paid, over };
        let mut todo = Vec::new();
        job.advance(&mut todo);
        Ok((job, todo))
    }

    /// Its name.
    pub const fn id(&self) -> Hash {
        self.id
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        let done = |level: &Vec<Option<BlobRef>>| level.iter().flatten().count() as u32;
        Progress {
            chunks: self.spec.chunks.len() as u32,
            mapped: done(&self.levels[0]),
            running: self.running.len() as u32,
            reduced: self.levels[1..].iter().map(done).sum(),
            paid: self.paid,
        }
    }

    /// Results of the mappers so far; those in front of the first gap are the beginning of a concatenated output.
    pub fn partial(&self) -> &[Option<BlobRef>] {
        &self.levels[0]
    }

    /// A job of it came to its end. Others are not looked at.
    pub fn finished(&mut self, report: &Report) -> Vec<Todo> {
        let mut todo = Vec::new();
        let Some((level, index)) = self.running.remove(&report.job) else { return todo };
        self.paid = report.total().and_then(|paid| self.paid.checked_add(paid)).unwrap_or(self.paid);
        match (report.state, &report.output) {
            (State::Succeeded, Some(output)) => {
                self.levels[level as usize][index as usize] = Some(output.stdout);
                self.advance(&mut todo);
            }
            _ => {
                let what = if level == 0 { "part" } else { "reducer" };
                let (code, text) = report.error.clone().unwrap_or_default();
                let error = (code, format!("{what} {index}: {text}"));
                self.end(State::Failed, Some(error), &mut todo);
            }
        }
        todo
    }

    /// The input of a reducer is one blob now.
    pub fn joined(&mut self, at: (u32, u32), blob: BlobRef) -> Vec<Todo> {
        let mut todo = Vec::new();
        if self.joining.remove(&at) {
            self.submit(at, self.spec.reducer(), blob, &mut todo);
        }
        todo
    }

    /// It is not wanted any more. What was proven so far is paid by the jobs themselves.
    pub fn cancel(&mut self) -> Vec<Todo> {
        let mut todo = Vec::new();
        let error = ("cancelled".to_owned(), "the requester cancelled the job".to_owned());
        self.end(State::Cancelled, Some(error), &mut todo);
        todo
    }

    fn end(&mut self, state: State, error: Option<(String, String)>, todo: &mut Vec<Todo>) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        // Those that came last wait: if others were taken back first, these would get their places for a moment.
        let mut running: Vec<(Hash, (u32, u32))> = std::mem::take(&mut self.running).into_iter().collect();
        running.sort_by_key(|(_, at)| Reverse(*at));
        todo.extend(running.into_iter().map(|(job, _)| Todo::Cancel(job)));
        self.joining.clear();
        let output = if state == State::Succeeded {
            self.levels.last().into_iter().flatten().flatten().copied().collect()
        } else {
            Vec::new()
        };
        let (map, progress) = (self.id, self.progress());
        todo.push(Todo::Finished(MapReport { map, state, error, output, progress }));
    }

    fn submit(&mut self, at: (u32, u32), work: WasmWork, stdin: BlobRef, todo: &mut Vec<Todo>) {
        let spec = self.spec.job(at.0, at.1, work, Some(stdin));
        self.running.insert(spec.id(), at);
        todo.push(Todo::Submit(Box::new(spec)));
    }

    fn advance(&mut self, todo: &mut Vec<Todo>) {
        while !self.over {
            let level = self.levels.len() as u32 - 1;
            let width = self.levels[level as usize].len() as u32;
            while self.next < width && self.running.len() + self.joining.len() < WINDOW {
                let index = self.next;
                self.next += 1;
                if level == 0 {
                    let chunk = self.spec.chunks[index as usize];
                    self.submit((0, index), self.spec.work.clone(), chunk, todo);
                    continue;
                }
                let below = &self.levels[level as usize - 1];
                let parts = below.chunks(FAN_IN).nth(index as usize).unwrap_or_default();
                let parts: Vec<BlobRef> = parts.iter().flatten().copied().collect();
                self.joining.insert((level, index));
                todo.push(Todo::Join { at: (level, index), parts });
            }
            if self.levels[level as usize].iter().any(Option::is_none) {
                return;
            }
            let reduce = matches!(self.spec.merge, Merge::Reduce { .. });
            if reduce && (level == 0 || width > 1) {
                let width = (width as usize).div_ceil(FAN_IN).max(1);
                self.levels.push(vec![None; width]);
                self.next = 0;
            } else {
                self.end(State::Succeeded, None, todo);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::{Ending, Output};
    use crate::scheduler::Verification;
    use crate::split::{Split, cut};
    use std::collections::{HashMap, VecDeque};

    /// Blobs, and a program for each module: what stdout becomes of stdin.
    struct Host {
        blobs: HashMap<crate::blob::BlobHash, Vec<u8>>,
        submitted: Vec<Hash>,
        most: usize,
    }

    fn add(blobs: &mut HashMap<crate::blob::BlobHash, Vec<u8>>, bytes: Vec<u8>) -> BlobRef {
        let blob = BlobRef::of(&bytes);
        blobs.insert(blob.hash, bytes);
        blob
    }

    fn spec(host: &mut Host, input: &[u8], split: Split, merge: Merge) -> MapSpec {
        let chunks = cut(input, split).into_iter();
        let chunks = chunks.map(|range| input[range.start as usize..range.end as usize].to_vec());
        let chunks = chunks.map(|bytes| add(&mut host.blobs, bytes)).collect();
        let base = crate::job::tests::spec();
        let Work::Wasm(work) = base.work else { panic!("wasm") };
        MapSpec {
            chain_id: base.chain_id,
            nonce: 7,
            work: WasmWork { module: BlobRef::of(b"map"), stdin: None, ..work },
            chunks,
            merge,
            limits: base.limits,
            quorum: base.quorum,
            total_cap: TFuelWei::whole(100),
            pool: base.pool,
            placing: base.placing,
        }
    }

    fn host() -> Host {
        Host { blobs: HashMap::new(), submitted: Vec::new(), most: 0 }
    }

    impl Host {
        fn run(&mut self, spec: MapSpec, program: impl Fn(&BlobRef, &[u8]) -> Option<Vec<u8>>) -> MapReport {
            let (mut job, todo) = MapJob::start(spec).unwrap();
            let mut todo = VecDeque::from(todo);
            let mut queue: Vec<JobSpec> = Vec::new();
            loop {
                let Some(next) = todo.pop_front() else {
                    // Whichever was submitted last ends first.
                    self.most = self.most.max(queue.len());
                    let spec = queue.pop().expect("something runs");
                    let id = spec.id();
                    let Work::Wasm(work) = spec.work else { panic!("wasm") };
                    let input = self.blobs[&work.stdin.unwrap().hash].clone();
                    let output = program(&work.module, &input).map(|bytes| Output {
                        stdout: add(&mut self.blobs, bytes),
                        ..Output::silent(Ending::Exit(0), 1)
                    });
                    let failed = ("exit".to_owned(), "the program ended with exit code 1".to_owned());
                    let report = Report {
                        job: id,
                        state: if output.is_some() { State::Succeeded } else { State::Failed },
                        error: output.is_none().then_some(failed),
                        output,
                        verification: Verification::None,
                        attempts: 1,
                        paid: Vec::new(),
                        wrong: Vec::new(),
                        spilled: Vec::new(),
                    };
                    todo.extend(job.finished(&report));
                    assert!(job.finished(&report).is_empty(), "a second report changes nothing");
                    continue;
                };
                match next {
                    Todo::Submit(spec) => {
                        spec.check().unwrap();
                        self.submitted.push(spec.id());
                        queue.push(*spec);
                    }
                    Todo::Join { at, parts } => {
                        let all: Vec<u8> =
                            parts.iter().flat_map(|part| self.blobs[&part.hash].clone()).collect();
                        let blob = add(&mut self.blobs, all);
                        todo.extend(job.joined(at, blob));
                        assert!(job.joined(at, blob).is_empty());
                    }
                    Todo::Cancel(job) => queue.retain(|spec| spec.id() != job),
                    Todo::Finished(report) => {
                        assert!(queue.is_empty(), "nothing goes on");
                        return report;
                    }
                }
            }
        }

        fn output(&self, report: &MapReport) -> Vec<u8> {
            report.output.iter().flat_map(|blob| self.blobs[&blob.hash].clone()).collect()
        }
    }

    /// The sum of the numbers of each line.
    fn sum(input: &[u8]) -> Vec<u8> {
        let text = std::str::from_utf8(input).unwrap();
        let sum: u64 = text.lines().map(|line| line.parse::<u64>().unwrap()).sum();
        format!("{sum}\n").into_bytes()
    }

    #[test]
    fn merging_what_the_identity_makes_of_the_parts_is_the_input() {
        let input = b"a,1\r\nb,2\r\n\r\n\"c\nd\",3\r\nlast";
        for count in [1, 2, 3, 1_000] {
            let mut host = host();
            let spec = spec(&mut host, input, Split::Lines(count), Merge::Concat);
            let chunks = spec.chunks.len() as u32;
            let report = host.run(spec, |_, bytes| Some(bytes.to_vec()));
            assert_eq!((report.state, host.output(&report).as_slice()), (State::Succeeded, input.as_slice()));
            assert_eq!((report.progress.chunks, report.progress.mapped), (chunks, chunks));
        }
        let mut host = host();
        let empty = spec(&mut host, b"", Split::Lines(1), Merge::Concat);
        let report = host.run(empty, |_, _| panic!("there is nothing to run"));
        assert_eq!(
            (report.state, host.output(&report).len(), host.submitted.len()),
            (State::Succeeded, 0, 0)
        );
    }

    #[test]
    fn a_reducer_gets_sixteen_results_at_once_until_one_is_left() {
        let merge =
            || Merge::Reduce { module: BlobRef::of(b"reduce"), program: "r".into(), args: Vec::new() };
        for (count, jobs) in [(1_u64, 2), (16, 17), (17, 20), (300, 300 + 19 + 2 + 1)] {
            let mut host = host();
            let input: Vec<u8> = (1..=count).flat_map(|number| format!("{number}\n").into_bytes()).collect();
            let spec = spec(&mut host, &input, Split::Lines(1), merge());
            assert_eq!(spec.jobs(), jobs);
            let report = host.run(spec, |module, bytes| {
                let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
                assert!(*module == BlobRef::of(b"map") && lines == 1 || (1..=16).contains(&lines));
                Some(sum(bytes))
            });
            assert_eq!(host.output(&report), format!("{}\n", count * (count + 1) / 2).into_bytes());
            assert_eq!(host.submitted.len() as u64, jobs);
            assert!(host.most <= WINDOW, "{}", host.most);
            host.submitted.sort();
            host.submitted.dedup();
            assert_eq!(host.submitted.len() as u64, jobs, "each has a name of its own");
        }
        let mut host = host();
        let empty = spec(&mut host, b"", Split::Lines(1), merge());
        assert_eq!(empty.jobs(), 1);
        let report = host.run(empty, |_, bytes| Some(sum(bytes)));
        assert_eq!(host.output(&report), b"0\n", "a reducer sees the empty input");
    }

    #[test]
    fn one_part_that_fails_ends_the_rest_and_is_named() {
        let mut host = host();
        let spec = spec(&mut host, b"1\n2\nx\n4\n", Split::Lines(1), Merge::Concat);
        let report = host.run(spec, |_, bytes| (bytes != b"x\n").then(|| bytes.to_vec()));
        assert_eq!(report.state, State::Failed);
        assert_eq!(report.error, Some(("exit".into(), "part 2: the program ended with exit code 1".into())));
        assert_eq!((report.output.len(), report.progress.mapped), (0, 1));
    }

    #[test]
    fn a_restart_names_the_same_jobs_and_a_cancel_stops_what_runs() {
        let mut host = host();
        let spec = spec(&mut host, b"1\n2\n3\n", Split::Lines(1), Merge::Concat);
        let (mut job, first) = MapJob::start(spec.clone()).unwrap();
        let (again, second) = MapJob::start(spec.clone()).unwrap();
        assert_eq!((first.clone(), job.id()), (second, again.id()));
        assert_ne!(MapJob::start(MapSpec { nonce: 8, ..spec }).unwrap().1, first);
        let todo = job.cancel();
        assert_eq!(todo.len(), 4);
        let submitted = first.iter().rev().filter_map(|todo| match todo {
            Todo::Submit(spec) => Some(Todo::Cancel(spec.id())),
            _ => None,
        });
        assert_eq!(
            todo[..3],
            submitted.collect::<Vec<_>>(),
            "who waits longest is the last to be taken back"
        );
        assert!(matches!(&todo[3], Todo::Finished(report) if report.state == State::Cancelled));
        assert!(job.cancel().is_empty(), "once");
    }

    #[test]
    fn what_cannot_be_run_is_refused_with_the_field() {
        let mut host = host();
        let mut many = spec(&mut host, b"1\n", Split::Lines(1), Merge::Concat);
        many.chunks = vec![many.chunks[0]; MAX_CHUNKS + 1];
        assert!(many.check().unwrap_err().to_string().starts_with("split"));
        let mut poor = spec(&mut host, b"1\n2\n", Split::Lines(1), Merge::Concat);
        poor.total_cap = TFuelWei::wei(1);
        assert!(poor.check().unwrap_err().to_string().starts_with("maxTfuel"));
    }
}
