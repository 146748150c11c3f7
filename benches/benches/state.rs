//! `state/root_mem` and `state/commit`: the root after K changed accounts out of N, in memory, and durable on disk.

#![allow(missing_docs, reason = "criterion's macros make items without any")]

use std::{sync::Arc, time::Duration};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use theta_benches::{
    Random, SEED, Times, only_test, prim, report,
    state::{changes, entry, permutations, put, write_nodes},
    timed,
};
use theta_core::{
    hash::Hash,
    store::{FjallStore, MemStore, Store},
    trie::Trie,
};
use theta_ledger::state::nodes::Nodes;

/// Accounts, and how that is written in an id.
fn sizes() -> &'static [(u64, &'static str)] {
    if only_test() { &[(1_000, "1e3")] } else { &[(100_000, "1e5"), (1_000_000, "1e6")] }
}

fn changed() -> &'static [usize] {
    if only_test() { &[64] } else { &[512, 1024, 8192] }
}

fn rounds() -> usize {
    if only_test() { 1 } else { 21 }
}

/// A state in a store, read and written as the ledger does.
struct State {
    store: Arc<dyn Store>,
    nodes: Arc<Nodes>,
    root: Hash,
}

impl State {
    fn new(store: Arc<dyn Store>, accounts: u64, random: &mut Random) -> Self {
        let nodes = Arc::new(Nodes::new(store.clone()));
        let mut trie = Trie::empty(nodes.clone());
        put(&mut trie, (0..accounts).map(|number| entry(number, random)).collect());
        let root = trie.root();
        write_nodes(store.as_ref(), &nodes, &mut trie);
        Self { store, nodes, root }
    }

    /// The trie after changes, hashed.
    fn changed(&self, entries: Vec<(Vec<u8>, Vec<u8>)>) -> Trie {
        let mut trie = Trie::open(self.root, self.nodes.clone()).expect("the root is stored");
        put(&mut trie, entries);
        trie.root();
        trie
    }

    fn commit(&mut self, mut trie: Trie) {
        self.root = trie.root();
        write_nodes(self.store.as_ref(), &self.nodes, &mut trie);
    }
}

fn root_mem(criterion: &mut Criterion) {
    for (accounts, size) in sizes() {
        let mut random = Random::new(SEED);
        let mut state = State::new(Arc::new(MemStore::default()), *accounts, &mut random);
        for keys in changed() {
            // The root alone is measured; the nodes are written so that the next round begins as a block does.
            let mut round = || {
                let entries = changes(*accounts, *keys, None, &mut random);
                let (trie, time) = timed(|| state.changed(entries));
                state.commit(trie);
                time
            };
            let mut group = criterion.benchmark_group("state");
            group.sample_size(20).measurement_time(Duration::from_secs(5));
            group.throughput(Throughput::Elements(*keys as u64));
            group.bench_function(format!("root_mem/{size}/{keys}"), |bencher| {
                bencher.iter_custom(|rounds| (0..rounds).map(|_| round()).sum());
            });
            group.finish();
            // A B A B, so that a machine that is busy for a while slows both.
            let (mut times, mut hashes) = (Vec::new(), Vec::new());
            for _ in 0..rounds() {
                hashes.push(prim::permutation());
                times.push(round());
            }
            let permutation = Times::of(hashes).median.as_secs_f64();
            let ceiling = 1.0 / (permutations(*accounts, *keys) * permutation);
            report(&format!("state/root_mem/{size}/{keys}"), "keys", *keys as f64, Times::of(times), ceiling);
        }
    }
}

/// Bytes this process had written to disks so far, where the system counts them.
fn written() -> Option<u64> {
    let io = std::fs::read_to_string("/proc/self/io").ok()?;
    io.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok())
}

fn commit(criterion: &mut Criterion) {
    for (accounts, size) in sizes() {
        let mut random = Random::new(SEED);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = FjallStore::open(folder.path()).expect("a new store opens");
        let mut state = State::new(Arc::new(store), *accounts, &mut random);
        // What a block does to the state: open, change, root, write.
        let update = |state: &mut State, entries| {
            let trie = state.changed(entries);
            state.commit(trie);
        };
        for keys in changed() {
            let mut group = criterion.benchmark_group("state");
            group.sample_size(20).measurement_time(Duration::from_secs(5));
            group.throughput(Throughput::Elements(*keys as u64));
            group.bench_function(format!("commit/{size}/{keys}"), |bencher| {
                let entries = || changes(*accounts, *keys, Some(10), &mut random);
                bencher.iter_batched(entries, |entries| update(&mut state, entries), BatchSize::PerIteration);
            });
            group.finish();
            let (mut hashes, mut syncs) = (Vec::new(), Vec::new());
            let (before, mut payload, mut times) = (written(), 0, Vec::new());
            for _ in 0..rounds() {
                hashes.push(prim::permutation());
                syncs.push(prim::sync(folder.path()).expect("the disk takes it"));
                let entries = changes(*accounts, *keys, Some(10), &mut random);
                payload += entries.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
                times.push(timed(|| update(&mut state, entries)).1);
            }
            let (permutation, sync) =
                (Times::of(hashes).median.as_secs_f64(), Times::of(syncs).median.as_secs_f64());
            println!("prim: t_perm {:.0} ns, t_sync {:.0} µs", permutation * 1e9, sync * 1e6);
            // One sync for each batch, and the hashing that no trie can go without.
            let hashing = *keys as f64 * permutations(*accounts, *keys) * permutation;
            let ceiling = *keys as f64 / (sync + hashing);
            report(&format!("state/commit/{size}/{keys}"), "keys", *keys as f64, Times::of(times), ceiling);
            if let (Some(before), Some(after)) = (before, written()) {
                let amplification = (after - before) as f64 / payload as f64;
                println!(
                    "state/commit/{size}/{keys}: {amplification:.1} bytes written for each byte of keys and values"
                );
            }
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default();
    targets = root_mem, commit
}
criterion_main!(benches);
