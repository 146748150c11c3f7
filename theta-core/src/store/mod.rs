//! The storage port: an ordered key-value store with named tables and atomic, durable batches.
//!
//! [`MemStore`] ships for tests and for chains that need no disk; feature `fjall` brings [`FjallStore`], the default on
//! disk, feature `redb` brings `RedbStore`. All pass one suite, [`check_store`].

#[cfg(feature = "fjall")]
mod fjall;
mod memory;
#[cfg(feature = "redb")]
mod redb;

#[cfg(feature = "fjall")]
pub use self::fjall::FjallStore;
pub use self::memory::MemStore;
#[cfg(feature = "redb")]
pub use self::redb::RedbStore;

/// Why a store failed. Says nothing about the data asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Reading or writing failed; the text is the backend's.
    #[error("store failed: {0}")]
    Backend(String),
    /// A store on disk could not be opened, read or written.
    #[error(
        "the store in {folder} failed: {what}; check the disk, and if the files are damaged restore the folder from a \
         backup or remove it and synchronise again"
    )]
    Disk {
        /// The folder.
        folder: String,
        /// What failed.
        what: String,
    },
    /// Another process uses the folder.
    #[error("{0} is used by another process; stop it or name another folder")]
    Locked(String),
    /// Written by another version of the program.
    #[error(
        "{folder} has store format {found}, this program reads {expected}: use the program that wrote it, or if its file is damaged restore the folder from a copy"
    )]
    Format {
        /// The folder.
        folder: String,
        /// What it says.
        found: String,
        /// What is read.
        expected: String,
    },
}

/// The tables of a node's store; each is its own key space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// Trie nodes by hash.
    Nodes,
    /// At how many places kept states have a node, big-endian; rows for more than one only, and where states go away.
    Counts,
    /// Hashes of nodes whose places a settled block took away, by height, big-endian; where states go away.
    Gone,
    /// Blocks by hash.
    Blocks,
    /// Hashes of settled blocks by height, big-endian.
    Heights,
    /// Places of transactions by hash.
    Transactions,
    /// Receipts by transaction hash.
    Receipts,
    /// Bloom and places of a settled block's logs by height, big-endian; blocks without logs have none.
    Logs,
    /// Empty rows by address or topic of a log, with the height of its block behind it, big-endian.
    LogWords,
    /// Marks of the node itself.
    Meta,
}

impl Table {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Nodes,
        Self::Counts,
        Self::Gone,
        Self::Blocks,
        Self::Heights,
        Self::Transactions,
        Self::Receipts,
        Self::Logs,
        Self::LogWords,
        Self::Meta,
    ];

    /// Its name on disk.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nodes => "nodes",
            Self::Counts => "node_counts",
            Self::Gone => "gone_nodes",
            Self::Blocks => "blocks",
            Self::Heights => "heights",
            Self::Transactions => "transactions",
            Self::Receipts => "receipts",
            Self::Logs => "logs",
            Self::LogWords => "log_words",
            Self::Meta => "meta",
        }
    }
}

/// Writes that happen together or not at all; a later one of the same key wins.
#[derive(Debug, Default)]
pub struct Batch {
    writes: Vec<(Table, Vec<u8>, Option<Vec<u8>>)>,
}

impl Batch {
    /// Sets a value.
    pub fn put(&mut self, table: Table, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.writes.push((table, key.into(), Some(value.into())));
    }

    /// Removes a key.
    pub fn delete(&mut self, table: Table, key: impl Into<Vec<u8>>) {
        self.writes.push((table, key.into(), None));
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }
}

/// Rows of a scan: keys and values, ascending.
pub type Rows = Vec<(Vec<u8>, Vec<u8>)>;

/// An ordered key-value store; the only storage the ledger knows.
pub trait Store: Send + Sync {
    /// Reads one key.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;
    /// Reads rows whose keys begin with `prefix`, ascending, behind `after` where given, `limit` at most.
    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Rows, StoreError>;
    /// Applies every write durably, or none of them. When it returns, the batch survives a power cut.
    fn commit(&self, batch: Batch) -> Result<(), StoreError>;
}

