//! Requester, edge nodes, network and chain in one thread and in virtual time.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use futures::executor::block_on;
use theta_core::amount::TFuelWei;
use theta_core::hash::{Address, Hash};
use theta_core::journal::{Deferred, Disk, MemDisk};
use theta_core::sign::{SecretKey, SignError, Signature, Signer};
use theta_edge::blob::{BlobRef, MemBlobs};
use theta_edge::executor::{Attempt, Ending, Executor, Output, RunError, Verdict};
use theta_edge::identity::NodeId;
use theta_edge::job::{JobFile, JobSpec, KindTag, PoolRef, Task};
use theta_edge::message::{Envelope, Message};
use theta_edge::payment::Price;
use theta_edge::payment::purse::Purse;
use theta_edge::payment::till::Till;
use theta_edge::provider::{Ask, Provider, Todo as NodeTodo};
use theta_edge::requester::{Requester, RequesterError, Todo};
use theta_edge::scheduler::{Input, Report, Settings};
use theta_edge::verify::commitment;
use theta_edge::worker;

use crate::chain::{CHAIN, MemChain, RESOURCE, fee};

/// What a node does when its turn comes. Nodes take these in the order in which they are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Conduct {
    Honest,
    /// Shows a result of its own making.
    Lies(u64),
    /// Takes the task and is never heard of again.
    Vanishes,
    /// Binds itself to a result and does not show it.
    Withholds,
    /// Binds itself to nothing and then shows what is right.
    Copies,
    /// Its machine fails.
    Breaks,
}

/// An engine that gives a fixed output.
pub(crate) struct Fake(pub(crate) Output);

#[async_trait]
impl Executor for Fake {
    fn kind(&self) -> KindTag {
        KindTag::Wasm
    }
    fn digest(&self) -> Hash {
        Hash::ZERO
    }
    async fn run(&self, _task: &Task, _attempt: Attempt) -> Result<Output, RunError> {
        Ok(self.0.clone())
    }
}

/// Counts writes and signatures, and fails at one of them and ever after: the moment of a crash.
#[derive(Clone)]
pub(crate) struct Fuse(Arc<AtomicUsize>);

impl Fuse {
    pub(crate) fn new(left: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(left)))
    }
    fn burn(&self) -> bool {
        self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
    }
}

#[derive(Clone)]
struct FusedDisk(MemDisk, Fuse);

impl Disk for FusedDisk {
    fn read(&mut self) -> io::Result<Vec<u8>> {
        self.0.read()
    }
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.1.burn() { self.0.append(bytes) } else { Err(io::Error::other("crash")) }
    }
    fn sync(&mut self) -> io::Result<()> {
        if self.1.burn() { self.0.sync() } else { Err(io::Error::other("crash")) }
    }
    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.replace(bytes)
    }
}

struct FusedKey(SecretKey, Fuse);

impl Signer for FusedKey {
    fn address(&self) -> Address {
        self.0.address()
    }
    fn sign(&self, digest: &Hash) -> Result<Signature, SignError> {
        if self.1.burn() { self.0.sign(digest) } else { Err(SignError::Refused("crash".into())) }
    }
}

pub(crate) struct Node {
    pub(crate) key: SecretKey,
    pub(crate) provider: Provider,
    pub(crate) disk: MemDisk,
    conduct: Option<Conduct>,
    pub(crate) runs: usize,
    pub(crate) stopped: usize,
}

pub(crate) struct World {
    pub(crate) chain: MemChain,
    pub(crate) payer: SecretKey,
    pub(crate) sequence: u64,
    pub(crate) requester: Requester,
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    pub(crate) truth: Output,
    /// What the requester's own engine would find; none if it has no engine.
    pub(crate) referee: Option<Output>,
    pub(crate) conducts: VecDeque<Conduct>,
    pub(crate) reports: Vec<Report>,
    pub(crate) now: u64,
    /// Every envelope is brought so often.
    pub(crate) copies: usize,
    /// Everything that was ever sent.
    pub(crate) sent: Vec<(NodeId, Vec<u8>)>,
    pub(crate) lose_payments: bool,
    pub(crate) bad_payments: usize,
    /// Whether the requester failed where nobody was told.
    pub(crate) crashed: bool,
    mail: VecDeque<(NodeId, Vec<u8>)>,
    wake: Option<u64>,
    pub(crate) disks: (MemDisk, MemDisk),
    /// Whether records wait for a commit before anything follows from them, and the requester's journals that do.
    pub(crate) grouped: bool,
    journals: Option<Journals>,
}

