//! Programs of every kind of ending, run in real child processes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod escape;
mod job;
mod warm;

use std::sync::Arc;
use std::time::{Duration, Instant};

use theta_edge::blob::{BlobRef, BlobStore, MemBlobs};
use theta_edge::executor::{Attempt, Ending, Executor, Output, RunError, Verdict};
use theta_edge::job::{Folder, FolderFile, Limits, Task, WasmWork, Work};
use theta_edge_wasm::Wasm;

struct Bench {
    blobs: Arc<MemBlobs>,
    engine: Wasm,
    task: Task,
}

impl Bench {
    async fn new(module: impl AsRef<[u8]>) -> Self {
        let blobs = Arc::new(MemBlobs::default());
        let module = blobs.add(module.as_ref().to_vec()).await.unwrap();
        let work = Work::Wasm(WasmWork {
            module,
            program: "test.wasm".into(),
            args: Vec::new(),
            env: Vec::new(),
            stdin: None,
            inputs: Vec::new(),
        });
        let limits = Limits { fuel: 200_000_000, memory_mib: 16, wall_seconds: 20, output_mib: 1 };
        let task = Task { job: Default::default(), index: 0, work, limits };
        Self { blobs, engine: Wasm::with_worker(env!("CARGO_BIN_EXE_theta-wasm-worker")), task }
    }

    fn work(&mut self) -> &mut WasmWork {
        let Work::Wasm(work) = &mut self.task.work else { panic!("wasm") };
        work
    }

    async fn stdin(mut self, bytes: &[u8]) -> Self {
        self.work().stdin = Some(self.blobs.add(bytes.to_vec()).await.unwrap());
        self
    }

    fn attempt(&self) -> Attempt {
        Attempt::new(self.blobs.clone())
    }

    async fn try_run(&self) -> Result<Output, RunError> {
        self.engine.run(&self.task, self.attempt()).await
    }

    async fn run(&self) -> Output {
        self.try_run().await.unwrap()
    }

    async fn read(&self, blob: BlobRef) -> Vec<u8> {
        self.blobs.read_all(&blob).await.unwrap()
    }
}

