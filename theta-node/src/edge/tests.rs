#![allow(clippy::unwrap_used, reason = "whatever fails here is a failed test")]

use std::{
    fs::File,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use serde_json::{Value, json};
use theta_core::{
    amount::{Coins, TFuelWei},
    hash::{Address, Hash},
    sign::SecretKey,
};
use theta_edge::{
    blob::{BlobError, BlobRef, BlobStore},
    executor::{Attempt, Ending, Engines, Executor, Output, RunError},
    identity::NodeId,
    job::{JobFile, KindTag, PoolRef, Task},
    message::{Envelope, Message, Reject},
    scheduler::State,
    worker,
};
use theta_sdk::{
    client::{Client, Transport, TransportError},
    rpc::{self, Method as _, Text},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::{mpsc, oneshot},
    task::JoinSet,
};

use super::{
    asker::{AskerEvent, AskerLoop, MAX_JOBS},
    blobs::keep,
    wire::{MAX_REQUESTS, Wire},
    *,
};
use crate::connections::{Listener, listen};

mod models;
mod pool;

const CHAIN: &str = "privatenet";
const SOON: Duration = Duration::from_secs(10);

fn key(byte: u8) -> SecretKey {
    SecretKey::from_bytes(&[byte; 32]).unwrap()
}

/// A chain that knows one height and gives everybody a fund.
#[derive(Clone, Default)]
struct Bank {
    /// Does not answer any more.
    hangs: Arc<AtomicBool>,
    /// Cannot be reached.
    fails: bool,
}

#[async_trait]
impl Transport for Bank {
    async fn call(&self, method: &str, _params: Value) -> Result<Value, TransportError> {
        if self.fails {
            return Err(TransportError::Unreachable("down".to_owned()));
        }
        if self.hangs.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        if method == rpc::GetStatus::NAME {
            return Ok(json!({
                "address": "", "chain_id": CHAIN, "peer_id": "", "latest_finalized_block_hash": Hash::ZERO,
                "latest_finalized_block_height": "10", "latest_finalized_block_time": "0",
                "latest_finalized_block_epoch": "10", "current_epoch": "10", "current_height": "10",
                "current_hash": Hash::ZERO, "current_time": "0", "syncing": false, "tip_hash": Hash::ZERO,
                "genesis_block_hash": Hash::ZERO, "snapshot_block_height": "0",
                "snapshot_block_hash": Hash::ZERO,
            }));
        }
        if method == rpc::GetSplitRule::NAME {
            return Ok(json!({}));
        }
        let coins = |tfuel| Coins { theta: Default::default(), tfuel: TFuelWei::whole(tfuel) };
        let fund = rpc::ReservedFund {
            collateral: coins(10_001),
            initial_fund: coins(10_000),
            used_fund: coins(0),
            resource_ids: vec!["edge1/any".to_owned()],
            end_block_height: Text(1000),
            reserve_sequence: Text(1),
            transfer_records: Vec::new(),
        };
        let account = rpc::Account {
            sequence: Text(1),
            coins: coins(1),
            reserved_funds: vec![fund],
            last_updated_block_height: Text(0),
            root: Hash::ZERO,
            code: Hash::ZERO,
        };
        Ok(serde_json::to_value(account).unwrap())
    }
}

/// An engine that says so much fuel, or never ends; counts those that run.
#[derive(Clone, Default)]
struct Engine {
    fuel: Option<u64>,
    running: Arc<AtomicUsize>,
}

struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Executor for Engine {
    fn kind(&self) -> KindTag {
        KindTag::Wasm
    }
    fn digest(&self) -> Hash {
        Hash::ZERO
    }
    async fn run(&self, _task: &Task, _attempt: Attempt) -> Result<Output, RunError> {
        self.running.fetch_add(1, Ordering::SeqCst);
        let _running = Running(self.running.clone());
        match self.fuel {
            Some(fuel) => Ok(Output::silent(Ending::Exit(0), fuel)),
            None => std::future::pending().await,
        }
    }
}

impl Engine {
    async fn becomes(&self, count: usize) {
        let begin = Instant::now();
        while self.running.load(Ordering::SeqCst) != count {
            assert!(begin.elapsed() < SOON, "{} engines run", self.running.load(Ordering::SeqCst));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn node(folder: &Path, byte: u8, bank: Bank, directory: &Directory, engine: Engine) -> EdgeNode {
    EdgeNode::start(EdgeConfig {
        chain: CHAIN.to_owned(),
        key: key(byte),
        folder: folder.join(format!("node-{byte}")),
        client: Client::new(bank),
        directory: directory.clone(),
        engines: Engines::of(Arc::new(engine)),
        port: 0,
        settle_at_once: true,
        offer: worker::Settings::default(),
        gateways: Vec::new(),
        content: ContentTerms::default(),
        rpc: String::new(),
    })
    .await
    .unwrap()
}

fn asks(folder: &Path, bank: Bank, directory: &Directory, engine: Engine) -> JobClientConfig {
    JobClientConfig {
        rpc: String::new(),
        chain: CHAIN.to_owned(),
        key: key(1),
        funds: Funds::Given(1),
        folder: folder.join("requester"),
        client: Client::new(bank),
        directory: directory.clone(),
        pools: Vec::new(),
        engines: Engines::of(Arc::new(engine)),
        port: 0,
        api: false,
    }
}

async fn requester(folder: &Path, bank: Bank, directory: &Directory, engine: Engine) -> JobClient {
    JobClient::start(asks(folder, bank, directory, engine)).await.unwrap()
}

fn job(quorum: u8, module: &[u8]) -> Job {
    let file = format!(r#"{{"kind":"wasm","module":"m.wasm","quorum":{quorum},"maxTfuel":"5"}}"#);
    Job { file: JobFile::parse(&file).unwrap(), module: module.to_vec(), stdin: None }
}

/// A requester made by hand: what it sends, and what comes back.
struct Peer {
    key: SecretKey,
    wire: Wire,
    inbox: mpsc::Receiver<Vec<u8>>,
    _listener: Listener,
}

impl Peer {
    async fn new(folder: &Path, directory: &Directory) -> Self {
        let (key, wire) = (key(9), Wire::new(&folder.join("peer"), directory.clone()).unwrap());
        let (events, inbox) = mpsc::channel(EVENTS);
        let routes = wire.routes(NodeId(key.address()), events, |bytes| bytes);
        let listener = listen(0, routes).await.unwrap();
        directory.add(NodeId(key.address()), format!("http://{}", listener.address));
        Self { key, wire, inbox, _listener: listener }
    }

    fn offer(&self, to: NodeId, nonce: u64) {
        let payer: Address = self.key.address();
        let pool = PoolRef { payer, reserve_sequence: 1, resource_id: "edge1/any".to_owned() };
        let spec = job(1, b"").file.spec(CHAIN, nonce, pool.clone(), BlobRef::of(b""), None, Vec::new());
        let (task, cap) = (spec.unwrap().task(), TFuelWei::whole(5));
        let offer = Message::Offer { task, epoch: 1, pool, cap };
        self.wire.send(to, Envelope::seal(CHAIN, &self.key, to, &offer).unwrap());
    }

    async fn refusal(&mut self) -> Reject {
        let bytes = tokio::time::timeout(SOON, self.inbox.recv()).await.expect("an answer").unwrap();
        match Envelope::open(CHAIN, NodeId(self.key.address()), &bytes).unwrap().1 {
            Message::Rejected { reason, .. } => reason,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_node_that_is_dropped_stops_its_engines() {
    let (folder, directory, engine) = (tempfile::tempdir().unwrap(), Directory::default(), Engine::default());
    let node = node(folder.path(), 2, Bank::default(), &directory, engine.clone()).await;
    let jobs = requester(folder.path(), Bank::default(), &directory, Engine::default()).await;
    let run = tokio::spawn(async move { jobs.run(job(1, b"m")).await });
    engine.becomes(1).await;
    drop(node);
    engine.becomes(0).await;
    run.abort();
}

#[tokio::test]
async fn a_requester_that_is_dropped_stops_its_engine() {
    let (folder, directory, judge) = (tempfile::tempdir().unwrap(), Directory::default(), Engine::default());
    let one = Engine { fuel: Some(1), ..Engine::default() };
    let two = Engine { fuel: Some(2), ..Engine::default() };
    let _one = node(folder.path(), 2, Bank::default(), &directory, one).await;
    let _two = node(folder.path(), 3, Bank::default(), &directory, two).await;
    let jobs = Arc::new(requester(folder.path(), Bank::default(), &directory, judge.clone()).await);
    let asker = jobs.clone();
    let run = tokio::spawn(async move { asker.run(job(2, b"m")).await });
    judge.becomes(1).await;
    drop(jobs);
    run.abort();
    judge.becomes(0).await;
}

#[tokio::test]
async fn an_engine_that_panics_frees_its_place() {
    struct Panics;
    #[async_trait]
    impl Executor for Panics {
        fn kind(&self) -> KindTag {
            KindTag::Wasm
        }
        fn digest(&self) -> Hash {
            Hash::ZERO
        }
        async fn run(&self, _task: &Task, _attempt: Attempt) -> Result<Output, RunError> {
            panic!("as the test wants it")
        }
    }
    let (folder, directory) = (tempfile::tempdir().unwrap(), Directory::default());
    let config = EdgeConfig {
        chain: CHAIN.to_owned(),
        key: key(2),
        folder: folder.path().join("node"),
        client: Client::new(Bank::default()),
        directory: directory.clone(),
        engines: Engines::of(Arc::new(Panics)),
        port: 0,
        settle_at_once: true,
        offer: worker::Settings::default(),
        gateways: Vec::new(),
        content: ContentTerms::default(),
        rpc: String::new(),
    };
    let _node = EdgeNode::start(config).await.unwrap();
    let jobs = requester(folder.path(), Bank::default(), &directory, Engine::default()).await;
    for _ in 0..3 {
        let report = tokio::time::timeout(2 * SOON, jobs.run(job(1, b"m"))).await.expect("in time").unwrap();
        let (code, message) = report.error.unwrap();
        assert_eq!(code, "no_capacity");
        assert!(message.contains("1 failed"), "it was asked and failed: {message}");
    }
}

#[tokio::test]
async fn a_chain_that_hangs_does_not_hold_up_a_node() {
    let (folder, directory, bank) = (tempfile::tempdir().unwrap(), Directory::default(), Bank::default());
    bank.hangs.store(true, Ordering::SeqCst);
    let node = node(folder.path(), 2, bank, &directory, Engine::default()).await;
    let mut peer = Peer::new(folder.path(), &directory).await;
    (0..3).for_each(|nonce| peer.offer(node.id, nonce));
    // Two are looked up without end; the third finds all places taken and is told so.
    assert!(matches!(peer.refusal().await, Reject::Busy { .. }));
}

#[tokio::test]
async fn a_chain_that_hangs_does_not_hold_up_a_requester() {
    let (folder, directory, bank) = (tempfile::tempdir().unwrap(), Directory::default(), Bank::default());
    let engine = Engine { fuel: Some(1), ..Engine::default() };
    let _node = node(folder.path(), 2, Bank::default(), &directory, engine).await;
    let jobs = requester(folder.path(), bank.clone(), &directory, Engine::default()).await;
    bank.hangs.store(true, Ordering::SeqCst);
    tokio::time::sleep(CLOSING + Duration::from_millis(200)).await;
    let report = tokio::time::timeout(SOON, jobs.run(job(1, b"m"))).await.expect("in time").unwrap();
    assert_eq!(report.state, State::Succeeded);
}

#[tokio::test]
async fn a_fund_that_cannot_be_looked_up_frees_its_place() {
    let (folder, directory) = (tempfile::tempdir().unwrap(), Directory::default());
    let bank = Bank { fails: true, ..Bank::default() };
    let node = node(folder.path(), 2, bank, &directory, Engine::default()).await;
    let mut peer = Peer::new(folder.path(), &directory).await;
    for nonce in 0..2 * worker::Settings::default().slots as u64 {
        peer.offer(node.id, nonce);
        assert!(matches!(peer.refusal().await, Reject::PoolInvalid), "offer {nonce}");
    }
}

#[tokio::test]
async fn equal_jobs_of_one_moment_are_two_jobs_with_an_answer_each() {
    let folder = tempfile::tempdir().unwrap();
    let config = asks(folder.path(), Bank::default(), &Directory::default(), Engine::default());
    let mut asker = AskerLoop::open(config).await.unwrap();
    let submit = |asker: &mut AskerLoop| {
        let ((taken, id), (ended, report)) = (oneshot::channel(), oneshot::channel());
        let (file, module) = (Box::new(job(1, b"m").file), BlobRef::of(b"m"));
        let order = Box::new(Order::Wasm { file, module, stdin: None, inputs: Vec::new() });
        asker.take(7, AskerEvent::Submit { order, taken, ended: Some(ended), frames: None }).unwrap();
        (id, report)
    };
    let (mut one, mut two) = (submit(&mut asker), submit(&mut asker));
    assert!(matches!(one.0.try_recv(), Err(oneshot::error::TryRecvError::Empty)), "it is not on record yet");
    asker.commit().unwrap();
    assert_ne!(one.0.try_recv().unwrap().unwrap(), two.0.try_recv().unwrap().unwrap());
    for report in [&mut one.1, &mut two.1] {
        assert!(matches!(report.try_recv(), Err(oneshot::error::TryRecvError::Empty)), "it is waited for");
    }
    // One job too many is its caller's matter alone.
    let mut open: Vec<_> = (2..MAX_JOBS).map(|_| submit(&mut asker)).collect();
    let refused = submit(&mut asker).0.try_recv().unwrap().unwrap_err();
    assert!(refused.to_string().contains("wait until one has ended"), "{refused}");
    assert!(matches!(open.remove(0).1.try_recv(), Err(oneshot::error::TryRecvError::Empty)));
}

#[tokio::test]
async fn a_module_that_cannot_be_stored_is_its_callers_matter() {
    let (folder, directory) = (tempfile::tempdir().unwrap(), Directory::default());
    let engine = Engine { fuel: Some(1), ..Engine::default() };
    let _node = node(folder.path(), 2, Bank::default(), &directory, engine).await;
    let jobs = requester(folder.path(), Bank::default(), &directory, Engine::default()).await;
    let blobs = folder.path().join("requester/blobs");
    std::fs::remove_dir_all(&blobs).unwrap();
    let error = jobs.run(job(1, b"m")).await.unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(BlobError::Storage(_))), "{error:#}");
    std::fs::create_dir_all(&blobs).unwrap();
    assert_eq!(jobs.run(job(1, b"m")).await.unwrap().state, State::Succeeded);
}

#[tokio::test]
async fn blobs_are_given_to_so_many_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let wire = Wire::new(folder.path(), Directory::default()).unwrap();
    // More than the sockets between two who do not read take.
    let large = wire.blobs.add(vec![7; 32 << 20]).await.unwrap();
    let small = wire.blobs.add(b"small".to_vec()).await.unwrap();
    let (events, _queue) = mpsc::channel(1);
    let routes = wire.routes(NodeId(Address::ZERO), events, |bytes| bytes);
    let listener = listen(0, routes).await.unwrap();
    let path = hex::encode(large.hash.0);
    let mut readers = Vec::new();
    for _ in 0..MAX_REQUESTS {
        let mut reader = tokio::net::TcpStream::connect(listener.address).await.unwrap();
        reader.write_all(format!("GET /blob/{path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
        let mut begin = [0; 12];
        reader.read_exact(&mut begin).await.unwrap();
        assert_eq!(&begin, b"HTTP/1.1 200");
        readers.push(reader);
    }
    let url = format!("http://{}", listener.address);
    let another = wire.fetch_one(&url, &small);
    tokio::pin!(another);
    assert!(
        tokio::time::timeout(Duration::from_millis(500), &mut another).await.is_err(),
        "no place is free"
    );
    drop(readers);
    tokio::time::timeout(SOON, another).await.expect("places are free").unwrap();
    tokio::time::timeout(SOON, wire.fetch_one(&url, &large)).await.expect("in time").unwrap();
}

#[test]
fn the_oldest_blobs_make_room_and_young_ones_stay() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = DiskBlobs::open(folder.path()).unwrap();
    let hour = Duration::from_secs(3600);
    for (age, len) in [(4, 10), (3, 20), (2, 30), (0, 40)] {
        let file = File::create(folder.path().join(age.to_string())).unwrap();
        file.set_len(len).unwrap();
        file.set_modified(std::time::SystemTime::now() - age * hour).unwrap();
    }
    let left = || {
        let mut names: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
        names.sort();
        names.into_iter().map(|name| name.into_string().unwrap()).collect::<Vec<_>>().join(" ")
    };
    blobs.prune(85, hour);
    assert_eq!(left(), "0 2");
    blobs.prune(0, hour);
    assert_eq!(left(), "0", "it is young");
    assert_eq!(blobs.size(), 40);
}

#[test]
fn a_blob_has_its_name_only_once_it_is_durable() {
    let folder = tempfile::tempdir().unwrap();
    let name = folder.path().join("name");
    let full = |_: &File| Err(std::io::Error::other("full"));
    assert!(keep(folder.path(), &name, b"bytes", full).is_err());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "neither the name nor a rest");
    keep(folder.path(), &name, b"bytes", File::sync_all).unwrap();
    assert_eq!(std::fs::read(&name).unwrap(), b"bytes");
}
