//! Snapshots and chain files of the recorded private network, written from a ledger that carried its blocks out: the
//! bytes are the reference's.

use std::{
    io::{Cursor, Read},
    sync::Arc,
};

use flate2::read::GzDecoder;
use serde_json::Value;
use theta_core::{
    block::Block,
    codec::rlp::Decode,
    spec::{ChainSpec, Fork},
    store::MemStore,
};
use theta_evm::Evm;
use theta_ledger::{
    chain_file::{self, ChainBlock, ChainFile},
    error::SnapshotError,
    follow::{FollowError, Follower},
    genesis::Genesis,
    ledger::{At, Ledger, LedgerReader},
    snapshot,
};

use super::fixture;

fn unzipped(name: &str) -> Vec<u8> {
    let mut file = Vec::new();
    GzDecoder::new(fixture(name).as_slice()).read_to_end(&mut file).unwrap();
    file
}

fn genesis() -> Genesis {
    Genesis::read(&fixture("privatenet.genesis"), None).unwrap()
}

/// The network's forks are all at height 2.
fn spec() -> ChainSpec {
    let forks = Fork::MAINNET.iter().map(|(fork, _)| (*fork, 2));
    ChainSpec::new("privatenet", forks)
}

fn blocks() -> Vec<Block> {
    let recording: Value = serde_json::from_slice(&unzipped("blocks_privatenet.json.gz")).unwrap();
    let block = |line: &Value| {
        let bytes = hex::decode(line["block"].as_str().unwrap()).unwrap();
        Block::from_rlp(&bytes, bytes.len()).unwrap()
    };
    recording["blocks"].as_array().unwrap().iter().map(block).collect()
}

fn follower() -> Follower {
    Follower::new(Ledger::builder(spec()).contracts(Arc::new(Evm)).open(&genesis()).unwrap())
}

fn carried_out(blocks: Vec<Block>) -> LedgerReader {
    let mut follower = follower();
    for block in blocks {
        follower.apply(Arc::new(block)).unwrap();
    }
    follower.reader().clone()
}

#[test]
fn what_is_written_is_what_the_reference_wrote() {
    let reader = carried_out(blocks());
    for version in 2..=4 {
        let mut file = Vec::new();
        let written = snapshot::export(&reader, 450, version, &mut file).unwrap();
        let expected = unzipped(&format!("privatenet-450-v{version}.snapshot.gz"));
        let differs = file.iter().zip(&expected).position(|(a, b)| a != b);
        assert_eq!((differs, file.len()), (None, expected.len()), "version {version}");
        let read = snapshot::import(
            file.as_slice(),
            &genesis(),
            Some(written.hash),
            &(Arc::new(MemStore::default()) as Arc<dyn theta_core::store::Store>),
        );
        assert_eq!(read.unwrap(), written);
    }
    assert!(matches!(snapshot::export(&reader, 450, 1, &mut Vec::new()), Err(SnapshotError::Version(1))));
    assert!(matches!(snapshot::export(&reader, 469, 2, &mut Vec::new()), Err(SnapshotError::NotHere(471))));
    let mut file = Vec::new();
    assert_eq!(chain_file::export(&reader, 440, 452, &mut file).unwrap(), 13);
    let expected = fixture("privatenet-440-452.chain");
    assert_eq!(file.iter().zip(&expected).position(|(a, b)| a != b), None);
    assert_eq!(file.len(), expected.len());
}

