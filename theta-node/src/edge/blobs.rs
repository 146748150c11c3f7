//! Blobs on disk.

use std::{
    fs::File,
    io::Write as _,
    ops::Range,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use theta_edge::blob::{BlobError, BlobHash, BlobRef, BlobStore};

/// Blobs as files named by their hash.
#[derive(Clone, Debug)]
pub struct DiskBlobs(PathBuf);

impl DiskBlobs {
    /// Opens the folder, or makes it.
    pub fn open(folder: &Path) -> std::io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        Ok(Self(folder.to_owned()))
    }

    pub(super) fn path(&self, blob: &BlobHash) -> PathBuf {
        self.0.join(hex::encode(blob.0))
    }
}

fn storage(error: std::io::Error) -> BlobError {
    BlobError::Storage(Box::new(error))
}

/// Puts bytes in place under a name that a reader never sees before they are whole and `synced`: what they hold may be
/// paid for as soon as this returns.
pub(super) fn keep(
    folder: &Path,
    name: &Path,
    bytes: &[u8],
    synced: fn(&File) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let mut fresh = tempfile::NamedTempFile::new_in(folder)?;
    fresh.write_all(bytes)?;
    synced(fresh.as_file())?;
    fresh.persist(name)?;
    synced(&File::open(folder)?)
}

#[async_trait]
impl BlobStore for DiskBlobs {
    async fn add(&self, bytes: Vec<u8>) -> Result<BlobRef, BlobError> {
        let blob = BlobRef::of(&bytes);
        let path = self.path(&blob.hash);
        if !path.exists() {
            let folder = self.0.clone();
            let written = tokio::task::spawn_blocking(move || keep(&folder, &path, &bytes, File::sync_all));
            written.await.map_err(std::io::Error::other).and_then(|done| done).map_err(storage)?;
        }
        Ok(blob)
    }

    async fn read(&self, blob: BlobHash, range: Range<u64>) -> Result<Vec<u8>, BlobError> {
        let bytes = match tokio::fs::read(self.path(&blob)).await {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(BlobError::Missing(blob));
            }
            Err(error) => return Err(storage(error)),
        };
        let (Ok(start), Ok(end)) = (usize::try_from(range.start), usize::try_from(range.end)) else {
            return Err(BlobError::Range(blob));
        };
        bytes.get(start..end).map(<[u8]>::to_vec).ok_or(BlobError::Range(blob))
    }

    async fn has(&self, blob: BlobHash) -> bool {
        self.path(&blob).exists()
    }
}
