//! Blobs on disk.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{Read as _, Write as _},
    ops::Range,
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use theta_core::hash::Hash;
use theta_edge::{
    blob::{BlobError, BlobHash, BlobRef, BlobStore},
    map::MAX_CHUNKS,
    split::{Cutter, Split},
};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

/// Bytes that are read at once.
const PIECE: usize = 64 * 1024;

/// Blobs as files named by their hash.
#[derive(Clone, Debug)]
pub struct DiskBlobs(PathBuf);

/// A blob that comes piece by piece. It has no name before it is whole; dropping it leaves nothing.
pub(super) struct Incoming {
    folder: PathBuf,
    file: tempfile::NamedTempFile,
    hasher: blake3::Hasher,
    len: u64,
}

impl Incoming {
    fn new(folder: &Path) -> std::io::Result<Self> {
        let file = tempfile::NamedTempFile::new_in(folder)?;
        Ok(Self { folder: folder.to_owned(), file, hasher: blake3::Hasher::new(), len: 0 })
    }

    /// Adds bytes, and says how many there are now.
    pub(super) fn push(&mut self, bytes: &[u8]) -> std::io::Result<u64> {
        self.file.write_all(bytes)?;
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        Ok(self.len)
    }

    /// Gives it its name, under which a reader finds all of it. Whether the name survives a crash is the folder's to sync.
    fn finish(self) -> std::io::Result<BlobRef> {
        let hash = BlobHash(Hash::from(*self.hasher.finalize().as_bytes()));
        let path = self.folder.join(hex::encode(hash.0));
        if !path.exists() {
            self.file.as_file().sync_all()?;
            self.file.persist(path)?;
        } else {
            // It is wanted again, and as young as any.
            File::open(path)?.set_modified(std::time::SystemTime::now())?;
        }
        Ok(BlobRef { hash, len: self.len })
    }

    /// Gives it its name, durably.
    pub(super) fn keep(self) -> std::io::Result<BlobRef> {
        let folder = self.folder.clone();
        let blob = self.finish()?;
        File::open(folder)?.sync_all()?;
        Ok(blob)
    }
}

