//! Jobs through the gateway of a development network whose nodes are processes: the command line, the HTTP interface, and
//! a map job under trouble.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use serde_json::{Value, json};
use theta_core::{
    amount::TFuelWei,
    hash::{Address, Hash},
};
use theta_edge::{
    executor::{Attempt, Engines, Executor, Output, RunError, Verdict},
    job::{KindTag, Task},
    worker,
};
use theta_edge_wasm::Wasm;
use theta_node::{
    devnet::{TEST_MNEMONIC, role_key},
    edge::{ContentTerms, Directory, EdgeConfig, EdgeNode},
};
use theta_sdk::client::Client;
use tokio::io::{AsyncBufReadExt as _, BufReader};

pub(crate) const SOON: Duration = Duration::from_secs(60);
/// Copies its input.
const CAT: &str = r#"(module (import "wasi_snapshot_preview1" "fd_read" (func $r (param i32 i32 i32 i32) (result i32)))
 (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))
 (memory (export "memory") 2)
 (func (export "_start") (loop $l (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 65536))
  (drop (call $r (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
  (if (i32.load (i32.const 8)) (then (i32.store (i32.const 4) (i32.load (i32.const 8)))
   (drop (call $w (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12))) (br $l))))))"#;
const COUNT: &str = include_str!("../../src/demo.wat");
const TRAP: &str = r#"(module (memory (export "memory") 1) (func (export "_start") unreachable))"#;
const ENDLESS: &str = r#"(module (memory (export "memory") 1) (func (export "_start") (loop $l (br $l))))"#;

pub(crate) fn program() -> &'static str {
    env!("CARGO_BIN_EXE_theta")
}

/// `theta devnet` as somebody starts it.
pub(crate) struct Network {
    child: tokio::process::Child,
    pub(crate) ready: Value,
    pub(crate) folder: PathBuf,
    scratch: tempfile::TempDir,
}

