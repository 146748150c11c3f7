//! One node: a ledger, an engine, a mempool, and the API over them.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{SyncSender, sync_channel},
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
    state::Keep,
    tx::{HolderSummary, RawTx},
    vm::ContractVm,
};
use tokio::sync::watch;

use crate::{
    chain::{Chain, Event, Parts, Progress},
    clock::now_millis,
    folder::DataFolder,
    metrics::Metrics,
    net::{Multiaddr, NetConfig, Packet, Port},
    promised::Promised,
    snapshots::{self, Shelf},
    sorter::{Sorter, admit},
    vote_key::vote_key,
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
    /// Which states stay readable.
    pub keep: Keep,
    /// Whether a node without a chain begins with a peer's snapshot, if one is offered, instead of with the genesis.
    pub begin_with_snapshot: bool,
    /// After how many blocks a snapshot for other nodes is made, if any is.
    pub snapshot_every: Option<u64>,
    /// Where it listens for other nodes, such as `/ip4/127.0.0.1/tcp/0`, or `/memory/0` inside one process.
    pub listen: Vec<Multiaddr>,
    /// Peers it always stays connected to.
    pub peers: Vec<Multiaddr>,
    /// Whether it looks for others than these.
    pub discover: bool,
    /// The key of a private network.
    pub network_key: Option<[u8; 32]>,
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
    /// By which whoever stakes behind the node introduces it.
    pub summary: HolderSummary,
    /// Reads blocks and states.
    pub reader: LedgerReader,
    /// Transactions that wait.
    pub mempool: Arc<Mutex<Mempool>>,
    /// Where the engine stands; changes with every step forward.
    pub progress: watch::Receiver<Progress>,
    /// What it counts.
    pub metrics: Metrics,
    failure: watch::Receiver<Option<String>>,
    port: Port,
    events: SyncSender<Event>,
    promised: Arc<Promised>,
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

    /// Where other nodes reach this one.
    pub fn addresses(&self) -> &[Multiaddr] {
        self.port.addresses()
    }

    /// Why the node stopped, if it did because it can no longer keep what it promised.
    pub fn failure(&self) -> Option<String> {
        self.failure.borrow().clone()
    }

    /// How many peers are connected.
    pub fn peer_count(&self) -> usize {
        self.port.others().len()
    }

    /// The names of connected peers.
    pub fn peer_names(&self) -> Vec<String> {
        let peers = self.port.others().into_iter().filter_map(|peer| self.port.peer_id(peer));
        peers.map(|peer| peer.to_string()).collect()
    }

    /// Where connected peers are.
    pub fn peer_addresses(&self) -> Vec<Multiaddr> {
        self.port.peer_addresses()
    }

    /// Notes what a client is told to be waiting. Where the disk does not take it the node goes on: it stops at its next
    /// block, and says why.
    fn promise(&self, raw: &[u8]) {
        let rewritten = || {
            if !self.promised.is_long() {
                return Ok(());
            }
            self.promised.rewrite(|| all_waiting(&self.mempool))
        };
        if let Err(error) = self.promised.note(raw).and_then(|()| rewritten()) {
            tracing::warn!(%error, "a transaction that waits would not outlive this process");
        }
    }

    /// Admits a transaction, passes it on and tells the engine.
    pub fn submit(&self, bytes: Vec<u8>) -> Result<Admitted, AdmitError> {
        let admitted = admit(&self.mempool, &self.metrics, bytes.clone())?;
        self.promise(&bytes);
        self.port.broadcast(&Packet::Transactions(vec![bytes]));
        // A full queue wakes the engine just as well.
        let _ = self.events.try_send(Event::Work);
        Ok(admitted)
    }
}

