//! Logs of settled blocks, and how they are found.
//!
//! For every address and every topic at its position the store has one row for each block that holds it, by height. A
//! search walks these rows of all parts of a filter side by side and leaps over heights that one of them lacks, so it
//! costs what the rarest part costs, however many blocks lie between. Aggregated blooms would cost a part of the chain's
//! length instead, and fill up where contracts are busy. A block's own bloom is Ethereum's and serves those who ask for it.

use std::collections::{BTreeSet, VecDeque};

use theta_core::{
    hash::{Address, Hash, keccak},
    rlp_list,
    store::{Batch, Store, Table},
};

use crate::{
    chain::{self, ContractResult},
    state::StateError,
    vm::Log,
};

/// Rows read at once.
const CHUNK: usize = 64;

/// Ethereum's filter of 2048 bits: what is not in it is not in the logs (yellow paper 4.3.1, M3:2048).
pub type Bloom = [u8; 256];

/// The bloom of addresses and topics of logs.
pub fn bloom<'a>(logs: impl IntoIterator<Item = &'a Log>) -> Bloom {
    let mut bloom = [0; 256];
    for log in logs {
        add(&mut bloom, log.address.as_slice());
        log.topics.iter().for_each(|topic| add(&mut bloom, topic.as_slice()));
    }
    bloom
}

fn add(bloom: &mut Bloom, word: &[u8]) {
    for pair in keccak(word).chunks_exact(2).take(3) {
        let bit = usize::from(u16::from_be_bytes([pair[0], pair[1]]) & 0x7ff);
        bloom[255 - bit / 8] |= 1 << (bit % 8);
    }
}

/// Which logs are looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogFilter {
    /// Lowest height.
    pub from: u64,
    /// Highest height.
    pub to: u64,
    /// Any of these contracts; of any contract where it is empty.
    pub addresses: Vec<Address>,
    /// For each position any of its topics, or any topic at all where it has none. A log with fewer topics than there are
    /// positions does not match.
    pub topics: Vec<Vec<Hash>>,
}

impl LogFilter {
    /// Whether a log of a block within the heights is one of those looked for.
    pub fn matches(&self, log: &Log) -> bool {
        (self.addresses.is_empty() || self.addresses.contains(&log.address))
            && self.topics.len() <= log.topics.len()
            && self.topics.iter().zip(&log.topics).all(|(any, topic)| any.is_empty() || any.contains(topic))
    }
}

/// A log and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundLog {
    /// The log.
    pub log: Log,
    /// Its block.
    pub block: Hash,
    /// The block's height.
    pub height: u64,
    /// Native hash of its transaction.
    pub transaction: Hash,
    /// The hash by which an Ethereum wallet that signed the transaction knows it.
    pub ethereum: Option<Hash>,
    /// The transaction's position in the block.
    pub transaction_index: u64,
    /// Position among all logs of the block.
    pub log_index: u64,
}

/// A block's row; blocks without logs have none.
struct BlockLogs {
    bloom: Vec<u8>,
    transactions: Vec<Logged>,
}

/// A transaction that left logs.
#[derive(Debug)]
struct Logged {
    hash: Hash,
    /// Zero where no Ethereum wallet signed it.
    ethereum: Hash,
    index: u64,
    logs: u64,
}

rlp_list!(BlockLogs { bloom, transactions });
rlp_list!(Logged { hash, ethereum, index, logs });

/// Key of a word without the height: 0 for addresses, 1 and more for topics by position.
fn word(kind: u8, word: &[u8]) -> Vec<u8> {
    [&[kind], word].concat()
}

fn address_word(address: &Address) -> Vec<u8> {
    word(0, address.as_slice())
}

fn topic_word(position: usize, topic: &Hash) -> Vec<u8> {
    // A log has four topics at most.
    word(u8::try_from(position + 1).unwrap_or(u8::MAX), topic.as_slice())
}

/// Adds a block's rows to a batch. `places` gives position and Ethereum hash of a transaction.
pub(crate) fn put(
    batch: &mut Batch,
    height: u64,
    results: &[ContractResult],
    places: impl Fn(&Hash) -> (u64, Option<Hash>),
) {
    let logs = || results.iter().flat_map(|result| &result.receipt.logs);
    let mut words = BTreeSet::new();
    for log in logs() {
        words.insert(address_word(&log.address));
        words.extend(log.topics.iter().enumerate().map(|(position, topic)| topic_word(position, topic)));
    }
    if words.is_empty() {
        return;
    }
    for word in words {
        batch.put(Table::LogWords, [word.as_slice(), &height.to_be_bytes()].concat(), []);
    }
    let logged = results.iter().map(|result| &result.receipt).filter(|receipt| !receipt.logs.is_empty());
    let transactions = logged
        .map(|receipt| {
            let (index, ethereum) = places(&receipt.hash);
            let logs = receipt.logs.len() as u64;
            Logged { hash: receipt.hash, ethereum: ethereum.unwrap_or_default(), index, logs }
        })
        .collect();
    let row = BlockLogs { bloom: bloom(logs()).to_vec(), transactions };
    batch.put(Table::Logs, height.to_be_bytes(), theta_core::codec::rlp::Encode::to_rlp(&row));
}

