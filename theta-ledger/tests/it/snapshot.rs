//! Snapshots of the recorded private network: read, refused, and written again byte for byte.

use std::{io::Read, sync::Arc};

use theta_core::{
    hash::Hash,
    spec::ChainSpec,
    store::{MemStore, Store},
};
use theta_ledger::{
    error::{OpenError, SnapshotError},
    genesis::Genesis,
    ledger::{At, Ledger},
    snapshot::{self, Snapshot},
};

use super::fixture;

const HEIGHT: u64 = 450;
pub const VERSIONS: [u64; 3] = [2, 3, 4];

fn file(version: u64) -> Vec<u8> {
    let mut file = Vec::new();
    let packed = fixture(&format!("privatenet-450-v{version}.snapshot.gz"));
    flate2::read::GzDecoder::new(packed.as_slice()).read_to_end(&mut file).unwrap();
    file
}

pub fn genesis() -> Genesis {
    Genesis::read(&fixture("privatenet.genesis"), None).unwrap()
}

fn read(file: &[u8], trusted: Option<Hash>, store: &Arc<dyn Store>) -> Result<Snapshot, SnapshotError> {
    snapshot::import(file, &genesis(), trusted, store)
}

fn empty() -> Arc<dyn Store> {
    Arc::new(MemStore::default())
}

/// Imports the recorded snapshot, trusting its block where the version asks for it.
pub fn import_trusted(version: u64, store: &Arc<dyn Store>) -> Snapshot {
    let file = file(version);
    let trusted = match read(&file, None, &empty()) {
        Err(SnapshotError::Untrusted { block, .. }) => Some(block),
        _ => None,
    };
    read(&file, trusted, store).unwrap()
}

#[test]
fn every_version_is_read_and_a_ledger_opens_on_it() {
    for version in VERSIONS {
        let store = empty();
        let file = file(version);
        let trusted = match read(&file, None, &store) {
            Err(SnapshotError::Untrusted { version: 4, block }) => Some(block),
            Err(error) => panic!("version {version}: {error}"),
            Ok(_) => None,
        };
        assert_eq!(trusted.is_some(), version == 4, "only version 4 has to be trusted");
        let store = empty();
        let done = read(&file, trusted, &store).unwrap();
        assert_eq!((done.version, done.header.height), (version, HEIGHT));
        assert!(matches!(read(&file, trusted, &store), Err(SnapshotError::NotEmpty)));
        let ledger = Ledger::builder(ChainSpec::privatenet()).store(store).open(&genesis()).unwrap();
        let reader = ledger.reader();
        assert_eq!(reader.settled().hash, done.hash);
        let mut view = reader.state(At::Settled).unwrap();
        assert!(!view.guardians().unwrap().guardians.is_empty());
        assert!(reader.block(At::Height(401)).unwrap().is_some(), "the checkpoint");
        assert!(reader.block(At::Height(300)).unwrap().is_none());
    }
}

#[test]
fn what_another_chain_or_block_is_is_refused() {
    let file = file(3);
    let other = Genesis::read(&fixture("mainnet.genesis"), None).unwrap();
    let refused = snapshot::import(file.as_slice(), &other, None, &empty());
    assert!(matches!(refused, Err(SnapshotError::Unexpected { what, .. }) if what.contains("another chain")));
    let refused = read(&file, Some(Hash::repeat_byte(1)), &empty());
    assert!(matches!(refused, Err(SnapshotError::OtherBlock { .. })));
    let refused = read(&fixture("privatenet.genesis"), None, &empty());
    assert!(matches!(refused, Err(SnapshotError::Version(1))));
}

#[test]
fn a_cut_or_flipped_snapshot_is_refused_and_opens_as_nothing() {
    for version in VERSIONS {
        let whole = file(version);
        let store = empty();
        let trusted = read(&whole, None, &store).err().and_then(|error| match error {
            SnapshotError::Untrusted { block, .. } => Some(block),
            _ => None,
        });
        // A place in every part of the file, and all of its end.
        let places = (0..whole.len()).step_by(whole.len() / 150).chain(whole.len() - 40..whole.len());
        for at in places {
            let store = empty();
            let cut = read(&whole[..at], trusted, &store);
            assert!(cut.is_err(), "version {version} cut at {at}");
            let opened = Ledger::builder(ChainSpec::privatenet()).store(store).open(&genesis()).unwrap();
            assert_eq!(opened.reader().settled().header.height, 0, "half an import is no state");
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            let refused = read(&flipped, trusted, &empty());
            assert!(refused.is_err(), "version {version} flipped at {at}");
        }
    }
}

/// Copies as operators have them: short, damaged, too long, with a length that lies, empty.
fn bad_copies(good: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut copies: Vec<(String, Vec<u8>)> = [1, 8, 1000, good.len() / 2, good.len()]
        .into_iter()
        .map(|cut| (format!("{cut} bytes short"), good[..good.len() - cut].to_vec()))
        .collect();
    for quarter in 0..4 {
        let mut copy = good.to_vec();
        let at = good.len() * (2 * quarter + 1) / 8;
        copy[at] ^= 0x20;
        copies.push((format!("another byte {at}"), copy));
    }
    for more in [0, 7, 0xff] {
        copies.push((format!("16 bytes of {more} more"), [good, &[more; 16]].concat()));
    }
    // The first record, and the one behind it.
    let second = 8 + u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    for at in [0, second] {
        let mut copy = good.to_vec();
        copy[at..at + 8].copy_from_slice(&(i64::MAX as u64).to_le_bytes());
        copies.push((format!("a length of 2^63 - 1 at {at}"), copy));
    }
    copies
}

#[test]
fn short_or_wrong_files_are_refused_with_their_place_and_leave_nothing() {
    let placed = |error: &SnapshotError| {
        let text = error.to_string();
        assert!(!text.contains('\n'), "{text}");
        text.contains("byte") || text.contains("header")
    };
    for name in ["privatenet.genesis", "mainnet.genesis"] {
        for (what, copy) in bad_copies(&fixture(name)) {
            let error = Genesis::read(&copy, None).expect_err(&what);
            assert!(placed(&error), "{name}, {what}: {error}");
        }
    }
    let trusted = import_trusted(4, &empty()).hash;
    for version in VERSIONS {
        for (what, copy) in bad_copies(&file(version)) {
            let store = empty();
            let error = read(&copy, Some(trusted), &store).expect_err(&what);
            let known = matches!(error, SnapshotError::OtherBlock { .. } | SnapshotError::State(_));
            assert!(known || placed(&error), "version {version}, {what}: {error}");
            let opened = Ledger::builder(ChainSpec::privatenet()).store(store).reopen();
            assert!(matches!(opened, Err(OpenError::Empty)), "version {version}, {what}");
            let inspected = snapshot::inspect(copy.as_slice(), Some(&genesis()), Some(trusted), &empty());
            assert!(inspected.is_err(), "version {version}, {what}");
        }
    }
}
