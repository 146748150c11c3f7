//! One node: a ledger, an engine, a mempool, and the API over them.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::JoinHandle,
};

use anyhow::{Context, Result};
use parking_lot::Mutex;
use theta_consensus::Settings;
use theta_core::{
    hash::{Address, Hash},
    sign::SecretKey,
    spec::ChainSpec,
    store::{MemStore, Store},
    workers::Cores,
};
use theta_ledger::{
    genesis::Genesis,
    ledger::{Ledger, LedgerReader},
    mempool::{AdmitError, Admitted, Mempool, MempoolLimits},
    tx::RawTx,
    vm::ContractVm,
};
use tokio::sync::watch;

use crate::{
    chain::{Chain, Event, Parts, Progress},
    clock::now_millis,
    folder::DataFolder,
    hub::{Delivery, Hub, Packet, Port},
};

/// Events that wait for the chain thread.
const EVENTS: usize = 8192;

/// What a node is made of.
pub struct NodeConfig {
    /// The chain.
    pub spec: ChainSpec,
    /// Its first block.
    pub genesis: Arc<Genesis>,
    /// The node's key, which is also its validator key.
    pub key: SecretKey,
    /// Folder of the store, the write-ahead log and the signer's mark.
    pub folder: PathBuf,
    /// Whether the store is in memory; log and mark are on disk all the same.
    pub in_memory: bool,
    /// Durations of the protocol.
    pub settings: Settings,
    /// Who runs contracts.
    pub vm: Arc<dyn ContractVm>,
}

impl std::fmt::Debug for NodeConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeConfig").field("folder", &self.folder).finish_non_exhaustive()
    }
}

/// What the API and other parts of the process hold of a running node. Clones are one node.
#[derive(Clone)]
pub struct NodeHandle {
    /// The node's address.
    pub address: Address,
    /// Reads blocks and states.
    pub reader: LedgerReader,
    /// Transactions that wait.
    pub mempool: Arc<Mutex<Mempool>>,
    /// Where the engine stands; changes with every step forward.
    pub progress: watch::Receiver<Progress>,
    port: Port,
    events: SyncSender<Event>,
}

impl std::fmt::Debug for NodeHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeHandle").field("address", &self.address).finish_non_exhaustive()
    }
}

impl NodeHandle {
    /// A transaction that waits, by its native or its Ethereum hash. The pool is free again when this returns.
    pub fn waiting(&self, hash: &Hash) -> Option<Arc<RawTx>> {
        self.mempool.lock().find(hash)
    }

    /// Admits a transaction, passes it on and tells the engine.
    pub fn submit(&self, bytes: Vec<u8>) -> Result<Admitted, AdmitError> {
        let admitted = admit(&self.mempool, bytes.clone())?;
        self.port.broadcast(&Packet::Transaction(Arc::new(bytes)));
        // A full queue wakes the engine just as well.
        let _ = self.events.try_send(Event::Work);
        Ok(admitted)
    }
}

/// Puts a transaction into the pool; signatures are recovered before the pool is locked.
fn admit(pool: &Mutex<Mempool>, bytes: Vec<u8>) -> Result<Admitted, AdmitError> {
    let screen = pool.lock().screen();
    let screened = screen.check(bytes)?;
    pool.lock().insert(screened, now_millis())
}

/// A running node. Dropping it stops it.
#[derive(Debug)]
pub struct Node {
    handle: NodeHandle,
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
    failure: watch::Receiver<Option<String>>,
}

impl Node {
    /// Opens the node's folder and starts it on a network.
    pub fn start(config: NodeConfig, hub: &Hub) -> Result<Self> {
        std::fs::create_dir_all(&config.folder)
            .with_context(|| format!("{} cannot be made", config.folder.display()))?;
        let store: Arc<dyn Store> = if config.in_memory {
            Arc::new(MemStore::default())
        } else {
            DataFolder::new(&config.folder).store()?
        };
        let ledger = Ledger::builder(config.spec)
            .store(store)
            .contracts(config.vm)
            .workers(Arc::new(Cores))
            .open(&config.genesis)?;
        let reader = ledger.reader();
        let mempool = Arc::new(Mutex::new(Mempool::new(reader.clone(), MempoolLimits::default())?));
        let (port, deliveries) = hub.join();
        let (events, event_queue) = sync_channel(EVENTS);
        let settled = reader.settled();
        let first = Progress {
            settled: settled.header.height,
            epoch: settled.header.epoch,
            tip: (settled.hash, settled.header.height),
        };
        let (progress, progress_seen) = watch::channel(first);
        let (stop, stopped) = watch::channel(false);
        let (failed, failure) = watch::channel(None);
        let address = config.key.address();
        let chain = Chain::open(Parts {
            ledger,
            mempool: mempool.clone(),
            port: port.clone(),
            events: event_queue,
            progress,
            stop: stopped.clone(),
            key: Arc::new(config.key),
            settings: config.settings,
            folder: config.folder,
        })?;
        let sort = Sorter { mempool: mempool.clone(), events: events.clone(), stop: stopped };
        let threads = vec![
            std::thread::Builder::new().name("theta-chain".to_owned()).spawn(move || {
                let run = std::panic::AssertUnwindSafe(|| chain.run());
                let ended = std::panic::catch_unwind(run)
                    .unwrap_or_else(|_| Err(anyhow::anyhow!("the chain thread panicked")));
                if let Err(error) = ended {
                    tracing::error!("the node stops: {error:#}");
                    failed.send_replace(Some(format!("{error:#}")));
                }
            })?,
            std::thread::Builder::new().name("theta-net".to_owned()).spawn(move || sort.run(&deliveries))?,
        ];
        let handle = NodeHandle { address, reader, mempool, progress: progress_seen, port, events };
        Ok(Self { handle, stop, threads, failure })
    }

    /// What the API needs.
    pub fn handle(&self) -> NodeHandle {
        self.handle.clone()
    }

    /// Becomes something when the node stops because it can no longer keep what it promised.
    pub fn failure(&self) -> watch::Receiver<Option<String>> {
        self.failure.clone()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        for thread in self.threads.drain(..) {
            // A panic there has been reported by its thread.
            let _ = thread.join();
        }
    }
}

/// Takes packets from the network: transactions into the pool, the rest to the chain thread.
struct Sorter {
    mempool: Arc<Mutex<Mempool>>,
    events: SyncSender<Event>,
    stop: watch::Receiver<bool>,
}

impl Sorter {
    fn run(self, deliveries: &Receiver<Delivery>) {
        while !*self.stop.borrow() {
            let Ok(delivery) = deliveries.recv_timeout(std::time::Duration::from_millis(200)) else {
                continue;
            };
            let event = match delivery {
                (_, Packet::Transaction(bytes)) => {
                    if admit(&self.mempool, bytes.as_ref().clone()).is_err() {
                        continue;
                    }
                    Event::Work
                }
                other => Event::Net(other),
            };
            // Full means that the chain thread is behind; the protocol asks again for what is lost.
            let _ = self.events.try_send(event);
        }
    }
}
