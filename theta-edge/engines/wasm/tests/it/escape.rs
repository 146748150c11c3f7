//! Ways out of the sandbox, each by name (edge.md 9): paths, sockets, descriptors, memory, tables, stack, compiler, fuel,
//! output, clock, environment. None gets out, and after all of them the machine is as it was.

use std::time::{Duration, Instant};

use theta_edge::blob::BlobStore;
use theta_edge::executor::{Attempt, Ending, Executor};
use theta_edge::job::{Folder, FolderFile};

use super::{Bench, ECHO, OwnWorker, Wasm};

/// All of the calls that an attempt may make, and the two vectors that most of them use.
fn module(data: &str, body: &str) -> String {
    format!(
        r#"(module
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (import "wasi_snapshot_preview1" "proc_raise" (func $raise (param i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_pwrite" (func $pwrite (param i32 i32 i32 i64 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_renumber" (func $renumber (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_seek" (func $seek (param i32 i64 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_allocate" (func $allocate (param i32 i64 i64) (result i32)))
        (import "wasi_snapshot_preview1" "fd_filestat_set_size" (func $size (param i32 i64) (result i32)))
        (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
        (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "path_open"
          (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "path_symlink" (func $symlink (param i32 i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "path_link" (func $link (param i32 i32 i32 i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "path_readlink"
          (func $readlink (param i32 i32 i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "path_rename" (func $rename (param i32 i32 i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "path_unlink_file" (func $unlink (param i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "path_create_directory" (func $mkdir (param i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "sock_accept" (func $accept (param i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "sock_recv" (func $recv (param i32 i32 i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "sock_send" (func $send (param i32 i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "sock_shutdown" (func $shutdown (param i32 i32) (result i32)))
        (memory (export "memory") 2)
        (data (i32.const 0) "\40\00\00\00\10\00\00\00") (data (i32.const 1024) "{data}") (data (i32.const 2048) "a.txt" "b" "sub")
        (func $try (param $dir i32) (param $len i32) (param $flags i32) (param $rights i64) (result i32)
          (call $open (local.get $dir) (i32.const 0) (i32.const 1024) (local.get $len) (local.get $flags)
            (local.get $rights) (i64.const 0) (i32.const 0) (i32.const 32)))
        (func $a (param $flags i32) (param $rights i64) (result i32)
          (call $open (i32.const 3) (i32.const 0) (i32.const 2048) (i32.const 5) (local.get $flags)
            (local.get $rights) (i64.const 0) (i32.const 0) (i32.const 32)))
        (func (export "_start") {body}))"#
    )
}

/// What the sandbox answers: an error number, as the program's exit code, or an end.
enum Answer {
    Errno(i32),
    Exit(i32),
    OutOfFuel,
    OutOfMemory,
    OutputTooLarge,
    Invalid,
    Denied(&'static str),
    Trap(&'static str),
    /// The compiler did not get done, or refused.
    Bounded,
}

const BADF: i32 = 8;
const FAULT: i32 = 21;
const INVAL: i32 = 28;
const NOENT: i32 = 44;
const NOTSUP: i32 = 58;
const ROFS: i32 = 69;
const NOTCAPABLE: i32 = 76;
/// Rights to read, and to write.
const READ: u64 = 2;
const WRITE: u64 = 64;

/// Opens a path that leads elsewhere: name, directory, path as it stands in the module and its length, flags, rights,
/// answer.
const PATHS: &[(&str, i32, &str, usize, i32, u64, i32)] = &[
    ("the parent of a granted folder", 3, "../x", 4, 0, READ, NOTCAPABLE),
    ("a password file by two parents", 3, "../../etc/passwd", 16, 0, READ, NOTCAPABLE),
    ("a parent behind a name", 3, "a/../../etc/passwd", 18, 0, READ, NOTCAPABLE),
    ("a parent behind a dot", 3, "./../out/x", 10, 0, READ, NOTCAPABLE),
    ("the parent itself", 3, "..", 2, 2, READ, NOTCAPABLE),
    ("an absolute path", 3, "/etc/passwd", 11, 0, READ, NOTCAPABLE),
    ("an absolute path with two slashes", 3, "//etc/passwd", 12, 0, READ, NOTCAPABLE),
    ("the environment of the process", 3, "/proc/self/environ", 18, 0, READ, NOTCAPABLE),
    ("the input folder from the output folder, to write", 4, "../data/a.txt", 13, 0, WRITE, NOTCAPABLE),
    ("a device by a name in the folder", 3, "dev/mem", 7, 0, READ, NOENT),
    ("a zero byte that hides a parent", 3, "a.txt\\00/../../etc", 17, 0, READ, 37),
    ("bytes that are no text", 3, "\\ff\\fe/x", 4, 0, READ, 25),
    ("dots of another alphabet", 3, "\\e2\\80\\a5/etc", 7, 0, READ, NOENT),
    ("backslashes", 3, "..\\\\..\\\\etc", 9, 0, READ, NOENT),
    ("escapes of an address", 3, "%2e%2e/etc/passwd", 17, 0, READ, NOENT),
    ("an input file, to write", 3, "a.txt", 5, 0, WRITE, ROFS),
    ("a new file among the input", 3, "new", 3, 1, WRITE, ROFS),
    ("an input file, emptied", 3, "a.txt", 5, 8, READ, ROFS),
    ("a folder that is standard input", 0, "a.txt", 5, 0, READ, 54),
    ("a negative descriptor", -1, "a.txt", 5, 0, READ, BADF),
    ("the largest descriptor", i32::MAX, "a.txt", 5, 0, READ, BADF),
    ("a descriptor of the host", 7, "a.txt", 5, 0, READ, BADF),
];

/// Calls with a body each, whose result is the exit code.
const CALLS: &[(&str, &str, Answer)] = &[
    ("a path longer than any", "(call $try (i32.const 3) (i32.const 5000) (i32.const 0) (i64.const 2))", Answer::Errno(37)),
    ("a path outside of memory", "(call $open (i32.const 3) (i32.const 0) (i32.const -64) (i32.const 128) (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 32))", Answer::Errno(FAULT)),
    ("a path as long as all memory", "(call $open (i32.const 3) (i32.const 0) (i32.const 1024) (i32.const -1) (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 32))", Answer::OutOfFuel),
    ("a way out through a folder of its own", "(drop (call $mkdir (i32.const 4) (i32.const 2054) (i32.const 3)))
        (drop (call $open (i32.const 4) (i32.const 0) (i32.const 2054) (i32.const 3) (i32.const 2) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 32)))
        (call $try (i32.load (i32.const 32)) (i32.const 16) (i32.const 0) (i64.const 2))", Answer::Errno(NOTCAPABLE)),
    ("a symbolic link", "(call $symlink (i32.const 1024) (i32.const 16) (i32.const 4) (i32.const 2053) (i32.const 1))", Answer::Errno(63)),
    ("a hard link", "(call $link (i32.const 3) (i32.const 0) (i32.const 2048) (i32.const 5) (i32.const 4) (i32.const 2053) (i32.const 1))", Answer::Errno(63)),
    ("where a file points", "(call $readlink (i32.const 3) (i32.const 2048) (i32.const 5) (i32.const 64) (i32.const 64) (i32.const 32))", Answer::Errno(INVAL)),
    ("an input file, moved away", "(call $rename (i32.const 3) (i32.const 2048) (i32.const 5) (i32.const 4) (i32.const 2053) (i32.const 1))", Answer::Errno(ROFS)),
    ("an input file, deleted", "(call $unlink (i32.const 3) (i32.const 2048) (i32.const 5))", Answer::Errno(ROFS)),
    ("a folder among the input", "(call $mkdir (i32.const 3) (i32.const 2053) (i32.const 1))", Answer::Errno(ROFS)),
    ("an input file, made longer", "(drop (call $a (i32.const 0) (i64.const 66))) (if (result i32) (call $a (i32.const 0) (i64.const 2)) (then (i32.const 0)) (else (call $size (i32.load (i32.const 32)) (i64.const 9))))", Answer::Errno(ROFS)),
    ("a connection, taken", "(call $accept (i32.const 3) (i32.const 0) (i32.const 32))", Answer::Errno(NOTSUP)),
    ("a connection, read", "(call $recv (i32.const 3) (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 32) (i32.const 36))", Answer::Errno(NOTSUP)),
    ("a connection, written", "(call $send (i32.const 3) (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 32))", Answer::Errno(NOTSUP)),
    ("a connection, closed", "(call $shutdown (i32.const 3) (i32.const 2))", Answer::Errno(NOTSUP)),
    ("a signal", "(call $raise (i32.const 9))", Answer::Errno(NOTSUP)),
    ("reading what is written", "(call $read (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 32))", Answer::Errno(BADF)),
    ("writing what is read", "(call $write (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 32))", Answer::Errno(BADF)),
    ("writing a folder", "(call $write (i32.const 3) (i32.const 0) (i32.const 1) (i32.const 32))", Answer::Errno(31)),
    ("writing to the pipe of the host", "(call $write (i32.const 5) (i32.const 0) (i32.const 1) (i32.const 32))", Answer::Errno(BADF)),
    ("a number for the pipe of the host", "(call $renumber (i32.const 1) (i32.const 9))", Answer::Errno(BADF)),
    ("writing after closing", "(drop (call $close (i32.const 1))) (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 32))", Answer::Errno(BADF)),
    ("descriptors without end", "(local $e i32) (loop $l (local.set $e (call $a (i32.const 0) (i64.const 2))) (br_if $l (i32.eqz (local.get $e)))) (local.get $e)", Answer::Errno(33)),
    ("files without end", "(local $i i32) (local $e i32) (loop $l (i32.store (i32.const 1024) (i32.or (i32.const 0x40404040) (i32.and (i32.mul (local.get $i) (i32.const 0x1003)) (i32.const 0x3f3f3f3f))))
        (i32.store (i32.const 1028) (i32.or (i32.const 0x40404040) (i32.and (i32.shr_u (local.get $i) (i32.const 4)) (i32.const 0x3f3f3f3f))))
        (local.set $e (call $mkdir (i32.const 4) (i32.const 1024) (i32.const 8))) (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br_if $l (i32.or (i32.eqz (local.get $e)) (i32.eq (local.get $e) (i32.const 20))))) (local.get $e)", Answer::Errno(51)),
    ("a place before the beginning", "(drop (call $a (i32.const 0) (i64.const 2))) (call $seek (i32.load (i32.const 32)) (i64.const -1) (i32.const 0) (i32.const 40))", Answer::Errno(INVAL)),
    ("vectors without number", "(call $write (i32.const 1) (i32.const 0) (i32.const -1) (i32.const 32))", Answer::Errno(INVAL)),
    ("vectors outside of memory", "(call $write (i32.const 1) (i32.const -8) (i32.const 1) (i32.const 32))", Answer::Errno(FAULT)),
    ("bytes outside of memory", "(i32.store (i32.const 0) (i32.const -16)) (i32.store (i32.const 4) (i32.const 64)) (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 32))", Answer::Errno(FAULT)),
    ("an answer outside of memory", "(call $clock (i32.const 0) (i64.const 0) (i32.const -4))", Answer::Errno(FAULT)),
    ("randomness over the end of memory", "(call $random (i32.const 131000) (i32.const 4096))", Answer::Errno(FAULT)),
    ("the environment of the host", "(drop (call $environ (i32.const 32) (i32.const 36))) (i32.load (i32.const 32))", Answer::Exit(0)),
    ("the clock of the host", "(drop (call $clock (i32.const 0) (i64.const 0) (i32.const 32))) (i64.ge_u (i64.load (i32.const 32)) (i64.const 1000000001000000000))", Answer::Exit(0)),
    ("a sleep of a year", "(i64.store (i32.const 4096) (i64.const 7)) (i64.store (i32.const 4120) (i64.const 31536000000000000)) (call $poll (i32.const 4096) (i32.const 8192) (i32.const 1) (i32.const 32))", Answer::Exit(0)),
    ("a write far beyond the end of a file", "(drop (call $open (i32.const 4) (i32.const 0) (i32.const 2053) (i32.const 1) (i32.const 1) (i64.const 66) (i64.const 0) (i32.const 0) (i32.const 32)))
        (call $pwrite (i32.load (i32.const 32)) (i32.const 0) (i32.const 1) (i64.const 0x7fffffffffff) (i32.const 40))", Answer::OutputTooLarge),
    ("a file of an exabyte", "(drop (call $open (i32.const 4) (i32.const 0) (i32.const 2053) (i32.const 1) (i32.const 1) (i64.const 66) (i64.const 0) (i32.const 0) (i32.const 32)))
        (call $allocate (i32.load (i32.const 32)) (i64.const 0) (i64.const 0xfffffffffffffff))", Answer::OutputTooLarge),
    ("output without end", "(i32.store (i32.const 4) (i32.const 60000)) (loop $l (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 32))) (br $l)) (i32.const 0)", Answer::OutputTooLarge),
    ("errors without end", "(i32.store (i32.const 4) (i32.const 60000)) (loop $l (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 32))) (br $l)) (i32.const 0)", Answer::OutputTooLarge),
    ("a loop without end", "(loop $l (br $l)) (i32.const 0)", Answer::OutOfFuel),
    ("calls without end", "(loop $l (drop (call $random (i32.const 0) (i32.const 131072))) (br $l)) (i32.const 0)", Answer::OutOfFuel),
    ("memory without end", "(loop $l (drop (memory.grow (i32.const 64))) (br $l)) (i32.const 0)", Answer::OutOfMemory),
    ("a read below memory", "(i32.load (i32.const -1))", Answer::Trap("out of bounds")),
    ("a write above memory", "(i32.store offset=0xffffffff (i32.const -1) (i32.const 1)) (i32.const 0)", Answer::Trap("out of bounds")),
    ("a fill over the end of memory", "(memory.fill (i32.const 131000) (i32.const 1) (i32.const 4096)) (i32.const 0)", Answer::Trap("out of bounds")),
];

/// Modules that are attempts themselves.
fn modules() -> Vec<(&'static str, Vec<u8>, Answer)> {
    let with = |body: &str| format!(r#"(module (memory (export "memory") 1) {body})"#).into_bytes();
    let start = r#"(func (export "_start"))"#;
    let functions = |count: usize, body: &str| with(&(format!("(func {body})").repeat(count) + start));
    let section = |id: u8, bytes: &[u8], whole: bool| {
        // After the header: a section of its own, its length in LEB128.
        let mut module = b"\0asm\x01\0\0\0".to_vec();
        module.push(id);
        let mut left = if whole { bytes.len() } else { bytes.len() + 1_000_000 };
        while left >= 128 {
            module.push((left % 128) as u8 | 128);
            left /= 128;
        }
        module.push(left as u8);
        module.extend_from_slice(bytes);
        module
    };
    vec![
        ("all of memory at once", br#"(module (memory (export "memory") 65536) (func (export "_start")))"#.to_vec(), Answer::OutOfMemory),
        ("a table without end", with(r#"(table $t 0 funcref) (func (export "_start") (drop (table.grow $t (ref.null func) (i32.const 100000000))))"#), Answer::OutOfFuel),
        ("a table as large as they get", with(r#"(table 4000000000 funcref) (func (export "_start"))"#), Answer::OutOfMemory),
        ("memory of 64 bits", br#"(module (memory (export "memory") i64 1) (func (export "_start")))"#.to_vec(), Answer::Invalid),
        ("a second memory", with(&format!("(memory $m 1) {start}")), Answer::Invalid),
        ("shared memory", br#"(module (memory (export "memory") 1 1 shared) (func (export "_start")))"#.to_vec(), Answer::Invalid),
        ("a stack without end", with(r#"(func $f (call $f)) (func (export "_start") (call $f))"#), Answer::Trap("stack")),
        ("a function by another signature", with(r#"(type $t (func (param i64))) (table funcref (elem $f)) (func $f) (func (export "_start") (call_indirect (type $t) (i64.const 1) (i32.const 0)))"#), Answer::Trap("indirect call type mismatch")),
        ("a function that is not there", with(r#"(table 1 funcref) (func (export "_start") (call_indirect (i32.const 0)))"#), Answer::Trap("uninitialized")),
        ("an element outside of its table", with(r#"(table 1 funcref) (func (export "_start") (call_indirect (i32.const 99)))"#), Answer::Trap("out of bounds")),
        ("a beginning without end", with(&format!("(func $s (loop $l (br $l))) {start} (start $s)")), Answer::OutOfFuel),
        ("a beginning that traps", with(&format!("(func $s unreachable) {start} (start $s)")), Answer::Trap("unreachable")),
        ("data outside of memory", with(&format!(r#"(data (i32.const 65530) "0123456789") {start}"#)), Answer::Trap("out of bounds")),
        ("a shell", with(r#"(import "env" "system" (func (param i32))) (func (export "_start"))"#).clone(), Answer::Invalid),
        ("a call of the host", br#"(module (import "env" "system" (func (param i32))) (memory (export "memory") 1) (func (export "_start")))"#.to_vec(), Answer::Denied("env.system")),
        ("a socket of its own", br#"(module (import "wasi_snapshot_preview1" "sock_open" (func (param i32 i32 i32) (result i32))) (memory (export "memory") 1) (func (export "_start")))"#.to_vec(), Answer::Denied("wasi_snapshot_preview1.sock_open")),
        ("a thread", br#"(module (import "wasi" "thread-spawn" (func (param i32) (result i32))) (memory (export "memory") 1) (func (export "_start")))"#.to_vec(), Answer::Denied("wasi.thread-spawn")),
        ("memory of the host", br#"(module (import "env" "memory" (memory 1)) (export "memory" (memory 0)) (func (export "_start")))"#.to_vec(), Answer::Denied("env.memory")),
        ("a call by the wrong signature", br#"(module (import "wasi_snapshot_preview1" "proc_exit" (func (param i64))) (memory (export "memory") 1) (func (export "_start")))"#.to_vec(), Answer::Bounded),
        ("a beginning with parameters", with(r#"(func (export "_start") (param i32))"#), Answer::Invalid),
        ("no memory to look at", br#"(module (func (export "_start")))"#.to_vec(), Answer::Invalid),
        ("a module of nothing but noise", section(1, &[0xff; 4096], true), Answer::Invalid),
        ("a section that is longer than the module", section(0, b"\x04name", false), Answer::Invalid),
        ("a section of a number that there is not", section(99, b"x", true), Answer::Invalid),
        ("a section of eight MiB that means nothing", [section(0, &[vec![4, b'j', b'u', b'n', b'k'], vec![7; 8 << 20]].concat(), true)].concat(), Answer::Invalid),
        ("names nested too deeply", with(&format!("(func {} {}) {start}", "(block ".repeat(2_000), ")".repeat(2_000))), Answer::Bounded),
        ("very many functions", functions(60_000, "nop"), Answer::Bounded),
        ("very many locals", with(&format!("(func (local {})) {start}", "i64 ".repeat(60_000))), Answer::Invalid),
        ("very many ways of one branch", with(&format!("(func (block (br_table {} (i32.const 0)))) {start}", "0 ".repeat(200_000))), Answer::Bounded),
        ("very many imports", format!(r#"(module {} (memory (export "memory") 1) {start})"#, (0..20_000).map(|index| format!(r#"(import "x" "{index}" (func))"#)).collect::<String>()).into_bytes(), Answer::Denied("x.0")),
    ]
}

impl Answer {
    fn fits(&self, ending: &Ending) -> bool {
        match (self, ending) {
            (Self::Errno(want) | Self::Exit(want), Ending::Exit(got)) => want == got,
            (Self::OutOfFuel, Ending::OutOfFuel)
            | (Self::OutOfMemory, Ending::OutOfMemory)
            | (Self::OutputTooLarge, Ending::OutputTooLarge)
            | (Self::Invalid, Ending::InvalidModule(_)) => true,
            (Self::Denied(want), Ending::Denied(got)) => want == got,
            (Self::Trap(want), Ending::Trap(got)) => got.contains(want),
            (Self::Bounded, ending) => matches!(
                ending,
                Ending::Exit(0)
                    | Ending::InvalidModule(_)
                    | Ending::TimeLimit
                    | Ending::OutOfMemory
                    | Ending::Trap(_)
            ),
            _ => false,
        }
    }
}

/// Bytes of memory that a process had at most.
fn most_memory(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()).unwrap_or(0) << 10
}

async fn honest(worker: &OwnWorker) -> Duration {
    let mut all = Vec::new();
    for _ in 0..3 {
        let mut bench = Bench::new(ECHO).await.stdin(b"honest work").await;
        bench.engine = Wasm::with_worker(worker.path());
        let begin = Instant::now();
        let output = bench.run().await;
        all.push(begin.elapsed());
        assert_eq!((output.ending, output.stdout.len), (Ending::Exit(0), 11));
    }
    all.sort_unstable();
    all[1]
}

#[tokio::test(flavor = "multi_thread")]
async fn no_attempt_leaves_the_sandbox_and_an_honest_job_is_as_quick_afterwards() {
    let worker = OwnWorker::new();
    let before = honest(&worker).await;
    let own_memory = most_memory(std::process::id() as i32);
    let mut attempts: Vec<(&str, Vec<u8>, &Answer)> = Vec::new();
    let paths: Vec<_> = PATHS
        .iter()
        .map(|(name, dir, path, len, flags, rights, errno)| {
            let call = format!(
                "(call $exit (call $try (i32.const {dir}) (i32.const {len}) (i32.const {flags}) (i64.const {rights})))"
            );
            (*name, module(path, &call).into_bytes(), Answer::Errno(*errno))
        })
        .collect();
    let calls: Vec<_> = CALLS
        .iter()
        .map(|(name, body, answer)| {
            // Locals stand first.
            let at = body.rfind("(local $").map_or(0, |at| at + body[at..].find(')').unwrap_or(0) + 1);
            let (locals, rest) = if body.starts_with("(local") { body.split_at(at) } else { ("", *body) };
            let (first, last) = split_last(rest);
            (
                *name,
                module("../../../etc/pwd", &format!("{locals} {first} (call $exit {last})")).into_bytes(),
                answer,
            )
        })
        .collect();
    let modules = modules();
    attempts.extend(paths.iter().map(|(name, module, answer)| (*name, module.clone(), answer)));
    attempts.extend(calls.iter().map(|(name, module, answer)| (*name, module.clone(), *answer)));
    attempts.extend(modules.iter().map(|(name, module, answer)| (*name, module.clone(), answer)));
    assert!(attempts.len() >= 90, "{} attempts", attempts.len());
    let names: std::collections::BTreeSet<&str> = attempts.iter().map(|(name, ..)| *name).collect();
    assert_eq!(names.len(), attempts.len(), "each has a name of its own");
    let mut escaped = Vec::new();
    let engine = Wasm::with_worker(worker.path());
    for (name, module, answer) in attempts {
        let mut bench = Bench::new(&module).await;
        bench.engine = engine.clone();
        (bench.task.limits.wall_seconds, bench.task.limits.fuel) = (5, 20_000_000);
        let blob = bench.blobs.add(b"input".to_vec()).await.unwrap();
        let files = vec![FolderFile { path: "a.txt".into(), blob }];
        bench.work().inputs = vec![Folder { path: "/data".into(), files }];
        let begin = Instant::now();
        let tenant = Some(theta_core::hash::Address::ZERO);
        let attempt = || Attempt { tenant, ..bench.attempt() };
        let run = async {
            let first = engine.run(&bench.task, attempt()).await.unwrap();
            // And again in the child that it leaves, if it leaves one.
            if let Ending::Exit(_) = first.ending {
                assert_eq!(engine.run(&bench.task, attempt()).await.unwrap(), first, "{name}");
            }
            first
        };
        let watch = async {
            let mut most = 0;
            loop {
                most = worker.processes().into_iter().map(most_memory).fold(most, u64::max);
                assert!(most < (16 << 20) + (1 << 30) + (64 << 20), "{name} takes {most} bytes");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let output = tokio::select! { output = run => output, () = watch => unreachable!("it watches") };
        if !answer.fits(&output.ending) {
            escaped.push(format!("{name}: {:?}", output.ending));
        }
        let bytes: u64 = output.blobs().map(|blob| blob.len).sum();
        assert!(bytes <= 1 << 20, "{name} leaves {bytes} bytes");
        assert!(begin.elapsed() < Duration::from_secs(20), "{name} took {:?}", begin.elapsed());
        let input = bench.read(blob).await;
        assert_eq!(input, b"input", "{name} changed its input");
    }
    assert!(escaped.is_empty(), "{escaped:#?}");
    // Children that wait end with their engine. One that was killed needs a moment.
    drop(engine);
    let begin = Instant::now();
    while !worker.processes().is_empty() {
        assert!(begin.elapsed() < Duration::from_secs(20), "a child is still there");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let left: Vec<_> = std::fs::read_dir(worker.path().parent().unwrap()).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "nothing is left on the disk: {left:?}");
    let grown = most_memory(std::process::id() as i32).saturating_sub(own_memory);
    assert!(grown < 256 << 20, "this process grew by {grown} bytes");
    let after = honest(&worker).await;
    assert!(after < 5 * before + Duration::from_secs(10), "{before:?} before, {after:?} after");
}

/// Where the last expression of a body begins: its result is the exit code.
fn split_last(body: &str) -> (&str, &str) {
    let (mut depth, mut begin) = (0, 0);
    for (at, letter) in body.char_indices() {
        match letter {
            '(' => {
                if depth == 0 {
                    begin = at;
                }
                depth += 1;
            }
            ')' => depth -= 1,
            _ => {}
        }
    }
    body.split_at(begin)
}
