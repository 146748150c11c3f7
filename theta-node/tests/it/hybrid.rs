//! A full edge beside a provider pool whose machines are processes: what would come too late goes to them, no more of it
//! than was allowed, and comes back once the edge is quick; each job says why it is where it is.

use std::{
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use serde_json::{Value, json};
use theta_core::{amount::TFuelWei, hash::Hash};
use theta_edge::{
    executor::{Attempt, Ending, Engines, Executor, Output, RunError},
    job::{KindTag, Task},
    worker,
};
use theta_node::{
    clock::now_millis,
    devnet::{TEST_MNEMONIC, role_key},
    edge::{ContentTerms, Directory, EdgeConfig, EdgeNode},
};
use tokio::task::JoinSet;

use super::gateway::{Network, SOON, until, wei};

const NOTHING: &str = r#"(module (memory (export "memory") 1) (func (export "_start")))"#;
/// Why a job may have gone to the pool here: it costs about what is bid, and the edge has all that is asked for.
const WHY: &str = "deadline";

/// The edge's engine: what it runs takes so many milliseconds.
#[derive(Clone, Default)]
struct Slow(Arc<AtomicU64>);

#[async_trait]
impl Executor for Slow {
    fn kind(&self) -> KindTag {
        KindTag::Wasm
    }
    fn digest(&self) -> Hash {
        Hash::ZERO
    }
    async fn run(&self, _task: &Task, _attempt: Attempt) -> Result<Output, RunError> {
        tokio::time::sleep(Duration::from_millis(self.0.load(Ordering::SeqCst))).await;
        Ok(Output::silent(Ending::Exit(0), 1))
    }
}

/// The edge: one node with one slot.
async fn edge(network: &Network, engine: Slow, folder: &Path) -> EdgeNode {
    EdgeNode::start(EdgeConfig {
        chain: "privatenet".to_owned(),
        key: role_key(TEST_MNEMONIC, 2, 9).unwrap(),
        folder: folder.join("edge"),
        client: network.rpc(0),
        directory: Directory::default(),
        engines: Engines::of(Arc::new(engine)),
        port: 0,
        settle_at_once: true,
        offer: worker::Settings { slots: 1, ..worker::Settings::default() },
        gateways: vec![network.gateway().to_owned()],
        content: ContentTerms::default(),
        rpc: String::new(),
    })
    .await
    .unwrap()
}

/// What a job adds to the plain one: how many attempts may go to the pool, and in how many milliseconds it has to be done.
type More = (u32, Option<u64>);

struct Hybrid {
    network: Network,
    edge: String,
    machines: Vec<Value>,
    module: Value,
    http: reqwest::Client,
}

impl Hybrid {
    /// Hands jobs over at the same time; their names.
    async fn submit(&self, wishes: impl Iterator<Item = More>) -> Vec<String> {
        let mut submissions = JoinSet::new();
        for (spill, within) in wishes {
            // An attempt of 37 seconds may cost 1.01 TFUEL: as much as the pool's 100 for an hour, and not a seventh more.
            let mut job = json!({ "kind": "wasm", "module": "m.wat", "quorum": 1, "maxTfuel": "1.01", "spill": spill,
                "limits": { "fuel": 1_000_000, "memoryMiB": 16, "wallSeconds": 37 } });
            if let Some(within) = within {
                job["deadlineMs"] = json!(now_millis() + within);
            }
            let body = json!({ "job": job, "blobs": { "m.wat": self.module } });
            let request = self.http.post(format!("{}/api/jobs", self.network.gateway())).json(&body);
            submissions.spawn(async move {
                let view: Value = request.send().await.unwrap().json().await.unwrap();
                view["jobId"].as_str().unwrap_or_else(|| panic!("{view}")).to_owned()
            });
        }
        submissions.join_all().await
    }

    /// The jobs, once all have ended. On a slow machine some with a deadline are late, and say so; nothing else goes wrong,
    /// and each that succeeded was paid once.
    async fn ended(&self, ids: &[String]) -> Vec<Value> {
        let mut views = Vec::new();
        for id in ids {
            let view = until("the job ends", 2 * SOON, async || {
                let view = self.network.get(&format!("jobs/{id}")).await;
                (!view["endedMs"].is_null()).then_some(view)
            })
            .await;
            let workers = view["workers"].as_array().unwrap();
            if view["state"] == "succeeded" {
                assert_eq!((workers.len(), workers[0]["tasks"].as_u64()), (1, Some(1)), "{view}");
                assert!(wei(&view["paidTfuelWei"]) >= TFuelWei::whole(1), "{view}");
            } else {
                assert_eq!((view["error"]["code"].as_str(), workers.len()), (Some(WHY), 0), "{view}");
            }
            views.push(view);
        }
        views
    }

    /// `theta job explain` says of an ended job where else than at the edge it was, and why.
    async fn assert_explained(&self, view: &Value) {
        let (code, said, error) = self.network.job(&["explain", view["jobId"].as_str().unwrap()]).await;
        assert_eq!(code, 0, "{error}");
        for spilled in view["spilled"].as_array().unwrap() {
            let line =
                format!("it went to {} of a provider pool for its {WHY}", spilled["node"].as_str().unwrap());
            assert!(said.contains(&line), "{said}");
        }
        assert_eq!(said.contains("of a provider pool"), went(view) > 0, "{said}");
    }

    fn is_machine(&self, node: &Value) -> bool {
        self.machines.iter().any(|machine| machine["address"] == *node)
    }

    fn signal(&self, signal: &str) {
        for machine in &self.machines {
            let pid = machine["pid"].as_u64().unwrap().to_string();
            assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
        }
    }
}

/// How many attempts of a job went to the pool.
fn went(view: &Value) -> usize {
    view["spilled"].as_array().unwrap().len()
}

fn worker(view: &Value) -> &Value {
    &view["workers"][0]["node"]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_edge_spills_to_machines_that_are_processes_and_what_they_have_not_begun_comes_back() {
    let network =
        Network::start(&["--validators", "1", "--processes", "--edge-nodes", "0", "--pool-machines", "2"])
            .await;
    let machines = network.ready["edgeNodes"].as_array().unwrap().clone();
    assert_eq!(machines.len(), 2);
    assert_ne!(machines[0]["pid"], machines[1]["pid"]);
    let (scratch, slow) = (tempfile::tempdir().unwrap(), Slow::default());
    let node = edge(&network, slow.clone(), scratch.path()).await;
    network.nodes(3).await;
    let http = reqwest::Client::new();
    let module = http.put(format!("{}/api/blobs", network.gateway())).body(NOTHING).send().await.unwrap();
    let module = module.json::<Value>().await.unwrap()["hash"].clone();
    let hybrid = Hybrid { network, edge: node.id.0.to_checksum(None), machines, module, http };
    let deadline = |spill: u32, within: u64| move |_: usize| (spill, Some(within));

    // How fast the edge is becomes known, from twenty jobs on. Nothing is late, and so nothing goes elsewhere, whatever it may.
    slow.0.store(150, Ordering::SeqCst);
    let calm = hybrid.submit((0..24).map(|_| (1, None))).await;
    for view in hybrid.ended(&calm).await {
        assert_eq!((view["state"].as_str(), went(&view)), (Some("succeeded"), 0), "{view}");
        assert_eq!(*worker(&view), hybrid.edge, "{view}");
        hybrid.assert_explained(&view).await;
    }

    // More than it can do in time. What may go to the pool and would be late goes, each once; what may not stays.
    let (mut may, mut may_not) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        may.extend(hybrid.submit((0..6).map(deadline(1, 4_000))).await);
        may_not.extend(hybrid.submit((0..1).map(|_| (0, None))).await);
    }
    let busy = hybrid.ended(&may).await;
    let there = busy.iter().filter(|view| went(view) > 0).count();
    assert!(there > 0 && there < busy.len(), "{there} of {} went to the pool", busy.len());
    assert!(busy.iter().filter(|view| view["state"] == "succeeded").count() > busy.len() / 2, "{busy:?}");
    let mut used = [0, 0];
    for view in &busy {
        assert!(went(view) <= 1, "within its budget: {view}");
        for spilled in view["spilled"].as_array().unwrap() {
            assert!(hybrid.is_machine(&spilled["node"]) && spilled["why"] == WHY, "{view}");
        }
        if view["state"] == "succeeded" {
            assert!(went(view) == 1 || *worker(view) == hybrid.edge, "{view}");
        }
        for (machine, used) in hybrid.machines.iter().zip(&mut used) {
            *used += usize::from(*worker(view) == machine["address"]);
        }
        hybrid.assert_explained(view).await;
    }
    assert!(used.iter().all(|used| *used > 0), "both machines have worked: {used:?}");
    for view in hybrid.ended(&may_not).await {
        assert_eq!((view["state"].as_str(), went(&view)), (Some("succeeded"), 0), "{view}");
        assert_eq!(*worker(&view), hybrid.edge, "{view}");
    }

    // The machines stand still, so they begin nothing; jobs go to them all the same.
    hybrid.signal("-STOP");
    slow.0.store(300, Ordering::SeqCst);
    let full = hybrid.submit((0..30).map(deadline(1, 6_000))).await;
    let open = until("one is with the pool", SOON, async || {
        for id in &full {
            let (_, said, _) = hybrid.network.job(&["explain", id]).await;
            if said.contains(&format!("of the pool local, where it went for its {WHY}")) {
                return Some(id.clone());
            }
        }
        None
    })
    .await;
    // The edge is quick again: they come back, and are done there.
    slow.0.store(0, Ordering::SeqCst);
    let back = hybrid.ended(&full).await;
    assert!(back.iter().filter(|view| view["state"] == "succeeded").count() > back.len() / 2, "{back:?}");
    for view in &back {
        if view["state"] == "succeeded" {
            assert_eq!(*worker(view), hybrid.edge, "{view}");
        }
        assert!(went(view) <= 1, "{view}");
        hybrid.assert_explained(view).await;
    }
    let moved = back.iter().find(|view| view["jobId"] == open.as_str()).unwrap();
    assert_eq!((moved["state"].as_str(), went(moved)), (Some("succeeded"), 1), "{moved}");
    hybrid.signal("-CONT");

    // With room at the edge the same kind of job stays there.
    let few = hybrid.submit((0..2).map(deadline(1, 6_000))).await;
    for view in hybrid.ended(&few).await {
        assert_eq!((view["state"].as_str(), went(&view)), (Some("succeeded"), 0), "{view}");
        assert_eq!(*worker(&view), hybrid.edge, "{view}");
    }
    drop(node);
    hybrid.network.stop().await;
}
