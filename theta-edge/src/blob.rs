//! Content-addressed bytes: what a job reads and what it leaves behind.
//!
//! A blob is named by the BLAKE3 hash of its bytes (edge.md 6.1), so it does not matter who hands it
//! over: [`BlobStore::add`] computes the name, and bytes that are not what was asked for simply have
//! another name.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use theta_core::hash::Hash;

/// The BLAKE3 hash of a blob's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, std::hash::Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BlobHash(pub Hash);

impl BlobHash {
    /// The name of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Hash::from(*blake3::hash(bytes).as_bytes()))
    }
}

/// A blob's name and its length in bytes, so that a reader knows what it will cost before it asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, std::hash::Hash, Serialize, Deserialize)]
pub struct BlobRef {
    /// The name.
    pub hash: BlobHash,
    /// How many bytes it has.
    pub len: u64,
}

impl BlobRef {
    /// Name and length of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self { hash: BlobHash::of(bytes), len: bytes.len() as u64 }
    }
}

/// Why a blob could not be read or kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlobError {
    /// Nobody here has it.
    #[error("blob {0:?} is not here")]
    Missing(BlobHash),
    /// The range reaches past the end, or the length differs from what the reference said.
    #[error("blob {0:?} is shorter than asked")]
    Range(BlobHash),
    /// The storage below failed.
    #[error("blob storage failed")]
    Storage(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Where blobs are kept; async because reading may mean fetching.
#[async_trait]
pub trait BlobStore: Send + Sync {
    /// Keeps the bytes and says how they are called. Adding twice changes nothing.
    async fn add(&self, bytes: Vec<u8>) -> Result<BlobRef, BlobError>;
    /// Reads a range of bytes of a blob.
    async fn read(&self, blob: BlobHash, range: Range<u64>) -> Result<Vec<u8>, BlobError>;
    /// Whether reading would need no one else.
    async fn has(&self, blob: BlobHash) -> bool;
    /// Reads a whole blob and insists on the length of the reference.
    async fn read_all(&self, blob: &BlobRef) -> Result<Vec<u8>, BlobError> {
        let bytes = self.read(blob.hash, 0..blob.len).await?;
        if BlobHash::of(&bytes) == blob.hash { Ok(bytes) } else { Err(BlobError::Range(blob.hash)) }
    }
}

/// Blobs in memory, for tests and for small jobs.
#[derive(Debug, Default)]
pub struct MemBlobs(RwLock<HashMap<BlobHash, Arc<Vec<u8>>>>);

#[async_trait]
impl BlobStore for MemBlobs {
    async fn add(&self, bytes: Vec<u8>) -> Result<BlobRef, BlobError> {
        let blob = BlobRef::of(&bytes);
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(blob.hash, Arc::new(bytes));
        Ok(blob)
    }

    async fn read(&self, blob: BlobHash, range: Range<u64>) -> Result<Vec<u8>, BlobError> {
        let bytes = self.0.read().unwrap_or_else(PoisonError::into_inner).get(&blob).cloned();
        let bytes = bytes.ok_or(BlobError::Missing(blob))?;
        let (Ok(start), Ok(end)) = (usize::try_from(range.start), usize::try_from(range.end)) else {
            return Err(BlobError::Range(blob));
        };
        bytes.get(start..end).map(<[u8]>::to_vec).ok_or(BlobError::Range(blob))
    }

    async fn has(&self, blob: BlobHash) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains_key(&blob)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::executor::block_on;

    #[test]
    fn what_is_added_is_read_by_its_hash() {
        let store = MemBlobs::default();
        let blob = block_on(store.add(b"hello".to_vec())).unwrap();
        assert_eq!(block_on(store.read_all(&blob)).unwrap(), b"hello");
        assert_eq!(block_on(store.read(blob.hash, 1..3)).unwrap(), b"el");
        assert!(block_on(store.has(blob.hash)));
    }

    #[test]
    fn a_wrong_length_or_an_unknown_name_is_an_error() {
        let store = MemBlobs::default();
        let blob = block_on(store.add(b"hello".to_vec())).unwrap();
        for len in [4, 6, u64::MAX] {
            let wrong = BlobRef { len, ..blob };
            assert!(matches!(block_on(store.read_all(&wrong)), Err(BlobError::Range(_))));
        }
        let unknown = BlobRef::of(b"other");
        assert!(matches!(block_on(store.read_all(&unknown)), Err(BlobError::Missing(_))));
    }
}
