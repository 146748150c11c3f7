//! A large state leaves as a snapshot and comes back the same. `THETA_ACCOUNTS` says how large.

use std::{
    fs::File,
    io::{BufReader, BufWriter, Read},
    path::Path,
    sync::Arc,
};

use theta_core::{
    amount::{Coins, TFuelWei, ThetaWei},
    block::{Block, CommitCertificate, Header},
    context::Finality,
    hash::{Address, Hash, keccak},
    spec::ChainSpec,
    store::FjallStore,
    vote::{Vote, VoteSet},
};
use theta_ledger::{
    follow::Follower,
    genesis::{Genesis, GenesisBuilder},
    ledger::{At, Ledger, LedgerReader},
    snapshot,
};

use super::ledger::{key, send};

/// Accounts unless the environment says otherwise.
const ACCOUNTS: u64 = 20_000;
/// The snapshot's block.
const HEIGHT: u64 = 2;

fn genesis(spec: &ChainSpec, accounts: u64) -> Genesis {
    let coins = |wei| Coins { theta: ThetaWei::wei(wei), tfuel: TFuelWei::wei(wei * 5) };
    let mut builder = GenesisBuilder::new(spec, 1_700_000_000)
        .account(key(1).address(), Coins::tfuel(TFuelWei::whole(1000)))
        .validator(key(9).address(), key(9).address(), ThetaWei::whole(5_000_000));
    for index in 0..accounts {
        let address = Address::from_slice(&keccak(index.to_be_bytes())[..20]);
        builder = builder.account(address, coins(index + 1));
    }
    builder.build()
}

fn votes(block: &Header) -> VoteSet {
    let (hash, voter) = (block.hash(), key(9).address());
    let mut vote = Vote::unsigned(hash, block.height, block.epoch, voter);
    vote.signature = key(9).sign_digest(&vote.digest());
    VoteSet::new([vote])
}

/// The next block, with the validator's vote for its parent.
fn next(ledger: &mut Ledger) -> Arc<Block> {
    let reader = ledger.reader();
    let (_, mut context) = reader.next_block(At::Settled).unwrap();
    context.proposer = key(9).address();
    let candidates = [Arc::new(send(&key(1), context.height(), 1))];
    let (body, _) = ledger.build_block(&context, &candidates, &key(9)).unwrap();
    assert_eq!(body.transactions.len(), 2);
    let parent = context.parent.clone();
    let mut block = context.block(reader.spec().rules(context.height()).header, body);
    let votes = if parent.height == 0 { VoteSet::default() } else { votes(&parent) };
    block.header.certificate = CommitCertificate { votes: votes.into(), block: context.parent_hash };
    block.header.sign(&key(9)).unwrap();
    let (hash, block) = (block.header.hash(), Arc::new(block));
    ledger.apply_block(&context, hash, block.clone()).unwrap();
    ledger.reached(Finality::Settled, &hash).unwrap();
    block
}

fn export(reader: &LedgerReader, version: u64, path: &Path) -> Hash {
    let mut out = BufWriter::new(File::create(path).unwrap());
    snapshot::export(reader, HEIGHT, version, &mut out).unwrap().hash
}

/// Entries of the snapshot's state, and a hash over all of them.
fn contents(reader: &LedgerReader) -> (u64, Hash) {
    let (mut entries, mut hash) = (0, Hash::ZERO);
    let state = reader.state(At::Height(HEIGHT)).unwrap();
    let visited = state.visit(&[], &mut |key, value| {
        entries += 1;
        hash = keccak([hash.as_slice(), key, value].concat());
        true
    });
    visited.unwrap();
    (entries, hash)
}

/// A hash over a file of any size.
fn digest(path: &Path) -> Hash {
    let (mut file, mut hash) = (File::open(path).unwrap(), Hash::ZERO);
    loop {
        let mut chunk = hash.to_vec();
        if file.by_ref().take(1 << 20).read_to_end(&mut chunk).unwrap() == 0 {
            return hash;
        }
        hash = keccak(chunk);
    }
}

#[test]
fn a_state_of_many_accounts_comes_back_the_same() {
    let accounts = std::env::var("THETA_ACCOUNTS").map_or(ACCOUNTS, |number| number.parse().unwrap());
    let spec = ChainSpec::privatenet();
    let genesis = genesis(&spec, accounts);
    let mut ledger = Ledger::builder(spec.clone()).open(&genesis).unwrap();
    let blocks: Vec<_> = (0..4).map(|_| next(&mut ledger)).collect();
    let reader = ledger.reader();
    let before = contents(&reader);
    assert!(before.0 > accounts);
    for version in 2..=4 {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (folder.path().join("first"), folder.path().join("second"));
        let hash = export(&reader, version, &first);
        let store: Arc<dyn theta_core::store::Store> =
            Arc::new(FjallStore::open(&folder.path().join("store")).unwrap());
        let file = BufReader::new(File::open(&first).unwrap());
        let done = snapshot::import(file, &genesis, (version == 4).then_some(hash), &store).unwrap();
        assert_eq!((done.hash, done.header.height), (hash, HEIGHT));
        let ledger = Ledger::builder(spec.clone()).store(store).open(&genesis).unwrap();
        let again = ledger.reader();
        assert_eq!(contents(&again), before);
        // The chain goes on there, and the same snapshot leaves it.
        let mut follower = Follower::new(ledger);
        blocks[2..].iter().for_each(|block| drop(follower.apply(block.clone()).unwrap()));
        export(&again, version, &second);
        assert_eq!(digest(&first), digest(&second), "version {version}");
    }
}
