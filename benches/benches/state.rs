//! `state/root_mem` and `state/commit`: the root after K changed accounts out of N, in memory, and durable on disk.
//! `state/get/{1e4..1e7}`: one account out of N, cold and warm, beside a raw row of the same store. `state/proof`: 1000 keys
//! proven and verified. `state/prune`: what a settled block costs more for each changed key where old states go away.

#![allow(missing_docs, reason = "criterion's macros make items without any")]

use std::{sync::Arc, time::Duration};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use theta_benches::{
    Random, SEED, Times, asked_for, busy, chain, named, only_test, prim, report, report_time,
    state::{address, changes, entry, permutations, write_nodes},
    timed,
};
use theta_core::{
    codec::rlp::Decode as _,
    context::Finality,
    hash::{EMPTY_ROOT, Hash},
    spec::ChainSpec,
    store::{Batch, FjallStore, MemStore, Store, Table},
    trie::{Trie, verify},
    workers::{Cores, Inline, Workers},
};
use theta_ledger::{
    ledger::Ledger,
    state::{Account, Keep, keys, nodes::Nodes},
};

/// Accounts, and how that is written in an id.
fn sizes() -> &'static [(u64, &'static str)] {
    if only_test() { &[(1_000, "1e3")] } else { &[(100_000, "1e5"), (1_000_000, "1e6")] }
}

/// The largest size as well, where it is named: it takes minutes and 10 GB to lay out.
fn sizes_on_disk() -> Vec<(u64, &'static str)> {
    sizes().iter().copied().chain(named("1e7").then_some((10_000_000, "1e7"))).collect()
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
    workers: Arc<dyn Workers>,
}

impl State {
    fn new(store: Arc<dyn Store>, accounts: u64, random: &mut Random) -> Self {
        let nodes = Arc::new(Nodes::new(store.clone()));
        let mut root = EMPTY_ROOT;
        for from in (0..accounts).step_by(1_000_000) {
            let mut trie = Trie::open(root, nodes.clone()).expect("just written");
            let entries = (from..(from + 1_000_000).min(accounts)).map(|number| entry(number, random));
            trie.update(entries.collect::<Vec<_>>(), &Inline).expect("just written");
            root = trie.root();
            write_nodes(store.as_ref(), &nodes, &mut trie);
        }
        Self { store, nodes, root, workers: Arc::new(Inline) }
    }

    /// The trie after changes, hashed.
    fn changed(&self, entries: Vec<(Vec<u8>, Vec<u8>)>) -> Trie {
        let mut trie = Trie::open(self.root, self.nodes.clone()).expect("the root is stored");
        trie.update(entries, self.workers.as_ref()).expect("every node is there");
        trie.root();
        trie
    }

    fn commit(&mut self, mut trie: Trie) {
        self.root = trie.root();
        write_nodes(self.store.as_ref(), &self.nodes, &mut trie);
    }
}

/// The peer: a store made for tries, whose nodes are binary and hashed by BLAKE3, with the same keys and values of 100
/// bytes.
#[cfg(feature = "nomt")]
mod peer {
    use std::path::Path;

    use nomt::{KeyReadWrite, Nomt, Options, SessionParams, WitnessMode, hasher::Blake3Hasher};
    use theta_core::hash::keccak;

    pub(crate) struct Peer(Nomt<Blake3Hasher>);

    impl Peer {
        pub(crate) fn open(folder: &Path, accounts: u64) -> Self {
            let buckets = u32::try_from(accounts.next_power_of_two().max(1 << 20)).expect("fits");
            let mut options = Options::new();
            options.path(folder.join("nomt"));
            options.hashtable_buckets(buckets);
            Self(Nomt::open(options).expect("the peer opens"))
        }

        pub(crate) fn update(&self, entries: &[(Vec<u8>, Vec<u8>)]) {
            let session =
                self.0.begin_session(SessionParams::default().witness_mode(WitnessMode::disabled()));
            let mut changes = Vec::with_capacity(entries.len());
            for (key, value) in entries {
                let path = keccak(key).0;
                session.warm_up(path);
                let value = value.iter().copied().chain(std::iter::repeat(0)).take(100).collect();
                changes.push((path, KeyReadWrite::Write(Some(value))));
            }
            changes.sort_unstable_by_key(|(path, _)| *path);
            let done = session.finish(changes).expect("the peer takes it");
            done.commit(&self.0).expect("the peer takes it");
        }
    }
}

#[cfg(not(feature = "nomt"))]
mod peer {
    pub(crate) struct Peer;

    impl Peer {
        pub(crate) fn open(_: &std::path::Path, _: u64) -> Self {
            println!("state/commit: skipped the peer: run with --features theta-benches/nomt");
            Self
        }

        pub(crate) fn update(&self, _: &[(Vec<u8>, Vec<u8>)]) {}
    }
}

