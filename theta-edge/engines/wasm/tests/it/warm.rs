//! Children that serve more than one task: they carry nothing over, and only those that did well wait.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use theta_core::codec::record;
use theta_core::hash::Address;
use theta_edge::blob::BlobStore;
use theta_edge::executor::{Attempt, Ending, Executor, Output};
use theta_edge::job::{Folder, FolderFile};
use theta_edge_wasm::Warm;

use super::{Bench, ECHO, OwnWorker, Wasm, bare_child, program};

/// Writes all of its memory to stdout before it reads stdin into it, makes a file that must not be there yet, grows, and
/// traps if a global, its memory or a table is not as at the beginning.
const DIRTY: &str = r#"(module
 (import "wasi_snapshot_preview1" "fd_read" (func $r (param i32 i32 i32 i32) (result i32)))
 (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))
 (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
 (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
 (import "wasi_snapshot_preview1" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
 (memory (export "memory") 1) (table $t 1 funcref) (global $g (mut i32) (i32.const 0))
 (data (i32.const 0) "\00\00\00\00\00\00\01\00") (data (i32.const 16) "\00\04\00\00\00\40\00\00") (data (i32.const 64) "b.bin")
 (func $f) (elem declare func $f)
 (func (export "_start")
  (if (global.get $g) (then unreachable))
  (global.set $g (i32.const 1))
  (if (i32.ne (memory.size) (i32.const 1)) (then unreachable))
  (if (i32.eqz (ref.is_null (table.get $t (i32.const 0)))) (then unreachable))
  (table.set $t (i32.const 0) (ref.func $f))
  (drop (call $w (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 32)))
  (if (call $open (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 5) (i32.const 5) (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 36)) (then unreachable))
  (if (i32.ne (i32.load (i32.const 36)) (i32.const 4)) (then unreachable))
  (drop (call $r (i32.const 0) (i32.const 16) (i32.const 1) (i32.const 40)))
  (drop (call $w (i32.load (i32.const 36)) (i32.const 16) (i32.const 1) (i32.const 44)))
  (drop (call $random (i32.const 48) (i32.const 8))) (drop (call $clock (i32.const 0) (i64.const 0) (i32.const 56)))
  (drop (call $w (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 32)))
  (drop (memory.grow (i32.const 3)))))"#;

/// What it does is the first byte of stdin: a trap, a loop, memory or output without end, or an exit with that code.
const OBEDIENT: &str = r#"(module
 (import "wasi_snapshot_preview1" "fd_read" (func $r (param i32 i32 i32 i32) (result i32)))
 (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))
 (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
 (memory (export "memory") 2) (data (i32.const 0) "\40\00\00\00\01\00\00\00") (data (i32.const 8) "\40\00\00\00\00\ea\00\00")
 (func (export "_start") (local $what i32)
  (drop (call $r (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 32)))
  (local.set $what (i32.load8_u (i32.const 64)))
  (if (i32.eq (local.get $what) (i32.const 116)) (then unreachable))
  (if (i32.eq (local.get $what) (i32.const 102)) (then (loop $l (br $l))))
  (if (i32.eq (local.get $what) (i32.const 109)) (then (loop $l (drop (memory.grow (i32.const 16))) (br $l))))
  (if (i32.eq (local.get $what) (i32.const 111))
   (then (loop $l (drop (call $w (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 32))) (br $l))))
  (call $exit (local.get $what))))"#;

/// One engine whose children are told from all others.
struct Host {
    worker: OwnWorker,
    engine: Wasm,
}

impl Host {
    fn new(warm: Warm) -> Self {
        let worker = OwnWorker::new();
        let engine = Wasm::with_worker(worker.path()).warm(warm);
        Self { worker, engine }
    }

    /// A task for this module, still to be changed.
    async fn bench(&self, module: &str, stdin: &[u8]) -> Bench {
        let mut bench = Bench::new(module).await.stdin(stdin).await;
        bench.engine = self.engine.clone();
        bench
    }

    async fn run(&self, bench: &Bench, tenant: u8) -> Output {
        let tenant = Some(Address::repeat_byte(tenant));
        self.engine.run(&bench.task, Attempt { tenant, ..bench.attempt() }).await.unwrap()
    }

    /// The one child that waits.
    async fn child(&self) -> i32 {
        self.worker.wait_for(1).await[0]
    }
}

#[tokio::test]
async fn a_child_shows_the_next_task_nothing_of_the_last() {
    let host = Host::new(Warm::default());
    let secret = b"a secret of the first task".repeat(100);
    let mut first = host.bench(DIRTY, &secret).await;
    first.work().args = vec!["first".into()];
    first.work().env = vec![("KEY".into(), "first".into())];
    assert_eq!(host.run(&first, 1).await.ending, Ending::Exit(0));
    let child = host.child().await;
    for round in 0..3 {
        let mut next = host.bench(DIRTY, b"next").await;
        next.task.index = round;
        let warm = host.run(&next, 1).await;
        assert_eq!(host.child().await, child, "the same process serves it");
        let written = next.read(warm.stdout).await;
        assert!(written.len() == 1 << 16 && !written.windows(8).any(|some| some == b"a secret"));
        let fresh = Host::new(Warm::OFF);
        assert_eq!(fresh.run(&next, 1).await, warm, "as in a process that has run nothing");
    }
}

#[tokio::test]
async fn a_child_that_met_a_limit_or_trapped_serves_no_more() {
    let host = Host::new(Warm::default());
    let run = async |what: &[u8]| host.run(&host.bench(OBEDIENT, what).await, 1).await.ending;
    for what in [b"t", b"f", b"m", b"o"] {
        assert_eq!(run(b"\x03").await, Ending::Exit(3));
        let child = host.child().await;
        assert_eq!(run(b"\x04").await, Ending::Exit(4));
        assert_eq!(host.child().await, child, "an exit code of its own is no fault");
        let ending = run(what).await;
        assert!(!matches!(ending, Ending::Exit(_)), "{ending:?}");
        host.worker.wait_for(0).await;
    }
    let mut slow = host.bench(OBEDIENT, b"\x05").await;
    slow.task.limits.wall_seconds = 1;
    assert_eq!(host.run(&slow, 1).await.ending, Ending::Exit(5));
    slow = slow.stdin(b"f").await;
    slow.task.limits.fuel = u64::MAX / 2;
    assert_eq!(host.run(&slow, 1).await.ending, Ending::TimeLimit);
    host.worker.wait_for(0).await;
}

#[tokio::test]
async fn a_run_that_is_dropped_takes_its_warm_child_along() {
    let host = Host::new(Warm::default());
    assert_eq!(host.run(&host.bench(OBEDIENT, b"\x01").await, 1).await.ending, Ending::Exit(1));
    let mut endless = host.bench(OBEDIENT, b"f").await;
    endless.task.limits.fuel = u64::MAX / 2;
    let run = tokio::time::timeout(Duration::from_millis(300), host.run(&endless, 1));
    assert!(run.await.is_err());
    host.worker.wait_for(0).await;
}

#[tokio::test]
async fn another_requester_module_folder_or_limit_gets_a_child_of_its_own() {
    let host = Host::new(Warm::default());
    let mut bench = host.bench(ECHO, b"hello").await;
    let mut count = 0;
    let mut own = async |bench: &Bench, tenant: u8| {
        count += 1;
        assert_eq!(host.run(bench, tenant).await.ending, Ending::Exit(0));
        host.worker.wait_for(count).await;
        // And again without another.
        assert_eq!(host.run(bench, tenant).await.ending, Ending::Exit(0));
        host.worker.wait_for(count).await;
    };
    own(&bench, 1).await;
    own(&bench, 2).await;
    bench.task.limits.memory_mib += 1;
    own(&bench, 1).await;
    bench.task.limits.wall_seconds += 1;
    own(&bench, 1).await;
    let blob = bench.blobs.add(b"granted".to_vec()).await.unwrap();
    bench.work().inputs =
        vec![Folder { path: "/data".into(), files: vec![FolderFile { path: "a.txt".into(), blob }] }];
    own(&bench, 1).await;
    let blob = bench.blobs.add(b"granted, too".to_vec()).await.unwrap();
    bench.work().inputs[0].files[0].blob = blob;
    own(&bench, 1).await;
    own(&host.bench(OBEDIENT, b"\0").await, 1).await;
    // Nobody says whose task this is.
    assert_eq!(bench.run().await.ending, Ending::Exit(0));
    host.worker.wait_for(count).await;
}

#[tokio::test]
async fn a_child_that_waited_too_long_ends() {
    let host = Host::new(Warm { idle: Duration::from_millis(500), ..Warm::default() });
    let bench = host.bench(ECHO, b"hello").await;
    for _ in 0..2 {
        assert_eq!(host.run(&bench, 1).await.ending, Ending::Exit(0));
        let child = host.child().await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(host.worker.processes(), [child], "not before its time");
        host.worker.wait_for(0).await;
    }
}

#[tokio::test]
async fn no_more_children_wait_than_allowed_and_none_serves_for_ever() {
    let host = Host::new(Warm { children: 2, tasks: 3, ..Warm::default() });
    let bench = host.bench(ECHO, b"hello").await;
    let all =
        tokio::join!(host.run(&bench, 1), host.run(&bench, 1), host.run(&bench, 2), host.run(&bench, 3));
    assert_eq!([all.0, all.1, all.2, all.3].map(|output| output.ending), [const { Ending::Exit(0) }; 4]);
    host.worker.wait_for(2).await;
    let host = Host::new(Warm { children: 2, tasks: 3, ..Warm::default() });
    host.run(&bench, 1).await;
    let child = host.child().await;
    host.run(&bench, 1).await;
    assert_eq!(host.child().await, child);
    host.run(&bench, 1).await;
    host.worker.wait_for(0).await;
}

#[tokio::test]
async fn the_end_of_the_engine_takes_waiting_children_along() {
    let Host { worker, engine } = Host::new(Warm::default());
    let host = Host { worker: OwnWorker::new(), engine };
    let mut bench = host.bench(ECHO, b"hello").await;
    host.run(&bench, 1).await;
    host.run(&bench, 2).await;
    worker.wait_for(2).await;
    drop(host);
    assert_eq!(worker.processes().len(), 2, "another handle is still there");
    bench.engine = Wasm::with_worker("/nowhere");
    worker.wait_for(0).await;
}

#[tokio::test]
async fn a_waiting_child_that_died_is_not_missed() {
    let host = Host::new(Warm::default());
    let bench = host.bench(ECHO, b"hello").await;
    host.run(&bench, 1).await;
    let child = host.child().await;
    kill_process(Pid::from_raw(child).unwrap(), Signal::KILL).unwrap();
    assert_eq!(host.run(&bench, 1).await.ending, Ending::Exit(0));
    assert_ne!(host.child().await, child);
}

/// Looks like the child's answer on the wire.
#[derive(Serialize)]
enum Answer {
    Compiled,
    Done { ending: Ending, fuel_used: u64, files: Vec<String> },
}

#[tokio::test]
async fn an_answer_that_a_waiting_child_gave_unasked_is_not_believed() {
    let worker = OwnWorker::new();
    let folder = worker.path().parent().unwrap().to_owned();
    let frame = |answer: &Answer| {
        let bytes = record::encode(1, answer).unwrap();
        [&(bytes.len() as u32).to_le_bytes()[..], &bytes].concat()
    };
    let done = Answer::Done { ending: Ending::Exit(77), fuel_used: 1, files: vec![] };
    let frames = [frame(&Answer::Compiled), frame(&done), vec![0; 8]].concat();
    std::fs::write(folder.join("forged"), frames).unwrap();
    let script = folder.join("script");
    let text = format!(
        "#!/bin/sh\n(while [ ! -e {0}/now ]; do sleep 0.05; done; cat {0}/forged; rm {0}/now) <&- &\nexec {1} \"$@\"\n",
        folder.display(),
        worker.path().display()
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o700)).unwrap();
    let host = Host { worker, engine: Wasm::with_worker(script) };
    let bench = host.bench(ECHO, b"hello").await;
    assert_eq!(host.run(&bench, 1).await.ending, Ending::Exit(0));
    let child = host.child().await;
    std::fs::write(folder.join("now"), "").unwrap();
    while folder.join("now").exists() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(host.run(&bench, 1).await.ending, Ending::Exit(0));
    assert!(!host.worker.processes().contains(&child), "it is ended");
}

