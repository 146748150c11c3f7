//! The smallest true job: two edge nodes with keys and stores of their own, real child processes, and the money.

use std::collections::VecDeque;
use std::sync::Arc;

use theta_core::amount::TFuelWei;
use theta_core::hash::Hash;
use theta_core::journal::MemDisk;
use theta_core::sign::SecretKey;
use theta_edge::blob::{BlobRef, BlobStore, MemBlobs};
use theta_edge::chain::{Fund, Settled};
use theta_edge::executor::{Attempt, Ending, Executor, Verdict};
use theta_edge::identity::NodeId;
use theta_edge::job::JobFile;
use theta_edge::payment::purse::Purse;
use theta_edge::payment::till::Till;
use theta_edge::provider::{self, Provider};
use theta_edge::requester::{self, Requester};
use theta_edge::scheduler::{Input, Report, Settings, State, Verification};
use theta_edge::worker;
use theta_edge_wasm::Wasm;

const CHAIN: &str = "privatenet";

struct Node {
    id: NodeId,
    provider: Provider,
    blobs: Arc<MemBlobs>,
    /// Adds this to the fuel it claims to have used.
    lie: u64,
}

struct Net {
    requester: Requester,
    blobs: Arc<MemBlobs>,
    nodes: Vec<Node>,
    fund: Fund,
}

fn engine() -> Wasm {
    Wasm::with_worker(env!("CARGO_BIN_EXE_theta-wasm-worker"))
}

async fn copy(from: &MemBlobs, to: &MemBlobs, blobs: &[BlobRef]) {
    for blob in blobs {
        to.add(from.read_all(blob).await.unwrap()).await.unwrap();
    }
}

impl Net {
    fn new(lies: &[u64]) -> Self {
        let key = Arc::new(SecretKey::from_bytes(&[1; 32]).unwrap());
        let fund = Fund {
            payer: key.address(),
            reserve_sequence: 1,
            initial: TFuelWei::whole(100),
            used: TFuelWei::ZERO,
            resource_ids: vec!["edge1/any".into()],
            end_height: 1000,
            settled: Vec::new(),
        };
        let purses = vec![Purse::open(CHAIN, key.clone(), MemDisk::default()).unwrap()];
        let jobs = MemDisk::default();
        let (mut requester, _) = Requester::open(CHAIN, key, Settings::default(), jobs, purses, 0).unwrap();
        requester.adopt(&fund).unwrap();
        let node = |(index, lie): (usize, &u64)| {
            let key = Arc::new(SecretKey::from_bytes(&[10 + index as u8; 32]).unwrap());
            let till = Till::open(CHAIN, key.clone(), MemDisk::default()).unwrap();
            let provider =
                Provider::new(CHAIN, key.clone(), worker::Settings::default(), [index as u8; 32], till);
            Node { id: NodeId::of(&*key), provider, blobs: Arc::default(), lie: *lie }
        };
        Self { requester, blobs: Arc::default(), nodes: lies.iter().enumerate().map(node).collect(), fund }
    }

