//! What the benches share: seeded inputs, primitives that ceilings are computed from, and lines of computed results.
//!
//! `cargo bench -p theta-benches` measures, `cargo bench -p theta-benches -- --test` only runs everything once, at small
//! sizes. Every figure is to be read beside one of the same run: a ceiling made of primitives, or a peer.

pub mod ceiling;
pub mod chain;
pub mod evm;
pub mod prim;
pub mod state;

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// The node's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Where all inputs come from.
pub const SEED: u64 = 7;

/// Numbers that depend on a seed alone (splitmix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A sequence.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub const fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number below `end`, which is not 0.
    pub const fn below(&mut self, end: u64) -> u64 {
        self.next_u64() % end
    }
}

/// Whether everything is only to run once.
pub fn only_test() -> bool {
    std::env::args().any(|argument| argument == "--test")
}

/// Whether any result whose id begins so was asked for: by nothing behind `--`, or, as criterion takes it, by a part of an
/// id, which may say more than `id` does.
pub fn asked_for(id: &str) -> bool {
    let mut parts = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).peekable();
    let bare = id.split_once('/').map_or(id, |(_, bare)| bare);
    let says_more = |part: &str| part.contains(id) || part.starts_with(bare);
    parts.peek().is_none() || parts.any(|part| id.contains(&part) || says_more(&part))
}

/// Whether a result was asked for by a part of its id: what takes minutes is only done then.
pub fn named(part: &str) -> bool {
    std::env::args().any(|argument| argument.contains(part))
}

/// Least and median time.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// The least.
    pub min: Duration,
    /// The median.
    pub median: Duration,
}

impl Times {
    /// Of these, of which there is at least one.
    pub fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self { min: times[0], median: times[times.len() / 2] }
    }
}

/// What the processor gave this thread so far.
fn thread_time() -> Duration {
    elapsed(ClockId::ThreadCPUTime)
}

/// What the processors gave all threads of this process so far.
pub fn process_time() -> Duration {
    elapsed(ClockId::ProcessCPUTime)
}

fn elapsed(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// Time that one call took of the processor on this thread: what else runs on the machine does not count. For what waits
/// for nothing and gives no work to other threads. What it returns is dropped outside.
pub fn busy<T>(act: impl FnOnce() -> T) -> (T, Duration) {
    let start = thread_time();
    let result = std::hint::black_box(act());
    (result, thread_time().saturating_sub(start))
}

/// Time of one call by the clock on the wall. What it returns is dropped outside.
pub fn timed<T>(act: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let result = std::hint::black_box(act());
    (result, start.elapsed())
}

/// One result beside its ceiling, both in operations per second, as a line of JSON.
pub fn report(bench: &str, unit: &str, operations: f64, times: Times, ceiling: f64) {
    let rate = |time: Duration| operations / time.as_secs_f64();
    println!(
        r#"{{"bench":"{bench}","seed":{SEED},"value":{:.0},"max":{:.0},"unit":"{unit}/s","ceiling":{ceiling:.0},"fraction":{:.3},"loadavg":"{}"}}"#,
        rate(times.median),
        rate(times.min),
        rate(times.median) / ceiling,
        load()
    );
}

/// The system's load over the last minute.
pub fn load() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').next().unwrap_or_default().to_owned()
}

/// A rate beside that of a peer in the same run, as a line of JSON; `ratio` is the peer's time over ours.
pub fn report_ratio(bench: &str, unit: &str, value: f64, peer: (&str, f64)) {
    let (peer, peer_value) = peer;
    println!(
        r#"{{"bench":"{bench}","seed":{SEED},"value":{value:.1},"unit":"{unit}/s","peer":"{peer}","peer_value":{peer_value:.1},"ratio":{:.2},"loadavg":"{}"}}"#,
        value / peer_value,
        load()
    );
}

/// A time for each operation beside the least it can take, both in nanoseconds, as a line of JSON.
pub fn report_time(bench: &str, value: f64, ceiling: f64) {
    println!(
        r#"{{"bench":"{bench}","seed":{SEED},"value":{value:.0},"unit":"ns","ceiling":{ceiling:.0},"fraction":{:.3},"loadavg":"{}"}}"#,
        ceiling / value,
        load()
    );
}

/// One result beside that of a peer, with its latencies in microseconds and memory in MB, as a line of JSON.
pub fn report_peer(bench: &str, unit: &str, value: f64, p50_p99_us: (f64, f64), mb: f64, peer: (&str, f64)) {
    let ((p50, p99), (peer, peer_value)) = (p50_p99_us, peer);
    println!(
        r#"{{"bench":"{bench}","seed":{SEED},"value":{value:.0},"unit":"{unit}/s","p50_us":{p50:.2},"p99_us":{p99:.2},"mb":{mb:.0},"peer":"{peer}","peer_value":{peer_value:.0},"ratio":{:.1},"loadavg":"{}"}}"#,
        value / peer_value,
        load()
    );
}