#[tokio::test]
async fn a_child_is_as_bounded_in_later_tasks_as_in_the_first() {
    let host = Host::new(Warm::default());
    let bench = host.bench(ECHO, b"hello").await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        host.run(&bench, 1).await;
        let child = host.child().await;
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{child}/{name}")).unwrap();
        assert_eq!(read("environ"), "MIMALLOC_ARENA_RESERVE=4096\0");
        let descriptors = std::fs::read_dir(format!("/proc/{child}/fd")).unwrap().count();
        seen.push((child, read("limits"), descriptors));
    }
    assert!(seen.iter().all(|one| *one == seen[0]), "{seen:#?}");
    let limits = &seen[0].1;
    for (name, bound) in [("Max cpu time", "25"), ("Max file size", "0"), ("Max open files", "32")] {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        let words: Vec<_> = line[name.len()..].split_whitespace().take(2).collect();
        assert_eq!(words, [bound, bound], "{name}");
    }
}

#[test]
fn a_waiting_child_whose_parent_is_gone_ends() {
    let mut child = bare_child(Stdio::piped());
    let (nothing, env): (Vec<String>, Vec<(String, String)>) = Default::default();
    let head =
        (&nothing, &env, &nothing, &nothing, [0_u8; 32], 1_000_000_u64, 16_u64 << 20, 1_u64 << 20, 60_u64);
    let head = record::encode(1, &head).unwrap();
    let module = program("");
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut say = |bodies: &[&[u8]]| {
        for body in bodies {
            stdin.write_all(&(body.len() as u32).to_le_bytes()).unwrap();
            stdin.write_all(body).unwrap();
        }
    };
    say(&[&head, module.as_bytes(), b""]);
    let mut frame = || {
        let mut len = [0; 4];
        stdout.read_exact(&mut len).unwrap();
        let mut body = vec![0; u32::from_le_bytes(len) as usize];
        stdout.read_exact(&mut body).unwrap();
        body
    };
    let answers: Vec<_> = (0..4).map(|_| frame()).collect();
    // Without the module, and without being compiled.
    say(&[&head, b""]);
    assert_eq!([frame(), frame(), frame()], answers[1..]);
    assert!(child.try_wait().unwrap().is_none(), "it waits");
    drop(stdin);
    let start = Instant::now();
    assert_eq!(child.wait().unwrap().code(), Some(3));
    assert!(start.elapsed() < Duration::from_secs(3));
}
