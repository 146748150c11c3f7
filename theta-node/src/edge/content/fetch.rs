//! The side that takes: every chunk from whoever gives it soonest, checked, then paid for.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Weak},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use libp2p::PeerId;
use parking_lot::Mutex;
use serde_json::{Value, json};
use theta_core::{
    amount::TFuelWei,
    hash::{Address, Hash},
    sign::SecretKey,
};
use theta_edge::{
    blob::{BlobHash, BlobRef, BlobStore as _},
    content::{
        manifest::{MAX_BYTES, Manifest},
        outline::{Outline, count},
        sources::Sources,
    },
};
use theta_sdk::client::Client;

use super::{
    codec::{Answer, Question},
    payer::{FundSize, Letter, Payer},
    swarm::{Peers, node_of},
};
use crate::{
    clock::now_millis,
    edge::{DiskBlobs, wire::Wire},
};

/// Chunks of one blob that are fetched at once.
const AT_ONCE: usize = 4;
/// Longest wait for one chunk from one peer; then another one is asked.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(3);
/// How long peers are asked before the origin is, for one chunk.
const PATIENCE: Duration = Duration::from_secs(6);
/// How long it is waited for a relay to look at a receipt.
const RECEIPT: Duration = Duration::from_millis(60);
/// How long it is believed who has a content.
const PROVIDERS_MS: u64 = 20_000;
/// Manifests that are kept in memory.
const MANIFESTS: usize = 64;
/// Peers that are remembered to have lied.
const MAX_BANNED: usize = 4096;

/// What fetching is made of.
pub(in crate::edge) struct ContentConfig<'a> {
    pub(in crate::edge) chain: &'a str,
    pub(in crate::edge) key: Arc<SecretKey>,
    pub(in crate::edge) client: Client,
    pub(in crate::edge) folder: &'a Path,
    pub(in crate::edge) wire: Wire,
    pub(in crate::edge) peers: Peers,
    /// HTTP servers that have what no peer has, at `/blob/<hash>`.
    pub(in crate::edge) origins: Vec<String>,
    pub(in crate::edge) fund: FundSize,
    /// The most that is paid for a chunk.
    pub(in crate::edge) most: TFuelWei,
}

/// What came, by where it came from.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    peer_chunks: u64,
    peer_bytes: u64,
    origin_bytes: u64,
    verified: u64,
    refused: u64,
}

/// Who is said to have a content, and since when.
#[derive(Clone, Debug, Default)]
struct Providers {
    at: u64,
    peers: Vec<PeerId>,
}

#[derive(Default)]
struct State {
    sources: Sources<PeerId>,
    banned: BTreeSet<PeerId>,
    providers: BTreeMap<BlobHash, Providers>,
    manifests: BTreeMap<BlobHash, Arc<Manifest>>,
    counts: Counts,
    /// Contents of which others were told that some is here.
    provided: BTreeSet<BlobHash>,
    /// Blobs that are being fetched; whoever wants one waits for the first.
    fetching: BTreeMap<BlobHash, Weak<tokio::sync::Mutex<()>>>,
}

struct Inner {
    blobs: DiskBlobs,
    wire: Wire,
    peers: Peers,
    origins: Vec<String>,
    most: TFuelWei,
    payer: tokio::sync::Mutex<Payer>,
    state: Mutex<State>,
}

/// A node's content. Clones are one node's.
#[derive(Clone)]
pub(in crate::edge) struct Content(Arc<Inner>);

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Content").field("peers", &self.0.peers).finish_non_exhaustive()
    }
}

