//! Jobs whose requester, gateway or worker goes away, is killed or stands still, and a long job beside video jobs. Whatever
//! happens, each job comes to one end, each node is paid once, and all amounts add up to the wei.

use std::{
    collections::BTreeMap,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use theta_core::{amount::TFuelWei, hash::Address};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};

use super::{
    content::{clip, content, has_ffmpeg},
    gateway::{Network, SOON, plus, program, until, wei},
};

/// Computes for so many million rounds, then gives back what it reads.
fn spin(millions: u64) -> String {
    let rounds = millions * 1_000_000;
    format!(
        r#"(module (import "wasi_snapshot_preview1" "fd_read" (func $r (param i32 i32 i32 i32) (result i32)))
 (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))
 (memory (export "memory") 2)
 (func (export "_start") (local $n i64)
  (local.set $n (i64.const {rounds}))
  (loop $s (local.set $n (i64.sub (local.get $n) (i64.const 1))) (br_if $s (i64.ne (local.get $n) (i64.const 0))))
  (loop $l (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 65536))
  (drop (call $r (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
  (if (i32.load (i32.const 8)) (then (i32.store (i32.const 4) (i32.load (i32.const 8)))
   (drop (call $w (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12))) (br $l))))))"#
    )
}

/// Gives back parts of two bytes, and never ends with a longer one.
const STALLS: &str = r#"(module (import "wasi_snapshot_preview1" "fd_read" (func $r (param i32 i32 i32 i32) (result i32)))
 (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))
 (memory (export "memory") 2)
 (func (export "_start") (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 65536))
  (drop (call $r (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
  (if (i32.gt_u (i32.load (i32.const 8)) (i32.const 2)) (then (loop $s (br $s))))
  (i32.store (i32.const 4) (i32.load (i32.const 8)))
  (drop (call $w (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12)))))"#;

fn lines(count: usize) -> String {
    (0..count).map(|line| format!("{line}\n")).collect()
}

fn signal(name: &str, pid: u64) {
    assert!(Command::new("kill").args([name, &pid.to_string()]).status().unwrap().success());
}

/// A job over each line of `in.txt`, one result each.
fn map(network: &Network, name: &str, module: &str, count: usize, more: &Value) -> String {
    network.write(&format!("{name}.wat"), module);
    network.write(&format!("{name}.txt"), lines(count));
    let mut file = json!({ "kind": "map", "module": format!("{name}.wat"), "input": format!("{name}.txt"),
        "split": { "lines": 1 }, "merge": "concat", "quorum": 1, "maxTfuel": "200",
        "limits": { "fuel": 20_000_000_000_u64, "memoryMiB": 16, "wallSeconds": 30 } });
    for (key, value) in more.as_object().into_iter().flatten() {
        file[key] = value.clone();
    }
    network.write(&format!("{name}.json"), file.to_string()).to_str().unwrap().to_owned()
}

/// The job, once it has come to its end and everything is paid.
async fn settled(network: &Network, id: &str) -> Value {
    until("the job ends and is settled", SOON, async || {
        let view = network.get(&format!("jobs/{id}")).await;
        let ended = !matches!(view["state"].as_str(), Some("queued" | "running"));
        (ended && view["settled"] == true).then_some(view)
    })
    .await
}

async fn output(network: &Network, id: &str) -> String {
    let out = network.folder.join(format!("out-{id}"));
    let (code, _, error) = network.job(&["result", id, "--json", "--out", out.to_str().unwrap()]).await;
    assert_eq!(code, 0, "{error}");
    std::fs::read_to_string(out.join("stdout")).unwrap()
}

async fn status(url: &str) -> Option<Value> {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(2)).build().unwrap();
    client.get(format!("{url}/status")).send().await.ok()?.json().await.ok()
}

fn edge_urls(network: &Network) -> Vec<String> {
    let nodes = network.ready["edgeNodes"].as_array().unwrap();
    nodes.iter().map(|node| node["gateway"].as_str().unwrap().to_owned()).collect()
}

/// No node does anything any more.
async fn all_free(network: &Network, limit: Duration) {
    for url in edge_urls(network) {
        until("the node is free", limit, async || (status(&url).await?["busy"] == 0).then_some(())).await;
    }
}

