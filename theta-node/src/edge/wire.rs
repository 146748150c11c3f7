//! Envelopes and blobs over HTTP, both ways.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use anyhow::{Result, bail};
use axum::{
    Extension, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path as UrlPath, State},
    http::{HeaderMap, Method, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use parking_lot::RwLock;
use theta_core::hash::Hash;
use theta_edge::{
    blob::{BlobHash, BlobRef, BlobStore},
    identity::NodeId,
};
use tokio::sync::{Semaphore, mpsc};

use super::{DiskBlobs, content::ranges};
use crate::http::{Slot, limited};

/// An envelope is at most 4 MiB; the body limit leaves it some room.
const MAX_ENVELOPE: usize = 5 * 1024 * 1024;
/// Largest blob that is fetched.
pub(super) const MAX_BLOB: u64 = 256 * 1024 * 1024;
/// Requests from other nodes that are worked on at once; more wait.
pub(super) const MAX_REQUESTS: usize = 64;
/// Longest time for one of them, and for one of one's own.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Envelopes that are being brought to others at once; more are lost.
const MAX_SENDS: usize = 128;

/// Where nodes are found. Clones are one directory.
#[derive(Clone, Debug, Default)]
pub struct Directory(pub(super) Arc<RwLock<BTreeMap<NodeId, String>>>);

impl Directory {
    pub(super) fn add(&self, node: NodeId, url: String) {
        self.0.write().insert(node, url);
    }

    pub(super) fn remove(&self, node: &NodeId) {
        self.0.write().remove(node);
    }

    /// Everybody but one.
    pub(super) fn others(&self, me: NodeId) -> Vec<NodeId> {
        self.0.read().keys().filter(|node| **node != me).copied().collect()
    }

    /// Where everybody is.
    pub(super) fn urls(&self) -> Vec<String> {
        self.0.read().values().cloned().collect()
    }

    fn url(&self, node: &NodeId) -> Option<String> {
        self.0.read().get(node).cloned()
    }
}

/// One side's connections: its blobs, the directory, an HTTP client.
#[derive(Clone)]
pub(super) struct Wire {
    pub(super) blobs: DiskBlobs,
    pub(super) directory: Directory,
    http: reqwest::Client,
    sends: Arc<Semaphore>,
    /// Is told of nodes that cannot be reached.
    lost: Option<Arc<dyn Fn(NodeId) + Send + Sync>>,
}

impl Wire {
    pub(super) fn new(folder: &Path, directory: Directory) -> Result<Self> {
        let http = reqwest::Client::builder().timeout(TIMEOUT).no_proxy().build()?;
        let blobs = DiskBlobs::open(&folder.join("blobs"))?;
        Ok(Self { blobs, directory, http, sends: Arc::new(Semaphore::new(MAX_SENDS)), lost: None })
    }

    /// Brings an envelope to a node in the background. It may be lost.
    pub(super) fn send(&self, to: NodeId, envelope: Vec<u8>) {
        let Some(url) = self.directory.url(&to) else { return };
        let Ok(slot) = self.sends.clone().try_acquire_owned() else {
            tracing::debug!(?to, "an envelope was lost: too many are on their way");
            return;
        };
        let request = self.http.post(format!("{url}/edge")).body(envelope);
        let lost = self.lost.clone();
        tokio::spawn(async move {
            let _slot = slot;
            if let Err(error) = request.send().await {
                tracing::debug!(?to, %error, "an envelope was lost");
                if let Some(lost) = lost.filter(|_| error.is_connect()) {
                    lost(to);
                }
            }
        });
    }

    /// Fetches blobs that are not here; whether all are now.
    pub(super) async fn fetch(&self, from: NodeId, blobs: &[BlobRef]) -> bool {
        let Some(url) = self.directory.url(&from) else { return false };
        for blob in blobs {
            if !self.blobs.has(blob.hash).await && self.fetch_one(&url, blob).await.is_err() {
                return false;
            }
        }
        true
    }

    pub(super) async fn fetch_one(&self, url: &str, blob: &BlobRef) -> Result<()> {
        if blob.len > MAX_BLOB {
            bail!("a blob of {} bytes is too large", blob.len);
        }
        let url = format!("{url}/blob/{}", hex::encode(blob.hash.0));
        let mut response = self.http.get(url).send().await?.error_for_status()?;
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > blob.len {
                bail!("more bytes came than the blob has");
            }
        }
        if BlobRef::of(&bytes) != *blob {
            bail!("other bytes came than the blob's");
        }
        self.blobs.add(bytes).await?;
        Ok(())
    }

    /// Fetches a blob whose length is not known, of so many bytes at most, and keeps it.
    pub(super) async fn fetch_named(&self, url: &str, hash: BlobHash, most: u64) -> Result<Vec<u8>> {
        let url = format!("{url}/blob/{}", hex::encode(hash.0));
        let mut response = self.http.get(url).send().await?.error_for_status()?;
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > most {
                bail!("more than {most} bytes came");
            }
        }
        if BlobHash::of(&bytes) != hash {
            bail!("other bytes came than the blob's");
        }
        self.blobs.add(bytes.clone()).await?;
        Ok(bytes)
    }

    /// Where the other edge node of this URL is found by other edge nodes.
    pub(super) async fn peers_of(&self, url: &str) -> Result<Vec<libp2p::Multiaddr>> {
        let response = self.http.get(format!("{url}/p2p")).send().await?.error_for_status()?;
        let bytes = response.bytes().await?;
        let addresses: Vec<String> = serde_json::from_slice(&bytes)?;
        Ok(addresses.iter().take(8).filter_map(|address| address.parse().ok()).collect())
    }

    /// Calls this with every node that nobody listens for any more.
    pub(super) fn on_lost(&mut self, lost: impl Fn(NodeId) + Send + Sync + 'static) {
        self.lost = Some(Arc::new(lost));
    }

    /// Who answers at a URL.
    pub(super) async fn who(&self, url: &str) -> Result<NodeId> {
        let response = self.http.get(format!("{url}/edge")).send().await?.error_for_status()?;
        let bytes = response.bytes().await?;
        Ok(serde_json::from_slice(&bytes)?)
    }

    /// `/edge` and `/blob/` of this side.
    pub(super) fn routes<E: Send + 'static>(
        &self,
        me: NodeId,
        events: mpsc::Sender<E>,
        envelope: fn(Vec<u8>) -> E,
    ) -> Router {
        let preflight = || async { ranges::with_cors(StatusCode::NO_CONTENT.into_response()) };
        let state = Served { blobs: self.blobs.clone(), events, envelope };
        let routes = Router::new()
            .route("/edge", post(take_envelope::<E>).get(move || async move { axum::Json(me) }))
            .route("/blob/{hash}", get(give_blob::<E>).options(preflight))
            .layer(DefaultBodyLimit::max(MAX_ENVELOPE))
            .with_state(state);
        limited(routes, MAX_REQUESTS, TIMEOUT)
    }
}

struct Served<E> {
    blobs: DiskBlobs,
    events: mpsc::Sender<E>,
    envelope: fn(Vec<u8>) -> E,
}

impl<E> Clone for Served<E> {
    fn clone(&self) -> Self {
        Self { blobs: self.blobs.clone(), events: self.events.clone(), envelope: self.envelope }
    }
}

async fn take_envelope<E: Send + 'static>(State(served): State<Served<E>>, body: Bytes) -> StatusCode {
    match served.events.try_send((served.envelope)(body.to_vec())) {
        Ok(()) => StatusCode::NO_CONTENT,
        Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

async fn give_blob<E: Send + 'static>(
    State(served): State<Served<E>>,
    Extension(slot): Extension<Slot>,
    UrlPath(hash): UrlPath<String>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let Ok(hash) = format!("0x{hash}").parse::<Hash>() else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let (path, name) = (served.blobs.path(&BlobHash(hash)), hash.to_string());
    ranges::give(&path, (&name, "application/octet-stream"), (&method, &headers), slot).await
}
