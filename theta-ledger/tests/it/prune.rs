//! Old states go away; blocks, receipts and what the next blocks need stay.

use std::sync::Arc;

use theta_core::{
    amount::TFuelWei,
    context::Finality,
    hash::{Address, Hash},
    spec::ChainSpec,
    store::{MemStore, Store, Table},
};
use theta_ledger::{
    chain_file::ChainFile,
    error::OpenError,
    follow::Follower,
    ledger::{At, Ledger, LedgerReader},
    state::{Keep, StateError},
};

use super::{
    fixture,
    ledger::{extend, genesis, key, send},
    snapshot,
};

const KEPT: u64 = Keep::LEAST;

fn nodes(store: &MemStore) -> usize {
    store.scan(Table::Nodes, &[], None, usize::MAX).unwrap().len()
}

fn tfuel(reader: &LedgerReader, height: u64, address: Address) -> Result<TFuelWei, StateError> {
    let mut state = reader.state(At::Height(height))?;
    Ok(state.account(address)?.map_or(TFuelWei::ZERO, |account| account.balance.tfuel))
}

#[test]
fn old_states_go_and_all_else_stays() {
    let spec = ChainSpec::privatenet();
    let genesis = genesis(&spec);
    let target = Address::repeat_byte(0xaa);
    let open = |store: &Arc<MemStore>, keep| {
        Ledger::builder(spec.clone()).store(store.clone()).keep(keep).open(&genesis).unwrap()
    };
    let (pruned, archive) = (Arc::new(MemStore::default()), Arc::new(MemStore::default()));
    let mut ledger = open(&pruned, Keep::Blocks(KEPT));
    let mut whole = open(&archive, Keep::All);
    let newest = KEPT + 60;
    let (mut parent, mut most) = (genesis.hash(), 0);
    let mut sent = Vec::new();
    for height in 1..=newest {
        let raw = Arc::new(send(&key(1), height, 1));
        sent.push(raw.hash);
        let (hash, block) = extend(&mut ledger, parent, std::slice::from_ref(&raw));
        if height % 7 == 0 {
            // Another branch, whose nodes are dropped; it shares some with the one that settles.
            extend(&mut ledger, parent, &[raw, Arc::new(send(&key(2), 1, 1))]);
        }
        assert_eq!(whole.reader().spec().chain, block.header.chain);
        let (_, mut context) = whole.reader().next_block(At::Block(parent)).unwrap();
        context.proposer = block.header.proposer;
        whole.apply_block(&context, hash, block).unwrap();
        // Sometimes several settle at once.
        if height % 3 != 0 || height == newest {
            ledger.reached(Finality::Settled, &hash).unwrap();
        }
        whole.reached(Finality::Settled, &hash).unwrap();
        parent = hash;
        if height == KEPT {
            most = nodes(&pruned);
        }
    }
    let check = |reader: &LedgerReader| {
        let oldest = newest - KEPT;
        assert_eq!(reader.oldest_state(), oldest);
        for height in 1..=newest {
            assert!(reader.block(At::Height(height)).unwrap().is_some());
            assert!(reader.transaction(&sent[height as usize - 1]).unwrap().unwrap().settled);
            match tfuel(reader, height, target) {
                Ok(found) => assert!(height >= oldest && found == TFuelWei::whole(height)),
                Err(StateError::Absent { height: named, oldest: first }) => {
                    assert!(height < oldest && (named, first) == (height, oldest));
                }
                Err(error) => panic!("{height}: {error}"),
            }
        }
        let error = tfuel(reader, 3, target).expect_err("gone").to_string();
        assert_eq!(error, format!("state at height 3 is not here; the oldest kept one is {oldest}"));
    };
    check(&ledger.reader());
    let now = nodes(&pruned);
    assert!(now <= most + 4 && nodes(&archive) > now + 60, "{most} {now} {}", nodes(&archive));
    drop(ledger);
    check(&open(&pruned, Keep::Blocks(KEPT)).reader());
    assert_eq!(nodes(&pruned), now);
    // What kept all goes down to the same nodes, and what is gone stays gone.
    drop(whole);
    check(&open(&archive, Keep::Blocks(KEPT)).reader());
    assert_eq!(nodes(&archive), now);
    check(&open(&archive, Keep::All).reader());
    let refused = Ledger::builder(spec.clone()).store(pruned).keep(Keep::Blocks(KEPT - 1)).open(&genesis);
    assert!(matches!(refused, Err(OpenError::KeepsTooFew(few)) if few == KEPT - 1));
}

#[test]
fn a_chain_goes_on_from_a_snapshot_with_pruning() {
    let chain = fixture("privatenet-440-452.chain");
    for version in snapshot::VERSIONS {
        let store: Arc<MemStore> = Arc::new(MemStore::default());
        let dynamic: Arc<dyn Store> = store.clone();
        let imported = snapshot::import_trusted(version, &dynamic);
        let before = nodes(&store);
        let ledger = Ledger::builder(ChainSpec::privatenet()).store(dynamic).keep(Keep::Blocks(KEPT));
        let ledger = ledger.open(&snapshot::genesis()).unwrap();
        let reader = ledger.reader();
        // The state of the checkpoint is needed for the next rewards.
        assert_eq!(reader.oldest_state(), 401);
        assert!(nodes(&store) <= before);
        for height in [401, 449, 450] {
            let mut state = reader.state(At::Height(height)).unwrap();
            assert!(state.validators().unwrap().is_some(), "version {version}, height {height}");
            let mut entries = 0;
            state
                .visit(&[], &mut |_, _| {
                    entries += 1;
                    true
                })
                .unwrap();
            assert!(entries > 10);
        }
        // Between them are headers; a state is there only where it is one of those three.
        let root = |height| reader.block(At::Height(height)).unwrap().unwrap().block.header.state_root;
        for height in 402..449 {
            match reader.state(At::Height(height)) {
                Err(StateError::Absent { height: named, oldest: 401 }) => assert_eq!(named, height),
                state => assert!(state.is_ok() && [401, 449, 450].map(root).contains(&root(height))),
            }
        }
        let mut follower = Follower::new(ledger);
        let blocks = ChainFile::open(std::io::Cursor::new(&chain)).unwrap().map(Result::unwrap);
        // The block above this one runs a contract.
        for block in blocks.filter(|block| block.block.header.height == imported.header.height + 1) {
            let hash: Hash = block.hash;
            follower.apply(Arc::new(block.block)).unwrap();
            assert_eq!(follower.newest().hash, hash);
        }
        assert_eq!(follower.newest().header.height, 451);
        assert!(reader.state(At::Height(401)).is_ok());
    }
}