/// The bloom of a settled block.
pub(crate) fn bloom_at(store: &dyn Store, height: u64) -> Result<Bloom, StateError> {
    let row: Option<BlockLogs> = chain::read(store, Table::Logs, &height.to_be_bytes())?;
    Ok(row.and_then(|row| row.bloom.try_into().ok()).unwrap_or([0; 256]))
}

/// Heights in the rows of one word, or of all blocks with logs.
struct Heights<'a> {
    store: &'a dyn Store,
    table: Table,
    word: Vec<u8>,
    ahead: VecDeque<u64>,
    /// Nothing lies behind what was read.
    ended: bool,
}

impl<'a> Heights<'a> {
    const fn new(store: &'a dyn Store, table: Table, word: Vec<u8>) -> Self {
        Self { store, table, word, ahead: VecDeque::new(), ended: false }
    }

    /// The lowest height from `height` on; heights are asked for in ascending order.
    fn seek(&mut self, height: u64) -> Result<Option<u64>, StateError> {
        while self.ahead.front().is_some_and(|next| *next < height) {
            self.ahead.pop_front();
        }
        if self.ahead.is_empty() && !self.ended {
            let below = height.checked_sub(1).map(|below| [&self.word[..], &below.to_be_bytes()].concat());
            let rows = self.store.scan(self.table, &self.word, below.as_deref(), CHUNK)?;
            self.ended = rows.len() < CHUNK;
            let height = |key: &[u8]| key[self.word.len()..].try_into().ok().map(u64::from_be_bytes);
            self.ahead.extend(rows.iter().filter_map(|(key, _)| height(key)));
        }
        Ok(self.ahead.front().copied())
    }
}

/// The lowest height from `height` on at which one of several words occurs.
fn seek_any(words: &mut [Heights<'_>], height: u64) -> Result<Option<u64>, StateError> {
    let mut lowest = None;
    for word in words {
        let found = word.seek(height)?;
        lowest = lowest.min(found).or(lowest).or(found);
    }
    Ok(lowest)
}

/// Logs of the blocks up to `settled`, in the chain's order, `limit` at most.
pub(crate) fn search(
    store: &dyn Store,
    settled: u64,
    filter: &LogFilter,
    limit: usize,
) -> Result<Vec<FoundLog>, StateError> {
    let words = |words: Vec<Vec<u8>>| -> Vec<Heights<'_>> {
        words.into_iter().map(|word| Heights::new(store, Table::LogWords, word)).collect()
    };
    let mut parts = vec![words(filter.addresses.iter().map(address_word).collect())];
    for (position, any) in filter.topics.iter().enumerate() {
        parts.push(words(any.iter().map(|topic| topic_word(position, topic)).collect()));
    }
    parts.retain(|part| !part.is_empty());
    if parts.is_empty() {
        parts.push(vec![Heights::new(store, Table::Logs, Vec::new())]);
    }
    let to = filter.to.min(settled);
    let mut found = Vec::new();
    let mut height = filter.from;
    while height <= to && found.len() < limit {
        let mut agreed = height;
        for part in &mut parts {
            match seek_any(part, agreed)? {
                Some(next) => agreed = next,
                None => return Ok(found),
            }
        }
        if agreed > height {
            // A part before the one that leapt may lack this height.
            height = agreed;
            if parts.len() > 1 {
                continue;
            }
        }
        if height <= to {
            collect(store, height, filter, limit, &mut found)?;
        }
        height += 1;
    }
    Ok(found)
}