/// Of jobs and of the purse.
type Journals = (Deferred<FusedDisk>, Deferred<FusedDisk>);

pub(crate) fn key(byte: u8) -> SecretKey {
    SecretKey::from_bytes(&[byte; 32]).unwrap()
}

pub(crate) fn output(ending: Ending, fuel: u64) -> Output {
    Output { stdout: BlobRef::of(b"42"), ..Output::silent(ending, fuel) }
}

/// One TFUEL for the task and nothing for fuel.
pub(crate) fn price() -> Price {
    Price { base: TFuelWei::whole(1), per_million_fuel: TFuelWei::ZERO }
}

impl World {
    pub(crate) fn new(nodes: u8, fund: u64) -> Self {
        Self::with_fuse(nodes, fund, Fuse::new(usize::MAX))
    }

    pub(crate) fn with_fuse(nodes: u8, fund: u64, fuse: Fuse) -> Self {
        let payer = key(1);
        let mut chain = MemChain::new();
        chain.give(payer.address(), 1000);
        let sequence = chain.reserve(&payer, fund);
        let node = |index: u8| {
            let (key, disk) = (key(10 + index), MemDisk::default());
            let till = Till::open(CHAIN, Arc::new(key.clone()), disk.clone()).unwrap();
            let settings = worker::Settings { price: price(), ..worker::Settings::default() };
            let provider = Provider::new(CHAIN, Arc::new(key.clone()), settings, [index; 32], till);
            (NodeId::of(&key), Node { key, provider, disk, conduct: None, runs: 0, stopped: 0 })
        };
        let nodes: BTreeMap<_, _> = (0..nodes).map(node).collect();
        for id in nodes.keys() {
            chain.give(id.0, 10);
        }
        let disks = (MemDisk::default(), MemDisk::default());
        let free = Fuse::new(usize::MAX);
        let (mut requester, ..) = open(&payer, &disks, &free, 0, false).unwrap();
        requester.adopt(&chain.fund(payer.address(), sequence).unwrap()).unwrap();
        let truth = output(Ending::Exit(0), 500);
        let mut world = Self {
            chain,
            payer,
            sequence,
            requester,
            nodes,
            truth,
            referee: None,
            conducts: VecDeque::new(),
            reports: Vec::new(),
            now: 0,
            copies: 1,
            sent: Vec::new(),
            lose_payments: false,
            bad_payments: 0,
            crashed: false,
            mail: VecDeque::new(),
            wake: None,
            disks,
            grouped: false,
            journals: None,
        };
        world.reopen(&fuse).unwrap();
        world
    }

    /// Starts the requester again from its disks; what was not synced is lost, and so is all mail on its way to it.
    pub(crate) fn reopen(&mut self, fuse: &Fuse) -> Result<(), RequesterError> {
        self.disks.0.crash(0);
        self.disks.1.crash(0);
        let me = NodeId::of(&self.payer);
        self.mail.retain(|(to, _)| *to != me);
        let (requester, todo, journals) = open(&self.payer, &self.disks, fuse, self.now, self.grouped)?;
        (self.requester, self.journals) = (requester, journals);
        self.carry_out(todo);
        for node in self.nodes.keys().copied().collect::<Vec<_>>() {
            let todo = self.requester.step(self.now, Input::Node { node, up: true })?;
            self.carry_out(todo);
        }
        Ok(())
    }

