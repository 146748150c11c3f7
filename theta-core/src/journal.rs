//! Append-only journals of records that must survive a crash: locks, last votes, signed amounts.
//!
//! A record counts once [`Journal::append`] has returned; by then it is synced. A crash in the middle of a write leaves a
//! torn tail, which the next open cuts off. Damage anywhere before the tail is refused: it means a disk that loses what it
//! promised, and going on would sign twice.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    marker::PhantomData,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    codec::record::{self, RecordError},
    hash::keccak,
};

/// Length, check of the length, check of the body.
const FRAME: usize = 4 + 4 + 8;

/// A value that is kept in a journal.
pub trait Record: Serialize + DeserializeOwned {
    /// Raised when the form changes; other versions are refused.
    const VERSION: u8;
}

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// Reading or writing failed. After a failed append the journal must not be used again.
    #[error("journal could not be read or written: {0}")]
    Io(#[from] io::Error),
    /// Damaged at this byte, with records behind it.
    #[error(
        "journal is damaged at byte {0}, before its end; restore it from a copy or start this node with a new key"
    )]
    Damaged(usize),
    /// A record of another version, or too large.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// The file under a journal.
pub trait Disk: Send {
    /// Everything that is there.
    fn read(&mut self) -> io::Result<Vec<u8>>;
    /// Adds bytes at the end; durable only after [`Disk::sync`].
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Makes what was appended durable.
    fn sync(&mut self) -> io::Result<()>;
    /// Puts other contents in place, durably and as a whole.
    fn replace(&mut self, bytes: &[u8]) -> io::Result<()>;
}

/// A file.
#[derive(Debug)]
pub struct FileDisk {
    path: PathBuf,
    file: File,
}

impl FileDisk {
    /// Opens the file, or makes it; its folder has to be there.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).read(true).open(path)?;
        sync_folder(path)?;
        Ok(Self { path: path.to_owned(), file })
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}

impl Disk for FileDisk {
    fn read(&mut self) -> io::Result<Vec<u8>> {
        fs::read(&self.path)
    }
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }
    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }
    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        let fresh = self.path.with_extension("new");
        let mut file = File::create(&fresh)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&fresh, &self.path)?;
        sync_folder(&self.path)?;
        self.file = OpenOptions::new().append(true).read(true).open(&self.path)?;
        Ok(())
    }
}

/// A disk in memory whose clones are one disk; it can lose what was not synced, as a power cut would.
#[derive(Debug, Clone, Default)]
pub struct MemDisk(Arc<Mutex<Memory>>);

#[derive(Debug, Default)]
struct Memory {
    bytes: Vec<u8>,
    synced: usize,
}

impl MemDisk {
    fn with<T>(&self, act: impl FnOnce(&mut Memory) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Loses what was not synced, but for its first `kept` bytes.
    pub fn crash(&self, kept: usize) {
        self.with(|memory| memory.bytes.truncate(memory.synced + kept));
    }

    /// Changes a byte, as a failing disk would.
    pub fn flip(&self, at: usize) {
        self.with(|memory| memory.bytes[at] ^= 0x40);
    }

    /// Bytes that are there, synced or not.
    pub fn len(&self) -> usize {
        self.with(|memory| memory.bytes.len())
    }

    /// Whether nothing is there.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Disk for MemDisk {
    fn read(&mut self) -> io::Result<Vec<u8>> {
        Ok(self.with(|memory| memory.bytes.clone()))
    }
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.with(|memory| memory.bytes.extend(bytes));
        Ok(())
    }
    fn sync(&mut self) -> io::Result<()> {
        self.with(|memory| memory.synced = memory.bytes.len());
        Ok(())
    }
    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.with(|memory| *memory = Memory { bytes: bytes.to_vec(), synced: bytes.len() });
        Ok(())
    }
}

/// A disk that is written when [`Deferred::commit`] says so: what many records change costs one sync. Clones are one disk.
///
/// To the journal above it all is durable at once. Nothing that follows from a record may leave the process before the
/// commit; where records of one journal follow from those of another, that one is committed first.
#[derive(Debug)]
pub struct Deferred<D>(Arc<Mutex<Held<D>>>);

