//! The default disk store, on fjall: a log-structured store in pure Rust.

use std::{path::Path, sync::Arc};

use fjall::{
    Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable,
    config::{CompressionPolicy, HashRatioPolicy, PinningPolicy},
};

use super::{Batch, Rows, Store, StoreError, Table, failed, mark_format, writes};

/// Bytes of blocks of the files that are kept in memory.
const CACHE: u64 = 64 << 20;

/// Bytes of journals on disk. Where there are more, tables whose newest rows are in the oldest one alone are written out.
const JOURNALS: u64 = 128 << 20;

/// Threads that write files and merge them. With two, fjall 3.1 keeps one free for writing, which turns round as fast as it
/// can for as long as the other merges.
const WORKERS: usize = 3;

/// Format of the tables; another one is refused at open.
const FORMAT: &str = "theta-store 2";

/// A store in a folder. One process at a time.
#[derive(Clone)]
pub struct FjallStore {
    folder: Arc<str>,
    database: Database,
    tables: Vec<Keyspace>,
}

impl std::fmt::Debug for FjallStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FjallStore").finish_non_exhaustive()
    }
}

/// How a table lies on disk.
fn options(table: Table) -> KeyspaceCreateOptions {
    let options = KeyspaceCreateOptions::default();
    match table {
        // Hashes of hashes: they do not shrink, and whoever asks for a node knows that it is there.
        Table::Nodes => options
            .data_block_compression_policy(CompressionPolicy::disabled())
            .filter_block_pinning_policy(PinningPolicy::all(true))
            .index_block_pinning_policy(PinningPolicy::all(true))
            .expect_point_read_hits(true)
            // A bucket for each row and half a one more: nearly every look-up goes to its row at once.
            .data_block_hash_ratio_policy(HashRatioPolicy::all(1.5))
            // Every read looks there first, and a small list is searched in the processor's own caches.
            .max_memtable_size(16 << 20),
        // What is not in a file yet also keeps the journals of all tables from being deleted.
        _ => options.max_memtable_size(4 << 20),
    }
}

impl FjallStore {
    /// Opens the store in `folder`, or makes it.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let name = mark_format(folder, FORMAT)?;
        // Some damage to its journal makes fjall 3.1 panic where it should give an error.
        let open = || {
            let builder = Database::builder(folder.join("data"));
            builder.cache_size(CACHE).worker_threads(WORKERS).max_journaling_size(JOURNALS).open()
        };
        let opened = std::panic::catch_unwind(open).map_err(|_| failed(&name, &"its journal is damaged"))?;
        let database = opened.map_err(|error| match error {
            fjall::Error::Locked => StoreError::Locked(name.clone()),
            other => failed(&name, &other),
        })?;
        let open = |table: &Table| database.keyspace(table.name(), || options(*table));
        let tables = Table::ALL.iter().map(open).collect::<Result<_, _>>();
        let tables = tables.map_err(|error| failed(&name, &error))?;
        Ok(Self { folder: name.into(), database, tables })
    }

    fn failed(&self, error: fjall::Error) -> StoreError {
        failed(&self.folder, &error)
    }

    fn table(&self, table: Table) -> &Keyspace {
        &self.tables[table as usize]
    }
}

impl Store for FjallStore {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let found = match table {
            // The same under its hash whenever it is read.
            Table::Nodes => self.table(table).get(key),
            // Without a snapshot fjall shows a batch half written.
            _ => self.database.snapshot().get(self.table(table), key),
        };
        Ok(found.map_err(|error| self.failed(error))?.map(|value| value.to_vec()))
    }

    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Rows, StoreError> {
        let mut rows = Vec::new();
        let from = after.filter(|after| *after >= prefix).unwrap_or(prefix);
        for row in self.database.snapshot().range(self.table(table), from..) {
            let (key, value) = row.into_inner().map_err(|error| self.failed(error))?;
            if !key.starts_with(prefix) || rows.len() == limit {
                break;
            }
            if Some(&*key) != after {
                rows.push((key.to_vec(), value.to_vec()));
            }
        }
        Ok(rows)
    }

    fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        let mut out = self.database.batch().durability(Some(PersistMode::SyncData));
        // In order, neighbours are inserted beside each other; the later of two with one key stays the later.
        let mut writes = writes(batch);
        writes.sort_by(|(a, key, _), (b, other, _)| (a, key).cmp(&(b, other)));
        for (table, key, value) in writes {
            match value {
                Some(value) => out.insert(self.table(table), key, value),
                None => out.remove(self.table(table), key),
            }
        }
        out.commit().map_err(|error| self.failed(error))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::check_disk_store, *};

    #[test]
    fn it_is_a_store_and_keeps_what_was_committed() {
        check_disk_store(&|folder| FjallStore::open(folder).map(|store| Box::new(store) as Box<dyn Store>));
    }
}
