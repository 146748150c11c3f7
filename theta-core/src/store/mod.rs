//! The storage port: an ordered key-value store with named tables and atomic, durable batches.
//!
//! [`MemStore`] ships for tests and for chains that need no disk; feature `fjall` brings [`FjallStore`]. All pass one
//! suite, [`check_store`].

#[cfg(feature = "fjall")]
mod fjall;
mod memory;

#[cfg(feature = "fjall")]
pub use self::fjall::FjallStore;
pub use self::memory::MemStore;

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
    #[error("{folder} has store format {found}, this program reads {expected}")]
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

    let mut batch = Batch::default();
    batch.put(Table::Meta, "a", "first");
    batch.put(Table::Meta, "a", "second");
    batch.delete(Table::Meta, "b");
    batch.delete(Table::Meta, "missing");
    store.commit(batch).expect("written");
    assert_eq!(get(b"a").as_deref(), Some(b"second".as_slice()));
    assert_eq!(get(b"b"), None);
    store.commit(Batch::default()).expect("an empty batch is allowed");
}

/// The writes of a batch, for the backends.
pub(crate) fn writes(batch: Batch) -> Vec<(Table, Vec<u8>, Option<Vec<u8>>)> {
    batch.writes
}