fn collect(
    store: &dyn Store,
    height: u64,
    filter: &LogFilter,
    limit: usize,
    found: &mut Vec<FoundLog>,
) -> Result<(), StateError> {
    let unknown = || StateError::UnknownBlock(format!("of height {height}"));
    let row: BlockLogs = chain::read(store, Table::Logs, &height.to_be_bytes())?.ok_or_else(unknown)?;
    let block = chain::hash_of_height(store, height)?.ok_or_else(unknown)?;
    let mut first = 0;
    for Logged { hash, ethereum, index, logs } in row.transactions {
        let result = chain::result(store, &hash)?;
        let receipt = result.ok_or_else(|| StateError::UnknownBlock(format!("{hash} of a receipt")))?.receipt;
        for (log_index, log) in (first..).zip(receipt.logs) {
            if found.len() < limit && filter.matches(&log) {
                found.push(FoundLog {
                    log,
                    block,
                    height,
                    transaction: hash,
                    ethereum: Some(ethereum).filter(|ethereum| !ethereum.is_zero()),
                    transaction_index: index,
                    log_index,
                });
            }
        }
        first += logs;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use proptest::{collection::vec, prelude::*};
    use theta_core::store::{MemStore, Rows, StoreError};

    use super::*;
    use crate::chain::Receipt;

    fn address(index: u8) -> Address {
        Address::repeat_byte(index)
    }

    fn topic(index: u8) -> Hash {
        Hash::repeat_byte(index)
    }

    fn log(contract: u8, topics: &[u8]) -> Log {
        Log {
            address: address(contract),
            topics: topics.iter().copied().map(topic).collect(),
            data: vec![contract],
        }
    }

    fn transaction(height: u64, index: u64) -> Hash {
        keccak([height.to_be_bytes(), index.to_be_bytes()].concat())
    }

    /// Writes a block whose transactions left these logs.
    fn settle(store: &dyn Store, height: u64, logs: Vec<Vec<Log>>) {
        let mut batch = Batch::default();
        batch.put(Table::Heights, height.to_be_bytes(), keccak(height.to_be_bytes()).as_slice());
        let result = |(index, logs)| ContractResult {
            receipt: Receipt {
                hash: transaction(height, index),
                logs,
                output: Vec::new(),
                contract: Address::ZERO,
                gas_used: 0,
                error: String::new(),
            },
            balance_changes: Vec::new(),
        };
        let results: Vec<_> = (0..).zip(logs).map(result).collect();
        for result in &results {
            let row = theta_core::codec::rlp::Encode::to_rlp(result);
            batch.put(Table::Receipts, result.receipt.hash.as_slice(), row);
        }
        let hashes: Vec<_> = results.iter().map(|result| result.receipt.hash).collect();
        put(&mut batch, height, &results, |hash| {
            let index = hashes.iter().position(|known| known == hash).expect("one of them");
            (index as u64 + 1, (index % 2 == 1).then(|| keccak(hash)))
        });
        store.commit(batch).expect("in memory");
    }

    /// Counts what is asked of a store.
    #[derive(Default)]
    struct Counting {
        store: MemStore,
        reads: AtomicUsize,
    }

    impl Store for Counting {
        fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
            self.reads.fetch_add(1, Ordering::Relaxed);
            self.store.get(table, key)
        }
        fn scan(
            &self,
            table: Table,
            prefix: &[u8],
            after: Option<&[u8]>,
            limit: usize,
        ) -> Result<Rows, StoreError> {
            self.reads.fetch_add(1, Ordering::Relaxed);
            self.store.scan(table, prefix, after, limit)
        }
        fn commit(&self, batch: Batch) -> Result<(), StoreError> {
            self.store.commit(batch)
        }
    }

    fn heights(found: &[FoundLog]) -> Vec<u64> {
        found.iter().map(|found| found.height).collect()
    }

    #[test]
    fn ten_thousand_blocks_cost_what_matches() {
        let store = Counting::default();
        for height in 1..=10_000 {
            // One contract in every block, another with the same topic in every other, the rarest once in 2,500.
            let mut logs = vec![log(1, &[1, 2])];
            logs.extend((height % 2 == 0).then(|| log(2, &[3])));
            logs.extend((height % 2_500 == 0).then(|| log(3, &[1, 9])));
            settle(&store, height, vec![logs]);
        }
        let ask = |addresses: &[u8], topics: &[&[u8]], from, to, limit| {
            let filter = LogFilter {
                from,
                to,
                addresses: addresses.iter().copied().map(address).collect(),
                topics: topics.iter().map(|any| any.iter().copied().map(topic).collect()).collect(),
            };
            store.reads.store(0, Ordering::Relaxed);
            let found = search(&store, 10_000, &filter, limit).expect("in memory");
            (found, store.reads.load(Ordering::Relaxed))
        };
        let (found, reads) = ask(&[3], &[], 0, u64::MAX, 100);
        assert_eq!(heights(&found), [2_500, 5_000, 7_500, 10_000]);
        assert_eq!(found[0].log_index, 2);
        assert!(reads <= 1 + 3 * 4, "{reads}");
        // The topic is everywhere, the contract is not.
        let (found, reads) = ask(&[3], &[&[1]], 0, u64::MAX, 100);
        assert_eq!(found.len(), 4);
        assert!(reads <= 1 + 4 * (3 + 2), "{reads}");
        let (found, reads) = ask(&[], &[&[], &[9]], 3_000, 8_000, 100);
        assert_eq!(heights(&found), [5_000, 7_500]);
        assert!(reads <= 8, "{reads}");
        let (found, reads) = ask(&[7], &[&[1]], 0, u64::MAX, 100);
        assert!(found.is_empty() && reads <= 2, "{reads}");
        let (found, reads) = ask(&[], &[], 0, u64::MAX, 5);
        assert_eq!((heights(&found), reads), (vec![1, 2, 2, 3, 4], 1 + 3 * 4));
        let (found, reads) = ask(&[1], &[], 9_990, 9_994, 100);
        assert_eq!((heights(&found), reads), ((9_990..=9_994).collect(), 1 + 3 * 5));
        assert_eq!(bloom_at(&store, 4).expect("in memory"), bloom([&log(1, &[1, 2]), &log(2, &[3])]));
        assert_eq!(bloom_at(&store, 20_000).expect("in memory"), [0; 256]);
    }

    /// The answer of go-ethereum's `TestBloomExtensively` (`core/types/bloom9_test.go`).
    #[test]
    fn the_bloom_is_ethereums() {
        let mut bloom = [0; 256];
        for index in 0..100 {
            add(&mut bloom, format!("xxxxxxxxxx data {index} yyyyyyyyyyyyyy").as_bytes());
        }
        let expected = "c8d3ca65cdb4874300a9e39475508f23ed6da09fdbc487f89a2dcf50b09eb263";
        assert_eq!(hex::encode(keccak(bloom)), expected);
    }

    #[test]
    fn a_filter_counts_positions() {
        let (log, bare) = (log(1, &[1, 2]), log(1, &[]));
        let filter = |topics: &[&[u8]]| LogFilter {
            topics: topics.iter().map(|any| any.iter().copied().map(topic).collect()).collect(),
            ..LogFilter::default()
        };
        let matching: [&[&[u8]]; 5] = [&[], &[&[1]], &[&[], &[2]], &[&[2, 1], &[]], &[&[1], &[]]];
        assert!(matching.iter().all(|topics| filter(topics).matches(&log)));
        let others: [&[&[u8]]; 3] = [&[&[2]], &[&[], &[], &[]], &[&[1], &[1]]];
        assert!(!others.iter().any(|topics| filter(topics).matches(&log)));
        assert!(filter(&[]).matches(&bare));
        assert!(!filter(&[&[]]).matches(&bare), "one position wants one topic");
    }

    prop_compose! {
        fn any_log()(contract in 0_u8..4, topics in vec(0_u8..3, 0..4)) -> Log { log(contract, &topics) }
    }

    proptest! {
        #[test]
        fn a_search_finds_what_a_look_at_every_block_finds(
            blocks in vec(prop_oneof![3 => Just(vec![]), 1 => vec(vec(any_log(), 0..3), 0..3)], 1..200),
            addresses in vec(0_u8..5, 0..3),
            topics in vec(vec(0_u8..4, 0..3), 0..4),
            from in 0_u64..60,
            length in 0_u64..250,
            limit in prop_oneof![Just(usize::MAX), 0_usize..5],
        ) {
            let store = MemStore::default();
            let filter = LogFilter {
                from,
                to: from + length,
                addresses: addresses.into_iter().map(address).collect(),
                topics: topics.into_iter().map(|any| any.into_iter().map(topic).collect()).collect(),
            };
            let settled = blocks.len() as u64 - 1;
            let mut expected = Vec::new();
            for (height, block) in (0..).zip(blocks) {
                settle(&store, height, block.clone());
                let mut log_index = 0;
                for (index, logs) in (0..).zip(block) {
                    for log in logs {
                        if (from..=from + length).contains(&height) && filter.matches(&log) {
                            let hash = transaction(height, index);
                            expected.push(FoundLog {
                                log,
                                block: keccak(height.to_be_bytes()),
                                height,
                                transaction: hash,
                                ethereum: (index % 2 == 1).then(|| keccak(hash)),
                                transaction_index: index + 1,
                                log_index,
                            });
                        }
                        log_index += 1;
                    }
                }
            }
            expected.truncate(limit);
            prop_assert_eq!(search(&store, settled, &filter, limit).expect("in memory"), expected);
        }
    }
}
