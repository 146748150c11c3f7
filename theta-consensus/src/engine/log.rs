//! What goes into the write-ahead log, and what of it still matters.

use std::sync::Arc;

use theta_core::{block::Block, hash::Hash};

use super::{Effect, Engine};
use crate::wal::{WalRecord, WalVote};

/// The log is rewritten after so many records, or so many bytes of transactions in them.
const WAL_RECORDS: u32 = 256;
const WAL_BYTES: usize = 32 * 1024 * 1024;

impl Engine {
    pub(super) fn append(&mut self, record: WalRecord, out: &mut Vec<Effect>) {
        let blocks = record.blocks.iter().chain(&record.proposal);
        self.wal_bytes += blocks.flat_map(|block| &block.transactions).map(Vec::len).sum::<usize>();
        self.wal_records += 1;
        out.push(Effect::Append(record));
    }

    /// The blocks up to this one that the log does not have; from now on it has.
    pub(super) fn unlogged(&mut self, hash: &Hash) -> Vec<Block> {
        let mut blocks = Vec::new();
        for hash in self.tree.path(hash) {
            if let Some(node) = self.tree.node_mut(&hash)
                && !node.logged
            {
                node.logged = true;
                blocks.push(node.block.as_ref().clone());
            }
        }
        blocks
    }

    /// All of the log that still matters.
    pub(super) fn remembered(&self) -> WalRecord {
        let mut blocks: Vec<&Arc<Block>> =
            self.tree.nodes().filter(|(_, node)| node.logged).map(|(_, node)| &node.block).collect();
        blocks.sort_by_key(|block| block.header.height);
        WalRecord {
            blocks: blocks.into_iter().map(|block| block.as_ref().clone()).collect(),
            lock: Some(self.lock.certificate.clone()),
            vote: self.last_vote.map(|last| WalVote {
                block: last.block,
                height: last.height,
                epoch: last.epoch,
            }),
            proposal: self.proposal.clone(),
            checkpoint: self.final_checkpoint,
        }
    }

    /// Writes the log anew once it is long.
    pub(super) fn trim_log(&mut self, out: &mut Vec<Effect>) {
        if self.wal_records >= WAL_RECORDS || self.wal_bytes >= WAL_BYTES {
            let record = self.remembered();
            self.wal_records = 1;
            self.wal_bytes = 0;
            out.push(Effect::Rewrite(record));
        }
    }
}