impl Network {
    pub(crate) async fn start(args: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), args).await
    }

    /// Kills everything and starts it again from the same folder.
    pub(crate) async fn kill_and_start(self, args: &[&str]) -> Self {
        Self::start_in(self.kill().await, args).await
    }

    /// Kills the process with the gateway, and with it all that is no process of its own.
    pub(crate) async fn kill(mut self) -> tempfile::TempDir {
        self.child.kill().await.unwrap();
        self.scratch
    }

    pub(crate) async fn start_in(scratch: tempfile::TempDir, args: &[&str]) -> Self {
        let folder = scratch.path().to_owned();
        let mut child = tokio::process::Command::new(program())
            .args(["devnet", "--json", "--rpc-port", "0", "--eth-rpc-port", "0", "--gateway-port", "0"])
            .args(["--block-interval-ms", "300", "--accounts", "1", "--data-dir"])
            .arg(folder.join("net"))
            .args(args)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = tokio::time::timeout(SOON, lines.next_line()).await.unwrap().unwrap().unwrap();
        let ready = serde_json::from_str(&line).unwrap();
        Self { child, ready, folder, scratch }
    }

    pub(crate) fn gateway(&self) -> &str {
        self.ready["gateway"].as_str().unwrap()
    }

    pub(crate) fn rpc(&self, node: usize) -> Client {
        Client::http(self.ready["nodes"][node]["thetaRpc"].as_str().unwrap().to_owned()).unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        reqwest::get(format!("{}/api/{path}", self.gateway())).await.unwrap().json().await.unwrap()
    }

    /// So many nodes that can be asked.
    pub(crate) async fn nodes(&self, count: usize) -> Vec<Value> {
        let begin = Instant::now();
        loop {
            let nodes = self.get("nodes").await["nodes"].as_array().unwrap().clone();
            let open = |node: &&Value| matches!(node["status"].as_str(), Some("probation" | "active"));
            if nodes.iter().filter(open).count() == count {
                return nodes;
            }
            assert!(begin.elapsed() < SOON, "{nodes:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// Submits the job of a file; its id.
    pub(crate) async fn submit(&self, path: &str) -> String {
        let (code, line, error) = self.job(&["submit", path, "--json"]).await;
        assert_eq!(code, 0, "{line}{error}");
        serde_json::from_str::<Value>(&line).unwrap()["jobId"].as_str().unwrap().to_owned()
    }

    /// `theta job …`: exit code and what was printed.
    pub(crate) async fn job(&self, args: &[&str]) -> (i32, String, String) {
        let output = tokio::process::Command::new(program())
            .arg("job")
            .args(args)
            .env("THETA_GATEWAY", self.gateway())
            .output()
            .await
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    async fn run(&self, file: &Value) -> (i32, Value) {
        let path = self.write("job.json", file.to_string());
        let (code, out, err) = self.job(&["run", path.to_str().unwrap(), "--json"]).await;
        assert_eq!(out.lines().count(), 1, "{out}{err}");
        (code, serde_json::from_str(&out).unwrap())
    }

    pub(crate) async fn stop(mut self) {
        let pid = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").arg(pid).status().unwrap().success());
        let ended = tokio::time::timeout(Duration::from_secs(20), self.child.wait()).await.unwrap().unwrap();
        assert!(ended.success(), "{ended}");
    }
}

/// What is found once it is there.
pub(crate) async fn until<T>(what: &str, limit: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begun.elapsed() < limit, "never: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub(crate) fn wei(value: &Value) -> TFuelWei {
    format!("{}wei", value.as_str().unwrap()).parse().unwrap()
}

pub(crate) fn plus(sum: TFuelWei, more: TFuelWei) -> TFuelWei {
    sum.checked_add(more).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_from_the_command_line_end_as_they_should() {
    let network = Network::start(&["--validators", "1"]).await;
    network.nodes(2).await;
    network.write("count.wat", COUNT);
    network.write("input.txt", "a\nb\nc\n");
    let count =
        json!({ "kind": "wasm", "module": "count.wat", "stdin": "input.txt", "quorum": 2, "maxTfuel": "5" });
    let path = network.write("count.json", count.to_string());
    let out = network.folder.join("result");
    let args = ["run", path.to_str().unwrap(), "--json", "--settled", "--out", out.to_str().unwrap()];
    let (code, line, progress) = network.job(&args).await;
    assert_eq!(code, 0, "{line}{progress}");
    let good: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((good["state"].as_str(), good["exitCode"].as_i64()), (Some("succeeded"), Some(0)));
    assert_eq!(good["verification"], "quorum 2 of 2");
    assert_eq!(std::fs::read(out.join("stdout")).unwrap(), b"3\n");
    assert_eq!(good["outputHash"].as_str().unwrap(), format!("0x{}", blake3::hash(b"3\n").to_hex()));
    // What it says of the money is what the chain says.
    let paid = wei(&good["paidTfuelWei"]);
    assert!(!paid.is_zero());
    assert_eq!(
        wei(&good["burnedTfuelWei"]),
        paid.checked_ratio(25_u32.try_into().unwrap(), 100_u32.try_into().unwrap()).unwrap()
    );
    let settlement = good["settlement"].as_array().unwrap();
    assert_eq!(settlement.len(), 2, "{good}");
    let client = network.rpc(0);
    for hash in settlement {
        let hash: Hash = hash.as_str().unwrap().parse().unwrap();
        assert!(client.transaction(&hash).await.unwrap().block_height.0 > 0);
    }
    let burned = client.account(Address::ZERO).await.unwrap().unwrap().coins.tfuel;
    assert_eq!(burned, wei(&good["burnedTfuelWei"]));

    network.write("trap.wat", TRAP);
    network.write("endless.wat", ENDLESS);
    let with = |module: &str, limits: Value| json!({ "kind": "wasm", "module": module, "limits": limits });
    for (file, error) in [
        (with("trap.wat", json!({})), "trap"),
        (with("endless.wat", json!({ "fuel": 1_000_000 })), "out_of_fuel"),
        (with("endless.wat", json!({ "fuel": 10_000_000_000_u64, "wallSeconds": 1 })), "time_limit"),
        (with("count.wat", json!({ "fuel": -1 })), "invalid_spec"),
        (with("missing.wat", json!({})), "invalid_spec"),
        (json!({ "kind": "wasm", "module": "count.wat", "modul": 1 }), "invalid_spec"),
        (json!({ "kind": "wasm", "module": "count.wat", "maxTfuel": "5000" }), "budget_exceeded"),
    ] {
        let (code, view) = network.run(&file).await;
        assert_eq!((code, view["state"].as_str()), (1, Some("failed")), "{view}");
        assert_eq!(view["error"]["code"].as_str(), Some(error), "{view}");
    }
    let (_, view) = network.run(&with("count.wat", json!({ "fuel": -1 }))).await;
    assert!(view["error"]["message"].as_str().unwrap().starts_with("limits.fuel"), "{view}");
    assert_eq!(network.job(&["run"]).await.0, 2, "wrong usage");
    let (code, _, error) = network.job(&["status", "0x00"]).await;
    assert!(code == 1 && error.contains("there is no job"), "{error}");

    // Map jobs give back what went in, whatever the cut.
    network.write("cat.wat", CAT);
    let text = b"a,1\r\nb,2\r\n\r\n\"c\nd\",3\r\nlast\0\xff";
    network.write("in.csv", text);
    for (lines, tasks) in [(1, 6), (4, 2), (1000, 1)] {
        let file = json!({ "kind": "map", "module": "cat.wat", "input": "in.csv", "split": { "lines": lines },
            "merge": "concat", "quorum": 1, "maxTfuel": "20" });
        let path = network.write("map.json", file.to_string());
        let args = ["run", path.to_str().unwrap(), "--json", "--out", out.to_str().unwrap()];
        let (code, line, _) = network.job(&args).await;
        let view: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((code, view["tasks"].as_u64()), (0, Some(tasks)), "{view}");
        assert_eq!(std::fs::read(out.join("stdout")).unwrap(), text);
    }
    // A job that is not wanted any more ends, and pays nothing.
    let path = network.write(
        "long.json",
        with("endless.wat", json!({ "fuel": 1_000_000_000_000_u64, "wallSeconds": 300 })).to_string(),
    );
    let long = network.submit(path.to_str().unwrap()).await;
    let id = long.as_str();
    let (_, line, _) = network.job(&["explain", id, "--json"]).await;
    let explained: Value = serde_json::from_str(&line).unwrap();
    assert!(explained["open"][0]["waits_for"].is_string(), "{explained}");
    let (_, line, _) = network.job(&["cancel", id, "--json"]).await;
    let cancelled: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        (cancelled["state"].as_str(), cancelled["paidTfuelWei"].as_str()),
        (Some("cancelled"), Some("0"))
    );
    let listed = network.get("jobs").await;
    assert_eq!(listed["jobs"][0]["jobId"], id);
    network.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_refuses_what_may_spend_from_elsewhere_or_is_no_job() {
    let network = Network::start(&["--validators", "1", "--edge-nodes", "1"]).await;
    let http = reqwest::Client::new();
    let (jobs, blobs) =
        (format!("{}/api/jobs", network.gateway()), format!("{}/api/blobs", network.gateway()));
    let body = json!({ "job": { "kind": "wasm", "module": "m.wat" }, "blobs": {} }).to_string();
    let json_type = ("content-type", "application/json");
    let post = |headers: &[(&str, &str)], body: String| {
        let mut request = http.post(&jobs).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        async move {
            let response = request.send().await.unwrap();
            (response.status().as_u16(), response.text().await.unwrap())
        }
    };
    let (status, text) = post(&[json_type, ("origin", "http://evil.example")], body.clone()).await;
    assert_eq!(status, 403, "{text}");
    assert_eq!(post(&[json_type, ("origin", "null")], body.clone()).await.0, 403);
    // A name that leads here, as a page that rebinds its name would use.
    let (status, _) =
        post(&[json_type, ("host", "evil.example"), ("origin", "http://evil.example")], body.clone()).await;
    assert_eq!(status, 403);
    assert_eq!(
        post(&[json_type, ("origin", network.gateway())], body.clone()).await.0,
        400,
        "its own page may ask"
    );
    // What a form can send without asking first.
    assert_eq!(post(&[("content-type", "text/plain")], body.clone()).await.0, 415);
    for (body, status, code) in [
        ("{".to_owned(), 400, "malformed"),
        (json!({ "jobs": {} }).to_string(), 400, "malformed"),
        (json!({ "job": { "kind": "video" } }).to_string(), 400, "invalid_spec"),
        (body.clone(), 400, "invalid_spec"),
        (
            json!({ "job": { "kind": "wasm", "module": "m" }, "blobs": { "m": Hash::ZERO } }).to_string(),
            400,
            "unknown_blob",
        ),
        (" ".repeat(2 << 20), 413, "too_large"),
    ] {
        let (got, text) = post(&[json_type], body).await;
        let view: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((got, view["error"]["code"].as_str()), (status, Some(code)), "{text}");
    }
    let put = http.put(&blobs).header("content-length", (300_u64 << 20).to_string()).body(Vec::new());
    if let Ok(response) = put.send().await {
        assert_eq!(response.status(), 413);
    }
    let put = http.put(&blobs).header("origin", "http://evil.example").body("x").send().await.unwrap();
    assert_eq!(put.status(), 403);
    let put: Value = http.put(&blobs).body("x").send().await.unwrap().json().await.unwrap();
    assert_eq!(put["hash"].as_str().unwrap(), format!("0x{}", blake3::hash(b"x").to_hex()));
    for path in ["jobs/0x00", "jobs/nonsense/result", &format!("jobs/{:?}/explain", Hash::ZERO)] {
        let response = http.get(format!("{}/api/{path}", network.gateway())).send().await.unwrap();
        assert_eq!(response.status(), 404, "{path}");
    }
    let cancel = http.delete(format!("{jobs}/{:?}", Hash::ZERO)).send().await.unwrap();
    assert_eq!(cancel.status(), 404);
    // Every path that is described is answered, and no other.
    let described = network.get("openapi.json").await;
    for (path, methods) in described["paths"].as_object().unwrap() {
        if methods.get("get").is_some() {
            let path = path.replace("{id}", &format!("{:?}", Hash::ZERO)).replace("{hash}", &"0".repeat(64));
            let response = http.get(format!("{}{path}", network.gateway())).send().await.unwrap();
            let known = response.status() == 200 || !response.bytes().await.unwrap().is_empty();
            assert!(known || path.starts_with("/blob/"), "{path}");
        }
    }
    network.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_everything_was_killed_jobs_go_on_and_none_that_ended_runs_again() {
    let args = ["--validators", "1"];
    let mut network = Network::start(&args).await;
    network.nodes(2).await;
    network.write("cat.wat", CAT);
    let text: String = (0..60).map(|line| format!("{line}\n")).collect();
    network.write("in.csv", &text);
    let once = json!({ "kind": "wasm", "module": "cat.wat", "stdin": "in.csv", "maxTfuel": "5" });
    let (code, ended) = network.run(&once).await;
    assert_eq!(code, 0, "{ended}");
    let file = json!({ "kind": "map", "module": "cat.wat", "input": "in.csv", "split": { "lines": 1 }, "quorum": 1,
        "maxTfuel": "200" });
    let path = network.write("map.json", file.to_string());
    let id = network.submit(path.to_str().unwrap()).await;
    let begin = Instant::now();
    while network.get(&format!("jobs/{id}")).await["progress"]["mapped"].as_u64().unwrap_or(60) < 20 {
        assert!(begin.elapsed() < SOON);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    network = network.kill_and_start(&args).await;
    let again = network.get(&format!("jobs/{}", ended["jobId"].as_str().unwrap())).await;
    for key in ["state", "attempts", "outputHash", "paidTfuelWei", "endedMs"] {
        assert_eq!(again[key], ended[key], "{key}");
    }
    let view = loop {
        let view = network.get(&format!("jobs/{id}")).await;
        if !matches!(view["state"].as_str(), Some("queued" | "running")) && view["settled"] == true {
            break view;
        }
        assert!(begin.elapsed() < 3 * SOON, "{view}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    assert_eq!((view["state"].as_str(), view["tasks"].as_u64()), (Some("succeeded"), Some(60)), "{view}");
    let out = network.folder.join("out");
    let (code, _, error) = network.job(&["result", &id, "--json", "--out", out.to_str().unwrap()]).await;
    assert_eq!(code, 0, "{error}");
    assert_eq!(std::fs::read_to_string(out.join("stdout")).unwrap(), text);
    // Each part was paid once: all that left the funds is what the two jobs say.
    let paid = plus(wei(&view["paidTfuelWei"]), wei(&ended["paidTfuelWei"]));
    let payer: Address = network.get("fund").await["payer"].as_str().unwrap().parse().unwrap();
    let begin = Instant::now();
    loop {
        let account = network.rpc(0).account(payer).await.unwrap().unwrap();
        let funds = account.reserved_funds.iter();
        let used = funds.fold(TFuelWei::ZERO, |sum, fund| plus(sum, fund.used_fund.tfuel));
        if used == paid {
            break;
        }
        assert!(used < paid && begin.elapsed() < SOON, "{used} of {paid}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    network.stop().await;
}

/// Claims more work than it did.
struct Liar(Wasm);

/// Takes its time.
struct Slow(Wasm);

#[async_trait]
impl Executor for Liar {
    fn kind(&self) -> KindTag {
        self.0.kind()
    }
    fn digest(&self) -> Hash {
        self.0.digest()
    }
    async fn run(&self, task: &Task, attempt: Attempt) -> Result<Output, RunError> {
        let output = self.0.run(task, attempt).await?;
        Ok(Output { fuel_used: output.fuel_used + 1_000_000, ..output })
    }
    async fn check(&self, task: &Task, claimed: &Output, attempt: Attempt) -> Result<Verdict, RunError> {
        self.0.check(task, claimed, attempt).await
    }
}

#[async_trait]
impl Executor for Slow {
    fn kind(&self) -> KindTag {
        self.0.kind()
    }
    fn digest(&self) -> Hash {
        self.0.digest()
    }
    async fn run(&self, task: &Task, attempt: Attempt) -> Result<Output, RunError> {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        self.0.run(task, attempt).await
    }
}

async fn another(network: &Network, index: usize, engine: Arc<dyn Executor>, folder: &Path) -> EdgeNode {
    EdgeNode::start(EdgeConfig {
        chain: "privatenet".to_owned(),
        key: role_key(TEST_MNEMONIC, 2, index).unwrap(),
        folder: folder.join(format!("extra-{index}")),
        client: network.rpc(0),
        directory: Directory::default(),
        engines: Engines::of(engine),
        port: 0,
        settle_at_once: true,
        offer: worker::Settings::default(),
        gateways: vec![network.gateway().to_owned()],
        content: ContentTerms::default(),
        rpc: String::new(),
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_map_job_is_right_and_paid_to_the_wei_though_nodes_die_lie_and_dawdle() {
    let network = Network::start(&["--validators", "1", "--processes", "--edge-nodes", "3"]).await;
    let scratch = tempfile::tempdir().unwrap();
    let wasm = || Wasm::with_worker(program());
    let liar = another(&network, 8, Arc::new(Liar(wasm())), scratch.path()).await;
    let slow = another(&network, 9, Arc::new(Slow(wasm())), scratch.path()).await;
    network.nodes(5).await;
    network.write("cat.wat", CAT);
    // 2.4 MB in 200 parts.
    let text: String = (0..40_000).map(|line| format!("{line:06},{:0>52}\n", line * 7919)).collect();
    network.write("big.csv", &text);
    let file = json!({ "kind": "map", "module": "cat.wat", "input": "big.csv", "split": { "lines": 200 },
        "merge": "concat", "quorum": 2, "maxTfuel": "900", "limits": { "wallSeconds": 10, "fuel": 100_000_000, "memoryMiB": 16 } });
    let path = network.write("map.json", file.to_string());
    let id = network.submit(path.to_str().unwrap()).await;
    let begin = Instant::now();
    let mut killed = false;
    let view = loop {
        let view = network.get(&format!("jobs/{id}")).await;
        if !matches!(view["state"].as_str(), Some("queued" | "running")) {
            break view;
        }
        if !killed && view["progress"]["mapped"].as_u64().unwrap_or(0) >= 100 {
            let pid = network.ready["edgeNodes"][1]["pid"].as_u64().unwrap();
            assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
            killed = true;
        }
        assert!(begin.elapsed() < Duration::from_secs(400), "{view}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    println!("200 parts in {:?}, {} attempts", begin.elapsed(), view["attempts"]);
    assert!(killed);
    assert_eq!((view["state"].as_str(), view["tasks"].as_u64()), (Some("succeeded"), Some(200)), "{view}");
    let out = network.folder.join("out");
    let (code, _, error) = network.job(&["result", &id, "--json", "--out", out.to_str().unwrap()]).await;
    assert_eq!(code, 0, "{error}");
    assert!(std::fs::read(out.join("stdout")).unwrap() == text.as_bytes(), "the output is the input");
    assert!(
        view["wrong"].as_array().unwrap().contains(&json!(liar.id.0.to_checksum(None))),
        "{}",
        view["wrong"]
    );

    // Both sides and the chain say the same. The killed node is started again, to collect what it is owed.
    let paid = wei(&view["paidTfuelWei"]);
    let mut by_node: BTreeMap<Address, TFuelWei> = BTreeMap::new();
    for worker in view["workers"].as_array().unwrap() {
        by_node.insert(worker["node"].as_str().unwrap().parse().unwrap(), wei(&worker["paidTfuelWei"]));
    }
    assert_eq!(by_node.values().fold(TFuelWei::ZERO, |sum, more| plus(sum, *more)), paid);
    assert!(!by_node.contains_key(&liar.id.0) && by_node.contains_key(&slow.id.0));
    let config = network.ready["edgeNodes"][1]["config"].as_str().unwrap();
    let mut again = Command::new(program())
        .args(["edge", "start", "--json", "--config", config])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let client = network.rpc(0);
    let payer: Address = network.get("fund").await["payer"].as_str().unwrap().parse().unwrap();
    let begin = Instant::now();
    let used = loop {
        let account = client.account(payer).await.unwrap().unwrap();
        let used =
            account.reserved_funds.iter().fold(TFuelWei::ZERO, |sum, fund| plus(sum, fund.used_fund.tfuel));
        if used == paid {
            break used;
        }
        assert!(used < paid && begin.elapsed() < SOON, "{used} of {paid} have settled");
        tokio::time::sleep(Duration::from_millis(300)).await;
    };
    assert_eq!(used, paid, "the fund on the chain");
    let burned = client.account(Address::ZERO).await.unwrap().unwrap().coins.tfuel;
    assert_eq!(burned, wei(&view["burnedTfuelWei"]), "the burn on the chain");
    let urls = network.ready["edgeNodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| node["gateway"].as_str().unwrap().to_owned());
    let (mut earned, mut burned_there) = (TFuelWei::ZERO, TFuelWei::ZERO);
    for url in urls.chain([slow.url(), liar.url()]) {
        let begin = Instant::now();
        loop {
            let status: Value = reqwest::get(format!("{url}/status")).await.unwrap().json().await.unwrap();
            let book = &status["earnings"];
            let (all, settled) = (wei(&book["earnedTfuelWei"]), wei(&book["settledTfuelWei"]));
            // It is told by the chain a moment later.
            if wei(&book["accruedTfuelWei"]).is_zero() {
                let node: Address = status["address"].as_str().unwrap().parse().unwrap();
                assert_eq!(all, by_node.get(&node).copied().unwrap_or_default(), "{status}");
                let gone = plus(wei(&book["burnedTfuelWei"]), wei(&book["feesTfuelWei"]));
                assert_eq!(plus(settled, gone), all, "{status}");
                let account = client.account(node).await.unwrap();
                let coins = account.map_or(TFuelWei::ZERO, |account| account.coins.tfuel);
                assert_eq!(coins, settled, "what it holds on the chain: {status}");
                (earned, burned_there) =
                    (plus(earned, all), plus(burned_there, wei(&book["burnedTfuelWei"])));
                break;
            }
            assert!(begin.elapsed() < SOON, "{status}");
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }
    assert_eq!((earned, burned_there), (paid, burned));
    again.kill().unwrap();
    again.wait().unwrap();
    network.stop().await;
}