fn root_mem(criterion: &mut Criterion) {
    let wanted =
        |size| ["root_mem", "root_mem_cores"].iter().any(|id| asked_for(&format!("state/{id}/{size}")));
    for (accounts, size) in sizes().iter().filter(|(_, size)| wanted(size)) {
        let mut random = Random::new(SEED);
        let mut state = State::new(Arc::new(MemStore::default()), *accounts, &mut random);
        for (keys, all) in changed().iter().flat_map(|keys| [(keys, false), (keys, true)]) {
            state.workers = if all { Arc::new(Cores) } else { Arc::new(Inline) };
            let id = format!("state/root_mem{}/{size}", if all { "_cores" } else { "" });
            // The root alone is measured; the nodes are written so that the next round begins as a block does.
            let mut round = || {
                let entries = changes(*accounts, *keys, None, &mut random);
                let change = || state.changed(entries);
                let (trie, time) = if all { timed(change) } else { busy(change) };
                state.commit(trie);
                time
            };
            let mut group = criterion.benchmark_group("state");
            group.sample_size(20).measurement_time(Duration::from_secs(5));
            group.throughput(Throughput::Elements(*keys as u64));
            group.bench_function(format!("{}/{keys}", &id["state/".len()..]), |bencher| {
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
            report(&format!("{id}/{keys}"), "keys", *keys as f64, Times::of(times), ceiling);
        }
    }
}

/// Bytes this process had written to disks so far, where the system counts them.
fn written() -> Option<u64> {
    let io = std::fs::read_to_string("/proc/self/io").ok()?;
    io.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok())
}

fn commit(criterion: &mut Criterion) {
    for (accounts, size) in &sizes_on_disk() {
        if !asked_for(&format!("state/commit/{size}")) {
            continue;
        }
        let mut random = Random::new(SEED);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = FjallStore::open(folder.path()).expect("a new store opens");
        let mut state = State::new(Arc::new(store), *accounts, &mut random);
        state.workers = Arc::new(Cores);
        let peer = peer::Peer::open(folder.path(), *accounts);
        let mut numbers = Random::new(SEED);
        for from in (0..*accounts).step_by(10_000) {
            let to = (from + 10_000).min(*accounts);
            peer.update(&(from..to).map(|number| entry(number, &mut numbers)).collect::<Vec<_>>());
        }
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
            let mut peers = Vec::new();
            for _ in 0..rounds() {
                hashes.push(prim::permutation());
                syncs.push(prim::sync(folder.path()).expect("the disk takes it"));
                let entries = changes(*accounts, *keys, Some(10), &mut random);
                payload += entries.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
                peers.push(timed(|| peer.update(&entries)).1);
                times.push(timed(|| update(&mut state, entries)).1);
            }
            let (permutation, sync) =
                (Times::of(hashes).median.as_secs_f64(), Times::of(syncs).median.as_secs_f64());
            println!("prim: t_perm {:.0} ns, t_sync {:.0} µs", permutation * 1e9, sync * 1e6);
            // One sync for each batch, and the hashing that no trie can go without.
            let hashing = *keys as f64 * permutations(*accounts, *keys) * permutation;
            let ceiling = *keys as f64 / (sync + hashing);
            report(
                &format!("state/commit/{size}/{keys}"),
                "keys",
                *keys as f64,
                Times::of(times.clone()),
                ceiling,
            );
            if cfg!(feature = "nomt") {
                let (ours, theirs) = (Times::of(times.clone()), Times::of(peers.clone()));
                let mut ratios: Vec<f64> =
                    times.iter().zip(&peers).map(|(a, b)| b.as_secs_f64() / a.as_secs_f64()).collect();
                ratios.sort_by(f64::total_cmp);
                println!(
                    r#"{{"bench":"state/commit/{size}/{keys}","peer":"nomt 1.0.5","median_us":{},"peer_median_us":{},"ratio":{:.2}}}"#,
                    ours.median.as_micros(),
                    theirs.median.as_micros(),
                    ratios[ratios.len() / 2]
                );
            }
            if let (false, Some(before), Some(after)) = (cfg!(feature = "nomt"), before, written()) {
                let amplification = (after - before) as f64 / payload as f64;
                println!(
                    "state/commit/{size}/{keys}: {amplification:.1} bytes written for each byte of keys and values"
                );
            }
        }
    }
}

/// The number of one of `accounts`, nearly as in a Zipf distribution of exponent 1: as often as its rank is low.
fn zipf(accounts: u64, random: &mut Random) -> u64 {
    let chance = random.below(1 << 53) as f64 / (1_u64 << 53) as f64;
    ((accounts as f64).powf(chance) as u64).min(accounts - 1)
}

/// Nanoseconds of one call for each of the numbers.
fn each(numbers: &[u64], mut act: impl FnMut(u64)) -> f64 {
    let ((), time) = busy(|| numbers.iter().for_each(|number| act(*number)));
    time.as_nanos() as f64 / numbers.len() as f64
}

