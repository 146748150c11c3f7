//! `job/noop/{in flight}`: jobs that do nothing, through the gateway's HTTP interface to a receipt that the node has, beside
//! tasks of Ray that do nothing. `job/engine/{warm,cold}`: the same program through the engine's child processes alone.
//! `job/wasm`: a kilobyte in and out, beside an instance and a call of wasmtime in this process.
//!
//! Everything of the network is a process of its own, and each is this program: `theta devnet --processes` with one
//! validator and the gateway, and `theta edge start` with two slots. The peer is `peers/ray_noop.py`, run by the Python of
//! the variable `RAY_PYTHON` (`python3` when missing); where that has no Ray the peer is left out.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use theta_benches::{SEED, Times, asked_for, load, only_test};
use theta_core::{
    amount::TFuelWei,
    hash::{Address, Hash},
};
use theta_edge::{
    blob::{BlobStore, MemBlobs},
    executor::{Attempt, Ending, Executor},
    job::{Limits, Task, WasmWork, Work},
};
use theta_edge_wasm::{Warm, Wasm};
use theta_node::edge::config::{EdgeFile, init};
use theta_sdk::keystore::{Effort, fresh_key};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    task::JoinSet,
};
use wasmtime::{Caller, Config, Engine, InstanceAllocationStrategy, InstancePre, Linker, Module, Store};

/// Workers of either side.
const SLOTS: u32 = 2;
/// Jobs in flight.
const IN_FLIGHT: [usize; 2] = [1, 64];
/// Pairs with the peer.
const PAIRS: usize = 5;
/// What a run costs, in TFUEL: what the node asks for each, and for the million of fuel that was begun.
const PRICE: (&str, &str) = ("0.01", "0.0101");
/// Longest wait for anything to begin or to end.
const SOON: Duration = Duration::from_secs(120);
/// Longest wait for a process that was told to stop.
const STOP: Duration = Duration::from_secs(20);

const NOOP: &str = r#"(module (memory (export "memory") 1) (func (export "_start")))"#;
/// Copies a kilobyte.
const COPY: &str = r#"(module
 (import "wasi_snapshot_preview1" "fd_read" (func $r (param i32 i32 i32 i32) (result i32)))
 (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))
 (memory (export "memory") 1) (data (i32.const 0) "\40\00\00\00\00\04\00\00")
 (func (export "_start")
  (drop (call $r (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 16)))
  (drop (call $w (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))))"#;