/// What every store has to do; run by the tests of each.
///
/// # Panics
/// Where the store does something else.
pub fn check_store(store: &dyn Store) {
    let get = |key: &[u8]| store.get(Table::Meta, key).expect("readable");
    let mut batch = Batch::default();
    for key in ["a", "ab", "b", "ba", "c"] {
        batch.put(Table::Meta, key, [key.as_bytes(), b"!"].concat());
        batch.put(Table::Nodes, [key, "z"].concat(), key);
    }
    batch.put(Table::Blocks, "a", "other table");
    batch.put(Table::Meta, "empty", "");
    store.commit(batch).expect("written");
    assert_eq!(get(b"ab").as_deref(), Some(b"ab!".as_slice()));
    assert_eq!(get(b"empty").as_deref(), Some(b"".as_slice()));
    assert_eq!(get(b"missing"), None);
    assert_eq!(store.get(Table::Blocks, b"a").expect("readable").as_deref(), Some(b"other table".as_slice()));

    let keys = |prefix: &[u8], after: Option<&[u8]>, limit| {
        let rows = store.scan(Table::Meta, prefix, after, limit).expect("readable");
        rows.into_iter().map(|(key, _)| String::from_utf8(key).expect("text")).collect::<Vec<_>>()
    };
    assert_eq!(keys(b"", None, 10), ["a", "ab", "b", "ba", "c", "empty"]);
    assert_eq!(keys(b"a", None, 10), ["a", "ab"]);
    assert_eq!(keys(b"", Some(b"ab"), 2), ["b", "ba"]);
    assert_eq!(keys(b"b", Some(b"ba"), 2), Vec::<String>::new());
    assert_eq!(keys(b"b", Some(b"a"), 9), ["b", "ba"]);

    let nodes = |prefix: &[u8], after: Option<&[u8]>, limit| {
        let rows = store.scan(Table::Nodes, prefix, after, limit).expect("readable");
        rows.into_iter().map(|(_, value)| String::from_utf8(value).expect("text")).collect::<Vec<_>>()
    };
    assert_eq!(nodes(b"", None, 4), ["ab", "a", "ba", "b"]);
    assert_eq!(nodes(b"a", Some(b"abz"), 4), ["a"]);

    let mut batch = Batch::default();
    batch.put(Table::Meta, "a", "first");
    batch.put(Table::Meta, "a", "second");
    batch.delete(Table::Meta, "b");
    batch.delete(Table::Meta, "missing");
    store.commit(batch).expect("written");
    assert_eq!(get(b"a").as_deref(), Some(b"second".as_slice()));
    assert_eq!(get(b"b"), None);
    store.commit(Batch::default()).expect("an empty batch is allowed");

    // The last write of a key counts, whichever kind it is.
    let mut batch = Batch::default();
    batch.put(Table::Meta, "a", "third");
    batch.delete(Table::Meta, "a");
    batch.delete(Table::Meta, "c");
    batch.put(Table::Meta, "c", "again");
    store.commit(batch).expect("written");
    assert_eq!((get(b"a"), get(b"c").as_deref()), (None, Some(b"again".as_slice())));
    assert_eq!(keys(b"", None, 0), Vec::<String>::new());
    assert_eq!(keys(b"", None, 1), ["ab"]);
    assert_eq!(keys(b"", Some(b"a"), 2), ["ab", "ba"], "what lies behind a key that is not there");
    assert_eq!(keys(b"b", Some(b"c"), 9), Vec::<String>::new());
    check_values(store);
    check_readers(store);
}

/// One key in every table, and values of every size.
fn check_values(store: &dyn Store) {
    let value = |table: Table, key: usize| vec![table as u8; key * key * 100 + key];
    let mut batch = Batch::default();
    for table in Table::ALL {
        for key in 0..30 {
            batch.put(table, [0xff, key as u8], value(table, key));
        }
    }
    batch.put(Table::Blocks, [0xff; 70], vec![7; 9 << 20]);
    store.commit(batch).expect("written");
    for table in Table::ALL {
        let rows = store.scan(table, &[0xff], None, 30).expect("readable");
        assert_eq!(rows.len(), 30);
        for (key, row) in rows.into_iter().enumerate() {
            assert_eq!(row, (vec![0xff, key as u8], value(table, key)), "{}", table.name());
        }
    }
    let long = store.get(Table::Blocks, &[0xff; 70]).expect("readable");
    assert!(long.is_some_and(|value| value == vec![7; 9 << 20]));
}

/// Whoever reads while batches are written sees each of them whole or not at all.
fn check_readers(store: &dyn Store) {
    const ROUNDS: u32 = 25;
    let get = |table| {
        let value = store.get(table, b"\xfe7").expect("readable");
        value.map_or(0, |value| u32::from_be_bytes(value.try_into().expect("a round")))
    };
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut last = 0;
                while last < ROUNDS {
                    let rows = store.scan(Table::Logs, b"\xfe", None, 100).expect("readable");
                    assert!(rows.windows(2).all(|pair| pair[0].1 == pair[1].1), "half a batch");
                    assert!(matches!(rows.len(), 0 | 20));
                    let (first, second) = (get(Table::Logs), get(Table::Meta));
                    assert!(last <= first && first <= second, "what was seen is gone");
                    last = first;
                }
            });
        }
        for round in 1..=ROUNDS {
            let mut batch = Batch::default();
            for key in b'0'..b'0' + 20 {
                batch.put(Table::Logs, [0xfe, key], round.to_be_bytes());
            }
            batch.put(Table::Meta, b"\xfe7", round.to_be_bytes());
            store.commit(batch).expect("written");
        }
    });
}