fn get(_: &mut Criterion) {
    let mut sizes = sizes_on_disk();
    if !only_test() {
        sizes.insert(0, (10_000, "1e4"));
    }
    for (accounts, size) in sizes.iter().filter(|(_, size)| asked_for(&format!("state/get/{size}"))) {
        let mut random = Random::new(SEED);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Arc::new(FjallStore::open(folder.path()).expect("a new store opens"));
        let root = State::new(store.clone(), *accounts, &mut random).root;
        // The peer: the same records as plain rows.
        let mut records = Random::new(SEED);
        for from in (0..*accounts).step_by(50_000) {
            let mut batch = Batch::default();
            for number in from..(from + 50_000).min(*accounts) {
                let (key, value) = entry(number, &mut records);
                batch.put(Table::Receipts, key, value);
            }
            store.commit(batch).expect("the disk takes it");
        }
        // Behind so much more they leave the list in memory that fjall begins with, as our nodes have.
        for number in 0..if only_test() { 1 } else { 80_u64 } {
            let mut batch = Batch::default();
            batch.put(
                Table::Receipts,
                [b"more", &number.to_be_bytes()[..]].concat(),
                vec![number as u8; 1 << 20],
            );
            store.commit(batch).expect("the disk takes it");
        }
        let count = if only_test() { 100 } else { 20_000 };
        let uniform: Vec<u64> = (0..count).map(|_| random.below(*accounts)).collect();
        let skewed: Vec<u64> = (0..count).map(|_| zipf(*accounts, &mut random)).collect();
        for (kind, numbers) in [("uniform", uniform), ("zipf", skewed)] {
            // Nothing at hand in our cache; the store's own has seen both once.
            let open = || {
                let nodes: Arc<Nodes> = Arc::new(Nodes::new(store.clone()));
                Trie::open(root, nodes).expect("the root is stored")
            };
            let read = |trie: &Trie, number| {
                let key = keys::account(address(number));
                let bytes = trie.get(&key).expect("stored").expect("there");
                std::hint::black_box(Account::from_rlp(&bytes, bytes.len()).expect("a record"));
            };
            let row = |number| {
                let key = keys::account(address(number));
                std::hint::black_box(store.get(Table::Receipts, &key).expect("stored").expect("there"));
            };
            let before = open();
            each(&numbers, |number| read(&before, number));
            each(&numbers, row);
            let trie = open();
            for temperature in ["cold", "warm"] {
                let (raw, own) = (each(&numbers, row), each(&numbers, |number| read(&trie, number)));
                report_time(&format!("state/get/{size}/{kind}/{temperature}"), own, raw);
            }
        }
    }
}

fn proof(_: &mut Criterion) {
    for (accounts, size) in sizes().iter().filter(|(_, size)| asked_for(&format!("state/proof/{size}"))) {
        let mut random = Random::new(SEED);
        let state = State::new(Arc::new(MemStore::default()), *accounts, &mut random);
        let trie = Trie::open(state.root, state.nodes.clone()).expect("the root is stored");
        let count = if only_test() { 10 } else { 1_000 };
        let mut times = Vec::new();
        let mut hashed = 0;
        for _ in 0..rounds() {
            let numbers: Vec<u64> = (0..count).map(|_| random.below(*accounts)).collect();
            hashed = 0;
            times.push(each(&numbers, |number| {
                let key = keys::account(address(number));
                let proof = trie.prove(&key).expect("stored");
                assert!(verify(&state.root, &key, &proof).expect("ours").is_some());
                hashed += proof.iter().map(|node| node.len() / 136 + 1).sum::<usize>();
            }));
        }
        times.sort_by(f64::total_cmp);
        // Whoever verifies hashes every node once.
        let least = prim::permutation().as_nanos() as f64 * hashed as f64 / count as f64;
        report_time(&format!("state/proof/{size}"), times[times.len() / 2], least);
    }
}

/// The time of settling a block for each key that it changed, beside that of a store that keeps all states.
fn prune(_: &mut Criterion) {
    let sizes: &[(u64, &str)] =
        if only_test() { &[(500, "5e2")] } else { &[(10_000, "1e4"), (100_000, "1e5")] };
    for (accounts, size) in sizes.iter().filter(|(_, size)| asked_for(&format!("state/prune/{size}"))) {
        let (count, measured) = if only_test() { (4, 2) } else { (64, 40) };
        let senders = chain::keys(count);
        let settle = |keep: Keep| {
            let spec = ChainSpec::privatenet();
            let genesis = chain::genesis(&spec, &senders, *accounts, None);
            let mut ledger = Ledger::builder(spec).keep(keep).open(&genesis).expect("a genesis");
            let mut random = Random::new(SEED);
            let mut times = Vec::new();
            for height in 1..=Keep::LEAST + measured {
                let mut to = || address(random.below(*accounts));
                let sends: Vec<_> = senders.iter().map(|key| chain::send(key, height, to()).into()).collect();
                let (hash, _) = chain::apply_next(&mut ledger, &sends);
                let (_, time) = busy(|| ledger.reached(Finality::Settled, &hash).expect("just applied"));
                if height > Keep::LEAST {
                    times.push(time);
                }
            }
            Times::of(times).median.as_nanos() as f64 / (2 * count) as f64
        };
        let (all, pruned) = (settle(Keep::All), settle(Keep::Blocks(Keep::LEAST)));
        report_time(&format!("state/prune/{size}"), pruned, all);
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default();
    targets = root_mem, commit, get, proof, prune
}
criterion_main!(benches);