    pub(crate) fn spec(&self, cap: u64, quorum: u8) -> JobSpec {
        let text = format!(r#"{{"kind":"wasm","module":"m.wasm","quorum":{quorum},"maxTfuel":"{cap}"}}"#);
        let pool = PoolRef {
            payer: self.payer.address(),
            reserve_sequence: self.sequence,
            resource_id: RESOURCE.into(),
        };
        let file = JobFile::parse(&text).unwrap();
        file.spec(CHAIN, 0, pool, BlobRef::of(b"module"), None, Vec::new()).unwrap()
    }

    pub(crate) fn step(&mut self, input: Input) -> Result<(), RequesterError> {
        let todo = self.requester.step(self.now, input)?;
        self.carry_out(todo);
        Ok(())
    }

    /// Submits a job and lets everything run until nothing moves any more.
    pub(crate) fn run(&mut self, spec: JobSpec) -> Report {
        let job = spec.id();
        let todo = self.requester.submit(self.now, spec).unwrap();
        self.carry_out(todo);
        self.settle_down().unwrap();
        self.requester.scheduler().report(&job).expect("it ended").clone()
    }

    pub(crate) fn settle_down(&mut self) -> Result<(), RequesterError> {
        for _ in 0..10_000 {
            if let Some((to, envelope)) = self.mail.pop_front() {
                self.deliver(to, &envelope)?;
            } else if let Some(at) = self.wake.take() {
                self.now = self.now.max(at);
                self.step(Input::Tick)?;
            } else {
                return Ok(());
            }
        }
        panic!("it never comes to rest");
    }

    pub(crate) fn deliver_next(&mut self) {
        let (to, envelope) = self.mail.pop_front().expect("mail");
        self.deliver(to, &envelope).unwrap();
    }

    pub(crate) fn deliver(&mut self, to: NodeId, envelope: &[u8]) -> Result<(), RequesterError> {
        if to == NodeId::of(&self.payer) {
            let todo = self.requester.receive(self.now, envelope)?;
            self.carry_out(todo);
            return Ok(());
        }
        let conducts = &mut self.conducts;
        let node = self.nodes.get_mut(&to).unwrap();
        let (from, message) = Envelope::open(CHAIN, to, envelope).unwrap();
        let is_offer = matches!(message, Message::Offer { .. });
        let conduct = *node.conduct.get_or_insert_with(|| {
            if is_offer { conducts.pop_front().unwrap_or(Conduct::Honest) } else { Conduct::Honest }
        });
        let todo = match (conduct, &message) {
            (Conduct::Copies, Message::Offer { task, epoch, .. }) => {
                let (task, epoch) = (task.id(), *epoch);
                let commit = commitment(to, &task, epoch, &Hash::ZERO, &Hash::ZERO);
                let say = [
                    Message::Accepted { task, epoch, price: price() },
                    Message::Committed { task, epoch, commit },
                ];
                say.iter().for_each(|message| {
                    self.mail.push_back((from, seal(&self.nodes[&to].key, from, message)))
                });
                return Ok(());
            }
            (Conduct::Copies, Message::Reveal { task, epoch }) => {
                let (output, salt) = (self.truth.clone(), Hash::ZERO);
                let message = Message::Revealed { task: *task, epoch: *epoch, output, salt };
                self.mail.push_back((from, seal(&self.nodes[&to].key, from, &message)));
                return Ok(());
            }
            (Conduct::Withholds, Message::Reveal { .. }) => return Ok(()),
            (_, Message::Payment(_)) if self.lose_payments => return Ok(()),
            _ => node.provider.receive(self.now, envelope).unwrap(),
        };
        self.carry_out_node(to, todo);
        Ok(())
    }

    fn carry_out_node(&mut self, id: NodeId, todo: Vec<NodeTodo>) {
        for todo in todo {
            let now = self.now;
            match todo {
                NodeTodo::Send { to, envelope } => self.post(to, envelope),
                NodeTodo::LookUp(ask) => {
                    let (payer, sequence) = ask.fund();
                    let fund = self.chain.fund(payer, sequence);
                    let is_payment = matches!(ask, Ask::Collect { .. });
                    let node = self.nodes.get_mut(&id).unwrap();
                    match node.provider.looked_up(now, ask, fund.as_ref(), self.chain.height) {
                        Ok(todo) => self.carry_out_node(id, todo),
                        Err(_) if is_payment => self.bad_payments += 1,
                        Err(error) => panic!("{error}"),
                    }
                }
                NodeTodo::Run { task, .. } => {
                    let node = self.nodes.get_mut(&id).unwrap();
                    node.runs += 1;
                    let result = match node.conduct {
                        Some(Conduct::Lies(fuel)) => Ok(Output { fuel_used: fuel, ..self.truth.clone() }),
                        Some(Conduct::Vanishes) => continue,
                        Some(Conduct::Breaks) => Err(RunError::Protocol),
                        _ => Ok(self.truth.clone()),
                    };
                    let todo = node.provider.ran(now, task.id(), result).unwrap();
                    self.carry_out_node(id, todo);
                }
                NodeTodo::Stop { .. } => self.nodes.get_mut(&id).unwrap().stopped += 1,
                _ => {}
            }
        }
    }

    fn post(&mut self, to: NodeId, envelope: Vec<u8>) {
        for _ in 0..self.copies {
            self.mail.push_back((to, envelope.clone()));
        }
        self.sent.push((to, envelope));
    }

    pub(crate) fn carry_out(&mut self, todo: Vec<Todo>) {
        if let Some((jobs, purse)) = &self.journals
            && jobs.commit().and_then(|()| purse.commit()).is_err()
        {
            self.crashed = true;
            return;
        }
        if self.journals.is_some() {
            self.requester.committed().unwrap();
        }
        for todo in todo {
            match todo {
                Todo::Send { to, envelope } => self.post(to, envelope),
                Todo::Check { job, task, claims } => {
                    let attempt = Attempt::new(Arc::new(MemBlobs::default()));
                    let holds = |output: &Output| {
                        let fake = Fake(self.referee.clone()?);
                        let verdict = block_on(fake.check(&task, output, attempt.clone())).unwrap();
                        (verdict == Verdict::Holds).then(|| output.digest())
                    };
                    let digest = claims.iter().find_map(holds);
                    self.step(Input::Checked { job, digest }).unwrap();
                }
                Todo::Fetch { job, from, .. } => {
                    self.crashed |= self.step(Input::Fetched { job, from, complete: true }).is_err();
                }
                Todo::Finished(report) => self.reports.push(report),
                Todo::WakeAt(at) => self.wake = Some(at),
                _ => {}
            }
        }
    }

    /// Every node settles what it holds, and all learn of it. Gives the transactions.
    pub(crate) fn settle(&mut self) -> Vec<Vec<u8>> {
        let mut raws = Vec::new();
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            let height = self.chain.height;
            for due in self.nodes[&id].provider.due(height, fee(), true) {
                let fund = self.chain.fund(due.payer, due.reserve_sequence).unwrap();
                let node = self.nodes.get_mut(&id).unwrap();
                let raw = node.provider.settle(&due, &fund, fee(), height).unwrap();
                self.chain.submit(&raw.bytes).unwrap();
                raws.push(raw.bytes);
            }
        }
        self.observe();
        raws
    }