#[test]
fn a_chain_file_goes_on_from_a_snapshot() {
    let store: Arc<dyn theta_core::store::Store> = Arc::new(MemStore::default());
    let file = unzipped("privatenet-450-v3.snapshot.gz");
    snapshot::import(file.as_slice(), &genesis(), None, &store).unwrap();
    let ledger = Ledger::builder(spec()).contracts(Arc::new(Evm)).store(store).open(&genesis()).unwrap();
    let mut follower = Follower::new(ledger);
    let chain = ChainFile::open(Cursor::new(fixture("privatenet-440-452.chain"))).unwrap();
    assert_eq!(chain.len(), 13);
    let mut carried_out = Vec::new();
    for (height, block) in (440..).zip(chain) {
        let block = block.unwrap();
        assert_eq!(block.block.header.height, height);
        if height > 450 {
            let post = follower.apply(Arc::new(block.block.clone())).unwrap();
            assert_eq!(post.root, block.block.header.state_root);
            carried_out.push(height);
        }
    }
    assert_eq!(carried_out, [451, 452]);
}

#[test]
fn a_cut_or_flipped_chain_file_is_refused() {
    let whole = fixture("privatenet-440-452.chain");
    let reader = carried_out(blocks().into_iter().take(439).collect());
    let read = |file: &[u8]| -> Result<usize, String> {
        let chain = ChainFile::open(Cursor::new(file.to_vec())).map_err(|error| error.to_string())?;
        let mut count = 0;
        for block in chain {
            let block = block.map_err(|error| error.to_string())?;
            let (header, transactions) = (&block.block.header, &block.block.transactions);
            let lowest = count == 0;
            if lowest && header.parent != reader.settled().hash
                || header.verify().is_err()
                || theta_core::block::transactions_root(transactions) != header.transactions_root
            {
                return Err("the block is not its header's".to_owned());
            }
            count += 1;
        }
        Ok(count)
    };
    assert_eq!(read(&whole), Ok(13));
    for at in (1..whole.len()).step_by(97) {
        // A file that is cut between two records is a shorter chain, whose lowest block does not fit.
        let refused = read(&whole[..at]);
        assert!(refused.is_err(), "cut at {at} gave {refused:?} blocks");
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        let same = ChainFile::open(Cursor::new(flipped.clone())).ok().is_some_and(|chain| {
            // What says how the writer's node stood is no part of the chain.
            let bare = |block: ChainBlock| (block.block, block.votes);
            let read: Result<Vec<_>, _> = chain.map(|block| block.map(bare)).collect();
            let all = ChainFile::open(Cursor::new(whole.clone())).unwrap().map(|block| bare(block.unwrap()));
            read.is_ok_and(|read| read.into_iter().eq(all))
        });
        assert!(same || read(&flipped).is_err(), "flipped at {at}");
    }
}

#[test]
fn a_block_that_does_not_fit_is_refused_and_changes_nothing() {
    let blocks = blocks();
    let mut follower = follower();
    for block in &blocks[..3] {
        follower.apply(Arc::new(block.clone())).unwrap();
    }
    let head = follower.reader().settled().hash;
    let mut apply = |change: &dyn Fn(&mut Block)| {
        let mut block = blocks[3].clone();
        change(&mut block);
        let refused = follower.apply(Arc::new(block)).expect_err("it was changed");
        assert_eq!(follower.reader().settled().hash, head);
        refused
    };
    assert!(matches!(apply(&|block| *block = blocks[4].clone()), FollowError::Parent { height: 5, .. }));
    assert!(matches!(apply(&|block| block.header.height += 1), FollowError::Height { found: 5, parent: 3 }));
    assert!(matches!(apply(&|block| block.header.chain.push('x')), FollowError::Chain { height: 4, .. }));
    let fields = theta_core::block::Extension::None;
    assert!(matches!(apply(&|block| block.header.extension = fields.clone()), FollowError::Fields(4)));
    assert!(matches!(apply(&|block| block.header.epoch += 1), FollowError::Signature { height: 4, .. }));
    let root = apply(&|block| drop(block.transactions.pop()));
    assert!(matches!(root, FollowError::Block { height: 4, .. }));
    follower.apply(Arc::new(blocks[3].clone())).unwrap();
    assert_eq!(follower.reader().block(At::Settled).unwrap().unwrap().block.header.height, 4);
}
