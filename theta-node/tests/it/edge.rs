//! Jobs on edge nodes with real processes, real HTTP and a real chain.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use theta_core::{amount::TFuelWei, hash::Hash, spec::ChainSpec};
use theta_edge::{
    executor::{Attempt, Engines, Executor, Output, RunError, Verdict},
    identity::NodeId,
    job::{JobFile, KindTag, Task},
    scheduler::{Report, State, Verification},
};
use theta_edge_wasm::Wasm;
use theta_node::{
    devnet::{Devnet, TEST_MNEMONIC, role_key},
    edge::{ContentTerms, Directory, EdgeConfig, EdgeNode, Funds, Job, JobClient, JobClientConfig},
};
use theta_sdk::{
    client::Client,
    wallet::{Wallet, minimum_fee},
};

use super::devnet;

/// Claims more work than it did.
struct Liar(Wasm);

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

fn engine() -> Wasm {
    Wasm::with_worker(env!("CARGO_BIN_EXE_theta"))
}

struct Work {
    devnet: Devnet,
    nodes: Vec<EdgeNode>,
    jobs: JobClient,
    reader: Client,
    payer: theta_core::hash::Address,
    _folder: tempfile::TempDir,
}

impl Work {
    async fn new(engines: Vec<Arc<dyn Executor>>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let devnet = devnet(folder.path(), ChainSpec::devnet()).await;
        let client = |index: usize| Client::http(devnet.nodes[index].theta_url()).unwrap();
        let directory = Directory::default();
        let mut nodes = Vec::new();
        for (index, engine) in engines.into_iter().enumerate() {
            let config = EdgeConfig {
                chain: "privatenet".to_owned(),
                key: role_key(TEST_MNEMONIC, 2, index).unwrap(),
                folder: folder.path().join(format!("edge-{index}")),
                client: client(1 + index),
                directory: directory.clone(),
                engines: Engines::of(engine),
                port: 0,
                settle_at_once: true,
                offer: theta_edge::worker::Settings::default(),
                gateways: Vec::new(),
                content: ContentTerms::default(),
                rpc: String::new(),
            };
            nodes.push(EdgeNode::start(config).await.unwrap());
        }
        let key = devnet.accounts[3].key.clone();
        let wallet = Wallet::new("privatenet", key.clone());
        let (fund, collateral) = (TFuelWei::whole(50), TFuelWei::whole(51));
        let raw = wallet
            .reserve(1, fund, collateral, vec![b"edge1/any".to_vec()], 1000, minimum_fee())
            .sign(wallet.signer())
            .unwrap();
        client(0).broadcast(&raw).await.unwrap();
        let payer = key.address();
        let jobs = JobClient::start(JobClientConfig {
            rpc: String::new(),
            chain: "privatenet".to_owned(),
            key,
            funds: Funds::Given(1),
            folder: folder.path().join("requester"),
            client: client(0),
            directory,
            port: 0,
            api: false,
            pools: Vec::new(),
            engines: Engines::of(Arc::new(engine())),
        })
        .await
        .unwrap();
        let reader = client(3);
        Self { devnet, nodes, jobs, reader, payer, _folder: folder }
    }

    async fn run(&self, module: &str, limits: &str) -> Report {
        let file =
            format!(r#"{{"kind":"wasm","module":"m.wat","quorum":2,"maxTfuel":"5","limits":{limits}}}"#);
        let job = Job {
            file: JobFile::parse(&file).unwrap(),
            module: module.as_bytes().to_vec(),
            stdin: Some(b"a\nb\nc\n".to_vec()),
        };
        tokio::time::timeout(Duration::from_secs(60), self.jobs.run(job)).await.unwrap().unwrap()
    }

    /// What left the payer's fund on the chain, once it is as much as `expected` or ten seconds have passed.
    async fn paid(&self, expected: TFuelWei) -> TFuelWei {
        for _ in 0..100 {
            if self.used().await == expected {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.used().await
    }

    async fn used(&self) -> TFuelWei {
        self.reader.account(self.payer).await.unwrap().unwrap().reserved_funds[0].used_fund.tfuel
    }

    async fn balance(&self, node: NodeId) -> TFuelWei {
        self.reader.account(node.0).await.unwrap().map_or(TFuelWei::ZERO, |account| account.coins.tfuel)
    }
}

const COUNT: &str = include_str!("../../src/demo.wat");
const ENDLESS: &str = r#"(module (memory (export "memory") 1) (func (export "_start") (loop $l (br $l))))"#;
const HUNGRY: &str = r#"(module (memory (export "memory") 1)
    (func (export "_start") (loop $l (drop (memory.grow (i32.const 16))) (br $l))))"#;
const TRAP: &str = r#"(module (memory (export "memory") 1) (func (export "_start") unreachable))"#;
const LIMITS: &str = r#"{"fuel":50000000,"memoryMiB":16,"wallSeconds":20,"outputMiB":1}"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lies_is_caught_and_not_paid() {
    let work = Work::new(vec![Arc::new(engine()), Arc::new(Liar(engine()))]).await;
    let report = work.run(COUNT, LIMITS).await;
    assert_eq!((report.state, report.verification), (State::Succeeded, Verification::Reexecuted));
    let (honest, liar) = (work.nodes[0].id, work.nodes[1].id);
    assert_eq!(report.wrong, [liar]);
    let earned = report.total().unwrap();
    assert!(!earned.is_zero());
    assert_eq!(work.paid(earned).await, earned, "on the chain");
    assert_eq!(work.balance(honest).await, earned.checked_sub(minimum_fee()).unwrap());
    assert_eq!(work.balance(liar).await, TFuelWei::ZERO);
    assert!(work.devnet.handles().all(|handle| handle.reader.settled().header.height > 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_programs_end_with_their_reason_and_the_nodes_go_on() {
    let work = Work::new(vec![Arc::new(engine()), Arc::new(engine())]).await;
    let mut expected = TFuelWei::ZERO;
    for (module, limits, code) in [
        (ENDLESS, r#"{"fuel":1000000}"#, "out_of_fuel"),
        (ENDLESS, r#"{"fuel":10000000000,"wallSeconds":1}"#, "time_limit"),
        (HUNGRY, LIMITS, "out_of_memory"),
        (TRAP, LIMITS, "trap"),
        ("(module", LIMITS, "invalid_module"),
    ] {
        let report = work.run(module, limits).await;
        assert_eq!(report.state, State::Failed, "{code}");
        assert_eq!(report.error.as_ref().map(|error| error.0.as_str()), Some(code));
        let paid = report.total().unwrap();
        // A program's own fault is paid for by its proven fuel; what a clock ended or nobody could run is not paid.
        match code {
            "out_of_fuel" => assert!(!paid.is_zero()),
            "time_limit" | "invalid_module" => assert!(paid.is_zero(), "{code}: {paid}"),
            _ => {}
        }
        expected = expected.checked_add(paid).unwrap();
    }
    let good = work.run(COUNT, LIMITS).await;
    assert_eq!((good.state, good.verification), (State::Succeeded, Verification::Quorum { agree: 2, of: 2 }));
    assert_eq!(work.jobs.read(&good.output.as_ref().unwrap().stdout).await.unwrap(), b"3\n");
    expected = expected.checked_add(good.total().unwrap()).unwrap();
    assert_eq!(work.paid(expected).await, expected, "nothing else left the fund");
}