impl Content {
    pub(in crate::edge) fn open(config: ContentConfig<'_>) -> Result<Self> {
        let folder = config.folder.join("content");
        let payer = Payer::open(config.chain, config.key, config.client, &folder, config.fund)?;
        let content = Self(Arc::new(Inner {
            blobs: config.wire.blobs.clone(),
            wire: config.wire,
            peers: config.peers,
            origins: config.origins,
            most: config.most,
            payer: tokio::sync::Mutex::new(payer),
            state: Mutex::new(State::default()),
        }));
        // Ends with the node: it holds no clone of its own.
        let weak = Arc::downgrade(&content.0);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                let Some(inner) = weak.upgrade() else { return };
                let content = Self(inner);
                match content.0.payer.lock().await.round().await {
                    Ok(letters) => content.send(letters),
                    Err(error) => tracing::warn!("content is not paid for now: {error:#}"),
                }
            }
        });
        Ok(content)
    }

    fn send(&self, letters: Vec<Letter>) {
        for (payee, envelope) in letters {
            if let Some(peer) = self.0.peers.peer_of(&theta_edge::identity::NodeId(payee)) {
                self.0.peers.tell(peer, Question::Envelope(envelope));
            }
        }
    }

    /// A relay has a receipt safe.
    pub(in crate::edge) fn acknowledged(&self, payee: Address, fund: u64, receipt: (u64, TFuelWei)) {
        let content = self.clone();
        tokio::spawn(async move {
            let noted = content.0.payer.lock().await.acknowledged(payee, fund, receipt);
            if let Err(error) = noted {
                tracing::error!("a receipt's acknowledgement was not kept: {error:#}");
            }
        });
    }

    /// Says to others that this node has a content.
    pub(in crate::edge) fn provide(&self, manifest: BlobHash) {
        self.0.peers.provide(manifest.0);
    }

    /// A manifest by its hash, from here or from others.
    pub(in crate::edge) async fn manifest(&self, hash: BlobHash) -> Result<Arc<Manifest>> {
        if let Some(manifest) = self.0.state.lock().manifests.get(&hash) {
            return Ok(manifest.clone());
        }
        let bytes = match self.0.blobs.find(hash) {
            Some(blob) if blob.len <= MAX_BYTES as u64 => self.0.blobs.read_all(&blob).await?,
            Some(_) => bail!("{} is no manifest", hash.0),
            None => self.fetch_unknown(hash).await?,
        };
        let manifest = Arc::new(Manifest::parse(&bytes)?);
        let mut state = self.0.state.lock();
        if state.manifests.len() >= MANIFESTS {
            state.manifests.pop_first();
        }
        state.manifests.insert(hash, manifest.clone());
        Ok(manifest)
    }

    /// A manifest's length is not known before it is here, so it comes as a whole, from an origin or from peers that serve
    /// the same over HTTP.
    async fn fetch_unknown(&self, hash: BlobHash) -> Result<Vec<u8>> {
        let lock = self.lock_of(hash);
        let _one = lock.lock().await;
        if let Some(blob) = self.0.blobs.find(hash) {
            return Ok(self.0.blobs.read_all(&blob).await?);
        }
        let peers = self.0.wire.directory.urls();
        for url in self.0.origins.iter().chain(&peers) {
            match self.0.wire.fetch_named(url, hash, MAX_BYTES as u64).await {
                Ok(bytes) => {
                    self.0.state.lock().counts.origin_bytes += bytes.len() as u64;
                    return Ok(bytes);
                }
                Err(error) => tracing::debug!(%url, "a manifest did not come: {error:#}"),
            }
        }
        Err(anyhow!("nobody that is reached has manifest {}", hash.0))
    }

    fn lock_of(&self, hash: BlobHash) -> Arc<tokio::sync::Mutex<()>> {
        let mut state = self.0.state.lock();
        state.fetching.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = state.fetching.get(&hash).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        state.fetching.insert(hash, Arc::downgrade(&lock));
        lock
    }

    /// Brings a blob of a content here, if it is not.
    pub(in crate::edge) async fn bring(&self, manifest: BlobHash, blob: &BlobRef) -> Result<()> {
        if self.0.blobs.has(blob.hash).await {
            return Ok(());
        }
        let lock = self.lock_of(blob.hash);
        let _one = lock.lock().await;
        if self.0.blobs.has(blob.hash).await {
            return Ok(());
        }
        match self.ask_peers(manifest, blob).await {
            Ok(bytes) => drop(self.0.blobs.add(bytes).await?),
            Err(error) => {
                tracing::debug!(blob = %blob.hash.0, "peers did not give a blob: {error:#}");
                self.ask_origins(blob).await.with_context(|| format!("peers: {error:#}"))?;
            }
        }
        // Whoever has some of it can give some of it.
        if self.0.state.lock().provided.insert(manifest) {
            self.provide(manifest);
        }
        Ok(())
    }

    async fn ask_origins(&self, blob: &BlobRef) -> Result<()> {
        for url in &self.0.origins {
            match self.0.wire.fetch_one(url, blob).await {
                Ok(()) => {
                    self.0.state.lock().counts.origin_bytes += blob.len;
                    return Ok(());
                }
                Err(error) => tracing::debug!(%url, "an origin did not give a blob: {error:#}"),
            }
        }
        bail!("no peer and none of {} origins gave blob {}", self.0.origins.len(), blob.hash.0)
    }

    /// Peers that are said to have a content and are not known to lie.
    async fn providers(&self, manifest: BlobHash) -> Vec<PeerId> {
        let now = now_millis();
        let known = {
            let state = self.0.state.lock();
            let known = state.providers.get(&manifest);
            known.filter(|known| known.at + PROVIDERS_MS > now && !known.peers.is_empty()).cloned()
        };
        let peers = match known {
            Some(known) => known.peers,
            None => {
                let mut peers = self.0.peers.providers(manifest.0).await;
                peers.retain(|peer| *peer != self.0.peers.id);
                peers.sort_unstable();
                peers.dedup();
                let mut state = self.0.state.lock();
                if state.providers.len() >= MANIFESTS {
                    state.providers.pop_first();
                }
                state.providers.insert(manifest, Providers { at: now, peers: peers.clone() });
                peers
            }
        };
        let mut state = self.0.state.lock();
        peers.iter().for_each(|peer| state.sources.add(*peer));
        peers.into_iter().filter(|peer| !state.banned.contains(peer)).collect()
    }

    async fn ask_peers(&self, manifest: BlobHash, blob: &BlobRef) -> Result<Vec<u8>> {
        let peers = self.providers(manifest).await;
        if peers.is_empty() {
            bail!("nobody says that it has it");
        }
        let outline = match Outline::single(*blob) {
            Some(outline) => outline,
            None => self.outline(&peers, blob).await?,
        };
        let (peers, outline) = (&peers, &outline);
        let chunks = stream::iter(0..count(blob)).map(|index| self.chunk(peers, outline, index));
        let chunks: Vec<Vec<u8>> = chunks.buffered(AT_ONCE).try_collect().await?;
        Ok(chunks.concat())
    }

    fn pick(&self, peers: &[PeerId], tried: &[PeerId]) -> Option<PeerId> {
        let may = |peer: &PeerId| peers.contains(peer) && !tried.contains(peer);
        self.0.state.lock().sources.pick(now_millis(), may)
    }

    /// Never asks a peer again.
    fn ban(&self, peer: PeerId) {
        let mut state = self.0.state.lock();
        state.counts.refused += 1;
        state.sources.lied(peer);
        if state.banned.len() < MAX_BANNED {
            state.banned.insert(peer);
        }
        drop(state);
        self.0.peers.block(peer);
        tracing::warn!(%peer, "an edge node gave something else than what was asked for, and is not asked again");
    }

    async fn outline(&self, peers: &[PeerId], blob: &BlobRef) -> Result<Outline> {
        let mut tried = Vec::new();
        while let Some(peer) = self.pick(peers, &tried) {
            tried.push(peer);
            let asked =
                tokio::time::timeout(CHUNK_TIMEOUT, self.0.peers.ask(peer, Question::Outline(*blob))).await;
            match asked {
                Ok(Some(Answer::Outline(hashes))) => match Outline::check(*blob, &hashes) {
                    Some(outline) => {
                        self.0.state.lock().sources.passed(peer);
                        return Ok(outline);
                    }
                    None => self.ban(peer),
                },
                Ok(Some(Answer::Missing)) => self.0.state.lock().sources.passed(peer),
                _ => self.0.state.lock().sources.failed(now_millis(), peer),
            }
        }
        bail!("no peer gave its outline")
    }

    /// One chunk, from one peer after another until it is right.
    async fn chunk(&self, peers: &[PeerId], outline: &Outline, index: u64) -> Result<Vec<u8>> {
        let until = tokio::time::Instant::now() + PATIENCE;
        let mut tried = Vec::new();
        while tokio::time::Instant::now() < until {
            let Some(peer) = self.pick(peers, &tried) else {
                if peers.iter().all(|peer| tried.contains(peer)) {
                    bail!("no peer gave chunk {index}");
                }
                // The others are busy with chunks for us.
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            match self.ask_chunk(peer, outline, index).await {
                Got::Chunk(bytes) => return Ok(bytes),
                Got::Nothing => tried.push(peer),
                Got::Later => tokio::time::sleep(RECEIPT).await,
            }
        }
        bail!("no peer gave chunk {index} in time")
    }

    async fn ask_chunk(&self, peer: PeerId, outline: &Outline, index: u64) -> Got {
        let Some(node) = node_of(&peer) else {
            self.0.state.lock().sources.failed(now_millis(), peer);
            return Got::Nothing;
        };
        let (fund, tick) = {
            let payer = self.0.payer.lock().await;
            (payer.fund(), payer.last_tick(&node.0))
        };
        let begun = tokio::time::Instant::now();
        let question = Question::Chunk { blob: *outline.blob(), index, fund, tick };
        let answer = tokio::time::timeout(CHUNK_TIMEOUT, self.0.peers.ask(peer, question)).await;
        match answer {
            Ok(Some(Answer::Chunk(bytes))) if outline.holds(index, &bytes) => {
                let took = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
                {
                    let mut state = self.0.state.lock();
                    state.sources.got(peer, bytes.len() as u64, took);
                    state.counts.verified += 1;
                    state.counts.peer_chunks += 1;
                    state.counts.peer_bytes += bytes.len() as u64;
                }
                match self.0.payer.lock().await.pay(node.0) {
                    Ok(letter) => self.send(letter.into_iter().collect()),
                    Err(error) => tracing::warn!("a chunk was not paid for: {error:#}"),
                }
                Got::Chunk(bytes)
            }
            Ok(Some(Answer::Chunk(_) | Answer::Outline(_) | Answer::Heard)) => {
                self.ban(peer);
                Got::Nothing
            }
            Ok(Some(Answer::Pay(unit))) => {
                self.0.state.lock().sources.passed(peer);
                match self.agree(node.0, unit).await {
                    Ok(()) => Got::Later,
                    Err(error) => {
                        tracing::warn!(node = %node.0, "an edge node cannot be paid: {error:#}");
                        Got::Nothing
                    }
                }
            }
            Ok(Some(Answer::Missing)) => {
                self.0.state.lock().sources.passed(peer);
                Got::Nothing
            }
            Ok(None) | Err(_) => {
                self.0.state.lock().sources.failed(now_millis(), peer);
                Got::Nothing
            }
        }
    }

    /// Agrees to a price, if it is within what this node pays.
    async fn agree(&self, payee: Address, unit: TFuelWei) -> Result<()> {
        if unit > self.0.most {
            bail!("it asks for {unit} wei a chunk, and {} is the most that is paid", self.0.most);
        }
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| anyhow!("the machine has no randomness: {error}"))?;
        let letters = self.0.payer.lock().await.begin(payee, unit, seed).await?;
        self.send(letters);
        Ok(())
    }

    /// What came from whom, and what it cost.
    pub(in crate::edge) async fn view(&self) -> Value {
        let (peers, counts) = {
            let state = self.0.state.lock();
            let row = |(peer, standing): (PeerId, theta_edge::content::sources::Standing)| {
                json!({
                    "peer": peer.to_string(),
                    "node": node_of(&peer).map(|node| node.0.to_checksum(None)),
                    "chunks": standing.good,
                    "asked": standing.asked,
                    "bytes": standing.bytes,
                    "banned": standing.banned,
                })
            };
            (state.sources.standings().map(row).collect::<Vec<_>>(), state.counts)
        };
        let payer = self.0.payer.lock().await;
        let fund = payer.statement().map(|fund| {
            json!({
                "reserveSequence": payer.fund(),
                "freeTfuelWei": fund.free, "signedTfuelWei": fund.signed, "settledTfuelWei": fund.settled,
            })
        });
        json!({
            "connected": self.0.peers.connected().len(),
            "peers": peers,
            "bytes": { "peers": counts.peer_bytes, "origin": counts.origin_bytes },
            "chunks": { "verified": counts.verified, "refused": counts.refused },
            "paid": { "chunks": payer.chunks, "tfuelWei": payer.spent },
            "fund": fund,
        })
    }

    /// Blobs here.
    pub(in crate::edge) fn blobs(&self) -> &DiskBlobs {
        &self.0.blobs
    }
}

/// What became of asking a peer for a chunk.
enum Got {
    Chunk(Vec<u8>),
    /// Not from this one.
    Nothing,
    /// From this one, once it has looked at a receipt.
    Later,
}

/// The manifest's name in a path.
pub(in crate::edge) fn manifest_hash(text: &str) -> Option<BlobHash> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    format!("0x{digits}").parse::<Hash>().ok().map(BlobHash)
}