impl DiskBlobs {
    /// Opens the folder, or makes it.
    pub fn open(folder: &Path) -> std::io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        Ok(Self(folder.to_owned()))
    }

    pub(super) fn path(&self, blob: &BlobHash) -> PathBuf {
        self.0.join(hex::encode(blob.0))
    }

    /// A blob of this hash with its length, if it is here.
    pub(super) fn find(&self, hash: BlobHash) -> Option<BlobRef> {
        let len = std::fs::metadata(self.path(&hash)).ok()?.len();
        Some(BlobRef { hash, len })
    }

    /// Begins a blob that comes piece by piece.
    pub(super) fn incoming(&self) -> std::io::Result<Incoming> {
        Incoming::new(&self.0)
    }

    /// All bytes in the folder, names that are not blobs included.
    pub(super) fn size(&self) -> u64 {
        let files = std::fs::read_dir(&self.0).into_iter().flatten().flatten();
        files.filter_map(|file| file.metadata().ok()).map(|data| data.len()).sum()
    }

    /// Deletes the oldest blobs until no more than so many bytes are left, but none younger than `age`.
    pub(super) fn prune(&self, most: u64, age: Duration) {
        self.prune_unused(most, (age, Duration::MAX), &BTreeSet::new());
    }

    /// Deletes blobs that are older than `oldest`, and then the oldest until no more than so many bytes are left; none that
    /// is younger than `youngest` or `used`.
    pub(super) fn prune_unused(
        &self,
        most: u64,
        (youngest, oldest): (Duration, Duration),
        used: &BTreeSet<BlobHash>,
    ) {
        let used: BTreeSet<PathBuf> = used.iter().map(|blob| self.path(blob)).collect();
        let files = std::fs::read_dir(&self.0).into_iter().flatten().flatten();
        let mut files: Vec<_> = files
            .filter_map(|file| {
                let data = file.metadata().ok()?;
                Some((data.modified().ok()?, data.len(), file.path()))
            })
            .collect();
        files.sort();
        let mut all: u64 = files.iter().map(|(_, len, _)| len).sum();
        for (at, len, path) in files {
            let age = at.elapsed().unwrap_or_default();
            let goes = age >= oldest || (all > most && age >= youngest);
            // One that cannot be deleted is tried again the next time.
            if goes && !used.contains(&path) && std::fs::remove_file(path).is_ok() {
                all -= len;
            }
        }
    }

    /// Cuts a blob into parts that are blobs (edge.md 2.3), in their order; at most one more than [`MAX_CHUNKS`].
    pub(super) async fn cut(&self, input: BlobRef, split: Split) -> Result<Vec<BlobRef>, BlobError> {
        let blobs = self.clone();
        blocking(move || {
            let mut file = File::open(blobs.path(&input.hash))?;
            let (mut cutter, mut parts) = (Cutter::new(split), Vec::new());
            let (mut part, mut begin, mut at) = (blobs.incoming()?, 0, 0);
            let mut piece = vec![0; PIECE];
            while parts.len() <= MAX_CHUNKS {
                let got = file.read(&mut piece)?;
                if got == 0 {
                    break;
                }
                let mut ranges = Vec::new();
                cutter.push(&piece[..got], &mut ranges);
                let mut used = 0;
                for range in ranges {
                    let end = (range.end - at) as usize;
                    part.push(&piece[used..end])?;
                    parts.push(std::mem::replace(&mut part, blobs.incoming()?).finish()?);
                    (used, begin) = (end, range.end);
                }
                part.push(&piece[used..got])?;
                at += got as u64;
            }
            if at > begin {
                parts.push(part.finish()?);
            }
            File::open(&blobs.0)?.sync_all()?;
            Ok(parts)
        })
        .await
    }

    /// Makes one blob of several, one after another.
    pub(super) async fn join(&self, parts: Vec<BlobRef>) -> Result<BlobRef, BlobError> {
        let blobs = self.clone();
        blocking(move || {
            let (mut whole, mut piece) = (blobs.incoming()?, vec![0; PIECE]);
            for part in parts.iter().filter(|part| part.len > 0) {
                let mut file = File::open(blobs.path(&part.hash))?;
                loop {
                    let got = file.read(&mut piece)?;
                    if got == 0 {
                        break;
                    }
                    whole.push(&piece[..got])?;
                }
            }
            whole.keep()
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, BlobError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(std::io::Error::other).and_then(|done| done).map_err(storage)
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
            blocking(move || keep(&folder, &path, &bytes, File::sync_all)).await?;
        }
        Ok(blob)
    }

    async fn read(&self, blob: BlobHash, range: Range<u64>) -> Result<Vec<u8>, BlobError> {
        let len = range.end.checked_sub(range.start).ok_or(BlobError::Range(blob))?;
        let opened = tokio::fs::File::open(self.path(&blob)).await;
        let mut file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(BlobError::Missing(blob));
            }
            Err(error) => return Err(storage(error)),
        };
        if file.metadata().await.map_err(storage)?.len() < range.end {
            return Err(BlobError::Range(blob));
        }
        file.seek(std::io::SeekFrom::Start(range.start)).await.map_err(storage)?;
        let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or_default());
        file.take(len).read_to_end(&mut bytes).await.map_err(storage)?;
        if bytes.len() as u64 == len { Ok(bytes) } else { Err(BlobError::Range(blob)) }
    }

    async fn has(&self, blob: BlobHash) -> bool {
        self.path(&blob).exists()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "whatever fails here is a failed test")]
    use std::time::SystemTime;

    use super::*;

    #[tokio::test]
    async fn blobs_go_by_age_and_size_but_none_that_is_used_or_young() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = DiskBlobs::open(folder.path()).unwrap();
        let minutes = |count: u64| Duration::from_secs(60 * count);
        let mut named = Vec::new();
        // From a hundred minutes old to just made, a thousand bytes each.
        for (byte, age) in [100, 90, 50, 40, 30, 0].into_iter().enumerate() {
            let blob = blobs.add(vec![byte as u8; 1_000]).await.unwrap();
            let file = File::options().write(true).open(blobs.path(&blob.hash)).unwrap();
            file.set_modified(SystemTime::now() - minutes(age)).unwrap();
            named.push(blob.hash);
        }
        let left = || named.iter().map(|blob| blobs.path(blob).exists()).collect::<Vec<_>>();
        // The oldest is used; the second is too old; nothing else goes while there is room.
        let used = BTreeSet::from([named[0]]);
        blobs.prune_unused(1 << 20, (minutes(10), minutes(60)), &used);
        assert_eq!(left(), [true, false, true, true, true, true]);
        // The oldest that may goes first, and no more than has to.
        blobs.prune_unused(3_500, (minutes(10), minutes(60)), &used);
        assert_eq!(left(), [true, false, false, false, true, true]);
        // What is young stays whatever the size.
        blobs.prune_unused(0, (minutes(10), minutes(60)), &used);
        assert_eq!(left(), [true, false, false, false, false, true]);
        blobs.prune_unused(0, (minutes(10), minutes(60)), &BTreeSet::new());
        assert_eq!(left(), [false, false, false, false, false, true]);
    }
}