    pub(crate) fn observe(&mut self) {
        let fund = self.chain.fund(self.payer.address(), self.sequence).unwrap();
        for node in self.nodes.values_mut() {
            node.provider.observe(&fund).unwrap();
        }
        let todo = self.requester.observe(&fund).unwrap();
        self.carry_out(todo);
        self.settle_down().unwrap();
    }

    /// What waits for the next step is written, too.
    pub(crate) fn rest(&mut self) {
        (0..3).for_each(|_| self.carry_out(Vec::new()));
    }

    pub(crate) fn purse(&self) -> &Purse {
        self.requester.purse(self.sequence).unwrap()
    }

    pub(crate) fn signed(&self, node: &NodeId) -> TFuelWei {
        self.purse().signed(&node.0)
    }

    /// What a node's till holds, settled or not.
    pub(crate) fn held(&self, node: &NodeId) -> TFuelWei {
        let book = self.nodes[node].provider.till().book();
        book.map(|(_, _, claimed, settled)| claimed.checked_add(settled).unwrap()).next().unwrap_or_default()
    }
}

fn seal(key: &SecretKey, to: NodeId, message: &Message) -> Vec<u8> {
    Envelope::seal(CHAIN, key, to, message).unwrap()
}

fn open(
    payer: &SecretKey,
    disks: &(MemDisk, MemDisk),
    fuse: &Fuse,
    now: u64,
    grouped: bool,
) -> Result<(Requester, Vec<Todo>, Option<Journals>), RequesterError> {
    let signer = Arc::new(FusedKey(payer.clone(), fuse.clone()));
    let jobs = FusedDisk(disks.0.clone(), fuse.clone());
    let purse = FusedDisk(disks.1.clone(), fuse.clone());
    if grouped {
        let journals = (Deferred::new(jobs), Deferred::new(purse));
        let purse = Purse::open(CHAIN, signer.clone(), journals.1.clone())?;
        let opened = Requester::open_deferred(
            CHAIN,
            signer,
            Settings::default(),
            journals.0.clone(),
            vec![purse],
            now,
        )?;
        return Ok((opened.0, opened.1, Some(journals)));
    }
    let purse = Purse::open(CHAIN, signer.clone(), purse)?;
    let opened = Requester::open(CHAIN, signer, Settings::default(), jobs, vec![purse], now)?;
    Ok((opened.0, opened.1, None))
}