/// Everything that waits, in the order in which it came.
fn all_waiting(pool: &Mutex<Mempool>) -> Vec<Vec<u8>> {
    let pool = pool.lock();
    let all = pool.waiting_since(now_millis(), usize::MAX);
    all.iter().filter_map(|hash| Some(pool.find(hash)?.bytes.clone())).collect()
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
    /// Opens the node's folder and starts it.
    pub async fn start(config: NodeConfig) -> Result<Self> {
        std::fs::create_dir_all(&config.folder)
            .with_context(|| format!("{} cannot be made", config.folder.display()))?;
        let folder = DataFolder::new(&config.folder);
        let new = config.in_memory || !folder.has_store();
        let store: Arc<dyn Store> =
            if config.in_memory { Arc::new(MemStore::default()) } else { folder.store()? };
        let (stop, stopped) = watch::channel(false);
        let (port, deliveries) = Port::open(
            NetConfig {
                genesis: config.genesis.hash(),
                key: config.key.clone(),
                listen: config.listen,
                peers: config.peers,
                discover: config.discover,
                network_key: config.network_key,
            },
            stopped.clone(),
        )
        .await?;
        let snapshots = config.folder.join("snapshots");
        let deliveries = if new && config.begin_with_snapshot {
            let (port, genesis, store, snapshots) =
                (port.clone(), config.genesis.clone(), store.clone(), snapshots.clone());
            let begun = tokio::task::spawn_blocking(move || {
                let begun = snapshots::begin(&port, &deliveries, &genesis, &store, &snapshots)?;
                match begun {
                    Some(height) => tracing::info!(height, "begun with a snapshot"),
                    None => tracing::warn!("nobody offers a snapshot; beginning with the genesis"),
                }
                anyhow::Ok(deliveries)
            });
            begun.await.context("the fetch of a snapshot broke off")??
        } else {
            deliveries
        };
        let shelf = config.snapshot_every.map(|every| Shelf::open(&snapshots, every)).transpose()?;
        let ledger = Ledger::builder(config.spec)
            .store(store)
            .contracts(config.vm)
            .workers(Arc::new(Cores))
            .keep(config.keep)
            .open(&config.genesis)?;
        let reader = ledger.reader();
        let mempool = Arc::new(Mutex::new(Mempool::new(reader.clone(), MempoolLimits::default())?));
        let path = config.folder.join("promised");
        let (promised, before) =
            Promised::open(&path).with_context(|| format!("{} cannot be used", path.display()))?;
        let (events, event_queue) = sync_channel(EVENTS);
        let settled = reader.settled();
        let first = Progress {
            settled: settled.header.height,
            epoch: settled.header.epoch,
            tip: (settled.hash, settled.header.height),
            final_checkpoint: None,
            syncing: false,
        };
        let metrics = Metrics::default();
        for raw in before {
            // One that is in a block by now, or can no longer be, is kept no longer.
            let _ = admit(&mempool, &metrics, raw);
        }
        promised.rewrite(|| all_waiting(&mempool)).context("transactions that wait cannot be kept")?;
        let (progress, progress_seen) = watch::channel(first);
        let (failed, failure) = watch::channel(None);
        let address = config.key.address();
        let summary = HolderSummary::new(&config.key, &vote_key(&config.key)?);
        let chain = Chain::open(Parts {
            ledger,
            mempool: mempool.clone(),
            port: port.clone(),
            events: event_queue,
            progress,
            stop: stopped.clone(),
            node_key: Arc::new(config.key),
            settings: config.settings,
            folder: config.folder,
            metrics: metrics.clone(),
            shelf: shelf.clone(),
        })?;
        let sort = Sorter {
            reader: reader.clone(),
            mempool: mempool.clone(),
            metrics: metrics.clone(),
            shelf,
            port: port.clone(),
            events: events.clone(),
            stop: stopped,
        };
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
        let handle = NodeHandle {
            address,
            summary,
            reader,
            mempool,
            progress: progress_seen,
            metrics,
            failure: failure.clone(),
            port,
            events,
            promised: Arc::new(promised),
        };
        Ok(Self { handle, stop, threads, failure })
    }

    /// What the API needs.
    pub fn handle(&self) -> NodeHandle {
        self.handle.clone()
    }

    /// Waits until the node stops because it can no longer keep what it promised; gives its reason.
    pub async fn failed(&self) -> String {
        let mut failure = self.failure.clone();
        loop {
            if let Some(reason) = failure.borrow_and_update().clone() {
                return reason;
            }
            if failure.changed().await.is_err() {
                // It was dropped, which is no failure.
                std::future::pending::<()>().await;
            }
        }
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