impl<D> Clone for Deferred<D> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

#[derive(Debug)]
struct Held<D> {
    disk: D,
    /// Contents that take the place of all.
    fresh: Option<Vec<u8>>,
    /// What comes behind.
    tail: Vec<u8>,
    broken: bool,
}

impl<D: Disk> Held<D> {
    fn commit(&mut self) -> io::Result<()> {
        if self.broken {
            return Err(io::Error::other("an earlier write failed"));
        }
        let tail = std::mem::take(&mut self.tail);
        // Should it fail, what reached the disk is unknown; only a new open can tell.
        self.broken = true;
        match self.fresh.take() {
            Some(fresh) => self.disk.replace(&[fresh, tail].concat())?,
            None if tail.is_empty() => {}
            None => self.disk.append(&tail).and_then(|()| self.disk.sync())?,
        }
        self.broken = false;
        Ok(())
    }
}

impl<D: Disk> Deferred<D> {
    /// Puts itself before a disk.
    pub fn new(disk: D) -> Self {
        Self(Arc::new(Mutex::new(Held { disk, fresh: None, tail: Vec::new(), broken: false })))
    }

    fn with<T>(&self, act: impl FnOnce(&mut Held<D>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes everything so far durable. After an error every later call fails too.
    pub fn commit(&self) -> io::Result<()> {
        self.with(Held::commit)
    }
}

impl<D: Disk> Disk for Deferred<D> {
    fn read(&mut self) -> io::Result<Vec<u8>> {
        self.with(|held| held.commit().and_then(|()| held.disk.read()))
    }
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.with(|held| held.tail.extend(bytes));
        Ok(())
    }
    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.with(|held| {
            held.tail.clear();
            held.fresh = Some(bytes.to_vec());
        });
        Ok(())
    }
}

/// A journal of one kind of record.
pub struct Journal<R> {
    disk: Box<dyn Disk>,
    broken: bool,
    record: PhantomData<fn(R)>,
}

impl<R> std::fmt::Debug for Journal<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal").field("broken", &self.broken).finish_non_exhaustive()
    }
}

impl<R: Record> Journal<R> {
    /// Opens a journal and reads its records, oldest first. A torn tail is cut off.
    pub fn open(disk: impl Disk + 'static) -> Result<(Self, Vec<R>), JournalError> {
        let mut disk: Box<dyn Disk> = Box::new(disk);
        let bytes = disk.read()?;
        let (mut records, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            match frame(&bytes[at..]) {
                Frame::Whole(body) => {
                    records.push(record::decode(R::VERSION, body)?);
                    at += FRAME + body.len();
                }
                Frame::Torn => {
                    disk.replace(&bytes[..at])?;
                    break;
                }
                Frame::Damaged => return Err(JournalError::Damaged(at)),
            }
        }
        Ok((Self { disk, broken: false, record: PhantomData }, records))
    }

    /// Adds a record; it is durable when this returns. After an error every later call fails too.
    pub fn append(&mut self, value: &R) -> Result<(), JournalError> {
        let bytes = framed(value)?;
        self.guarded(|disk| disk.append(&bytes).and_then(|()| disk.sync()))
    }

    /// Puts other records in place of all, durably and as a whole.
    pub fn replace(&mut self, values: &[R]) -> Result<(), JournalError> {
        let mut bytes = Vec::new();
        for value in values {
            bytes.extend(framed(value)?);
        }
        self.guarded(|disk| disk.replace(&bytes))
    }

    fn guarded(&mut self, act: impl FnOnce(&mut dyn Disk) -> io::Result<()>) -> Result<(), JournalError> {
        if self.broken {
            return Err(io::Error::other("an earlier write failed").into());
        }
        act(self.disk.as_mut()).map_err(|error| {
            // What reached the disk is unknown now; only a new open can tell.
            self.broken = true;
            error.into()
        })
    }
}

enum Frame<'a> {
    Whole(&'a [u8]),
    Torn,
    Damaged,
}