/// Copies stdin to stdout.
const ECHO: &str = r#"(module (import "wasi_snapshot_preview1" "fd_read" (func $r (param i32 i32 i32 i32) (result i32)))
 (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))
 (memory (export "memory") 2)
 (func (export "_start") (loop $l (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 65536))
  (drop (call $r (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
  (if (i32.load (i32.const 8)) (then (i32.store (i32.const 4) (i32.load (i32.const 8)))
   (drop (call $w (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12))) (br $l))))))"#;

/// Counts the bytes of stdin and writes the number as four bytes.
const COUNT: &str = r#"(module (import "wasi_snapshot_preview1" "fd_read" (func $r (param i32 i32 i32 i32) (result i32)))
 (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))
 (memory (export "memory") 1)
 (func (export "_start") (local $n i32)
  (loop $l (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 1024))
   (drop (call $r (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
   (local.set $n (i32.add (local.get $n) (i32.load (i32.const 8))))
   (br_if $l (i32.load (i32.const 8))))
  (i32.store (i32.const 16) (local.get $n)) (i32.store (i32.const 0) (i32.const 16)) (i32.store (i32.const 4) (i32.const 4))
  (drop (call $w (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;

fn program(body: &str) -> String {
    format!(
        r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
        (import "wasi_snapshot_preview1" "path_open"
          (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_read" (func $r (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1) (data (i32.const 0) "\10\00\00\00\10\00\00\00") (data (i32.const 256) "a.txt" "../x" "b.bin")
        (func (export "_start") {body}))"#
    )
}

#[tokio::test]
async fn a_module_reads_stdin_and_writes_stdout() {
    let input: Vec<u8> = (0..200_000_u32).map(|i| i as u8).collect();
    let bench = Bench::new(ECHO).await.stdin(&input).await;
    let output = bench.run().await;
    assert_eq!(output.ending, Ending::Exit(0));
    assert!(output.fuel_used > 0);
    assert_eq!(bench.read(output.stdout).await, input);
    let bench = Bench::new(COUNT).await.stdin(&input).await;
    let output = bench.run().await;
    assert_eq!(bench.read(output.stdout).await, 200_000_u32.to_le_bytes());
    assert_eq!(bench.engine.check(&bench.task, &output, bench.attempt()).await.unwrap(), Verdict::Holds);
    let lie = Output { fuel_used: output.fuel_used + 1, ..output };
    assert!(matches!(
        bench.engine.check(&bench.task, &lie, bench.attempt()).await.unwrap(),
        Verdict::Differs { .. }
    ));
}

#[tokio::test]
async fn an_endless_loop_ends_out_of_fuel() {
    let bench = Bench::new(program("(loop $l (br $l))")).await;
    let output = bench.run().await;
    assert_eq!((output.ending, output.fuel_used), (Ending::OutOfFuel, 200_000_000));
}

#[tokio::test]
async fn an_endless_loop_with_endless_fuel_ends_at_the_wall_limit() {
    let mut bench = Bench::new(program("(loop $l (br $l))")).await;
    bench.task.limits = Limits { fuel: u64::MAX / 2, wall_seconds: 1, ..bench.task.limits };
    let start = Instant::now();
    assert_eq!(bench.run().await, Output::silent(Ending::TimeLimit, 0));
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}

#[tokio::test]
async fn asking_for_too_much_memory_ends_out_of_memory_for_all_alike() {
    let grow = program("(loop $l (drop (memory.grow (i32.const 16))) (br $l))");
    let first = Bench::new(&grow).await.run().await;
    assert_eq!(first.ending, Ending::OutOfMemory);
    assert_eq!(Bench::new(&grow).await.run().await.digest(), first.digest());
    let from_the_start =
        Bench::new(r#"(module (memory (export "memory") 65536) (func (export "_start")))"#).await;
    assert_eq!(from_the_start.run().await.ending, Ending::OutOfMemory);
    let table = r#"(module (memory (export "memory") 1) (table $t 0 funcref)
        (func (export "_start") (drop (table.grow $t (ref.null func) (i32.const 100000000)))))"#;
    assert_eq!(Bench::new(table).await.run().await.ending, Ending::OutOfMemory);
    // What the module itself declares as its most is not the job's limit, and growing past it just fails.
    let own = r#"(module (memory (export "memory") 1 2)
        (func (export "_start") (if (i32.ne (memory.grow (i32.const 5)) (i32.const -1)) (then unreachable))))"#;
    assert_eq!(Bench::new(own).await.run().await.ending, Ending::Exit(0));
}

#[tokio::test]
async fn a_trap_says_which() {
    for (body, reason) in [
        ("unreachable", "unreachable"),
        ("(drop (i32.div_s (i32.const 1) (i32.const 0)))", "divide by zero"),
        ("(drop (i32.load (i32.const -4)))", "out of bounds"),
    ] {
        match Bench::new(program(body)).await.run().await.ending {
            Ending::Trap(text) => assert!(text.contains(reason), "{text}"),
            other => panic!("{other:?}"),
        }
    }
    let recursion =
        r#"(module (memory (export "memory") 1) (func $f (call $f)) (func (export "_start") (call $f)))"#;
    assert!(
        matches!(Bench::new(recursion).await.run().await.ending, Ending::Trap(text) if text.contains("stack"))
    );
}

#[tokio::test]
async fn a_flood_of_output_is_cut() {
    let flood = "(i32.store (i32.const 4) (i32.const 60000))
        (loop $l (drop (call $w (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 12))) (br $l))";
    let bench = Bench::new(program(flood)).await;
    let output = bench.run().await;
    assert_eq!(output.ending, Ending::OutputTooLarge);
    assert!(output.stderr.len <= 1 << 20, "what fitted is kept");
    assert_eq!(bench.run().await.digest(), output.digest());
}

#[tokio::test]
async fn what_is_not_a_module_or_wants_more_than_wasi_is_refused() {
    for module in [
        "not a module",
        "(module (func (export \"_start\")))",
        r#"(module (memory (export "memory") 1))"#,
        "",
    ] {
        let ending = Bench::new(module).await.run().await.ending;
        assert!(matches!(ending, Ending::InvalidModule(_)), "{module}: {ending:?}");
    }
    let binary = [b"\0asm\x01\0\0\0".as_slice(), &[0xff; 40]].concat();
    assert!(matches!(Bench::new(binary).await.run().await.ending, Ending::InvalidModule(_)));
    let import = r#"(module (import "env" "system" (func (param i32))) (memory (export "memory") 1) (func (export "_start")))"#;
    assert_eq!(Bench::new(import).await.run().await.ending, Ending::Denied("env.system".into()));
}

#[tokio::test]
async fn a_module_that_keeps_the_compiler_busy_is_killed_at_the_wall_limit() {
    // One long function after the other, of loads that depend on each other: little to download packed, long to compile.
    let body = "(local.set 0 (i32.load (i32.mul (i32.xor (local.get 0) (i32.const 77)) (local.get 1))))"
        .repeat(20_000);
    let function = format!("(func (param i32 i32) {body})");
    let module =
        format!(r#"(module (memory (export "memory") 1) {} (func (export "_start")))"#, function.repeat(8));
    let mut bench = Bench::new(module).await;
    bench.task.limits.wall_seconds = 1;
    let start = Instant::now();
    let output = bench.run().await;
    assert_eq!(output.ending, Ending::TimeLimit);
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_nan_has_the_same_bytes_everywhere() {
    for expression in [
        "(f64.div (call $z) (call $z))",
        "(f64.sqrt (f64.const -1))",
        "(f64.min (f64.const nan:0xfffff) (call $z))",
        "(f64.promote_f32 (f32.div (f32.demote_f64 (call $z)) (f32.demote_f64 (call $z))))",
        "(f64.max (call $z) (f64.div (call $z) (call $z)))",
        "(f64.promote_f32 (f32.sqrt (f32.const -1)))",
        "(f64.promote_f32 (f32.max (f32.const nan:0x7ffff) (f32.const 1)))",
        "(f64x2.extract_lane 0 (f64x2.div (f64x2.splat (call $z)) (f64x2.splat (call $z))))",
        "(f64x2.extract_lane 1 (f64x2.sqrt (f64x2.splat (f64.const -1))))",
        "(f64.promote_f32 (f32x4.extract_lane 3 (f32x4.min (f32x4.splat (f32.const nan:0x7ffff)) (f32x4.splat (f32.const 1)))))",
        "(f64x2.extract_lane 0 (f64x2.relaxed_madd (f64x2.splat (f64.const inf)) (f64x2.splat (call $z)) (f64x2.splat (call $z))))",
    ] {
        let module = format!(
            r#"(module (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1) (data (i32.const 0) "\10\00\00\00\08\00\00\00")
            (func $z (result f64) (f64.const 0))
            (func (export "_start") (f64.store (i32.const 16) {expression})
             (drop (call $w (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#
        );
        let bench = Bench::new(module).await;
        let output = bench.run().await;
        assert_eq!(bench.read(output.stdout).await, [0, 0, 0, 0, 0, 0, 0xf8, 0x7f], "{expression}");
    }
}

#[tokio::test]
async fn an_exit_code_comes_back_with_what_was_written() {
    let body = "(drop (call $w (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 12))) (call $exit (i32.const 42))";
    let bench = Bench::new(program(body)).await;
    let output = bench.run().await;
    assert_eq!((output.ending.clone(), output.ending.code()), (Ending::Exit(42), Some("exit")));
    assert_eq!(output.stderr.len, 16);
}

#[tokio::test]
async fn clock_and_random_stream_depend_on_the_task_alone() {
    let body = "(drop (call $random (i32.const 16) (i32.const 8))) (drop (call $clock (i32.const 0) (i64.const 0) (i32.const 24)))
        (drop (call $w (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12)))";
    let mut bench = Bench::new(program(body)).await;
    let first = bench.read(bench.run().await.stdout).await;
    assert_eq!(bench.read(bench.run().await.stdout).await, first);
    bench.task.index = 1;
    let other = bench.read(bench.run().await.stdout).await;
    assert_ne!(other[..8], first[..8], "another task has another stream");
    assert_eq!(other[8..], first[8..], "and the same clock");
}

#[tokio::test]
async fn granted_folders_are_read_and_out_is_written_and_nothing_else() {
    // Opens a.txt in the granted folder (3), copies it to b.bin in /out (4); then tries to leave and to write the input.
    let body = r#"(if (call $open (i32.const 3) (i32.const 0) (i32.const 256) (i32.const 5) (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 32)) (then unreachable))
        (i32.store (i32.const 0) (i32.const 512))
        (drop (call $r (i32.load (i32.const 32)) (i32.const 0) (i32.const 1) (i32.const 12)))
        (i32.store (i32.const 4) (i32.load (i32.const 12)))
        (if (call $open (i32.const 4) (i32.const 0) (i32.const 265) (i32.const 5) (i32.const 1) (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 32)) (then unreachable))
        (drop (call $w (i32.load (i32.const 32)) (i32.const 0) (i32.const 1) (i32.const 12)))
        (if (i32.ne (i32.const 76) (call $open (i32.const 3) (i32.const 0) (i32.const 261) (i32.const 4) (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 32))) (then unreachable))
        (if (i32.ne (i32.const 69) (call $open (i32.const 3) (i32.const 0) (i32.const 256) (i32.const 5) (i32.const 0) (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 32))) (then unreachable))"#;
    let mut bench = Bench::new(program(body)).await;
    let blob = bench.blobs.add(b"hello, folder".to_vec()).await.unwrap();
    let files = vec![FolderFile { path: "a.txt".into(), blob }];
    bench.work().inputs = vec![Folder { path: "/data".into(), files }];
    let output = bench.run().await;
    assert_eq!(output.ending, Ending::Exit(0));
    assert_eq!(output.files.len(), 1);
    assert_eq!(output.files[0].path, "b.bin");
    assert_eq!(bench.read(output.files[0].blob).await, b"hello, folder");
}

/// A copy of the worker under a name of its own, so that its processes can be told from those of other tests.
struct OwnWorker(tempfile::TempDir);

impl OwnWorker {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(env!("CARGO_BIN_EXE_theta-wasm-worker"), folder.path().join("worker")).unwrap();
        Self(folder)
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path().join("worker")
    }

    fn processes(&self) -> Vec<i32> {
        let is_ours =
            |pid: &i32| std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == self.path());
        let entries = std::fs::read_dir("/proc").unwrap();
        entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).filter(is_ours).collect()
    }

    async fn wait_for(&self, count: usize) -> Vec<i32> {
        for _ in 0..200 {
            let processes = self.processes();
            if processes.len() == count {
                return processes;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{:?} instead of {count} processes", self.processes());
    }
}

#[tokio::test]
async fn a_child_that_is_killed_is_the_machines_fault_and_the_next_task_runs() {
    let worker = OwnWorker::new();
    let mut bench = Bench::new(program("(loop $l (br $l))")).await;
    bench.engine = Wasm::with_worker(worker.path());
    bench.task.limits.fuel = u64::MAX / 2;
    let kill = async {
        let pid = worker.wait_for(1).await[0];
        // Give it time to compile, so that it dies in the middle of the program.
        tokio::time::sleep(Duration::from_millis(300)).await;
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(pid).unwrap(),
            rustix::process::Signal::KILL,
        )
        .unwrap();
    };
    let (result, ()) = tokio::join!(bench.try_run(), kill);
    assert!(matches!(result, Err(RunError::Lost(_))), "{result:?}");
    let mut next = Bench::new(ECHO).await.stdin(b"still here").await;
    next.engine = Wasm::with_worker(worker.path());
    assert_eq!(next.run().await.ending, Ending::Exit(0));
}

#[tokio::test]
async fn dropping_a_run_kills_its_child_and_so_does_the_wall_limit() {
    let worker = OwnWorker::new();
    let mut bench = Bench::new(program("(loop $l (br $l))")).await;
    bench.engine = Wasm::with_worker(worker.path());
    bench.task.limits.fuel = u64::MAX / 2;
    let run = tokio::spawn(async move { bench.try_run().await });
    worker.wait_for(1).await;
    run.abort();
    worker.wait_for(0).await;
    let mut bench = Bench::new(program("(loop $l (br $l))")).await;
    bench.engine = Wasm::with_worker(worker.path());
    bench.task.limits = Limits { fuel: u64::MAX / 2, wall_seconds: 1, ..bench.task.limits };
    assert_eq!(bench.run().await.ending, Ending::TimeLimit);
    worker.wait_for(0).await;
}

/// A child without an engine in front of it.
fn bare_child(stdout: std::process::Stdio) -> std::process::Child {
    std::process::Command::new(env!("CARGO_BIN_EXE_theta-wasm-worker"))
        .args(["worker", "wasm"])
        .stdin(std::process::Stdio::piped())
        .stdout(stdout)
        .spawn()
        .unwrap()
}

#[test]
fn a_child_whose_parent_is_gone_ends() {
    use std::io::Write;
    let mut child = bare_child(std::process::Stdio::null());
    let nothing: Vec<String> = Vec::new();
    let env: Vec<(String, String)> = Vec::new();
    let bounds = (u64::MAX / 2, 16_u64 << 20, 1_u64 << 20, 60_u64);
    let head = (&nothing, env, &nothing, &nothing, [0_u8; 32], bounds.0, bounds.1, bounds.2, bounds.3);
    let head = theta_core::codec::record::encode(1, &head).unwrap();
    let module = program("(loop $l (br $l))");
    let mut stdin = child.stdin.take().unwrap();
    for body in [head.as_slice(), module.as_bytes(), b""] {
        stdin.write_all(&(body.len() as u32).to_le_bytes()).unwrap();
        stdin.write_all(body).unwrap();
    }
    std::thread::sleep(Duration::from_millis(500));
    assert!(child.try_wait().unwrap().is_none(), "it runs while its parent is there");
    drop(stdin);
    let start = Instant::now();
    assert_eq!(child.wait().unwrap().code(), Some(3));
    assert!(start.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn a_program_that_is_no_worker_is_an_error_and_no_result() {
    let mut bench = Bench::new(ECHO).await;
    bench.engine = Wasm::with_worker("/bin/true");
    assert!(matches!(bench.try_run().await, Err(RunError::Lost(_))));
    bench.engine = Wasm::with_worker("/nowhere/worker");
    assert!(matches!(bench.try_run().await, Err(RunError::Process(_))));
    bench.engine = Wasm::with_worker("/bin/yes");
    assert!(matches!(bench.try_run().await, Err(RunError::Protocol)));
}