    async fn run(&mut self, module: &str, stdin: &[u8], limits: &str) -> Report {
        let text =
            format!(r#"{{"kind":"wasm","module":"m.wat","quorum":2,"limits":{limits},"maxTfuel":"5"}}"#);
        let module = self.blobs.add(module.as_bytes().to_vec()).await.unwrap();
        let stdin = self.blobs.add(stdin.to_vec()).await.unwrap();
        let pool = self.requester.pool(self.fund.reserve_sequence).unwrap();
        let file = JobFile::parse(&text).unwrap();
        let spec = file.spec(CHAIN, 0, pool, module, Some(stdin), Vec::new()).unwrap();
        let mut todo = VecDeque::from(self.requester.submit(0, spec).unwrap());
        for index in 0..self.nodes.len() {
            let node = self.nodes[index].id;
            todo.extend(self.requester.step(0, Input::Node { node, up: true }).unwrap());
        }
        while let Some(next) = todo.pop_front() {
            match next {
                requester::Todo::Send { to, envelope } => {
                    let index = self.nodes.iter().position(|node| node.id == to).unwrap();
                    for envelope in self.deliver(index, &envelope).await {
                        todo.extend(self.requester.receive(0, &envelope).unwrap());
                    }
                }
                requester::Todo::Fetch { job, from, output } => {
                    let node = self.nodes.iter().find(|node| node.id == from).unwrap();
                    let blobs: Vec<_> = output.blobs().collect();
                    copy(&node.blobs, &self.blobs, &blobs).await;
                    todo.extend(
                        self.requester.step(0, Input::Fetched { job, from, complete: true }).unwrap(),
                    );
                }
                requester::Todo::Check { job, task, claims } => {
                    let mut digest = None;
                    for claim in &claims {
                        let attempt = Attempt::new(self.blobs.clone());
                        if engine().check(&task, claim, attempt).await.unwrap() == Verdict::Holds {
                            digest = Some(claim.digest());
                        }
                    }
                    todo.extend(self.requester.step(0, Input::Checked { job, digest }).unwrap());
                }
                requester::Todo::Finished(report) => return report,
                _ => {}
            }
        }
        panic!("the job did not end");
    }

    async fn deliver(&mut self, index: usize, envelope: &[u8]) -> Vec<Vec<u8>> {
        let mut answers = Vec::new();
        let node = &mut self.nodes[index];
        let mut todo = VecDeque::from(node.provider.receive(0, envelope).unwrap());
        while let Some(next) = todo.pop_front() {
            match next {
                provider::Todo::Send { envelope, .. } => answers.push(envelope),
                provider::Todo::LookUp(ask) => {
                    todo.extend(node.provider.looked_up(0, ask, Some(&self.fund), 10).unwrap());
                }
                provider::Todo::Run { task, .. } => {
                    copy(&self.blobs, &node.blobs, &task.work.blobs()).await;
                    let mut result = engine().run(&task, Attempt::new(node.blobs.clone())).await;
                    if let Ok(output) = &mut result {
                        output.fuel_used += node.lie;
                    }
                    todo.extend(node.provider.ran(0, task.id(), result).unwrap());
                }
                _ => {}
            }
        }
        answers
    }
}

#[tokio::test]
async fn two_nodes_run_one_module_and_are_paid_by_receipts_that_settle() {
    let mut net = Net::new(&[0, 0]);
    let report = net.run(super::COUNT, &[7; 1000], "{}").await;
    assert_eq!(report.state, State::Succeeded, "{report:?}");
    assert_eq!(report.verification, Verification::Quorum { agree: 2, of: 2 });
    let output = report.output.clone().unwrap();
    assert_eq!(net.blobs.read_all(&output.stdout).await.unwrap(), 1000_u32.to_le_bytes());
    assert_eq!(report.paid.len(), 2);
    let fee = TFuelWei::wei(300_000_000_000_000_000_u64);
    for earned in &report.paid {
        let node = net.nodes.iter_mut().find(|node| node.id == earned.node).unwrap();
        let due = node.provider.due(10, fee, true);
        assert_eq!(due.iter().map(|due| due.amount).collect::<Vec<_>>(), [earned.amount]);
        assert!(!node.provider.settle(&due[0], &net.fund, fee, 10).unwrap().bytes.is_empty());
        // What the chain shows afterwards.
        net.fund.used = net.fund.used.checked_add(earned.amount).unwrap();
        net.fund.settled.push(Settled {
            payee: earned.node.0,
            payment_sequence: 1,
            amount: earned.amount,
            transaction: Hash::ZERO,
        });
        assert_eq!(node.provider.observe(&net.fund).unwrap(), earned.amount);
    }
    assert!(net.requester.observe(&net.fund).unwrap().is_empty());
}

#[tokio::test]
async fn a_lie_about_a_real_run_is_judged_by_running_it_again() {
    let mut net = Net::new(&[0, 5]);
    let report = net.run(super::COUNT, &[7; 1000], "{}").await;
    assert_eq!((report.state, report.verification), (State::Succeeded, Verification::Reexecuted));
    assert_eq!(report.wrong, [net.nodes[1].id]);
    assert_eq!(report.paid.iter().map(|earned| earned.node).collect::<Vec<_>>(), [net.nodes[0].id]);
}

#[tokio::test]
async fn bad_programs_fail_with_their_reason_and_the_nodes_go_on() {
    for (body, limits, ending) in [
        ("(loop $l (br $l))", r#"{"fuel":1000000}"#, Ending::OutOfFuel),
        ("(loop $l (br $l))", r#"{"fuel":10000000000,"wallSeconds":1}"#, Ending::TimeLimit),
        ("(loop $l (drop (memory.grow (i32.const 16))) (br $l))", "{}", Ending::OutOfMemory),
    ] {
        let mut net = Net::new(&[0, 0]);
        let report = net.run(&super::program(body), b"", limits).await;
        assert_eq!(report.output.as_ref().map(|output| &output.ending), Some(&ending));
        assert_eq!(report.error.as_ref().map(|error| error.0.as_str()), ending.code());
        assert_eq!(report.paid.is_empty(), ending == Ending::TimeLimit, "only proven work is paid");
        let next = net.run(super::ECHO, b"and on", "{}").await;
        assert_eq!(next.state, State::Succeeded);
    }
}
