//! Transactions that this node took from a client, in a file: one that is killed a moment after its answer takes them up
//! again, and tells the others.
//!
//! Each is a length in four bytes and the raw bytes. They are written before the client is answered and not synced: what a
//! killed process has written stays, and whoever pulls the plug may lose what is not in a block yet, as a node's answer says
//! no more than that it waits. What is in a block or has fallen out of the pool leaves the file when it is written anew.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use parking_lot::Mutex;

/// Bytes above which the file is written anew with what still waits; then again at twice what it had.
const MOST: u64 = 4 << 20;
/// Largest transaction that is read back.
const LARGEST: usize = 1 << 20;

struct Open {
    file: File,
    len: u64,
    /// When it is written anew.
    anew_at: u64,
}

/// The file.
pub(crate) struct Promised {
    path: PathBuf,
    open: Mutex<Open>,
}

impl std::fmt::Debug for Promised {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Promised").field("path", &self.path).finish_non_exhaustive()
    }
}

fn record(raw: &[u8]) -> Vec<u8> {
    let len = u32::try_from(raw.len()).unwrap_or(u32::MAX);
    [&len.to_be_bytes(), raw].concat()
}

/// All whole records; a torn one at the end was never answered.
fn read(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while let Some((len, rest)) = bytes.split_first_chunk::<4>() {
        let len = u32::from_be_bytes(*len) as usize;
        let Some((raw, rest)) = rest.split_at_checked(len).filter(|_| len <= LARGEST) else { break };
        all.push(raw.to_vec());
        bytes = rest;
    }
    all
}

impl Promised {
    /// Opens the file, or makes it; gives what a run before had promised.
    pub(crate) fn open(path: &Path) -> io::Result<(Self, Vec<Vec<u8>>)> {
        let mut bytes = Vec::new();
        match File::open(path) {
            Ok(file) => drop(file.take(64 << 20).read_to_end(&mut bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let before = read(&bytes);
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let len = file.metadata()?.len();
        let open = Mutex::new(Open { file, len, anew_at: MOST });
        Ok((Self { path: path.to_owned(), open }, before))
    }

    /// Notes a transaction that was admitted.
    pub(crate) fn note(&self, raw: &[u8]) -> io::Result<()> {
        let record = record(raw);
        let mut open = self.open.lock();
        open.file.write_all(&record)?;
        open.len += record.len() as u64;
        Ok(())
    }

    /// Whether the file is long enough to be written anew.
    pub(crate) fn is_long(&self) -> bool {
        let open = self.open.lock();
        open.len >= open.anew_at
    }

    /// Writes it anew with what still waits. Notes wait meanwhile, so that none is lost.
    pub(crate) fn rewrite(&self, waiting: impl FnOnce() -> Vec<Vec<u8>>) -> io::Result<()> {
        let mut open = self.open.lock();
        let bytes: Vec<u8> = waiting().iter().flat_map(|raw| record(raw)).collect();
        let fresh = self.path.with_extension("new");
        std::fs::write(&fresh, &bytes)?;
        std::fs::rename(&fresh, &self.path)?;
        open.file = OpenOptions::new().append(true).open(&self.path)?;
        open.len = bytes.len() as u64;
        open.anew_at = MOST.max(open.len * 2);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "whatever fails here is a failed test")]
    use super::*;

    #[test]
    fn what_was_noted_is_there_again_but_for_a_torn_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("promised");
        let (promised, before) = Promised::open(&path).unwrap();
        assert!(before.is_empty());
        promised.note(b"one").unwrap();
        promised.note(&[7; 300]).unwrap();
        drop(promised);
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let (_, before) = Promised::open(&path).unwrap();
            assert_eq!(before.len(), usize::from(cut >= 7), "cut at {cut}");
        }
        std::fs::write(&path, &whole).unwrap();
        let (promised, before) = Promised::open(&path).unwrap();
        assert_eq!(before, [b"one".to_vec(), vec![7; 300]]);
        promised.rewrite(|| vec![b"two".to_vec()]).unwrap();
        promised.note(b"three").unwrap();
        assert!(!promised.is_long());
        let (_, before) = Promised::open(&path).unwrap();
        assert_eq!(before, [b"two".to_vec(), b"three".to_vec()]);
        std::fs::write(&path, [0xff; 90]).unwrap();
        assert!(Promised::open(&path).unwrap().1.is_empty(), "no length is believed");
    }
}
