//! The second disk store, on redb: one file with a tree for each table, in pure Rust. Smaller and quicker to read than
//! fjall, slower to write; for wallets, edge nodes and small chains.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
};

use ::redb::{Builder, Database, ReadableDatabase, TableDefinition};

use super::{Batch, Rows, Store, StoreError, Table, failed, mark_format, writes};

/// Format of the tables; another one is refused at open.
const FORMAT: &str = "theta-store redb 2";
/// Bytes of pages kept in memory.
const CACHE: usize = 64 << 20;

/// A store in a folder. One process at a time.
#[derive(Clone)]
pub struct RedbStore {
    folder: Arc<str>,
    database: Arc<Database>,
}

impl std::fmt::Debug for RedbStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedbStore").finish_non_exhaustive()
    }
}

const fn definition(table: Table) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
    TableDefinition::new(table.name())
}

impl RedbStore {
    /// Opens the store in `folder`, or makes it. Reads the whole file, since redb looks at its checksums then alone.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let name = mark_format(folder, FORMAT)?;
        let open = || -> Result<Database, ::redb::Error> {
            let mut database = Builder::new().set_cache_size(CACHE).create(folder.join("data.redb"))?;
            // What can be healed is; it then stands at a batch that was whole.
            database.check_integrity()?;
            let batch = database.begin_write()?;
            for table in Table::ALL {
                batch.open_table(definition(table))?;
            }
            batch.commit()?;
            Ok(database)
        };
        // Some damage makes redb 4.6 panic where it should give an error; nothing of it is used then.
        let opened =
            catch_unwind(AssertUnwindSafe(open)).map_err(|_| failed(&name, &"its file is damaged"))?;
        let database = opened.map_err(|error| match error {
            ::redb::Error::DatabaseAlreadyOpen => StoreError::Locked(name.clone()),
            other => failed(&name, &other),
        })?;
        Ok(Self { folder: name.into(), database: Arc::new(database) })
    }

    fn done<T>(&self, result: Result<T, ::redb::Error>) -> Result<T, StoreError> {
        result.map_err(|error| failed(&self.folder, &error))
    }
}

impl Store for RedbStore {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let read = || -> Result<_, ::redb::Error> {
            let rows = self.database.begin_read()?.open_table(definition(table))?;
            Ok(rows.get(key)?.map(|value| value.value().to_vec()))
        };
        self.done(read())
    }

    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Rows, StoreError> {
        let read = || -> Result<_, ::redb::Error> {
            let rows = self.database.begin_read()?.open_table(definition(table))?;
            let from = after.filter(|after| *after >= prefix).unwrap_or(prefix);
            let mut found = Vec::new();
            for row in rows.range::<&[u8]>(from..)? {
                let (key, value) = row?;
                if !key.value().starts_with(prefix) || found.len() == limit {
                    break;
                }
                if Some(key.value()) != after {
                    found.push((key.value().to_vec(), value.value().to_vec()));
                }
            }
            Ok(found)
        };
        self.done(read())
    }

    fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        let write = || -> Result<(), ::redb::Error> {
            // Durable when it returns: that is redb's default.
            let transaction = self.database.begin_write()?;
            let mut by_table: [Vec<_>; Table::ALL.len()] = Default::default();
            for (table, key, value) in writes(batch) {
                by_table[table as usize].push((key, value));
            }
            for (table, rows) in Table::ALL.into_iter().zip(by_table) {
                if rows.is_empty() {
                    continue;
                }
                let mut out = transaction.open_table(definition(table))?;
                for (key, value) in rows {
                    match value {
                        Some(value) => out.insert(key.as_slice(), value.as_slice())?,
                        None => out.remove(key.as_slice())?,
                    };
                }
            }
            Ok(transaction.commit()?)
        };
        self.done(write())
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::check_disk_store, *};

    #[test]
    fn it_is_a_store_and_keeps_what_was_committed() {
        check_disk_store(&|folder| RedbStore::open(folder).map(|store| Box::new(store) as Box<dyn Store>));
    }
}