/// What these jobs say that they paid is what left the funds, what their nodes hold, burned and spent on fees, and nothing
/// is set aside any more.
async fn adds_up(network: &Network, jobs: &[&str]) {
    let (mut paid, mut burned) = (TFuelWei::ZERO, TFuelWei::ZERO);
    let mut by_node: BTreeMap<String, TFuelWei> = BTreeMap::new();
    for id in jobs {
        let view = settled(network, id).await;
        paid = plus(paid, wei(&view["paidTfuelWei"]));
        burned = plus(burned, wei(&view["burnedTfuelWei"]));
        for worker in view["workers"].as_array().unwrap() {
            let sum = by_node.entry(worker["node"].as_str().unwrap().to_owned()).or_default();
            *sum = plus(*sum, wei(&worker["paidTfuelWei"]));
        }
    }
    let client = network.rpc(0);
    let payer: Address = network.get("fund").await["payer"].as_str().unwrap().parse().unwrap();
    let account = client.account(payer).await.unwrap().unwrap();
    let funds = account.reserved_funds.iter();
    assert_eq!(funds.fold(TFuelWei::ZERO, |sum, fund| plus(sum, fund.used_fund.tfuel)), paid);
    assert_eq!(client.account(Address::ZERO).await.unwrap().unwrap().coins.tfuel, burned);
    for fund in network.get("fund").await["funds"].as_array().unwrap() {
        assert_eq!(fund["promisedTfuelWei"], "0", "{fund}");
    }
    for url in edge_urls(network) {
        until("the node's book is the chain's", SOON, async || {
            let status = status(&url).await?;
            let (node, book) = (status["address"].as_str()?, &status["earnings"]);
            let gone = plus(wei(&book["burnedTfuelWei"]), wei(&book["feesTfuelWei"]));
            let earned = by_node.get(node).copied().unwrap_or_default();
            let account = client.account(node.parse().unwrap()).await.unwrap();
            let coins = account.map_or(TFuelWei::ZERO, |account| account.coins.tfuel);
            assert!(wei(&book["earnedTfuelWei"]) <= earned, "{status}");
            let same = wei(&book["earnedTfuelWei"]) == earned && wei(&book["settledTfuelWei"]) == coins;
            (same && plus(coins, gone) == earned).then_some(())
        })
        .await;
    }
}