/// Makes a store's folder, or refuses one of another format; gives its name.
#[cfg(any(feature = "fjall", feature = "redb"))]
fn mark_format(folder: &std::path::Path, format: &str) -> Result<String, StoreError> {
    let name = folder.display().to_string();
    let io = |error: std::io::Error| failed(&name, &error);
    std::fs::create_dir_all(folder).map_err(io)?;
    let mark = folder.join("format");
    match std::fs::read_to_string(&mark) {
        Ok(found) if found.trim() == format => {}
        Ok(found) => {
            let (found, expected) = (found.trim().to_owned(), format.to_owned());
            return Err(StoreError::Format { folder: name, found, expected });
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            std::fs::write(&mark, format).map_err(io)?;
        }
        Err(error) => return Err(io(error)),
    }
    Ok(name)
}

#[cfg(any(feature = "fjall", feature = "redb"))]
fn failed(folder: &str, error: &dyn std::fmt::Display) -> StoreError {
    StoreError::Disk { folder: folder.to_owned(), what: error.to_string() }
}

/// The writes of a batch, for the backends.
pub(crate) fn writes(batch: Batch) -> Vec<(Table, Vec<u8>, Option<Vec<u8>>)> {
    batch.writes
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{
        fs,
        path::{Path, PathBuf},
    };

    use super::*;

    type Open<'a> = &'a dyn Fn(&Path) -> Result<Box<dyn Store>, StoreError>;

    /// What every store on disk has to do besides.
    pub(crate) fn check_disk_store(open: Open<'_>) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        {
            let store = open(folder.path()).expect("opens");
            check_store(store.as_ref());
            let again = open(folder.path()).err();
            assert!(matches!(again, Some(StoreError::Locked(name)) if folder.path().ends_with(&name)));
        }
        let store = open(folder.path()).expect("opens again");
        assert_eq!(store.get(Table::Meta, b"c").expect("readable").as_deref(), Some(b"again".as_slice()));
        assert_eq!(store.get(Table::Meta, b"a").expect("readable"), None);
        assert_eq!(store.scan(Table::Gone, &[0xff], None, 99).expect("readable").len(), 30);
        drop(store);
        fs::write(folder.path().join("format"), "theta-store 1").expect("written");
        assert!(
            matches!(open(folder.path()).err(), Some(StoreError::Format { found, .. }) if found == "theta-store 1")
        );
        check_damage(open);
    }

    fn files(folder: &Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("readable").path();
            if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
        }
        found.sort();
        found
    }

    fn copy(from: &Path, to: &Path) {
        for file in files(from) {
            let to = to.join(file.strip_prefix(from).expect("below it"));
            fs::create_dir_all(to.parent().expect("below a folder")).expect("made");
            fs::copy(file, to).expect("copied");
        }
    }

    /// A file that is cut or has a wrong byte is healed, to an earlier batch at worst, or refused. No value is ever wrong.
    fn check_damage(open: Open<'_>) {
        let key = |round: u32, key: u32| [round.to_be_bytes(), key.to_be_bytes()].concat();
        let value = |round: u32, key: u32| [round, key].map(|word| word.to_le_bytes()).concat().repeat(20);
        let good = tempfile::tempdir().expect("a temporary folder");
        {
            let store = open(good.path()).expect("opens");
            for round in 0..8 {
                let mut batch = Batch::default();
                (0..20).for_each(|index| batch.put(Table::Nodes, key(round, index), value(round, index)));
                store.commit(batch).expect("written");
            }
        }
        let (mut refused, mut seed) = (0, 1_u64);
        for round in 0..40 {
            let folder = tempfile::tempdir().expect("a temporary folder");
            copy(good.path(), folder.path());
            let files = files(folder.path());
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let victim = &files[round % files.len()];
            let mut bytes = fs::read(victim).expect("readable");
            // The end of what was written: some files are longer than that.
            let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            if used == 0 {
                continue;
            }
            let at = (seed >> 33) as usize % used;
            if round % 3 == 0 {
                bytes.truncate(at);
            } else {
                bytes[at] ^= 1 << (seed >> 61);
            }
            fs::write(victim, bytes).expect("written");
            let what = format!("{} damaged at {at}", victim.display());
            let opened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let store = open(folder.path())?;
                store.scan(Table::Nodes, &[], None, usize::MAX)
            }));
            let rows = match opened.unwrap_or_else(|_| panic!("{what}: a panic")) {
                Ok(rows) => rows,
                Err(StoreError::Disk { folder: named, .. } | StoreError::Format { folder: named, .. }) => {
                    assert!(folder.path().ends_with(named));
                    refused += 1;
                    continue;
                }
                Err(error) => panic!("{what}: {error}"),
            };
            assert_eq!(rows.len() % 20, 0, "{what}: half a batch");
            for (place, row) in (0..).zip(rows) {
                let (round, index) = (place / 20, place % 20);
                assert_eq!(row, (key(round, index), value(round, index)), "{what}");
            }
        }
        assert!(refused > 0, "damage is noticed");
    }
}