fn frame(bytes: &[u8]) -> Frame<'_> {
    // A file may grow before its data arrive; then the tail reads as zeros.
    if bytes.len() < FRAME || bytes.iter().all(|byte| *byte == 0) {
        return Frame::Torn;
    }
    let (length, check) = (&bytes[..4], &bytes[4..8]);
    if keccak(length)[..4] != *check {
        return Frame::Damaged;
    }
    let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]) as usize;
    let Some(body) = bytes[FRAME..].get(..length) else { return Frame::Torn };
    if keccak(body)[..8] == bytes[8..FRAME] {
        Frame::Whole(body)
    } else if bytes.len() == FRAME + length {
        Frame::Torn
    } else {
        Frame::Damaged
    }
}

fn framed<R: Record>(value: &R) -> Result<Vec<u8>, RecordError> {
    let body = record::encode(R::VERSION, value)?;
    let length = u32::try_from(body.len()).map_err(|_| RecordError::TooLarge)?.to_le_bytes();
    Ok([&length, &keccak(length)[..4], &keccak(&body)[..8], &body].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Record for u64 {
        const VERSION: u8 = 1;
    }

    fn open(disk: &MemDisk) -> Result<Vec<u64>, JournalError> {
        Journal::<u64>::open(disk.clone()).map(|(_, records)| records)
    }

    #[test]
    fn a_power_cut_at_every_byte_loses_only_the_record_being_written() {
        let disk = MemDisk::default();
        let (mut journal, _) = Journal::open(disk.clone()).expect("empty");
        journal.append(&1_u64).expect("in memory");
        journal.append(&2).expect("in memory");
        let third = framed(&3_u64).expect("small");
        for kept in 0..=third.len() {
            let mut after = MemDisk::default();
            after.replace(&disk.clone().read().expect("in memory")).expect("in memory");
            after.append(&third).expect("in memory");
            after.crash(kept);
            let expected: &[u64] = if kept == third.len() { &[1, 2, 3] } else { &[1, 2] };
            assert_eq!(open(&after).expect("a torn tail is cut"), expected, "kept {kept}");
            let (mut again, _) = Journal::<u64>::open(after.clone()).expect("cut");
            again.append(&9).expect("in memory");
            assert_eq!(open(&after).expect("whole").last(), Some(&9));
        }
    }

    #[test]
    fn damage_before_the_tail_is_refused() {
        let disk = MemDisk::default();
        let (mut journal, _) = Journal::open(disk.clone()).expect("empty");
        for value in 0..3_u64 {
            journal.append(&value).expect("in memory");
        }
        let first = framed(&0_u64).expect("small").len();
        for at in 0..first {
            disk.flip(at);
            assert!(matches!(open(&disk), Err(JournalError::Damaged(0))), "byte {at}");
            disk.flip(at);
        }
        assert_eq!(open(&disk).expect("whole again"), [0, 1, 2]);
    }

    #[test]
    fn deferred_records_are_there_after_a_commit_and_not_before() {
        let disk = MemDisk::default();
        let deferred = Deferred::new(disk.clone());
        let (mut journal, _) = Journal::open(deferred.clone()).expect("empty");
        let committed = |expected: &[u64]| assert_eq!(open(&disk).expect("whole"), expected);
        journal.append(&1_u64).expect("in memory");
        journal.append(&2).expect("in memory");
        committed(&[]);
        deferred.commit().expect("in memory");
        committed(&[1, 2]);
        journal.append(&3).expect("in memory");
        journal.replace(&[7]).expect("in memory");
        journal.append(&8).expect("in memory");
        committed(&[1, 2]);
        disk.crash(0);
        deferred.commit().expect("in memory");
        committed(&[7, 8]);
        assert_eq!(Journal::<u64>::open(deferred).expect("whole").1, [7, 8]);
    }

    #[test]
    fn a_file_keeps_what_was_appended_and_replaced() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("journal");
        let open = || Journal::<u64>::open(FileDisk::open(&path).expect("opens")).expect("whole");
        open().0.append(&1).expect("written");
        let (mut journal, records) = open();
        assert_eq!(records, [1]);
        journal.replace(&[7, 8]).expect("written");
        journal.append(&9).expect("written");
        assert_eq!(open().1, [7, 8, 9]);
    }
}