/// `theta job run`, once its job has got so far.
async fn client(network: &Network, path: &str, parts: usize) -> (tokio::process::Child, String) {
    let mut child = tokio::process::Command::new(program())
        .args(["job", "run", path, "--json"])
        .env("THETA_GATEWAY", network.gateway())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut id = String::new();
    loop {
        let line = tokio::time::timeout(SOON, said.next_line()).await.unwrap().unwrap().unwrap();
        if let Some(job) = line.strip_prefix("job ") {
            id = job.to_owned();
        }
        if line.split_once(" of ").is_some_and(|(done, _)| done.parse::<usize>().unwrap() >= parts) {
            tokio::spawn(async move { while said.next_line().await.is_ok_and(|line| line.is_some()) {} });
            return (child, id);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_requester_that_goes_away_leaves_nothing_unpaid_and_no_place_taken() {
    let network = Network::start(&["--validators", "1"]).await;
    network.nodes(2).await;
    // Left alone those of its parts that stall would run for most of a minute.
    let limits = json!({ "fuel": 50_000_000_000_u64, "memoryMiB": 16, "wallSeconds": 60 });
    let long = map(&network, "long", STALLS, 24, &json!({ "limits": limits }));
    let mut jobs = Vec::new();
    for twice in [false, true] {
        let (mut child, id) = client(&network, &long, 10).await;
        let pid = u64::from(child.id().unwrap());
        let begun = Instant::now();
        signal("-INT", pid);
        if twice {
            tokio::time::sleep(Duration::from_millis(30)).await;
            signal("-INT", pid);
        }
        let mut line = String::new();
        let mut out = child.stdout.take().unwrap();
        let all = async { (out.read_to_string(&mut line).await.unwrap(), child.wait().await.unwrap()).1 };
        let ended = tokio::time::timeout(Duration::from_secs(5), all).await.expect("within five seconds");
        assert_eq!(ended.code(), Some(1), "{line}");
        let said: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(said["jobId"].as_str(), Some(id.as_str()));
        assert!(matches!(said["state"].as_str(), Some("cancelled" | "running")), "{said}");
        all_free(&network, Duration::from_secs(10).saturating_sub(begun.elapsed())).await;
        let view = settled(&network, &id).await;
        assert_eq!(view["state"], "cancelled", "{view}");
        assert!(!wei(&view["paidTfuelWei"]).is_zero(), "what was done before is paid: {view}");
        jobs.push(id);
    }
    // Nobody cancels for one that is killed: its job goes on.
    let short = map(&network, "short", &spin(100), 12, &json!({}));
    let (mut child, id) = client(&network, &short, 1).await;
    child.kill().await.unwrap();
    let view = settled(&network, &id).await;
    assert_eq!((view["state"].as_str(), view["tasks"].as_u64()), (Some("succeeded"), Some(12)), "{view}");
    assert_eq!(output(&network, &id).await, lines(12));
    jobs.push(id);
    all_free(&network, SOON).await;
    adds_up(&network, &jobs.iter().map(String::as_str).collect::<Vec<_>>()).await;
    network.stop().await;
}

/// Kills what a killed network of processes left running.
async fn kill_all(ready: &Value) {
    for node in ready["nodes"].as_array().into_iter().chain(ready["edgeNodes"].as_array()).flatten() {
        signal("-9", node["pid"].as_u64().unwrap());
    }
    for node in ready["edgeNodes"].as_array().unwrap() {
        let url = node["gateway"].as_str().unwrap();
        until("it is gone", SOON, async || status(url).await.is_none().then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_whose_gateway_was_killed_are_free_again_and_paid_once_it_is_back() {
    let args = ["--validators", "1", "--processes"];
    let network = Network::start(&args).await;
    network.nodes(2).await;
    let long = map(&network, "long", &spin(300), 16, &json!({}));
    let id = network.submit(&long).await;
    until("four parts are done", SOON, async || {
        let view = network.get(&format!("jobs/{id}")).await;
        (view["progress"]["mapped"].as_u64() >= Some(4)).then_some(())
    })
    .await;
    let (ready, urls) = (network.ready.clone(), edge_urls(&network));
    let scratch = network.kill().await;
    for url in urls {
        until("its worker is free", SOON, async || (status(&url).await?["busy"] == 0).then_some(())).await;
    }
    kill_all(&ready).await;
    let network = Network::start_in(scratch, &args).await;
    let view = settled(&network, &id).await;
    assert_eq!((view["state"].as_str(), view["tasks"].as_u64()), (Some("succeeded"), Some(16)), "{view}");
    assert_eq!(output(&network, &id).await, lines(16));
    adds_up(&network, &[&id]).await;
    network.stop().await;
}

/// An edge node that somebody started again by its configuration.
struct Again(tokio::process::Child);

impl Again {
    async fn start(config: &str) -> Self {
        let mut child = tokio::process::Command::new(program())
            .args(["edge", "start", "--json", "--config", config])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = tokio::time::timeout(SOON, lines.next_line()).await.unwrap().unwrap();
        assert!(ready.is_some(), "it starts");
        Self(child)
    }

    async fn end(mut self, how: &str) {
        signal(how, u64::from(self.0.id().unwrap()));
        tokio::time::timeout(SOON, self.0.wait()).await.expect("it ends").unwrap();
    }
}

/// All that must not change of a job that has ended.
fn fixed(view: &Value) -> Vec<Value> {
    let keys =
        ["state", "attempts", "outputHash", "paidTfuelWei", "endedMs", "workers", "settlement", "settled"];
    keys.iter().map(|key| view[*key].clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_ended_runs_never_again_whatever_becomes_of_its_worker() {
    let args = ["--validators", "1", "--processes", "--edge-nodes", "1"];
    let mut network = Network::start(&args).await;
    network.nodes(1).await;
    network.write("once.wat", spin(1));
    network.write("in.txt", lines(3));
    let file =
        json!({ "kind": "wasm", "module": "once.wat", "stdin": "in.txt", "quorum": 1, "maxTfuel": "5" });
    let once = network.write("once.json", file.to_string()).to_str().unwrap().to_owned();
    let first = network.submit(&once).await;
    let before = settled(&network, &first).await;
    assert_eq!((before["state"].as_str(), before["attempts"].as_u64()), (Some("succeeded"), Some(1)));
    let config = network.ready["edgeNodes"][0]["config"].as_str().unwrap().to_owned();
    let url = edge_urls(&network)[0].clone();
    let unchanged = async |network: &Network| {
        for _ in 0..5 {
            assert_eq!(status(&url).await.unwrap()["busy"], 0, "nothing runs");
            let view = network.get(&format!("jobs/{first}")).await;
            assert_eq!(fixed(&view), fixed(&before));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    // Killed and started again, then stopped in order and started again.
    signal("-9", network.ready["edgeNodes"][0]["pid"].as_u64().unwrap());
    let mut worker = Again::start(&config).await;
    unchanged(&network).await;
    worker.end("-TERM").await;
    worker = Again::start(&config).await;
    unchanged(&network).await;
    // Killed at any moment between the result and the end of its settlement.
    let mut jobs = vec![first.clone()];
    for millis in [0, 200, 400, 600] {
        let id = network.submit(&once).await;
        until("the job ends", SOON, async || {
            (network.get(&format!("jobs/{id}")).await["state"] == "succeeded").then_some(())
        })
        .await;
        tokio::time::sleep(Duration::from_millis(millis)).await;
        worker.end("-9").await;
        worker = Again::start(&config).await;
        jobs.push(id);
    }
    let all: Vec<&str> = jobs.iter().map(String::as_str).collect();
    for id in &all {
        assert_eq!(settled(&network, id).await["attempts"], 1, "{id}");
    }
    adds_up(&network, &all).await;
    // The gateway, and with it everything else.
    worker.end("-9").await;
    let ready = network.ready.clone();
    let scratch = network.kill().await;
    for node in ready["nodes"].as_array().unwrap() {
        signal("-9", node["pid"].as_u64().unwrap());
    }
    network = Network::start_in(scratch, &args).await;
    network.nodes(1).await;
    unchanged(&network).await;
    adds_up(&network, &all).await;
    network.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_frozen_worker_brings_late_changes_nothing() {
    let network = Network::start(&["--validators", "1", "--processes"]).await;
    network.nodes(2).await;
    network.write("spin.wat", spin(1_000));
    network.write("in.txt", lines(3));
    let file = json!({ "kind": "wasm", "module": "spin.wat", "stdin": "in.txt", "quorum": 1, "maxTfuel": "5",
        "limits": { "fuel": 20_000_000_000_u64, "memoryMiB": 16, "wallSeconds": 30 } });
    let path = network.write("job.json", file.to_string()).to_str().unwrap().to_owned();
    let id = network.submit(&path).await;
    let urls = edge_urls(&network);
    let frozen = until("one works", SOON, async || {
        for (place, url) in urls.iter().enumerate() {
            if status(url).await?["busy"] == 1 {
                return Some(place);
            }
        }
        None
    })
    .await;
    let node = &network.ready["edgeNodes"][frozen];
    signal("-STOP", node["pid"].as_u64().unwrap());
    let before = settled(&network, &id).await;
    assert_eq!((before["state"].as_str(), before["attempts"].as_u64()), (Some("succeeded"), Some(2)));
    let workers = before["workers"].as_array().unwrap();
    assert!(workers.len() == 1 && workers[0]["node"] != node["address"], "{before}");
    signal("-CONT", node["pid"].as_u64().unwrap());
    until("its late run is over", SOON, async || (status(&urls[frozen]).await?["busy"] == 0).then_some(()))
        .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(fixed(&network.get(&format!("jobs/{id}")).await), fixed(&before));
    let earned = &status(&urls[frozen]).await.unwrap()["earnings"]["earnedTfuelWei"];
    assert_eq!(earned, "0", "it was late");
    adds_up(&network, &[&id]).await;
    // It is asked again like any other.
    network.nodes(2).await;
    network.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_job_goes_on_by_itself_after_video_jobs() {
    if !has_ffmpeg() {
        return;
    }
    let network = Network::start(&["--validators", "1", "--edge-nodes", "1"]).await;
    network.nodes(1).await;
    let long = map(&network, "long", &spin(200), 40, &json!({ "priority": 1 }));
    let id = network.submit(&long).await;
    let mapped = async || network.get(&format!("jobs/{id}")).await["progress"]["mapped"].as_u64();
    let path = network.folder.join("clip.mp4");
    clip(&path, 2);
    for _ in 0..2 {
        until("it moves", SOON, async || mapped().await.filter(|done| *done > 0)).await;
        let (code, published) = content(
            &network,
            &["publish", path.to_str().unwrap(), "--ladder", "160p", "--segment-seconds", "1"],
        )
        .await;
        assert_eq!(code, 0, "{published}");
        let Some(done) = mapped().await else { break };
        let more = async || mapped().await.is_none_or(|now| now > done).then_some(());
        until("it moves again", Duration::from_secs(30), more).await;
    }
    let view = settled(&network, &id).await;
    assert_eq!((view["state"].as_str(), view["tasks"].as_u64()), (Some("succeeded"), Some(40)), "{view}");
    assert_eq!(output(&network, &id).await, lines(40));
    let listed = network.get("jobs").await;
    let all: Vec<&str> =
        listed["jobs"].as_array().unwrap().iter().map(|job| job["jobId"].as_str().unwrap()).collect();
    assert!(all.len() > 3, "clips are jobs too: {listed}");
    adds_up(&network, &all).await;
    network.stop().await;
}