fn line(bench: &str, fields: &str) {
    println!(r#"{{"bench":"{bench}","seed":{SEED},{fields},"loadavg":"{}"}}"#, load());
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Keeps so many in flight until the time is over: how many ended in a second, and how long each took.
async fn closed_loop<F: Future<Output = Duration> + Send>(
    in_flight: usize,
    time: Duration,
    one: impl Fn() -> F + Clone + Send + 'static,
) -> (f64, Vec<Duration>) {
    let begin = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..in_flight {
        let one = one.clone();
        clients.spawn(async move {
            let mut times = Vec::new();
            while begin.elapsed() < time {
                times.push(one().await);
            }
            times
        });
    }
    let times = clients.join_all().await.concat();
    (times.len() as f64 / begin.elapsed().as_secs_f64(), times)
}

/// Starts a process whose first line of output is JSON, and gives that and where the next ones come from.
async fn ready(command: &mut Command) -> Option<(Child, Value, Lines<BufReader<ChildStdout>>)> {
    let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().ok()?;
    let mut lines = BufReader::new(child.stdout.take()?).lines();
    let first = tokio::time::timeout(SOON, lines.next_line()).await.ok()?.ok()??;
    Some((child, serde_json::from_str(&first).ok()?, lines))
}

/// A development network, its gateway, and an edge node with [`SLOTS`] slots.
struct Network {
    network: Child,
    edge: Child,
    gateway: String,
    /// Where the edge node answers.
    node: String,
    http: reqwest::Client,
    module: Value,
    paid: AtomicU64,
    _folder: tempfile::TempDir,
}

impl Drop for Network {
    /// Tells both to stop, which stop their own, and waits: what is killed leaves processes behind.
    fn drop(&mut self) {
        for child in [&mut self.edge, &mut self.network] {
            let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
            let _gone = pid.map(|pid| kill_process(pid, Signal::TERM));
            let begin = Instant::now();
            while matches!(child.try_wait(), Ok(None)) && begin.elapsed() < STOP {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

/// What one round of a closed loop gave.
struct Round {
    rate: f64,
    times: Vec<Duration>,
    /// What all processes of the network had of the processors.
    busy: Duration,
}

impl Network {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let program = std::env::current_exe().expect("a program");
        let mut command = Command::new(&program);
        command.args(["devnet", "--json", "--processes", "--validators", "1", "--edge-nodes", "0"]);
        command.args(["--rpc-port", "0", "--eth-rpc-port", "0", "--gateway-port", "0", "--accounts", "1"]);
        command.arg("--data-dir").arg(folder.path().join("net"));
        let (network, said, _) = ready(&mut command).await.expect("a network");
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let gateway = text(&said["gateway"]);
        let config = Self::edge_node(&folder.path().join("edge"), text(&said["thetaRpc"]), gateway.clone());
        let mut command = Command::new(&program);
        command.args(["edge", "start", "--json", "--config"]).arg(config);
        let (edge, said, _) = ready(&mut command).await.expect("an edge node");
        let node = text(&said["gateway"]);
        let http = reqwest::Client::builder().no_proxy().timeout(SOON).build().expect("a client");
        let module = http.put(format!("{gateway}/api/blobs")).body(NOOP).send().await.expect("a blob");
        let module = module.json::<Value>().await.expect("its hash")["hash"].clone();
        let paid = AtomicU64::new(0);
        let this = Self { network, edge, gateway, node, http, module, paid, _folder: folder };
        let begin = Instant::now();
        while !this.get(&format!("{}/api/nodes", this.gateway)).await["nodes"].as_array().is_some_and(
            |nodes| nodes.iter().any(|node| node["status"] == "active" || node["status"] == "probation"),
        ) {
            assert!(begin.elapsed() < SOON, "the node is let in");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        this
    }

    /// Makes the folder of an edge node, which asks little, so that a fund is not spent at once.
    fn edge_node(folder: &Path, rpc: String, gateway: String) -> PathBuf {
        fs::create_dir_all(folder).expect("a folder");
        fs::write(folder.join("password"), "password").expect("written");
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
        let key = fresh_key().expect("random");
        let made = init(folder, Some(key), "password", Effort::Light, |address| EdgeFile {
            port: 0,
            password_file: Some("password".into()),
            settle_at_once: true,
            slots: Some(SLOTS.min(cores)),
            price_tfuel: Some(PRICE.0.to_owned()),
            ..EdgeFile::new("privatenet".to_owned(), rpc, vec![gateway], address)
        });
        made.expect("a configuration");
        folder.join(theta_node::config::FILE)
    }

    async fn get(&self, url: &str) -> Value {
        self.http.get(url).send().await.expect("an answer").json().await.expect("JSON")
    }

    /// One job from its submission until its end was seen. `usual` is how long that takes, in microseconds: nobody asks
    /// before, and then about twenty times in that time.
    async fn job(&self, usual: &AtomicU64) -> Duration {
        let body = json!({
            "job": { "kind": "wasm", "module": "noop.wat", "quorum": 1, "maxTfuel": "0.02",
                "limits": { "fuel": 1_000_000, "memoryMiB": 16, "wallSeconds": 30 } },
            "blobs": { "noop.wat": self.module },
        });
        let begin = Instant::now();
        let taken = self.http.post(format!("{}/api/jobs", self.gateway)).json(&body).send().await;
        let mut view: Value = taken.expect("an answer").json().await.expect("JSON");
        let id = view["jobId"].as_str().unwrap_or_else(|| panic!("{view}")).to_owned();
        let url = format!("{}/api/jobs/{id}", self.gateway);
        let expected = usual.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_micros(expected * 9 / 10).saturating_sub(begin.elapsed())).await;
        while view["endedMs"].is_null() {
            assert!(begin.elapsed() < SOON, "{view}");
            view = self.get(&url).await;
            if view["endedMs"].is_null() {
                tokio::time::sleep(Duration::from_micros((expected / 20).max(1_000))).await;
            }
        }
        let time = begin.elapsed();
        let took = time.as_micros() as u64;
        usual.store(if expected == 0 { took } else { (expected * 15 + took) / 16 }, Ordering::Relaxed);
        assert_eq!(
            (view["state"].as_str(), view["exitCode"].as_i64()),
            (Some("succeeded"), Some(0)),
            "{view}"
        );
        assert_eq!(view["attempts"], 1, "{view}");
        let paid: TFuelWei =
            format!("{}wei", view["paidTfuelWei"].as_str().expect("an amount")).parse().expect("one");
        assert_eq!(paid, PRICE.1.parse().expect("an amount"));
        self.paid.fetch_add(1, Ordering::Relaxed);
        time
    }

    /// Keeps so many jobs in flight until the time is over.
    async fn round(self: &Arc<Self>, in_flight: usize, time: Duration) -> Round {
        let (usual, busy) = (Arc::new(AtomicU64::new(0)), self.busy());
        let job = {
            let this = self.clone();
            move || {
                let (this, usual) = (this.clone(), usual.clone());
                async move { this.job(&usual).await }
            }
        };
        let (rate, mut times) = closed_loop(in_flight, time, job).await;
        times.sort_unstable();
        Round { rate, times, busy: self.busy().saturating_sub(busy) }
    }

    /// What the processes of the network had of the processors so far, those that have ended included.
    fn busy(&self) -> Duration {
        let mut parents = BTreeMap::new();
        let mut ticks = BTreeMap::new();
        for folder in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Ok(stat) = fs::read_to_string(folder.path().join("stat")) else { continue };
            let Some((pid, rest)) = stat.split_once(' ') else { continue };
            let Some((_, rest)) = rest.rsplit_once(") ") else { continue };
            let fields: Vec<u64> = rest.split(' ').map(|field| field.parse().unwrap_or_default()).collect();
            let Ok(pid) = pid.parse::<u64>() else { continue };
            parents.insert(pid, fields[1]);
            // Its own, and of its children that it waited for.
            ticks.insert(pid, fields[11..15].iter().sum::<u64>());
        }
        let roots: BTreeSet<u64> =
            [&self.network, &self.edge].iter().filter_map(|child| child.id()).map(u64::from).collect();
        let ours = |pid: &u64| {
            let mut at = Some(*pid);
            while let Some(pid) = at {
                if roots.contains(&pid) {
                    return true;
                }
                at = parents.get(&pid).copied();
            }
            false
        };
        let all: u64 = ticks.iter().filter(|(pid, _)| ours(pid)).map(|(_, ticks)| ticks).sum();
        Duration::from_millis(all * 1_000 / rustix::param::clock_ticks_per_second())
    }

    /// The node has a receipt for every job, and for no other.
    async fn assert_paid(&self) {
        let each: TFuelWei = PRICE.1.parse().expect("an amount");
        let due = each.checked_mul(self.paid.load(Ordering::Relaxed)).expect("small");
        let begin = Instant::now();
        loop {
            let status = self.get(&format!("{}/status", self.node)).await;
            let earned = status["earnings"]["earnedTfuelWei"].as_str().expect("an amount");
            let earned: TFuelWei = format!("{earned}wei").parse().expect("one");
            assert!(earned <= due, "{status}");
            if earned == due {
                return;
            }
            assert!(begin.elapsed() < SOON, "{status} of {due}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// The peer, which answers one question after another.
struct Ray {
    child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    version: String,
}

impl Ray {
    async fn start(in_flight: usize, time: Duration) -> Option<Self> {
        let python = std::env::var_os("RAY_PYTHON").unwrap_or_else(|| "python3".into());
        let mut command = Command::new(&python);
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/peers/ray_noop.py"));
        command.args([SLOTS.to_string(), in_flight.to_string(), time.as_secs_f64().to_string()]);
        let Some((mut child, said, lines)) = ready(command.stdin(Stdio::piped())).await else {
            eprintln!("skipped: the peer needs Ray in {}", python.display());
            return None;
        };
        let stdin = child.stdin.take()?;
        Some(Self { child, stdin, lines, version: said["version"].as_str().unwrap_or_default().to_owned() })
    }

    /// Tasks in a second, and the median time of one in microseconds, where that was taken.
    async fn ask(&mut self, what: &str) -> (f64, Option<f64>) {
        self.stdin.write_all(format!("{what}\n").as_bytes()).await.expect("it listens");
        let answer = self.lines.next_line().await.expect("it speaks").expect("it lives");
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        (answer["rate"].as_f64().expect("a rate"), answer["p50_us"].as_f64())
    }

    async fn stop(mut self) {
        // Its processes end with its input.
        drop(self.stdin);
        let _ended = tokio::time::timeout(SOON, self.child.wait()).await;
    }
}

async fn noop() {
    let sizes: Vec<_> = IN_FLIGHT.into_iter().filter(|size| asked_for(&format!("job/noop/{size}"))).collect();
    if sizes.is_empty() {
        return;
    }
    let network = Arc::new(Network::start().await);
    let time = if only_test() { Duration::from_millis(500) } else { Duration::from_secs(6) };
    // What begins with the first jobs is over: a fund, a child for each slot, the module.
    network.round(SLOTS as usize, time).await;
    for in_flight in sizes {
        let mut ray = if only_test() { None } else { Ray::start(in_flight, time).await };
        let (mut rates, mut times, mut busy, mut ratios) =
            (Vec::new(), Vec::new(), Duration::ZERO, Vec::new());
        let (mut peer_rates, mut peer_p50) = (Vec::new(), Vec::new());
        for _ in 0..if only_test() { 1 } else { PAIRS } {
            let round = network.round(in_flight, time).await;
            rates.push(round.rate);
            times.extend(round.times);
            busy += round.busy;
            if let Some(ray) = &mut ray {
                // The better of its two ways, which are the same with one in flight.
                let (mut best, p50) = ray.ask(if in_flight > 1 { "window" } else { "one" }).await;
                if in_flight > 1 {
                    best = best.max(ray.ask("batch").await.0);
                }
                ratios.push(round.rate / best);
                peer_rates.push(best);
                peer_p50.extend(p50);
            }
        }
        times.sort_unstable();
        let at = |percent: usize| micros(times[times.len() * percent / 100]);
        let mut fields = format!(
            r#""value":{:.1},"unit":"jobs/s","jobs":{},"p50_us":{:.0},"p99_us":{:.0},"cpu_us":{:.0}"#,
            median(rates),
            times.len(),
            at(50),
            at(99),
            micros(busy) / times.len() as f64
        );
        if let Some(ray) = ray {
            fields += &format!(
                r#","peer":"Ray {} with {SLOTS} workers","peer_value":{:.1},"peer_p50_us":{:.0},"ratio":{:.2}"#,
                ray.version,
                median(peer_rates),
                median(peer_p50),
                median(ratios)
            );
            ray.stop().await;
        }
        line(&format!("job/noop/{in_flight}"), &fields);
    }
    network.assert_paid().await;
}

/// A module and what one run of it takes.
struct Alone {
    blobs: Arc<MemBlobs>,
    task: Task,
}

impl Alone {
    async fn new(module: &str, stdin: Vec<u8>) -> Self {
        let blobs = Arc::new(MemBlobs::default());
        let module = blobs.add(module.as_bytes().to_vec()).await.expect("in memory");
        let stdin = Some(blobs.add(stdin).await.expect("in memory"));
        let work = Work::Wasm(WasmWork {
            module,
            program: "bench.wat".to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            stdin,
            inputs: Vec::new(),
        });
        let limits = Limits { fuel: 1_000_000, memory_mib: 16, wall_seconds: 30, output_mib: 1 };
        Self { blobs, task: Task { job: Hash::ZERO, index: 0, work, limits } }
    }

    async fn run(&self, engine: &Wasm) -> Vec<u8> {
        let attempt = Attempt { tenant: Some(Address::ZERO), ..Attempt::new(self.blobs.clone()) };
        let output = engine.run(&self.task, attempt).await.expect("a machine that works");
        assert_eq!(output.ending, Ending::Exit(0));
        self.blobs.read_all(&output.stdout).await.expect("in memory")
    }
}

async fn engine() {
    let time = if only_test() { Duration::from_millis(200) } else { Duration::from_secs(3) };
    for (name, warm) in [("warm", Warm::default()), ("cold", Warm::OFF)] {
        let id = format!("job/engine/{name}");
        if !asked_for(&id) {
            continue;
        }
        let engine = Wasm::current_exe().expect("a program").warm(warm);
        let alone = Arc::new(Alone::new(NOOP, Vec::new()).await);
        let rounds = if only_test() { 1 } else { PAIRS };
        let (mut rates, mut times) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let (engine, alone) = (engine.clone(), alone.clone());
            let task = move || {
                let (engine, alone) = (engine.clone(), alone.clone());
                async move {
                    let begin = Instant::now();
                    alone.run(&engine).await;
                    begin.elapsed()
                }
            };
            let (rate, round) = closed_loop(SLOTS as usize, time, task).await;
            rates.push(rate);
            times.extend(round);
        }
        let p50 = micros(Times::of(times).median);
        line(
            &id,
            &format!(r#""value":{:.1},"unit":"tasks/s","slots":{SLOTS},"p50_us":{p50:.0}"#, median(rates)),
        );
    }
}

/// What a program reads and writes where nothing is between it and wasmtime.
struct Raw {
    stdin: Vec<u8>,
    stdout: Vec<u8>,
}

/// The peer of `job/wasm`: a compiled module, and places that are ready for its instances.
struct Pooled {
    engine: Engine,
    ready: InstancePre<Raw>,
}

impl Pooled {
    fn new(module: &str) -> wasmtime::Result<Self> {
        let mut config = Config::new();
        config.allocation_strategy(InstanceAllocationStrategy::pooling());
        let engine = Engine::new(&config)?;
        let mut linker = Linker::new(&engine);
        // One buffer each, which is all that the program has.
        let buffer = |caller: &mut Caller<'_, Raw>, vector: i32| {
            let memory =
                caller.get_export("memory").and_then(|export| export.into_memory()).expect("it has one");
            let word = |at: usize| {
                let bytes = &memory.data(&*caller)[at..at + 4];
                u32::from_le_bytes(bytes.try_into().expect("four")) as usize
            };
            let (at, len) = (word(vector as usize), word(vector as usize + 4));
            (memory, at..at + len)
        };
        let wasi = "wasi_snapshot_preview1";
        linker.func_wrap(
            wasi,
            "fd_read",
            move |mut caller: Caller<'_, Raw>, _: i32, vector: i32, _: i32, _: i32| {
                let (memory, range) = buffer(&mut caller, vector);
                let (data, raw) = memory.data_and_store_mut(&mut caller);
                data[range].copy_from_slice(&raw.stdin);
                0_i32
            },
        )?;
        linker.func_wrap(
            wasi,
            "fd_write",
            move |mut caller: Caller<'_, Raw>, _: i32, vector: i32, _: i32, _: i32| {
                let (memory, range) = buffer(&mut caller, vector);
                let (data, raw) = memory.data_and_store_mut(&mut caller);
                raw.stdout.extend_from_slice(&data[range]);
                0_i32
            },
        )?;
        let ready = linker.instantiate_pre(&Module::new(&engine, module)?)?;
        Ok(Self { engine, ready })
    }

    fn run(&self, stdin: &[u8]) -> wasmtime::Result<Vec<u8>> {
        let mut store = Store::new(&self.engine, Raw { stdin: stdin.to_vec(), stdout: Vec::new() });
        let instance = self.ready.instantiate(&mut store)?;
        instance.get_typed_func::<(), ()>(&mut store, "_start")?.call(&mut store, ())?;
        Ok(store.into_data().stdout)
    }
}

async fn wasm() {
    if !asked_for("job/wasm") {
        return;
    }
    let given: Vec<u8> = (0..1_024_u32).map(|at| at as u8).collect();
    let engine = Wasm::current_exe().expect("a program");
    let (alone, raw) = (Alone::new(COPY, given.clone()).await, Pooled::new(COPY).expect("it compiles"));
    assert_eq!(alone.run(&engine).await, given);
    let (rounds, runs) = if only_test() { (1, 10) } else { (21, 200) };
    let (mut ours, mut peer) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        for _ in 0..runs {
            let begin = Instant::now();
            let made = alone.run(&engine).await;
            ours.push(begin.elapsed());
            assert_eq!(made, given);
        }
        for _ in 0..runs {
            let begin = Instant::now();
            let made = raw.run(&given).expect("it runs");
            peer.push(begin.elapsed());
            assert_eq!(made, given);
        }
    }
    let (ours, peer) = (Times::of(ours), Times::of(peer));
    line(
        "job/wasm",
        &format!(
            r#""value":{:.1},"min":{:.1},"unit":"us","peer":"wasmtime, pooled instance and call","peer_value":{:.1},"peer_min":{:.1},"more_us":{:.1}"#,
            micros(ours.median),
            micros(ours.min),
            micros(peer.median),
            micros(peer.min),
            micros(ours.median) - micros(peer.median)
        ),
    );
}

fn main() -> ExitCode {
    theta_edge_wasm::worker();
    if matches!(std::env::args().nth(1).as_deref(), Some("devnet" | "start" | "edge")) {
        return theta_node::cli::main();
    }
    let runtime = tokio::runtime::Runtime::new().expect("threads");
    runtime.block_on(async {
        wasm().await;
        engine().await;
        noop().await;
    });
    ExitCode::SUCCESS
}
