//! `state/root_mem` and `state/commit`: the root after K changed accounts out of N, in memory, and durable on disk.

#![allow(missing_docs, reason = "criterion's macros make items without any")]

use std::{sync::Arc, time::Duration};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use theta_benches::{
    Random, SEED, Times, only_test, prim, report,
    state::{StoredNodes, changes, entry, permutations, put},
    timed,
};
use theta_core::{
    hash::Hash,
    store::FjallStore,
    trie::{NoNodes, NodeSource, Trie},
};

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

fn root_mem(criterion: &mut Criterion) {
    for (accounts, size) in sizes() {
        let mut random = Random::new(SEED);
        let mut trie = Trie::empty(Arc::new(NoNodes));
        put(&mut trie, (0..*accounts).map(|number| entry(number, &mut random)).collect());
        trie.root();
        for keys in changed() {
            let mut step = || {
                let entries = changes(*accounts, *keys, None, &mut random);
                (trie.clone(), entries)
            };
            // Gives the trie back, so that freeing it is not measured.
            let update = |(mut trie, entries): (Trie, Vec<_>)| {
                put(&mut trie, entries);
                (trie.root(), trie)
            };
            let mut group = criterion.benchmark_group("state");
            group.sample_size(20).measurement_time(Duration::from_secs(5));
            group.throughput(Throughput::Elements(*keys as u64));
            group.bench_function(format!("root_mem/{size}/{keys}"), |bencher| {
                bencher.iter_batched(&mut step, update, BatchSize::PerIteration);
            });
            group.finish();
            // A B A B, so that a machine that is busy for a while slows both.
            let (mut times, mut hashes) = (Vec::new(), Vec::new());
            for _ in 0..rounds() {
                hashes.push(prim::permutation());
                let input = step();
                times.push(timed(|| update(input)).1);
            }
            let permutation = Times::of(hashes).median.as_secs_f64();
            let ceiling = 1.0 / (permutations(*accounts, *keys) * permutation);
            report(&format!("state/root_mem/{size}/{keys}"), "keys", *keys as f64, Times::of(times), ceiling);
        }
    }
}

/// A state on disk that grows by one durable batch after another.
struct OnDisk {
    folder: tempfile::TempDir,
    nodes: Arc<StoredNodes>,
    root: Hash,
}

impl OnDisk {
    fn new(accounts: u64, random: &mut Random) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = FjallStore::open(folder.path()).expect("a new store opens");
        let nodes = Arc::new(StoredNodes::new(Arc::new(store)));
        let source: Arc<dyn NodeSource> = nodes.clone();
        let mut trie = Trie::empty(source);
        put(&mut trie, (0..accounts).map(|number| entry(number, random)).collect());
        let root = trie.root();
        nodes.commit(&trie);
        Self { folder, nodes, root }
    }

    /// What a block does to the state: open, change, root, write.
    fn update(&mut self, entries: Vec<(Vec<u8>, Vec<u8>)>) {
        let mut trie = Trie::open(self.root, self.nodes.clone()).expect("the root is stored");
        put(&mut trie, entries);
        self.root = trie.root();
        self.nodes.commit(&trie);
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
        let mut state = OnDisk::new(*accounts, &mut random);
        for keys in changed() {
            let mut group = criterion.benchmark_group("state");
            group.sample_size(20).measurement_time(Duration::from_secs(5));
            group.throughput(Throughput::Elements(*keys as u64));
            group.bench_function(format!("commit/{size}/{keys}"), |bencher| {
                let entries = || changes(*accounts, *keys, Some(10), &mut random);
                bencher.iter_batched(entries, |entries| state.update(entries), BatchSize::PerIteration);
            });
            group.finish();
            let (mut hashes, mut syncs) = (Vec::new(), Vec::new());
            let (before, mut payload, mut times) = (written(), 0, Vec::new());
            for _ in 0..rounds() {
                hashes.push(prim::permutation());
                syncs.push(prim::sync(state.folder.path()).expect("the disk takes it"));
                let entries = changes(*accounts, *keys, Some(10), &mut random);
                payload += entries.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
                times.push(timed(|| state.update(entries)).1);
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
