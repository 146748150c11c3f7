//! `sync/{snapshot,restart}/{1e5,1e6}`: a snapshot of so many accounts, imported into a new store on disk with all its checks,
//! beside hashing its nodes once and writing them once; and how long a node whose process was killed takes to open its
//! store again.

use std::{fs::File, io::BufReader, path::Path, process::Command, sync::Arc};

use theta_benches::{Times, asked_for, chain, only_test, prim, report, report_time, timed};
use theta_core::{
    hash::Hash,
    spec::ChainSpec,
    store::{FjallStore, Store},
    trie::Trie,
};
use theta_ledger::{
    genesis::Genesis,
    ledger::{At, Ledger},
    snapshot,
};

/// Names the store that this process, as a child of the bench, goes on with until it kills itself.
const CHILD: &str = "THETA_BENCH_STORE";
const HEIGHT: u64 = 2;

fn store(folder: &Path) -> Arc<dyn Store> {
    Arc::new(FjallStore::open(folder).expect("a folder of one's own"))
}

fn reopen(folder: &Path) -> Ledger {
    Ledger::builder(ChainSpec::privatenet()).store(store(folder)).reopen().expect("a chain")
}

/// Exports the state of [`HEIGHT`] into a file; gives its block.
fn export(genesis: &Genesis, file: &Path) -> Hash {
    let mut ledger = Ledger::builder(ChainSpec::privatenet()).open(genesis).expect("a genesis");
    for _ in 0..4 {
        chain::extend(&mut ledger, &[]);
    }
    let mut out = std::io::BufWriter::new(File::create(file).expect("room on the disk"));
    snapshot::export(&ledger.reader(), HEIGHT, 4, &mut out).expect("certified").hash
}

/// Permutations and bytes of all nodes of the newest state.
fn nodes(ledger: &Ledger) -> (f64, f64) {
    let view = ledger.reader().state(At::Settled).expect("stored");
    let (mut permutations, mut bytes) = (0, 0);
    let trie: &Trie = view.trie();
    let visited = trie.nodes(None, &mut |_, node| {
        permutations += node.encoding().len() / 136 + 1;
        bytes += node.encoding().len() + 32;
        true
    });
    visited.expect("stored");
    (permutations as f64, bytes as f64)
}

fn main() {
    if let Some(folder) = std::env::var_os(CHILD) {
        let mut ledger = reopen(Path::new(&folder));
        for _ in 0..3 {
            chain::extend(&mut ledger, &[]);
        }
        std::process::abort();
    }
    let sizes: &[(u64, &str)] =
        if only_test() { &[(1_000, "1e3")] } else { &[(100_000, "1e5"), (1_000_000, "1e6")] };
    let rounds = if only_test() { 1 } else { 5 };
    let mut smallest = None;
    for (accounts, size) in sizes {
        let ids = ["snapshot", "restart"].map(|operation| format!("sync/{operation}/{size}"));
        if !ids.iter().any(|id| asked_for(id)) {
            continue;
        }
        let genesis = chain::genesis(&ChainSpec::privatenet(), &[], *accounts, None);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("snapshot");
        let hash = export(&genesis, &file);
        let size = std::fs::metadata(&file).expect("just written").len() as f64;
        let (mut imports, mut restarts) = (Vec::new(), Vec::new());
        let mut least = (0.0, 0.0);
        for round in 0..rounds {
            let data = folder.path().join(format!("store-{round}"));
            let (done, time) = timed(|| {
                let file = BufReader::new(File::open(&file).expect("just written"));
                snapshot::import(file, &genesis, Some(hash), &store(&data))
            });
            assert_eq!(done.expect("our own").hash, hash);
            imports.push(time);
            let killed =
                Command::new(std::env::current_exe().expect("this program")).env(CHILD, &data).status();
            assert!(!killed.expect("this program runs").success(), "it kills itself");
            let (ledger, time) = timed(|| reopen(&data));
            assert_eq!(ledger.reader().settled().header.height, HEIGHT + 3);
            restarts.push(time);
            least = nodes(&ledger);
            drop(ledger);
            std::fs::remove_dir_all(data).expect("our own");
        }
        let disk = prim::disk(folder.path()).expect("the disk takes it");
        let ceiling = size / 1e6 / (least.0 * prim::permutation().as_secs_f64() + least.1 / disk);
        report(&ids[0], "MB", size / 1e6, Times::of(imports), ceiling);
        // What restarts are held against is the smallest state's: they must not grow with it.
        let restart = Times::of(restarts).median.as_secs_f64();
        let least = *smallest.get_or_insert(restart);
        report_time(&ids[1], restart * 1e9, least * 1e9);
    }
}
