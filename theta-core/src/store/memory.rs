//! A store in memory.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{PoisonError, RwLock},
};

use super::{Batch, Rows, Store, StoreError, Table, writes};

/// Trie nodes are asked for by hash, by the million and in no order, which a tree of keys is slow at. The map's own order is
/// never seen: a scan sorts.
type Nodes = alloy_primitives::map::HashMap<Vec<u8>, Vec<u8>>;

#[derive(Debug, Default)]
struct Kept {
    nodes: Nodes,
    /// The other tables, by [`Table`]'s number.
    rows: [BTreeMap<Vec<u8>, Vec<u8>>; Table::ALL.len()],
}

/// Keeps everything in memory; for tests, wallets and chains that need no disk.
#[derive(Debug, Default)]
pub struct MemStore {
    kept: RwLock<Kept>,
}

impl Store for MemStore {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        // A panic elsewhere cannot leave a map half written: inserts are whole.
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        let found = match table {
            Table::Nodes => kept.nodes.get(key),
            _ => kept.rows[table as usize].get(key),
        };
        Ok(found.cloned())
    }

    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Rows, StoreError> {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        if table == Table::Nodes {
            let wanted = |key: &[u8]| key.starts_with(prefix) && after.is_none_or(|after| key > after);
            let mut found: Vec<_> = kept.nodes.iter().filter(|(key, _)| wanted(key)).collect();
            found.sort_unstable();
            return Ok(found
                .into_iter()
                .take(limit)
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect());
        }
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        Ok(kept.rows[table as usize]
            .range::<[u8], _>((start, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .take(limit)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect())
    }

    fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        for (table, key, value) in writes(batch) {
            match (table, value) {
                (Table::Nodes, Some(value)) => kept.nodes.insert(key, value),
                (Table::Nodes, None) => kept.nodes.remove(&key),
                (_, Some(value)) => kept.rows[table as usize].insert(key, value),
                (_, None) => kept.rows[table as usize].remove(&key),
            };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_store() {
        super::super::check_store(&MemStore::default());
    }
}
